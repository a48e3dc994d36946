"""The networks, shared by all streams: what is due goes through them together, oldest first.

Each stream waits for its clip before it gives the next one, so that of many streams none can take more than its turn.
Shapes: T frames, H x W pixels, F feature width, L clips in a segment, M memory width, C labels.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, Self, TypeVar

import numpy as np

from app.metrics import Metrics
from pipelines.recognizer import Recognizer

_Asked = TypeVar("_Asked")
_Told = TypeVar("_Told")
_Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]
MOST_CLIPS = 8
"""Clips in a batch: more do not make a processor faster, and all of a batch wait for the last."""
MOST_SEGMENTS = 32


class _Queue(Generic[_Asked, _Told]):
    """What waits for one of the networks."""

    def __init__(self, stage: str, most: int, work: Callable[[list[_Asked]], list[_Told]], metrics: Metrics) -> None:
        self._most, self._work = most, work
        self._waiting: deque[tuple[float, _Asked, asyncio.Future[_Told]]] = deque()
        self._stage, self._metrics = stage, metrics

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, asked: _Asked) -> asyncio.Future[_Told]:
        answer: asyncio.Future[_Told] = asyncio.get_running_loop().create_future()
        self._waiting.append((time.perf_counter(), asked, answer))
        return answer

    async def serve(self, thread: ThreadPoolExecutor) -> None:
        """Does a batch in that thread."""
        batch = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
        batch = [one for one in batch if not one[2].done()]  # whoever asked may have gone
        if not batch:
            return
        started = time.perf_counter()
        for since, _, _ in batch:
            self._metrics.queue.labels(self._stage).observe(started - since)
        self._metrics.batch.labels(self._stage).observe(len(batch))
        try:
            with self._metrics.working(self._stage):
                answers = await asyncio.get_running_loop().run_in_executor(
                    thread, self._work, [asked for _, asked, _ in batch]
                )
        except Exception as error:  # handed to all who wait for this batch
            for _, _, answer in batch:
                if not answer.done():
                    answer.set_exception(error)
            return
        for (_, _, answer), one in zip(batch, answers, strict=True):
            if not answer.done():
                answer.set_result(one)


class Batches:
    """Batches of clips and of segments, one after the other, in a thread of their own. An async context manager."""

    def __init__(self, recognizer: Recognizer, metrics: Metrics) -> None:
        self._recognizer = recognizer
        self._clips: _Queue[np.ndarray, np.ndarray] = _Queue("backbone", MOST_CLIPS, self._features, metrics)
        self._segments: _Queue[_Arrays, _Arrays] = _Queue("crt", MOST_SEGMENTS, self._advance, metrics)
        self._due = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="networks")

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="batches")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        self._thread.shutdown(wait=True)

    async def feature(self, clip_THWC: np.ndarray) -> np.ndarray:
        """A clip uint8[T, H, W, 3] to its feature float32[F]."""
        answer = self._clips.add(clip_THWC)
        self._due.set()
        return await answer

    async def advance(self, features_LF: np.ndarray, memory_M: np.ndarray, mask_L: np.ndarray) -> _Arrays:
        """A segment and a memory to scores float32[C], those of its clips float32[L, C] and the next memory float32[M]."""
        answer = self._segments.add((features_LF, memory_M, mask_L))
        self._due.set()
        return await answer

    async def _run(self) -> None:
        while True:
            await self._due.wait()
            # Segments first: they are quick, and someone waits for their labels.
            if self._segments:
                await self._segments.serve(self._thread)
            elif self._clips:
                await self._clips.serve(self._thread)
            else:
                self._due.clear()

    def _features(self, clips: list[np.ndarray]) -> list[np.ndarray]:
        return list(self._recognizer.features(np.stack(clips)))

    def _advance(self, segments: list[_Arrays]) -> list[_Arrays]:
        features, memories, masks = (np.stack(column) for column in zip(*segments, strict=True))
        out = self._recognizer.advance(features, memories, masks)
        return list(zip(out.scores_BC, out.scores_BLC, out.memory_BM, strict=True))
