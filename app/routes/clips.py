"""POST /v1/clips: a video in, labels out."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Awaitable
from contextlib import AsyncExitStack, aclosing
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from app import schemas
from app.engine import Engine
from app.metrics import Metrics
from app.negotiation import JSON, NDJSON, SSE, choose
from app.problems import documented, problem_of
from app.settings import Settings
from app.uploads import received
from pipelines.label import VideoResult, describe, describe_segment
from pipelines.streaming import SegmentResult

log = logging.getLogger(__name__)
router = APIRouter()

_EXAMPLE = {
    "model": {"name": "homesim-small", "digest": "sha256:9f2c..."},
    "video": {"duration": 12.4, "fps": 25.0, "width": 640, "height": 480, "frames": 310, "sampled": 99},
    "labels": [{"label": "Drink.Fromcup", "score": 0.41}, {"label": "Walk", "score": 0.22}],
    "segments": [{"index": 0, "start": 0.0, "end": 2.0, "labels": [{"label": "Walk", "score": 0.97}]}],
    "events": [{"label": "Walk", "start": 0.0, "end": 4.0, "confidence": 0.97}],
    "warnings": [],
    "timing": {"decode": 0.11, "features": 0.2, "crt": 0.01, "total": 0.33},
}
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_FORM = {"type": "object", "required": ["video"], "properties": {"video": {"type": "string", "format": "binary"}}}
BODY = {
    "requestBody": {
        "required": True,
        "description": "The video: as the field `video` of a form, or by itself.",
        "content": {
            "multipart/form-data": {"schema": _FORM},
            "video/*": _BINARY,
            "application/octet-stream": _BINARY,
        },
    }
}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "model": schemas.ClipAnswer,
        "description": "The labels. With `Accept: application/x-ndjson` a line a segment as it is made, and at last the result; "
        "with `Accept: text/event-stream` the same as events. An error after the first segment comes as the last line or "
        "event, of the type `problem`.",
        "content": {
            JSON: {"example": _EXAMPLE},
            NDJSON: {
                "schema": {"type": "string"},
                "example": '{"type":"segment","index":0,"start":0.0,"end":2.0,"labels":[...]}\n{"type":"result",...}\n',
            },
            SSE: {
                "schema": {"type": "string"},
                "example": 'event: segment\ndata: {"type":"segment","index":0,...}\n\n',
            },
        },
    },
    **documented("request", "parameter", "upload", "video", "not_acceptable", "busy", "decoder", "internal"),
}

_T = TypeVar("_T")
Items = AsyncGenerator[tuple[str, dict[str, Any]], None]
"""A `segment` at a time as JSON values, then the `result`."""


@router.post(
    "/v1/clips",
    response_model=schemas.ClipAnswer,
    responses=_ANSWERS,
    openapi_extra=BODY,
    summary="Label a video",
)
async def label_clip(
    request: Request,
    top_k: Annotated[int, Query(ge=1, le=1000, description="Labels to give, the best ones.")] = 5,
    memory: Annotated[bool, Query(description="Whether segments say what the memory did.")] = False,
) -> Response:
    """What do people do in this video? Labels for the whole, for each segment, and events with start and end."""
    engine: Engine = request.state.engine
    settings: Settings = request.state.settings
    form = choose(request.headers.get("accept"))
    async with AsyncExitStack() as stack:
        stack.enter_context(engine.admit())
        upload = received(
            request,
            most=settings.upload_bytes,
            folder=settings.spool,
            patience=settings.upload_idle_seconds,
            rate=settings.upload_rate,
        )
        path = await stack.enter_async_context(upload)
        items: Items = _told(engine.label(engine.labelling(path, memory=memory)), engine, top_k, streamed=form != JSON)
        return await answered(request, await stack.enter_async_context(aclosing(items)), form, stack)


async def answered(request: Request, items: Items, form: str, stack: AsyncExitStack) -> Response:
    """The answer in the form that was chosen. What `stack` holds lasts until the last of it is sent."""
    if form == JSON:
        return JSONResponse(await _unless_gone(request, _last(items)))
    # Whatever is wrong with the video as a whole shows before its first segment, and still gets a status.
    first = await _unless_gone(request, anext(items))
    answer = _Stream(_lines(first, items, form, request.state.metrics), media_type=form, headers=_UNBUFFERED)
    answer.stack, answer.patience = stack.pop_all(), request.state.settings.answer_idle_seconds
    return answer


async def _told(
    results: AsyncGenerator[SegmentResult | VideoResult, None], engine: Engine, top_k: int, *, streamed: bool
) -> Items:
    async with aclosing(results):
        async for one in results:
            if isinstance(one, VideoResult):
                body = describe(one, engine.recognizer, top_k)
                if streamed:  # told with the segments, and large
                    for segment in body["segments"]:
                        segment.pop("memory", None)
                yield "result", body
            else:
                yield "segment", describe_segment(one, engine.recognizer.labels, top_k)


_UNBUFFERED = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class _Stream(StreamingResponse):
    """An answer in pieces. The upload and the work must last until it ends, however that happens: it takes them along."""

    stack: AsyncExitStack
    patience: float
    """Seconds that a client may leave it unread: it holds a place that others wait for."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_soon(message: Message) -> None:
            async with asyncio.timeout(self.patience):
                await send(message)

        async with self.stack:
            try:
                await super().__call__(scope, receive, send_soon)
            except* TimeoutError:
                log.info("a client has read nothing for %g s; the labelling of its video is ended", self.patience)


async def _lines(
    first: tuple[str, dict[str, Any]], items: Items, form: str, metrics: Metrics
) -> AsyncGenerator[bytes, None]:
    try:
        yield _encode(*first, form)
        async for kind, body in items:
            yield _encode(kind, body, form)
    except Exception as error:  # the status is gone: the client learns of any error in the stream, and the log, too
        body = problem_of(error)
        metrics.errors.labels(body["code"]).inc()
        yield _encode("problem", body, form)


async def _last(items: Items) -> dict[str, Any]:
    async for kind, body in items:
        if kind == "result":
            return body
    raise RuntimeError("the engine gave no result")


async def _unless_gone(request: Request, work: Awaitable[_T]) -> _T:
    """Awaits the work, and cancels it when the client goes away: raises ClientDisconnect then. For after the body."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, watching = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect
    finally:
        watching.cancel()
        working.cancel()
        await asyncio.wait({working, watching})


def _encode(kind: str, body: dict[str, Any], form: str) -> bytes:
    # "type" is RFC 9457's own in a problem, so the kind goes around the body there.
    told = {"type": kind, "problem": body} if kind == "problem" else {"type": kind, **body}
    text = json.dumps(told, separators=(",", ":"))
    return (f"event: {kind}\ndata: {text}\n\n" if form == SSE else f"{text}\n").encode()
