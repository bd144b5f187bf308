"""Phase for magnitudes: each bin turns at the frequency of its nearest spectral peak, then Griffin-Lim repairs the rest.

Started from zero phase, Griffin-Lim with momentum (doi 10.1109/WASPAA.2013.6701851) needs 32 iterations for what it reaches in 8
from this start, which is single-pass spectrogram inversion (Beauregard et al., DAFx 2015) without its tracking of peaks from one
spectrum to the next, so that it is a plain cumulative sum. The card of the codec has the measurements.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def turns_per_hop(magnitudes: Tensor, n_fft: int, hop: int) -> Tensor:
    """Return how far each bin's phase turns in one hop, from the frequency of the spectral peak nearest to the bin.

    The frequency of a peak is read off the parabola through the logarithms of its three highest bins.

    Parameters
    ----------
    magnitudes : Tensor [B, n_bins, n]
        Linear magnitudes, at least 0.
    n_fft, hop : int
        Samples of the FFT; samples between spectra.

    Returns
    -------
    Tensor [B, n_bins, n]
        Float64, in turns (1 = 2π).
    """
    logs = (magnitudes + 1e-8).log()
    below, above = F.pad(logs, (0, 0, 1, 0), "replicate")[:, :-1], F.pad(logs, (0, 0, 0, 1), "replicate")[:, 1:]
    bend = (2 * logs - below - above).clamp(min=1e-6)
    bins = torch.arange(logs.shape[1], device=logs.device)[None, :, None]
    summit = bins + (0.5 * (above - below) / bend).clamp(-0.5, 0.5)
    nearest = _nearest(bins, (logs >= below) & (logs > above))
    return summit.gather(1, nearest).double() * (hop / n_fft)


def _nearest(bins: Tensor, peaks: Tensor) -> Tensor:
    """Return the index of the peak nearest to each bin ``[B, n_bins, n]``; without any peak, bin 0 or the last."""
    last = bins.shape[1] - 1
    left = torch.where(peaks, bins, -last).cummax(dim=1).values
    right = torch.where(peaks, bins, 2 * last).flip(1).cummin(dim=1).values.flip(1)
    return torch.where(bins - left <= right - bins, left, right).clamp(0, last)


def starting_phase(turns: Tensor) -> Tensor:
    """Return unit phasors ``[B, n_bins, n]`` for accumulated turns ``[B, n_bins, n]``.

    Around a partial, the STFT of a window that is symmetric about its centre alternates in sign from bin to bin, because its
    phase is counted from the window's start.
    """
    alternate = 0.5 * torch.arange(turns.shape[1], device=turns.device, dtype=turns.dtype)[None, :, None]
    angle = 2 * math.pi * ((turns + alternate) % 1).float()
    return torch.polar(torch.ones_like(angle), angle)


def griffin_lim(magnitudes: Tensor, phasors: Tensor, window: Tensor, hop: int, iterations: int, momentum: float) -> Tensor:
    """Return audio whose STFT has nearly the given magnitudes.

    Parameters
    ----------
    magnitudes : Tensor [B, n_bins, n]
        Of a centred STFT with hop ``hop``.
    phasors : Tensor [B, n_bins, n]
        Complex, of modulus 1: where to start.
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
    n_fft, length = len(window), (magnitudes.shape[-1] - 1) * hop
    previous, carried = None, momentum / (1 + momentum)
    for _ in range(iterations):
        audio = torch.istft(magnitudes * phasors, n_fft, hop, window=window, length=length)
        spectra = torch.stft(audio, n_fft, hop, window=window, pad_mode="constant", return_complex=True)
        ahead = spectra if previous is None else spectra - carried * previous
        phasors, previous = ahead / (ahead.abs() + 1e-16), spectra
    return torch.istft(magnitudes * phasors, n_fft, hop, window=window, length=length)
