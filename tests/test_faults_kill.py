"""kill -9 at random moments and before every file operation of the long jobs: going on gives what an undisturbed run gives."""

import json
import os
import random
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from killed_jobs import JOBS
from safetensors.torch import load_file
from tiny_bundle import tiny_bundle

from sae_audio.bundle import Bundle

TESTS = Path(__file__).parent
CLOCKED = ("frames_per_second", "cpu_s", "wall_s")
"""What logs hold that is another every time."""
KILLS = 6
"""Random moments per job; five jobs."""


class Jobs:
    """A process that runs the jobs of ``killed_jobs`` in its children."""

    def __init__(self, folder):
        self.errors = folder / "errors.txt"
        self.process = subprocess.Popen(
            [sys.executable, str(TESTS / "killed_jobs.py"), str(folder / "model")],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS.parent)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors.open("w"),
            text=True,
        )
        self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        assert line, f"the jobs died: {self.errors.read_text()[-2000:]}"
        return line.split()

    def run(self, job, folder, *, resume=False, after=None, before=None):
        """Run a job to its end, or until it is killed; return its exit code, -9 where it was killed, and its seconds."""
        how = {"job": job, "folder": str(folder), "resume": resume, "after": after, "before": before}
        self.process.stdin.write(json.dumps(how) + "\n")
        self.process.stdin.flush()
        status, seconds = self.answer()
        assert int(status) in (0, -9), self.errors.read_text()[-2000:]
        return int(status), float(seconds)

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    running = Jobs(tmp_path_factory.mktemp("jobs"))
    yield running
    running.close()


@pytest.fixture(scope="module")
def undisturbed(jobs, tmp_path_factory):
    """What each job leaves when nobody kills it, and how long it takes."""
    known = {}

    def of(job):
        if job not in known:
            folder = begun(job, tmp_path_factory.mktemp(job) / "whole")
            status, seconds = jobs.run(job, folder)
            known[job] = contents(folder), seconds
            assert status == 0
        return known[job]

    return of


def begun(job, folder):
    """A folder as a user might have it before the job: of the bundle there is an older one."""
    folder.mkdir()
    if job == "bundle":
        older().save(folder / "bundle")
    return folder


@cache
def older():
    return tiny_bundle("relu")


def contents(folder):
    """All that a folder holds, by name; logs without their clocks."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: rows(path) if path.suffix == ".jsonl" else path.read_bytes() for name, path in files.items()}


def rows(path):
    return [{k: v for k, v in json.loads(line).items() if k not in CLOCKED} for line in path.read_text().splitlines()]


def check_nothing_is_half_written(job, folder):
    """Whoever looks after a kill, before anything goes on, finds whole files: only what is hidden may be cut."""
    if job == "bundle":
        left = folder / "bundle" if (folder / "bundle").exists() else folder / ".bundle.previous"
        assert Bundle.from_pretrained(left).sae.config.variant in ("relu", "topk")
        return
    for path in folder.rglob("[!.]*"):
        if path.suffix == ".safetensors":
            assert load_file(path)
        if path.suffix == ".json":
            assert json.loads(path.read_text())


def check_going_on(jobs, job, folder, expected):
    check_nothing_is_half_written(job, folder)
    shards = {path: path.stat().st_ino for path in folder.rglob("shard-*")}
    assert jobs.run(job, folder, resume=True)[0] == 0
    assert contents(folder) == expected
    assert all(path.stat().st_ino == number for path, number in shards.items())  # none was made again


@pytest.mark.parametrize("job", JOBS)
def test_killed_at_random_moments_and_resumed_gives_the_same_bytes(job, jobs, undisturbed, tmp_path):
    expected, seconds = undisturbed(job)
    moments = random.Random(job)
    for number in range(KILLS):
        folder, moment = tmp_path / str(number), moments.uniform(0, seconds)
        while jobs.run(job, begun(job, folder), after=moment)[0] != -9:
            shutil.rmtree(folder)
            moment *= 0.7  # it was faster than measured: sooner, until it is caught
        check_going_on(jobs, job, folder, expected)


@pytest.mark.parametrize("job", [job if job == "extraction" else pytest.param(job, marks=pytest.mark.slow) for job in JOBS])
def test_killed_before_every_file_operation(job, jobs, undisturbed, tmp_path):
    expected, _ = undisturbed(job)
    for number in range(1000):
        folder = begun(job, tmp_path / str(number))
        if jobs.run(job, folder, before=number)[0] == 0:  # there are no more
            break
        check_going_on(jobs, job, folder, expected)
    assert 8 < number < 999
