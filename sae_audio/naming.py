"""Names for features, with the evidence for each: how much a feature's firing says about the class of a property.

    I(F; C) = H(F) + H(C) - H(F, C)   in bits, F = "the feature fires in this frame", C = the frame's class

Entropies from counts are too small, so a feature that fires at random seems to know something. Each entropy gets Miller and
Madow's correction (Miller 1955): H + (m - 1) / (2 n ln 2) bits, with m the non-empty cells and n the observations. Neighbouring
frames of one held note are not separate observations, so n counts *runs*: unbroken stretches of one class in one recording.
This is cautious; random firing comes out near zero bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

MIN_FIRINGS = 20
"""Fewest firing frames, with the class known, that a name is given for."""
MIN_FIRING_SECONDS = 5
"""Fewest separate seconds of sound with a firing that a name is given for: one held note is an anecdote."""
MIN_CONFIDENCE = 0.1
"""Least share of a feature's firing that a name must explain."""
PRIOR_FRAMES = 20
"""Frames at the feature's mean rate added to each class, so that a class seen twice cannot win."""


@dataclass(frozen=True)
class Name:
    """What a feature seems to stand for, and why.

    ``text`` is ``"pitch ≈ C5"``, ``"pitch C5 to E5"``, ``"unnamed"`` when the evidence is weak, or ``"dead"``.
    """

    text: str
    """The name itself."""
    property: str | None
    """Property that the name speaks of; None for ``unnamed`` and ``dead``."""
    low: int
    """First class of the named range; -1 without a property."""
    high: int
    """Last class of the named range; -1 without a property."""
    confidence: float
    """Share of the feature's firing entropy that "the class is in the named range" explains, 0 to 1."""
    bits: float
    """Information of the firing about the property's classes, bits, corrected for bias."""
    precision: float
    """Share of the firings (class known) that lie in the named range, 0 to 1."""
    firings: int
    """Frames in which the feature fires."""

    def __str__(self) -> str:
        """Name with its evidence, for example ``pitch ≈ C5 (0.62 bits, 412 firings)``."""
        if self.property is None:
            return f"{self.text} ({self.firings} firings)" if self.firings else self.text
        return f"{self.text} ({self.bits:.2f} bits, {self.firings} firings)"

    def to_dict(self) -> dict:
        """Return a JSON-ready dictionary."""
        return asdict(self)


def entropy(counts: Tensor) -> Tensor:
    """Return the entropy of counts over the last axis.

    Parameters
    ----------
    counts : Tensor [..., m]
        Counts of at least 0. All zero gives 0 bits.

    Returns
    -------
    Tensor [...]
        ``-sum p log2 p`` in bits, float64.

    Examples
    --------
    >>> import torch
    >>> entropy(torch.tensor([[2, 2], [4, 0]])).tolist()
    [1.0, 0.0]
    """
    counts = counts.double()
    p = counts / counts.sum(-1, keepdim=True).clamp(min=1)
    return torch.special.entr(p).sum(-1) / math.log(2)


def mutual_information(fired: Tensor, frames: Tensor, runs: int | None = None) -> Tensor:
    """Return the information between firing and class.

    Parameters
    ----------
    fired : Tensor [d, n_classes]
        Frames of each class in which each feature fires.
    frames : Tensor [n_classes] or [d, n_classes]
        Frames of each class.
    runs : int, optional
        Independent observations for the bias correction (see the top of this file). Without it no correction is made.

    Returns
    -------
    Tensor [d]
        Bits, float64, between 0 and the entropy of the firing.

    Examples
    --------
    A feature that fires in all frames of one of two equal classes knows 1 bit, one that fires everywhere knows nothing:

    >>> import torch
    >>> mutual_information(torch.tensor([[4, 0], [4, 4]]), torch.tensor([4, 4])).tolist()
    [1.0, 0.0]
    """
    cells = torch.stack((fired, frames - fired), -1)  # [d, n_classes, 2]
    firing = cells.sum(1)  # [d, 2]
    of_firing = entropy(firing)
    bits = of_firing + entropy(frames) - entropy(cells.flatten(1))
    if runs:
        spare = (firing > 0).sum(1) + (frames > 0).sum() - (cells > 0).sum((1, 2)) - 1
        bits = bits + spare / (2 * runs * math.log(2))
    return bits.clamp(min=0).minimum(of_firing)


def preferred_ranges(fired: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
    """Return the classes around each feature's highest firing rate in which its rate is at least half of that.

    Parameters
    ----------
    fired : Tensor [d, n_classes]
        Frames of each class in which each feature fires.
    frames : Tensor [n_classes]
        Frames of each class. Rates are pulled to the feature's mean rate by ``PRIOR_FRAMES`` frames.

    Returns
    -------
    tuple of Tensor [d]
        First and last class of the range, both included.

    Examples
    --------
    >>> import torch
    >>> low, high = preferred_ranges(torch.tensor([[0, 10, 480, 900, 470, 0]]), torch.full((6,), 1000))
    >>> low.item(), high.item()
    (2, 4)
    """
    base = fired.sum(1, keepdim=True) / frames.sum().clamp(min=1)
    rate = (fired + PRIOR_FRAMES * base) / (frames + PRIOR_FRAMES)
    top, peak = rate.max(1, keepdim=True)
    weak, index = rate < top / 2, torch.arange(len(frames)).expand_as(rate)
    low = index.masked_fill(~weak | (index > peak), -1).amax(1) + 1
    high = index.masked_fill(~weak | (index < peak), len(frames)).amin(1) - 1
    return low, high


def _candidates(
    prop: str, names: Sequence[str], fired: Tensor, frames: Tensor, bits: Tensor, firings: Sequence[int]
) -> list[Name]:
    """Best name within one property for every feature."""
    low, high = preferred_ranges(fired, frames)
    index = torch.arange(len(frames))
    inside = (index >= low[:, None]) & (index <= high[:, None])
    hits, known = (fired * inside).sum(1), fired.sum(1)
    covered = (frames * inside).sum(1)
    split = torch.stack((covered, frames.sum() - covered), 1)  # frames in the range and outside, [d, 2]
    explained = mutual_information(torch.stack((hits, known - hits), 1), split)
    confidence = explained / entropy(torch.stack((known, frames.sum() - known), 1)).clamp(min=1e-12)
    columns = (low, high, confidence, bits.double(), hits / known.clamp(min=1))
    return [
        Name(f"{prop} ≈ {names[a]}" if a == b else f"{prop} {names[a]} to {names[b]}", prop, a, b, sure, told, right, n)
        for a, b, sure, told, right, n in zip(*(column.tolist() for column in columns), firings, strict=True)
    ]


def name_features(
    firings: Tensor,
    seconds: Tensor,
    fired: Mapping[str, Tensor],
    frames: Mapping[str, Tensor],
    bits: Mapping[str, Tensor],
    classes: Mapping[str, Sequence[str]],
) -> tuple[Name, ...]:
    """Name every feature after the property range that explains its firing best.

    A feature that never fires is ``dead``. It stays ``unnamed`` if it fires in fewer than ``MIN_FIRINGS`` frames whose class is
    known or in fewer than ``MIN_FIRING_SECONDS`` seconds, or if no name explains ``MIN_CONFIDENCE`` of its firing.

    Parameters
    ----------
    firings : Tensor [d]
        Frames in which each feature fires.
    seconds : Tensor [d]
        Separate seconds of sound in which it fires.
    fired : dict of Tensor [d, n_classes]
        Per property: frames of each class in which each feature fires.
    frames : dict of Tensor [n_classes]
        Per property: frames of each class.
    bits : dict of Tensor [d]
        Per property: information of the firing about the class, bits.
    classes : dict of sequence of str
        Per property: class names.

    Returns
    -------
    tuple of Name
        d names.
    """
    counts = firings.tolist()
    names = {prop: _candidates(prop, classes[prop], fired[prop], frames[prop], bits[prop], counts) for prop in classes}
    usable = {prop: ((fired[prop].sum(1) >= MIN_FIRINGS) & (seconds >= MIN_FIRING_SECONDS)).tolist() for prop in classes}
    return tuple(_best([names[p][i] for p in classes if usable[p][i]], n) for i, n in enumerate(counts))


def _best(candidates: Sequence[Name], firings: int) -> Name:
    best = max(candidates, key=lambda name: name.confidence, default=None)
    if best is not None and best.confidence >= MIN_CONFIDENCE:
        return best
    return Name("unnamed" if firings else "dead", None, -1, -1, best.confidence if best else 0.0, 0.0, 0.0, firings)
