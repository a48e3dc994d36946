"""Those who watch a stream and do not write to it; what the memory did; a stream that is taken back."""

import contextlib
import json
import socket
import threading

import httpx
import pytest

from tests.app.conftest import free_port, launch, running
from tests.app.streaming import Camera, Told, whole


class Watch:
    """A follower in a thread of its own."""

    def __init__(self, url: str, id: str, *, after: int | None = None, **parameters: object) -> None:
        self.messages: list[tuple[str | None, dict]] = []
        self.more = threading.Condition()
        self.client = httpx.Client(timeout=30)
        headers = {} if after is None else {"Last-Event-ID": str(after)}
        self.answer = self.client.send(
            self.client.build_request("GET", f"{url}/v1/streams/{id}/follow", params=parameters, headers=headers), stream=True
        )  # fmt: skip
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        number = None
        try:
            for line in self.answer.iter_lines():
                if line.startswith("id: "):
                    number = line[4:]
                elif line.startswith("data: "):
                    with self.more:
                        self.messages.append((number, json.loads(line[6:])))
                        self.more.notify_all()
                    number = None
        except httpx.HTTPError:
            pass

    def wait(self, test, seconds: float = 20) -> None:
        with self.more:
            assert self.more.wait_for(lambda: test(self), seconds), [one["type"] for _, one in self.messages]

    def of(self, kind: str) -> list[dict]:
        return [one for _, one in self.messages if one["type"] == kind]

    @property
    def final(self) -> list[dict]:
        return [one for one in self.of("segment") if one["final"]]

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.answer.extensions["network_stream"].get_extra_info("socket").shutdown(socket.SHUT_RDWR)
        self.thread.join(5)
        self.client.close()


@pytest.fixture
def watch():
    """Followers, which are sent home at the end."""
    all_of_them = []

    def begin(*args, **parameters):
        all_of_them.append(Watch(*args, **parameters))
        return all_of_them[-1]

    yield begin
    for one in all_of_them:
        one.close()


def test_a_follower_hears_what_the_writer_hears(service, watch):
    """The same segments and events, and those in the making; the stream remains its writer's."""
    camera = Camera(service.url, "watched")
    follower = watch(service.url, "watched")
    follower.wait(lambda w: w.of("writer"))
    camera.send(0, 90)
    told = camera.end()
    follower.wait(lambda w: len(w.final) == len(told.segments) and w.of("writer")[-1]["writing"] is False)
    assert follower.messages[0][1]["type"] == "following"
    assert follower.of("writer")[0]["writing"] is True
    kept = {one["index"]: {k: one[k] for k in ("start", "end", "labels", "missing")} for one in follower.final}
    assert kept == told.segments
    assert all(one["memory"] is None and one["latency"] is not None for one in follower.final)
    assert [number for number, one in follower.messages if one["type"] == "segment" and one["final"]] == [
        "0",
        "1",
        "2",
        "3",
    ]
    events = [
        tuple(e[n] for n in ("segment", "state", "label", "start", "end", "confidence")) for e in follower.of("event")
    ]
    assert events == told.events
    assert any(not one["final"] for one in follower.of("segment"))


def test_what_the_memory_did_is_told_to_those_who_ask(service, watch):
    """To a follower as to a writer, the same; and labels are those of a stream of which nobody asks."""
    unasked = whole(service.url, "unasked", 60)
    asked = Camera(service.url, "asked", memory="true")
    follower = watch(service.url, "asked", memory="true")
    follower.wait(lambda w: w.of("writer"))
    said = []
    take = asked.told.take
    asked.told.take = lambda one: (said.append(one), take(one))
    asked.send(0, 60)
    told = asked.end()
    follower.wait(lambda w: len(w.final) == len(told.segments))
    assert told.segments == unasked.segments
    uses = [one["memory"] for one in said if one["type"] == "segment" and one["final"]]
    assert uses == [one["memory"] for one in follower.final]
    for use in uses:
        assert len(use["vector"]) == 64
        assert use["change"] > 0
        assert 0 < use["read"] < 1
    assert all(one["memory"] is None for one in said if one["type"] == "segment" and not one["final"])


def test_a_follower_at_another_replica_hears_what_is_final(model, tmp_path, watch):
    """From the store that both share; it goes on after the last one it heard of, and is told when the service goes down."""
    store = {"CRT_SESSIONS": f"sqlite:///{tmp_path / 'shared.db'}", "CRT_THREADS": "1"}
    with running(model, tmp_path / "one", **store) as one, running(model, tmp_path / "two", **store) as two:
        camera = Camera(one.url, "far")
        camera.send(0, 30)
        camera.wait(lambda told: len(told.segments) == 1)
        follower = watch(two.url, "far", memory="true")
        follower.wait(lambda w: len(w.final) == 1)
        camera.send(30, 60)
        camera.wait(lambda told: len(told.segments) == 2)
        follower.wait(lambda w: len(w.final) == 2)
        assert [one["labels"] for one in follower.final] == [one["labels"] for one in camera.told.segments.values()]
        assert follower.final[1]["memory"]["change"] > 0
        assert follower.final[1]["memory"]["read"] is None
        late = watch(two.url, "far", after=0)
        late.wait(lambda w: w.final)
        assert [one["index"] for one in late.final] == [1]
        two.child.terminate()
        follower.wait(lambda w: w.of("problem"))
        assert follower.of("problem")[0]["problem"]["code"] == "service_moves"
        camera.cut()


def test_a_stream_that_is_deleted_ends_for_its_followers(service, client, watch):
    """And one that never was is refused at once."""
    assert client.get("/v1/streams/never/follow").json()["code"] == "session_unknown"
    client.post("/v1/streams", json={"id": "gone"})
    follower = watch(service.url, "gone")
    follower.wait(lambda w: w.of("writer"))
    client.delete("/v1/streams/gone")
    follower.wait(lambda w: w.of("problem"))
    assert follower.of("problem")[0]["problem"]["code"] == "session_unknown"
    follower.thread.join(5)
    assert not follower.thread.is_alive()


def test_nobody_begins_to_follow_a_service_that_goes_down(model, tmp_path):
    """One who was sent home and comes back at once would only hold it up."""
    with running(model, tmp_path, CRT_THREADS="1", CRT_DRAIN_SECONDS="20") as service:
        httpx.post(f"{service.url}/v1/streams", json={"id": "last"})
        camera = Camera(service.url, "last")
        camera.send(0, 5)
        with httpx.Client(base_url=service.url) as client:
            client.get("/healthz")  # a connection that is there already, as a browser has
            service.child.terminate()
            camera.wait(lambda told: told.of("goodbye"))
            # Or the door is shut already; what may not be is that it answers and goes on, which would be a timeout.
            with contextlib.suppress(httpx.NetworkError, httpx.RemoteProtocolError):
                refused = client.get("/v1/streams/last/follow", timeout=5)
                assert (refused.status_code, refused.json()["code"]) == (503, "service_moves")
        assert service.child.wait(10) in (0, -15)


def test_only_so_many_may_watch(model, tmp_path, watch):
    """One more is told to come back; whoever leaves makes room."""
    service = launch(model, tmp_path, free_port(), CRT_THREADS="1", CRT_FOLLOWERS="1")
    try:
        httpx.post(f"{service.url}/v1/streams", json={"id": "shown"})
        first = watch(service.url, "shown")
        first.wait(lambda w: w.of("writer"))
        refused = httpx.get(f"{service.url}/v1/streams/shown/follow")
        assert (refused.status_code, refused.json()["code"]) == (503, "busy")
        assert refused.headers["Retry-After"]
        first.close()
        first.thread.join(5)
        for _ in range(50):
            second = watch(service.url, "shown")
            if second.answer.status_code == 200:
                break
        assert second.answer.status_code == 200
    finally:
        service.child.terminate()
        service.child.wait(20)


def test_a_stream_that_is_taken_back_goes_on_as_if_nothing_had_been(service, client, watch):
    """Its writer is told and comes back; what it sends from there gives what it gave; followers are told, too."""
    first = Camera(service.url, "back", checkpoints=10)
    first.send(0, 90)
    first.wait(lambda told: len(told.segments) == 3)
    follower = watch(service.url, "back")
    follower.wait(lambda w: len(w.final) == 3)
    refused = client.post("/v1/streams/back/rewind", json={"segment": 1})
    assert (refused.status_code, refused.json()["code"]) == (409, "stream_owned")
    unknown = client.post("/v1/streams/back/rewind?takeover=true", json={"segment": 7})
    assert (unknown.status_code, unknown.json()["code"]) == (404, "checkpoint_unknown")
    answer = client.post("/v1/streams/back/rewind?takeover=true", json={"segment": 1})
    assert answer.json()["segment"] == 1
    assert answer.json()["checkpoints"] == [1, 1]
    assert answer.json()["writer"] is None
    assert first.join() == 4409
    assert first.told.of("error")[0]["code"] == "stream_rewound"
    assert first.told.of("goodbye")[0]["reason"] == "rewound"
    follower.wait(lambda w: w.of("rewound"))
    assert follower.of("rewound")[0]["segment"] == 1

    again = Camera(service.url, "back", Told())
    assert again.ready["segment"] == 1
    again.send(again.ready["resume_from"], 90)
    told = again.end()
    assert told.segments == whole(service.url, "straight", 90).segments
    follower.wait(lambda w: [one["index"] for one in w.final][-3:] == [1, 2, 3])


def test_a_stream_that_is_taken_back_to_0_begins_anew(service, client):
    """With its options and its name."""
    whole(service.url, "anew", 60, checkpoints=2)
    shown = client.post("/v1/streams/anew/rewind", json={"segment": 0}).json()
    assert (shown["segment"], shown["position"], shown["resume_from"]) == (0, None, 0)
    assert shown["options"]["checkpoints"] == 2
    assert whole(service.url, "anew", 60).segments == whole(service.url, "other", 60).segments
    bad = client.post("/v1/streams/anew/rewind", json={"segment": -1})
    assert (bad.status_code, bad.json()["code"]) == (422, "parameter_bad")


def test_the_list_in_full_has_last_labels_and_how_writers_do(service, client):
    """What a page shows of all streams, with one request."""
    camera = Camera(service.url, "listed")
    camera.send(0, 40)
    camera.wait(lambda told: len(told.segments) == 1)
    client.post("/v1/streams", json={"id": "listed-idle"})
    listed = client.get("/v1/streams?full=true&after=listec&limit=2").json()
    live, idle = listed["streams"]
    assert (live["id"], idle["id"]) == ("listed", "listed-idle")
    assert live["labels"] == camera.told.segments[0]["labels"]
    assert live["live"]["rate"] > 0
    assert live["live"]["latency"] > 0
    assert live["live"]["dropped"] == 0
    assert live["state_bytes"] > 300
    assert idle["live"] is None
    assert idle["labels"] == []
    camera.cut()
