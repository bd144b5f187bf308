"""A visitor's songs between two events: traces and views as files in the visitor's folder, so that no memory is held for them."""

from __future__ import annotations

import functools
import json
import math
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import gradio as gr
import torch
from torch import Tensor

from sae_audio.audio import write
from sae_audio.bundle import Bundle
from sae_audio.control import AUDIBLE_DB, AXES
from sae_audio.descriptors import Descriptors
from sae_audio.diffrhythm.sampler import time_grid
from sae_audio.files import write_bytes
from sae_audio.heard import changes, median
from sae_audio.latent_spaces import CHECKPOINTS
from sae_audio.properties import axis_values
from sae_audio.traces import Trace, compact_json, load_trace
from sae_audio.units import note_name, to_db
from ui import session
from ui.session import BundleSource
from ui.trajectory import run_of, start

STORED = CHECKPOINTS / "etude-flow" / "traces"
STORED_TITLES = {"Piano, arpeggio": "piano-arpeggio", "Violin, melody": "violin-melody", "Alto sax, notes of its own": "sax-free"}
FIRST = "Piano, arpeggio"
KEPT = 3
"""Songs whose files a visitor keeps."""


class Made(NamedTuple):
    """The song in view; what the tab's state holds."""

    key: str
    """The view's id."""
    stem: str
    """Its trace, without ending."""
    source: BundleSource
    """Bundle that reads it."""
    generator: str
    """Name for ``flow.generator``."""
    folder: str | None = None
    """Where its view, steered trace and files are; None for a stored one that nothing was done with."""


def stored(title: str, source: BundleSource) -> Made:
    """Return a precomputed song."""
    name = STORED_TITLES[title]
    return Made(name, str(STORED / name), source, "etude-flow")


def fresh_folder(key: str, request: gr.Request) -> Path:
    """Return an empty folder for a song; of the visitor's older ones some stay, for what may still be at work on them."""
    home = session.folder(request) / "generate"
    older = sorted(home.glob("*"), key=lambda folder: folder.stat().st_mtime)
    for folder in older[: max(0, len(older) - KEPT + 1)]:
        shutil.rmtree(folder, ignore_errors=True)
    folder = home / f"{key}-{uuid.uuid4().hex[:8]}"
    folder.mkdir(parents=True)
    return folder


def kept(made: Made, request: gr.Request) -> Made:
    """Return the song with a folder, a new one if it has none."""
    if made.folder:
        return made
    folder = fresh_folder(made.key, request)
    write_bytes(folder / "view.json", compact_json(view_of(made)))
    return made._replace(folder=str(folder))


def view_of(made: Made) -> dict:
    """Return the whole value of the view."""
    if made.folder:
        return json.loads((Path(made.folder) / "view.json").read_text(encoding="utf-8"))
    return _stored_view(made)


def save_view(made: Made, view: dict) -> dict:
    """Keep a view, and return it; marked, so that the page sees it arrive even where nothing else in it is new."""
    view = {**view, "saved": uuid.uuid4().hex}
    write_bytes(Path(made.folder) / "view.json", compact_json(view))
    return view


@functools.lru_cache(maxsize=8)
def _stored_view(made: Made) -> dict:
    found = load_trace(made.stem)
    bundle = session.loaded(made.source).bundle
    view = finished(made.key, found, bundle, how="precomputed" + read_by(made.source))
    points = view["runs"]["song"]["points"]
    return view | {"at": points[len(points) // 2]}


def finished(key: str, found: Trace, bundle: Bundle, how: str) -> dict:
    """Return the view of a finished song."""
    facts = found.facts
    view = start(key, title_of(facts), facts["seconds"], facts["steps"], found.final.shape[1], bundle.properties)
    details = f"{facts['model']}, {facts['seconds']:g} s, {facts['steps']} steps, guidance {facts['guidance']:g}"
    return view | {"complete": True, "how": f"{how} · {details}", "runs": {"song": run_of(found, bundle)}}


def read_by(source: BundleSource) -> str:
    """Say which bundle reads a song, where it is not the page's own: that may be of a space that no song here is in."""
    return "" if source == session.SHIPPED else f", read by the bundle '{source.name}'"


def title_of(facts: Mapping) -> str:
    """Return a song's heading."""
    style = facts.get("words") or facts["style"]
    return f"{style[:1].upper()}{style[1:60]}, seed {facts['seed']}"


def trace_of(made: Made, run: str) -> Trace:
    """Read the song's trace, or that of its steered twin."""
    return load_trace(made.stem if run == "song" else Path(made.folder) / run)


def asked_of(found: Trace) -> dict:
    """Return what was asked for a song, as ``flow.request_of`` takes it."""
    facts = found.facts
    asked = {name: facts[name] for name in ("seconds", "steps", "guidance", "seed")}
    return asked | {"style": facts.get("words") or facts["style"], "notes": facts.get("notes")}


def measured_table(song: Trace, steered: Trace) -> dict:
    """Return what steering changed, measured on the decoded results, in words for the view."""
    before, after = (Descriptors(*(column[-1] for column in side.measured)) for side in (song, steered))  # [1, T] each
    audible = to_db(before.rms) > AUDIBLE_DB
    moves, (first, stop) = (steered.facts["steering"][key] for key in ("moves", "window"))
    short, rows = {"pitch": "st", "loudness": "dB", "brightness": "oct"}, []
    for name, change in zip(AXES, changes(before, after)[0].tolist(), strict=True):
        unit = short[name]
        rows.append(
            {
                "title": name.capitalize(),
                "asked": f"{float(moves[name]):+g} {unit}" if name in moves else None,
                "before": _said(name, before, audible),
                "after": _said(name, after, audible),
                "change": "–" if math.isnan(change) else f"{round(change, 2) + 0:+.2f} {unit}",
            }
        )
    caption = f"Medians over the frames that are audible unsteered. Steered from flow time {first:g} to {stop:g}. "
    caption += "st: semitones, oct: octaves of spectral centroid."
    return {"caption": caption, "rows": rows}


def sound_file(made: Made, run: str, step: int, path: Path) -> Path:
    """Write x̂₁ of a step, decoded, as a 16-bit WAV."""
    audio, rate = sound_of(made, run, step)
    write(path, audio, rate)
    return path


@torch.inference_mode()
def sound_of(made: Made, run: str, step: int) -> tuple[Tensor, int]:
    """Return x̂₁ of a step, decoded: [channels, N] and its rate in Hz."""
    found, space = trace_of(made, run), session.loaded(made.source).space
    nearest = int((found.times - time_grid(found.facts["steps"])[step]).abs().argmin())
    return space.decode(found.at("x1", nearest)[:1]).cpu()[0], space.spec.sample_rate


def _said(name: str, measured: Descriptors, counted: Tensor) -> str:
    values = axis_values(measured, name)
    values = values[values.isfinite() & counted]
    if not values.numel():
        return "none"
    value = float(median(values, 0))
    if name == "loudness":
        return f"{value:.1f} dBFS"
    if name == "pitch":
        return f"{note_name(value)}, {440 * 2 ** ((value - 69) / 12):.0f} Hz"
    return f"{2**value / 1000:.2f} kHz"
