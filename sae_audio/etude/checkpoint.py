"""The étude codec on disk: ``config.json`` and ``model.safetensors`` in one folder; and the state of its training."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from sae_audio.errors import DataError, LatentSpaceError, ParameterError
from sae_audio.etude.codec import CodecConfig, SpectralVAE
from sae_audio.files import make_folder, write_bytes


def save_codec(model: SpectralVAE, folder: Path, *, dtype: torch.dtype = torch.float16) -> None:
    """Write ``config.json`` and ``model.safetensors``, each atomically.

    Parameters
    ----------
    model : SpectralVAE
        The codec.
    folder : Path
        Created if needed.
    dtype : torch.dtype
        Precision on disk; loading returns to float32. The card has the measured cost of float16.
    """
    make_folder(folder)
    tensors = {name: value.detach().cpu().to(dtype).contiguous() for name, value in model.state_dict().items()}
    write_bytes(folder / "model.safetensors", save(tensors), alone=True)
    text = json.dumps({"model": "etude-codec", "format": 1, "codec": model.config.to_dict()}, sort_keys=True, indent=2)
    write_bytes(folder / "config.json", (text + "\n").encode(), alone=True)


def load_codec(folder: Path) -> SpectralVAE:
    """Read a codec on the CPU in float32; a missing, unexpected or misshapen tensor raises ``LatentSpaceError``."""
    model = SpectralVAE(_read_config(folder / "config.json"))
    tensors = _read_tensors(folder / "model.safetensors")
    _check(tensors, model.state_dict(), folder)
    model.load_state_dict({name: value.float() for name, value in tensors.items()})
    return model.eval()


def _read_config(path: Path) -> CodecConfig:
    if not path.exists():
        raise LatentSpaceError(f"'{path.parent}' has no config.json; give the folder of an étude codec: it and model.safetensors")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if (values["model"], values["format"]) != ("etude-codec", 1):
            raise LatentSpaceError(f"{path} is {values['model']} format {values['format']}; this version reads etude-codec 1")
        return CodecConfig.from_dict(values["codec"])
    except (OSError, ValueError, KeyError, TypeError, ParameterError) as error:
        raise LatentSpaceError(f"{path} is not the config of an étude codec: {error}") from error


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise LatentSpaceError(f"{path} cannot be read: {error}") from error


def _check(found: dict[str, Tensor], expected: dict[str, Tensor], folder: Path) -> None:
    for problem, names in (("misses", expected.keys() - found.keys()), ("has unexpected", found.keys() - expected.keys())):
        if names:
            raise LatentSpaceError(f"étude codec in {folder} {problem} tensors: {', '.join(sorted(names))}")
    for name, tensor in found.items():
        if tensor.shape != expected[name].shape:
            shapes = f"{list(tensor.shape)}; its config asks for {list(expected[name].shape)}"
            raise LatentSpaceError(f"étude codec in {folder}: {name} has shape {shapes}")


def save_training(path: Path, model: SpectralVAE, optimizer: torch.optim.Optimizer) -> None:
    """Write weights, Adam's moments and the step, atomically."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for name, state in zip(learnt(model), optimizer.state_dict()["state"].values(), strict=True):
        tensors |= {f"{key}.{name}": value for key, value in state.items()}
    write_bytes(path, save({name: value.contiguous() for name, value in tensors.items()}), alone=True)


def load_training(path: Path, model: SpectralVAE, optimizer: torch.optim.Optimizer) -> int:
    """Read what ``save_training`` wrote and return the number of steps already taken."""
    if not path.exists():
        raise DataError(f"{path} does not exist, so there is nothing to resume; run without --resume")
    tensors = load_file(path)
    model.load_state_dict({name: tensors[f"model.{name}"] for name in model.state_dict()})
    keys = ("step", "exp_avg", "exp_avg_sq")
    state = {i: {key: tensors[f"{key}.{name}"] for key in keys} for i, name in enumerate(learnt(model))}
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return int(tensors[f"step.{next(iter(learnt(model)))}"])


def learnt(model: SpectralVAE) -> dict[str, torch.nn.Parameter]:
    """Return the parameters that are trained."""
    return {name: value for name, value in model.named_parameters() if value.requires_grad}
