"""The model card: metadata that the Hub can read, every number from the metrics, nothing that was not measured."""

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from tiny_bundle import SPEC, tiny_bundle

from sae_audio.card import addressed, model_card
from sae_audio.latent_spaces import SPACES
from sae_audio.markdown import markdown_table
from sae_audio.property_sets import honest_properties


@pytest.fixture(scope="module")
def made():
    return tiny_bundle()


@pytest.fixture(scope="module")
def card(made):
    return model_card(made)


def test_metadata_as_the_hub_reads_it(card):
    data = ModelCard(card, ignore_metadata_errors=False).data
    assert (data.library_name, data.pipeline_tag, data.license) == ("sae-audio", "feature-extraction", "apache-2.0")
    assert {"sparse-autoencoder", "mechanistic-interpretability", "audio", "steering", "etude-codec"} <= set(data.tags)
    results = {(r.metric_type, r.metric_name): r.metric_value for r in data.eval_results}
    assert results["fvu", "FVU (lower is better)"] == 0.1235
    assert results["accuracy", "pitch probe, balanced accuracy"] == 0.7
    assert len(results) == 2 + len(honest_properties()) and {r.dataset_name for r in data.eval_results} == {"étude corpus"}
    assert data.base_model is None


def test_base_model_of_a_space_from_the_hub(made):
    spec = replace(SPEC, name="encodec-24khz", repo="facebook/encodec_24khz", revision="c1dbe2ae3f1de713481a3b3e7c47f357092ee040")
    text = model_card(replace(made, spec=spec, provenance={"license": "cc-by-nc-4.0"}))
    data = ModelCard(text).data
    assert data.base_model == "facebook/encodec_24khz" and data.license == "cc-by-nc-4.0"
    assert "https://huggingface.co/facebook/encodec_24khz" in text


LICENCES = {
    "stable-audio-vae": (
        "other",
        "stable-audio-community",
        "It asks that what is built on the model says *Powered by Stability AI*",
    ),
    "diffrhythm-vae": ("other", "stable-audio-community", "comes with a copy of the licence"),
    "encodec-24khz": (
        "other",
        "see-base-model",
        "not stated on the card. It binds here too. Where none is stated nothing is granted",
    ),
    "encodec-32khz": ("cc-by-nc-4.0", None, "CC BY-NC 4.0 (MusicGen). It binds here too."),
    "wavtokenizer-75": ("mit", None, "MIT. It binds here too."),
    "hf:user/model": ("other", "see-base-model", "see its card. It binds here too."),
}


@pytest.mark.parametrize("name", LICENCES)
def test_the_licence_of_the_base_model_is_carried_over_where_it_binds(name, made):
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import train

    identifier, named, told = LICENCES[name]
    repo = SPACES[name].source if name in SPACES else "user/model"
    options = train.parse(["--space", name])
    given = train.provenance(options, {"name": "songs"})
    text = model_card(replace(made, spec=replace(SPEC, name=name, repo=repo, revision="0" * 40), provenance=given))
    data = ModelCard(text, ignore_metadata_errors=False).data
    assert (data.license, data.license_name, data.base_model) == (identifier, named, repo)
    assert data.license_link == (f"https://huggingface.co/{repo}" if named else None)
    assert data.to_dict()["base_model_relation"] == "adapter"
    assert (name in data.tags) == (name in SPACES)  # hf:user/model would be no tag
    assert told in text.split("## Licence")[1].split("## Provenance")[0]


def test_no_licence_is_claimed_for_our_own_codec(card):
    assert "## Licence" not in card and ModelCard(card).data.license == "apache-2.0"


def test_a_data_set_of_the_hub_is_named(made):
    data = ModelCard(model_card(replace(made, provenance={"data": {"name": "songs", "dataset": "user/songs"}}))).data
    assert data.datasets == "user/songs" and {r.dataset_type for r in data.eval_results} == {"user/songs"}


def test_a_published_card_names_the_repository(card):
    text = addressed(card, "user/name")
    assert "FOLDER" not in text and text.count("--bundle user/name\n") == 2
    assert 'from_pretrained("user/name")' in text and 'load_from_disk(snapshot_download("user/name"))' in text
    assert "from huggingface_hub import snapshot_download\nfrom sae_lens import SAE" in text
    branch = addressed(card, "user/name", "dev")
    assert branch.count("--bundle user/name --revision dev\n") == 2
    assert 'from_pretrained("user/name", revision="dev")' in branch
    assert 'load_from_disk(snapshot_download("user/name", revision="dev"))' in branch
    assert addressed("my own words about a FOLDER", "user/name") == "my own words about a FOLDER"


def test_numbers_have_something_to_compare_with(card):
    section = card.split("## Reconstruction")[1].split("\n## ")[0]
    assert "| fraction of variance unexplained | 0.123 | 1: the mean of the latents |" in section
    assert "| active features per frame (l0) | 3 | 6: channels of the latents, 16: all features |" in section


def test_probe_table_has_baselines_majority_and_counts(card):
    section = card.split("## Probes")[1].split("\n## ")[0]
    assert "| pitch | **SAE features** | 0.8 | 0.7 | 0.9 |  |" in section
    assert "| loudness | raw latents | 0.7 | 0.6 | 0.8 | 0.66 |" in section
    assert "| pitch | *always the most frequent class* | 0.123 | 0.0588 |" in section  # 1 / 17
    assert "pitch 5,000 frames in 17 classes" in section


def test_control_table(card):
    section = card.split("## Control")[1].split("\n## ")[0]
    assert (
        "| pitch +2 semitones | **SAE features** | closed | +1.98 | 0.25 | 83% | +1.98 | +0.20 | +0.01 | 0.31 | 12.3 | 12 |"
        in section
    )
    assert "| loudness -6 dB | **SAE features** | open | -5.8 | 0.25 |  | " in section
    assert "dBFS" not in section


def test_a_space_without_levels_says_so(made):
    metrics = {**made.metrics, "control": {**made.metrics["control"], "levelled": True}}
    section = model_card(replace(made, metrics=metrics)).split("## Control")[1].split("\n## ")[0]
    assert "do not carry how loud each second was. Here all of it is decoded at -20 dBFS" in section


def test_feature_counts_add_up(made, card):
    section = card.split("## Features")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (pitch|loudness|brightness|unnamed|dead) \| (\d+) \|$", section, re.M)
    assert sum(int(n) for _, n in rows) == made.atlas.d_sae
    assert "1,200 training frames" in section


def test_figures_citations_provenance(card):
    assert "![training](figures/training.png)" in card
    assert (
        "arXiv:2510.23802](https://arxiv.org/abs/2510.23802)" in card
        and "arXiv:2509.24793](https://arxiv.org/abs/2509.24793)" in card
    )
    assert "| data.name | `étude corpus` |" in card and "| versions.torch | `2.11.0` |" in card
    assert 'Bundle.from_pretrained("FOLDER")' in card and "python -m sae_audio steer" in card


def test_nothing_is_claimed_that_was_not_measured(made):
    bare = replace(made, metrics={}, figures={}, provenance={}, probes={}, controls={})
    text = model_card(bare)
    data = ModelCard(text).data
    assert data.eval_results is None
    for heading in ("Reconstruction", "Probes", "Control", "Figures", "Provenance"):
        assert f"## {heading}" not in text
    assert "cannot steer" in text and "steer sound.wav" not in text and "control vectors and" not in text
    body = re.sub(r"```.*?```", "", text.split("## Citation")[0], flags=re.DOTALL)  # code claims nothing
    numbers = {float(n.replace(",", "")) for n in re.findall(r"(?<![\w.#-])\d[\d,]*(?:\.\d+)?", body.split("---\n", 2)[2])}
    assert numbers <= {16, 6, 50, 16000, 1200, 3, *(float(n.firings) for n in made.atlas.names)}


def test_unseen_classes_and_missing_properties_are_told(made):
    curve = made.atlas.tuning["pitch"]
    frames = curve.frames.clone()
    frames[:9] = 0
    tuning = {"pitch": replace(curve, frames=frames)}
    atlas = replace(made.atlas, tuning=tuning)
    limits = model_card(replace(made, atlas=atlas, properties={"pitch": made.properties["pitch"]})).split("## Limits")[1]
    assert "9 of 66 pitch classes" in limits and "no probes or controls for loudness and brightness" in limits


def test_named_features_are_listed_best_first(made):
    base = made.atlas.names[0]
    names = list(made.atlas.names)
    for i, confidence in ((2, 0.3), (5, 0.9)):
        names[i] = replace(
            base, text=f"pitch ≈ C{i}", property="pitch", low=0, high=0, confidence=confidence, bits=0.5, precision=0.75
        )
    text = model_card(replace(made, atlas=replace(made.atlas, names=tuple(names))))
    assert text.index("| 5 | pitch ≈ C5 | 0.9 |") < text.index("| 2 | pitch ≈ C2 | 0.3 |")
    assert "| pitch | 2 |" in text


def test_card_is_the_same_every_time(made, card):
    assert model_card(tiny_bundle()) == card


def test_table_cells():
    assert markdown_table(("a", "b"), [(1234, None), (0.12345, "x|y\nz"), (1433.3, 0.5)]).splitlines() == [
        "| a | b |",
        "| --- | --- |",
        "| 1,234 |  |",
        "| 0.123 | x\\|y z |",
        "| 1,433 | 0.5 |",
    ]
