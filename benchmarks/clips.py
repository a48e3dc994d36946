"""Videos through the service, end to end, against the bare loop of decoding and model, in clips per second.

A real server process with a real client on this machine, posting HomeSim's example over HTTP; and, in a process of its own
with the same number of threads, the same videos by decord, resize, backbone and CRT with nothing around them: no upload, no
confined decoder, no events, no JSON. They take turns, so that a slow moment of the machine meets both; the figure is
the fastest turn's, as others on the machine only slow one down. Clips are the model's, of T frames each.
"""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import decord
import httpx
import numpy as np
import torch

from benchmarks.harness import FOLDER, Row, note
from models import checkpoint
from models.crt import CrtConfig
from models.heads import ClassifierConfig, VideoClassifier
from models.small import SPEC, SmallBackbone
from pipelines.frames import Clip, Frame
from pipelines.label import BUNDLED, CLIPS_A_CALL
from pipelines.recognizer import Recognizer
from pipelines.sample import Clipper, Sampler, fit

VIDEO = FOLDER.parent / "examples" / "kitchen.mp4"
VIDEOS = 8
"""Posted in a turn."""
CLIENTS = (1, 4)
"""At once."""


def run(turns: int = 5) -> Iterable[Row]:
    """turns: how often each is timed, after one turn that does not count."""
    threads = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        model = BUNDLED if BUNDLED.is_dir() else untrained(Path(folder))
        with bare(model, threads) as by_itself, service(model, threads) as url:
            works: list[Callable[[], int]] = [by_itself]
            works += [lambda clients=clients: post(url, clients) for clients in CLIENTS]  # type: ignore[misc]
            bare_rate, *rates = rates_of(works, turns)
    yield Row(metric="bare loop", value=bare_rate, unit="clips/s")
    for clients, rate in zip(CLIENTS, rates, strict=True):
        who = "1 client" if clients == 1 else f"{clients} clients at once"
        yield Row(metric=f"POST /v1/clips, {who}", value=rate, unit="clips/s", peer="bare loop", ratio=rate / bare_rate)


def rates_of(works: list[Callable[[], int]], turns: int) -> list[float]:
    """Clips per second of each in its fastest turn. All must find the same number of clips."""
    counts = {work() for work in works}
    if len(counts) != 1:
        raise RuntimeError(f"the ways found different numbers of clips: {counts}")
    (clips,) = counts
    fastest = [float("inf")] * len(works)
    for _ in range(turns):
        for index, work in enumerate(works):
            began = time.perf_counter()
            work()
            fastest[index] = min(fastest[index], time.perf_counter() - began)
    return [clips / seconds for seconds in fastest]


def untrained(folder: Path) -> Path:
    """A model of the bundled one's shape: it costs the same."""
    note(f"there is no {BUNDLED.name} model, so one of the same shape with random weights is measured")
    config = ClassifierConfig(feature_width=SPEC.feature_width, classes=20, crt=CrtConfig())
    labels = [f"Class{k}" for k in range(20)]
    checkpoint.save(folder, SmallBackbone(), VideoClassifier(config), name="untrained", labels=labels)
    return folder


def post(url: str, clients: int) -> int:
    """Posts the videos over so many connections and counts their clips by what was sampled."""

    def labelled(client: httpx.Client) -> int:
        with VIDEO.open("rb") as file:
            answer = client.post("/v1/clips", files={"video": file}).raise_for_status()
        return -(-int(answer.json()["video"]["sampled"]) // SPEC.frames)

    with httpx.Client(base_url=url, timeout=300) as client, ThreadPoolExecutor(clients) as pool:
        return sum(pool.map(lambda _: labelled(client), range(VIDEOS)))


@contextmanager
def service(model: Path, threads: int) -> Iterator[str]:
    """The service, as `make serve` starts it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CRT_")}
    environment |= {"HOST": "127.0.0.1", "PORT": str(port), "CRT_MODEL": str(model), "CRT_THREADS": str(threads)}
    environment["CRT_LOG_LEVEL"] = "warning"
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen(
        [sys.executable, "-m", "app"], cwd=FOLDER.parent, env=environment, stdout=subprocess.DEVNULL
    ) as process:
        try:
            until = time.monotonic() + 120
            while True:
                if process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError("the service did not start; its error output says why")
                try:
                    httpx.get(url + "/readyz").raise_for_status()
                    break
                except httpx.TransportError:
                    time.sleep(0.1)
            yield url
        finally:
            process.terminate()


@contextmanager
def bare(model: Path, threads: int) -> Iterator[Callable[[], int]]:
    """The bare loop in a process that, like the service, has its own threads."""
    with subprocess.Popen(
        [sys.executable, "-c", "from benchmarks.clips import answer; answer()", str(model), str(threads)],
        cwd=FOLDER.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip

        def turn() -> int:
            assert process.stdin is not None
            assert process.stdout is not None
            print(VIDEOS, file=process.stdin, flush=True)
            return int(process.stdout.readline())

        try:
            yield turn
        finally:
            process.terminate()


def answer() -> None:
    """In that process: the bare loop over as many videos as each line that comes in says."""
    model, threads = sys.argv[1], int(sys.argv[2])
    torch.set_num_threads(threads)
    decord.logging.set_level(decord.logging.QUIET)
    recognizer = Recognizer(checkpoint.load(model))
    for videos in sys.stdin:
        print(sum(by_itself(VIDEO, recognizer) for _ in range(int(videos))), flush=True)


def by_itself(path: Path, recognizer: Recognizer) -> int:
    """Decodes a video and runs the model over it: batches of clips through the backbone, segments through the CRT. Returns its clips."""
    reader = decord.VideoReader(str(path), num_threads=1)
    times = reader.get_frame_timestamp(np.arange(len(reader)))[:, 0]
    sampler, clipper = Sampler(recognizer.spec.rate), Clipper(recognizer.spec)
    memory_BM = recognizer.initial_memory()[None]
    features: list[np.ndarray] = []
    due: list[Clip] = []
    count = 0

    def advance(*, last: bool = False) -> None:
        nonlocal memory_BM, count
        if due:
            features.extend(recognizer.features(np.stack([clip.pixels for clip in due])))
            count += len(due)
            due.clear()
        while len(features) >= recognizer.segment or (last and features):
            present = features[: recognizer.segment]
            del features[: recognizer.segment]
            segment_LF = np.zeros((recognizer.segment, len(present[0])), np.float32)
            segment_LF[: len(present)] = present
            mask_BL = np.arange(recognizer.segment)[None] < len(present)
            memory_BM = recognizer.advance(segment_LF[None], memory_BM, mask_BL).memory_BM

    for time_ in times:
        frame = reader.next()
        if ticks := sampler.take(float(time_)):
            due += clipper.push(Frame(fit(frame.asnumpy(), recognizer.spec), float(time_)), ticks)
            if len(due) >= CLIPS_A_CALL:
                advance()
    due += clipper.flush()
    advance(last=True)
    return count
