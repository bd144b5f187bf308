"""Move a sound's pitch, loudness and brightness, and hear the difference."""

from __future__ import annotations

import math
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import gradio as gr

from sae_audio.audio import Sound, full_scale_gain, lowered, read, write
from sae_audio.bundle import Bundle
from sae_audio.control import AXES
from sae_audio.control_file import save_controls
from sae_audio.errors import ParameterError
from sae_audio.files import write_bytes
from sae_audio.latent_spaces import Codec, LatentSpace
from sae_audio.moves import known_notes
from sae_audio.outcome import curves, outcomes
from sae_audio.pipeline import Stage, Steered, steering
from sae_audio.plots import png, side_by_side
from sae_audio.pushes import MODES
from ui import session
from ui.ab import TITLES, ab_player, compared, track_of
from ui.gpu import gpu
from ui.guard import plainly
from ui.limits import MODEL
from ui.measured import lines_of
from ui.session import Heard, Source
from ui.shared import Page, show
from ui.steer_settings import AS_PLAYED, NOTHING, Ask, checked, from_json, to_json

MOST_DB, MOST_OCTAVES, MOST_SEMITONES = 24.0, 1.0, 12
RUNS_KEPT = 2
"""Results of one visitor whose files are kept."""
EXPORTS = {
    "wav16": "WAV, 16 bit",
    "wav24": "WAV, 24 bit",
    "csv": "Measured curves (CSV)",
    "json": "Settings (JSON)",
    "controls": "Control vectors (safetensors)",
}
BOUNDED = ("semitones", "note", "loudness", "brightness")
"""Controls whose limits are the bundle's."""
PUSH_ABOUT = """
**honest** adds α × the difference between the class and what each frame is now, and keeps what the SAE does not explain.
**paper** is the rule of [arXiv 2510.23802](https://arxiv.org/abs/2510.23802): decode(RMSNorm(a + α w)), w being the probe's
weights of the class; it loses the SAE's error at any α but 0 (the paper uses 1 to 30). **Orthogonal** first takes out what
the direction shares with those of the other properties. α = 0 is no edit. A push is not corrected to an amount.
"""


class Result(NamedTuple):
    """Where the last result of a visitor is."""

    folder: str
    stem: str
    """Beginning of its files' names."""


def tab(page: Page) -> None:
    """Lay out the tab and wire its events."""
    with gr.Row(elem_id="steer-sound-row"):
        sound = gr.Markdown(title_of(page.heard.value), elem_id="steer-sound")
        other = gr.Button("Choose another sound", size="sm", elem_id="steer-other")
    bundle, space = session.loaded(page.bundle.value)
    why = gr.Markdown(why_not(bundle, space), visible=not isinstance(space, Codec), elem_id="steer-why")
    form = _form(bundle, page.feature.value or 0)
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


def _form(bundle: Bundle, feature: int) -> dict[str, gr.components.Component]:
    """The inputs, in the order of ``Ask``, as wide as a bundle allows."""
    form, bounds = {}, bounds_in(bundle)
    with gr.Row(elem_classes="steer-row"):
        with gr.Column(min_width=250):
            form["semitones"] = gr.Slider(
                step=1, label="Pitch, semitones", buttons=[], elem_id="steer-semitones", **bounds["semitones"]
            )
            form["note"] = gr.Dropdown(
                label="or everything to one note", allow_custom_value=True, elem_id="steer-note", **bounds["note"]
            )
        with gr.Column(min_width=250):
            form["loudness"] = gr.Slider(
                step=0.5, label="Loudness, dB", buttons=[], elem_id="steer-loudness", **bounds["loudness"]
            )
            form["brightness"] = gr.Slider(
                step=0.05, label="Brightness, octaves", buttons=[], elem_id="steer-brightness", **bounds["brightness"]
            )
        with gr.Column(min_width=250):
            with gr.Row(elem_classes="steer-pair"):
                form["start"] = gr.Number(0, label="From, s", minimum=0, step=0.1, min_width=80, elem_id="steer-start")
                form["stop"] = gr.Number(0, label="to, s (0: the end)", minimum=0, step=0.1, min_width=80, elem_id="steer-to")
            form["fade"] = gr.Slider(0, 3, 0, step=0.05, label="Fade in and out, s", buttons=[], elem_id="steer-fade")
    with gr.Accordion("Single features", elem_id="steer-features"), gr.Row(elem_classes="steer-row"):
        form["feature"] = gr.Number(
            feature,
            label="Feature",
            precision=0,
            minimum=0,
            min_width=200,
            elem_id="steer-feature",
            info=bundle.atlas.names[feature].text,
        )
        form["amount"] = gr.Slider(
            -5,
            5,
            0,
            step=0.25,
            label="Strength",
            buttons=[],
            min_width=200,
            elem_id="steer-amount",
            info="times its typical activation; negative takes away",
        )
        form["more_features"] = gr.Textbox(
            "", label="Further features", placeholder="7=-1, 12=2", min_width=200, elem_id="steer-more", info="number=strength"
        )
    with gr.Accordion("Strengths, for experts", open=False, elem_id="steer-experts"):
        with gr.Row(elem_classes="steer-row"):
            form["push"] = gr.Dropdown([NOTHING, *AXES], value=NOTHING, label="Push", min_width=140, elem_id="steer-push")
            form["target"] = gr.Dropdown(
                [""], value="", label="towards the class", allow_custom_value=True, min_width=140, elem_id="steer-target"
            )
            form["strength"] = gr.Slider(
                -5, 30, 0, step=0.25, label="Strength α", buttons=[], min_width=200, elem_id="steer-strength"
            )
            form["mode"] = gr.Radio(list(MODES), value=MODES[0], label="Mode", min_width=160, elem_id="steer-mode")
            form["orthogonal"] = gr.Checkbox(False, label="Orthogonal to the others", min_width=180, elem_id="steer-orthogonal")
        form["hold"] = gr.Checkbox(
            True,
            label="Measure the result and correct loudness and brightness to what was asked (three more decodes)",
            elem_id="steer-hold",
        )
        gr.Markdown(PUSH_ABOUT, elem_id="steer-about")
    return {name: form[name] for name in Ask._fields}


@plainly
def steer_sound(
    source: Source,
    heard: Heard,
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
    folder = _run_folder(request)
    sounds = within_full_scale(heard.sound(), done.reconstruction, done.sound)
    rows = outcomes(bundle, done, ask.moves, ask.open_ended)
    shown = compared(sounds, done, folder, heard.name) | lines_of(rows, done, sounds, ask)
    files = _files(folder, bundle, done, sounds[-1], ask, source, heard)
    paths = [str(files[key]) if key in files else None for key in EXPORTS]
    yield shown, *paths, gr.update(visible=True), Result(str(folder), _stem(heard))


@plainly
def spectrograms(result: Result | None) -> str:
    """Draw the spectrograms of the original, the reconstruction and the steered sound side by side, as a PNG."""
    if result is None:
        raise ParameterError("nothing was steered yet; steer the sound first")
    folder = Path(result.folder)
    sounds = {title: read(track_of(folder, title)) for title in TITLES}
    picture = folder / f"{result.stem} spectrograms.png"
    panels = {title: sound.samples for title, sound in sounds.items()}
    write_bytes(picture, png(side_by_side(panels, sounds[TITLES[0]].sample_rate)))
    return str(picture)


@gpu(duration=60)
def _steering(source: Source, heard: Heard, ask: Ask) -> Iterator[Stage | Steered]:
    bundle, space = session.loaded(source)
    yield from steering(bundle, heard.sound(), ask.edit, space=space)


@plainly
def load_settings(source: Source, file: str | None):
    """Set every control of the tab from a JSON file that its Settings button saved."""
    if file is None:
        raise ParameterError("no file arrived; choose a JSON file that the Settings button saved")
    ask = from_json(file)
    bundle, _ = session.loaded(source)
    names = list(bundle.properties[ask.push].names) if ask.push in bundle.properties else []
    return tuple(ask._replace(target=gr.update(choices=names, value=ask.target)))


@plainly
def bounds_of(source: Source):
    """Say how far the bundle can move pitch, loudness and brightness, and which notes it knows."""
    bundle, _ = session.loaded(source)
    return tuple(gr.update(**bounds) for bounds in bounds_in(bundle).values())


def bounds_in(bundle: Bundle) -> dict[str, dict]:
    """Return the values and limits of the controls in ``BOUNDED``, at rest, as their components take them."""
    pitch = {"interactive": "pitch" in bundle.controls}
    return {
        "semitones": {"minimum": -MOST_SEMITONES, "maximum": MOST_SEMITONES, "value": 0, **pitch},
        "note": {"choices": [AS_PLAYED, *notes_of(bundle)], "value": AS_PLAYED, **pitch},
        "loudness": _axis_slider(bundle, "loudness", 0.5, MOST_DB),
        "brightness": _axis_slider(bundle, "brightness", 0.05, MOST_OCTAVES),
    }


@plainly
def able_of(source: Source):
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


def notes_of(bundle: Bundle) -> list[str]:
    """Return the notes that a bundle can move to: those that training heard."""
    if "pitch" not in bundle.controls:
        return []
    known = known_notes(bundle.controls["pitch"])
    return [name for name, there in zip(bundle.properties["pitch"].names, known.tolist(), strict=True) if there]


@plainly
def classes_of(source: Source, push: str, target: str):
    """List the classes that a property can be pushed towards."""
    bundle, _ = session.loaded(source)
    names = list(bundle.properties[push].names) if push in bundle.properties else []
    return gr.update(choices=names, value=target if target in names else next(iter(names[len(names) // 2 :]), ""))


@plainly
def name_of(source: Source, feature: int | None):
    """Show the name of the feature beside its number."""
    bundle, _ = session.loaded(source)
    if feature is None or not 0 <= feature < bundle.atlas.d_sae:
        return gr.update(info=f"a number from 0 to {bundle.atlas.d_sae - 1}")
    return gr.update(info=bundle.atlas.names[int(feature)].text)


def title_of(heard: Heard) -> str:
    """Name the sound that will be steered."""
    return f"## {heard.name}"


def _axis_slider(bundle: Bundle, name: str, step: float, most: float) -> dict:
    """A slider as wide as the axis was calibrated, in whole steps."""
    if name not in bundle.controls:
        return {"minimum": -most, "maximum": most, "value": 0, "interactive": False}
    low, high = bundle.controls[name].range
    ends = (-min(most, math.floor(-low / step + 1e-6) * step), min(most, math.floor(high / step + 1e-6) * step))
    return {"minimum": round(ends[0], 4), "maximum": round(ends[1], 4), "value": 0, "interactive": True}


def _run_folder(request: gr.Request) -> Path:
    """A new folder for one result; all but the visitor's last ones are deleted."""
    above = session.folder(request) / "steer"
    above.mkdir(exist_ok=True)
    runs = sorted(above.iterdir(), key=lambda run: run.stat().st_mtime)
    for old in runs[: len(runs) - RUNS_KEPT + 1]:
        shutil.rmtree(old, ignore_errors=True)
    run = above / uuid.uuid4().hex[:12]
    run.mkdir()
    return run


def _files(folder: Path, bundle: Bundle, done: Steered, sound: Sound, ask: Ask, source: Source, heard: Heard) -> dict[str, Path]:
    """Write all exports but the picture, which takes as long as a decode and is drawn when it is wanted."""
    stem = _stem(heard)
    files = {key: folder / f"{stem} steered {bits} bit.wav" for key, bits in (("wav16", 16), ("wav24", 24))}
    for bits, path in zip((16, 24), files.values(), strict=True):
        write(path, sound.samples, sound.sample_rate, bits=bits)
    files["csv"] = folder / f"{stem} curves.csv"
    write_bytes(files["csv"], curves(done, bundle.spec.frame_rate).encode())
    files["json"] = folder / f"{stem} settings.json"
    about = {"sound": heard.name, "bundle": source.name, "revision": source.revision}
    write_bytes(files["json"], to_json(ask, about).encode())
    if controls := ask.controls(bundle):
        files["controls"] = folder / f"{stem} control vectors.safetensors"
        save_controls(files["controls"], bundle, controls)
    return files


def within_full_scale(original: Sound, reconstruction: Sound, steered: Sound) -> tuple[Sound, Sound, Sound]:
    """Return sounds that do not clip: lowered together as far as the first two need it, the steered one further if it must be."""
    common = full_scale_gain(original, reconstruction)
    original, reconstruction, steered = (lowered(sound, common) for sound in (original, reconstruction, steered))
    return original, reconstruction, lowered(steered, full_scale_gain(steered))


def _stem(heard: Heard) -> str:
    """The sound's name as part of a file name."""
    kept = "".join(letter if letter.isalnum() or letter in " -" else " " for letter in heard.name)
    return " ".join(kept.split())[:60] or "sound"
