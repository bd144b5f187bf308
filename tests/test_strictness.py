"""What every loader refuses: a tensor under two names, a model of another class, a device that is not there."""

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file
from tiny_models import BUILDERS, noise, split_weights, weights_of

from sae_audio.errors import LatentSpaceError, ParameterError
from sae_audio.latent_spaces import load_latent_space
from sae_audio.latent_spaces.signature import same_weights, signature

TWICE = [
    ("encodec-24khz", "encoder.layers.0.conv.parametrizations.weight.original0", "encoder.layers.0.conv.weight_g"),
    ("wav2vec2-base", "wav2vec2.feature_extractor.conv_layers.0.conv.weight", "feature_extractor.conv_layers.0.conv.weight"),
    ("hubert-base", "feature_extractor.conv_layers.0.conv.weight", "hubert.feature_extractor.conv_layers.0.conv.weight"),
]


@pytest.mark.parametrize("name, key, other", TWICE, ids=[name for name, *_ in TWICE])
def test_a_tensor_under_two_names_is_refused(name, key, other, tmp_path):
    folder = BUILDERS[name](tmp_path / "model", name)
    file, tensors = weights_of(folder)
    key, other = (key, other) if key in tensors else (other, key)
    tensors[other] = tensors[key] + 1
    file.unlink()
    save_file(
        {name: value.contiguous().clone() for name, value in tensors.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(LatentSpaceError, match="has unknown tensors"):
        load_latent_space(name, source=folder)


# A checkpoint in several files ------------------------------------------------------------------------------------------------


@pytest.fixture
def split(request, tmp_path):
    """A tiny model, the same in two files, and their index."""
    name = getattr(request, "param", "encodec-24khz")
    folder = BUILDERS[name](tmp_path / "one", name)
    return name, folder, split_weights(folder, tmp_path / "two")


@pytest.mark.parametrize("split", ["encodec-24khz", "mimi", "hubert-base"], indirect=True)
def test_a_checkpoint_in_several_files_loads_as_from_one(split):
    name, one, two = split
    assert len(list(two.glob("*-of-00002.*"))) == 2 and not any((two / file.name).exists() for file in [weights_of(one)[0]])
    audio = noise(1, 1, 4_000)
    assert torch.equal(load_latent_space(name, source=one).encode(audio), load_latent_space(name, source=two).encode(audio))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda where, second: second.unlink(), "has no model-00002-of-00002.safetensors, which model.safetensors.index.json"),
        (lambda where, second: second.write_bytes(b"x"), "model-00002-of-00002.safetensors is not a readable checkpoint"),
        (lambda where, second: save_file({"x": torch.zeros(1)}, second), "model-00002-of-00002.safetensors lacks tensors"),
        (lambda where, second: where.popitem(), "model-00002-of-00002.safetensors has unknown tensors"),
        (lambda where, second: where.update(x=second.name), "model-00002-of-00002.safetensors lacks tensors: x;"),
        (lambda where, second: where.update(x="../model.safetensors"), "names '../model.safetensors', which is not a file"),
        (lambda where, second: where.update(x=2), "has no weight_map"),
        (lambda where, second: where.clear(), "has no weight_map"),
    ],
)  # fmt: skip
def test_files_that_are_not_those_of_their_index_are_named(split, change, message):
    name, _, folder = split
    index = folder / "model.safetensors.index.json"
    where = json.loads(index.read_text())["weight_map"]
    change(where, folder / "model-00002-of-00002.safetensors")
    index.write_text(json.dumps({"weight_map": where}))
    with pytest.raises(LatentSpaceError, match=message) as caught:
        load_latent_space(name, source=folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name, other", [("hubert-base", "wavlm-base-plus"), ("wavlm-base-plus", "hubert-base"), ("mimi", "dac-24khz")]
)
def test_a_model_of_another_class_is_refused(name, other, tmp_path):
    with pytest.raises(LatentSpaceError, match=rf"but '{name}' is one of '\w+'; it belongs to another space"):
        load_latent_space(name, source=BUILDERS[other](tmp_path, other))


def test_a_single_file_stands_for_its_folder(tmp_path):
    folder = BUILDERS["encodec-24khz"](tmp_path, "encodec-24khz")
    space = load_latent_space("encodec-24khz", source=folder / "model.safetensors")
    assert torch.equal(space.encode(noise(1, 1, 999)), load_latent_space("encodec-24khz", source=folder).encode(noise(1, 1, 999)))


@pytest.mark.parametrize("source", ["", "~nobody-of-this-name/x", "x" * 5000])
def test_a_source_that_is_no_path_is_one_line(source):
    with pytest.raises(
        LatentSpaceError, match=r"not a folder or file; pass one, or a Hub repository|could not be fetched"
    ) as caught:
        load_latent_space("encodec-24khz", source=source)
    assert "\n" not in str(caught.value)


def test_a_device_that_is_not_there_is_named():
    with pytest.raises(ParameterError, match="device 'foo' is not available here; use cpu"):
        load_latent_space("etude-codec", device="foo")


def test_what_ships_has_no_revisions():
    with pytest.raises(LatentSpaceError, match="ships with the code"):
        load_latent_space("etude-codec", revision="v1")


@pytest.mark.parametrize("tap", ["layer 02", "layer ٢", "layer -1", "layer"])
def test_a_layer_has_one_name(tap, tmp_path):
    with pytest.raises(LatentSpaceError, match="is not a tap of an encoder"):
        load_latent_space("hubert-base", tap=tap, source=BUILDERS["hubert-base"](tmp_path, "hubert-base"))


@pytest.mark.parametrize("values", [dict(normalize=True), dict(chunk_length_s=1.0, overlap=0.01)])
def test_an_encodec_that_half_normalises_is_refused(values, tmp_path):
    with pytest.raises(LatentSpaceError, match="normalise each chunk, or neither"):
        load_latent_space("encodec-24khz", source=BUILDERS["encodec-24khz"](tmp_path, "encodec-24khz", **values))


def test_an_encodec_that_sees_too_far_for_its_windows_is_refused(tmp_path):
    values = dict(upsampling_ratios=[2, 2], num_residual_layers=3)
    with pytest.raises(LatentSpaceError, match="to one side; windows here allow for 8"):
        load_latent_space("encodec-24khz", source=BUILDERS["encodec-24khz"](tmp_path, "encodec-24khz", **values))


@pytest.mark.parametrize("name", ["encodec-24khz", "dac-16khz"])
def test_weights_sign_alike_in_any_precision(name, tmp_path):
    space = load_latent_space(name, tap="quantized", source=BUILDERS[name](tmp_path, name))
    exact = signature(space)
    space.dtype = torch.bfloat16
    assert same_weights(exact, signature(space)) and exact == signature(space)


def test_other_weights_show_beside_a_channel_that_they_share():
    one, other = noise(768, level=1.0).tolist(), noise(768, level=1.0, seed=1).tolist()
    assert not same_weights([300.0, *one], [300.0, *other]) and max(map(abs, one + other)) < 0.02 * 300
    assert same_weights([300.0, *one], [300.001, *(1.001 * x for x in one)]) and same_weights([0.0], [0.0])
    assert not same_weights([1.0], [1.03]) and not same_weights([1.0, 1.0], [1.0])


def test_a_frame_of_wavtokenizer_at_one_channel_a_group(tmp_path):
    name = "wavtokenizer-75"
    space = load_latent_space(name, source=shutil.copytree(BUILDERS[name](tmp_path / "a", name), tmp_path / "b"))
    for samples in (1, 320):
        audio = noise(1, 1, samples)
        assert space.decode(space.encode(audio), like=audio).shape == audio.shape
