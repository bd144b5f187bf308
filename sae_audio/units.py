"""Units of level and pitch: dBFS, how quiet silence is, MIDI semitones, and the names of notes."""

from __future__ import annotations

import math
import re

import torch
from torch import Tensor

from sae_audio.errors import ParameterError

FLOOR_DB = -100.0  # dBFS that digital silence is given
SILENCE_DB = -60.0  # dBFS; quieter frames are unvoiced
NOTES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
NOTE_NAME = re.compile(r"([A-Ga-g])([#b♯♭]?)(-?\d+)")


def to_db(rms: Tensor) -> Tensor:
    """Level in dBFS, ``20 * log10(rms)``, at least -100.

    >>> to_db(torch.tensor([1.0, 0.1, 0.0]))
    tensor([   0.,  -20., -100.])
    """
    return 20 * torch.log10(rms.clamp_min(10 ** (FLOOR_DB / 20)))


def hz_to_midi(f0: Tensor) -> Tensor:
    """MIDI semitones, ``69 + 12 * log2(f0 / 440)``; NaN stays NaN.

    >>> hz_to_midi(torch.tensor([440.0, 880.0]))
    tensor([69., 81.])
    """
    return 69 + 12 * torch.log2(f0 / 440)


def midi_to_hz(midi: Tensor) -> Tensor:
    """Frequency in Hz of MIDI semitones, ``440 * 2**((midi - 69) / 12)``.

    >>> midi_to_hz(torch.tensor([69.0, 57.0]))
    tensor([440., 220.])
    """
    return 440 * 2 ** ((midi - 69) / 12)


def parse_note(text: str) -> float:
    """Return the MIDI number of a note name; ``C4`` is 60.

    Raises
    ------
    ParameterError
        The text is not a letter A to G, an optional ``#`` or ``b``, and an octave number.

    Examples
    --------
    >>> parse_note("A4"), parse_note("F#3"), parse_note("Bb2")
    (69.0, 54.0, 46.0)
    """
    match = NOTE_NAME.fullmatch(text.strip())
    if not match:
        raise ParameterError(f"'{text}' is not a note; write a letter A-G, # or b if needed, and the octave, such as C5 or Bb2")
    letter, accidental, octave = match.groups()
    shift = {"": 0, "#": 1, "♯": 1, "b": -1, "♭": -1}[accidental]
    return float(NOTES.index(letter.upper()) + shift + 12 * (int(octave) + 1))


def note_name(midi: float) -> str:
    """Return the name of the nearest note, with sharps.

    >>> note_name(60), note_name(46), note_name(69.4)
    ('C4', 'A#2', 'A4')
    """
    nearest = math.floor(midi + 0.5)
    return f"{NOTES[nearest % 12]}{nearest // 12 - 1}"
