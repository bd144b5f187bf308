"""Tiny EnCodecs."""

from __future__ import annotations

from pathlib import Path

import torch

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


BUILDERS = dict.fromkeys(ENCODEC, tiny_encodec)
TAPS = dict.fromkeys(ENCODEC, ("encoder", "quantized"))
