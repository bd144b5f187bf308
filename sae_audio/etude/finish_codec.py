"""The second stage of ``train_codec.py``: the decoder of an étude codec alone, with its latents as they are.

The encoder is frozen, so every latent stays the same number and whatever was trained on the latents stays valid. The decoder sees
the mean latents without the VAE's noise, which is what it decodes in use, and the mel distance counts more than in training.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tqdm import tqdm

from sae_audio.errors import ParameterError
from sae_audio.etude.checkpoint import load_training, save_training
from sae_audio.etude.codec import SpectralVAE, compress
from sae_audio.etude.codec_data import make_batch
from sae_audio.etude.codec_loss import CodecLoss

TERM_WEIGHTS = {"shape": 0.5, "mel": 2.0, "level": 0.5, "centroid": 0.5}
CROP_FRAMES, BATCH = 64, 16
LR = 8e-4
"""First learning rate of AdamW."""


def finish(
    codec: SpectralVAE,
    clips: torch.Tensor,
    steps: int,
    seed: int,
    *,
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
    optimizer = torch.optim.AdamW(decoder.parameters(), LR, betas=(0.9, 0.98), weight_decay=1e-3, fused=True)
    first = load_training(state, codec, optimizer) if resume else 0
    bar = tqdm(range(first, steps), initial=first, total=steps, desc="finish decoder", unit="step")
    for step in bar:
        optimizer.param_groups[0]["lr"] = LR * min(1.0, (step + 1) / 50) * (1 - step / steps)
        generator = torch.Generator().manual_seed((seed + 1) * 1_000_003 + step)
        with torch.no_grad():
            features = compress(make_batch(clips, codec, CROP_FRAMES, BATCH, generator), codec.config)
            posterior = codec.posterior(features)
        terms = loss(codec.reconstruct(posterior.mean), features, codec.feature_std, posterior)
        optimizer.zero_grad(set_to_none=True)
        sum((weight * terms[name] for name, weight in TERM_WEIGHTS.items()), torch.zeros(())).backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0:
            bar.set_postfix(mel=f"{terms['mel'].item():.3f}", shape=f"{terms['shape'].item():.3f}")
        if (step + 1) % save_every == 0 or step + 1 == steps:
            save_training(state, codec, optimizer)
    return codec
