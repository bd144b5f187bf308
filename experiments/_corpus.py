"""What the experiments share: frames of the étude corpus in the shipped codec's latents, cached in runs/."""

from __future__ import annotations

from pathlib import Path

import torch

from sae_audio.activations import ActivationStore, clip_sources, extract
from sae_audio.descriptors import Descriptors
from sae_audio.etude.corpus import corpus, make_clip
from sae_audio.frames import Frames
from sae_audio.latent_spaces import load_latent_space

CACHE = Path("runs/experiments")


def etude_store(minutes: float, source: str, seed: int = 0) -> ActivationStore:
    """Return the latents and exact labels of a corpus; extracted once, reused afterwards."""
    settings = {"corpus": source, "minutes": minutes, "seed": seed}
    folder = CACHE / f"latents-{source}-{minutes:g}-{seed}"
    return extract(load_latent_space("etude-codec"), clip_sources(corpus(minutes, seed, source)), folder, settings=settings)


def only_new_timbres(frames: Frames, names: list[str]) -> Frames:
    """Keep the recordings whose timbre no training recording has, told by their names."""
    wanted = torch.tensor([_held_out(name) for name in names])[frames.recordings]
    descriptors = Descriptors(*(column[wanted] for column in frames.descriptors))
    return Frames(frames.latents[wanted], descriptors, frames.recordings[wanted])


def _held_out(name: str) -> bool:
    source, split, seed, index = name.split("-")
    return make_clip(split, int(seed), int(index), source).held_out_timbre
