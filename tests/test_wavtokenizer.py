"""WavTokenizer against the original code's outputs, the encodec package and explicit sums; checkpoints that do and do not fit."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from seeded_weights import seeded_tensor
from tiny_models import noise
from tiny_wavtokenizer import FEATURES, RATIOS, SIZES, public_state, save_lightning, seanets, tiny_wavtokenizer

from sae_audio.errors import LatentSpaceError
from sae_audio.latent_spaces import SPACES, load_latent_space
from sae_audio.latent_spaces.seanet import WINDOW
from sae_audio.latent_spaces.wavtokenizer import OVERLAP_S, UNUSED, WINDOW_S, Checkpoint, WavTokenizer, build
from sae_audio.latent_spaces.wavtokenizer_decoder import InverseSTFT

DATA = Path(__file__).parent / "data"
SMALL = ["wavtokenizer-75", "wavtokenizer-40"]  # two files of one repository
FILE = {name: SPACES[name].weights[0] for name in SMALL}
CODEBOOK = f"{FEATURES}.quantizer.vq.layers.0._codebook"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The repository of the small models: two checkpoints side by side."""
    folder = tmp_path_factory.mktemp("novateur")
    for name in SMALL:
        tiny_wavtokenizer(folder, name)
    return folder


def state_of(name="wavtokenizer-75"):
    return public_state(RATIOS[SPACES[name].hop_length], **SIZES)


def close(actual, expected, tolerance=1e-5):
    """Equal to a fraction of the expected signal's spread, and that signal is not flat."""
    assert actual.shape == expected.shape and expected.std() > 1e-3
    assert (actual - expected).abs().max() <= tolerance * expected.std()


# Against the original code ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reference():
    """Inputs and outputs of the original code at full width, with 3 ConvNeXt blocks and 64 codewords."""
    return load_file(DATA / "wavtokenizer_75.safetensors")


@pytest.fixture(scope="module")
def original(reference):
    """The networks that gave them, rebuilt from the names and shapes of their tensors."""
    shapes = json.loads((DATA / "wavtokenizer_75.json").read_text())["shapes"]
    used = [key for key in shapes if not re.match(UNUSED, key)]
    tensors = {key: torch.from_numpy(np.asarray(seeded_tensor(key, tuple(shapes[key])))) for key in used}
    tensors |= {f"{CODEBOOK}.embed": reference["codebook"], "head.istft.window": torch.hann_window(1280)}
    return build(Checkpoint(Path("seeded.ckpt"), tensors))


def test_parity_of_the_encoder_tap(reference, original):
    latents = WavTokenizer(original).encode(reference["audio"][:, None])
    assert (latents.transpose(1, 2) - reference["pre_quant"]).abs().max() <= 1e-4


def test_parity_of_codes_and_features(reference, original):
    latents = WavTokenizer(original, "quantized").encode(reference["audio"][:, None])
    clear = reference["code_rel_margin"] > 1e-3
    assert clear.float().mean() > 0.95
    assert torch.equal(latents[clear], reference["features"].transpose(1, 2)[clear])
    assert torch.equal(latents[clear], reference["codebook"][reference["codes"][0][clear]])


def test_parity_of_decoded_audio(reference, original):
    space = WavTokenizer(original)
    features = reference["features"].transpose(1, 2)
    whole = space.decode(features)[:, 0]
    assert whole.shape == reference["audio_out_bw0"].shape == (2, 63 * 320)
    assert (whole - reference["audio_out_bw0"]).abs().max() <= 1e-4
    assert torch.equal(space.decode(features, like=reference["audio"][:, None])[:, 0], whole[:, :19_920])
    with torch.inference_mode():
        assert (original.decoder(reference["features"], 2)[:, 0] - reference["audio_out_bw2"]).abs().max() <= 1e-4
    assert (reference["audio_out_bw0"] - reference["audio_out_bw2"]).abs().max() > 0.01


# Against other code -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("samples", [1, 599, 7_200, 100_001, int(2.3 * WINDOW * 320)])
def test_encoder_is_that_of_the_encodec_package_at_any_length(folder, name, samples):
    encoder, _ = seanets(SIZES["filters"], SIZES["d_in"], RATIOS[SPACES[name].hop_length])
    prefix = f"{FEATURES}.encoder."
    own = {key.removeprefix(prefix): value for key, value in state_of(name).items() if key.startswith(prefix)}
    encoder.load_state_dict(own)
    audio = noise(1, 1, samples)
    with torch.inference_mode():
        close(load_latent_space(name, source=folder).encode(audio), encoder(audio).transpose(1, 2))


@pytest.mark.parametrize("name", SMALL)
def test_quantized_is_the_nearest_codeword(folder, name):
    continuous, quantized = (load_latent_space(name, tap=tap, source=folder) for tap in ("encoder", "quantized"))
    audio, words = noise(1, 1, 300_000), state_of(name)[f"{CODEBOOK}.embed"]
    nearest = torch.cdist(continuous.encode(audio)[0].double(), words.double()).argmin(dim=1)
    assert len(nearest.unique()) > 10
    same = (quantized.encode(audio)[0] == words[nearest]).all(dim=1)
    assert same.float().mean() > 0.99  # rounding may turn a near tie


@pytest.mark.parametrize(("n_fft", "hop"), [(1280, 320), (2400, 600), (22, 5)])
def test_inverse_stft_undoes_the_stft_up_to_both_ends(n_fft, hop):
    audio = noise(2, 9 * hop).double()
    reach = n_fft - hop
    padded = torch.nn.functional.pad(audio, (reach // 2, reach - reach // 2))
    inverse = InverseSTFT(n_fft, hop).double()
    spectrum = torch.fft.rfft(padded.unfold(-1, n_fft, hop) * inverse.window).transpose(1, 2)
    close(inverse(spectrum), audio, 1e-12)


def test_inverse_stft_is_the_sum_over_frames():
    n_fft, hop, n_frames = 16, 4, 7
    spectrum = torch.complex(noise(9, n_frames), noise(9, n_frames, seed=1)).to(torch.complex128)
    inverse = InverseSTFT(n_fft, hop).double()
    window = inverse.window.numpy()
    total, weight = np.zeros(6 * hop + n_fft), np.zeros(6 * hop + n_fft)
    for i in range(n_frames):
        total[i * hop : i * hop + n_fft] += window * np.fft.irfft(spectrum[:, i].numpy())
        weight[i * hop : i * hop + n_fft] += window**2
    kept = slice(6, 6 + n_frames * hop)  # half of what a window reaches beyond its hop
    close(inverse(spectrum[None])[0], torch.from_numpy(total[kept] / weight[kept]), 1e-12)


def test_inverse_stft_is_torchs_away_from_the_ends():
    n_fft, hop = 1280, 320
    spectrum = torch.complex(noise(2, 641, 12), noise(2, 641, 12, seed=1))
    window = torch.hann_window(n_fft)
    centred = torch.istft(spectrum, n_fft, hop, window=window, center=True)  # its sample 0 is the middle of frame 0
    inner = slice(3 * hop, 8 * hop)
    close(InverseSTFT(n_fft, hop)(spectrum)[:, hop // 2 :][:, inner], centred[:, inner])


# Long clips -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMALL)
def test_a_clip_of_one_window_is_decoded_whole_and_longer_ones_cross_fade(folder, name):
    space = load_latent_space(name, source=folder)
    window, overlap = round(WINDOW_S * space.spec.frame_rate), round(OVERLAP_S * space.spec.frame_rate)
    latents = noise(1, 2 * window - overlap, space.spec.d_in)
    with torch.inference_mode():
        first, last = (space.model.decoder(piece.transpose(1, 2)) for piece in (latents[:, :window], latents[:, -window:]))
    assert torch.equal(space.decode(latents[:, :window]), first)
    decoded = space.decode(latents)
    shared, hop = overlap * space.spec.hop_length, space.spec.hop_length
    assert decoded.shape == (1, 1, latents.shape[1] * hop)
    close(decoded[..., : first.shape[-1] - shared], first[..., :-shared])
    close(decoded[..., first.shape[-1] :], last[..., shared:])
    middle, half = decoded[..., first.shape[-1] - shared :][..., shared // 2], (first[..., -shared:], last[..., :shared])
    torch.testing.assert_close(middle, sum(side[..., shared // 2] for side in half) / 2, rtol=0, atol=1e-3)


# Precision --------------------------------------------------------------------------------------------------------------------


def test_half_precision_keeps_codewords_and_phases(folder):
    space = load_latent_space("wavtokenizer-75", tap="quantized", source=folder)
    audio, words = noise(1, 1, 32_000), state_of()[f"{CODEBOOK}.embed"]
    latents = space.encode(audio)
    decoded = space.decode(latents)
    space.dtype = torch.bfloat16
    assert (space.encode(audio)[0][:, None] == words).all(dim=2).any(dim=1).all()
    low = space.decode(latents)
    assert low.dtype == torch.float32 and 0 < (low - decoded).std() < 0.05 * decoded.std()


# Checkpoints ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sizes",
    [
        dict(blocks=3),
        dict(codes=100),
        dict(d_in=12, filters=2),
        dict(width=64, hidden=40),
        dict(blocks=1, codes=3, d_in=5, filters=6, width=32, hidden=8),
    ],
    ids=str,
)
def test_all_sizes_are_read_off_the_tensors(tmp_path, sizes):
    space = load_latent_space("wavtokenizer-40", source=tiny_wavtokenizer(tmp_path, "wavtokenizer-40", **sizes))
    expected = {**SIZES, **sizes}
    backbone = space.model.decoder.backbone
    assert space.spec.d_in == expected["d_in"]
    assert len(backbone.convnext) == expected["blocks"]
    assert backbone.convnext[0].pwconv1.weight.shape == (expected["hidden"], expected["width"])
    assert space.model.quantizer.codebook.embed.shape == (expected["codes"], expected["d_in"])
    assert space.decode(space.encode(noise(1, 1, 6_001))).shape == (1, 1, 11 * 600)


@pytest.mark.parametrize("ratios", [[4, 2], [2, 3, 4], [3, 2, 2, 5, 2]], ids=str)
def test_all_rates_are_read_off_the_tensors(tmp_path, ratios):
    save_lightning(public_state(ratios, **SIZES), tmp_path / "x.ckpt")
    space = WavTokenizer.load(tmp_path)
    hop = int(np.prod(ratios))
    assert space.spec.hop_length == hop
    assert space.decode(space.encode(noise(1, 1, 50 * hop - 1))).shape == (1, 1, 50 * hop)


def test_what_training_leaves_is_ignored_by_name(folder, tmp_path):
    bare = {
        key: value for key, value in state_of().items() if key.startswith((f"{FEATURES}.encoder", CODEBOOK, "backbone", "head"))
    }
    assert len(bare) < len(state_of())
    torch.save(bare, tmp_path / "x.ckpt")
    audio = noise(1, 1, 5_000)
    expected, found = (load_latent_space("wavtokenizer-75", source=source) for source in (folder, tmp_path))
    assert torch.equal(found.decode(found.encode(audio)), expected.decode(expected.encode(audio)))


def test_each_name_takes_its_own_file_of_a_shared_folder(folder, tmp_path):
    for name in SMALL:
        space = load_latent_space(name, source=folder)
        assert (space.spec.hop_length, space.spec.repo) == (SPACES[name].hop_length, str(folder))
        assert load_latent_space(name, source=folder / FILE[name]).spec.repo == str(folder / FILE[name])
    with pytest.raises(LatentSpaceError, match="hop_length 600, but 'wavtokenizer-75' has 320"):
        load_latent_space("wavtokenizer-75", source=folder / FILE["wavtokenizer-40"])


def test_a_folder_without_the_public_name_needs_a_single_checkpoint(folder, tmp_path):
    with pytest.raises(LatentSpaceError, match=r"holds 0 \.ckpt files, not one; pass the file"):
        load_latent_space("wavtokenizer-75", source=tmp_path)
    (tmp_path / "a.ckpt").symlink_to(folder / FILE["wavtokenizer-75"])
    assert load_latent_space("wavtokenizer-75", source=tmp_path).spec.hop_length == 320
    (tmp_path / "b.ckpt").symlink_to(folder / FILE["wavtokenizer-40"])
    with pytest.raises(LatentSpaceError, match=r"holds 2 \.ckpt files \(a\.ckpt, b\.ckpt\), not one"):
        load_latent_space("wavtokenizer-75", source=tmp_path)


@pytest.mark.parametrize(
    "key",
    [
        f"{FEATURES}.encoder.model.6.conv.conv.weight_v",
        f"{FEATURES}.encoder.model.4.block.1.conv.conv.bias",
        f"{FEATURES}.encoder.model.13.lstm.weight_ih_l1",
        f"{CODEBOOK}.embed",
        f"{CODEBOOK}.inited",
        "backbone.embed.weight",
        "backbone.pos_net.2.q.bias",
        "backbone.norm.scale.weight",
        "backbone.convnext.1.pwconv1.weight",
        "head.istft.window",
    ],
)
def test_a_missing_or_misshapen_tensor_is_named(tmp_path, key):
    for problem, change in (("lacks", None), ("has misshapen", torch.zeros(2, 1, 1, 1))):
        state = state_of()
        state.pop(key)
        save_lightning(state if change is None else {**state, key: change}, tmp_path / "x.ckpt")
        with pytest.raises(LatentSpaceError, match=f"x.ckpt {problem} tensors: {key};"):
            load_latent_space("wavtokenizer-75", source=tmp_path)


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("backbone.embed.weight", (40, 8, 7)),
        ("head.istft.window", (300,)),
        (f"{FEATURES}.encoder.model.3.conv.conv.weight_v", (8, 4, 5)),
    ],
)
def test_sizes_that_no_model_can_have_are_named(tmp_path, key, shape):
    save_lightning({**state_of(), key: torch.zeros(shape)}, tmp_path / "x.ckpt")
    with pytest.raises(LatentSpaceError, match=f"has misshapen tensors: .*{key}"):
        load_latent_space("wavtokenizer-75", source=tmp_path)


@pytest.mark.parametrize(
    "key",
    [
        "extra",
        "melspec.window",
        "backbone.pos_net.6.weight",
        f"{FEATURES}.encoder.model.16.bias",
        f"{FEATURES}.decoders.bias",
        f"{CODEBOOK.replace('.0.', '.1.')}.embed",
    ],
)
def test_an_unexpected_tensor_is_named(tmp_path, key):
    save_lightning({**state_of(), key: torch.zeros(3)}, tmp_path / "x.ckpt")
    with pytest.raises(LatentSpaceError, match=f"has unknown tensors: {key};"):
        load_latent_space("wavtokenizer-75", source=tmp_path)


def test_an_untrained_codebook_is_refused(tmp_path):
    save_lightning({**state_of(), f"{CODEBOOK}.inited": torch.zeros(1)}, tmp_path / "x.ckpt")
    with pytest.raises(LatentSpaceError, match=r"has an untrained codebook \(.*inited is 0\)"):
        load_latent_space("wavtokenizer-75", source=tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "text", "empty", "a list", "another model"])
def test_a_file_that_is_no_checkpoint_is_named_in_one_line(folder, tmp_path, damage):
    file = tmp_path / "x.ckpt"
    if damage == "a list":
        torch.save([1, 2], file)
    elif damage == "another model":
        torch.save({"state_dict": {"layer.weight": torch.zeros(3)}}, file)
    else:
        whole = (folder / FILE["wavtokenizer-75"]).read_bytes()
        file.write_bytes({"truncated": whole[: len(whole) // 2], "text": b"hello", "empty": b""}[damage])
    problems = r"x\.ckpt (is not a readable checkpoint|holds no state dict|lacks tensors)"
    with pytest.raises(LatentSpaceError, match=problems) as caught:
        load_latent_space("wavtokenizer-75", source=file)
    assert "\n" not in str(caught.value)


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_no_code_of_a_checkpoint_runs(tmp_path):
    torch.save({"state_dict": state_of(), "callbacks": Bomb(tmp_path / "ran")}, tmp_path / "x.ckpt")
    with pytest.raises(LatentSpaceError, match="is not a readable checkpoint"):
        load_latent_space("wavtokenizer-75", source=tmp_path)
    assert not (tmp_path / "ran").exists()
