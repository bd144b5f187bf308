"""What steering leaves a visitor to keep: sounds, curves, settings, control vectors, a picture."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path
from typing import NamedTuple

import gradio as gr

from sae_audio.audio import Sound, full_scale_gain, lowered, read, write
from sae_audio.bundle import Bundle
from sae_audio.control_file import save_controls
from sae_audio.errors import ParameterError
from sae_audio.files import write_bytes
from sae_audio.outcome import descriptors_csv
from sae_audio.pipeline import Steered
from sae_audio.plots import png, side_by_side
from ui import session
from ui.ab import TITLES, track_of
from ui.guard import plainly
from ui.session import BundleSource, CurrentSound
from ui.steer_settings import Ask, to_json

RUNS_KEPT = 2
"""Results of one visitor whose files are kept."""
EXPORTS = {
    "wav16": "WAV, 16 bit",
    "wav24": "WAV, 24 bit",
    "csv": "Measured curves (CSV)",
    "json": "Settings (JSON)",
    "controls": "Control vectors (safetensors)",
}


class Result(NamedTuple):
    """Where the last result of a visitor is."""

    folder: str
    stem: str
    """Beginning of its files' names."""


def run_folder(request: gr.Request) -> Path:
    """A new folder for one result; all but the visitor's last ones are deleted."""
    above = session.folder(request) / "steer"
    above.mkdir(exist_ok=True)
    runs = sorted(above.iterdir(), key=lambda run: run.stat().st_mtime)
    for old in runs[: len(runs) - RUNS_KEPT + 1]:
        shutil.rmtree(old, ignore_errors=True)
    run = above / uuid.uuid4().hex[:12]
    run.mkdir()
    return run


def write_files(
    folder: Path, bundle: Bundle, done: Steered, sound: Sound, ask: Ask, source: BundleSource, heard: CurrentSound
) -> dict[str, Path]:
    """Write all exports but the picture, which takes as long as a decode and is drawn when it is wanted."""
    stem = stem_of(heard)
    files = {key: folder / f"{stem} steered {bits} bit.wav" for key, bits in (("wav16", 16), ("wav24", 24))}
    for bits, path in zip((16, 24), files.values(), strict=True):
        write(path, sound.samples, sound.sample_rate, bits=bits)
    files["csv"] = folder / f"{stem} curves.csv"
    write_bytes(files["csv"], descriptors_csv(done, bundle.spec.frame_rate).encode())
    files["json"] = folder / f"{stem} settings.json"
    about = {"sound": heard.name, "bundle": source.name, "revision": source.revision}
    write_bytes(files["json"], to_json(ask, about).encode())
    if controls := ask.controls(bundle):
        files["controls"] = folder / f"{stem} control vectors.safetensors"
        save_controls(files["controls"], bundle, controls)
    return files


@plainly
def spectrograms(result: Result | None) -> str:
    """Draw the spectrograms of the original, the reconstruction and the steered sound side by side, as a PNG."""
    if result is None:
        raise ParameterError("nothing was steered yet; steer the sound first")
    folder = Path(result.folder)
    sounds = {title: read(track_of(folder, title)) for title in TITLES}
    picture = folder / f"{result.stem} spectrograms.png"
    panels = {title: sound.samples for title, sound in sounds.items()}
    write_bytes(picture, png(side_by_side(panels, sounds[TITLES[0]].sample_rate)))
    return str(picture)


def within_full_scale(original: Sound, reconstruction: Sound, steered: Sound) -> tuple[Sound, Sound, Sound]:
    """Return sounds that do not clip: lowered together as far as the first two need it, the steered one further if it must be."""
    common = full_scale_gain(original, reconstruction)
    original, reconstruction, steered = (lowered(sound, common) for sound in (original, reconstruction, steered))
    return original, reconstruction, lowered(steered, full_scale_gain(steered))


def stem_of(heard: CurrentSound) -> str:
    """The sound's name as part of a file name."""
    kept = "".join(letter if letter.isalnum() or letter in " -" else " " for letter in heard.name)
    return " ".join(kept.split())[:60] or "sound"
