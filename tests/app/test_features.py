"""Features over HTTP: the labels of the same features one after the other, once each, whatever is sent again or cut off."""

import signal
import threading
import time
from contextlib import ExitStack

import httpx
import numpy as np
import pytest

from models import checkpoint
from pipelines.recognizer import Recognizer
from tests.app.conftest import LABELS, free_port, launch, running
from tests.app.streaming import Camera

N = 30
"""Seven segments and a half."""


@pytest.fixture(scope="module")
def recognizer(model) -> Recognizer:
    return Recognizer(checkpoint.read(model), threads=1)


@pytest.fixture(scope="module")
def features(recognizer) -> np.ndarray:
    return np.random.default_rng(5).standard_normal((N, recognizer.spec.feature_width)).astype("<f4") * 3


@pytest.fixture(scope="module")
def wanted(recognizer, features) -> list[dict]:
    """By the recognizer alone."""
    memory, found, L = recognizer.initial_memory()[None], [], recognizer.segment
    for start in range(0, N, L):
        part = features[None, start : start + L]
        out = recognizer.advance(part, memory, np.ones(part.shape[:2], bool))
        memory = out.memory_BM
        found.append(dict(zip(LABELS, out.scores_BC[0].tolist(), strict=True)))
    return found


def post(client: httpx.Client, id: str, features: np.ndarray, clip: int, **parameters: object) -> httpx.Response:
    return client.post(
        f"/v1/streams/{id}/features", params={"clip": clip, "top_k": 5, **parameters}, content=features.tobytes(),
        headers={"Content-Type": "application/octet-stream"},
    )  # fmt: skip


def assert_same(segments: list[dict], wanted: list[dict]) -> None:
    for one in segments:
        got = {label["label"]: label["score"] for label in one["labels"]}
        assert got == pytest.approx(wanted[one["index"]], abs=2e-6)
        assert (one["start"], one["end"]) == (one["index"] * 2.0, min(one["index"] * 2.0 + 2.0, N * 0.5))


@pytest.mark.parametrize("sizes", [(N,), (4,) * 7 + (2,), (8, 20, 2)], ids=str)
def test_labels_are_those_of_the_features_one_after_the_other(client, features, wanted, sizes):
    """In one request or many; each tells its segments and where the stream stands."""
    id = f"features-{len(sizes)}"
    assert client.post("/v1/streams", json={"id": id}).status_code == 201
    at, segments, events = 0, [], []
    for size in sizes:
        answer = post(client, id, features[at : at + size], at, end=at + size == N)
        assert answer.status_code == 200, answer.text
        at += size
        assert answer.json()["clip"] == at
        segments += answer.json()["segments"]
        events += answer.json()["events"]
    assert [one["index"] for one in segments] == list(range(8))
    assert_same(segments, wanted)
    assert sum(one["state"] == "started" for one in events) == sum(one["state"] == "ended" for one in events) > 0
    shown = client.get(f"/v1/streams/{id}").json()
    assert (shown["segment"], shown["position"]) == (8, N * 0.5)


def test_what_is_sent_again_changes_nothing(client, features, wanted):
    """The last segments are told again, as long as they are known; a part that is new counts."""
    client.post("/v1/streams", json={"id": "again"})
    first = post(client, "again", features[:8], 0).json()
    assert post(client, "again", features[:8], 0).json() == first
    both = post(client, "again", features[4:16], 4).json()
    assert [one["index"] for one in both["segments"]] == [1, 2, 3]
    assert_same(both["segments"], wanted)
    assert both["clip"] == 16


@pytest.mark.parametrize(
    ("count", "parameters", "status", "code", "says"),
    [
        (4, {"clip": 4}, 409, "stream_gap", "has had 0 clips"),
        (3, {"clip": 0}, 422, "features_bad", "no whole segments of 4"),
        (0, {"clip": 0}, 422, "features_bad", "0 bytes are no features"),
        (1025, {"clip": 0}, 413, "upload_too_large", "at once"),
        (4, {"clip": -1}, 422, "parameter_bad", "greater than or equal to 0"),
    ],
)
def test_what_does_not_fit_is_named(client, features, count, parameters, status, code, says):
    client.post("/v1/streams", json={"id": "wrong"})
    some = np.resize(features, (count, features.shape[1]))
    answer = post(client, "wrong", some, **parameters)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert says in answer.text
    assert client.get("/v1/streams/wrong").json()["segment"] == 0


def test_a_body_that_is_no_features_is_named(client, features):
    client.post("/v1/streams", json={"id": "noise"})
    headers = {"Content-Type": "application/octet-stream"}
    cut = client.post("/v1/streams/noise/features?clip=0", content=features[:4].tobytes()[:-1], headers=headers)
    assert (cut.status_code, cut.json()["code"]) == (422, "features_bad")
    bad = features[:4].copy()
    bad[2, 7] = np.nan
    assert post(client, "noise", bad, 0).json()["code"] == "features_bad"
    kind = client.post("/v1/streams/noise/features?clip=0", content=b"[]", headers={"Content-Type": "application/json"})
    assert (kind.status_code, kind.json()["code"]) == (415, "upload_unsupported")
    assert post(client, "nobody", features[:4], 0).json()["code"] == "session_unknown"


def test_each_segment_of_a_request_is_in_the_ring(client, features, wanted):
    """A stream that keeps checkpoints can be taken up after any segment."""
    client.post("/v1/streams", json={"id": "ring", "checkpoints": 5})
    assert post(client, "ring", features[:28], 0).status_code == 200
    assert client.get("/v1/streams/ring").json()["checkpoints"] == [3, 7]
    state = client.get("/v1/streams/ring/state", params={"segment": 4}).json()["state"]
    client.post("/v1/streams", json={"id": "fork", "state": state})
    assert_same(post(client, "fork", features[16:24], 16).json()["segments"], wanted)


@pytest.mark.parametrize("signs", [(1.0, 1.0), (1.0, -1.0)], ids=["same", "alternating"])
def test_no_numbers_spoil_the_memory(client, features, signs):
    """The largest that there are: refused, or without harm to what comes after."""
    id = f"spoilt-{signs[1]}"
    client.post("/v1/streams", json={"id": id})
    large = np.resize(np.array(signs, "<f4") * np.float32(3e38), features[:4].shape)
    answer = post(client, id, large, 0)
    assert answer.status_code == 200 or answer.json()["code"] == "features_bad"
    clip = client.get(f"/v1/streams/{id}").json()["segment"] * 4
    labels = post(client, id, features[:4], clip).json()["segments"][-1]["labels"]
    assert sum(one["score"] for one in labels) == pytest.approx(1, abs=1e-4)
    assert 0 < client.get(f"/v1/streams/{id}").json()["memory"]["norm"] < 100


def test_a_stream_that_somebody_writes_to_is_not_theirs(service, client, features):
    camera = Camera(service.url, "owned")
    camera.send(0, 5)
    answer = post(client, "owned", features[:4], 0)
    assert (answer.status_code, answer.json()["code"]) == (409, "stream_owned")
    camera.end()


def test_many_at_once_on_one_stream_count_once(service, client, features, wanted):
    """Eight send the same segments at the same time: each is told the same, and the stream has them once."""
    client.post("/v1/streams", json={"id": "crowd"})
    told: list[list[dict]] = []

    def send() -> None:
        with httpx.Client(base_url=service.url, timeout=60) as own:
            segments = []
            for at in range(0, 28, 4):
                segments += post(own, "crowd", features[at : at + 4], at).json().get("segments", [])
            told.append(segments)

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(told) == 8
    for segments in told:
        assert_same(segments, wanted)
    last = post(client, "crowd", features[28:], 28, end=True).json()
    assert last["clip"] == N
    assert_same(last["segments"], wanted)


def test_two_services_that_share_a_store_take_turns(model, features, wanted, tmp_path):
    """What one remembers of a stream is not believed when the other has gone on."""
    with ExitStack() as stack:
        services = [stack.enter_context(running(model, tmp_path, CRT_THREADS="1")) for _ in range(2)]
        clients = [stack.enter_context(httpx.Client(base_url=one.url, timeout=60)) for one in services]
        clients[0].post("/v1/streams", json={"id": "turns"})
        segments = []
        for number, at in enumerate(range(0, 28, 4)):
            answer = post(clients[number % 2], "turns", features[at : at + 4], at)
            assert answer.status_code == 200, answer.text
            segments += answer.json()["segments"]
            # Who asks again at the other one is told the same.
            again = post(clients[1 - number % 2], "turns", features[at : at + 4], at).json()
            assert (again["clip"], again["segments"]) == (at + 4, answer.json()["segments"])
        assert [segment["index"] for segment in segments] == list(range(7))
        assert_same(segments, wanted)


def test_kill_9_changes_no_label(model, features, wanted, tmp_path):
    """The service is killed while sixteen streams send; each goes on by what it was told, and sends again what it was not."""
    port = free_port()
    service = launch(model, tmp_path, port, CRT_THREADS="1")
    done: dict[int, list[dict]] = {}

    def send(number: int) -> None:
        segments: dict[int, dict] = {}
        with httpx.Client(base_url=service.url, timeout=60) as own:
            at = 0
            while at < 28:
                try:
                    own.post("/v1/streams", json={"id": f"killed-{number}"})
                    answer = post(own, f"killed-{number}", features[at : at + 4], at).raise_for_status().json()
                except httpx.TransportError:
                    time.sleep(0.1)
                    continue
                segments |= {one["index"]: one for one in answer["segments"]}
                at += 4
        done[number] = list(segments.values())

    threads = [threading.Thread(target=send, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        threads[0].join(0.15)
        service.child.send_signal(signal.SIGKILL)
        service.child.wait()
        service = launch(model, tmp_path, port, CRT_THREADS="1")
    try:
        for thread in threads:
            thread.join(60)
        assert len(done) == 16
        for segments in done.values():
            assert [one["index"] for one in segments] == list(range(7))
            assert_same(segments, wanted)
    finally:
        service.child.kill()
        service.child.wait()
