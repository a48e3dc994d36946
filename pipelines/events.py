"""Predictions to events: runs of equal labels with start, end and confidence, as clips come.

Hysteresis keeps events calm: the running label stays while its score is within `hold` of the best one. The background is
no event, and neither is a run that is shorter than `shortest` or whose confidence stays below `least`. Where several labels
may be true at once, each has runs of its own: from SURE on, until its score is more than `hold` below that.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

SURE = 0.5
"""The score from which a label is said, where several may be true at once."""
MOST = 8
"""Of them at a time, those that went on before others: a state stays small, also of a model that finds everything true."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventOptions:
    """How calm events are. Raises ValueError for shares outside 0 to 1 and a negative time."""

    hold: float = 0.1
    """By how much another label must score higher to end a run; where several may be true at once, how far below SURE its own."""
    least: float = 0.2
    """The least confidence, a run's mean score, of an event."""
    shortest: float = 1.0
    """Seconds."""

    def __post_init__(self) -> None:
        if not self.shortest >= 0:
            raise ValueError(f"shortest must be 0 seconds or more, got {self.shortest!r}")
        for name in ("hold", "least"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be 0 to 1, got {getattr(self, name)!r}")


@dataclass(frozen=True, slots=True)
class Event:
    """A run of one label."""

    label: str
    start: float
    """Seconds from the stream's start."""
    end: float
    """Seconds from the stream's start; so far, while the run goes on."""
    confidence: float
    """Mean score of the label over the run, by time."""


@dataclass(frozen=True, slots=True)
class EventChange:
    """What a clip, or all clips of a segment, did to an event."""

    state: Literal["started", "updated", "ended"]
    event: Event


@dataclass(frozen=True, slots=True)
class RunState:
    """A run that goes on: of these an EventTracker remembers one, or one of each label where several may be true at once."""

    label: int
    start: float
    end: float
    weighted: float
    """Sum of score times seconds."""
    told: bool
    """Whether `started` was said."""


class EventTracker:
    """Turns clips' scores into events; remembers the runs that go on, whatever the stream's length."""

    def __init__(
        self, labels: Sequence[str], background: str | None, options: EventOptions | None = None,
        *, runs: Sequence[RunState] = (), several: bool = False,
    ) -> None:  # fmt: skip
        """several: whether several labels may be true at once."""
        self.labels = tuple(labels)
        self.background = background
        self.options = options or EventOptions()
        self._several = several
        self._runs = {run.label: run for run in runs}

    def push(self, scores_C: np.ndarray, start: float, end: float, *, best: int | None = None) -> list[EventChange]:
        """Takes a clip's probabilities float[C] over start to end seconds, later than all before. best: the largest one's index."""
        # A silence between clips ends a run: nothing is known of it.
        going = {label: run for label, run in self._runs.items() if start - run.end < 1e-6}
        said = self._said_of_several(scores_C, going) if self._several else [self._said(scores_C, going, best)]
        goes_on = {label: going[label] for label in said if label in going}
        changes = [self._ended(run) for label, run in self._runs.items() if run.told and label not in goes_on]
        self._runs = {}
        for label in said:
            run = goes_on.get(label, RunState(label, start, start, 0.0, False))
            weighted = run.weighted + float(scores_C[label]) * (end - start)
            changes += self._go_on(RunState(label, run.start, end, weighted, run.told))
        return changes

    def _said(self, scores_C: np.ndarray, going: Mapping[int, RunState], best: int | None) -> int:
        """The one label, which is the running one's as long as it is among the best."""
        best = int(scores_C.argmax()) if best is None else best
        return next((label for label in going if scores_C[best] - scores_C[label] <= self.options.hold), best)

    def _said_of_several(self, scores_C: np.ndarray, going: Mapping[int, RunState]) -> list[int]:
        """The labels but the background's that are sure enough to begin or to go on, in their own order."""
        enough_C = [SURE - self.options.hold * (label in going) for label in range(len(self.labels))]
        sure = [
            label for label in np.flatnonzero(scores_C >= enough_C).tolist() if self.labels[label] != self.background
        ]
        return sorted(sorted(sure, key=lambda label: (label not in going, -scores_C[label]))[:MOST])

    def _go_on(self, run: RunState) -> list[EventChange]:
        """Keeps a run, and tells of it if it is an event."""
        event = self._event(run)
        long = run.end - run.start >= self.options.shortest - 1e-6
        is_event = run.told or (long and event.confidence >= self.options.least)
        if self.labels[run.label] == self.background or not is_event:
            self._runs[run.label] = run
            return []
        self._runs[run.label] = replace(run, told=True)
        return [EventChange("updated" if run.told else "started", event)]

    def flush(self) -> list[EventChange]:
        """Ends all runs that go on."""
        runs, self._runs = self._runs, {}
        return [self._ended(run) for run in runs.values() if run.told]

    def state(self) -> tuple[RunState, ...]:
        """What EventTracker(..., runs=...) goes on from."""
        return tuple(self._runs.values())

    def _ended(self, run: RunState) -> EventChange:
        return EventChange("ended", self._event(run))

    def _event(self, run: RunState) -> Event:
        return Event(self.labels[run.label], run.start, run.end, run.weighted / (run.end - run.start))
