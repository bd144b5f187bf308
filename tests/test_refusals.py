"""What is refused in one line that no other test asks for: a table of calls, the class of the error, and the words that tell."""

import dataclasses

import pytest
import torch
from tiny_bundle import tiny_bundle

from sae_audio.activations import audio_sources
from sae_audio.closed_loop import hold_of
from sae_audio.control import axis_control
from sae_audio.diffrhythm.style import check_style
from sae_audio.disentanglement import disentanglement
from sae_audio.errors import DataError, LatentSpaceError, OutputError, ParameterError
from sae_audio.etude.checkpoint import load_codec, load_training
from sae_audio.etude.codec import CodecConfig, SpectralVAE
from sae_audio.etude.finish_codec import finish
from sae_audio.files import check_target
from sae_audio.frames import Splits
from sae_audio.latent_spaces import load_latent_space
from sae_audio.moves import asked_moves, feature_control
from sae_audio.probes import score_probe
from sae_audio.pushes import Push, check_push, push_control
from sae_audio.sae import SAEConfig
from sae_audio.traces import Trace
from sae_audio.training.config import TrainConfig


def linear_codec():
    return SpectralVAE(CodecConfig())


def foreign_codec(folder):
    (folder / "config.json").write_text('{"model": "etude-codec", "format": 9}')
    load_codec(folder)


def silent_feature(_):
    bundle = tiny_bundle()
    mean = bundle.atlas.mean.clone()
    mean[3] = 0
    feature_control(dataclasses.replace(bundle, atlas=dataclasses.replace(bundle.atlas, mean=mean)), 3)


def no_test_frames(_):
    bundle = tiny_bundle()
    probe = bundle.probes["loudness/acts"]
    score_probe(probe, torch.zeros(2, bundle.sae.config.d_sae), torch.tensor([-1, -1]), 0)


def without_controls():
    return dataclasses.replace(tiny_bundle(), controls={})


NO_TRACE = Trace(times=torch.zeros(2), final=torch.zeros(1, 2, 3), latents={}, posteriors={})
NOTES = torch.full((1, 4), -1)
CALLS = {
    "an empty path": (lambda _: audio_sources([""]), DataError, "one of the paths is ''"),
    "one factor": (lambda _: disentanglement(torch.ones(3, 1)), ParameterError, "between 1 factors is undefined"),
    "tap and layer": (lambda _: load_latent_space("hubert-base", tap="layer 1", layer=1), ParameterError, "both tap .* layer 1"),
    "precision": (lambda _: load_latent_space("hubert-base", dtype="float8"), ParameterError, "dtype 'float8' is unknown"),
    "an uncalibrated axis": (
        lambda _: axis_control("loudness", "effect", "latents", torch.ones(3)).strength_for(1),
        ParameterError,
        "has no calibrated axis",
    ),
    "a silent feature": (silent_feature, ParameterError, "feature 3 never fired in training"),
    "an endless strength of pitch": (
        lambda _: asked_moves(tiny_bundle(), {"pitch": ("C4", float("inf"))}, {}, NOTES),
        ParameterError,
        "the strength of pitch is inf",
    ),
    "a push without its control": (
        lambda _: check_push(without_controls(), Push("loudness", "-30 dB", 1.0)),
        ParameterError,
        "no control for loudness",
    ),
    "no held-out frame": (no_test_frames, DataError, "no held-out frame has a defined loudness"),
    "a signal that was not recorded": (lambda _: NO_TRACE.at("x_t", 0), ParameterError, "has no x_t; it has no latents"),
    "a seed": (lambda _: TrainConfig(seed=-1), ParameterError, "TrainConfig.seed is -1"),
    "k_aux": (lambda _: SAEConfig("topk", 4, 8, k=2, k_aux=9), ParameterError, "SAEConfig.k_aux is 9"),
    "a style of another size": (lambda _: check_style(torch.ones(1, 3), 512, "it"), ParameterError, r"it has shape \[1, 3\]"),
    "no name of a file": (lambda folder: check_target("/"), OutputError, "'/' is not the name of a file"),
    "an odd hop": (lambda _: CodecConfig(hop_length=321), ParameterError, "hop_length 321 must be even"),
    "no power": (lambda _: CodecConfig(power=0), ParameterError, "power is 0"),
    "full momentum": (lambda _: CodecConfig(phase_momentum=1), ParameterError, "phase_momentum is 1"),
    "a codec of tomorrow": (foreign_codec, LatentSpaceError, "format 9; this version reads etude-codec 1"),
    "nothing to resume": (
        lambda folder: load_training(folder / "training.safetensors", linear_codec(), None),
        DataError,
        "nothing to resume; run without --resume",
    ),
    "a linear decoder": (
        lambda folder: finish(linear_codec(), torch.zeros(1, 32_000), 1, 0, state=folder / "state"),
        ParameterError,
        "this codec's decoder is linear",
    ),
}


@pytest.mark.parametrize("what", CALLS)
def test_it_is_refused_in_one_line(what, tmp_path):
    call, error, words = CALLS[what]
    with pytest.raises(error, match=words) as caught:
        call(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_store_without_a_split_is_refused():
    class Empty:
        def latents(self, split):
            return torch.zeros(0, 4)

    with pytest.raises(DataError, match="the train split has no recording"):
        Splits.of(Empty())


def test_without_both_axes_nothing_is_held():
    assert hold_of({}, 50.0) is None


def test_the_papers_push_uses_the_probes_row():
    bundle = tiny_bundle()
    control = push_control(bundle, Push("loudness", bundle.properties["loudness"].names[1], 1.0, mode="paper"))
    assert torch.equal(control.directions[0], bundle.probes["loudness/acts"].weight[:, 1]) and control.via == "acts"
