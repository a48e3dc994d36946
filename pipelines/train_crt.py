"""Trains the CRT on cached features by backpropagation through time.

Videos are strung together on lanes: lane after lane of segments, the memory carried from each to the next and started anew with
each video. Gradients run through `unroll` segments; beyond them the memory goes on without. Each epoch cuts untrimmed videos
at another clip, so that an activity meets the segments' borders everywhere. Resumes from RUN/crt-WRITER.pt.
Shapes: B lanes, S segments, L clips in a segment, F feature width, M memory width, C labels.
"""

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from models.config import ClassifierConfig, CrtConfig
from models.heads import VideoClassifier
from pipelines.config import Config, CrtTraining, same_options
from pipelines.datasets import LabelledVideo, label_at
from pipelines.features import Seen

log = logging.getLogger(__name__)
IGNORE = -100


@dataclass(frozen=True, slots=True)
class Sequence:
    """One video as features and what each clip is."""

    name: str
    features: np.ndarray
    """float32[N, F]."""
    targets: np.ndarray
    """int64[N]: label of each clip's middle."""
    trimmed: bool
    second: np.ndarray | None = None
    """float32[N, F]: features of the same video seen by another camera in another light, if there are any."""


def sequences(videos: Iterable[LabelledVideo], seen: Mapping[str, Seen], labels: list[str]) -> list[Sequence]:
    """The videos' features, with the label of each clip's middle."""
    made = []
    for video in videos:
        one = seen[video.name]
        targets = np.array([labels.index(label_at(video.spans, time)) for time in one.times_N2.mean(1)])
        made.append(Sequence(video.name, one.features_NF.astype(np.float32), targets, video.label is not None))
    return made


@dataclass(slots=True)
class Chunk:
    """`unroll` segments of every lane."""

    features_SBLF: Tensor
    mask_SBL: Tensor
    targets_SBL: Tensor
    fresh_SB: Tensor
    """True where a lane's segment is the first of its video: it starts from the initial memory."""


def chunks(data: list[Sequence], options: CrtTraining, rng: np.random.Generator, *, shift: bool) -> Iterator[Chunk]:
    """One epoch: every video once, in random order, on the lane that is free first."""
    L = options.segment
    segments: list[list[tuple[np.ndarray, np.ndarray, bool]]] = [[] for _ in range(options.lanes)]
    for index in rng.permutation(len(data)):
        sequence = data[index]
        start = int(rng.integers(L)) if shift and len(sequence.features) > 2 * L else 0
        features = sequence.features if sequence.second is None or rng.random() < 0.5 else sequence.second
        lane = min(segments, key=len)
        for at in range(start, len(sequence.features), L):
            lane.append((features[at : at + L], sequence.targets[at : at + L], at == start))
    width = data[0].features.shape[1]
    length = max(len(lane) for lane in segments)
    for start in range(0, length, options.unroll):
        S, B = min(options.unroll, length - start), options.lanes
        inputs = np.zeros((S, B, L, width), np.float32)
        mask = np.zeros((S, B, L), bool)
        targets = np.full((S, B, L), IGNORE)
        fresh = np.zeros((S, B), bool)
        for b, lane in enumerate(segments):
            for s, (x, y, first) in enumerate(lane[start : start + S]):
                inputs[s, b, : len(x)], mask[s, b, : len(x)], targets[s, b, : len(x)], fresh[s, b] = x, True, y, first
        yield Chunk(*(torch.from_numpy(a) for a in (inputs, mask, targets, fresh)))


def segment_targets(targets_BL: Tensor, classes: int) -> Tensor:
    """The most frequent label of each segment, int64[B]; IGNORE for a segment without clips."""
    known = targets_BL != IGNORE
    counts = F.one_hot(targets_BL.clamp(min=0), classes) * known[..., None]
    # Of two equally frequent labels the later one counts: it is what goes on.
    rank = (
        torch.arange(targets_BL.shape[1])[None, :, None]
        * F.one_hot(targets_BL.clamp(min=0), classes)
        * known[..., None]
    )
    best = (counts.sum(1).float() + 0.01 * rank.amax(1)).argmax(1)
    return torch.where(known.any(1), best, torch.full_like(best, IGNORE))


def class_weights(data: list[Sequence], classes: int) -> Tensor:
    """Weights of the loss, by the fourth root of rarity: frame-wise accuracy counts frequent labels, mean class accuracy rare ones."""
    counts = np.bincount(np.concatenate([s.targets for s in data]), minlength=classes).clip(min=1)
    weights = (counts.sum() / counts) ** 0.25
    return torch.tensor(weights / weights.mean(), dtype=torch.float32)


def classifier_for(options: CrtTraining, feature_width: int, classes: int) -> VideoClassifier:
    crt = CrtConfig(
        width=options.width, memory=options.memory, layers=options.layers, heads=options.heads, hidden=options.hidden,
        segment=options.segment, causal=False, reader=options.reader, writer=options.writer, dropout=options.dropout,
    )  # fmt: skip
    return VideoClassifier(
        ClassifierConfig(feature_width=feature_width, classes=classes, crt=crt, dropout=options.dropout)
    )


@torch.inference_mode()
def predict_all(classifier: VideoClassifier, data: list[Sequence], segment: int) -> list[np.ndarray]:
    """Probabilities float32[S, C] of each video's segments, the memory carried through it; all videos side by side."""
    classifier.eval()
    S = max(-(-len(s.features) // segment) for s in data)
    B, width = len(data), data[0].features.shape[1]
    features = torch.zeros(S, B, segment, width)
    mask = torch.zeros(S, B, segment, dtype=torch.bool)
    for b, sequence in enumerate(data):
        for s, at in enumerate(range(0, len(sequence.features), segment)):
            part = torch.from_numpy(sequence.features[at : at + segment])
            features[s, b, : len(part)], mask[s, b, : len(part)] = part, True
    memory_BM = classifier.initial_memory(B)
    scores = []
    for s in range(S):
        result = classifier(features[s], memory_BM, mask[s])
        memory_BM = result.memory_BM
        scores.append(result.logits_BC.softmax(-1))
    stacked = torch.stack(scores, 1).numpy()
    return [stacked[b, : -(-len(sequence.features) // segment)] for b, sequence in enumerate(data)]


def train_crt(
    config: Config, data: dict[str, list[Sequence]], labels: list[str], *, tag: str | None = None
) -> VideoClassifier:
    """Trains, or goes on where an earlier run stopped; returns the averaged classifier."""
    o = config.crt
    tag = tag or o.writer
    state_file = config.run / f"crt-{tag}.pt"
    torch.manual_seed(config.seed)
    width = data["train"][0].features.shape[1]
    classifier = classifier_for(o, width, len(labels))
    average = classifier_for(o, width, len(labels)).eval().requires_grad_(False)
    average.load_state_dict(classifier.state_dict())
    steps = o.epochs * sum(1 for _ in chunks(data["train"], o, np.random.default_rng(0), shift=True))
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=o.learning_rate, weight_decay=o.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, o.learning_rate, total_steps=steps + o.epochs, pct_start=0.1
    )
    scale = torch.from_numpy(np.concatenate([s.features for s in data["train"]]).std(0)) * o.feature_noise
    weights = class_weights(data["train"], len(labels))
    first = 0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        same_options(o, state.get("options"), state_file)
        classifier.load_state_dict(state["classifier"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        first = state["epoch"]
        log.info("%s resumed at epoch %d", tag, first)
    writer = SummaryWriter(str(config.run / "tensorboard" / f"crt-{tag}"))
    bar = tqdm(range(first, o.epochs), initial=first, total=o.epochs, desc=f"crt {tag}", unit="epoch")
    for epoch in bar:
        classifier.train()
        torch.manual_seed(config.seed * 1_000_003 + epoch)
        losses: list[float] = []
        memory_BM = classifier.initial_memory(o.lanes)
        for chunk in chunks(data["train"], o, np.random.default_rng([config.seed, epoch]), shift=True):
            memory_BM = memory_BM.detach()
            noisy_SBLF = chunk.features_SBLF + torch.randn_like(chunk.features_SBLF) * scale
            total = torch.zeros(())
            initial_BM = classifier.initial_memory(o.lanes)
            for s in range(len(noisy_SBLF)):
                memory_BM = torch.where(chunk.fresh_SB[s][:, None], initial_BM, memory_BM)
                out = classifier(noisy_SBLF[s], memory_BM, chunk.mask_SBL[s])
                memory_BM = out.memory_BM
                whole = segment_targets(chunk.targets_SBL[s], len(labels))
                if (whole != IGNORE).any():
                    total = total + F.cross_entropy(
                        out.logits_BC, whole, weights, ignore_index=IGNORE, label_smoothing=o.label_smoothing
                    )
                    total = total + F.cross_entropy(
                        out.position_logits_BLC.flatten(0, 1),
                        chunk.targets_SBL[s].flatten(),
                        weights,
                        ignore_index=IGNORE,
                    )
            loss = total / len(noisy_SBLF)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(classifier.parameters(), o.clip_norm)
            optimizer.step()
            if schedule.last_epoch < schedule.total_steps - 1:
                schedule.step()
            losses.append(loss.item())
            with torch.no_grad():
                for old, new in zip(average.parameters(), classifier.parameters(), strict=True):
                    old.lerp_(new, 0.02)
        scores = predict_all(average, data["validation"], o.segment)
        correct = np.concatenate(
            [
                p.argmax(1).repeat(o.segment)[: len(s.targets)] == s.targets
                for p, s in zip(scores, data["validation"], strict=True)
            ]
        )
        bar.set_postfix(loss=f"{np.mean(losses):.3f}", validation=f"{correct.mean():.3f}")
        log.info(
            "%s epoch %d: loss %.3f, validation clip-wise accuracy %.3f",
            tag,
            epoch + 1,
            np.mean(losses),
            correct.mean(),
        )
        writer.add_scalar("loss", float(np.mean(losses)), epoch)
        writer.add_scalar("validation/accuracy", float(correct.mean()), epoch)
        part = state_file.with_suffix(".part")
        torch.save(
            {
                "classifier": classifier.state_dict(), "average": average.state_dict(), "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(), "epoch": epoch + 1, "options": o.model_dump(mode="json"),
            },
            part,
        )  # fmt: skip
        os.replace(part, state_file)
    writer.close()
    return average
