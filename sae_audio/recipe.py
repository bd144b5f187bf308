"""The main job: latents and descriptors of a corpus in, a bundle out.

    store ─► SAE ─► probes beside baselines ─► control vectors, calibrated on validation ─► scored on test ─► atlas ─► Bundle

Weights come from the training split, penalties and strengths from the validation split, every reported figure from the test
split; splits are by recording.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from sae_audio.activations import ActivationStore
from sae_audio.atlas import Atlas
from sae_audio.bundle import Bundle
from sae_audio.control import ControlVector
from sae_audio.evaluation import probe_table, reconstruction_metrics, regression_r2, stability
from sae_audio.fit_controls import fit_controls
from sae_audio.frames import Frames, Splits, usable_properties
from sae_audio.latent_spaces.base import Codec, LatentSpace
from sae_audio.latent_spaces.signature import signature
from sae_audio.plots import bundle_figures
from sae_audio.probes import Probe
from sae_audio.properties import Property
from sae_audio.property_sets import property_sets
from sae_audio.readers import readers
from sae_audio.sae import SAE, SAEConfig
from sae_audio.survey import build_atlas
from sae_audio.training import TrainConfig, train_sae


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
    splits = Splits.of(store)
    train, test = splits.train, splits.test
    report(f"training a {recipe.sae.variant} SAE, {recipe.sae.d_in} -> {recipe.sae.d_sae}, on {len(train.latents):,} frames")
    result = train_sae(
        train.latents,
        recipe.sae,
        recipe.train,
        validation=splits.validation.latents,
        out_dir=work_dir,
        resume=resume,
        progress=progress,
        device=device,
    )
    others = [_again(train, recipe, number, progress, device, report) for number in range(1, recipe.stability_seeds + 1)]
    if int(os.environ.get("RANK", 0)) > 0:
        return None
    sae = result.sae
    properties = usable_properties(property_sets(recipe.mode, train.descriptors), train)
    metrics: dict = {"sae": reconstruction_metrics(sae, test)}
    if others:
        metrics["stability"] = stability(sae, others, test.latents)
    report(f"fitting probes for {', '.join(properties)} on activations and baselines")
    probes, metrics["probes"], metrics["regression"] = _fit_probes(sae, properties, splits, recipe, progress)
    controls: dict[str, ControlVector] = {}
    if isinstance(space, Codec):
        report("fitting control vectors and measuring them on decoded sound")
        controls, metrics["control"] = fit_controls(
            space, sae, properties, splits, n_clips=recipe.control_clips, progress=progress
        )
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


def n_stages(space: LatentSpace, recipe: Recipe) -> int:
    """Return how many stages ``fit_bundle`` reports: the SAE and its others, probes, control vectors for a codec, features."""
    return 3 + recipe.stability_seeds + isinstance(space, Codec)


def _again(train: Frames, recipe: Recipe, number: int, progress: bool, device: str, report: Report) -> SAE:
    """Train the same SAE from another seed, for as long: one of a quarter of the steps had a third as many features in common."""
    report(f"training it again from seed {recipe.train.seed + number}, to see which features come again")
    settings = replace(recipe.train, seed=recipe.train.seed + number)
    return train_sae(train.latents, recipe.sae, settings, progress=progress, device=device).sae


def _fit_probes(
    sae: SAE, properties: dict[str, Property], splits: Splits, recipe: Recipe, progress: bool
) -> tuple[dict[str, Probe], dict, dict]:
    inputs = readers(sae, splits.train.latents, recipe.train.seed)
    few = splits.sampled(recipe.probe_frames, recipe.probe_frames // 2, recipe.probe_frames // 2)
    probes: dict[str, Probe] = {}
    scores: dict[str, dict] = {name: {} for name in properties}
    table = probe_table(inputs, properties, few)
    for name, reader, probe, score in tqdm(table, total=len(inputs) * len(properties), desc="probes", disable=not progress):
        scores[name][reader] = score._asdict()
        if reader in ("acts", "latents"):
            probes[f"{name}/{reader}"] = probe
    regression = {
        name: {reader: regression_r2(inputs[reader], name, few.train, few.test) for reader in ("acts", "latents")}
        for name in properties
    }
    return probes, scores, regression


def _atlas(sae: SAE, properties: dict[str, Property], train: Frames, store: ActivationStore) -> Atlas:
    def batches() -> Iterator[Tensor]:
        with torch.no_grad():
            for part in sae.blocks(train.latents):
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
