"""The model card of a bundle: README.md with the Hub's YAML metadata, written from the bundle and nothing else.

Every number comes from ``bundle.metrics`` or the atlas; a section whose numbers are missing is left out. ``provenance`` may hold
``data`` (what it was trained on, a sentence or a dictionary with ``name``) and ``license`` (default ``apache-2.0``); all of it is
listed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING

from sae_audio.bundle_format import SAELENS_VARIANTS
from sae_audio.card_metadata import STABILITY, licence_of_base, metadata
from sae_audio.card_results import control_section, probes_section, reconstruction_section, stability_section
from sae_audio.control import UNITS
from sae_audio.latent_spaces.table import SPACES
from sae_audio.markdown import markdown_table

if TYPE_CHECKING:
    from sae_audio.bundle import Bundle

FOLDER = "FOLDER"
"""Stands in the commands of a card for where the bundle is, until ``addressed`` says."""
SAELENS_IMPORT = "from sae_lens import SAE"
SAELENS = f"""
SAELens loads the SAE as it is:

```python
{SAELENS_IMPORT}

sae = SAE.load_from_disk("{FOLDER}")
```"""
N_EXAMPLES = 12
"""Named features shown in the card."""
PAPERS = """\
- Paek, Zang, Yang, Leistikow: *Learning Interpretable Features in Audio Latent Spaces via Sparse Autoencoders*,
  [arXiv:2510.23802](https://arxiv.org/abs/2510.23802)
- Mariotte, Lebourdais, Almudevar, Ortega, Tahon, Dugue: *Sparse Autoencoders Make Audio Foundation Models more Explainable*,
  [arXiv:2509.24793](https://arxiv.org/abs/2509.24793)

```bibtex
@article{paek2025learning,
  title   = {Learning Interpretable Features in Audio Latent Spaces via Sparse Autoencoders},
  author  = {Paek and Zang and Yang and Leistikow},
  journal = {arXiv preprint arXiv:2510.23802},
  year    = {2025}
}
@article{mariotte2025sparse,
  title   = {Sparse Autoencoders Make Audio Foundation Models more Explainable},
  author  = {Mariotte and Lebourdais and Almudevar and Ortega and Tahon and Dugue},
  journal = {arXiv preprint arXiv:2509.24793},
  year    = {2025}
}
```
"""


def model_card(bundle: Bundle) -> str:
    """Return README.md of a bundle: YAML metadata, use, results with baselines, limits, provenance, citations.

    Parameters
    ----------
    bundle : Bundle
        Anything that can be saved.

    Returns
    -------
    str
        Markdown; equal bundles give equal text.
    """
    sections = [
        _introduction(bundle),
        _use(bundle),
        reconstruction_section(bundle),
        stability_section(bundle.metrics.get("stability", {})),
        probes_section(bundle),
        control_section(bundle.metrics.get("control", {})),
        _features(bundle),
        _figures(bundle),
        _limits(bundle),
        _licence(bundle),
        _provenance(bundle.provenance),
        f"## Citation\n\nThis bundle was made with sae_audio, after\n\n{PAPERS}",
    ]
    return f"---\n{metadata(bundle)}\n---\n\n" + "\n\n".join(section.strip() for section in sections if section) + "\n"


def addressed(card: str, repo_id: str, revision: str | None = None) -> str:
    """Return a card whose commands name a Hub repository, and a branch of it, in place of a folder.

    Parameters
    ----------
    card : str
        From ``model_card``; one that was edited is changed only where it still has the original commands.
    repo_id : str
        ``user/name``.
    revision : str, optional
        Branch, tag or commit; none for ``main``.

    Examples
    --------
    >>> addressed('Bundle.from_pretrained("FOLDER")', "user/name", "dev")
    'Bundle.from_pretrained("user/name", revision="dev")'
    """
    python = f'"{repo_id}"' + (f', revision="{revision}"' if revision else "")
    shell = repo_id + (f" --revision {revision}" if revision else "")
    return (
        card.replace(SAELENS_IMPORT, f"from huggingface_hub import snapshot_download\n{SAELENS_IMPORT}")
        .replace(f'load_from_disk("{FOLDER}")', f"load_from_disk(snapshot_download({python}))")
        .replace(f'from_pretrained("{FOLDER}")', f"from_pretrained({python})")
        .replace(f"--bundle {FOLDER}", f"--bundle {shell}")
    )


def _introduction(bundle: Bundle) -> str:
    spec, config = bundle.spec, bundle.sae.config
    link = f"[{spec.repo}](https://huggingface.co/{spec.repo}) at `{spec.revision}`"
    source = link if spec.revision else f"`{_folder(spec.repo)}`"
    parts = ["probes"] * bool(bundle.probes) + ["control vectors"] * bool(bundle.controls) + ["an atlas of its features"]
    return f"""\
# Sparse autoencoder for {spec.name}

A `{config.variant}` sparse autoencoder with {config.d_sae:,} features on the {spec.d_in}-channel latents of {source}
(tap `{spec.tap}`, {spec.frame_rate:g} frames per second, {spec.sample_rate:,} Hz), with {_listed(parts)} for
{_listed(bundle.properties)}."""


def _folder(repo: str) -> str:
    """Return the name alone of a folder somewhere on a disk: a published card should not tell where."""
    return PurePath(repo).name if PurePath(repo).is_absolute() else repo


def _use(bundle: Bundle) -> str:
    controls = [f"--{name} {amount}" for name, amount in (("loudness", "-6"), ("brightness", "+0.5")) if name in bundle.controls]
    controls = ["--pitch C5"] * ("pitch" in bundle.controls) + controls
    steer = f"\npython -m sae_audio steer sound.wav {' '.join(controls)} -o steered.wav --bundle {FOLDER}" if controls else ""
    return f"""\
## Use

```python
from sae_audio import Bundle, analyse

bundle = Bundle.from_pretrained("{FOLDER}")
view = analyse(bundle, "sound.wav")  # any sound file
for feature in view.top_features[:5]:
    print(feature, bundle.atlas.feature(feature).name)
```

```
python -m sae_audio analyse sound.wav --bundle {FOLDER}{steer}
```
{SAELENS if _in_saelens(bundle) else ""}"""


def _in_saelens(bundle: Bundle) -> bool:
    return bundle.sae.config.variant in SAELENS_VARIANTS


def _features(bundle: Bundle) -> str:
    atlas = bundle.atlas
    kinds = Counter(name.property or name.text for name in atlas.names)
    counts = markdown_table(
        ("named after", "features"), ((kind, kinds[kind]) for kind in (*bundle.properties, "unnamed", "dead") if kinds[kind])
    )
    best = sorted((i for i in range(atlas.d_sae) if atlas.names[i].property), key=lambda i: (-atlas.names[i].confidence, i))
    rows = [
        (str(i), n.text, n.confidence, n.bits, n.precision, n.firings, f"{atlas.density[i].item():.2%}")
        for i in best[:N_EXAMPLES]
        for n in (atlas.names[i],)
    ]
    header = ("feature", "name", "confidence", "bits", "precision", "firings", "fires in")
    text = f"## Features\n\nCounted over {atlas.frames:,} training frames.\n\n{counts}"
    return (
        text
        if not rows
        else f"""\
{text}

The most certain names. *Confidence* is the share of a feature's firing that its name explains, *bits* the information of the
firing about the classes of the property (corrected for bias), *precision* the share of firings inside the name.

{markdown_table(header, rows)}"""
    )


def _figures(bundle: Bundle) -> str:
    if not bundle.figures:
        return ""
    images = (f"![{name.removesuffix('.png').replace('_', ' ')}](figures/{name})" for name in sorted(bundle.figures))
    return "## Figures\n\n" + "\n\n".join(images)


def _limits(bundle: Bundle) -> str:
    unseen = {prop: int((bundle.atlas.tuning[prop].frames == 0).sum()) for prop in bundle.properties}
    never = [f"{n} of {bundle.properties[prop].n_classes} {prop} classes" for prop, n in unseen.items() if n]
    missing = [prop for prop in UNITS if prop not in bundle.properties]
    lines = [
        "Names are correlations on the recordings counted above, not proof of what a feature does.",
        "All figures hold for the data named below; other sound can behave differently.",
        f"It fits the latents of `{bundle.spec.name}`, tap `{bundle.spec.tap}`, and no other space.",
    ]
    lines += [f"No frame of the atlas has {_listed(never)}; the bundle knows nothing about them."] if never else []
    lines += [f"There are no probes or controls for {_listed(missing)}."] if missing else []
    lines += ["There are no control vectors: this bundle reads sound and cannot steer it."] if not bundle.controls else []
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _licence(bundle: Bundle) -> str:
    """What binds whoever uses the bundle, where the base model is somebody else's."""
    spec, licence = bundle.spec, bundle.provenance.get("license")
    if not spec.revision or licence is None:
        return ""
    known = SPACES[spec.name].licence if spec.name in SPACES else "see its card"
    text = (
        f"Licence of the weights of [{spec.repo}](https://huggingface.co/{spec.repo}), on whose latents this SAE was trained and "
        f"without which it is of no use: {known}. It binds here too."
    )
    if licence_of_base(bundle) == STABILITY:
        text += " It asks that what is built on the model says *Powered by Stability AI* and comes with a copy of the licence."
    if known.startswith("not stated"):
        text += " Where none is stated nothing is granted: ask its authors before you pass this on or earn with it."
    return f"## Licence\n\n{text}"


def _provenance(provenance: Mapping) -> str:
    rows = sorted(_flat(provenance))
    return "## Provenance\n\n" + markdown_table(("what", "value"), rows) if rows else ""


def _flat(value: object, name: str = "") -> list[tuple[str, str]]:
    """Nested dictionaries as (dotted name, text) pairs; long rows of numbers are for programs and left out."""
    if name == "signature":
        return []
    if isinstance(value, Mapping):
        return [pair for key, item in value.items() for pair in _flat(item, f"{name}.{key}" if name else str(key))]
    return [(name, f"`{value}`")]


def _listed(words: Iterable[str]) -> str:
    """Words as "a, b and c"."""
    words = list(words)
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1]))) if words else "nothing"
