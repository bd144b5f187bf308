"""Figures of one sound: features over its spectrogram, what the probes read, before and after steering."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sae_audio.control import AXES
from sae_audio.descriptors import Descriptors
from sae_audio.plots.style import BLUE, GREY, MAP, MOST_COLUMNS, RED, class_ticks, colorbar, dress, new_figure, pooled
from sae_audio.properties import Property, axis_values
from sae_audio.spectrum import log_mel_db, mel_height

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

AXIS_LABELS = {"pitch": "pitch (note)", "loudness": "loudness (dBFS)", "brightness": "brightness (spectral centroid)"}


def activation_heatmap(audio: Tensor, sample_rate: int, acts: Tensor, labels: Sequence[str], frame_rate: float) -> Figure:
    """Draw chosen features over the spectrogram of the same sound, on one time axis.

    Parameters
    ----------
    audio : Tensor [C, N]
        Samples; channels are averaged.
    sample_rate : int
        In Hz.
    acts : Tensor [T, n]
        Activations of the chosen features, at least 0; one row of the figure each, scaled to its own maximum.
    labels : sequence of str
        n row labels, for example ``42 pitch ≈ C5``.
    frame_rate : float
        Frames per second, in Hz.
    """
    figure = new_figure(4.2 + 0.3 * len(labels))
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3.2, 0.3 * len(labels) + 0.4])
    seconds = audio.shape[-1] / sample_rate
    _spectrogram(top, audio.detach().cpu().float().mean(0), sample_rate)
    peak = acts.amax(0)
    rows = pooled((acts / peak.clamp(min=1e-9)).T, "max")
    extent = (0, acts.shape[0] / frame_rate, len(labels) - 0.5, -0.5)
    image = bottom.imshow(rows, aspect="auto", cmap=MAP, vmin=0, vmax=1, extent=extent, interpolation="nearest")
    bottom.set_yticks(range(len(labels)), [f"{name}  (max {m:.2g})" for name, m in zip(labels, peak.tolist(), strict=True)])
    dress(bottom, "time (s)", "", "features: activation relative to the largest of the row")
    bottom.set_xlim(0, seconds)
    colorbar(figure, image, bottom, "activation / maximum")
    return figure


def posteriors(
    probabilities: Mapping[str, Tensor], properties: Mapping[str, Property], descriptors: Descriptors, frame_rate: float
) -> Figure:
    """Draw what the probes read off each frame, with the measured descriptor on top.

    Parameters
    ----------
    probabilities : dict of Tensor [T, n_classes]
        Posterior of each property's classes.
    properties : dict of Property
        Their classes.
    descriptors : Descriptors
        Measured on the same sound, each [T].
    frame_rate : float
        Frames per second, in Hz.
    """
    figure = new_figure(0.6 + 2.7 * len(probabilities))
    panels = figure.subplots(len(probabilities), 1, sharex=True, squeeze=False)[:, 0]
    for ax, (name, values) in zip(panels, probabilities.items(), strict=True):
        prop = properties[name]
        extent = (0, len(values) / frame_rate, prop.edges[0], prop.edges[-1])
        image = ax.imshow(pooled(values.T, "mean"), aspect="auto", origin="lower", cmap=MAP, vmin=0, vmax=1, extent=extent)
        measured = prop.axis(descriptors).cpu().numpy()
        times = (np.arange(len(measured)) + 0.5) / frame_rate
        ax.plot(times, measured, ".-", color=RED, linewidth=1.2, markersize=2, label="measured")
        ax.set_ylim(prop.edges[0], prop.edges[-1])
        class_ticks(ax, prop)
        dress(ax, "", AXIS_LABELS.get(name, name))
        colorbar(figure, image, ax, "probability")
    panels[0].legend(loc="upper right", fontsize=11)
    panels[0].set_title("what the probes read off each frame", fontsize=13, loc="left")
    panels[-1].set_xlabel("time (s)", fontsize=12)
    return figure


def before_after(before: Descriptors, after: Descriptors, frame_rate: float) -> Figure:
    """Draw pitch, loudness and brightness of a sound and of its steered version.

    Parameters
    ----------
    before, after : Descriptors
        Measured on both sounds, each [T].
    frame_rate : float
        Frames per second, in Hz.
    """
    figure = new_figure(7.5)
    panels = figure.subplots(3, 1, sharex=True)
    labels = ("pitch (MIDI semitones)", "loudness (dBFS)", "brightness (kHz)")
    for ax, name, label in zip(panels, AXES, labels, strict=True):
        for descriptors, colour, width, text in ((before, GREY, 4, "original"), (after, BLUE, 1.8, "steered")):
            values = axis_values(descriptors, name).cpu().numpy()
            values = 2**values / 1000 if name == "brightness" else values
            times = (np.arange(len(values)) + 0.5) / frame_rate
            ax.plot(times, values, color=colour, linewidth=width, label=text)
        dress(ax, "", label, grid=True)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=2, fontsize=11, frameon=False)
    panels[0].set_title("measured on the sound", fontsize=13, loc="left")
    panels[-1].set_xlabel("time (s)", fontsize=12)
    return figure


def side_by_side(sounds: Mapping[str, Tensor], sample_rate: int) -> Figure:
    """Draw the spectrograms of several sounds of one length beside each other, on one scale of level.

    Parameters
    ----------
    sounds : mapping of Tensor [C, N]
        By title.
    sample_rate : int
        Of all of them, in Hz.
    """
    levels = {title: log_mel_db(samples, sample_rate) for title, samples in sounds.items()}
    top = max(float(level.max()) for level in levels.values())
    figure = new_figure(4.0)
    panels = figure.subplots(1, len(levels), sharey=True, squeeze=False)[0]
    marks = [hz for hz in (125, 250, 500, 1000, 2000, 4000, 8000, 16000) if hz < sample_rate / 2]
    for ax, (title, level) in zip(panels, levels.items(), strict=True):
        seconds = sounds[title].shape[-1] / sample_rate
        extent = (0, seconds, 0, 1)
        image = ax.imshow(
            level.numpy(), aspect="auto", origin="lower", cmap="magma", vmin=top - 75, vmax=top, extent=extent, rasterized=True
        )
        dress(ax, "time (s)", "frequency (Hz)" if ax is panels[0] else "", title)
        ax.set_yticks([float(mel_height(hz, sample_rate)) for hz in marks], [f"{hz:,}" for hz in marks])
    colorbar(figure, image, panels, "level (dB)")
    return figure


def _spectrogram(ax: Axes, samples: Tensor, sample_rate: int) -> None:
    """Level in dB below the loudest bin, windows of about 50 ms, up to 10 kHz."""
    n_fft = 2 ** round(torch.log2(torch.tensor(0.05 * sample_rate)).item())
    hop = max(n_fft // 8, -(-len(samples) // MOST_COLUMNS))
    spectrum = torch.stft(samples, n_fft, hop, window=torch.hann_window(n_fft), return_complex=True, pad_mode="constant").abs()
    level = 20 * torch.log10(spectrum / spectrum.max().clamp(min=1e-9) + 1e-6)
    top = sample_rate / 2000
    extent = (0, len(samples) / sample_rate, 0, top)
    ax.imshow(level.numpy(), aspect="auto", origin="lower", cmap="magma", vmin=-80, vmax=0, extent=extent)
    ax.set_ylim(0, min(top, 10))
    dress(ax, "", "frequency (kHz)", "sound: spectrogram, 80 dB range")
