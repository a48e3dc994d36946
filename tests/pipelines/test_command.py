"""The commands: what a user gets wrong is told in one line, with a code, and no traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True, env=environment)


@pytest.mark.parametrize(
    ("words", "code", "status"),
    [
        (("pipelines.train", "nowhere.yaml"), "config_bad", 1),
        (("pipelines.evaluate", "nowhere", "homesim", "nowhere"), "checkpoint_bad", 1),
        (("pipelines.label", "nowhere.mp4"), "video_unreadable", 1),
        (("pipelines.label", "examples/kitchen.mp4", "--threads", "-3"), "at least 1", 2),
        (("pipelines.homesim", "make", "nowhere", "--size", "big"), "a size like 320x240", 2),
        (("pipelines.homesim", "clip", "Walk", "nowhere.mp4", "--numbers", "1"), "person,room,take,camera", 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_a_mistake_is_told_in_one_line(words, code, status):
    done = run(*words)
    assert done.returncode == status
    assert code in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr
