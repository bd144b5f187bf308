"""Watch pitch, loudness and brightness emerge while music is generated, step by step, and steer on the way."""

from __future__ import annotations

import uuid
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path

import gradio as gr
import torch

from sae_audio.errors import ParameterError
from sae_audio.files import write_bytes
from sae_audio.fitting import mixdown
from sae_audio.generators import ETUDE_FLOW, frames_of
from sae_audio.recording import Point
from sae_audio.traces import Trace, compact_json
from ui import flow, session, song_files, songs
from ui.guard import plainly
from ui.limits import MODEL
from ui.session import BundleSource, CurrentSound
from ui.shared import Page
from ui.songs import FIRST, STORED_TITLES, Made
from ui.timeline import track
from ui.trajectory import Progress, curves_of, news, run_of, start, trajectory

HEAR = {"concurrency_id": "hear", "concurrency_limit": 2}
"""Decoding one step is short, and does not wait for those who generate."""
FLOW_NAME = {"étude-flow, here": ETUDE_FLOW, "DiffRhythm": "DiffRhythm"}
AGAINST = {"This song's own end": "song", "My sound from Explore": "mine"}
NOTES = "C4:0.5 E4:0.5 G4:0.5 C5:1 B4:0.5 G4:0.5 C5:1.5"
NOTES_HINT = "C4:0.5 rest:0.25 C4+E4+G4:1"
ABOUT = """
**x̂₁** is where the network believes it will end, **xₜ** the noisy state that it has reached. A curve says how much of what the
probes read there is what they read at the end; not whether they are right.

Much of the rise of an xₜ curve is only noise that fades: sound that was decided from the first, noised to the same flow time,
rises as well. Draw that control beside it.

So no order of the curves proves what is decided first, or what can still be moved. That takes an intervention: steer inside a
window.
"""
ELSEWHERE = """
DiffRhythm itself is not offered here: it needs a GPU, and `DIFFRHYTHM` set to its folder or Hub id. Étude-flow is a small
generator of the same shape; what it does is no evidence about DiffRhythm.
"""


def tab(page: Page) -> None:
    """Lay out the tab and wire its events."""
    opening = songs.stored(FIRST, _reader(page.bundle.value))
    made = gr.State(opening)
    with gr.Row(elem_id="watch-row"):
        with gr.Column(scale=1, min_width=270, elem_id="watch-form"):
            asked = _form()
            with gr.Row(elem_id="watch-actions"):
                go = gr.Button("Generate", variant="primary", size="md", elem_id="watch-go", min_width=80)
                stop = gr.Button("Stop", size="md", elem_id="watch-stop", min_width=80)
            status = gr.HTML("", elem_id="watch-status")
            with gr.Accordion("Steer inside a window", open=False, elem_id="watch-steering"):
                loudness = gr.Slider(-12, 12, 0, step=1, label="Loudness, dB")
                brightness = gr.Slider(-1, 1, 0, step=0.1, label="Brightness, octaves")
                pitch = gr.Slider(-12, 12, 0, step=1, label="Pitch, semitones")
                first = gr.Slider(0, 1, 0, step=0.05, label="From flow time")
                last = gr.Slider(0, 1, 1, step=0.05, label="To flow time")
                steer = gr.Button("Make it again, steered", size="md", elem_id="watch-steer")
            with gr.Accordion("Control: noised sound", open=False, elem_id="watch-controls"):
                against = gr.Radio(list(AGAINST), value=next(iter(AGAINST)), label="What is noised")
                control = gr.Button("Draw the control", size="md", elem_id="watch-control")
        with gr.Column(scale=3, min_width=320):
            stored = gr.Radio(list(STORED_TITLES), value=FIRST, label="Precomputed", container=False, elem_id="watch-stored")
            view = trajectory(songs.view_of(opening), elem_id="watch")
            with gr.Row(elem_id="watch-exports"):
                saves = {
                    kind: gr.Button(label, size="sm", elem_id=f"watch-save-{kind}") for kind, label in song_files.EXPORTS.items()
                }
                file = gr.DownloadButton("Download", visible="hidden", elem_id="watch-file")
            gr.Markdown(ABOUT + ("" if flow.diffrhythm_is_here() else ELSEWHERE), elem_id="watch-about")
    run, step = gr.Textbox("song", label="Run", visible=False), gr.Number(0, precision=0, label="Step", visible=False)
    sound, decode = gr.Audio(visible=False), gr.Button(visible=False)

    shown = {"outputs": [view, made], "show_progress": "minimal", "show_progress_on": status}
    stored.input(show_stored, [stored, page.bundle], api_name="generate_stored", **shown)
    making = [
        go.click(generate, [*asked, page.bundle], api_name="generate", **shown, **MODEL),
        steer.click(steered, [loudness, brightness, pitch, first, last, made], api_name="generate_steered", **shown, **MODEL),
        control.click(controlled, [against, made, page.heard], api_name="generate_control", **shown, **MODEL),
    ]
    making[0].success(lambda: gr.update(value=None), None, stored, api_visibility="private", show_progress="hidden")
    for event in making:  # what failed half-way leaves the song that was there before
        event.failure(cancelled, made, view, api_visibility="private", show_progress="hidden")
    stop.click(cancelled, made, view, cancels=making, api_name="generate_cancel", show_progress="hidden")
    quietly = {"api_visibility": "private", "show_progress": "hidden", "trigger_mode": "multiple"}
    view.hear(hear, made, view, **quietly, **HEAR)
    decode.click(hear_step, [run, step, made], sound, api_name="generate_hear", **HEAR)
    press = "() => setTimeout(() => document.querySelector('#watch-file')?.click(), 100)"
    for kind, button in saves.items():
        done = button.click(saved, [gr.State(kind), made], file, api_name=f"generate_save_{kind}", **HEAR)
        done.then(js=press, api_visibility="private", show_progress="hidden")


def _form() -> list[gr.components.Component]:
    """Lay out what is asked for, in the order of ``generate``'s arguments."""
    here, names = flow.diffrhythm_is_here(), list(flow.generator(ETUDE_FLOW).generator.style_names)
    which = gr.Radio(list(FLOW_NAME), value=next(iter(FLOW_NAME)), label="Generator", visible=here, elem_id="watch-generator")
    every = [*names, *flow.diffrhythm_styles()] if here else names
    style = gr.Dropdown(every, value=names[0], label="Style", filterable=True, elem_id="watch-style")
    words = gr.Textbox("", label="Style in words", placeholder="calm piano, rain", max_length=200, visible=False)
    notes = gr.Textbox(
        NOTES,
        label="Notes (empty: its own)",
        placeholder=NOTES_HINT,
        lines=2,
        max_length=flow.MAX_NOTES,
        elem_id="watch-notes",
    )
    seconds = gr.Slider(*flow.SECONDS, 5, step=0.5, label="Length, s", elem_id="watch-seconds")
    seed = gr.Number(1, precision=0, minimum=0, maximum=flow.SEEDS, label="Seed", elem_id="watch-seed")
    with gr.Accordion("Steps and guidance", open=False, elem_id="watch-sampler"):
        steps = gr.Slider(*flow.STEPS, 32, step=1, label="Steps", elem_id="watch-steps")
        guidance = gr.Slider(*flow.GUIDANCE, 0.5, step=0.1, label="Guidance", elem_id="watch-guidance")
    which.input(_switch, which, [style, notes, words, seconds, guidance], api_visibility="private", show_progress="hidden")
    return [which, style, words, notes, seconds, steps, guidance, seed]


def _reader(source: BundleSource) -> BundleSource:
    return flow.reading(source, flow.generator(ETUDE_FLOW))[0]


def _switch(which: str) -> tuple:
    """Show what a generator takes: DiffRhythm no notes, and a style by name or in words."""
    etude = FLOW_NAME[which] == ETUDE_FLOW
    names = list(flow.generator(ETUDE_FLOW).generator.style_names if etude else flow.diffrhythm_styles())
    longest = flow.SECONDS[1] if etude else flow.DIFFRHYTHM_SECONDS
    return (
        gr.update(visible=bool(names), **({"choices": names, "value": names[0]} if names else {})),
        gr.update(visible=etude),
        gr.update(visible=not names),
        gr.update(maximum=longest, value=5 if etude else longest),
        gr.update(value=0.5 if etude else 4.0),
    )


@plainly
def show_stored(title: str, source: BundleSource) -> tuple[dict, Made]:
    """Show a precomputed song: its posteriors and curves, at the steps that are stored."""
    made = songs.stored(title, _reader(source))
    return songs.view_of(made), made


@plainly
def generate(
    which: str,
    style: str,
    words: str,
    notes: str,
    seconds: float,
    steps: int,
    guidance: float,
    seed: int,
    source: BundleSource,
    request: gr.Request,
) -> Iterator[tuple]:
    """Generate a song, and watch: every step's posteriors and curves as it comes, then the whole.

    Style is one of the list; notes are written NOTE:SECONDS, such as ``C4:0.5 rest:0.25 C4+E4+G4:1``, or left empty. Length in
    seconds, steps are points in flow time, guidance 0 halves the work. Words are for DiffRhythm only, where it lists no styles.
    """
    model = flow.generator(FLOW_NAME[which])
    source, found = flow.reading(source, model)
    style = style if model.name == ETUDE_FLOW or flow.diffrhythm_styles() else words
    asked = {"style": style, "notes": notes, "seconds": seconds, "steps": steps}
    wanted = flow.request_of(asked | {"guidance": guidance, "seed": seed}, model)
    key, bundle = uuid.uuid4().hex[:12], found.bundle
    said = {"words": style} if model.name != ETUDE_FLOW else {}
    opening = start(
        key,
        songs.title_of({"style": style, "seed": seed, **said}),
        wanted.seconds,
        wanted.steps,
        frames_of(model, wanted.seconds),
        bundle.properties,
    )
    trace = yield from _watched(
        flow.points(model, found, wanted), Progress(key, "song", bundle.properties, wanted.steps), opening
    )
    trace.facts.update(said, notes=notes.strip() or None)
    folder = songs.fresh_folder(key, request)
    _save(trace, folder / "song")
    made = Made(key, str(folder / "song"), source, FLOW_NAME[which], str(folder))
    yield songs.save_view(made, songs.finished(key, trace, bundle, how="made just now" + songs.read_by(source))), made


@plainly
def steered(
    loudness: float, brightness: float, pitch: float, first: float, last: float, made: Made, request: gr.Request
) -> Iterator[tuple]:
    """Make the song in view again, steered at the steps from one flow time to another, and compare it with the unsteered one.

    Loudness in dB, brightness in octaves of spectral centroid, pitch in whole semitones; 0 leaves a property alone.
    """
    moves = {name: amount for name, amount in (("pitch", pitch), ("loudness", loudness), ("brightness", brightness)) if amount}
    if not moves:
        raise ParameterError("all three amounts are 0; move at least one of loudness, brightness and pitch")
    model, found, base = flow.generator(made.generator), session.loaded(made.source), songs.trace_of(made, "song")
    wanted = flow.request_of(songs.asked_of(base) | {"moves": moves, "window": (first, last)}, model)
    progress = Progress(made.key, "steered", found.bundle.properties, wanted.steps)
    trace = yield from _watched(flow.points(model, found, wanted), progress)
    made = songs.kept(made, request)
    _save(trace, Path(made.folder) / "steered")
    view = songs.view_of(made)
    view["runs"]["steered"] = run_of(trace, found.bundle)
    view |= {"table": songs.measured_table(base, trace), "window": [first, last]}
    yield songs.save_view(made, view) | {"show": "steered", "fresh": "steered"}, made


@plainly
def controlled(against: str, made: Made, heard: CurrentSound | None, request: gr.Request) -> Iterator[tuple]:
    """Draw the control's curves: sound that is decided from the first, noised to every flow time.

    The sound is the song's own end, or the visitor's sound of Explore (its first seconds, as long as the song).
    """
    model, found, base = flow.generator(made.generator), session.loaded(made.source), songs.trace_of(made, "song")
    along, asked = base.final.float()[:1], songs.asked_of(base)
    if AGAINST[against] == "mine":
        along = _latents_of(heard, found, along.shape[1])
        asked["seconds"], asked["notes"] = along.shape[1] / found.bundle.spec.frame_rate, None
    wanted = flow.request_of(asked, model)
    with closing(flow.points(model, found, wanted, along)) as points:
        for got in points:
            if isinstance(got, Point):
                says = f"Control, step {got.index} of {wanted.steps - 1}"
                yield gr.update(news=news(made.key, "control", got.index, wanted.steps, says)), gr.skip()
    made = songs.kept(made, request)
    write_bytes(
        Path(made.folder) / "control.json",
        compact_json({**got.facts, "model": flow.said_of(got.facts["model"]), "against": against}),
    )
    view = songs.view_of(made)
    view["runs"]["control"] = {"points": [], "read": {}, "curves": curves_of(got.facts["curves"]), "ends": {}}
    yield songs.save_view(made, view), made


@plainly
def cancelled(made: Made) -> dict:
    """Stop what is being made, and show the song that was there before."""
    return gr.update(value=songs.view_of(made), news={"id": made.key, "over": uuid.uuid4().hex})


@plainly
def hear(made: Made, wanted: gr.EventData) -> dict:
    """Decode what the network believes at a step; the view asks for it."""
    run, step = ("steered" if wanted.run == "steered" else "song"), int(wanted.step)
    sound = track("", *songs.sound_of(made, run, step))
    return gr.update(heard={"id": made.key, "run": run, "step": step, **sound})


@plainly
def hear_step(run: str, step: int, made: Made, request: gr.Request) -> str:
    """Decode x̂₁ at a step (the last is the result) of the ``song`` in view, or of its ``steered`` twin, as a WAV file."""
    view = songs.view_of(made)
    if run not in ("song", "steered") or run not in view["runs"]:
        raise ParameterError(f"there is no run '{run}'; generate a song, or steer it, first")
    points = view["runs"][run]["points"]
    if step not in points:
        raise ParameterError(f"step {step} is not there; the steps are {', '.join(map(str, points))}")
    return str(songs.sound_file(made, run, step, session.folder(request) / f"{run}-step-{step:02d}.wav"))


@plainly
def saved(kind: str, made: Made, request: gr.Request) -> str:
    """Write something of the song in view as a file, with its steered run and control where there are any.

    Curves are CSV, one line per run, property, reader, signal and step; the trace is JSON (all curves and facts); the figure is
    PNG; settings are JSON, what it takes to make the same song again.
    """
    return str(song_files.written(kind, songs.kept(made, request)))


def _watched(points: Generator[Point | Trace], progress: Progress, opening: dict | None = None) -> Iterator[tuple]:
    """Yield news of every point, and return the trace; ``opening`` is shown before the first."""
    with closing(points):
        for got in points:
            if isinstance(got, Trace):
                return got
            told = {"news": progress.news(got.index, got.posteriors)}
            if opening is not None and got.index == 0:
                told["value"] = opening
            yield gr.update(**told), gr.skip()
    raise RuntimeError("a generation ended without its trace")


def _save(trace: Trace, stem: Path) -> None:
    trace.facts["model"] = flow.said_of(trace.facts["model"])
    trace.without_posteriors().save(stem)


def _latents_of(heard: CurrentSound | None, found: session.Loaded, frames: int) -> torch.Tensor:
    """Return the latents [1, T, d_in] of the visitor's sound, at most so many frames."""
    if heard is None:
        raise ParameterError("there is no sound in Explore yet; bring one there, or take the song's own end")
    with torch.inference_mode():
        return found.space.encode(mixdown(heard.sound(), found.space.spec)).cpu()[:, :frames]
