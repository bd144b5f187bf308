"""The few lines users copy: a sound and a bundle in; features, read-outs and steered sound out."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sae_audio.audio import Sound, fit, mixdown, read, unfit
from sae_audio.bundle import Bundle
from sae_audio.calibration import Move, steer_rounds
from sae_audio.control import ControlVector, axis_change, note_change
from sae_audio.control import axis as axis_control
from sae_audio.descriptors import Descriptors, describe
from sae_audio.errors import BundleError, ParameterError
from sae_audio.evaluation import hold_of, listener
from sae_audio.latent_spaces import SPACES, Codec, LatentSpace, load_latent_space
from sae_audio.latent_spaces.signature import same_weights, signature
from sae_audio.properties import Property
from sae_audio.pushes import Push, check_push, honest_moves, paper_pushed

Target = float | str | tuple[str | float, float]
"""A move: dB or octaves or semitones; for pitch also a note name; or (note or semitones, strength)."""


class View(NamedTuple):
    """What a bundle sees in a sound."""

    sound: Sound
    """As read, at its own rate and channel count."""
    audio: Tensor
    """[channels, N] in the form of the latent space."""
    latents: Tensor
    """[T, d_in]."""
    acts: Tensor
    """[T, d_sae]."""
    descriptors: Descriptors
    """f0, RMS and centroid measured on the audio, each [T]."""
    posteriors: dict[str, Tensor]
    """Per property: probability of each class, [T, n_classes], read off the activations."""
    top_features: list[int]
    """Features by the share of the activation they carry, strongest first."""


class Steered(NamedTuple):
    """A steered sound, with what was measured before and after."""

    sound: Sound
    """At the input's rate, channel count and length."""
    before: Descriptors
    """Measured on the codec's reconstruction of the input, each [B, T]; B is the input's channels in a mono space."""
    after: Descriptors
    """Measured on the steered sound."""
    mask: Tensor
    """[T] share of the change that each frame was to get, 0 to 1."""
    reconstruction: Sound
    """The sound as the codec gives it back unedited, in the same form as ``sound``."""
    source: Descriptors
    """Measured on the input, each [B, T]."""


class Step(NamedTuple):
    """What ``steering`` does next."""

    share: float
    """Share of the work that is done, 0 to 1."""
    doing: str
    """What comes next, in a few words."""


def space_of(
    bundle: Bundle,
    *,
    source: str | os.PathLike | None = None,
    revision: str | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    trust_remote_code: bool = False,
) -> LatentSpace:
    """Load the latent space that a bundle was trained on.

    Parameters
    ----------
    bundle : Bundle
        Says which model, tap and revision.
    source : str or path, optional
        Folder, file or Hub repository of the model's checkpoint where it is no longer where the bundle was trained from.
    revision : str, optional
        Branch, tag or commit of the model's Hub repository; by default the commit that the bundle was trained on, unless
        ``source`` names another place.
    device, dtype, trust_remote_code
        As in ``load_latent_space``.

    Raises
    ------
    LatentSpaceError
        The checkpoint cannot be loaded.
    BundleError
        Its weights are not those that the bundle was trained on.
    """
    spec = bundle.spec
    row = SPACES.get(spec.name)
    shipped = row is not None and row.shipped and spec.repo == f"checkpoints/{row.source}"
    if source is None or str(source) == spec.repo:
        source, revision = None if shipped else spec.repo, revision or spec.revision
    where = {"source": source, "revision": revision}
    space = load_latent_space(spec.name, tap=spec.tap, device=device, dtype=dtype, trust_remote_code=trust_remote_code, **where)
    trained_on = bundle.provenance.get("signature")
    if trained_on is not None and not same_weights(trained_on, signature(space)):
        raise BundleError(
            f"the bundle was trained on other weights of '{spec.name}' than {space.spec.repo} holds; "
            "train it again, or get the weights and the bundle of one version"
        )
    return space


def check_space(bundle: Bundle, space: LatentSpace) -> None:
    """Raise ``ParameterError`` unless a space is the one that the bundle is for."""
    for name in ("name", "tap", "sample_rate", "channels", "hop_length", "d_in"):
        wanted, given = getattr(bundle.spec, name), getattr(space.spec, name)
        if wanted != given:
            raise ParameterError(f"the bundle is for a latent space with {name} {wanted}, but the one given has {given}")


def as_sound(sound: Sound | str | os.PathLike) -> Sound:
    """Return a sound as it is, or read it from a file."""
    return sound if isinstance(sound, Sound) else read(sound)


@torch.inference_mode()
def analyse(bundle: Bundle, sound: Sound | str | os.PathLike, *, space: LatentSpace | None = None) -> View:
    """Return a sound's latents, activations, descriptors and probe read-outs.

    Parameters
    ----------
    bundle : Bundle
        What to look with.
    sound : Sound or path
        20 ms to 20 minutes of sound; channels are folded.
    space : LatentSpace, optional
        The bundle's latent space if it is loaded already.

    Returns
    -------
    View

    Raises
    ------
    AudioError
        The file cannot be read or is outside the limits.
    LatentSpaceError
        The bundle's latent space cannot be loaded.

    Examples
    --------
    >>> from sae_audio import Bundle, analyse
    >>> view = analyse(Bundle.from_pretrained("checkpoints/etude"), "song.wav")  # doctest: +SKIP
    >>> view.acts.shape  # doctest: +SKIP
    torch.Size([500, 1024])
    """
    sound = as_sound(sound)
    space = space or space_of(bundle)
    check_space(bundle, space)
    audio = mixdown(sound, space.spec)
    latents = space.encode(audio)[0].cpu()
    acts = bundle.sae.encode(latents)
    descriptors = Descriptors(*(column[0] for column in describe(audio, space.spec.sample_rate, space.spec.hop_length)))
    posteriors = {name: bundle.probes[f"{name}/acts"].probabilities(acts) for name in bundle.properties}
    share = acts.sum(0)
    ranked = share.argsort(descending=True)[: int((share > 0).sum())]
    return View(sound, audio[0], latents, acts, descriptors, posteriors, ranked.tolist())


def steer(
    bundle: Bundle,
    sound: Sound | str | os.PathLike,
    moves: Mapping[str, Target],
    *,
    features: Mapping[int, float] | None = None,
    pushes: Sequence[Push] = (),
    start: float = 0.0,
    stop: float | None = None,
    fade: float = 0.0,
    hold: bool = True,
    space: Codec | None = None,
) -> Steered:
    """Move a sound's pitch, loudness, brightness or single features, and return it as sound.

    Parameters
    ----------
    bundle : Bundle
        Must have control vectors and a latent space that decodes.
    sound : Sound or path
        The sound to steer.
    moves : mapping
        ``pitch``: a note (``"C5"``) or signed semitones (``3``, ``-5``), or a pair of either with a strength (``("C5", 1.5)``);
        ``loudness``: dB; ``brightness``: octaves of spectral centroid. What is not named, or 0, stays.
    features : mapping, optional
        Feature number to strength: that multiple of its typical activation is added; negative takes away.
    pushes : sequence of Push
        Strengths towards classes; see ``pushes``.
    start, stop : float
        Part of the sound that is edited, in seconds; to the end by default.
    fade : float
        Seconds over which the change comes in after ``start`` and goes out before ``stop``, as a raised cosine; at most half
        of the part.
    hold : bool
        Measure the result and correct loudness and brightness to what was asked; off when only features are edited or anything
        is pushed. Costs three more decodes.
    space : Codec, optional
        The bundle's latent space if it is loaded already.

    Returns
    -------
    Steered
        Where nothing is asked for, ``sound`` is ``reconstruction``, sample for sample.

    Raises
    ------
    ParameterError
        A move is unknown, out of the bundle's calibrated range, or the space cannot be decoded.

    Examples
    --------
    >>> from sae_audio import Bundle, steer
    >>> bundle = Bundle.from_pretrained("checkpoints/etude")  # doctest: +SKIP
    >>> steer(bundle, "song.wav", {"pitch": ("C5", 1.5), "loudness": -6.0}).sound  # doctest: +SKIP
    """
    options = {"features": features, "pushes": pushes, "start": start, "stop": stop, "fade": fade, "hold": hold, "space": space}
    *_, done = steering(bundle, sound, moves, **options)
    return done


def steering(
    bundle: Bundle,
    sound: Sound | str | os.PathLike,
    moves: Mapping[str, Target],
    *,
    features: Mapping[int, float] | None = None,
    pushes: Sequence[Push] = (),
    start: float = 0.0,
    stop: float | None = None,
    fade: float = 0.0,
    hold: bool = True,
    space: Codec | None = None,
) -> Iterator[Step | Steered]:
    """Do what ``steer`` does, saying before each long step what it is, so that a page can show it and stop in between.

    Yields
    ------
    Step
        Before the sound is encoded and before each time it is decoded.
    Steered
        At the end.
    """
    _check_finite({name: moves[name] for name in ("loudness", "brightness") if name in moves} | dict(features or {}))
    for push in pushes:
        check_push(bundle, push)
    sound = as_sound(sound)
    space = _codec(bundle, space)
    audio = fit(sound, space.spec)
    measured = describe(audio, space.spec.sample_rate, space.spec.hop_length)
    mask = _mask(space.spec.n_frames(audio.shape[-1]), space.spec.frame_rate, start, stop, fade)
    loudness, brightness = (float(moves.get(name, 0.0)) for name in ("loudness", "brightness"))
    changes = _changes(bundle, moves, features or {}, measured, mask)
    in_units = any(control.kind != "feature" for control, _ in changes)
    closed = hold_of(bundle.controls, space.spec.frame_rate) if hold and in_units and not pushes else None
    changes += honest_moves(bundle, pushes, measured, mask)
    steps = 3 + (closed.rounds if closed else 0)
    yield Step(0, "Encoding the sound")
    with torch.inference_mode():
        latents = space.encode(audio).cpu()
    yield Step(1 / steps, "Decoding it unchanged, to compare with")
    measure = listener(space, like=audio, mel_bands=0)
    with torch.inference_mode():
        before = measure(latents)
        pushed = paper_pushed(bundle, latents, pushes, mask)
    if not changes and pushed is latents:
        same = unfit(before.audio, sound, space.spec)
        reconstruction = Sound(same, sound.sample_rate)
        yield Steered(reconstruction, before.descriptors, before.descriptors, mask, reconstruction, measured)
        return
    rounds = steer_rounds(
        pushed, bundle.sae, changes, measure, before=before, wanted=(loudness, brightness), mask=mask, hold=closed
    )
    for number in range(steps - 2):
        doing = "Decoding the steered sound" if number == 0 else f"Correcting loudness and brightness, {number} of {steps - 3}"
        yield Step((2 + number) / steps, doing)
        with torch.inference_mode():
            done = next(rounds)
    steered, reconstruction = (Sound(unfit(heard.audio, sound, space.spec), sound.sample_rate) for heard in (done.heard, before))
    yield Steered(steered, before.descriptors, done.heard.descriptors, mask, reconstruction, measured)


def _check_finite(amounts: Mapping) -> None:
    for name, amount in amounts.items():
        if not math.isfinite(float(amount)):
            raise ParameterError(f"the amount for {name} is {amount}, which is not finite; give a number such as -6")


def _codec(bundle: Bundle, space: Codec | None) -> Codec:
    space = space or space_of(bundle)
    check_space(bundle, space)
    if not isinstance(space, Codec):
        raise ParameterError(
            f"'{bundle.spec.name}' cannot be decoded, so it cannot be steered to sound; "
            "use a bundle of a codec such as etude-codec or encodec-24khz"
        )
    return space


def _mask(n_frames: int, frame_rate: float, start: float, stop: float | None, fade: float = 0.0) -> Tensor:
    """1 on the frames from ``start`` to ``stop``, rising from 0 and falling to 0 over ``fade`` seconds inside them."""
    seconds = n_frames / frame_rate
    if start >= seconds:
        raise ParameterError(f"the part to edit starts at {start:g} s, but the sound lasts {seconds:.2f} s")
    stop = seconds if stop is None else stop
    if not 0 <= start < stop:
        raise ParameterError(
            f"the part to edit runs from {start:g} to {stop:g} s; it must start at 0 or later, and before it ends"
        )
    if not 0 <= fade <= (min(stop, seconds) - start) / 2 + 1e-6:
        raise ParameterError(
            f"the fade lasts {fade:g} s, but the part to edit {min(stop, seconds) - start:.2f} s; a fade is at most half as long"
        )
    centres = (torch.arange(n_frames) + 0.5) / frame_rate
    mask = ((centres >= start) & (centres < stop)).float()
    if fade > 0:
        inside = torch.minimum(centres - start, min(stop, seconds) - centres) / fade
        mask = mask * (0.5 - 0.5 * (torch.pi * inside.clamp(0, 1)).cos())
    if not mask.any():
        raise ParameterError(f"the part from {start:g} to {stop:g} s holds no frame; a frame lasts {1000 / frame_rate:.0f} ms")
    return mask


def _changes(bundle: Bundle, moves: Mapping[str, Target], features: Mapping[int, float], measured: Descriptors, mask: Tensor):
    """Turn what was asked into controls and their changes per frame."""
    if unknown := sorted(set(moves) - {"pitch", "loudness", "brightness"}):
        raise ParameterError(f"cannot move {', '.join(unknown)}; known are pitch, loudness and brightness")
    changes: list[Move] = []
    for name in ("loudness", "brightness"):
        if amount := float(moves.get(name, 0.0)):
            vector = _control(bundle, name)
            changes.append((vector, axis_change(vector, vector.strength_for(amount) * mask)))
    if _number(moves.get("pitch", 0)) != 0:
        vector = _control(bundle, "pitch")
        changes.append((vector, _pitch_change(vector, bundle.properties["pitch"], moves["pitch"], measured) * mask[:, None]))
    for feature, strength in features.items():
        vector = feature_control(bundle, feature)
        changes.append((vector, axis_change(vector, strength * mask)))
    return changes


def _control(bundle: Bundle, name: str) -> ControlVector:
    if name not in bundle.controls:
        known = ", ".join(sorted(key for key in bundle.controls if "/" not in key)) or "none"
        raise ParameterError(f"this bundle has no control for {name}; it has: {known}")
    return bundle.controls[name]


def _pitch_change(vector: ControlVector, pitch: Property, target: Target, measured: Descriptors) -> Tensor:
    target, strength = target if isinstance(target, tuple) else (target, vector.best_strength())
    _check_finite({"the strength of pitch": strength})
    source, semitones = pitch.classes(measured), _number(target)
    wanted = torch.full_like(source, pitch.class_index(target)) if semitones is None else source + _whole(semitones)
    known = vector.directions.abs().sum(1) > 0  # notes that training never heard have no direction
    inside = (source >= 0) & (wanted >= 0) & (wanted < pitch.n_classes)
    possible = inside & known[source.clamp_min(0)] & known[wanted.clamp(0, pitch.n_classes - 1)]
    if not (source >= 0).any():
        raise ParameterError(
            "no frame of the sound has a single pitch, so its pitch cannot be moved; it is noise, silence or chords"
        )
    if not possible.any():
        notes = [name for name, heard in zip(pitch.names, known.tolist(), strict=True) if heard]
        raise ParameterError(f"pitch '{target}' is out of reach; this bundle knows the notes {notes[0]} to {notes[-1]}")
    return note_change(vector, source, torch.where(possible, wanted, -1), strength)


def _number(target: Target) -> float | None:
    """A target as a number of semitones; None for a note or a pair."""
    try:
        return float(target)
    except (TypeError, ValueError):
        return None


def _whole(semitones: float) -> int:
    if not math.isfinite(semitones) or abs(semitones - round(semitones)) > 1e-6:
        raise ParameterError(f"pitch '{semitones:+g}' is neither a note (C5, F#3) nor a whole number of semitones (+3, -5)")
    return round(semitones)


def feature_control(bundle: Bundle, feature: int) -> ControlVector:
    """Return the direction that adds a feature's typical activation; ``ParameterError`` if it has none."""
    typical = bundle.atlas.feature(feature).mean
    if typical <= 0:
        raise ParameterError(f"feature {feature} never fired in training, so it has no typical activation to add")
    direction = torch.zeros(bundle.sae.config.d_sae)
    direction[feature] = typical
    return axis_control("feature", "feature", "acts", direction)
