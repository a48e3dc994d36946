"""JSON in and out, as the API's documentation shows it."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class _Schema(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)


class ModelName(_Schema):
    """Which model gave an answer."""

    name: str
    digest: str
    """sha256 of all that changes a score."""


class VideoFacts(_Schema):
    """What was found in the video."""

    duration: float
    """Seconds, from the first frame to the end of the last one."""
    fps: float
    """Frames per second, on average."""
    width: int
    """Of the upright picture, in pixels."""
    height: int
    frames: int
    """Frames decoded."""
    sampled: int
    """Frames at the model's rate."""


class Label(_Schema):
    label: str
    score: float
    """Probability, 0 to 1."""


class MemoryUse(_Schema):
    """What the memory did for a segment."""

    vector: list[float]
    """The memory that the segment wrote: what the next one finds, and all that it will know of what came before."""
    change: float | None
    """Root mean square of what the segment changed in each of these numbers; null where it is not known."""
    read: float | None
    """Share of attention that the prediction gave to the memory, 0 to 1; null where the model does not divide it, or it is not known."""
    without: Label | None
    """What the prediction would have been without what came before; null where it is not known."""


class Segment(_Schema):
    """What the model says of a few seconds, in the light of all before."""

    index: int
    start: float
    """Seconds of presentation time, from the first frame."""
    end: float
    labels: list[Label]
    """Best first, background included."""
    memory: MemoryUse | None = None
    """Only where it was asked for, with `memory=true`."""


class Event(_Schema):
    """A run of one label."""

    label: str
    start: float
    end: float
    confidence: float
    """Mean score over the run."""


class VideoWarning(_Schema):
    """Something that the labels do not cover."""

    code: str
    """video_truncated, video_damaged or video_timestamps."""
    detail: str


class Timing(_Schema):
    """Where the time went, in seconds."""

    decode: float
    features: float
    crt: float
    total: float


class ClipAnswer(_Schema):
    """A labelled video."""

    model: ModelName
    video: VideoFacts
    labels: list[Label]
    """Of the whole video, best first: the mean over its segments, the first three less where there is a memory, background left out."""
    segments: list[Segment]
    events: list[Event]
    warnings: list[VideoWarning]
    timing: Timing


class Size(_Schema):
    width: int
    height: int


class ModelCard(ModelName):
    """The model that is served."""

    labels: list[str]
    background: str | None
    """The label that says that nothing happens."""
    several: bool
    """Whether several labels may be true at once: each has a probability of its own then, and events may overlap."""
    rate: float
    """Frames sampled a second."""
    frame_size: Size
    """Of the pictures that the model sees."""
    clip_frames: int
    """T, frames in a clip."""
    segment_clips: int
    """L, clips in a segment."""
    segment_seconds: float
    memory_bytes: int
    """Of the memory that one segment hands to the next."""
    card: dict[str, Any]
    """Data, method and measured accuracy."""


class Problem(_Schema):
    """What went wrong (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    """For people: what was wrong and what would be right."""
    code: str
    """For programs: stable."""
    errors: list[dict[str, str]] | None = None
    """With the code parameter_bad alone: what is wrong with which `parameter`, as its `problem`."""


class Health(_Schema):
    status: str


class Writer(_Schema):
    """That someone writes to a stream."""

    since: float
    """Seconds since 1970."""
    until: float | None
    """Without another word from there, it is taken to be gone."""


class StreamSummary(_Schema):
    """A stream in a list."""

    id: str
    model: str
    """Digest of the model that made it."""
    segment: int
    """Finished segments."""
    created: float
    """Seconds since 1970."""
    touched: float
    """Seconds since 1970: when frames last came."""
    expires: float
    """Seconds since 1970."""
    age: float
    """Seconds."""
    writer: Writer | None


class MemoryHealth(_Schema):
    """How a stream's memory is."""

    norm: float
    saturated: float
    """Share of its numbers beyond 0.99: a memory that is full of them has stopped to learn."""
    bytes: int


class Live(_Schema):
    """How a stream's writer is doing."""

    rate: float
    """Frames, or parts of a video, that come a second."""
    latency: float | None
    """Seconds from the arrival of the last segment's last frame to its labels."""
    dropped: int
    """Frames since it came."""


class Stream(StreamSummary):
    """A stream. With another model than the one that is served, only what needs none is told."""

    resume_from: int | None
    """Number of the frame to go on from."""
    position: float | None
    """Seconds of capture time: all before is durable."""
    missing: int | None
    """Frames that by their numbers never came."""
    labels: list[Label]
    """Of the last segment, best first."""
    scores: list[Label]
    """Of the whole stream so far, best first: the mean over its segments, the first three less where there is a memory, background left out."""
    state_bytes: int
    memory: MemoryHealth | None
    checkpoints: list[int]
    """First and last segment whose states are kept."""
    options: dict[str, Any]
    live: Live | None
    """Null where nobody writes, or at another replica."""


class StreamList(_Schema):
    """A page of streams."""

    streams: list[Stream | StreamSummary]
    count: int
    """Of all streams."""
    next: str | None
    """What to give as `after` for more; null if these were the last."""


class StreamState(_Schema):
    """An exported session."""

    stream: str
    segment: int
    """Finished segments."""
    model: str
    state: str
    """Signed: give it to POST /v1/streams as it is."""


class Place(_Schema):
    """Where a stream stands."""

    id: str
    segment: int
    """Finished segments."""
    position: float | None
    """Seconds: all before is durable."""
    received: float
    """Seconds: where the next piece is expected to begin."""
    missing: int
    """Frames that by their numbers never came."""


class EventChange(Event):
    """What a segment did to an event."""

    state: Literal["started", "updated", "ended"]
    segment: int
    """Index of the segment that brought it."""


class FeaturesAnswer(_Schema):
    """What the segments of the features show, in the light of all before; events by what they did to them."""

    stream: str
    clip: int
    """Clips that the stream has had: the number of the next one."""
    segment: int
    """Finished segments."""
    position: float | None
    """Seconds: all before is durable."""
    segments: list[Segment]
    events: list[EventChange]


class PieceAnswer(ClipAnswer):
    """A labelled piece of a stream: what was full, and of the last piece also the rest."""

    stream: Place
