"""The page: the tabs put together, and how it is launched."""

from __future__ import annotations

import importlib
import os
import sys
from copy import copy

import gradio as gr

from sae_audio.errors import SaeAudioError
from ui import atlas, bundles, examples, explore, generate, session, steer, theme
from ui.examples import EXAMPLES
from ui.limits import KEPT_CHECKED, MAX_MB, QUICK, VISITORS, WAITING
from ui.shared import TABS, Page


def build() -> gr.Blocks:
    """Return the page, not yet launched."""
    with gr.Blocks(title="sae_audio", delete_cache=KEPT_CHECKED, analytics_enabled=False) as demo:
        gr.HTML(theme.HEADING, elem_id="heading")
        first = examples.seen(EXAMPLES[0].key, session.SHIPPED).feature
        states = gr.State(session.SHIPPED), gr.State(EXAMPLES[0].heard), gr.State(first), gr.State(None)
        with gr.Tabs(elem_id="tabs") as tabs:
            page = Page(*states, tabs)
            for key, module in zip(TABS, (explore, steer, generate, atlas, bundles), strict=True):
                with gr.Tab(TABS[key], id=key, elem_id=f"tab-{key}"):
                    module.tab(page)

        def left(request: gr.Request) -> None:
            """Delete a visitor's folder when they close the page, and what Gradio would keep: a copy of all that it showed."""
            session.leave(request)
            if (held := demo.state_holder.session_data.get(request.session_hash)) is not None:
                held.config_values.clear()
                held.blocks_config = copy(demo.default_config)

        demo.unload(left)
    return demo


def launch() -> None:
    """Serve the page; what the first visitor's events need is loaded while their browser is still fetching it."""
    os.environ.setdefault("MPLBACKEND", "agg")  # Gradio asks for the backend at every event; to find one takes half a second
    os.environ.setdefault("GRADIO_ANALYTICS_MAX_EVENTS", "100")  # kept of past events; by default 10 000
    on_a_space = "SPACE_ID" in os.environ
    try:
        demo = build().queue(max_size=WAITING, default_concurrency_limit=QUICK)
    except SaeAudioError as error:
        sys.stderr.write(f"app.py: {error}\n")
        sys.exit(2)
    demo.launch(
        prevent_thread_lock=True,
        server_name=os.environ.get("GRADIO_SERVER_NAME", "0.0.0.0" if on_a_space else "127.0.0.1"),
        max_file_size=f"{MAX_MB}mb",
        state_session_capacity=VISITORS,
        show_error=False,
        strict_cors=True,
        footer_links=["api"],
        theme=theme.THEME,
        css=theme.CSS,
    )
    warm_up()
    demo.block_thread()


def warm_up() -> None:
    """Do what the first visitor would wait for: look at the first example; import what Gradio imports at the first event."""
    examples.view_of(EXAMPLES[0].key, session.SHIPPED)
    importlib.import_module("matplotlib")
