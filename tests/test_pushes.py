"""Strengths towards classes, fades, what came of them, and control vectors in a file of their own."""

import csv
import io
import math

import pytest
import torch
from tiny_bundle import tiny_bundle

from sae_audio.audio import Sound
from sae_audio.bundle import Bundle
from sae_audio.bundle_space import space_of
from sae_audio.control import paper_edit
from sae_audio.control_file import load_controls, save_controls
from sae_audio.descriptors import Descriptors
from sae_audio.errors import BundleError, ParameterError
from sae_audio.latent_spaces import CHECKPOINTS
from sae_audio.moves import span_mask
from sae_audio.outcome import descriptors_csv, level, outcomes
from sae_audio.pipeline import Steered, steer
from sae_audio.pushes import Push, honest_moves, paper_pushed, probe_row

RATE = 16000
TINY = tiny_bundle()


@pytest.fixture(scope="module")
def etude():
    bundle = Bundle.from_pretrained(CHECKPOINTS / "etude")
    return bundle, space_of(bundle)


def notes(*hz: float, seconds: float = 0.6) -> Sound:
    t = torch.arange(int(seconds * RATE)) / RATE
    tones = [sum(0.3 / k * torch.sin(2 * torch.pi * k * f * t) for k in (1, 2, 3)) for f in hz]
    return Sound(torch.cat(tones)[None], RATE)


def measured(f0: float, rms: float, centroid: float, frames: int = 4) -> Descriptors:
    values = {"f0": f0, "rms": rms, "centroid": centroid}
    return Descriptors.of(**{name: torch.full((1, frames), value) for name, value in values.items()})


def test_a_fade_is_a_raised_cosine_inside_the_part():
    mask = span_mask(10, 10.0, 0.0, None, 0.4)
    wanted = [0.5 - 0.5 * math.cos(math.pi * min(1, t / 0.4, (1 - t) / 0.4)) for t in [0.05 + 0.1 * i for i in range(10)]]
    assert torch.allclose(mask, torch.tensor(wanted), atol=1e-5)
    assert span_mask(10, 10.0, 0.2, 0.5).tolist() == [0, 0, 1, 1, 1, 0, 0, 0, 0, 0]
    with pytest.raises(ParameterError, match=r"fade lasts 0.3 s, but the part to edit 0.30 s"):
        span_mask(10, 10.0, 0.2, 0.5, 0.3)


def test_an_honest_push_of_an_axis_goes_by_the_distance_to_the_class():
    sound = measured(440.0, 10 ** (-30 / 20), 1000.0)
    mask = torch.tensor([0.0, 0.5, 1.0, 1.0])
    ((control, strengths),) = honest_moves(TINY, [Push("loudness", "-24 dB", 0.5)], sound, mask)
    wanted = 0.5 * 6.0 * mask[:, None]
    assert control is TINY.controls["loudness"]
    assert torch.allclose(strengths[0], wanted, rtol=1e-3, atol=1e-4)


def test_an_honest_push_of_pitch_is_the_difference_of_offsets():
    ((control, strengths),) = honest_moves(TINY, [Push("pitch", "C5", 1.5)], measured(440.0, 0.1, 1000.0), torch.ones(4))
    pitch, offsets = TINY.properties["pitch"], TINY.controls["pitch"].directions
    wanted = 1.5 * (offsets[pitch.class_index("C5")] - offsets[pitch.class_index("A4")])
    assert torch.allclose(strengths[0, 0] @ control.directions, wanted, rtol=1e-3, atol=1e-4)


def test_orthogonal_directions_share_nothing_with_the_others():
    ((control, _),) = honest_moves(TINY, [Push("pitch", "C5", 1, orthogonal=True)], measured(440.0, 0.1, 1000.0), torch.ones(4))
    others = torch.stack([TINY.controls[name].directions[0] for name in ("loudness", "brightness")])
    assert float((control.directions @ others.T).abs().max()) < 1e-3
    bundle, push = Bundle.from_pretrained(CHECKPOINTS / "etude"), Push("loudness", "-24 dB", 1, "paper", True)
    weights = torch.cat([bundle.probes[f"{name}/acts"].weight for name in ("pitch", "brightness")], 1)
    row = probe_row(bundle, push)
    assert float((torch.nn.functional.normalize(weights, dim=0).T @ row).abs().max()) < 1e-3 * float(row.norm())


def test_the_papers_push_is_the_papers_rule_where_the_mask_is_one():
    latents = torch.randn(1, 4, 6, generator=torch.Generator().manual_seed(1))
    mask = torch.tensor([0.0, 0.5, 1.0, 1.0])
    pushed = paper_pushed(TINY, latents, [Push("pitch", "C5", 10, "paper")], mask)
    rule = paper_edit(latents, TINY.sae, probe_row(TINY, Push("pitch", "C5", 10)), 10)
    assert torch.equal(pushed[0, 0], latents[0, 0])
    assert torch.allclose(pushed[0, 1], (latents + rule)[0, 1] / 2, rtol=1e-3, atol=1e-4)
    assert torch.allclose(pushed[0, 2:], rule[0, 2:], rtol=1e-3, atol=1e-4)
    assert paper_pushed(TINY, latents, [Push("pitch", "C5", 0, "paper"), Push("pitch", "C5", 3)], mask) is latents


def test_no_strength_at_all_is_the_reconstruction(etude):
    bundle, space = etude
    zero = [Push("pitch", "C5", 0), Push("loudness", "-24 dB", 0, "paper", True)]
    done = steer(bundle, notes(440.0), {"pitch": 0, "loudness": 0.0}, features={3: 0.0}, pushes=zero, fade=0.1, space=space)
    assert torch.equal(done.sound.samples, done.reconstruction.samples)
    assert torch.equal(done.reconstruction.samples[0], space.decode(space.encode(notes(440.0).samples[None])).detach()[0, 0])


def test_a_fading_change_of_level_comes_and_goes(etude):
    bundle, space = etude
    sound = notes(330.0, seconds=2.0)
    done = steer(bundle, sound, {"loudness": -12.0}, start=0.5, stop=1.5, fade=0.3, space=space)
    change = 20 * (done.after.rms / done.before.rms)[0].log10()
    assert abs(float(change[50]) + 12) < 1.5  # the middle
    assert abs(float(change[int(50 * 0.65)]) + 6) < 2.5  # half-way in
    assert float(change[:20].abs().max()) < 1 and float(change[-20:].abs().max()) < 1


@pytest.mark.parametrize(
    ("push", "reason"),
    [
        (Push("pitch", "C5", 1, "kind"), "use honest or paper"),
        (Push("pitch", "C5", math.inf), "not finite"),
        (Push("colour", "C5", 1), "knows nothing about colour"),
        (Push("pitch", "H9", 1), "near names"),
    ],
)
def test_a_bad_push_says_why(push, reason, etude):
    with pytest.raises(ParameterError, match=reason):
        steer(etude[0], notes(440.0), {}, pushes=[push], space=etude[1])


def outcome_of(moves, after, open_ended=frozenset()):
    sound = Sound(torch.zeros(1, 8), RATE)
    before = measured(440.0, 0.1, 1000.0)
    mask = torch.tensor([0.0, 1.0, 1.0, 0.5])
    steered = Steered(sound, before, after, mask, sound.samples[None], before, TINY.spec)
    return {row.property: row for row in outcomes(TINY, steered, moves, open_ended)}


def test_outcomes_by_hand():
    after = measured(440 * 2 ** (2.9 / 12), 0.05, 1000 * 2**0.25)
    after.f0[0, 3] = 100.0  # a frame of the fade: does not count
    rows = outcome_of({"pitch": 3, "loudness": -6.0}, after)
    assert rows["pitch"].asked == 3 and rows["pitch"].got == pytest.approx(2.9, abs=1e-3)
    assert rows["pitch"].miss == pytest.approx(-0.1, abs=1e-3) and rows["pitch"].hits == 1
    assert rows["loudness"].miss == pytest.approx(-0.0206, abs=1e-3)
    assert rows["brightness"].kept and rows["brightness"].miss == pytest.approx(0.25, abs=1e-4)
    assert rows["brightness"].after == pytest.approx(1000 * 2**0.25, rel=1e-4)


def test_outcome_of_a_note_and_of_a_push():
    rows = outcome_of({"pitch": ("C5", 1.25)}, measured(523.2511, 0.1, 1000.0), frozenset({"loudness"}))
    assert rows["pitch"].asked == pytest.approx(3, abs=1e-3) and rows["pitch"].miss == pytest.approx(0, abs=1e-3)
    assert rows["loudness"].asked is None and rows["loudness"].miss is None and not rows["loudness"].kept
    silent = outcome_of({"pitch": 2}, measured(math.nan, 0.0, math.nan))
    assert silent["pitch"].got is None and silent["pitch"].hits == 0


def test_curves_are_a_row_per_frame_with_holes_where_nothing_is():
    before, after = measured(440.0, 0.1, 1000.0), measured(math.nan, 0.1, 2000.0)
    sound = Sound(torch.zeros(1, 8), RATE)
    text = descriptors_csv(Steered(sound, before, after, torch.ones(4), sound.samples[None], before, TINY.spec), 50.0)
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 4 and rows[1]["time_s"] == "0.0300" and rows[1]["original_f0_hz"] == "440.000"
    assert rows[1]["steered_f0_hz"] == "" and rows[1]["steered_centroid_hz"] == "2000.000"
    assert rows[1]["reconstruction_loudness_dbfs"] == "-20.000"


def test_level_of_a_full_scale_square_wave_is_zero():
    assert level(torch.tensor([[1.0, -1.0], [1.0, -1.0]])) == pytest.approx(0)
    assert level(torch.zeros(1, 8)) == -100


def test_control_vectors_come_back_from_their_file(tmp_path):
    save_controls(tmp_path / "c.safetensors", TINY, {"pitch": TINY.controls["pitch"], "loudness": TINY.controls["loudness"]})
    spec, controls = load_controls(tmp_path / "c.safetensors")
    assert spec == TINY.spec and list(controls) == ["pitch", "loudness"]
    assert controls["pitch"].labels == TINY.controls["pitch"].labels
    assert torch.equal(controls["loudness"].directions, TINY.controls["loudness"].directions)
    (tmp_path / "other").write_bytes(b"not safetensors")
    with pytest.raises(BundleError, match="no control vectors"):
        load_controls(tmp_path / "other")
    with pytest.raises(ParameterError, match="no control vector to save"):
        save_controls(tmp_path / "none", TINY, {})
