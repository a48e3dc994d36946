"""Tests that run side by side share the cores: before torch is imported, here and in what the tests start."""

import os

if together := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) - 1:
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // (together + 1))))
