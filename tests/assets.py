"""The test videos: each one's truth, and how it is made.

All are encoded here, by PyAV, so nothing is shipped. Frame k shows its own number, k in Gray code as black and white
blocks, large enough to survive any codec and any resize: so a test reads off the pixels which frame it got
(`number_of`). `numbered` makes them; the table VIDEOS names the usual ones; functions at the end spoil them.
"""

import io
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from models.spec import ClipSpec

SHARED = Path(__file__).resolve().parent.parent.parent / "shared"
"""Real videos, on the development machine only."""

SPEC = ClipSpec(
    frames=4, rate=8.0, height=96, width=128, fit="stretch", mean=(0.5,) * 3, std=(0.5,) * 3, feature_width=8
)
"""For tests that need no model."""

ROWS, COLUMNS = 3, 4
TICKS = 90_000
"""Units of time in a second, in the files that are made."""


def picture(number: int, *, width: int = 128, height: int = 96) -> np.ndarray:
    """uint8[height, width, 3]: the number, below 4096, as blocks; the most significant bit comes first."""
    gray = number ^ (number >> 1)
    bits = [(gray >> shift) & 1 for shift in reversed(range(ROWS * COLUMNS))]
    rows = np.arange(height) * ROWS // height
    columns = np.arange(width) * COLUMNS // width
    values = np.array(bits, np.uint8).reshape(ROWS, COLUMNS) * 190 + 30
    return np.repeat(values[rows][:, columns, None], 3, axis=2)


def number_of(pixels: np.ndarray) -> int:
    """The number that a picture shows, at any size."""
    height, width = pixels.shape[:2]
    gray = 0
    for row in range(ROWS):
        for column in range(COLUMNS):
            y, x = (2 * row + 1) * height // (2 * ROWS), (2 * column + 1) * width // (2 * COLUMNS)
            block = pixels[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3]
            gray = gray << 1 | int(block.mean() > 125)
    number = 0
    while gray:
        number ^= gray
        gray >>= 1
    return number


@dataclass(frozen=True)
class Truth:
    """What is in a video."""

    path: Path
    times: tuple[float, ...]
    """Of each frame, in seconds; frame k shows the number k."""
    duration: float
    """Seconds."""


def numbered(
    path: Path,
    *,
    frames: int = 50,
    fps: float = 25.0,
    times: Sequence[float] | None = None,
    width: int = 128,
    height: int = 96,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    format: str | None = None,
    options: dict[str, str] | None = None,
    codec_options: dict[str, str] | None = None,
    rotation: int = 0,
    audio: bool = False,
    first_number: int = 0,
    second_stream: bool = False,
    metadata: dict[str, str] | None = None,
) -> Truth:
    """Encodes frames that show their numbers, at k / fps or at the times given.

    rotation is in degrees, counterclockwise: pictures are stored turned the other way. second_stream adds a smaller
    video stream that shows 4095 throughout.
    """
    at = [k / fps for k in range(frames)] if times is None else list(times)
    with _ordinary(), av.open(str(path), "w", format=format, options=options or {}) as output:
        output.metadata.update(metadata or {})
        stored = (height, width) if rotation in (90, 270) else (width, height)
        stream = _stream(output, codec, fps, stored, pix_fmt, codec_options)
        if rotation:
            stream.set_display_rotation(rotation)
        second = _stream(output, codec, fps, (64, 48), pix_fmt, codec_options) if second_stream else None
        sound = output.add_stream("aac", rate=8000) if audio else None
        for number, time in enumerate(at, start=first_number):
            pixels = np.rot90(picture(number, width=width, height=height), -(rotation // 90))
            _encode(output, stream, pixels, time, pix_fmt)
            if second is not None:
                _encode(output, second, picture(4095, width=64, height=48), time, pix_fmt)
        for each in (stream, second):
            if each is not None:
                output.mux(each.encode(None))
        if sound is not None:
            _silence(output, sound, at[-1] + 1 / fps)
    return Truth(path, tuple(at), at[-1] + 1 / fps)


@contextmanager
def _ordinary() -> Iterator[None]:
    """Of root's processes SVT-AV1 makes real-time ones, priority 99, and leaves them so: they and what they start would starve the machine."""
    try:
        yield
    finally:
        if os.sched_getscheduler(0) != os.SCHED_OTHER:
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def _stream(
    output: Any, codec: str, fps: float, size: tuple[int, int], pix_fmt: str, options: dict[str, str] | None
) -> Any:
    stream = output.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
    stream.width, stream.height = size
    stream.pix_fmt = pix_fmt
    stream.codec_context.gop_size = 12
    stream.codec_context.thread_count = 1
    known = codec in ("mpeg4", "mpeg2video", "flv", "gif", "wmv2")  # these take no time but a multiple of a frame's
    stream.codec_context.time_base = 1 / stream.codec_context.framerate if known else Fraction(1, TICKS)
    if codec == "libx264":
        stream.codec_context.options = {"preset": "veryfast", "crf": "18"}
    stream.codec_context.options |= options or {}
    return stream


def _encode(output: Any, stream: Any, pixels: np.ndarray, time: float, pix_fmt: str) -> None:
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24").reformat(format=pix_fmt)
    base = stream.codec_context.time_base
    frame.time_base, frame.pts = base, round(time / base)
    output.mux(stream.encode(frame))


def _silence(output: Any, stream: Any, seconds: float) -> None:
    for start in range(0, int(seconds * 8000), 1024):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 8000, start, Fraction(1, 8000)
        output.mux(stream.encode(frame))
    output.mux(stream.encode(None))


def audio_only(path: Path, *, seconds: float = 1.0) -> Path:
    """Silence in AAC, in a container that could hold video."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("aac", rate=8000)
        _silence(output, stream, seconds)
    return path


def copy_repeated(source: Path, path: Path, *, times: int) -> None:
    """The same packets over and over, so that a video of hours is made in moments."""
    with av.open(str(source)) as one:
        packets = [(bytes(p), p.pts, p.dts, p.is_keyframe) for p in one.demux(video=0) if p.dts is not None]
        template = one.streams.video[0]
        length = round(template.duration)
        with av.open(str(path), "w") as output:
            stream = output.add_stream_from_template(template)
            for turn in range(times):
                for data, pts, dts, key in packets:
                    packet = av.Packet(data)
                    packet.stream, packet.time_base = stream, template.time_base
                    packet.pts, packet.dts, packet.is_keyframe = pts + turn * length, dts + turn * length, key
                    output.mux(packet)


def retimed(source: Path, path: Path, late: dict[int, float]) -> None:
    """The same packets, but some are shown so many seconds late: a muxer's mistake."""
    with av.open(str(source)) as one, av.open(str(path), "w") as output:
        template = one.streams.video[0]
        stream = output.add_stream_from_template(template)
        for number, packet in enumerate(p for p in one.demux(template) if p.dts is not None):
            packet.pts += round(late.get(number, 0.0) / packet.time_base)
            packet.stream = stream
            output.mux(packet)


def with_late_sound(path: Path) -> int:
    """A transport stream whose sound begins half way, as a broadcast's may: further streams come up that nothing announced.

    Noise, since 5 MB have to come before and after for FFmpeg not to look so far ahead. Returns how many pictures there are.
    """

    def part(pictures: int, sounds: int) -> bytes:
        out = io.BytesIO()
        with av.open(out, "w", format="mpegts") as output:
            stream = output.add_stream("mpeg2video", rate=25, options={"qmin": "1", "qmax": "1", "b": "900000000"})
            stream.width, stream.height, stream.pix_fmt, stream.codec_context.gop_size = 320, 240, "yuv420p", 1
            silent = [output.add_stream("aac", rate=8000) for _ in range(sounds)]
            noise = np.random.default_rng(0)
            for _ in range(pictures):
                pixels = noise.integers(0, 255, (240, 320, 3), np.uint8)
                output.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
            output.mux(stream.encode(None))
            for one in silent:
                _silence(output, one, 1.0)
        return out.getvalue()

    path.write_bytes(part(50, 0) + part(5, 8) + part(50, 0))
    return 105


@dataclass(frozen=True)
class Recipe:
    """One of the usual videos."""

    name: str
    """File name; the ending is the container."""
    settings: dict[str, Any] = field(default_factory=dict)
    """For numbered()."""
    decoder: str = "decord"
    """The reader that must read it."""
    exact: float = 2e-3
    """By how many seconds a time may differ from the truth."""


VIDEOS: tuple[Recipe, ...] = (
    Recipe("fps5.mp4", {"fps": 5.0, "frames": 12}),
    Recipe("fps24.mp4", {"fps": 24.0}),
    Recipe("fps25.mov", {"fps": 25.0}),
    Recipe("fps30.mkv", {"fps": 30.0}),
    Recipe("fps2997.mp4", {"fps": 30000 / 1001}),
    Recipe("fps60.mp4", {"fps": 60.0, "frames": 90}),
    Recipe("variable.mp4", {"times": [0, 0.04, 0.05, 0.3, 0.31, 0.32, 0.9, 1.0, 1.4, 1.45, 1.5, 1.55]}),
    Recipe("rotated90.mp4", {"rotation": 90}),
    Recipe("rotated180.mov", {"rotation": 180}),
    Recipe("rotated270.mp4", {"rotation": 270}),
    Recipe("sound.mp4", {"audio": True}),
    Recipe("fragmented.mp4", {"options": {"movflags": "frag_keyframe+empty_moov"}}),
    Recipe("faststart.mp4", {"options": {"movflags": "faststart"}}),
    Recipe("late.mp4", {"times": [7.5 + k / 25 for k in range(30)], "options": {"use_editlist": "0"}}),
    Recipe("hevc.mp4", {"codec": "libx265", "codec_options": {"x265-params": "log-level=none:pools=1"}}),
    Recipe("ten_bit.mp4", {"pix_fmt": "yuv420p10le"}),
    Recipe("vp8.webm", {"codec": "libvpx"}),
    Recipe("vp9.webm", {"codec": "libvpx-vp9", "codec_options": {"cpu-used": "8", "deadline": "realtime"}}),
    Recipe("mpeg4.avi", {"codec": "mpeg4", "codec_options": {"b": "2000000"}}),
    Recipe("odd.mp4", {"width": 131, "height": 97, "pix_fmt": "yuv444p"}),
    Recipe("cut_by_edits.mp4", {"times": [k / 25 - 0.4 for k in range(50)]}, "pyav"),
    Recipe("recorded.webm", {"codec": "libvpx", "options": {"live": "1"}}, "pyav"),
    Recipe("av1.mp4", {"codec": "libsvtav1", "frames": 26, "codec_options": {"preset": "9", "crf": "8", "svtav1-params": "lp=1"}},
           "pyav"),
    Recipe("stream.ts", {}, "pyav"),
    Recipe("mpeg2.mpg", {"codec": "mpeg2video", "codec_options": {"b": "2000000"}, "format": "mpeg"}, "pyav", 0.05),
    Recipe("raw.h264", {"codec_options": {"bf": "0"}}, "pyav"),
    Recipe("moving.gif", {"codec": "gif", "pix_fmt": "rgb8", "frames": 20, "fps": 10.0}, "pyav", 0.011),
    Recipe("tiny.mp4", {"width": 16, "height": 16}, "pyav"),
    Recipe("two.mp4", {"second_stream": True}, "pyav"),
)  # fmt: skip


def make(recipe: Recipe, folder: Path) -> Truth:
    """The video of a recipe; made at the first call, found again in the folder later."""
    made = folder / recipe.name
    if made.exists():
        times = recipe.settings.get("times") or [
            k / recipe.settings.get("fps", 25.0) for k in range(recipe.settings.get("frames", 50))
        ]
        return Truth(made, tuple(times), times[-1] + 1 / recipe.settings.get("fps", 25.0))
    return numbered(made, **recipe.settings)


# What spoils them


def cut(source: Path, path: Path, *, keep: float) -> Path:
    """The first part of the bytes, as when a transfer broke off."""
    data = source.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    return path


def damage(source: Path, path: Path, *, start: float, length: int, seed: int = 0) -> Path:
    """Noise in the middle: `length` bytes from the part `start` of the file on."""
    data = bytearray(source.read_bytes())
    at = int(len(data) * start)
    data[at : at + length] = np.random.default_rng(seed).bytes(length)
    path.write_bytes(data)
    return path


def patch(source: Path, path: Path, change: Callable[[bytearray], None]) -> Path:
    """A copy with bytes changed in place."""
    data = bytearray(source.read_bytes())
    change(data)
    path.write_bytes(data)
    return path


def claim_avi_frames(count: int) -> Callable[[bytearray], None]:
    """An AVI whose headers count `count` frames."""

    def change(data: bytearray) -> None:
        struct.pack_into("<I", data, data.index(b"avih") + 8 + 16, count)
        struct.pack_into("<I", data, data.index(b"strh") + 8 + 32, count)

    return change


def claim_mp4_duration(units: int) -> Callable[[bytearray], None]:
    """An MP4 of one track whose last frame, by the table of times, is shown for `units` of the track's time scale."""

    def change(data: bytearray) -> None:
        for box in (b"mdhd", b"mvhd"):
            at = data.index(box) + 4
            struct.pack_into(">I", data, at + 16, units)

    return change


def claim_mp4_samples(count: int) -> Callable[[bytearray], None]:
    """An MP4 whose tables of sizes and times count `count` frames: all of the first one's size, at equal distances."""

    def change(data: bytearray) -> None:
        stsz = data.index(b"stsz") + 8
        struct.pack_into(">II", data, stsz, 100, count)
        stts = data.index(b"stts") + 8
        struct.pack_into(">II", data, stts, 1, count)

    return change
