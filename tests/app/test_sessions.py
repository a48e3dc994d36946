"""One suite for all stores of sessions, then what only those that last must do, then each one's own troubles.

Redis is a real server that the suite starts itself. Processes are real, and so is kill -9.
"""

import asyncio
import logging
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import tracemalloc
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import pytest
from redis import Redis

from app.sessions import open_store, without_password
from app.sessions.base import (
    ANSWER_BYTES,
    ANSWERS,
    OPTIONS_BYTES,
    STATE_BYTES,
    TOMBSTONE_SECONDS,
    Answer,
    BadStoreUrl,
    Session,
    SessionExists,
    SessionExpired,
    SessionStore,
    SessionTooLarge,
    SessionUnknown,
    StoreUnavailable,
    VersionConflict,
)
from app.sessions.redis import RedisStore
from app.sessions.sqlite import SqliteStore
from benchmarks.sessions import RedisServer, free_port

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parents[2]
LASTING = pytest.mark.parametrize("url", ["sqlite", "redis"], indirect=True)
"""Stores that several processes share and that outlive them."""

IDS = [
    "kitchen",
    "a/b/../c?d=e#f%2F",
    "Küche 🍳 台所",
    "x" * 200,
    " ",
    "\0\n'\";--",
    "*",
    "{tag}:1",
    "-",
    "+",
    "\u00e9",
    "e\u0301",
]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    needs_redis()
    # Quicker, and safe from kill -9 of the service, which is all that those tests do.
    with RedisServer(tmp_path_factory.mktemp("redis"), "--appendfsync", "no") as server:
        yield server


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that a test may maltreat."""
    needs_redis()
    with RedisServer(tmp_path) as server:
        yield server


def needs_redis() -> None:
    if not shutil.which("redis-server"):
        pytest.skip("redis-server is not installed")


@pytest.fixture(params=["memory", "sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of an empty store."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/deep/down/sessions.db"
    if request.param == "redis":
        server = request.getfixturevalue("redis_server")
        return f"redis://127.0.0.1:{server.port}/3?prefix={uuid.uuid4().hex}"
    return "memory://"


@pytest.fixture
async def store(url: str) -> AsyncIterator[SessionStore]:
    async with open_store(url) as store:
        yield store


def session(id: str = "kitchen", *, lives: float = 3600.0, state: bytes = b"0", **more: object) -> Session:
    """A new one, that lives for so many seconds."""
    now = time.time()
    return Session(id, 0, state, "sha256:1", 0, {}, now, now, now + lives, **more)


def following(read: Session) -> Session:
    """The next of a stream that counts in its state."""
    return replace(read, state=b"%d" % (int(read.state) + 1), segment=read.segment + 1, touched=time.time())


async def advance(store: SessionStore, read: Session, *, keep: int = 50) -> Session:
    after = following(read)
    return await store.save(after, expected=read.version, checkpoint=after.state, keep=keep)


async def answered(store: SessionStore, read: Session, *, key: str = "retry", body: bytes = b"{}") -> Session:
    """The same session with an answer beside it."""
    return await store.save(read, expected=read.version, answer=Answer(key, "sha256:2", body))


# Every store.


async def test_what_was_created_is_loaded_to_the_last_bit(store):
    """Times, options, bytes that are no text."""
    made = Session(
        "kitchen", 7, bytes(range(256)), "sha256:ü", 41, {"top_k": 5, "events": {"on": 0.1}, "x": [None, "ü"]},
        1e9 / 3, 1.7e9 + 1e-6, time.time() + 10 / 3, "me", 0.1, 1e10 / 7,
    )  # fmt: skip
    await store.create(made)
    assert await store.load("kitchen") == made


async def test_what_was_saved_is_loaded_with_the_next_version(store):
    """All fields but id and creation may change; save returns what load gives."""
    made = session()
    await store.create(made)
    changed = replace(
        made, version=99, state=b"\xff\0", model="sha256:2", segment=5, options={"a": 1}, touched=made.touched + 1,
        expires=made.expires + 1, owner="me", owner_since=1.5, lease_until=2.5,
    )  # fmt: skip
    written = await store.save(changed, expected=0)
    assert written == replace(changed, version=1) == await store.load("kitchen")


async def test_a_session_that_never_was_is_unknown(store):
    """To every question."""
    with pytest.raises(SessionUnknown, match="'attic'"):
        await store.load("attic")
    assert await store.checkpoint("attic", 0) is None
    assert list(await store.checkpoints("attic")) == []
    assert await store.delete("attic") is False
    assert list(await store.list(None, 10)) == []
    assert await store.count() == 0


async def test_a_session_is_made_once(store):
    """The second is told so, and the first stays."""
    made = session()
    await store.create(made)
    with pytest.raises(SessionExists, match="'kitchen'"):
        await store.create(session(state=b"other"))
    assert await store.load("kitchen") == made


async def test_of_two_writers_only_the_first_commits(store):
    """Both read version 0; the second is told so, and what the first wrote stays, in the ring as well."""
    made = session()
    await store.create(made)
    first = await store.save(replace(made, state=b"1", segment=1), expected=0, checkpoint=b"1", keep=9)
    with pytest.raises(VersionConflict, match="read version 0, the store has 1") as conflict:
        await store.save(replace(made, state=b"2", segment=2), expected=0, checkpoint=b"2", keep=9)
    assert (conflict.value.expected, conflict.value.found) == (0, 1)
    assert await store.load("kitchen") == first
    assert list(await store.checkpoints("kitchen")) == [1]


async def test_of_many_saves_at_once_each_counts_for_itself(store):
    """One that comes too late leaves nothing behind, neither of its state nor of its ring, and takes no other with it."""
    made = [session(f"camera-{n}") for n in range(40)]
    for one in made:
        await store.create(one)
    late = {3, 17, 39}
    for n in late:
        await store.save(replace(made[n], state=b"first"), expected=0)

    told = await asyncio.gather(
        *(store.save(replace(one, state=b"now", segment=1), expected=0, checkpoint=b"now", keep=9) for one in made),
        return_exceptions=True,
    )

    for n, (one, answer) in enumerate(zip(made, told, strict=True)):
        there, ring = await store.load(one.id), list(await store.checkpoints(one.id))
        if n in late:
            assert isinstance(answer, VersionConflict)
            assert (there.state, there.version, ring) == (b"first", 1, [])
        else:
            assert answer == there
            assert (there.state, there.version, ring) == (b"now", 1, [1])


async def test_a_writer_from_the_future_is_refused(store):
    """As after a store was put back to an older copy."""
    await store.create(session())
    with pytest.raises(VersionConflict, match="read version 3, the store has 0"):
        await store.save(session(), expected=3)


async def test_a_save_to_a_deleted_session_is_a_conflict_and_makes_none(store):
    """Nobody brings back what was forgotten."""
    made = session()
    await store.create(made)
    await store.delete("kitchen")
    with pytest.raises(VersionConflict, match="it is gone") as conflict:
        await store.save(made, expected=0, checkpoint=b"x", keep=9)
    assert conflict.value.found is None
    assert await store.count() == 0
    await store.create(session())
    assert list(await store.checkpoints("kitchen")) == []


async def test_a_writer_of_a_deleted_session_cannot_write_to_its_namesake(store):
    """Even if both have the same version."""
    old = session()
    await store.create(old)
    await store.delete("kitchen")
    new = replace(session(), created=old.created + 1e-6)
    await store.create(new)
    with pytest.raises(VersionConflict, match="deleted and made anew"):
        await store.save(replace(old, state=b"old"), expected=0)
    assert await store.load("kitchen") == new


async def test_of_many_tasks_one_wins_each_version_and_no_update_is_lost(store):
    """Twenty writers, ten successes each."""
    await store.create(session())
    won: list[int] = []

    async def writer() -> None:
        for _ in range(10):
            while True:
                read = await store.load("kitchen")
                await asyncio.sleep(random.random() / 1000)
                try:
                    won.append((await advance(store, read)).version)
                    break
                except VersionConflict:
                    pass

    await asyncio.gather(*(writer() for _ in range(20)))
    assert sorted(won) == list(range(1, 201))
    last = await store.load("kitchen")
    assert (last.version, last.state) == (200, b"200")
    assert list(await store.checkpoints("kitchen")) == list(range(151, 201))


async def test_cancelled_calls_leave_no_answer_to_others(store):
    """Each load gives its own session after a hundred saves were cancelled on their way."""
    for k in range(10):
        await store.create(session(f"s{k}", state=b"%d" % k))
    for k in range(100):
        saving = asyncio.ensure_future(store.save(await store.load(f"s{k % 10}"), expected=0))
        await asyncio.sleep(random.random() / 2000)
        saving.cancel()
        await asyncio.gather(saving, return_exceptions=True)
    for k in range(10):
        loaded = await store.load(f"s{k}")
        assert (loaded.id, loaded.state) == (f"s{k}", b"%d" % k)


async def test_the_ring_keeps_the_newest_checkpoints(store):
    """And gives each by its segment."""
    last = session()
    await store.create(last)
    for _ in range(12):
        last = await advance(store, last, keep=5)
    assert list(await store.checkpoints("kitchen")) == [8, 9, 10, 11, 12]
    assert await store.checkpoint("kitchen", 8) == b"8"
    assert await store.checkpoint("kitchen", 12) == b"12"
    assert await store.checkpoint("kitchen", 7) is None

    last = await advance(store, last, keep=2)
    assert list(await store.checkpoints("kitchen")) == [12, 13]
    last = await store.save(last, expected=last.version)  # no checkpoint: the ring stays
    assert list(await store.checkpoints("kitchen")) == [12, 13]
    last = await store.save(last, expected=last.version, checkpoint=b"again", keep=2)
    assert await store.checkpoint("kitchen", 13) == b"again"
    assert list(await store.checkpoints("kitchen")) == [12, 13]
    await advance(store, last, keep=0)
    assert list(await store.checkpoints("kitchen")) == []


async def test_equal_checkpoints_of_several_segments_are_kept_apart(store):
    """A stream in which nothing happens."""
    last = session()
    await store.create(last)
    for segment in range(1, 4):
        last = await store.save(replace(last, segment=segment), expected=last.version, checkpoint=b"same", keep=9)
    assert list(await store.checkpoints("kitchen")) == [1, 2, 3]
    assert await store.checkpoint("kitchen", 1) == b"same"


@pytest.mark.parametrize("checkpoint", [None, b"anew"])
async def test_a_session_that_was_rewound_has_no_checkpoints_of_its_dropped_future(store, checkpoint):
    """Whether or not the step back is kept itself."""
    last = session()
    await store.create(last)
    for _ in range(6):
        last = await advance(store, last, keep=4)
    last = await store.save(replace(last, segment=4, state=b"4"), expected=6, checkpoint=checkpoint, keep=4)
    assert list(await store.checkpoints("kitchen")) == [3, 4]
    assert await store.checkpoint("kitchen", 4) == (checkpoint or b"4")
    await advance(store, last, keep=4)
    assert list(await store.checkpoints("kitchen")) == [3, 4, 5]


async def test_delete_forgets_session_and_ring(store):
    """One made anew under the same id finds nothing."""
    made = session()
    await store.create(made)
    await advance(store, made)
    assert await store.delete("kitchen") is True
    with pytest.raises(SessionUnknown):
        await store.load("kitchen")
    assert list(await store.checkpoints("kitchen")) == []
    assert await store.checkpoint("kitchen", 1) is None
    assert await store.delete("kitchen") is False
    await store.create(session())
    assert list(await store.checkpoints("kitchen")) == []
    assert (await store.load("kitchen")).version == 0


async def test_sessions_are_listed_in_pages_by_id(store):
    """Each once, in the order of code points, without states."""
    for id in IDS:
        await store.create(session(id, state=b"much"))
    for k in range(12):  # more than a page
        await store.create(session(f"!{k}", lives=-1))
    assert await store.count() == len(IDS)
    seen: list[Session] = []
    while page := await store.list(seen[-1].id if seen else None, 5):
        assert len(page) <= 5
        seen += page
    assert [one.id for one in seen] == sorted(IDS)
    assert {one.state for one in seen} == {b""}
    assert replace(seen[0], state=b"much") == await store.load(seen[0].id)


@pytest.mark.parametrize("id", IDS, ids=lambda id: ascii(id)[:20])
async def test_an_id_may_have_any_characters(store, id):
    """And is not mistaken for another."""
    made = session(id)
    await store.create(made)
    await store.create(session(id + "2", state=b"7"))
    await advance(store, made)
    assert (await store.load(id)).id == id
    assert (await store.load(id + "2")).state == b"7"
    assert await store.checkpoint(id, 1) == b"1"
    assert await store.delete(id)
    assert [one.id for one in await store.list(None, 9)] == [id + "2"]


async def test_what_has_expired_is_told_from_what_never_was(store):
    """For a week."""
    made = session(lives=10)
    await store.create(made)
    await advance(store, made)
    await store.create(session("hall", lives=1000))
    now = made.expires
    assert list(await store.expire(now - 1)) == []
    assert list(await store.expire(now)) == ["kitchen"]
    assert list(await store.expire(now)) == []
    with pytest.raises(SessionExpired, match="'kitchen'") as expired:
        await store.load("kitchen")
    assert expired.value.code == "session_expired"
    assert list(await store.checkpoints("kitchen")) == []
    assert (await store.load("hall")).id == "hall"
    assert [one.id for one in await store.list(None, 9)] == ["hall"]
    assert await store.count() == 1

    assert list(await store.expire(now + TOMBSTONE_SECONDS + 1)) == ["hall"]
    with pytest.raises(SessionUnknown):
        await store.load("kitchen")


async def test_a_session_has_expired_on_time_though_nobody_has_cleared_it_away(store):
    """For every call; then its id is free."""
    made = session()
    await store.create(made)
    written = await advance(store, made)
    await store.save(replace(written, expires=time.time() - 0.001), expected=1)
    with pytest.raises(SessionExpired):
        await store.load("kitchen")
    with pytest.raises(VersionConflict, match="it is gone"):
        await store.save(written, expected=2)
    assert list(await store.checkpoints("kitchen")) == []
    assert await store.checkpoint("kitchen", 1) is None
    assert list(await store.list(None, 9)) == []
    assert await store.count() == 0
    assert await store.delete("kitchen") is False
    with pytest.raises(SessionUnknown):
        await store.load("kitchen")


async def test_delete_forgets_that_an_expired_session_ever_was(store):
    """Also after it was cleared away."""
    made = session()
    await store.create(made)
    await store.expire(made.expires)
    assert await store.delete("kitchen") is False
    with pytest.raises(SessionUnknown):
        await store.load("kitchen")


@pytest.mark.parametrize("cleared", [False, True])
async def test_an_expired_session_makes_room_for_a_new_one(store, cleared):
    """That has nothing of the old one."""
    made = session()
    await store.create(made)
    await store.save(replace(made, segment=1, expires=time.time() - 1), expected=0, checkpoint=b"old", keep=9)
    if cleared:
        await store.expire(time.time())
    await store.create(session(state=b"new"))
    assert (await store.load("kitchen")).state == b"new"
    assert list(await store.checkpoints("kitchen")) == []
    assert list(await store.expire(time.time())) == []
    await store.delete("kitchen")
    with pytest.raises(SessionUnknown):
        await store.load("kitchen")


async def test_a_save_gives_a_session_more_time(store):
    """What was to expire lives on."""
    made = session(lives=10)
    await store.create(made)
    await store.save(replace(made, expires=made.expires + 100), expected=0)
    assert list(await store.expire(made.expires + 1)) == []
    assert (await store.load("kitchen")).version == 1


async def test_a_state_takes_so_many_bytes_and_not_one_more(store):
    """Nor does a checkpoint; options take fewer. What is refused changes nothing."""
    made = session(state=b"x" * STATE_BYTES)
    await store.create(made)
    with pytest.raises(SessionTooLarge, match=f"{STATE_BYTES} bytes, these are {STATE_BYTES + 1}") as error:
        session(state=b"x" * (STATE_BYTES + 1))
    assert error.value.code == "session_too_large"
    with pytest.raises(SessionTooLarge, match="checkpoint"):
        await store.save(made, expected=0, checkpoint=b"x" * (STATE_BYTES + 1), keep=1)
    with pytest.raises(SessionTooLarge, match="options"):
        await store.save(replace(made, options={"a": "x" * OPTIONS_BYTES}), expected=0)
    assert await store.load("kitchen") == made
    assert list(await store.checkpoints("kitchen")) == []
    await store.save(made, expected=0, checkpoint=b"y" * STATE_BYTES, keep=1)
    assert await store.checkpoint("kitchen", 0) == b"y" * STATE_BYTES


async def test_options_are_the_stores_own(store):
    """Changing what was given or what was got changes nothing."""
    options = {"labels": ["Walk"]}
    await store.create(replace(session(), options=options))
    options["labels"].append("Fall")
    (await store.load("kitchen")).options["labels"].append("Fall")
    assert (await store.load("kitchen")).options == {"labels": ["Walk"]}
    with pytest.raises(ValueError, match="JSON"):
        await store.save(replace(session(), options={"a": float("nan")}), expected=0)


async def test_ten_thousand_idle_sessions_take_less_than_fifty_megabytes(url):
    """Of 3 KB each; and all are gone when they have expired."""
    quick = url + "?synchronous=normal" if url.startswith("sqlite") else url
    memory = url.startswith("memory")
    if memory:
        tracemalloc.start()
    try:
        async with open_store(quick) as store:
            before = tracemalloc.get_traced_memory()[0] if memory else await store.size()
            first = replace(session(lives=100, state=b""), options={"top_k": 5}, owner="replica-1", owner_since=1.5e9)
            for start in range(0, 10_000, 100):
                await asyncio.gather(
                    *(
                        store.create(replace(first, id=f"camera-{k:08}", state=random.randbytes(3000)))
                        for k in range(start, start + 100)
                    )
                )
            after = tracemalloc.get_traced_memory()[0] if memory else await store.size()
            assert 10_000 * 3000 < after - before < 50e6
            assert await store.count() == 10_000
            assert len(await store.expire(first.expires)) == 10_000
            assert await store.count() == 0
    finally:
        tracemalloc.stop()


# Stores that last, and several processes.

WRITER = """
import asyncio, contextlib, sys, time
from dataclasses import replace
from app.sessions import open_store
from app.sessions.base import Answer, Session, SessionExists, VersionConflict

async def main(url, wins):
    now = time.time()
    async with open_store(url) as store:
        with contextlib.suppress(SessionExists):
            await store.create(Session("kitchen", 0, b"0", "sha256:1", 0, {}, now, now, now + 3600))
        while wins:
            read = await store.load("kitchen")
            after = replace(read, state=b"%d" % (int(read.state) + 1), segment=read.segment + 1)
            told = Answer("newest", str(after.segment), after.state)
            try:
                written = await store.save(after, expected=read.version, checkpoint=after.state, keep=1000, answer=told)
            except VersionConflict:
                continue
            print(written.version, flush=True)
            wins -= 1

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


def writer(url: str, wins: int) -> subprocess.Popen[str]:
    """A process that commits so often to one session, and prints each version that was its own."""
    command = [sys.executable, "-c", WRITER, url, str(wins)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@LASTING
async def test_of_many_processes_one_wins_each_version_and_no_update_is_lost(url):
    """Four of them, on a store that none of them finds ready."""
    processes = [writer(url, 40) for _ in range(4)]
    won: list[int] = []
    for process in processes:
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        won += map(int, output.split())
    assert sorted(won) == list(range(1, 161))
    async with open_store(url) as store:
        last = await store.load("kitchen")
        assert (last.version, last.state) == (160, b"160")
        assert list(await store.checkpoints("kitchen")) == list(range(1, 161))


@LASTING
async def test_a_process_that_is_killed_has_lost_nothing_that_was_answered(url):
    """Six times in the midst of commits; state, checkpoint and answer never part."""
    answered = 0
    for round in range(6):
        process = writer(url, 10**9)
        first = process.stdout.readline()
        time.sleep(0.01 + random.random() / 5)
        process.kill()
        output = first + process.stdout.read()
        errors = process.communicate(timeout=60)[1]
        versions = [int(line) for line in output.splitlines(keepends=True) if line.endswith("\n")]
        assert versions, f"round {round}: ended before it was killed: {errors}"
        async with open_store(url) as store:
            last = await store.load("kitchen")
            assert last.version in (versions[-1], versions[-1] + 1)
            assert last.version > answered
            assert int(last.state) == last.segment == last.version
            assert await store.checkpoint("kitchen", last.segment) == last.state
            assert await store.answer("kitchen", "newest") == Answer("newest", str(last.segment), last.state)
            newest = range(max(1, last.version - 999), last.version + 1)
            assert list(await store.checkpoints("kitchen")) == list(newest)
        answered = last.version


@LASTING
async def test_what_was_saved_is_there_after_closing(url):
    """And for another process at once."""
    async with open_store(url) as one, open_store(url) as other:
        made = session()
        await one.create(made)
        assert await other.load("kitchen") == made
        written = await advance(one, made)
        with pytest.raises(VersionConflict):
            await advance(other, made)
    async with open_store(url) as again:
        assert await again.load("kitchen") == written
        assert await again.checkpoint("kitchen", 1) == b"1"


@LASTING
async def test_each_expired_session_is_told_to_one_sweeper_only(url):
    """More than fit into one step."""
    async with open_store(url) as one, open_store(url) as other:
        for k in range(250):
            await one.create(session(f"s{k:03}", lives=10))
        pages = await asyncio.gather(one.expire(time.time() + 11), other.expire(time.time() + 11))
        assert sorted([*pages[0], *pages[1]]) == [f"s{k:03}" for k in range(250)]


# Redis.


async def test_redis_that_is_killed_and_comes_back_has_lost_nothing(own_redis):
    """The writer is told store_unavailable, tries again as the interface says, and nothing is counted twice."""
    reasons: list[str] = []
    stop = asyncio.Event()
    async with RedisStore("127.0.0.1", own_redis.port, wait=0.5) as store:
        last = session(owner="me")
        await store.create(last)

        async def commit(after: Session) -> Session:
            try:
                return await store.save(after, expected=last.version, checkpoint=after.state, keep=9)
            except VersionConflict as conflict:
                found = await store.load("kitchen")
                mine = (found.owner, found.touched, found.state) == ("me", after.touched, after.state)
                if conflict.found != last.version + 1 or not mine:
                    raise
                return found

        async def write() -> None:
            nonlocal last
            after = following(last)
            while not stop.is_set():
                try:
                    last = await commit(after)
                    after = following(last)
                except StoreUnavailable as error:
                    reasons.append(str(error))
                    await asyncio.sleep(0.02)

        async def until_it_got_to(version: int) -> None:
            while last.version < version:
                assert not writing.done(), writing.exception()
                await asyncio.sleep(0.01)

        writing = asyncio.create_task(write())
        async with asyncio.timeout(60):
            for _ in range(2):
                await until_it_got_to(last.version + 30)
                own_redis.kill()
                answered, told = last.version, len(reasons)
                await asyncio.sleep(1.5)
                assert last.version <= answered + 1
                assert len(reasons) > told
                await asyncio.to_thread(own_redis.start)
                await until_it_got_to(last.version + 30)
            stop.set()
            await writing
        assert await store.load("kitchen") == last
        assert int(last.state) == last.version == last.segment
    assert all(re.search("cannot be reached|does not answer|is starting", reason) for reason in reasons)


async def test_redis_that_hangs_is_unavailable_within_seconds(own_redis):
    """And what was being written is there wholly or not at all when it wakes up."""
    async with RedisStore("127.0.0.1", own_redis.port, wait=0.5) as store:
        made = session()
        await store.create(made)
        os.kill(own_redis.process.pid, signal.SIGSTOP)
        try:
            start = time.monotonic()
            with pytest.raises(StoreUnavailable, match="does not answer"):
                await advance(store, made)
            with pytest.raises(StoreUnavailable):
                await store.load("kitchen")
            assert time.monotonic() - start < 5
        finally:
            os.kill(own_redis.process.pid, signal.SIGCONT)
        found = await store.load("kitchen")
        assert (found.version, found.state) in ((0, b"0"), (1, b"1"))
        assert len(await store.checkpoints("kitchen")) == found.version
        await advance(store, found)


async def test_a_save_that_redis_was_slow_to_answer_is_not_sent_again(own_redis):
    """The second would meet the first, and the writer be told of a conflict with itself."""
    async with RedisStore("127.0.0.1", own_redis.port, wait=0.5) as store:
        made = session()
        await store.create(made)
        os.kill(own_redis.process.pid, signal.SIGSTOP)
        asyncio.get_running_loop().call_later(0.9, os.kill, own_redis.process.pid, signal.SIGCONT)
        with pytest.raises(StoreUnavailable, match="does not answer"):
            await advance(store, made)
        await asyncio.sleep(0.6)


async def test_redis_without_memory_is_unavailable_and_keeps_what_it_has(own_redis):
    """Until it has some again."""
    with Redis(port=own_redis.port) as redis:
        async with RedisStore("127.0.0.1", own_redis.port) as store:
            made = session()
            await store.create(made)
            redis.config_set("maxmemory", 1)
            with pytest.raises(StoreUnavailable, match="no memory left"):
                await advance(store, made)
            assert await store.load("kitchen") == made
            redis.config_set("maxmemory", 0)
            assert (await advance(store, made)).version == 1


async def test_redis_that_forgot_its_scripts_is_taught_them_again(redis_server):
    """As after a restart or a failover."""
    async with RedisStore("127.0.0.1", redis_server.port, prefix=uuid.uuid4().hex) as store:
        made = session()
        await store.create(made)
        written = await advance(store, made)
        with Redis(port=redis_server.port) as redis:
            redis.script_flush()
        assert (await advance(store, written)).version == 2


async def test_a_session_that_redis_dropped_is_unknown_and_the_log_says_why(redis_server, caplog):
    """It did not expire: Redis is set to throw away what it was given."""
    prefix = uuid.uuid4().hex
    async with RedisStore("127.0.0.1", redis_server.port, prefix=prefix) as store:
        made = session()
        await store.create(made)
        await advance(store, made)
        with Redis(port=redis_server.port) as redis:
            assert redis.delete(f"{prefix}:1:session:kitchen")
        with pytest.raises(SessionUnknown):
            await store.load("kitchen")
        await store.create(session())
        assert list(await store.checkpoints("kitchen")) == []
    assert "noeviction" in caplog.text


async def test_redis_expires_all_of_a_session_by_itself(redis_server):
    """Nothing of a home stays there because a service was switched off."""
    prefix = uuid.uuid4().hex
    made = session(lives=100)
    async with RedisStore("127.0.0.1", redis_server.port, prefix=prefix) as store:
        await store.create(made)
        written = await advance(store, await answered(store, made))
        with Redis(port=redis_server.port) as redis:
            for key in ("session", "ring", "answers"):
                assert redis.pexpiretime(f"{prefix}:1:{key}:kitchen") == round(made.expires * 1000)
            await store.save(replace(written, expires=made.expires + 5), expected=2)
            for key in ("session", "ring", "answers"):
                assert redis.pexpiretime(f"{prefix}:1:{key}:kitchen") == round((made.expires + 5) * 1000)


async def test_nothing_of_expired_sessions_stays_in_redis(redis_server):
    """Once they are no longer told from unknown ones."""
    prefix = uuid.uuid4().hex
    async with RedisStore("127.0.0.1", redis_server.port, prefix=prefix) as store:
        made = session()
        await store.create(made)
        await advance(store, await answered(store, made))
        await store.expire(made.expires)
        await store.expire(made.expires + TOMBSTONE_SECONDS + 1)
    with Redis(port=redis_server.port) as redis:
        assert redis.keys(f"{prefix}*") == []


async def test_a_wrong_password_is_told_and_the_password_is_not(tmp_path, caplog):
    """In no message and no log."""
    needs_redis()
    caplog.set_level(logging.DEBUG)
    with RedisServer(tmp_path, "--requirepass", "open-sesame") as server:
        async with open_store(f"redis://:open-barley@127.0.0.1:{server.port}/0") as store:
            with pytest.raises(StoreUnavailable, match="user or password") as error:
                await store.load("kitchen")
            assert "barley" not in f"{error.value!r} {error.value.__cause__!r} {store!r} {vars(store)!r} {caplog.text}"
        async with open_store(f"redis://:open%2Dsesame@127.0.0.1:{server.port}/0") as store:
            await store.create(session())
    assert "session store redis 127.0.0.1" in caplog.text


async def test_where_no_redis_is_the_store_is_unavailable():
    """From the first call on, which is soon enough."""
    async with RedisStore("127.0.0.1", free_port(), wait=0.5) as store:
        for call in (store.load("x"), store.create(session()), store.count(), store.expire(0), store.list(None, 1)):
            with pytest.raises(StoreUnavailable, match="cannot be reached"):
                await call


async def test_redis_speaks_tls(tmp_path):
    """With a certificate of one's own; without it, it is not trusted."""
    needs_redis()
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed, which makes the certificate")
    key, certificate, port = tmp_path / "key.pem", tmp_path / "cert.pem", free_port()
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    options = ("--tls-port", str(port), "--tls-cert-file", str(certificate), "--tls-key-file", str(key))
    with ExitStack() as stack:
        try:
            stack.enter_context(RedisServer(tmp_path, *options, "--tls-auth-clients", "no"))
        except RuntimeError as error:
            pytest.skip(f"this redis-server has no TLS: {error}")
        async with open_store(f"rediss://127.0.0.1:{port}/0?ca={certificate}") as store:
            await store.create(session())
            assert (await store.load("kitchen")).version == 0
        async with open_store(f"rediss://127.0.0.1:{port}/0") as store:
            with pytest.raises(StoreUnavailable, match="cannot be reached"):
                await store.load("kitchen")


# SQLite.


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("only root may mount a small disk, and not everywhere")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


async def test_a_full_disk_is_told_and_costs_nothing_that_was_answered(small_disk):
    """With room again, it goes on."""
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * 1_200_000)
    async with SqliteStore(small_disk / "sessions.db") as store:
        last = session()
        await store.create(last)
        error = None
        for _ in range(1000):
            after = replace(following(last), options={})
            try:
                last = await store.save(after, expected=last.version, checkpoint=random.randbytes(4000), keep=1000)
            except StoreUnavailable as full:
                error = full
                break
        assert error is not None
        assert "no room left" in str(error) or "is full" in str(error)
        assert str(small_disk) not in str(error)  # clients need not know
        assert last.version > 10
        assert await store.load("kitchen") == last
        assert list(await store.checkpoints("kitchen")) == list(range(1, last.version + 1))
        filler.unlink()
        last = await advance(store, last, keep=1000)
    async with SqliteStore(small_disk / "sessions.db") as store:
        assert await store.load("kitchen") == last
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    async with SqliteStore(small_disk / "sessions.db") as store:
        with pytest.raises(StoreUnavailable, match=r"[Rr]ead-only"):
            await advance(store, last)


async def test_a_locked_file_is_unavailable_until_it_is_free(tmp_path):
    """Reading goes on."""
    async with SqliteStore(tmp_path / "sessions.db", wait=0.1) as store:
        made = session()
        await store.create(made)
        with closing(sqlite3.connect(tmp_path / "sessions.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreUnavailable, match="locked by another process"):
                await advance(store, made)
            assert await store.load("kitchen") == made
            other.execute("ROLLBACK")
        assert (await advance(store, made)).version == 1


async def test_a_writer_waits_for_another(tmp_path):
    """Rather than fail at once."""
    async with SqliteStore(tmp_path / "sessions.db", wait=10) as store:
        made = session()
        await store.create(made)
        with closing(sqlite3.connect(tmp_path / "sessions.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            saving = asyncio.create_task(advance(store, made))
            await asyncio.sleep(0.2)
            assert not saving.done()
            other.execute("ROLLBACK")
        assert (await saving).version == 1


async def test_a_damaged_file_is_unavailable_and_says_what_to_do(tmp_path):
    """Rather than read nonsense."""
    path = tmp_path / "sessions.db"
    async with SqliteStore(path) as store:
        for k in range(50):
            await store.create(session(f"s{k}", state=b"x" * 3000))
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + random.Random(1).randbytes(len(whole) - 4096))
    async with SqliteStore(path) as store:
        with pytest.raises(StoreUnavailable, match="is damaged: move the file away"):
            await store.load("s7")
        path.write_bytes(whole)
        assert (await store.load("s7")).state == b"x" * 3000


async def test_a_file_that_is_no_store_of_sessions_is_left_alone(tmp_path):
    """Text, another program's database, one of a later version and one of an earlier, a folder."""
    text, other, later, earlier, folder = (tmp_path / name for name in ("text", "other", "later", "earlier", "folder"))
    text.write_text("Not a database, but some text of more than a hundred bytes, so that it has a header. " * 9)
    folder.mkdir()
    with closing(sqlite3.connect(other)) as database:
        database.execute("CREATE TABLE accounts (name TEXT)")
    for path, schema in ((later, 9), (earlier, 1)):
        async with SqliteStore(path) as store:
            await store.create(session())
        with closing(sqlite3.connect(path)) as database:
            database.execute(f"PRAGMA user_version = {schema}")
    for path, words in (
        (text, "is no database"),
        (other, "another program's database"),
        (later, "has schema 9, this version of the service knows 2"),
        (earlier, "has schema 1, this version of the service knows 2"),
        (folder, "cannot be opened: Is a directory"),
    ):
        before = path.read_bytes() if path.is_file() else b""
        async with SqliteStore(path) as store:
            with pytest.raises(StoreUnavailable, match=words):
                await store.create(session())
        # The other program's file is put into WAL mode at most.
        assert path.is_dir() or path.read_bytes()[100:] == before[100:]


async def test_a_file_that_was_removed_is_missed(tmp_path):
    """Commits into a file without a name would be lost; a new one is made instead."""
    path = tmp_path / "sessions.db"
    async with SqliteStore(path) as store:
        made = session()
        await store.create(made)
        for file in tmp_path.glob("sessions.db*"):
            file.unlink()
        with pytest.raises(StoreUnavailable, match="was removed or replaced"):
            await advance(store, made)
        with pytest.raises(VersionConflict, match="it is gone"):
            await advance(store, made)
        await store.create(session())
    async with SqliteStore(path) as store:
        assert (await store.load("kitchen")).version == 0


async def test_only_the_owner_may_read_the_file(tmp_path):
    """Nor its log, nor the folder made for it; whatever the umask."""
    umask = os.umask(0)
    try:
        async with SqliteStore(tmp_path / "var" / "sessions.db") as store:
            await store.create(session())
            modes = {file.name: file.stat().st_mode & 0o777 for file in (tmp_path / "var").iterdir()}
    finally:
        os.umask(umask)
    assert modes == {"sessions.db": 0o600, "sessions.db-wal": 0o600, "sessions.db-shm": 0o600}
    assert (tmp_path / "var").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("how", ["delete", "expire"])
async def test_what_was_forgotten_is_in_no_file(tmp_path, how):
    """Not in the database's free pages, nor in its log; nor are earlier states and answers."""
    async with SqliteStore(tmp_path / "sessions.db") as store:
        secrets = [random.randbytes(2000) for _ in range(5)]
        made = session(state=secrets[0])
        await store.create(made)
        last = await store.save(replace(made, state=secrets[1], segment=1), expected=0, checkpoint=secrets[2], keep=9)
        for body in secrets[3:]:
            last = await answered(store, last, body=body)

        def found() -> list[bool]:
            files = b"".join(file.read_bytes() for file in tmp_path.glob("sessions.db*"))
            return [secret[:500] in files for secret in secrets]

        assert found() == [True] * 5
        await (store.delete("kitchen") if how == "delete" else store.expire(made.expires))
        assert found() == [False] * 5


@pytest.mark.parametrize(("parameter", "value"), [("", 2), ("?synchronous=full", 2), ("?synchronous=normal", 1)])
async def test_a_parameter_chooses_how_safe_from_power_cuts_a_commit_is(tmp_path, parameter, value):
    """By default it is."""
    async with open_store(f"sqlite:///{tmp_path}/sessions.db{parameter}") as store:
        assert await store._do(lambda connection: connection.execute("PRAGMA synchronous").fetchone()) == (value,)


async def test_the_log_says_when_an_outage_begins_and_ends_and_nothing_between(tmp_path, caplog):
    """With the path that clients are not told."""
    path = tmp_path / "sessions.db"
    path.write_text("no database" * 100)
    async with SqliteStore(path) as store:
        for _ in range(3):
            with pytest.raises(StoreUnavailable) as error:
                await store.load("kitchen")
        path.unlink()
        for _ in range(2):
            with pytest.raises(SessionUnknown):
                await store.load("kitchen")
    assert str(path) not in str(error.value)
    assert [str(path) in record.message for record in caplog.records] == [True, True]
    assert caplog.records[1].message.endswith("is back")


# URLs and errors.


def test_a_path_is_relative_with_three_slashes_and_absolute_with_four(tmp_path, monkeypatch):
    """As SQLAlchemy has it."""
    monkeypatch.chdir(tmp_path)
    assert open_store("sqlite:///var/a%20b.db")._path == tmp_path / "var" / "a b.db"
    assert open_store("sqlite:////var/lib/sessions.db")._path == Path("/var/lib/sessions.db")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "give memory://, sqlite:///relative/path.db"),
        ("sessions.db", "give memory://"),
        ("postgres://host/db", "names no store of sessions; give memory://"),
        ("memory://name", "give memory://"),
        ("memory://?a=b", "no parameter 'a'"),
        ("sqlite://var/sessions.db", "sqlite:///relative/path.db"),
        ("sqlite:///", "names no file"),
        ("sqlite:///var/", "names no file"),
        ("sqlite:///:memory:", "memory:// for none"),
        ("sqlite:///a.db?sync=full", "synchronous=full|normal"),
        ("sqlite:///a.db?synchronous=off", "give full or normal"),
        ("sqlite:///a#b.db", "%23"),
        ("redis://", "redis://host:6379/0"),
        ("redis:///0", "redis://host:6379/0"),
        ("redis://host/sessions", "database's number"),
        ("redis://host:port/0", "host or port is malformed"),
        ("redis://host/0?ca=x", "prefix=NAME"),
        ("redis://host/0?prefix=a b", "letters, digits"),
        ("rediss://host/0?verify=no", "ca=FILE"),
    ],
)
def test_a_bad_url_is_told_what_is_right(url, words):
    """By the code store_url_bad."""
    with pytest.raises(BadStoreUrl) as error:
        open_store(url)
    assert words in str(error.value)
    assert error.value.code == "store_url_bad"


@pytest.mark.parametrize(
    "url",
    [
        "redsi://user:s3cret@host/0",
        "redis://:s3cret@host/x",
        "redis://:s3cret@/0",
        "redis://:s3/cret@host",
        "redis://u:pa@s3cret@host:x/0",
        "redis://u:s3#cret@host/0",
        "redis://u:s3?cret@host/0",
        "redis://u:12s3cret/@host:1/0",
    ],
)
def test_no_message_about_a_url_has_its_password(url):
    """However it is malformed."""
    with pytest.raises(BadStoreUrl) as error:
        open_store(url)
    assert "cret" not in str(error.value)
    assert "s3" not in str(error.value)
    assert "s3" not in without_password(url)


def test_sessions_have_times_in_seconds_and_ids_that_can_be_written():
    """What no store could keep is refused when it is made."""
    for wrong in (
        {"id": ""}, {"id": "\ud800"}, {"version": -1}, {"segment": -1}, {"expires": 1.7e12}, {"touched": float("nan")},
        {"expires": float("inf")}, {"owner_since": -1.0},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"no session has|seconds since 1970|surrogates"):
            replace(session(), **wrong)


async def test_one_save_can_bring_many_checkpoints(store):
    """An hour's at once: the newest are kept, in their order; later ones of before are dropped."""
    made = session()
    await store.create(made)
    last = await store.save(replace(made, segment=1), expected=0, checkpoint=b"1", keep=5)
    earlier = {n: str(n).encode() for n in range(2, 1800)}
    last = await store.save(replace(last, segment=1800), expected=1, checkpoint=b"1800", keep=5, earlier=earlier)
    assert list(await store.checkpoints("kitchen")) == [1796, 1797, 1798, 1799, 1800]
    assert await store.checkpoint("kitchen", 1797) == b"1797"
    last = await store.save(replace(last, segment=1799), expected=2, checkpoint=b"new", keep=5, earlier={1798: b"n8"})
    assert [await store.checkpoint("kitchen", n) for n in (1797, 1798, 1799, 1800)] == [b"1797", b"n8", b"new", None]
    last = await store.save(replace(last, segment=1802), expected=3, checkpoint=b"o", keep=0, earlier={1801: b"x"})
    assert list(await store.checkpoints("kitchen")) == []
    for wrong in ({1802: b"x"}, {0: b"x"}, {1900: b"x"}):
        with pytest.raises(ValueError, match="before the session's"):
            await store.save(last, expected=4, checkpoint=b"x", keep=5, earlier=wrong)
    with pytest.raises(ValueError, match="come with its own"):
        await store.save(last, expected=4, keep=5, earlier={5: b"x"})
    with pytest.raises(SessionTooLarge):
        await store.save(last, expected=4, checkpoint=b"x", keep=5, earlier={5: bytes(STATE_BYTES + 1)})


@pytest.mark.parametrize("keep", [1, 3, 5, 7, 50])
@pytest.mark.parametrize("new", [[6], [4, 6], [6, 7, 8, 9], [2, 3, 4], [3, 9], [12, *range(13, 30)]])
async def test_new_checkpoints_replace_those_from_the_first_of_them_on(store, new, keep):
    """In rings that are full, half full, growing and shrinking: what was kept after it was of a future that is dropped."""
    last = session()
    await store.create(last)
    for _ in range(6):
        last = await advance(store, last, keep=5)
    earlier = {n: b"new %d" % n for n in new}
    own = earlier.pop(new[-1])
    await store.save(replace(last, segment=new[-1]), expected=6, checkpoint=own, keep=keep, earlier=earlier)
    kept = {n: b"%d" % n for n in range(2, 7) if n < new[0]} | earlier | {new[-1]: own}
    assert list(await store.checkpoints("kitchen")) == sorted(kept)[-keep:]
    for n in sorted(kept)[-keep:]:
        assert await store.checkpoint("kitchen", n) == kept[n]


async def test_answers_are_kept_beside_the_session(store):
    """The newest few, by their keys; a key again replaces; gone with the session."""
    made = session()
    await store.create(made)
    assert await store.answer("kitchen", "a") is None
    assert await store.answer("nowhere", "a") is None
    last = made
    bodies = [bytes([i]) * 1000 + b"\n\x00" for i in range(ANSWERS + 3)]
    for i, body in enumerate(bodies):
        last = await store.save(last, expected=i, answer=Answer(f"key {i}: \u00e9", f"r{i}", body))
    found = [await store.answer("kitchen", f"key {i}: \u00e9") for i in range(len(bodies))]
    assert found == [None] * 3 + [Answer(f"key {i}: \u00e9", f"r{i}", bodies[i]) for i in range(3, len(bodies))]
    last = await store.save(last, expected=last.version, answer=Answer("key 5: \u00e9", "new", b""))
    assert (await store.answer("kitchen", "key 5: \u00e9")).request == "new"
    assert await store.answer("kitchen", "key 3: \u00e9") is not None
    last = await store.save(last, expected=last.version)
    assert (await store.answer("kitchen", "key 5: \u00e9")).body == b""
    with pytest.raises(VersionConflict):
        await store.save(last, expected=0, answer=Answer("lost", "", b""))
    assert await store.answer("kitchen", "lost") is None
    for i in range(ANSWERS - 1):  # what replaced is as new as any
        last = await answered(store, last, key=str(i))
    assert await store.answer("kitchen", "key 5: \u00e9") == Answer("key 5: \u00e9", "new", b"")
    last = await answered(store, last)
    assert await store.answer("kitchen", "key 5: \u00e9") is None
    assert await store.delete("kitchen")
    assert await store.answer("kitchen", "retry") is None
    await store.create(session())
    assert await store.answer("kitchen", "retry") is None


async def test_an_answer_may_have_any_key_and_is_not_mistaken_for_another(store):
    """Also the longest and the largest; another session has its own."""
    await store.create(session("hall"))
    last = session()
    await store.create(last)
    keys = ["a", "a:", "1:a", "aa", "\0\r'\";--", "*", "\u00e9" * 255, "e\u0301"]
    assert len(keys) == ANSWERS
    for n, key in enumerate(keys):
        last = await answered(store, last, key=key, body=bytes([n]) * ANSWER_BYTES)
    for n, key in enumerate(keys):
        assert await store.answer("kitchen", key) == Answer(key, "sha256:2", bytes([n]) * ANSWER_BYTES)
        assert await store.answer("hall", key) is None
    assert await store.answer("kitchen", "A") is None


@pytest.mark.parametrize("cleared", [False, True])
async def test_answers_expire_with_their_session(store, cleared):
    """On time; one made anew under the same id has none of them."""
    made = session()
    await store.create(made)
    last = await answered(store, made)
    await answered(store, replace(last, expires=time.time() - 0.001), key="late")
    if cleared:
        await store.expire(time.time())
    for _ in range(2):
        assert await store.answer("kitchen", "retry") is None
        assert await store.answer("kitchen", "late") is None
        await (store.create(session()) if await store.count() == 0 else store.load("kitchen"))


async def test_what_comes_with_a_save_is_written_with_it_or_not_at_all(store):
    """Whether the version is another's, or something is too large."""
    made = session()
    await store.create(made)
    after, told = replace(made, state=b"3", segment=3), Answer("a", "", b"1")
    last = await store.save(after, expected=0, checkpoint=b"3", earlier={2: b"2"}, keep=9, answer=told)
    more, other = {4: b"x", 5: b"y"}, Answer("a", "", b"2")
    with pytest.raises(VersionConflict):
        await store.save(replace(last, segment=6), expected=0, checkpoint=b"z", earlier=more, keep=9, answer=other)
    with pytest.raises(SessionTooLarge):
        await store.save(
            replace(last, segment=6),
            expected=1,
            checkpoint=b"z" * (STATE_BYTES + 1),
            earlier=more,
            keep=9,
            answer=other,
        )
    assert await store.load("kitchen") == last
    assert list(await store.checkpoints("kitchen")) == [2, 3]
    assert await store.answer("kitchen", "a") == told


def test_an_answer_has_a_key_and_is_not_huge():
    """What no store could keep is refused when it is made."""
    for key, request in (("", "x"), ("k" * 256, "x"), ("k", "r" * 129), ("a\nb", "x"), ("\ud800", "x")):
        with pytest.raises(ValueError, match=r"no answer has|surrogates"):
            Answer(key, request, b"")
    with pytest.raises(SessionTooLarge):
        Answer("k", "r", bytes(ANSWER_BYTES + 1))
