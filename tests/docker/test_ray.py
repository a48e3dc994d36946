"""The networks on a Ray cluster, for real: two nodes, one of them killed in mid-stream. docker/ray/verify.py does it, here in small."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import needs

ROOT = Path(__file__).parents[2]


def test_a_node_that_is_killed_loses_nothing():
    """Neither of live streams nor of an archive, and no port of Ray's is open where it should not be."""
    needs("unshare", "ip", "nft")
    if subprocess.run(["unshare", "--user", "--map-root-user", "--net", "true"], capture_output=True).returncode:
        pytest.skip("this system gives no network namespace to this user")
    small = ["--cameras", "2", "--frames", "300", "--videos", "6", "--quick"]
    done = subprocess.run(
        [sys.executable, ROOT / "docker/ray/verify.py", *small], capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "reached by an address that was not configured: none" in done.stdout
    assert "labels, events and frames are those of the undisturbed run" in done.stdout
    assert "the table of the cluster is that of the labels in process" in done.stdout
    assert done.stdout.rstrip().endswith("all as promised")


def test_a_cluster_that_is_not_there_is_told_in_a_line(tmp_path):
    (tmp_path / "a.mp4").write_bytes((ROOT / "examples/kitchen.mp4").read_bytes())
    command = [
        sys.executable,
        "-m",
        "pipelines.label",
        tmp_path,
        "--out",
        tmp_path / "t.parquet",
        "--ray",
        "127.0.0.1:1",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "engine_unavailable: no Ray cluster answers at 127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr
