"""A property: a measured quantity cut into classes, with edges in physical units and names; and the axis it is measured on."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from itertools import pairwise

import torch
from torch import Tensor

from sae_audio.descriptors import Descriptors
from sae_audio.errors import ParameterError
from sae_audio.units import NOTE_NAME, SILENCE_DB, hz_to_midi, parse_note, to_db

SCALES = ("semitone", "dB", "octave", "linear", "Hz")


@dataclass(frozen=True)
class Property:
    """A measured quantity cut into named classes.

    A value ``v`` on the axis belongs to class ``i`` when ``edges[i] <= v < edges[i + 1]``; the last class includes its
    upper edge.
    """

    name: str
    """``pitch``, ``loudness``, ``brightness``, or another key of ``AXES_OF``."""
    unit: str
    """Physical unit of the class names: ``Hz``, ``dBFS``, ``amplitude`` or another; nothing for a ratio."""
    edges: tuple[float, ...]
    """K + 1 rising bin edges, in axis units."""
    names: tuple[str, ...]
    """K distinct class names, for example ``C5``, ``-24 dB``, ``2 kHz``."""
    scale: str
    """The axis: ``semitone`` (MIDI), ``dB`` (dBFS), ``octave`` (log2 Hz), ``linear`` (amplitude or a ratio) or ``Hz``."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "edges", tuple(map(float, self.edges)))  # as they come back from JSON
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
        published = PUBLISHED_AXES.get((self.name, self.scale))
        return published(descriptors) if published else axis_values(descriptors, self.name)

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

    def to_dict(self) -> dict:
        """Return a JSON-ready dictionary; ``from_dict`` reads it back exactly."""
        return {**asdict(self), "edges": list(self.edges), "names": list(self.names)}

    @classmethod
    def from_dict(cls, values: dict) -> Property:
        """Build a property from a dictionary; an unknown or missing key raises ``ParameterError`` and is named."""
        known = {field.name for field in fields(cls)}
        if wrong := known ^ set(values):
            raise ParameterError(f"property has unknown or missing keys: {', '.join(sorted(wrong))}")
        return cls(**{**values, "edges": tuple(values["edges"]), "names": tuple(values["names"])})

    def _parse(self, text: str) -> float | None:
        """Axis value of a note name or of a number with an optional unit; None if it is neither."""
        if self.scale == "semitone" and NOTE_NAME.fullmatch(text.strip()):
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
        A key of ``AXES_OF``: ``pitch`` (MIDI semitones), ``loudness`` (dBFS, at least -100), ``brightness`` (octaves, log2 of
        Hz).

    Returns
    -------
    Tensor, the same shape
        NaN where undefined: pitch of unvoiced frames, pitch and brightness of frames below -60 dBFS.
    """
    if name not in AXES_OF:
        raise ParameterError(f"property is '{name}'; use one of {', '.join(AXES_OF)}")
    return AXES_OF[name](descriptors)


_NUMBER = re.compile(r"([+-]?\d+(?:\.\d+)?)\s*(k?)(hz|dbfs|db)?", re.IGNORECASE)


def audible(values: Tensor, descriptors: Descriptors) -> Tensor:
    """Return values with NaN in the frames that are quieter than -60 dBFS."""
    return torch.where(to_db(descriptors.rms) < SILENCE_DB, torch.nan, values)


Axis = Callable[[Descriptors], Tensor]
AXES_OF: dict[str, Axis] = {
    "pitch": lambda d: audible(hz_to_midi(d.f0), d),
    "loudness": lambda d: to_db(d.rms),
    "brightness": lambda d: audible(torch.log2(d.centroid), d),
}
"""How every property is read off the descriptors, in the units that its controls are calibrated in."""
PUBLISHED_AXES: dict[tuple[str, str], Axis] = {
    ("loudness", "linear"): lambda d: d.rms,
    ("brightness", "Hz"): lambda d: audible(d.centroid, d),
}
"""The other axes of arXiv 2510.23802, by property and scale."""
