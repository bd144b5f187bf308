"""What SAEs and probes are scored by, each figure defined once. Pure functions of tensors.

SAE:     fvu, l0, reconstruction, matched_cosines
probes:  accuracy, balanced_accuracy, within_one_bin, r2
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sae_audio.errors import ParameterError
from sae_audio.sae import SAE


def _check_same(name: str, a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape or not a.numel():
        raise ParameterError(
            f"{name} compares tensors of one shape with at least one element, got {list(a.shape)} and {list(b.shape)}"
        )


def fvu(x: Tensor, x_hat: Tensor) -> float:
    """Return the fraction of variance unexplained, Σ‖x − x̂‖² / Σ‖x − x̄‖².

    The sums run over all frames and channels, and x̄ is the mean frame of ``x``: predicting the mean gives 1, a perfect
    reconstruction 0. It depends on the scale of the channels, so it is measured in the latent space's own units.

    Parameters
    ----------
    x, x_hat : Tensor [..., d_in]
        Latents and their reconstruction.

    Returns
    -------
    float
        0 or more; NaN where ``x`` does not vary.

    Examples
    --------
    >>> import torch
    >>> fvu(torch.tensor([[0.0, 0.0], [2.0, 4.0]]), torch.tensor([[0.0, 1.0], [2.0, 4.0]]))
    0.1
    """
    _check_same("fvu", x, x_hat)
    frames = x.detach().reshape(-1, x.shape[-1]).double()
    error, spread = _squares(frames, x_hat.detach().reshape(frames.shape), frames.mean(0))
    return float(error / spread)


def _squares(x: Tensor, x_hat: Tensor, mean: Tensor) -> Tensor:
    """Σ‖x − x̂‖² and Σ‖x − x̄‖², float64 [2]."""
    x = x.double()
    return torch.stack([(x - x_hat.double()).pow(2).sum(), (x - mean).pow(2).sum()])


def l0(acts: Tensor) -> float:
    """Return the mean **count** of active (non-zero) features per frame of activations ``[..., d_sae]``."""
    return float((acts != 0).sum(-1).double().mean())


class Reconstruction(NamedTuple):
    """What an SAE keeps of latents, and with what."""

    fvu: float
    """Fraction of variance unexplained; see ``fvu``."""
    mse: float
    """Mean squared error per channel, in latent units squared."""
    l0: float
    """Mean count of active features per frame."""
    fires: Tensor
    """bool [d_sae]: features active in at least one frame."""

    @property
    def dead_share(self) -> float:
        """Fraction of features that are active in no frame."""
        return 1 - float(self.fires.double().mean())


@torch.no_grad()
def reconstruction(sae: SAE, latents: Tensor) -> Reconstruction:
    """Return how well an SAE keeps latents and with how many features, for any number of frames in the memory of one block.

    Parameters
    ----------
    sae : SAE
        On any device.
    latents : Tensor [N >= 1, d_in]
        Frames, in memory or memory-mapped.

    Examples
    --------
    >>> from sae_audio.sae import SAEConfig, build_sae
    >>> sae = build_sae(SAEConfig("topk", 4, 8, k=2))
    >>> found = reconstruction(sae, torch.randn(100, 4, generator=torch.Generator().manual_seed(0)))
    >>> found.l0 <= 2, found.fires.shape
    (True, torch.Size([8]))
    """
    blocks = sae.blocks(latents.detach())
    mean = torch.stack([block.double().sum(0) for block in blocks]).sum(0) / len(latents)
    squares, active, fires = torch.zeros(2, dtype=torch.float64), 0, torch.zeros(sae.config.d_sae, dtype=torch.bool)
    for block in blocks:
        acts = sae.encode(block.to(sae.W_dec))
        squares += _squares(block, sae.decode(acts).cpu(), mean)
        active += int((acts != 0).sum())
        fires |= (acts != 0).any(0).cpu()
    error, spread = squares
    return Reconstruction(float(error / spread), float(error / latents.numel()), active / len(latents), fires)


def accuracy(predicted: Tensor, target: Tensor) -> float:
    """Return the fraction of predicted classes that equal the target; integer tensors of one shape."""
    _check_same("accuracy", predicted, target)
    return float((predicted == target).double().mean())


def balanced_accuracy(predicted: Tensor, target: Tensor) -> float:
    """Return the mean over classes of the fraction of their frames that are predicted right (mean recall).

    Only classes that occur in ``target`` count; always answering one class scores 1 / number of classes.
    """
    _check_same("balanced_accuracy", predicted, target)
    hits = (predicted == target).double()
    return float(torch.stack([hits[target == label].mean() for label in target.unique()]).mean())


def within_one_bin(predicted: Tensor, target: Tensor) -> float:
    """Return the fraction of predicted classes at most one bin away from the target; for classes in an order."""
    _check_same("within_one_bin", predicted, target)
    return float(((predicted - target).abs() <= 1).double().mean())


def r2(predicted: Tensor, target: Tensor) -> float:
    """Return the coefficient of determination 1 − Σ(y − ŷ)² / Σ(y − ȳ)² of real values of any one shape.

    1 is perfect, 0 is as good as the target's mean, below 0 is worse than that.
    """
    _check_same("r2", predicted, target)
    target = target.double()
    return float(1 - (target - predicted.double()).pow(2).sum() / (target - target.mean()).pow(2).sum())


def matched_cosines(a: Tensor, b: Tensor) -> Tensor:
    """Return how alike two dictionaries are, feature by feature: cosines of the best one-to-one matching (Hungarian, scipy).

    The matching maximises the summed cosine between decoder rows. Between random dictionaries the cosines are well above 0, the
    more so the fewer channels there are; compare with those.

    Parameters
    ----------
    a, b : Tensor [n, d_in], [m, d_in]
        Decoder rows of two SAEs on the same latents, of any length; leave out the features that never fire.

    Returns
    -------
    Tensor [min(n, m)]
        float32 cosines, -1 to 1; in the order of the smaller dictionary.

    Examples
    --------
    >>> import torch
    >>> matched_cosines(torch.eye(3), torch.tensor([[0.0, 0.0, 2.0], [1.0, 0.0, 0.0], [0.0, 1.0, 1.0]])).tolist()
    [1.0, 0.7071067690849304, 1.0]
    """
    from scipy.optimize import linear_sum_assignment

    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or not (len(a) and len(b)):
        raise ParameterError(f"matched_cosines compares rows [n, d_in] and [m, d_in], got {list(a.shape)} and {list(b.shape)}")
    small, large = (a, b) if len(a) <= len(b) else (b, a)
    unit = [torch.nn.functional.normalize(rows.detach().float().cpu()) for rows in (small, large)]
    cosines = unit[0] @ unit[1].T
    rows, columns = linear_sum_assignment(cosines.numpy(), maximize=True)
    return cosines[torch.from_numpy(rows), torch.from_numpy(columns)]
