"""Bring a sound and see which features fire, when, and what they stand for."""

from __future__ import annotations

import gradio as gr

from ui.shared import Page


def tab(page: Page) -> None:
    """Lay out the tab and wire its events."""
    gr.Markdown("Bring a sound. This tab is not there yet.")
