"""One stream as a state machine, without I/O: frames in, segments and events out, one small state in between.

    take(time, number) -> ticks     is this frame needed at all?
    push(frame, ticks) -> clips     clips due for the backbone
    add(clip, feature) -> segment   a segment due for the CRT, once full
    give(features) -> segment       the same for clips that were seen elsewhere
    advance(segment, scores, clip_scores, memory) -> step

The state is that of the last finished segment: memory, position, running scores, a few KB whatever the stream's length. What came
after it is not kept; frames from the position on are sent again after a break, and give again what they gave. The last few
steps are kept, to be said again after a break: that they are durable does not mean that anyone has heard of them.

Frames may have numbers, each one more than the last one's. A frame below the position is a repeat and changes nothing; numbers
that are left out count as missing in the segment that was filling.
Shapes: F feature width, L clips in a segment, M memory width, C labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from models.spec import ClipSpec
from pipelines.events import EventChange, EventOptions, EventTracker, RunState
from pipelines.frames import Clip, Frame
from pipelines.remembering import MemoryUse
from pipelines.sample import Clipper, ClipperState, Sampler, SamplerState

RECENT = 4
"""Steps that a state keeps."""
FILLED = 4
"""Segments by which a memory that began empty is taken to be filled."""


def weight(index: int, clips: int, *, remembers: bool) -> int:
    """How much segment `index` of a video counts in the scores of all of it: by its clips, and with a memory, the first ones less.

    Something that takes several segments cannot be told from its first alone. Of a long video all but nothing changes.
    """
    return clips * (min(index + 1, FILLED) if remembers else 1)


def weighted_mean(totals_C: np.ndarray, weighed: int) -> np.ndarray:
    """The scores of all of a video, float64[C], from the sum of its segments' scores, each times its weight, and the sum of the weights."""
    return totals_C / max(weighed, 1)


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
    missing: int = 0
    """Frames that by their numbers never came."""

    def result(self, scores_C: np.ndarray) -> "SegmentResult":
        """With its prediction, final or provisional."""
        return SegmentResult(self.index, self.start, self.end, int(self.mask_L.sum()), scores_C, self.missing)


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
    missing: int = 0
    """Frames that by their numbers never came."""
    memory: MemoryUse | None = None
    """What the memory did, where someone asked; not part of a state."""


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
    """float64[C]: sum of the segments' scores, each times its weight, see `weight`."""
    weighed: int = 0
    """Sum of the segments' weights."""
    runs: tuple[RunState, ...] = ()
    """What goes on and is an event, or may become one: one run, or of several labels one each."""
    frame: int = 0
    """Position: number of the first frame that is still needed."""
    missing: int = 0
    """Frames that by their numbers never came, before the position."""
    recent: tuple[Step, ...] = ()
    """The last RECENT steps."""
    received: float | None = None
    """Of a stream that comes in pieces of video: seconds, where the last piece ended."""
    open: bool = False
    """Whether something between position and `received` is not in this state."""

    @property
    def position(self) -> float | None:
        """Seconds: what is shown before is in the state; None before the first segment."""
        return self.recent[-1].result.end if self.recent else None

    @property
    def scores_C(self) -> np.ndarray | None:  # noqa: N802
        """float64[C]: of the whole stream so far; None before the first segment."""
        return None if self.totals_C is None else weighted_mean(self.totals_C, self.weighed)


@dataclass(frozen=True, slots=True)
class Span:
    """When a clip was, in seconds from the stream's start."""

    start: float
    end: float


@dataclass(frozen=True, slots=True)
class _Mark:
    """A place between two frames."""

    sampler: SamplerState
    frame: int
    missing: int


class Stream:
    """One stream. Every method returns at once; who calls runs the networks."""

    def __init__(
        self, spec: ClipSpec, segment: int, labels: Sequence[str], background: str | None, state: StreamState,
        *, events: EventOptions | None = None, remembers: bool = True, several: bool = False,
    ) -> None:  # fmt: skip
        """remembers: whether the model has a memory, which is empty at first: see `weight`. several: whether it says several labels at once."""
        self.spec, self.segment = spec, segment
        self._remembers = remembers
        self._state = state
        self._sampler = Sampler(spec.rate, state=state.sampler)
        self._clipper = Clipper(spec, state=ClipperState(state.sampler.origin, state.sampler.next_tick))
        self._tracker = EventTracker(labels, background, events, runs=state.runs, several=several)
        self._pending: list[tuple[Clip | Span, np.ndarray]] = []
        # Where the stream stood at the end of each clip that is on its way, and at the last frame that was sampled.
        self._after: list[_Mark] = []
        self._seen = _Mark(state.sampler, state.frame, state.missing)
        self._frame, self._missing = state.frame, state.missing

    def state(self) -> StreamState:
        """The state at the last finished segment; Stream(..., state) goes on from it, with the frames that came after."""
        return self._state

    @property
    def frame(self) -> int:
        """Number of the next frame: one more than that of the last one that was taken."""
        return self._frame

    @property
    def latest(self) -> float | None:
        """Time of the last frame that was taken, in seconds."""
        return self._sampler.state().last

    @property
    def sampler(self) -> SamplerState:
        """Where sampling stands; further than in state() by what is on its way."""
        return self._sampler.state()

    def needs(self, time: float) -> bool:
        """Whether the frame of this time fills a tick, and has to be decoded. Changes nothing."""
        return self._sampler.needs(time)

    def take(self, time: float, number: int | None = None) -> int:
        """How many ticks the frame of this time (seconds) fills; 0 if it need not be decoded. See Sampler.take.

        `number` is by default the one that is due. A repeat fills none.
        """
        if number is not None and not self._count(number):
            return 0
        if number is None:
            self._frame += 1
        return self._sampler.take(time)

    def lose(self, number: int) -> None:
        """The frame of this number is there but of no use: it counts as missing."""
        if self._count(number):
            self._missing += 1

    def _count(self, number: int) -> bool:
        """Whether a number is new; those left out before it are missing."""
        if number < self._frame:
            return False
        self._missing += number - self._frame
        self._frame = number + 1
        return True

    def push(self, frame: Frame, ticks: int, number: int | None = None) -> list[Clip]:
        """Clips due, oldest first. The frame is sampled and fitted; ticks says how many ticks it fills.

        `number` is for frames that were sampled elsewhere, as by a decoder, without take.
        """
        if ticks == 0:
            return []
        if number is not None:
            self._frame = number + 1
        before = self._seen
        origin = frame.time if before.sampler.origin is None else before.sampler.origin
        clips = self._clipper.push(frame, ticks)
        filled = self._clipper.state()
        self._seen = _Mark(SamplerState(origin, frame.time, filled.next_tick), self._frame, self._missing)
        for clip in clips:
            ends_at = round((clip.end - origin) * self.spec.rate)
            # A frame that fills ticks beyond the clip is needed again by who goes on from there.
            whole = ends_at == filled.next_tick
            last = self._seen if whole else before
            self._after.append(replace(last, sampler=SamplerState(origin, last.sampler.last, ends_at)))
        return clips

    def skip_to(self, sampler: SamplerState, frame: int, received: float) -> None:
        """A piece of video ends, sampled elsewhere: where sampling stands, the number of the next frame, the piece's end."""
        self._sampler = Sampler(self.spec.rate, state=sampler)
        self._frame = frame
        self._state = replace(self._state, received=received, open=True)

    def finish(self) -> list[Clip]:
        """The stream ends: the clip that was filling, padded. All frames that were taken are in what comes of it."""
        clips = self._clipper.flush()
        end = _Mark(self._sampler.state(), self._frame, self._missing)
        self._after += [end] * len(clips)
        if self._after:
            self._after[-1] = end
        else:
            self._state = replace(self._state, sampler=end.sampler, frame=end.frame, missing=end.missing)
        self._state = replace(self._state, open=False)
        self._seen = end
        return clips

    def give(self, features_NF: np.ndarray) -> Segment | None:
        """Takes the features of the stream's next clips, which were made elsewhere, at most as many as the segment still has room
        for; gives the segment if they fill it. Raises ValueError for more."""
        N, T, rate = len(features_NF), self.spec.frames, self.spec.rate
        if self.segment - len(self._pending) < N:
            raise ValueError(f"the segment has room for {self.segment - len(self._pending)} clips, got {N}")
        if not N:
            return None
        before = self._seen.sampler
        origin = 0.0 if before.origin is None else before.origin
        ends_at = before.next_tick + N * T
        for n, feature_F in enumerate(features_NF):
            start, end = (origin + (before.next_tick + tick) / rate for tick in (n * T, n * T + T))
            self._pending.append((Span(start, end), feature_F))
        self._frame += N * T
        ticks = SamplerState(origin, origin + (ends_at - 1) / rate, ends_at)
        self._seen = _Mark(ticks, self._frame, self._missing)
        self._sampler = Sampler(rate, state=ticks)
        self._after += [self._seen] * N  # nobody goes on from between them
        return self._due() if len(self._pending) == self.segment else None

    def add(self, clip: Clip | Span, feature_F: np.ndarray) -> Segment | None:
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
            self._after[count - 1].missing - self._state.missing,
        )

    def advance(self, segment: Segment, scores_C: np.ndarray, scores_LC: np.ndarray, memory_M: np.ndarray) -> Step:
        """Finishes a due segment with its prediction, that of its clips and the next memory; the state moves on."""
        if segment.index != self._state.segments:
            raise ValueError(f"segment {self._state.segments} is due, got the prediction of {segment.index}")
        clips = int(segment.mask_L.sum())
        changes: list[EventChange] = []
        best_L = scores_LC[:clips].argmax(1).tolist()
        for (clip, _), clip_scores_C, best in zip(self._pending[:clips], scores_LC[:clips], best_L, strict=True):
            for change in self._tracker.push(clip_scores_C, clip.start, clip.end, best=best):
                _tell(changes, change)
        part = weight(segment.index, clips, remembers=self._remembers)
        totals = scores_C.astype(np.float64) * part
        after, self._after = self._after[clips - 1], self._after[clips:]
        self._pending = self._pending[clips:]
        step = Step(segment.result(scores_C), tuple(changes))
        self._state = replace(
            self._state, memory_M=memory_M, segments=segment.index + 1, clips=self._state.clips + clips,
            sampler=after.sampler, frame=after.frame, missing=after.missing, runs=self._tracker.state(),
            totals_C=totals if self._state.totals_C is None else self._state.totals_C + totals, weighed=self._state.weighed + part,
            recent=(*self._state.recent, step)[-RECENT:],
        )  # fmt: skip
        return step

    def close(self) -> list[EventChange]:
        """Ends what goes on. Part of the state from then on, and of its last step."""
        changes = self._tracker.flush()
        recent = self._state.recent
        if changes and recent:
            recent = (*recent[:-1], replace(recent[-1], events=(*recent[-1].events, *changes)))
        self._state = replace(self._state, runs=(), recent=recent)
        return changes


def _tell(changes: list[EventChange], change: EventChange) -> None:
    """Adds a change to a segment's; of one that goes on there is one word a segment."""
    same = (at for at in reversed(range(len(changes))) if changes[at].event.label == change.event.label)
    latest = next(same, None)
    if change.state == "updated" and latest is not None and changes[latest].state != "ended":
        changes[latest] = replace(changes[latest], event=change.event)
    else:
        changes.append(change)
