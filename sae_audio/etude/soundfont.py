"""Scores played by FluidR3_GM (MIT licence) through fluidsynth."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchaudio.functional import resample

from sae_audio.errors import DataError
from sae_audio.etude.programs import Program
from sae_audio.etude.scores import Note, Score

SOUNDFONT = Path("/usr/share/sounds/sf2/FluidR3_GM.sf2")
CHANNELS = 16
RATE = 32_000
"""Fluidsynth plays at this rate, in Hz, and is then resampled: at 16 kHz its interpolation aliases."""
BLOCK = 64
"""Fluidsynth's internal block, in samples: events fall on multiples of it, 2 ms apart."""


@lru_cache(maxsize=1)
def _font() -> tuple[Any, ctypes.c_void_p]:
    """Load the soundfont, which takes a second, into a synthesiser that never plays; return both."""
    try:
        import fluidsynth
    except (ImportError, AttributeError, OSError) as error:  # the module is missing, or it finds no library to open
        raise DataError(f"fluidsynth cannot be used ({error}); {_REMEDY}") from error
    if not SOUNDFONT.exists():
        raise DataError(f"soundfont {SOUNDFONT} is missing; {_REMEDY}")
    keeper = _new_synth()
    keeper.sfload(str(SOUNDFONT))
    find = fluidsynth._fl.fluid_synth_get_sfont
    find.restype = ctypes.c_void_p
    return keeper, ctypes.c_void_p(find(ctypes.c_void_p(keeper.synth), 0))


def _new_synth() -> Any:
    import fluidsynth

    quiet = {"synth.reverb.active": 0, "synth.chorus.active": 0}
    return fluidsynth.Synth(gain=0.5, samplerate=float(RATE), channels=CHANNELS, **quiet)


@contextmanager
def _fresh_synth(program: Program) -> Iterator[Any]:
    """Lend a synthesiser that plays a program and has played nothing: one that has starts notes from where others ended."""
    _, font = _font()
    import fluidsynth

    synth, lent = _new_synth(), fluidsynth._fl
    number = lent.fluid_synth_add_sfont(ctypes.c_void_p(synth.synth), font)
    try:
        for channel in range(CHANNELS):
            synth.program_select(channel, number, 0, program.number)
        yield synth
    finally:
        for channel in range(CHANNELS):  # or it warns of each that its program is gone
            synth.program_unset(channel)
        lent.fluid_synth_remove_sfont(ctypes.c_void_p(synth.synth), font)  # which would be freed with it
        synth.delete()


_REMEDY = (
    "install it with 'apt install libfluidsynth3 fluid-soundfont-gm' and 'pip install pyfluidsynth', "
    "or use the additive source, which needs neither"
)


def check() -> None:
    """Raise ``DataError``, which names the packages, unless fluidsynth and the soundfont can be used."""
    _font()


def render(score: Score, program: Program, sample_rate: int) -> np.ndarray:
    """Play a score on one program.

    Parameters
    ----------
    score : Score
        What to play; its dynamics and level are not applied here.
    program : Program
        On what.
    sample_rate : int
        Of the result, in Hz.

    Returns
    -------
    numpy.ndarray [N]
        Float32 mono samples, ``N = round(score.duration * sample_rate)``.

    Raises
    ------
    DataError
        Fluidsynth, its Python binding or the soundfont is missing; the message names the packages.
    """
    with _fresh_synth(program) as synth:
        mono = torch.from_numpy(_play(synth, score))
    return resample(mono, RATE, sample_rate)[: round(score.duration * sample_rate)].numpy()


def _play(synth: Any, score: Score) -> np.ndarray:
    """Send the events in order and collect the samples between them, ``[samples]`` float32 at ``RATE``."""
    pieces, now = [], 0
    for block, action in _events(score):
        pieces.append(_samples(synth, (block - now) * BLOCK))
        now = block
        action(synth)
    end = -(-round(score.duration * RATE) // BLOCK)
    return np.concatenate([*pieces, _samples(synth, (end - now) * BLOCK)])


def _samples(synth: Any, count: int) -> np.ndarray:
    """Take samples as floats: the 16-bit path dithers, so it would not play the same score twice the same."""
    import fluidsynth

    left, right = np.zeros(count, np.float32), np.zeros(count, np.float32)
    pointers = [side.ctypes.data_as(ctypes.c_void_p) for side in (left, right)]
    write = fluidsynth._fl.fluid_synth_write_float
    write(ctypes.c_void_p(synth.synth), count, pointers[0], 0, 1, pointers[1], 0, 1)
    return (left + right) / 2


def _events(score: Score) -> list[tuple[int, Any]]:
    """Note-offs and note-ons as (block, action), in order of time, offs first."""
    events, free = [], [0.0] * score.voices
    for note in score.notes:
        channel = next((c for c, time in enumerate(free) if time <= note.onset), 0)
        free[channel] = note.onset + note.duration
        start, stop = (round(time * RATE / BLOCK) for time in (note.onset, note.onset + note.duration))
        events += [(start, 1, _on(note, channel)), (max(stop, start + 1), 0, _off(note, channel))]
    return [(block, action) for block, _, action in sorted(events, key=lambda event: event[:2])]


def _on(note: Note, channel: int) -> Any:
    def act(synth: Any) -> None:
        synth.pitch_bend(channel, round((note.pitch - round(note.pitch)) / 2 * 8192))  # full bend is 2 semitones
        synth.noteon(channel, round(note.pitch), max(1, round(note.velocity * 127)))

    return act


def _off(note: Note, channel: int) -> Any:
    return lambda synth: synth.noteoff(channel, round(note.pitch))
