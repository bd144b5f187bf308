"""Sound files through real files of every format; channels, rates and limits."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
import soundfile
import torch

from sae_audio.audio import Sound, read, write
from sae_audio.descriptors import describe
from sae_audio.errors import AudioError, OutputError, ParameterError
from sae_audio.fitting import fit, mixdown, resample, to_stereo, unfit
from sae_audio.spec import LatentSpec


def spec(channels=1, rate=16_000):
    return LatentSpec(
        name="toy", repo="none", revision=None, sample_rate=rate, channels=channels, hop_length=320, d_in=4, tap="mean"
    )


def sine(frequency=440.0, seconds=0.5, rate=16_000, channels=1, amplitude=0.3):
    time = np.arange(round(seconds * rate)) / rate
    return (amplitude * np.sin(2 * np.pi * frequency * time))[:, None].repeat(channels, 1)


def pitch(samples, rate):
    return float(describe(samples[None], rate, rate // 50).f0.nanmedian())


@pytest.mark.parametrize(
    ("name", "subtype", "rate", "channels", "tolerance"),
    [
        ("a.wav", "PCM_16", 44_100, 2, 1e-4),
        ("a.wav", "PCM_24", 192_000, 1, 1e-6),
        ("a.wav", "PCM_U8", 8_000, 1, 1e-2),
        ("a.wav", "FLOAT", 11_025, 8, 1e-7),
        ("a.wav", "DOUBLE", 48_000, 6, 1e-7),
        ("a.flac", "PCM_16", 96_000, 2, 1e-4),
        ("a.aiff", "PCM_16", 22_050, 1, 1e-4),
        ("a.ogg", "VORBIS", 44_100, 2, 0.05),
        ("a.opus", "OPUS", 48_000, 1, 0.05),
        ("a.mp3", "MPEG_LAYER_III", 44_100, 1, 0.05),
    ],
)
def test_every_format_reads_with_its_rate_channels_and_level(tmp_path, name, subtype, rate, channels, tolerance):
    path, samples = tmp_path / name, sine(rate=rate, channels=channels)
    soundfile.write(path, samples, rate, subtype=subtype, format="OGG" if name == "a.opus" else None)
    sound = read(path)
    assert sound.sample_rate == rate and sound.samples.dtype == torch.float32
    assert sound.samples.shape[0] == channels and abs(sound.samples.shape[1] - len(samples)) <= 2400  # MP3 pads
    level = float(sound.samples[0, rate // 10 : rate // 3].square().mean().sqrt())
    assert level == pytest.approx(0.3 / math.sqrt(2), rel=max(tolerance, 0.005))
    if tolerance < 0.05:
        np.testing.assert_allclose(sound.samples.T.numpy(), samples, atol=tolerance)
    assert pitch(sound.samples, rate) == pytest.approx(440, abs=1)


def test_odd_but_fine_sounds(tmp_path):
    path = tmp_path / "odd.wav"
    for samples in (sine() * 20, np.clip(sine() * 20, -1, 1), sine() + 0.4, np.zeros((8000, 1))):
        soundfile.write(path, samples, 16_000, subtype="FLOAT")
        np.testing.assert_allclose(read(path).samples.T.numpy(), samples, rtol=1e-6)


def test_limits_of_duration_rate_and_channels(tmp_path):
    path = tmp_path / "x.wav"
    for samples, rate in [(sine(seconds=0.02), 16_000), (sine(rate=4000), 4000), (np.zeros((7680, 8)), 384_000)]:
        soundfile.write(path, samples, rate)
        assert read(path).samples.shape == samples.T.shape
    for samples, rate, words in [
        (sine(seconds=0.019), 16_000, "19.0 ms.*20 ms"),
        (np.zeros((0, 1)), 16_000, "0.0 ms"),
        (sine(rate=2000), 2000, "2000 Hz.*4000 to 384000 Hz"),
        (np.zeros((4000, 1)), 400_000, "400000 Hz"),
        (np.zeros((4000, 64)), 16_000, "64 channels.*8"),
    ]:
        soundfile.write(path, samples, rate)
        with pytest.raises(AudioError, match=words):
            read(path)


def test_too_long_is_found_in_the_header(tmp_path):
    path = tmp_path / "long.wav"
    soundfile.write(path, sine(seconds=3), 16_000)
    assert read(path, max_minutes=0.05).samples.shape == (1, 48_000)
    with pytest.raises(AudioError, match=r"0\.1 min; the limit is 0\.04 min.*--max-minutes"):
        read(path, max_minutes=0.04)
    with pytest.raises(ParameterError, match="max_minutes is 0"):
        read(path, max_minutes=0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_samples_are_counted(tmp_path, bad):
    samples = sine()
    samples[[3, 5]] = bad
    soundfile.write(tmp_path / "x.wav", samples, 16_000, subtype="FLOAT")
    with pytest.raises(AudioError, match="2 samples that are NaN or infinite"):
        read(tmp_path / "x.wav")


def test_what_is_not_a_sound_file(tmp_path):
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("hello, this is no sound\n" * 40)
    (tmp_path / "x.raw").write_bytes(bytes(4000))
    soundfile.write(tmp_path / "cut.flac", np.random.default_rng(0).normal(0, 0.1, 16_000), 16_000)
    (tmp_path / "cut.flac").write_bytes((tmp_path / "cut.flac").read_bytes()[:30])
    for name, words in [
        ("nowhere.wav", "does not exist"),
        ("", "is a folder"),
        ("empty.wav", "is empty"),
        ("text.wav", "cannot be read as audio"),
        ("x.raw", "cannot be read as audio"),
        ("cut.flac", "cannot be read as audio"),
    ]:
        with pytest.raises(AudioError, match=words) as caught:
            read(tmp_path / name)
        assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("bits", [16, 24])
def test_written_level_is_kept_to_one_step(tmp_path, bits):
    samples = torch.full((2, 1000), 0.1)
    write(tmp_path / "x.wav", samples, 44_100, bits=bits)
    info = soundfile.info(tmp_path / "x.wav")
    assert (info.format, info.subtype, info.samplerate, info.channels) == ("WAV", f"PCM_{bits}", 44_100, 2)
    assert (read(tmp_path / "x.wav").samples - 0.1).abs().max() <= 2 ** -(bits - 1)


@pytest.mark.parametrize("bits", [16, 24])
def test_read_then_write_is_bit_identical(tmp_path, bits):
    samples = np.random.default_rng(0).uniform(-1, 1, (2000, 2))
    soundfile.write(tmp_path / "a.wav", samples, 16_000, subtype=f"PCM_{bits}")
    write(tmp_path / "b.wav", read(tmp_path / "a.wav").samples, 16_000, bits=bits)
    a, b = (soundfile.read(tmp_path / name, dtype="int32")[0] for name in ("a.wav", "b.wav"))
    assert np.array_equal(a, b)


def test_full_scale_is_not_called_clipping(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write(tmp_path / "x.wav", torch.tensor([[1.0, -1.0] * 400]), 16_000)
    assert read(tmp_path / "x.wav").samples[0, :2].tolist() == [32767 / 32768, -1.0]


def test_clipping_is_measured_in_db(tmp_path):
    with pytest.warns(UserWarning, match=r"peak is 6\.0 dB over full scale"):
        write(tmp_path / "x.wav", torch.tensor([[2.0, -2.0, 0.25] * 200]), 16_000)
    assert read(tmp_path / "x.wav").samples[0, :3].tolist() == [32767 / 32768, -1.0, 0.25]


def test_nothing_is_left_behind_when_writing_fails(tmp_path):
    good = torch.zeros(1, 400)
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "file").touch()
    for path in (tmp_path / "nowhere" / "x.wav", tmp_path / "folder.wav", tmp_path / "file" / "x.wav"):
        with pytest.raises(OutputError, match="cannot be written"):
            write(path, good, 16_000)
    with pytest.raises(AudioError, match="NaN or infinity"):
        write(tmp_path / "x.wav", good * math.nan, 16_000)
    for arguments, words in [((good[0], 16_000), "shape"), ((good[:, :0], 16_000), "shape"), ((good, 0), "sample_rate is 0")]:
        with pytest.raises(ParameterError, match=words):
            write(tmp_path / "x.wav", *arguments)
    with pytest.raises(ParameterError, match="bits is 8"):
        write(tmp_path / "x.wav", good, 16_000, bits=8)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.wav"]


def test_full_disk_keeps_the_old_file(tmp_path):
    """A process whose files may not grow past 4 kB meets the same error as one on a full disk."""
    write(tmp_path / "x.wav", torch.full((1, 400), 0.5), 16_000)
    before = (tmp_path / "x.wav").read_bytes()
    script = (
        "import resource, signal, sys, torch; from sae_audio.audio import write; from sae_audio.errors import OutputError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try: write(sys.argv[1], torch.zeros(1, 16000), 16000)\n"
        "except OutputError as error: print(error)\n"
    )
    command = [sys.executable, "-B", "-c", script, str(tmp_path / "x.wav")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "cannot be written (File too large)" in done.stdout
    assert (tmp_path / "x.wav").read_bytes() == before and os.listdir(tmp_path) == ["x.wav"]


@pytest.mark.parametrize("rates", [(44_100, 16_000), (8_000, 24_000), (192_000, 16_000), (16_000, 44_100), (44_101, 16_000)])
def test_resample_keeps_pitch_level_and_exact_length(rates):
    before, after = rates
    samples = torch.from_numpy(sine(rate=before, seconds=0.5).T).float()
    resampled = resample(samples, before, after)
    assert resampled.shape == (1, math.ceil(samples.shape[1] * after / before))
    expected = torch.from_numpy(sine(rate=after, seconds=0.5).T).float()
    inside = slice(after // 50, -after // 50)
    n = min(resampled.shape[1], expected.shape[1])
    torch.testing.assert_close(resampled[:, :n][:, inside], expected[:, :n][:, inside], rtol=0, atol=2e-3)


def test_resample_removes_what_the_new_rate_cannot_hold():
    samples = torch.from_numpy(sine(10_000, rate=44_100).T).float()
    assert resample(samples, 44_100, 16_000)[:, 500:-500].abs().max() < 0.003  # -40 dB
    assert resample(samples, 44_100, 44_100) is samples


def test_mono_space_gives_every_channel_its_own_item():
    sound = Sound(torch.stack([torch.full((44_100,), 0.1), torch.full((44_100,), 0.4)]), 44_100)
    fitted = fit(sound, spec())
    assert fitted.shape == (2, 1, 16_000)
    assert fitted[:, 0, 8000].tolist() == pytest.approx([0.1, 0.4], abs=1e-3)
    assert mixdown(sound, spec()).shape == (1, 1, 16_000)
    assert float(mixdown(sound, spec())[0, 0, 8000]) == pytest.approx(0.25, abs=1e-3)


def test_stereo_space_doubles_mono_and_folds_the_rest():
    mono = Sound(torch.full((1, 800), 0.2), 16_000)
    assert torch.equal(fit(mono, spec(2)), torch.full((1, 2, 800), 0.2))
    surround = Sound(torch.zeros(6, 800), 16_000)
    assert fit(surround, spec(2)).shape == mixdown(surround, spec(2)).shape == (1, 2, 800)


@pytest.mark.parametrize("channels", range(1, 9))
def test_folding_cannot_clip_and_is_symmetric(channels):
    folded = to_stereo(torch.ones(channels, 10))
    torch.testing.assert_close(folded, torch.ones(2, 10))


def test_surround_weights_by_hand():
    left_only = torch.zeros(6, 1)
    left_only[0] = 1.0
    assert to_stereo(left_only)[:, 0].tolist() == pytest.approx([1 / 2.4, 0])  # L + 0.7 C + 0.7 Ls
    for channel, expected in [(2, [0.7 / 2.4] * 2), (3, [0, 0]), (4, [0.7 / 2.4, 0]), (5, [0, 0.7 / 2.4])]:
        single = torch.zeros(6, 1)
        single[channel] = 1.0
        assert to_stereo(single)[:, 0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("space_channels", [1, 2])
@pytest.mark.parametrize(("channels", "rate", "n"), [(1, 44_100, 44_101), (2, 8_000, 777), (6, 48_000, 9_999), (2, 16_000, 320)])
def test_fit_then_unfit_keeps_rate_channels_and_length(space_channels, channels, rate, n):
    time = torch.arange(n) / rate
    samples = torch.stack([0.2 * torch.sin(2 * math.pi * 300 * (c + 1) * time) for c in range(channels)])
    sound, space = Sound(samples, rate), spec(space_channels)
    back = unfit(fit(sound, space), sound, space)
    expected = samples if space_channels == 1 or channels <= 2 else to_stereo(samples)
    assert back.shape == expected.shape
    inside = slice(rate // 50, -(rate // 50))
    torch.testing.assert_close(back[:, inside], expected[:, inside], rtol=0, atol=4e-3)


def test_unfit_refuses_what_fit_did_not_give():
    sound = Sound(torch.zeros(2, 800), 16_000)
    with pytest.raises(ParameterError, match=r"\[2, 1, N\]"):
        unfit(torch.zeros(1, 1, 800), sound, spec())


def test_rates_too_near_to_tell_apart_keep_the_samples():
    samples = torch.randn(2, 44_100, generator=torch.Generator().manual_seed(0))
    assert torch.equal(resample(samples, 44_100, 44_101), torch.nn.functional.pad(samples, (0, 1)))
    assert torch.equal(resample(samples, 44_101, 44_100), samples)
