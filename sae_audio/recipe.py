"""The main job: latents and descriptors of a corpus in, a bundle out.

    store ─► SAE ─► probes beside baselines ─► control vectors, calibrated on validation ─► scored on test ─► atlas ─► Bundle

Weights come from the training split, penalties and strengths from the validation split, every reported figure from the test
split; splits are by recording.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from tqdm import tqdm

from sae_audio import control
from sae_audio.activations import ActivationStore
from sae_audio.atlas import Atlas, build_atlas
from sae_audio.bundle import Bundle
from sae_audio.calibration import Clips, Measure, calibrate_axis, calibrate_notes
from sae_audio.control import ControlVector, partial_effects
from sae_audio.evaluation import (
    Frames,
    control_trials,
    frames_of,
    held_out_clips,
    hold_of,
    isolation_of,
    listener,
    probe_table,
    property_sets,
    readers,
    reconstruction_distance,
    reconstruction_metrics,
    regression_r2,
    sample,
    spreads,
    stability,
    usable_properties,
)
from sae_audio.latent_spaces.base import Codec, LatentSpace
from sae_audio.latent_spaces.signature import signature
from sae_audio.pipeline import check_space
from sae_audio.plots import bundle_figures
from sae_audio.probes import Probe, acts_matrix, majority_class, score_probe
from sae_audio.properties import Property
from sae_audio.sae import SAE, SAEConfig
from sae_audio.training import TrainConfig, train_sae

LOUDNESS_DOSES = (-30, -18, -9, 9, 18, 30)
"""Strengths tried when loudness is calibrated, in nominal dB."""
BRIGHTNESS_DOSES = (-4, -2.5, -1.25, 1.25, 2.5, 4)
"""Strengths tried when brightness is calibrated, in nominal octaves."""
EFFECT_FRAMES = 500_000
"""Frames that directions are estimated on, at most: hours of sound for a few hundred unknowns, in half a gigabyte."""


@dataclass(frozen=True)
class Recipe:
    """What to fit; one sentence per field."""

    sae: SAEConfig
    """The sparse autoencoder."""
    train: TrainConfig
    """How long and how fast it trains."""
    mode: str = "honest"
    """Classes of the properties: ``honest`` (physical bins) or ``paper`` (equal-width bins over the data range)."""
    probe_frames: int = 20_000
    """Training frames that probes are fitted on, drawn at random."""
    control_clips: int = 12
    """Held-out clips that controls are calibrated on, and as many others that they are scored on."""
    stability_seeds: int = 0
    """Further SAEs trained alike from other seeds, only to count the features that come again."""


Report = Callable[[str], None]
"""Takes one line when a stage begins."""


def fit_bundle(
    space: LatentSpace,
    store: ActivationStore,
    recipe: Recipe,
    *,
    work_dir: Path,
    provenance: dict,
    resume: bool = False,
    progress: bool = True,
    device: str = "cpu",
    report: Report = lambda line: None,
) -> Bundle | None:
    """Train an SAE on a store and fit everything that reads and steers it.

    Parameters
    ----------
    space : LatentSpace
        Where the store's latents come from; control vectors are fitted where it is a ``Codec``.
    store : ActivationStore
        Latents and descriptors with recordings in all three splits.
    recipe : Recipe
        Sizes and settings.
    work_dir : Path
        Folder for the SAE's checkpoints and its training history.
    provenance : dict
        What the data are and who made them, recorded in the bundle.
    resume : bool
        Continue an interrupted SAE training in ``work_dir``.
    progress : bool
        Show progress bars.
    device : str
        Where the SAE trains.
    report : callable
        Takes one line when a stage begins.

    Returns
    -------
    Bundle or None
        Not yet saved; None in every process but the first under ``accelerate launch``.
    """
    train, validation, test = (frames_of(store, split) for split in ("train", "validation", "test"))
    report(f"training a {recipe.sae.variant} SAE, {recipe.sae.d_in} -> {recipe.sae.d_sae}, on {len(train.latents):,} frames")
    result = train_sae(
        train.latents,
        recipe.sae,
        recipe.train,
        validation=validation.latents,
        out_dir=work_dir,
        resume=resume,
        progress=progress,
        device=device,
    )
    others = [_again(train, recipe, number, progress, device, report) for number in range(1, recipe.stability_seeds + 1)]
    if int(os.environ.get("RANK", 0)) > 0:
        return None
    sae = result.sae
    properties = usable_properties(property_sets(recipe.mode, train), train)
    metrics: dict = {"sae": reconstruction_metrics(sae, test)}
    if others:
        metrics["stability"] = stability(sae, others, test.latents)
    report(f"fitting probes for {', '.join(properties)} on activations and baselines")
    probes, metrics["probes"], metrics["regression"] = _fit_probes(sae, properties, train, validation, test, recipe, progress)
    controls: dict[str, ControlVector] = {}
    if isinstance(space, Codec):
        report("fitting control vectors and measuring them on decoded sound")
        controls, metrics["control"] = _fit_controls(space, sae, properties, train, validation, test, recipe, progress)
        metrics["sae"]["log_mel_distance"] = metrics["control"].pop("log_mel_distance")
    report("describing every feature")
    bundle = Bundle(
        spec=space.spec,
        sae=sae,
        properties=properties,
        probes=probes,
        controls=controls,
        atlas=_atlas(sae, properties, train, store),
        metrics=metrics,
        provenance={**provenance, "signature": signature(space), "recipe": {"train": asdict(recipe.train), "mode": recipe.mode}},
        history=result.history,
    )
    return replace(bundle, figures=bundle_figures(bundle))


def _again(train: Frames, recipe: Recipe, number: int, progress: bool, device: str, report: Report) -> SAE:
    """Train the same SAE from another seed, for as long: one of a quarter of the steps had a third as many features in common."""
    report(f"training it again from seed {recipe.train.seed + number}, to see which features come again")
    settings = replace(recipe.train, seed=recipe.train.seed + number)
    return train_sae(train.latents, recipe.sae, settings, progress=progress, device=device).sae


def _fit_probes(
    sae: SAE,
    properties: dict[str, Property],
    train: Frames,
    validation: Frames,
    test: Frames,
    recipe: Recipe,
    progress: bool,
) -> tuple[dict[str, Probe], dict, dict]:
    inputs = readers(sae, train.latents, recipe.train.seed)
    train = sample(train, recipe.probe_frames)
    validation, test = sample(validation, recipe.probe_frames // 2), sample(test, recipe.probe_frames // 2)
    probes, scores = {}, {name: {} for name in properties}
    table = probe_table(inputs, properties, train, validation, test)
    for name, reader, probe, score in tqdm(table, total=len(inputs) * len(properties), desc="probes", disable=not progress):
        scores[name][reader] = score._asdict()
        if reader in ("acts", "latents"):
            probes[f"{name}/{reader}"] = probe
    regression = {
        name: {reader: regression_r2(inputs[reader], name, train, test) for reader in ("acts", "latents")} for name in properties
    }
    return probes, scores, regression


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
    train = sample(train, EFFECT_FRAMES)
    inputs = acts_matrix(sae, train.latents) if via == "acts" else train.latents
    decoder = sae.directions().detach() if via == "acts" else torch.eye(train.latents.shape[1])
    pitch = properties.get("pitch")
    n_notes = pitch.n_classes if pitch else 0
    notes = pitch.classes(train.descriptors) if pitch else torch.full((len(train.latents),), -1)
    found = {}
    if pitch:
        effects = partial_effects(inputs, notes, n_notes, train.descriptors, train.recordings)
        found["pitch"] = control.classes("pitch", "effect", "latents", pitch.names, effects.notes @ decoder)
    # Within a recording brightness hardly varies but with level and note; across recordings it is timbre, which is what is meant.
    together = torch.zeros_like(train.recordings)
    effects = partial_effects(inputs, notes, n_notes, train.descriptors, together)
    for name in ("loudness", "brightness"):
        if name in properties:
            found[name] = control.axis(name, "effect", "latents", getattr(effects, name) @ decoder)
    return found


def calibrated(vector: ControlVector, sae: SAE, clips: Clips, measure: Measure) -> ControlVector:
    """Return a control with its dose-response (axis) or hit rates (pitch) measured on ``clips``."""
    if vector.property == "pitch":
        return calibrate_notes(vector, sae, clips, measure)
    doses = LOUDNESS_DOSES if vector.property == "loudness" else BRIGHTNESS_DOSES
    return calibrate_axis(vector, sae, clips, measure, doses)


def _fit_controls(
    codec: Codec,
    sae: SAE,
    properties: dict[str, Property],
    train: Frames,
    validation: Frames,
    test: Frames,
    recipe: Recipe,
    progress: bool,
) -> tuple[dict[str, ControlVector], dict]:
    """Fit and calibrate controls through the SAE and, as the baseline, without it; score them on test clips."""
    measure, rate = listener(codec), codec.spec.frame_rate
    pitch, spread = properties.get("pitch"), spreads(train)
    held, unseen = (held_out_clips(f, pitch, rate, n_clips=recipe.control_clips) for f in (validation, test))
    controls = {}
    for via, suffix in (("acts", ""), ("latents", "/latents")):
        fresh = uncalibrated_controls(sae, properties, train, via)
        for name, vector in tqdm(fresh.items(), desc=f"calibrate {via}", disable=not progress):
            controls[name + suffix] = calibrated(vector, sae, held, measure)
    trials = _score_controls(controls, sae, unseen, measure, spread, rate, progress)
    distance = reconstruction_distance(sae, unseen, measure)
    return controls, {
        "trials": trials,
        "spread": spread,
        "n_calibration_clips": len(held.latents),
        "log_mel_distance": distance,
    }


def _score_controls(
    controls: dict[str, ControlVector],
    sae: SAE,
    clips: Clips,
    measure: Measure,
    spread: list[float],
    frame_rate: float,
    progress: bool,
) -> list[dict]:
    """Measure every control on test clips, open and closed loop; ``via`` says what its direction was estimated on."""
    trials = []
    for key, vector in tqdm(controls.items(), desc="score controls", disable=not progress):
        via, suffix = ("latents", "/latents") if key.endswith("/latents") else ("acts", "")
        closed = hold_of(controls, frame_rate, suffix)
        for hold in (None,) if closed is None else (None, closed):
            for trial in control_trials(vector, sae, clips, measure, hold):
                trials.append({**trial._asdict(), "via": via, "isolation": isolation_of(trial, spread)})
    return trials


def evaluate(bundle: Bundle, space: LatentSpace, store: ActivationStore, *, clips: int = 8, progress: bool = True) -> dict:
    """Score a bundle on recordings that it was not trained on.

    Parameters
    ----------
    bundle : Bundle
        What to score.
    space : LatentSpace
        Its latent space.
    store : ActivationStore
        Latents and descriptors of the recordings; all splits are used.
    clips : int
        Clips that controls are scored on, where the space is a codec.
    progress : bool
        Show a progress bar.

    Returns
    -------
    dict
        ``sae``, ``probes`` and, for a codec, ``control``, as in a bundle's ``metrics.json``; ``majority`` is that of the
        recordings scored.
    """
    check_space(bundle, space)
    frames = Frames(store.latents(), store.descriptors(), store.recordings())
    metrics: dict = {"sae": reconstruction_metrics(bundle.sae, frames), "probes": {}}
    inputs = {"acts": acts_matrix(bundle.sae, frames.latents), "latents": frames.latents}
    for name, prop in bundle.properties.items():
        classes = prop.classes(frames.descriptors)
        if not (classes >= 0).any():
            continue
        metrics["probes"][name] = {
            reader: score_probe(bundle.probes[f"{name}/{reader}"], values, classes, majority_class(classes))._asdict()
            for reader, values in inputs.items()
        }
    if isinstance(space, Codec) and bundle.controls:
        unseen = held_out_clips(frames, bundle.properties.get("pitch"), space.spec.frame_rate, n_clips=clips)
        spread = bundle.metrics.get("control", {}).get("spread") or spreads(frames)
        rate = space.spec.frame_rate
        trials = _score_controls(bundle.controls, bundle.sae, unseen, listener(space), spread, rate, progress)
        metrics["control"] = {"trials": trials, "spread": spread}
    return metrics


def _atlas(sae: SAE, properties: dict[str, Property], train: Frames, store: ActivationStore) -> Atlas:
    def batches():
        with torch.no_grad():
            for part in train.latents.split(8192):
                yield sae.encode(part)

    return build_atlas(
        batches(),
        {name: prop.classes(train.descriptors) for name, prop in properties.items()},
        properties,
        train.recordings,
        store.spec.frame_rate,
        sae.directions().detach(),
        recording_names=store.recording_names,
    )
