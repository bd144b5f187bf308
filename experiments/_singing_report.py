"""Tables of ``experiments.singing``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import mean, stdev

from experiments import _published as published
from sae_audio.intervals import group_interval, proportion_interval
from sae_audio.markdown import markdown_table

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
the number of clips alone (Wilson; ±4 points at 400). *Singers*: 95 % over the few test singers (or other groups), by the
jackknife, which is what holds for other singers.
"""
COMPARING = """
*Difference*: paper mode minus published; **bold** where it is beyond 4 points. Of the published rows only AST's come from code
without a known defect.
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
    """Return the 95 % jackknife interval of the accuracy over whole groups, in per cent; empty for fewer than two."""
    counts: dict[str, list[int]] = {}
    for name, (hits, n) in ((name, pair) for row in rows for name, pair in row["by_group"].items()):
        counts[name] = [sum(pair) for pair in zip(counts.get(name, (0, 0)), (hits, n), strict=True)]
    if len(counts) < 2:
        return ""

    def accuracy(left_out: str | None) -> float:
        return sum(c[0] for name, c in counts.items() if name != left_out) / sum(
            c[1] for name, c in counts.items() if name != left_out
        )

    low, high = group_interval(accuracy(None), [accuracy(name) for name in counts])
    return _ends(max(0.0, low), min(1.0, high))


def _ends(low: float, high: float) -> str:
    return f"{100 * low:.0f} to {100 * high:.0f}"


def exact(said: float | None) -> str:
    """Return a published accuracy with all its digits; empty where there is none."""
    return "" if said is None else f"{said:g}"


def difference(rows: Sequence[dict], said: float | None) -> str:
    """Return ours minus the published accuracy in points, bold beyond 4; empty where either is missing."""
    if not rows or said is None:
        return ""
    points = 100 * mean(row["accuracy"] for row in rows) - said
    return f"**{points:+.1f}**" if abs(points) > 4 else f"{points:+.1f}"


def lines_of(rows: Sequence[dict], note: str = "") -> list[str]:
    """Return the Markdown tables of all spaces."""
    lines = [note, ""] if note else []
    lines += [READING.strip(), *([COMPARING.strip()] if any(row["space"] in published.LAYERS for row in rows) else []), ""]
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
        body.append((layer, exact(said), *cells, percent(honest), percent(honest, "balanced"), singer_interval(honest)))
    return ["### Probes on hidden states", "", filled_table(header, body)]


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
        body.append((f"{sparsity:.0%}", exact(said), percent(paper), difference(paper, said), *cells, *lost))
    dense = groups_of((row for row in all_rows if row["code"] == "dense" and row["layer"] == layer), "mode")
    said, paper = published.code_accuracy(space, layer, None), dense.get(("paper",), [])
    cells = [percent(dense.get(("honest",), [])), *[""] * (len(codes) - 1)]
    body.append(("dense", exact(said), percent(paper), difference(paper, said), *cells, "", ""))
    return [f"### Probes on codes of layer {layer}", "", filled_table(header, body)]


def filled_table(header: Sequence[str], body: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table without the columns that no row fills."""
    kept = [i for i in range(len(header)) if any(row[i] not in (None, "") for row in body)]
    return markdown_table([header[i] for i in kept], [[row[i] for i in kept] for row in body])
