"""Descriptors against analytic signals, librosa and themselves."""

from __future__ import annotations

import doctest
import math

import numpy as np
import pytest
import torch

from sae_audio import descriptors
from sae_audio.descriptors import describe, frame_centroid, frame_rms, window_length
from sae_audio.errors import ParameterError
from sae_audio.trackers import TRACKERS
from sae_audio.units import hz_to_midi, midi_to_hz, to_db

GRIDS = [(16_000, 320), (24_000, 320), (32_000, 640), (44_100, 2048), (48_000, 320), (24_000, 1920), (22_050, 441)]


def tone(frequency: float, seconds: float = 1.0, rate: int = 16_000, amplitude: float = 0.5):
    time = torch.arange(round(seconds * rate), dtype=torch.float64) / rate
    return (amplitude * torch.sin(2 * math.pi * frequency * time)).float()[None, None]


def noise(n: int, amplitude: float = 0.1, seed: int = 0):
    return amplitude * torch.randn(1, 1, n, generator=torch.Generator().manual_seed(seed))


def cents(f0, reference):
    return 1200 * torch.log2(f0 / reference)


def test_docstring_examples():
    assert doctest.testmod(descriptors).failed == 0


@pytest.mark.parametrize(("rate", "hop"), GRIDS)
def test_440_hz_within_one_hertz(rate, hop):
    f0 = describe(tone(440, rate=rate), rate, hop).f0[0, 2:-2]
    assert (f0 - 440).abs().max() < 1


@pytest.mark.parametrize("frequency", [45.0, 65.4, 110.0, 987.77, 1500.0, 2050.0])
def test_tones_over_the_whole_range(frequency):
    f0 = describe(tone(frequency), 16_000, 320).f0[0, 3:-3]
    assert cents(f0, frequency).abs().max() < 5


@pytest.mark.parametrize(("rate", "hop"), GRIDS)
def test_sweep_within_50_cents_of_its_instantaneous_frequency(rate, hop):
    seconds, low, octaves = 4.0, 80.0, 4.0  # one octave per second
    time = torch.arange(round(seconds * rate), dtype=torch.float64) / rate
    phase = 2 * math.pi * low * (2 ** (time * octaves / seconds) - 1) / (math.log(2) * octaves / seconds)
    f0 = describe((0.3 * torch.sin(phase)).float()[None, None], rate, hop).f0[0]
    centre = (torch.arange(len(f0)) + 0.5) * hop / rate
    inside = (centre > 0.05) & (centre < seconds - 0.05)
    assert cents(f0, low * 2 ** (centre * octaves / seconds))[inside].abs().max() < 50


def test_missing_fundamental():
    harmonics = sum(tone(220.0 * k, amplitude=0.1) for k in (3, 4, 5, 6, 7))
    f0 = describe(harmonics, 16_000, 320).f0[0, 2:-2]
    assert cents(f0, 220).abs().max() < 5


def test_strong_second_harmonic_is_no_octave_error():
    f0 = describe(tone(150, amplitude=0.1) + tone(300, amplitude=0.4), 16_000, 320).f0[0, 2:-2]
    assert cents(f0, 150).abs().max() < 5


def test_stiff_string_is_no_octave_error():
    """Partials at k f0 sqrt(1 + B k^2): the full-band difference function dips deeper at two periods than at one."""
    string = sum(tone(220 * k * math.sqrt(1 + 4e-4 * k * k), amplitude=0.3 / k) for k in range(1, 25))
    f0 = describe(string, 16_000, 320).f0[0, 2:-2]
    assert cents(f0, 220).abs().max() < 50


def test_white_noise_is_mostly_unvoiced():
    assert describe(noise(80_000), 16_000, 320).f0.isnan().float().mean() > 0.98


def test_silence_and_direct_current_are_unvoiced():
    silent = describe(torch.zeros(1, 1, 16_000), 16_000, 320)
    assert silent.f0.isnan().all() and silent.centroid.isnan().all()
    assert (silent.rms == 0).all() and (to_db(silent.rms) == -100).all()
    assert describe(torch.full((1, 1, 16_000), 0.2), 16_000, 320).f0[0, 2:-2].isnan().all()


def test_direct_current_does_not_move_f0():
    f0 = describe(tone(330) + 0.3, 16_000, 320).f0[0, 2:-2]
    assert cents(f0, 330).abs().max() < 5


def test_quiet_frames_are_unvoiced():
    f0 = describe(tone(440, amplitude=0.001), 16_000, 320).f0  # -63 dBFS
    assert f0.isnan().all()


def test_halving_is_minus_6_02_db():
    audio = noise(16_000)
    drop = to_db(describe(audio / 2, 16_000, 320).rms) - to_db(describe(audio, 16_000, 320).rms)
    assert (drop + 6.0206).abs().max() < 0.01


def test_full_scale_sine_is_minus_3_01_dbfs():
    level = to_db(describe(tone(1000, amplitude=1.0), 16_000, 320).rms)[0, 1:-1]
    assert (level + 3.0103).abs().max() < 0.01


@pytest.mark.parametrize(("rate", "hop"), GRIDS)
def test_centroid_of_a_sine_and_of_white_noise(rate, hop):
    sine = describe(tone(1000, rate=rate), rate, hop).centroid[0, 4:-4]
    assert (sine - 1000).abs().max() < 10
    white = describe(noise(2 * rate), rate, hop).centroid[0, 2:-2]
    assert abs(float(white.mean()) / (rate / 4) - 1) < 0.02


def padded(audio, rate, hop):
    """Pad so that librosa's uncentred frames are ours."""
    length = window_length(rate, hop)
    n_frames = -(-audio.shape[-1] // hop)
    before = length // 2 - hop // 2
    after = (n_frames - 1) * hop + length - before - audio.shape[-1]
    return np.pad(audio[0, 0].numpy(), (before, after)), length


@pytest.mark.parametrize(("rate", "hop"), GRIDS[:4])
def test_rms_and_centroid_agree_with_librosa(rate, hop):
    librosa = pytest.importorskip("librosa")
    audio = noise(rate + 17) + tone(523.25, rate=rate, seconds=1 + 17 / rate)[..., : rate + 17]
    y, length = padded(audio, rate, hop)
    measured = describe(audio, rate, hop)
    rms = librosa.feature.rms(y=y, frame_length=length, hop_length=hop, center=False)[0]
    centroid = librosa.feature.spectral_centroid(y=y, sr=rate, n_fft=length, hop_length=hop, center=False)[0]
    np.testing.assert_allclose(measured.rms[0].numpy(), rms, rtol=1e-4)
    np.testing.assert_allclose(measured.centroid[0].numpy(), centroid, rtol=1e-4)


def test_without_a_tracker_only_the_pitch_is_missing():
    tracked, untracked = (describe(noise(8000), 16_000, 320, tracker=tracker) for tracker in ("yin", None))
    assert untracked.f0.shape == tracked.f0.shape and untracked.f0.isnan().all()
    assert torch.equal(untracked.rms, tracked.rms) and torch.equal(untracked.centroid, tracked.centroid)


@pytest.mark.parametrize("tracker", ["librosa-yin", "pyin"])
def test_librosa_trackers_agree_with_ours(tracker):
    pytest.importorskip("librosa")
    glide = torch.cat([tone(f, 0.4) for f in (196.0, 392.0, 880.0)], -1)
    reference, ours = (describe(glide, 16_000, 320, tracker=name).f0[0] for name in (tracker, "yin"))
    assert reference.shape == ours.shape == (60,)
    inside = [frame for frame in range(60) if 4 <= frame % 20 < 16]
    assert cents(ours, reference)[inside].abs().max() < 12  # pyin's grid is 10 cents


@pytest.mark.parametrize("rate_hop", [(16_000, 320), (24_000, 320)])
def test_crepe_agrees_with_ours(rate_hop):
    pytest.importorskip("torchcrepe")
    rate, hop = rate_hop
    audio = sum(tone(262.0 * k, 0.5, rate, 0.2 / k) for k in (1, 2, 3))
    f0 = describe(audio, rate, hop, tracker="crepe-tiny").f0[0]
    assert len(f0) == -(-audio.shape[-1] // hop)
    assert cents(f0[4:-4], 262).abs().max() < 30


@pytest.mark.parametrize(("rate", "hop"), GRIDS)
def test_click_train_lights_its_own_frames(rate, hop):
    n_frames = 48
    audio = torch.zeros(1, 1, n_frames * hop)
    clicked = list(range(4, n_frames, 8))
    for frame in clicked:
        audio[..., round((frame + 0.5) * hop)] = 1.0
    rms = frame_rms(audio[0], rate, hop)[0]
    reach = math.ceil(window_length(rate, hop) / 2 / hop)  # a window this long sees clicks this many frames away
    lit = rms.nonzero().flatten().tolist()
    assert set(clicked) <= set(lit)
    assert all(min(abs(frame - click) for click in clicked) <= reach for frame in lit)
    centres = [sum(f for f in lit if abs(f - c) < 4) / len([f for f in lit if abs(f - c) < 4]) for c in clicked]
    assert max(abs(a - b) for a, b in zip(centres, clicked, strict=True)) <= 0.5


@pytest.mark.parametrize(("rate", "hop"), GRIDS[:5])
def test_f0_changes_within_one_frame_of_the_step(rate, hop):
    step = 20  # frames; the pitch jumps at the boundary between frames 19 and 20
    audio = torch.cat([tone(300, step * hop / rate, rate), tone(500, step * hop / rate, rate)], -1)
    f0 = describe(audio, rate, hop).f0[0]
    slack = math.ceil(0.025 * rate / hop)  # half the analysis window
    assert cents(f0[2 : step - slack], 300).abs().max() < 20
    assert cents(f0[step + slack : -2], 500).abs().max() < 20


@pytest.mark.parametrize("tracker", ["yin", "librosa-yin"])
@pytest.mark.parametrize("n", [1, 100, 320, 321, 639, 16_001])
def test_lengths(n, tracker):
    measured = describe(noise(n), 16_000, 320, tracker=tracker)
    assert {tuple(values.shape) for values in measured} == {(1, -(-n // 320))}
    assert {values.dtype for values in measured} == {torch.float32}


def same(a, b, tolerance=0.0):
    return all(torch.allclose(x, y, rtol=tolerance, atol=0, equal_nan=True) for x, y in zip(a, b, strict=True))


def test_same_numbers_twice_and_global_generator_untouched():
    audio, state = noise(16_000) + tone(200), torch.get_rng_state()
    assert same(describe(audio, 16_000, 320), describe(audio, 16_000, 320))
    assert torch.equal(state, torch.get_rng_state())


def test_batch_equals_single():
    batch = torch.cat([noise(20_000, seed=seed) + tone(100.0 * (seed + 1), 1.25) for seed in range(3)])
    singles = [describe(item[None], 16_000, 320) for item in batch]
    assert same(describe(batch, 16_000, 320), [torch.cat(parts) for parts in zip(*singles, strict=True)], 1e-5)


def test_equal_channels_change_nothing():
    mono = tone(300) + noise(16_000, 0.01)
    assert same(describe(mono, 16_000, 320), describe(mono.expand(1, 2, -1), 16_000, 320), 1e-6)


def test_chunks_leave_no_seam():
    """30 s is three chunks; a piece around each seam, cut out with its context, measures the same."""
    audio = noise(480_000, 0.02) + tone(247, 30)
    whole = describe(audio, 16_000, 320)
    for seam in (512, 1024):
        piece = describe(audio[..., (seam - 20) * 320 : (seam + 20) * 320], 16_000, 320)
        inner = [values[:, seam - 15 : seam + 15] for values in whole]
        assert same([values[:, 5:35] for values in piece], inner, 1e-5)


def test_gradients_are_not_recorded():
    assert not describe(tone(300).requires_grad_(), 16_000, 320).rms.requires_grad


def test_midi_and_hertz_are_inverse():
    midi = torch.tensor([36.0, 69.0, 101.5, torch.nan])
    assert torch.allclose(hz_to_midi(midi_to_hz(midi)), midi, equal_nan=True)
    assert float(midi_to_hz(torch.tensor(60.0))) == pytest.approx(261.6256, abs=1e-3)


def test_wrong_arguments_are_named():
    with pytest.raises(ParameterError, match=r"\[B, C, N\].*\[1, 100\]"):
        describe(torch.zeros(1, 100), 16_000, 320)
    with pytest.raises(ParameterError, match="hop_length is 0"):
        describe(torch.zeros(1, 1, 100), 16_000, 0)
    with pytest.raises(ParameterError, match=r"'swipe'.*yin, librosa-yin, pyin, crepe"):
        describe(torch.zeros(1, 1, 100), 16_000, 320, tracker="swipe")


def test_missing_package_names_the_command(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torchcrepe", None)
    with pytest.raises(ParameterError, match="pip install torchcrepe"):
        describe(torch.zeros(1, 1, 1600), 16_000, 320, tracker="crepe")


def test_every_tracker_is_tested_above():
    assert list(TRACKERS) == ["yin", "librosa-yin", "pyin", "crepe", "crepe-tiny"]


def test_loud_float_audio_is_measured_as_it_is():
    loud = describe(tone(440, amplitude=4.0), 16_000, 320)
    assert float(to_db(loud.rms)[0, 25]) == pytest.approx(20 * math.log10(4 / math.sqrt(2)), abs=0.01)
    assert frame_centroid(tone(440)[0], 16_000, 320)[0, 25] == pytest.approx(float(loud.centroid[0, 25]), rel=1e-5)
