"""The étude corpus: short clips of synthesised music with exact pitch labels, split by score and by timbre.

Training, validation and test clips never share a score. Half of the test clips are played on timbres that no training or
validation clip uses, and say so. Every clip is a pure function of (seed, split, index), rendered only when asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sae_audio.errors import ParameterError
from sae_audio.etude import additive, soundfont
from sae_audio.etude.programs import PROGRAMS, Program
from sae_audio.etude.scores import Score, frame_pitch, gain_curve, write_score

SAMPLE_RATE = 16_000
FRAME_RATE = 50.0
CLIP_SECONDS = 10.0
SPLIT_SHARES = {"train": 0.70, "validation": 0.15, "test": 0.15}
"""Share of the minutes in each split."""
SOURCES = ("additive", "fluidr3", "both")
N_ADDITIVE = 160
"""Timbres of the additive synthesiser."""
HELD_OUT_EVERY = 5
"""Every fifth timbre of the additive synthesiser is kept for the test split; `programs.py` marks those of FluidR3."""
PEAK = 0.99

Timbre = additive.Timbre | Program


@dataclass(frozen=True)
class Clip:
    """Ten seconds of one timbre."""

    name: str
    """Stable and unique: source, split, seed and index."""
    split: str
    """``train``, ``validation`` or ``test``."""
    instrument: Timbre
    """What plays."""
    score: Score
    """What is played."""
    held_out_timbre: bool
    """True where no training clip of any seed uses this timbre."""
    seed: tuple[int, ...]
    """Of the additive synthesiser's noise."""

    @property
    def timbre(self) -> str:
        """Name of the instrument."""
        return self.instrument.name

    @property
    def polyphonic(self) -> bool:
        """Whether several voices play, so that frames have no single pitch."""
        return self.score.voices > 1

    @property
    def f0(self) -> np.ndarray:
        """Fundamental at each frame's centre in Hz, ``[T]`` float32 at 50 Hz; NaN in rests and in polyphonic clips."""
        n_frames = round(self.score.duration * FRAME_RATE)
        pitch = frame_pitch(self.score, n_frames, FRAME_RATE)
        if isinstance(self.instrument, additive.Timbre):
            pitch += _vibrato(self.score, self.instrument, n_frames)
        return (440 * 2 ** ((pitch - 69) / 12)).astype(np.float32)

    def render(self) -> np.ndarray:
        """Return the audio, ``[N]`` float32 at 16 kHz, its loudest 50 ms at the score's level unless that would clip."""
        if isinstance(self.instrument, Program):
            audio = soundfont.render(self.score, self.instrument, SAMPLE_RATE)
        else:
            audio = additive.render(self.score, self.instrument, SAMPLE_RATE, self.seed)
        audio = audio * gain_curve(self.score, len(audio), SAMPLE_RATE)
        loudest = np.sqrt((audio.reshape(-1, SAMPLE_RATE // 20) ** 2).mean(axis=1).max())
        gain = min(10 ** (self.score.level / 20) / max(loudest, 1e-9), PEAK / max(np.abs(audio).max(), 1e-9))
        return (audio * gain).astype(np.float32)


def corpus(minutes: float, seed: int = 0, source: str = "both", *, split: str | None = None) -> Iterator[Clip]:
    """Yield the clips of a corpus, training clips first.

    Parameters
    ----------
    minutes : float
        Length of all splits together; 70 % train, 15 % validation, 15 % test, each at least one clip.
    seed : int
        Of the scores. Which timbres are held out does not depend on it.
    source : {"additive", "fluidr3", "both"}
        Which synthesiser plays; "both" alternates.
    split : str, optional
        Yield this split only.

    Yields
    ------
    Clip
        Not yet rendered; three in ten are polyphonic.

    Raises
    ------
    ParameterError
        Unknown source or split, or ``minutes`` is not positive.

    Examples
    --------
    >>> clip = next(corpus(1.0, seed=0, source="additive"))
    >>> clip.name, clip.render().shape, clip.f0.shape
    ('additive-train-0-00000', (160000,), (500,))
    """
    if source not in SOURCES or split not in (None, *SPLIT_SHARES):
        raise ParameterError(f"corpus(source={source!r}, split={split!r}): sources are {SOURCES}, splits {tuple(SPLIT_SHARES)}")
    if not minutes > 0:
        raise ParameterError(f"corpus of {minutes} minutes; it must be more than 0")
    for name in SPLIT_SHARES if split is None else (split,):
        for index in range(max(1, round(minutes * 60 / CLIP_SECONDS * SPLIT_SHARES[name]))):
            yield make_clip(name, seed, index, source)


def make_clip(split: str, seed: int, index: int, source: str) -> Clip:
    """Return one clip of a split."""
    kind = source if source != "both" else ("fluidr3", "additive")[index % 2]
    key = (seed, list(SPLIT_SHARES).index(split), index, SOURCES.index(kind))
    rng = np.random.default_rng([7, *key])
    held_out = split == "test" and bool(rng.random() < 0.5)
    instrument = _pick(rng, kind, held_out)
    voices = int(rng.integers(2, 5)) if rng.random() < 0.3 else 1
    score = write_score(key, low=instrument.low, high=instrument.high, voices=voices, duration=CLIP_SECONDS)
    return Clip(f"{kind}-{split}-{seed}-{index:05d}", split, instrument, score, held_out, key)


def clip_named(name: str) -> Clip:
    """Return the clip that has a name, of any corpus and seed: clips are functions of their names.

    Raises
    ------
    ParameterError
        No clip is named so.

    Examples
    --------
    >>> clip_named("additive-train-0-00001").timbre == make_clip("train", 0, 1, "additive").timbre
    True
    """
    found = re.fullmatch(rf"({'|'.join(SOURCES[:2])})-({'|'.join(SPLIT_SHARES)})-(\d+)-(\d+)", name, re.ASCII)
    if not found:
        raise ParameterError(f"'{name}' is not the name of a synthesised clip, such as additive-train-0-00001")
    kind, split, seed, index = found.groups()
    return make_clip(split, int(seed), int(index), kind)


def _pick(rng: np.random.Generator, kind: str, held_out: bool) -> Timbre:
    if kind == "fluidr3":
        pool = [program for program in PROGRAMS if program.held_out == held_out]
        return pool[rng.integers(len(pool))]
    numbers = [i for i in range(N_ADDITIVE) if (i % HELD_OUT_EVERY == 0) == held_out]
    return additive.make_timbre(int(rng.choice(numbers)))


def _vibrato(score: Score, timbre: additive.Timbre, n_frames: int) -> np.ndarray:
    """Return each frame's deviation from the written pitch, ``[n_frames]`` in semitones."""
    times, shift = (np.arange(n_frames) + 0.5) / FRAME_RATE, np.zeros(n_frames)
    for note in score.notes:
        held = (times >= note.onset) & (times < note.onset + note.duration)
        shift[held] = additive.vibrato(note, timbre, times[held] - note.onset)
    return shift
