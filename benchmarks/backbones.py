"""Cost of each backbone per sampled frame: one thread, process time, median, clips one by one.

Random weights: the cost does not depend on them. The ratio is to our own small one as it is served, in integers by ONNX Runtime; all others
by eager torch.
"""

import copy
from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor

from benchmarks.harness import Row
from benchmarks.timing import cpu_ms
from models.backbones import NAMES, create_backbone
from models.base import Backbone, fold_norms
from models.small import SPEC, SmallBackbone
from pipelines.quantize import quantize
from pipelines.runtime import OnnxSmall


def run(names: Iterable[str] = NAMES, seconds: float = 5.0) -> Iterable[Row]:
    """seconds: for each backbone."""
    torch.manual_seed(0)
    small = SmallBackbone().eval()
    served = OnnxSmall(quantize(small, random_clip(small, 8).numpy()), threads=1)
    clip, folded = random_clip(small), copy.deepcopy(small)
    fold_norms(folded)
    cost = cpu_ms({"served": lambda: served(clip.numpy()), "torch": partial(folded, clip)}, seconds=2 * seconds)
    own = cost["served"] / SPEC.frames
    yield Row(metric=f"small as served, {described(small)}", value=own, unit="ms/frame")
    for name in names:
        backbone = small if name == "small" else create_backbone(name)
        found = (
            cost["torch"]
            if name == "small"
            else cpu_ms({name: partial(backbone, random_clip(backbone))}, seconds=seconds)[name]
        )
        per_frame = found / backbone.spec.frames
        yield Row(
            metric=f"{name}, {described(backbone)}", value=per_frame, unit="ms/frame", peer="small as served", ratio=per_frame / own
        )  # fmt: skip


def random_clip(backbone: Backbone, count: int = 1) -> Tensor:
    spec = backbone.spec
    return torch.randint(0, 256, (count, spec.frames, spec.height, spec.width, 3), dtype=torch.uint8)


def described(backbone: Backbone) -> str:
    spec = backbone.spec
    return f"{spec.frames} frames of {spec.width}x{spec.height} at {spec.rate:g}/s"
