"""ReLU SAE with an RMSNorm on its activations (paper A, arXiv 2510.23802).

    h = ReLU(z)      a = h / sqrt(mean(h²) + eps)      x̂ = gain · a W_dec + b_dec
    loss = mean‖x̃ − x̂‖² + λ·mean‖h‖₁   (l1_on="pre", as published)   or   λ·mean‖a‖₁   (l1_on="post")

The trap in the published loss: a does not change when h is rescaled, so the optimiser can shrink h and pay nothing, and
sparsity hardly follows λ. ‖a‖₁ at fixed ‖a‖₂ is a true measure of sparsity. Report l0, never λ.
RMSNorm fixes the length of a at sqrt(d_sae) whatever the latents' length; the paper does not say what carries the scale back.
Here one learned scalar does, so that decoder rows keep length 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sae_audio.sae.base import SAE
from sae_audio.sae.config import SAEConfig

EPS = 1e-8


def rms_norm(h: Tensor) -> Tensor:
    """Return h / sqrt(mean(h²) + 1e-8) over the last axis; a frame of zeros stays zero."""
    return h * (h.pow(2).mean(-1, keepdim=True) + EPS).rsqrt()


class ReluRMSNormSAE(SAE):
    """ReLU, then RMSNorm; activations have the same root mean square in every frame."""

    def __init__(self, config: SAEConfig, seed: int = 0) -> None:
        super().__init__(config, seed)
        self.gain = nn.Parameter(torch.ones(()))

    def activate(self, z: Tensor) -> Tensor:
        """Return RMSNorm(ReLU(z))."""
        return rms_norm(z.relu())

    def reconstruct(self, acts: Tensor) -> Tensor:
        """Return gain · a W_dec + b_dec."""
        return self.gain * (acts @ self.W_dec) + self.b_dec

    def directions(self) -> Tensor:
        """Return gain · W_dec · std, ``[d_sae, d_in]``."""
        return self.gain * super().directions()

    def penalty(self, z: Tensor, acts: Tensor) -> dict[str, Tensor]:
        """Return λ·mean over frames of the L1 norm, before or after the RMSNorm."""
        penalised = z.relu() if self.config.l1_on == "pre" else acts
        return {"l1": self.config.l1_coefficient * penalised.sum(-1).mean()}

    def scale_start(self, scale: Tensor) -> None:
        """Scale the gain: a larger W_enc changes nothing after the RMSNorm."""
        self.gain.mul_(scale)
