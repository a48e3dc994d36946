"""Toyota Smarthome Untrimmed (Dai et al., TPAMI 2022): 536 videos of about 21 minutes, 41,288 activities of 51 classes, which may overlap.

Names are PNNTNNCNN.mp4: person, task, camera. Annotations are a CSV a video (event,start_frame,end_frame) or the published JSON of a
protocol (class, first and last frame). Neither protocol has a validation split: in CS people 19 and 25 of the training split
validate, as in the trimmed set, in CV camera 7.
"""

import csv
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from pipelines.datasets.base import (
    BadDataset,
    Dataset,
    Found,
    LabelledVideo,
    Problem,
    missing,
    spans_of,
    videos_in,
)
from pipelines.datasets.smarthome import TRAINING_SUBJECTS, VALIDATION_SUBJECTS

CLASSES = (
    "Enter", "Walk", "Make_coffee", "Get_water", "Make_coffee.Pour_water", "Use_Drawer", "Make_coffee.Pour_grains", "Use_telephone",
    "Leave", "Put_something_on_table", "Take_something_off_table", "Pour.From_kettle", "Stir_coffee/tea", "Drink.From_cup",
    "Dump_in_trash", "Make_tea", "Make_tea.Boil_water", "Use_cupboard", "Insert_tea_bag", "Read", "Take_pills", "Use_fridge",
    "Clean_dishes", "Clean_dishes.Put_something_in_sink", "Eat_snack", "Sit_down", "Watch_TV", "Use_laptop", "Get_up",
    "Drink.From_bottle", "Pour.From_bottle", "Drink.From_glass", "Lay_down", "Drink.From_can", "Write", "Breakfast",
    "Breakfast.Spread_jam_or_butter", "Breakfast.Cut_bread", "Breakfast.Eat_at_table", "Breakfast.Take_ham", "Clean_dishes.Dry_up",
    "Wipe_table", "Cook", "Cook.Cut", "Cook.Use_stove", "Cook.Stir", "Cook.Use_oven", "Clean_dishes.Clean_with_water", "Use_tablet",
    "Use_glasses", "Pour.From_can",
)  # fmt: skip
"""In the published order, whose numbers the JSON uses."""
TRAINING_CAMERAS = frozenset((1, 3, 4, 6))
VALIDATION_CAMERA = 7
_NAME = re.compile(r"P(?P<person>\d\d)T\d\dC(?P<camera>\d\d)")


class SmarthomeUntrimmed(Dataset):
    """Toyota Smarthome Untrimmed."""

    kind: Literal["smarthome_untrimmed"] = "smarthome_untrimmed"
    protocol: Literal["CS", "CV"] = "CS"
    """By person or by camera."""
    annotations: Path | None = None
    """The published JSON of the protocol, or a folder with a CSV a video; by default the CSVs below the data set's folder."""
    fps: Annotated[float, Field(gt=0)] = 20.0
    """Of the videos, to which the annotations' frame numbers refer."""

    def _find(self) -> Found:
        files = videos_in(self.folder)
        problems: list[Problem] = []
        videos = []
        for stem, rows in sorted(self._annotated().items()):
            match = _NAME.fullmatch(stem)
            if match is None:
                problems.append(Problem("misnamed", stem, "names are PNNTNNCNN"))
            elif stem not in files:
                problems.append(missing(f"{stem}.mp4", self.folder))
            else:
                times = ((start / self.fps, (end + 1) / self.fps, label) for label, start, end in rows)
                spans, wrong = spans_of(times, stem, dict.fromkeys(CLASSES))
                problems += wrong
                split, group = self._split(int(match["person"]), int(match["camera"]))
                videos.append(LabelledVideo(files[stem], stem, split, None, spans, spans, group=group))
        for stem in sorted(files.keys() - self._annotated().keys()):
            problems.append(Problem("unlabelled", files[stem].name, "no annotation is there for it; left out"))
        title = f"Toyota Smarthome Untrimmed, {self.protocol}"
        return Found(title, CLASSES, videos, problems)

    def _split(self, person: int, camera: int) -> tuple[str, str]:
        if self.protocol == "CS":
            known = person in TRAINING_SUBJECTS, person in VALIDATION_SUBJECTS
            return "train" if known[0] else "validation" if known[1] else "test", f"person {person}"
        known = camera in TRAINING_CAMERAS, camera == VALIDATION_CAMERA
        return "train" if known[0] else "validation" if known[1] else "test", f"camera {camera}"

    def _annotated(self) -> dict[str, list[tuple[str, int, int]]]:
        """Label, first and last frame of each activity, by video."""
        source = self.annotations or self.folder
        if source.is_dir():
            found = {path.stem: _rows(path) for path in sorted(source.rglob("*.csv")) if _NAME.fullmatch(path.stem)}
            if not found:
                raise BadDataset(f"{source}: no PNNTNNCNN.csv with event,start_frame,end_frame is below it")
            return found
        try:
            videos: dict[str, Any] = json.loads(source.read_text())
            return {
                stem: [(CLASSES[number], int(start), int(end)) for number, start, end in video["actions"]]
                for stem, video in videos.items()
            }
        except OSError as error:
            raise BadDataset(
                f"{source} cannot be read ({error.strerror}); give a folder of CSVs or the JSON"
            ) from error
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise BadDataset(
                f'{source}: not of the form {{"P02T01C06": {{"actions": [[class, first frame, last frame], ...]}}}} ({error!r})'
            ) from error


def _rows(path: Path) -> list[tuple[str, int, int]]:
    with path.open(newline="") as file:
        try:
            return [
                (row["event"].strip().replace(" ", "_"), int(row["start_frame"]), int(row["end_frame"]))
                for row in csv.DictReader(file)
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise BadDataset(f"{path}: every row must be event,start_frame,end_frame ({error!r})") from error
