"""Where recordings come from: folders of sound files, clips of the étude corpus, or anything shaped like ``Source``."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from sae_audio.activations.store import SPLITS
from sae_audio.audio import MAX_MINUTES, Sound, read
from sae_audio.errors import DataError

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif")


class Recording(NamedTuple):
    """What a source loads."""

    sound: Sound
    """The audio at its own rate and channels."""
    f0: Tensor | None = None
    """[T'] exact fundamental in Hz, NaN where there is no single pitch; None: the pitch tracker measures it."""
    f0_rate: float = 0.0
    """Frames per second of ``f0``, in Hz; frame ``i`` is centred at ``(i + 1/2) / f0_rate`` seconds."""


class Source(Protocol):
    """A recording that is loaded when its turn comes."""

    @property
    def name(self) -> str:
        """Stable and unique: decides the split and what a resumed extraction need not do again."""

    @property
    def split(self) -> str | None:
        """``train``, ``validation``, ``test``, or None to go by the hash of the name."""

    @property
    def version(self) -> str:
        """Changes when the content changes; a recording of another version is extracted again. Constant during a run."""

    def load(self) -> Recording:
        """Return the audio; a ``SaeAudioError`` skips the recording."""


@dataclass(frozen=True)
class StoredSource:
    """What every recording has that is kept somewhere as sound; the fields are those of ``Source``."""

    name: str
    version: str
    split: str | None = field(default=None, kw_only=True)
    max_minutes: float = field(default=MAX_MINUTES, kw_only=True)
    """Longer recordings are skipped, in minutes."""


@dataclass(frozen=True)
class AudioSource(StoredSource):
    """A sound file; ``audio_sources`` finds them, named by their path, of a version that is size and time of the last change."""

    path: Path
    """The file."""

    def load(self) -> Recording:
        """Read the file."""
        return Recording(read(self.path, max_minutes=self.max_minutes))


@dataclass(frozen=True)
class ClipSource:
    """A clip of the étude corpus, rendered when its turn comes; its exact pitch replaces the tracker's."""

    clip: Any
    """Has ``name``, ``split``, ``render() -> [N]`` and ``f0 [T']``."""
    sample_rate: int = 16_000
    """Of the rendered audio, in Hz."""
    frame_rate: float = 50.0
    """Of ``f0``, in Hz."""
    version: str = ""
    """Changes when the same name comes to mean another sound."""

    @property
    def name(self) -> str:
        """Name of the clip."""
        return self.clip.name

    @property
    def split(self) -> str | None:
        """Split of the clip."""
        return self.clip.split

    def load(self) -> Recording:
        """Render the clip."""
        samples = torch.as_tensor(self.clip.render(), dtype=torch.float32)
        return Recording(Sound(samples[None], self.sample_rate), torch.as_tensor(self.clip.f0).float(), self.frame_rate)


def audio_sources(paths: str | Path | Iterable[str | Path], *, max_minutes: float = MAX_MINUTES) -> list[AudioSource]:
    """Find sound files (wav, flac, ogg, mp3, aiff) in folders, recursively, and take files as they are.

    Parameters
    ----------
    paths : path or iterable of paths
        Folders and files. A file's name is its path relative to its folder, with the folder's own name in front when there is
        more than one path. Hidden files and folders are left out. In a folder whose sound lies in subfolders ``train``,
        ``validation`` and ``test``, all three, these are its splits.
    max_minutes : float
        Longer files are skipped during extraction, in minutes.

    Returns
    -------
    list of AudioSource
        Sorted by name.

    Raises
    ------
    DataError
        A path does not exist, or there is no sound file in any of them.
    """
    given = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    if "" in given:  # which would be the working directory: a variable of a shell that is not set
        raise DataError("one of the paths is ''; give a folder of sound files or a sound file")
    roots = [Path(path) for path in given]
    found = [source for root in roots for source in _in_root(root, len(roots) > 1, max_minutes)]
    if not found:
        where = ", ".join(str(root) for root in roots) or "an empty list of paths"
        raise DataError(f"no sound file in {where}; looked for {', '.join(SUFFIXES)} in all subfolders")
    return sorted(found, key=lambda source: source.name)


def _in_root(root: Path, prefixed: bool, max_minutes: float) -> list[AudioSource]:
    if not root.exists():
        raise DataError(f"'{root}' does not exist; give a folder of sound files or a sound file")
    if root.is_file():
        return [AudioSource(root.name, _version(root), root, max_minutes=max_minutes)]
    paths = [
        path
        for path in root.rglob("*")
        if path.suffix.lower() in SUFFIXES and path.is_file() and not _hidden(path.relative_to(root))
    ]
    prefix = f"{root.resolve().name}/" if prefixed else ""
    tops = [path.relative_to(root).parts[0] for path in paths]
    by_folder = set(tops) == set(SPLITS)
    return [
        AudioSource(
            prefix + path.relative_to(root).as_posix(),
            _version(path),
            path,
            split=top if by_folder else None,
            max_minutes=max_minutes,
        )
        for path, top in zip(paths, tops, strict=True)
    ]


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _version(path: Path) -> str:
    stat = path.stat()
    return f"{stat.st_size}-{stat.st_mtime_ns}"


def clip_sources(
    clips: Iterable[Any], *, sample_rate: int = 16_000, frame_rate: float = 50.0, version: str = ""
) -> list[ClipSource]:
    """Wrap clips of the étude corpus, or anything with ``name``, ``split``, ``render() -> [N]`` and ``f0 [T']``.

    Parameters
    ----------
    clips : iterable
        For example ``sae_audio.etude.corpus.corpus(minutes=10, seed=0)``.
    sample_rate : int
        Of the rendered audio, in Hz.
    frame_rate : float
        Of ``f0``, in Hz.
    version : str
        Anything that changes when the same names come to mean other sounds.

    Returns
    -------
    list of ClipSource
        In the order of the clips.
    """
    return [ClipSource(clip, sample_rate, frame_rate, version) for clip in clips]
