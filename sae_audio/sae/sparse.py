"""One training step of a k-sparse SAE that never builds the dense activations.

The encoder product is dense (an exact top-k must see every pre-activation), in chunks of rows that share one buffer. All
that follows costs k per frame instead of d_sae: decode and both weight gradients are sparse-dense products, the gradient of
the activations is sampled at the kept entries only. Work per frame: 2·d_in·d_sae + 8·d_in·k, against 12·d_in·d_sae of dense
autograd. Every call exists on CPU and CUDA.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

ROWS = 512


class Entries(NamedTuple):
    """A sparse [N, d] matrix as its entries, sorted by row."""

    crow: Tensor
    """[N + 1] where each row starts in the other two."""
    col: Tensor
    """[nnz] column of each entry."""
    values: Tensor
    """[nnz] entries."""

    def matrix(self, d: int) -> Tensor:
        """Return the CSR tensor ``[N, d]``."""
        return csr(self.crow, self.col, self.values, len(self.crow) - 1, d)


def csr(crow: Tensor, col: Tensor, values: Tensor, rows: int, columns: int) -> Tensor:
    """Return a CSR tensor; its invariants hold by construction here, so they are not checked again."""
    return torch.sparse_csr_tensor(crow, col, values, (rows, columns), check_invariants=False)


def pre_act_chunks(x_c: Tensor, W_enc: Tensor, b_enc: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield (first row, pre-activations [rows, d_sae]) for ``x_c [N, d_in]``; each buffer is overwritten by the next."""
    buffer = torch.empty(min(ROWS, len(x_c)), W_enc.shape[1], dtype=x_c.dtype, device=x_c.device)
    for start in range(0, len(x_c), ROWS):
        rows = x_c[start : start + ROWS]
        yield start, torch.addmm(b_enc, rows, W_enc, out=buffer[: len(rows)])


def top_k(z: Tensor, k: int, groups: int = 8) -> tuple[Tensor, Tensor]:
    """Return the k largest entries of each row and their columns, exactly, in two stages.

    The k largest entries lie in the k groups with the largest maxima, so ``topk`` sees a fraction of each row. Groups are
    strided (column c is in group c mod n) because that is how a maximum over groups vectorises.

    Parameters
    ----------
    z : Tensor [N, d]
        Values.
    k : int
        Entries per row.
    groups : int
        Columns per group.

    Returns
    -------
    values [N, k], indices [N, k] : Tensor
        Not sorted.
    """
    n, d = z.shape
    width = d // groups
    if d % groups or width < 2 * k:
        return torch.topk(z, k, sorted=False)
    z = z.view(n, groups, width)
    best = z.amax(1).topk(k, dim=-1, sorted=False).indices
    candidates = z.gather(2, best[:, None].expand(n, groups, k)).view(n, groups * k)
    values, position = candidates.topk(k, dim=-1, sorted=False)
    return values, best.gather(1, position % k) + position.div(k, rounding_mode="floor") * width


def encode_top_k(x_c: Tensor, W_enc: Tensor, b_enc: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the ReLU of the k largest pre-activations of each row of ``x_c [N, d_in]`` and their columns, ``[N, k]`` each."""
    values = torch.empty(len(x_c), k, dtype=x_c.dtype, device=x_c.device)
    indices = torch.empty(len(x_c), k, dtype=torch.int64, device=x_c.device)
    for start, z in pre_act_chunks(x_c, W_enc, b_enc):
        values[start : start + len(z)], indices[start : start + len(z)] = top_k(z, k)
    return values.relu_(), indices
