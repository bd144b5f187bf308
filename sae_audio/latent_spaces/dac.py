"""DAC, the Descript Audio Codec (Kumar et al., arXiv 2306.06546), through transformers: 16, 24 and 44.1 kHz, mono.

Taps: ``encoder``, the continuous output of the encoder, and ``quantized``, the sum of its projected codewords over all codebooks.
Both live in the space that the decoder reads, so ``decode`` takes either as it is: edited ``quantized`` latents are *not* snapped
back to codewords, since that would undo small edits.

The network is convolutions alone, so windows with a halo as wide as its reach leave no trace. Audio is padded with zeros to whole
frames, as the model's own feature extractor does. Its decoder is aligned with its encoder to the sample, but each odd stride
costs it a step at the end: from T frames the models with stride 5 (16 and 24 kHz) make ``320 T - 8`` samples. The missing ones
are zero here; nothing is shifted.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn.functional import pad

from sae_audio.latent_spaces.base import Codec
from sae_audio.latent_spaces.loading import pretrained
from sae_audio.latent_spaces.windows import ceil_div, exact, frames_at_once, quantised, whole_frames
from sae_audio.spec import LatentSpec

if TYPE_CHECKING:
    from transformers import DacModel

WINDOW = 160
"""Latent frames per window on a CPU, all items of the batch together: 2 to 3 s. 400 were measured up to 1.4 times slower."""
RESIDUAL_REACH = 39
"""Steps that three residual units reach on either side: seven taps each, 1, 3 and 9 steps apart."""


class Dac(Codec):
    """A DAC checkpoint as a codec of continuous latents.

    Build it with ``load`` or ``load_latent_space("dac-44khz", tap="quantized")``.

    Parameters
    ----------
    model : transformers.DacModel
        The model, in evaluation mode.
    tap : str
        ``encoder`` or ``quantized``.
    repo : str
        What to call the source of the weights in ``spec``.
    """

    def __init__(self, model: DacModel, tap: str = "encoder", repo: str = "") -> None:
        config = model.config
        self.model = model
        self.device = next(model.parameters()).device
        self.spec = LatentSpec(
            name="dac",
            repo=repo,
            revision=None,
            sample_rate=config.sampling_rate,
            channels=1,
            hop_length=prod(config.downsampling_ratios),  # config.hop_length is 512 in the public 16 and 24 kHz files: wrong
            d_in=config.hidden_size,
            tap=tap,
        )

    @classmethod
    def load(cls, folder: str | Path, device: str = "cpu", tap: str = "encoder") -> Dac:
        """Load a folder with ``config.json`` and ``model.safetensors`` in the layout of ``descript/dac_*``.

        A missing, unexpected or misshapen tensor raises ``LatentSpaceError``.
        """
        from transformers import DacModel

        return cls(pretrained(DacModel, folder).to(device), tap, str(folder))

    def _encode(self, audio: Tensor) -> Tensor:
        hop, halo = self.spec.hop_length, encoder_reach(self.model.config.downsampling_ratios)
        window = frames_at_once(audio, WINDOW, halo)
        z = exact(self.model.encoder, whole_frames(audio, hop), step_in=hop, step_out=1, window=window, halo=halo)
        if self.spec.tap == "quantized":
            z = quantised(lambda piece: self.model.quantizer(piece)[0], z, window)
        return z.transpose(1, 2)

    def _decode(self, latents: Tensor, n_samples: int, like: Tensor | None) -> Tensor:
        z, halo = latents.transpose(1, 2), decoder_reach(self.model.config.downsampling_ratios)
        window = frames_at_once(z, WINDOW, halo)
        audio = exact(self.model.decoder, z, step_in=1, step_out=self.spec.hop_length, window=window, halo=halo)
        return pad(audio, (0, n_samples - audio.shape[-1]))  # a negative width cuts


def encoder_reach(ratios: Sequence[int]) -> int:
    """Return how many frames on either side of a frame its latents depend on; ``ratios`` from audio to latents."""
    steps = 1  # last convolution, of three taps; then back through the blocks, whose taps overlap by half a stride
    for ratio in reversed(ratios):
        steps = steps * ratio + ceil_div(ratio, 2) + RESIDUAL_REACH
    return ceil_div(steps + 3, prod(ratios))


def decoder_reach(ratios: Sequence[int]) -> int:
    """Return how many frames on either side of a frame its audio depends on; ``ratios`` from audio to latents."""
    steps = 3  # last convolution, of seven taps; then back through the blocks
    for ratio in ratios:
        steps = ceil_div(steps + RESIDUAL_REACH + ceil_div(ratio, 2), ratio)
    return steps + 3
