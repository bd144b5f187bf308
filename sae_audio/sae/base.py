"""What every sparse autoencoder here shares: its weights, its scaling and how it learns from a batch.

    x̃ = (x − mean) / std          z = (x̃ − b_dec) W_enc + b_enc          a = activate(z)
    x̂ = (a W_dec + b_dec)·std + mean

Scaling is part of the model: ``encode`` takes the latents of a codec as they are and ``decode`` gives such latents back. A
variant is one file with one ``activate`` and, where it has one, one ``penalty``. The k-sparse variants replace ``backward`` by
the sparse step of ``sparse.py``; the others leave it to autograd.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sae_audio.errors import ParameterError
from sae_audio.sae.auxk import auxk_loss
from sae_audio.sae.config import SAEConfig
from sae_audio.sae.init import decoder_rows, geometric_median, least_squares_scale

DENSE = 2**22
"""Activations, zeros included, that exist at once where frames are many: 16 MiB, and as much again for each step on the way."""


class SparseActs(NamedTuple):
    """Activations of k-sparse variants: the k largest of every frame."""

    values: Tensor
    """[..., k] activations, 0 or more."""
    indices: Tensor
    """[..., k] int64 feature numbers, distinct within a frame."""

    def dense(self, d_sae: int) -> Tensor:
        """Return the same activations as a tensor ``[..., d_sae]``."""
        zeros = self.values.new_zeros(*self.values.shape[:-1], d_sae)
        return zeros.scatter(-1, self.indices, self.values)


class BatchResult(NamedTuple):
    """What one training batch showed; gradients are on the parameters."""

    losses: dict[str, Tensor]
    """Named terms, scalars; their sum is the loss."""
    residual: Tensor
    """[N, d_in] x̃ minus its reconstruction."""
    l0: Tensor
    """Mean number of active features per frame, scalar."""
    fired: Tensor
    """[d_sae] bool: features that were active at least once."""


class SAE(nn.Module, ABC):
    """A sparse autoencoder: one linear encoder, one activation, one linear decoder.

    Parameters
    ----------
    config : SAEConfig
        What to build.
    seed : int
        Seed of the dictionary's random directions; the global random state is neither read nor changed.

    Attributes
    ----------
    W_enc : Parameter [d_in, d_sae]
    b_enc : Parameter [d_sae]
    W_dec : Parameter [d_sae, d_in]
        Rows of length 1.
    b_dec : Parameter [d_in]
        Subtracted before the encoder, added after the decoder; on standardised latents.
    mean, std : buffer [d_in]
        Of the latents that the SAE was trained on, per channel.
    """

    W_enc: nn.Parameter
    W_dec: nn.Parameter
    mean: Tensor
    std: Tensor

    def __init__(self, config: SAEConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        rows = decoder_rows(config.d_sae, config.d_in, seed)
        self.W_enc = nn.Parameter(rows.T.contiguous())
        self.b_enc = nn.Parameter(torch.zeros(config.d_sae))
        self.W_dec = nn.Parameter(rows)
        self.b_dec = nn.Parameter(torch.zeros(config.d_in), requires_grad=config.decoder_bias)
        self.register_buffer("mean", torch.zeros(config.d_in))
        self.register_buffer("std", torch.ones(config.d_in))

    # What a variant is.

    @abstractmethod
    def activate(self, z: Tensor) -> Tensor:
        """Turn pre-activations ``[..., d_sae]`` into activations of the same shape, 0 or more."""

    def penalty(self, z: Tensor, acts: Tensor) -> dict[str, Tensor]:
        """Return the variant's named loss terms (scalars) for one batch, apart from the reconstruction error."""
        return {}

    # Latents in, latents out.

    def standardise(self, x: Tensor) -> Tensor:
        """Return x̃ = (x − mean) / std of latents ``[..., d_in]``."""
        if x.shape[-1] != self.config.d_in:
            raise ParameterError(f"this SAE takes latents [..., {self.config.d_in}], got {list(x.shape)}")
        return (x - self.mean) / self.std

    def pre_acts(self, x: Tensor) -> Tensor:
        """Return z = (x̃ − b_dec) W_enc + b_enc, ``[..., d_sae]``, of standardised latents ``[..., d_in]``."""
        return (x - self.b_dec) @ self.W_enc + self.b_enc

    def reconstruct(self, acts: Tensor) -> Tensor:
        """Return standardised latents ``[..., d_in]`` of activations ``[..., d_sae]``."""
        return acts @ self.W_dec + self.b_dec

    def encode(self, x: Tensor) -> Tensor:
        """Return the activations of latents.

        Parameters
        ----------
        x : Tensor [..., d_in]
            Latents as the latent space gives them.

        Returns
        -------
        Tensor [..., d_sae]
            Activations, 0 or more.
        """
        return self.activate(self.pre_acts(self.standardise(x)))

    def decode(self, acts: Tensor) -> Tensor:
        """Return latents ``[..., d_in]``, in the latent space's own units, of activations ``[..., d_sae]``."""
        return self.reconstruct(acts) * self.std + self.mean

    def forward(self, x: Tensor) -> Tensor:
        """Return ``decode(encode(x))``."""
        return self.decode(self.encode(x))

    def directions(self) -> Tensor:
        """Return the decoder rows in latent units, ``[d_sae, d_in]``: what one unit of each feature adds to the latents."""
        return self.W_dec * self.std

    def blocks(self, frames: Tensor) -> tuple[Tensor, ...]:
        """Split ``[N, n]`` into blocks of frames so few that their dense activations fit the memory, however long the sound."""
        return frames.split(max(1, DENSE // self.config.d_sae))

    # Learning.

    @torch.no_grad()
    def fit_scaling(self, mean: Tensor, std: Tensor) -> None:
        """Set the input scaling, ``[d_in]`` each; a channel that does not vary (std 0) is left unscaled."""
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std > 1e-6 * std.max(), std, torch.ones_like(std)))

    @torch.no_grad()
    def fit_start(self, x: Tensor) -> None:
        """Set b_dec to the geometric median of latents ``[N, d_in]``; scale the start so that reconstructions have their length.

        Without the least-squares scale a tied, unit-norm start reconstructs several times too long (FVU 7 instead of 0.2).
        """
        x = self.standardise(x)
        if self.config.decoder_bias:
            self.b_dec.copy_(geometric_median(x))
        z = self.pre_acts(x)
        self.fit_threshold(z)
        scale = least_squares_scale(self.reconstruct(self.activate(z)) - self.b_dec, x - self.b_dec)
        self.scale_start(scale)
        self.fit_threshold(z * scale)

    def fit_threshold(self, z: Tensor) -> None:
        """Set what decides when a feature is active from pre-activations ``[N, d_sae]`` (variants with a threshold)."""

    def scale_start(self, scale: Tensor) -> None:
        """Make reconstructions ``scale`` times as long, before training."""
        self.W_enc.mul_(scale)

    def backward(self, x: Tensor, dead: Tensor, sparsity: float = 1.0) -> BatchResult:
        """Write the gradients of one batch's loss to every parameter's ``.grad``.

        loss = mean over frames ‖x̃ − x̂‖² + sparsity · penalty + AuxK(dead)

        Parameters
        ----------
        x : Tensor [N, d_in]
            Latents.
        dead : Tensor [n_dead]
            int64 numbers of the features that count as dead.
        sparsity : float
            Factor on the variant's penalty, raised from 0 to 1 at the start of training.

        Returns
        -------
        BatchResult
            Loss terms (detached), residual, l0, which features fired.
        """
        x = self.standardise(x)
        z = self.pre_acts(x)
        acts = self.activate(z)
        residual = x - self.reconstruct(acts)
        losses = {"mse": residual.pow(2).sum(-1).mean()}
        losses |= {name: sparsity * term for name, term in self.penalty(z, acts).items()}
        if self.config.aux_coefficient and len(dead):
            losses["aux"] = auxk_loss(self, x, residual.detach(), dead)
        self.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        active = acts.detach() > 0
        losses = {name: term.detach() for name, term in losses.items()}
        return BatchResult(losses, residual.detach(), active.sum() / len(x), active.any(0))

    @torch.no_grad()
    def project_gradient(self) -> None:
        """Remove from W_dec's gradient the part along each row, which renormalising would undo."""
        grad = self.W_dec.grad
        assert grad is not None, "backward comes first"
        grad.addcmul_(self.W_dec, (grad * self.W_dec).sum(1, keepdim=True), value=-1)

    @torch.no_grad()
    def constrain(self) -> None:
        """Bring the decoder rows back to length 1 after an optimiser step."""
        self.W_dec.div_(self.W_dec.norm(dim=1, keepdim=True))
