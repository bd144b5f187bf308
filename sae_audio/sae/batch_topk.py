"""BatchTopK SAE (arXiv 2412.06410):  in training a keeps the k·N largest of ReLU(z) over a batch of N frames.

A frame may use more or fewer than k features. At inference frames must not depend on their neighbours:

    a = z·1[z > threshold],   threshold = running mean of the smallest kept value of training batches
"""

from __future__ import annotations

import torch
from torch import Tensor

from sae_audio.sae.base import SAE, BatchResult
from sae_audio.sae.config import SAEConfig
from sae_audio.sae.init import threshold_for_l0
from sae_audio.sae.sparse import encode_batch_top_k
from sae_audio.sae.sparse_step import sparse_backward

FOLLOW = 0.02
"""Share of each batch in the running mean: the threshold follows the last fifty batches."""


class BatchTopKSAE(SAE):
    """k features per frame on average, by one threshold for all."""

    threshold: Tensor

    def __init__(self, config: SAEConfig, seed: int = 0) -> None:
        super().__init__(config, seed)
        self.register_buffer("threshold", torch.zeros(()))

    @property
    def widths(self) -> tuple[int, ...]:
        """Dictionary sizes that each reconstruct the latents: here the whole one only."""
        return (self.config.d_sae,)

    def activate(self, z: Tensor) -> Tensor:
        """Return z·1[z > threshold]."""
        return z.where(z > self.threshold, 0)

    def fit_threshold(self, z: Tensor) -> None:
        """Set the threshold where pre-activations ``[N, d_sae]`` have l0 = k."""
        self.threshold.fill_(threshold_for_l0(z, self.config.n_active))

    @torch.no_grad()
    def backward(self, x: Tensor, dead: Tensor, sparsity: float = 1.0) -> BatchResult:
        """As every SAE's, by the sparse step; there is no penalty for ``sparsity`` to scale."""
        x_c = self.standardise(x) - self.b_dec
        entries = encode_batch_top_k(x_c, self.W_enc, self.b_enc, self.config.n_active, float(self.threshold))
        if len(entries.values):
            self.threshold.lerp_(entries.values.min(), FOLLOW)
        return sparse_backward(self, x_c, entries, self.widths, dead)
