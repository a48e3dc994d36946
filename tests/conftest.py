"""Tests that run side by side: they share the cores, and the files that take long begin first."""

import os
import sys
from collections.abc import Iterator

import pytest

SLOW = (
    "test_training",
    "test_streams",
    "test_kill",
    "test_ray",
    "test_clips",
    "test_decode",
    "test_live",
    "test_camera",
    "test_client",
    "test_page",
    "test_recall",
    "test_features",
    "test_network_camera",
)

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # as in pipelines/runtime.py, for tests that load it themselves

# Before torch is imported, here and in what the tests start.
if together := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) - 1:
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // (together + 1))))


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    """torch's threads are the whole process's, and on shared cores two that wait for each other are slower than one."""
    yield
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", len(os.sched_getaffinity(0)))))


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores, four at most: a third of the time tests wait for servers, clocks and browsers."""
    return min(4, len(os.sched_getaffinity(0)) + 1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: place for place, name in enumerate(SLOW)}
    items.sort(key=lambda item: order.get(item.path.stem, len(SLOW)))
