"""Data sets of each kind: which videos, labels and splits they have, and what they say of what is wrong."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines.datasets import (
    BACKGROUND,
    SPLITS,
    BadDataset,
    ClassFolders,
    Leak,
    Smarthome,
    SmarthomeUntrimmed,
    Span,
    Table,
    complete,
    label_at,
    labels_at,
    overlap,
)
from pipelines.homesim.make import write_video

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT.parent / "shared" / "smarthome"
with_lists = pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published lists are not at ../shared/smarthome")


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def film(path: Path, seconds: float = 1.0) -> None:
    """A small video of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(path.name))
    write_video(path, (rng.integers(0, 256, (48, 64, 3), np.uint8) for _ in range(round(10 * seconds))), 10)


def by_split(found) -> dict[str, list[str]]:
    return {split: [video.name for video in found.of(split)] for split in SPLITS}


# Toyota Smarthome


@pytest.fixture(scope="module")
def everything(tmp_path_factory) -> Path:
    """An empty file of each name in the published lists."""
    folder = tmp_path_factory.mktemp("smarthome") / "mp4"
    names = [name for split in SPLITS for name in (PUBLISHED / f"trimmed_splits/{split}_CS.txt").read_text().split()]
    assert len([n for n in (PUBLISHED / "trimmed_splits/train_CS.txt").read_text().split()]) == 8831
    return touch(folder, *names)


@with_lists
@pytest.mark.parametrize(
    ("protocol", "counts", "classes", "unvalidated"),
    [
        ("CS", (8831 - 2, 1854 - 1, 5444 - 11), 31, {"Cook.Usestove", "Drink.Frombottle", "Usetablet"}),
        ("CV1", (1877, 3539, 1901), 19, {"Cutbread", "Eat.Attable"}),
        ("CV2", (7806, 3539, 1901), 19, {"Cutbread", "Eat.Attable"}),
    ],
)
@pytest.mark.parametrize("listed", [True, False], ids=["lists", "rules"])
def test_the_published_splits(everything, protocol, counts, classes, unvalidated, listed):
    """By the lists as by the rules; the 14 Pour.Fromcup are left out and told."""
    lists = PUBLISHED / "trimmed_splits" if listed else None
    found = Smarthome(folder=everything, protocol=protocol, lists=lists).find()
    assert tuple(len(found.of(split)) for split in SPLITS) == counts
    assert len(found.classes) == classes
    assert set(found.classes) - {video.label for video in found.of("validation")} == unvalidated
    if protocol == "CS":
        assert [(one.code, one.what, one.detail.split()[0]) for one in found.problems] == [
            ("outside", "Pour.Fromcup", "14")
        ]


@with_lists
def test_class_names_are_the_published_ones(everything):
    published = json.loads((PUBLISHED / "classes.json").read_text())
    for protocol, key in (("CS", "CS_1based"), ("CV1", "CV1_CV2_1based"), ("CV2", "CV1_CV2_1based")):
        found = Smarthome(folder=everything, protocol=protocol).find()
        assert {name: number + 1 for number, name in enumerate(found.classes)} == published[key]


def test_a_clip_that_is_listed_but_not_there_is_named_and_skipped_or_fatal(tmp_path):
    touch(tmp_path, "Walk_p03_r00_v01_c01.mp4", "Sitdown_p03_r00_v01_c01.mp4", "holiday.mp4")
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "train_CS.txt").write_text(
        "Walk_p03_r00_v01_c01.mp4\nEnter_p03_r00_v01_c01.mp4\nWalk_p03_r00_v01_c01.mp4\n"
    )
    (lists / "validation_CS.txt").write_text("")
    (lists / "test_CS.txt").write_text("")
    found = Smarthome(folder=tmp_path, lists=lists).find()
    assert [video.name for video in found.videos] == ["Walk_p03_r00_v01_c01"]
    assert [(one.code, one.what) for one in found.problems] == [
        ("misnamed", "Walk_p03_r00_v01_c01.mp4"),
        ("missing", "Enter_p03_r00_v01_c01.mp4"),
    ]
    with pytest.raises(BadDataset, match=r"Enter_p03_r00_v01_c01\.mp4"):
        Smarthome(folder=tmp_path, lists=lists, on_problem="fatal").find()
    (lists / "test_CS.txt").unlink()
    with pytest.raises(BadDataset, match=r"test_CS\.txt"):
        Smarthome(folder=tmp_path, lists=lists).find()
    by_rules = Smarthome(folder=tmp_path).find()
    assert len(by_rules.videos) == 2
    assert [(one.code, one.what) for one in by_rules.problems] == [("misnamed", "holiday")]


def test_a_person_on_both_sides_of_a_split_is_a_leak(tmp_path):
    touch(tmp_path, "Walk_p03_r00_v01_c01.mp4", "Walk_p03_r00_v02_c01.mp4", "Walk_p02_r00_v02_c01.mp4")
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "train_CS.txt").write_text("Walk_p03_r00_v01_c01.mp4")
    (lists / "validation_CS.txt").write_text("")
    (lists / "test_CS.txt").write_text("Walk_p03_r00_v02_c01.mp4")
    with pytest.raises(Leak, match=r"person 3 is in test .* and train") as leak:
        Smarthome(folder=tmp_path, lists=lists).find()
    assert leak.value.code == "dataset_leak"
    (lists / "test_CS.txt").write_text("Walk_p03_r00_v01_c01.mp4")
    with pytest.raises(Leak, match="file"):
        Smarthome(folder=tmp_path, lists=lists).find()


@with_lists
@pytest.mark.parametrize(
    ("protocol", "test", "cameras_or_people"),
    [("CS", 185, {f"person {n}" for n in (2, 10, 11, 14, 16, 18, 20)}), ("CV", 167, {"camera 2", "camera 5"})],
)
def test_the_untrimmed_sets_published_splits(tmp_path, protocol, test, cameras_or_people):
    """536 videos, 41,288 activities; the test split is the published one, validation is cut from what trains."""
    published = PUBLISHED / "TSU" / f"pipline_data_smarthome_{protocol}_51.json"
    actions = json.loads(published.read_text())
    touch(tmp_path, *(f"{name}.mp4" for name in actions))
    found = SmarthomeUntrimmed(folder=tmp_path, protocol=protocol, annotations=published).find()
    assert len(found.videos) == 536
    assert sum(len(video.spans) for video in found.videos) == 41_288
    assert overlap(found.videos) == pytest.approx(0.1345, abs=5e-5)  # as docs/training.md says
    assert {video.name for video in found.of("test")} == {n for n, v in actions.items() if v["subset"] == "testing"}
    assert len(found.of("test")) == test
    assert {video.group for video in found.of("test")} == cameras_or_people
    assert found.of("validation")
    names = [line.split("\t")[1] for line in (PUBLISHED / "TSU" / "pipline_data_Action_list").read_text().splitlines()]
    assert list(found.classes) == names


def test_untrimmed_annotations_are_frame_ranges(tmp_path):
    """First and last frame at 20 frames a second; activities overlap, a class that is none and a video without annotation are told."""
    touch(tmp_path, "P02T01C06.mp4", "P03T01C06.mp4", "P19T01C06.mp4", "notes.mp4")
    (tmp_path / "csv").mkdir()
    (tmp_path / "csv" / "P02T01C06.csv").write_text(
        "event,start_frame,end_frame\nWalk,100,139\nUse telephone,120,199\nFly,1,2\nWalk,60,20\n"
    )
    (tmp_path / "csv" / "P03T01C06.csv").write_text("event,start_frame,end_frame\nRead,0,9\n")
    (tmp_path / "csv" / "P04T01C06.csv").write_text("event,start_frame,end_frame\nRead,0,9\n")
    (tmp_path / "csv" / "P19T01C06.csv").write_text("event,start_frame,end_frame\n")
    found = SmarthomeUntrimmed(folder=tmp_path).find()
    assert by_split(found) == {"train": ["P03T01C06"], "validation": ["P19T01C06"], "test": ["P02T01C06"]}
    spans = found.of("test")[0].spans
    assert [(one.start, one.end, one.label) for one in spans] == [(5.0, 7.0, "Walk"), (6.0, 10.0, "Use_telephone")]
    assert [labels_at(spans, t) for t in (4.99, 6.5, 7.0)] == [
        {BACKGROUND},
        {"Walk", "Use_telephone"},
        {"Use_telephone"},
    ]
    assert overlap(found.of("test")) == pytest.approx(1.0 / 5.0)
    open_ended = replace(found.of("test")[0], spans=(Span(0.0, math.inf, "Walk"), Span(4.0, math.inf, "Read")))
    assert overlap([open_ended]) > 0
    assert [label_at(spans, t) for t in (4.99, 5.0, 6.5, 9.99, 10.0)] == [
        BACKGROUND, "Walk", "Use_telephone", "Use_telephone", BACKGROUND,
    ]  # fmt: skip
    assert sorted((one.code, one.what) for one in found.problems) == [
        ("bad_span", "P02T01C06"), ("missing", "P04T01C06.mp4"), ("outside", "P02T01C06"), ("unlabelled", "notes.mp4"),
    ]  # fmt: skip
    (tmp_path / "csv" / "P03T01C06.csv").write_text("name,from,to\nRead,0,9\n")
    with pytest.raises(BadDataset, match=r"P03T01C06\.csv.*event,start_frame,end_frame"):
        SmarthomeUntrimmed(folder=tmp_path).find()
    (tmp_path / "all.json").write_text('{"P02T01C06": {"actions": [[99, 1, 2]]}}')
    with pytest.raises(BadDataset, match=r"all\.json"):
        SmarthomeUntrimmed(folder=tmp_path, annotations=tmp_path / "all.json").find()


# A folder per class, and tables


def test_folders_are_classes_and_recordings_stay_together(tmp_path):
    touch(
        tmp_path, *(f"{label}/day{n % 4}_{n}.mp4" for n in range(40) for label in ("walk", "sit")), "empty/readme.txt"
    )
    splits = []
    for fold in range(4):
        found = ClassFolders(folder=tmp_path, group=r"/(day\d)_", folds=4, fold=fold, validation=0.34).find()
        assert found.classes == ("empty", "sit", "walk")
        assert [(one.code, one.what) for one in found.problems] == [("empty", "empty")]
        days = {split: {video.group for video in found.of(split)} for split in SPLITS}
        assert [len(days[split]) for split in SPLITS] == [2, 1, 1]
        assert len(found.videos) == 80
        splits.append(days["test"])
    assert set.union(*splits) == {"day0", "day1", "day2", "day3"}
    again = ClassFolders(folder=tmp_path, group=r"/(day\d)_", folds=4, fold=3, validation=0.34).find()
    assert {video.group for video in again.of("test")} == splits[3]
    with pytest.raises(BadDataset, match="no folder 'run'"):
        ClassFolders(folder=tmp_path, classes=("run",)).find()
    with pytest.raises(BadDataset, match="regular expression"):
        ClassFolders(folder=tmp_path, group="(").find()


@pytest.mark.parametrize(("people", "counts"), [(3, (1, 1, 1)), (4, (2, 1, 1)), (12, (8, 1, 3))])
def test_a_household_of_few_people_has_all_splits(tmp_path, people, counts):
    """Each person in a folder below the class's, with files that are named alike."""
    touch(tmp_path, *(f"{label}/p{n:02}/001.mp4" for n in range(people) for label in ("walk", "sit")))
    found = complete(ClassFolders(folder=tmp_path, group=r"/(p\d+)/").find())
    assert tuple(len({video.group for video in found.of(split)}) for split in SPLITS) == counts
    assert len(found.videos) == 2 * people


def test_a_training_needs_all_splits(tmp_path):
    """Which one is empty, and what would be right, is told before anything is done."""
    touch(tmp_path / "two", *(f"{label}/p{n}.mp4" for n in range(2) for label in ("walk", "sit")))
    with pytest.raises(
        BadDataset, match=r"no video is in validation \(train 2, validation 0, test 2\).*three groups.*there are 2"
    ):
        complete(ClassFolders(folder=tmp_path / "two", group=r"/(p\d)").find())
    touch(tmp_path / "own", "train/walk/a.mp4", "test/walk/b.mp4")
    with pytest.raises(BadDataset, match="no video is in validation"):
        complete(ClassFolders(folder=tmp_path / "own").find())


def test_folders_of_splits_are_kept(tmp_path):
    touch(tmp_path, "train/walk/a1.mp4", "val/walk/b1.mp4", "test/walk/c1.mp4", "test/sit/c2.mp4")
    found = ClassFolders(folder=tmp_path).find()
    assert by_split(found) == {
        "train": ["train/walk/a1"],
        "validation": ["val/walk/b1"],
        "test": ["test/sit/c2", "test/walk/c1"],
    }
    touch(tmp_path, "test/walk/a2.mp4")
    with pytest.raises(Leak, match=r"group a is in test .* and train"):
        ClassFolders(folder=tmp_path, group=r"/([a-z])\d$").find()
    (tmp_path / "test/walk/d.mp4").symlink_to(tmp_path / "train/walk/a1.mp4")
    with pytest.raises(Leak, match=r"file a1\.mp4"):
        ClassFolders(folder=tmp_path).find()


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_a_table_names_clips_of_videos(tmp_path, form):
    rows = [
        {"path": "a.mp4", "start": 1.5, "end": 4, "label": "walk", "split": "train"},
        {"path": "a.mp4", "start": 6, "end": 7, "label": "sit", "split": "train"},
        {"path": "b.mp4", "start": None, "end": None, "label": "sit", "split": "test"},
        {"path": "c.mp4", "start": 0, "end": 1, "label": "sit", "split": "test"},
        {"path": "b.mp4", "start": 3, "end": 2, "label": "sit", "split": "test"},
    ]
    touch(tmp_path, "a.mp4", "b.mp4")
    table = tmp_path / f"list.{form}"
    if form == "csv":
        cells = ["" if cell is None else str(cell) for row in rows for cell in row.values()]
        table.write_text(
            "path,start,end,label,split\n" + "".join(",".join(cells[n : n + 5]) + "\n" for n in range(0, 25, 5))
        )
    else:
        table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = Table(folder=tmp_path, table=table).find()
    assert [(v.path.name, v.start, v.end, v.label, v.split) for v in found.videos] == [
        ("a.mp4", 1.5, 4, "walk", "train"), ("a.mp4", 6, 7, "sit", "train"), ("b.mp4", 0, float("inf"), "sit", "test"),
    ]  # fmt: skip
    assert [one.code for one in found.problems] == ["bad_span", "missing"]
    untrimmed = Table(folder=tmp_path, table=table, untrimmed=True).find()
    assert [(v.name, v.label, len(v.spans)) for v in untrimmed.videos] == [("a", None, 2), ("b", None, 1)]
    assert untrimmed.videos[0].spans[1].label == "sit"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path,label\na.mp4,walk\na.mp4,\n", "line 3: path and label"),
        ("path,start,end,label\na.mp4,now,2,walk\n", "line 2: start and end are seconds"),
        ("file,label\na.mp4,walk\n", "line 2: no 'path'"),
        ("path,label,split\na.mp4,walk,tarin\n", "tarin"),
        ("path,label,split\na.mp4,walk,train\na.mp4,sit,test\n", "file a.mp4 is in test"),
        ("path,start,end,label\na.mp4,1,2\n", "line 2: path and label must not be empty"),
    ],
)
def test_a_table_with_a_mistake_names_it(tmp_path, text, said):
    touch(tmp_path, "a.mp4")
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(BadDataset, match=said):
        Table(folder=tmp_path, table=tmp_path / "list.csv").find()


def test_a_table_as_spreadsheets_and_others_write_it(tmp_path):
    """With a byte order mark, `val` for the validation, numbers as labels; but a label that is null is none."""
    touch(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    (tmp_path / "list.csv").write_text(
        "path,label,split\na.mp4,walk,train\nb.mp4,sit,val\nc.mp4,sit,test\n", encoding="utf-8-sig"
    )
    found = Table(folder=tmp_path, table=tmp_path / "list.csv").find()
    assert by_split(found) == {"train": ["a"], "validation": ["b"], "test": ["c"]}
    (tmp_path / "list.jsonl").write_text('{"path": "a.mp4", "label": 0}\n{"path": "b.mp4", "label": 1}\n')
    assert Table(folder=tmp_path, table=tmp_path / "list.jsonl").find().classes == ("0", "1")
    (tmp_path / "list.jsonl").write_text('{"path": "a.mp4", "label": null}\n')
    with pytest.raises(BadDataset, match="line 1: path and label"):
        Table(folder=tmp_path, table=tmp_path / "list.jsonl").find()


# The command


def survey(*words: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "pipelines.datasets", *map(str, words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_counts_clips_hours_and_classes_and_names_every_problem(tmp_path):
    for n in range(4):
        film(tmp_path / "walk" / f"w{n}.mp4", 2.0)
    film(tmp_path / "sit" / "s0.mp4", 1.0)
    (tmp_path / "sit" / "torn.mp4").write_bytes((tmp_path / "walk" / "w0.mp4").read_bytes()[:300])
    done = survey("folders", tmp_path, "--folds", 2, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert sum(told["videos"].values()) == 5
    assert sum(told["hours"].values()) == pytest.approx(9 / 3600, abs=3e-4)
    assert sum(told["classes"]["walk"].values()) == 4
    assert [(one["code"], one["what"]) for one in told["problems"]] == [("unreadable", "sit/torn")]
    text = survey("folders", tmp_path, "--folds", 2)
    assert "1 problems" in text.stdout
    assert "unreadable: sit/torn:" in text.stdout
    fatal = survey("folders", tmp_path, "--folds", 2, "--on-problem", "fatal")
    assert fatal.returncode == 1
    assert "sit/torn" in fatal.stderr
    wrong = survey("folders", tmp_path, "--folds", "few")
    assert (wrong.returncode, wrong.stderr.split(":")[0]) == (1, "dataset_bad")
    assert survey("folders", tmp_path / "nowhere").stderr.startswith("dataset_bad: ")
