"""One commit of a session (3.6 KB, with its checkpoint in a ring of 1,000) in each store, against the bare store; the size of 10,000.

Wall clock of one save after the other, each store in turns with its peer, so that a slow moment of the machine meets both. The peer of
sqlite is one UPDATE of as many bytes in a transaction with the same synchronous, by sqlite3 in this thread; that of redis one SET
by redis-py. `full` and redis wait for the disk at each commit, so their figures are the disk's. Redis is a server of the benchmark's own,
with appendfsync always, over loopback; without redis-server its rows are left out. A state of the bundled model has 3.6 KB.
"""

import asyncio
import contextlib
import itertools
import os
import shutil
import socket
import sqlite3
import statistics
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Self

from redis.asyncio import Redis

from app.sessions import open_store
from app.sessions.base import Session, SessionStore
from benchmarks.harness import Row, note

STATES = itertools.cycle([os.urandom(3600) for _ in range(16)])
"""Never the same twice in a row: SQLite does not write what is there already."""
RING = 1000
IDLE = 10_000
"""Sessions whose size in the store is measured."""


class RedisServer:
    """A redis-server of one's own on a free port, that keeps what it answered in a folder. A context manager."""

    def __init__(self, folder: Path, *options: str) -> None:
        """options: more arguments of redis-server. Raises FileNotFoundError where there is none."""
        self._folder, self._options = folder, options
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it answers. Raises RuntimeError if it ends instead."""
        with (self._folder / "redis.log").open("ab") as output:
            self.process = subprocess.Popen(
                ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes",
                 "--appendfsync", "always", "--dir", str(self._folder), *self._options],
                stdout=output, stderr=output,
            )  # fmt: skip
        for _ in range(500):
            if self.process.poll() is not None:
                break
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                connection.sendall(b"PING\r\n")
                # It may ask for a password, but no longer be reading its files.
                if connection.recv(64).startswith((b"+PONG", b"-NOAUTH")):
                    return
            time.sleep(0.02)
        raise RuntimeError(f"redis-server did not start: {(self._folder / 'redis.log').read_text()[-500:]}")

    def kill(self) -> None:
        """By SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def free_port() -> int:
    """A TCP port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def run(commits: int = 1000) -> Iterable[Row]:
    """commits: how many of each are timed."""
    with tempfile.TemporaryDirectory(dir=".", prefix=".sessions-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)  # not /tmp, which may be memory
        redis = None
        if shutil.which("redis-server"):
            redis = stack.enter_context(RedisServer(folder))
        else:
            note("  redis: no redis-server on this machine")
        return asyncio.run(_measure(folder.absolute(), redis, commits))


async def _measure(folder: Path, redis: RedisServer | None, commits: int) -> list[Row]:
    urls = {
        "memory": "memory://",
        "sqlite full": f"sqlite:///{folder}/full.db",
        "sqlite normal": f"sqlite:///{folder}/normal.db?synchronous=normal",
    }
    peers = {name: _bare_sqlite(folder / f"bare-{name[7:]}.db", name[7:]) for name in urls if name[7:]}
    bare = None
    if redis:
        urls["redis"] = f"redis://127.0.0.1:{redis.port}/0"
        bare = Redis(port=redis.port)
        peers["redis"] = lambda: bare.set("bare", next(STATES))
    async with contextlib.AsyncExitStack() as stack:
        if bare:
            stack.push_async_callback(bare.aclose)
        works: dict[str, Callable[[], Awaitable[object]]] = {}
        for name, url in urls.items():
            store = await stack.enter_async_context(open_store(url))
            works[name] = await _committing(store)
            for _ in range(RING):  # a full ring drops its oldest checkpoint at each commit
                await works[name]()
        idle = [await _idle(name, url) for name, url in urls.items() if name in ("sqlite full", "redis")]
        rows: list[Row] = []
        for name, work in works.items():
            ours, *bare_times = await _timed([work, *([peers[name]] if name in peers else [])], commits)
            rows += _rows(name, ours, bare_times[0] if bare_times else None)
    return rows + idle


def _rows(name: str, ours: list[float], bare: list[float] | None) -> Iterable[Row]:
    for what, of in (("median", statistics.median), ("p95", _p95)):
        peer = None if bare is None else f"bare {name}, {of(bare):.3g} ms"
        yield Row(
            metric=f"{name}, commit, {what}",
            value=of(ours),
            unit="ms",
            peer=peer,
            ratio=None if bare is None else of(ours) / of(bare),
        )


async def _idle(name: str, url: str) -> Row:
    """The store's growth by IDLE sessions, a store of its own for sqlite."""
    if name.startswith("sqlite"):
        url = url.replace("full.db", "idle.db?synchronous=normal")
    now = time.time()
    async with open_store(url) as store:
        before = await store.size()
        for i in range(IDLE):
            session = Session(
                f"camera-{i:05d}", 0, next(STATES), f"sha256:{'0' * 64}", i, {"top_k": 5}, now, now, now + 86400
            )
            await store.create(session)
        grown = await store.size() - before
        for i in range(IDLE if name == "redis" else 0):
            await store.delete(f"camera-{i:05d}")
    return Row(metric=f"{name.split()[0]}, {IDLE:,} idle sessions", value=grown / 2**20, unit="MiB")


async def _committing(store: SessionStore) -> Callable[[], Awaitable[object]]:
    now = time.time()
    session = Session(
        "bench", 0, next(STATES), "sha256:0", 0, {"top_k": 5}, now, now, now + 3600, "bench", now, now + 30
    )
    await store.create(session)

    async def commit() -> None:
        nonlocal session
        after = replace(session, state=next(STATES), segment=session.segment + 1, touched=time.time())
        session = await store.save(after, expected=session.version, checkpoint=after.state, keep=RING)

    return commit


def _bare_sqlite(path: Path, synchronous: str) -> Callable[[], Awaitable[object]]:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    connection.execute("CREATE TABLE bare (id TEXT PRIMARY KEY, state BLOB)")
    connection.execute("INSERT INTO bare VALUES ('bench', ?)", (next(STATES),))

    async def commit() -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("UPDATE bare SET state = ? WHERE id = 'bench'", (next(STATES),))
        connection.execute("COMMIT")

    return commit


async def _timed(works: list[Callable[[], Awaitable[object]]], turns: int) -> list[list[float]]:
    """Milliseconds of each call."""
    taken: list[list[float]] = [[] for _ in works]
    for _ in range(turns):
        for times, work in zip(taken, works, strict=True):
            start = time.perf_counter()
            await work()
            times.append((time.perf_counter() - start) * 1e3)
    return taken


def _p95(times: list[float]) -> float:
    return sorted(times)[int(0.95 * (len(times) - 1))]
