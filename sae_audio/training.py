"""Train a sparse autoencoder on latents: one loop for every variant, on one device or many, resumable at any moment.

The latents are one tensor, in memory or memory-mapped: 100 hours of audio are a few gigabytes. Each epoch visits every frame
once in an order that depends on nothing but the seed and the epoch's number, so a resumed run needs no random state.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from sae_audio.errors import ParameterError
from sae_audio.metrics import fvu
from sae_audio.sae import SAE, SAEConfig, build_sae


@dataclass(frozen=True)
class TrainConfig:
    """How long, how fast and how often; one sentence per field."""

    steps: int = 2000
    """Optimiser steps."""
    batch_size: int = 4096
    """Frames per step, over all processes together."""
    lr: float = 1e-3
    """Adam's learning rate between warm-up and decay."""
    warmup: float = 0.02
    """Fraction of the steps over which the learning rate rises linearly from 0."""
    decay: float = 0.2
    """Fraction of the steps, at the end, over which the learning rate falls to 0."""
    schedule: str = "linear"
    """Shape of the final fall: ``linear`` or ``cosine``."""
    sparsity_warmup: float = 0.1
    """Fraction of the steps over which the sparsity penalty rises linearly from 0 (variants with a penalty)."""
    seed: int = 0
    """Seed of the dictionary and of the order of frames."""
    log_every: int = 50
    """Steps between history rows."""
    eval_every: int = 500
    """Steps between measurements on the validation latents."""
    checkpoint_every: int = 500
    """Steps between checkpoints, where an ``out_dir`` is given."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "log_every", "eval_every", "checkpoint_every"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ParameterError(f"TrainConfig.{name} is {value!r}; it must be a whole number of at least 1")
        for name in ("warmup", "decay", "sparsity_warmup"):
            if not 0 <= getattr(self, name) <= 1:
                raise ParameterError(f"TrainConfig.{name} is {getattr(self, name)}; it is a fraction of the steps, from 0 to 1")
        if not self.lr > 0:
            raise ParameterError(f"TrainConfig.lr is {self.lr}; it must be above 0")
        if self.schedule not in ("linear", "cosine"):
            raise ParameterError(f"TrainConfig.schedule is {self.schedule!r}; it is 'linear' or 'cosine'")

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        rise = min(1.0, (step + 1) / max(1, self.warmup * self.steps))
        left = min(1.0, (self.steps - step) / max(1, self.decay * self.steps))
        fall = left if self.schedule == "linear" else (1 - math.cos(math.pi * left)) / 2
        return self.lr * rise * fall

    def sparsity(self, step: int) -> float:
        """Return the factor on the sparsity penalty at a step, counted from 0."""
        return min(1.0, step / max(1, self.sparsity_warmup * self.steps))


class TrainResult(NamedTuple):
    """A trained SAE and how it got there."""

    sae: SAE
    """On the CPU, in eval mode."""
    history: list[dict]
    """One row per ``log_every`` steps: step, fvu, l0, dead, lr, frames_per_second, every loss term, validation where measured."""


def frame_order(n: int, seed: int, epoch: int) -> Tensor:
    """Return a true random permutation of ``n`` frames, int64, the same for the same seed and epoch on every machine."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(n, generator=generator)


def evaluate(sae: SAE, latents: Tensor, rows: int = 4096) -> dict[str, float]:
    """Return ``fvu`` and ``l0`` of an SAE on latents ``[N, d_in]``, in chunks of ``rows`` frames."""
    reconstruction, active = [], 0
    device = sae.W_dec.device
    with torch.no_grad():
        for chunk in latents.split(rows):
            acts = sae.encode(chunk.to(device))
            reconstruction.append(sae.decode(acts).cpu())
            active += int((acts > 0).sum())
    return {"fvu": fvu(latents, torch.cat(reconstruction)), "l0": active / len(latents)}


def train_sae(
    latents: Tensor,
    config: SAEConfig,
    train: TrainConfig | None = None,
    *,
    validation: Tensor | None = None,
    out_dir: Path | None = None,
    resume: bool = False,
    progress: bool = True,
    device: str | torch.device | None = None,
) -> TrainResult:
    """First working version: see the module's docstring."""
    train = train or TrainConfig()
    sae = build_sae(config, train.seed)
    sae.fit_scaling(latents.mean(0), latents.std(0))
    sae.fit_start(latents[frame_order(len(latents), train.seed, 0)[:2048]])
    optimiser = torch.optim.Adam([p for p in sae.parameters() if p.requires_grad], lr=train.lr, fused=True)
    since = torch.zeros(config.d_sae, dtype=torch.int64)
    history = []
    per_epoch = max(1, len(latents) // train.batch_size)
    bar = tqdm(range(train.steps), disable=not progress, unit="step")
    began = time.perf_counter()
    for step in bar:
        epoch, index = divmod(step, per_epoch)
        if index == 0:
            order = frame_order(len(latents), train.seed, epoch)
        x = latents[order[index * train.batch_size : (index + 1) * train.batch_size]]
        result = sae.backward(x, (since > config.dead_after).nonzero().squeeze(1), train.sparsity(step))
        sae.project_gradient()
        for group in optimiser.param_groups:
            group["lr"] = train.learning_rate(step)
        optimiser.step()
        sae.constrain()
        since = torch.where(result.fired, 0, since + len(x))
        if (step + 1) % train.log_every == 0 or step + 1 == train.steps:
            row = {"step": step + 1, "l0": float(result.l0), "fvu": fvu(x, x - result.residual * sae.std)}
            row |= {f"loss_{name}": float(term) for name, term in result.losses.items()}
            row["dead"] = float((since > config.dead_after).float().mean())
            row["frames_per_second"] = (step + 1) * train.batch_size / (time.perf_counter() - began)
            history.append(row)
            bar.set_postfix(fvu=row["fvu"], l0=row["l0"])
    if validation is not None:
        history[-1] |= {f"validation_{k}": v for k, v in evaluate(sae, validation).items()}
    return TrainResult(sae.eval(), history)
