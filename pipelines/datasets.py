"""Labelled video on disk: which files, which labels when, which split.

Times are seconds from a video's first frame. A label that no span gives is background.
"""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from models.errors import CrtError

BACKGROUND = "Background"
SPLITS = ("train", "validation", "test")


class BadDataset(CrtError):  # noqa: N818 - named after what is wrong
    """A data set's folder or one of its files is not as it must be."""

    code = "dataset_bad"


@dataclass(frozen=True, slots=True)
class Span:
    """A label over start <= time < end."""

    start: float
    end: float
    label: str


@dataclass(frozen=True, slots=True)
class LabelledVideo:
    """One video and what is known of it."""

    path: Path
    name: str
    """The file's path inside the data set, without suffix: what caches are keyed by."""
    split: str
    label: str | None
    """The class of a trimmed clip; None for an untrimmed video."""
    spans: tuple[Span, ...]
    """What a person would call it, in order of time."""
    visible: tuple[Span, ...]
    """What can be told from the picture alone: what a backbone, which has no memory, can be asked to know."""
    poses: Path | None = None
    """Where the person's joints are, float[N, joints, 3] as homesim's Performance.poses gives; None where nobody knows."""


def label_at(spans: Iterable[Span], time: float) -> str:
    """The label at a time, BACKGROUND where there is none; the later span wins where two overlap."""
    found = BACKGROUND
    for span in spans:
        if span.start <= time < span.end:
            found = span.label
    return found


def read_spans(path: Path) -> tuple[Span, ...]:
    """Reads `start,end,label` rows, ordered by start. Raises BadDataset naming the file and the row."""
    try:
        with path.open(newline="") as file:
            spans = [Span(float(row["start"]), float(row["end"]), row["label"]) for row in csv.DictReader(file)]
    except FileNotFoundError:
        raise BadDataset(f"{path}: no such annotation file; expected a CSV with the columns start,end,label") from None
    except (KeyError, TypeError, ValueError) as error:
        raise BadDataset(f"{path}: every row must be start,end,label with times in seconds ({error})") from error
    for number, span in enumerate(spans, 2):
        if not 0 <= span.start < span.end:
            raise BadDataset(f"{path}, line {number}: start {span.start} and end {span.end} are not a span of time")
    return tuple(sorted(spans, key=lambda span: span.start))


def read_homesim(folder: Path) -> list[LabelledVideo]:
    """All videos of a HomeSim data set (`python -m pipelines.homesim make`), by name. Raises BadDataset."""
    manifest = folder / "manifest.csv"
    if not manifest.is_file():
        raise BadDataset(f"{manifest} is missing; make the data set with `python -m pipelines.homesim make {folder}`")
    videos = []
    with manifest.open(newline="") as file:
        for row in csv.DictReader(file):
            path = folder / row["file"]
            if not path.is_file():
                raise BadDataset(f"{path} is in the manifest but not in the folder; run the same `make` again")
            visible = read_spans(folder / "visible" / f"{path.stem}.csv")
            if row["kind"] == "untrimmed":
                label, spans = None, read_spans(path.with_suffix(".csv"))
            else:
                # Within a trimmed clip the fetching before a drink is background, as it is in an untrimmed video.
                label = row["label"]
                named = {"Drink": label}
                spans = tuple(
                    Span(s.start, s.end, named.get(s.label, s.label))
                    for s in visible
                    if not s.label.startswith("Take.")
                )
            poses = folder / "poses" / f"{path.stem}.npy"
            name = f"{row['kind']}/{path.stem}"
            videos.append(
                LabelledVideo(path, name, row["split"], label, spans, visible, poses if poses.exists() else None)
            )
    return sorted(videos, key=lambda video: video.name)
