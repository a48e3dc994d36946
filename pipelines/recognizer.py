"""A model at work: clips to features, segments and memories to predictions and next memories. Arrays in, arrays out.

Keeps nothing of any stream, so that rows of a batch may belong to any streams. Threads may share one; for torch's backbones they
take turns, since networks that each want all cores only hold each other up.
Shapes: N clips, T frames, H x W pixels, F feature width, B streams, L clips in a segment, M memory width, C labels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from models.checkpoint import Checkpoint
from models.config import PerClipConfig
from models.errors import BadCheckpoint
from models.spec import SMALL
from pipelines.device import Device
from pipelines.frames import Pixels
from pipelines.onnx_weights import fill
from pipelines.remembering import MemoryUse, Reads, change
from pipelines.runtime import OnnxClassifier, OnnxSmall

if TYPE_CHECKING:
    from pipelines.cuda_side import FixedClassifier


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """What the CRT makes of a batch of segments."""

    scores_BC: np.ndarray
    """float32[B, C]: of each segment, probabilities; each row sums to one, unless several labels may be true at once."""
    scores_BLC: np.ndarray
    """float32[B, L, C]: of each of its clips."""
    memory_BM: np.ndarray
    """float32[B, M]: the next segments' memories."""


class Recognizer:
    """Runs a checkpoint's networks. On the CPU the small backbone and the CRT by ONNX Runtime (runtime.py), other backbones by torch; on a
    GPU all by torch (cuda_side.py), with the weights as they were trained, not in integers."""

    side_by_side: int
    """Calls of features() that are worked on at the same time."""
    clips_a_call: int
    """Clips in a call beyond which more bring no more speed."""
    segments_a_call = 16
    """The same of segments in a call of advance()."""

    backbone_graphs: Mapping[str, bytes]
    """Of the small backbone, for processes that run it, too: what OnnxSmall takes. Of others, and on a GPU, none."""

    def __init__(self, model: Checkpoint, *, threads: int, device: Device = "cpu") -> None:
        """`threads` cores work on clips, or with "cuda" a GPU. Raises BadCheckpoint.

        Torch is loaded only for a GPU and for what the checkpoint has no graphs of, and then with as many threads, in the whole process.
        """
        self._describe(model)
        small = model.config.backbone.name == "small"
        known = [{"classify"}, {"look_over", "look_closer", "classify"}] if small else [{"classify"}]
        if model.graphs and set(model.graphs) not in known:
            raise BadCheckpoint(
                f"{model.folder}: a model with the backbone {model.config.backbone.name} has the graphs "
                f"{' or '.join(', '.join(sorted(one)) for one in known)}; not {', '.join(sorted(model.graphs))}"
            )
        graphs = {name: fill(graph, model.weights) for name, graph in model.graphs.items()}
        if small and model.spec != SMALL:
            _ = model.backbone  # says what differs
        self._features: Callable[[Sequence[Sequence[Pixels]] | np.ndarray], np.ndarray]
        self._classifier: OnnxClassifier | FixedClassifier
        self._reads = _reads(model, graphs)
        if device == "cuda":
            from pipelines import cuda_side

            self._features = cuda_side.FixedBackbone(model.backbone, device)
            self._classifier = cuda_side.FixedClassifier(model.classifier, model.segment, device)
            self.side_by_side, self.clips_a_call = cuda_side.LANES, cuda_side.CLIPS
            self.segments_a_call = cuda_side.SEGMENTS
            return
        if "look_over" not in graphs or "classify" not in graphs:
            from pipelines.torch_side import missing_graphs

            graphs |= missing_graphs(model, set(graphs))
            self._reads = _reads(model, graphs)
        self._classifier = OnnxClassifier(graphs["classify"])
        if small:
            self.backbone_graphs = {name: graphs[name] for name in ("look_over", "look_closer")}
            self._features = OnnxSmall(graphs, threads=threads)
            self.side_by_side, self.clips_a_call = threads, 1
        else:
            from pipelines.torch_side import TorchBackbone

            self._features = TorchBackbone(model.backbone, threads=threads)
            self.side_by_side, self.clips_a_call = 1, 8

    def _describe(self, model: Checkpoint) -> None:
        """What is known of the model without its networks."""
        self.model = replace(model, weights={}, graphs={})  # which the networks have
        self.spec = model.spec
        self.segment = model.segment
        self.labels = model.labels
        self.background = model.background
        config = model.config.classifier
        self.remembers = not isinstance(config, PerClipConfig) and config.crt.writer != "none"
        self.several = config.several
        self._first_memory_M = model.first_memory_M
        self.backbone_graphs = {}

    def initial_memory(self) -> np.ndarray:
        """The memory with which a stream begins, float32[M]."""
        return self._first_memory_M.copy()

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
        return self._features(clips)

    def advance(self, segment_BLF: np.ndarray, memory_BM: np.ndarray, mask_BL: np.ndarray) -> Prediction:
        """One CRT step for B streams: features float32[B, L, F], memories float32[B, M], mask bool[B, L], True where a clip is."""
        L = segment_BLF.shape[1]
        scores_BC, scores_BLC, memory_BM = self._classifier.advance(*self._whole(segment_BLF, memory_BM, mask_BL))
        return Prediction(scores_BC, scores_BLC[:, :L], memory_BM)

    def provisional(self, segment_BLF: np.ndarray, memory_BM: np.ndarray, mask_BL: np.ndarray) -> np.ndarray:
        """Only the scores float32[B, C] that advance would give, for a third of its work: of segments that are still filling."""
        (scores_BC,) = self._classifier.scores(*self._whole(segment_BLF, memory_BM, mask_BL))
        return scores_BC

    def memory_use(
        self, segment_LF: np.ndarray, memory_M: np.ndarray, mask_L: np.ndarray, next_memory_M: np.ndarray
    ) -> MemoryUse | None:
        """What the memory did for one segment, see remembering.py; None for a model without memory. Costs as much as another prediction."""
        if not len(memory_M):
            return None
        segment_1LF, mask_1L = segment_LF[None], mask_L[None]
        without_1C = self.provisional(segment_1LF, self._first_memory_M[None], mask_1L)
        read = None
        if self._reads is not None:
            read = float(self._reads(*self._whole(segment_1LF, memory_M[None], mask_1L))[0])
        return MemoryUse(next_memory_M, change(memory_M, next_memory_M), read, without_1C[0])

    def _whole(self, segment_BLF: np.ndarray, memory_BM: np.ndarray, mask_BL: np.ndarray) -> tuple[np.ndarray, ...]:
        """Segments at their full length, which the graph has: absent clips are neither seen nor written."""
        missing = self.segment - segment_BLF.shape[1]
        if missing:
            segment_BLF = np.pad(segment_BLF, ((0, 0), (0, missing), (0, 0)))
            mask_BL = np.pad(mask_BL, ((0, 0), (0, missing)))
        return segment_BLF, memory_BM, mask_BL


def _reads(model: Checkpoint, graphs: Mapping[str, bytes]) -> Reads | None:
    """None where the graphs do not say what is read."""
    config = model.config.classifier
    if "classify" not in graphs or isinstance(config, PerClipConfig) or config.crt.writer == "none":
        return None
    try:
        return Reads(graphs["classify"], config.crt.reader)
    except ValueError:
        return None
