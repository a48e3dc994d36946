"""What is said of a video: what its header claims, what was found, what is missing, and what decoding it may cost."""

import math
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What decoding one video may cost. Raises ValueError for a limit that is not positive."""

    seconds: float = 900.0
    """Wall clock that may be spent on waiting for the worker. A slow consumer is not held against the video."""
    memory: int = 1 << 30
    """Bytes of address space that the worker may take on top of its libraries."""
    duration: float = 4 * 3600.0
    """Seconds of video, claimed by the header or found."""
    frames: int = 1_500_000
    """Frames, claimed or found, whether they are sampled or not."""
    pixels: int = 8192 * 4352
    """Width times height of a frame."""

    def __post_init__(self) -> None:
        for name in ("seconds", "memory", "duration", "frames", "pixels"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be a positive number, got {value!r}")


_DAY = 24 * 3600.0


def of_ones_own(path: Path) -> Budget:
    """For a file from one's own disk, such as a recorder's of a whole day, of which nobody else waits for its end.

    Up to a month of video, and a second more for each megabyte of the file, so that one that decodes forever is given up.
    """
    size = path.stat().st_size if path.is_file() else 0  # what is not there is told by who opens it
    return Budget(seconds=Budget().seconds + size / 1e6, duration=31 * _DAY, frames=round(31 * _DAY * 60))


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoInfo:
    """The header's claims. Whether they are true shows only when the video has been read; see VideoSummary."""

    container: str
    """mp4, matroska, avi, mpegts, mpegps, flv, gif, ogg, asf, ivf, h264, hevc, mpeg4 or mpegvideo."""
    codec: str
    """FFmpeg's name of the video stream's codec, as h264."""
    duration: float | None
    """Seconds."""
    fps: float | None
    """Frames per second, on average."""
    width: int
    """Of the upright picture, in pixels."""
    height: int
    """Of the upright picture, in pixels."""
    frames: int | None
    """Frames in the video stream."""
    rotation: int
    """Degrees, counterclockwise, by which stored pictures are turned to stand upright: 0, 90, 180 or 270."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoSummary:
    """What was found."""

    duration: float
    """Seconds from the first frame to the end of the last one."""
    fps: float
    """Frames per second, on average over what was found."""
    width: int
    """Of the upright picture, in pixels."""
    height: int
    """Of the upright picture, in pixels."""
    frames: int
    """Frames that were decoded."""
    sampled: int
    """Ticks that were filled."""
    decoder: str
    """decord or pyav: the one that delivered the last frame."""


@dataclass(frozen=True, slots=True)
class VideoWarning:
    """Something that the labels do not cover."""

    code: str
    """video_truncated, video_damaged or video_timestamps; stable."""
    detail: str
    """What is missing, for a person to read."""
