"""Batches for the étude codec: crops of the corpus, made louder, quieter, brighter, noisier and denser at random."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from tqdm import tqdm

from sae_audio.etude.codec import SpectralVAE
from sae_audio.etude.corpus import corpus

MIX, NOISE, FILTER, CLICK = 0.2, 0.15, 0.5, 0.03
"""Share of crops that get a second sound, coloured noise, a random filter, a click."""


def render_split(minutes: float, seed: int, split: str) -> Tensor:
    """Return the clips of one split as ``[clips, N]`` float32 at 16 kHz; FluidR3 and additive clips alternate."""
    clips = list(corpus(minutes, seed, "both", split=split))
    return torch.stack([torch.from_numpy(clip.render()) for clip in tqdm(clips, desc=f"synthesise {split}", unit="clip")])


def make_batch(clips: Tensor, model: SpectralVAE, frames: int, size: int, generator: torch.Generator) -> Tensor:
    """Return magnitudes ``[size, frames, 2, n_bins]`` of augmented crops.

    Parameters
    ----------
    clips : Tensor [clips, N]
        Audio to crop from.
    model : SpectralVAE
        For its STFT.
    frames : int
        Latent frames per crop.
    size : int
        Crops.
    generator : torch.Generator
        The only source of randomness.
    """
    n = frames * model.config.hop_length
    audio = _crops(clips, n, size, generator) * _gain(size, -18, 12, generator)
    audio = audio + _chosen(size, MIX, generator) * _crops(clips, n, size, generator) * _gain(size, -12, 6, generator)
    audio = audio + _chosen(size, NOISE, generator) * _noise(n, size, generator)
    audio = audio + _chosen(size, CLICK, generator) * _clicks(n, size, generator)
    return _filter(model.spectra(audio), generator)


def _uniform(size: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return torch.rand(size, 1, generator=generator) * (high - low) + low


def _gain(size: int, low_db: float, high_db: float, generator: torch.Generator) -> Tensor:
    return 10 ** (_uniform(size, low_db, high_db, generator) / 20)


def _chosen(size: int, share: float, generator: torch.Generator) -> Tensor:
    return (torch.rand(size, 1, generator=generator) < share).float()


def _crops(clips: Tensor, n: int, size: int, generator: torch.Generator) -> Tensor:
    rows = torch.randint(len(clips), (size,), generator=generator)
    starts = torch.randint(clips.shape[1] - n + 1, (size, 1), generator=generator)
    return clips[rows[:, None], starts + torch.arange(n)]


def _noise(n: int, size: int, generator: torch.Generator) -> Tensor:
    """Noise of a random level whose spectrum falls by 0 to 9 dB per octave."""
    spectrum = torch.fft.rfft(torch.randn(size, n, generator=generator))
    tilt = torch.arange(1, spectrum.shape[1] + 1) ** -_uniform(size, 0, 1.5, generator)
    noise = torch.fft.irfft(spectrum * tilt, n)
    return noise / noise.std(dim=1, keepdim=True) * _gain(size, -80, -10, generator)


def _clicks(n: int, size: int, generator: torch.Generator) -> Tensor:
    places = torch.randint(n, (size, 1), generator=generator)
    return torch.zeros(size, n).scatter(1, places, _gain(size, -30, 0, generator))


def _filter(magnitudes: Tensor, generator: torch.Generator) -> Tensor:
    """Filter some crops by a smooth curve over log frequency, about ±12 dB: new timbres at the cost of a multiplication."""
    size, n_bins = len(magnitudes), magnitudes.shape[-1]
    octaves = torch.log2(torch.arange(n_bins).clamp(min=2) / 2) / 8  # 0 at 31 Hz, 1 at 8 kHz
    waves = torch.cos(math.pi * octaves * torch.arange(1, 6)[:, None])  # [5, n_bins]
    nepers = torch.randn(size, 5, generator=generator) * 0.6 * _chosen(size, FILTER, generator)
    return magnitudes * (nepers @ waves).exp()[:, None, None]
