"""WavTokenizer's decoder (Ji et al., arXiv 2408.16532): attention, ConvNeXt and an inverse STFT; all up-sampling is in the STFT.

    latents [B, d_in, T] ─conv─► pos_net ─norm─► ConvNeXt × n ─norm─► log magnitude, phase [B, T, n_fft + 2] ─iSTFT─► audio

``pos_net`` is two residual blocks, self-attention over the whole clip, and two more residual blocks, each normalised over the
whole clip: every sample of the output depends on every frame. What follows is Vocos (arXiv 2306.00814): ConvNeXt blocks
(arXiv 2201.03545) whose norms take gain and offset from a table with one row per bandwidth, and a head whose STFT frame ``i`` is
centred on the samples of latent frame ``i``. The public checkpoints have four equal bandwidths and are used with the first.

Modules are named as in the public checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-6
"""Added to the variances of all norms."""
GROUPS = 32
"""Groups of the norms over time; ``width`` is a multiple of it."""
LOUDEST = 100.0
"""Limit of the magnitudes that the head gives to the inverse STFT."""


@dataclass(frozen=True)
class DecoderConfig:
    """Sizes of a decoder."""

    d_in: int
    """Channels of the latents."""
    width: int
    """Channels of all blocks."""
    hidden: int
    """Channels inside a ConvNeXt block."""
    blocks: int
    """ConvNeXt blocks."""
    bandwidths: int
    """Rows of the tables of gains and offsets."""
    n_fft: int
    """Samples of the STFT window and of the FFT."""
    hop_length: int
    """Samples per latent frame."""


class FourierDecoder(nn.Module):
    """Latents to audio."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.backbone = Backbone(config)
        self.head = FourierHead(config)

    def forward(self, latents: Tensor, bandwidth: int = 0) -> Tensor:
        """Return audio for latents.

        Parameters
        ----------
        latents : Tensor [B, d_in, T]
            Codewords or what stands for them.
        bandwidth : int
            Row of the tables of gains and offsets.

        Returns
        -------
        Tensor [B, 1, T * hop_length]
        """
        return self.head(self.backbone(latents, bandwidth))


class Backbone(nn.Module):
    """All but the last linear map and the STFT: latents ``[B, d_in, T]`` to frames ``[B, T, width]``."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        width = config.width
        self.embed = nn.Conv1d(config.d_in, width, 7, padding=3)
        self.pos_net = nn.Sequential(
            ResidualBlock(width), ResidualBlock(width), Attention(width), ResidualBlock(width), ResidualBlock(width), norm(width)
        )
        self.norm = AdaptiveNorm(config)
        self.convnext = nn.ModuleList(ConvNeXtBlock(config) for _ in range(config.blocks))
        self.final_layer_norm = nn.LayerNorm(width, eps=EPS)

    def forward(self, latents: Tensor, bandwidth: int) -> Tensor:
        """Return the frames that the head turns into spectra."""
        x = self.norm(self.pos_net(self.embed(latents)).transpose(1, 2), bandwidth)  # [B, T, width]
        for block in self.convnext:
            x = block(x, bandwidth)
        return self.final_layer_norm(x)


class TimeGroupNorm(nn.GroupNorm):
    """A norm over groups of channels and the whole of time, even where that is a single number."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``[B, C, T]``; ``nn.GroupNorm`` refuses one channel a group at one frame."""
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


def norm(width: int) -> nn.GroupNorm:
    """Return a norm over ``GROUPS`` groups of ``width`` channels."""
    return TimeGroupNorm(GROUPS, width, eps=EPS)


class ResidualBlock(nn.Module):
    """Two convolutions, each after norm and swish, added to their input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = norm(width), nn.Conv1d(width, width, 3, padding=1)
        self.norm2, self.conv2 = norm(width), nn.Conv1d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, width, T]`` to the same shape."""
        y = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(y)))


class Attention(nn.Module):
    """Self-attention of one head over all frames, added to its input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = norm(width)
        self.q, self.k, self.v, self.proj_out = (nn.Conv1d(width, width, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, width, T]`` to the same shape."""
        y = self.norm(x)
        q, k, v = (project(y).transpose(1, 2)[:, None] for project in (self.q, self.k, self.v))  # [B, 1, T, width]
        return x + self.proj_out(F.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2))


class AdaptiveNorm(nn.Module):
    """Layer norm over channels with a gain and an offset for each bandwidth."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.scale = nn.Embedding(config.bandwidths, config.width)
        self.shift = nn.Embedding(config.bandwidths, config.width)

    def forward(self, x: Tensor, bandwidth: int) -> Tensor:
        """Map ``[B, T, width]`` to the same shape."""
        return F.layer_norm(x, x.shape[-1:], self.scale.weight[bandwidth], self.shift.weight[bandwidth], EPS)


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution, norm and a two-layer network, scaled per channel and added to their input."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        width = config.width
        self.dwconv = nn.Conv1d(width, width, 7, padding=3, groups=width)
        self.norm = AdaptiveNorm(config)
        self.pwconv1, self.pwconv2 = nn.Linear(width, config.hidden), nn.Linear(config.hidden, width)
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor, bandwidth: int) -> Tensor:
        """Map ``[B, T, width]`` to the same shape."""
        y = self.norm(self.dwconv(x.transpose(1, 2)).transpose(1, 2), bandwidth)
        return x + self.gamma * self.pwconv2(F.gelu(self.pwconv1(y)))


class FourierHead(nn.Module):
    """Frames to log magnitudes and phases to audio."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.out = nn.Linear(config.width, config.n_fft + 2)
        self.istft = InverseSTFT(config.n_fft, config.hop_length)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, T, width]`` to ``[B, 1, T * hop_length]``."""
        with torch.autocast(x.device.type, enabled=False):  # a phase of some turns has no digits left in half precision
            log_magnitude, phase = self.out(x.float()).transpose(1, 2).chunk(2, dim=1)
            return self.istft(torch.polar(log_magnitude.exp().clamp(max=LOUDEST), phase))[:, None]


class InverseSTFT(nn.Module):
    """Overlap-add of windowed inverse FFTs, divided by the sum of the squared windows.

    Frame ``i`` is centred on the middle of samples ``[i * hop_length, (i + 1) * hop_length)``. ``torch.istft`` has no such
    alignment at the ends of a clip.
    """

    window: Tensor

    def __init__(self, n_fft: int, hop_length: int) -> None:
        super().__init__()
        self.hop_length = hop_length
        self.register_buffer("window", torch.hann_window(n_fft))

    def forward(self, spectrum: Tensor) -> Tensor:
        """Return ``[B, T * hop_length]`` for a complex spectrum ``[B, n_fft / 2 + 1, T]``."""
        window = self.window[:, None]
        frames = torch.fft.irfft(spectrum, len(window), dim=1) * window
        weights = window.square().expand(1, -1, spectrum.shape[-1])
        return self._overlap_add(frames) / self._overlap_add(weights)

    def _overlap_add(self, frames: Tensor) -> Tensor:
        """Add up ``[B, n_fft, T]``, ``hop_length`` apart; what lies beyond the first and the last hop is cut off."""
        n_fft, n_frames = frames.shape[1:]
        span = (1, (n_frames - 1) * self.hop_length + n_fft)
        y = F.fold(frames, span, kernel_size=(1, n_fft), stride=(1, self.hop_length))[:, 0, 0]
        first = (n_fft - self.hop_length) // 2
        return y[:, first : first + n_frames * self.hop_length]
