"""Videos through the service, end to end, against the bare loop of decoding and model, in clips per second.

A real server process with a real client on this machine, posting HomeSim's example over HTTP; and the same videos by decord,
resize, backbone and CRT with nothing around them: no upload, no confined decoder, no events, no JSON. One client is compared
with one bare loop that gives the networks all cores, in calls of as many clips as make it fastest; several clients at once with as
many bare loops at once as there are cores, each with one thread. Every way has processes of its own, and they take turns, so that a
slow moment of the machine meets all; rates are the fastest turn's, as others on the machine only slow one down. Processor time is
what labelling costs altogether, decoder included, and hardly depends on who else is at work. Clips are the model's, of T frames each.

And how long whoever posts an hour of video and reads the segments as they come waits for the first one.
"""

import math
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import av
import decord
import httpx
import numpy as np
import psutil

from benchmarks.harness import FOLDER, Row, note
from models import checkpoint
from models.config import ClassifierConfig, CrtConfig
from models.heads import VideoClassifier
from models.small import SPEC, SmallBackbone
from pipelines.frames import Clip, Frame
from pipelines.label import BUNDLED
from pipelines.recognizer import Recognizer
from pipelines.sample import Clipper, Sampler, fit

VIDEO = FOLDER.parent / "examples" / "kitchen.mp4"
VIDEOS = 8
"""Labelled in a turn."""
CLIENTS = 4
"""At once."""
CLIPS_A_CALL = 4
"""Of a bare loop with several threads: of 1, 2, 4 and 8 the fastest. With one thread more than one bring nothing."""


@dataclass(slots=True)
class Way:
    """A way to label the videos, and what its turns took."""

    label: Callable[[int], int]
    """Labels so many videos; returns the number of their clips."""
    processes: list[psutil.Process]
    """Those that work, and their children with them."""
    wall: list[float] = field(default_factory=list)
    """Seconds, a turn each."""
    processor: list[float] = field(default_factory=list)
    """Seconds of processor time, a turn each."""

    def turn(self, videos: int = VIDEOS) -> int:
        """Labels so many videos once and notes what it took."""
        spent, began = self._spent(), time.perf_counter()
        clips = self.label(videos)
        self.wall.append(time.perf_counter() - began)
        self.processor.append(self._spent() - spent)
        return clips

    def _spent(self) -> float:
        trees = [process for root in self.processes for process in (root, *root.children(recursive=True))]
        # The first four: user and system, its own and that of children that have ended, which decoders have by now.
        return sum(sum(process.cpu_times()[:4]) for process in trees)


def run(turns: int = 5) -> Iterable[Row]:
    """turns: how often each is timed, after one turn that does not count."""
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        model = BUNDLED if BUNDLED.is_dir() else untrained(Path(folder))
        url, server = stack.enter_context(service(model, threads=cores))
        loop = stack.enter_context(bare_loops(model, 1, threads=cores))
        loops = stack.enter_context(bare_loops(model, cores, threads=1))
        one = Way(lambda videos: post(url, videos, clients=1), [server])
        many = Way(lambda videos: post(url, videos, clients=CLIENTS), [server])
        ways = [loop, one, loops, many]
        counts = {way.turn() for way in ways}
        if len(counts) != 1:
            raise RuntimeError(f"the ways found different numbers of clips: {counts}")
        for _ in range(turns):
            for way in ways:
                way.turn()
        long = hour(Path(folder))
        waits = [first_segment(url, long) for _ in range(turns)]
    (clips,) = counts
    rates = [clips / min(way.wall[1:]) for way in ways]
    costs = [min(way.processor[1:]) / clips * 1e3 for way in ways]
    named = ["bare loop", "POST /v1/clips, 1 client", f"bare loops, {cores} at once"]
    named.append(f"POST /v1/clips, {CLIENTS} clients at once")
    for peer in (0, 2):
        yield Row(metric=named[peer], value=rates[peer], unit="clips/s")
        ratio = rates[peer + 1] / rates[peer]
        yield Row(metric=named[peer + 1], value=rates[peer + 1], unit="clips/s", peer=named[peer], ratio=ratio)
    yield Row(metric="processor time of a bare clip", value=costs[2], unit="ms")
    yield Row(
        metric="processor time of a served clip", value=costs[3], unit="ms", peer="the bare clip's", ratio=costs[3] / costs[2]
    )  # fmt: skip
    wait = sorted(waits)[len(waits) // 2]
    yield Row(metric="first segment of an hour of video, from the first byte sent on, median", value=wait, unit="s")


def untrained(folder: Path) -> Path:
    """A model of the bundled one's shape: it costs the same."""
    note(f"there is no {BUNDLED.name} model, so one of the same shape with random weights is measured")
    config = ClassifierConfig(feature_width=SPEC.feature_width, classes=20, crt=CrtConfig())
    labels = [f"Class{k}" for k in range(20)]
    checkpoint.save(folder, SmallBackbone(), VideoClassifier(config), name="untrained", labels=labels)
    return folder


def hour(folder: Path) -> Path:
    """The example over and over, its packets as they are: an hour of video."""
    target = folder / "hour.mp4"
    with av.open(str(VIDEO)) as source, av.open(str(target), "w") as output:
        template = source.streams.video[0]
        stream = output.add_stream_from_template(template)
        packets = [(bytes(p), p.pts, p.dts, p.is_keyframe) for p in source.demux(template) if p.dts is not None]
        assert template.duration is not None
        assert template.time_base is not None
        for turn in range(math.ceil(3600 / (template.duration * template.time_base))):
            for data, pts, dts, key in packets:
                packet = av.Packet(data)
                packet.stream, packet.time_base, packet.is_keyframe = stream, template.time_base, key
                packet.pts, packet.dts = pts + turn * template.duration, dts + turn * template.duration
                output.mux(packet)
    return target


def first_segment(url: str, video: Path) -> float:
    """Seconds from the request to the first segment; then the client goes away."""
    began = time.perf_counter()
    with (
        video.open("rb") as file,
        httpx.stream(
            "POST", url + "/v1/clips", content=file, timeout=300,
            headers={"Content-Type": "video/mp4", "Accept": "application/x-ndjson"},
        ) as answer,
    ):  # fmt: skip
        lines = answer.iter_lines()  # kept: the answer is closed with it
        if '"segment"' not in (line := next(lines)):
            raise RuntimeError(f"a first segment was to come, got {line[:300]}")
        return time.perf_counter() - began


def post(url: str, videos: int, *, clients: int) -> int:
    """Posts the videos over so many connections and counts their clips by what was sampled."""

    def labelled(client: httpx.Client) -> int:
        with VIDEO.open("rb") as file:
            answer = client.post("/v1/clips", files={"video": file}).raise_for_status()
        return -(-int(answer.json()["video"]["sampled"]) // SPEC.frames)

    with httpx.Client(base_url=url, timeout=300) as client, ThreadPoolExecutor(clients) as pool:
        return sum(pool.map(lambda _: labelled(client), range(videos)))


@contextmanager
def service(model: Path, *, threads: int, sessions: str = "memory://") -> Iterator[tuple[str, psutil.Process]]:
    """The service, as `make serve` starts it, with sessions of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CRT_")}
    environment |= {"HOST": "127.0.0.1", "PORT": str(port), "CRT_MODEL": str(model), "CRT_THREADS": str(threads)}
    environment |= {"CRT_LOG_LEVEL": "warning", "CRT_SESSIONS": sessions}
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "app"]
    with subprocess.Popen(command, cwd=FOLDER.parent, env=environment, stdout=subprocess.DEVNULL) as process:
        try:
            until = time.monotonic() + 300
            while True:
                if process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError("the service did not start; its error output says why")
                try:
                    httpx.get(url + "/readyz").raise_for_status()
                    break
                except httpx.TransportError:
                    time.sleep(0.1)
            yield url, psutil.Process(process.pid)
        finally:
            process.terminate()


@contextmanager
def bare_loops(model: Path, count: int, *, threads: int) -> Iterator[Way]:
    """So many bare loops, each in a process with so many threads; they share the videos."""
    command = [sys.executable, "-c", "from benchmarks.clips import answer; answer()", str(model), str(threads)]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(command, cwd=FOLDER.parent, stdin=pipe, stdout=pipe, text=True) for _ in range(count)]

    def label(videos: int) -> int:
        for index, process in enumerate(processes):
            assert process.stdin is not None
            print(len(range(index, videos, count)), file=process.stdin, flush=True)
        return sum(int(process.stdout.readline()) for process in processes if process.stdout is not None)

    try:
        yield Way(label, [psutil.Process(process.pid) for process in processes])
    finally:
        for process in processes:
            process.communicate()  # closes its input, upon which it ends


def answer() -> None:
    """In such a process: labels as many videos as each line that comes in says."""
    model, threads = sys.argv[1], int(sys.argv[2])
    decord.logging.set_level(decord.logging.QUIET)
    recognizer = Recognizer(checkpoint.load(model), threads=threads)
    a_call = CLIPS_A_CALL if threads > 1 else 1
    for videos in sys.stdin:
        print(sum(by_itself(VIDEO, recognizer, a_call) for _ in range(int(videos))), flush=True)


def by_itself(path: Path, recognizer: Recognizer, clips_a_call: int) -> int:
    """Decodes a video and runs the model over it, so many clips a call. Returns the number of its clips."""
    reader = decord.VideoReader(str(path), num_threads=1)
    times = reader.get_frame_timestamp(np.arange(len(reader)))[:, 0]
    sampler, clipper = Sampler(recognizer.spec.rate), Clipper(recognizer.spec)
    memory_BM = recognizer.initial_memory()[None]
    clips: list[Clip] = []
    features: list[np.ndarray] = []
    count = 0

    def advance(*, last: bool = False) -> None:
        nonlocal memory_BM, count
        features.extend(recognizer.features([clip.frames for clip in clips]))
        count += len(clips)
        clips.clear()
        while len(features) >= recognizer.segment or (last and features):
            present = features[: recognizer.segment]
            del features[: recognizer.segment]
            segment_BLF = np.zeros((1, recognizer.segment, len(present[0])), np.float32)
            segment_BLF[0, : len(present)] = present
            mask_BL = np.arange(recognizer.segment)[None] < len(present)
            memory_BM = recognizer.advance(segment_BLF, memory_BM, mask_BL).memory_BM

    for time_ in times:
        frame = reader.next()
        if ticks := sampler.take(float(time_)):
            clips += clipper.push(Frame(fit(frame.asnumpy(), recognizer.spec), float(time_)), ticks)
            if len(clips) >= clips_a_call:
                advance()
    clips += clipper.flush()
    advance(last=True)
    return count
