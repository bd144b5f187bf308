"""Oobleck checkpoints in every published layout, read into the tensors of diffusers' ``AutoencoderOobleck``.

| layout | file | tensors |
|---|---|---|
| diffusers | ``diffusion_pytorch_model.safetensors``, also under ``vae/``, with ``config.json`` | ``encoder.conv1.weight_g`` |
| stable-audio-tools, whole model | ``model.safetensors``, ``model.ckpt`` | ``pretransform.model.encoder.layers.0.weight_g`` |
| stable-audio-tools, VAE alone | the same, or any other name | ``encoder.layers.0.weight_g`` |
| stable-audio-tools, in training | a Lightning ``.ckpt`` | ``autoencoder_ema.ema_model.…``, ``autoencoder.…`` |
| DiffRhythm | ``vae_model.pt``, a TorchScript archive | see ``oobleck_archive`` |
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sae_audio.errors import LatentSpaceError, OutputError
from sae_audio.files import write_bytes
from sae_audio.latent_spaces.loading import check_keys, fill, first_line, read_config, read_tensors, weight_file
from sae_audio.latent_spaces.oobleck_names import canonical, infer_config

DIFFUSERS = "diffusion_pytorch_model.safetensors"
FILES = (DIFFUSERS, f"vae/{DIFFUSERS}", "model.safetensors", "model.ckpt", "vae_model.pt")
"""Weight files that are looked for in a folder, best first."""
NOTHING = r"(?!)"
TRAINING = r"(autoencoder|autoencoder_ema|teacher_model|discriminator|sdstft|lrstft|losses_gen|losses_disc|eval_losses)\."
LAYOUTS = {
    "pretransform.model.": r"(model|conditioner)\.",
    "autoencoder_ema.ema_model.": TRAINING,
    "autoencoder.": TRAINING,
    "": NOTHING,
}
"""Where the VAE sits in a file, best first, and what else the file may hold: the diffusion transformer and its conditioners, or
what a VAE is trained with. Averaged weights come before those in training, as in stable-audio-tools' own export."""
ASSUMED_RATE = 44_100
"""Sample rate in Hz where none is stated: that of Stable Audio Open and of DiffRhythm."""


class OobleckWeights(NamedTuple):
    """A checkpoint as ``AutoencoderOobleck`` takes it."""

    path: Path
    """The file, for messages."""
    config: dict[str, Any]
    """Arguments of ``AutoencoderOobleck``."""
    tensors: dict[str, Tensor]
    """Its state dict, convolutions split into length and direction."""


def find_weights(path: str | Path) -> Path:
    """Return the weight file of a checkpoint given as that file or as its folder."""
    path = Path(path)
    return path if path.is_file() else weight_file(path, FILES)


def read_weights(path: Path) -> OobleckWeights:
    """Read a weight file and what is stated beside it; of a larger model only the VAE's tensors are read from the disk.

    Sizes follow from the shapes unless ``config.json`` of a diffusers folder states them, the sample rate from that file or from
    ``model_config.json`` of stable-audio-tools.

    Raises
    ------
    LatentSpaceError
        The file is damaged, holds no Oobleck, or holds something else beside it; the message names the tensors.
    """
    return select(path, read_tensors(path), LAYOUTS)


def build(weights: OobleckWeights) -> nn.Module:
    """Return the ``AutoencoderOobleck`` of a checkpoint: strictly filled, its weights folded, in evaluation mode.

    Raises
    ------
    LatentSpaceError
        A tensor is missing, unexpected or misshapen, or the configuration describes no Oobleck.
    """
    from diffusers import AutoencoderOobleck

    ratios, hidden = weights.config["downsampling_ratios"], weights.config["encoder_hidden_size"]
    if not (isinstance(ratios, list) and ratios and all(isinstance(r, int) and r > 0 and r % 2 == 0 for r in ratios)):
        raise LatentSpaceError(f"{weights.path} has downsampling_ratios {ratios}; an Oobleck has even ones: [2, 4, 4, 8, 8]")
    if hidden != 2 * weights.config["decoder_input_channels"]:
        raise LatentSpaceError(f"{weights.path} encodes {hidden} channels; its decoder would have to take half, the means")
    try:
        with warnings.catch_warnings(), torch.device("meta"):  # initial weights would be drawn for nothing
            warnings.simplefilter("ignore", FutureWarning)  # diffusers uses the first generation of weight_norm
            model = AutoencoderOobleck(**weights.config)
        model.to_empty(device="cpu")
    except Exception as error:  # a wrong value surfaces wherever it is first used
        raise LatentSpaceError(f"the configuration of {weights.path} describes no Oobleck: {first_line(error)}") from error
    fill(model, weights.tensors, weights.path)
    for module in model.modules():
        if hasattr(module, "weight_g"):
            nn.utils.remove_weight_norm(module)
    return model.requires_grad_(False)


def save_weights(weights: OobleckWeights, out: str | Path) -> list[Path]:
    """Write a checkpoint as a diffusers folder, each file whole or not at all, and return the files.

    Raises
    ------
    OutputError
        The folder cannot be made or written to.
    """
    from diffusers import __version__
    from safetensors.torch import save

    out = Path(out)
    try:
        out.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"'{out}' cannot be made ({error.strerror}); choose a folder in a writable place") from None
    config = {"_class_name": "AutoencoderOobleck", "_diffusers_version": __version__, **weights.config}
    tensors = {key: value.float().contiguous() for key, value in weights.tensors.items()}
    write_bytes(out / DIFFUSERS, save(tensors, metadata={"format": "pt"}))
    write_bytes(out / "config.json", (json.dumps(config, indent=2) + "\n").encode())
    return [out / "config.json", out / DIFFUSERS]


def select(path: Path, held: Mapping[str, Tensor], layouts: Mapping[str, str]) -> OobleckWeights:
    """Select the VAE among the tensors of a file.

    Parameters
    ----------
    path : Path
        The file, for messages and for what is stated beside it.
    held : mapping of str to Tensor
        All its tensors.
    layouts : mapping of str to str
        Prefixes that the VAE's names may have, best first, and for each a regular expression of other names to ignore.

    Raises
    ------
    LatentSpaceError
        There is no VAE, or something beside it that is not ignored; the message names the tensors.
    """
    prefix = next((p for p in layouts if any(key.startswith((f"{p}encoder.", f"{p}decoder.")) for key in held)), None)
    if prefix is None:
        raise LatentSpaceError(f"{path} holds no Oobleck VAE; its tensors: {', '.join([*held][:3]) or 'none'}")
    own = {key.removeprefix(prefix): value for key, value in held.items() if key.startswith(prefix)}
    others = [key for key in held if not key.startswith(prefix) and not re.match(layouts[prefix], key)]
    check_keys(path, (), others, ())
    tensors = canonical(own)
    return OobleckWeights(path, _stated(path, infer_config(tensors, path)), tensors)


def _stated(path: Path, inferred: dict[str, Any]) -> dict[str, Any]:
    """Join what the shapes say with the configuration beside the weights."""
    config = {**inferred, "sampling_rate": ASSUMED_RATE}
    if path.name == DIFFUSERS and (path.parent / "config.json").is_file():
        given = {key: value for key, value in read_config(path.parent).items() if not key.startswith("_")}
        if unknown := given.keys() - config.keys():
            raise LatentSpaceError(
                f"{path.parent / 'config.json'} has settings that no Oobleck has: {', '.join(sorted(unknown))}"
            )
        return config | _checked(path.parent / "config.json", given, config)
    if path.name != DIFFUSERS and (path.parent / "model_config.json").is_file():
        given = read_config(path.parent, "model_config.json")
        _check_tanh(path.parent / "model_config.json", given)
        rate = {"sampling_rate": given.get("sample_rate", ASSUMED_RATE)}
        return config | _checked(path.parent / "model_config.json", rate, config)
    return config


def _checked(path: Path, given: dict[str, Any], usual: dict[str, Any]) -> dict[str, Any]:
    """Return settings; ``LatentSpaceError`` for one that is not of the kind of the usual one, such as null."""
    for name, value in given.items():
        if type(value) is not type(usual[name]):
            raise LatentSpaceError(f"{path} has {name} {json.dumps(value)}; it must be like {usual[name]}, or left out")
    return given


def _check_tanh(path: Path, given: dict[str, Any]) -> None:
    """Refuse what no tensor shows: the tanh at the end of a decoder that Stable Audio Open was trained without."""
    vae = _inside(given, "model", "pretransform", "config") or _inside(given, "model")
    decoder = _inside(vae, "decoder", "config")
    if decoder and decoder.get("final_tanh", True):
        raise LatentSpaceError(f"{path} describes a decoder with final_tanh, which the Oobleck of diffusers does not have")


def _inside(values: Any, *keys: str) -> dict[str, Any]:
    for key in keys:
        values = values.get(key) if isinstance(values, dict) else None
    return values if isinstance(values, dict) else {}
