"""What is refused in one line that no other test asks for: a table of calls, the class of the error, and the words that tell."""

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_bundle import SPEC, tiny_bundle

from sae_audio.activations import ActivationStore, audio_sources
from sae_audio.activations.store import FORMAT, shard_contents, write_index, write_shard
from sae_audio.audio import decode
from sae_audio.bundle import Bundle
from sae_audio.bundle_space import space_of
from sae_audio.closed_loop import hold_of
from sae_audio.control import axis_control
from sae_audio.descriptors import Descriptors
from sae_audio.diffrhythm.checkpoint import infer_config
from sae_audio.diffrhythm.dit import DiT, DiTConfig
from sae_audio.diffrhythm.style import check_style
from sae_audio.disentanglement import disentanglement
from sae_audio.errors import AudioError, BundleError, DataError, LatentSpaceError, OutputError, ParameterError
from sae_audio.etude.checkpoint import load_codec, load_training
from sae_audio.etude.codec import CodecConfig, SpectralVAE
from sae_audio.etude.finish_codec import finish
from sae_audio.files import check_target, write_bytes
from sae_audio.frames import Splits
from sae_audio.latent_spaces import load_latent_space
from sae_audio.latent_spaces.loading import read_config
from sae_audio.latent_spaces.oobleck_archive import open_archive
from sae_audio.latent_spaces.oobleck_names import canonical
from sae_audio.moves import asked_moves, feature_control
from sae_audio.probes import score_probe
from sae_audio.pushes import Push, check_push, honest_moves, push_control
from sae_audio.sae import SAEConfig
from sae_audio.sealed import reseal, write_sealed
from sae_audio.traces import Trace
from sae_audio.training import TrainConfig, train_sae

SHIPPED = Path(__file__).parent.parent / "checkpoints" / "etude"


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


def atlas_of_two_widths(folder):
    tiny_bundle().save(folder / "b")
    path = folder / "b" / "atlas.safetensors"
    tensors = load_file(path)
    save_file(tensors | {"neighbour_cosine": tensors["neighbour_cosine"][:, :-1].contiguous()}, path)
    reseal(folder / "b")
    Bundle.from_pretrained(folder / "b")


def shard_of_two_lengths(folder):
    columns = {name: torch.ones(2) for name in Descriptors._fields}
    write_shard(folder, 0, {"latents": torch.zeros(3, 4)} | columns, [("a", "1", 3, "")])
    found = [entry._asdict() | {"split": "train"} for entry in shard_contents(folder).values()]
    spec = dataclasses.asdict(SPEC) | {"d_in": 4}
    head = {"format": FORMAT, "complete": True, "seed": 0, "tracker": "yin", "settings": {}, "spec": spec}
    write_index(folder, head | {"recordings": found, "skipped": []})
    ActivationStore.open(folder).latents()


def other_weights(_):
    bundle = Bundle.from_pretrained(SHIPPED)
    other = [value + 1.0 for value in bundle.provenance["signature"]]
    space_of(dataclasses.replace(bundle, provenance=bundle.provenance | {"signature": other}))


def unheard_note(_):
    bundle = tiny_bundle()
    pitch = bundle.controls["pitch"]
    unheard = dataclasses.replace(pitch, directions=torch.zeros_like(pitch.directions))
    bundle = dataclasses.replace(bundle, controls=bundle.controls | {"pitch": unheard})
    measured = Descriptors.of(f0=torch.full((1, 4), 440.0), rms=torch.full((1, 4), 0.1), centroid=torch.full((1, 4), 900.0))
    honest_moves(bundle, [Push("pitch", "C5", 1.0)], measured, torch.ones(4))


def listed_config(folder):
    (folder / "config.json").write_text("[]")
    read_config(folder)


def tensors_twice(_):
    canonical({"encoder.layers.0.weight_g": torch.ones(1), "encoder.layers.0.parametrizations.weight.original0": torch.ones(1)})


def damaged_archive(folder):
    (folder / "vae_model.pt").write_bytes(b"PK\x03\x04 no archive")
    open_archive(folder / "vae_model.pt")


def endless_loss(_):
    frames = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    settings = TrainConfig(steps=20, batch_size=32, lr=1e30, log_every=1)
    train_sae(frames, SAEConfig("relu", 4, 8), settings, progress=False)


def half_a_transformer(_):
    state = DiT(DiTConfig(dim=64, depth=2, heads=2, text_dim=16, conv_layers=1, time_dim=16)).state_dict()
    infer_config({name: tensor for name, tensor in state.items() if not name.startswith("transformer_blocks.1.")})


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
    "a cell of no bytes": (lambda _: decode(b"", "row 3"), AudioError, r"'row 3' is empty \(0 bytes\)"),
    "an atlas of two widths": (atlas_of_two_widths, BundleError, "atlas.safetensors differ in width"),
    "a shard of two lengths": (shard_of_two_lengths, DataError, "do not fit each other"),
    "other weights of the space": (other_weights, BundleError, "was trained on other weights of 'etude-codec'"),
    "a note that training never heard": (unheard_note, ParameterError, "training never heard C5"),
    "a configuration that is a list": (listed_config, LatentSpaceError, "it holds list, not an object"),
    "tensors under two names": (tensors_twice, LatentSpaceError, "holds tensors twice, under two names: "),
    "a damaged archive": (damaged_archive, LatentSpaceError, "is not a readable TorchScript archive"),
    "a loss without end": (endless_loss, DataError, r"the loss is not finite at step \d+: .*; lower the learning rate"),
    "half a transformer": (half_a_transformer, LatentSpaceError, "has sizes that no DiffRhythm has: depth 1 must be even"),
    "a name that leads out": (lambda folder: write_sealed(folder / "b", {"../a.json": b""}), BundleError, "'../a.json'"),
    "no folder to seal": (lambda folder: reseal(folder / "none"), BundleError, "none"),
    "a folder that is a file": (lambda folder: write_bytes(__file__ + "/a", b""), OutputError, "cannot be written"),
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


def test_an_axis_alone_has_nothing_to_be_orthogonal_to():
    bundle = tiny_bundle()
    alone = dataclasses.replace(bundle, controls={"loudness": bundle.controls["loudness"]})
    pushed = push_control(alone, Push("loudness", bundle.properties["loudness"].names[1], 1.0, orthogonal=True))
    assert torch.equal(pushed.directions, bundle.controls["loudness"].directions)
