"""Browse every feature of the bundle."""

from __future__ import annotations

import gradio as gr

from ui.shared import Page


def tab(page: Page) -> None:
    """Lay out the tab and wire its events."""
    gr.Markdown("Browse every feature of the bundle. This tab is not there yet.")
