"""Several processes as one: what ``accelerate launch`` and ``torchrun`` start, seen from the training loop.

Each process (rank) computes the gradients of its share of every batch; one all-reduce makes their mean, so that all ranks take
the same optimiser step. With one process nothing here does anything.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import count
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from sae_audio.errors import ParameterError
from sae_audio.sae import SAE, BatchResult


class Ranks(NamedTuple):
    """Which of how many processes this is."""

    rank: int
    """Number of this process, from 0; rank 0 writes files and shows progress."""
    world: int
    """Number of processes."""
    device: torch.device
    """Where this process computes."""

    def share(self, rows: Tensor) -> Tensor:
        """Return this process's part of a batch: every ``world``-th row."""
        return rows[self.rank :: self.world]

    def check_batch(self, batch_size: int) -> None:
        """Raise ``ParameterError`` unless every process gets equally many frames of a batch."""
        if batch_size % self.world:
            remedy = batch_size - batch_size % self.world or self.world
            raise ParameterError(f"a batch of {batch_size} frames cannot be shared by {self.world} processes; take {remedy}")

    def average(self, sae: SAE, result: BatchResult) -> BatchResult:
        """Replace gradients, running thresholds and batch statistics by their mean over all processes, in one all-reduce."""
        if self.world == 1:
            return result
        grads = [p.grad for p in sae.parameters() if p.grad is not None]
        running = [buffer for name, buffer in sae.named_buffers() if name == "threshold"]
        parts = [*grads, *running, *result.losses.values(), result.l0, result.fired.to(sae.W_dec.dtype)]
        flat = torch.cat([part.reshape(-1) for part in parts])
        dist.all_reduce(flat)
        means = [
            mean.view_as(part) for mean, part in zip((flat / self.world).split([p.numel() for p in parts]), parts, strict=True)
        ]
        for target, mean in zip([*grads, *running], means, strict=False):
            target.copy_(mean)
        *losses, l0, fired = means[len(grads) + len(running) :]
        return BatchResult(dict(zip(result.losses, losses, strict=True)), result.residual, l0, fired > 0)


def pick_device(device: str | torch.device | None = None, local_rank: int | None = None) -> torch.device:
    """Return where a process computes: with ``cuda`` on the GPU of its own.

    Parameters
    ----------
    device : str or torch.device, optional
        As the user names it, the same in all processes; one with a number, ``cuda:2``, is taken as it is. None: a GPU where there
        is one, else the CPU.
    local_rank : int, optional
        Number of the process on this machine, from 0; None: ``LOCAL_RANK``.

    Raises
    ------
    ParameterError
        There is no such kind of device.

    Examples
    --------
    >>> pick_device("cuda", 1), pick_device("cpu", 1)
    (device(type='cuda', index=1), device(type='cpu'))
    """
    try:
        wanted = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device is None else device)
    except RuntimeError:
        raise ParameterError(f"device '{device}' is not available here; use cpu") from None
    if wanted != torch.device("cuda"):
        return wanted
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) if local_rank is None else local_rank)


@cache
def _meeting() -> tuple[dist.Store, int]:
    """Where the processes tell each other their addresses, made once, and the number of this one."""
    store, rank, _ = next(dist.rendezvous("env://"))
    return store, rank


_joins = count()


@contextmanager
def joined_ranks(device: str | torch.device | None) -> Iterator[Ranks]:
    """Join the process group that the launcher's environment describes, and leave it if it was joined here; any number of times.

    ``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``, ``MASTER_ADDR`` and ``MASTER_PORT`` come from ``accelerate launch`` or ``torchrun``.
    """
    world = int(os.environ.get("WORLD_SIZE", 1))
    here = pick_device(device)
    if world == 1:
        yield Ranks(0, 1, here)
        return
    joined = not dist.is_initialized()
    if joined:
        store, rank = _meeting()
        own = dist.PrefixStore(f"join {next(_joins)}", store)  # or they find the addresses of the group before, and wait for ever
        dist.init_process_group("nccl" if here.type == "cuda" else "gloo", store=own, rank=rank, world_size=world)
    try:
        yield Ranks(dist.get_rank(), world, here)
    finally:
        if joined:
            dist.destroy_process_group()
