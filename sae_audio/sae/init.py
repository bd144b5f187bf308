"""Where training starts: random unit directions, the data's geometric median, an encoder of the right length."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def decoder_rows(d_sae: int, d_in: int, seed: int) -> Tensor:
    """Return ``[d_sae, d_in]`` random directions of length 1, float32, from a generator of their own."""
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(d_sae, d_in, generator=generator))


def geometric_median(x: Tensor, iterations: int = 50) -> Tensor:
    """Return the point with the least summed Euclidean distance to the rows of ``x`` (Weiszfeld's iteration).

    Parameters
    ----------
    x : Tensor [N, d]
        Points.
    iterations : int
        Steps; the iteration starts at the mean and is within 1e-3 of the spread after a few dozen.

    Returns
    -------
    Tensor [d]
        The median, which outliers move far less than the mean.
    """
    point = x.mean(0)
    for _ in range(iterations):
        weight = 1 / (x - point).norm(dim=1).clamp_min(1e-8)
        point = (weight @ x) / weight.sum()
    return point


def least_squares_scale(reconstruction: Tensor, target: Tensor) -> Tensor:
    """Return the scalar s that minimises ‖s·reconstruction − target‖², or 1 where there is nothing to scale."""
    power = reconstruction.pow(2).sum()
    scale = (reconstruction * target).sum() / power
    return torch.where((power > 0) & (scale > 0), scale, torch.ones_like(scale))


def threshold_for_l0(z: Tensor, l0: int, rows: int = 512) -> float:
    """Return the threshold, 0 or more, that leaves ``l0`` entries per row above it on average.

    Parameters
    ----------
    z : Tensor [N, d]
        Pre-activations; the first ``rows`` rows are looked at.
    l0 : int
        Active entries per row.
    """
    values = z[:rows].flatten()
    kept = min(l0 * len(z[:rows]), len(values) - 1)
    # Halfway between the smallest kept value and the largest that is not, so that rounding moves neither across.
    return max(0.0, float(values.topk(kept + 1).values[-2:].mean()))
