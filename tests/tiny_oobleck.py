"""Tiny Ooblecks in every public layout, from one independent network with the nesting of stable-audio-tools."""

from __future__ import annotations

import math
import warnings
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, weight_norm

RATIOS = [2, 4, 4, 8, 8]
SIZES = dict(channels=8, multiples=[1, 1, 2, 2, 2], ratios=RATIOS, audio=2)
# Random taps can look anywhere within the network's reach; those of a trained one look at the frame itself.
EVEN = torch.tensor([1.0])
DETAIL = torch.tensor([0.3])
CENTRE = torch.tensor([0.25, 1.0, 0.25])


class Snake(nn.Module):
    """x + sin²(e^α x) / e^β, per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(0.3 * torch.randn(channels))
        self.beta = nn.Parameter(0.3 * torch.randn(channels))

    def forward(self, x: Tensor) -> Tensor:
        alpha, beta = self.alpha[:, None].exp(), self.beta[:, None].exp()
        return x + (alpha * x).sin().square() / (beta + 1e-9)


class Layers(nn.Module):
    """Layers one after the other, with a shortcut where they are a residual unit."""

    def __init__(self, *layers: nn.Module, shortcut: bool = False) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x) + x if self.shortcut else self.layers(x)


class Vae(nn.Module):
    """An Oobleck with the names of stable-audio-tools and the methods of DiffRhythm's archive."""

    def __init__(self, norm, channels: int, multiples: list[int], ratios: list[int], audio: int, tanh: bool = False) -> None:
        super().__init__()
        widths = [channels * multiple for multiple in [1, *multiples]]

        def conv(*shape: int, dilation: int = 1, taps: Tensor = EVEN, **options) -> nn.Module:
            layer = nn.Conv1d(*shape, dilation=dilation, padding=dilation * (shape[2] // 2), **options)
            layer.weight.data *= taps
            return norm(layer)

        def units(width: int) -> list[nn.Module]:
            parts = [
                (Snake(width), conv(width, width, 7, dilation=dilation), Snake(width), conv(width, width, 1, taps=DETAIL))
                for dilation in (1, 3, 9)
            ]
            return [Layers(*part, shortcut=True) for part in parts]

        def strided(kind: type[nn.Module], here: int, there: int, ratio: int) -> nn.Module:
            return norm(kind(here, there, 2 * ratio, stride=ratio, padding=ratio // 2))

        down, up = [], []
        for here, there, ratio in zip(widths, widths[1:], ratios, strict=False):
            down.append(Layers(*units(here), Snake(here), strided(nn.Conv1d, here, there, ratio)))
            up.insert(0, Layers(Snake(there), strided(nn.ConvTranspose1d, there, here, ratio), *units(here)))
        last = [nn.Tanh()] if tanh else []
        self.encoder = Layers(conv(audio, widths[0], 7), *down, Snake(widths[-1]), conv(widths[-1], channels, 3, taps=CENTRE))
        self.decoder = Layers(
            conv(channels // 2, widths[-1], 7), *up, Snake(widths[0]), conv(widths[0], audio, 7, bias=False), *last
        )

    def encode_export(self, x: Tensor) -> Tensor:
        return self.encoder(x)

    def decode_export(self, x: Tensor) -> Tensor:
        return self.decoder(x)


class Exported(nn.Module):
    """A network one level down, as a script exports it."""

    def __init__(self, vae: Vae) -> None:
        super().__init__()
        self.vae = vae

    @torch.jit.export
    def encode_export(self, x: Tensor) -> Tensor:
        return self.vae.encoder(x)

    @torch.jit.export
    def decode_export(self, x: Tensor) -> Tensor:
        return self.vae.decoder(x)


NORMS = {"g and v": weight_norm, "original": parametrizations.weight_norm, "folded": lambda module: module}


def tiny_vae(norm: str = "g and v", seed: int = 0, **overrides) -> Vae:
    """Return a tiny network with seeded random weights, the same for every way of splitting them."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # weight_norm of the first generation is what the public files hold
        torch.manual_seed(seed)
        return Vae(NORMS[norm], **{**SIZES, **overrides}).eval().requires_grad_(False)


@cache
def archived(how: str, norm: str, **overrides) -> bytes:
    """Return a tiny network as a TorchScript archive."""
    vae = tiny_vae(norm, **overrides)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript warns that it is old
        if how == "scripted":
            return torch.jit.script(Exported(vae)).save_to_buffer()
        audio = torch.zeros(1, vae.encoder.layers[0].in_channels, 2 * math.prod(RATIOS))
        latents = torch.zeros(1, vae.decoder.layers[0].in_channels, 2)
        module = torch.jit.trace_module(vae, {"encode_export": audio, "decode_export": latents}, check_trace=False)
        if how == "frozen":
            module = torch.jit.freeze(module, preserved_attrs=["encode_export", "decode_export"])
        return module.save_to_buffer()


def archive(path: Path, how: str = "traced", norm: str = "g and v", **overrides) -> Path:
    """Save a tiny network as a TorchScript archive: ``traced``, ``scripted`` one level down, or ``frozen`` without weights."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(archived(how, norm, **overrides))
    return path


def tiny_diffusers(folder: Path, name: str = "stable-audio-vae", **overrides) -> Path:
    """Save diffusers' own class, tiny, with seeded random weights, under ``vae/`` of ``folder``; return ``folder``."""
    from diffusers import AutoencoderOobleck

    sizes = dict(encoder_hidden_size=8, channel_multiples=[1, 1, 2, 2, 2], decoder_channels=8, decoder_input_channels=4)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.manual_seed(1)
        model = AutoencoderOobleck(**{**sizes, **overrides})
        for key, parameter in model.named_parameters():
            if key.endswith(("alpha", "beta")):
                parameter.data.normal_(std=0.3)
            if "res_unit" in key and key.endswith("conv2.weight_g"):
                parameter.data *= DETAIL
        model.encoder.conv2.weight_v.data *= CENTRE
    model.save_pretrained(folder / "vae")
    return folder


def tiny_archive(folder: Path, name: str = "diffrhythm-vae", **overrides) -> Path:
    """Save a tiny ``vae_model.pt`` in ``folder`` and return ``folder``."""
    return archive(folder / "vae_model.pt", **overrides).parent


BUILDERS = {"stable-audio-vae": tiny_diffusers, "diffrhythm-vae": tiny_archive}
TAPS = dict.fromkeys(BUILDERS, ("mean",))
