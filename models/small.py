"""Our own small backbone: it finds the person's joints and describes what is around them.

A clip's frames go in side by side as channels (early fusion): the first convolution sees all T frames of a pixel, as their mean
and their differences, so that one pass serves the whole clip, and T frames cost as much as one. Plain 3x3 convolutions,
since on a CPU they run several times closer to the machine's peak than depthwise ones.

Seen across a room a person is a few dozen pixels, and pooling over the whole picture drowns them. So each of J queries attends
to one place of the picture, by a softmax over its cells; in training on simulated homes, where joints are known, a query is
shown where its joint is. A feature is what lies under the J queries, where they are, and the picture as a whole.
Shapes: B clips, T frames, H x W pixels, C channels, F feature width, J queries, Y x X cells.
"""

from typing import NamedTuple

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
QUERIES = 9
"""J, as many as HomeSim's POSE_JOINTS."""
MOTION_GAIN = 3.0
"""By how much changes are amplified: between two frames an eighth of a second apart they are small."""


class MotionStem(nn.Conv2d):
    """The first convolution, which sees a clip as its mean picture and the changes from frame to frame.

    The mixing of the T frames is linear, so it is applied to the weights and costs nothing. Without it the network starts
    out seeing what stands still, and takes long to find what moves.
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


class Residual(nn.Module):
    """Two 3x3 convolutions around a shortcut (He et al., arXiv 1512.03385)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return F.relu(x_BCHW + self.inner(x_BCHW))


class Reading(NamedTuple):
    """What SmallBackbone sees in a clip; `features` is what it is for, the rest serves training."""

    features_BF: Tensor
    places_BJYX: Tensor
    """Scores of the cells before the softmax: where each query looks."""
    around_BJC: Tensor
    """What lies there."""


class SmallBackbone(Backbone):
    """Clips uint8[B, T, H, W, 3] to features float32[B, F]."""

    def __init__(self) -> None:
        super().__init__("small", SPEC)
        first, second, third, fourth = WIDTHS
        self.stem = nn.Sequential(MotionStem(SPEC.frames, first), nn.BatchNorm2d(first), nn.ReLU(inplace=True))
        self.stride4 = self._stage(first, second)
        self.stride8 = self._stage(second, third)
        self.stride16 = self._stage(third, fourth)
        self.lateral = nn.Conv2d(third, third, 1)
        self.from_above = nn.Conv2d(fourth, third, 1)
        self.places = nn.Conv2d(third, QUERIES, 1)
        self.mix = nn.Sequential(
            nn.Linear(QUERIES * (third + 3) + 2 * fourth, 384),
            nn.ReLU(inplace=True),
            nn.Linear(384, SPEC.feature_width),
        )

    @staticmethod
    def _stage(before: int, width: int) -> nn.Sequential:
        down = nn.Conv2d(before, width, 3, stride=2, padding=1, bias=False)
        return nn.Sequential(down, nn.BatchNorm2d(width), nn.ReLU(inplace=True), Residual(width))

    def encode(self, clips_BTCHW: Tensor) -> Tensor:
        # NHWC memory under an NCHW view is what the convolutions of a CPU like best.
        return self.read(clips_BTCHW.flatten(1, 2).contiguous(memory_format=torch.channels_last)).features_BF

    def read(self, pictures_BCHW: Tensor) -> Reading:
        """Normalised clips as pictures of T x 3 channels, time-major."""
        eighth_BCYX = self.stride8(self.stride4(self.stem(pictures_BCHW)))
        sixteenth_BCYX = self.stride16(eighth_BCYX)
        Y, X = eighth_BCYX.shape[2:]
        above_BCYX = F.interpolate(self.from_above(sixteenth_BCYX), (Y, X), mode="nearest")
        joined_BCYX = F.relu(self.lateral(eighth_BCYX) + above_BCYX)
        places_BJYX = self.places(joined_BCYX).float()
        look_BJN = places_BJYX.flatten(2).softmax(-1)
        around_BJC = look_BJN @ joined_BCYX.flatten(2).transpose(1, 2).float()
        grid_N2 = torch.stack(
            [
                torch.linspace(-1, 1, X, device=look_BJN.device).repeat(Y),
                torch.linspace(-1, 1, Y, device=look_BJN.device).repeat_interleave(X),
            ],
            dim=-1,
        )
        where_BJ2 = look_BJN @ grid_N2
        sure_BJ1 = look_BJN.amax(-1, keepdim=True)
        # The mean says what the picture is like, the maximum whether something is anywhere in it.
        whole_BC = torch.cat([sixteenth_BCYX.mean((2, 3)), sixteenth_BCYX.amax((2, 3))], dim=1).float()
        parts = [around_BJC.flatten(1), where_BJ2.flatten(1), sure_BJ1.flatten(1), whole_BC]
        return Reading(self.mix(torch.cat(parts, dim=1)).float(), places_BJYX, around_BJC)
