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
really moves is measured on the sound (``window_trial``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from sae_audio.bundle import Bundle
from sae_audio.calibration import Heard, Move, changes, median, slopes, spectral_distance
from sae_audio.control import AUDIBLE_DB, AXES, UNITS, ControlVector, apply, axis_change, note_change
from sae_audio.diffrhythm.sampler import Hook, Step
from sae_audio.errors import ParameterError
from sae_audio.latent_spaces.base import Codec
from sae_audio.pipeline import feature_control
from sae_audio.units import to_db

Window = tuple[float, float]
"""First and last flow time that is steered, 0 (noise) to 1 (the result); the first counts, the last does not."""
WHOLE: Window = (0.0, 1.0)
WINDOWS: dict[str, Window] = {"early": (0.0, 1 / 3), "middle": (1 / 3, 2 / 3), "late": (2 / 3, 1.0), "whole": WHOLE}
"""Windows that are compared with one another."""
TIME_ROUNDING = 1e-6
"""Points in time are float32: 2/3 of a grid may be a hair below 2/3."""


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


def parse_window(text: str) -> Window:
    """Return the window of ``FROM:TO``, flow times with 0 <= FROM < TO <= 1.

    Raises
    ------
    ParameterError
        The text is something else.

    Examples
    --------
    >>> parse_window("0.3:0.7")
    (0.3, 0.7)
    """
    try:
        first, stop = (float(part) for part in text.split(":"))
    except ValueError:
        raise ParameterError(f"window '{text}' is not FROM:TO in flow time, such as 0.3:0.7 (0 is noise, 1 the result)") from None
    return check_window((first, stop))


def check_window(window: Window) -> Window:
    """Return a window as it is; ``ParameterError`` unless 0 <= first < last <= 1."""
    first, stop = window
    if not 0 <= first < stop <= 1:
        raise ParameterError(f"window {first:g}:{stop:g} must run forwards within 0 (noise) to 1 (the result), such as 0.3:0.7")
    return window


def parse_moves(texts: Sequence[str]) -> dict[str, str]:
    """Return the moves of texts such as ``loudness=-6``, ``brightness=+0.5``, ``pitch=C5``, ``pitch=+3``.

    Raises
    ------
    ParameterError
        A text has no ``=``, an unknown property, or a property that was named before.
    """
    moves: dict[str, str] = {}
    for text in texts:
        name, equals, amount = text.partition("=")
        if name not in AXES or not equals or not amount:
            raise ParameterError(
                f"--steer takes PROPERTY=AMOUNT such as loudness=-6, got '{text}'; properties: {', '.join(AXES)}"
            )
        if name in moves:
            raise ParameterError(f"--steer names {name} twice ({moves[name]} and {amount}); give it once")
        moves[name] = amount
    return moves


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


def parse_features(texts: Sequence[str]) -> dict[int, float]:
    """Return the strengths of features of texts such as ``42=1.5``.

    Raises
    ------
    ParameterError
        A text is something else, or names a feature that was named before.
    """
    features: dict[int, float] = {}
    for text in texts:
        try:
            index, strength = text.split("=")
            feature, value = int(index), float(strength)
        except ValueError:
            raise ParameterError(f"--feature takes NUMBER=STRENGTH such as 42=1.5, got '{text}'") from None
        if feature in features:
            raise ParameterError(f"--feature names {feature} twice ({features[feature]:g} and {value:g}); give it once")
        features[feature] = value
    return features


def span_mask(n_frames: int, frame_rate: float, start: float, stop: float | None) -> Tensor:
    """Return 1 on the frames of a song from ``start`` to ``stop`` in seconds (None: its end), 0 elsewhere, ``[n_frames]``.

    Raises
    ------
    ParameterError
        The span holds no frame's centre, or is not within the song.
    """
    seconds = n_frames / frame_rate
    stop = seconds if stop is None else stop
    if not 0 <= start < stop <= seconds + 1 / frame_rate:
        raise ParameterError(f"the part to steer, {start:g} to {stop:g} s, must run forwards within the song's {seconds:.2f} s")
    centres = (torch.arange(n_frames) + 0.5) / frame_rate
    mask = ((centres >= start) & (centres < stop)).float()
    if not mask.any():
        raise ParameterError(f"the part from {start:g} to {stop:g} s holds no frame; a frame lasts {1000 / frame_rate:.0f} ms")
    return mask


def steering_hook(
    bundle: Bundle,
    moves: Mapping[str, float | str],
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
        patterns = [(control, change.expand(*x1.shape[:2], -1) * frames[:, None]) for control, change in [*wanted, *kept]]
        missing = goals - _present(x1 - twin, patterns, bundle)
        scaled = [(control, missing[:, i, None, None] * change) for i, (control, change) in enumerate(patterns)]
        edited = apply(x1, bundle.sae, scaled)
        if "loudness" in held:
            louder = [(control, share * change) for control, change in patterns[: len(wanted)] if control.property == "loudness"]
            edited = _levelled(bundle, edited, apply(twin, bundle.sae, louder), frames)
        return step._replace(x1=torch.cat([twin, edited]).to(step.x1))

    return hook


def moves_of(
    bundle: Bundle, moves: Mapping[str, float | str], latents: Tensor, features: Mapping[int, float] | None = None
) -> list[Move]:
    """Return the calibrated changes that move finished latents ``[B, T, d_in]`` by what is asked (as for ``steering_hook``).

    ``control.apply`` makes them; frames whose note, or the note that it would become, has no direction keep theirs.
    """
    found = [_axis_move(bundle, name, amount) for name, amount in moves.items() if name != "pitch"]
    found += [_feature_move(bundle, feature, strength) for feature, strength in (features or {}).items()]
    return [*found, _note_move(bundle, latents, _target(bundle, moves["pitch"]))] if "pitch" in moves else found


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


def _present(difference: Tensor, moves: Sequence[Move], bundle: Bundle) -> Tensor:
    """Return how much of each move a difference of latents ``[B, T, d_in]`` holds, by least squares per song, ``[B, moves]``."""
    decoder, std = bundle.sae.directions().detach(), bundle.sae.std
    patterns = torch.stack([change @ decoder if control.via == "acts" else change for control, change in moves], 1) / std
    gram = torch.einsum("bktd,bltd->bkl", patterns, patterns)
    shared = torch.einsum("bktd,btd->bk", patterns, difference / std)
    return (torch.linalg.pinv(gram, hermitian=True) @ shared[..., None])[..., 0]


def _levelled(bundle: Bundle, latents: Tensor, model: Tensor, frames: Tensor) -> Tensor:
    """Move latents ``[B, T, d_in]`` along loudness until the probe hears the level of a model, in the mean of audible frames."""
    control, wanted = bundle.controls["loudness"], _level(bundle, model)
    heard = frames * (wanted > AUDIBLE_DB)
    drift = ((_level(bundle, latents) - wanted) * heard).sum(1) / heard.sum(1).clamp_min(1)
    strength = -drift / slopes(control)[0]
    return apply(latents, bundle.sae, [(control, axis_change(control, strength[:, None] * frames))])


def _level(bundle: Bundle, latents: Tensor) -> Tensor:
    """Return the loudness in dBFS that the probe expects of latents ``[B, T, d_in]``, ``[B, T]``."""
    loudness = bundle.properties["loudness"]
    centres = torch.tensor(loudness.centres)
    return bundle.probes["loudness/latents"].probabilities(latents) @ (centres if loudness.scale == "dB" else to_db(centres))


def _feature_move(bundle: Bundle, feature: int, strength: float) -> Move:
    """Add a multiple of a feature's typical activation."""
    if not math.isfinite(strength):
        raise ParameterError(f"the strength of feature {feature} is {strength}; give a finite number such as 1.5")
    control = feature_control(bundle, feature)
    return control, axis_change(control, strength)


def _unit(control: ControlVector) -> Move:
    return control, axis_change(control, 1.0)


def _axis_move(bundle: Bundle, name: str, amount: float | str) -> Move:
    vector = _control(bundle, name)
    try:
        value = float(amount)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ParameterError(f"the amount for {name} is '{amount}'; give a finite number of {UNITS[name]}, such as -0.5")
    return vector, axis_change(vector, vector.strength_for(value))


def _target(bundle: Bundle, wanted: float | str) -> tuple[int | None, int]:
    """Return (class, 0) for a note, (None, semitones) for an interval."""
    _control(bundle, "pitch")
    try:
        semitones = float(wanted)
    except ValueError:
        return bundle.properties["pitch"].class_index(str(wanted)), 0
    if not semitones.is_integer():
        raise ParameterError(f"pitch '{wanted}' is neither a note (C5, F#3) nor a whole number of semitones (+3, -5)")
    return None, int(semitones)


def _note_move(bundle: Bundle, x1: Tensor, target: tuple[int | None, int]) -> Move:
    """Move the notes that the probe reads in ``x1 [B, T, d_in]``."""
    vector, (note, semitones) = bundle.controls["pitch"], target
    source = bundle.probes["pitch/latents"].predict(x1)
    wanted = source + semitones if note is None else torch.full_like(source, note)
    known = vector.directions.abs().sum(1) > 0
    inside = (wanted >= 0) & (wanted < len(known))
    wanted = wanted.clamp(0, len(known) - 1)
    possible = inside & known[source] & known[wanted]
    return vector, note_change(vector, source, torch.where(possible, wanted, -1), vector.best_strength())


def _control(bundle: Bundle, name: str) -> ControlVector:
    if name not in AXES:
        raise ParameterError(f"cannot steer {name}; known are {', '.join(AXES)}")
    if name not in bundle.controls:
        known = ", ".join(sorted(key for key in bundle.controls if "/" not in key)) or "none"
        raise ParameterError(f"this bundle has no control for {name}; it has: {known}")
    return bundle.controls[name]
