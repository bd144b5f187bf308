"""Figures: 1200 pixels wide, labelled in units, showing the numbers they were given, the same bytes every time."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from tiny_bundle import score, tiny_bundle

from sae_audio import plots
from sae_audio.descriptors import Descriptors
from sae_audio.property_sets import honest_properties

RATE, HOP = 16000, 320


@pytest.fixture(scope="module")
def bundle():
    return tiny_bundle()


def tone(seconds=2.0, frequency=1000.0):
    return 0.5 * torch.sin(2 * torch.pi * frequency * torch.arange(int(seconds * RATE)) / RATE)[None]


def steady(n=100, f0=440.0, level_db=-20.0, centroid=2000.0):
    values = {"f0": f0, "rms": 10 ** (level_db / 20), "centroid": centroid}
    return Descriptors.of(**{name: torch.full((n,), value) for name, value in values.items()})


def every_figure(bundle):
    posterior = {name: torch.eye(p.n_classes)[torch.arange(100) % p.n_classes] for name, p in bundle.properties.items()}
    points = [
        {"property": "pitch", "variant": v, "l0": float(n), "setting": n, "accuracy": 0.1 * n / 8 + 0.02 * seed}
        for v in ("topk", "relu")
        for n in (8, 16)
        for seed in range(3)
    ]
    trials = bundle.metrics["control"]["trials"]
    return {
        "heatmap": lambda: plots.activation_heatmap(tone(), RATE, torch.eye(3).repeat(34, 1)[:100], ["1 a", "2 b", "3 c"], 50.0),
        "posteriors": lambda: plots.posteriors(posterior, bundle.properties, steady(), 50.0),
        "before_after": lambda: plots.before_after(steady(), steady(level_db=-26.0), 50.0),
        "side_by_side": lambda: plots.side_by_side({"a": tone(), "b": tone() / 2, "c": tone(frequency=300.0)}, RATE),
        "training": lambda: plots.training_curves([{"step": 1, "fvu": 0.5, "l0": 3.0, "dead": 0.0, "validation_fvu": 0.6}] * 2),
        "probes": lambda: plots.probe_scores(bundle.metrics["probes"]),
        "decodability": lambda: plots.decodability(points, {"pitch": {"raw latents": 0.4}}),
        "dose": lambda: plots.dose_response(bundle.controls),
        "isolation": lambda: plots.isolation_matrix(trials, [8.0, 9.0, 0.7]),
        "tuning": lambda: plots.tuning_map(bundle.atlas, bundle.properties),
    }


SOUND = ("heatmap", "posteriors", "before_after", "side_by_side")
NAMES = (*SOUND, "training", "probes", "decodability", "dose", "isolation", "tuning")


@pytest.mark.parametrize("name", NAMES)
def test_size_ink_margins_and_bytes(bundle, name):
    draw = every_figure(bundle)[name]
    figure = draw()
    content = plots.png(figure)
    image = imread(io.BytesIO(content))
    assert image.shape[1] == 1200 and 200 <= image.shape[0] <= 1200
    assert image[..., :3].std() > 0.03  # not blank
    assert b"Software" not in content and b"tIME" not in content
    for text in texts_of(figure):
        extent = text.get_window_extent()
        inside = extent.x0 >= -1 and extent.x1 <= 1201 and extent.y0 >= -1 and extent.y1 <= figure.bbox.y1 + 1
        assert inside or not text.get_text(), text.get_text()


@pytest.mark.parametrize("name", ["heatmap", "isolation"])
def test_same_bytes_every_time(bundle, name):
    draw = every_figure(bundle)[name]
    assert plots.png(draw()) == plots.png(draw())


def texts_of(figure):
    """Labels, titles and the tick labels that are drawn."""
    for ax in figure.axes:
        yield from (ax.title, ax.xaxis.label, ax.yaxis.label, *ax.texts)
        for axis, limits in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
            for tick in axis.get_major_ticks():
                if min(limits) <= tick.get_loc() <= max(limits) and tick.label1.get_visible():
                    yield tick.label1


def labels_of(figure):
    texts = [t.get_text() for ax in figure.axes for t in (ax.title, ax.xaxis.label, ax.yaxis.label)]
    return " | ".join(texts + [ax.get_title(loc="left") for ax in figure.axes])


def test_labels_name_units(bundle):
    figures = {name: labels_of(draw()) for name, draw in every_figure(bundle).items()}
    assert "time (s)" in figures["heatmap"] and "frequency (kHz)" in figures["heatmap"]
    assert "loudness (dBFS)" in figures["posteriors"] and "time (s)" in figures["posteriors"]
    assert "brightness (kHz)" in figures["before_after"] and "pitch (MIDI semitones)" in figures["before_after"]
    for unit in ("pitch (semitones)", "loudness (dB)", "brightness (octaves)", "strength (nominal dB)"):
        assert unit in figures["dose"]


def test_spectrogram_puts_the_tone_at_its_frequency():
    figure = plots.activation_heatmap(tone(frequency=3000.0), RATE, torch.ones(100, 1), ["1"], 50.0)
    image = figure.axes[0].images[0]
    level = np.asarray(image.get_array())
    left, right, bottom, top = image.get_extent()
    assert (left, right, bottom, top) == (0, 2.0, 0, 8.0)
    assert np.argmax(level[:, level.shape[1] // 2]) / (level.shape[0] - 1) * top == pytest.approx(3.0, abs=0.05)


def test_heatmap_rows_are_the_activations_on_the_time_axis():
    acts = torch.zeros(100, 2)
    acts[25:50, 1] = 4.0
    image = plots.activation_heatmap(tone(), RATE, acts, ["0 a", "1 b"], 50.0).axes[1].images[0]
    shown = np.asarray(image.get_array())
    assert image.get_extent()[:2] == [0, 2.0] and shown.shape == (2, 100)
    assert shown[0].max() == 0 and shown[1, 25:50].min() == 1 and shown[1].sum() == 25


def test_long_sound_is_pooled_and_a_single_spike_stays_visible():
    acts = torch.zeros(60_000, 1)
    acts[31_234] = 2.0
    shown = np.asarray(plots.activation_heatmap(tone(), RATE, acts, ["0"], 50.0).axes[1].images[0].get_array())
    assert shown.shape == (1, 2400) and shown.max() == 1 and shown.argmax() == 31_234 // 25


def test_measured_value_lies_on_its_class(bundle):
    prop = honest_properties()["pitch"]
    posterior = torch.eye(66)[torch.full((100,), prop.class_index("A4"))]
    figure = plots.posteriors({"pitch": posterior}, {"pitch": prop}, steady(f0=440.0), 50.0)
    ax = figure.axes[0]
    image = ax.images[0]
    low, high = image.get_extent()[2:]
    row = np.asarray(image.get_array())[:, 0].argmax()
    centre = low + (row + 0.5) * (high - low) / 66
    assert centre == pytest.approx(69.0) and ax.lines[0].get_ydata()[0] == pytest.approx(69.0)


def test_dose_response_draws_the_measurements(bundle):
    figure = plots.dose_response(bundle.controls)
    control = bundle.controls["loudness"]
    columns = [ax for ax in figure.axes if "loudness (dB)" in ax.get_ylabel()]
    curves = [line for ax in columns for line in ax.lines if np.allclose(line.get_ydata(), control.responses[:, 1])]
    assert curves and np.allclose(curves[0].get_xdata(), control.doses)
    uncalibrated = {"pitch": bundle.controls["pitch"]} | {"loudness": control}
    assert len(plots.dose_response(uncalibrated).axes) == 3


def test_isolation_writes_every_number(bundle):
    figure = plots.isolation_matrix(bundle.metrics["control"]["trials"], [8.0, 9.0, 0.7])
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == ["+2.0 semitones", "+0.2 dB", "+0.01 octaves", "not measured", "-5.8 dB", "+0.05 octaves"]


def test_decodability_is_the_mean_over_seeds_with_their_range():
    points = [{"property": "pitch", "variant": "topk", "l0": 8, "accuracy": a} for a in (0.2, 0.3, 0.7)]
    container = plots.decodability(points, {}).axes[0].containers[0]
    assert container.lines[0].get_ydata()[0] == pytest.approx(0.4)
    ((low, high),) = container.lines[2][0].get_segments()
    assert (low[1], high[1]) == (pytest.approx(0.2), pytest.approx(0.7))


def test_bundle_figures_are_what_the_bundle_can_show_and_can_be_saved(bundle, tmp_path):
    figures = plots.bundle_figures(bundle)
    assert figures.keys() == {"training.png", "probes.png", "dose_response.png", "isolation.png", "tuning.png"}
    folder = replace(bundle, figures=figures).save(tmp_path / "b")
    assert (folder / "figures" / "probes.png").read_bytes() == figures["probes.png"]
    bare = replace(bundle, metrics={}, history=[], controls={})
    assert plots.bundle_figures(bare).keys() == {"tuning.png"}


def test_bars_are_balanced_accuracies():
    figure = plots.probe_scores({"pitch": {"acts": score(0.8), "latents": score(0.6)}})
    assert [bar.get_width() for bar in figure.axes[0].patches] == [pytest.approx(0.7), pytest.approx(0.5)]
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["SAE features", "raw latents"]


def test_no_function_touches_pyplot():
    for path in Path(plots.__file__).parent.glob("*.py"):
        code = "\n".join(line for line in path.read_text().splitlines() if "import" in line or "plt" in line)
        assert "pyplot" not in code and "plt" not in code
