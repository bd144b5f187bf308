"""Probe accuracy against sparsity (Figure 3 of arXiv 2510.23802), with the baselines that the paper lacks.

    python -m experiments.decodability [--minutes 40] [--seeds 3] [--steps 400] [--out experiments/results]
    python -m experiments.decodability --mode paper --space encodec-24khz --tap quantized --audio data/paper --out runs/paper/fig3

By default in the étude codec, whose music is synthesised; half of the test recordings are played on timbres that no training
recording has. *Honest mode*: five kinds of SAE, eight features per latent channel, classes of fixed physical width. *Paper mode*:
``relu_rmsnorm`` with L1 before the norm, 4 to 256 features per latent channel, λ from 0.005 to 0.15, 20 equal-width classes.

Writes decodability.json, decodability.md and decodability.png. Splits are by recording: probes are fitted on training
recordings, their penalty chosen on validation recordings, and every figure is from test recordings. Latents and finished rows
stay in runs/experiments, so that a run that was stopped goes on where it was. Probes are fitted on the CPU.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import mean, stdev

from experiments._corpus import CACHE
from experiments._data import add_data_options, check, store_of
from experiments._log import rows_of
from sae_audio.cli import guarded
from sae_audio.errors import DataError
from sae_audio.evaluation import probe_table, reconstruction_metrics
from sae_audio.files import make_folder, write_bytes
from sae_audio.frames import Splits, random_frames, usable_properties
from sae_audio.inputs import acts_matrix
from sae_audio.latent_spaces import load_latent_space
from sae_audio.plots import decodability, png
from sae_audio.properties import Property
from sae_audio.property_sets import property_sets
from sae_audio.readers import readers
from sae_audio.report import table
from sae_audio.sae import SAEConfig
from sae_audio.training import TrainConfig, train_sae

WIDTH = 8
"""Features per latent channel in honest mode."""
SETTINGS: dict[str, list[dict]] = {
    "relu_rmsnorm, L1 before norm": [
        {"variant": "relu_rmsnorm", "l1_on": "pre", "l1_coefficient": weight} for weight in (0.03, 0.3, 3.0)
    ],
    "relu_rmsnorm, L1 after norm": [
        {"variant": "relu_rmsnorm", "l1_on": "post", "l1_coefficient": weight} for weight in (0.03, 0.1, 0.3)
    ],
    "topk": [{"variant": "topk", "k": k} for k in (8, 16, 32)],
    "batch_topk": [{"variant": "batch_topk", "k": k} for k in (8, 16, 32)],
    "jumprelu": [{"variant": "jumprelu", "k": k} for k in (8, 16, 32)],
}
PAPER_WIDTHS = (4, 16, 64, 256)
"""Features per latent channel in paper mode: the published ends; the points between them were not to be found."""
PAPER_L1 = (0.005, 0.015, 0.05, 0.15)
"""L1 coefficients in paper mode: likewise. The published loss may sum where ours takes means, so compare by sparsity."""
BASELINES = {
    "honest": {
        "latents": "raw latents",
        "pca": "PCA, 16 components",
        "random": "random dictionary, top 16",
        "untrained": "untrained SAE",
    },
    "paper": {"latents": "raw latents", "random": "random dictionary", "untrained": "untrained SAE"},
}
"""PCA with as many components as a paper SAE has active features would be all of the latents."""
SCORES = ("accuracy", "balanced_accuracy", "within_one")
MOST_TEST_FRAMES = 50_000
"""Frames that reconstruction is measured on, at most."""


def jobs_of(options: argparse.Namespace, d_in: int) -> list[dict]:
    """Return what is trained: every setting with every seed, the smallest first."""
    settings = SETTINGS
    if options.mode == "paper":
        settings = {
            f"{width * d_in} features": [
                {"variant": "relu_rmsnorm", "l1_on": "pre", "l1_coefficient": weight, "d_sae": width * d_in}
                for weight in options.l1
            ]
            for width in options.widths
        }
    return [
        {"variant": name, "setting": f"{name} {i}", "config": setting, "seed": seed}
        for name, rows in settings.items()
        for i, setting in enumerate(rows)
        for seed in range(options.seeds)
    ]


def measure(
    job: dict, options: argparse.Namespace, splits: Splits, properties: dict[str, Property], reference: dict
) -> list[dict]:
    """Train one SAE and return its scores; the baselines depend on the seed alone and are fitted beside ``reference``."""
    train, few = splits.train, splits.sampled(12_000, 6_000, 8_000)
    d_in = train.latents.shape[1]
    config = SAEConfig(**{"d_in": d_in, "d_sae": WIDTH * d_in} | job["config"])
    settings = TrainConfig(steps=options.steps, batch_size=options.batch_size, lr=2e-3, seed=job["seed"])
    sae = train_sae(train.latents, config, settings, progress=False, device=options.device).sae
    chosen = {"acts": partial(acts_matrix, sae)}
    if job["config"] == reference:
        every = readers(sae, train.latents, job["seed"])
        chosen |= {name: every[name] for name in BASELINES[options.mode]}
    lost = reconstruction_metrics(sae, random_frames(splits.test, MOST_TEST_FRAMES))
    return [
        {**job, "property": prop, "reader": reader, **lost, **score._asdict()}
        for prop, reader, _, score in probe_table(chosen, properties, few)
    ]


def summary(rows: list[dict], mode: str) -> list[str]:
    """Return the table: mean and standard deviation over seeds."""
    lines, columns = [], ("l0", "fvu") if mode == "honest" else ("sparsity", "l0", "fvu")
    empty = [""] * len(columns)
    for prop in dict.fromkeys(row["property"] for row in rows):
        mine = [row for row in rows if row["property"] == prop]
        acts = [row for row in mine if row["reader"] == "acts"]
        body = []
        for setting in dict.fromkeys(row["setting"] for row in acts):
            group = [row for row in acts if row["setting"] == setting]
            value = next(v for k, v in group[0]["config"].items() if k in ("k", "l1_coefficient"))
            body.append([group[0]["variant"], f"{value:g}", *(spread(group, key) for key in (*columns, *SCORES))])
        for reader, name in BASELINES[mode].items():
            group = [row for row in mine if row["reader"] == reader]
            body.append([f"*{name}*", "", *empty, *(spread(group, key) for key in SCORES)])
        body.append(
            ["*always the most frequent*", "", *empty, f"{mine[0]['majority']:.3f}", f"{1 / mine[0]['n_classes']:.3f}", ""]
        )
        header = ["reads", "k or λ", *columns, "accuracy", "balanced", "±1 class"]
        lines += [f"### {prop} ({mine[0]['n_frames']:,} test frames, {mine[0]['n_classes']} classes present)", ""]
        lines += ["| " + " | ".join(map(str, row)) + " |" for row in [header, ["---"] * len(header), *body]] + [""]
        print("\n".join([prop, *table(header, body), ""]))
    return lines


def spread(rows: list[dict], key: str) -> str:
    """Mean ± standard deviation over seeds."""
    values = [row[key] for row in rows]
    digits = 1 if key == "l0" else 3
    return f"{mean(values):.{digits}f} ± {stdev(values):.{digits}f}" if len(values) > 1 else f"{values[0]:.{digits}f}"


def drawn(rows: list[dict], mode: str) -> bytes:
    """Return the figure: balanced accuracy over l0, in paper mode accuracy over sparsity, as published."""
    metric, x = ("balanced_accuracy", "l0") if mode == "honest" else ("accuracy", "sparsity")
    points = [{**row, "accuracy": row[metric]} for row in rows if row["reader"] == "acts"]
    levels: dict[str, dict[str, float]] = {}
    for prop in dict.fromkeys(row["property"] for row in rows):
        mine = [row for row in rows if row["property"] == prop]
        levels[prop] = {
            name: mean(row[metric] for row in mine if row["reader"] == reader) for reader, name in BASELINES[mode].items()
        }
        if mode == "paper":
            levels[prop]["always the most frequent"] = mine[0]["majority"]
    return png(decodability(points, levels, metric.replace("_", " "), x))


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="etude-codec", help="latent space (default: etude-codec)")
    parser.add_argument("--tap", help="which tensor of the model counts as its latents (default: the space's first)")
    add_data_options(parser, minutes=40.0)
    fit = parser.add_argument_group("fitting")
    fit.add_argument("--mode", default="honest", choices=("honest", "paper"), help="default: honest")
    fit.add_argument("--widths", nargs="+", type=int, default=PAPER_WIDTHS, metavar="N", help="features per channel, paper mode")
    fit.add_argument("--l1", nargs="+", type=float, default=PAPER_L1, metavar="X", help="L1 coefficients, paper mode")
    fit.add_argument("--seeds", type=int, default=3, help="SAEs per setting (default: 3)")
    fit.add_argument("--steps", type=int, default=400, help="of each SAE (default: 400)")
    fit.add_argument("--batch-size", type=int, default=2048, help="frames per step (default: 2048)")
    parser.add_argument("--out", type=Path, default=Path("experiments/results"), help="folder of results")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser.parse_args(argv)


def main(options: argparse.Namespace) -> None:
    """Run the experiment."""
    check(options, options.space)
    where = {"source": options.source, "revision": options.source_revision}
    space = load_latent_space(options.space, tap=options.tap, device=options.device, **where)
    store = store_of(options, space)
    splits = Splits.of(store)
    properties = usable_properties(property_sets(options.mode, splits.train.descriptors), splits.train)
    if not properties:
        raise DataError(f"the recordings in {store.path} vary in no property; add others")
    jobs = jobs_of(options, space.spec.d_in)
    # The baselines stand beside topk with k = 16, in paper mode beside the smallest dictionary.
    reference = SETTINGS["topk"][1] if options.mode == "honest" else jobs[0]["config"]
    depends = [options.mode, options.steps, options.batch_size, (store.path / "index.json").read_text()]
    log = CACHE / f"decodability-{hashlib.sha256(json.dumps(depends).encode()).hexdigest()[:12]}.jsonl"
    do = partial(measure, options=options, splits=splits, properties=properties, reference=reference)
    rows = list(rows_of(jobs, do, log, cost=lambda job: job["config"].get("d_sae", WIDTH * space.spec.d_in)))
    make_folder(options.out)
    write_bytes(options.out / "decodability.json", (json.dumps(rows, indent=1, sort_keys=True) + "\n").encode())
    write_bytes(options.out / "decodability.md", ("\n".join(summary(rows, options.mode)) + "\n").encode())
    write_bytes(options.out / "decodability.png", drawn(rows, options.mode))


if __name__ == "__main__":
    raise SystemExit(guarded(lambda: main(parse()), "--debug" in sys.argv))
