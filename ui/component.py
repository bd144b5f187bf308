"""Our own components: ``gr.HTML`` with a template, a stylesheet and a script from ``assets/``.

Functions, not subclasses of ``gr.HTML``: Gradio writes a ``.pyi`` file beside the source of every subclass that is imported.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

ASSETS = Path(__file__).parent / "assets"


def component(name: str, value: Any = None, *, server: list[Callable] | None = None, **kwargs: Any) -> gr.HTML:
    """Return a component made of ``assets/NAME.html``, ``.css`` and ``.js``.

    Parameters
    ----------
    name : str
        Of the files.
    value : JSON-ready
        What it shows; the script reads ``props.value`` and watches it.
    server : list of callable
        Functions that the script may call as ``await server.NAME(argument)``; what comes from the browser is not to be trusted.
    **kwargs
        Of ``gr.HTML``; anything else becomes ``props.NAME`` for the script, and ``gr.update(NAME=…)`` changes it. The script must
        not have such a NAME in quotes: Gradio would take it for an event.
    """
    html, css, js = ((ASSETS / f"{name}.{kind}").read_text() for kind in ("html", "css", "js"))
    return gr.HTML(
        value, html_template=html, css_template=css, js_on_load=js, server_functions=server, apply_default_css=False, **kwargs
    )
