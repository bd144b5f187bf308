"""Watch pitch, loudness and brightness emerge while music is generated."""

from __future__ import annotations

import gradio as gr

from ui.shared import Page


def tab(page: Page) -> None:
    """Lay out the tab and wire its events."""
    gr.Markdown("Watch pitch, loudness and brightness emerge while music is generated. This tab is not there yet.")
