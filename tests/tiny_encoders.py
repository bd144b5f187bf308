"""Tiny encoders: the public classes with the heads they are published with, in the public file layout."""

from __future__ import annotations

import json
from pathlib import Path

import torch

# Fewer channels or larger weights, and random features of noise jump as much as those of a click.
CONVOLUTIONS = dict(conv_dim=[48] * 7, initializer_range=0.1, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2)
BLOCKS = dict(hidden_size=24, num_hidden_layers=3, num_attention_heads=2, intermediate_size=48)
QUANTIZER = dict(codevector_dim=8, proj_codevector_dim=8, num_codevectors_per_group=4)
WAVEFORM = {
    "hubert-base": ("Hubert", "Model", {}),
    "wavlm-base-plus": ("WavLM", "Model", {}),
    "wav2vec2-base": ("Wav2Vec2", "ForPreTraining", QUANTIZER),
    "mert-v1-95m": ("Hubert", "Model", {}),
    "data2vec-audio": ("Data2VecAudio", "ForCTC", dict(conv_pos_kernel_size=5, num_conv_pos_embeddings=2)),
    "unispeech-sat": ("UniSpeechSat", "ForPreTraining", QUANTIZER | dict(num_clusters=5)),
}
"""Prefix and suffix of the class that each public checkpoint was saved from, and what its configuration needs beside sizes."""
MERT = dict(
    model_type="mert_model", architectures=["MERTModel"], attention_relax=-1.0, deepnorm=False, feature_extractor_cqt=False,
    feature_extractor_cqt_bins=336, sample_rate=24_000,
    auto_map={"AutoConfig": "configuration_MERT.MERTConfig", "AutoModel": "modeling_MERT.MERTModel"},
)  # fmt: skip
"""What the public config.json of MERT-v1-95M says beside HuBERT's."""


def tiny_waveform_encoder(folder: Path, name: str, normalize: bool = True, extra: dict | None = None, **overrides) -> Path:
    """Save a model of the wav2vec 2.0 family as ``pytorch_model.bin`` with the weight-norm names of its time.

    ``overrides`` go into its config, ``extra`` into the file ``config.json`` only.
    """
    import transformers

    prefix, suffix, needs = WAVEFORM[name]
    config = getattr(transformers, f"{prefix}Config")(**{**CONVOLUTIONS, **BLOCKS, **needs, **overrides})
    model = seeded(lambda: getattr(transformers, prefix + suffix)(config))
    model.save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    torch.save({old_name(key): value for key, value in model.state_dict().items()}, folder / "pytorch_model.bin")
    rate = 24_000 if name.startswith("mert") else 16_000
    transformers.Wav2Vec2FeatureExtractor(sampling_rate=rate, do_normalize=normalize).save_pretrained(folder)
    amend(folder / "config.json", (MERT if name.startswith("mert") else {}) | (extra or {}))
    return folder


def tiny_whisper(folder: Path, name: str = "whisper-tiny", **overrides) -> Path:
    """Save a Whisper with its decoder, of 2 s windows."""
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

    sizes = dict(
        d_model=24, encoder_layers=3, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=48,
        decoder_ffn_dim=48, num_mel_bins=20, max_source_positions=100, vocab_size=50, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, decoder_start_token_id=1, suppress_tokens=None, begin_suppress_tokens=None, init_std=0.1,
    )  # fmt: skip
    model = seeded(lambda: WhisperForConditionalGeneration(WhisperConfig(**{**sizes, **overrides})))
    model.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=20, chunk_length=2).save_pretrained(folder)
    return folder


def tiny_ast(folder: Path, name: str = "ast", **overrides) -> Path:
    """Save an Audio Spectrogram Transformer with its classifier."""
    from transformers import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification

    config = ASTConfig(
        **{**BLOCKS, "num_mel_bins": 36, "max_length": 512, "num_labels": 3, "initializer_range": 0.1, **overrides}
    )
    model = seeded(lambda: ASTForAudioClassification(config))
    for name in ("cls_token", "distillation_token", "position_embeddings"):  # all zero at first
        parameter = getattr(model.audio_spectrogram_transformer.embeddings, name)
        parameter.data = 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    model.save_pretrained(folder)
    ASTFeatureExtractor(num_mel_bins=36, max_length=512).save_pretrained(folder)
    return folder


def seeded(build):
    """Build a model with seeded random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build()


def old_name(key: str) -> str:
    """Translate a weight-norm name of today into that of the public files."""
    return key.replace("parametrizations.weight.original0", "weight_g").replace("parametrizations.weight.original1", "weight_v")


def amend(path: Path, values: dict) -> None:
    """Change entries of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


ROWS = ("hubert-base", "wavlm-base-plus", "wav2vec2-base", "mert-v1-95m")
BUILDERS = dict.fromkeys(ROWS, tiny_waveform_encoder) | {"whisper-tiny": tiny_whisper, "ast": tiny_ast}
TAPS = dict.fromkeys(BUILDERS, ("layer 0", "layer 2"))
