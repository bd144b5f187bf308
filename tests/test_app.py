"""The app's functions, and the app through its API: numbers against the library, bad sounds in words, nothing shared or left."""

import base64
import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from sae_audio import Bundle, analyse
from sae_audio.audio import Sound
from sae_audio.audition import audition
from sae_audio.bundle_space import space_of
from sae_audio.errors import AudioError
from sae_audio.etude.corpus import clip_named
from sae_audio.latent_spaces import CHECKPOINTS
from ui import colours, examples, guard
from ui.session import BundleSource
from ui.timeline import UNDEFINED, activation_of, picture, spectrogram, track

pytest_plugins = ["browser"]
ETUDE = BundleSource(str(CHECKPOINTS / "etude"))
RATE = 16_000


@pytest.fixture(scope="module")
def etude():
    bundle = Bundle.from_pretrained(ETUDE.where)
    return bundle, space_of(bundle)


@pytest.fixture(scope="module")
def sine(etude):
    """Two seconds of 440 Hz at -9 dBFS peak, then one second of silence."""
    samples = torch.zeros(1, 3 * RATE)
    samples[0, : 2 * RATE] = 0.5 * torch.sin(2 * torch.pi * 440 / RATE * torch.arange(2 * RATE))
    sound = Sound(samples * 10 ** (-3 / 20), RATE)
    return sound, analyse(etude[0], sound, space=etude[1])


def raw(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), np.uint8)


def heard(drawn: dict) -> tuple[np.ndarray, int]:
    return soundfile.read(io.BytesIO(base64.b64decode(drawn["wav"])), dtype="int16")


def client_of(url: str) -> Client:
    return Client(url, verbose=False, analytics_enabled=False)


def write(path: Path, samples: np.ndarray, rate: int = RATE, **kwargs) -> Path:
    soundfile.write(path, samples, rate, **kwargs)
    return path


# What is drawn.


def test_colour_maps_rise_evenly_in_lightness_and_stay_in_range():
    for ends in (colours.DARK, colours.LIGHT):
        rgb = colours.colour_map(**ends).astype(float) / 255
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        lms = (
            linear
            @ np.linalg.inv(
                np.array(
                    [
                        [4.0767416621, -3.3077115913, 0.2309699292],
                        [-1.2684380046, 2.6097574011, -0.3413193965],
                        [-0.0041960863, -0.7034186147, 1.7076147010],
                    ]
                )
            ).T
        )
        lightness = np.cbrt(np.clip(lms, 0, None)) @ [0.2104542553, 0.7936177850, -0.0040720468]  # OKLab, the forward matrix
        np.testing.assert_allclose(lightness, np.linspace(*ends["lightness"], 256), atol=0.006)


def test_a_sine_is_drawn_at_its_pitch_level_and_time(etude, sine):
    drawn = picture(etude[0], sine[1], "sine")
    assert (drawn["duration"], drawn["frame_rate"], drawn["frames"]) == (3.0, 50.0, 150)
    lanes = {lane["name"]: lane for lane in drawn["properties"]}
    middle, silent = 50, 140
    assert lanes["pitch"]["values"][middle] == pytest.approx(440, abs=1) and lanes["pitch"]["values"][silent] is None
    assert lanes["loudness"]["values"][middle] == pytest.approx(20 * np.log10(0.5 / 2**0.5) - 3, abs=0.1)
    curve = raw(lanes["pitch"]["curve"])
    pitch = etude[0].properties["pitch"]
    assert curve[middle] / 254 * pitch.n_classes == pytest.approx(
        pitch.class_index("A4") + 0.5, abs=0.3
    )  # the middle of its class
    assert curve[silent] == UNDEFINED
    posterior = raw(lanes["pitch"]["posterior"]).reshape(pitch.n_classes, 150)
    np.testing.assert_allclose(posterior[::-1, middle] / 255, sine[1].posteriors["pitch"][middle], atol=0.003)
    assert posterior[:, silent].max() == 0  # silence has no pitch, whatever the probe says


def test_the_spectrogram_is_brightest_where_the_sine_is(sine):
    drawn = spectrogram(sine[1].audio, RATE)
    level = raw(drawn["data"]).reshape(drawn["rows"], drawn["columns"])
    row = int(level[:, drawn["columns"] // 3].argmax())
    mel = lambda hz: 2595 * np.log10(1 + hz / 700)  # noqa: E731
    expected = (mel(440) - mel(30)) / (mel(8000) - mel(30))
    assert 1 - (row + 0.5) / drawn["rows"] == pytest.approx(expected, abs=0.02)
    assert level[:, -10:].max() == 0


def test_activations_are_drawn_as_a_share_of_the_largest_in_the_corpus(etude, sine):
    bundle, view = etude[0], sine[1]
    feature = view.top_features[0]
    drawn = activation_of(bundle, view, feature)
    activation = view.acts[:, feature].to_dense()
    np.testing.assert_allclose(raw(drawn["data"]) / 255 * drawn["scale"], activation, atol=drawn["scale"] / 500)
    assert drawn["scale"] == pytest.approx(max(float(bundle.atlas.max[feature]), float(activation.max())))


def test_a_track_is_16_bit_and_not_normalised():
    samples, rate = heard(track("quiet", torch.tensor([[0.0, 0.25, -0.25, 1.5]]), 8000))
    assert samples.tolist() == [0, 8192, -8192, 32767] and rate == 8000


def test_the_shipped_examples_are_what_the_shipped_bundle_sees():
    stored = json.loads(examples.SEEN.read_text())
    assert stored["bundle"] == examples.fingerprint(examples.ETUDE), "run `python -m ui.examples`: the bundle changed"
    bundle = Bundle.from_pretrained(ETUDE.where)
    for example in examples.EXAMPLES:
        samples, rate = soundfile.read(example.heard.path, dtype="float32")
        clip = clip_named(example.clip).render()[: len(samples)]
        assert rate == RATE and len(samples) == 6 * RATE
        np.testing.assert_allclose(samples[: -examples.FADE], clip[: -examples.FADE], atol=1e-4)
        view = analyse(bundle, example.heard.path)
        fresh = picture(bundle, view, example.title)
        kept = stored[example.key]["picture"]
        assert kept["frames"] == fresh["frames"]
        np.testing.assert_allclose(raw(kept["spectrogram"]["data"]).astype(int), raw(fresh["spectrogram"]["data"]), atol=2)
        assert [row[0] for row in stored[example.key]["rows"]["rows"][:3]] == view.top_features[:3]


# What a visitor is told.


def test_errors_of_ours_are_said_without_the_server_s_folders():
    error = AudioError("'/tmp/gradio/ab12/my song.wav' lasts 180.0 min; the limit is 1 min: cut it, or raise --max-minutes")
    assert guard.said(error) == "'my song.wav' lasts 180.0 min; the limit is 1 min: cut it"


def test_other_errors_are_said_without_their_text(caplog):
    @guard.plainly
    def fails():
        raise ValueError("secret of the server")

    @guard.plainly
    def fails_later():
        yield 1
        raise ValueError("secret of the server")

    for run in (fails, lambda: list(fails_later())):
        with pytest.raises(Exception, match="Something went wrong") as caught:
            run()
        assert "secret" not in str(caught.value)
    assert "secret of the server" in caplog.text


# Through the API.


def long_flac(path: Path) -> None:
    """Three hours of silence in 200 kB."""
    with soundfile.SoundFile(path, "w", 4000, 1, format="FLAC", subtype="PCM_16") as out:
        for _ in range(180):
            out.write(np.zeros(60 * 4000, np.int16))


BAD = {
    "one sample": (lambda path: soundfile.write(path, np.zeros(1), RATE), "lasts 0.1 ms; the least is 20 ms"),
    "NaN": (lambda path: soundfile.write(path, np.full(RATE, np.nan), RATE, subtype="FLOAT"), "16000 samples that are NaN"),
    "64 channels": (lambda path: soundfile.write(path, np.zeros((RATE, 64)), RATE), "has 64 channels; the limit is 8"),
    "text": (lambda path: path.write_text("this is not sound\n" * 50), "cannot be read as audio"),
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
    "video": (lambda path: path.write_bytes(b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(5000)), "cannot be read as audio"),
    "three hours": (lambda path: long_flac(path), "lasts 180.0 min; the limit is 1 min"),
    "61 seconds": (lambda path: soundfile.write(path, np.zeros(61 * 4000), 4000), "the limit is 1 min"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_sounds_are_refused_in_words(app_url, tmp_path, kind):
    make, words = BAD[kind]
    path = tmp_path / "sound.wav"
    make(path)
    with pytest.raises(AppError) as caught:
        client_of(app_url).predict(handle_file(path), api_name="/analyse")
    message = str(caught.value)
    assert words in message and "/tmp" not in message and "Traceback" not in message and "--" not in message


ODD = {
    "silence": (np.zeros(RATE), RATE),
    "DC": (np.full(RATE, 0.5), RATE),
    "clipped": (np.sign(np.sin(2 * np.pi * 220 / RATE * np.arange(RATE))), RATE),
    "8 kHz": (0.3 * np.sin(2 * np.pi * 440 / 8000 * np.arange(8000)), 8000),
    "stereo 44.1 kHz": (np.random.default_rng(0).normal(0, 0.1, (44_100, 2)), 44_100),
    "20 ms": (0.1 * np.ones(320), RATE),
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_sounds_are_shown(app_url, tmp_path, kind):
    samples, rate = ODD[kind]
    _, _, table, _, _ = client_of(app_url).predict(handle_file(write(tmp_path / "odd.wav", samples, rate)), api_name="/analyse")
    assert table["rows"] and all(row[3] >= 0 for row in table["rows"])
    assert sum(row[3] for row in table["rows"]) == pytest.approx(100, abs=3)


def test_the_api_does_what_the_page_does(app_url, etude, tmp_path):
    """Bring a sound, see its features, hear one, save the activations: all equal to the library's own."""
    bundle, space = etude
    samples = (clip_named("additive-test-0-00057").render()[: 3 * RATE] * 2**15).round().astype(np.int16)
    path = write(tmp_path / "my_line.wav", samples)
    view = analyse(bundle, path, space=space)
    client = client_of(app_url)
    title, shown, table, _, _ = client.predict(handle_file(path), api_name="/analyse")
    assert title == "## my line"
    assert [row[0] for row in table["rows"][:5]] == view.top_features[:5]
    assert np.array_equal(heard(shown["value"]["sound"])[0], samples)  # not normalised, not dithered

    feature = view.top_features[2]
    client.predict(feature, api_name="/choose_feature")
    card, _, _ = client.predict(api_name="/feature")
    known = bundle.atlas.feature(feature)
    assert (card["feature"], card["name"]) == (feature, known.name.text)
    assert card["corpus"][0] == [known.moments[0].recording, round(known.moments[0].time, 2), round(known.moments[0].value, 2)]
    assert card["here"][0][1] == pytest.approx(float(view.acts[:, feature].to_dense().max()), abs=0.01)

    tracks, words = client.predict(feature, "remove", api_name="/hear_feature")
    expected = audition(bundle, view, feature, "remove", space=space).audio[0].numpy()
    got = heard(tracks["props"]["tracks"][0])[0] / 2**15
    np.testing.assert_allclose(got, expected, atol=2e-3)
    assert f"Without feature {feature}" in words

    with open(client.predict(api_name="/export_activations"), newline="") as file:
        rows = list(csv.DictReader(file))
    acts = view.acts.to_dense()
    assert len(rows) == int((acts > 0).sum())
    assert float(rows[0]["activation"]) == pytest.approx(float(acts[0][acts[0] > 0][0]), abs=1e-3)
    settings = json.loads(Path(client.predict(api_name="/export_settings")).read_text())
    assert settings == {"sound": "my line", "bundle": "etude", "revision": None, "feature": feature}


def test_visitors_do_not_see_each_other_s_sound(app_url, etude, tmp_path):
    one, other = client_of(app_url), client_of(app_url)
    low, high = (write(tmp_path / f"{hz}.wav", 0.3 * np.sin(2 * np.pi * hz / RATE * np.arange(RATE))) for hz in (220, 880))
    first = one.predict(handle_file(low), api_name="/analyse")
    other.predict(handle_file(high), api_name="/analyse")
    again = one.predict(api_name="/analyse_again")
    assert again[0] == "## 220" and again[2] == first[2]


def test_what_is_asked_wrongly_is_said(app_url):
    client = client_of(app_url)
    with pytest.raises(AppError, match="alone, remove, boost"):
        client.predict(5, "sideways", api_name="/hear_feature")
    client.predict(99_999, api_name="/choose_feature")
    with pytest.raises(AppError, match="there is no feature 99999; this atlas has features 0 to 1023"):
        client.predict(api_name="/feature")


def test_a_moment_of_the_corpus_is_synthesised_again(app_url, etude):
    moment = next(m for f in range(9) for m in etude[0].atlas.feature(f).moments if m.recording.startswith("additive"))
    found = client_of(app_url).predict(moment.recording, moment.time, api_name="/corpus_moment")
    start = int((round(moment.time, 3) - 0.1) * RATE)
    clip = clip_named(moment.recording).render()[start : start + int(1.5 * RATE)]
    np.testing.assert_allclose(heard(found)[0][100:-100] / 2**15, clip[100:-100], atol=1e-4)
    for name in ("../../etc/passwd", "song.wav", ""):
        assert (
            "is not the name of a synthesised clip" in client_of(app_url).predict(name, 0.0, api_name="/corpus_moment")["error"]
        )


def test_the_readme_s_client_runs_as_it_stands(app_url, tmp_path, capsys):
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    (code,) = re.findall(r"```python\n(from gradio_client.+?)```", readme, re.DOTALL)
    song = write(tmp_path / "song.wav", clip_named("additive-test-0-00057").render()[: 2 * RATE])
    exec(code.replace("http://127.0.0.1:7860", app_url).replace("song.wav", str(song)), {})
    assert "## song" in capsys.readouterr().out


def test_every_event_is_documented(app_url):
    described = client_of(app_url).view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert {"/analyse", "/feature", "/choose_feature", "/hear_feature", "/export_activations", "/corpus_moment"} <= set(described)
    undocumented = [name for name, info in described.items() if not (info.get("description") or "").strip()]
    assert undocumented == []
    assert not [name for name in described if name.startswith(("/lambda", "/picked", "/asked"))]
