"""A stream's state as bytes: exact, the same everywhere, and checked like any input when it is read.

    magic, length of the header (uint16; uint32 where it is longer, which the magic tells), header (JSON), memory (float32[M]),
    totals (float64[C], if any), the scores of the recent steps (float32[C] each); little-endian

Numbers in the header are written so that reading gives the very same ones.
"""

import json
import struct
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.errors import CrtError
from pipelines.events import Event, EventChange, RunState
from pipelines.sample import SamplerState
from pipelines.streaming import RECENT, SegmentResult, Step, StreamState

_SHORT, _LONG = b"CRTS1", b"CRTS2"
_LENGTHS = {_SHORT: struct.Struct("<H"), _LONG: struct.Struct("<I")}
_Count = Annotated[int, Field(ge=0, le=1 << 53)]


class BadState(CrtError):  # noqa: N818 - named after what is wrong
    """The bytes are no state of a stream of this model."""

    code = "state_bad"


class _Strict(BaseModel):
    model_config = ConfigDict(allow_inf_nan=False, extra="forbid", frozen=True)


class _Change(_Strict):
    state: Literal["started", "updated", "ended"]
    label: str
    start: float
    end: float
    confidence: float


class _Step(_Strict):
    start: float
    end: float
    clips: _Count
    missing: _Count
    events: list[_Change]


class _Run(_Strict):
    label: _Count
    start: float
    end: float
    weighted: float
    told: bool


class _Header(_Strict):
    """`more_runs` and `weighed` are there only where several labels may be true at once, so that others' states stay as they were."""

    memory: _Count
    classes: _Count
    totals: bool
    segments: _Count
    clips: _Count
    origin: float | None
    last: float | None
    next_tick: _Count
    frame: _Count
    missing: _Count
    run: _Run | None
    more_runs: list[_Run] = []
    weighed: _Count | None = None
    received: float | None
    open: bool
    recent: Annotated[list[_Step], Field(max_length=RECENT)]


def to_bytes(state: StreamState) -> bytes:
    """A few KB, whatever the stream's length."""
    sampler = state.sampler
    runs = [
        {"label": run.label, "start": run.start, "end": run.end, "weighted": run.weighted, "told": run.told}
        for run in state.runs
    ]
    classes = 0 if state.totals_C is None else len(state.totals_C)
    header: dict[str, Any] = {
        "memory": len(state.memory_M), "classes": classes, "totals": state.totals_C is not None,
        "segments": state.segments, "clips": state.clips, "origin": sampler.origin, "last": sampler.last,
        "next_tick": sampler.next_tick, "frame": state.frame, "missing": state.missing,
        "run": runs[0] if runs else None, **({"more_runs": runs[1:]} if runs[1:] else {}),
        **({"weighed": state.weighed} if _weighed(state.totals_C) != state.weighed else {}),
        "received": state.received, "open": state.open,
        "recent": [
            {
                "start": step.result.start, "end": step.result.end, "clips": step.result.clips, "missing": step.result.missing,
                "events": [
                    {"state": c.state, "label": c.event.label, "start": c.event.start, "end": c.event.end, "confidence": c.event.confidence}
                    for c in step.events
                ],
            }
            for step in state.recent
        ],
    }  # fmt: skip
    text = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    arrays = [state.memory_M.astype("<f4")]
    if state.totals_C is not None:
        arrays.append(state.totals_C.astype("<f8"))
    arrays += [step.result.scores_C.astype("<f4") for step in state.recent]
    magic = _SHORT if len(text) < 1 << 16 else _LONG  # many labels at once may begin and end within a few segments
    return b"".join([magic, _LENGTHS[magic].pack(len(text)), text, *(array.tobytes() for array in arrays)])


def _weighed(totals_C: np.ndarray | None) -> int:
    """The weights' sum where each segment's scores sum to one."""
    return 0 if totals_C is None else round(float(totals_C.sum()))


def from_bytes(data: bytes, *, memory: int, classes: int) -> StreamState:
    """The state of a stream of a model with this width of memory and number of labels. Raises BadState."""
    magic = bytes(data[: len(_SHORT)])
    length = _LENGTHS.get(magic)
    if length is None or len(data) < (start := len(magic) + length.size):
        raise BadState("this is no state of a stream, or of another version")
    end = start + length.unpack_from(data, len(magic))[0]
    try:
        header = _Header.model_validate_json(data[start:end])
    except ValidationError as error:
        first = error.errors()[0]
        raise BadState(
            f"the state's {'.'.join(map(str, first['loc'])) or 'header'} is wrong: {first['msg']}"
        ) from error
    if header.memory != memory or (header.totals and header.classes != classes):
        raise BadState(
            f"the state is of a model with {header.memory} numbers of memory and {header.classes} labels; "
            f"this one has {memory} and {classes}"
        )
    parts = [("<f4", memory)] + [("<f8", classes)] * header.totals + [("<f4", classes)] * len(header.recent)
    arrays, at = [], end
    if len(data) != end + sum(np.dtype(kind).itemsize * count for kind, count in parts):
        raise BadState(f"the state has {len(data)} bytes; it is cut off, or goes on where it should end")
    for kind, count in parts:
        array = np.frombuffer(data, kind, count, at)
        at += array.nbytes
        if not np.isfinite(array).all():
            raise BadState("the state has numbers that are not finite")
        arrays.append(array.astype(kind[1:]))
    runs = [*filter(None, [header.run]), *header.more_runs]
    for run in runs:
        if run.label >= classes:
            raise BadState(f"the state's event has label {run.label} of {classes}")
    if bool(header.recent) != bool(header.segments) or len(header.recent) > header.segments:
        raise BadState(f"the state has {header.segments} segments and keeps {len(header.recent)} of them")
    steps = tuple(
        Step(
            SegmentResult(
                header.segments - len(header.recent) + i, step.start, step.end, step.clips, scores_C, step.missing
            ),
            tuple(EventChange(c.state, Event(c.label, c.start, c.end, c.confidence)) for c in step.events),
        )
        for i, (step, scores_C) in enumerate(zip(header.recent, arrays[1 + header.totals :], strict=True))
    )
    totals_C = arrays[1] if header.totals else None
    weighed = _weighed(totals_C) if header.weighed is None else header.weighed
    if totals_C is not None and not (totals_C.min() >= 0 and totals_C.max() <= weighed + 0.5):
        raise BadState(f"the state's scores are none: a sum of {totals_C.max():g} of segments that count {weighed}")
    return StreamState(
        memory_M=arrays[0], segments=header.segments, clips=header.clips,
        sampler=SamplerState(header.origin, header.last, header.next_tick), totals_C=totals_C,
        weighed=weighed,
        runs=tuple(RunState(**run.model_dump()) for run in runs), frame=header.frame,
        missing=header.missing, recent=steps, received=header.received, open=header.open,
    )  # fmt: skip
