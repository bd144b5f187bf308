"""Generators by name, folder or Hub repository, and whose latents they make."""

from __future__ import annotations

from collections.abc import Sequence
from os.path import expanduser
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from sae_audio.diffrhythm.checkpoint import load_diffrhythm, load_generator
from sae_audio.diffrhythm.generator import Generator
from sae_audio.diffrhythm.style import resolve_style
from sae_audio.errors import HubError, LatentSpaceError, ParameterError
from sae_audio.latent_spaces import CHECKPOINTS, DTYPES, SPACES, check_precision
from sae_audio.spec import HUB_ID, LatentSpec

ETUDE_FLOW = "etude-flow"
"""The shipped generator."""
WEIGHT_FILES = ("cfm_model.pt", "model.safetensors")
"""Of DiffRhythm, and of our own format."""
ROUNDING = 1e-6
"""Share of a frame that a product of seconds and frame rate may fall short of a whole one."""


class Model(NamedTuple):
    """A generator, and whose latents it makes."""

    generator: Generator
    """The network."""
    space: str
    """Latent space, a key of ``SPACES``."""
    name: str
    """What it was loaded as."""
    path: Path
    """Folder or file of its checkpoint."""

    @property
    def frame_rate(self) -> float:
        """Latent frames per second, in Hz."""
        row = SPACES[self.space]
        return row.sample_rate / row.hop_length

    @property
    def longest(self) -> float:
        """Longest song, in seconds."""
        return self.generator.dit.config.max_frames / self.frame_rate


def load_model(
    source: str | Path = ETUDE_FLOW,
    *,
    revision: str | None = None,
    release: str | None = None,
    device: str = "cpu",
    dtype: str = "float32",
) -> Model:
    """Load a generator.

    Parameters
    ----------
    source : str or path
        ``etude-flow``, which ships with the repository; a folder with ``cfm_model.pt`` (DiffRhythm) or with ``config.json`` and
        ``model.safetensors`` (our own); or a Hub repository such as ``ASLP-lab/DiffRhythm-1_2``.
    revision : str, optional
        Branch, tag or commit of a Hub repository.
    release : str, optional
        Of a DiffRhythm checkpoint whose path does not say it, such as ``DiffRhythm-base``; see ``load_diffrhythm``.
    device : str
        Where it runs.
    dtype : str
        Precision of the network: ``float32``, or on an accelerator ``bfloat16`` or ``float16``. Latents are float32 always.

    Raises
    ------
    LatentSpaceError
        There is no such checkpoint, or it is damaged or foreign, or of another release than asked.
    ParameterError
        The release is unknown or asked of another kind of model, or the device lacks the precision.
    """
    check_precision(dtype, device)
    model = _load(source, revision, device, release)
    model.generator.dit.to(DTYPES[dtype])
    return model


def _load(source: str | Path, revision: str | None, device: str, release: str | None) -> Model:
    name = str(source)
    path = CHECKPOINTS / ETUDE_FLOW if name == ETUDE_FLOW else Path(expanduser(name))
    if not path.exists() and HUB_ID.fullmatch(name):
        path = _download(name, revision)
    elif revision is not None:
        raise LatentSpaceError(f"revision '{revision}' was asked of {name}; only Hub repositories have revisions")
    if path.is_file() or (path / WEIGHT_FILES[0]).is_file():
        return Model(load_diffrhythm(path, release=release, device=device), "diffrhythm-vae", name, path)
    if not (path / WEIGHT_FILES[1]).is_file():
        raise LatentSpaceError(
            f"there is no generator at {path}: it holds neither {' nor '.join(WEIGHT_FILES)}; give its folder or Hub id"
        )
    if release:
        raise ParameterError(f"'{release}' was asked of {name}, which is no DiffRhythm checkpoint; leave it out")
    return Model(load_generator(path, device=device), "etude-codec", name, path)


def check_fits(model: Model, spec: LatentSpec) -> None:
    """Raise ``ParameterError`` unless a latent space's latents are those that a generator makes."""
    row = SPACES[model.space]
    makes = {"d_in": model.generator.mel_dim, "sample_rate": row.sample_rate, "hop_length": row.hop_length}
    wrong = [f"{name} {getattr(spec, name)} instead of {value}" for name, value in makes.items() if getattr(spec, name) != value]
    if wrong:
        raise ParameterError(
            f"'{model.name}' makes latents of '{model.space}', but '{spec.name}' has {', '.join(wrong)}; "
            f"use a bundle of '{model.space}'"
        )


def styles_of(generator: Generator, style: str | Sequence[str] | Tensor) -> Tensor:
    """Return style vectors ``[B, style_dim]``: as they are, or what ``resolve_style`` finds for one name or several."""
    if isinstance(style, Tensor):
        return style.float()
    return torch.cat([resolve_style(one, generator) for one in ([style] if isinstance(style, str) else style)])


def frames_of(model: Model, seconds: float | None) -> int:
    """Return the whole latent frames of a song, for None of the longest; ``ParameterError`` if none, or more than can be made."""
    most = model.generator.dit.config.max_frames
    if seconds is None:
        return most
    frames = int(min(seconds, 1e9) * model.frame_rate + ROUNDING) if seconds > 0 else 0
    if not 1 <= frames <= most:
        raise ParameterError(
            f"{seconds:g} s is {frames} latent frames; '{model.name}' makes 1 to {most}, at most {model.longest:.2f} s"
        )
    return frames


def _download(repo: str, revision: str | None) -> Path:
    """Fetch a generator into the Hub's cache and return its folder."""
    from sae_audio.hub_client import fetch

    try:
        return fetch(repo, ("config.json", "vocab.json"), WEIGHT_FILES, revision)
    except HubError as error:
        raise LatentSpaceError(f"no generator could be fetched: {error}; or give a folder") from error
