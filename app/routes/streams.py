"""Streams over HTTP: make, list, show, forget, export; and the next piece of video of one."""

import secrets
import time
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import Field

from app import schemas
from app.problems import documented
from app.protocol import Options
from app.sealing import Sealed, seal, unseal
from app.sessions.base import Session
from app.streams import ID, ModelChanged, Streams, health
from models.errors import CrtError
from pipelines import state as states
from pipelines.label import ranked

router = APIRouter()
StreamId = Annotated[str, Path(pattern=f"^{ID.pattern}$", description="1 to 128 characters: letters, digits, . _ - :")]
_ERRORS = ("parameter", "request", "session_unknown", "session_expired", "store", "internal")


class CheckpointUnknown(CrtError):  # noqa: N818 - named after what is wrong
    """The ring does not have the state after this segment."""

    code = "checkpoint_unknown"


class NewStream(Options):
    """A stream to be made."""

    id: Annotated[str, Field(pattern=f"^{ID.pattern}$")] | None = None
    """Made up if none is given."""
    state: Annotated[str, Field(max_length=65536)] | None = None
    """As exported; none for a stream that begins."""


@router.post(
    "/v1/streams",
    status_code=201,
    summary="Make a stream",
    responses=documented(
        "request", "parameter", "session_exists", "store", "state", "model_changed", "session_too_large", "internal"
    ),
)
async def make_stream(request: Request, response: Response, new: NewStream | None = None) -> schemas.Stream:
    """A new one; or one that goes on from an exported state: elsewhere, or as a fork with another id and other options."""
    streams: Streams = request.state.streams
    new = new or NewStream()
    options = Options.model_validate(new.model_dump(include=set(Options.model_fields)))
    state = None
    if new.state is not None:
        sealed = unseal(new.state, request.state.state_keys)
        ours = streams.recognizer.model.digest
        if sealed.model != ours:
            raise ModelChanged(
                f"the state was made with the model {sealed.model}; this service has {ours}. Serve that model to go on from it."
            )
        state = states.from_bytes(
            sealed.state, memory=streams.recognizer.model.memory, classes=len(streams.recognizer.labels)
        )
    session = streams.fresh(new.id or _made_up(), options, state)
    await streams.store.create(session)
    response.headers["Location"] = f"/v1/streams/{session.id}"
    return describe(streams, session, checkpoints=[])


def _made_up() -> str:
    return f"stream-{secrets.token_hex(6)}"


@router.get("/v1/streams", summary="List streams", responses=documented("parameter", "store", "internal"))
async def list_streams(
    request: Request,
    after: Annotated[str | None, Query(max_length=128, description="Only ids that come after this one.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> schemas.StreamList:
    """In the order of their ids; `next` is what to give as `after` for more."""
    streams: Streams = request.state.streams
    found = await streams.store.list(after, limit + 1)
    told = [
        schemas.StreamSummary(
            id=s.id, model=s.model, segment=s.segment, created=s.created, touched=s.touched, expires=s.expires,
            age=round(time.time() - s.created, 3), writer=_writer(s),
        )
        for s in found[:limit]
    ]  # fmt: skip
    return schemas.StreamList(
        streams=told, count=await streams.store.count(), next=told[-1].id if len(found) > limit else None
    )


@router.get("/v1/streams/{id}", summary="Show a stream", responses=documented(*_ERRORS))
async def show_stream(request: Request, id: StreamId) -> schemas.Stream:
    """Position, age, last labels, running scores, size, health of the memory."""
    streams: Streams = request.state.streams
    return describe(streams, await streams.store.load(id), checkpoints=await streams.store.checkpoints(id))


@router.delete("/v1/streams/{id}", status_code=204, summary="Forget a stream", responses=documented(*_ERRORS))
async def delete_stream(request: Request, id: StreamId) -> None:
    """All of it. Whoever writes to it is told."""
    streams: Streams = request.state.streams
    await streams.delete(id)


@router.get(
    "/v1/streams/{id}/state",
    summary="Export a stream",
    responses=documented(*_ERRORS, "checkpoint", "model_changed"),
)
async def export_state(
    request: Request,
    id: StreamId,
    segment: Annotated[int | None, Query(ge=0, description="Number of finished segments; default: all.")] = None,
) -> schemas.StreamState:
    """The session as a few signed KB; `POST /v1/streams` goes on from it."""
    streams: Streams = request.state.streams
    session = await streams.store.load(id)
    state = session.state
    if segment == 0:
        state = streams.fresh(id, Options()).state
    elif segment is not None and segment != session.segment:
        kept = await streams.store.checkpoint(id, segment)
        if kept is None:
            ring = await streams.store.checkpoints(id)
            there = f"{ring[0]} to {ring[-1]}" if ring else "none; give a stream `checkpoints` when it is made"
            raise CheckpointUnknown(f"stream {id!r} keeps no state after segment {segment}; it has {there}")
        state = kept
    number = session.segment if segment is None else segment
    text = seal(Sealed(id, number, session.model, state), request.state.state_keys[0])
    return schemas.StreamState(stream=id, segment=number, model=session.model, state=text)


def _writer(session: Session) -> schemas.Writer | None:
    if session.owner is None or session.owner_since is None:
        return None
    return schemas.Writer(since=session.owner_since, until=session.lease_until)


def describe(streams: Streams, session: Session, *, checkpoints: Any) -> schemas.Stream:
    """A session as the API shows it."""
    recognizer = streams.recognizer
    options = Options.model_validate(dict(session.options))
    summary: dict[str, Any] = {
        "id": session.id, "model": session.model, "segment": session.segment, "created": session.created, "touched": session.touched,
        "expires": session.expires,
        "age": round(time.time() - session.created, 3), "writer": _writer(session), "options": options.model_dump(mode="json"),
        "state_bytes": len(session.state), "checkpoints": [checkpoints[0], checkpoints[-1]] if checkpoints else [],
    }  # fmt: skip
    if session.model != recognizer.model.digest:
        return schemas.Stream(
            **summary, resume_from=None, position=None, missing=None, labels=[], scores=[], memory=None
        )
    state = streams.state_of(session)
    labels, top = recognizer.labels, options.top_k
    scores = None if state.totals_C is None or not state.clips else state.totals_C / state.clips
    return schemas.Stream(
        **summary, resume_from=state.frame, position=state.position, missing=state.missing,
        labels=[schemas.Label(**one) for one in ranked(state.recent[-1].result.scores_C, labels, top)] if state.recent else [],
        scores=[] if scores is None else [schemas.Label(**one) for one in ranked(scores, labels, top, without=recognizer.background)],
        memory=schemas.MemoryHealth(**health(state)),
    )  # fmt: skip
