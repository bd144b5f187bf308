"""The atlas: what each feature of an SAE does on a corpus. A feature *fires* in a frame where its activation is above 0."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import NamedTuple

from torch import Tensor

from sae_audio.errors import ParameterError
from sae_audio.naming import Name
from sae_audio.tally import HISTOGRAM_EDGES


class Moment(NamedTuple):
    """A frame in which a feature fires strongly."""

    recording: str
    """Name of the recording."""
    time: float
    """Centre of the frame, in seconds from the start of the recording."""
    value: float
    """Activation."""


class Neighbour(NamedTuple):
    """A feature whose decoder direction points the same way."""

    feature: int
    """Its index."""
    cosine: float
    """Cosine between the two decoder directions in latent units, -1 to 1."""


@dataclass(frozen=True, eq=False)
class Tuning:
    """How the features respond to the classes of one property."""

    frames: Tensor
    """[n_classes] int64: frames of each class."""
    rate: Tensor
    """[d_sae, n_classes] float32: share of the frames of a class in which a feature fires, 0 to 1."""
    mean: Tensor
    """[d_sae, n_classes] float32: mean activation over all frames of a class, silent ones included."""
    bits: Tensor
    """[d_sae] float32: mutual information of firing and class, in bits, corrected for bias (see ``naming``)."""


@dataclass(frozen=True)
class Feature:
    """Everything known about one feature, for a table, a page or a person."""

    index: int
    """Column of the acts."""
    name: Name
    """Name with its evidence."""
    density: float
    """Share of all frames in which it fires, 0 to 1."""
    mean: float
    """Mean activation where it fires."""
    max: float
    """Largest activation."""
    bits: dict[str, float]
    """Per property: information of its firing about the class, in bits."""
    moments: tuple[Moment, ...]
    """Strongest moments, best first, at least a second apart."""
    neighbours: tuple[Neighbour, ...]
    """Most similar features, best first."""


@dataclass(frozen=True, eq=False)
class Atlas:
    """Statistics of all features over a corpus. ``atlas.feature(i)`` puts those of one feature together."""

    density: Tensor
    """[d_sae] float32: share of frames in which the feature fires."""
    mean: Tensor
    """[d_sae] float32: mean activation over the frames in which it fires; 0 if it never does."""
    max: Tensor
    """[d_sae] float32: largest activation; 0 if it never fires."""
    seconds: Tensor
    """[d_sae] int64: separate seconds of sound in which it fires."""
    histogram: Tensor
    """[d_sae, 32] int64: firings per activation bin of ``HISTOGRAM_EDGES``."""
    moment_recording: Tensor
    """[d_sae, n_moments] int64: recording of each top moment, -1 where there is none."""
    moment_time: Tensor
    """[d_sae, n_moments] float32: its time in the recording, in seconds."""
    moment_value: Tensor
    """[d_sae, n_moments] float32: its activation, falling along the row."""
    neighbour: Tensor
    """[d_sae, n_neighbours] int64: features with the most similar decoder directions, best first."""
    neighbour_cosine: Tensor
    """[d_sae, n_neighbours] float32: their cosines."""
    tuning: dict[str, Tuning]
    """Response to the classes, by property."""
    names: tuple[Name, ...]
    """[d_sae] names with evidence."""
    recordings: tuple[str, ...]
    """Names of the recordings that the moments point to."""
    frames: int
    """Frames of the corpus."""

    @property
    def d_sae(self) -> int:
        """Number of features."""
        return len(self.density)

    def feature(self, index: int) -> Feature:
        """Return everything known about feature ``index``; ``ParameterError`` outside 0 ... d_sae - 1."""
        if not 0 <= index < self.d_sae:
            raise ParameterError(f"there is no feature {index}; this atlas has features 0 to {self.d_sae - 1}")
        where = (self.moment_recording[index], self.moment_time[index], self.moment_value[index])
        near = (self.neighbour[index], self.neighbour_cosine[index])
        return Feature(
            index=index,
            name=self.names[index],
            density=self.density[index].item(),
            mean=self.mean[index].item(),
            max=self.max[index].item(),
            bits={name: tuning.bits[index].item() for name, tuning in self.tuning.items()},
            moments=tuple(
                Moment(self.recordings[r], t, v) for r, t, v in zip(*(x.tolist() for x in where), strict=True) if r >= 0
            ),
            neighbours=tuple(Neighbour(f, c) for f, c in zip(*(x.tolist() for x in near), strict=True)),
        )

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by name; tuning tensors are ``tuning.<property>.<field>``."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if isinstance(getattr(self, f.name), Tensor)}
        curves = {f"tuning.{p}.{f.name}": getattr(t, f.name) for p, t in self.tuning.items() for f in fields(t)}
        return own | curves

    def table(self) -> dict:
        """Return what is not a tensor as a JSON-ready dictionary: frames, recordings, names with evidence, histogram edges."""
        return {
            "frames": self.frames,
            "histogram_edges": HISTOGRAM_EDGES.tolist(),
            "names": [name.to_dict() for name in self.names],
            "recordings": list(self.recordings),
        }

    @classmethod
    def from_parts(cls, tensors: Mapping[str, Tensor], table: Mapping) -> Atlas:
        """Put an atlas together from ``tensors()`` and ``table()``."""
        own = {name: value for name, value in tensors.items() if not name.startswith("tuning.")}
        curves: dict[str, dict[str, Tensor]] = {}
        for key in tensors.keys() - own.keys():
            _, prop, field = key.split(".")
            curves.setdefault(prop, {})[field] = tensors[key]
        return cls(
            **own,
            tuning={prop: Tuning(**curves[prop]) for prop in sorted(curves)},
            names=tuple(Name(**name) for name in table["names"]),
            recordings=tuple(table["recordings"]),
            frames=table["frames"],
        )
