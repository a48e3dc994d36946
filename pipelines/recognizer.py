"""A model at work: clips to features, segments and memories to predictions and next memories. Arrays in, arrays out.

Keeps nothing of any stream, so that rows of a batch may belong to any streams. Threads may share one; for torch's networks they
take turns, since networks that each want all cores only hold each other up.
Shapes: N clips, T frames, H x W pixels, F feature width, B streams, L clips in a segment, M memory width, C labels.
"""

import threading
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.utils.fusion import fuse_conv_bn_eval

from models.checkpoint import Checkpoint
from models.small import SmallBackbone
from pipelines.runtime import OnnxSmall


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """What the CRT makes of a batch of segments."""

    scores_BC: np.ndarray
    """float32[B, C]: of each segment, probabilities; each row sums to one."""
    scores_BLC: np.ndarray
    """float32[B, L, C]: of each of its clips."""
    memory_BM: np.ndarray
    """float32[B, M]: the next segments' memories."""


class Recognizer:
    """Runs a checkpoint's networks on the CPU: the small backbone by ONNX Runtime (runtime.py), all else by torch."""

    side_by_side: int
    """Calls of features() that are worked on at the same time."""
    clips_a_call: int
    """Clips in a call beyond which more bring no more speed."""

    def __init__(self, model: Checkpoint, *, threads: int) -> None:
        """Takes the checkpoint's networks over: they are changed for speed, to others of the same results.

        `threads` cores work on clips. It sets torch's threads for the whole process.
        """
        self.model = model
        self.spec = model.spec
        self.segment = model.segment
        self.labels = model.labels
        self.background = model.background
        fold_norms(model.backbone)
        self._fast = OnnxSmall(model.backbone, threads=threads) if isinstance(model.backbone, SmallBackbone) else None
        self.side_by_side, self.clips_a_call = (threads, 1) if self._fast else (1, 8)
        # A CRT step is too small to be shared: two threads take three times the processor time of one, and no less of the clock's.
        torch.set_num_threads(1 if self._fast else threads)
        self._turn = threading.Lock()
        self._first_memory_M = model.classifier.initial_memory(1)[0].numpy().copy()

    def initial_memory(self) -> np.ndarray:
        """The memory with which a stream begins, float32[M]."""
        return self._first_memory_M.copy()

    @torch.inference_mode()
    def features(self, clips_NTHWC: np.ndarray) -> np.ndarray:
        """Clips uint8[N, T, H, W, 3] to features float32[N, F]. Raises ValueError for another shape."""
        if self._fast is not None:
            return self._fast(clips_NTHWC)
        with self._turn:
            return self.model.backbone(torch.from_numpy(clips_NTHWC)).numpy()

    @torch.inference_mode()
    def advance(self, segment_BLF: np.ndarray, memory_BM: np.ndarray, mask_BL: np.ndarray) -> Prediction:
        """One CRT step for B streams: features float32[B, L, F], memories float32[B, M], mask bool[B, L], True where a clip is."""
        mask = None if mask_BL.all() else torch.from_numpy(mask_BL)
        with self._turn:
            out = self.model.classifier(torch.from_numpy(segment_BLF), torch.from_numpy(memory_BM), mask)
        by_segment, by_clip = out.logits_BC.softmax(-1), out.position_logits_BLC.softmax(-1)
        return Prediction(by_segment.numpy(), by_clip.numpy(), out.memory_BM.numpy())


def fold_norms(network: torch.nn.Module) -> None:
    """Folds each batch norm into the convolution before it, in place: the same numbers for less work.

    Only inside nn.Sequential, where what comes before is known to be the norm's only input.
    """
    for module in network.modules():
        if not isinstance(module, torch.nn.Sequential):
            continue
        for index in range(len(module) - 1):
            convolution, norm = module[index], module[index + 1]
            if isinstance(convolution, torch.nn.Conv2d | torch.nn.Conv3d) and isinstance(
                norm, torch.nn.BatchNorm2d | torch.nn.BatchNorm3d
            ):
                module[index] = fuse_conv_bn_eval(convolution, norm)
                module[index + 1] = torch.nn.Identity()
