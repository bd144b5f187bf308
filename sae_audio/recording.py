"""What ``trace`` keeps of every step: latents, what all probes of a bundle read in them, what the decoded sound measures."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sae_audio.bundle import Bundle
from sae_audio.descriptors import Descriptors
from sae_audio.diffrhythm.sampler import Step
from sae_audio.errors import ParameterError
from sae_audio.heard import Measure
from sae_audio.sae.topk import TopKSAE
from sae_audio.traces import SIGNALS, Trace

BLOCK = 4096
"""Frames whose activations exist at once."""


class Point(NamedTuple):
    """One point on the way, as ``trace`` hands it on; the last is the result. Tensors are float32 on the CPU."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs
    """0 to steps − 1."""
    t: float
    """Flow time, 0 (noise) to 1 (the result)."""
    x_t: Tensor
    """[B, T, d_in] where the flow is."""
    x1: Tensor
    """[B, T, d_in] x̂₁, where it would end; steered where it is steered."""
    v: Tensor | None
    """[B, T, d_in] guided velocity; None at the last point."""
    v_null: Tensor | None
    """[B, T, d_in] velocity of the null branch; None without guidance."""
    posteriors: dict[str, Tensor]
    """By ``property/reader/signal``: [B, T, n_classes]."""
    audio: Tensor | None
    """[B, channels, N] of x̂₁, where it was asked for."""
    measured: Descriptors | None
    """Each [B, T], measured on ``audio``."""


class ProbeReader:
    """All probes of a bundle at once, on activations and on raw latents.

    Parameters
    ----------
    bundle : Bundle
        SAE and probes; probes are named ``property/acts`` and ``property/latents``.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.sae = bundle.sae
        self.keys: dict[str, list[str]] = {}
        self.layers: dict[str, tuple[Tensor, Tensor, list[int]]] = {}
        for reader in ("acts", "latents"):
            mine = {key: probe for key, probe in bundle.probes.items() if key.endswith(f"/{reader}")}
            if mine:  # one product for all properties
                weight, bias = (torch.cat([getattr(p, name) for p in mine.values()], -1) for name in ("weight", "bias"))
                self.keys[reader] = list(mine)
                self.layers[reader] = (weight, bias, [len(probe.bias) for probe in mine.values()])

    @torch.no_grad()
    def __call__(self, latents: Tensor) -> dict[str, Tensor]:
        """Return the probabilities ``[..., n_classes]`` that each probe reads in latents ``[..., d_in]``, by probe."""
        flat, read = latents.reshape(-1, latents.shape[-1]), {}
        for reader, (weight, bias, sizes) in self.layers.items():
            scores = torch.cat([self._scores(reader, block, weight) for block in flat.split(BLOCK)]) + bias
            for key, own in zip(self.keys[reader], scores.split(sizes, -1), strict=True):
                read[key] = own.softmax(-1).unflatten(0, latents.shape[:-1])
        return read

    def _scores(self, reader: str, block: Tensor, weight: Tensor) -> Tensor:
        if reader == "latents":
            return block @ weight
        if isinstance(self.sae, TopKSAE):  # a few rows of the weights per frame instead of all: a third of the time
            acts = self.sae.encode_sparse(block)
            return F.embedding_bag(acts.indices, weight, per_sample_weights=acts.values, mode="sum")
        return self.sae.encode(block) @ weight


class Recorder:
    """Collects what ``trace`` was asked to keep, and hands points on."""

    def __init__(
        self,
        reader: ProbeReader,
        measure: Measure | None,
        listen: set[int],
        record: Collection[str],
        probe: Collection[str],
        half: bool,
        on_point: Callable[[Point], None] | None,
        steps: int,
    ) -> None:
        self.points = steps
        self.reader, self.measure, self.listen = reader, measure, listen
        self.probe, self.half, self.on_point = [name for name in SIGNALS if name in probe], half, on_point
        self.record = [name for name in SIGNALS if name in record]
        self.latents: dict[str, Tensor] = {}
        self.posteriors: dict[str, Tensor] = {}
        self.listened: list[int] = []
        self.measured: list[Descriptors] = []

    def step(self, step: Step) -> None:
        """Record a step of the sampler."""
        signals = {name: getattr(step, name) for name in SIGNALS}
        if missing := [name for name in self.record if signals[name] is None]:
            raise ParameterError(f"{missing[0]} cannot be recorded: without guidance there is no null branch")
        found = {name: value.cpu() for name, value in signals.items() if value is not None}
        for name in self.record:
            self._keep(self.latents, name, step.index, self.points - 1, found[name])
        self._point(step.index, step.t, found)

    def finish(self, final: Tensor, times: Tensor, facts: dict) -> Trace:
        """Record the result and return the trace."""
        self.listen = {len(times) - 1}
        self._point(len(times) - 1, 1.0, {"x_t": final, "x1": final})
        measured = Descriptors(*(torch.stack(column) for column in zip(*self.measured, strict=True))) if self.measured else None
        return Trace(
            times,
            final.half() if self.half else final,
            self.latents,
            self.posteriors,
            tuple(self.listened),
            measured,
            facts,
        )

    def _point(self, index: int, t: float, found: Mapping[str, Tensor]) -> None:
        posteriors = self._read(found)
        for key, p in posteriors.items():
            self._keep(self.posteriors, key, index, self.points, p)
        heard = self.measure(found["x1"]) if self.measure is not None and index in self.listen else None
        if heard is not None:
            self.listened.append(index)
            self.measured.append(heard.descriptors)
        if self.on_point is not None:
            audio, measured = (None, None) if heard is None else (heard.audio, heard.descriptors)
            v, v_null = found.get("v"), found.get("v_null")
            self.on_point(Point(index, t, found["x_t"], found["x1"], v, v_null, posteriors, audio, measured))

    def _read(self, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Read all signals in one pass."""
        if not self.probe:
            return {}
        read = self.reader(torch.stack([found[name] for name in self.probe]))
        return {f"{key}/{name}": p[i] for key, p in read.items() for i, name in enumerate(self.probe)}

    def _keep(self, table: dict[str, Tensor], name: str, index: int, count: int, values: Tensor) -> None:
        """Write a row of a tensor whose rows are made at once: a list of them would exist twice when it is joined."""
        if name not in table:
            table[name] = torch.empty(count, *values.shape, dtype=torch.float16 if self.half else values.dtype)
        table[name][index] = values
