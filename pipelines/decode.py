"""Untrusted video in, sampled frames at the model's size out, as they are decoded.

    with open_video("kitchen.mp4", spec=checkpoint.spec) as video:
        for frame, ticks in video:
            clips = clipper.push(frame, ticks)
    print(video.summary, video.warnings)

The file's first bytes are checked here, against an allow-list; all else happens in a worker process (decode_worker.py)
that can be killed at any instant. Memory stays flat whatever the video's length: about a megabyte of frames waits in
a pipe, and the worker waits when nobody reads. What comes from the worker is checked like any other input; see messages.py.

A file may be the next piece of a stream: then its times are those of the stream, and sampling goes on where it stood.
"""

import os
import stat
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Self

from models.spec import ClipSpec
from pipelines import containers
from pipelines.errors import UnreadableVideo
from pipelines.frames import Frame
from pipelines.messages import Conversation, Ended, Request, Sampled
from pipelines.sample import SamplerState
from pipelines.video import Budget, VideoInfo, VideoSummary, VideoWarning
from pipelines.workers import Worker, workers


def open_video(
    path: str | os.PathLike[str],
    *,
    spec: ClipSpec,
    rate: float | None = None,
    budget: Budget | None = None,
    threads: int = 1,
    offset: float = 0.0,
    sampler: SamplerState | None = None,
    started: Callable[[Callable[[], None]], None] | None = None,
) -> "Video":
    """Opens a video file for sampling at `rate` frames a second, by default the model's.

    Returns when the first frame has been decoded. threads is how many a decoder may use. started is handed what kills
    the worker, from any thread, as soon as there is one; Video.kill does the same later.

    Of a stream's next piece, `offset` says where in the stream its first frame lies, in seconds: all times that come
    out count from the stream's start, and only VideoSummary and the budget go by the piece's own. `sampler` is what
    Video.sampler of the piece before said. Ticks, gaps and repeats are then those of one video that was never cut:
    frames that are not later than sampler.last are ignored, so none at all may come out.

    Raises VideoError, see errors.py, for what cannot be decoded at all, DecoderUnavailable where no worker can be
    started, and ValueError for an offset that is no number of seconds up to FARTHEST.
    """
    request = Request(
        spec=spec, rate=spec.rate if rate is None else rate, budget=budget or Budget(), offset=offset,
        sampler=sampler or SamplerState(), threads=threads,
    )  # fmt: skip
    conversation = Conversation(request)
    with _open(Path(path)) as file:
        containers.sniff(file.read(containers.HEAD))
        worker = workers.fork(request, file.fileno())
    try:
        if started is not None:
            started(worker.kill)
        return Video(worker, conversation)
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
    index: int
    """Of the last frame that was given: its place in the file, from 0. All frames count, sampled or not."""

    def __init__(self, worker: Worker, conversation: Conversation) -> None:
        """conversation knows what was asked of the worker."""
        self._worker, self._conversation = worker, conversation
        self._summary: VideoSummary | None = None
        self.warnings: list[VideoWarning] = []
        """What is missing; complete after the last frame."""
        info = self._hear()
        assert isinstance(info, VideoInfo)  # nothing else can be a conversation's first message
        self.info = info

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> tuple[Frame, int]:
        """The next frame that fills at least one tick, at the model's size, and how many it fills (see sample.py).

        Raises VideoError when decoding cannot go on; what came before stands.
        """
        if self._summary is not None:
            raise StopIteration
        try:
            message = self._hear()
        except BaseException:
            self.close()
            raise
        if isinstance(message, Sampled):
            self.index = message.index
            return message.frame, message.ticks
        assert isinstance(message, Ended)
        self._summary, self.warnings = message.summary, message.warnings
        raise StopIteration

    def _hear(self) -> VideoInfo | Sampled | Ended:
        while True:
            room = self._conversation.room()
            self._worker.read_into(room)
            if (message := self._conversation.filled(len(room))) is not None:
                return message

    @property
    def sampler(self) -> SamplerState:
        """Where sampling stands: after the last frame that was given, and at the end after all, sampled or not."""
        return self._conversation.sampler

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
