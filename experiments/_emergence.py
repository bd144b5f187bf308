"""Bands, tables and panels of ``experiments.emergence``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sae_audio.control import AXES
from sae_audio.denoising import bootstrap, crossing
from sae_audio.plots.denoising import LOOKS, ROWS, Line
from sae_audio.report import table

LISTEN_EVERY = 3
"""Every how many points x̂₁ is decoded and measured."""
READERS = {"acts": "SAE features", "latents": "raw latents"}
CLAIMS = """
What can be said from this: at which point the probes' reading, or the measured sound, of a property has the class that it ends
with, for this generator and these prompts, and how much of the rise of an x_t curve real sound shows as well.

What cannot: that a property is *decided* where x_t becomes readable (compare the control); that it can still be *moved* until
then, or no longer after (that is an intervention: `python -m experiments.window_steering`); an order of properties from classes
of different widths and probes of different accuracy (the last column); anything about DiffRhythm from étude-flow, which is small
and has learnt synthesised music. Eq. 4 is 0 and 1 at its ends by construction and not bounded between.
"""


def summary(rows: Sequence[dict], steps: int) -> dict:
    """Return bands over prompts: by conditions, property, ``reader/signal`` and curve."""
    listened = [*range(0, steps - 1, LISTEN_EVERY), steps - 1]
    out: dict = {}
    for conditions in dict.fromkeys(row["conditions"] for row in rows):
        mine = [row for row in rows if row["conditions"] == conditions]
        out[conditions] = {}
        for name in (axis for axis in AXES if axis in mine[0]["generated"]):
            entry = out[conditions][name] = {}
            for source in ("generated", "control"):
                for key in mine[0]["generated"][name]:
                    if source == "control" and key == "measured":
                        continue
                    if found := bands([row for row in mine if source in row], source, name, key, listened):
                        entry[f"{key} control" if source == "control" else key] = found
            for reader in READERS:
                if {f"{reader}/x_t", f"{reader}/x_t control"} <= set(entry):
                    entry[f"{reader}/x_t"]["later than control"] = delay(mine, name, f"{reader}/x_t")
    return out


def bands(rows: Sequence[dict], source: str, name: str, key: str, listened: Sequence[int]) -> dict:
    """Return mean, low and high of each curve over songs, drawn by prompt, and of the point that it is decided at.

    A curve that no song has is left out; nothing is left where no song ends with a class, as pitch does where nothing is voiced.
    """
    if not rows:
        return {}
    out: dict = {}
    for curve in rows[0][source][name][key]:
        values = [(row["prompt"], song) for row in rows for song in row[source][name][key][curve]]
        groups = torch.tensor([prompt for prompt, _ in values])
        if curve == "right":
            finite = [song for _, song in values if song is not None and song == song]
            out[curve] = sum(finite) / len(finite) if finite else None
            continue
        matrix = torch.tensor([[float("nan") if value is None else value for value in song] for _, song in values]).double()
        if bool(matrix.isnan().any(-1).all()):
            continue
        band = bootstrap(matrix, groups=groups)
        out[curve] = {end: _rounded(values) for end, values in band._asdict().items()}
        out[curve]["median"] = _rounded(matrix.nanquantile(0.5, dim=0))
        out[curve]["n_songs"] = int((~matrix.isnan().any(-1)).sum())
        if curve == "agreement":
            points = torch.tensor(listened if key == "measured" else range(matrix.shape[1]), dtype=torch.float64)
            at = bootstrap(matrix, groups=groups, of=lambda means, points=points: _place(crossing(means), points))
            out["decided"] = [round(float(value), 2) for value in at]
    return out if "agreement" in out else {}


def _rounded(values: Tensor) -> list[float]:
    return [round(value, 4) for value in values.tolist()]


def _place(index: Tensor, points: Tensor) -> Tensor:
    """Return the point at a fractional index into ``points``."""
    low = index.nan_to_num(0).floor().long().clamp(0, len(points) - 2)
    return points[low] + (index - low) * (points[low + 1] - points[low])


def delay(rows: Sequence[dict], name: str, key: str) -> list[float]:
    """Return by how many points x_t is decided later in generated than in noised real sound, with its interval over prompts."""
    pairs = [
        [
            song[0] + song[1]
            for song in zip(row["generated"][name][key]["agreement"], row["control"][name][key]["agreement"], strict=False)
        ]
        for row in rows
        if "control" in row
    ]
    flat = torch.tensor([[float("nan") if v is None else v for v in song] for group in pairs for song in group]).double()
    half = flat.shape[1] // 2
    band = bootstrap(flat, of=lambda means: crossing(means[..., :half]) - crossing(means[..., half:]))
    return [float(value) for value in band]


def panels(found: dict, reader: str, times: Sequence[float], listened: Sequence[int]) -> dict:
    """Return what the figure draws of one set of conditions."""
    out: dict = {curve: {} for curve in ROWS}
    for curve in ROWS:
        for name, entry in found.items():
            lines = {}
            for kind in LOOKS:
                source, curve_name, at = _source(kind, reader, curve)
                values = entry.get(source, {}).get(curve_name)
                if values:
                    xs = [times[i] for i in listened] if at == "listened" else times
                    decided = entry[source].get("decided", [None])[0] if kind != "other seed" else None
                    lines[kind] = Line(xs, values["mean"], values["low"], values["high"], _time(decided, times))
            out[curve][name] = lines
    return out


def _source(kind: str, reader: str, curve: str) -> tuple[str, str, str]:
    if kind == "measured":
        return "measured", curve, "listened"
    if kind == "other seed":
        return f"{reader}/x1", "other seed" if curve == "agreement" else "", "all"
    signal, _, control = kind.partition(" ")
    return f"{reader}/{signal}" + (f" {control}" if control else ""), curve, "all"


def _time(point: float | None, times: Sequence[float]) -> float | None:
    if point is None or point != point:
        return None
    low = min(int(point), len(times) - 2)
    return times[low] + (point - low) * (times[low + 1] - times[low])


def lines_of(found: dict, steps: int) -> list[str]:
    """Return the tables as Markdown."""
    out = []
    shown = [round(share * (steps - 1)) for share in (0, 0.25, 0.5, 0.75)]
    header = ["reads", "decided at point (95 %)", *(f"agreement at {i}" for i in shown), f"bounded at {shown[2]}"]
    header += [f"eq. 4 at {shown[2]}: mean, median", "final class right (±1)"]
    for conditions, by_name in found.items():
        for name, entry in by_name.items():
            if not entry:
                out += [f"### {name}, conditions: {conditions}", "", "no song ends with a class of it", ""]
                continue
            songs_ = next(iter(entry.values()))["agreement"]["n_songs"]
            out += [f"### {name}, conditions: {conditions} ({songs_} songs)", ""]
            body = [[_words(key), *_cells(value, shown)] for key, value in entry.items()]
            out += ["| " + " | ".join(map(str, row)) + " |" for row in [header, ["---"] * len(header), *body]] + [""]
            for reader, words in READERS.items():
                if later := entry.get(f"{reader}/x_t", {}).get("later than control"):
                    said = f"{later[0]:+.1f} points ({later[1]:+.1f} to {later[2]:+.1f})"
                    out += [f"x_t of generated sound, read from {words}, is decided {said} after that of noised real sound.", ""]
            print("\n".join([f"{name}, {conditions}", *table(header[:6], [row[:6] for row in body]), ""]))
    return [*out, *CLAIMS.strip().split("\n")]


def _words(key: str) -> str:
    if key == "measured":
        return "measured on decoded x̂₁"
    reader, _, rest = key.partition("/")
    return f"{READERS[reader]}, {rest.replace('x1', 'x̂₁').replace(' control', ' of noised real sound')}"


def _cells(value: dict, shown: Sequence[int]) -> list[str]:
    decided = "{:.1f} ({:.1f} to {:.1f})".format(*value["decided"])
    if len(value["agreement"]["mean"]) <= max(shown):
        return [decided, *[""] * (len(shown) + 3)]
    agreed = [f"{value['agreement']['mean'][i]:.2f}" for i in shown]
    middle = shown[2]
    paper = f"{value['paper']['mean'][middle]:.2f}, {value['paper']['median'][middle]:.2f}" if "paper" in value else ""
    bounded = f"{value['bounded']['mean'][middle]:.2f}" if "bounded" in value else ""
    right = "" if value["right"] is None else f"{value['right']:.2f}"
    return [decided, *agreed, bounded, paper, right]
