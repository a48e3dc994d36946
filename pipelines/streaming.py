"""One stream as a state machine, without I/O: frames in, segments and events out, one small state in between.

    take(time) -> ticks             is this frame needed at all?
    push(frame, ticks) -> clips     clips due for the backbone
    add(clip, feature) -> segment   a segment due for the CRT, once full
    advance(segment, scores, clip_scores, memory) -> step

The state is that of the last finished segment: memory, position, running scores, a few KB whatever the stream's length. What came
after it is not kept; frames from the position on are sent again after a break, and give again what they gave.
Shapes: F feature width, L clips in a segment, M memory width, C labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from models.spec import ClipSpec
from pipelines.events import EventChange, EventOptions, EventTracker, RunState
from pipelines.frames import Clip, Frame
from pipelines.sample import Clipper, ClipperState, Sampler, SamplerState


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """Up to L clips' features, due for the CRT."""

    index: int
    start: float
    """Seconds from the stream's start."""
    end: float
    features_LF: np.ndarray
    """float32[L, F]; rows of absent clips are zero."""
    mask_L: np.ndarray
    """bool[L]: True where a clip is present."""
    memory_M: np.ndarray
    """float32[M]: what came before."""


@dataclass(frozen=True, slots=True, eq=False)
class SegmentResult:
    """A segment and its prediction."""

    index: int
    start: float
    end: float
    clips: int
    """How many of its L clips were there."""
    scores_C: np.ndarray
    """float32[C], probabilities."""


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """What a segment brought."""

    result: SegmentResult
    events: tuple[EventChange, ...]


@dataclass(frozen=True, slots=True, eq=False)
class StreamState:
    """A stream between two segments; all that has to be kept."""

    memory_M: np.ndarray
    """float32[M]."""
    segments: int = 0
    """Finished ones."""
    clips: int = 0
    """In the finished segments."""
    sampler: SamplerState = field(default_factory=SamplerState)
    """Position: the first tick that is open, and the times of the first and the latest frame."""
    totals_C: np.ndarray | None = None
    """float64[C]: sum of the segments' scores, each times its clips."""
    run: RunState | None = None
    """The event that goes on."""


class Stream:
    """One stream. Every method returns at once; who calls runs the networks."""

    def __init__(
        self, spec: ClipSpec, segment: int, labels: Sequence[str], background: str | None, state: StreamState,
        *, events: EventOptions | None = None,
    ) -> None:  # fmt: skip
        self.spec, self.segment = spec, segment
        self._state = state
        self._sampler = Sampler(spec.rate, state=state.sampler)
        self._clipper = Clipper(spec, state=ClipperState(state.sampler.origin, state.sampler.next_tick))
        self._tracker = EventTracker(labels, background, events, run=state.run)
        self._pending: list[tuple[Clip, np.ndarray]] = []
        # Where sampling stood at the end of each clip that is on its way.
        self._after: list[SamplerState] = []
        self._seen = state.sampler

    def state(self) -> StreamState:
        """The state at the last finished segment; Stream(..., state) goes on from it, with the frames that came after."""
        return self._state

    def take(self, time: float) -> int:
        """How many ticks the frame of this time (seconds) fills; 0 if it need not be decoded. See Sampler.take."""
        return self._sampler.take(time)

    def push(self, frame: Frame, ticks: int) -> list[Clip]:
        """Clips due, oldest first. The frame is sampled and fitted; ticks says how many ticks it fills."""
        if ticks == 0:
            return []
        before = self._seen
        origin = frame.time if before.origin is None else before.origin
        clips = self._clipper.push(frame, ticks)
        filled = self._clipper.state()
        self._seen = SamplerState(origin, frame.time, filled.next_tick)
        for clip in clips:
            ends_at = round((clip.end - origin) * self.spec.rate)
            # A frame that fills ticks beyond the clip is needed again by who goes on from there.
            last = frame.time if ends_at == filled.next_tick else before.last
            self._after.append(SamplerState(origin, last, ends_at))
        return clips

    def finish(self) -> list[Clip]:
        """The stream ends: the clip that was filling, padded."""
        clips = self._clipper.flush()
        self._after += [self._seen] * len(clips)
        return clips

    def add(self, clip: Clip, feature_F: np.ndarray) -> Segment | None:
        """Takes a due clip's feature, in order; gives the segment that it fills."""
        self._pending.append((clip, feature_F))
        return self._due() if len(self._pending) == self.segment else None

    def rest(self) -> Segment | None:
        """The segment that is still filling, if it has clips: for the end of a stream, or for a provisional prediction."""
        return self._due() if self._pending else None

    def _due(self) -> Segment:
        count, width = len(self._pending), len(self._pending[0][1])
        features = np.zeros((self.segment, width), np.float32)
        for row, (_, feature) in enumerate(self._pending):
            features[row] = feature
        mask = np.arange(self.segment) < count
        return Segment(
            self._state.segments,
            self._pending[0][0].start,
            self._pending[-1][0].end,
            features,
            mask,
            self._state.memory_M,
        )

    def advance(self, segment: Segment, scores_C: np.ndarray, scores_LC: np.ndarray, memory_M: np.ndarray) -> Step:
        """Finishes a due segment with its prediction, that of its clips and the next memory; the state moves on."""
        if segment.index != self._state.segments:
            raise ValueError(f"segment {self._state.segments} is due, got the prediction of {segment.index}")
        clips = int(segment.mask_L.sum())
        changes: list[EventChange] = []
        for (clip, _), clip_scores_C in zip(self._pending[:clips], scores_LC[:clips], strict=True):
            for change in self._tracker.push(clip_scores_C, clip.start, clip.end):
                if change.state == "updated" and changes and changes[-1].state != "ended":
                    changes[-1] = replace(changes[-1], event=change.event)  # one word a segment about each event
                else:
                    changes.append(change)
        totals = scores_C.astype(np.float64) * clips
        after, self._after = self._after[clips - 1], self._after[clips:]
        self._pending = self._pending[clips:]
        self._state = replace(
            self._state, memory_M=memory_M, segments=segment.index + 1, clips=self._state.clips + clips, sampler=after,
            totals_C=totals if self._state.totals_C is None else self._state.totals_C + totals, run=self._tracker.state(),
        )  # fmt: skip
        return Step(SegmentResult(segment.index, segment.start, segment.end, clips, scores_C), tuple(changes))

    def close(self) -> list[EventChange]:
        """Ends the event that goes on."""
        return self._tracker.flush()

    def mean_scores(self) -> np.ndarray | None:
        """The whole stream's scores so far, float64[C]: the mean over its clips; None before the first segment."""
        return None if self._state.totals_C is None else self._state.totals_C / self._state.clips
