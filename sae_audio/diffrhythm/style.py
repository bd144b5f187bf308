"""Styles as unit vectors: from a file, from a learnt name, or by MuQ-MuLan (arXiv 2501.01108) from words or a reference clip.

DiffRhythm's style is the joint embedding of music and text of MuQ-MuLan, 512 numbers of norm 1; whoever has such a vector needs
neither the package nor its weights (4.9 GB in three models, CC BY-NC 4.0). Étude-flow has learnt its styles by name instead.
"""

from __future__ import annotations

import difflib
from functools import cache
from os.path import expanduser
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sae_audio.audio import read
from sae_audio.diffrhythm.generator import Generator
from sae_audio.diffrhythm.sampler import NORM_TOLERANCE
from sae_audio.errors import ParameterError
from sae_audio.fitting import resample

MUQ = "OpenMuQ/MuQ-MuLan-large"
MUQ_DIM, MUQ_RATE, MUQ_SECONDS = 512, 24_000, 10
"""Size of its embeddings, and what it listens to: Hz and seconds."""
SOUNDS = (".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif")


def resolve_style(value: str, model: Generator) -> Tensor:
    """Return the style that a user names, for a given model.

    Parameters
    ----------
    value : str
        In this order: a path that ends in ``.npy``; for a model with named styles, one of them; for others, a path that ends like
        a sound file, or a description in words.
    model : Generator
        What will play it.

    Returns
    -------
    Tensor [1, style_dim]
        Unit vector on the model's device.

    Raises
    ------
    ParameterError
        The file is no such vector, the name is unknown (close ones are listed), the clip is too short, or ``muq`` is missing.
    AudioError
        The clip cannot be read.
    """
    device, suffix = model.latent_mean.device, Path(value).suffix.lower()
    if suffix == ".npy":
        return read_style(value, model.dit.config.style_dim).to(device)
    if model.style_names:
        if value not in model.style_names:
            raise ParameterError(_unknown(value, model.style_names))
        return model.style(value)
    embed = style_of_clip if suffix in SOUNDS else style_of_text
    return check_style(embed(value, device), model.dit.config.style_dim, f"the style of '{value}'")


def read_style(path: str | Path, size: int = MUQ_DIM) -> Tensor:
    """Read a unit vector from a ``.npy`` file.

    Parameters
    ----------
    path : path
        A float array ``[size]`` or ``[1, size]``.
    size : int
        Numbers wanted.

    Returns
    -------
    Tensor [1, size]
        float32.

    Raises
    ------
    ParameterError
        The file is missing or damaged, or its shape, type or norm is off.
    """
    path = Path(expanduser(path))
    if not path.is_file():
        raise ParameterError(f"style '{path}' does not exist; give a .npy file with a unit vector of {size} numbers")
    try:  # mapped: a header that promises terabytes costs nothing, and neither pickles nor archives are opened
        array = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError, TokenError) as error:  # TokenError: the header is not Python
        raise ParameterError(f"style '{path}' is not a .npy file of numbers, or it is damaged ({error}); save it anew") from None
    if array.dtype.kind != "f":
        raise ParameterError(f"style '{path}' holds {array.dtype}; save one array of floats with numpy.save")
    if array.shape not in ((size,), (1, size)):
        raise ParameterError(f"style '{path}' has shape {list(array.shape)}; this model's styles are [{size}] or [1, {size}]")
    return check_style(torch.from_numpy(array.astype(np.float32)).reshape(1, size), size, f"style '{path}'")


def check_style(style: Tensor, size: int, source: str) -> Tensor:
    """Return ``style [1, size]``; ``ParameterError`` if its shape is another, or its norm is not 1 within 0.01."""
    if tuple(style.shape) != (1, size):
        raise ParameterError(f"{source} has shape {list(style.shape)}; this model's styles are [1, {size}]")
    norm = float(style.norm())
    if not abs(norm - 1) <= NORM_TOLERANCE:
        remedy = "divide it by its norm" if 0 < norm < float("inf") else "it has to be finite and not all zero"
        raise ParameterError(f"{source} has norm {norm:.4g}; a style is a unit vector (norm 1 ± {NORM_TOLERANCE}): {remedy}")
    return style


def style_of_text(text: str, device: str | torch.device = "cpu") -> Tensor:
    """Return MuQ-MuLan's embedding ``[1, 512]`` of a description in English or Chinese, such as "calm piano, rain"."""
    if not text.strip():
        raise ParameterError("the style is empty; describe it in words, or give a .npy or a sound file")
    model = _muq(torch.device(device))
    with torch.no_grad():
        return model(texts=[text]).float()


def style_of_clip(path: str | Path, device: str | torch.device = "cpu") -> Tensor:
    """Return MuQ-MuLan's embedding ``[1, 512]`` of ten seconds from the middle of a sound file."""
    clip = middle_clip(path)
    model = _muq(torch.device(device))
    with torch.no_grad():
        return model(wavs=clip.to(device)).float()


def middle_clip(path: str | Path) -> Tensor:
    """Return what MuQ-MuLan hears of a sound file.

    Parameters
    ----------
    path : path
        A sound of at least 10 s.

    Returns
    -------
    Tensor [1, 240000]
        Ten seconds at 24 kHz, channels averaged, that begin 5 s before the middle, which is counted in whole seconds as in
        DiffRhythm's own command.

    Raises
    ------
    AudioError
        The file cannot be read.
    ParameterError
        It is shorter than 10 s.
    """
    sound = read(path)
    seconds = sound.samples.shape[1] / sound.sample_rate
    if seconds < MUQ_SECONDS:
        raise ParameterError(f"reference clip '{path}' lasts {seconds:.2f} s; it must be at least {MUQ_SECONDS} s")
    first = (int(seconds) // 2 - MUQ_SECONDS // 2) * sound.sample_rate
    mono = sound.samples[:, first : first + MUQ_SECONDS * sound.sample_rate].mean(0, keepdim=True)
    return resample(mono, sound.sample_rate, MUQ_RATE)


@cache
def _muq(device: torch.device) -> Any:
    try:
        from muq import MuQMuLan
    except ImportError as error:
        remedy = "install it with 'pip install muq', or give the style as a .npy file"
        raise ParameterError(f"a style from words or from a clip needs the package muq ({error}); {remedy}") from error
    try:
        return MuQMuLan.from_pretrained(MUQ).to(device).eval()
    # Of any of its three models; only the kind of error, as its text may hold requests.
    except (OSError, RuntimeError, ValueError) as error:
        raise ParameterError(
            f"{MUQ} could not be loaded ({type(error).__name__}); check the network, or give the style as a .npy file"
        ) from error


def _unknown(value: str, names: tuple[str, ...]) -> str:
    near = [name for name in names if value.lower() in name.lower()] if value.strip() else []
    near = (near or difflib.get_close_matches(value, names, cutoff=0.4))[:5]
    hint = f"did you mean {', '.join(near)}?" if near else f"it knows {len(names)} by name, {names[0]} to {names[-1]}"
    return f"style '{value}' is unknown to this model; {hint}"
