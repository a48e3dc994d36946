"""The client against real services: every label once, whatever happens to them on the way."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time

import cv2
import numpy as np
import pytest

from app.client import BadSource, Folder, Refused, Source, StreamClient, VideoFile
from app.client import client as client_module
from tests.app.conftest import ROOT, free_port, launch, running
from tests.app.streaming import Camera, encoded, picture, whole
from tests.app.test_streams import FPS, lossless

FRAMES = 140
"""11.2 s: five segments and a rest."""


class Scene(Source):
    """The made-up scene of the other tests, a frame every so many seconds of real time."""

    def __init__(self, frames: int = FRAMES, *, pause: float = 0.0, live: bool = False) -> None:
        self._frames, self._pause, self.live = frames, pause, live
        self.total = frames

    def frames(self, first):
        for number in range(first, self._frames):
            time.sleep(self._pause)
            yield number, number / FPS, encoded(number)


@pytest.fixture(scope="module")
def unbroken(service):
    return whole(service.url, "client-unbroken", FRAMES)


def told(client, source):
    """All messages of a stream."""

    async def all_of_it():
        return [message async for message in client.messages(source)]

    return asyncio.run(all_of_it())


def finals(messages):
    """Final segments as told, each once and in order; and events."""
    segments = [m for m in messages if m["type"] == "segment" and m["final"]]
    assert [m["index"] for m in segments] == list(range(len(segments)))
    kept = {m["index"]: {name: m[name] for name in ("start", "end", "labels", "missing")} for m in segments}
    events = [
        tuple(m[name] for name in ("segment", "state", "label", "start", "end", "confidence"))
        for m in messages
        if m["type"] == "event"
    ]
    return kept, events


def test_it_streams_to_the_end(service, unbroken):
    """Labels, events, acknowledgement of all frames, goodbye."""
    client = StreamClient(service.url, "client-plain")
    messages = told(client, Scene())
    assert finals(messages) == (unbroken.segments, unbroken.events)
    assert messages[-1] == {"type": "goodbye", "reason": "end", "reconnect": False}
    assert client.acked == FRAMES
    assert not client._kept


def test_a_service_that_goes_down_is_followed_to_another(model, unbroken, tmp_path):
    """SIGTERM in the middle of it, then kill -9 of the second as well while the first is back."""
    settings = {"CRT_SESSIONS": f"sqlite:///{tmp_path / 'shared.db'}", "CRT_THREADS": "1"}
    ports = free_port(), free_port()
    one, two = (
        launch(model, tmp_path / "one", ports[0], **settings),
        launch(model, tmp_path / "two", ports[1], **settings),
    )
    client = StreamClient([one.url, two.url], "moving")
    found = []

    async def run():
        async for message in client.messages(Scene(pause=0.03)):
            found.append(message)

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    try:
        wait_for(lambda: count(found) >= 1)
        one.child.send_signal(signal.SIGTERM)
        one.child.wait()
        wait_for(lambda: count(found) >= 3)
        two.child.send_signal(signal.SIGKILL)
        two.child.wait()
        one = launch(model, tmp_path / "one", ports[0], **settings)
        thread.join(60)
        assert not thread.is_alive()
    finally:
        one.child.kill()
        one.child.wait()
    assert finals(found) == (unbroken.segments, unbroken.events)
    assert {"goodbye", "disconnected"} <= {m["type"] for m in found}


def count(messages):
    return sum(m["type"] == "segment" and m["final"] for m in messages)


def wait_for(test, seconds=60):
    until = time.monotonic() + seconds
    while not test():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_client_that_is_started_anew_goes_on(service, unbroken):
    """It sends nothing that is durable already."""
    told(StreamClient(service.url, "client-anew", client="me", end=False), Scene(80))
    sent = []

    class Watched(Scene):
        def frames(self, first):
            sent.append(first)
            return super().frames(first)

    messages = told(StreamClient(service.url, "client-anew", client="me"), Watched())
    assert sent == [75]  # three segments are durable, five frames were in the fourth
    rest = {m["index"]: m["labels"] for m in messages if m["type"] == "segment" and m["final"]}
    assert rest == {i: s["labels"] for i, s in unbroken.segments.items()}


def test_a_camera_that_is_too_fast_loses_its_oldest_frames_and_counts_them(service, monkeypatch):
    """What was kept for the service stays; the service says what is missing."""
    monkeypatch.setattr(client_module, "MOST_FRAMES", 60)
    client = StreamClient(service.url, "client-live")
    messages = told(client, Scene(600, live=True))
    gaps = sum(m["frames"] for m in messages if m["type"] == "dropped" and m["reason"] == "gap")
    # A stream begins with the first frame that comes: those lost before it leave no gap.
    assert 0 < gaps <= client.lost
    assert sum(m["missing"] for m in messages if m["type"] == "segment" and m["final"]) == gaps
    assert count(messages) >= 2


def test_a_refusal_is_an_error_with_the_services_code(service):
    """Not a loop of attempts."""
    first = Camera(service.url, "client-owned")
    with pytest.raises(Refused) as refused:
        told(StreamClient(service.url, "client-owned"), Scene())
    assert refused.value.service_code == "stream_owned"
    with pytest.raises(Refused) as refused:
        told(StreamClient(service.url, "client-wrong", top_k=0), Scene())
    assert refused.value.service_code == "parameter_bad"
    messages = told(StreamClient(service.url, "client-owned", takeover=True), Scene(30))
    assert count(messages) == 2
    assert first.join() == 4409


def test_a_file_gives_its_frames_by_number_and_time(tmp_path):
    """From any number on the same ones."""
    file = VideoFile(lossless(tmp_path / "a.mkv", 0, 30), format="png")
    frames = list(file.frames(0))
    assert [number for number, _, _ in frames] == list(range(30))
    assert [seconds for _, seconds, _ in frames] == pytest.approx([i / FPS for i in range(30)], abs=1e-3)
    assert list(file.frames(17)) == frames[17:]
    decoded = cv2.imdecode(np.frombuffer(frames[7][2], np.uint8), cv2.IMREAD_COLOR_RGB)
    assert (decoded == picture(7)).all()
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    with pytest.raises(BadSource, match=r"bad\.mp4 cannot be read"):
        VideoFile(tmp_path / "bad.mp4")


def test_a_folder_gives_its_pictures_in_natural_order(tmp_path):
    """frame9 before frame10; what is no picture is not sent."""
    for i in (9, 10, 1, 100):
        (tmp_path / f"frame{i}.png").write_bytes(encoded(i))
    (tmp_path / "notes.txt").write_text("x")
    folder = Folder(tmp_path, fps=10)
    assert list(folder.frames(0)) == [(n, n / 10, encoded(i)) for n, i in enumerate((1, 9, 10, 100))]
    assert [number for number, _, _ in folder.frames(2)] == [2, 3]
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadSource, match="no pictures"):
        Folder(tmp_path / "empty")


def command(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "app.client", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=120,
        env={**os.environ, **environment},
    )  # fmt: skip


def test_the_command_prints_messages_or_a_timeline(service, unbroken, tmp_path):
    """A video, as JSON lines and for people; a mistake in one line."""
    video = lossless(tmp_path / "a.mkv", 0, FRAMES)
    done = command(video, "--stream", "command-1", "--server", service.url, "--format", "png", "--json")
    assert done.returncode == 0, done.stderr
    segments, events = finals([json.loads(line) for line in done.stdout.splitlines()])
    assert {i: s["labels"] for i, s in segments.items()} == {i: s["labels"] for i, s in unbroken.segments.items()}
    assert len(events) == len(unbroken.events)
    done = command(video, "--stream", "command-2", CRT_SERVER=service.url)
    assert done.returncode == 0
    assert done.stdout.count("started") == sum(state == "started" for _, state, *_ in unbroken.events)
    for arguments, said in (
        ((tmp_path / "none.mp4", "--stream", "x"), "source_bad: there is no"),
        ((video, "--stream", "a b", "--server", service.url), "stream_refused: parameter_bad: a stream's id"),
    ):
        done = command(*arguments)
        assert (done.returncode, done.stderr.count("\n"), done.stdout.count("Traceback")) == (1, 1, 0)
        assert said in done.stderr


def test_a_camera_box_needs_no_torch():
    """Nothing of the client imports it."""
    code = "import sys, app.client.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_a_service_that_comes_later_is_waited_for(model, unbroken, tmp_path):
    """The client may be started first."""
    port, found = free_port(), []
    client = StreamClient(f"http://127.0.0.1:{port}", "early")

    async def run():
        async for message in client.messages(Scene()):
            found.append(message)

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    wait_for(lambda: found)
    assert found[0]["type"] == "disconnected"
    with running(model, tmp_path, CRT_THREADS="1") as service:
        url = service.url
        client._servers[:] = [url]
        thread.join(60)
        assert not thread.is_alive()
    assert finals(found) == (unbroken.segments, unbroken.events)
