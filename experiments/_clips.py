"""What encoders and descriptors make of labelled clips, kept in runs/ so that a stopped run goes on where it was.

A cache is a folder of safetensors files, each written whole; its name holds a hash of all that decides its content. A clip counts
as done under its name, size and time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor
from tqdm import tqdm

from sae_audio.audio import Sound
from sae_audio.audio import read as read_sound
from sae_audio.errors import DataError
from sae_audio.files import write_bytes
from sae_audio.fitting import mixdown
from sae_audio.latent_spaces import Encoder
from sae_audio.latent_spaces.signature import same_weights, signature
from sae_audio.vocalset import LabelledClip

CACHE = Path("runs/experiments")
PER_FILE = 100
"""Clips in one file: the most that a stop can cost."""


def states(
    space: Encoder,
    clips: Sequence[LabelledClip],
    *,
    pooling: str,
    seconds: float | None,
    cuts: int = 1,
    layers: Sequence[int] | None = None,
    read: int | None = None,
    cache: Path = CACHE,
    progress: bool = True,
) -> list[Tensor]:
    """Return hidden states of every clip, all from one pass.

    Parameters
    ----------
    space : Encoder
        The encoder.
    clips : sequence of LabelledClip
        What to encode.
    pooling : str
        ``sound``: the mean over the frames of the sound. ``published``, as arXiv 2509.24793: shorter clips are filled up with
        zeros, and the mean is over all tokens of the model, for AST with its class and distillation tokens and its padding.
        ``frames``: one vector per frame, in float16.
    seconds : float, optional
        Longest stretch, from the start of a clip; None: all of it (AST as published takes the first 10.24 s).
    cuts : int
        Stretches of a clip that is longer than ``seconds``: the first from its start, the others from places drawn at random.
    layers : sequence of int, optional
        Hidden states to keep; by default all.
    read : int, optional
        Place in ``layers`` of the only one to read back; by default all of them.
    cache : Path
        Where results are kept.
    progress : bool
        Show a bar.

    Returns
    -------
    list of Tensor [n_layers, T, d_in]
        For the two means T counts the stretches.
    """
    layers = list(range(space.n_layers + 1)) if layers is None else list(layers)
    settings = {
        "spec": space.spec.to_dict() | {"tap": ""},
        "pooling": pooling,
        "seconds": seconds,
        "cuts": cuts,
        "layers": layers,
    }

    def encode(clip: LabelledClip) -> Tensor:
        audio, rate = mixdown(read_sound(clip.path), space.spec), space.spec.sample_rate
        parts = [audio[..., start:] for start in starts(audio.shape[-1], rate, seconds, cuts, clip.name)]
        filled = [first_seconds(part, rate, seconds, fill=pooling == "published") for part in parts]
        return torch.cat([pooled(space, part, pooling)[layers] for part in filled], 1).cpu()

    name = f"{space.spec.name.replace('/', '-').replace(':', '-')}-{pooling}"
    folder = claimed(cache, name, settings, signature(space))
    found = kept(folder, clips, lambda clip: {"states": encode(clip)}, name, progress, read)
    return [tensors["states"] for tensors in found]


def starts(n_samples: int, sample_rate: int, seconds: float | None, cuts: int, name: str) -> list[int]:
    """Return where a clip of ``n_samples`` is cut: at its start, and at random where it is longer than ``seconds``.

    The places depend on the clip's name alone, so that they are the same in every run.
    """
    room = 0 if seconds is None else n_samples - round(seconds * sample_rate)
    drawn = np.random.default_rng([*name.encode()]).integers(0, room + 1, cuts - 1).tolist() if room > 0 else []
    return [0, *drawn]


def first_seconds(audio: Tensor, sample_rate: int, seconds: float | None, fill: bool = False) -> Tensor:
    """Return the start of audio ``[..., N]``, filled up with zeros to that length where ``fill``; all of it for None."""
    if seconds is None:
        return audio
    length = round(seconds * sample_rate)
    missing = length - audio.shape[-1]
    return torch.nn.functional.pad(audio, (0, missing)) if fill and missing > 0 else audio[..., :length]


def pooled(space: Encoder, audio: Tensor, pooling: str) -> Tensor:
    """Return the hidden states ``[n_layers + 1, T, d_in]`` of one clip ``[1, 1, N]``; see ``states``."""
    if pooling == "published" and space.spec.name == "ast":
        return _all_ast_tokens(space, audio)[:, 0].mean(1, keepdim=True)
    found = space.encode_layers(audio)[:, 0]
    return found.half() if pooling == "frames" else found.mean(1, keepdim=True)


def _all_ast_tokens(space: Encoder, audio: Tensor) -> Tensor:
    """Return every token of an Audio Spectrogram Transformer, ``[n_layers + 1, 1, tokens, d_in]``, as transformers feeds it."""
    banks = space.extractor([audio[0, 0].cpu().numpy()], sampling_rate=space.spec.sample_rate, return_tensors="pt").input_values
    with space.computing():
        return space.blocks.hidden_states(banks.to(space.device), range(space.n_layers + 1)).float()


def factor_table(
    clips: Sequence[LabelledClip],
    name: str,
    measure: Callable[[Tensor, int], Tensor],
    *,
    columns: Sequence[str],
    seconds: float | None,
    cache: Path = CACHE,
    progress: bool = True,
) -> Tensor:
    """Return one row of factors per clip, ``[n_clips, n_factors]``, measured at the clip's own rate.

    Parameters
    ----------
    clips : sequence of LabelledClip
        What to measure.
    name : str
        Of the factors, for the cache.
    measure : callable
        Samples ``[C, N]`` and rate in Hz to ``[n_factors]``.
    columns : sequence of str
        What it gives, in order: a table of other factors is measured anew.
    seconds : float, optional
        Longest stretch, from the start; None: all.
    cache : Path
        Where results are kept.
    progress : bool
        Show a bar.
    """

    def one(clip: LabelledClip) -> dict[str, Tensor]:
        sound: Sound = read_sound(clip.path)
        return {"factors": measure(first_seconds(sound.samples, sound.sample_rate, seconds), sound.sample_rate)}

    folder = claimed(cache, f"factors-{name}", {"factors": list(columns), "seconds": seconds})
    rows = kept(folder, clips, one, f"factors: {name}", progress)
    return torch.stack([row["factors"] for row in rows])


def claimed(cache: Path, name: str, settings: dict, weights: list[float] | None = None) -> Path:
    """Return the folder for these settings; ``DataError`` where it holds what other weights under the same name gave."""
    folder = cache / f"{name}-{hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:10]}"
    folder.mkdir(parents=True, exist_ok=True)
    about = folder / "settings.json"
    if not about.is_file():
        write_bytes(about, json.dumps(settings | {"weights": weights}, indent=1).encode())
    elif weights and not same_weights(json.loads(about.read_text())["weights"], weights):
        raise DataError(f"{folder} was made with other weights of '{name}'; delete it, or put those weights back")
    return folder


def kept(
    folder: Path,
    clips: Sequence[LabelledClip],
    make: Callable[[LabelledClip], dict[str, Tensor]],
    title: str,
    progress: bool,
    row: int | None = None,
) -> list[dict[str, Tensor]]:
    """Return what ``make`` gives for every clip, from the folder where it is there; of every tensor one ``row``, or all."""
    keys = [key_of(clip) for clip in clips]
    files = sorted(folder.glob("*.safetensors"))
    done = {key: tensors for file in files for key, tensors in _stored(file, set(keys), row)}
    todo = [(key, clip) for key, clip in zip(keys, clips, strict=True) if key not in done]
    hidden = not (progress and todo)
    bar = tqdm(todo, initial=len(clips) - len(todo), total=len(clips), desc=title, unit="clip", disable=hidden)
    for group in _groups(bar, PER_FILE):
        fresh = {key: make(clip) for key, clip in group}
        file = folder / f"{hashlib.sha256(json.dumps(list(fresh)).encode()).hexdigest()[:16]}.safetensors"
        _store(file, fresh)
        done |= dict(_stored(file, set(fresh), row))
    return [done[key] for key in keys]


def key_of(clip: LabelledClip) -> str:
    """Return what tells a clip from one that was there before: its path, size and time."""
    stat = clip.path.stat()
    return f"{clip.path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"


def _store(file: Path, tensors: dict[str, dict[str, Tensor]]) -> None:
    flat = {f"{i}/{name}": tensor.contiguous() for i, one in enumerate(tensors.values()) for name, tensor in one.items()}
    write_bytes(file, save(flat, metadata={"clips": json.dumps(list(tensors))}))


def _stored(file: Path, wanted: set[str], row: int | None) -> Iterator[tuple[str, dict[str, Tensor]]]:
    with safe_open(file, "pt") as opened:
        keys = json.loads(opened.metadata()["clips"])
        found: dict[str, dict[str, Tensor]] = {key: {} for key in keys if key in wanted}
        for name in opened.keys():  # noqa: SIM118, a safe_open handle is no mapping
            number, what = name.split("/")
            if keys[int(number)] in wanted:
                stored = opened.get_slice(name)
                found[keys[int(number)]][what] = stored[:] if row is None else stored[row : row + 1]
    yield from found.items()


def _groups(items: Iterable, size: int) -> Iterator[list]:
    group: list = []
    for item in items:
        group.append(item)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def check_encoder(space: object) -> Encoder:
    """Return the space, or raise ``DataError`` where it has no layers."""
    if not isinstance(space, Encoder):
        raise DataError(f"'{space.spec.name}' has no layers; take an encoder: ast, hubert-base, wavlm-base-plus, mert-v1-95m, …")
    return space
