"""Sparse autoencoders for audio latent spaces: train, publish, listen, steer.

    from sae_audio import Bundle, Request, analyse, generate, load_latent_space, steer, trace, train_sae

Names are imported when first used, so that ``import sae_audio`` is light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sae_audio.bundle import Bundle
    from sae_audio.generation import Request, generate, trace
    from sae_audio.latent_spaces import load_latent_space
    from sae_audio.pipeline import analyse, steer
    from sae_audio.training import train_sae

__all__ = ["Bundle", "Request", "analyse", "generate", "load_latent_space", "steer", "trace", "train_sae"]
__version__ = "0.1.0"

_HOMES = {
    "Bundle": "sae_audio.bundle",
    "Request": "sae_audio.generation",
    "analyse": "sae_audio.pipeline",
    "generate": "sae_audio.generation",
    "load_latent_space": "sae_audio.latent_spaces",
    "steer": "sae_audio.pipeline",
    "trace": "sae_audio.generation",
    "train_sae": "sae_audio.training",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'sae_audio' has no attribute '{name}'; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOMES[name]), name)
