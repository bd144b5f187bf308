"""What holds for every latent space, on tiny real models; and what ``load_latent_space`` says when it cannot load one."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from tiny_encodec import tiny_encodec
from tiny_models import BUILDERS, TAPS, noise, tiny_space

from sae_audio.cli import main
from sae_audio.control import apply, axis_control, axis_strengths
from sae_audio.errors import LatentSpaceError, ParameterError
from sae_audio.latent_spaces import CHECKPOINTS, SPACES, Codec, Encoder, load_latent_space
from sae_audio.latent_spaces.signature import same_weights, signature
from sae_audio.sae import SAEConfig, build_sae

ALL_SPACES = [(name, tap) for name in BUILDERS for tap in TAPS[name]]
ALL_CODECS = [(name, tap) for name, tap in ALL_SPACES if SPACES[name].decodes]
ALL_ENCODERS = [(name, tap) for name, tap in ALL_SPACES if not SPACES[name].taps]
# A random 7-tap last convolution can put its largest tap anywhere; a trained one looks at the frame itself.
OVERRIDES = {name: dict(last_kernel_size=1) for name in SPACES if name.startswith("encodec")}
CAUSAL = ("encodec-24khz", "mimi")
MADE = {}


@pytest.fixture
def space(request, tmp_path_factory):
    if request.param not in MADE:
        name, tap = request.param
        MADE[request.param] = tiny_space(tmp_path_factory.mktemp(name), name, tap, **OVERRIDES.get(name, {}))
    return MADE[request.param]


every_space = pytest.mark.parametrize("space", ALL_SPACES, ids=":".join, indirect=True)
every_codec = pytest.mark.parametrize("space", ALL_CODECS, ids=":".join, indirect=True)
every_encoder = pytest.mark.parametrize("space", ALL_ENCODERS, ids=":".join, indirect=True)


def test_every_row_has_a_tiny_model():
    """Rows of one adapter that differ in depth and width alone (the sizes of Whisper and MERT) have one."""

    def kind(name):
        row = SPACES[name]
        return row.module, row.sample_rate, row.channels, row.hop_length, row.files, bool(row.taps)

    assert BUILDERS.keys() <= SPACES.keys()
    assert {kind(name) for name in BUILDERS} == {kind(name) for name in SPACES}


@every_space
def test_spec_is_that_of_the_row(space):
    row = SPACES[space.spec.name]
    assert (space.spec.sample_rate, space.spec.channels, space.spec.hop_length) == (row.sample_rate, row.channels, row.hop_length)
    assert (space.spec.tap in row.taps or isinstance(space, Encoder)) and isinstance(space, Codec) == row.decodes
    assert space.spec.revision is None and Path(space.spec.repo).is_dir()


@every_space
@pytest.mark.parametrize("extra", [-1, 0, 1])
@pytest.mark.parametrize("frames", [2, 37, 200])
def test_frames_are_samples_over_hop_rounded_up(space, frames, extra):
    samples = frames * space.spec.hop_length + extra
    latents = space.encode(noise(2, space.spec.channels, samples))
    assert latents.shape == (2, frames + (extra > 0), space.spec.d_in)
    assert latents.dtype == torch.float32 and latents.isfinite().all()


@every_codec
@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_decode_returns_the_exact_length(space, extra):
    assert isinstance(space, Codec)
    audio = noise(2, space.spec.channels, 160 * space.spec.hop_length + extra)
    latents = space.encode(audio)
    assert space.decode(latents, like=audio).shape == audio.shape
    decoded = space.decode(latents)
    assert decoded.shape == (2, space.spec.channels, latents.shape[1] * space.spec.hop_length)
    assert decoded.dtype == torch.float32 and decoded.isfinite().all()


@every_space
def test_clicks_change_the_latents_at_their_own_frames(space):
    """Eleven clicks, each at another place within its frame, so that the places average out what random taps prefer."""
    hop, around = space.spec.hop_length, 8
    frames = range(around, 170, 2 * around)
    before = noise(1, space.spec.channels, 176 * hop, level=0.01)
    after = before.clone()
    for k, frame in enumerate(frames):
        after[..., int((frame + (k + 0.5) / len(frames)) * hop)] += 1.0
    change = (space.encode(after) - space.encode(before)).norm(dim=-1)[0]
    change = torch.stack([change[frame - around : frame + around] for frame in frames])
    assert (change.argmax(dim=1) - around).median() == 0
    profile = change.mean(dim=0) / change.mean(dim=0).max()
    if space.spec.name in CAUSAL:  # random taps may hear a click best when they hear it last, a frame on, but not before it
        assert profile[around] > 0.9 and profile[:around].max() < 0.1
    else:
        assert profile[around] == 1.0


@every_encoder
def test_all_layers_come_from_one_pass(space):
    audio = noise(2, 1, 20 * space.spec.hop_length + 7)
    layers = space.encode_layers(audio)
    assert layers.shape == (space.n_layers + 1, 2, 21, space.spec.d_in) and layers.dtype == torch.float32
    torch.testing.assert_close(layers[int(space.spec.tap.removeprefix("layer "))], space.encode(audio))
    assert all(not torch.allclose(one, other, rtol=1e-2) for one, other in pairwise(layers))


@every_codec
def test_strength_zero_is_the_codecs_own_reconstruction_bit_for_bit(space):
    audio = noise(1, space.spec.channels, 40 * space.spec.hop_length + 3)
    latents = space.encode(audio)
    sae = build_sae(SAEConfig("topk", space.spec.d_in, 4 * space.spec.d_in, k=4))
    vector = axis_control("loudness", "effect", "acts", torch.ones(sae.config.d_sae))
    unmoved = apply(latents, sae, [(vector, axis_strengths(torch.zeros(latents.shape[1])))])
    assert torch.equal(space.decode(unmoved, like=audio), space.decode(latents, like=audio))


@every_space
def test_items_of_a_batch_do_not_mix(space):
    audio = noise(3, space.spec.channels, 40 * space.spec.hop_length + 5)
    alone = torch.cat([space.encode(item[None]) for item in audio])
    same = (space.encode(audio) - alone).abs().amax(-1) <= 1e-4 * alone.std()  # sums in another order
    if space.spec.tap == "quantized":  # and a near tie between two codewords may turn
        assert same.float().mean() > 0.95
    else:
        assert same.all()


@every_codec
def test_decoding_follows_the_latents(space):
    audio = noise(1, space.spec.channels, 40 * space.spec.hop_length)
    latents = space.encode(audio)
    assert not torch.allclose(space.decode(latents, like=audio), space.decode(latents + latents.std(), like=audio), rtol=1e-3)


@every_space
@pytest.mark.parametrize("shape", [(1, 3, 1000), (1000,), (1, 1, 0)])
def test_audio_of_another_shape_is_refused(space, shape):
    with pytest.raises(ParameterError, match=r"takes audio \[B >= 1"):
        space.encode(torch.zeros(shape))


@every_codec
def test_latents_of_another_shape_are_refused(space):
    with pytest.raises(ParameterError, match="decodes latents"):
        space.decode(torch.zeros(1, 5, space.spec.d_in + 1))
    with pytest.raises(ParameterError, match="like has"):
        space.decode(torch.zeros(1, 5, space.spec.d_in), like=torch.zeros(1, space.spec.channels, 9 * space.spec.hop_length))


@pytest.mark.parametrize("name", BUILDERS)
def test_loading_is_quiet_and_leaves_the_random_state_alone(name, tmp_path, capfd):
    folder = BUILDERS[name](tmp_path, name)
    capfd.readouterr()
    before = torch.get_rng_state()
    space = load_latent_space(name, source=folder)
    assert torch.equal(before, torch.get_rng_state())
    assert capfd.readouterr() == ("", "")
    assert space.spec.tap == (SPACES[name].taps[0] if SPACES[name].taps else f"layer {space.n_layers // 2}")


# Devices and precisions -------------------------------------------------------------------------------------------------------

ADAPTERS = [
    *("etude-codec", "encodec-24khz", "encodec-32khz", "encodec-48khz", "dac-24khz", "mimi", "stable-audio-vae"),
    *("wavtokenizer-40", "hubert-base", "wavlm-base-plus", "mert-v1-95m", "whisper-tiny", "ast"),
]
KINDS = [(name, tap, {}) for name in ADAPTERS for tap in TAPS[name]]
KINDS += [("diffrhythm-vae", "mean", dict(how=how)) for how in ("traced", "frozen")]  # its weights, and its own code
CLOSE = {"float32": 0.01, "bfloat16": 0.05, "float16": 0.01}
"""RMS of the difference to float32 on a CPU, over the spread: a GPU's convolutions are in TF32, of 11 bits, unless told."""


@pytest.mark.parametrize(
    ("device", "dtype"),
    [
        ("cpu", "bfloat16"),
        pytest.param("cuda", "float32", marks=pytest.mark.gpu),
        pytest.param("cuda", "bfloat16", marks=pytest.mark.gpu),
        pytest.param("cuda", "float16", marks=pytest.mark.gpu),
    ],
)
@pytest.mark.parametrize(("name", "tap", "how"), KINDS, ids=lambda value: str(value).replace(" ", "-"))
def test_devices_and_precisions_agree(name, tap, how, device, dtype, tmp_path, monkeypatch):
    folder = BUILDERS[name](tmp_path / "model", name, **how)
    exact = load_latent_space(name, tap=tap, source=folder)
    if device == "cpu":  # refused, since it is slow; the sums are those of an accelerator
        monkeypatch.setattr("sae_audio.latent_spaces.check_precision", lambda *_: None)
    space = load_latent_space(name, tap=tap, source=folder, device=device, dtype=dtype)
    assert {tensor.device.type for tensor in (*space.model.parameters(), *space.model.buffers())} <= {device}
    assert space.device.type == device and (tap == "quantized" or same_weights(signature(exact), signature(space)))

    def agree(found, expected, limit=CLOSE[dtype]):
        assert found.device.type == device and found.dtype == torch.float32 and found.shape == expected.shape
        assert (found.cpu() - expected).std() <= limit * expected.std()

    audio = noise(2, space.spec.channels, 20 * space.spec.hop_length + 3)
    latents = exact.encode(audio)
    for given in (audio, audio.to(device)):
        agree(space.encode(given), latents, limit=0.4 if tap == "quantized" else CLOSE[dtype])  # codewords near a tie turn
    if isinstance(space, Encoder):
        agree(space.encode_layers(audio), exact.encode_layers(audio))
    else:
        agree(space.decode(latents, like=audio), exact.decode(latents, like=audio))
        agree(space.decode(latents.to(device)), exact.decode(latents))


# What can go wrong ------------------------------------------------------------------------------------------------------------


def test_unknown_name_suggests_a_near_one_and_lists_the_known():
    with pytest.raises(LatentSpaceError, match="did you mean 'encodec-24khz'") as caught:
        load_latent_space("Encodec_24kHz")
    assert all(name in str(caught.value) for name in SPACES)
    with pytest.raises(LatentSpaceError, match="'x' is unknown; Known: etude-codec"):
        load_latent_space("x")


def test_unknown_tap_lists_the_known():
    with pytest.raises(LatentSpaceError, match=r"no tap 'quantised'; did you mean 'quantized'\? Known: encoder, quantized"):
        load_latent_space("encodec-24khz", tap="quantised")


def test_the_list_of_spaces_says_what_each_needs(capsys, monkeypatch):
    monkeypatch.setitem(SPACES, "x", replace(SPACES["stable-audio-vae"], packages=("no_such_package",)))
    assert main(["spaces"]) == 0
    needs = {line.split()[0]: line.split("  ")[-1].strip() for line in capsys.readouterr().out.splitlines() if line}
    assert needs["etude-codec"] == "ready" and needs["mert-v1-95m"] == "downloads m-a-p/MERT-v1-95M"
    assert needs["stable-audio-vae"].endswith("/stable-audio-open-1.0; gated: accept the licence on the Hub")
    assert needs["mert-v1-330m"].endswith("/MERT-v1-330M; --trust-remote-code with a pinned commit")
    assert needs["x"] == "pip install no_such_package; gated: accept the licence on the Hub"


def test_missing_package_names_the_command(monkeypatch):
    monkeypatch.setitem(SPACES, "x", replace(SPACES["encodec-24khz"], packages=("no_such_package",)))
    with pytest.raises(LatentSpaceError, match="pip install no_such_package"):
        load_latent_space("x")


@pytest.mark.parametrize("source", ["/no/such/folder", Path("no/folder"), "./here", "~/x/y", "checkpoints/a/b"])
def test_missing_folder_is_named(source):
    with pytest.raises(LatentSpaceError, match="is not a folder or file") as caught:
        load_latent_space("encodec-24khz", source=source)
    assert str(source) in str(caught.value)


def test_a_folder_has_no_revisions(tmp_path):
    with pytest.raises(LatentSpaceError, match="only Hub repositories have revisions"):
        load_latent_space("encodec-24khz", source=tmp_path, revision="main")


def test_a_checkpoint_of_another_space_is_refused(tmp_path):
    folder = tiny_encodec(tmp_path, "encodec-48khz")
    with pytest.raises(LatentSpaceError, match="sample_rate 48000, but 'encodec-24khz' has 24000"):
        load_latent_space("encodec-24khz", source=folder)


def test_shipped_models_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert CHECKPOINTS.parent == Path(__file__).resolve().parents[1]
    assert load_latent_space("etude-codec").spec.repo == "checkpoints/etude-codec"


def test_a_shipped_model_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setitem(SPACES, "x", replace(SPACES["etude-codec"], source="no-such-model"))
    with pytest.raises(LatentSpaceError, match="checkpoints/no-such-model does not exist; run from a clone"):
        load_latent_space("x")


def test_offline_mode_is_one_line_with_the_remedy(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(LatentSpaceError, match="run `hf download facebook/encodec_24khz --revision no-such-revision`") as caught:
        load_latent_space("encodec-24khz", revision="no-such-revision")
    assert "\n" not in str(caught.value)
