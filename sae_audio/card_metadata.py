"""The YAML metadata of a bundle's card, as the Hub reads it: tags, licence, base model, data, results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from sae_audio.latent_spaces.table import SPACES

if TYPE_CHECKING:
    from sae_audio.bundle import Bundle


SEE_BASE = "see-base-model"
STABILITY = "Stability AI Community"
LICENCE_NAMES = {STABILITY: "stable-audio-community"}
"""Names on the Hub of licences that have no identifier there."""
TAGS = ["sparse-autoencoder", "mechanistic-interpretability", "audio", "steering", "interpretability"]


def metadata(bundle: Bundle) -> str:
    """Return the YAML between the card's dashes."""
    from huggingface_hub import ModelCardData

    config, spec = bundle.sae.config, bundle.spec
    results, data = _eval_results(bundle), _data(bundle)
    tags = [tag for tag in TAGS if tag != "steering" or bundle.controls]
    base = spec.repo if spec.revision else None  # only a space from the Hub has a revision
    licence, name, link = _licence(bundle)
    card = ModelCardData(
        license=licence,
        license_name=name,
        license_link=link,
        library_name="sae-audio",
        pipeline_tag="feature-extraction",
        tags=[*tags, *([] if ":" in spec.name else [spec.name])],  # hf:user/model is no tag
        base_model=base,
        base_model_relation="adapter" if base else None,  # unless told the Hub takes it for a fine-tuned model
        datasets=data.get("dataset"),
        model_name=f"{spec.name} {config.variant} SAE, {config.d_sae} features" if results else None,
        eval_results=results or None,
        sae_audio={"space": spec.name, "tap": spec.tap, "variant": config.variant, "d_sae": config.d_sae},  # read by hub_index
    )
    return card.to_yaml()


def _eval_results(bundle: Bundle) -> list:
    from huggingface_hub import EvalResult

    found = [("fvu", "FVU (lower is better)"), ("l0", "active features per frame")]
    values = [(key, name, bundle.metrics.get("sae", {}).get(key)) for key, name in found]
    for prop in bundle.properties:
        score = bundle.metrics.get("probes", {}).get(prop, {}).get("acts", {}).get("balanced_accuracy")
        values.append(("accuracy", f"{prop} probe, balanced accuracy", score))
    data = _data(bundle)
    dataset = data.get("dataset")
    return [
        EvalResult(
            task_type="feature-extraction",
            dataset_type=dataset or "custom",
            dataset_name=data.get("name") or dataset or "held-out recordings",
            dataset_config=data.get("config") if dataset else None,
            dataset_split=data.get("split") if dataset else None,
            dataset_revision=data.get("revision") if dataset else None,
            metric_type=key,
            metric_name=label,
            metric_value=float(f"{value:.4g}"),
        )
        for key, label, value in values
        if value is not None
    ]


def _data(bundle: Bundle) -> Mapping:
    """What it was trained on: ``name``, and ``dataset`` if that is one of the Hub's."""
    data = bundle.provenance.get("data", {})
    return data if isinstance(data, Mapping) else {"name": str(data)}


def _licence(bundle: Bundle) -> tuple[str, str | None, str | None]:
    """Licence as the Hub has it; one that has no identifier there needs a name and a link, too."""
    licence = str(bundle.provenance.get("license", "apache-2.0"))
    if licence != "other" or not bundle.spec.revision:
        return licence, None, None
    name = LICENCE_NAMES.get(licence_of_base(bundle), SEE_BASE)
    return licence, name, f"https://huggingface.co/{bundle.spec.repo}"


def licence_of_base(bundle: Bundle) -> str:
    """Return what is known of the licence of the base model's weights, without the remark in brackets."""
    return SPACES[bundle.spec.name].licence.split(" (")[0] if bundle.spec.name in SPACES else ""
