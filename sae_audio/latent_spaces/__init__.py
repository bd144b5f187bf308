"""Latent spaces: ``load_latent_space(name)`` finds the weights, imports the adapter and checks that the two belong together."""

from __future__ import annotations

import importlib
import re
from dataclasses import replace
from difflib import get_close_matches
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch

from sae_audio.errors import HubError, LatentSpaceError, ParameterError
from sae_audio.latent_spaces.base import Codec, Encoder, LatentSpace, layer_of
from sae_audio.latent_spaces.loading import is_index, read_config, shards
from sae_audio.latent_spaces.table import CONFIGS, SPACES, SpaceRow, generic_row

__all__ = ["DTYPES", "SPACES", "Codec", "Encoder", "LatentSpace", "SpaceRow", "check_precision", "convert", "load_latent_space"]

CHECKPOINTS = Path(__file__).resolve().parents[2] / "checkpoints"
"""Folder of the models that ship with the repository; the same whatever the working directory is."""
GENERIC = "hf:"
"""Prefix of the names of spaces that have no row: ``hf:user/model``."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Precisions by name."""


def load_latent_space(
    name: str,
    *,
    tap: str | None = None,
    layer: int | None = None,
    source: str | Path | None = None,
    revision: str | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    trust_remote_code: bool = False,
) -> LatentSpace:
    """Load a frozen model whose latents are ``[B, T, d_in]``.

    Parameters
    ----------
    name : str
        A key of ``SPACES``, for example ``etude-codec`` or ``encodec-24khz``; or ``hf:user/model`` for any checkpoint on the Hub
        whose transformers class is one of those supported.
    tap : str, optional
        Which tensor of the model counts as its latents; by default the first of the space's taps, or an encoder's middle layer.
    layer : int, optional
        Short for ``tap="layer N"``: the output of transformer block N of an encoder, 0 for the input of the first.
    source : str or Path, optional
        A folder (or single file) with the checkpoint in its public layout, or a Hub repository ``user/name``; by default the
        row's own.
    revision : str, optional
        Branch, tag or commit of a Hub repository. The space's ``spec.revision`` is the commit that it resolved to.
    device : str
        Where the model runs, for example ``cpu`` or ``cuda``.
    dtype : str
        ``float32``, or on an accelerator ``bfloat16`` or ``float16``; latents are float32 always.
    trust_remote_code : bool
        Run the Python code that comes with a checkpoint whose class transformers lacks (MERT with its CQT branch or relaxed
        attention). Only with a full commit as ``revision``, or from a folder.

    Returns
    -------
    LatentSpace
        In evaluation mode. ``isinstance(space, Codec)`` says whether its latents can be decoded back to sound,
        ``isinstance(space, Encoder)`` whether it has layers.

    Raises
    ------
    LatentSpaceError
        The name or the tap is unknown, a package is not installed, or the checkpoint is missing, out of reach or foreign.
    ParameterError
        Options that exclude each other, or a precision that the device does not have.

    Examples
    --------
    >>> SPACES["encodec-24khz"].taps
    ('encoder', 'quantized')
    >>> space = load_latent_space("etude-codec")
    >>> space.spec.tap, space.spec.frame_rate
    ('mean', 50.0)
    """
    tap = _tap(tap, layer)
    check_precision(dtype, device)
    row = _row(name)
    if row is None:
        folder, repo, commit = _find(name, _probe(name), source, revision)
        row = generic_row(repo, read_config(folder).get("model_type"))
    _check_tap(name, row, tap)
    _check_packages(name, row)
    folder, repo, commit = _find(name, row, source, revision)
    options = {}
    if trust_remote_code:
        _check_trust(name, row, revision, commit)
        options["trust_remote_code"] = True
    _check_type(name, row, folder)
    adapter = getattr(importlib.import_module(f"sae_audio.latent_spaces.{row.module}"), row.adapter)
    with torch.random.fork_rng(devices=[]):  # building a network draws initial weights that the checkpoint then replaces
        space = adapter.load(folder, device=device, tap=tap or (row.taps[0] if row.taps else None), **options)
    space.spec = replace(space.spec, name=name, repo=repo, revision=commit)
    space.dtype = DTYPES[dtype]
    if not name.startswith(GENERIC):
        _check_geometry(name, row, space)
    return space


def convert(name: str, source: str | Path, out: str | Path) -> list[Path]:
    """Write the checkpoint of an Oobleck VAE, of any published layout, as a diffusers folder.

    Parameters
    ----------
    name : str
        ``stable-audio-vae`` or ``diffrhythm-vae``: what the checkpoint is to be.
    source : str or Path
        Its folder or file.
    out : str or Path
        Folder for ``config.json`` and the weights; made if it does not exist.

    Returns
    -------
    list of Path
        The files written.

    Raises
    ------
    LatentSpaceError
        There is no such checkpoint, or it belongs to another space, or it cannot be converted.
    OutputError
        The folder cannot be written to.
    """
    row = SPACES[name]
    _check_packages(name, row)
    found, *_ = _find(name, row, Path(source), None)
    module = importlib.import_module(f"sae_audio.latent_spaces.{row.module}")
    return module.convert(found, out, partial(_check_geometry, name, row))


def _tap(tap: str | None, layer: int | None) -> str | None:
    if layer is None:
        return tap
    if tap is not None:
        raise ParameterError(f"both tap '{tap}' and layer {layer} were asked for; give one")
    return f"layer {layer}"


def check_precision(dtype: str, device: str) -> None:
    """Raise ``ParameterError`` unless the device is there and has the precision, both by name."""
    if dtype not in DTYPES:
        raise ParameterError(f"dtype '{dtype}' is unknown; known are {', '.join(DTYPES)}")
    try:
        tried = torch.zeros(1, device=device)
        tried.cpu()  # "meta" is there, and gives nothing back
    except (RuntimeError, AssertionError):
        raise ParameterError(f"device '{device}' is not available here; use cpu") from None
    if dtype != "float32" and tried.device.type == "cpu":
        raise ParameterError(f"dtype '{dtype}' is for accelerators; on a CPU use float32")


def _row(name: str) -> SpaceRow | None:
    """Return the row of a space; None for one named by its repository."""
    if name in SPACES:
        return SPACES[name]
    if re.fullmatch(f"{GENERIC}[^/ ]+/[^/ ]+", name):
        return None
    near = get_close_matches(name.lower(), SPACES, n=1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    raise LatentSpaceError(f"latent space '{name}' is unknown; {hint}Known: {', '.join(SPACES)}, hf:user/model")


def _probe(name: str) -> SpaceRow:
    """Return a row that fetches only what says which class a repository is for."""
    return SpaceRow(
        "",
        "",
        name.removeprefix(GENERIC),
        sample_rate=0,
        channels=0,
        hop_length=0,
        d_in=0,
        licence="",
        files=CONFIGS,
        weights=("config.json",),
    )


def _check_tap(name: str, row: SpaceRow, tap: str | None) -> None:
    if tap is None or tap in row.taps:
        return
    if not row.taps:  # how many layers there are is known once the checkpoint is read
        layer_of(tap)
        return
    near = get_close_matches(tap, row.taps, n=1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    raise LatentSpaceError(f"'{name}' has no tap '{tap}'; {hint}Known: {', '.join(row.taps)}")


def _check_packages(name: str, row: SpaceRow) -> None:
    missing = [package for package in row.packages if find_spec(package) is None]
    if missing:
        raise LatentSpaceError(f"'{name}' needs {', '.join(missing)}; install with: pip install {' '.join(missing)}")


def _check_type(name: str, row: SpaceRow, folder: Path) -> None:
    """Refuse a checkpoint of another class, which could well load."""
    if row.model_type and (found := read_config(folder).get("model_type")) != row.model_type:
        raise LatentSpaceError(
            f"{folder} holds a model of type {found!r}, but '{name}' is one of '{row.model_type}'; it belongs to another space"
        )


def _check_trust(name: str, row: SpaceRow, revision: str | None, commit: str | None) -> None:
    if not row.remote_code:
        raise ParameterError(f"'{name}' never runs code that comes with a checkpoint; leave trust_remote_code out")
    if commit is not None and revision != commit:
        raise ParameterError(
            f"trust_remote_code runs Python from {row.source}; read that code and pass the commit that you have read, "
            f"in full: revision='{commit}'"
        )


def _find(name: str, row: SpaceRow, source: str | Path | None, revision: str | None) -> tuple[Path, str, str | None]:
    """Return the folder or file of the checkpoint, what to call it in the spec, and the commit of a Hub repository."""
    if source is None and row.shipped:
        if revision is not None:
            raise LatentSpaceError(f"revision '{revision}' was asked of '{name}', which ships with the code; leave it out")
        folder = CHECKPOINTS / row.source
        if not folder.is_dir():
            raise LatentSpaceError(
                f"'{name}' ships in the repository's checkpoints/, but {folder} does not exist; "
                "run from a clone of the repository or pass source=FOLDER"
            )
        return folder, f"checkpoints/{row.source}", None
    wanted = str(row.source if source is None else source)
    path, repository = _path(wanted), _is_repository(source, wanted)
    # A folder may be called like a repository; the space's own is never one, nor is anything with a revision.
    if source is not None and path is not None and not (repository and revision is not None):
        if revision is not None:
            raise LatentSpaceError(f"revision '{revision}' was asked of {wanted}; only Hub repositories have revisions")
        path = path.absolute()  # what is trained on it is to find it again from any working directory
        return _weights_in(row, path), str(path), None
    if not repository:
        raise LatentSpaceError(
            f"'{name}' is to be loaded from {wanted}, which is not a folder or file; pass one, or a Hub repository"
        )
    folder = _download(name, row, wanted, revision or (row.revision if source is None else None))
    return _weights_in(row, folder), wanted, folder.name


def _path(wanted: str) -> Path | None:
    """Return a path that exists; None for anything else."""
    try:
        path = Path(wanted).expanduser()
        return path if wanted and path.exists() else None
    except (OSError, RuntimeError):  # a name too long for the file system, or the home of nobody
        return None


def _is_repository(source: str | Path | None, wanted: str) -> bool:
    return not isinstance(source, Path) and wanted.count("/") == 1 and not wanted.startswith((".", "/", "~"))


def _weights_in(row: SpaceRow, folder: Path) -> Path:
    """Return the file of a checkpoint that is nothing but it: one folder may hold several such spaces. Else the folder."""
    if folder.is_file() and row.model_type:  # transformers wants the folder, whose configuration says what the weights are
        return folder.parent
    named = [] if row.files else [folder / weights for weights in row.weights]
    return next((file for file in named if file.is_file()), folder)


def _download(name: str, row: SpaceRow, repo: str, revision: str | None) -> Path:
    """Fetch the checkpoint's files into the Hub's cache; the folder returned is named after the commit."""
    from sae_audio.hub_client import fetch

    try:
        folder = fetch(repo, row.files, row.weights, revision)
        found = next((folder / weights for weights in row.weights if (folder / weights).is_file()), None)
        if found and is_index(found):
            fetch(repo, shards(found), (found.name,), folder.name)
    except HubError as error:
        raise LatentSpaceError(f"'{name}' could not be fetched: {error}; or pass source=FOLDER with {_files(row)}") from error
    if not found:
        raise LatentSpaceError(
            f"Hub repository '{repo}' has no {' or '.join(row.weights)}; '{name}' is loaded from {_files(row)}"
        )
    return folder


def _files(row: SpaceRow) -> str:
    return " and ".join(dict.fromkeys([*row.files, " or ".join(row.weights)]))


def _check_geometry(name: str, row: SpaceRow, space: LatentSpace) -> None:
    for field in ("sample_rate", "channels", "hop_length"):
        expected, found = getattr(row, field), getattr(space.spec, field)
        if found != expected:
            raise LatentSpaceError(
                f"the checkpoint {space.spec.repo} has {field} {found}, but '{name}' has {expected}; it belongs to another space"
            )
