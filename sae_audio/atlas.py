"""The atlas: what each feature of an SAE does on a corpus, found in one pass over its activations in bounded memory.

A feature *fires* in a frame where its activation is above 0. Everything is counted from the firings alone (feature, frame,
value), never from a dense ``[N, d_sae]`` table, so a million frames of a k-sparse SAE take seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from sae_audio.errors import ParameterError
from sae_audio.naming import Name, mutual_information, name_features
from sae_audio.tally import HISTOGRAM_EDGES, Moments, Places, Tally, firings_of, number_runs

if TYPE_CHECKING:
    from sae_audio.properties import Property
    from sae_audio.sae.base import SparseActs


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


def nearest_directions(directions: Tensor, n: int, block: int = 1024) -> tuple[Tensor, Tensor]:
    """Return the features with the most similar decoder directions.

    Parameters
    ----------
    directions : Tensor [d_sae, d_in]
        Decoder rows in latent units.
    n : int
        Neighbours per feature, at least 1; at most d_sae - 1 are returned.
    block : int
        Rows compared at a time.

    Returns
    -------
    tuple of Tensor [d_sae, n]
        Cosines (float32, best first) and feature indices (int64).
    """
    unit = torch.nn.functional.normalize(directions.detach().float(), dim=1)
    n = min(n, len(unit) - 1)
    found = []
    for start in range(0, len(unit), block):
        cosine = unit[start : start + block] @ unit.T
        cosine[torch.arange(len(cosine)), torch.arange(start, start + len(cosine))] = -torch.inf  # not itself
        found.append(torch.topk(cosine, n, dim=1))
    return torch.cat([f.values for f in found]).clamp(-1, 1).cpu(), torch.cat([f.indices for f in found]).cpu()


def _check(
    classes: Mapping[str, Tensor], properties: Mapping[str, Property], recordings: Tensor, positions: Tensor | None
) -> None:
    """Refuse columns that do not have one entry per frame, or classes that a property does not have."""
    columns = {f"classes[{p!r}]": classes[p] for p in properties} | ({} if positions is None else {"positions": positions})
    for name, column in columns.items():
        if column.shape != recordings.shape or not len(recordings):
            raise ParameterError(
                f"{name} is {list(column.shape)} for {len(recordings)} frames; give one entry per frame, at least one"
            )
    for prop, p in properties.items():
        if not -1 <= int(classes[prop].min()) <= int(classes[prop].max()) < p.n_classes:
            raise ParameterError(f"classes[{prop!r}] must be -1 (undefined) or 0 to {p.n_classes - 1}, the classes of '{prop}'")


def _tuning(tally: Tally, prop: str) -> Tuning:
    """Turn the counts of one property into rates, means and information."""
    label = tally.classes[prop]
    frames = torch.bincount(label[label >= 0], minlength=tally.n_classes[prop])
    known = label >= 0
    runs = len(torch.unique(number_runs(tally.frames.recording, label)[known]))
    seen = frames.clamp(min=1)
    bits = mutual_information(tally.fired[prop], frames, runs)
    return Tuning(frames, (tally.fired[prop] / seen).float(), (tally.summed[prop] / seen).float(), bits.float())


def build_atlas(
    acts: Iterable[SparseActs | Tensor],
    classes: Mapping[str, Tensor],
    properties: Mapping[str, Property],
    recordings: Tensor,
    frame_rate: float,
    directions: Tensor,
    *,
    recording_names: Sequence[str],
    positions: Tensor | None = None,
    n_moments: int = 8,
    n_neighbours: int = 8,
) -> Atlas:
    """Measure every feature in one pass over the activations of a corpus.

    Parameters
    ----------
    acts : iterable of SparseActs or Tensor [n, d_sae]
        Batches of frames in corpus order, ``N`` frames together: (values, indices) of a k-sparse SAE or dense activations.
    classes : dict of Tensor [N]
        Per property: int64 class of each frame, -1 where undefined. Those frames count everywhere but in the tuning.
    properties : dict of Property
        Class names and numbers, by property.
    recordings : Tensor [N]
        Int64 recording of each frame, an index into ``recording_names``. Frames of one recording stand together.
    frame_rate : float
        Frames per second, in Hz.
    directions : Tensor [d_sae, d_in]
        Decoder rows in latent units (``sae.directions()``), for the neighbours.
    recording_names : sequence of str
        Names of the recordings.
    positions : Tensor [N], optional
        Frame number within its recording. Needed only when frames were left out; counted from 0 otherwise.
    n_moments, n_neighbours : int
        Top moments and neighbours kept per feature.

    Returns
    -------
    Atlas
        On the CPU.

    Raises
    ------
    ParameterError
        The batches do not hold N frames together, a column has another length, or a class is unknown.
    """
    classes = {prop: classes[prop].cpu() for prop in properties}
    _check(classes, properties, recordings, positions)
    frames = Places.lay_out(recordings, frame_rate, positions)
    tally = Tally(len(directions), classes, {prop: p.n_classes for prop, p in properties.items()}, frames)
    moments = Moments(len(directions), 2 * n_moments, frames)  # twice, since neighbours across a full second drop out
    _count(acts, tally, moments)
    return _summary(tally, moments.spaced(n_moments), properties, nearest_directions(directions, n_neighbours), recording_names)


def _count(acts: Iterable[SparseActs | Tensor], tally: Tally, moments: Moments) -> None:
    """Feed all batches to the counters."""
    done, n_frames = 0, len(tally.frames.recording)
    for batch in acts:
        firings, length = firings_of(batch, done)
        done += length
        if done > n_frames:
            break
        tally.add(firings)
        moments.add(firings)
    if done != n_frames:
        size = f"only {done}" if done < n_frames else f"more than {n_frames}"
        raise ParameterError(f"the activations have {size} frames, the recordings {n_frames}; give both for the same frames")


def _summary(
    tally: Tally,
    moments: tuple[Tensor, Tensor],
    properties: Mapping[str, Property],
    near: tuple[Tensor, Tensor],
    recording_names: Sequence[str],
) -> Atlas:
    """Turn counts into statistics."""
    firings, (value, frame) = tally.histogram.sum(1), moments
    where, tuning = frame.clamp(min=0), {prop: _tuning(tally, prop) for prop in properties}
    return Atlas(
        density=(firings / len(tally.frames.recording)).float(),
        mean=(tally.total / firings.clamp(min=1)).float(),
        max=tally.max,
        seconds=tally.seconds,
        histogram=tally.histogram,
        moment_recording=tally.frames.recording[where].masked_fill(frame < 0, -1),
        moment_time=((tally.frames.position[where] + 0.5) / tally.frames.rate).masked_fill(frame < 0, 0.0).float(),
        moment_value=value,
        neighbour=near[1],
        neighbour_cosine=near[0],
        tuning=tuning,
        names=name_features(
            firings,
            tally.seconds,
            tally.fired,
            {prop: curve.frames for prop, curve in tuning.items()},
            {prop: curve.bits for prop, curve in tuning.items()},
            {prop: p.names for prop, p in properties.items()},
        ),
        recordings=tuple(recording_names),
        frames=len(tally.frames.recording),
    )
