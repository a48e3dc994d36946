"""Trains the CRT on cached features by backpropagation through time.

Videos are strung together on lanes: lane after lane of segments, the memory carried from each to the next and started anew with
each video. Gradients run through `unroll` segments; beyond them the memory goes on without. Each epoch cuts untrimmed videos
at another clip, so that an activity meets the segments' borders everywhere. Resumes from RUN/crt-WRITER.pt, on a CPU to the very numbers.
Shapes: B lanes, S segments, L clips in a segment, F feature width, M memory width, C labels.
"""

import hashlib
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from models.config import ClassifierConfig
from models.heads import VideoClassifier, masked_mean, probabilities
from pipelines import parallel
from pipelines.config import BadConfig, Config, CrtTraining, begun_with, same_run
from pipelines.datasets import LabelledVideo, label_at, labels_at
from pipelines.device import pick
from pipelines.features import Seen

log = logging.getLogger(__name__)
IGNORE = -100


@dataclass(frozen=True, slots=True)
class Example:
    """One video as features and what each clip is."""

    name: str
    features: np.ndarray
    """float32[N, F]."""
    targets: np.ndarray
    """int64[N]: label of each clip's middle."""
    trimmed: bool
    looks: tuple[np.ndarray, ...] = ()
    """float32[N, F] each: features of the same video seen by other cameras in another light."""
    truth_NC: np.ndarray | None = None
    """bool[N, C]: all labels that are true of each clip's middle, where several are learned."""


def sequences(
    videos: Iterable[LabelledVideo], seen: Mapping[str, Seen], labels: list[str], *, several: bool = False
) -> list[Example]:
    """The videos' features, with the label of each clip's middle, or with several."""
    made = []
    for video in videos:
        one = seen[video.name]
        middles = one.times_N2.mean(1).tolist()
        targets = np.array([labels.index(label_at(video.spans, time)) for time in middles])
        example = Example(video.name, one.features_NF.astype(np.float32), targets, video.label is not None)
        if several:
            true_of = [labels_at(video.spans, time) for time in middles]
            example = replace(example, truth_NC=np.array([[label in true for label in labels] for true in true_of]))
        made.append(example)
    return made


@dataclass(slots=True)
class Chunk:
    """`unroll` segments of every lane."""

    features_SBLF: Tensor
    mask_SBL: Tensor
    targets_SBL: Tensor
    fresh_SB: Tensor
    """True where a lane's segment is the first of its video: it starts from the initial memory."""
    others_SBL: Tensor
    """Labels of what is mixed in; without mixup the same as targets_SBL."""
    share_SB: Tensor
    """The targets' share of the mixture, 1 without mixup."""
    truth_SBLC: Tensor | None = None
    """Where several labels are learned, how much each is true, float 0 to 1; what is mixed in is in it."""

    def on(self, device: str, lanes: slice) -> "Chunk":
        """Some of its lanes, on a device."""
        own = (getattr(self, name) for name in self.__slots__)
        return Chunk(*(None if one is None else one[:, lanes].to(device) for one in own))  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Piece:
    """A segment of a lane: clips start..end-1 of a video."""

    video: int
    start: int
    end: int
    first: bool
    """Of its video."""


def deal(
    lengths: Sequence[int], order: Iterable[int], options: CrtTraining, rng: np.random.Generator
) -> list[list[Piece]]:
    """Videos of so many clips, in this order, each on the lane that is free first; long ones cut at a random clip."""
    L = options.segment
    lanes: list[list[Piece]] = [[] for _ in range(options.lanes)]
    for video in order:
        begin = int(rng.integers(L)) if options.shift and lengths[video] > 2 * L else 0
        lane = min(lanes, key=len)
        for at in range(begin, lengths[video], L):
            lane.append(Piece(video, at, min(at + L, lengths[video]), at == begin))
    return lanes


def drawn(data: Sequence[Example], options: CrtTraining, rng: np.random.Generator) -> list[int]:
    """An epoch's videos in their order: each once; or, balanced, as many trimmed ones as there are, all classes equally often."""
    order = [int(index) for index in rng.permutation(len(data))]
    trimmed = [index for index in order if data[index].trimmed]
    if options.sampling == "once" or not trimmed:
        return order
    by_class: dict[int, list[int]] = {}
    for index in trimmed:
        by_class.setdefault(_class_of(data[index]), []).append(index)
    classes = [by_class[label] for label in sorted(by_class)]
    of = [classes[k] for k in rng.integers(len(classes), size=len(trimmed))]
    again = iter([some[int(rng.integers(len(some)))] for some in of])
    return [next(again) if data[index].trimmed else index for index in order]


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """What an epoch shows of one video: one of its looks, and perhaps of another one's mixed into it (mixup, arXiv 1710.09412)."""

    one: np.ndarray
    other: np.ndarray | None
    targets: np.ndarray
    """int64[N]: as many as the shorter of the two has clips."""
    others: np.ndarray
    """Labels of what is mixed in; without mixup the same as targets."""
    share: float
    """The targets' share of the mixture."""
    truth_NC: np.ndarray | None = None
    """float64[N, C], where several labels are learned: how much each is true of the mixture."""

    def features(self, part: slice) -> np.ndarray:
        """float32[n, F] of some clips."""
        if self.other is None:
            return self.one[part]
        return np.float32(self.share) * self.one[part] + np.float32(1 - self.share) * self.other[part]


def mixed(data: Sequence[Example], order: list[int], options: CrtTraining, rng: np.random.Generator) -> list[Shown]:
    """The videos with what is mixed into each: into trimmed ones another trimmed one, cut to the shorter. Computes no feature yet."""
    trimmed = [index for index in order if data[index].trimmed]
    shown = []
    for index in order:
        one = data[index]
        features = _a_look(one, rng)
        if options.mixup == 0 or not one.trimmed:
            truth_NC = None if one.truth_NC is None else one.truth_NC.astype(np.float64)
            shown.append(Shown(features, None, one.targets, one.targets, 1.0, truth_NC))
            continue
        other, share = data[trimmed[int(rng.integers(len(trimmed)))]], float(rng.beta(options.mixup, options.mixup))
        n, truth_NC = min(len(features), len(other.features)), None
        if one.truth_NC is not None and other.truth_NC is not None:
            truth_NC = np.where(one.truth_NC[:n], share, 0.0) + np.where(other.truth_NC[:n], 1 - share, 0.0)
        shown.append(Shown(features, _a_look(other, rng), one.targets[:n], other.targets[:n], share, truth_NC))
    return shown


def _a_look(one: Example, rng: np.random.Generator) -> np.ndarray:
    return (one.features, *one.looks)[int(rng.integers(1 + len(one.looks)))]


def _dealt(
    data: Sequence[Example], options: CrtTraining, rng: np.random.Generator
) -> tuple[list[Shown], list[list[Piece]], int]:
    """One epoch in random order: what is shown, on which lanes, and how many segments the longest of them has."""
    shown = mixed(data, drawn(data, options, rng), options, rng)
    lanes = deal([len(one.targets) for one in shown], range(len(shown)), options, rng)
    return shown, lanes, max(len(lane) for lane in lanes)


def chunks(data: Sequence[Example], options: CrtTraining, rng: np.random.Generator) -> Iterator[Chunk]:
    """One epoch, in random order."""
    L, B = options.segment, options.lanes
    shown, lanes, length = _dealt(data, options, rng)
    width, first = shown[0].one.shape[1], shown[0].truth_NC
    for start in range(0, length, options.unroll):
        S = min(options.unroll, length - start)
        inputs = np.zeros((S, B, L, width), np.float32)
        mask, fresh = np.zeros((S, B, L), bool), np.zeros((S, B), bool)
        targets, others = np.full((S, B, L), IGNORE), np.full((S, B, L), IGNORE)
        share = np.ones((S, B), np.float32)
        truth = None if first is None else np.zeros((S, B, L, first.shape[1]), np.float32)
        for b, lane in enumerate(lanes):
            for s, piece in enumerate(lane[start : start + S]):
                one, n, part = shown[piece.video], piece.end - piece.start, slice(piece.start, piece.end)
                inputs[s, b, :n], mask[s, b, :n], fresh[s, b] = one.features(part), True, piece.first
                targets[s, b, :n], others[s, b, :n], share[s, b] = one.targets[part], one.others[part], one.share
                if truth is not None and one.truth_NC is not None:
                    truth[s, b, :n] = one.truth_NC[part]
        chunk = Chunk(*(torch.from_numpy(a) for a in (inputs, mask, targets, fresh, others, share)))
        yield chunk if truth is None else replace(chunk, truth_SBLC=torch.from_numpy(truth))


def steps_of(data: Sequence[Example], options: CrtTraining, seed: int, epochs: int) -> int:
    """Chunks of all epochs: they differ by a few, since videos fall on other lanes and are cut elsewhere."""
    lengths = (_dealt(data, options, np.random.default_rng([seed, epoch]))[2] for epoch in range(epochs))
    return sum(-(-length // options.unroll) for length in lengths)


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


def class_weights(data: Sequence[Example], classes: int, power: float, *, balanced: bool = False) -> Tensor:
    """Weights of the loss, rarity to this power: frame-wise accuracy counts frequent labels, mean class accuracy rare ones.

    A class without examples weighs nothing: label smoothing must not teach what there is no reason to say. Where several labels are learned
    it weighs what the mean one does: nothing else teaches that it is not there. balanced: as `drawn` draws
    trimmed videos then, by which rarity is made up for in part already.
    """
    counts = np.zeros(classes)
    of_class = np.bincount([_class_of(one) for one in data if one.trimmed], minlength=classes)
    for one in data:
        # What is drawn more often counts as if there were more of it.
        often = of_class.sum() / (of_class > 0).sum() / of_class[_class_of(one)] if balanced and one.trimmed else 1.0
        of_one = np.bincount(one.targets, minlength=classes) if one.truth_NC is None else one.truth_NC.sum(0)
        counts += of_one * often
    there = counts > 0
    weights = np.zeros(classes)
    weights[there] = (counts.sum() / counts[there]) ** power
    if data[0].truth_NC is not None:
        weights[~there] = weights[there].mean()
    return torch.tensor(weights / weights[there].mean(), dtype=torch.float32)


def _class_of(one: Example) -> int:
    """A trimmed video's."""
    return int(np.bincount(one.targets).argmax())


def classifier_for(options: CrtTraining, feature_width: int, classes: int) -> VideoClassifier:
    return VideoClassifier(
        ClassifierConfig(
            feature_width=feature_width, classes=classes, crt=options.shape, dropout=options.dropout, several=options.several
        )
    )  # fmt: skip


@torch.inference_mode()
def predict_all(classifier: VideoClassifier, data: Sequence[Example], segment: int) -> list[np.ndarray]:
    """Probabilities float32[S, C] of each video's segments, the memory carried through it; all videos side by side."""
    classifier.eval()
    S = max(-(-len(s.features) // segment) for s in data)
    B, width = len(data), data[0].features.shape[1]
    device = classifier.classify.weight.device
    features = torch.zeros(S, B, segment, width)
    mask = torch.zeros(S, B, segment, dtype=torch.bool)
    for b, sequence in enumerate(data):
        for s, at in enumerate(range(0, len(sequence.features), segment)):
            part = torch.from_numpy(sequence.features[at : at + segment])
            features[s, b, : len(part)], mask[s, b, : len(part)] = part, True
    features, mask = features.to(device), mask.to(device)
    memory_BM = classifier.initial_memory(B)
    scores = []
    for s in range(S):
        result = classifier(features[s], memory_BM, mask[s])
        memory_BM = result.memory_BM
        scores.append(probabilities(result.logits_BC, several=classifier.config.several))
    stacked = torch.stack(scores, 1).cpu().numpy()
    return [stacked[b, : -(-len(sequence.features) // segment)] for b, sequence in enumerate(data)]


class Unrolled(nn.Module):
    """A classifier over a chunk: one call for `unroll` segments, and so one gradient, which processes that train together can average."""

    def __init__(self, classifier: VideoClassifier, weights_C: Tensor, label_smoothing: float) -> None:
        super().__init__()
        self.classifier = classifier
        self.weights_C: Tensor
        self.register_buffer("weights_C", weights_C, persistent=False)
        self.label_smoothing = label_smoothing

    def forward(self, chunk: Chunk, memory_BM: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, and the memories after the chunk.

        total: float[S, 2], what the losses of segments and of clips are divided by: the weights of all lanes' targets, see `totals`.
        """
        loss = torch.zeros((), device=memory_BM.device)
        initial_BM = self.classifier.initial_memory(len(memory_BM))
        for s in range(len(chunk.features_SBLF)):
            memory_BM = torch.where(chunk.fresh_SB[s][:, None], initial_BM, memory_BM)
            out = self.classifier(chunk.features_SBLF[s], memory_BM, chunk.mask_SBL[s])
            memory_BM = out.memory_BM.float()
            if chunk.truth_SBLC is not None:
                truth_BLC, mask_BL = chunk.truth_SBLC[s], chunk.mask_SBL[s]
                there_B, whole_BC = mask_BL.any(1), masked_mean(truth_BLC, mask_BL)
                loss = loss + (self._binary(out.logits_BC, whole_BC) * there_B).sum() / total[s, 0]
                loss = loss + (self._binary(out.position_logits_BLC, truth_BLC) * mask_BL).sum() / total[s, 1]
                continue
            for targets_BL, share_B in (
                (chunk.targets_SBL[s], chunk.share_SB[s]),
                (chunk.others_SBL[s], 1 - chunk.share_SB[s]),
            ):
                if not share_B.any():
                    continue
                whole_B = segment_targets(targets_BL, len(self.weights_C))
                loss = (
                    loss + (self._entropy(out.logits_BC, whole_B, self.label_smoothing) * share_B).sum() / total[s, 0]
                )
                by_clip_BL = self._entropy(out.position_logits_BLC.flatten(0, 1), targets_BL.flatten(), 0.0).view(
                    targets_BL.shape
                )
                loss = loss + (by_clip_BL * share_B[:, None]).sum() / total[s, 1]
        return loss / len(chunk.features_SBLF), memory_BM

    def _binary(self, logits_XC: Tensor, truth_XC: Tensor) -> Tensor:
        """The sum over labels, each judged on its own."""
        loss_XC = F.binary_cross_entropy_with_logits(logits_XC.float(), truth_XC, self.weights_C, reduction="none")
        return loss_XC.sum(-1)

    def _entropy(self, logits_NC: Tensor, targets_N: Tensor, smoothing: float) -> Tensor:
        return F.cross_entropy(
            logits_NC.float(),
            targets_N,
            self.weights_C,
            ignore_index=IGNORE,
            reduction="none",
            label_smoothing=smoothing,
        )


def totals(chunk: Chunk, weights_C: Tensor) -> Tensor:
    """Of each segment of a whole chunk, the weights of the segments' and of the clips' targets: float[S, 2], never zero.

    Where several labels are learned, how many lanes and clips there are: the weights are in the labels' losses.
    """
    if chunk.truth_SBLC is not None:
        there_SBL = chunk.mask_SBL.float()
        return torch.stack([there_SBL.amax(2).sum(1), there_SBL.sum((1, 2))], 1).clamp(min=1e-6)

    def weight(targets_BL: Tensor, share_B: Tensor) -> Tensor:
        weights_BL = torch.where(targets_BL == IGNORE, 0, weights_C[targets_BL.clamp(min=0)])
        return (weights_BL.sum(1) * share_B).sum()

    found_S2 = torch.zeros(len(chunk.share_SB), 2)
    for s, share_B in enumerate(chunk.share_SB):
        for targets_BL, part_B in ((chunk.targets_SBL[s], share_B), (chunk.others_SBL[s], 1 - share_B)):
            if not part_B.any():
                continue
            found_S2[s, 0] += weight(segment_targets(targets_BL, len(weights_C))[:, None], part_B)
            found_S2[s, 1] += weight(targets_BL, part_B)
    return found_S2.clamp(min=1e-6)


def train_crt(
    config: Config, data: dict[str, list[Example]], labels: list[str], *, tag: str | None = None
) -> VideoClassifier:
    """Trains, or goes on where an earlier run stopped; returns the averaged classifier, on the CPU.

    Of several processes (parallel.py) each has its share of the lanes. Raises BadConfig where the lanes cannot be shared evenly.
    """
    o, device, world = config.crt, pick(config.device), parallel.world()
    if o.lanes % world:
        raise BadConfig(f"crt.lanes has to be a multiple of the {world} processes, got {o.lanes}")
    tag = tag or o.writer
    state_file = config.run / f"crt-{tag}.pt"
    torch.manual_seed(config.seed)
    width = data["train"][0].features.shape[1]
    classifier = classifier_for(o, width, len(labels)).to(device)
    average = classifier_for(o, width, len(labels)).to(device).eval().requires_grad_(False)
    average.load_state_dict(classifier.state_dict())
    weights_C = class_weights(data["train"], len(labels), o.balance, balanced=o.sampling == "balanced")
    unrolled = parallel.parallel(Unrolled(classifier, weights_C.to(device), o.label_smoothing))
    steps = steps_of(data["train"], o, config.seed, o.epochs)
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=o.learning_rate, weight_decay=o.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, o.learning_rate, total_steps=steps, pct_start=0.1)
    scale = torch.from_numpy(np.concatenate([s.features for s in data["train"]]).std(0)).to(device) * o.feature_noise
    own = slice(parallel.rank(), None, world)
    begun = begun_with(o, config.seed, labels, digest_of(data["train"] + data["validation"]))
    first = 0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True, map_location=device)
        same_run(begun, state, state_file)
        classifier.load_state_dict(state["classifier"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        first = state["epoch"]
        log.info("%s resumed at epoch %d", tag, first)
    lead = parallel.rank() == 0
    writer = SummaryWriter(str(config.run / "tensorboard" / f"crt-{tag}"), purge_step=first) if lead else None
    bar = tqdm(
        range(first, o.epochs),
        initial=first,
        total=o.epochs,
        desc=f"crt {tag}",
        unit="epoch",
        disable=None if lead else True,
    )
    for epoch in bar:
        classifier.train()
        torch.manual_seed((config.seed * 1_000_003 + epoch) * world + parallel.rank())
        losses: list[float] = []
        memory_BM = classifier.initial_memory(o.lanes // world).detach()
        for whole in epoch_of(data["train"], o, config.seed, epoch):
            chunk = whole.on(device, own)
            chunk.features_SBLF = chunk.features_SBLF + torch.randn_like(chunk.features_SBLF) * scale
            with torch.autocast(device, torch.bfloat16, enabled=o.bf16):
                loss, memory_BM = unrolled(chunk, memory_BM.detach(), totals(whole, weights_C).to(device) / world)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(classifier.parameters(), o.clip_norm)
            optimizer.step()
            # The average starts as the network itself and slows down as it fills: nothing of chance stays in it.
            keep = min(o.ema, (1 + schedule.last_epoch) / (10 + schedule.last_epoch))
            if schedule.last_epoch < steps - 1:
                schedule.step()
            losses.append(loss.item())
            with torch.no_grad():
                for old, new in zip(average.parameters(), classifier.parameters(), strict=True):
                    old.lerp_(new, 1 - keep)
        accuracy = clip_accuracy(average, data["validation"], o.segment)
        bar.set_postfix(loss=f"{np.mean(losses):.3f}", validation=f"{accuracy:.3f}")
        if writer is not None:
            log.info(
                "%s epoch %d: loss %.6f, validation clip-wise accuracy %.3f", tag, epoch + 1, np.mean(losses), accuracy
            )
            writer.add_scalar("loss", float(np.mean(losses)), epoch)
            writer.add_scalar("validation/accuracy", accuracy, epoch)
            part = state_file.with_suffix(".part")
            torch.save(
                {
                    "classifier": classifier.state_dict(), "average": average.state_dict(), "optimizer": optimizer.state_dict(),
                    "schedule": schedule.state_dict(), "epoch": epoch + 1, **begun,
                },
                part,
            )  # fmt: skip
            os.replace(part, state_file)
    if writer is not None:
        writer.close()
    parallel.wait()
    return average.cpu()


def digest_of(examples: Iterable[Example]) -> str:
    """Of all that is learned from: names, labels and features."""
    found = hashlib.sha256()
    for one in examples:
        found.update(f"{one.name} {one.features.shape} {one.trimmed} {len(one.looks)} ".encode())
        truth = () if one.truth_NC is None else (one.truth_NC,)
        for part in (one.targets, one.features, *one.looks, *truth):
            found.update(np.ascontiguousarray(part).data)
    return found.hexdigest()


def epoch_of(data: Sequence[Example], options: CrtTraining, seed: int, epoch: int) -> Iterator[Chunk]:
    """The same for all processes, and whether or not the training was stopped in between."""
    return chunks(data, options, np.random.default_rng([seed, epoch]))


def clip_accuracy(classifier: VideoClassifier, data: Sequence[Example], segment: int) -> float:
    """Share of clips whose segment's best label is theirs, or one of theirs."""
    right = []
    for scores_SC, one in zip(predict_all(classifier, data, segment), data, strict=True):
        best_N = scores_SC.argmax(1).repeat(segment)[: len(one.targets)]
        right.append(best_N == one.targets if one.truth_NC is None else one.truth_NC[np.arange(len(best_N)), best_N])
    return float(np.concatenate(right).mean())
