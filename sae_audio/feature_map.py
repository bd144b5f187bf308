"""The features of an SAE as points in a plane, from the directions that its decoder gives them.

``neighbour_map`` puts features whose directions point the same way near each other: exact t-SNE (van der Maaten and Hinton,
JMLR 2008) on d(f, g) = 1 - cos(f, g), started from the two principal components. Distances far apart mean nothing in it.
``along`` puts them on an axis with a unit: how far a feature's typical contribution goes along a control direction.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

EXACT_UP_TO = 3000
"""Features for which t-SNE is affordable: its steps cost the square of their number."""
PERPLEXITY = 20.0
EARLY, EARLY_STEPS, STEPS = 12.0, 100, 200
"""Early exaggeration, how long it lasts, and all steps."""


@torch.no_grad()
def neighbour_map(directions: Tensor, *, steps: int = STEPS) -> Tensor:
    """Return a place for each feature, near those whose decoder directions point the same way.

    Parameters
    ----------
    directions : Tensor [d_sae, d_in]
        Decoder rows in latent units.
    steps : int
        Of t-SNE; 0, or more than ``EXACT_UP_TO`` features, gives the first two principal components of the unit directions.

    Returns
    -------
    Tensor [d_sae, 2]
        Between -1 and 1.
    """
    unit = torch.nn.functional.normalize(directions.detach().float(), dim=1)
    start = _principal(unit)
    places = start if steps == 0 or not 3 < len(unit) <= EXACT_UP_TO else _tsne((1 - unit @ unit.T).clamp_min(0), start, steps)
    return places / places.abs().max().clamp_min(1e-9)


def neighbours_kept(places: Tensor, directions: Tensor, n: int = 8) -> float:
    """Return how much of each feature's ``n`` nearest in a map are among its ``n`` nearest directions, on average, 0 to 1."""
    unit = torch.nn.functional.normalize(directions.detach().float(), dim=1)
    n = min(n, len(unit) - 1)
    near = [_nearest(distance, n) for distance in (torch.cdist(places, places), -(unit @ unit.T))]
    hits = [len(set(a) & set(b)) for a, b in zip(near[0].tolist(), near[1].tolist(), strict=True)]
    return sum(hits) / (n * len(hits))


def along(contributions: Tensor, axis: Tensor) -> Tensor:
    """Return how far contributions go along an axis, ``<v, u> / <u, u>``, in the axis's own unit.

    Parameters
    ----------
    contributions : Tensor [d_sae, d_in]
        What each feature typically adds to the latents: its direction times its typical activation.
    axis : Tensor [d_in]
        Change of the latents per unit of a property, such as per dB.

    Returns
    -------
    Tensor [d_sae]
        For example dB; geometry only, what is heard is not measured.
    """
    return contributions @ axis / axis.square().sum()


def _principal(unit: Tensor) -> Tensor:
    centred = unit - unit.mean(0)
    _, _, components = torch.linalg.svd(centred, full_matrices=False)
    components = components[:2] * components[:2].sum(1, keepdim=True).sign()  # a component's sign is arbitrary
    return torch.nn.functional.pad(centred @ components.T, (0, 2 - len(components)))


def _tsne(distance: Tensor, start: Tensor, steps: int) -> Tensor:
    n = len(distance)
    wanted = _affinities(distance, min(PERPLEXITY, (n - 1) / 3))
    places = start / start.std().clamp_min(1e-9) * 1e-2
    speed, gains, rate = torch.zeros_like(places), torch.ones_like(places), max(n / EARLY, 50.0)
    for step in range(steps):
        early = step < EARLY_STEPS
        near = 1 / (1 + torch.cdist(places, places).square())
        near.fill_diagonal_(0)
        pull = ((EARLY if early else 1.0) * wanted - near / near.sum()) * near
        slope = 4 * (pull.sum(1, keepdim=True) * places - pull @ places)
        gains = torch.where((slope > 0) != (speed > 0), gains + 0.2, gains * 0.8).clamp_min(0.01)
        speed = (0.5 if early else 0.8) * speed - rate * gains * slope
        places = places + speed
    return places - places.mean(0)


def _affinities(distance: Tensor, perplexity: float) -> Tensor:
    """Symmetric neighbour probabilities whose rows have the wanted perplexity, by bisection on each row's width."""
    n = len(distance)
    squared = distance.square()
    beta, low, high = torch.ones(n, 1), torch.zeros(n, 1), torch.full((n, 1), torch.inf)
    for _ in range(60):
        weight = (-(squared - _others_least(squared)) * beta).exp().fill_diagonal_(0)
        total = weight.sum(1, keepdim=True)
        entropy = total.log() + beta * ((squared - _others_least(squared)) * weight).sum(1, keepdim=True) / total
        wide = entropy > math.log(perplexity)
        low, high = torch.where(wide, beta, low), torch.where(wide, high, beta)
        beta = torch.where(high.isinf(), beta * 2, (low + high) / 2)
    rows = weight / total
    return ((rows + rows.T) / (2 * n)).clamp_min(1e-12)


def _others_least(squared: Tensor) -> Tensor:
    """Smallest distance of each row to another point; taking it off keeps the exponentials from vanishing."""
    return squared.clone().fill_diagonal_(torch.inf).min(1, keepdim=True).values


def _nearest(distance: Tensor, n: int) -> Tensor:
    return distance.clone().fill_diagonal_(torch.inf).topk(n, dim=1, largest=False).indices
