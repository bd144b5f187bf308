"""Decoded sound, what was measured on it, and what changed from one to another. Figures are measured on sound, never on latents.

A change compares the edited sound with the codec's own reconstruction of the same latents, so that the codec's error is not
counted as an effect. Medians are taken over the frames of a clip, then over clips.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sae_audio.control import AUDIBLE_DB
from sae_audio.descriptors import Descriptors
from sae_audio.units import hz_to_midi, to_db


class Heard(NamedTuple):
    """Decoded sound and what was measured on it."""

    audio: Tensor
    """[B, channels, N]."""
    descriptors: Descriptors
    """f0, RMS and centroid, each [B, T]."""
    log_mel: Tensor
    """[B, bands, F] natural logarithm of the mel spectrum."""


Measure = Callable[[Tensor], Heard]
"""Latents [B, T, d_in] -> what the sound that they decode to measures."""


def changes(before: Descriptors, after: Descriptors, *, absolute: bool = False) -> Tensor:
    """Return the median change of each clip in semitones, dB and octaves.

    Parameters
    ----------
    before, after : Descriptors
        Each [B, T]; frames quieter than -50 dBFS before are left out, and for pitch the frames unvoiced in either.
    absolute : bool
        Take the median of |change| instead.

    Returns
    -------
    Tensor [B, 3]
        NaN where a clip has no frame to compare.
    """
    audible = to_db(before.rms) > AUDIBLE_DB
    frames = torch.stack(
        [
            hz_to_midi(after.f0) - hz_to_midi(before.f0),
            to_db(after.rms) - to_db(before.rms),
            (after.centroid / before.centroid).log2(),
        ],
        -1,
    )
    frames = frames.abs() if absolute else frames
    return median(torch.where(audible[..., None], frames, torch.nan), 1)


def median(values: Tensor, dim: int) -> Tensor:
    """Return the median without NaN, the middle of the two middle values where their number is even; NaN where all are."""
    return values.double().nanquantile(0.5, dim=dim).float()


def hit_rate(after: Descriptors, target_midi: Tensor, *, cents: float = 50.0) -> float:
    """Return the share of the frames with a target whose decoded f0 is within ``cents`` of it; unvoiced counts as a miss.

    Parameters
    ----------
    after : Descriptors
        Of the edited sound, each [B, T].
    target_midi : Tensor [B, T]
        Wanted pitch in MIDI semitones, NaN where none was asked for.
    cents : float
        Tolerance in hundredths of a semitone.
    """
    asked = target_midi.isfinite()
    error = (hz_to_midi(after.f0) - target_midi).abs()[asked]
    return (error.nan_to_num(nan=torch.inf) <= cents / 100).double().mean().item()


def spectral_distance(before: Tensor, after: Tensor) -> float:
    """Return the mean |difference of log-mel spectra| after each frame's mean difference (its change of level) is removed.

    Parameters
    ----------
    before, after : Tensor [B, bands, F]
        Natural-log mel spectra. A pure gain scores 0; 0.1 is about 0.9 dB per band.
    """
    difference = after - before
    return (difference - difference.mean(1, keepdim=True)).abs().mean().item()


def isolation(reached: float, stray: Sequence[float], target: int, spread: Sequence[float]) -> float:
    """Return on-target over off-target change, ``|reached| / rms(stray)``, in units of each property's spread in the data.

    Parameters
    ----------
    reached : float
        Change of the property that was meant.
    stray : sequence of 3 floats
        |Change| per frame in semitones, dB and octaves; NaN where it could not be measured.
    target : int
        Which of the three was meant.
    spread : sequence of 3 floats
        Standard deviation of each property in the data, in the same units.
    """
    scaled = torch.tensor(list(stray)) / torch.tensor(list(spread))
    others = torch.cat([scaled[:target], scaled[target + 1 :]])
    return abs(reached) / spread[target] / float(others.square().nanmean().sqrt().clamp_min(1e-6))
