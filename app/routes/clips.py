"""POST /v1/clips: a video in, labels out."""

import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from app import schemas
from app.engine import Engine
from app.negotiation import JSON, NDJSON, SSE, choose
from app.problems import MEDIA_TYPE, STATUS, problem_of
from app.settings import Settings
from app.uploads import received
from pipelines.label import VideoResult, describe, describe_segment
from pipelines.streaming import SegmentResult

router = APIRouter()

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_BODY = {
    "requestBody": {
        "required": True,
        "description": "The video: as the field `video` of a form, or by itself.",
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["video"],
                    "properties": {"video": {"type": "string", "format": "binary"}},
                }
            },
            "video/*": _BINARY,
            "application/octet-stream": _BINARY,
        },
    }
}
_STATUSES = sorted(
    {STATUS[code] for code in STATUS if code.startswith(("upload", "video", "not_acc", "busy", "parameter"))}
)
PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {
        "model": schemas.Problem,
        "description": "Codes: " + ", ".join(code for code, s in STATUS.items() if s == status),
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    for status in _STATUSES
}
_STREAMS: dict[int | str, dict[str, Any]] = {
    200: {
        "model": schemas.ClipAnswer,
        "description": 'The labels. With `Accept: application/x-ndjson` a line a segment as it is made, `{"type": "segment", ...}`, and at '
        'last `{"type": "result", ...}`; with `Accept: text/event-stream` the same as events. An error after the first '
        'segment comes as `{"type": "problem", ...}`.',
        "content": {NDJSON: {"schema": {"type": "string"}}, SSE: {"schema": {"type": "string"}}},
    }
}

Items = AsyncGenerator[SegmentResult | VideoResult, None]


@router.post(
    "/v1/clips",
    response_model=schemas.ClipAnswer,
    responses={**_STREAMS, **PROBLEMS},
    openapi_extra=_BODY,
    summary="Label a video",
)
async def label_clip(
    request: Request, top_k: Annotated[int, Query(ge=1, le=1000, description="Labels to give, the best ones.")] = 5
) -> Response:
    """What do people do in this video? Labels for the whole, for each segment, and events with start and end."""
    engine: Engine = request.state.engine
    settings: Settings = request.state.settings
    form = choose(request.headers.get("accept"))
    async with AsyncExitStack() as stack:
        stack.enter_context(engine.admit())
        path = await stack.enter_async_context(received(request, most=settings.upload_bytes, folder=settings.spool))
        items: Items = await stack.enter_async_context(aclosing(engine.label(path)))
        # Whatever is wrong with the video as a whole shows before its first segment, and still gets a status.
        first = await anext(items)
        if form != JSON:
            # The upload must last until the answer ends: the body takes the stack along.
            return StreamingResponse(
                _stream(engine, first, items, top_k, form, stack.pop_all()), media_type=form, headers=_UNBUFFERED
            )
        last = first
        async for item in items:
            last = item
            if await request.is_disconnected():
                return Response(status_code=499)  # nobody reads it; nginx's number for a client that went away
        assert isinstance(last, VideoResult)
        return JSONResponse(describe(last, engine.recognizer, top_k))


_UNBUFFERED = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


async def _stream(
    engine: Engine, first: SegmentResult | VideoResult, items: Items, top_k: int, form: str, stack: AsyncExitStack
) -> AsyncGenerator[bytes, None]:
    async with stack:
        try:
            yield _line(engine, first, top_k, form)
            async for item in items:
                yield _line(engine, item, top_k, form)
        except Exception as error:  # the status is gone: the client learns of any error in the stream, and the log, too
            yield _encode("problem", problem_of(error), form)


def _line(engine: Engine, item: SegmentResult | VideoResult, top_k: int, form: str) -> bytes:
    if isinstance(item, VideoResult):
        return _encode("result", describe(item, engine.recognizer, top_k), form)
    return _encode("segment", describe_segment(item, engine.recognizer.labels, top_k), form)


def _encode(kind: str, body: dict[str, Any], form: str) -> bytes:
    # "type" is RFC 9457's own in a problem, so the kind goes around the body there.
    told = {"type": kind, "problem": body} if kind == "problem" else {"type": kind, **body}
    text = json.dumps(told, separators=(",", ":"))
    return (f"event: {kind}\ndata: {text}\n\n" if form == SSE else f"{text}\n").encode()
