"""A sound in the form that a latent space takes, and back: sample rate, channels, length.

``fit`` brings a sound [C, N] to a space's rate and channels [B, channels, N'], ``mixdown`` folds it to one item of them, and
``unfit`` brings decoded audio back to [C, N].
"""

from __future__ import annotations

from fractions import Fraction

import torch
import torchaudio
from torch import Tensor

from sae_audio.audio import Sound
from sae_audio.errors import ParameterError
from sae_audio.spec import LatentSpec

BLOCK = 2**16
"""Samples resampled at a time."""
MAX_PHASES = 1000  # torchaudio's resampling kernel grows with the square of the larger term of the reduced ratio


def resample(samples: Tensor, from_rate: int, to_rate: int) -> Tensor:
    """Resample with torchaudio's windowed sinc (Hann, 16 zero crossings), block by block: beside the result there is no copy.

    Rates whose reduced ratio has a term above 1000 (44101 Hz to 16 kHz, say) use the nearest ratio below that, which is
    off by less than 0.05 cents; otherwise the kernel would take gigabytes.

    Parameters
    ----------
    samples : Tensor [..., N]
        Float samples; any device.
    from_rate, to_rate : int
        Hz, at least 1.

    Returns
    -------
    Tensor [..., ceil(N * to_rate / from_rate)]
    """
    if from_rate == to_rate:
        return samples
    ratio, n, length = _reduced(from_rate, to_rate), samples.shape[-1], -(-samples.shape[-1] * to_rate // from_rate)
    if ratio == 1:
        return _to_length(samples, length)
    step_in, step_out = ratio.denominator, ratio.numerator
    run = torchaudio.transforms.Resample(step_in, step_out, lowpass_filter_width=16, dtype=samples.dtype).to(samples.device)
    halo, window = run.width // step_in + 1, -(-BLOCK // step_in)  # steps
    resampled = samples.new_zeros(*samples.shape[:-1], length)
    for start in range(0, -(-n // step_in), window):
        first, stop = max(start - halo, 0), start + window
        made = run(samples[..., first * step_in : (stop + halo) * step_in])[..., (start - first) * step_out :]
        room = resampled[..., start * step_out : stop * step_out]
        fits = min(room.shape[-1], made.shape[-1])
        room[..., :fits] = made[..., :fits]
    return resampled


def fit(sound: Sound, spec: LatentSpec) -> Tensor:
    """Return a sound in the form that ``spec``'s ``encode`` takes.

    In a mono space every channel becomes one batch item, so stereo survives steering. In a stereo space there is one
    item: mono is doubled, more than two channels are folded (see ``to_stereo``).

    Parameters
    ----------
    sound : Sound
        Samples [C, N].
    spec : LatentSpec
        Space with ``channels`` 1 or 2.

    Returns
    -------
    Tensor [B, spec.channels, ceil(N * spec.sample_rate / sound.sample_rate)]
    """
    samples = sound.samples[:, None] if spec.channels == 1 else to_stereo(sound.samples)[None]
    return resample(samples, sound.sample_rate, spec.sample_rate)


def mixdown(sound: Sound, spec: LatentSpec) -> Tensor:
    """Return a sound as one item for analysis: channels averaged for a mono space, folded to stereo otherwise.

    Parameters
    ----------
    sound : Sound
        Samples [C, N].
    spec : LatentSpec
        Space with ``channels`` 1 or 2.

    Returns
    -------
    Tensor [1, spec.channels, ceil(N * spec.sample_rate / sound.sample_rate)]
    """
    samples = sound.samples.mean(0, keepdim=True) if spec.channels == 1 else to_stereo(sound.samples)
    return resample(samples[None], sound.sample_rate, spec.sample_rate)


def unfit(audio: Tensor, sound: Sound, spec: LatentSpec) -> Tensor:
    """Undo ``fit``: return decoded audio at the sound's own rate and exact length.

    Parameters
    ----------
    audio : Tensor [B, spec.channels, N']
        Audio in the space's form; B is the sound's channel count for a mono space, else 1.
    sound : Sound
        The sound that ``fit`` was given.
    spec : LatentSpec
        The same space.

    Returns
    -------
    Tensor [C, N]
        The sound's channel count where the space allows it: always for a mono space; a stereo space returns 1 channel
        for a mono sound and 2 for any other.

    Raises
    ------
    ParameterError
        ``audio`` has another batch size or channel count than ``fit`` gave.
    """
    channels, length = sound.samples.shape
    expected = (channels, 1) if spec.channels == 1 else (1, 2)
    if tuple(audio.shape[:2]) != expected:
        raise ParameterError(f"audio {list(audio.shape)} does not come from fit(), which gave [{expected[0]}, {expected[1]}, N]")
    folded = audio[:, 0] if spec.channels == 1 else audio[0]
    if spec.channels == 2 and channels == 1:
        folded = folded.mean(0, keepdim=True)
    return _to_length(resample(folded, spec.sample_rate, sound.sample_rate), length)


# Weight of (left, right) for each channel in WAVE order; 0.7 = -3 dB. LFE is dropped, as ITU-R BS.775 allows.
_L, _R, _C, _NONE = (1.0, 0.0), (0.0, 1.0), (0.7, 0.7), (0.0, 0.0)
_LS, _RS = (0.7, 0.0), (0.0, 0.7)
_STEREO = {
    2: (_L, _R),
    3: (_L, _R, _C),
    4: (_L, _R, _LS, _RS),
    5: (_L, _R, _C, _LS, _RS),
    6: (_L, _R, _C, _NONE, _LS, _RS),
    7: (_L, _R, _C, _NONE, _C, _LS, _RS),
    8: (_L, _R, _C, _NONE, _LS, _RS, _LS, _RS),
}


def to_stereo(samples: Tensor) -> Tensor:
    """Fold or double channels to two.

    Channels are taken in WAVE order (5.1 is L R C LFE Ls Rs); centre and surrounds enter at -3 dB, LFE is dropped
    (ITU-R BS.775), and the weights of a side sum to 1 so that folding cannot clip.

    Parameters
    ----------
    samples : Tensor [C, N]
        1 to 8 channels.

    Returns
    -------
    Tensor [2, N]
    """
    if samples.shape[0] == 1:
        return samples.expand(2, -1)
    weights = samples.new_tensor(_STEREO[samples.shape[0]]).T  # [2, C]
    return (weights / weights.sum(1, keepdim=True)) @ samples


def _reduced(from_rate: int, to_rate: int) -> Fraction:
    """Return to/from in lowest terms, both terms at most MAX_PHASES."""
    if to_rate > from_rate:
        return 1 / Fraction(from_rate, to_rate).limit_denominator(MAX_PHASES)
    return Fraction(to_rate, from_rate).limit_denominator(MAX_PHASES)


def _to_length(samples: Tensor, length: int) -> Tensor:
    missing = length - samples.shape[-1]
    return torch.nn.functional.pad(samples, (0, missing)) if missing > 0 else samples[..., :length]
