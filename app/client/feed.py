"""Takes a source's frames into a backlog, as fast as there is room: in a thread, for decoders and cameras block."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterable, Coroutine, Generator, Iterable
from concurrent.futures import CancelledError
from typing import Any

from app.client.bookkeeping import Backlog
from app.client.sources import Encoded, Size, Source

_PATIENCE = 1.0
"""Seconds that a reader has to end; a camera may be stuck for longer, and is left behind."""


class _Reading:
    """The source, once from some frame on."""

    def __init__(self, first: int) -> None:
        self.first = first
        self.over = threading.Event()
        self.began: float | None = None
        self.task: asyncio.Task[None] | None = None
        self.thread: threading.Thread | None = None

    def due(self, frame: Encoded, now: float) -> float:
        """Seconds until this frame is due by its capture time, the first one being due at once."""
        if frame[0] < self.first:
            return 0.0
        self.began = now - frame[1] if self.began is None else self.began
        return max(0.0, self.began + frame[1] - now)


class Feed:
    """A source's frames, on their way into a backlog. Use from one event loop; `changed` guards all, and tells of changes."""

    def __init__(self, source: Source, backlog: Backlog, *, realtime: bool) -> None:
        """realtime: no frame comes before its time."""
        self.source, self.backlog, self._realtime = source, backlog, realtime and not source.live
        self.changed = asyncio.Condition()
        self.exhausted = False
        """Whether the source has come to its end."""
        self.error: Exception | None = None
        """Why there are no more frames."""
        self.read = 0
        """Number of the next frame."""
        self.lost = 0
        """Frames that had to be dropped here."""
        self._reading: _Reading | None = None

    async def go_on(self, first: int, model: Size) -> None:
        """Frames from this number on are to be sent next, be it again."""
        async with self.changed:
            if self._reading is None:
                self.source.fit(model)
                self._start(first)
            elif missing := self.backlog.rewind(first):
                if self.source.again:
                    self._stop(self._reading)
                    self.backlog.clear()
                    self._start(first)
                else:
                    self.lost += missing
            self.changed.notify_all()

    def _start(self, first: int) -> None:
        self.exhausted, self.error, self.read = False, None, first
        self._reading = reading = _Reading(first)
        frames = self.source.frames(first)
        if isinstance(frames, AsyncIterable):
            reading.task = asyncio.create_task(self._take_async(reading, frames), name="frames")
        else:
            loop = asyncio.get_running_loop()
            # A daemon: a camera that is stuck must not keep the program from ending.
            reading.thread = threading.Thread(
                target=self._take, args=(reading, frames, loop), name="frames", daemon=True
            )
            reading.thread.start()

    @staticmethod
    def _stop(reading: _Reading) -> None:
        reading.over.set()
        if reading.task is not None:
            reading.task.cancel()

    async def close(self) -> None:
        """Ends the reading."""
        reading, self._reading = self._reading, None
        if reading is None:
            return
        async with self.changed:
            self._stop(reading)
            self.changed.notify_all()
        if reading.task is not None:
            await asyncio.wait([reading.task])
        if reading.thread is not None:
            await asyncio.to_thread(reading.thread.join, _PATIENCE)

    # In the thread

    def _take(self, reading: _Reading, frames: Iterable[Encoded], loop: asyncio.AbstractEventLoop) -> None:
        error: Exception | None = None
        try:
            for frame in frames:
                if self._realtime and reading.over.wait(reading.due(frame, loop.time())):
                    break
                if not self._wait(self._put(reading, frame), reading, loop):
                    break
        except Exception as failed:  # handed to whoever reads the messages
            error = failed
        finally:
            if isinstance(frames, Generator):
                frames.close()  # frees the file or the camera
        self._wait(self._finish(reading, error), reading, loop)

    @staticmethod
    def _wait(work: Coroutine[Any, Any, bool], reading: _Reading, loop: asyncio.AbstractEventLoop) -> bool:
        if not reading.over.is_set():
            with contextlib.suppress(RuntimeError, CancelledError):  # the loop has been closed, or is about to
                return asyncio.run_coroutine_threadsafe(work, loop).result()
        work.close()
        return False

    # In the loop

    async def _take_async(self, reading: _Reading, frames: AsyncIterable[Encoded]) -> None:
        error: Exception | None = None
        try:
            async for frame in frames:
                if self._realtime:
                    await asyncio.sleep(reading.due(frame, asyncio.get_running_loop().time()))
                if not await self._put(reading, frame):
                    return
        except Exception as failed:  # handed to whoever reads the messages
            error = failed
        await self._finish(reading, error)

    async def _put(self, reading: _Reading, frame: Encoded) -> bool:
        """False if no more is wanted."""
        async with self.changed:
            if frame[0] < reading.first:  # durable already, sent by an earlier run
                return not reading.over.is_set()
            if not self.source.live:
                await self.changed.wait_for(lambda: self.backlog.has_room or reading.over.is_set())
            if reading.over.is_set():
                return False
            self.lost += self.backlog.add(frame, live=self.source.live)
            self.read = frame[0] + 1
            self.changed.notify_all()
            return True

    async def _finish(self, reading: _Reading, error: Exception | None) -> bool:
        async with self.changed:
            if not reading.over.is_set():
                self.exhausted, self.error = True, error
                self.changed.notify_all()
        return False
