"""Sound files, channels and sample rates: the only file that touches sound files.

``read`` turns a file into a ``Sound`` [C, N]; ``fit`` brings it to a space's rate and channels [B, channels, N'], ``unfit``
brings decoded audio back to [C, N], ``write`` makes it a file. ``mixdown`` folds a sound to one item for analysis.
"""

from __future__ import annotations

import io
import math
import os
import stat
import warnings
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import soundfile
import torch
import torchaudio
from torch import Tensor

from sae_audio.errors import AudioError, ParameterError
from sae_audio.files import write_bytes
from sae_audio.spec import LatentSpec

MIN_SECONDS = 0.02
MAX_MINUTES = 20.0
MIN_RATE, MAX_RATE = 4_000, 384_000  # Hz
MAX_CHANNELS = 8
DENSE_RATE = 48_000
"""Hz up to which the longest sound may have all channels: samples, not minutes, fill the memory."""
BLOCK = 2**16
"""Frames decoded at a time."""
MAX_PHASES = 1000  # torchaudio's resampling kernel grows with the square of the larger term of the reduced ratio


class Sound(NamedTuple):
    """A decoded sound file."""

    samples: Tensor
    """[C, N] float32 samples, nominally in [-1, 1]."""
    sample_rate: int
    """Samples per second, in Hz."""


def read(path: str | os.PathLike, *, max_minutes: float = MAX_MINUTES) -> Sound:
    """Read a WAV, FLAC, OGG, MP3 or AIFF file.

    Parameters
    ----------
    path : str or PathLike
        A sound file of 20 ms to ``max_minutes``, 4 to 384 kHz, 1 to 8 channels, finite samples. Silence is fine.
    max_minutes : float
        Longest duration that is read, in minutes, > 0. It is checked before decoding.

    Returns
    -------
    Sound
        Samples ``[C, N]`` as float32 and their rate. Float files keep values beyond 1.

    Raises
    ------
    AudioError
        The file is missing, not audio, damaged or outside the limits.
    ParameterError
        ``max_minutes`` is not positive.
    """
    path = Path(path)
    _check_is_file(path)
    return _decoded(path, path, max_minutes)


def decode(content: bytes, name: str, *, max_minutes: float = MAX_MINUTES) -> Sound:
    """Decode the bytes of a WAV, FLAC, OGG, MP3 or AIFF file, such as the cell of a table that holds one.

    Parameters
    ----------
    content : bytes
        The whole file, with the limits of ``read``.
    name : str
        What messages call it.
    max_minutes : float
        Longest duration that is decoded, in minutes, > 0.

    Returns
    -------
    Sound
        As ``read`` returns it for a file of these bytes.

    Raises
    ------
    AudioError
        The bytes are not audio, damaged or outside the limits.
    ParameterError
        ``max_minutes`` is not positive.
    """
    if not content:
        raise AudioError(f"'{name}' is empty (0 bytes); there is no sound to decode")
    return _decoded(io.BytesIO(content), name, max_minutes)


def _decoded(file: Path | io.BytesIO, name: str | Path, max_minutes: float) -> Sound:
    if not max_minutes > 0:
        raise ParameterError(f"max_minutes is {max_minutes}; it must be more than 0")
    try:
        # As bytes: a name need not be text.
        with soundfile.SoundFile(os.fsencode(file) if isinstance(file, Path) else file) as opened:
            _check_header(name, opened.frames, opened.samplerate, opened.channels, max_minutes)
            samples = _samples(opened)
    except (soundfile.SoundFileError, TypeError) as error:  # TypeError: soundfile takes .raw for headerless data
        reason = str(getattr(error, "error_string", error)).strip().rstrip(".").replace("\n", " ")
        raise AudioError(f"'{name}' cannot be read as audio ({reason}); convert it to WAV, FLAC, OGG, MP3 or AIFF") from None
    _check_samples(name, samples, opened.samplerate)
    return Sound(samples, opened.samplerate)


def write(path: str | os.PathLike, samples: Tensor, sample_rate: int, *, bits: int = 16) -> None:
    """Write a PCM WAV file without changing the level; the file appears whole or not at all.

    A sample ``x`` becomes ``round(x * 2**(bits - 1))``, so a file of the same depth that was read and written back is
    bit-identical. Values beyond ±1 are clipped with a ``UserWarning`` that says by how many dB.

    Parameters
    ----------
    path : str or PathLike
        File to write or replace; its folder must exist.
    samples : Tensor [C, N]
        Finite float samples, nominally in [-1, 1].
    sample_rate : int
        Hz, at least 1.
    bits : int
        16 or 24.

    Raises
    ------
    ParameterError
        Shape, rate or bits are wrong.
    AudioError
        Samples are NaN or infinite.
    OutputError
        The file cannot be written (folder missing, not writable, disk full).
    """
    _check_writable(path, samples, sample_rate, bits)
    samples, buffer = samples.detach().cpu(), io.BytesIO()
    _warn_of_clipping(samples)
    with soundfile.SoundFile(buffer, "w", int(sample_rate), len(samples), f"PCM_{bits}", format="WAV") as out:
        for block in samples.split(BLOCK, 1):
            out.write(_quantise(block, bits).T.numpy())
    write_bytes(path, buffer.getbuffer())


def full_scale_gain(*sounds: Sound) -> float:
    """Return the factor that brings sounds together to just within full scale, ±1; it is 1 where none goes beyond."""
    peak = max(_peak(sound.samples) for sound in sounds)
    return 1.0 if peak <= 1 else (1 - 2**-15) / peak


def lowered(sound: Sound, gain: float) -> Sound:
    """Return a sound times a factor, such as that of ``full_scale_gain``; the same object where it is 1."""
    return sound if gain == 1 else sound._replace(samples=sound.samples * gain)


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


def _samples(opened: soundfile.SoundFile) -> Tensor:
    """Decode all of a sound [C, N] block by block: beside it there is never a second copy, nor what a lying header promises."""
    samples, n = torch.empty(opened.channels, opened.frames), 0
    while len(block := opened.read(min(BLOCK, opened.frames - n), dtype="float32", always_2d=True)):
        samples[:, n : n + len(block)] = torch.from_numpy(block.T)
        n += len(block)
    return samples if n == opened.frames else samples[:, :n].clone()


def _check_is_file(path: Path) -> None:
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise AudioError(f"'{path}' does not exist; check the path") from None
    except (OSError, ValueError) as error:  # a name that is too long or holds a zero byte, links in a circle
        raise AudioError(f"'{path}' cannot be opened ({getattr(error, 'strerror', error)}); check the path") from None
    if stat.S_ISDIR(status.st_mode):
        raise AudioError(f"'{path}' is a folder; name one sound file in it")
    if not stat.S_ISREG(status.st_mode):
        raise AudioError(f"'{path}' is a pipe or a device; write the sound to a file first")
    try:
        path.open("rb").close()
    except OSError as error:
        raise AudioError(f"'{path}' is not readable ({error.strerror}); check its permissions") from None
    if status.st_size == 0:
        raise AudioError(f"'{path}' is empty (0 bytes); export or download it again")


def _check_header(path: str | Path, frames: int, rate: int, channels: int, max_minutes: float) -> None:
    if not MIN_RATE <= rate <= MAX_RATE:
        raise AudioError(f"'{path}' has {rate} Hz; the limit is {MIN_RATE} to {MAX_RATE} Hz: resample it first (sox, ffmpeg)")
    if channels > MAX_CHANNELS:
        raise AudioError(f"'{path}' has {channels} channels; the limit is {MAX_CHANNELS}: fold it first (ffmpeg -ac 2)")
    minutes = frames / rate / 60
    if minutes > max_minutes:
        raise AudioError(f"'{path}' lasts {minutes:.1f} min; the limit is {max_minutes:g} min: cut it, or raise --max-minutes")
    if frames * channels > (most := max_minutes * 60 * MAX_CHANNELS * DENSE_RATE):
        raise AudioError(
            f"'{path}' has {frames * channels / 1e6:.0f} million samples; the limit is {most / 1e6:.0f} million, which is "
            f"{max_minutes:g} min of {MAX_CHANNELS} channels at {DENSE_RATE} Hz: resample it, fold it, or raise --max-minutes"
        )


def _check_samples(path: str | Path, samples: Tensor, rate: int) -> None:
    seconds = samples.shape[1] / rate
    if seconds < MIN_SECONDS:
        raise AudioError(f"'{path}' lasts {1000 * seconds:.1f} ms; the least is {1000 * MIN_SECONDS:g} ms: use a longer sound")
    if not _all_finite(samples):
        bad = int((~samples.isfinite()).sum())
        raise AudioError(f"'{path}' has {bad} samples that are NaN or infinite; only finite samples can be used: export it again")


def _check_writable(path: str | os.PathLike, samples: Tensor, sample_rate: int, bits: int) -> None:
    if bits not in (16, 24):
        raise ParameterError(f"bits is {bits}; a WAV file is written with 16 or 24")
    if samples.ndim != 2 or samples.numel() == 0:
        raise ParameterError(f"samples have shape {list(samples.shape)}; give [channels, N] with N >= 1")
    if int(sample_rate) < 1:
        raise ParameterError(f"sample_rate is {sample_rate}; it must be at least 1 Hz")
    if not _all_finite(samples.detach()):
        raise AudioError(f"'{path}' was not written: the samples hold NaN or infinity; lower the strength of the edit")


def _all_finite(samples: Tensor) -> bool:
    """Whether no sample is NaN or infinite; any that is reaches the extremes, so there is no mask nor copy in memory."""
    return bool(torch.stack(samples.aminmax()).isfinite().all())


def _peak(samples: Tensor) -> float:
    return float(torch.stack(samples.aminmax()).abs().max())


def _warn_of_clipping(samples: Tensor) -> None:
    if (peak := _peak(samples)) > 1:
        over = 20 * math.log10(peak)
        warnings.warn(f"the sound was clipped: its peak is {over:.1f} dB over full scale; lower it by that much", stacklevel=3)


def _quantise(samples: Tensor, bits: int) -> Tensor:
    """Return integers as soundfile wants them: int16, or int32 with 24 bits in the upper bytes."""
    full = 2 ** (bits - 1)
    integers = (samples.double() * full).round().clamp(-full, full - 1)
    return integers.to(torch.int16) if bits == 16 else (integers * 256).to(torch.int32)


def _reduced(from_rate: int, to_rate: int) -> Fraction:
    """Return to/from in lowest terms, both terms at most MAX_PHASES."""
    if to_rate > from_rate:
        return 1 / Fraction(from_rate, to_rate).limit_denominator(MAX_PHASES)
    return Fraction(to_rate, from_rate).limit_denominator(MAX_PHASES)


def _to_length(samples: Tensor, length: int) -> Tensor:
    missing = length - samples.shape[-1]
    return torch.nn.functional.pad(samples, (0, missing)) if missing > 0 else samples[..., :length]
