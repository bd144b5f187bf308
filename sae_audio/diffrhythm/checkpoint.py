"""Checkpoints: the public ``cfm_model.pt`` of DiffRhythm, and our own folder of ``config.json`` and ``model.safetensors``."""

from __future__ import annotations

import json
import pickle
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from os.path import expanduser
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from sae_audio.diffrhythm.dit import DiT, DiTConfig
from sae_audio.diffrhythm.generator import GUIDANCE, Generator
from sae_audio.errors import LatentSpaceError, ParameterError
from sae_audio.files import make_folder, write_bytes

PREFIX = "transformer."
KIND, FORMAT = "etude-flow", 1
SHORT, LONG = 2048, 6144
"""Longest songs of the public models in latent frames: 95 s and 285 s."""
ATTENTION = ("bidirectional", "causal")


class Release(NamedTuple):
    """What a public checkpoint's files do not say."""

    attention: str
    """v1.0 was trained without a mask, which its library took as causal; v1.2 sees the whole song."""
    max_frames: int
    """Longest song, in latent frames."""
    duration: bool
    """Whether it has a duration embedding; v1.0 has none, not even for 285 s."""


RELEASES = {
    "DiffRhythm-base": Release("causal", SHORT, duration=False),
    "DiffRhythm-full": Release("causal", LONG, duration=False),
    "DiffRhythm-1_2": Release("bidirectional", SHORT, duration=False),
    "DiffRhythm-1_2-full": Release("bidirectional", LONG, duration=True),
}
"""Repositories of ``ASLP-lab`` by name."""


def load_diffrhythm(
    path: str | Path,
    *,
    release: str | None = None,
    attention: str | None = None,
    max_frames: int | None = None,
    device: str | torch.device = "cpu",
) -> Generator:
    """Read a public checkpoint in float32; sizes come from its tensors.

    Parameters
    ----------
    path : path
        ``cfm_model.pt``, or a folder with it. A ``config.json`` beside it has to agree with the tensors.
    release : str, optional
        A key of ``RELEASES``, which decides what the files do not say. By default found in ``path``, where the Hub's cache has
        it as ``models--ASLP-lab--DiffRhythm-1_2``; a path without is taken as v1.2 of the length that the tensors tell, and a
        warning says so.
    attention : {"bidirectional", "causal"}, optional
        Overrides the release's.
    max_frames : int, optional
        Longest song in latent frames; overrides the release's.
    device : str or torch.device
        Where the model goes.

    Returns
    -------
    Generator
        In evaluation mode, without named styles: bring style and null style as unit vectors.

    Raises
    ------
    LatentSpaceError
        The file is missing or is no such checkpoint, or a tensor is missing, unexpected or misshapen, or it is of another
        release than asked.
    ParameterError
        Unknown release or attention.
    """
    path = Path(expanduser(path))
    file = path / "cfm_model.pt" if path.is_dir() else path
    tensors = _read_cfm(file)
    found = infer_config(tensors, file)
    _compare_json(file.with_name("config.json"), found)
    named = release or _name_in(path)
    facts = _release(named, found, file)
    if attention not in (None, *ATTENTION):
        raise ParameterError(f"attention '{attention}' is unknown; choose from {', '.join(ATTENTION)}")
    config = replace(
        found,
        causal=(attention or facts.attention) == "causal",
        max_frames=facts.max_frames if max_frames is None else max_frames,
    )
    with torch.device("meta"):  # 1.1 G parameters: draw no initial weights
        dit = DiT(config)
    _fill(dit, tensors, file)
    if named is None and attention is None and not found.duration:  # v1.0 has the same tensors and another attention
        warnings.warn(f"{file} does not say its release and is taken as DiffRhythm-1_2; for another, name it", stacklevel=2)
    return Generator(dit).to(device).eval().requires_grad_(False)


def infer_config(tensors: Mapping[str, Tensor], source: str | Path = "the checkpoint") -> DiTConfig:
    """Return the sizes that the tensors of a DiT (names without prefix) imply; a missing tensor raises ``LatentSpaceError``."""

    def shape(name: str) -> torch.Size:
        if name not in tensors:
            raise LatentSpaceError(f"{source} misses tensor {name}; it is not a DiffRhythm checkpoint, or it is damaged")
        return tensors[name].shape

    def count(pattern: str) -> int:
        return len({match[1] for name in tensors if (match := re.match(pattern, name))})

    mel_dim, dim = shape("proj_out.weight")
    rows, text_dim = shape("text_embed.text_embed.weight")
    time_dim = shape("time_embed.time_mlp.0.weight")[0]
    width = shape("input_embed.proj.weight")[1]
    try:
        return DiTConfig(
            dim=dim,
            depth=count(r"transformer_blocks\.(\d+)\."),
            ff_mult=shape("transformer_blocks.0.mlp.gate_proj.weight")[0] // dim,
            text_dim=text_dim,
            conv_layers=count(r"text_embed\.text_blocks\.(\d+)\."),
            mel_dim=mel_dim,
            text_num_embeds=rows - 1,
            style_dim=width - 2 * mel_dim - text_dim - time_dim,
            time_dim=time_dim,
            duration=any(name.startswith("duration_time_embed.") for name in tensors),
        )
    except ParameterError as error:
        raise LatentSpaceError(f"{source} has sizes that no DiffRhythm has: {error}") from error


def save_generator(model: Generator, folder: str | Path, *, dtype: torch.dtype = torch.float32) -> None:
    """Write ``config.json`` and ``model.safetensors``, each atomically.

    Parameters
    ----------
    model : Generator
        Network, latent statistics and styles.
    folder : path
        Created if needed.
    dtype : torch.dtype
        Precision on disk; loading returns to float32.
    """
    folder = Path(folder)
    make_folder(folder)
    tensors = {name: value.detach().cpu().to(dtype).contiguous() for name, value in model.state_dict().items()}
    facts = {"dit": model.dit.config.to_dict(), "styles": list(model.style_names), "guidance": model.guidance}
    config = {"model": KIND, "format": FORMAT, **facts}
    write_bytes(folder / "model.safetensors", save(tensors), alone=True)
    write_bytes(folder / "config.json", (json.dumps(config, sort_keys=True, indent=2) + "\n").encode(), alone=True)


def load_generator(folder: str | Path, *, device: str | torch.device = "cpu") -> Generator:
    """Read what ``save_generator`` wrote, in float32 and evaluation mode.

    Raises
    ------
    LatentSpaceError
        A file is missing or damaged, or a tensor is missing, unexpected or of the wrong shape; the message names it.
    """
    folder = Path(expanduser(folder))
    config, styles, guidance = _read_config(folder / "config.json")
    with torch.device("meta"):
        model = Generator(DiT(config), styles, guidance)
    try:
        tensors = load_file(folder / "model.safetensors")
    except (OSError, SafetensorError) as error:
        raise LatentSpaceError(f"{folder / 'model.safetensors'} cannot be read: {error}") from error
    _fill(model, tensors, folder)
    return model.to(device).eval().requires_grad_(False)


def _read_cfm(file: Path) -> dict[str, Tensor]:
    """Return the DiT's tensors without their prefix."""
    if not file.is_file():
        raise LatentSpaceError(f"{file} does not exist; download cfm_model.pt of ASLP-lab/DiffRhythm-1_2 or another release")
    try:
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise LatentSpaceError(f"{file} is not a PyTorch checkpoint of plain tensors ({type(error).__name__})") from error
    tensors = content.get("model_state_dict") if isinstance(content, dict) else None
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise LatentSpaceError(f"{file} has no 'model_state_dict' of tensors; it is not a cfm_model.pt of DiffRhythm")
    foreign = [name for name in tensors if not name.startswith(PREFIX)]
    if foreign:
        raise LatentSpaceError(f"{file} has unexpected tensors: {_list(foreign)}; all names start with '{PREFIX}'")
    return {name.removeprefix(PREFIX): value for name, value in tensors.items()}


def _name_in(path: Path) -> str | None:
    """Return the release that a path speaks of: in a folder's own name or in the Hub cache's."""
    parts = [part.split("--")[-1] for part in reversed(path.absolute().parts)]
    return next((part for part in parts if part in RELEASES), None)


def _release(name: str | None, found: DiTConfig, file: Path) -> Release:
    if name is None:
        name = "DiffRhythm-1_2-full" if found.duration else "DiffRhythm-1_2"
    name = name.split("/")[-1]
    if name not in RELEASES:
        raise ParameterError(f"release '{name}' is unknown; known: {', '.join(RELEASES)}")
    facts = RELEASES[name]
    if facts.duration != found.duration:
        has, fits = ("has a", "DiffRhythm-1_2-full") if found.duration else ("has no", "the other releases")
        raise LatentSpaceError(f"{file} {has} duration embedding, so it is not {name}; it fits {fits}")
    return facts


def _compare_json(path: Path, found: DiTConfig) -> None:
    """Refuse a ``config.json`` that speaks of other sizes; ``heads`` is not compared, since public models ignore it."""
    if not path.is_file():
        return
    try:
        told = json.loads(path.read_text(encoding="utf-8"))["model"]
        wrong = {key: told[key] for key in told.keys() & found.to_dict().keys() - {"heads"} if told[key] != getattr(found, key)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LatentSpaceError(f"{path} is not the config of a DiffRhythm checkpoint: {error}") from error
    if wrong:
        texts = (f"{key} {value} (tensors: {getattr(found, key)})" for key, value in sorted(wrong.items()))
        raise LatentSpaceError(f"{path} does not fit the checkpoint beside it: {', '.join(texts)}")


def _read_config(path: Path) -> tuple[DiTConfig, list[str], float]:
    if not path.exists():
        raise LatentSpaceError(f"'{path.parent}' has no config.json; give a generator's folder: it and model.safetensors")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if (values["model"], values["format"]) != (KIND, FORMAT):
            raise LatentSpaceError(f"{path} is {values['model']} format {values['format']}; this version reads {KIND} {FORMAT}")
        return DiTConfig.from_dict(values["dit"]), list(values["styles"]), float(values.get("guidance", GUIDANCE))
    except (OSError, ValueError, KeyError, TypeError, ParameterError) as error:
        raise LatentSpaceError(f"{path} is not the config of an étude generator: {error}") from error


def _fill(model: torch.nn.Module, tensors: Mapping[str, Tensor], source: str | Path) -> None:
    """Give a model on the meta device its tensors in float32; every name and shape has to fit."""
    expected = model.state_dict()
    for problem, names in (("misses", expected.keys() - tensors.keys()), ("has unexpected", tensors.keys() - expected.keys())):
        if names:
            raise LatentSpaceError(f"{source} {problem} tensors: {_list(names)}")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            shapes = f"{list(tensor.shape)}; its other tensors or its config ask for {list(expected[name].shape)}"
            raise LatentSpaceError(f"{source}: {name} has shape {shapes}")
    # A copy even of float32: a mapped file must not live on in the model.
    model.load_state_dict({name: tensor.to(torch.float32, copy=True) for name, tensor in tensors.items()}, assign=True)


def _list(names: Iterable[str]) -> str:
    names = sorted(names)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
