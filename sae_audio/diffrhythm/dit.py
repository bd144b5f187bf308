"""The diffusion transformer of DiffRhythm (arXiv 2503.01183): noisy latents and conditions in, velocity out.

    x ‖ cond ‖ text ‖ style ‖ c ──Linear, conv positions──► Llama blocks (+ text after each of the first half) ──norm(c)──► v

``c`` is the sum of the embeddings of the flow time, the start time and, in the 285 s model, the duration. There is neither
cross-attention nor adaptive norm inside the blocks: time enters at the input and at the last norm only. Blocks are those of
Llama (arXiv 2302.13971): RMS norm, rotary attention, SwiGLU. Names of parameters are those of the public checkpoints.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sae_audio.diffrhythm.layers import (
    Block,
    Context,
    DiTConfig,
    FinalNorm,
    InputEmbedding,
    TextEmbedding,
    TimeEmbedding,
    rotations,
)
from sae_audio.errors import ParameterError

__all__ = ["Context", "DiT", "DiTConfig"]


class DiT(nn.Module):
    """Velocity of the flow from noise to latents.

    Parameters
    ----------
    config : DiTConfig
        Sizes.

    Examples
    --------
    >>> config = DiTConfig(dim=64, depth=2, heads=2, text_dim=16, conv_layers=1, style_dim=8, time_dim=16)
    >>> dit = DiT(config)
    >>> x, text, style = torch.randn(1, 50, 64), torch.zeros(1, 50, dtype=torch.long), torch.zeros(1, 8)
    >>> dit(x, torch.zeros(1), dit.context(torch.zeros_like(x), text, style)).shape
    torch.Size([1, 50, 64])
    """

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        self.time_embed = TimeEmbedding(config.time_dim)
        self.start_time_embed = TimeEmbedding(config.time_dim)
        if config.duration:
            self.duration_time_embed = TimeEmbedding(config.time_dim)
        self.text_embed = TextEmbedding(config)
        self.input_embed = InputEmbedding(config)
        self.transformer_blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.text_fusion_linears = nn.ModuleList(
            nn.Sequential(nn.Linear(config.text_dim, config.dim), nn.SiLU()) for _ in range(config.depth // 2)
        )
        self.norm_out = FinalNorm(config)
        self.proj_out = nn.Linear(config.dim, config.mel_dim)
        for module in (self.text_fusion_linears, self.norm_out.linear, self.proj_out):
            for parameter in module.parameters():
                nn.init.zeros_(parameter)

    def context(
        self, cond: Tensor, text: Tensor, style: Tensor, start: Tensor | None = None, duration: Tensor | None = None
    ) -> Context:
        """Embed what does not change while sampling.

        Parameters
        ----------
        cond : Tensor [B, T, mel_dim]
            Known latents, zero where unknown.
        text : Tensor [B, T]
            int64 token of each frame, 0 (none) to ``text_num_embeds``.
        style : Tensor [B, style_dim]
            Style vectors.
        start : Tensor [B], optional
            Where in the song the first frame is, in [0, 1]; by default 0.
        duration : Tensor [B], optional
            Frames over ``max_frames``; by default those of ``cond``. Read by models with ``duration`` only.

        Raises
        ------
        ParameterError
            A shape does not fit, or a token is not in the vocabulary.
        """
        self._check(cond, text, style)
        start = torch.zeros(len(cond), device=cond.device) if start is None else start
        share = torch.full((len(cond),), cond.shape[1] / self.config.max_frames, device=cond.device)
        return Context(cond, self.text_embed(text), style, start, share if duration is None else duration)

    def forward(self, x: Tensor, t: Tensor, context: Context) -> Tensor:
        """Return the velocity ``[B, T, mel_dim]`` of noisy latents ``x [B, T, mel_dim]`` at flow times ``t [B]`` in [0, 1]."""
        c = self.time_embed(t) + self.start_time_embed(context.start)
        if self.config.duration:
            c = c + self.duration_time_embed(context.duration)
        h = self.input_embed(x, context, c)
        turn = rotations(x.shape[1], self.config.dim // self.config.heads, x.device)
        for i, block in enumerate(self.transformer_blocks):
            h = block(h, turn)
            if i < len(self.text_fusion_linears):
                h = h + self.text_fusion_linears[i](context.text)
        return self.proj_out(self.norm_out(h, c))

    def _check(self, cond: Tensor, text: Tensor, style: Tensor) -> None:
        config = self.config
        if cond.ndim != 3 or cond.shape[2] != config.mel_dim:
            raise ParameterError(f"latents have shape {list(cond.shape)}; this model wants [B, T, {config.mel_dim}]")
        if text.shape != cond.shape[:2]:
            raise ParameterError(f"text has shape {list(text.shape)}; it must be one token per frame, {list(cond.shape[:2])}")
        if style.shape != (len(cond), config.style_dim):
            raise ParameterError(f"style has shape {list(style.shape)}; this model wants {[len(cond), config.style_dim]}")
        if text.numel() and not 0 <= int(text.min()) <= int(text.max()) <= config.text_num_embeds:
            raise ParameterError(
                f"text tokens run from {int(text.min())} to {int(text.max())}; the vocabulary is 0 to {config.text_num_embeds}"
            )
