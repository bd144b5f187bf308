"""A/B/C: original, reconstruction and steered sound on one clock, with their spectrograms.

view = ab_player(elem_id="ab")
... outputs=view                              # return compared(steered, spec, folder, name)
"""

from __future__ import annotations

from pathlib import Path

import gradio as gr
import numpy as np
import torch
from torch import Tensor

from sae_audio.audio import Sound, write
from sae_audio.outcome import level
from sae_audio.pipeline import Steered
from sae_audio.spectrum import log_mel_db, mel_height
from ui.colours import colour_maps
from ui.component import component
from ui.timeline import coded

TITLES = ("Original", "Reconstruction", "Steered")
RANGE_DB = 75.0
"""What the pictures show below the loudest point of all three."""
STARTLING_DB = 9.0
"""A steered sound louder than the original by more than this is first played equally loud."""
TICKS = (125, 250, 500, 1000, 2000, 4000, 8000, 16000)
UNDEFINED = 255


def ab_player(value: dict | None = None, **kwargs) -> gr.HTML:
    """Return the component; see the top of this file."""
    return component("ab", value, colours=colour_maps(), **kwargs)


def compared(sounds: tuple[Sound, Sound, Sound], steered: Steered, folder: Path, name: str) -> dict:
    """Return what the player shows, JSON-ready; its three WAV files are written to ``folder``.

    Parameters
    ----------
    sounds : (Sound, Sound, Sound)
        Original, reconstruction and steered, all of one rate and length.
    steered : Steered
        What was measured on them.
    folder : Path
        Of the visitor.
    name : str
        Of the sound, for the visitor.
    """
    rate = sounds[0].sample_rate
    levels = [log_mel_db(sound.samples, rate) for sound in sounds]
    top = max(max(float(picture.max()) for picture in levels), -40.0)  # silence stays dark
    measured = (steered.source, steered.before, steered.after)
    tracks = []
    for title, sound, picture, side in zip(TITLES, sounds, levels, measured, strict=True):
        path = track_of(folder, title)
        write(path, sound.samples.clamp(-1, 1), rate)
        tracks.append(
            {
                "title": title,
                "file": {"path": str(path), "meta": {"_type": "gradio.FileData"}},
                "level_db": round(level(sound.samples), 2),
                "picture": _picture(picture, top),
                "f0": coded(_heights(side.f0[0], rate)),
            }
        )
    return {
        "id": folder.name,
        "name": name,
        "duration": sounds[0].samples.shape[1] / rate,
        "sample_rate": rate,
        "equal": tracks[-1]["level_db"] > tracks[0]["level_db"] + STARTLING_DB,
        "edit": coded((steered.mask * 255).round()),
        "ticks": [[round(float(mel_height(hz, rate)), 4), _hertz(hz)] for hz in TICKS if hz < 0.45 * rate],
        "tracks": tracks,
    }


def track_of(folder: Path, title: str) -> Path:
    """Return where a sound of a result is, by one of ``TITLES``."""
    return folder / f"{title.lower()}.wav"


def _picture(level_db: Tensor, top: float) -> dict:
    shown = ((level_db - top + RANGE_DB) / RANGE_DB).clamp(0, 1)
    return {"rows": shown.shape[0], "columns": shown.shape[1], "data": coded((shown.flip(0) * 255).round())}


def _heights(f0: Tensor, rate: int) -> np.ndarray:
    """Pitch on the picture's axis, 0 to 254; ``UNDEFINED`` where there is none."""
    place = (mel_height(f0.double(), rate) * (UNDEFINED - 1)).round()
    return torch.where(f0.isfinite(), place.clamp(0, UNDEFINED - 1), UNDEFINED).nan_to_num(UNDEFINED).numpy()


def _hertz(hz: int) -> str:
    return f"{hz / 1000:g}k" if hz >= 1000 else str(hz)
