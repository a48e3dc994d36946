"""What serving costs: files POSTed eight at a time, against the bare loop of decoding and model on as many cores.

The bare loop reads with decord in its own process, without any of the service's protection: as many processes as there are cores,
each with one thread, share the videos. Side by side: each round times both.
"""

import os
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from benchmarks.clips import Way, bare_loops, post, service, untrained
from benchmarks.harness import Row
from pipelines.label import BUNDLED

CLIENTS = 8
VIDEOS = 24
"""Labelled in a turn."""


def run(turns: int = 5) -> Iterable[Row]:
    """turns: how often each is timed, after one turn that does not count."""
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        model = BUNDLED if BUNDLED.is_dir() else untrained(Path(folder))
        url, server = stack.enter_context(service(model, threads=cores))
        loops = stack.enter_context(bare_loops(model, cores, threads=1))
        served = Way(lambda videos: post(url, videos, clients=CLIENTS), [server])
        counts = {way.turn(VIDEOS) for way in (loops, served)}
        if len(counts) != 1:
            raise RuntimeError(f"the ways found different numbers of clips: {counts}")
        for _ in range(turns):
            loops.turn(VIDEOS)
            served.turn(VIDEOS)
    (clips,) = counts
    bare, ours = (clips / min(way.wall[1:]) for way in (loops, served))
    # Of each round by itself too: the machine's speed changes from one to the next.
    rounds = sorted(a / b for a, b in zip(loops.wall[1:], served.wall[1:], strict=True))
    peer = f"bare loops, {cores} at once"
    yield Row(metric=peer, value=bare, unit="clips/s")
    yield Row(
        metric=f"POST /v1/clips, {CLIENTS} clients at once", value=ours, unit="clips/s", peer=peer, ratio=ours / bare
    )
    yield Row(metric="overhead_share", value=rounds[len(rounds) // 2], unit="of the bare loop, median of the rounds")
