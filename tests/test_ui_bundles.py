"""The Bundle tab without a browser: what may be loaded, from where and how, and what is shown of it."""

import ast
from dataclasses import replace
from urllib.parse import urlencode

import gradio as gr
import pytest
from tiny_bundle import tiny_bundle

from sae_audio.errors import HubError, ParameterError
from sae_audio.latent_spaces import CHECKPOINTS
from ui import bundles, links, session, trust
from ui.bundle_view import card, described
from ui.bundles import FOLDER, HUB, SHIPS
from ui.session import SHIPPED, BundleSource
from ui.shared import Linked

pytest_plugins = ["browser"]
TINY = tiny_bundle()
ETUDE = {path.relative_to(CHECKPOINTS / "etude").as_posix(): path.read_bytes() for path in (CHECKPOINTS / "etude").rglob("*.*")}
UNTAGGED = ETUDE | {"README.md": b"no card\n"}


@pytest.fixture(autouse=True)
def nothing_kept():
    yield
    for source in [source for source in session._bundles if source != SHIPPED]:
        del session._bundles[source]


def ask(place, *, shipped="", repo="", revision="", trusted=False, folder="") -> BundleSource:
    return bundles.chosen(place, shipped, repo, revision, trusted, folder)


def test_a_shipped_bundle_by_name():
    assert ask(SHIPS, shipped="etude") == SHIPPED and list(bundles.ships()) == ["etude"]
    with pytest.raises(ParameterError, match="there is etude"):
        ask(SHIPS, shipped="other")


def test_a_bundle_of_the_hub_is_pinned_and_fetched_without_a_token(hub, repo_id):
    commit = hub.seed(repo_id, ETUDE)
    source = ask(HUB, repo=f" {repo_id} ")
    assert source == BundleSource(repo_id, commit)
    assert session.loaded(source).bundle.sae.config.d_sae == 1024
    requests = hub.calls("GET", repo_id)
    assert requests and {request["user"] for request in requests} == {None}


def test_what_is_not_tagged_needs_a_word(hub, repo_id):
    commit = hub.seed(repo_id, UNTAGGED)
    with pytest.raises(ParameterError, match="not tagged 'sae-audio'"):
        ask(HUB, repo=repo_id)
    assert ask(HUB, repo=repo_id, trusted=True) == BundleSource(repo_id, commit)


def test_what_is_too_large_is_not_fetched(hub, repo_id, monkeypatch):
    hub.seed(repo_id, ETUDE)
    monkeypatch.setattr(trust, "MAX_BUNDLE", 1_000_000)
    with pytest.raises(ParameterError, match="this page fetches 1 MB at most"):
        ask(HUB, repo=repo_id, trusted=True)
    assert not hub.calls("GET", "/resolve/")


@pytest.mark.parametrize(
    "repo", ["", "nothing", "../etc", "/etc/passwd", "checkpoints/etude", "https://elsewhere.example/x", "a/b/c"]
)
def test_only_names_of_repositories_are_taken(repo):
    with pytest.raises(ParameterError, match="user/name"):
        ask(HUB, repo=repo)


def test_a_repository_that_is_not_there(hub):
    with pytest.raises(HubError, match="has no 'alice/nothing'"):
        ask(HUB, repo="alice/nothing")


def test_a_bundle_of_another_model_than_the_known_ones_is_not_loaded(hub, repo_id, tmp_path):
    strange = replace(TINY, spec=replace(TINY.spec, repo="mallory/model", name="encodec-24khz"))
    folder = strange.save(tmp_path / "strange")
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.*")}
    commit = hub.seed(repo_id, files)
    with pytest.raises(ParameterError, match="from 'mallory/model', which this page does not load"):
        session.loaded(BundleSource(repo_id, commit))
    assert not hub.calls("GET", "mallory")


def test_a_known_model_may_not_be_too_large(hub, monkeypatch):
    hub.seed("facebook/encodec_24khz", {"model.safetensors": bytes(2000)})
    spec = replace(TINY.spec, repo="facebook/encodec_24khz", name="encodec-24khz")
    trust.check_model(spec)
    monkeypatch.setattr(trust, "MAX_MODEL", 1000)
    with pytest.raises(ParameterError, match="use it in Python"):
        trust.check_model(spec)


def test_folders_are_for_this_machine_only(monkeypatch):
    assert ask(FOLDER, folder=str(CHECKPOINTS / "etude")).name == "etude"
    with pytest.raises(ParameterError, match="name the folder"):
        ask(FOLDER)
    monkeypatch.setenv("GRADIO_SERVER_NAME", "0.0.0.0")
    assert not trust.folders_allowed()
    monkeypatch.delenv("GRADIO_SERVER_NAME")
    monkeypatch.setenv("SPACE_ID", "alice/explorer")
    with pytest.raises(ParameterError, match="reads no folders for visitors"):
        ask(FOLDER, folder=str(CHECKPOINTS / "etude"))


def link(**query) -> bundles.Opened:
    from starlette.requests import Request

    text = "&".join(f"{key}={value}" for key, value in query.items())
    scope = {"type": "http", "query_string": text.encode(), "headers": [], "method": "GET", "path": "/"}
    return bundles.from_link(gr.Request(Request(scope)))


def changes(opened: bundles.Opened) -> dict:
    """What a link changes, without the rest."""
    skips = lambda value: isinstance(value, dict) and value.get("__type__") == "update" and len(value) == 1  # noqa: E731
    return {key: getattr(value, "selected", value) for key, value in opened._asdict().items() if not skips(value)}


def test_links_of_the_pages_own_bundle():
    assert changes(link()) == {} == changes(link(bundle="etude")) == changes(link(feature="-1")) == changes(link(feature="x"))
    assert changes(link(tab="steer")) == {"tab": "steer"} and changes(link(tab="elsewhere")) == {}
    for query in ({"feature": 42}, {"feature": 42, "bundle": "etude"}):
        assert changes(link(**query)) == {"feature": 42, "linked": Linked(SHIPPED, 42), "tab": "atlas"}
    assert changes(link(bundle="etude", tab="steer", feature=42))["tab"] == "steer"


def test_a_link_to_a_bundle_of_the_hub(hub, repo_id):
    commit = hub.seed(repo_id, ETUDE)
    source = BundleSource(repo_id, commit)
    form = {"source": source, "place": HUB, "repo": repo_id, "revision": commit}
    assert changes(link(bundle=repo_id)) == form
    assert changes(link(bundle=repo_id, feature=42)) == form | {"feature": 42, "linked": Linked(source, 42), "tab": "atlas"}
    with pytest.warns(UserWarning, match="The link is to feature 99999; this bundle has 0 to 1023"):
        assert changes(link(bundle=repo_id, feature=99999)) == form | {"tab": "atlas"}


def test_a_link_to_a_feature_that_only_the_other_bundle_has(tmp_path):
    """``?feature=`` is of the link's bundle, whatever the page's own has."""
    own = session.loaded(SHIPPED)
    few = replace(TINY, spec=own.bundle.spec)  # 16 features
    session._bundles[BundleSource(str(tmp_path))] = session.Loaded(few, own.space)
    with pytest.warns(UserWarning, match="has 0 to 15"):
        assert "feature" not in changes(link(bundle=tmp_path, feature=42))
    assert changes(link(bundle=tmp_path, feature=15))["linked"] == Linked(BundleSource(str(tmp_path)), 15)


def test_a_link_to_a_folder_is_for_this_machine_only(monkeypatch, tmp_path):
    folder = tmp_path / "mine"
    session.loaded(SHIPPED).bundle.save(folder)
    opened = changes(link(bundle=folder, feature=42))
    assert opened["source"] == BundleSource(str(folder)) and (opened["place"], opened["folder"]) == (FOLDER, str(folder))
    assert opened["linked"] == Linked(BundleSource(str(folder)), 42)
    assert links.link_of(BundleSource(str(folder)))[1] == urlencode({"tab": "atlas", "bundle": folder}, safe="/")
    monkeypatch.setenv("GRADIO_SERVER_NAME", "0.0.0.0")
    refused = changes(link(bundle=folder, feature=42))
    assert refused["tab"] == "bundle" and "user/name" in refused["said"] and "source" not in refused


def test_a_link_to_what_is_no_bundle_asks_first(hub, repo_id):
    hub.seed(repo_id, UNTAGGED)
    opened = changes(link(bundle=repo_id))
    assert opened["tab"] == "bundle" and (opened["place"], opened["repo"]) == (HUB, repo_id) and "source" not in opened
    assert "not tagged" in opened["said"] and not hub.calls("GET", "/resolve/")


def test_what_is_shown_of_the_shipped_bundle():
    shown = described(session.loaded(SHIPPED).bundle, SHIPPED)
    assert dict(shown["facts"])["SAE"] == "topk, 1,024 features" and dict(shown["facts"])["Variance unexplained"] == "9.8 %"
    rows = {row["title"]: row["values"] for row in shown["probes"]["rows"]}
    assert rows["SAE features"] == pytest.approx([0.910, 0.149, 0.302], abs=1e-3)
    assert rows["raw latents"][1] == pytest.approx(0.649, abs=1e-3) and len(rows) == 6
    by_request = {row["asked"]: row for row in shown["control"]}
    assert by_request["loudness −6 dB"]["acts"] == "−6.00 dB" and by_request["pitch +5 semitones"]["acts_hits"] == "96%"
    assert len(shown["figures"]) == 5 and shown["link"] is None
    assert 'from_pretrained("checkpoints/etude")' in shown["code"]
    ast.parse(shown["code"])
    text = card(session.loaded(SHIPPED).bundle)
    assert "![" not in text and not text.startswith("---") and "## Limits" in text


def test_metrics_of_a_stranger_can_be_anything():
    for metrics in (
        {},
        {"sae": 3, "probes": [1], "control": {"trials": "x"}},
        {"probes": {"pitch": {"acts": {"balanced_accuracy": "1"}}}},
    ):
        shown = described(
            replace(TINY, metrics=metrics, provenance={"data": 1, "license": ["x"]}), BundleSource("alice/sae", "a" * 40)
        )
        assert shown["probes"]["rows"] == [] and shown["control"] == []
    assert shown["link"] == "https://huggingface.co/alice/sae/tree/" + "a" * 40
    assert f'from_pretrained("alice/sae", revision="{"a" * 40}")' in shown["code"]


def test_a_search_lists_and_downloads_nothing(hub, repo_id):
    hub.seed(repo_id, ETUDE)
    found = bundles.search(repo_id.split("/")[1])
    assert [row["repo"] for row in found] == [repo_id] and "downloads" in found[0]["said"]
    assert {request["user"] for request in hub.calls("GET", "/api/models")} == {None} and not hub.calls("GET", "/resolve/")


def test_few_bundles_are_kept_and_the_own_one_always(hub, repo_id):
    session.loaded(SHIPPED)
    commits = [hub.seed(repo_id, ETUDE | {"note.txt": str(i).encode()}) for i in range(2)]
    for commit in commits:
        session.loaded(BundleSource(repo_id, commit))
    assert set(session._bundles) == {SHIPPED, BundleSource(repo_id, commits[1])}


def test_the_api_does_what_the_page_does(app_url):
    from gradio_client import Client
    from gradio_client.exceptions import AppError

    client = Client(app_url, verbose=False)
    assert "Now in use on all tabs: **etude**" in client.predict(shipped="etude", api_name="/bundle_use")
    shown, about = client.predict(api_name="/bundle")
    assert shown["name"] == "etude" and "Limits" in about
    with pytest.raises(AppError, match="user/name"):
        client.predict(place=HUB, repo="nothing", api_name="/bundle_use")
