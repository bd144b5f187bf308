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
).set(
    body_text_color_subdued="*neutral_500",
    body_text_color_subdued_dark="*neutral_400",
    body_background_fill_dark="*neutral_900",
    background_fill_secondary_dark="*neutral_800",
    button_secondary_background_fill="transparent",
    button_secondary_background_fill_hover="*neutral_100",
    button_secondary_background_fill_dark="transparent",
    button_secondary_background_fill_hover_dark="*neutral_800",
    button_secondary_border_color="*neutral_300",
    button_secondary_border_color_dark="*neutral_600",
    button_border_width="1px",
    button_primary_background_fill="*primary_600",
    button_primary_background_fill_hover="*primary_700",
    button_primary_background_fill_dark="*primary_600",
    link_text_color_dark="*primary_300",
    link_text_color_visited_dark="*primary_300",
    color_accent_soft_dark="#2e2e5c",
)

CSS = """
:root {--quiet: #63636b; --color-accent: #4f46e5;}
.dark {--quiet: #a9a9b3; --color-accent: #818cf8;}
.gradio-container {max-width: min(1200px, 100vw) !important; margin: 0 auto;}
.gradio-container main, .gradio-container main > .column, #tabs {min-width: 0; max-width: 100%;}
.html-container {padding: 0 !important;}
footer .divider {display: none !important;}
[data-testid="status-tracker"] .error, [data-testid="status-tracker"] .clear-status {display: none;}  /* a message says it */
#heading h1 {font-size: 22px; font-weight: 700; margin: 8px 0 0;}
#heading p {margin: 2px 0 6px; color: var(--quiet);}
#sound-row {align-items: center; gap: 16px; min-height: 32px;}
#sound-row > * {flex: 0 0 auto; width: auto; min-width: 0;}
#stopping > * {flex: 0 0 auto; min-width: 0;}
#sound-name h2 {font-size: 18px; margin: 6px 0 0;}
#bring-refusals {display: none;}
#bring-row {align-items: center; gap: 20px;}
#bring {flex: 1 1 420px; min-width: min(420px, 100%);}
#bring [data-testid="upload-text"] {
  flex-direction: row; gap: 8px; min-height: 0; height: auto; padding: 30px 12px 14px; font-size: 14px;
}
#bring [data-testid="upload-icon"] {width: 22px; margin: 0;}
#bring .upload-container {height: auto !important;}
#examples p {margin: 0;}
#hint {flex: 1 1 260px !important;}
#hint p {color: var(--quiet); font-size: 13px; text-align: right;}
#examples {flex: 1 1 100%; flex-direction: row; flex-wrap: wrap; align-items: center; gap: 8px;}
#examples > * {flex: 0 0 auto; width: auto; min-width: 0;}
#exports {justify-content: flex-start; gap: 8px;}
#exports button {flex: 0 0 auto; min-width: 0;}
#watch-row {gap: 28px;}
#watch-about p {font-size: 13px; line-height: 1.5; max-width: 78ch; color: var(--quiet); margin: 0 0 6px;}
#watch-form {gap: 12px;}
#watch-exports {justify-content: flex-start; gap: 8px;}
#watch-exports button {flex: 0 0 auto; min-width: 0;}
#watch-status .error, #watch-status .clear-status {display: none;}
#watch-stored .wrap {align-items: center;}
#watch-stored .wrap::before {content: "Precomputed"; color: var(--quiet); font-size: 13px;}
#steer-sound h2 {font-size: 18px; margin: 0;}
#steer-sound-row, #steer-actions, #steer-exports {align-items: center; justify-content: flex-start; gap: 8px;}
#steer-sound-row {gap: 16px;}
#steer-sound-row > *, #steer-actions > *, #steer-exports > * {flex: 0 0 auto; width: auto; min-width: 0;}
#steer-go {min-width: 160px;}
#atlas-actions {align-items: end; justify-content: flex-start; gap: 8px;}
#atlas-actions > * {flex: 0 0 auto; width: auto; min-width: 0;}
#atlas-row {gap: 28px;}
#bundle-row {gap: 28px;}
#bundle-find-row {align-items: end; gap: 8px;}
#bundle-find-row > .block {flex: 1 1 auto;}
#bundle-find {flex: 0 0 auto; min-width: 0;}
#bundle-actions {gap: 8px;}
#bundle-actions > * {flex: 0 0 auto; min-width: 0;}
#bundle-about pre code {white-space: pre-wrap; overflow-wrap: anywhere;}
#bundle-about .prose {font-size: 13px;}
#bundle-about h1 {font-size: 18px; margin-top: 0;}
#bundle-about h2 {font-size: 15px;}
#bundle-about :is(table, th, td) {border-color: var(--border-color-primary); font-size: 12px;}
#bundle-about :is(th, td) {padding: 5px 10px;}
@media (max-width: 700px) {
  .gradio-container .main {padding: 8px 12px !important;}
  #hint {flex-basis: 100% !important;}
  #hint p {text-align: left !important;}
  #bring [data-testid="upload-text"] {display: block; text-align: center; font-size: 13px;}
  #bring [data-testid="upload-icon"] {display: inline-block; vertical-align: middle; margin-right: 8px;}
  #watch-stored .wrap::before {flex-basis: 100%;}
}
"""
