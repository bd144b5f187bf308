"""Units of level and pitch: dBFS and MIDI semitones, and how quiet silence is."""

from __future__ import annotations

import torch
from torch import Tensor

FLOOR_DB = -100.0  # dBFS that digital silence is given
SILENCE_DB = -60.0  # dBFS; quieter frames are unvoiced


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
