"""The encoder of Whisper (Radford et al., arXiv 2212.04356) through transformers; the decoder is neither read nor built.

Latents are ``hidden_states[i]`` as transformers numbers them: each block's output, the last one after the final layer norm.

The model always sees 30 s: log-mel frames of the feature extractor, which fills a shorter clip up with silence. It has no mask,
so its frames attend to that silence, as they did in training; frames of silence are not returned. Model frames are centred on
multiples of the hop, ours half a hop later: half a hop of zeros goes before each window, and the model's first frame, which is
centred on their beginning, is dropped.

Clips of more than 1499 frames (29.98 s) run in windows of that many, blended over the sixth (5 s) that neighbours share. Both
attention and the extractor's floor (80 dB under the loudest bin) depend on the whole window.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from sae_audio.errors import LatentSpaceError
from sae_audio.latent_spaces.base import Encoder, layer_of, layer_tap
from sae_audio.latent_spaces.blocks import Blocks, feature_extractor
from sae_audio.latent_spaces.loading import pretrained
from sae_audio.latent_spaces.windows import blended
from sae_audio.spec import LatentSpec

if TYPE_CHECKING:
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

OTHER_PARTS = r"((model\.)?decoder|proj_out|projector|classifier|layer_weights)(\.|$)"
"""Tensors of checkpoints beyond the encoder: the decoder, or the head of a classifier."""


class Whisper(Encoder):
    """The encoder of a Whisper checkpoint as a space of hidden states.

    Build it with ``load`` or ``load_latent_space("whisper-small", layer=6)``.

    Parameters
    ----------
    model : WhisperEncoder
        transformers' encoder, in evaluation mode.
    extractor : transformers.WhisperFeatureExtractor
        What turns sound into log-mel frames.
    tap : str, optional
        ``layer i``; by default the middle one.
    repo : str
        What to call the source of the weights in ``spec``.
    """

    def __init__(self, model: WhisperEncoder, extractor: Any, tap: str | None = None, repo: str = "") -> None:
        config = model.config
        self.model = model
        self.extractor = extractor
        self.device = next(model.parameters()).device
        self.n_layers = config.encoder_layers
        tap = layer_tap(tap, self.n_layers)
        self.blocks = Blocks(model, layer_of(tap))
        if layer_of(tap) < self.n_layers:
            self.blocks.short.layer_norm = nn.Identity()  # transformers normalises the last hidden state of the whole model only
        self.spec = LatentSpec(
            name="whisper",
            repo=repo,
            revision=None,
            sample_rate=extractor.sampling_rate,
            channels=1,
            hop_length=extractor.hop_length * model.conv1.stride[0] * model.conv2.stride[0],
            d_in=config.d_model,
            tap=tap,
        )

    @classmethod
    def load(cls, folder: str | Path, device: str = "cpu", tap: str | None = None) -> Whisper:
        """Load a folder in the layout of ``openai/whisper-*``: ``config.json``, ``preprocessor_config.json`` and the weights.

        The decoder and heads are ignored by name. Any other missing, unexpected or misshapen tensor raises ``LatentSpaceError``,
        as does a preprocessor whose frames are not those that the model takes.
        """
        from transformers import WhisperFeatureExtractor
        from transformers.models.whisper.modeling_whisper import WhisperEncoder

        extractor = feature_extractor(WhisperFeatureExtractor, folder)
        model = pretrained(WhisperEncoder, folder, ignored=OTHER_PARTS, key_mapping={r"^(model\.)?encoder\.": ""})
        gives = extractor.feature_size, extractor.nb_max_frames
        takes = model.config.num_mel_bins, 2 * model.config.max_source_positions
        if gives != takes:
            raise LatentSpaceError(
                f"preprocessor_config.json of {folder} gives (mel bands, frames) {gives}, but the model takes {takes}"
            )
        return cls(model.to(device), extractor, tap, str(folder))

    def _hidden_states(self, audio: Tensor, layers: Sequence[int]) -> Tensor:
        window = self.model.config.max_source_positions - 1
        run = partial(self._window, layers)
        return blended(run, audio, step_in=self.spec.hop_length, step_out=1, window=window, overlap=window // 6).mT

    def _window(self, layers: Sequence[int], x: Tensor) -> Tensor:
        """Return the hidden states ``[len(layers), B, d_in, T]`` of one window ``[B, 1, n]``."""
        frames = self.spec.n_frames(x.shape[-1])
        clips = [*pad(x[:, 0], (self.spec.hop_length // 2, 0)).cpu().numpy()]
        with torch.autocast(x.device.type, enabled=False):
            mel = self.extractor(clips, sampling_rate=self.spec.sample_rate, return_tensors="pt").input_features
        return self.blocks.hidden_states(mel.to(self.device), layers)[:, :, 1 : frames + 1].mT
