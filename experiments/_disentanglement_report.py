"""Tables of ``experiments.disentanglement``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import mean

import torch
from torch import Tensor

from experiments import _published as published
from experiments._singing_report import filled_table, groups_of
from sae_audio.disentanglement import top_factors
from sae_audio.factors import FAMILIES, family
from sae_audio.intervals import group_interval, mean_interval

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
Honest mode: fitted on training singers, R² of the test singers, in every row the ten factors that the dense state fits best on
the training singers, completeness on one number of dimensions. *Singers*: the held-out R² with its 95 % interval over the few
test singers (or other groups), by the jackknife: what holds for other singers. *Effective*: over how many equal dimensions a
factor is spread. *Shuffled* shows what a regression makes of no information: R² of its own clips is what more dimensions than
clips give for nothing, and a factor that is hardly predicted looks complete, so completeness counts beside R² only.
"""


def column(row: dict, name: str) -> Tensor:
    """Return a list of a row as a tensor, NaN where undefined."""
    return torch.tensor([float("nan") if value is None else value for value in row[name]])


def best_factors(row: dict, rows: Sequence[dict]) -> Tensor:
    """Return the ten factors that a row is summed up over."""
    if row["mode"] == "paper":
        return top_factors(column(row, "r2_in"), N_TOP)
    same = (one for one in rows if one["code"] == "dense" and _place(one) == _place(row))
    return top_factors(column(next(same), "r2_in"), N_TOP)  # of the training singers: the test singers choose nothing


def _place(row: dict) -> tuple:
    return row["space"], row["layer"], row["mode"]


def over_top(mine: Sequence[dict], rows: Sequence[dict], name: str) -> str:
    """Return a measure's mean over the top factors and seeds, with its interval over factors."""
    middle, low, high = mean_interval(over_factors(mine, rows, name))
    digits = 1 if name == "effective_dims" else 2
    return "" if middle != middle else f"{middle:.{digits}f}" + (f" [{low:.{digits}f}, {high:.{digits}f}]" if low == low else "")


def over_factors(mine: Sequence[dict], rows: Sequence[dict], name: str) -> Tensor:
    """Mean over seeds of each rank (paper mode) or factor (honest mode), [10]."""
    picked = torch.stack([column(row, name)[best_factors(row, rows)] for row in mine])
    return picked.nanmean(0)


def over_singers(mine: Sequence[dict], rows: Sequence[dict]) -> str:
    """Return the 95 % interval of the held-out R² of the top factors over the test singers; empty for fewer than two."""
    singers = list(mine[0]["r2_without"])
    if len(singers) < 2:
        return ""
    fewer = [[row | {"without": row["r2_without"][singer]} for row in mine] for singer in singers]
    without = [float(over_factors(some, rows, "without").nanmean()) for some in fewer]
    low, high = group_interval(float(over_factors(mine, rows, "r2_out").nanmean()), without)
    return f"{low:.2f} to {min(1.0, high):.2f}"


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
            f"{values[key][place]:.3f}" if key in values and place is not None else ""
            for values in (published.COMPLETENESS, published.INFORMATIVENESS)
        ]
        cells = [over_top(mine, rows, name) for name in ("completeness", "r2_in", "effective_dims")]
        body.append((CODES[code], _percent(sparsity), mine[0]["n_dims"], cells[0], said[0], cells[1], said[1], cells[2]))
    return filled_table(header, body)


def _honest(rows: Sequence[dict]) -> str:
    common = rows[0]["common"]
    header = (
        "",
        "sparsity",
        "dims",
        "R² held out",
        "singers",
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
        gaps = [f"{over_factors(mine, rows, name).nanmean():.3f}" for name in ("mig", "sap")]
        held, *cells = [over_top(mine, rows, name) for name in names]
        place = CODES[code], _percent(sparsity), mine[0]["n_dims"]
        body.append((*place, held, over_singers(mine, rows), *cells, f"{mean(modular):.2f}" if modular else "", *gaps))
    return filled_table(header, body)


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
    return ["Families of each representation's ten best factors:", "", filled_table(("", *FAMILIES), body)] if body else []
