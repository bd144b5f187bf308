"""What an experiment runs on: synthesised music in the étude codec, or one's own recordings in any latent space."""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import soundfile
import torch

from experiments._corpus import CACHE, etude_store
from sae_audio.activations import ActivationStore, AudioSource, audio_sources, extract
from sae_audio.activations.measuring import measured
from sae_audio.activations.sources import Recording
from sae_audio.activations.store import shard_contents
from sae_audio.audio import MAX_MINUTES, Sound
from sae_audio.errors import ParameterError
from sae_audio.latent_spaces import LatentSpace, check_precision

TRIAL_SECONDS = 10.0
"""Noise that the speed of extraction is measured on, in seconds."""


def add_data_options(parser: argparse.ArgumentParser, minutes: float) -> None:
    """Add the options that say what an experiment runs on; ``minutes`` of synthesised music by default."""
    data = parser.add_argument_group("data")
    data.add_argument("--source", help="folder, file or Hub id of the model's checkpoint (default: the space's own)")
    data.add_argument("--source-revision", metavar="R", help="branch, tag or commit of the model on the Hub")
    data.add_argument(
        "--audio",
        nargs="+",
        metavar="DIR",
        help="folders or files of sound; subfolders train, validation and test are its splits (default: synthesised music)",
    )
    data.add_argument(
        "--latents",
        type=Path,
        metavar="DIR",
        help="where the latents of --audio are kept; train.py's OUT.work/latents serves (default: in runs/experiments)",
    )
    data.add_argument("--tracker", default="yin", help="pitch tracker for recordings: yin, librosa-yin, pyin, crepe")
    data.add_argument("--max-minutes", type=float, default=MAX_MINUTES, help="longer sound files are skipped (default: 20)")
    data.add_argument("--minutes", type=float, default=minutes, help=f"of synthesised music (default: {minutes:g})")
    data.add_argument("--corpus", default="both", choices=("additive", "fluidr3", "both"), help="its synthesiser")
    data.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="where models run and SAEs train")


def check(options: argparse.Namespace, space: str) -> None:
    """Refuse, before a model is loaded, what cannot run: a space without recordings, a device that is not there."""
    if not options.audio and space != "etude-codec":
        raise ParameterError(f"--audio is missing: '{space}' needs recordings; give folders of sound")
    check_precision("float32", options.device)


def store_of(options: argparse.Namespace, space: LatentSpace) -> ActivationStore:
    """Return the latents and descriptors that the options ask for, extracted where they are not there yet."""
    if not options.audio:
        return etude_store(options.minutes, options.corpus)
    sources = audio_sources(options.audio, max_minutes=options.max_minutes)
    folder = options.latents or CACHE / _name(options, space)
    print(announcement(space, sources, folder, options.tracker), flush=True)
    store = extract(space, sources, folder, tracker=options.tracker)
    for skipped in store.skipped:
        print(f"skipped {skipped.name}: {skipped.reason}")
    return store


def _name(options: argparse.Namespace, space: LatentSpace) -> str:
    depends = json.dumps([[str(Path(path).resolve()) for path in options.audio], options.tracker])
    safe = f"{space.spec.name}-{space.spec.tap}".replace("/", "-").replace(":", "-").replace(" ", "-")
    return f"latents-{safe}-{hashlib.sha256(depends.encode()).hexdigest()[:10]}"


def announcement(space: LatentSpace, sources: Sequence[AudioSource], folder: Path, tracker: str) -> str:
    """Return the line that says, before anything is extracted, how much there is and about how long it will take."""
    done = shard_contents(folder)
    todo = [source for source in sources if (source.name, source.version) not in done]
    if not todo:
        return f"the latents of {len(sources):,} recordings are in {folder}"
    seconds = sum(seconds_of(source.path) for source in todo)
    frames = seconds * space.spec.frame_rate
    size, pace = frames * (space.spec.d_in + 3) * 4, speed(space, tracker)
    return (
        f"{seconds / 3600:.3g} h in {len(todo):,} recordings: {frames:,.0f} frames of '{space.spec.name}', {space.spec.tap}, "
        f"{size / 1e9:.3g} GB in {folder}; about {_time(seconds / pace)} at {pace:.3g} x real time"
    )


def seconds_of(path: Path) -> float:
    """Return the length of a sound file by its header, 0 where it has none."""
    try:
        return soundfile.info(path).duration
    except soundfile.SoundFileError:  # the extraction will say what is wrong with it
        return 0.0


def _time(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 5400 else f"{max(1, round(seconds / 60))} min"


class Noise(NamedTuple):
    """A recording of white noise."""

    sample_rate: int
    """In Hz."""
    name: str = "noise"
    """Of the recording."""
    version: str = ""
    """Of the recording."""
    split: str | None = None
    """Of the recording."""

    def load(self) -> Recording:
        """Return the noise."""
        samples = torch.randn(1, round(TRIAL_SECONDS * self.sample_rate), generator=torch.Generator().manual_seed(0))
        return Recording(Sound(0.1 * samples, self.sample_rate))


def speed(space: LatentSpace, tracker: str) -> float:
    """Measure how many seconds of sound are encoded and described per second, the second time, when all is loaded."""
    for _ in range(2):
        began = time.perf_counter()
        list(measured(space, [Noise(space.spec.sample_rate)], tracker))
    return TRIAL_SECONDS / (time.perf_counter() - began)
