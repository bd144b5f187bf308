"""Tables and figures of ``experiments.disentanglement``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import mean
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from experiments import _published as published
from experiments._singing_report import groups_of
from sae_audio.card import table
from sae_audio.disentanglement import mean_interval, top_factors
from sae_audio.factors import FAMILIES, family
from sae_audio.plots.style import BLUE, CYCLE, GREY, RED, dress, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CODES = {
    "dense": "dense state",
    "sae": "TopK SAE",
    "random": "random TopK",
    "untrained": "untrained SAE",
    "pca": "PCA",
    "ica": "ICA",
    "shuffled": "SAE, shuffled factors",
}
"""Representations in words."""
N_TOP = 10
READING = """
Means over ten factors, with 95 % bootstrap intervals over them, and over seeds. Paper mode: R² of the clips of the fit, the ten
best factors of each row, completeness on its own number of dimensions (a larger dictionary looks more complete; see *effective*).
Honest mode: fitted on training singers, R² of the test singers, the ten factors that the dense state predicts best in every row,
completeness on one number of dimensions. *Effective*: over how many equal dimensions a factor is spread. *Shuffled* shows what a
regression makes of no information: R² of its own clips is what more dimensions than clips give for nothing.
"""


def column(row: dict, name: str) -> Tensor:
    """Return a list of a row as a tensor, NaN where undefined."""
    return torch.tensor([float("nan") if value is None else value for value in row[name]])


def best_factors(row: dict, rows: Sequence[dict]) -> Tensor:
    """Return the ten factors that a row is summed up over."""
    if row["mode"] == "paper":
        return top_factors(column(row, "r2_in"), N_TOP)
    same = (one for one in rows if one["code"] == "dense" and _place(one) == _place(row))
    return top_factors(column(next(same), "r2_out"), N_TOP)


def _place(row: dict) -> tuple:
    return row["space"], row["layer"], row["mode"]


def over_top(mine: Sequence[dict], rows: Sequence[dict], name: str) -> str:
    """Return a measure's mean over the top factors and seeds, with its interval over factors."""
    middle, low, high = mean_interval(_per_factor(mine, rows, name))
    digits = 1 if name == "effective_dims" else 2
    return "" if middle != middle else f"{middle:.{digits}f}" + (f" [{low:.{digits}f}, {high:.{digits}f}]" if low == low else "")


def _per_factor(mine: Sequence[dict], rows: Sequence[dict], name: str) -> Tensor:
    """Mean over seeds of each rank (paper mode) or factor (honest mode)."""
    picked = torch.stack([column(row, name)[best_factors(row, rows)] for row in mine])
    return picked.nanmean(0)


def lines_of(rows: Sequence[dict], note: str = "") -> list[str]:
    """Return the Markdown tables."""
    lines = [note, ""] if note else []
    lines += [READING.strip(), ""]
    for (space, layer), mine in groups_of(rows, "space", "layer").items():
        lines += [f"## {space}, layer {layer}", ""]
        for mode, make in (("paper", _paper), ("honest", _honest)):
            if of_mode := [row for row in mine if row["mode"] == mode]:
                lines += [f"### {mode} mode, {of_mode[0]['n']} clips in the fit, {len(of_mode[0]['factors'])} factors", ""]
                lines += [make(of_mode), "", *families(of_mode, (space, layer)), ""]
    return lines


def _paper(rows: Sequence[dict]) -> str:
    header = ("", "sparsity", "dims", "completeness", "published", "R² in sample", "published", "effective")
    body = []
    for (code, sparsity), mine in _ordered(rows):
        key, place = (mine[0]["space"], mine[0]["layer"]), _column_of(sparsity)
        said = [
            values[key][place] if key in values and place is not None else None
            for values in (published.COMPLETENESS, published.INFORMATIVENESS)
        ]
        cells = [over_top(mine, rows, name) for name in ("completeness", "r2_in", "effective_dims")]
        body.append((CODES[code], _percent(sparsity), mine[0]["n_dims"], cells[0], said[0], cells[1], said[1], cells[2]))
    return table(header, body)


def _honest(rows: Sequence[dict]) -> str:
    common = rows[0]["common"]
    header = (
        "",
        "sparsity",
        "dims",
        "R² held out",
        "R² in sample",
        f"completeness, n = {common}",
        "effective",
        "disentanglement",
        "MIG",
        "SAP",
    )
    names = ("r2_out", "r2_in", "completeness_common", "effective_dims")
    body = []
    for (code, sparsity), mine in _ordered(rows):
        modular = [row["disentanglement"] for row in mine if row["disentanglement"] is not None]
        gaps = [f"{_per_factor(mine, rows, name).nanmean():.3f}" for name in ("mig", "sap")]
        cells = [over_top(mine, rows, name) for name in names]
        body.append(
            (CODES[code], _percent(sparsity), mine[0]["n_dims"], *cells, f"{mean(modular):.2f}" if modular else "", *gaps)
        )
    return table(header, body)


def _ordered(rows: Sequence[dict]) -> list[tuple[tuple, list[dict]]]:
    found = groups_of(rows, "code", "sparsity")
    return sorted(found.items(), key=lambda item: (list(CODES).index(item[0][0]), item[0][1] or 0))


def _column_of(sparsity: float | None) -> int | None:
    """Return the place of a sparsity in the published rows, whose last is the dense state; None where it is not among them."""
    if sparsity is None:
        return len(published.SPARSITIES)
    return published.SPARSITIES.index(sparsity) if sparsity in published.SPARSITIES else None


def _percent(sparsity: float | None) -> str:
    return "" if sparsity is None else f"{sparsity:.0%}"


def family_counts(rows: Sequence[dict], code: str = "sae") -> dict[str, float]:
    """Return how many of a representation's own ten best factors are of each family, averaged over sparsities and seeds."""
    mine = [row for row in rows if row["code"] == code]
    key, paper = ("r2_in", True) if rows[0]["mode"] == "paper" else ("r2_out", False)
    counts: Counter = Counter()
    for row in mine:
        counts.update(family(row["factors"][i], paper) for i in top_factors(column(row, key), N_TOP).tolist())
    return {name: counts[name] / len(mine) for name in FAMILIES} if mine else {}


def families(rows: Sequence[dict], key: tuple[str, int]) -> list[str]:
    """Return the table of families among the ten best factors."""
    found = {CODES[code]: family_counts(rows, code) for code in ("dense", "sae")}
    body = [(name, *(f"{counts[family]:.1f}" for family in FAMILIES)) for name, counts in found.items() if counts]
    if rows[0]["mode"] == "paper" and key in published.FAMILIES:
        body.append(("published (SAE)", *(published.FAMILIES[key].get(family) for family in FAMILIES)))
    return ["Families of each representation's ten best factors:", "", table(("", *FAMILIES), body)] if body else []


def sparsity_figure(rows: Sequence[dict]) -> Figure:
    """Draw completeness (above) and R² (below) over sparsity, a column per space and layer, beside what was published."""
    places = groups_of(rows, "space", "layer")
    figure = new_figure(8.0)
    axes = figure.subplots(2, len(places), sharex=True, sharey="row", squeeze=False)
    measures = {"paper": (("completeness", "r2_in"), RED), "honest": (("completeness_common", "r2_out"), BLUE)}
    for column_of_axes, (key, mine) in zip(axes.T, places.items(), strict=True):
        for ax, said in zip(column_of_axes, (published.COMPLETENESS, published.INFORMATIVENESS), strict=True):
            if key in said:
                ax.plot([100 * s for s in published.SPARSITIES], said[key][:-1], color=GREY, marker="o", label="published: SAE")
                ax.axhline(said[key][-1], color=GREY, linestyle=":", label="published: dense")
        for mode, (names, colour) in measures.items():
            of_mode = [row for row in mine if row["mode"] == mode]
            for ax, name in zip(column_of_axes, names, strict=True):
                _lines(ax, of_mode, name, mode, colour)
        dress(column_of_axes[0], "", "completeness", f"{key[0]}, layer {key[1]}", grid=True)
        dress(column_of_axes[1], "sparsity in %", "R² (paper: in sample, honest: held out)", grid=True)
    labelled = {label: line for ax in axes.flat for line, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(labelled.values(), labelled.keys(), loc="outside lower center", ncols=5, fontsize=11, frameon=False)
    return figure


def _lines(ax, rows: Sequence[dict], name: str, mode: str, colour: str) -> None:
    for code, mine in groups_of(rows, "code").items():
        middle = {
            sparsity: float(_per_factor(group, rows, name).nanmean())
            for (sparsity,), group in groups_of(mine, "sparsity").items()
        }
        if code == ("dense",):
            ax.axhline(middle[None], color=colour, linestyle="--", label=f"{mode}: dense")
            continue
        shade = colour if code == ("sae",) else CYCLE[list(CODES).index(code[0])]
        x = sorted(middle)
        ax.plot([100 * s for s in x], [middle[s] for s in x], color=shade, marker="s", label=f"{mode}: {CODES[code[0]]}")


def entropy_figure(rows: Sequence[dict]) -> Figure:
    """Draw completeness over the entropy of each factor for the sparsity nearest to 95 %, a panel per space and layer."""
    places = groups_of((row for row in rows if row["code"] == "sae" and row["seed"] == 0), "space", "layer")
    figure = new_figure(4.4)
    axes = figure.subplots(1, len(places), sharey=True, squeeze=False)[0]
    for ax, (key, mine) in zip(axes, places.items(), strict=True):
        nearest = min({row["sparsity"] for row in mine}, key=lambda sparsity: abs(sparsity - 0.95))
        for row in (row for row in mine if row["sparsity"] == nearest):
            colour = RED if row["mode"] == "paper" else BLUE
            name = "completeness" if row["mode"] == "paper" else "completeness_common"
            ax.scatter(column(row, "entropy"), column(row, name), color=colour, s=22, label=f"{row['mode']} mode")
        dress(
            ax,
            "entropy of the factor in bits",
            "completeness" if ax is axes[0] else "",
            f"{key[0]}, layer {key[1]}, {nearest:.0%}",
            grid=True,
        )
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=11, frameon=False)
    return figure


def family_figure(rows: Sequence[dict]) -> Figure:
    """Draw how many of the ten best factors are of each family, for the SAE and as published."""
    places = groups_of(rows, "space", "layer")
    figure = new_figure(4.4)
    axes = figure.subplots(1, len(places), sharey=True, squeeze=False)[0]
    for ax, (key, mine) in zip(axes, places.items(), strict=True):
        bars = {
            f"{mode} mode": family_counts([row for row in mine if row["mode"] == mode]) for (mode,) in groups_of(mine, "mode")
        }
        if key in published.FAMILIES:
            bars["published"] = published.FAMILIES[key]
        for i, (label, counts) in enumerate(bars.items()):
            x = [place + (i - (len(bars) - 1) / 2) * 0.8 / len(bars) for place in range(len(FAMILIES))]
            colour = {"paper mode": RED, "honest mode": BLUE}.get(label, GREY)
            ax.bar(x, [counts.get(name, 0) for name in FAMILIES], width=0.8 / len(bars), color=colour, label=label)
        ax.set_xticks(range(len(FAMILIES)), FAMILIES, rotation=45, ha="right")
        dress(ax, "", "of the ten best factors" if ax is axes[0] else "", f"{key[0]}, layer {key[1]}")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=11, frameon=False)
    return figure
