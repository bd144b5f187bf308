"""Tables and figures of ``experiments.singing``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import mean, stdev
from typing import TYPE_CHECKING

import torch

from experiments import _published as published
from sae_audio.card import table
from sae_audio.denoising import bootstrap
from sae_audio.metrics import proportion_interval
from sae_audio.plots.style import BLACK, BLUE, CYCLE, GREY, RED, dress, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MODES = {"paper": ("paper mode", RED), "honest": ("honest mode", BLUE)}
CODES = {
    "sae": "TopK SAE",
    "frames": "SAE per frame",
    "random": "random TopK",
    "untrained": "untrained SAE",
    "pca": "PCA",
}
"""Codes in words."""
READING = """
Accuracy in per cent on clips of singers that nothing was fitted on; mean ± standard deviation over seeds. *Interval*: 95 % from
the number of clips alone (Wilson; ±4 points at 400). *Singers*: 95 % when whole singers are drawn again, which is what can be
said about another singer. *Difference*: paper mode minus published; **bold** where it is beyond 4 points. Of the published rows
only AST's come from code without a known defect.
"""


def groups_of(rows: Iterable[dict], *keys: str) -> dict[tuple, list[dict]]:
    """Return the rows by the values of some keys, in order of appearance."""
    found: dict[tuple, list[dict]] = {}
    for row in rows:
        found.setdefault(tuple(row[key] for key in keys), []).append(row)
    return found


def percent(rows: Sequence[dict], key: str = "accuracy") -> str:
    """Return the mean over seeds in per cent with the standard deviation where there are several; empty without rows."""
    values = [100 * row[key] for row in rows]
    return "" if not values else f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def clip_interval(rows: Sequence[dict]) -> str:
    """Return Wilson's 95 % interval of the mean accuracy over the clips, in per cent."""
    if not rows:
        return ""
    n = rows[0]["n"]
    return _ends(*proportion_interval(round(mean(row["accuracy"] for row in rows) * n), n))


def singer_interval(rows: Sequence[dict]) -> str:
    """Return the 95 % bootstrap interval of the accuracy when whole groups are drawn again, in per cent."""
    names = sorted({name for row in rows for name in row["by_group"]})
    if len(names) < 2:
        return ""
    right, members = [], []
    for name, hits, n in ((name, *counts) for row in rows for name, counts in row["by_group"].items()):
        right += [1.0] * hits + [0.0] * (n - hits)
        members += [names.index(name)] * n
    band = bootstrap(torch.tensor(right)[:, None], groups=torch.tensor(members))
    return _ends(band.low.item(), band.high.item())


def _ends(low: float, high: float) -> str:
    return f"{100 * low:.0f} to {100 * high:.0f}"


def difference(rows: Sequence[dict], said: float | None) -> str:
    """Return ours minus the published accuracy in points, bold beyond 4; empty where either is missing."""
    if not rows or said is None:
        return ""
    points = 100 * mean(row["accuracy"] for row in rows) - said
    return f"**{points:+.1f}**" if abs(points) > 4 else f"{points:+.1f}"


def lines_of(rows: Sequence[dict], note: str = "") -> list[str]:
    """Return the Markdown tables of all spaces."""
    lines = [note, ""] if note else []
    lines += [READING.strip(), ""]
    for (space,), mine in groups_of(rows, "space").items():
        n, n_classes = mine[0]["n"], mine[0]["n_classes"]
        lines += [f"## {space}: {n} test clips, {n_classes} classes, {len({row['seed'] for row in mine})} seeds", ""]
        if space in published.DEFECTS:
            lines += [f"Defects of the published run: {published.DEFECTS[space]}. It has {published.N_TEST} test clips.", ""]
        lines += [*_dense(space, mine), ""]
        for (layer,), of_layer in groups_of((row for row in mine if row["code"] != "dense"), "layer").items():
            lines += [*_codes(space, layer, of_layer, mine), ""]
    return lines


def _dense(space: str, rows: Sequence[dict]) -> list[str]:
    header = ("layer", "published", "paper mode", "interval", "difference", "honest mode", "balanced", "singers")
    body = []
    for (layer,), mine in sorted(groups_of((row for row in rows if row["code"] == "dense"), "layer").items()):
        paper, honest = ([row for row in mine if row["mode"] == mode] for mode in ("paper", "honest"))
        said = published.code_accuracy(space, layer, None)
        cells = (percent(paper), clip_interval(paper), difference(paper, said))
        body.append((layer, said, *cells, percent(honest), percent(honest, "balanced"), singer_interval(honest)))
    return ["### Probes on hidden states", "", table(header, body)]


def _codes(space: str, layer: int, rows: Sequence[dict], all_rows: Sequence[dict]) -> list[str]:
    codes = [code for code in CODES if any(row["code"] == code for row in rows)]
    header = ("sparsity", "published", "paper mode", "difference", *(f"honest: {CODES[code]}" for code in codes), "fvu", "dead")
    body = []
    for (sparsity,), mine in sorted(groups_of(rows, "sparsity").items()):
        by = groups_of(mine, "mode", "code")
        paper, said = by.get(("paper", "sae"), []), published.code_accuracy(space, layer, sparsity)
        honest = by.get(("honest", "sae"), [])
        lost = (f"{mean(row['fvu'] for row in honest):.3f}", f"{mean(row['dead'] for row in honest):.0%}") if honest else ("", "")
        cells = [percent(by.get(("honest", code), [])) for code in codes]
        body.append((f"{sparsity:.0%}", said, percent(paper), difference(paper, said), *cells, *lost))
    dense = groups_of((row for row in all_rows if row["code"] == "dense" and row["layer"] == layer), "mode")
    said, paper = published.code_accuracy(space, layer, None), dense.get(("paper",), [])
    cells = [percent(dense.get(("honest",), [])), *[""] * (len(codes) - 1)]
    body.append(("dense", said, percent(paper), difference(paper, said), *cells, "", ""))
    return [f"### Probes on codes of layer {layer}", "", table(header, body)]


def layer_figure(rows: Sequence[dict]) -> Figure:
    """Draw accuracy over the hidden states, a panel per space, beside the published curve with its ±4 points."""
    dense = groups_of((row for row in rows if row["code"] == "dense"), "space")

    def draw(ax: Axes, space: str, mine: Sequence[dict]) -> None:
        if said := published.LAYERS.get(space):
            _published(ax, range(len(said)), said)
        for mode, (label, colour) in MODES.items():
            _curve(ax, [row for row in mine if row["mode"] == mode], "layer", lambda row: 100 * row["accuracy"], label, colour)

    panels = {space: (mine, space) for (space,), mine in dense.items()}
    return _panels(panels, draw, "hidden state", "accuracy in %")


def code_figure(rows: Sequence[dict]) -> Figure:
    """Draw accuracy of probes on codes over sparsity, a panel per space and layer."""
    coded = groups_of((row for row in rows if row["code"] != "dense"), "space", "layer")

    def draw(ax: Axes, title: tuple[str, int], mine: Sequence[dict]) -> None:
        said = published.CODES.get(title)
        if said:
            points = [(100 * s, value) for s, value in zip(published.SPARSITIES, said, strict=True) if value is not None]
            _published(ax, *zip(*points, strict=True))
        for (mode, code), group in groups_of(mine, "mode", "code").items():
            colour = MODES[mode][1] if code == "sae" else CYCLE[2 + list(CODES).index(code)]
            _curve(ax, group, "sparsity", lambda row: 100 * row["accuracy"], f"{MODES[mode][0]}: {CODES[code]}", colour, 100)

    panels = {key: (mine, f"{key[0]}, layer {key[1]}") for key, mine in coded.items()}
    return _panels(panels, draw, "sparsity in %", "accuracy in %")


def error_figure(rows: Sequence[dict]) -> Figure:
    """Draw what the SAEs lose over sparsity: squared error as published (paper mode) and fvu (both modes)."""
    coded = groups_of((row for row in rows if row["code"] == "sae"), "space", "layer")

    def draw(ax: Axes, title: tuple[str, int], mine: Sequence[dict]) -> None:
        if said := published.ERRORS.get(title):
            percents = [100 * sparsity for sparsity in published.SPARSITIES]
            ax.plot(percents, said, color=GREY, marker="o", label="published: squared error")
        for mode, group in ((mode, [row for row in mine if row["mode"] == mode]) for mode in MODES):
            label, colour = MODES[mode]
            _curve(ax, group, "sparsity", lambda row: row["fvu"], f"{label}: fvu", colour, 100)
        paper = [row for row in mine if row["mode"] == "paper"]
        _curve(ax, paper, "sparsity", lambda row: row["mse"], "paper mode: squared error", BLACK, 100)
        ax.set_yscale("log")

    panels = {key: (mine, f"{key[0]}, layer {key[1]}") for key, mine in coded.items()}
    return _panels(panels, draw, "sparsity in %", "lost")


def _panels(panels: dict, draw: Callable[[Axes, object, Sequence[dict]], None], xlabel: str, ylabel: str) -> Figure:
    columns = min(4, len(panels))
    figure = new_figure(1.0 + 3.6 * -(-len(panels) // columns))
    axes = figure.subplots(-(-len(panels) // columns), columns, sharey=True, squeeze=False)
    for i, (ax, (key, (rows, title))) in enumerate(zip(axes.flat, panels.items(), strict=False)):
        draw(ax, key, rows)
        dress(ax, xlabel, ylabel if i % columns == 0 else "", title, grid=True)
    for ax in axes.flat[len(panels) :]:
        ax.set_visible(False)
    labelled = {label: line for ax in axes.flat for line, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(labelled.values(), labelled.keys(), loc="outside lower center", ncols=4, fontsize=11, frameon=False)
    return figure


def _published(ax: Axes, x: Iterable[float], y: Sequence[float]) -> None:
    x = list(x)
    ax.plot(x, y, color=GREY, marker="o", label="published, ±4 points")
    ax.fill_between(x, [value - 4 for value in y], [value + 4 for value in y], color=GREY, alpha=0.2, linewidth=0)


def _curve(
    ax: Axes, rows: Sequence[dict], key: str, value: Callable[[dict], float], label: str, colour: str, factor: int = 1
) -> None:
    """Draw the mean over seeds with its range."""
    points = {x: [value(row) for row in mine] for (x,), mine in sorted(groups_of(rows, key).items())}
    if points:
        x, middle = [factor * x for x in points], [mean(values) for values in points.values()]
        spread = [[m - min(v) for m, v in zip(middle, points.values(), strict=True)]]
        spread += [[max(v) - m for m, v in zip(middle, points.values(), strict=True)]]
        ax.errorbar(x, middle, yerr=spread, color=colour, marker="s", markersize=5, capsize=3, label=label)
