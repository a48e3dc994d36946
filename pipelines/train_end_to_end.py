"""Trains backbone and CRT together: the gradient of a chunk of segments runs through the memory, the segments and into the pictures.

Begins where backbone and CRT stand, and needs the pictures of a chunk at once: few lanes, few segments. A video's clips are varied as in
train_backbone.py, all alike. Norms keep their running means. Resumes from RUN/end-to-end.pt.
Shapes: B lanes, S segments, L clips in a segment, T frames, H x W pixels, F feature width, M memory width, C labels.
"""

import copy
import hashlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from models.base import Backbone
from models.heads import VideoClassifier
from pipelines import parallel
from pipelines.clips import StoredClips
from pipelines.config import BadConfig, Config, CrtTraining, EndToEnd, begun_with, same_run
from pipelines.device import bfloat16, pick
from pipelines.train_backbone import augment, warm_cosine
from pipelines.train_crt import Chunk, Example, Unrolled, chunks, class_weights, digest_of, steps_of, totals

log = logging.getLogger(__name__)


class Together(nn.Module):
    """A backbone and a classifier over a chunk of pictures."""

    def __init__(self, backbone: Backbone, unrolled: Unrolled) -> None:
        super().__init__()
        self.backbone, self.unrolled = backbone, unrolled

    def forward(self, clips_NTHWC: Tensor, chunk: Chunk, memory_BM: Tensor, total_S2: Tensor) -> tuple[Tensor, Tensor]:
        """clips: those that are present, in the order of chunk.mask_SBL, or one that does not count where none is; the chunk's features are
        not looked at. As Unrolled.
        """
        features_NF = self.backbone(clips_NTHWC).float()
        S, B, L = chunk.mask_SBL.shape
        places_N = chunk.mask_SBL.flatten().nonzero()[:, 0]
        features_XF = features_NF.new_zeros(S * B * L, features_NF.shape[1])
        features_XF = features_XF.index_put((places_N,), features_NF[: len(places_N)])
        seen = replace(chunk, features_SBLF=features_XF.view(S, B, L, -1))
        loss, memory_BM = self.unrolled(seen, memory_BM, total_S2)
        # Processes that train together wait for each other's gradients, also for those of one that has nothing to see.
        return loss + 0 * features_NF[len(places_N) :].sum(), memory_BM

    def train(self, mode: bool = True) -> "Together":
        """Running means of norms stay as they are: a chunk's clips are of a few videos only."""
        super().train(mode)
        for module in self.backbone.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self


class Pictures:
    """The clips behind examples whose only feature is where a clip is found."""

    def __init__(self, files: Mapping[str, Path], examples: Sequence[Example]) -> None:
        self._stored = [StoredClips(files[one.name]) for one in examples]
        self.examples = [
            # float32 holds whole numbers up to 16 million: a video's and a clip's.
            replace(one, looks=(), features=np.stack([np.full(len(one.targets), k), np.arange(len(one.targets))], 1).astype(np.float32))
            for k, one in enumerate(examples)
        ]  # fmt: skip

    def clips(self, chunk: Chunk, seed: Sequence[int], options: EndToEnd) -> np.ndarray:
        """The clips that are present, varied: uint8[N, T, H, W, 3]; a black one where none is. Which variation follows from seed and video."""
        found = []
        if not chunk.mask_SBL.any():
            return np.zeros_like(self._stored[0][0])[None]
        for video, clip in chunk.features_SBLF[chunk.mask_SBL].long().tolist():
            frames_THWC = self._stored[video][clip]
            T, H, W, _ = frames_THWC.shape
            rng = np.random.default_rng([*seed, video])
            picture = np.ascontiguousarray(frames_THWC.transpose(1, 2, 0, 3)).reshape(H, W, -1)
            picture, _ = augment(picture, np.empty((0, 3), np.float32), rng, overhead=options.overhead)
            gain, offset = rng.uniform(0.7, 1.3, 3), rng.uniform(-25, 25)
            table = ((np.arange(256)[:, None] - 115) * gain + 115 + offset).clip(0, 255).astype(np.uint8)
            frames_HWT3 = picture.reshape(H, W, T, 3)
            lit = np.stack([table[:, c][frames_HWT3[..., c]] for c in range(3)], -1)
            found.append(lit.transpose(2, 0, 1, 3))
        return np.stack(found)


def epoch_of(pictures: Pictures, config: Config, epoch: int) -> Iterator[Chunk]:
    """The same for all processes, and whether or not the training was stopped in between."""
    assert config.end_to_end is not None
    return chunks(pictures.examples, _shape(config, config.end_to_end), np.random.default_rng([config.seed, epoch]))


def _shape(config: Config, options: EndToEnd) -> CrtTraining:
    return config.crt.model_copy(update={"lanes": options.lanes, "unroll": options.unroll, "mixup": 0.0})


def train_end_to_end(
    config: Config,
    backbone: Backbone,
    classifier: VideoClassifier,
    examples: Sequence[Example],
    files: Mapping[str, Path],
) -> tuple[Backbone, VideoClassifier]:
    """Trains copies of both, or goes on where an earlier run stopped; returns the averages, on the CPU. Raises BadConfig."""
    o, device, world = config.end_to_end, pick(config.device), parallel.world()
    assert o is not None
    if o.lanes % world:
        raise BadConfig(f"end_to_end.lanes has to be a multiple of the {world} processes, got {o.lanes}")
    state_file = config.run / "end-to-end.pt"
    bf16 = o.bf16 and bfloat16(device)
    torch.manual_seed(config.seed)
    weights_C = class_weights(
        examples, classifier.config.classes, config.crt.balance, balanced=config.crt.sampling == "balanced"
    )
    unrolled = Unrolled(copy.deepcopy(classifier), weights_C, config.crt.label_smoothing)
    both = Together(copy.deepcopy(backbone), unrolled).to(device).requires_grad_(True)
    average = copy.deepcopy(both).eval().requires_grad_(False)
    trained = parallel.parallel(both)
    pictures = Pictures(files, examples)
    steps = steps_of(pictures.examples, _shape(config, o), config.seed, o.epochs)
    groups = [
        {"params": list(both.backbone.parameters()), "rate": o.learning_rate},
        {"params": list(both.unrolled.parameters()), "rate": o.crt_learning_rate},
    ]
    optimizer = torch.optim.AdamW(groups, lr=o.learning_rate, weight_decay=o.weight_decay)
    starts = digest_of(examples) + "".join(
        hashlib.sha256(p.numpy(force=True).tobytes()).hexdigest() for p in both.parameters()
    )
    begun = begun_with(o, config.seed, map(str, range(classifier.config.classes)), starts)
    first = step = 0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True, map_location=device)
        same_run(begun, state, state_file)
        both.load_state_dict(state["both"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        first, step = state["epoch"], state["step"]
        log.info("end to end resumed at epoch %d", first)
    own, lead = slice(parallel.rank(), None, world), parallel.rank() == 0
    writer = SummaryWriter(str(config.run / "tensorboard" / "end-to-end"), purge_step=first) if lead else None
    for epoch in range(first, o.epochs):
        both.train()
        losses: list[float] = []
        memory_BM = classifier.initial_memory(o.lanes // world).detach().to(device)
        torch.manual_seed((config.seed * 1_000_003 + epoch) * world + parallel.rank())
        all_of = list(epoch_of(pictures, config, epoch))
        title = f"end to end {epoch + 1}/{o.epochs}"
        for whole in tqdm(all_of, desc=title, unit="step", disable=None if lead else True):
            chunk = whole.on("cpu", own)
            clips_NTHWC = torch.from_numpy(pictures.clips(chunk, (config.seed, epoch), o)).to(device)
            chunk = chunk.on(device, slice(None))
            for group in optimizer.param_groups:
                group["lr"] = group["rate"] * warm_cosine(step, steps)
            with torch.autocast(device, torch.bfloat16, enabled=bf16):
                loss, memory_BM = trained(
                    clips_NTHWC, chunk, memory_BM.detach(), totals(whole, weights_C).to(device) / world
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(both.parameters(), config.crt.clip_norm)
            optimizer.step()
            step += 1
            losses.append(loss.item())
            with torch.no_grad():
                for old, new in zip(average.parameters(), both.parameters(), strict=True):
                    old.lerp_(new, 1 - o.ema)
        if writer is not None:
            log.info("end to end, epoch %d: loss %.3f", epoch + 1, np.mean(losses))
            writer.add_scalar("loss", float(np.mean(losses)), epoch)
            part = state_file.with_suffix(".part")
            torch.save(
                {
                    "both": both.state_dict(), "average": average.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch + 1,
                    "step": step, **begun,
                },
                part,
            )  # fmt: skip
            os.replace(part, state_file)
    if writer is not None:
        writer.close()
    parallel.wait()
    average = average.cpu()
    return average.backbone, average.unrolled.classifier
