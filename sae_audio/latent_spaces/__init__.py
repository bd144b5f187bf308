"""Every latent space by name: one row where only numbers differ, one file where ``encode`` differs."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

import torch

from sae_audio.errors import LatentSpaceError
from sae_audio.latent_spaces.base import Codec, LatentSpace

__all__ = ["SPACES", "Codec", "LatentSpace", "SpaceRow", "load_latent_space"]

CHECKPOINTS = Path(__file__).resolve().parents[2] / "checkpoints"
"""Folder of the models that ship with the repository; the same whatever the working directory is."""


@dataclass(frozen=True)
class SpaceRow:
    """What is known of a latent space before anything is imported or downloaded."""

    module: str
    """Module of the adapter; imported only when the space is loaded."""
    adapter: str
    """Class in that module. ``adapter.load(folder, device=…)`` returns a space; with several taps it also takes ``tap=``."""
    source: str
    """Where the weights come from unless told: a Hub repository, or a folder of the repository's ``checkpoints/``."""
    taps: tuple[str, ...]
    """Tensors of the model that can serve as latents; the first is the default."""
    sample_rate: int
    """Samples per second, in Hz."""
    channels: int
    """Audio channels: 1 or 2."""
    hop_length: int
    """Audio samples per latent frame."""
    d_in: int
    """Channels of one latent frame."""
    licence: str
    """Licence of the weights."""
    packages: tuple[str, ...] = ()
    """Packages beyond the base installation, by the name that both ``import`` and ``pip`` know."""
    shipped: bool = False
    """Whether ``source`` is a folder of ``checkpoints/`` rather than a Hub repository."""
    files: tuple[str, ...] = ("config.json", "model.safetensors")
    """Files to fetch from the Hub repository; glob patterns."""


def _encodec(rate: str, sample_rate: int, channels: int, hop_length: int, licence: str) -> SpaceRow:
    return SpaceRow(
        module="sae_audio.latent_spaces.encodec",
        adapter="Encodec",
        source=f"facebook/encodec_{rate}",
        taps=("encoder", "quantized"),
        sample_rate=sample_rate,
        channels=channels,
        hop_length=hop_length,
        d_in=128,
        licence=licence,
        packages=("transformers",),
    )


SPACES: dict[str, SpaceRow] = {
    "etude-codec": SpaceRow(
        module="sae_audio.latent_spaces.etude",
        adapter="EtudeCodec",
        source="etude-codec",
        taps=("mean",),
        sample_rate=16_000,
        channels=1,
        hop_length=320,
        d_in=64,
        licence="Apache-2.0",
        shipped=True,
    ),
    "encodec-24khz": _encodec("24khz", 24_000, 1, 320, "not stated on the card"),
    "encodec-32khz": _encodec("32khz", 32_000, 1, 640, "CC BY-NC 4.0 (MusicGen)"),
    "encodec-48khz": _encodec("48khz", 48_000, 2, 320, "not stated on the card"),
}
"""Known latent spaces by the name that ``load_latent_space`` takes."""


def load_latent_space(
    name: str,
    *,
    tap: str | None = None,
    source: str | Path | None = None,
    revision: str | None = None,
    device: str = "cpu",
) -> LatentSpace:
    """Load a frozen model whose latents are ``[B, T, d_in]``.

    Parameters
    ----------
    name : str
        A key of ``SPACES``, for example ``etude-codec`` or ``encodec-24khz``.
    tap : str, optional
        Which tensor of the model counts as its latents; by default the first of the space's taps.
    source : str or Path, optional
        A folder with the checkpoint's public files, or a Hub repository ``user/name``; by default the row's own.
    revision : str, optional
        Branch, tag or commit of a Hub repository. The space's ``spec.revision`` is the commit that it resolved to.
    device : str
        Where the model runs, for example ``cpu`` or ``cuda``.

    Returns
    -------
    LatentSpace
        In evaluation mode. ``isinstance(space, Codec)`` says whether its latents can be decoded back to sound.

    Raises
    ------
    LatentSpaceError
        The name or the tap is unknown, a package is not installed, or the checkpoint is missing, out of reach or foreign.

    Examples
    --------
    >>> SPACES["encodec-24khz"].taps
    ('encoder', 'quantized')
    >>> space = load_latent_space("etude-codec")
    >>> space.spec.tap, space.spec.frame_rate
    ('mean', 50.0)
    """
    row = _row(name)
    _check_tap(name, row, tap)
    _check_packages(name, row)
    folder, repo, commit = _find(name, row, source, revision)
    options = {} if tap in (None, row.taps[0]) else {"tap": tap}
    adapter = getattr(importlib.import_module(row.module), row.adapter)
    with torch.random.fork_rng(devices=[]):  # building a network draws initial weights that the checkpoint then replaces
        space = adapter.load(folder, device=device, **options)
    space.spec = replace(space.spec, name=name, repo=repo, revision=commit)
    _check_geometry(name, row, space)
    return space


def _row(name: str) -> SpaceRow:
    if name not in SPACES:
        near = get_close_matches(name.lower(), SPACES, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise LatentSpaceError(f"latent space '{name}' is unknown; {hint}Known: {', '.join(SPACES)}")
    return SPACES[name]


def _check_tap(name: str, row: SpaceRow, tap: str | None) -> None:
    if tap is not None and tap not in row.taps:
        near = get_close_matches(tap, row.taps, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise LatentSpaceError(f"'{name}' has no tap '{tap}'; {hint}Known: {', '.join(row.taps)}")


def _check_packages(name: str, row: SpaceRow) -> None:
    missing = [package for package in row.packages if find_spec(package) is None]
    if missing:
        raise LatentSpaceError(f"'{name}' needs {', '.join(missing)}; install with: pip install {' '.join(missing)}")


def _find(name: str, row: SpaceRow, source: str | Path | None, revision: str | None) -> tuple[Path, str, str | None]:
    """Return the folder that holds the checkpoint, what to call it in the spec, and the commit of a Hub repository."""
    if source is None and row.shipped:
        folder = CHECKPOINTS / row.source
        if not folder.is_dir():
            raise LatentSpaceError(
                f"'{name}' ships in the repository's checkpoints/, but {folder} does not exist; "
                "run from a clone of the repository or pass source=FOLDER"
            )
        return folder, f"checkpoints/{row.source}", None
    wanted = str(row.source if source is None else source)
    if Path(wanted).expanduser().is_dir():
        if revision is not None:
            raise LatentSpaceError(
                f"revision '{revision}' was asked of the folder {wanted}; only Hub repositories have revisions"
            )
        return Path(wanted).expanduser(), wanted, None
    if isinstance(source, Path) or wanted.count("/") != 1 or wanted[0] in "./~":
        raise LatentSpaceError(
            f"'{name}' is to be loaded from {wanted}, which is not a folder; pass a folder or a Hub repository"
        )
    folder = _download(name, row, wanted, revision)
    return folder, wanted, folder.name


def _download(name: str, row: SpaceRow, repo: str, revision: str | None) -> Path:
    """Fetch the checkpoint's files into the Hub cache; the folder returned is named after the commit."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HTTPError

    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=list(row.files)))
    # What the client lets out: HTTP, file and offline errors, broken transfers (RuntimeError), malformed ids (ValueError).
    except (HTTPError, OSError, RuntimeError, ValueError) as error:
        at = f" at revision '{revision}'" if revision else ""
        # Only the kind of error: the client's own text runs over many lines and can hold request headers and signed addresses.
        raise LatentSpaceError(
            f"'{name}' could not be fetched from Hub repository '{repo}'{at} ({type(error).__name__}); check name, network and "
            f"access, run `hf download {repo}` where there is a network, or pass source=FOLDER with {' and '.join(row.files)}"
        ) from error


def _check_geometry(name: str, row: SpaceRow, space: LatentSpace) -> None:
    for field in ("sample_rate", "channels", "hop_length"):
        expected, found = getattr(row, field), getattr(space.spec, field)
        if found != expected:
            raise LatentSpaceError(
                f"the checkpoint {space.spec.repo} has {field} {found}, but '{name}' has {expected}; it belongs to another space"
            )
