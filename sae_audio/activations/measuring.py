"""From sources to frames: load, encode, describe; what cannot be loaded comes out as an empty recording with a reason."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sae_audio.activations.sources import Recording, Source
from sae_audio.descriptors import Descriptors, describe
from sae_audio.errors import HubError, SaeAudioError
from sae_audio.fitting import mixdown
from sae_audio.latent_spaces.base import LatentSpace
from sae_audio.spec import LatentSpec

BATCH_SECONDS = {"cpu": 10.0, "other": 120.0}
"""Recordings of equal length are encoded together up to this much audio, in seconds. A CPU is slower beyond its caches."""


class MeasuredRecording(NamedTuple):
    """One recording, measured."""

    source: Source
    """Where it came from."""
    tensors: dict[str, Tensor]
    """``latents [T, d_in]``, ``f0``, ``rms``, ``centroid [T]``, on the CPU; T = 0 where it could not be used."""
    reason: str = ""
    """Why it could not be used, in one line; "" where it could."""


class _Loaded(NamedTuple):
    source: Source
    recording: Recording | None = None  # None where it could not be used
    audio: Tensor = torch.empty(1, 1, 0)  # [1, C, N] as the space takes it
    reason: str = ""


def measured(space: LatentSpace, sources: Sequence[Source], tracker: str) -> Iterator[list[MeasuredRecording]]:
    """Yield the frames of all sources in their order, batch by batch: neighbours of equal length are encoded together."""
    seconds = BATCH_SECONDS.get(space.device.type, BATCH_SECONDS["other"])
    for batch in _batches((_load(source, space.spec) for source in sources), seconds * space.spec.sample_rate):
        yield list(_measure(space, batch, tracker))


def _load(source: Source, spec: LatentSpec) -> _Loaded:
    try:
        recording = source.load()
        return _Loaded(source, recording, mixdown(recording.sound, spec))
    except HubError:  # the network is gone: nothing is wrong with the recording, and the next would fail as well
        raise
    except SaeAudioError as error:
        return _Loaded(source, reason=" ".join(str(error).split()))


def _batches(items: Iterable[_Loaded], max_samples: float) -> Iterator[list[_Loaded]]:
    """Group neighbours of equal length, at most ``max_samples`` samples together."""
    batch: list[_Loaded] = []
    for item in items:
        length = item.audio.shape[-1]
        if batch and (length != batch[0].audio.shape[-1] or (len(batch) + 1) * length > max_samples):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def _measure(space: LatentSpace, batch: list[_Loaded], tracker: str) -> Iterator[MeasuredRecording]:
    """Encode and describe recordings of equal length."""
    if batch[0].recording is None:
        nothing = {"latents": torch.zeros(0, space.spec.d_in), **{name: torch.zeros(0) for name in Descriptors._fields}}
        yield from (MeasuredRecording(item.source, nothing, item.reason) for item in batch)
        return
    audio = torch.cat([item.audio for item in batch]).to(space.device)
    latents = space.encode(audio).cpu()
    exact = [item.recording.f0 if item.recording else None for item in batch]
    needed = tracker if any(f0 is None for f0 in exact) else None
    described = describe(audio, space.spec.sample_rate, space.spec.hop_length, tracker=needed)._asdict()
    for i, (item, f0) in enumerate(zip(batch, exact, strict=True)):
        tensors = {"latents": latents[i], **{name: values[i].cpu() for name, values in described.items()}}
        if item.recording is not None and f0 is not None:
            tensors["f0"] = _on_grid(f0, item.recording.f0_rate, space.spec, latents.shape[1])
        yield MeasuredRecording(item.source, tensors)


def _on_grid(f0: Tensor, f0_rate: float, spec: LatentSpec, n_frames: int) -> Tensor:
    """Take for each latent frame the exact f0 of the label frame that its centre falls into."""
    centres = (torch.arange(n_frames, dtype=torch.float64) + 0.5) / spec.frame_rate
    return f0[(centres * f0_rate).long().clamp(max=len(f0) - 1)]
