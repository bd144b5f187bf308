"""Pick another bundle and see what it is."""

from __future__ import annotations

import gradio as gr

from ui.shared import Page


def tab(page: Page) -> None:
    """Lay out the tab and wire its events."""
    gr.Markdown("Pick another bundle and see what it is. This tab is not there yet.")
