"""The synced view: one sound, its spectrogram, its features, what was measured and what the probes read, on one clock.

    view = timeline(elem_id="timeline")
    button.click(..., outputs=view)                    # return picture(bundle, view, name)
    view.pick(handler)                                  # gr.EventData with .feature: a row of the heatmap was chosen
    ... outputs=view                                    # return gr.update(tracks=[track("without", audio, rate)]) or
                                                        # gr.update(chosen=activation_of(bundle, view, feature))

Everything that is drawn is in the value: base64 of uint8 pictures and a WAV, so the page asks for nothing else. Any script on the
page can move it: ``document.dispatchEvent(new CustomEvent("sae:seek", {detail: {to: "timeline", time: 1.5, play: true}}))``.
"""

from __future__ import annotations

import base64
import functools
import io
import math

import gradio as gr
import numpy as np
import soundfile
import torch
import torchaudio
from torch import Tensor

from sae_audio.bundle import Bundle
from sae_audio.descriptors import Descriptors
from sae_audio.pipeline import View
from sae_audio.properties import Property
from sae_audio.report import READ_UNITS
from sae_audio.units import SILENCE_DB, to_db
from ui.colours import colour_maps
from ui.component import component

ROWS = 20
"""Features in the heatmap."""
COLUMNS = 1500
"""Most columns of the spectrogram."""
MEL_BANDS = 96
RANGE_DB = 75.0
"""What the spectrogram shows below its loudest point."""
UNDEFINED = 255
"""Where a curve has no value; its points are 0 (bottom) to 254 (top)."""
TICKS = {
    "pitch": {"C2": 36, "C3": 48, "C4": 60, "C5": 72, "C6": 84, "C7": 96},
    "loudness": {"-60 dB": -60, "-40 dB": -40, "-20 dB": -20, "0 dB": 0},
    "brightness": {"250 Hz": math.log2(250), "1 kHz": math.log2(1000), "4 kHz": math.log2(4000)},
}
"""Marks at the left of a lane, in axis units of the fixed classes; paper mode has other axes, and any other property too: those
name the classes a quarter from both ends."""


def timeline(value: dict | None = None, **kwargs) -> gr.HTML:
    """Return the component; see the top of this file. Its value is what ``picture`` returns, or None for an empty view."""
    return component("timeline", value, **{"tracks": [], "chosen": None, "colours": colour_maps()} | kwargs)


def picture(bundle: Bundle, view: View, name: str, *, rows: int = ROWS) -> dict:
    """Return all that a timeline draws, JSON-ready.

    Parameters
    ----------
    bundle : Bundle
        What looked at the sound.
    view : View
        What it saw, from ``analyse``.
    name : str
        The sound's name, for the visitor.
    rows : int
        Features in the heatmap, strongest share of the activation first.
    """
    spec = bundle.spec
    return {
        "name": name,
        "duration": view.audio.shape[-1] / spec.sample_rate,
        "frame_rate": spec.frame_rate,
        "frames": len(view.latents),
        "sound": track(f"mono, {spec.sample_rate / 1000:g} kHz: as the model hears it", view.audio, spec.sample_rate),
        "spectrogram": spectrogram(view.audio, spec.sample_rate),
        "features": [activation_of(bundle, view, feature) for feature in view.top_features[:rows]],
        "properties": [_lane(prop, view) for prop in bundle.properties.values()],
    }


def activation_of(bundle: Bundle, view: View, feature: int) -> dict:
    """Return one feature's activation over a sound: uint8 of the share of its largest activation in the corpus."""
    values, known = view.acts[:, feature].to_dense(), float(bundle.atlas.max[feature])
    scale = max(known, float(values.max())) or 1.0
    name = bundle.atlas.names[feature].text
    return {"feature": feature, "name": name, "scale": scale, "data": coded((values / scale * 255).round())}


def track(title: str, audio: Tensor, sample_rate: int) -> dict:
    """Return a sound for the player: 16-bit WAV, with its level so that sounds can be played equally loud.

    Parameters
    ----------
    title : str
        What the visitor reads.
    audio : Tensor [C, N]
        Samples in [-1, 1]; beyond is clipped.
    sample_rate : int
        Hz.
    """
    buffer = io.BytesIO()
    pcm = (audio.detach().cpu().clamp(-1, 1 - 2**-15) * 2**15).round().to(torch.int16)
    soundfile.write(buffer, pcm.T.numpy(), sample_rate, format="WAV", subtype="PCM_16")
    level = 20 * math.log10(max(float(audio.square().mean().sqrt()), 1e-5))
    return {"title": title, "wav": base64.b64encode(buffer.getvalue()).decode(), "level_db": round(level, 2)}


def spectrogram(audio: Tensor, sample_rate: int) -> dict:
    """Return a log-mel spectrogram of audio ``[C, N]`` as uint8 rows, high frequencies first, and its marks."""
    hop = max(sample_rate // 100, -(-audio.shape[-1] // COLUMNS))
    power = _mel(sample_rate, hop)(audio.detach().cpu().mean(0))
    level = 10 * power.clamp_min(1e-10).log10()
    top = max(float(level.max()), -40.0)  # silence stays dark
    shown = ((level - top + RANGE_DB) / RANGE_DB).clamp(0, 1)
    edges = _mels(torch.tensor([30.0, sample_rate / 2]))
    marks = [hz for hz in (125, 250, 500, 1000, 2000, 4000, 8000, 16000) if hz < 0.45 * sample_rate]
    places = (_mels(torch.tensor([float(hz) for hz in marks])) - edges[0]) / (edges[1] - edges[0])
    names = [f"{hz / 1000:g} kHz" if hz >= 1000 else f"{hz} Hz" for hz in marks]
    return {
        "rows": MEL_BANDS,
        "columns": shown.shape[1],
        "data": coded((shown.flip(0) * 255).round()),
        "ticks": [[round(place, 4), name] for place, name in zip(places.tolist(), names, strict=True)],
    }


def coded(values: Tensor | np.ndarray) -> str:
    """Return numbers from 0 to 255 as base64 of one byte each."""
    return base64.b64encode(np.asarray(values).astype(np.uint8).tobytes()).decode()


def _lane(prop: Property, view: View) -> dict:
    """One property: what was measured as a curve, what the probe reads as a picture behind it, on one axis."""
    rows = prop.n_classes
    measured = prop.axis(view.descriptors)
    read = view.posteriors[prop.name]
    if prop.name != "loudness":  # a probe says something of silence too, but silence has neither pitch nor brightness
        read = read * (to_db(view.descriptors.rms) >= SILENCE_DB)[:, None]
    fixed = prop.name in TICKS and prop.scale in ("semitone", "dB", "octave")
    quarters = (prop.n_classes // 4, 3 * prop.n_classes // 4)
    ticks = TICKS[prop.name] if fixed else {prop.names[i]: prop.centres[i] for i in quarters}
    marks = [[round(float(place), 4), name] for name, value in ticks.items() if 0 <= (place := _height(prop, value)) <= 1]
    return {
        "name": prop.name,
        "title": prop.name.capitalize(),
        "classes": list(prop.names),
        "rows": rows,
        "posterior": coded((read.T.flip(0) * 255).round()),
        "curve": coded(_curve(prop, measured)),
        "values": _physical(prop, view.descriptors),
        "unit": READ_UNITS.get(prop.name, prop.unit),
        "ticks": marks,
    }


def _height(prop: Property, value: float | np.ndarray) -> np.ndarray:
    """Place of an axis value in a lane whose classes are equally high: 0 bottom, 1 top; outside the classes NaN."""
    return np.interp(value, prop.edges, np.linspace(0, 1, prop.n_classes + 1), left=np.nan, right=np.nan)


def _curve(prop: Property, measured: Tensor) -> np.ndarray:
    places = _height(prop, measured.numpy().astype(np.float64))
    return np.where(np.isfinite(places), np.round(np.nan_to_num(places) * (UNDEFINED - 1)), UNDEFINED)


def _physical(prop: Property, descriptors: Descriptors) -> list[float | None]:
    """Hz, dBFS or Hz, of any other property its axis, for reading off; None where there is none."""
    columns = {"pitch": descriptors.f0, "loudness": to_db(descriptors.rms), "brightness": descriptors.centroid}
    values = columns[prop.name] if prop.name in columns else prop.axis(descriptors)
    digits = 1 if prop.name in columns else 3
    return [round(value, digits) if math.isfinite(value) else None for value in values.tolist()]


@functools.lru_cache(maxsize=8)
def _mel(sample_rate: int, hop: int) -> torchaudio.transforms.MelSpectrogram:
    n_fft = 2 ** round(math.log2(0.064 * sample_rate))
    return torchaudio.transforms.MelSpectrogram(
        sample_rate, n_fft=n_fft, hop_length=hop, f_min=30.0, n_mels=MEL_BANDS, pad_mode="constant", norm="slaney"
    )


def _mels(hz: Tensor) -> Tensor:
    """The HTK mel scale, as torchaudio's filters use it."""
    return 2595 * (1 + hz / 700).log10()
