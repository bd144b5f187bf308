"""Score an SAE on recordings it was not trained on: reconstruction, probes beside their baselines, control on decoded sound."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
import torchaudio
from torch import Tensor

from sae_audio.activations import ActivationStore
from sae_audio.calibration import Clips, Heard, Hold, Measure, Trial, axis_trial, isolation, shift_trial
from sae_audio.control import AUDIBLE_DB, AXES, ControlVector
from sae_audio.descriptors import Descriptors, describe
from sae_audio.errors import DataError, ParameterError
from sae_audio.latent_spaces.base import Codec
from sae_audio.metrics import fvu, matched_cosines, r2
from sae_audio.probes import Probe, ProbeScore, acts_matrix, fit_probe, fit_ridge, majority_class, score_probe
from sae_audio.properties import Property, axis_values
from sae_audio.sae import SAE
from sae_audio.sae.init import decoder_rows
from sae_audio.sae.sparse import csr
from sae_audio.training import started_sae
from sae_audio.units import hz_to_midi, to_db

Reader = Callable[[Tensor], Tensor]
"""Latents [N, d_in] -> what a probe reads, [N, n], dense or sparse CSR."""
MIN_CLASS_FRAMES = 20
"""A property is probed when at least two of its classes have this many training frames."""
SHIFTS = (2, 5, 12, -5)
"""Semitones asked for when pitch control is scored."""
LOUDNESS_STEPS = (-12.0, -6.0, 6.0, 12.0)
"""Decibels asked for when loudness control is scored."""
BRIGHTNESS_STEPS = (-0.5, 0.5)
"""Octaves of spectral centroid asked for when brightness control is scored."""

ALIKE = (0.7, 0.9)
"""Cosines above which a feature counts as found again in another run."""
MOST_MATCHED = 4096
"""Features of an SAE that are looked for in another run, drawn at random beyond; the matching takes their number cubed."""


class Frames(NamedTuple):
    """Frames of one split, as flat tensors."""

    latents: Tensor
    """[N, d_in]."""
    descriptors: Descriptors
    """Each [N]."""
    recordings: Tensor
    """int64 [N]; frames of one recording stand together."""


def frames_of(store: ActivationStore, split: str) -> Frames:
    """Return all frames of a split; ``DataError`` if it has none."""
    latents = store.latents(split)
    if not len(latents):
        raise DataError(f"the {split} split has no recording; add more files (ten or more give every split some)")
    return Frames(latents, store.descriptors(split), store.recordings(split))


def sample(frames: Frames, limit: int, seed: int = 0) -> Frames:
    """Return at most ``limit`` frames, drawn at random without replacement and kept in order."""
    n = len(frames.latents)
    if n <= limit:
        return frames
    rows = torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:limit].sort().values
    return Frames(frames.latents[rows], Descriptors(*(column[rows] for column in frames.descriptors)), frames.recordings[rows])


def readers(sae: SAE, latents: Tensor, seed: int = 0) -> dict[str, Reader]:
    """Return what is probed: the activations, and the baselines without which their accuracy means nothing.

    ``latents``: as they are. ``pca``: as many principal components as the SAE has active features per frame. ``random``: a
    random dictionary of the same size, the same number kept per frame. ``untrained``: an SAE as training starts it.

    Parameters
    ----------
    sae : SAE
        A trained SAE.
    latents : Tensor [N, d_in]
        Training latents, for the principal components and the untrained SAE's scaling.
    seed : int
        Of the random dictionary and the untrained SAE.
    """
    config = sae.config
    active = max(1, round(float((sae.encode(latents[:4096]) > 0).sum(-1).float().mean())))
    untrained = started_sae(latents, config, seed).eval()
    components = _principal_components(sae.standardise(latents), min(active, config.d_in))
    dictionary = torch.randn(config.d_in, config.d_sae, generator=torch.Generator().manual_seed(seed + 2))
    return {
        "acts": lambda x: acts_matrix(sae, x),
        "latents": lambda x: x,
        "pca": lambda x: sae.standardise(x) @ components,
        "random": lambda x: _keep_largest(sae.standardise(x), dictionary, active),
        "untrained": lambda x: acts_matrix(untrained, x),
    }


def stability(sae: SAE, others: Sequence[SAE], latents: Tensor) -> dict:
    """Return how many features of an SAE come again in SAEs of other seeds, by the Hungarian matching of their decoder rows.

    Only features that fire on these latents are matched. ``random`` is the same figure for dictionaries of random directions:
    what so many features in so few channels share by chance.

    Parameters
    ----------
    sae : SAE
        The SAE.
    others : sequence of SAE
        Trained on the same latents in the same way from other seeds; at least one.
    latents : Tensor [N, d_in]
        Held-out frames.

    Returns
    -------
    dict
        ``seeds`` (number of others), ``steady`` and ``random``, each with ``mean_cosine`` and ``above_0.7``, ``above_0.9``:
        shares of the matched features, averaged over the others.
    """
    dictionaries = [one.W_dec.detach()[_fires(one, latents)] for one in (sae, *others)]
    chance = [decoder_rows(len(rows), sae.config.d_in, 1_000 + i) for i, rows in enumerate(dictionaries)]
    return {"seeds": len(others), "steady": _alike(dictionaries), "random": _alike(chance)}


def _alike(dictionaries: Sequence[Tensor]) -> dict:
    first, *rest = dictionaries
    first = first[torch.randperm(len(first), generator=torch.Generator().manual_seed(0))[:MOST_MATCHED]]
    cosines = [matched_cosines(first, other).double() for other in rest]
    shares = {f"above_{level}": sum(float((c > level).double().mean()) for c in cosines) / len(cosines) for level in ALIKE}
    return {"mean_cosine": sum(float(c.mean()) for c in cosines) / len(cosines), **shares}


@torch.no_grad()
def _fires(sae: SAE, latents: Tensor) -> Tensor:
    """Features that fire at least once, bool [d_sae]."""
    return torch.stack([(sae.encode(part) > 0).any(0) for part in latents.split(8192)]).any(0)


def usable_properties(properties: Mapping[str, Property], train: Frames) -> dict[str, Property]:
    """Return the properties that the training frames can teach: at least two classes with ``MIN_CLASS_FRAMES`` frames each."""
    usable = {}
    for name, prop in properties.items():
        found = prop.classes(train.descriptors)
        counts = torch.bincount(found[found >= 0], minlength=prop.n_classes)
        if int((counts >= MIN_CLASS_FRAMES).sum()) >= 2:
            usable[name] = prop
    return usable


def probe_table(
    inputs: Mapping[str, Reader], properties: Mapping[str, Property], train: Frames, validation: Frames, test: Frames
) -> Iterator[tuple[str, str, Probe, ProbeScore]]:
    """Fit and score a probe for every reader and property, yielding each when it is done.

    Parameters
    ----------
    inputs : dict of Reader
        From ``readers``.
    properties : dict of Property
        From ``usable_properties``.
    train, validation, test : Frames
        Splits by recording: weights, penalty and score come from one each.

    Yields
    ------
    (str, str, Probe, ProbeScore)
        Property, reader, probe and its score on ``test``.
    """
    splits = (train, validation, test)
    for reader, read in inputs.items():
        x_train, x_validation, x_test = (read(frames.latents) for frames in splits)
        for name, prop in properties.items():
            y_train, y_validation, y_test = (prop.classes(frames.descriptors) for frames in splits)
            probe = fit_probe(x_train, y_train, prop.n_classes, validation=(x_validation, y_validation), property=name, on=reader)
            yield name, reader, probe, score_probe(probe, x_test, y_test, majority_class(y_train))


def regression_r2(read: Reader, property: str, train: Frames, test: Frames) -> float:
    """Return the held-out R² of a ridge regression of the property (semitones, dB or octaves), over audible frames."""
    weight, bias = fit_ridge(read(train.latents), _audible_axis(train, property))
    target = _audible_axis(test, property)
    defined = target.isfinite()
    return r2((read(test.latents) @ weight + bias)[defined], target[defined])


def reconstruction_metrics(sae: SAE, frames: Frames) -> dict[str, float]:
    """Return fvu, l0, sparsity and the share of features that never fire, on held-out frames."""
    total, reconstruction = torch.zeros(sae.config.d_sae), []
    with torch.no_grad():
        for part in frames.latents.split(8192):
            acts = sae.encode(part)
            total += (acts > 0).sum(0)
            reconstruction.append(sae.decode(acts))
    l0 = float(total.sum()) / len(frames.latents)
    return {
        "fvu": fvu(frames.latents, torch.cat(reconstruction)),
        "l0": l0,
        "sparsity": 1 - l0 / sae.config.d_sae,
        "dead_share": float((total == 0).float().mean()),
        "n_frames": len(frames.latents),
        "n_recordings": frames.recordings.unique().numel(),
    }


def listener(codec: Codec, *, like: Tensor | None = None, mel_bands: int = 64) -> Measure:
    """Return a function that decodes latents and measures the sound.

    Parameters
    ----------
    codec : Codec
        Decodes.
    like : Tensor [B, channels, N], optional
        The audio that the latents came from; see ``Codec.decode``.
    mel_bands : int
        Bands of the log-mel spectrum; 0 leaves it out (empty), which saves memory where nobody reads it.
    """
    spec = codec.spec
    mel = torchaudio.transforms.MelSpectrogram(
        spec.sample_rate, n_fft=1024, hop_length=spec.sample_rate // 100, n_mels=max(1, mel_bands), pad_mode="constant"
    )

    def measure(latents: Tensor) -> Heard:
        with torch.no_grad():
            audio = codec.decode(latents, like=like).cpu()
        log_mel = (mel(audio.mean(1)) + 1e-5).log() if mel_bands else torch.empty(len(audio), 0, 0)
        return Heard(audio, describe(audio, spec.sample_rate, spec.hop_length), log_mel)

    return measure


def hold_of(controls: Mapping[str, ControlVector], frame_rate: float, suffix: str = "") -> Hold | None:
    """Return the axes that close the loop, None where a bundle lacks one of them or they were measured to do nothing.

    Parameters
    ----------
    controls : dict of ControlVector
        Of a bundle.
    frame_rate : float
        Latent frames per second; the loudness correction is averaged over 0.3 s.
    suffix : str
        ``/latents`` takes the baseline's axes.
    """
    if not {f"loudness{suffix}", f"brightness{suffix}"} <= set(controls):
        return None
    smoothing = 2 * round(0.15 * frame_rate) + 1
    hold = Hold(controls[f"loudness{suffix}"], controls[f"brightness{suffix}"], smoothing)
    return hold if abs(float(torch.linalg.det(hold.jacobian()))) > 1e-6 else None


def held_out_clips(
    frames: Frames, pitch: Property | None, frame_rate: float, *, seconds: float = 3.0, n_clips: int = 12
) -> Clips:
    """Cut one clip from each of up to ``n_clips`` recordings: its most voiced stretch, over recordings evenly spread.

    Parameters
    ----------
    frames : Frames
        Of a held-out split.
    pitch : Property, optional
        Pitch classes; None where the space has no usable pitch.
    frame_rate : float
        Frames per second, in Hz.
    seconds : float
        Length of a clip; shortened to the longest recording.
    n_clips : int
        Clips at most.
    """
    starts, counts = _spans(frames.recordings)
    length = min(round(seconds * frame_rate), int(counts.max()))
    voiced = torch.cat([torch.zeros(1), frames.descriptors.f0.isfinite().float().cumsum(0)])
    windows = []
    for start, count in zip(starts.tolist(), counts.tolist(), strict=True):
        if count < length:
            continue
        shares = voiced[start + length : start + count + 1] - voiced[start : start + count + 1 - length]
        windows.append((float(shares.max()) / length, start + int(shares.argmax())))
    pitched = [begin for share, begin in windows if share >= 0.5] or [begin for _, begin in windows]
    chosen = [pitched[round(i)] for i in torch.linspace(0, len(pitched) - 1, min(n_clips, len(pitched))).tolist()]
    rows = torch.stack([torch.arange(begin, begin + length) for begin in chosen])
    f0 = frames.descriptors.f0[rows]
    notes = torch.full(rows.shape, -1) if pitch is None else pitch.classes(Descriptors(*(c[rows] for c in frames.descriptors)))
    return Clips(frames.latents[rows], notes, hz_to_midi(f0))


def control_trials(vector: ControlVector, sae: SAE, clips: Clips, measure: Measure, hold: Hold | None = None) -> Iterator[Trial]:
    """Ask a control for its standard amounts on held-out clips and measure the sound.

    Pitch is asked for ``SHIFTS``, loudness for ``LOUDNESS_STEPS``, brightness for ``BRIGHTNESS_STEPS``.
    """
    before = measure(clips.latents)
    if vector.property == "pitch":
        for shift in SHIFTS:
            yield shift_trial(vector, sae, clips, before, measure, shift, vector.best_strength(), hold)
        return
    for amount in LOUDNESS_STEPS if vector.property == "loudness" else BRIGHTNESS_STEPS:
        yield axis_trial(vector, sae, clips, before, measure, amount, hold)


def spreads(train: Frames) -> list[float]:
    """Return the standard deviation of pitch (semitones), loudness (dB) and brightness (octaves) over the audible frames."""
    values = [_audible_axis(train, name) for name in AXES]
    spread = [float(v[v.isfinite()].std()) for v in values]
    return [s if s > 0 else 1.0 for s in spread]


def isolation_of(trial: Trial, spread: Sequence[float]) -> float:
    """Return the trial's on-target over off-target change; see ``calibration.isolation``."""
    return isolation(trial.reached, trial.stray, AXES.index(trial.property), spread)


def property_sets(mode: str, train: Frames) -> dict[str, Property]:
    """Return the classes of ``honest`` or ``paper`` mode; see ``properties``."""
    from sae_audio.properties import honest_properties, paper_properties

    if mode not in ("honest", "paper"):
        raise ParameterError(f"mode is '{mode}'; use 'honest' or 'paper'")
    return (honest_properties if mode == "honest" else paper_properties)(train.descriptors)


def reconstruction_distance(sae: SAE, clips: Clips, measure: Measure) -> float:
    """Return the mean |log-mel difference| between what the codec decodes from latents and from the SAE's reconstruction."""
    with torch.no_grad():
        rebuilt = sae(clips.latents)
    return float((measure(rebuilt).log_mel - measure(clips.latents).log_mel).abs().mean())


def _audible_axis(frames: Frames, name: str) -> Tensor:
    """A property on its axis, NaN where undefined or quieter than ``AUDIBLE_DB``: silence would otherwise be half its spread."""
    values = axis_values(frames.descriptors, name)
    return torch.where(to_db(frames.descriptors.rms) > AUDIBLE_DB, values, torch.nan)


def _principal_components(standardised: Tensor, n: int) -> Tensor:
    covariance = (standardised - standardised.mean(0)).T.cov()
    return torch.linalg.eigh(covariance).eigenvectors[:, -n:]


def _keep_largest(x: Tensor, dictionary: Tensor, k: int) -> Tensor:
    """ReLU of random projections with the k largest kept per row, as sparse CSR [N, d_sae]."""
    values, indices = zip(*((part @ dictionary).topk(k, sorted=False) for part in x.split(8192)), strict=True)
    rows = torch.arange(len(x)).repeat_interleave(k)
    return csr(rows, torch.cat(indices).reshape(-1), torch.cat(values).relu().reshape(-1), (len(x), dictionary.shape[1]))


def _spans(recordings: Tensor) -> tuple[Tensor, Tensor]:
    """First frame and number of frames of each recording."""
    _, counts = recordings.unique_consecutive(return_counts=True)
    return counts.cumsum(0) - counts, counts
