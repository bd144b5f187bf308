"""The tab Generate & watch in Chromium: its main path by clicking and by keyboard."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from sae_audio.traces import load_trace
from ui import session, songs

pytest_plugins = ["browser"]
pytestmark = pytest.mark.browser

SOUND = """async (key) => {
  const player = document.querySelector(`#watch audio[data-sound="${key}"]`);
  const content = new Uint8Array(await (await fetch(player.src)).arrayBuffer());
  return btoa(Array.from(content, (byte) => String.fromCharCode(byte)).join(''));
}"""


def tab(page):
    own = page.get_by_role("tab", name="Generate & watch")
    if own.is_visible():
        own.click()
    else:  # at phone width some tabs are in a menu
        page.locator("#tabs .overflow-menu > button").click()
        page.locator("#tabs .overflow-dropdown button", has_text="Generate & watch").click()
    page.wait_for_selector("#watch [data-drawn], #watch[data-drawn]", timeout=60_000)
    return page


def heard(page, key: str) -> np.ndarray:
    page.wait_for_selector(f'#watch audio[data-sound="{key}"]', state="attached", timeout=60_000)
    return soundfile.read(io.BytesIO(base64.b64decode(page.evaluate(SOUND, key))), dtype="int16")[0]


def step_of(page) -> str:
    return page.inner_text("#watch .where").split(" · ")[0]


def ask(page, seconds: int, steps: int) -> None:
    page.fill("#watch-notes textarea", "A4:0.5 E5:0.5")
    page.get_by_label("number input for Length, s").fill(str(seconds))
    page.get_by_role("button", name="Steps and guidance").click()
    page.get_by_label("number input for Steps", exact=False).fill(str(steps))
    page.keyboard.press("Tab")


def test_the_first_look_is_there_at_once_and_each_step_is_heard(open_page, axe):
    page = tab(open_page())
    assert step_of(page) == "Step 15 of 31" and "precomputed" in page.inner_text("#watch .how")
    assert page.locator("#watch canvas").count() == 6 and page.locator("#watch .curve path.l.x1").count() == 3
    song = load_trace(songs.STORED / "piano-arpeggio")
    with torch.inference_mode():
        expected = session.loaded(session.SHIPPED).space.decode(song.at("x1", 8))[0, 0].clamp(-1, 1 - 2**-15) * 2**15
    assert np.abs(heard(page, "song 15") - expected.round().numpy()).max() <= 8  # of 32768
    page.click("#watch .play")
    page.wait_for_function("document.querySelector('#watch audio').currentTime > 0.3")
    page.focus("#watch .scrub")
    page.keyboard.press("ArrowRight")
    assert step_of(page) == "Step 17 of 31"
    page.wait_for_function("[...document.querySelectorAll('#watch audio')].some(a => a.dataset.sound === 'song 17' && !a.paused)")
    times = page.evaluate("[...document.querySelectorAll('#watch audio')].map(a => [a.dataset.sound, a.currentTime, a.paused])")
    assert [paused for _, _, paused in times].count(False) == 1 and times[-1][1] > 0.25  # it went on where it was
    page.keyboard.press("End")
    assert step_of(page) == "Step 31 of 31, the result"
    page.locator('#watch .map[data-signal="x1"] .lane.pitch').hover()
    assert "pitch in x̂₁" in page.inner_text("#watch .read")
    assert axe(page) == []


def test_generate_steer_control_and_export_by_clicking(open_page, tmp_path):
    page = tab(open_page())
    ask(page, seconds=1, steps=6)
    page.click("#watch-go")
    page.wait_for_function("document.querySelector('#watch .how').textContent.startsWith('made just now ·')", timeout=90_000)
    assert step_of(page) == "Step 5 of 5, the result"
    page.wait_for_function("!document.querySelector('#watch-stored input:checked')")  # a precomputed one can be chosen again
    plain = heard(page, "song 5")
    assert len(plain) == 16_000
    page.get_by_role("button", name="Steer inside a window").click()
    page.get_by_label("number input for Loudness, dB").fill("-6")
    page.keyboard.press("Tab")
    page.click("#watch-steer")
    page.wait_for_selector("#watch table", timeout=90_000)
    cells = page.locator("#watch tbody tr", has_text="Loudness").inner_text().split("\t")
    assert cells[1] == "-6 dB" and -9 < float(cells[4].removesuffix(" dB")) < -3
    assert page.get_by_role("radio", name="B steered").get_attribute("aria-checked") == "true"
    steered = heard(page, "steered 5")
    assert np.square(steered / 2**15).mean() < 0.6 * np.square(plain / 2**15).mean()
    page.click("#watch .play")
    page.wait_for_function("document.querySelector('#watch audio[data-sound=\"steered 5\"]').currentTime > 0.1")
    page.get_by_role("radio", name="A unsteered").click()
    page.wait_for_function("!document.querySelector('#watch audio[data-sound=\"song 5\"]').paused")
    assert page.evaluate("document.querySelector('#watch audio[data-sound=\"steered 5\"]').paused")
    page.get_by_role("button", name="Control: noised sound").click()
    page.click("#watch-control")
    page.wait_for_function("document.querySelector('#watch .legend').textContent.includes('control')", timeout=90_000)
    with page.expect_download() as download:
        page.click("#watch-save-settings")
    assert json.loads(Path(download.value.path()).read_text())["steered"]["steering"]["moves"] == {"loudness": -6}
    assert page.get_by_role("radio", name="A unsteered").get_attribute("aria-checked") == "true"
    page.wait_for_selector("#watch .save[href]")
    with page.expect_download() as download:
        page.click("#watch .save")
    assert soundfile.info(download.value.path()).frames == 16_000


def test_cancel_brings_back_what_was_there(open_page):
    page = tab(open_page())
    ask(page, seconds=10, steps=64)  # so long that it is still going when the button is pressed
    page.click("#watch-go")
    page.wait_for_function("document.querySelector('#watch .says').textContent.includes('of 63')", timeout=60_000)
    page.evaluate("document.querySelector('#watch-stop').click()")  # a click of the driver's waits until the page is quiet
    page.wait_for_function("document.querySelector('#watch .how').textContent.startsWith('precomputed')", timeout=60_000)
    assert page.is_enabled("#watch .play") and page.is_hidden("#watch .progress")


def test_phone_width_in_the_dark(open_page, axe):
    page = tab(open_page(width=390, height=844, dark=True))
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.locator('#watch .map[data-signal="x_t"]').bounding_box()["width"] > 250
    page.get_by_role("radio", name="Bounded emergence").click()
    assert page.get_by_role("radio", name="Bounded emergence").get_attribute("aria-checked") == "true"
    assert axe(page) == []
