"""What people wait for: ``python -m benchmarks.waiting``, each thing from a fresh process on, wall clock and processor time.

    python -m benchmarks.waiting                 import, help, analyse, steer, generate: results/waiting.md
    python -m benchmarks.waiting --train         `python train.py` as well, in a folder of its own (minutes)

Cold is what the command line does: interpreter, imports, bundle and all. Warm is the same call again in one process, as in a
notebook. The best of the repeats is printed; the wall clock says something on an idle machine only, so the load goes with it.
How soon the page is there is `benchmarks.page_start`'s to say.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from sae_audio.files import write_bytes

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "waiting.md"
RATE, SECONDS = 16_000, 10
CALLS = {"analyse": "analyse(bundle, '{song}', space=space)", "steer": "steer(bundle, '{song}', {{'pitch': 5.0}}, space=space)"}
WARM = """
import time
from sae_audio import Bundle, analyse, steer, load_latent_space
bundle = Bundle.from_pretrained("checkpoints/etude")
space = load_latent_space("etude-codec")
{call}
best = []
for _ in range(5):
    begin = time.perf_counter(), time.process_time()
    {call}
    best.append((time.perf_counter() - begin[0], time.process_time() - begin[1]))
print(*map(min, zip(*best)))
"""


class Row(NamedTuple):
    """One thing waited for."""

    what: str
    bar: str
    wall: float
    cpu: float


def cold(words: list[str], repeats: int) -> tuple[float, float]:
    """Run a command; return the least seconds of wall clock and of processor time."""
    found = []
    for _ in range(repeats):
        before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run([sys.executable, *words], cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wall, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
        found.append((wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime))
    return min(wall for wall, _ in found), min(cpu for _, cpu in found)


def warm(call: str) -> tuple[float, float]:
    """Return the least seconds of a call in one process, after a first one."""
    done = subprocess.run([sys.executable, "-c", WARM.format(call=call)], cwd=ROOT, check=True, capture_output=True, text=True)
    wall, cpu = map(float, done.stdout.split())
    return wall, cpu


def rows(folder: Path, repeats: int, train: bool) -> list[Row]:
    """Measure everything; ``folder`` takes what the commands write."""
    song, t = folder / "song.wav", np.arange(SECONDS * RATE) / RATE
    f0 = 220 * 2 ** (np.floor(2 * t) % 12 / 12)
    soundfile.write(song, 0.1 * sum(np.sin(k * 2 * np.pi * np.cumsum(f0) / RATE) / k for k in range(1, 8)), RATE)
    command, out = ["-m", "sae_audio"], ["-o", str(folder / "out.wav")]
    torch, ours = cold(["-c", "import torch"], repeats), cold(["-c", "import torch, sae_audio"], repeats)
    names = cold(["-c", "import torch; from sae_audio import Bundle, analyse, steer"], repeats)
    found = [
        Row("`import torch`", "", *torch),
        Row("`import sae_audio`, beyond torch's own", "0.3 s", *np.subtract(ours, torch)),
        Row("`from sae_audio import Bundle, analyse, steer`, beyond torch's own", "", *np.subtract(names, torch)),
        Row("`sae-audio -h`", "", *cold([*command, "-h"], repeats)),
        Row("`sae-audio analyse`, 10 s of sound, cold", "6 s", *cold([*command, "analyse", str(song)], repeats)),
        Row("`analyse`, 10 s, warm", "1 s", *warm(CALLS["analyse"].format(song=song))),
        Row("`sae-audio steer`, 10 s, cold", "", *cold([*command, "steer", str(song), "--pitch", "+5", *out], repeats)),
        Row("`steer`, 10 s, warm", "", *warm(CALLS["steer"].format(song=song))),
        Row("`sae-audio generate`, 5 s, cold", "", *cold([*command, "generate", *out], repeats)),
    ]
    if train:
        found.append(Row("`python train.py`", "180 s", *cold(["train.py", "--out", str(folder / "bundle")], 1)))
    return found


def page(found: list[Row]) -> str:
    """Return the table as Markdown."""
    machine = f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}"
    lines = [f"| {row.what} | {row.wall:.2f} s | {row.cpu:.2f} s | {row.bar} |" for row in found]
    head = ["# What people wait for", "", f"`python -m benchmarks.waiting`, {machine}.", ""]
    return "\n".join([*head, "| what | wall clock | processor | bar |", "|---|---|---|---|", *lines, ""])


def main() -> None:
    """Print the table and keep it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="rounds of which the best counts (default 3)")
    parser.add_argument("--train", action="store_true", help="`python train.py` too")
    parser.add_argument("--out", default=str(RESULTS), help="where the table goes; '' prints it only")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = rows(Path(folder), options.repeats, options.train)
    print(text := page(found))
    if options.out:
        write_bytes(options.out, text.encode())


if __name__ == "__main__":
    main()
