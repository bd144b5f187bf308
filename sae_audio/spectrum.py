"""A log-mel spectrogram for looking at: few columns, few bands, decibels."""

from __future__ import annotations

import functools
import math

import torch
import torchaudio
from torch import Tensor

from sae_audio.units import FLOOR_DB

LOWEST_HZ = 30.0


def log_mel_db(audio: Tensor, sample_rate: int, *, bands: int = 96, columns: int = 600) -> Tensor:
    """Return the mel spectrogram of a sound in decibels, in at most ``columns`` columns of equal time.

    Windows are 64 ms (Hann), bands are area-normalised (Slaney), channels are averaged. Column ``i`` of ``n`` is centred at
    ``i / (n - 1)`` of the sound.

    Parameters
    ----------
    audio : Tensor [C, N]
        Samples, nominally in [-1, 1].
    sample_rate : int
        Hz.
    bands : int
        Bands from 30 Hz to half the sample rate.
    columns : int
        Most columns, at least 2. Short sounds have fewer: one every 10 ms.

    Returns
    -------
    Tensor [bands, n]
        Decibels, low frequencies first, at least -100.
    """
    hop = max(sample_rate // 100, -(-audio.shape[-1] // (columns - 1)))
    power = _mel(sample_rate, hop, bands)(audio.detach().cpu().float().mean(0))
    return 10 * power.clamp_min(10 ** (FLOOR_DB / 10)).log10()


def mel_height(hz: float | Tensor, sample_rate: int) -> Tensor:
    """Return the place of a frequency on the axis of ``log_mel_db``: 0 at 30 Hz, 1 at half the sample rate."""
    low, place, high = (_mels(torch.as_tensor(f, dtype=torch.float64)) for f in (LOWEST_HZ, hz, sample_rate / 2))
    return (place - low) / (high - low)


@functools.lru_cache(maxsize=8)
def _mel(sample_rate: int, hop: int, bands: int) -> torchaudio.transforms.MelSpectrogram:
    n_fft = 2 ** round(math.log2(0.064 * sample_rate))
    return torchaudio.transforms.MelSpectrogram(
        sample_rate, n_fft=n_fft, hop_length=hop, f_min=LOWEST_HZ, n_mels=bands, pad_mode="constant", norm="slaney"
    )


def _mels(hz: Tensor) -> Tensor:
    """The HTK mel scale, as torchaudio's filters use it."""
    return 2595 * (1 + hz / 700).log10()
