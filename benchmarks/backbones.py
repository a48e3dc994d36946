"""Cost of each backbone per sampled frame: one thread, process time, median, clips one by one.

Random weights: the cost does not depend on them. The ratio is to our own small one.
"""

from collections.abc import Iterable
from functools import partial

import torch

from benchmarks.harness import Row
from benchmarks.timing import cpu_ms
from models.backbones import NAMES, create_backbone


def run(names: Iterable[str] = NAMES, seconds: float = 5.0) -> Iterable[Row]:
    """seconds: for each backbone."""
    torch.manual_seed(0)
    names = ["small", *(name for name in names if name != "small")]
    small = 0.0
    for name in names:
        backbone = create_backbone(name)
        spec = backbone.spec
        clip = torch.randint(0, 256, (1, spec.frames, spec.height, spec.width, 3), dtype=torch.uint8)
        per_frame = cpu_ms({name: partial(backbone, clip)}, seconds=seconds)[name] / spec.frames
        small = small or per_frame
        yield Row(
            metric=f"{name}, {spec.frames} frames of {spec.width}x{spec.height} at {spec.rate:g}/s",
            value=per_frame,
            unit="ms/frame",
            peer=None if name == "small" else "small",
            ratio=None if name == "small" else per_frame / small,
        )
