"""Labelled video: what all data sets have in common (base.py), and each kind in a file of its own.

`python -m pipelines.datasets KIND DIR` prints what is there.
"""

from typing import Annotated

from pydantic import Field

from pipelines.datasets.base import (
    BACKGROUND,
    SPLITS,
    BadDataset,
    Dataset,
    Found,
    LabelledVideo,
    Leak,
    Problem,
    Span,
    complete,
    label_at,
    labels_at,
    overlap,
    read_spans,
)
from pipelines.datasets.folders import ClassFolders
from pipelines.datasets.homesim import HomeSim, read_homesim
from pipelines.datasets.smarthome import Smarthome
from pipelines.datasets.tables import Table
from pipelines.datasets.untrimmed import SmarthomeUntrimmed

KINDS: dict[str, type[Dataset]] = {
    "homesim": HomeSim,
    "smarthome": Smarthome,
    "smarthome_untrimmed": SmarthomeUntrimmed,
    "folders": ClassFolders,
    "table": Table,
}
"""By the name that configurations and the command line use."""
AnyDataset = Annotated[HomeSim | Smarthome | SmarthomeUntrimmed | ClassFolders | Table, Field(discriminator="kind")]

__all__ = [
    "BACKGROUND",
    "KINDS",
    "SPLITS",
    "AnyDataset",
    "BadDataset",
    "ClassFolders",
    "Dataset",
    "Found",
    "HomeSim",
    "LabelledVideo",
    "Leak",
    "Problem",
    "Smarthome",
    "SmarthomeUntrimmed",
    "Span",
    "Table",
    "complete",
    "label_at",
    "labels_at",
    "overlap",
    "read_homesim",
    "read_spans",
]  # fmt: skip
