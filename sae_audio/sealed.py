"""A sealed folder: small named files and a manifest with the sha256 of each. Written whole or not at all, checked when read.

    write   files -> .name.partial-1a2b3c4d/ (fsync) -> rename to name/
    read    names, links and hashes are checked before a byte is handed out

Nothing here knows what the files mean; ``bundle`` does.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import shutil
import uuid
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

from sae_audio.errors import BundleError, one_line

FORMAT = "sae_audio bundle"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
CARD = "README.md"
"""The one file that people edit, on the Hub's page too: a change of it is told, not refused."""
MAX_FILES = 20
"""Most files of a bundle, the manifest included."""
MAX_NAME = 230
"""Most bytes of a bundle's name: what stands beside it while it is written has the name and some more."""
ALLOWED = re.compile(r"(figures/)?[A-Za-z0-9][A-Za-z0-9_-]*\.(json|safetensors|png|md)")
PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz")
"""File types that can run code when they are loaded."""
DOWNLOAD_NOTES = ".cache/huggingface/"
"""Where `hf download --local-dir` keeps notes, in the folder itself."""
AGAIN = "copy or download the bundle again"


def to_json(value: object) -> bytes:
    """Return JSON with sorted keys, so that equal values give equal bytes; of a name that is no text the escapes of JSON."""
    text = json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return text.encode(errors="backslashreplace")


def manifest_of(files: Mapping[str, bytes]) -> bytes:
    """Return the manifest: format, version and sha256 of every file."""
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    return to_json({"format": FORMAT, "format_version": FORMAT_VERSION, "files": sums})


def write_sealed(folder: str | os.PathLike, files: Mapping[str, bytes]) -> Path:
    """Write a sealed folder; it is complete or, if anything fails, as it was before.

    Parameters
    ----------
    folder : path
        Where. Missing parents are made. A sealed folder is replaced; any other folder that is not empty is refused.
    files : dict of bytes
        Content by name, ``ALLOWED`` names only, without the manifest.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    BundleError
        The folder holds something else, there are too many files, a name is not allowed, or the disk refuses.
    """
    folder = Path(folder).absolute()
    wrong = [name for name in files if not ALLOWED.fullmatch(name) or name == MANIFEST]
    if wrong or len(files) >= MAX_FILES:
        raise BundleError(
            f"a bundle has at most {MAX_FILES} json, safetensors, png and md files, not {len(files) + 1} with {wrong}"
        )
    check_replaceable(folder)
    partial = folder.with_name(f".{folder.name}.partial-{uuid.uuid4().hex[:8]}")
    try:
        for left in folder.parent.glob(f".{glob.escape(folder.name)}.partial-*"):  # by a save that was killed
            shutil.rmtree(left, ignore_errors=True)
        for name, content in {**files, MANIFEST: manifest_of(files)}.items():
            _write(partial / name, content)
        _swap(partial, folder)
    except OSError as error:
        raise BundleError(f"cannot write the bundle {folder}: {one_line(error)}; check space and permissions") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def read_sealed(folder: str | os.PathLike) -> dict[str, bytes]:
    """Read a sealed folder and check it against its manifest.

    Parameters
    ----------
    folder : path
        A folder that ``write_sealed`` wrote, or a copy of one. Files whose names begin with a dot are not looked at, nor is
        what else a Hub repository holds (its licence, samples) where the folder is a download of one.

    Returns
    -------
    dict of bytes
        Content of every file by name, without the manifest.

    Raises
    ------
    BundleError
        No such folder, not a bundle, newer format, a file missing, too many, changed, linked away or of a kind that can run code.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BundleError(_not_a_folder(folder))
    paths = {path.relative_to(folder).as_posix(): path for path in _files(folder)}
    _check_kinds(folder, paths)
    sums = _manifest(folder, paths)
    if missing := sorted(sums.keys() - paths.keys()):
        raise BundleError(f"{folder} lacks {', '.join(missing)}, which its manifest lists; {AGAIN}")
    extra = sorted(paths.keys() - sums.keys() - {MANIFEST})
    if extra and not _is_download(folder):
        raise BundleError(f"{folder} holds {', '.join(extra)}, which its manifest does not list; move it elsewhere")
    files = {name: _read(paths[name]) for name in sorted(sums)}
    wrong = damaged(files, sums)
    if others := [name for name in wrong if name != CARD]:
        raise BundleError(
            f"{folder}/{', '.join(others)} is damaged or was edited: its sha256 is not the one in {MANIFEST}; {AGAIN}, "
            "or run sae_audio.sealed.reseal on the folder if you edited it on purpose"
        )
    if wrong:
        warnings.warn(f"{folder}/{CARD} was edited after the bundle was made; the rest is as its manifest says", stacklevel=2)
    return files


def damaged(files: Mapping[str, bytes], sums: Mapping[str, str]) -> list[str]:
    """Return the names of the files whose sha256 is not the one given."""
    return [name for name, content in files.items() if hashlib.sha256(content).hexdigest() != sums[name]]


def _is_download(folder: Path) -> bool:
    """Whether ``huggingface_hub`` put the folder there: in its cache, or anywhere with its own notes in it."""
    return bool(_blobs(folder)) or (folder / DOWNLOAD_NOTES).is_dir()


def _blobs(folder: Path) -> list[Path]:
    """Return where the Hub's cache keeps the files of a snapshot: the repository's own and those shared; nothing elsewhere."""
    here = folder.resolve()
    return [parent / "blobs" for parent in here.parents[1:3]] if here.parent.name == "snapshots" else []


def reseal(folder: str | os.PathLike) -> None:
    """Write the manifest of a bundle anew after its files, the model card for instance, were edited on purpose."""
    folder = Path(folder)
    if not folder.is_dir():
        raise BundleError(_not_a_folder(folder))
    paths = {path.relative_to(folder).as_posix(): path for path in _files(folder)}
    _manifest(folder, paths)
    write_sealed(folder, {name: _read(path) for name, path in paths.items() if name != MANIFEST})


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f"cannot read {path}: {one_line(error)}; check its permissions") from error


def _swap(new: Path, folder: Path) -> None:
    """Put ``new`` in the place of ``folder``; what was there goes aside first, comes back on failure, and is removed last."""
    previous = _previous(folder)
    if folder.exists():
        shutil.rmtree(previous, ignore_errors=True)
        folder.rename(previous)
    try:
        new.rename(folder)
    except BaseException:
        if previous.exists():
            previous.rename(folder)
        raise
    shutil.rmtree(previous, ignore_errors=True)


def _previous(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.previous")


def check_replaceable(folder: Path) -> None:
    """Let only a missing or empty folder, or one with nothing but a bundle in it, as saved or downloaded, be replaced."""
    if (size := len(os.fsencode(folder.name))) > MAX_NAME:  # told now, not after the work
        raise BundleError(f"{folder} has a name of {size} bytes; a bundle's has at most {MAX_NAME}: choose a shorter one")
    if not os.path.lexists(folder):
        return
    if folder.is_symlink() or not folder.is_dir():
        raise BundleError(f"{folder} exists and is not a folder; save the bundle somewhere else")
    paths = {path.relative_to(folder).as_posix(): path for path in _files(folder, hidden=True)}
    if not paths and not any(folder.iterdir()):
        return
    notes = {name for name in paths if name.startswith(DOWNLOAD_NOTES)}
    hubs = notes | {".gitattributes"} if notes else notes  # the Hub makes one in every repository
    try:
        other = sorted(paths.keys() - _manifest(folder, paths).keys() - {MANIFEST} - hubs)
    except BundleError:
        other = sorted(paths) or ["folders"]
    if other:
        raise BundleError(
            f"{folder} holds {other[0]}, which is no part of a bundle and would be lost; save to a new or empty folder"
        )


def _files(folder: Path, hidden: bool = False) -> Iterator[Path]:
    """Every file below a folder; linked folders count as files, so that they are seen and not entered."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") and not hidden:
            continue
        if path.is_dir() and not path.is_symlink():
            yield from _files(path, hidden)
        else:
            yield path


def _check_kinds(folder: Path, paths: Mapping[str, Path]) -> None:
    """Refuse links that lead out of the bundle, devices and pipes, and files that can run code."""
    blobs = _blobs(folder)
    for name, path in paths.items():
        if path.is_symlink() and not any(Path(os.path.realpath(path)).is_relative_to(kept) for kept in blobs):
            raise BundleError(f"{folder}/{name} is a link to {path.readlink()}; a bundle holds plain files: {AGAIN}")
        if not path.is_file():
            raise BundleError(f"{folder}/{name} is not a plain file; {AGAIN}")
        if path.suffix in PICKLES:
            raise BundleError(
                f"{folder} holds {name}, a file type that can run code; a bundle is safetensors and JSON only: {AGAIN}"
            )


def _manifest(folder: Path, paths: Mapping[str, Path]) -> dict[str, str]:
    """Read and check the manifest; returns sha256 by name."""
    if MANIFEST not in paths:
        raise BundleError(f"{folder} is not a sae_audio bundle: {_foreign(folder, paths)}")
    return read_manifest(_read(paths[MANIFEST]), str(folder))


def read_manifest(content: bytes, where: str) -> dict[str, str]:
    """Return the sha256 of every file by name; ``BundleError`` names ``where`` if this is no manifest of a bundle."""
    try:
        manifest = json.loads(content)
        form, version, sums = manifest["format"], manifest["format_version"], dict(manifest["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{where}/{MANIFEST} is not the manifest of a bundle ({one_line(error)}); {AGAIN}") from error
    if form != FORMAT:
        raise BundleError(f"{where}/{MANIFEST} says the format is {form!r}, expected {FORMAT!r}; give a bundle's folder")
    if version != FORMAT_VERSION:
        raise BundleError(
            f"{where} has format version {version!r}, this program reads {FORMAT_VERSION}; upgrade sae-audio, "
            f"or for a bundle on the Hub give the revision '{tag_of(FORMAT_VERSION)}'"
        )
    for name in sums:
        if not ALLOWED.fullmatch(name):
            raise BundleError(f"{where}/{MANIFEST} lists {name!r}, which cannot be a file of a bundle; {AGAIN}")
    return sums


def tag_of(version: int) -> str:
    """Return the Hub tag that points at the newest bundle of a format version."""
    return f"format-{version}"


def _not_a_folder(folder: Path) -> str:
    if folder.exists():
        return f"{folder} is a file; give the folder of a bundle"
    previous = _previous(folder.absolute())
    if previous.exists():
        return f"there is no {folder}: a save was interrupted and left {previous}; rename it to {folder.name}"
    return f"there is no folder {folder}; give the folder of a bundle"


def _foreign(folder: Path, paths: Mapping[str, Path]) -> str:
    """Say what a folder without a manifest is, and what to do with it."""
    if not paths:
        return "it is empty; give the folder that train.py wrote"
    if {"cfg.json", "sae_weights.safetensors"} <= paths.keys() and "probes.safetensors" not in paths:
        return (
            "it is an SAE in SAELens' format, without probes, controls and atlas; from_saelens of sae_audio.sae.saelens reads it"
        )
    if "config.json" in paths and re.search(rb'"(model_type|architectures)"', _read(paths["config.json"])):
        return "it is a transformers model; give the folder that train.py wrote"
    return f"it has no {MANIFEST}, found {', '.join(list(paths)[:4])}; give the folder that train.py wrote"
