"""Mimi (Défossez et al., arXiv 2410.00037) through transformers: 24 kHz mono at 12.5 frames per second.

Taps: ``encoder``, what goes to the quantiser, and ``quantized``, its output from all codebooks (32 in the public checkpoint).
Both live in the space that the decoder reads, so ``decode`` takes either as it is: edited ``quantized`` latents are *not* snapped
back to codewords, since that would undo small edits.

The model is causal. Frame i has heard the samples before ``(i + 1) * 1920`` and nothing after, and is heard in the samples from
``i * 1920`` on: it is the first frame to know of its own 80 ms and the first to be heard in them, so frames, audio in and audio
out are aligned without delay. What happens late in a frame may show most in the next one.

Long clips give what one run over everything gives, up to rounding, in bounded memory: convolutions run in windows with a halo as
wide as their reach, and the two transformers hand the keys and values of their last ``sliding_window`` steps (10 s) on from piece
to piece.
"""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sae_audio.errors import LatentSpaceError
from sae_audio.latent_spaces.base import Codec
from sae_audio.latent_spaces.loading import check_keys, pretrained, tensor_names, weight_file
from sae_audio.latent_spaces.windows import ceil_div, exact, frames_at_once, quantised
from sae_audio.spec import LatentSpec

if TYPE_CHECKING:
    from transformers import MimiModel

WINDOW = 128
"""Steps of the transformers (25 Hz) per window on a CPU, all items of the batch together: 5 s. 500 took 1.4 times as long."""


class Mimi(Codec):
    """A Mimi checkpoint as a codec of continuous latents.

    Build it with ``load`` or ``load_latent_space("mimi", tap="quantized")``.

    Parameters
    ----------
    model : transformers.MimiModel
        The model, in evaluation mode.
    tap : str
        ``encoder`` or ``quantized``.
    repo : str
        What to call the source of the weights in ``spec``.
    """

    def __init__(self, model: MimiModel, tap: str = "encoder", repo: str = "") -> None:
        config = model.config
        self.model = model
        self.device = next(model.parameters()).device
        self.step = prod(config.upsampling_ratios)
        """Audio samples per step of the transformers; a frame is ``latent_stride`` (2) of them."""
        self.spec = LatentSpec(
            name="mimi",
            repo=repo,
            revision=None,
            sample_rate=config.sampling_rate,
            channels=config.audio_channels,
            hop_length=self.step * config.latent_stride,
            d_in=config.hidden_size,
            tap=tap,
        )

    @classmethod
    def load(cls, folder: str | Path, device: str = "cpu", tap: str = "encoder") -> Mimi:
        """Load a folder with ``config.json`` and ``model.safetensors`` in the layout of ``kyutai/mimi``.

        A missing, unexpected or misshapen tensor raises ``LatentSpaceError``, and so does a checkpoint of one half alone.
        """
        from transformers import MimiModel

        model = pretrained(MimiModel, folder)
        _check_names(model, weight_file(folder))
        if model.encoder is None or model.decoder is None:
            raise LatentSpaceError(f"{folder} holds one half of a Mimi alone; load a checkpoint with encoder and decoder")
        return cls(model.to(device), tap, str(folder))

    def _encode(self, audio: Tensor) -> Tensor:
        encoder = self.model.encoder
        halo = encoder_reach(self.model.config)
        window = frames_at_once(audio, WINDOW, halo)
        x = exact(encoder.encoder_seanet, audio, step_in=self.step, step_out=1, window=window, halo=halo)
        z = encoder.downsample(_attend(encoder.encoder_transformer, x, window))
        if self.spec.tap == "quantized":
            quantizer = self.model.quantizer
            z = quantised(lambda piece: quantizer.decode(quantizer.encode(piece).transpose(0, 1)), z, window)
        return z.transpose(1, 2)

    def _decode(self, latents: Tensor, n_samples: int, like: Tensor | None) -> Tensor:
        decoder = self.model.decoder
        halo = decoder_reach(self.model.config)
        window = frames_at_once(latents, WINDOW, halo)
        x = _attend(decoder.decoder_transformer, decoder.upsample(latents.transpose(1, 2)), window)
        return exact(decoder.decoder_seanet, x, step_in=1, step_out=self.step, window=window, halo=halo)[..., :n_samples]


def encoder_reach(config: Any) -> int:
    """Return how many steps of the transformers before a step the convolutional encoder depends on."""
    samples = config.last_kernel_size - 1
    for ratio in config.upsampling_ratios:  # from latents to audio; a strided convolution has taps over two strides
        samples = samples * ratio + ratio + _unit_reach(config)
    return ceil_div(samples + config.kernel_size - 1, prod(config.upsampling_ratios))


def decoder_reach(config: Any) -> int:
    """Return how many steps of the transformers before a step the audio from the convolutional decoder depends on."""
    steps = config.last_kernel_size - 1
    for ratio in reversed(config.upsampling_ratios):
        steps = ceil_div(steps + _unit_reach(config) + ratio, ratio)
    return steps + config.kernel_size - 1


def _unit_reach(config: Any) -> int:
    """Return the steps that the residual units between two strides reach."""
    growth = config.dilation_growth_rate
    return sum((config.residual_kernel_size - 1) * growth**unit for unit in range(config.num_residual_layers))


def _attend(transformer: nn.Module, x: Tensor, window: int) -> Tensor:
    """Run a causal transformer over ``[B, C, T]`` piece by piece; each sees the keys and values of the context before it."""
    out, cache = [], None
    for piece in x.split(window, dim=-1):
        done = transformer(piece.transpose(1, 2), past_key_values=cache, use_cache=True)
        out.append(done.last_hidden_state.transpose(1, 2))
        cache = done.past_key_values
    return torch.cat(out, dim=-1)


def _check_names(model: MimiModel, path: Path) -> None:
    """Raise for unexpected tensors: transformers ignores any whose name begins like a part of the model."""
    public = {key.removeprefix("encoder.").removeprefix("decoder.").replace("_seanet.", ".", 1) for key in model.state_dict()}
    check_keys(path, (), set(tensor_names(path)) - public, ())
