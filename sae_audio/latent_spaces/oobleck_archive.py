"""Oobleck as a TorchScript archive, as DiffRhythm publishes its VAE: a network together with its code.

How its tensors are named, and whether it shows them at all, is for whoever made the archive to choose. It may have the methods
``encode_export`` (``[B, channels, N]`` to mean and scale ``[B, 2 * d_in, T]``) and ``decode_export`` (``[B, d_in, T]`` to sound).
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import ZipFile, is_zipfile

import torch
from torch import Tensor, nn

from sae_audio.errors import LatentSpaceError
from sae_audio.latent_spaces.loading import first_line
from sae_audio.latent_spaces.oobleck_weights import NOTHING, OobleckWeights, build, select

if TYPE_CHECKING:
    from diffusers import AutoencoderOobleck

PROBE = 16_384
"""Samples of the sound by which an archive is measured: 8 frames of the public networks."""
SAME = 1e-4
"""Largest difference, relative to the largest number, between a network and the same network in an archive."""


def is_archive(path: Path) -> bool:
    """Return whether a file is a TorchScript archive."""
    if not is_zipfile(path):
        return False
    with ZipFile(path) as file:
        return any(name.endswith("/constants.pkl") for name in file.namelist())


def open_archive(path: Path, device: str = "cpu") -> torch.jit.ScriptModule:
    """Load an archive; its code is in PyTorch's own restricted language.

    Raises
    ------
    LatentSpaceError
        The file is damaged.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript, in which the VAE is published
        try:
            return torch.jit.load(path, map_location=device)
        except Exception as error:  # what the archive's own code raises, too
            raise LatentSpaceError(f"{path} is not a readable TorchScript archive: {first_line(error)}") from None


def extract(path: Path) -> tuple[OobleckWeights, nn.Module] | None:
    """Take the weights out of an archive, whatever common prefix they have.

    Returns
    -------
    tuple of OobleckWeights and Module, or None
        The weights and the network built of them. None if they are not exactly those of an Oobleck, or the archive makes
        another sound of them (a tanh at its end shows in no tensor), and only its own code can run it.

    Raises
    ------
    LatentSpaceError
        The file is damaged; or there is neither an Oobleck in it nor code to run.
    """
    archive = open_archive(path)
    runs = hasattr(archive, "encode_export") and hasattr(archive, "decode_export")
    held = archive.state_dict()
    prefixes = {match[1]: NOTHING for key in held if (match := re.match(r"(|.*?\.)(?:en|de)coder\.", key))}
    try:
        weights = select(path, held, prefixes)
        model = build(weights)
    except LatentSpaceError:
        if runs:
            return None
        raise
    return (weights, model) if not runs or _same_sound(model, archive) else None


def sweep(channels: int) -> Tensor:
    """Return ``[1, channels, PROBE]``: a sweep at full scale, each channel ahead of the one before."""
    t = torch.arange(PROBE) / PROBE
    return torch.stack([torch.sin(2000 * (t + 0.1 * channel).square()) for channel in range(channels)])[None]


def _same_sound(model: AutoencoderOobleck, archive: torch.jit.ScriptModule) -> bool:
    sound = sweep(model.config.audio_channels)
    with torch.inference_mode():
        moments = model.encoder(sound)
        latents = moments[:, : moments.shape[1] // 2]
        try:
            pairs = [(moments, archive.encode_export(sound)), (model.decoder(latents), archive.decode_export(latents))]
        except (RuntimeError, torch.jit.Error):  # of the archive's own code
            return False
    return all(own.shape == its.shape and bool((own - its).abs().max() <= SAME * its.abs().max()) for own, its in pairs)
