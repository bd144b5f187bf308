"""Sparse autoencoders: one file per variant, each with its formula and arXiv id on top."""

from __future__ import annotations

from sae_audio.errors import ParameterError
from sae_audio.sae.base import SAE, BatchResult, SparseActs
from sae_audio.sae.batch_topk import BatchTopKSAE
from sae_audio.sae.config import SAEConfig
from sae_audio.sae.jumprelu import JumpReluSAE
from sae_audio.sae.matryoshka import MatryoshkaSAE
from sae_audio.sae.relu import ReluSAE
from sae_audio.sae.relu_rmsnorm import ReluRMSNormSAE
from sae_audio.sae.topk import TopKSAE

__all__ = ["SAE", "VARIANTS", "BatchResult", "SAEConfig", "SparseActs", "build_sae"]

VARIANTS: dict[str, type[SAE]] = {
    "relu": ReluSAE,
    "relu_rmsnorm": ReluRMSNormSAE,
    "topk": TopKSAE,
    "batch_topk": BatchTopKSAE,
    "jumprelu": JumpReluSAE,
    "matryoshka": MatryoshkaSAE,
}


def build_sae(config: SAEConfig, seed: int = 0) -> SAE:
    """Return a new, untrained SAE.

    Parameters
    ----------
    config : SAEConfig
        What to build; ``config.variant`` is a key of ``VARIANTS``.
    seed : int
        Seed of the dictionary's random directions.

    Raises
    ------
    ParameterError
        The variant is unknown; the message lists the known ones.

    Examples
    --------
    >>> import torch
    >>> sae = build_sae(SAEConfig("topk", d_in=8, d_sae=32, k=4))
    >>> acts = sae.encode(torch.ones(1, 10, 8))
    >>> list(acts.shape), int((acts > 0).sum(-1).max()) <= 4
    ([1, 10, 32], True)
    """
    if config.variant not in VARIANTS:
        raise ParameterError(f"unknown SAE variant '{config.variant}'; known are {', '.join(VARIANTS)}")
    return VARIANTS[config.variant](config, seed)
