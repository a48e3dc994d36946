"""The two kinds of client that write to a stream over a WebSocket: what each is told, and what is done with what it sends.

Frames come one by one (Connection), or as the parts of one encoded video (VideoConnection). The protocol is in docs/protocol.md.
"""

import asyncio
import logging
import math
import time
from collections.abc import Coroutine
from functools import partial
from typing import Any

from fastapi import WebSocket, WebSocketDisconnect
from pydantic import ConfigDict, Field, ValidationError

from app import protocol, schemas
from app.batching import Batches
from app.engine import Engine
from app.following import segment_told
from app.inbox import Inbox, Item
from app.metrics import Metrics
from app.problems import problem_of
from app.protocol import CLOSE, HEADER, VIDEO, Options
from app.schemas import ModelName, Size
from app.sessions.base import SessionExpired, SessionUnknown
from app.settings import Settings
from app.streams import Held, ServiceMoves, StreamOwned, StreamRewound, Streams
from app.traces import Traces
from models.errors import CrtError
from pipelines.events import EventChange
from pipelines.frames import Clip, Frame
from pipelines.live import LiveVideo, open_live
from pipelines.pictures import BadPicture
from pipelines.remembering import MemoryUse, describe_memory
from pipelines.streaming import Segment, SegmentResult

log = logging.getLogger(__name__)
_LAST_NUMBER = (1 << 53) - 1
_LATEST = 1e11
"""Seconds: later capture times are in other units, and too coarse in float64."""
_SLOW_STORE = 1.0
"""Seconds of waiting for the store after which a client is told."""


class BadFrame(CrtError):  # noqa: N818 - named after what is wrong
    """A binary message is no frame."""

    code = "frame_malformed"


class BadMessage(CrtError):  # noqa: N818 - named after what is wrong
    """A text message is none of the protocol's."""

    code = "message_malformed"


class BadParameter(CrtError):  # noqa: N818 - named after what is wrong
    """The address has a parameter with an impossible value."""

    code = "parameter_bad"


class SlowReader(CrtError):  # noqa: N818 - named after what is wrong
    """The client does not read its labels."""

    code = "reader_slow"


class Query(Options):
    """The address's parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    takeover: bool = False
    client: str | None = Field(None, max_length=128, pattern=r"^[^@\s]+$")
    start: float | None = None


def _evict(evicted: "asyncio.Future[None]", why: CrtError) -> None:
    """The stream goes elsewhere. Knows nothing of its Connection: a cycle of references would keep the frames of one that has ended."""
    if not evicted.done():
        evicted.set_exception(why)
        evicted.exception()  # seen: the connection may be on its way out already


class Connection:
    """One client that writes to one stream."""

    held: Held
    _may_drop = True
    """Whether there is anything that the policy live can leave out."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self._engine: Engine = socket.state.engine
        self._settings: Settings = socket.state.settings
        self._streams: Streams = socket.state.streams
        self._batches: Batches = socket.state.batches
        self._metrics: Metrics = socket.state.metrics
        self._traces: Traces = socket.state.traces
        self._inbox = Inbox(self._settings.credit, self._settings.inbox_bytes)
        self._sending = asyncio.Lock()
        self._evicted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._owed = 0
        self._dropped = self._overdue = 0
        self._reader_slow = False

    async def run(self, id: str, query: Query) -> None:
        """Until the client goes, the stream ends or something is wrong. Raises CrtError, WebSocketDisconnect."""
        options = Options.model_validate(query.model_dump(include=set(Options.model_fields)))
        evict = partial(_evict, self._evicted)
        self.held = await self._streams.hold(id, query.client, evict, takeover=query.takeover, make=options)
        log.info("stream %s has a writer from frame %d on", id, self.held.stream.frame)
        try:
            await self._begin(query)
            await self._greet()
            jobs = [asyncio.create_task(job) for job in self._jobs()]
            try:
                await asyncio.wait({*jobs, self._evicted}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for job in jobs:
                    job.cancel()
                await asyncio.wait(jobs)
            if self._evicted.done():
                self._evicted.result()
            try:
                for job in jobs:
                    if not job.cancelled():
                        job.result()
            finally:  # a job known here is known to its error's traceback: frames would stay until cycles are collected
                jobs.clear()
                del job
        finally:
            await self._close()
            await self._streams.release(self.held)
            log.info("stream %s has no writer any more, after frame %d", id, self.held.stream.frame - 1)

    async def _begin(self, query: Query) -> None:
        """What is to be done before the client is greeted."""
        if query.start is not None:
            raise BadParameter(f"start: frames have times of their own; it is for {VIDEO}")

    def _jobs(self) -> list[Coroutine[Any, Any, None]]:
        """What goes on at the same time until one ends. An error of an earlier one is why the others ended, too."""
        return [self._work(), self._streams.keep(self.held), self._receive()]

    async def _close(self) -> None:
        """What is to be done at the end."""

    # Out

    async def _tell(self, message: protocol.ToClient) -> None:
        try:
            async with asyncio.timeout(self._settings.answer_idle_seconds), self._sending:
                await self._socket.send_text(message.model_dump_json())
        except TimeoutError as error:
            self._reader_slow = True
            raise SlowReader(
                f"labels were not read for {self._settings.answer_idle_seconds:g} s; read what comes, and come back"
            ) from error
        except RuntimeError as error:  # sent after the client has closed
            raise WebSocketDisconnect(1006) from error

    async def _greet(self) -> None:
        held, recognizer = self.held, self._engine.recognizer
        spec, state = recognizer.spec, held.stream.state()
        await self._tell(
            protocol.Ready(
                stream=held.id,
                model=ModelName(name=recognizer.model.name, digest=recognizer.model.digest),
                resume_from=state.frame,
                position=state.position,
                segment=state.segments,
                rate=spec.rate,
                frame_size=Size(width=spec.width, height=spec.height),
                segment_frames=spec.frames * recognizer.segment,
                credit=self._settings.credit,
                frame_bytes=self._settings.frame_bytes,
                expires=held.expires,
                options=held.options,
            )
        )
        for step in state.recent:
            await self._tell(self._segment(step.result, final=True, latency=None))
            await self._tell_events(step.events, step.result.index)

    def _segment(
        self, result: SegmentResult, *, final: bool, latency: float | None, memory: MemoryUse | None = None
    ) -> protocol.SegmentLabels:
        labels = self._engine.recognizer.labels
        told = None if memory is None else schemas.MemoryUse(**describe_memory(memory, labels))
        return segment_told(result, labels, self.held.options.top_k, final=final, latency=latency, memory=told)

    async def _tell_segment(
        self, result: SegmentResult, arrived: float, *, final: bool, memory: MemoryUse | None = None
    ) -> None:
        latency = time.monotonic() - arrived
        self._metrics.latency.labels("final" if final else "provisional").observe(latency)
        told = self._segment(result, final=final, latency=latency, memory=memory)
        if final:
            self.held.live.latency = told.latency
        self._streams.followers.tell(self.held.id, told)
        await self._tell(told if self.held.options.memory else told.model_copy(update={"memory": None}))

    async def _tell_dropped(self, frames: int, reason: protocol.DropReason, detail: str) -> None:
        self._metrics.dropped.labels(reason).inc(frames)
        self.held.live.dropped += frames
        told = protocol.Dropped(frames=frames, reason=reason, detail=detail)
        self._streams.followers.tell(self.held.id, told)
        await self._tell(told)

    async def _tell_events(self, changes: tuple[EventChange, ...] | list[EventChange], segment: int) -> None:
        for change in changes:
            await self._tell(protocol.event_told(change, segment))

    async def end_with(self, error: Exception) -> None:
        """Says why, and closes."""
        body = problem_of(error)
        code = body["code"]
        self._metrics.errors.labels(code).inc()
        reason, reconnect = (
            "error",
            code in ("store_unavailable", "engine_unavailable", "busy", "reader_slow", "internal"),
        )
        if isinstance(error, ServiceMoves):
            reason, reconnect = "shutdown", True
        elif isinstance(error, StreamOwned) and hasattr(self, "held"):
            reason = "taken_over"
        elif isinstance(error, StreamRewound):
            reason = "rewound"
        elif isinstance(error, SessionExpired):
            reason = "expired"
        elif isinstance(error, SessionUnknown):
            reason = "deleted"
        elif isinstance(error, SlowReader):
            reason = "slow"
        try:
            async with asyncio.timeout(2.0):
                if not self._reader_slow:
                    if reason != "shutdown":
                        await self._tell(protocol.ErrorTold(code=code, detail=body["detail"], fatal=True))
                    await self._tell(protocol.Goodbye(reason=reason, reconnect=reconnect))  # type: ignore[arg-type]
                await self._socket.close(CLOSE.get(code, 4400 if body["status"] < 500 else 1011), code)
        except (TimeoutError, RuntimeError, WebSocketDisconnect, CrtError):
            log.debug("a client had gone before it could be told %s", code)

    # In

    async def _receive(self) -> None:
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code", 1006))
            data: bytes | str = message["text"] if message.get("bytes") is None else message["bytes"]
            live = self._may_drop and self.held.options.policy == "live"
            if isinstance(data, bytes):
                self._metrics.received.inc()
                self.held.heard = time.time()
                self.held.live.came(time.monotonic())
            item = Item(time.monotonic(), data)
            if dropped := await self._inbox.put(item, live=live):
                self._dropped += len(dropped)
                await self._tell_dropped(len(dropped), "live", "frames came faster than they are worked on")
                for one in dropped:
                    await self._grant(one)
            if live:
                await self._grant(item)

    async def _work(self) -> None:
        while True:
            if self._inbox.empty:
                await self._tell_overdue()
            item = await self._inbox.get()
            if isinstance(item.data, str):
                if await self._told(item):
                    return
                continue
            if (
                self._may_drop
                and self.held.options.policy == "live"
                and self._waited(item) > self._settings.live_seconds
            ):
                self._overdue += 1
            else:
                await self._tell_overdue()
                await self._frame(item)
            await self._grant(item)

    @staticmethod
    def _waited(item: Item) -> float:
        return time.monotonic() - item.arrived

    async def _tell_overdue(self) -> None:
        """Once for all that were passed over in a row."""
        if self._overdue:
            overdue, self._overdue = self._overdue, 0
            self._dropped += overdue
            detail = f"frames waited longer than {self._settings.live_seconds:g} s: nobody wants to know any more"
            await self._tell_dropped(overdue, "live", detail)

    async def _grant(self, item: Item) -> None:
        """Credit for one more frame in this one's place; it is told of several at once."""
        if item.credited or isinstance(item.data, str):
            return
        item.credited = True
        self._owed += 1
        if self._owed >= max(1, self._settings.credit // 4):
            owed, self._owed = self._owed, 0
            await self._tell(protocol.Credit(frames=owed))

    async def _told(self, item: Item) -> bool:
        """Acts on a text message; True if it ends the stream."""
        try:
            message = protocol.FromClient.validate_json(item.data)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "message"
            raise BadMessage(
                f'{where}: {first["msg"]}. Known are {{"type": "end"}} and {{"type": "options", ...}}.'
            ) from error
        if isinstance(message, protocol.Change):
            changed = message.model_dump(exclude={"type"}, exclude_none=True)
            self.held.options = self.held.options.model_copy(update=changed)
            return False
        await self._tell_overdue()
        await self._last_frames()
        for clip in self.held.stream.finish():
            await self._clip(clip, item.arrived)
        if (rest := self.held.stream.rest()) is not None:
            await self._finish(rest, item.arrived)
        changes = self.held.stream.close()
        await self._commit()
        last = self.held.stream.state().segments - 1
        for change in changes:
            self._streams.followers.tell(self.held.id, protocol.event_told(change, last))
        await self._tell_events(changes, last)
        await self._ack()
        await self._tell(protocol.Goodbye(reason="end", reconnect=False))
        await self._socket.close(1000)
        return True

    async def _last_frames(self) -> None:
        """The client has sent its last one: waits until all are in the stream."""

    async def _frame(self, item: Item) -> None:
        assert isinstance(item.data, bytes)
        if len(item.data) <= HEADER.size:
            raise BadFrame(
                f"a frame is a header of {HEADER.size} bytes (number as uint64, time in seconds as float64, network order) and a "
                f"picture; this message has {len(item.data)} bytes"
            )
        number, seconds = HEADER.unpack_from(item.data)
        if number > _LAST_NUMBER:
            raise BadFrame(
                f"frame number {number} is beyond {_LAST_NUMBER}, the last that JSON says exactly; numbers are in network order"
            )
        if not (math.isfinite(seconds) and abs(seconds) < _LATEST):
            raise BadFrame(f"frame {number} has the capture time {seconds!r}; give seconds")
        stream = self.held.stream
        if number < stream.frame:
            return
        if number > stream.frame:
            left_out = number - stream.frame
            told = min(left_out, self._dropped)  # as dropped here
            self._dropped -= told
            if left_out > told:
                await self._tell_dropped(
                    left_out - told, "gap", f"of frames {stream.frame} to {number - 1} some did not come"
                )
        if stream.latest is not None and seconds <= stream.latest:
            detail = f"frame {number} at {seconds!r} s is not later than the one before, at {stream.latest!r} s"
            stream.lose(number)
            await self._tell_dropped(1, "late", detail)
            return
        if not stream.needs(seconds):
            stream.take(seconds, number)
            return
        picture = memoryview(item.data)[HEADER.size :]
        try:
            pixels = await self._batches.pixels(picture)
        except BadPicture as error:
            stream.lose(number)
            await self._tell_dropped(1, "undecodable", f"frame {number}: {error}")
            return
        self._metrics.sampled.inc()
        for clip in stream.push(Frame(pixels, seconds), stream.take(seconds, number)):
            await self._clip(clip, item.arrived)

    async def _clip(self, clip: Clip, arrived: float) -> None:
        with self._traces.span("clip", start=clip.start, end=clip.end):
            await self._through_networks(clip, arrived)

    async def _through_networks(self, clip: Clip, arrived: float) -> None:
        stream = self.held.stream
        with self._traces.span("backbone"):
            feature = await self._batches.feature(clip.frames)
        segment = stream.add(clip, feature)
        if segment is not None:
            await self._finish(segment, arrived)
        elif self.held.options.provisional and (rest := stream.rest()) is not None:
            scores_C = await self._batches.provisional(rest.features_LF, rest.memory_M, rest.mask_L)
            await self._tell_segment(rest.result(scores_C), arrived, final=False)

    async def _finish(self, segment: Segment, arrived: float) -> None:
        with self._traces.span("crt", segment=segment.index):
            predicted = await self._batches.advance(segment.features_LF, segment.memory_M, segment.mask_L)
        memory = None
        if self.held.options.memory or self._streams.followers.want_memory(self.held.id):
            memory = await self._batches.memory_use(segment.features_LF, segment.memory_M, segment.mask_L, predicted[2])
        step = self.held.stream.advance(segment, *predicted)
        # Told is only what is durable: nobody else may say otherwise later.
        with self._traces.span("commit", segment=segment.index):
            await self._commit()
        await self._tell_segment(step.result, arrived, final=True, memory=memory)
        for change in step.events:
            self._streams.followers.tell(self.held.id, protocol.event_told(change, step.result.index))
        await self._tell_events(step.events, step.result.index)
        await self._ack()

    async def _commit(self) -> None:
        committing = asyncio.ensure_future(self._streams.commit(self.held))
        try:
            done, _ = await asyncio.wait({committing}, timeout=_SLOW_STORE)
            if not done:
                detail = "the session store does not answer; what was sent is kept, and it is tried again"
                await self._tell(protocol.ErrorTold(code="store_unavailable", detail=detail, fatal=False))
            await committing
        except asyncio.CancelledError:
            committing.cancel()
            raise

    async def _ack(self) -> None:
        state = self.held.stream.state()
        await self._tell(protocol.Ack(frame=state.frame, segment=state.segments, expires=self.held.expires))


class VideoConnection(Connection):
    """One client that sends the parts of one encoded video."""

    _live: LiveVideo | None = None
    _may_drop = False  # a video without one of its parts is a damaged one

    async def _begin(self, query: Query) -> None:
        stream = self.held.stream
        position = stream.state().position
        self._start = query.start if query.start is not None else position or 0.0
        self._first = stream.frame
        self._arrived = time.monotonic()
        self._decoded = asyncio.Event()
        self._live = await open_live(
            spec=stream.spec, budget=self._settings.budget, offset=self._start, sampler=stream.sampler
        )

    def _jobs(self) -> list[Coroutine[Any, Any, None]]:
        return [self._decode(), *super()._jobs()]

    async def _close(self) -> None:
        if self._live is not None:
            await self._live.close()

    async def _frame(self, item: Item) -> None:
        assert self._live is not None
        assert isinstance(item.data, bytes)
        self._arrived = item.arrived
        await self._live.feed(item.data)

    async def _decode(self) -> None:
        live, stream = self._live, self.held.stream
        assert live is not None
        async for frame, ticks in live:
            for clip in stream.push(frame, ticks, self._first + live.index):
                await self._clip(clip, self._arrived)
        stream.skip_to(live.sampler, self._first + live.summary.frames, self._start + live.summary.duration)
        self._decoded.set()
        await asyncio.Future()  # the video is over, the stream is when the client says so

    async def _last_frames(self) -> None:
        assert self._live is not None
        await self._live.end()
        await self._decoded.wait()
