"""When along denoising steering works, and what it costs: dose-response per window of steps, on étude-flow.

    python -m experiments.window_steering [--songs 12] [--seconds 3] [--out experiments/results]

Songs with the timbres and notes of validation clips are steered in the first, middle and last third of the flow, in all of
it, and, as the baseline, after it (the same change made to the finished latents). Each is compared, on the decoded sound, with
the same song unsteered. Cost: how much more decoding and encoding again loses than on the unsteered songs (latents that are of no
sound come back changed), and the level-free log-mel distance. Writes window_steering.json, .md and .png.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

from experiments._window_trial import WINDOWS, WindowTrial, cycle_error, window_trial
from experiments.emergence import etude_prompts
from sae_audio.bundle import Bundle
from sae_audio.bundle_format import plain
from sae_audio.bundle_space import space_of
from sae_audio.control import AXES, UNITS, apply
from sae_audio.files import write_bytes
from sae_audio.flow_steering import moves_of
from sae_audio.generation import Request, generate
from sae_audio.generators import Model, frames_of, load_model
from sae_audio.latent_spaces import Codec
from sae_audio.listener import listener
from sae_audio.plots import png
from sae_audio.plots.denoising import window_response

ASKED = {"pitch": (-5, 2), "loudness": (-12, -6, 6), "brightness": (-0.5, 0.5)}


def trials(model: Model, bundle: Bundle, space: Codec, base: Request) -> Iterator[WindowTrial]:
    """Yield one trial per property, amount and window."""
    measure, std = listener(space), bundle.sae.std
    unsteered = generate(base, model=model, space=space).latents
    before, own_cycle = measure(unsteered), cycle_error(space, unsteered, std)
    jobs = [(name, asked, window) for name in AXES for asked in ASKED[name] for window in (*WINDOWS, "after")]
    for name, asked, window in tqdm(jobs, desc="windows", unit="trial"):
        if window == "after":
            latents = apply(unsteered, bundle.sae, moves_of(bundle, {name: asked}, unsteered))
        else:
            steered = replace(base, moves={name: asked}, window=WINDOWS[window])
            latents = generate(steered, model=model, space=space, bundle=bundle, hold=False).latents
        yield window_trial(name, window, asked, before, measure(latents), cycle_error(space, latents, std) / own_cycle)


def lines_of(found: list[WindowTrial]) -> list[str]:
    """Return the table as Markdown."""
    units = {"pitch": "st", "loudness": "dB", "brightness": "oct"}
    header = ["moved", "asked", "steered", "reached", *(f"{name} changed by, {unit}" for name, unit in units.items())]
    header += ["log-mel distance", "recoding error / unsteered"]
    rows = [header, ["---"] * len(header)]
    for trial in found:
        stray = [f"{value:.2f}" for value in trial.stray]
        asked, reached = (f"{value:+.4g} {units[trial.property]}" for value in (trial.asked, trial.reached))
        rows.append([trial.property, asked, trial.window, reached, *stray, f"{trial.distance:.2f}", f"{trial.cycle:.2f}"])
    note = f"{found[0].n_songs} songs; medians over frames, then songs; changed by: without sign, per frame. Units: "
    note += ", ".join(f"{name} {unit}" for name, unit in UNITS.items()) + "."
    return ["| " + " | ".join(row) + " |" for row in rows] + ["", note]


def main() -> None:
    """Run the experiment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="etude-flow", help="generator: étude-flow or a folder")
    parser.add_argument("--bundle", default="checkpoints/etude", help="folder or Hub id (default: the shipped one)")
    parser.add_argument("--songs", type=int, default=12, help="songs per setting (default 12)")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a song (default 3)")
    parser.add_argument("--steps", type=int, default=32, help="points in time (default 32)")
    parser.add_argument("--cfg", type=float, help="strength of guidance (default: the model's own)")
    parser.add_argument("--out", type=Path, default=Path("experiments/results"), help="folder of results")
    options = parser.parse_args()
    model, bundle = load_model(options.model), Bundle.from_pretrained(options.bundle)
    space = space_of(bundle)
    prompts = etude_prompts(options.songs, frames_of(model, options.seconds), space)
    base = Request(
        [prompt.style for prompt in prompts],
        seconds=options.seconds,
        text=torch.stack([prompt.text for prompt in prompts]),
        steps=options.steps,
        guidance=options.cfg,
    )
    found = list(trials(model, bundle, space, base))
    rows = [trial._asdict() for trial in found]
    options.out.mkdir(parents=True, exist_ok=True)
    facts = {"model": model.name, "bundle": options.bundle, "songs": options.songs, "seconds": options.seconds}
    content = json.dumps(plain({**facts, "trials": rows}), indent=1, sort_keys=True) + "\n"
    write_bytes(options.out / "window_steering.json", content.encode())
    write_bytes(options.out / "window_steering.md", ("\n".join(lines_of(found)) + "\n").encode())
    write_bytes(options.out / "window_steering.png", png(window_response(rows)))
    print("\n".join(lines_of(found)))


if __name__ == "__main__":
    main()
