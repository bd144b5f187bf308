"""Links that can be shared: ``?tab=atlas&bundle=user/name&revision=…&feature=42``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlencode

from ui.session import BundleSource, ships
from ui.shared import TABS

SPACE = "https://huggingface.co/spaces/"
LONGEST = 300
"""Letters of a part of a link."""


class Link(NamedTuple):
    """What a link says; nothing of it is checked yet."""

    bundle: str
    """A shipped bundle's name, a folder or a Hub id; empty for the page's own."""
    revision: str
    """Of the Hub; empty for the newest."""
    feature: int | None
    """A feature of that bundle."""
    tab: str | None
    """Key of the tab to open: the one named, the Atlas for a feature, or none."""


def read_link(query: Mapping[str, str]) -> Link:
    """Return what the query of an address says."""
    bundle, revision, feature, tab = (query.get(key, "")[:LONGEST] for key in ("bundle", "revision", "feature", "tab"))
    number = int(feature) if feature.isascii() and feature.isdecimal() and len(feature) < 10 else None
    opens = tab if tab in TABS else "atlas" if number is not None else None
    return Link(bundle, revision, number, opens)


def link_of(source: BundleSource) -> tuple[str, str]:
    """Return the address of the page, empty where the browser knows it better, and the query that names a bundle."""
    base = SPACE + os.environ["SPACE_ID"] if "SPACE_ID" in os.environ else ""
    known = source.on_hub or source in ships().values()
    query = {"tab": "atlas", "bundle": source.name if known else source.where}
    return base, urlencode(query | ({"revision": source.revision} if source.revision else {}), safe="/")
