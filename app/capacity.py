"""Whether one more live stream can be carried: measured, so that it is refused rather than all others made late.

What a clip costs is measured before the first stream comes, on a made-up picture, and from then on by what the streams' clips
take. A stream is taken to send as fast as a camera does: one that sends what it has stored, as fast as it may, gets what the others leave.
One more is admitted while all of them together stay within a share of the cores, and while clips do not wait.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Self

import cv2
import numpy as np

from app.metrics import Metrics
from app.problems import Busy
from pipelines.pictures import decode_picture
from pipelines.recognizer import Recognizer

TICK = 1.0
"""Seconds between two looks."""
LOOKS = 5
"""Of the last ones the mean counts for how far behind clips are."""
LATE = 0.25
"""Seconds that the clip that is next may have waited."""
BESIDES = 1.35
"""Of a stream's processor time in all to that of decoding and networks: network, store and event loop (benchmarks, live_capacity)."""
MEMORY = 200
"""Clips after which half of a measured cost is forgotten."""


class Capacity:
    """Counts the live streams and says whether there may be one more. An async context manager."""

    def __init__(
        self,
        metrics: Metrics,
        *,
        cores: float,
        most: int,
        rate: float,
        cost: float,
        behind: Callable[[], float],
    ) -> None:
        """cores: that may be used up; 0: whatever is. most: streams, whatever they cost. rate: a stream's clips a second.

        cost: of a clip, a guess, in seconds of processor time. behind: for how many seconds the clip that is next has waited.
        """
        self._metrics, self._cores, self._most, self._rate, self._cost = metrics, cores, most, rate, cost
        self._behind = behind
        self._live = 0
        self._spent, self._clips = metrics.spent()
        self._waits: deque[float] = deque([0.0], LOOKS)

    async def __aenter__(self) -> Self:
        self._looking = asyncio.create_task(self._look_on(), name="capacity")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._looking.cancel()
        await asyncio.wait([self._looking])

    async def _look_on(self) -> None:
        while True:
            self.look()
            await asyncio.sleep(TICK)

    def look(self) -> None:
        """Measures; to be called once a TICK."""
        spent, clips = self._metrics.spent()
        if (new := clips - self._clips) > 0:
            keep = 0.5 ** (new / MEMORY)
            self._cost = keep * self._cost + (1 - keep) * (spent - self._spent) / new
        self._spent, self._clips = spent, clips
        self._waits.append(self._behind())
        self._metrics.capacity.set(min(self._most, self._cores // self.of_a_stream) if self._cores else self._most)

    @property
    def of_a_stream(self) -> float:
        """Cores that a live stream takes."""
        return BESIDES * self._rate * self._cost

    @contextlib.contextmanager
    def admit(self) -> Iterator[None]:
        """A place for one live stream. Raises Busy when there is none; the first stream always has one."""
        if self._live >= self._most:
            raise Busy(f"{self._live} streams are live, and no more may be. Try again in {Busy.retry_after} s.")
        wanted, behind = (self._live + 1) * self.of_a_stream, sum(self._waits) / len(self._waits)
        if self._live and self._cores and (wanted > self._cores or behind > LATE):
            raise Busy(
                f"{self._live} streams are live and take up what the service has: one more would make it {wanted:.2f} of {self._cores:.2f} "
                f"cores, and clips wait {behind:.2f} s. Try again in {Busy.retry_after} s."
            )
        self._live += 1
        try:
            yield
        finally:
            self._live -= 1


def cost_of_a_clip(recognizer: Recognizer, turns: int = 3) -> float:
    """Seconds of processor time, of four 640x480 JPEGs and the networks. Blocks for a tenth of a second."""
    spec = recognizer.spec
    x, y = np.linspace(0, 255, 640)[None, :, None], np.linspace(0, 1, 480)[:, None, None]
    scene = (x * y * np.array([1.0, 0.7, 0.4]) + np.random.default_rng(0).normal(0, 6, (480, 640, 3))).clip(0, 255)
    picture = cv2.imencode(".jpg", scene.astype(np.uint8))[1].tobytes()
    memory_BM, width = recognizer.initial_memory()[None], spec.feature_width
    segment_BLF, mask_BL = np.zeros((1, recognizer.segment, width), np.float32), np.ones((1, recognizer.segment), bool)
    spent = []
    for _ in range(turns):
        began = time.process_time()
        recognizer.features([[decode_picture(picture, spec) for _ in range(spec.frames)]])
        recognizer.advance(segment_BLF, memory_BM, mask_BL)
        spent.append(time.process_time() - began)
    return min(spent)
