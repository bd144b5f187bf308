"""DAC and Mimi against the bare transformers models on random weights: parity, windows, alignment, loading."""

import json
import shutil
from math import prod

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_dac_mimi import BUILDERS, DAC, rewrite, tiny_dac, tiny_mimi
from tiny_models import noise
from torch import nn

from sae_audio.errors import LatentSpaceError
from sae_audio.latent_spaces import SPACES, dac, load_latent_space, mimi
from sae_audio.latent_spaces.windows import exact

FOLDERS = {}


@pytest.fixture
def folder(request, tmp_path_factory):
    name = getattr(request, "param", "mimi")
    if name not in FOLDERS:
        FOLDERS[name] = BUILDERS[name](tmp_path_factory.mktemp(name), name)
    return FOLDERS[name]


every = pytest.mark.parametrize("folder", BUILDERS, indirect=True)
every_dac = pytest.mark.parametrize("folder", DAC, indirect=True)
ADAPTERS = {name: dac.Dac if name in DAC else mimi.Mimi for name in BUILDERS}


def load(folder, tap="encoder"):
    return load_latent_space("hf:user/model", source=folder, tap=tap)


def close(actual, expected, limit=1e-5):
    """Equal to 1e-5 of the expected signal's spread, and that signal is not flat."""
    assert actual.shape == expected.shape and expected.std() > 1e-3
    assert (actual - expected).abs().max() <= limit * expected.std()


# Against the bare model -------------------------------------------------------------------------------------------------------


@every_dac
@pytest.mark.parametrize("extra", [0, 1, -1, 100])
def test_dac_is_the_bare_model_on_what_its_feature_extractor_makes(folder, extra):
    from transformers import DacFeatureExtractor

    continuous, quantized = load(folder), load(folder, "quantized")
    spec = continuous.spec
    audio = noise(1, 1, 60 * spec.hop_length + extra)
    extractor = DacFeatureExtractor(sampling_rate=spec.sample_rate, hop_length=spec.hop_length)
    padded = extractor(audio[0, 0].numpy(), sampling_rate=spec.sample_rate, return_tensors="pt")["input_values"]
    with torch.inference_mode():
        whole = continuous.model(padded)
        z = continuous.model.encoder(padded)
        y = continuous.model.decode(quantized_representation=z).audio_values
    close(continuous.encode(audio), z.transpose(1, 2))
    close(quantized.encode(audio), whole.quantized_representation.transpose(1, 2))
    for space, expected in ((continuous, y), (quantized, whole.audio_values)):
        decoded = space.decode(space.encode(audio), like=audio)
        made = min(audio.shape[-1], expected.shape[-1])
        close(decoded[:, 0, :made], expected[:, :made])
        assert not decoded[..., made:].any()


@pytest.mark.parametrize(("folder", "short"), [("dac-16khz", 8), ("dac-24khz", 8), ("dac-44khz", 0)], indirect=["folder"])
def test_dac_fills_what_its_decoder_leaves_out_at_the_end_with_zeros(folder, short):
    space = load(folder)
    latents = space.encode(noise(2, 1, 30 * space.spec.hop_length))
    with torch.inference_mode():
        made = space.model.decoder(latents.transpose(1, 2))
    assert made.shape[-1] == 30 * space.spec.hop_length - short
    assert torch.equal(space.decode(latents), nn.functional.pad(made, (0, short)))


@pytest.mark.parametrize("samples", [1, 959, 960, 961, 1920, 1921, 100_000])
def test_mimi_is_the_bare_model_at_any_length(folder, samples):
    continuous, quantized = load(folder), load(folder, "quantized")
    audio = noise(2, 1, samples)
    with torch.inference_mode():
        z = continuous.model.encoder(audio).latents
        y = continuous.model.decoder(z).audio_values[..., :samples]
        codes = continuous.model.encode(audio).audio_codes
        whole = continuous.model(audio).audio_values
    assert codes.shape == (2, 8, -(-samples // 1920))
    close(continuous.encode(audio), z.transpose(1, 2))
    close(quantized.encode(audio), continuous.model.quantizer.decode(codes).transpose(1, 2))
    if samples > 1:
        close(continuous.decode(continuous.encode(audio), like=audio), y)
        close(quantized.decode(quantized.encode(audio), like=audio), whole)


@every
def test_edited_latents_are_decoded_as_they_are(folder):
    space = load(folder, "quantized")
    latents = space.encode(noise(1, 1, 40 * space.spec.hop_length))
    edited = latents + noise(*latents.shape, level=1e-3)
    with torch.inference_mode():
        expected = space.model.decoder(edited.transpose(1, 2))
    expected = expected.audio_values if isinstance(space, mimi.Mimi) else expected
    close(space.decode(edited)[..., : expected.shape[-1]], expected)


# Long clips -------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_windows(monkeypatch):
    """Make windows as short as they get: 16 halos."""
    for module in (dac, mimi):
        monkeypatch.setattr(module, "WINDOW", 1)


def in_double(folder):
    space = load(folder)
    space.model.double()
    return space


@every_dac
@torch.inference_mode()
def test_dac_windows_leave_no_trace(folder, small_windows):
    space = in_double(folder)
    audio = noise(1, 1, 350 * space.spec.hop_length).double()
    z = space.model.encoder(audio)
    assert (space._encode(audio).transpose(1, 2) - z).abs().max() < 1e-9
    y = space.model.decoder(z)
    assert (space._decode(z.transpose(1, 2), y.shape[-1], None) - y).abs().max() < 1e-9


@torch.inference_mode()
def test_mimi_windows_leave_no_trace(tmp_path, small_windows):
    space = in_double(tiny_mimi(tmp_path, layer_scale_initial_scale=0.3))  # attention weighs in as when trained
    audio = noise(1, 1, 400 * space.step + 7).double()  # longer than the 250 steps that attention looks back
    z = space.model.encoder(audio).latents
    assert (space._encode(audio).transpose(1, 2) - z).abs().max() < 1e-9
    y = space.model.decoder(z).audio_values
    assert (space._decode(z.transpose(1, 2), y.shape[-1], None) - y).abs().max() < 1e-9


@torch.inference_mode()
def test_mimi_needs_the_context_that_its_transformers_hand_on(tmp_path):
    transformer = in_double(tiny_mimi(tmp_path, layer_scale_initial_scale=0.3)).model.encoder.encoder_transformer
    x = noise(1, 16, 400).double()
    whole = transformer(x.transpose(1, 2)).last_hidden_state.transpose(1, 2)
    assert (mimi._attend(transformer, x, 90) - whole).abs().max() < 1e-12
    forgetful = torch.cat([mimi._attend(transformer, piece, 90) for piece in x.split(90, dim=-1)], dim=-1)
    assert (forgetful - whole).abs().max() > 1e-3


@every
@torch.inference_mode()
def test_no_convolution_at_audio_rate_sees_more_than_a_window(folder, small_windows):
    space, longest = load(folder), [0]
    for name, module in space.model.named_modules():
        if isinstance(module, nn.Conv1d | nn.ConvTranspose1d) and "sample" not in name:
            module.register_forward_hook(lambda module, x, y: longest.append(max(x[0].shape[-1], y.shape[-1])))
    step = space.step if isinstance(space, mimi.Mimi) else space.spec.hop_length
    space.decode(space.encode(noise(1, 1, 400 * step)))
    assert 128 * step <= max(longest) < 200 * step


@torch.inference_mode()
def all_ones(folder):
    """Return a linear network in which whatever can reach an output does: nothing cancels."""
    space = in_double(folder)
    for name, parameter in space.model.named_parameters():
        parameter.data.fill_(0.0 if name.endswith((".bias", ".alpha")) else 1.0)
    return space.model


def check_reach(network, channels, step_in, step_out, before, after):
    """Check that frame 50 changes the frames from ``50 - before`` to ``50 + after``, in windows with a halo of ``after`` only."""
    x = torch.zeros(1, channels, 100 * step_in).double()
    x[..., 50 * step_in : 51 * step_in] = 1.0
    whole = network(x)
    reached = whole.abs().amax((0, 1)).nonzero().flatten() // step_out
    assert (reached.min(), reached.max()) == (50 - before, 50 + after)
    for halo in (after, after - 1):
        sizes = dict(step_in=step_in, step_out=step_out, window=50 + after, halo=halo)
        windowed = exact(network, x, **sizes)
        assert torch.equal(windowed != 0, whole != 0) == (halo == after)


@pytest.mark.parametrize("ratios", [[2, 4, 5, 8], [2, 4, 8, 8], [4, 6], [3, 2, 3]], ids=str)
@torch.inference_mode()
def test_dac_halo_is_as_wide_as_its_reach(ratios, tmp_path):
    model = all_ones(tiny_dac(tmp_path, "dac-24khz", downsampling_ratios=ratios, n_codebooks=2))
    hop, forth, back = prod(ratios), dac.encoder_reach(ratios), dac.decoder_reach(ratios)
    check_reach(model.encoder, 1, hop, 1, forth, forth)
    check_reach(model.decoder, model.config.hidden_size, 1, hop, back, back)
    if len(ratios) == 4:
        assert (forth, back) == (8, 10)


@pytest.mark.parametrize("config", [{}, dict(num_residual_layers=3, kernel_size=5, upsampling_ratios=[5, 4, 3])], ids=str)
@torch.inference_mode()
def test_mimi_halo_is_as_wide_as_its_reach(config, tmp_path):
    model = all_ones(tiny_mimi(tmp_path, **config))
    step, forth, back = prod(model.config.upsampling_ratios), mimi.encoder_reach(model.config), mimi.decoder_reach(model.config)
    check_reach(model.encoder.encoder_seanet, 1, step, 1, 0, forth)
    check_reach(model.decoder.decoder_seanet, 16, 1, step, 0, back)
    if not config:
        assert (forth, back) == (4, 8)


# Alignment --------------------------------------------------------------------------------------------------------------------


def transposed_dac(folder):
    """Return a linear DAC whose decoder is the transpose of its encoder: the same taps at the same places, run backwards."""
    space = in_double(folder)
    encoder, decoder = space.model.encoder, space.model.decoder
    decoder.tanh = nn.Identity()
    for name, parameter in space.model.named_parameters():
        if name.endswith((".bias", ".alpha")) or ".res_unit" in name:
            parameter.data.zero_()
    decoder.conv1.weight.data = nn.functional.pad(encoder.conv2.weight.data.transpose(0, 1).flip(-1), (2, 2))
    decoder.conv2.weight.data = encoder.conv1.weight.data.transpose(0, 1).flip(-1)
    for forth, back in zip(encoder.block, reversed(decoder.block), strict=True):
        back.conv_t1.weight.data = forth.conv1.weight.data.clone()
    return space


@every_dac
@torch.inference_mode()
def test_dac_decoder_is_aligned_with_its_encoder_to_the_sample(folder):
    # With weights A forth and A^T back, <decode(z), x> = <z, encode(x)> holds if, and only if, no sample is shifted.
    space = transposed_dac(folder)
    hop = space.spec.hop_length
    x, z = noise(1, 1, 60 * hop).double(), noise(1, 60, space.spec.d_in, seed=1).double()
    x[..., : 3 * hop] = x[..., -3 * hop :] = 0
    expected, decoded = (z * space._encode(x)).sum(), space._decode(z, 60 * hop, None)
    assert abs((decoded * x).sum() - expected) < 1e-9 * abs(expected)
    for shift in (-1, 1):
        assert abs((decoded.roll(shift, -1) * x).sum() - expected) > 1e-3 * abs(expected)


@torch.inference_mode()
def test_mimi_frame_is_the_first_to_hear_its_samples_and_the_first_to_be_heard_in_them(folder):
    space = in_double(folder)
    audio = noise(1, 1, 20 * 1920).double()
    latents = space._encode(audio)
    for sample in (7 * 1920, 7 * 1920 + 1919):
        other = audio.clone()
        other[..., sample] += 1.0
        assert (space._encode(other) - latents).abs().amax(-1)[0].nonzero().min() == 7
    edited = latents.clone()
    edited[:, 7] += 0.1
    decoded = space._decode(latents, 20 * 1920, None)
    assert (space._decode(edited, 20 * 1920, None) - decoded)[0, 0].nonzero().min() == 7 * 1920


# Checkpoints ------------------------------------------------------------------------------------------------------------------


@every_dac
def test_dac_hop_is_that_of_the_strides_whatever_the_public_config_says(folder):
    assert '"hop_length": 512' in (folder / "config.json").read_text()
    space = load(folder)
    row = SPACES[next(name for name in DAC if FOLDERS.get(name) == folder)]
    assert (space.spec.hop_length, space.spec.sample_rate) == (row.hop_length, row.sample_rate)


@every
def test_any_repository_of_the_class_loads_by_the_same_adapter(folder):
    name = next(name for name in BUILDERS if FOLDERS.get(name) == folder)
    generic, named = load(folder, "quantized"), load_latent_space(name, source=folder, tap="quantized")
    assert type(generic) is type(named) is ADAPTERS[name]
    assert generic.spec.name == "hf:user/model" and generic.spec.tap == "quantized"
    audio = noise(1, 1, 9 * generic.spec.hop_length)
    assert torch.equal(generic.encode(audio), named.encode(audio))


PUBLIC_DAC = dict(
    architectures=["DacModel"], model_type="dac", encoder_hidden_size=64, decoder_hidden_size=1536, hidden_size=1024,
    codebook_size=1024, codebook_dim=8, quantizer_dropout=0.0, hop_length=512,
)  # fmt: skip
"""What config.json of descript/dac_16khz, dac_24khz and dac_44khz say alike; strides multiply to 512 in the last one only."""
CODEBOOKS = {"dac-16khz": 12, "dac-24khz": 32, "dac-44khz": 9}


@pytest.mark.parametrize("name", DAC)
@torch.inference_mode()
def test_dac_of_public_size_has_the_hop_of_its_strides(name, tmp_path):
    from transformers import DacConfig, DacModel

    up = DAC[name]["downsampling_ratios"][::-1]
    values = PUBLIC_DAC | DAC[name] | dict(upsampling_ratios=up, n_codebooks=CODEBOOKS[name])
    (tmp_path / "config.json").write_text(json.dumps(values))
    with torch.device("meta"):  # shapes without memory
        space = dac.Dac(DacModel(DacConfig.from_pretrained(tmp_path)).eval())
    hop = {"dac-16khz": 320, "dac-24khz": 320, "dac-44khz": 512}[name]
    assert (space.spec.hop_length, space.spec.d_in) == (hop, 1024) == (SPACES[name].hop_length, SPACES[name].d_in)
    assert space.spec.sample_rate == SPACES[name].sample_rate and len(space.model.quantizer.quantizers) == CODEBOOKS[name]
    for samples in (1, hop - 1, hop, hop + 1, 10 * space.spec.sample_rate):
        audio = torch.empty(2, 1, samples, device="meta")
        latents = space._encode(audio)  # there is no autocast on meta
        assert latents.shape == (2, -(-samples // hop), 1024)
        assert space._decode(latents, samples, audio).shape == audio.shape


def test_public_rows_are_those_of_the_public_configurations():
    # config.json of descript/dac_* and kyutai/mimi, and transformers' arithmetic on them
    from transformers import DacConfig, MimiConfig

    for name, values in DAC.items():
        config = DacConfig(encoder_hidden_size=64, decoder_hidden_size=1536, **values)
        row = SPACES[name]
        assert (row.d_in, row.hop_length, row.sample_rate) == (config.hidden_size, config.hop_length, config.sampling_rate)
    config, row = MimiConfig(frame_rate=12.5), SPACES["mimi"]
    assert (row.d_in, row.hop_length, row.sample_rate) == (config.hidden_size, config.frame_size, config.sampling_rate)


TENSORS = {
    "dac-24khz": ("encoder.conv1.bias", "quantizer.quantizers.1.codebook.weight", "decoder.block.0.snake1.alpha"),
    "mimi": (
        "encoder.layers.0.conv.bias",
        "encoder_transformer.layers.1.mlp.fc1.weight",
        "downsample.conv.weight",
        "quantizer.acoustic_residual_vector_quantizer.layers.0.codebook.embed_sum",
        "upsample.conv.weight",
        "decoder_transformer.layers.0.self_attn_layer_scale.scale",
        "decoder.layers.2.conv.weight",
    ),
}
CASES = [(name, tensor) for name, tensors in TENSORS.items() for tensor in tensors]


@pytest.mark.parametrize("problem", ["lacks", "has unknown", "has misshapen"])
@pytest.mark.parametrize(("folder", "tensor"), CASES, indirect=["folder"])
def test_a_checkpoint_that_does_not_fit_names_the_tensor(folder, tensor, problem, tmp_path, capfd):
    copy = shutil.copytree(folder, tmp_path / "copy")
    tensors = load_file(folder / "model.safetensors")
    named = tensor.replace("0", "77", 1) + "2" if problem == "has unknown" else tensor
    if problem == "lacks":
        tensors.pop(tensor)
    else:
        tensors[named] = torch.zeros(3, 5)
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    capfd.readouterr()
    with pytest.raises(LatentSpaceError, match=f"{problem} tensors: ") as caught:
        load(copy)
    # transformers keeps the convolutions and the transformers of Mimi one level deeper than the file
    said = str(caught.value).replace("encoder.encoder_", "encoder_").replace("decoder.decoder_", "decoder_")
    assert named in said.replace("_seanet", "").replace("encoder.down", "down").replace("decoder.up", "up")
    assert "\n" not in said and str(copy) in said and capfd.readouterr() == ("", "")


@pytest.mark.parametrize("folder", ["dac-24khz", "mimi"], indirect=True)
def test_a_truncated_file_is_named(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(LatentSpaceError, match=r"is not a readable (Dac|Mimi)Model checkpoint") as caught:
        load(copy)
    assert "\n" not in str(caught.value) and str(copy) in str(caught.value)


def test_a_foreign_configuration_is_refused(tmp_path):
    sixteen, other = tiny_dac(tmp_path / "dac", "dac-16khz"), tiny_mimi(tmp_path / "mimi")
    with pytest.raises(LatentSpaceError, match="sample_rate 16000, but 'dac-24khz' has 24000"):
        load_latent_space("dac-24khz", source=sixteen)
    for name, source in (("dac-24khz", other), ("mimi", sixteen)):
        with pytest.raises(LatentSpaceError, match=r"lacks tensors|is not a readable|holds a model of type") as caught:
            load_latent_space(name, source=source)
        assert str(source) in str(caught.value) and "\n" not in str(caught.value)
    rewrite(sixteen, model_type="snac")
    with pytest.raises(LatentSpaceError, match="holds a model of type 'snac'; as hf: spaces load the types"):
        load(sixteen)


@pytest.mark.parametrize("half", ["encoder", "decoder"])
def test_half_a_mimi_is_refused(half, tmp_path):
    tiny_mimi(tmp_path, **{f"{half}_config": None})
    with pytest.raises(LatentSpaceError, match="one half of a Mimi alone"):
        load(tmp_path)
