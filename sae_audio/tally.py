"""Counting over the firings of a corpus, batch by batch: sums, histograms and top moments of every feature.

Works on (frame, feature, value) triples with ``bincount`` and sorts, on the CPU, where the sums do not depend on the run.
Memory grows with the number of features, not with the number of frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from sae_audio.errors import ParameterError

if TYPE_CHECKING:
    from sae_audio.sae.base import SparseActs

HISTOGRAM_EDGES = 2.0 ** torch.arange(-8.0, 8.5, 0.5)
"""Edges of the activation histogram: half octaves from 1/256 to 256; the two outer bins take everything beyond."""


class Places(NamedTuple):
    """Where the frames of a corpus lie."""

    recording: Tensor
    """[N] int64: recording of each frame; frames of one recording stand together."""
    position: Tensor
    """[N] int64: number of the frame within its recording."""
    second: Tensor
    """[N] int64: number of the frame's second, counted through the whole corpus."""
    rate: float
    """Frames per second, in Hz."""

    @classmethod
    def lay_out(cls, recording: Tensor, rate: float) -> Places:
        """Number the frames and seconds of every recording from 0."""
        recording = recording.cpu()
        ids, lengths = torch.unique_consecutive(recording, return_counts=True)
        if len(ids) != len(torch.unique(ids)):
            raise ParameterError("the frames of one recording must stand together and in order; sort the frames by recording")
        starts = torch.cumsum(lengths, 0) - lengths
        position = torch.arange(len(recording)) - torch.repeat_interleave(starts, lengths)
        return cls(recording, position, number_runs(recording, (position / rate).long()), rate)


class Firings(NamedTuple):
    """Firings of some frames, in frame order."""

    frame: Tensor
    """[M] int64 frame of the corpus."""
    feature: Tensor
    """[M] int64."""
    value: Tensor
    """[M] float32 activation, above 0."""


def number_runs(*columns: Tensor) -> Tensor:
    """Return the number [N] of the run that each row belongs to: a new run starts where any column ([N]) changes.

    Examples
    --------
    >>> import torch
    >>> number_runs(torch.tensor([7, 7, 8, 8, 7])).tolist()
    [0, 0, 1, 1, 2]
    """
    change = torch.zeros(len(columns[0]), dtype=torch.int64)
    for column in columns:
        change[1:] |= (column[1:] != column[:-1]).long()
    return torch.cumsum(change, 0)


def firings_of(batch: SparseActs | Tensor, first_frame: int) -> tuple[Firings, int]:
    """Return the firings of a batch, (values, indices) ``[n, k]`` or dense ``[n, d_sae]``, and its number of frames."""
    if isinstance(batch, Tensor):
        row, feature = torch.nonzero(batch > 0, as_tuple=True)
        value, n_frames = batch[row, feature], len(batch)
    else:
        row, slot = torch.nonzero(batch.values > 0, as_tuple=True)
        feature, value, n_frames = batch.indices[row, slot], batch.values[row, slot], len(batch.values)
    return Firings(row.cpu() + first_frame, feature.cpu().long(), value.detach().cpu().float()), n_frames


class Moments:
    """The strongest frame of each of the strongest ``n`` seconds of every feature."""

    def __init__(self, d_sae: int, n: int, frames: Places):
        self.n, self.frames = n, frames
        self.value = torch.zeros(d_sae, n)
        self.frame = torch.full((d_sae, n), -1)

    def add(self, new: Firings) -> None:
        """Take in the firings of one batch; only those above the weakest kept one of their feature can matter."""
        strong = new.value > self.value[new.feature, -1]
        kept = torch.nonzero(self.frame >= 0, as_tuple=True)
        value = torch.cat((self.value[kept], new.value[strong]))
        frame = torch.cat((self.frame[kept], new.frame[strong]))
        feature = torch.cat((kept[0], new.feature[strong]))
        value, frame, feature = _sorted_by(-value, value, frame, feature)
        second = self.frames.second[frame]
        value, frame, feature = _first_of_each(feature * (self.frames.second[-1] + 1) + second, value, frame, feature)
        value, frame, feature = _sorted_by(-value, value, frame, feature)
        value, frame, feature = _sorted_by(feature, value, frame, feature)
        rank = torch.arange(len(feature)) - torch.searchsorted(feature, feature)
        best = rank < self.n
        self.value[feature[best], rank[best]] = value[best]
        self.frame[feature[best], rank[best]] = frame[best]

    def spaced(self, n: int) -> tuple[Tensor, Tensor]:
        """Return the best ``n`` moments, none within a second of a better one: values and frames [d_sae, n], frame -1: none."""
        found = self.frame.clamp(min=0)
        recording, position = self.frames.recording[found], self.frames.position[found]
        keep = self.frame >= 0
        for rank in range(1, self.n):
            distance = (position[:, :rank] - position[:, rank, None]).abs()
            near = (recording[:, :rank] == recording[:, rank, None]) & (distance < self.frames.rate)
            keep[:, rank] &= ~(near & keep[:, :rank]).any(1)
        order = torch.argsort(~keep, dim=1, stable=True)[:, :n]
        keep = keep.gather(1, order)
        return self.value.gather(1, order) * keep, self.frame.gather(1, order).masked_fill(~keep, -1)


def _sorted_by(key: Tensor, *columns: Tensor) -> list[Tensor]:
    """Columns in the order of ``key``, ties in the order they had."""
    order = torch.argsort(key, stable=True)
    return [column[order] for column in columns]


def _first_of_each(key: Tensor, *columns: Tensor) -> list[Tensor]:
    """First row of each distinct key."""
    key, *rows = _sorted_by(key, key, *columns)
    first = torch.ones(len(key), dtype=torch.bool)
    first[1:] = key[1:] != key[:-1]
    return [row[first] for row in rows]


class Tally:
    """Running counts of every feature: activation histogram and sums, seconds with a firing, firings per class."""

    def __init__(self, d_sae: int, classes: Mapping[str, Tensor], n_classes: Mapping[str, int], frames: Places):
        self.d_sae, self.classes, self.n_classes, self.frames = d_sae, classes, n_classes, frames
        self.histogram = torch.zeros(d_sae, len(HISTOGRAM_EDGES) - 1, dtype=torch.int64)
        self.total = torch.zeros(d_sae, dtype=torch.float64)
        self.max = torch.zeros(d_sae)
        self.seconds = torch.zeros(d_sae, dtype=torch.int64)
        self.last_second = torch.full((d_sae,), -1)
        self.fired = {p: torch.zeros(d_sae, n, dtype=torch.int64) for p, n in n_classes.items()}
        self.summed = {p: torch.zeros(d_sae, n, dtype=torch.float64) for p, n in n_classes.items()}

    def add(self, new: Firings) -> None:
        """Count the firings of one batch."""
        bins = torch.bucketize(new.value, HISTOGRAM_EDGES[1:-1], right=True)
        self.histogram += self._counted(new.feature, bins, self.histogram.shape[1])
        self.total += torch.bincount(new.feature, new.value.double(), self.d_sae)
        self.max.scatter_reduce_(0, new.feature, new.value, "amax")
        self._count_seconds(new)
        for prop, n in self.n_classes.items():
            label = self.classes[prop][new.frame]
            known = label >= 0
            feature, label, value = new.feature[known], label[known], new.value[known].double()
            self.fired[prop] += self._counted(feature, label, n)
            self.summed[prop] += self._counted(feature, label, n, value)

    def _counted(self, feature: Tensor, column: Tensor, n: int, weight: Tensor | None = None) -> Tensor:
        return torch.bincount(feature * n + column, weight, self.d_sae * n).view(self.d_sae, n)

    def _count_seconds(self, new: Firings) -> None:
        """Count each second once per feature, also where a batch ends in the middle of one."""
        if not len(new.frame):
            return
        second = self.frames.second[new.frame]
        seen = torch.zeros(self.d_sae, int(second[-1] - second[0]) + 1, dtype=torch.bool)
        seen[new.feature, second - second[0]] = True
        self.seconds += seen.sum(1) - (seen[:, 0] & (self.last_second == second[0])).long()
        self.last_second[seen[:, -1]] = second[-1]
