"""The main job in every latent space: train, analyse, steer. Random weights prove the plumbing, not that a space steers."""

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny_models import BUILDERS, TAPS

from sae_audio import Bundle, cli
from sae_audio.etude.corpus import corpus
from sae_audio.latent_spaces import SPACES

sys.path.insert(0, str(Path(__file__).parents[1]))
import train

SIZES = ["--steps", "20", "--d-sae", "64", "--k", "4", "--control-clips", "1", "--batch-size", "512", "--device", "cpu"]
RATE, SAMPLES = 44_100, 44_101


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    """Two minutes of synthesised music as sound files."""
    folder = tmp_path_factory.mktemp("music")
    for clip in corpus(2, 0, "additive"):
        soundfile.write(folder / f"{clip.name}.wav", clip.render(), 16_000)
    return folder


@pytest.fixture(scope="module")
def song(tmp_path_factory):
    """A stereo file that no space takes as it is: 44.1 kHz, an odd length, a tone on the left and a lower one on the right."""
    path = tmp_path_factory.mktemp("song") / "song.wav"
    t = np.arange(SAMPLES) / RATE
    soundfile.write(path, 0.3 * np.stack([np.sin(2 * np.pi * f * t) for f in (440, 330)], axis=1), RATE)
    return path


# One space of each adapter, and the stereo EnCodec; other rows differ in numbers that tests/test_latent_spaces.py goes through.
NAMES = {SPACES[name].module: name for name in BUILDERS if name != "etude-codec"}


@pytest.mark.parametrize("name", [*NAMES.values(), "encodec-24khz"])
def test_train_analyse_steer(name, music, song, tmp_path, capsys):
    source = BUILDERS[name](tmp_path / "model", name)
    folder = str(tmp_path / "bundle")
    options = ["--space", name, "--tap", TAPS[name][-1], "--source", str(source), "--audio", str(music), "--out", folder]
    assert cli.guarded(lambda: train.main(train.parse([*options, *SIZES])), debug=True) == 0, capsys.readouterr().err
    bundle = Bundle.from_pretrained(folder)
    assert (bundle.spec.name, bundle.spec.tap, bundle.spec.repo) == (name, TAPS[name][-1], str(source))
    assert cli.main(["analyse", str(song), "--bundle", folder, "--json", str(tmp_path / "view.json")]) == 0
    capsys.readouterr()
    fired = int(np.argmax([bundle.atlas.feature(i).mean for i in range(bundle.atlas.d_sae)]))
    done = cli.main(["steer", str(song), "--bundle", folder, "--feature", f"{fired}=1", "-o", str(tmp_path / "o.wav")])
    if SPACES[name].taps:
        info = soundfile.info(tmp_path / "o.wav")
        assert done == 0 and (info.samplerate, info.channels, info.frames) == (RATE, 2, SAMPLES)
    else:
        assert done == 2 and "cannot be decoded" in capsys.readouterr().err and not (tmp_path / "o.wav").exists()
