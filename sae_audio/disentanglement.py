"""How a representation spreads known factors over its dimensions: DCI, with MIG and SAP beside it.

DCI (Eastwood and Williams, ICLR 2018) predicts every factor from all dimensions. R[i, j] >= 0 is how much dimension i matters for
factor j:

    informativeness_j = R² of the prediction of factor j
    completeness_j    = 1 − H(R[:, j] / Σ_i R[i, j]) / ln n_dims             1: one dimension holds factor j
    disentanglement_i = 1 − H(R[i, :] / Σ_j R[i, j]) / ln n_factors          1: dimension i serves one factor
    effective dims_j  = exp(H(R[:, j] / Σ_i R[i, j]))                        how many dimensions hold factor j, evenly shared

arXiv 2509.24793 takes R from a Lasso (alpha 0.1 on standardised columns), scores it on the rows of its fit, and divides by the
logarithm of each representation's own size, which favours large dictionaries. So here R² is also measured on held-out rows,
completeness takes a common ``n``, and effective dimensions need none. A factor that nothing predicts has no importances: its
completeness is NaN, where that paper's formula says 1.

Importances of correlated dimensions depend on how the regression shares weight among them; compare representations by the same
regression only, and beside their controls.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sae_audio.errors import ParameterError

METHODS = ("lasso", "boosted")


class Dci(NamedTuple):
    """What ``dci`` measures; an entry is NaN where a factor is constant or nothing predicts it."""

    importance: Tensor
    """[n_dims, n_factors], 0 or more: |Lasso coefficient| on standardised columns, or the boosted trees' importance."""
    r2_in: Tensor
    """[n_factors] R² on the rows of the fit; optimistic where there are more dimensions than rows."""
    r2_out: Tensor
    """[n_factors] R² on held-out rows; NaN where none were given."""
    predicted: Tensor
    """[M, n_factors] predictions for the held-out rows, in the factors' own units; NaN for a constant factor."""
    completeness: Tensor
    """[n_factors], on the representation's own number of dimensions."""
    effective_dims: Tensor
    """[n_factors], 1 to n_dims."""
    disentanglement: Tensor
    """[n_dims]; NaN for a dimension that no factor uses."""


def dci(
    codes: Tensor,
    factors: Tensor,
    *,
    held_out: tuple[Tensor, Tensor] | None = None,
    method: str = "lasso",
    alpha: float = 0.1,
    seed: int = 0,
) -> Dci:
    """Predict every factor from a representation and measure where its information lies.

    Columns of both are standardised by the rows of the fit; constant ones stay 0. Rows where a factor is NaN are left out of that
    factor.

    Parameters
    ----------
    codes : Tensor [N, n_dims]
        The representation, one row per clip.
    factors : Tensor [N, n_factors]
        Known properties of the same clips, at least two columns; NaN where undefined.
    held_out : (Tensor [M, n_dims], Tensor [M, n_factors]), optional
        Clips, best of other speakers, that ``r2_out`` is measured on.
    method : str
        ``lasso``, or ``boosted``: 100 gradient-boosted trees of depth 3 that see √n_dims columns per split, which also finds
        relations that are not linear (minutes for thousands of dimensions).
    alpha : float
        Lasso penalty, above 0.
    seed : int
        Of the trees.

    Returns
    -------
    Dci

    Raises
    ------
    ParameterError
        Shapes or settings are wrong.

    Examples
    --------
    >>> factors = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    >>> result = dci(torch.cat([factors, torch.zeros(4, 2)], 1), factors)
    >>> [round(value, 3) for value in result.completeness.tolist()], [round(value, 3) for value in result.r2_in.tolist()]
    ([1.0, 1.0], [0.99, 0.99])
    """
    _check(codes, factors, held_out, method, alpha)
    x, scale_x = _standardised(codes)
    unseen = None if held_out is None else scale_x(held_out[0])
    importance = torch.zeros(codes.shape[1], factors.shape[1], dtype=torch.float64)
    r2_in = torch.full((factors.shape[1],), torch.nan, dtype=torch.float64)
    predicted = torch.full((0 if unseen is None else len(unseen), factors.shape[1]), torch.nan, dtype=torch.float64)
    for j in range(factors.shape[1]):
        known = factors[:, j].isfinite()
        y, _ = _standardised(factors[known, j : j + 1])
        if not bool(y.any()):
            continue
        model = _regressor(method, alpha, seed).fit(x[known].numpy(), y[:, 0].numpy())
        weights = model.coef_ if method == "lasso" else model.feature_importances_
        importance[:, j] = torch.from_numpy(np.abs(weights))
        r2_in[j] = factor_r2(torch.from_numpy(model.predict(x[known].numpy()))[:, None], y)
        if unseen is not None:
            values = factors[known, j].double()
            predicted[:, j] = torch.from_numpy(model.predict(unseen.numpy())) * values.std(correction=0) + values.mean()
    r2_out = torch.full_like(r2_in, torch.nan) if held_out is None else factor_r2(predicted, held_out[1])
    measures = completeness(importance), effective_dims(importance), disentanglement(importance)
    return Dci(importance, r2_in, r2_out, predicted, *measures)


def factor_r2(predicted: Tensor, factors: Tensor) -> Tensor:
    """Return the R² of predictions per factor, ``[n_factors]`` of two ``[N, n_factors]``, 1 − Σ(y − ŷ)² / Σ(y − ȳ)².

    Rows where a factor is NaN are left out of it; NaN where the rows left do not vary, or nothing was predicted.

    Examples
    --------
    >>> factor_r2(torch.tensor([[1.0], [2.0], [2.0]]), torch.tensor([[1.0], [2.0], [3.0]])).tolist()
    [0.5]
    """
    known = factors.isfinite()
    target = torch.where(known, factors.double(), torch.nan)
    error = torch.where(known, (target - predicted).square(), 0.0).sum(0)
    spread = (target - target.nanmean(0)).square().nansum(0)
    return torch.where(spread > 0, 1 - error / spread, torch.nan)


def completeness(importance: Tensor, n: int | None = None) -> Tensor:
    """Return how concentrated each factor is, 1 − H(p_j) / ln n with p_j its importances over dimensions.

    Parameters
    ----------
    importance : Tensor [n_dims, n_factors]
        0 or more.
    n : int, optional
        Number of dimensions to divide by, at least 2; by default n_dims. Representations of different sizes are comparable on a
        common ``n`` only, for example the largest of them.

    Returns
    -------
    Tensor [n_factors]
        At most 1; NaN for a factor without importances. Below 0 where a factor lies on more than ``n`` dimensions.

    Examples
    --------
    >>> completeness(torch.tensor([[1.0, 1.0], [0.0, 1.0]])).tolist()
    [1.0, 0.0]
    """
    n = importance.shape[0] if n is None else n
    if n < 2:
        raise ParameterError(f"completeness over {n} dimensions is undefined; it takes at least 2")
    return 1 - _entropy(importance) / math.log(n)


def effective_dims(importance: Tensor) -> Tensor:
    """Return exp(H(p_j)) per factor, ``[n_factors]``: over how many equal dimensions each would be spread; NaN without any."""
    return _entropy(importance).exp()


def disentanglement(importance: Tensor) -> Tensor:
    """Return how far each dimension serves one factor, 1 − H(q_i) / ln n_factors, ``[n_dims]``; NaN for an unused dimension."""
    if importance.shape[1] < 2:
        raise ParameterError(f"disentanglement between {importance.shape[1]} factors is undefined; it takes at least 2")
    return 1 - _entropy(importance.T) / math.log(importance.shape[1])


def overall_disentanglement(importance: Tensor) -> float:
    """Return the mean of ``disentanglement`` over dimensions, weighted by their share of all importance; NaN without any."""
    share = importance.sum(1) / importance.sum()
    return float((share * disentanglement(importance)).nansum()) if bool(importance.any()) else math.nan


def mutual_information_gap(codes: Tensor, factors: Tensor, bins: int = 20) -> Tensor:
    """Return the MIG of each factor (Chen et al., arXiv 1802.04942), ``[n_factors]``.

    (I(best; factor) − I(second best; factor)) / H(factor), both in ``bins`` equal-width bins over their range, in sample. Rows
    where a factor is NaN are left out of it; NaN for a constant factor. With few rows the mutual information is biased upwards
    for all dimensions alike; compare it with shuffled factors.

    Parameters
    ----------
    codes : Tensor [N, n_dims >= 2]
        The representation.
    factors : Tensor [N, n_factors]
        Known properties of the same rows.
    bins : int
        At least 2.
    """
    _check_gap(codes, factors)
    first, second = binned_information(codes, factors, bins).topk(2, dim=0).values
    return (first - second) / (binned_entropy(factors, bins) * math.log(2))


def binned_information(codes: Tensor, factors: Tensor, bins: int = 20) -> Tensor:
    """Return I(dimension; factor) in nats, ``[n_dims, n_factors]``, both cut into equal-width bins over their range.

    Parameters
    ----------
    codes : Tensor [N, n_dims]
        The representation.
    factors : Tensor [N, n_factors]
        Known properties of the same rows; rows where a factor is NaN are left out of it.
    bins : int
        At least 2.
    """
    if bins < 2:
        raise ParameterError(f"bins is {bins}; mutual information takes at least 2")
    of_factors = torch.stack([_one_hot(column[:, None], bins)[:, 0] for column in factors.T], 1)
    of_factors = of_factors.flatten(1)  # [N, n_factors * bins]
    information = []
    for part in codes.split(128, dim=1):  # the tables of thousands of dimensions at once would fill the memory
        joint = _one_hot(part, bins).flatten(1).T @ of_factors
        joint = joint.view(part.shape[1], bins, factors.shape[1], bins).transpose(1, 2).double()
        joint = joint / joint.sum((2, 3), keepdim=True)
        expected = joint.sum(2, keepdim=True) * joint.sum(3, keepdim=True)
        information.append(torch.where(joint > 0, joint * (joint / expected).log(), 0.0).sum((2, 3)))
    return torch.cat(information)


def attribute_predictability(codes: Tensor, factors: Tensor) -> Tensor:
    """Return the SAP score of each factor (Kumar et al., arXiv 1711.00848), ``[n_factors]``.

    The R² of predicting the factor from its best dimension alone minus that of the second best: the gap between the two largest
    squared correlations, in sample. NaN for a constant factor.

    Parameters
    ----------
    codes : Tensor [N, n_dims >= 2]
        The representation.
    factors : Tensor [N, n_factors]
        Known properties of the same rows; rows where a factor is NaN are left out of it.
    """
    _check_gap(codes, factors)
    gaps = []
    for column in factors.T:
        known = column.isfinite()
        x, y = _standardised(codes[known])[0], _standardised(column[known, None])[0]
        first, second = (x.T @ y / len(y)).square()[:, 0].topk(2).values
        gaps.append(first - second if bool(y.any()) else first.new_tensor(torch.nan))
    return torch.stack(gaps)


def binned_entropy(factors: Tensor, bins: int = 10) -> Tensor:
    """Return the entropy of each factor's histogram in bits, ``[n_factors]``, over ``bins`` equal-width bins of its range.

    Rows where a factor is NaN are left out of it; NaN for a constant factor.
    """
    counts = torch.stack([_one_hot(column[:, None], bins)[:, 0].sum(0) for column in factors.T]).double()
    entropy = torch.special.entr(counts / counts.sum(1, keepdim=True)).sum(1)
    return torch.where(entropy > 0, entropy / math.log(2), torch.nan)


def top_factors(r2: Tensor, n: int = 10) -> Tensor:
    """Return the numbers of the ``n`` factors with the highest R², best first, int64; factors with NaN are never among them."""
    return r2.nan_to_num(-torch.inf).argsort(descending=True, stable=True)[: min(n, int(r2.isfinite().sum()))]


def _check(codes: Tensor, factors: Tensor, held_out: tuple[Tensor, Tensor] | None, method: str, alpha: float) -> None:
    if codes.ndim != 2 or factors.ndim != 2 or len(codes) != len(factors) or len(codes) < 2:
        raise ParameterError(
            f"dci takes codes [N >= 2, n_dims] and factors [N, n], got {list(codes.shape)}, {list(factors.shape)}"
        )
    if codes.shape[1] < 2 or factors.shape[1] < 2:
        raise ParameterError(f"dci takes at least 2 dimensions and 2 factors, got {codes.shape[1]} and {factors.shape[1]}")
    if held_out is not None and (held_out[0].shape[1:], held_out[1].shape[1:]) != (codes.shape[1:], factors.shape[1:]):
        raise ParameterError("the held-out rows must have the columns of the others")
    if method not in METHODS:
        raise ParameterError(f"method is '{method}'; use one of {', '.join(METHODS)}")
    if not alpha > 0:
        raise ParameterError(f"alpha is {alpha}; the Lasso penalty must be above 0")


def _check_gap(codes: Tensor, factors: Tensor) -> None:
    if codes.ndim != 2 or factors.ndim != 2 or len(codes) != len(factors) or codes.shape[1] < 2:
        raise ParameterError(
            f"a gap takes codes [N, n_dims >= 2] and factors [N, n], got {list(codes.shape)}, {list(factors.shape)}"
        )


def _standardised(columns: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Return columns at mean 0 and variance 1, constant ones at 0, and the function that treats other rows alike."""
    columns = columns.double()
    mean, std = columns.mean(0), columns.std(0, correction=0)
    constant = std <= 1e-9 * columns.abs().amax(0)

    def scale(rows: Tensor) -> Tensor:
        return torch.where(constant, 0.0, (rows.double() - mean) / torch.where(constant, 1.0, std))

    return scale(columns), scale


def _regressor(method: str, alpha: float, seed: int) -> Any:
    if method == "lasso":
        from sklearn.linear_model import Lasso

        return Lasso(alpha=alpha, max_iter=10_000)
    from sklearn.ensemble import GradientBoostingRegressor

    return GradientBoostingRegressor(n_estimators=100, max_depth=3, max_features="sqrt", random_state=seed)


def _entropy(importance: Tensor) -> Tensor:
    """Entropy of each column's shares in nats; NaN for a column of zeros."""
    shares = importance.double() / importance.double().sum(0)
    return torch.special.entr(shares).sum(0)


def _one_hot(columns: Tensor, bins: int) -> Tensor:
    """Return which equal-width bin of its column each entry is in, float32 [N, n, bins]; all 0 for NaN, bin 0 if constant."""
    known = columns.isfinite()
    low = torch.where(known, columns, torch.inf).amin(0)
    high = torch.where(known, columns, -torch.inf).amax(0)
    place = (columns - low) / torch.where(high > low, high - low, 1.0)
    number = (place.nan_to_num(0) * bins).long().clamp(0, bins - 1)
    return torch.nn.functional.one_hot(number, bins).float() * known[..., None]
