"""ReLU SAE with an L1 penalty (arXiv 2309.08600):  a = ReLU(z),  loss = mean‖x̃ − x̂‖² + λ·mean‖a‖₁."""

from __future__ import annotations

from torch import Tensor

from sae_audio.sae.base import SAE


class ReluSAE(SAE):
    """ReLU activations, sparse through L1; the unit-norm decoder keeps the penalty from being shrunk away."""

    def activate(self, z: Tensor) -> Tensor:
        """Return ReLU(z)."""
        return z.relu()

    def penalty(self, z: Tensor, acts: Tensor) -> dict[str, Tensor]:
        """Return λ·mean over frames ‖a‖₁."""
        return {"l1": self.config.l1_coefficient * acts.sum(-1).mean()}
