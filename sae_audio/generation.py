"""Generate music, and watch it being generated: the few lines that users copy.

    from sae_audio import Bundle, Request, generate, trace
    song = generate(Request("grand piano", seconds=5, seed=1))
    found = trace(Bundle.from_pretrained("checkpoints/etude"), Request("grand piano", seconds=5, seed=1))

``trace`` reads the probes at every step, on where the flow is and on where the network believes it will end, and hands each step
on as it comes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from sae_audio.bundle import Bundle
from sae_audio.bundle_space import as_codec, space_of
from sae_audio.closed_loop import hold_of, steer_rounds
from sae_audio.diffrhythm.sampler import Hook, Step, sample, time_grid
from sae_audio.errors import ParameterError
from sae_audio.flow_steering import WHOLE, Window, steering_hook
from sae_audio.generators import Model, check_fits, frames_of, load_model, styles_of
from sae_audio.latent_spaces import Codec, load_latent_space
from sae_audio.listener import listener
from sae_audio.moves import Target, amount, span_mask
from sae_audio.recording import Point, ProbeReader, Recorder
from sae_audio.traces import SIGNALS, Trace


@dataclass(frozen=True)
class Request:
    """What is asked of a generator.

    Examples
    --------
    >>> request = Request("grand piano", seconds=2, seed=1, moves={"loudness": -6})
    >>> request.steered, request.facts()["steering"]["window"]
    (True, [0.0, 1.0])
    """

    style: str | Sequence[str] | Tensor
    """A name, file or description that ``resolve_style`` knows, one or several; or unit vectors ``[B, style_dim]``."""
    seconds: float | None = 5.0
    """Length of each song; None is the longest that the model makes, the only length that most DiffRhythm releases know."""
    text: Tensor | None = None
    """int64 token of each frame, ``[T]`` or ``[B, T]``, from ``notes_row`` or ``lyrics_row``; none by default."""
    null_style: Tensor | None = None
    """Unit vectors ``[1, style_dim]`` of the null branch, by default the model's own; public DiffRhythm checkpoints have none."""
    steps: int = 32
    """Points in time, at least 2; 32 points are 31 updates."""
    guidance: float | None = None
    """Weight of guidance, at least 0; by default the model's own."""
    seed: int | Sequence[int] | None = 0
    """One per song, or the first song's; one style with several seeds makes as many songs. None draws anew each time."""
    moves: Mapping[str, Target] = field(default_factory=dict)
    """Steering on the way: ``loudness`` dB, ``brightness`` octaves, ``pitch`` a note or semitones; see ``steering_hook``."""
    features: Mapping[int, float] = field(default_factory=dict)
    """Feature number to strength: that multiple of its typical activation is added on the way."""
    window: Window = WHOLE
    """Flow times between which to steer."""
    start: float = 0.0
    """First second of the song that is steered."""
    stop: float | None = None
    """Where in the song steering ends, in seconds; None is the song's end."""
    style_name: str | None = None
    """What ``facts`` call the style, where it is given as vectors."""

    @property
    def steered(self) -> bool:
        """Whether anything is to be moved."""
        return bool(self.moves or self.features)

    def facts(self) -> dict:
        """Return the request as JSON-ready values; vectors without a name are only counted."""
        vectors = isinstance(self.style, Tensor)
        style = self.style if isinstance(self.style, str) else f"{len(self.style)} vectors" if vectors else list(self.style)
        moved = {"moves": dict(self.moves), "features": dict(self.features), "window": list(self.window)}
        steering = {**moved, "start": self.start, "stop": self.stop} if self.steered else None
        text = self.text is not None and bool((self.text > 0).any())
        seed = self.seed if self.seed is None or isinstance(self.seed, int) else list(self.seed)
        sampler = {"steps": self.steps, "guidance": self.guidance, "seed": seed}
        return {"style": self.style_name or style, "seconds": self.seconds, "has_text": text, "steering": steering, **sampler}


class Song(NamedTuple):
    """Generated songs."""

    latents: Tensor
    """[B, T, d_in]."""
    audio: Tensor
    """[B, channels, N]."""
    sample_rate: int
    """Hz."""
    unsteered: Tensor | None
    """[B, T, d_in] the same songs without steering, which come with it; None where nothing was steered."""


def generate(
    request: Request,
    *,
    model: Model | None = None,
    bundle: Bundle | None = None,
    space: Codec | None = None,
    hold: bool = True,
    on_step: Callable[[Step], None] | None = None,
) -> Song:
    """Generate songs.

    Parameters
    ----------
    request : Request
        Style, length, seed, steering.
    model : Model, optional
        From ``load_model``; étude-flow by default.
    bundle : Bundle, optional
        Whose controls steer; needed where the request has moves.
    space : Codec, optional
        What decodes, if it is loaded already.
    hold : bool
        Listen to songs whose ``moves`` were steered and correct loudness and brightness to what was asked of the unsteered song,
        as ``steer`` does: a flow goes on after the window, and songs differ in their answer to a strength. Costs four decodes.
    on_step : callable, optional
        Called with the sampler's ``Step`` (as steered) at every point but the last.

    Returns
    -------
    Song

    Raises
    ------
    ParameterError
        Something of the request is unknown or out of range, or model, bundle and space do not belong together.
    LatentSpaceError
        Model or codec cannot be loaded.

    Examples
    --------
    >>> song = generate(Request("grand piano", seconds=1, steps=8, seed=1))
    >>> song.audio.shape, song.sample_rate
    (torch.Size([1, 1, 16000]), 16000)
    """
    model = model or load_model()
    codec = _codec(model, bundle, space)
    latents, unsteered = _sample(model, request, bundle, on_step)
    if hold and request.moves and bundle is not None and unsteered is not None:
        latents, audio = _held(latents, unsteered, request, bundle, codec)
    else:
        audio = codec.decode(latents).cpu()
    return Song(latents, audio, codec.spec.sample_rate, unsteered)


def trace(
    bundle: Bundle,
    request: Request,
    *,
    model: Model | None = None,
    space: Codec | None = None,
    record: Collection[str] = ("x_t", "x1"),
    probe: Collection[str] = ("x_t", "x1"),
    listen: Collection[int] | None = (),
    half: bool = False,
    along: Tensor | None = None,
    on_point: Callable[[Point], None] | None = None,
) -> Trace:
    """Generate songs, and record what the probes read at every point; a steered song ends as the flow leaves it (no ``hold``).

    Parameters
    ----------
    bundle : Bundle
        SAE, probes and control vectors of the latent space that the model makes latents of.
    request : Request
        Style, length, seed, steering.
    model : Model, optional
        From ``load_model``; étude-flow by default.
    space : Codec, optional
        What decodes, if it is loaded already.
    record : collection of str
        Latents to keep: ``x_t``, ``x1`` (x̂₁), ``v`` (guided velocity), ``v_null`` (null branch).
    probe : collection of str
        Where SAE and probes are applied, of ``x_t`` and ``x1``; nowhere if empty.
    listen : collection of int, optional
        Points whose x̂₁ is decoded and measured; the result always is. None: nothing is decoded, not even the result.
    half : bool
        Keep float16.
    along : Tensor [B, T, d_in], optional
        The control: latents of real sound to walk to in a straight line, whatever the network says. x_t is then the sound
        noised to t, and x̂₁ what the network makes of it.
    on_point : callable, optional
        Called with each ``Point`` as soon as it is there; what it raises stops the generation.

    Returns
    -------
    Trace
        With ``facts["curves"]``.

    Raises
    ------
    ParameterError
        As for ``generate``; or an unknown signal, or a point that is not there.

    Examples
    --------
    >>> bundle = Bundle.from_pretrained("checkpoints/etude")
    >>> found = trace(bundle, Request("grand piano", seconds=1, steps=8, seed=1))
    >>> found.posteriors["pitch/acts/x1"].shape  # points, songs, frames, classes
    torch.Size([8, 1, 50, 66])
    """
    model = model or load_model()
    check_fits(model, bundle.spec)
    _check_recording(record, probe, listen, request.steps)
    measure = None if listen is None else listener(_codec(model, bundle, space), mel_bands=0)
    recorder = Recorder(ProbeReader(bundle), measure, set(listen or ()), record, probe, half, on_point, request.steps)
    final, _ = _sample(model, request, bundle, recorder.step, along)
    facts = {"model": model.name, "space": bundle.spec.name, **request.facts()}
    facts |= {"guidance": model.generator.guidance if request.guidance is None else request.guidance}
    return recorder.finish(final, time_grid(request.steps), facts).with_curves(bundle.properties)


def _held(latents: Tensor, unsteered: Tensor, request: Request, bundle: Bundle, space: Codec) -> tuple[Tensor, Tensor]:
    """Return finished latents and their sound with loudness and brightness corrected to what was asked of the unsteered ones."""
    measure, closed = listener(space, mel_bands=0), hold_of(bundle.controls, space.spec.frame_rate)
    wanted = amount(request.moves, "loudness"), amount(request.moves, "brightness")
    mask = span_mask(latents.shape[1], space.spec.frame_rate, request.start, request.stop)
    *_, done = steer_rounds(latents, bundle.sae, [], measure, before=measure(unsteered), wanted=wanted, mask=mask, hold=closed)
    return done.latents, done.heard.audio


def _sample(
    model: Model, request: Request, bundle: Bundle | None, watch: Callable[[Step], None] | None, along: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Return latents ``[B, T, d_in]`` on the CPU, and the unsteered ones; ``watch`` sees every step of the steered songs."""
    generator, times = model.generator, time_grid(request.steps).tolist()
    style, text, noise = _conditions(model, request)
    steer = _steering(model, request, bundle, times)
    if along is not None and (along.shape != noise.shape or steer):
        raise ParameterError(
            f"the latents to walk to have shape {list(along.shape)}; they must be {list(noise.shape)} like the songs asked for, "
            "which cannot be steered"
        )
    if steer:  # each song has an unsteered twin, in the first half of the batch
        style, noise = torch.cat([style, style]), torch.cat([noise, noise])
        text = None if text is None else torch.cat([text, text])

    def hook(step: Step) -> Step | None:
        moved = steer(step) if steer else None
        if watch is not None:
            watch(_second_half(step if moved is None else _resolved(moved)) if steer else step)
        return moved if along is None else step._replace(v=(along - noise).to(step.v))

    device = generator.latent_mean.device
    latents = sample(
        generator,
        style.to(device),
        frames=noise.shape[1],
        null_style=None if request.null_style is None else request.null_style.to(device),
        text=None if text is None else text.to(device),
        steps=request.steps,
        guidance=request.guidance,
        noise=noise,
        hook=hook,
    ).cpu()
    if not steer:
        return latents, None
    unsteered, steered = latents.chunk(2)
    return steered, unsteered


def _resolved(step: Step) -> Step:
    """A steered step with the velocity that its x̂₁ means."""
    return step._replace(v=(step.x1 - step.x_t) / (1 - step.t))


def _second_half(step: Step) -> Step:
    x_t, v, x1, v_cond = (value.chunk(2)[1] for value in (step.x_t, step.v, step.x1, step.v_cond))
    return Step(step.index, step.t, x_t, v, x1, v_cond, None if step.v_null is None else step.v_null.chunk(2)[1])


def _conditions(model: Model, request: Request) -> tuple[Tensor, Tensor | None, Tensor]:
    """Style, text and noise, one row per song."""
    style, frames = styles_of(model.generator, request.style), frames_of(model, request.seconds)
    seeds = _seeds(request.seed, len(style))
    style = style.expand(len(seeds), -1) if len(style) == 1 else style
    if len(seeds) != len(style):
        raise ParameterError(f"{len(seeds)} seeds were given for {len(style)} styles; give one seed, or one per style")
    text = request.text
    if text is not None:
        text = text.expand(len(style), -1) if text.ndim == 1 or len(text) == 1 else text
    return style, text, torch.stack([model.generator.noise(frames, _rng(seed)).cpu() for seed in seeds])


def _seeds(seed: int | Sequence[int] | None, songs: int) -> Sequence[int | None]:
    if seed is None:
        return [None] * songs
    return [seed + i for i in range(songs)] if isinstance(seed, int) else seed


def _steering(model: Model, request: Request, bundle: Bundle | None, times: Sequence[float]) -> Hook | None:
    if not request.steered:
        return None
    if bundle is None:
        names = [*request.moves, *(f"feature {feature}" for feature in request.features)]
        raise ParameterError(f"steering {', '.join(names)} needs a bundle, whose controls know how; give one")
    mask = span_mask(frames_of(model, request.seconds), model.frame_rate, request.start, request.stop)
    return steering_hook(bundle, request.moves, times, request.window, features=request.features, mask=mask)


def _rng(seed: int | None) -> torch.Generator | None:
    return None if seed is None else torch.Generator().manual_seed(seed)


def _codec(model: Model, bundle: Bundle | None, space: Codec | None) -> Codec:
    if bundle is not None:
        check_fits(model, bundle.spec)
    if space is None:
        space = as_codec(load_latent_space(model.space) if bundle is None else space_of(bundle))
    check_fits(model, space.spec)
    return space


def _check_recording(record: Collection[str], probe: Collection[str], listen: Collection[int] | None, steps: int) -> None:
    for name, wanted, known in (("record", record, SIGNALS), ("probe", probe, SIGNALS[:2])):
        if unknown := sorted(set(wanted) - set(known)):
            raise ParameterError(f"{name} names '{unknown[0]}', which is no signal; known are {', '.join(known)}")
    if outside := sorted(point for point in listen or () if not 0 <= point < steps):
        raise ParameterError(f"point {outside[0]} cannot be listened to; with {steps} steps points are 0 to {steps - 1}")
