"""What a model knows, measured: `python -m pipelines.evaluate MODEL KIND DIR`, as `python -m pipelines.datasets` knows kinds.

Every video goes the whole way, from its file on, through the state machine that serves (streaming.py). Of trimmed clips top-1, top-5 and
mean class accuracy; of untrimmed video the share of moments with the right label, frame mAP, F1 of events and how late they are
known; of HomeSim's days the drinks over the time since their container was last seen. On a folder with a segments.csv
(clip,kind) of real falls and daily life, KIND is `falls`: falls found and false alarms.
Shapes: S segments, C labels, N clips, L clips in a segment.
"""

import argparse
import csv
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from models import checkpoint
from pipelines import command
from pipelines.clips import frames_in
from pipelines.datasets import BACKGROUND, KINDS, SPLITS, BadDataset, Found, LabelledVideo, Problem, label_at, labels_at
from pipelines.datasets.__main__ import dataset, options_of
from pipelines.device import pick
from pipelines.errors import VideoError
from pipelines.events import SURE, Event
from pipelines.frames import Clip
from pipelines.metrics import (
    OVERLAPS,
    Matches,
    calibration_error,
    delays,
    frame_map,
    match_events,
    mean_class_accuracy,
    top_k,
)
from pipelines.recognizer import Recognizer
from pipelines.streaming import Segment, Stream, StreamState, weight

GAPS = ((0, 5), (5, 10), (10, 20), (20, 30), (30, 45), (45, 75))
"""Seconds between the end of a fetching and the drink."""
STEP = 0.04
"""Seconds between the moments that are counted."""


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


@dataclass(frozen=True, slots=True, eq=False)
class Watched:
    """A model's answer to one video."""

    video: LabelledVideo
    scores_SC: np.ndarray
    """float32[S, C]: of the segments, probabilities."""
    scores_NC: np.ndarray
    """float32[N, C]: of the clips."""
    times_N2: np.ndarray
    """float64[N, 2]: each clip's start and end, in seconds."""
    lengths_S: np.ndarray
    """int[S]: clips in each segment."""
    events: tuple[Event, ...]

    def weights_S(self, remembers: bool) -> list[int]:  # noqa: N802
        """How much each segment counts in what the whole video is."""
        return [weight(index, int(clips), remembers=remembers) for index, clips in enumerate(self.lengths_S)]

    def known_N(self) -> np.ndarray:  # noqa: N802
        """float64[N]: when each clip's final scores were there, at its segment's end."""
        ends = self.times_N2[np.cumsum(self.lengths_S) - 1, 1]
        return ends.repeat(self.lengths_S)

    def said(self, labels: Sequence[str], *, several: bool) -> list[set[str]]:
        """What each clip is called: by the best label, or by all that are sure, and the best one too, where several may be true at once."""
        best_N1 = self.scores_NC.argmax(1)[:, None]
        said_NC = (np.arange(len(labels)) == best_N1) | (several & (self.scores_NC >= SURE))
        return [{labels[c] for c in np.flatnonzero(said_C).tolist()} for said_C in said_NC]

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Times STEP apart, and the number of the clip in which each lies. Where nothing was seen there is none."""
        times = np.arange(0, self.times_N2[-1, 1] - 1e-9, STEP)
        at = np.searchsorted(self.times_N2[:, 0], times + 1e-9, side="right") - 1
        inside = (at >= 0) & (times < self.times_N2[at, 1] - 1e-9)
        return times[inside], at[inside]


def watch(recognizer: Recognizer, video: LabelledVideo) -> Watched:
    """Labels a video as the service does, from the initial memory on. Raises VideoError; BadDataset where the part has no frame."""
    stream = Stream(
        recognizer.spec, recognizer.segment, recognizer.labels, recognizer.background,
        StreamState(memory_M=recognizer.initial_memory()), remembers=recognizer.remembers, several=recognizer.several,
    )  # fmt: skip
    scores, clip_scores, times, lengths = [], [], [], []
    events: list[Event] = []

    def advance(segment: Segment) -> None:
        out = recognizer.advance(segment.features_LF[None], segment.memory_M[None], segment.mask_L[None])
        step = stream.advance(segment, out.scores_BC[0], out.scores_BLC[0], out.memory_BM[0])
        scores.append(out.scores_BC[0])
        clip_scores.append(out.scores_BLC[0][segment.mask_L])
        lengths.append(int(segment.mask_L.sum()))
        events.extend(change.event for change in step.events if change.state == "ended")

    def look(clips: Iterable[Clip]) -> None:
        for clip in clips:
            times.append((clip.start, clip.end))
            segment = stream.add(clip, recognizer.features([clip.frames])[0])
            if segment is not None:
                advance(segment)

    frames = frames_in(video.path, recognizer.spec, [(video.start, video.end)])
    for number, (_, frame, ticks) in enumerate(frames):
        look(stream.push(frame, ticks, number))
    look(stream.finish())
    if (rest := stream.rest()) is not None:
        advance(rest)
    events += [change.event for change in stream.close()]
    if not scores:
        raise BadDataset(f"{video.path}: the video ends before {video.start:g} s, where the part begins")
    return Watched(
        video, np.stack(scores), np.concatenate(clip_scores), np.array(times), np.array(lengths), tuple(events)
    )


def frame_accuracy(watched: Watched, labels: Sequence[str]) -> tuple[int, int]:
    """Right and all of a video's moments: each has the label of the clip that it lies in. Where several are true, any of them is right."""
    times, at = watched.moments()
    best = watched.scores_NC.argmax(1)
    spans = watched.video.spans
    return sum(labels[best[n]] in labels_at(spans, float(t)) for t, n in zip(times, at, strict=True)), len(times)


def drinks_by_gap(watched: Iterable[Watched], labels: Sequence[str], segment_seconds: float) -> list[GapPoint]:
    """Of the drinks in untrimmed videos, how many name the right container, by the time since it was last to be seen.

    A drink's answer is the drink label with the highest mean probability over its segments: chance is one in four, and
    mistaking a drink for something else is not counted here.
    """
    drink = [i for i, label in enumerate(labels) if label.startswith("Drink.")]
    drinks, right = np.zeros(len(GAPS), int), np.zeros(len(GAPS), int)
    for one in watched:
        for span in one.video.spans:
            taken = [v.end for v in one.video.visible if v.label.startswith("Take.") and v.end <= span.start + 0.01]
            if not span.label.startswith("Drink.") or not taken:
                continue
            gap = span.start - max(taken)
            first, last = int(span.start / segment_seconds), int(np.ceil(span.end / segment_seconds))
            mean = one.scores_SC[first : max(last, first + 1)][:, drink].mean(0)
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


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """A model's answers to a data set's videos, and what follows from them."""

    labels: tuple[str, ...]
    segment_seconds: float
    watched: list[Watched]
    problems: list[Problem] = field(default_factory=list)
    """What could not be watched, and why: it is in none of the figures."""
    remembers: bool = True
    """Whether the model has a memory: see streaming.weight."""
    several: bool = False
    """Whether it says several labels at once."""

    @property
    def background(self) -> bool:
        """Whether there are clips of the background, so that it is a class like the others."""
        return any(one.video.label == BACKGROUND for one in self.watched)

    @property
    def trimmed(self) -> list[Watched]:
        return [one for one in self.watched if one.video.label is not None]

    @property
    def untrimmed(self) -> list[Watched]:
        return [one for one in self.watched if one.video.label is None]

    def clips(self) -> tuple[list[str], list[str], np.ndarray]:
        """Of the trimmed clips: true and predicted label, and scores float[N, C], without the background where it is no class."""
        background = self.background
        scores_NC = np.stack(
            [
                clip_scores(one.scores_SC, self.labels, one.weights_S(self.remembers), background=background)
                for one in self.trimmed
            ]
        )
        true = [str(one.video.label) for one in self.trimmed]
        return true, [self.labels[best] for best in scores_NC.argmax(1)], scores_NC

    def figures(self) -> dict[str, Any]:
        """Those of a model card."""
        found: dict[str, Any] = {}
        if self.trimmed:
            found |= self._of_clips()
        if self.untrimmed:
            found |= self._of_days()
        return found | {"calibration_error": round(self.calibration(), 4), "left_out": len(self.problems)}

    def _of_clips(self) -> dict[str, Any]:
        true, predicted, scores_NC = self.clips()
        mean, shares = mean_class_accuracy(true, predicted)
        at = np.array([self.labels.index(label) if label in self.labels else -1 for label in true])
        segments, of_segments = zip(*self._segments(), strict=True)
        by_segment, _ = mean_class_accuracy(of_segments, [self.labels[int(scores_C.argmax())] for scores_C in segments])
        whose = np.array([self.labels.index(label) if label in self.labels else -1 for label in of_segments])
        return {
            "trimmed_clips": len(true),
            "trimmed_mean_class_accuracy": round(mean, 4),
            "trimmed_top_1": round(top_k(scores_NC, at, 1), 4),
            "trimmed_top_5": round(top_k(scores_NC, at, 5), 4),
            "trimmed_top_1_segments_alike": round(top_k(replace(self, remembers=False).clips()[2], at, 1), 4),
            "trimmed_segment_mean_class_accuracy": round(by_segment, 4),
            "trimmed_segment_top_1": round(top_k(np.stack(segments), whose, 1), 4),
            "trimmed_segment_top_5": round(top_k(np.stack(segments), whose, 5), 4),
            "trimmed_class_accuracy": {label: round(share, 4) for label, share in shares.items()},
        }

    def _segments(self) -> Iterator[tuple[np.ndarray, str]]:
        """Of the trimmed clips' segments: scores float[C], as clips has them, and the true label."""
        background = self.background
        for one in self.trimmed:
            for scores_C in one.scores_SC:
                yield clip_scores(scores_C[None], self.labels, background=background), str(one.video.label)

    def _of_days(self) -> dict[str, Any]:
        right, moments = np.array([frame_accuracy(one, self.labels) for one in self.untrimmed]).sum(0)
        scores, truths = zip(*(self._moments(one) for one in self.untrimmed), strict=True)
        precision, by_class = frame_map(np.concatenate(scores), np.concatenate(truths))
        late = [
            delay
            for one in self.untrimmed
            for delay in delays(
                one.video.spans, one.said(self.labels, several=self.several), one.times_N2, one.known_N()
            )
        ]
        known = [delay for delay in late if delay is not None]
        figures = {
            "untrimmed_hours": round(float(moments) * STEP / 3600, 3),
            "untrimmed_frame_accuracy": round(float(right / moments), 4),
            "untrimmed_frame_map": round(precision, 4),
            "untrimmed_class_precision": {self.labels[c]: round(value, 4) for c, value in by_class.items()},
            "untrimmed_event_f1": {
                f"{overlap:g}": round(sum((match_events(one.events, one.video.spans, overlap) for one in self.untrimmed), Matches()).f1, 4)
                for overlap in OVERLAPS
            },
            "untrimmed_events": len(late),
            "untrimmed_events_noticed": len(known),
            "untrimmed_delay_median": round(float(np.median(known)), 3) if known else None,
        }  # fmt: skip
        points = drinks_by_gap(self.untrimmed, self.labels, self.segment_seconds)
        share, drinks = after(points, 20)
        if sum(point.drinks for point in points):
            figures |= {
                "drinks_after_20_s": round(share, 4) if drinks else None,
                "drinks_after_20_s_count": drinks,
                "drinks_by_gap": [
                    {"low": p.low, "high": p.high, "drinks": p.drinks, "accuracy": round(p.accuracy, 4)}
                    for p in points
                    if p.drinks
                ],
            }
        return figures

    def moments(self) -> tuple[list[str], list[str]]:
        """True and predicted label of each moment of untrimmed video. Of several that are true the one that was predicted counts, if it is
        among them, and else the one that began last."""
        true: list[str] = []
        predicted: list[str] = []
        for one in self.untrimmed:
            times, at = one.moments()
            best = one.scores_NC.argmax(1)
            said = [self.labels[best[n]] for n in at]
            for label, time in zip(said, times.tolist(), strict=True):
                true.append(label if label in labels_at(one.video.spans, time) else label_at(one.video.spans, time))
            predicted += said
        return true, predicted

    def _moments(self, one: Watched) -> tuple[np.ndarray, np.ndarray]:
        """Scores and truths of a video's moments by class, the background left out of the truths."""
        times, at = one.moments()
        truth_NC = np.zeros((len(times), len(self.labels)), bool)
        for span in one.video.spans:
            if span.label in self.labels and span.label != BACKGROUND:
                truth_NC[(times >= span.start) & (times < span.end), self.labels.index(span.label)] = True
        return one.scores_NC[at], truth_NC

    def calibration(self) -> float:
        """Of the segments' best labels."""
        confidence, right = [], []
        for one in self.watched:
            ends = np.cumsum(one.lengths_S)
            for scores_C, end, length in zip(one.scores_SC, ends, one.lengths_S, strict=True):
                middle = float(one.times_N2[end - length : end].mean())
                confidence.append(float(scores_C.max()))
                right.append(self.labels[int(scores_C.argmax())] in labels_at(one.video.spans, middle))
        return calibration_error(np.array(confidence), np.array(right, bool))


def clip_scores(
    scores_SC: np.ndarray, labels: Sequence[str], weights_S: Iterable[int] | None = None, *, background: bool = False
) -> np.ndarray:
    """A trimmed clip's scores: the mean over its segments, by the weights if given; -1 for the background unless it is a class, too."""
    weights = None if weights_S is None else np.asarray(list(weights_S), dtype=np.float64)
    mean = np.average(scores_SC, axis=0, weights=weights).copy()
    if BACKGROUND in labels and not background:
        mean[labels.index(BACKGROUND)] = -1
    return mean


def measure(recognizer: Recognizer, videos: Sequence[LabelledVideo], *, threads: int = 1) -> Measured:
    """Watches them all, so many at a time. What cannot be watched is among the problems; raises BadDataset where nothing can."""
    model = recognizer.model

    def answer(video: LabelledVideo) -> Watched | Problem:
        try:
            return watch(recognizer, video)
        except VideoError as error:
            return Problem("unreadable", video.name, str(error))
        except BadDataset as error:
            return Problem("bad_span", video.name, str(error))

    with ThreadPoolExecutor(threads) as pool:
        every = list(tqdm(pool.map(answer, videos), total=len(videos), desc=f"evaluate {model.name}", unit="video"))
    watched = [one for one in every if isinstance(one, Watched)]
    problems = [one for one in every if isinstance(one, Problem)]
    if not watched:
        raise BadDataset(f"none of {len(videos)} videos can be watched ({problems[0]})")
    segment_seconds = recognizer.segment * model.spec.clip_seconds
    return Measured(tuple(model.labels), segment_seconds, watched, problems, recognizer.remembers, recognizer.several)


def measure_falls(recognizer: Recognizer, folder: Path) -> dict[str, Any]:
    """Falls found and false alarms on real clips: `segments.csv` has the columns clip and kind, Fall or ADL.

    A clip counts as a fall when any of its segments says Fall before all else, or where several labels may be true at once, surely.
    """
    with (folder / "segments.csv").open(newline="") as file:
        kinds = {row["clip"]: row["kind"] for row in csv.DictReader(file)}
    model = recognizer.model
    if "Fall" not in model.labels:
        raise BadDataset(f"{model.name} knows no Fall; it knows {', '.join(model.labels)}")
    fall, answers = model.labels.index("Fall"), {}
    for clip in sorted(kinds):
        video = LabelledVideo(folder / clip, clip, "test", None, (), ())
        scores_SC = watch(recognizer, video).scores_SC
        sure_S = recognizer.several & (scores_SC[:, fall] >= SURE)
        answers[clip] = [model.labels[i] for i in np.where(sure_S, fall, scores_SC.argmax(1))]
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
    parser.add_argument("model", help="the model's folder, or kinetics400:NAME")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where it runs")
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    falls = kinds.add_parser("falls", help="real falls and daily life: clips and segments.csv")
    falls.add_argument("folder", type=Path, metavar="DIR")
    for name, kind in KINDS.items():
        of = kinds.add_parser(name, help=(kind.__doc__ or "").splitlines()[0], description=kind.__doc__)
        of.add_argument("folder", type=Path, metavar="DIR")
        of.add_argument("--split", default="test", choices=SPLITS)
        of.add_argument("--report", type=Path, metavar="FILE.html", help="write pictures and example timelines, too")
        options_of(of, kind)
    args = vars(parser.parse_args())
    threads = len(os.sched_getaffinity(0))
    model = Recognizer(checkpoint.read(args.pop("model")), threads=threads, device=pick(args.pop("device")))
    kind, folder = args.pop("kind"), args.pop("folder")
    if kind == "falls":
        print(json.dumps(measure_falls(model, folder), indent=2))
        return
    split, report = args.pop("split"), args.pop("report")
    chosen = dataset(kind, folder, args)
    found = chosen.find()
    for problem in found.problems:
        print(problem, file=sys.stderr)
    measured = measure(model, among(found, split), threads=threads)
    for problem in measured.problems:
        print(problem, file=sys.stderr)
    chosen.accept(replace(found, problems=measured.problems))
    print(json.dumps(measured.figures(), indent=2))
    if report is not None:
        from pipelines.report import write_report

        write_report(report, model.model, found.title, split, measured)


def among(found: Found, split: str) -> list[LabelledVideo]:
    """A split's videos. Raises BadDataset where it has none."""
    if not (videos := found.of(split)):
        raise BadDataset(f"{found.title} has no video in {split}")
    return videos


if __name__ == "__main__":
    command.run(main)
