"""The Steer tab without a browser: what a visitor asks, what comes back, and the same through the API."""

import base64
import csv
import json
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
import soundfile
import torch

from sae_audio.audio import Sound
from sae_audio.control_file import load_controls
from sae_audio.errors import ParameterError
from sae_audio.pushes import Push
from ui import session, steer
from ui.ab import compared
from ui.examples import EXAMPLES
from ui.measured import change, level
from ui.session import SHIPPED
from ui.steer_settings import Ask, checked, from_json, parse_features, to_json

pytest_plugins = ["browser"]
HEARD = EXAMPLES[0].heard
FULL = Ask(3, "C5", -6, 0.25, 0.5, 2, 0.1, 7, 1.5, "9=-2", "pitch", "A4", 1.5, "paper", True, False)


def run(ask: Ask, session_hash: str = "a visitor") -> list:
    request = gr.Request(session_hash=session_hash)
    *_, last = steer.steer_sound(SHIPPED, HEARD, *ask, request, lambda *args, **kwargs: None)
    return list(last)


def test_settings_come_back_from_their_file(tmp_path):
    path = tmp_path / "settings.json"
    path.write_text(to_json(FULL, {"sound": "x", "bundle": "etude", "revision": None}))
    assert from_json(path) == FULL
    assert json.loads(path.read_text())["bundle"] == "etude"


def test_what_is_asked_becomes_what_steer_takes():
    assert FULL.moves == {"pitch": "C5", "loudness": -6, "brightness": 0.25}
    assert FULL.features == {9: -2.0, 7: 1.5} and FULL.pushes == [Push("pitch", "A4", 1.5, "paper", True)]
    assert FULL.edit.start == 0.5 and FULL.edit.stop == 2 and not FULL.edit.hold
    assert Ask().moves == {} and Ask().features == {} and Ask().pushes == [] and Ask().edit.stop is None
    assert Ask(loudness=3, push="pitch", target="C5", strength=1).open_ended == {"pitch"}
    assert Ask(loudness=3, feature=3, amount=1).open_ended == {"pitch", "brightness"}


@pytest.mark.parametrize(
    ("text", "features"),
    [("42=1.5, 7=-1", {42: 1.5, 7: -1.0}), ("42 −1.5", {42: -1.5}), ("", {}), ("3=1;3=1\n4=2", {3: 2.0, 4: 2.0}), (None, {})],
)
def test_features_as_text(text, features):
    assert parse_features(text) == features


@pytest.mark.parametrize(
    ("ask", "reason"),
    [
        (Ask(more_features="loud"), "write them like 42=1.5"),
        (Ask(more_features="3=5000"), "the limit is 1000"),
        (Ask(note="H2"), "not a note"),
        (Ask(loudness=float("nan")), "setting 'loudness'"),
        (Ask(semitones="many"), "setting 'semitones'"),
        (Ask(hold="yes"), "setting 'hold'"),
    ],
)
def test_bad_settings_are_named(ask, reason):
    with pytest.raises(ParameterError, match=reason):
        checked(ask)


@pytest.mark.parametrize("content", ["no json", "[1]", '{"kind": "other"}', '{"kind": 3, "settings": {}}'])
def test_another_file_is_not_taken_for_settings(content, tmp_path):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ParameterError, match=r"'a\.json' holds no settings"):
        from_json(tmp_path / "a.json")


def test_values_are_said_with_units():
    assert level("pitch", 440.0) == "A4 · 440 Hz" and level("pitch", None) == "no pitch"
    assert level("loudness", -20.04) == "−20.0 dBFS" and level("brightness", 1234.0) == "1.23 kHz"
    assert change("pitch", -2.981) == "−2.98 semitones" and change("loudness", -0.001) == "0.00 dB"


def test_nothing_asked_is_the_reconstruction_and_says_so():
    view, wav16, wav24, *_, controls, _row, _result = run(Ask())
    sounds = [soundfile.read(track["file"]["path"])[0] for track in view["tracks"]]
    assert np.array_equal(sounds[1], sounds[2]) and controls is None
    assert "Nothing was asked for" in view["notes"][0]
    assert soundfile.info(wav16).subtype == "PCM_16" and soundfile.info(wav24).subtype == "PCM_24"


def test_all_exports_hold_what_was_measured():
    ask = Ask(semitones=5, loudness=-6, start=1, stop=4, fade=0.5, feature=5, amount=1)
    view, wav16, _, curves, settings, controls, _row, result = run(ask)
    by = {row["property"]: row for row in view["measured"]}
    assert by["loudness"]["got"] == pytest.approx(-6, abs=0.5) and by["pitch"]["got"] == pytest.approx(5, abs=0.3)
    assert by["brightness"]["asked"] is None and by["loudness"]["said"][3] == "−6.0 dB"
    with open(curves) as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 300 and float(rows[0]["edit"]) == 0 and float(rows[125]["edit"]) == 1
    assert rows[10]["reconstruction_f0_hz"] == rows[10]["steered_f0_hz"] or float(rows[10]["edit"]) == 0
    assert from_json(settings) == ask and Path(steer.spectrograms(result)).read_bytes().startswith(b"\x89PNG")
    spec, vectors = load_controls(controls)
    assert spec.name == "etude-codec" and set(vectors) == {"pitch", "loudness", "feature 5"}
    assert len(soundfile.read(wav16)[0]) == len(HEARD.sound().samples[0])


def test_what_would_clip_is_lowered_as_a_whole():
    def sound(*samples):
        return Sound(torch.tensor([samples]), 16000)

    fits = sound(0.5, -1.0)
    assert steer.within_full_scale(fits, fits, fits) == (fits, fits, fits)
    played = steer.within_full_scale(fits, sound(0.5, 2.0), sound(0.25, 4.0))
    assert [x.samples[0].tolist() for x in played] == [
        pytest.approx(values, abs=1e-4) for values in ([0.25, -0.5], [0.25, 1.0], [0.0625, 1.0])
    ]
    loud = sound(0.5, 2.0)
    assert torch.equal(*(x.samples for x in steer.within_full_scale(fits, loud, loud)[1:]))  # no strength: still the same


def test_the_notes_say_what_was_lowered(tmp_path):
    soundfile.write(tmp_path / "loud.wav", 0.9 * np.sign(np.sin(2 * np.pi * 220 * np.arange(8000) / 16000)), 16000)
    request = gr.Request(session_hash="loud")
    *_, (view, *_) = steer.steer_sound(
        SHIPPED,
        session.CurrentSound("loud", str(tmp_path / "loud.wav")),
        *Ask(loudness=12),
        request,
        lambda *args, **kwargs: None,
    )
    session.leave(request)
    assert any("plays and is saved" in note and "dB lower than measured" in note for note in view["notes"])
    assert view["measured"][1]["got"] == pytest.approx(12, abs=0.5)


def test_two_visitors_have_their_own_files_and_old_ones_go():
    first = [Path(run(Ask(), "one")[1]) for _ in range(3)]
    other = Path(run(Ask(), "two")[1])
    assert not first[0].exists() and first[1].exists() and first[2].exists()
    assert first[2].parents[2] != other.parents[2]
    session.leave(gr.Request(session_hash="one"))
    assert not first[2].exists() and other.exists()
    session.leave(gr.Request(session_hash="two"))


def test_each_step_is_said_and_stopping_in_between_leaves_nothing():
    said, request = [], gr.Request(session_hash="stopped")
    steps = steer.steer_sound(SHIPPED, HEARD, *Ask(loudness=-6), request, lambda share, desc: said.append((share, desc)))
    next(steps), next(steps)
    steps.close()
    assert [share for share, _ in said] == [0, pytest.approx(1 / 6)] and said[0][1] == "Encoding the sound"
    assert not (session.folder(request) / "steer").exists()
    session.leave(request)


@pytest.mark.parametrize(
    ("ask", "reason"),
    [
        (Ask(start=9), "starts at 9 s, but the sound lasts 6.00 s"),
        (Ask(fade=3, start=1, stop=2, loudness=1), "a fade is at most half as long"),
        (Ask(feature=99999, amount=1), "there is no feature 99999"),
        (Ask(push="pitch", target="", strength=1), "choose the class"),
        (Ask(note="C8"), "C8"),
    ],
)
def test_what_cannot_be_done_is_said_in_words(ask, reason):
    with pytest.raises(gr.Error, match=reason):
        run(ask)


def test_the_pictures_share_one_scale(tmp_path):
    sound = Sound(0.5 * torch.sin(2 * torch.pi * 440 * torch.arange(16000) / 16000)[None], 16000)
    quiet = sound._replace(samples=sound.samples / 10)
    done = next(iter([step for step in steer._steering(SHIPPED, HEARD, Ask()) if isinstance(step, steer.Steered)]))
    view = compared((sound, quiet, quiet), done, tmp_path, "x")
    brightest = [max(base64.b64decode(track["picture"]["data"])) for track in view["tracks"]]
    assert brightest[0] == 255 and brightest[1] == pytest.approx(255 * (75 - 20) / 75, abs=2)
    assert [track["level_db"] for track in view["tracks"]] == pytest.approx([-9.03, -29.03, -29.03], abs=0.02)


def test_bounds_follow_the_bundle():
    semitones, note, loudness, brightness = steer.bounds_of(SHIPPED)
    assert (loudness["minimum"], loudness["maximum"]) == (-24, 24) and semitones["interactive"]
    assert brightness["minimum"] == pytest.approx(-0.95) and brightness["maximum"] == pytest.approx(0.9)
    assert note["choices"][:2] == ["as played", "C2"] and "C7" in note["choices"]


def test_the_api_does_what_the_page_does(app_url):
    from gradio_client import Client, handle_file
    from gradio_client.exceptions import AppError

    client = Client(app_url, verbose=False)
    view, wav, *_, settings, _controls = client.predict(loudness=-6, stop=1.5, api_name="/steer")
    assert {row["property"]: row for row in view["measured"]}["loudness"]["got"] == pytest.approx(-6, abs=0.5)
    assert soundfile.info(wav).samplerate == 16000
    assert Path(client.predict(api_name="/steer_spectrograms")).read_bytes().startswith(b"\x89PNG")
    with pytest.raises(AppError, match="steer the sound first"):
        Client(app_url, verbose=False).predict(api_name="/steer_spectrograms")
    loaded = client.predict(handle_file(settings), api_name="/steer_load_settings")
    assert loaded[2] == -6 and loaded[5] == 1.5
    classes = client.predict(push="brightness", api_name="/steer_classes")
    assert "2 kHz" in json.dumps(classes)
    with pytest.raises(AppError, match="write them like"):
        client.predict(more_features="loud", api_name="/steer")
