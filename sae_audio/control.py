"""Control vectors: directions that move one property of a sound, with the dose-response measured on the decoded sound.

    acts mode      x' = x + (ReLU(a + s d) - a) W_dec          a = SAE acts of x, d in acts space, s the strength
    latents mode   x' = x + s d                                the baselines without an SAE

The SAE's reconstruction error is thereby kept in x', so strength 0 returns the input exactly. The ReLU keeps activations in
the range that the decoder knows: a feature can be switched off, not made negative. ``paper_edit`` is the rule of
arXiv 2510.23802 as published.

Directions come from ``partial_effects`` (the change of the inputs per dB, per octave and per note with the other properties
and, for notes, the recording held fixed), from probe weights, or from differences of class means. ``calibrate_axis`` and
``calibrate_notes`` (in ``calibration``) measure what a strength does to the decoded sound, so that a person can ask for "-6 dB"
or "C5".
"""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sae_audio.errors import ParameterError
from sae_audio.sae.base import SAE

AXES = ("pitch", "loudness", "brightness")
"""Order of every response: semitones, dB, octaves of spectral centroid."""
UNITS = {"pitch": "semitones", "loudness": "dB", "brightness": "octaves"}
AUDIBLE_DB = -50.0
"""Frames quieter than this are left out when a change is measured: their pitch and centroid are noise."""
HIT_MARGIN = 0.02
"""Hit rate that a lower strength may give up."""


@dataclass(frozen=True)
class ControlVector:
    """Directions for one property and what they were measured to do."""

    property: str
    """``pitch``, ``loudness`` or ``brightness``."""
    kind: str
    """How the directions were found: ``effect``, ``probe`` or ``mean``."""
    via: str
    """Space of the directions: ``acts`` (edited before the SAE decoder) or ``latents``."""
    labels: tuple[str, ...]
    """``("up",)`` for an axis; the class names for directions per class."""
    directions: Tensor
    """[n_labels, d_sae or d_in]; for an axis the nominal change per dB or per octave, for classes their offsets."""
    doses: Tensor
    """[m] strengths at which the response was measured, increasing; empty before calibration."""
    responses: Tensor
    """[m, 3] median change in semitones, dB and octaves of the decoded sound at each dose."""
    hit_rate: Tensor
    """[m] share of voiced frames within 50 cents of the note asked for (classes only; empty for an axis)."""

    @builtins.property
    def is_axis(self) -> bool:
        """Whether this is one ordered direction (loudness, brightness) rather than one direction per class (pitch)."""
        return len(self.labels) == 1

    @builtins.property
    def range(self) -> tuple[float, float]:
        """Smallest and largest change that the calibrated axis reaches, in dB or octaves."""
        _, reached = self._monotone()
        return float(reached.min()), float(reached.max())

    def strength_for(self, amount: float) -> float:
        """Return the strength that moves the property by ``amount`` (dB or octaves), by inverting the dose-response.

        Raises
        ------
        ParameterError
            If the control is not a calibrated axis, or ``amount`` is outside the range that was reached in calibration.
        """
        if not self.is_axis or not len(self.doses):
            raise ParameterError(f"the {self.property} control has no calibrated axis; use a class name as the target")
        doses, reached = self._monotone()
        low, high = self.range
        if not low - 1e-6 <= amount <= high + 1e-6:
            raise ParameterError(
                f"{self.property} {amount:+g} {UNITS[self.property]} is out of reach; this bundle can move it by "
                f"{low:+.1f} to {high:+.1f} {UNITS[self.property]}"
            )
        return float(np.interp(amount, reached, doses))

    def best_strength(self) -> float:
        """Return the lowest calibrated strength whose hit rate is within ``HIT_MARGIN`` of the best: more only adds side effects.

        1.0 before calibration.
        """
        if not self.hit_rate.isfinite().any():
            return 1.0
        rates = self.hit_rate.nan_to_num(nan=-1.0)
        enough = rates >= rates.max() - HIT_MARGIN
        return float(self.doses[enough].min())

    def slopes(self) -> Tensor:
        """Return the change of loudness (dB) and brightness (octaves) per unit strength around 0, [2]."""
        zero = int(self.doses.abs().argmin())
        low, high = max(zero - 1, 0), min(zero + 1, len(self.doses) - 1)
        return (self.responses[high, 1:] - self.responses[low, 1:]) / (self.doses[high] - self.doses[low])

    def _monotone(self) -> tuple[np.ndarray, np.ndarray]:
        """Doses and on-target responses of the longest increasing stretch around dose 0."""
        doses = self.doses.double().numpy()
        reached = self.responses[:, AXES.index(self.property)].double().numpy()
        zero = int(np.abs(doses).argmin())
        low = zero
        while low > 0 and reached[low - 1] < reached[low]:
            low -= 1
        high = zero
        while high + 1 < len(doses) and reached[high + 1] > reached[high]:
            high += 1
        return doses[low : high + 1], reached[low : high + 1]


Move = tuple[ControlVector, Tensor]
"""A control and the strength of each of its directions in each frame, broadcastable to [B, T, n_labels]."""


def axis_control(property: str, kind: str, via: str, direction: Tensor) -> ControlVector:
    """Return an uncalibrated control with one direction [d]."""
    none = torch.zeros(0)
    return ControlVector(property, kind, via, ("up",), direction[None], none, torch.zeros(0, 3), none)


def class_control(property: str, kind: str, via: str, labels: Sequence[str], directions: Tensor) -> ControlVector:
    """Return an uncalibrated control with one direction per class, [n_labels, d]."""
    none = torch.zeros(0)
    return ControlVector(property, kind, via, tuple(labels), directions, none, torch.zeros(0, 3), none)


def edit(latents: Tensor, sae: SAE, *, acts: Tensor | None = None, direct: Tensor | None = None) -> Tensor:
    """Add a change of activations and/or of latents; no change returns the latents bit for bit.

    Parameters
    ----------
    latents : Tensor [B, T, d_in]
        Latents to edit.
    sae : SAE
        Encoder and decoder of the acts edit.
    acts : Tensor [d_sae] or broadcastable to [B, T, d_sae], optional
        Change of the activations, ``x' = x + (ReLU(a + acts) - a) W_dec``.
    direct : Tensor [d_in] or broadcastable to [B, T, d_in], optional
        Change of the latents.

    Returns
    -------
    Tensor [B, T, d_in]
    """
    out = latents
    if acts is not None:
        active = sae.encode(latents)
        out = latents + ((active + acts).relu() - active) @ sae.directions()
    return out if direct is None else out + direct


def apply(latents: Tensor, sae: SAE, moves: Sequence[Move]) -> Tensor:
    """Apply several controls at once: their changes are summed in each space before the edit.

    Changes and activations exist for one block of frames at a time: those of 20 minutes would not fit.

    Parameters
    ----------
    latents : Tensor [B, T, d_in]
        Latents to edit.
    sae : SAE
        The SAE.
    moves : sequence of (ControlVector, Tensor broadcastable to [B, T, n_labels])
        Each control with its strengths, from ``axis_strengths`` or ``note_strengths``.
    """
    if not moves:
        return latents
    per_frame = [strengths.expand(*latents.shape[:-1], -1).flatten(0, -2) for _, strengths in moves]
    edited = []
    for x, *shares in zip(sae.blocks(latents.flatten(0, -2)), *map(sae.blocks, per_frame), strict=True):
        total: dict[str, Tensor] = {}
        for (control, _), share in zip(moves, shares, strict=True):
            change = share @ control.directions
            total[control.via] = total[control.via] + change if control.via in total else change
        edited.append(edit(x, sae, acts=total.get("acts"), direct=total.get("latents")))
    return torch.cat(edited).view_as(latents)


def axis_strengths(strength: float | Tensor) -> Tensor:
    """Return the strengths of an axis for ``apply``; a strength [B, T] is an envelope over frames and gives [B, T, 1]."""
    return torch.as_tensor(strength, dtype=torch.float32)[..., None]


def note_strengths(control: ControlVector, source: Tensor, target: Tensor, strength: float = 1.0) -> Tensor:
    """Return the strengths of ``strength * (offset[target] - offset[source])``, zero where source or target is undefined.

    Parameters
    ----------
    control : ControlVector
        One direction per class.
    source, target : Tensor int64 [B, T]
        Class that each frame has and class that it should have; -1 leaves the frame alone.
    strength : float
        1 is the difference as observed between recordings.

    Returns
    -------
    Tensor [B, T, n_labels]
    """
    share = strength * ((source >= 0) & (target >= 0)).float()[..., None]
    strengths = torch.zeros(*source.shape, len(control.labels))
    strengths.scatter_add_(-1, target.clamp_min(0)[..., None], share)
    return strengths.scatter_add_(-1, source.clamp_min(0)[..., None], -share)


def paper_edit(latents: Tensor, sae: SAE, row: Tensor, alpha: float) -> Tensor:
    """Return the edit of arXiv 2510.23802: ``decode(RMSNorm(a + alpha * w_k))``, at every frame, without the SAE's error.

    Parameters
    ----------
    latents : Tensor [B, T, d_in]
        Latents to edit.
    sae : SAE
        The SAE.
    row : Tensor [d_sae]
        Probe weights of the class to move towards.
    alpha : float
        The paper uses 1, 10, 20 and 30.
    """

    def rule(x: Tensor) -> Tensor:
        moved = sae.encode(x) + alpha * row
        return sae.decode(moved / moved.square().mean(-1, keepdim=True).add(1e-8).sqrt())

    return torch.cat([rule(x) for x in sae.blocks(latents.flatten(0, -2))]).view_as(latents)
