"""A small bundle with every part, real in all but size."""

import torch

from sae_audio import control
from sae_audio.bundle import Bundle
from sae_audio.control import ControlVector
from sae_audio.probes import Probe
from sae_audio.property_sets import honest_properties
from sae_audio.sae import SAEConfig, build_sae
from sae_audio.spec import LatentSpec
from sae_audio.survey import build_atlas

D_IN, D_SAE, FRAMES = 6, 16, 1200
SPEC = LatentSpec("etude-codec", "checkpoints/etude-codec", None, 16000, 1, 320, D_IN, "mean")


def tiny_latents(d_in: int = D_IN) -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    return torch.randn(FRAMES, d_in, generator=g) * torch.tensor([0.3, 1, 2, 5, 0.1, 1]).repeat(d_in)[:d_in] + torch.arange(d_in)


def score(accuracy: float) -> dict:
    return {
        "accuracy": accuracy,
        "balanced_accuracy": accuracy - 0.1,
        "within_one": accuracy + 0.1,
        "majority": 0.123,
        "n_frames": 5000,
        "n_classes": 17,
    }


def tiny_metrics() -> dict:
    trial = {"hit_rate": None, "distance": 0.31, "n_clips": 12, "via": "acts", "isolation": 12.3, "error": 0.25}
    return {
        "sae": {"fvu": 0.123456, "l0": 3.0, "sparsity": 0.8125, "dead_share": 0.0, "n_frames": 12345, "n_recordings": 12},
        "probes": {name: {"acts": score(0.8), "latents": score(0.7), "pca": score(0.3)} for name in honest_properties()},
        "regression": {"loudness": {"acts": 0.55, "latents": 0.66}},
        "control": {
            "spread": [8.0, 9.0, 0.7],
            "trials": [
                {
                    **trial,
                    "property": "pitch",
                    "asked": 2.0,
                    "reached": 1.98,
                    "hit_rate": 0.83,
                    "held": True,
                    "change": (1.98, 0.2, 0.01),
                },
                {**trial, "property": "loudness", "asked": -6.0, "reached": -5.8, "change": (float("nan"), -5.8, 0.05)},
            ],
        },
    }


def calibrated_axis(name: str, via: str, d: int, g: torch.Generator) -> ControlVector:
    doses = torch.linspace(-2, 2, 5)
    responses = torch.stack((torch.zeros(5), doses * (name == "loudness"), doses * (name == "brightness")), 1)
    responses[0, 0] = torch.nan
    return ControlVector(name, "effect", via, ("up",), torch.randn(1, d, generator=g), doses, responses, torch.zeros(0))


def tiny_bundle(variant: str = "topk", *, spec: LatentSpec = SPEC, d_sae: int = D_SAE) -> Bundle:
    g = torch.Generator().manual_seed(0)
    x = tiny_latents(spec.d_in)
    sae = build_sae(SAEConfig(variant, spec.d_in, d_sae, k=3))
    sae.fit_scaling(x.mean(0), x.std(0))
    sae.fit_start(x)
    properties = honest_properties()
    classes = {name: torch.randint(-1, p.n_classes, (FRAMES,), generator=g) for name, p in properties.items()}
    recordings = torch.arange(FRAMES) // 400
    acts = sae.encode(x).detach()
    atlas = build_atlas([acts], classes, properties, recordings, 50.0, sae.directions(), recording_names=["a", "b", "ç"])
    sizes = {"acts": d_sae, "latents": spec.d_in}
    probes = {
        f"{name}/{on}": Probe(name, on, torch.randn(d, p.n_classes, generator=g), torch.randn(p.n_classes, generator=g))
        for name, p in properties.items()
        for on, d in sizes.items()
    }
    notes = torch.randn(properties["pitch"].n_classes, d_sae, generator=g)
    controls = {"pitch": control.class_control("pitch", "effect", "acts", properties["pitch"].names, notes)}
    for name in ("loudness", "brightness"):
        controls[name] = calibrated_axis(name, "acts", d_sae, g)
        controls[f"{name}/latents"] = calibrated_axis(name, "latents", spec.d_in, g)
    return Bundle(
        spec=spec,
        sae=sae.eval(),
        properties=properties,
        probes=probes,
        controls=controls,
        atlas=atlas,
        metrics=tiny_metrics(),
        provenance={"data": {"name": "étude corpus", "seed": 0}, "versions": {"torch": "2.11.0"}},
        history=[{"step": 50, "fvu": 0.5, "l0": 3.0, "dead": 0.0}, {"step": 100, "fvu": 0.4, "l0": 3.0, "dead": 0.0}],
        figures={"training.png": b"\x89PNG\r\n\x1a\n" + b"0" * 16},
    )
