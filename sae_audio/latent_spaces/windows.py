"""Long clips in bounded memory: windows that leave no trace, and windows that are blended where a model allows nothing better."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

Run = Callable[[Tensor], Tensor]
"""Maps ``[B, C, n * step_in]`` to ``[B, C', n * step_out]``; what it gives beyond is cut off."""


def exact(run: Run, x: Tensor, *, step_in: int, step_out: int, window: int, halo: int) -> Tensor:
    """Run a convolutional network window by window; equal to one run over everything where ``halo`` covers its reach.

    Parameters
    ----------
    run : callable
        The network.
    x : Tensor [B, C, N]
        Its input; windows start at multiples of ``step_in``.
    step_in, step_out : int
        Samples of input and of output per frame.
    window : int
        Frames per window.
    halo : int
        Frames of context on each side, computed and thrown away: at least the reach of the network.

    Returns
    -------
    Tensor [B, C', T * step_out]
        ``T = ceil(N / step_in)``; shorter where the network gives less for the last window.
    """
    total, out, end = -(-x.shape[-1] // step_in), torch.empty(0), 0
    for start in range(0, total, window):
        first, stop = max(start - halo, 0), min(start + window, total)
        y = run(x[..., first * step_in : (stop + halo) * step_in])
        if start == 0:  # now its channels are known; beside the result there is never a second copy of it
            out = y.new_empty(*y.shape[:-1], total * step_out)
        piece = y[..., (start - first) * step_out : (stop - first) * step_out]
        end = start * step_out + piece.shape[-1]
        out[..., start * step_out : end] = piece
    return out[..., :end]


def blended(run: Run, x: Tensor, *, step_in: int, step_out: int, window: int, overlap: int) -> Tensor:
    """Run a network window by window and cross-fade linearly where windows overlap.

    For networks in which every output depends on the whole window (attention, statistics over time). A clip of one window is run
    whole. The last window reaches back to its full length, so that no window is shorter than the others.

    Parameters
    ----------
    run : callable
        The network.
    x : Tensor [B, C, N]
        Its input; windows start at multiples of ``step_in``.
    step_in, step_out : int
        Samples of input and of output per frame.
    window : int
        Frames per window.
    overlap : int
        Frames that neighbouring windows share, less than ``window``.

    Returns
    -------
    Tensor [B, C', T * step_out]
        ``T = ceil(N / step_in)``.
    """
    total = -(-x.shape[-1] // step_in)
    if total <= window:
        return run(x)[..., : total * step_out]
    starts = [*range(0, total - window, window - overlap), total - window]
    out, tail = [], None
    for start, following in zip(starts, [*starts[1:], total], strict=True):
        y = run(x[..., start * step_in : (start + window) * step_in])[..., : window * step_out]
        if tail is not None:
            fade = (torch.arange(tail.shape[-1], device=y.device) + 0.5) / tail.shape[-1]
            y = torch.cat([(1 - fade) * tail + fade * y[..., : tail.shape[-1]], y[..., tail.shape[-1] :]], dim=-1)
        out.append(y[..., : (following - start) * step_out])
        tail = y[..., (following - start) * step_out :]
    return torch.cat(out, dim=-1)


def quantised(run: Run, z: Tensor, window: int) -> Tensor:
    """Quantise ``[B, C, T]`` window by window, so that distances to all codewords exist for one window only.

    In full precision always: in half precision the nearest codeword would not be found.
    """
    with torch.autocast(z.device.type, enabled=False):
        pieces = z.to(torch.promote_types(z.dtype, torch.float32)).split(window, dim=-1)
        return torch.cat([run(piece) for piece in pieces], dim=-1)


def whole_frames(x: Tensor, step: int) -> Tensor:
    """Return ``[B, C, N]`` with zeros appended up to a multiple of ``step``."""
    return pad(x, (0, -x.shape[-1] % step))


def ceil_div(a: int, b: int) -> int:
    """Return ``a / b`` rounded up."""
    return -(-a // b)


def frames_at_once(x: Tensor, window: int, halo: int) -> int:
    """Return the frames per window for a batch: on a CPU ``window`` in all, to fit its caches; elsewhere 32 times as many."""
    return max((window if x.device.type == "cpu" else 32 * window) // len(x), 16 * halo)
