"""Sound files: the only file that touches them. ``read`` turns a file into a ``Sound`` [C, N], ``write`` a sound into a file."""

from __future__ import annotations

import io
import math
import os
import stat
import warnings
from pathlib import Path
from typing import NamedTuple

import soundfile
import torch
from torch import Tensor

from sae_audio.errors import AudioError, ParameterError
from sae_audio.files import write_bytes

MIN_SECONDS = 0.02
MAX_MINUTES = 20.0
MIN_RATE, MAX_RATE = 4_000, 384_000  # Hz
MAX_CHANNELS = 8
DENSE_RATE = 48_000
"""Hz up to which the longest sound may have all channels: samples, not minutes, fill the memory."""
BLOCK = 2**16
"""Frames decoded at a time."""


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
    # Not getbuffer(): where a full disk ends this, early Pythons 3.12 crash when they collect it. Neither copies.
    write_bytes(path, buffer.getvalue())


def full_scale_gain(*sounds: Sound) -> float:
    """Return the factor that brings sounds together to just within full scale, ±1; it is 1 where none goes beyond."""
    peak = max(_peak(sound.samples) for sound in sounds)
    return 1.0 if peak <= 1 else (1 - 2**-15) / peak


def lowered(sound: Sound, gain: float) -> Sound:
    """Return a sound times a factor, such as that of ``full_scale_gain``; the same object where it is 1."""
    return sound if gain == 1 else sound._replace(samples=sound.samples * gain)


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
