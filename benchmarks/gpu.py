"""On a GPU: clips and CRT steps a second, and which share of the device's measured matrix and copy peak they reach.

The peaks are measured in the same run: a large matrix product in bfloat16 and in float32, a copy from pinned memory, a copy within the device's
memory. Where there is no GPU it says why and measures nothing; `CRT_DEVICE=cuda python -m benchmarks live_capacity` takes that table there.
"""

import time
from collections.abc import Callable, Iterable

import numpy as np

from benchmarks.harness import Row, note
from models import checkpoint
from pipelines.device import DeviceMissing, pick
from pipelines.label import BUNDLED


def run(seconds: float = 3.0) -> Iterable[Row]:
    """seconds: for each figure."""
    try:
        pick("cuda")
    except DeviceMissing as error:
        note(f"  skipped: {error}")
        return
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from pipelines.cuda_side import CLIPS, SEGMENTS, FixedBackbone, FixedClassifier

    def rate(work: Callable[[], object]) -> float:
        """How often a second."""
        for _ in range(3):
            work()
        torch.cuda.synchronize()
        began, done = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            for _ in range(8):
                work()
            torch.cuda.synchronize()
            done += 8
        return done / (time.perf_counter() - began)

    def flops(work: Callable[[], object]) -> int:
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            work()
        return counter.get_total_flops()

    def product(dtype: torch.dtype, n: int = 8192) -> float:
        """FLOP a second."""
        left, right = (torch.randn(n, n, device="cuda", dtype=dtype) for _ in range(2))
        return 2 * n**3 * rate(lambda: left @ right)

    peaks = {}
    for dtype in (torch.bfloat16, torch.float32):
        peaks[dtype] = product(dtype)
        yield Row(metric=f"matrix peak, {str(dtype)[6:]}", value=peaks[dtype] / 1e12, unit="TFLOP/s")
    pinned, there = (
        torch.empty(1 << 28, dtype=torch.uint8).pin_memory(),
        torch.empty(1 << 28, dtype=torch.uint8, device="cuda"),
    )
    to_device = there.numel() * rate(lambda: there.copy_(pinned, non_blocking=True))
    yield Row(metric="copy peak, to the device", value=to_device / 1e9, unit="GB/s")
    other = torch.empty_like(there)
    within = 2 * there.numel() * rate(lambda: other.copy_(there))
    yield Row(metric="copy peak, within it (read and written)", value=within / 1e9, unit="GB/s")

    model = checkpoint.load(BUNDLED)
    spec = model.spec
    clips = np.random.default_rng(0).integers(0, 256, (CLIPS, spec.frames, spec.height, spec.width, 3), np.uint8)
    a_clip = flops(lambda: model.backbone.eval()(torch.from_numpy(clips[:1])))
    backbone = FixedBackbone(model.backbone, "cuda")
    clips_s = CLIPS * rate(lambda: backbone(clips))
    yield Row(metric="backbone, clips from and features to the CPU", value=clips_s, unit="clips/s")
    yield Row(
        metric="backbone", value=a_clip * clips_s / 1e12, unit="TFLOP/s", peer="matrix peak, bfloat16",
        ratio=a_clip * clips_s / peaks[torch.bfloat16],
    )  # fmt: skip
    moved = clips[0].nbytes * clips_s
    yield Row(metric="backbone, pixels", value=moved / 1e9, unit="GB/s", peer="copy peak", ratio=moved / to_device)

    segment = np.zeros((SEGMENTS, model.segment, spec.feature_width), np.float32)
    memory, mask = np.zeros((SEGMENTS, model.memory), np.float32), np.ones((SEGMENTS, model.segment), bool)
    given = [torch.from_numpy(one) for one in (segment, memory, mask)]
    a_step = flops(lambda: model.classifier.eval()(*given))
    weights = sum(one.numel() * 4 for one in model.classifier.parameters())
    crt = FixedClassifier(model.classifier, model.segment, "cuda")
    steps = rate(lambda: crt.advance(segment, memory, mask))
    yield Row(metric=f"CRT, segments of {SEGMENTS} streams", value=SEGMENTS * steps, unit="segments/s")
    yield Row(
        metric="CRT", value=a_step * steps / 1e12, unit="TFLOP/s", peer="matrix peak, float32",
        ratio=a_step * steps / peaks[torch.float32],
    )  # fmt: skip
    yield Row(
        metric="CRT, weights read", value=weights * steps / 1e9, unit="GB/s", peer="copy peak within", ratio=weights * steps / within
    )  # fmt: skip
