"""What a command line asks of a generator: the model, the request, and the codec that makes it sound."""

from __future__ import annotations

import argparse
import warnings
from typing import TYPE_CHECKING

from sae_audio.errors import ParameterError

if TYPE_CHECKING:
    import torch

    from sae_audio.bundle import Bundle
    from sae_audio.generation import Request
    from sae_audio.generators import Model
    from sae_audio.latent_spaces import Codec


def model_of(arguments: argparse.Namespace) -> Model:
    """Load the generator that --model names."""
    from sae_audio.generators import load_model

    options = {"revision": arguments.model_revision, "release": arguments.release}
    return load_model(arguments.model, device=arguments.device, dtype=arguments.dtype, **options)


def request_of(model: Model, arguments: argparse.Namespace) -> Request:
    """Return what is asked of the generator, checked before a codec is fetched."""
    from sae_audio.cli_moves import parse_features, parse_moves, parse_window
    from sae_audio.diffrhythm.sampler import time_grid
    from sae_audio.diffrhythm.style import resolve_style
    from sae_audio.flow_steering import WHOLE
    from sae_audio.generation import Request

    names = model.generator.style_names
    if arguments.style is None and not names:
        raise ParameterError(f"'{model.name}' has no styles of its own; give --style: a .npy vector, words or a clip")
    styles = (arguments.style or names[0], arguments.null_style)
    moves, features = parse_moves(arguments.steer), parse_features(arguments.feature)
    style = resolve_style(styles[0], model.generator)
    null = None if styles[1] is None else resolve_style(styles[1], model.generator)
    if null is None and not names and arguments.cfg != 0:
        raise ParameterError(
            f"'{model.name}' has no null style of its own; give --null-style (DiffRhythm's is infer/example/vocal.npy of its "
            "repository), or --cfg 0 for no guidance"
        )
    time_grid(arguments.steps)  # refuses too few of them before a codec is fetched
    window = parse_window(arguments.window)
    if (window, arguments.start, arguments.stop) != (WHOLE, 0.0, None) and not (moves or features):
        raise ParameterError("--window, --from and --to say where to steer, but nothing is steered; give --steer or --feature")
    seconds = _seconds(model, arguments.seconds)
    return Request(
        style,
        style_name=styles[0],
        seconds=seconds,
        text=_text(model, seconds, arguments),
        null_style=null,
        steps=arguments.steps,
        guidance=arguments.cfg,
        seed=arguments.seed,
        moves=moves,
        features=features,
        window=window,
        start=arguments.start,
        stop=arguments.stop,
    )


def _seconds(model: Model, asked: float | None) -> float:
    """Return the length to make; warn where the model has only ever made its longest song."""
    from sae_audio.generators import frames_of

    config = model.generator.dit.config
    if asked is None:
        return min(5.0, model.longest) if model.generator.style_names else model.longest
    if frames_of(model, asked) < config.max_frames and not (model.generator.style_names or config.duration):
        known = f"'{model.name}' knows songs of {model.longest:.2f} s only"
        warnings.warn(f"{known}; {asked:g} s may sound worse: leave --seconds out", stacklevel=2)
    return asked


def _text(model: Model, seconds: float, arguments: argparse.Namespace) -> torch.Tensor | None:
    from sae_audio.diffrhythm.lyrics import lyrics_row
    from sae_audio.etude.notes import notes_row
    from sae_audio.generators import frames_of

    if arguments.notes and arguments.lyrics:
        raise ParameterError("--notes and --lyrics were both given; étude-flow plays notes, DiffRhythm sings lyrics")
    frames = frames_of(model, seconds)
    if arguments.notes:
        return notes_row(arguments.notes, frames, model.generator)
    if arguments.lyrics:
        return lyrics_row(arguments.lyrics, frames, model.generator, checkpoint=model.path)
    return None


def bundle_of(arguments: argparse.Namespace) -> Bundle:
    """Load the bundle that --bundle names."""
    from sae_audio.bundle import Bundle

    return Bundle.from_pretrained(arguments.bundle, revision=arguments.revision)


def codec_for(model: Model, bundle: Bundle | None, arguments: argparse.Namespace) -> Codec:
    """Return what decodes: the bundle's space, or without a bundle the model's."""
    from sae_audio.bundle_space import as_codec, space_of
    from sae_audio.generators import check_fits
    from sae_audio.latent_spaces import load_latent_space

    options = {"source": arguments.source, "revision": arguments.source_revision, "device": arguments.device}
    options |= {"dtype": arguments.dtype, "trust_remote_code": arguments.trust_remote_code}
    if bundle is None:
        return as_codec(load_latent_space(model.space, **options))
    check_fits(model, bundle.spec)
    return as_codec(space_of(bundle, **options))
