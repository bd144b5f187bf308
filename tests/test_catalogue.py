"""Finding features, and putting them on a map."""

import csv
import io
from dataclasses import replace

import pytest
import torch
from tiny_bundle import tiny_bundle

from sae_audio.catalogue import COLUMNS, as_csv, find_features, kind_of
from sae_audio.errors import ParameterError
from sae_audio.feature_map import along, neighbour_map, neighbours_kept
from sae_audio.naming import Name

TINY = tiny_bundle()
PITCH = TINY.properties["pitch"]


def name(text, prop=None, low=-1, high=-1, firings=50):
    return Name(text, prop, low, high, 0.5, 0.2, 0.9, firings)


def atlas():
    c5, e5 = PITCH.class_index("C5"), PITCH.class_index("E5")
    loud = TINY.properties["loudness"].class_index("-24 dB")
    named = [name("pitch C5 to E5", "pitch", c5, e5), name("loudness ≈ -24 dB", "loudness", loud, loud), name("dead", firings=0)]
    names = (*named, *[name("unnamed") for _ in range(13)])
    return replace(TINY.atlas, names=names, density=torch.linspace(0, 0.3, 16))


@pytest.mark.parametrize(
    ("text", "options", "found"),
    [
        ("D5", {}, [0]),
        ("d5 pitch", {}, [0]),
        ("F5", {}, []),
        ("-24", {}, [1]),
        ("7", {}, [7]),
        ("", {"kind": "dead"}, [2]),
        ("", {"kind": "pitch", "at_least": 0.01}, []),
        ("un", {"at_most": 0.07}, [3]),
        ("", {"at_least": 0.28}, [14, 15]),
    ],
)
def test_features_are_found_by_name_class_number_kind_and_density(text, options, found):
    assert find_features(atlas(), TINY.properties, text, **options) == found


def test_what_cannot_be_looked_for_is_said():
    with pytest.raises(ParameterError, match="use pitch, loudness, brightness, unnamed, dead"):
        find_features(atlas(), TINY.properties, kind="colour")
    with pytest.raises(ParameterError, match="no feature fires in 50 % to 10 %"):
        find_features(atlas(), TINY.properties, at_least=0.5, at_most=0.1)


def test_the_list_as_csv():
    rows = list(csv.DictReader(io.StringIO(as_csv(atlas(), [0, 2]))))
    assert tuple(rows[0]) == COLUMNS and rows[0]["name"] == "pitch C5 to E5" and rows[1]["property"] == "dead"
    assert float(rows[1]["fires_in"]) == pytest.approx(0.04) and kind_of(atlas(), 5) == "unnamed"


def test_a_map_keeps_groups_of_directions_together():
    g = torch.Generator().manual_seed(0)
    centres = torch.nn.functional.normalize(torch.randn(4, 16, generator=g), dim=1)
    group = torch.arange(120) % 4
    directions = centres[group] + 0.15 * torch.randn(120, 16, generator=g)
    places = neighbour_map(directions)
    near = torch.cdist(places, places).fill_diagonal_(9).topk(5, largest=False).indices
    assert float((group[near] == group[:, None]).float().mean()) > 0.95
    assert float(places.abs().max()) == pytest.approx(1) and places.shape == (120, 2)
    assert neighbours_kept(places, directions) > 3 * 8 / 119  # three times what a random map has


def test_the_start_is_the_principal_components():
    directions = torch.tensor([[1.0, 0, 0], [-1, 0, 0], [0, 0.5, 0], [0, -0.5, 0]])
    places = neighbour_map(directions, steps=0)
    assert torch.allclose(places[0], -places[1], atol=1e-5) and torch.allclose(places[2], -places[3], atol=1e-5)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_few_features_have_places_too(n):
    places = neighbour_map(torch.randn(n, 4, generator=torch.Generator().manual_seed(n)))
    assert places.shape == (n, 2) and bool(places.isfinite().all())


def test_along_an_axis_by_hand():
    axis = torch.tensor([2.0, 0.0])
    assert along(torch.tensor([[4.0, 7.0], [-1.0, 0.0]]), axis).tolist() == [2.0, -0.5]
