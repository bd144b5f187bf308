"""Bins, names and units of the three properties."""

from __future__ import annotations

import doctest
import json
import math

import pytest
import torch

from sae_audio import properties
from sae_audio.descriptors import Descriptors
from sae_audio.errors import ParameterError
from sae_audio.properties import Property, axis_values
from sae_audio.property_sets import honest_properties, paper_properties
from sae_audio.units import note_name, parse_note

NAN = math.nan


def frames(f0, rms, centroid):
    columns = {"f0": f0, "rms": rms, "centroid": centroid}
    return Descriptors.of(**{name: torch.tensor([values], dtype=torch.float32) for name, values in columns.items()})


@pytest.fixture
def measured():
    """Five frames: A4 at -20 dBFS; C2; noise (unvoiced); -70 dBFS; digital silence."""
    return frames(
        [440.0, 65.4064, NAN, 220.0, NAN],
        [0.1, 0.5, 0.2, 10 ** (-70 / 20), 0.0],
        [1000.0, 500.0, 4000.0, 2000.0, NAN],
    )


def test_docstring_examples():
    assert doctest.testmod(properties).failed == 0


def test_honest_classes_by_hand(measured):
    bins = honest_properties()
    assert list(bins)[:3] == ["pitch", "loudness", "brightness"]
    assert bins["pitch"].classes(measured).tolist() == [[69 - 36, 0, -1, -1, -1]]
    # -20.0, -6.02, -13.98, -70 dBFS -> bins centred on -21, -6, -15, none
    assert bins["loudness"].classes(measured).tolist() == [[13, 18, 15, -1, -1]]
    assert [bins["loudness"].names[i] for i in (13, 18, 15)] == ["-21 dB", "-6 dB", "-15 dB"]
    assert bins["brightness"].classes(measured).tolist() == [[9, 6, 15, -1, -1]]
    assert [bins["brightness"].names[i] for i in (9, 6, 15)] == ["1 kHz", "500 Hz", "4 kHz"]


def test_honest_bins_are_fixed_and_named():
    bins = honest_properties()
    found = {name: (p.n_classes, p.names[0], p.names[-1]) for name, p in bins.items()}
    assert found["pitch"] == (66, "C2", "F7")
    assert found["loudness"] == (20, "-60 dB", "-3 dB")
    assert found["brightness"] == (20, "125 Hz", "10 kHz")
    assert bins["pitch"].centres == tuple(range(36, 102))
    assert bins["loudness"].centres == tuple(range(-60, 0, 3))
    # a nominal third-octave name is within 2 % of the exact centre
    for name, centre in zip(bins["brightness"].names, bins["brightness"].centres, strict=True):
        number, unit = name.split()
        assert 2**centre == pytest.approx(float(number) * (1000 if unit == "kHz" else 1), rel=0.02)


def test_paper_bins_are_equal_width_over_the_data(measured):
    bins = paper_properties(measured)
    loudness, brightness = bins["loudness"], bins["brightness"]
    assert loudness.edges[0] == 0 and loudness.edges[-1] == pytest.approx(0.5)
    assert brightness.edges[0] == pytest.approx(500, rel=1e-6) and brightness.edges[-1] == pytest.approx(4000, rel=1e-6)
    for p in (loudness, brightness):
        widths = torch.tensor(p.edges).diff()
        assert p.n_classes == 20 and torch.allclose(widths, widths[0].expand(20), rtol=1e-4)
    assert loudness.classes(measured).tolist() == [[4, 19, 8, 0, 0]]  # rms / 0.025; 0.1 lies on an edge and goes up
    assert brightness.classes(measured).tolist() == [[2, 0, 19, -1, -1]]
    assert bins["pitch"] == honest_properties()["pitch"]
    assert loudness.names[0] == "0.0125" and brightness.names[1] == "762 Hz" and brightness.names[19] == "3.91 kHz"


def test_paper_bins_of_a_narrow_range_have_distinct_names():
    narrow = frames([NAN, NAN], [0.5, 0.5001], [1000.0, 1000.5])
    assert len(set(paper_properties(narrow)["brightness"].names)) == 20


def test_paper_bins_need_a_range():
    with pytest.raises(ParameterError, match="loudness needs a range"):
        paper_properties(frames([NAN, NAN], [0.5, 0.5], [1000.0, 2000.0]))
    with pytest.raises(ParameterError, match="brightness needs a range"):
        paper_properties(frames([NAN, NAN], [0.0, 0.0001], [NAN, 300.0]))


def test_axis_values(measured):
    pitch, loudness, brightness = (axis_values(measured, name)[0] for name in ("pitch", "loudness", "brightness"))
    torch.testing.assert_close(pitch, torch.tensor([69.0, 36.0, NAN, NAN, NAN]), rtol=0, atol=1e-4, equal_nan=True)
    torch.testing.assert_close(loudness, torch.tensor([-20.0, -6.0206, -13.9794, -70.0, -100.0]), rtol=0, atol=1e-3)
    expected = torch.tensor([1000.0, 500.0, 4000.0, NAN, NAN]).log2()
    torch.testing.assert_close(brightness, expected, equal_nan=True)
    with pytest.raises(ParameterError, match="'timbre'"):
        axis_values(measured, "timbre")


def test_what_was_not_measured_is_nan():
    found = Descriptors.of(rms=torch.tensor([[0.1, 0.5]]))
    assert found.rms.tolist() == [[pytest.approx(0.1), 0.5]] and found.f0.shape == (1, 2)
    assert all(column.isnan().all() for name, column in found._asdict().items() if name != "rms")


def test_property_axis_follows_its_scale(measured):
    honest, paper = honest_properties(), paper_properties(measured)
    for name in honest:
        assert torch.equal(honest[name].axis(measured).nan_to_num(7), axis_values(measured, name).nan_to_num(7))
    assert torch.equal(paper["loudness"].axis(measured), measured.rms)
    assert paper["brightness"].axis(measured)[0, :3].tolist() == pytest.approx([1000.0, 500.0, 4000.0])


def test_edges_belong_to_the_class_above_and_the_last_to_the_last():
    p = Property("loudness", "dBFS", (-3.0, -2.0, 0.0), ("low", "high"), "dB")
    values = torch.tensor([-3.1, -3.0, -2.5, -2.0, 0.0, 0.1, NAN])
    assert p.classes_of(values).tolist() == [-1, 0, 0, 1, 1, -1, -1]
    assert p.classes_of(values).dtype == torch.int64


@pytest.mark.parametrize("names", [("pitch", "C5", 36), ("pitch", "c5", 36), ("pitch", "Bb2", 10), ("pitch", "440 Hz", 33)])
def test_pitch_class_index(names):
    name, text, index = names
    assert honest_properties()[name].class_index(text) == index


def test_class_index_by_name_and_by_value():
    bins = honest_properties()
    assert bins["loudness"].class_index("-24 dB") == bins["loudness"].class_index("-25") == 12
    assert bins["brightness"].class_index("2 kHz") == bins["brightness"].class_index("2100 Hz") == 12
    assert all(p.class_index(name) == i for p in bins.values() for i, name in enumerate(p.names))


def test_unknown_class_lists_near_names():
    bins = honest_properties()
    with pytest.raises(ParameterError, match=r"'C9'; its 66 classes run from C2 to F7, near names: F7, E7, D#7"):
        bins["pitch"].class_index("C9")
    with pytest.raises(ParameterError, match=r"near names: -3 dB, -6 dB"):
        bins["loudness"].class_index("+12 dB")
    for name, wrong in [("loudness", "2 kHz"), ("brightness", "-6 dB"), ("brightness", "0 Hz"), ("pitch", "high"), ("pitch", "")]:
        with pytest.raises(ParameterError, match="near names"):
            bins[name].class_index(wrong)


def test_nearest_class():
    bins = honest_properties()
    assert bins["loudness"].nearest(-100.0) == 0 and bins["loudness"].nearest(-23.0) == 12


def test_round_trip_through_json_is_exact(measured):
    for p in [*honest_properties().values(), *paper_properties(measured).values()]:
        assert Property.from_dict(json.loads(json.dumps(p.to_dict()))) == p
    whole = Property("loudness", "dBFS", (-60, -30, 0), ("soft", "loud"), "dB")
    assert json.dumps(Property.from_dict(whole.to_dict()).to_dict()) == json.dumps(whole.to_dict())


def test_from_dict_names_unknown_and_missing_keys():
    values = honest_properties()["pitch"].to_dict()
    with pytest.raises(ParameterError, match="colour"):
        Property.from_dict({**values, "colour": "red"})
    del values["edges"]
    with pytest.raises(ParameterError, match="edges"):
        Property.from_dict(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": "bark"}, "'bark'"),
        ({"edges": (0.0, 1.0)}, "2 edges and 2 names"),
        ({"edges": (0.0, 1.0, 1.0)}, "do not rise"),
        ({"names": ("a", "a")}, "distinct"),
    ],
)
def test_inconsistent_properties_are_refused(change, message):
    values = {"name": "x", "unit": "Hz", "edges": (0.0, 1.0, 2.0), "names": ("a", "b"), "scale": "Hz", **change}
    with pytest.raises(ParameterError, match=message):
        Property(**values)


def test_notes_round_trip():
    assert [parse_note(note_name(midi)) for midi in range(128)] == list(range(128))
    assert parse_note("C-1") == 0 and parse_note("Cb4") == 59 and parse_note("B#3") == 60 and parse_note("e♭4") == 63


@pytest.mark.parametrize("text", ["H4", "C", "C##4", "4", "", "C5.5"])
def test_bad_notes_are_named(text):
    with pytest.raises(ParameterError, match="is not a note"):
        parse_note(text)
