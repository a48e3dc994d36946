"""Records the live page at work, for the README: `.venv/bin/python -m scripts.page_gif docs/page.gif`.

A real service with the bundled model, a real browser; the bundled video is chosen, labelled and played through.
"""

import io
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, ViewportSize, sync_playwright

SIZE = (1060, 1000)
SHOWN = (780, 736)
MOMENTS = [0.8, 3.0, 5.0, 7.2, 8.2, 9.2, 10.2, 11.0, 12.0, 13.0, 14.0, 15.0, 16.0, 17.0]
"""Of the video, in seconds."""


def served(folder: str) -> tuple[subprocess.Popen[bytes], str]:
    """A service, ready, and its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"PORT": str(port), "CRT_SESSIONS": "memory://", "CRT_SPOOL": folder}
    service = subprocess.Popen([sys.executable, "-m", "app"], env=os.environ | settings)
    url = f"http://127.0.0.1:{port}"
    for _ in range(300):
        try:
            with urllib.request.urlopen(f"{url}/readyz"):
                return service, url
        except OSError:
            time.sleep(0.1)
    raise RuntimeError("the service did not get ready")


def record(page: Page, url: str) -> list[tuple[Image.Image, int]]:
    """Pictures, and for how many milliseconds each is shown."""
    frames: list[tuple[Image.Image, int]] = []

    def shoot(milliseconds: int) -> None:
        picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB").resize(SHOWN, Image.Resampling.LANCZOS)
        frames.append((picture, milliseconds))

    page.goto(url)
    page.get_by_role("button", name="Try the example").hover()
    shoot(1400)
    page.get_by_role("button", name="Try the example").click()
    page.locator(".status", has_text="Labelled").wait_for()
    shoot(350)
    page.get_by_text("labelled in").wait_for()
    page.mouse.move(5, 5)
    page.evaluate("scrollTo(0, 62)")
    for moment in MOMENTS:
        page.evaluate("(moment) => { document.querySelector('video').currentTime = moment; }", moment)
        page.wait_for_timeout(350)
        shoot(1600 if moment in (8.2, 13.0) else 480)
    frames[-1] = frames[-1][0], 2500
    return frames


def main() -> None:
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/page.gif")
    with tempfile.TemporaryDirectory() as folder:
        service, url = served(folder)
        try:
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
                size = ViewportSize(width=SIZE[0], height=SIZE[1])
                page = browser.new_page(viewport=size, reduced_motion="reduce")
                frames = record(page, url)
                browser.close()
        finally:
            service.terminate()
            service.wait(20)
    # One palette for all, without dithering: what does not change from picture to picture costs nothing.
    wall = Image.new("RGB", (SHOWN[0], SHOWN[1] * 3))
    for row, at in enumerate((0, len(frames) // 2, -2)):
        wall.paste(frames[at][0], (0, row * SHOWN[1]))
    palette = wall.quantize(128, method=Image.Quantize.MEDIANCUT)
    pictures = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture, _ in frames]
    durations = [milliseconds for _, milliseconds in frames]
    pictures[0].save(target, save_all=True, append_images=pictures[1:], duration=durations, loop=0, optimize=True)
    print(f"{target}: {len(pictures)} pictures, {target.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
