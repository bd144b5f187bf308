"""Steering while a song is generated: a bundle's control vectors, applied to what the network believes it will end at.

Every steered song has a twin in the batch, the same song without steering. Let P be the change of finished latents that moves
the property by the amount asked, as the bundle's control is calibrated. At every step inside the window, from t_a to t_b, the
steered song's x̂₁ is set to be g·P away from its twin's, as far as P can tell:

    x̂₁ ← x̂₁ + (g − α)·P,   α = ⟨x̂₁ − twin's x̂₁, P⟩ / ⟨P, P⟩,   v = (x̂₁ − x_t)/(1 − t),   g = t_b·(1 − t_a) / (t_b − t_a)

α is what the network has made of the change already: it takes it for part of the song, and without α a change made at time t
would come out up to 1/t times as large. With g the flow leaves the window t_b·P away from its twin, as the twin of a song that
has all of P would be.

What was not asked for is kept at the twin's: brightness in the same way, with g = 0; loudness as the probe hears it in both x̂₁
(in the twin's with g times the loudness asked for, if any). The network answers a change of timbre with one of level that is
little along the direction of loudness, which moves all bands alike, and much in the bands that carry the energy. What a window
really moves is measured on the sound (``experiments/window_steering.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from sae_audio.bundle import Bundle
from sae_audio.control import AUDIBLE_DB, AXES, ControlVector, Move, apply, axis_strengths
from sae_audio.diffrhythm.sampler import Hook, Step
from sae_audio.errors import ParameterError
from sae_audio.moves import Target, asked_moves
from sae_audio.units import to_db

Window = tuple[float, float]
"""First and last flow time that is steered, 0 (noise) to 1 (the result); the first counts, the last does not."""
WHOLE: Window = (0.0, 1.0)
TIME_ROUNDING = 1e-6
"""Points in time are float32: 2/3 of a grid may be a hair below 2/3."""


def check_window(window: Window) -> Window:
    """Return a window as it is; ``ParameterError`` unless 0 <= first < last <= 1."""
    first, stop = window
    if not 0 <= first < stop <= 1:
        raise ParameterError(f"window {first:g}:{stop:g} must run forwards within 0 (noise) to 1 (the result), such as 0.3:0.7")
    return window


def steps_inside(window: Window, times: Sequence[float]) -> list[int]:
    """Return the numbers of the steps that start inside a window.

    Parameters
    ----------
    window : (float, float)
        First and last flow time.
    times : sequence of float
        Points in time; there is a step from each but the last.

    Raises
    ------
    ParameterError
        No step starts there; the message says how long a step is.
    """
    first, stop = check_window(window)
    inside = [i for i, t in enumerate(times[:-1]) if first - TIME_ROUNDING <= t < stop - TIME_ROUNDING]
    if not inside:
        longest = max(after - t for t, after in pairwise(times))
        raise ParameterError(
            f"window {first:g}:{stop:g} holds no step; steps are up to {longest:.3f} apart: widen it, or add steps"
        )
    return inside


def goal(inside: Sequence[int], times: Sequence[float]) -> float:
    """Return g = t_b·(1 − t_a) / (t_b − t_a): 1 for windows from noise or to the result, more for those between.

    Examples
    --------
    >>> times = [0, 0.25, 0.5, 0.75, 1]
    >>> goal([0, 1], times), goal([2, 3], times), goal([1, 2], times)
    (1.0, 1.0, 1.125)
    """
    first, stop = times[inside[0]], times[inside[-1] + 1]
    return stop * (1 - first) / (stop - first)


def steering_hook(
    bundle: Bundle,
    moves: Mapping[str, Target],
    times: Sequence[float],
    window: Window = WHOLE,
    *,
    features: Mapping[int, float] | None = None,
    mask: Tensor | None = None,
    hold: bool = True,
) -> Hook:
    """Return a hook for ``sample`` that steers the second half of a batch, whose first half are the same songs unsteered.

    Parameters
    ----------
    bundle : Bundle
        Whose calibrated controls are used.
    moves : mapping
        ``loudness``: dB; ``brightness``: octaves of spectral centroid; ``pitch``: a note (``"C5"``) or signed whole semitones,
        from the notes that the probe reads in the twin's x̂₁.
    times : sequence of float
        The sampler's points in time.
    window : (float, float)
        Flow times between which to steer.
    features : mapping, optional
        Feature number to strength: that multiple of its typical activation is added; negative takes away.
    mask : Tensor [T], optional
        1 on the frames to steer, 0 elsewhere; all by default.
    hold : bool
        Keep loudness and brightness at the twin's, or loudness at what was asked; not where only features are asked for.

    Raises
    ------
    ParameterError
        A move is unknown or out of the bundle's calibrated range, a feature is not there, or no step lies in the window.
    """
    inside, features = steps_inside(window, times), features or {}
    share = goal(inside, times)
    moves_of(bundle, moves, torch.zeros(1, 1, bundle.spec.d_in), features)  # what cannot be moved is told before the work
    held = {name for name in AXES[1:] if hold and moves and name in bundle.controls}
    kept = [_unit(bundle.controls["brightness"])] if "brightness" in held - moves.keys() else []
    frames = torch.ones(1) if mask is None else mask

    def hook(step: Step) -> Step | None:
        if step.index not in inside:
            return None
        twin, x1 = step.x1.detach().cpu().float().chunk(2)
        wanted = moves_of(bundle, moves, twin, features)
        goals = torch.tensor([share] * len(wanted) + [0.0] * len(kept))
        patterns = [(control, each.expand(*x1.shape[:2], -1) * frames[:, None]) for control, each in [*wanted, *kept]]
        missing = goals - _present(x1 - twin, patterns, bundle)
        scaled = [(control, missing[:, i, None, None] * each) for i, (control, each) in enumerate(patterns)]
        edited = apply(x1, bundle.sae, scaled)
        if "loudness" in held:
            louder = [(control, share * each) for control, each in patterns[: len(wanted)] if control.property == "loudness"]
            edited = _levelled(bundle, edited, apply(twin, bundle.sae, louder), frames)
        return step._replace(x1=torch.cat([twin, edited]).to(step.x1))

    return hook


def moves_of(
    bundle: Bundle, moves: Mapping[str, Target], latents: Tensor, features: Mapping[int, float] | None = None
) -> list[Move]:
    """Return the controls and strengths that move finished latents ``[B, T, d_in]`` by what is asked (as for ``steering_hook``).

    ``control.apply`` takes them; the notes are those that the probe reads in the latents.
    """
    notes = bundle.probes["pitch/latents"].predict(latents) if "pitch" in moves else torch.full(latents.shape[:2], -1)
    return asked_moves(bundle, moves, features or {}, notes)


def _present(difference: Tensor, moves: Sequence[Move], bundle: Bundle) -> Tensor:
    """Return how much of each move a difference of latents ``[B, T, d_in]`` holds, by least squares per song, ``[B, moves]``."""
    decoder, std = bundle.sae.directions().detach(), bundle.sae.std
    directions = [control.directions @ decoder if control.via == "acts" else control.directions for control, _ in moves]
    patterns = torch.stack([strengths @ rows for (_, strengths), rows in zip(moves, directions, strict=True)], 1) / std
    gram = torch.einsum("bktd,bltd->bkl", patterns, patterns)
    shared = torch.einsum("bktd,btd->bk", patterns, difference / std)
    return (torch.linalg.pinv(gram, hermitian=True) @ shared[..., None])[..., 0]


def _levelled(bundle: Bundle, latents: Tensor, model: Tensor, frames: Tensor) -> Tensor:
    """Move latents ``[B, T, d_in]`` along loudness until the probe hears the level of a model, in the mean of audible frames."""
    control, wanted = bundle.controls["loudness"], _level(bundle, model)
    heard = frames * (wanted > AUDIBLE_DB)
    drift = ((_level(bundle, latents) - wanted) * heard).sum(1) / heard.sum(1).clamp_min(1)
    strength = -drift / control.slopes()[0]
    return apply(latents, bundle.sae, [(control, axis_strengths(strength[:, None] * frames))])


def _level(bundle: Bundle, latents: Tensor) -> Tensor:
    """Return the loudness in dBFS that the probe expects of latents ``[B, T, d_in]``, ``[B, T]``."""
    loudness = bundle.properties["loudness"]
    centres = torch.tensor(loudness.centres)
    return bundle.probes["loudness/latents"].probabilities(latents) @ (centres if loudness.scale == "dB" else to_db(centres))


def _unit(control: ControlVector) -> Move:
    return control, axis_strengths(1.0)
