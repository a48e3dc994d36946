"""Videos named in a file: CSV or JSON Lines of path, start, end and label, as Kinetics and others have it.

    path,start,end,label[,split][,group]

Times are seconds; empty ones mean all of the file. A row is a trimmed clip by default; with `untrimmed`, the rows of one file are what
happens in it, and the whole file counts.
"""

import csv
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pipelines.datasets.base import (
    SPLIT_NAMES,
    SPLITS,
    BadDataset,
    Found,
    LabelledVideo,
    Problem,
    Span,
    missing,
    spans_of,
)
from pipelines.datasets.folds import Folded


class Table(Folded):
    """A table of videos."""

    kind: Literal["table"] = "table"
    table: Path
    """The CSV (.csv) or JSON Lines (.jsonl); its paths count from `folder`."""
    untrimmed: bool = False
    """The rows of a file are what happens in it, one after the other or at the same time, not clips of their own."""
    classes: tuple[str, ...] | None = None
    """Labels to use, in the order of the scores; by default all, by name. Rows with others are left out."""

    def _find(self) -> Found:
        rows = [_Row(self.table, number, fields) for number, fields in _read(self.table)]
        classes = self.classes or tuple(sorted({row.label for row in rows}))
        problems: list[Problem] = []
        named: dict[str, list[_Row]] = {}
        for row in rows:
            named.setdefault(row.path, []).append(row)
        videos: list[LabelledVideo] = []
        for name, of in named.items():
            if not (self.folder / name).is_file():
                problems.append(missing(name, self.folder))
            else:
                videos += (
                    self._whole(name, of, classes, problems)
                    if self.untrimmed
                    else self._clips(name, of, classes, problems)
                )
        known = {row.split for row in rows}
        if known == {""}:
            videos = self.dealt(videos)
        elif bad := known - set(SPLITS):
            raise BadDataset(
                f"{self.table}: every row's split must be {', '.join(SPLITS)}, or none may have one; got {min(bad)!r}"
            )
        return Found(f"{self.table.name} of {self.folder}", classes, videos, problems)

    def _group(self, row: "_Row", problems: list[Problem]) -> str:
        # Clips of one file belong together, whatever else is known.
        return row.group or self.group_of(row.path, problems) or row.path

    def _clips(
        self, name: str, rows: list["_Row"], classes: tuple[str, ...], problems: list[Problem]
    ) -> list[LabelledVideo]:
        videos, group = [], self._group(rows[0], problems)
        for row in rows:
            spans, wrong = spans_of(
                [(row.start, row.end, row.label)], f"{name} (line {row.number})", dict.fromkeys(classes)
            )
            problems += wrong
            if spans:
                span = (Span(0.0, math.inf, row.label),)
                whole = row.start == 0 and row.end == math.inf
                part = Path(name).with_suffix("").as_posix() + ("" if whole else f"@{row.start:.3f}-{row.end:.3f}")
                videos.append(
                    LabelledVideo(
                        self.folder / name,
                        part,
                        row.split,
                        row.label,
                        span,
                        span,
                        start=row.start,
                        end=row.end,
                        group=group,
                    )
                )
        return videos

    def _whole(
        self, name: str, rows: list["_Row"], classes: tuple[str, ...], problems: list[Problem]
    ) -> list[LabelledVideo]:
        spans, wrong = spans_of(((row.start, row.end, row.label) for row in rows), name, dict.fromkeys(classes))
        problems += wrong
        if len(splits := {row.split for row in rows}) > 1:
            raise BadDataset(
                f"{self.table}: {name} is in {' and '.join(sorted(splits))}; an untrimmed video has one split"
            )
        stem = Path(name).with_suffix("").as_posix()
        return [
            LabelledVideo(
                self.folder / name, stem, rows[0].split, None, spans, spans, group=self._group(rows[0], problems)
            )
        ]


class _Row:
    """One line. Raises BadDataset, naming it."""

    def __init__(self, table: Path, number: int, fields: dict[str, Any]) -> None:
        self.number = number
        try:
            self.path, self.label = (_text(fields[name]) for name in ("path", "label"))
            self.start, self.end = _seconds(fields.get("start"), 0.0), _seconds(fields.get("end"), math.inf)
        except KeyError as error:
            raise BadDataset(f"{table}, line {number}: no {error}; lines have path, start, end, label") from error
        except (TypeError, ValueError) as error:
            raise BadDataset(f"{table}, line {number}: start and end are seconds ({error})") from error
        if not self.path or not self.label:
            raise BadDataset(f"{table}, line {number}: path and label must not be empty")
        split = str(fields.get("split") or "")
        self.split, self.group = SPLIT_NAMES.get(split, split), str(fields.get("group") or "")


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _seconds(value: object, otherwise: float) -> float:
    return otherwise if value is None or value == "" else float(str(value))


def _read(table: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Lines by number. Raises BadDataset."""
    if table.suffix not in (".csv", ".jsonl"):
        raise BadDataset(f"{table}: a table is a .csv or a .jsonl file")
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            if table.suffix == ".csv":
                yield from enumerate(csv.DictReader(file), 2)
            else:
                for number, line in enumerate(file, 1):
                    if line.strip():
                        yield number, _object(table, number, line)
    except OSError as error:
        raise BadDataset(f"{table} cannot be read: {error.strerror}") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise BadDataset(f"{table} is no table in UTF-8 ({error})") from error


def _object(table: Path, number: int, line: str) -> dict[str, Any]:
    try:
        fields = json.loads(line)
    except ValueError as error:
        raise BadDataset(f"{table}, line {number}: not JSON ({error})") from error
    if not isinstance(fields, dict):
        raise BadDataset(f"{table}, line {number}: an object with path, start, end and label is wanted")
    return fields
