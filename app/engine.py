"""Where videos are labelled: a bounded number at a time, each in a thread, others waiting in a bounded queue.

Labelling is blocking work (a pipe to a decoder, networks), the service is asyncio: the hand-over between them happens here
and nowhere else.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from app.metrics import Metrics
from app.problems import Busy
from app.settings import Settings
from pipelines.label import Labelling, VideoResult
from pipelines.recognizer import Recognizer
from pipelines.streaming import SegmentResult, Stream
from pipelines.workers import workers

_T = TypeVar("_T")


class Engine:
    """The model, ready, and the places where it works. An async context manager: what runs ends with it."""

    def __init__(self, settings: Settings, metrics: Metrics, recognizer: Recognizer) -> None:
        self.recognizer = recognizer
        self._metrics = metrics
        self._budget = settings.budget
        self._most = settings.videos + settings.waiting
        self._inside = 0
        self._places = asyncio.Semaphore(settings.videos)
        self._threads = ThreadPoolExecutor(settings.videos, thread_name_prefix="label")
        self._running: set[Labelling] = set()

    async def __aenter__(self) -> Self:
        # The first upload need not wait for the process that decodes.
        await asyncio.get_running_loop().run_in_executor(self._threads, workers.start)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for labelling in self._running:
            labelling.kill()
        self._threads.shutdown(wait=True, cancel_futures=True)

    @contextlib.contextmanager
    def admit(self) -> Iterator[None]:
        """A place for one video, from before its upload on. Raises Busy when all are taken."""
        if self._inside >= self._most:
            raise Busy(
                f"{self._inside} videos are being labelled or wait for it, and no more may wait. Try again in {Busy.retry_after} s."
            )
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1

    def labelling(
        self, path: Path, *, stream: Stream | None = None, offset: float = 0.0, end: bool = True,
        memory: bool = False,
    ) -> Labelling:  # fmt: skip
        """A video to be labelled, by itself or as a stream's next piece; see Labelling."""
        return Labelling(
            path, self.recognizer, budget=self._budget, stream=stream, offset=offset, end=end, memory=memory
        )

    async def label(self, labelling: Labelling) -> AsyncGenerator[SegmentResult | VideoResult, None]:
        """The segments of a video as they are made, then its result. Raises VideoError.

        Cancelling whoever waits for the next one, or closing the iterator, ends the decoding at once.
        """
        async with self._places:
            self._running.add(labelling)
            try:
                await self._in_thread(labelling, labelling.open)
                segments = iter(labelling)
                while (segment := await self._in_thread(labelling, lambda: next(segments, None))) is not None:
                    yield segment
                self._metrics.videos.inc()
                yield labelling.result
            finally:
                self._running.discard(labelling)
                labelling.close()

    async def _in_thread(self, labelling: Labelling, work: Callable[[], _T]) -> _T:
        """Does a labelling's next piece of work; when cancelled, kills the labelling and comes back when its thread is free."""
        pending = asyncio.get_running_loop().run_in_executor(self._threads, work)
        try:
            return await asyncio.shield(pending)
        except asyncio.CancelledError:
            labelling.kill()
            while not pending.done():
                # Who cancels may do so again and again until it is obeyed; what the thread uses must stay until it is done.
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait([pending])
            # What the thread says no longer interests.
            if not pending.cancelled():
                pending.exception()
            raise
