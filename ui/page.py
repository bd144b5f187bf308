"""The page: the tabs put together, and how it is launched."""

from __future__ import annotations

import os
import threading

import gradio as gr

from ui import atlas, bundles, explore, generate, session, steer, theme
from ui.limits import KEPT_SECONDS, MAX_FILE, WAITING
from ui.shared import TABS, Page


def build() -> gr.Blocks:
    """Return the page, not yet launched."""
    with gr.Blocks(title="sae_audio", delete_cache=(KEPT_SECONDS // 6, KEPT_SECONDS), analytics_enabled=False) as demo:
        gr.HTML(theme.HEADING, elem_id="heading")
        states = gr.State(session.SHIPPED), gr.State(None), gr.State(None)
        with gr.Tabs(elem_id="tabs") as tabs:
            page = Page(*states, tabs)
            for key, module in zip(TABS, (explore, steer, generate, atlas, bundles), strict=True):
                with gr.Tab(TABS[key], id=key, elem_id=f"tab-{key}"):
                    module.tab(page)
        demo.unload(session.leave)
    return demo


def launch() -> None:
    """Serve the page; the bundle is loaded while the first visitor's browser is still fetching it."""
    threading.Thread(target=session.loaded, args=[session.SHIPPED], daemon=True).start()
    on_a_space = "SPACE_ID" in os.environ
    build().queue(max_size=WAITING, default_concurrency_limit=4).launch(
        server_name=os.environ.get("GRADIO_SERVER_NAME", "0.0.0.0" if on_a_space else "127.0.0.1"),
        max_file_size=MAX_FILE,
        show_error=False,
        strict_cors=True,
        footer_links=["api"],
        theme=theme.THEME,
        css=theme.CSS,
    )
