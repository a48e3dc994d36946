"""Who watches a stream without writing to it, and what of its writer only this process knows: GET /v1/streams/{id}/follow.

A follower hears what the writer's connection is told, as soon as it is. From a writer at another replica nothing is heard; there, and
whenever a follower was too slow, what is final comes from the session in the store, which keeps its last steps.
"""

import asyncio
import contextlib
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from app import schemas
from app.problems import Busy
from app.protocol import Dropped, EventTold, SegmentLabels
from pipelines.label import ranked
from pipelines.streaming import SegmentResult

Heard = SegmentLabels | EventTold | Dropped
KEPT = 64
"""Messages that wait for a follower; of a slower one the oldest are dropped."""
FRAMES = 32
"""Arrivals from which a writer's rate is taken."""
SILENT = 3.0
"""Seconds without a frame after which a writer has no rate."""


def segment_told(
    result: SegmentResult,
    labels: tuple[str, ...],
    top_k: int,
    *,
    final: bool = True,
    latency: float | None = None,
    memory: schemas.MemoryUse | None = None,
) -> SegmentLabels:
    """A segment as it is told."""
    return SegmentLabels(
        index=result.index, start=round(result.start, 6), end=round(result.end, 6), missing=result.missing, final=final,
        labels=[schemas.Label(**one) for one in ranked(result.scores_C, labels, top_k)],
        latency=None if latency is None else round(latency, 6), memory=memory,
    )  # fmt: skip


@dataclass(eq=False)
class Live:
    """How a writer is doing."""

    latency: float | None = None
    """Seconds from the arrival of the last segment's last frame to its labels."""
    dropped: int = 0
    """Frames since it came."""
    _arrivals: deque[float] = field(default_factory=lambda: deque(maxlen=FRAMES))

    def came(self, now: float) -> None:
        """A frame, at this moment of time.monotonic()."""
        self._arrivals.append(now)

    @property
    def rate(self) -> float:
        """Frames a second, of late."""
        arrivals = self._arrivals
        if len(arrivals) < 2 or time.monotonic() - arrivals[-1] > SILENT:
            return 0.0
        return (len(arrivals) - 1) / max(arrivals[-1] - arrivals[0], 1e-3)


class Follower:
    """One who watches. Belongs to the event loop of those who tell."""

    def __init__(self, *, memory: bool) -> None:
        self.memory = memory
        """Whether segments are to say what the memory did."""
        self._waiting: deque[Heard] = deque(maxlen=KEPT)
        self._woken = asyncio.Event()
        self.ended = False
        """Whether the service goes down."""

    def tell(self, message: Heard) -> None:
        self._waiting.append(message)
        self._woken.set()

    def end(self) -> None:
        self.ended = True
        self._woken.set()

    async def heard(self, seconds: float) -> list[Heard]:
        """What has been told; waits for so long for something."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        self._woken.clear()
        heard = list(self._waiting)
        self._waiting.clear()
        return heard


class Followers:
    """All of this service's, by stream."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._of: defaultdict[str, set[Follower]] = defaultdict(set)

    @contextlib.contextmanager
    def follow(self, id: str, *, memory: bool = False) -> Iterator[Follower]:
        """Raises Busy where there are too many."""
        if sum(map(len, self._of.values())) >= self._most:
            raise Busy(
                f"{self._most} followers watch streams here, and no more may. Try again in {Busy.retry_after} s."
            )
        follower = Follower(memory=memory)
        self._of[id].add(follower)
        try:
            yield follower
        finally:
            self._of[id].discard(follower)
            if not self._of[id]:
                del self._of[id]

    def tell(self, id: str, message: Heard) -> None:
        """What the writer is told."""
        for follower in self._of.get(id, ()):
            follower.tell(message)

    def want_memory(self, id: str) -> bool:
        """Whether one of them asks what the memory does."""
        return any(follower.memory for follower in self._of.get(id, ()))

    def end(self) -> None:
        """The service goes down."""
        for followers in self._of.values():
            for follower in followers:
                follower.end()
