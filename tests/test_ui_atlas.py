"""The Atlas tab without a browser: the map, the filter, the card, the list, and the same through the API."""

import csv
import json

import gradio as gr
import pytest

from ui import atlas, session
from ui.session import SHIPPED, BundleSource

pytest_plugins = ["browser"]
REQUEST = gr.Request(session_hash="an atlas visitor")


@pytest.fixture(scope="module")
def drawn() -> list[dict]:
    return [json.loads(update["value"]) for update in atlas.atlas_of(SHIPPED, 42)]


def test_the_map_is_there_at_once_and_arranged_then(drawn):
    first, last = drawn[0], drawn[-1]
    known = session.loaded(SHIPPED).bundle.atlas
    assert len(last["names"]) == len(last["near"]) == len(last["axes"]) == known.d_sae
    assert "principal components" in first["about"][0] and "t-SNE" in last["about"][0]
    assert last["kinds"].count("pitch") == 713 and last["pitch"].count(None) == known.d_sae - 713
    assert last["neighbours"][42] == known.neighbour[42, :5].tolist()
    assert all(-1 <= value <= 1 for place in last["near"] + last["axes"] for value in place)
    assert len(list(atlas.atlas_of(SHIPPED, 42))) == 1  # computed once


def test_the_map_keeps_far_more_neighbours_than_chance(drawn):
    assert atlas._maps[SHIPPED].kept > 0.2


@pytest.mark.parametrize(
    ("text", "kind", "at_least", "at_most", "some"),
    [
        ("708", "any", 0, 100, [708]),
        ("", "loudness", 0, 100, None),
        ("C5", "pitch", 1, 100, None),
        ("nonsense", "any", 0, 100, []),
    ],
)
def test_the_filter(text, kind, at_least, at_most, some):
    shown = atlas.find_in(SHIPPED, text, kind, at_least, at_most)["shown"]
    known = session.loaded(SHIPPED).bundle.atlas
    assert some is None or shown == some
    assert all(known.names[i].property == kind or kind == "any" for i in shown)
    assert all(at_least / 100 <= float(known.density[i]) <= at_most / 100 for i in shown)


def test_no_filter_shows_all_and_a_random_feature_fits():
    assert atlas.find_in(SHIPPED, "", "any", 0, 100)["shown"] is None
    names = session.loaded(SHIPPED).bundle.atlas.names
    assert all(names[atlas.random_of(SHIPPED, "", "brightness", 0, 100)].property == "brightness" for _ in range(5))
    with pytest.raises(gr.Error, match="no feature fits"):
        atlas.random_of(SHIPPED, "nonsense", "any", 0, 100)


def test_a_card_without_a_sound():
    feature, card = atlas.gone_to(SHIPPED, 708)
    assert feature == 708 and card["name"] == "pitch ≈ G#5" and card["here"] is None and len(card["neighbours"]) == 6
    with pytest.raises(gr.Error, match="there is no feature 99999"):
        atlas.gone_to(SHIPPED, 99999)
    with pytest.raises(gr.Error, match="type the number"):
        atlas.gone_to(SHIPPED, None)
    assert atlas.look_at(SHIPPED, 99999)[0] is None  # a bundle with fewer features was picked


def test_the_list_as_csv():
    with open(atlas.export(SHIPPED, "", "loudness", 0, 100, REQUEST)) as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 and all(row["property"] == "loudness" for row in rows)
    session.leave(REQUEST)


def test_links_name_the_bundle_its_revision_and_the_space(monkeypatch):
    assert atlas.link_of(SHIPPED) == ("", "tab=atlas&bundle=etude")
    monkeypatch.setenv("SPACE_ID", "alice/explorer")
    base, query = atlas.link_of(BundleSource("alice/sae", "v1 é"))
    assert base == "https://huggingface.co/spaces/alice/explorer" and query == "tab=atlas&bundle=alice/sae&revision=v1+%C3%A9"


def test_the_api_does_what_the_page_does(app_url):
    from gradio_client import Client
    from gradio_client.exceptions import AppError

    client = Client(app_url, verbose=False)
    assert json.dumps([708]) in json.dumps(client.predict(text="708", api_name="/atlas_find"))
    assert client.predict(708, api_name="/atlas_feature")["name"] == "pitch ≈ G#5"
    with open(client.predict(kind="loudness", api_name="/atlas_csv")) as file:
        assert len(file.readlines()) == 3
    with pytest.raises(AppError, match="give two rising shares"):
        client.predict(at_least=50, at_most=10, api_name="/atlas_find")
