"""The few lines users copy: a sound and a bundle in; features, read-outs and steered sound out.

analyse   file → sound → audio of the space → latents → acts, descriptors, probe read-outs
steer     file → sound → audio of the space → latents → moved latents → audio → sound, measured and corrected
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from sae_audio.activity import Activity, ranked_activity
from sae_audio.audio import Sound, read
from sae_audio.bundle import Bundle
from sae_audio.bundle_space import check_space, codec_of, space_of
from sae_audio.closed_loop import hold_of, steer_rounds
from sae_audio.control import Move
from sae_audio.descriptors import Descriptors, describe
from sae_audio.errors import ParameterError
from sae_audio.fitting import fit, mixdown, unfit
from sae_audio.inputs import acts_matrix
from sae_audio.latent_spaces import Codec, LatentSpace
from sae_audio.listener import listener
from sae_audio.moves import Target, amount, asked_moves, is_move, known_range, span_mask, wanted_notes
from sae_audio.pushes import Push, check_push, honest_moves, paper_pushed
from sae_audio.spec import LatentSpec


class View(NamedTuple):
    """What a bundle sees in a sound."""

    sound: Sound
    """As read, at its own rate and channel count."""
    audio: Tensor
    """[channels, N] in the form of the latent space."""
    latents: Tensor
    """[T, d_in]."""
    acts: Tensor
    """[T, d_sae], sparse COO, since nearly all are 0; one feature's are ``acts[:, i].to_dense()``."""
    descriptors: Descriptors
    """f0, RMS and centroid measured on the audio, each [T]."""
    posteriors: dict[str, Tensor]
    """Per property: probability of each class, [T, n_classes], read off the activations."""
    activity: list[Activity]
    """What each feature that fires does, the largest share of the activation first."""

    @property
    def top_features(self) -> list[int]:
        """Features by the share of the activation they carry, strongest first."""
        return [found.feature for found in self.activity]


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
    unedited: Tensor
    """[B, channels, N] the sound as the codec gives it back unedited, in the form of the latent space ``spec``."""
    source: Descriptors
    """Measured on the input, each [B, T]."""
    spec: LatentSpec
    """The latent space."""

    @property
    def reconstruction(self) -> Sound:
        """The sound as the codec gives it back unedited, in the same form as ``sound``; made anew each time."""
        return Sound(unfit(self.unedited, self.sound, self.spec), self.sound.sample_rate)


class Stage(NamedTuple):
    """What ``analysing`` or ``steering`` does next."""

    share: float
    """Share of the work that is done, 0 to 1."""
    doing: str
    """What comes next, in a few words."""


def as_sound(sound: Sound | str | os.PathLike) -> Sound:
    """Return a sound as it is, or read it from a file."""
    return sound if isinstance(sound, Sound) else read(sound)


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
    >>> view = analyse(Bundle.from_pretrained("checkpoints/etude"), "song.wav")  # two seconds
    >>> view.acts.shape
    torch.Size([100, 1024])
    """
    *_, view = analysing(bundle, sound, space=space)
    assert isinstance(view, View)
    return view


@torch.inference_mode()
def analysing(bundle: Bundle, sound: Sound | str | os.PathLike, *, space: LatentSpace | None = None) -> Iterator[Stage | View]:
    """Do what ``analyse`` does, saying before each long step what it is, so that a page can show it and stop in between.

    Yields
    ------
    Stage
        Before the sound is encoded, before it is measured and before features are looked for.
    View
        At the end.
    """
    sound = as_sound(sound)
    space = space or space_of(bundle)
    check_space(bundle, space)
    audio = mixdown(sound, space.spec)
    yield Stage(0, "Encoding the sound")
    latents = space.encode(audio)[0].cpu()
    yield Stage(0.4, "Measuring pitch, loudness and brightness")
    descriptors = Descriptors(*(column[0] for column in describe(audio, space.spec.sample_rate, space.spec.hop_length)))
    yield Stage(0.8, "Looking for features")
    acts = acts_matrix(bundle.sae, latents)
    posteriors = {name: bundle.probes[f"{name}/acts"].probabilities(acts) for name in bundle.properties}
    acts = acts.to_sparse_coo()
    yield View(sound, audio[0], latents, acts, descriptors, posteriors, ranked_activity(acts))


@dataclass(frozen=True)
class Edit:
    """What is asked of a sound; the default asks for nothing."""

    moves: Mapping[str, Target] = field(default_factory=dict)
    """``pitch``, ``loudness``, ``brightness``; see ``steer``."""
    features: Mapping[int, float] = field(default_factory=dict)
    """Feature number to strength."""
    pushes: Sequence[Push] = ()
    """Strengths towards classes."""
    start: float = 0.0
    """First second of the part that is edited."""
    stop: float | None = None
    """Where the part ends, in seconds; None is the sound's end."""
    fade: float = 0.0
    """Seconds over which the change comes in and goes out."""
    hold: bool = True
    """Whether the result is measured and corrected."""


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
    space: LatentSpace | None = None,
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
    space : LatentSpace, optional
        The bundle's latent space if it is loaded already; must decode.

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
    >>> bundle = Bundle.from_pretrained("checkpoints/etude")
    >>> done = steer(bundle, "song.wav", {"pitch": ("C5", 1.5), "loudness": -6.0})
    >>> done.sound.samples.shape, done.sound.sample_rate
    (torch.Size([1, 32000]), 16000)
    """
    edit = Edit(moves, features or {}, pushes, start, stop, fade, hold)
    *_, done = steering(bundle, sound, edit, space=space)
    assert isinstance(done, Steered)
    return done


def steering(
    bundle: Bundle, sound: Sound | str | os.PathLike, edit: Edit, *, space: LatentSpace | None = None
) -> Iterator[Stage | Steered]:
    """Do what ``steer`` does, saying before each long stage what it is, so that a page can show it and stop in between.

    Yields
    ------
    Stage
        Before the sound is encoded and before each time it is decoded.
    Steered
        At the end.
    """
    for push in edit.pushes:
        check_push(bundle, push)
    sound, codec = as_sound(sound), codec_of(bundle, space)
    spec = codec.spec
    audio = fit(sound, spec)
    source = describe(audio, spec.sample_rate, spec.hop_length)
    mask = span_mask(spec.n_frames(audio.shape[-1]), spec.frame_rate, edit.start, edit.stop, edit.fade)
    moves = _moves_on_sound(bundle, edit, source, mask)
    in_units = any(is_move(target) for target in edit.moves.values())
    closed = hold_of(bundle.controls, spec.frame_rate) if edit.hold and in_units and not edit.pushes else None
    rounds = closed.rounds if closed else 0
    stages = 3 + rounds

    yield Stage(0, "Encoding the sound")
    with torch.inference_mode():
        latents = codec.encode(audio).cpu()

    yield Stage(1 / stages, "Decoding it unchanged, to compare with")
    measure = listener(codec, like=audio, mel_bands=0)
    with torch.inference_mode():
        before = measure(latents)
        pushed = paper_pushed(bundle, latents, edit.pushes, mask)
    if not moves and pushed is latents:
        same = _as_input(before.audio, sound, codec)
        yield Steered(same, before.descriptors, before.descriptors, mask, before.audio, source, spec)
        return

    wanted = amount(edit.moves, "loudness"), amount(edit.moves, "brightness")
    edits = steer_rounds(pushed, bundle.sae, moves, measure, before=before, wanted=wanted, mask=mask, hold=closed)
    for number in range(1 + rounds):
        doing = f"Correcting loudness and brightness, {number} of {rounds}" if number else "Decoding the steered sound"
        yield Stage((2 + number) / stages, doing)
        with torch.inference_mode():
            done = next(edits)
    heard = done.heard
    del audio, measure, latents, pushed, moves, edits, done  # at its own rate the sound is the largest of all: it needs the room
    yield Steered(_as_input(heard.audio, sound, codec), before.descriptors, heard.descriptors, mask, before.audio, source, spec)


def _as_input(audio: Tensor, sound: Sound, codec: Codec) -> Sound:
    """What a codec decoded, in the form of the sound that went in."""
    return Sound(unfit(audio, sound, codec.spec), sound.sample_rate)


def _moves_on_sound(bundle: Bundle, edit: Edit, measured: Descriptors, mask: Tensor) -> list[Move]:
    """Return what is asked as controls and their strengths per frame, scaled by the mask."""
    asked = {name: target for name, target in edit.moves.items() if is_move(target)}
    pitch = bundle.properties.get("pitch")
    notes = pitch.classes(measured) if pitch else torch.full(measured.f0.shape, -1)
    moves = asked_moves(bundle, asked, edit.features, notes)
    if "pitch" in asked:
        _check_pitch(bundle, asked["pitch"], notes)
    scaled = [(control, strengths * mask[:, None]) for control, strengths in moves]
    return scaled + honest_moves(bundle, edit.pushes, measured, mask)


def _check_pitch(bundle: Bundle, target: Target, notes: Tensor) -> None:
    """Refuse a move of pitch that no frame of the sound can make."""
    if not (notes >= 0).any():
        raise ParameterError(
            "no frame of the sound has a single pitch, so its pitch cannot be moved; it is noise, silence or chords"
        )
    if not (wanted_notes(bundle, target, notes) >= 0).any():
        asked = target[0] if isinstance(target, tuple) else target
        raise ParameterError(f"pitch '{asked}' is out of reach; {known_range(bundle)}")
