"""HomeSim: what it promises about its videos, people and labels. Small pictures and few recordings keep it quick."""

import csv
import re
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from pipelines.datasets import BadDataset, label_at, read_homesim, read_spans
from pipelines.homesim import activities, body
from pipelines.homesim.make import make
from pipelines.homesim.scenario import SPLITS, Performance, Recording, plan

TOYOTA = {
    "Cook.Cleandishes", "Cook.Cleanup", "Cook.Cut", "Cook.Stir", "Cook.Usestove", "Cutbread", "Drink.Frombottle", "Drink.Fromcan",
    "Drink.Fromcup", "Drink.Fromglass", "Eat.Attable", "Eat.Snack", "Enter", "Getup", "Laydown", "Leave", "Makecoffee.Pourgrains",
    "Makecoffee.Pourwater", "Maketea.Boilwater", "Maketea.Insertteabag", "Pour.Frombottle", "Pour.Fromcan", "Pour.Fromkettle",
    "Readbook", "Sitdown", "Takepills", "Uselaptop", "Usetablet", "Usetelephone", "Walk", "WatchTV",
}  # fmt: skip
SMALL = {"width": 64, "height": 48}


def test_classes_are_toyota_smarthomes_and_fall():
    """At least 16 of the 31 names, and Fall."""
    assert set(activities.LABELS) - TOYOTA == {"Fall"}
    assert len(set(activities.LABELS) & TOYOTA) >= 16


def test_the_same_numbers_give_the_same_recording_and_another_seed_another():
    """Every pixel of a frame, and every label."""
    first, second = (Performance(Recording(3, 5, 1, 4, "Fall"), **SMALL, seed=7) for _ in range(2))
    other = Performance(Recording(3, 5, 1, 4, "Fall"), **SMALL, seed=8)
    assert first.spans() == second.spans()
    assert np.array_equal(first.frame(9), second.frame(9))
    assert len(other) != len(first) or not np.array_equal(first.frame(9), other.frame(9))


@pytest.mark.parametrize("label", activities.LABELS)
def test_a_trimmed_clip_shows_its_activity_for_2_to_20_seconds(label):
    """Its label is among its spans, the person is in view, and the picture moves."""
    clip = Performance(Recording(1, 2, 3, 1, label), **SMALL)
    assert 2 <= len(clip) / clip.fps <= 20.5
    assert label in {span[2] for span in clip.spans()}
    present = np.flatnonzero(clip.track.present)
    points = clip.stage.joints[present][:, body.JOINT["pelvis"]]
    seen, depth = clip.camera.project(points, 64 / 48)
    assert ((np.abs(seen) < 1).all(-1) & (depth > 0)).mean() > 0.6
    assert np.abs(clip.frame(len(clip) // 2).astype(int) - clip.frame(0)).max() > 20


@pytest.mark.parametrize("label", activities.DRINKS)
def test_a_container_is_seen_at_the_fetching_and_hidden_at_the_drink(label):
    """While drinking, the hand holds nothing that could be drawn."""
    clip = Performance(Recording(4, 4, 2, 1, label), **SMALL)
    container = activities.CONTAINERS[label]
    taken = next(s for s in clip.track.visible if s.label == activities.TAKE[container])
    drunk = next(s for s in clip.track.labels if s.label == label)
    assert taken.end <= drunk.start
    assert (clip.track.held[taken.start : taken.end] == container).sum() > clip.fps
    assert (clip.track.held[drunk.start : drunk.end] == 0).all()


def test_drinks_of_untrimmed_days_come_5_to_60_seconds_after_the_fetching():
    """Nine in ten of the gaps lie between; both ends are there."""
    gaps = []
    for number in range(25):
        day = Performance(Recording(number, number, 0, 1, None, 200.0, fps=5.0), width=16, height=12)
        for start, _, label in day.spans():
            if label.startswith("Drink."):
                gaps.append(
                    start
                    - max(end for _, end, seen in day.spans(visible=True) if seen.startswith("Take.") and end <= start)
                )
    assert len(gaps) > 40
    assert np.mean([4 <= gap <= 62 for gap in gaps]) > 0.85
    assert min(gaps) < 15
    assert max(gaps) > 40


def test_limbs_keep_their_length_in_every_pose():
    """Forward kinematics bends joints and stretches nothing."""
    day = Performance(Recording(9, 9, 0, 1, None, 60.0, fps=5.0), width=16, height=12)
    joints, person = day.stage.joints, day.body
    for first, second, length in (("hip_l", "knee_l", person.leg / 2), ("shoulder_r", "elbow_r", person.arm * 0.52)):
        distance = np.linalg.norm(joints[:, body.JOINT[first]] - joints[:, body.JOINT[second]], axis=-1)
        assert np.abs(distance - length).max() < 0.06


def test_splits_share_no_person_no_room_and_no_camera():
    """Nor does the plan draw a recording twice."""
    seen = {}
    for split in SPLITS:
        recordings = plan(split, clips_per_class=4, days=3, day_seconds=60)
        assert {r.split for r in recordings} == {split}
        assert len({r.name for r in recordings}) == len(recordings) == 4 * len(activities.LABELS) + 3
        seen[split] = [{getattr(r, field) for r in recordings} for field in ("person", "room", "camera")]
    for kind in range(3):
        assert not seen["train"][kind] & seen["test"][kind]
        assert not seen["train"][kind] & seen["validation"][kind]


def test_from_the_ceiling_who_walks_is_short_and_who_has_fallen_is_long():
    """Seen from a wall, who walks is longer. People and rooms of a split are its own from the ceiling, too, and people are in view."""

    def lengths(label: str, *, ceiling: bool) -> list[float]:
        found = []
        for recording in plan("test", clips_per_class=6, days=1, day_seconds=60, ceiling=ceiling):
            assert (recording.split, recording.camera) == ("test", 8 if ceiling else 2)
            if recording.label == label:
                poses = Performance(recording).poses()
                head, ankles = poses[:, 0, :2], poses[:, 7:9, :2].mean(1)
                length = np.linalg.norm((head - ankles) * (320, 240), axis=1)
                assert np.isfinite(poses[:, 0, 0]).mean() > 0.6
                found.append(float(np.nanmedian(length) if label == "Walk" else length[np.isfinite(length)][-1]))
        return found

    walking, fallen = lengths("Walk", ceiling=True), lengths("Fall", ceiling=True)
    assert np.median(fallen) > 1.5 * np.median(walking)
    assert np.median(lengths("Walk", ceiling=False)) > np.median(walking)


def test_made_files_are_h264_with_toyota_names_and_annotations(tmp_path):
    """The manifest names every video; times in the annotations lie within it; a second run makes nothing anew."""
    recordings = [Recording(2280, 2281, 7, 2, "Drink.Fromcup"), Recording(2280, 2281, 7, 2, None, 20.0)]
    rows = list(make(recordings, tmp_path, width=64, height=48, seed=0, workers=1))
    assert len(rows) == 2
    clip = tmp_path / "trimmed" / "Drink.Fromcup_p2280_r2281_v07_c02.mp4"
    assert re.fullmatch(r"[\w.]+_p\d{2,4}_r\d{2,4}_v\d\d_c\d\d\.mp4", clip.name)
    with av.open(str(clip)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.width, stream.height) == ("h264", 64, 48)
        seconds = stream.frames / float(stream.average_rate)
    with (tmp_path / "manifest.csv").open(newline="") as file:
        manifest = {row["file"]: row for row in csv.DictReader(file)}
    assert abs(float(manifest[f"trimmed/{clip.name}"]["seconds"]) - seconds) < 0.2
    videos = read_homesim(tmp_path)
    assert [video.split for video in videos] == ["test", "test"]
    day = next(video for video in videos if video.label is None)
    assert label_at(day.spans, -1) == "Background"
    assert all(0 <= s.start < s.end <= 90 for s in day.spans)
    before = clip.stat().st_mtime_ns
    list(make(recordings, tmp_path, width=64, height=48, seed=0, workers=1))
    assert clip.stat().st_mtime_ns == before


def test_a_data_set_that_is_not_there_says_how_to_make_it(tmp_path):
    """And a broken annotation names its file."""
    with pytest.raises(BadDataset, match=r"pipelines\.homesim make"):
        read_homesim(tmp_path)
    (tmp_path / "x.csv").write_text("start,end,label\n3,1,Walk\n")
    with pytest.raises(BadDataset, match=r"x\.csv, line 2"):
        read_spans(tmp_path / "x.csv")


def test_the_preview_command_draws_a_contact_sheet(tmp_path):
    """One row for each class and one for a day."""
    target = tmp_path / "sheet.png"
    root = Path(__file__).parents[2]
    subprocess.run(
        [sys.executable, "-m", "pipelines.homesim", "preview", str(target)], cwd=root, check=True, capture_output=True
    )
    with av.open(str(target)) as container:
        picture = next(container.decode(video=0))
    assert (picture.width, picture.height) == (240 * 6, 180 * (len(activities.LABELS) + 1))
