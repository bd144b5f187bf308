"""How much memory long sounds take, in every command and every latent space: ``python -m benchmarks.long_files``.

    python -m benchmarks.long_files                                             the tables of benchmarks/README.md, hours
    python -m benchmarks.long_files --only analyse steer                        2 and 20 minutes through two commands
    python -m benchmarks.long_files --only stable-audio-vae --minutes 0.25 1    a slow model
    python -m benchmarks.long_files --only analyse steer --bundle DIR --source DIR --minutes 2 20

Sounds are seeded chords in noise at 44.1 kHz. Every row is measured in processes of its own, at a short and at a long length:

- peak: the most memory that the process held, weights and imports included, as Linux counts it (ru_maxrss, VmHWM), in MiB;
- slope: how much a further minute of sound adds, in MiB;
- must: of a space, what cannot but grow: sound in, latents and, in decoding, sound out, as float32, in MiB a minute.

Commands run as a shell would run them. Spaces have the public sizes and random weights of ``benchmarks.latent_spaces``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import torch

from benchmarks.latent_spaces import CASES, memory
from sae_audio.latent_spaces import Codec

RATE, BLOCK_SECONDS = 44_100, 10
LONGEST_SONG = 10.24
"""Seconds: all that étude-flow makes."""


class SoundCommand(NamedTuple):
    """A command that takes or makes sound."""

    arguments: str
    """Of python; ``{stereo}``, ``{eight}``, ``{folder}``, ``{seconds}``, ``{out}`` and ``{bundle}`` are filled in."""
    minutes: Callable[[float], float] = lambda minutes: minutes
    """Sound that it works on, for sounds of so many minutes."""


def song(minutes: float) -> float:
    """Return the minutes that a generator makes instead, the longest for 20."""
    return LONGEST_SONG / 60 * min(minutes / 20, 1)


STEER = "-m sae_audio steer {sound} -o {out}/steered.wav --json {out}/steered.json --plot {out}/steered.png {bundle} "
MOVES = "--pitch +2 --loudness -6 --brightness +0.3"
COMMANDS = {
    "analyse": SoundCommand(
        "-m sae_audio analyse {stereo} --json {out}/view.json --plot {out}/view.png --probes {out}/probes.png {bundle}"
    ),
    "steer": SoundCommand(STEER.replace("sound", "stereo") + MOVES),
    "steer-feature": SoundCommand(STEER.replace("sound", "stereo") + "--feature 5=2"),
    "steer-8-channels": SoundCommand(STEER.replace("sound", "eight") + MOVES),
    "eval": SoundCommand("-m sae_audio eval --audio {stereo} --json {out}/eval.json"),
    "train": SoundCommand(
        "train.py --audio {folder} --out {out}/bundle --steps 100 --stability-seeds 0 --control-clips 2", lambda m: 3 * m
    ),
    "generate": SoundCommand("-m sae_audio generate --seconds {seconds} --steer loudness=-6 -o {out}/song.wav", song),
    "trace": SoundCommand("-m sae_audio trace --seconds {seconds} --out {out}/trace", song),
}
"""All that ``sae-audio -h`` lists with sound in it, and ``train.py`` on three such files, one in each split."""


def write_sound(path: Path, minutes: float, channels: int) -> None:
    """Write chords of eight partials in noise, another one every 10 s, each channel at a level of its own."""
    random, time = np.random.default_rng(0), np.arange(RATE * BLOCK_SECONDS) / RATE
    left = round(minutes * 60 * RATE)
    with soundfile.SoundFile(path, "w", RATE, channels, "PCM_16", format="FLAC") as out:
        while left > 0:
            notes = 110 * 2 ** (random.integers(0, 36, size=random.integers(1, 4)) / 12)
            tone = sum(np.sin(2 * np.pi * note * k * time) / k for note in notes for k in range(1, 9))
            noise = random.standard_normal((len(tone), channels))
            block = 0.05 * tone[:, None] * random.uniform(0.3, 1, channels) + 0.003 * noise
            out.write(block[:left])
            left -= len(block)


def sounds(folder: Path, minutes: float, wanted: str) -> dict[str, str]:
    """Write the sounds that a command's arguments name and return what to fill in for each."""
    found = {"seconds": f"{60 * song(minutes):.2f}", "out": str(folder)}
    if "{eight}" in wanted:
        write_sound(folder / "eight.flac", minutes, 8)
    if "{stereo}" in wanted or "{folder}" in wanted:
        write_sound(folder / "stereo.flac", minutes, 2)
    for split in ("train", "validation", "test") if "{folder}" in wanted else ():
        (folder / "music" / split).mkdir(parents=True)
        (folder / "music" / split / "stereo.flac").hardlink_to(folder / "stereo.flac")
    return found | {"stereo": f"{folder}/stereo.flac", "eight": f"{folder}/eight.flac", "folder": f"{folder}/music"}


def run(arguments: list[str], threads: int, output: Path) -> float:
    """Run python with arguments and return the most memory that it held, in MiB."""
    with output.open("w") as out:
        child = subprocess.Popen(
            [sys.executable, *arguments], stdout=out, stderr=out, env={**os.environ, "OMP_NUM_THREADS": str(threads)}
        )
        _, status, used = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{output.read_text()[-2000:]}")
    return used.ru_maxrss / 1024


def command_row(name: str, minutes: list[float], options: argparse.Namespace) -> dict:
    """Measure one command at all lengths."""
    command, peaks = COMMANDS[name], []
    bundle = "".join(f" --{key} {value}" for key in ("bundle", "source") if (value := getattr(options, key)))
    for length in minutes:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            filled = command.arguments.format(**sounds(Path(folder), length, command.arguments), bundle=bundle)
            peaks.append(run(filled.split(), options.threads, Path(folder) / "said.txt"))
    return row(name, [command.minutes(length) for length in minutes], peaks)


def space_rows(name: str, minutes: list[float], options: argparse.Namespace) -> list[dict]:
    """Measure encoding, and decoding where there is any, at all lengths."""
    found = []
    for length in minutes:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            told = Path(folder) / "said.txt"
            run(["-m", "benchmarks.long_files", "--one", name, "--minutes", str(length)], options.threads, told)
            found.append(json.loads(told.read_text().splitlines()[-1]))
    lengths = [one["minutes"] for one in found]
    ways = [way for way in ("encode", "decode") if way in found[0]]
    return [row(f"{name} {way}", lengths, [one[way] for one in found], found[0]["must"][way]) for way in ways]


@torch.inference_mode()
def measure_space(name: str, minutes: float) -> dict:
    """Return the peaks of one space, in MiB, and what must grow, in MiB a minute."""
    space = CASES[name](name).space
    spec = space.spec
    samples = round(minutes * 60 * spec.frame_rate) * spec.hop_length
    audio = 0.1 * torch.randn(1, spec.channels, samples, generator=torch.Generator().manual_seed(0))
    seconds = samples / spec.sample_rate
    sound, frames = (4 * 60 / 2**20 * rate for rate in (spec.sample_rate * spec.channels, spec.frame_rate * spec.d_in))
    found = {"minutes": seconds / 60, "must": {"encode": sound + frames, "decode": 2 * sound + frames}}
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    latents = space.encode(audio)
    found["encode"] = memory("VmHWM")
    if isinstance(space, Codec):
        Path("/proc/self/clear_refs").write_text("5")
        space.decode(latents, like=audio)
        found["decode"] = memory("VmHWM")
    return found


def row(name: str, minutes: list[float], peaks: list[float], must: float | None = None) -> dict:
    """Return one row: peaks, and the slope between the shortest and the longest."""
    slope = (peaks[-1] - peaks[0]) / (minutes[-1] - minutes[0]) if len(minutes) > 1 else None
    return {"name": name, "minutes": minutes, "peak_mib": peaks, "slope_mib": slope, "must_mib": must}


def line(found: dict) -> str:
    """Return a row of the table."""
    pairs = zip(found["minutes"], found["peak_mib"], strict=True)
    peaks = ", ".join(f"{peak:.0f} ({minutes:.3g} min)" for minutes, peak in pairs)
    numbers = ["" if found[key] is None else f"{found[key]:.1f}" for key in ("slope_mib", "must_mib")]
    return f"| {found['name']} | {peaks} | {' | '.join(numbers)} |"


def main() -> None:
    """Parse the command line, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    everything = [*COMMANDS, *CASES]
    parser.add_argument("--only", nargs="+", choices=everything, default=everything, metavar="NAME", help="commands and spaces")
    parser.add_argument("--minutes", type=float, nargs="+", default=[2.0, 20.0], help="lengths, rising (default: 2 20)")
    parser.add_argument("--threads", type=int, default=1, help="threads (default: 1)")
    parser.add_argument("--bundle", metavar="DIR", help="bundle for analyse and steer (default: the shipped one)")
    parser.add_argument("--source", metavar="DIR", help="model of that bundle (default: where it says)")
    parser.add_argument("--folder", help="where sounds and results are kept meanwhile (default: the system's)")
    parser.add_argument("--json", metavar="OUT", help="also write the figures to this file")
    parser.add_argument("--one", choices=CASES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure_space(options.one, *options.minutes)))
        return
    results = []
    print("| what | peak, MiB | slope, MiB/min | must |\n|---|---|--:|--:|")
    for name in options.only:
        rows = space_rows(name, options.minutes, options) if name in CASES else [command_row(name, options.minutes, options)]
        results += rows
        print("\n".join(map(line, rows)), flush=True)
    if options.json:
        load = [round(each, 1) for each in os.getloadavg()]
        Path(options.json).write_text(json.dumps({"load": load, "rows": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
