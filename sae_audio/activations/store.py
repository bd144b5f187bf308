"""The activation store, format 1: safetensors shards and one JSON index, memory-mapped back.

A shard holds ``latents [n, d_in]`` and ``f0``, ``rms``, ``centroid [n]`` (float32) of some recordings, one after the other, and
in its header the name, version, number of frames and, for a recording that could not be used, the reason. The index holds
what must agree when a store is resumed, the split of every recording and where it is.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from sae_audio.descriptors import Descriptors
from sae_audio.errors import DataError, ParameterError
from sae_audio.files import write_bytes
from sae_audio.spec import LatentSpec

FORMAT = 1
SPLITS = {"train": 0.8, "validation": 0.1, "test": 0.1}
"""Shares of the recordings whose source names no split."""


class Stored(NamedTuple):
    """Where a recording is in the store."""

    name: str
    """Name of its source."""
    version: str
    """Version of its source."""
    split: str
    """``train``, ``validation`` or ``test``."""
    shard: str
    """File name of the shard."""
    start: int
    """First frame in the shard."""
    frames: int
    """Number of frames."""


class Skipped(NamedTuple):
    """A recording that could not be used."""

    name: str
    """Name of its source."""
    version: str
    """Version of its source."""
    reason: str
    """One line: what is wrong with it."""


class RecordingFrames(NamedTuple):
    """One recording of a store."""

    name: str
    """Name of its source."""
    split: str
    """``train``, ``validation`` or ``test``."""
    latents: Tensor
    """[T, d_in] float32."""
    descriptors: Descriptors
    """Each ``[T]``."""


@dataclass(frozen=True)
class ActivationStore:
    """A finished store, read by memory mapping; ``ActivationStore.open(folder)``.

    Frames of a split come recording by recording, in the order of the sources, whatever the shards look like.
    """

    path: Path
    """Folder of the store."""
    spec: LatentSpec
    """Latent space that was extracted."""
    settings: dict
    """``seed``, ``tracker`` and the settings given to ``extract``."""
    entries: list[Stored]
    """Recordings; their order is the recording index."""
    skipped: list[Skipped]
    """Recordings that could not be used."""
    _shards: dict[str, dict[str, Tensor]] = field(default_factory=dict, repr=False)

    @classmethod
    def open(cls, path: str | Path) -> ActivationStore:
        """Open a folder that ``extract`` wrote; raise ``DataError`` if it is none, unfinished, or lacks a shard."""
        path = Path(path)
        index = read_index(path)
        try:
            complete, entries = index["complete"], [Stored(**entry) for entry in index["recordings"]]
            settings = {key: index[key] for key in ("seed", "tracker", "settings")}
            skipped, spec = [Skipped(**entry) for entry in index["skipped"]], LatentSpec.from_dict(index["spec"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}/index.json is damaged ({error}); delete it and extract again") from error
        if not complete:
            raise DataError(f"the extraction into {path} is not finished; run the same command again to continue it")
        if missing := sorted({entry.shard for entry in entries if not (path / entry.shard).is_file()}):
            raise DataError(f"{path} lacks {', '.join(missing)}; extract again, which redoes only their recordings")
        return cls(path, spec, settings, entries, skipped)

    @property
    def recording_names(self) -> list[str]:
        """Names of the recordings, by recording index."""
        return [entry.name for entry in self.entries]

    def latents(self, split: str | None = None) -> Tensor:
        """Return the latents ``[N, d_in]`` of a split, or of all recordings, as one tensor in memory."""
        return self._gather("latents", split)

    def descriptors(self, split: str | None = None) -> Descriptors:
        """Return the descriptors of a split, each ``[N]``."""
        return Descriptors(*(self._gather(name, split) for name in Descriptors._fields))

    def recordings(self, split: str | None = None) -> Tensor:
        """Return the recording index of each frame of a split, int64 ``[N]``."""
        chosen = self._chosen(split)
        lengths = torch.tensor([self.entries[i].frames for i in chosen], dtype=torch.int64)
        return torch.repeat_interleave(torch.tensor(chosen, dtype=torch.int64), lengths)

    def load(self, index: int) -> RecordingFrames:
        """Return one recording by its index; its tensors stay on disk until they are used."""
        entry = self.entries[index]
        values = [self._read(entry, name) for name in Descriptors._fields]
        return RecordingFrames(entry.name, entry.split, self._read(entry, "latents"), Descriptors(*values))

    def _chosen(self, split: str | None) -> list[int]:
        if split not in (None, *SPLITS):
            raise ParameterError(f"split is '{split}'; splits are {', '.join(SPLITS)}, or None for all")
        return [i for i, entry in enumerate(self.entries) if split in (None, entry.split)]

    def _gather(self, name: str, split: str | None) -> Tensor:
        empty = torch.zeros((0, self.spec.d_in) if name == "latents" else 0)
        return torch.cat([empty, *(self._read(self.entries[i], name) for i in self._chosen(split))])

    def _read(self, entry: Stored, name: str) -> Tensor:
        if entry.shard not in self._shards:
            self._shards[entry.shard] = _shard_tensors(self.path / entry.shard, self.spec.d_in)
        return self._shards[entry.shard][name][entry.start : entry.start + entry.frames]


def write_shard(folder: Path, rank: int, tensors: dict[str, Tensor], recordings: list[tuple[str, str, int, str]]) -> None:
    """Add a shard whole or not at all; ``recordings`` lists (name, version, frames, reason), reason "" where it is usable."""
    numbers = [int(path.stem.split("-")[2]) for path in folder.glob(f"shard-{rank:03d}-*.safetensors")]
    path = folder / f"shard-{rank:03d}-{max(numbers, default=-1) + 1:05d}.safetensors"
    write_bytes(path, save(tensors, metadata={"recordings": json.dumps(recordings)}), alone=True)


def shard_contents(folder: Path) -> dict[tuple[str, str], Stored | Skipped]:
    """Say, by (name, version), what the finished shards of a folder hold; their split is not known here."""
    found: dict[tuple[str, str], Stored | Skipped] = {}
    for path in sorted(folder.glob("shard-*.safetensors")):
        start = 0
        for name, version, frames, reason in json.loads(_open_shard(path).metadata()["recordings"]):
            if not reason:
                found[name, version] = Stored(name, version, "", path.name, start, frames)
            elif not isinstance(found.get((name, version)), Stored):
                found[name, version] = Skipped(name, version, reason)
            start += frames
    return found


def _shard_tensors(path: Path, d_in: int) -> dict[str, Tensor]:
    """Return the mapped tensors of a shard, all of one length."""
    shard = _open_shard(path)
    try:
        tensors = {name: shard.get_tensor(name) for name in ("latents", *Descriptors._fields)}
        shapes = {tuple(value.shape) for name, value in tensors.items() if name != "latents"}
        if shapes != {(len(tensors["latents"]),)} or tensors["latents"].shape[1:] != (d_in,):
            raise ValueError("its tensors do not fit each other")
    except (SafetensorError, ValueError) as error:
        raise DataError(f"{path} is damaged ({error}); delete it and extract again, which redoes only its recordings") from error
    return tensors


def _open_shard(path: Path) -> safe_open:
    try:
        return safe_open(path, "pt")
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} is missing or damaged; delete it and extract again, which redoes only its recordings") from error


def read_index(folder: Path) -> dict:
    """Read ``index.json``; raise ``DataError`` where it is missing, damaged or of another format."""
    path = folder / "index.json"
    try:
        index = json.loads(path.read_text())
    except FileNotFoundError:
        raise DataError(f"{folder} holds no activation store: it has no index.json; extract first") from None
    except ValueError as error:
        raise DataError(f"{path} is damaged ({error}); delete it and extract again, which keeps finished shards") from error
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        raise DataError(f"{path} is not an activation store of format {FORMAT}; extract again into another folder")
    return index


def write_index(folder: Path, index: dict) -> None:
    """Write ``index.json`` whole or not at all."""
    write_bytes(folder / "index.json", json.dumps(index, sort_keys=True, indent=2).encode(), alone=True)
