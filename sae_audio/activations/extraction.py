"""Fill an activation store: load, encode, describe, write; skip what cannot be used; share the work between processes.

Every finished shard counts after a crash, since a shard appears whole or not at all and lists its recordings. Under
``accelerate launch`` or ``torchrun`` each process takes every ``WORLD_SIZE``-th source and writes shards of its own. The folder
is the barrier: process 0 writes the index once every source is in some shard, the others wait for that index, so any file
system that all processes see will do. A process that dies is the launcher's business: it ends the others.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from sae_audio.activations.measuring import MeasuredRecording, measured
from sae_audio.activations.sources import Source
from sae_audio.activations.splits import with_splits
from sae_audio.activations.store import (
    FORMAT,
    SPLITS,
    ActivationStore,
    Skipped,
    Stored,
    read_index,
    shard_contents,
    write_index,
    write_shard,
)
from sae_audio.errors import DataError
from sae_audio.files import make_folder
from sae_audio.latent_spaces.base import LatentSpace
from sae_audio.latent_spaces.signature import same_weights, signature
from sae_audio.trackers import check_tracker

POLL_SECONDS = 0.5
"""How often a process looks whether the others are done."""


def extract(
    space: LatentSpace,
    sources: Iterable[Source],
    out_dir: str | Path,
    *,
    seed: int = 0,
    tracker: str = "yin",
    settings: dict | None = None,
    shard_seconds: float = 300.0,
    progress: bool = True,
) -> ActivationStore:
    """Write the latents and descriptors of every source to a store, or continue a store that was begun.

    Parameters
    ----------
    space : LatentSpace
        Model whose latents are stored.
    sources : iterable of Source
        Recordings, see ``audio_sources`` and ``clip_sources``. Those already in the store are not loaded again; those that
        were skipped before are tried again.
    out_dir : str or Path
        Folder of the store; made when it does not exist.
    seed : int
        Of the split by name: about 80 / 10 / 10 % of the recordings whose source names no split.
    tracker : str
        Pitch tracker, see ``descriptors.describe``.
    settings : dict, optional
        Anything else that must be equal when the store is continued; JSON values.
    shard_seconds : float
        Audio per shard, in seconds: the most that a crash can cost.
    progress : bool
        Show a bar with the time left.

    Returns
    -------
    ActivationStore
        ``store.skipped`` names the recordings that could not be used, with the reason.

    Raises
    ------
    DataError
        No source, two sources of the same name, none usable, or the folder holds a store of another space, other weights or
        other settings.
    ParameterError
        There is no such pitch tracker here.
    """
    check_tracker(tracker)
    sources, out_dir = _checked(sources), Path(out_dir)
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    head = _head(space, seed, tracker, settings)
    _claim(out_dir, head, rank)
    done, mine = shard_contents(out_dir), sources[rank::world]
    todo = [source for source in mine if _key(source) not in done]
    if rank == 0:  # no other process knows which were skipped before this run began, so one process tries them all again
        todo += [source for source in sources if isinstance(done.get(_key(source)), Skipped)]
    kept = sum(isinstance(done.get(_key(source)), Stored) for source in mine)
    with tqdm(total=kept + len(todo), initial=kept, unit="recording", disable=not progress or rank > 0) as bar:
        for group in _groups(measured(space, todo, tracker), shard_seconds * space.spec.frame_rate, bar):
            _write(out_dir, rank, group, done)
        if world > 1:
            bar.set_description("waiting for the other processes")
        _finish(out_dir, head, sources, rank)
    return _usable(ActivationStore.open(out_dir))


def _checked(sources: Iterable[Source]) -> list[Source]:
    sources, seen = list(sources), set()
    if not sources:
        raise DataError("there is nothing to extract: the list of sources is empty")
    for source in sources:
        if source.name in seen:
            raise DataError(f"two recordings are named '{source.name}'; names must be unique: splits and resuming go by name")
        if source.split not in (None, *SPLITS):
            raise DataError(f"'{source.name}' is in split '{source.split}'; splits are {', '.join(SPLITS)}")
        seen.add(source.name)
    return sources


def _key(source: Source) -> tuple[str, str]:
    return source.name, source.version


def _usable(store: ActivationStore) -> ActivationStore:
    if not store.entries:
        first = store.skipped[0]
        raise DataError(f"none of {len(store.skipped)} recordings could be used; the first, '{first.name}': {first.reason}")
    return store


# What makes two stores the same -----------------------------------------------------------------------------------------------


def _head(space: LatentSpace, seed: int, tracker: str, settings: dict | None) -> dict:
    return {
        "format": FORMAT,
        "spec": space.spec.to_dict(),
        "seed": seed,
        "tracker": tracker,
        "settings": json.loads(json.dumps(settings or {})),
        "signature": signature(space),
    }


def _claim(out_dir: Path, head: dict, rank: int) -> None:
    """Begin a store, or check that the one in the folder is of the same space, weights and settings."""
    make_folder(out_dir)
    if (out_dir / "index.json").exists():
        _check_same(out_dir, read_index(out_dir), head)
    elif rank == 0:
        write_index(out_dir, {**head, "recordings": [], "skipped": [], "complete": False})


def _check_same(out_dir: Path, stored: dict, wanted: dict) -> None:
    for key in ("spec", "seed", "tracker", "settings"):
        if stored[key] != wanted[key]:
            before, now = _difference(stored[key], wanted[key])
            raise DataError(f"{out_dir} was extracted with {key} {before}, not {now}; use another folder or delete this one")
    if not same_weights(stored["signature"], wanted["signature"]):
        name = wanted["spec"]["name"]
        raise DataError(f"{out_dir} was extracted with other weights of '{name}'; use another folder or delete this one")


def _difference(before: Any, now: Any) -> tuple[Any, Any]:
    """Reduce two dictionaries to the entries that differ."""
    if not isinstance(before, dict):
        return before, now
    keys = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    return {key: before.get(key) for key in keys}, {key: now.get(key) for key in keys}


# From frames to the store -----------------------------------------------------------------------------------------------------


def _groups(batches: Iterable[list[MeasuredRecording]], shard_frames: float, bar: tqdm) -> Iterator[list[MeasuredRecording]]:
    """Collect recordings until they fill a shard."""
    group, total = [], 0
    for batch in batches:
        bar.update(len(batch))
        group += batch
        total += sum(len(frames.tensors["f0"]) for frames in batch)
        if total >= shard_frames:
            yield group
            group, total = [], 0
    if group:
        yield group


def _write(out_dir: Path, rank: int, group: list[MeasuredRecording], done: dict) -> None:
    """Write a shard, without the recordings that were found unusable again."""
    group = [item for item in group if not (item.reason and _key(item.source) in done)]
    if group:
        tensors = {name: torch.cat([item.tensors[name] for item in group]) for name in group[0].tensors}
        write_shard(out_dir, rank, tensors, [(*_key(item.source), len(item.tensors["f0"]), item.reason) for item in group])


def _finish(out_dir: Path, head: dict, sources: list[Source], rank: int) -> None:
    """Process 0 waits until every source is in a shard and writes the index; the others wait for that index."""
    wanted = [_key(source) for source in sources]
    if rank > 0:
        while not _indexed(out_dir, wanted):
            time.sleep(POLL_SECONDS)
        return
    while set(wanted) - (found := shard_contents(out_dir)).keys():
        time.sleep(POLL_SECONDS)
    entries = [found[key] for key in wanted]
    stored = with_splits([entry for entry in entries if isinstance(entry, Stored)], sources, head["seed"])
    skipped = [entry for entry in entries if isinstance(entry, Skipped)]
    lists = {"recordings": [entry._asdict() for entry in stored], "skipped": [entry._asdict() for entry in skipped]}
    write_index(out_dir, {**head, **lists, "complete": True})


def _indexed(out_dir: Path, wanted: list[tuple[str, str]]) -> bool:
    """Say whether the index is that of this run."""
    if not (out_dir / "index.json").exists():
        return False
    index = read_index(out_dir)
    return {(entry["name"], entry["version"]) for entry in chain(index["recordings"], index["skipped"])} == set(wanted)
