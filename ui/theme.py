"""How the page looks: one accent colour, the fonts of the visitor's system, light and dark."""

from __future__ import annotations

import gradio as gr

HEADING = """
<h1>sae_audio</h1>
<p>See, hear and steer what a neural audio codec's sparse features pick up in a sound.</p>
"""

THEME = gr.themes.Base(
    primary_hue="indigo",
    neutral_hue="zinc",
    radius_size="sm",
    font=["ui-sans-serif", "system-ui", "sans-serif"],
    font_mono=["ui-monospace", "monospace"],
)

CSS = """
.gradio-container {max-width: 1200px !important; margin: 0 auto;}
"""
