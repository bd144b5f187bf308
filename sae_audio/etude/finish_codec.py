"""Go on training the decoder of a finished étude codec, with its latents as they are: ``python -m sae_audio.etude.finish_codec``.

    python -m sae_audio.etude.finish_codec --codec checkpoints/etude-codec --out runs/etude-codec-finished
    python -m sae_audio.etude.finish_codec --codec checkpoints/etude-codec --out runs/etude-codec-finished --resume

The second stage of ``train_codec.py``; by itself, for a codec that has been through both. The encoder is frozen, so every latent
stays the same number and whatever was trained on the latents stays valid. The decoder sees the mean latents without the VAE's
noise, which is what it decodes in use, and the mel distance counts more than in training.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from sae_audio.console import Parser, guarded, number
from sae_audio.errors import ParameterError
from sae_audio.etude.checkpoint import load_codec, load_training, save_codec, save_training
from sae_audio.etude.codec import SpectralVAE, compress
from sae_audio.etude.codec_data import make_batch, render_split
from sae_audio.etude.codec_loss import CodecLoss
from sae_audio.files import make_folder

WEIGHTS = {"shape": 0.5, "mel": 2.0, "level": 0.5, "centroid": 0.5}
CROP_FRAMES, BATCH = 64, 16
LR = 8e-4


def finish(
    codec: SpectralVAE,
    clips: torch.Tensor,
    steps: int,
    seed: int,
    *,
    lr: float = LR,
    state: Path,
    resume: bool = False,
    save_every: int = 250,
) -> SpectralVAE:
    """Train ``codec.decoder`` on clips ``[clips, N]``; the learning rate falls linearly to zero.

    Parameters
    ----------
    codec : SpectralVAE
        With decoder blocks; changed in place, and its other weights no longer ask for gradients.
    clips : Tensor [clips, N]
        Training audio at the codec's sample rate.
    steps : int
        Optimiser steps.
    seed : int
        Of the batches.
    lr : float
        First learning rate of AdamW.
    state : Path
        File for weights and optimiser, written every ``save_every`` steps and at the end.
    resume : bool
        Go on from ``state``, with its weights: the steps are the same, bit for bit.
    save_every : int
        See ``state``.
    """
    if codec.decoder is None:
        raise ParameterError("this codec's decoder is linear, with no blocks to train on; train one with blocks first")
    decoder, loss = codec.decoder, CodecLoss(codec.config)
    codec.requires_grad_(False)
    decoder.requires_grad_(True)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr, betas=(0.9, 0.98), weight_decay=1e-3, fused=True)
    first = load_training(state, codec, optimizer) if resume else 0
    bar = tqdm(range(first, steps), initial=first, total=steps, desc="finish decoder", unit="step")
    for step in bar:
        optimizer.param_groups[0]["lr"] = lr * min(1.0, (step + 1) / 50) * (1 - step / steps)
        generator = torch.Generator().manual_seed((seed + 1) * 1_000_003 + step)
        with torch.no_grad():
            features = compress(make_batch(clips, codec, CROP_FRAMES, BATCH, generator), codec.config)
            posterior = codec.posterior(features)
        terms = loss(codec.reconstruct(posterior.mean), features, codec.feature_std, posterior)
        optimizer.zero_grad(set_to_none=True)
        sum((weight * terms[name] for name, weight in WEIGHTS.items()), torch.zeros(())).backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0:
            bar.set_postfix(mel=f"{terms['mel'].item():.3f}", shape=f"{terms['shape'].item():.3f}")
        if (step + 1) % save_every == 0 or step + 1 == steps:
            save_training(state, codec, optimizer)
    return codec


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, train and return the exit code."""
    parser = Parser(
        prog="python -m sae_audio.etude.finish_codec", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--codec", type=Path, default=Path("runs/etude-codec"), help="folder of the codec")
    parser.add_argument("--out", type=Path, default=Path("runs/etude-codec-finished"), help="folder for the result")
    parser.add_argument("--minutes", type=number(1, 6000), default=150.0, help="length of the synthesised corpus")
    parser.add_argument("--steps", type=number(1, 1e7, int), default=3000, help="optimiser steps")
    parser.add_argument("--lr", type=number(1e-8, 1), default=LR, help="first learning rate")
    parser.add_argument("--seed", type=number(0, 2**32 - 1, int), default=0, help="of corpus, weights and batches (default: 0)")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    options = parser.parse_args(argv)

    def run() -> None:
        codec = load_codec(options.codec)
        make_folder(options.out)
        clips = render_split(options.minutes, options.seed, "train")
        state = options.out / "finishing.safetensors"
        finish(codec, clips, options.steps, options.seed, lr=options.lr, state=state, resume=options.resume)
        save_codec(codec, options.out)

    return guarded(run, options.debug)


if __name__ == "__main__":
    raise SystemExit(main())
