"""Figures of denoising: when what probes read is what it will be, and what steering inside a window does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sae_audio.control import AXES, UNITS
from sae_audio.denoising import AGREED
from sae_audio.plots.style import BLACK, BLUE, CYCLE, GREEN, GREY, ORANGE, PURPLE, RED, dress, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOOKS = {
    "x1": (BLUE, "-", "x̂₁: where the network believes it will end"),
    "x_t": (RED, "--", "x_t: where the flow is"),
    "x1 control": (PURPLE, "-.", "control: x̂₁ of real sound, noised to t"),
    "x_t control": (ORANGE, ":", "control: real sound, noised to t"),
    "other seed": (GREEN, (0, (4, 1, 1, 1, 1, 1)), "x̂₁ against the end of another seed"),
    "measured": (BLACK, "o", "measured on the decoded x̂₁"),
}
"""Colour, line and label of what is read; every line also differs in its dashes."""
ROWS = {
    "agreement": "frames with the final class",
    "bounded": "bounded emergence a / (a + b)",
    "paper": "emergence as published, eq. 4",
}
"""Curves that can be drawn, and their axis."""
PAPER_TOP = 3.0
"""Upper end of the published curve's axis; it is not bounded."""
WINDOW_NAMES = ("early", "middle", "late", "whole", "after")


class Line(NamedTuple):
    """One curve of one panel."""

    times: Sequence[float]
    """Flow times."""
    mean: Sequence[float | None]
    """Curve; None where there is nothing to count."""
    low: Sequence[float] | None = None
    """Lower end of its band."""
    high: Sequence[float] | None = None
    """Upper end of its band."""
    decided: float | None = None
    """Flow time at which agreement reaches 90 % to stay."""


Panels = Mapping[str, Mapping[str, Mapping[str, Line]]]
"""Lines by curve (a key of ``ROWS``), property and what is read (a key of ``LOOKS``)."""


def emergence_curves(panels: Panels) -> Figure:
    """Draw curves over flow time, one column per property, one row per kind of curve; vertical ticks mark 90 % agreement.

    Parameters
    ----------
    panels : dict
        By curve, property and what is read, a ``Line``.
    """
    names = [name for name in AXES if any(name in row for row in panels.values())]
    figure = new_figure(1.2 + 3.1 * len(panels))
    axes = figure.subplots(len(panels), len(names), sharex=True, sharey="row", squeeze=False)
    for i, (curve, by_property) in enumerate(panels.items()):
        for ax, name in zip(axes[i], names, strict=True):
            for kind, line in by_property.get(name, {}).items():
                _line(ax, line, kind, curve)
            dress(ax, "", ROWS[curve] if ax is axes[i, 0] else "", "" if i else name, grid=True)
            if curve == "agreement":
                ax.axhline(AGREED, color=GREY, linewidth=1.2)
            ax.set_ylim(-0.02, PAPER_TOP if curve == "paper" else 1.02)
            ax.set_xlim(0, 1)
    for ax in axes[-1]:
        ax.set_xlabel("flow time t (0 noise, 1 result)", fontsize=12)
    _legend(figure)
    return figure


def panels_of(
    times: Sequence[float], curves: Mapping, reader: str = "acts", rows: Sequence[str] = ("agreement", "bounded")
) -> Panels:
    """Return what ``emergence_curves`` draws of one trace.

    Parameters
    ----------
    times : sequence of float
        Flow times of the trace.
    curves : dict
        ``trace.facts["curves"]``.
    reader : str
        Probes on SAE activations (``acts``) or on raw latents (``latents``).
    rows : sequence of str
        Keys of ``ROWS``.
    """
    panels: dict = {row: {} for row in rows}
    for row in rows:
        for name, table in curves.items():
            found = {signal: table["read"].get(f"{reader}/{signal}") for signal in ("x1", "x_t")}
            lines = {
                signal: Line(times, read[row], decided=_time_at(times, read["decided"])) for signal, read in found.items() if read
            }
            if row == "agreement" and table["measured"]:
                lines["measured"] = Line([times[i] for i in table["measured"]["points"]], table["measured"]["agreement"])
            panels[row][name] = lines
    return panels


def window_response(trials: Sequence[Mapping]) -> Figure:
    """Draw what steering inside a window reached of what was asked, and its cost in quality.

    Parameters
    ----------
    trials : sequence of dict
        ``WindowTrial`` as dictionaries.
    """
    names = [name for name in AXES if any(trial["property"] == name for trial in trials)]
    figure = new_figure(7.2)
    axes = figure.subplots(2, len(names), sharex=True, sharey="row", squeeze=False)
    shown = [window for window in WINDOW_NAMES if any(trial["window"] == window for trial in trials)]
    for column, name in enumerate(names):
        mine = [trial for trial in trials if trial["property"] == name]
        top, bottom = axes[:, column]
        for i, asked in enumerate(sorted({trial["asked"] for trial in mine})):
            at = {trial["window"]: trial for trial in mine if trial["asked"] == asked}
            style = {"color": CYCLE[i % 7], "marker": "osD^vPX"[i % 7], "linewidth": 1.8, "markersize": 7}
            label = f"{asked:+g} {UNITS[name]}"
            places = [shown.index(window) for window in at]
            top.plot(places, [_number(trial["reached"]) / asked for trial in at.values()], label=label, **style)
            bottom.plot(places, [_number(trial["cycle"]) for trial in at.values()], **style)
        for ax in (top, bottom):
            ax.axhline(1, color=GREY, linestyle="--", linewidth=1.5)
        dress(top, "", "reached / asked" if column == 0 else "", f"moving {name}", grid=True)
        dress(bottom, "steps that are steered", "recoding error / unsteered" if column == 0 else "", grid=True)
        bottom.set_xticks(range(len(shown)), shown)
        bottom.set_ylim(0, None)
        top.legend(fontsize=11)
    return figure


def _line(ax: Axes, line: Line, kind: str, curve: str) -> None:
    colour, dashes, label = LOOKS[kind]
    values = np.array([_number(value) for value in line.mean])
    points: dict[str, Any] = {"marker": "o", "linestyle": "none", "markersize": 6}
    marks = points if dashes == "o" else {"linestyle": dashes, "linewidth": 2.2}
    ax.plot(line.times, values, color=colour, label=label, **marks)
    if line.low is not None and line.high is not None:
        if dashes == "o":
            ax.vlines(line.times, line.low, line.high, color=colour, linewidth=1.5)
        else:
            ax.fill_between(line.times, line.low, line.high, color=colour, alpha=0.18, linewidth=0)
    if curve == "agreement" and line.decided is not None:
        ax.plot([line.decided] * 2, [AGREED - 0.06, AGREED + 0.06], color=colour, linewidth=2.5)


def _number(value: float | None) -> float:
    return np.nan if value is None else value


def _time_at(times: Sequence[float], point: float | None) -> float | None:
    return None if point is None else float(np.interp(point, range(len(times)), times))


def _legend(figure: Figure) -> None:
    labelled = {label: line for ax in figure.axes for line, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(labelled.values(), labelled.keys(), loc="outside lower center", ncols=2, fontsize=11, frameon=False)
