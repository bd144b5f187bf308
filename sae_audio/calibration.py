"""What an edit does to the decoded sound: dose-response, hit rates, isolation. Every figure is measured on sound, never on latents.

A measurement compares the edited sound with the codec's own reconstruction of the same latents, so that the codec's error is
not counted as an effect. Medians are taken over the frames of a clip, then over clips.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from sae_audio.control import AUDIBLE_DB, AXES, ControlVector, apply, axis_change, note_change
from sae_audio.descriptors import Descriptors, hz_to_midi, to_db
from sae_audio.sae.base import SAE


class Heard(NamedTuple):
    """What was measured on decoded sound."""

    descriptors: Descriptors
    """f0, RMS and centroid, each [B, T]."""
    log_mel: Tensor
    """[B, bands, F] natural logarithm of the mel spectrum."""


Measure = Callable[[Tensor], Heard]
"""Latents [B, T, d_in] -> what the sound that they decode to measures."""


class Clips(NamedTuple):
    """Held-out latents to calibrate or test on, all of one length."""

    latents: Tensor
    """[B, T, d_in]."""
    notes: Tensor
    """int64 [B, T] pitch class of each frame, -1 where there is none."""
    midi: Tensor
    """[B, T] pitch of each frame in MIDI semitones, NaN where there is none."""


class Trial(NamedTuple):
    """What asking for one change did, in medians over held-out clips."""

    property: str
    """Property moved."""
    asked: float
    """Semitones, dB or octaves asked for."""
    reached: float
    """Change of that property."""
    error: float
    """Median over clips of |reached - asked|."""
    hit_rate: float | None
    """Pitch only: share of voiced frames within 50 cents of the note asked for."""
    change: tuple[float, float, float]
    """Change of pitch (semitones), loudness (dB) and brightness (octaves)."""
    distance: float
    """Level-free log-mel distance to the unedited sound; see ``spectral_distance``."""
    n_clips: int
    """Clips measured."""


def changes(before: Descriptors, after: Descriptors) -> Tensor:
    """Return the median change of each clip in semitones, dB and octaves.

    Parameters
    ----------
    before, after : Descriptors
        Each [B, T]; frames quieter than -50 dBFS before are left out, and for pitch the frames unvoiced in either.

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
    return torch.where(audible[..., None], frames, torch.nan).nanmedian(dim=1).values


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


def calibrate_axis(control: ControlVector, sae: SAE, clips: Clips, measure: Measure, doses: Sequence[float]) -> ControlVector:
    """Measure the dose-response of an axis on held-out clips.

    Parameters
    ----------
    control : ControlVector
        An axis.
    sae : SAE
        The SAE.
    clips : Clips
        Clips that neither the SAE nor the direction was fitted on.
    measure : callable
        Latents -> what the decoded sound measures.
    doses : sequence of float
        Strengths to try; 0, which changes nothing, is added.

    Returns
    -------
    ControlVector
        With ``doses`` and ``responses``.
    """
    grid = sorted({0.0, *map(float, doses)})
    before = measure(clips.latents).descriptors

    def respond(dose: float) -> Tensor:
        edited = apply(clips.latents, sae, [(control, axis_change(control, dose))])
        return _clip_median(changes(before, measure(edited).descriptors))

    responses = [torch.zeros(3) if dose == 0 else respond(dose) for dose in grid]
    return replace(control, doses=torch.tensor(grid), responses=torch.stack(responses))


def calibrate_notes(
    control: ControlVector,
    sae: SAE,
    clips: Clips,
    measure: Measure,
    *,
    strengths: Sequence[float] = (1.0, 1.5, 2.0),
    intervals: Sequence[int] = (2, 5, 12, -5),
) -> ControlVector:
    """Measure how often a note is hit at each strength, averaged over several intervals, on held-out clips.

    Parameters
    ----------
    control : ControlVector
        One direction per semitone class.
    sae, clips, measure
        As in ``calibrate_axis``.
    strengths : sequence of float
        Strengths to try, above 0.
    intervals : sequence of int
        Semitones to move by.

    Returns
    -------
    ControlVector
        With ``doses``, ``hit_rate`` and ``responses`` (off-target columns; the pitch column is the mean miss in semitones).
    """
    before = measure(clips.latents)
    rates, responses = [], []
    for strength in strengths:
        trials = [shift_trial(control, sae, clips, before, measure, step, strength) for step in intervals]
        rates.append(sum(trial.hit_rate for trial in trials) / len(trials))
        misses = [torch.tensor(trial.change) - torch.tensor([trial.asked, 0.0, 0.0]) for trial in trials]
        responses.append(torch.stack(misses).mean(0))
    doses = torch.tensor([float(strength) for strength in strengths])
    return replace(control, doses=doses, responses=torch.stack(responses), hit_rate=torch.tensor(rates))


def shift_trial(
    control: ControlVector, sae: SAE, clips: Clips, before: Heard, measure: Measure, semitones: int, strength: float
) -> Trial:
    """Shift every pitched frame by some semitones and measure the decoded sound.

    Parameters
    ----------
    control, sae, clips, measure
        As in ``calibrate_notes``.
    before : Heard
        ``measure(clips.latents)``.
    semitones : int
        Shift asked for; frames whose target lies outside the classes are left alone and not counted.
    strength : float
        Strength of the edit.
    """
    target = clips.notes + semitones
    possible = (clips.notes >= 0) & (target >= 0) & (target < len(control.labels))
    change = note_change(control, clips.notes, torch.where(possible, target, -1), strength)
    after = measure(apply(clips.latents, sae, [(control, change)]))
    wanted = torch.where(possible & before.descriptors.f0.isfinite(), clips.midi + semitones, torch.nan)
    return _trial("pitch", float(semitones), before, after, hit_rate(after.descriptors, wanted))


def axis_trial(control: ControlVector, sae: SAE, clips: Clips, before: Heard, measure: Measure, amount: float) -> Trial:
    """Ask a calibrated axis for ``amount`` dB or octaves and measure the decoded sound (arguments as in ``shift_trial``)."""
    change = axis_change(control, control.strength_for(amount))
    after = measure(apply(clips.latents, sae, [(control, change)]))
    return _trial(control.property, amount, before, after, None)


def isolation(change: Sequence[float], target: int, spread: Sequence[float]) -> float:
    """Return on-target over off-target change, ``|c_target| / rms(c_others)``, in units of each property's spread in the data.

    Parameters
    ----------
    change : sequence of 3 floats
        Change in semitones, dB and octaves.
    target : int
        Which of the three was meant.
    spread : sequence of 3 floats
        Standard deviation of each property in the data, in the same units.
    """
    scaled = torch.tensor(list(change)) / torch.tensor(list(spread))
    others = torch.cat([scaled[:target], scaled[target + 1 :]])
    return float(scaled[target].abs() / others.square().mean().sqrt().clamp_min(1e-6))


def _trial(property: str, asked: float, before: Heard, after: Heard, hits: float | None) -> Trial:
    per_clip = changes(before.descriptors, after.descriptors)
    change = _clip_median(per_clip)
    column = AXES.index(property)
    error = (per_clip[:, column] - asked).abs().nanmedian().item()
    distance = spectral_distance(before.log_mel, after.log_mel)
    return Trial(property, asked, change[column].item(), error, hits, tuple(change.tolist()), distance, len(per_clip))


def _clip_median(values: Tensor) -> Tensor:
    """Median over clips [B, 3] -> [3]; a property that no clip could measure counts as unchanged."""
    return values.nanmedian(dim=0).values.nan_to_num(nan=0.0)
