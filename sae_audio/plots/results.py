"""Figures of what was measured on a bundle: training, probes beside baselines, dose-response, isolation, tuning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from sae_audio.atlas import Atlas
from sae_audio.control import AXES, UNITS, ControlVector
from sae_audio.plots.style import BLACK, BLUE, CYCLE, GREY, MAP, ORANGE, RED, SKY, class_ticks, colorbar, dress, new_figure, png
from sae_audio.properties import Property

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    from sae_audio.bundle import Bundle

READERS = {
    "acts": "SAE features",
    "latents": "raw latents",
    "pca": "PCA",
    "random": "random dictionary",
    "untrained": "untrained SAE",
}
"""What a probe reads, in words."""
SPARSITIES = {"l0": "active features per frame (l0)", "sparsity": "share of features that are 0"}
"""What probe accuracy is drawn against."""
LEAST_TOP = {"fvu": 0.1, "l0": 1.0, "dead": 0.1}
"""Least upper end of a training axis."""
LEAST_SPAN = {"pitch": 1.0, "loudness": 3.0, "brightness": 0.25}
"""Least half-height of a response axis, so that noise is not blown up to look like an effect."""


def training_curves(history: Sequence[Mapping]) -> Figure:
    """Draw fvu, l0 and dead features over the steps of SAE training.

    Parameters
    ----------
    history : sequence of dict
        Rows of ``train_sae``: ``step``, ``fvu``, ``l0``, ``dead`` (share of features) and, where measured, ``validation_fvu``.
    """
    from matplotlib.ticker import LogLocator, NullFormatter

    figure = new_figure(3.8)
    panels = figure.subplots(1, 3)
    titles = {"fvu": "fraction of variance unexplained", "l0": "active features per frame (l0)", "dead": "share of dead features"}
    for ax, (key, title) in zip(panels, titles.items(), strict=True):
        for name, colour, label in ((key, BLUE, "training batch"), (f"validation_{key}", RED, "validation")):
            rows = [row for row in history if row.get(name) is not None]
            if rows:
                marker = "o" if name != key else None
                ax.plot([row["step"] for row in rows], [row[name] for row in rows], color=colour, label=label, marker=marker)
        dress(ax, "step", "", title, grid=True)
        ax.set_ylim(0, max(LEAST_TOP[key], 1.08 * max((value for line in ax.lines for value in line.get_ydata()), default=0)))
    panels[0].set_ylim(None, None, auto=True)
    panels[0].set_yscale("log")
    panels[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panels[0].yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    panels[0].yaxis.set_minor_formatter(NullFormatter())
    if len(panels[0].lines) > 1:
        panels[0].legend(fontsize=11)
    return figure


def probe_scores(scores: Mapping[str, Mapping[str, Mapping]]) -> Figure:
    """Draw balanced accuracy of the probes on the SAE's features beside the baselines.

    Parameters
    ----------
    scores : dict
        ``metrics["probes"]``: by property, by reader, a score with ``balanced_accuracy``, ``within_one``, ``majority`` ....
    """
    figure = new_figure(4.2)
    panels = figure.subplots(1, len(scores), sharey=True, squeeze=False)[0]
    for ax, (prop, readers) in zip(panels, scores.items(), strict=True):
        names = [name for name in READERS if name in readers]
        for i, name in enumerate(names):
            score = readers[name]
            ax.barh(i, score["balanced_accuracy"], color=BLUE if name == "acts" else SKY, height=0.7)
            ax.plot(score["within_one"], i, "D", color=BLACK, markersize=7, label="accuracy within one class" if i == 0 else None)
            colour = BLUE if name == "acts" else BLACK
            ax.text(1.03, i, f"{score['balanced_accuracy']:.2f}", va="center", fontsize=11, color=colour)
        chance = 1 / max(score["n_classes"] for score in readers.values())
        ax.axvline(chance, color=RED, linestyle="--", linewidth=1.5, label="always the same class")
        ax.set_yticks(range(len(names)), [READERS[name] for name in names])
        ax.set_xlim(0, 1)
        dress(ax, "balanced accuracy", "", prop)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=11, frameon=False)
    panels[0].invert_yaxis()
    return figure


def decodability(
    points: Sequence[Mapping],
    baselines: Mapping[str, Mapping[str, float]],
    metric: str = "balanced accuracy",
    x: str = "l0",
) -> Figure:
    """Draw probe accuracy against sparsity (Figure 3 of arXiv 2510.23802, with baselines).

    Parameters
    ----------
    points : sequence of dict
        ``property``, ``variant``, ``l0`` (features per frame) or ``sparsity``, ``accuracy`` (0 to 1), one per trained SAE;
        several seeds of one setting share a ``setting`` and become a mean with its range.
    baselines : dict of dict of float
        By property, by name: accuracy of a baseline, drawn as a level.
    metric : str
        What ``accuracy`` is.
    x : str
        ``l0``, on a logarithmic axis, or ``sparsity`` as published: 1 - l0 / number of features.
    """
    figure = new_figure(5.0)
    names = list(dict.fromkeys(point["property"] for point in points))
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    markers = "osD^vPX"
    for ax, prop in zip(panels, names, strict=True):
        for i, variant in enumerate(dict.fromkeys(point["variant"] for point in points)):
            mine = [p for p in points if p["property"] == prop and p["variant"] == variant]
            across, y, low, high = _seed_ranges(mine, x)
            style = dict(color=CYCLE[i % 7], marker=markers[i % 7], capsize=3, linewidth=1.8, markersize=7)
            ax.errorbar(across, y, yerr=[low, high], label=variant, **style)
        for i, (name, level) in enumerate(baselines.get(prop, {}).items()):
            ax.axhline(level, color=GREY, linestyle=("--", ":", "-.", (0, (1, 3)))[i % 4], linewidth=1.8, label=name)
        if x == "l0":
            ax.set_xscale("log", base=2)
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        dress(ax, SPARSITIES[x], metric if ax is panels[0] else "", prop, grid=True)
    handles, labels = panels[0].get_legend_handles_labels()
    n_levels = len(baselines.get(names[0], {}))  # matplotlib lists plain lines, the baselines, first
    handles, labels = handles[n_levels:] + handles[:n_levels], labels[n_levels:] + labels[:n_levels]
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=11, frameon=False)
    return figure


def dose_response(controls: Mapping[str, ControlVector]) -> Figure:
    """Draw what each strength did to the decoded sound: one column per property moved, one row per property measured.

    Framed panels show the property that was moved; the others should stay at zero.

    Parameters
    ----------
    controls : dict of ControlVector
        Calibrated, as in a bundle: ``loudness`` and, as its baseline on raw latents, ``loudness/latents``.
    """
    calibrated = {key: control for key, control in controls.items() if len(control.doses)}
    names = [name for name in AXES if any(control.property == name for control in calibrated.values())]
    figure = new_figure(8.0)
    panels = figure.subplots(3, len(names), squeeze=False)
    for column, name in enumerate(names):
        mine = {key: control for key, control in calibrated.items() if control.property == name}
        for row, measured in enumerate(AXES):
            _responses(panels[row, column], mine, name, measured)
        unit = "strength" if name == "pitch" else f"strength (nominal {UNITS[name]})"
        panels[2, column].set_xlabel(unit, fontsize=12)
        panels[0, column].set_title(f"moving {name}", fontsize=13, loc="left", fontweight="bold")
    labelled = {label: line for ax in panels.flat for line, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(labelled.values(), labelled.keys(), loc="outside lower center", ncols=4, fontsize=11, frameon=False)
    return figure


def isolation_matrix(trials: Sequence[Mapping], spread: Sequence[float]) -> Figure:
    """Draw what each request changed: the property asked for, and the two that should have stayed.

    Parameters
    ----------
    trials : sequence of dict
        ``property``, ``asked`` (semitones, dB or octaves) and ``change`` (three numbers: semitones, dB, octaves).
    spread : sequence of 3 floats
        Standard deviation of each property in the data, which makes the three comparable and sets the colours.
    """
    figure = new_figure(2.0 + 0.42 * len(trials))
    ax = figure.subplots()
    change = np.array([[np.nan if c is None else c for c in trial["change"]] for trial in trials])
    scaled = np.abs(change / np.array(spread))
    top = max(1.0, np.nanmax(scaled, initial=0))
    image = ax.imshow(np.nan_to_num(scaled), aspect="auto", cmap=MAP, vmin=0, vmax=top)
    for i, trial in enumerate(trials):
        for j, name in enumerate(AXES):
            asked = name == trial["property"]
            colour, weight = "black" if scaled[i, j] > 0.55 * top else "white", "bold" if asked else "normal"
            text = _amount(change[i, j], name)
            ax.text(j, i, text, ha="center", va="center", color=colour, fontsize=11, fontweight=weight)
            if asked:
                ax.add_patch(_frame(j, i))
    ax.set_xticks(range(3), [f"change of {name}" for name in AXES])
    ax.set_yticks(range(len(trials)), [f"{t['property']} {t['asked']:+g} {UNITS[t['property']]}" for t in trials])
    dress(ax, "", "asked for", "what each request changed; framed: what was asked for")
    colorbar(figure, image, ax, "standard deviations")
    return figure


def tuning_map(atlas: Atlas, properties: Mapping[str, Property]) -> Figure:
    """Draw the tuning curves of all named features, sorted by their preferred class.

    Parameters
    ----------
    atlas : Atlas
        The atlas.
    properties : dict of Property
        Its properties.
    """
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(5.4)
    panels = figure.subplots(1, len(properties), squeeze=False)[0]
    for ax, (name, prop) in zip(panels, properties.items(), strict=True):
        rate = atlas.tuning[name].rate
        chosen = [i for i, feature in enumerate(atlas.names) if feature.property == name]
        chosen.sort(key=lambda i: (int(rate[i].argmax()), i))
        dress(ax, prop.name, "named features" if ax is panels[0] else "", f"{len(chosen)} features named after {name}")
        if not chosen:
            ax.text(0.5, 0.5, "none", ha="center", va="center", transform=ax.transAxes, fontsize=14, color=GREY)
            ax.set_xticks([]), ax.set_yticks([])
            continue
        curves = (rate[chosen] / rate[chosen].amax(1, keepdim=True)).numpy()
        extent = (prop.edges[0], prop.edges[-1], len(chosen), 0)
        image = ax.imshow(curves, aspect="auto", cmap=MAP, vmin=0, vmax=1, extent=extent, interpolation="nearest")
        ax.yaxis.set_major_locator(MaxNLocator(6, integer=True))
        class_ticks(ax, prop, horizontal=True)
    if any(ax.images for ax in panels):
        colorbar(figure, image, panels, "firing rate / highest of the feature")
    return figure


def bundle_figures(bundle: Bundle) -> dict[str, bytes]:
    """Return the figures of a bundle's card as PNG files, those that its metrics allow."""
    metrics, figures = bundle.metrics, {}
    if bundle.history:
        figures["training.png"] = training_curves(bundle.history)
    if metrics.get("probes"):
        figures["probes.png"] = probe_scores(metrics["probes"])
    if any(len(control.doses) for control in bundle.controls.values()):
        figures["dose_response.png"] = dose_response(bundle.controls)
    if trials := shown_trials(metrics):
        figures["isolation.png"] = isolation_matrix(trials, metrics["control"]["spread"])
    figures["tuning.png"] = tuning_map(bundle.atlas, bundle.properties)
    return {name: png(figure) for name, figure in figures.items()}


def shown_trials(metrics: Mapping) -> list[Mapping]:
    """Return the trials of the SAE's directions: closed loop, as ``steer`` works, where it was measured."""
    trials = [trial for trial in metrics.get("control", {}).get("trials", []) if trial["via"] == "acts"]
    return [trial for trial in trials if trial.get("held")] or trials


def _amount(change: float, name: str) -> str:
    """A measured change with its unit."""
    if np.isnan(change):
        return "not measured"
    text = f"{change:+.2f}" if name == "brightness" else f"{change:+.1f}"
    return f"{text if float(text) else '0'} {UNITS[name]}"


def _frame(column: int, row: int) -> Rectangle:
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.48, row - 0.46), 0.96, 0.92, fill=False, edgecolor=RED, linewidth=2.5)


def _seed_ranges(points: Sequence[Mapping], x: str) -> tuple[list, list, list, list]:
    """Mean x and accuracy of each setting, in order of x, with the distance down and up to the extremes over seeds."""
    groups: dict = {}
    for point in points:
        groups.setdefault(point.get("setting", point[x]), []).append(point)
    rows = []
    for group in groups.values():
        values = [point["accuracy"] for point in group]
        mean = sum(values) / len(values)
        rows.append((sum(point[x] for point in group) / len(group), mean, mean - min(values), max(values) - mean))
    rows.sort()
    at, mean, down, up = ([row[i] for row in rows] for i in range(4))
    return at, mean, down, up


def _responses(ax: Axes, controls: Mapping[str, ControlVector], moved: str, measured: str) -> None:
    """One panel of the dose-response: what moving one property did to one measured property."""
    hits = moved == measured and not next(iter(controls.values())).is_axis
    values = {key: (c.hit_rate if hits else c.responses[:, AXES.index(measured)]).numpy() for key, c in controls.items()}
    for key, control in controls.items():
        style = (BLUE, "o", "from SAE features") if "/" not in key else (ORANGE, "s", f"baseline: {READERS[control.via]}")
        ax.plot(control.doses.numpy(), values[key], color=style[0], marker=style[1], markersize=5, linewidth=2, label=style[2])
    dress(ax, "", "notes hit within 50 cents" if hits else f"{measured} ({UNITS[measured]})", grid=True)
    if moved == measured:
        for spine in ax.spines.values():
            spine.set(visible=True, color=RED, linewidth=2)
    if hits:
        ax.set_ylim(0, 1.02)
    elif moved == measured:
        doses = next(iter(controls.values())).doses.numpy()
        ax.plot(doses, doses, color=GREY, linestyle="--", linewidth=1.5, label="nominal")
    else:
        top = max(LEAST_SPAN[measured], *(1.1 * np.nanmax(np.abs(v), initial=0) for v in values.values()))
        ax.set_ylim(-top, top)
