"""Tiny DACs and Mimis."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn

DAC = {
    "dac-16khz": dict(sampling_rate=16_000, downsampling_ratios=[2, 4, 5, 8]),
    "dac-24khz": dict(sampling_rate=24_000, downsampling_ratios=[2, 4, 5, 8]),
    "dac-44khz": dict(sampling_rate=44_100, downsampling_ratios=[2, 4, 8, 8]),
}
"""What makes each public checkpoint different, as in its config.json, but for the number of codebooks (12, 32 and 9)."""
DAC_LEVEL = 0.015
"""Size of the tiny DAC encoder's outputs for noise of -20 dBFS."""


def tiny_dac(folder: Path, name: str, **overrides) -> Path:
    """Save a tiny DAC of the kind ``name`` in ``folder`` and return the folder; ``overrides`` go into its config."""
    from transformers import DacConfig, DacModel

    sizes = dict(encoder_hidden_size=2, decoder_hidden_size=32, n_codebooks=16, codebook_size=256, codebook_dim=3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = DacModel(DacConfig(**{**DAC[name], **sizes, **overrides}))
        for part, module in model.named_modules():
            if isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
                taps = module.kernel_size[0]
                middle = torch.sin(torch.pi * (torch.arange(taps) + 0.5) / taps)  # as when trained, about the frame itself
                _draw(module, middle, gain=0.2 if "res_unit" in part else 0.9)
        _quantise(model)
    model.save_pretrained(folder)
    rewrite(folder, hop_length=512)  # as in all three public files, though it is wrong for two of them
    return folder


def tiny_mimi(folder: Path, name: str = "mimi", **overrides) -> Path:
    """Save a tiny Mimi in ``folder`` and return the folder; ``overrides`` go into its config."""
    from transformers import MimiConfig, MimiModel

    sizes = dict(
        num_filters=4, hidden_size=16, upsample_groups=16, num_hidden_layers=2, intermediate_size=32, num_attention_heads=2,
        num_key_value_heads=2, head_dim=8, num_quantizers=8, codebook_size=256, codebook_dim=4,
        vector_quantization_hidden_dimension=4,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MimiModel(MimiConfig(**{**sizes, **overrides}))
        for module in model.modules():
            if isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
                newest = torch.linspace(0, 1, module.kernel_size[0] + 1)[1:] ** 2  # a causal one lives in the present
                _draw(module, newest if isinstance(module, nn.Conv1d) else newest.flip(0))
        for quantizer in (model.quantizer.semantic_residual_vector_quantizer, model.quantizer.acoustic_residual_vector_quantizer):
            for q, layer in enumerate(quantizer.layers):
                layer.codebook.embed_sum.normal_(std=0.08 * 0.4**q)
    model.save_pretrained(folder)
    rewrite(folder, frame_rate=model.config.frame_rate, rope_theta=10_000.0, rope_parameters=None, _frame_rate=None)
    return folder


def _draw(module: nn.Module, taps: torch.Tensor, gain: float = 1.0) -> None:
    """Give a convolution random weights of a given shape in time that scale the size of its input, and small biases."""
    fan_in = module.weight[0].numel() if isinstance(module, nn.Conv1d) else module.weight[:, 0].numel() // module.stride[0]
    module.weight.data.normal_().mul_(gain * taps / (fan_in * taps.square().mean()).sqrt())
    if module.bias is not None:
        module.bias.data.normal_(std=0.002)


def _quantise(model: nn.Module) -> None:
    """Give each codebook of a DAC two directions of the latents to itself, and codewords for vectors of their size there.

    Codewords are found by their angle alone. A first dimension that is the same for all of them makes it say the length too.
    """
    width = model.config.codebook_dim - 1
    directions = nn.init.orthogonal_(torch.empty(model.config.hidden_size, model.config.hidden_size))
    for q, layer in enumerate(model.quantizer.quantizers):
        own = directions[q * width : (q + 1) * width]
        layer.in_proj.weight.data = nn.functional.pad(own, (0, 0, 1, 0))[..., None]
        layer.in_proj.bias.data = nn.functional.pad(torch.zeros(width), (1, 0), value=DAC_LEVEL)
        layer.codebook.weight.data.normal_(std=DAC_LEVEL)[:, 0] = DAC_LEVEL
        layer.out_proj.weight.data = nn.functional.pad(own.T, (1, 0))[..., None].contiguous()
        layer.out_proj.bias.data.zero_()


def rewrite(folder: Path, **entries) -> None:
    """Write entries into config.json, as the public one has them; None takes one out."""
    path = folder / "config.json"
    kept = {key: value for key, value in json.loads(path.read_text()).items() if key not in entries}
    path.write_text(json.dumps(kept | {key: value for key, value in entries.items() if value is not None}))


BUILDERS = dict.fromkeys(DAC, tiny_dac) | {"mimi": tiny_mimi}
TAPS = dict.fromkeys(BUILDERS, ("encoder", "quantized"))
