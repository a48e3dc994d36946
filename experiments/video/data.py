"""What the networks are compared on: HomeSim as the bundled backbone sees it, and real people's joints (KARD, NW-UCLA).

Joints are turned so that a person begins facing the camera, and measured from between the hips. A clip of a skeleton is a few frames: where
the joints are, how fast they move, and where the person has gone since the first frame.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipelines.config import read_config
from pipelines.datasets import BACKGROUND, LabelledVideo
from pipelines.features import extract
from pipelines.train_crt import Example, sequences

HOMESIM = Path("configs/homesim-frozen.yaml")
SKELETONS = Path("../shared/skeletons")
LOOKS = 3
"""Further looks at each training sequence, turned and scaled at random."""


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """One of them."""

    labels: tuple[str, ...]
    train: list[Example]
    test: list[Example]
    clip_seconds: float
    videos: tuple[LabelledVideo, ...] = ()
    """HomeSim's test videos, one an example."""


def homesim() -> Task:
    """By person, room and camera, as the set itself is split. Raises BadDataset where it is not there."""
    config = read_config(HOMESIM)
    found = config.data.find()
    cache, problems = extract(found.videos, config.backbone, config.features, processes=config.threads)
    assert not problems, problems
    labels = [BACKGROUND, *found.classes]
    train, test = (
        sequences(of, {video.name: cache.load(video) for video in of}, labels)
        for of in (found.of("train"), found.of("test"))
    )
    return Task(tuple(labels), train, test, 0.5, tuple(found.of("test")))


def kard() -> Task:
    """By subject: 1 to 6 train, 7 to 10 test. 540 sequences, 18 classes."""
    stored = np.load(SKELETONS / "kard.npz")
    return _skeletons(stored, stored["subject"] <= 6, frames=4, hips=(9, 12), sides=((2, 5), (9, 12)))


def nw_ucla() -> Task:
    """By view: 1 and 2 train, 3 tests. 1,484 sequences, 10 classes."""
    stored = np.load(SKELETONS / "nw_ucla.npz")
    return _skeletons(stored, stored["view"] < 3, frames=2, hips=(12, 16), sides=((8, 4), (16, 12)))


TASKS = {"homesim": homesim, "kard": kard, "nw_ucla": nw_ucla}


def _skeletons(
    stored: "np.lib.npyio.NpzFile",
    training: np.ndarray,
    *,
    frames: int,
    hips: tuple[int, int],
    sides: Sequence[tuple[int, int]],
) -> Task:
    train: list[Example] = []
    test: list[Example] = []
    joints, names, targets = stored["X"], stored["name"], stored["label"]
    for n, (offset, length) in enumerate(zip(stored["offset"], stored["length"], strict=True)):
        # In metres or millimetres, the person's own height is the measure.
        seen = facing(joints[offset : offset + length].astype(np.float64), hips, sides)
        features = clips_of(seen, hips, frames)
        rng = np.random.default_rng(n)
        looks = tuple(
            clips_of(turned(seen, rng.uniform(-0.4, 0.4)) * rng.uniform(0.9, 1.1), hips, frames)
            for _ in range(LOOKS if training[n] else 0)
        )
        example = Example(str(names[n]), features, np.full(len(features), int(targets[n])), True, looks)
        (train if training[n] else test).append(example)
    return Task(tuple(map(str, stored["classes"])), train, test, frames / 30)


def facing(joints_TJ3: np.ndarray, hips: tuple[int, int], sides: Sequence[tuple[int, int]]) -> np.ndarray:
    """The sequence with the first frame's hips at the origin, scaled to a height of one, and turned so that the line from right to
    left of its first frames lies along x. y is up."""
    first = joints_TJ3[:5].mean(0)
    height = first[:, 1].max() - first[:, 1].min()
    across = np.mean([first[left] - first[right] for right, left in sides], axis=0)
    return turned((joints_TJ3 - first[list(hips)].mean(0)) / height, float(np.arctan2(across[2], across[0])))


def turned(joints_TJ3: np.ndarray, angle: float) -> np.ndarray:
    """About the vertical."""
    cos, sin = np.cos(angle), np.sin(angle)
    return joints_TJ3 @ np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]])


def clips_of(joints_TJ3: np.ndarray, hips: tuple[int, int], frames: int) -> np.ndarray:
    """float32[N, F]: a row for so many frames; of the last ones, what is left is filled up with the last."""
    missing = -len(joints_TJ3) % frames
    padded_TJ3 = np.concatenate([joints_TJ3, np.repeat(joints_TJ3[-1:], missing, axis=0)])
    middle_T3 = padded_TJ3[:, list(hips)].mean(1)
    moves_TJ3 = np.diff(padded_TJ3, axis=0, prepend=padded_TJ3[:1])
    T = len(padded_TJ3)
    parts = ((padded_TJ3 - middle_T3[:, None]).reshape(T, -1), middle_T3, 10 * moves_TJ3.reshape(T, -1))
    return np.concatenate(parts, axis=1).reshape(T // frames, -1).astype(np.float32)
