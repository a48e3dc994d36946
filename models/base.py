"""What every backbone is: clips of bytes in, one feature per clip out, and a spec that says which clips."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from models.spec import ClipSpec

# Shapes: B clips, T frames in a clip, H x W pixels, C channels (3, RGB), F feature width.


class Backbone(nn.Module):
    """Clips to features. A subclass sets out its network and defines `encode`; bytes become numbers here, once for all.

    name and config rebuild the network without its weights: create_backbone(name, weights=None, config=config).
    """

    def __init__(self, name: str, spec: ClipSpec, config: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.mean_C11: Tensor
        self.scale_C11: Tensor
        self.name = name
        self.spec = spec
        self.config: dict[str, Any] = dict(config or {})
        """JSON values only: it travels in a checkpoint's config.json."""
        # Not persistent: the spec says it, and what a checkpoint says twice can contradict itself.
        mean = torch.tensor(spec.mean).view(3, 1, 1) * 255
        self.register_buffer("mean_C11", mean, persistent=False)
        self.register_buffer("scale_C11", 1 / (torch.tensor(spec.std).view(3, 1, 1) * 255), persistent=False)

    def forward(self, clips_BTHWC: Tensor) -> Tensor:
        """uint8[B, T, H, W, 3], RGB, as the spec says -> float32[B, F]. Raises ValueError for anything else."""
        spec = self.spec
        wanted = (spec.frames, spec.height, spec.width, 3)
        if clips_BTHWC.ndim != 5 or tuple(clips_BTHWC.shape[1:]) != wanted or clips_BTHWC.dtype != torch.uint8:
            got = f"{clips_BTHWC.dtype}{list(clips_BTHWC.shape)}"
            raise ValueError(f"{self.name} reads clips uint8[B, {', '.join(map(str, wanted))}], got {got}")
        clips_BTCHW = clips_BTHWC.permute(0, 1, 4, 2, 3).to(self.mean_C11.dtype, memory_format=torch.contiguous_format)
        return self.features(clips_BTCHW)

    def features(self, clips_BTCHW: Tensor) -> Tensor:
        """Clips float[B, T, 3, H, W] in 0..255 -> features float[B, F]."""
        return self.encode((clips_BTCHW - self.mean_C11) * self.scale_C11)

    def encode(self, clips_BTCHW: Tensor) -> Tensor:
        """Normalised clips float[B, T, 3, H, W] -> features float[B, F]."""
        raise NotImplementedError


def fold_norms(network: nn.Module) -> None:
    """Folds each batch norm into the convolution before it, in place: the same numbers for less work.

    Only inside nn.Sequential, where what comes before is known to be the norm's only input.
    """
    for module in network.modules():
        if not isinstance(module, nn.Sequential):
            continue
        for index in range(len(module) - 1):
            convolution, norm = module[index], module[index + 1]
            if isinstance(convolution, nn.Conv2d | nn.Conv3d) and isinstance(norm, nn.BatchNorm2d | nn.BatchNorm3d):
                module[index] = fuse_conv_bn_eval(convolution, norm)
                module[index + 1] = nn.Identity()


def misfits(module: nn.Module, weights: Mapping[str, Tensor]) -> str:
    """What keeps these weights from being the module's, the first three of it; empty where they fit exactly."""
    wanted = module.state_dict()
    found = [f"{key} is missing" for key in wanted if key not in weights]
    found += [f"{key} is unknown" for key in weights if key not in wanted]
    found += [
        f"{key} is {list(weights[key].shape)} and would have to be {list(value.shape)}"
        for key, value in wanted.items()
        if key in weights and weights[key].shape != value.shape
    ]
    return ", ".join(found[:3]) + (f", and {len(found) - 3} more" if len(found) > 3 else "")
