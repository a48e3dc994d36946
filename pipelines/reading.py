"""One video, a file or live, from first frame to last: which reader reads it, what is sampled, what it costs, what is
missing.

Runs in the worker; see decode_worker.py. Knows nothing of processes.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO

from pipelines import containers
from pipelines.containers import Container
from pipelines.errors import CorruptVideo, DecodeMemory, TooManyFrames, VideoError, VideoTooLong
from pipelines.frames import Pixels
from pipelines.live_input import LiveInput
from pipelines.readers import (
    DecordReader,
    LiveReader,
    Picture,
    PyavReader,
    Reader,
    ReaderFailed,
    decord_may_read,
    path_of,
)
from pipelines.sample import Sampler, SamplerState
from pipelines.video import Budget, VideoInfo, VideoSummary, VideoWarning

_NO_MEMORY = re.compile(rb"annot allocate memory|ailed to allocate|get_buffer\(\) failed")
"""FFmpeg's words: not all decoders pass the reason on."""
_EARLY = 0.5
"""Seconds by which a frame that is shown before its predecessor is worth a word; AVI tells times by the order of decoding."""
_ADDRESS = re.compile(r" @ 0x[0-9a-f]+")


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """A frame that fills at least one tick."""

    time: float
    """Seconds from the stream's start."""
    ticks: int
    """How many it fills."""
    index: int
    """Its place among the video's frames, from 0."""
    pixels: Pixels
    """At full size."""


def read_video(
    video: BinaryIO,
    *,
    rate: float,
    budget: Budget,
    offset: float = 0.0,
    sampler: SamplerState | None = None,
    threads: int = 1,
    said_fd: int | None = None,
) -> "FileReading":
    """Opens a video; what it gives is sampled at `rate` ticks a second.

    Of a stream's next piece, the first frame lies at `offset` seconds, and sampling goes on from `sampler`.
    said_fd is the end of a pipe on which the decoders' complaints can be read, if there is one. Raises VideoError.
    """
    video.seek(0)
    container = containers.sniff(video.read(containers.HEAD))
    return FileReading(video, container, Sampler(rate, state=sampler), offset, budget, threads, said_fd)


def read_live(
    source: LiveInput,
    container: Container,
    *,
    rate: float,
    budget: Budget,
    offset: float = 0.0,
    sampler: SamplerState | None = None,
    threads: int = 1,
    said_fd: int | None = None,
) -> "Reading":
    """The same for a video that is still coming; waits for its first frame."""
    reader = LiveReader(source, container, threads=threads, max_pixels=budget.pixels)
    info = reader.info(container, rotation=source.rotation)
    reading = Reading(reader, info, Sampler(rate, state=sampler), offset, budget, said_fd)
    reading.begin()
    return reading


class Reading:
    """A video that is being read: begun, then iterated once over the samples, then asked what was found."""

    def __init__(
        self, reader: Reader, info: VideoInfo, sampler: Sampler, offset: float, budget: Budget, said_fd: int | None
    ) -> None:
        self.info = info
        self._reader, self._sampler, self._offset, self._budget, self._said_fd = (
            reader,
            sampler,
            offset,
            budget,
            said_fd,
        )
        self._frames = self._sampled = self._skipped = self._early = 0
        self._index = -1
        self._last: Picture | None = None
        self._size: tuple[int, int] | None = None
        self._said = b""
        self._samples = self._sample()

    def begin(self) -> None:
        """Decodes the first frame. Raises VideoError when there is none."""
        self._first = next(self._samples, None)
        if self._size is None:
            raise self._no_frame()
        width, height = self._size
        self.info = replace(self.info, width=width, height=height)  # as the first frame has it: a header may lack it

    def __iter__(self) -> Iterator[Sample]:
        if self._first is not None:
            first, self._first = self._first, None
            yield first
        for sample in self._samples:
            if sample is not None:
                yield sample

    def _sample(self) -> Iterator[Sample | None]:
        """None for a first frame that is not needed: it is rendered all the same, to see whether frames can be had."""
        yield from self._sample_from(self._reader)
        self._hear()

    def _sample_from(self, reader: Reader) -> Iterator[Sample | None]:
        self._frames = self._early = 0
        latest = 0.0
        for picture in reader.pictures():
            self._frames += 1
            if self._frames > self._budget.frames:
                raise TooManyFrames(f"The video has more than {self._budget.frames:,} frames. Send a shorter part.")
            if picture.time > self._budget.duration:
                raise VideoTooLong(f"The video is longer than {self._budget.duration:g} s. Send a shorter part.")
            before = self._sampler.state()
            ticks = self._sampler.take(self._offset + picture.time)
            pixels = None
            if ticks or self._size is None:
                try:
                    pixels = picture.render()
                except ReaderFailed:
                    self._sampler = Sampler(self._sampler.rate, state=before)  # the next reader fills these ticks
                    raise
            if self._frames > 1:  # a gap before the first frame is none of the video's
                self._skipped += self._sampler.state().next_tick - before.next_tick - ticks
            if pixels is not None:
                self._sampled += ticks
                self._size = self._size or (pixels.shape[1], pixels.shape[0])
                # A second reader may lack frames that the first one had given.
                self._index = max(self._frames - 1, self._index + (ticks > 0))
                yield Sample(self._offset + picture.time, ticks, self._index, pixels) if ticks else None
            if self._last is None or picture.time > self._last.time:
                self._last = picture
            if picture.time < latest - _EARLY:
                self._early += 1
            latest = max(latest, picture.time)
            if self._frames % 256 == 0:
                self._hear()

    def _no_frame(self) -> VideoError:
        frame = self.info.width * self.info.height * 3 // 2
        if _NO_MEMORY.search(self._said) or 8 * frame > self._budget.memory:  # a few are kept, for others refer to them
            return DecodeMemory("Decoding this video needs more memory than is granted. Send it scaled down.")
        claim = f", though its header claims {self.info.frames} of them" if self.info.frames else ""
        return CorruptVideo(f"No frame of this {self.info.container} file ({self.info.codec}) can be decoded{claim}.")

    def _hear(self) -> None:
        """Takes what the decoders said out of the pipe, so that it never fills; the beginning is kept."""
        while self._said_fd is not None:
            try:
                said = os.read(self._said_fd, 1 << 16)
            except BlockingIOError:
                return
            if not said:
                return
            self._said = (self._said + said)[:4096]

    @property
    def sampler(self) -> SamplerState:
        """Where sampling stands."""
        return self._sampler.state()

    @property
    def summary(self) -> VideoSummary:
        """What was found; to be asked for after the last frame. Times are the video's own, without the offset."""
        if self._last is None:
            raise ValueError("there is a summary only after the frames")
        seconds = self._last.end
        if seconds <= self._last.time:  # the file does not say how long the last frame is shown
            usual = self._last.time / (self._frames - 1) if self._frames > 1 else 1 / (self.info.fps or 25.0)
            seconds = self._last.time + usual
        seconds = min(seconds, self._budget.duration)  # a file may say anything of how long its last frame is shown
        return VideoSummary(
            duration=seconds,
            fps=self._frames / seconds,
            width=self.info.width,
            height=self.info.height,
            frames=max(self._frames, self._index + 1),
            sampled=self._sampled,
            decoder=self._reader.name,
        )

    @property
    def warnings(self) -> list[VideoWarning]:
        """What is missing; to be asked for after the last frame."""
        return [warning for warning in (self._damaged(), self._jumped()) if warning]

    def _damaged(self) -> VideoWarning | None:
        lacking = (self.info.frames or 0) - self._frames - self._reader.misplaced
        tolerated = max(2, (self.info.frames or 0) // 100)
        failed = self._reader.failed
        if not (failed or self._said or lacking > tolerated):
            return None
        detail = "Parts are damaged: what they show may be missing or wrong."
        if lacking > 0:
            detail += f" {self._frames} of {self.info.frames} frames can be decoded."
        if failed:
            detail += f" {failed} packets cannot be decoded."
        if self._skipped:
            detail += f" {self._skipped / self._sampler.rate:.1f} s between the first and the last frame show nothing."
        if said := self._said.decode("utf-8", "replace").strip().splitlines():
            words = _ADDRESS.sub("", said[0])[:200]
            detail += f' The decoder said: "{words}".'
        return VideoWarning("video_damaged", detail)

    def _jumped(self) -> VideoWarning | None:
        details = []
        if self._reader.jumps:
            details.append(f"Its times start anew {self._reader.jumps} times; the parts were put one after the other.")
        if self._reader.misplaced:
            details.append(
                f"{self._reader.misplaced} frames have times far ahead of their neighbours' and are left out."
            )
        if self._early:
            details.append(f"{self._early} frames have earlier times than those before them and are left out.")
        return VideoWarning("video_timestamps", " ".join(details)) if details else None


class FileReading(Reading):
    """A file: decord or PyAV, claims that can be checked, and an end that is known."""

    def __init__(
        self,
        video: BinaryIO,
        container: Container,
        sampler: Sampler,
        offset: float,
        budget: Budget,
        threads: int,
        said_fd: int | None,
    ) -> None:
        """Decodes the first frame. Raises VideoError."""
        self._video, self._container = video, container
        path = path_of(video)
        is_mp4 = container.name == "mp4"
        if is_mp4 and not containers.has_index(video):
            raise CorruptVideo(
                "This MP4 has no index (moov), as when a recording or a transfer was cut off, so no frame can be found. "
                "Send the finished file."
            )
        rotation = containers.rotation(video) if is_mp4 else 0
        edited = is_mp4 and containers.edit_list_cuts(video)
        self._pyav = PyavReader(path, container, threads=threads, max_pixels=budget.pixels)
        info = self._pyav.info(container, rotation=rotation, edited=edited)
        super().__init__(self._pyav, info, sampler, offset, budget, said_fd)
        self._check_claims()
        if not edited and decord_may_read(video, container, info, alone=self._pyav.alone, memory=budget.memory):
            with contextlib.suppress(ReaderFailed):
                self._reader = DecordReader(path, info=info, threads=threads, memory=budget.memory)
        self.begin()

    def _sample(self) -> Iterator[Sample | None]:
        """From the chosen reader; if that one fails, from the first frame that it did not give, by PyAV."""
        try:
            yield from self._sample_from(self._reader)
        except ReaderFailed:
            self._reader.close()
            self._reader = self._pyav
            yield from self._sample_from(self._reader)
            self._frames = max(self._frames, self._index + 1)  # it may find none of those that were given
        self._hear()

    def _check_claims(self) -> None:
        info, budget = self.info, self._budget
        if info.duration is not None and info.duration > budget.duration:
            raise VideoTooLong(
                f"The header claims {info.duration:.1f} s of video; at most {budget.duration:g} s are accepted. "
                "Send a shorter part, or, if it is shorter than that, one whose header is sound."
            )
        if info.frames is not None and info.frames > budget.frames:
            raise TooManyFrames(
                f"The header claims {info.frames:,} frames; at most {budget.frames:,} are accepted. "
                "Send a shorter part, or, if it has fewer, one whose header is sound."
            )

    @property
    def warnings(self) -> list[VideoWarning]:
        """What is missing; to be asked for after the last frame."""
        return [warning for warning in (self._truncated(),) if warning] + super().warnings

    def _truncated(self) -> VideoWarning | None:
        found, claimed = self.summary.duration, self.info.duration
        frames = f" ({self._frames} of {self.info.frames} frames)" if self.info.frames else ""
        missing = 0.0 if claimed is None else claimed - found
        if self._reader.misplaced and self._frames + self._reader.misplaced >= (self.info.frames or 0):
            missing = 0.0  # the claim goes by the wrong times
        # A container's duration may be that of its sound; only MP4 and AVI tell the video's own.
        tolerance = 0.25 if self.info.frames else 1.0
        if missing > max(tolerance, 3 / self.summary.fps):
            detail = (
                f"It breaks off: {found:.1f} of {claimed:.1f} s{frames} can be decoded, {missing:.1f} s are missing."
            )
            return VideoWarning("video_truncated", detail)
        if self.info.frames and self._frames >= self.info.frames:
            return None  # what comes behind is none of the video's
        if lacking := containers.missing_bytes(self._video, self._container):
            detail = f"It breaks off after {found:.1f} s: {lacking:,} bytes of the file are missing."
            return VideoWarning("video_truncated", detail)
        return None
