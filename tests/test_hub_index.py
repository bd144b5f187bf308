"""Searching the Hub for bundles: the loopback Hub's list of models, and cards that were not written by us."""

import json
import re
from dataclasses import replace

import pytest
from tiny_bundle import SPEC, tiny_bundle

from sae_audio import cli
from sae_audio.errors import HubError, ParameterError
from sae_audio.hub_index import search_bundles

PROBES = "balanced accuracy of probes"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two saved bundles: of the étude space, and of one from a Hub repository."""
    here = tmp_path_factory.mktemp("bundles")
    own = tiny_bundle()
    spec = replace(SPEC, name="encodec-24khz", repo="facebook/encodec_24khz", revision="c" * 40, tap="quantized")
    return own.save(here / "own"), replace(own, spec=spec).save(here / "other")


@pytest.fixture
def name(repo_id):
    """A word that is in the name of every repository of one test, and in no other."""
    return repo_id.split("/")[1]


@pytest.fixture
def listed(hub, name, folders):
    """Two bundles and a model of another kind; returns the commits of the bundles."""
    commits = hub.seed(f"alice/{name}-a", folders[0], downloads=3), hub.seed(f"bob/{name}-b", folders[1], downloads=9)
    hub.seed(f"bob/{name}-c", {"README.md": "---\nlibrary_name: transformers\ntags: [audio]\n---\n"})
    hub.reset()
    return commits


def test_one_request_tells_all(listed, hub, name):
    second, first = search_bundles(name)
    assert (first.repo, first.revision, first.downloads) == (f"alice/{name}-a", listed[0], 3)
    assert (first.space, first.tap, first.variant, first.d_sae) == ("etude-codec", "mean", "topk", 16)
    assert (first.base_model, first.private, first.gated) == (None, False, False)
    assert first.metrics == {"fvu": 0.1235, "l0": 3.0, "pitch": 0.7, "loudness": 0.7, "brightness": 0.7}
    assert first.updated == hub.history(first.repo)[0]["date"]
    assert (second.repo, second.revision) == (f"bob/{name}-b", listed[1])
    assert (second.space, second.tap, second.base_model) == ("encodec-24khz", "quantized", "facebook/encodec_24khz")
    assert [(call["method"], call["path"].split("?")[0]) for call in hub.calls()] == [("GET", "/api/models")]


def test_a_space_narrows_it(listed, name):
    assert [found.repo for found in search_bundles(name, space="etude-codec")] == [f"alice/{name}-a"]
    assert [found.repo for found in search_bundles(name, space="encodec-24khz")] == [f"bob/{name}-b"]
    assert search_bundles(name, space="dac-44khz") == []
    assert len(search_bundles(name, limit=1)) == 1


def test_a_space_without_a_name_is_found_by_its_model(hub, name, folders, tmp_path):
    spec = replace(SPEC, name="hf:some/model", repo="some/model", revision="d" * 40)
    hub.seed(f"bob/{name}-d", replace(tiny_bundle(), spec=spec).save(tmp_path / "generic"))
    (found,) = search_bundles(name, space="hf:some/model")
    assert (found.space, found.base_model) == ("hf:some/model", "some/model")


def test_many_come_in_pages(hub, name, monkeypatch):
    for i in range(5):
        hub.seed(f"bob/{name}-{i}", {"README.md": "---\nlibrary_name: sae-audio\n---\n"})
    monkeypatch.setattr(hub, "page", 2)
    assert len(search_bundles(name)) == 5 and len(hub.calls()) == 3
    assert len(search_bundles(name, limit=3)) == 3


JUNK = {
    "self": "self: 1\nsae_audio: {space: 5, tap: [a], variant: {}, d_sae: many}",
    "text": "sae_audio: nothing\nbase_model: {a: 1}",
    "index": "model-index: [{name: x, results: [{metrics: [{type: fvu, value: low}, {type: 3, value: 1}, 7]}, 8]}, 9]",
    "escape": 'sae_audio: {space: "\\e[2Jetude\\nforged", tap: "' + "x" * 500 + '"}',
    "bool": "sae_audio: {d_sae: true}\nmodel-index: {name: x}",
    "none": "",
}


@pytest.mark.parametrize("card", JUNK.values(), ids=JUNK)
def test_what_strangers_wrote_cannot_break_the_list(hub, name, card, listed, capsys):
    hub.seed(f"bob/{name}-junk", {"README.md": f"---\nlibrary_name: sae-audio\n{card}\n---\n"})
    found = {bundle.repo: bundle for bundle in search_bundles(name)}
    assert len(found) == 3
    junk = found[f"bob/{name}-junk"]
    assert junk.d_sae is None and junk.variant is None and junk.metrics == {}
    assert junk.space in (None, "[2Jetudeforged") and junk.tap in (None, "x" * 80)
    assert cli.main(["search", name]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_private_bundles_are_seen_by_their_owner_only(listed, hub, name):
    hub.configure(f"alice/{name}-a", private=True)
    assert [found.private for found in search_bundles(name)] == [False, True]
    assert [found.repo for found in search_bundles(name, token=False)] == [f"bob/{name}-b"]
    assert "authorization" not in hub.calls()[-1]["headers"]


def test_the_command(listed, name, capsys, tmp_path):
    assert cli.main(["search", name, "--json", str(tmp_path / "list.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.split("  +", lines[0]) == ["bundle", "space", "tap", "SAE", "FVU", "l0", PROBES, "updated", "commit"]
    assert lines[2].split()[:6] == [f"alice/{name}-a", "etude-codec", "mean", "topk", "16", "0.123"]
    assert f"--bundle bob/{name}-b --revision {listed[1]}" in lines[-1]  # in full: the Hub knows no other
    assert [row["repo"] for row in json.loads((tmp_path / "list.json").read_text())] == [f"bob/{name}-b", f"alice/{name}-a"]
    assert cli.main(["search", "none-is-called-this"]) == 0
    assert capsys.readouterr().out == "the Hub has no bundle with 'none-is-called-this' in its name\n"
    assert cli.main(["search", name, "--space", "dac-44khz"]) == 0
    said = f"the Hub has no bundle of the latent space 'dac-44khz' with '{name}' in its name; `sae-audio spaces` lists"
    assert capsys.readouterr().out.startswith(said)


@pytest.mark.filterwarnings("ignore:.*trying again in")
def test_no_hub_is_one_line(hub, name, no_wait, monkeypatch, capsys):
    with pytest.raises(ParameterError, match="limit is 0"):
        search_bundles(limit=0)
    hub.fail("GET", "/api/models", status=503, times=10**6)
    with pytest.raises(HubError, match="the Hub answered 503 for 'the list of bundles'"):
        search_bundles(name)
    hub.reset()
    hub.fail("GET", "/api/models", drop=True, times=2)
    assert search_bundles(name) == [] and sum(no_wait) > 0
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert cli.main(["search", name]) == 2
    said = capsys.readouterr().err
    assert "HF_HUB_OFFLINE is set" in said and said.count("\n") == 1
