"""Finding features of an atlas by name, property and how often they fire, and listing them."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping

from sae_audio.atlas import Atlas
from sae_audio.errors import ParameterError
from sae_audio.properties import Property

UNNAMED, DEAD = "unnamed", "dead"
"""Kinds of features besides the properties."""
COLUMNS = ("feature", "name", "property", "confidence", "bits", "precision", "firings", "fires_in", "typical", "largest")


def kind_of(atlas: Atlas, feature: int) -> str:
    """Return the property that a feature is named after, ``unnamed``, or ``dead`` if it never fires."""
    name = atlas.names[feature]
    return name.property or (UNNAMED if name.firings else DEAD)


def find_features(
    atlas: Atlas,
    properties: Mapping[str, Property],
    text: str = "",
    *,
    kind: str | None = None,
    at_least: float = 0.0,
    at_most: float = 1.0,
) -> list[int]:
    """Return the features that fit, in order of their numbers.

    Parameters
    ----------
    atlas : Atlas
        Where to look.
    properties : mapping of Property
        Names of the classes that a name's range spans: ``D5`` finds ``pitch C5 to E5``.
    text : str
        Words that must all fit: a feature's number, a part of its name, or a class inside its named range. Empty fits all.
    kind : str, optional
        A property, ``unnamed`` or ``dead``.
    at_least, at_most : float
        Share of the frames of the corpus in which the feature fires, 0 to 1.

    Returns
    -------
    list of int

    Raises
    ------
    ParameterError
        The kind is unknown, or a share is not between 0 and 1.
    """
    if kind not in (None, *properties, UNNAMED, DEAD):
        raise ParameterError(f"there is no kind '{kind}'; use {', '.join([*properties, UNNAMED, DEAD])}")
    if not (math.isfinite(at_least) and math.isfinite(at_most) and 0 <= at_least <= at_most <= 1):
        raise ParameterError(
            f"no feature fires in {100 * at_least:g} % to {100 * at_most:g} % of the time; give two rising shares, 0 to 100 %"
        )
    words = text.lower().split()
    density = atlas.density.tolist()
    return [
        feature
        for feature in range(atlas.d_sae)
        if at_least <= density[feature] <= at_most
        and kind in (None, kind_of(atlas, feature))
        and all(_fits(word, feature, atlas, properties) for word in words)
    ]


def listed(atlas: Atlas, feature: int) -> dict:
    """Return a feature as a row of ``COLUMNS``, JSON-ready."""
    name = atlas.names[feature]
    values = (feature, name.text, kind_of(atlas, feature), name.confidence, name.bits, name.precision, name.firings)
    measured = (float(column[feature]) for column in (atlas.density, atlas.mean, atlas.max))
    return dict(zip(COLUMNS, (*values, *measured), strict=True))


def as_csv(atlas: Atlas, features: Iterable[int]) -> str:
    """Return features as CSV with a header of ``COLUMNS``."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for feature in features:
        writer.writerow(
            {key: f"{value:.6g}" if isinstance(value, float) else value for key, value in listed(atlas, feature).items()}
        )
    return out.getvalue()


def _fits(word: str, feature: int, atlas: Atlas, properties: Mapping[str, Property]) -> bool:
    if word.isdecimal():
        return int(word) == feature
    name = atlas.names[feature]
    if word in name.text.lower():
        return True
    spanned = properties[name.property].names[name.low : name.high + 1] if name.property else ()
    return any(word == part for spoken in spanned for part in (spoken.lower(), *spoken.lower().split()))
