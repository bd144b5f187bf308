"""Train étude-flow, a small DiffRhythm over the latents of the étude codec: ``python -m sae_audio.etude.train_flow``.

    python -m sae_audio.etude.train_flow                           the shipped model, 2 hours on one core
    python -m sae_audio.etude.train_flow --resume                  go on after an interruption
    python -m sae_audio.etude.train_flow --resume --steps 60000    go on for longer (before the last 40 %)
    python -m sae_audio.etude.train_flow --out checkpoints/etude-flow --export runs/etude-flow     ship what was trained

Flow matching as in DiffRhythm: x_t = (1 − t)·noise + t·latents, t = sigmoid of a normal draw, mean squared error of the velocity
on the frames that are not given. The style is the timbre, the text the note of each frame (``flow_data.py``). For guidance all
conditions are dropped together, style to a learnt null; sometimes only the notes are, so that the model can also make up a
melody; and sometimes part of the clip is given, so that it can be edited.

``--out`` gets ``config.json`` and ``model.safetensors`` (the averaged weights so far), ``log.jsonl`` (one line per evaluation),
``training.safetensors`` (everything that ``--resume`` needs) and the encoded corpus. A resumed run takes the same steps, bit for
bit, as one without interruption.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from tqdm import tqdm

from sae_audio.console import Parser, guarded, number
from sae_audio.diffrhythm.checkpoint import load_generator, save_generator
from sae_audio.diffrhythm.dit import DiT, DiTConfig
from sae_audio.diffrhythm.generator import Generator
from sae_audio.errors import DataError
from sae_audio.etude.flow_batch import draw, flow_loss
from sae_audio.etude.flow_data import N_TOKENS, FlowData, corpus_data, style_names
from sae_audio.files import append_row, make_folder, read_rows, write_bytes, write_rows
from sae_audio.latent_spaces.etude import EtudeCodec

ROOT = Path(__file__).resolve().parents[2]
WARM_UP, COOL_DOWN = 500, 0.4
"""Steps of rising learning rate, and share of the steps over which it falls to zero at the end."""
GUIDANCE = 0.5
"""Strength of guidance that the model is shipped with. More of it plays louder than the corpus: by 4 dB at 1, after 20k steps."""
VALIDATION_TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)


@dataclass(frozen=True)
class FlowRecipe:
    """How étude-flow is trained."""

    minutes: float = 900.0
    """Length of the whole corpus; 70 % of it is trained on."""
    steps: int = 30_000
    """Optimiser steps."""
    out: Path = Path("runs/etude-flow")
    """Folder for the model, the log, the checkpoint and the encoded corpus."""
    codec: Path = ROOT / "checkpoints" / "etude-codec"
    """Folder of the codec whose latents are learnt."""
    resume: bool = False
    """Go on from the checkpoint in ``out``."""
    seed: int = 0
    """Of the corpus, the weights and the batches."""
    lr: float = 1.5e-3
    """Peak learning rate of AdamW."""
    ema: float = 0.999
    """Decay per step of the averaged weights."""
    eval_every: int = 500
    """Steps between evaluations and checkpoints."""


ETUDE_FLOW = DiTConfig(
    dim=192,
    depth=6,
    heads=6,
    ff_mult=2,
    text_dim=64,
    conv_layers=2,
    mel_dim=64,
    text_num_embeds=N_TOKENS,
    style_dim=64,
    time_dim=128,
    max_frames=512,
)
"""Sizes of the shipped model: 2.7 M parameters."""


def learning_rate(step: int, recipe: FlowRecipe) -> float:
    """Warm up, stay, and fall linearly to zero."""
    left = (recipe.steps - step) / (COOL_DOWN * recipe.steps)
    return recipe.lr * min(1.0, (step + 1) / WARM_UP, left)


class Trainer:
    """Model, averaged model and optimiser of a run."""

    def __init__(self, recipe: FlowRecipe, config: DiTConfig) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.model = Generator(DiT(config), style_names(), GUIDANCE)
        self.recipe = recipe
        self.ema = deepcopy(self.model).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), recipe.lr, betas=(0.9, 0.98), weight_decay=0.01, fused=True)

    @torch.no_grad()
    def standardise(self, data: FlowData) -> None:
        """Learn mean and standard deviation of the latents, per channel."""
        frames = data.latents.flatten(0, 1)[:: max(1, data.notes.numel() // 200_000)].float()
        for model in (self.model, self.ema):
            model.latent_mean.copy_(frames.mean(dim=0))
            model.latent_std.copy_(frames.std(dim=0))

    def step(self, data: FlowData, step: int) -> float:
        """Take one step and return its loss."""
        self.optimizer.param_groups[0]["lr"] = learning_rate(step, self.recipe)
        loss = flow_loss(self.model, draw(self.model, data, step, self.recipe.seed)).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self._average(min(self.recipe.ema, (step + 1) / (step + 10)))
        return loss.item()

    @torch.no_grad()
    def _average(self, decay: float) -> None:
        torch._foreach_lerp_(list(self.ema.parameters()), list(self.model.parameters()), 1 - decay)

    @torch.no_grad()
    def validate(self, held: FlowData, batches: int = 6) -> dict[str, float]:
        """Return the averaged weights' loss on held-out clips at fixed times, all conditions given and no latents."""
        model = self.ema
        losses: dict[str, list] = {str(t): [] for t in VALIDATION_TIMES}
        for i in range(batches):
            batch = draw(model, held, -1 - i, self.recipe.seed)
            batch = batch._replace(given=torch.zeros_like(batch.given))
            for t in VALIDATION_TIMES:
                losses[str(t)].append(flow_loss(model, batch._replace(t=torch.full_like(batch.t, t))).mean())
        return {t: float(torch.stack(values).mean()) for t, values in losses.items()}

    def save(self) -> None:
        """Write the averaged model, and last, since it says that the steps are done, what ``load`` needs; each atomically."""
        save_generator(self.ema, self.recipe.out)
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"ema.{name}": value for name, value in self.ema.state_dict().items()}
        states = self.optimizer.state_dict()["state"].values()
        for (name, _), state in zip(self.model.named_parameters(), states, strict=True):
            tensors |= {f"{key}.{name}": value for key, value in state.items()}
        metadata = {"recipe": json.dumps(self._origin())}
        content = save({name: value.detach().contiguous() for name, value in tensors.items()}, metadata=metadata)
        write_bytes(self.recipe.out / "training.safetensors", content, alone=True)

    def load(self) -> int:
        """Read what ``save`` wrote and return the number of steps already taken."""
        path = self.recipe.out / "training.safetensors"
        if not path.exists():
            raise DataError(f"{path} does not exist, so there is nothing to resume; run without --resume")
        self._check_recipe(path)
        tensors = load_file(path)
        for prefix, model in (("model", self.model), ("ema", self.ema)):
            model.load_state_dict({name: tensors[f"{prefix}.{name}"] for name in model.state_dict()})
        names = [name for name, _ in self.model.named_parameters()]
        state = {i: {key: tensors[f"{key}.{name}"] for key in ("step", "exp_avg", "exp_avg_sq")} for i, name in enumerate(names)}
        self.optimizer.load_state_dict({"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]})
        return int(tensors[f"step.{names[0]}"])

    def _origin(self) -> dict:
        return {"seed": self.recipe.seed, "minutes": self.recipe.minutes, "lr": self.recipe.lr}

    def _check_recipe(self, path: Path) -> None:
        with safe_open(path, "pt") as file:
            found = json.loads(file.metadata()["recipe"])
        different = [f"{name} {found[name]}" for name, value in self._origin().items() if found[name] != value]
        if different:
            raise DataError(f"{path} is of a run with {', '.join(different)}; resume it with the same, or choose another --out")


def train(recipe: FlowRecipe, config: DiTConfig = ETUDE_FLOW) -> Generator:
    """Encode the corpus, train on its training split and write the model to ``recipe.out``; return the averaged model."""
    make_folder(recipe.out)
    codec = EtudeCodec.load(recipe.codec)
    data = corpus_data(recipe.out / "data-train.safetensors", recipe.minutes, recipe.seed, "train", codec)
    held = corpus_data(recipe.out / "data-validation.safetensors", min(recipe.minutes, 100), recipe.seed, "validation", codec)
    return fit(recipe, config, data, held)


def fit(recipe: FlowRecipe, config: DiTConfig, data: FlowData, held: FlowData) -> Generator:
    """Train on encoded clips, watch held-out ones, write to ``recipe.out``; return the averaged model."""
    trainer, began, losses, log = Trainer(recipe, config), time.monotonic(), [], recipe.out / "log.jsonl"
    if recipe.resume:
        first = trainer.load()
    else:
        first = 0
        (recipe.out / "training.safetensors").unlink(missing_ok=True)  # of another run
        trainer.standardise(data)
    write_rows(log, read_rows(log, first) if first else [])
    progress = tqdm(range(first, recipe.steps), initial=first, total=recipe.steps, desc="train flow", unit="step", mininterval=5)
    for step in progress:
        losses.append(trainer.step(data, step))
        if (step + 1) % recipe.eval_every == 0 or step + 1 == recipe.steps:
            row = {"step": step + 1, "wall_s": time.monotonic() - began, "train": sum(losses) / len(losses)}
            row["validation"] = trainer.validate(held)
            progress.set_postfix(loss=f"{row['train']:.4f}", held=f"{sum(row['validation'].values()) / 5:.4f}")
            append_row(log, row)
            trainer.save()
            losses = []
    return trainer.ema.eval()


def export(run: Path, out: Path) -> None:
    """Write the averaged model of a run, with the guidance that suits it, and the run's log into a folder to ship."""
    model = load_generator(run)
    model.guidance = GUIDANCE
    save_generator(model, out)
    shutil.copyfile(run / "log.jsonl", out / "log.jsonl")


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, train or export, and return the exit code."""
    parser = Parser(
        prog="python -m sae_audio.etude.train_flow", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=number(1, 6000), default=FlowRecipe.minutes, help="length of the synthesised corpus")
    parser.add_argument("--steps", type=number(1, 1e7, int), default=FlowRecipe.steps, help="optimiser steps")
    parser.add_argument("--out", type=Path, default=FlowRecipe.out, help="folder for the model")
    parser.add_argument("--codec", type=Path, default=FlowRecipe.codec, help="folder of the codec")
    parser.add_argument(
        "--seed", type=number(0, 2**32 - 1, int), default=FlowRecipe.seed, help="of corpus, weights and batches (default: 0)"
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    parser.add_argument("--lr", type=number(1e-8, 1), default=FlowRecipe.lr, help="peak learning rate")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    parser.add_argument("--export", type=Path, metavar="RUN", help="copy the model of this run into --out instead of training")
    options = vars(parser.parse_args(argv))
    debug, finished = options.pop("debug"), options.pop("export")

    def run() -> None:
        if finished is None:
            train(FlowRecipe(**options))
        else:
            export(finished, options["out"])

    return guarded(run, debug)


if __name__ == "__main__":
    raise SystemExit(main())
