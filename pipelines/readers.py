"""decord and PyAV behind one interface: pictures in order of presentation, each with its time, rendered on demand.

decord reads first. PyAV reads what decord cannot (AV1, MPEG-TS, WebM without a duration, raw streams, GIF), what it
is known to get wrong (edit lists, some AVI times), what is too long for it, and what is left of a file that breaks decord
off half way. Both give the same pictures at the same times; tests compare them. Not covered: mirrored pictures and pixels that are not
square, which both show as they are stored.

A frame that is not sampled is decoded, because others refer to it, but not copied.
"""

import bisect
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import BinaryIO, ClassVar, Protocol

import av
import av.error
import decord
import numpy as np

from pipelines import containers
from pipelines.containers import Container
from pipelines.errors import CorruptVideo, DecodeMemory, NoVideoStream, UnsupportedVideo, VideoTooLarge
from pipelines.frames import Pixels
from pipelines.live_input import LiveInput
from pipelines.video import VideoInfo

_DECORD_READS = {"mp4", "matroska", "avi", "flv"}
_DECORD_LACKS = {"av1", "libdav1d", "libaom-av1"}
_DECORD_MIN_SIDE = 17
_DECORD_SHARE = 0.5
"""Of the granted memory. decord's thread decodes ahead without a bound where frames are asked for more slowly than it gives them (its next()
sends packets for as long as no frame is ready), so a video must fit as a whole."""
_MATROSKA_DURATION = re.compile(r"([0-9]{1,9}):([0-9]{1,2}):([0-9]{1,2}(?:\.[0-9]{0,9})?)")
_MAY_START_ANEW = {"mpegts", "mpegps", "flv", "h264", "hevc", "mpeg4", "mpegvideo"}
"""Without an index for the whole: a recorder that starts again, or files joined end to end, start the times again."""
_ANEW_AFTER = 5
"""So many frames in a row more than a second too early are a new start; fewer come late out of a damaged part."""
_COUNT_FROM_ZERO = {"matroska", "asf"}
"""Their claim is the time at which the last frame ends, wherever the first one lies."""
_LEAP = 1.0
"""Seconds. A frame that is so much later than the one before it may be misplaced, or come after a gap."""
_LEAP_CONFIRMED_BY = 3
"""So many frames in a row behind a leap are a gap; after fewer, the next one falls back, and they were misplaced."""
_MAX_DEMUX_ERRORS = 100
"""A container that gives errors this often in a row has nothing more to give."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A frame that can be had."""

    time: float
    """Seconds from the first frame."""
    end: float
    """When it is no longer shown, in seconds; the same as time where the file does not say."""
    render: Callable[[], Pixels]
    """Gives uint8[H, W, 3], RGB, upright. To be called before the next picture is asked for, or not at all."""


class Reader(Protocol):
    """A video that is open."""

    name: str
    """decord or pyav."""
    failed: int
    """Packets that could not be decoded, so far."""
    jumps: int
    """Backward jumps of the times that were closed up, so far."""
    misplaced: int
    """Frames left out because their times were far ahead of those of the frames around them, so far."""

    def pictures(self) -> Iterator[Picture]:
        """In order of presentation. Raises ReaderFailed when another reader may do better."""
        ...

    def close(self) -> None:
        """Frees what the reader holds."""
        ...


class ReaderFailed(Exception):  # noqa: N818 - not an error to a user: another reader goes on
    """This reader cannot read the video, or not to its end."""


class PyavReader:
    """Any video, however damaged: what cannot be decoded is left out and counted."""

    name = "pyav"
    _THREADS = "AUTO"
    _OPTIONS: ClassVar = {"protocol_whitelist": "file"}
    """For the demuxer: only this file may be opened."""

    def __init__(self, source: str | LiveInput, container: Container, *, threads: int, max_pixels: int) -> None:
        """source is a path. Raises CorruptVideo, NoVideoStream, UnsupportedVideo, DecodeMemory or VideoTooLarge."""
        self.failed = self.jumps = self.misplaced = 0
        self._max_pixels = max_pixels
        self._may_start_anew = container.name in _MAY_START_ANEW
        self._source, self._container = source, container
        self._input = self._open()
        streams = [s for s in self._input.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
        if not streams:
            kinds = ", ".join(sorted({s.type for s in self._input.streams}))
            there = f"only {kinds}" if kinds else "nor any other"
            raise NoVideoStream(f"This {container.name} file has no video stream, {there}. Send a video.")
        best = self._input.streams.best("video")
        self._stream = best if best in streams else streams[0]
        self.alone = len(streams) == 1
        codec = self._stream.codec_context
        if codec is None or not codec.is_decoder:
            raise UnsupportedVideo(
                f"This {container.name} file's video is in a codec that is not supported. Send H.264, HEVC, VP9 or AV1."
            )
        self._codec = codec
        codec.thread_count = threads
        codec.thread_type = self._THREADS
        self._check_size(codec.width, codec.height)

    def _open(self) -> av.container.InputContainer:
        try:
            # The demuxer is named, so that nothing is guessed. Titles may be in any encoding; nobody reads them here.
            return av.open(
                self._source,
                format=self._container.demuxer,
                options=dict(self._OPTIONS),
                metadata_errors="replace",
            )
        except av.error.MemoryError as error:
            raise DecodeMemory("Reading this video's index needs more memory than is granted.") from error
        except (av.error.FFmpegError, ValueError) as error:
            raise CorruptVideo(
                f"This file starts like {self._container.name}, but cannot be opened: {_why(error)}."
            ) from error

    def info(self, container: Container, *, rotation: int, edited: bool) -> VideoInfo:
        """The header's claims; width and height are of the upright picture.

        In an edited video the stream's counts are of what is stored, not of what is shown.
        """
        stream, codec = self._stream, self._stream.codec_context
        width, height = (codec.height, codec.width) if rotation in (90, 270) else (codec.width, codec.height)
        return VideoInfo(
            container=container.name,
            codec=codec.codec.canonical_name,
            duration=self._claimed_duration(container, edited),
            fps=self._fps(),
            width=width,
            height=height,
            frames=None if edited else stream.frames or None,
            rotation=rotation,
        )

    def _fps(self) -> float | None:
        rate = self._stream.average_rate or self._stream.guessed_rate
        return float(rate) if rate else None

    def _claimed_duration(self, container: Container, edited: bool) -> float | None:
        """None where it would be an estimate from bytes or from the last time that was found, not a claim."""
        if container.name not in ("mp4", "matroska", "avi", "flv", "asf", "ogg"):
            return None
        stream = self._stream
        if stream.duration and stream.time_base and not edited:
            claimed = max(0.0, float(stream.duration * stream.time_base))
        elif tag := _MATROSKA_DURATION.fullmatch(stream.metadata.get("DURATION", "")):
            hours, minutes, seconds = tag.groups()
            claimed = int(hours) * 3600 + int(minutes) * 60 + float(seconds)
        elif self._input.duration:
            claimed = self._input.duration / av.time_base
        else:
            return None
        return claimed - self._lead(container, claimed)

    def _lead(self, container: Container, claimed: float) -> float:
        """Seconds of the claim that lie before the first frame."""
        stream = self._stream
        if container.name not in _COUNT_FROM_ZERO or not stream.start_time or not stream.time_base:
            return 0.0
        start = float(stream.start_time * stream.time_base)
        return start if 0 < start < claimed else 0.0  # a claim that ends before it can only count from the first frame

    def pictures(self) -> Iterator[Picture]:
        """In order of presentation, from the first that can be decoded to the last."""
        usual = 1 / (self._fps() or 25.0)
        shift: float | None = None
        latest = -usual
        early = 0
        for frame in self._settled():
            length = float(frame.duration * frame.time_base) if frame.duration else 0.0
            time = frame.time
            if time is None:  # no times in the file, as in a raw stream
                time = latest + usual - (shift or 0.0)
            if shift is None:
                shift = -time
            early = early + 1 if time + shift < latest - 1.0 else 0
            if self._may_start_anew and early == _ANEW_AFTER:  # go on where it stopped
                self.jumps += 1
                shift = latest + usual - time
            latest = max(latest, time + shift)
            yield Picture(time + shift, time + shift + length, partial(_upright, frame))

    def _settled(self) -> Iterator[av.VideoFrame]:
        """The frames without those of a wrong, far too late time: all later ones would seem to come too late."""
        latest: float | None = None
        held: list[av.VideoFrame] = []
        for frame in self._frames():
            self._check_size(frame.width, frame.height)
            time = frame.time
            if time is None:  # then none has one
                yield frame
                continue
            if held and time < held[0].time - _LEAP / 2:
                self.misplaced += len(held)
                held = []
            if held or latest is None or time - latest > _LEAP:
                held.append(frame)
                if len(held) <= _LEAP_CONFIRMED_BY:
                    continue
                yield from held
                held = []
            else:
                yield frame
            latest = time
        yield from held

    def _frames(self) -> Iterator[av.VideoFrame]:
        errors = 0
        while errors < _MAX_DEMUX_ERRORS:
            try:
                for packet in self._packets():
                    errors = 0
                    yield from self._decode(packet)
                return
            except av.error.MemoryError as error:
                raise DecodeMemory("Decoding this video needs more memory than is granted.") from error
            except av.error.EOFError:
                return
            except av.error.FFmpegError:
                errors += 1
                self.failed += 1

    def _packets(self) -> Iterator[av.Packet]:
        """The stream's packets, and at last an empty one, which tells the decoder that there are no more."""
        try:
            yield from self._input.demux(self._stream)
        except IndexError:
            return  # PyAV stumbles over streams that came up in between, but only at the end, after ours

    def _decode(self, packet: av.Packet) -> list[av.VideoFrame]:
        try:
            return self._codec.decode(packet)
        except av.error.MemoryError:
            raise
        except av.error.FFmpegError:
            self.failed += 1
            return []

    def _check_size(self, width: int, height: int) -> None:
        if width * height > self._max_pixels:
            raise VideoTooLarge(
                f"Frames are {width} x {height}; at most {self._max_pixels:,} pixels are accepted. Send it scaled down."
            )

    def close(self) -> None:
        """Frees what the reader holds."""
        self._input.close()


class LiveReader(PyavReader):
    """A video that is still coming: each frame as soon as it can be had."""

    _THREADS = "SLICE"  # frames that are decoded side by side come out late
    _OPTIONS: ClassVar = {
        "protocol_whitelist": "",
        # What the demuxer reads ahead to get to know the streams: as little as can be. Frame rates take 20 frames.
        "analyzeduration": "1",
        "fpsprobesize": "0",
        "probesize": "1000000",
    }

    def __init__(self, source: LiveInput, container: Container, *, threads: int, max_pixels: int) -> None:
        """Waits for the first frame's bytes. Raises what PyavReader does."""
        self._live = source
        super().__init__(source, container, threads=threads, max_pixels=max_pixels)

    def info(self, container: Container, *, rotation: int, edited: bool = False) -> VideoInfo:
        """Without what a video that goes on cannot claim."""
        return replace(super().info(container, rotation=rotation, edited=edited), duration=None, frames=None)

    def _fps(self) -> float | None:
        # Where no header tells, it would take frames to find out; without them, FFmpeg says what its clock can tell apart.
        fps = super()._fps()
        return fps if fps is not None and fps < 1000 else None

    def _open(self) -> av.container.InputContainer:
        try:
            return super()._open()
        except CorruptVideo as error:
            raise self._live.error or error from None

    def _packets(self) -> Iterator[av.Packet]:
        while True:
            end = None
            for packet in super()._packets():
                if packet.size:
                    yield packet
                else:
                    end = packet  # which tells the decoder, too, that there is no more
            if not self._live.renew():
                break
            index = self._stream.index
            self._input.close()
            self._input = self._open()
            self._stream = self._input.streams[index]
        if end is not None:
            yield end

    def _frames(self) -> Iterator[av.VideoFrame]:
        for frame in super()._frames():
            self._live.decoded()
            yield frame
        self._live.check_ended()


def _upright(frame: av.VideoFrame) -> Pixels:
    try:
        pixels = frame.to_ndarray(format="rgb24", threads=1)
    except (av.error.MemoryError, av.error.BlockingIOError) as error:  # the latter when a thread cannot be had
        raise DecodeMemory("Converting this video's frames needs more memory than is granted.") from error
    except av.error.FFmpegError as error:
        raise UnsupportedVideo(f"Frames of the format {frame.format.name} cannot be converted to RGB.") from error
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels


def _why(error: Exception) -> str:
    """FFmpeg's words without PyAV's number and the path, which says nothing to a user."""
    return str(getattr(error, "strerror", None) or error).rstrip(".")


class DecordReader:
    """A sound video in a common format."""

    name = "decord"
    failed = jumps = misplaced = 0

    def __init__(self, path: str, *, info: VideoInfo, threads: int, memory: int) -> None:
        """Raises ReaderFailed for a video that decord rejects, that is too long for it, or whose times or sizes it gets wrong."""
        try:
            self._reader = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=threads)
            count = len(self._reader)
            if not _fits(count, info, memory):  # there are more frames than the header claims
                raise ReaderFailed("decord would need more memory than is granted")
            # Fails when the header counts more frames than there are; asking decord for those can hang.
            times = self._reader.get_frame_timestamp(np.arange(count)).astype(np.float64)
        except (decord.DECORDError, RuntimeError, IndexError, MemoryError) as error:
            raise ReaderFailed("decord cannot open it") from error
        if count == 0 or times.shape != (count, 2) or not np.isfinite(times).all():
            raise ReaderFailed("decord finds no times")
        starts = times[:, 0]
        steps = np.diff(starts)
        # decord sorts times: one that is wrong would move all frames after it.
        if abs(starts[0]) > 1e-6 or (steps < 0).any() or (steps > _LEAP).any() or _far_from_claim(starts, info):
            raise ReaderFailed("decord's times are wrong, or may be")
        self._starts, self._ends = starts.tolist(), times[:, 1].tolist()
        self._keys = sorted(self._reader.get_key_indices())
        self._position = 0

    def pictures(self) -> Iterator[Picture]:
        """In order of presentation. Raises ReaderFailed at the first that cannot be decoded."""
        for index, (start, end) in enumerate(zip(self._starts, self._ends, strict=True)):
            yield Picture(start, max(start, end), partial(self._render, index))
        if self._position < len(self._starts):  # the last ones may be what is damaged
            self._render(len(self._starts) - 1)

    def _render(self, index: int) -> Pixels:
        try:
            while self._position < index:
                self._pass(index)
            pixels = self._reader.next().asnumpy()
        except (decord.DECORDError, RuntimeError, StopIteration, MemoryError) as error:  # PyAV needs less memory
            raise ReaderFailed(f"decord stops at frame {index}") from error
        self._position = index + 1
        return pixels

    def _pass(self, index: int) -> None:
        """Goes on toward a frame.

        skip_frames saves making pictures of what is passed. But where a key frame comes it jumps there (as get_batch does), and
        lands on a wrong one in fragmented files and in those that do not start at zero: a key frame is reached step by step.
        """
        key = bisect.bisect_right(self._keys, self._position)
        before_key = self._keys[key] - 1 if key < len(self._keys) else len(self._starts)
        count = min(index, before_key) - self._position
        if count > 0:
            self._reader.skip_frames(count)
        else:
            self._reader.next()
        self._position += max(count, 1)

    def close(self) -> None:
        """Frees what the reader holds."""
        del self._reader


def _far_from_claim(starts: np.ndarray, info: VideoInfo) -> bool:
    """decord's span of times differs from the header's; a file that was cut off is PyAV's, too."""
    return info.duration is not None and abs(float(starts[-1]) - info.duration) > max(1.0, 0.1 * info.duration)


def _fits(frames: float, info: VideoInfo, memory: int) -> bool:
    """Whether so many pictures, packed as they are now, take up no more than decord's share of the bytes granted."""
    return frames * info.width * info.height * 3 <= _DECORD_SHARE * memory


def decord_may_read(file: BinaryIO, container: Container, info: VideoInfo, *, alone: bool, memory: int) -> bool:
    """Whether decord is known to be right on such a video, in so many bytes of memory, as far as can be told from the header.

    Not on edited ones; alone is whether there is one video stream only, as decord's choice among several is its own.
    """
    return (
        container.name in _DECORD_READS
        and info.codec not in _DECORD_LACKS
        and info.duration is not None
        and alone
        and min(info.width, info.height) >= _DECORD_MIN_SIDE
        and _fits(info.frames or info.duration * (info.fps or 25.0), info, memory)
        and not containers.missing_bytes(file, container)
    )


def quiet() -> None:
    """Lets FFmpeg in both readers say errors on the standard error stream, and nothing below that."""
    decord.logging.set_level(decord.logging.ERROR)
    av.logging.set_libav_level(av.logging.ERROR)
    av.logging.restore_default_callback()


def path_of(file: BinaryIO) -> str:
    """A path by which a reader opens a file that this process holds open, whatever has become of its name."""
    return f"/dev/fd/{file.fileno()}" if not os.path.exists("/proc/self/fd") else f"/proc/self/fd/{file.fileno()}"
