"""SEANet (convolutions around an LSTM; arXiv 2009.02095) over long clips: what EnCodec and WavTokenizer are made of."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sae_audio.errors import LatentSpaceError
from sae_audio.latent_spaces.windows import exact, frames_at_once

WINDOW = 768
"""Latent frames per window on a CPU, all items of the batch together: about 10 s at 75 Hz. More falls out of its caches."""
HALO = 8
"""Latent frames on each side of a window. The widest reach of the published networks is 6: seven causal taps."""


def check_reach(config: Any, repo: str) -> None:
    """Raise ``LatentSpaceError`` where the convolutions of an ``EncodecConfig`` see further than ``HALO`` frames."""
    growth, kernel = config.dilation_growth_rate, config.residual_kernel_size
    units = sum((kernel - 1) * growth**unit for unit in range(config.num_residual_layers))
    edges = max(config.kernel_size, config.last_kernel_size) - 1
    samples, step = edges, 1
    for ratio in reversed(config.upsampling_ratios):  # from the audio inwards; a causal convolution has all its taps on one side
        samples, step = samples + (units + 2 * ratio - 1) * step, step * ratio
    reach = max(-(-samples // step), edges)  # on the two sides of the LSTM
    if reach > HALO:
        raise LatentSpaceError(f"{repo} has convolutions that see {reach} frames to one side; windows here allow for {HALO}")


def run_seanet(net: Any, x: Tensor, step_in: int, step_out: int) -> Tensor:
    """Run transformers' EnCodec encoder or decoder on a clip of any length; the whole-clip result up to rounding.

    Convolutions run in windows whose halo covers their reach; the LSTM hands its state from window to window.

    Parameters
    ----------
    net : EncodecEncoder or EncodecDecoder
        The network.
    x : Tensor [B, C, N]
        Audio, or latents channel first.
    step_in, step_out : int
        Input samples to a frame for an encoder, output samples from a frame for a decoder; 1 for the other.
    """
    layers = list(net.layers)
    at = next(i for i, layer in enumerate(layers) if hasattr(layer, "lstm"))
    x = _convolve(layers[:at], x, step_in, 1)
    return _convolve(layers[at + 1 :], _lstm(layers[at].lstm, x), 1, step_out)


def window_of(x: Tensor) -> int:
    """Return the latent frames per window for a batch ``[B, ...]``."""
    return frames_at_once(x, WINDOW, HALO)


def _convolve(layers: list[nn.Module], x: Tensor, step_in: int, step_out: int) -> Tensor:
    return exact(nn.Sequential(*layers), x, step_in=step_in, step_out=step_out, window=window_of(x), halo=HALO)


def _lstm(lstm: nn.LSTM, x: Tensor) -> Tensor:
    """Run the residual LSTM over ``[B, C, T]``."""
    state, out = None, []
    for piece in x.split(window_of(x), dim=-1):
        y, state = lstm(piece.permute(2, 0, 1), state)
        out.append(y.permute(1, 2, 0) + piece)
    return torch.cat(out, dim=-1)
