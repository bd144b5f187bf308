"""Score an SAE on recordings it was not trained on: reconstruction, probes beside their baselines, control on decoded sound."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

import torch
from torch import Tensor
from tqdm import tqdm

from sae_audio.activations import ActivationStore
from sae_audio.bundle import Bundle
from sae_audio.bundle_space import check_space
from sae_audio.calibration import Clips, Trial, axis_trials, shift_trials
from sae_audio.closed_loop import Hold, hold_of
from sae_audio.control import AXES, ControlVector
from sae_audio.frames import Frames, Splits, audible_axis, held_out_clips, spreads
from sae_audio.heard import Heard, Measure, isolation
from sae_audio.inputs import acts_matrix
from sae_audio.latent_spaces.base import Codec, LatentSpace
from sae_audio.listener import listener
from sae_audio.metrics import matched_cosines, r2, reconstruction
from sae_audio.probes import Probe, ProbeScore, fit_probe, fit_ridge, majority_class, score_probe
from sae_audio.properties import Property
from sae_audio.readers import Reader
from sae_audio.sae import SAE
from sae_audio.sae.init import decoder_rows

SHIFTS = (2, 5, 12, -5)
"""Semitones asked for when pitch control is scored."""
LOUDNESS_STEPS = (-12.0, -6.0, 6.0, 12.0)
"""Decibels asked for when loudness control is scored."""
BRIGHTNESS_STEPS = (-0.5, 0.5)
"""Octaves of spectral centroid asked for when brightness control is scored."""

ALIKE = (0.7, 0.9)
"""Cosines above which a feature counts as found again in another run."""
MOST_MATCHED = 4096
"""Features of an SAE that are looked for in another run, drawn at random beyond; the matching takes their number cubed."""


def stability(sae: SAE, others: Sequence[SAE], latents: Tensor) -> dict:
    """Return how many features of an SAE come again in SAEs of other seeds, by the Hungarian matching of their decoder rows.

    Only features that fire on these latents are matched. ``random`` is the same figure for dictionaries of random directions:
    what so many features in so few channels share by chance.

    Parameters
    ----------
    sae : SAE
        The SAE.
    others : sequence of SAE
        Trained on the same latents in the same way from other seeds; at least one.
    latents : Tensor [N, d_in]
        Held-out frames.

    Returns
    -------
    dict
        ``seeds`` (number of others), ``steady`` and ``random``, each with ``mean_cosine`` and ``above_0.7``, ``above_0.9``:
        shares of the matched features, averaged over the others.
    """
    dictionaries = [one.W_dec.detach()[reconstruction(one, latents).fires] for one in (sae, *others)]
    chance = [decoder_rows(len(rows), sae.config.d_in, 1_000 + i) for i, rows in enumerate(dictionaries)]
    return {"seeds": len(others), "steady": _alike(dictionaries), "random": _alike(chance)}


def _alike(dictionaries: Sequence[Tensor]) -> dict:
    first, *rest = dictionaries
    first = first[torch.randperm(len(first), generator=torch.Generator().manual_seed(0))[:MOST_MATCHED]]
    cosines = [matched_cosines(first, other).double() for other in rest]
    shares = {f"above_{level}": sum(float((c > level).double().mean()) for c in cosines) / len(cosines) for level in ALIKE}
    return {"mean_cosine": sum(float(c.mean()) for c in cosines) / len(cosines), **shares}


def probe_table(
    inputs: Mapping[str, Reader], properties: Mapping[str, Property], splits: Splits
) -> Iterator[tuple[str, str, Probe, ProbeScore]]:
    """Fit and score a probe for every reader and property, yielding each when it is done.

    Parameters
    ----------
    inputs : dict of Reader
        From ``readers``.
    properties : dict of Property
        From ``usable_properties``.
    splits : Splits
        Weights, penalty and score come from one each.

    Yields
    ------
    (str, str, Probe, ProbeScore)
        Property, reader, probe and its score on ``test``.
    """
    for reader, read in inputs.items():
        x_train, x_validation, x_test = (read(frames.latents) for frames in splits)
        for name, prop in properties.items():
            y_train, y_validation, y_test = (prop.classes(frames.descriptors) for frames in splits)
            probe = fit_probe(x_train, y_train, prop.n_classes, validation=(x_validation, y_validation), property=name, on=reader)
            yield name, reader, probe, score_probe(probe, x_test, y_test, majority_class(y_train))


def regression_r2(read: Reader, property: str, train: Frames, test: Frames) -> float:
    """Return the held-out R² of a ridge regression of the property (semitones, dB or octaves), over audible frames."""
    weight, bias = fit_ridge(read(train.latents), audible_axis(train, property))
    target = audible_axis(test, property)
    defined = target.isfinite()
    return r2((read(test.latents) @ weight + bias)[defined], target[defined])


def reconstruction_metrics(sae: SAE, frames: Frames) -> dict[str, float]:
    """Return fvu, l0, sparsity and the share of features that never fire, on held-out frames."""
    found = reconstruction(sae, frames.latents)
    return {
        "fvu": found.fvu,
        "l0": found.l0,
        "sparsity": 1 - found.l0 / sae.config.d_sae,
        "dead_share": found.dead_share,
        "n_frames": len(frames.latents),
        "n_recordings": frames.recordings.unique().numel(),
    }


def control_trials(
    vector: ControlVector, sae: SAE, clips: Clips, before: Heard, measure: Measure, hold: Hold | None = None
) -> list[Trial]:
    """Ask a control for its standard amounts on held-out clips and measure the sound: open loop and, with ``hold``, closed loop.

    Pitch is asked for ``SHIFTS``, loudness for ``LOUDNESS_STEPS``, brightness for ``BRIGHTNESS_STEPS``; ``before`` is
    ``measure(clips.latents)``.
    """
    if vector.property == "pitch":
        strength = vector.best_strength()
        trials = [shift_trials(vector, sae, clips, before, measure, shift, strength, hold) for shift in SHIFTS]
    else:
        amounts = LOUDNESS_STEPS if vector.property == "loudness" else BRIGHTNESS_STEPS
        trials = [axis_trials(vector, sae, clips, before, measure, amount, hold) for amount in amounts]
    return sorted(chain.from_iterable(trials), key=lambda trial: trial.held)


def isolation_of(trial: Trial, spread: Sequence[float]) -> float:
    """Return the trial's on-target over off-target change; see ``heard.isolation``."""
    return isolation(trial.reached, trial.stray, AXES.index(trial.property), spread)


def reconstruction_distance(sae: SAE, clips: Clips, before: Heard, measure: Measure) -> float:
    """Return the mean |log-mel difference| between what the codec decodes from latents and from the SAE's reconstruction."""
    with torch.no_grad():
        rebuilt = sae(clips.latents)
    return float((measure(rebuilt).log_mel - before.log_mel).abs().mean())


def score_controls(
    controls: dict[str, ControlVector],
    sae: SAE,
    clips: Clips,
    before: Heard,
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
        for trial in control_trials(vector, sae, clips, before, measure, closed):
            trials.append({**trial._asdict(), "via": via, "isolation": isolation_of(trial, spread)})
    return trials


def evaluate(bundle: Bundle, space: LatentSpace, store: ActivationStore, *, clips: int = 8, progress: bool = True) -> dict:
    """Score a bundle on recordings of your choice; figures mean most where it was not trained on them.

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
        ``sae``, ``probes`` and, for a codec, ``control``, as in a bundle's ``metrics.json``; ``majority`` is the rate, on the
        recordings scored, of the class most frequent in the bundle's training.
    """
    check_space(bundle, space)
    frames = Frames(store.latents(), store.descriptors(), store.recordings())
    metrics: dict = {"sae": reconstruction_metrics(bundle.sae, frames), "probes": {}}
    inputs = {"acts": acts_matrix(bundle.sae, frames.latents), "latents": frames.latents}
    for name, prop in bundle.properties.items():
        classes = prop.classes(frames.descriptors)
        if not (classes >= 0).any():
            continue
        most_frequent = int(bundle.atlas.tuning[name].frames.argmax())
        metrics["probes"][name] = {
            reader: score_probe(bundle.probes[f"{name}/{reader}"], values, classes, most_frequent)._asdict()
            for reader, values in inputs.items()
        }
    if isinstance(space, Codec) and bundle.controls:
        rate, pitch = space.spec.frame_rate, bundle.properties.get("pitch")
        unseen = held_out_clips(frames, pitch, rate, n_clips=clips, cut_frames=space.cut_frames)
        spread = bundle.metrics.get("control", {}).get("spread") or spreads(frames)
        measure = listener(space)
        before = measure(unseen.latents)
        trials = score_controls(bundle.controls, bundle.sae, unseen, before, measure, spread, rate, progress)
        metrics["control"] = {"trials": trials, "spread": spread}
    return metrics
