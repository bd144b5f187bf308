"""How soon the page is there, and how soon it shows a sound: ``python -m benchmarks.page_start``; needs playwright and Chromium.

Starts ``python app.py`` and opens it in headless Chromium, wall clock and the server's processor time from the command on:

- answers: the first HTTP answer;
- usable: the first example with the card of its strongest feature is on the page and its sound can be played; bar 10 s;
- analysed: a sound of 10 s, warm, from the upload until its name and picture are shown; bar 2 s.

The wall clock says something on an idle machine only, so the load average goes with it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from benchmarks.page_load import RATE, Server, answers, cpu_seconds, start

BARS = {"usable": 10.0, "analysed": 2.0}
FLAGS = ["--no-sandbox", "--disable-dev-shm-usage"]
PLAYER = "document.querySelector('#timeline audio')"


def measure() -> dict[str, dict[str, float]]:
    """Start the page once; return the seconds of wall clock and of the server's processor time at each point."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory(prefix="page-start-") as temporary, sync_playwright() as playwright:
        found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(120_000)
        begin = time.perf_counter()
        server = start(Path(temporary))
        try:
            answers(server)
            at = {"answers": _now(server, begin)}
            page.goto(server.url)
            page.wait_for_selector("#card h2")
            page.wait_for_function(f"{PLAYER}?.readyState >= 2")
            at["usable"] = _now(server, begin)
            at["analysed"] = _analysed(page, server, Path(temporary))
        finally:
            browser.close()
            server.process.terminate()
            server.process.wait(20)
    return at


def _now(server: Server, begin: float, cpu: float = 0) -> dict[str, float]:
    return {"wall": round(time.perf_counter() - begin, 2), "cpu": round(cpu_seconds(server.process) - cpu, 2)}


def _analysed(page, server: Server, folder: Path) -> dict[str, float]:
    """The second of two sounds of 10 s; the first warms up."""
    for name, hertz in (("first", 330), ("second", 440)):
        soundfile.write(folder / f"{name}.wav", 0.3 * np.sin(2 * np.pi * hertz / RATE * np.arange(10 * RATE)), RATE)
        begin, cpu = time.perf_counter(), cpu_seconds(server.process)
        page.set_input_files("#bring input[type=file]", folder / f"{name}.wav")
        shown = f"document.querySelector('#sound-name').innerText.includes('{name}') && {PLAYER}?.duration > 9"
        page.wait_for_function(shown, polling=10)
        took = _now(server, begin, cpu)
        page.wait_for_timeout(2000)  # the card of the strongest feature comes after
    return took


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=1, help="the best of so many")
    parser.add_argument("--json", help="write the figures here")
    asked = parser.parse_args()
    busy = os.getloadavg()[0]
    runs = [measure() for _ in range(asked.repeats)]
    best = {name: min((run[name] for run in runs), key=lambda seconds: seconds["wall"]) for name in runs[0]}
    print(f"{len(os.sched_getaffinity(0))} cores, load average {busy:.1f} before\n")
    print("| point | wall s | processor s | bar |\n|---|---|---|---|")
    for name, seconds in best.items():
        print(f"| {name} | {seconds['wall']:.2f} | {seconds['cpu']:.2f} | {BARS.get(name, '')} |")
    if asked.json:
        Path(asked.json).write_text(json.dumps({"busy": busy, "runs": runs}, indent=2))


if __name__ == "__main__":
    main()
