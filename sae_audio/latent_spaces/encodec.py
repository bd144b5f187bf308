"""EnCodec (Défossez et al., arXiv 2210.13438) through transformers: 24 kHz, 32 kHz (MusicGen) and 48 kHz stereo.

Taps: ``encoder``, the continuous output of the encoder, and ``quantized``, the sum of its codewords over all codebooks (the
checkpoint's highest bandwidth). Both live in the space that the decoder reads, so ``decode`` takes either as it is: edited
``quantized`` latents are *not* snapped back to codewords, since that would undo small edits.

24 and 32 kHz run over the whole clip. Its memory stays bounded because convolutions run in windows whose halo is wider than
their receptive field and the LSTM hands its state from window to window; the result is the whole-clip result up to rounding.

48 kHz cuts the clip into chunks of 1 s, 0.99 s apart, and divides each by its loudness. Chunks start every 148.5 frames, so in
every second chunk the model's frames lie half a frame (3.3 ms) before ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain, groupby
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from sae_audio.errors import LatentSpaceError
from sae_audio.latent_spaces.base import Codec
from sae_audio.latent_spaces.loading import pretrained
from sae_audio.latent_spaces.seanet import check_reach, run_seanet, window_of
from sae_audio.latent_spaces.windows import quantised
from sae_audio.spec import LatentSpec

if TYPE_CHECKING:
    from transformers import EncodecModel

CHUNKS_AT_ONCE = 4
"""1 s chunks of the 48 kHz model that run as one batch."""
UNKNOWN_SCALE = 0.1
"""Level given to a decoded 48 kHz chunk whose loudness is not known: an RMS of about -20 dBFS."""


class Encodec(Codec):
    """An EnCodec checkpoint as a codec of continuous latents.

    Build it with ``load`` or ``load_latent_space("encodec-24khz", tap="quantized")``.

    Parameters
    ----------
    model : transformers.EncodecModel
        The model, in evaluation mode.
    tap : str
        ``encoder`` or ``quantized``.
    repo : str
        What to call the source of the weights in ``spec``.
    """

    def __init__(self, model: EncodecModel, tap: str = "encoder", repo: str = "") -> None:
        config = model.config
        if bool(config.normalize) != (config.chunk_length is not None):
            raise LatentSpaceError(
                f"{repo} has normalize {config.normalize} and chunk_length_s {config.chunk_length_s}; the EnCodecs known here "
                "normalise each chunk, or neither cut nor normalise"
            )
        check_reach(config, repo)
        self.model = model
        self.device = next(model.parameters()).device
        self.spec = LatentSpec(
            name="encodec",
            repo=repo,
            revision=None,
            sample_rate=config.sampling_rate,
            channels=config.audio_channels,
            hop_length=config.hop_length,
            d_in=config.hidden_size,
            tap=tap,
        )
        if config.normalize:
            self.cut_frames = math.lcm(config.chunk_stride, config.hop_length) // config.hop_length

    @classmethod
    def load(cls, folder: str | Path, device: str = "cpu", tap: str = "encoder") -> Encodec:
        """Load a folder with ``config.json`` and ``model.safetensors`` in the layout of ``facebook/encodec_*``.

        Both generations of weight-norm names are read. A missing, unexpected or misshapen tensor raises ``LatentSpaceError``.
        """
        from transformers import EncodecModel

        return cls(pretrained(EncodecModel, folder).to(device), tap, str(folder))

    def _encode(self, audio: Tensor) -> Tensor:
        if self.model.config.chunk_length is None:
            latents = self._tapped(run_seanet(self.model.encoder, audio, self.spec.hop_length, 1))
        else:
            latents = torch.cat(self._encode_chunks(audio).latents, dim=-1)[..., self._grid(audio.shape[-1]).owner]
        return latents.transpose(1, 2)

    def _decode(self, latents: Tensor, n_samples: int, like: Tensor | None) -> Tensor:
        """With 48 kHz, ``like`` is encoded again for what the latents do not carry.

        That is the loudness of each chunk, and the one or two frames where two chunks overlap (an edit of the latents is added to
        both). Without it every chunk gets -20 dBFS: levels are lost, but not what an edit changes, provided that the latents
        begin where a chunk does (every ``cut_frames`` of a recording).
        """
        z = latents.transpose(1, 2)
        if self.model.config.chunk_length is None:
            return run_seanet(self.model.decoder, z, 1, self.spec.hop_length)[..., :n_samples]
        return self._decode_chunks(z, n_samples, like)

    def _tapped(self, z: Tensor) -> Tensor:
        """Quantise encoder outputs ``[B, d_in, T]`` if that is the tap; distances to all codewords exist for one window only."""
        if self.spec.tap == "encoder":
            return z
        quantizer, bandwidth = self.model.quantizer, self.model.config.target_bandwidths[-1]
        return quantised(lambda piece: quantizer.decode(quantizer.encode(piece, bandwidth)), z, window_of(z))

    def _starts(self, n_samples: int) -> range:
        return range(0, n_samples, self.model.config.chunk_stride)

    def _encode_chunks(self, audio: Tensor) -> Chunks:
        """Encode each 1 s chunk of ``[B, channels, N]``, divided by the RMS of its mono mix."""
        pieces = [audio[..., start : start + self.model.config.chunk_length] for start in self._starts(audio.shape[-1])]
        latents, scales = [], []
        for batch in _batches(pieces):
            stacked = torch.cat(batch)
            scale = stacked.mean(dim=1, keepdim=True).square().mean(dim=-1, keepdim=True).sqrt() + 1e-8
            latents += self._tapped(self.model.encoder(stacked / scale)).split(len(audio))
            scales += scale.split(len(audio))
        return Chunks(latents, scales)

    def _decode_chunks(self, z: Tensor, n_samples: int, like: Tensor | None) -> Tensor:
        grid = self._grid(n_samples)
        if like is None:
            pieces = [z[..., frames] for frames in grid.frames]
            scales = [z.new_full((len(z), 1, 1), UNKNOWN_SCALE)] * len(pieces)
        else:
            own, scales = self._encode_chunks(like)
            edit = z - torch.cat(own, dim=-1)[..., grid.owner]
            pieces = [chunk + edit[..., frames] for chunk, frames in zip(own, grid.frames, strict=True)]
        decoded = (y for batch in _batches(pieces) for y in self.model.decoder(torch.cat(batch)).split(len(z)))
        scaled = (y * scale for y, scale in zip(decoded, scales, strict=True))
        return _overlap_add(scaled, self.model.config.chunk_stride, n_samples)

    def _grid(self, n_samples: int) -> Grid:
        """Relate the frames of the chunks to the frames of the clip; a chunk owns its frames up to the middle of an overlap."""
        config, hop, n_frames = self.model.config, self.spec.hop_length, self.spec.n_frames(n_samples)
        starts = self._starts(n_samples)
        lengths = [self.spec.n_frames(min(config.chunk_length, n_samples - start)) for start in starts]
        first = torch.tensor([(start + hop // 2) // hop for start in starts])
        frames = [(first[k] + torch.arange(length)).clamp(max=n_frames - 1) for k, length in enumerate(lengths)]
        index = torch.arange(n_frames)
        middle = index * hop + hop // 2 - (config.chunk_length - config.chunk_stride) // 2
        chunk = (middle // config.chunk_stride).clamp(0, len(starts) - 1)
        before = torch.tensor([0, *lengths]).cumsum(0)
        return Grid(owner=before[chunk] + index - first[chunk], frames=frames)


class Chunks(NamedTuple):
    """The 1 s chunks of a clip as the 48 kHz model sees them."""

    latents: list[Tensor]
    """Latents ``[B, d_in, t]`` of each chunk."""
    scales: list[Tensor]
    """Loudness ``[B, 1, 1]`` that each chunk was divided by: linear RMS of its mono mix."""


class Grid(NamedTuple):
    """Where the frames of a clip sit in its overlapping chunks."""

    owner: Tensor
    """int64 ``[T]``: for each frame of the clip, its place in the concatenation of all chunks' frames."""
    frames: list[Tensor]
    """int64 ``[t]`` for each chunk: for each of its frames, the frame of the clip."""


def _batches(pieces: list[Tensor]) -> Iterator[list[Tensor]]:
    """Group neighbours of equal length, at most ``CHUNKS_AT_ONCE`` of them."""
    for _, group in groupby(pieces, key=lambda piece: piece.shape[-1]):
        run = list(group)
        for start in range(0, len(run), CHUNKS_AT_ONCE):
            yield run[start : start + CHUNKS_AT_ONCE]


def _overlap_add(chunks: Iterator[Tensor], stride: int, n_samples: int) -> Tensor:
    """Cross-fade chunks ``[B, C, n]`` that start every ``stride`` samples, by triangular weights, into ``n_samples`` samples.

    The first chunk is the longest. Each is taken when its turn comes, so that no more of them exist than are decoded at once.
    """
    first = next(chunks)
    ramp = torch.linspace(0, 1, first.shape[-1] + 2, device=first.device)[1:-1]
    weight = 0.5 - (ramp - 0.5).abs()
    out, total = first.new_zeros(*first.shape[:-1], n_samples), weight.new_zeros(n_samples)
    for k, chunk in enumerate(chain([first], chunks)):
        start = k * stride
        length = min(chunk.shape[-1], n_samples - start)
        out[..., start : start + length] += weight[:length] * chunk[..., :length]
        total[start : start + length] += weight[:length]
    return out.div_(total)
