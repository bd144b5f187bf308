"""WavTokenizer (Ji et al., arXiv 2408.16532): SEANet encoder, one codebook, decoder of attention, ConvNeXt and inverse STFT.

Taps: ``encoder``, the continuous output of the encoder, and ``quantized``, the codeword next to it. Both live in the space that
the decoder reads, so ``decode`` takes either as it is: edited ``quantized`` latents are *not* snapped back to codewords,
since that would undo small edits.

Encoding gives the whole clip's result at any length, as with EnCodec. Decoding cannot: the decoder's norms and its attention see
all frames at once. Clips of up to 30 s are decoded whole, as by the original code; longer ones in windows of 30 s whose
neighbours are cross-faded over 1 s. How far that is from decoding 88 s whole, as RMS of the difference over RMS of the sound, at
public size but on *random* weights, which says little of trained ones (those have seen crops of 3 s):

| | 75 frames/s | 40 frames/s |
|---|---|---|
| white noise | 0.5 % | 0.7 % |
| a sweep in noise that fades by 14 dB, so that the norms' statistics change from window to window | 11 % | 12 % |
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sae_audio.errors import LatentSpaceError
from sae_audio.latent_spaces.base import Codec
from sae_audio.latent_spaces.loading import check_keys, fill, read_tensors
from sae_audio.latent_spaces.seanet import run_seanet, window_of
from sae_audio.latent_spaces.wavtokenizer_decoder import GROUPS, DecoderConfig, FourierDecoder
from sae_audio.latent_spaces.windows import blended, quantised
from sae_audio.spec import LatentSpec

if TYPE_CHECKING:
    from transformers.models.encodec.modeling_encodec import EncodecVectorQuantization

SAMPLE_RATE = 24_000
"""Samples per second of all published checkpoints, in Hz; nothing in a checkpoint says it."""
WINDOW_S, OVERLAP_S = 30.0, 1.0
"""Seconds that are decoded at once, and those that neighbouring windows share."""

ENCODER, QUANTIZER = "feature_extractor.encodec.encoder.model.", "feature_extractor.encodec.quantizer.vq.layers.0."
"""Where a checkpoint keeps the encoder and its codebook."""
UNUSED = r"(multiperioddisc|multiresddisc|dac\w*|melspec_loss)\.|feature_extractor\.encodec\.decoder\."
"""What training leaves in a checkpoint: discriminators, a loss, and the decoder of EnCodec, which is built and never run."""
RENAMED = (
    (r"^encoder\.layers\.", ENCODER),
    (r"\.conv\.", ".conv.conv."),
    (r"parametrizations\.weight\.original0$", "weight_g"),
    (r"parametrizations\.weight\.original1$", "weight_v"),
    (r"^quantizer\.codebook\.", f"{QUANTIZER}_codebook."),
    (r"^decoder\.", ""),
)
"""From the names of our tensors to those of the public checkpoints, one after the other."""


class Networks(nn.Module):
    """The three networks of a WavTokenizer."""

    def __init__(self, encoder: nn.Module, quantizer: EncodecVectorQuantization, decoder: FourierDecoder) -> None:
        super().__init__()
        self.encoder, self.quantizer, self.decoder = encoder, quantizer, decoder


class WavTokenizer(Codec):
    """A WavTokenizer checkpoint as a codec of continuous latents.

    Build it with ``load`` or ``load_latent_space("wavtokenizer-75", tap="quantized")``.

    Parameters
    ----------
    model : Networks
        The networks, in evaluation mode.
    tap : str
        ``encoder`` or ``quantized``.
    repo : str
        What to call the source of the weights in ``spec``.
    """

    def __init__(self, model: Networks, tap: str = "encoder", repo: str = "") -> None:
        self.model = model
        self.device = next(model.parameters()).device
        self.spec = LatentSpec(
            name="wavtokenizer",
            repo=repo,
            revision=None,
            sample_rate=SAMPLE_RATE,
            channels=1,
            hop_length=model.decoder.head.istft.hop_length,
            d_in=model.decoder.backbone.embed.in_channels,
            tap=tap,
        )

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu", tap: str = "encoder") -> WavTokenizer:
        """Load a Lightning checkpoint as published under ``novateur/WavTokenizer*``; all sizes are read off its tensors.

        Parameters
        ----------
        path : str or Path
            The ``.ckpt`` file, or a folder that holds no other.
        device : str
            Where the model runs.
        tap : str
            ``encoder`` or ``quantized``.

        Raises
        ------
        LatentSpaceError
            The file is missing or damaged, or a tensor is missing, unexpected or misshapen; the message names it. The optimiser's
            state and what ``UNUSED`` lists are ignored. Or its codebook was never trained.
        """
        file = checkpoint_file(Path(path))
        tensors = {key: value for key, value in read_tensors(file).items() if not re.match(UNUSED, key)}
        return cls(build(Checkpoint(file, tensors)).to(device), tap, str(path))

    def _encode(self, audio: Tensor) -> Tensor:
        z = run_seanet(self.model.encoder, audio, self.spec.hop_length, 1)
        return (z if self.spec.tap == "encoder" else self._quantized(z)).transpose(1, 2)

    def _quantized(self, z: Tensor) -> Tensor:
        """Return the codewords next to ``[B, d_in, T]``."""
        quantizer = self.model.quantizer
        return quantised(lambda piece: quantizer.decode(quantizer.encode(piece)), z, window_of(z))

    def _decode(self, latents: Tensor, n_samples: int, like: Tensor | None) -> Tensor:
        window, overlap = (round(seconds * self.spec.frame_rate) for seconds in (WINDOW_S, OVERLAP_S))
        steps = dict(step_in=1, step_out=self.spec.hop_length, window=window, overlap=overlap)
        return blended(self.model.decoder, latents.transpose(1, 2), **steps)[..., :n_samples]


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a file that are to be used."""

    path: Path
    tensors: dict[str, Tensor]

    def shape(self, key: str, ndim: int) -> torch.Size:
        """Return the shape of a tensor; ``LatentSpaceError`` if it is missing or has not ``ndim`` axes."""
        check_keys(self.path, {key} - self.tensors.keys(), (), ())
        self.check(key, self.tensors[key].ndim == ndim)
        return self.tensors[key].shape

    def check(self, key: str, fits: bool) -> None:
        """Raise ``LatentSpaceError`` for a misshapen tensor unless it ``fits``."""
        check_keys(self.path, (), (), () if fits else [key])

    def indices(self, prefix: str, suffix: str = r"\.") -> set[int]:
        """Return the numbers that follow ``prefix`` in the names of tensors."""
        matches = (re.match(rf"{re.escape(prefix)}(\d+){suffix}", key) for key in self.tensors)
        return {int(match[1]) for match in matches if match}


def checkpoint_file(path: Path) -> Path:
    """Return a file itself, or the only checkpoint of a folder; ``LatentSpaceError`` if it has none or several."""
    if not path.is_dir():
        return path
    found = sorted(path.glob("*.ckpt"))
    if len(found) != 1:
        names = f" ({', '.join(file.name for file in found)})" if found else ""
        raise LatentSpaceError(f"{path} holds {len(found)} .ckpt files{names}, not one; pass the file that is to be loaded")
    return found[0]


def build(checkpoint: Checkpoint) -> Networks:
    """Return the networks that a checkpoint belongs to, with its weights."""
    from transformers import EncodecConfig
    from transformers.models.encodec.modeling_encodec import EncodecEncoder, EncodecVectorQuantization

    ratios = strides(checkpoint)
    check_trained(checkpoint)
    codebook_size, d_in = checkpoint.shape(f"{QUANTIZER}_codebook.embed", 2)
    config = EncodecConfig(
        use_causal_conv=False,
        num_filters=checkpoint.shape(f"{ENCODER}0.conv.conv.weight_v", 3)[0],
        upsampling_ratios=ratios[::-1],
        hidden_size=d_in,
        codebook_dim=d_in,
        codebook_size=codebook_size,
    )
    decoder = FourierDecoder(decoder_config(checkpoint, math.prod(ratios)))
    return filled(Networks(EncodecEncoder(config), EncodecVectorQuantization(config), decoder), checkpoint)


def check_trained(checkpoint: Checkpoint) -> None:
    """Raise ``LatentSpaceError`` for a codebook without codewords, which the original code would fit to the first sound."""
    inited = f"{QUANTIZER}_codebook.inited"
    checkpoint.shape(inited, 1)
    if not checkpoint.tensors[inited].all():
        raise LatentSpaceError(f"{checkpoint.path} has an untrained codebook ({inited} is 0); get a checkpoint that was trained")


def strides(checkpoint: Checkpoint) -> list[int]:
    """Return the factors by which the encoder down-samples, first to last.

    Every third layer before the LSTM has a stride, and a kernel twice as long.
    """
    lstm = max(checkpoint.indices(ENCODER, r"\.lstm\."), default=13)
    kernels = [checkpoint.shape(f"{ENCODER}{layer}.conv.conv.weight_v", 3)[-1] for layer in range(3, lstm, 3)]
    return [max(kernel // 2, 1) for kernel in kernels]


def decoder_config(checkpoint: Checkpoint, hop_length: int) -> DecoderConfig:
    """Return the sizes of a checkpoint's decoder."""
    embed, window, blocks = "backbone.embed.weight", "head.istft.window", "backbone.convnext."
    width, d_in, _ = checkpoint.shape(embed, 3)
    checkpoint.check(embed, width % GROUPS == 0)
    (n_fft,) = checkpoint.shape(window, 1)
    checkpoint.check(window, n_fft >= hop_length and n_fft % 2 == 0)
    return DecoderConfig(
        d_in=d_in,
        width=width,
        hidden=checkpoint.shape(f"{blocks}0.pwconv1.weight", 2)[0],
        blocks=len(checkpoint.indices(blocks)),
        bandwidths=checkpoint.shape("backbone.norm.scale.weight", 2)[0],
        n_fft=n_fft,
        hop_length=hop_length,
    )


def filled(model: Networks, checkpoint: Checkpoint) -> Networks:
    """Return the model with the tensors of a checkpoint; an error calls them as the checkpoint does."""
    own, tensors = {public_name(key): key for key in model.state_dict()}, checkpoint.tensors
    shapes = {public_name(key): value.shape for key, value in model.state_dict().items()}
    misshapen = [key for key in own.keys() & tensors.keys() if tensors[key].shape != shapes[key]]
    check_keys(checkpoint.path, own.keys() - tensors.keys(), tensors.keys() - own.keys(), misshapen)
    return fill(model, {own[key]: value for key, value in tensors.items()}, checkpoint.path)


def public_name(key: str) -> str:
    """Return what the public checkpoints call a tensor of ours."""
    for ours, theirs in RENAMED:
        key = re.sub(ours, theirs, key)
    return key
