"""Untrusted video in, sampled frames at the model's size out, as they are decoded.

    with open_video("kitchen.mp4", spec=checkpoint.spec) as video:
        for frame, ticks in video:
            clips = clipper.push(frame, ticks)
    print(video.summary, video.warnings)

The file's first bytes are checked here, against an allow-list; all else happens in a worker process (decode_worker.py)
that can be killed at any instant. Memory stays flat whatever the video's length: about a megabyte of frames waits in
a pipe, and the worker waits when nobody reads. What comes from the worker is checked like any other input: it may
have been taken over by the video. No pickles, no sizes that it chooses.
"""

import logging
import math
import os
import stat
import struct
from collections.abc import Callable
from dataclasses import asdict
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from models.errors import CrtError
from models.spec import ClipSpec
from pipelines import containers
from pipelines.errors import DecoderDied, UnreadableVideo, VideoError
from pipelines.frames import Frame
from pipelines.sample import EPSILON, MAX_GAP
from pipelines.video import Budget, VideoInfo, VideoSummary, VideoWarning
from pipelines.workers import Worker, workers

_LOG = logging.getLogger(__name__)
_HEADER = struct.Struct("<cI")
_FRAME = struct.Struct("<dI")
_MAX_JSON = 1 << 16
_told: set[str] = set()
_T = TypeVar("_T", bound="_Message")


class _Message(BaseModel):
    model_config = ConfigDict(allow_inf_nan=False)


class _First(_Message):
    info: VideoInfo
    unconfined: list[str]


class _Last(_Message):
    summary: VideoSummary
    warnings: list[VideoWarning]


class _Error(_Message):
    code: str
    message: str


def open_video(
    path: str | os.PathLike[str],
    *,
    spec: ClipSpec,
    rate: float | None = None,
    budget: Budget | None = None,
    threads: int = 1,
    started: Callable[[Callable[[], None]], None] | None = None,
) -> "Video":
    """Opens a video file for sampling at `rate` frames a second, by default the model's.

    Returns when the first frame has been decoded. threads is how many a decoder may use. started is handed what kills
    the worker, from any thread, as soon as there is one; Video.kill does the same later. Raises VideoError, see
    errors.py, for what cannot be decoded at all, and DecoderUnavailable where no worker can be started.
    """
    budget = budget or Budget()
    request: dict[str, Any] = {
        "spec": spec.to_dict(),
        "rate": spec.rate if rate is None else rate,
        "budget": asdict(budget),
        "threads": threads,
        "cpu_seconds": int(budget.seconds * threads) + 2,
    }
    with _open(Path(path)) as file:
        containers.sniff(file.read(containers.HEAD))
        worker = workers.fork(request, file.fileno(), budget.seconds)
    try:
        if started is not None:
            started(worker.kill)
        return Video(worker, spec, rate=request["rate"], duration=budget.duration)
    except BaseException:
        worker.close()
        raise


def _open(path: Path) -> FileIO:
    try:
        # Without O_NONBLOCK a named pipe without a writer would hold us here for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise UnreadableVideo(f"{path.name} cannot be read: {error.strerror}.") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UnreadableVideo(f"{path.name} is not a regular file. Give the path of a video file.")
    return open(descriptor, "rb", buffering=0)


class Video:
    """A video that is being decoded: iterate once, or close it; then the worker is gone. Not for several threads."""

    info: VideoInfo
    """The header's claims."""

    def __init__(self, worker: Worker, spec: ClipSpec, *, rate: float, duration: float) -> None:
        """rate and duration are what was asked of the worker, in ticks a second and in seconds."""
        self._worker = worker
        self._duration = duration
        # A longer silence is not bridged, so no frame can fill more.
        self._most_ticks = math.ceil((MAX_GAP + EPSILON) * rate) + 1
        self._shape = (spec.height, spec.width, 3)
        self._summary: VideoSummary | None = None
        self.warnings: list[VideoWarning] = []
        """What is missing; complete after the last frame."""
        kind, length = self._header()
        if kind != b"I":
            raise self._protocol_error(kind)
        first = self._checked(_First, length)
        self.info = first.info
        self._time = -math.inf
        for what in first.unconfined:
            if what not in _told:
                _told.add(what)
                _LOG.warning("video is decoded with less protection than could be: %r", what)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> tuple[Frame, int]:
        """The next frame that fills at least one tick, at the model's size, and how many it fills (see sample.py).

        Raises VideoError when decoding cannot go on; what came before stands.
        """
        if self._summary is not None:
            raise StopIteration
        try:
            return self._next()
        except BaseException:
            self.close()
            raise

    def _next(self) -> tuple[Frame, int]:
        kind, length = self._header()
        if kind == b"F" and length == _FRAME.size + math.prod(self._shape):
            meta = bytearray(_FRAME.size)
            pixels = np.empty(self._shape, np.uint8)
            self._worker.read_into(memoryview(meta))
            self._worker.read_into(pixels.data.cast("B"))
            time, ticks = _FRAME.unpack(meta)
            if not (self._time < time <= self._duration and 1 <= ticks <= self._most_ticks):
                raise self._protocol_error(kind)
            self._time = time
            return Frame(pixels, time), ticks
        if kind == b"S":
            last = self._checked(_Last, length)
            self.warnings = last.warnings
            self._summary = last.summary
            raise StopIteration
        raise self._protocol_error(kind)

    @property
    def summary(self) -> VideoSummary:
        """What was found. Raises ValueError before the last frame."""
        if self._summary is None:
            raise ValueError("what was found is known only after the last frame; iterate over the video first")
        return self._summary

    def kill(self) -> None:
        """Ends the decoding from another thread: the one that iterates gets DecoderDied. close is still due."""
        self._worker.kill()

    def close(self) -> None:
        """Ends the worker, at once if it still runs."""
        self._worker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _header(self) -> tuple[bytes, int]:
        header = bytearray(_HEADER.size)
        self._worker.read_into(memoryview(header))
        kind, length = _HEADER.unpack(header)
        if kind == b"E":
            raise _error(self._checked(_Error, length))
        return kind, length

    def _body(self, length: int) -> bytes:
        if length > _MAX_JSON:
            raise self._protocol_error(b"J")
        body = bytearray(length)
        self._worker.read_into(memoryview(body))
        return bytes(body)

    def _checked(self, kind: type[_T], length: int) -> _T:
        """A message of the worker's, with every field as it must be."""
        try:
            return kind.model_validate_json(self._body(length))
        except ValidationError as error:
            _LOG.error("the decoding process sent a wrong message: %r", error.errors()[0])
            raise self._protocol_error(b"J") from None

    @staticmethod
    def _protocol_error(kind: bytes) -> DecoderDied:
        return DecoderDied(f"The process that decoded this video spoke out of turn ({kind!r}) and was ended.")


def _error(value: _Error) -> CrtError:
    """The error that the worker named; one that it should not have is this program's fault."""
    kinds: list[type[VideoError]] = [VideoError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    by_code = {kind.code: kind for kind in kinds}
    if kind_named := by_code.get(value.code):
        return kind_named(value.message)
    _LOG.error("the decoding process failed: %r", value.message)
    return DecoderDied("The process that decoded this video failed; the log says where.")
