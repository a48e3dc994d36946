"""Tests that run side by side: they share the cores, and the files that take long begin first."""

import os

import pytest

SLOW = (
    "test_kill",
    "test_streams",
    "test_training",
    "test_clips",
    "test_features",
    "test_recall",
    "test_live",
    "test_camera",
)

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # as in pipelines/runtime.py, for tests that load it themselves

# Before torch is imported, here and in what the tests start.
if together := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) - 1:
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // (together + 1))))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: place for place, name in enumerate(SLOW)}
    items.sort(key=lambda item: order.get(item.path.stem, len(SLOW)))
