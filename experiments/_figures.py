"""Figures of ``experiments.singing`` and ``experiments.disentanglement``: our fits beside what was published."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import mean
from typing import TYPE_CHECKING

from experiments import _published as published
from experiments._disentanglement_report import CODES as REPRESENTATIONS
from experiments._disentanglement_report import column, family_counts, over_factors
from experiments._singing_report import CODES, groups_of
from sae_audio.factors import FAMILIES
from sae_audio.plots.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY, dress, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MODES = {"paper": RED, "honest": BLUE}
COLOURS = {
    "frames": ORANGE,
    "random": GREEN,
    "untrained": PURPLE,
    "pca": SKY,
    "ica": BLACK,
    "shuffled": "#B0B0B0",
}
"""Of everything but the SAE, which has its mode's."""
STAMP = "Demonstration on synthesised voices and random weights: no claim follows"
COLUMNS = 4
Panel = Callable[["Sequence[Axes]", tuple, Sequence[dict]], None]


def stamped(figure: Figure, demo: bool) -> Figure:
    """Return a figure that says on itself where nothing follows from it."""
    if demo:
        figure.suptitle(STAMP, fontsize=12, color=RED)
    return figure


def layer_figure(rows: Sequence[dict]) -> Figure:
    """Draw accuracy over the hidden states, a panel per space, beside the published curve with its ±4 points."""

    def draw(axes: Sequence[Axes], key: tuple, mine: Sequence[dict]) -> None:
        (space,), (ax,) = key, axes
        if said := published.LAYERS.get(space):
            _published(ax, range(len(said)), said, band=4, label="published, ±4 points")
        for mode, colour in MODES.items():
            _curve(ax, [row for row in mine if row["mode"] == mode], "layer", "accuracy", f"{mode} mode", colour, scale=100)
        ax.locator_params(axis="x", integer=True)

    dense = groups_of((row for row in rows if row["code"] == "dense"), "space")
    return _panels(dense, draw, "hidden state", ["accuracy in %"])


def code_figure(rows: Sequence[dict]) -> Figure:
    """Draw accuracy of probes on codes over sparsity, a panel per space and layer; dashed: on the hidden state itself."""

    def draw(axes: Sequence[Axes], key: tuple, mine: Sequence[dict]) -> None:
        (ax,) = axes
        if said := published.CODES.get(key):
            points = [(100 * s, value) for s, value in zip(published.SPARSITIES, said, strict=True) if value is not None]
            _published(ax, *zip(*points, strict=True), band=4, label="published, ±4 points")
            ax.axhline(published.code_accuracy(*key, None), color=GREY, linestyle="--", label="published: dense")
        dense = groups_of((row for row in rows if row["code"] == "dense" and (row["space"], row["layer"]) == key), "mode")
        for (mode,), of_mode in dense.items():
            level = 100 * mean(row["accuracy"] for row in of_mode)
            ax.axhline(level, color=MODES[mode], linestyle="--", label=f"{mode} mode: dense")
        for (mode, code), of_code in groups_of(mine, "mode", "code").items():
            label, colour = f"{mode} mode: {CODES[code]}", COLOURS.get(code, MODES[mode])
            _curve(ax, of_code, "sparsity", "accuracy", label, colour, scale=100, percent=True)

    coded = groups_of((row for row in rows if row["code"] != "dense"), "space", "layer")
    return _panels(coded, draw, "sparsity in %", ["accuracy in %"])


def error_figure(rows: Sequence[dict]) -> Figure:
    """Draw what the SAEs lose over sparsity: squared error as published, and the share of the variance."""

    def draw(axes: Sequence[Axes], key: tuple, mine: Sequence[dict]) -> None:
        above, below = axes
        if said := published.ERRORS.get(key):
            _published(above, [100 * sparsity for sparsity in published.SPARSITIES], said, label="published")
        by_mode = groups_of(mine, "mode")
        _curve(above, by_mode.get(("paper",), []), "sparsity", "mse", "paper mode", RED, percent=True)
        for (mode,), of_mode in by_mode.items():
            _curve(below, of_mode, "sparsity", "fvu", f"{mode} mode", MODES[mode], percent=True)
        above.set_yscale("log")
        above.yaxis.set_major_formatter("{x:g}")
        above.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")
        below.axhline(0, color="none")  # the scale begins at 0

    coded = groups_of((row for row in rows if row["code"] == "sae"), "space", "layer")
    return _panels(coded, draw, "sparsity in %", ["squared error per channel", "unexplained variance"])


def sparsity_figure(rows: Sequence[dict]) -> Figure:
    """Draw completeness, R² and effective dimensions over sparsity, a column per space and layer; dashed: the dense state."""
    measures = {
        "paper": ("completeness", "r2_in", "effective_dims"),
        "honest": ("completeness_common", "r2_out", "effective_dims"),
    }

    def draw(axes: Sequence[Axes], key: tuple, mine: Sequence[dict]) -> None:
        for ax, said in zip(axes, (published.COMPLETENESS, published.INFORMATIVENESS), strict=False):
            if key in said:
                _published(ax, [100 * sparsity for sparsity in published.SPARSITIES], said[key][:-1], label="published: SAE")
                ax.axhline(said[key][-1], color=GREY, linestyle="--", label="published: dense")
        for (mode,), of_mode in groups_of(mine, "mode").items():
            for ax, name in zip(axes, measures[mode], strict=True):
                _representations(ax, of_mode, name, mode)

    ylabels = ["completeness", "R² (paper: in sample,\nhonest: held out)", "effective dimensions"]
    return _panels(groups_of(rows, "space", "layer"), draw, "sparsity in %", ylabels)


def _representations(ax: Axes, rows: Sequence[dict], name: str, mode: str) -> None:
    """Draw a measure of every representation of one mode, averaged over its factors and seeds."""
    for (code,), mine in groups_of(rows, "code").items():
        by_sparsity = groups_of(mine, "sparsity").items()
        middle = {sparsity: float(over_factors(group, rows, name).nanmean()) for (sparsity,), group in by_sparsity}
        if code == "dense":
            ax.axhline(middle[None], color=MODES[mode], linestyle="--", label=f"{mode}: dense")
            continue
        colour, x = COLOURS.get(code, MODES[mode]), sorted(middle)
        style = ":" if code == "shuffled" else "-"
        label = f"{mode}: {REPRESENTATIONS[code]}"
        ax.plot([100 * s for s in x], [middle[s] for s in x], style, color=colour, marker="s", markersize=5, label=label)
        _percent_ticks(ax, x)


def entropy_figure(rows: Sequence[dict]) -> Figure:
    """Draw completeness over the entropy of each factor for the sparsity nearest to 95 %, a panel per space and layer."""

    def draw(axes: Sequence[Axes], key: tuple, mine: Sequence[dict]) -> None:
        (ax,) = axes
        nearest = min({row["sparsity"] for row in mine}, key=lambda sparsity: abs(sparsity - 0.95))
        for row in (row for row in mine if row["sparsity"] == nearest):
            name = "completeness" if row["mode"] == "paper" else "completeness_common"
            label = f"{row['mode']} mode, {nearest:.0%} sparsity"
            ax.scatter(column(row, "entropy"), column(row, name), color=MODES[row["mode"]], s=22, alpha=0.8, label=label)

    first = groups_of((row for row in rows if row["code"] == "sae" and row["seed"] == 0), "space", "layer")
    return _panels(first, draw, "entropy of the factor in bits", ["completeness"])


def family_figure(rows: Sequence[dict]) -> Figure:
    """Draw how many of the ten best factors are of each family, for the SAE and as published."""

    def draw(axes: Sequence[Axes], key: tuple, mine: Sequence[dict]) -> None:
        (ax,) = axes
        bars = {f"{mode} mode": (family_counts(of_mode), MODES[mode]) for (mode,), of_mode in groups_of(mine, "mode").items()}
        if key in published.FAMILIES:
            bars["published"] = published.FAMILIES[key], GREY
        for i, (label, (counts, colour)) in enumerate(bars.items()):
            x = [place + (i - (len(bars) - 1) / 2) * 0.8 / len(bars) for place in range(len(FAMILIES))]
            ax.bar(x, [counts.get(name, 0) for name in FAMILIES], width=0.8 / len(bars), color=colour, label=label)
        ax.set_xticks(range(len(FAMILIES)), FAMILIES, rotation=45, ha="right")

    return _panels(groups_of(rows, "space", "layer"), draw, "", ["of the ten best factors"])


def _panels(places: dict[tuple, list[dict]], draw: Panel, xlabel: str, ylabels: Sequence[str]) -> Figure:
    """Draw a column of panels per place, one panel per measure, ``COLUMNS`` beside each other; a measure has one scale."""
    n, columns = len(ylabels), min(COLUMNS, len(places))
    bands = -(-len(places) // columns)
    figure = new_figure(1.1 + bands * (3.6 if n == 1 else 2.6 * n))
    axes = figure.subplots(bands * n, columns, squeeze=False)
    for ax in axes.flat:
        ax.set_visible(False)
    for i, (key, rows) in enumerate(places.items()):
        band, place = divmod(i, columns)
        mine = axes[band * n : (band + 1) * n, place]
        for ax, first in zip(mine, axes[:n, 0], strict=True):
            ax.set_visible(True)
            if ax is not first:
                ax.sharey(first)
        draw(mine, key, rows)
        for number, (ax, ylabel) in enumerate(zip(mine, ylabels, strict=True)):
            title = ", layer ".join(map(str, key)) if number == 0 else ""
            dress(ax, xlabel if number == n - 1 else "", ylabel if place == 0 else "", title, grid=True)
            ax.tick_params(labelleft=place == 0, which="both")
    labelled = {label: line for ax in axes.flat for line, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(labelled.values(), labelled.keys(), loc="outside lower center", ncols=4, fontsize=11, frameon=False)
    return figure


def _published(ax: Axes, x: Iterable[float], y: Sequence[float], label: str, band: float = 0) -> None:
    x = list(x)
    ax.plot(x, y, color=GREY, marker="o", markersize=5, label=label)
    if band:
        ax.fill_between(x, [value - band for value in y], [value + band for value in y], color=GREY, alpha=0.2, linewidth=0)


def _curve(
    ax: Axes, rows: Sequence[dict], key: str, value: str, label: str, colour: str, *, scale: float = 1, percent: bool = False
) -> None:
    """Draw the mean over seeds with its range."""
    points = {x: [scale * row[value] for row in mine] for (x,), mine in sorted(groups_of(rows, key).items())}
    if not points:
        return
    x, middle = [100 * x if percent else x for x in points], [mean(values) for values in points.values()]
    ends = [[m - min(v) for m, v in zip(middle, points.values(), strict=True)]]
    ends += [[max(v) - m for m, v in zip(middle, points.values(), strict=True)]]
    ax.errorbar(x, middle, yerr=ends, color=colour, marker="s", markersize=5, capsize=3, label=label)
    if percent:
        _percent_ticks(ax, points)


def _percent_ticks(ax: Axes, sparsities: Iterable[float]) -> None:
    """Put a tick at each sparsity that was fitted."""
    percents = sorted({round(100 * sparsity, 6) for sparsity in sparsities})
    ax.set_xticks(percents, [f"{percent:g}" for percent in percents])
