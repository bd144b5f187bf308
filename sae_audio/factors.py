"""Factors: what is known of a clip without any model, one number each, for ``disentanglement`` to look for.

``egemaps`` gives the 88 functionals of eGeMAPSv02 (Eyben et al., IEEE Trans. Affective Computing 7(2), 2016), the factors of
arXiv 2509.24793, through the ``opensmile`` package. That is free for research and education only (audEERING's licence), so it is
optional: ``pip install opensmile``. ``own_factors`` gives fewer, from this project's descriptors, without it.

Families are an explicit table. That paper files names by the parts they contain, in which the harmonic differences (H1-H2, H1-A3)
count as pitch since their names contain "F0", and loudness peaks per second as loudness; ``family(…, published=True)`` does the
same, to compare with its counts. "Formants" holds frequencies, bandwidths and amplitudes: in its lists only amplitudes appear.
"""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import torch
from torch import Tensor

from sae_audio.descriptors import describe
from sae_audio.errors import ParameterError
from sae_audio.units import hz_to_midi, to_db

FAMILIES = ("pitch", "formants", "quality", "MFCC", "spectral", "loudness", "rhythm")
FRAME_SECONDS = 0.01
"""Hop of the descriptors behind ``own_factors``."""


EGEMAPS: dict[str, str] = {
    "F0semitoneFrom27.5Hz": "pitch",
    "F1frequency": "formants",
    "F1bandwidth": "formants",
    "F1amplitudeLogRelF0": "formants",
    "F2frequency": "formants",
    "F2bandwidth": "formants",
    "F2amplitudeLogRelF0": "formants",
    "F3frequency": "formants",
    "F3bandwidth": "formants",
    "F3amplitudeLogRelF0": "formants",
    "jitterLocal": "quality",
    "shimmerLocaldB": "quality",
    "HNRdBACF": "quality",
    "logRelF0-H1-H2": "quality",
    "logRelF0-H1-A3": "quality",
    "mfcc1": "MFCC",
    "mfcc2": "MFCC",
    "mfcc3": "MFCC",
    "mfcc4": "MFCC",
    "mfcc1V": "MFCC",
    "mfcc2V": "MFCC",
    "mfcc3V": "MFCC",
    "mfcc4V": "MFCC",
    "spectralFlux": "spectral",
    "spectralFluxV": "spectral",
    "spectralFluxUV": "spectral",
    "alphaRatioV": "spectral",
    "alphaRatioUV": "spectral",
    "hammarbergIndexV": "spectral",
    "hammarbergIndexUV": "spectral",
    "slopeV0-500": "spectral",
    "slopeV500-1500": "spectral",
    "slopeUV0-500": "spectral",
    "slopeUV500-1500": "spectral",
    "loudness": "loudness",
    "equivalentSoundLevel": "loudness",
    "loudnessPeaksPerSec": "rhythm",
    "VoicedSegmentsPerSec": "rhythm",
    "MeanVoicedSegmentLengthSec": "rhythm",
    "StddevVoicedSegmentLengthSec": "rhythm",
    "MeanUnvoicedSegmentLength": "rhythm",
    "StddevUnvoicedSegmentLength": "rhythm",
}
"""Family of every curve; a column is a curve and, after ``_``, how it is smoothed and which statistic is taken."""
PUBLISHED = {"logRelF0-H1-H2": "pitch", "logRelF0-H1-A3": "pitch", "loudnessPeaksPerSec": "loudness"}
"""Where the rules of arXiv 2509.24793 differ from ``EGEMAPS``."""
OWN: dict[str, str] = {
    "pitch mean": "pitch",
    "pitch spread": "pitch",
    "pitch 20 %": "pitch",
    "pitch 80 %": "pitch",
    "pitch movement": "pitch",
    "level mean": "loudness",
    "level spread": "loudness",
    "level 20 %": "loudness",
    "level 80 %": "loudness",
    "level movement": "loudness",
    "centroid mean": "spectral",
    "centroid spread": "spectral",
    "centroid 20 %": "spectral",
    "centroid 80 %": "spectral",
    "centroid movement": "spectral",
    "voiced share": "rhythm",
}
"""Family of each column of ``own_factors``."""


def family(name: str, published: bool = False) -> str:
    """Return the family of a column of ``egemaps`` or ``own_factors``.

    Parameters
    ----------
    name : str
        For example ``F0semitoneFrom27.5Hz_sma3nz_amean`` or ``level mean``.
    published : bool
        As arXiv 2509.24793 files it.

    Raises
    ------
    ParameterError
        No such column.
    """
    curve = name.split("_")[0]
    found = OWN.get(name) or (PUBLISHED.get(curve) if published else None) or EGEMAPS.get(curve)
    if found is None:
        raise ParameterError(f"'{name}' is neither an eGeMAPSv02 column nor one of {', '.join(OWN)}")
    return found


def egemaps_names() -> list[str]:
    """Return the names of the 88 columns of ``egemaps``, in order; ``ParameterError`` where the package is not installed."""
    return list(_smile().feature_names)


def egemaps(samples: Tensor, sample_rate: int) -> Tensor:
    """Return the eGeMAPSv02 functionals of one clip.

    Parameters
    ----------
    samples : Tensor [C, N]
        Float samples, nominally in [-1, 1]; channels are averaged. At the clip's own rate: nothing is resampled.
    sample_rate : int
        Hz.

    Returns
    -------
    Tensor [88]
        float64, in the order of ``egemaps_names``; NaN where openSMILE cannot tell, as in clips of less than 60 ms.

    Raises
    ------
    ParameterError
        The package is not installed.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Segment too short")  # the NaN say so
        table = _smile().process_signal(samples.mean(0).numpy(), sample_rate)
    return torch.tensor(table.to_numpy()[0], dtype=torch.float64)


def own_factors(samples: Tensor, sample_rate: int) -> Tensor:
    """Return statistics of pitch (semitones), level (dBFS) and spectral centroid (octaves above 1 Hz) of one clip.

    Mean, standard deviation, 20 and 80 % quantiles, and movement: the mean |change| per second. Frames are 10 ms apart; pitch
    counts voiced frames only.

    Parameters
    ----------
    samples : Tensor [C, N]
        Float samples, nominally in [-1, 1]; channels are averaged.
    sample_rate : int
        Hz.

    Returns
    -------
    Tensor [16]
        float64, in the order of ``OWN``; NaN for the pitch of a clip without voiced frames.
    """
    measured = describe(samples[None], sample_rate, round(FRAME_SECONDS * sample_rate))
    curves = hz_to_midi(measured.f0[0]), to_db(measured.rms[0]), measured.centroid[0].log2()
    voiced = measured.f0[0].isfinite().double().mean()
    return torch.cat([*(_summary(curve.double()) for curve in curves), voiced[None]])


def _summary(curve: Tensor) -> Tensor:
    known = curve[curve.isfinite()]
    if not known.numel():
        return torch.full((5,), torch.nan, dtype=torch.float64)
    low, high = known.quantile(known.new_tensor([0.2, 0.8]))
    return torch.stack([known.mean(), known.std(correction=0), low, high, curve.diff().abs().nanmean() / FRAME_SECONDS])


@cache
def _smile() -> Any:
    try:
        import opensmile
    except ImportError:
        raise ParameterError(
            "eGeMAPS needs the package opensmile (free for research and education); install it with pip install opensmile, "
            "or take --factors own"
        ) from None
    return opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.Functionals)
