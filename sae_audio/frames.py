"""Frames of one split as flat tensors, and what is cut from them: samples, clips, a property on its axis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from sae_audio.activations import ActivationStore
from sae_audio.calibration import Clips
from sae_audio.control import AUDIBLE_DB, AXES
from sae_audio.descriptors import Descriptors
from sae_audio.errors import DataError
from sae_audio.properties import Property, axis_values
from sae_audio.units import hz_to_midi, to_db

MIN_CLASS_FRAMES = 20
"""A property is probed when at least two of its classes have this many training frames."""


class Frames(NamedTuple):
    """Frames of one split, as flat tensors."""

    latents: Tensor
    """[N, d_in]."""
    descriptors: Descriptors
    """Each [N]."""
    recordings: Tensor
    """int64 [N]; frames of one recording stand together."""


class Splits(NamedTuple):
    """The frames of a corpus, split by recording."""

    train: Frames
    """What weights are fitted on."""
    validation: Frames
    """What penalties and strengths are chosen on."""
    test: Frames
    """What is reported."""

    @classmethod
    def of(cls, store: ActivationStore) -> Splits:
        """Return all frames of a store; ``DataError`` if a split has none."""
        return cls(*(_split(store, name) for name in cls._fields))

    def sampled(self, train: int, validation: int, test: int) -> Splits:
        """Return at most so many frames of each split; see ``random_frames``."""
        return Splits(
            random_frames(self.train, train), random_frames(self.validation, validation), random_frames(self.test, test)
        )


def _split(store: ActivationStore, name: str) -> Frames:
    latents = store.latents(name)
    if not len(latents):
        raise DataError(f"the {name} split has no recording; add more files (ten or more give every split some)")
    return Frames(latents, store.descriptors(name), store.recordings(name))


def random_frames(frames: Frames, limit: int, seed: int = 0) -> Frames:
    """Return at most ``limit`` frames, drawn at random without replacement and kept in order."""
    n = len(frames.latents)
    if n <= limit:
        return frames
    rows = torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:limit].sort().values
    return Frames(frames.latents[rows], Descriptors(*(column[rows] for column in frames.descriptors)), frames.recordings[rows])


def usable_properties(properties: Mapping[str, Property], train: Frames) -> dict[str, Property]:
    """Return the properties that the training frames can teach: at least two classes with ``MIN_CLASS_FRAMES`` frames each."""
    usable = {}
    for name, prop in properties.items():
        found = prop.classes(train.descriptors)
        counts = torch.bincount(found[found >= 0], minlength=prop.n_classes)
        if int((counts >= MIN_CLASS_FRAMES).sum()) >= 2:
            usable[name] = prop
    return usable


def held_out_clips(
    frames: Frames, pitch: Property | None, frame_rate: float, *, seconds: float = 3.0, n_clips: int = 12, cut_frames: int = 1
) -> Clips:
    """Cut one clip from each of up to ``n_clips`` recordings: its most voiced stretch, over recordings evenly spread.

    Parameters
    ----------
    frames : Frames
        Of a held-out split.
    pitch : Property, optional
        Pitch classes; None where the space has no usable pitch.
    frame_rate : float
        Frames per second, in Hz.
    seconds : float
        Length of a clip; shortened to the longest recording.
    n_clips : int
        Clips at most.
    cut_frames : int
        Clips begin at multiples of it in their recordings; see ``Codec.cut_frames``.
    """
    starts, counts = _spans(frames.recordings)
    length = min(round(seconds * frame_rate), int(counts.max()))
    voiced = torch.cat([torch.zeros(1), frames.descriptors.f0.isfinite().float().cumsum(0)])
    windows = []
    for start, count in zip(starts.tolist(), counts.tolist(), strict=True):
        if count < length:
            continue
        begins = torch.arange(start, start + count + 1 - length, cut_frames)
        shares = voiced[begins + length] - voiced[begins]
        windows.append((float(shares.max()) / length, int(begins[shares.argmax()])))
    pitched = [begin for share, begin in windows if share >= 0.5] or [begin for _, begin in windows]
    chosen = [pitched[round(i)] for i in torch.linspace(0, len(pitched) - 1, min(n_clips, len(pitched))).tolist()]
    rows = torch.stack([torch.arange(begin, begin + length) for begin in chosen])
    f0 = frames.descriptors.f0[rows]
    notes = torch.full(rows.shape, -1) if pitch is None else pitch.classes(Descriptors(*(c[rows] for c in frames.descriptors)))
    return Clips(frames.latents[rows], notes, hz_to_midi(f0))


def spreads(train: Frames) -> list[float]:
    """Return the standard deviation of pitch (semitones), loudness (dB) and brightness (octaves) over the audible frames."""
    values = [audible_axis(train, name) for name in AXES]
    spread = [float(v[v.isfinite()].std()) for v in values]
    return [s if s > 0 else 1.0 for s in spread]


def audible_axis(frames: Frames, name: str) -> Tensor:
    """A property on its axis, NaN where undefined or quieter than ``AUDIBLE_DB``: silence would otherwise be half its spread."""
    values = axis_values(frames.descriptors, name)
    return torch.where(to_db(frames.descriptors.rms) > AUDIBLE_DB, values, torch.nan)


def _spans(recordings: Tensor) -> tuple[Tensor, Tensor]:
    """First frame and number of frames of each recording."""
    _, counts = recordings.unique_consecutive(return_counts=True)
    return counts.cumsum(0) - counts, counts
