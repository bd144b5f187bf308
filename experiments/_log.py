"""Finished rows of an experiment, a line of JSON per job, so that a run that was stopped goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from sae_audio.files import append_row, make_folder, write_rows


def finished(log: Path) -> list[dict]:
    """Return the entries of a log; half a last line, which a killed run leaves, is taken out of the file."""
    if not log.exists():
        return []
    *lines, rest = log.read_text(encoding="utf-8").split("\n")
    entries = [json.loads(line) for line in lines]
    if rest:
        write_rows(log, entries)
    return entries


def rows_of(
    jobs: Sequence[dict], measure: Callable[[dict], list[dict]], log: Path, cost: Callable[[dict], float] = lambda job: 1.0
) -> Iterator[dict]:
    """Yield the rows of all jobs in order, from the log where they are there; fresh ones join it as they are measured.

    Parameters
    ----------
    jobs : sequence of dict
        JSON values that tell one job from another.
    measure : callable
        Does a job and returns its rows.
    log : Path
        Named after all else that the rows depend on.
    cost : callable
        How long a job takes beside others, so that the time left that the bar shows is right from the first one on.
    """
    make_folder(log.parent)
    done = {json.dumps(entry["job"], sort_keys=True): entry["rows"] for entry in finished(log)}
    keys = [json.dumps(job, sort_keys=True) for job in jobs]
    spent = sum(cost(job) for job, key in zip(jobs, keys, strict=True) if key in done)
    title = f"{len(jobs)} fits"
    with tqdm(total=sum(map(cost, jobs)), initial=spent, desc=title, bar_format=BAR) as bar:
        for job, key in zip(jobs, keys, strict=True):
            if key not in done:
                done[key] = measure(job)
                append_row(log, {"job": job, "rows": done[key]})
                bar.update(cost(job))
            yield from done[key]


BAR = "{desc}: {percentage:3.0f}% |{bar}| {elapsed}, {remaining} left"
