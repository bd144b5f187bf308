"""Linear probes: what can be read off SAE activations, and off the baselines that give the number its meaning.

    p = softmax(a W + b)                                     (arXiv 2510.23802, eq. 2)

One linear layer per property, multiclass cross-entropy with an L2 penalty chosen on the validation split, fitted with up to 60
iterations of L-BFGS. The contribution of feature j to class k is ``W[j, k] * a[j]`` (eq. 3). The paper gives no baselines; here
every probe on activations stands beside the same probe on raw latents, PCA codes, a random dictionary and the untrained SAE.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from sae_audio.errors import DataError, ParameterError
from sae_audio.inputs import column_rms, scale_columns, select_rows, transposed
from sae_audio.metrics import accuracy, balanced_accuracy, within_one_bin

L2_GRID = (1e-2, 1e-3, 1e-4, 1e-5)
"""Penalties tried, strongest first, so that each fit starts from the solution of a smoother problem."""


@dataclass(frozen=True)
class Probe:
    """A fitted linear classifier of one property; any scaling of its inputs is folded into the weights."""

    property: str
    """``pitch``, ``loudness`` or ``brightness``."""
    on: str
    """What it reads: ``acts`` or ``latents``."""
    weight: Tensor
    """[n_in, n_classes]."""
    bias: Tensor
    """[n_classes]."""

    def logits(self, inputs: Tensor) -> Tensor:
        """Return the class scores ``inputs @ weight + bias``, [..., n_classes]; inputs may be a sparse matrix [N, n_in]."""
        return inputs @ self.weight + self.bias

    def probabilities(self, inputs: Tensor) -> Tensor:
        """Return ``softmax(logits)``, [..., n_classes]."""
        return self.logits(inputs).softmax(-1)

    def predict(self, inputs: Tensor) -> Tensor:
        """Return the most probable class, int64 [...]."""
        return self.logits(inputs).argmax(-1)

    def contributions(self, acts: Tensor, target: int) -> Tensor:
        """Return what each input adds to the score of class ``target``: ``W[j, target] * a[j]``, [..., n_in]."""
        return acts * self.weight[:, target]


class ProbeScore(NamedTuple):
    """How well a probe reads a property from recordings it was not fitted on."""

    accuracy: float
    """Share of frames whose class is right."""
    balanced_accuracy: float
    """Mean over the classes present of the share right in that class."""
    within_one: float
    """Share of frames at most one class off."""
    majority: float
    """Accuracy of always saying the class most frequent in training: what a probe must beat."""
    n_frames: int
    """Frames scored."""
    n_classes: int
    """Classes present among the frames scored."""
    chroma: float | None
    """Pitch only: share of frames whose pitch class is right up to octaves."""


def fit_probe(
    inputs: Tensor,
    classes: Tensor,
    n_classes: int,
    *,
    validation: tuple[Tensor, Tensor],
    property: str,
    on: str,
    l2_grid: Sequence[float] = L2_GRID,
    max_iter: int = 60,
) -> Probe:
    """Fit a softmax probe and choose its L2 penalty by accuracy on the validation split.

    Parameters
    ----------
    inputs : Tensor [N, n_in]
        Dense or sparse CSR; columns are scaled to unit root mean square for the fit (so that the penalty treats all alike)
        and the scaling is folded into the result.
    classes : Tensor int64 [N]
        Class of each row, -1 where undefined (such rows are left out).
    n_classes : int
        Number of classes, at least 2.
    validation : (Tensor [M, n_in], Tensor int64 [M])
        Rows of other recordings.
    property, on : str
        Recorded in the probe.
    l2_grid : sequence of float
        Penalties to try, in units of the mean loss per frame.
    max_iter : int
        L-BFGS iterations per penalty.

    Returns
    -------
    Probe

    Raises
    ------
    DataError
        If no training row or fewer than two classes are left.

    Examples
    --------
    >>> x = torch.tensor([[0.0], [1.0], [0.1], [0.9]])
    >>> y = torch.tensor([0, 1, 0, 1])
    >>> fit_probe(x, y, 2, validation=(x, y), property="pitch", on="latents").predict(x).tolist()
    [0, 1, 0, 1]
    """
    if n_classes < 2:
        raise ParameterError(f"a probe needs at least 2 classes, got {n_classes}")
    inputs, classes = _defined(inputs, classes)
    if classes.unique().numel() < 2:
        raise DataError(
            f"the {property} probe has {classes.numel()} frames in {classes.unique().numel()} classes to learn from; "
            "it needs at least two classes: add recordings that differ in it"
        )
    held_inputs, held_classes = _defined(*validation)
    scale = column_rms(inputs)
    scaled = scale_columns(inputs, 1 / scale)
    weight, bias = torch.zeros(inputs.shape[1], n_classes), torch.zeros(n_classes)
    best, best_right = Probe(property, on, weight, bias), -1.0
    for l2 in l2_grid:
        weight, bias = _fit_softmax(scaled, classes, weight, bias, l2, max_iter)
        probe = Probe(property, on, weight / scale[:, None], bias)
        right = accuracy(probe.predict(held_inputs), held_classes) if held_classes.numel() else 0.0
        if right < best_right:
            break  # past the best penalty: weaker ones only overfit more
        if right > best_right:
            best, best_right = probe, right
    return best


def score_probe(probe: Probe, inputs: Tensor, classes: Tensor, majority_class: int) -> ProbeScore:
    """Score a probe on held-out rows; rows with class -1 are left out.

    Parameters
    ----------
    probe : Probe
        The probe.
    inputs : Tensor [N, n_in]
        Dense or sparse CSR.
    classes : Tensor int64 [N]
        True classes, -1 where undefined.
    majority_class : int
        The class most frequent in the training split.

    Returns
    -------
    ProbeScore
    """
    inputs, classes = _defined(inputs, classes)
    if not classes.numel():
        raise DataError(f"no held-out frame has a defined {probe.property}; use more or longer recordings")
    predicted = probe.predict(inputs)
    return ProbeScore(
        accuracy=accuracy(predicted, classes),
        balanced_accuracy=balanced_accuracy(predicted, classes),
        within_one=within_one_bin(predicted, classes),
        majority=accuracy(torch.full_like(classes, majority_class), classes),
        n_frames=classes.numel(),
        n_classes=classes.unique().numel(),
        chroma=chroma_accuracy(predicted, classes) if probe.property == "pitch" else None,
    )


def majority_class(classes: Tensor) -> int:
    """Return the most frequent class, ignoring -1."""
    return int(torch.bincount(classes[classes >= 0]).argmax())


def chroma_accuracy(predicted: Tensor, classes: Tensor) -> float:
    """Return the share of frames whose pitch class is right up to octaves (semitone classes; -1 in ``classes`` is left out)."""
    defined = classes >= 0
    return ((predicted[defined] - classes[defined]) % 12 == 0).double().mean().item()


def fit_ridge(inputs: Tensor, targets: Tensor, *, l2: float = 1e-3) -> tuple[Tensor, Tensor]:
    """Fit ``target ~ inputs @ w + b`` by ridge regression on standardised inputs; rows with a NaN target are left out.

    Parameters
    ----------
    inputs : Tensor [N, n_in]
        Dense or sparse CSR.
    targets : Tensor [N]
        Axis values (semitones, dB or octaves); NaN where undefined.
    l2 : float
        Penalty relative to the mean squared input, at least 0.

    Returns
    -------
    (Tensor [n_in], Tensor [])
        Weights and intercept in the inputs' own units.
    """
    inputs, targets = _defined(inputs, targets)
    inputs = inputs.to_dense().double() if inputs.layout != torch.strided else inputs.double()
    targets = targets.double()
    mean, scale = inputs.mean(0), inputs.std(0, correction=0).clamp_min(1e-8)
    z = (inputs - mean) / scale
    gram = z.T @ z / len(z) + l2 * torch.eye(z.shape[1], dtype=z.dtype)
    weight = torch.linalg.solve(gram, z.T @ targets / len(z)) / scale  # z has no mean, so the targets' does not matter
    return weight.float(), (targets.mean() - mean @ weight).float()


def _defined(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Keep the rows whose target is defined: class >= 0, or a finite value."""
    keep = (targets >= 0) if not targets.is_floating_point() else targets.isfinite()
    if keep.all():
        return inputs, targets
    return select_rows(inputs, keep.nonzero().squeeze(1)), targets[keep]


def _fit_softmax(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, l2: float, max_iter: int) -> tuple[Tensor, Tensor]:
    """Minimise mean cross-entropy + l2/2 |W|^2 by L-BFGS; the gradient is written out so that a sparse x stays sparse."""
    weight, bias = weight.clone(), bias.clone()
    columns = transposed(x)
    rows = torch.arange(len(y))

    def closure() -> Tensor:
        log_p = torch.log_softmax(x @ weight + bias, -1)
        loss = -log_p[rows, y].mean() + l2 / 2 * weight.square().sum()
        error = log_p.exp_()  # [N, K]; becomes p - onehot
        error[rows, y] -= 1
        error /= len(y)
        weight.grad, bias.grad = columns @ error + l2 * weight, error.sum(0)
        return loss

    optimizer = torch.optim.LBFGS([weight, bias], max_iter=max_iter, history_size=10, line_search_fn="strong_wolfe")
    with torch.no_grad():
        optimizer.step(closure)
    return weight, bias
