"""Tiny real models: the public classes with few channels and seeded random weights, saved in the public file layout."""

from __future__ import annotations

from pathlib import Path

import torch

ENCODEC = {
    "encodec-24khz": dict(sampling_rate=24_000, audio_channels=1),
    "encodec-32khz": dict(
        sampling_rate=32_000, audio_channels=1, upsampling_ratios=[8, 5, 4, 4], use_causal_conv=False, use_conv_shortcut=False
    ),
    "encodec-48khz": dict(
        sampling_rate=48_000, audio_channels=2, use_causal_conv=False, norm_type="time_group_norm",
        normalize=True, chunk_length_s=1.0, overlap=0.01,
    ),
}  # fmt: skip
"""What makes each public checkpoint different, as in its config.json."""
TINY = dict(num_filters=2, hidden_size=8, codebook_size=16)


def tiny_encodec(folder: Path, name: str, **overrides) -> Path:
    """Save a tiny EnCodec of the kind ``name`` in ``folder`` and return the folder; ``overrides`` go into its config."""
    from transformers import EncodecConfig, EncodecModel

    values = {**ENCODEC[name], **TINY, "target_bandwidths": [0.6, 2.4], **overrides}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = EncodecModel(EncodecConfig(**values))
        for layer in model.quantizer.layers:
            layer.codebook.embed.normal_(std=0.2)
    model.save_pretrained(folder)
    return folder


def click(n_samples: int, at: int, channels: int = 1) -> torch.Tensor:
    """One sample of height 1 in silence: ``[1, channels, n_samples]``."""
    audio = torch.zeros(1, channels, n_samples)
    audio[..., at] = 1.0
    return audio
