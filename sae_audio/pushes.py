"""Pushes: edits given as a strength towards a class, for those who want to see the arithmetic.

    honest   x' = x + α (offset[target] - offset[now])           pitch, per frame; orthogonal: offsets without the other axes
             x' = x + α (centre of target - measured) direction  loudness and brightness, per dB or octave
    paper    x' = decode(RMSNorm(a + α w_target))                arXiv 2510.23802, w a column of the probe on activations

An honest push keeps what the SAE does not explain of x; α = 1 goes as far as recordings of the two classes differ. The paper's
rule drops it, so that any α above 0 also costs the SAE's error; α = 0 is no push at all in both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from sae_audio.bundle import Bundle
from sae_audio.control import ControlVector, Move, axis_control, axis_strengths, note_strengths, paper_edit
from sae_audio.descriptors import Descriptors
from sae_audio.directions import orthogonalise
from sae_audio.errors import ParameterError
from sae_audio.moves import known_notes

MODES = ("honest", "paper")


class Push(NamedTuple):
    """A strength towards a class of a property."""

    property: str
    """``pitch``, ``loudness`` or ``brightness``."""
    target: str
    """Class to move towards, by its name (``C5``, ``-24 dB``, ``2 kHz``)."""
    strength: float
    """α; 0 changes nothing. The paper uses 1, 10, 20 and 30."""
    mode: str = "honest"
    """``honest`` or ``paper``; see the top of this file."""
    orthogonal: bool = False
    """Whether what the direction shares with those of the other properties is taken out first."""


def check_push(bundle: Bundle, push: Push) -> None:
    """Raise ``ParameterError`` unless a bundle can do a push."""
    if push.mode not in MODES:
        raise ParameterError(f"the mode is '{push.mode}'; use honest or paper")
    if not math.isfinite(push.strength):
        raise ParameterError(f"the strength is {push.strength}, which is not finite; give a number such as 1.5")
    if push.property not in bundle.properties:
        raise ParameterError(f"this bundle knows nothing about {push.property}; it knows {', '.join(bundle.properties)}")
    if push.mode == "honest" and push.property not in bundle.controls:
        raise ParameterError(f"this bundle has no control for {push.property}; use the paper's mode, or another property")
    bundle.properties[push.property].class_index(push.target)


def honest_moves(bundle: Bundle, pushes: Sequence[Push], measured: Descriptors, mask: Tensor) -> list[Move]:
    """Return the controls and strengths of the honest pushes.

    Parameters
    ----------
    bundle : Bundle
        Whose controls are used.
    pushes : sequence of Push
        Those in paper mode are left out.
    measured : Descriptors
        Of the sound, each [B, T].
    mask : Tensor [T]
        Share of the change that each frame gets, 0 to 1.

    Returns
    -------
    list of (ControlVector, Tensor [B, T, n_labels])
    """
    return [_honest(bundle, push, measured, mask) for push in pushes if push.mode == "honest" and push.strength != 0]


def paper_pushed(bundle: Bundle, latents: Tensor, pushes: Sequence[Push], mask: Tensor) -> Tensor:
    """Return latents after the paper's pushes, one after the other, each scaled by ``mask`` [T] per frame.

    Parameters
    ----------
    bundle : Bundle
        Whose SAE and probes are used.
    latents : Tensor [B, T, d_in]
        Latents; returned as they are where nothing is pushed.
    pushes : sequence of Push
        Those in honest mode are left out.
    mask : Tensor [T]
        Share of the change that each frame gets, 0 to 1.
    """
    for push in pushes:
        if push.mode == "paper" and push.strength != 0:
            pushed = paper_edit(latents, bundle.sae, probe_row(bundle, push), push.strength)
            latents = torch.where(mask[:, None] > 0, latents + mask[:, None] * (pushed - latents), latents)
    return latents


def probe_row(bundle: Bundle, push: Push) -> Tensor:
    """Return the probe's weights for the push's class, [d_sae]; orthogonal to all weights of the other probes where asked."""
    row = bundle.probes[f"{push.property}/acts"].weight[:, bundle.properties[push.property].class_index(push.target)]
    if not push.orthogonal:
        return row
    others = [bundle.probes[f"{name}/acts"].weight for name in bundle.properties if name != push.property]
    return orthogonalise(row, list(torch.cat(others, 1).T)) if others else row


def push_control(bundle: Bundle, push: Push) -> ControlVector:
    """Return the control that a push uses: the bundle's own, without the other axes where asked, or the probe's row."""
    if push.mode == "paper":
        return axis_control(push.property, "probe", "acts", probe_row(bundle, push))
    control = bundle.controls[push.property]
    return _orthogonal(bundle, control) if push.orthogonal else control


def _honest(bundle: Bundle, push: Push, measured: Descriptors, mask: Tensor) -> Move:
    control, prop = push_control(bundle, push), bundle.properties[push.property]
    target = prop.class_index(push.target)
    if control.is_axis:
        missing = prop.centres[target] - prop.axis(measured)
        strength = (push.strength * mask * missing).nan_to_num(0.0)
        return control, axis_strengths(strength)
    if not control.directions[target].any():
        raise ParameterError(f"training never heard {push.target}, so there is no direction to it; choose another class")
    source = prop.classes(measured)
    possible = (source >= 0) & known_notes(control)[source.clamp_min(0)]
    wanted = torch.where(possible, target, -1)
    return control, note_strengths(control, source, wanted, push.strength) * mask[:, None]


def _orthogonal(bundle: Bundle, control: ControlVector) -> ControlVector:
    """The control without what its directions share with the axes of the other properties."""
    others = [
        other.directions[0]
        for name, other in bundle.controls.items()
        if "/" not in name and other.is_axis and other.property != control.property and other.via == control.via
    ]
    if not others:
        return control
    return replace(control, directions=torch.stack([orthogonalise(row, others) for row in control.directions]))
