"""The étude codec as a latent space: loading, chunked encoding, chunked decoding."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from sae_audio.etude.checkpoint import load_codec
from sae_audio.etude.codec import SPECTRA_PER_FRAME, SpectralVAE
from sae_audio.latent_spaces.base import Codec
from sae_audio.spec import LatentSpec

CHUNK = 1500
"""Latent frames per chunk: 30 s at 50 Hz. A chunk is computed with all the neighbours it depends on, so chunks leave no trace."""


class EtudeCodec(Codec):
    """Phase-free latents ``[B, T, 64]`` at 50 Hz of 16 kHz mono audio: see ``sae_audio.etude.codec``.

    Parameters
    ----------
    model : SpectralVAE
        The network.
    tap : str
        ``mean``.
    repo : str
        What to call the source of the weights in ``spec``.

    Examples
    --------
    >>> space = EtudeCodec.load(Path("checkpoints/etude-codec"))
    >>> latents = space.encode(torch.zeros(1, 1, 16_000))
    >>> latents.shape, space.decode(latents).shape
    (torch.Size([1, 50, 64]), torch.Size([1, 1, 16000]))
    """

    def __init__(self, model: SpectralVAE, tap: str = "mean", repo: str = "") -> None:
        self.model = model.eval().requires_grad_(False)
        self.device = next(model.parameters()).device
        cfg = model.config
        self.spec = LatentSpec("etude-codec", repo, None, cfg.sample_rate, 1, cfg.hop_length, cfg.d_latent, tap)

    @classmethod
    def load(cls, folder: Path, device: str | torch.device = "cpu", tap: str = "mean") -> EtudeCodec:
        """Load ``config.json`` and ``model.safetensors`` of a folder.

        Raises
        ------
        LatentSpaceError
            A file is missing or damaged, or a tensor is missing, unexpected or of the wrong shape; the message names it.
        """
        folder = Path(folder).resolve()
        return cls(load_codec(folder).to(device), tap, f"{folder.parent.name}/{folder.name}")

    def _encode(self, audio: Tensor) -> Tensor:
        frames, hop, reach = self.spec.n_frames(audio.shape[-1]), self.spec.hop_length, self.model.encoder_reach
        chunks = []
        for start in range(0, frames, CHUNK):
            first, stop = max(start - reach, 0), min(start + CHUNK, frames)
            piece = audio[:, 0, first * hop : (stop + reach) * hop]
            chunks.append(self.model.encode(piece)[:, start - first : stop - first])
        return torch.cat(chunks, dim=1)

    def _decode(self, latents: Tensor, n_samples: int, like: Tensor | None) -> Tensor:
        with torch.autocast(latents.device.type, enabled=False):  # phases are made of magnitudes, and take every digit
            items = latents.split(max(1, CHUNK // latents.shape[1]))  # those of a batch of long clips one by one
            return torch.cat([self._synthesised(part)[:, None, :n_samples] for part in items])

    def _synthesised(self, latents: Tensor) -> Tensor:
        """Return ``[B, T * hop_length]`` for ``[B, T, d_in]``."""
        frames, hop, reach = latents.shape[1], self.spec.hop_length, self.model.decoder_reach
        chunks, turned = [], torch.zeros(())
        for start in range(0, frames, CHUNK):
            first, stop = max(start - reach, 0), min(start + CHUNK, frames)
            magnitudes = self.model.magnitudes(latents[:, first : stop + reach])
            # Each chunk's phases go on from where the chunk before it left them at their common spectrum.
            turns = self.model.turns(magnitudes)
            turns += turned - turns[:, [SPECTRA_PER_FRAME * (start - first)]]
            turned = turns[:, [min(SPECTRA_PER_FRAME * (stop - first), turns.shape[1] - 1)]]
            audio = self.model.synthesise(magnitudes, turns)
            chunks.append(audio[:, (start - first) * hop : (stop - first) * hop])
        return torch.cat(chunks, dim=1)
