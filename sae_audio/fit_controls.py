"""The control vectors of a bundle: estimated on training frames, calibrated on validation clips, scored on test clips."""

from __future__ import annotations

import torch
from tqdm import tqdm

from sae_audio import control
from sae_audio.calibration import Clips, calibrate_axis, calibrate_notes
from sae_audio.control import ControlVector
from sae_audio.directions import partial_effects
from sae_audio.evaluation import reconstruction_distance, score_controls
from sae_audio.frames import Frames, Splits, held_out_clips, random_frames, spreads
from sae_audio.heard import Measure
from sae_audio.inputs import acts_matrix
from sae_audio.latent_spaces.base import Codec
from sae_audio.listener import listener
from sae_audio.properties import Property
from sae_audio.sae import SAE

LOUDNESS_DOSES = (-30, -18, -9, 9, 18, 30)
"""Strengths tried when loudness is calibrated, in nominal dB."""
BRIGHTNESS_DOSES = (-4, -2.5, -1.25, 1.25, 2.5, 4)
"""Strengths tried when brightness is calibrated, in nominal octaves."""
EFFECT_FRAMES = 500_000
"""Frames that directions are estimated on, at most: hours of sound for a few hundred unknowns, in half a gigabyte
beside the inputs (0.42 GB measured with 66 notes)."""


def uncalibrated_controls(sae: SAE, properties: dict[str, Property], train: Frames, via: str) -> dict[str, ControlVector]:
    """Return directions from partial effects, before any measurement on sound.

    Through the SAE (``via="acts"``) the effects ``e`` are estimated on activations and carried to latents by the decoder,
    ``d = e W_dec``; the baseline (``via="latents"``) estimates the same effects on raw latents.

    Parameters
    ----------
    sae : SAE
        The SAE.
    properties : dict of Property
        Properties to make controls for.
    train : Frames
        Frames that the effects are estimated on.
    via : str
        ``acts`` or ``latents``.
    """
    train = random_frames(train, EFFECT_FRAMES)
    inputs = acts_matrix(sae, train.latents) if via == "acts" else train.latents
    decoder = sae.directions().detach() if via == "acts" else torch.eye(train.latents.shape[1])
    pitch = properties.get("pitch")
    n_notes = pitch.n_classes if pitch else 0
    notes = pitch.classes(train.descriptors) if pitch else torch.full((len(train.latents),), -1)
    found = {}
    if pitch:
        effects = partial_effects(inputs, notes, n_notes, train.descriptors, train.recordings)
        found["pitch"] = control.class_control("pitch", "effect", "latents", pitch.names, effects.notes @ decoder)
    # Within a recording brightness hardly varies but with level and note; across recordings it is timbre, which is what is meant.
    together = torch.zeros_like(train.recordings)
    effects = partial_effects(inputs, notes, n_notes, train.descriptors, together)
    for name in ("loudness", "brightness"):
        if name in properties:
            found[name] = control.axis_control(name, "effect", "latents", getattr(effects, name) @ decoder)
    return found


def calibrated(vector: ControlVector, sae: SAE, clips: Clips, measure: Measure) -> ControlVector:
    """Return a control with its dose-response (axis) or hit rates (pitch) measured on ``clips``."""
    if vector.property == "pitch":
        return calibrate_notes(vector, sae, clips, measure)
    doses = LOUDNESS_DOSES if vector.property == "loudness" else BRIGHTNESS_DOSES
    return calibrate_axis(vector, sae, clips, measure, doses)


def fit_controls(
    codec: Codec,
    sae: SAE,
    properties: dict[str, Property],
    splits: Splits,
    *,
    n_clips: int = 12,
    progress: bool = True,
) -> tuple[dict[str, ControlVector], dict]:
    """Fit and calibrate controls through the SAE and, as the baseline, without it; score them on test clips.

    Parameters
    ----------
    codec : Codec
        Decodes the edits.
    sae : SAE
        The SAE.
    properties : dict of Property
        Properties to make controls for.
    splits : Splits
        Directions come from the training frames, strengths from clips of the validation split, figures from test clips.
    n_clips : int
        Clips that controls are calibrated on, and as many others that they are scored on.
    progress : bool
        Show progress bars.

    Returns
    -------
    (dict of ControlVector, dict)
        Controls by property, the baseline's with ``/latents`` behind it; and the figures: ``trials``, ``spread``,
        ``n_calibration_clips``, ``levelled`` (whether latents lack the loudness of the sound, as those of EnCodec 48 kHz do:
        clips are then decoded at one level, before an edit and after it), ``log_mel_distance``.
    """
    measure, rate = listener(codec), codec.spec.frame_rate
    pitch, spread = properties.get("pitch"), spreads(splits.train)
    cut = {"n_clips": n_clips, "cut_frames": codec.cut_frames}
    held, unseen = (held_out_clips(f, pitch, rate, **cut) for f in (splits.validation, splits.test))
    controls = {}
    for via, suffix in (("acts", ""), ("latents", "/latents")):
        fresh = uncalibrated_controls(sae, properties, splits.train, via)
        for name, vector in tqdm(fresh.items(), desc=f"calibrate {via}", disable=not progress):
            controls[name + suffix] = calibrated(vector, sae, held, measure)
    before = measure(unseen.latents)
    trials = score_controls(controls, sae, unseen, before, measure, spread, rate, progress)
    distance = reconstruction_distance(sae, unseen, before, measure)
    return controls, {
        "trials": trials,
        "spread": spread,
        "n_calibration_clips": len(held.latents),
        "levelled": codec.cut_frames > 1,
        "log_mel_distance": distance,
    }
