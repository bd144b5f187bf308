"""Go on training the decoder of a finished étude codec, with its latents as they are: ``python -m sae_audio.etude.finish_codec``.

    python -m sae_audio.etude.finish_codec --codec checkpoints/etude-codec --out checkpoints/etude-codec

The encoder is frozen, so every latent stays the same number and whatever was trained on the latents stays valid. The decoder sees
the mean latents without the VAE's noise, which is what it decodes in use, and the mel distance counts more than in training.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from sae_audio.console import Parser, guarded, number
from sae_audio.errors import ParameterError
from sae_audio.etude.checkpoint import load_codec, save_codec
from sae_audio.etude.codec import SpectralVAE, compress
from sae_audio.etude.codec_data import make_batch, render_split
from sae_audio.etude.codec_loss import CodecLoss
from sae_audio.files import make_folder

WEIGHTS = {"shape": 0.5, "mel": 2.0, "level": 0.5, "centroid": 0.5}
CROP_FRAMES, BATCH = 64, 16


def finish(codec: SpectralVAE, clips: torch.Tensor, steps: int, seed: int, lr: float) -> SpectralVAE:
    """Train ``codec.decoder`` on clips ``[clips, N]``; the learning rate falls linearly to zero.

    Parameters
    ----------
    codec : SpectralVAE
        With decoder blocks; changed in place.
    clips : Tensor [clips, N]
        Training audio at the codec's sample rate.
    steps : int
        Optimiser steps.
    seed : int
        Of the batches.
    lr : float
        First learning rate of AdamW.
    """
    if codec.decoder is None:
        raise ParameterError("this codec's decoder is linear, with no blocks to train on; train one with blocks first")
    decoder, loss = codec.decoder, CodecLoss(codec.config)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr, betas=(0.9, 0.98), weight_decay=1e-3, fused=True)
    bar = tqdm(range(steps), desc="finish decoder", unit="step")
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
    parser.add_argument("--lr", type=number(1e-8, 1), default=7e-4, help="first learning rate")
    parser.add_argument("--seed", type=number(0, 2**32 - 1, int), default=0, help="of corpus, weights and batches (default: 0)")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    options = parser.parse_args(argv)

    def run() -> None:
        codec = load_codec(options.codec)
        make_folder(options.out)
        clips = render_split(options.minutes, options.seed, "train")
        save_codec(finish(codec, clips, options.steps, options.seed, options.lr), options.out)

    return guarded(run, options.debug)


if __name__ == "__main__":
    raise SystemExit(main())
