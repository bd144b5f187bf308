"""Sizes and layers of DiffRhythm's transformer; ``dit.py`` puts them together. Names of parameters are the checkpoints'."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sae_audio.errors import ParameterError

NORM_EPS = 1e-6
ROPE_THETA = 1e4
N_SINUSOIDS = 256
"""Sines and cosines of a time, before its MLP."""
TIME_SCALE = 1000
"""Times are in [0, 1]; sinusoids are of this many times that."""
POSITION_KERNEL, POSITION_GROUPS = 31, 16
"""Of the convolutions that tell a block where a frame is."""


@dataclass(frozen=True)
class DiTConfig:
    """Sizes of a DiT. The defaults are those of the public 95 s checkpoints."""

    dim: int = 2048
    """Channels of the blocks."""
    depth: int = 16
    """Blocks; even, since the first half takes the text."""
    heads: int = 32
    """Attention heads; always 32 in public checkpoints, so that a head has ``dim / 32`` channels."""
    ff_mult: int = 4
    """Hidden channels of SwiGLU, as a multiple of ``dim``."""
    text_dim: int = 512
    """Channels of the text features."""
    conv_layers: int = 4
    """ConvNeXt-V2 blocks on the text."""
    mel_dim: int = 64
    """Channels of one latent frame."""
    text_num_embeds: int = 363
    """Text tokens besides 0, which stands for no text."""
    style_dim: int = 512
    """Length of a style vector."""
    time_dim: int = 512
    """Channels of the time embedding."""
    max_frames: int = 2048
    """Longest song, in latent frames; text positions beyond it share the last one."""
    duration: bool = False
    """Whether the song's length is a condition (285 s models of v1.2)."""
    causal: bool = False
    """Whether a frame sees earlier frames only (v1.0) or all (v1.2)."""

    def __post_init__(self) -> None:
        if self.dim % (2 * self.heads) or self.dim % POSITION_GROUPS:
            raise ParameterError(
                f"dim {self.dim} must be a multiple of 2 x {self.heads} heads and of {POSITION_GROUPS} convolution groups"
            )
        if self.depth < 2 or self.depth % 2:
            raise ParameterError(f"depth {self.depth} must be even and at least 2: the first half of the blocks takes the text")

    def to_dict(self) -> dict:
        """Return the fields as a JSON-able dictionary."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> DiTConfig:
        """Read what ``to_dict`` wrote; an unknown field raises ``ParameterError``."""
        unknown = values.keys() - {field.name for field in fields(cls)}
        if unknown:
            raise ParameterError(f"DiT config has unknown fields: {', '.join(sorted(unknown))}")
        return cls(**values)


class Context(NamedTuple):
    """Everything that stays the same from one step of the sampler to the next; batch first, so that contexts can be joined."""

    cond: Tensor
    """Latents that are already known, zero elsewhere, ``[B, T, mel_dim]``."""
    text: Tensor
    """Text features ``[B, T, text_dim]``."""
    style: Tensor
    """Style vectors ``[B, style_dim]``."""
    start: Tensor
    """Where in the song the latents begin, ``[B]`` in [0, 1]."""
    duration: Tensor
    """Length of the song as a share of ``max_frames``, ``[B]`` in (0, 1]."""


class TimeEmbedding(nn.Module):
    """Sinusoids of a time, then an MLP: ``[B]`` in [0, 1] → ``[B, time_dim]``."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.time_mlp = nn.Sequential(nn.Linear(N_SINUSOIDS, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, t: Tensor) -> Tensor:
        """Return embeddings ``[B, time_dim]`` of times ``[B]``."""
        half = N_SINUSOIDS // 2
        rates = torch.exp(torch.arange(half, device=t.device) * (-math.log(1e4) / (half - 1)))
        angles = TIME_SCALE * t.float()[:, None] * rates
        return self.time_mlp(torch.cat([angles.sin(), angles.cos()], dim=-1).to(next(self.time_mlp.parameters()).dtype))


class TextEmbedding(nn.Module):
    """Tokens of frames → features: ``[B, T]`` int64 → ``[B, T, text_dim]``."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.text_embed = nn.Embedding.from_pretrained(drawn(config.text_num_embeds + 1, config.text_dim), freeze=False)
        self.text_blocks = nn.Sequential(*(ConvNeXtV2Block(config.text_dim) for _ in range(config.conv_layers)))
        self.last = config.max_frames - 1

    def forward(self, text: Tensor) -> Tensor:
        """Return features ``[B, T, text_dim]`` of tokens ``[B, T]``."""
        places = torch.arange(text.shape[1], device=text.device).clamp(max=self.last)
        x = self.text_embed(text)
        return self.text_blocks(x + positions(places, x.shape[-1]).to(x.dtype))


class ConvNeXtV2Block(nn.Module):
    """ConvNeXt-V2 (arXiv 2301.00808) over time, hidden channels twice the channels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv1d(dim, dim, 7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.pwconv1 = nn.Linear(dim, 2 * dim)
        self.grn = ResponseNorm(2 * dim)
        self.pwconv2 = nn.Linear(2 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[B, T, dim]`` of ``[B, T, dim]``."""
        h = self.norm(self.dwconv(x.transpose(1, 2)).transpose(1, 2))
        return x + self.pwconv2(self.grn(F.gelu(self.pwconv1(h))))


class ResponseNorm(nn.Module):
    """Scale each channel by its energy over the whole song beside that of the others; so features depend on the song's length."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, dim))
        self.beta = nn.Parameter(torch.zeros(1, 1, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[B, T, dim]`` of ``[B, T, dim]``."""
        energy = x.norm(dim=1, keepdim=True)
        return self.gamma * x * (energy / (energy.mean(dim=-1, keepdim=True) + 1e-6)) + self.beta + x


class InputEmbedding(nn.Module):
    """Join latents and conditions frame by frame, project, and add convolutional positions."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        width = 2 * config.mel_dim + config.text_dim + config.style_dim + config.time_dim
        self.proj = nn.Linear(width, config.dim)
        style = slice(2 * config.mel_dim + config.text_dim, width - config.time_dim)
        with torch.no_grad():  # unit vectors are small numbers: let training start with as much style as latents
            self.proj.weight[:, style] *= math.sqrt(config.style_dim)
        self.conv_pos_embed = ConvPosition(config.dim)

    def forward(self, x: Tensor, context: Context, c: Tensor) -> Tensor:
        """Return ``[B, T, dim]`` of noisy latents ``[B, T, mel_dim]`` and time embeddings ``[B, time_dim]``."""
        per_song = torch.cat([context.style, c], dim=-1)[:, None].expand(-1, x.shape[1], -1)
        h = self.proj(torch.cat([x, context.cond, context.text, per_song], dim=-1))
        return h + self.conv_pos_embed(h)


class ConvPosition(nn.Module):
    """Two grouped convolutions, Mish (arXiv 1908.08681) after each."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        convs = (nn.Conv1d(dim, dim, POSITION_KERNEL, padding=POSITION_KERNEL // 2, groups=POSITION_GROUPS) for _ in range(2))
        first, second = convs
        self.conv1d = nn.Sequential(first, nn.Mish(), second, nn.Mish())

    def forward(self, x: Tensor) -> Tensor:
        """Return positions ``[B, T, dim]`` to add to ``x [B, T, dim]``."""
        return self.conv1d(x.transpose(1, 2)).transpose(1, 2)


class Block(nn.Module):
    """Llama's decoder layer: ``[B, T, dim]`` → ``[B, T, dim]``."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.dim, eps=NORM_EPS)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = nn.RMSNorm(config.dim, eps=NORM_EPS)
        self.mlp = SwiGLU(config.dim, config.dim * config.ff_mult)

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        """Return ``[B, T, dim]`` of ``[B, T, dim]``; ``turn`` comes from ``rotations``."""
        x = x + self.self_attn(self.input_layernorm(x), turn)
        return x + self.mlp(self.post_attention_layernorm(x))


class Attention(nn.Module):
    """Rotary self-attention (arXiv 2104.09864), causal or over the whole song."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.heads, self.causal = config.heads, config.causal
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(config.dim, config.dim, bias=False) for _ in range(4))

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        """Return ``[B, T, dim]`` of ``[B, T, dim]``; ``turn`` comes from ``rotations``."""
        q, k, v = (proj(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for proj in (self.q_proj, self.k_proj, self.v_proj))
        mixed = F.scaled_dot_product_attention(rotate(q, turn), rotate(k, turn), v, is_causal=self.causal)
        return self.o_proj(mixed.transpose(1, 2).flatten(2))


class SwiGLU(nn.Module):
    """Gated linear unit (arXiv 2002.05202)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(dim, hidden, bias=False)
        self.up_proj = nn.Linear(dim, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[B, T, dim]`` of ``[B, T, dim]``."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class FinalNorm(nn.Module):
    """Layer norm whose gain and offset come from the time embedding."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.dim = config.dim
        self.linear = nn.Linear(config.time_dim, 2 * config.dim)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Return ``[B, T, dim]`` of ``[B, T, dim]`` and time embeddings ``[B, time_dim]``."""
        scale, shift = self.linear(F.silu(c))[:, None].chunk(2, dim=-1)
        return F.layer_norm(x, (self.dim,), eps=NORM_EPS) * (1 + scale) + shift


def drawn(*shape: int) -> Tensor:
    """Return standard normal numbers; none on the meta device, where to draw them imports torch._dynamo and sympy."""
    table = torch.empty(shape)
    return table if table.is_meta else table.normal_()


def positions(places: Tensor, dim: int) -> Tensor:
    """Return ``[len(places), dim]``: cosines, then sines, of each place at ``dim / 2`` rates."""
    angles = places[:, None] * _rates(dim, places.device)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def rotations(frames: int, head_dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return cosines and sines ``[frames, head_dim]`` of the rotary angles; both halves of a head turn alike."""
    angles = (torch.arange(frames, device=device)[:, None] * _rates(head_dim, device)).repeat(1, 2)
    return angles.cos(), angles.sin()


def _rates(dim: int, device: torch.device) -> Tensor:
    """Return ``dim / 2`` radians per frame, rounded as in the original: 6000 frames on, a last bit turns by 4e-4."""
    return 1.0 / ROPE_THETA ** (torch.arange(0, dim, 2, device=device) / dim)


def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Turn queries or keys ``[B, heads, T, head_dim]``: channel i of the first half with channel i of the second."""
    cos, sin = (part.to(x.dtype) for part in turn)
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin
