"""The seam: what every model looks like to the rest of the package.

    audio [B, channels, N] --encode--> latents [B, T, d_in] --decode--> audio [B, channels, N]

SAE, probes, control vectors, metrics and traces never ask which model they serve. Whether something can be steered back to
sound is ``isinstance(space, Codec)``. An adapter writes ``_encode`` and ``_decode``; what all of them owe their callers (checked
input, the right device, inference mode, precision) is here, once.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from sae_audio.errors import LatentSpaceError, ParameterError
from sae_audio.spec import LatentSpec


class LatentSpace(ABC):
    """A frozen model whose latents are ``[B, T, d_in]``, channel last, ``T = spec.n_frames(N)``."""

    spec: LatentSpec
    device: torch.device
    dtype: torch.dtype = torch.float32
    """Precision of the model's matrix products and convolutions; below float32 only on an accelerator, by autocast."""

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

        Raises
        ------
        ParameterError
            The audio has another shape.
        """
        self.check_audio(audio)
        with self.computing():
            return self._encode(audio.to(self.device, torch.float32)).float().contiguous()

    @abstractmethod
    def _encode(self, audio: Tensor) -> Tensor:
        """Return latents ``[B, T, d_in]`` of checked audio ``[B, channels, N]`` on ``self.device``."""

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Run a block in inference mode and, on an accelerator, in ``self.dtype``."""
        low = self.dtype != torch.float32
        with torch.inference_mode(), torch.autocast(self.device.type, self.dtype if low else None, enabled=low):
            yield

    def check_audio(self, audio: Tensor) -> None:
        """Raise ``ParameterError`` unless ``audio`` is ``[B, spec.channels, N]`` with at least one item and one sample."""
        if audio.ndim != 3 or audio.shape[1] != self.spec.channels or not audio.numel():
            raise ParameterError(
                f"'{self.spec.name}' takes audio [B >= 1, {self.spec.channels}, N >= 1], got {list(audio.shape)}; "
                "use sae_audio.fitting.fit to resample and fold channels"
            )


class Codec(LatentSpace):
    """A latent space that can be decoded back to sound."""

    cut_frames = 1
    """Frames between the places where a recording's latents can be cut so that the parts decode as the whole does. Above 1 where
    the model hears sound in pieces whose loudness the latents do not carry (EnCodec 48 kHz)."""

    def decode(self, latents: Tensor, *, like: Tensor | None = None) -> Tensor:
        """Return audio for latents.

        Parameters
        ----------
        latents : Tensor [B, T, d_in]
            Latents, edited or not; they are decoded as they are, never quantised again.
        like : Tensor [B, spec.channels, N], optional
            The audio that the latents came from. The result has its exact length, and takes from it what the latents do not
            carry (the per-second loudness scale of EnCodec 48 kHz). Without it the result has ``T * hop_length`` samples.

        Returns
        -------
        Tensor [B, spec.channels, N]
            Float32 samples at ``spec.sample_rate``.

        Raises
        ------
        ParameterError
            The latents have another shape, or ``like`` is not the audio that they came from.
        """
        self.check_latents(latents)
        if like is not None:
            self.check_like(latents, like)
            like = like.to(self.device, torch.float32)
        n_samples = latents.shape[1] * self.spec.hop_length if like is None else like.shape[-1]
        with self.computing():
            return self._decode(latents.to(self.device, torch.float32), n_samples, like).float()

    @abstractmethod
    def _decode(self, latents: Tensor, n_samples: int, like: Tensor | None) -> Tensor:
        """Return ``n_samples`` samples for checked latents ``[B, T, d_in]``; ``n_samples`` belongs to the last frame."""

    def check_latents(self, latents: Tensor) -> None:
        """Raise ``ParameterError`` unless ``latents`` is ``[B, T >= 1, d_in]``."""
        if latents.ndim != 3 or latents.shape[1] < 1 or latents.shape[2] != self.spec.d_in:
            raise ParameterError(f"'{self.spec.name}' decodes latents [B, T >= 1, {self.spec.d_in}], got {list(latents.shape)}")

    def check_like(self, latents: Tensor, like: Tensor) -> None:
        """Raise ``ParameterError`` unless ``like`` is audio of as many items and frames as the latents."""
        self.check_audio(like)
        frames = self.spec.n_frames(like.shape[-1])
        if frames != latents.shape[1] or len(like) != len(latents):
            raise ParameterError(
                f"like has {len(like)} items of {frames} frames, the latents {len(latents)} of {latents.shape[1]}; "
                "pass the audio that the latents came from"
            )


class Encoder(LatentSpace):
    """A latent space whose latents are the hidden states of a transformer; it cannot be decoded back to sound.

    Hidden state 0 is what the first block takes, hidden state ``i`` what block ``i`` gives; ``spec.tap`` is ``layer i``.
    """

    n_layers: int
    """Number of transformer blocks; there is one more hidden state."""

    def encode_layers(self, audio: Tensor) -> Tensor:
        """Return all hidden states of audio, from one pass.

        Parameters
        ----------
        audio : Tensor [B, spec.channels, N]
            Float samples at ``spec.sample_rate``; any device.

        Returns
        -------
        Tensor [n_layers + 1, B, T, d_in]
            Float32 on ``self.device``.

        Raises
        ------
        ParameterError
            The audio has another shape.
        """
        self.check_audio(audio)
        with self.computing():
            return self._hidden_states(audio.to(self.device, torch.float32), range(self.n_layers + 1)).float()

    def _encode(self, audio: Tensor) -> Tensor:
        return self._hidden_states(audio, [layer_of(self.spec.tap)])[0]

    @abstractmethod
    def _hidden_states(self, audio: Tensor, layers: Sequence[int]) -> Tensor:
        """Return the hidden states ``[len(layers), B, T, d_in]`` of checked audio; later blocks need not run."""


def layer_of(tap: str) -> int:
    """Return the number in an encoder's tap such as ``layer 6``; ``LatentSpaceError`` if it is not one."""
    match = re.fullmatch(r"layer (0|[1-9][0-9]*)", tap)
    if match is None:
        raise LatentSpaceError(f"'{tap}' is not a tap of an encoder; its taps are 'layer 0', 'layer 1', …")
    return int(match[1])


def layer_tap(tap: str | None, n_layers: int) -> str:
    """Return an encoder's tap, by default its middle layer; ``LatentSpaceError`` if it has no such layer."""
    tap = tap or f"layer {n_layers // 2}"
    if layer_of(tap) > n_layers:
        raise LatentSpaceError(f"tap '{tap}' is past the last layer of this checkpoint; it has 'layer 0' to 'layer {n_layers}'")
    return tap
