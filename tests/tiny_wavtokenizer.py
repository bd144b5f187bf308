"""Tiny WavTokenizers: Lightning checkpoints in the public layout, their encoder built by the encodec package."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from sae_audio.latent_spaces import SPACES

RATIOS = {320: [8, 5, 4, 2], 600: [6, 5, 5, 4]}
"""Factors of the encoder, last to first, by the hop in samples."""
SIZES = dict(filters=8, d_in=8, codes=256, width=32, hidden=48, blocks=2)
"""Of the public checkpoints: 32, 512, 4096, 768, 2304, 12."""
FEATURES = "feature_extractor.encodec"


def tiny_wavtokenizer(folder: Path, name: str, **overrides) -> Path:
    """Save a tiny WavTokenizer in ``folder`` under the public file name and return the folder; ``overrides`` change ``SIZES``."""
    folder.mkdir(parents=True, exist_ok=True)
    state = public_state(RATIOS[SPACES[name].hop_length], **{**SIZES, **overrides})
    save_lightning(state, folder / SPACES[name].weights[0])
    return folder


def save_lightning(state: dict[str, Tensor], file: Path) -> None:
    """Save a state dict as Lightning does in training."""
    moments = {0: dict(step=torch.tensor(5.0), exp_avg=torch.zeros(4), exp_avg_sq=torch.zeros(4))}
    optimiser = dict(state=moments, param_groups=[dict(lr=2e-4, betas=(0.8, 0.9), params=[0])])
    training = {"epoch": 24, "global_step": 1000, "pytorch-lightning_version": "1.8.6", "lr_schedulers": [{"last_epoch": 5}]}
    hyper_parameters = dict(sample_rate=24_000, initial_learning_rate=2e-4, resume=False, resume_config=None)
    held = dict(state_dict=state, optimizer_states=[optimiser, optimiser], hyper_parameters=hyper_parameters, callbacks={})
    torch.save({**training, **held}, file)


def public_state(ratios: list[int], *, filters: int, d_in: int, codes: int, width: int, hidden: int, blocks: int) -> dict:
    """Return seeded random tensors under their public names, with what training leaves beside them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder, unused = seanets(filters, d_in, ratios)
        words = codebook(encoder, codes)
        decoder = decoder_state(4 * encoder.hop_length, d_in, width, hidden, blocks)
    quantizer = {"inited": torch.ones(1), "cluster_size": torch.ones(codes), "embed": words, "embed_avg": words}
    left = ["multiperioddisc.discriminators.0.convs.0.weight_g", "multiresddisc.discriminators.0.convs.0.bias"]
    left += ["dac.discriminators.0.convs.0.bias", "dacdiscriminator.discriminator.discriminators.0.convs.0.bias"]
    left += ["melspec_loss.mel_spec.spectrogram.window"]
    return {
        **{f"{FEATURES}.encoder.{key}": value for key, value in encoder.state_dict().items()},
        **{f"{FEATURES}.decoder.{key}": value for key, value in unused.state_dict().items()},
        **{f"{FEATURES}.quantizer.vq.layers.0._codebook.{key}": value.clone() for key, value in quantizer.items()},
        **decoder,
        **{key: torch.ones(3) for key in left},
    }


def seanets(filters: int, d_in: int, ratios: list[int]) -> tuple[nn.Module, nn.Module]:
    """Return the encodec package's encoder, its outputs following its input rather than its biases, and decoder."""
    from encodec.modules import SEANetDecoder, SEANetEncoder

    sizes = dict(channels=1, dimension=d_in, n_filters=filters, ratios=ratios, causal=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the package uses the first generation of weight_norm
        encoder, decoder = SEANetEncoder(**sizes), SEANetDecoder(**sizes)
    for key, value in encoder.named_parameters():
        value.data.mul_(1.6 if key.endswith("weight_g") else 0.2 if "bias" in key or "lstm" in key else 1.0)
    last = encoder.model[-1].conv.conv.weight_v.data
    last[..., [0, 1, 2, 4, 5, 6]] *= 0.1  # random taps may all look at another frame; trained ones look at their own
    return encoder.eval(), decoder


def codebook(encoder: nn.Module, codes: int) -> Tensor:
    """Return codewords ``[codes, d_in]`` for what the tests listen to: noise of many levels, and single clicks."""
    half, hop, pause = codes // 2, encoder.hop_length, 4
    loud = torch.linspace(0.01, 0.3, half)[:, None] * torch.randn(half, hop)
    clicks = 0.01 * torch.randn((codes - half) * pause, hop)
    at = torch.arange(0, len(clicks), pause)
    clicks[at, torch.randint(hop, at.shape)] += 1.0
    with torch.inference_mode():
        words = [encoder(sound.reshape(1, 1, -1))[0].T for sound in (loud, clicks)]
    return torch.cat([words[0], words[1][at]])


def decoder_state(n_fft: int, d_in: int, width: int, hidden: int, blocks: int) -> dict[str, Tensor]:
    """Return random tensors of backbone and head; gains are near 1, all else keeps the variance."""
    tensors = {"head.istft.window": torch.hann_window(n_fft)}

    def matrix(name: str, *shape: int) -> None:
        tensors[f"{name}.weight"] = torch.randn(shape) / math.prod(shape[1:]) ** 0.5
        tensors[f"{name}.bias"] = 0.05 * torch.randn(shape[0])

    def norm(name: str, *rows: int, gain: str = "weight", offset: str = "bias") -> None:
        tensors[f"{name}.{gain}"] = 1 + 0.1 * torch.randn(*rows, width)
        tensors[f"{name}.{offset}"] = 0.05 * torch.randn(*rows, width)

    ada = dict(gain="scale.weight", offset="shift.weight")
    matrix("backbone.embed", width, d_in, 7)
    for i in (0, 1, 3, 4):
        for j in (1, 2):
            norm(f"backbone.pos_net.{i}.norm{j}")
            matrix(f"backbone.pos_net.{i}.conv{j}", width, width, 3)
    for name in ("q", "k", "v", "proj_out"):
        matrix(f"backbone.pos_net.2.{name}", width, width, 1)
    norm("backbone.pos_net.2.norm")
    norm("backbone.pos_net.5")
    norm("backbone.norm", 4, **ada)
    for i in range(blocks):
        matrix(f"backbone.convnext.{i}.dwconv", width, 1, 7)
        matrix(f"backbone.convnext.{i}.pwconv1", hidden, width)
        matrix(f"backbone.convnext.{i}.pwconv2", width, hidden)
        norm(f"backbone.convnext.{i}.norm", 4, **ada)
        tensors[f"backbone.convnext.{i}.gamma"] = 0.2 + 0.05 * torch.randn(width)
    norm("backbone.final_layer_norm")
    matrix("head.out", n_fft + 2, width)
    return tensors


NAMES = [name for name, row in SPACES.items() if row.adapter == "WavTokenizer"]
BUILDERS = dict.fromkeys(NAMES, tiny_wavtokenizer)
TAPS = dict.fromkeys(NAMES, ("encoder", "quantized"))
