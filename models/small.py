"""Our own small backbone: a clip's frames side by side as channels, then a residual network of plain convolutions.

Early fusion: the first convolution sees all T frames of a pixel, as their mean and their differences; one pass then serves the
whole clip, and T frames cost as much as one. Plain 3x3
convolutions, since on a CPU they run several times closer to the machine's peak than depthwise ones.
Shapes: B clips, T frames, H x W pixels, C channels, F feature width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.base import Backbone
from models.spec import ClipSpec

SPEC = ClipSpec(
    frames=4,
    rate=8.0,
    height=120,
    width=160,
    fit="stretch",
    mean=(0.45, 0.45, 0.45),
    std=(0.25, 0.25, 0.25),
    feature_width=256,
)
WIDTHS = (32, 48, 96, 192)
MOTION_GAIN = 3.0
"""By how much changes are amplified: between two frames an eighth of a second apart they are small."""


class Residual(nn.Module):
    """Two 3x3 convolutions around a shortcut (He et al., arXiv 1512.03385)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(width)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BCHW = F.relu(self.first_norm(self.first(x_BCHW)))
        return F.relu(x_BCHW + self.second_norm(self.second(y_BCHW)))


class MotionStem(nn.Conv2d):
    """The first convolution, which sees a clip as its mean picture and the changes from frame to frame.

    The mixing of the T frames is linear, so it is applied to the weights and costs nothing. Without it the network starts out
    seeing what stands still, and takes long to find what moves.
    """

    mixing_CC: Tensor

    def __init__(self, frames: int, width: int) -> None:
        super().__init__(3 * frames, width, 3, stride=2, padding=1, bias=False)
        mixing_TT = torch.zeros(frames, frames)
        mixing_TT[0] = 1 / frames
        for t in range(1, frames):
            mixing_TT[t, t], mixing_TT[t, t - 1] = MOTION_GAIN, -MOTION_GAIN
        self.register_buffer("mixing_CC", torch.kron(mixing_TT, torch.eye(3)), persistent=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        weight = torch.einsum("ochw,cd->odhw", self.weight, self.mixing_CC)
        return F.conv2d(x_BCHW, weight, self.bias, self.stride, self.padding)


class SmallBackbone(Backbone):
    """Clips uint8[B, T, H, W, 3] to features float32[B, F]."""

    def __init__(self) -> None:
        super().__init__("small", SPEC)
        layers: list[nn.Module] = []
        before = 3 * SPEC.frames
        for stage, width in enumerate(WIDTHS):
            layers += [
                nn.Conv2d(before, width, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            ]
            if stage > 0:
                layers.append(Residual(width))
            before = width
        self.body = nn.Sequential(*layers)
        self.out = nn.Linear(2 * before, SPEC.feature_width)

    def encode(self, clips_BTCHW: Tensor) -> Tensor:
        # NHWC memory under an NCHW view is what the convolutions of a CPU like best.
        return self.read(clips_BTCHW.flatten(1, 2).contiguous(memory_format=torch.channels_last))

    def read(self, pictures_BCHW: Tensor) -> Tensor:
        """Normalised clips as pictures of T x 3 channels, time-major, to features float32[B, F]."""
        maps_BCHW = self.body(pictures_BCHW)
        # The mean says what the picture is like, the maximum whether something small is anywhere in it.
        pooled_BC = torch.cat([maps_BCHW.mean((2, 3)), maps_BCHW.amax((2, 3))], dim=1)
        return self.out(pooled_BC).float()
