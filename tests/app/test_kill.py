"""Whatever is killed, and whenever: the labels are those of a stream that was never cut off. Against each store that survives it."""

import os
import random
import resource
import signal
import threading
import time
from contextlib import ExitStack

import httpx
import pytest

from benchmarks.sessions import RedisServer
from tests.app.conftest import free_port, launch
from tests.app.streaming import Camera, Told, going_on, whole
from tests.app.test_sessions import needs_redis

FRAMES = 90
"""7.2 s: three segments and a rest."""
TOGETHER = 25
"""Streams that each kill cuts off."""
RUNS = int(os.environ.get("CRT_TEST_KILLS", "200"))
"""Streams that are cut off by kill -9 of the service, for each store."""
SCENES = 5


@pytest.fixture(scope="module")
def unbroken(service):
    """Of each scene, what a stream is told that is never cut off."""
    return [whole(service.url, f"kill-unbroken-{seed}", FRAMES, seed=seed) for seed in range(SCENES)]


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_kill_9_at_any_moment_changes_no_label(model, unbroken, tmp_path, kind):
    """Each kill meets many streams, each at a place of its own."""
    rng = random.Random(kind)
    with ExitStack() as stack:
        settings = {"CRT_THREADS": "1"}
        if kind == "redis":
            needs_redis()
            (tmp_path / "redis").mkdir()
            server = stack.enter_context(RedisServer(tmp_path / "redis", "--appendfsync", "no"))
            settings["CRT_SESSIONS"] = f"redis://127.0.0.1:{server.port}/0"
        port = free_port()
        service = launch(model, tmp_path, port, **settings)
        stack.callback(lambda: (service.child.kill(), service.child.wait()))
        cut, round = 0, 0
        while cut < RUNS:
            told = [Told() for _ in range(TOGETHER)]
            threads = [
                threading.Thread(
                    target=going_on, args=(service.url, f"{round}-{i}", told[i], FRAMES),
                    kwargs={"seed": i % SCENES, "client": f"camera-{i}", "patience": 120},
                )
                for i in range(TOGETHER)
            ]  # fmt: skip
            for thread in threads:
                thread.start()
            # Some while in which the first segments are made, for a part of the streams or all.
            target = rng.randrange(1, 3 * TOGETHER)
            while sum(len(one.segments) for one in told) < target:
                time.sleep(0.002)
            time.sleep(rng.random() * 0.1)
            cut += sum(thread.is_alive() for thread in threads)
            service.child.send_signal(signal.SIGKILL)
            service.child.wait()
            service = launch(model, tmp_path, port, **settings)
            for i, thread in enumerate(threads):
                thread.join(180)
                assert not thread.is_alive()
                assert told[i].segments == unbroken[i % SCENES].segments, (round, i)
                assert told[i].events == unbroken[i % SCENES].events, (round, i)
            round += 1


def test_a_store_that_goes_away_for_ten_seconds_loses_nothing(model, unbroken, tmp_path):
    """Redis hangs, and then is killed and started again: the client is told, and goes on."""
    needs_redis()
    (tmp_path / "redis").mkdir()
    with RedisServer(tmp_path / "redis") as server:
        settings = {"CRT_THREADS": "1", "CRT_SESSIONS": f"redis://127.0.0.1:{server.port}/0"}
        service = launch(model, tmp_path, free_port(), **settings)
        try:
            camera = Camera(service.url, "away", client="me")
            camera.send(0, 40)
            camera.wait(lambda told: len(told.segments) == 1)
            server.kill()
            camera.send(40, 70)
            time.sleep(10)
            camera.wait(lambda told: told.of("error"))
            assert camera.told.of("error")[0]["code"] == "store_unavailable"
            assert not camera.told.of("error")[0]["fatal"]
            server.start()
            camera.wait(lambda told: len(told.segments) == 2, 30)
            camera.send(70, FRAMES)
            told = camera.end()
            assert told.segments == unbroken[0].segments
            assert told.events == unbroken[0].events
        finally:
            service.child.kill()
            service.child.wait()


def test_a_full_disk_is_a_clear_error_and_loses_nothing(model, unbroken, tmp_path):
    """The service may write no more; once it may again, the stream goes on."""
    service = launch(model, tmp_path, free_port(), CRT_THREADS="1")
    try:
        camera = Camera(service.url, "full", client="me")
        camera.send(0, 40)
        camera.wait(lambda told: len(told.segments) == 1)
        limits = resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        camera.send(40, 70)
        camera.wait(lambda told: told.of("error"))
        assert camera.told.of("error")[0]["code"] == "store_unavailable"
        answer = httpx.get(f"{service.url}/v1/streams/full")
        assert answer.json().get("segment", 1) == 1
        made = httpx.post(f"{service.url}/v1/streams", json={"id": "another"})
        assert (made.status_code, made.json()["code"]) == (503, "store_unavailable")
        resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE, limits)
        camera.wait(lambda told: len(told.segments) == 2, 40)
        camera.send(70, FRAMES)
        told = camera.end()
        assert told.segments == unbroken[0].segments
        assert told.events == unbroken[0].events
    finally:
        service.child.kill()
        service.child.wait()
