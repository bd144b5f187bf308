"""The two pictures of the page in the README: ``python -m benchmarks.screenshots``; needs playwright, Chromium and pillow.

Explore and Generate & watch as they open, 1280 pixels wide, in light colours, 128 colours each: ui/screenshots/*.png.
"""

from __future__ import annotations

import io
import shutil
import tempfile
from pathlib import Path

from benchmarks.page_load import ROOT, answers, start
from benchmarks.page_start import FLAGS, PLAYER

FOLDER = ROOT / "ui" / "screenshots"
COLOURS = 128
LARGEST = 250_000
"""Bytes of one picture."""


def take(folder: Path) -> list[Path]:
    """Start the page, take both pictures and write them."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory(prefix="screenshots-") as temporary, sync_playwright() as playwright:
        found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="light")
        page.set_default_timeout(120_000)
        server = start(Path(temporary))
        try:
            answers(server)
            page.goto(server.url)
            page.wait_for_selector("#card h2")
            page.wait_for_function(f"{PLAYER}?.readyState >= 2")
            page.locator("#timeline .inner").click(position={"x": 160, "y": 30})
            page.wait_for_timeout(2000)
            explore = _small(page.screenshot(clip={"x": 30, "y": 0, "width": 1220, "height": 1345}, full_page=True))
            page.get_by_role("tab", name="Generate & watch").click()
            page.wait_for_selector("#watch canvas")
            page.mouse.move(0, 0)
            page.wait_for_timeout(2000)
            generate = _small(page.screenshot(clip={"x": 90, "y": 0, "width": 1100, "height": 968}, full_page=True))
        finally:
            browser.close()
            server.process.terminate()
            server.process.wait(20)
    return [_written(folder / f"{name}.png", data) for name, data in (("explore", explore), ("generate", generate))]


def _small(picture: bytes) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.open(io.BytesIO(picture)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    return out.getvalue()


def _written(path: Path, data: bytes) -> Path:
    if len(data) > LARGEST:
        raise ValueError(f"{path.name} would have {len(data)} bytes; the limit is {LARGEST}")
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return path


if __name__ == "__main__":
    for path in take(FOLDER):
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB")
