"""The live page in a real browser: Debian's Chromium, driven by Playwright, before a real service with the bundled model.

Whatever a test does, the page may log no error, break no rule of its Content-Security-Policy and fetch nothing from elsewhere.
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import av
import cv2
import pytest

from pipelines.label import BUNDLED
from tests.app.conftest import ROOT, Service, running

KITCHEN = ROOT / "examples" / "kitchen.mp4"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
]  # fmt: skip
WIDTHS = {"phone": (390, 844), "tablet": (820, 1180), "wide": (1440, 900)}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(BUNDLED, tmp_path_factory.mktemp("page"), CRT_THREADS="1") as service:
        yield service


@pytest.fixture(scope="session")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kitchen as what a camera gives."""
    path = tmp_path_factory.mktemp("camera") / "kitchen.mjpeg"
    with av.open(str(KITCHEN)) as video, path.open("wb") as out:
        for frame in video.decode(video=0):
            out.write(
                cv2.imencode(".jpg", frame.to_ndarray(format="bgr24"), [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()
            )
    return path


@pytest.fixture(scope="module")
def chromium(recording: Path):
    """The browser. For one file of tests: Playwright's event loop would stand in the way of others'."""
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium (scripts/servers.sh does where it may)")
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=[*FLAGS, f"--use-file-for-fake-video-capture={recording}"]
        )
        yield browser
        browser.close()


@dataclass
class Wrongs:
    """What went wrong in a page, and what of it was meant to."""

    found: list[str] = field(default_factory=list)
    meant: list[str] = field(default_factory=list)

    def unforeseen(self) -> list[str]:
        return [one for one in self.found if not any(part in one for part in self.meant)]


@pytest.fixture
def open_page(chromium, service) -> Iterator[Callable]:
    """Opens the page in a browser of its own, so to speak: nothing is shared with another one."""
    contexts, wrongs = [], Wrongs()

    def opened(
        place: str = "",
        *,
        size: str = "wide",
        scheme: str = "light",
        url: str | None = None,
        camera: bool = True,
        meant=(),
        **more,
    ):
        width, height = WIDTHS[size]
        context = chromium.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, permissions=["camera"] if camera else [],
            accept_downloads=True, reduced_motion="reduce", **more,
        )  # fmt: skip
        contexts.append(context)
        wrongs.meant += meant
        page = context.new_page()
        page.set_default_timeout(20_000)
        home = url or service.url
        page.on("console", lambda m: m.type in ("error", "warning") and wrongs.found.append(m.text))
        page.on("pageerror", lambda error: wrongs.found.append(str(error)))
        page.on(
            "request",
            lambda r: (
                r.url.startswith((home, "blob:", "data:", home.replace("http", "ws", 1)))
                or wrongs.found.append(f"fetched {r.url}")
            ),
        )
        page.goto(f"{home}/{place}")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert wrongs.unforeseen() == []


def saved(page, kind: str) -> str:
    """What the button JSON, CSV or WebVTT gives."""
    with page.expect_download() as waiting:
        page.get_by_role("group", name="Download").get_by_role("button", name=kind).click()
    return Path(waiting.value.path()).read_text()


def example(page) -> None:
    """The bundled video, labelled."""
    page.get_by_role("button", name="Try the example").click()
    page.get_by_text("labelled in").wait_for()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A signal's exception is swallowed by Playwright's event loop, so a page that hangs would hang all tests: here a thread ends the process."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.timeout(180, method="thread"))
