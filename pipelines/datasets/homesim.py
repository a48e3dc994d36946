"""HomeSim's recordings as a data set."""

import csv
from pathlib import Path
from typing import Literal

from pipelines.datasets.base import BACKGROUND, BadDataset, Dataset, Found, LabelledVideo, Span, read_spans


class HomeSim(Dataset):
    """What `python -m pipelines.homesim make` writes: simulated homes with trimmed clips and untrimmed days."""

    kind: Literal["homesim"] = "homesim"

    def _find(self) -> Found:
        videos = read_homesim(self.folder)
        labels = {span.label for video in videos for span in video.spans} - {BACKGROUND}
        return Found(f"HomeSim in {self.folder}", tuple(sorted(labels)), videos)


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
                LabelledVideo(
                    path, name, row["split"], label, spans, visible, poses if poses.exists() else None,
                    group=f"person {row['person']}",
                )
            )  # fmt: skip
    return sorted(videos, key=lambda video: video.name)
