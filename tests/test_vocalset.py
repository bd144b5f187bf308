"""The loader on folders shaped like the archive, its split, and what it says of other folders; the synthesised stand-in."""

import numpy as np
import pytest
import soundfile
import torch

from experiments._voice import TECHNIQUES, Voice, gain, sing, write_corpus
from sae_audio.descriptors import describe
from sae_audio.errors import DataError, ParameterError
from sae_audio.units import to_db
from sae_audio.vocalset import SINGERS, TEST_SINGERS, folder_clips, held_out, vocalset_clips

RATE = 16_000


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def archive(folder, singers=SINGERS, tree="FULL"):
    """Every singer and technique once, as the files are named."""
    short = {singer: singer[0] + singer.strip("aefml") for singer in singers}
    names = [
        f"{tree}/{singer}/{'excerpts' if technique == 'spoken' else 'long_tones'}/{technique}/{short[singer]}_{ending}.wav"
        for singer in singers
        for technique in TECHNIQUES
        for ending in (["dona_spoken"] if technique == "spoken" else [f"long_{technique}_{vowel}" for vowel in "ao"])
    ]
    return touch(folder, *names)


def test_the_whole_archive_with_the_publishers_split(tmp_path):
    clips = vocalset_clips(archive(tmp_path / "VocalSet1-2"))
    assert len(clips) == 20 * (9 * 2 + 1)
    assert {clip.group for clip in clips if clip.split == "test"} == {"female2", "female8", "male3", "male5", "male10"}
    assert len({clip.group for clip in clips if clip.split == "train"}) == 15
    assert {clip.label for clip in clips} == set(TECHNIQUES)
    first = clips[0]
    assert first.name == "FULL/female1/excerpts/spoken/f1_dona_spoken.wav" and first.path.is_file()
    assert (first.label, first.group, first.split) == ("spoken", "female1", "train")


@pytest.mark.parametrize("root", ["", "FULL", "VocalSet1-2"])
def test_any_folder_around_the_singers_will_do(tmp_path, root):
    folder = archive(tmp_path / "VocalSet1-2" if root == "VocalSet1-2" else tmp_path)
    assert len(vocalset_clips(tmp_path if root == "VocalSet1-2" else folder / root)) == 380


def test_version_1_2_has_the_tree_under_another_name_and_the_recordings_three_times(tmp_path):
    archive(tmp_path / "VocalSet1-2", tree="data_by_singer")
    touch(tmp_path / "VocalSet1-2", "data_by_technique/belt/f1_long_belt_a.wav", "data_by_vowel/a/f1_long_belt_a.wav")
    touch(tmp_path / "__MACOSX", "VocalSet1-2/data_by_singer/female1/long_tones/belt/f1_long_belt_a.wav")
    for folder in (tmp_path, tmp_path / "VocalSet1-2", tmp_path / "VocalSet1-2" / "data_by_singer"):
        clips = vocalset_clips(folder)
        assert len(clips) == 380 and {clip.path.relative_to(tmp_path).parts[1] for clip in clips} == {"data_by_singer"}


def test_the_filter_of_files(tmp_path):
    archive(tmp_path)
    before = {clip.name for clip in vocalset_clips(tmp_path)}
    full = "FULL/male9/scales"
    touch(
        tmp_path, f"{full}/vibrado/m9_scales_vibrado_a.wav", f"{full}/belt/m9_scales_belt_c.wav", f"{full}/straight/scales_u.wav"
    )
    touch(
        tmp_path,
        f"{full}/vibrato/m9_scales_vibrato.wav",  # uncut
        f"{full}/vibrato/m9_scales_vibrato_a(1).wav",  # a copy
        f"{full}/fast_forte/m9_scales_f_fast_forte_a.wav",  # another technique
        f"{full}/belt/._m9_scales_belt_a.wav",
        f"{full}/belt/notes.txt",
        "__MACOSX/FULL/male9/scales/belt/m9_scales_belt_a.wav",
        "data_by_singer/male9/scales/belt/m9_scales_belt_a.wav",
    )
    clips = {clip.name: clip for clip in vocalset_clips(tmp_path)}
    assert set(clips) - before == {
        f"{full}/vibrado/m9_scales_vibrado_a.wav",
        f"{full}/belt/m9_scales_belt_c.wav",
        f"{full}/straight/scales_u.wav",
    }
    assert clips[f"{full}/vibrado/m9_scales_vibrado_a.wav"].label == "vibrato"
    assert clips[f"{full}/straight/scales_u.wav"].group == "male9"


def test_what_is_missing_is_named(tmp_path):
    some = archive(tmp_path, tuple(s for s in SINGERS if s not in ("male5", "female9")))
    with pytest.raises(DataError, match=r"no clip of female9, male5; unpack .*1442513.*--partial"):
        vocalset_clips(some)
    assert len(vocalset_clips(some, partial=True)) == 18 * 19
    for path in some.glob("FULL/*/*/trillo/*"):
        path.unlink()
    with pytest.raises(DataError, match="no clip of female9, male5, trillo"):
        vocalset_clips(some)


def test_other_folders_are_told_apart(tmp_path):
    touch(tmp_path / "zip", "VocalSet1-2.zip")
    with pytest.raises(DataError, match=r"not the unpacked VocalSet.*but VocalSet1-2\.zip; unpack.*unpacks to"):
        vocalset_clips(tmp_path / "zip")
    with pytest.raises(DataError, match="is not a folder; unpack"):
        vocalset_clips(tmp_path / "nowhere")
    with pytest.raises(DataError, match="female1 twice"):
        vocalset_clips(archive(archive(tmp_path / "twice" / "a", ("female1",)).parent / "b", ("female1",)).parent)
    with pytest.raises(DataError, match="no train clip"):
        vocalset_clips(archive(tmp_path / "test", TEST_SINGERS), partial=True)


@pytest.fixture
def emotions(tmp_path):
    """Three classes, six speakers, two takes each."""
    names = [f"{c}/speaker{s}_{t}.wav" for c in ("angry", "calm", "sad") for s in range(6) for t in (1, 2)]
    return touch(tmp_path / "emotions", *names)


@pytest.mark.parametrize("pattern", ["speaker[0-9]+", "speaker([0-9]+)_"])
def test_class_folders_are_split_by_group(emotions, pattern):
    clips = folder_clips(emotions, group=pattern)
    assert len(clips) == 36 and {clip.label for clip in clips} == {"angry", "calm", "sad"}
    train, test = ({clip.group for clip in clips if clip.split == split} for split in ("train", "test"))
    assert not train & test and len(train | test) == 6 and 1 <= len(test) <= 2
    for split in ("train", "test"):
        assert {clip.label for clip in clips if clip.split == split} == {"angry", "calm", "sad"}
    assert clips == folder_clips(emotions, group=pattern)


def test_without_a_group_every_file_is_one(emotions):
    clips = folder_clips(emotions)
    assert len({clip.group for clip in clips}) == 36
    assert 6 <= sum(clip.split == "test" for clip in clips) <= 9


@pytest.mark.parametrize(
    ("pattern", "error", "message"),
    [
        ("singer", ParameterError, "finds nothing in 'angry/speaker0_1.wav'"),
        ("(", ParameterError, "not a regular expression"),
        ("speaker", DataError, "at least two groups"),
    ],
)
def test_groups_that_do_not_work(emotions, pattern, error, message):
    with pytest.raises(error, match=message):
        folder_clips(emotions, group=pattern)


def test_folders_that_hold_no_classes(emotions, tmp_path):
    touch(emotions, "loose.wav")
    with pytest.raises(DataError, match=r"'loose\.wav' lies in no class folder"):
        folder_clips(emotions)
    with pytest.raises(DataError, match="clips of a only"):
        folder_clips(touch(tmp_path / "one", *(f"a/{i}.wav" for i in range(9))))
    with pytest.raises(DataError, match=r"no (train|test) clip of rare"):
        folder_clips(touch(tmp_path / "rare", "rare/1.wav", *(f"{c}/{i}.wav" for c in "ab" for i in range(9))))
    with pytest.raises(DataError, match="largest class has 1 clips"):
        folder_clips(touch(tmp_path / "few", "a/1.wav", "b/1.wav"))


def test_held_out_takes_whole_groups_and_a_fifth():
    labels = [label for _ in range(10) for label in ("x", "y")]
    groups = [f"g{i // 2}" for i in range(20)]
    held = held_out(labels, groups, seed=3)
    assert len(held) == 4 and held == held_out(labels, groups, seed=3)
    assert all((i in held) == (i + 1 in held) for i in range(0, 20, 2))
    assert len({frozenset(held_out(labels, groups, seed)) for seed in range(8)}) > 1


@pytest.mark.parametrize("seed", range(6))
def test_a_class_of_two_groups_is_on_both_sides(seed):
    labels = ["common"] * 30 + ["rare"] * 2
    held = held_out(labels, [f"g{i}" for i in range(32)], seed)
    assert 4 <= len(held) <= 8 and len(held & {30, 31}) == 1


# The stand-in -----------------------------------------------------------------------------------------------------------------


def heard(voice, seconds=1.0):
    return describe(torch.from_numpy(sing(voice, seconds, RATE))[None, None], RATE, RATE // 100)


def test_pitch_and_level():
    measured = heard(Voice(f0=196.0))
    assert float(measured.f0[0, 20:80].nanmedian()) == pytest.approx(196, rel=0.005)
    assert float(to_db(measured.rms)[0, 20:80].median()) == pytest.approx(-20, abs=1)


def test_vibrato_has_its_rate_and_extent():
    cents = 1200 * (heard(Voice(f0=220.0, vibrato_cents=80.0, vibrato_hz=5.0), 2.0).f0[0] / 220).log2()[10:190]
    assert float(cents.max() - cents.min()) == pytest.approx(160, rel=0.15)
    spectrum = torch.fft.rfft(cents - cents.mean()).abs()
    assert float(spectrum.argmax()) / 1.8 == pytest.approx(5, abs=0.6)


def test_a_trill_has_two_notes_and_a_glide_falls():
    trill = 12 * (heard(Voice(f0=220.0, trill_semitones=2.0)).f0[0] / 220).log2()[10:90]
    near = torch.stack([(trill - note).abs() < 0.4 for note in (0, 2)]).double().mean(1)
    assert near.min() > 0.25 and near.sum() > 0.7
    glide = 12 * (heard(Voice(f0=220.0, glide=5.0)).f0[0] / 220).log2()
    assert float(glide[10] - glide[90]) == pytest.approx(4, abs=0.4)


def test_breath_pulses_and_closed_lips():
    tone, breathy = (sing(Voice(breath=breath), 1.0, RATE) for breath in (0.0, 1.0))
    flatness = [
        np.exp(np.log(power).mean()) / power.mean() for power in (np.abs(np.fft.rfft(s)) ** 2 + 1e-9 for s in (tone, breathy))
    ]
    assert flatness[1] > 100 * flatness[0]
    level = to_db(heard(Voice(pulse=0.9, pulse_hz=5.0)).rms)[0, 10:90]
    assert float(level.max() - level.min()) > 8
    hz = np.array([400.0, 3200.0])
    assert np.ptp(20 * np.log10(gain(Voice(closed=True), hz) / gain(Voice(), hz))) == pytest.approx(
        47.9, abs=0.5
    )  # 1 + (hz / 800)⁴


def test_formants_follow_vowel_and_size():
    hz = np.arange(200.0, 1200.0)
    assert hz[gain(Voice(vowel="i"), hz).argmax()] == pytest.approx(270, abs=15)
    assert hz[gain(Voice(vowel="i", size=1.2), hz).argmax()] == pytest.approx(324, abs=15)


def test_fry_is_irregular_and_the_same_every_time():
    fry = Voice(f0=80.0, jitter=0.15)
    assert np.array_equal(sing(fry, 0.5, RATE, seed=4), sing(fry, 0.5, RATE, seed=4))
    assert not np.array_equal(sing(fry, 0.5, RATE, seed=4), sing(fry, 0.5, RATE, seed=5))
    assert len(sing(fry, 0.123, RATE)) == 1968


def test_the_stand_in_has_the_layout_and_oddities_of_the_archive(tmp_path):
    folder = write_corpus(tmp_path / "voices", ("female1", "male3"), vowels="a", seconds=0.1)
    clips = vocalset_clips(folder, partial=True)
    assert len(clips) == 2 * (9 * 2 + 3)
    assert {(clip.group, clip.split) for clip in clips} == {("female1", "train"), ("male3", "test")}
    assert any("/vibrado/" in clip.name and clip.label == "vibrato" for clip in clips)
    names = {path.name for path in folder.rglob("*.wav")}
    assert {"f1_long_tones_straight.wav", "._f1_long_tones_straight_a.wav"} <= names
    info = soundfile.info(clips[0].path)
    assert (info.samplerate, info.frames, info.channels) == (RATE, 1600, 1)
    written = clips[0].path.stat().st_mtime_ns
    write_corpus(folder, ("female1", "male3"), vowels="a", seconds=0.1)
    assert clips[0].path.stat().st_mtime_ns == written
