"""POST /v1/clips through a real server process: both bodies, all forms of answer, every error, hostile and impatient clients."""

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path

import av
import httpx
import numpy as np
import pytest

from app.problems import STATUS
from app.routes.clips import _Stream
from models import checkpoint
from models.small import SPEC
from pipelines.frames import Frame
from pipelines.label import Labelling, describe
from pipelines.recognizer import Recognizer
from pipelines.sample import fit
from pipelines.streaming import Stream, StreamState
from tests.app.conftest import LABELS, ROOT, Service, running
from tests.processes import children

KITCHEN = ROOT / "examples" / "kitchen.mp4"


def post(client: httpx.Client, path: Path = KITCHEN, **more: object) -> httpx.Response:
    with path.open("rb") as file:
        return client.post("/v1/clips", files={"video": (path.name, file, "video/mp4")}, **more)


def problem(answer: httpx.Response, status: int, code: str) -> dict:
    """The problem that an answer must be."""
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert (answer.status_code, body["status"], body["code"]) == (status, status, code), body
    assert body["type"] == "about:blank"
    assert body["title"]
    assert len(body["detail"]) > 10
    return body


def uploads(service: Service) -> list[str]:
    """What the service holds of uploads: files in its spool, with a name or, as it does it, without."""
    links = []
    for descriptor in Path(f"/proc/{service.process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            links.append(os.readlink(descriptor))
    return [*os.listdir(service.spool), *(link for link in links if link.startswith(str(service.spool)))]


def no_uploads_left(service: Service) -> bool:
    return wait_until(lambda: not uploads(service))


def wait_until(condition: Callable[[], bool]) -> bool:
    for _ in range(100):
        if condition():
            return True
        time.sleep(0.1)
    return False


def decoders(service: Service) -> int:
    """Decoders at work, and the process that forks them."""
    return len(children(service.process, "pipelines.decode_worker", recursive=True))


def encode(path: Path, seconds: float, *, size: tuple[int, int] = (64, 48), fps: int = 5) -> Path:
    """A long video of few bytes."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=fps)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for number in range(int(seconds * fps)):
            pixels = np.full((size[1], size[0], 3), number % 200, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


def test_a_form_gives_labels_segments_events_and_timing(client, service):
    """Every field of the answer is there and right for the example."""
    answer = post(client, params={"top_k": 3})
    assert answer.status_code == 200
    body = answer.json()
    assert body["model"]["name"] == "random"
    assert body["model"]["digest"].startswith("sha256:")
    with av.open(str(KITCHEN)) as container:
        frames = sum(1 for _ in container.decode(video=0))
    video = body["video"]
    assert (video["frames"], video["width"], video["height"], video["fps"]) == (frames, 640, 480, 25.0)
    assert video["duration"] == pytest.approx(frames / 25)
    assert video["sampled"] == pytest.approx(video["duration"] * 8, abs=1)
    assert [label["label"] for label in body["labels"]] != []
    assert "Background" not in {label["label"] for label in body["labels"]}
    assert len(body["labels"]) == 3
    scores = [label["score"] for label in body["labels"]]
    assert scores == sorted(scores, reverse=True)
    ends = [0.0]
    for index, segment in enumerate(body["segments"]):
        assert segment["index"] == index
        assert segment["start"] == pytest.approx(ends[-1])
        ends.append(segment["end"])
    assert ends[-1] == pytest.approx(video["duration"], abs=0.2)
    for event in body["events"]:
        assert event["label"] in LABELS[1:]
        assert 0 <= event["start"] < event["end"] <= ends[-1]
        assert 0 <= event["confidence"] <= 1
    timing = body["timing"]
    assert timing["total"] >= timing["features"] > 0
    assert body["warnings"] == []
    assert no_uploads_left(service)


@pytest.mark.parametrize("kind", ["video/mp4", "video/x-unheard-of", "application/octet-stream"])
def test_a_raw_body_gives_the_same_as_a_form(client, kind):
    """But for the time that it took."""
    form, raw = (
        post(client).json(),
        client.post("/v1/clips", content=KITCHEN.read_bytes(), headers={"Content-Type": kind}).json(),
    )
    del form["timing"], raw["timing"]
    assert raw == form


@pytest.fixture(scope="module")
def ten_minutes(service, tmp_path_factory) -> tuple[bytes, dict]:
    """A video, and the plain answer to it."""
    video = encode(tmp_path_factory.mktemp("long") / "long.mp4", 600).read_bytes()
    headers = {"Content-Type": "video/mp4"}
    return video, httpx.post(f"{service.url}/v1/clips", content=video, headers=headers, timeout=60).json()


@pytest.mark.parametrize(("accept", "split"), [("application/x-ndjson", b"\n"), ("text/event-stream", b"\n\n")])
def test_segments_come_as_they_are_made(client, ten_minutes, accept, split):
    """The first segment is here long before the last; together they are what the plain answer holds."""
    video, plain = ten_minutes
    items, times, started = [], [], time.perf_counter()
    with client.stream(
        "POST", "/v1/clips", content=video, headers={"Content-Type": "video/mp4", "Accept": accept}
    ) as answer:
        assert answer.headers["content-type"].startswith(accept)
        rest = b""
        for chunk in answer.iter_bytes():
            *whole, rest = (rest + chunk).split(split)
            for one in whole:
                text = one.decode()
                if accept == "text/event-stream":
                    event, data = text.split("\n")
                    text = data.removeprefix("data: ")
                    assert event == "event: " + json.loads(text)["type"]
                items.append(json.loads(text))
                times.append(time.perf_counter() - started)
    assert rest == b""
    assert [item["type"] for item in items] == ["segment"] * (len(items) - 1) + ["result"]
    assert items[-1]["video"]["duration"] == pytest.approx(600, abs=1)
    assert times[0] < times[-1] / 3
    assert [{k: v for k, v in item.items() if k != "type"} for item in items[:-1]] == plain["segments"]


def test_the_service_the_command_and_frames_one_by_one_give_the_same(client, model):
    """One truth: the same frames with the same times give the same labels."""
    served = post(client, params={"top_k": 5}).json()
    command = [sys.executable, "-m", "pipelines.label", str(KITCHEN), "--json", "--top-k", "5", "--model", str(model)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    said = json.loads(done.stdout)
    recognizer = Recognizer(checkpoint.load(model), threads=1)
    stream = Stream(
        recognizer.spec,
        recognizer.segment,
        recognizer.labels,
        "Background",
        StreamState(memory_M=recognizer.initial_memory()),
    )
    segments = []

    def advance(segment):
        out = recognizer.advance(segment.features_LF[None], segment.memory_M[None], segment.mask_L[None])
        segments.append(stream.advance(segment, out.scores_BC[0], out.scores_BLC[0], out.memory_BM[0]).result)

    def features(clips):
        for clip in clips:
            if (segment := stream.add(clip, recognizer.features([clip.frames])[0])) is not None:
                advance(segment)

    with av.open(str(KITCHEN)) as container:
        for picture in container.decode(video=0):
            if ticks := stream.take(picture.time):
                features(
                    stream.push(Frame(fit(picture.to_ndarray(format="rgb24"), recognizer.spec), picture.time), ticks)
                )
    features(stream.finish())
    if (rest := stream.rest()) is not None:
        advance(rest)
    for answer in (served, said):
        assert len(answer["segments"]) == len(segments)
        for told, own in zip(answer["segments"], segments, strict=True):
            by_label = {one["label"]: one["score"] for one in told["labels"]}
            # decord and PyAV convert colours with rounding of their own.
            assert [by_label[label] for label in LABELS] == pytest.approx(own.scores_C.tolist(), abs=0.02)
    for told, own in zip(served["segments"], said["segments"], strict=True):
        assert told["labels"] == [
            {"label": one["label"], "score": pytest.approx(one["score"], abs=1e-5)} for one in own["labels"]
        ]


def test_batches_change_no_label(model):
    """Clip by clip or all at once: scores equal to 1e-5."""
    recognizer = Recognizer(checkpoint.load(model), threads=1)
    rng = np.random.default_rng(0)
    clips = rng.integers(0, 255, (9, 4, SPEC.height, SPEC.width, 3), np.uint8)
    together = recognizer.features(clips)
    alone = np.concatenate([recognizer.features(clip[None]) for clip in clips])
    assert np.abs(together - alone).max() < 1e-5 * max(1, np.abs(alone).max())


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "upload_missing"),
        (b"hello, I am no video at all, only text", 415, "video_not_a_video"),
        (
            b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
            415,
            "video_not_a_video",
        ),
        (b"\x00\x00\x00\x18ftypmp42" + bytes(200), 422, "video_corrupt"),
    ],
    ids=["empty", "text", "playlist", "mp4 header alone"],
)
def test_what_is_no_video_gets_its_own_code(client, service, body, status, code):
    """And leaves nothing behind; the service goes on."""
    problem(client.post("/v1/clips", content=body, headers={"Content-Type": "video/mp4"}), status, code)
    assert no_uploads_left(service)
    assert client.get("/healthz").json() == {"status": "ok"}


def test_a_truncated_video_gets_labels_and_a_warning(client, tmp_path):
    """Of what can be decoded; the warning says that something is missing."""
    whole = tmp_path / "whole.mkv"
    encode(whole, 20, fps=10)
    data = whole.read_bytes()
    body = client.post("/v1/clips", content=data[: len(data) // 2], headers={"Content-Type": "video/x-matroska"}).json()
    assert body["video"]["duration"] < 19
    assert body["segments"]
    assert body["warnings"][0]["code"] in {"video_truncated", "video_damaged"}


def test_mistakes_in_forms_are_named(client):
    """No field, another field, two fields, no boundary, broken off, another type."""
    data = KITCHEN.read_bytes()
    assert "'clip'" in problem(client.post("/v1/clips", files={"clip": data}), 400, "upload_missing")["detail"]
    problem(client.post("/v1/clips", files=[("video", data), ("video", data)]), 400, "upload_malformed")
    problem(client.post("/v1/clips", files={"video": b""}), 400, "upload_missing")
    problem(
        client.post("/v1/clips", content=b"x", headers={"Content-Type": "multipart/form-data"}), 400, "upload_malformed"
    )
    form = b'--b\r\nContent-Disposition: form-data; name="video"; filename="a.mp4"\r\n\r\nabc'
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    problem(client.post("/v1/clips", content=form, headers=kind), 400, "upload_malformed")
    many = "".join(f'--b\r\nContent-Disposition: form-data; name="n{i}"\r\n\r\nx\r\n' for i in range(150))
    long = f'--b\r\nContent-Disposition: form-data; name="video"; filename="{"a" * 20_000}"\r\n\r\nx\r\n'
    problem(
        client.post("/v1/clips", content=b"x", headers={"Content-Type": f"multipart/form-data; boundary={'b' * 300}"}),
        400,
        "upload_malformed",
    )
    for body in (many, long):
        problem(client.post("/v1/clips", content=(body + "--b--\r\n").encode(), headers=kind), 400, "upload_malformed")
    problem(client.post("/v1/clips", json={"video": "x"}), 415, "upload_unsupported")
    problem(client.post("/v1/clips"), 415, "upload_unsupported")


def test_other_fields_of_a_form_are_passed_over(client):
    """A browser's form may carry more than the video."""
    with KITCHEN.open("rb") as file:
        answer = client.post("/v1/clips", data={"note": "x" * 1000}, files={"video": file})
    assert answer.status_code == 200


@pytest.mark.parametrize("top_k", ["0", "-1", "many", "1001"])
def test_an_impossible_top_k_is_named(client, top_k):
    """With the parameter."""
    body = problem(post(client, params={"top_k": top_k}), 422, "parameter_bad")
    assert body["errors"][0]["parameter"] == "top_k"


def test_the_api_description_shows_every_problem_with_its_code(client):
    """By status, each with an example of the shape that it comes in."""
    api = client.get("/openapi.json").json()
    shown = {
        code: (int(status), example["value"])
        for status, answer in api["paths"]["/v1/clips"]["post"]["responses"].items()
        for code, example in answer["content"].get("application/problem+json", {}).get("examples", {}).items()
    }
    expected = {code for code in STATUS if code.startswith(("upload", "video", "parameter", "busy", "not_acceptable"))}
    assert expected <= set(shown)
    for code, (status, example) in shown.items():
        assert (example["code"], example["status"]) == (code, status) == (code, STATUS[code])


def test_unknown_paths_and_methods_are_problems_too(client):
    """404 and 405 have the same shape as all else."""
    problem(client.get("/v1/nothing"), 404, "not_found")
    assert "GET" not in problem(client.delete("/v1/clips"), 405, "method_not_allowed")["title"]
    problem(post(client, headers={"Accept": "image/png"}), 406, "not_acceptable")


def test_an_upload_beyond_the_limit_is_refused_whether_announced_or_not(model, tmp_path):
    """By Content-Length at once; without one as soon as the bytes are too many. Nothing stays on disk."""
    with (
        running(model, tmp_path, CRT_UPLOAD_BYTES="200000", CRT_THREADS="1") as service,
        httpx.Client(base_url=service.url) as client,
    ):
        problem(
            client.post("/v1/clips", content=bytes(300_000), headers={"Content-Type": "video/mp4"}),
            413,
            "upload_too_large",
        )

        def endless():
            for _ in range(400):
                yield bytes(10_000)

        # The answer comes while the client still sends, and reaches it.
        answer = client.post("/v1/clips", content=endless(), headers={"Content-Type": "video/mp4"})
        problem(answer, 413, "upload_too_large")
        form = [("note", b"x" * 100_000)] * 5
        problem(client.post("/v1/clips", files=form), 413, "upload_too_large")
        assert no_uploads_left(service)


def test_an_upload_that_stops_half_way_is_given_up(model, tmp_path):
    """After CRT_UPLOAD_IDLE_SECONDS without a byte, with 408; one that is slow and goes on is not."""
    data = KITCHEN.read_bytes()
    head = b"POST /v1/clips HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: video/mp4\r\n"
    head += b"Content-Length: %d\r\n\r\n" % len(data)
    with running(model, tmp_path, CRT_UPLOAD_IDLE_SECONDS="1", CRT_THREADS="1") as service:
        host, port = service.url.removeprefix("http://").split(":")
        for pieces, status in ((1, b"408"), (8, b"200")):
            with socket.create_connection((host, int(port)), timeout=60) as raw:
                raw.sendall(head)
                for piece in range(pieces):
                    raw.sendall(data[len(data) * piece // 8 : len(data) * (piece + 1) // 8])
                    time.sleep(0.4)
                answer = b"".join(iter(lambda: raw.recv(1 << 16), b""))
            assert answer.split(b" ", 2)[1] == status, answer[:300]
            assert (b"upload_stalled" in answer) == (status == b"408")
        assert no_uploads_left(service)


def test_an_upload_that_only_trickles_is_given_up(model, tmp_path):
    """It would hold a place for hours; the answer says how fast it must come."""
    settings = {"CRT_UPLOAD_IDLE_SECONDS": "1", "CRT_UPLOAD_RATE": "1000", "CRT_THREADS": "1"}
    with running(model, tmp_path, **settings) as service:
        host, port = service.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=30) as raw:
            raw.sendall(
                b"POST /v1/clips HTTP/1.1\r\nHost: x\r\nContent-Type: video/mp4\r\nContent-Length: 1000000\r\n\r\n"
            )
            for _ in range(8):
                raw.sendall(b"x")
                time.sleep(0.3)
            answer = raw.recv(1 << 16)
        assert answer.split(b" ", 2)[1] == b"408", answer[:300]
        assert b"bytes a second" in answer
        assert no_uploads_left(service)


def test_a_client_that_does_not_read_loses_its_place():
    """To those who wait for it; called as a server would, since kernels buffer megabytes before a send has to wait."""
    ended = []

    async def pieces():
        while True:
            yield b"x"

    async def never():
        await asyncio.Event().wait()

    async def send(message):
        if message["type"] == "http.response.body":
            await never()

    async def play():
        stack = AsyncExitStack()
        stack.callback(ended.append, True)
        answer = _Stream(pieces())
        answer.stack, answer.patience = stack, 0.2
        await asyncio.wait_for(answer({"type": "http", "asgi": {"spec_version": "2.3"}}, never, send), 10)

    asyncio.run(play())
    assert ended == [True]


def test_a_full_disk_is_told_and_the_service_goes_on(model, tmp_path):
    """507; a smaller upload fits."""
    (tmp_path / "spool").mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "spool", tmp_path / "spool"], capture_output=True
    ).returncode:
        pytest.skip("a small file system cannot be mounted here: needs root")
    try:
        with (
            running(model, tmp_path, CRT_THREADS="1") as service,
            httpx.Client(base_url=service.url, timeout=60) as client,
        ):
            big = client.post("/v1/clips", content=bytes(8 << 20), headers={"Content-Type": "video/mp4"})
            problem(big, 507, "upload_no_space")
            assert post(client).status_code == 200
    finally:
        subprocess.run(["umount", "-l", tmp_path / "spool"], check=True)


def test_a_video_over_its_budget_is_refused_in_bounded_time(model, tmp_path):
    """Longer than CRT_VIDEO_SECONDS."""
    video = encode(tmp_path / "long.mp4", 60)
    with (
        running(model, tmp_path / "s", CRT_VIDEO_SECONDS="30", CRT_THREADS="1") as service,
        httpx.Client(base_url=service.url) as client,
    ):
        problem(post(client, video), 413, "video_too_long")


def test_when_all_places_are_taken_the_answer_is_503_with_retry_after(model, tmp_path):
    """And when they are free again, the service takes videos again."""
    video = encode(tmp_path / "long.mp4", 3000)
    settings = {"CRT_VIDEOS": "1", "CRT_WAITING": "0", "CRT_THREADS": "1"}
    with (
        running(model, tmp_path / "s", **settings) as service,
        httpx.Client(base_url=service.url, timeout=60) as client,
    ):
        with client.stream(
            "POST",
            "/v1/clips",
            content=video.read_bytes(),
            headers={"Content-Type": "video/mp4", "Accept": "application/x-ndjson"},
        ) as answer:
            lines = answer.iter_lines()  # kept: the answer is closed with it
            next(lines)
            refused = post(client)
            problem(refused, 503, "busy")
            assert int(refused.headers["Retry-After"]) > 0
        for _ in range(100):
            if (again := post(client)).status_code == 200:
                break
            time.sleep(0.2)
        assert again.status_code == 200
        assert no_uploads_left(service)


def test_a_client_that_goes_away_stops_the_work(service, tmp_path):
    """Its decoder is gone and its upload, too, long before the video could have been labelled."""
    video = encode(tmp_path / "long.mp4", 3600, fps=8)

    idle = decoders(service)
    with (
        httpx.Client(base_url=service.url, timeout=60) as client,
        client.stream(
            "POST",
            "/v1/clips",
            content=video.read_bytes(),
            headers={"Content-Type": "video/mp4", "Accept": "application/x-ndjson"},
        ) as answer,
    ):
        lines = answer.iter_lines()  # kept: the answer is closed with it
        next(lines)
        assert decoders(service) == idle + 1
        assert uploads(service)
    assert no_uploads_left(service)
    assert wait_until(lambda: decoders(service) == idle)


def test_clients_that_have_seen_enough_leave_no_error_behind(model, tmp_path):
    """What a thread reads from stays open until the thread is done with it."""
    video = encode(tmp_path / "minutes.mp4", 600, fps=8)
    with running(model, tmp_path / "service", CRT_THREADS="1") as service:
        for _ in range(10):
            with (
                httpx.Client(base_url=service.url, timeout=60) as client,
                client.stream(
                    "POST",
                    "/v1/clips",
                    content=video.read_bytes(),
                    headers={"Content-Type": "video/mp4", "Accept": "application/x-ndjson"},
                ) as answer,
            ):
                next(answer.iter_lines())
        idle = decoders(service)
        assert wait_until(lambda: decoders(service) <= idle)
        assert no_uploads_left(service)
    log = service.log.read_text()
    assert "Traceback" not in log
    assert "ERROR" not in log


def test_a_client_that_tires_of_waiting_stops_the_work(service, tmp_path):
    """As JSON there is nothing to send before the end: that the client is gone must show all the same."""
    video = encode(tmp_path / "long.mp4", 3600, fps=8)
    idle = decoders(service)
    with (
        httpx.Client(base_url=service.url, timeout=httpx.Timeout(60, read=2)) as client,
        pytest.raises(httpx.ReadTimeout),
    ):
        post(client, video)
    assert no_uploads_left(service)
    assert wait_until(lambda: decoders(service) == idle)


def test_a_client_that_breaks_off_its_upload_leaves_nothing(service):
    """Half a body, then silence."""
    host, port = service.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as raw:
        raw.sendall(
            b"POST /v1/clips HTTP/1.1\r\nHost: x\r\nContent-Type: video/mp4\r\nContent-Length: 3000000\r\n\r\n"
            + bytes(2_000_000)
        )
        time.sleep(0.5)
    assert no_uploads_left(service)


def test_twenty_clients_at_once_get_the_same_answer(service):
    """None is lost, none gets another's."""
    with ThreadPoolExecutor(20) as pool, httpx.Client(base_url=service.url, timeout=120) as client:
        answers = [job.result() for job in [pool.submit(post, client) for _ in range(20)]]
    bodies = [answer.json() for answer in answers]
    assert {answer.status_code for answer in answers} == {200}
    first = bodies[0]["segments"]
    for body in bodies:
        for told, own in zip(body["segments"], first, strict=True):
            assert told["labels"][0]["score"] == pytest.approx(own["labels"][0]["score"], abs=1e-5)


def test_an_uploads_size_does_not_show_in_memory(service):
    """300 MB go to disk; the process grows by less than 60."""
    before = service.process.memory_info().rss
    peak = [before]
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            peak[0] = max(peak[0], service.process.memory_info().rss)
            time.sleep(0.02)

    watcher = threading.Thread(target=watch)
    watcher.start()

    def body():
        yield b"not a video"
        for _ in range(300):
            yield bytes(1 << 20)

    with httpx.Client(base_url=service.url, timeout=120) as client:
        problem(
            client.post("/v1/clips", content=body(), headers={"Content-Type": "video/mp4"}), 415, "video_not_a_video"
        )
    stop.set()
    watcher.join()
    assert peak[0] - before < 60 << 20


def test_real_videos_are_labelled(client):
    """People in real clips of many containers and codecs, AV1 among them."""
    folder = ROOT.parent / "shared" / "videos"
    if not folder.is_dir():
        pytest.skip("../shared/videos is not on this machine")
    for path in sorted(folder.rglob("*.*")):
        answer = post(client, path)
        assert answer.status_code == 200, (path.name, answer.text)
        body = answer.json()
        assert body["segments"], path.name
        assert sum(label["score"] for label in body["labels"]) <= 1 + 1e-6


def test_the_result_is_what_labelling_says(model):
    """describe() is the whole answer: no field is made up by the service."""
    recognizer = Recognizer(checkpoint.load(model), threads=1)
    with Labelling(KITCHEN, recognizer) as labelling:
        segments = list(labelling)
    body = describe(labelling.result, recognizer, 5)
    assert [s["index"] for s in body["segments"]] == list(range(len(segments)))
    assert set(body) == {"model", "video", "labels", "segments", "events", "warnings", "timing"}
