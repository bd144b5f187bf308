"""What can be saved of a song: curves, trace, figure and settings, with its steered run and control where there are any."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sae_audio.diffrhythm.sampler import time_grid
from sae_audio.files import write_bytes
from sae_audio.plots import png
from sae_audio.plots.denoising import Line, emergence_curves, panels_of
from sae_audio.traces import compact_json
from ui.songs import Made, trace_of, view_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXPORTS = {
    "curves": "Save curves (CSV)",
    "trace": "Save trace (JSON)",
    "figure": "Save figure (PNG)",
    "settings": "Save settings (JSON)",
}
ENDINGS = {"curves": ".csv", "trace": ".json", "figure": ".png", "settings": ".json"}


def written(kind: str, made: Made) -> Path:
    """Write a file of a kind of ``EXPORTS`` into the song's folder, and return its path."""
    view = view_of(made)
    facts = _runs_facts(made, view)
    path = Path(made.folder) / f"{_slug(view['title'])}-{kind}{ENDINGS[kind]}"
    if kind == "curves":
        content = curves_csv(facts).encode()
    elif kind == "trace":
        content = compact_json({"times": view["times"], **facts})
    elif kind == "figure":
        content = png(_figure(view["times"], facts))
    else:
        settings = {run: {name: value for name, value in table.items() if name != "curves"} for run, table in facts.items()}
        settings["bundle"] = {"name": made.source.name, "revision": made.source.revision}
        content = (json.dumps(settings, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()
    write_bytes(path, content)
    return path


def curves_csv(runs: Mapping[str, Mapping]) -> str:
    """Return all curves of some runs, given by their facts, as CSV: one line per run, property, reader, signal and step."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    kinds = ("agreement", "within_one", "bounded", "paper")
    writer.writerow(["run", "property", "reader", "signal", "step", "flow_time", *kinds])
    for run, facts in runs.items():
        times = time_grid(facts["steps"]).tolist()
        for name, table in facts["curves"].items():
            for key, read in table["read"].items():
                for step, t in enumerate(times):
                    values = ["" if read[kind][step] is None else read[kind][step] for kind in kinds]
                    writer.writerow([run, name, *key.split("/"), step, round(t, 6), *values])
    return out.getvalue()


def _runs_facts(made: Made, view: Mapping) -> dict[str, dict]:
    """Return the facts, with curves, of every run of a song."""
    facts = {"song": trace_of(made, "song").facts}
    for run in ("steered", "control"):
        if run in view["runs"]:
            table = Path(made.folder) / f"{run}.json"
            facts[run] = json.loads(table.read_text(encoding="utf-8"))
    return facts


def _figure(times: Sequence[float], facts: Mapping) -> Figure:
    """Draw the curves of the song, and of the control where there is one."""
    panels = panels_of(times, facts["song"]["curves"])
    for row, by_property in panels.items():
        for name, lines in by_property.items():
            for signal in ("x1", "x_t") if "control" in facts else ():
                lines[f"{signal} control"] = Line(times, facts["control"]["curves"][name]["read"][f"acts/{signal}"][row])
    return emergence_curves(panels)


def _slug(title: str) -> str:
    """Return a title as part of a file name."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "song"
