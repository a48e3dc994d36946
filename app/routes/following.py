"""GET /v1/streams/{id}/follow: a stream's labels for those who only watch, as server-sent events. See docs/protocol.md."""

import json
import time
from collections.abc import AsyncGenerator
from contextlib import ExitStack
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import StreamingResponse

from app import protocol, schemas
from app.following import Follower, segment_told
from app.negotiation import SSE
from app.problems import documented, problem_of
from app.protocol import Following, Rewound, WriterTold
from app.routes.streams import StreamId
from app.sessions.base import Session
from app.streams import ServiceMoves, Streams
from models.errors import CrtError
from pipelines.remembering import change
from pipelines.streaming import Step, StreamState

router = APIRouter()
LOOK = 1.0
"""Seconds between two looks into the store."""
ALIVE = 15.0
"""Seconds without a word after which a line says that the connection lives."""
TOP_K = 5
"""Labels of a segment that is known from the store."""
AGAIN_MS = 1000
"""After which a browser comes back by itself."""


@router.get(
    "/v1/streams/{id}/follow",
    summary="Follow a stream",
    response_class=StreamingResponse,
    responses={
        200: {"content": {SSE: {"schema": {"type": "string"}}}, "description": "`docs/protocol.md` has the messages."},
        **documented(
            "parameter",
            "session_unknown",
            "session_expired",
            "model_changed",
            "busy",
            "store",
            "service_moves",
            "internal",
        ),
    },
)
async def follow(
    request: Request,
    id: StreamId,
    memory: Annotated[bool, Query(description="Whether final segments say what the memory did.")] = False,
    last_event_id: Annotated[str | None, Header(description="Index of the last segment that was heard of.")] = None,
) -> StreamingResponse:
    """Segments and events as they come, whoever writes and wherever; owns nothing and changes nothing."""
    streams: Streams = request.state.streams
    streams.check_stays()
    session = await streams.store.load(id)
    streams.state_of(session)
    told = int(last_event_id) + 1 if last_event_id and last_event_id.isdecimal() else 0
    stack = ExitStack()
    follower = stack.enter_context(streams.followers.follow(id, memory=memory))
    lines = _Watch(streams, id, follower, told).lines()
    answer = _Held(lines, media_type=SSE, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
    answer.stack = stack
    return answer


class _Held(StreamingResponse):
    """An answer that gives its place back when it ends, also when it never began."""

    stack: ExitStack

    async def __call__(self, *args: Any) -> None:
        with self.stack:
            await super().__call__(*args)


class _Watch:
    """One follower's view of a stream: what it was told, and what there is to tell."""

    def __init__(self, streams: Streams, id: str, follower: Follower, told: int) -> None:
        """told: segments before this index are known to the follower."""
        self._streams, self._id, self._follower, self._told = streams, id, follower, told
        self._before: StreamState | None = None
        self._writing: bool | None = None

    async def lines(self) -> AsyncGenerator[str, None]:
        """Server-sent events, until the stream or the service ends or the follower goes."""
        spoken = time.monotonic()
        try:
            async for id, message in self._messages():
                if message is not None:
                    spoken = time.monotonic()
                    yield _event(message, id)
                elif time.monotonic() - spoken > ALIVE:
                    spoken = time.monotonic()
                    yield ": still here\n\n"
        except CrtError as error:
            body = json.dumps({"type": "problem", "problem": problem_of(error)}, separators=(",", ":"))
            yield f"event: problem\ndata: {body}\n\n"

    async def _messages(self) -> AsyncGenerator[tuple[int | None, Any], None]:
        session = await self._streams.store.load(self._id)
        yield None, self._greeting(session)
        late = False
        while True:
            state = self._streams.state_of(session)
            if state.segments < self._told:
                yield None, Rewound(segment=state.segments)
                self._told = state.segments
            # Of a writer in this process the same is about to be heard, with more in it.
            here = self._streams.live(self._id) is not None
            if state.segments > self._told and not (here and not late):
                for step in state.recent:
                    if step.result.index >= self._told:
                        for message in self._of_step(step, state):
                            yield step.result.index, message
                self._told = state.segments
            late = state.segments > self._told
            self._before = state
            if (writing := session.owner is not None) != self._writing:
                self._writing = writing
                yield None, WriterTold(writing=writing)
            until = time.monotonic() + (0.3 if late else LOOK)
            while (left := until - time.monotonic()) > 0:
                for message in await self._follower.heard(left):
                    if isinstance(message, protocol.SegmentLabels) and message.final:
                        if message.index < self._told:
                            continue
                        self._told, late = message.index + 1, False
                        yield message.index, self._as_asked(message)
                    else:
                        yield None, message
                if self._follower.ended:
                    raise ServiceMoves("the service goes down or moves; come back and go on")
            yield None, None
            session = await self._streams.patiently(lambda: self._streams.store.load(self._id))

    def _greeting(self, session: Session) -> Following:
        recognizer, state = self._streams.recognizer, self._streams.state_of(session)
        spec = recognizer.spec
        return Following(
            stream=self._id, model=schemas.ModelName(name=recognizer.model.name, digest=recognizer.model.digest), position=state.position,
            segment=state.segments, rate=spec.rate, segment_frames=spec.frames * recognizer.segment, expires=session.expires,
        )  # fmt: skip

    def _as_asked(self, message: protocol.SegmentLabels) -> protocol.SegmentLabels:
        return message if self._follower.memory else message.model_copy(update={"memory": None})

    def _of_step(self, step: Step, state: StreamState) -> list[Any]:
        """A step that is known from the store alone."""
        result = step.result
        memory = None
        if self._follower.memory and result.index == state.segments - 1 and len(state.memory_M):
            before = self._before
            after_one = before is not None and before.segments == result.index
            memory = schemas.MemoryUse(
                vector=[round(float(number), 3) for number in state.memory_M], read=None, without=None,
                change=round(change(before.memory_M, np.asarray(state.memory_M)), 6) if before and after_one else None,
            )  # fmt: skip
        return [
            segment_told(result, self._streams.recognizer.labels, TOP_K, memory=memory),
            *(protocol.event_told(change, result.index) for change in step.events),
        ]


def _event(message: Any, id: int | None) -> str:
    number = "" if id is None else f"id: {id}\n"
    retry = f"retry: {AGAIN_MS}\n" if isinstance(message, Following) else ""
    return f"{retry}{number}event: {message.type}\ndata: {message.model_dump_json()}\n\n"
