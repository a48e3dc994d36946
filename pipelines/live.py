"""Untrusted video in, byte by byte as it comes; sampled frames at the model's size out, as early as they can be had.

    async with await open_live(spec=checkpoint.spec) as video:
        feeding = asyncio.create_task(feed_all(video))      # await video.feed(part) for each; await video.end()
        async for frame, ticks in video:
            clips = clipper.push(frame, ticks)
    print(video.summary, video.warnings)

The same bytes in a file give the same frames through open_video, if the container is one that can be read without going
back: fragmented MP4, WebM, Matroska or MPEG-TS. They are decoded in a worker process as a file's are (decode_worker.py); it
may open no file at all.

A frame comes out as soon as its bytes are in. Only the first, and one after a pause of more than a second, waits for three
more, which show that its time is no mistake; and MPEG-TS does not say where a frame ends before the next one has begun, which
costs two. Memory is bounded on both sides, whatever comes and however long: what is fed waits in a socket's buffer, frames
in a pipe, about a megabyte; when both are full, feed() waits.

Not covered: how long nothing is fed, or no frame comes of what is fed (up to FRAMELESS_BYTES): who feeds knows how
patient to be. Processor time: a video of large frames takes up a core for as long as it is fed.
"""

import asyncio
import contextlib
import select
import socket
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import Self

from models.spec import ClipSpec
from pipelines.errors import DecoderDied, DecodeTimeout, VideoError
from pipelines.frames import Frame
from pipelines.messages import FARTHEST, Conversation, Ended, Request, Sampled
from pipelines.sample import SamplerState
from pipelines.video import Budget, VideoInfo, VideoSummary, VideoWarning
from pipelines.workers import Worker, workers

STALL_SECONDS = 60.0
"""A worker that has bytes to read, but neither reads nor says anything for so long, hangs and is killed."""
_BUFFER_BYTES = 128 << 10
"""Of what is fed; the kernel doubles it, and counts its own bookkeeping."""


async def open_live(
    *,
    spec: ClipSpec,
    rate: float | None = None,
    budget: Budget | None = None,
    threads: int = 1,
    offset: float = 0.0,
    sampler: SamplerState | None = None,
) -> "LiveVideo":
    """A video that nothing has been fed of yet, to be sampled at `rate` frames a second, by default the model's.

    As in open_video, `offset` says where in a stream its first frame lies, in seconds, and `sampler` where sampling
    stands. Of the budget, only memory and pixels hold: such a video may go on for days. Raises DecoderUnavailable where
    no worker can be started, and ValueError for an offset that is no number of seconds up to FARTHEST.
    """
    request = Request(
        spec=spec, rate=spec.rate if rate is None else rate,
        budget=replace(budget or Budget(), duration=FARTHEST, frames=1 << 62), offset=offset,
        sampler=sampler or SamplerState(), threads=threads, live=True,
    )  # fmt: skip
    return await asyncio.get_running_loop().run_in_executor(None, LiveVideo, request)


class LiveVideo:
    """A video that is still coming. One task feeds it, one iterates over it; all belong to the same event loop."""

    info: VideoInfo | None = None
    """The header's claims; there with the first frame."""
    index: int = -1
    """Of the last frame that was given: its place in the video, from 0. All frames count, sampled or not."""

    def __init__(self, request: Request) -> None:
        """Starts the worker, which may block for seconds: see open_live."""
        self._conversation = Conversation(request)
        self._summary: VideoSummary | None = None
        self.warnings: list[VideoWarning] = []
        """What is missing; complete after the last frame."""
        self._error: VideoError | None = None
        self._stalled: DecodeTimeout | None = None
        self._deaf = self._ended = self._closed = False
        self._wake: set[asyncio.Event] = set()
        self._dying: asyncio.Future[DecoderDied | DecodeTimeout] | None = None
        self._input, theirs = socket.socketpair()
        with theirs:
            self._input.setblocking(False)
            self._input.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
            theirs.shutdown(socket.SHUT_WR)
            try:
                self._worker: Worker = workers.fork(request, theirs.fileno())
            except BaseException:
                self._input.close()
                raise

    async def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Takes the next bytes, any number. Waits while there is no room, thus also while nobody takes the frames.

        Raises nothing that is wrong with the video: bytes after its end or an error go nowhere, and iterating tells
        why. So it does not wait for ever either, unless nobody iterates. Raises ValueError after end(). If it is cancelled,
        some of the bytes may have been taken, so that nothing more can be fed.
        """
        if self._ended:
            raise ValueError("the video has been ended; nothing can be fed after that")
        rest = memoryview(data).cast("B")
        while rest and not self._deaf:
            try:
                rest = rest[self._input.send(rest) :]
            except BlockingIOError:
                await self._writable()
            except (BrokenPipeError, ConnectionResetError):
                self._deaf = True

    async def end(self) -> None:
        """All has been fed: what can still be decoded comes out, and then the iteration ends."""
        self._ended = True
        if not self._closed:
            with contextlib.suppress(OSError):  # the worker has gone
                self._input.shutdown(socket.SHUT_WR)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[Frame, int]:
        """The next frame that fills at least one tick, at the model's size, and how many it fills (see sample.py).

        Raises VideoError when decoding cannot go on, and again when asked again; what came before stands. May be
        cancelled: nothing is lost.
        """
        if self._summary is not None:
            raise StopAsyncIteration
        if self._error is not None:
            raise self._error
        try:
            message = await self._hear()
        except VideoError as error:
            self._error = error
            self._deaf = True
            self.kill()
            raise
        if isinstance(message, Sampled):
            self.index = message.index
            return message.frame, message.ticks
        self._summary, self.warnings = message.summary, message.warnings
        raise StopAsyncIteration

    async def _hear(self) -> Sampled | Ended:
        while not self._closed:
            count = self._worker.read_some(self._conversation.room())
            if count is None:
                await self._readable()
            elif count == 0:
                death = await self._death()
                raise self._stalled or death
            else:
                message = self._conversation.filled(count)
                if isinstance(message, VideoInfo):
                    self.info = message
                elif message is not None:
                    return message
        raise DecoderDied("This video was closed before its end.")

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
        """Ends the decoding at once, from any thread: who iterates gets DecoderDied. close is still due."""
        self._worker.kill()

    async def close(self) -> None:
        """Ends the worker, at once if it still runs. Who feeds need not wait any more; who iterates gets DecoderDied."""
        if self._closed:
            return
        self._closed = self._deaf = True
        loop = asyncio.get_running_loop()
        loop.remove_writer(self._input.fileno())
        loop.remove_reader(self._worker.fileno())
        for woken in self._wake:
            woken.set()
        self._input.close()
        if self._dying is not None:
            await asyncio.wait([self._dying])
        await loop.run_in_executor(None, self._worker.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __del__(self) -> None:
        if hasattr(self, "_input"):
            self._input.close()  # the worker closes itself

    async def _writable(self) -> None:
        """Waits for room for what is fed. Kills a worker that hangs."""
        loop, fd = asyncio.get_running_loop(), self._input.fileno()
        try:
            async with asyncio.timeout(STALL_SECONDS):
                await self._woken(fd, loop.add_writer, loop.remove_writer)
        except TimeoutError:
            said = select.poll()
            said.register(self._worker.fileno(), select.POLLIN)
            if not said.poll(0):  # else it waits for who iterates
                self._stalled = DecodeTimeout(f"Decoding has made no progress for {STALL_SECONDS:g} s, and was ended.")
                self.kill()

    async def _readable(self) -> None:
        """Waits for the worker to say something, or to end."""
        loop = asyncio.get_running_loop()
        await self._woken(self._worker.fileno(), loop.add_reader, loop.remove_reader)

    async def _woken(
        self, fd: int, add: Callable[[int, Callable[[], None]], None], remove: Callable[[int], bool]
    ) -> None:
        woken = asyncio.Event()
        self._wake.add(woken)
        add(fd, woken.set)
        try:
            await woken.wait()
        finally:
            self._wake.discard(woken)
            if not self._closed:  # by then the number may be another's
                remove(fd)

    def _death(self) -> "asyncio.Future[DecoderDied | DecodeTimeout]":
        """How the worker has ended. It is about to, so this takes milliseconds; but they are not the event loop's."""
        if self._dying is None:
            self._dying = asyncio.get_running_loop().run_in_executor(None, self._worker.death)
        return asyncio.shield(self._dying)
