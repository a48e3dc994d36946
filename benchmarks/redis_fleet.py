"""Redis under a fleet: 100,000 stored sessions, and the commits of 10,000 live streams, each every 2 s and durable before it is answered.

A redis-server of the benchmark's own, over loopback, with appendfsync always as docker/ runs it. Sessions have 3.6 KB of state, as the bundled
model's, and one checkpoint. Memory is what Redis says of itself and the process's; commands, bytes on the network and the disk are
Redis's own counts. Rates are offered: a commit is due at its stream's own moment, and its latency counts from then, so that
waiting for a store that falls behind is seen. Two processes of clients, on the same cores as Redis.
"""

import asyncio
import contextlib
import multiprocessing
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
from redis import Redis

from app.sessions import open_store
from app.sessions.base import ANSWERS, Session
from app.sessions.redis import _SAVE, CONNECTIONS, _arguments
from benchmarks.harness import Row, note
from benchmarks.sessions import RedisServer

SESSIONS = 100_000
STREAMS = (1_000, 2_500, 5_000, 10_000)
SECONDS = 15.0
SEGMENT = 2.0
"""Seconds of a segment, at whose end a stream commits."""
PROCESSES = 2
BEGIN = 8.0
"""Seconds until all connections know their streams."""


def run() -> Iterable[Row]:
    if not shutil.which("redis-server"):
        note("  there is no redis-server on this machine")
        return
    with tempfile.TemporaryDirectory(dir=".", prefix=".redis-fleet-") as name, contextlib.ExitStack() as stack:
        server = stack.enter_context(RedisServer(Path(name)))
        redis = stack.enter_context(Redis(port=server.port))
        url = f"redis://127.0.0.1:{server.port}/0"
        assert server.process is not None
        process = psutil.Process(server.process.pid)
        empty, began = redis.info("memory")["used_memory"], time.perf_counter()
        _everywhere(_store, url, SESSIONS)
        filled = time.perf_counter() - began
        used = redis.info("memory")["used_memory"] - empty
        yield Row(metric=f"{SESSIONS:,} sessions, memory of Redis", value=used / 2**20, unit="MiB")
        yield Row(metric="one session", value=used / SESSIONS, unit="bytes")
        yield Row(metric="process", value=process.memory_info().rss / 2**20, unit="MiB")
        yield Row(metric="append-only file", value=_size(Path(name)) / 2**20, unit="MiB")
        yield Row(metric="sessions made", value=SESSIONS / filled, unit="1/s")
        server.kill()
        began = time.perf_counter()
        server.start()
        while redis.info("persistence")["loading"]:
            time.sleep(0.05)
        yield Row(metric="start with all of them", value=time.perf_counter() - began, unit="s")
        assert redis.zcard("crt:1:ids") == SESSIONS
        for streams in STREAMS:
            yield from _rate(url, redis, Path(name), streams)


def _rate(url: str, redis: "Redis", folder: Path, streams: int) -> Iterable[Row]:
    before, written, cpu = redis.info(), _size(folder), _cpu(redis)
    told = _everywhere(_commit, url, streams)
    after = redis.info()
    latencies = sorted(x for one in told for x in one[0])
    late = sum(one[1] for one in told)
    done = len(latencies)
    name = f"{streams:,} streams"
    yield Row(metric=f"{name}, commits offered", value=streams / SEGMENT, unit="1/s")
    yield Row(metric=f"{name}, commits durable", value=done / SECONDS, unit="1/s")
    yield Row(metric=f"{name}, commit, median", value=latencies[done // 2] * 1e3, unit="ms")
    yield Row(metric=f"{name}, commit, p95", value=latencies[int(0.95 * (done - 1))] * 1e3, unit="ms")
    yield Row(metric=f"{name}, not begun in time", value=late, unit="commits")
    yield Row(metric=f"{name}, processor time of Redis", value=(_cpu(redis) - cpu) / done * 1e3, unit="ms/commit")
    yield Row(
        metric=f"{name}, into Redis",
        value=(after["total_net_input_bytes"] - before["total_net_input_bytes"]) / done,
        unit="bytes/commit",
    )
    yield Row(metric=f"{name}, to disk", value=max(0, _size(folder) - written) / done, unit="bytes/commit")


def _cpu(redis: "Redis") -> float:
    told = redis.info("cpu")
    return float(told["used_cpu_sys"]) + float(told["used_cpu_user"])


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _everywhere(work: Callable[[str, int, int], Any], url: str, count: int) -> list[Any]:
    """The work on so many streams, shared out to processes."""
    with ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(work, [url] * PROCESSES, range(PROCESSES), [count // PROCESSES] * PROCESSES))


def _made(part: int, number: int) -> Session:
    now = time.time()
    return Session(
        f"camera-{part}-{number:06d}", 0, os.urandom(3600), f"sha256:{'0' * 64}", number, {"top_k": 5}, now, now, now + 86400
    )  # fmt: skip


def _store(url: str, part: int, count: int) -> None:
    async def store() -> None:
        async with open_store(url) as sessions:

            async def some(first: int) -> None:
                for number in range(first, count, 16):
                    made = _made(part, number)
                    await sessions.create(made)
                    await sessions.save(made, expected=0, checkpoint=made.state, keep=1)

            await asyncio.gather(*(some(first) for first in range(16)))

    asyncio.run(store())


def _commit(url: str, part: int, count: int) -> tuple[list[float], int]:
    """Latencies of the commits that were made, and how many that were due had not been begun at the end.

    The script, keys and bytes of RedisStore.save, by a client that does little else: one that does all that a service does would be the one
    that is measured.
    """
    host, port = url.removeprefix("redis://").split("/")[0].split(":")
    with Redis(host=host, port=int(port)) as redis:
        script = redis.script_load(_SAVE)
    made = _made(part, 0)
    latencies: list[float] = []
    left = 0

    async def connection(streams: Sequence[int]) -> None:
        nonlocal left
        reader, writer = await asyncio.open_connection(host, int(port))
        versions = dict.fromkeys(streams, 0)
        with Redis(host=host, port=int(port)) as redis:
            created = {}
            for number in streams:
                key = f"crt:1:session:camera-{part}-{number:06d}"
                found = redis.hmget(key, "version", "created")
                versions[number], created[number] = int(found[0]), float(found[1])
        await asyncio.sleep(max(0.0, BEGIN - (time.perf_counter() - loaded)))
        first = time.perf_counter()
        offsets = sorted((random.random() * SEGMENT, number) for number in streams)
        due = [
            (first + turn * SEGMENT + offset, number)
            for turn in range(int(SECONDS / SEGMENT))
            for offset, number in offsets
        ]
        for place, (moment, number) in enumerate(due):
            if time.perf_counter() > first + SECONDS + SEGMENT:
                left += len(due) - place
                break
            if (pause := moment - time.perf_counter()) > 0:
                await asyncio.sleep(pause)
            version = versions[number]
            session = replace(
                made,
                id=f"camera-{part}-{number:06d}",
                version=version + 1,
                segment=version + 1,
                created=created[number],
            )
            names = ("session", "ring", "ids", "expiries", "tombstones", "answers")
            keys = [
                f"crt:1:{one}:{session.id}" if one in ("session", "ring", "answers") else f"crt:1:{one}"
                for one in names
            ]
            told = ["", "", ANSWERS, version + 1, session.state]
            writer.write(_packed("EVALSHA", script, 6, *keys, *_arguments(session), version, version + 1, 1, *told))
            if await reader.readuntil(b"\r\n") != b":1\r\n":
                raise RuntimeError("a commit was not begun in time")
            versions[number] = version + 1
            latencies.append(time.perf_counter() - moment)
        writer.close()

    async def commit() -> None:
        share = [range(first, count, CONNECTIONS) for first in range(CONNECTIONS)]
        await asyncio.gather(*(connection(one) for one in share))

    loaded = time.perf_counter()
    asyncio.run(commit())
    return latencies, left


def _packed(*parts: object) -> bytes:
    """A command as Redis reads it (RESP)."""
    told = [part if isinstance(part, bytes) else str(part).encode() for part in parts]
    return b"".join([b"*%d\r\n" % len(told), *(b"$%d\r\n%s\r\n" % (len(one), one) for one in told)])
