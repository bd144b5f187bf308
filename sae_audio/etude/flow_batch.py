"""What one training step of étude-flow sees, drawn from nothing but the seed and the step, and its loss."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sae_audio.denoising import forward_noised
from sae_audio.diffrhythm.generator import Generator
from sae_audio.etude.flow_data import FlowData

CROPS = ((128, 6, 0.5), (256, 3, 0.4), (500, 2, 0.1))
"""(frames, clips, share of steps): most steps are on short crops, some on whole clips, so that both lengths are known."""
DROP_ALL, DROP_NOTES = 0.12, 0.08
"""Share of crops that lose all conditions, and the notes alone."""
GIVE = 0.2
"""Share of crops of which a part is given."""


class Batch(NamedTuple):
    """What one step sees; drawn from nothing but the seed and the step."""

    latents: Tensor
    """Standardised, ``[B, T, 64]``."""
    noise: Tensor
    """``[B, T, 64]``."""
    t: Tensor
    """``[B]``."""
    given: Tensor
    """Frames whose latents the model is told, ``[B, T]`` bool."""
    notes: Tensor
    """``[B, T]`` int64, 0 where dropped."""
    styles: Tensor
    """``[B]`` int64, the null style's index where dropped."""


def draw(model: Generator, data: FlowData, step: int, seed: int) -> Batch:
    """Draw the batch of a step."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    frames, size, _ = CROPS[int(torch.multinomial(torch.tensor([share for _, _, share in CROPS]), 1, generator=generator))]
    frames = min(frames, data.latents.shape[1])
    rows = torch.randint(len(data.latents), (size,), generator=generator)
    starts = torch.randint(data.latents.shape[1] - frames + 1, (size, 1), generator=generator)
    places = starts + torch.arange(frames)
    latents = model.standardise(data.latents[rows[:, None], places].float())
    dropped = torch.rand(size, generator=generator)
    nothing, silent = dropped < DROP_ALL, dropped < DROP_ALL + DROP_NOTES
    notes = data.notes[rows[:, None], places].long().masked_fill(silent[:, None], 0)
    styles = data.styles[rows].masked_fill(nothing, len(model.style_names))
    given = _given(size, frames, generator) & ~nothing[:, None]
    return Batch(latents, torch.randn(latents.shape, generator=generator), _times(size, generator), given, notes, styles)


def _given(size: int, frames: int, generator: torch.Generator) -> Tensor:
    """Give some crops a part of themselves: all but a span of 30 to 100 % of the frames."""
    share = 0.3 + 0.7 * torch.rand(size, 1, generator=generator)
    first = torch.rand(size, 1, generator=generator) * (1 - share)
    place = (torch.arange(frames) + 0.5) / frames
    outside = (place < first) | (place >= first + share)
    return outside & (torch.rand(size, 1, generator=generator) < GIVE)


def _times(size: int, generator: torch.Generator) -> Tensor:
    """Draw sigmoid(N(0, 1)), one from each of ``size`` equally likely ranges: less noise in the gradient, the same mean."""
    u = (torch.arange(size) + torch.rand(size, generator=generator)) / size
    return torch.sigmoid(torch.special.ndtri(u.clamp(1e-6, 1 - 1e-6)))


def flow_loss(model: Generator, batch: Batch) -> Tensor:
    """Return each crop's mean squared error of the velocity over the frames that are not given, ``[B]``."""
    t = batch.t[:, None, None]
    x = forward_noised(batch.latents, batch.noise, t)
    cond = batch.latents * batch.given[..., None]
    context = model.dit.context(cond, batch.notes, model.styles(batch.styles))
    wanted = (~batch.given).float()
    error = (model.dit(x, batch.t, context) - (batch.latents - batch.noise)).square().mean(dim=-1)
    return (error * wanted).sum(dim=1) / wanted.sum(dim=1)
