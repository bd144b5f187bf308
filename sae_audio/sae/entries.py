"""The kept activations of a batch as entries of a sparse matrix, in order of frames, and that matrix."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
from torch import Tensor


class Entries(NamedTuple):
    """The kept activations of a batch: a sparse [N, d] matrix as its entries, in order of rows."""

    rows: Tensor
    """[n] int32, the frame of each entry, ascending."""
    columns: Tensor
    """[n] int32, the feature of each entry."""
    values: Tensor
    """[n] the activations, 0 or more."""

    def block(self, low: int, high: int) -> Entries:
        """Return the entries of features ``low`` to ``high`` (exclusive), numbered from 0."""
        inside = (self.columns >= low) & (self.columns < high)
        return Entries(self.rows[inside], self.columns[inside] - low, self.values[inside])

    def matrix(self, shape: tuple[int, int]) -> Tensor:
        """Return them as a CSR tensor of the given shape ``[N, d]``."""
        return csr(self.rows, self.columns, self.values, shape)


def csr(rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return a CSR tensor of entries in order of rows; its invariants hold by construction, so they are not checked again."""
    starts = torch.searchsorted(rows, torch.arange(shape[0] + 1, dtype=rows.dtype, device=rows.device), out_int32=True)
    with warnings.catch_warnings():
        # PyTorch says once per process that CSR is in beta and that invariants are not checked; both are known here.
        warnings.filterwarnings("ignore", message="Sparse ")
        return torch.sparse_csr_tensor(starts, columns, values, shape, check_invariants=False)
