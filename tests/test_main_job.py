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

SIZES = ["--steps", "20", "--d-sae", "64", "--k", "4", "--control-clips", "1", "--batch-size", "256", "--device", "cpu"]
RATE, SAMPLES = 44_100, 44_101


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    """Half a minute of synthesised music as sound files."""
    folder = tmp_path_factory.mktemp("music")
    for clip in corpus(2, 0, "additive"):
        soundfile.write(folder / f"{clip.name}.wav", clip.render()[: 3 * 16_000], 16_000)
    return folder


@pytest.fixture(scope="module")
def song(tmp_path_factory):
    """A stereo file that no space takes as it is: 44.1 kHz, an odd length, a tone on the left and a lower one on the right."""
    path = tmp_path_factory.mktemp("song") / "song.wav"
    t = np.arange(SAMPLES) / RATE
    soundfile.write(path, 0.3 * np.stack([np.sin(2 * np.pi * f * t) for f in (440, 330)], axis=1), RATE)
    return path


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    """Leave out the figures, which tests/test_cli.py has drawn: they take longer than all the rest."""
    monkeypatch.setattr("sae_audio.recipe.bundle_figures", lambda bundle: {})


@pytest.fixture
def job(music, tmp_path, capsys):
    """Train a bundle with options of ``train.py`` and return it and its folder."""

    def run(*options):
        argv = [*options, "--audio", str(music), "--out", str(tmp_path / "bundle"), *SIZES]
        assert cli.guarded(lambda: train.main(train.parse(argv)), debug=True) == 0, capsys.readouterr().err
        return Bundle.from_pretrained(tmp_path / "bundle"), str(tmp_path / "bundle")

    return run


# One space of each adapter, and the stereo EnCodec; other rows differ in numbers that tests/test_latent_spaces.py goes through.
NAMES = {SPACES[name].module: name for name in BUILDERS if name not in ("etude-codec", "dac-44khz")}  # 16 kHz is less work


@pytest.mark.parametrize("name", [*NAMES.values(), "encodec-24khz"])
def test_train_analyse_steer(name, job, song, tmp_path, capsys):
    source = BUILDERS[name](tmp_path / "model", name)
    bundle, folder = job("--space", name, "--tap", TAPS[name][-1], "--source", str(source))
    assert (bundle.spec.name, bundle.spec.tap, bundle.spec.repo) == (name, TAPS[name][-1], str(source))
    assert cli.main(["analyse", str(song), "--bundle", folder, "--json", str(tmp_path / "view.json")]) == 0
    capsys.readouterr()
    fired = int(np.argmax([bundle.atlas.feature(i).mean for i in range(bundle.atlas.d_sae)]))
    done = cli.main(["steer", str(song), "--bundle", folder, "--feature", f"{fired}=1", "-o", str(tmp_path / "o.wav")])
    if SPACES[name].decodes:
        info = soundfile.info(tmp_path / "o.wav")
        assert done == 0 and (info.samplerate, info.channels, info.frames) == (RATE, 2, SAMPLES)
    else:
        assert done == 2 and "cannot be decoded" in capsys.readouterr().err and not (tmp_path / "o.wav").exists()


@pytest.mark.parametrize("by", ["hf:", "a revision"])
def test_a_model_from_the_hub(by, job, hub, repo_id, song, tmp_path, capsys):
    model = BUILDERS["encodec-24khz"](tmp_path / "model", "encodec-24khz")
    commit = hub.seed(repo_id, model)
    if by == "hf:":
        bundle, folder = job("--space", f"hf:{repo_id}", "--tap", "quantized")
        asked = {"space": f"hf:{repo_id}", "tap": "quantized", "source_revision": None}
    else:
        hub.seed(repo_id, {"config.json": b"{}"})  # what the branch holds is no model any more
        bundle, folder = job("--space", "encodec-24khz", "--source", repo_id, "--source-revision", commit)
        asked = {"space": "encodec-24khz", "tap": None, "source_revision": commit}
    assert (bundle.spec.name, bundle.spec.repo, bundle.spec.revision) == (asked["space"], repo_id, commit)
    assert asked.items() <= bundle.provenance["options"].items()
    analyse = ["analyse", str(song), "--bundle", folder]
    assert cli.main(analyse) == cli.main([*analyse, "--source", repo_id]) == 0  # at the bundle's commit, as nothing else is said
    hub.seed(f"{repo_id}-moved", model)
    hub.seed(f"{repo_id}-moved", {"config.json": b"{}"})
    moved = [*analyse, "--source", f"{repo_id}-moved"]
    first = hub.seed(f"{repo_id}-again", model)
    assert cli.main([*analyse, "--source", f"{repo_id}-again", "--source-revision", first]) == 0
    capsys.readouterr()
    assert cli.main(moved) == 2 and "model of type None" in capsys.readouterr().err
    assert cli.main([*moved, "--source-revision", "0" * 40]) == 2 and "no branch, tag or commit '000" in capsys.readouterr().err


def test_a_layer_is_recorded_and_a_folder_is_not_told(job, song, tmp_path, capsys, monkeypatch):
    source = BUILDERS["hubert-base"](tmp_path / "somewhere" / "my-hubert", "hubert-base")
    options = ["--space", "hubert-base", "--layer", "1", "--source", str(source)]
    bundle, folder = job(*options)
    assert (bundle.spec.tap, bundle.spec.repo) == ("layer 1", str(source))
    assert {"layer": 1, "tap": None, "dtype": "float32"}.items() <= bundle.provenance["options"].items()
    card = (tmp_path / "bundle" / "README.md").read_text()
    assert "latents of `my-hubert`" in card and "somewhere" not in card
    assert cli.main(["analyse", str(song), "--bundle", folder]) == 0
    monkeypatch.setattr("sae_audio.latent_spaces.check_precision", lambda *_: None)  # a CPU computes in bfloat16, if slowly
    argv = [*options, "--dtype", "bfloat16", "--audio", str(song), "--out", folder, "--resume", *SIZES]
    capsys.readouterr()
    assert cli.guarded(lambda: train.main(train.parse(argv)), debug=True) == 2
    assert "was extracted with settings {'dtype': None}, not {'dtype': 'bfloat16'}" in capsys.readouterr().err
