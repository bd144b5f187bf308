"""Control as numbers (Figure 2 of arXiv 2510.23802): what asking for a change does, and what else it changes.

    python -m experiments.control [--bundle checkpoints/etude] [--clips 16] [--out experiments/results]
    python -m experiments.control --bundle runs/mine --audio ~/music --latents runs/mine.work/latents --out runs/mine.control

The bundle says which latent space and tap; any that decodes will do. Every strength is chosen on validation recordings; every
figure is measured on the decoded sound of test recordings, of the synthesised music those alone whose timbre is in no training
recording. Rows: the bundle's SAE directions (open and closed loop), the same estimated on raw
latents, differences of class means, probe weights, and the paper's own rule. Writes control.json, control.md and control.png.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from experiments._corpus import only_new_timbres
from experiments._data import add_data_options, check, store_of
from sae_audio import control
from sae_audio.bundle import Bundle
from sae_audio.bundle_space import space_of
from sae_audio.calibration import Clips
from sae_audio.cli import guarded
from sae_audio.closed_loop import hold_of
from sae_audio.control import AXES, ControlVector
from sae_audio.directions import class_means, partial_effects
from sae_audio.errors import LatentSpaceError
from sae_audio.evaluation import control_trials, isolation_of, probe_table
from sae_audio.files import make_folder, write_bytes
from sae_audio.fit_controls import EFFECT_FRAMES, calibrated, uncalibrated_controls
from sae_audio.frames import MIN_CLASS_FRAMES, Frames, Splits, held_out_clips, random_frames, spreads
from sae_audio.heard import Heard, Measure, changes, median, spectral_distance
from sae_audio.inputs import acts_matrix
from sae_audio.latent_spaces import Codec
from sae_audio.listener import listener
from sae_audio.plots import isolation_matrix, png
from sae_audio.properties import axis_values
from sae_audio.readers import readers
from sae_audio.sae import SAEConfig
from sae_audio.training import TrainConfig, train_sae

PAPER_ALPHAS = (0.0, 1.0, 10.0, 20.0, 30.0)
PAPER_WIDTH = 8
"""Features per latent channel of the SAE that the paper's rule is tried with."""


def candidates(bundle: Bundle, train: Frames) -> Iterator[tuple[str, ControlVector]]:
    """Yield every kind of direction that is compared, by name, before calibration."""
    sae, decoder, train = bundle.sae, bundle.sae.directions().detach(), random_frames(train, EFFECT_FRAMES)
    for name, vector in uncalibrated_controls(sae, bundle.properties, train, "latents").items():
        yield f"{name}: raw latents, partial effect", vector
    for name in (name for name in AXES if name in bundle.properties):
        if name == "pitch":
            yield from pitch_candidates(bundle, train)
            continue
        yield f"{name}: raw latents, class means", control.axis_control(name, "mean", "latents", high_minus_low(train, name))
        probe = bundle.probes[f"{name}/acts"].weight
        axis = torch.tensor(bundle.properties[name].centres)
        direction = (probe @ (axis - axis.mean())) @ decoder
        yield f"{name}: SAE, probe weights", control.axis_control(name, "probe", "latents", nominal(direction, train, name))


def pitch_candidates(bundle: Bundle, train: Frames) -> Iterator[tuple[str, ControlVector]]:
    """Yield the directions of pitch that are compared, but for those on raw latents, which all properties have."""
    pitch, decoder = bundle.properties["pitch"], bundle.sae.directions().detach()
    notes = pitch.classes(train.descriptors)
    acts = acts_matrix(bundle.sae, train.latents)
    means = class_means(train.latents, notes, pitch.n_classes)
    weights = bundle.probes["pitch/acts"].weight.T @ decoder
    seen = torch.bincount(notes[notes >= 0], minlength=pitch.n_classes) > 0
    scale = offset_length(means[seen]) / offset_length(weights[seen])
    found = {
        "SAE, partial effect, features clamped at 0": (
            "effect",
            "acts",
            partial_effects(acts, notes, pitch.n_classes, train.descriptors, train.recordings).notes,
        ),
        "raw latents, class means": ("mean", "latents", means),
        "SAE, probe weights": ("probe", "latents", weights * scale),
    }
    for name, (method, via, directions) in found.items():
        yield f"pitch: {name}", control.class_control("pitch", method, via, pitch.names, directions)


def offset_length(directions: torch.Tensor) -> float:
    """Root mean square length of directions ``[n, d]`` measured from their mean: how far apart the notes lie."""
    return float((directions - directions.mean(0)).square().sum(1).mean().sqrt())


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


def paper_rows(bundle: Bundle, splits: Splits, clips: Clips, before: Heard, measure: Measure, device: str) -> Iterator[dict]:
    """Yield what the paper's rule does, with the SAE and the probes that it is meant for: ``relu_rmsnorm``, L1 before the norm.

    Strength 0 is the SAE's reconstruction, without its error added back, as published. Targets are C5, the quietest and the
    brightest class that the training frames hold. Which SAE of its grid the paper takes here is not known.
    """
    train, d_in = splits.train, bundle.spec.d_in
    config = SAEConfig("relu_rmsnorm", d_in, PAPER_WIDTH * d_in, l1_coefficient=0.3)
    sae = train_sae(train.latents, config, TrainConfig(steps=600, batch_size=2048, lr=2e-3), device=device).sae
    few = splits.sampled(12_000, 12_000, 12_000)
    probes = {
        prop: probe for prop, _, probe, _ in probe_table({"acts": readers(sae, train.latents)["acts"]}, bundle.properties, few)
    }
    ends = {"loudness": 0, "brightness": -1}
    targets = {name: outermost(bundle, train, name, end) for name, end in ends.items() if name in bundle.properties}
    if "pitch" in bundle.properties:
        targets = {"pitch": bundle.properties["pitch"].class_index("C5")} | targets
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


def scored(
    name: str, vector: ControlVector, bundle: Bundle, clips: Clips, before: Heard, measure: Measure, spread, hold=None
) -> Iterator[dict]:
    """Yield the trials of one calibrated control."""
    for trial in control_trials(vector, bundle.sae, clips, before, measure, hold):
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


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="checkpoints/etude", help="folder or Hub id (default: the shipped one)")
    add_data_options(parser, minutes=60.0)
    parser.add_argument("--clips", type=int, default=16, help="held-out clips (default 16)")
    parser.add_argument("--out", type=Path, default=Path("experiments/results"), help="folder of results")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser.parse_args(argv)


def main(options: argparse.Namespace) -> None:
    """Run the experiment."""
    bundle = Bundle.from_pretrained(options.bundle)
    check(options, bundle.spec.name)
    space = space_of(bundle, source=options.source, revision=options.source_revision, device=options.device)
    if not isinstance(space, Codec):
        raise LatentSpaceError(
            f"'{bundle.spec.name}' cannot be decoded to sound, which is what this measures; take a codec's bundle"
        )
    store = store_of(options, space)
    splits = Splits.of(store)
    unseen = splits.test if options.audio else only_new_timbres(splits.test, store.recording_names)
    measure, pitch, spread = listener(space), bundle.properties.get("pitch"), spreads(splits.train)
    cut = {"n_clips": options.clips, "cut_frames": space.cut_frames}
    held, clips = (held_out_clips(f, pitch, space.spec.frame_rate, **cut) for f in (splits.validation, unseen))
    rows: list[dict] = []
    before, hold = measure(clips.latents), hold_of(bundle.controls, space.spec.frame_rate)
    for name in (name for name in AXES if name in bundle.controls):
        rows += scored(f"{name}: SAE, partial effect", bundle.controls[name], bundle, clips, before, measure, spread, hold)
    for name, vector in tqdm(list(candidates(bundle, splits.train)), desc="directions"):
        rows += scored(name, calibrated(vector, bundle.sae, held, measure), bundle, clips, before, measure, spread)
    paper = list(paper_rows(bundle, splits, clips, before, measure, options.device))
    make_folder(options.out)
    result = {"trials": rows, "paper": paper, "spread": spread, "clips": len(clips.latents), "bundle": options.bundle}
    write_bytes(options.out / "control.json", (json.dumps(result, indent=1, sort_keys=True) + "\n").encode())
    write_bytes(options.out / "control.md", ("\n".join(lines_of(rows, paper)) + "\n").encode())
    shown = [row for row in rows if row["held"] == (hold is not None)]
    write_bytes(options.out / "control.png", png(isolation_matrix(shown, spread)))
    print("\n".join(lines_of(rows, paper)))


if __name__ == "__main__":
    raise SystemExit(guarded(lambda: main(parse()), "--debug" in sys.argv))
