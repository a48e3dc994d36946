"""Several labels at once, the whole way: from a table whose spans overlap to a model in service, and a stream that is cut off."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest

from models import checkpoint
from pipelines.homesim.make import write_video
from tests.app.conftest import ROOT, running

LAMPS = {
    "a": {"left": [(3, 11), (18, 24)], "right": [(7, 15)]},
    "b": {"left": [(6, 16)], "right": [(2, 9), (13, 22)]},
    "c": {"left": [(2, 9), (16, 25)], "right": [(5, 12), (20, 28)]},
    "d": {"left": [(4, 12)], "right": [(8, 18)]},
    "e": {"left": [(10, 20)], "right": [(4, 14)]},
    "f": {"left": [(6, 18)], "right": [(12, 24)]},
}
"""Seconds in which each of two lamps is on, of 30."""
SPLITS = {"a": "train", "b": "train", "c": "train", "d": "train", "e": "validation", "f": "test"}


def film(path: Path, lamps: dict[str, list[tuple[int, int]]]) -> None:
    """A dark room with two lamps."""
    rng = np.random.default_rng(0)

    def pictures():
        for n in range(300):
            picture = rng.integers(40, 60, (96, 128, 3), np.uint8)
            for name, column in (("left", 10), ("right", 78)):
                if any(start <= n / 10 < end for start, end in lamps[name]):
                    picture[20:70, column : column + 40] = 230
            yield picture

    write_video(path, pictures(), 10)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str], str]:
    """The run's folder, and what training and survey said."""
    folder = tmp_path_factory.mktemp("lamps")
    with (folder / "lamps.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "start", "end", "label", "split"])
        for name, lamps in LAMPS.items():
            film(folder / f"{name}.mp4", lamps)
            table.writerows([f"{name}.mp4", a, b, label, SPLITS[name]] for label in lamps for a, b in lamps[label])
    (folder / "lamps.yaml").write_text(
        f"data: {{kind: table, folder: {folder}, table: {folder / 'lamps.csv'}, untrimmed: true}}\nrun: {folder / 'run'}\nname: lamps\n"
        "threads: 2\nbackbone: {checkpoint: models/bundled}\n"
        "crt: {several: true, epochs: 30, lanes: 4, unroll: 8, width: 64, memory: 32, hidden: 64, learning_rate: 0.003}\n"
    )
    words = ["-m", "pipelines.train", str(folder / "lamps.yaml")]
    trained = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    words = ["-m", "pipelines.datasets", "table", str(folder), "--table", str(folder / "lamps.csv"), "--untrimmed"]
    surveyed = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=True)
    return folder, trained, surveyed.stdout


def test_a_table_whose_spans_overlap_makes_a_model_that_knows_both(made):
    """All moments, also those in which two things are true; what is not one is announced."""
    folder, trained, surveyed = made
    assert trained.returncode == 0, trained.stderr[-2000:]
    assert "several labels at once in" not in trained.stderr
    assert "Several labels at once in 30.6% of the time that has any" in surveyed
    card = json.loads((folder / "run" / "card.json").read_text())
    assert "several labels at once" in card["method"]["crt"]
    assert card["accuracy"]["test"]["untrimmed_frame_map"] > 0.9
    assert card["accuracy"]["test"]["untrimmed_event_f1"]["0.5"] == 1.0
    model = checkpoint.read(folder / "run" / "model")
    assert model.config.classifier.several


def test_it_says_both_and_a_stream_that_is_cut_off_goes_on_in_the_midst_of_two_events(made, tmp_path):
    """POSTed whole, and in two pieces with a restart between, while both lamps are on: the same events, which overlap."""
    folder = made[0]
    video = (folder / "f.mp4").read_bytes()
    headers = {"content-type": "video/mp4"}
    with (
        running(folder / "run" / "model", tmp_path) as service,
        httpx.Client(base_url=service.url, timeout=60) as client,
    ):
        card = client.get("/v1/model").json()
        assert card["several"]
        whole = client.post("/v1/clips", content=video, headers=headers).json()
        client.post("/v1/streams", json={"id": "lamps"}).raise_for_status()
        write_video(tmp_path / "first.mp4", _frames(folder / "f.mp4", 0, 150), 10)
        first = client.post(
            "/v1/streams/lamps/clips", content=(tmp_path / "first.mp4").read_bytes(), headers=headers
        ).json()
    assert [event["label"] for event in whole["events"]] == ["left", "right"]
    starts = {event["label"]: event["start"] for event in whole["events"]}
    ends = {event["label"]: event["end"] for event in whole["events"]}
    assert starts == pytest.approx({"left": 6, "right": 12}, abs=1.0)
    assert ends == pytest.approx({"left": 18, "right": 24}, abs=1.0)
    both = [one for one in whole["segments"] if one["start"] >= 13 and one["end"] <= 17]
    assert both
    for segment in both:
        scores = {label["label"]: label["score"] for label in segment["labels"]}
        assert min(scores["left"], scores["right"]) > 0.6  # which a sum of one would not allow
    with (
        running(folder / "run" / "model", tmp_path) as service,
        httpx.Client(base_url=service.url, timeout=60) as client,
    ):
        position = first["stream"]["position"]
        write_video(tmp_path / "second.mp4", _frames(folder / "f.mp4", round(position * 10), 300), 10)
        second = client.post(
            "/v1/streams/lamps/clips", content=(tmp_path / "second.mp4").read_bytes(), headers=headers,
            params={"start": position, "end": True},
        ).json()  # fmt: skip
    assert len(second["events"]) == 2
    events = {event["label"]: (event["start"], event["end"]) for event in second["events"]}
    assert events == {label: pytest.approx((starts[label], ends[label]), abs=0.51) for label in starts}


def _frames(path: Path, start: int, end: int):
    """Pictures `start` to `end` - 1."""
    import av

    with av.open(str(path)) as video:
        for n, frame in enumerate(video.decode(video=0)):
            if start <= n < end:
                yield frame.to_ndarray(format="rgb24")
