"""What is asked of a bundle, as controls and their strengths per frame: the same for a sound and for a song in the making.

loudness, brightness   dB or octaves, by the dose-response of the bundle's axis
pitch                  a note or semitones, from the note that each frame has
features               multiples of a feature's typical activation
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from sae_audio.bundle import Bundle
from sae_audio.control import AXES, UNITS, ControlVector, Move, axis_control, axis_strengths, note_strengths
from sae_audio.errors import ParameterError
from sae_audio.units import note_name

Target = float | str | tuple[str | float, float]
"""A move: dB or octaves or semitones; for pitch also a note name; or (note or semitones, strength)."""


def asked_moves(bundle: Bundle, moves: Mapping[str, Target], features: Mapping[int, float], notes: Tensor) -> list[Move]:
    """Return the controls and strengths of what is asked, for ``control.apply``.

    Parameters
    ----------
    bundle : Bundle
        Whose calibrated controls are used.
    moves : mapping
        ``loudness``: dB; ``brightness``: octaves; ``pitch``: a note or whole semitones, or a pair of either with a strength.
    features : mapping
        Feature number to strength: that multiple of its typical activation is added; negative takes away.
    notes : Tensor int64 [B, T]
        Pitch class that each frame has, -1 where it has none. Frames whose note, or the note that it would become, has no
        direction keep theirs.

    Returns
    -------
    list of (ControlVector, Tensor)
        Strengths [1] of axes and features, [B, T, notes] of pitch.

    Raises
    ------
    ParameterError
        A move is unknown or out of the bundle's calibrated range, or a feature is not there.
    """
    if unknown := sorted(moves.keys() - set(AXES)):
        raise ParameterError(f"cannot steer {', '.join(unknown)}; known are {', '.join(AXES)}")
    found = [_axis_move(bundle, name, amount(moves, name)) for name in AXES[1:] if name in moves]
    found += [_feature_move(bundle, feature, strength) for feature, strength in features.items()]
    return [*found, _pitch_move(bundle, moves["pitch"], notes)] if "pitch" in moves else found


def control_of(bundle: Bundle, name: str) -> ControlVector:
    """Return a bundle's control for a property; ``ParameterError`` if it has none."""
    if name not in bundle.controls:
        known = ", ".join(sorted(key for key in bundle.controls if "/" not in key)) or "none"
        raise ParameterError(f"this bundle has no control for {name}; it has: {known}")
    return bundle.controls[name]


def feature_control(bundle: Bundle, feature: int) -> ControlVector:
    """Return the direction that adds a feature's typical activation; ``ParameterError`` if it has none."""
    typical = bundle.atlas.feature(feature).mean
    if typical <= 0:
        raise ParameterError(f"feature {feature} never fired in training, so it has no typical activation to add")
    direction = torch.zeros(bundle.sae.config.d_sae)
    direction[feature] = typical
    return axis_control("feature", "feature", "acts", direction)


def wanted_notes(bundle: Bundle, target: Target, notes: Tensor) -> Tensor:
    """Return the pitch class that each frame is to have, int64 like ``notes``; -1 where it keeps its own.

    Raises
    ------
    ParameterError
        The target is no note or interval, or the bundle has no control for pitch.
    """
    known = known_notes(control_of(bundle, "pitch"))
    note, semitones, _ = _pitch_target(bundle, target)
    wanted = notes + semitones if note is None else torch.full_like(notes, note)
    inside = (notes >= 0) & (wanted >= 0) & (wanted < len(known))
    possible = inside & known[notes.clamp_min(0)] & known[wanted.clamp(0, len(known) - 1)]
    return torch.where(possible, wanted, -1)


def known_notes(control: ControlVector) -> Tensor:
    """Whether each class of a pitch control has a direction, bool [n_classes]: notes that training never heard have none."""
    return control.directions.abs().sum(1) > 0


def known_range(bundle: Bundle) -> str:
    """Say which notes a bundle with a control for pitch can move to."""
    known = known_notes(control_of(bundle, "pitch")).tolist()
    names = [name for name, heard in zip(bundle.properties["pitch"].names, known, strict=True) if heard]
    return f"this bundle knows the notes {names[0]} to {names[-1]}" if names else "this bundle knows no notes"


def span_mask(n_frames: int, frame_rate: float, start: float = 0.0, stop: float | None = None, fade: float = 0.0) -> Tensor:
    """Return the share of a change that each frame gets: 1 from ``start`` to ``stop``, 0 elsewhere.

    Parameters
    ----------
    n_frames : int
        Frames of the sound.
    frame_rate : float
        Frames per second, in Hz.
    start, stop : float
        Seconds; to the end by default, and where ``stop`` is beyond it.
    fade : float
        Seconds over which it rises from 0 and falls to 0 inside the part, as a raised cosine; at most half of the part.

    Returns
    -------
    Tensor [n_frames]

    Raises
    ------
    ParameterError
        The part is not within the sound, does not run forwards, holds no frame's centre, or is shorter than its fades.
    """
    seconds = n_frames / frame_rate
    if start >= seconds:
        raise ParameterError(f"the part to edit starts at {start:g} s, but the sound lasts {seconds:.2f} s")
    stop = seconds if stop is None else stop
    if not 0 <= start < stop:
        raise ParameterError(
            f"the part to edit runs from {start:g} to {stop:g} s; it must start at 0 or later, and before it ends"
        )
    stop = min(stop, seconds)
    if not 0 <= fade <= (stop - start) / 2 + 1e-6:
        raise ParameterError(
            f"the fade lasts {fade:g} s, but the part to edit {stop - start:.2f} s; a fade is at most half as long"
        )
    centres = (torch.arange(n_frames) + 0.5) / frame_rate
    mask = ((centres >= start) & (centres < stop)).float()
    if not mask.any():
        raise ParameterError(f"the part from {start:g} to {stop:g} s holds no frame; a frame lasts {1000 / frame_rate:.0f} ms")
    if fade > 0:
        inside = torch.minimum(centres - start, stop - centres) / fade
        mask = mask * (0.5 - 0.5 * (torch.pi * inside.clamp(0, 1)).cos())
    return mask


def amount(moves: Mapping[str, Target], name: str) -> float:
    """Return the dB or octaves that are asked for, 0 where nothing is; ``ParameterError`` for what is no finite number."""
    asked = moves.get(name, 0.0)
    value = _number(asked)
    if value is None or not math.isfinite(value):
        raise ParameterError(f"the amount for {name} is '{asked}'; give a finite number of {UNITS[name]}, such as -0.5")
    return value


def is_move(target: Target) -> bool:
    """Whether a target asks for anything: 0 semitones, dB or octaves do not."""
    return _number(target) != 0


def _axis_move(bundle: Bundle, name: str, value: float) -> Move:
    vector = control_of(bundle, name)
    return vector, axis_strengths(vector.strength_for(value))


def _feature_move(bundle: Bundle, feature: int, strength: float) -> Move:
    if not math.isfinite(strength):
        raise ParameterError(f"the strength of feature {feature} is {strength}; give a finite number such as 1.5")
    return feature_control(bundle, feature), axis_strengths(strength)


def _pitch_move(bundle: Bundle, target: Target, notes: Tensor) -> Move:
    vector, wanted = control_of(bundle, "pitch"), wanted_notes(bundle, target, notes)
    *_, strength = _pitch_target(bundle, target)
    return vector, note_strengths(vector, notes, wanted, strength)


def _pitch_target(bundle: Bundle, target: Target) -> tuple[int | None, int, float]:
    """Class for a note, else None; semitones for an interval, else 0; strength."""
    pitch, strength = target if isinstance(target, tuple) else (target, control_of(bundle, "pitch").best_strength())
    if not math.isfinite(strength):
        raise ParameterError(f"the strength of pitch is {strength}; give a finite number such as 1.25")
    semitones = _number(pitch)
    if semitones is None:
        return _note(bundle, str(pitch)), 0, strength
    if not abs(semitones) < 20_000 or abs(semitones - round(semitones)) > 1e-6:
        raise ParameterError(f"pitch '{pitch}' is neither a note (C5, F#3) nor a whole number of semitones (+3, -5)")
    if abs(semitones) >= bundle.properties["pitch"].n_classes:
        note = f"; for {semitones:g} Hz give its note, {note_name(69 + 12 * math.log2(semitones / 440))}" if semitones > 0 else ""
        raise ParameterError(
            f"pitch '{pitch}' is a move by {semitones:+g} semitones, which is out of reach; {known_range(bundle)}{note}"
        )
    return None, round(semitones), strength


def _note(bundle: Bundle, name: str) -> int:
    """Class of a note; a name that is none is answered with the notes that the bundle can move to, not all its classes."""
    try:
        return bundle.properties["pitch"].class_index(name)
    except ParameterError:
        raise ParameterError(f"pitch has no class '{name}'; {known_range(bundle)}; semitones are such as +3") from None


def _number(target: Target) -> float | None:
    """A target as a number; None for a note or a pair."""
    try:
        return float(target) if not isinstance(target, tuple) else None
    except ValueError:
        return None
