"""AuxK (arXiv 2406.04093 §A.2): features that stopped firing learn to explain what the live ones leave over.

    z_D = pre-activations of the dead features          e = x̃ − x̂  (a constant)
    AuxK = c · min(n_dead / k_aux, 1) · mean over frames ‖e − topk(z_D) W_dec[D]‖²

Unlike the paper there is no ReLU after this top-k: a feature whose pre-activation is below zero on all data would get no
gradient through a ReLU, and such features are the ones that stay dead.
"""

from __future__ import annotations

import torch
from torch import Tensor


def auxk_size(config, n_dead: int) -> tuple[int, float]:
    """Return how many dead features explain each frame, and the weight of the term."""
    k_aux = config.k_aux or max(1, config.d_in // 2)
    return min(k_aux, n_dead), config.aux_coefficient * min(n_dead / k_aux, 1.0)


def auxk_loss(sae, x: Tensor, residual: Tensor, dead: Tensor) -> Tensor:
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
    z = (x - sae.b_dec) @ sae.W_enc[:, dead] + sae.b_enc[dead]
    values, indices = z.topk(k, sorted=False)
    acts = torch.zeros_like(z).scatter(1, indices, values)
    return weight * (residual - acts @ sae.W_dec[dead]).pow(2).sum(-1).mean()


def auxk_gradients(sae, x_c: Tensor, residual: Tensor, dead: Tensor) -> tuple[Tensor, ...]:
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
        b_dec's gradient follows from b_enc's: −W_enc[:, dead] @ b_enc.
    """
    k, weight = auxk_size(sae.config, len(dead))
    W_dec = sae.W_dec[dead]
    z = torch.addmm(sae.b_enc[dead], x_c, sae.W_enc[:, dead])
    values, indices = z.topk(k, sorted=False)
    acts = torch.zeros_like(z).scatter_(1, indices, values)
    error = (acts @ W_dec).sub_(residual)
    g = error * (2 * weight / len(x_c))
    # Only the chosen entries pass a gradient back; a zero value that was chosen still does.
    chosen = torch.zeros_like(z).scatter_(1, indices, 1.0)
    dz = (g @ W_dec.T).mul_(chosen)
    return weight * error.pow(2).sum() / len(x_c), x_c.T @ dz, dz.sum(0), acts.T @ g
