"""How well étude-flow plays what it is asked, and how fast: ``python -m benchmarks.etude_flow``.

    python -m benchmarks.etude_flow                            the table of the README, about five minutes
    python -m benchmarks.etude_flow --model runs/etude-flow    a model in training
    python -m benchmarks.etude_flow --guidance 1 2 4           one table per strength of guidance

Clips of 5 s are generated from the timbres and notes of validation clips of a seed that training never saw, and compared with
what those clips really sound like. All is measured on audio, frames of 20 ms:

- periodic: share of audible frames (above -60 dBFS) to which the package's YIN gives a pitch, chords included.
- notes: share of periodic frames with one note asked for whose f0 is within 50 cents of it; the data's own share is the ceiling,
  since the corpus detunes clips by up to 15 cents and plays vibrato.
- sounding: share of all frames with one note asked for that are periodic and within 50 cents of it.
- loudness, centroid: Wasserstein distance in dB and octaves to the audible frames of another, independent set of real clips. The
  bar is twice the distance of half of the first set's real clips.
- "data, coded" is the data through the codec: what a perfect generator would sound like.
- 5 s: seconds to generate and decode one clip with 32 points and guidance, best of three, on --threads cores.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from scipy.stats import wasserstein_distance
from torch import Tensor

from sae_audio.descriptors import describe
from sae_audio.diffrhythm.checkpoint import load_generator
from sae_audio.diffrhythm.generator import Generator
from sae_audio.diffrhythm.sampler import sample
from sae_audio.etude.corpus import Clip, corpus
from sae_audio.etude.flow_data import N_PITCHES, note_tokens, style_names
from sae_audio.latent_spaces.etude import EtudeCodec
from sae_audio.units import midi_to_hz, to_db

ROOT = Path(__file__).resolve().parent.parent
RATE, HOP, FRAMES = 16_000, 320, 250
ASKED, OTHER = 101, 202
"""Corpus seeds: of the clips whose notes and timbres are asked for, and of the independent clips."""
BARS = {"periodic": "within 10 % of the data's", "notes": 0.70, "5 s": 3.0}


def clips(count: int, seed: int) -> list[Clip]:
    """Return validation clips: timbres of the training clips, scores of their own."""
    return list(corpus(count / 6 / 0.15 + 0.1, seed, "both", split="validation"))[:count]


def audio_of(chosen: list[Clip]) -> Tensor:
    """Return the first 5 s of clips, ``[clips, 1, N]``."""
    return torch.stack([torch.from_numpy(clip.render()[: FRAMES * HOP])[None] for clip in chosen])


def frames_of(audio: Tensor) -> dict[str, Tensor]:
    """Return f0 in Hz, loudness in dBFS and log2 centroid of each frame, ``[clips, T]``, and which frames are audible."""
    found = [describe(clip[None], RATE, HOP) for clip in audio]
    f0, rms, centroid = (torch.cat([getattr(one, name) for one in found]) for name in ("f0", "rms", "centroid"))
    return {"f0": f0, "loudness": to_db(rms), "centroid": centroid.clamp(min=1).log2(), "heard": to_db(rms) > -60}


def wasserstein(a: dict[str, Tensor], b: dict[str, Tensor], name: str) -> float:
    """Return the distance between two sets' audible frames."""
    return float(wasserstein_distance(a[name][a["heard"]].numpy(), b[name][b["heard"]].numpy()))


def line(frames: dict[str, Tensor], notes: Tensor, other: dict[str, Tensor]) -> dict[str, float]:
    """Return one line of the table."""
    periodic = frames["heard"] & ~frames["f0"].isnan()
    single = (notes > 0) & (notes <= N_PITCHES)
    right = single & periodic & (1200 * (frames["f0"] / midi_to_hz(notes - 1.0)).log2().abs() <= 50)
    return {
        "periodic": float(periodic.sum() / frames["heard"].sum()),
        "notes": float(right.sum() / (single & periodic).sum()),
        "sounding": float(right.sum() / single.sum()),
        "loudness": wasserstein(frames, other, "loudness"),
        "centroid": wasserstein(frames, other, "centroid"),
    }


def generate(model: Generator, styles: Tensor, notes: Tensor, guidance: float, steps: int, batch: int = 8) -> Tensor:
    """Return latents ``[clips, T, 64]``; clip i has seed i."""
    done = []
    for first in range(0, len(notes), batch):
        part = slice(first, first + batch)
        done.append(
            sample(
                model,
                model.styles(styles[part]),
                frames=FRAMES,
                null_style=model.null_style,
                text=notes[part],
                steps=steps,
                guidance=guidance,
                seed=list(range(first, min(first + batch, len(notes)))),
            )
        )
    return torch.cat(done)


def measure(model: Generator, codec: EtudeCodec, count: int, guidances: list[float], steps: int) -> dict[str, dict]:
    """Return the table, line by line."""
    asked = clips(count, ASKED)
    notes = torch.stack([torch.from_numpy(note_tokens(clip.score, FRAMES)) for clip in asked]).long()
    styles = torch.tensor([style_names().index(clip.timbre) for clip in asked])
    audio, other = audio_of(asked), frames_of(audio_of(clips(count, OTHER)))
    data = frames_of(audio)
    half = {name: values[: count // 2] for name, values in data.items()}
    table = {
        "data": line(data, notes, other),
        "data, half of it": line(half, notes[: count // 2], other),
        "data, coded": line(frames_of(through(codec, codec.encode(audio))), notes, other),
    }
    for guidance in guidances:
        latents = generate(model, styles, notes, guidance, steps)
        table[f"generated, guidance {guidance:g}"] = line(frames_of(through(codec, latents)), notes, other)
    return table


def through(codec: EtudeCodec, latents: Tensor) -> Tensor:
    """Decode clip by clip, in bounded memory."""
    return torch.cat([codec.decode(one[None]) for one in latents])


def verdict(table: dict[str, dict], name: str) -> dict[str, bool]:
    """Return which bars a generated line passes."""
    found, data, half = table[name], table["data"], table["data, half of it"]
    return {
        "periodic": abs(found["periodic"] - data["periodic"]) <= 0.1 * data["periodic"],
        "notes": found["notes"] >= BARS["notes"],
        **{key: found[key] < 2 * half[key] for key in ("loudness", "centroid")},
    }


def seconds(model: Generator, codec: EtudeCodec, guidance: float, steps: int) -> float:
    """Return the seconds that one clip of 5 s takes, best of three."""
    notes, styles, best = torch.full((1, FRAMES), 61), torch.zeros(1, dtype=torch.long), float("inf")
    for _ in range(3):
        began = time.perf_counter()
        codec.decode(generate(model, styles, notes, guidance, steps))
        best = min(best, time.perf_counter() - began)
    return best


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "checkpoints" / "etude-flow", help="folder of the generator")
    parser.add_argument("--codec", type=Path, default=ROOT / "checkpoints" / "etude-codec", help="folder of the codec")
    parser.add_argument("--clips", type=int, default=96, help="clips of 5 s per line of the table")
    parser.add_argument("--guidance", type=float, nargs="+", default=[0.5], help="strengths of guidance to compare")
    parser.add_argument("--steps", type=int, default=32, help="points in time")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU cores to use")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model, codec = load_generator(args.model), EtudeCodec.load(args.codec)
    table = measure(model, codec, args.clips, args.guidance, args.steps)
    table = {name: values | ({"bars": verdict(table, name)} if "generated" in name else {}) for name, values in table.items()}
    took = seconds(model, codec, max(args.guidance), args.steps)
    columns = ["periodic", "notes", "sounding", "loudness", "centroid"]
    print(f"{'':28}" + "".join(f"{name:>10}" for name in columns))
    for name, values in table.items():
        missed = [key for key, passed in values.get("bars", {}).items() if not passed]
        print(
            f"{name:28}" + "".join(f"{values[c]:10.3f}" for c in columns) + (f"   misses {', '.join(missed)}" if missed else "")
        )
    print(f"5 s of music in {took:.2f} s on {args.threads} threads (bar {BARS['5 s']:.0f} s)")
    if args.json:
        args.json.write_text(json.dumps({"table": table, "seconds": took}, indent=2, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
