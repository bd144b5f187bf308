"""A trace: what a generator passed on its way from noise to latents, and what was read there; its files.

NAME.safetensors   the tensors below, float32 or float16
NAME.json          facts of the generation, curves over all points; small enough for a page
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from sae_audio.bundle_format import plain
from sae_audio.denoising import agreement, crossing, emergence
from sae_audio.descriptors import Descriptors
from sae_audio.errors import DataError, ParameterError
from sae_audio.files import write_bytes
from sae_audio.properties import Property

FORMAT = "sae_audio trace 1"
LATENTS, POSTERIORS, MEASURED = "latents.", "posteriors.", "measured."
SIGNALS = ("x_t", "x1", "v", "v_null")
"""What can be recorded at a point: where the flow is, where it would end, the guided velocity, that of the null branch."""
SCRUBBER_FRAMES = 500
"""Frames of the scrubber's data; longer songs are thinned to it, so that the file stays small."""


@dataclass(frozen=True, eq=False)
class Trace:
    """What was recorded of one or more songs; ``S`` points, of which the last is the result."""

    times: Tensor
    """[S] flow times, from 0 (noise) to 1 (the result)."""
    final: Tensor
    """[B, T, d_in] the result."""
    latents: dict[str, Tensor] = field(default_factory=dict)
    """By signal (``SIGNALS``): [S - 1, B, T, d_in] at every point but the last, where x_t and x̂₁ are ``final``."""
    posteriors: dict[str, Tensor] = field(default_factory=dict)
    """By ``property/reader/signal``, for example ``pitch/acts/x1``: [S, B, T, n_classes] probabilities."""
    listened: tuple[int, ...] = ()
    """Points whose x̂₁ was decoded and measured, the last among them; empty without a codec."""
    measured: Descriptors | None = None
    """f0, RMS and centroid of the decoded x̂₁, each [len(listened), B, T]."""
    facts: dict = field(default_factory=dict)
    """Model, conditions, sampler, steering and, once ``with_curves`` was called, ``curves``; JSON-ready."""

    def at(self, signal: str, point: int) -> Tensor:
        """Return a recorded signal ``[B, T, d_in]`` at a point, float32; x_t and x̂₁ of the last point are the result."""
        if signal not in self.latents:
            raise ParameterError(f"the trace has no {signal}; it has {', '.join(self.latents) or 'no latents'}")
        last = len(self.times) - 1
        if point == last and signal in ("x_t", "x1"):
            return self.final.float()
        if not 0 <= point < last:
            raise ParameterError(f"the trace has no {signal} at point {point}; its points are 0 to {last}")
        return self.latents[signal][point].float()

    def thin(self, points: Sequence[int]) -> Trace:
        """Return the trace at fewer points; the last is always kept, and so are facts and curves of the whole."""
        last = len(self.times) - 1
        before = sorted({point for point in points if point != last})
        if not before or not 0 <= before[0] <= before[-1] < last:
            raise ParameterError(f"points {list(points)} must be some of 0 to {last}, at least one before the last")
        kept = [*before, last]
        heard = [i for i, point in enumerate(self.listened) if point in kept]
        return replace(
            self,
            times=self.times[kept],
            latents={name: rows[before] for name, rows in self.latents.items()},
            posteriors={name: rows[kept] for name, rows in self.posteriors.items()},
            listened=tuple(kept.index(self.listened[i]) for i in heard),
            measured=None if self.measured is None else Descriptors(*(column[heard] for column in self.measured)),
        )

    def half(self) -> Trace:
        """Return the trace in float16, half as large."""
        return replace(
            self,
            final=self.final.half(),
            latents={name: rows.half() for name, rows in self.latents.items()},
            posteriors={name: rows.half() for name, rows in self.posteriors.items()},
        )

    def without_posteriors(self) -> Trace:
        """Return the trace without what probes read, which ``ProbeReader`` reads again from the latents in no time."""
        return replace(self, posteriors={})

    def with_curves(self, properties: Mapping[str, Property]) -> Trace:
        """Return the trace with ``facts["curves"]`` (see ``curves``) filled in."""
        return replace(self, facts={**self.facts, "curves": curves(self, properties)})

    def save(self, path: str | Path) -> tuple[Path, Path]:
        """Write ``path.safetensors`` and ``path.json``, each whole or not at all, and return their paths."""
        tensors = {"times": self.times, "final": self.final}
        tensors |= {LATENTS + name: rows for name, rows in self.latents.items()}
        tensors |= {POSTERIORS + name: rows for name, rows in self.posteriors.items()}
        if self.measured is not None:
            tensors |= {MEASURED + name: column for name, column in self.measured._asdict().items()}
            tensors["listened"] = torch.tensor(self.listened)
        weights, table = (Path(f"{path}.{kind}") for kind in ("safetensors", "json"))
        write_bytes(weights, save({name: value.contiguous() for name, value in tensors.items()}, metadata={"format": FORMAT}))
        write_bytes(table, compact_json({"format": FORMAT, "times": self.times.tolist(), **self.facts}))
        return weights, table


def load_trace(path: str | Path) -> Trace:
    """Read what ``Trace.save`` wrote; ``path`` with or without its ending.

    Raises
    ------
    DataError
        A file is missing, damaged or no trace; the message names it.
    """
    stem = Path(path).with_suffix("") if Path(path).suffix in (".safetensors", ".json") else Path(path)
    weights, table = (stem.with_name(f"{stem.name}.{kind}") for kind in ("safetensors", "json"))
    try:
        facts = json.loads(table.read_text(encoding="utf-8"))
        with safe_open(weights, "pt") as file:
            formats = {(file.metadata() or {}).get("format"), facts.pop("format")}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dictionary)
        facts.pop("times")
    except (OSError, SafetensorError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise DataError(f"{stem} is not a trace: {' '.join(str(error).split())}; give what `sae-audio trace` wrote") from error
    if formats != {FORMAT}:
        raise DataError(f"{stem} has format {', '.join(map(str, formats))}; this version reads {FORMAT}")
    return _from_tensors(tensors, facts, stem)


def load_traces(folder: str | Path) -> dict[str, Trace]:
    """Read all traces of a folder, by name; for example the precomputed ones in ``checkpoints/etude-flow/traces``.

    Raises
    ------
    DataError
        There is none, or one is damaged.
    """
    found = sorted(Path(folder).glob("*.safetensors"))
    if not found:
        raise DataError(f"{folder} holds no trace; `python -m experiments.stored_traces` makes the shipped ones")
    return {path.stem: load_trace(path) for path in found}


def curves(trace: Trace, properties: Mapping[str, Property]) -> dict:
    """Return emergence curves per property, means over the songs; ``sae_audio.denoising`` says what they are.

    Frames count where the property, measured on the result, has a class (a pitch, a level above silence); all frames where the
    result was not measured.

    Returns
    -------
    dict
        By property: ``read`` by ``reader/signal``, with ``agreement``, ``within_one``, ``bounded``, ``paper`` (each a list over
        points) and ``decided`` (point from which agreement stays at 90 %); and ``measured`` with ``points`` and ``agreement``,
        the same for classes measured on the decoded x̂₁.
    """
    table: dict = {}
    for name, prop in properties.items():
        counted, heard = None, {}
        if trace.measured is not None:
            classes = prop.classes(trace.measured)
            counted = classes[-1] >= 0
            heard = {"points": list(trace.listened), "agreement": _mean(agreement(classes))}
        mine = {key.removeprefix(f"{name}/"): p for key, p in trace.posteriors.items() if key.startswith(f"{name}/")}
        read = {key: _curve(p, counted) for key, p in mine.items()}
        table[name] = {"read": read, "measured": heard}
    return table


def scrubber(trace: Trace, properties: Mapping[str, Property], song: int = 0) -> dict:
    """Return what a page needs to draw one song's denoising: at each point each frame's most probable class and its probability.

    Returns
    -------
    dict
        JSON-ready: ``times``; ``columns`` (frames shown, at most ``SCRUBBER_FRAMES``); ``properties`` with class ``names``, by
        property; ``read`` with ``class`` and ``percent`` ``[S][columns]``, by ``property/reader/signal``; ``curves``.
    """
    frames = trace.final.shape[1]
    shown = torch.linspace(0, frames - 1, min(frames, SCRUBBER_FRAMES)).round().long()
    read = {}
    for key, p in trace.posteriors.items():
        best = p[:, song, shown].float().max(-1)
        read[key] = {"class": best.indices.tolist(), "percent": (100 * best.values).round().int().tolist()}
    return {
        "times": [round(t, 6) for t in trace.times.tolist()],
        "columns": shown.tolist(),
        "properties": {name: list(prop.names) for name, prop in properties.items()},
        "read": read,
        "curves": trace.facts.get("curves", {}),
    }


def compact_json(values: Mapping) -> bytes:
    """Return JSON without line breaks, since most of it is long lists of numbers."""
    text = json.dumps(plain(values), sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n"
    return text.encode(errors="backslashreplace")  # as ``to_json``


def _curve(probabilities: Tensor, counted: Tensor | None) -> dict:
    found = emergence(probabilities.float(), counted)
    decided = crossing(found.agreement.T).nanmean()
    return {name: _mean(curve) for name, curve in found._asdict().items()} | {"decided": _rounded(decided)}


def _mean(values: Tensor) -> list[float | None]:
    """Mean over songs of ``[S, B]``; None where no song counts."""
    return [_rounded(value) for value in values.nanmean(-1)]


def _rounded(value: Tensor) -> float | None:
    return None if bool(value.isnan()) else round(float(value), 5)


def _from_tensors(tensors: dict[str, Tensor], facts: dict, stem: Path) -> Trace:
    def group(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): tensors.pop(name) for name in sorted(tensors) if name.startswith(prefix)}

    latents, posteriors, measured = group(LATENTS), group(POSTERIORS), group(MEASURED)
    times, final, listened = (tensors.pop(name, None) for name in ("times", "final", "listened"))
    wrong = sorted(tensors) + [name for name, value in (("times", times), ("final", final)) if value is None]
    if bool(measured) != (listened is not None) or measured.keys() - Descriptors._fields:
        wrong.append("measured")
    if times is None or final is None or wrong:
        raise DataError(f"{stem} has missing or unexpected tensors: {', '.join(wrong)}; it is damaged or foreign")
    points, shape = len(times), tuple(final.shape)
    lengths = [(LATENTS, latents, (points - 1, *shape)), (POSTERIORS, posteriors, (points, *shape[:2]))]
    for prefix, rows, expected in lengths:
        for name, value in rows.items():
            if tuple(value.shape[: len(expected)]) != expected:
                raise DataError(
                    f"{stem}: {prefix}{name} has shape {list(value.shape)}, expected {list(expected)} ...; it is damaged"
                )
    heard = () if listened is None else tuple(listened.tolist())
    return Trace(times, final, latents, posteriors, heard, Descriptors.of(**measured) if measured else None, facts)
