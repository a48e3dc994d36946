"""What a worker says, byte by byte in and checked messages out: a state machine without I/O.

    while (message := conversation.filled(read_into(conversation.room()))) is None: ...

The worker may have been taken over by the video that it decodes. So no pickles, no sizes that it chooses, and no value
that a sound worker cannot send: times between bounds and rising, ticks that are open, sums that are right. The messages
are described in decode_worker.py.
"""

import logging
import math
import struct
from dataclasses import asdict, dataclass, field
from typing import Any, NoReturn, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from models.errors import CrtError
from models.spec import ClipSpec
from pipelines.errors import DecoderDied, VideoError
from pipelines.frames import Frame
from pipelines.sample import EPSILON, MAX_GAP, Sampler, SamplerState
from pipelines.video import Budget, VideoInfo, VideoSummary, VideoWarning

_LOG = logging.getLogger(__name__)
_HEADER = struct.Struct("<cI")
_FRAME = struct.Struct("<dIQ")
_MAX_JSON = 1 << 16
_told: set[str] = set()
_T = TypeVar("_T", bound="_Message")


class _Message(BaseModel):
    model_config = ConfigDict(allow_inf_nan=False)


class _First(_Message):
    info: VideoInfo
    unconfined: list[str]


class _Last(_Message):
    summary: VideoSummary
    warnings: list[VideoWarning]
    last: float


class _Error(_Message):
    code: str
    message: str


FARTHEST = 1e12
"""Seconds from a stream's start; further out, frames' times could not be told apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked of a worker. Raises ValueError for an offset that is no number of seconds up to FARTHEST."""

    spec: ClipSpec
    rate: float
    """Ticks a second."""
    budget: Budget
    offset: float = 0.0
    """Where in the stream the first frame lies, in seconds."""
    sampler: SamplerState = field(default_factory=SamplerState)
    """Where sampling stands."""
    threads: int = 1
    """For a decoder."""
    live: bool = False
    """Whether the video is still coming. Then processor time is not limited: it adds up over days, and says nothing."""

    def __post_init__(self) -> None:
        if not abs(self.offset) <= FARTHEST:
            raise ValueError(f"offset must be a number of seconds, at most {FARTHEST:g}, got {self.offset!r}")

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self) | {
            "spec": self.spec.to_dict(),
            "cpu_seconds": None if self.live else int(self.budget.seconds * self.threads) + 2,
        }


@dataclass(frozen=True, slots=True, eq=False)
class Sampled:
    """A frame that fills at least one tick."""

    frame: Frame
    """At the model's size."""
    ticks: int
    """How many it fills."""
    index: int
    """Its place among the video's frames, from 0."""


@dataclass(frozen=True, slots=True)
class Ended:
    """All frames have been said."""

    summary: VideoSummary
    warnings: list[VideoWarning]


class Conversation:
    """One worker's words, from VideoInfo to Ended. What comes after a message that was refused must not be asked for."""

    def __init__(self, request: Request) -> None:
        self._shape = (request.spec.height, request.spec.width, 3)
        self._budget, self._offset = request.budget, request.offset
        # Of a gap it knows no more than that one tick is filled: it has not seen the frames between the sampled ones.
        self._sampler = Sampler(request.rate, max_gap=math.inf, state=request.sampler)
        # A longer silence is not bridged, so no frame can fill more.
        self._most_ticks = math.ceil((MAX_GAP + EPSILON) * request.rate) + 1
        self._index = -1
        self._sampled = 0
        self._begun = False
        self._rooms: list[memoryview] = []
        self._await_header()

    @property
    def sampler(self) -> SamplerState:
        """Where sampling stands: after the last frame that was said, and at the end after all, sampled or not."""
        return self._sampler.state()

    def room(self) -> memoryview:
        """Where the worker's next bytes belong; never empty."""
        return self._rooms[0]

    def filled(self, count: int) -> VideoInfo | Sampled | Ended | None:
        """So many bytes were put at the beginning of room(). Gives the message that they complete.

        Raises what the worker names as an error, and DecoderDied for a message that it must not send.
        """
        self._rooms[0] = self._rooms[0][count:]
        if self._rooms[0]:
            return None
        del self._rooms[0]
        if self._rooms:
            return None
        if self._kind is None:
            kind, length = _HEADER.unpack(self._body)
            self._await_body(kind, length)
            return None
        message = self._message(self._kind)
        self._await_header()
        return message

    def _await_header(self) -> None:
        self._kind: bytes | None = None
        self._await(bytearray(_HEADER.size))

    def _await_body(self, kind: bytes, length: int) -> None:
        if kind == b"F" and self._begun and length == _FRAME.size + math.prod(self._shape):
            self._pixels = np.empty(self._shape, np.uint8)
            self._await(bytearray(_FRAME.size))
            self._rooms.append(self._pixels.data.cast("B"))
        elif kind in ((b"S", b"E") if self._begun else (b"I", b"E")) and 0 < length <= _MAX_JSON:
            self._await(bytearray(length))
        else:
            _out_of_turn(kind)
        self._kind = kind

    def _await(self, body: bytearray) -> None:
        self._body = body
        self._rooms = [memoryview(body)]

    def _message(self, kind: bytes) -> VideoInfo | Sampled | Ended:
        if kind == b"F":
            return self._frame(*_FRAME.unpack(self._body))
        if kind == b"I":
            first = self._checked(_First)
            self._begun = True
            _tell(first.unconfined)
            return first.info
        if kind == b"S":
            return self._end(self._checked(_Last))
        raise _error(self._checked(_Error))

    def _frame(self, time: float, ticks: int, index: int) -> Sampled:
        beginning = self._offset - EPSILON
        if not (
            beginning <= time <= self._offset + self._budget.duration and self._index < index < self._budget.frames
        ):
            _out_of_turn(b"F")
        open_ticks = self._sampler.take(time)
        if not (ticks in (1, open_ticks) and open_ticks >= 1 and ticks <= self._most_ticks):
            _out_of_turn(b"F")
        self._index = index
        self._sampled += ticks
        return Sampled(Frame(self._pixels, time), ticks, index)

    def _end(self, last: _Last) -> Ended:
        summary, budget = last.summary, self._budget
        known = self._sampler.state().last
        earliest = self._offset - EPSILON if known is None else max(known, self._offset - EPSILON)
        if not (
            0 < summary.duration <= budget.duration
            and self._index < summary.frames <= budget.frames
            and summary.sampled == self._sampled
            and (last.last == known or earliest <= last.last <= self._offset + summary.duration)
        ):
            _out_of_turn(b"S")
        if self._sampler.take(last.last) > 0:  # then it should have been said
            _out_of_turn(b"S")
        return Ended(summary, last.warnings)

    def _checked(self, kind: type[_T]) -> _T:
        """A message of the worker's, with every field as it must be."""
        try:
            return kind.model_validate_json(bytes(self._body))
        except ValidationError as error:
            _LOG.error("the decoding process sent a wrong message: %r", error.errors()[0])
            _out_of_turn(b"J")


def _out_of_turn(kind: bytes) -> NoReturn:
    raise DecoderDied(f"The process that decoded this video spoke out of turn ({kind!r}) and was ended.") from None


def _tell(unconfined: list[str]) -> None:
    for what in unconfined:
        if what not in _told:
            _told.add(what)
            _LOG.warning("video is decoded with less protection than could be: %r", what)


def _error(value: _Error) -> CrtError:
    """The error that the worker named; one that it should not have is this program's fault."""
    kinds: list[type[VideoError]] = [VideoError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    by_code = {kind.code: kind for kind in kinds}
    if kind_named := by_code.get(value.code):
        return kind_named(value.message)
    _LOG.error("the decoding process failed: %r", value.message)
    return DecoderDied("The process that decoded this video failed; the log says where.")
