"""The command line as people use it: a bundle trained once, real sound files, every kind of bad input."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from sae_audio import cli

ROOT = Path(__file__).parent.parent
TINY = ["--minutes", "2", "--steps", "60", "--d-sae", "256", "--control-clips", "1", "--batch-size", "1024", "--device", "cpu"]


def run(*arguments, cwd=ROOT):
    """Run a script of the repository as a user does; return exit code, stdout and stderr."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, env=environment)
    return done.returncode, done.stdout, done.stderr


def call(capsys, *arguments):
    """Run the command line in this process."""
    code = cli.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    """A bundle made by train.py, the real way."""
    out = tmp_path_factory.mktemp("train") / "bundle"
    code, stdout, stderr = run("train.py", *TINY, "--out", out)
    assert code == 0, stderr[-2000:]
    assert f"--bundle {out}" in stdout
    return out


@pytest.fixture
def tone(tmp_path):
    """One second of a harmonic A3 at 44.1 kHz, stereo, in FLAC."""
    t = np.arange(44_100) / 44_100
    wave = sum(np.sin(2 * np.pi * 220 * k * t) / k for k in range(1, 9)) * 0.1
    path = tmp_path / "tone.flac"
    soundfile.write(path, np.stack([wave, wave], 1), 44_100)
    return path


def is_one_line(text):
    return text.endswith("\n") and text.count("\n") == 1 and "Traceback" not in text


def test_the_trained_bundle_is_complete(bundle):
    from sae_audio.bundle import Bundle

    loaded = Bundle.from_pretrained(bundle)
    assert set(loaded.properties) == {"pitch", "loudness", "brightness"} <= set(loaded.controls)
    assert {"training.png", "probes.png", "dose_response.png", "isolation.png", "tuning.png"} <= set(loaded.figures)
    for scores in loaded.metrics["probes"].values():
        assert {"acts", "latents", "pca", "random", "untrained"} == set(scores)
    held = [trial for trial in loaded.metrics["control"]["trials"] if trial["held"]]
    assert len(held) == 2 * (4 + 4 + 2)
    assert loaded.provenance["data"]["name"].startswith("étude corpus")


def test_resume_reuses_the_store_and_gives_the_same_bundle(bundle, tmp_path):
    before = {path.name: path.read_bytes() for path in bundle.glob("*.safetensors")}
    code, _, stderr = run("train.py", *TINY, "--out", bundle, "--resume")
    assert code == 0, stderr[-2000:]
    assert {path.name: path.read_bytes() for path in bundle.glob("*.safetensors")} == before


def test_analyse(bundle, tone, tmp_path, capsys):
    code, out, err = call(
        capsys, "analyse", tone, "--bundle", bundle, "--json", tmp_path / "a.json", "--plot", tmp_path / "a.png"
    )
    assert (code, err) == (0, "")
    assert "1.00 s, 2 channels, 44100 Hz -> etude-codec, 50 frames at 50 Hz" in out
    assert "A3 (220." in out and "next: python -m sae_audio steer" in out
    summary = json.loads((tmp_path / "a.json").read_text())
    assert summary["descriptors"]["pitch"]["median"] == pytest.approx(220, rel=0.005)
    assert len(summary["features"]) == 12
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"


def test_json_on_standard_output_is_json(bundle, tone, capsys):
    code, out, _ = call(capsys, "analyse", tone, "--bundle", bundle, "--json", "-")
    assert code == 0 and json.loads(out)["sample_rate"] == 44_100


def test_steer_keeps_rate_channels_and_length_and_moves_the_level(bundle, tone, tmp_path, capsys):
    output = tmp_path / "out.wav"
    options = ["--loudness", "-6", "-o", output, "--json", tmp_path / "s.json", "--plot", tmp_path / "s.png"]
    code, out, err = call(capsys, "steer", tone, "--bundle", bundle, *options)
    assert (code, err) == (0, "")
    info = soundfile.info(output)
    assert (info.samplerate, info.channels, info.frames, info.subtype) == (44_100, 2, 44_100, "PCM_16")
    change = json.loads((tmp_path / "s.json").read_text())["change"]
    assert change["loudness"] == pytest.approx(-6, abs=0.5)
    assert change["pitch"] == pytest.approx(0, abs=0.5) and change["brightness"] == pytest.approx(0, abs=0.1)
    # The level measured on the written file, against the codec's own reconstruction.
    call(capsys, "steer", tone, "--bundle", bundle, "--loudness", "0", "--feature", "0=0", "-o", tmp_path / "same.wav")
    rms = [np.sqrt(np.mean(soundfile.read(path)[0][4000:-4000] ** 2)) for path in (output, tmp_path / "same.wav")]
    assert 20 * np.log10(rms[0] / rms[1]) == pytest.approx(-6, abs=0.7)
    assert "wrote" in out


def test_amounts_may_have_their_unit(tmp_path, capsys):
    changes = []
    for loudness, brightness, pitch in (("-6dB", "+0.3 oct", "-2st"), ("-6", "0.3", "-2")):
        amounts = ["--loudness", loudness, "--brightness", brightness, "--pitch", pitch]
        melody = ROOT / "ui" / "assets" / "melody.flac"
        code, out, err = call(capsys, "steer", melody, *amounts, "--no-hold", "--json", "-", "-o", tmp_path / "o.wav")
        assert code == 0, err
        changes.append(json.loads(out)["change"])
    assert changes[0] == changes[1] and changes[0]["loudness"] < -4 and changes[0]["pitch"] == pytest.approx(-2, abs=0.5)


def test_steer_writes_beside_the_input_by_default(bundle, tone, capsys):
    code, _, _ = call(capsys, "steer", tone, "--bundle", bundle, "--brightness", "+0.3", "--bits", "24")
    assert code == 0 and soundfile.info(tone.with_suffix(".steered.wav")).subtype == "PCM_24"


def test_the_change_reported_is_that_of_the_edited_part(bundle, tone, tmp_path, capsys):
    options = ["--loudness", "-9", "--from", "0.2", "--to", "0.4", "--json", "-", "-o", tmp_path / "part.wav"]
    code, out, _ = call(capsys, "steer", tone, "--bundle", bundle, *options)
    assert code == 0 and json.loads(out)["change"]["loudness"] == pytest.approx(-9, abs=2)


def test_pitch_of_noise_cannot_be_moved(bundle, tmp_path, capsys):
    noise = np.random.default_rng(0).standard_normal(16_000) * 0.1
    soundfile.write(tmp_path / "noise.wav", noise, 16_000)
    code, _, err = call(capsys, "steer", tmp_path / "noise.wav", "--bundle", bundle, "--pitch", "+2")
    assert code == 2 and is_one_line(err) and "no frame of the sound has a single pitch" in err


def test_another_space_is_refused(bundle, tone):
    from sae_audio import Bundle, analyse
    from sae_audio.bundle_space import space_of
    from sae_audio.errors import ParameterError

    loaded = Bundle.from_pretrained(bundle)
    space = space_of(loaded)
    space.spec = dataclasses.replace(space.spec, tap="other")
    with pytest.raises(ParameterError, match="tap mean, but the one given has other"):
        analyse(loaded, tone, space=space)


def test_only_the_part_asked_for_is_edited(bundle, tone, tmp_path, capsys):
    for name, amount in (("a", "-12"), ("b", "12")):
        code, _, err = call(
            capsys,
            "steer",
            tone,
            "--bundle",
            bundle,
            "--loudness",
            amount,
            "--from",
            "0.6",
            "--no-hold",
            "-o",
            tmp_path / f"{name}.wav",
        )
        assert code == 0, err
    a, b = (soundfile.read(tmp_path / f"{name}.wav")[0][:, 0] for name in "ab")
    early, late = slice(4000, 20_000), slice(32_000, 40_000)
    level = [20 * np.log10(np.sqrt(np.mean(b[part] ** 2)) / np.sqrt(np.mean(a[part] ** 2))) for part in (early, late)]
    assert abs(level[0]) < 1.5 and level[1] > 18


def test_eval(bundle, tone, tmp_path, capsys):
    code, out, err = call(capsys, "eval", bundle, "--audio", tone.parent, "--json", tmp_path / "e.json")
    assert code == 0, err
    assert "SAE on 50 held-out frames of 1 recordings" in out
    metrics = json.loads((tmp_path / "e.json").read_text())
    assert metrics["sae"]["n_frames"] == 50 and metrics["probes"]["pitch"]["acts"]["n_frames"] > 30
    # The tone's A3 is not the note most frequent in training: always saying that one is never right.
    assert metrics["probes"]["pitch"]["acts"]["majority"] == 0


def test_eval_takes_the_bundle_either_way_but_one(bundle, tone, tmp_path, capsys):
    code, out, err = call(capsys, "eval", "--bundle", bundle, "--audio", tone)
    assert code == 0 and "on 50 held-out frames of 1 recordings" in out, err
    code, _, err = call(capsys, "eval", "a", "--bundle", "b")
    assert code == 2 and is_one_line(err) and "two bundles were named, 'a' and 'b'" in err
    for unset in ([""], ["--bundle", ""]):  # as `eval "$BUNDLE"` says where there is no such variable: not the shipped one
        code, _, err = call(capsys, "eval", *unset, "--audio", tone)
        assert code == 2 and is_one_line(err) and "is not a sae_audio bundle" in err


def test_eval_measures_pitch_as_training_did(bundle, tone, tmp_path, capsys):
    from sae_audio.bundle import Bundle

    loaded, other = Bundle.from_pretrained(bundle), tmp_path / "other"
    data = loaded.provenance["data"] | {"tracker": "none-such"}
    dataclasses.replace(loaded, provenance=loaded.provenance | {"data": data}).save(other)
    code, _, err = call(capsys, "eval", other, "--audio", tone)
    assert code == 2 and "error: tracker is 'none-such'; use one of yin" in err


def test_eval_draws_its_controls_and_names_what_it_left_out(bundle, tone, tmp_path, capsys):
    (tmp_path / "bad.wav").write_text("no sound")
    code, out, err = call(capsys, "eval", bundle, "--audio", tone, tmp_path / "bad.wav", "--plot", tmp_path / "e.png")
    assert code == 0 and "skipped bad.wav: " in err and "control" in out
    assert (tmp_path / "e.png").read_bytes()[:4] == b"\x89PNG"


def test_eval_draws_no_controls_that_are_not_there(bundle, tone, tmp_path, capsys):
    from sae_audio.bundle import Bundle

    dataclasses.replace(Bundle.from_pretrained(bundle), controls={}).save(tmp_path / "other")
    options = ["--audio", tmp_path / "missing.wav", "--plot", tmp_path / "e.png"]
    code, _, err = call(capsys, "eval", tmp_path / "other", *options)
    assert code == 2 and is_one_line(err) and "there is no control to draw" in err


def test_spaces(capsys):
    code, out, _ = call(capsys, "spaces")
    assert code == 0
    assert out.splitlines()[1].startswith("etude-codec") and "encodec-24khz" in out


ODD_BUT_FINE = {
    "8khz.wav": (8_000, 1, "PCM_16", lambda x: x),
    "192khz.wav": (192_000, 1, "PCM_24", lambda x: x),
    "surround.wav": (48_000, 6, "PCM_16", lambda x: x),
    "clipped.wav": (44_100, 1, "PCM_16", lambda x: np.clip(5 * x, -1, 1)),
    "offset.wav": (44_100, 1, "PCM_16", lambda x: x + 0.4),
    "hot.wav": (44_100, 1, "FLOAT", lambda x: 4 * x),
    "sound.ogg": (44_100, 2, "VORBIS", lambda x: x),
    "silence.wav": (44_100, 1, "PCM_16", lambda x: 0 * x),
    "short.wav": (16_000, 1, "PCM_16", lambda x: x[:320]),
}


@pytest.mark.parametrize("name", ODD_BUT_FINE)
@pytest.mark.filterwarnings("ignore:the sound was clipped")
def test_odd_sounds_work(name, bundle, tmp_path, capsys):
    rate, channels, subtype, shape = ODD_BUT_FINE[name]
    wave = shape(0.3 * np.sin(2 * np.pi * 220 * np.arange(rate // 2) / rate))
    soundfile.write(tmp_path / name, np.repeat(wave[:, None], channels, 1), rate, subtype=subtype)
    code, _, err = call(capsys, "analyse", tmp_path / name, "--bundle", bundle)
    assert code == 0, err
    code, _, err = call(capsys, "steer", tmp_path / name, "--bundle", bundle, "--loudness", "-3", "-o", tmp_path / "out.wav")
    assert code == 0, err
    info = soundfile.info(tmp_path / "out.wav")
    assert (info.samplerate, info.channels, info.frames) == (rate, channels, len(wave))


def bad_files(folder):
    rate, second = 16_000, 0.1 * np.ones((16_000, 1))
    soundfile.write(folder / "one.wav", second[:1], rate)
    soundfile.write(folder / "many.wav", np.repeat(second, 64, 1), rate)
    soundfile.write(folder / "nan.wav", np.where(np.arange(rate)[:, None] == 7, np.nan, second), rate, subtype="FLOAT")
    soundfile.write(folder / "slow.wav", second, 2_000)
    soundfile.write(folder / "long.flac", np.zeros((4_000 * 60 * 21, 1), dtype=np.int16), 4_000)
    (folder / "empty.wav").write_bytes(b"")
    (folder / "text.wav").write_text("this is not a sound")
    (folder / "photo.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(64))
    (folder / "header.wav").write_bytes((folder / "one.wav").read_bytes()[:30])
    (folder / "folder.wav").mkdir()
    names = ["one.wav", "many.wav", "nan.wav", "slow.wav", "long.flac", "empty.wav", "text.wav", "photo.png", "header.wav"]
    return [*names, "folder.wav", "missing.wav"]


@pytest.mark.parametrize("command", ["analyse", "steer"])
def test_bad_sounds_give_one_line_and_leave_nothing(command, bundle, tmp_path, capsys):
    for name in bad_files(tmp_path):
        before = sorted(tmp_path.rglob("*"))
        more = ["--loudness", "-3"] if command == "steer" else []
        code, out, err = call(capsys, command, tmp_path / name, "--bundle", bundle, *more)
        assert (code, out) == (2, ""), name
        assert is_one_line(err) and name in err, err
        assert sorted(tmp_path.rglob("*")) == before


def test_what_would_clip_is_lowered_and_the_change_is_that_of_the_file(tmp_path, capsys):
    melody, output = ROOT / "ui" / "assets" / "melody.flac", tmp_path / "loud.wav"
    code, out, err = call(capsys, "steer", melody, "--loudness", "+12", "-o", output, "--json", tmp_path / "l.json")
    assert (code, err) == (0, "")
    found, written = json.loads((tmp_path / "l.json").read_text()), soundfile.read(output)[0]
    over = -20 * np.log10(found["gain"])
    assert over > 3 and f"it went {over:.1f} dB over full scale, so all of it was lowered by that much" in out
    assert np.abs(written).max() == pytest.approx(1, abs=1e-3)
    assert found["change"]["loudness"] == pytest.approx(12 - over, abs=0.5)
    # The level of the file itself, frame by frame, which nothing of ours measures.
    frames = written[: len(written) // 320 * 320].reshape(-1, 320)
    level = 20 * np.log10(np.sqrt((frames**2).mean(1)))
    assert np.median(level[level > -60]) == pytest.approx(found["after"]["loudness"]["median"], abs=0.5)


TARGETS = {
    "-o 'SONG' is also 'SONG', which is read": ["steer", "SONG", "--loudness", "-3", "-o", "SONG"],
    "-o 'LINK' is also 'SONG', which is read": ["steer", "SONG", "--loudness", "-3", "-o", "LINK"],
    "-o 'DIR/out.mp3' must end in .wav": ["steer", "SONG", "--loudness", "-3", "-o", "DIR/out.mp3"],
    "--json 'SONG' must end in .json": ["analyse", "SONG", "--json", "SONG"],
    "--plot 'DIR/a.jpg' must end in .png or .pdf or .svg": ["analyse", "SONG", "--plot", "DIR/a.jpg"],
    "--probes 'DIR/a.png' is also the target of --plot": ["analyse", "SONG", "--plot", "DIR/a.png", "--probes", "DIR/a.png"],
    "'/proc/out.wav' cannot be written": ["steer", "SONG", "--loudness", "-3", "-o", "/proc/out.wav"],
    "-o 'DIR/song' must end in .wav": ["generate", "-o", "DIR/song"],
    "--json 'DIR/a.txt' must end in .json": ["spaces", "--json", "DIR/a.txt"],
    "--plot 'DIR/a' must end in .png": ["eval", "--plot", "DIR/a"],
}


@pytest.mark.parametrize("reason", TARGETS)
def test_targets_that_would_destroy_or_mislead_are_refused(reason, tone, tmp_path, capsys):
    song, link = tmp_path / "song.wav", tmp_path / "link.wav"
    soundfile.write(song, *soundfile.read(tone))
    link.symlink_to(song)
    named = {"SONG": str(song), "LINK": str(link), "DIR": str(tmp_path)}

    def filled(text):
        for short, path in named.items():
            text = text.replace(short, path)
        return text

    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    code, out, err = call(capsys, *map(filled, TARGETS[reason]), *([] if "spaces" in TARGETS[reason] else ["--revision", "x"]))
    assert (code, out) == (2, "") and is_one_line(err) and filled(reason) in err, err
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_default_output_is_checked_before_the_work(tone, capsys):
    tone.with_suffix(".steered.wav").mkdir()
    code, _, err = call(capsys, "steer", tone, "--loudness", "-3", "--bundle", "/nowhere")
    assert code == 2 and is_one_line(err) and ".steered.wav' cannot be written: it is a folder" in err


@pytest.mark.parametrize(("ending", "first"), [("pdf", b"%PDF"), ("svg", b"<?xml"), ("PNG", b"\x89PNG")])
def test_a_figure_is_what_its_name_says(ending, first, bundle, tone, tmp_path, capsys):
    target = tmp_path / f"figure.{ending}"
    assert call(capsys, "analyse", tone, "--bundle", bundle, "--plot", target)[0] == 0
    assert target.read_bytes().startswith(first)


BAD_STEERING = {
    "nothing to steer": [],
    "neither a note": ["--pitch", "+1.5"],
    "is out of reach; this bundle knows": ["--pitch", "+60"],
    "nor a whole number": ["--pitch", "+inf"],
    "holds no frame": ["--loudness", "3", "--from", "0.001", "--to", "0.002"],
    "its folder does not exist": ["--loudness", "3", "--json", "/nowhere/out.json"],
    "no class 'H9'": ["--pitch", "H9"],
    "out of reach": ["--loudness", "500"],
    "no feature 99999": ["--feature", "99999=1"],
    "NUMBER=STRENGTH": ["--feature", "seven"],
    "starts at 5 s": ["--loudness", "3", "--from", "5"],
    "runs from 0.5 to 0.2": ["--loudness", "3", "--from", "0.5", "--to", "0.2"],
    "the amount for loudness is 'loud'; give a finite number of dB": ["--loudness", "loud"],
    "+440 semitones, which is out of reach; this bundle knows the notes": ["--pitch", "440"],
    "for 440 Hz give its note, A4": ["--pitch", "440"],
    "no class 'H5'; this bundle knows the notes": ["--pitch", "H5"],
    "'/nowhere/out.wav' cannot be written": ["--loudness", "3", "-o", "/nowhere/out.wav"],
    "give a finite number of dB": ["--loudness", "nan"],
}


@pytest.mark.parametrize("reason", BAD_STEERING)
def test_bad_steering_says_why(reason, bundle, tone, capsys):
    try:
        code, _, err = call(capsys, "steer", tone, "--bundle", bundle, *BAD_STEERING[reason])
    except SystemExit as stop:
        code, err = stop.code, capsys.readouterr().err
    assert code == 2 and is_one_line(err) and reason in err, err
    assert not tone.with_suffix(".steered.wav").exists()


def test_bad_bundles_say_why(tone, tmp_path, capsys):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text("{}")
    for bundle in (tmp_path / "missing", tmp_path / "other", tone):
        code, _, err = call(capsys, "analyse", tone, "--bundle", bundle)
        assert code == 2 and is_one_line(err), err


BAD_TRAINING = {
    "is unknown": ["--space", "nonsense"],
    "has no tap": ["--tap", "nonsense"],
    "known are relu": ["--sae", "nonsense"],
    "does not exist": ["--audio", "/nowhere"],
    "SAEConfig.k is 0": ["--k", "0"],
    "TrainConfig.steps is 0": ["--steps", "0"],
    "give --push-to-hub USER/NAME too": ["--private"],
    "HF_HUB_OFFLINE is set": ["--push-to-hub", "user/name"],
    "cannot be read as JSON": ["--config", "/nowhere.json"],
    "is not available here": ["--device", "nonsense"],
    "invalid choice": ["--mode", "nonsense"],
    "the synthesised corpus is 1 to": ["--minutes", "0"],
    "would be lost": ["--out", str(ROOT)],
    "--l1 0.1 would change nothing: it is for --sae relu, relu_rmsnorm; leave it out": ["--l1", "0.1"],
    "--l1-on post would change nothing: it is for --sae relu_rmsnorm;": ["--l1-on", "post", "--sae", "relu"],
    "--k 8 would change nothing: it is for --sae topk": ["--k", "8", "--sae", "relu"],
    "--minutes 9.0 would change nothing: it is for the synthesised": ["--minutes", "9", "--audio", "."],
    "--corpus both would change nothing: it is for the synthesised": ["--corpus", "both", "--dataset", "a/b"],
    "argument --tracker: invalid choice: 'crep'": ["--tracker", "crep"],
}


def test_config_options_are_checked_like_typed_ones(tmp_path, capsys):
    unknown = "c.json holds 'what', which is no option of train.py; give the config.json in OUT.work"
    for content, reason in (("[1]", "holds list"), ('{"mode": "nonsense"}', "invalid choice"), ('{"what": 1}', unknown)):
        (tmp_path / "c.json").write_text(content)
        code, err = train_here(capsys, "--config", tmp_path / "c.json", "--out", tmp_path / "new")
        assert code == 2 and is_one_line(err) and reason in err, err


def test_out_may_end_in_a_slash_and_the_command_line_wins(tmp_path):
    import train

    (tmp_path / "c.json").write_text(json.dumps({"steps": 7, "resume": True, "audio": ["a", "b"], "tap": None, "k": 3}))
    options = train.parse(["--config", str(tmp_path / "c.json"), "--steps", "9", "--no-resume", "--out", f"{tmp_path}/new/"])
    assert (options.steps, options.resume, options.audio, options.k) == (9, False, ["a", "b"], 3)
    assert options.out == tmp_path / "new"


def test_the_kept_options_repeat_the_run_from_any_folder(tmp_path, monkeypatch):
    import train

    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    options = train.parse(["--audio", "a", "../b", "--source", "model", "--k", "3"])
    kept = json.loads(json.dumps(train.kept(options), default=str))
    assert (kept["audio"], kept["source"]) == ([f"{tmp_path}/a", f"{tmp_path}/../b"], f"{tmp_path}/model")
    (tmp_path / "c.json").write_text(json.dumps(kept))
    again = train.parse(["--config", "c.json"])
    assert vars(again) == vars(options) | {"audio": kept["audio"], "source": kept["source"], "config": "c.json", "typed": []}
    assert train.kept(train.parse(["--source", "user/name"]))["source"] == "user/name"


def test_options_that_a_config_holds_may_be_idle(tmp_path):
    import train

    (tmp_path / "c.json").write_text(json.dumps({"minutes": 5, "k": 3, "sae": "relu"}))
    train.check_used(train.parse(["--config", str(tmp_path / "c.json"), "--audio", "a"]))


def train_here(capsys, *arguments):
    """Run ``train.py`` in this process; return exit code and stderr."""
    import train

    try:
        code = cli.guarded(lambda: train.main(train.parse([str(argument) for argument in arguments])), debug=False)
    except SystemExit as stop:
        code = stop.code
    return code, capsys.readouterr().err


@pytest.mark.parametrize("reason", BAD_TRAINING)
def test_bad_training_fails_early_with_one_line(reason, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    arguments = BAD_TRAINING[reason] if "--out" in BAD_TRAINING[reason] else [*BAD_TRAINING[reason], "--out", tmp_path / "new"]
    code, err = train_here(capsys, *arguments)
    assert code == 2 and is_one_line(err) and reason in err, err
    assert not (tmp_path / "new").exists()


def test_bad_training_of_the_script_itself(tmp_path):
    code, out, err = run("train.py", "--steps", "0", "--out", tmp_path / "new")
    assert (code, out) == (2, "") and is_one_line(err) and "TrainConfig.steps is 0" in err


def test_a_folder_of_odd_and_bad_files_trains(tmp_path):
    """Bad files are skipped with a line each; drums without pitch train without a pitch probe."""
    rng = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for i in range(12):
        envelope = np.exp(-np.arange(16_000 * 3) % 8000 / rng.uniform(500, 2000))
        noise = rng.standard_normal(16_000 * 3) * envelope * rng.uniform(0.02, 0.3)
        soundfile.write(tmp_path / "in" / f"drum{i}.wav", np.convolve(noise, np.ones(1 + i) / (1 + i), "same"), 16_000)
    (tmp_path / "in" / "bad.wav").write_text("no sound")
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"steps": 40, "d_sae": 128, "control_clips": 1, "batch_size": 256, "device": "cpu"}))
    code, out, err = run("train.py", "--audio", tmp_path / "in", "--out", tmp_path / "out", "--config", config)
    assert code == 0, err[-2000:]
    assert "skipped bad.wav" in out and "1 recordings were skipped" in out
    assert re.findall(r"^(\d+/\d+) ", out, re.MULTILINE) == [f"{number}/6" for number in range(1, 7)]
    assert re.search(r"share of the variance not explained \(FVU\) 0?\.\d+, features active per frame \(l0\) \d", out)
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert {"loudness", "brightness"} <= set(metrics["probes"])


@pytest.mark.parametrize("command", [["steer", "a.wav", "b.wav"], ["spaces", "x"], ["analyse", "a.wav", "--loud", "3"]])
def test_what_a_command_does_not_know_points_to_its_own_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(command)
    err = capsys.readouterr().err
    assert stop.value.code == 2 and is_one_line(err)
    assert "unrecognized arguments" in err and err.endswith(f"; see sae-audio {command[0]} --help\n")


def test_no_words_at_all_show_the_commands(capsys):
    with pytest.raises(SystemExit) as done:
        cli.main([])
    assert done.value.code == 0 and "analyse " in capsys.readouterr().out


def test_every_command_has_help(capsys):
    for command in ("analyse", "steer", "generate", "trace", "eval", "spaces", "convert"):
        with pytest.raises(SystemExit) as stop:
            cli.main([command, "--help"])
        assert stop.value.code == 0 and "--debug" in capsys.readouterr().out


def test_our_own_faults_are_told_apart(capsys):
    def broken():
        raise RuntimeError("oops")

    assert cli.guarded(broken, debug=False) == 1
    assert is_one_line(capsys.readouterr().err)
    assert cli.guarded(broken, debug=True) == 1
    assert "Traceback" in capsys.readouterr().err


def test_interrupt_is_130():
    def stop():
        raise KeyboardInterrupt

    assert cli.guarded(stop, debug=False) == 130


def test_strength_zero_returns_the_codecs_reconstruction_bit_for_bit(bundle, tone):
    from sae_audio import Bundle, steer
    from sae_audio.audio import read
    from sae_audio.bundle_space import space_of
    from sae_audio.fitting import fit, unfit

    loaded = Bundle.from_pretrained(bundle)
    space, sound = space_of(loaded), read(tone)
    audio = fit(sound, space.spec)
    expected = unfit(space.decode(space.encode(audio), like=audio), sound, space.spec)
    steered = steer(loaded, sound, {"pitch": 0, "loudness": 0.0, "brightness": 0}, space=space)
    assert torch.equal(steered.sound.samples, expected)


@pytest.mark.slow
def test_two_processes_train_one_bundle(bundle, tmp_path):
    """`accelerate launch train.py` shares extraction and training; the result is that of one process up to rounding."""
    from sae_audio.bundle import Bundle

    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--mixed_precision", "no"]
    code, out, err = run(*launch, "--dynamo_backend", "no", "train.py", *TINY, "--out", tmp_path / "bundle")
    assert code == 0, err[-2000:]
    assert out.count("saved") == 1
    one, two = Bundle.from_pretrained(bundle), Bundle.from_pretrained(tmp_path / "bundle")
    assert torch.allclose(one.sae.W_dec, two.sae.W_dec, atol=1e-3)
    assert one.metrics["sae"]["fvu"] == pytest.approx(two.metrics["sae"]["fvu"], rel=0.01)


def test_a_reader_that_has_seen_enough_is_no_error():
    """As `sae-audio spaces | head -1`: the pipe is closed before everything is written."""
    there, here = os.pipe()
    os.close(there)
    command = [sys.executable, "-u", "-m", "sae_audio", "spaces"]
    done = subprocess.run(command, stdout=here, stderr=subprocess.PIPE, cwd=ROOT, check=False)
    os.close(here)
    assert (done.returncode, done.stderr) == (0, b"")
