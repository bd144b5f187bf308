"""One pass over the activations of a corpus in bounded memory, which makes an atlas.

Everything is counted from the firings alone (feature, frame, value), never from a dense ``[N, d_sae]`` table, so a million
frames of a k-sparse SAE take seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sae_audio.errors import ParameterError
from sae_audio.naming import mutual_information, name_features
from sae_audio.tally import Moments, Places, Tally, firings_of, number_runs

if TYPE_CHECKING:
    from sae_audio.properties import Property
    from sae_audio.sae.base import SparseActs
from sae_audio.atlas import Atlas, Tuning


def nearest_directions(directions: Tensor, n: int, block: int = 1024) -> tuple[Tensor, Tensor]:
    """Return the features with the most similar decoder directions.

    Parameters
    ----------
    directions : Tensor [d_sae, d_in]
        Decoder rows in latent units.
    n : int
        Neighbours per feature, at least 1; at most d_sae - 1 are returned.
    block : int
        Rows compared at a time.

    Returns
    -------
    tuple of Tensor [d_sae, n]
        Cosines (float32, best first) and feature indices (int64).
    """
    unit = torch.nn.functional.normalize(directions.detach().float(), dim=1)
    n = min(n, len(unit) - 1)
    found = []
    for start in range(0, len(unit), block):
        cosine = unit[start : start + block] @ unit.T
        cosine[torch.arange(len(cosine)), torch.arange(start, start + len(cosine))] = -torch.inf  # not itself
        found.append(torch.topk(cosine, n, dim=1))
    return torch.cat([f.values for f in found]).clamp(-1, 1).cpu(), torch.cat([f.indices for f in found]).cpu()


def _check(classes: Mapping[str, Tensor], properties: Mapping[str, Property], recordings: Tensor) -> None:
    """Refuse columns that do not have one entry per frame, or classes that a property does not have."""
    for prop, p in properties.items():
        if classes[prop].shape != recordings.shape or not len(recordings):
            raise ParameterError(
                f"classes[{prop!r}] is {list(classes[prop].shape)} for {len(recordings)} frames; give one entry per frame, "
                "at least one"
            )
        if not -1 <= int(classes[prop].min()) <= int(classes[prop].max()) < p.n_classes:
            raise ParameterError(f"classes[{prop!r}] must be -1 (undefined) or 0 to {p.n_classes - 1}, the classes of '{prop}'")


def _tuning(tally: Tally, prop: str) -> Tuning:
    """Turn the counts of one property into rates, means and information."""
    label = tally.classes[prop]
    frames = torch.bincount(label[label >= 0], minlength=tally.n_classes[prop])
    known = label >= 0
    runs = len(torch.unique(number_runs(tally.frames.recording, label)[known]))
    seen = frames.clamp(min=1)
    bits = mutual_information(tally.fired[prop], frames, runs)
    return Tuning(frames, (tally.fired[prop] / seen).float(), (tally.summed[prop] / seen).float(), bits.float())


def build_atlas(
    acts: Iterable[SparseActs | Tensor],
    classes: Mapping[str, Tensor],
    properties: Mapping[str, Property],
    recordings: Tensor,
    frame_rate: float,
    directions: Tensor,
    *,
    recording_names: Sequence[str],
    n_moments: int = 8,
    n_neighbours: int = 8,
) -> Atlas:
    """Measure every feature in one pass over the activations of a corpus.

    Parameters
    ----------
    acts : iterable of SparseActs or Tensor [n, d_sae]
        Batches of frames in corpus order, ``N`` frames together: (values, indices) of a k-sparse SAE or dense activations.
    classes : dict of Tensor [N]
        Per property: int64 class of each frame, -1 where undefined. Those frames count everywhere but in the tuning.
    properties : dict of Property
        Class names and numbers, by property.
    recordings : Tensor [N]
        Int64 recording of each frame, an index into ``recording_names``. Frames of one recording stand together.
    frame_rate : float
        Frames per second, in Hz.
    directions : Tensor [d_sae, d_in]
        Decoder rows in latent units (``sae.directions()``), for the neighbours.
    recording_names : sequence of str
        Names of the recordings.
    n_moments, n_neighbours : int
        Top moments and neighbours kept per feature.

    Returns
    -------
    Atlas
        On the CPU.

    Raises
    ------
    ParameterError
        The batches do not hold N frames together, a column has another length, or a class is unknown.
    """
    classes = {prop: classes[prop].cpu() for prop in properties}
    _check(classes, properties, recordings)
    frames = Places.lay_out(recordings, frame_rate)
    tally = Tally(len(directions), classes, {prop: p.n_classes for prop, p in properties.items()}, frames)
    moments = Moments(len(directions), 2 * n_moments, frames)  # twice, since neighbours across a full second drop out
    _count(acts, tally, moments)
    return _summary(tally, moments.spaced(n_moments), properties, nearest_directions(directions, n_neighbours), recording_names)


def _count(acts: Iterable[SparseActs | Tensor], tally: Tally, moments: Moments) -> None:
    """Feed all batches to the counters."""
    done, n_frames = 0, len(tally.frames.recording)
    for batch in acts:
        firings, length = firings_of(batch, done)
        done += length
        if done > n_frames:
            break
        tally.add(firings)
        moments.add(firings)
    if done != n_frames:
        size = f"only {done}" if done < n_frames else f"more than {n_frames}"
        raise ParameterError(f"the activations have {size} frames, the recordings {n_frames}; give both for the same frames")


def _summary(
    tally: Tally,
    moments: tuple[Tensor, Tensor],
    properties: Mapping[str, Property],
    near: tuple[Tensor, Tensor],
    recording_names: Sequence[str],
) -> Atlas:
    """Turn counts into statistics."""
    firings, (value, frame) = tally.histogram.sum(1), moments
    where, tuning = frame.clamp(min=0), {prop: _tuning(tally, prop) for prop in properties}
    return Atlas(
        density=(firings / len(tally.frames.recording)).float(),
        mean=(tally.total / firings.clamp(min=1)).float(),
        max=tally.max,
        seconds=tally.seconds,
        histogram=tally.histogram,
        moment_recording=tally.frames.recording[where].masked_fill(frame < 0, -1),
        moment_time=((tally.frames.position[where] + 0.5) / tally.frames.rate).masked_fill(frame < 0, 0.0).float(),
        moment_value=value,
        neighbour=near[1],
        neighbour_cosine=near[0],
        tuning=tuning,
        names=name_features(
            firings,
            tally.seconds,
            tally.fired,
            {prop: curve.frames for prop, curve in tuning.items()},
            {prop: curve.bits for prop, curve in tuning.items()},
            {prop: p.names for prop, p in properties.items()},
        ),
        recordings=tuple(recording_names),
        frames=len(tally.frames.recording),
    )
