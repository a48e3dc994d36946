"""GET /metrics of a real service, before and after it has done what is counted."""

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.app.conftest import ROOT, running
from tests.app.streaming import Camera, message, whole

FRAMES = 60
"""4.8 s at 12.5 a second: 38 are sampled, for nine clips and a rest in two segments and a rest."""


def scraped(url: str) -> dict[str, float]:
    """Every sample by its name and labels."""
    answer = httpx.get(f"{url}/metrics").raise_for_status()
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return {
        sample.name + "".join(f",{name}={value}" for name, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


@pytest.fixture(scope="module")
def alone(model, tmp_path_factory):
    """A service that nobody else uses."""
    with running(model, tmp_path_factory.mktemp("metrics"), CRT_THREADS="1") as service:
        yield service


def grown(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """What has changed by how much, buckets and the process's own left out."""
    return {
        name: value - before.get(name, 0)
        for name, value in after.items()
        if name.startswith("crt_") and "_bucket" not in name and "_created" not in name and value != before.get(name, 0)
    }


def test_a_stream_is_counted_from_frames_to_commits(alone):
    before = scraped(alone.url)
    assert before["crt_live_streams"] == before["crt_frames_dropped_total,reason=gap"] == 0
    camera = Camera(alone.url, "counted")
    camera.send(0, FRAMES)
    assert scraped(alone.url)["crt_live_streams"] == 1
    camera.end()
    change = grown(before, scraped(alone.url))
    assert change["crt_frames_received_total"] == FRAMES
    assert change["crt_frames_sampled_total"] == change["crt_compute_seconds_count,stage=decode"] == 38
    assert change["crt_queue_seconds_count,stage=backbone"] == 10
    # A provisional label after each clip but the fourth of a segment.
    assert change["crt_label_latency_seconds_count,kind=final"] == 3
    assert change["crt_label_latency_seconds_count,kind=provisional"] == 3 + 3 + 2
    assert change["crt_queue_seconds_count,stage=crt"] == change["crt_batch_size_sum,stage=crt"] == 11
    assert change["crt_batch_size_sum,stage=backbone"] == 10
    assert change["crt_streams_admitted_total"] == 1
    assert "crt_streams_resumed_total" not in change
    assert change["crt_sessions"] == 1
    # Three segments, the end of the stream and the connection's.
    assert (
        change["crt_commits_total"]
        == change["crt_state_bytes_count"]
        == change["crt_compute_seconds_count,stage=store"]
        == 5
    )
    assert 600 < change["crt_state_bytes_sum"] / 5 < 8192
    for name, value in change.items():
        if name.startswith(
            ("crt_cpu", "crt_compute_seconds_sum", "crt_queue_seconds_sum", "crt_label_latency_seconds_sum")
        ):
            assert 0 < value < 60, name
    assert not [name for name in change if "dropped" in name or "errors" in name or "refused" in name]


def test_what_goes_wrong_is_counted_by_its_reason(alone):
    before = scraped(alone.url)
    camera = Camera(alone.url, "wrong")
    camera.send(0, 2)
    camera.send_raw(message(5))  # 2, 3 and 4 are missing
    camera.send_raw(message(6, seconds=0.0))
    camera.send_raw(message(20, data=b"no picture"))  # 7 to 19 are missing, and it is of no use
    assert Camera(alone.url, "wrong").join() == 4409
    camera.end()
    assert httpx.get(f"{alone.url}/v1/streams/nobody").status_code == 404
    assert httpx.get(f"{alone.url}/nothing").status_code == 404
    assert httpx.post(f"{alone.url}/v1/clips?top_k=0", content=b"").status_code == 422
    change = grown(before, scraped(alone.url))
    assert change["crt_frames_dropped_total,reason=gap"] == 3 + 13
    assert change["crt_frames_dropped_total,reason=late"] == 1
    assert change["crt_frames_dropped_total,reason=undecodable"] == 1
    assert change["crt_streams_refused_total,code=stream_owned"] == 1
    errors = {name.partition("code=")[2]: value for name, value in change.items() if name.startswith("crt_errors")}
    assert errors == {"stream_owned": 1, "session_unknown": 1, "not_found": 1, "parameter_bad": 1}


def test_a_stream_that_comes_back_counts_as_resumed(alone):
    before = scraped(alone.url)
    Camera(alone.url, "returning", client="one").cut()
    whole(alone.url, "returning", FRAMES, client="one")
    change = grown(before, scraped(alone.url))
    assert (change["crt_streams_admitted_total"], change["crt_streams_resumed_total"]) == (2, 1)


def test_videos_are_counted(alone):
    before = scraped(alone.url)
    video = (ROOT / "examples" / "kitchen.mp4").read_bytes()
    httpx.post(f"{alone.url}/v1/clips", files={"video": video}, timeout=60).raise_for_status()
    httpx.post(f"{alone.url}/v1/clips", files={"video": video[:5000]}, timeout=60)
    change = grown(before, scraped(alone.url))
    assert change["crt_videos_total"] == 1
    assert sum(value for name, value in change.items() if name.startswith("crt_errors")) == 1


def test_while_the_store_is_away_the_rest_is_still_told(model, tmp_path):
    """Its own numbers are none then, rather than old ones."""
    from benchmarks.sessions import RedisServer

    with RedisServer(tmp_path) as redis:
        url = f"redis://127.0.0.1:{redis.port}/0"
        with running(model, tmp_path / "service", CRT_SESSIONS=url, CRT_STORE_SECONDS="0.2") as service:
            assert scraped(service.url)["crt_sessions"] == 0
            redis.kill()
            there = scraped(service.url)
            assert there["crt_sessions"] != there["crt_sessions"]
            assert there["crt_live_streams"] == 0
            redis.start()


def test_every_metric_is_documented(alone):
    """And none is that there is not."""
    page = (ROOT / "docs" / "metrics.md").read_text()
    answer = httpx.get(f"{alone.url}/metrics").text
    families = {
        family.name: family for family in text_string_to_metric_families(answer) if family.name.startswith("crt_")
    }
    told = {name + ("_total" if family.type == "counter" else ""): family.type for name, family in families.items()}
    listed = dict(line.split("|")[1:3] for line in page.splitlines() if line.startswith("| `crt_"))
    assert {name.strip(" `"): kind.strip() for name, kind in listed.items()} == told
