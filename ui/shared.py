"""What the tabs share.

A tab is one file with ``tab(page: Page) -> None``, called inside its ``gr.Tab``: it lays out components and wires their events.
Whatever it needs from the others is in ``Page``:

- ``page.bundle`` as an input gives a ``BundleSource``; ``session.loaded(source)`` the bundle and its latent space.
- ``page.heard`` gives the visitor's sound, a ``CurrentSound`` (``heard.sound()``), set by Explore; None before there is one.
- ``page.feature`` is the feature that is looked at, an int, in all tabs: return a new one into it and every tab that listens with
  ``page.feature.change(...)`` follows.
- ``page.linked`` is the feature that a shared link asked for, with its bundle: what is shown anew for that bundle keeps it.
- ``show("steer")`` returned into ``page.tabs`` takes the visitor to a tab, for example together with a feature.

Handlers are wrapped in ``guard.plainly``, have a docstring (the API shows it) and an ``api_name``; those that run a model take
``**limits.MODEL``, and the function that runs it ``@gpu(duration=…)``. States do not travel by API: an event that an API user
needs takes what it needs from components, or is called after the events that set the states in the same ``gradio_client``.
Not ``queue=False``: the page does not follow a state that such an event changes.
"""

from __future__ import annotations

from typing import NamedTuple

import gradio as gr

from ui.session import BundleSource

TABS = {"explore": "Explore", "steer": "Steer", "generate": "Generate & watch", "atlas": "Atlas", "bundle": "Bundle"}
"""Titles of the tabs, by id."""


class Linked(NamedTuple):
    """What a shared link points to."""

    source: BundleSource
    """Its bundle."""
    feature: int
    """A feature of that bundle."""


class Page(NamedTuple):
    """What the tabs share. States hold one value per visitor."""

    bundle: gr.State
    """``session.BundleSource`` of the bundle in use."""
    heard: gr.State
    """``session.CurrentSound`` or None: the visitor's sound."""
    feature: gr.State
    """int or None: the feature that is looked at."""
    linked: gr.State
    """``Linked`` or None."""
    tabs: gr.Tabs
    """Returning ``show("steer")`` into it opens a tab."""


def show(tab: str) -> gr.Tabs:
    """Return what opens a tab (a key of ``TABS``) when it is returned into ``page.tabs``."""
    return gr.Tabs(selected=tab)
