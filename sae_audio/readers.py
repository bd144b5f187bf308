"""What a probe reads: the activations, and the baselines without which its accuracy means nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sae_audio.inputs import acts_matrix
from sae_audio.sae import SAE
from sae_audio.sae.entries import csr
from sae_audio.training import started_sae

Reader = Callable[[Tensor], Tensor]
"""Latents [N, d_in] -> what a probe reads, [N, n], dense or sparse CSR."""


def readers(sae: SAE, latents: Tensor, seed: int = 0) -> dict[str, Reader]:
    """Return what is probed: the activations, and the baselines without which their accuracy means nothing.

    ``latents``: as they are. ``pca``: as many principal components as the SAE has active features per frame. ``random``: a
    random dictionary of the same size, the same number kept per frame. ``untrained``: an SAE as training starts it.

    Parameters
    ----------
    sae : SAE
        A trained SAE.
    latents : Tensor [N, d_in]
        Training latents, for the principal components and the untrained SAE's scaling.
    seed : int
        Of the random dictionary and the untrained SAE.
    """
    config = sae.config
    active = max(1, round(float((sae.encode(latents[:4096]) > 0).sum(-1).float().mean())))
    untrained = started_sae(latents, config, seed).eval()
    components = _principal_components(sae.standardise(latents), min(active, config.d_in))
    dictionary = torch.randn(config.d_in, config.d_sae, generator=torch.Generator().manual_seed(seed + 2))
    return {
        "acts": lambda x: acts_matrix(sae, x),
        "latents": lambda x: x,
        "pca": lambda x: sae.standardise(x) @ components,
        "random": lambda x: _keep_largest(sae.blocks(sae.standardise(x)), dictionary, active),
        "untrained": lambda x: acts_matrix(untrained, x),
    }


def _principal_components(standardised: Tensor, n: int) -> Tensor:
    covariance = (standardised - standardised.mean(0)).T.cov()
    return torch.linalg.eigh(covariance).eigenvectors[:, -n:]


def _keep_largest(blocks: Sequence[Tensor], dictionary: Tensor, k: int) -> Tensor:
    """ReLU of random projections with the k largest kept per row, as sparse CSR [N, d_sae]."""
    values, indices = zip(*((part @ dictionary).topk(k, sorted=False) for part in blocks), strict=True)
    n = sum(map(len, blocks))
    rows = torch.arange(n).repeat_interleave(k)
    return csr(rows, torch.cat(indices).reshape(-1), torch.cat(values).relu().reshape(-1), (n, dictionary.shape[1]))
