"""Browse every feature of the bundle: a map, a list, a card, and links that can be shared."""

from __future__ import annotations

import json
import random
import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import NamedTuple

import gradio as gr
import torch
from gradio.context import Context
from torch import Tensor

from sae_audio.bundle import Bundle
from sae_audio.catalogue import DEAD, UNNAMED, as_csv, find_features, kind_of
from sae_audio.errors import ParameterError
from sae_audio.feature_map import EXACT_UP_TO, STEPS, along, neighbour_map, neighbours_kept
from sae_audio.files import write_bytes
from sae_audio.naming import Name
from sae_audio.property_sets import honest_properties
from ui import session
from ui.component import component
from ui.feature_card import card_of, feature_card
from ui.guard import plainly
from ui.links import link_of
from ui.session import BundleSource
from ui.shared import Page, show

ANY = "any"
NEIGHBOURS = 5
"""Features that the map joins to the chosen one."""
MAPS_KEPT = 4


class Layout(NamedTuple):
    """Where the features are on both maps."""

    near: Tensor
    """[d_sae, 2] by direction, -1 to 1."""
    kept: float
    """How well that keeps neighbours; see ``neighbours_kept``."""
    steps: int
    """Of t-SNE; 0 for principal components."""
    axes: Tensor | None
    """[d_sae, 2] along loudness and brightness, -1 to 1; None where the bundle lacks one of them."""
    reach: list[float]
    """dB and octaves that 1 stands for."""


_maps: OrderedDict[BundleSource, Layout] = OrderedDict()
_arranging = threading.Lock()


def tab(page: Page) -> None:
    """Lay out the tab and wire its events."""
    with gr.Row(elem_id="atlas-filters"):
        text = gr.Textbox(
            "", label="Find", placeholder="C#5, loudness, 813 …", min_width=180, scale=3, elem_id="atlas-text", max_lines=1
        )
        kinds = [ANY, *honest_properties(), UNNAMED, DEAD]
        kind = gr.Dropdown(kinds, value=ANY, label="Named after", min_width=130, elem_id="atlas-kind")
        at_least = gr.Number(0, label="Fires in at least, %", minimum=0, maximum=100, min_width=110, elem_id="atlas-least")
        at_most = gr.Number(100, label="at most, %", minimum=0, maximum=100, min_width=110, elem_id="atlas-most")
        number = gr.Number(None, label="Go to feature", precision=0, minimum=0, elem_id="atlas-number", min_width=110)
    with gr.Row(elem_id="atlas-actions"):
        chance = gr.Button("A random feature", size="sm", elem_id="atlas-random")
        save = gr.DownloadButton("List as CSV", size="sm", elem_id="atlas-csv")
        file = gr.DownloadButton("Download", visible="hidden", elem_id="atlas-file")
    with gr.Row(elem_id="atlas-row"):
        with gr.Column(scale=6, min_width=340):
            view = component("atlas", None, shown=None, chosen=None, elem_id="atlas")
        with gr.Column(scale=5, min_width=340):
            card = feature_card(elem_id="atlas-card")

    hidden = {"api_visibility": "private", "show_progress": "hidden"}
    drawn = {"fn": atlas_of, "inputs": [page.bundle, page.feature], "outputs": view, "show_progress": "minimal"}
    Context.block.select(**drawn, api_visibility="private")
    page.bundle.change(**drawn, api_name="atlas")
    filters = [page.bundle, text, kind, at_least, at_most]
    find = {"fn": find_in, "inputs": filters, "outputs": view, "trigger_mode": "always_last", "show_progress": "hidden"}
    gr.on([text.change, kind.input, at_least.change, at_most.change], **find, api_name="atlas_find")
    page.bundle.change(**find, api_visibility="private")
    chance.click(random_of, filters, page.feature, api_name="atlas_random", show_progress="hidden")
    looked = {"fn": look_at, "inputs": [page.bundle, page.feature], "outputs": [card, view, number]}
    for event in (Context.block.select, page.feature.change, page.bundle.change):
        event(**looked, **hidden)
    number.submit(gone_to, [page.bundle, number], [page.feature, card], api_name="atlas_feature", show_progress="hidden")
    view.pick(picked, None, page.feature, **hidden)
    card.pick(picked, None, page.feature, **hidden)
    card.steer(lambda: show("steer"), None, page.tabs, **hidden)
    card.explore(lambda: show("explore"), None, page.tabs, **hidden)
    press = "() => setTimeout(() => document.querySelector('#atlas-file')?.click(), 100)"
    save.click(export, filters, file, api_name="atlas_csv", show_progress="hidden").then(js=press, **hidden)


@plainly
def atlas_of(source: BundleSource, feature: int | None) -> Iterator[dict]:
    """Return the map and the list of all features, as JSON: names, kinds, how often they fire, two layouts of the decoder.

    The first time for a bundle the map is shown by principal components until it is arranged.
    """
    bundle, _ = session.loaded(source)
    if source not in _maps:
        yield gr.update(value=_drawn(source, bundle, _layout(bundle, steps=0)), chosen=feature)
    yield gr.update(value=_drawn(source, bundle, _arranged(source, bundle)), chosen=feature)


@plainly
def find_in(source: BundleSource, text: str, kind: str, at_least: float, at_most: float):
    """Return as ``shown`` the numbers of the features whose name, number or class fits, by property and share of time in %."""
    bundle, _ = session.loaded(source)
    found = _found(bundle, text, kind, at_least, at_most)
    return gr.update(shown=None if len(found) == bundle.atlas.d_sae else found)


@plainly
def random_of(source: BundleSource, text: str, kind: str, at_least: float, at_most: float):
    """Choose one of the features that fit, at random."""
    bundle, _ = session.loaded(source)
    found = _found(bundle, text, kind, at_least, at_most)
    if not found:
        raise ParameterError("no feature fits; widen the filter")
    return random.choice(found)


@plainly
def look_at(source: BundleSource, feature: int | None):
    """Return the card of a feature and mark it on the map."""
    bundle, space = session.loaded(source)
    if feature is None or not 0 <= feature < bundle.atlas.d_sae:
        return None, gr.update(chosen=None), None
    return card_of(bundle, feature, None, space), gr.update(chosen=feature), feature


@plainly
def gone_to(source: BundleSource, number: int | None):
    """Choose a feature by its number and return its card: name with evidence, tuning, neighbours, strongest moments."""
    if number is None:
        raise ParameterError("type the number of a feature")
    bundle, space = session.loaded(source)
    return int(number), card_of(bundle, int(number), None, space)


def picked(event: gr.EventData) -> int:
    """Take the feature that was chosen on the page."""
    return int(event.feature)


@plainly
def export(source: BundleSource, text: str, kind: str, at_least: float, at_most: float, request: gr.Request) -> str:
    """Write the features that fit as CSV: number, name, property, evidence, how often and how strongly they fire."""
    bundle, _ = session.loaded(source)
    path = session.folder(request) / f"{source.name.replace('/', '-')} features.csv"
    write_bytes(path, as_csv(bundle.atlas, _found(bundle, text, kind, at_least, at_most)).encode())
    return str(path)


def _found(bundle: Bundle, text: str, kind: str, at_least: float, at_most: float) -> list[int]:
    shares = {"at_least": (at_least or 0) / 100, "at_most": (100 if at_most is None else at_most) / 100}
    return find_features(bundle.atlas, bundle.properties, text or "", kind=None if kind in (ANY, None) else kind, **shares)


def _arranged(source: BundleSource, bundle: Bundle) -> Layout:
    """The layout of a bundle, computed once for all visitors."""
    with _arranging:
        if source not in _maps:
            _maps[source] = _layout(bundle, steps=STEPS)
            while len(_maps) > MAPS_KEPT:
                _maps.popitem(last=False)
        return _maps[source]


def _layout(bundle: Bundle, *, steps: int) -> Layout:
    directions = bundle.sae.directions().detach()
    near = neighbour_map(directions, steps=steps)
    low, high = near.min(0).values, near.max(0).values
    places = 2 * (near - low) / (high - low).clamp_min(1e-9) - 1  # as wide and as high as the picture
    axes = _axes(bundle, directions)
    if axes is None:
        return Layout(places, neighbours_kept(near, directions), steps, None, [])
    reach = axes.abs().quantile(0.995, dim=0).clamp_min(1e-6)  # a few far ones would squeeze all others
    return Layout(places, neighbours_kept(near, directions), steps, (axes / reach).clamp(-1, 1), reach.tolist())


def _axes(bundle: Bundle, directions: Tensor) -> Tensor | None:
    """What a typical activation of each feature adds along loudness (dB) and brightness (octaves), [d_sae, 2]."""
    if not {"loudness", "brightness"} <= set(bundle.controls):
        return None
    typical = directions * bundle.atlas.mean[:, None]
    controls = [bundle.controls[name] for name in ("loudness", "brightness")]
    units = [c.directions[0] if c.via == "latents" else c.directions[0] @ directions for c in controls]
    return torch.stack([along(typical, unit) for unit in units], 1)


def _drawn(source: BundleSource, bundle: Bundle, layout: Layout) -> str:
    """What the map and the list show, as JSON text: of a value Gradio's page copies each number several times at every event."""
    atlas = bundle.atlas
    base, query = link_of(source)
    rounded = {"fires": atlas.density, "typical": atlas.mean, "largest": atlas.max}
    columns = {
        "names": [name.text for name in atlas.names],
        "kinds": [kind_of(atlas, feature) for feature in range(atlas.d_sae)],
        "pitch": [_height(bundle, name) for name in atlas.names],
        "confidence": [round(name.confidence, 3) for name in atlas.names],
        **{key: [round(value, 5) for value in column.tolist()] for key, column in rounded.items()},
        "neighbours": atlas.neighbour[:, :NEIGHBOURS].tolist(),
        "near": _places(layout.near),
        "axes": None if layout.axes is None else _places(layout.axes),
        "reach": layout.reach,
        "about": [_about(atlas.d_sae, layout), ABOUT_AXES],
        "base": base,
        "query": query,
    }
    return json.dumps(columns)


def _height(bundle: Bundle, name: Name) -> float | None:
    """Place of a pitch name between the lowest and the highest note, 0 to 1; None for other names."""
    if name.property != "pitch":
        return None
    return round((name.low + name.high) / 2 / max(1, bundle.properties["pitch"].n_classes - 1), 3)


def _places(places: Tensor) -> list[list[float]]:
    return [[round(x, 4), round(y, 4)] for x, y in places.tolist()]


def _about(d_sae: int, layout: Layout) -> str:
    exact = layout.steps and d_sae <= EXACT_UP_TO
    how = "t-SNE of the decoder directions" if exact else "The decoder directions by two principal components"
    waiting = "" if layout.steps else " It is being arranged by neighbours …"
    return (
        f"{how}: near means pointing the same way, far means nothing. Of a feature's 8 nearest here, {8 * layout.kept:.1f} are "
        f"among its 8 nearest directions ({64 / max(1, d_sae - 1):.1f} by chance). Lines go to its closest.{waiting}"
    )


ABOUT_AXES = (
    "What a typical activation adds along the bundle's directions for loudness (dB) and brightness (octaves). Geometry of the "
    "decoder, not measured on sound; the outermost features are drawn at the edge."
)
