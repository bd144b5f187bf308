"""What the page fetches or reads because a visitor said so: small, marked as what it should be, without the page's token."""

from __future__ import annotations

import os

from sae_audio.errors import ParameterError
from sae_audio.hub.look import Looked, look
from sae_audio.hub_index import LIBRARY
from sae_audio.latent_spaces import SPACES
from sae_audio.spec import LatentSpec

MAX_BUNDLE = 200_000_000
"""Largest repository that is fetched for a bundle, in bytes."""
MAX_MODEL = 2_000_000_000
"""Largest repository that is fetched for the model that a stranger's bundle is of."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def folders_allowed() -> bool:
    """Whether a visitor may name a folder of this machine: only where the page is served to nobody but this machine."""
    return "SPACE_ID" not in os.environ and os.environ.get("GRADIO_SERVER_NAME", LOOPBACK[0]) in LOOPBACK


def check_repository(repo: str, revision: str | None, *, trusted: bool) -> Looked:
    """Ask the Hub about a repository that a visitor named, and return it at its commit.

    Raises
    ------
    HubError
        It does not exist, is private, or the Hub is out of reach.
    ParameterError
        It is too large, or is not marked as a bundle and the visitor has not said that they trust it.
    """
    found = look(repo, revision, token=False)
    if found.size > MAX_BUNDLE:
        raise ParameterError(
            f"'{repo}' has {found.size / 1e6:,.0f} MB; this page fetches {MAX_BUNDLE / 1e6:.0f} MB at most: use it in Python"
        )
    if LIBRARY not in found.tags and not trusted:
        raise ParameterError(
            f"'{repo}' is not tagged '{LIBRARY}', so it may be no bundle; if you know whose it is, tick the box and try again"
        )
    return found


def check_model(spec: LatentSpec) -> None:
    """Raise ``ParameterError`` unless a stranger's bundle is of a known model, from its usual place, and not too large."""
    row = SPACES.get(spec.name)
    if row is None or spec.repo not in (row.source, f"checkpoints/{row.source}"):
        raise ParameterError(
            f"this bundle is of '{spec.name}' from '{spec.repo}', which this page does not load for visitors; use it in Python"
        )
    if row.shipped:
        return
    size = look(row.source, row.revision, token=False).size
    if size > MAX_MODEL:
        raise ParameterError(
            f"this bundle is of '{spec.name}', whose repository has {size / 1e9:.1f} GB; this page fetches up to "
            f"{MAX_MODEL / 1e9:.0f} GB: use it in Python"
        )
