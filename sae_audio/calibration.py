"""Calibrate controls on held-out clips: the dose-response of axes, the hit rate of notes; and trials, which ask and measure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from sae_audio.closed_loop import Edited, Hold, steer_rounds
from sae_audio.control import AXES, ControlVector, apply, axis_strengths, note_strengths
from sae_audio.heard import Heard, Measure, changes, hit_rate, median, spectral_distance
from sae_audio.sae.base import SAE


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
    """Change of pitch (semitones), loudness (dB) and brightness (octaves); NaN where no clip could be measured."""
    stray: tuple[float, float, float]
    """The same without its sign, |change| per frame, in medians over frames and clips: what cancels in ``change`` shows here."""
    distance: float
    """Level-free log-mel distance to the unedited sound; see ``spectral_distance``."""
    held: bool
    """Whether the loop was closed."""
    n_clips: int
    """Clips measured."""


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
        edited = apply(clips.latents, sae, [(control, axis_strengths(dose))])
        return median(changes(before, measure(edited).descriptors), 0).nan_to_num(nan=0.0)

    responses = [torch.zeros(3) if dose == 0 else respond(dose) for dose in grid]
    return replace(control, doses=torch.tensor(grid), responses=torch.stack(responses))


def calibrate_notes(
    control: ControlVector,
    sae: SAE,
    clips: Clips,
    measure: Measure,
    *,
    strengths: Sequence[float] = (1.0, 1.25, 1.5),
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
        trials = [shift_trials(control, sae, clips, before, measure, step, strength)[0] for step in intervals]
        rates.append(torch.tensor([trial.hit_rate for trial in trials]).nanmean())
        misses = [torch.tensor(trial.change) - torch.tensor([trial.asked, 0.0, 0.0]) for trial in trials]
        responses.append(torch.stack(misses).nanmean(0).nan_to_num(nan=0.0))
    doses = torch.tensor([float(strength) for strength in strengths])
    return replace(control, doses=doses, responses=torch.stack(responses), hit_rate=torch.stack(rates))


def shift_trials(
    control: ControlVector,
    sae: SAE,
    clips: Clips,
    before: Heard,
    measure: Measure,
    semitones: int,
    strength: float,
    hold: Hold | None = None,
) -> list[Trial]:
    """Shift every pitched frame by some semitones and measure the decoded sound: open loop and, with ``hold``, closed loop.

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
    hold : Hold, optional
        Close the loop on loudness and brightness too; what its first round corrects is the open loop's sound, made once.
    """
    target = clips.notes + semitones
    possible = (clips.notes >= 0) & (target >= 0) & (target < len(control.labels))
    strengths = note_strengths(control, clips.notes, torch.where(possible, target, -1), strength)
    rounds = steer_rounds(clips.latents, sae, [(control, strengths)], measure, before=before, hold=hold)
    wanted = torch.where(possible & before.descriptors.f0.isfinite(), clips.midi + semitones, torch.nan)
    return [
        _trial("pitch", float(semitones), before, heard, hit_rate(heard.descriptors, wanted), held)
        for held, heard in enumerate(_ends(rounds))
    ]


def axis_trials(
    control: ControlVector, sae: SAE, clips: Clips, before: Heard, measure: Measure, amount: float, hold: Hold | None = None
) -> list[Trial]:
    """Ask a calibrated axis for ``amount`` dB or octaves and measure the decoded sound (arguments as in ``shift_trials``).

    An amount outside the calibrated range is asked for at the end of the range; the error counts what that leaves.
    """
    low, high = control.range
    strengths = axis_strengths(control.strength_for(min(max(amount, low), high)))
    wanted = (amount, 0.0) if control.property == "loudness" else (0.0, amount)
    rounds = steer_rounds(clips.latents, sae, [(control, strengths)], measure, before=before, wanted=wanted, hold=hold)
    return [_trial(control.property, amount, before, heard, None, held) for held, heard in enumerate(_ends(rounds))]


def _ends(rounds: Iterator[Edited]) -> list[Heard]:
    """What is heard after the moves and, if anything follows, after the last correction."""
    first = last = next(rounds).heard
    for edited in rounds:
        last = edited.heard
    return [first] if last is first else [first, last]


def _trial(property: str, asked: float, before: Heard, after: Heard, hits: float | None, held: int) -> Trial:
    per_clip = changes(before.descriptors, after.descriptors)
    column = AXES.index(property)
    change = median(per_clip, 0)
    return Trial(
        property=property,
        asked=asked,
        reached=change[column].item(),
        error=median((per_clip[:, column] - asked).abs(), 0).item(),
        hit_rate=hits,
        change=tuple(change.tolist()),
        stray=tuple(median(changes(before.descriptors, after.descriptors, absolute=True), 0).tolist()),
        distance=spectral_distance(before.log_mel, after.log_mel),
        held=bool(held),
        n_clips=int(per_clip[:, column].isfinite().sum()),
    )
