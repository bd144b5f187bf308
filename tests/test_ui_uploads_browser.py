"""Sounds that cannot be shown, and an analysis that is stopped, through the real upload control: the old sound stays."""

import contextlib

import numpy as np
import pytest
import soundfile
from gradio_client import Client
from tiny_video import MP4

pytest_plugins = ["browser"]
pytestmark = pytest.mark.browser
RATE, SLOW = 16_000, 60_000
CHOOSE = "#bring input[type=file]"
NAME = "document.querySelector('#sound-name').innerText"


def wave(samples: np.ndarray, rate: int = RATE, **options):
    return lambda path: soundfile.write(path, samples, rate, **options)


def three_hours(path) -> None:
    with soundfile.SoundFile(path, "w", 4000, 1, format="FLAC", subtype="PCM_16") as out:
        for _ in range(180):
            out.write(np.zeros(60 * 4000, np.int16))


BAD = {
    "one sample.wav": (wave(np.zeros(1)), "lasts 0.1 ms; the least is 20 ms"),
    "nan.wav": (wave(np.full(RATE, np.nan), subtype="FLOAT"), "16000 samples that are NaN"),
    "three hours.flac": (three_hours, "lasts 180.0 min; the limit is 1 min"),
    "video.mp4": (lambda path: path.write_bytes(MP4), "'video.mp4' is a video; bring its sound as WAV, FLAC, OGG, MP3 or AIFF"),
    "video as.wav": (lambda path: path.write_bytes(MP4), "cannot be read as audio"),
    "text.wav": (lambda path: path.write_text("no sound at all\n" * 40), "cannot be read as audio"),
    "notes.txt": (lambda path: path.write_text("no sound at all\n" * 40), "'notes.txt' cannot be read as audio"),
    "64 channels.wav": (wave(np.zeros((RATE, 64))), "has 64 channels; the limit is 8"),
    "31 megabytes.wav": (lambda path: path.write_bytes(bytes(31 * 1024**2)), "has 31 MB; the limit is 30 MB"),
}
ODD = {
    "silence.wav": wave(np.zeros(RATE)),
    "direct current.wav": wave(np.full(RATE, 0.5)),
    "clipped.wav": wave(np.sign(np.sin(2 * np.pi * 220 / RATE * np.arange(RATE)))),
    "telephone.wav": wave(0.3 * np.sin(2 * np.pi * 440 / 8000 * np.arange(8000)), 8000),
    "unknown to browsers.caf": wave(0.3 * np.sin(2 * np.pi * 440 / RATE * np.arange(RATE)), format="CAF"),
}


@pytest.fixture
def explore(open_page):
    # Gradio's own player logs an error for a file that is no sound, before the app has looked at it.
    page = open_page(logs="Waveform load error")
    page.wait_for_selector("#card h2")
    return page


def test_bad_files_are_answered_in_plain_words_and_the_sound_before_stays(explore, tmp_path):
    view = explore.inner_text("#features tbody")
    for name, (make, words) in BAD.items():
        make(tmp_path / name)
        explore.set_input_files(CHOOSE, tmp_path / name)
        explore.wait_for_selector(".toast-body", timeout=SLOW)
        said = explore.inner_text(".toast-body")
        assert words in said and not any(word in said for word in ("Traceback", "/tmp", "audio/", "--")), f"{name}: {said}"
        explore.click(".toast-close")
        explore.wait_for_selector(".toast-body", state="detached")
        explore.wait_for_selector(CHOOSE, state="attached")  # the control is empty again
        assert "A melody" in explore.inner_text("#sound-name") and explore.inner_text("#features tbody") == view
        assert not explore.is_visible("#bring-stop")


def test_odd_files_are_shown(explore, tmp_path):
    for name, make in ODD.items():
        make(tmp_path / name)
        explore.set_input_files(CHOOSE, tmp_path / name)
        explore.wait_for_function(f"{NAME}.includes('{name.rpartition('.')[0]}')", timeout=SLOW)
        explore.wait_for_selector(CHOOSE, state="attached")
    assert not explore.is_visible(".toast-body")


def test_a_dropped_file_is_taken_like_a_chosen_one(explore):
    drop = """([name, type]) => {
        const files = new DataTransfer();
        files.items.add(new File([new Uint8Array(500)], name, { type }));
        const target = document.querySelector('#bring [data-testid="upload-text"], #bring button');
        target.dispatchEvent(new DragEvent('drop', { dataTransfer: files, bubbles: true, cancelable: true }));
    }"""
    for name, kind, words in (("film.mov", "video/quicktime", "is a video"), ("sound.wav", "audio/wav", "cannot be read")):
        explore.evaluate(drop, [name, kind])
        explore.wait_for_selector(".toast-body", timeout=SLOW)
        assert f"'{name}' {words}" in explore.inner_text(".toast-body")
        explore.click(".toast-close")
        explore.wait_for_selector(".toast-body", state="detached")
    assert "A melody" in explore.inner_text("#sound-name")


def test_stop_leaves_the_sound_before(run_app, open_page, tmp_path):
    """Others keep the model busy, so that there is time to stop; all of their work is stopped at the end."""
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(run_app())
        page = open_page(url=url)
        page.wait_for_selector("#card h2")
        clients = [Client(url, verbose=False, analytics_enabled=False) for _ in range(6)]
        asked = ("étude-flow, here", "grand piano", "", "", 10, 64, 4.0, 1)
        jobs = [client.submit(*asked, api_name="/generate") for client in clients]
        for job in jobs:
            stack.callback(job.cancel)
        while not sum(bool(job.outputs()) for job in jobs) >= 2:
            page.wait_for_timeout(50)
        wave(0.3 * np.sin(2 * np.pi * 440 / RATE * np.arange(RATE)))(tmp_path / "a tone.wav")
        page.set_input_files(CHOOSE, tmp_path / "a tone.wav")
        page.click("#bring-stop", timeout=SLOW)
        page.wait_for_selector("#bring-stop", state="hidden", timeout=SLOW)
        page.wait_for_selector(CHOOSE, state="attached", timeout=SLOW)
        for job in jobs:
            job.cancel()
        assert "A melody" in page.inner_text("#sound-name")
        wave(0.3 * np.sin(2 * np.pi * 660 / RATE * np.arange(RATE)))(tmp_path / "another.wav")
        page.set_input_files(CHOOSE, tmp_path / "another.wav")
        page.wait_for_function(f"{NAME} !== 'A melody'", timeout=SLOW)
        assert page.inner_text("#sound-name").strip() == "another"  # not the one that was stopped
        page.close()
