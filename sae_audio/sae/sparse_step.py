"""The hand-written backward pass of the k-sparse variants, from the kept entries of a batch to every gradient.

With blocks b of the dictionary (one for ``topk`` and ``batch_topk``, one per prefix step for ``matryoshka``), S_b the kept
activations and r_b the residual after the first b blocks:

    r_b = x_c − Σ_{c≤b} S_c W_dec[c]      loss = Σ_b ‖r_b‖² / N      G_b = −(2/N) Σ_{c≥b} r_c
    dS_b = (G_b W_dec[b]ᵀ at the kept entries with S > 0)
    dW_dec[b] = S_bᵀ G_b      dW_enc[b] = x_cᵀ dS_b      db_enc[b] = Σ_rows dS_b
    db_dec = −(2/N) Σ_b Σ_rows r_b − W_enc db_enc         (summed first, then one matrix-vector product)

Checked against autograd in float64 by the tests.
"""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import Tensor

from sae_audio.sae.auxk import auxk_gradients
from sae_audio.sae.base import SAE, BatchResult
from sae_audio.sae.entries import Entries, csr
from sae_audio.sae.sparse import step_loops


def decode_block(entries: Entries, W_dec: Tensor, n: int) -> Tensor:
    """Return ``S W_dec`` [n, d_in] of one block's entries S and decoder rows."""
    return entries.matrix((n, len(W_dec))) @ W_dec


def block_gradients(entries: Entries, g: Tensor, W_dec: Tensor, x_c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return one block's gradients for W_dec ``[width, d_in]``, W_encᵀ ``[width, d_in]`` and b_enc ``[width]``.

    Parameters
    ----------
    entries : Entries
        The block's kept activations.
    g : Tensor [N, d_in]
        Gradient of the loss for the block's reconstruction.
    W_dec : Tensor [width, d_in]
        The block's decoder rows.
    x_c : Tensor [N, d_in]
        Encoder inputs.
    """
    n, width = len(g), len(W_dec)
    d_values = torch.sparse.sampled_addmm(entries.matrix((n, width)), g, W_dec.T, beta=0.0).values()
    d_values = d_values * (entries.values > 0)
    # One stable sort transposes the pattern for both products; it keeps the order of rows, so sums are reproducible.
    columns, order = entries.columns.sort(stable=True)
    rows, values, d_values = (x.index_select(0, order) for x in (entries.rows, entries.values, d_values))
    d_dec = csr(columns, rows, values, (width, n)) @ g
    d_acts = csr(columns, rows, d_values, (width, n))
    return d_dec, d_acts @ x_c, d_acts @ g.new_ones(n)


def result(x_c: Tensor, left: list[Tensor], entries: Entries, d_sae: int) -> BatchResult:
    """Return the loss terms, the last residual, l0 and what fired."""
    errors = [r.pow(2).sum() / len(x_c) for r in left]
    losses = {"mse": errors[-1]} | ({"prefixes": torch.stack(errors[:-1]).sum()} if errors[:-1] else {})
    fired = torch.bincount(entries.columns, entries.values, d_sae) > 0
    return BatchResult(losses, left[-1], (entries.values > 0).sum() / len(x_c), fired)


@torch.no_grad()
def sparse_backward(sae: SAE, x_c: Tensor, entries: Entries, widths: tuple[int, ...], dead: Tensor) -> BatchResult:
    """Write the gradients of reconstruction and AuxK to every parameter's ``.grad``.

    Parameters
    ----------
    sae : SAE
        A k-sparse SAE.
    x_c : Tensor [N, d_in]
        Standardised latents minus b_dec.
    entries : Entries
        The activations that the variant keeps.
    widths : tuple of int
        Ascending nested dictionary sizes that each reconstruct; the last is d_sae.
    dead : Tensor [n_dead]
        int64 numbers of the dead features.

    Returns
    -------
    BatchResult
        See there.
    """
    n = len(x_c)
    bounds = [0, *widths]
    blocks = [entries.block(*span) for span in zip(bounds, widths, strict=False)] if len(widths) > 1 else [entries]
    dictionary = [sae.W_dec[low:high] for low, high in zip(bounds, widths, strict=False)]
    loops = step_loops(x_c, len(sae.W_dec))
    decode, gradients = (loops.decode, loops.block_gradients) if loops else (decode_block, block_gradients)
    left = [x_c - x_hat for x_hat in accumulate(decode(block, W, n) for block, W in zip(blocks, dictionary, strict=True))]
    g = list(accumulate(r * (-2 / n) for r in reversed(left)))[::-1]
    parts = [gradients(block, g_b, W, x_c) for block, g_b, W in zip(blocks, g, dictionary, strict=True)]
    W_dec, W_enc_T, b_enc = (torch.cat(grads) if len(grads) > 1 else grads[0] for grads in zip(*parts, strict=True))
    if sae.config.decoder_bias:
        sae.b_dec.grad = g[0].sum(0) - sae.W_enc @ b_enc
    outcome = result(x_c, left, entries, len(W_dec))
    if sae.config.aux_coefficient and len(dead):
        outcome.losses["aux"] = add_auxk(sae, x_c, left[-1], dead, (W_enc_T, b_enc, W_dec))
    sae.W_dec.grad, sae.W_enc.grad, sae.b_enc.grad = W_dec, W_enc_T.T.contiguous(), b_enc
    return outcome


def add_auxk(sae: SAE, x_c: Tensor, residual: Tensor, dead: Tensor, grads: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Add AuxK's gradients to those of W_encᵀ, b_enc and W_dec, whose first axis is the feature; return its loss."""
    loss, d_enc, d_bias, d_dec = auxk_gradients(sae, x_c, residual, dead)
    for grad, part in zip(grads, (d_enc.T, d_bias, d_dec), strict=True):
        grad.index_add_(0, dead, part)
    return loss
