"""A folder per class: DIR/CLASS/VIDEO, or DIR/SPLIT/CLASS/VIDEO with the splits train, validation (or val) and test."""

import math
from pathlib import Path
from typing import Literal

from pipelines.datasets.base import (
    SPLIT_NAMES,
    BadDataset,
    Found,
    LabelledVideo,
    Problem,
    Span,
    files_in,
)
from pipelines.datasets.folds import Folded


class ClassFolders(Folded):
    """A folder per class."""

    kind: Literal["folders"] = "folders"
    classes: tuple[str, ...] | None = None
    """Folders to use, in the order of the scores; by default all, by name."""

    def _find(self) -> Found:
        if not self.folder.is_dir():
            raise BadDataset(f"{self.folder} is no folder; give the one with a folder per class")
        top = [path for path in sorted(self.folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]
        own = bool(top) and all(path.name in SPLIT_NAMES for path in top)
        places = (
            [(SPLIT_NAMES[split.name], path) for split in top for path in sorted(split.iterdir())]
            if own
            else [("", path) for path in top]
        )
        names = sorted({path.name for _, path in places if path.is_dir()})
        classes = self.classes or tuple(names)
        if unknown := [name for name in classes if name not in names]:
            raise BadDataset(f"{self.folder} has no folder {unknown[0]!r}; there are {', '.join(names) or 'none'}")
        problems = [
            Problem("outside", name, "not among the classes asked for; left out")
            for name in names
            if name not in classes
        ]
        videos = []
        for split, place in places:
            if place.name in classes and place.is_dir():
                found = files_in(place)
                if not found:
                    problems.append(Problem("empty", str(place.relative_to(self.folder)), "no video is in it"))
                videos += [self._video(path, place.name, split, problems) for path in found]
        if not own:
            videos = self.dealt(videos)
        return Found(f"the folders in {self.folder}", classes, videos, problems)

    def _video(self, path: Path, label: str, split: str, problems: list[Problem]) -> LabelledVideo:
        relative = path.relative_to(self.folder).with_suffix("")
        span = (Span(0.0, math.inf, label),)
        return LabelledVideo(
            path, relative.as_posix(), split, label, span, span, group=self.group_of(relative.as_posix(), problems)
        )
