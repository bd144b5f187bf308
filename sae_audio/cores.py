"""Work split over the processor's cores in large pieces, one core each.

PyTorch splits every single operation over the cores and lets them wait for each other after it. Where a job of many small
operations splits into independent pieces, one core per piece never waits, and what a piece computes stays in its core's cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from multiprocessing import current_process
from threading import Barrier, Lock
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")
_starting = Lock()


@lru_cache(maxsize=1)
def _single_core_threads(count: int, process: int | None) -> ThreadPoolExecutor:
    """Return threads in each of which PyTorch uses one core; a process forked off a process has none of its threads."""
    together = Barrier(count)

    def settle(_: int) -> None:
        torch.get_num_threads()  # PyTorch sets a thread up when it first asks; later that would undo the next line
        torch.set_num_threads(1)
        together.wait()  # so that each of these calls has a thread of its own

    pool = ThreadPoolExecutor(count, "single-core")
    list(pool.map(settle, range(count)))
    torch.set_num_threads(count)  # the number for threads to come, as it was
    return pool


def on_all_cores(job: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Return ``job`` of every item, in order, computed on as many threads as PyTorch may use here, each on one core.

    Parameters
    ----------
    job : callable
        Whether gradients are recorded is as in the caller. An error in a job is raised here.
    items : iterable
        What it is called with.
    """
    count = torch.get_num_threads()
    if count == 1:
        return [job(item) for item in items]
    inference, grad = torch.is_inference_mode_enabled(), torch.is_grad_enabled()

    def as_in_the_caller(item: Item) -> Result:
        with torch.inference_mode(inference), torch.set_grad_enabled(grad):
            return job(item)

    with _starting:
        pool = _single_core_threads(count, current_process().pid)
    return list(pool.map(as_in_the_caller, items))
