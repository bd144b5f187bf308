"""The Steer tab in a real browser: by clicking, with sound that really plays, on one clock."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from sae_audio.bundle import Bundle
from sae_audio.bundle_space import space_of
from sae_audio.latent_spaces import CHECKPOINTS
from sae_audio.pipeline import steer
from ui.examples import EXAMPLES

pytest_plugins = ["browser"]
pytestmark = pytest.mark.browser
AB = "document.querySelector('#ab .ab').ab"
SLOW = 120_000
GRAB = """async () => {
  while (!%s.state().playing) await new Promise((done) => setTimeout(done, 10));
  const {mix, context, offset} = %s.state();
  const ear = new AnalyserNode(context, {fftSize: 2048});
  mix.connect(ear);
  while (%s.position() < offset + 0.2) await new Promise((done) => setTimeout(done, 10));
  const heard = new Float32Array(2048);
  const before = %s.position();
  ear.getFloatTimeDomainData(heard);
  mix.disconnect(ear);
  return {heard: Array.from(heard), time: (before + %s.position()) / 2};
}""".replace("%s", AB)
SWITCH = """async (key) => {
  const gains = () => %s.state().gains;
  const started = performance.now();
  document.body.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true}));
  while (gains()[+key - 1] < 0.99 || gains().filter((gain) => gain > 0.01).length > 1) {
    if (performance.now() - started > 2000) return null;
    await new Promise((done) => setTimeout(done, 2));
  }
  return performance.now() - started;
}""".replace("%s", AB)


def set_slider(page, name: str, value: str) -> None:
    page.fill(f"#steer-{name} input[type=number]", value)
    page.keyboard.press("Tab")


def steered_page(open_page, **kwargs):
    page = open_page("?tab=steer", **kwargs)
    page.wait_for_function("document.querySelector('#steer-sound h2')?.textContent.includes('A melody')", timeout=SLOW)
    set_slider(page, "semitones", "5")
    set_slider(page, "loudness", "-12")
    page.click("#steer-go")
    page.wait_for_function(f"document.querySelector('#ab .ab')?.ab && {AB}.state().ready === 3", timeout=SLOW)
    return page


def test_steer_listen_and_keep(open_page, axe, tmp_path):
    page = steered_page(open_page)

    # what plays is what the library makes
    bundle = Bundle.from_pretrained(CHECKPOINTS / "etude")
    sound = EXAMPLES[0].heard.sound()
    wanted = steer(bundle, sound, {"pitch": 5, "loudness": -12.0}, space=space_of(bundle))
    buffers = [
        np.array(page.evaluate(f"Array.from({AB}.state().buffers[{i}].getChannelData(0))"), dtype=np.float32) for i in range(3)
    ]
    for buffer, made in zip(buffers, (sound, wanted.reconstruction, wanted.sound), strict=True):
        assert len(buffer) == made.samples.shape[1]
        assert np.corrcoef(buffer, made.samples[0].numpy())[0, 1] > 0.99

    # it plays, all three on one clock, and switches within 50 ms
    page.click("#ab .play")
    page.wait_for_function(f"{AB}.position() > 0.3", timeout=SLOW)
    for key in "132":
        page.evaluate(SWITCH, key)  # once to warm up
        took = page.evaluate(SWITCH, key)
        assert took is not None and took < 50
        buffer = buffers[int(key) - 1]
        page.evaluate(f"{AB}.seek({loudest(buffer)})")
        heard = page.evaluate(GRAB)
        lag, likeness = best_lag(np.array(heard["heard"]), buffer, heard["time"])
        assert likeness > 0.95 and abs(lag) < 0.05, (key, lag, likeness)
    first = page.evaluate(f"{AB}.position()")
    page.wait_for_function(f"{AB}.position() > {first} + 0.2", timeout=SLOW)
    page.keyboard.press("Escape")

    # seeking by a click on a picture, pausing by space
    page.click("#ab .picture >> nth=2", position={"x": 10, "y": 60})
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("Space")
    page.wait_for_function(f"!{AB}.state().playing", timeout=SLOW)
    assert page.evaluate(f"{AB}.position()") < 3
    page.evaluate(f"{AB}.seek(2.5)")
    assert page.evaluate(f"{AB}.position()") == pytest.approx(2.5, abs=0.05)
    lines = page.evaluate("[...document.querySelectorAll('#ab .cursor')].map((line) => parseFloat(line.style.left))")
    assert lines == pytest.approx([100 * 2.5 / 6] * 3, abs=1)

    # equally loud, and it says so
    page.check("#ab .equal")
    assert "original −1" in page.inner_text("#ab .said") and "by measured RMS" in page.inner_text("#ab .said")

    # the table
    rows = page.evaluate("[...document.querySelectorAll('#ab tbody tr')].map((row) => row.innerText)")
    assert "+5 semitones" in rows[0] and "−12.0 dB" in rows[1] and "keep" in rows[2] and "off target" in rows[2]

    # what is kept
    page.wait_for_selector("#steer-exports", timeout=SLOW)
    assert not page.is_visible("#steer-file")  # it only carries what a button draws
    with page.expect_download() as download:
        page.click("#steer-wav24")
    download.value.save_as(tmp_path / "steered.wav")
    saved, rate = soundfile.read(tmp_path / "steered.wav")
    assert rate == 16000 and np.corrcoef(saved, buffers[2])[0, 1] > 0.9999
    with page.expect_download() as download:
        page.click("#steer-png")  # drawn when it is asked for
    assert download.value.suggested_filename.endswith("spectrograms.png")
    assert Path(download.value.path()).read_bytes().startswith(b"\x89PNG")
    with page.expect_download() as download:
        page.click("#steer-json")
    download.value.save_as(tmp_path / "settings.json")
    assert json.loads((tmp_path / "settings.json").read_text())["settings"]["semitones"] == 5

    # settings come back
    page.click("#steer-reset")
    page.wait_for_function("document.querySelector('#steer-semitones input[type=number]').value === '0'", timeout=SLOW)
    page.set_input_files("#steer-load input[type=file], input[type=file][accept='.json']", tmp_path / "settings.json")
    page.wait_for_function("document.querySelector('#steer-semitones input[type=number]').value === '5'", timeout=SLOW)
    assert page.input_value("#steer-loudness input[type=number]") == "-12"
    assert axe(page) == []


def test_on_a_phone_in_the_dark_it_fits_and_says_what_is_wrong(open_page, axe):
    page = open_page("?tab=steer", width=390, height=800, dark=True)
    page.wait_for_function("document.querySelector('#steer-sound h2')?.textContent.includes('A melody')", timeout=SLOW)
    page.click("#steer-experts button")
    assert axe(page) == []
    page.fill("#steer-more textarea, #steer-more input", "loud")
    page.click("#steer-go")
    page.wait_for_selector("text=write them like 42=1.5", timeout=SLOW)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def loudest(buffer: np.ndarray, rate: int = 16000) -> float:
    """Start of the half second with the most sound in its weakest tenth, in seconds: no pause falls into what is compared."""
    tenths = (buffer[: len(buffer) // 1600 * 1600].reshape(-1, 1600) ** 2).sum(1)
    weakest = [tenths[i : i + 5].min() for i in range(len(tenths) - 10)]
    return int(np.argmax(weakest)) / 10


def best_lag(heard: np.ndarray, buffer: np.ndarray, time: float, rate: int = 16000) -> tuple[float, float]:
    """Where in a buffer a stretch of sound is, in seconds from where the clock says, and how like it is."""
    middle, reach = int(time * rate), int(0.12 * rate)
    start = max(0, middle - reach - len(heard))
    part = torch.tensor(buffer[start : middle + reach])
    found = torch.tensor(heard, dtype=torch.float32)
    if len(part) < len(found):
        return 9.0, 0.0
    windows = part.unfold(0, len(found), 1)
    likeness = (windows @ found) / (windows.norm(dim=1) * found.norm()).clamp_min(1e-9)
    best = int(likeness.argmax())
    return (start + best + len(found) - middle) / rate, float(likeness[best])
