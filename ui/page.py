"""The page: the tabs put together, and how it is launched."""

from __future__ import annotations

import os
import threading

import gradio as gr

from ui import atlas, bundles, explore, generate, session, steer, theme
from ui.examples import EXAMPLES, seen
from ui.limits import KEPT_CHECKED, MAX_FILE, QUICK, WAITING
from ui.shared import TABS, Page, show


def build() -> gr.Blocks:
    """Return the page, not yet launched."""
    with gr.Blocks(title="sae_audio", delete_cache=KEPT_CHECKED, analytics_enabled=False) as demo:
        gr.HTML(theme.HEADING, elem_id="heading")
        states = gr.State(session.SHIPPED), gr.State(EXAMPLES[0].heard), gr.State(None)
        with gr.Tabs(elem_id="tabs") as tabs:
            page = Page(*states, tabs)
            for key, module in zip(TABS, (explore, steer, generate, atlas, bundles), strict=True):
                with gr.Tab(TABS[key], id=key, elem_id=f"tab-{key}"):
                    module.tab(page)
        demo.load(opened, None, [page.feature, tabs], api_visibility="private", show_progress="hidden")
        demo.unload(session.leave)
    return demo


def opened(request: gr.Request) -> tuple[int, gr.Tabs]:
    """Open what a link points to: ``?feature=42``, ``?tab=atlas``; otherwise the strongest feature of the first example."""
    asked = request.query_params.get("feature", "")
    feature = int(asked) if asked.isascii() and asked.isdecimal() and len(asked) < 10 else None
    if feature is None or feature >= session.loaded(session.SHIPPED).bundle.atlas.d_sae:
        feature = seen(EXAMPLES[0].key, session.SHIPPED).rows["rows"][0][0]
    tab = request.query_params.get("tab")
    return feature, show(tab) if tab in TABS else gr.skip()


def launch() -> None:
    """Serve the page; the bundle is loaded while the first visitor's browser is still fetching it."""
    threading.Thread(target=session.loaded, args=[session.SHIPPED], daemon=True).start()
    on_a_space = "SPACE_ID" in os.environ
    build().queue(max_size=WAITING, default_concurrency_limit=QUICK).launch(
        server_name=os.environ.get("GRADIO_SERVER_NAME", "0.0.0.0" if on_a_space else "127.0.0.1"),
        max_file_size=MAX_FILE,
        show_error=False,
        strict_cors=True,
        footer_links=["api"],
        theme=theme.THEME,
        css=theme.CSS,
    )
