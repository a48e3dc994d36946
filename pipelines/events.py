"""Predictions to events: runs of equal labels with start, end and confidence, as clips come.

Hysteresis keeps events calm: the running label stays while its score is within `hold` of the best one. The background is
no event, and neither is a run that is shorter than `shortest` or whose confidence stays below `least`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class EventOptions:
    """How calm events are. Raises ValueError for shares outside 0 to 1 and a negative time."""

    hold: float = 0.1
    """By how much another label must score higher to end a run."""
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
    """The run that goes on: all that an EventTracker remembers."""

    label: int
    start: float
    end: float
    weighted: float
    """Sum of score times seconds."""
    told: bool
    """Whether `started` was said."""


class EventTracker:
    """Turns clips' scores into events; remembers one run, whatever the stream's length."""

    def __init__(
        self,
        labels: Sequence[str],
        background: str | None,
        options: EventOptions | None = None,
        *,
        run: RunState | None = None,
    ) -> None:
        self.labels = tuple(labels)
        self.background = background
        self.options = options or EventOptions()
        self._run = run

    def push(self, scores_C: np.ndarray, start: float, end: float, *, best: int | None = None) -> list[EventChange]:
        """Takes a clip's probabilities float[C] over start to end seconds, later than all before. best: the largest one's index."""
        best, run = int(scores_C.argmax()) if best is None else best, self._run
        # A silence between clips ends a run: nothing is known of it.
        if run is not None and start - run.end < 1e-6 and scores_C[best] - scores_C[run.label] <= self.options.hold:
            best = run.label
        seconds, changes = end - start, []
        if run is not None and best == run.label and start - run.end < 1e-6:
            self._run = RunState(best, run.start, end, run.weighted + float(scores_C[best]) * seconds, run.told)
        else:
            changes += self.flush()
            self._run = RunState(best, start, end, float(scores_C[best]) * seconds, False)
        run = self._run
        if self.labels[run.label] == self.background:
            return changes
        event = self._event(run)
        long = run.end - run.start >= self.options.shortest - 1e-6
        if run.told or (long and event.confidence >= self.options.least):
            changes.append(EventChange("updated" if run.told else "started", event))
            self._run = RunState(run.label, run.start, run.end, run.weighted, True)
        return changes

    def flush(self) -> list[EventChange]:
        """Ends the run that goes on."""
        run, self._run = self._run, None
        return [EventChange("ended", self._event(run))] if run is not None and run.told else []

    def state(self) -> RunState | None:
        """What EventTracker(..., run=...) goes on from."""
        return self._run

    def _event(self, run: RunState) -> Event:
        return Event(self.labels[run.label], run.start, run.end, run.weighted / (run.end - run.start))
