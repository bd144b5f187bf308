"""Scores played by a numpy additive synthesiser: no system package, exact pitch, continuous control of timbre.

Partial k of a note of fundamental f has frequency k·f·√(1 + B·k²) (B: stiffness of the string) and an amplitude that falls
with k and follows a curve of formants. A note opens bright and darkens, or swells, and may carry vibrato and breath noise.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sae_audio.etude.scores import Note, Score

MAX_PARTIALS = 40


class Timbre(NamedTuple):
    """One instrument of the additive synthesiser."""

    name: str
    slope: float
    """Fall of the partials in the sustained part, in dB per octave."""
    opening: float
    """Extra brightness at the onset, in dB per octave."""
    odd: float
    """Gain of the even partials, 0 (clarinet-like) to 1."""
    stiffness: float
    """B above: 0 for winds and bowed strings, up to 1e-3 for struck strings."""
    formants: tuple[tuple[float, float, float], ...]
    """(Hz, octaves wide, dB) of each resonance."""
    attack: float
    """Seconds to full loudness."""
    decay: float
    """Time constant of the fall towards the sustained level, in seconds."""
    sustain: float
    """Sustained level, 0 (plucked) to 1 (blown, bowed)."""
    release: float
    """Seconds of fading after the note is let go."""
    vibrato_cents: float
    """Peak deviation of the pitch, in cents."""
    vibrato_hz: float
    """Rate of the vibrato, in Hz."""
    breath: float
    """Noise level relative to the tone, linear."""
    low: int
    """Lowest note, in MIDI semitones."""
    high: int
    """Highest note, in MIDI semitones."""


def make_timbre(index: int) -> Timbre:
    """Draw the timbre of a number; the same number always gives the same timbre.

    Examples
    --------
    >>> make_timbre(3).name
    'additive-003'
    """
    rng = np.random.default_rng([20_25, index])
    plucked, low = rng.random() < 0.4, int(rng.integers(36, 61))
    formants = zip(rng.uniform(250, 5000, 3), rng.uniform(0.2, 0.9, 3), rng.uniform(-6, 18, 3), strict=True)
    return Timbre(
        name=f"additive-{index:03d}",
        slope=float(rng.uniform(-18, -2)),
        opening=float(rng.uniform(0, 6)),
        odd=float(rng.choice([1.0, 1.0, rng.uniform(0, 1)])),
        stiffness=float(10 ** rng.uniform(-5, -3.2)) if plucked else 0.0,
        formants=tuple((float(hz), float(width), float(gain)) for hz, width, gain in formants),
        attack=float(10 ** rng.uniform(-2.6, -1.7 if plucked else -0.8)),
        decay=float(10 ** rng.uniform(-1, 0.2)),
        sustain=float(rng.uniform(0, 0.2) if plucked else rng.uniform(0.5, 1)),
        release=float(10 ** rng.uniform(-1.7, -0.7)),
        vibrato_cents=0.0 if plucked else float(rng.uniform(0, 30)),
        vibrato_hz=float(rng.uniform(4, 7)),
        breath=float(10 ** rng.uniform(-4, -1.3)),
        low=low,
        high=min(96, low + int(rng.integers(24, 49))),
    )


def render(score: Score, timbre: Timbre, sample_rate: int, seed: tuple[int, ...]) -> np.ndarray:
    """Play a score on one timbre.

    Parameters
    ----------
    score : Score
        What to play; its dynamics and level are not applied here.
    timbre : Timbre
        On what.
    sample_rate : int
        Of the result, in Hz; partials above 0.47 of it are left out.
    seed : tuple of int
        Of the partials' phases and the breath noise.

    Returns
    -------
    numpy.ndarray [N]
        Float32 mono samples, ``N = round(score.duration * sample_rate)``.
    """
    rng = np.random.default_rng(seed)
    audio = np.zeros(round(score.duration * sample_rate), np.float32)
    for note in score.notes:
        start = round(note.onset * sample_rate)
        sound = _note(note, timbre, sample_rate, rng)[: len(audio) - start]
        audio[start : start + len(sound)] += sound
    return audio


def vibrato(note: Note, timbre: Timbre, seconds: np.ndarray) -> np.ndarray:
    """Return the deviation from the written pitch in semitones, at times since the note's onset; it fades in over 0.3 s."""
    depth = timbre.vibrato_cents / 100 * np.clip(seconds / 0.3, 0, 1)
    return depth * np.sin(2 * np.pi * timbre.vibrato_hz * seconds)


def _note(note: Note, timbre: Timbre, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    seconds = np.arange(round((note.duration + timbre.release) * sample_rate)) / sample_rate
    hz = 440 * 2 ** ((note.pitch - 69 + vibrato(note, timbre, seconds)) / 12)
    ratios = _ratios(hz.max(), timbre, sample_rate)
    cycles = np.cumsum(hz) / sample_rate
    turns = ratios[:, None] * cycles + rng.random((len(ratios), 1))
    turns -= np.rint(turns)
    waves = np.sin((2 * np.pi * turns).astype(np.float32))  # [partials, samples]
    steady, opened = (_weights(ratios, hz[0], timbre, slope) for slope in (0.0, timbre.opening * (0.5 + note.velocity)))
    fade = np.exp(-seconds / (timbre.decay / 2)).astype(np.float32)
    tone = (1 - fade) * (steady @ waves) + fade * (opened @ waves)
    noise = timbre.breath * rng.standard_normal(len(seconds), np.float32)
    return note.velocity * _envelope(note, timbre, seconds) * (tone + noise)


def _ratios(hz: float, timbre: Timbre, sample_rate: int) -> np.ndarray:
    """Return the partials' frequencies as multiples of the fundamental."""
    k = np.arange(1, MAX_PARTIALS + 1)
    ratios = k * np.sqrt(1 + timbre.stiffness * k**2) / np.sqrt(1 + timbre.stiffness)
    return ratios[ratios * hz < 0.47 * sample_rate]


def _weights(ratios: np.ndarray, hz: float, timbre: Timbre, brighter: float) -> np.ndarray:
    """Return the partials' amplitudes ``[partials]``, of unit energy so that brightness and loudness stay apart."""
    decibels = (timbre.slope + brighter) * np.log2(ratios)
    for centre, width, gain in timbre.formants:
        decibels += gain * np.exp(-0.5 * (np.log2(ratios * hz / centre) / width) ** 2)
    amplitudes = 10 ** (decibels / 20)
    amplitudes[1::2] *= timbre.odd
    return (amplitudes / np.linalg.norm(amplitudes)).astype(np.float32)


def _envelope(note: Note, timbre: Timbre, seconds: np.ndarray) -> np.ndarray:
    attack = np.clip(seconds / timbre.attack, 0, 1)
    held = timbre.sustain + (1 - timbre.sustain) * np.exp(-np.maximum(seconds - timbre.attack, 0) / timbre.decay)
    release = np.clip((note.duration + timbre.release - seconds) / timbre.release, 0, 1)
    return (attack * held * release**2).astype(np.float32)
