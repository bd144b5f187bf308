"""Matryoshka SAE (arXiv 2503.17547):  BatchTopK whose nested prefixes each reconstruct the latents.

    loss = Σ_m mean‖x̃ − (a[:m] W_dec[:m] + b_dec)‖² + AuxK,   m over ascending prefix sizes, the last one d_sae

Early features learn what is general, late ones what is special; without it wide dictionaries split and absorb features.
"""

from __future__ import annotations

from sae_audio.sae.batch_topk import BatchTopKSAE


class MatryoshkaSAE(BatchTopKSAE):
    """BatchTopK with a loss term per nested prefix of the dictionary."""

    @property
    def widths(self) -> tuple[int, ...]:
        """Ascending prefix sizes: the config's, or d_sae/16, /8, /4, /2, /1."""
        sizes = self.config.prefixes or [self.config.d_sae // part for part in (16, 8, 4, 2, 1)]
        return tuple(sorted({size for size in sizes if size > 0}))
