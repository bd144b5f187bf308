"""What steering did to a sound: what was asked, what was measured, what moved that nobody asked for."""

from __future__ import annotations

import builtins
import csv
import io
import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from sae_audio.bundle import Bundle
from sae_audio.control import AUDIBLE_DB, AXES
from sae_audio.descriptors import Descriptors
from sae_audio.heard import changes, median
from sae_audio.moves import Target
from sae_audio.pipeline import Steered
from sae_audio.properties import axis_values
from sae_audio.units import hz_to_midi, to_db

EDITED_SHARE = 0.99
"""A frame counts as edited when it gets this share of the largest change: frames of a fade are on their way."""
CENTS = 50.0


class Outcome(NamedTuple):
    """One property, in medians over the edited frames; changes are in semitones, dB or octaves."""

    property: str
    """``pitch``, ``loudness`` or ``brightness``."""
    source: float | None
    """Of the input, in Hz, dBFS or Hz; None where no frame has it."""
    before: float | None
    """Of the codec's reconstruction."""
    after: float | None
    """Of the steered sound."""
    asked: float | None
    """Change asked for: 0 to keep it, None where no amount was named (a push, a feature)."""
    got: float | None
    """Change measured against the reconstruction; None where no frame has the property in both."""
    miss: float | None
    """``got - asked``, the median over frames; for a property that was to be kept, the off-target change."""
    hits: float | None
    """Pitch that was asked for: share of the pitched frames within 50 cents of it."""

    @builtins.property
    def kept(self) -> bool:
        """Whether the property was to stay as it is."""
        return self.asked == 0


def outcomes(
    bundle: Bundle, steered: Steered, moves: Mapping[str, Target], open_ended: frozenset[str] = frozenset()
) -> list[Outcome]:
    """Return what steering did to pitch, loudness and brightness.

    Parameters
    ----------
    bundle : Bundle
        That steered; its notes name pitch targets.
    steered : Steered
        From ``steer``.
    moves : mapping
        What ``steer`` was asked for.
    open_ended : set of str
        Properties that were pushed without an amount, so that nothing can be missed.

    Returns
    -------
    list of Outcome
        One for each of ``AXES``.
    """
    whole = steered.mask >= EDITED_SHARE * steered.mask.max()
    source, before, after = (
        Descriptors(*(column[:, whole] for column in side)) for side in (steered.source, steered.before, steered.after)
    )
    return [_outcome(bundle, name, source, before, after, moves.get(name, 0), name in open_ended) for name in AXES]


def descriptors_csv(steered: Steered, frame_rate: float) -> str:
    """Return the measured curves as CSV: a row per channel and frame, for input, reconstruction and steered sound.

    Columns are ``channel``, ``time_s`` (centre of the frame), ``edit`` (share of the change, 0 to 1) and, for each sound,
    ``f0_hz``, ``loudness_dbfs`` and ``centroid_hz``; a cell is empty where there is no value.

    Parameters
    ----------
    steered : Steered
        From ``steer``.
    frame_rate : float
        Latent frames per second.
    """
    sides = {"original": steered.source, "reconstruction": steered.before, "steered": steered.after}
    columns = [column for side in sides.values() for column in (side.f0, to_db(side.rms), side.centroid)]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    measures = ("f0_hz", "loudness_dbfs", "centroid_hz")
    writer.writerow(["channel", "time_s", "edit", *(f"{side}_{measure}" for side in sides for measure in measures)])
    for channel in range(len(columns[0])):
        values = torch.stack([column[channel] for column in columns], 1).tolist()
        for frame, (row, edit) in enumerate(zip(values, steered.mask.tolist(), strict=True)):
            cells = [f"{value:.3f}" if math.isfinite(value) else "" for value in row]
            writer.writerow([channel, f"{(frame + 0.5) / frame_rate:.4f}", f"{edit:.3f}", *cells])
    return out.getvalue()


def level(samples: Tensor) -> float:
    """Return the level of a sound ``[C, N]`` in dBFS, ``20 log10 RMS`` over all channels; at least -100."""
    return float(to_db(samples.double().square().mean().sqrt()))


def _outcome(
    bundle: Bundle, name: str, source: Descriptors, before: Descriptors, after: Descriptors, target: Target, open_ended: bool
) -> Outcome:
    audible = to_db(before.rms) > AUDIBLE_DB
    got = _number(median(changes(before, after), 0)[AXES.index(name)])
    levels = _level(name, source), _level(name, before), _level(name, after)
    asked = None if open_ended else _asked(bundle, name, before, target)
    if asked is None or not bool((asked != 0).any()):
        return Outcome(name, *levels, None if asked is None else 0.0, got, None if asked is None else got, None)
    moved = axis_values(after, name) - axis_values(before, name)
    missed = torch.where(audible, moved - asked, torch.nan)
    hits = None
    if name == "pitch":
        wanted = torch.where(audible, hz_to_midi(before.f0) + asked, torch.nan)
        known = wanted.isfinite()
        off = (hz_to_midi(after.f0) - wanted).abs()[known].nan_to_num(torch.inf)
        hits = float((off <= CENTS / 100).double().mean()) if known.any() else None
    return Outcome(name, *levels, _number(_middle(asked)), got, _number(_middle(missed)), hits)


def _asked(bundle: Bundle, name: str, before: Descriptors, target: Target) -> Tensor | None:
    """Change asked for per frame; for a note, that from the pitch the frame had. None where no frame tells."""
    target = target[0] if isinstance(target, tuple) else target
    try:
        return torch.full_like(before.rms, float(target))
    except ValueError:
        prop = bundle.properties[name]
        change = prop.centres[prop.class_index(str(target))] - axis_values(before, name)
        return change if change.isfinite().any() else None


def _level(name: str, side: Descriptors) -> float | None:
    values = {"pitch": side.f0, "loudness": to_db(side.rms), "brightness": side.centroid}[name]
    return _number(_middle(torch.where(to_db(side.rms) > AUDIBLE_DB, values, torch.nan)))


def _middle(values: Tensor) -> Tensor:
    return median(values.reshape(-1), 0)


def _number(value: Tensor) -> float | None:
    return float(value) if bool(value.isfinite()) else None
