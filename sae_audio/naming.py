"""Names for features, with the evidence for each: how much a feature's firing says about the class of a property.

    I(F; C) = H(F) + H(C) - H(F, C)   in bits, F = "the feature fires in this frame", C = the frame's class

Entropies from counts are too small, so a feature that fires at random seems to know something. Each entropy gets Miller and
Madow's correction (Miller 1955): H + (m - 1) / (2 n ln 2) bits, with m the non-empty cells and n the observations. Neighbouring
frames of one held note are not separate observations, so n counts *runs*: unbroken stretches of one class in one recording.
This is cautious; random firing comes out near zero bits.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

MIN_FIRINGS = 20
"""Fewest firing frames, with the class known, that a name is given for."""
MIN_SECONDS = 5
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
    frames : Tensor [n_classes]
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


def preferred_range(fired: Tensor, frames: Tensor) -> tuple[int, int]:
    """Return the classes around the highest firing rate in which the rate is at least half of it.

    Parameters
    ----------
    fired, frames : Tensor [n_classes]
        Firing frames and all frames of each class. Rates are pulled to the mean rate by ``PRIOR_FRAMES`` frames.

    Returns
    -------
    tuple of int
        First and last class of the range, both included.
    """
    base = fired.sum() / frames.sum().clamp(min=1)
    rate = ((fired + PRIOR_FRAMES * base) / (frames + PRIOR_FRAMES)).tolist()
    low = high = max(range(len(rate)), key=rate.__getitem__)
    half = rate[low] / 2
    while low > 0 and rate[low - 1] >= half:
        low -= 1
    while high < len(rate) - 1 and rate[high + 1] >= half:
        high += 1
    return low, high


def _candidate(prop: str, class_names: tuple[str, ...], fired: Tensor, frames: Tensor, bits: float, firings: int) -> Name:
    """Best name within one property for one feature."""
    low, high = preferred_range(fired, frames)
    inside = slice(low, high + 1)
    hit, known = fired[inside].sum(), fired.sum()
    ranged = torch.stack((frames[inside].sum(), frames.sum() - frames[inside].sum()))
    explained = mutual_information(torch.stack((hit, known - hit))[None], ranged).item()
    of_firing = entropy(torch.stack((known, frames.sum() - known))).item()
    text = f"{prop} ≈ {class_names[low]}" if low == high else f"{prop} {class_names[low]} to {class_names[high]}"
    confidence = explained / of_firing if of_firing else 0.0
    return Name(text, prop, low, high, confidence, bits, (hit / known.clamp(min=1)).item(), firings)


def name_feature(
    firings: int, seconds: int, fired: dict[str, Tensor], frames: dict[str, Tensor], bits: dict[str, float], classes: dict
) -> Name:
    """Name one feature after the property range that explains its firing best.

    Parameters
    ----------
    firings : int
        Frames in which the feature fires.
    seconds : int
        Separate seconds of sound in which it fires.
    fired, frames : dict of Tensor [n_classes]
        Per property: firing frames and all frames of each class.
    bits : dict of float
        Per property: information of the firing about the class, bits.
    classes : dict of tuple of str
        Per property: class names.

    Returns
    -------
    Name
        ``dead`` if it never fires; ``unnamed`` with fewer than ``MIN_FIRINGS`` firings or ``MIN_SECONDS`` seconds, or when no
        name explains at least ``MIN_CONFIDENCE`` of the firing.
    """
    if not firings:
        return Name("dead", None, -1, -1, 0.0, 0.0, 0.0, 0)
    known = [prop for prop in classes if fired[prop].sum() >= MIN_FIRINGS and seconds >= MIN_SECONDS]
    names = [_candidate(prop, classes[prop], fired[prop], frames[prop], bits[prop], firings) for prop in known]
    best = max(names, key=lambda name: name.confidence, default=None)
    if best is None or best.confidence < MIN_CONFIDENCE:
        return Name("unnamed", None, -1, -1, best.confidence if best else 0.0, 0.0, 0.0, firings)
    return best
