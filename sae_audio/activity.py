"""Which features fire in one sound: how strongly, for how long, and when."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sae_audio.errors import ParameterError


class Activity(NamedTuple):
    """What one feature does in a sound."""

    feature: int
    """Column of the acts."""
    share: float
    """Its share of all activation in the sound, 0 to 1."""
    frames: float
    """Share of the frames in which it fires, 0 to 1."""
    peak: float
    """Largest activation."""
    peak_frame: int
    """Frame of the largest activation, the first of several."""


def ranked_activity(acts: Tensor) -> list[Activity]:
    """Return the features that fire, strongest share first; features of equal share by number.

    Parameters
    ----------
    acts : Tensor [T, d_sae]
        Activations, at least 0; dense or sparse COO.

    Examples
    --------
    >>> import torch
    >>> [(a.feature, a.share, a.frames) for a in ranked_activity(torch.tensor([[1.0, 0.0, 2.0], [0.0, 0.0, 1.0]]))]
    [(2, 0.75, 1.0), (0, 0.25, 0.5)]
    """
    if acts.ndim != 2 or not acts.numel():
        raise ParameterError(f"acts have shape {list(acts.shape)}; give [frames, features], at least one of each")
    n_frames, n_features = acts.shape
    acts = acts.to_sparse() if acts.layout == torch.strided else acts.coalesce()
    (frame, feature), values = acts.indices(), acts.values()
    total = torch.zeros(n_features, dtype=torch.float64).index_add_(0, feature, values.double())
    fires = feature[values > 0].bincount(minlength=n_features) / n_frames
    peak = torch.zeros(n_features).scatter_reduce_(0, feature, values, "amax")
    at_peak = values == peak[feature]
    first = torch.full((n_features,), n_frames).scatter_reduce_(0, feature[at_peak], frame[at_peak], "amin")
    order = total.argsort(descending=True, stable=True)[: int((total > 0).sum())]
    columns = (order, total[order] / total.sum(), fires[order], peak[order], first[order])
    return [Activity(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]


def top_frames(activation: Tensor, n: int, apart: int) -> list[int]:
    """Return the frames in which a feature fires most strongly, strongest first, any two at least ``apart`` frames apart.

    Parameters
    ----------
    activation : Tensor [T]
        One feature's activations, at least 0; frames with 0 are never returned.
    n : int
        Frames at most, at least 1.
    apart : int
        Least distance of two frames, at least 1.

    Examples
    --------
    >>> import torch
    >>> top_frames(torch.tensor([0.0, 3.0, 2.0, 0.0, 1.0]), n=3, apart=2)
    [1, 4]
    """
    if activation.ndim != 1 or n < 1 or apart < 1:
        raise ParameterError(
            f"top_frames takes activations [T], n and apart of at least 1; got {list(activation.shape)}, {n}, {apart}"
        )
    left = activation.clone()
    found: list[int] = []
    while len(found) < n and len(left) and float(left.max()) > 0:
        frame = int(left.argmax())
        found.append(frame)
        left[max(0, frame - apart + 1) : frame + apart] = 0
    return found
