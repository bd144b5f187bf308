"""What the tab Generate & watch can generate with, and how it is run: étude-flow on the CPU, DiffRhythm where it can be had.

DiffRhythm is offered where ``DIFFRHYTHM`` names its folder or Hub id, and there is a GPU or ``DIFFRHYTHM_DEVICE`` is ``cpu``.
It is read with the page's bundle, which has to be one of ``diffrhythm-vae``. Its style is one of the vectors in the folder
``DIFFRHYTHM_STYLES``, by name, or else words, for which the package muq has to be installed.
"""

from __future__ import annotations

import functools
import os
import queue
import threading
from collections.abc import Generator
from pathlib import Path

import torch
from torch import Tensor

from sae_audio.bundle import Bundle, is_hub_id
from sae_audio.errors import ParameterError
from sae_audio.flow_steering import check_window
from sae_audio.generation import Request, trace
from sae_audio.generators import ETUDE_FLOW, Model, check_fits, frames_of, load_model
from sae_audio.latent_spaces import CHECKPOINTS, Codec
from sae_audio.recording import Point
from sae_audio.traces import Trace
from ui import session
from ui.gpu import gpu

DIFFRHYTHM = os.environ.get("DIFFRHYTHM")
"""Folder or Hub id of a DiffRhythm checkpoint."""
DEVICE = os.environ.get("DIFFRHYTHM_DEVICE", "cuda")
"""Where DiffRhythm runs."""
STYLES = os.environ.get("DIFFRHYTHM_STYLES")
"""Folder of DiffRhythm's styles: unit vectors ``NAME.npy``, and ``null.npy``, which guidance leads away from."""
NULL_STYLE = "null"
NULL_WORDS = "vocal"
"""What guidance leads away from where styles are words."""
SECONDS = (1.0, 10.0)
DIFFRHYTHM_SECONDS = 30.0
STEPS = (4, 64)
GUIDANCE = (0.0, 6.0)
SEEDS = 2**31 - 1
MAX_NOTES = 600
"""Characters of notes."""
LISTENED = (0.25, 0.5, 0.75)
"""Flow times at which x̂₁ is decoded and measured on the way, besides the result."""


class Stopped(Exception):
    """Nobody wants the rest of a generation."""


def diffrhythm_is_here() -> bool:
    """Return whether DiffRhythm is offered: a checkpoint is named, and there is what it is to run on."""
    return bool(DIFFRHYTHM) and (DEVICE == "cpu" or torch.cuda.is_available() or "SPACES_ZERO_GPU" in os.environ)


@functools.cache
def generator(name: str) -> Model:
    """Return a generator, loaded once for all visitors."""
    if name == ETUDE_FLOW:
        return load_model(ETUDE_FLOW)
    return load_model(DIFFRHYTHM, device=DEVICE)


def said_of(name: str) -> str:
    """Return what visitors read of a generator's name: of a folder on this server only the last part."""
    return name if is_hub_id(name) else Path(name).name


def diffrhythm_styles() -> dict[str, Path]:
    """Return the files of DiffRhythm's styles, by name; none where styles are words."""
    files = sorted(Path(STYLES).expanduser().glob("*.npy")) if STYLES else []
    return {path.stem: path for path in files if path.stem != NULL_STYLE}


def reading(source: session.BundleSource, model: Model) -> tuple[session.BundleSource, session.Loaded]:
    """Return the bundle that reads a generator's latents: the page's, or the shipped one where that is of another space.

    Raises
    ------
    ParameterError
        DiffRhythm was asked for, and the page's bundle is not of its latents.
    """
    found = session.loaded(source)
    try:
        check_fits(model, found.bundle.spec)
    except ParameterError:
        if model.name != ETUDE_FLOW:
            raise
        source = session.BundleSource(str(CHECKPOINTS / "etude"))
        found = session.loaded(source)
    return source, found


def request_of(asked: dict, model: Model) -> Request:
    """Return the request for what a visitor asked.

    Parameters
    ----------
    asked : dict
        ``style``, ``notes``, ``seconds``, ``steps``, ``guidance``, ``seed``; of a steered run also ``moves`` and ``window``.
    model : Model
        From ``generator``.

    Raises
    ------
    ParameterError
        Something is out of range or cannot be read.
    """
    longest = min(SECONDS[1] if model.name == ETUDE_FLOW else DIFFRHYTHM_SECONDS, model.longest)
    _inside("length", asked["seconds"], SECONDS[0], longest, "s")
    _inside("number of steps", asked["steps"], *STEPS)
    _inside("guidance", asked["guidance"], *GUIDANCE)
    _inside("seed", asked["seed"], 0, SEEDS)
    style, text, null = _conditions(asked, model)
    return Request(
        style,
        seconds=float(asked["seconds"]),
        text=text,
        null_style=null,
        steps=int(asked["steps"]),
        guidance=float(asked["guidance"]),
        seed=int(asked["seed"]),
        moves=asked.get("moves", {}),
        window=check_window(tuple(asked.get("window", (0.0, 1.0)))),
    )


def points(model: Model, found: session.Loaded, request: Request, along: Tensor | None = None) -> Generator[Point | Trace]:
    """Yield every point of a generation as it comes, then the trace; closing the iterator stops the work at the next step.

    Parameters
    ----------
    model : Model
        From ``generator``.
    found : Loaded
        Bundle and latent space.
    request : Request
        What to make.
    along : Tensor [1, T, d_in], optional
        Walk to these latents instead: the control.
    """
    run = _points if model.name == ETUDE_FLOW else _points_on_gpu
    return run(model, found.bundle, found.space, request, along)


def _points(model: Model, bundle: Bundle, space: Codec, request: Request, along: Tensor | None) -> Generator[Point | Trace]:
    came: queue.SimpleQueue = queue.SimpleQueue()
    stop = threading.Event()
    listen = sorted({round(t * (request.steps - 1)) for t in LISTENED}) if along is None else ()

    def tell(point: Point) -> None:
        if stop.is_set():
            raise Stopped
        came.put(point)

    def work() -> None:
        try:
            record = ("x_t", "x1") if along is None else ()
            came.put(trace(bundle, request, model=model, space=space, record=record, listen=listen, along=along, on_point=tell))
        except Stopped:
            pass
        except Exception as error:
            came.put(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        while True:
            got = came.get()
            if isinstance(got, Exception):
                raise got
            yield got
            if isinstance(got, Trace):
                return
    finally:
        stop.set()


_points_on_gpu = gpu(duration=120)(_points)


def _conditions(asked: dict, model: Model) -> tuple[str | Tensor, Tensor | None, Tensor | None]:
    """Return style, notes and null style. What a visitor writes never reaches ``resolve_style``, which would open files."""
    if model.name == ETUDE_FLOW:
        from sae_audio.etude.notes import notes_row

        notes = (asked["notes"] or "").strip()
        if asked["style"] not in model.generator.style_names:
            raise ParameterError(f"style '{asked['style']}' is unknown; choose one of the list")
        if len(notes) > MAX_NOTES:
            raise ParameterError(f"the notes have {len(notes)} characters; write at most {MAX_NOTES}")
        frames = frames_of(model, asked["seconds"])
        return asked["style"], notes_row(notes, frames, model.generator) if notes else None, None
    return _of_diffrhythm(asked["style"], model)


def _of_diffrhythm(style: str, model: Model) -> tuple[Tensor, None, Tensor]:
    from sae_audio.diffrhythm.style import read_style, style_of_text

    if known := diffrhythm_styles():
        if style not in known:
            raise ParameterError(f"style '{style}' is unknown; choose one of the list")
        size = model.generator.dit.config.style_dim
        return read_style(known[style], size), None, read_style(known[style].with_stem(NULL_STYLE), size)
    device = model.generator.latent_mean.device
    return style_of_text(style, device).cpu(), None, style_of_text(NULL_WORDS, device).cpu()


def _inside(what: str, value: float | None, low: float, high: float, unit: str = "") -> None:
    if value is None or not low <= value <= high:
        raise ParameterError(
            f"the {what} is {'not given' if value is None else f'{value:g}'}; it has to be {low:g} to {high:g} {unit}".strip()
        )
