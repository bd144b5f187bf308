"""How long, how fast and how often: the settings of a training run, and the two schedules that follow from them."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from sae_audio.errors import ParameterError


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one training run; a sentence per field."""

    steps: int = 2000
    """Optimiser steps."""
    batch_size: int = 4096
    """Frames per step, over all processes together; fewer where there are fewer latents."""
    lr: float = 1e-3
    """Adam's learning rate between warm-up and decay."""
    warmup: float = 0.02
    """Fraction of the steps over which the learning rate rises linearly from 0."""
    decay: float = 0.2
    """Fraction of the steps, at the end, over which the learning rate falls linearly to 0."""
    sparsity_warmup: float = 0.1
    """Fraction of the steps over which the sparsity penalty rises linearly from 0 (variants with a penalty)."""
    seed: int = 0
    """Seed of the dictionary's start and of the order of frames."""
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
        if not 0 <= self.seed < 2**32:
            raise ParameterError(f"TrainConfig.seed is {self.seed}; it must be from 0 to {2**32 - 1}")
        if not self.lr > 0:
            raise ParameterError(f"TrainConfig.lr is {self.lr}; it must be above 0")

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        rise = min(1.0, (step + 1) / max(1, self.warmup * self.steps))
        fall = min(1.0, (self.steps - step) / max(1, self.decay * self.steps))
        return self.lr * rise * fall

    def sparsity(self, step: int) -> float:
        """Return the factor on the sparsity penalty at a step, counted from 0."""
        return min(1.0, step / max(1, self.sparsity_warmup * self.steps))

    def to_dict(self) -> dict:
        """Return a JSON-ready dictionary."""
        return asdict(self)
