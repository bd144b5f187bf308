"""EnCodec against the bare transformers model and against the independent encodec package, on random weights."""

import json
import math
import shutil
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_encodec import ENCODEC, tiny_encodec
from tiny_models import noise

from sae_audio.descriptors import Descriptors
from sae_audio.errors import LatentSpaceError
from sae_audio.fit_controls import fit_controls
from sae_audio.frames import Frames, Splits, held_out_clips
from sae_audio.latent_spaces.encodec import UNKNOWN_SCALE, Encodec
from sae_audio.latent_spaces.seanet import WINDOW
from sae_audio.property_sets import honest_properties
from sae_audio.sae import SAEConfig, build_sae

ALL = list(ENCODEC)
WHOLE = ALL[:2]  # those that run over the whole clip
# At 48 kHz: within one chunk, all but one sample of it, into the overlap, two full chunks, and three with an odd rest.
SAMPLES = [481, 9_600, 47_519, 48_000, 95_520, 130_001]
FOLDERS = {}


@pytest.fixture
def folder(request, tmp_path_factory):
    name = getattr(request, "param", "encodec-24khz")
    if name not in FOLDERS:
        FOLDERS[name] = tiny_encodec(tmp_path_factory.mktemp(name), name)
    return FOLDERS[name]


every = pytest.mark.parametrize("folder", ALL, indirect=True)


def close(actual, expected):
    """Equal to 1e-5 of the expected signal's spread, and that signal is not flat."""
    assert actual.shape == expected.shape and expected.std() > 1e-3
    assert (actual - expected).abs().max() <= 1e-5 * expected.std()


# Against the bare model -------------------------------------------------------------------------------------------------------


@every
@pytest.mark.parametrize("samples", SAMPLES)
def test_quantized_round_trip_is_the_models_own_output(folder, samples):
    space = Encodec.load(folder, tap="quantized")
    audio = noise(2, space.spec.channels, samples)
    with torch.inference_mode():
        expected = space.model(audio, bandwidth=space.model.config.target_bandwidths[-1]).audio_values[..., :samples]
    close(space.decode(space.encode(audio), like=audio), expected)


@pytest.mark.parametrize("folder", WHOLE, indirect=True)
@pytest.mark.parametrize("samples", SAMPLES)
def test_encoder_tap_is_the_encoder_and_decodes_by_the_decoder(folder, samples):
    space = Encodec.load(folder)
    audio = noise(2, 1, samples)
    latents = space.encode(audio)
    with torch.inference_mode():
        expected = space.model.encoder(audio)
        close(latents, expected.transpose(1, 2))
        close(space.decode(latents, like=audio), space.model.decoder(expected)[..., :samples])


@pytest.mark.parametrize("folder", ["encodec-48khz"], indirect=True)
@pytest.mark.parametrize("samples", SAMPLES)
def test_48khz_encoder_tap_is_the_encoder_per_chunk(folder, samples):
    space = Encodec.load(folder)
    audio = noise(1, 2, samples)
    latents = space.encode(audio)
    with torch.inference_mode():
        chunks = []
        for start in range(0, samples, 47_520):
            chunk = audio[..., start : start + 48_000]
            scale = chunk.mean(1).square().mean().sqrt() + 1e-8
            z = space.model.encoder(chunk / scale)
            chunks.append(space.model.decoder(z) * scale)
            first = round(start / 320 + 0.1)  # in odd chunks half a frame is rounded up to our grid
            inside = slice(2 * (start > 0), z.shape[-1] - 2)  # two frames beside an overlap can be the neighbour's
            if z[..., inside].shape[-1]:
                close(latents[0, first:][inside], z[0].T[inside])
        expected = space.model._linear_overlap_add(chunks, 47_520)[..., :samples]
    close(space.decode(latents, like=audio), expected)


@every
def test_quantized_is_the_encoder_tap_quantised_frame_by_frame(folder):
    continuous, quantized = Encodec.load(folder), Encodec.load(folder, tap="quantized")
    audio = noise(1, continuous.spec.channels, 60_000)
    quantizer = quantized.model.quantizer
    with torch.inference_mode():
        codes = quantizer.encode(continuous.encode(audio).transpose(1, 2), quantized.model.config.target_bandwidths[-1])
        close(quantized.encode(audio), quantizer.decode(codes).transpose(1, 2))
    assert len(codes) == 8


# Long clips -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", WHOLE, indirect=True)
def test_windows_leave_no_trace(folder):
    space = Encodec.load(folder)
    audio = noise(1, 1, int(2.3 * WINDOW * space.spec.hop_length))
    latents = space.encode(audio)
    with torch.inference_mode():
        expected = space.model.encoder(audio)
        close(latents, expected.transpose(1, 2))
        close(space.decode(latents, like=audio), space.model.decoder(expected)[..., : audio.shape[-1]])


@pytest.mark.parametrize("folder", ["encodec-48khz"], indirect=True)
@pytest.mark.parametrize("samples", [95_041, 95_200, 95_201, 142_561, 1_000_000])
def test_48khz_takes_lengths_on_which_the_bare_model_fails(folder, samples):
    space = Encodec.load(folder)
    audio = noise(1, 2, samples)
    decoded = space.decode(space.encode(audio), like=audio)
    assert decoded.shape == audio.shape and decoded.isfinite().all()


@pytest.mark.parametrize("folder", ["encodec-48khz"], indirect=True)
@pytest.mark.parametrize("samples", [1, 320, 47_521, 48_000, 95_041, 95_300, 500_000])
def test_48khz_grid_owns_every_frame_once(folder, samples):
    space = Encodec.load(folder)
    grid = space._grid(samples)
    assert torch.equal(torch.cat(grid.frames)[grid.owner], torch.arange(space.spec.n_frames(samples)))
    assert all(b > a for a, b in pairwise(grid.owner.tolist()))
    starts = 47_520 * torch.repeat_interleave(torch.arange(len(grid.frames)), torch.tensor([len(f) for f in grid.frames]))
    within = torch.cat([torch.arange(len(f)) for f in grid.frames])
    offset = (starts + 320 * within)[grid.owner] - 320 * torch.arange(space.spec.n_frames(samples))
    assert set(offset.tolist()) <= {0, -160}  # samples between the model's frame and ours


# 48 kHz: what the latents do not carry ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["encodec-48khz"], indirect=True)
def test_48khz_loudness_comes_from_like(folder):
    space = Encodec.load(folder)
    audio = noise(1, 2, 100_000)
    latents = space.encode(audio)
    close(space.encode(4 * audio), latents)
    close(space.decode(latents, like=4 * audio), 4 * space.decode(latents, like=audio))
    with torch.inference_mode():
        alone = space.model.decoder(latents[:, :140].transpose(1, 2)) * UNKNOWN_SCALE
    close(space.decode(latents[:, :140]), alone)


@pytest.mark.parametrize("folder", ["encodec-48khz"], indirect=True)
def test_48khz_latents_cut_between_chunks_decode_as_the_whole_does(folder):
    space = Encodec.load(folder)
    latents = space.encode(noise(1, 2, 6 * 48_000))
    whole, chunk = space.decode(latents), slice(480, 47_520)  # without the cross-fades at its ends
    assert space.cut_frames == 297  # 2 * 0.99 s at 150 Hz
    aligned, between = (space.decode(latents[:, start : start + 450])[..., chunk] for start in (297, 200))
    close(aligned, whole[..., 297 * 320 :][..., chunk])
    assert (between - whole[..., 200 * 320 :][..., chunk]).abs().max() > 0.01 * between.std()


@pytest.mark.parametrize("folder", ["encodec-48khz"], indirect=True)
def test_48khz_controls_are_measured_on_clips_that_begin_where_a_chunk_does(folder):
    space, generator = Encodec.load(folder), torch.Generator().manual_seed(0)
    recordings = [noise(1, 2, seconds * 48_000, seed=seconds, level=0.5 / seconds) for seconds in (5, 6, 7)]
    latents = torch.cat([space.encode(audio)[0] for audio in recordings])
    counts = torch.tensor([750, 900, 1050])
    n = int(counts.sum())
    f0 = torch.where(torch.rand(n, generator=generator) > 0.4, 220.0, torch.nan)
    level = 0.01 + 0.2 * torch.rand(n, generator=generator)
    descriptors = Descriptors.of(f0=f0, rms=level, centroid=1000 + 500 * torch.rand(n, generator=generator))
    frames = Frames(latents, descriptors, torch.arange(3).repeat_interleave(counts))
    for cut, aligned in ((space.cut_frames, True), (1, False)):
        clips = held_out_clips(frames, None, 150.0, cut_frames=cut).latents
        begins = [int((latents == clip[0]).all(1).nonzero()[0]) for clip in clips]
        assert all((begin - first) % 297 == 0 for begin, first in zip(begins, (0, 750, 1650), strict=True)) == aligned
    sae = build_sae(SAEConfig("topk", 8, 32, k=4))
    sae.fit_scaling(latents.mean(0), latents.std(0))
    properties = {"loudness": honest_properties()["loudness"]}
    controls, figures = fit_controls(space, sae, properties, Splits(frames, frames, frames), n_clips=2, progress=False)
    assert set(controls) == {"loudness", "loudness/latents"} and figures["levelled"]
    assert all(map(math.isfinite, (trial["reached"] for trial in figures["trials"])))


@pytest.mark.parametrize("folder", ["encodec-48khz"], indirect=True)
def test_48khz_edit_reaches_both_sides_of_an_overlap(folder):
    space = Encodec.load(folder)
    audio = noise(1, 2, 95_000)
    edit = noise(1, 1, 8, seed=1, level=0.1)
    edited = space.decode(space.encode(audio) + edit, like=audio)
    with torch.inference_mode():
        chunks = []
        for start in (0, 47_520):
            chunk = audio[..., start : start + 48_000]
            scale = chunk.mean(1).square().mean().sqrt() + 1e-8
            chunks.append(space.model.decoder(space.model.encoder(chunk / scale) + edit.transpose(1, 2)) * scale)
        expected = space.model._linear_overlap_add(chunks, 47_520)[..., :95_000]
    close(edited, expected)


# Checkpoints ------------------------------------------------------------------------------------------------------------------


def damaged(folder, tmp_path, change):
    """Copy a checkpoint with its tensors changed."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    return copy


BIAS = "encoder.layers.0.conv.bias"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(BIAS), f"lacks tensors: {BIAS}"),
        (lambda t: t.update(extra=torch.zeros(1)), "has unknown tensors: extra"),
        (lambda t: t.update({BIAS: torch.zeros(3)}), f"has misshapen tensors: {BIAS}"),
    ],
    ids=["missing", "unexpected", "misshapen"],
)
def test_a_checkpoint_that_does_not_fit_names_the_tensor(folder, tmp_path, capfd, change, message):
    copy = damaged(folder, tmp_path, change)
    capfd.readouterr()
    with pytest.raises(LatentSpaceError, match=message):
        Encodec.load(copy)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_missing_or_damaged_file_is_named(folder, tmp_path, file):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / file).write_bytes(b"{not json")
    with pytest.raises(LatentSpaceError, match="is not a readable") as caught:
        Encodec.load(copy)
    assert "\n" not in str(caught.value) and str(copy) in str(caught.value)
    (copy / file).unlink()
    with pytest.raises(LatentSpaceError, match=f"has no {file}"):
        Encodec.load(copy)


def test_weight_norm_names_of_2023_load_equal(folder, tmp_path):
    def rename(tensors):
        for key in list(tensors):
            old = key.replace("parametrizations.weight.original0", "weight_g").replace(
                "parametrizations.weight.original1", "weight_v"
            )
            tensors[old] = tensors.pop(key)

    audio = noise(1, 1, 3_000)
    copy = damaged(folder, tmp_path, rename)
    assert "encoder.layers.0.conv.weight_g" in load_file(copy / "model.safetensors")
    assert torch.equal(Encodec.load(copy).encode(audio), Encodec.load(folder).encode(audio))


# Against the encodec package --------------------------------------------------------------------------------------------------


def to_public(key):
    """Translate a key of the encodec package into that of the public checkpoint on the Hub."""
    for old, new in (
        ("encoder.model.", "encoder.layers."),
        ("decoder.model.", "decoder.layers."),
        ("quantizer.vq.layers.", "quantizer.layers."),
        ("._codebook.", ".codebook."),
        ("convtr.convtr.", "conv."),
        ("conv.conv.", "conv."),
        ("convtr.norm.", "norm."),
        ("conv.norm.", "norm."),
    ):
        key = key.replace(old, new)
    return key


def package_model(name):
    """Build the encodec package's model of a public kind, with few filters and seeded random weights."""
    from encodec.model import EncodecModel
    from encodec.modules import SEANetDecoder, SEANetEncoder
    from encodec.quantization import ResidualVectorQuantizer

    causal = name == "encodec-24khz"
    common = dict(channels=1 if causal else 2, n_filters=4, dimension=8, causal=causal)
    common["norm"] = "weight_norm" if causal else "time_group_norm"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        rvq = ResidualVectorQuantizer(dimension=8, n_q=8, bins=64)
        for q, layer in enumerate(rvq.vq.layers):
            layer._codebook.embed.normal_(std=0.1 * 0.8**q)
            layer._codebook.inited.fill_(1)
        rate, segment = (24_000, None) if causal else (48_000, 1.0)
        top = 8 * 6 * rate / 320 / 1000  # kbit/s of 8 codebooks of 64 words
        networks = SEANetEncoder(**common), SEANetDecoder(**common), rvq
        model = EncodecModel(*networks, [top], rate, common["channels"], normalize=not causal, segment=segment)
    model.set_target_bandwidth(top)
    return model.eval()


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize("name", ["encodec-24khz", "encodec-48khz"])
def test_parity_with_the_encodec_package(name, tmp_path):
    package = package_model(name)
    sizes = dict(num_filters=4, hidden_size=8, codebook_size=64, target_bandwidths=package.target_bandwidths)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "encodec", **ENCODEC[name], **sizes}))
    tensors = {to_public(key): value.contiguous() for key, value in package.state_dict().items()}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    space = Encodec.load(tmp_path, tap="quantized")
    audio = noise(1, space.spec.channels, 100_000)
    with torch.inference_mode():
        expected = package(audio)
    close(space.decode(space.encode(audio), like=audio), expected)
