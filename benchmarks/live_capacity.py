"""How many live cameras the service carries: 640x480 JPEG at 25 frames a second each over WebSocket, sessions in SQLite.

A real server process and one process of clients share the machine's cores. A number of streams is carried when not one frame is dropped
and the 95th percentile of capture-to-label is at most half a second: from the time when the last frame that a label covers was due to
be taken, to the label at the client. The number is doubled until it fails, then narrowed down, and what is reported has been carried
for a minute. Where the time of that minute went: processor time by stage from the service's own metrics, and what its process took
beyond that (network, store, event loop), as shares of one core.
"""

import asyncio
import json
import os
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import httpx
import numpy as np
import psutil
import uvloop
from prometheus_client.parser import text_string_to_metric_families
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from benchmarks.clips import VIDEO, service
from benchmarks.harness import FOLDER, Row, note
from pipelines.label import BUNDLED

FPS = 25
LATEST = 0.5
"""Seconds, of the 95th percentile."""
STAGES = ("decode", "backbone", "crt")
_HEADER = struct.Struct("!Qd")
_BEHIND = 0.25
"""Seconds by which the clients may fall behind; else it is they who are too slow."""


@dataclass(frozen=True, slots=True)
class Carried:
    """What became of some streams for some time."""

    streams: int
    frames: int
    """Sent."""
    dropped: int
    p50: float
    p95: float
    """Seconds from capture to label, provisional ones included."""
    behind: float
    """Seconds by which the clients were late at the worst."""
    refused: int
    """Streams that the service had no room for, by its own judgement; then nothing was sent."""
    shares: dict[str, float]
    """Of one core: each stage, the service's process altogether, the clients."""

    @property
    def good(self) -> bool:
        return self.dropped == 0 and self.p95 <= LATEST and self.behind <= _BEHIND

    def __str__(self) -> str:
        if self.refused:
            return f"  {self.streams} streams: {self.refused} refused with 503"
        verdict = "carried" if self.good else "too many"
        return (
            f"  {self.streams} streams: {verdict}; p95 {self.p95 * 1e3:.0f} ms, {self.dropped} frames dropped, "
            f"clients {self.behind * 1e3:.0f} ms behind"
        )


def run(seconds: float = 60.0, trial: float = 12.0, most: int = 1024) -> Iterable[Row]:
    """seconds: of the run that counts; trial: of each on the way to it."""
    threads = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(dir=".", prefix=".capacity-") as folder:
        path = os.path.abspath(folder)
        with service(BUNDLED, threads=threads, sessions=f"sqlite:///{path}/sessions.db") as (url, process):
            carry(url, process, 2, 4.0)
            low, high, tried = 0, most, 8
            while high - low > max(1, low // 20) and tried < high:
                found = carry(url, process, tried, trial)
                note(str(found))
                low, high = (tried, high) if found.good else (low, tried)
                tried = min(2 * low, most) if high == most else (low + high) // 2
            # What a clip costs falls with their number, and the service refuses by what it has measured: so step by step from here.
            while (found := carry(url, process, low + max(1, low // 25), trial)).good:
                note(str(found))
                low = found.streams
            note(str(found))
            while low > 0 and not (found := carry(url, process, low, seconds)).good:
                note(str(found))
                low = low * 19 // 20
            if low == 0:
                raise RuntimeError("not even one stream is carried")
            note(str(found))
    yield Row(metric="live_streams", value=found.streams, unit="streams")
    yield Row(metric="p50_latency_s", value=found.p50, unit="s")
    yield Row(metric="p95_latency_s", value=found.p95, unit="s")
    yield Row(metric="frames received", value=found.frames / seconds, unit="frames/s")
    for name, share in found.shares.items():
        yield Row(metric=f"cpu, {name}", value=share, unit="cores")


def carry(url: str, server: psutil.Process, streams: int, seconds: float) -> Carried:
    """So many streams for so long, sent by a process of their own."""
    before, cpu = work(url), _cpu(server)
    command = [sys.executable, "-m", "benchmarks.live_capacity", url, str(streams), str(seconds)]
    done = subprocess.run(command, cwd=FOLDER.parent, stdout=subprocess.PIPE, text=True, check=True)
    told = json.loads(done.stdout)
    shares = {stage: (spent - before[stage]) / seconds for stage, spent in work(url).items()}
    whole = (_cpu(server) - cpu) / seconds
    shares["network, store and the rest"] = whole - sum(shares.values())
    shares["service"] = whole
    shares["clients"] = told.pop("cpu") / seconds
    return Carried(streams=streams, shares=shares, **told)


def work(url: str) -> dict[str, float]:
    """Seconds of processor time by stage so far, from the service's metrics."""
    text = httpx.get(f"{url}/metrics").raise_for_status().text
    (family,) = (f for f in text_string_to_metric_families(text) if f.name == "crt_cpu_seconds")
    sums = {sample.labels["stage"]: sample.value for sample in family.samples}
    return {stage: sums[stage] for stage in STAGES}


def _cpu(process: psutil.Process) -> float:
    """Of a process and those that it started and that still run."""
    return sum(sum(one.cpu_times()[:2]) for one in [process, *process.children(recursive=True)])


# The clients' process


def pictures() -> list[bytes]:
    """The example's frames as JPEGs of 640x480."""
    video = cv2.VideoCapture(str(VIDEO))
    found: list[bytes] = []
    while True:
        there, picture = video.read()
        if not there:
            return found
        found.append(cv2.imencode(".jpg", cv2.resize(picture, (640, 480)), (cv2.IMWRITE_JPEG_QUALITY, 85))[1].tobytes())


async def drive(url: str, streams: int, seconds: float) -> dict[str, float]:
    """Opens the streams, sends each frame when its time has come, and reads all that is told."""
    frames = pictures()
    run = f"{time.time_ns()}"
    address = f"{url.replace('http', 'ws', 1)}/v1/streams"
    sockets: list[ClientConnection] = []
    for n in range(streams):
        one = f"{address}/{run}-{n}/frames?policy=live"
        try:
            sockets.append(await connect(one, subprotocols=["crt.v1"], compression=None))  # type: ignore[list-item]
        except InvalidStatus:  # one too many, by the service's own judgement
            for socket in sockets:
                await socket.close()
            return {
                "frames": 0,
                "dropped": 0,
                "p50": np.inf,
                "p95": np.inf,
                "behind": 0.0,
                "cpu": 0.0,
                "refused": streams - n,
            }
    for socket in sockets:
        assert json.loads(await socket.recv())["type"] == "ready"
    began, cpu = time.perf_counter() + 0.1, _cpu(psutil.Process())
    # Cameras do not keep step: their frames, and so their clips, are spread evenly over a clip's time.
    starts = [began + n / streams * 0.5 for n in range(streams)]
    latencies: list[float] = []
    dropped = 0

    async def read(socket: ClientConnection, start: float) -> None:
        nonlocal dropped
        async for text in socket:
            now, one = time.perf_counter(), json.loads(text)
            if one["type"] == "dropped":
                dropped += one["frames"]
            elif one["type"] == "segment":
                # The last frame that a label covers is the first at or after its last tick.
                last = np.ceil((one["end"] - 1 / 8 - 1e-3) * FPS) / FPS
                latencies.append(now - start - last)

    readers = [asyncio.create_task(read(*pair)) for pair in zip(sockets, starts, strict=True)]
    due = sorted((start + i / FPS, n, i) for n, start in enumerate(starts) for i in range(int(seconds * FPS)))
    behind, sent = 0.0, 0
    for when, n, i in due:
        if (pause := when - time.perf_counter()) > 0:
            await asyncio.sleep(pause)
        else:
            behind = max(behind, -pause)
            if sent % 64 == 0:
                await asyncio.sleep(0)
        if dropped or behind > 2 * LATEST:
            break
        await sockets[n].send(_HEADER.pack(i, i / FPS) + frames[(i + 37 * n) % len(frames)])
        sent += 1
    await asyncio.sleep(1.0)
    for socket in sockets:
        await socket.close()
    await asyncio.wait(readers)
    p50, p95 = np.percentile(latencies, (50, 95)) if latencies else (np.inf, np.inf)
    return {
        "frames": sent,
        "dropped": dropped,
        "p50": float(p50),
        "p95": float(p95),
        "behind": behind,
        "cpu": _cpu(psutil.Process()) - cpu,
        "refused": 0,
    }


def main() -> None:
    url, streams, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    cv2.setNumThreads(1)
    print(json.dumps(uvloop.run(drive(url, streams, seconds))))


if __name__ == "__main__":
    main()
