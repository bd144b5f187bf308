"""JumpReLU SAE (arXiv 2407.14435):  a = z·1[z > θ], θ learned per feature with straight-through gradients.

    loss = mean‖x̃ − x̂‖² + λ·d_in·(l0/k − 1)²  where a target k is set, else + λ·l0
    ∂a/∂θ  := −(θ/ε)·1[|z − θ| < ε/2]        ∂l0/∂θ := −(1/ε)·1[|z − θ| < ε/2]

A target says what is wanted; the λ that gives some l0 differs from data to data and saturates. d_in is the variance of x̃, so that
λ = 1 weighs missing the target by 100 % like reconstructing nothing.
θ itself is learned, not its logarithm: Adam moves every parameter by about the learning rate per step, so a logarithm would
move θ by a thousandth of itself. θ starts where the first batch has the target l0, and stays at 0 or above.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sae_audio.sae.base import SAE
from sae_audio.sae.config import SAEConfig
from sae_audio.sae.init import threshold_for_l0


class Jump(torch.autograd.Function):
    """z·1[z > θ] with the straight-through gradient for θ."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, theta: Tensor, bandwidth: float) -> Tensor:
        """Return the activations; ``theta [d_sae]`` broadcasts over ``z [..., d_sae]``."""
        ctx.save_for_backward(z, theta)
        ctx.bandwidth = bandwidth
        return z.where(z > theta, 0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        """Return gradients for z and θ."""
        z, theta = ctx.saved_tensors
        near = (z - theta).abs() < ctx.bandwidth / 2
        d_theta = -(theta / ctx.bandwidth) * (grad * near).flatten(0, -2).sum(0)
        return grad * (z > theta), d_theta, None


class StraightThroughStep(torch.autograd.Function):
    """1[z > θ], whose straight-through gradient reaches θ only."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, theta: Tensor, bandwidth: float) -> Tensor:
        """Return 1 where a feature is active, else 0, in z's dtype."""
        ctx.save_for_backward(z, theta)
        ctx.bandwidth = bandwidth
        return (z > theta).to(z.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None]:
        """Return the gradient for θ."""
        z, theta = ctx.saved_tensors
        near = (z - theta).abs() < ctx.bandwidth / 2
        return None, -(grad * near).flatten(0, -2).sum(0) / ctx.bandwidth, None


class JumpReluSAE(SAE):
    """A threshold per feature; pays for the number of active features, not for their size."""

    def __init__(self, config: SAEConfig, seed: int = 0) -> None:
        super().__init__(config, seed)
        self.threshold = nn.Parameter(torch.zeros(config.d_sae))

    def activate(self, z: Tensor) -> Tensor:
        """Return z·1[z > θ]."""
        return Jump.apply(z, self.threshold, self.config.bandwidth)

    def penalty(self, z: Tensor, acts: Tensor) -> dict[str, Tensor]:
        """Return λ·d_in·(l0/k − 1)², or λ·l0 where no k is set."""
        l0 = StraightThroughStep.apply(z, self.threshold, self.config.bandwidth).sum(-1).mean()
        excess = l0 if self.config.k is None else self.config.d_in * (l0 / self.config.k - 1).pow(2)
        return {"l0": self.config.l0_coefficient * excess}

    def fit_threshold(self, z: Tensor) -> None:
        """Set θ where pre-activations ``[N, d_sae]`` have l0 = k (without k: d_in / 2)."""
        self.threshold.fill_(threshold_for_l0(z, self.config.k or max(1, self.config.d_in // 2)))

    @torch.no_grad()
    def constrain(self) -> None:
        """Unit-norm rows, and no threshold below 0."""
        super().constrain()
        self.threshold.clamp_min_(0)
