"""The bundles that the Hub has: one question to its list of models, no download.

A bundle's card says what it is of in ``sae_audio:``, and what was measured in ``model-index:``; the Hub sends both with the list.
All of it was written by strangers, so nothing is believed to have the right type.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

from sae_audio.errors import ParameterError

LIBRARY = "sae-audio"
"""``library_name`` of a bundle's card, which the Hub makes a tag."""
ASKED = ("sha", "cardData", "model-index", "lastModified", "downloads", "private", "gated", "tags")
"""What the Hub sends of each repository."""
LONGEST = 80
"""Letters kept of a text on a card."""


class Listed(NamedTuple):
    """A bundle on the Hub, as its card describes it; None where the card says nothing that can be used."""

    repo: str
    """``user/name``, for ``Bundle.from_pretrained``."""
    revision: str
    """Newest commit, in full."""
    space: str | None
    """Latent space that it is of, such as ``encodec-24khz``."""
    tap: str | None
    """Which tensor of the model counts as its latents."""
    variant: str | None
    """Kind of sparse autoencoder."""
    d_sae: int | None
    """Number of features."""
    base_model: str | None
    """Hub repository of the model."""
    metrics: dict[str, float]
    """Held-out ``fvu`` and ``l0``, and the balanced accuracy of the probe of each property."""
    updated: str
    """Time of the newest commit, ISO 8601 in UTC."""
    downloads: int
    """In the last month, as the Hub counts."""
    private: bool
    """Whether only some see it."""
    gated: bool
    """Whether its terms have to be accepted first."""


def search_bundles(
    text: str | None = None, *, space: str | None = None, limit: int = 50, token: str | bool | None = None
) -> list[Listed]:
    """Ask the Hub for the bundles that it has, most downloaded first.

    Parameters
    ----------
    text : str, optional
        Part of a repository's name; all by default.
    space : str, optional
        Only bundles of this latent space: ``encodec-24khz``, or ``hf:user/model``.
    limit : int
        Most bundles to return, 1 to 1000.
    token : str or bool, optional
        Access token; by default the one that is stored, which finds private bundles too. False sends none: for visitors.

    Returns
    -------
    list of Listed
        Empty where nothing fits.

    Raises
    ------
    ParameterError
        ``limit`` is out of range.
    HubError
        The Hub refused or could not be reached.

    Examples
    --------
    >>> from sae_audio.hub_index import search_bundles
    >>> for found in search_bundles(space="encodec-24khz"):  # doctest: +SKIP
    ...     print(found.repo, found.revision, found.d_sae, found.metrics.get("fvu"))
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers, paginate

    from sae_audio.hub_client import talking

    if not 1 <= limit <= 1000:
        raise ParameterError(f"limit is {limit}; 1 to 1000 bundles can be listed")
    asked = {"filter": [LIBRARY, *([] if space is None else [_tag(space)])], "sort": "downloads", "limit": limit}
    asked |= {"expand": list(ASKED)} | ({"search": text} if text else {})

    with talking("the list of bundles"):
        # Not list_models: it passes cards on as arguments, and one stranger's card with the key `self` would end every search.
        found = paginate(f"{constants.ENDPOINT}/api/models", asked, build_hf_headers(token=token))
        return [_listed(info) for info in islice(found, limit)]


def _tag(space: str) -> str:
    """Return the tag of bundles of a space; one that has no name of its own is known by its model."""
    return f"base_model:{space.removeprefix('hf:')}" if space.startswith("hf:") else space


def _listed(info: dict) -> Listed:
    card = _dict(info.get("cardData"))
    own, base = _dict(card.get("sae_audio")), card.get("base_model")
    return Listed(
        repo=info["id"],
        revision=info["sha"],
        space=_text(own.get("space")),
        tap=_text(own.get("tap")),
        variant=_text(own.get("variant")),
        d_sae=own.get("d_sae") if type(own.get("d_sae")) is int else None,
        base_model=_text(base[0] if isinstance(base, list) and base else base),
        metrics=dict(_metrics(info.get("model-index"))),
        updated=info["lastModified"],
        downloads=info["downloads"],
        private=info["private"],
        gated=bool(info["gated"]),
    )


def _dict(value: Any) -> dict:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str | None:
    """Return a short text without control characters, which could rewrite a terminal; None for anything else."""
    return "".join(letter for letter in value if letter.isprintable())[:LONGEST] if isinstance(value, str) else None


def _metrics(index: Any) -> Iterator[tuple[str, float]]:
    """Yield what a card's ``model-index`` reports; a probe's figure goes by the name of its property."""
    for result in _dicts(entry.get("results") for entry in _dicts([index])):
        for metric in _dicts([result.get("metrics")]):
            kind, name, value = _text(metric.get("type")), _text(metric.get("name")), metric.get("value")
            label = name.split(" probe")[0] if kind == "accuracy" and name else kind
            if label and isinstance(value, int | float) and not isinstance(value, bool):
                yield label, float(value)


def _dicts(lists: Any) -> Iterator[dict]:
    """Yield the dictionaries of some lists; what is no list or no dictionary is passed over."""
    for entries in lists:
        yield from (entry for entry in (entries if isinstance(entries, list) else []) if isinstance(entry, dict))
