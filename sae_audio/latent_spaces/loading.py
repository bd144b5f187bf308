"""Reading public checkpoints strictly: every tensor of a file is used, or ignored by name; every tensor of a model is filled."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from zipfile import is_zipfile

import torch
from torch import Tensor, nn

from sae_audio.errors import LatentSpaceError
from sae_audio.latent_spaces.table import WEIGHT_FILES

Model = TypeVar("Model", bound=nn.Module)


def pretrained(model_class: Any, folder: str | Path, *, ignored: str | None = None, **options: Any) -> Any:
    """Load a transformers model from a folder in its public layout, strictly.

    Parameters
    ----------
    model_class : type
        A class with ``from_pretrained``.
    folder : str or Path
        With ``config.json`` and the weights.
    ignored : str, optional
        Regular expression of tensors that the checkpoint may hold beyond the model, such as the head it was trained with.
    **options
        Passed on to ``from_pretrained``.

    Returns
    -------
    Module
        In evaluation mode, float32, without gradients.

    Raises
    ------
    LatentSpaceError
        A file is missing or damaged, or a tensor is missing, unexpected, there twice or misshapen; the message names it.
    """
    read_config(folder)
    path = weight_file(folder)
    if is_index(path):
        check_shards(path)
    options |= dict(local_files_only=True, ignore_mismatched_sizes=True, output_loading_info=True, dtype=torch.float32)
    try:
        with quiet():
            model, found = model_class.from_pretrained(folder, **options)
    except Exception as error:  # a damaged JSON or safetensors file surfaces as one of many classes
        raise LatentSpaceError(f"{folder} is not a readable {model_class.__name__} checkpoint: {first_line(error)}") from error
    unexpected = [key for key in found["unexpected_keys"] if not (ignored and re.match(ignored, key))]
    misshapen = [key for key, *_ in found["mismatched_keys"]]
    prefixes = {rf"^{model.base_model_prefix}\.": "", **options.get("key_mapping", {})}
    check_keys(path, found["missing_keys"], [*unexpected, *_twice(tensor_names(path), prefixes)], misshapen)
    return model.eval().requires_grad_(False)


def _twice(names: Iterable[str], prefixes: Mapping[str, str]) -> list[str]:
    """Return the tensors of a file that mean the same as one before: transformers takes either without a word."""
    seen, again = set(), []
    for name in sorted(names):
        plain = name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        )
        for pattern, replacement in prefixes.items():
            plain = re.sub(pattern, replacement, plain)
        again += [name] if plain in seen else []
        seen.add(plain)
    return again


def tensor_names(path: Path) -> list[str]:
    """Return the names of the tensors in a file that ``read_tensors`` reads, or in the files of an index."""
    if is_index(path):
        return [name for names in shards(path).values() for name in names]
    if path.suffix != ".safetensors":
        return list(read_tensors(path))
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return list(file.keys())
    except (OSError, SafetensorError) as error:
        raise LatentSpaceError(f"{path} is not a readable checkpoint: {first_line(error)}") from error


def is_index(path: Path) -> bool:
    """Return whether a weight file is an index of the files that the weights are split into."""
    return path.name.endswith(".index.json")


def shards(index: Path) -> dict[str, list[str]]:
    """Return the files that an index names, beside it, and the tensors that it says are in each.

    Raises
    ------
    LatentSpaceError
        The index is missing or damaged, or it names a file elsewhere.
    """
    where = read_config(index.parent, index.name).get("weight_map")
    if not isinstance(where, dict) or not where or not all(isinstance(file, str) for file in where.values()):
        raise LatentSpaceError(f"{index} has no weight_map that says which file each tensor is in")
    if elsewhere := sorted(file for file in set(where.values()) if Path(file).name != file):
        raise LatentSpaceError(f"{index} names {elsewhere[0]!r}, which is not a file beside it")
    return {file: [name for name, held in where.items() if held == file] for file in sorted(set(where.values()))}


def check_shards(index: Path) -> None:
    """Raise ``LatentSpaceError`` unless the files of an index are beside it and hold exactly the tensors that it says."""
    for file, said in shards(index).items():
        if not (index.parent / file).is_file():
            raise LatentSpaceError(
                f"{index.parent} has no {file}, which {index.name} names; a split checkpoint needs all its files"
            )
        wanted, held = set(said), set(tensor_names(index.parent / file))
        check_keys(index.parent / file, wanted - held, held - wanted, ())


def fill(model: Model, tensors: Mapping[str, Tensor], path: str | Path) -> Model:
    """Load tensors into a model, strictly, and return it in evaluation mode, float32, without gradients.

    Raises
    ------
    LatentSpaceError
        A tensor is missing, unexpected or misshapen; the message names it and ``path``.
    """
    own = model.state_dict()
    misshapen = [key for key in own.keys() & tensors.keys() if own[key].shape != tensors[key].shape]
    check_keys(path, own.keys() - tensors.keys(), tensors.keys() - own.keys(), misshapen)
    model.load_state_dict(tensors)
    return model.float().eval().requires_grad_(False)


def check_keys(path: str | Path, missing: Iterable[str], unexpected: Iterable[str], misshapen: Iterable[str]) -> None:
    """Raise ``LatentSpaceError`` if there is any such tensor, naming up to three of them."""
    for problem, keys in (("lacks", missing), ("has unknown", unexpected), ("has misshapen", misshapen)):
        if named := sorted(keys):
            more = f" and {len(named) - 3} more" if len(named) > 3 else ""
            raise LatentSpaceError(
                f"{path} {problem} tensors: {', '.join(named[:3])}{more}; it does not belong to the model that is to be loaded"
            )


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a ``.safetensors`` file or of a torch checkpoint, whose ``state_dict`` is taken where it has one.

    Torch checkpoints are read with ``weights_only=True`` and memory-mapped: no code in them runs, and what is not used (the
    optimiser's state) is not read.

    Raises
    ------
    LatentSpaceError
        The file is missing, damaged, or holds something else.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        if path.is_file() and not is_zipfile(path):
            raise ValueError("it is neither safetensors nor a file of torch.save, PyTorch 1.6 or later")
        held = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # safetensors, zip, pickle and OS errors share no class
        raise LatentSpaceError(f"{path} is not a readable checkpoint: {first_line(error)}") from error
    held = held.get("state_dict", held) if isinstance(held, Mapping) else held
    if not isinstance(held, Mapping) or not all(isinstance(value, Tensor) for value in held.values()):
        raise LatentSpaceError(f"{path} holds no state dict of tensors; it is not a checkpoint of a model")
    return dict(held)


def read_config(folder: str | Path, file: str = "config.json") -> dict:
    """Return a JSON object of a checkpoint's folder; ``LatentSpaceError`` if it is missing or damaged."""
    path = Path(folder) / file
    try:
        values = json.loads(path.read_text())
    except FileNotFoundError:
        raise LatentSpaceError(f"{folder} has no {file}; a checkpoint's folder holds {file} beside the weights") from None
    except (OSError, ValueError) as error:
        raise LatentSpaceError(f"{path} is not a readable configuration: {first_line(error)}") from None
    if not isinstance(values, dict):
        raise LatentSpaceError(f"{path} is not a readable configuration: it holds {type(values).__name__}, not an object")
    return values


def weight_file(folder: str | Path, names: Iterable[str] = WEIGHT_FILES) -> Path:
    """Return the first of the named files that a folder has; ``LatentSpaceError`` lists them if it has none."""
    names = tuple(names)
    for name in names:
        if (Path(folder) / name).is_file():
            return Path(folder) / name
    raise LatentSpaceError(f"{folder} has no {' or '.join(names)}; a checkpoint's folder holds its weights under that name")


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' progress bar and load report: what is wrong with a checkpoint is said in one error instead."""
    from transformers.utils import logging

    bar, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def first_line(error: Exception) -> str:
    """Return the first line of an error's text, without the path that a system's error repeats; else its class."""
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return said.strip().splitlines()[0]
