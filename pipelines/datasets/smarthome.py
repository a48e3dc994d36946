"""Toyota Smarthome, trimmed: 16,115 clips of 31 activities of 18 people in one apartment, seen by 7 cameras (Das et al., ICCV 2019).

Names are ACTION_pNN_rNN_vNN_cNN.mp4: person, repetition, video, camera. Three protocols, with classes and splits as published:

    CS    31 classes; people 3, 4, 6, 7, 9, 12, 13, 15, 17 train, 19 and 25 validate, the others test
    CV1   19 classes; camera 1 trains, 5 validates, 2 tests
    CV2   19 classes; cameras 1, 3, 4, 6, 7 train, 5 validates, 2 tests
"""

import math
import re
from collections import Counter
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from pipelines.datasets.base import (
    SPLITS,
    BadDataset,
    Dataset,
    Found,
    LabelledVideo,
    Problem,
    Span,
    missing,
    videos_in,
)

Protocol = Literal["CS", "CV1", "CV2"]
CROSS_VIEW = (
    "Cutbread", "Drink.Frombottle", "Drink.Fromcan", "Drink.Fromcup", "Drink.Fromglass", "Eat.Attable", "Eat.Snack", "Enter", "Getup",
    "Leave", "Pour.Frombottle", "Pour.Fromcan", "Readbook", "Sitdown", "Takepills", "Uselaptop", "Usetablet", "Usetelephone", "Walk",
)  # fmt: skip
CROSS_SUBJECT = tuple(
    sorted((
        *CROSS_VIEW, "Cook.Cleandishes", "Cook.Cleanup", "Cook.Cut", "Cook.Stir", "Cook.Usestove", "Laydown", "Makecoffee.Pourgrains",
        "Makecoffee.Pourwater", "Maketea.Boilwater", "Maketea.Insertteabag", "Pour.Fromkettle", "WatchTV",
    ))
)  # fmt: skip
CLASSES: dict[Protocol, tuple[str, ...]] = {"CS": CROSS_SUBJECT, "CV1": CROSS_VIEW, "CV2": CROSS_VIEW}
TRAINING_SUBJECTS = frozenset((3, 4, 6, 7, 9, 12, 13, 15, 17))
VALIDATION_SUBJECTS = frozenset((19, 25))
CAMERAS: dict[Protocol, dict[int, str]] = {
    "CV1": {1: "train", 5: "validation", 2: "test"},
    "CV2": {**dict.fromkeys((1, 3, 4, 6, 7), "train"), 5: "validation", 2: "test"},
}
_NAME = re.compile(r"(?P<label>[A-Z][A-Za-z.]*)_p(?P<person>\d\d)_r\d\d_v\d\d_c(?P<camera>\d\d)")


class Name(BaseModel):
    """What a file's name says."""

    label: str
    person: int
    camera: int

    @classmethod
    def parse(cls, stem: str) -> "Name | None":
        """None for a name of another form."""
        match = _NAME.fullmatch(stem)
        return cls.model_validate(match.groupdict()) if match else None

    def split(self, protocol: Protocol) -> str | None:
        """Where a protocol puts it; None for a camera that it leaves out."""
        if protocol != "CS":
            return CAMERAS[protocol].get(self.camera)
        if self.person in TRAINING_SUBJECTS:
            return "train"
        return "validation" if self.person in VALIDATION_SUBJECTS else "test"


class Smarthome(Dataset):
    """Toyota Smarthome, trimmed."""

    kind: Literal["smarthome"] = "smarthome"
    protocol: Protocol = "CS"
    """CS, CV1 or CV2."""
    lists: Path | None = None
    """Folder with the published train_CS.txt and so on; a clip that they name and that is not there is a problem then. Without it the
    protocol's rules split what is there, which comes to the same."""

    def _find(self) -> Found:
        files = videos_in(self.folder)
        problems: list[Problem] = []
        outside: Counter[str] = Counter()
        videos = []
        for stem, split in self._wanted(files, problems):
            name = Name.parse(stem)
            if name is None:
                problems.append(Problem("misnamed", stem, "names are ACTION_pNN_rNN_vNN_cNN.mp4"))
            elif name.label not in CLASSES[self.protocol]:
                outside[name.label] += 1
            elif (split := split or name.split(self.protocol)) is not None:
                if stem not in files:
                    problems.append(missing(f"{stem}.mp4", self.folder))
                    continue
                span = (Span(0.0, math.inf, name.label),)
                group = f"person {name.person}" if self.protocol == "CS" else f"camera {name.camera}"
                videos.append(LabelledVideo(files[stem], stem, split, name.label, span, span, group=group))
        for label, count in sorted(outside.items()):
            detail = f"{count} clips of it are left out: it is none of the {len(CLASSES[self.protocol])} classes"
            problems.append(Problem("outside", label, detail))
        title = f"Toyota Smarthome trimmed, {self.protocol}"
        return Found(title, CLASSES[self.protocol], videos, problems)

    def _wanted(self, files: dict[str, Path], problems: list[Problem]) -> list[tuple[str, str | None]]:
        """Names and splits: as listed, or of what is there."""
        if self.lists is None:
            return [(stem, None) for stem in files]
        listed: list[tuple[str, str | None]] = []
        for split in SPLITS:
            path = self.lists / f"{split}_{self.protocol}.txt"
            try:
                names = path.read_text().split()
            except OSError as error:
                raise BadDataset(
                    f"{path} cannot be read ({error.strerror}); it is one of the published lists"
                ) from error
            listed += [(Path(name).stem, split) for name in names]
            for name, count in Counter(names).items():
                if count > 1:
                    problems.append(Problem("misnamed", name, f"listed {count} times in {path.name}; counted once"))
        return list(dict.fromkeys(listed))
