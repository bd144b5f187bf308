from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sae_audio.descriptors import describe
from sae_audio.errors import DataError, ParameterError
from sae_audio.etude import additive, soundfont
from sae_audio.etude.corpus import SPLIT_SHARES, corpus
from sae_audio.etude.programs import PROGRAMS
from sae_audio.etude.scores import Note, Score, frame_pitch, gain_curve, write_score

FLAT = ((0.0, 0.0), (10.0, 0.0))


def has_fluidsynth() -> bool:
    try:
        soundfont._font()
    except DataError:
        return False
    return True


needs_fluidsynth = pytest.mark.skipif(not has_fluidsynth(), reason="needs libfluidsynth3, fluid-soundfont-gm and pyfluidsynth")
SOURCES = ["additive", pytest.param("fluidr3", marks=needs_fluidsynth)]


def test_same_seed_same_score_and_other_seed_another():
    assert write_score((3, 1)) == write_score((3, 1))
    assert write_score((3, 1)).notes != write_score((3, 2)).notes


@pytest.mark.parametrize("voices", [1, 3])
def test_notes_stay_in_range_and_in_the_clip_and_a_voice_plays_one_at_a_time(voices):
    for seed in range(20):
        score = write_score((seed,), low=48, high=72, voices=voices)
        assert all(47.84 < note.pitch < 72.16 and 0 < note.velocity <= 1 for note in score.notes)
        assert all(note.onset >= 0 and note.onset + note.duration <= score.duration for note in score.notes)
        times = np.arange(0, 10, 0.01)
        sounding = sum(((times >= n.onset + 1e-9) & (times < n.onset + n.duration - 1e-9)).astype(int) for n in score.notes)
        assert sounding.max() <= voices


def test_narrow_range_is_refused():
    with pytest.raises(ParameterError, match=r"48\.\.55 is narrower than an octave"):
        write_score((0,), low=48, high=55)


def test_frame_pitch_by_hand():
    score = Score((Note(0.02, 0.04, 60.0, 1.0), Note(0.08, 0.02, 64.0, 1.0)), 0.12, FLAT, -10.0, 1)
    expected = [np.nan, 60, 60, np.nan, 64, np.nan]  # centres at 10, 30, 50, 70, 90, 110 ms
    np.testing.assert_array_equal(frame_pitch(score, 6, 50.0), expected)
    assert np.isnan(frame_pitch(score._replace(voices=2), 6, 50.0)).all()


def test_gain_curve_by_hand():
    score = Score((), 1.0, ((0.0, -20.0), (1.0, 0.0)), -10.0, 1)
    np.testing.assert_allclose(gain_curve(score, 5, 4), 10 ** np.array([-1.0, -0.75, -0.5, -0.25, 0.0]), rtol=1e-6)


def test_splits_share_no_score_and_held_out_timbres_are_only_in_test():
    clips = list(corpus(100, seed=0))
    scores = {name: {clip.score.notes for clip in clips if clip.split == name} for name in SPLIT_SHARES}
    timbres = {name: {clip.timbre for clip in clips if clip.split == name and not clip.held_out_timbre} for name in SPLIT_SHARES}
    new = {clip.timbre for clip in clips if clip.held_out_timbre}
    assert not scores["train"] & scores["validation"] and not (scores["train"] | scores["validation"]) & scores["test"]
    assert new and not new & set().union(*timbres.values())
    assert all(clip.split == "test" for clip in clips if clip.held_out_timbre)
    share = np.mean([clip.held_out_timbre for clip in clips if clip.split == "test"])
    assert 0.35 < share < 0.65
    assert len({clip.name for clip in clips}) == len(clips)
    assert [sum(clip.split == name for clip in clips) for name in SPLIT_SHARES] == [420, 90, 90]
    assert 0.25 < np.mean([clip.polyphonic for clip in clips]) < 0.35


@pytest.mark.parametrize("source", SOURCES)
def test_clips_render_the_same_whatever_was_rendered_before_and_at_their_level(source):
    clip, *others = corpus(2, seed=4, source=source)
    audio = clip.render()
    assert audio.shape == (160_000,) and audio.dtype == np.float32 and clip.f0.shape == (500,)
    for other in others:
        other.render()
        np.testing.assert_array_equal(clip.render(), audio)
    loudest = 20 * np.log10(np.sqrt((audio.reshape(-1, 800) ** 2).mean(axis=1).max()))
    assert np.abs(audio).max() <= 0.9901 and loudest == pytest.approx(clip.score.level, abs=0.1)


@pytest.mark.parametrize("source", SOURCES)
def test_labels_are_the_pitch_that_sounds(source):
    agree, total = 0, 0
    for clip in [clip for clip in corpus(3, seed=9, source=source, split="train") if not clip.polyphonic][:6]:
        tracked = describe(torch.from_numpy(clip.render())[None, None], 16_000, 320).f0[0].numpy()
        both = ~np.isnan(tracked) & ~np.isnan(clip.f0)
        agree += (np.abs(1200 * np.log2(tracked[both] / clip.f0[both])) < 50).sum()
        total += both.sum()
    assert total > 800 and agree / total > 0.88  # frames that straddle two notes and strings off pitch are the rest


def test_partials_stand_where_the_formula_says():
    timbre = additive.make_timbre(0)._replace(stiffness=1e-4, vibrato_cents=0, breath=0, sustain=1, odd=1, low=36, high=96)
    score = Score((Note(0.0, 1.0, 57.0, 1.0),), 1.0, FLAT, -10.0, 1)
    audio = additive.render(score, timbre, 16_000, (0,))
    spectrum = np.abs(np.fft.rfft(audio * np.hanning(16_000)))  # 1 Hz bins
    for k in (1, 2, 5):
        expected = 220 * k * np.sqrt((1 + 1e-4 * k**2) / (1 + 1e-4))
        near = slice(round(expected) - 40, round(expected) + 41)
        assert np.argmax(spectrum[near]) + near.start == pytest.approx(expected, abs=1)


def test_vibrato_is_in_the_label():
    timbre = additive.make_timbre(0)._replace(vibrato_cents=30.0, vibrato_hz=5.0)
    shift = additive.vibrato(Note(0, 1, 60, 1), timbre, np.array([0.0, 0.35, 0.45, 0.55]))
    np.testing.assert_allclose(shift, [0, -0.3, 0.3, -0.3], atol=1e-9)


def test_wrong_requests_are_refused():
    with pytest.raises(ParameterError, match="'midi'"):
        next(corpus(1, source="midi"))
    with pytest.raises(ParameterError, match="0 minutes"):
        next(corpus(0))


@needs_fluidsynth
def test_a_missing_soundfont_is_named(monkeypatch):
    soundfont.check()
    monkeypatch.setattr(soundfont, "SOUNDFONT", Path("/nowhere/FluidR3_GM.sf2"))
    with pytest.raises(DataError, match=r"soundfont /nowhere/FluidR3_GM.sf2 is missing; install it with 'apt install"):
        soundfont._font.__wrapped__()


def test_missing_fluidsynth_names_the_packages(monkeypatch):
    monkeypatch.setitem(sys.modules, "fluidsynth", None)  # as when pip never installed it
    soundfont._font.cache_clear()
    with pytest.raises(DataError, match=r"libfluidsynth3 fluid-soundfont-gm.*pyfluidsynth"):
        soundfont.render(write_score((0,)), PROGRAMS[0], 16_000)
    soundfont._font.cache_clear()
