"""Latents and descriptors of a corpus on disk: sharded, memory-mapped, split by recording, resumable, rank-sharded.

    sources ──load──► audio ──encode + describe──► frames ──► shard-RRR-NNNNN.safetensors (+ who is in it) ──► index.json

``sources.py`` says what a recording is (``remote.py``: one that stays on the Hub), ``dataset.py`` finds those of a data set,
``frames.py`` measures it, ``splits.py`` says what it is for, ``extraction.py`` fills a store, ``store.py`` is the format and the
reader.
"""

from sae_audio.activations.dataset import HubDataset, dataset_sources
from sae_audio.activations.extraction import extract
from sae_audio.activations.sources import AudioSource, ClipSource, Recording, Source, audio_sources, clip_sources
from sae_audio.activations.store import SPLITS, ActivationStore, RecordingFrames, Skipped, Stored

__all__ = [
    "SPLITS",
    "ActivationStore",
    "AudioSource",
    "ClipSource",
    "HubDataset",
    "Recording",
    "RecordingFrames",
    "Skipped",
    "Source",
    "Stored",
    "audio_sources",
    "clip_sources",
    "dataset_sources",
    "extract",
]
