"""Explore in a real browser: by clicking, by keyboard, on a phone, in the dark; sound that really plays."""

import base64
import io
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ui.shared import TABS as TITLES

pytest_plugins = ["browser"]
pytestmark = pytest.mark.browser
RATE = 16_000
SYNC = 0.05  # seconds
AUDIO = "document.querySelectorAll('#timeline audio')"
TABS = {
    "Steer": "#steer-go",
    "Generate & watch": "#watch canvas",
    "Atlas": "#atlas-card h2",
    "Bundle": "#bundle-view h2",
    "Explore": "#timeline .play",
}
"""What shows that a tab is there, by its title; all of ``ui.shared.TABS``."""


def test_every_tab_is_in_the_list():
    assert TABS.keys() == set(TITLES.values())


SETTLED = """() => {
    const place = JSON.stringify(document.querySelector('#timeline .lanes').getBoundingClientRect());
    window.still = place === window.place ? window.still + 1 : 0;
    window.place = place;
    return window.still >= 20;
}"""
"""Whether the timeline has stayed where it is for 20 frames: a page that is still being laid out moves away under the mouse."""


@pytest.fixture
def explore(open_page):
    """The page as it opens, with the first example and the card of its strongest feature."""
    # Gradio's own player logs an error for a file that is no sound, before the app has looked at it.
    page = open_page(logs="Waveform load error")
    page.wait_for_selector("#card h2")
    page.wait_for_function(f"{AUDIO}[0].readyState >= 2")
    page.wait_for_function(SETTLED)
    return page


def position(page, player: int = 0) -> float:
    return page.evaluate(f"{AUDIO}[{player}].currentTime")


def cursor(page) -> float:
    """Where the cursor is drawn, in seconds."""
    share = page.evaluate("parseFloat(document.querySelector('#timeline .cursor').style.left) / 100")
    return share * page.evaluate(f"{AUDIO}[0].duration")


def samples_of(page, player: int) -> np.ndarray:
    """What the player holds, decoded as the file that it is."""
    read = """async (source) => {
        const reader = new FileReader();
        reader.readAsDataURL(await (await fetch(source)).blob());
        await new Promise((done) => { reader.onload = done; });
        return reader.result.split(',')[1];
    }"""
    data = page.evaluate(read, page.evaluate(f"{AUDIO}[{player}].src"))
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(data)), dtype="int16")
    assert rate == RATE
    return samples


def wave(path: Path, hertz: float, seconds: float = 1.5) -> Path:
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * hertz / RATE * np.arange(int(seconds * RATE))), RATE)
    return path


def upload(page, path: Path, title: str) -> None:
    page.set_input_files("#bring input[type=file]", path)
    page.wait_for_function(f"document.querySelector('#sound-name').innerText.includes({title!r})", timeout=60_000)


def test_the_sound_plays_and_the_cursor_keeps_up(explore):
    explore.click("#timeline .play")
    explore.wait_for_function(f"{AUDIO}[0].currentTime > 0.6")
    left = "parseFloat(document.querySelector('#timeline .cursor').style.left) / 100"
    gap = f"Math.abs({left} * {AUDIO}[0].duration - {AUDIO}[0].currentTime)"
    assert min(explore.evaluate(gap) for _ in range(10)) < SYNC  # the sound moves on between two drawings
    explore.click("#timeline .play")
    stopped = position(explore)
    time.sleep(0.3)
    assert position(explore) == stopped


def test_a_click_seeks_within_50_ms_and_chooses_the_feature_under_it(explore):
    lane = explore.locator("#timeline .inner").bounding_box()
    rows = explore.locator("#timeline .lanes .features").bounding_box()
    label = explore.locator("#timeline .row").nth(4)
    explore.mouse.click(lane["x"] + 0.4 * lane["width"], rows["y"] + 4.5 * 17)
    explore.wait_for_function(f"{AUDIO}[0].currentTime > 0")
    assert position(explore) == pytest.approx(0.4 * 6, abs=SYNC) and cursor(explore) == pytest.approx(0.4 * 6, abs=SYNC)
    number = label.get_attribute("data-feature")
    explore.wait_for_function(f"document.querySelector('#card h2')?.innerText.startsWith('{number}')")
    assert label.get_attribute("aria-pressed") == "true"
    assert explore.locator(f"#features tr[data-feature='{number}']").get_attribute("aria-selected") == "true"


def test_hovering_reads_off_numbers(explore):
    lane = explore.locator("#timeline .inner").bounding_box()
    explore.mouse.move(lane["x"] + 0.5 * lane["width"], lane["y"] + 20)
    explore.wait_for_function("document.querySelector('#timeline .read').innerText.includes('At the pointer')")
    text = explore.inner_text("#timeline .read")
    assert re.search(r"At the pointer\n3\.\d\d s\nframe 1[45]\d", text) and "dBFS" in text and "probe:" in text


def test_the_keyboard_does_it_all(explore):
    explore.locator("#timeline .slider").focus()
    for key in ("Home", "ArrowRight", "ArrowRight", "Shift+ArrowRight"):
        explore.keyboard.press(key)
    assert position(explore) == pytest.approx(1.04, abs=1e-3)  # two frames of 20 ms and a second
    assert explore.locator("#timeline .slider").get_attribute("aria-valuetext") == "1.04 seconds"
    explore.keyboard.press("Space")
    explore.wait_for_function(f"{AUDIO}[0].currentTime > 1.3")
    explore.keyboard.press("Space")
    assert explore.evaluate(f"{AUDIO}[0].paused")
    second = explore.locator("#timeline .row").nth(1).get_attribute("data-feature")
    explore.keyboard.press("ArrowDown")
    explore.wait_for_function(f"document.querySelector('#card h2')?.innerText.startsWith('{second}')")


def test_zoom_keeps_the_cursor_in_view_and_seeking_exact(explore):
    explore.locator("#timeline .slider").focus()
    explore.keyboard.press("End")
    for _ in range(3):
        explore.click("#timeline .in")
    view = explore.locator("#timeline .scroll").bounding_box()
    lane = explore.locator("#timeline .inner").bounding_box()
    assert lane["width"] > 3 * view["width"] and lane["x"] < view["x"] - view["width"]
    explore.mouse.click(view["x"] + 0.5 * view["width"], view["y"] + 30)
    expected = (view["x"] + 0.5 * view["width"] - lane["x"]) / lane["width"] * 6
    assert position(explore) == pytest.approx(expected, abs=SYNC)
    explore.click("#timeline .fit")
    assert explore.locator("#timeline .inner").bounding_box()["width"] == pytest.approx(view["width"], abs=2)


def test_a_feature_alone_plays_on_the_same_clock(explore):
    explore.click("#card [data-way=alone]")
    explore.wait_for_selector("#timeline .tracks button:nth-child(2)[aria-checked=true]", timeout=60_000)
    explore.wait_for_function(f"{AUDIO}[1].currentTime > 0.3")
    code = f"""() => {{
        const [one, two] = {AUDIO};
        document.querySelector('#timeline .tracks button').click();
        return [one.currentTime - two.currentTime, one.paused, two.paused];
    }}"""
    gap, first_paused, second_paused = explore.evaluate(code)
    assert abs(gap) < SYNC and not first_paused and second_paused  # it goes on where the other was
    explore.evaluate(f"{AUDIO}[0].pause()")
    explore.click("#timeline .tracks button:nth-child(2)")
    assert position(explore, 1) == pytest.approx(position(explore, 0), abs=SYNC)
    assert "Measured where it fires" in explore.inner_text("#measured")
    assert len(samples_of(explore, 1)) == len(samples_of(explore, 0)) == 6 * RATE
    volumes = explore.evaluate(f"[{AUDIO}[0].volume, {AUDIO}[1].volume]")
    loudness = [np.sqrt(np.mean(samples_of(explore, i).astype(float) ** 2)) * volumes[i] for i in (0, 1)]
    assert loudness[0] == pytest.approx(loudness[1], rel=0.01)  # the same loudness


def test_moments_play_from_their_peak(explore):
    here = explore.locator("#card [data-here]").first
    time_of = float(here.get_attribute("data-here"))
    note = f"{AUDIO}[0].addEventListener('play', (event) => {{ window.started = event.target.currentTime; }}, {{once: true}})"
    explore.evaluate(note)
    here.click()
    explore.wait_for_function("window.started !== undefined")
    assert explore.evaluate("window.started") == pytest.approx(time_of - 0.1, abs=SYNC)
    explore.wait_for_function(f"{AUDIO}[0].paused", timeout=10_000)  # an excerpt ends by itself
    assert time_of + 1.3 < position(explore) < time_of + 2.4
    explore.locator("#card [data-recording^=additive]").first.click()
    explore.wait_for_function("document.querySelector('#card audio').currentTime > 0.2", timeout=20_000)


def test_the_table_is_searched_and_sorted_and_picks(explore):
    explore.fill("#features input", "unnamed")
    names = explore.locator("#features tbody td:nth-child(2)").all_inner_texts()
    assert names and set(names) == {"unnamed"}
    explore.fill("#features input", "")
    explore.click("#features th:nth-child(6) button")
    peaks = [float(text) for text in explore.locator("#features tbody td:nth-child(6)").all_inner_texts()]
    assert peaks == sorted(peaks, reverse=True)
    row = explore.locator("#features tbody tr").first
    number = row.get_attribute("data-feature")
    row.click()
    explore.wait_for_function(f"document.querySelector('#card h2')?.innerText.startsWith('{number}')")


def test_an_uploaded_sound_is_shown_and_heard_unchanged_and_deleted_when_its_visitor_leaves(run_app, open_page, tmp_path):
    files = tmp_path / "gradio"
    with run_app(GRADIO_TEMP_DIR=str(files)) as url:
        page, other = open_page(url=url), open_page(url=url)
        upload(page, wave(tmp_path / "my tone.wav", 440), "my tone")
        expected, _ = soundfile.read(tmp_path / "my tone.wav", dtype="int16")
        assert np.array_equal(samples_of(page, 0), expected)
        assert "A melody" in other.inner_text("#sound-name")
        page.mouse.move(*(page.locator("#timeline .inner").bounding_box()[side] + 200 for side in ("x", "y")))
        assert "440 Hz" in page.inner_text("#timeline .read") and "A4" in page.inner_text("#timeline .read")
        assert len(list(files.glob("visitors/*/sound-*.wav"))) == 1
        page.close()
        for _ in range(100):
            if not list(files.glob("visitors/*")):
                break
            time.sleep(0.2)
        assert not list(files.glob("visitors/*"))
        other.close()


def test_a_recording_is_analysed(explore):
    """Chromium's fake microphone beeps."""
    explore.click("#bring button[aria-label='Record audio']")
    explore.click("#bring .record-button")
    time.sleep(2)
    explore.click("#bring .stop-button")
    explore.wait_for_function("document.querySelector('#sound-name').innerText.includes('Recording')", timeout=60_000)
    explore.wait_for_function(f"{AUDIO}[0].duration > 1 && {AUDIO}[0].duration < 10")


def test_files_are_saved(explore):
    for selector, ending in (("#timeline .wav", ".wav"), ("#timeline .png", ".png"), ("#exports button >> nth=0", ".csv")):
        with explore.expect_download(timeout=30_000) as download:
            explore.click(selector)
        assert download.value.suggested_filename.endswith(ending)
        assert Path(download.value.path()).stat().st_size > 1000


def test_a_link_opens_its_feature(open_page):
    page = open_page("?feature=42")
    page.wait_for_selector("#atlas-card h2")  # a link to a feature opens the Atlas, and Explore looks at it too
    page.wait_for_function("document.querySelector('#atlas-card h2').textContent.startsWith('42')")
    page.wait_for_function("document.querySelector('#card h2').textContent.startsWith('42')")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits_and_is_accessible(open_page, axe, width, dark):
    page = open_page(width=width, dark=dark)
    page.wait_for_selector("#card h2")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate("document.body.classList.contains('dark')") == dark
    assert axe(page) == []


@pytest.mark.skipif(shutil.which("node") is None, reason="server-side rendering needs node")
def test_the_page_rendered_by_the_server_is_the_same(run_app, open_page):
    with run_app(GRADIO_SSR_MODE="True", GRADIO_NODE_SERVER_NAME="127.0.0.1") as url:
        page = open_page(url=url)
        page.wait_for_selector("#card h2")
        page.click("#example-chords")
        page.wait_for_function("document.querySelector('#sound-name').innerText.includes('Chords')")
        row = page.locator("#timeline .row").nth(2)
        number = row.get_attribute("data-feature")
        row.click()
        page.wait_for_function(f"document.querySelector('#card h2').innerText.startsWith('{number}')")
        page.click("#timeline .play")
        page.wait_for_function(f"{AUDIO}[0].currentTime > 0.2")
        page.close()
        phone = open_page(url=url, width=390)
        phone.wait_for_selector("#card h2")
        for title, there in TABS.items():
            if not phone.get_by_role("tab", name=title).is_visible():  # in a menu
                phone.locator("#tabs .overflow-menu > button").click()
                phone.locator("#tabs .overflow-dropdown button", has_text=title).click()
            else:
                phone.get_by_role("tab", name=title).click()
            phone.wait_for_selector(there)
            assert phone.evaluate("document.documentElement.scrollWidth") <= 390, title
        phone.close()
