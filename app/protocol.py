"""What is said over a WebSocket, see docs/protocol.md: each message as a model, and the codes that close a connection.

`python -m app.protocol > docs/protocol.schema.json` writes the messages' JSON schemas.
"""

import json
import struct
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from app.schemas import Label, MemoryUse, ModelName, Size
from pipelines.events import EventChange

FRAMES, VIDEO = "crt.v1", "crt.v1.video"
"""Subprotocols."""
HEADER = struct.Struct("!Qd")
"""Before each frame: its number and its capture time in seconds."""

CLOSE = {
    "service_moves": 1012, "store_unavailable": 1013, "busy": 1013, "internal": 1011,
    "frame_malformed": 4400, "message_malformed": 4400, "parameter_bad": 4400, "session_unknown": 4404,
    "reader_slow": 4408, "stream_owned": 4409, "stream_rewound": 4409, "session_conflict": 4409, "session_expired": 4410, "model_changed": 4412,
}  # fmt: skip
"""The close code of each error; any other error of the client's closes with 4400."""


class Options(BaseModel):
    """What a stream can be told when it is made."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    top_k: Annotated[int, Field(ge=1, le=1000)] = 5
    """Labels in each answer."""
    policy: Literal["complete", "live"] = "complete"
    """When frames come faster than they are worked on: hold the sender, or drop the oldest that wait."""
    provisional: bool = True
    """Whether to tell a segment's labels while it still fills."""
    memory: bool = False
    """Whether to tell of final segments what the memory did."""
    idle_seconds: Annotated[float, Field(gt=0, le=366 * 86400)] = 86400.0
    """The stream expires after so many seconds without a frame."""
    lifetime_seconds: Annotated[float | None, Field(gt=0, le=100 * 366 * 86400)] = None
    """And so many seconds after it was made; null for never."""
    hold: Annotated[float, Field(ge=0, le=1)] = 0.1
    """By how much another label must score higher to end an event."""
    least: Annotated[float, Field(ge=0, le=1)] = 0.2
    """The least confidence of an event."""
    shortest: Annotated[float, Field(ge=0, le=3600)] = 1.0
    """The least length of an event in seconds."""
    checkpoints: Annotated[int, Field(ge=0, le=10_000)] = 0
    """States to keep for going back, one a segment."""


class _Message(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)


class _FromClient(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class End(_FromClient):
    """The stream ends here."""

    type: Literal["end"]


class Change(_FromClient):
    """Options to change."""

    type: Literal["options"]
    top_k: Annotated[int, Field(ge=1, le=1000)] | None = None
    policy: Literal["complete", "live"] | None = None
    provisional: bool | None = None
    memory: bool | None = None


FromClient: TypeAdapter[End | Change] = TypeAdapter(Annotated[End | Change, Field(discriminator="type")])


class Ready(_Message):
    """First of all."""

    type: Literal["ready"] = "ready"
    stream: str
    model: ModelName
    resume_from: int
    """Number of the frame to go on from."""
    position: float | None
    """Seconds of capture time: all before is durable; null at the beginning."""
    segment: int
    """Index of the next segment."""
    rate: float
    """Frames sampled a second."""
    frame_size: Size
    """What the model sees; larger frames are scaled down."""
    segment_frames: int
    """Sampled frames in a segment."""
    credit: int
    """Frames that may be sent."""
    frame_bytes: int
    """Largest message."""
    expires: float | None
    """Seconds since 1970."""
    options: Options


class SegmentLabels(_Message):
    """What a segment shows, in the light of all before."""

    type: Literal["segment"] = "segment"
    index: int
    start: float
    """Seconds of capture time."""
    end: float
    labels: list[Label]
    """Best first, background included."""
    final: bool
    """False while the segment fills."""
    latency: float | None
    """Seconds from the arrival of its last frame to now; null when it is said again."""
    missing: int
    """Frames that by their numbers never came."""
    memory: MemoryUse | None = None
    """What the memory did, of final segments and where it was asked for; null when the segment is said again."""


class EventTold(_Message):
    """An event begins, goes on or ends."""

    type: Literal["event"] = "event"
    state: Literal["started", "updated", "ended"]
    label: str
    start: float
    end: float
    confidence: float
    segment: int
    """Index of the segment that brought it."""


def event_told(change: EventChange, segment: int) -> EventTold:
    """A change as it is told."""
    event = change.event
    return EventTold(
        state=change.state, label=event.label, start=round(event.start, 6), end=round(event.end, 6),
        confidence=round(event.confidence, 6), segment=segment,
    )  # fmt: skip


class Ack(_Message):
    """What is durable."""

    type: Literal["ack"] = "ack"
    frame: int
    """All frames before this number."""
    segment: int
    """All segments before this index."""
    expires: float | None
    """Seconds since 1970."""


class Credit(_Message):
    """More may be sent."""

    type: Literal["credit"] = "credit"
    frames: int


DropReason = Literal["gap", "late", "undecodable", "live"]


class Dropped(_Message):
    """Frames that are in no label."""

    type: Literal["dropped"] = "dropped"
    frames: int
    reason: DropReason
    detail: str


class ErrorTold(_Message):
    """Something is wrong."""

    type: Literal["error"] = "error"
    code: str
    detail: str
    fatal: bool
    """Whether the connection is closed for it."""


class Goodbye(_Message):
    """Last of all."""

    type: Literal["goodbye"] = "goodbye"
    reason: Literal["end", "error", "taken_over", "expired", "deleted", "rewound", "shutdown", "slow"]
    reconnect: bool
    """Whether to come back and go on."""


class Following(_Message):
    """To a follower, first of all."""

    type: Literal["following"] = "following"
    stream: str
    model: ModelName
    position: float | None
    """Seconds of capture time: all before is durable; null at the beginning."""
    segment: int
    """Index of the next segment."""
    rate: float
    """Frames sampled a second."""
    segment_frames: int
    """Sampled frames in a segment."""
    expires: float | None
    """Seconds since 1970."""


class WriterTold(_Message):
    """To a follower: whether someone writes to the stream."""

    type: Literal["writer"] = "writer"
    writing: bool


class Rewound(_Message):
    """To a follower: the stream went back."""

    type: Literal["rewound"] = "rewound"
    segment: int
    """Index of the next segment: this one and those after it are no more."""


ToClient = Ready | SegmentLabels | EventTold | Ack | Credit | Dropped | ErrorTold | Goodbye


def schemas() -> dict[str, Any]:
    """JSON schemas of all messages, by type, for the protocol's page and for clients."""
    kinds: list[type[BaseModel]] = [
        End,
        Change,
        Ready,
        SegmentLabels,
        EventTold,
        Ack,
        Credit,
        Dropped,
        ErrorTold,
        Goodbye,
        Following,
        WriterTold,
        Rewound,
    ]
    return {str(kind.model_json_schema()["properties"]["type"]["const"]): kind.model_json_schema() for kind in kinds}


if __name__ == "__main__":
    print(json.dumps(schemas(), indent=1))
