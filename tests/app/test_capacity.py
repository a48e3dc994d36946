"""One stream too many is refused before it makes the others late, and told when to come back."""

import asyncio
from contextlib import ExitStack

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from app.capacity import LATE, LOOKS, MEMORY, Capacity
from app.client import StreamClient
from app.metrics import Metrics
from app.problems import Busy
from tests.app.conftest import running
from tests.app.streaming import Camera, encoded

COST = 0.01
"""Seconds of a clip: at two a second and with all besides, 0.027 cores a stream."""


class Behind:
    """How far behind clips are."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def capacity(metrics: Metrics, behind: Behind, *, cores: float = 1.0, most: int = 1000) -> Capacity:
    return Capacity(metrics, cores=cores, most=most, rate=2.0, cost=COST, behind=behind)


def fill(one: Capacity, places: ExitStack) -> int:
    """Takes all places; returns how many there were."""
    for count in range(1000):
        try:
            places.enter_context(one.admit())
        except Busy:
            return count
    raise AssertionError("no end of places")


def test_streams_are_admitted_while_the_cores_last():
    one = capacity(Metrics(), Behind())
    with ExitStack() as places:
        assert fill(one, places) == 37
    with ExitStack() as places:  # all have been given back
        assert fill(one, places) == 37


def test_the_first_one_is_always_admitted():
    one = capacity(Metrics(), Behind(), cores=0.001)
    with ExitStack() as places:
        assert fill(one, places) == 1


def test_there_are_never_more_than_the_setting_says():
    one = capacity(Metrics(), Behind(), most=3)
    with ExitStack() as places:
        assert fill(one, places) == 3


def test_no_share_is_no_bound_but_the_number():
    behind = Behind()
    one = capacity(Metrics(), behind, cores=0, most=100)
    behind.seconds = 4 * LATE
    one.look()
    with ExitStack() as places:
        assert fill(one, places) == 100


def test_what_clips_take_counts_for_more_than_the_guess():
    metrics = Metrics()
    one = capacity(metrics, Behind())
    for _ in range(4 * MEMORY):
        metrics.cpu.labels("decode").inc(0.008)
        metrics.cpu.labels("backbone").inc(0.010)
        metrics.cpu.labels("crt").inc(0.002)
        metrics.batch.labels("backbone").observe(1)
        metrics.batch.labels("crt").observe(1)
        one.look()
    with ExitStack() as places:
        assert fill(one, places) in (18, 19)  # 0.054 cores each, but for what is left of the guess
    assert f"crt_live_streams_most {19.0}" in metrics.text().decode()


def test_no_stream_is_admitted_while_clips_wait():
    behind = Behind()
    one = capacity(Metrics(), behind)
    with one.admit():
        behind.seconds = 4 * LATE
        for _ in range(LOOKS):
            one.look()
        with pytest.raises(Busy, match=r"clips wait 1\.00 s"), one.admit():
            pass
        behind.seconds = 0.0
        for _ in range(LOOKS):
            one.look()
        with one.admit():
            pass


def test_the_handshake_is_answered_with_503_and_others_go_on(model, tmp_path):
    with running(model, tmp_path, CRT_STREAMS_SHARE="0.0001", CRT_THREADS="1") as service:
        first = Camera(service.url, "first")
        address = f"{service.url.replace('http', 'ws')}/v1/streams/second/frames"
        with pytest.raises(InvalidStatus) as refused:
            connect(address)
        answer = refused.value.response
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) > 0
        assert b'"code":"busy"' in answer.body
        assert b"1 streams are live" in answer.body
        assert httpx.get(f"{service.url}/v1/streams/second").status_code == 404  # nothing was made
        metrics = httpx.get(f"{service.url}/metrics").text
        assert 'crt_streams_refused_total{code="busy"} 1.0' in metrics
        first.send(0, 30)
        first.wait(lambda told: len(told.segments) == 1)

        async def later() -> list[dict]:
            """The product's client comes back when it is told to."""
            told = []
            async for message in StreamClient(service.url, "second").messages(iter(frames)):
                told.append(message)
                if message["type"] == "disconnected":
                    assert "503" in message["detail"]
                    assert message["pause"] >= Busy.retry_after
                    first.cut()
            return told

        frames = [(i, i / 12.5, encoded(i)) for i in range(30)]
        told = asyncio.run(later())
        assert [one["type"] for one in told[:2]] == ["disconnected", "ready"]
        assert any(one["type"] == "segment" and one["final"] for one in told)
        assert "ERROR" not in service.log.read_text()  # to refuse is no fault of the service
