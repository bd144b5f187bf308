"""The inputs of the Steer tab, as wide as a bundle allows."""

from __future__ import annotations

import math

import gradio as gr

from sae_audio.bundle import Bundle
from sae_audio.control import AXES
from sae_audio.moves import known_notes
from sae_audio.pushes import MODES
from ui.steer_settings import AS_PLAYED, NOTHING, Ask

MOST_DB, MOST_OCTAVES, MOST_SEMITONES = 24.0, 1.0, 12
BOUNDED = ("semitones", "note", "loudness", "brightness")
"""Controls whose limits are the bundle's."""
PUSH_ABOUT = """
**honest** adds α × the difference between the class and what each frame is now, and keeps what the SAE does not explain.
**paper** is the rule of [arXiv 2510.23802](https://arxiv.org/abs/2510.23802): decode(RMSNorm(a + α w)), w being the probe's
weights of the class; it loses the SAE's error at any α but 0 (the paper uses 1 to 30). **Orthogonal** first takes out what
the direction shares with those of the other properties. α = 0 is no edit. A push is not corrected to an amount.
"""


def form_of(bundle: Bundle, feature: int) -> dict[str, gr.components.Component]:
    """The inputs, in the order of ``Ask``, as wide as a bundle allows."""
    form, bounds = {}, bounds_in(bundle)
    with gr.Row(elem_classes="steer-row"):
        with gr.Column(min_width=250):
            form["semitones"] = gr.Slider(
                step=1, label="Pitch, semitones", buttons=[], elem_id="steer-semitones", **bounds["semitones"]
            )
            form["note"] = gr.Dropdown(
                label="or everything to one note", allow_custom_value=True, elem_id="steer-note", **bounds["note"]
            )
        with gr.Column(min_width=250):
            form["loudness"] = gr.Slider(
                step=0.5, label="Loudness, dB", buttons=[], elem_id="steer-loudness", **bounds["loudness"]
            )
            form["brightness"] = gr.Slider(
                step=0.05, label="Brightness, octaves", buttons=[], elem_id="steer-brightness", **bounds["brightness"]
            )
        with gr.Column(min_width=250):
            with gr.Row(elem_classes="steer-pair"):
                form["start"] = gr.Number(0, label="From, s", minimum=0, step=0.1, min_width=80, elem_id="steer-start")
                form["stop"] = gr.Number(0, label="to, s (0: the end)", minimum=0, step=0.1, min_width=80, elem_id="steer-to")
            form["fade"] = gr.Slider(0, 3, 0, step=0.05, label="Fade in and out, s", buttons=[], elem_id="steer-fade")
    with gr.Accordion("Single features", elem_id="steer-features"), gr.Row(elem_classes="steer-row"):
        form["feature"] = gr.Number(
            feature,
            label="Feature",
            precision=0,
            minimum=0,
            min_width=200,
            elem_id="steer-feature",
            info=bundle.atlas.names[feature].text,
        )
        form["amount"] = gr.Slider(
            -5,
            5,
            0,
            step=0.25,
            label="Strength",
            buttons=[],
            min_width=200,
            elem_id="steer-amount",
            info="times its typical activation; negative takes away",
        )
        form["more_features"] = gr.Textbox(
            "", label="Further features", placeholder="7=-1, 12=2", min_width=200, elem_id="steer-more", info="number=strength"
        )
    with gr.Accordion("Strengths, for experts", open=False, elem_id="steer-experts"):
        with gr.Row(elem_classes="steer-row"):
            form["push"] = gr.Dropdown([NOTHING, *AXES], value=NOTHING, label="Push", min_width=140, elem_id="steer-push")
            form["target"] = gr.Dropdown(
                [""], value="", label="towards the class", allow_custom_value=True, min_width=140, elem_id="steer-target"
            )
            form["strength"] = gr.Slider(
                -5, 30, 0, step=0.25, label="Strength α", buttons=[], min_width=200, elem_id="steer-strength"
            )
            form["mode"] = gr.Radio(list(MODES), value=MODES[0], label="Mode", min_width=160, elem_id="steer-mode")
            form["orthogonal"] = gr.Checkbox(False, label="Orthogonal to the others", min_width=180, elem_id="steer-orthogonal")
        form["hold"] = gr.Checkbox(
            True,
            label="Measure the result and correct loudness and brightness to what was asked (three more decodes)",
            elem_id="steer-hold",
        )
        gr.Markdown(PUSH_ABOUT, elem_id="steer-about")
    return {name: form[name] for name in Ask._fields}


def bounds_in(bundle: Bundle) -> dict[str, dict]:
    """Return the values and limits of the controls in ``BOUNDED``, at rest, as their components take them."""
    pitch = {"interactive": "pitch" in bundle.controls}
    return {
        "semitones": {"minimum": -MOST_SEMITONES, "maximum": MOST_SEMITONES, "value": 0, **pitch},
        "note": {"choices": [AS_PLAYED, *notes_of(bundle)], "value": AS_PLAYED, **pitch},
        "loudness": _axis_slider(bundle, "loudness", 0.5, MOST_DB),
        "brightness": _axis_slider(bundle, "brightness", 0.05, MOST_OCTAVES),
    }


def notes_of(bundle: Bundle) -> list[str]:
    """Return the notes that a bundle can move to: those that training heard."""
    if "pitch" not in bundle.controls:
        return []
    known = known_notes(bundle.controls["pitch"])
    return [name for name, there in zip(bundle.properties["pitch"].names, known.tolist(), strict=True) if there]


def _axis_slider(bundle: Bundle, name: str, step: float, most: float) -> dict:
    """A slider as wide as the axis was calibrated, in whole steps."""
    if name not in bundle.controls:
        return {"minimum": -most, "maximum": most, "value": 0, "interactive": False}
    low, high = bundle.controls[name].range
    ends = (-min(most, math.floor(-low / step + 1e-6) * step), min(most, math.floor(high / step + 1e-6) * step))
    return {"minimum": round(ends[0], 4), "maximum": round(ends[1], 4), "value": 0, "interactive": True}
