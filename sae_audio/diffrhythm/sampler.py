"""From noise to latents: Euler steps along a learned velocity, with guidance, editing and a hook at every step.

Flow matching (arXiv 2210.02747): x_t = (1 − t)·x₀ + t·x₁ with noise x₀ at t = 0 and latents x₁ at t = 1, velocity v = x₁ − x₀.
Along the way the network's idea of the result is x̂₁ = x_t + (1 − t)·v. Guidance (arXiv 2207.12598) is v_c + s·(v_c − v_n), where
v_n is the velocity without known latents, without text and with the *null style*; DiffRhythm's is the embedding of the prompt
"vocal", not a vector of zeros.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from sae_audio.denoising import clean_estimate
from sae_audio.diffrhythm.dit import Context
from sae_audio.errors import ParameterError

NO_GUIDANCE = 1e-5
"""Guidance weaker than this is skipped, and with it half of the work."""
NORM_TOLERANCE = 0.01
"""How far the norm of a style vector may be from 1."""
MOST_STEPS = 10_000
"""Points in time that can be asked for, so that a slip of the finger is not a day's work."""


class VelocityModel(Protocol):
    """What ``sample`` asks of a model; ``Generator`` in ``generator.py`` is one."""

    mel_dim: int
    guidance: float

    @property
    def null_style(self) -> Tensor | None:
        """Unit vectors of the null branch; None where the caller has to bring them."""

    def noise(self, frames: int, generator: torch.Generator | None) -> Tensor:
        """Return a start ``[frames, mel_dim]``."""

    def context(
        self, known: Tensor, mask: Tensor, text: Tensor, style: Tensor, start: Tensor, duration: Tensor | None
    ) -> Context:
        """Embed the conditions of a batch; ``known [B, T, mel_dim]`` counts where ``mask [B, T]`` is true."""

    def __call__(self, x: Tensor, t: Tensor, context: Context, /) -> Tensor:
        """Return the velocity ``[B, T, mel_dim]`` at ``x [B, T, mel_dim]``, ``t [B]``."""


class Step(NamedTuple):
    """One point on the way, before the update that leaves it. All tensors are ``[B, T, mel_dim]``."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs
    """0 to steps − 2."""
    t: float
    """Flow time, from 0 (noise) towards 1 (latents)."""
    x_t: Tensor
    """Where the flow is."""
    v: Tensor
    """Velocity after guidance."""
    x1: Tensor
    """x̂₁: where that velocity would end."""
    v_cond: Tensor
    """Velocity under the conditions."""
    v_null: Tensor | None
    """Velocity of the null branch; None without guidance."""


Hook = Callable[[Step], "Step | None"]


def time_grid(steps: int, sway: float | None = None) -> Tensor:
    """Return the points in time ``[steps]``, from 0 to 1.

    Parameters
    ----------
    steps : int
        Points, at least 2; one more than updates.
    sway : float, optional
        Bend the grid by ``t + sway · (cos(π·t/2) − 1 + t)`` (arXiv 2410.06885); negative values look longer at noise.

    Raises
    ------
    ParameterError
        Fewer than 2 points or too many, or a sway that makes time run backwards.

    Examples
    --------
    >>> time_grid(5)
    tensor([0.0000, 0.2500, 0.5000, 0.7500, 1.0000])
    """
    if not 2 <= steps <= MOST_STEPS:
        raise ParameterError(
            f"steps is {steps}; sampling needs at least 2 points in time, which is one update, and at most {MOST_STEPS}"
        )
    t = torch.linspace(0, 1, steps)
    if sway is not None:
        t = t + sway * (torch.cos(math.pi / 2 * t) - 1 + t)
        if not bool((t.diff() > 0).all()):
            raise ParameterError(f"sway {sway} makes time run backwards; use a value between -1 and 1.7")
    return t


@torch.no_grad()
def sample(
    model: VelocityModel,
    style: Tensor,
    *,
    frames: int,
    null_style: Tensor | None = None,
    text: Tensor | None = None,
    steps: int = 32,
    guidance: float | None = None,
    seed: int | Sequence[int] | None = None,
    noise: Tensor | None = None,
    sway: float | None = None,
    reference: Tensor | None = None,
    segments: Sequence[Sequence[tuple[int, int]]] | None = None,
    start: float = 0.0,
    duration: float | None = None,
    hook: Hook | None = None,
) -> Tensor:
    """Generate latents of one song or several.

    Parameters
    ----------
    model : VelocityModel
        For example what ``load_generator`` returns.
    style : Tensor [B, style_dim]
        Unit vectors, one per song.
    frames : int
        Length of each song, in latent frames.
    null_style : Tensor [1, style_dim] or [B, style_dim], optional
        Unit vectors of the null branch; by default the model's own. Public checkpoints have none and need it, unless ``guidance``
        is 0.
    text : Tensor [B, frames], optional
        int64 token of each frame; by default 0, no text.
    steps : int
        Points in time, at least 2; 32 points are 31 updates.
    guidance : float, optional
        Weight s above, at least 0; 0 halves the work. By default the model's own: 4 for public checkpoints.
    seed : int or sequence of int, optional
        One seed per song, or the first song's, each further song taking the next number. A song depends on its own seed and
        conditions only, not on its batch. Without, the noise is new each time.
    noise : Tensor [B, frames, mel_dim], optional
        Start from this instead of from a seed.
    sway : float, optional
        See ``time_grid``.
    reference : Tensor [B, frames, mel_dim], optional
        Latents to edit.
    segments : sequence of sequences of (int, int), optional
        For each song the frames [first, stop) to make anew; all others are ``reference``'s, which the model hears.
    start : float
        Where in the song the first frame is, as a share in [0, 1].
    duration : float, optional
        Length of the song over the model's longest; by default that of ``frames``. Models of v1.2's 285 s only.
    hook : callable, optional
        Called with a ``Step`` at every point but the last. It may return ``step._replace(x1=...)`` to steer towards another end
        (then v = (x̂₁ − x_t)/(1 − t)), ``step._replace(v=...)``, ``step._replace(x_t=...)``, or None to leave all as it is.

    Returns
    -------
    Tensor [B, frames, mel_dim]
        Latents.

    Raises
    ------
    ParameterError
        A size, a norm or a range is off; the message names it.

    Examples
    --------
    >>> from sae_audio.diffrhythm.generator import Generator
    >>> from sae_audio.diffrhythm.dit import DiT, DiTConfig
    >>> model = Generator(DiT(DiTConfig(dim=64, depth=2, heads=2, conv_layers=1)))
    >>> style = torch.nn.functional.normalize(torch.ones(2, 512), dim=-1)
    >>> sample(model, style, frames=50, null_style=-style, steps=4, seed=0).shape
    torch.Size([2, 50, 64])
    """
    times = time_grid(steps, sway).tolist()
    songs, device = len(style), style.device
    guidance = model.guidance if guidance is None else guidance
    null_style = model.null_style if null_style is None else null_style
    guided = _check_guidance(guidance, null_style)
    _check_unit("style", style)
    x = _start(model, songs, frames, seed, noise).to(device)
    known, mask = _known(x, reference, segments)
    text = torch.zeros(songs, frames, dtype=torch.long, device=device) if text is None else text
    begins = torch.full((songs,), float(start), device=device)
    share = None if duration is None else torch.full((songs,), float(duration), device=device)
    context = model.context(known, mask, text, style, begins, share)
    if guided and null_style is not None:
        _check_unit("null_style", null_style)
        nowhere, silence = torch.zeros_like(mask), torch.zeros_like(text)
        null = model.context(known, nowhere, silence, null_style.expand(songs, -1), begins, share)
        context = Context(*(torch.cat(pair) for pair in zip(context, null, strict=True)))
    for index, (t, after) in enumerate(pairwise(times)):
        step = _look(model, index, t, x, context, guidance if guided else 0.0)
        if hook is not None:
            step = _edited(step, hook(step))
        x = step.x_t + (after - t) * step.v
    return x if reference is None else torch.where(mask[..., None], known, x)


def _look(model: VelocityModel, index: int, t: float, x: Tensor, context: Context, guidance: float) -> Step:
    """Ask the model for the velocity at one point; both branches go through it as one batch."""
    both = x if guidance == 0 else torch.cat([x, x])
    velocities = model(both, torch.full((len(both),), t, device=x.device), context)
    v_cond, v_null = (velocities, None) if guidance == 0 else velocities.chunk(2)
    v = v_cond if v_null is None else v_cond + guidance * (v_cond - v_null)
    return Step(index, t, x, v, clean_estimate(x, v, t), v_cond, v_null)


def _edited(step: Step, edit: Step | None) -> Step:
    """Apply what a hook returned; a new x̂₁ decides the velocity."""
    if edit is None or edit.x1 is step.x1:
        return step if edit is None else edit
    return edit._replace(v=(edit.x1 - edit.x_t) / (1 - step.t))


def _start(model: VelocityModel, songs: int, frames: int, seed: int | Sequence[int] | None, noise: Tensor | None) -> Tensor:
    if frames < 1:
        raise ParameterError(f"frames is {frames}; a song has at least 1")
    if noise is not None:
        if seed is not None:
            raise ParameterError("seed and noise were both given; the noise is drawn from the seed, so give one of them")
        return _check_latents("noise", noise, (songs, frames, model.mel_dim))
    if seed is None:
        return torch.stack([model.noise(frames, None) for _ in range(songs)])
    seeds = [seed + i for i in range(songs)] if isinstance(seed, int) else list(seed)
    if len(seeds) != songs:
        raise ParameterError(f"{len(seeds)} seeds were given for {songs} songs; give one seed, or one per song")
    return torch.stack([model.noise(frames, torch.Generator().manual_seed(s)) for s in seeds])


def _known(x: Tensor, reference: Tensor | None, segments: Sequence[Sequence[tuple[int, int]]] | None) -> tuple[Tensor, Tensor]:
    """Return the reference and a mask ``[B, T]`` of the frames that are kept of it."""
    mask = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
    if reference is None and segments is None:
        return torch.zeros_like(x), mask
    if reference is None or segments is None:
        raise ParameterError("editing needs both reference and segments; only one was given")
    _check_latents("reference", reference, x.shape)
    if len(segments) != len(x):
        raise ParameterError(f"segments are given for {len(segments)} songs, but there are {len(x)}")
    for song, spans in enumerate(segments):
        mask[song] = True
        for first, stop in spans:
            if not 0 <= first < stop <= x.shape[1]:
                raise ParameterError(f"segment [{first}, {stop}) of song {song} is empty or not within [0, {x.shape[1]})")
            mask[song, first:stop] = False
    return reference.to(x.device, x.dtype), mask


def _check_latents(name: str, latents: Tensor, expected: Sequence[int]) -> Tensor:
    if tuple(latents.shape) != tuple(expected):
        raise ParameterError(f"{name} has shape {list(latents.shape)}; it must be {list(expected)} (songs, frames, channels)")
    return latents


def _check_guidance(guidance: float, null_style: Tensor | None) -> bool:
    if not 0 <= guidance < math.inf:
        raise ParameterError(f"guidance is {guidance}; it must be a finite number of at least 0")
    if guidance >= NO_GUIDANCE and null_style is None:
        raise ParameterError(f"guidance {guidance} needs null_style, the style of the null branch; or set guidance to 0")
    return guidance >= NO_GUIDANCE


def _check_unit(name: str, style: Tensor) -> None:
    if style.ndim != 2:
        raise ParameterError(f"{name} has shape {list(style.shape)}; it must be [songs, style_dim]")
    norms = style.float().norm(dim=1)
    off = (norms - 1).abs().argmax()
    if not bool((norms - 1).abs().max() <= NORM_TOLERANCE):
        raise ParameterError(f"{name} of song {int(off)} has norm {float(norms[off]):.4g}; it must be 1: divide it by its norm")
