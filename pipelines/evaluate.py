"""What a model knows, measured: `python -m pipelines.evaluate MODEL DATA`.

On trimmed clips the mean class accuracy, on untrimmed days the share of moments with the right label and the drinks over
the time since their container was last seen. On a folder with a segments.csv (clip,kind) of real falls and daily life, falls
found and false alarms. Every video goes the whole way, from its file on.
Shapes: S segments, C labels, N clips, L clips in a segment.
"""

import argparse
import csv
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from models import checkpoint
from pipelines import command
from pipelines.datasets import BACKGROUND, LabelledVideo, label_at, read_homesim
from pipelines.features import clips_of
from pipelines.recognizer import Recognizer

GAPS = ((0, 5), (5, 10), (10, 20), (20, 30), (30, 45), (45, 75))
"""Seconds between the end of a fetching and the drink."""


@dataclass(frozen=True, slots=True)
class GapPoint:
    """Drinks whose container was last seen `low` to `high` seconds before."""

    low: float
    high: float
    drinks: int
    right: int

    @property
    def accuracy(self) -> float:
        return self.right / self.drinks if self.drinks else float("nan")


def clip_label(scores_SC: np.ndarray, labels: list[str], lengths: Iterable[int] | None = None) -> str:
    """A trimmed clip's label: the best mean probability over its segments, background left out."""
    weights = None if lengths is None else np.asarray(list(lengths), dtype=np.float64)
    mean = np.average(scores_SC, axis=0, weights=weights).copy()
    if BACKGROUND in labels:
        mean[labels.index(BACKGROUND)] = -1
    return labels[int(mean.argmax())]


def mean_class_accuracy(true: list[str], predicted: list[str]) -> tuple[float, dict[str, float]]:
    """Mean over classes of the share of right answers, and that share for each class."""
    shares = {}
    for label in sorted(set(true)):
        where = [i for i, t in enumerate(true) if t == label]
        shares[label] = sum(predicted[i] == label for i in where) / len(where)
    return float(np.mean(list(shares.values()))), shares


def frame_accuracy(
    video: LabelledVideo, scores_NC: np.ndarray, labels: list[str], clip_seconds: float, *, step: float = 0.04
) -> tuple[int, int]:
    """Right and all of a video's moments, `step` seconds apart: each has the label of the clip that it lies in."""
    best = scores_NC.argmax(1)
    times = np.arange(0, len(best) * clip_seconds - 1e-9, step)
    predicted = [labels[best[int(t / clip_seconds)]] for t in times]
    return sum(label_at(video.spans, float(t)) == p for t, p in zip(times, predicted, strict=True)), len(times)


def drinks_by_gap(
    videos: list[LabelledVideo], scores: list[np.ndarray], labels: list[str], segment_seconds: float
) -> list[GapPoint]:
    """Of the drinks in untrimmed videos, how many name the right container, by the time since it was last to be seen.

    A drink's answer is the drink label with the highest mean probability over its segments: chance is one in four, and
    mistaking a drink for something else is not counted here.
    """
    drink = [i for i, label in enumerate(labels) if label.startswith("Drink.")]
    drinks, right = np.zeros(len(GAPS), int), np.zeros(len(GAPS), int)
    for video, scores_SC in zip(videos, scores, strict=True):
        for span in video.spans:
            taken = [v.end for v in video.visible if v.label.startswith("Take.") and v.end <= span.start + 0.01]
            if not span.label.startswith("Drink.") or not taken:
                continue
            gap = span.start - max(taken)
            first, last = int(span.start / segment_seconds), int(np.ceil(span.end / segment_seconds))
            mean = scores_SC[first : max(last, first + 1)][:, drink].mean(0)
            for i, (low, high) in enumerate(GAPS):
                if low <= gap < high:
                    drinks[i] += 1
                    right[i] += labels[drink[int(mean.argmax())]] == span.label
    return [GapPoint(low, high, int(n), int(r)) for (low, high), n, r in zip(GAPS, drinks, right, strict=True)]


def after(points: list[GapPoint], seconds: float) -> tuple[float, int]:
    """Accuracy and number of the drinks at least `seconds` after the fetching."""
    late = [p for p in points if p.low >= seconds]
    drinks = sum(p.drinks for p in late)
    return (sum(p.right for p in late) / drinks if drinks else float("nan")), drinks


@dataclass(frozen=True, slots=True)
class Scores:
    """A model's answer to one video."""

    scores_SC: np.ndarray
    """float32[S, C]: of the segments, probabilities."""
    scores_NC: np.ndarray
    """float32[N, C]: of the clips."""
    lengths_S: np.ndarray
    """int[S]: clips in each segment."""


def score(recognizer: Recognizer, clips: np.ndarray) -> Scores:
    """Clips uint8[N, T, H, W, 3] of one video, from the initial memory on, as the service sees them."""
    features_NF = recognizer.features(clips)
    memory_BM = recognizer.initial_memory()[None]
    scores, clip_scores, lengths = [], [], []
    for start in range(0, len(features_NF), recognizer.segment):
        segment_BLF = features_NF[None, start : start + recognizer.segment]
        out = recognizer.advance(segment_BLF, memory_BM, np.ones(segment_BLF.shape[:2], bool))
        memory_BM = out.memory_BM
        scores.append(out.scores_BC[0])
        clip_scores.append(out.scores_BLC[0])
        lengths.append(segment_BLF.shape[1])
    return Scores(np.stack(scores), np.concatenate(clip_scores), np.array(lengths))


def measure(recognizer: Recognizer, videos: list[LabelledVideo]) -> dict[str, Any]:
    """The figures of a model card."""
    model = recognizer.model
    labels, seconds = list(model.labels), model.segment * model.spec.clip_seconds
    found: dict[str, Scores] = {}
    for video in tqdm(videos, desc=f"evaluate {model.name}", unit="video"):
        found[video.name] = score(recognizer, clips_of(video.path, model.spec))
    trimmed, days = [v for v in videos if v.label is not None], [v for v in videos if v.label is None]
    figures: dict[str, Any] = {}
    if trimmed:
        predicted = [clip_label(found[v.name].scores_SC, labels, found[v.name].lengths_S) for v in trimmed]
        mean, shares = mean_class_accuracy([str(v.label) for v in trimmed], predicted)
        figures |= {
            "trimmed_clips": len(trimmed),
            "trimmed_mean_class_accuracy": round(mean, 4),
            "trimmed_class_accuracy": {label: round(share, 4) for label, share in shares.items()},
        }
    if days:
        clip = model.spec.clip_seconds
        right, moments = np.array([frame_accuracy(v, found[v.name].scores_NC, labels, clip) for v in days]).sum(0)
        points = drinks_by_gap(days, [found[v.name].scores_SC for v in days], labels, seconds)
        late, drinks = after(points, 20)
        figures |= {
            "untrimmed_hours": round(float(moments) * 0.04 / 3600, 3),
            "untrimmed_frame_accuracy": round(float(right / moments), 4),
            "drinks_after_20_s": round(late, 4) if drinks else None,
            "drinks_after_20_s_count": drinks,
            "drinks_by_gap": [
                {"low": p.low, "high": p.high, "drinks": p.drinks, "accuracy": round(p.accuracy, 4)}
                for p in points
                if p.drinks
            ],
        }
    return figures


def measure_falls(recognizer: Recognizer, folder: Path) -> dict[str, Any]:
    """Falls found and false alarms on real clips: `segments.csv` has the columns clip and kind, Fall or ADL.

    A clip counts as a fall when any of its segments says Fall before all else.
    """
    with (folder / "segments.csv").open(newline="") as file:
        kinds = {row["clip"]: row["kind"] for row in csv.DictReader(file)}
    model = recognizer.model
    fall, answers = model.labels.index("Fall"), {}
    for clip in sorted(kinds):
        scores_SC = score(recognizer, clips_of(folder / clip, model.spec)).scores_SC
        answers[clip] = [model.labels[i] for i in scores_SC.argmax(1)]
    found = {clip: model.labels[fall] in labels for clip, labels in answers.items()}
    return {
        "falls": sum(kind == "Fall" for kind in kinds.values()),
        "falls_found": sum(found[clip] for clip, kind in kinds.items() if kind == "Fall"),
        "daily_clips": sum(kind != "Fall" for kind in kinds.values()),
        "false_alarms": sum(found[clip] for clip, kind in kinds.items() if kind != "Fall"),
        "segments": answers,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument(
        "data", type=Path, help="a HomeSim data set, or a folder with segments.csv of real falls and daily life"
    )
    parser.add_argument("--split", default="test", choices=("train", "validation", "test"))
    args = parser.parse_args()
    model = Recognizer(checkpoint.read(args.model), threads=len(os.sched_getaffinity(0)))
    if (args.data / "segments.csv").exists():
        figures = measure_falls(model, args.data)
    else:
        figures = measure(model, [v for v in read_homesim(args.data) if v.split == args.split])
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    command.run(main)
