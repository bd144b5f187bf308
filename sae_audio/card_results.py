"""The sections of a bundle's card that report figures: reconstruction, stability, probes, control."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from sae_audio.control import UNITS
from sae_audio.markdown import markdown_table

if TYPE_CHECKING:
    from sae_audio.bundle import Bundle


READERS = {
    "acts": "**SAE features**",
    "latents": "raw latents",
    "pca": "PCA, as many numbers per frame",
    "random": "random dictionary, as sparse",
    "untrained": "untrained SAE",
}


def reconstruction_section(bundle: Bundle) -> str:
    """Return the section about what the SAE keeps of the latents."""
    sae, config = bundle.metrics.get("sae", {}), bundle.sae.config
    rows = [
        ("fraction of variance unexplained", "fvu", "1: the mean of the latents"),
        ("active features per frame (l0)", "l0", f"{config.d_in}: channels of the latents, {config.d_sae:,}: all features"),
        ("sparsity, 1 - l0 / features", "sparsity", ""),
        ("features that never fire", "dead_share", "0: none"),
        ("frames measured", "n_frames", ""),
        ("recordings measured", "n_recordings", ""),
    ]
    rows = [(text, sae[key], beside) for text, key, beside in rows if key in sae]
    return (
        "## Reconstruction, on held-out recordings\n\n" + markdown_table(("measure", "value", "to compare"), rows) if rows else ""
    )


def stability_section(again: Mapping) -> str:
    """Return the section about the features that come again from another seed."""
    if not again:
        return ""
    levels = {"above_0.7": "cosine above 0.7", "above_0.9": "cosine above 0.9", "mean_cosine": "mean cosine"}
    rows = [(text, again["steady"].get(key), again["random"].get(key)) for key, text in levels.items()]
    return f"""\
## Stability

Features that come again when the SAE is trained on the same data from another seed ({again["seeds"]} further), matched one to one
by their decoder rows; beside it, the same for random directions.

{markdown_table(("measure", "this SAE", "random directions"), rows)}"""


def probes_section(bundle: Bundle) -> str:
    """Return the table of what every reader reads, with the baselines."""
    scores, regression = bundle.metrics.get("probes", {}), bundle.metrics.get("regression", {})
    scored = {prop: scores[prop] for prop in bundle.properties if prop in scores}
    if not scored:
        return ""
    rows = []
    for prop, readers in scored.items():
        for reader, score in sorted(readers.items(), key=lambda item: list(READERS).index(item[0]) if item[0] in READERS else 99):
            fit = regression.get(prop, {}).get(reader)
            columns = [score.get(key) for key in ("accuracy", "balanced_accuracy", "within_one")]
            rows.append((prop, READERS.get(reader, reader), *columns, fit))
        score = readers.get("acts") or next(iter(readers.values()))
        most = score.get("n_classes")
        rows.append((prop, "*always the most frequent class*", score.get("majority"), 1 / most if most else None, None, None))
    counts = [
        f"{prop} {readers['acts']['n_frames']:,} frames in {readers['acts']['n_classes']} classes"
        for prop, readers in scored.items()
        if "acts" in readers
    ]
    header = ("property", "read from", "accuracy", "balanced accuracy", "within one class", "R²")
    return f"""\
## Probes, on held-out recordings

One linear classifier per property, the same for every reader; R² is that of a linear regression of the value itself.
Measured on {"; ".join(counts)}.

{markdown_table(header, rows)}"""


LEVELLED = """
The latents of this space do not carry how loud each second was. Here all of it is decoded at -20 dBFS, before an edit and after
it, so that changes of loudness are measured and levels are not; who steers a sound keeps its own levels.
"""


def control_section(figures: Mapping) -> str:
    """Return the table of what steering did to decoded sound."""
    if not figures.get("trials"):
        return ""
    rows = []
    for trial in figures["trials"]:
        pitch, loudness, brightness = trial["change"]
        hits = trial.get("hit_rate")
        rows.append(
            (
                f"{trial['property']} {trial['asked']:+g} {UNITS[trial['property']]}",
                READERS.get(trial["via"], trial["via"]),
                "closed" if trial.get("held") else "open",
                None if trial["reached"] is None else f"{trial['reached']:+.3g}",
                trial["error"],
                None if hits is None else f"{hits:.0%}",
                *(None if value is None else f"{value:+.2f}" for value in (pitch, loudness, brightness)),
                trial.get("distance"),
                trial.get("isolation"),
                trial.get("n_clips"),
            )
        )
    header = (
        "asked for",
        "direction from",
        "loop",
        "reached",
        "median error",
        "within 50 cents",
        "Δ semitones",
        "Δ dB",
        "Δ octaves",
        "spectral distance",
        "isolation",
        "clips",
    )
    return f"""\
## Control, measured on the decoded sound of held-out recordings

Medians over clips, against the codec's own reconstruction. An edit adds a direction to the latents; it was estimated on SAE
features and carried by the SAE's decoder, or on raw latents (linear both, so they differ by what the SAE loses). In an *open*
loop the strength comes from the dose-response of other recordings; *closed*, loudness and brightness are measured on the result
and corrected. *Isolation* is the change asked for over the |change| per frame of the other properties, in standard deviations of
the audible frames. *Spectral distance* is the mean change of the level-free log-mel spectrum.
{LEVELLED if figures.get("levelled") else ""}
{markdown_table(header, rows)}"""
