"""Sound files that lie, are cut, or are none: commands read them or refuse them in one line, and leave nothing behind."""

import contextlib
import io
import os
import random
import shutil
import struct
import subprocess
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sae_audio import cli
from sae_audio.audio import read
from sae_audio.errors import AudioError
from sae_audio.fitting import mixdown
from sae_audio.spec import LatentSpec

RATE = 16_000
SPEC = LatentSpec("toy", "none", None, RATE, 1, 320, 4, "mean")
FORMATS = {
    "wav": ("WAV", "PCM_16", RATE, 1),
    "wav float": ("WAV", "FLOAT", 44_100, 2),
    "wav 24": ("WAV", "PCM_24", 48_000, 6),
    "wav adpcm": ("WAV", "IMA_ADPCM", RATE, 1),
    "wavex": ("WAVEX", "PCM_16", RATE, 2),
    "rf64": ("RF64", "PCM_16", RATE, 1),
    "w64": ("W64", "PCM_16", RATE, 1),
    "flac": ("FLAC", "PCM_16", 96_000, 2),
    "vorbis": ("OGG", "VORBIS", 44_100, 1),
    "opus": ("OGG", "OPUS", 48_000, 2),
    "mp3": ("MP3", "MPEG_LAYER_III", 44_100, 1),
    "aiff": ("AIFF", "PCM_16", RATE, 1),
    "aiff float": ("AIFF", "FLOAT", RATE, 1),
    "caf": ("CAF", "PCM_16", RATE, 1),
    "sds": ("SDS", "PCM_16", RATE, 1),
}


def encoded(name):
    """A tenth of a second of noise in one of the formats."""
    form, subtype, rate, channels = FORMATS[name]
    noise, file = 0.1 * np.random.default_rng(0).standard_normal((rate // 10, channels)), io.BytesIO()
    soundfile.write(file, noise, rate, format=form, subtype=subtype)
    return file.getvalue()


SEEDS = {name: encoded(name) for name in FORMATS}
EXTREMES = (
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\x7f\xff\xff\xff",
    b"\0\0\0\x80",
    b"\x80\0\0\0",
    b"\x01\0\0\0",
)


@st.composite
def damaged(draw):
    """The bytes of a sound file after one to four accidents, most of them in the header."""
    content = bytearray(SEEDS[draw(st.sampled_from(sorted(SEEDS)))])
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, min(len(content) - 1, draw(st.sampled_from((48, 200, 10**9)))))))
        accident = draw(st.sampled_from(("change", "cut", "insert", "extreme", "graft")))
        if accident == "change":
            content[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
        elif accident == "cut":
            del content[at:]
        elif accident == "insert":
            content[at:at] = draw(st.binary(min_size=1, max_size=9))
        elif accident == "extreme":
            content[at : at + 4] = draw(st.sampled_from(EXTREMES))
        else:  # the head of one file, the rest of another
            content[at:] = SEEDS[draw(st.sampled_from(sorted(SEEDS)))][at:]
    return bytes(content)


def explore(examples):
    quiet = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(max_examples=examples, derandomize=True, database=None, deadline=None, suppress_health_check=quiet)


def check_read_or_refused(path):
    """Read a file as every command does; whatever comes out can be used, and whatever does not is told in one line."""
    try:
        sound = read(path)
    except AudioError as error:
        said = str(error)
        assert "\n" not in said and said.startswith(f"'{path}' ") and len(said) < len(str(path)) + 250
        return
    channels, frames = sound.samples.shape
    assert 1 <= channels <= 8 and frames >= 0.02 * sound.sample_rate and 4_000 <= sound.sample_rate <= 384_000
    assert sound.samples.is_contiguous() and bool(sound.samples.isfinite().all())
    folded = mixdown(sound, SPEC)
    assert folded.shape == (1, 1, -(-frames * RATE // sound.sample_rate)) and bool(folded.isfinite().all())


@pytest.mark.parametrize("examples", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_damaged_files_are_read_or_refused(examples, tmp_path):
    path = tmp_path / "sound.wav"

    @explore(examples)
    @given(damaged())
    def check(content):
        path.write_bytes(content)
        check_read_or_refused(path)

    check()


@pytest.mark.parametrize("examples", [150, pytest.param(3_000, marks=pytest.mark.slow)])
def test_any_bytes_are_refused(examples, tmp_path):
    path = tmp_path / "sound.flac"
    heads = st.sampled_from(
        [b"RIFF", b"RIFF\xff\xff\xff\xffWAVE", b"fLaC\0\0\0\x22", b"OggS", b"FORM", b"ID3\x04", b"\xff\xfb\x90\0", b""]
    )

    @explore(examples)
    @given(st.tuples(heads, st.binary(max_size=300)).map(b"".join))
    def check(content):
        path.write_bytes(content)
        check_read_or_refused(path)

    check()


# What is no damage but still no use -------------------------------------------------------------------------------------------


def wav(rate=RATE, channels=1, bits=16, data=bytes(6400), code=1, claimed=None):
    """A WAV file whose header says what it is told to."""
    frame = channels * bits // 8 & 0xFFFF
    head = struct.pack("<HHIIHH", code, channels, rate, rate * frame & 0xFFFFFFFF, frame, bits)
    claimed = len(data) if claimed is None else claimed
    return (
        b"RIFF"
        + struct.pack("<I", (36 + claimed) & 0xFFFFFFFF)
        + b"WAVEfmt \x10\0\0\0"
        + head
        + b"data"
        + struct.pack("<I", claimed)
        + data
    )


def floats(*values):
    return wav(bits=32, code=3, data=np.resize(np.array(values, "<f4"), 3200).tobytes())


def zip_bomb():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("sound.wav", bytes(50_000_000))
    return file.getvalue()


def long_silence():
    """Ten minutes of silence in eight channels at 384 kHz: a few kilobytes that would decode to seven gigabytes."""
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", 384_000, 8, format="FLAC", subtype="PCM_16") as opened:
        for _ in range(2):
            opened.write(np.zeros((384_000, 8), np.int16))
    content = bytearray(file.getvalue())
    content[21:26] = bytes([content[21] & 0xF0, *(600 * 384_000).to_bytes(4, "big")])  # STREAMINFO: total samples
    return bytes(content)


BAD = {
    "no channels": wav(channels=0),
    "64 channels": wav(channels=64, data=bytes(64 * 3200)),
    "65535 channels": wav(channels=65_535),
    "no rate": wav(rate=0),
    "a rate of 3999 Hz": wav(rate=3_999),
    "a rate of 4 GHz": wav(rate=4_294_967_295),
    "no bits": wav(bits=0),
    "a codec of nobody": wav(code=0x1234),
    "no samples": wav(data=b""),
    "one sample": wav(data=bytes(2)),
    "319 samples": wav(data=bytes(638)),
    "gigabytes claimed, all of them lies": wav(data=bytes(64), claimed=2**32 - 1),
    "an hour claimed": wav(rate=4000, data=bytes(100), claimed=2 * 4000 * 3600),
    "NaN": floats(0.1, np.nan),
    "inf": floats(0.1, np.inf),
    "-inf": floats(-np.inf),
    "text": b"this is no sound\n" * 100,
    "html": b"<!doctype html><html><body>404 Not Found</body></html>",
    "json": b'{"error": "not found"}',
    "git lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n",
    "a zip bomb": zip_bomb(),
    "a picture": b"\x89PNG\r\n\x1a\n" + bytes(1000),
    "a pdf": b"%PDF-1.7\n" + bytes(1000),
    "midi": b"MThd\0\0\0\x06\0\0\0\x01\0\x60MTrk\0\0\0\x04\0\xff\x2f\0",
    "a shell script": b"#!/bin/sh\nrm -rf /\n",
    "zeros": bytes(10_000),
    "samples beyond the memory": long_silence(),
}  # fmt: skip


def call(folder, *arguments):
    """Run the command line in a folder; return the code, stderr, and what is there that was not."""
    before, out, err = set(os.listdir(folder)), io.StringIO(), io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main([*arguments])
    return code, err.getvalue(), set(os.listdir(folder)) - before


def check_refused(folder, name):
    for command in (["analyse", name, "--json", "a.json", "--plot", "a.png"], ["steer", name, "--loudness", "-3", "-o", "o.wav"]):
        code, err, left = call(folder, *command)
        assert (code, left) == (2, set()) and err.startswith("error: ") and err.count("\n") == 1, (command, code, err, left)


@pytest.mark.parametrize("kind", BAD)
def test_bad_sounds_are_refused_in_one_line(kind, tmp_path):
    (tmp_path / "sound.wav").write_bytes(BAD[kind])
    check_refused(tmp_path, "sound.wav")


@pytest.mark.parametrize(
    "name",
    ["", ".", "x" * 300, "nowhere.wav", "nowhere/x.wav", "loop", "pipe", "a\nb.wav", "\udcff.wav", "/dev/null", "/dev/zero"],
)
def test_names_that_lead_to_no_sound(name, tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    check_refused(tmp_path, name)


def test_files_and_folders_that_may_not_be_read():
    with tempfile.TemporaryDirectory() as folder:  # a folder of pytest's own lets nobody else in
        secret = Path(folder) / "sound.wav"
        secret.write_bytes(SEEDS["wav"])
        secret.chmod(0)
        Path(folder).chmod(0o755)
        with nobody(), pytest.raises(AudioError, match=r"is not readable \(Permission denied\); check its permissions"):
            read(secret)
        Path(folder).chmod(0o700)
        with nobody(), pytest.raises(AudioError, match=r"cannot be opened \(Permission denied\); check the path"):
            read(secret)


@contextlib.contextmanager
def nobody():
    """Root may read everything: be somebody else for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="makes the containers with ffmpeg")
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "webm", "avi", "mov", "m4a", "wma", "ac3", "ts", "gif"])
def test_videos_and_other_containers_are_refused_in_one_line(suffix, tmp_path):
    picture = ["-f", "lavfi", "-i", "testsrc=size=64x64:rate=5:duration=0.4"] if suffix not in ("m4a", "wma", "ac3") else []
    sound = ["-f", "lavfi", "-i", "sine=duration=0.4"] if suffix != "gif" else []
    subprocess.run(["ffmpeg", "-v", "error", *picture, *sound, "-t", "0.4", f"x.{suffix}"], cwd=tmp_path, check=True)
    check_refused(tmp_path, f"x.{suffix}")


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "aiff"])
def test_what_ffmpeg_writes_is_read(suffix, tmp_path):
    if shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg is not here")
    source = ["-f", "lavfi", "-i", "sine=frequency=440:duration=0.5:sample_rate=22050"]
    subprocess.run(["ffmpeg", "-v", "error", *source, f"x.{suffix}"], cwd=tmp_path, check=True)
    sound = read(tmp_path / f"x.{suffix}")
    spectrum = torch.fft.rfft(sound.samples[0]).abs()
    assert int(spectrum.argmax()) / sound.samples.shape[1] * sound.sample_rate == pytest.approx(440, abs=4)


@pytest.mark.parametrize("name", sorted(SEEDS))
def test_whole_files_of_every_format_are_read(name, tmp_path):
    """What the fuzz starts from is fine: 0.1 s at its rate; some formats pad to whole blocks."""
    (tmp_path / "x").write_bytes(SEEDS[name])
    *_, rate, channels = FORMATS[name]
    sound = read(tmp_path / "x")
    assert (sound.sample_rate, sound.samples.shape[0]) == (rate, channels)
    assert sound.samples.shape[1] == pytest.approx(rate / 10, abs=2400 if name in ("mp3", "sds", "wav adpcm") else 0)


def test_lying_lengths_cost_no_memory(tmp_path):
    """A header of four gigabytes on a file of a second: what is there is read or refused, in the memory of what is there."""
    import resource

    flac = bytearray(SEEDS["flac"])
    flac[21:26] = bytes([flac[21] & 0xF0, *(19 * 60 * 96_000).to_bytes(4, "big")])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for i, content in enumerate(
        [bytes(flac), wav(data=bytes(6400), claimed=2**31), SEEDS["rf64"][:40] + b"\xff" * 8 + SEEDS["rf64"][48:]]
    ):
        (tmp_path / f"{i}.wav").write_bytes(content)
        check_read_or_refused(tmp_path / f"{i}.wav")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_samples_are_what_libsndfile_gives_at_once(tmp_path):
    """Decoding block by block changes nothing, whatever the format."""
    noise = 0.1 * np.random.default_rng(0).standard_normal((150_000, 2))
    for name, subtype in (("x.wav", "PCM_24"), ("x.flac", "PCM_16"), ("x.ogg", "VORBIS"), ("x.mp3", "MPEG_LAYER_III")):
        soundfile.write(tmp_path / name, noise, 44_100, subtype=subtype)
        expected, _ = soundfile.read(tmp_path / name, dtype="float32")
        assert np.array_equal(read(tmp_path / name).samples.T.numpy(), expected), name


def test_the_seeded_accidents_of_long_files(tmp_path):
    """Truncation anywhere in a second of sound gives the part that is there, or one line."""
    for name in ("wav", "flac", "vorbis", "mp3", "aiff"):
        content, cuts = SEEDS[name], random.Random(name)
        for _ in range(12):
            (tmp_path / "x").write_bytes(content[: cuts.randrange(len(content))])
            check_read_or_refused(tmp_path / "x")
