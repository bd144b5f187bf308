"""How fast recordings become latents and descriptors on disk: ``python -m benchmarks.extraction``.

    python -m benchmarks.extraction                                  the table of the README, a few minutes
    python -m benchmarks.extraction --seconds 40 --repeats 1 --json  a quick look, machine readable

Recordings are 10 s of 44.1 kHz stereo WAV, so reading and resampling count. Columns, each the best of the repeats, in seconds of
audio per second of wall clock:

- own encode: the bare model on audio already in memory, one recording at a time;
- encode: ``LatentSpace.encode`` on the same audio;
- describe: f0, RMS and spectral centroid together;
- extract: everything, from the files to the finished store;
- overhead: time of extract over that of the own encode, minus one. The bar for EnCodec is 15 %.

On a busy machine ``--cpu-clock --threads 1`` counts processor time instead of wall clock.

EnCodec has the public 24 kHz sizes and random weights, which do not change the speed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from sae_audio.activations import audio_sources, extract
from sae_audio.audio import read, write
from sae_audio.descriptors import describe
from sae_audio.fitting import mixdown
from sae_audio.latent_spaces import LatentSpace, load_latent_space

RATE, CLIP_SECONDS = 44_100, 10
OVERHEAD_BAR = 0.15


def write_recordings(folder: Path, seconds: int) -> None:
    """Write tones with vibrato and noise, 10 s each."""
    generator = torch.Generator().manual_seed(0)
    t = torch.arange(RATE * CLIP_SECONDS) / RATE
    for i in range(seconds // CLIP_SECONDS):
        f0 = 110 * 2 ** (i % 24 / 12)
        phase = 2 * torch.pi * f0 * t + 0.3 * torch.sin(2 * torch.pi * 5 * t)
        tone = sum(torch.sin(k * phase) / k for k in range(1, 9))
        write(folder / f"{i:03d}.wav", 0.1 * tone + 0.003 * torch.randn(2, len(t), generator=generator), RATE)


def public_encodec(folder: Path) -> Path:
    """Save an EnCodec of the public 24 kHz sizes with random weights."""
    from transformers import EncodecConfig, EncodecModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    EncodecModel(EncodecConfig()).save_pretrained(folder)
    return folder


def own_encode(space: LatentSpace) -> Callable[[Tensor], Tensor]:
    """Return the model's own encoder, without anything of ours around it."""
    if space.spec.name == "etude-codec":
        return lambda audio: space.model.encode(audio[:, 0])
    return space.model.encoder


def best(repeats: int, clock: Callable[[], float], works: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Return the shortest time of some runs of each work, in seconds; they take turns, so that all see the same machine."""
    times = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            start = clock()
            work()
            times[name].append(clock() - start)
    return {name: min(values) for name, values in times.items()}


@torch.inference_mode()
def measure(space: LatentSpace, folder: Path, repeats: int, clock: Callable[[], float]) -> dict[str, float]:
    """Return the columns of the table for one space."""
    spec = space.spec
    clips = [mixdown(read(source.path), spec) for source in audio_sources(folder)]
    encoder, seconds = own_encode(space), len(clips) * CLIP_SECONDS

    def into_a_new_store() -> None:
        with tempfile.TemporaryDirectory() as out:
            extract(space, audio_sources(folder), out, progress=False)

    space.encode(clips[0])  # warm up
    works = {
        "own encode": lambda: [encoder(clip) for clip in clips],
        "encode": lambda: [space.encode(clip) for clip in clips],
        "describe": lambda: [describe(clip, spec.sample_rate, spec.hop_length) for clip in clips],
        "extract": into_a_new_store,
    }
    taken = best(repeats, clock, works)
    speeds = {name: seconds / each for name, each in taken.items()}
    return {**speeds, "overhead": taken["extract"] / taken["own encode"] - 1}


def main() -> None:
    """Measure both spaces and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=120, help="audio in all, a multiple of 10 (default 120)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of which the best counts (default 3)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    parser.add_argument("--space", choices=["etude-codec", "encodec-24khz"], help="only this one")
    parser.add_argument("--cpu-clock", action="store_true", help="processor time instead of wall clock")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    clock = time.process_time if args.cpu_clock else time.perf_counter
    with tempfile.TemporaryDirectory() as audio, tempfile.TemporaryDirectory() as weights:
        write_recordings(Path(audio), args.seconds)
        rows = {}
        for name in [args.space] if args.space else ["etude-codec", "encodec-24khz"]:
            source = public_encodec(Path(weights)) if name.startswith("encodec") else None
            rows[name] = measure(load_latent_space(name, source=source), Path(audio), args.repeats, clock)
    if args.json:
        print(json.dumps({"seconds": args.seconds, "threads": args.threads, "spaces": rows}, sort_keys=True, indent=2))
        return
    print("x real time      own encode   encode   describe   extract   overhead")
    for name, row in rows.items():
        speeds = f"{row['own encode']:10.1f} {row['encode']:8.1f} {row['describe']:10.1f} {row['extract']:9.1f}"
        print(f"{name:14} {speeds:>42} {100 * row['overhead']:9.1f} %")
    if "encodec-24khz" in rows:
        print(f"bar: EnCodec's overhead at most {100 * OVERHEAD_BAR:.0f} %")


if __name__ == "__main__":
    main()
