"""The table of features: ranked, sortable, searchable; choosing a row picks the feature.

table = feature_table(elem_id="features"); table.pick(handler)      # gr.EventData with .feature
... outputs=table                                                  # return rows_of(bundle, view)
"""

from __future__ import annotations

import gradio as gr

from sae_audio.bundle import Bundle
from sae_audio.pipeline import View
from ui.component import component


def feature_table(value: dict | None = None, **kwargs) -> gr.HTML:
    """Return the component; see the top of this file. ``chosen`` is the number of the row that stands out."""
    return component("feature_table", value, **{"chosen": None} | kwargs)


def rows_of(bundle: Bundle, view: View) -> dict:
    """Return the features that fire in a sound, strongest first, JSON-ready.

    Columns: number; name; bits that its firing tells about the named property (the evidence for the name); percent of the
    sound's activation that it carries; percent of the time that it fires; largest activation.
    """
    rows = []
    for found in view.activity:
        name = bundle.atlas.names[found.feature]
        bits = round(name.bits, 2) if name.property else None
        share, time = round(100 * found.share, 2), round(100 * found.frames, 1)
        rows.append([found.feature, name.text, bits, share, time, round(found.peak, 2)])
    return {"columns": ["feature", "name", "bits", "strength %", "time %", "peak"], "rows": rows}
