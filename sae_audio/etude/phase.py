"""Phase for magnitudes: each bin turns at the frequency of its nearest spectral peak, then Griffin-Lim repairs the rest.

Started from zero phase, Griffin-Lim with momentum (doi 10.1109/WASPAA.2013.6701851) needs 32 iterations for what it reaches in 8
from this start, which is single-pass spectrogram inversion (Beauregard et al., DAFx 2015) without its tracking of peaks from one
spectrum to the next, so that it is a plain cumulative sum. The card of the codec has the measurements.

Spectra are rows here, ``[B, n, n_bins]``: what is computed for a bin then runs along memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sae_audio.cores import on_all_cores

BLOCK = 128
"""Spectra that one core transforms at a time; their numbers fit its cache."""


def turns_per_hop(magnitudes: Tensor, n_fft: int, hop: int) -> Tensor:
    """Return how far each bin's phase turns in one hop, from the frequency of the spectral peak nearest to the bin.

    The frequency of a peak is read off the parabola through the logarithms of its three highest bins.

    Parameters
    ----------
    magnitudes : Tensor [B, n, n_bins]
        Linear magnitudes, at least 0.
    n_fft, hop : int
        Samples of the FFT; samples between spectra.

    Returns
    -------
    Tensor [B, n, n_bins]
        Float64, in turns (1 = 2π).
    """
    turns = _by_blocks(lambda block: _summits(magnitudes[:, block]), magnitudes)
    return torch.cat(turns, 1).double() * (hop / n_fft)


def _summits(magnitudes: Tensor) -> Tensor:
    """Return the frequency, in bins, of the spectral peak nearest to each bin ``[B, n, n_bins]``."""
    logs = (magnitudes + 1e-8).log()
    below, above = torch.cat([logs[..., :1], logs[..., :-1]], -1), torch.cat([logs[..., 1:], logs[..., -1:]], -1)
    bend = (2 * logs - below - above).clamp(min=1e-6)
    bins = torch.arange(logs.shape[-1], device=logs.device)
    summit = bins + (0.5 * (above - below) / bend).clamp(-0.5, 0.5)
    nearest = _nearest(bins, (logs >= below) & (logs > above))
    return summit.gather(-1, nearest)


def _nearest(bins: Tensor, peaks: Tensor) -> Tensor:
    """Return the index of the peak nearest to each bin ``[B, n, n_bins]``; without any peak, bin 0 or the last."""
    last = len(bins) - 1
    left = torch.where(peaks, bins, -last).cummax(dim=-1).values
    right = torch.where(peaks, bins, 2 * last).flip(-1).cummin(dim=-1).values.flip(-1)
    return torch.where(bins - left <= right - bins, left, right).clamp(0, last)


def starting_phase(turns: Tensor) -> Tensor:
    """Return unit phasors ``[B, n, n_bins]`` for accumulated turns ``[B, n, n_bins]``.

    Around a partial, the STFT of a window that is symmetric about its centre alternates in sign from bin to bin, because its
    phase is counted from the window's start.
    """
    alternate = 0.5 * torch.arange(turns.shape[-1], device=turns.device, dtype=turns.dtype)
    angle = 2 * math.pi * ((turns + alternate) % 1).float()
    return torch.polar(torch.ones_like(angle), angle)


def griffin_lim(magnitudes: Tensor, turns: Tensor, window: Tensor, hop: int, iterations: int, momentum: float) -> Tensor:
    """Return audio whose STFT has nearly the given magnitudes.

    One sweep over blocks of spectra per iteration: each block is transformed, given its magnitudes, transformed back and added
    to the next audio before the next block is looked at, so that nothing but the audio and the spectra that momentum needs goes
    through memory. On a CPU blocks are shared among the cores; their number changes nothing.

    Parameters
    ----------
    magnitudes : Tensor [B, n, n_bins]
        Of a centred STFT with hop ``hop``.
    turns : Tensor [B, n, n_bins]
        Accumulated turns of each bin at each spectrum: where to start.
    window : Tensor [n_fft]
        Of the STFT.
    hop : int
        Samples between spectra.
    iterations : int
        0 inverts the start as it is.
    momentum : float
        In [0, 1): how much of the previous step is carried on.

    Returns
    -------
    Tensor [B, (n - 1) * hop]
        Spectrum j is centred at sample ``j * hop``.
    """
    n_fft, n, carried = len(window), magnitudes.shape[1], momentum / (1 + momentum)
    length, previous = (n - 1) * hop, torch.zeros_like(magnitudes, dtype=torch.complex64)
    gain = _gain(window, hop, n, length)

    def added(spectra: Tensor, block: slice) -> Tensor:
        rows = overlap_add(torch.fft.irfft(spectra, n_fft).mul_(window), hop)
        return rows.mul_(gain[block.start : block.start + rows.shape[1]])

    def started(block: slice) -> Tensor:
        return added(starting_phase(turns[:, block]).mul_(magnitudes[:, block]), block)

    def repaired(block: slice) -> Tensor:
        spectra = torch.fft.rfft(frames[:, block] * window)
        ahead = torch.sub(spectra, previous[:, block], alpha=carried)
        previous[:, block] = spectra
        size = (ahead * ahead.conj()).real.add(1e-30).rsqrt_()  # one over the modulus; never infinite
        return added(ahead.mul_(size.mul_(magnitudes[:, block])), block)

    audio = _joined(_by_blocks(started, magnitudes))
    for _ in range(iterations):
        frames = audio.unfold(1, n_fft, hop)
        audio = _joined(_by_blocks(repaired, magnitudes))
    return audio[:, n_fft // 2 : n_fft // 2 + length]


def _by_blocks(job: Callable[[slice], Tensor], spectra: Tensor) -> list[Tensor]:
    """Return ``job`` of every block of spectra ``[B, n, n_bins]``; on a GPU there is one block."""
    n = spectra.shape[1]
    size = BLOCK if spectra.device.type == "cpu" else n
    return on_all_cores(job, [slice(start, min(start + size, n)) for start in range(0, n, size)])


def _gain(window: Tensor, hop: int, n: int, length: int) -> Tensor:
    """Return what the overlap-added windowed frames are multiplied by, as rows ``[rows, hop]``: 0 beyond the audio's ends."""
    squares = overlap_add(window.square().expand(1, n, -1), hop)[0]
    samples = torch.arange(squares.numel(), device=window.device).view_as(squares) - len(window) // 2
    return ((samples >= 0) & (samples < length)) / squares.clamp(min=1e-11)


def overlap_add(frames: Tensor, hop: int) -> Tensor:
    """Return the sum of frames that start ``hop`` samples apart, in rows of a hop.

    Parameters
    ----------
    frames : Tensor [B, n, n_fft]
        Samples.
    hop : int
        Samples from one frame to the next.

    Returns
    -------
    Tensor [B, n + ceil(n_fft / hop) - 1, hop]
        Row i starts at sample ``i * hop``; zeros follow the last frame.
    """
    batch, n, n_fft = frames.shape
    starts = range(0, n_fft, hop)
    rows = frames.new_zeros(batch, n + len(starts) - 1, hop)
    for row, start in enumerate(starts):
        piece = frames[..., start : start + hop]
        rows[:, row : row + n, : piece.shape[-1]] += piece
    return rows


def _joined(blocks: list[Tensor]) -> Tensor:
    """Return audio ``[B, samples]`` from the rows of each block of spectra, whose last rows overlap the next block's first."""
    rows = torch.cat([*(block[:, :BLOCK] for block in blocks[:-1]), blocks[-1]], 1)
    for number, block in enumerate(blocks[:-1], 1):
        beyond = block[:, BLOCK:]
        rows[:, number * BLOCK : number * BLOCK + beyond.shape[1]] += beyond
    return rows.flatten(1)
