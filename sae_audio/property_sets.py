"""Which classes pitch, loudness and brightness have: fixed ones (honest mode), or those of arXiv 2510.23802 (paper mode).

| property   | honest mode (fixed, the same in every bundle)               | paper mode (arXiv 2510.23802)              |
|------------|-------------------------------------------------------------|--------------------------------------------|
| pitch      | 66 semitones, C2 to F7                                      | the same                                   |
| loudness   | 20 bins of 3 dB centred on -60, -57 ... -3 dBFS             | 20 equal-width bins of linear RMS          |
| brightness | 20 third-octave bands (IEC 61260) centred on 125 Hz - 10 kHz | 20 equal-width bins of the centroid in Hz  |

The papers call loudness "amplitude" and brightness "timbre".
"""

from __future__ import annotations

import math
from itertools import pairwise

from torch import Tensor

from sae_audio.descriptors import Descriptors
from sae_audio.errors import ParameterError
from sae_audio.properties import Property, audible
from sae_audio.units import note_name

PITCH_LOWEST, PITCH_CLASSES = 36, 66  # MIDI C2; C2 to F7
LOUDNESS_LOWEST_DB, LOUDNESS_STEP_DB = -60, 3
BRIGHTNESS_LOWEST = -9  # third octaves re 1 kHz: 125 Hz
BRIGHTNESS_NAMES = (
    *("125 Hz", "160 Hz", "200 Hz", "250 Hz", "315 Hz", "400 Hz", "500 Hz", "630 Hz", "800 Hz", "1 kHz", "1.25 kHz"),
    *("1.6 kHz", "2 kHz", "2.5 kHz", "3.15 kHz", "4 kHz", "5 kHz", "6.3 kHz", "8 kHz", "10 kHz"),
)
BINS = 20


def property_sets(mode: str, descriptors: Descriptors) -> dict[str, Property]:
    """Return the classes of ``honest`` or ``paper`` mode; the paper's depend on the training data's descriptors."""
    if mode not in ("honest", "paper"):
        raise ParameterError(f"mode is '{mode}'; use 'honest' or 'paper'")
    return honest_properties() if mode == "honest" else paper_properties(descriptors)


def honest_properties() -> dict[str, Property]:
    """Return the default classes; they are fixed, so a class means the same in every bundle.

    Loudness classes start at -61.5 dBFS; quieter frames are silence and have none. Frames above -1.5 dBFS (only a clipped
    square wave is that loud) have none either. Brightness bands run from 111 Hz to 11.3 kHz in every space; bands above
    Nyquist stay empty.

    Returns
    -------
    dict
        ``pitch``, ``loudness``, ``brightness``.
    """
    loudness = [LOUDNESS_LOWEST_DB + LOUDNESS_STEP_DB * i for i in range(BINS)]
    loudness_edges = tuple(LOUDNESS_LOWEST_DB + LOUDNESS_STEP_DB * (i - 0.5) for i in range(BINS + 1))
    bands = tuple(math.log2(1000) + (BRIGHTNESS_LOWEST + i - 0.5) / 3 for i in range(BINS + 1))
    return {
        "pitch": _pitch(),
        "loudness": Property("loudness", "dBFS", loudness_edges, tuple(f"{level} dB" for level in loudness), "dB"),
        "brightness": Property("brightness", "Hz", bands, BRIGHTNESS_NAMES, "octave"),
    }


def paper_properties(descriptors: Descriptors) -> dict[str, Property]:
    """Return the paper's classes: 20 equal-width linear bins over the range of the data (arXiv 2510.23802).

    Most frames fall into few of them; report the majority rate and balanced accuracy beside any accuracy.

    Parameters
    ----------
    descriptors : Descriptors
        Training data, tensors of any one shape. Brightness looks at frames of at least -60 dBFS.

    Returns
    -------
    dict
        ``pitch`` (66 semitones), ``loudness`` (linear RMS), ``brightness`` (Hz).

    Raises
    ------
    ParameterError
        The data has no range: one value only, or no frame with sound.
    """
    return {
        "pitch": _pitch(),
        "loudness": _equal_width("loudness", "amplitude", descriptors.rms, "linear"),
        "brightness": _equal_width("brightness", "Hz", audible(descriptors.centroid, descriptors), "Hz"),
    }


def _pitch() -> Property:
    notes = range(PITCH_LOWEST, PITCH_LOWEST + PITCH_CLASSES)
    edges = tuple(note - 0.5 for note in (*notes, PITCH_LOWEST + PITCH_CLASSES))
    return Property("pitch", "Hz", edges, tuple(note_name(note) for note in notes), "semitone")


def _equal_width(name: str, unit: str, values: Tensor, scale: str) -> Property:
    values = values[values.isfinite()].double()
    low, high = (float(values.min()), float(values.max())) if values.numel() else (0.0, 0.0)
    if not high > low:
        raise ParameterError(
            f"paper-mode {name} needs a range of values, the data has only {low:g} {unit}; use more varied sound"
        )
    edges = (*(low + (high - low) * i / BINS for i in range(BINS)), high)
    digits = 1 + math.ceil(math.log10(high / (high - low) * BINS))  # enough for neighbouring centres to differ
    names = tuple(_named((a + b) / 2, unit, digits) for a, b in pairwise(edges))
    return Property(name, unit, edges, names, scale)


def _named(value: float, unit: str, digits: int) -> str:
    if unit == "Hz" and value >= 1000:
        return f"{value / 1000:.{digits}g} kHz"
    return f"{value:.{digits}g} {unit}" if unit == "Hz" else f"{value:.{digits}g}"
