"""TopK SAE (arXiv 2406.04093):  a keeps the k largest of ReLU(z) in every frame,  loss = mean‖x̃ − x̂‖² + AuxK.

Paper B (arXiv 2509.24793) is this with ``decoder_bias=False, aux_coefficient=0``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sae_audio.sae.base import SAE, BatchResult, SparseActs
from sae_audio.sae.entries import Entries
from sae_audio.sae.sparse import encode_top_k, step_loops
from sae_audio.sae.sparse_step import sparse_backward


class TopKSAE(SAE):
    """Exactly k features per frame (fewer where fewer pre-activations are above 0)."""

    def activate(self, z: Tensor) -> Tensor:
        """Return ReLU(z) with all but the k largest of each frame set to 0."""
        values, indices = z.topk(self.config.n_active, sorted=False)
        return SparseActs(values.relu(), indices).dense(self.config.d_sae)

    @torch.no_grad()
    def encode_sparse(self, x: Tensor) -> SparseActs:
        """Return the activations of latents ``[N, d_in]`` as k values and feature numbers per frame, without a gradient."""
        return SparseActs(*encode_top_k(self.standardise(x) - self.b_dec, self.W_enc, self.b_enc, self.config.n_active))

    @torch.no_grad()
    def backward(self, x: Tensor, dead: Tensor, sparsity: float = 1.0) -> BatchResult:
        """As every SAE's, by the sparse step; there is no penalty for ``sparsity`` to scale."""
        x_c = self.standardise(x) - self.b_dec
        loops = step_loops(x_c, self.config.d_sae)
        values, indices = encode_top_k(x_c, self.W_enc, self.b_enc, self.config.n_active, loops=loops)
        rows = torch.arange(len(x), dtype=torch.int32, device=x.device).repeat_interleave(self.config.n_active)
        entries = Entries(rows, indices.view(-1).int(), values.view(-1))
        return sparse_backward(self, x_c, entries, (self.config.d_sae,), dead)
