"""Results as short tables for people and as plain dictionaries for programs."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from sae_audio.activity import Activity
from sae_audio.audio import Sound
from sae_audio.bundle import Bundle
from sae_audio.cli_output import table
from sae_audio.control import AUDIBLE_DB, AXES, UNITS
from sae_audio.descriptors import Descriptors
from sae_audio.heard import changes, median
from sae_audio.outcome import EDITED_SHARE
from sae_audio.pipeline import View
from sae_audio.properties import axis_values
from sae_audio.units import midi_to_hz, note_name, to_db

SCORES = ("accuracy", "balanced_accuracy", "within_one")
READ_UNITS = {"pitch": "Hz", "loudness": "dBFS", "brightness": "Hz"}


def describe_view(bundle: Bundle, view: View, n_features: int) -> dict:
    """Return what a bundle sees in a sound: descriptors, how far the probes agree, the strongest features."""
    samples = view.sound.samples
    units = READ_UNITS | {name: prop.unit for name, prop in bundle.properties.items() if name not in READ_UNITS}
    return {
        "seconds": samples.shape[1] / view.sound.sample_rate,
        "sample_rate": view.sound.sample_rate,
        "channels": samples.shape[0],
        "frames": len(view.latents),
        "frame_rate": bundle.spec.frame_rate,
        "l0": len(view.acts.values()) / len(view.latents),
        "descriptors": {name: _measured(view.descriptors, name, unit) for name, unit in units.items()},
        "probes": {name: _agreement(bundle, view, name) for name in bundle.properties},
        "features": [_feature(bundle, activity) for activity in view.activity[:n_features]],
    }


def view_lines(name: str, bundle: Bundle, view: View, summary: Mapping) -> list[str]:
    """Return the lines that ``sae-audio analyse`` prints."""
    channels = f"{summary['channels']} channel{'s' if summary['channels'] > 1 else ''}"
    lines = [
        f"{name}: {summary['seconds']:.2f} s, {channels}, {summary['sample_rate']} Hz "
        f"-> {bundle.spec.name}, {summary['frames']} frames at {summary['frame_rate']:.4g} Hz, "
        f"{summary['l0']:.1f} features active",
        "",
    ]
    rows = [
        [prop, *_spoken(prop, summary["descriptors"][prop]), _share(summary["probes"].get(prop, {}).get("within_one_class"))]
        for prop in summary["descriptors"]
    ]
    lines += table(["measured", "median", "10 %", "90 %", "frames", "probe agrees (±1 class)"], rows)
    features = [
        [f["feature"], f["name"], f"{f['share']:.1%}", f"{f['fires']:.0%}", f"{f['peak']:.3g}", f"{f['peak_time']:.2f} s"]
        for f in summary["features"]
    ]
    lines += ["", *table(["feature", "name", "of all activation", "of frames", "peak", "at"], features)]
    return lines


def describe_change(sound: Sound, before: Descriptors, after: Descriptors, mask: Tensor) -> dict:
    """Return what steering made of a sound: medians over the audible frames of the edited part, its length and channels.

    Parameters
    ----------
    sound : Sound
        The steered sound.
    before, after : Descriptors
        Measured on the unsteered and on the steered sound, each [B, T].
    mask : Tensor [T]
        Share of the change that each frame was to get.
    """
    before, after = (_edited(side, mask) for side in (before, after))
    change = median(changes(before, after), 0).tolist()
    return {
        "change": dict(zip(AXES, change, strict=True)),
        "before": {name: _measured(_flat(before), name, READ_UNITS[name]) for name in AXES},
        "after": {name: _measured(_flat(after), name, READ_UNITS[name]) for name in AXES},
        "samples": sound.samples.shape[1],
        "sample_rate": sound.sample_rate,
        "channels": sound.samples.shape[0],
    }


def change_lines(summary: Mapping) -> list[str]:
    """Return the lines that ``sae-audio steer`` prints."""
    rows = []
    for name in AXES:
        change = summary["change"][name]
        moved = "-" if math.isnan(change) else f"{change:+.2f} {UNITS[name]}"
        rows.append([name, _spoken(name, summary["before"][name])[0], _spoken(name, summary["after"][name])[0], moved])
    return table(["measured", "before (median)", "after (median)", "median change"], rows)


def metric_lines(metrics: Mapping) -> list[str]:
    """Return the table of a bundle's figures on held-out recordings, each beside its baselines."""
    sae = metrics["sae"]
    lines = [
        f"SAE on {sae['n_frames']:,} held-out frames of {sae['n_recordings']} recordings: "
        f"share of the variance not explained (FVU) {sae['fvu']:.3f}, features active per frame (l0) {sae['l0']:.1f}, "
        f"features that never fire {sae['dead_share']:.1%}",
    ]
    if again := metrics.get("stability"):
        shares = [
            f"{group['above_0.7']:.0%} (cosine above 0.9: {group['above_0.9']:.0%})"
            for group in (again["steady"], again["random"])
        ]
        lines.append(f"found again from another seed, cosine above 0.7: {shares[0]}; of random directions {shares[1]}")
    for name, scores in metrics.get("probes", {}).items():
        any_score = next(iter(scores.values()))
        rows = [[reader, *(f"{score[key]:.3f}" for key in SCORES)] for reader, score in scores.items()]
        rows.append(["always the most frequent", f"{any_score['majority']:.3f}", f"{1 / any_score['n_classes']:.3f}", "-"])
        lines += ["", *table([f"{name} probe on", "accuracy", "balanced", "±1 class"], rows)]
    if trials := metrics.get("control", {}).get("trials"):
        header = [
            "control",
            "direction from",
            "loop",
            "asked",
            "reached",
            "error",
            "within 50 c",
            "pitch",
            "loudness",
            "brightness",
        ]
        lines += ["", *table(header, [_trial_row(trial) for trial in trials])]
    return lines


def _trial_row(trial: Mapping) -> list[str]:
    unit = {"pitch": "st", "loudness": "dB", "brightness": "oct"}[trial["property"]]
    hits = "-" if trial["hit_rate"] is None or math.isnan(trial["hit_rate"]) else f"{trial['hit_rate']:.0%}"
    loop = "closed" if trial["held"] else "open"
    estimated_on = "SAE acts" if trial["via"] == "acts" else "raw latents"
    change = [f"{c:+.2f} {u}" for c, u in zip(trial["change"], ("st", "dB", "oct"), strict=True)]
    asked, reached, error = (f"{trial['asked']:+g} {unit}", f"{trial['reached']:+.2f}", f"{trial['error']:.2f}")
    return [trial["property"], estimated_on, loop, asked, reached, error, hits, *change]


def _edited(descriptors: Descriptors, mask: Tensor) -> Descriptors:
    return Descriptors(*(column[:, mask >= EDITED_SHARE * mask.max()] for column in descriptors))


def _flat(descriptors: Descriptors) -> Descriptors:
    return Descriptors(*(column.reshape(-1) for column in descriptors))


def _physical(name: str, values: Tensor) -> Tensor:
    if name == "pitch":
        return midi_to_hz(values)
    return 2**values if name == "brightness" else values


def _measured(descriptors: Descriptors, name: str, unit: str) -> dict:
    """Median and spread of a property over audible frames, in Hz or dBFS, or on its axis."""
    values = axis_values(descriptors, name)
    values = values[values.isfinite() & (to_db(descriptors.rms) > AUDIBLE_DB)]
    if not values.numel():
        return {"median": None, "low": None, "high": None, "unit": unit, "share_of_frames": 0.0}
    levels = _physical(name, values.double().quantile(torch.tensor([0.5, 0.1, 0.9], dtype=torch.float64))).tolist()
    share = values.numel() / descriptors.rms.numel()
    return dict(zip(("median", "low", "high"), levels, strict=True)) | {"unit": unit, "share_of_frames": share}


def _spoken(name: str, measured: Mapping) -> list[str]:
    values = [_say(name, measured[key], measured["unit"]) for key in ("median", "low", "high")]
    return [*values, _share(measured["share_of_frames"])]


def _say(name: str, value: float | None, unit: str) -> str:
    if value is None:
        return "none"
    if name == "loudness":
        return f"{value:.1f} dBFS"
    if name == "pitch":
        midi = 69 + 12 * torch.tensor(value / 440).log2().item()
        return f"{note_name(midi)} ({value:.1f} Hz)"
    return f"{value / 1000:.2f} kHz" if name == "brightness" else f"{value:.3g} {unit}".strip()


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _agreement(bundle: Bundle, view: View, name: str) -> dict:
    """Share of frames in which the probe's class is the measured one, or its neighbour."""
    classes = bundle.properties[name].classes(view.descriptors)
    defined = classes >= 0
    if not defined.any():
        return {"exact": None, "within_one_class": None, "frames": 0}
    off = (view.posteriors[name].argmax(-1) - classes).abs()[defined]
    return {
        "exact": float((off == 0).float().mean()),
        "within_one_class": float((off <= 1).float().mean()),
        "frames": int(defined.sum()),
    }


def _feature(bundle: Bundle, activity: Activity) -> dict:
    return {
        "feature": activity.feature,
        "name": str(bundle.atlas.feature(activity.feature).name),
        "share": activity.share,
        "fires": activity.frames,
        "peak": activity.peak,
        "peak_time": bundle.spec.frame_time(activity.peak_frame),
    }
