"""Telling other weights under the same name apart: what a model makes of a fixed sweep."""

from __future__ import annotations

import math
from copy import copy

import torch

from sae_audio.latent_spaces.base import LatentSpace

TOLERANCE = 0.02
"""RMS of the difference over RMS: another device or version rounds by far less than this, other weights differ by far more.

Over all channels, since hidden states have a few that are many times as large as the rest and much the same whatever a model was
tuned to: beside the largest of them alone, the others would not count. Not about the mean over channels: there may be but one.
"""


def signature(space: LatentSpace) -> list[float]:
    """Return the mean latent of a quarter second of a fixed sweep, d_in numbers."""
    space = copy(space)
    space.dtype = torch.float32  # whatever precision it runs in, the weights are the same
    t = torch.arange(space.spec.sample_rate // 4) / space.spec.sample_rate
    sweep = 0.3 * torch.sin(2 * math.pi * (200 * t + 4000 * t.square()))
    cudnn = torch.backends.cudnn
    with cudnn.flags(enabled=cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=False):
        return space.encode(sweep.expand(1, space.spec.channels, -1))[0].mean(dim=0).tolist()


def same_weights(one: list[float], other: list[float]) -> bool:
    """Return whether two signatures come from the same weights."""
    a, b = torch.tensor(one), torch.tensor(other)
    return a.shape == b.shape and bool((a - b).norm() <= TOLERANCE * a.norm())
