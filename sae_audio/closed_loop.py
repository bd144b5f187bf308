"""The closed loop of steering: measure the edited sound and correct its loudness and brightness to what was asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sae_audio.control import AUDIBLE_DB, ControlVector, Move, apply, axis_strengths
from sae_audio.descriptors import Descriptors
from sae_audio.heard import Heard, Measure, median
from sae_audio.sae.base import SAE
from sae_audio.units import to_db

STEP = torch.tensor([1.0, 0.6])
"""Share of the correction made per round: levels answer alike everywhere, centroids at up to twice the calibrated slope."""


class Hold(NamedTuple):
    """The calibrated axes that close the loop."""

    loudness: ControlVector
    """Corrects the level, frame by frame."""
    brightness: ControlVector
    """Corrects the spectral centroid, by the clip's median."""
    smoothing: int = 15
    """Frames (odd) over which the loudness correction is averaged: short enough to follow notes, too long to flatten attacks."""
    rounds: int = 3
    """Measure-and-correct rounds; each costs one decode."""

    def jacobian(self) -> Tensor:
        """Return the change of (loudness, brightness) per unit strength of (loudness, brightness), [2, 2]."""
        return torch.stack([self.loudness.slopes(), self.brightness.slopes()], 1)


class Edited(NamedTuple):
    """Edited latents and the sound they decode to."""

    latents: Tensor
    """[B, T, d_in]."""
    heard: Heard
    """Of the edited sound."""


def steer_rounds(
    latents: Tensor,
    sae: SAE,
    moves: Sequence[Move],
    measure: Measure,
    *,
    before: Heard,
    wanted: tuple[float, float] = (0.0, 0.0),
    mask: Tensor | None = None,
    hold: Hold | None = None,
) -> Iterator[Edited]:
    """Apply moves; with ``hold``, measure the sound and correct its loudness and brightness to what was asked, round by round.

    The correction of a clip solves ``J s = wanted - measured`` for the strengths ``s`` of the two axes, J being their calibrated
    slopes. Loudness is corrected per frame (smoothed over ``hold.smoothing`` frames), brightness by the clip's median.

    Parameters
    ----------
    latents : Tensor [B, T, d_in]
        Latents to edit.
    sae : SAE
        The SAE.
    moves : sequence of (ControlVector, Tensor)
        Controls and their strengths, as for ``control.apply``.
    measure : callable
        Latents -> what the decoded sound measures.
    before : Heard
        ``measure(latents)``.
    wanted : (float, float)
        Change of loudness (dB) and brightness (octaves) asked for; 0 keeps the property.
    mask : Tensor [T] or [B, T], optional
        Share of the change that each frame gets, 0 to 1; the moves must be scaled by it already. 1 by default.
    hold : Hold, optional
        Axes for the closed loop; None applies the moves and no more.

    Yields
    ------
    Edited
        After the moves, and after each round of correction; the last is the result.
    """
    edited = apply(latents, sae, moves)
    heard = measure(edited)
    yield Edited(edited, heard)
    if hold is None:
        return
    mask = torch.ones(latents.shape[:2]) if mask is None else mask.expand(latents.shape[:2])
    strengths = torch.zeros(*latents.shape[:2], 2)
    jacobian = hold.jacobian()
    for _ in range(hold.rounds):
        missing = _missing(before.descriptors, heard.descriptors, mask, torch.tensor(wanted), hold.smoothing)
        strengths = _within(strengths + STEP * torch.linalg.solve(jacobian, missing[..., None])[..., 0], hold)
        corrections = [(hold.loudness, strengths[..., 0]), (hold.brightness, strengths[..., 1])]
        extra = [(axis, axis_strengths(strength * mask)) for axis, strength in corrections]
        edited = apply(latents, sae, [*moves, *extra])
        heard = measure(edited)
        yield Edited(edited, heard)


def _missing(before: Descriptors, after: Descriptors, mask: Tensor, wanted: Tensor, smoothing: int) -> Tensor:
    """What each frame still lacks of the wanted dB and octaves, [B, T, 2]."""
    audible = ((to_db(before.rms) > AUDIBLE_DB) & (mask > 0)).float()
    loudness = (wanted[0] * mask - (to_db(after.rms) - to_db(before.rms))).nan_to_num(0.0)
    octaves = torch.where(audible > 0, (after.centroid / before.centroid).log2(), torch.nan)
    brightness = median(wanted[1] * mask - octaves, 1)[:, None].nan_to_num(0.0)
    return torch.stack([_smooth(loudness, audible, smoothing), brightness.expand_as(loudness)], -1)


def _smooth(values: Tensor, weights: Tensor, width: int) -> Tensor:
    """Weighted moving mean over ``width`` frames, [B, T]; frames with no weight near take the clip's mean."""
    kernel = torch.ones(1, 1, width)

    def window(x: Tensor) -> Tensor:
        return torch.nn.functional.conv1d(x[:, None], kernel, padding=width // 2)[:, 0]

    total = weights.sum(1, keepdim=True).clamp_min(1)
    overall = (values * weights).sum(1, keepdim=True) / total
    near = window(weights)
    return torch.where(near > 0.5, window(values * weights) / near.clamp_min(1), overall)


def _within(strengths: Tensor, hold: Hold) -> Tensor:
    """Keep the strengths of both axes inside their calibrated doses."""
    doses = (hold.loudness.doses, hold.brightness.doses)
    return torch.stack([strengths[..., i].clamp(doses[i].min(), doses[i].max()) for i in range(2)], -1)


def hold_of(controls: Mapping[str, ControlVector], frame_rate: float, suffix: str = "") -> Hold | None:
    """Return the axes that close the loop, None where a bundle lacks one of them or they were measured to do nothing.

    Parameters
    ----------
    controls : dict of ControlVector
        Of a bundle.
    frame_rate : float
        Latent frames per second; the loudness correction is averaged over 0.3 s.
    suffix : str
        ``/latents`` takes the baseline's axes.
    """
    if not {f"loudness{suffix}", f"brightness{suffix}"} <= set(controls):
        return None
    smoothing = 2 * round(0.15 * frame_rate) + 1
    hold = Hold(controls[f"loudness{suffix}"], controls[f"brightness{suffix}"], smoothing)
    return hold if abs(float(torch.linalg.det(hold.jacobian()))) > 1e-6 else None
