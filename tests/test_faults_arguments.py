"""Arguments that nobody should give: every command refuses them in one line, with exit code 2, and writes nothing."""

import contextlib
import io
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_models import tiny_etude

from sae_audio import cli

sys.path.insert(0, str(Path(__file__).parents[1]))
import train

NUMBERS = ["nan", "inf", "-inf", "-1", "1e308", "-1e308", "", "abc", "0x10", "1e", "--", "99999999999999999999", "1 2", "½"]
NAMES = ["", "\n", "a\nb", "x" * 300, "é/ü", "\udcff", "~nobody-of-this-name/x", "a\0b", "nowhere", "loop", "loop/x", "folder"]
TARGETS = ["", "folder", "nowhere/x", "pipe", "text/x", "x" * 300, "a\0b"]
NOT_COUNTS = [n for n in NUMBERS if n != "99999999999999999999"]
MOVES = ["", "=", "mood=1", "pitch=", "loudness=nan", "brightness=1e300", "pitch=H9", "pitch=+1.5", "loudness=x"]
FEATURES = ["", "=", "x=1", "1=", "-1=1", "999999=1", "1e3=1", "0=inf", "0=nan"]
SOUNDS = [*NAMES, "text", "empty", "pipe"]

STEERING = {"--feature": FEATURES, "--from": ["nan", "-1", "inf", "", "x"], "--to": ["nan", "-1", "0", "", "x"]}
MODEL = {"--source": NAMES, "--device": ["x", "", "cpu:y", "meta"], "--dtype": ["x", "", "bfloat16", "float64"]}
BUNDLED = MODEL | {"--bundle": [*NAMES, "text"], "--revision": ["main", "", "\n"], "--max-minutes": ["nan", "0", "-1", "x", ""]}
GENERATED = STEERING | {
    "--model": NAMES,
    "--style": ["nobody", "nowhere.npy", "nowhere.wav"],
    "--notes": ["C4", "C4:nan", "C4:-1", "H4:1", ":", "C4:1e9", "999:1"],
    "--lyrics": ["nowhere", "folder", ""],
    "--seconds": ["nan", "inf", "-1", "0", "1e308", "x", ""],
    "--steps": [*NOT_COUNTS, "0", "1", "99999999999999999999"],
    "--cfg": ["x", "", "nan", "inf"],
    "--seed": NOT_COUNTS[:8],
    "--steer": MOVES,
    "--window": ["", ":", "0", "1:0", "nan:1", "0:1:2", "0:0", "-1:2"],
    "--bits": ["8", "", "x"],
    "--json": TARGETS,
}
REFUSED = {
    "analyse": BUNDLED | {"FILE": SOUNDS, "--json": TARGETS, "--plot": TARGETS, "--probes": TARGETS},
    "steer": BUNDLED
    | STEERING
    | {
        "FILE": SOUNDS,
        "--pitch": ["", "H9", "+1.5", "+500", "nan", "1e308", "C"],
        "--loudness": ["nan", "inf", "500", "1e308", "x", ""],
        "--brightness": ["nan", "-inf", "99", "x", ""],
        "--bits": ["8", "", "x"],
        "--json": TARGETS,
        "--plot": TARGETS,
        "-o": [*TARGETS, "-o"],
    },
    "generate": GENERATED | {"-o": TARGETS},
    "trace": GENERATED
    | {"--out": ["", "full", "text", "loop", "a\0b"], "--listen": ["-1", "x", ""], "--record": ["q", "x_t,q", "v null"]},
    "eval": MODEL | {"BUNDLE": NAMES, "--audio": NAMES, "--minutes": ["x", ""], "--split": ["x"], "--json": TARGETS},
    "spaces": {"--json": TARGETS, "--what": ["x"]},
    "push": {"FOLDER": NAMES, "REPO": ["", "a", "a/b/c", "\n", "a b/c"]},
    "pull": {"REPO": ["", "a", "a/b/c", "\n", "nobody/nothing"], "-o": ["full", "text", "loop"]},
    "verify": {"BUNDLE": NAMES, "--revision": ["main"]},
    "search": {"--limit": NOT_COUNTS, "--what": ["x"]},
    "deploy-space": {"REPO": ["", "a", "a/b/c", "\n"]},
    "convert": {"SOURCE": NAMES, "--space": ["x", "", "etude-codec"]},
}  # fmt: skip
"""What each command refuses, whatever else is asked: option, or name of a positional argument, to values."""
NEEDED = {"analyse": ["FILE"], "steer": ["FILE"], "push": ["FOLDER", "REPO"], "pull": ["REPO"], "verify": ["BUNDLE"]}
NEEDED |= {"deploy-space": ["REPO"], "convert": ["SOURCE", "OUT"], "eval": ["BUNDLE"]}
TRAINING = {
    "--space": ["", "x", "hf:", "hf:a/b/c", "\n"],
    "--tap": ["", "x", "layer 1"],
    "--layer": ["x", "", "-1", "0"],
    "--source": NAMES,
    "--audio": [name for name in NAMES if name != "é/ü"],
    "--dataset": ["", "x", "a/b"],
    "--split": ["x"],
    "--limit": ["1"],
    "--tracker": ["", "x", "YIN"],
    "--max-minutes": ["nan", "0", "-1", "x", ""],
    "--minutes": ["nan", "0", "inf", "-1", "x", ""],
    "--corpus": ["x", ""],
    "--sae": ["x", "", "TopK"],
    "--d-sae": [*NOT_COUNTS, "-5", "1000000000", "3"],
    "--k": [*NOT_COUNTS, "0", "65"],
    "--l1": ["x", "", "nan", "-1"],
    "--l1-on": ["x", ""],
    "--steps": [*NOT_COUNTS, "0"],
    "--batch-size": [*NOT_COUNTS, "0"],
    "--lr": ["nan", "0", "-1", "x", ""],
    "--mode": ["x", ""],
    "--control-clips": ["0", "-1", "x", ""],
    "--stability-seeds": ["-1", "x", ""],
    "--seed": [*NOT_COUNTS, "99999999999999999999", "-1"],
    "--device": ["x", "", "meta"],
    "--dtype": ["x", "", "bfloat16"],
    "--out": ["full", "text", "loop", "a\0b", "text/x", "x" * 300],
    "--config": ["nowhere", "folder", "text", "list.json", "mode.json", ""],
    "--private": [None],
    "--revision": ["x"],
}

pytestmark = pytest.mark.usefixtures("no_wait")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with what the names above mean."""
    folder = tmp_path_factory.mktemp("arguments")
    (folder / "folder").mkdir()
    (folder / "full").mkdir()
    (folder / "full" / "mine.txt").write_text("precious")
    (folder / "text").write_text("no sound, no model, no JSON")
    (folder / "empty").touch()
    (folder / "loop").symlink_to("loop")
    (folder / "list.json").write_text("[1]")
    (folder / "mode.json").write_text('{"mode": ["honest", "x"], "steps": {"a": 1}}')
    os.mkfifo(folder / "pipe")
    tiny_etude(folder / "model")
    wave = sum(np.sin(2 * np.pi * 220 * k * np.arange(3200) / 16_000) / k for k in range(1, 9)) * 0.1
    soundfile.write(folder / "tone.wav", wave, 16_000)
    return folder


def run(place, call):
    """Run a command in a folder; return its exit code, the lines on stderr and what it left there."""
    before, out, err = set(place.rglob("*")), io.StringIO(), io.StringIO()
    with contextlib.chdir(place), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = call()
        except SystemExit as stop:
            code = stop.code
    return code, err.getvalue().splitlines(), set(place.rglob("*")) - before


def check_refused(place, argv, call):
    code, lines, left = run(place, call)
    left = {path for path in left if "new.work" not in path.parts}  # what a training goes on from
    told = [line for line in lines if line.strip() and not re.match(r"warning: | *\d+%\|", line)]  # progress is no message
    assert code == 2 and len(told) == 1 and not left, (argv, code, lines, left)
    assert told[0].startswith(("error: ", "sae-audio", "train.py")), (argv, told)


@st.composite
def bad_options(draw, table):
    """One option with a value that is refused, and up to two more that get a refused value or any text."""
    names = draw(st.lists(st.sampled_from(sorted(table)), min_size=1, max_size=3, unique=True))
    chosen = {names[0]: draw(st.sampled_from(table[names[0]]))}
    for name in names[1:]:
        free = st.text(max_size=12) if name in FREE else st.nothing()
        chosen[name] = draw(st.sampled_from(table[name]) | free)
    return chosen


FREE = {
    "--device",
    "--dtype",
    "--revision",
    "--pitch",
    "--loudness",
    "--brightness",
    "--feature",
    "--steer",
    "--window",
    "--steps",
}
FREE |= {
    "--from",
    "--to",
    "--bits",
    "--seconds",
    "--cfg",
    "--seed",
    "--record",
    "--minutes",
    "--limit",
    "--split",
    "--tap",
    "--sae",
}
FREE |= {"--d-sae", "--k", "--lr", "--batch-size", "--mode", "--notes"}
"""Options that name no file, so that any text may be tried: what it means cannot be written over."""


def command_line(command, chosen):
    """Positional arguments in their order, what is not chosen filled with something harmless."""
    usual = {
        "FILE": "tone.wav",
        "FOLDER": "folder",
        "REPO": "nobody/nothing",
        "BUNDLE": "nowhere",
        "SOURCE": "nowhere",
        "OUT": "new",
    }
    positional = [chosen.get(name, usual[name]) for name in NEEDED.get(command, [])]
    options = [
        f"{name}={value}" if name.startswith("--") else f"{name}{value}" for name, value in chosen.items() if name[0] == "-"
    ]
    return [command, *positional, *options]


def explore(examples):
    return settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


def refuse(command, place, examples):
    @explore(examples)
    @given(bad_options(REFUSED[command]))
    def check(chosen):
        argv = command_line(command, chosen)
        check_refused(place, argv, lambda: cli.main(argv))

    check()


def refuse_training(place, examples):
    base = ["--source", "model", "--audio", "tone.wav", "--device", "cpu", "--out", "new"]

    @explore(examples)
    @given(bad_options(TRAINING))
    def check(chosen):
        argv = [*base, *(name if value is None else f"{name}={value}" for name, value in chosen.items())]
        try:
            check_refused(place, argv, lambda: cli.guarded(lambda: train.main(train.parse(argv)), debug=False))
        finally:
            shutil.rmtree(place / "new.work", ignore_errors=True)

    check()


@pytest.mark.parametrize("command", REFUSED)
def test_bad_arguments_are_refused_in_one_line(command, place):
    refuse(command, place, 25)


def test_bad_training_is_refused_in_one_line(place):
    refuse_training(place, 60)


@pytest.mark.slow
@pytest.mark.parametrize("command", REFUSED)
def test_a_hundred_more_bad_arguments(command, place):
    refuse(command, place, 125)


@pytest.mark.slow
def test_hundreds_more_of_bad_training(place):
    refuse_training(place, 400)
