"""The networks, shared by all streams: what is due goes through them together, oldest first.

Each stream waits for its clip before it gives the next one, so that of many streams none can take more than its turn.
Shapes: T frames, H x W pixels, F feature width, L clips in a segment, M memory width, C labels.
"""

import asyncio
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import Self, TypeVar

import numpy as np

from pipelines.recognizer import Recognizer

_T = TypeVar("_T")
MOST_CLIPS = 8
"""Clips in a batch: more do not make a processor faster, and all of a batch wait for the last."""
MOST_SEGMENTS = 32


class Batches:
    """Batches of clips and of segments, one after the other, in a thread of their own. An async context manager."""

    def __init__(self, recognizer: Recognizer) -> None:
        self._recognizer = recognizer
        self._clips: deque[tuple[np.ndarray, asyncio.Future[np.ndarray]]] = deque()
        self._segments: deque[
            tuple[tuple[np.ndarray, np.ndarray, np.ndarray], asyncio.Future[tuple[np.ndarray, np.ndarray, np.ndarray]]]
        ] = deque()
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
        answer: asyncio.Future[np.ndarray] = asyncio.get_running_loop().create_future()
        self._clips.append((clip_THWC, answer))
        self._due.set()
        return await answer

    async def advance(
        self, features_LF: np.ndarray, memory_M: np.ndarray, mask_L: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A segment and a memory to scores float32[C], those of its clips float32[L, C] and the next memory float32[M]."""
        answer: asyncio.Future[tuple[np.ndarray, np.ndarray, np.ndarray]] = asyncio.get_running_loop().create_future()
        self._segments.append(((features_LF, memory_M, mask_L), answer))
        self._due.set()
        return await answer

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._due.wait()
            # Segments first: they are quick, and someone waits for their labels.
            if self._segments:
                segments = [self._segments.popleft() for _ in range(min(MOST_SEGMENTS, len(self._segments)))]
                work = loop.run_in_executor(self._thread, self._advance, [one for one, _ in segments])
                await self._answer(work, [future for _, future in segments])
            elif self._clips:
                clips = [self._clips.popleft() for _ in range(min(MOST_CLIPS, len(self._clips)))]
                features = loop.run_in_executor(self._thread, self._features, [one for one, _ in clips])
                await self._answer(features, [future for _, future in clips])
            else:
                self._due.clear()

    @staticmethod
    async def _answer(work: asyncio.Future[list[_T]], futures: list[asyncio.Future[_T]]) -> None:
        try:
            answers = await work
        except Exception as error:  # handed to all who wait for this batch
            for future in futures:
                if not future.done():
                    future.set_exception(error)
            return
        for future, one in zip(futures, answers, strict=True):
            if not future.done():  # whoever asked may have gone
                future.set_result(one)

    def _features(self, clips: list[np.ndarray]) -> list[np.ndarray]:
        return list(self._recognizer.features(np.stack(clips)))

    def _advance(
        self, segments: list[tuple[np.ndarray, np.ndarray, np.ndarray]]
    ) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        features, memories, masks = (np.stack(column) for column in zip(*segments, strict=True))
        out = self._recognizer.advance(features, memories, masks)
        return list(zip(out.scores_BC, out.scores_BLC, out.memory_BM, strict=True))
