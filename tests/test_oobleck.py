"""Oobleck against diffusers' own class and against an independent network, in every published layout, on random weights."""

import json
import math
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import noise
from tiny_oobleck import NORMS, RATIOS, Vae, archive, tiny_diffusers, tiny_vae

from sae_audio import cli
from sae_audio.errors import LatentSpaceError, OutputError
from sae_audio.latent_spaces import load_latent_space, oobleck, oobleck_archive
from sae_audio.latent_spaces.loading import read_tensors
from sae_audio.latent_spaces.oobleck import Oobleck, OobleckArchive, convert, halo
from sae_audio.latent_spaces.oobleck_names import canonical, infer_config

HOP = 2048
PUBLIC_KEYS = Path(__file__).parent / "data" / "stable_audio_tools_vae_keys.txt"
PREFIXES = ["", "pretransform.model.", "autoencoder.", "autoencoder_ema.ema_model."]
AUDIO = noise(2, 2, 7 * HOP + 100)
PADDED = torch.nn.functional.pad(AUDIO, (0, HOP - 100))


def close(actual, expected):
    """Equal to 1e-5 of the expected signal's spread, and that signal is not flat."""
    assert actual.shape == expected.shape and expected.std() > 1e-3
    assert (actual - expected).abs().max() <= 1e-5 * expected.std()


def does_what(space, vae):
    """A space gives the latents and the sound of an independent network."""
    with torch.inference_mode():
        means = vae.encoder(PADDED)[:, : space.spec.d_in]
        sound = vae.decoder(means)
    close(space.encode(AUDIO), means.transpose(1, 2))
    close(space.decode(means.transpose(1, 2)), sound)
    close(space.decode(means.transpose(1, 2), like=AUDIO), sound[..., : AUDIO.shape[-1]])


def from_diffusers(folder):
    """Load with diffusers itself."""
    from diffusers import AutoencoderOobleck

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return AutoencoderOobleck.from_pretrained(folder).eval()


def save_tensors(tensors, path):
    """Save as a file of stable-audio-tools: safetensors, or a checkpoint of the training library."""
    if path.suffix == ".safetensors":
        save_file({key: value.contiguous() for key, value in tensors.items()}, path)
    else:
        torch.save({"state_dict": tensors, "global_step": 7}, path)
    return path


def prefixed(tensors, prefix):
    return {prefix + key: value for key, value in tensors.items()}


# Parity -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("below", ["", "vae"])
def test_parity_with_diffusers(tmp_path, below):
    theirs = from_diffusers(tiny_diffusers(tmp_path) / "vae")
    space = Oobleck.load(tmp_path / ("" if below else "vae"))
    audio = noise(2, 2, 40 * HOP)
    with torch.inference_mode():
        latents = theirs.encode(audio).latent_dist.mode()
        sound = theirs.decode(latents).sample
    close(space.encode(audio), latents.transpose(1, 2))
    close(space.decode(latents.transpose(1, 2)), sound)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("prefix", PREFIXES)
def test_every_layout_of_stable_audio_tools(tmp_path, prefix, norm):
    vae = tiny_vae(norm)
    save_tensors(prefixed(vae.state_dict(), prefix), tmp_path / "model.safetensors")
    does_what(Oobleck.load(tmp_path), vae)


@pytest.mark.parametrize("path", ["", "model.ckpt"], ids=["folder", "file"])
def test_a_checkpoint_of_the_training_library(tmp_path, path):
    vae = tiny_vae()
    save_tensors(prefixed(vae.state_dict(), PREFIXES[1]), tmp_path / "model.ckpt")
    does_what(Oobleck.load(tmp_path / path), vae)


@pytest.mark.parametrize("sizes", [dict(ratios=[2, 6], multiples=[1, 3]), dict(ratios=[4], multiples=[2], channels=6, audio=1)])
def test_sizes_follow_from_the_shapes(tmp_path, sizes):
    vae = tiny_vae(**sizes)
    space = Oobleck.load(save_tensors(vae.state_dict(), tmp_path / "any name.safetensors"))
    audio = noise(1, space.spec.channels, 60 * space.spec.hop_length)
    with torch.inference_mode():
        means = vae.encoder(audio)[:, : space.spec.d_in]
        close(space.encode(audio), means.transpose(1, 2))
        close(space.decode(means.transpose(1, 2)), vae.decoder(means))


def public():
    """Return the public network without memory."""
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return Vae(NORMS["g and v"], channels=128, multiples=[1, 2, 4, 8, 16], ratios=RATIOS, audio=2)


def test_the_independent_network_has_the_public_names_and_shapes():
    lines = [f"{key}\t{tuple(value.shape)}" for key, value in public().state_dict().items()]
    assert sorted(lines) == sorted(PUBLIC_KEYS.read_text().splitlines()) and len(lines) == 365


def test_public_names_become_those_of_diffusers():
    from diffusers import AutoencoderOobleck

    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        theirs = AutoencoderOobleck()
    ours = canonical(public().state_dict())
    assert {key: value.shape for key, value in ours.items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    stated = {key: value for key, value in theirs.config.items() if not key.startswith("_")}
    assert infer_config(ours, "file") == {key: value for key, value in stated.items() if key != "sampling_rate"}


def test_a_silent_channel_of_folded_weights_stays_silent(tmp_path):
    vae = tiny_vae("folded")
    vae.encoder.layers[1].layers[0].layers[1].weight.data[0] = 0
    save_tensors(vae.state_dict(), tmp_path / "model.safetensors")
    does_what(Oobleck.load(tmp_path), vae)


# What else a file holds -------------------------------------------------------------------------------------------------------

WHOLE_MODEL = ["model.model.transformer.layers.0.x", "conditioner.conditioners.seconds_start.embedder.embedding.0.weights"]
IN_TRAINING = ["discriminator.x", "sdstft.x", "autoencoder_ema.initted", "losses_gen.losses.0.x"]


@pytest.mark.parametrize(
    ("prefix", "others"), [(PREFIXES[1], WHOLE_MODEL), (PREFIXES[2], IN_TRAINING), (PREFIXES[3], IN_TRAINING)]
)
def test_what_a_larger_model_holds_is_ignored_by_its_prefix_only(tmp_path, prefix, others):
    vae = tiny_vae()
    tensors = prefixed(vae.state_dict(), prefix) | dict.fromkeys(others, torch.zeros(3))
    does_what(Oobleck.load(save_tensors(tensors, tmp_path / "model.ckpt")), vae)
    for other in ("extra.model.x", f"{prefix}bottleneck.x", f"{prefix}encoder.layers.99.bias"):
        save_tensors({**tensors, other: torch.zeros(3)}, tmp_path / "model.ckpt")
        with pytest.raises(LatentSpaceError, match=f"has unknown tensors: {other.removeprefix(prefix)};"):
            Oobleck.load(tmp_path)


def test_averaged_weights_come_before_those_in_training(tmp_path):
    training, averaged = tiny_vae(seed=1), tiny_vae(seed=2)
    both = prefixed(training.state_dict(), PREFIXES[2]) | prefixed(averaged.state_dict(), PREFIXES[3])
    does_what(Oobleck.load(save_tensors(both, tmp_path / "epoch=3.ckpt")), averaged)


def test_half_precision_files_become_float32(tmp_path):
    vae = tiny_vae().half()
    save_tensors(vae.state_dict(), tmp_path / "model.safetensors")
    does_what(Oobleck.load(tmp_path), vae.float())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"sample_rate": 48_000}, "sample_rate 48000, but 'stable-audio-vae' has 44100"),
        ({"sample_rate": None}, "model_config.json has sampling_rate null; it must be like 44100, or left out"),
        ({"model": {"pretransform": {"config": {"decoder": {"config": {"final_tanh": True}}}}}}, "with final_tanh"),
        ({"model": {"decoder": {"config": {"channels": 128}}}}, "with final_tanh"),  # true unless stated, in that library
        ({"sample_rate": 44_100, "model": {"decoder": {"config": {"final_tanh": False}}}}, None),
    ],
)
def test_the_configuration_of_stable_audio_tools_is_heeded(tmp_path, config, message):
    save_tensors(tiny_vae().state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "model_config.json").write_text(json.dumps(config))
    if message is None:
        load_latent_space("stable-audio-vae", source=tmp_path)
        return
    with pytest.raises(LatentSpaceError, match=message):
        load_latent_space("stable-audio-vae", source=tmp_path)


# TorchScript ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("how", "norm"), [("traced", "g and v"), ("traced", "original"), ("scripted", "folded")])
def test_weights_are_taken_out_of_an_archive(tmp_path, how, norm):
    space = Oobleck.load(archive(tmp_path / "vae_model.pt", how, norm))
    assert type(space) is Oobleck
    does_what(space, tiny_vae(norm))


@pytest.mark.parametrize(("how", "tanh"), [("frozen", False), ("traced", True)], ids=["no weights", "tanh"])
def test_an_archive_that_only_its_own_code_can_run(tmp_path, how, tanh):
    space = Oobleck.load(archive(tmp_path / "vae_model.pt", how, tanh=tanh))
    assert type(space) is OobleckArchive
    assert (space.spec.channels, space.spec.hop_length, space.spec.d_in) == (2, HOP, 4)
    vae = tiny_vae(tanh=tanh)
    does_what(space, vae)
    audio = noise(1, 2, 200 * HOP)
    with torch.inference_mode():
        moments = vae.encoder(audio)
        close(space.encode(audio), moments[:, :4].transpose(1, 2))
        close(space.decode(moments[:, :4].transpose(1, 2)), vae.decoder(moments[:, :4]))


# Windows ----------------------------------------------------------------------------------------------------------------------


def frames_seen(network, x, step_in, step_out):
    """Return how many frames the middle frame of the output sees to its left and to its right, by its gradient."""
    middle = x.shape[-1] // step_in // 2
    x.requires_grad_(True)
    network(x)[..., middle * step_out : (middle + 1) * step_out].square().sum().backward()
    seen = x.grad.abs().sum(dim=(0, 1)).nonzero()[:, 0] // step_in
    return [middle - int(seen.min()), int(seen.max()) - middle]


@pytest.mark.parametrize("ratios", [RATIOS, RATIOS[::-1], [2, 6], [8], [4, 2, 10]], ids=str)
def test_halos_are_what_the_network_sees(ratios):
    vae = tiny_vae(ratios=ratios, multiples=[1] * len(ratios), channels=2).double()
    hop, last = math.prod(ratios), ratios[-1]
    near, encoder, decoder = halo(ratios[:-1], hop), halo(ratios, hop, 1), halo(ratios, hop, 3)
    frames = 2 * decoder + 3
    stages = [
        (vae.encoder, (2, hop, 1), encoder),
        (vae.decoder, (1, 1, hop), decoder),
        (vae.encoder.layers[:-3], (2, hop, last), near),
        (vae.decoder.layers[2:], (2, last, hop), near),
    ]
    for network, (channels, step_in, step_out), expected in stages:
        x = noise(1, channels, frames * step_in).double()
        assert frames_seen(network, x, step_in, step_out) == [expected, expected]


@pytest.fixture
def exact_space(tmp_path, monkeypatch):
    """A space in double precision with the public ratios, whose windows of both kinds are far shorter than 300 frames."""
    monkeypatch.setattr(oobleck, "NEAR_LATENTS", 1)
    save_tensors(tiny_vae(channels=2).state_dict(), tmp_path / "model.safetensors")
    space = Oobleck.load(tmp_path)
    space.model.double()
    return space


def in_windows_and_whole(space):
    """Return latents and sound of a long clip in windows, and the differences to one run over everything."""
    audio = noise(1, 2, 300 * HOP).double()
    with torch.inference_mode():
        latents = space._encode(audio)
        whole = space.model.encoder(audio)[:, :1]
        sound, decoded = space._decode(latents, 300 * HOP, None), space.model.decoder(whole)
    assert whole.std() > 1e-3 and decoded.std() > 1e-3
    return (latents.transpose(1, 2) - whole).abs().max(), (sound - decoded).abs().max()


def test_windows_leave_no_trace(exact_space):
    assert max(in_windows_and_whole(exact_space)) <= 1e-9


def test_with_one_frame_less_they_would(exact_space, monkeypatch):
    monkeypatch.setattr(oobleck, "halo", lambda *given, **options: halo(*given, **options) - 1)
    assert min(in_windows_and_whole(exact_space)) > 1e-9


# Conversion -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "space"),
    [("archive", "diffrhythm-vae"), ("folded file", "stable-audio-vae"), ("diffusers folder", "stable-audio-vae")],
)
def test_convert_writes_what_diffusers_reads(tmp_path, capsys, kind, space):
    source = {
        "archive": lambda: archive(tmp_path / "vae_model.pt"),
        "folded file": lambda: save_tensors(tiny_vae("folded").state_dict(), tmp_path / "vae.ckpt"),
        "diffusers folder": lambda: tiny_diffusers(tmp_path / "in"),
    }[kind]()
    assert cli.main(["convert", str(source), str(tmp_path / "out"), "--space", space]) == 0
    files = [tmp_path / "out" / name for name in ("config.json", "diffusion_pytorch_model.safetensors")]
    assert capsys.readouterr().out == "".join(f"wrote {file}\n" for file in files)
    assert sorted((tmp_path / "out").iterdir()) == files
    theirs = from_diffusers(tmp_path / "out")
    with torch.inference_mode():
        latents = theirs.encode(PADDED).latent_dist.mode()
    converted = load_latent_space(space, source=tmp_path / "out").encode(AUDIO)
    close(converted, latents.transpose(1, 2))
    assert torch.equal(converted, load_latent_space(space, source=source).encode(AUDIO))


def test_convert_finds_the_home_and_reads_the_model_once(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    archive(tmp_path / "vae_model.pt")
    built = []
    monkeypatch.setattr(oobleck, "extract", lambda file: built.append(file) or oobleck_archive.extract(file))
    assert cli.main(["convert", "~/vae_model.pt", "~/out", "--space", "diffrhythm-vae"]) == 0
    assert (tmp_path / "out" / "config.json").exists() and built == [tmp_path / "vae_model.pt"]


def test_convert_writes_nothing_of_another_space(tmp_path, capsys):
    save_tensors(tiny_vae(audio=1).state_dict(), tmp_path / "model.safetensors")
    assert cli.main(["convert", str(tmp_path), str(tmp_path / "out"), "--space", "stable-audio-vae"]) == 2
    assert "has channels 1, but 'stable-audio-vae' has 2" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_converting_weight_normalised_tensors_changes_none(tmp_path):
    tiny_diffusers(tmp_path)
    convert(tmp_path, tmp_path / "out")
    name = "diffusion_pytorch_model.safetensors"
    before, after = load_file(tmp_path / "vae" / name), load_file(tmp_path / "out" / name)
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)


def test_what_cannot_be_converted(tmp_path, capsys):
    frozen = archive(tmp_path / "vae_model.pt", "frozen")
    with pytest.raises(LatentSpaceError, match="keeps its weights to itself"):
        convert(frozen, tmp_path / "out")
    source = tiny_diffusers(tmp_path)
    with pytest.raises(OutputError, match="cannot be made"):
        convert(source / "vae", tmp_path / "no folder" / "out")
    for given, out, said in [
        (source, tmp_path / "no folder" / "out", "its folder does not exist"),
        (tmp_path / "nothing", tmp_path / "out", "is not a folder or file"),
        (frozen, tmp_path / "out", "keeps its weights to itself"),
    ]:
        assert cli.main(["convert", str(given), str(out), "--space", "diffrhythm-vae"]) == 2
        err = capsys.readouterr().err
        assert said in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


# What can go wrong ------------------------------------------------------------------------------------------------------------


def refused(source, message):
    """Loading fails with one line that matches and names the source."""
    with pytest.raises(LatentSpaceError, match=message) as caught:
        load_latent_space("diffrhythm-vae", source=source)
    assert "\n" not in str(caught.value) and str(source) in str(caught.value)


def test_a_folder_with_nothing(tmp_path):
    refused(tmp_path, "has no diffusion_pytorch_model.safetensors or .* or vae_model.pt")


@pytest.mark.parametrize("file", ["model.safetensors", "model.ckpt", "vae_model.pt"])
def test_a_truncated_file(tmp_path, file):
    path = tmp_path / file
    archive(path) if file == "vae_model.pt" else save_tensors(tiny_vae().state_dict(), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refused(tmp_path, "is not a readable checkpoint")


def test_a_sound_is_no_checkpoint(tmp_path):
    (tmp_path / "song.wav").write_bytes(b"RIFF" + bytes(100))
    with pytest.raises(LatentSpaceError, match=r"song\.wav is not a readable checkpoint: it is neither safetensors nor"):
        read_tensors(tmp_path / "song.wav")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("decoder.layers.3.layers.0.alpha"), "lacks tensors: decoder.block.2.snake1.alpha"),
        (lambda t: t.pop("encoder.layers.0.weight_v"), "lacks tensors: encoder.conv1.weight_v"),
        (lambda t: t.update({"encoder.layers.2.x": torch.zeros(3)}), "has unknown tensors: encoder.layers.2.x"),
        (lambda t: t.update({"encoder.layers.0.bias": torch.zeros(3)}), "has misshapen tensors: encoder.conv1.bias"),
        (lambda t: t.update({"encoder.layers.1.layers.4.weight_v": torch.zeros(3)}), "tensors: encoder.block.0.conv1.weight_v"),
        (lambda t: t.update({"encoder.layers.1.layers.4.weight_v": torch.zeros(8, 8, 3)}), r"has downsampling_ratios \[1, 4"),
        (lambda t: t.update({"decoder.layers.0.weight_v": torch.zeros(16, 3, 7)}), "encodes 8 channels"),
        (lambda t: [t.update({f"x.{key}": t.pop(key)}) for key in list(t)], "holds no Oobleck VAE; its tensors: x.decoder"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_named(tmp_path, change, message):
    tensors = tiny_vae().state_dict()
    change(tensors)
    save_tensors(tensors, tmp_path / "model.safetensors")
    refused(tmp_path, message)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sampling_rate": 48_000}, "has sample_rate 48000, but '.*' has 44100"),
        ({"downsampling_ratios": [2, 4, 4, 8, 4]}, "has misshapen tensors"),
        ({"downsampling_ratios": [2, 4, 4, 8, 5]}, "has even ones"),
        ({"downsampling_ratios": []}, "has even ones"),
        ({"downsampling_ratios": [None]}, "has even ones"),
        ({"downsampling_ratios": "2"}, r'has downsampling_ratios "2"; it must be like \[2, 4, 4, 8, 8\], or left out'),
        ({"channel_multiples": 3}, r"has channel_multiples 3; it must be like \[1, 1, 2, 2, 2\]"),
        ({"channel_multiples": [None]}, "describes no Oobleck"),
        ({"decoder_input_channels": None}, "has decoder_input_channels null; it must be like 4, or left out"),
        ({"sampling_rate": None}, "has sampling_rate null; it must be like 44100"),
        ({"audio_channels": True}, "has audio_channels true; it must be like 2"),
        ({"audio_channels": 1}, "has misshapen tensors: decoder.conv2"),
        ({"codebooks": 4, "levels": 2}, "has settings that no Oobleck has: codebooks, levels"),
    ],
    ids=str,
)
def test_a_configuration_that_does_not_fit(tmp_path, settings, message):
    config = tiny_diffusers(tmp_path) / "vae" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | settings))
    refused(tmp_path, message)


@pytest.mark.parametrize("how", ["file", "archive", "frozen"])
def test_a_mono_network(tmp_path, how):
    if how == "file":
        save_tensors(tiny_vae(audio=1).state_dict(), tmp_path / "model.safetensors")
    else:
        archive(tmp_path / "vae_model.pt", "frozen" if how == "frozen" else "scripted", "folded", audio=1)
    refused(tmp_path, "does not run on stereo" if how == "frozen" else "has channels 1, but '.*' has 2")


def test_an_archive_of_something_else(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "vae_model.pt")
    refused(tmp_path, "holds no Oobleck VAE; its tensors: weight, bias")


def test_a_diffusers_folder_without_configuration_is_read_by_its_shapes(tmp_path):
    tiny_diffusers(tmp_path)
    stated = Oobleck.load(tmp_path)
    shutil.move(tmp_path / "vae" / "config.json", tmp_path)
    inferred = Oobleck.load(tmp_path)
    assert inferred.spec == stated.spec and torch.equal(inferred.encode(AUDIO), stated.encode(AUDIO))


def test_an_archive_whose_code_fails_is_run_as_it_is(tmp_path):
    class Failing(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.vae = tiny_vae("folded")

        @torch.jit.export
        def encode_export(self, x: torch.Tensor) -> torch.Tensor:
            assert x.shape[-1] < 1, "not today"
            return x

        @torch.jit.export
        def decode_export(self, x: torch.Tensor) -> torch.Tensor:
            return self.vae.decoder(x)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(Failing()).save(tmp_path / "vae_model.pt")
    assert oobleck_archive.extract(tmp_path / "vae_model.pt") is None  # only its own code can say what it is
