"""What video is made of here: a frame and a clip. Each knows its time and checks itself at birth."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One picture. Raises ValueError for pixels of another shape or type and for a time that is no number."""

    pixels: Pixels
    """uint8[H, W, 3], RGB, upright."""
    time: float
    """Presentation time, in seconds from the stream's start."""

    def __post_init__(self) -> None:
        _check_pixels(self.pixels, "[H, W, 3]", 3)
        if not math.isfinite(self.time):
            raise ValueError(f"time must be a finite number of seconds, got {self.time!r}")


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """T frames at the model's rate. Raises ValueError for other shapes or types and for an end before the start."""

    frames: tuple[Pixels, ...]
    """T times uint8[H, W, 3], RGB, upright, at the model's size. Padding repeats one."""
    start: float
    """Seconds from the stream's start: the time of the clip's first tick."""
    end: float
    """Where the last tick's time ends. Padding does not count: a clip cut short by a gap or the end is shorter."""

    def __post_init__(self) -> None:
        if not self.frames:
            raise ValueError("a clip has frames, got none")
        for pixels in self.frames:
            _check_pixels(pixels, "[H, W, 3]", 3)
        if not (math.isfinite(self.start) and math.isfinite(self.end) and self.start < self.end):
            raise ValueError(f"a clip must end after it starts, got {self.start!r} to {self.end!r}")

    def pixels(self) -> Pixels:
        """A copy of all frames: uint8[T, H, W, 3]."""
        return np.stack(self.frames)


def _check_pixels(pixels: Pixels, shape: str, dimensions: int) -> None:
    if pixels.dtype != np.uint8:
        raise ValueError(f"pixels must be uint8, got {pixels.dtype}")
    if pixels.ndim != dimensions or pixels.shape[-1] != 3 or 0 in pixels.shape:
        raise ValueError(f"pixels must be {shape}, got {pixels.shape}")
