"""Three short examples, shipped with what the shipped bundle sees in them, so that the page shows something at once.

    python -m ui.examples        # synthesises them again and looks at them again; run it when the bundle changed

The clips are from the corpus's test split: no bundle was trained on their scores.
"""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from sae_audio.etude.corpus import SAMPLE_RATE, clip_named
from sae_audio.latent_spaces import CHECKPOINTS
from sae_audio.pipeline import View, analyse
from ui.component import ASSETS
from ui.feature_card import card_of
from ui.feature_table import rows_of
from ui.session import BundleSource, CurrentSound, loaded
from ui.timeline import picture, track

SECONDS = 6
FADE = 800  # samples: a clip that is cut would end in a click
SEEN = ASSETS / "examples.json"
ETUDE = CHECKPOINTS / "etude"


class Example(NamedTuple):
    """A synthesised sound."""

    key: str
    """Name of its file."""
    clip: str
    """Clip of the étude corpus that it is the beginning of."""
    title: str
    """On its button."""

    @property
    def heard(self) -> CurrentSound:
        """The example as a visitor's sound."""
        return CurrentSound(self.title, str(ASSETS / f"{self.key}.flac"))


EXAMPLES = (
    Example("melody", "additive-test-0-00032", "A melody"),
    Example("low-line", "additive-test-0-00057", "A low line"),
    Example("chords", "additive-test-0-00013", "Chords"),
)


class Seen(NamedTuple):
    """What the page shows of an example."""

    picture: dict
    """Value of a ``timeline``."""
    rows: dict
    """Value of a ``feature_table``."""
    card: dict | None
    """Value of a ``feature_card`` of the strongest feature; None where no feature fires."""

    @property
    def feature(self) -> int | None:
        """The strongest feature."""
        return self.rows["rows"][0][0] if self.rows["rows"] else None

    @property
    def chosen(self) -> dict | None:
        """Its activation over time, as a ``timeline`` takes it."""
        return next((one for one in self.picture["features"] if one["feature"] == self.feature), None)


def seen(key: str, source: BundleSource) -> Seen:
    """Return what a bundle sees in an example: from the shipped file where the bundle is the shipped one."""
    if Path(source.where).resolve() == ETUDE and _shipped()["bundle"] == fingerprint(ETUDE):
        stored = _shipped()[key]
        return Seen(stored["picture"] | {"sound": _sound(key)}, stored["rows"], stored["card"])
    return _seen(key, source)


def _seen(key: str, source: BundleSource) -> Seen:
    (bundle, space), view = loaded(source), view_of(key, source)
    rows = rows_of(bundle, view)
    card = card_of(bundle, rows["rows"][0][0], view, space) if rows["rows"] else None
    return Seen(picture(bundle, view, by_key(key).title), rows, card)


@functools.lru_cache(maxsize=8)
def view_of(key: str, source: BundleSource) -> View:
    """Return a bundle's view of an example; it is the same for all visitors, so it is kept."""
    bundle, space = loaded(source)
    return analyse(bundle, by_key(key).heard.sound(), space=space)


def by_key(key: str) -> Example:
    """Return the example of a name; ``KeyError`` if there is none."""
    return {example.key: example for example in EXAMPLES}[key]


def fingerprint(folder: Path) -> str:
    """Return what changes when a bundle sees something else: a digest of the files that decide what is drawn."""
    digest = hashlib.sha256()
    for name in ("sae.safetensors", "probes.safetensors", "atlas.safetensors", "atlas.json"):
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()


def make() -> dict:
    """Synthesise the examples and return what the shipped bundle sees in them, as ``examples.json`` holds it."""
    source = BundleSource(str(ETUDE))
    stored: dict = {"bundle": fingerprint(ETUDE)}
    for example in EXAMPLES:
        samples = clip_named(example.clip).render()[: SECONDS * SAMPLE_RATE].copy()
        samples[-FADE:] *= np.linspace(1, 0, FADE)
        soundfile.write(example.heard.path, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
        found = _seen(example.key, source)._asdict()
        found["picture"].pop("sound")  # it is the FLAC file
        stored[example.key] = found
    return stored


@functools.lru_cache(maxsize=1)
def _shipped() -> dict:
    return json.loads(SEEN.read_text())


@functools.lru_cache(maxsize=len(EXAMPLES))
def _sound(key: str) -> dict:
    sound = by_key(key).heard.sound()
    return track(f"mono, {sound.sample_rate / 1000:g} kHz: as the model hears it", sound.samples, sound.sample_rate)


if __name__ == "__main__":
    SEEN.write_text(json.dumps(make(), ensure_ascii=False, separators=(",", ":")) + "\n")
