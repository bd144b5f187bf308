"""The card of one feature: its name with the evidence, what it responds to, its neighbours, its strongest moments to listen to.

card = feature_card(elem_id="card")
card.pick(handler); card.hear(handler); card.steer(handler)     # gr.EventData with .feature, and .way for hear
... outputs=card                                                # return card_of(bundle, feature, view)
"""

from __future__ import annotations

import functools
import threading

import gradio as gr
import torch

from sae_audio.activity import top_frames
from sae_audio.atlas import Feature
from sae_audio.bundle import Bundle
from sae_audio.errors import DataError, SaeAudioError
from sae_audio.etude.corpus import SAMPLE_RATE, clip_named
from sae_audio.latent_spaces import Codec, LatentSpace
from sae_audio.pipeline import View
from sae_audio.tally import HISTOGRAM_EDGES
from ui.component import component
from ui.guard import said
from ui.timeline import track

HERE, APART_SECONDS = 5, 0.5
LEAD, EXCERPT = 0.1, 1.5
"""A moment is played from this many seconds before its peak, for this long."""
SYNTHESISED = "étude corpus"
NO_FLUIDR3 = "this moment is played by FluidR3 instruments, which this server does not have; others here may play"
_one_at_a_time = threading.Lock()  # FluidSynth is one instrument


def moment(asked: dict) -> dict:
    """Return the sound of a moment of the synthesised corpus, or in words why there is none; the browser calls it.

    Parameters
    ----------
    asked : dict
        ``recording``, name of a clip, and ``time``, in seconds.
    """
    try:
        return _excerpt(str(asked["recording"])[:40], round(float(asked["time"]), 3))
    except SaeAudioError as error:
        return {"error": said(error)}
    except (KeyError, TypeError, ValueError, OverflowError):
        return {"error": "this moment does not exist"}


def feature_card(value: dict | None = None, **kwargs) -> gr.HTML:
    """Return the component; see the top of this file."""
    return component("feature_card", value, server=[moment], **kwargs)


def card_of(bundle: Bundle, feature: int, view: View | None = None, space: LatentSpace | None = None) -> dict:
    """Return everything known about a feature, JSON-ready.

    Parameters
    ----------
    bundle : Bundle
        Whose feature.
    feature : int
        Its number; ``ParameterError`` if there is none.
    view : View, optional
        The visitor's sound, for the moments in it.
    space : LatentSpace, optional
        Says whether the feature can be heard.
    """
    known = bundle.atlas.feature(feature)
    names, frame_rate = bundle.atlas.names, bundle.spec.frame_rate
    synthesised = str(bundle.provenance.get("data", {}).get("name", "")).startswith(SYNTHESISED)
    return {
        "feature": feature,
        "name": known.name.text,
        "evidence": evidence(known, bundle),
        "facts": [
            ["Fires in", f"{100 * known.density:.1f} % of the corpus"],
            ["Typical", f"{known.mean:.2f} where it fires"],
            ["Largest", f"{known.max:.2f}"],
        ],
        "histogram": {
            "counts": bundle.atlas.histogram[feature].tolist(),
            "edges": [round(e, 4) for e in HISTOGRAM_EDGES.tolist()],
        },
        "tuning": [_tuning(bundle, name, feature) for name in bundle.properties],
        "neighbours": [[near.feature, names[near.feature].text, round(near.cosine, 2)] for near in known.neighbours[:6]],
        "here": None if view is None else _here(view, feature, frame_rate),
        "corpus": [[moment.recording, round(moment.time, 2), round(moment.value, 2)] for moment in known.moments],
        "playable": synthesised,
        "audible": isinstance(space, Codec),
    }


def evidence(known: Feature, bundle: Bundle) -> str:
    """Say in a sentence what a name rests on."""
    name = known.name
    if not name.firings:
        return "It never fired in the corpus."
    if name.property is None:
        return f"It fired {name.firings:,} times, and no property explains when: no name is given."
    classes = bundle.properties[name.property].names
    where = classes[name.low] if name.low == name.high else f"{classes[name.low]} to {classes[name.high]}"
    return (
        f"{100 * name.precision:.0f} % of its {name.firings:,} firings are at {where}; that explains "
        f"{100 * name.confidence:.0f} % of when it fires ({name.bits:.2f} bits)."
    )


def _tuning(bundle: Bundle, name: str, feature: int) -> dict:
    curve = bundle.atlas.tuning[name]
    return {
        "title": name.capitalize(),
        "classes": list(bundle.properties[name].names),
        "rate": [
            round(rate, 4) if frames else None
            for rate, frames in zip(curve.rate[feature].tolist(), curve.frames.tolist(), strict=True)
        ],
        "bits": round(float(curve.bits[feature]), 2),
    }


def _here(view: View, feature: int, frame_rate: float) -> list[list[float]]:
    activation = view.acts[:, feature].to_dense()
    frames = top_frames(activation, HERE, max(1, round(APART_SECONDS * frame_rate)))
    return [[round((frame + 0.5) / frame_rate, 2), round(float(activation[frame]), 2)] for frame in frames]


@functools.lru_cache(maxsize=256)
def _excerpt(recording: str, time: float) -> dict:
    clip = clip_named(recording)
    try:
        with _one_at_a_time:
            samples = torch.from_numpy(clip.render())[None]
    except DataError:
        raise DataError(NO_FLUIDR3) from None
    start = max(0, int((time - LEAD) * SAMPLE_RATE))
    part = samples[:, start : start + int(EXCERPT * SAMPLE_RATE)].clone()
    fade = torch.linspace(0, 1, min(80, part.shape[1]))
    part[:, : len(fade)] *= fade
    part[:, -len(fade) :] *= fade.flip(0)
    return track(recording, part, SAMPLE_RATE) | {"timbre": clip.timbre}
