"""What the transformer encoders share: running only the blocks that are asked for, and what sound a checkpoint takes."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sae_audio.errors import LatentSpaceError
from sae_audio.latent_spaces.loading import read_config


class Blocks:
    """A transformers encoder that runs no further than the layers asked for.

    For layers up to the tapped one a second model runs, which ends there and shares all weights with the whole: a model of its
    own, so that threads that ask one space for different layers do not meet.

    Parameters
    ----------
    model : Module
        The encoder; its forward takes ``output_hidden_states``.
    tapped : int
        Layer that is asked for most, ``0`` for the input of the first block.
    holder : str
        Name of the submodule whose ``layers`` are the blocks; by default the model itself.
    """

    def __init__(self, model: nn.Module, tapped: int, holder: str = "") -> None:
        self.whole = model
        self.tapped = tapped
        self.short = sharing(model)
        inner: Any = self.short.get_submodule(holder)
        inner.layers = inner.layers[: max(tapped, 1)]  # the input of the first block is recorded where it runs

    def hidden_states(self, inputs: Tensor, layers: Sequence[int]) -> Tensor:
        """Return some hidden states of one pass, ``[len(layers), B, tokens, d_in]``."""
        model = self.short if max(layers) <= self.tapped else self.whole
        states = model(inputs, output_hidden_states=True).hidden_states
        return torch.stack([states[layer] for layer in layers])


def sharing(model: nn.Module) -> nn.Module:
    """Return a copy of a model that shares all its tensors, and whose modules can be replaced."""
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return deepcopy(model, tensors)  # what the second argument holds is taken as it is, not copied


def feature_extractor(kind: Any, folder: str | Path) -> Any:
    """Return the transformers feature extractor of a checkpoint, from its ``preprocessor_config.json``.

    Parameters
    ----------
    kind : type
        Class of the extractor.
    folder : str or Path
        Folder of the checkpoint.

    Raises
    ------
    LatentSpaceError
        The file is missing or damaged, or it does not state the sampling rate: the extractors then assume 16 kHz without a
        word, and a model of another rate would hear everything at the wrong pitch.
    """
    values = read_config(folder, "preprocessor_config.json")
    if "sampling_rate" not in values:
        raise LatentSpaceError(
            f"{folder}/preprocessor_config.json states no sampling_rate; add the rate that the model was trained with, in Hz"
        )
    return kind.from_dict(values)
