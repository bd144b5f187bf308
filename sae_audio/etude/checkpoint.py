"""The étude codec on disk: ``config.json`` and ``model.safetensors`` in one folder."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError

from sae_audio.digest import digest_of, read_tensor_file, tensor_file
from sae_audio.errors import LatentSpaceError, ParameterError
from sae_audio.etude.codec import CodecConfig, SpectralVAE
from sae_audio.files import make_folder, write_bytes
from sae_audio.strict import check_tensors


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
    values = {"model": "etude-codec", "format": 1, "codec": model.config.to_dict()}
    config = (json.dumps(values, sort_keys=True, indent=2) + "\n").encode()
    tensors = {name: value.to(dtype) for name, value in model.state_dict().items()}
    write_bytes(folder / "model.safetensors", tensor_file(tensors, {"config": digest_of(config)}), alone=True)
    write_bytes(folder / "config.json", config, alone=True)


def load_codec(folder: Path) -> SpectralVAE:
    """Read a codec on the CPU in float32; a missing, unexpected or misshapen tensor raises ``LatentSpaceError``."""
    config, content = _read_config(folder / "config.json")
    model, path = SpectralVAE(config), folder / "model.safetensors"
    try:
        tensors, facts = read_tensor_file(path)
        if facts.get("config", digest_of(content)) != digest_of(content):
            raise ValueError("config.json is not the one that it was saved with")
    except (OSError, ValueError, SafetensorError) as error:
        raise LatentSpaceError(f"{path} cannot be read: {error}") from error
    check_tensors(folder, tensors, model.state_dict())
    model.load_state_dict({name: value.float() for name, value in tensors.items()})
    return model.eval()


def _read_config(path: Path) -> tuple[CodecConfig, bytes]:
    try:
        content = path.read_bytes()
        values = json.loads(content)
        if (values["model"], values["format"]) != ("etude-codec", 1):
            raise LatentSpaceError(f"{path} is {values['model']} format {values['format']}; this version reads etude-codec 1")
        return CodecConfig.from_dict(values["codec"]), content
    except (OSError, ValueError, KeyError, TypeError, ParameterError) as error:
        raise LatentSpaceError(f"{path} is not the config of an étude codec: {error}") from error
