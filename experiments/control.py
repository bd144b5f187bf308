"""Control as numbers (Figure 2 of arXiv 2510.23802): what asking for a change does, and what else it changes.

    python -m experiments.control [--bundle checkpoints/etude] [--clips 16] [--out experiments/results]

Every strength is chosen on validation recordings; every figure is measured on the decoded sound of test recordings, all of
whose timbres and scores are held out. Rows: the bundle's SAE directions (open and closed loop), the same estimated on raw
latents, differences of class means, probe weights, and the paper's own rule. Writes control.json, control.md and control.png.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from tqdm import tqdm

from experiments._corpus import etude_store, only_new_timbres
from sae_audio import control
from sae_audio.bundle import Bundle
from sae_audio.calibration import Clips, Measure, changes, median, spectral_distance
from sae_audio.control import AXES, ControlVector, class_means, partial_effects
from sae_audio.evaluation import (
    MIN_CLASS_FRAMES,
    Frames,
    control_trials,
    frames_of,
    held_out_clips,
    hold_of,
    isolation_of,
    listener,
    probe_table,
    readers,
    sample,
    spreads,
)
from sae_audio.files import write_bytes
from sae_audio.pipeline import space_of
from sae_audio.plots import isolation_matrix, png
from sae_audio.probes import acts_matrix
from sae_audio.properties import axis_values
from sae_audio.recipe import calibrated, uncalibrated_controls
from sae_audio.sae import SAEConfig
from sae_audio.training import TrainConfig, train_sae

PAPER_ALPHAS = (0.0, 1.0, 10.0, 20.0, 30.0)


def candidates(bundle: Bundle, train: Frames) -> Iterator[tuple[str, ControlVector]]:
    """Yield every kind of direction that is compared, by name, before calibration."""
    sae, decoder = bundle.sae, bundle.sae.directions().detach()
    pitch = bundle.properties["pitch"]
    notes = pitch.classes(train.descriptors)
    for name, vector in uncalibrated_controls(sae, bundle.properties, train, "latents").items():
        yield f"{name}: raw latents, partial effect", vector
    acts = acts_matrix(sae, train.latents)
    clamped = partial_effects(acts, notes, pitch.n_classes, train.descriptors, train.recordings).notes
    yield "pitch: SAE, partial effect, features clamped at 0", control.classes("pitch", "effect", "acts", pitch.names, clamped)
    yield (
        "pitch: raw latents, class means",
        control.classes("pitch", "mean", "latents", pitch.names, class_means(train.latents, notes, pitch.n_classes)),
    )
    weights = bundle.probes["pitch/acts"].weight
    scale = decoder.norm() / (weights.T @ decoder).norm()
    yield "pitch: SAE, probe weights", control.classes("pitch", "probe", "latents", pitch.names, weights.T @ decoder * scale * 5)
    for name in ("loudness", "brightness"):
        yield f"{name}: raw latents, class means", control.axis(name, "mean", "latents", high_minus_low(train, name))
        probe = bundle.probes[f"{name}/acts"].weight
        axis = torch.tensor(bundle.properties[name].centres)
        direction = (probe @ (axis - axis.mean())) @ decoder
        yield f"{name}: SAE, probe weights", control.axis(name, "probe", "latents", nominal(direction, train, name))


def high_minus_low(train: Frames, name: str) -> torch.Tensor:
    """Difference of the mean latents of the upper and the lower third of the frames, per unit of the property."""
    values = axis_values(train.descriptors, name)
    defined = values.isfinite() & (axis_values(train.descriptors, "loudness") > control.AUDIBLE_DB)
    low, high = values[defined].quantile(torch.tensor([1 / 3, 2 / 3]))
    top, bottom = defined & (values > high), defined & (values < low)
    step = values[top].mean() - values[bottom].mean()
    return (train.latents[top].mean(0) - train.latents[bottom].mean(0)) / step


def nominal(direction: torch.Tensor, train: Frames, name: str) -> torch.Tensor:
    """Scale a direction of unknown size to the length of the class-mean direction, so that the same doses suit it."""
    reference = high_minus_low(train, name)
    return direction / direction.norm() * reference.norm()


def paper_rows(bundle: Bundle, splits: tuple[Frames, Frames, Frames], clips: Clips, measure: Measure) -> Iterator[dict]:
    """Yield what the paper's rule does, with the SAE and the probes that it is meant for: ``relu_rmsnorm``, L1 before the norm.

    Strength 0 is the SAE's reconstruction, without its error added back, as published. Targets are C5, the quietest and the
    brightest class that the training frames hold.
    """
    train = splits[0]
    config = SAEConfig("relu_rmsnorm", train.latents.shape[1], 512, l1_coefficient=0.3)
    sae = train_sae(train.latents, config, TrainConfig(steps=600, batch_size=2048, lr=2e-3)).sae
    few = tuple(sample(split, 12_000) for split in splits)
    probes = {
        prop: probe for prop, _, probe, _ in probe_table({"acts": readers(sae, train.latents)["acts"]}, bundle.properties, *few)
    }
    targets = {"pitch": bundle.properties["pitch"].class_index("C5"), "loudness": outermost(bundle, train, "loudness", 0)}
    targets["brightness"] = outermost(bundle, train, "brightness", -1)
    before = measure(clips.latents)
    for name, index in targets.items():
        for alpha in PAPER_ALPHAS:
            heard = measure(control.paper_edit(clips.latents, sae, probes[name].weight[:, index], alpha))
            yield {
                "property": name,
                "target": bundle.properties[name].names[index],
                "alpha": alpha,
                "change": median(changes(before.descriptors, heard.descriptors), 0).tolist(),
                "distance": spectral_distance(before.log_mel, heard.log_mel),
            }


def outermost(bundle: Bundle, train: Frames, name: str, which: int) -> int:
    """The first or last class that at least ``MIN_CLASS_FRAMES`` training frames have."""
    found = bundle.properties[name].classes(train.descriptors)
    return int((torch.bincount(found[found >= 0]) >= MIN_CLASS_FRAMES).nonzero()[which])


def scored(name: str, vector: ControlVector, bundle: Bundle, clips: Clips, measure: Measure, spread, hold=None) -> Iterator[dict]:
    """Yield the trials of one calibrated control."""
    for trial in control_trials(vector, bundle.sae, clips, measure, hold):
        yield {**trial._asdict(), "control": name, "via": vector.via, "isolation": isolation_of(trial, spread)}


def lines_of(rows: list[dict], paper: list[dict]) -> list[str]:
    """Return the Markdown tables."""
    units = dict(zip(AXES, ("st", "dB", "oct"), strict=True))
    out = []
    for prop in AXES:
        header = [
            "directions",
            "loop",
            "asked",
            "reached",
            "median error",
            "within 50 c",
            "pitch",
            "loudness",
            "brightness",
            "isolation",
        ]
        out += [f"### {prop}", "", "| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
        for row in (row for row in rows if row["property"] == prop):
            hits = "" if row["hit_rate"] is None else f"{row['hit_rate']:.0%}"
            change = [f"{c:+.2f} {u}" for c, u in zip(row["change"], units.values(), strict=True)]
            cells = [row["control"].split(": ")[1], "closed" if row["held"] else "open", f"{row['asked']:+g} {units[prop]}"]
            cells += [f"{row['reached']:+.2f}", f"{row['error']:.2f}", hits, *change, f"{row['isolation']:.1f}"]
            out.append("| " + " | ".join(cells) + " |")
        out.append("")
    out += [
        "### the paper's rule, RMSNorm(a + α w)",
        "",
        "| target | α | pitch | loudness | brightness | distance |",
        "|---|---|---|---|---|---|",
    ]
    for row in paper:
        change = [f"{c:+.2f} {u}" for c, u in zip(row["change"], units.values(), strict=True)]
        out.append(f"| {row['property']} {row['target']} | {row['alpha']:g} | {' | '.join(change)} | {row['distance']:.2f} |")
    return out


def main() -> None:
    """Run the experiment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="checkpoints/etude")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--source", default="both", choices=("additive", "fluidr3", "both"))
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--out", type=Path, default=Path("experiments/results"))
    options = parser.parse_args()
    bundle = Bundle.from_pretrained(options.bundle)
    store = etude_store(options.minutes, options.source)
    train, validation, test = (frames_of(store, split) for split in ("train", "validation", "test"))
    unseen = only_new_timbres(test, store.recording_names)
    space, spread = space_of(bundle), spreads(train)
    measure, pitch = listener(space), bundle.properties["pitch"]
    held, clips = (held_out_clips(f, pitch, space.spec.frame_rate, n_clips=options.clips) for f in (validation, unseen))
    rows: list[dict] = []
    hold = hold_of(bundle.controls, space.spec.frame_rate)
    for name in AXES:
        for loop in (None, hold):
            rows += scored(f"{name}: SAE, partial effect", bundle.controls[name], bundle, clips, measure, spread, loop)
    for name, vector in tqdm(list(candidates(bundle, train)), desc="directions"):
        rows += scored(name, calibrated(vector, bundle.sae, held, measure), bundle, clips, measure, spread)
    paper = list(paper_rows(bundle, (train, validation, test), clips, measure))
    options.out.mkdir(parents=True, exist_ok=True)
    result = {"trials": rows, "paper": paper, "spread": spread, "clips": len(clips.latents), "bundle": options.bundle}
    write_bytes(options.out / "control.json", (json.dumps(result, indent=1, sort_keys=True) + "\n").encode())
    write_bytes(options.out / "control.md", ("\n".join(lines_of(rows, paper)) + "\n").encode())
    shown = [row for row in rows if row["held"]]
    write_bytes(options.out / "control.png", png(isolation_matrix(shown, spread)))
    print("\n".join(lines_of(rows, paper)))


if __name__ == "__main__":
    main()
