"""When along denoising a property is decided: what probes read at every point in, emergence curves with their bands out.

The flow runs from noise at t = 0 to latents at t = 1 (arXiv 2210.02747). At each point there are two things to read: where the
flow is, x_t, and where the network believes it will end, x̂₁ = x_t + (1 − t)·v. With p_s the probabilities that a probe reads at
point s of 0 ... T:

    paper       1/K Σ_k |p_s,k − p_0,k| / |p_T,k − p_0,k|              arXiv 2510.23802, eq. 4
    bounded     a / (a + b),  a = Σ |p_s − p_0|,  b = Σ |p_T − p_s|    sums over frames and classes
    agreement   share of frames whose most probable class at s is that of T

The paper's curve is 0 and 1 at its ends whatever happens between, and a class that ends where it began sends it to infinity. The
bounded curve cannot leave [0, 1], and is 1 only where all is as it will be; on a straight way from p_0 to p_T it is the plain
ratio of sums a / Σ |p_T − p_0|, which elsewhere calls 1 what merely left the start. All three rise for anything that is read
through fading noise; ``forward_noised`` real sound, whose properties are decided from the first, tells how much of a rise is
that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from sae_audio.errors import ParameterError

AGREED = 0.9
"""Agreement at which a property counts as decided."""


class Emergence(NamedTuple):
    """Curves over the points; each ``[S, ...]``, where ``...`` are songs. NaN for a song without a frame to count."""

    paper: Tensor
    """Eq. 4 on the mean probabilities over all frames; not bounded."""
    bounded: Tensor
    """a / (a + b), in [0, 1]."""
    agreement: Tensor
    """Share of frames with the final class."""
    within_one: Tensor
    """Share of frames at most one class from it."""


class Band(NamedTuple):
    """A mean over songs with its bootstrap interval."""

    mean: Tensor
    """Of the songs as they are."""
    low: Tensor
    """Lower end of the interval, of the same shape."""
    high: Tensor
    """Upper end."""


def clean_estimate(x_t: Tensor, v: Tensor, t: float | Tensor) -> Tensor:
    """Return x̂₁ = x_t + (1 − t)·v, where the velocity ``v`` at flow time ``t`` (0 noise, 1 data) would end; all of one shape."""
    return x_t + (1 - t) * v


def forward_noised(latents: Tensor, noise: Tensor, t: float | Tensor) -> Tensor:
    """Return x_t = (1 − t)·noise + t·latents: what the flow would pass if it were to end at these latents.

    Parameters
    ----------
    latents : Tensor [..., d]
        Of real sound.
    noise : Tensor [..., d]
        Start of the flow.
    t : float or Tensor broadcastable to [..., d]
        Flow time, 0 (noise) to 1 (latents).

    Examples
    --------
    >>> forward_noised(torch.tensor([4.0]), torch.tensor([0.0]), 0.25)
    tensor([1.])
    """
    return (1 - t) * noise + t * latents


def emergence(probabilities: Tensor, counted: Tensor | None = None) -> Emergence:
    """Return how near each point's reading is to the last one's.

    Parameters
    ----------
    probabilities : Tensor [S, ..., T, K]
        What a probe reads: points (first is noise, last the result), songs, frames, classes.
    counted : Tensor [..., T], optional
        bool: frames that count, for example those with a pitch in the end; the paper's curve takes all frames all the same.

    Examples
    --------
    >>> p = torch.tensor([[[1.0, 0.0]], [[0.5, 0.5]], [[0.0, 1.0]]])  # three points, one frame, two classes
    >>> emergence(p).bounded.tolist(), emergence(p).agreement.tolist()
    ([0.0, 0.5, 1.0], [0.0, 0.0, 1.0])
    """
    if probabilities.ndim < 3 or len(probabilities) < 2:
        raise ParameterError(f"probabilities have shape {list(probabilities.shape)}; give [points >= 2, ..., frames, classes]")
    p, classes = probabilities.double(), probabilities.argmax(-1)
    return Emergence(
        paper_emergence(p), bounded_emergence(p, counted), agreement(classes, counted), agreement(classes, counted, within=1)
    )


def paper_emergence(probabilities: Tensor) -> Tensor:
    """Return eq. 4 of arXiv 2510.23802 on the mean probabilities over frames, ``[S, ...]`` of ``[S, ..., T, K]``.

    The paper does not say how frames are pooled; here before the ratio, which is the tamer choice. Classes that end exactly where
    they began are left out.
    """
    p = probabilities.double().mean(-2)
    moved, whole = (p - p[0]).abs(), (p[-1] - p[0]).abs()
    return torch.where(whole > 0, moved / whole, torch.nan).nanmean(-1)


def bounded_emergence(probabilities: Tensor, counted: Tensor | None = None) -> Tensor:
    """Return a / (a + b), ``[S, ...]`` of ``[S, ..., T, K]``: the way made beside the way left, over frames and classes."""
    p = probabilities.double()
    weights = 1.0 if counted is None else counted.to(p.dtype)
    made, left = (((p - end).abs().sum(-1) * weights).sum(-1) for end in (p[0], p[-1]))
    return made / (made + left)


def agreement(classes: Tensor, counted: Tensor | None = None, *, within: int = 0) -> Tensor:
    """Return the share of frames whose class is, or is within some classes of, that of the last point.

    Parameters
    ----------
    classes : Tensor [S, ..., T]
        int64 class of each frame, read or measured; -1 where it has none, which agrees with no class.
    counted : Tensor [..., T], optional
        bool: frames that count; by default those with a class at the last point.
    within : int
        Classes that may lie between.

    Returns
    -------
    Tensor [S, ...]
        NaN for a song without a frame to count.
    """
    counted = classes[-1] >= 0 if counted is None else counted & (classes[-1] >= 0)
    same = ((classes - classes[-1]).abs() <= within) & (classes >= 0) & counted
    return same.double().sum(-1) / counted.double().sum(-1)


def crossing(curves: Tensor, level: float = AGREED) -> Tensor:
    """Return the point from which a curve stays at or above a level, between points by interpolation.

    Parameters
    ----------
    curves : Tensor [..., S]
        For example agreement.
    level : float
        What to reach.

    Returns
    -------
    Tensor [...]
        0 to S − 1; NaN where the curve ends below the level, or holds NaN.

    Examples
    --------
    >>> round(crossing(torch.tensor([0.0, 0.95, 0.8, 1.0])).item(), 3)  # 0.95 does not last
    2.5
    """
    curves = curves.double()
    numbers = torch.arange(curves.shape[-1])
    last_below = torch.where(curves < level, numbers, -1).amax(-1)
    at = last_below.clamp(0, curves.shape[-1] - 2)[..., None]
    low, high = curves.gather(-1, at)[..., 0], curves.gather(-1, at + 1)[..., 0]
    between = last_below + (level - low) / (high - low)
    reached = torch.where(last_below < 0, 0.0, between)
    return torch.where((curves[..., -1] < level) | curves.isnan().any(-1), torch.nan, reached)


def bootstrap(
    curves: Tensor,
    *,
    of: Callable[[Tensor], Tensor] = lambda means: means,
    groups: Tensor | None = None,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Band:
    """Return a statistic of the mean curve over songs, with its percentile-bootstrap interval.

    Parameters
    ----------
    curves : Tensor [N, S]
        One row per song; rows with NaN (nothing to count) are left out.
    of : callable
        Statistic of mean curves ``[..., S]``, for example ``crossing``; by default the curve itself.
    groups : Tensor [N], optional
        int64 prompt of each song: songs of one prompt are drawn together, since they are not independent.
    draws : int
        Bootstrap samples.
    level : float
        Coverage of the interval, in (0, 1).
    seed : int
        Of the draws.

    Raises
    ------
    ParameterError
        No row is left.
    """
    groups = torch.arange(len(curves)) if groups is None else groups
    keep = ~curves.isnan().any(-1)
    if not keep.any():
        raise ParameterError(f"none of the {len(curves)} songs has a frame to count, so there is no curve to average")
    rows, members = curves[keep].double(), groups[keep].unique(return_inverse=True)[1]
    n_groups = int(members.max()) + 1
    sums = torch.zeros(n_groups, rows.shape[1], dtype=rows.dtype).index_add_(0, members, rows)
    sizes = torch.bincount(members).double()
    drawn = torch.randint(n_groups, (draws, n_groups), generator=torch.Generator().manual_seed(seed))
    times = torch.zeros(draws, n_groups, dtype=rows.dtype).scatter_add_(1, drawn, torch.ones(drawn.shape, dtype=rows.dtype))
    means = (times @ sums) / (times @ sizes)[:, None]
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=rows.dtype)
    low, high = of(means).nanquantile(tails, dim=0)
    return Band(of(rows.mean(0)), low, high)
