"""Control vectors: known linear laws, identity at strength 0, the paper's rule by hand, calibration on a codec that is known."""

import math
from dataclasses import replace

import pytest
import torch
from tiny_bundle import tiny_bundle, tiny_latents

from experiments.control import pitch_candidates
from sae_audio import control
from sae_audio.calibration import Clips, axis_trials, calibrate_axis, calibrate_notes, shift_trials
from sae_audio.closed_loop import Hold, steer_rounds
from sae_audio.control import ControlVector, apply, axis_strengths, edit, note_strengths, paper_edit
from sae_audio.descriptors import Descriptors
from sae_audio.directions import class_means, orthogonalise, partial_effects
from sae_audio.errors import DataError, ParameterError
from sae_audio.frames import Frames
from sae_audio.heard import Heard, changes, hit_rate, isolation, median, spectral_distance
from sae_audio.sae import VARIANTS, SAEConfig, base, build_sae
from sae_audio.units import midi_to_hz

NOTES = 5


def sae_of(variant="topk", d_in=3):
    return build_sae(SAEConfig(variant, d_in, 16, k=4)).eval()


def measure(latents):
    """A codec whose latents are (semitones above 60, dB above -30, octaves above 1 kHz)."""
    f0 = midi_to_hz(60 + latents[..., 0])
    rms = 10 ** ((latents[..., 1] - 30) / 20)
    centroid = 1000 * 2 ** latents[..., 2]
    return Heard(latents[:, None, :, 0], Descriptors.of(f0=f0, rms=rms, centroid=centroid), latents.transpose(1, 2))


def frames(n=3000, seed=0):
    """Random notes, levels and octaves in 6 recordings that each add an offset, and latents linear in them."""
    generator = torch.Generator().manual_seed(seed)
    note = torch.randint(NOTES, (n,), generator=generator)
    level, octave = torch.randn(n, generator=generator) * 5 - 30, torch.randn(n, generator=generator) * 0.5 + 10
    recording = torch.arange(n) * 6 // n
    descriptors = Descriptors.of(f0=midi_to_hz(60.0 + note), rms=10 ** (level / 20), centroid=2**octave)
    directions = torch.randn(NOTES + 2, 4, generator=generator)
    x = directions[note] + level[:, None] * directions[-2] + octave[:, None] * directions[-1]
    return x + 3 * torch.randn(6, 4, generator=generator)[recording], note, descriptors, recording, directions


def test_partial_effects_recover_a_linear_law_whatever_the_recording_adds():
    x, note, descriptors, recording, directions = frames()
    effects = partial_effects(x, note, NOTES, descriptors, recording, ridge_frames=1e-6)
    assert torch.allclose(effects.loudness, directions[-2], atol=1e-3)
    assert torch.allclose(effects.brightness, directions[-1], atol=1e-3)
    expected = directions[:NOTES] - directions[0]
    assert torch.allclose(effects.notes - effects.notes[0], expected, atol=1e-2)


def test_partial_effects_of_sparse_inputs_are_those_of_dense_ones():
    x, note, descriptors, recording, _ = frames()
    dense = partial_effects(x.relu(), note, NOTES, descriptors, recording)
    sparse = partial_effects(x.relu().to_sparse_csr(), note, NOTES, descriptors, recording)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(dense, sparse, strict=True))


def test_partial_effects_by_blocks_are_those_at_once(monkeypatch):
    x, note, descriptors, recording, _ = frames()
    whole = partial_effects(x, note, NOTES, descriptors, recording)
    monkeypatch.setattr("sae_audio.directions.BLOCK", 7)
    assert all(torch.equal(a, b) for a, b in zip(whole, partial_effects(x, note, NOTES, descriptors, recording), strict=True))


def test_probe_weights_are_compared_at_the_length_of_class_means():
    bundle, g = tiny_bundle(), torch.Generator().manual_seed(0)
    x = tiny_latents()
    f0 = midi_to_hz(torch.randint(48, 60, (len(x),), generator=g).float())
    descriptors = Descriptors.of(f0=f0, rms=torch.full_like(f0, 0.1), centroid=torch.full_like(f0, 1000.0))
    found = dict(pitch_candidates(bundle, Frames(x, descriptors, torch.arange(len(x)) // 400)))
    heard = slice(48 - 36, 60 - 36)  # classes begin at C2
    lengths = []
    for name in ("raw latents, class means", "SAE, probe weights"):
        directions = found[f"pitch: {name}"].directions[heard]
        lengths.append(math.sqrt(float(directions.var(0, correction=0).sum())))
    assert lengths[1] == pytest.approx(lengths[0], rel=1e-3) and lengths[0] > 0.01
    weights = bundle.probes["pitch/acts"].weight.T @ bundle.sae.directions()
    cosine = torch.nn.functional.cosine_similarity(found["pitch: SAE, probe weights"].directions, weights.detach())
    assert torch.allclose(cosine, torch.ones(len(cosine)), atol=1e-4)


def test_silent_frames_do_not_count():
    x, note, descriptors, recording, _ = frames()
    silent = descriptors._replace(rms=descriptors.rms.clone())
    silent.rms[::2] = 0
    spoilt = x.clone()
    spoilt[::2] = 1e4
    kept = partial_effects(spoilt, note, NOTES, silent, recording)
    assert kept.loudness.abs().max() < 10


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_change_returns_the_latents_bit_for_bit(variant):
    sae, x = sae_of(variant), torch.randn(2, 7, 3)
    assert edit(x, sae) is x
    assert torch.equal(edit(x, sae, acts=torch.zeros(16), direct=torch.zeros(3)), x)


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_acts_edit_adds_decoder_rows_and_switches_features_off(variant):
    sae, x = sae_of(variant), torch.randn(1, 5, 3)
    acts = sae.encode(x)
    added = edit(x, sae, acts=2.0 * torch.eye(16)[3]) - x
    assert torch.allclose(added, (2.0 * sae.directions()[3]).expand_as(x), atol=1e-5)
    removed = edit(x, sae, acts=torch.full((16,), -1e6)) - x
    assert torch.allclose(removed, -acts @ sae.directions(), atol=1e-4)


def test_latents_edit_and_envelope():
    sae, x = sae_of(), torch.zeros(1, 3, 3)
    vector = control.axis_control("loudness", "effect", "latents", torch.tensor([0.0, 2.0, 0.0]))
    moved = apply(x, sae, [(vector, axis_strengths(torch.tensor([[0.0, 1.0, -1.0]])))])
    assert torch.equal(moved[0, :, 1], torch.tensor([0.0, 2.0, -2.0]))


def test_note_strengths_leave_undefined_frames_alone():
    vector = control.class_control("pitch", "effect", "latents", "abc", torch.eye(3))
    strengths = note_strengths(vector, torch.tensor([[0, 1, -1]]), torch.tensor([[2, -1, 0]]), 2.0)
    assert strengths.tolist() == [[[-2, 0, 2], [0, 0, 0], [0, 0, 0]]]


def test_paper_edit_by_hand():
    sae = sae_of("relu")
    x, row = torch.randn(1, 2, 3), torch.randn(16)
    acts = sae.encode(x) + 10 * row
    expected = sae.decode(acts / acts.square().mean(-1, keepdim=True).sqrt())
    assert torch.allclose(paper_edit(x, sae, row, 10.0), expected, atol=1e-5)


def test_orthogonalise_and_class_means_by_hand():
    clean = orthogonalise(torch.tensor([1.0, 2.0, 3.0]), [torch.tensor([0.0, 5.0, 0.0])])
    assert torch.allclose(clean, torch.tensor([1.0, 0.0, 3.0]), atol=1e-6)
    means = class_means(torch.tensor([[1.0], [3.0], [10.0], [99.0]]), torch.tensor([0, 0, 1, -1]), 3)
    assert means.squeeze().tolist() == pytest.approx([2.0, 10.0, 14 / 3])


def test_changes_by_hand():
    f0 = torch.tensor([[440.0, 440, math.nan]])
    before = Descriptors.of(f0=f0, rms=torch.full((1, 3), 0.1), centroid=torch.full((1, 3), 1000.0))
    after = before._replace(f0=torch.full((1, 3), 880.0), rms=before.rms / 2, centroid=before.centroid / 2)
    assert changes(before, after)[0].tolist() == pytest.approx([12, -6.0206, -1], abs=1e-3)
    silent = before._replace(rms=torch.full((1, 3), 1e-6))
    assert changes(silent, after).isnan().all()


def test_hit_rate_counts_unvoiced_as_a_miss():
    after = Descriptors.of(f0=midi_to_hz(torch.tensor([[60.4, 60.6, math.nan, 60.0]])))
    assert hit_rate(after, torch.tensor([[60.0, 60, 60, math.nan]])) == pytest.approx(1 / 3)


def test_a_gain_has_no_spectral_distance():
    mel = torch.randn(1, 8, 5)
    assert spectral_distance(mel, mel + 0.7) == pytest.approx(0, abs=1e-6)
    tilted = mel + torch.tensor([1.0, -1.0] * 4)[:, None]
    assert spectral_distance(mel, tilted) == pytest.approx(1, abs=1e-6)


def test_isolation_by_hand():
    assert isolation(-6.0, [0.0, 6.0, 0.5], 1, [12.0, 3.0, 0.5]) == pytest.approx(2 / math.sqrt(0.5))
    assert isolation(6.0, [math.nan, 6.0, 0.5], 1, [12.0, 3.0, 0.5]) == pytest.approx(2)


def test_changes_that_cancel_show_as_stray():
    before = Descriptors.of(f0=torch.full((1, 4), 440.0), rms=torch.full((1, 4), 0.1), centroid=torch.full((1, 4), 1000.0))
    wobble = torch.tensor([[-3.0, -3.0, 3.0, 3.0]])
    after = before._replace(rms=0.1 * 10 ** (wobble / 20))
    assert changes(before, after)[0, 1] == pytest.approx(0, abs=1e-3)
    assert changes(before, after, absolute=True)[0, 1] == pytest.approx(3, abs=1e-3)


def test_the_median_of_an_even_number_is_the_middle():
    assert median(torch.tensor([0.0, 1, 2, 9, math.nan]), 0) == pytest.approx(1.5)


def test_intervals_that_no_frame_can_take_do_not_count():
    high = clips()._replace(notes=torch.full((2, 4), 4), midi=torch.full((2, 4), 64.0))
    vector = calibrate_notes(notes(), sae_of(), high, measure, strengths=(1.0,), intervals=(2, 5))
    assert vector.hit_rate.isnan().all() and vector.best_strength() == 1.0


def test_silence_cannot_teach_directions():
    x, note, descriptors, recording, _ = frames()
    with pytest.raises(DataError, match="no frame is louder than -50 dBFS"):
        partial_effects(x, note, NOTES, descriptors._replace(rms=descriptors.rms * 1e-4), recording)


def clips():
    midi = torch.tensor([[60.0, 62, math.nan, 61], [63, 60, 60, 62]])
    latents = torch.stack([midi.nan_to_num(60) - 60, torch.zeros(2, 4), torch.zeros(2, 4)], -1)
    return Clips(latents, torch.where(midi.isfinite(), midi - 60, -1).long(), midi)


def loudness(leak=0.0):
    return control.axis_control("loudness", "effect", "latents", torch.tensor([0.0, 0.5, leak]))


def brightness(leak=0.0):
    return control.axis_control("brightness", "effect", "latents", torch.tensor([0.0, leak, 0.25]))


def test_dose_response_is_inverted():
    vector = calibrate_axis(loudness(), sae_of(), clips(), measure, [-20, -10, 10, 20])
    assert vector.responses[:, 1].tolist() == pytest.approx([-10, -5, 0, 5, 10], abs=1e-4)
    assert vector.range == pytest.approx((-10, 10), abs=1e-4)
    assert vector.strength_for(-6) == pytest.approx(-12, abs=1e-3)
    with pytest.raises(ParameterError, match=r"loudness \+11 dB is out of reach; this bundle can move it by -10.0 to \+10.0 dB"):
        vector.strength_for(11)


def measured_axis(doses, loudness, brightness=None):
    """A loudness control with these responses."""
    responses = torch.tensor([[0.0] * len(doses), loudness, brightness or [0.0] * len(doses)]).T
    return ControlVector(
        "loudness", "effect", "latents", ("up",), torch.zeros(1, 3), torch.tensor(doses), responses, torch.zeros(0)
    )


def test_only_the_monotone_stretch_around_zero_is_used():
    vector = measured_axis([-2.0, -1.0, 0.0, 1.0, 2.0], [-1.0, -3.0, 0.0, 4.0, 2.0])
    assert vector.range == (-3, 4)
    assert (vector.strength_for(-3), vector.strength_for(4)) == (-1, 1)  # the ends can be asked for


@pytest.mark.parametrize(
    ("doses", "loudness", "brightness", "expected"),
    [
        ([-3.0, -1.0, 0.0, 1.0, 3.0], [-9.0, -2.0, 0.0, 4.0, 9.0], [7.0, 1.0, 0.0, 0.5, 9.0], [3.0, -0.25]),
        ([0.0, 2.0, 4.0], [0.0, 6.0, 20.0], [0.0, -1.0, -9.0], [3.0, -0.5]),  # calibrated upwards only
        ([-4.0, -2.0, 0.0], [-20.0, -6.0, 0.0], [9.0, 1.0, 0.0], [3.0, -0.5]),
    ],
)
def test_slopes_are_those_next_to_zero(doses, loudness, brightness, expected):
    assert measured_axis(doses, loudness, brightness).slopes().tolist() == pytest.approx(expected)


def notes(overshoot=1.0):
    return control.class_control("pitch", "effect", "latents", "CDEFG", overshoot * torch.arange(5.0)[:, None] * torch.eye(3)[:1])


def test_notes_are_hit_at_the_right_strength():
    vector = calibrate_notes(notes(0.5), sae_of(), clips(), measure, strengths=(1.0, 2.0), intervals=(1, 2))
    assert vector.hit_rate.tolist() == pytest.approx([0.0, 1.0], abs=0.51)
    assert vector.hit_rate[1] == 1
    assert vector.best_strength() == 2.0


def test_the_lowest_good_strength_wins():
    rates = torch.tensor([0.5, 0.9, 0.91])
    vector = ControlVector(
        "pitch", "effect", "acts", ("C", "D"), torch.zeros(2, 3), torch.tensor([1.0, 1.5, 2]), torch.zeros(3, 3), rates
    )
    assert vector.best_strength() == 1.5
    assert replace(vector, hit_rate=torch.tensor([math.nan, 0.5, 0.5])).best_strength() == 1.5  # nan: no frame to hit


def test_targets_outside_the_classes_are_not_counted():
    sample = clips()
    (trial,) = shift_trials(notes(), sae_of(), sample, measure(sample.latents), measure, 4, 1.0)
    assert trial.hit_rate == 1.0 and trial.n_clips == 2


def test_the_closed_loop_reaches_what_was_asked_and_keeps_the_rest():
    sae, sample = sae_of(), clips()
    # Both axes leak into the other property, and a fifth of what is asked gets lost.
    hold = Hold(
        calibrate_axis(loudness(0.02), sae, sample, measure, [-40, -20, 20, 40]),
        calibrate_axis(brightness(1.0), sae, sample, measure, [-6, -3, 3, 6]),
    )

    def lossy(latents):
        return measure(latents * torch.tensor([1.0, 0.8, 0.8]))

    before = lossy(sample.latents)
    open_loop, closed = axis_trials(hold.brightness, sae, sample, before, lossy, 0.5, hold)
    assert axis_trials(hold.brightness, sae, sample, before, lossy, 0.5) == [open_loop]
    assert open_loop.error == pytest.approx(0.1, abs=1e-3) and abs(open_loop.change[1]) > 1
    assert closed.error < 0.03 and abs(closed.change[1]) < 0.2
    assert closed.held and not open_loop.held


def test_masked_frames_stay_bit_for_bit():
    sae, sample = sae_of(), clips()
    hold = Hold(
        calibrate_axis(loudness(), sae, sample, measure, [-40, -20, 20, 40]),
        calibrate_axis(brightness(), sae, sample, measure, [-6, -3, 3, 6]),
    )
    mask = torch.tensor([0.0, 1, 1, 0])
    strengths = axis_strengths(hold.loudness.strength_for(6.0) * mask)
    *_, done = steer_rounds(
        sample.latents,
        sae,
        [(hold.loudness, strengths)],
        measure,
        before=measure(sample.latents),
        wanted=(6.0, 0.0),
        mask=mask,
        hold=hold,
    )
    assert torch.equal(done.latents[:, [0, 3]], sample.latents[:, [0, 3]])
    assert done.latents[:, [1, 2], 1].tolist() == [pytest.approx([6, 6], abs=0.2)] * 2


@pytest.mark.parametrize("via", ["acts", "latents"])
def test_moves_in_blocks_are_moves_at_once(via, monkeypatch):
    sae, x = sae_of(), torch.randn(2, 23, 3, generator=torch.Generator().manual_seed(0))
    d = 16 if via == "acts" else 3
    directions = torch.randn(4, d, generator=torch.Generator().manual_seed(1))
    axis = control.axis_control("loudness", "effect", via, directions[0])
    pitch = control.class_control("pitch", "effect", via, "abc", directions[1:])
    source, target = torch.arange(46).view(2, 23) % 4 - 1, torch.arange(46).view(2, 23) % 3
    level = torch.linspace(-2, 2, 23)
    offsets = directions[1:][target] - directions[1:][source.clamp_min(0)]
    change = level[:, None] * directions[0] + 1.5 * offsets * (source >= 0)[..., None]
    at_once = edit(x, sae, **{"acts" if via == "acts" else "direct": change})
    moves = [(axis, axis_strengths(level)), (pitch, note_strengths(pitch, source, target, 1.5))]
    for blocks in (16 * 5, 2**22):  # of 5 frames, the last of 1; one for all
        monkeypatch.setattr(base, "DENSE", blocks)
        assert torch.allclose(apply(x, sae, moves), at_once, rtol=1e-3, atol=1e-4)
