"""The Audio Spectrogram Transformer (Gong et al., arXiv 2104.01778) through transformers, its patches pooled to frames.

Latents are ``hidden_states[i]`` as transformers numbers them (the last one is taken before the final layer norm), averaged over
the patches that lie at the same time; the class and distillation tokens are left out.

A patch spans 16 filter-bank frames of 25 ms, 10 ms apart, and the next one begins 100 ms later, so frames last 100 ms while their
patches see 175 ms. 37.5 ms of zeros go before each window, which centres every patch in its frame. The model has positions
for 10.24 s: the feature extractor fills shorter clips up to that with what it calls padding, which the model attends to, as it
did in training; frames of padding are not returned.

Clips of more than 101 frames (10.1 s) run in windows of that many, blended over the sixth (1.6 s) that neighbours share. The
positions are counted from the window's start, and attention reaches over all of it, so that windows change the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from sae_audio.errors import LatentSpaceError
from sae_audio.latent_spaces.base import Encoder, layer_of, layer_tap
from sae_audio.latent_spaces.blocks import Blocks, feature_extractor
from sae_audio.latent_spaces.loading import pretrained
from sae_audio.latent_spaces.windows import blended
from sae_audio.spec import LatentSpec

if TYPE_CHECKING:
    from transformers import ASTModel

TOKENS = 2
"""Tokens before the patches: class and distillation."""


class SpectrogramEncoder(Encoder):
    """An Audio Spectrogram Transformer as a space of hidden states, one per patch of time.

    Build it with ``load`` or ``load_latent_space("ast", layer=6)``.

    Parameters
    ----------
    model : transformers.ASTModel
        The model, in evaluation mode.
    extractor : transformers.ASTFeatureExtractor
        What turns sound into filter-bank frames.
    tap : str, optional
        ``layer i``; by default the middle one.
    repo : str
        What to call the source of the weights in ``spec``.
    """

    def __init__(self, model: ASTModel, extractor: Any, tap: str | None = None, repo: str = "") -> None:
        config, sample_rate = model.config, extractor.sampling_rate
        self.model = model
        self.extractor = extractor
        self.device = next(model.parameters()).device
        self.n_layers = config.num_hidden_layers
        self.patches = model.embeddings.get_shape(config)  # over frequency, over time
        shift, length = sample_rate // 100, sample_rate // 40  # of the filter-bank frames, in samples
        hop_length = config.time_stride * shift
        self.before = ((config.patch_size - 1) * shift + length - hop_length) // 2
        tap = layer_tap(tap, self.n_layers)
        self.blocks = Blocks(model, layer_of(tap))
        self.spec = LatentSpec(
            name="ast",
            repo=repo,
            revision=None,
            sample_rate=sample_rate,
            channels=1,
            hop_length=hop_length,
            d_in=config.hidden_size,
            tap=tap,
        )

    @classmethod
    def load(cls, folder: str | Path, device: str = "cpu", tap: str | None = None) -> SpectrogramEncoder:
        """Load a folder in the layout of ``MIT/ast-finetuned-audioset-*``: both configurations and the weights.

        The classifier is ignored by name. Any other missing, unexpected or misshapen tensor raises ``LatentSpaceError``, as does
        a preprocessor whose frames are not those that the model takes.
        """
        from transformers import ASTFeatureExtractor, ASTModel

        extractor = feature_extractor(ASTFeatureExtractor, folder)
        model = pretrained(ASTModel, folder, ignored=r"classifier\.")
        gives, takes = (extractor.num_mel_bins, extractor.max_length), (model.config.num_mel_bins, model.config.max_length)
        if gives != takes:
            raise LatentSpaceError(
                f"preprocessor_config.json of {folder} gives (mel bands, frames) {gives}, but the model takes {takes}"
            )
        return cls(model.to(device), extractor, tap, str(folder))

    def _hidden_states(self, audio: Tensor, layers: Sequence[int]) -> Tensor:
        window = self.patches[1]
        run = partial(self._window, layers)
        return blended(run, audio, step_in=self.spec.hop_length, step_out=1, window=window, overlap=window // 6).mT

    def _window(self, layers: Sequence[int], x: Tensor) -> Tensor:
        """Return the hidden states ``[len(layers), B, d_in, T]`` of one window ``[B, 1, n]``."""
        clips = [*pad(x[:, 0], (self.before, 0)).cpu().numpy()]
        with torch.autocast(x.device.type, enabled=False):
            banks = self.extractor(clips, sampling_rate=self.spec.sample_rate, return_tensors="pt").input_values
        states = self.blocks.hidden_states(banks.to(self.device), layers)[:, :, TOKENS:]
        return states.unflatten(2, self.patches).mean(dim=2)[:, :, : self.spec.n_frames(x.shape[-1])].mT
