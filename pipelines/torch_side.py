"""What a recognizer needs torch for: other backbones than the small one, and graphs that a checkpoint does not hold."""

import threading
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from models.base import Backbone, fold_norms
from models.checkpoint import Checkpoint
from models.small import SmallBackbone
from pipelines import graphs
from pipelines.frames import Pixels


class TorchBackbone:
    """Clips of T frames uint8[H, W, 3] to features float32[N, F]. Calls take turns: networks that each want all cores only hold each
    other up."""

    def __init__(self, backbone: Backbone, *, threads: int) -> None:
        """Takes the backbone over: it is changed for speed. Sets torch's threads for the whole process."""
        fold_norms(backbone)
        self._backbone = backbone
        self._turn = threading.Lock()
        torch.set_num_threads(threads)

    @torch.inference_mode()
    def __call__(self, clips: Sequence[Sequence[Pixels]] | np.ndarray) -> np.ndarray:
        if not len(clips):
            return np.empty((0, self._backbone.spec.feature_width), np.float32)
        clips_NTHWC = np.stack([np.stack(list(frames)) for frames in clips])
        with self._turn:
            return self._backbone(torch.from_numpy(clips_NTHWC)).numpy()


def missing_graphs(model: Checkpoint, there: set[str]) -> Mapping[str, bytes]:
    """Those that a recognizer runs and the checkpoint does not hold, in float32. Raises BadCheckpoint."""
    found = {}
    if "classify" not in there:
        found["classify"] = graphs.classify(model.classifier)
    if "look_over" not in there and isinstance(model.backbone, SmallBackbone):
        found |= graphs.of_backbone(model.backbone)
    return found
