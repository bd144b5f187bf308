"""One full training step of a TopK SAE, ours against sae-lens, dictionary-learning, sparsify and overcomplete.

    python -m benchmarks.sae_training                    # every case; about 15 minutes on 2 quiet cores, and the first time
                                                         # some minutes to build an environment per library (1.5 GB of cache)
    python -m benchmarks.sae_training --quick            # two rounds of one case: does it run?
    python -m benchmarks.sae_training --peers eai-sparsify --cases 64/2048 --json result.json

Each implementation has a process and an environment of its own (it sees this interpreter's torch through a .pth file), because
one library's imports change how another runs. Processes take turns, round by round, in an order that is reversed each round; the
ratio is taken within a round, so that load hits all alike; by processor time (of all cores) it hardly depends on load. FVU is on
held-out frames after equal steps. Cases:

    64/2048, 128/8192                 default allocator
    .../keep                          MALLOC_MMAP_MAX_=0: glibc keeps large blocks, which spares dense loops their page faults
    .../offset                        a mean offset of three times the spread and few true features: features die, AuxK runs
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import torch

REQUIREMENTS = {
    "sae-lens": ["sae-lens==6.54.12"],
    "dictionary-learning": ["dictionary-learning==0.1.0"],
    "eai-sparsify": ["eai-sparsify==1.3.3"],
    "overcomplete": ["overcomplete==0.3.0", "matplotlib<3.9"],  # its import fails with newer matplotlib
}
OURS = "sae_audio"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "sae-audio-bench"
KEEP_BLOCKS = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000"}
SHAPES = {"64/2048": {"d_in": 64, "d_sae": 2048}, "128/8192": {"d_in": 128, "d_sae": 8192}}
CASES = [f"{shape}{kind}" for kind in ("", "/keep", "/offset") for shape in SHAPES]


def main() -> None:
    """Run the cases asked for and print a table each."""
    arguments = parse()
    pythons = {OURS: sys.executable} | {name: environment(name) for name in arguments.peers}
    results = {}
    for name in arguments.cases:
        results[name] = run_case(name, pythons, arguments)
        print_case(name, results[name])
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2, sort_keys=True) + "\n")


def parse() -> argparse.Namespace:
    """Return the command line's settings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--peers", nargs="*", default=list(REQUIREMENTS), choices=list(REQUIREMENTS), help="libraries to compare with"
    )
    parser.add_argument("--cases", nargs="+", default=CASES, choices=CASES, help="sizes of the SAE")
    parser.add_argument("--rounds", type=int, default=9, help="rounds per case")
    parser.add_argument("--steps", type=int, default=10, help="steps per round")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    parser.add_argument("--quick", action="store_true", help="two rounds of two steps of the first case")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.steps, arguments.cases = 2, 2, arguments.cases[:1]
    return arguments


def environment(name: str) -> str:
    """Return the Python of a library's own environment, built on first use."""
    folder = CACHE / name
    python = str(folder / "bin" / "python")
    if (folder / "ready").exists():
        return python
    print(f"building the environment of {name} in {folder}", flush=True)
    venv.create(folder, with_pip=True, clear=True)
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], capture_output=True, text=True, check=True
    )
    (Path(site.stdout.strip()) / "torch_of_the_caller.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (folder / "constraints.txt").write_text(f"torch=={torch.__version__.split('+')[0]}\n")
    pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-c", folder / "constraints.txt"]
    subprocess.run([*pip, *REQUIREMENTS[name]], check=True)
    (folder / "ready").touch()
    return python


def case_settings(name: str, threads: int) -> dict:
    """Return what the workers need to know about a case."""
    shape, offset = SHAPES["/".join(name.split("/")[:2])], name.endswith("/offset")
    settings = {"k": 32, "batch": 4096, "batches": 17, "lr": 1e-3, "threads": threads}
    settings |= {"offset": 3.0 if offset else 0.0, "true": 64 if offset else shape["d_sae"] // 2}
    return shape | settings | {"dead_after": 10 * 4096 if offset else 10**7}


class Worker:
    """A process that trains one implementation on demand."""

    def __init__(self, name: str, python: str, case: dict, extra: dict[str, str]) -> None:
        script = Path(__file__).with_name("sae_peers.py")
        variables = {
            "OMP_NUM_THREADS": str(case["threads"]),
            "OMP_WAIT_POLICY": "PASSIVE",
            "WANDB_MODE": "disabled",
            "SPARSIFY_DISABLE_TRITON": "1",
        }
        paths = {"PYTHONPATH": str(script.parent.parent)} if name == OURS else {}
        self.process = subprocess.Popen(
            [python, "-W", "ignore", script, name, json.dumps(case)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | variables | paths | extra,
        )
        self.name = name
        self.answer()

    def ask(self, what: object) -> dict:
        """Send one line and return the answer."""
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()
        return self.answer()

    def answer(self) -> dict:
        """Return the next answer; a worker that died is an error."""
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(
                f"{self.name} stopped with code {self.process.wait()}; run its line of sae_peers.py by hand to see why"
            )
        return json.loads(line)

    def stop(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait()


def run_case(name: str, pythons: dict[str, str], arguments: argparse.Namespace) -> dict:
    """Return, per implementation, seconds and processor time per step of every round, and its fvu, l0 and idle features."""
    case = case_settings(name, arguments.threads)
    workers = [Worker(peer, python, case, KEEP_BLOCKS if name.endswith("/keep") else {}) for peer, python in pythons.items()]
    rounds: dict[str, list[dict]] = {worker.name: [] for worker in workers}
    for worker in workers:
        worker.ask(2)
    for number in range(arguments.rounds):
        for worker in workers if number % 2 == 0 else workers[::-1]:
            rounds[worker.name].append(worker.ask(arguments.steps))
    times = {
        name: {kind: [answer[kind] / arguments.steps for answer in answers] for kind in ("seconds", "processor")}
        for name, answers in rounds.items()
    }
    result = {worker.name: times[worker.name] | worker.ask("fvu") for worker in workers}
    for worker in workers:
        worker.stop()
    return result


def print_case(name: str, result: dict) -> None:
    """Print a Markdown table, and ours against the fastest peer: the median over rounds of the ratio within a round."""
    rounds = len(result[OURS]["seconds"])
    print(f"\n### {name}: k 32, batch 4096, {rounds} rounds\n")
    print("| | best ms/step | median ms/step | best core-ms/step | activations/s | ours is × faster | fvu | l0 | idle features |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    for peer, row in sorted(result.items(), key=lambda item: min(item[1]["seconds"])):
        best, middle, busy = min(row["seconds"]), statistics.median(row["seconds"]), min(row["processor"])
        speed = f"| {peer} | {best * 1e3:.1f} | {middle * 1e3:.1f} | {busy * 1e3:.1f} | {4096 / best:,.0f}"
        ratio = times_faster(result, [row], "seconds")
        print(f"{speed} | {ratio:.2f} | {row['fvu']:.3f} | {row['l0']:.1f} | {row['idle']:.1%} |", flush=True)
    if peers := [row for peer, row in result.items() if peer != OURS]:
        wall, busy = (times_faster(result, peers, kind) for kind in ("seconds", "processor"))
        print(f"\nours is {wall:.2f} × the fastest peer of each round (median), {busy:.2f} × by processor time", flush=True)


def times_faster(result: dict, rows: list[dict], kind: str) -> float:
    """Return the median over rounds of the fastest row's time over ours, in the same round."""
    fastest = [min(times) for times in zip(*(row[kind] for row in rows), strict=True)]
    return statistics.median(theirs / ours for theirs, ours in zip(fastest, result[OURS][kind], strict=True))


if __name__ == "__main__":
    main()
