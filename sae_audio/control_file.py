"""Control vectors as one safetensors file, apart from their bundle: ``<key>.<field>`` tensors, the rest as JSON in the header."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors import torch as safetensors

from sae_audio.bundle import Bundle
from sae_audio.bundle_format import split_fields
from sae_audio.control import ControlVector
from sae_audio.errors import BundleError, ParameterError
from sae_audio.files import write_bytes
from sae_audio.spec import LatentSpec

FORMAT = "sae_audio control vectors, format 1"


def save_controls(path: str | os.PathLike, bundle: Bundle, controls: Mapping[str, ControlVector]) -> None:
    """Write control vectors, with the latent space that they are for.

    Parameters
    ----------
    path : path
        File to write or replace.
    bundle : Bundle
        Whose latent space and SAE the vectors belong to.
    controls : mapping of ControlVector
        By a name without a dot, such as ``pitch`` or ``feature 42``; at least one.

    Raises
    ------
    ParameterError
        There is nothing to write.
    OutputError
        The file cannot be written.
    """
    if not controls:
        raise ParameterError("there is no control vector to save; move something first")
    parts = {key: split_fields(control) for key, control in controls.items()}
    tensors = {
        f"{key}.{name}": value.detach().cpu().contiguous() for key, (_, own) in parts.items() for name, value in own.items()
    }
    header = {
        "format": FORMAT,
        "latent_spec": json.dumps(bundle.spec.to_dict()),
        "d_sae": str(bundle.sae.config.d_sae),
        "controls": json.dumps({key: values for key, (values, _) in parts.items()}),
    }
    write_bytes(path, safetensors.save(tensors, header))


def load_controls(path: str | os.PathLike) -> tuple[LatentSpec, dict[str, ControlVector]]:
    """Read what ``save_controls`` wrote.

    Returns
    -------
    (LatentSpec, dict of ControlVector)
        The latent space that the vectors are for, and the vectors by name.

    Raises
    ------
    BundleError
        The file is something else, or damaged.
    """
    try:
        with safe_open(Path(path), "pt") as file:
            header, names = file.metadata() or {}, file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
        if header.get("format") != FORMAT:
            raise ValueError(f"its format is '{header.get('format')}'")
        values = json.loads(header["controls"])
        own = {key: {k.rpartition(".")[2]: v for k, v in tensors.items() if k.rpartition(".")[0] == key} for key in values}
        controls = {
            key: ControlVector(**{**fields, "labels": tuple(fields["labels"])}, **own[key]) for key, fields in values.items()
        }
        return LatentSpec.from_dict(json.loads(header["latent_spec"])), controls
    except (OSError, SafetensorError, ValueError, TypeError, KeyError, ParameterError) as error:
        raise BundleError(f"'{path}' holds no control vectors of sae_audio ({error}); save them again") from None
