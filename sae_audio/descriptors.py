"""Acoustic descriptors on the latent frame grid: f0, RMS and spectral centroid.

Frame ``i`` is the window centred at ``(i + 1/2) * hop_length`` samples, whatever the hop and the rate:

- RMS and centroid: 40 ms, or one hop where that is longer; rectangular for RMS, Hann for the centroid.
- f0: YIN (de Cheveigné & Kawahara, JASA 2002) on 32 ms plus the lag, centred for a 200 Hz tone.

Samples beyond the ends of the clip count as zeros. Pure functions, batched, on any device.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from sae_audio.errors import ParameterError
from sae_audio.framing import frame_windows
from sae_audio.trackers import TRACKERS, check_tracker
from sae_audio.units import SILENCE_DB, to_db

WINDOW_SECONDS = 0.040  # RMS and centroid: holds 1.6 periods of the lowest f0

AT_ONCE = 2**22
"""Samples, about, of the items of a batch that are measured together: 8 channels of 20 minutes are measured one by one."""


class Descriptors(NamedTuple):
    """Measured properties per latent frame."""

    f0: Tensor
    """[B, T] fundamental frequency in Hz; NaN where unvoiced."""
    rms: Tensor
    """[B, T] root mean square, linear, at least 0."""
    centroid: Tensor
    """[B, T] magnitude-weighted mean frequency in Hz; NaN where the window holds only zeros."""

    @classmethod
    def of(cls, **columns: Tensor) -> Descriptors:
        """Return these columns, at least one; those that are not given were not measured and are NaN."""
        unknown = torch.full_like(next(iter(columns.values())), torch.nan)
        return cls(**{name: unknown for name in cls._fields} | columns)


@torch.no_grad()
def describe(audio: Tensor, sample_rate: int, hop_length: int, *, tracker: str | None = "yin") -> Descriptors:
    """Measure f0, RMS and spectral centroid of every latent frame.

    Parameters
    ----------
    audio : Tensor [B, C, N]
        Float samples, nominally in [-1, 1], N >= 1. Channels are averaged.
    sample_rate : int
        Hz.
    hop_length : int
        Samples per latent frame, >= 1.
    tracker : str, optional
        ``yin`` (batched torch, the default), ``librosa-yin``, ``pyin``, ``crepe`` or ``crepe-tiny``; None: no pitch is measured,
        f0 is NaN throughout.

    Returns
    -------
    Descriptors
        Three tensors ``[B, T]``, ``T = ceil(N / hop_length)``, float32, on the device of ``audio``.

    Raises
    ------
    ParameterError
        Wrong shape, rate, hop or tracker, or the tracker's package is not installed.

    Examples
    --------
    >>> import torch
    >>> tone = 0.5 * torch.sin(2 * torch.pi * 440 * torch.arange(16000) / 16000)
    >>> d = describe(tone[None, None], 16000, 320)
    >>> d.f0.shape, round(float(d.f0[0, 25])), round(float(to_db(d.rms)[0, 25]), 1), round(float(d.centroid[0, 25]))
    (torch.Size([1, 50]), 440, -9.0, 442)
    """
    _check(audio, sample_rate, hop_length, tracker)
    items = audio.split(max(1, AT_ONCE // audio.shape[-1]))
    columns = zip(*(_described(part.mean(1).float(), sample_rate, hop_length, tracker) for part in items), strict=True)
    return Descriptors(*map(torch.cat, columns))


def _described(mono: Tensor, sample_rate: int, hop_length: int, tracker: str | None) -> Descriptors:
    rms = frame_rms(mono, sample_rate, hop_length)
    f0 = torch.full_like(rms, torch.nan) if tracker is None else TRACKERS[tracker](mono, sample_rate, hop_length)
    f0 = torch.where(to_db(rms) < SILENCE_DB, torch.nan, f0)
    return Descriptors(f0, rms, frame_centroid(mono, sample_rate, hop_length))


def frame_rms(mono: Tensor, sample_rate: int, hop_length: int) -> Tensor:
    """Root mean square of each window, ``sqrt(mean(x**2))``.

    Parameters
    ----------
    mono : Tensor [B, N]
        Float samples.
    sample_rate, hop_length : int
        Hz; samples per frame.

    Returns
    -------
    Tensor [B, T]
        Linear, at least 0; a full-scale sine is 0.7071.
    """
    length = window_length(sample_rate, hop_length)
    mean_square = [frames.square().mean(-1) for frames in frame_windows(mono, hop_length, length, length // 2)]
    return torch.cat(mean_square, 1).sqrt()


def frame_centroid(mono: Tensor, sample_rate: int, hop_length: int) -> Tensor:
    """Spectral centroid of each Hann window, ``sum(f * |X|) / sum(|X|)``, as ``librosa.feature.spectral_centroid``.

    Parameters
    ----------
    mono : Tensor [B, N]
        Float samples.
    sample_rate, hop_length : int
        Hz; samples per frame.

    Returns
    -------
    Tensor [B, T]
        Hz, 0 to ``sample_rate / 2``; NaN where the window holds only zeros.
    """
    length = window_length(sample_rate, hop_length)
    window = torch.hann_window(length, device=mono.device)
    frequencies = torch.fft.rfftfreq(length, 1 / sample_rate, device=mono.device)
    centroids = []
    for frames in frame_windows(mono, hop_length, length, length // 2):
        magnitude = torch.fft.rfft(frames * window).abs()  # [B, t, F]
        centroids.append(magnitude @ frequencies / magnitude.sum(-1))
    return torch.cat(centroids, 1)


def window_length(sample_rate: int, hop_length: int) -> int:
    """Samples of the RMS and centroid window: 40 ms or one hop, whichever is longer, rounded up to an even number."""
    return 2 * math.ceil(max(WINDOW_SECONDS * sample_rate, hop_length) / 2)


def _check(audio: Tensor, sample_rate: int, hop_length: int, tracker: str | None) -> None:
    if audio.ndim != 3 or audio.numel() == 0:
        raise ParameterError(f"describe takes audio [B, C, N] with N >= 1, got {list(audio.shape)}")
    if sample_rate < 1 or hop_length < 1:
        raise ParameterError(f"sample_rate is {sample_rate} and hop_length is {hop_length}; both must be at least 1")
    check_tracker(tracker)
