"""A bundle of an encode-only space, made by the main job on a tiny AST: on the Hub, in SAELens and in the app like any other."""

import json
import re
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_encoders import tiny_ast

from experiments._voice import write_corpus
from sae_audio import Bundle, cli
from sae_audio.audio import read
from sae_audio.bundle_space import space_of
from sae_audio.fitting import mixdown
from sae_audio.sae.saelens import from_saelens

sys.path.insert(0, str(Path(__file__).parents[1]))
import train

pytest_plugins = ["browser"]
SLOW = 120_000
SECONDS = 1.0


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("encoder")


@pytest.fixture(scope="module")
def folder(home):
    """The folder of the bundle."""
    write_corpus(home / "voices", ("female1", "female2", "male1"), vowels="a", seconds=SECONDS)
    what = ["--space", "ast", "--layer", "2", "--source", str(tiny_ast(home / "tiny-ast")), "--audio", str(home / "voices/FULL")]
    sizes = ["--steps", "60", "--d-sae", "48", "--k", "4", "--batch-size", "256", "--device", "cpu"]
    options = train.parse([*what, *sizes, "--out", str(home / "bundle")])
    assert cli.guarded(lambda: train.main(options), debug=True) == 0
    return home / "bundle"


@pytest.fixture(scope="module")
def song(home, folder):
    """One of its recordings, and where its name begins."""
    return home / "voices" / "FULL" / "male1" / "scales" / "belt" / "m1_scales_belt_a.wav"


def test_its_strongest_moments_are_where_the_feature_fires_most(folder, home):
    bundle = Bundle.from_pretrained(folder)
    space, rate = space_of(bundle), bundle.spec.frame_rate
    assert rate == 10.0 and not bundle.controls
    moments = {i: bundle.atlas.feature(i).moments for i in range(bundle.atlas.d_sae)}
    seen = 0
    for feature, best in ((i, found[0]) for i, found in moments.items() if found):
        path = home / "voices" / "FULL" / best.recording
        acts = bundle.sae.encode(space.encode(mixdown(read(path), space.spec))[0]).detach()[:, feature]
        assert best.value == pytest.approx(float(acts.max()), rel=1e-3)
        assert abs(int(best.time * rate) - int(acts.argmax())) <= 1
        seen += 1
    assert seen > 10
    assert all(a.value >= b.value for found in moments.values() for a, b in pairwise(found))


def test_it_is_published_and_comes_back_without_telling_where_the_model_was(hub, repo_id, folder, home, song, capsys):
    assert cli.main(["push", str(folder), repo_id]) == 0
    assert cli.main(["pull", repo_id, "-o", str(home / "pulled")]) == 0
    capsys.readouterr()
    published = {name: hub.read(repo_id, name) for name in hub.files(repo_id)}
    assert not any(str(home).encode() in content for content in published.values())
    pulled = Bundle.from_pretrained(home / "pulled")
    assert (pulled.spec.name, pulled.spec.tap, pulled.spec.repo, pulled.spec.d_in) == ("ast", "layer 2", "tiny-ast", 24)
    card = published["README.md"].decode()
    tags = re.search(r"^tags:\n((?:- .+\n)+)", card, re.MULTILINE)[1].split("\n")
    assert "- ast" in tags and "- steering" not in tags
    assert "sae_audio steer" not in card and "There are no control vectors: this bundle reads sound and cannot steer it." in card
    assert "on the 24-channel latents of `tiny-ast`" in card and "## Stability" in card
    assert f'load_from_disk(snapshot_download("{repo_id}"))' in card
    # SAELens' files hold the same function of the hidden state that they name.
    cfg = json.loads(published["cfg.json"])
    assert (cfg["architecture"], cfg["d_in"], cfg["d_sae"], cfg["k"]) == ("topk", 24, 48, 4)
    about = cfg["metadata"]
    assert (about["model_name"], about["hook_name"], about["latent_spec"]) == ("ast", "layer 2", pulled.spec.to_dict())
    space = space_of(pulled, source=home / "tiny-ast")
    frames = space.encode(mixdown(read(song), space.spec))[0]
    theirs = from_saelens(cfg, load_file(home / "pulled" / "sae_weights.safetensors"))
    assert torch.allclose(theirs.encode(frames), pulled.sae.encode(frames), rtol=1e-3, atol=1e-3)
    assert torch.allclose(theirs(frames), pulled.sae(frames), rtol=1e-3, atol=1e-3)


@pytest.mark.browser
def test_the_app_shows_it_and_says_why_nothing_can_be_steered(folder, song, run_app, open_page, axe):
    bundle = Bundle.from_pretrained(folder)
    with run_app(BUNDLE=str(folder)) as url:
        page = open_page(url=url, logs="Waveform load error")
        page.wait_for_selector("#card h2", timeout=SLOW)

        # Explore: the sound, its features over time, the strongest moments, and no button for what cannot be
        page.set_input_files("#bring input[type=file]", song)
        page.wait_for_function("document.querySelector('#sound-name').innerText.includes('m1 scales belt a')", timeout=SLOW)
        row = page.locator("#features tbody tr").first.get_attribute("data-feature")
        moments = bundle.atlas.feature(int(row)).moments
        page.wait_for_function(f"document.querySelector('#card h2 span').textContent === '{row}'", timeout=SLOW)
        said = page.inner_text("#card")
        assert all(f"{moment.recording}, {round(moment.time, 2):g} s" in said for moment in moments)
        assert "its features can be seen, not heard or steered" in said
        assert page.locator("#card [data-way], #card .steer").count() == 0
        assert page.evaluate("document.querySelector('#timeline audio').duration") == pytest.approx(SECONDS, abs=0.06)
        assert axe(page) == []

        # Steer: why not, in words, and a button that cannot be pressed
        page.get_by_role("tab", name="Steer").click()
        page.wait_for_selector("text=Nothing can be steered here.", timeout=SLOW)
        assert "ast, layer 2: hidden states, which cannot be decoded back to sound" in page.inner_text("#steer-why")
        assert page.is_disabled("#steer-go") and axe(page) == []

        # Generate & watch: read by the bundle that fits, said so, and heard
        page.get_by_role("tab", name="Generate").click()
        page.wait_for_function(
            "document.querySelector('#watch .how')?.textContent.startsWith(\"precomputed, read by the bundle 'etude'\")",
            timeout=SLOW,
        )
        page.wait_for_function("document.querySelector('#watch audio')?.readyState >= 2", timeout=SLOW)
        assert page.locator("text=Something went wrong").count() == 0

        # Atlas: map, list and card
        page.get_by_role("tab", name="Atlas").click()
        page.wait_for_function("document.querySelector('#atlas .about')?.textContent.startsWith('t-SNE')", timeout=SLOW)
        page.fill("#atlas-number input", row)
        page.keyboard.press("Enter")
        page.wait_for_function(f"document.querySelector('#atlas-card h2 span')?.textContent === '{row}'", timeout=SLOW)
        assert moments[0].recording in page.inner_text("#atlas-card") and page.locator("#atlas-card .steer").count() == 0
        assert page.locator("#atlas tbody tr").count() == bundle.atlas.d_sae

        # Bundle: what to type does not steer
        page.get_by_role("tab", name="Bundle", exact=True).click()
        page.wait_for_selector("#bundle-view pre", timeout=SLOW)
        shown = page.inner_text("#bundle-view")
        assert "sae_audio analyse song.wav --bundle" in shown and "steer" not in shown
        page.close()
