"""What probes and directions are fitted on, a matrix [N, n] with a row per frame: dense, or sparse CSR."""

from __future__ import annotations

import torch
from torch import Tensor

from sae_audio.sae.base import SAE
from sae_audio.sae.entries import csr


def select_rows(inputs: Tensor, rows: Tensor) -> Tensor:
    """Return some rows of a dense or sparse CSR matrix."""
    if inputs.layout == torch.strided:
        return inputs[rows]
    crow, col, values = inputs.crow_indices(), inputs.col_indices(), inputs.values()
    lengths = (crow[1:] - crow[:-1])[rows]
    new_rows = torch.arange(len(rows)).repeat_interleave(lengths)
    within = torch.arange(len(new_rows)) - (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
    taken = crow[rows].repeat_interleave(lengths) + within
    return csr(new_rows, col[taken], values[taken], (len(rows), inputs.shape[1]))


def column_rms(inputs: Tensor) -> Tensor:
    """Return the root mean square of each column, [n], with a floor."""
    if inputs.layout == torch.strided:
        squares = inputs.square().sum(0)
    else:
        squares = torch.zeros(inputs.shape[1]).index_add_(0, inputs.col_indices(), inputs.values().square())
    rms = (squares / len(inputs)).sqrt()
    # A feature that hardly ever fires would be blown up by its own scale; a floor keeps the penalty on it.
    return rms.clamp_min(float(rms.max()) * 1e-3 + 1e-12)


def scale_columns(inputs: Tensor, factors: Tensor) -> Tensor:
    """Return the matrix with each column times its factor."""
    if inputs.layout == torch.strided:
        return inputs * factors
    scaled = inputs.clone()
    scaled.values().mul_(factors[inputs.col_indices()])
    return scaled


def acts_matrix(sae: SAE, latents: Tensor) -> Tensor:
    """Return the activations of flat latents as a sparse CSR matrix, in bounded memory.

    Parameters
    ----------
    sae : SAE
        Any variant.
    latents : Tensor [N, d_in]
        Frames.

    Returns
    -------
    Tensor [N, d_sae], layout sparse CSR
    """
    rows, columns, values, start = [], [], [], 0
    with torch.no_grad():
        for part in sae.blocks(latents):
            acts = sae.encode(part)
            row, column = acts.nonzero(as_tuple=True)
            rows.append(row + start)
            start += len(part)
            columns.append(column)
            values.append(acts[row, column])
    return csr(torch.cat(rows), torch.cat(columns), torch.cat(values), (len(latents), sae.config.d_sae))


def transposed(inputs: Tensor) -> Tensor:
    """Return the matrix [n, N], sparse CSR if it was."""
    return inputs.T if inputs.layout == torch.strided else inputs.transpose(0, 1).to_sparse_csr()
