"""Loops of the sparse training step compiled by Numba, for the CPU: top-k selection and sums over the kept entries.

PyTorch's top-k does not vectorise, and at d_sae = 2048 it takes longer than the encoder product. Here everything that sees a
whole row is a loop that compiles to vector instructions: the largest of each group of columns, and counts of values above a
bound, by which bisection finds the k-th largest. The sums over entries need no sorting, no transposed copy and no products
per gradient. Only the module ``sparse`` imports this one, when a training step is large enough to be worth three seconds of
compiling and Numba is installed.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numba import njit
from torch import Tensor

from sae_audio.cores import on_all_cores
from sae_audio.sae.entries import Entries

HALF, ZERO, NAN = np.float32(0.5), np.float32(0), np.float32(np.nan)
FRAMES = 512
"""Frames whose entries are decoded at a time."""
PIECE = 2**15
"""Weights in a piece of the dictionary, about: the weights, both gradients and a few frames fit a core's own cache."""


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


def top_k_into(z: Tensor, k: int, values: Tensor, indices: Tensor) -> None:
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


@njit(nogil=True, fastmath={"contract"})
def _add_rows(rows, columns, values, W, sums, start):
    for i in range(len(rows)):
        target, source, value = sums[rows[i] - start], W[columns[i]], values[i]
        for j in range(len(source)):
            target[j] += value * source[j]


@njit(nogil=True)
def _by_piece(columns, values, bits, pieces):
    """Return the entries above 0 in order of their piece of the dictionary, then of rows, and where each piece starts."""
    starts = np.zeros(pieces + 1, np.int64)
    for i in range(len(columns)):
        starts[(columns[i] >> bits) + 1] += values[i] != ZERO
    starts = np.cumsum(starts)
    filled, order = starts.copy(), np.empty(starts[-1], np.int32)
    for i in range(len(columns)):
        if values[i] != ZERO:
            piece = columns[i] >> bits
            order[filled[piece]] = i
            filled[piece] += 1
    return starts, order


@njit(nogil=True, fastmath={"contract", "reassoc", "nsz"})
def _add_gradients(order, rows, columns, values, g, W_dec, x_c, d_dec, d_enc, d_bias):
    for i in order:
        feature, value = columns[i], values[i]
        row, inputs, weights, slope = g[rows[i]], x_c[rows[i]], W_dec[feature], ZERO
        for j in range(len(row)):
            slope += row[j] * weights[j]
        to_dec, to_enc = d_dec[feature], d_enc[feature]
        for j in range(len(row)):
            to_dec[j] += value * row[j]
            to_enc[j] += slope * inputs[j]
        d_bias[feature] += slope


def decode(entries: Entries, W_dec: Tensor, n: int) -> Tensor:
    """Return ``S W_dec`` [n, d_in] of the entries S of n frames and the dictionary's rows ``[width, d_in]``."""
    sums, weights = torch.zeros(n, W_dec.shape[1]), W_dec.detach().numpy()
    starts = range(0, n, FRAMES)
    bounds = torch.searchsorted(entries.rows, torch.tensor([*starts, n], dtype=torch.int32)).tolist()

    def decode_piece(piece: int) -> None:
        part = (x[bounds[piece] : bounds[piece + 1]].numpy() for x in entries)
        _add_rows(*part, weights, sums[starts[piece] :].numpy(), starts[piece])

    on_all_cores(decode_piece, range(len(starts)))
    return sums


def block_gradients(entries: Entries, g: Tensor, W_dec: Tensor, x_c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return what ``sparse_step.block_gradients`` does, a piece of the dictionary at a time.

    Every feature's sums run over its frames in order, so they do not depend on the number of cores.
    """
    bits = round(math.log2(max(1, PIECE / W_dec.shape[1])))
    rows, columns, values = (x.numpy() for x in entries)
    starts, order = _by_piece(columns, values, bits, 1 + (len(W_dec) >> bits))
    sums = torch.zeros_like(W_dec), torch.zeros_like(W_dec), W_dec.new_zeros(len(W_dec))
    arrays = [x.detach().numpy() for x in (g, W_dec, x_c, *sums)]

    def add(piece: int) -> None:
        _add_gradients(order[starts[piece] : starts[piece + 1]], rows, columns, values, *arrays)

    on_all_cores(add, range(len(starts) - 1))
    return sums
