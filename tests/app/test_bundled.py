"""The model that ships: it is small, it names itself by its weights, its card says what was measured, and it labels the example."""

import json

import httpx
import pytest

from models import checkpoint
from pipelines.label import BUNDLED
from tests.app.conftest import ROOT, running


@pytest.fixture(scope="module")
def bundled(tmp_path_factory):
    """A service with its defaults: what `make serve` starts."""
    with (
        running(BUNDLED, tmp_path_factory.mktemp("bundled")) as service,
        httpx.Client(base_url=service.url, timeout=60) as client,
    ):
        yield client


def test_it_is_at_most_10_mb():
    """All its files together."""
    assert sum(file.stat().st_size for file in BUNDLED.iterdir()) <= 10 << 20


def test_its_card_states_data_method_and_measured_accuracy(bundled):
    """Through the API as in the folder, and for people in README.md."""
    body = bundled.get("/v1/model").json()
    model = checkpoint.load(BUNDLED)
    assert (body["name"], body["digest"], tuple(body["labels"])) == (model.name, model.digest, model.labels)
    assert {"Fall", "Drink.Fromcup", "Walk"} <= set(body["labels"])
    assert body["rate"] == 8.0
    assert body["frame_size"] == {"width": 320, "height": 240}
    assert body["segment_seconds"] == body["segment_clips"] * body["clip_frames"] / body["rate"]
    assert body["memory_bytes"] == 2048
    test = body["card"]["accuracy"]["test"]
    assert 0 < test["trimmed_mean_class_accuracy"] <= 1
    text = (BUNDLED / "README.md").read_text()
    for name in ("trimmed_mean_class_accuracy", "untrimmed_frame_accuracy", "drinks_after_20_s"):
        assert f"{test[name]:.1%}" in text
    assert "simulated homes" in text
    assert json.loads((BUNDLED / "config.json").read_text())["digest"] == model.digest


def test_it_names_the_cup_of_the_example(bundled):
    """The hand hides it while drinking; it was to be seen when it was fetched."""
    with (ROOT / "examples" / "kitchen.mp4").open("rb") as file:
        body = bundled.post("/v1/clips", files={"video": file}, params={"top_k": 3}).json()
    assert "Drink.Fromcup" in {event["label"] for event in body["events"]}
    assert body["labels"][0]["label"] == "Drink.Fromcup"
