"""The same CRT step behind our engine, Triton's sequence batcher and LitServe: steps a second and latency, from 1 to 32 streams.

d 512, 2 layers, segments of 16 clips, float32, one thread for the network; features are given, the server keeps each stream's
memory. Each stream sends a segment, waits for its scores and sends the next. All servers run at the same time and are measured in
turns by the same client over plain HTTP, with one connection a stream. Ours commits every step to SQLite before it answers;
the others keep memories in the process. Triton and LitServe run the step by torch, and once more by our ONNX graph, so that what is
compared is the serving. The limit is the bare loop: batches of all streams, one after the other, in one process without a server.

`python -m benchmarks.peers.install` puts Triton and LitServe into an environment of their own under runs/.
"""

import asyncio
import base64
import json
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import uvloop

from app.batching import Batches
from app.metrics import Metrics
from app.protocol import Options
from app.routes.features import label
from app.sessions import open_store
from app.streams import Streams
from benchmarks.clips import service
from benchmarks.harness import FOLDER, Row, note
from benchmarks.peers.install import ENVIRONMENT, litserve, triton
from benchmarks.peers.step import first_memory, make
from models import checkpoint
from models.backbones import create_backbone
from models.config import ClassifierConfig, CrtConfig
from models.heads import VideoClassifier
from pipelines import graphs
from pipelines.onnx_weights import strip
from pipelines.recognizer import Recognizer

STREAMS = (1, 4, 8, 16, 32)
SHAPE = CrtConfig(width=512, memory=512, layers=2, heads=8, hidden=2048, segment=16, reader="prepend", dropout=0.0)
F, C = 512, 31
_STEPS = 200
"""Segments that a stream has to send; it begins again after them."""

Ask = Callable[[int, int, np.ndarray], Awaitable[np.ndarray]]
"""Stream, number of the step, features float32[L, F] to scores float32[C]."""


@dataclass
class Way:
    """One that is measured."""

    name: str
    open: Callable[[int], AbstractAsyncContextManager[Ask]]
    """For so many streams."""
    server: psutil.Process | None = None
    """Stands still while others are measured: some wait by asking again and again."""
    rates: dict[int, list[float]] = field(default_factory=dict)
    latencies: dict[int, list[np.ndarray]] = field(default_factory=dict)

    def stand(self, *, still: bool) -> None:
        """Stops its processes, or lets them go on."""
        for one in [self.server, *self.server.children(recursive=True)] if self.server else []:
            one.suspend() if still else one.resume()


def run(seconds: float = 2.0, rounds: int = 3, streams: Iterable[int] = STREAMS) -> Iterable[Row]:
    """seconds: of each turn."""
    return uvloop.run(_run(seconds, rounds, tuple(streams)))


async def _run(seconds: float, rounds: int, streams: tuple[int, ...]) -> list[Row]:
    if not ENVIRONMENT.is_dir():
        raise SystemExit("Triton and LitServe are not there; install them by `python -m benchmarks.peers.install`.")
    with tempfile.TemporaryDirectory(dir=FOLDER.parent / "runs") as name, ExitStack() as stack:
        folder = Path(name)
        model = made(folder / "model")
        url, server = stack.enter_context(service(model, threads=1, sessions=f"sqlite:///{folder}/sessions.db"))
        ways = [
            Way("bare loop", lambda n: bare(model, "onnx", n)),
            Way("bare loop, torch", lambda n: bare(model, "torch", n)),
            Way("ours in process", lambda n: in_process(model, folder, n)),
            Way("ours by HTTP", lambda n: ours(url, n), server),
        ]
        for runtime in ("torch", "onnx"):
            port, server = stack.enter_context(triton(model, folder / f"triton-{runtime}", runtime, streams[-1]))
            ways.append(Way(f"Triton, {runtime}", partial(by_triton, port), server))
            port, server = stack.enter_context(litserve(model, runtime, streams[-1]))
            ways.append(Way(f"LitServe, {runtime}", partial(by_litserve, port), server))
        await check(ways)
        for way in ways:
            way.stand(still=True)
        for turn in range(rounds):
            for count in streams:
                for way in ways:
                    way.stand(still=False)
                    await measure(way, count, seconds)
                    way.stand(still=True)
                    note(f"  round {turn + 1}, {count:2} streams, {way.name}: {way.rates[count][-1]:.1f} steps/s")
        for way in ways:
            way.stand(still=False)  # or it could not end
    return rows(ways, streams)


def rows(ways: list[Way], streams: tuple[int, ...]) -> list[Row]:
    rate = {(way.name, n): statistics.median(way.rates[n]) for way in ways for n in streams}
    late = {
        (way.name, n, p): float(np.percentile(np.concatenate(way.latencies[n]), p)) * 1e3
        for way in ways for n in streams for p in (50, 95)
    }  # fmt: skip
    found = []
    for n in streams:
        for way in ways:
            peer = None if way.name == "Triton, torch" else "Triton, torch"
            ratio = None if peer is None else rate[way.name, n] / rate[peer, n]
            found.append(
                Row(metric=f"{n} streams, {way.name}", value=rate[way.name, n], unit="steps/s", peer=peer, ratio=ratio)
            )
        for way in ways:
            if not way.name.startswith("bare"):
                found.append(Row(metric=f"{n} streams, {way.name}, p50", value=late[way.name, n, 50], unit="ms"))
                found.append(Row(metric=f"{n} streams, {way.name}, p95", value=late[way.name, n, 95], unit="ms"))
    most, least = streams[-1], streams[0]
    http, process, bare_, peer = "ours by HTTP", "ours in process", "bare loop", "Triton, torch"
    found += [
        Row(metric=f"steps_per_s_{most}", value=rate[http, most], unit="steps/s", peer=peer, ratio=rate[http, most] / rate[peer, most]),
        Row(metric=f"p50_ms_{least}", value=late[http, least, 50], unit="ms", peer=peer, ratio=late[http, least, 50] / late[peer, least, 50]),
        Row(metric="share_of_bare_loop", value=rate[process, most] / rate[bare_, most], unit=f"in process, {most} streams"),
        Row(metric="share_of_bare_loop_http", value=rate[http, most] / rate[bare_, most], unit=f"by HTTP, {most} streams"),
    ]  # fmt: skip
    return found


def made(folder: Path) -> Path:
    """A model of random weights with features of 512."""
    import torch

    torch.manual_seed(0)
    backbone, classifier = (
        create_backbone("r3d_18"),
        VideoClassifier(ClassifierConfig(feature_width=F, classes=C, crt=SHAPE)),
    )
    classifier.eval()
    weights = checkpoint.weights_of(backbone, classifier)
    checkpoint.save(
        folder, backbone, classifier, name="peers", labels=[f"Class{k}" for k in range(C)],
        graphs={"classify": strip(graphs.classify(classifier), weights)},
    )  # fmt: skip
    return folder


def segments() -> np.ndarray:
    """float32[S, L, F], the same each time."""
    return np.random.default_rng(0).standard_normal((_STEPS, SHAPE.segment, F)).astype(np.float32)


async def check(ways: list[Way]) -> None:
    """All give the same scores, with the memory of what came before."""
    wanted: np.ndarray | None = None
    for way in ways:
        note(f"  checking {way.name}")
        async with asyncio.timeout(60), way.open(2) as ask:
            for step in range(3):
                got, _ = await asyncio.gather(ask(0, step, segments()[step]), ask(1, step, segments()[step + 3]))
        wanted = got if wanted is None else wanted
        if not np.allclose(got, wanted, atol=1e-4):
            raise RuntimeError(f"{way.name} gives other scores than {ways[0].name}: {got[:4]} instead of {wanted[:4]}")


async def measure(way: Way, count: int, seconds: float) -> None:
    """A turn; its first fifth does not count."""
    given, times, ends = segments(), [], []
    async with way.open(count) as ask:
        began = time.perf_counter()

        async def stream(id: int) -> None:
            step = 0
            while (now := time.perf_counter()) < began + 1.2 * seconds:
                await ask(id, step, given[step % _STEPS])
                done = time.perf_counter()
                times.append(done - now)
                ends.append(done - began)
                step += 1

        await asyncio.gather(*(stream(id) for id in range(count)))
    counted = [late for late, end in zip(times, ends, strict=True) if 0.2 * seconds < end <= 1.2 * seconds]
    way.rates.setdefault(count, []).append(len(counted) / seconds)
    way.latencies.setdefault(count, []).append(np.array(counted))


@asynccontextmanager
async def bare(model: Path, runtime: str, count: int) -> AsyncIterator[Ask]:
    """Batches of all streams, as soon as all have asked."""
    step, memory = make(model, runtime), np.tile(first_memory(model), (count, 1))
    mask, waiting = np.ones((count, SHAPE.segment), bool), {}
    answers: list[asyncio.Future[np.ndarray]] = []

    async def ask(id: int, number: int, features_LF: np.ndarray) -> np.ndarray:
        nonlocal memory
        waiting[id] = features_LF
        answers.append(asyncio.get_running_loop().create_future())
        mine = answers[-1], id
        if len(waiting) == count:
            scores, memory = step(np.stack([waiting[i] for i in range(count)]), memory, mask)
            waiting.clear()
            for one in answers:
                one.set_result(scores)
            answers.clear()
        return (await mine[0])[mine[1]]

    yield ask


@asynccontextmanager
async def in_process(model: Path, folder: Path, count: int) -> AsyncIterator[Ask]:
    """Our engine without its door: queue, batches, sessions in SQLite."""
    recognizer, metrics = Recognizer(checkpoint.read(model), threads=1), Metrics()
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_store(f"sqlite:///{folder}/in-process-{time.time_ns()}.db"))
        batches = await stack.enter_async_context(Batches(recognizer, metrics, threads=1, streams=count))
        streams = await stack.enter_async_context(Streams(store, recognizer, metrics, patience=10))
        for id in range(count):
            await store.create(streams.fresh(str(id), Options()))

        async def ask(id: int, number: int, features_LF: np.ndarray) -> np.ndarray:
            answer = await label(streams, batches, str(id), features_LF, number * SHAPE.segment, top_k=C)
            return scores_of(answer["segments"])

        yield ask


def scores_of(segments: list[dict[str, Any]]) -> np.ndarray:
    by = {label["label"]: label["score"] for label in segments[-1]["labels"]}
    return np.array([by[f"Class{k}"] for k in range(C)])


class Connection:
    """Plain HTTP/1.1 with as little as it takes, the same for all servers."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def post(self, path: str, body: bytes, headers: str) -> bytes:
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
        self._writer.write(head.encode() + body)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        lines = answer.decode("latin-1").lower().split("\r\n")
        length = next(int(line.split(":")[1]) for line in lines if line.startswith("content-length:"))
        body = await self._reader.readexactly(length)
        if " 200 " not in lines[0]:
            raise RuntimeError(f"{path}: {lines[0]} {body[:300]!r}")
        return body


@asynccontextmanager
async def connected(port: int, count: int) -> AsyncIterator[list[Connection]]:
    """One connection a stream."""
    pairs = [await asyncio.open_connection("127.0.0.1", port) for _ in range(count)]
    yield [Connection(*pair) for pair in pairs]
    for _, writer in pairs:
        writer.close()


_turn = iter(range(1, 1 << 30))


@asynccontextmanager
async def ours(url: str, count: int) -> AsyncIterator[Ask]:
    turn = next(_turn)
    async with httpx.AsyncClient(base_url=url) as client:
        for id in range(count):
            (await client.post("/v1/streams", json={"id": f"{turn}-{id}"})).raise_for_status()
    async with connected(httpx.URL(url).port or 0, count) as connections:

        async def ask(id: int, number: int, features_LF: np.ndarray) -> np.ndarray:
            path = f"/v1/streams/{turn}-{id}/features?clip={number * SHAPE.segment}&top_k={C}"
            headers = "Content-Type: application/octet-stream\r\n"
            return scores_of(json.loads(await connections[id].post(path, features_LF.tobytes(), headers))["segments"])

        yield ask


@asynccontextmanager
async def by_triton(port: int, count: int) -> AsyncIterator[Ask]:
    turn = next(_turn)
    async with connected(port, count) as connections:

        async def ask(id: int, number: int, features_LF: np.ndarray) -> np.ndarray:
            inputs = {
                "name": "features",
                "shape": [1, *features_LF.shape],
                "datatype": "FP32",
                "parameters": {"binary_data_size": features_LF.nbytes},
            }
            head = json.dumps({
                "inputs": [inputs], "outputs": [{"name": "scores", "parameters": {"binary_data": True}}],
                "parameters": {"sequence_id": turn * 1000 + id + 1, "sequence_start": number == 0, "sequence_end": False},
            }).encode()  # fmt: skip
            headers = f"Inference-Header-Content-Length: {len(head)}\r\nContent-Type: application/octet-stream\r\n"
            body = await connections[id].post("/v2/models/crt/infer", head + features_LF.tobytes(), headers)
            return np.frombuffer(body[-4 * C :], "<f4")

        yield ask


@asynccontextmanager
async def by_litserve(port: int, count: int) -> AsyncIterator[Ask]:
    turn = next(_turn)
    async with connected(port, count) as connections:

        async def ask(id: int, number: int, features_LF: np.ndarray) -> np.ndarray:
            body = json.dumps({
                "stream": turn * 1000 + id, "start": number == 0, "shape": features_LF.shape,
                "features": base64.b64encode(features_LF.tobytes()).decode(),
            }).encode()  # fmt: skip
            answer = await connections[id].post("/predict", body, "Content-Type: application/json\r\n")
            return np.array(json.loads(answer)["scores"])

        yield ask
