"""Streams over HTTP: make, list, show, forget, export; and the next piece of video of one."""

import contextlib
import secrets
import time
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from app import schemas
from app.problems import documented
from app.protocol import Options
from app.sealing import Sealed, seal, unseal
from app.sessions.base import Session, SessionExpired, SessionUnknown
from app.streams import ID, ModelChanged, Streams, check_id, health
from pipelines import state as states
from pipelines.label import ranked

router = APIRouter()
_ID = AfterValidator(check_id), Field(json_schema_extra={"pattern": f"^{ID.pattern}$"})
StreamId = Annotated[str, *_ID, Path(description="1 to 128 characters: letters, digits, . _ - :")]
_ERRORS = ("parameter", "request", "session_unknown", "session_expired", "store", "internal")


class NewStream(Options):
    """A stream to be made."""

    id: Annotated[str, *_ID] | None = None
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
    full: Annotated[bool, Query(description="Each as GET /v1/streams/{id} shows it.")] = False,
) -> schemas.StreamList:
    """In the order of their ids; `next` is what to give as `after` for more."""
    streams: Streams = request.state.streams
    found = await streams.store.list(after, limit + 1)
    if full:
        return schemas.StreamList(
            streams=await _in_full(streams, found[:limit]), count=await streams.store.count(),
            next=found[limit - 1].id if len(found) > limit else None,
        )  # fmt: skip
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


async def _in_full(streams: Streams, found: Sequence[Session]) -> list[schemas.Stream | schemas.StreamSummary]:
    shown: list[schemas.Stream | schemas.StreamSummary] = []
    for one in found:
        with contextlib.suppress(SessionUnknown, SessionExpired):  # meanwhile
            session = await streams.store.load(one.id)
            shown.append(describe(streams, session, checkpoints=await streams.store.checkpoints(one.id)))
    return shown


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
    segment: Annotated[
        int | None, Query(ge=0, lt=1 << 53, description="Number of finished segments; default: all.")
    ] = None,
) -> schemas.StreamState:
    """The session as a few signed KB; `POST /v1/streams` goes on from it."""
    streams: Streams = request.state.streams
    session = await streams.store.load(id)
    state = await streams.state_after(session, segment)
    number = session.segment if segment is None else segment
    text = seal(Sealed(id, number, session.model, state), request.state.state_keys[0])
    return schemas.StreamState(stream=id, segment=number, model=session.model, state=text)


class Rewind(BaseModel):
    """Where a stream is taken back to."""

    model_config = ConfigDict(extra="forbid")

    segment: Annotated[int, Field(ge=0, lt=1 << 53)]
    """Number of finished segments; 0 begins anew."""


@router.post(
    "/v1/streams/{id}/rewind",
    summary="Take a stream back",
    responses=documented(*_ERRORS, "checkpoint", "model_changed", "stream_owned", "service_moves"),
)
async def rewind_stream(
    request: Request,
    id: StreamId,
    to: Rewind,
    takeover: Annotated[bool, Query(description="Also while another client writes to it, who is told.")] = False,
) -> schemas.Stream:
    """To where it was after one of its segments, if that is among its `checkpoints`; 0 begins anew. What came after is forgotten."""
    streams: Streams = request.state.streams
    session = await streams.rewind(id, to.segment, takeover=takeover)
    return describe(streams, session, checkpoints=await streams.store.checkpoints(id))


def _writer(session: Session) -> schemas.Writer | None:
    if session.owner is None or session.owner_since is None:
        return None
    return schemas.Writer(since=session.owner_since, until=session.lease_until)


def describe(streams: Streams, session: Session, *, checkpoints: Any) -> schemas.Stream:
    """A session as the API shows it."""
    recognizer = streams.recognizer
    options = Options.model_validate(dict(session.options))
    live = streams.live(session.id)
    summary: dict[str, Any] = {
        "id": session.id, "model": session.model, "segment": session.segment, "created": session.created, "touched": session.touched,
        "expires": session.expires,
        "age": round(time.time() - session.created, 3), "writer": _writer(session), "options": options.model_dump(mode="json"),
        "state_bytes": len(session.state), "checkpoints": [checkpoints[0], checkpoints[-1]] if checkpoints else [],
        "live": None if live is None else
        schemas.Live(rate=round(live.rate, 3), latency=live.latency, dropped=live.dropped),
    }  # fmt: skip
    if session.model != recognizer.model.digest:
        return schemas.Stream(
            **summary, resume_from=None, position=None, missing=None, labels=[], scores=[], memory=None
        )
    state = streams.state_of(session)
    labels, top, scores = recognizer.labels, options.top_k, state.scores_C
    return schemas.Stream(
        **summary, resume_from=state.frame, position=state.position, missing=state.missing,
        labels=[schemas.Label(**one) for one in ranked(state.recent[-1].result.scores_C, labels, top)] if state.recent else [],
        scores=[] if scores is None else [schemas.Label(**one) for one in ranked(scores, labels, top, without=recognizer.background)],
        memory=schemas.MemoryHealth(**health(state)),
    )  # fmt: skip
