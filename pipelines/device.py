"""Which device the networks run on. Torch is asked only where there is a GPU's driver: without one nothing needs it."""

from pathlib import Path
from typing import Literal

from models.errors import CrtError

Device = Literal["cpu", "cuda"]
_DRIVER = Path("/dev/nvidiactl")
_PROCESSOR = Path("/proc/cpuinfo")
_BF16 = {"avx512_bf16", "amx_bf16", "bf16"}
"""Flags of processors that multiply in bfloat16: Intel's and AMD's, and ARM's."""


class DeviceMissing(CrtError):  # noqa: N818 - named after what is wrong
    """A device was asked for that is not there."""

    code = "device_missing"


def pick(wanted: Literal["auto", "cpu", "cuda"]) -> Device:
    """ "auto" is the GPU where torch can use one, else the CPU. Raises DeviceMissing for "cuda" where it cannot."""
    if wanted == "cpu":
        return "cpu"
    why = _no_cuda()
    if why is None:
        return "cuda"
    if wanted == "cuda":
        raise DeviceMissing(f"there is no GPU to run on: {why}. Ask for cpu, or for auto, which takes what is there")
    return "cpu"


def bfloat16(device: Device) -> bool:
    """Whether networks train in bfloat16 there. A CPU without such products imitates them, several times slower than float32."""
    if device == "cuda":
        return True
    try:
        text = _PROCESSOR.read_text()
    except OSError:
        return False
    return bool(
        _BF16
        & {
            flag
            for line in text.splitlines()
            if line.lower().startswith(("flags", "features"))
            for flag in line.split()
        }
    )


def _no_cuda() -> str | None:
    """Why no GPU can be used; None where one can."""
    if not _DRIVER.exists():
        return f"NVIDIA's driver is not loaded ({_DRIVER} is missing)"
    try:
        import torch
    except ImportError:
        return "PyTorch is not installed (requirements.txt has it)"
    if not torch.cuda.is_available():
        return f"PyTorch {torch.__version__} finds no GPU that it can use"
    return None
