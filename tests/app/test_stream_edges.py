"""What clients do at the edges of the protocol, by accident or on purpose: nothing is lost, counted twice, or piles up."""

import contextlib
import itertools
import json
import signal
import socket
import struct
import threading
import time

import httpx
import pytest

from app.metrics import Metrics
from app.protocol import Options
from app.routes.pieces import recalled, remembered
from app.sessions.base import ANSWER_BYTES, StoreUnavailable
from app.sessions.memory import MemoryStore
from app.streams import Streams
from models import checkpoint
from pipelines.recognizer import Recognizer
from pipelines.state import from_bytes
from tests.app.conftest import running
from tests.app.streaming import HEADER, Camera, encoded, message
from tests.app.test_streams import lossless


@pytest.fixture
def ids(request):
    """Ids of streams that no other test uses."""
    return (f"{request.node.name.partition('[')[0]}.{n}" for n in itertools.count())


# What a client may say


def test_an_empty_text_is_no_frame(service, ids):
    """It is refused for what it is."""
    camera = Camera(service.url, next(ids))
    camera.socket.send("")
    assert camera.join() == 4400
    assert camera.told.of("error")[-1]["code"] == "message_malformed"


@pytest.mark.parametrize("number", [2**53, 2**64 - 1])
def test_a_frame_number_that_json_cannot_say_is_refused(service, ids, number):
    """`resume_from` could not name the next one exactly; most likely its bytes are in the wrong order."""
    id = f"{next(ids)}.{number}"
    camera = Camera(service.url, id)
    camera.send_raw(HEADER.pack(number, 0.0) + encoded(0))
    assert camera.join() == 4400
    assert camera.told.of("error")[-1]["code"] == "frame_malformed"
    assert "9007199254740991" in camera.told.of("error")[-1]["detail"]
    assert Camera(service.url, id).ready["resume_from"] == 0


def test_numbers_left_out_before_the_first_frame_are_told_as_well(service, ids):
    """What counts as missing in a segment was said to be dropped."""
    camera = Camera(service.url, next(ids))
    assert camera.send(7, 50)
    told = camera.end()
    assert [(one["frames"], one["reason"]) for one in told.of("dropped")] == [(7, "gap")]
    assert told.segments[0]["missing"] == 7


@pytest.mark.parametrize("id", [".", ".."])
def test_an_id_that_addresses_swallow_is_refused(service, client, id):
    """Clients take /v1/streams/.. for /v1, so such a stream could be neither shown nor deleted."""
    answer = client.post("/v1/streams", json={"id": id})
    assert (answer.status_code, answer.json()["code"]) == (422, "parameter_bad")
    camera = Camera(service.url, id)
    assert (camera.join(), camera.told.of("error")[0]["code"]) == (4400, "parameter_bad")
    assert client.post("/v1/streams", json={"id": f"{id}a"}).status_code == 201


def test_a_segment_of_any_size_is_asked_for_in_vain(client, ids):
    """Not even SQLite's largest integer ends in an internal error."""
    id = next(ids)
    client.post("/v1/streams", json={"id": id})
    for segment, code in ((2**53 - 1, "checkpoint_unknown"), (2**63, "parameter_bad"), (10**30, "parameter_bad")):
        answer = client.get(f"/v1/streams/{id}/state", params={"segment": segment})
        assert answer.json()["code"] == code, segment
        answer = client.post(f"/v1/streams/{id}/rewind", json={"segment": segment})
        assert answer.json()["code"] == code, segment


def test_a_second_writer_is_told_where_the_first_one_is(service, ids):
    """For whoever has to find it among several services."""
    id = next(ids)
    first, second = Camera(service.url, id), Camera(service.url, id)
    assert second.join() == 4409
    detail = second.told.of("error")[0]["detail"]
    assert f"at the service {socket.gethostname()} (process {service.process.pid})" in detail
    first.cut()


def test_a_change_of_policy_neither_takes_credit_nor_gives_it_away(service, ids):
    """Frames that came under one policy and are worked on under the other count once."""
    camera = Camera(service.url, next(ids), provisional="false")
    first = 0
    for policy in ("live", "complete") * 4:
        camera.send(first, first + 10)  # keeps the service at work while the next ones come
        camera.socket.send(json.dumps({"type": "options", "policy": policy}))
        camera.send(first + 10, first + 40)
        first += 40
        time.sleep(0.3)
    camera.end()
    assert 64 - 16 < camera.credit <= 64


# Lifetimes


def test_frames_keep_a_stream_from_expiring(service, client, ids):
    """Also while none of them finishes a segment."""
    id = next(ids)
    camera = Camera(service.url, id, idle_seconds=1)
    for i in range(12):
        assert camera.send_raw(message(i, seconds=i / 10))
        time.sleep(0.25)
    assert client.get(f"/v1/streams/{id}").json()["segment"] == 0
    assert camera.join(10) == 4410


def test_a_stream_that_expires_under_its_writer_is_expired_not_unknown(service, ids):
    """Whether a commit or a look at the clock comes first."""
    camera = Camera(service.url, next(ids), lifetime_seconds=1)
    time.sleep(1.2)
    camera.send(0, 40)
    assert camera.join(10) == 4410
    assert camera.told.of("error")[-1]["code"] == "session_expired"
    assert camera.told.of("goodbye")[-1]["reason"] == "expired"


# What piles up


def masked(opcode: int, data: bytes, *, last: bool = True) -> bytes:
    """A WebSocket's frame from a client, RFC 6455; the mask is zero."""
    assert len(data) < 126
    return bytes([(last << 7) | opcode, 0x80 | len(data)]) + bytes(4) + data


def upgraded(url: str, id: str) -> socket.socket:
    """A connection after its handshake, without any library that would read or answer."""
    host, port = url.removeprefix("http://").split(":")
    raw = socket.create_connection((host, int(port)), timeout=10)
    raw.sendall(
        f"GET /v1/streams/{id}/frames HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
    )
    assert raw.recv(12) == b"HTTP/1.1 101"
    return raw


def test_pings_whose_answers_nobody_reads_do_not_pile_up(service, ids):
    """60 MB of them. Being cut off is as good."""
    before = service.process.memory_info().rss
    with upgraded(service.url, next(ids)) as raw, contextlib.suppress(OSError):
        for _ in range(1000):
            raw.sendall(masked(0x9, bytes(125)) * 460)
    assert httpx.get(f"{service.url}/healthz").status_code == 200
    assert service.process.memory_info().rss - before < 20 << 20


def test_a_message_in_too_many_fragments_is_refused(service, ids):
    """Of empty ones there could be any number, and none would ever make it a message: 1009, as for one that is too large."""
    with upgraded(service.url, next(ids)) as raw:
        raw.sendall(masked(0x2, b"", last=False) + masked(0x0, b"", last=False) * 5000)
        heard = b""
        with contextlib.suppress(ConnectionResetError):
            while data := raw.recv(65536):
                heard += data
    assert b"\x88" in heard
    assert struct.pack("!H", 1009) + b"a message in more than" in heard


def test_a_ping_is_answered_and_fragments_make_a_message(service, ids):
    """Also those in crumbs, with a ping between two of them."""
    with upgraded(service.url, next(ids)) as raw:
        text = b'{"type":"end"}'
        crumbs = [masked(0 if i else 1, text[i : i + 1], last=i == len(text) - 1) for i in range(len(text))]
        raw.sendall(b"".join(crumbs[:5]) + masked(0x9, b"there?") + b"".join(crumbs[5:]))
        heard = b""
        while data := raw.recv(65536):
            heard += data
    assert struct.pack("!BB", 0x8A, 6) + b"there?" in heard
    assert b'"reason":"end"' in heard


def test_a_connection_without_a_request_is_closed(model, tmp_path):
    """One that says nothing, one that never ends its head, one that says nothing more; a stream may be silent."""
    with running(model, tmp_path, CRT_UPLOAD_IDLE_SECONDS="1", CRT_THREADS="1") as service:
        port = int(service.url.rpartition(":")[2])
        camera = Camera(service.url, "silent")
        silent, trickling, done = (socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(3))
        done.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        began = time.monotonic()
        with contextlib.suppress(OSError):
            for letter in b"GET /healthz HTTP/1.1\r\n" + b"X-Slow: 1\r\n" * 100:
                trickling.sendall(bytes([letter]))
                time.sleep(0.05)
        assert time.monotonic() - began < 5
        for one in (silent, done):
            with one, contextlib.suppress(ConnectionResetError):
                while one.recv(4096):
                    pass
        trickling.close()
        assert camera.send(0, 30)
        assert camera.end().segments
        assert len(service.process.net_connections()) < 4


# Pieces


def test_a_piece_at_a_service_that_goes_down_is_to_be_sent_elsewhere(model, tmp_path):
    """Not the video is at fault; nothing of it counts."""
    video = lossless(tmp_path / "piece.mkv", 0, 600).read_bytes()
    folder = tmp_path / "service"
    with running(model, folder, CRT_THREADS="1") as service:
        httpx.post(f"{service.url}/v1/streams", json={"id": "porch"})
        answers: list[httpx.Response] = []

        def post() -> None:
            answers.append(
                httpx.post(
                    f"{service.url}/v1/streams/porch/clips",
                    content=video,
                    headers={"content-type": "video/x-matroska"},
                    timeout=60,
                )
            )

        posting = threading.Thread(target=post)
        posting.start()
        while httpx.get(f"{service.url}/v1/streams/porch").json()["writer"] is None:
            time.sleep(0.02)
        time.sleep(0.1)
        service.process.send_signal(signal.SIGTERM)
        posting.join()
    assert (answers[0].status_code, answers[0].json()["code"]) == (503, "service_moves")
    assert answers[0].headers["retry-after"]
    with running(model, folder, CRT_THREADS="1") as service:
        assert httpx.get(f"{service.url}/v1/streams/porch").json()["segment"] == 0


def test_an_answer_of_any_length_is_remembered():
    """Of a piece of three hours all of it; of one of days that it was given, and what the stream then was."""

    def body(segments: int) -> dict:
        labels = [{"label": f"Label.{k}", "score": k / 7} for k in range(5)]
        one = {"start": 0.123456, "end": 2.123456, "labels": labels}
        return {
            "segments": [{"index": i, **one, "start": i * 2.02} for i in range(segments)],
            "events": [{"label": "Walk", "start": i / 3, "end": i / 3 + 1, "confidence": 0.5} for i in range(segments)],
            "warnings": [],
            "stream": {"id": "porch", "segment": segments},
        }

    long = body(5400)
    assert recalled(remembered(long)) == long
    days = remembered(body(60_000))
    assert len(days) <= ANSWER_BYTES
    told = recalled(days)
    assert told["stream"] == {"id": "porch", "segment": 60_000}
    assert (told["segments"], told["events"]) == ([], [])
    assert [one["code"] for one in told["warnings"]] == ["answer_shortened"]
    assert recalled(json.dumps(body(1)).encode()) == body(1)  # as it was kept before


class Away(MemoryStore):
    """A store that can be away."""

    away = False

    async def save(self, session, **more):
        if self.away:
            raise StoreUnavailable("away")
        return await super().save(session, **more)


@pytest.mark.anyio
async def test_a_piece_that_could_not_be_committed_leaves_no_trace(model):
    """Its client is told so and sends it again: given back, the stream is where it was before the piece."""
    recognizer, store = Recognizer(checkpoint.read(model), threads=1), Away()
    async with Streams(store, recognizer, Metrics(), patience=0) as streams:
        held = await streams.hold("porch", None, lambda _: None, make=Options())
        piece, _ = streams.stream_of(held.session)
        piece.lose(8)
        piece.finish()
        store.away = True
        with pytest.raises(StoreUnavailable):
            await streams.commit(held, stream=piece)
        store.away = False
        await streams.release(held, keep=True)

        state = (await store.load("porch")).state
        assert from_bytes(state, memory=recognizer.model.memory, classes=len(recognizer.labels)).frame == 0
        again = await streams.hold("porch", None, lambda _: None)
        await streams.commit(again, stream=piece)
        await streams.release(again)
        state = (await store.load("porch")).state
        assert from_bytes(state, memory=recognizer.model.memory, classes=len(recognizer.labels)).frame == 9
