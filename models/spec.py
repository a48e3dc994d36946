"""What a backbone wants to see: the one description from which sampling, resizing and shapes follow. No torch."""

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

Fit = Literal["stretch", "crop"]
"""How a picture of any shape becomes height x width; see ClipSpec.fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipSpec:
    """The clips that a backbone reads and the features that it gives.

    Raises ValueError, naming the field, for a value that no backbone can have.
    """

    frames: int
    """T, sampled frames in a clip."""
    rate: float
    """Sampled frames per second of video."""
    height: int
    """H, in pixels."""
    width: int
    """W, in pixels."""
    fit: Fit
    """"stretch": the whole picture resized to height x width; "crop": scaled until it covers, centre cropped."""
    mean: tuple[float, float, float]
    """Subtracted from each channel of a picture in [0, 1]."""
    std: tuple[float, float, float]
    """Each channel is divided by it after that."""
    feature_width: int
    """F, the length of one clip's feature."""

    def __post_init__(self) -> None:
        for name in ("frames", "height", "width", "feature_width"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        if not (math.isfinite(self.rate) and self.rate > 0):
            raise ValueError(f"rate must be a positive number of frames per second, got {self.rate!r}")
        if self.fit not in get_args(Fit):
            raise ValueError(f"fit must be one of {', '.join(get_args(Fit))}, got {self.fit!r}")
        for name in ("mean", "std"):
            value = getattr(self, name)
            if not isinstance(value, tuple) or len(value) != 3 or not all(math.isfinite(v) for v in value):
                raise ValueError(f"{name} must be a tuple of three numbers (R, G, B), got {value!r}")
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive, got {self.std!r}")

    @property
    def clip_seconds(self) -> float:
        """How much of the video one clip covers, in seconds."""
        return self.frames / self.rate

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values; from_dict is the inverse."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ClipSpec":
        """Raises ValueError for missing, unknown or impossible fields."""
        known = {field.name for field in fields(cls)}
        if missing := sorted(known - values.keys()):
            raise ValueError(f"missing {', '.join(missing)}")
        if unknown := sorted(values.keys() - known):
            raise ValueError(f"unknown {', '.join(unknown)}")
        plain: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        return cls(**plain)


SMALL = ClipSpec(
    frames=4,
    rate=8.0,
    height=240,
    width=320,
    fit="stretch",
    mean=(0.45, 0.45, 0.45),
    std=(0.25, 0.25, 0.25),
    feature_width=256,
)
"""What the small backbone reads (models/small.py)."""
LOOK = 64
"""S, side of its closer look in pixels."""
LEVELS = 3
"""Sizes of the picture that a closer look chooses from: whole, a half, a quarter."""
