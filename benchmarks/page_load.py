"""Many visitors of the page at once, through its API: ``python -m benchmarks.page_load``; needs gradio and gradio_client.

    python -m benchmarks.page_load --users 32 --seconds 300          results/page_load.md as it is
    python -m benchmarks.page_load                                   16 users for two minutes
    python -m benchmarks.page_load --users 4 --seconds 20 --out ""   a short one, printed only

Every user has a sine, features and a seed of their own, and goes round, each from another place: analyse the sound and hear a
feature in it; steer it; look a feature up in the atlas and save settings; generate a short song and hear it. Every answer is
checked to be about the caller's own sound, feature and seed; sounds are compared sample by sample with what the same user sent or
got before. The server's memory (proportional set size of the app and its children) is read every second; it counts as flat where
its median at the end is at most 10 % above that after warm-up, a quarter to a third of the time.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import urllib.request
from collections import defaultdict
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

RATE, SECONDS = 16_000, 3
LOWEST = 57
"""MIDI note of the first user's sine; each next user's is a semitone higher."""
STYLES = ("grand piano", "celesta", "marimba", "reed organ")
STEPS = 8
PATIENCE = 60
"""Seconds that a request may take; clients and server share the machine here."""
FLAT = 0.10
ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "page_load.md"


class Mixed(AssertionError):
    """An answer is not about the caller's own sound, feature or song."""


class Server(NamedTuple):
    """A running page."""

    process: subprocess.Popen
    url: str
    files: Path
    """Where Gradio keeps files."""
    log: Path


def start(home: Path) -> Server:
    """Start ``python app.py`` on a free port of loopback, without a network."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    own = {"GRADIO_SERVER_PORT": str(port), "GRADIO_TEMP_DIR": str(home / "files"), "GRADIO_ANALYTICS_ENABLED": "False"}
    own |= {"HF_HUB_OFFLINE": "1", "GRADIO_SSR_MODE": "False"}
    with open(home / "log", "w") as log:
        process = subprocess.Popen([sys.executable, "app.py"], cwd=ROOT, env=os.environ | own, stdout=log, stderr=log)
    return Server(process, f"http://127.0.0.1:{port}/", home / "files", home / "log")


def answers(server: Server, within: float = 120) -> None:
    """Wait until the page answers."""
    end = time.monotonic() + within
    while time.monotonic() < end and server.process.poll() is None:
        with suppress(OSError), urllib.request.urlopen(server.url, timeout=5):
            return
        time.sleep(0.05)
    raise RuntimeError(f"the page did not start; it said:\n{server.log.read_text()}")


def memory(process: subprocess.Popen) -> float:
    """Return the memory of a process and its children in MiB; pages that are shared count once."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    total = 0
    for pid in (process.pid, *children):
        with suppress(OSError):
            total += int(
                next(x for x in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines() if x.startswith("Pss:")).split()[1]
            )
    return total / 1024


def cpu_seconds(process: subprocess.Popen) -> float:
    """Return the processor time that a process has used."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class User:
    """One visitor, with what is theirs: number, pitch, sound, feature, seed."""

    def __init__(self, number: int, url: str, folder: Path, took: dict[str, list[float]]):
        from gradio_client import Client, handle_file

        self.number, self.name, self.seed = number, f"user {number:02d}", 100 + number
        self.style, self.hertz = STYLES[number % len(STYLES)], 440 * 2 ** ((LOWEST + number - 69) / 12)
        self.random, self.took, self.songs = random.Random(number), took, {}
        wave = 0.3 * np.sin(2 * np.pi * self.hertz / RATE * np.arange(RATE * SECONDS))
        self.samples = (wave * 2**15).round().astype(np.int16)
        folder.mkdir()
        soundfile.write(folder / f"{self.name}.wav", self.samples, RATE)
        self.file = handle_file(folder / f"{self.name}.wav")
        begin = time.perf_counter()
        own = {"verbose": False, "analytics_enabled": False, "download_files": str(folder)}
        self.client = Client(url, httpx_kwargs={"timeout": PATIENCE}, **own)
        took["open the page"].append(time.perf_counter() - begin)

    def close(self) -> None:
        """Leave the page."""
        self.client.close()

    def call(self, name: str, *args, **kwargs):
        """Call an event, and note how long the visitor waited, their turn in the queue included."""
        begin = time.perf_counter()
        result = self.client.predict(*args, **kwargs, api_name=name)
        self.took[name].append(time.perf_counter() - begin)
        return result

    def own(self, what: str, got, expected) -> None:
        """Check that an answer is about what is the user's own."""
        if got != expected:
            raise Mixed(f"{self.name}: {what} is {got!r}, and has to be {expected!r}")

    def rounds(self, over: float) -> int:
        """Do everything in turn until it is ``over``; return how many parts of a round were done."""
        parts = [self.steer, self.atlas, self.generate, self.explore]
        begun, turn = 0, self.number
        self.explore()
        while time.monotonic() < over:
            parts[turn % len(parts)]()
            begun, turn = begun + 1, turn + 1
        return begun

    def explore(self) -> None:
        """Analyse the own sound, choose one of its features, hear the sound without it."""
        title, shown, table, *_ = self.call("/analyse", self.file)
        self.own("title", title, f"## {self.name}")
        samples = soundfile.read(io.BytesIO(base64.b64decode(shown["value"]["sound"]["wav"])), dtype="int16")[0]
        self.own("sound equals the one sent", np.array_equal(samples, self.samples), True)
        feature = self.random.choice(table["rows"])[0]
        self.call("/choose_feature", feature)
        self.own("card", self.call("/feature")[0]["feature"], feature)
        tracks, said = self.call("/hear_feature", feature, "remove")
        self.own("what is heard", said.startswith(f"**Without feature {feature}**"), True)
        self.own("its length", self._length(tracks["props"]["tracks"][0]["wav"]), len(self.samples))

    def _length(self, wav: str) -> int:
        return soundfile.info(io.BytesIO(base64.b64decode(wav))).frames

    def steer(self) -> None:
        """Make the own sound quieter, and find the own pitch in what was measured and in the file."""
        view, wav, *_ = self.call("/steer", loudness=-6, hold=False)
        rows = {row["property"]: row for row in view["measured"]}
        self.own("steered sound", view["name"], self.name)
        self.own("pitch within 1 %", abs(rows["pitch"]["source"] / self.hertz - 1) < 0.01, True)
        self.own("length of the file", soundfile.info(wav).frames, len(self.samples))

    def atlas(self) -> None:
        """Look a feature up; what is saved names the own sound and that feature."""
        number = self.random.randrange(1024)
        self.own("card of the atlas", self.call("/atlas_feature", number)["feature"], number)
        self.call("/atlas_find", text=str(number))
        settings = json.loads(Path(self.call("/export_settings")).read_text())
        self.own("settings", (settings["sound"], settings["feature"]), (self.name, number))

    def generate(self) -> None:
        """Generate a second of music with the own seed, and hear it: the same samples each time."""
        view = self.call("/generate", "étude-flow, here", self.style, "", "", 1, STEPS, 0.0, self.seed)
        self.own("song", view["title"], f"{self.style.capitalize()}, seed {self.seed}")
        samples = soundfile.read(self.call("/generate_hear", "song", STEPS - 1))[0]
        first = self.songs.setdefault("song", samples)
        self.own("song equals the one before", samples.shape == first.shape and np.abs(samples - first).max() < 1e-2, True)


def load(users: int, seconds: float) -> dict:
    """Run so many users for so long; return what was found, JSON-ready."""
    with tempfile.TemporaryDirectory(prefix="page-load-") as temporary:
        home = Path(temporary)
        server = start(home)
        try:
            answers(server)
            return _loaded(server, home, users, seconds)
        finally:
            server.process.terminate()
            server.process.wait(20)


def _loaded(server: Server, home: Path, users: int, seconds: float) -> dict:
    took, failed, parts, sampled = defaultdict(list), [], [], []
    begin = time.monotonic()
    before = cpu_seconds(server.process)
    left = threading.Barrier(users + 1)

    def visit(number: int) -> None:
        try:
            with closing(User(number, server.url, home / f"user-{number}", took)) as user:
                parts.append(user.rounds(begin + seconds))
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)
            event = next((frame.name for frame in reversed(where) if frame.filename == __file__), "")
            failed.append((type(error).__name__, f"in {event}: " + " ".join(str(error).split())[:200]))
        left.wait()

    for number in range(users):
        threading.Thread(target=visit, args=[number], daemon=True).start()
    watching = threading.Thread(target=left.wait, daemon=True)
    watching.start()
    while watching.is_alive():
        sampled.append((time.monotonic() - begin, memory(server.process)))
        watching.join(1)
    lasted = time.monotonic() - begin
    used = cpu_seconds(server.process) - before
    visitors = list((server.files / "visitors").glob("*"))
    for _ in range(60):
        if not visitors:
            break
        time.sleep(0.5)
        visitors = list((server.files / "visitors").glob("*"))
    return {
        "users": users,
        "seconds": round(lasted),
        "parts": [min(parts, default=0), max(parts, default=0)],
        "events": sum(map(len, took.values())),
        "failed": failed,
        "mixed": sum(kind == Mixed.__name__ for kind, _ in failed),
        "cpu": round(used),
        "busy": os.getloadavg()[0],
        "cores": len(os.sched_getaffinity(0)),
        "memory": _memory_of(sampled, lasted),
        "folders_left": len(visitors),
        "logged": sum("Traceback" in line for line in server.log.read_text().splitlines()),
        "took": {name: _quantiles(values) for name, values in took.items()},
    }


def _memory_of(sampled: list[tuple[float, float]], lasted: float) -> dict[str, float]:
    """Median MiB of tenths of the time: after warm-up and at the end; and the largest."""
    part = lambda low, high: [mib for at, mib in sampled if low * lasted <= at <= high * lasted]  # noqa: E731
    return {
        "start": round(sampled[0][1]),
        "warm": round(float(np.median(part(0.25, 0.35)))),
        "end": round(float(np.median(part(0.9, 1)))),
        "most": round(max(mib for _, mib in sampled)),
    }


def _quantiles(values: list[float]) -> dict[str, float]:
    p50, p95 = np.quantile(values, [0.5, 0.95])
    return {"n": len(values), "p50": round(float(p50), 2), "p95": round(float(p95), 2), "most": round(max(values), 2)}


def markdown(found: dict) -> str:
    """Return the findings as the file of results."""
    memory, flat = found["memory"], found["memory"]["end"] / found["memory"]["warm"] - 1
    lines = [
        "# The page under load",
        "",
        f"`python -m benchmarks.page_load --users {found['users']}`: {found['users']} users of `gradio_client` at once for "
        f"{found['seconds']} s on loopback, {found['cores']} cores (load average {found['busy']:.1f}, clients included). "
        f"{found['events']} calls, {found['cpu']} s of the server's processor time.",
        "",
        f"- Errors: {len(found['failed'])}. Answers about another user's sound, feature or song: {found['mixed']}. "
        f"Each user did {found['parts'][0]} to {found['parts'][1]} parts of a round after the first. "
        f"Tracebacks in the server's log: {found['logged']}.",
        f"- Memory of the server: {memory['warm']} MiB after warm-up, {memory['end']} MiB at the end ({100 * flat:+.1f} %), "
        f"at most {memory['most']} MiB, {memory['start']} MiB before the first user.",
        f"- Visitors' folders left when all had gone: {found['folders_left']}.",
        "",
        "Seconds that a user waited, their turn in the queue included; two events that run a model run at once. "
        f"A request may take {PATIENCE} s; the client's default is too short for so many on two busy cores.",
        "",
        "| event | calls | p50 | p95 | longest |",
        "|---|---|---|---|---|",
    ]
    lines += [f"| {name} | {q['n']} | {q['p50']:.2f} | {q['p95']:.2f} | {q['most']:.2f} |" for name, q in found["took"].items()]
    lines += ["", *(f"- {kind}: {text}" for kind, text in found["failed"])] if found["failed"] else []
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the benchmark, print its table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=16, help="visitors at once (default 16)")
    parser.add_argument("--seconds", type=float, default=120, help="how long (default 120)")
    parser.add_argument("--out", default=str(RESULTS), help="file of results; empty: none")
    parser.add_argument("--json", help="write the figures here")
    asked = parser.parse_args()
    found = load(asked.users, asked.seconds)
    print(markdown(found))
    if asked.out:
        Path(asked.out).parent.mkdir(exist_ok=True)
        Path(asked.out).write_text(markdown(found), encoding="utf-8")
    if asked.json:
        Path(asked.json).write_text(json.dumps(found, indent=2))
    flat = found["memory"]["end"] <= (1 + FLAT) * found["memory"]["warm"]
    sys.exit(0 if flat and not found["failed"] else 1)


if __name__ == "__main__":
    main()
