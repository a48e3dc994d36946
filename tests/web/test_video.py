"""#video: a real file through the page to the right labels, and what the page does with files and services that fail."""

import csv
import io
import json
import re

import httpx
import pytest

from tests.assets import numbered
from tests.web.conftest import KITCHEN, example, saved

EXPECT = pytest.importorskip("playwright.sync_api").expect


@pytest.fixture(scope="module")
def answer(service):
    """What the API says of the kitchen."""
    return httpx.post(f"{service.url}/v1/clips?memory=true", files={"video": KITCHEN.read_bytes()}, timeout=60).json()


def choose(page, *files) -> None:
    page.set_input_files("input[type=file]", files)


def test_a_file_gets_the_labels_that_the_api_gives(open_page, answer):
    """Events, whole video, each segment with what the memory did, and all of it as JSON, CSV and WebVTT."""
    page = open_page()
    choose(page, KITCHEN)
    page.get_by_text("labelled in").wait_for()
    events = page.get_by_role("list", name="Events").get_by_role("button")
    EXPECT(events).to_have_count(len(answer["events"]))
    for shown, event in zip(events.all(), answer["events"], strict=True):
        assert event["label"] in shown.inner_text()
        assert f"{event['confidence'] * 100:.0f} %" in shown.inner_text()
    EXPECT(page.get_by_role("list", name="The whole video")).to_contain_text(answer["labels"][0]["label"])
    EXPECT(page.get_by_text("labels would be others without the memory")).to_be_visible()

    told = json.loads(saved(page, "JSON"))
    assert [one["labels"] for one in told["segments"]] == [one["labels"] for one in answer["segments"]]
    assert told["events"] == answer["events"]
    drink = next(one for one in told["segments"] if one["labels"][0]["label"] == "Drink.Fromcup")
    assert len(drink["memory"]["vector"]) == 512
    rows = list(csv.DictReader(io.StringIO(saved(page, "CSV"))))
    assert [row["label"] for row in rows] == [one["labels"][0]["label"] for one in answer["segments"]]
    assert [float(row["read_from_memory"]) for row in rows] == [one["memory"]["read"] for one in answer["segments"]]
    cues = saved(page, "WebVTT")
    assert cues.startswith("WEBVTT\n\n1\n00:00:")
    assert len(re.findall(r"^\d\d:\d\d:\d\d\.\d{3} --> \d\d:\d\d:\d\d\.\d{3}$", cues, re.M)) == len(answer["events"])

    page.get_by_text("Segments as a table").click()
    EXPECT(page.get_by_role("table").locator("tbody tr")).to_have_count(len(answer["segments"]))


def test_a_click_seeks_and_the_picture_says_what_is_seen(open_page):
    """In the timeline and in the events; the line under it says what the label owes to the memory."""
    page = open_page()
    example(page)
    slider = page.get_by_role("slider", name="Position in the timeline")
    box = slider.bounding_box()
    page.mouse.click(box["x"] + box["width"] * 13 / 17.84, box["y"] + 60)
    EXPECT(slider).to_have_attribute("aria-valuetext", re.compile("0:12.0 to 0:14.0: Drink.Fromcup"))
    assert abs(page.evaluate("document.querySelector('video').currentTime") - 13) < 0.3
    EXPECT(page.locator(".overlay")).to_contain_text("Drink.Fromcup")
    EXPECT(page.locator(".tl-readout")).to_contain_text("read from memory")
    EXPECT(page.locator(".tl-readout")).to_contain_text("without memory: Background")
    page.get_by_role("list", name="Events").get_by_role("button", name="Walk").click()
    EXPECT(page.locator(".overlay")).not_to_contain_text("Drink.Fromcup")


def test_labels_come_while_the_rest_is_still_worked_on(open_page, tmp_path):
    """Over a slow link the upload shows how far it is; then each segment is there before the last one."""
    video = numbered(tmp_path / "long.mp4", frames=1200, fps=12.5).path
    page = open_page()
    network = page.context.new_cdp_session(page)
    network.send("Network.enable")
    slow = {"offline": False, "latency": 100, "downloadThroughput": -1, "uploadThroughput": video.stat().st_size / 3}
    network.send("Network.emulateNetworkConditions", slow)
    choose(page, video)
    status = page.locator(".status")
    EXPECT(status).to_contain_text(re.compile(r"Uploading: [1-9]\d? %"))
    EXPECT(status).to_contain_text(re.compile(r"Labelled \d:\d\d of 1:36"))
    EXPECT(page.get_by_role("slider")).not_to_have_attribute("aria-valuetext", "nothing yet")
    assert "labelled in" not in status.inner_text()
    EXPECT(status).to_contain_text("labelled in", timeout=60_000)


def test_a_dropped_file_is_taken(open_page):
    """As one from the file manager."""
    page = open_page()
    drop = """async () => {
        const file = new File([await (await fetch('/example.mp4')).blob()], 'dropped.mp4', { type: 'video/mp4' });
        const data = new DataTransfer();
        data.items.add(file);
        document.querySelector('.drop').dispatchEvent(new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true }));
    }"""
    page.locator(".drop").wait_for()
    page.evaluate(drop)
    EXPECT(page.get_by_role("heading", name="dropped.mp4")).to_be_visible()
    page.get_by_text("labelled in").wait_for()


def test_what_no_browser_plays_is_labelled_all_the_same(open_page, tmp_path):
    """The page says so in the picture's place, and the timeline works."""
    video = numbered(tmp_path / "old.avi", frames=100, codec="mpeg4").path
    page = open_page(meant=["MEDIA_ELEMENT", "Failed to load"])
    choose(page, video)
    page.get_by_text("labelled in").wait_for()
    EXPECT(page.get_by_text("cannot play the file")).to_be_visible()
    page.get_by_role("slider").focus()
    page.keyboard.press("Home")
    EXPECT(page.get_by_role("slider")).to_have_attribute("aria-valuetext", re.compile("^0:00.0 to"))


def test_a_file_that_is_no_video_says_what_to_do(open_page, tmp_path):
    """The service's words, and the page's."""
    (tmp_path / "notes.mp4").write_text("not a video\n" * 100)
    page = open_page(meant=["415", "MEDIA_ELEMENT"])
    choose(page, tmp_path / "notes.mp4")
    error = page.get_by_role("group", name="Error")
    EXPECT(error).to_contain_text("Choose a video file, such as MP4")
    EXPECT(error.get_by_role("button", name="Try again")).to_be_visible()
    error.get_by_role("button", name="Another video").click()
    EXPECT(page.get_by_role("heading", name="What happens in your video?")).to_be_visible()


def test_a_service_that_is_away_is_told_and_tried_again(open_page):
    """What was chosen need not be chosen again."""
    page = open_page(meant=["ERR_INTERNET_DISCONNECTED"])
    page.get_by_role("button", name="Try the example").wait_for()
    page.context.set_offline(True)
    choose(page, KITCHEN)
    error = page.get_by_role("group", name="Error")
    EXPECT(error).to_contain_text("The service does not answer.")
    EXPECT(error).to_contain_text("Check that it runs")
    page.context.set_offline(False)
    error.get_by_role("button", name="Try again").click()
    page.get_by_text("labelled in").wait_for()
    EXPECT(error).to_have_count(0)


def test_of_several_labels_one_that_is_unlikely_is_not_shown_as_an_event(open_page):
    """Before the service has told one: the best of labels that are each true or not may be none. One of one is shown as it looks so far."""
    shown = """async ([model, scores]) => {
      const { Record } = await import("/web/js/record.js");
      const record = new Record();
      scores.forEach((score, index) =>
        record.take({ type: "segment", index, start: index, end: index + 1, labels: [{ label: "Walk", score }] }));
      return record.shown(model).map(({ start, end }) => [start, end]);
    }"""
    page, scores = open_page(), [0.6, 0.3, 0.2, 0.7, 0.5]
    assert page.evaluate(shown, [{"background": None, "several": True}, scores]) == [[0, 1], [3, 5]]
    assert page.evaluate(shown, [{"background": None, "several": False}, scores]) == [[0, 5]]
    assert page.evaluate(shown, [{"background": "Walk", "several": False}, scores]) == []
