"""Transformers on the raw waveform: HuBERT, WavLM, wav2vec 2.0, data2vec, UniSpeech-SAT and MERT, each in its own class.

Sources: arXiv 2106.07447 (HuBERT), 2110.13900 (WavLM), 2006.11477 (wav2vec 2.0), 2202.03555 (data2vec), 2110.05752
(UniSpeech-SAT), 2306.00107 (MERT).

Latents are ``hidden_states[i]`` as transformers numbers them. Where the configuration says ``do_stable_layer_norm`` the last one
is taken before the final layer norm (transformers 4 gave it after).

Frames: the convolutions see 400 samples every 320, so 40 zeros go before the clip and 40 after it, plus what fills the last
frame: frame ``i`` is then centred in its samples, and there are no frames of padding for attention to see. As in the feature
extractor, the clip as a whole is brought to mean 0 and variance 1 first, where the checkpoint asks for it.

The convolutions run over the clip in windows that leave no trace; where the first of them is normalised over time (the base
models, ``feat_extract_norm`` ``group``), mean and variance of the whole clip are measured before. The blocks attend to all frames
that they see: clips over 30 s go through them in windows of 30 s, blended over the 5 s that neighbours share, and that changes
the result. Measured on random weights (12 blocks of 384 channels, convolutions of 256) with 70 s of noise whose level swings by
20 dB and grows tenfold, as RMS of the difference to one run over the whole clip, relative to the RMS around the mean: 0.003 at
layer 0 and 0.08 at layer 12 for a base model (0.47 and 0.48 if each window were normalised by itself); 0.004 and 0.03 in the
large models' layout, which normalises each frame alone. A MERT that runs its own code gets the waveform in such windows, with
its convolutions in them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from sae_audio.errors import LatentSpaceError
from sae_audio.latent_spaces.base import Encoder, layer_of, layer_tap
from sae_audio.latent_spaces.blocks import Blocks, feature_extractor, sharing
from sae_audio.latent_spaces.loading import pretrained, read_config
from sae_audio.latent_spaces.mert import load_mert
from sae_audio.latent_spaces.windows import blended, frames_at_once
from sae_audio.spec import LatentSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WINDOW = 30.0
"""Longest stretch that the blocks see at once, in seconds."""
CONVOLVED = 100
"""Frames that go through the convolutions at once on a CPU, all items of the batch together: 2 s."""
MODELS = {
    "hubert": "HubertModel",
    "wavlm": "WavLMModel",
    "wav2vec2": "Wav2Vec2Model",
    "data2vec-audio": "Data2VecAudioModel",
    "unispeech-sat": "UniSpeechSatModel",
}
"""Classes of transformers by the ``model_type`` of ``config.json``; MERT is beside them."""
TRAINING_PARTS = (
    r"(quantizer|project_q|project_hid|speaker_proj|label_embeddings_concat|layer_norm_for_extract|lm_head|projector|classifier"
    r"|layer_weights|tdnn|objective|feature_extractor\.(weight|bias)|(\w+\.)?masked_spec_embed)(\.|$)"
)
"""Tensors that checkpoints may hold beyond the encoder: what it was pretrained or fine-tuned with."""


class WaveformEncoder(Encoder):
    """A checkpoint of the wav2vec 2.0 family as a space of hidden states.

    Build it with ``load`` or ``load_latent_space("hubert-base", layer=6)``.

    Parameters
    ----------
    model : transformers.HubertModel or a sibling
        The model, in evaluation mode.
    sample_rate : int
        Rate that it was trained with, in Hz.
    normalize : bool
        Whether it takes clips of mean 0 and variance 1.
    tap : str, optional
        ``layer i``; by default the middle one.
    repo : str
        What to call the source of the weights in ``spec``.
    """

    def __init__(
        self, model: PreTrainedModel, sample_rate: int, normalize: bool = True, tap: str | None = None, repo: str = ""
    ) -> None:
        config = model.config
        self.model = model
        self.device = next(model.parameters()).device
        self.normalize = normalize
        self.n_layers = config.num_hidden_layers
        self.field, hop_length = _reach(config.conv_kernel, config.conv_stride)
        tap = layer_tap(tap, self.n_layers)
        # A checkpoint's own code may make more of the waveform than its convolutions do; it gets the waveform.
        self.convolves = type(model).__module__.startswith("transformers.models.")
        rest = sharing(model)
        if self.convolves:
            rest.feature_extractor = nn.Identity()
        self.blocks = Blocks(rest, layer_of(tap), "encoder")
        self.spec = LatentSpec(
            name=config.model_type,
            repo=repo,
            revision=None,
            sample_rate=sample_rate,
            channels=1,
            hop_length=hop_length,
            d_in=config.hidden_size,
            tap=tap,
        )

    @classmethod
    def load(
        cls, folder: str | Path, device: str = "cpu", tap: str | None = None, trust_remote_code: bool = False
    ) -> WaveformEncoder:
        """Load a folder in its public layout: ``config.json``, ``preprocessor_config.json`` and the weights.

        The class follows ``model_type``. Both generations of weight-norm names are read, with or without the prefix of the model
        that it was trained in; parts of that model beyond the encoder are ignored by name. Any other missing, unexpected or
        misshapen tensor raises ``LatentSpaceError``. Code that comes with a MERT checkpoint runs only where it is needed and
        ``trust_remote_code`` is set.
        """
        from transformers import Wav2Vec2FeatureExtractor

        extractor = feature_extractor(Wav2Vec2FeatureExtractor, folder)
        model = _load_model(folder, trust_remote_code).to(device)
        return cls(model, extractor.sampling_rate, extractor.do_normalize, tap, str(folder))

    def _hidden_states(self, audio: Tensor, layers: Sequence[int]) -> Tensor:
        window = round(WINDOW * self.spec.frame_rate)
        windows = dict(step_out=1, window=window, overlap=window // 6)
        x = normalised(audio) if self.normalize else audio
        if self.convolves:
            return blended(partial(self._states, layers), self._features(x), step_in=1, **windows).mT
        return blended(lambda x: self._states(layers, self._padded(x)), x, step_in=self.spec.hop_length, **windows).mT

    def _states(self, layers: Sequence[int], x: Tensor) -> Tensor:
        """Return the hidden states ``[len(layers), B, d_in, T]`` of one window of what the blocks' model takes."""
        return self.blocks.hidden_states(x, layers).mT

    def _padded(self, x: Tensor) -> Tensor:
        """Return ``[B, (T - 1) * hop + field]`` for ``[B, 1, n]``: each frame centred in the samples that it sees."""
        hop, samples = self.spec.hop_length, x.shape[-1]
        before = (self.field - hop) // 2
        return pad(x[:, 0], (before, (self.spec.n_frames(samples) - 1) * hop + self.field - before - samples))

    def _features(self, x: Tensor) -> Tensor:
        """Return what the convolutions make of a clip ``[B, 1, n]``, ``[B, C, T]``, in windows that leave no trace."""
        hop, frames, x = self.spec.hop_length, self.spec.n_frames(x.shape[-1]), self._padded(x)
        window = frames_at_once(x, CONVOLVED, 1)
        first, *others = self.model.feature_extractor.conv_layers
        if isinstance(getattr(first, "layer_norm", None), nn.GroupNorm):
            first = normalised_over(x, first, window * hop)
        out = []
        for start in range(0, frames, window):
            y = first(x[:, None, start * hop : (min(start + window, frames) - 1) * hop + self.field])
            for layer in others:
                y = layer(y)
            out.append(y)
        return torch.cat(out, dim=-1)


def normalised_over(clip: Tensor, layer: Any, window: int) -> Callable[[Tensor], Tensor]:
    """Return a convolution with its group norm, one group a channel, that normalises any part of a clip as it does the whole.

    Mean and variance over the clip come from those of its parts: μ = Σ nᵢ μᵢ / n, σ² = Σ nᵢ (σᵢ² + (μᵢ - μ)²) / n.

    Parameters
    ----------
    clip : Tensor [B, n]
        All that the convolution would see at once.
    layer : Wav2Vec2GroupNormConvLayer
        With ``conv``, ``layer_norm`` and ``activation``.
    window : int
        Samples that it sees at once here.
    """
    (kernel,), (stride,), norm = layer.conv.kernel_size, layer.conv.stride, layer.layer_norm
    total, part = (clip.shape[-1] - kernel) // stride + 1, max(window // stride, 1)

    def convolved(x: Tensor) -> Tensor:
        y = layer.conv(x)
        return y.to(torch.promote_types(y.dtype, torch.float32))  # statistics and norm in full precision

    counts, moments = [], []
    for start in range(0, total, part):
        stop = min(start + part, total)
        counts.append(stop - start)
        y = convolved(clip[:, None, start * stride : (stop - 1) * stride + kernel])
        moments.append(torch.stack(torch.var_mean(y, dim=-1, correction=0, keepdim=True)))
    variances, means = torch.stack(moments, dim=1)  # each [parts, B, C, 1]
    shares = torch.tensor(counts).to(means).view(-1, 1, 1, 1) / total
    mean = (shares * means).sum(dim=0)
    variance = (shares * (variances + (means - mean).square())).sum(dim=0)
    gain = norm.weight[:, None] * (variance + norm.eps).rsqrt()
    return lambda x: layer.activation((convolved(x) - mean) * gain + norm.bias[:, None])


def normalised(audio: Tensor) -> Tensor:
    """Return each clip of ``[B, C, N]`` at mean 0 and variance 1 as ``Wav2Vec2FeatureExtractor`` does, (x - μ) / √(σ² + 1e-7)."""
    variance, mean = torch.var_mean(audio, dim=-1, correction=0, keepdim=True)
    return (audio - mean) / (variance + 1e-7).sqrt()


def _reach(kernels: Sequence[int], strides: Sequence[int]) -> tuple[int, int]:
    """Return the samples that a frame of a convolution stack sees, and those between two frames."""
    field, step = 1, 1
    for kernel, stride in zip(kernels, strides, strict=True):
        field, step = field + (kernel - 1) * step, step * stride
    return field, step


def _load_model(folder: str | Path, trust_remote_code: bool) -> nn.Module:
    import transformers

    model_type = read_config(folder).get("model_type")
    if model_type == "mert_model":
        return load_mert(folder, trust_remote_code)
    if model_type not in MODELS:
        raise LatentSpaceError(f"{folder} holds a model of type {model_type!r}; known are {', '.join(MODELS)}, mert_model")
    no_masking = dict(mask_time_prob=0.0, mask_feature_prob=0.0)
    return pretrained(getattr(transformers, MODELS[model_type]), folder, ignored=TRAINING_PARTS, **no_masking)
