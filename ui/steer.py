"""Move a sound's pitch, loudness and brightness, and hear the difference."""

from __future__ import annotations

from collections.abc import Iterator

import gradio as gr

from sae_audio.bundle import Bundle
from sae_audio.errors import ParameterError
from sae_audio.latent_spaces import Codec, LatentSpace
from sae_audio.outcome import outcomes
from sae_audio.pipeline import Stage, Steered, steering
from ui import session
from ui.ab import ab_player, compared
from ui.gpu import gpu
from ui.guard import plainly
from ui.limits import MODEL
from ui.measured import lines_of
from ui.session import BundleSource, CurrentSound
from ui.shared import Page, show
from ui.steer_files import EXPORTS, Result, run_folder, spectrograms, stem_of, within_full_scale, write_files
from ui.steer_form import BOUNDED, bounds_in, form_of
from ui.steer_settings import AS_PLAYED, NOTHING, Ask, checked, from_json


def tab(page: Page) -> None:
    """Lay out the tab and wire its events."""
    with gr.Row(elem_id="steer-sound-row"):
        sound = gr.Markdown(title_of(page.heard.value), elem_id="steer-sound")
        other = gr.Button("Choose another sound", size="sm", elem_id="steer-other")
    bundle, space = session.loaded(page.bundle.value)
    why = gr.Markdown(why_not(bundle, space), visible=not isinstance(space, Codec), elem_id="steer-why")
    form = form_of(bundle, page.feature.value or 0)
    with gr.Row(elem_id="steer-actions"):
        go = gr.Button("Steer", variant="primary", size="md", interactive=isinstance(space, Codec), elem_id="steer-go")
        stop = gr.Button("Stop", size="md", elem_id="steer-stop")
        reset = gr.Button("Reset", size="md", elem_id="steer-reset")
        load = gr.UploadButton("Load settings", size="md", file_types=[".json"], elem_id="steer-load")
    view = ab_player(elem_id="ab")
    with gr.Row(visible=False, elem_id="steer-exports") as row:
        exports = [gr.DownloadButton(label, size="sm", elem_id=f"steer-{key}") for key, label in EXPORTS.items()]
        draw = gr.Button("Spectrograms (PNG)", size="sm", elem_id="steer-png")
    file = gr.DownloadButton("Download", visible="hidden", elem_id="steer-file")  # in a row that appears later it would be seen
    result = gr.State(None)

    hidden = {"api_visibility": "private", "show_progress": "hidden"}
    fields = list(form.values())
    run = go.click(
        steer_sound,
        [page.bundle, page.heard, *fields],
        [view, *exports, row, result],
        api_name="steer",
        show_progress_on=view,
        **MODEL,
    )
    stop.click(None, cancels=[run], **hidden)
    reset.click(rest, page.feature, fields, api_name="steer_reset", show_progress="hidden")
    load.upload(load_settings, [page.bundle, load], fields, api_name="steer_load_settings", show_progress="hidden")
    page.bundle.change(bounds_of, page.bundle, [form[name] for name in BOUNDED], api_name="steer_limits", show_progress="hidden")
    page.bundle.change(able_of, page.bundle, [why, go], api_name="steer_able", show_progress="hidden")
    named = {"fn": name_of, "inputs": [page.bundle, form["feature"]], "outputs": form["feature"]}
    form["feature"].change(**named, **hidden)
    page.feature.change(lambda feature: feature or 0, page.feature, form["feature"], **hidden)
    classes = [page.bundle, form["push"], form["target"]]
    form["push"].change(classes_of, classes, form["target"], api_name="steer_classes", show_progress="hidden")
    page.heard.change(title_of, page.heard, sound, **hidden)
    page.heard.change(lambda: (None, gr.update(visible=False)), None, [view, row], **hidden)
    press = "() => setTimeout(() => document.querySelector('#steer-file')?.click(), 100)"
    draw.click(spectrograms, result, file, api_name="steer_spectrograms", show_progress="hidden").then(js=press, **hidden)
    other.click(lambda: show("explore"), None, page.tabs, **hidden)


def rest(feature: int | None) -> tuple:
    """Return the values of all controls at which nothing is steered."""
    return tuple(Ask(feature=feature or 0))


@plainly
def steer_sound(
    source: BundleSource,
    heard: CurrentSound,
    semitones: float,
    note: str,
    loudness: float,
    brightness: float,
    start: float,
    stop: float,
    fade: float,
    feature: int,
    amount: float,
    more_features: str,
    push: str,
    target: str,
    strength: float,
    mode: str,
    orthogonal: bool,
    hold: bool,
    request: gr.Request,
    progress: gr.Progress = gr.Progress(),  # noqa: B008
) -> Iterator[tuple]:
    """Steer the current sound, up to 60 s: returns what was measured before and after with three sounds, and files to keep.

    The sound is the one last analysed in the same session, or the first example. Zeros and blanks ask for nothing; where nothing
    is asked for, the steered sound is the reconstruction, sample for sample.
    """
    ask = checked(
        Ask(
            *(semitones or 0, note or AS_PLAYED, loudness or 0, brightness or 0, start or 0, stop or 0, fade or 0),
            *(feature or 0, amount or 0, more_features or "", push or NOTHING, target or "", strength or 0, mode),
            *(orthogonal, hold),
        )
    )
    bundle, _ = session.loaded(source)
    done, waiting = None, [gr.skip()] * (3 + len(EXPORTS))
    for step in _steering(source, heard, ask):
        if isinstance(step, Stage):
            progress(step.share, desc=step.doing)
            yield tuple(waiting)
        else:
            done = step
    folder = run_folder(request)
    sounds = within_full_scale(heard.sound(), done.reconstruction, done.sound)
    rows = outcomes(bundle, done, ask.moves, ask.open_ended)
    shown = compared(sounds, done, folder, heard.name) | lines_of(rows, done, sounds, ask)
    files = write_files(folder, bundle, done, sounds[-1], ask, source, heard)
    paths = [str(files[key]) if key in files else None for key in EXPORTS]
    yield shown, *paths, gr.update(visible=True), Result(str(folder), stem_of(heard))


@gpu(duration=60)
def _steering(source: BundleSource, heard: CurrentSound, ask: Ask) -> Iterator[Stage | Steered]:
    bundle, space = session.loaded(source)
    yield from steering(bundle, heard.sound(), ask.edit, space=space)


@plainly
def load_settings(source: BundleSource, file: str | None):
    """Set every control of the tab from a JSON file that its Settings button saved."""
    if file is None:
        raise ParameterError("no file arrived; choose a JSON file that the Settings button saved")
    ask = from_json(file)
    bundle, _ = session.loaded(source)
    names = list(bundle.properties[ask.push].names) if ask.push in bundle.properties else []
    return tuple(ask._replace(target=gr.update(choices=names, value=ask.target)))


@plainly
def bounds_of(source: BundleSource):
    """Say how far the bundle can move pitch, loudness and brightness, and which notes it knows."""
    bundle, _ = session.loaded(source)
    return tuple(gr.update(**bounds) for bounds in bounds_in(bundle).values())


@plainly
def able_of(source: BundleSource):
    """Say why nothing can be steered where the bundle's latents cannot be decoded to sound; nothing where they can."""
    bundle, space = session.loaded(source)
    able = isinstance(space, Codec)
    return gr.update(value=why_not(bundle, space), visible=not able), gr.update(interactive=able)


def why_not(bundle: Bundle, space: LatentSpace) -> str:
    """Return why nothing can be steered, or nothing where something can."""
    if isinstance(space, Codec):
        return ""
    return (
        f"**Nothing can be steered here.** This bundle reads {bundle.spec.name}, {bundle.spec.tap}: hidden states, which cannot "
        "be decoded back to sound. Explore shows what its features respond to in your sound, Atlas lists all of them with their "
        "strongest moments. To steer, pick a bundle of a codec on the Bundle tab."
    )


@plainly
def classes_of(source: BundleSource, push: str, target: str):
    """List the classes that a property can be pushed towards."""
    bundle, _ = session.loaded(source)
    names = list(bundle.properties[push].names) if push in bundle.properties else []
    return gr.update(choices=names, value=target if target in names else next(iter(names[len(names) // 2 :]), ""))


@plainly
def name_of(source: BundleSource, feature: int | None):
    """Show the name of the feature beside its number."""
    bundle, _ = session.loaded(source)
    if feature is None or not 0 <= feature < bundle.atlas.d_sae:
        return gr.update(info=f"a number from 0 to {bundle.atlas.d_sae - 1}")
    return gr.update(info=bundle.atlas.names[int(feature)].text)


def title_of(heard: CurrentSound) -> str:
    """Name the sound that will be steered."""
    return f"## {heard.name}"
