"""Move a sound's pitch, loudness and brightness, and hear the difference."""

from __future__ import annotations

import gradio as gr

from ui.shared import Page


def tab(page: Page) -> None:
    """Lay out the tab and wire its events."""
    gr.Markdown("Move a sound's pitch, loudness and brightness, and hear the difference. This tab is not there yet.")
