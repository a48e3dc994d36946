"""The client against a small service that breaks off wherever it is told to, and against real ones: every label once."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from rich.console import Console
from websockets.sync.server import serve

from app.client import (
    BadAddress,
    BadSource,
    Camera,
    ClientError,
    Encoding,
    Folder,
    FrameTooLarge,
    Lost,
    ModelChanged,
    Refused,
    RequestRefused,
    Source,
    StreamClient,
    StreamExpired,
    StreamOwned,
    StreamUnknown,
    Unreachable,
    VideoFile,
)
from app.client.bookkeeping import Backlog
from app.client.tokens import Token
from app.client.view import Timeline
from tests.app.conftest import ROOT, free_port, launch, running
from tests.app.fake_service import LENGTH, Fake, Plan
from tests.app.streaming import Camera as PlainClient
from tests.app.streaming import encoded, picture, whole
from tests.app.test_streams import FPS, lossless
from tests.assets import number_of, numbered

FRAMES = 140
"""11.2 s: five segments and a rest."""
QUICK = {"pauses": (0.001, 0.01)}


class Scene(Source):
    """The made-up scene of the other tests, a frame every so many seconds of real time."""

    def __init__(self, frames: int = FRAMES, *, pause: float = 0.0, live: bool = False) -> None:
        self._frames, self._pause, self.live = frames, pause, live
        self.total = frames
        self.asked: list[int] = []

    def frames(self, first):
        self.asked.append(first)
        for number in range(first, self._frames):
            time.sleep(self._pause)
            yield number, number / FPS, encoded(number)


class Bytes(Source):
    """Frames that are no pictures, for the small service."""

    def __init__(self, frames: int = 43) -> None:
        self._frames = frames
        self.asked: list[int] = []

    def frames(self, first):
        self.asked.append(first)
        return ((number, number * 0.2, number.to_bytes(2) * 50) for number in range(first, self._frames))


def once(frames: int = 43):
    """The same frames, not to be had again."""
    return iter(list(Bytes(frames).frames(0)))


async def asynchronous(frames: int = 43):
    for frame in Bytes(frames).frames(0):
        yield frame


def told(client, source, **options):
    """All messages of a stream."""

    async def all_of_it():
        async with client:
            return [message async for message in client.messages(source, **options)]

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


def count(messages):
    return sum(m["type"] == "segment" and m["final"] for m in messages)


def of(messages, kind):
    return [m for m in messages if m["type"] == kind]


def wait_for(test: Callable[[], object], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not test():
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.fixture(scope="module")
def straight():
    """What the small service tells of 43 frames when nothing breaks; and in how many messages."""
    with Fake() as fake:
        messages = told(StreamClient(fake.url, "s"), Bytes())
    assert fake.received == [list(range(43))]
    assert count(messages) == 9
    assert len(of(messages, "event")) == 12  # the last one is ended with the stream
    return finals(messages), fake.told


@pytest.fixture(scope="module")
def unbroken(service):
    return whole(service.url, "client-unbroken", FRAMES)


# Exactly once


@pytest.mark.parametrize("source", [Bytes, once, asynchronous])
def test_a_break_after_any_message_changes_nothing(straight, source):
    """After each of them once: the same segments and events, each once and in order, whatever kind of source it is."""
    expected, messages = straight
    for after in range(messages):
        with Fake([Plan(dies_after=after)]) as fake:
            assert finals(told(StreamClient(fake.url, "s", **QUICK), source())) == expected, after
        assert len(fake.queries) == 2


def test_a_break_after_any_frame_changes_nothing(straight):
    """Frames that came but are not durable are sent again, from the first that is not."""
    for after in range(1, 44):
        with Fake([Plan(deaf_after=after)]) as fake:
            assert finals(told(StreamClient(fake.url, "s", **QUICK), once())) == straight[0], after
        first, second = fake.received
        assert first == list(range(after))
        assert second == list(range((after - 1) // LENGTH * LENGTH, 43))


@pytest.mark.parametrize("seed", range(20))
def test_many_breaks_change_nothing(straight, seed):
    """Of all kinds; with a buffer that holds everything, and one that holds two frames and has the source read again."""
    rng = random.Random(seed)
    plans = [
        rng.choice([Plan(dies_after=rng.randrange(40)), Plan(deaf_after=rng.randrange(1, 12)), Plan(leaves_after=rng.randrange(1, 9))])
        for _ in range(12)
    ]  # fmt: skip
    source = Bytes()
    with Fake(plans) as fake:
        client = StreamClient(fake.url, "s", buffer_frames=rng.choice([2, 2048]), **QUICK)
        assert finals(told(client, source)) == straight[0]
    assert 1 < client.connections <= len(fake.received)
    assert client.acked == 43
    assert client.waiting == client.lost == 0


def test_no_more_is_on_the_way_than_can_be_said_again():
    """A service that finishes segments unheard says its last four again. With much credit, and much time in few frames, as many as
    came might be finished."""
    with Fake([Plan(mute=True), Plan(mute=True)], credit=1000) as fake:
        messages = told(StreamClient(fake.url, "s", **QUICK), Bytes(200))
    finals(messages)
    assert count(messages) == 40
    # Whoever does not hear of what was finished before sends next to nothing.
    assert [len(numbers) for numbers in fake.received] == [16, 1, 185]


@pytest.mark.parametrize(
    ("segments", "said"), [(9, "segments 2 to 4 were made and never"), (0, "deleted and made anew")]
)
def test_a_segment_that_is_missing_is_an_error(segments, said):
    """The stream went on without us for longer than is said again; or it is another one of the same name."""

    def meddle():
        wait_for(lambda: client.acked == 10)
        stream = fake.store["s"]
        stream.steps = [({"type": "segment", "index": i, "final": True}, []) for i in range(segments)]
        stream.frames = [(0, 0.0, b"")] * LENGTH * segments

    with Fake([Plan(deaf_after=13, at_the_end=meddle)]) as fake:
        client = StreamClient(fake.url, "s", **QUICK)
        with pytest.raises(Lost, match=said):
            told(client, Bytes())


def test_a_client_that_is_started_anew_goes_on(straight):
    """From where the stream stands; it is told the last segments again, as nobody knows whether the first client heard of them."""
    with Fake() as fake:
        first = told(StreamClient(fake.url, "s", end=False), Bytes(28))
        assert count(first) == 5
        assert fake.texts == []
        source = Bytes()
        rest = told(StreamClient(fake.url, "s"), source)
    assert source.asked == [25]
    assert fake.received == [list(range(28)), list(range(25, 43))]
    segments = {m["index"]: m["labels"] for m in (*first, *rest) if m["type"] == "segment" and m["final"]}
    assert segments == {i: s["labels"] for i, s in straight[0][0].items()}
    assert [m["index"] for m in rest if m["type"] == "segment" and m["final"]] == [1, 2, 3, 4, 5, 6, 7, 8]
    with Fake(store=fake.store) as fake:
        assert told(StreamClient(fake.url, "s"), once())[-1]["reason"] == "end"
    assert fake.received == [[]]  # all is durable


# Coming back


def test_a_service_that_moves_is_followed(straight):
    """To the next address, and back again; takeover is meant once, the token is the same every time."""
    store = {}
    with Fake([Plan(leaves_after=7)], store=store) as one, Fake([Plan(leaves_after=9)], store=store) as two:
        client = StreamClient([one.url, two.url], "s", takeover=True, top_k=3, **QUICK)
        messages = told(client, Bytes())
    assert finals(messages) == straight[0]
    assert [len(one.queries), len(two.queries)] == [2, 1]
    assert [query.get("takeover") for query in (*one.queries, *two.queries)] == ["true", None, None]
    assert len({query["client"] for query in (*one.queries, *two.queries)}) == 1
    assert [(m["server"], m["code"]) for m in of(messages, "disconnected")] == [(one.url, 1012), (two.url, 1012)]
    assert [m["reason"] for m in of(messages, "goodbye")] == ["shutdown", "shutdown", "end"]
    # The stream was there already with other options.
    assert one.texts[0] == {"type": "options", "top_k": 3}


@pytest.mark.parametrize(
    ("close", "code"),
    [(1012, ""), (1013, "busy"), (1013, "store_unavailable"), (4408, ""), (1011, "internal"), (1001, "")],
)
def test_what_may_pass_is_tried_again(straight, close, code):
    """After a service that is down, busy or mends itself."""
    with Fake([Plan(refuses=(close, ""))] * 3) as fake:
        messages = told(StreamClient([f"http://127.0.0.1:{free_port()}", fake.url], "s", **QUICK), Bytes())
    assert finals(messages) == straight[0]
    assert len(fake.queries) == 4


@pytest.mark.parametrize(
    ("close", "code", "kind"),
    [
        (4400, "frame_malformed", RequestRefused), (4400, "parameter_bad", RequestRefused), (4400, "new_in_2030", RequestRefused),
        (4404, "session_unknown", StreamUnknown), (4409, "stream_owned", StreamOwned), (4409, "session_conflict", StreamOwned),
        (4410, "session_expired", StreamExpired), (4412, "model_changed", ModelChanged), (1009, "", FrameTooLarge), (1008, "", Refused),
    ],
)  # fmt: skip
def test_a_refusal_is_an_error_with_the_services_code(close, code, kind):
    """Not a loop of attempts; at once and in the middle of it."""
    for plans in ([Plan(refuses=(close, code))], [Plan(dies_after=20), Plan(refuses=(close, code))]):
        with Fake(plans) as fake, pytest.raises(kind) as refused:
            told(StreamClient(fake.url, "s", **QUICK), Bytes())
        assert type(refused.value) is kind
        assert refused.value.close == close
        assert refused.value.detail == (f"this is {code}" if code else "why not")
        if code:
            assert refused.value.code == code


def test_pauses_get_longer_until_something_gets_better(monkeypatch):
    """A service that greets and dies is no success, an acknowledgement is. Reasons that stay the same are told once."""
    pauses, pause = [], StreamClient._next_pause
    monkeypatch.setattr(StreamClient, "_next_pause", lambda *rest: pauses.append(pause(*rest)) or pauses[-1])
    with Fake([*[Plan(dies_after=1)] * 6, Plan(dies_after=30), *[Plan(refuses=(1013, ""))] * 3]) as fake:
        messages = told(StreamClient(fake.url, "s", pauses=(0.02, 0.2)), Bytes())
    limits = [0.02, 0.04, 0.08, 0.16, 0.2, 0.2, 0.02, 0.04, 0.08, 0.16]
    assert all(limit / 2 <= pause <= limit for pause, limit in zip(pauses, limits, strict=True))
    assert len(of(messages, "disconnected")) == 8


def test_patience_comes_to_an_end():
    """If it has one."""
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(Unreachable, match=r"given up after 0.2 s") as caught:
        told(StreamClient(url, "s", patience=0.2, pauses=(0.01, 0.05)), Bytes())
    assert caught.value.code == "service_unreachable"


@pytest.mark.parametrize("address", ["127.0.0.1:8000", "ws://127.0.0.1", "http://", ""])
def test_what_is_no_address_is_told_at_once(address):
    with pytest.raises(BadAddress, match="give one like http://127"):
        StreamClient(address, "s")


def test_whoever_answers_must_speak_the_protocol(service):
    """A path without streams, a service of another kind."""
    with pytest.raises(BadAddress, match="answers 40"):
        told(StreamClient(f"{service.url}/elsewhere", "s"), Bytes())
    with serve(lambda connection: connection.send("hello"), "127.0.0.1", 0) as other:
        thread = threading.Thread(target=other.serve_forever)
        thread.start()
        with pytest.raises(BadAddress, match="another protocol: 'hello'"):
            told(StreamClient(f"http://127.0.0.1:{other.socket.getsockname()[1]}", "s"), Bytes())
        other.shutdown()
        thread.join()


# What is kept and what is sent


def test_a_backlog_is_bounded():
    """By frames and by bytes. What can wait waits, and what can be read again is forgotten rather than waited for in vain."""
    backlog = Backlog(4, 1000)
    for number in range(4):
        assert backlog.has_room
        assert backlog.add((number, 0.0, b"x" * 100), live=False) == 0
    assert not backlog.has_room
    for _ in range(4):
        backlog.sent()
    assert backlog.has_room  # nothing would ever come of waiting
    assert backlog.add((4, 0.0, b"x" * 900), live=False) == 0
    assert (len(backlog), backlog.bytes) == (2, 1000)
    assert backlog.rewind(2) == 1  # frame 2 is gone
    assert backlog.next[0] == 3
    backlog = Backlog(4, 1000)
    assert [backlog.add((number, 0.0, b"x" * 300), live=True) for number in range(6)] == [0, 0, 0, 1, 1, 1]
    backlog.sent()
    backlog.sent()
    assert backlog.next[0] == 5
    assert backlog.rewind(3) == 0
    assert [backlog.add((number, 0.0, b"x" * 300), live=True) for number in (6, 7)] == [1, 1]
    assert backlog.next[0] == 5
    backlog.release(7)
    assert (len(backlog), backlog.bytes) == (1, 300)


def test_a_buffer_smaller_than_a_segment_loses_nothing_of_a_file(straight):
    """Large pictures: the service cannot finish a segment, and the client cannot keep one. It must not wait for ever."""
    source = Bytes()
    with Fake([Plan(deaf_after=14)]) as fake:
        assert finals(told(StreamClient(fake.url, "s", buffer_bytes=250, **QUICK), source)) == straight[0]
    assert source.asked == [0, 10]


def test_what_can_neither_be_kept_nor_read_again_is_counted():
    """After a break the service is told by the numbers that it is missing, as if it had never been there."""
    with Fake([Plan(deaf_after=15)]) as fake:
        client = StreamClient(fake.url, "s", buffer_frames=2, **QUICK)
        messages = told(client, once())
    assert client.lost == fake.received[1][0] - 10 > 0
    assert sum(m["missing"] for m in messages if m["type"] == "segment" and m["final"]) == client.lost


def test_a_camera_that_is_too_fast_loses_its_oldest_frames_and_counts_them():
    """Its numbers go on, so that the service sees the gap."""
    with Fake([Plan(slow=0.01)]) as fake:
        client = StreamClient(fake.url, "s", buffer_frames=20, **QUICK)
        messages = told(client, once(500), live=True)
    sent = fake.received[0]
    assert sent[-1] == 499
    assert client.lost == 500 - len(sent) > 0
    # The first may be among them: then the small service counts those before it as well.
    assert sum(m["frames"] for m in of(messages, "dropped")) == client.lost
    assert client.read == 500


def test_a_camera_goes_on_while_there_is_no_connection():
    """What it saw meanwhile is sent afterwards, as much as is kept."""
    for kept, lost in ((2048, 0), (10, 1)):
        seen = threading.Event()

        def camera(seen=seen):
            for frame in once(40):
                yield frame
                if frame[0] == 4:
                    time.sleep(0.1)
            seen.set()

        with Fake([Plan(deaf_after=3)]) as fake:
            client = StreamClient(fake.url, "s", buffer_frames=kept, pauses=(0.5, 0.5))
            messages = told(client, camera(), live=True)
        assert seen.is_set()
        assert fake.received[-1][-1] == 39
        assert (client.lost > 0) == lost
        assert sum(m["frames"] for m in of(messages, "dropped")) == client.lost


def test_a_frame_that_is_too_large_is_an_error_before_it_is_sent():
    with (
        Fake(frame_bytes=115) as fake,
        pytest.raises(FrameTooLarge, match="frame 0 has 116 bytes, but the service takes 115"),
    ):
        told(StreamClient(fake.url, "s"), Bytes())
    assert fake.received == [[]]


def test_a_source_that_fails_does_not_end_the_stream(straight):
    """What came before is sent; then it is an error, and the stream can go on."""

    def failing():
        yield from once(12)
        raise BadSource("the camera has fallen down")

    async def failing_too():
        for frame in failing():
            yield frame

    for source in (failing, failing_too):
        with Fake([Plan(dies_after=9)]) as fake, pytest.raises(BadSource, match="fallen down"):
            told(StreamClient(fake.url, "s", **QUICK), source())
        assert fake.received[-1][-1] == 11
        assert fake.texts == []
    with Fake(store=fake.store) as fake:
        assert count(told(StreamClient(fake.url, "s"), once())) == 9
    with Fake() as fake, pytest.raises(TypeError):
        told(StreamClient(fake.url, "s"), [(0, 0.0, None)])


def test_leaving_early_leaves_the_stream_open():
    """No `end`, no thread that goes on."""

    async def some(client):
        async with client:
            async for message in client.messages(Bytes(10_000)):
                if message["type"] == "ack":
                    break

    with Fake() as fake:
        asyncio.run(some(StreamClient(fake.url, "s")))
        assert fake.texts == []
    assert not [thread for thread in threading.enumerate() if thread.name == "frames"]


def test_realtime_is_no_faster_than_the_frames_times(straight):
    """And starts at once wherever it starts."""
    with Fake() as fake:
        began = time.monotonic()
        assert finals(told(StreamClient(fake.url, "s", realtime=True), Bytes(11)))[0].keys() == {0, 1, 2}
        assert time.monotonic() - began >= 2.0
        began = time.monotonic()
        told(StreamClient(fake.url, "s", realtime=True), asynchronous(13))
        assert 0.2 <= time.monotonic() - began < 2.0


# Sources


def test_a_file_gives_its_frames_by_number_and_time(tmp_path):
    """From any number on the same ones."""
    file = VideoFile(lossless(tmp_path / "a.mkv", 0, 30), Encoding("png"))
    frames = list(file.frames(0))
    assert [number for number, _, _ in frames] == list(range(30))
    assert [seconds for _, seconds, _ in frames] == pytest.approx([i / FPS for i in range(30)], abs=1e-3)
    assert list(file.frames(17)) == frames[17:]
    assert list(file.frames(30)) == []
    assert (pixels(frames[7][2]) == picture(7)).all()
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    with pytest.raises(BadSource, match=r"bad\.mp4 cannot be read"):
        VideoFile(tmp_path / "bad.mp4")


def pixels(data):
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)


def test_times_of_a_file_are_those_of_its_pictures(tmp_path):
    """At a variable rate, and whatever the first one's is in the file."""
    times = [0.0, 0.04, 0.2, 0.24, 1.0, 3.5]
    truth = numbered(tmp_path / "a.mp4", times=[5.0 + t for t in times])
    frames = list(VideoFile(truth.path).frames(0))
    assert [seconds for _, seconds, _ in frames] == pytest.approx(times, abs=1e-3)
    assert [number_of(pixels(data)) for *_, data in frames] == list(range(6))


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_a_file_from_a_phone_is_sent_upright(tmp_path, rotation):
    truth = numbered(tmp_path / "a.mp4", frames=8, rotation=rotation)
    frames = list(VideoFile(truth.path).frames(0))
    assert [number_of(pixels(data)) for *_, data in frames] == list(range(8))
    assert pixels(frames[0][2]).shape == (96, 128, 3)


def test_a_damaged_file_is_sent_as_far_as_it_can_be_read(tmp_path):
    """What is broken in the middle does not end it."""
    truth = numbered(tmp_path / "a.ts", frames=100, format="mpegts")
    data = bytearray(truth.path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 4000] = bytes(4000)
    truth.path.write_bytes(data)
    numbers = [number for number, *_ in VideoFile(truth.path).frames(0)]
    assert numbers == list(range(len(numbers)))
    frames = list(VideoFile(truth.path).frames(0))
    assert 60 < len(frames) <= 100
    assert number_of(pixels(frames[-1][2])) == 99
    assert list(VideoFile(truth.path).frames(40)) == frames[40:]


def test_a_folder_gives_its_pictures_in_natural_order(tmp_path):
    """frame9 before frame10; what is no picture is not sent."""
    for i in (9, 10, 1, 100):
        (tmp_path / f"frame{i}.png").write_bytes(encoded(i))
    (tmp_path / "notes.txt").write_text("x")
    folder = Folder(tmp_path, fps=10)
    assert list(folder.frames(0)) == [(n, n / 10, encoded(i)) for n, i in enumerate((1, 9, 10, 100))]
    assert [(number, seconds) for number, seconds, _ in folder.frames(2)] == [(2, 0.2), (3, 0.3)]
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadSource, match="no pictures"):
        Folder(tmp_path / "empty")


class Webcam:
    """What OpenCV would be to a camera that sees six pictures."""

    opened = True
    released = 0

    def __init__(self, index):
        self.index, self.left = index, 6

    def isOpened(self):  # noqa: N802
        return self.opened

    def set(self, option, value):
        self.asked = option, value

    def read(self):
        self.left -= 1
        return (True, picture(self.left)[..., ::-1]) if self.left >= 0 else (False, None)

    def release(self):
        Webcam.released += 1


def test_a_webcam_goes_on_counting_at_the_time_of_day(monkeypatch):
    """From the number at which the stream stands; that it gives no more pictures is no end."""
    monkeypatch.setattr(cv2, "VideoCapture", Webcam)
    camera = Camera(0, Encoding("png"), fps=30)
    frames, began = [], time.time()
    with pytest.raises(BadSource, match="camera 0 gives no more pictures"):
        frames.extend(camera.frames(1000))
    assert [number for number, *_ in frames] == list(range(1000, 1006))
    times = [seconds for _, seconds, _ in frames]
    assert began - 0.1 < times[0] < times[-1] < time.time() + 0.1
    assert times == sorted(set(times))
    assert (pixels(frames[0][2]) == picture(5)).all()
    assert Webcam.released == 1
    with Fake() as fake:
        client = StreamClient(fake.url, "s", **QUICK)
        with pytest.raises(BadSource):
            told(client, Camera(0))
    assert fake.received == [list(range(6))]
    assert fake.texts == []
    monkeypatch.setattr(Webcam, "opened", False)
    with pytest.raises(BadSource, match="camera 0 cannot be opened"):
        Camera(0)


def test_scaling_keeps_proportions_and_what_the_model_sees(tmp_path):
    """And gives the same bytes every time; what is small enough is left as it is."""
    large = np.random.default_rng(1).integers(0, 256, (240, 640, 3), np.uint8)

    def size(encoding, model=None):
        encoding.model = model
        data = encoding.encode(large)
        assert data == encoding.encode(large)
        return pixels(data).shape[1::-1]

    assert size(Encoding()) == (640, 240)
    assert size(Encoding(most=(320, 320))) == (320, 120)
    assert size(Encoding(scale=True), (112, 112)) == (299, 112)
    assert size(Encoding(scale=True), (640, 112)) == (640, 240)
    assert size(Encoding(scale=True, most=(200, 200)), (112, 112)) == (200, 75)
    (tmp_path / "a.png").write_bytes(cv2.imencode(".png", large)[1].tobytes())
    folder = Folder(tmp_path, Encoding("png", scale=True))
    with Fake() as fake:
        told(StreamClient(fake.url, "s"), folder)
    assert pixels(fake.store["s"].frames[0][2]).shape == (24, 64, 3)


def test_one_process_has_the_kept_token_and_the_next_one_gets_it(tmp_path):
    """A second process at the same time gets another, and so does another stream."""
    with (
        Token("a", folder=tmp_path) as first,
        Token("a", folder=tmp_path) as second,
        Token("b", folder=tmp_path) as other,
    ):
        assert len({first.value, second.value, other.value}) == 3
    with Token("a", folder=tmp_path) as again:
        assert again.value == first.value
    with Token("a", folder=tmp_path / "file" / "x") as new, Token("a", folder=ROOT / "README.md") as nowhere:
        assert new.value != nowhere.value != first.value


# What is seen


def test_the_timeline_shows_now_and_what_was(straight):
    """Progress, credit, latency, reconnections; the label of now; events with start, end and confidence."""
    console = Console(width=150, force_terminal=False, record=True, file=open(os.devnull, "w"))  # noqa: SIM115

    async def shown(url):
        client = StreamClient(url, "s", **QUICK)
        timeline = Timeline(client, 43)
        async with client:
            async for message in client.messages(Bytes()):
                timeline.take(message)
                console.print(timeline)

    with Fake([Plan(dies_after=33)]) as fake:
        asyncio.run(shown(fake.url))
    text = console.export_text()
    console.file.close()
    for part in (
        "frame 43",
        "frames/s, credit ",
        "labels after 20 ms",
        "1 reconnections",
        "trying again",
        "so far",
        "frame 0 is next",
    ):
        assert part in text, part
    assert "2.0 - 9.0 s  walk  50%" in text.splitlines()[-1]


def test_events_that_go_on_at_once_have_a_row_each():
    """Told in turns; the row that began is the one that ends."""
    timeline = Timeline(StreamClient("http://127.0.0.1:9", "s", **QUICK), None)
    for n in range(5):
        for label in ("walk", "talk"):
            state = "started" if n == 0 else "ended" if n == 4 else "updated"
            timeline.take(
                {"type": "event", "state": state, "label": label, "start": 1.0, "end": 2.0 + n, "confidence": 0.5}
            )
    console = Console(width=100, force_terminal=False, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(timeline)
    text = console.export_text()
    console.file.close()
    assert (text.count("walk"), text.count("talk"), text.count("1.0 - 6.0 s")) == (1, 1, 2)
    assert not [line for line in text.splitlines() if "alk" in line and "..." in line]


# Against the real service


def test_it_streams_to_the_end(service, unbroken):
    """Labels, events, acknowledgement of all frames, goodbye."""
    client = StreamClient(service.url, "client-plain")
    messages = told(client, Scene())
    assert finals(messages) == (unbroken.segments, unbroken.events)
    assert messages[-1] == {"type": "goodbye", "reason": "end", "reconnect": False}
    assert (client.acked, client.waiting) == (FRAMES, 0)


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


def test_a_real_stream_goes_on_with_a_client_that_is_started_anew(service, unbroken):
    """It sends nothing that is durable already."""
    told(StreamClient(service.url, "client-anew", client="me", end=False), Scene(80))
    source = Scene()
    messages = told(StreamClient(service.url, "client-anew", client="me"), source)
    assert source.asked == [75]  # three segments are durable, five frames were in the fourth
    rest = {m["index"]: m["labels"] for m in messages if m["type"] == "segment" and m["final"]}
    assert rest == {i: s["labels"] for i, s in unbroken.segments.items()}


def test_gaps_of_a_live_source_are_told_by_the_service(service):
    """In as many missing frames as were dropped here."""
    client = StreamClient(service.url, "client-live", buffer_frames=60)
    messages = told(client, Scene(600, live=True))
    gaps = sum(m["frames"] for m in messages if m["type"] == "dropped" and m["reason"] == "gap")
    # A stream begins with the first frame that comes: those lost before it leave no gap.
    assert 0 < gaps <= client.lost
    assert sum(m["missing"] for m in messages if m["type"] == "segment" and m["final"]) == gaps
    assert count(messages) >= 2


def test_the_real_service_refuses_with_its_codes(service):
    """And gives the stream to who takes over."""
    first = PlainClient(service.url, "client-owned")
    with pytest.raises(StreamOwned) as refused:
        told(StreamClient(service.url, "client-owned"), Scene())
    assert (refused.value.code, refused.value.close) == ("stream_owned", 4409)
    with pytest.raises(RequestRefused) as refused:
        told(StreamClient(service.url, "client-wrong", top_k=0), Scene())
    assert refused.value.code == "parameter_bad"
    messages = told(StreamClient(service.url, "client-owned", takeover=True, top_k=2), Scene(30))
    assert count(messages) == 2
    assert {len(m["labels"]) for m in of(messages, "segment")} == {2}  # changed: the stream was made with 5
    assert first.join() == 4409


def command(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "app.client", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=120,
        env={**os.environ, **environment},
    )  # fmt: skip


def test_the_command_prints_messages_or_a_timeline(service, unbroken, tmp_path):
    """A video, as JSON lines and for people; a mistake in one line."""
    video = lossless(tmp_path / "a.mkv", 0, FRAMES)
    state = {"XDG_STATE_HOME": str(tmp_path)}
    done = command(video, "--stream", "command-1", "--server", service.url, "--format", "png", "--json", **state)
    assert done.returncode == 0, done.stderr
    segments, events = finals([json.loads(line) for line in done.stdout.splitlines()])
    assert {i: s["labels"] for i, s in segments.items()} == {i: s["labels"] for i, s in unbroken.segments.items()}
    assert len(events) == len(unbroken.events)
    done = command(video, "--stream", "command-2", "--scale", CRT_SERVER=service.url, **state)
    assert done.returncode == 0
    assert done.stdout.count("started") == sum(event[1] == "started" for event in unbroken.events)
    for arguments, said in (
        ((tmp_path / "none.mp4", "--stream", "x"), "source_bad: there is no"),
        ((video, "--stream", "a b", "--server", service.url), "parameter_bad: a stream's id"),
        ((video, "--stream", "x", "--server", "localhost"), "address_bad: 'localhost' is no address"),
    ):
        done = command(*arguments, **state)
        assert (done.returncode, done.stderr.count("\n"), done.stdout.count("Traceback")) == (1, 1, 0)
        assert said in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_the_stream_open_and_the_same_command_goes_on(tmp_path, number):
    """With the same token, so that nobody has to wait."""
    for i in range(43):
        (tmp_path / f"{i}.png").write_bytes(encoded(i))
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")}
    with Fake() as fake:
        line = [
            sys.executable,
            "-m",
            "app.client",
            str(tmp_path),
            "--stream",
            "s",
            "--server",
            fake.url,
            "--fps",
            "5",
            "--json",
        ]
        first = subprocess.Popen(
            [*line, "--realtime"], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        wait_for(lambda: fake.received and len(fake.received[0]) > 7)
        first.send_signal(number)
        output, errors = first.communicate(timeout=20)
        assert first.returncode == 128 + number
        assert errors == "left; frames before 5 are durable, and the same command goes on from there\n"
        assert fake.texts == []
        assert count([json.loads(text) for text in output.splitlines()]) == 1
        done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=True)
        assert fake.received[1] == list(range(5, 43))
        assert len({query["client"] for query in fake.queries}) == 1
    assert finals([json.loads(text) for text in done.stdout.splitlines()])[0].keys() == set(range(9))


def test_a_camera_box_needs_no_torch():
    """Nothing of the client imports it, nor decord."""
    code = (
        "import sys, app.client.__main__; sys.exit(any(name in sys.modules for name in ('torch', 'decord', 'fastapi')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_every_error_of_the_client_is_one_of_the_tree():
    """So that the command tells each in a line."""
    kinds = [ClientError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    assert {Lost, Unreachable, BadAddress, BadSource, Refused, StreamOwned} <= set(kinds)


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
