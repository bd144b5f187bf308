"""What sampling, tracing and reading cost over the bare calls of the network: ``python -m benchmarks.sampling``.

    python -m benchmarks.sampling                                    the table of the README, one minute
    python -m benchmarks.sampling --cpu-clock --threads 1            on a busy machine: processor time instead of wall clock
    python -m benchmarks.sampling --model runs/etude-flow            a model in training

One song of étude-flow, 32 points, guidance on. Columns: seconds, the best of the repeats (which take turns, so that all see the
same machine), and the overhead over the bare calls:

- bare: the network called as often and on as much as the sampler does, and nothing else;
- sample: the Euler loop without a hook;
- x_t: ``trace`` that keeps x_t; bar 5 %;
- probes: ``trace`` that keeps x_t and x̂₁, and applies SAE and all probes to both; bar 15 %;
- steered: ``trace`` that keeps nothing, steered in all of the flow, with the unsteered twin; over twice the bare calls.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch

from sae_audio.bundle import Bundle
from sae_audio.diffrhythm.layers import Context
from sae_audio.diffrhythm.sampler import sample, time_grid
from sae_audio.generation import Request, trace
from sae_audio.generators import Model, frames_of, load_model
from sae_audio.latent_spaces import load_latent_space

BARS = {"x_t": 0.05, "probes": 0.15}
GUIDANCE = 1.0


def bare_calls(model: Model, frames: int, steps: int) -> Callable[[], None]:
    """Return the network's calls of one song, both branches of guidance as one batch."""
    generator = model.generator
    times = time_grid(steps)[:-1]
    x = generator.noise(frames, torch.Generator().manual_seed(0)).expand(2, -1, -1)
    style = torch.cat([generator.style(generator.style_names[0]), generator.null_style])
    nothing = torch.zeros(2, frames, dtype=torch.long)
    context: Context = generator.context(torch.zeros_like(x), torch.zeros(2, frames, dtype=torch.bool), nothing, style)

    @torch.no_grad()
    def run() -> None:
        for t in times:
            generator(x, t.expand(2), context)

    return run


def measure(
    model: Model, bundle: Bundle, seconds: float, steps: int, repeats: int, clock: Callable[[], float]
) -> dict[str, float]:
    """Return the seconds of each work."""
    space = load_latent_space(model.space)
    name = model.generator.style_names[0]
    request = Request(name, seconds=seconds, steps=steps, guidance=GUIDANCE)
    frames, style = frames_of(model, seconds), model.generator.style(name)
    common = {"model": model, "space": space, "listen": None}
    moved = Request(name, seconds=seconds, steps=steps, guidance=GUIDANCE, moves={"loudness": -6})
    works: dict[str, Callable[[], object]] = {
        "bare": bare_calls(model, frames, steps),
        "sample": lambda: sample(model.generator, style, frames=frames, steps=steps, guidance=GUIDANCE, seed=0),
        "x_t": lambda: trace(bundle, request, record=["x_t"], probe=[], **common),
        "probes": lambda: trace(bundle, request, **common),
        "steered": lambda: trace(bundle, moved, record=[], probe=[], **common),
    }
    times: dict[str, list[float]] = {key: [] for key in works}
    for _ in range(repeats + 1):
        for key, work in works.items():
            start = clock()
            work()
            times[key].append(clock() - start)
    return {key: min(values[1:]) for key, values in times.items()}  # the first round warms up


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="etude-flow", help="generator (default: the shipped one)")
    parser.add_argument(
        "--bundle", default=str(Path(__file__).resolve().parent.parent / "checkpoints" / "etude"), help="its folder"
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="length of the song (default 5)")
    parser.add_argument("--steps", type=int, default=32, help="points in time (default 32)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds of which the best counts (default 5)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    parser.add_argument("--cpu-clock", action="store_true", help="processor time instead of wall clock")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    clock = time.process_time if args.cpu_clock else time.perf_counter
    model, bundle = load_model(args.model), Bundle.from_pretrained(args.bundle)
    taken = measure(model, bundle, args.seconds, args.steps, args.repeats, clock)
    over = {key: value / (taken["bare"] * (2 if key == "steered" else 1)) - 1 for key, value in taken.items()}
    if args.json:
        print(json.dumps({"seconds": taken, "overhead": over, "threads": args.threads}, sort_keys=True, indent=2))
        return
    for key, value in taken.items():
        bar = f"   bar {100 * BARS[key]:.0f} %" if key in BARS else ""
        print(f"{key:10}{value:8.3f} s{100 * over[key]:+8.1f} %{bar}")


if __name__ == "__main__":
    main()
