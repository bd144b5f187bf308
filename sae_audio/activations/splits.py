"""Splits by recording: the source's own, or the hash of its name, which stays the same when recordings come and go."""

from __future__ import annotations

import hashlib

from sae_audio.activations.sources import Source
from sae_audio.activations.store import SPLITS, Stored


def with_splits(entries: list[Stored], sources: list[Source], seed: int) -> list[Stored]:
    """Give each recording its split: the source's own, else by the hash of its name."""
    given = {source.name: source.split for source in sources if source.split}
    hashed = hashed_splits([entry.name for entry in entries if entry.name not in given], seed)
    return [entry._replace(split=(given | hashed)[entry.name]) for entry in entries]


def hashed_splits(names: list[str], seed: int) -> dict[str, str]:
    """Split names by hash. A split left empty takes from the largest the name next to it, if there are names for all."""
    place = {name: hashed_place(name, seed) for name in names}
    split = {name: _split_at(u) for name, u in place.items()}
    for empty in [name for name in SPLITS if name not in split.values()] if len(names) >= len(SPLITS) else []:
        largest = max(SPLITS, key=lambda name: list(split.values()).count(name))
        nearest = min if empty == "train" else max
        split[nearest((name for name in names if split[name] == largest), key=place.__getitem__)] = empty
    return split


def hashed_place(name: str, seed: int) -> float:
    """Map a name to [0, 1), evenly and for good."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode(errors="surrogateescape")).digest()[:8], "big") / 2**64


def _split_at(place: float) -> str:
    if place < SPLITS["train"]:
        return "train"
    return "validation" if place < SPLITS["train"] + SPLITS["validation"] else "test"
