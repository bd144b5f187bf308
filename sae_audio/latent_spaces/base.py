"""The seam: what every model looks like to the rest of the package.

    audio [B, channels, N] --encode--> latents [B, T, d_in] --decode--> audio [B, channels, N]

SAE, probes, control vectors, metrics and traces never ask which model they serve. Whether something can be steered back to
sound is ``isinstance(space, Codec)``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from sae_audio.errors import ParameterError
from sae_audio.spec import LatentSpec


class LatentSpace(ABC):
    """A frozen model whose latents are ``[B, T, d_in]``, channel last, ``T = spec.n_frames(N)``."""

    spec: LatentSpec
    device: torch.device

    @abstractmethod
    def encode(self, audio: Tensor) -> Tensor:
        """Return the latents of audio.

        Parameters
        ----------
        audio : Tensor [B, spec.channels, N]
            Float samples at ``spec.sample_rate``, nominally in [-1, 1]; any device.

        Returns
        -------
        Tensor [B, T, d_in]
            Float32 latents on ``self.device``, ``T = spec.n_frames(N)``. Long clips are processed in bounded memory.
        """

    def check_audio(self, audio: Tensor) -> None:
        """Raise ``ParameterError`` unless ``audio`` is ``[B, spec.channels, N]`` with at least one sample."""
        if audio.ndim != 3 or audio.shape[1] != self.spec.channels or audio.shape[2] < 1:
            raise ParameterError(
                f"'{self.spec.name}' takes audio [B, {self.spec.channels}, N >= 1], got {list(audio.shape)}; "
                "use sae_audio.audio.fit to resample and fold channels"
            )


class Codec(LatentSpace):
    """A latent space that can be decoded back to sound."""

    @abstractmethod
    def decode(self, latents: Tensor, *, like: Tensor | None = None) -> Tensor:
        """Return audio for latents.

        Parameters
        ----------
        latents : Tensor [B, T, d_in]
            Latents, edited or not.
        like : Tensor [B, spec.channels, N], optional
            The audio that the latents came from. The result has its exact length, and takes from it what the latents do not
            carry (the per-second loudness scale of EnCodec 48 kHz). Without it the result has ``T * hop_length`` samples.

        Returns
        -------
        Tensor [B, spec.channels, N]
            Float32 samples at ``spec.sample_rate``.
        """

    def check_latents(self, latents: Tensor) -> None:
        """Raise ``ParameterError`` unless ``latents`` is ``[B, T >= 1, d_in]``."""
        if latents.ndim != 3 or latents.shape[1] < 1 or latents.shape[2] != self.spec.d_in:
            raise ParameterError(f"'{self.spec.name}' decodes latents [B, T >= 1, {self.spec.d_in}], got {list(latents.shape)}")
