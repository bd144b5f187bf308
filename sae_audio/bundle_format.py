"""Bundle format 1: which file holds which tensors and values, and what must be true of them.

| file | content |
|---|---|
| config.json | latent spec, SAE config, properties, what the probes and controls are, provenance |
| sae.safetensors | the SAE as trained, with its input scaling: the one that is loaded, bit for bit |
| cfg.json, sae_weights.safetensors | the same SAE for sae_lens, scaling folded in (no weights where sae_lens lacks the variant) |
| probes.safetensors, control.safetensors | ``<key>.<field>``, keys as in config.json |
| atlas.safetensors, atlas.json | statistics and tuning; names with evidence, recordings |
| metrics.json, history.json | what the card reports; the SAE's training history |
| README.md, figures/*.png | the model card and its figures |

Both writing and reading go through ``Parts`` and ``check``, so that nothing can be saved that cannot be loaded.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import Tensor

from sae_audio.atlas import Atlas, Tuning
from sae_audio.control import ControlVector
from sae_audio.errors import BundleError, ParameterError, one_line
from sae_audio.probes import Probe
from sae_audio.properties import Property
from sae_audio.sae import SAE, SAEConfig, build_sae
from sae_audio.sae.saelens import SAELENS_VARIANTS, to_saelens
from sae_audio.sealed import AGAIN, to_json
from sae_audio.spec import LatentSpec
from sae_audio.tally import HISTOGRAM_EDGES

TENSOR_FILES = ("sae", "probes", "control", "atlas")
JSON_FILES = ("config", "atlas", "metrics", "history")
CONFIG_KEYS = {"latent_spec", "sae", "properties", "probes", "controls", "provenance"}
MAY_BE_NAN = (".responses", ".hit_rate")
"""Measurements of controls, undefined where no clip had the property."""
ANY = None
"""In an expected shape: any size."""

Expected = dict[str, tuple[tuple, torch.dtype]]


class Parts(NamedTuple):
    """What a bundle is made of, between objects and bytes."""

    tables: dict[str, dict]
    """Content of the JSON files, by file (``JSON_FILES``)."""
    tensors: dict[str, dict[str, Tensor]]
    """Tensors by name, by file (``TENSOR_FILES``)."""


def plain_table(table: Mapping) -> dict:
    """Return a table as JSON-ready values; see ``plain``."""
    return {str(key): plain(item) for key, item in table.items()}


def plain(value: object) -> object:
    """Return JSON-ready values: tensors and arrays as lists, tuples as lists, keys as text, NaN and infinities as None."""
    if isinstance(value, Mapping):
        return plain_table(value)
    if hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | bool | None) else str(value)


def split_fields(item: Probe | ControlVector) -> tuple[dict, dict[str, Tensor]]:
    """Return the plain fields and the tensor fields of a probe or a control vector."""
    values = {field.name: getattr(item, field.name) for field in fields(item)}
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    return {name: plain(value) for name, value in values.items() if name not in tensors}, tensors


def to_files(parts: Parts) -> dict[str, bytes]:
    """Return the files of the parts; equal parts give equal bytes."""
    files = {f"{name}.json": to_json(parts.tables[name]) for name in JSON_FILES}
    return files | {f"{name}.safetensors": tensor_bytes(parts.tensors[name]) for name in TENSOR_FILES}


def tensor_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Return the safetensors bytes of tensors on any device."""
    return safetensors.save({name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()})


def from_files(files: Mapping[str, bytes], where: str) -> Parts:
    """Read the parts back; ``where`` names the bundle in messages."""
    return Parts(
        {name: read_json(files, f"{name}.json", where) for name in JSON_FILES},
        {name: parse_tensors(files, f"{name}.safetensors", where) for name in TENSOR_FILES},
    )


def read_json(files: Mapping[str, bytes], name: str, where: str) -> dict:
    """Read a JSON object."""
    with explained(where, name):
        value = json.loads(_present(files, name, where))
        if not isinstance(value, dict):
            raise TypeError(f"expected an object in braces, found {type(value).__name__}")
    return value


def parse_tensors(files: Mapping[str, bytes], name: str, where: str) -> dict[str, Tensor]:
    """Read a safetensors file."""
    with explained(where, name):
        return safetensors.load(_present(files, name, where))


def _present(files: Mapping[str, bytes], name: str, where: str) -> bytes:
    if name not in files:
        raise BundleError(f"{where} lacks {name}, which every bundle has; {AGAIN}")
    return files[name]


def saelens_files(sae: SAE, spec: LatentSpec) -> dict[str, bytes]:
    """Return the SAE in SAELens' format; for a variant that sae_lens lacks, only a cfg.json that says so."""
    if sae.config.variant not in SAELENS_VARIANTS:
        return {"cfg.json": to_json({"architecture": f"sae_audio/{sae.config.variant}", **sae.config.to_dict()})}
    cfg, weights = to_saelens(sae, {"model_name": spec.name, "hook_name": spec.tap, "latent_spec": spec.to_dict()})
    return {"cfg.json": to_json(cfg), "sae_weights.safetensors": tensor_bytes(weights)}


def check_saelens(sae: SAE, spec: LatentSpec, files: Mapping[str, bytes], where: str) -> None:
    """Raise ``BundleError`` unless the SAELens files hold this SAE."""
    for name, content in saelens_files(sae, spec).items():
        if name.endswith("json"):
            read_json(files, name, where)
            continue
        found, expected = parse_tensors(files, name, where), safetensors.load(content)
        check_tensors(found, {key: (tuple(value.shape), value.dtype) for key, value in expected.items()}, f"{where}/{name}")
        for key, value in expected.items():
            if not torch.allclose(found[key], value, rtol=1e-5, atol=1e-6):
                raise BundleError(f"{where}/{name}: {key} is not that of sae.safetensors; {AGAIN}")


@contextmanager
def explained(where: str, name: str, remedy: str = AGAIN) -> Iterator[None]:
    """Turn whatever goes wrong while a file is read into one line that names it."""
    try:
        yield
    except BundleError:
        raise
    except KeyError as error:
        raise BundleError(f"{where}/{name} lacks {one_line(error)}; {remedy}") from error
    except (ValueError, TypeError, AttributeError, IndexError, ParameterError, SafetensorError) as error:
        raise BundleError(f"{where}/{name} cannot be used: {one_line(error)}; {remedy}") from error


def check(parts: Parts, where: str, remedy: str = AGAIN) -> None:
    """Raise ``BundleError`` unless shapes, dtypes and values of all parts fit each other; ``where`` and ``remedy`` go into it."""
    config, tensors = parts.tables["config"], parts.tensors
    with explained(where, "config.json", remedy):
        if wrong := CONFIG_KEYS ^ config.keys():
            raise ValueError(f"unknown or missing keys: {', '.join(sorted(wrong))}")
        spec = LatentSpec.from_dict(config["latent_spec"])
        sae = build_sae(SAEConfig.from_dict(config["sae"]))
        classes = {values["name"]: Property.from_dict(values).n_classes for values in config["properties"]}
        if sae.config.d_in != spec.d_in:
            raise ValueError(f"the SAE takes {sae.config.d_in} channels, the latents of '{spec.name}' have {spec.d_in}")
        d = {"latents": spec.d_in, "acts": sae.config.d_sae}
        expected = {
            "sae": {name: (tuple(value.shape), value.dtype) for name, value in sae.state_dict().items()},
            "probes": _expected_probes(config["probes"], d, classes),
            "control": _expected_controls(config["controls"], d, classes),
            "atlas": _expected_atlas(d["acts"], classes),
        }
    for name in TENSOR_FILES:
        check_tensors(tensors[name], expected[name], f"{where}/{name}.safetensors", remedy)
    with explained(where, "atlas.json", remedy):
        _check_atlas(tensors["atlas"], parts.tables["atlas"], d["acts"])
    with explained(where, "history.json", remedy):
        if not isinstance(parts.tables["history"]["rows"], list):
            raise TypeError("rows must be a list")


def check_tensors(tensors: Mapping[str, Tensor], expected: Expected, where: str, remedy: str = AGAIN) -> None:
    """Raise ``BundleError`` unless names, shapes and dtypes are as expected and all values finite (``MAY_BE_NAN`` excepted)."""
    if missing := sorted(expected.keys() - tensors.keys()):
        raise BundleError(f"{where} lacks the tensor {missing[0]}; {remedy}")
    if extra := sorted(tensors.keys() - expected.keys()):
        raise BundleError(f"{where} has a tensor too many, {extra[0]}; {remedy}")
    for name, (shape, dtype) in sorted(expected.items()):
        value = tensors[name]
        fits = value.ndim == len(shape) and all(want in (ANY, have) for want, have in zip(shape, value.shape, strict=True))
        if not fits or value.dtype != dtype:
            wanted = f"{_short(dtype)} [{', '.join('any' if n is ANY else str(n) for n in shape)}]"
            raise BundleError(f"{where}: {name} is {_short(value.dtype)} {list(value.shape)}, expected {wanted}; {remedy}")
        if value.is_floating_point() and not name.endswith(MAY_BE_NAN) and not value.isfinite().all():
            count = int((~value.isfinite()).sum())
            raise BundleError(f"{where}: {name} has {count} values that are not finite numbers; train the bundle again")


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _expected_probes(probes: Mapping, d: Mapping[str, int], classes: Mapping[str, int]) -> Expected:
    expected: Expected = {}
    for key, probe in probes.items():
        n_in, n_classes = d[probe["on"]], classes[probe["property"]]
        expected[f"{key}.weight"] = ((n_in, n_classes), torch.float32)
        expected[f"{key}.bias"] = ((n_classes,), torch.float32)
    return expected


def _expected_controls(controls: Mapping, d: Mapping[str, int], classes: Mapping[str, int]) -> Expected:
    expected: Expected = {}
    for key, control in controls.items():
        if control["property"] not in classes:
            raise ValueError(f"the control {key} moves '{control['property']}', which is none of the properties")
        shapes = {"directions": (len(control["labels"]), d[control["via"]]), "responses": (ANY, 3)}
        for field in fields(ControlVector):
            if field.type == "Tensor":
                expected[f"{key}.{field.name}"] = (shapes.get(field.name, (ANY,)), torch.float32)
    return expected


def _expected_atlas(d_sae: int, classes: Mapping[str, int]) -> Expected:
    whole = ("seconds", "histogram", "moment_recording", "neighbour")
    shapes = {"histogram": (d_sae, len(HISTOGRAM_EDGES) - 1)}
    expected: Expected = {}
    for field in fields(Atlas):
        if field.type == "Tensor":
            wide = field.name.startswith(("moment", "neighbour"))
            shape = shapes.get(field.name, (d_sae, ANY) if wide else (d_sae,))
            expected[field.name] = (shape, torch.int64 if field.name in whole else torch.float32)
    for prop, n in classes.items():
        sizes = {"frames": (n,), "bits": (d_sae,)}
        for field in fields(Tuning):
            dtype = torch.int64 if field.name == "frames" else torch.float32
            expected[f"tuning.{prop}.{field.name}"] = (sizes.get(field.name, (d_sae, n)), dtype)
    return expected


def _check_atlas(tensors: Mapping[str, Tensor], table: Mapping, d_sae: int) -> None:
    """Let nothing in the atlas point outside it."""
    if len(table["names"]) != d_sae:
        raise ValueError(f"it names {len(table['names'])} features, the SAE has {d_sae}")
    limits = {"moment_recording": (-1, len(table["recordings"])), "neighbour": (0, d_sae)}
    for name, (low, end) in limits.items():
        value = tensors[name]
        if value.numel() and not low <= int(value.min()) <= int(value.max()) < end:
            raise ValueError(
                f"{name} in atlas.safetensors runs from {int(value.min())} to {int(value.max())}, allowed {low} to {end - 1}"
            )
    for group in (("moment_recording", "moment_time", "moment_value"), ("neighbour", "neighbour_cosine")):
        if len(sizes := {tensors[name].shape[1] for name in group}) > 1:
            raise ValueError(f"{', '.join(group)} in atlas.safetensors differ in width: {sorted(sizes)}")
