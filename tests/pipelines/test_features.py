"""The feature cache: each video is seen once by each backbone, whatever happens to the extraction."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from models import checkpoint
from models.backbones import create_backbone
from models.config import ClassifierConfig, CrtConfig
from models.heads import VideoClassifier
from models.small import SPEC, SmallBackbone
from pipelines import graphs
from pipelines.clips import Look, clips_in, clips_of, second_look
from pipelines.config import BackboneChoice, BadConfig, read_config
from pipelines.datasets import BadDataset, ClassFolders, LabelledVideo
from pipelines.features import FeatureCache, extract
from pipelines.homesim.make import write_video
from pipelines.recognizer import Recognizer
from pipelines.train import prepare, run

ROOT = Path(__file__).parents[2]


def films(folder: Path, count: int, seconds: float = 2.0, fps: float = 25.0) -> Path:
    """Squares that move at different speeds, in the classes slow and fast."""
    for number in range(count):
        label = ("slow", "fast")[number % 2]
        (folder / label).mkdir(parents=True, exist_ok=True)

        def frames(speed=1 + 3 * (number % 2) + number):
            for n in range(round(seconds * fps)):
                picture = np.full((96, 128, 3), 40, np.uint8)
                picture[30:60, (speed * n) % 90 : (speed * n) % 90 + 30] = 200
                yield picture

        write_video(folder / label / f"v{number}.mp4", frames(), fps)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    torch.manual_seed(3)
    crt = CrtConfig(width=16, memory=24, layers=1, heads=2, hidden=32)
    classifier = VideoClassifier(ClassifierConfig(feature_width=SPEC.feature_width, classes=2, crt=crt))
    folder = tmp_path_factory.mktemp("model")
    backbone = SmallBackbone().eval()
    # With its graphs, as a training writes it: without them each worker would need torch to make them.
    made = {**graphs.of_backbone(backbone), "classify": graphs.classify(classifier.eval())}
    checkpoint.save(folder, backbone, classifier, name="m", labels=["a", "b"], graphs=made)
    return folder


def test_features_are_those_of_the_recognizer_and_are_made_once(model, tmp_path):
    videos = ClassFolders(folder=films(tmp_path / "data", 3), folds=2).find().videos
    choice = BackboneChoice(checkpoint=model)
    cache, problems = extract(videos, choice, tmp_path / "cache", processes=2)
    assert problems == []
    recognizer = Recognizer(checkpoint.read(model), threads=1)
    for video in videos:
        seen = cache.load(video)
        expected = recognizer.features(clips_of(video.path, SPEC))
        np.testing.assert_allclose(seen.features_NF, expected.astype(np.float16), atol=2e-3)
        np.testing.assert_allclose(seen.times_N2[:, 0], np.arange(len(expected)) / 2)
    made = {video.name: cache.path(video).stat().st_mtime_ns for video in videos}
    # One has changed: it alone is seen anew.
    os.utime(videos[1].path, ns=(1, 1))
    again, _ = extract(videos, choice, tmp_path / "cache", processes=1)
    assert {v.name: again.path(v).stat().st_mtime_ns == made[v.name] for v in videos} == {
        v.name: v is not videos[1] for v in videos
    }


def test_a_frozen_backbone_sees_training_videos_again_by_another_camera(model, tmp_path):
    """As many looks as are asked for, of training videos alone; each is what the backbone makes of the varied pictures."""
    films(tmp_path / "data", 6, 1.0)
    values = {
        "data": {"kind": "folders", "folder": str(tmp_path / "data"), "folds": 3},
        "run": str(tmp_path / "run"), "name": "t", "threads": 1, "backbone": {"checkpoint": str(model)}, "looks": {"trimmed": 2},
    }  # fmt: skip
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(values))
    config = read_config(tmp_path / "c.yaml")
    found, prepared = prepare(config, config.data.find())
    assert set(prepared.again) == {video.name for video in found.of("train")}
    recognizer = Recognizer(checkpoint.read(model), threads=1)
    video = found.of("train")[0]
    plain = prepared.seen[video.name].features_NF
    for number, seen_NF in enumerate(prepared.again[video.name]):
        shown = second_look(clips_of(video.path, SPEC), video.name, Look(number))
        np.testing.assert_allclose(seen_NF, recognizer.features(shown), atol=2e-3)
        assert np.abs(seen_NF - plain).max() > 1e-2
    assert len(prepared.again[video.name]) == 2
    (tmp_path / "d.yaml").write_text(yaml.safe_dump({k: v for k, v in values.items() if k != "looks"}))
    assert prepare(read_config(tmp_path / "d.yaml"), found)[1].again == {}


def test_another_backbone_or_other_weights_have_another_key(model, tmp_path):
    (video,) = ClassFolders(folder=films(tmp_path / "data", 1, 0.6), folds=2).find().videos
    keys = set()
    for number in range(2):
        torch.manual_seed(number)
        weights = tmp_path / f"w{number}.pth"
        torch.save(create_backbone("mobilenet_v3_small").net.state_dict(), weights)
        choice = BackboneChoice(name="mobilenet_v3_small", weights=weights)
        cache, _ = extract([video], choice, tmp_path / "cache", processes=1)
        assert cache.load(video).features_NF.shape[1] == 1152
        keys.add(cache.folder.name)
    keys.add(extract([video], BackboneChoice(checkpoint=model), tmp_path / "cache", processes=1)[0].folder.name)
    assert len(keys) == 3


def test_parts_of_a_video_are_seen_in_one_pass(tmp_path):
    """Each begins with its own first frame, whatever the grid; overlapping ones get what both have."""
    films(tmp_path, 1, 6.0, fps=13.0)
    path = tmp_path / "slow" / "v0.mp4"
    parts = [(0.0, np.inf), (1.03, 3.5), (2.9, 5.2)]
    found = list(clips_in(path, SPEC, parts))
    whole, first, second = ([clip for number, clip in found if number == n] for n in range(3))
    np.testing.assert_array_equal(np.stack([clip.pixels() for clip in whole]), clips_of(path, SPEC))
    for clips, seconds in ((first, 2.47), (second, 2.3)):
        assert clips[0].start == 0
        assert clips[-1].end == pytest.approx(seconds, abs=0.26)
        assert all(a.end == b.start for a, b in pairwise(clips))


def test_what_cannot_be_decoded_is_named_and_skipped_or_fatal(model, tmp_path):
    films(tmp_path / "data", 2)
    (tmp_path / "data" / "slow" / "torn.mp4").write_bytes(b"\0\0\0\x20ftypisom" + bytes(500))
    config = tmp_path / "c.yaml"

    def extracted(**data: object) -> subprocess.CompletedProcess:
        values = {
            "data": {"kind": "folders", "folder": str(tmp_path / "data"), "folds": 2, **data},
            "run": str(tmp_path / "run"), "name": "n", "backbone": {"checkpoint": str(model)},
        }  # fmt: skip
        config.write_text(yaml.safe_dump(values))
        words = [sys.executable, "-m", "pipelines.features", str(config), "--processes", "1"]
        return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)

    skipped = extracted()
    assert skipped.returncode == 0, skipped.stderr
    assert "unreadable: slow/torn: " in skipped.stdout
    assert "features of 2 of 3 videos" in skipped.stdout
    fatal = extracted(on_problem="fatal")
    assert (fatal.returncode, fatal.stderr.splitlines()[-1].split(":")[0]) == (1, "dataset_bad")
    assert "slow/torn" in fatal.stderr
    own = read_config(config).model_copy(update={"backbone": BackboneChoice(checkpoint=tmp_path)})
    with pytest.raises(Exception, match=r"no config\.json"):
        run(own, until="features")


def test_a_part_that_lies_behind_the_end_is_named(model, tmp_path):
    films(tmp_path, 1)
    video = LabelledVideo(tmp_path / "slow" / "v0.mp4", "late", "train", "slow", (), (), start=5.0)
    cache, problems = extract([video], BackboneChoice(checkpoint=model), tmp_path / "cache", processes=1)
    assert [(one.code, one.what) for one in problems] == [("bad_span", "late")]
    assert not cache.path(video).exists()


def test_an_extraction_that_is_killed_goes_on_where_it_was(model, tmp_path):
    """What was whole is kept and right; the rest follows."""
    videos = ClassFolders(folder=films(tmp_path / "data", 8, 4.0), folds=2).find().videos
    config = tmp_path / "c.yaml"
    values = {
        "data": {"kind": "folders", "folder": str(tmp_path / "data"), "folds": 2}, "run": str(tmp_path / "run"), "name": "n",
        "backbone": {"checkpoint": str(model)},
    }  # fmt: skip
    config.write_text(yaml.safe_dump(values))
    words = [sys.executable, "-m", "pipelines.features", str(config), "--processes", "1"]
    child = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True)
    cache_folder = tmp_path / "run" / "features"
    for _ in range(600):
        if len(list(cache_folder.glob("*/*/*.npz"))) >= 2:
            break
        time.sleep(0.05)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    before = {path: path.stat().st_mtime_ns for path in cache_folder.glob("*/*/v*.npz")}
    assert 2 <= len(before) < 8
    subprocess.run(words, cwd=ROOT, check=True, capture_output=True)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    (key,) = cache_folder.iterdir()
    cache, whole = FeatureCache(cache_folder, key.name), Recognizer(checkpoint.read(model), threads=1)
    for video in videos:
        expected = whole.features(clips_of(video.path, SPEC)).astype(np.float16)
        np.testing.assert_allclose(cache.load(video).features_NF, expected, atol=2e-3)


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({}, "give one of"),
        ({"name": "s3d"}, "weights"),
        ({"name": "s3d", "weights": "published", "checkpoint": "x"}, "give one of"),
    ],
)
def test_a_backbone_that_is_none_is_told(tmp_path, section, said):
    values = {"data": {"kind": "folders", "folder": "x"}, "run": "r", "name": "n", "backbone": section}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(BadConfig, match=said):
        read_config(tmp_path / "c.yaml")


def test_a_model_is_trained_on_a_folder_of_clips_with_a_backbone_by_name(tmp_path):
    """From clips to a model that loads, with its card and what it says of the held-out ones; a second run trains nothing anew."""
    films(tmp_path / "data", 12)
    torch.manual_seed(0)
    torch.save(create_backbone("mobilenet_v3_small").net.state_dict(), tmp_path / "w.pth")
    values = {
        "data": {"kind": "folders", "folder": str(tmp_path / "data"), "folds": 3}, "run": str(tmp_path / "run"), "name": "mine",
        "backbone": {"name": "mobilenet_v3_small", "weights": str(tmp_path / "w.pth")}, "threads": 1,
        "crt": {"epochs": 2, "lanes": 2, "width": 32, "memory": 16, "hidden": 32, "heads": 2, "layers": 1},
    }  # fmt: skip
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(values))
    card = run(read_config(tmp_path / "c.yaml"))
    assert card["data"]["videos"]["test"] == {"trimmed": 4, "untrimmed": 0}
    assert card["accuracy"]["test"]["trimmed_clips"] == 4
    model = checkpoint.load(tmp_path / "run" / "model")
    assert model.labels == ("Background", "fast", "slow")
    assert "mobilenet_v3_small" in (tmp_path / "run" / "model" / "README.md").read_text()
    again = run(read_config(tmp_path / "c.yaml"), output=tmp_path / "again")
    assert again["accuracy"] == card["accuracy"]
    assert checkpoint.load(tmp_path / "again").digest == model.digest
    with pytest.raises(BadDataset, match="no folder"):
        run(read_config(tmp_path / "c.yaml").model_copy(update={"data": ClassFolders(folder=tmp_path / "nothing")}))
