"""Labelled video on disk: which files, which labels when, which split, and what is wrong with it.

Times are seconds from the start of a video, or of the part of it that counts. A label that no span gives is background.
"""

import csv
import hashlib
import math
import re
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from models.errors import CrtError

BACKGROUND = "Background"
SPLITS = ("train", "validation", "test")
SPLIT_NAMES = {split: split for split in SPLITS} | {"val": "validation", "valid": "validation"}
"""What people call them."""
VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".webm", ".mov")


class BadDataset(CrtError):  # noqa: N818 - named after what is wrong
    """A data set's folder or one of its files is not as it must be."""

    code = "dataset_bad"


class Leak(BadDataset):
    """The same video, person or camera is in two splits."""

    code = "dataset_leak"


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
    """The file's path inside the data set, without suffix."""
    split: str
    label: str | None
    """The class of a trimmed clip; None for an untrimmed video."""
    spans: tuple[Span, ...]
    """What a person would call it, in order of time."""
    visible: tuple[Span, ...]
    """What can be told from the picture alone: what a backbone, which has no memory, can be asked to know."""
    poses: Path | None = None
    """Where the person's joints are, float[N, joints, 3] as homesim's Performance.poses gives; None where nobody knows."""
    start: float = 0.0
    """Seconds of the file, counted from its first frame: where the part begins that counts."""
    end: float = math.inf
    """Where it ends."""
    group: str | None = None
    """What must not be on both sides of a split, as the person; None where nothing is known."""

    @property
    def key(self) -> str:
        """Name and, for the file as it is now and the part that counts, 12 digits: what caches are keyed by. Raises OSError if it is not there."""
        found = self.path.stat()
        part = f"{found.st_size} {found.st_mtime_ns} {self.start!r} {self.end!r}"
        return f"{self.name}-{hashlib.sha256(part.encode()).hexdigest()[:12]}"


def label_at(spans: Iterable[Span], time: float) -> str:
    """The label at a time, BACKGROUND where there is none; the later span wins where two overlap."""
    found = BACKGROUND
    for span in spans:
        if span.start <= time < span.end:
            found = span.label
    return found


def labels_at(spans: Iterable[Span], time: float) -> set[str]:
    """All labels at a time, BACKGROUND alone where there is none."""
    return {span.label for span in spans if span.start <= time < span.end} or {BACKGROUND}


def overlap(videos: Iterable[LabelledVideo]) -> float:
    """Share of untrimmed video's time with a label in which there are several different ones; 0 where there is none.

    A span without an end counts as if it ended a second after the last time that is given.
    """
    labelled = several = 0.0
    for video in videos:
        if video.label is not None:
            continue
        times = {time for span in video.spans for time in (span.start, span.end)}
        last = max((time for time in times if math.isfinite(time)), default=0.0)
        cuts = sorted(min(time, last + 1) for time in times)
        for start, end in pairwise(cuts):
            true = labels_at(video.spans, start) - {BACKGROUND}
            labelled += end - start if true else 0.0
            several += end - start if len(true) > 1 else 0.0
    return several / labelled if labelled else 0.0


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


ProblemCode = Literal["missing", "unreadable", "unlabelled", "misnamed", "outside", "bad_span", "empty"]

CHOSEN = ("outside", "empty")
"""Problems that are a choice rather than a fault: they stop nothing."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with one of a data set's videos, or with how many."""

    code: ProblemCode
    what: str
    """The video, file or class."""
    detail: str

    def __str__(self) -> str:
        return f"{self.code}: {self.what}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Found:
    """What is in a data set."""

    title: str
    """For people and cards."""
    classes: tuple[str, ...]
    """In the set's own order, without the background."""
    videos: list[LabelledVideo]
    """By name."""
    problems: list[Problem] = field(default_factory=list)
    """All that was left out, and why."""

    def of(self, split: str) -> list[LabelledVideo]:
        return [video for video in self.videos if video.split == split]


class Dataset(BaseModel, ABC):
    """A kind of data set in a folder: the `data:` section of a training's configuration, and what the command line makes of KIND DIR."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    folder: Path
    """Where it is."""

    on_problem: Literal["skip", "fatal"] = "skip"
    """What to do about a video that is named but missing, cannot be read or has no labels: leave it out and say so, or stop."""

    @abstractmethod
    def _find(self) -> Found: ...

    def find(self) -> Found:
        """What is there. Decodes nothing. Raises BadDataset for what is no such data set or has a fatal problem, Leak where a split is none."""
        return self.accept(checked(self._find()))

    def accept(self, found: Found) -> Found:
        """The same, if its problems may be skipped. Raises BadDataset."""
        if self.on_problem == "fatal" and (fatal := [one for one in found.problems if one.code not in CHOSEN]):
            told = "; ".join(map(str, fatal[:5])) + (f"; and {len(fatal) - 5} more" if len(fatal) > 5 else "")
            raise BadDataset(f"{found.title}: {told}")
        return found


def complete(found: Found) -> Found:
    """The same, if a training has videos to learn from, to watch its progress by and to be measured on. Raises BadDataset naming the split."""
    counts = ", ".join(f"{split} {len(found.of(split))}" for split in SPLITS)
    for split in SPLITS:
        if not found.of(split):
            groups = len({video.group or video.name for video in found.videos})
            raise BadDataset(
                f"{found.title}: no video is in {split} ({counts}). A training needs all three splits: at least three groups of videos, such as "
                f"people or recordings (there are {groups}), or videos in each of the splits that the data set has itself."
            )
    return found


def checked(found: Found) -> Found:
    """The same, by name. Raises Leak, naming what is in two splits, and BadDataset where two videos have one name or none is left."""
    for what, of in (("file", _part), ("name", lambda video: video.name), ("group", lambda video: video.group)):
        splits: dict[object, dict[str, str]] = defaultdict(dict)
        for video in found.videos:
            if (key := of(video)) is not None:
                splits[key].setdefault(video.split, video.name)
        for key, where in splits.items():
            if len(where) > 1:
                told = " and ".join(f"{split} ({name})" for split, name in sorted(where.items()))
                raise Leak(f"{found.title}: the {what} {_said(key)} is in {told}. No {what} may be in two splits.")
    if len({video.name for video in found.videos}) < len(found.videos):
        names = sorted(video.name for video in found.videos)
        twice = next(a for a, b in pairwise(names) if a == b)
        raise BadDataset(f"{found.title}: two videos are named {twice}")
    if not found.videos:
        first = f" ({found.problems[0]})" if found.problems else ""
        raise BadDataset(f"{found.title}: no video of it is there; {len(found.problems)} problems{first}")
    return Found(found.title, found.classes, sorted(found.videos, key=lambda video: video.name), found.problems)


def _part(video: LabelledVideo) -> object:
    """A file counts as one, whichever parts of it are used; untrimmed recordings are not cut up between splits either."""
    return video.path.resolve()


def _said(key: object) -> str:
    return key.name if isinstance(key, Path) else str(key)


def files_in(folder: Path, suffixes: Sequence[str] = VIDEO_SUFFIXES) -> list[Path]:
    """All video files below a folder, by path. Raises BadDataset where there is no such folder."""
    if not folder.is_dir():
        raise BadDataset(f"{folder} is no folder; give the one where the data set's videos are")
    return [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in suffixes and path.is_file()]


def videos_in(folder: Path, suffixes: Sequence[str] = VIDEO_SUFFIXES) -> dict[str, Path]:
    """All video files below a folder, by stem. Raises BadDataset where there is no such folder, or two files have one stem."""
    files: dict[str, Path] = {}
    for path in files_in(folder, suffixes):
        if path.stem in files:
            raise BadDataset(f"{folder}: {files[path.stem]} and {path} have the same name; which one is meant?")
        files[path.stem] = path
    return files


def missing(name: str, folder: Path) -> Problem:
    return Problem("missing", name, f"named by the data set, but no such video is below {folder}")


def spans_of(
    rows: Iterable[tuple[float, float, str]], name: str, known: Mapping[str, object] | None = None
) -> tuple[tuple[Span, ...], list[Problem]]:
    """Spans in order of time, without those that are none, or whose label is not known."""
    spans, problems = [], []
    for start, end, label in rows:
        if not 0 <= start < end:
            problems.append(Problem("bad_span", name, f"{label} from {start:g} to {end:g} s is no span of time"))
        elif known is not None and label not in known:
            problems.append(Problem("outside", name, f"{label!r} is none of the classes"))
        else:
            spans.append(Span(start, end, label))
    return tuple(sorted(spans, key=lambda span: (span.start, span.end))), problems


def pattern(text: str, what: str) -> re.Pattern[str]:
    """A regular expression from a configuration. Raises BadDataset."""
    try:
        return re.compile(text)
    except re.error as error:
        raise BadDataset(f"{what}: {text!r} is no regular expression ({error})") from error
