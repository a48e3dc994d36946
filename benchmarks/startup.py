"""From `make serve` to the first label, the second time; what importing takes, and memory at rest."""

import contextlib
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable

import httpx
import psutil

from benchmarks.clips import VIDEO
from benchmarks.harness import FOLDER, Row, note

REST = 3.0
"""Seconds after which the service is at rest."""


def run(turns: int = 3) -> Iterable[Row]:
    """turns: services started one after the other, after one that does not count, since it reads everything from disk."""
    found = []
    for turn in range(turns + 1):
        found.append(start())
        note(f"  start {turn}: " + ", ".join(f"{name} {value:.3g}" for name, value in found[-1].items()))
    median = {name: statistics.median(one[name] for one in found[1:]) for name in found[0]}
    yield Row(metric="start_s", value=median["start_s"], unit="s, from make serve until /readyz answers")
    yield Row(metric="first label", value=median["label_s"], unit="s, from make serve to the first segment of a video")
    yield Row(
        metric="idle_rss_mb",
        value=median["rss_mb"],
        unit="MB, all processes of the service, what they share counted in each",
    )
    yield Row(metric="idle_pss_mb", value=median["pss_mb"], unit="MB, the same, what they share counted once")
    times = [float(imported("app.main")) for _ in range(turns + 1)][1:]
    yield Row(metric="import of app.main", value=statistics.median(times), unit="s")


def start() -> dict[str, float]:
    """Starts the service as a user does, asks for a label, and lets it rest."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as folder:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CRT_")}
        environment |= {"HOST": "127.0.0.1", "PORT": str(port), "CRT_SESSIONS": f"sqlite:///{folder}/sessions.db"}
        environment |= {"CRT_LOG_LEVEL": "warning"}
        began = time.perf_counter()
        with subprocess.Popen(
            ["make", "--silent", "serve"], cwd=FOLDER.parent, env=environment, stdout=subprocess.DEVNULL
        ) as made:
            try:
                while True:
                    if made.poll() is not None or time.perf_counter() - began > 300:
                        raise RuntimeError("the service did not start; its error output says why")
                    try:
                        httpx.get(url + "/readyz").raise_for_status()
                        break
                    except httpx.TransportError:
                        time.sleep(0.02)
                ready = time.perf_counter() - began
                time.sleep(REST)
                tree = [psutil.Process(made.pid), *psutil.Process(made.pid).children(recursive=True)]
                memory = [process.memory_full_info() for process in tree if process.name() != "make"]
                asked = time.perf_counter()
                label(url)
                return {
                    "start_s": ready,
                    "label_s": ready + time.perf_counter() - asked,
                    "rss_mb": sum(one.rss for one in memory) / 1e6,
                    "pss_mb": sum(one.pss for one in memory) / 1e6,
                }
            finally:
                for process in psutil.Process(made.pid).children(recursive=True):
                    with contextlib.suppress(psutil.NoSuchProcess):  # gone meanwhile: its parent ended it
                        if process.cmdline()[-2:] == ["-m", "app"]:
                            process.terminate()  # it ends its own
                made.wait(30)


def label(url: str) -> None:
    """Posts the example and waits for its first segment."""
    headers = {"Content-Type": "video/mp4", "Accept": "application/x-ndjson"}
    with (
        VIDEO.open("rb") as file,
        httpx.stream("POST", url + "/v1/clips", content=file, headers=headers, timeout=60) as answer,
    ):
        line = next(answer.iter_lines())
        if not re.search(r'"segment"', line):
            raise RuntimeError(f"a first segment was to come, got {line[:300]}")


def imported(module: str) -> str:
    """Seconds that importing takes in a new process."""
    code = f"import time; began = time.perf_counter(); import {module}; print(time.perf_counter() - began)"
    return subprocess.run(
        [sys.executable, "-c", code], cwd=FOLDER.parent, stdout=subprocess.PIPE, text=True, check=True
    ).stdout
