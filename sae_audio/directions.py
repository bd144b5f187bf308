"""Directions estimated from frames: partial effects of the properties, class means, and what two directions do not share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sae_audio.control import AUDIBLE_DB
from sae_audio.descriptors import Descriptors
from sae_audio.errors import DataError
from sae_audio.inputs import transposed
from sae_audio.units import to_db

BLOCK = 2**16
"""Frames whose recordings' means exist at once."""


class PartialEffects(NamedTuple):
    """What one unit of each property does to the inputs when the others stay the same, within one group of recordings."""

    notes: Tensor
    """[n_classes, d] offset of each pitch class; zero where unseen."""
    loudness: Tensor
    """[d] change per dB."""
    brightness: Tensor
    """[d] change per octave of spectral centroid."""


def partial_effects(
    inputs: Tensor, notes: Tensor, n_notes: int, descriptors: Descriptors, recordings: Tensor, *, ridge_frames: float = 10.0
) -> PartialEffects:
    """Regress the inputs on note, loudness and brightness together, within recordings.

    ``z[t] = c[recording] + offset[note[t]] + loudness[t] * dz/ddB + brightness[t] * dz/doctave + residual``, least squares with a
    small ridge. Fixing the recording removes what timbre and level the pieces happen to pair with a note; regressing jointly
    keeps one property's direction free of the others.

    Parameters
    ----------
    inputs : Tensor [N, d]
        SAE activations (dense or sparse CSR) or latents.
    notes : Tensor int64 [N]
        Pitch class per frame, -1 where there is none; such frames form a class of their own.
    n_notes : int
        Number of pitch classes.
    descriptors : Descriptors
        Of the same frames, each [N]; frames without loudness or brightness are left out.
    recordings : Tensor int64 [N]
        Recording of each frame; one number for all of them lets timbre count too.
    ridge_frames : float
        Strength of the ridge in frames: a note with as many frames is shrunk by half.

    Returns
    -------
    PartialEffects

    Raises
    ------
    DataError
        No frame is louder than -50 dBFS.
    """
    loudness, brightness = to_db(descriptors.rms), descriptors.centroid.log2()
    keep = (loudness > AUDIBLE_DB) & brightness.isfinite()
    if not keep.any():
        raise DataError(f"no frame is louder than {AUDIBLE_DB:g} dBFS, so nothing can be steered; normalise the recordings first")
    columns = torch.zeros(len(notes), n_notes + 3, dtype=torch.float64)
    columns[torch.arange(len(notes)), torch.where(notes >= 0, notes, n_notes)] = 1
    columns[:, n_notes + 1] = torch.where(keep, loudness, 0)
    columns[:, n_notes + 2] = torch.where(keep, brightness, 0)
    columns[~keep] = 0
    _demean(columns, recordings, keep)
    gram = columns.T @ columns
    ridge = torch.full((gram.shape[0],), ridge_frames, dtype=torch.float64)
    ridge[-2:] = 1e-6 * gram.diagonal()[-2:] + 1e-6  # also where a property does not vary at all
    moments = (transposed(inputs) @ columns.float()).T.double()
    effects = torch.linalg.solve(gram + ridge.diag(), moments).float()
    return PartialEffects(effects[:n_notes], effects[n_notes + 1], effects[n_notes + 2])


def class_means(inputs: Tensor, classes: Tensor, n_classes: int) -> Tensor:
    """Return the mean input of each class, [n_classes, d]; the overall mean of the defined frames where a class is unseen."""
    defined = classes >= 0
    onehot = torch.zeros(len(classes), n_classes).index_put_((defined.nonzero()[:, 0], classes[defined]), torch.ones(()))
    sums = (transposed(inputs) @ onehot).T
    counts = onehot.sum(0)[:, None]
    return torch.where(counts > 0, sums / counts.clamp_min(1), sums.sum(0) / counts.sum())


def orthogonalise(direction: Tensor, others: Sequence[Tensor]) -> Tensor:
    """Return ``direction`` with its projection on the span of ``others`` removed, all [d]."""
    basis, _ = torch.linalg.qr(torch.stack(list(others), 1))
    return direction - basis @ (basis.T @ direction)


def _demean(columns: Tensor, groups: Tensor, keep: Tensor) -> None:
    """Subtract from the kept rows their mean over each recording, in place: there are hundreds of megabytes of them."""
    n = int(groups.max()) + 1
    sums = torch.zeros(n, columns.shape[1], dtype=columns.dtype).index_add_(0, groups, columns)
    counts = torch.bincount(groups[keep], minlength=n).clamp_min(1)[:, None]
    for rows, group in zip(columns.split(BLOCK), groups.split(BLOCK), strict=True):
        rows -= (sums / counts)[group]
    columns.masked_fill_(~keep[:, None], 0)
