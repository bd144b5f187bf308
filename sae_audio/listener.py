"""Decode latents and measure the sound: what every figure about an edit comes from."""

from __future__ import annotations

import torch
import torchaudio
from torch import Tensor

from sae_audio.descriptors import describe
from sae_audio.heard import Heard, Measure
from sae_audio.latent_spaces.base import Codec


def listener(codec: Codec, *, like: Tensor | None = None, mel_bands: int = 64) -> Measure:
    """Return a function that decodes latents and measures the sound.

    Parameters
    ----------
    codec : Codec
        Decodes.
    like : Tensor [B, channels, N], optional
        The audio that the latents came from; see ``Codec.decode``.
    mel_bands : int
        Bands of the log-mel spectrum; 0 leaves it out (empty), which saves memory where nobody reads it.
    """
    spec = codec.spec
    mel = torchaudio.transforms.MelSpectrogram(
        spec.sample_rate, n_fft=1024, hop_length=spec.sample_rate // 100, n_mels=max(1, mel_bands), pad_mode="constant"
    )

    def measure(latents: Tensor) -> Heard:
        with torch.no_grad():
            audio = codec.decode(latents, like=like).cpu()
        log_mel = (mel(audio.mean(1)) + 1e-5).log() if mel_bands else torch.empty(len(audio), 0, 0)
        return Heard(audio, describe(audio, spec.sample_rate, spec.hop_length), log_mel)

    return measure
