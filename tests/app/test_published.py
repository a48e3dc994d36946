"""A published classifier behind the service's doors: labels per clip, no memory, and streams that keep their place all the same."""

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import torch
import torchvision

from tests.app.conftest import ROOT, Service, running
from tests.app.streaming import Camera, Told
from tests.assets import numbered

FRAMES = 48


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory):
    """S3D with random weights, from a file."""
    folder = tmp_path_factory.mktemp("published")
    torch.manual_seed(0)
    torch.save(torchvision.models.get_model("s3d").state_dict(), folder / "s3d.pth")
    with running(f"kinetics400:s3d@{folder / 's3d.pth'}", folder / "service") as service:
        yield service


def test_the_card_says_that_it_has_no_memory(service: Service) -> None:
    card = httpx.get(f"{service.url}/v1/model").json()
    assert card["name"] == "kinetics400:s3d (memoryless)"
    assert card["memory_bytes"] == 0
    assert (len(card["labels"]), card["labels"][0], card["segment_clips"]) == (400, "abseiling", 1)
    assert card["card"]["data"] == "Kinetics-400"


def test_a_video_gets_a_label_a_clip(service: Service, tmp_path: Path) -> None:
    """16 frames at 15 a second each; the last clip is what is left."""
    video = numbered(tmp_path / "video.mp4", frames=60, fps=24.0).path
    answer = httpx.post(f"{service.url}/v1/clips?top_k=400", files={"video": video.read_bytes()}, timeout=120).json()
    assert [one["start"] for one in answer["segments"]] == pytest.approx([0, 16 / 15, 32 / 15], abs=1e-3)
    assert [one["end"] for one in answer["segments"]] == pytest.approx([16 / 15, 32 / 15, 37 / 15], abs=1e-3)
    for one in answer["segments"]:
        assert sum(label["score"] for label in one["labels"]) == pytest.approx(1, abs=1e-3)


def test_a_stream_that_broke_has_the_labels_of_one_that_did_not(service: Service) -> None:
    """Its state is its place alone."""
    whole = Camera(service.url, "whole", fps=15.0, top_k=5)
    whole.send(0, FRAMES)
    expected = whole.end()
    told = Told()
    first = Camera(service.url, "cut", told, fps=15.0, top_k=5)
    first.send(0, 20)
    first.wait(lambda told: told.segments)
    first.cut()
    second = Camera(service.url, "cut", told, fps=15.0, takeover="true", top_k=5)
    assert second.ready["resume_from"] == 16
    second.send(16, FRAMES)
    second.end()
    assert told.segments == expected.segments
    assert len(told.segments) == 3


def test_without_weights_the_service_says_which_file_to_put_where(tmp_path: Path) -> None:
    """There is no internet behind a proxy that is not there."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CRT_")} | {
        "CRT_MODEL": "kinetics400:mvit_v2_s",
        "TORCH_HOME": str(tmp_path),
        "https_proxy": "http://127.0.0.1:9",
    }
    done = subprocess.run([sys.executable, "-m", "app"], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("weights_unavailable: the published weights of mvit_v2_s are not on this machine")
    assert f"Place mvit_v2_s-ae3be167.pth in {tmp_path}/hub/checkpoints" in done.stderr
    assert "Traceback" not in done.stderr
