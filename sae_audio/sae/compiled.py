"""Top-k selection compiled by Numba, for the training step on a CPU.

PyTorch's top-k does not vectorise, and at d_sae = 2048 it takes longer than the encoder product. Here everything that sees a
whole row is a loop that compiles to vector instructions: the largest of each group of columns, and counts of values above a
bound, by which bisection finds the k-th largest. Only the module ``sparse`` imports this one, when a training step is large
enough to be worth two seconds of compiling and Numba is installed.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numba import njit

HALF, ZERO, NAN = np.float32(0.5), np.float32(0), np.float32(np.nan)


@njit(nogil=True)
def _count(values, bound):
    count = np.int32(0)
    for i in range(len(values)):
        count = np.int32(count + np.int32(values[i] >= bound))  # 64-bit counts would halve the vectors
    return count


@njit(nogil=True)
def _bracket(values, low, high, least, most):
    """Raise ``low`` until between ``least`` and ``most`` values reach it; fewer than ``least`` reach ``high``, unless equal."""
    if _count(values, high) >= least:
        return high, high
    count = _count(values, low)
    while count > most:
        middle = HALF * (low + high)
        if not (low < middle and middle < high):
            break  # neighbouring numbers: what is left between them is equal
        reached = _count(values, middle)
        if reached >= least:
            low, count = middle, reached
        else:
            high = middle
    return low, high


@njit(nogil=True, fastmath={"reassoc", "nsz"})
def _largest_of_groups(row, largest, sums):
    """Fill in the largest of each strided group of columns; return their extremes and whether all of the row is finite."""
    groups = len(largest)
    for g in range(groups):
        largest[g] = sums[g] = row[g]
    for start in range(groups, len(row), groups):
        part = row[start : start + groups]
        for g in range(len(part)):
            value = part[g]
            largest[g] = value if value > largest[g] else largest[g]
            sums[g] += value
    total, low, high = ZERO, largest[0], largest[0]
    for g in range(groups):
        total += sums[g]
    for g in range(groups):
        low = largest[g] if largest[g] < low else low
    for g in range(groups):
        high = largest[g] if largest[g] > high else high
    return low, high, total - total == ZERO


@njit(nogil=True)
def _candidates(row, largest, bound, found, columns, groups_found):
    """Collect the values of a row that reach ``bound``, from the groups whose largest does; return how many."""
    n_groups = 0
    for g in range(len(largest)):
        groups_found[n_groups] = g
        n_groups += largest[g] >= bound
    n = 0
    for i in range(n_groups):
        for column in range(groups_found[i], len(row), len(largest)):
            found[n], columns[n] = row[column], column
            n += row[column] >= bound
    return n


@njit(nogil=True)
def _select(z, k, n_groups, values, indices):
    d = z.shape[1]
    largest, sums = np.empty(n_groups, z.dtype), np.empty(n_groups, z.dtype)
    groups_found = np.empty(n_groups + 1, np.int64)
    found, columns = np.empty(d + 1, z.dtype), np.empty(d + 1, np.int64)
    for r in range(len(z)):
        kept, places = values[r], indices[r]
        low, high, finite = _largest_of_groups(z[r], largest, sums)
        if not finite:
            for i in range(k):
                kept[i], places[i] = NAN, i
            continue
        # The k largest values lie in the k groups with the largest maxima, so each reaches the k-th largest maximum.
        low, _ = _bracket(largest, low, high, k, k + k // 4)
        n = _candidates(z[r], largest, low, found, columns, groups_found)
        low, above = _bracket(found[:n], low, high, k, k)
        equal = k - (_count(found[:n], above) if above > low else 0)
        filled = 0
        for i in range(n):
            tie = found[i] == low
            if filled < k and (found[i] > low or (tie and equal > 0)):
                kept[filled], places[filled] = found[i], columns[i]
                filled += 1
                equal -= tie


def top_k_into(z: torch.Tensor, k: int, values: torch.Tensor, indices: torch.Tensor) -> None:
    """Write the k largest entries of each row and their columns, exactly, to ``values`` and ``indices``.

    A row with a value that is not finite gives k times NaN, so that a diverged training shows in its loss.

    Parameters
    ----------
    z : Tensor [N, d]
        Float32, on the CPU, contiguous.
    k : int
        Entries per row, at most d.
    values : Tensor [N, k]
        Float32, contiguous; not sorted.
    indices : Tensor [N, k]
        Int64, contiguous.
    """
    # Counting costs groups and collecting costs k * d / groups.
    n_groups = min(z.shape[1], max(k, 16 * round(math.sqrt(k * z.shape[1]) / 16)))
    _select(z.numpy(), k, n_groups, values.numpy(), indices.numpy())
