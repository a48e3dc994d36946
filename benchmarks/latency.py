"""From the capture of a frame to its label: live streams over WebSocket, provisional and final labels, in seconds.

A real server process with sessions in SQLite, and clients on the same machine that send 640x480 JPEG frames at 25 a second, each
when its time has come. A label's latency is the time from the capture of the last frame that it covers to its arrival at the
client: sending, decoding, waiting for a batch, networks, commit and the way back. Clients spread over the clips' beginnings.
"""

import asyncio
import json
import os
import struct
import tempfile
import time
from collections.abc import Iterable

import cv2
import numpy as np
from websockets.asyncio.client import connect

from benchmarks.clips import VIDEO, service
from benchmarks.harness import Row, note
from pipelines.label import BUNDLED

FPS = 25
SECONDS = 24.0
"""Of each stream."""
STREAMS = (1, 16)
_HEADER = struct.Struct("!Qd")


def run() -> Iterable[Row]:
    """p50 and p95 of both kinds of labels, for each number of streams."""
    pictures = _pictures()
    with tempfile.TemporaryDirectory() as folder:
        threads = len(os.sched_getaffinity(0))
        with service(BUNDLED, threads=threads, sessions=f"sqlite:///{folder}/sessions.db") as (url, _):
            asyncio.run(_all(url, pictures, 2, 4.0))
            for streams in STREAMS:
                note(f"{streams} streams for {SECONDS:g} s ...")
                found = asyncio.run(_all(url, pictures, streams, SECONDS))
                for kind in ("provisional", "final"):
                    for share in (50, 95):
                        value = float(np.percentile(found[kind], share))
                        yield Row(metric=f"{kind}_p{share}_s_{streams}", value=value, unit="s")


def _pictures() -> list[bytes]:
    """The example's frames as JPEGs."""
    video = cv2.VideoCapture(str(VIDEO))
    found: list[bytes] = []
    while True:
        there, picture = video.read()
        if not there:
            return found
        found.append(cv2.imencode(".jpg", cv2.resize(picture, (640, 480)), (cv2.IMWRITE_JPEG_QUALITY, 85))[1].tobytes())


async def _all(url: str, pictures: list[bytes], streams: int, seconds: float) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {"provisional": [], "final": []}
    await asyncio.gather(
        *(_one(url, f"{time.time_ns()}", pictures, seconds, n / streams, found) for n in range(streams))
    )
    return found


async def _one(
    url: str, id: str, pictures: list[bytes], seconds: float, delay: float, found: dict[str, list[float]]
) -> None:
    address = f"{url.replace('http', 'ws', 1)}/v1/streams/{id}/frames?policy=live"
    await asyncio.sleep(delay)
    async with connect(address, subprotocols=["crt.v1"], compression=None) as socket:  # type: ignore[list-item]
        assert json.loads(await socket.recv())["type"] == "ready"
        began = time.perf_counter()

        async def read() -> None:
            async for text in socket:
                now, one = time.perf_counter(), json.loads(text)
                if one["type"] == "dropped":
                    raise RuntimeError(f"frames were dropped: {one}")
                if one["type"] == "segment":
                    # The last frame that a clip covers is the first at or after its last tick.
                    last = np.ceil((one["end"] - 1 / 8 - 1e-3) * FPS) / FPS
                    found["final" if one["final"] else "provisional"].append(now - began - last)

        reading = asyncio.create_task(read())
        for i in range(int(seconds * FPS)):
            await asyncio.sleep(max(0.0, began + i / FPS - time.perf_counter()))
            await socket.send(_HEADER.pack(i, i / FPS) + pictures[i % len(pictures)])
            if reading.done():
                break
        await asyncio.sleep(0.5)
        await socket.close()
        await reading
