"""Train the étude codec: ``python -m sae_audio.etude.train_codec``.

    python -m sae_audio.etude.train_codec                          like the shipped codec; an hour and a half of one core
    python -m sae_audio.etude.train_codec --steps 0                the PCA codec, a minute
    python -m sae_audio.etude.train_codec --resume                 go on after an interruption
    python -m sae_audio.etude.train_codec --resume --steps 20000   go on for longer (before the last quarter)

First encoder and decoder together, then the decoder alone (``finish_codec.py``; ``--finish-steps 0`` leaves that out). ``--out``
gets ``config.json`` and ``model.safetensors`` (the codec), ``log.jsonl`` (one line per evaluation), ``training.safetensors`` and
``finishing.safetensors`` (weights and optimiser of the two stages, for ``--resume``). The first stage's learning rate stays the
same and falls to zero over the last quarter of the steps, so that a run can be extended from any checkpoint before that.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from sae_audio.console import Parser, guarded, number
from sae_audio.etude.checkpoint import learnt, load_training, save_codec, save_training
from sae_audio.etude.codec import CodecConfig, SpectralVAE, compress
from sae_audio.etude.codec_data import make_batch, render_split
from sae_audio.etude.codec_loss import CodecLoss
from sae_audio.etude.finish_codec import finish
from sae_audio.files import append_row, make_folder, read_rows, write_rows

FINISHING = "finishing.safetensors"
PCA_FRAMES = 60_000
"""Frames that the PCA and the latents' mean and standard deviation are estimated on."""


@dataclass(frozen=True)
class CodecRecipe:
    """How the codec is trained."""

    minutes: float = 150.0
    """Length of the whole corpus; 70 % of it is trained on."""
    steps: int = 5000
    """Optimiser steps; 0 stops at the PCA codec."""
    finish_steps: int = 8500
    """Optimiser steps of the decoder alone, after that."""
    out: Path = Path("runs/etude-codec")
    """Folder for the codec, the log and the checkpoint."""
    resume: bool = False
    """Go on from the checkpoint in ``out``."""
    seed: int = 0
    """Of the corpus, the weights and the batches."""
    batch_size: int = 16
    """Crops per step."""
    crop_frames: int = 64
    """Latent frames per crop."""
    lr: float = 1e-3
    """Peak learning rate of AdamW."""
    eval_every: int = 250
    """Steps between evaluations and checkpoints."""


@torch.no_grad()
def fit_pca(model: SpectralVAE, clips: Tensor, seed: int) -> None:
    """Set the linear maps to a whitening PCA of the clips' features and back."""
    x = _sample_features(model, clips, seed)
    model.feature_mean.copy_(x.mean(dim=0))
    model.feature_std.copy_((x - model.feature_mean).square().mean().sqrt())
    x = (x - model.feature_mean) / model.feature_std
    values, vectors = torch.linalg.eigh(x.T @ x / len(x))
    top = slice(-model.config.d_latent, None)
    std, vectors = values[top].sqrt().flip(0), vectors[:, top].flip(1)
    model.analysis.weight.copy_((vectors / std).T)
    model.synthesis.weight.copy_(vectors * std)
    model.analysis.bias.zero_()
    model.synthesis.bias.zero_()


def freeze_pca(model: SpectralVAE) -> None:
    """Take the linear maps out of training: Adam's steps are as large as their smaller entries, and were seen to ruin them."""
    model.analysis.requires_grad_(False)
    model.synthesis.requires_grad_(False)


@torch.no_grad()
def standardise(model: SpectralVAE, clips: Tensor, seed: int) -> None:
    """Set the latents' mean and standard deviation, so that the latents of the corpus have zero mean and unit variance."""
    latents = model.posterior(_sample_features(model, clips, seed)[None]).mean[0]
    model.latent_mean.copy_(latents.mean(dim=0))
    model.latent_std.copy_(latents.std(dim=0))


def _sample_features(model: SpectralVAE, clips: Tensor, seed: int) -> Tensor:
    """Return the features ``[frames, d_features]`` of a random choice of whole clips."""
    per_clip = clips.shape[1] // model.config.hop_length
    order = torch.randperm(len(clips), generator=torch.Generator().manual_seed(seed))
    return torch.cat(
        [compress(model.spectra(clips[i : i + 1]), model.config)[0] for i in order[: max(1, PCA_FRAMES // per_clip)]]
    )


def learning_rate(step: int, recipe: CodecRecipe) -> float:
    """Warm up over 100 steps, stay, and fall linearly to zero over the last quarter."""
    return recipe.lr * min(1.0, (step + 1) / 100, 4 * (recipe.steps - step) / recipe.steps)


def train_step(model: SpectralVAE, loss: CodecLoss, optimizer: torch.optim.Optimizer, batch: Tensor, noise: Tensor) -> dict:
    """Take one step on magnitudes ``[B, T, 2, n_bins]`` with latent noise ``[B, T, d_latent]``; return each term of the loss."""
    features = compress(batch, model.config)
    posterior = model.posterior(features)
    codes = posterior.mean + noise * posterior.log_std.exp()
    terms = loss(model.reconstruct(codes), features, model.feature_std, posterior)
    optimizer.zero_grad(set_to_none=True)
    loss.total(terms).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return {name: value.item() for name, value in terms.items()}


@torch.no_grad()
def validate(model: SpectralVAE, loss: CodecLoss, clips: Tensor) -> dict[str, float]:
    """Return the mean of each term of the loss over whole clips, from the mean latents and without augmentation."""
    rows = []
    for clip in clips:
        features = compress(model.spectra(clip[None]), model.config)
        posterior = model.posterior(features)
        rows.append(loss(model.reconstruct(posterior.mean), features, model.feature_std, posterior))
    return {name: float(torch.stack([row[name] for row in rows]).mean()) for name in rows[0]}


def train(recipe: CodecRecipe, config: CodecConfig) -> SpectralVAE:
    """Synthesise the corpus, train a codec on its training split, finish it and write it to ``recipe.out``."""
    make_folder(recipe.out)
    clips = render_split(recipe.minutes, recipe.seed, "train")
    if not recipe.steps:
        return pca_codec(recipe, config, clips)
    held = render_split(min(recipe.minutes, 20), recipe.seed, "validation")
    model = fit(recipe, config, clips, held)
    if recipe.finish_steps:
        state = recipe.out / FINISHING
        finish(model, clips, recipe.finish_steps, recipe.seed, state=state, resume=state.exists())
        save_codec(model, recipe.out)
    return model


def pca_codec(recipe: CodecRecipe, config: CodecConfig, clips: Tensor) -> SpectralVAE:
    """Fit the linear maps to clips ``[clips, N]`` and write that codec to ``recipe.out``."""
    model = _new(recipe, config)
    fit_pca(model, clips, recipe.seed)
    standardise(model, clips, recipe.seed)
    save_codec(model, recipe.out)
    return model


def fit(recipe: CodecRecipe, config: CodecConfig, clips: Tensor, held: Tensor) -> SpectralVAE:
    """Train both halves on clips ``[clips, N]``, watch held-out clips ``[clips, N]`` and write the codec to ``recipe.out``."""
    make_folder(recipe.out)
    log, state = recipe.out / "log.jsonl", recipe.out / "training.safetensors"
    model, loss = _new(recipe, config), CodecLoss(config)
    optimizer = torch.optim.AdamW(learnt(model).values(), recipe.lr, betas=(0.9, 0.98), weight_decay=1e-3, fused=True)
    if recipe.resume:
        first = load_training(state, model, optimizer)
    else:
        first = 0
        state.unlink(missing_ok=True)  # of another run
        fit_pca(model, clips, recipe.seed)
    if first < recipe.steps:
        (recipe.out / FINISHING).unlink(missing_ok=True)  # it began where this will not end
    write_rows(log, read_rows(log, first) if first else [])
    began = time.process_time()
    for step in tqdm(range(first, recipe.steps), initial=first, total=recipe.steps, desc="train codec", unit="step"):
        optimizer.param_groups[0]["lr"] = learning_rate(step, recipe)
        terms = train_step(model, loss, optimizer, *_draw(model, clips, recipe, step))
        if (step + 1) % recipe.eval_every == 0:
            row = {"step": step + 1, "cpu_s": time.process_time() - began, "train": terms}
            append_row(log, row | {"validation": validate(model, loss, held)})
            save_training(state, model, optimizer)
    standardise(model, clips, recipe.seed)
    save_codec(model, recipe.out)
    return model


def _new(recipe: CodecRecipe, config: CodecConfig) -> SpectralVAE:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = SpectralVAE(config)
    freeze_pca(model)
    return model


def _draw(model: SpectralVAE, clips: Tensor, recipe: CodecRecipe, step: int) -> tuple[Tensor, Tensor]:
    """Return the batch and the latent noise of a step, which depend on nothing but the seed and the step."""
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
    batch = make_batch(clips, model, recipe.crop_frames, recipe.batch_size, generator)
    return batch, torch.randn(*batch.shape[:2], model.config.d_latent, generator=generator)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, train and return the exit code."""
    parser = Parser(
        prog="python -m sae_audio.etude.train_codec", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=number(1, 6000), default=CodecRecipe.minutes, help="length of the synthesised corpus")
    parser.add_argument("--steps", type=number(0, 1e7, int), default=CodecRecipe.steps, help="optimiser steps; 0: the PCA codec")
    parser.add_argument(
        "--finish-steps",
        type=number(0, 1e7, int),
        default=CodecRecipe.finish_steps,
        help="steps of the decoder alone, after that",
    )
    parser.add_argument("--out", type=Path, default=CodecRecipe.out, help="folder for the codec")
    parser.add_argument(
        "--seed", type=number(0, 2**32 - 1, int), default=CodecRecipe.seed, help="of corpus, weights and batches (default: 0)"
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    options = vars(parser.parse_args(argv))
    debug, recipe = options.pop("debug"), CodecRecipe(**options)
    blocks = {"encoder_blocks": 2, "decoder_blocks": 4} if recipe.steps else {}

    def run() -> None:
        train(recipe, CodecConfig(**blocks))

    return guarded(run, debug)


if __name__ == "__main__":
    raise SystemExit(main())
