"""Tiny real models: the public classes with few channels and seeded random weights, saved in the public file layout."""

from __future__ import annotations

from pathlib import Path

import torch

from sae_audio.latent_spaces import LatentSpace, load_latent_space

ENCODEC = {
    "encodec-24khz": dict(sampling_rate=24_000, audio_channels=1, target_bandwidths=[0.6, 4.8]),
    "encodec-32khz": dict(
        sampling_rate=32_000, audio_channels=1, upsampling_ratios=[8, 5, 4, 4], use_causal_conv=False, use_conv_shortcut=False,
        target_bandwidths=[0.4, 3.2],
    ),
    "encodec-48khz": dict(
        sampling_rate=48_000, audio_channels=2, use_causal_conv=False, norm_type="time_group_norm",
        normalize=True, chunk_length_s=1.0, overlap=0.01, target_bandwidths=[1.2, 9.6],
    ),
}  # fmt: skip
"""What makes each public checkpoint different, as in its config.json; bandwidths (kbit/s) of 1 and of 8 tiny codebooks."""
CODEWORD = {"encodec-24khz": 0.05, "encodec-32khz": 0.05, "encodec-48khz": 0.1}
"""Size of the first codebook's words: that of the tiny encoders' outputs."""


def tiny_encodec(folder: Path, name: str, **overrides) -> Path:
    """Save a tiny EnCodec of the kind ``name`` in ``folder`` and return the folder; ``overrides`` go into its config."""
    from transformers import EncodecConfig, EncodecModel

    sizes = dict(num_filters=4, hidden_size=8, codebook_size=256)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = EncodecModel(EncodecConfig(**{**ENCODEC[name], **sizes, **overrides}))
        for parameter in model.parameters():  # larger than the default, so that outputs follow the input, not the biases
            parameter.data.mul_(1.5 if parameter.ndim > 1 else 0.1)
        for q, layer in enumerate(model.quantizer.layers):
            layer.codebook.embed.normal_(std=CODEWORD[name] * 0.65**q)
    model.save_pretrained(folder)
    return folder


def tiny_etude(folder: Path, name: str = "etude-codec") -> Path:
    """Save a tiny étude codec in ``folder`` and return the folder."""
    from sae_audio.etude.checkpoint import save_codec
    from sae_audio.etude.codec import CodecConfig, SpectralVAE

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = SpectralVAE(CodecConfig(d_latent=8, width=8, encoder_blocks=1, decoder_blocks=1, phase_iterations=2))
    save_codec(model, folder)
    return folder


BUILDERS = {"etude-codec": tiny_etude, **dict.fromkeys(ENCODEC, tiny_encodec)}
"""How to build a tiny model of each latent space."""


def tiny_space(folder: Path, name: str, tap: str | None = None, **overrides) -> LatentSpace:
    """Build a tiny model in ``folder`` and load it through ``load_latent_space``."""
    return load_latent_space(name, tap=tap, source=BUILDERS[name](folder, name, **overrides))


def noise(*shape: int, seed: int = 0, level: float = 0.1) -> torch.Tensor:
    """Seeded white noise of the given RMS."""
    return level * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
