"""Streams through the real doors of a real service: the same labels whatever happens to connections, processes and machines."""

import contextlib
import io
import json
import random
import re
import signal
import socket
import sqlite3
import time
from fractions import Fraction

import av
import cv2
import httpx
import numpy as np
import pytest
import torch
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from models import checkpoint
from tests.app.conftest import free_port, launch, running
from tests.app.streaming import HEADER, Camera, Told, encoded, going_on, message, picture, whole

FPS = 12.5
FRAMES = 190
"""15.2 s: seven segments of 2 s and a rest."""


@pytest.fixture(scope="module")
def unbroken(service):
    """What a stream that was never cut off is told."""
    told = whole(service.url, "unbroken", FRAMES, top_k=5)
    assert len(told.segments) == 8
    assert any(state == "ended" for _, state, *_ in told.events)
    return told


@pytest.fixture
def ids(request):
    """Ids of streams that no other test uses."""
    name = re.sub(r"[^A-Za-z0-9]+", "-", request.node.name)[:100]
    return (f"{name}-{i}" for i in range(1000))


def lossless(path, first, end, *, fps=FPS, seed=0):
    """Frames first..end-1 as a video without loss."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "bgr0"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for i in range(first, end):
            frame = av.VideoFrame.from_ndarray(picture(i, seed=seed), format="rgb24").reformat(format="bgr0")
            frame.pts, frame.time_base = round((i - first) / fps * 1000), stream.time_base
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def same(told, answer_segments):
    """Labels of a stream equal those of an answer, scores to 1e-5."""
    assert sorted(told) == [s["index"] for s in answer_segments]
    for one in answer_segments:
        mine = told[one["index"]]
        assert (mine["start"], mine["end"]) == pytest.approx((one["start"], one["end"]), abs=2e-3)
        scores = {label["label"]: label["score"] for label in one["labels"]}
        assert {label["label"]: label["score"] for label in mine["labels"]} == pytest.approx(scores, abs=1e-5)


# One truth


def test_frames_give_the_labels_of_the_same_video_posted(service, client, unbroken, tmp_path):
    """Segments, scores and events."""
    with lossless(tmp_path / "same.mkv", 0, FRAMES).open("rb") as file:
        answer = client.post("/v1/clips", files={"video": file}, params={"top_k": 5}).json()
    same(unbroken.segments, answer["segments"])
    ended = [(label, start, end) for _, state, label, start, end, _ in unbroken.events if state == "ended"]
    expected = [(e["label"], e["start"], e["end"]) for e in answer["events"]]
    assert [label for label, *_ in ended] == [label for label, *_ in expected]
    for mine, theirs in zip(ended, expected, strict=True):
        assert mine[1:] == pytest.approx(theirs[1:], abs=2e-3)


@pytest.mark.parametrize("cuts", [(40, 81, 130), (1, 2, 3, 50, 51, 188), (25, 50, 75, 100, 125, 150, 175)])
def test_pieces_give_the_labels_of_the_whole(client, unbroken, ids, tmp_path, cuts):
    """Cut anywhere: in a clip, in a segment, between two frames."""
    id = next(ids)
    assert client.post("/v1/streams", json={"id": id}).status_code == 201
    segments = []
    for number, (first, end) in enumerate(zip((0, *cuts), (*cuts, FRAMES), strict=True)):
        with lossless(tmp_path / f"{number}.mkv", first, end).open("rb") as file:
            answer = client.post(
                f"/v1/streams/{id}/clips", files={"video": file}, params={"end": end == FRAMES, "start": first / FPS}
            )
        assert answer.status_code == 200, answer.text
        segments += answer.json()["segments"]
    same(unbroken.segments, segments)


def test_many_streams_at_once_give_what_each_gives_alone(service, unbroken, ids):
    """Twelve cameras, every other one with another scene, in batches with each other."""
    cameras = [Camera(service.url, next(ids), seed=n % 2) for n in range(12)]
    for i in range(FRAMES):
        for camera in cameras:
            assert camera.send(i, i + 1)
    tolds = [camera.end() for camera in cameras]
    assert {index: s["labels"] for index, s in tolds[1].segments.items()} != {
        i: s["labels"] for i, s in unbroken.segments.items()
    }
    for told in tolds[::2]:
        same(told.segments, [{"index": i, **s} for i, s in unbroken.segments.items()])
    for told in tolds[1::2]:
        same(told.segments, [{"index": i, **s} for i, s in tolds[1].segments.items()])


def test_a_provisional_label_follows_every_clip_and_changes_nothing(service, unbroken, ids):
    """Three before each full segment; without them the final ones are the same."""
    of_first = [one for one in unbroken.provisional if one["index"] == 0]
    assert [one["end"] for one in of_first] == [0.5, 1.0, 1.5]
    silent = whole(service.url, next(ids), FRAMES, provisional="false")
    assert silent.provisional == []
    assert silent.segments == unbroken.segments


# Exactly once


def test_a_connection_cut_anywhere_changes_nothing(service, unbroken, ids):
    """Thirty breaks at random frames, without a word."""
    rng, id, told = random.Random(1), next(ids), Told()
    at = 0
    for _ in range(30):
        camera = Camera(service.url, id, told, client="me")
        at = camera.ready["resume_from"]
        camera.send(at, min(FRAMES, at + rng.randrange(1, 45)))
        time.sleep(rng.random() * 0.1)
        camera.cut()
    going_on(service.url, id, told, FRAMES, client="me")
    assert told.segments == unbroken.segments
    assert told.events == unbroken.events


def test_frames_sent_again_are_ignored(service, unbroken, ids):
    """Each twice, and after a break all from the first on."""
    id = next(ids)
    camera = Camera(service.url, id, client="me")
    for i in range(100):
        camera.send(i, i + 1)
        camera.send(max(0, i - 3), i + 1)
    camera.wait(lambda told: len(told.segments) >= 3)
    camera.cut()
    camera = Camera(service.url, id, camera.told, client="me")
    assert 0 < camera.ready["resume_from"] <= 100
    camera.send(0, FRAMES)
    told = camera.end()
    assert told.segments == unbroken.segments
    assert told.of("dropped") == []


def test_what_was_told_but_not_heard_is_told_again(service, unbroken, ids):
    """After a break the last final segments and their events come before anything new."""
    id = next(ids)
    camera = Camera(service.url, id, client="me")
    camera.send(0, 110)
    camera.wait(lambda told: len(told.segments) >= 3)
    camera.cut()
    again = Camera(service.url, id, client="me")
    index = again.ready["segment"]
    again.wait(lambda told: index - 1 in told.segments)
    for i, segment in again.told.segments.items():
        assert segment == {**unbroken.segments[i], "missing": 0}
    again.cut()


def test_numbers_that_are_left_out_are_reported(service, ids):
    """In a message, and in the segment; and the rest goes on."""
    camera = Camera(service.url, next(ids))
    camera.send(0, 30)
    camera.send(37, 60)
    told = camera.end()
    assert [(one["frames"], one["reason"]) for one in told.of("dropped")] == [(7, "gap")]
    assert sum(s["missing"] for s in told.segments.values()) == 7
    assert told.segments[1]["missing"] == 7 or told.segments[0]["missing"] == 7


def test_late_and_broken_frames_are_told_and_lost_alone(service, ids):
    """A time that goes back, a picture that is none."""
    camera = Camera(service.url, next(ids))
    camera.send(0, 10)
    camera.send_raw(message(10, seconds=0.1))
    camera.send_raw(message(11, data=b"no picture"))
    camera.send_raw(message(12, data=encoded(12)[:200]))
    camera.send(13, 60)
    told = camera.end()
    assert [(one["frames"], one["reason"]) for one in told.of("dropped")][:2] == [(1, "late"), (1, "undecodable")]
    assert len(told.segments) >= 2
    assert sum(s["missing"] for s in told.segments.values()) == 3


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "frame_malformed"),
        (b"short", "frame_malformed"),
        (HEADER.pack(0, float("nan")) + b"x", "frame_malformed"),
        (HEADER.pack(0, 1e300) + b"x", "frame_malformed"),
        ("no json", "message_malformed"),
        ('{"type": "stop"}', "message_malformed"),
        ('{"type": "options", "top_k": 0}', "message_malformed"),
        ('{"type": "end", "now": true}', "message_malformed"),
    ],
)
def test_a_message_that_is_none_is_refused_with_the_reason(service, ids, data, code):
    """And the stream stands where it stood."""
    id = next(ids)
    camera = Camera(service.url, id)
    camera.send(0, 40)
    camera.wait(lambda told: told.acked > 0)
    acked = camera.told.acked
    camera.socket.send(data)
    assert camera.join() == 4400
    error = camera.told.of("error")[-1]
    assert (error["code"], error["fatal"]) == (code, True)
    assert camera.told.of("goodbye")[-1]["reason"] == "error"
    assert Camera(service.url, id).ready["resume_from"] == acked


# One writer


def test_a_second_writer_is_told_who_writes_since_when(service, client, ids):
    """4409 on a WebSocket, 409 over HTTP; a piece of video is refused as well."""
    id = next(ids)
    first = Camera(service.url, id)
    second = Camera(service.url, id)
    assert second.join() == 4409
    assert second.told.of("error")[0]["code"] == "stream_owned"
    assert "since 20" in second.told.of("error")[0]["detail"]
    answer = client.post(f"/v1/streams/{id}/clips", content=b"x", headers={"content-type": "video/mp4"})
    assert (answer.status_code, answer.json()["code"]) == (409, "stream_owned")
    shown = client.get(f"/v1/streams/{id}").json()
    assert abs(shown["writer"]["since"] - time.time()) < 60
    assert first.send(0, 5)
    first.cut()


def test_who_takes_over_closes_the_first_and_it_can_commit_nothing_more(service, unbroken, ids):
    """Labels go on from what was durable."""
    id = next(ids)
    first = Camera(service.url, id)
    first.send(0, 60)
    first.wait(lambda told: len(told.segments) == 2)
    second = Camera(service.url, id, first.told, takeover="true")
    assert first.join() == 4409
    assert [one["reason"] for one in first.told.of("goodbye")] == ["taken_over"]
    second.send(second.ready["resume_from"], FRAMES)
    told = second.end()
    assert told.segments == unbroken.segments


def test_a_writer_at_another_replica_is_fenced(model, unbroken, ids, tmp_path):
    """Two services, one store: the second takes over, and the first's next commit fails."""
    settings = {"CRT_SESSIONS": f"sqlite:///{tmp_path / 'shared.db'}", "CRT_THREADS": "1"}
    with running(model, tmp_path / "one", **settings) as one, running(model, tmp_path / "two", **settings) as two:
        id = next(ids)
        first = Camera(one.url, id)
        first.send(0, 60)
        first.wait(lambda told: len(told.segments) == 2)
        refused = Camera(two.url, id)
        assert refused.join() == 4409
        second = Camera(two.url, id, first.told, takeover="true")
        first.send(60, 120)
        assert first.join() == 4409
        second.send(second.ready["resume_from"], FRAMES)
        assert second.end().segments == unbroken.segments


# Moving house


def test_sigterm_says_goodbye_and_another_replica_goes_on(model, unbroken, ids, tmp_path):
    """Within five seconds; the labels are those of an unbroken stream."""
    settings = {"CRT_SESSIONS": f"sqlite:///{tmp_path / 'shared.db'}", "CRT_THREADS": "1"}
    with running(model, tmp_path / "two", **settings) as two:
        one = launch(model, tmp_path / "one", free_port(), **settings)
        id = next(ids)
        camera = Camera(one.url, id)
        camera.send(0, 77)
        one.child.send_signal(signal.SIGTERM)
        began = time.monotonic()
        assert one.child.wait(10) is not None
        assert time.monotonic() - began < 5
        assert camera.join() == 1012
        assert camera.told.of("goodbye")[-1] == {"type": "goodbye", "reason": "shutdown", "reconnect": True}
        told = going_on(two.url, id, camera.told, FRAMES)
        assert told.segments == unbroken.segments
        assert told.events == unbroken.events


def test_goodbye_is_said_even_when_the_store_takes_its_time(model, ids, tmp_path):
    """A stream that is given back is in the store before its client is told to go elsewhere."""
    one = launch(model, tmp_path, free_port(), CRT_THREADS="1")
    camera = Camera(one.url, next(ids))
    camera.send(0, 77)
    camera.wait(lambda told: len(told.segments) == 3)
    with contextlib.closing(sqlite3.connect(tmp_path / "sessions.db", isolation_level=None)) as busy:
        busy.execute("BEGIN IMMEDIATE")
        one.child.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        busy.execute("ROLLBACK")
    assert camera.join() == 1012
    assert camera.told.of("goodbye") == [{"type": "goodbye", "reason": "shutdown", "reconnect": True}]
    assert one.child.wait(10) is not None


def test_an_exported_state_goes_on_elsewhere(model, unbroken, client, service, ids, tmp_path):
    """Another service with the same key and a store of its own."""
    key = "a key that both have"
    with (
        running(model, tmp_path / "one", CRT_STATE_KEY=key, CRT_THREADS="1") as one,
        running(model, tmp_path / "two", CRT_STATE_KEY=key, CRT_SESSIONS="memory://", CRT_THREADS="1") as two,
    ):
        camera = Camera(one.url, "here")
        camera.send(0, 90)
        camera.wait(lambda told: len(told.segments) == 3)
        exported = httpx.get(f"{one.url}/v1/streams/here/state").json()
        assert len(exported["state"]) < 8192
        made = httpx.post(f"{two.url}/v1/streams", json={"id": "there", "state": exported["state"]})
        assert made.status_code == 201
        told = going_on(two.url, "there", camera.told, FRAMES)
        assert told.segments == unbroken.segments
        camera.cut()
        # With another key it is refused, and a changed one as well.
        foreign = client.post("/v1/streams", json={"state": exported["state"]})
        assert (foreign.status_code, foreign.json()["code"]) == (422, "state_signature")
        changed = exported["state"][:200] + ("A" if exported["state"][200] != "A" else "B") + exported["state"][201:]
        assert httpx.post(f"{two.url}/v1/streams", json={"state": changed}).json()["code"] == "state_signature"


def test_a_stream_can_go_back_and_be_played_again_with_other_thresholds(service, client, unbroken, ids):
    """A fork from the ring of checkpoints: the same labels, other events."""
    id, fork = next(ids), next(ids)
    assert client.post("/v1/streams", json={"id": id, "checkpoints": 5}).status_code == 201
    camera = Camera(service.url, id)
    camera.send(0, FRAMES)
    camera.end()
    shown = client.get(f"/v1/streams/{id}").json()
    assert (shown["segment"], shown["checkpoints"]) == (8, [4, 8])
    unknown = client.get(f"/v1/streams/{id}/state", params={"segment": 2})
    assert (unknown.status_code, unknown.json()["code"]) == (404, "checkpoint_unknown")
    state = client.get(f"/v1/streams/{id}/state", params={"segment": 5}).json()
    body = {"id": fork, "state": state["state"], "least": 0.99, "shortest": 3600}
    assert client.post("/v1/streams", json=body).json()["segment"] == 5
    told = going_on(service.url, fork, Told(), FRAMES)
    assert {i: s for i, s in told.segments.items() if i >= 5} == {i: s for i, s in unbroken.segments.items() if i >= 5}
    assert not [e for e in told.events if e[0] >= 5 and e[1] == "started"]


def test_the_state_of_another_model_is_refused_by_name(service, model, client, ids, tmp_path):
    """On every door."""
    loaded = checkpoint.load(model)
    with torch.no_grad():
        loaded.classifier.classify.bias += 1
    digest = checkpoint.save(
        tmp_path / "other",
        loaded.backbone,
        loaded.classifier,
        name="other",
        labels=loaded.labels,
        background=loaded.background,
    )
    settings = {
        "CRT_SESSIONS": f"sqlite:///{tmp_path / 'shared.db'}",
        "CRT_STATE_KEY": "a key that both have",
        "CRT_THREADS": "1",
    }
    with (
        running(model, tmp_path / "one", **settings) as one,
        running(tmp_path / "other", tmp_path / "two", **settings) as two,
    ):
        id = next(ids)
        camera = Camera(one.url, id)
        camera.send(0, 40)
        camera.wait(lambda told: len(told.segments) == 1)
        camera.cut()
        state = httpx.get(f"{one.url}/v1/streams/{id}/state").json()
        changed = Camera(two.url, id)
        assert changed.join() == 4412
        detail = changed.told.of("error")[0]["detail"]
        assert loaded.digest in detail
        assert digest in detail
        answer = httpx.post(f"{two.url}/v1/streams", json={"state": state["state"]})
        assert (answer.status_code, answer.json()["code"]) == (409, "model_changed")
        answer = httpx.post(f"{two.url}/v1/streams/{id}/clips", content=b"x", headers={"content-type": "video/mp4"})
        assert answer.json()["code"] == "model_changed"
        answer = httpx.get(f"{two.url}/v1/streams/{id}/state", params={"segment": 0})
        assert answer.json()["code"] == "model_changed"
        assert httpx.get(f"{two.url}/v1/streams/{id}").json()["memory"] is None


# Flow control


def test_a_flood_that_ignores_credit_is_held_and_memory_stays_bounded(service, ids):
    """With `complete` the sender waits, and nothing is lost."""
    camera = Camera(service.url, next(ids))
    before = service.process.memory_info().rss
    # Old frames cost the service next to nothing and the client nothing: a hundred thousand of them.
    picture = encoded(0)
    camera.send(0, 1)
    for _ in range(20_000):
        camera.socket.send(HEADER.pack(0, 0.0) + picture)
    camera.send(1, 60)
    assert len(camera.end().segments) == 3
    assert service.process.memory_info().rss - before < 60 << 20


def test_live_drops_the_oldest_counts_them_and_says_so(service, ids):
    """Frames far larger than can be worked on as fast as they come."""
    noise = np.random.default_rng(0).integers(0, 255, (700, 1200, 3), np.uint8)
    large = cv2.imencode(".png", noise, (cv2.IMWRITE_PNG_COMPRESSION, 1))[1].tobytes()
    camera = Camera(service.url, next(ids), policy="live")
    for i in range(300):
        camera.socket.send(HEADER.pack(i, i / 8) + large)
    told = camera.end()
    live = sum(one["frames"] for one in told.of("dropped") if one["reason"] == "live")
    gaps = sum(one["frames"] for one in told.of("dropped") if one["reason"] == "gap")
    assert live > 0
    assert gaps == 0  # told once
    assert sum(one["missing"] for one in told.segments.values()) == live


def test_live_drops_what_has_waited_too_long(model, ids, tmp_path):
    """Few enough that all could wait: it is their age that counts."""
    noise = np.random.default_rng(0).integers(0, 255, (700, 1200, 3), np.uint8)
    large = cv2.imencode(".png", noise, (cv2.IMWRITE_PNG_COMPRESSION, 1))[1].tobytes()
    with running(
        model, tmp_path, CRT_LIVE_SECONDS="0.1", CRT_THREADS="1", CRT_INBOX_BYTES=str(1 << 30), CRT_CREDIT="1000"
    ) as service:
        camera = Camera(service.url, next(ids), policy="live")
        for i in range(60):
            camera.socket.send(HEADER.pack(i, i / 8) + large)
        told = camera.end()
        metrics = httpx.get(f"{service.url}/metrics").text
    dropped = told.of("dropped")
    assert {one["reason"] for one in dropped} == {"live"}
    assert "waited longer than 0.1 s" in dropped[0]["detail"]
    count = sum(one["frames"] for one in dropped)
    assert 0 < count < 60
    assert f'crt_frames_dropped_total{{reason="live"}} {float(count)}' in metrics
    assert 'crt_frames_dropped_total{reason="gap"} 0.0' in metrics


def test_a_frame_that_is_too_large_closes_the_connection(service, ids):
    """With 1009, and the stream can go on."""
    id = next(ids)
    camera = Camera(service.url, id)
    camera.send(0, 5)
    with contextlib.suppress(Exception):
        camera.socket.send(bytes(camera.ready["frame_bytes"] + 1))
    assert camera.join() in (1009, 1006)
    assert Camera(service.url, id).ready["resume_from"] == 0


def test_a_client_that_does_not_read_is_closed(model, ids, tmp_path):
    """And holds up nobody else."""
    with running(model, tmp_path, CRT_ANSWER_IDLE_SECONDS="2", CRT_THREADS="1") as service:
        small = socket.socket()
        small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        small.connect(("127.0.0.1", int(service.url.rpartition(":")[2])))
        address = f"{service.url.replace('http', 'ws')}/v1/streams/{next(ids)}/frames"
        unread = connect(address, subprotocols=["crt.v1"], sock=small, max_queue=1, close_timeout=0.2)
        with contextlib.suppress(ConnectionClosed, OSError), unread as opened:
            opened.send(message(0))
            for i in range(1, 1_000_000):
                opened.send(HEADER.pack(2 * i, 0.0) + b"late")  # is answered by two messages
        assert "labels were not read" in service.log.read_text() or opened.protocol.state.name == "CLOSED"
        assert whole(service.url, next(ids), 60).segments


# Lifetimes


def test_an_idle_stream_expires_and_says_when(service, client, ids):
    """Told ahead, closed with 4410; afterwards it is expired, not unknown, until it is made anew."""
    id = next(ids)
    camera = Camera(service.url, id, idle_seconds=2)
    assert 0 < camera.ready["expires"] - time.time() < 2.5
    assert camera.join(20) == 4410
    assert camera.told.of("goodbye")[-1]["reason"] == "expired"
    answer = client.get(f"/v1/streams/{id}")
    assert (answer.status_code, answer.json()["code"]) == (410, "session_expired")
    again = Camera(service.url, id)
    assert (again.join(), again.told.of("error")[0]["code"]) == (4410, "session_expired")
    answer = client.get("/v1/streams/never-made")
    assert (answer.status_code, answer.json()["code"]) == (404, "session_unknown")
    assert client.post("/v1/streams", json={"id": id}).status_code == 201
    assert Camera(service.url, id).ready["resume_from"] == 0


def test_a_deleted_stream_is_gone_at_once(service, client, ids):
    """Its writer is told."""
    id = next(ids)
    camera = Camera(service.url, id)
    camera.send(0, 40)
    assert client.delete(f"/v1/streams/{id}").status_code == 204
    assert camera.join() == 4404
    assert camera.told.of("goodbye")[-1]["reason"] == "deleted"
    assert client.get(f"/v1/streams/{id}").status_code == 404
    assert client.delete(f"/v1/streams/{id}").json()["code"] == "session_unknown"


# Over HTTP


def test_streams_are_made_listed_and_shown(service, client, ids):
    """With position, age, labels, scores, size and health."""
    id = next(ids)
    made = client.post("/v1/streams", json={"id": id, "top_k": 2, "lifetime_seconds": 3600})
    assert made.headers["location"] == f"/v1/streams/{id}"
    assert made.json()["options"]["top_k"] == 2
    again = client.post("/v1/streams", json={"id": id})
    assert (again.status_code, again.json()["code"]) == (409, "session_exists")
    assert client.post("/v1/streams").json()["id"].startswith("stream-")
    for wrong in ({"id": "a/b"}, {"id": ""}, {"top_k": 0}, {"colour": "red"}, {"policy": "some"}, {"idle_seconds": -1}):
        answer = client.post("/v1/streams", json=wrong)
        assert (answer.status_code, answer.json()["code"]) == (422, "parameter_bad"), wrong
    camera = Camera(service.url, id)
    camera.send(0, 60)
    camera.wait(lambda told: len(told.segments) == 2)
    shown = client.get(f"/v1/streams/{id}").json()
    assert (shown["segment"], shown["position"], shown["missing"]) == (2, 4.0, 0)
    assert len(shown["labels"]) == len(shown["scores"]) == 2
    assert 2 < shown["expires"] - shown["created"] <= 3600
    assert shown["memory"]["bytes"] == 256
    assert shown["state_bytes"] < 8192
    camera.cut()
    page = client.get("/v1/streams", params={"limit": 1}).json()
    assert page["count"] > 1
    assert len(page["streams"]) == 1
    rest = client.get("/v1/streams", params={"after": page["next"], "limit": 1000}).json()
    assert id in {s["id"] for s in page["streams"] + rest["streams"]}


def test_a_retry_with_an_idempotency_key_counts_once(client, ids, tmp_path):
    """The same answer again; another video under the same key is refused."""
    id = next(ids)
    client.post("/v1/streams", json={"id": id})
    video = lossless(tmp_path / "piece.mkv", 0, 60).read_bytes()
    headers = {"content-type": "video/x-matroska", "idempotency-key": "one"}
    first = client.post(f"/v1/streams/{id}/clips", content=video, headers=headers)
    again = client.post(f"/v1/streams/{id}/clips", content=video, headers=headers)
    assert first.status_code == again.status_code == 200
    assert first.json() == again.json()
    assert client.get(f"/v1/streams/{id}").json()["segment"] == 2
    other = lossless(tmp_path / "other.mkv", 60, 120).read_bytes()
    refused = client.post(f"/v1/streams/{id}/clips", content=other, headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (409, "idempotency_conflict")
    goes_on = client.post(f"/v1/streams/{id}/clips", content=other, headers={**headers, "idempotency-key": "two"})
    assert [s["index"] for s in goes_on.json()["segments"]] == [2, 3]


def test_a_piece_that_cannot_be_decoded_changes_nothing(client, unbroken, ids, tmp_path):
    """The next good one goes on as if it had not been."""
    id = next(ids)
    client.post("/v1/streams", json={"id": id})
    for number, (first, end) in enumerate(((0, 85), (85, FRAMES))):
        video = lossless(tmp_path / f"{number}.mkv", first, end).read_bytes()
        bad = client.post(f"/v1/streams/{id}/clips", content=video[:600], headers={"content-type": "video/x-matroska"})
        assert bad.status_code in (415, 422)
        answer = client.post(
            f"/v1/streams/{id}/clips",
            content=video,
            params={"end": number == 1, "start": first / FPS},
            headers={"content-type": "video/x-matroska"},
        )
        assert answer.status_code == 200
    same(
        {i: s for i, s in unbroken.segments.items() if i >= answer.json()["segments"][0]["index"]},
        answer.json()["segments"],
    )


def test_what_was_lost_with_a_service_is_asked_for_again(model, unbroken, ids, tmp_path):
    """A piece after a restart: refused with the place from which to send; from there on the labels are the same."""
    settings = {"CRT_SESSIONS": f"sqlite:///{tmp_path / 'shared.db'}", "CRT_THREADS": "1"}
    headers = {"content-type": "video/x-matroska"}
    segments = []
    with running(model, tmp_path / "one", **settings) as one:
        httpx.post(f"{one.url}/v1/streams", json={"id": "s"})
        video = lossless(tmp_path / "0.mkv", 0, 85).read_bytes()
        answer = httpx.post(f"{one.url}/v1/streams/s/clips", content=video, headers=headers, timeout=60).json()
        segments += answer["segments"]
    with running(model, tmp_path / "two", **settings) as two:
        video = lossless(tmp_path / "1.mkv", 85, FRAMES).read_bytes()
        refused = httpx.post(f"{two.url}/v1/streams/s/clips", content=video, headers=headers, timeout=60)
        assert (refused.status_code, refused.json()["code"]) == (409, "stream_gap")
        assert f"start={answer['stream']['position']:g}" in refused.json()["detail"]
        video = lossless(tmp_path / "2.mkv", 70, FRAMES).read_bytes()
        answer = httpx.post(
            f"{two.url}/v1/streams/s/clips",
            content=video,
            headers=headers,
            params={"start": 70 / FPS, "end": True},
            timeout=60,
        ).json()
    same(unbroken.segments, segments + answer["segments"])


def test_the_door_speaks_only_its_protocol(service, ids):
    """Another subprotocol, a bad parameter, a bad id."""
    with connect(f"{service.url.replace('http', 'ws')}/v1/streams/{next(ids)}/frames", subprotocols=["mqtt"]) as socket:
        assert json.loads(socket.recv())["code"] == "parameter_bad"
    for wrong in ("top_k=0", "colour=red", "policy=some"):
        with connect(
            f"{service.url.replace('http', 'ws')}/v1/streams/{next(ids)}/frames?{wrong}", subprotocols=["crt.v1"]
        ) as socket:
            told = json.loads(socket.recv())
            assert (told["code"], told["fatal"]) == ("parameter_bad", True)
    with (
        pytest.raises(InvalidStatus),
        connect(f"{service.url.replace('http', 'ws')}/v1/nowhere", subprotocols=["crt.v1"]),
    ):
        pass


# Encoded video


def encoded_video(kind, first, end, *, fps=FPS):
    """Frames first..end-1 as one live video in a container that can be read as it comes."""
    codec, container, options = {
        "webm": ("libvpx", "webm", {"live": "1"}),
        "mp4": ("libx264", "mp4", {"movflags": "frag_every_frame+empty_moov+default_base_moof"}),
        "ts": ("libx264", "mpegts", {}),
    }[kind]
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container, options=options) as file:
        stream = file.add_stream(codec, rate=25, options={"crf": "10", "b": "2M", "deadline": "realtime", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt, stream.max_b_frames = 160, 120, "yuv420p", 0
        stream.codec_context.time_base = Fraction(1, 1000)
        for i in range(first, end):
            frame = av.VideoFrame.from_ndarray(picture(i), format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = round((i - first) / fps * 1000), Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["webm", "mp4", "ts"])
def test_an_encoded_video_in_parts_gives_the_labels_of_the_file(service, client, ids, kind):
    """What a browser's MediaRecorder sends, fragmented MP4, a transport stream; cut anywhere."""
    video = encoded_video(kind, 0, FRAMES)
    answer = client.post("/v1/clips", content=video, headers={"content-type": "video/mp4"}, params={"top_k": 5}).json()
    camera = Camera(service.url, next(ids), subprotocol="crt.v1.video")
    rng = random.Random(0)
    at = 0
    while at < len(video):
        size = rng.randrange(1, 20_000)
        assert camera.send_raw(video[at : at + size])
        at += size
    told = camera.end()
    same(told.segments, answer["segments"])
    assert [one["reason"] for one in told.of("goodbye")] == ["end"]


def test_of_an_encoded_video_no_part_is_dropped(service, client, ids):
    """Under `live` either, however many parts wait: without one the rest could not be decoded."""
    video = encoded_video("webm", 0, FRAMES)
    answer = client.post("/v1/clips", content=video, headers={"content-type": "video/mp4"}, params={"top_k": 5}).json()
    camera = Camera(service.url, next(ids), subprotocol="crt.v1.video", policy="live")
    for at in range(0, len(video), 500):
        camera.socket.send(video[at : at + 500])
    told = camera.end()
    same(told.segments, answer["segments"])
    assert not told.of("dropped")


def test_a_broken_video_stream_goes_on_with_a_new_video(service, ids):
    """From a time of its own; what is known is ignored."""
    id = next(ids)
    camera = Camera(service.url, id, subprotocol="crt.v1.video", client="me")
    camera.send_raw(encoded_video("webm", 0, 110))
    camera.wait(lambda told: len(told.segments) >= 4)
    camera.cut()
    again = Camera(service.url, id, camera.told, subprotocol="crt.v1.video", client="me", start=75 / FPS)
    assert again.ready["position"] == 8.0
    again.send_raw(encoded_video("webm", 75, FRAMES))
    told = again.end()
    assert sorted(told.segments) == list(range(8))
    assert [(s["start"], s["missing"]) for s in told.segments.values()] == [(2.0 * i, 0) for i in range(8)]


def test_what_is_no_video_is_refused_on_a_video_stream(service, ids):
    """With the error's own code; and frames' times are not `start`'s business."""
    camera = Camera(service.url, next(ids), subprotocol="crt.v1.video")
    camera.send_raw(b"#EXTM3U\nhttp://127.0.0.1/secret" + bytes(5000))
    assert camera.join() == 4400
    assert camera.told.of("error")[0]["code"] in ("video_not_a_video", "video_unsupported")
    camera = Camera(service.url, next(ids), start=1)
    assert (camera.join(), camera.told.of("error")[0]["code"]) == (4400, "parameter_bad")
