"""A DiT with what it needs to speak in plain latents: their mean and standard deviation, and its styles by name."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sae_audio.diffrhythm.dit import Context, DiT
from sae_audio.diffrhythm.layers import drawn
from sae_audio.errors import ParameterError

GUIDANCE = 4.0
"""Of DiffRhythm, arXiv 2503.01183."""


class Generator(nn.Module):
    """Velocity in the units of the codec's latents, whatever the network was trained on.

    With z = (x − mean)/std the flow of x is that of z scaled by std: noise has the mean and deviation of the latents, and
    velocities are std times the network's. DiffRhythm's own checkpoints have mean 0, std 1 and no named styles. Latents and
    velocities are float32 whatever the precision of the network (``dit.to(torch.bfloat16)`` on an accelerator).

    Parameters
    ----------
    dit : DiT
        The network.
    style_names : sequence of str
        Names of learnt styles, if any; then there is also a learnt null style.
    guidance : float
        Strength of guidance that suits the model; DiffRhythm's is 4.
    """

    latent_mean: Tensor
    latent_std: Tensor

    def __init__(self, dit: DiT, style_names: Sequence[str] = (), guidance: float = GUIDANCE) -> None:
        super().__init__()
        config = dit.config
        self.dit = dit
        self.guidance = guidance
        self.mel_dim = config.mel_dim
        self.style_names = tuple(style_names)
        self.register_buffer("latent_mean", torch.zeros(config.mel_dim))
        self.register_buffer("latent_std", torch.ones(config.mel_dim))
        if self.style_names:
            self.style_table = nn.Parameter(drawn(len(self.style_names) + 1, config.style_dim))

    @property
    def null_style(self) -> Tensor | None:
        """Learnt unit vector ``[1, style_dim]`` of the null branch; None where the user has to bring one."""
        return F.normalize(self.style_table[-1:], dim=-1) if self.style_names else None

    def style(self, *names: str) -> Tensor:
        """Return learnt unit vectors ``[len(names), style_dim]``; an unknown name raises ``ParameterError``."""
        unknown = [name for name in names if name not in self.style_names]
        if unknown:
            raise ParameterError(
                f"style '{unknown[0]}' is unknown; this model knows {', '.join(self.style_names) or 'none by name'}"
            )
        return self.styles(torch.tensor([self.style_names.index(name) for name in names]))

    def styles(self, indices: Tensor) -> Tensor:
        """Return learnt unit vectors ``[B, style_dim]`` by index; ``len(style_names)`` is the null style."""
        return F.normalize(self.style_table[indices.to(self.style_table.device)], dim=-1)

    def noise(self, frames: int, generator: torch.Generator | None) -> Tensor:
        """Return a start ``[frames, mel_dim]`` with the mean and deviation of the latents, the same on every device."""
        z = torch.randn(frames, self.mel_dim, generator=generator).to(self.latent_mean)
        return self.latent_mean + self.latent_std * z

    def standardise(self, latents: Tensor) -> Tensor:
        """Return latents as the network sees them."""
        return (latents - self.latent_mean) / self.latent_std

    def context(
        self,
        known: Tensor,
        mask: Tensor,
        text: Tensor,
        style: Tensor,
        start: Tensor | None = None,
        duration: Tensor | None = None,
    ) -> Context:
        """Embed conditions: latents ``known [B, T, mel_dim]`` where ``mask [B, T]`` is true; the rest as in ``DiT.context``."""
        cond = torch.where(mask[..., None], self.standardise(known), 0.0)
        return self.dit.context(cond.to(self._dtype), text, style.to(self._dtype), start, duration)

    def forward(self, x: Tensor, t: Tensor, context: Context) -> Tensor:
        """Return the velocity ``[B, T, mel_dim]`` of ``x [B, T, mel_dim]`` at ``t [B]``."""
        return self.dit(self.standardise(x).to(self._dtype), t, context).float() * self.latent_std

    @property
    def _dtype(self) -> torch.dtype:
        return self.dit.proj_out.weight.dtype
