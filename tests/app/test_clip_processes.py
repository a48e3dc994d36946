"""Pictures and clips by processes of their own give what this process would, whatever becomes of those."""

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Awaitable, Callable, Iterator

import cv2
import numpy as np
import psutil
import pytest
from websockets.exceptions import InvalidStatus

from app.clip_processes import ClipProcesses
from app.metrics import Metrics
from models import checkpoint
from pipelines.pictures import BadPicture, decode_picture
from pipelines.recognizer import Recognizer
from tests.app.conftest import running
from tests.app.streaming import Camera, encoded, picture, whole
from tests.processes import children

FRAMES = 600


@pytest.fixture(scope="module")
def recognizer(model) -> Recognizer:
    return Recognizer(checkpoint.read(model), threads=1)


def using(recognizer: Recognizer, work: Callable[[ClipProcesses], Awaitable[None]], *, streams: int = 8) -> Metrics:
    """Does it with two processes."""
    metrics = Metrics()

    async def run() -> None:
        async with asyncio.timeout(120), ClipProcesses(recognizer, metrics, processes=2, streams=streams) as processes:
            await work(processes)

    asyncio.run(run())
    return metrics


def workers(of: psutil.Process | None = None) -> list[psutil.Process]:
    """The processes that work on pictures and clips, without the one that forked them."""
    found = []
    for parent in children(of or psutil.Process(), "pipelines.clip_worker", recursive=True):
        found += children(parent, "pipelines.clip_worker")
    return found


@contextlib.contextmanager
def killing(whom: Callable[[], list[psutil.Process]], *, every: float) -> Iterator[None]:
    """Kills them again and again, as if each had crashed at what it was doing."""
    over = threading.Event()

    def kill() -> None:
        while not over.wait(every):
            for one in whom():
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        yield
    finally:
        over.set()
        killer.join()


def clips(count: int) -> list[list[bytes]]:
    return [[encoded(4 * n + i, seed=n) for i in range(4)] for n in range(count)]


async def features(processes: ClipProcesses, wanted: list[list[bytes]]) -> list[np.ndarray]:
    async def one(clip: list[bytes]) -> np.ndarray:
        return await processes.feature([await processes.pixels(data) for data in clip])

    return await asyncio.gather(*map(one, wanted))


@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
@pytest.mark.parametrize("size", [(640, 480), (320, 240), (101, 77), (1280, 720)], ids=str)
def test_pictures_are_the_same_to_the_bit(recognizer, kind, size):
    data = cv2.imencode(f".{kind}", cv2.resize(picture(3), size))[1].tobytes()

    async def work(processes: ClipProcesses) -> None:
        got = await processes.pixels(memoryview(data))
        np.testing.assert_array_equal(got, decode_picture(data, recognizer.spec))

    using(recognizer, work)


def test_features_are_the_same_to_the_bit_and_are_counted(recognizer):
    wanted = clips(6)

    async def work(processes: ClipProcesses) -> None:
        got = await features(processes, wanted)
        here = [[decode_picture(data, recognizer.spec) for data in clip] for clip in wanted]
        np.testing.assert_array_equal(got, recognizer.features(here))
        # Frames that another process has decoded.
        np.testing.assert_array_equal(await processes.feature(here[0]), got[0])

    metrics = using(recognizer, work)
    spent, seen = metrics.spent()
    assert seen == 7
    assert spent > 0


def test_what_is_no_picture_is_said_as_here(recognizer):
    async def work(processes: ClipProcesses) -> None:
        for data in (b"no picture", encoded(0)[:200]):
            with pytest.raises(BadPicture) as here:
                decode_picture(data, recognizer.spec)
            with pytest.raises(BadPicture) as there:
                await processes.pixels(data)
            assert str(there.value) == str(here.value)
        assert (await processes.pixels(encoded(0))).shape == (recognizer.spec.height, recognizer.spec.width, 3)

    using(recognizer, work)


def test_a_place_is_free_again_when_nothing_shows_it_any_more(recognizer):
    async def work(processes: ClipProcesses) -> None:
        kept = (await processes.pixels(encoded(0)))[:, ::2]  # a view alone
        wanted = kept.copy()
        for i in range(3 * 8):
            await processes.pixels(encoded(i))
        np.testing.assert_array_equal(kept, wanted)
        held = [await processes.pixels(encoded(i)) for i in range(7)]
        with pytest.raises(RuntimeError, match="all 8 places"):
            await processes.pixels(encoded(0))
        del held
        await processes.pixels(encoded(0))

    using(recognizer, work, streams=1)


def test_whoever_has_gone_leaves_nothing_behind(recognizer):
    """Those who asked are cancelled at any moment; the others' answers are theirs."""
    wanted = clips(12)

    async def work(processes: ClipProcesses) -> None:
        asked = [asyncio.create_task(features(processes, [clip])) for clip in wanted]
        for i, task in enumerate(asked):
            if i % 2:
                await asyncio.sleep(0.002)
                task.cancel()
        got = [(await task)[0] for task in asked[::2]]
        np.testing.assert_array_equal(got, await features(processes, wanted[::2]))

    using(recognizer, work)


def test_a_killed_process_loses_no_request(recognizer):
    wanted = clips(40)

    async def work(processes: ClipProcesses) -> None:
        asked = asyncio.create_task(features(processes, wanted))
        await asyncio.sleep(0.05)
        for worker in workers():
            worker.kill()
        here = [[decode_picture(data, recognizer.spec) for data in clip] for clip in wanted]
        np.testing.assert_array_equal(await asked, recognizer.features(here))
        while len(workers()) < 2:
            await asyncio.sleep(0.05)

    using(recognizer, work, streams=40)


def test_a_picture_at_which_processes_end_is_undecodable(recognizer):
    large = cv2.imencode(".png", np.zeros((4000, 8000, 3), np.uint8))[1].tobytes()

    async def work(processes: ClipProcesses) -> None:
        asked = asyncio.create_task(processes.pixels(large))
        with killing(workers, every=0.02), pytest.raises(BadPicture, match="crashes"):
            await asked
        assert (await processes.pixels(encoded(1))).any()

    using(recognizer, work)


def test_nothing_stays_behind(recognizer):
    async def work(processes: ClipProcesses) -> None:
        await processes.pixels(encoded(0))

    using(recognizer, work)  # what stays for good, such as the loop's own
    descriptors, processes = len(os.listdir("/proc/self/fd")), psutil.Process().children(recursive=True)
    using(recognizer, work)
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert psutil.Process().children(recursive=True) == processes


def test_processes_that_decode_are_confined(recognizer):
    async def work(processes: ClipProcesses) -> None:
        await processes.pixels(encoded(0))
        for worker in workers():
            with open(f"/proc/{worker.pid}/status") as status:
                fields = dict(line.split(":", 1) for line in status)
            assert (fields["Seccomp"].strip(), fields["NoNewPrivs"].strip()) == ("2", "1")
            assert not any(name in worker.environ() for name in ("CRT_STATE_KEY", "HOME"))

    using(recognizer, work)


def test_labels_are_the_same_when_they_are_killed_all_the_time(model, service, tmp_path):
    """A real service, whose processes end again and again while a stream comes."""
    unbroken = whole(service.url, "clips-unbroken", FRAMES)
    with running(model, tmp_path, CRT_THREADS="2") as other:
        with killing(lambda: two[:1] if len(two := workers(other.process)) == 2 else [], every=0.3):
            got = whole(other.url, "clips-killed", FRAMES)
        assert got.segments == unbroken.segments
        assert got.events == unbroken.events
        assert not got.of("dropped")
        assert other.log.read_bytes().count(b"another is started") > 2


def test_clients_that_come_and_go_use_up_nothing(model, tmp_path):
    """Frames of a client that has left make room, though there is little."""
    with running(model, tmp_path, CRT_STREAMS="2", CRT_THREADS="1") as service:
        for n in range(30):
            camera = as_soon_as_there_is_room(service.url, f"guest-{n}")
            camera.send(0, 3)
            camera.socket.close()
        last = as_soon_as_there_is_room(service.url, "last")
        last.send(0, 60)
        assert len(last.end().segments) == 3
        assert last.told.of("error") == []


def as_soon_as_there_is_room(url: str, name: str) -> Camera:
    """Who has just left may still be being put down, and two are many here."""
    for _ in range(100):
        try:
            return Camera(url, name)
        except InvalidStatus as refused:
            if refused.response.status_code != 503:
                raise
            time.sleep(0.1)
    raise AssertionError("those that left still take up room after 10 s")
