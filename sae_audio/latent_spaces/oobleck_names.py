"""Names and shapes of an Oobleck's tensors: from stable-audio-tools to diffusers, and what the shapes say about the network.

Both libraries nest the same network, for n blocks (i = 1 … n):

| | stable-audio-tools | diffusers |
|---|---|---|
| first and last layers | ``layers.0``, ``layers.{n+1}``, ``layers.{n+2}`` | ``conv1``, ``snake1``, ``conv2`` |
| block of the encoder | ``layers.i.layers.0 … 4`` | ``block.{i-1}.`` ``res_unit1 … 3``, ``snake1``, ``conv1`` |
| block of the decoder | ``layers.i.layers.0 … 4`` | ``block.{i-1}.`` ``snake1``, ``conv_t1``, ``res_unit1 … 3`` |
| in a residual unit | ``layers.0 … 3`` | ``snake1``, ``conv1``, ``snake2``, ``conv2`` |

The ``alpha`` and ``beta`` of a Snake are ``[C]`` there and ``[1, C, 1]`` here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from sae_audio.errors import LatentSpaceError
from sae_audio.latent_spaces.loading import check_keys

RESIDUAL_UNITS = ("res_unit1", "res_unit2", "res_unit3")
BLOCKS = {"encoder": (*RESIDUAL_UNITS, "snake1", "conv1"), "decoder": ("snake1", "conv_t1", *RESIDUAL_UNITS)}
RESIDUAL_UNIT = ("snake1", "conv1", "snake2", "conv2")


def module_names(side: str, n_blocks: int) -> dict[str, str]:
    """Return diffusers' name of each layer of stable-audio-tools' ``encoder`` or ``decoder`` (``side``)."""
    names = {"layers.0": "conv1", f"layers.{n_blocks + 1}": "snake1", f"layers.{n_blocks + 2}": "conv2"}
    for block in range(n_blocks):
        for place, part in enumerate(BLOCKS[side]):
            old, new = f"layers.{block + 1}.layers.{place}", f"block.{block}.{part}"
            inner = (
                {f"{old}.layers.{i}": f"{new}.{name}" for i, name in enumerate(RESIDUAL_UNIT)}
                if part in RESIDUAL_UNITS
                else {old: new}
            )
            names |= inner
    return {f"{side}.{old}": f"{side}.{new}" for old, new in names.items()}


def canonical(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return an Oobleck's tensors under diffusers' names, every convolution as length ``weight_g`` and direction ``weight_v``.

    Parameters
    ----------
    tensors : mapping of str to Tensor
        Under the names of diffusers or of stable-audio-tools; weight-normalised under the names of either generation, or folded.
        A name that belongs to neither is kept, for the caller to refuse.

    Returns
    -------
    dict of str to Tensor
        Tensors as they are where only their name changes.
    """
    names: dict[str, str] = {}
    for side in BLOCKS:
        blocks = [int(match[1]) for key in tensors if (match := re.match(rf"{side}\.layers\.(\d+)\.layers\.", key))]
        names |= module_names(side, max(blocks, default=0))
    out: dict[str, Tensor] = {}
    for key, value in tensors.items():
        key = key.replace(".parametrizations.weight.original0", ".weight_g")
        key = key.replace(".parametrizations.weight.original1", ".weight_v")
        module, _, name = key.rpartition(".")
        if name in ("alpha", "beta") and value.ndim == 1:
            value = value[None, :, None]
        new = _normalised(names.get(module, module), name, value)
        if twice := out.keys() & new.keys():
            raise LatentSpaceError(f"the checkpoint holds tensors twice, under two names: {', '.join(sorted(twice))}")
        out |= new
    return out


def _normalised(module: str, name: str, value: Tensor) -> dict[str, Tensor]:
    """Split a folded weight into length and direction over all axes but the first, so that their product is the weight."""
    if name != "weight" or value.ndim != 3:
        return {f"{module}.{name}" if module else name: value}
    value = value.float()
    length = value.norm(dim=(1, 2), keepdim=True)
    return {f"{module}.weight_g": length, f"{module}.weight_v": torch.where(length == 0, torch.ones(()), value)}


def infer_config(tensors: Mapping[str, Tensor], path: str | Path) -> dict:
    """Return the arguments of ``AutoencoderOobleck`` that the shapes of its tensors imply; all but the sample rate.

    A strided convolution has a kernel of twice its stride.

    Raises
    ------
    LatentSpaceError
        A tensor that says so is missing or misshapen; the message names it and ``path``.
    """

    def shape(module: str) -> tuple[int, ...]:
        key = f"{module}.weight_v"
        check_keys(path, {key} - tensors.keys(), (), ())
        check_keys(path, (), (), {key} if tensors[key].ndim != 3 else ())
        return tuple(tensors[key].shape)

    hidden, channels, _ = shape("encoder.conv1")
    n_blocks = len({key.split(".")[2] for key in tensors if re.match(r"encoder\.block\.\d+\.", key)})
    blocks = [shape(f"encoder.block.{i}.conv1") for i in range(n_blocks)]
    _, latent, _ = shape("decoder.conv1")
    _, width, _ = shape("decoder.conv2")
    return {
        "encoder_hidden_size": hidden,
        "downsampling_ratios": [kernel // 2 for _, _, kernel in blocks],
        "channel_multiples": [wide // max(hidden, 1) for wide, _, _ in blocks],
        "decoder_channels": width,
        "decoder_input_channels": latent,
        "audio_channels": channels,
    }
