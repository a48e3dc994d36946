"""Backbones by name: torchvision's video and image models with their published weights or a local file, and our own.

    mobilenet_v3_small, mobilenet_v3_large   a frame at a time, pooled over the clip: mean and mean absolute difference
    s3d, r3d_18, mvit_v2_s, swin3d_t         the clip at once
    small                                    our own, whose weights ship in the bundled checkpoint

Frames, rate, size and normalisation are those of the published weights, with two differences, both towards what a
stream needs: pictures are scaled to cover the crop exactly, where the published evaluation scales a little larger and
loses the border; and S3D reads 16 frames at a time, not 128, which would be a label every nine seconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from models.base import Backbone, misfits
from models.errors import BadWeights, UnknownBackbone, WeightsUnavailable
from models.small import SmallBackbone
from models.spec import ClipSpec

# Shapes: B clips, T frames, H x W pixels, C channels, F feature width of a clip, G of a frame.

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
KINETICS = {"mean": (0.43216, 0.394666, 0.37645), "std": (0.22803, 0.22145, 0.216989)}
HALF = {"mean": (0.45, 0.45, 0.45), "std": (0.225, 0.225, 0.225)}


def spec(frames: int, rate: float, side: int, feature_width: int, colours: Mapping[str, Any]) -> ClipSpec:
    """A square crop; frames per second; colours are mean and std."""
    return ClipSpec(
        frames=frames, rate=rate, height=side, width=side, fit="crop", feature_width=feature_width, **colours
    )


@dataclass(frozen=True, slots=True)
class Published:
    """How one of torchvision's networks becomes a backbone."""

    spec: ClipSpec
    head: tuple[str, ...]
    """The classification layers: replaced by nothing, and their weights in a file passed over."""
    image: bool = False
    """Reads one frame at a time."""


PUBLISHED = {
    "mobilenet_v3_small": Published(spec(4, 8.0, 224, 2 * 576, IMAGENET), ("classifier",), image=True),
    "mobilenet_v3_large": Published(spec(4, 8.0, 224, 2 * 960, IMAGENET), ("classifier",), image=True),
    "s3d": Published(spec(16, 15.0, 224, 1024, KINETICS), ("classifier",)),
    "r3d_18": Published(spec(16, 15.0, 112, 512, KINETICS), ("fc",)),
    "mvit_v2_s": Published(spec(16, 7.5, 224, 768, HALF), ("head",)),
    "swin3d_t": Published(spec(32, 15.0, 224, 768, IMAGENET), ("head",)),
}
NAMES = (*PUBLISHED, "small")
"""All that create_backbone knows."""


def torchvision_models() -> ModuleType:
    """Its models, whose import takes as long as all the rest, only where there is need of them."""
    import torchvision.models

    return cast(ModuleType, torchvision.models)


class TorchvisionBackbone(Backbone):
    """One of torchvision's networks without its classification layers."""

    def __init__(self, name: str) -> None:
        published = PUBLISHED[name]
        super().__init__(name, published.spec)
        self.net: nn.Module = torchvision_models().get_model(name, weights=None)
        for layer in published.head:
            setattr(self.net, layer, nn.Identity())
        self.image = published.image

    def encode(self, clips_BTCHW: Tensor) -> Tensor:
        if not self.image:
            return self.net(clips_BTCHW.transpose(1, 2).contiguous(memory_format=torch.channels_last_3d))
        B, T = clips_BTCHW.shape[:2]
        # Channels last in memory, here and above: 7 to 13 % less time on one core for the convolutional networks.
        frames_XCHW = clips_BTCHW.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        return pool_frames(self.net(frames_XCHW).view(B, T, -1))


def pool_frames(features_BTG: Tensor) -> Tensor:
    """What the clip looks like and how much it moves: mean, and mean absolute difference of neighbours; [B, 2 G]."""
    mean_BG = features_BTG.mean(dim=1)
    if features_BTG.shape[1] == 1:
        return torch.cat([mean_BG, torch.zeros_like(mean_BG)], dim=1)
    return torch.cat([mean_BG, (features_BTG[:, 1:] - features_BTG[:, :-1]).abs().mean(dim=1)], dim=1)


def create_backbone(
    name: str, *, weights: Literal["published"] | Path | None = None, config: Mapping[str, Any] | None = None
) -> Backbone:
    """The backbone of this name, in evaluation mode.

    weights: None for fresh random ones; "published" for torchvision's, from its cache or the internet; or a file
    (.pth or .pt without code, or .safetensors) with torchvision's names, or with those of a saved backbone.
    config: what a backbone's own `config` said; torchvision's have none.

    Raises UnknownBackbone, WeightsUnavailable (published weights that cannot be fetched; for `small` none are
    published) and BadWeights (a file that is absent, unreadable or another network's).
    """
    if name not in NAMES:
        raise UnknownBackbone(f"no backbone is named {name!r}; there are {', '.join(NAMES)}")
    make = SmallBackbone if name == "small" else partial(TorchvisionBackbone, name)
    try:
        backbone: Backbone = make(**(config or {}))
    except TypeError as error:
        raise UnknownBackbone(f"the backbone {name} has no such setting: {error}") from error
    if weights == "published":
        fit_weights(backbone, published_weights(name), f"the published weights of {name}")
    elif weights is not None:
        fit_weights(backbone, read_weights(Path(weights)), str(weights))
    return backbone.eval()


def published_weights(name: str, otherwise: str = "give its path as weights") -> dict[str, Tensor]:
    """torchvision's best weights for this name, from its cache or the internet. Raises WeightsUnavailable, BadWeights.

    otherwise: how to name a file of them, for whom they cannot be fetched.
    """
    if name not in PUBLISHED:
        raise WeightsUnavailable(f"{name} has no published weights; its weights come with a checkpoint")
    weights = torchvision_models().get_model_weights(name).DEFAULT
    file = Path(torch.hub.get_dir(), "checkpoints", Path(weights.url).name)
    try:
        return weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except OSError as error:  # of which urllib's errors are kinds
        raise WeightsUnavailable(
            f"the published weights of {name} are not on this machine and could not be fetched ({error}). "
            f"Place {file.name} in {file.parent}, or {otherwise}."
        ) from error
    except Exception as error:  # see read_weights
        raise BadWeights(
            f"{file}: not the published weights of {name} ({first_line(error)}). Remove it, and it is fetched again."
        ) from error


def read_weights(file: Path) -> dict[str, Tensor]:
    """A file of named tensors; no code in it is run. Raises BadWeights."""
    if not file.is_file():
        raise BadWeights(f"{file}: no such file")
    if file.suffix not in (".safetensors", ".pth", ".pt"):
        raise BadWeights(f"{file}: weights are a .pth, .pt or .safetensors file")
    try:
        if file.suffix == ".safetensors":
            found: object = load_file(file)
        else:
            found = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's unpickler fails in whatever way the bytes lead it to, IndexError among them
        raise BadWeights(f"{file}: not a file of weights ({first_line(error)})") from error
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise BadWeights(f"{file}: not a table of named tensors (a state_dict), so no weights")
    return found


def fit_weights(backbone: Backbone, weights: Mapping[str, Tensor], source: str) -> None:
    """Loads what fits exactly, classification layers aside. Raises BadWeights with the first that does not."""
    head = PUBLISHED[backbone.name].head if backbone.name in PUBLISHED else ()
    prefix = "net." if backbone.name in PUBLISHED else ""  # torchvision's own names lack it
    found = {key if key.startswith(prefix) else prefix + key: value for key, value in weights.items()}
    found = {key: value for key, value in found.items() if key.removeprefix(prefix).split(".")[0] not in head}
    if problems := misfits(backbone, found):
        raise BadWeights(f"{source}: not weights of {backbone.name}: {problems}")
    backbone.load_state_dict(found)


def first_line(error: Exception) -> str:
    """Torch's errors run to a page, most of it advice to load without protection."""
    return str(error).split("\n", maxsplit=1)[0]
