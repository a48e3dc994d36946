"""The networks, shared by all streams: what is due goes through them oldest first, segments together, clips as the backbone likes it.

The small backbone has processes of its own (clip_processes.py), as decoding has; what only torch can run does so here, in a thread.

Each stream waits for its clip before it gives the next one, so that of many streams none can take more than its turn.
Shapes: T frames, H x W pixels, F feature width, L clips in a segment, M memory width, C labels.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Generic, Self, TypeVar

import numpy as np

from app.clip_processes import ClipProcesses
from app.metrics import Metrics
from pipelines.frames import Pixels
from pipelines.recognizer import Recognizer
from pipelines.remembering import MemoryUse

_Asked = TypeVar("_Asked")
_Told = TypeVar("_Told")
_Frames = tuple[Pixels, ...]
_Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]
GATHER = 0.006
"""Seconds that a segment waits for others to come: a step for four streams costs little more than one for one."""


class _Queue(Generic[_Asked, _Told]):
    """What waits for one of the networks."""

    def __init__(
        self, stage: str, most: int, gather: float, work: Callable[[list[_Asked]], list[_Told]], metrics: Metrics
    ) -> None:
        self._most, self._gather, self._work = most, gather, work
        self._waiting: deque[tuple[float, _Asked, asyncio.Future[_Told]]] = deque()
        self._stage, self._metrics = stage, metrics
        self._hurry = 0
        self._due, self._full = asyncio.Event(), asyncio.Event()

    def add(self, asked: _Asked, *, at_once: bool = False) -> asyncio.Future[_Told]:
        """at_once: not to wait for others to come."""
        answer: asyncio.Future[_Told] = asyncio.get_running_loop().create_future()
        self._waiting.append((time.perf_counter(), asked, answer))
        self._hurry += at_once
        self._due.set()
        if len(self._waiting) >= self._most:
            self._full.set()
        return answer

    def behind(self) -> float:
        """Seconds that the one that is next has waited."""
        return time.perf_counter() - self._waiting[0][0] if self._waiting else 0.0

    async def serve(self, threads: ThreadPoolExecutor) -> None:
        """Does batch after batch, each in one of the threads; several may serve side by side."""
        while True:
            await self._due.wait()
            if self._waiting:
                if self._gather and not self._hurry and len(self._waiting) < self._most:
                    await asyncio.sleep(self._gather)
                self._hurry = 0
                await self._batch(threads)
            else:
                self._due.clear()

    async def serve_full(self, threads: ThreadPoolExecutor) -> None:
        """Beside serve: hands over a full batch while another is worked on, so that the thread need not wait for this loop in between."""
        while True:
            await self._full.wait()
            if len(self._waiting) >= self._most:
                await self._batch(threads)
            else:
                self._full.clear()

    async def _batch(self, threads: ThreadPoolExecutor) -> None:
        batch = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
        batch = [one for one in batch if not one[2].done()]  # whoever asked may have gone
        if not batch:
            return
        try:
            answers = await asyncio.get_running_loop().run_in_executor(
                threads, self._measured, [since for since, _, _ in batch], [asked for _, asked, _ in batch]
            )
        except Exception as error:  # handed to all who wait for this batch
            for _, _, answer in batch:
                if not answer.done():
                    answer.set_exception(error)
            return
        for (_, _, answer), one in zip(batch, answers, strict=True):
            if not answer.done():
                answer.set_result(one)

    def _measured(self, since: list[float], asked: list[_Asked]) -> list[_Told]:
        """In a thread. since: when each was asked for."""
        started = time.perf_counter()
        for one in since:
            self._metrics.queue.labels(self._stage).observe(started - one)
        self._metrics.batch.labels(self._stage).observe(len(asked))
        with self._metrics.working(self._stage):
            return self._work(asked)


class Batches:
    """The two queues, and the threads that work on them. An async context manager."""

    def __init__(self, recognizer: Recognizer, metrics: Metrics, *, threads: int, streams: int) -> None:
        """threads: cores that work on pictures and clips. streams: at most."""
        self._recognizer = recognizer
        self._processes = ClipProcesses(recognizer, metrics, processes=threads, streams=streams)
        self._clips: _Queue[_Frames, np.ndarray] = _Queue(
            "backbone", recognizer.clips_a_call, 0.0, self._features, metrics
        )
        most = recognizer.segments_a_call
        self._segments: _Queue[_Arrays, _Arrays] = _Queue("crt", most, GATHER, self._advance, metrics)
        self._glimpses: _Queue[_Arrays, np.ndarray] = _Queue("crt", most, GATHER, self._provisional, metrics)
        # Segments are quick, and someone waits for their labels.
        self._quick = ThreadPoolExecutor(1, thread_name_prefix="segments")
        self._threads = ThreadPoolExecutor(recognizer.side_by_side, thread_name_prefix="clips")

    async def __aenter__(self) -> Self:
        await self._processes.__aenter__()
        work = [
            self._segments.serve(self._quick),
            self._segments.serve_full(self._quick),
            self._glimpses.serve(self._quick),
        ]
        work += [self._clips.serve(self._threads) for _ in range(self._recognizer.side_by_side)]
        self._serving = [asyncio.create_task(one, name="batches") for one in work]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._serving:
            task.cancel()
        await asyncio.wait(self._serving)
        self._threads.shutdown(wait=True)
        self._quick.shutdown(wait=True)
        await self._processes.__aexit__()

    def behind(self) -> float:
        """Seconds that the picture or clip that is next has waited."""
        return max(self._clips.behind(), self._processes.behind())

    async def pixels(self, picture: bytes | memoryview) -> Pixels:
        """A JPEG, PNG or WebP as the model wants it, uint8[H, W, 3], RGB, upright. Raises BadPicture."""
        return await self._processes.pixels(picture)

    async def feature(self, frames: _Frames) -> np.ndarray:
        """A clip's T frames uint8[H, W, 3] to its feature float32[F]."""
        if self._recognizer.backbone_graphs:
            return await self._processes.feature(frames)
        return await self._clips.add(frames)

    async def advance(
        self, features_LF: np.ndarray, memory_M: np.ndarray, mask_L: np.ndarray, *, at_once: bool = False
    ) -> _Arrays:
        """A segment and a memory to scores float32[C], those of its clips float32[L, C] and the next memory float32[M].

        at_once: of a stream that does not come at a camera's pace, but waits for the answer.
        """
        return await self._segments.add((features_LF, memory_M, mask_L), at_once=at_once)

    async def provisional(self, features_LF: np.ndarray, memory_M: np.ndarray, mask_L: np.ndarray) -> np.ndarray:
        """Of advance, only the scores float32[C]."""
        return await self._glimpses.add((features_LF, memory_M, mask_L))

    async def memory_use(
        self, features_LF: np.ndarray, memory_M: np.ndarray, mask_L: np.ndarray, next_memory_M: np.ndarray
    ) -> MemoryUse | None:
        """What the memory did for a segment, for those who ask; see Recognizer.memory_use."""
        work = partial(self._recognizer.memory_use, features_LF, memory_M, mask_L, next_memory_M)
        return await asyncio.get_running_loop().run_in_executor(self._quick, work)

    def _features(self, clips: list[_Frames]) -> list[np.ndarray]:
        return list(self._recognizer.features(clips))

    def _provisional(self, segments: list[_Arrays]) -> list[np.ndarray]:
        return list(self._recognizer.provisional(*map(np.stack, zip(*segments, strict=True))))

    def _advance(self, segments: list[_Arrays]) -> list[_Arrays]:
        out = self._recognizer.advance(*map(np.stack, zip(*segments, strict=True)))
        return list(zip(out.scores_BC, out.scores_BLC, out.memory_BM, strict=True))
