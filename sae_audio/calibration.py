"""What an edit does to the decoded sound: dose-response, hit rates, isolation. Figures are measured on sound, never on latents.

A measurement compares the edited sound with the codec's own reconstruction of the same latents, so that the codec's error is
not counted as an effect. Medians are taken over the frames of a clip, then over clips.

Open loop, a strength comes from the dose-response of other recordings. ``steer_latents`` can also close the loop (``Hold``):
it measures the decoded sound and corrects loudness and brightness with the two calibrated axes, so that this sound reaches what
was asked and keeps what was not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from sae_audio.control import AUDIBLE_DB, AXES, ControlVector, apply, axis_change, note_change
from sae_audio.descriptors import Descriptors
from sae_audio.sae.base import SAE
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
Move = tuple[ControlVector, Tensor]
"""A control and its change, broadcastable to [B, T, d]."""
STEP = torch.tensor([1.0, 0.6])
"""Share of the correction made per round: levels answer alike everywhere, centroids at up to twice the calibrated slope."""


class Clips(NamedTuple):
    """Held-out latents to calibrate or test on, all of one length."""

    latents: Tensor
    """[B, T, d_in]."""
    notes: Tensor
    """int64 [B, T] pitch class of each frame, -1 where there is none."""
    midi: Tensor
    """[B, T] pitch of each frame in MIDI semitones, NaN where there is none."""


class Hold(NamedTuple):
    """The calibrated axes that close the loop."""

    loudness: ControlVector
    """Corrects the level, frame by frame."""
    brightness: ControlVector
    """Corrects the spectral centroid, by the clip's median."""
    smoothing: int = 15
    """Frames (odd) over which the loudness correction is averaged: short enough to follow notes, too long to flatten attacks."""
    rounds: int = 3
    """Measure-and-correct rounds; each costs one decode."""

    def jacobian(self) -> Tensor:
        """Return the change of (loudness, brightness) per unit strength of (loudness, brightness), [2, 2]."""
        return torch.stack([slopes(self.loudness), slopes(self.brightness)], 1)


class Steered(NamedTuple):
    """Edited latents and the sound they decode to."""

    latents: Tensor
    """[B, T, d_in]."""
    heard: Heard
    """Of the edited sound."""


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
        trials = [shift_trial(control, sae, clips, before, measure, step, strength) for step in intervals]
        rates.append(torch.tensor([trial.hit_rate for trial in trials]).nanmean())
        misses = [torch.tensor(trial.change) - torch.tensor([trial.asked, 0.0, 0.0]) for trial in trials]
        responses.append(torch.stack(misses).nanmean(0).nan_to_num(nan=0.0))
    doses = torch.tensor([float(strength) for strength in strengths])
    return replace(control, doses=doses, responses=torch.stack(responses), hit_rate=torch.stack(rates))


def steer_latents(
    latents: Tensor,
    sae: SAE,
    moves: Sequence[Move],
    measure: Measure,
    *,
    before: Heard,
    wanted: tuple[float, float] = (0.0, 0.0),
    mask: Tensor | None = None,
    hold: Hold | None = None,
) -> Steered:
    """Apply moves; with ``hold``, measure the sound and correct its loudness and brightness to what was asked.

    The correction of a clip solves ``J s = wanted - measured`` for the strengths ``s`` of the two axes, J being their calibrated
    slopes. Loudness is corrected per frame (smoothed over ``hold.smoothing`` frames), brightness by the clip's median.

    Parameters
    ----------
    latents : Tensor [B, T, d_in]
        Latents to edit.
    sae : SAE
        The SAE.
    moves : sequence of (ControlVector, Tensor)
        Controls and their changes, as for ``control.apply``.
    measure : callable
        Latents -> what the decoded sound measures.
    before : Heard
        ``measure(latents)``.
    wanted : (float, float)
        Change of loudness (dB) and brightness (octaves) asked for; 0 keeps the property.
    mask : Tensor [T] or [B, T], optional
        Share of the change that each frame gets, 0 to 1; the moves must be scaled by it already. 1 by default.
    hold : Hold, optional
        Axes for the closed loop; None applies the moves and no more.

    Returns
    -------
    Steered
    """
    *_, last = steer_rounds(latents, sae, moves, measure, before=before, wanted=wanted, mask=mask, hold=hold)
    return last


def steer_rounds(
    latents: Tensor,
    sae: SAE,
    moves: Sequence[Move],
    measure: Measure,
    *,
    before: Heard,
    wanted: tuple[float, float] = (0.0, 0.0),
    mask: Tensor | None = None,
    hold: Hold | None = None,
) -> Iterator[Steered]:
    """Do what ``steer_latents`` does and yield the sound after the moves and after each round of correction."""
    edited = apply(latents, sae, moves)
    heard = measure(edited)
    yield Steered(edited, heard)
    if hold is None:
        return
    mask = torch.ones(latents.shape[:2]) if mask is None else mask.expand(latents.shape[:2])
    strengths = torch.zeros(*latents.shape[:2], 2)
    jacobian = hold.jacobian()
    for _ in range(hold.rounds):
        missing = _missing(before.descriptors, heard.descriptors, mask, torch.tensor(wanted), hold.smoothing)
        strengths = _within(strengths + STEP * torch.linalg.solve(jacobian, missing[..., None])[..., 0], hold)
        corrections = [(hold.loudness, strengths[..., 0]), (hold.brightness, strengths[..., 1])]
        extra = [(axis, axis_change(axis, strength * mask)) for axis, strength in corrections]
        edited = apply(latents, sae, [*moves, *extra])
        heard = measure(edited)
        yield Steered(edited, heard)


def shift_trial(
    control: ControlVector,
    sae: SAE,
    clips: Clips,
    before: Heard,
    measure: Measure,
    semitones: int,
    strength: float,
    hold: Hold | None = None,
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
    hold : Hold, optional
        Close the loop on loudness and brightness.
    """
    target = clips.notes + semitones
    possible = (clips.notes >= 0) & (target >= 0) & (target < len(control.labels))
    change = note_change(control, clips.notes, torch.where(possible, target, -1), strength)
    after = steer_latents(clips.latents, sae, [(control, change)], measure, before=before, hold=hold).heard
    wanted = torch.where(possible & before.descriptors.f0.isfinite(), clips.midi + semitones, torch.nan)
    return _trial("pitch", float(semitones), before, after, hit_rate(after.descriptors, wanted), hold)


def axis_trial(
    control: ControlVector, sae: SAE, clips: Clips, before: Heard, measure: Measure, amount: float, hold: Hold | None = None
) -> Trial:
    """Ask a calibrated axis for ``amount`` dB or octaves and measure the decoded sound (arguments as in ``shift_trial``).

    An amount outside the calibrated range is asked for at the end of the range; the error counts what that leaves.
    """
    low, high = control.range
    change = axis_change(control, control.strength_for(min(max(amount, low), high)))
    wanted = (amount, 0.0) if control.property == "loudness" else (0.0, amount)
    after = steer_latents(clips.latents, sae, [(control, change)], measure, before=before, wanted=wanted, hold=hold).heard
    return _trial(control.property, amount, before, after, None, hold)


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


def slopes(control: ControlVector) -> Tensor:
    """Change of loudness and brightness per unit strength around 0, [2]."""
    zero = int(control.doses.abs().argmin())
    low, high = max(zero - 1, 0), min(zero + 1, len(control.doses) - 1)
    return (control.responses[high, 1:] - control.responses[low, 1:]) / (control.doses[high] - control.doses[low])


def _missing(before: Descriptors, after: Descriptors, mask: Tensor, wanted: Tensor, smoothing: int) -> Tensor:
    """What each frame still lacks of the wanted dB and octaves, [B, T, 2]."""
    audible = ((to_db(before.rms) > AUDIBLE_DB) & (mask > 0)).float()
    loudness = (wanted[0] * mask - (to_db(after.rms) - to_db(before.rms))).nan_to_num(0.0)
    octaves = torch.where(audible > 0, (after.centroid / before.centroid).log2(), torch.nan)
    brightness = median(wanted[1] * mask - octaves, 1)[:, None].nan_to_num(0.0)
    return torch.stack([_smooth(loudness, audible, smoothing), brightness.expand_as(loudness)], -1)


def _smooth(values: Tensor, weights: Tensor, width: int) -> Tensor:
    """Weighted moving mean over ``width`` frames, [B, T]; frames with no weight near take the clip's mean."""
    kernel = torch.ones(1, 1, width)

    def window(x: Tensor) -> Tensor:
        return torch.nn.functional.conv1d(x[:, None], kernel, padding=width // 2)[:, 0]

    total = weights.sum(1, keepdim=True).clamp_min(1)
    overall = (values * weights).sum(1, keepdim=True) / total
    near = window(weights)
    return torch.where(near > 0.5, window(values * weights) / near.clamp_min(1), overall)


def _within(strengths: Tensor, hold: Hold) -> Tensor:
    """Keep the strengths of both axes inside their calibrated doses."""
    doses = (hold.loudness.doses, hold.brightness.doses)
    return torch.stack([strengths[..., i].clamp(doses[i].min(), doses[i].max()) for i in range(2)], -1)


def _trial(property: str, asked: float, before: Heard, after: Heard, hits: float | None, hold: Hold | None) -> Trial:
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
        held=hold is not None,
        n_clips=int(per_clip[:, column].isfinite().sum()),
    )
