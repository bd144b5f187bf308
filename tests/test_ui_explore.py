"""Explore without a browser: a sound is brought whole or not at all, can be stopped, and follows the bundle and the link."""

import os
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
import soundfile
import torch

from sae_audio.errors import AudioError
from sae_audio.latent_spaces import CHECKPOINTS
from sae_audio.pipeline import Stage, View, analyse, analysing
from ui import examples, explore, refusals, session
from ui.examples import EXAMPLES
from ui.limits import MAX_MB
from ui.session import SHIPPED, BundleSource, CurrentSound
from ui.shared import Linked

RATE = 16_000
COPY = BundleSource(os.path.relpath(CHECKPOINTS / "etude"))
"""The shipped bundle by another path: another bundle, to the page."""


@pytest.fixture
def visitor():
    request = gr.Request(session_hash=f"visitor {os.getpid()}")
    yield request
    session.leave(request)
    session._bundles.pop(COPY, None)


def tone(path: Path, hertz: float = 440) -> Path:
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * hertz / RATE * np.arange(RATE)), RATE)
    return path


def quietly(*_, **__) -> None:
    """A progress bar that nobody sees."""


def brought(path: Path, before: CurrentSound | None, visitor: gr.Request) -> tuple:
    *_, last = explore.bring(str(path), SHIPPED, before, visitor, quietly)
    return last


def held(visitor: gr.Request) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in session.folder(visitor).iterdir()}


def skipped(value) -> bool:
    return isinstance(value, dict) and value.get("__type__") == "update" and len(value) == 1


def test_stages_end_with_what_analyse_returns():
    bundle, space = session.loaded(SHIPPED)
    sound = EXAMPLES[0].heard.sound()
    *stages, view = analysing(bundle, sound, space=space)
    assert [type(stage) for stage in stages] == [Stage] * 3 and [stage.share for stage in stages] == [0, 0.4, 0.8]
    whole = analyse(bundle, sound, space=space)
    assert isinstance(view, View) and view.top_features == whole.top_features
    torch.testing.assert_close(view.acts, whole.acts, rtol=1e-3, atol=1e-4)


def test_an_analysis_says_what_is_happening_and_changes_nothing_until_it_is_done(tmp_path, visitor):
    said = []
    run = explore.bring(str(tone(tmp_path / "my_tone.wav")), SHIPPED, None, visitor, lambda share, desc: said.append(desc))
    *before, last = run
    assert said == ["Reading the sound", "Encoding the sound", "Measuring pitch, loudness and brightness", "Looking for features"]
    assert len(before) == 3 and all(skipped(value) for values in before for value in values)
    kept, heard, title, _, rows, feature, _, stopping, upload = last
    assert heard.name == "my tone" and title == "## my tone" and kept.heard == heard and upload is None
    assert feature == rows["rows"][0][0] and stopping["visible"] is False


def test_a_stopped_analysis_leaves_the_sound_before(tmp_path, visitor):
    first = brought(tone(tmp_path / "first.wav"), None, visitor)[1]
    run = explore.bring(str(tone(tmp_path / "second.wav", 660)), SHIPPED, first, visitor, quietly)
    next(run), next(run)
    run.close()
    assert held(visitor)[Path(first.path).name] == (tmp_path / "first.wav").read_bytes()
    third = brought(tone(tmp_path / "third.wav", 880), first, visitor)[1]
    assert set(held(visitor)) == {Path(first.path).name, Path(third.path).name}  # of the stopped one nothing is left
    fourth = brought(tone(tmp_path / "fourth.wav", 220), third, visitor)[1]
    assert set(held(visitor)) == {Path(third.path).name, Path(fourth.path).name}


def test_what_fails_leaves_the_sound_before(tmp_path, visitor):
    first = brought(tone(tmp_path / "first.wav"), None, visitor)[1]
    before = held(visitor)
    (tmp_path / "text.wav").write_text("no sound at all\n")
    with pytest.raises(gr.Error, match="cannot be read as audio"):
        brought(tmp_path / "text.wav", first, visitor)
    assert held(visitor) == before
    nowhere = BundleSource("/nowhere/at/all")
    with pytest.raises(gr.Error, match="there is no folder"):
        list(explore.bring(str(tone(tmp_path / "second.wav", 660)), nowhere, first, visitor, quietly))
    assert held(visitor)[Path(first.path).name] == before[Path(first.path).name]
    assert first.sound().samples.shape == (1, RATE)


def test_another_bundle_shows_its_strongest_feature_or_that_of_the_link(tmp_path, visitor):
    kept, heard, *_ = brought(tone(tmp_path / "tone.wav"), None, visitor)
    *_, shown = explore.again(COPY, heard, kept, None, 7, quietly)
    assert shown[0].source == COPY and shown[5] == shown[4]["rows"][0][0] != 7
    *_, shown = explore.again(COPY, heard, kept, Linked(COPY, 42), 7, quietly)
    assert shown[5] == 42
    *_, shown = explore.again(COPY, heard, kept, Linked(SHIPPED, 42), 7, quietly)
    assert shown[5] == shown[4]["rows"][0][0]


def test_going_back_restores_the_bundle_and_the_feature(tmp_path, visitor):
    kept, heard, *_ = brought(tone(tmp_path / "tone.wav"), None, visitor)
    source, stopping, upload = explore.back(COPY, kept)
    assert source == SHIPPED and stopping["visible"] is False and upload is None
    assert skipped(explore.back(SHIPPED, kept)[0]) and skipped(explore.back(SHIPPED, None)[0])
    (shown,) = explore.again(SHIPPED, heard, kept, None, 7, quietly)  # at once: it is what was seen before
    assert shown[1] == heard and shown[5] == 7


def test_the_first_page_needs_no_event():
    seen = examples.seen(EXAMPLES[0].key, SHIPPED)
    assert seen.card["feature"] == seen.feature == seen.rows["rows"][0][0] == seen.chosen["feature"]
    fresh = examples._seen(EXAMPLES[0].key, SHIPPED)
    assert seen.card["name"] == fresh.card["name"] and seen.card["corpus"] == fresh.card["corpus"]
    assert [moment[0] for moment in seen.card["here"]] == [moment[0] for moment in fresh.card["here"]]


@pytest.mark.parametrize(
    ("name", "size", "video", "words"),
    [
        ("holiday.mp4", 5e6, True, "'holiday.mp4' is a video; bring its sound as WAV, FLAC, OGG, MP3 or AIFF"),
        ("long.wav", 41 * 1024**2, False, f"'long.wav' has 41 MB; the limit is {MAX_MB} MB: cut it, or save it as FLAC or MP3"),
    ],
)
def test_what_is_not_even_sent_is_said(name, size, video, words):
    event = gr.EventData(None, {"name": name, "size": size, "video": video})
    with pytest.raises(gr.Error) as caught:
        refusals.refused(event)
    assert caught.value.message == words


def test_a_sound_of_another_format_than_its_ending_is_read(tmp_path):
    """A browser sends what it does not know as it is; the server looks at the content."""
    soundfile.write(tmp_path / "odd.bin", np.zeros(RATE), RATE, format="FLAC", subtype="PCM_16")
    assert CurrentSound("odd", str(tmp_path / "odd.bin")).sound().samples.shape == (1, RATE)
    with pytest.raises(AudioError, match="cannot be read"):
        (tmp_path / "not.flac").write_bytes(b"RIFF" + bytes(100))
        CurrentSound("not", str(tmp_path / "not.flac")).sound()
