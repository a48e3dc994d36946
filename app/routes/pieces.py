"""POST /v1/streams/{id}/clips: the next piece of video of a stream. A piece counts as a whole or not at all."""

import asyncio
import copy
import hashlib
import json
import time
import zlib
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import Response

from app import schemas
from app.engine import Engine
from app.following import segment_told
from app.negotiation import choose
from app.problems import documented
from app.routes.clips import BODY, Items, answered
from app.routes.streams import StreamId
from app.sessions.base import ANSWER_BYTES, Answer
from app.settings import Settings
from app.streams import Held, StreamGap, Streams
from app.uploads import received
from models.errors import CrtError
from pipelines import state as states
from pipelines.label import Labelling, VideoResult, describe, describe_segment

router = APIRouter()
_START = "Where the piece begins, in seconds of the stream; default: where the last one ended."


class IdempotencyConflict(CrtError):  # noqa: N818 - named after what is wrong
    """The key was used for another request."""

    code = "idempotency_conflict"


@router.post(
    "/v1/streams/{id}/clips",
    response_model=schemas.PieceAnswer,
    responses=documented(
        "request", "parameter", "upload", "video", "not_acceptable", "busy", "decoder", "session", "stream", "model_changed", "store",
        "idempotency", "internal",
    ),
    openapi_extra=BODY,
    summary="Label the next piece of a stream",
)  # fmt: skip
async def label_piece(
    request: Request,
    id: StreamId,
    start: Annotated[
        float | None, Query(ge=-1e11, le=1e11, allow_inf_nan=False, description=_START)
    ] = None,
    end: Annotated[bool, Query(description="The stream ends with this piece.")] = False,
    top_k: Annotated[int | None, Query(ge=1, le=1000, description="Labels to give; default: the stream's.")] = None,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255)] = None,
) -> Response:  # fmt: skip
    """Goes on where the last piece ended. With an `Idempotency-Key`, sending it again is safe."""
    engine: Engine = request.state.engine
    settings: Settings = request.state.settings
    streams: Streams = request.state.streams
    form = choose(request.headers.get("accept"))
    async with AsyncExitStack() as stack:
        stack.enter_context(engine.admit())
        upload = received(
            request, most=settings.upload_bytes, folder=settings.spool, patience=settings.upload_idle_seconds,
            rate=settings.upload_rate,
        )  # fmt: skip
        path = await stack.enter_async_context(upload)
        asked = ""
        if idempotency_key is not None:
            asked = await asyncio.to_thread(_digest, path, f"{start} {end} {top_k}")
        writing = await stack.enter_async_context(_writing(streams, id))
        if idempotency_key is not None and (before := await streams.store.answer(id, idempotency_key)) is not None:
            if before.request != asked:
                raise IdempotencyConflict(
                    f"the Idempotency-Key {idempotency_key!r} was used for another request; take another key for another piece"
                )
            items = _again(recalled(before.body))
        else:
            items = _work(streams, engine, writing, path, start, end, top_k, idempotency_key, asked)
        return await answered(request, await stack.enter_async_context(aclosing(items)), form, stack)


@dataclass(eq=False)
class _Writing:
    """A stream that is held, and what works on its piece."""

    held: Held
    running: Labelling | None = None
    evicted: CrtError | None = None
    """Why it has to be given up."""


@asynccontextmanager
async def _writing(streams: Streams, id: str) -> AsyncGenerator[_Writing, None]:
    """Holds the stream while the block lasts. When the stream is taken away, what works on the piece is killed."""
    writing: _Writing

    def evict(why: CrtError) -> None:
        writing.evicted = why
        if writing.running is not None:
            writing.running.kill()

    writing = _Writing(await streams.hold(id, None, evict))
    writing.held.heard = time.time()
    keeping = asyncio.create_task(streams.keep(writing.held))
    try:
        yield writing
    finally:
        keeping.cancel()
        # If it has failed, so will the commit, which says why.
        await asyncio.gather(keeping, return_exceptions=True)
        await streams.release(writing.held, keep=True)


async def _work(
    streams: Streams, engine: Engine, writing: _Writing, path: Path, start: float | None, end: bool,
    top_k: int | None, key: str | None, asked: str,
) -> Items:  # fmt: skip
    """Labels the piece, then commits what it brought and the answer with it, then tells the result."""
    held = writing.held
    before = held.stream.state()
    offset = _offset(held, start)
    # A piece that breaks off must leave no trace: the work is done on a copy.
    stream = copy.deepcopy(held.stream)
    labelling = engine.labelling(path, stream=stream, offset=offset, end=end)
    writing.running = labelling
    count, labels = top_k or held.options.top_k, engine.recognizer.labels
    try:
        if writing.evicted is not None:
            raise writing.evicted
        async with aclosing(engine.label(labelling)) as results:
            async for one in results:
                if not isinstance(one, VideoResult):
                    yield "segment", describe_segment(one, labels, count)
                    continue
                body = describe(one, engine.recognizer, count)
                state = stream.state()
                body["stream"] = {
                    "id": held.id, "segment": state.segments, "position": state.position, "received": state.received,
                    "missing": state.missing,
                }  # fmt: skip
                answer = None if key is None else Answer(key, asked, await asyncio.to_thread(remembered, body))
                kept = {
                    n: states.to_bytes(s)
                    for n, s in labelling.states.items()
                    if n > max(state.segments - held.options.checkpoints, before.segments)
                }
                await streams.commit(held, stream=stream, checkpoints=kept, answer=answer)
                for segment in one.segments:
                    streams.followers.tell(held.id, segment_told(segment, labels, count))
                yield "result", body
    except CrtError:
        if (why := held.lost or writing.evicted) is not None:
            raise why from None
        raise


def _offset(held: Held, start: float | None) -> float:
    """Where the piece begins, in seconds. Raises StreamGap if what should come before it was lost."""
    stream, state = held.stream, held.stream.state()
    offset = start if start is not None else state.received if state.received is not None else 0.0
    position = state.position
    whole = stream.latest is not None and state.sampler.last != stream.latest
    if state.open and not whole and offset > (position or 0.0) + 1 / stream.spec.rate:
        raise StreamGap(
            f"stream {held.id!r} is known up to {position or 0.0:g} s: what came after that was lost with the service that had "
            f"it. This piece begins at {offset:g} s; send again from {position or 0.0:g} s on, with start={position or 0.0:g}."
        )
    return offset


def _digest(path: Path, more: str) -> str:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    digest.update(more.encode())
    return digest.hexdigest()


def remembered(body: dict[str, Any]) -> bytes:
    """An answer to keep, at most ANSWER_BYTES: of the piece of a day that is too long only what it was about and where the stream is."""
    packed = zlib.compress(json.dumps(body).encode())
    if len(packed) > ANSWER_BYTES:
        shortened = {
            "code": "answer_shortened",
            "detail": "this is a retry: the piece was labelled before, and its segments and events are too many to be told again",
        }
        body = {**body, "segments": [], "events": [], "warnings": [*body["warnings"], shortened]}
        packed = zlib.compress(json.dumps(body).encode())
    return packed


def recalled(kept: bytes) -> dict[str, Any]:
    """What was remembered."""
    body: dict[str, Any] = json.loads(kept if kept.startswith(b"{") else zlib.decompress(kept))
    return body


async def _again(body: dict[str, Any]) -> Items:
    for segment in body["segments"]:
        yield "segment", segment
    yield "result", body
