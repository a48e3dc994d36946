"""The page as a whole: for keyboards and screen readers, in both schemes and three widths, with a key, and nothing jumps."""

import re
import time

import httpx
import pytest

from pipelines.label import BUNDLED
from tests.app.conftest import running
from tests.web.conftest import KITCHEN, example

EXPECT = pytest.importorskip("playwright.sync_api").expect
KEY = "the-page-needs-0123456789"


@pytest.fixture(scope="module")
def stream(service):
    """A stream that rests, with a memory."""
    httpx.post(f"{service.url}/v1/streams", json={"id": "porch", "checkpoints": 20})
    httpx.post(f"{service.url}/v1/streams/porch/clips", files={"video": KITCHEN.read_bytes()}, timeout=60)
    return "porch"


def violations(page) -> list[str]:
    """What axe finds that is serious or worse."""
    from axe_playwright_python.sync_playwright import Axe

    response = Axe().run(page).response
    assert len(response["passes"]) > 10, "axe has looked at nothing"
    found = response["violations"]
    return [
        f"{one['id']}: {one['nodes'][0]['html'][:120]}" for one in found if one["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize(
    ("size", "scheme"), [("phone", "light"), ("phone", "dark"), ("tablet", "light"), ("wide", "dark")]
)
def test_axe_finds_nothing_serious_and_nothing_is_wider_than_the_screen(open_page, stream, size, scheme):
    """In every view, empty and full, with a dialog and with an error."""
    page = open_page(size=size, scheme=scheme, meant=["415", "404", "MEDIA_ELEMENT"])
    found = {}

    def look(name):
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
        if wrong := violations(page):
            found[name] = wrong

    page.get_by_role("button", name="Try the example").wait_for()
    look("empty")
    example(page)
    page.get_by_text("Segments as a table").click()
    page.get_by_text("The same from a terminal").click()
    look("video")
    for place in ("camera", "streams", f"stream/{stream}", "help", "stream/never"):
        page.goto(f"{page.url.split('#')[0]}#{place}")
        page.get_by_role("heading", level=1).wait_for()
        page.wait_for_timeout(300)
        if place.startswith("stream/porch"):
            EXPECT(page.get_by_role("button", name="Reset")).to_be_enabled()
            page.get_by_role("button", name="Reset").click()
            look("dialog")
            page.keyboard.press("Escape")
        look(place)
    assert found == {}


def test_the_keyboard_alone_is_enough(open_page):
    """From the first Tab to the downloads; what has the focus is seen."""
    page = open_page()
    page.get_by_role("button", name="Try the example").wait_for()
    page.keyboard.press("Tab")
    EXPECT(page.get_by_role("link", name="Skip to the page's content")).to_be_focused()
    page.keyboard.press("Enter")
    EXPECT(page.locator("main")).to_be_focused()
    page.keyboard.press("Tab")
    EXPECT(page.locator("input[type=file]")).to_be_focused()
    page.keyboard.press("Tab")
    EXPECT(page.get_by_role("button", name="Try the example")).to_be_focused()
    page.keyboard.press("Enter")
    EXPECT(page.get_by_role("heading", name="kitchen.mp4")).to_be_focused()
    page.get_by_text("labelled in").wait_for()
    slider = page.get_by_role("slider", name="Position in the timeline")
    reached = []
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate(
                "document.activeElement.getAttribute('aria-label') || document.activeElement.textContent.trim()"
            )
        )
        if slider.evaluate("one => one === document.activeElement"):
            break
    EXPECT(slider).to_be_focused()
    assert any("Drink.Fromcup" in one for one in reached), reached
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Home")
    EXPECT(slider).to_have_attribute("aria-valuetext", re.compile("^0:00.0 to 0:02.0: Background"))
    for _ in range(6):
        page.keyboard.press("ArrowRight")
    EXPECT(slider).to_have_attribute("aria-valuetext", re.compile("^0:12.0 to 0:14.0: Drink.Fromcup, 99 %"))
    EXPECT(page.locator(".overlay")).to_contain_text("Drink.Fromcup")
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "CSV":
            break
    with page.expect_download() as waiting:
        page.keyboard.press("Enter")
    assert waiting.value.suggested_filename == "kitchen.csv"


def test_a_stream_that_is_not_there_says_where_the_others_are(open_page, stream):
    """Nothing empty is shown, and nothing is asked for again and again; one that is deleted meanwhile ends likewise."""
    page = open_page("#stream/never", meant=["404"])
    EXPECT(page.get_by_role("group", name="Error")).to_contain_text("there is no session 'never'")
    EXPECT(page.get_by_role("slider")).to_have_count(0)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_timeout(2500)
    assert asked == []
    page.get_by_role("link", name="All streams").click()
    EXPECT(page.get_by_role("row", name=stream)).to_be_visible()


def test_events_are_told_to_screen_readers(open_page):
    """The end of the labelling, once, politely."""
    page = open_page()
    example(page)
    EXPECT(page.locator("#said")).to_contain_text(re.compile(r"Done\. 2 events in 18 s"))
    assert page.locator("#said").get_attribute("aria-live") == "polite"


def test_nothing_jumps_while_results_come(open_page):
    """The browser's own measure of layout shifts, from the first label to the last."""
    page = open_page()
    page.evaluate(
        "() => { window.shifts = 0; new PerformanceObserver((list) => { for (const one of list.getEntries()) window.shifts += one.value; })"
        ".observe({ type: 'layout-shift', buffered: false }); }"
    )
    page.set_input_files("input[type=file]", KITCHEN)
    page.get_by_role("heading", name="kitchen.mp4").wait_for()
    page.evaluate("window.shifts = 0")
    page.get_by_text("labelled in").wait_for()
    page.wait_for_timeout(500)
    assert page.evaluate("window.shifts") < 0.01


def test_light_and_dark_follow_the_device_and_the_button(open_page):
    """And the choice is kept."""
    page = open_page(scheme="dark")
    paper = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(paper)
    button = page.get_by_role("button", name=re.compile("Light or dark"))
    button.click()
    EXPECT(button).to_have_accessible_name("Light or dark: now light")
    light = page.evaluate(paper)
    assert light != dark
    page.reload()
    assert page.evaluate(paper) == light


def test_a_key_is_asked_for_once_and_opens_everything(open_page, tmp_path):
    """Requests, uploads, the WebSocket and following."""
    with running(BUNDLED, tmp_path, CRT_THREADS="1", CRT_API_KEYS=KEY) as service:
        page = open_page(url=service.url, meant=["401"])
        asked = page.get_by_label("API key")
        EXPECT(page.get_by_text("This service asks for a key.")).to_be_visible()
        asked.fill("wrong")
        page.get_by_role("button", name="Go on").click()
        EXPECT(page.get_by_text("The service does not know this key.")).to_be_visible()
        page.get_by_label("API key").fill(KEY)
        page.get_by_role("button", name="Go on").click()
        EXPECT(asked).to_have_count(0)
        example(page)
        page.goto(f"{service.url}/#camera/keyed")
        page.get_by_role("button", name="Start").click()
        EXPECT(page.get_by_text("Live", exact=True)).to_be_visible()
        headers = {"Authorization": f"Bearer {KEY}"}
        end = time.monotonic() + 20
        while httpx.get(f"{service.url}/v1/streams/keyed", headers=headers).json()["segment"] < 1:
            assert time.monotonic() < end
            time.sleep(0.2)
        page.goto(f"{service.url}/#stream/keyed")
        EXPECT(page.locator(".pill")).to_have_text(re.compile("Live|Resting"))
        EXPECT(page.get_by_role("slider")).not_to_have_attribute("aria-valuetext", "nothing yet")
        page.close()


def test_the_apis_pages_work_under_their_policies(open_page):
    """With scripts and styles from here alone."""
    page = open_page("docs")
    EXPECT(page.get_by_text("/v1/streams/{id}/follow")).to_be_visible()
    page.get_by_text("Label a video", exact=True).click()
    EXPECT(page.get_by_role("button", name="Try it out")).to_be_visible()
    # Redoc would fetch its maker's logo from outside; its policy does not let it.
    page = open_page("redoc", meant=["cdn.redoc.ly"])
    EXPECT(page.get_by_role("heading", name=re.compile("crt-stream"))).to_be_visible()
    assert httpx.get(page.url.replace("redoc", "protocol.md")).text.startswith("# Streams")
