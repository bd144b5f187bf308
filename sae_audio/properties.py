"""Properties and their classes: bins of pitch, loudness and brightness with edges in physical units and names.

| property   | honest mode (fixed, the same in every bundle)               | paper mode (arXiv 2510.23802)              |
|------------|-------------------------------------------------------------|--------------------------------------------|
| pitch      | 66 semitones, C2 to F7                                      | the same                                   |
| loudness   | 20 bins of 3 dB centred on -60, -57 ... -3 dBFS             | 20 equal-width bins of linear RMS          |
| brightness | 20 third-octave bands (IEC 61260) centred on 125 Hz - 10 kHz | 20 equal-width bins of the centroid in Hz  |

The papers call loudness "amplitude" and brightness "timbre".
"""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import asdict, dataclass, fields
from itertools import pairwise

import torch
from torch import Tensor

from sae_audio.descriptors import Descriptors
from sae_audio.errors import ParameterError
from sae_audio.units import SILENCE_DB, hz_to_midi, to_db

NOTES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
PITCH_LOWEST, PITCH_CLASSES = 36, 66  # MIDI C2; C2 to F7
LOUDNESS_LOWEST_DB, LOUDNESS_STEP_DB = -60, 3
BRIGHTNESS_LOWEST = -9  # third octaves re 1 kHz: 125 Hz
BRIGHTNESS_NAMES = (
    *("125 Hz", "160 Hz", "200 Hz", "250 Hz", "315 Hz", "400 Hz", "500 Hz", "630 Hz", "800 Hz", "1 kHz", "1.25 kHz"),
    *("1.6 kHz", "2 kHz", "2.5 kHz", "3.15 kHz", "4 kHz", "5 kHz", "6.3 kHz", "8 kHz", "10 kHz"),
)
BINS = 20
SCALES = ("semitone", "dB", "octave", "linear", "Hz")


@dataclass(frozen=True)
class Property:
    """A measured quantity cut into named classes.

    A value ``v`` on the axis belongs to class ``i`` when ``edges[i] <= v < edges[i + 1]``; the last class includes its
    upper edge.
    """

    name: str
    """``pitch``, ``loudness`` or ``brightness``."""
    unit: str
    """Physical unit of ``physical(edges)`` and of the class names: ``Hz``, ``dBFS`` or ``amplitude``."""
    edges: tuple[float, ...]
    """K + 1 rising bin edges, in axis units."""
    names: tuple[str, ...]
    """K distinct class names, for example ``C5``, ``-24 dB``, ``2 kHz``."""
    scale: str
    """The axis: ``semitone`` (MIDI), ``dB`` (dBFS), ``octave`` (log2 Hz), ``linear`` (RMS amplitude) or ``Hz``."""

    def __post_init__(self) -> None:
        if self.scale not in SCALES:
            raise ParameterError(f"property '{self.name}' has scale '{self.scale}'; use one of {', '.join(SCALES)}")
        if len(self.edges) != len(self.names) + 1 or len(set(self.names)) != len(self.names):
            raise ParameterError(
                f"property '{self.name}' has {len(self.edges)} edges and {len(self.names)} names; "
                "K distinct names need K + 1 edges"
            )
        if any(not low < high for low, high in pairwise(self.edges)):
            raise ParameterError(f"property '{self.name}' has edges that do not rise; sort them and remove duplicates")

    @property
    def n_classes(self) -> int:
        """Number of classes, K."""
        return len(self.names)

    @property
    def centres(self) -> tuple[float, ...]:
        """Middle of each class, in axis units."""
        return tuple((low + high) / 2 for low, high in pairwise(self.edges))

    def axis(self, descriptors: Descriptors) -> Tensor:
        """Return the property on its axis.

        Parameters
        ----------
        descriptors : Descriptors
            Tensors ``[B, T]`` (or any one shape).

        Returns
        -------
        Tensor, the same shape
            Axis units. NaN where undefined: pitch of unvoiced frames, pitch and brightness of frames below -60 dBFS.
        """
        if self.scale == "linear":
            return descriptors.rms
        if self.scale == "Hz":
            return _audible(descriptors.centroid, descriptors)
        return axis_values(descriptors, self.name)

    def classes(self, descriptors: Descriptors) -> Tensor:
        """Return the class of each frame.

        Parameters
        ----------
        descriptors : Descriptors
            Tensors ``[B, T]`` (or any one shape).

        Returns
        -------
        Tensor of int64, the same shape
            0 to K - 1; -1 where the property is undefined or outside the edges.
        """
        return self.classes_of(self.axis(descriptors))

    def classes_of(self, values: Tensor) -> Tensor:
        """Return the class of each axis value (int64, same shape); -1 where it is NaN or outside the edges."""
        edges = torch.tensor(self.edges, dtype=torch.float64, device=values.device)
        values = values.double()
        index = torch.bucketize(values, edges, right=True) - 1
        index = torch.where(values == edges[-1], self.n_classes - 1, index)
        return torch.where((values >= edges[0]) & (values <= edges[-1]), index, -1)

    def class_index(self, name: str) -> int:
        """Return the index of a class by its name, or by a value that it contains (``Bb2``, ``-20 dB``, ``2.1 kHz``).

        Raises
        ------
        ParameterError
            No class has this name or contains this value; the message lists near names.
        """
        if name in self.names:
            return self.names.index(name)
        value = self._parse(name)
        index = -1 if value is None else int(self.classes_of(torch.tensor(value, dtype=torch.float64)))
        if index < 0:
            raise ParameterError(
                f"{self.name} has no class '{name}'; its {self.n_classes} classes run from {self.names[0]} to {self.names[-1]}, "
                f"near names: {', '.join(self._near(name, value))}"
            )
        return index

    def nearest(self, value: float) -> int:
        """Return the index of the class whose centre is nearest to an axis value, however far away."""
        return min(range(self.n_classes), key=lambda index: abs(self.centres[index] - value))

    def physical(self, value: float) -> float:
        """Return an axis value in the property's physical unit: semitones and octaves become Hz, the rest stays."""
        if self.scale == "semitone":
            return 440 * 2 ** ((value - 69) / 12)
        return 2.0**value if self.scale == "octave" else value

    def to_dict(self) -> dict:
        """Return a JSON-ready dictionary; ``from_dict`` reads it back exactly."""
        return {**asdict(self), "edges": list(self.edges), "names": list(self.names)}

    @classmethod
    def from_dict(cls, values: dict) -> Property:
        """Build a property from a dictionary; an unknown or missing key raises ``ParameterError`` and is named."""
        known = {field.name for field in fields(cls)}
        if wrong := known ^ set(values):
            raise ParameterError(f"property has unknown or missing keys: {', '.join(sorted(wrong))}")
        return cls(**{**values, "edges": tuple(map(float, values["edges"])), "names": tuple(values["names"])})

    def _parse(self, text: str) -> float | None:
        """Axis value of a note name or of a number with an optional unit; None if it is neither."""
        if self.scale == "semitone" and _NOTE.fullmatch(text.strip()):
            return parse_note(text)
        number = _NUMBER.fullmatch(text.strip())
        if not number or (number[3] or self.unit)[:2].lower() != self.unit[:2].lower():
            return None
        return self._from_physical(float(number[1]) * (1000 if number[2] else 1))

    def _from_physical(self, value: float) -> float:
        if self.scale not in ("semitone", "octave"):
            return value
        octaves = math.log2(value) if value > 0 else -math.inf
        return octaves if self.scale == "octave" else 69 + 12 * (octaves - math.log2(440))

    def _near(self, text: str, value: float | None) -> list[str]:
        if value is None:
            return difflib.get_close_matches(text, self.names, n=3, cutoff=0) or list(self.names[:3])
        nearest = sorted(range(self.n_classes), key=lambda i: abs(self.centres[i] - value))
        return [self.names[i] for i in nearest[:3]]


def axis_values(descriptors: Descriptors, name: str) -> Tensor:
    """Return a property in the units that control vectors are calibrated in.

    Parameters
    ----------
    descriptors : Descriptors
        Tensors of any one shape.
    name : str
        ``pitch`` (MIDI semitones), ``loudness`` (dBFS, at least -100) or ``brightness`` (octaves, log2 of Hz).

    Returns
    -------
    Tensor, the same shape
        NaN where undefined: pitch of unvoiced frames, pitch and brightness of frames below -60 dBFS.
    """
    if name == "loudness":
        return to_db(descriptors.rms)
    if name not in ("pitch", "brightness"):
        raise ParameterError(f"property is '{name}'; use pitch, loudness or brightness")
    values = hz_to_midi(descriptors.f0) if name == "pitch" else torch.log2(descriptors.centroid)
    return _audible(values, descriptors)


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
        "brightness": _equal_width("brightness", "Hz", _audible(descriptors.centroid, descriptors), "Hz"),
    }


_NUMBER = re.compile(r"([+-]?\d+(?:\.\d+)?)\s*(k?)(hz|dbfs|db)?", re.IGNORECASE)
_NOTE = re.compile(r"([A-Ga-g])([#b♯♭]?)(-?\d+)")


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
    match = _NOTE.fullmatch(text.strip())
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


def _audible(values: Tensor, descriptors: Descriptors) -> Tensor:
    return torch.where(to_db(descriptors.rms) < SILENCE_DB, torch.nan, values)


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
