"""Who trains and who tests where nobody has said so: groups, such as recordings or people, dealt to folds, the same on every machine."""

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from typing import Annotated, Self

from pydantic import Field, model_validator

from pipelines.datasets.base import Dataset, LabelledVideo, Problem, pattern


class Folded(Dataset):
    """A data set without splits of its own."""

    group: str | None = None
    """Regular expression for a video's path below the folder: what it finds (its first group, if it has one) tells recordings or people
    apart, none of which comes into two splits. Without it each video stands alone."""
    folds: Annotated[int, Field(ge=2)] = 5
    """Parts into which the groups are dealt, as evenly as they can be."""
    fold: Annotated[int, Field(ge=0)] = 0
    """The part that tests."""
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.15
    """Share of the other groups that validate; of two or more at least one does, unless it is 0."""
    seed: int = 0
    """Another one deals otherwise."""

    @model_validator(mode="after")
    def _has_fold(self) -> Self:
        if self.fold >= self.folds:
            raise ValueError(f"fold must be 0 to {self.folds - 1}, got {self.fold}")
        return self

    def deal(self, groups: Iterable[str]) -> dict[str, str]:
        """Each group's split."""
        order = sorted(set(groups), key=lambda group: hashlib.sha256(f"{self.seed}:{group}".encode()).digest())
        split = {group: "test" for group in order[self.fold :: self.folds]}
        others = [group for group in order if group not in split]
        # Someone has to: of a household's few people, too.
        fewest = int(self.validation > 0 and len(others) > 1)
        validating = max(round(len(others) * self.validation), fewest)
        return split | {group: "validation" if n < validating else "train" for n, group in enumerate(others)}

    def dealt(self, videos: Iterable[LabelledVideo]) -> list[LabelledVideo]:
        """The videos, each with the split of its group."""
        videos = list(videos)
        splits = self.deal(video.group or video.name for video in videos)
        return [replace(video, split=splits[video.group or video.name]) for video in videos]

    def group_of(self, name: str, problems: list[Problem]) -> str | None:
        """A video's group by its path below the folder. Raises BadDataset for what is no regular expression."""
        if self.group is None:
            return None
        match = pattern(self.group, "group").search(name)
        if match is None:
            problems.append(Problem("misnamed", name, f"{self.group!r} finds no group in it; it stands alone"))
            return None
        return match[1] if match.re.groups else match[0]
