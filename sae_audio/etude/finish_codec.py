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

from sae_audio.errors import ParameterError
from sae_audio.etude.checkpoint import load_codec, save_codec
from sae_audio.etude.codec import SpectralVAE, compress
from sae_audio.etude.codec_data import make_batch, render_split
from sae_audio.etude.codec_loss import CodecLoss

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


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codec", type=Path, default=Path("runs/etude-codec"), help="folder of the codec")
    parser.add_argument("--out", type=Path, default=Path("runs/etude-codec-finished"), help="folder for the result")
    parser.add_argument("--minutes", type=float, default=150.0, help="length of the synthesised corpus")
    parser.add_argument("--steps", type=int, default=3000, help="optimiser steps")
    parser.add_argument("--lr", type=float, default=7e-4, help="first learning rate")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    codec = load_codec(options.codec)
    clips = render_split(options.minutes, options.seed, "train")
    options.out.mkdir(parents=True, exist_ok=True)
    save_codec(finish(codec, clips, options.steps, options.seed, options.lr), options.out)


if __name__ == "__main__":
    main()
