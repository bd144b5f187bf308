"""Encoders against transformers called directly, on random weights; their frames, their files, and MERT's own code."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_bundle import tiny_bundle
from tiny_encoders import MERT, WAVEFORM, amend, tiny_ast, tiny_waveform_encoder, tiny_whisper
from tiny_models import noise
from torch.nn.functional import pad

from sae_audio.bundle_space import space_of
from sae_audio.errors import LatentSpaceError, ParameterError
from sae_audio.latent_spaces import load_latent_space
from sae_audio.latent_spaces.signature import signature
from sae_audio.latent_spaces.waveform_encoder import WaveformEncoder, normalised

LARGE = dict(do_stable_layer_norm=True, feat_extract_norm="layer", conv_bias=True)
"""What the large public models say: normalised before each block and after the last, no normalisation over time."""
KINDS = {name: (tiny_waveform_encoder, name, {}) for name in WAVEFORM} | {
    "hubert-large": (tiny_waveform_encoder, "hubert-base", LARGE),
    "wavlm-large": (tiny_waveform_encoder, "wavlm-base-plus", LARGE | dict(normalize=False)),
    "mert-v0": (tiny_waveform_encoder, "mert-v1-95m", dict(feat_proj_layer_norm=False)),
    "whisper": (tiny_whisper, "whisper-tiny", {}),
    "ast": (tiny_ast, "ast", {}),
}
FOLDERS = {}


@pytest.fixture
def folder(request, tmp_path_factory):
    kind = getattr(request, "param", "hubert-base")
    if kind not in FOLDERS:
        build, name, overrides = KINDS[kind]
        FOLDERS[kind] = build(tmp_path_factory.mktemp(kind), name, **overrides)
    return FOLDERS[kind]


def of(*kinds):
    return pytest.mark.parametrize("folder", kinds, indirect=True)


WAVES = [kind for kind in KINDS if kind not in ("whisper", "ast")]
every = of(*KINDS)


def load(folder, layer=1, **options):
    return load_latent_space("hf:user/model", source=folder, layer=layer, **options)


def original(folder):
    """Load the class that the weights were saved from, through transformers alone."""
    import transformers

    config = json.loads((folder / "config.json").read_text())
    if config["model_type"] == "mert_model":  # its tensors are HuBERT's
        kept = {key: value for key, value in config.items() if key not in MERT}
        model = transformers.HubertModel(transformers.HubertConfig(**kept))
        model.load_state_dict(torch.load(folder / "pytorch_model.bin", weights_only=True))
        return model.eval()
    return getattr(transformers, config["architectures"][0]).from_pretrained(folder).eval()


def extracted(folder, audio, front):
    """Run the checkpoint's own feature extractor on ``[B, 1, N]`` with ``front`` zeros before each clip."""
    from transformers import AutoFeatureExtractor

    extractor = AutoFeatureExtractor.from_pretrained(folder)
    clips = [pad(clip[0], (front, 0)).numpy() for clip in audio]
    return next(iter(extractor(clips, sampling_rate=extractor.sampling_rate, return_tensors="pt").values()))


def close(actual, expected):
    """Equal to 1e-4 of the expected spread, and that signal is not flat."""
    assert actual.shape == expected.shape and expected.std() > 1e-2
    assert (actual - expected).abs().max() <= 1e-4 * expected.std()


# Against transformers ---------------------------------------------------------------------------------------------------------


@of(*WAVES)
@pytest.mark.parametrize("samples", [320 * 50, 320 * 49 + 7])
def test_waveform_encoders_are_the_original_with_40_zeros_on_both_sides(folder, samples):
    audio = 0.3 + noise(2, 1, samples)
    values = pad(extracted(folder, audio, 0), (40, 40 + 320 * 50 - samples))
    model = original(folder)
    with torch.inference_mode():
        expected = getattr(model, model.base_model_prefix, model)(values, output_hidden_states=True).hidden_states
    close(load(folder).encode_layers(audio), torch.stack(expected))
    assert len(expected) == 4


@of("whisper")
@pytest.mark.parametrize("frames", [1, 40, 99])
def test_whisper_is_the_original_10_ms_later(folder, frames):
    audio = noise(2, 1, 320 * frames)
    with torch.inference_mode():
        encoder = original(folder).model.encoder
        expected = encoder(extracted(folder, audio, 160), output_hidden_states=True).hidden_states
    close(load(folder).encode_layers(audio), torch.stack(expected)[:, :, 1 : 1 + frames])
    assert len(expected) == 4


@of("ast")
@pytest.mark.parametrize("frames", [1, 20, 50])
def test_ast_is_the_mean_over_the_patches_of_each_time_step(folder, frames):
    audio = noise(2, 1, 1600 * frames)
    with torch.inference_mode():
        model = original(folder).audio_spectrogram_transformer
        expected = torch.stack(model(extracted(folder, audio, 600), output_hidden_states=True).hidden_states)
    assert expected.shape == (4, 2, 2 + 3 * 50, 24)  # (36 - 16) // 10 + 1 bands, (512 - 16) // 10 + 1 time steps
    pooled = [expected[:, :, [2 + t, 2 + 50 + t, 2 + 100 + t]].mean(dim=2) for t in range(frames)]
    close(load(folder).encode_layers(audio), torch.stack(pooled, dim=2))


@every
@pytest.mark.parametrize("layer", [0, 2, 3])
def test_one_layer_is_that_of_the_whole_model_and_no_later_block_runs(folder, layer):
    space = load(folder, layer)
    audio = noise(1, 1, 20 * space.spec.hop_length)
    ran = []
    for model in (space.blocks.whole, space.blocks.short):
        for block in getattr(model, "encoder", model).layers:
            block.register_forward_hook(lambda *_: ran.append(1))
    latents = space.encode(audio)
    assert len(ran) == max(layer, 1)
    assert torch.equal(latents, load(folder, 0).encode_layers(audio)[layer])


@every
def test_the_short_model_shares_its_weights(folder):
    space = load(folder, layer=2)
    whole, short = (dict(model.named_parameters()) for model in (space.blocks.whole, space.blocks.short))
    assert len(short) < len(whole) and all(parameter is whole[name] for name, parameter in short.items())


@every
def test_the_encoders_are_in_evaluation_mode(folder):
    space = load(folder)
    for model in (space.blocks.whole, space.blocks.short):
        blocks = getattr(model, "encoder", model).layers
        assert not any(module.training for module in (model, *(part for block in blocks for part in block.modules())))
    audio = noise(1, 1, 8_000)
    assert torch.equal(space.encode(audio), space.encode(audio))


@of(*WAVES)
def test_the_class_is_the_model_types_own(folder):
    kind = type(load(folder).model).__name__
    prefix = {"mert": "Hubert", "hubert": "Hubert", "wavlm": "WavLM", "wav2vec2": "Wav2Vec2"}
    model_type = json.loads((folder / "config.json").read_text())["model_type"]
    prefix |= {"data2vec": "Data2VecAudio", "unispeech": "UniSpeechSat"}
    assert kind == prefix[model_type.split("-")[0].split("_")[0]] + "Model"


# Frames -----------------------------------------------------------------------------------------------------------------------

LOCAL = dict(LARGE, normalize=False, num_conv_pos_embeddings=1)  # nothing before the first block looks further than its frame


@pytest.mark.parametrize(
    ("build", "name", "overrides", "reach"),
    [(tiny_waveform_encoder, "hubert-base", LOCAL, 200), (tiny_whisper, "whisper-tiny", {}, 520), (tiny_ast, "ast", {}, 1400)],
    ids=["hubert", "whisper", "ast"],
)
def test_a_frame_sees_as_much_before_its_centre_as_after(build, name, overrides, reach, tmp_path):
    space = load(build(tmp_path, name, **overrides), layer=0)
    hop = space.spec.hop_length
    audio = noise(1, 1, 40 * hop)
    before, centre = space.encode(audio)[0, 20], 20 * hop + hop // 2
    for offset, seen in ((-reach - 1, False), (-reach + 8, True), (reach - 9, True), (reach, False)):
        changed = audio.clone()
        changed[..., centre + offset] += 5.0
        assert torch.equal(space.encode(changed)[0, 20], before) != seen, offset


@of("hubert-base", "whisper", "ast")
def test_padding_that_fills_the_last_frame_adds_no_frame(folder):
    space = load(folder)
    hop = space.spec.hop_length
    audio = noise(1, 1, 10 * hop)
    for samples in (1, hop - 1, hop, hop + 1):
        assert space.encode(audio[..., :samples]).shape[1] == -(-samples // hop)


def test_normalisation_is_the_feature_extractors():
    from transformers import Wav2Vec2FeatureExtractor

    audio = 0.2 + noise(3, 1, 12_345) * torch.tensor([1.0, 0.1, 0.0])[:, None, None]
    expected = Wav2Vec2FeatureExtractor()([*audio[:, 0].numpy()], sampling_rate=16_000, return_tensors="pt").input_values
    torch.testing.assert_close(normalised(audio)[:, 0], expected, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("normalize", [True, False])
def test_loudness_counts_only_where_the_checkpoint_does_not_normalise(tmp_path, normalize):
    space = load(tiny_waveform_encoder(tmp_path, "wavlm-base-plus", normalize=normalize))
    audio = noise(1, 1, 20_000)
    assert torch.allclose(space.encode(0.5 + 4 * audio), space.encode(audio), atol=1e-3) == normalize


# Long clips -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("folder", "window"), [("wavlm-large", 100), ("whisper", 99), ("ast", 50)], indirect=["folder"])
def test_long_clips_run_in_windows_blended_where_they_overlap(folder, window, monkeypatch):
    monkeypatch.setattr("sae_audio.latent_spaces.waveform_encoder.WINDOW", 2.0)
    space = load(folder, layer=2)
    overlap, hop = window // 6, space.spec.hop_length
    audio = noise(2, 1, (2 * window + 5) * hop + 3)  # 2 windows - overlap, then one that reaches back to full length
    seen = []
    space.blocks.short.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape))
    latents = space.encode(audio)
    assert latents.shape == (2, 2 * window + 6, space.spec.d_in) and len(seen) == 3 and len({shape[1] for shape in seen}) <= 2
    starts = [0, window - overlap, window + 6]
    if isinstance(space, WaveformEncoder):  # what runs in windows are the blocks
        with torch.inference_mode():
            features = space.model.feature_extractor(space._padded(audio))
            alone = [space.blocks.hidden_states(features[..., start : start + window], [2])[0] for start in starts]
    else:
        alone = [space.encode(audio[..., start * hop : (start + window) * hop]) for start in starts]
    close(latents[:, : window - overlap], alone[0][:, : window - overlap])
    fade = ((torch.arange(overlap) + 0.5) / overlap)[:, None]
    mixed = (1 - fade) * alone[0][:, window - overlap :] + fade * alone[1][:, :overlap]
    close(latents[:, window - overlap : window], mixed)
    close(latents[:, 2 * window - overlap :], alone[2][:, window - overlap - 6 :])


def swinging(samples):
    """Noise whose level swings by 26 dB and grows tenfold."""
    t = torch.arange(samples) / samples
    return noise(2, 1, samples, level=1.0) * 0.01 * 10 ** (t + 0.65 * torch.sin(20 * t))


@of("hubert-base", "wav2vec2-base", "hubert-large", "data2vec-audio")
@pytest.mark.parametrize("samples", [1, 320, 320 * 16, 320 * 100 + 1])
def test_the_convolutions_of_a_clip_in_windows_are_those_of_the_whole(folder, samples, monkeypatch):
    monkeypatch.setattr("sae_audio.latent_spaces.waveform_encoder.CONVOLVED", 1)
    space, audio = load(folder), swinging(samples).double()
    space.model.double()
    seen = []
    last = space.model.feature_extractor.conv_layers[-1]
    hook = last.register_forward_hook(lambda module, args, y: seen.append(y.shape[-1]))
    with torch.inference_mode():
        features = space._features(audio)
        hook.remove()
        whole = space.model.feature_extractor(space._padded(audio))
    assert whole.std() > 1e-2 and (features - whole).abs().max() < 1e-12
    assert max(seen) <= 16 and sum(seen) == -(-samples // 320)


@of("hubert-base")
def test_the_level_of_a_window_is_measured_against_the_whole_clip(folder, monkeypatch):
    space, audio = load(folder, layer=0), swinging(16_000 * 12)
    whole = space.encode(audio)
    monkeypatch.setattr("sae_audio.latent_spaces.waveform_encoder.WINDOW", 4.0)

    def off(latents):
        return (latents - whole[:, : latents.shape[1]]).std() / whole.std()

    assert off(space.encode(audio)) < 0.02 < 0.2 < off(space.encode(audio[..., : 16_000 * 4]))


# Files ------------------------------------------------------------------------------------------------------------------------


def held(folder):
    """Return the tensors of a checkpoint."""
    path = folder / "pytorch_model.bin"
    return torch.load(path, weights_only=True) if path.exists() else load_file(folder / "model.safetensors")


def changed(folder, tmp_path, change, suffix=".bin"):
    """Copy a checkpoint with its tensors changed, in the given format."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    tensors = held(folder)
    tensors = renamed if isinstance(renamed := change(tensors), dict) else tensors
    for file in ("pytorch_model.bin", "model.safetensors"):
        (copy / file).unlink(missing_ok=True)
    if suffix == ".bin":
        torch.save(tensors, copy / "pytorch_model.bin")
    else:
        save_file(
            {key: value.contiguous() for key, value in tensors.items()}, copy / "model.safetensors", metadata={"format": "pt"}
        )
    return copy


@of("hubert-base", "wav2vec2-base", "mert-v1-95m", "whisper", "ast")
def test_both_weight_formats_load_equal(folder, tmp_path):
    suffix = ".safetensors" if (folder / "pytorch_model.bin").exists() else ".bin"
    space, copy = load(folder), load(changed(folder, tmp_path, lambda tensors: None, suffix))
    audio = noise(1, 1, 10 * space.spec.hop_length)
    assert torch.equal(space.encode(audio), copy.encode(audio))


@of("hubert-base", "mert-v1-95m")
def test_both_generations_of_weight_norm_names_load_equal(folder, tmp_path):
    names = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
    assert {key.split(".")[-1] for key in held(folder)} >= names.keys()

    def rename(tensors):
        return {
            ".".join([*key.split(".")[:-1], names.get(key.split(".")[-1], key.split(".")[-1])]): tensors[key] for key in tensors
        }

    audio = noise(1, 1, 5_000)
    assert torch.equal(load(folder).encode(audio), load(changed(folder, tmp_path, rename)).encode(audio))


@pytest.mark.parametrize(
    ("folder", "parts"),
    [
        ("wav2vec2-base", {"quantizer", "project_q", "project_hid", "wav2vec2"}),
        ("data2vec-audio", {"lm_head", "data2vec_audio"}),
        ("unispeech-sat", {"label_embeddings_concat", "speaker_proj", "layer_norm_for_extract", "quantizer", "unispeech_sat"}),
        ("whisper", {"model"}),
        ("ast", {"classifier", "audio_spectrogram_transformer"}),
    ],
    indirect=["folder"],
)
def test_the_files_hold_what_the_encoders_ignore_by_name(folder, parts):
    assert {key.split(".")[0] for key in held(folder)} >= parts


def test_files_without_the_mask_embedding_load(folder, tmp_path):
    without = changed(folder, tmp_path, lambda tensors: {k: v for k, v in tensors.items() if "masked_spec_embed" not in k})
    assert "masked_spec_embed" in held(folder) and "masked_spec_embed" not in held(without)
    assert torch.equal(load(folder).encode(noise(1, 1, 5_000)), load(without).encode(noise(1, 1, 5_000)))


@of("hubert-base", "wav2vec2-base", "mert-v1-95m", "whisper", "ast")
@pytest.mark.parametrize("problem", ["lacks", "has unknown", "has misshapen"])
def test_a_checkpoint_that_does_not_fit_names_the_tensor(folder, tmp_path, problem):
    key = next(key for key in held(folder) if "decoder" not in key and key.endswith(("q_proj.bias", "query.bias")))
    tensor = {"has unknown": torch.zeros(1), "has misshapen": torch.zeros(3)}

    def damage(tensors):
        if problem == "lacks":
            del tensors[key]
        else:
            tensors[key + "_extra" * (problem == "has unknown")] = tensor[problem]

    with pytest.raises(LatentSpaceError, match=f"{problem} tensors: .*(q_proj|query)"):
        load(changed(folder, tmp_path, damage))


@of("wavlm-base-plus")
def test_wavlm_is_not_loaded_into_wav2vec2(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    amend(copy / "config.json", dict(model_type="wav2vec2", architectures=["Wav2Vec2Model"]))
    with pytest.raises(LatentSpaceError, match=r"has unknown tensors: .*gru_rel_pos"):
        load(copy)


@every
def test_a_checkpoint_without_its_sampling_rate_is_refused(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    path = copy / "preprocessor_config.json"
    values = json.loads(path.read_text())
    del values["sampling_rate"]
    path.write_text(json.dumps(values))
    with pytest.raises(LatentSpaceError, match="states no sampling_rate"):
        load(copy)
    path.unlink()
    with pytest.raises(LatentSpaceError, match=r"has no preprocessor_config\.json"):
        load(copy)


@pytest.mark.parametrize(("folder", "entry"), [("whisper", "chunk_length"), ("ast", "num_mel_bins")], indirect=["folder"])
def test_a_preprocessor_of_another_model_is_refused(folder, tmp_path, entry):
    copy = shutil.copytree(folder, tmp_path / "copy")
    amend(copy / "preprocessor_config.json", {entry: 30})
    with pytest.raises(LatentSpaceError, match=r"gives \(mel bands, frames\)"):
        load(copy)


@every
def test_a_layer_past_the_last_is_refused(folder):
    with pytest.raises(LatentSpaceError, match="it has 'layer 0' to 'layer 3'"):
        load(folder, layer=4)


def test_an_unsupported_type_is_refused_with_the_list(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    amend(copy / "config.json", dict(model_type="bert"))
    with pytest.raises(LatentSpaceError, match=r"type 'bert'; .*audio-spectrogram-transformer, .*hubert, .*wavlm, whisper"):
        load(copy)
    with pytest.raises(LatentSpaceError, match="type 'bert'; known are hubert, wavlm"):
        WaveformEncoder.load(copy)


# MERT's own code --------------------------------------------------------------------------------------------------------------

CONFIGURATION = """
from pathlib import Path
from transformers import HubertConfig

Path({marker!r}).touch()

class MERTConfig(HubertConfig):
    model_type = "mert_model"
"""
MODELING = """
import torch
from torch import nn
from transformers import HubertModel
from transformers.modeling_outputs import BaseModelOutput
from .configuration_MERT import MERTConfig

class MERTModel(HubertModel):  # like the public code: a forward of its own that leaves the hidden states to the encoder
    config_class = MERTConfig
    base_model_prefix = "mert_model"

    def __init__(self, config):
        super().__init__(config)
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, input_values, output_hidden_states=None, **ignored):
        features = self.feature_extractor(self.gain * input_values).transpose(1, 2)
        encoded = self.encoder(self.feature_projection(features), output_hidden_states=output_hidden_states)
        return BaseModelOutput(last_hidden_state=encoded[0], hidden_states=encoded.hidden_states)
"""
ADDED = [dict(attention_relax=32.0), dict(feature_extractor_cqt=True), dict(deepnorm=True)]


@pytest.fixture(scope="module")
def modules(tmp_path_factory):
    """Keep the code that transformers copies out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        path = tmp_path_factory.mktemp("modules")
        patch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(path))
        patch.syspath_prepend(path)
        yield path


def mert_with_code(tmp_path, **extra):
    """Save a tiny MERT whose own code leaves a mark when it runs, and makes the sound three times as loud."""
    folder, marker = tiny_waveform_encoder(tmp_path / "mert", "mert-v1-95m", normalize=False, extra=extra), tmp_path / "ran"
    if extra:
        torch.save(held(folder) | {"gain": torch.tensor([3.0])}, folder / "pytorch_model.bin")
    (folder / "configuration_MERT.py").write_text(CONFIGURATION.format(marker=str(marker)))
    (folder / "modeling_MERT.py").write_text(MODELING)
    return folder, marker


@pytest.mark.parametrize("trust", [False, True])
def test_plain_mert_runs_no_code_even_if_trusted(tmp_path, modules, trust):
    copied = set(modules.rglob("*MERT.py"))  # by other tests
    folder, marker = mert_with_code(tmp_path)
    space = load_latent_space("mert-v1-95m", source=folder, trust_remote_code=trust)
    assert type(space.model).__name__ == "HubertModel" and not marker.exists() and set(modules.rglob("*MERT.py")) == copied


@pytest.mark.parametrize("extra", ADDED, ids=lambda extra: next(iter(extra)))
def test_mert_that_adds_to_hubert_is_refused_and_says_how(tmp_path, modules, extra):
    copied = set(modules.rglob("*MERT.py"))  # by other tests
    folder, marker = mert_with_code(tmp_path, **extra)
    with pytest.raises(
        LatentSpaceError, match=rf"{next(iter(extra))}.*trust_remote_code=True \(--trust-remote-code\).*revision="
    ):
        load_latent_space("mert-v1-330m", source=folder)
    assert not marker.exists() and set(modules.rglob("*MERT.py")) == copied


def test_trusted_mert_runs_its_own_code(tmp_path, modules):
    folder, marker = mert_with_code(tmp_path, attention_relax=32.0)
    plain = load(tiny_waveform_encoder(tmp_path / "plain", "mert-v1-95m", normalize=False))
    space = load_latent_space("mert-v1-330m", source=folder, layer=1, trust_remote_code=True)
    audio = noise(2, 1, 8_000)
    assert marker.exists() and type(space.model).__name__ == "MERTModel" and not space.model.training
    close(space.encode(audio), plain.encode(3 * audio))
    close(space.encode_layers(audio), plain.encode_layers(3 * audio))


def test_a_bundle_finds_a_model_that_runs_its_own_code_elsewhere_on_the_hub(tmp_path, modules, hub, repo_id):
    folder, _ = mert_with_code(tmp_path, attention_relax=32.0)
    commits = [hub.seed(repo, folder) for repo in (repo_id, f"{repo_id}-moved")]
    trusted = dict(layer=1, revision=commits[0], trust_remote_code=True)
    space = load_latent_space("mert-v1-330m", source=repo_id, **trusted)
    bundle = replace(tiny_bundle(), spec=space.spec, provenance={"signature": signature(space)})
    assert space_of(bundle, trust_remote_code=True).spec == space.spec
    moved = dict(source=f"{repo_id}-moved", trust_remote_code=True)
    found = space_of(bundle, revision=commits[1], **moved)
    assert (found.spec.repo, found.spec.revision) == (f"{repo_id}-moved", commits[1])
    with pytest.raises(ParameterError, match="read that code and pass the commit"):
        space_of(bundle, **moved)


def test_trusted_mert_is_read_as_strictly(tmp_path, modules):
    folder, _ = mert_with_code(tmp_path, attention_relax=32.0)
    with pytest.raises(LatentSpaceError, match="lacks tensors: gain"):
        load(changed(folder, tmp_path, lambda tensors: tensors.pop("gain")), trust_remote_code=True)


def test_code_from_another_repository_is_refused(tmp_path, modules):
    folder, marker = mert_with_code(tmp_path, attention_relax=32.0)
    amend(folder / "config.json", dict(auto_map={"AutoModel": "m-a-p/MERT-v1-95M--modeling_MERT.MERTModel"}))
    with pytest.raises(LatentSpaceError, match="another repository, whose commit is not pinned: m-a-p/MERT-v1-95M--modeling"):
        load(folder, trust_remote_code=True)
    assert not marker.exists()


def test_code_that_does_not_extend_hubert_is_refused(tmp_path, modules):
    folder, _ = mert_with_code(tmp_path, attention_relax=32.0)
    for file in folder.glob("*_MERT.py"):
        file.write_text(file.read_text().replace("Hubert", "Wav2Vec2"))
    with pytest.raises(LatentSpaceError, match="defines MERTModel, which does not extend HuBERT"):
        load(folder, trust_remote_code=True)
