"""Bring a sound and see which features fire, when, and what they stand for."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import NamedTuple

import gradio as gr
from torch import Tensor

from sae_audio.audition import WAYS, Audition, audition
from sae_audio.errors import ParameterError
from sae_audio.pipeline import Stage, View, analysing
from sae_audio.units import to_db
from ui import examples, session
from ui.examples import EXAMPLES
from ui.feature_card import card_of, feature_card, moment
from ui.feature_table import feature_table, rows_of
from ui.gpu import gpu
from ui.guard import plainly
from ui.limits import MAX_SECONDS, MODEL
from ui.refusals import refused, upload_refusals
from ui.session import BundleSource, CurrentSound
from ui.shared import Linked, Page, show
from ui.timeline import activation_of, picture, timeline, track

BOOST = 3.0
RECORDED = "audio"
"""What Gradio calls the file of a recording."""
SAID = {"alone": "feature {f} alone", "remove": "without feature {f}", "boost": "feature {f} ×3"}
WAITING = (gr.skip(),) * 8
"""What an analysis returns before it is done: nothing changes."""
HINT = f"WAV, FLAC, OGG, MP3 or AIFF, up to {MAX_SECONDS:g} s. It is deleted within an hour of your leaving."


class Kept(NamedTuple):
    """A visitor's view between two events."""

    heard: CurrentSound
    source: BundleSource
    view: View


def tab(page: Page) -> None:
    """Lay out the tab and wire its events."""
    kept = gr.State(None, time_to_live=3600)
    first = examples.seen(EXAMPLES[0].key, session.SHIPPED)
    with gr.Row(elem_id="bring-row"):
        sound = gr.Audio(
            sources=["upload", "microphone"],
            type="filepath",
            label="Bring a sound",
            editable=False,
            buttons=[],
            elem_id="bring",
        )
        with gr.Column(min_width=220, elem_id="examples"):
            gr.Markdown("Or look at an example:")
            buttons = [gr.Button(example.title, size="sm", elem_id=f"example-{example.key}") for example in EXAMPLES]
            gr.Markdown(HINT, elem_id="hint")
    refusals = upload_refusals("bring")
    with gr.Row(elem_id="sound-row"):
        name = gr.Markdown(f"## {EXAMPLES[0].title}", elem_id="sound-name")
        with gr.Row(visible=False, elem_id="stopping") as stopping:
            stop = gr.Button("Stop", size="sm", elem_id="bring-stop")
    view = timeline(first.picture, chosen=first.chosen, elem_id="timeline")
    measured = gr.Markdown("", elem_id="measured")
    with gr.Row():
        with gr.Column(scale=5, min_width=340):
            table = feature_table(first.rows, chosen=first.feature, elem_id="features")
        with gr.Column(scale=6, min_width=340):
            card = feature_card(first.card, elem_id="card")
    with gr.Row(elem_id="exports"):
        save_csv = gr.Button("Save activations (CSV)", size="sm")
        save_json = gr.Button("Save this view's settings (JSON)", size="sm")
        file = gr.DownloadButton("Download", visible="hidden", elem_id="export-file")

    drawn = [kept, page.heard, name, view, table, page.feature, measured]
    look = {"fn": look_at, "inputs": [page.bundle, page.heard, kept, page.feature], "outputs": [card, view, table, kept]}
    hidden = {"api_visibility": "private", "show_progress": "hidden"}

    brought = {"fn": bring, "inputs": [sound, page.bundle, page.heard], "outputs": [*drawn, stopping, sound]}
    anew = {"fn": again, "inputs": [page.bundle, page.heard, kept, page.linked, page.feature], "outputs": [*drawn, stopping]}
    runs = []
    for event, run, name_of_it in (
        (sound.upload, brought, {"api_name": "analyse"}),
        (sound.stop_recording, brought, {"api_visibility": "private"}),
        (page.bundle.change, anew, {"api_name": "analyse_again"}),
    ):
        begun = event(lambda: gr.update(visible=True), None, stopping, **hidden)
        runs.append(begun.then(**run, **name_of_it, show_progress_on=view, **MODEL))
    as_before = {"fn": back, "inputs": [page.bundle, kept], "outputs": [page.bundle, stopping, sound]}
    for run in runs:
        run.success(**look, **hidden)
        run.failure(**as_before, **hidden)
    stop.click(**as_before, cancels=runs, **hidden)
    refusals.refuse(refused, None, None, **hidden)
    for button, example in zip(buttons, EXAMPLES, strict=True):
        shown = button.click(
            _example(example.key), page.bundle, drawn, api_name=f"example_{example.key.replace('-', '_')}", show_progress="hidden"
        )
        shown.then(**look, **hidden)

    for component in (view, table, card):
        component.pick(picked, None, page.feature, **hidden)
    page.feature.change(**look, api_name="feature", show_progress="hidden")
    way, number = gr.Textbox(visible=False), gr.Number(visible=False, precision=0)
    card.hear(asked, None, [way, number], **hidden).then(
        hear,
        [page.bundle, page.heard, kept, number, way],
        [view, measured],
        api_name="hear_feature",
        show_progress_on=measured,
        **MODEL,
    )
    card.steer(taken, None, [page.feature, page.tabs], **hidden)
    number.change(chosen, number, page.feature, api_name="choose_feature", show_progress="hidden")

    gr.api(corpus_moment, api_name="corpus_moment")
    press = "() => setTimeout(() => document.querySelector('#export-file')?.click(), 100)"
    save_csv.click(export_csv, [page.bundle, page.heard, kept], file, api_name="export_activations").then(js=press, **hidden)
    save_json.click(export_settings, [page.bundle, page.heard, page.feature], file, api_name="export_settings").then(
        js=press, **hidden
    )


@plainly
def bring(
    upload: str | None,
    source: BundleSource,
    before: CurrentSound | None,
    request: gr.Request,
    progress: gr.Progress = gr.Progress(),  # noqa: B008
) -> Iterator[tuple]:
    """Analyse a sound of up to 60 s: returns its name, the picture with all curves, and the features that fire, ranked.

    Until all of that is there, the visitor keeps the sound that they had.
    """
    if upload is None:
        raise ParameterError("no sound arrived; choose a sound file")
    progress(0, desc="Reading the sound")
    stem = Path(upload).stem
    heard = session.bring(upload, "Recording" if stem == RECORDED else stem.replace("_", " ")[:80], request)
    kept = yield from _looked(source, heard, progress, (*WAITING, gr.skip()))
    drawn = _drawn(kept)
    session.settle(heard, before, request)
    yield *drawn, gr.update(visible=False), None


def _example(key: str):
    @plainly
    def seen(source: BundleSource):
        heard, found = examples.by_key(key).heard, examples.seen(key, source)
        return None, heard, f"## {heard.name}", _fresh(found.picture), found.rows, found.feature, ""

    seen.__doc__ = f"Show the example '{examples.by_key(key).title}': its picture and the features that fire, ranked."
    return seen


@plainly
def again(
    source: BundleSource,
    heard: CurrentSound | None,
    kept: Kept | None,
    linked: Linked | None,
    feature: int | None,
    progress: gr.Progress = gr.Progress(),  # noqa: B008
) -> Iterator[tuple]:
    """Look at the same sound with the bundle that was picked."""
    heard = heard or EXAMPLES[0].heard
    if kept is None or (kept.heard, kept.source) != (heard, source):
        kept = yield from _looked(source, heard, progress, WAITING)
        feature = linked.feature if linked is not None and linked.source == source else None
    yield *_drawn(kept, feature), gr.update(visible=False)


@plainly
def back(source: BundleSource, kept: Kept | None) -> tuple:
    """Leave the view as it was: the bundle that it was seen with, an empty upload, nothing to stop."""
    seen_with = session.SHIPPED if kept is None else kept.source
    return gr.skip() if seen_with == source else seen_with, gr.update(visible=False), None


@plainly
def look_at(source: BundleSource, heard: CurrentSound | None, kept: Kept | None, feature: int | None):
    """Return the card of the chosen feature: name with evidence, tuning, neighbours, strongest moments here and in the corpus."""
    bundle, space = session.loaded(source)
    if feature is None:
        return None, gr.update(chosen=None), gr.update(chosen=None), kept
    kept = _kept(source, heard, kept)
    card = card_of(bundle, feature, kept.view, space)
    return card, gr.update(chosen=activation_of(bundle, kept.view, feature)), gr.update(chosen=feature), kept


@plainly
def hear(source: BundleSource, heard: CurrentSound | None, kept: Kept | None, feature: int, way: str):
    """Play the sound with one feature ``alone``, ``remove``d or ``boost``ed, and say what was measured where it fires."""
    if way not in WAYS:
        raise ParameterError(f"a feature is heard as {', '.join(WAYS)}; got '{way}'")
    bundle, space = session.loaded(source)
    found = _audition(source, _kept(source, heard, kept).view, int(feature), way)
    title = SAID[way].format(f=int(feature))
    tracks = [track(title, found.audio, space.spec.sample_rate) | {"short": title}]
    return gr.update(tracks=tracks), _measured(found, bundle.atlas.names[int(feature)].text, title)


@plainly
def picked(event: gr.EventData) -> int:
    """Take the feature that was chosen on the page."""
    return int(event.feature)


@plainly
def asked(event: gr.EventData) -> tuple[str, int]:
    """Take what is to be heard from the card."""
    return str(event.way), int(event.feature)


@plainly
def taken(event: gr.EventData) -> tuple[int, gr.Tabs]:
    """Take a feature to the Steer tab."""
    return int(event.feature), show("steer")


@plainly
def chosen(feature: int | None):
    """Choose the feature that all tabs look at, by its number."""
    return None if feature is None else int(feature)


@plainly
def corpus_moment(recording: str, time: float) -> dict:
    """Return 1.5 s of a synthesised corpus clip from a moment on: ``wav`` (base64) and ``timbre``, or ``error`` in words."""
    return moment({"recording": recording, "time": time})


@plainly
def export_csv(source: BundleSource, heard: CurrentSound | None, kept: Kept | None, request: gr.Request) -> str:
    """Write every activation above 0 of the sound as CSV: time in seconds, feature, name, activation."""
    bundle, _ = session.loaded(source)
    acts = _kept(source, heard, kept).view.acts
    path = session.folder(request) / "activations.csv"
    with path.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["seconds", "feature", "name", "activation"])
        for (frame, feature), value in zip(acts.indices().T.tolist(), acts.values().tolist(), strict=True):
            time = f"{bundle.spec.frame_time(frame):.3f}"
            writer.writerow([time, feature, bundle.atlas.names[feature].text, f"{value:.4f}"])
    return str(path)


@plainly
def export_settings(source: BundleSource, heard: CurrentSound | None, feature: int | None, request: gr.Request) -> str:
    """Write what is looked at as JSON: sound, bundle, revision, feature."""
    path = session.folder(request) / "settings.json"
    settings = {"sound": heard and heard.name, "bundle": source.name, "revision": source.revision, "feature": feature}
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n")
    return str(path)


@gpu(duration=20)
def _analysing(source: BundleSource, heard: CurrentSound) -> Iterator[Stage | View]:
    bundle, space = session.loaded(source)
    yield from analysing(bundle, heard.sound(), space=space)


@gpu(duration=20)
def _audition(source: BundleSource, view: View, feature: int, way: str):
    bundle, space = session.loaded(source)
    return audition(bundle, view, feature, way, space=space, factor=BOOST)


def _looked(source: BundleSource, heard: CurrentSound, progress: Callable, waiting: tuple) -> Generator[tuple, None, Kept]:
    """Look at a sound, saying what is happening and leaving the page as it is meanwhile, so that it can be stopped."""
    for step in _analysing(source, heard):
        if isinstance(step, View):
            return Kept(heard, source, step)
        progress(step.share, desc=step.doing)
        yield waiting
    raise RuntimeError("an analysis ended without its view")


def _drawn(kept: Kept, feature: int | None = None) -> tuple:
    """All that shows a sound, with a feature or else the strongest."""
    bundle, _ = session.loaded(kept.source)
    rows = rows_of(bundle, kept.view)
    if feature is None and rows["rows"]:
        feature = rows["rows"][0][0]
    heard = kept.heard
    return kept, heard, f"## {heard.name}", _fresh(picture(bundle, kept.view, heard.name)), rows, feature, ""


def _fresh(drawn: dict) -> dict:
    """An update that shows a new sound and takes away what was heard of the one before."""
    return gr.update(value=drawn, tracks=[], chosen=None)


def _kept(source: BundleSource, heard: CurrentSound | None, kept: Kept | None) -> Kept:
    """The view of the current sound: kept, shipped, or looked at again."""
    heard = heard or EXAMPLES[0].heard
    if kept is not None and (kept.heard, kept.source) == (heard, source):
        return kept
    for example in EXAMPLES:
        if example.heard == heard:
            return Kept(heard, source, examples.view_of(example.key, source))
    *_, view = _analysing(source, heard)
    return Kept(heard, source, view)


def _measured(found: Audition, name: str, title: str) -> str:
    """One line: pitch, level and brightness where the feature fires, of the reconstruction and of what plays."""
    both = found.before, found.after
    parts = [
        _change("pitch", [d.f0[found.fires] for d in both], "Hz", 0),
        _change("level", [to_db(d.rms[found.fires]) for d in both], "dBFS", 1),
        _change("brightness", [d.centroid[found.fires] for d in both], "Hz", 0),
    ]
    return f"**{title[0].upper()}{title[1:]}** ({name}). Measured where it fires (median): {', '.join(parts)}."


def _change(what: str, before_after: list[Tensor], unit: str, digits: int) -> str:
    defined = [values[values.isfinite()] for values in before_after]
    before, after = (f"{values.median().item():.{digits}f} {unit}" if len(values) else "none" for values in defined)
    return f"{what} {before} → {after}"
