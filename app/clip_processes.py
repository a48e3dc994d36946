"""The asking side of pipelines/clip_worker.py: pictures and clips of all streams, oldest first, to processes that are free.

A process has a few requests at a time, so that it need not wait for the next one. When one ends, its requests are asked again, of another: the
one that it was at once more, the others as if nothing had been.
"""

import asyncio
import contextlib
import json
import logging
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, cast

import numpy as np

from app.metrics import Metrics
from models.errors import CrtError
from pipelines.clip_worker import ANSWER, HEADER, PLACE, SECONDS
from pipelines.frames import Pixels
from pipelines.pictures import BadPicture
from pipelines.places import OwnPlaces
from pipelines.recognizer import Recognizer
from pipelines.workers import environment

log = logging.getLogger(__name__)
_ROOT = Path(__file__).resolve().parent.parent
_DEPTH = 6
"""Requests that a process has at most: at 2 it waits for the asking side when that has much to do; 12 bring no more."""
_TRIES = 3
"""Processes that may end at one request."""
_START_SECONDS = 120.0
_NO_START = "the processes for pictures and clips cannot be started; their error output says why"
_AGAIN = 1.0
"""Seconds before a process that did not come up is started again."""


class ClipProcessDied(CrtError):  # noqa: N818 - named after what is wrong
    """The process that worked on a clip ended; the clip may be sent again."""

    code = "internal"


@dataclass(slots=True, eq=False)
class _Request:
    stage: str
    """decode or backbone."""
    message: list[bytes | memoryview]
    frames: Sequence[Pixels]
    """Whose places must stay taken until the answer is there."""
    answer: "asyncio.Future[bytes]"
    since: float = field(default_factory=time.perf_counter)
    ended: int = 0
    """Processes that ended at it."""


class _Worker(asyncio.Protocol):
    """One process, seen from outside."""

    def __init__(self, processes: "ClipProcesses") -> None:
        self._processes = processes
        self.doing: deque[_Request] = deque()
        self._said = bytearray()
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.WriteTransport

    def ask(self, request: _Request) -> None:
        self.doing.append(request)
        self.transport.writelines(request.message)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        self._said += data
        while len(self._said) >= ANSWER.size:
            kind, length, spent, took = ANSWER.unpack_from(self._said)
            if len(self._said) < ANSWER.size + length:
                return
            body = bytes(self._said[ANSWER.size : ANSWER.size + length])
            del self._said[: ANSWER.size + length]
            if kind == b"R":
                if unconfined := json.loads(body):
                    log.warning(
                        "processes that decode pictures are not confined as they should be: %s", "; ".join(unconfined)
                    )
                self.ready.set_result(None)
            else:
                self._processes.answered(self, self.doing.popleft(), kind, body, spent, took)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ready.done():  # nor has it been asked anything
            self.ready.set_exception(RuntimeError(_NO_START))
            self.ready.exception()  # seen
        else:
            self._processes.lost(self)


class ClipProcesses:
    """So many processes, and what waits for them. An async context manager: they end with it."""

    def __init__(self, recognizer: Recognizer, metrics: Metrics, *, processes: int, streams: int) -> None:
        """streams: whose frames may be here at the same time, each with no more than two clips."""
        self._spec, self._metrics, self._count = recognizer.spec, metrics, processes
        self._graphs = recognizer.backbone_graphs
        self._width = recognizer.spec.feature_width
        self._places = OwnPlaces(2 * streams * self._spec.frames, self._spec.height, self._spec.width)
        self._waiting: deque[_Request] = deque()
        self._workers: list[_Worker] = []
        self._programs: list[subprocess.Popen[bytes]] = []
        self._starting: set[asyncio.Task[None]] = set()
        self._closing = False

    async def __aenter__(self) -> Self:
        await self._start(self._count)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closing = True
        if self._starting:
            await asyncio.wait(self._starting)
        for worker in self._workers:
            worker.transport.abort()
        for program in self._programs:
            await asyncio.get_running_loop().run_in_executor(None, _end, program)
        self._places.close()

    # Asked

    async def pixels(self, picture: bytes | memoryview) -> Pixels:
        """A JPEG, PNG or WebP as the model wants it, uint8[H, W, 3], RGB, upright. Raises BadPicture."""
        place = self._places.take()
        where = PLACE.pack(self._place(place))
        header = HEADER.pack(b"P", len(where) + len(picture))
        await self._ask("decode", [header + where, picture], [place])
        return place

    async def feature(self, frames: Sequence[Pixels]) -> np.ndarray:
        """A clip's T frames uint8[H, W, 3] to its feature float32[F]. Raises ClipProcessDied."""
        frames = [frame if self._places.place(frame) is not None else self._copied(frame) for frame in frames]
        where = b"".join(PLACE.pack(self._place(frame)) for frame in frames)
        return np.frombuffer(await self._ask("backbone", [HEADER.pack(b"C", len(where)) + where], frames), np.float32)

    def behind(self) -> float:
        """Seconds that the request that is next has waited."""
        return time.perf_counter() - self._waiting[0].since if self._waiting else 0.0

    def _place(self, pixels: Pixels) -> int:
        place = self._places.place(pixels)
        assert place is not None
        return place

    def _copied(self, frame: Pixels) -> Pixels:
        """Frames of encoded video come from the process that decoded it."""
        place = self._places.take()
        place[:] = frame
        return place

    async def _ask(self, stage: str, message: list[bytes | memoryview], frames: Sequence[Pixels]) -> bytes:
        request = _Request(stage, message, frames, asyncio.get_running_loop().create_future())
        self._waiting.append(request)
        self._feed()
        return await request.answer

    def _feed(self) -> None:
        while self._waiting and self._workers:
            worker = min(self._workers, key=lambda one: len(one.doing))
            if len(worker.doing) >= _DEPTH:
                return
            request = self._waiting.popleft()
            if not request.answer.done():  # whoever asked may have gone
                worker.ask(request)

    # Answered

    def answered(self, worker: _Worker, request: _Request, kind: bytes, body: bytes, spent: float, took: float) -> None:
        """A worker has answered the oldest of its requests."""
        self._feed()
        self._metrics.worked(request.stage, spent, took)
        if request.stage == "backbone":
            self._metrics.batch.labels("backbone").observe(1)
            self._metrics.queue.labels("backbone").observe(max(0.0, time.perf_counter() - request.since - took))
        if request.answer.done():
            return
        if kind == b"D":
            request.answer.set_result(body)
        elif kind == b"B":
            request.answer.set_exception(BadPicture(body.decode()))
        else:
            request.answer.set_exception(RuntimeError(f"in a process for clips:\n{body.decode()}"))

    def lost(self, worker: _Worker) -> None:
        """A worker has ended."""
        self._workers.remove(worker)
        if self._closing:
            return
        log.error("a process for pictures and clips has ended; another is started")
        if worker.doing:
            self._blame(worker.doing[0])
        self._waiting.extendleft(reversed(worker.doing))
        self._feed()
        task = asyncio.create_task(self._replace(), name="clip process")
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)

    def _blame(self, request: _Request) -> None:
        """Of the request that a process ended at."""
        request.ended += 1
        if request.ended == _TRIES and not request.answer.done():
            request.answer.set_exception(
                BadPicture(f"Its decoding crashes or takes longer than {SECONDS:g} s.")
                if request.stage == "decode"
                else ClipProcessDied("The processes that looked at this clip ended.")
            )

    async def _replace(self) -> None:
        while not self._closing:
            try:
                return await self._start(1)
            except RuntimeError as error:
                log.error("%s", error)
                await asyncio.sleep(_AGAIN)

    # Started

    async def _start(self, count: int) -> None:
        """Raises RuntimeError."""
        loop = asyncio.get_running_loop()
        pairs = [socket.socketpair() for _ in range(count)]
        with contextlib.ExitStack() as theirs:
            for _, their in pairs:
                theirs.enter_context(their)
            descriptors = [self._places.fd, *(their.fileno() for _, their in pairs)]
            program = await loop.run_in_executor(None, _launch, descriptors, self._setup())
        self._programs = [one for one in self._programs if one.poll() is None] + [program]
        workers = [(await loop.create_connection(lambda: _Worker(self), sock=own))[1] for own, _ in pairs]
        try:
            async with asyncio.timeout(_START_SECONDS):
                for worker in workers:
                    await worker.ready
        except (RuntimeError, TimeoutError) as error:
            for worker in workers:
                worker.transport.abort()
            raise RuntimeError(_NO_START) from error
        self._workers += workers
        self._feed()

    def _setup(self) -> list[bytes]:
        """What a program is told at its start."""
        graphs = self._graphs
        said = {
            "spec": self._spec.to_dict(),
            "places": len(self._places),
            "graphs": {name: len(graph) for name, graph in graphs.items()},
        }
        text = json.dumps(said).encode()
        return [HEADER.pack(b"S", len(text)), text, *graphs.values()]


def _launch(descriptors: Sequence[int], setup: Sequence[bytes]) -> subprocess.Popen[bytes]:
    """In a thread."""
    program = subprocess.Popen(
        [sys.executable, "-P", "-m", "pipelines.clip_worker", *map(str, descriptors)],
        stdin=subprocess.PIPE, pass_fds=descriptors, env=environment(), cwd=_ROOT,
    )  # fmt: skip
    assert program.stdin is not None
    with contextlib.suppress(BrokenPipeError), program.stdin:  # a program that has ended already says so by its socket
        for part in setup:
            program.stdin.write(part)
    return program


def _end(program: subprocess.Popen[bytes]) -> None:
    """In a thread: its workers' sockets are closed, so it ends by itself, or is made to."""
    try:
        program.wait(5.0)
    except subprocess.TimeoutExpired:
        program.kill()
        program.wait()
