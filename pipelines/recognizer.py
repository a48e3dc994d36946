"""A model at work: clips to features, segments and memories to predictions and next memories. Arrays in, arrays out.

Keeps nothing of any stream, so that rows of a batch may belong to any streams. Threads may share one; for torch's backbones they
take turns, since networks that each want all cores only hold each other up.
Shapes: N clips, T frames, H x W pixels, F feature width, B streams, L clips in a segment, M memory width, C labels.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from models.base import fold_norms
from models.checkpoint import Checkpoint
from models.small import SmallBackbone
from pipelines.frames import Pixels
from pipelines.runtime import OnnxClassifier, OnnxSmall


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
    """Runs a checkpoint's networks on the CPU: the small backbone and the CRT by ONNX Runtime (runtime.py), other backbones by torch."""

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
        self._fast = (
            OnnxSmall(model.backbone, threads=threads, given=model.graphs)
            if isinstance(model.backbone, SmallBackbone)
            else None
        )
        self.side_by_side, self.clips_a_call = (threads, 1) if self._fast else (1, 8)
        self._classifier = OnnxClassifier(model.classifier)
        torch.set_num_threads(threads)
        self._turn = threading.Lock()
        self._first_memory_M = model.classifier.initial_memory(1)[0].numpy().copy()

    def initial_memory(self) -> np.ndarray:
        """The memory with which a stream begins, float32[M]."""
        return self._first_memory_M.copy()

    @torch.inference_mode()
    def features(self, clips: Sequence[Sequence[Pixels]] | np.ndarray) -> np.ndarray:
        """Clips of T frames uint8[H, W, 3] to features float32[N, F]. Raises ValueError for frames of another number or shape."""
        spec = self.spec
        for frames in clips:
            if len(frames) != spec.frames or any(
                f.shape != (spec.height, spec.width, 3) or f.dtype != np.uint8 for f in frames
            ):
                found = (f"{frames[0].dtype}{[len(frames), *frames[0].shape]}") if len(frames) else "none"
                raise ValueError(
                    f"a clip is uint8[{spec.frames}, {spec.height}, {spec.width}, 3], or as many frames; got {found}"
                )
        if self._fast is not None:
            return self._fast(clips)
        if not len(clips):
            return np.empty((0, spec.feature_width), np.float32)
        clips_NTHWC = np.stack([np.stack(list(frames)) for frames in clips])
        with self._turn:
            return self.model.backbone(torch.from_numpy(clips_NTHWC)).numpy()

    def advance(self, segment_BLF: np.ndarray, memory_BM: np.ndarray, mask_BL: np.ndarray) -> Prediction:
        """One CRT step for B streams: features float32[B, L, F], memories float32[B, M], mask bool[B, L], True where a clip is."""
        L = segment_BLF.shape[1]
        scores_BC, scores_BLC, memory_BM = self._classifier.advance(*self._whole(segment_BLF, memory_BM, mask_BL))
        return Prediction(scores_BC, scores_BLC[:, :L], memory_BM)

    def provisional(self, segment_BLF: np.ndarray, memory_BM: np.ndarray, mask_BL: np.ndarray) -> np.ndarray:
        """Only the scores float32[B, C] that advance would give, for a third of its work: of segments that are still filling."""
        (scores_BC,) = self._classifier.scores(*self._whole(segment_BLF, memory_BM, mask_BL))
        return scores_BC

    def _whole(self, segment_BLF: np.ndarray, memory_BM: np.ndarray, mask_BL: np.ndarray) -> tuple[np.ndarray, ...]:
        """Segments at their full length, which the graph has: absent clips are neither seen nor written."""
        missing = self.segment - segment_BLF.shape[1]
        if missing:
            segment_BLF = np.pad(segment_BLF, ((0, 0), (0, missing), (0, 0)))
            mask_BL = np.pad(mask_BL, ((0, 0), (0, missing)))
        return segment_BLF, memory_BM, mask_BL
