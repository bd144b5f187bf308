"""What steering inside a window of steps did to a song, measured on its sound beside its unsteered self."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from sae_audio.control import AXES
from sae_audio.flow_steering import WHOLE, Window
from sae_audio.heard import Heard, changes, median, spectral_distance
from sae_audio.latent_spaces.base import Codec

WINDOWS: dict[str, Window] = {"early": (0.0, 1 / 3), "middle": (1 / 3, 2 / 3), "late": (2 / 3, 1.0), "whole": WHOLE}
"""Windows that are compared with one another."""


class WindowTrial(NamedTuple):
    """What asking for one change inside one window did, in medians over songs; each is compared with its unsteered self."""

    property: str
    """Property moved."""
    window: str
    """Name of the window; ``after`` for the same change made to the finished latents."""
    asked: float
    """Semitones, dB or octaves asked for."""
    reached: float
    """Change of that property."""
    change: tuple[float, float, float]
    """Change of pitch (semitones), loudness (dB) and brightness (octaves); NaN where no song could be measured."""
    stray: tuple[float, float, float]
    """The same without its sign, |change| per frame."""
    distance: float
    """Level-free log-mel distance to the unsteered song: how much else is another."""
    cycle: float
    """Quality cost: error of decoding and encoding again (``cycle_error``) over that of the unsteered songs; 1 is no cost."""
    n_songs: int
    """Songs measured."""


def window_trial(name: str, window: str, asked: float, before: Heard, after: Heard, cycle: float) -> WindowTrial:
    """Compare steered songs with their unsteered selves; ``cycle`` is the ratio of their cycle errors."""
    per_song = changes(before.descriptors, after.descriptors)
    change = median(per_song, 0)
    return WindowTrial(
        property=name,
        window=window,
        asked=asked,
        reached=change[AXES.index(name)].item(),
        change=tuple(change.tolist()),
        stray=tuple(median(changes(before.descriptors, after.descriptors, absolute=True), 0).tolist()),
        distance=spectral_distance(before.log_mel, after.log_mel),
        cycle=cycle,
        n_songs=int(per_song[:, AXES.index(name)].isfinite().sum()),
    )


def cycle_error(space: Codec, latents: Tensor, scale: Tensor) -> float:
    """Return the error of decoding latents and encoding the sound again: how far they are from latents of any sound.

    Parameters
    ----------
    space : Codec
        Decodes and encodes.
    latents : Tensor [B, T, d_in]
        Latents.
    scale : Tensor [d_in]
        Standard deviation of each channel in the data.

    Returns
    -------
    float
        Root mean square over channels and frames, in standard deviations.
    """
    again = space.encode(space.decode(latents)).cpu()
    return float(((again - latents) / scale).square().mean().sqrt())
