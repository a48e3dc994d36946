"""Timing for comparisons on a machine that is never quite idle: one thread, process time, in turns, medians."""

import statistics
import time
from collections.abc import Callable, Mapping

import torch


def cpu_ms(work: Mapping[str, Callable[[], object]], *, seconds: float) -> dict[str, float]:
    """The median process time of one call of each, in milliseconds, on one thread of torch's and without gradients.

    They take turns, so that a slow moment of the machine meets all of them, for about `seconds` in total and at least
    five turns, after one that does not count.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            return {name: statistics.median(times) for name, times in _turns(work, seconds).items()}
    finally:
        torch.set_num_threads(threads)


def _turns(work: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, list[float]]:
    for call in work.values():
        call()
    taken: dict[str, list[float]] = {name: [] for name in work}
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(next(iter(taken.values()))) < 5:
        for name, call in work.items():
            start = time.process_time()
            call()
            taken[name].append((time.process_time() - start) * 1000)
    return taken
