"""Oobleck, the VAE of Stable Audio Open (Evans et al., arXiv 2407.14358) and of DiffRhythm (arXiv 2503.01183).

44.1 kHz stereo, 2048 samples a frame, 64 numbers a frame. Tap ``mean``: the mean of the posterior, unscaled; no noise is drawn.

The network is convolutions only, so windows with a halo as wide as its reach leave no trace. Two sizes of window are nested:
layers near the audio make 2048 · 128 numbers of each frame but see less than a frame around, so they run in small windows that
stay in the caches; layers near the latents see up to 10 frames around but are cheap, so they run in large ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sae_audio.errors import LatentSpaceError
from sae_audio.latent_spaces.base import Codec
from sae_audio.latent_spaces.loading import first_line
from sae_audio.latent_spaces.oobleck_archive import PROBE, extract, is_archive, open_archive, sweep
from sae_audio.latent_spaces.oobleck_weights import ASSUMED_RATE, OobleckWeights, build, find_weights, read_weights, save_weights
from sae_audio.latent_spaces.windows import exact, frames_at_once, whole_frames
from sae_audio.spec import LatentSpec

if TYPE_CHECKING:
    from diffusers import AutoencoderOobleck

NEAR_AUDIO = 16
"""Frames per window of the layers near the audio on a CPU: 17 MB a layer, and half the time of windows four times as long."""
NEAR_LATENTS = 1024
"""Frames per window of the layers near the latents: 33 MB a layer."""
ARCHIVE_WINDOW = 128
"""Frames per window of an archive, which has no layers to tell apart."""
RATIOS = (2, 4, 4, 8, 8)
"""Downsampling ratios of the public networks."""


class Oobleck(Codec):
    """An Oobleck VAE as a codec of continuous latents.

    Build it with ``load``, ``load_latent_space("stable-audio-vae")`` or ``load_latent_space("diffrhythm-vae")``.

    Parameters
    ----------
    model : diffusers.AutoencoderOobleck
        The model, in evaluation mode.
    tap : str
        ``mean``.
    repo : str
        What to call the source of the weights in ``spec``.
    """

    def __init__(self, model: AutoencoderOobleck, tap: str = "mean", repo: str = "") -> None:
        config = model.config
        self.model = model
        self.device = next(model.parameters()).device
        self.ratios = tuple(config.downsampling_ratios)
        self.spec = _spec(
            repo,
            tap,
            sample_rate=config.sampling_rate,
            channels=config.audio_channels,
            hop_length=math.prod(self.ratios),
            d_in=config.decoder_input_channels,
        )

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu", tap: str = "mean") -> Oobleck:
        """Load a weight file, or the folder that holds one, in any of the layouts of ``oobleck_weights``.

        The weights of a TorchScript archive are taken out of it where they make the same sound; otherwise its own code runs.
        """
        file = find_weights(path)
        found = _read(file)
        if found is None:
            return OobleckArchive(open_archive(file, device), device, tap, str(path))
        return cls(found[1].to(device), tap, str(path))

    def _encode(self, audio: Tensor) -> Tensor:
        moments = torch.cat([self._moments(part) for part in _parts(audio)])
        return moments[:, : self.spec.d_in].transpose(1, 2)

    def _decode(self, latents: Tensor, n_samples: int, like: Tensor | None) -> Tensor:
        return torch.cat([self._sound(part) for part in _parts(latents.transpose(1, 2))])[..., :n_samples]

    def _moments(self, audio: Tensor) -> Tensor:
        """Return mean and scale ``[B, 2 * d_in, T]`` of ``[B, channels, N]``."""
        hop, near, net = self.spec.hop_length, halo(self.ratios[:-1], self.spec.hop_length), self.model.encoder
        first, rest = nn.Sequential(net.conv1, *net.block[:-1]), nn.Sequential(net.block[-1], net.snake1, net.conv2)

        def run(piece: Tensor) -> Tensor:
            geometry = dict(step_in=hop, step_out=self.ratios[-1], window=frames_at_once(piece, NEAR_AUDIO, near), halo=near)
            return rest(exact(first, whole_frames(piece, hop), **geometry))

        far = halo(self.ratios, hop, latent_taps=1)
        return exact(run, audio, step_in=hop, step_out=1, window=_large(audio, far), halo=far)

    def _sound(self, latents: Tensor) -> Tensor:
        """Return ``[B, channels, T * hop_length]`` of ``[B, d_in, T]``."""
        hop, near, net = self.spec.hop_length, halo(self.ratios[:-1], self.spec.hop_length), self.model.decoder
        first, rest = nn.Sequential(net.conv1, net.block[0]), nn.Sequential(*net.block[1:], net.snake1, net.conv2)

        def run(piece: Tensor) -> Tensor:
            geometry = dict(step_in=self.ratios[-1], step_out=hop, window=frames_at_once(piece, NEAR_AUDIO, near), halo=near)
            return exact(rest, first(piece), **geometry)

        far = halo(self.ratios, hop, latent_taps=3)
        return exact(run, latents, step_in=1, step_out=hop, window=_large(latents, far), halo=far)


class OobleckArchive(Oobleck):
    """A TorchScript archive with ``encode_export`` and ``decode_export`` that keeps its weights to itself, run as it is.

    Its windows are those of the public network.
    """

    def __init__(self, archive: torch.jit.ScriptModule, device: str, tap: str = "mean", repo: str = "") -> None:
        self.model = archive
        self.device = torch.device(device)
        try:
            with torch.inference_mode():
                moments = archive.encode_export(sweep(2).to(device))
                d_in = moments.shape[1] // 2
                hop = archive.decode_export(moments[:, :d_in]).shape[-1] // moments.shape[-1]
        except Exception as error:  # whatever the archive's own code raises
            raise LatentSpaceError(f"{repo} does not run on stereo [1, 2, {PROBE}]: {first_line(error)}") from None
        self.spec = _spec(repo, tap, sample_rate=ASSUMED_RATE, channels=2, hop_length=hop, d_in=d_in)

    def _moments(self, audio: Tensor) -> Tensor:
        hop, far = self.spec.hop_length, halo(RATIOS, math.prod(RATIOS), latent_taps=1)
        window = frames_at_once(audio, ARCHIVE_WINDOW, far)

        def run(piece: Tensor) -> Tensor:
            return self.model.encode_export(whole_frames(piece, hop))

        return exact(run, audio, step_in=hop, step_out=1, window=window, halo=far)

    def _sound(self, latents: Tensor) -> Tensor:
        hop, far = self.spec.hop_length, halo(RATIOS, math.prod(RATIOS), latent_taps=3)
        window = frames_at_once(latents, ARCHIVE_WINDOW, far)
        return exact(self.model.decode_export, latents, step_in=1, step_out=hop, window=window, halo=far)


def convert(source: str | Path, out: str | Path, check: Callable[[Oobleck], None] = lambda space: None) -> list[Path]:
    """Write a checkpoint of any layout as a diffusers folder, each file whole or not at all.

    Parameters
    ----------
    source : str or Path
        A file or folder that ``load_latent_space("stable-audio-vae", source=…)`` takes.
    out : str or Path
        Folder for ``config.json`` and ``diffusion_pytorch_model.safetensors``; made if it does not exist.
    check : callable
        Takes the checkpoint as a space before anything is written, and raises if it is not to be converted.

    Returns
    -------
    list of Path
        The files written.

    Raises
    ------
    LatentSpaceError
        The source holds no Oobleck, or is a TorchScript archive whose weights cannot be taken out of it.
    OutputError
        The folder cannot be written to.
    """
    file = find_weights(source)
    found = _read(file)
    if found is None:
        raise LatentSpaceError(f"{file} keeps its weights to itself and cannot be converted; load it as it is")
    weights, model = found
    check(Oobleck(model, repo=str(source)))
    return save_weights(weights, out)


def halo(ratios: Sequence[int], hop: int, latent_taps: int = 0) -> int:
    """Return the frames on each side of a frame that layers of an Oobleck see; the same for encoder and decoder.

    Going from the audio inwards, with r samples to a step: 3 samples for the 7 taps at the audio; in each block 3 · (1 + 3 + 9)
    steps for the dilated taps of its residual units and half its ratio for the strided convolution; at the latents their taps.

    Parameters
    ----------
    ratios : sequence of int
        Downsampling ratio of each block from the audio on.
    hop : int
        Samples per frame.
    latent_taps : int
        Frames on each side that the convolution at the latents sees: 1 in the encoder, 3 in the decoder, 0 without it.

    Examples
    --------
    >>> halo((2, 4, 4, 8, 8), 2048, latent_taps=1), halo((2, 4, 4, 8, 8), 2048, latent_taps=3), halo((2, 4, 4, 8), 2048)
    (8, 10, 1)
    """
    samples, step = 3, 1
    for ratio in ratios:
        samples += (3 * (1 + 3 + 9) + ratio // 2) * step
        step *= ratio
    return -(-(samples + latent_taps * step) // hop)


def _read(file: Path) -> tuple[OobleckWeights, nn.Module] | None:
    """Return a checkpoint's weights and network; None for an archive that only its own code can run."""
    if is_archive(file):
        return extract(file)
    weights = read_weights(file)
    return weights, build(weights)


def _spec(repo: str, tap: str, **geometry: int) -> LatentSpec:
    return LatentSpec(name="oobleck", repo=repo, revision=None, tap=tap, **geometry)


def _parts(x: Tensor) -> Sequence[Tensor]:
    """Split a batch on a CPU, where items one after the other stay in the caches."""
    return x.split(1 if x.device.type == "cpu" else len(x))


def _large(x: Tensor, far: int) -> int:
    return max(NEAR_LATENTS // len(x), 16 * far)
