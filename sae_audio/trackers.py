"""The trackers of f0 that a caller can choose: our YIN and, as references, those of librosa and torchcrepe."""

from __future__ import annotations

import math
from importlib.util import find_spec

import numpy as np
import torch
import torchaudio
from torch import Tensor
from torch.nn.functional import pad

from sae_audio.errors import ParameterError
from sae_audio.framing import frame_windows
from sae_audio.yin import F0_MAX, F0_MIN, yin

CREPE_RATE, CREPE_WINDOW, CREPE_BINS = 16_000, 1024, 360


def _librosa_yin(mono: Tensor, sample_rate: int, hop_length: int) -> Tensor:
    import librosa

    frames, length = _librosa_frames(mono, sample_rate, hop_length)
    f0 = librosa.yin(frames, fmin=F0_MIN, fmax=F0_MAX, sr=sample_rate, frame_length=length, hop_length=hop_length, center=False)
    return torch.as_tensor(f0, dtype=torch.float32, device=mono.device)


def _pyin(mono: Tensor, sample_rate: int, hop_length: int) -> Tensor:
    import librosa

    frames, length = _librosa_frames(mono, sample_rate, hop_length)
    f0, _, _ = librosa.pyin(
        frames, fmin=F0_MIN, fmax=F0_MAX, sr=sample_rate, frame_length=length, hop_length=hop_length, center=False
    )
    return torch.as_tensor(f0, dtype=torch.float32, device=mono.device)


def _librosa_frames(mono: Tensor, sample_rate: int, hop_length: int) -> tuple[np.ndarray, int]:
    """Pad so that librosa's uncentred frame i is centred at (i + 1/2) * hop; return the array and the frame length."""
    length = 2 ** math.ceil(math.log2(2 * sample_rate / F0_MIN + 2))
    n_frames = -(-mono.shape[-1] // hop_length)
    before = length // 2 - hop_length // 2
    total = (n_frames - 1) * hop_length + length
    return pad(mono, (before, total - before - mono.shape[-1])).cpu().numpy(), length


def _crepe(mono: Tensor, sample_rate: int, hop_length: int, model: str = "full") -> Tensor:
    """CREPE (Kim et al., arXiv 1802.06182): weighted mean of the bins around the highest, voiced where it is above 0.5."""
    import torchcrepe

    x = torchaudio.functional.resample(mono, sample_rate, CREPE_RATE)
    n_frames = -(-mono.shape[-1] // hop_length)
    hop = hop_length * CREPE_RATE / sample_rate
    f0 = []
    for frames in frame_windows(x, hop, CREPE_WINDOW, CREPE_WINDOW // 2, n_frames):
        frames = frames - frames.mean(-1, keepdim=True)
        frames = frames / frames.std(-1, keepdim=True).clamp_min(1e-10)
        salience = torch.cat([torchcrepe.infer(part, model) for part in frames.reshape(-1, CREPE_WINDOW).split(512)])
        f0.append(_crepe_peak(salience).reshape(frames.shape[:2]))
    return torch.cat(f0, 1)


def _crepe_tiny(mono: Tensor, sample_rate: int, hop_length: int) -> Tensor:
    return _crepe(mono, sample_rate, hop_length, "tiny")


def _crepe_peak(salience: Tensor) -> Tensor:
    """f0 [n] of saliences [n, 360], 20-cent bins from 1997.38 cents re 10 Hz; NaN where the peak is below 0.5."""
    peak, index = salience.max(-1, keepdim=True)
    near = (index + torch.arange(-4, 5, device=salience.device)).clamp(0, CREPE_BINS - 1)
    weight = salience.gather(-1, near)
    cents = (weight * (20.0 * near + 1997.3794)).sum(-1) / weight.sum(-1)
    return torch.where(peak[:, 0] > 0.5, 10 * 2 ** (cents / 1200), torch.nan)


def check_tracker(tracker: str | None) -> None:
    """Raise ``ParameterError`` unless there is such a tracker, and the package that it needs; None is no tracker."""
    if tracker is not None and tracker not in TRACKERS:
        raise ParameterError(f"tracker is '{tracker}'; use one of {', '.join(TRACKERS)}")
    package = NEEDS.get(tracker or "")
    if package and find_spec(package) is None:
        raise ParameterError(f"tracker '{tracker}' needs {package}; install it with: pip install {package}")


TRACKERS = {"yin": yin, "librosa-yin": _librosa_yin, "pyin": _pyin, "crepe": _crepe, "crepe-tiny": _crepe_tiny}
NEEDS = {"librosa-yin": "librosa", "pyin": "librosa", "crepe": "torchcrepe", "crepe-tiny": "torchcrepe"}
"""Package that a tracker needs beside ours, by tracker."""
