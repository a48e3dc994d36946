"""Figures that papers report, from scores and truths. Averages and curves are scikit-learn's; what it lacks is here, with its source.

Shapes: N moments, clips or segments, C classes.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.datasets import Span
from pipelines.events import Event

OVERLAPS = (0.1, 0.25, 0.5)
"""Shares that an event has to have in common with a true one, of both together."""


def top_k(scores_NC: np.ndarray, true_N: np.ndarray, k: int) -> float:
    """Share of rows whose true class is among the k with the highest scores. Of equal scores the first class counts as higher."""
    best_NK = np.argsort(-scores_NC, axis=1, kind="stable")[:, :k]
    return float((best_NK == true_N[:, None]).any(1).mean())


def mean_class_accuracy(true: Sequence[str], predicted: Sequence[str]) -> tuple[float, dict[str, float]]:
    """Mean over classes of the share of right answers, and that share for each class: Toyota Smarthome's own measure."""
    shares = {}
    for label in sorted(set(true)):
        where = [i for i, t in enumerate(true) if t == label]
        shares[label] = sum(predicted[i] == label for i in where) / len(where)
    return float(np.mean(list(shares.values()))), shares


def frame_map(scores_NC: np.ndarray, truth_NC: np.ndarray) -> tuple[float, dict[int, float]]:
    """Mean over classes of the average precision by moments, and each class's, for those that occur: the untrimmed set's measure.

    truth: bool, several classes may be true at a moment. NaN where none occurs.
    """
    from sklearn.metrics import average_precision_score  # takes seconds, which each command and worker would wait for

    found = {
        c: float(average_precision_score(truth_NC[:, c], scores_NC[:, c]))
        for c in range(truth_NC.shape[1])
        if truth_NC[:, c].any()
    }
    return (float(np.mean(list(found.values()))) if found else float("nan")), found


@dataclass(slots=True)
class Matches:
    """Events found, found wrongly, and missed."""

    hits: int = 0
    false: int = 0
    missed: int = 0

    @property
    def f1(self) -> float:
        """NaN where there was nothing to be found and nothing was."""
        total = 2 * self.hits + self.false + self.missed
        return 2 * self.hits / total if total else float("nan")

    def __add__(self, other: "Matches") -> "Matches":
        return Matches(self.hits + other.hits, self.false + other.false, self.missed + other.missed)


def match_events(events: Iterable[Event], spans: Iterable[Span], overlap: float) -> Matches:
    """Events of one video against the true ones (F1@IoU: Lea et al., CVPR 2017).

    Each event, in order of time, takes the true one of its label with which it shares most; it is a hit if that share of both
    together is at least `overlap` and no event had it before.
    """
    true: dict[str, list[Span]] = defaultdict(list)
    for span in spans:
        true[span.label].append(span)
    taken: set[tuple[str, int]] = set()
    hits = false = 0
    for event in sorted(events, key=lambda one: one.start):
        shares = [_share(event, span) for span in true[event.label]]
        best = int(np.argmax(shares)) if shares else -1
        if best >= 0 and shares[best] >= overlap and (event.label, best) not in taken:
            taken.add((event.label, best))
            hits += 1
        else:
            false += 1
    return Matches(hits, false, sum(map(len, true.values())) - hits)


def _share(event: Event, span: Span) -> float:
    common = min(event.end, span.end) - max(event.start, span.start)
    return max(0.0, common) / (max(event.end, span.end) - min(event.start, span.start))


def delays(
    spans: Iterable[Span], said: Sequence[Collection[str]], times_N2: np.ndarray, known_N: np.ndarray
) -> list[float | None]:
    """Seconds from each true event's start to when its label was first said of a clip within it; None where it never was.

    said: the labels of each clip; times: from and to of each; known: when each label was told, which is at its segment's end.
    """
    found: list[float | None] = []
    for span in spans:
        within = (times_N2[:, 1] > span.start) & (times_N2[:, 0] < span.end)
        right = within & np.array([span.label in labels for labels in said], bool)
        found.append(float(known_N[right].min() - span.start) if right.any() else None)
    return found


def calibration_error(confidence_N: np.ndarray, right_N: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error: how far confidence and share of right answers are apart (Guo et al., ICML 2017), bins of equal width."""
    if not len(confidence_N):
        return float("nan")
    edges = np.clip((confidence_N * bins).astype(int), 0, bins - 1)
    return float(
        sum(
            (edges == b).mean() * abs(confidence_N[edges == b].mean() - right_N[edges == b].mean())
            for b in np.unique(edges)
        )
    )
