"""The training loop.

The latents are one tensor, in memory or memory-mapped: 100 hours of audio are a few gigabytes, so there is no streaming store
and no mixing buffer. Each epoch is a true random permutation that depends on the seed and the epoch's number alone, so a
resumed run needs no random state and equals an uninterrupted one. Process-wide settings (random state, number of threads,
flushing of denormals) are left as they are.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from sae_audio.errors import DataError, ParameterError
from sae_audio.files import append_row, make_folder, read_rows, write_rows
from sae_audio.metrics import fvu, reconstruction
from sae_audio.sae import SAE, SAEConfig, build_sae
from sae_audio.sae.base import BatchResult
from sae_audio.training import checkpoint
from sae_audio.training.config import TrainConfig
from sae_audio.training.ranks import Ranks, joined_ranks

MOST_FRAMES = 200_000
"""Frames looked at for the scaling and for a validation; more would change neither in the third digit."""
START_FRAMES = 2048
"""Frames that the start (b_dec, length, thresholds) is fitted to."""


class TrainResult(NamedTuple):
    """A trained SAE and how it got there."""

    sae: SAE
    """On the CPU."""
    history: list[dict]
    """A row per ``log_every`` steps: ``step, fvu, l0, dead`` (share of features), ``lr, frames_per_second``, every loss term as
    ``loss_<name>``, and ``validation_fvu``, ``validation_l0`` where they were measured."""


def frame_order(n: int, seed: int, epoch: int) -> Tensor:
    """Return a random permutation of ``n`` frames, int64, the same for the same seed and epoch on every machine."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(n, generator=generator)


def batches(n: int, batch_size: int, seed: int, first: int) -> Iterator[Tensor]:
    """Yield the frame numbers ``[batch_size]`` of every step from ``first`` on, forever; an epoch's rest is left out."""
    per_epoch = n // batch_size
    order, known = frame_order(n, seed, first // per_epoch), first // per_epoch
    for step in count(first):
        epoch, place = divmod(step, per_epoch)
        if epoch != known:
            order, known = frame_order(n, seed, epoch), epoch
        yield order[place * batch_size : (place + 1) * batch_size]


def thinned(latents: Tensor) -> Tensor:
    """Return at most about ``MOST_FRAMES`` frames, evenly spread, as float32."""
    return latents[:: -(-len(latents) // MOST_FRAMES)].float()


def validate(sae: SAE, latents: Tensor) -> dict[str, float]:
    """Return ``fvu`` and ``l0`` of an SAE on latents.

    Parameters
    ----------
    sae : SAE
        On any device.
    latents : Tensor [N, d_in]
        Latents; of more than 200,000 frames an evenly spread part is taken.
    """
    found = reconstruction(sae, thinned(latents))
    return {"fvu": found.fvu, "l0": found.l0}


def check_latents(latents: Tensor, config: SAEConfig) -> None:
    """Raise ``ParameterError`` unless latents are ``[N >= 2, config.d_in]`` floating point numbers."""
    if latents.ndim != 2 or latents.shape[1] != config.d_in or len(latents) < 2 or not latents.is_floating_point():
        raise ParameterError(f"training takes float latents [N >= 2, {config.d_in}], got {latents.dtype} {list(latents.shape)}")


def started_sae(latents: Tensor, config: SAEConfig, seed: int) -> SAE:
    """Return an SAE that is scaled and started for these latents, on the CPU, the same on every process."""
    sample = thinned(latents).double()
    if not sample.isfinite().all():
        raise DataError("the latents hold NaN or infinite values; extract them again or leave the damaged recordings out")
    sae = build_sae(config, seed)
    sae.fit_scaling(sample.mean(0), sample.std(0))
    sae.fit_start(latents[frame_order(len(latents), seed, 0)[:START_FRAMES]].float())
    return sae


class Run:
    """One training run on one process: the model, its optimiser, and the count of frames since each feature fired."""

    def __init__(self, latents: Tensor, config: SAEConfig, train: TrainConfig, ranks: Ranks) -> None:
        self.latents, self.train, self.ranks = latents, train, ranks
        self.batch_size = min(train.batch_size, len(latents))
        ranks.check_batch(self.batch_size)
        self.sae = started_sae(latents, config, train.seed).to(ranks.device)
        learned = [parameter for parameter in self.sae.parameters() if parameter.requires_grad]
        self.optimiser = torch.optim.Adam(learned, lr=train.lr, fused=True)
        self.since = torch.zeros(config.d_sae, dtype=torch.int64, device=ranks.device)
        self.settings = {"sae": config.to_dict(), "train": train.to_dict(), "data": {"shape": list(latents.shape)}}

    def step(self, number: int, rows: Tensor) -> dict[str, float] | None:
        """Take one optimiser step; return a history row where one is due."""
        x = self.latents[self.ranks.share(rows)].to(self.ranks.device, torch.float32)
        result = self.sae.backward(x, self.dead(), self.train.sparsity(number))
        result = self.ranks.average(self.sae, result)
        self.sae.project_gradient()
        self.optimiser.param_groups[0]["lr"] = self.train.learning_rate(number)
        self.optimiser.step()
        self.sae.constrain()
        self.since = torch.where(result.fired, 0, self.since + len(rows))
        return self.row(number, x, result) if self.due(self.train.log_every, number) else None

    def dead(self) -> Tensor:
        """Return the numbers of the features that have not fired for ``dead_after`` frames."""
        return (self.since > self.sae.config.dead_after).nonzero().squeeze(1)

    def due(self, every: int, number: int) -> bool:
        """Return whether something done every so many steps, and at the end, is due after this step."""
        return (number + 1) % every == 0 or number + 1 == self.train.steps

    def row(self, number: int, x: Tensor, result: BatchResult) -> dict[str, float]:
        """Return the history row of a step."""
        losses = {f"loss_{name}": float(term) for name, term in result.losses.items()}
        if not all(map(torch.isfinite, result.losses.values())):
            raise DataError(f"the loss is not finite at step {number + 1}: {losses}; lower the learning rate ({self.train.lr})")
        row = {"step": number + 1, "fvu": fvu(x, x - result.residual * self.sae.std), "l0": float(result.l0)}
        return row | {"dead": len(self.dead()) / len(self.since), "lr": self.train.learning_rate(number)} | losses

    def save(self, folder: Path, number: int) -> None:
        """Write a checkpoint after this step."""
        checkpoint.save_checkpoint(folder, self.sae, self.optimiser, self.since, self.settings | {"step": number + 1})

    def load(self, folder: Path) -> int:
        """Restore a checkpoint where there is one; return the number of finished steps."""
        return checkpoint.load_checkpoint(folder, self.sae, self.optimiser, self.since, self.settings)


def train_sae(
    latents: Tensor,
    config: SAEConfig,
    train: TrainConfig | None = None,
    *,
    validation: Tensor | None = None,
    out_dir: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
    device: str | torch.device | None = None,
) -> TrainResult:
    """Train a sparse autoencoder.

    Under ``accelerate launch`` or ``torchrun`` every process calls this with the same latents; each computes its share of every
    batch, all end with the same weights, and rank 0 writes the files. ``batch_topk`` and ``matryoshka`` then select within each
    share.

    Parameters
    ----------
    latents : Tensor [N, d_in]
        Frames, in any order; in memory or memory-mapped, float16 to float64. They are standardised inside the SAE.
    config : SAEConfig
        What to train.
    train : TrainConfig, optional
        How to train it.
    validation : Tensor [M, d_in], optional
        Frames of other recordings; fvu and l0 on them join the history every ``eval_every`` steps and at the end.
    out_dir : path, optional
        Folder for ``training.safetensors`` (checkpoint) and ``history.jsonl``; created where missing.
    resume : bool
        Continue from the checkpoint in ``out_dir``; from the start where there is none. On the CPU the result equals that of
        an uninterrupted run bit for bit.
    progress : bool
        Show a progress bar with fvu and l0.
    device : str or torch.device, optional
        Where to compute; None: a GPU where there is one.

    Returns
    -------
    TrainResult
        The SAE, on the CPU, and the history.

    Raises
    ------
    ParameterError
        Latents of the wrong shape; a batch that the processes cannot share; a checkpoint made with other settings.
    DataError
        Latents or a loss that are not finite.

    Examples
    --------
    >>> import torch
    >>> latents = torch.randn(512, 8, generator=torch.Generator().manual_seed(0))
    >>> settings = TrainConfig(steps=20, batch_size=128)
    >>> sae, history = train_sae(latents, SAEConfig("topk", 8, 32, k=4), settings, progress=False)
    >>> history[-1]["step"], history[-1]["l0"]
    (20, 4.0)
    """
    train = train or TrainConfig()
    check_latents(latents, config)
    folder = Path(out_dir) if out_dir is not None else None
    with joined_ranks(device) as ranks:
        run = Run(latents, config, train, ranks)
        first = run.load(folder) if folder and resume else 0
        history = read_rows(folder / checkpoint.HISTORY, first) if folder and first else []
        writer = folder if ranks.rank == 0 else None
        if writer:
            make_folder(writer)
            if not first:  # or a run that is killed before it saves would go on from that of the run before it
                (writer / checkpoint.STATE).unlink(missing_ok=True)
            write_rows(writer / checkpoint.HISTORY, history)
        history += run_steps(run, first, validation, writer, progress and ranks.rank == 0)
    return TrainResult(run.sae.cpu(), history)


def run_steps(run: Run, first: int, validation: Tensor | None, folder: Path | None, progress: bool) -> list[dict]:
    """Take the steps from ``first`` on, writing history and checkpoints to ``folder``; return the new history rows."""
    train, history = run.train, []
    bar = tqdm(range(first, train.steps), initial=first, total=train.steps, unit="step", desc="SAE", disable=not progress)
    before, seen = time.perf_counter(), first
    for number, rows in zip(bar, batches(len(run.latents), run.batch_size, train.seed, first), strict=False):
        row = run.step(number, rows)
        if row:
            now = time.perf_counter()
            row["frames_per_second"] = (number + 1 - seen) * run.batch_size / (now - before)
            before, seen = now, number + 1
            bar.set_postfix(fvu=f"{row['fvu']:.4f}", l0=f"{row['l0']:.1f}", dead=f"{row['dead']:.1%}")
        if validation is not None and run.due(train.eval_every, number):
            row = (row or {"step": number + 1}) | {f"validation_{k}": v for k, v in validate(run.sae, validation).items()}
        if row:
            history.append(row)
        if row and folder:
            append_row(folder / checkpoint.HISTORY, row)
        if folder and run.due(train.checkpoint_every, number):
            run.save(folder, number)
    return history
