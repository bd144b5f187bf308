"""TopK SAE (arXiv 2406.04093):  a keeps the k largest of ReLU(z) in every frame,  loss = mean‖x̃ − x̂‖² + AuxK.

Paper B (arXiv 2509.24793) is this with ``decoder_bias=False, aux_coefficient=0``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sae_audio.sae.base import SAE, SparseActs
from sae_audio.sae.sparse import encode_top_k


class TopKSAE(SAE):
    """Exactly k features per frame (fewer where fewer pre-activations are above 0)."""

    def activate(self, z: Tensor) -> Tensor:
        """Return ReLU(z) with all but the k largest of each frame set to 0."""
        values, indices = z.topk(self.config.k, sorted=False)
        return SparseActs(values.relu(), indices).dense(self.config.d_sae)

    def encode_sparse(self, x: Tensor) -> SparseActs:
        """Return the activations of latents ``[N, d_in]`` as k values and feature numbers per frame, without a gradient."""
        with torch.no_grad():
            return SparseActs(*encode_top_k(self.standardise(x) - self.b_dec, self.W_enc, self.b_enc, self.config.k))

    def decode_sparse(self, acts: SparseActs) -> Tensor:
        """Return latents ``[N, d_in]`` of sparse activations."""
        sums = F.embedding_bag(acts.indices, self.W_dec, per_sample_weights=acts.values, mode="sum")
        return (sums + self.b_dec) * self.std + self.mean
