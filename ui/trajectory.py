"""The view of denoising: what the probes read at every step, how near that is to the end, and each step as sound.

    view = trajectory(elem_id="watch")
    ... outputs=view                        # return gr.update(value=…): a whole song, complete or about to begin
                                            # yield gr.update(news=news(…)): one more step of a run
    view.hear(handler)                      # gr.EventData with .run and .step: its sound is wanted,
                                            # return gr.update(heard=…)

The value is a dictionary: ``id``, ``complete``, ``title``, ``how`` (live or precomputed), ``seconds``, ``times`` [S], ``columns``
(frames shown), ``properties``, ``runs`` (``run_of``, by the names ``song``, ``steered``, ``control``), perhaps ``at`` (the step
to open at), and ``window`` and ``table`` of a steered run. Pictures of posteriors are 32 levels of the square root of the
probability, deflated, in base64: 9 kB each.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gradio as gr
import torch
from torch import Tensor

from sae_audio.bundle import Bundle
from sae_audio.denoising import agreement, bounded_emergence
from sae_audio.diffrhythm.sampler import time_grid
from sae_audio.properties import Property
from sae_audio.recording import ProbeReader
from sae_audio.traces import Trace
from ui.colours import colour_maps
from ui.component import component

COLUMNS = 250
"""Most frames shown."""
LEVELS = 31
"""Largest level of a picture; levels are of the square root, so that faint classes show."""
UNDEFINED = 255
"""A frame without a class."""
MARKS = {
    "pitch": ("C2", "C3", "C4", "C5", "C6", "C7"),
    "loudness": ("-51 dB", "-30 dB", "-9 dB"),
    "brightness": ("250 Hz", "1 kHz", "4 kHz"),
}
"""Classes named at the left of a picture, the first and last of any other property."""
SIGNALS = ("x_t", "x1")
KINDS = ("agreement", "bounded")


def trajectory(value: dict | Callable[[], dict] | None = None, **kwargs: Any) -> gr.HTML:
    """Return the component; see the top of this file."""
    return component("trajectory", value, news=None, heard=None, colours=colour_maps(), **kwargs)


class Progress:
    """What a run has shown so far: from points to news.

    Parameters
    ----------
    song : str
        Whose id the news carries.
    run : str
        ``song`` or ``steered``.
    properties : dict
        Of the bundle.
    steps : int
        Points of the run.
    """

    def __init__(self, song: str, run: str, properties: Mapping[str, Property], steps: int) -> None:
        self.song, self.run, self.properties, self.steps = song, run, properties, steps
        self.read: dict[str, list[Tensor]] = {}

    def news(self, index: int, posteriors: Mapping[str, Tensor]) -> dict:
        """Return what is new at a point: its reading, and the curves as they look from there.

        The end is not known yet, so the curves are against the newest x̂₁.
        """
        for key, p in posteriors.items():
            if "/acts/" in key:
                self.read.setdefault(key, []).append(p[:1])
        says = f"Denoising, step {index} of {self.steps - 1}" if index < self.steps - 1 else "Decoding and measuring the result"
        return {
            **news(self.song, self.run, index, self.steps, says),
            "read": packed(posteriors, self.properties, 0),
            "curves": {name: self._curves(name) for name in self.properties},
        }

    def _curves(self, name: str) -> dict:
        newest = self.read[f"{name}/acts/x1"][-1]
        out: dict = {kind: {} for kind in KINDS}
        for signal in SIGNALS:
            p = torch.stack([*self.read[f"{name}/acts/{signal}"], newest])
            out["agreement"][signal] = _rounded(agreement(p.argmax(-1))[:-1, 0])
            out["bounded"][signal] = _rounded(bounded_emergence(p)[:-1, 0])
        return out


def news(song: str, run: str, step: int, of: int, says: str) -> dict:
    """Return news without a picture: how far a run is, in words."""
    return {"id": song, "run": run, "step": step, "of": of, "says": says, "read": None}


def start(song: str, title: str, seconds: float, steps: int, frames: int, properties: Mapping[str, Property]) -> dict:
    """Return the value of a song that is about to be made."""
    return {
        "id": song,
        "complete": False,
        "title": title,
        "how": "made just now",
        "seconds": seconds,
        "times": _rounded(time_grid(steps)),
        "columns": len(shown(frames)),
        "properties": [_lane(prop) for prop in properties.values()],
        "runs": {"song": {"points": [], "read": {}, "curves": {}, "ends": {}}},
    }


def run_of(trace: Trace, bundle: Bundle) -> dict:
    """Return a finished run: ``points``, ``read`` and ``curves`` as in the news, ``ends`` (classes measured on the result).

    Where the trace has no posteriors the probes are read again from its latents; a trace that was thinned is shown at the points
    that it has, and its curves at all.
    """
    grid = time_grid(trace.facts["steps"])
    points = [int((grid - t).abs().argmin()) for t in trace.times]
    posteriors = trace.posteriors or _read_again(trace, bundle)
    read = {
        str(point): packed({key: p[i] for key, p in posteriors.items()}, bundle.properties, 0) for i, point in enumerate(points)
    }
    return {"points": points, "read": read, "curves": curves_of(trace.facts["curves"]), "ends": ends_of(trace, bundle.properties)}


def _read_again(trace: Trace, bundle: Bundle) -> dict[str, Tensor]:
    signals = [torch.stack([trace.at(signal, i) for i in range(len(trace.times))]) for signal in SIGNALS]
    both = ProbeReader(bundle)(torch.stack(signals))
    return {f"{key}/{signal}": p[s] for key, p in both.items() for s, signal in enumerate(SIGNALS)}


def curves_of(curves: Mapping) -> dict:
    """Return the curves that the view draws, of ``facts["curves"]``: by property, kind and signal, and the measured ones."""
    out = {}
    for name, table in curves.items():
        read = {signal: table["read"][f"acts/{signal}"] for signal in SIGNALS}
        out[name] = {kind: {signal: read[signal][kind] for signal in SIGNALS} for kind in KINDS}
        out[name] |= {"decided": {signal: read[signal]["decided"] for signal in SIGNALS}}
        if table["measured"]:
            out[name]["measured"] = table["measured"]
    return out


def ends_of(trace: Trace, properties: Mapping[str, Property]) -> dict[str, str]:
    """Return the class measured on the finished sound, per shown frame, by property."""
    if trace.measured is None:
        return {}
    frames = shown(trace.final.shape[1])
    classes = {name: prop.classes(trace.measured)[-1, 0, frames] for name, prop in properties.items()}
    return {name: _base64(torch.where(row < 0, UNDEFINED, row).to(torch.uint8)) for name, row in classes.items()}


def packed(posteriors: Mapping[str, Tensor], properties: Mapping[str, Property], song: int) -> dict[str, str]:
    """Return one point's pictures by signal: all properties below one another, highest class first.

    Parameters
    ----------
    posteriors : dict
        By ``property/reader/signal``: [B, T, n_classes]; those read from SAE activations are shown.
    properties : dict
        In the order of the pictures.
    song : int
        Which of the batch.
    """
    out = {}
    for signal in SIGNALS:
        rows = [posteriors[f"{name}/acts/{signal}"][song] for name in properties]
        frames = shown(len(rows[0]))
        picture = torch.cat([row[frames].float().flip(-1) for row in rows], -1).T  # [classes, columns]
        level = (picture.clamp(0, 1).sqrt() * LEVELS).round().to(torch.uint8)
        out[signal] = base64.b64encode(zlib.compress(level.contiguous().numpy().tobytes(), 6)).decode()
    return out


def shown(frames: int) -> Tensor:
    """Return which of a song's frames are drawn."""
    return torch.linspace(0, frames - 1, min(frames, COLUMNS)).round().long()


def _lane(prop: Property) -> dict:
    marked = [name for name in prop.names if name in MARKS.get(prop.name, ())] or [prop.names[0], prop.names[-1]]
    ticks = [[round((prop.names.index(name) + 0.5) / prop.n_classes, 4), name] for name in marked]
    title, classes = prop.name.capitalize(), list(prop.names)
    return {"name": prop.name, "title": title, "rows": prop.n_classes, "classes": classes, "ticks": ticks}


def _base64(values: Tensor) -> str:
    return base64.b64encode(values.contiguous().numpy().tobytes()).decode()


def _rounded(values: Tensor | Sequence[float]) -> list[float | None]:
    return [None if value != value else round(value, 4) for value in torch.as_tensor(values).tolist()]
