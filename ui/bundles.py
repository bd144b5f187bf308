"""Pick another bundle and see what it is."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import gradio as gr
from gradio.context import Context

from sae_audio.bundle import is_hub_id
from sae_audio.errors import ParameterError
from sae_audio.hub_index import Listed, search_bundles
from ui import session, trust
from ui.bundle_view import bundle_view, card, described
from ui.component import component
from ui.guard import in_words, plainly
from ui.links import LONGEST, read_link
from ui.session import SHIPPED, BundleSource, ships
from ui.shared import Linked, Page, show

SHIPS, HUB, FOLDER = "Shipped here", "Hugging Face Hub", "Folder on this computer"
FOUND = 20
"""Bundles of the Hub that are listed."""
TRUST = "It is not tagged as a bundle, and I know whose it is: load it all the same"


def tab(page: Page) -> None:
    """Lay out the tab and wire its events."""
    with gr.Row(elem_id="bundle-row"):
        with gr.Column(scale=2, min_width=320, elem_id="bundle-form"):
            places = [SHIPS, HUB, *([FOLDER] if trust.folders_allowed() else [])]
            place = gr.Radio(places, value=SHIPS, label="Bundle from", elem_id="bundle-place")
            shipped = gr.Dropdown(list(ships()), value=SHIPPED.name, label="Shipped bundle", elem_id="bundle-shipped")
            with gr.Column(visible=False, elem_id="bundle-hub") as hub:
                with gr.Row(elem_id="bundle-find-row"):
                    text = gr.Textbox(
                        "", label="Search the Hub", placeholder="part of a name", max_lines=1, elem_id="bundle-text"
                    )
                    find = gr.Button("Search", size="sm", elem_id="bundle-find")
                found = component("hub_list", None, elem_id="bundle-found")
                repo = gr.Textbox("", label="Repository", placeholder="user/name", max_lines=1, elem_id="bundle-repo")
                revision = gr.Textbox(
                    "", label="Revision", placeholder="newest, or a branch, tag or commit", max_lines=1, elem_id="bundle-revision"
                )
                trusted = gr.Checkbox(False, label=TRUST, elem_id="bundle-trusted")
            with gr.Column(visible=False, elem_id="bundle-local") as local:
                folder = gr.Textbox("", label="Folder", placeholder="runs/mine", max_lines=1, elem_id="bundle-folder")
            with gr.Row(elem_id="bundle-actions"):
                use = gr.Button("Use this bundle", variant="primary", size="md", elem_id="bundle-use")
                stop = gr.Button("Stop", size="md", elem_id="bundle-stop")
            said = gr.Markdown("", elem_id="bundle-said")
        with gr.Column(scale=5, min_width=340):
            view = bundle_view(elem_id="bundle-view")
            with gr.Accordion("Model card", open=False, elem_id="bundle-card"):
                about = gr.Markdown("", elem_id="bundle-about")

    hidden = {"api_visibility": "private", "show_progress": "hidden"}
    asked = [place, shipped, repo, revision, trusted, folder]
    place.change(
        lambda where: [gr.update(visible=where == own) for own in (SHIPS, HUB, FOLDER)], place, [shipped, hub, local], **hidden
    )
    loading = use.click(use_bundle, asked, [page.bundle, said], api_name="bundle_use", show_progress_on=said)
    stop.click(None, cancels=[loading], **hidden)
    for event in (find.click, text.submit):
        event(search, text, found, api_name="bundle_search" if event == find.click else None, show_progress_on=found)
    found.pick(taken, None, [repo, revision], **hidden)
    shown = {"fn": describe, "inputs": page.bundle, "outputs": [view, about], "show_progress": "hidden"}
    page.bundle.change(**shown, api_name="bundle")
    Context.block.select(**shown, api_visibility="private")
    opened = [page.bundle, page.feature, page.linked, page.tabs, place, shipped, repo, revision, folder, said]
    Context.root_block.load(from_link, None, opened, **hidden)


@plainly
def use_bundle(
    place: str,
    shipped: str,
    repo: str,
    revision: str,
    trusted: bool,
    folder: str,
    progress: gr.Progress = gr.Progress(),  # noqa: B008
):
    """Load a bundle for all tabs: a shipped one, a repository of the Hub, or a folder where the page serves its own machine only.

    A repository must be tagged ``sae-audio`` or be trusted explicitly; it is fetched without any token, pinned to its commit, and
    up to a size limit.
    """
    progress(0.1, desc="Looking at it")
    source = chosen(place, shipped, repo, revision, trusted, folder)
    progress(0.4, desc="Fetching and checking it")
    bundle, _ = session.loaded(source)
    return source, f"Now in use on all tabs: **{source.name}**, {bundle.sae.config.d_sae:,} features of {bundle.spec.name}."


def chosen(place: str, shipped: str, repo: str, revision: str, trusted: bool, folder: str) -> BundleSource:
    """Return the source that a visitor asks for, once it is known that they may have it."""
    if place == SHIPS:
        known = ships()
        if shipped not in known:
            raise ParameterError(f"no bundle '{(shipped or '')[:LONGEST]}' is shipped; there is {', '.join(known)}")
        return known[shipped]
    if place == HUB:
        repo, revision = (repo or "").strip()[:LONGEST], (revision or "").strip()[:LONGEST]
        if not is_hub_id(repo):
            raise ParameterError(f"'{repo}' cannot be the name of a Hub repository; give one of the form user/name")
        looked = trust.check_repository(repo, revision or None, trusted=bool(trusted))
        return BundleSource(repo, looked.revision)
    if place != FOLDER or not trust.folders_allowed():
        raise ParameterError("this page reads no folders for visitors; use the Hub, or run it on your own computer")
    if not (folder := (folder or "").strip()[:LONGEST]):
        raise ParameterError("name the folder of a bundle, such as runs/mine")
    return BundleSource(folder)


@plainly
def search(text: str):
    """List the bundles that the Hub has, most downloaded first, by a part of their names; nothing is downloaded."""
    return [
        {"repo": one.repo, "revision": one.revision, "said": _said(one)}
        for one in search_bundles(text.strip()[:100] or None, limit=FOUND, token=False)
    ]


def taken(event: gr.EventData) -> tuple[str, str]:
    """Take a repository of the list."""
    return str(event.repo)[:LONGEST], str(event.revision)[:LONGEST]


@plainly
def describe(source: BundleSource):
    """Return what the bundle in use is: its space and SAE, figures beside their baselines, Python lines, and its card."""
    bundle, _ = session.loaded(source)
    return described(bundle, source), card(bundle)


class Opened(NamedTuple):
    """What a link changes on the page; nothing, where it says nothing."""

    source: object = gr.skip()
    feature: object = gr.skip()
    linked: object = gr.skip()
    tab: object = gr.skip()
    place: object = gr.skip()
    shipped: object = gr.skip()
    repo: object = gr.skip()
    revision: object = gr.skip()
    folder: object = gr.skip()
    said: object = gr.skip()


def from_link(request: gr.Request) -> Opened:
    """Open a shared link: its bundle first, then a feature of that bundle. What cannot be had is said."""
    link = read_link(request.query_params)
    opened = Opened(tab=show(link.tab)) if link.tab else Opened()
    if not link.bundle and link.feature is None:
        return opened
    name = link.bundle or SHIPPED.name
    place, form = _place_of(name, link.revision)
    try:
        with in_words():
            source = chosen(place, name, name, link.revision, False, name)
            bundle, _ = session.loaded(source)
    except gr.Error as error:
        said = f"This link's bundle was not loaded: {error.message}"
        return opened._replace(tab=show("bundle"), place=place, **form, said=said)
    if source != SHIPPED:
        form |= {"revision": source.revision} if source.on_hub else {}
        opened = opened._replace(source=source, place=place, **form)
    if link.feature is None:
        return opened
    if link.feature >= bundle.atlas.d_sae:
        gr.Warning(f"The link is to feature {link.feature}; this bundle has 0 to {bundle.atlas.d_sae - 1}.")
        return opened
    return opened._replace(feature=link.feature, linked=Linked(source, link.feature))


def _place_of(name: str, revision: str) -> tuple[str, dict[str, str]]:
    """Where a link's bundle is looked for, and what the form says then. A folder only where this page reads folders."""
    if name in ships():
        return SHIPS, {"shipped": name}
    if trust.folders_allowed() and Path(name).is_dir():
        return FOLDER, {"folder": name}
    return HUB, {"repo": name, "revision": revision}


def _said(one: Listed) -> str:
    parts = [one.space or "unknown space", f"{one.d_sae:,} features" if one.d_sae else None, one.variant]
    if (fvu := one.metrics.get("fvu")) is not None:
        parts.append(f"{100 * fvu:.1f} % of variance unexplained")
    parts.append(f"{one.downloads:,} downloads")
    return " · ".join(part for part in parts if part)
