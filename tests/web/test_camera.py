"""#camera and #stream: a camera's pictures through the real WebSocket to real labels, whatever happens on the way."""

import json
import re
import time
from itertools import pairwise

import httpx
import pytest

from pipelines.label import BUNDLED
from tests.app.conftest import free_port, launch
from tests.web.conftest import saved

EXPECT = pytest.importorskip("playwright.sync_api").expect


def start(page, name: str) -> None:
    page.get_by_label("Name of the stream").fill(name)
    page.get_by_role("button", name="Start").click()
    EXPECT(page.get_by_text("Live", exact=True)).to_be_visible()


def fact(page, name: str) -> str:
    return page.locator(".fact", has_text=name).locator("dd").inner_text()


def segments(page) -> list[dict]:
    return json.loads(saved(page, "JSON"))["segments"]


def until(test, seconds: float = 40) -> None:
    """Waits for it, without a word to the page."""
    end = time.monotonic() + seconds
    while not test():
        assert time.monotonic() < end
        time.sleep(0.25)


def test_the_camera_is_labelled_as_it_runs(open_page, service):
    """At the rate that the service declared, with every frame sent, and none dropped; the drink is seen."""
    page = open_page("#camera")
    start(page, "live")
    EXPECT(page.get_by_role("list", name="Events").get_by_role("button", name="Drink.Fromcup").first).to_be_visible(
        timeout=40_000
    )
    EXPECT(page.locator(".overlay")).to_be_visible()
    told = segments(page)
    shown = httpx.get(f"{service.url}/v1/streams/live").json()
    assert shown["missing"] == 0
    assert 7 < shown["live"]["rate"] < 9
    assert fact(page, "Dropped") == "0"
    assert int(fact(page, "Sent").replace(",", "")) > 60
    assert re.fullmatch(r"\d+ ms", fact(page, "Latency"))
    assert [one["index"] for one in told] == list(range(len(told)))
    assert all(one["memory"]["vector"] for one in told)
    assert abs(told[0]["start"] - time.time()) < 120, "capture times are seconds since 1970"


def test_a_service_that_is_killed_and_started_again_leaves_no_gap(open_page, tmp_path):
    """The page says so and comes back by itself; the timeline is complete, and no frame is missing."""
    port = free_port()
    service = launch(BUNDLED, tmp_path, port, CRT_THREADS="1")
    try:
        page = open_page(
            "#camera",
            url=service.url,
            meant=["ERR_CONNECTION_REFUSED", "WebSocket connection", "ERR_EMPTY", "ERR_CONNECTION_RESET"],
        )
        start(page, "broken")
        until(lambda: (httpx.get(f"{service.url}/v1/streams/broken").json()["segment"]) >= 2)
        service.child.kill()
        service.child.wait()
        EXPECT(page.get_by_text("Reconnecting", exact=True)).to_be_visible()
        EXPECT(page.locator("#why")).to_contain_text("Pictures of the last minute are kept")
        time.sleep(2)
        service = launch(BUNDLED, tmp_path, port, CRT_THREADS="1")
        EXPECT(page.get_by_text("Live", exact=True)).to_be_visible(timeout=30_000)
        before = httpx.get(f"{service.url}/v1/streams/broken").json()["segment"]
        until(lambda: httpx.get(f"{service.url}/v1/streams/broken").json()["segment"] >= before + 4)
        told = segments(page)
        assert [one["index"] for one in told] == list(range(len(told)))
        for one, after in pairwise(told):
            assert abs(one["end"] - after["start"]) < 0.01
        assert httpx.get(f"{service.url}/v1/streams/broken").json()["missing"] == 0
        assert fact(page, "Dropped") == "0"
        assert fact(page, "Breaks") == "1"
        page.close()
    finally:
        service.child.kill()
        service.child.wait()


def test_a_stream_is_left_in_one_browser_and_gone_on_with_in_another(open_page, service):
    """Under its name; a third one is told that it is written to, and takes it over."""
    first = open_page("#camera")
    start(first, "moving")
    until(lambda: httpx.get(f"{service.url}/v1/streams/moving").json()["segment"] >= 1)
    first.get_by_role("button", name="Leave").click()
    EXPECT(first.get_by_role("heading", name="Watch through this camera")).to_be_visible()
    left = httpx.get(f"{service.url}/v1/streams/moving").json()
    assert left["writer"] is None

    second = open_page("#camera/moving")
    second.get_by_role("button", name="Start").click()
    EXPECT(second.get_by_text("Live", exact=True)).to_be_visible()
    until(lambda: httpx.get(f"{service.url}/v1/streams/moving").json()["segment"] >= left["segment"] + 2)
    assert segments(second)[-1]["index"] > left["segment"]

    third = open_page("#camera/moving")
    third.get_by_role("button", name="Start").click()
    error = third.get_by_role("group", name="Error")
    EXPECT(error).to_contain_text("another client writes to stream")
    error.get_by_role("button", name="Take it over").click()
    EXPECT(third.get_by_text("Live", exact=True)).to_be_visible()
    EXPECT(second.get_by_role("group", name="Error")).to_contain_text("taken over")


def test_a_follower_sees_what_the_camera_sees_and_owns_nothing(open_page, service):
    """From the list of streams; the camera goes on undisturbed."""
    camera = open_page("#camera")
    start(camera, "shown")
    page = open_page("#streams")
    row = page.get_by_role("row", name=re.compile("^shown"))
    EXPECT(row).to_contain_text("Live")
    EXPECT(row).to_contain_text(re.compile(r"\d\.\d/s"))
    EXPECT(row).to_contain_text("KB")
    row.get_by_role("link", name="Open shown").click()
    EXPECT(page.get_by_role("heading", name="shown")).to_be_visible()
    EXPECT(page.locator(".pill")).to_have_text("Live")
    until(lambda: httpx.get(f"{service.url}/v1/streams/shown").json()["segment"] >= 3)
    seen = {one["index"]: one for one in segments(page)}
    sent = {one["index"]: one for one in segments(camera)}
    both = sorted(seen.keys() & sent.keys())
    assert both
    for index in both:
        assert seen[index]["labels"] == sent[index]["labels"]
    assert seen[both[-1]]["memory"] == sent[both[-1]]["memory"]
    assert fact(camera, "Breaks") == "0"
    camera.get_by_role("button", name="Leave").click()
    EXPECT(page.locator(".pill")).to_have_text("Resting")


def test_the_memory_is_taken_back_forked_and_reset(open_page, service):
    """While the camera runs: it goes on from there by itself."""
    page = open_page("#camera")
    start(page, "mind")
    state = lambda id="mind": httpx.get(f"{service.url}/v1/streams/{id}").json()  # noqa: E731
    until(lambda: state()["segment"] >= 3)
    slider = page.get_by_role("slider", name="Position in the timeline")
    slider.focus()
    page.keyboard.press("Home")
    rewind = page.get_by_role("button", name="Rewind", exact=True)
    EXPECT(rewind).to_be_enabled(timeout=10_000)
    rewind.click()
    dialog = page.get_by_role("dialog")
    EXPECT(dialog).to_contain_text("Rewind to segment 1?")
    dialog.get_by_role("button", name="Rewind").click()
    until(
        lambda: (told := segments(page)) and [one["index"] for one in told] == list(range(len(told))) and len(told) < 4
    )
    EXPECT(page.get_by_text("Live", exact=True)).to_be_visible()
    until(lambda: state()["segment"] >= 2)
    assert state()["missing"] == 0

    page.get_by_role("button", name="Reset").click()
    page.get_by_role("dialog").get_by_role("button", name="Reset").click()
    until(lambda: state()["segment"] <= 1)
    EXPECT(page.get_by_text("Live", exact=True)).to_be_visible()
    until(lambda: state()["segment"] >= 1)

    page.get_by_role("button", name="Fork").click()
    page.get_by_role("dialog").get_by_label("Its name").fill("mind-again")
    page.get_by_role("dialog").get_by_role("button", name="Fork").click()
    EXPECT(page.get_by_role("heading", name="mind-again")).to_be_visible()
    assert state("mind-again")["segment"] >= 1
    page.get_by_role("button", name="Forget").click()
    page.get_by_role("dialog").get_by_role("button", name="Forget").click()
    EXPECT(page.get_by_role("heading", name="Streams")).to_be_visible()
    assert httpx.get(f"{service.url}/v1/streams/mind-again").status_code == 404


def test_a_stream_that_is_ended_has_its_last_labels(open_page, service):
    """The event that goes on is ended, too."""
    page = open_page("#camera")
    start(page, "ended")
    until(lambda: httpx.get(f"{service.url}/v1/streams/ended").json()["segment"] >= 1)
    page.get_by_role("button", name="End the stream").click()
    EXPECT(page.get_by_role("heading", name="Watch through this camera")).to_be_visible()
    assert httpx.get(f"{service.url}/v1/streams/ended").json()["writer"] is None


def test_a_camera_that_is_not_given_says_how_to_give_it(open_page):
    """And a name that no stream can have is not sent."""
    page = open_page("#camera")
    name = page.get_by_label("Name of the stream")
    name.fill("a name")
    page.get_by_role("button", name="Start").click()
    assert page.evaluate("document.querySelector('input[name=id]').validity.patternMismatch")
    name.fill("refused")
    page.evaluate(
        "() => { navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('no', 'NotAllowedError'); }; }"
    )
    page.get_by_role("button", name="Start").click()
    EXPECT(page.get_by_role("group", name="Error")).to_contain_text("Allow the camera for this page")
