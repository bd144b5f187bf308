"""A stand-in for VocalSet: synthesised voices in the layout of the archive, for tests and for a demonstration without a download.

Source and filter (Klatt 1980, much simplified): partials that fall with frequency, or noise for breath, through three formants of
a vowel. A technique is a handful of controls over pitch, level and noise, and sounds like that technique about as much as a stick
figure looks like a person: nothing about singing follows from what a model makes of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soundfile

from sae_audio.files import write_bytes

FORMANTS = {
    "a": (730, 1090, 2440),
    "e": (530, 1840, 2480),
    "i": (270, 2290, 3010),
    "o": (570, 840, 2410),
    "u": (300, 870, 2240),
}
"""Hz of the first three resonances (Peterson and Barney 1952, men)."""
WIDTHS = (90, 110, 170)
"""Hz of their bandwidths."""
MOST_PARTIALS = 50
MARK = "STAND-IN.json"
"""File in the folder of a finished corpus: what it is and how it was made."""


@dataclass(frozen=True)
class Voice:
    """Controls of the synthesiser; a sentence per field."""

    f0: float = 220.0
    """Pitch, in Hz."""
    vowel: str = "a"
    """A key of ``FORMANTS``."""
    size: float = 1.0
    """Factor on the formants; above 1 for shorter vocal tracts."""
    tilt: float = -12.0
    """Fall of the partials, in dB per octave."""
    vibrato_cents: float = 0.0
    """Peak deviation of a sinusoidal vibrato, in cents."""
    vibrato_hz: float = 5.5
    """Its rate, in Hz."""
    trill_semitones: float = 0.0
    """Upper note of a trill, in semitones above the pitch."""
    trill_hz: float = 6.0
    """Alternations per second."""
    pulse: float = 0.0
    """Depth of regular dips in level, 0 to 1 (trillo, lip trill)."""
    pulse_hz: float = 8.0
    """Dips per second."""
    breath: float = 0.01
    """Level of the noise relative to the tone, linear."""
    jitter: float = 0.0
    """Standard deviation of the pitch from one centisecond to the next, as a share of it (vocal fry)."""
    glide: float = 0.0
    """Fall of the pitch over the clip, in semitones (speech)."""
    closed: bool = False
    """Lips closed: what is above 800 Hz falls by 24 dB per octave more."""


TECHNIQUES: dict[str, dict] = {
    "belt": dict(tilt=-6.0, vibrato_cents=25.0),
    "breathy": dict(breath=0.6, tilt=-18.0),
    "inhaled": dict(breath=3.0, jitter=0.02, tilt=-15.0),
    "lip_trill": dict(pulse=0.7, pulse_hz=22.0, closed=True),
    "spoken": dict(glide=5.0, pulse=0.8, pulse_hz=4.0),
    "straight": dict(),
    "trill": dict(trill_semitones=2.0),
    "trillo": dict(pulse=0.95, pulse_hz=8.0),
    "vibrato": dict(vibrato_cents=90.0),
    "vocal_fry": dict(jitter=0.15, tilt=-9.0),
}
"""How each technique differs from a straight tone; vocal fry is sung two octaves lower besides."""


def sing(voice: Voice, seconds: float, sample_rate: int, seed: int = 0) -> np.ndarray:
    """Synthesise one tone.

    Parameters
    ----------
    voice : Voice
        What to sing.
    seconds : float
        Duration.
    sample_rate : int
        Hz.
    seed : int
        Of noise, jitter and phases.

    Returns
    -------
    numpy.ndarray [round(seconds * sample_rate)]
        float32, root mean square 0.1 before its fades of 20 ms.
    """
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    hz = voice.f0 * 2 ** (semitones(voice, time, rng) / 12)
    cycles = np.cumsum(hz) / sample_rate
    k = np.arange(1, min(MOST_PARTIALS, int(0.45 * sample_rate / hz.max())) + 1)
    weights = 10 ** (voice.tilt * np.log2(k) / 20) * gain(voice, k * np.median(hz))
    tone = weights @ np.sin(2 * np.pi * (k[:, None] * cycles + rng.random((len(k), 1))))
    spectrum = np.fft.rfft(rng.standard_normal(len(time))) * gain(voice, np.fft.rfftfreq(len(time), 1 / sample_rate))
    noise = np.fft.irfft(spectrum, len(time))
    sound = tone / _rms(tone) + voice.breath * noise / _rms(noise)
    sound = sound * (1 - voice.pulse * (0.5 + 0.5 * np.cos(2 * np.pi * voice.pulse_hz * time)))
    fade = np.clip(np.minimum(time, time[::-1]) / 0.02, 0, 1)
    return (0.1 * sound / _rms(sound) * fade).astype(np.float32)


def semitones(voice: Voice, time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the deviation from the voice's pitch at each time, in semitones."""
    steps = rng.standard_normal(round(time[-1] * 100) + 2)
    wobble = np.interp(time * 100, np.arange(len(steps)), 12 * np.log2(1 + voice.jitter * steps.clip(-3, 3)))
    vibrato = voice.vibrato_cents / 100 * np.sin(2 * np.pi * voice.vibrato_hz * time)
    trill = voice.trill_semitones * (np.sin(2 * np.pi * voice.trill_hz * time) > 0)
    return wobble + vibrato + trill - voice.glide * time / time[-1]


def gain(voice: Voice, hz: np.ndarray) -> np.ndarray:
    """Return the linear gain of the vocal tract at frequencies in Hz."""
    resonances = zip(FORMANTS[voice.vowel], WIDTHS, strict=True)
    total = sum(1 / np.sqrt(1 + ((hz - voice.size * centre) / width) ** 2) for centre, width in resonances)
    return total / (1 + (hz / 800) ** 4) if voice.closed else total


def singer_voice(name: str, technique: str, vowel: str, rng: np.random.Generator) -> Voice:
    """Return the voice of a singer of VocalSet's names in one recording: own range, tract and tilt, and some chance."""
    own = np.random.default_rng([len(name), *name.encode()])
    female = name.startswith("female")
    midi = (62 if female else 50) + own.integers(-3, 4) + rng.integers(0, 8) - 24 * (technique == "vocal_fry")
    plain = Voice(
        f0=float(440 * 2 ** ((midi - 69) / 12)),
        vowel=vowel,
        size=float((1.17 if female else 1.0) * own.uniform(0.95, 1.05)),
        tilt=float(-12 + own.uniform(-2, 2)),
    )
    controls = TECHNIQUES[technique].items()
    return replace(
        plain, **{key: value * rng.uniform(0.8, 1.2) if isinstance(value, float) else value for key, value in controls}
    )


def write_corpus(
    folder: Path, singers: tuple[str, ...], vowels: str = "aeiou", seconds: float = 1.5, sample_rate: int = 16_000, seed: int = 0
) -> Path:
    """Write a corpus in VocalSet's layout, with oddities of the archive; one that is there already is left as it is.

    Parameters
    ----------
    folder : Path
        Gets ``FULL/<singer>/<context>/<technique>/``, ``__MACOSX`` and ``STAND-IN.json``.
    singers : tuple of str
        For example ``female1``.
    vowels : str
        Vowels of each technique in both contexts, long tones and scales.
    seconds, sample_rate
        Of a clip.
    seed : int
        Of everything drawn.
    """
    about = {"what": "synthesised voices, not recordings", "singers": singers, "vowels": vowels, "seconds": seconds, "seed": seed}
    mark = json.dumps(about | {"sample_rate": sample_rate}).encode()
    if (folder / MARK).is_file() and (folder / MARK).read_bytes() == mark:
        return folder
    for number, (singer, technique, context, stem, vowel) in enumerate(_recordings(singers, vowels)):
        rng = np.random.default_rng([seed, number])
        sound = sing(singer_voice(singer, technique, vowel, rng), seconds, sample_rate, seed + number)
        misspelt = technique == "vibrato" and singer == singers[0]  # as one folder of the archive is
        home = folder / "FULL" / singer / context / ("vibrado" if misspelt else technique)
        home.mkdir(parents=True, exist_ok=True)
        soundfile.write(home / f"{stem}.wav", sound, sample_rate)
    uncut = folder / "FULL" / singers[0] / "long_tones" / "straight" / "f1_long_tones_straight.wav"
    soundfile.write(uncut, sing(Voice(), seconds, sample_rate), sample_rate)
    ghost = folder / "__MACOSX" / "FULL" / singers[0] / "long_tones" / "straight"
    ghost.mkdir(parents=True, exist_ok=True)
    (ghost / "._f1_long_tones_straight_a.wav").write_bytes(b"\0" * 64)
    write_bytes(folder / MARK, mark)
    return folder


def _recordings(singers: tuple[str, ...], vowels: str) -> Iterator[tuple[str, str, str, str, str]]:
    """Yield singer, technique, context, file name and vowel of every recording."""
    for singer in singers:
        short = singer[0] + re.sub(r"\D", "", singer)
        yield from ((singer, "spoken", "excerpts", f"{short}_{song}_spoken", "a") for song in ("caro", "dona", "row"))
        for technique in (name for name in TECHNIQUES if name != "spoken"):
            for context in ("long_tones", "scales"):
                yield from ((singer, technique, context, f"{short}_{context}_{technique}_{vowel}", vowel) for vowel in vowels)


def _rms(sound: np.ndarray) -> float:
    return float(np.sqrt(np.mean(sound**2)))
