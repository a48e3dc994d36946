"""Our own small backbone: a glance at the whole picture finds the person, then a closer look at where the person is.

A clip's frames go in side by side as channels (early fusion): the first convolution sees all T frames of a pixel, as their mean
and their differences, so that one pass serves the whole clip, and T frames cost as much as one. Plain 3x3 convolutions,
since on a CPU they run several times closer to the machine's peak than depthwise ones.

Seen across a room a person is a few dozen pixels, anywhere and of any size, and pooling over the whole picture drowns them. So the
glance, at half the picture's size, gives a square about the person, and the closer look sees that square alone, always at the same
size and as sharp as the picture is: what people do need not be learned anew for every place and distance. In it, each of J
queries attends to one place, by a softmax over its cells. In training on simulated homes, where joints are known, they teach
the glance its square and each query its place.
A feature is what lies under the queries and where, the square as a whole, where it is, and the picture as a whole.
Shapes: B clips, T frames, H x W pixels, C channels, F feature width, J queries, Y x X cells, S x S pixels of the closer look.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.base import Backbone
from models.spec import LEVELS, LOOK, SMALL

SPEC = SMALL
GLANCE = (24, 40, 80, 128)
"""Channels at strides 2, 4, 8 and 16 of the whole picture at half its size."""
CLOSER = (32, 96, 192)
"""Channels at strides 2, 4 and 8 of the closer look."""
SIDES = (0.15, 1.4)
"""Smallest and largest side of the square, as shares of the picture's height."""
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


def stage(before: int, width: int, *, residual: bool = True) -> nn.Sequential:
    """Halves the sides."""
    down = nn.Conv2d(before, width, 3, stride=2, padding=1, bias=False)
    rest = [Residual(width)] if residual else []
    return nn.Sequential(down, nn.BatchNorm2d(width), nn.ReLU(inplace=True), *rest)


def motion(width: int) -> nn.Sequential:
    """Clips as pictures of T x 3 channels to `width` channels at half the sides."""
    return nn.Sequential(MotionStem(SPEC.frames, width), nn.BatchNorm2d(width), nn.ReLU(inplace=True))


class Joined(nn.Module):
    """A map with what is known one stage further down added to it (Lin et al., arXiv 1612.03144)."""

    def __init__(self, width: int, above: int) -> None:
        super().__init__()
        self.lateral = nn.Conv2d(width, width, 1)
        self.from_above = nn.Conv2d(above, width, 1)

    def forward(self, map_BCYX: Tensor, above_BCYX: Tensor) -> Tensor:
        upper = F.interpolate(self.from_above(above_BCYX), map_BCYX.shape[2:], mode="nearest")
        return F.relu(self.lateral(map_BCYX) + upper)


class Places(nn.Module):
    """Queries, each of which attends to one place of a map."""

    def __init__(self, width: int, queries: int) -> None:
        super().__init__()
        self.scores = nn.Conv2d(width, queries, 1)

    def forward(self, map_BCYX: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores before the softmax [B, J, Y, X], what lies there [B, J, C], and where that is [B, J, 2], x and y in 0..1."""
        scores_BJYX = self.scores(map_BCYX).float()
        look_BJN = scores_BJYX.flatten(2).softmax(-1)
        around_BJC = look_BJN @ map_BCYX.flatten(2).transpose(1, 2).float()
        Y, X = map_BCYX.shape[2:]
        columns_X = (torch.arange(X, device=look_BJN.device) + 0.5) / X
        rows_Y = (torch.arange(Y, device=look_BJN.device) + 0.5) / Y
        grid_N2 = torch.stack([columns_X.repeat(Y), rows_Y.repeat_interleave(X)], dim=-1)
        return scores_BJYX, around_BJC, look_BJN @ grid_N2


class Reading(NamedTuple):
    """What SmallBackbone sees in a clip; `features` is what it is for, the rest serves training."""

    features_BF: Tensor
    centre_B1YX: Tensor
    """Scores of the picture's cells before the softmax: where the person is."""
    square_B3: Tensor
    """The square that the glance found: see `look`."""
    looked_B3: Tensor
    """The square that was looked at."""
    places_BJYX: Tensor
    """Scores of the square's cells before the softmax: where each query looks."""
    around_BJC: Tensor
    """What lies there."""


class Glance(NamedTuple):
    """What the glance at the whole picture gives."""

    centre_B1YX: Tensor
    square_B3: Tensor
    """As in Reading."""
    found_B3: Tensor
    """The same, within SIDES: where to look closer."""
    whole_BW: Tensor
    """What lies there, and the picture as a whole."""


class Light(NamedTuple):
    """Another light on pictures in 0..1, by which training varies them: x * gain + offset, within 0..1."""

    gain_BC11: Tensor
    offset_BC11: Tensor


def tone(pictures_BCHW: Tensor, light: Light | None) -> Tensor:
    """Pictures in 0..255 as the networks want them."""
    if light is None:
        return (pictures_BCHW - 255 * SPEC.mean[0]) * (1 / (255 * SPEC.std[0]))
    seen_BCHW = pictures_BCHW.mul(1 / 255).mul_(light.gain_BC11).add_(light.offset_BC11).clamp_(0, 1)
    return seen_BCHW.sub_(SPEC.mean[0]).mul_(1 / SPEC.std[0])


def halves(pictures_BCHW: Tensor) -> list[Tensor]:
    """LEVELS pictures in 0..255, each half the size of the one before: a pyramid (Williams, Pyramidal Parametrics, 1983).

    Whole numbers, as any program that resizes pictures gives them: so bytes can be halved as bytes.
    """
    levels = [pictures_BCHW]
    for _ in range(LEVELS - 1):
        # At half the size, this is the mean of four pixels, by the fastest way.
        levels.append(F.interpolate(levels[-1], scale_factor=0.5, mode="bilinear").add_(0.5).floor_())
    return levels


def shares(square_B3: Tensor, size: int = LOOK) -> list[Tensor]:
    """How much of each level of `halves` goes into a closer look of `size` pixels, each float[B]; they sum to one.

    It is taken from the two levels between which it would be of that size, so that nothing flickers.
    """
    level_B = (square_B3[:, 2].exp() * (SPEC.height / size)).log2().clamp(0, LEVELS - 1)
    return [(1 - (level_B - k).abs()).clamp(min=0) for k in range(LEVELS)]


def grid(square_B3: Tensor, size: int = LOOK) -> Tensor:
    """Where in a picture the pixels of the closer look lie, as F.grid_sample takes it: float[B, S, S, 2], -1 to 1 inside."""
    offsets_S = (torch.arange(size, device=square_B3.device) * 2 + 1) / size - 1
    half_B1, centre_B2 = square_B3[:, 2:].exp(), square_B3[:, :2] * 2 - 1
    x_BS = centre_B2[:, :1] + half_B1 * (SPEC.height / SPEC.width) * offsets_S
    y_BS = centre_B2[:, 1:] + half_B1 * offsets_S
    shape = (-1, size, size)
    return torch.stack([x_BS[:, None, :].expand(shape), y_BS[:, :, None].expand(shape)], dim=-1)


def look(levels: list[Tensor], square_B3: Tensor, light: Light | None = None, size: int = LOOK) -> Tensor:
    """Squares of pictures in 0..255, scaled to size x size and toned; what lies outside a picture is zero.

    A square is its centre's x and y as shares of the picture's width and height, and the logarithm of its side over the height.
    """
    grid_BSS2 = grid(square_B3, size)
    seen_BCSS = torch.zeros(())
    for share_B, level_BCHW in zip(shares(square_B3, size), levels, strict=True):
        if not (torch.is_grad_enabled() or torch.jit.is_tracing() or share_B.is_cuda or share_B.any()):
            continue  # on a GPU, to look would take longer than to go on
        part_BCSS = F.grid_sample(level_BCHW, grid_BSS2, mode="bilinear", padding_mode="border", align_corners=False)
        seen_BCSS = seen_BCSS + part_BCSS * share_B[:, None, None, None]
    return tone(seen_BCSS, light) * inside(grid_BSS2)


def inside(grid_BSS2: Tensor) -> Tensor:
    """Which pixels of a closer look lie in the picture: bool[B, 1, S, S]."""
    return (grid_BSS2.abs() <= 1).all(-1)[:, None]


class SmallBackbone(Backbone):
    """Clips uint8[B, T, H, W, 3] to features float32[B, F]."""

    def __init__(self) -> None:
        super().__init__("small", SPEC)
        first, second, third, fourth = GLANCE
        self.glance4 = nn.Sequential(motion(first), stage(first, second, residual=False))
        self.glance8 = stage(second, third)
        self.glance16 = stage(third, fourth)
        self.glance = Joined(third, fourth)
        self.centre = Places(third, 1)
        self.side = nn.Linear(third, 1)
        near, middle, far = CLOSER
        self.closer2 = nn.Sequential(motion(near), Residual(near))
        self.closer4 = stage(near, middle)
        self.closer8 = stage(middle, far)
        self.closer = Joined(middle, far)
        self.queries = Places(middle, QUERIES)
        width = QUERIES * (middle + 3) + 2 * far + 3 + third + 2 * fourth
        self.mix = nn.Sequential(nn.Linear(width, 384), nn.ReLU(inplace=True), nn.Linear(384, SPEC.feature_width))

    def features(self, clips_BTCHW: Tensor) -> Tensor:
        return self.read(clips_BTCHW.flatten(1, 2)).features_BF

    def read(self, pictures_BCHW: Tensor, square_B3: Tensor | None = None, light: Light | None = None) -> Reading:
        """Clips as pictures of T x 3 channels, time-major, in 0..255, in the given light.

        Looks at the given squares float[B, 3], and where they are NaN or not given, at those it finds.
        """
        levels = halves(pictures_BCHW)
        # NHWC memory under an NCHW view is what the convolutions of a CPU like best.
        glance = self.look_over(tone(levels[1], light).contiguous(memory_format=torch.channels_last))
        looked_B3 = glance.found_B3.detach()
        if square_B3 is not None:
            looked_B3 = torch.where(square_B3.isnan(), looked_B3, square_B3)
        near_BCSS = look(levels, looked_B3, light).contiguous(memory_format=torch.channels_last)
        features_BF, places_BJYX, around_BJC = self.look_closer(near_BCSS, looked_B3, glance.whole_BW)
        return Reading(features_BF, glance.centre_B1YX, glance.square_B3, looked_B3, places_BJYX, around_BJC)

    def look_over(self, half_BCHW: Tensor) -> Glance:
        """The glance, at toned pictures of half the size."""
        eighth_BCYX = self.glance8(self.glance4(half_BCHW))
        sixteenth_BCYX = self.glance16(eighth_BCYX)
        centre_B1YX, there_B1C, at_B12 = self.centre(self.glance(eighth_BCYX, sixteenth_BCYX))
        side_B1 = self.side(there_B1C[:, 0]).float()
        found_B3 = torch.cat([at_B12[:, 0], side_B1.clamp(math.log(SIDES[0]), math.log(SIDES[1]))], dim=1)
        # The mean says what a picture is like, the maximum whether something is anywhere in it.
        parts = [there_B1C[:, 0], sixteenth_BCYX.mean((2, 3)), sixteenth_BCYX.amax((2, 3))]
        whole_BW = torch.cat([part.float() for part in parts], dim=1)
        return Glance(centre_B1YX, torch.cat([at_B12[:, 0], side_B1], dim=1), found_B3, whole_BW)

    def look_closer(self, near_BCSS: Tensor, looked_B3: Tensor, whole_BW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The closer look, at toned pictures: features, and as in Reading places and what lies there."""
        fourth_BCYX = self.closer4(self.closer2(near_BCSS))
        below_BCYX = self.closer8(fourth_BCYX)
        places_BJYX, around_BJC, where_BJ2 = self.queries(self.closer(fourth_BCYX, below_BCYX))
        sure_BJ = places_BJYX.flatten(2).softmax(-1).amax(-1)
        there_BC, wholes_BC = whole_BW.split([GLANCE[2], 2 * GLANCE[3]], dim=1)
        parts = [around_BJC.flatten(1), where_BJ2.flatten(1), sure_BJ, looked_B3, there_BC]
        parts += [below_BCYX.mean((2, 3)), below_BCYX.amax((2, 3)), wholes_BC]
        features_BF = self.mix(torch.cat([part.float() for part in parts], dim=1)).float()
        return features_BF, places_BJYX, around_BJC
