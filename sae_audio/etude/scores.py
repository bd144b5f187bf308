"""Seeded scores: motifs that walk through a scale, with rests and swelling dynamics.

A score knows nothing of sound; `additive.py` and `soundfont.py` render it. The same seed gives the same score everywhere.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sae_audio.errors import ParameterError

NOTE_SCALES = {
    "major": (0, 2, 4, 5, 7, 9, 11),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "pentatonic": (0, 2, 4, 7, 9),
    "whole-tone": (0, 2, 4, 6, 8, 10),
    "chromatic": tuple(range(12)),
}
BEATS = np.array([0.25, 0.5, 1.0, 2.0])
"""Note lengths, in beats."""


class Note(NamedTuple):
    """One note of one voice."""

    onset: float
    """Start, in seconds."""
    duration: float
    """Time until the note is let go, in seconds."""
    pitch: float
    """MIDI semitones, 69 = A4 = 440 Hz; fractional because the clip's tuning is in it."""
    velocity: float
    """How hard it is struck, in (0, 1]."""


class Score(NamedTuple):
    """What is played in one clip."""

    notes: tuple[Note, ...]
    """All notes of all voices."""
    duration: float
    """Length of the clip, in seconds."""
    dynamics: tuple[tuple[float, float], ...]
    """(seconds, dB) corners of the loudness curve, joined by straight lines: crescendi and diminuendi."""
    level: float
    """Loudness of the loudest moment of the clip, in dBFS."""
    voices: int
    """Voices that play at once; 1 is a melody."""


def write_score(seed: tuple[int, ...], *, low: int = 36, high: int = 96, voices: int = 1, duration: float = 10.0) -> Score:
    """Write a score.

    Parameters
    ----------
    seed : tuple of int
        Same seed, same score.
    low, high : int
        Range of the instrument, in MIDI semitones; at least an octave.
    voices : int
        Independent melodies; each voice has at most one note at a time.
    duration : float
        Seconds.

    Returns
    -------
    Score
        Notes between ``low`` and ``high`` (up to the clip's tuning of ±0.15 semitones), all ending within the clip.

    Raises
    ------
    ParameterError
        The range is narrower than an octave.

    Examples
    --------
    >>> write_score((0,)) == write_score((0,))
    True
    """
    if high - low < 12:
        raise ParameterError(f"instrument range {low}..{high} is narrower than an octave (12 semitones)")
    rng = np.random.default_rng(seed)
    steps, key = list(NOTE_SCALES.values())[rng.integers(len(NOTE_SCALES))], int(rng.integers(12))
    pitches = np.array([pitch for pitch in range(low, high + 1) if (pitch - key) % 12 in steps])
    tuning, beat = rng.uniform(-0.15, 0.15), rng.uniform(0.25, 0.8)
    notes = [note for _ in range(voices) for note in _voice(rng, pitches + tuning, beat, duration)]
    return Score(tuple(notes), duration, _dynamics(rng, duration), float(rng.uniform(-40, -3)), voices)


def frame_pitch(score: Score, n_frames: int, frame_rate: float) -> np.ndarray:
    """Return the pitch held at each frame's centre, ``[n_frames]`` in MIDI semitones; NaN in rests and with several voices."""
    pitch = np.full(n_frames, np.nan)
    if score.voices > 1:
        return pitch
    times = (np.arange(n_frames) + 0.5) / frame_rate
    for note in score.notes:
        pitch[(times >= note.onset) & (times < note.onset + note.duration)] = note.pitch
    return pitch


def gain_curve(score: Score, n_samples: int, sample_rate: int) -> np.ndarray:
    """Return the linear gain ``[n_samples]`` of the score's dynamics."""
    seconds, decibels = zip(*score.dynamics, strict=True)
    curve = np.interp(np.arange(n_samples) / sample_rate, seconds, decibels)
    return (10 ** (curve / 20)).astype(np.float32)


def _voice(rng: np.random.Generator, pitches: np.ndarray, beat: float, duration: float) -> list[Note]:
    """Play a motif again and again, moved by a random walk, until the clip is full."""
    length = int(rng.integers(3, 7))
    moves, beats = rng.integers(-4, 5, length), rng.choice(BEATS, length, p=[0.2, 0.4, 0.3, 0.1])
    rests, staccato = rng.random(length) < 0.15, rng.uniform(0.5, 1.0)
    notes, place, time, k = [], int(rng.integers(len(pitches))), float(rng.uniform(0, 0.4)), 0
    while time + (step := float(beats[k % length]) * beat) < duration:
        place = _reflect(place + int(moves[k % length]) + int(rng.integers(-1, 2)), len(pitches))
        if not rests[k % length]:
            held = max(step * staccato, min(step, 0.08))
            notes.append(Note(time, held, float(pitches[place]), float(rng.uniform(0.3, 1.0))))
        time, k = time + step, k + 1
    return notes


def _reflect(place: int, size: int) -> int:
    """Fold a walk back into ``0 .. size - 1``."""
    place = place % (2 * size - 2)
    return min(place, 2 * size - 2 - place)


def _dynamics(rng: np.random.Generator, duration: float) -> tuple[tuple[float, float], ...]:
    corners = np.arange(0, duration + 3, rng.uniform(1, 3))
    return tuple((float(t), float(d)) for t, d in zip(corners, rng.uniform(-24, 0, len(corners)), strict=True))
