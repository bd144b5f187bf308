"""What a bundle is, for the page: its space and its SAE, what was measured beside what it has to beat, how to use it in Python.

    view = bundle_view(elem_id="bundle-view")
    ... outputs=view                                # return described(bundle, source)

A bundle of somebody else can hold anything in its metrics and provenance: what is not a number or a short text is left out, and
the page puts all of it in as text.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from pathlib import Path

import gradio as gr

from sae_audio.bundle import Bundle
from sae_audio.card import model_card
from sae_audio.control import AXES
from sae_audio.latent_spaces import CHECKPOINTS
from ui.component import component
from ui.measured import change
from ui.session import BundleSource

READERS = {
    "acts": "SAE features",
    "latents": "raw latents",
    "pca": "PCA, as many numbers per frame",
    "random": "random dictionary, as sparse",
    "untrained": "untrained SAE",
}
VIA = {"acts": "SAE features", "latents": "raw latents"}
LONGEST = 200
MOST_FIGURE = 3_000_000


def bundle_view(value: dict | None = None, **kwargs) -> gr.HTML:
    """Return the component; see the top of this file. ``pick`` tells which repository of the list was chosen."""
    return component("bundle_view", value, **kwargs)


def described(bundle: Bundle, source: BundleSource) -> dict:
    """Return everything that is shown of a bundle, JSON-ready."""
    return {
        "name": source.name,
        "revision": source.revision,
        "link": f"https://huggingface.co/{source.where}/tree/{source.revision or 'main'}" if source.on_hub else None,
        "facts": _facts(bundle),
        "probes": _probes(bundle),
        "control": _control(bundle),
        "figures": [_figure(name, png) for name, png in sorted(bundle.figures.items()) if len(png) <= MOST_FIGURE],
        "code": code(source, bundle),
        "shell": shell(source, bundle),
    }


def card(bundle: Bundle) -> str:
    """Return the model card without its front matter and pictures, which are shown apart, and with its code in one colour."""
    text = model_card(bundle).split("\n---\n", 1)[-1]
    lines = ["```" if line.startswith("```") else line for line in text.splitlines() if not line.startswith("![")]
    return "\n".join(lines)


def code(source: BundleSource, bundle: Bundle) -> str:
    """Return a few lines of Python that use a bundle."""
    place = f'"{_place(source)}"'
    pinned = f', revision="{source.revision}"' if source.revision else ""
    steers = {"pitch": '"pitch": 3', "loudness": '"loudness": -6.0', "brightness": '"brightness": 0.3'}
    moves = ", ".join(steers[name] for name in AXES if name in bundle.controls)
    lines = [
        f"from sae_audio import Bundle, analyse{', steer' if moves else ''}",
        "",
        f"bundle = Bundle.from_pretrained({place}{pinned})",
        'view = analyse(bundle, "song.wav")          # latents, activations, descriptors, what the probes read',
        "for feature in view.top_features[:10]:",
        "    print(feature, bundle.atlas.feature(feature).name)",
    ]
    if moves:
        lines += ["", f'steered = steer(bundle, "song.wav", {{{moves}}})', "print(steered.sound.samples.shape)"]
    return "\n".join(lines) + "\n"


def shell(source: BundleSource, bundle: Bundle) -> str:
    """Return the command that steers a sound with a bundle; that looks into one where it has no controls."""
    pinned = f" --revision {source.revision}" if source.revision else ""
    steers = {"pitch": "--pitch +3", "loudness": "--loudness -6", "brightness": "--brightness +0.3"}
    moves = " ".join(steers[name] for name in AXES if name in bundle.controls)
    does = f"steer song.wav {moves} -o steered.wav" if moves else "analyse song.wav"
    return f"python -m sae_audio {does} --bundle {_place(source)}{pinned}\n"


def _place(source: BundleSource) -> str:
    """What to type for a bundle: the shipped ones by their place in the repository."""
    folder = Path(source.where)
    return source.where if source.on_hub or folder.resolve().parent != CHECKPOINTS else f"checkpoints/{folder.name}"


def _facts(bundle: Bundle) -> list[list[str]]:
    spec, config, sae = bundle.spec, bundle.sae.config, _mapping(bundle.metrics.get("sae"))
    channels = "mono" if spec.channels == 1 else "stereo"
    facts = [
        ["Latent space", f"{spec.name}, tap {spec.tap}"],
        ["Model", spec.repo + (f" @ {spec.revision[:12]}" if spec.revision else "")],
        ["Sound", f"{spec.sample_rate / 1000:g} kHz {channels}, {spec.frame_rate:g} frames/s, {spec.d_in} channels each"],
        ["SAE", f"{config.variant}, {config.d_sae:,} features"],
        ["Active per frame", _number(sae.get("l0"), ".1f")],
        ["Variance unexplained", _number(sae.get("fvu"), ".1%")],
        ["Never fire", _number(sae.get("dead_share"), ".1%")],
        ["Measured on", _measured_on(sae)],
        ["Trained on", _text(_mapping(bundle.provenance.get("data")).get("name"))],
        ["Licence", _text(bundle.provenance.get("license"))],
    ]
    return [[label, text] for label, text in facts if text]


def _measured_on(sae: Mapping) -> str:
    frames, recordings = _number(sae.get("n_frames"), ",.0f"), _number(sae.get("n_recordings"), ",.0f")
    return f"{frames} held-out frames of {recordings} recordings" if frames and recordings else ""


def _probes(bundle: Bundle) -> dict:
    """Balanced accuracy of every reader on every property, with that of always giving the most frequent class."""
    scores = _mapping(bundle.metrics.get("probes"))
    names = [name for name in bundle.properties if _mapping(scores.get(name))]
    rows = []
    for key, title in READERS.items():
        values = [_float(_mapping(_mapping(scores[name]).get(key)).get("balanced_accuracy")) for name in names]
        if any(value is not None for value in values):
            rows.append({"title": title, "own": key == "acts", "values": values})
    chance = [_chance(_mapping(scores[name])) for name in names]
    if rows and any(value is not None for value in chance):
        rows.append({"title": "always the most frequent class", "own": False, "values": chance})
    return {"names": names, "rows": rows}


def _chance(scores: Mapping) -> float | None:
    classes = [_float(_mapping(score).get("n_classes")) for score in scores.values()]
    return next((1 / n for n in classes if n), None)


def _control(bundle: Bundle) -> list[dict]:
    """What the controls reached on held-out sound, corrected, from the features beside from raw latents."""
    trials = [_mapping(t) for t in _list(_mapping(bundle.metrics.get("control")).get("trials"))]
    table: dict[tuple, dict] = {}
    for trial in trials:
        name, asked, reached = trial.get("property"), _float(trial.get("asked")), _float(trial.get("reached"))
        if name not in AXES or asked is None or trial.get("via") not in VIA or not trial.get("held", True):
            continue
        row = table.setdefault((AXES.index(name), asked), {"asked": f"{name} {change(name, asked, 1 if asked % 1 else 0)}"})
        row[trial["via"]] = change(name, reached) if reached is not None else "–"
        hits = _float(trial.get("hit_rate"))
        row[f"{trial['via']}_hits"] = f"{hits:.0%}" if hits is not None else ""
    return [row for _, row in sorted(table.items(), key=lambda item: item[0])][:20]


def _figure(name: str, png: bytes) -> dict:
    title = name.removesuffix(".png").replace("_", " ")
    return {"title": title, "png": base64.b64encode(png).decode()}


def _mapping(value: object) -> Mapping:
    return value if isinstance(value, Mapping) else {}


def _list(value: object) -> list:
    return value if isinstance(value, list | tuple) else []


def _float(value: object) -> float | None:
    right = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if right else None


def _number(value: object, spec: str) -> str:
    known = _float(value)
    return "" if known is None else format(known, spec).replace("%", " %")


def _text(value: object) -> str:
    return value[:LONGEST] if isinstance(value, str) else ""
