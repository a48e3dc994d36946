"""Frames with times in, clips out: the one rule by which every door samples. By time, incremental, causal.

The grid. Tick k lies at k/rate seconds from the stream's first frame. The first frame at or after a tick's time fills
it, so a frame fills every tick that is still open up to its own time: a 5 fps source fills an 8 Hz grid by repetition,
a 60 fps source fills it with every seventh or eighth frame. No frame is taken before its time has come, so a file and
a live stream of the same frames give the same clips.

Gaps. When more than max_gap seconds pass without a frame, nothing is known of that while: its ticks are skipped, the
frame after it fills one tick only, and no clip spans the gap.

Order. A frame that is not later than the one before it is ignored: it is a repeat, or it came too late.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from models.spec import ClipSpec
from pipelines.frames import Clip, Frame, Pixels

MAX_GAP = 1.0
"""Seconds without a frame that repetition may bridge."""

EPSILON = 1e-3
"""Seconds by which a frame may come before its tick: Matroska and FLV round times to milliseconds, and decord gives
them as float32, half a millisecond apart after two hours."""


def last_tick(elapsed: float, rate: float) -> int:
    """The last tick whose time has come, `elapsed` seconds after the stream's first frame."""
    return math.floor((elapsed + EPSILON) * rate)


@dataclass(frozen=True, slots=True)
class SamplerState:
    """All that a Sampler remembers; plain numbers, so it can be kept anywhere."""

    origin: float | None = None
    """The first frame's time; None before it."""
    last: float | None = None
    """The latest frame's time, whether it filled a tick or not."""
    next_tick: int = 0
    """The first tick that is open."""


class Sampler:
    """Says which frames are needed; see the rule above. Keeps three numbers, whatever the stream's length."""

    def __init__(self, rate: float, *, max_gap: float = MAX_GAP, state: SamplerState | None = None) -> None:
        if not (math.isfinite(rate) and rate > 0):
            raise ValueError(f"rate must be a positive number of ticks per second, got {rate!r}")
        if not max_gap > 0:
            raise ValueError(f"max_gap must be a positive number of seconds, got {max_gap!r}")
        self.rate = rate
        self.max_gap = max_gap
        self._state = state or SamplerState()

    def take(self, time: float) -> int:
        """How many ticks the frame of this time fills; 0 when it is not needed and need not even be decoded.

        Times are in seconds. Raises ValueError for a time that is not a finite number.
        """
        if not math.isfinite(time):
            raise ValueError(f"time must be a finite number of seconds, got {time!r}")
        origin, last, next_tick = self._state.origin, self._state.last, self._state.next_tick
        if origin is None or last is None:
            self._state = SamplerState(time, time, 1)
            return 1
        if time <= last:
            return 0
        newest = last_tick(time - origin, self.rate)
        ticks = max(0, newest - next_tick + 1)
        if time - last > self.max_gap + EPSILON:
            ticks = min(ticks, 1)
        self._state = SamplerState(origin, time, max(next_tick, newest + 1))
        return ticks

    def needs(self, time: float) -> bool:
        """Whether take would give more than 0. Changes nothing."""
        before = self._state
        needed = self.take(time) > 0
        self._state = before
        return needed

    def state(self) -> SamplerState:
        """What Sampler(..., state=...) goes on from."""
        return self._state


@dataclass(frozen=True, slots=True, eq=False)
class ClipperState:
    """All that a Clipper remembers; without pending frames it is two numbers."""

    origin: float | None = None
    """The first frame's time, in seconds; None before it."""
    next_tick: int = 0
    """The tick after the last one that was filled."""
    pending: tuple[Pixels, ...] = ()
    """The frames of the clip that is still filling, one for each tick, fewer than T."""


class Clipper:
    """Groups sampled frames into clips of spec.frames; holds fewer than that many frames at any time."""

    def __init__(self, spec: ClipSpec, *, rate: float | None = None, state: ClipperState | None = None) -> None:
        state = state or ClipperState()
        if len(state.pending) >= spec.frames:
            raise ValueError(f"a clip that is filling has fewer than {spec.frames} frames, got {len(state.pending)}")
        self.spec = spec
        self.rate = spec.rate if rate is None else rate
        self._origin = state.origin
        self._next_tick = state.next_tick
        self._pending = list(state.pending)

    def push(self, frame: Frame, ticks: int) -> list[Clip]:
        """The clips that this frame completes, oldest first.

        The frame is at the model's size; ticks is what Sampler.take gave for its time, 0 changes nothing. When ticks
        were skipped before it, the clip that was filling is padded and comes first. Raises ValueError for another
        size and for ticks that contradict the frame's time.
        """
        if ticks == 0:
            return []
        expected = (self.spec.height, self.spec.width, 3)
        if frame.pixels.shape != expected:
            raise ValueError(f"a sampled frame must be {expected}, got {frame.pixels.shape}; see fit()")
        if self._origin is None:
            self._origin = frame.time
        newest = last_tick(frame.time - self._origin, self.rate)
        first = newest - ticks + 1
        if ticks < 0 or first < self._next_tick:
            raise ValueError(f"a frame at {frame.time} s cannot fill {ticks} ticks: tick {self._next_tick} is next")
        clips = self.flush() if first > self._next_tick else []
        self._next_tick = first
        for _ in range(ticks):
            self._pending.append(frame.pixels)
            self._next_tick += 1
            if len(self._pending) == self.spec.frames:
                clips += self.flush()
        return clips

    def flush(self) -> list[Clip]:
        """The clip that was filling, padded by repeating its last frame; nothing when none was."""
        if not self._pending or self._origin is None:
            return []
        present = len(self._pending)
        padding = [self._pending[-1]] * (self.spec.frames - present)
        clip = Clip(
            frames=(*self._pending, *padding),
            start=self._origin + (self._next_tick - present) / self.rate,
            end=self._origin + self._next_tick / self.rate,
        )
        self._pending = []
        return [clip]

    def state(self) -> ClipperState:
        """What Clipper(..., state=...) goes on from."""
        return ClipperState(self._origin, self._next_tick, tuple(self._pending))


def fit(pixels: Pixels, spec: ClipSpec) -> Pixels:
    """The picture at the model's size: uint8[H, W, 3] of any size -> uint8[spec.height, spec.width, 3].

    The one resize for all doors: averaging over areas where a side shrinks, linear where it grows. "stretch" takes
    the whole picture; "crop" takes the largest centred part of the model's proportions, which is scaling until it
    covers and then cropping (torchvision's Resize and CenterCrop), but never makes a thin picture huge on the way.
    """
    if spec.fit == "crop":
        pixels = _centre(pixels, spec.height, spec.width)
    height, width = pixels.shape[:2]
    smaller = min(width, spec.width), min(height, spec.height)
    if smaller != (width, height):
        pixels = cv2.resize(pixels, smaller, interpolation=cv2.INTER_AREA)
    if smaller != (spec.width, spec.height):
        pixels = cv2.resize(pixels, (spec.width, spec.height), interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(pixels)


def _centre(pixels: Pixels, height: int, width: int) -> Pixels:
    """The largest centred part whose sides are as height to width."""
    have_height, have_width = pixels.shape[:2]
    scale = min(have_height / height, have_width / width)
    keep_height = min(have_height, max(1, round(height * scale)))
    keep_width = min(have_width, max(1, round(width * scale)))
    top, left = (have_height - keep_height) // 2, (have_width - keep_width) // 2
    return pixels[top : top + keep_height, left : left + keep_width]
