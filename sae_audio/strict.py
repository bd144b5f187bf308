"""Filling a model with tensors strictly: what is missing, unexpected or misshapen is named, never passed over."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor

from sae_audio.errors import LatentSpaceError


def check_keys(path: str | Path, missing: Iterable[str], unexpected: Iterable[str], misshapen: Iterable[str]) -> None:
    """Raise ``LatentSpaceError`` if there is any such tensor, naming up to three of them."""
    for problem, keys in (("lacks", missing), ("has unknown", unexpected), ("has misshapen", misshapen)):
        if named := sorted(keys):
            more = f" and {len(named) - 3} more" if len(named) > 3 else ""
            raise LatentSpaceError(
                f"{path} {problem} tensors: {', '.join(named[:3])}{more}; it does not belong to the model that is to be loaded"
            )


def check_tensors(source: str | Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise ``LatentSpaceError`` unless ``found`` has the names and shapes of ``expected``, such as a model's ``state_dict``."""
    check_keys(source, expected.keys() - found.keys(), found.keys() - expected.keys(), ())
    shapes = {name: (list(tensor.shape), list(expected[name].shape)) for name, tensor in found.items()}
    check_keys(source, (), (), [f"{name} {own}, not {wanted}" for name, (own, wanted) in shapes.items() if own != wanted])
