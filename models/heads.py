"""From features to class scores: the video classifier around the CRT, and one that looks at each clip for itself."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.config import ClassifierConfig, PerClipConfig
from models.crt import CompactRecurrentTransformer

# Shapes: B streams, L clips in a segment, F feature width, D width, M memory width, C classes.


class VideoOutput(NamedTuple):
    """What a VideoClassifier makes of a segment."""

    logits_BC: Tensor
    """Of the segment: the mean over its clips; of a row without clips, finite and without meaning."""
    position_logits_BLC: Tensor
    """Of each clip; with a causal CRT, as far as was known by then."""
    memory_BM: Tensor
    """The next segment's."""


class VideoClassifier(nn.Module):
    """Normalises and projects features, runs the CRT over the segment, pools its outputs over the clips present."""

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        self.project = nn.Sequential(
            nn.LayerNorm(config.feature_width),
            nn.Dropout(config.dropout),
            nn.Linear(config.feature_width, config.crt.width),
        )
        self.crt = CompactRecurrentTransformer(config.crt)
        self.classify = nn.Linear(config.crt.width, config.classes)

    def initial_memory(self, batch: int) -> Tensor:
        """The learned memory with which each of `batch` streams begins, float[B, M]."""
        return self.crt.initial_memory(batch)

    def forward(self, features_BLF: Tensor, memory_BM: Tensor, mask_BL: Tensor | None = None) -> VideoOutput:
        """mask_BL is True where a clip is present (None: everywhere). Raises ValueError for shapes that do not fit."""
        if features_BLF.ndim != 3 or features_BLF.shape[2] != self.config.feature_width:
            wanted = f"float[B, L, {self.config.feature_width}]"
            raise ValueError(f"a segment of features is {wanted}, got {list(features_BLF.shape)}")
        outputs_BLD, memory_BM = self.crt(self.project(features_BLF), memory_BM, mask_BL)
        # The same as classifying the mean output, since the classifier is linear.
        position_logits_BLC = self.classify(outputs_BLD)
        return VideoOutput(masked_mean(position_logits_BLC, mask_BL), position_logits_BLC, memory_BM)


class PerClipClassifier(nn.Module):
    """A published classifier's last layer: each clip for itself, no memory. As a VideoClassifier with M = 0."""

    def __init__(self, config: PerClipConfig) -> None:
        super().__init__()
        self.config = config
        self.classify = nn.Linear(config.feature_width, config.classes)

    def initial_memory(self, batch: int) -> Tensor:
        """Nothing, float[B, 0]."""
        return torch.zeros(batch, 0)

    def forward(self, features_BLF: Tensor, memory_BM: Tensor, mask_BL: Tensor | None = None) -> VideoOutput:
        """As VideoClassifier."""
        logits_BLC = self.classify(features_BLF)
        return VideoOutput(masked_mean(logits_BLC, mask_BL), logits_BLC, memory_BM)


Classifier = VideoClassifier | PerClipClassifier


def probabilities(logits: Tensor, *, several: bool) -> Tensor:
    """Of the last axis's labels, which exclude each other unless several may be true at once: ClassifierConfig.several."""
    return logits.sigmoid() if several else logits.softmax(-1)


def masked_mean(values_BLC: Tensor, mask_BL: Tensor | None) -> Tensor:
    """The mean over the positions present, float[B, C]; zero for a row without any."""
    if mask_BL is None:
        return values_BLC.mean(dim=1)
    there_BLC = torch.where(mask_BL[..., None], values_BLC, 0)
    # As a product: ONNX Runtime sums up in another order when other streams are in the batch, which shows in the last bit.
    total_BC = (mask_BL.to(values_BLC.dtype)[:, None] @ there_BLC)[:, 0]
    return total_BC / mask_BL.sum(dim=1, keepdim=True).clamp(min=1)
