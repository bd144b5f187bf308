"""Emergence curves by hand: what they are of two-class posteriors, when they cross, how their bands cover."""

import math

import pytest
import torch

from experiments._emergence import delay, summary
from experiments.emergence import other_seed
from sae_audio.denoising import (
    agreement,
    bootstrap,
    bounded_emergence,
    clean_estimate,
    crossing,
    emergence,
    forward_noised,
    paper_emergence,
)
from sae_audio.errors import ParameterError


def rows(*points):
    """Posteriors [S, T = 1, K] of one frame."""
    return torch.tensor(points)[:, None]


def test_the_clean_estimate_of_a_straight_line_is_its_end():
    """On x_t = (1 − t)·noise + t·latents the velocity is latents − noise, and x̂₁ the latents, from every t."""
    noise, latents = torch.randn(2, 1, 5, 3, generator=torch.Generator().manual_seed(0))
    for t in (0.0, 0.3, 0.9, 1.0):
        torch.testing.assert_close(clean_estimate(forward_noised(latents, noise, t), latents - noise, t), latents)
    assert torch.equal(forward_noised(latents, noise, 0.0), noise) and torch.equal(forward_noised(latents, noise, 1.0), latents)


def test_paper_curve_by_hand():
    """Classes move from .5, .3, .2 to .1, .6, .3: shares at the middle are .2/.4, .3/.3, .1/.1."""
    p = rows([0.5, 0.3, 0.2], [0.3, 0.6, 0.1], [0.1, 0.6, 0.3])
    assert paper_emergence(p).tolist() == pytest.approx([0, (0.5 + 1 + 1) / 3, 1])


def test_paper_curve_is_unbounded_and_leaves_out_what_never_moved():
    p = rows([0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.49, 0.26, 0.25])  # third class: 0/0
    assert paper_emergence(p)[1].item() == pytest.approx(25, rel=1e-4)  # .25/.01 twice


def test_paper_curve_pools_frames_first():
    """Two frames that swap classes have the mean that they began with: only the pooled change counts."""
    p = torch.tensor([[[0.8, 0.2], [0.4, 0.6]], [[0.7, 0.3], [0.3, 0.7]], [[0.6, 0.4], [0.2, 0.8]]])
    assert paper_emergence(p).tolist() == pytest.approx([0, 0.5, 1])


def test_songs_together_are_songs_alone():
    songs = torch.randn(5, 3, 4, 6, generator=torch.Generator().manual_seed(0)).softmax(-1)  # points, songs, frames, classes
    for curve in (paper_emergence, bounded_emergence):
        torch.testing.assert_close(curve(songs), torch.stack([curve(songs[:, i]) for i in range(3)], 1))


def test_bounded_curve_is_the_plain_ratio_on_a_straight_way():
    start, end = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.1, 0.1, 0.8])
    shares = [0.0, 0.1, 0.5, 0.75, 1.0]
    p = torch.stack([start + s * (end - start) for s in shares])[:, None]
    assert bounded_emergence(p).tolist() == pytest.approx(shares, abs=1e-6)


def test_bounded_curve_is_half_where_the_plain_ratio_says_done():
    """From class 0 by way of class 1 to class 2: the plain ratio Σ|p − p_0| / Σ|p_T − p_0| is 2/2 in the middle."""
    p = rows([1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0])
    assert bounded_emergence(p).tolist() == [0, 0.5, 1]


def test_bounded_curve_stays_in_bounds_and_weighs_frames_by_their_change():
    p = torch.rand(6, 4, 30, 9, generator=torch.Generator().manual_seed(0)).softmax(-1)
    curve = bounded_emergence(p)
    assert curve.shape == (6, 4) and bool((curve[0] == 0).all()) and bool((curve[-1] == 1).all())
    assert bool(((curve >= 0) & (curve <= 1)).all())
    # One frame goes at once and by 2.0, the other at the end and by 0.4: 2.0 / 2.4.
    two = torch.tensor([[[1.0, 0], [0.6, 0.4]], [[0, 1.0], [0.6, 0.4]], [[0, 1.0], [0.4, 0.6]]])
    assert bounded_emergence(two)[1].item() == pytest.approx(2.0 / 2.4)
    assert bounded_emergence(two, torch.tensor([True, False])).tolist() == [0, 1, 1]


def test_agreement_by_hand():
    classes = torch.tensor([[0, 4, 5, -1], [3, 5, 5, 7], [3, 5, 6, -1]])
    assert agreement(classes).tolist() == pytest.approx([0, 2 / 3, 1])  # the last frame has no class in the end
    assert agreement(classes, within=1).tolist() == pytest.approx([2 / 3, 1, 1])
    assert agreement(classes, torch.tensor([True, False, False, True])).tolist() == [0, 1, 1]


def test_a_song_without_frames_to_count_is_nan():
    p = torch.rand(3, 2, 4, 5).softmax(-1)
    counted = torch.tensor([[True] * 4, [False] * 4])
    found = emergence(p, counted)
    for curve in (found.bounded, found.agreement, found.within_one):
        assert bool(curve[:, 0].isfinite().all()) and bool(curve[:, 1].isnan().all())
    assert bool(found.paper.isfinite().all())


def test_emergence_is_the_four_curves():
    p = torch.rand(4, 3, 10, 6, generator=torch.Generator().manual_seed(1)).softmax(-1)
    found = emergence(p)
    assert torch.equal(found.paper, paper_emergence(p)) and torch.equal(found.bounded, bounded_emergence(p))
    assert torch.equal(found.agreement, agreement(p.argmax(-1)))
    assert bool((found.within_one >= found.agreement).all())


@pytest.mark.parametrize("shape", [(3, 5), (1, 4, 5)])
def test_emergence_needs_points_frames_and_classes(shape):
    with pytest.raises(ParameterError, match=r"give \[points >= 2, ..., frames, classes\]"):
        emergence(torch.rand(shape))


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        ([0.0, 0.8, 1.0], 1.5),  # halfway between .8 and 1
        ([0.95, 0.99, 1.0], 0.0),
        ([0.0, 0.95, 0.5, 0.9, 1.0], 3.0),  # what does not last does not count
        ([0.0, 0.1, 0.9], 2.0),
        ([0.0, 0.5, 0.8], math.nan),
        ([0.0, math.nan, 1.0], math.nan),
    ],
)
def test_crossing(curve, expected):
    both = crossing(torch.tensor([curve, curve], dtype=torch.float64))
    assert both.tolist() == pytest.approx([expected, expected], nan_ok=True)


def test_bootstrap_of_equal_songs_has_no_width_and_nan_is_left_out():
    curves = torch.tensor([[0.0, 0.8, 1.0]]).repeat(5, 1)
    curves[2] = math.nan
    band = bootstrap(curves)
    for values in band:
        assert values.tolist() == pytest.approx([0, 0.8, 1])
    assert [float(x) for x in bootstrap(curves, of=crossing)] == pytest.approx([1.5] * 3)
    with pytest.raises(ParameterError, match="none of the 2 songs"):
        bootstrap(torch.full((2, 3), math.nan))


def test_bootstrap_interval_is_that_of_the_mean():
    """400 normal draws: half a width of 1.96·σ/√n within 15 %, the mean inside, the same on every call."""
    values = torch.randn(400, 1, generator=torch.Generator().manual_seed(0)).double()
    band = bootstrap(values, draws=2000)
    width = float(band.high - band.low) / 2
    assert width == pytest.approx(1.96 * float(values.std()) / 20, rel=0.15)
    assert float(band.mean) == pytest.approx(float(values.mean())) and band.low < band.mean < band.high
    assert torch.equal(bootstrap(values, draws=2000).low, band.low)


def test_songs_of_one_prompt_are_drawn_together():
    """40 copies of 10 prompts are 10 facts: the interval is √40 times as wide as if they were 400."""
    values = torch.randn(10, 1, generator=torch.Generator().manual_seed(0)).double().repeat_interleave(40, 0)
    prompts = torch.arange(10).repeat_interleave(40)
    alone, together = (bootstrap(values, groups=g, draws=2000) for g in (None, prompts))
    ratio = float((together.high - together.low) / (alone.high - alone.low))
    assert ratio == pytest.approx(math.sqrt(40), rel=0.2)
    assert float(together.mean) == pytest.approx(float(values.mean()))


def test_uneven_groups_keep_their_weight():
    """A prompt of three songs and one of one: the mean over draws is that over songs, 0.75."""
    values, groups = torch.tensor([[1.0], [1.0], [1.0], [0.0]]), torch.tensor([5, 5, 5, 9])
    band = bootstrap(values, groups=groups)
    assert float(band.mean) == 0.75 and (float(band.low), float(band.high)) == (0.0, 1.0)


# --- the experiment --------------------------------------------------------------------------------------------------------


def song_rows(curve):
    read = {"agreement": [curve], "within_one": [curve], "bounded": [curve], "paper": [curve], "right": [1.0]}
    return {"pitch": {"acts/x_t": read, "acts/x1": read, "measured": {"agreement": [[curve[0], curve[-1]]]}}}


def test_the_experiment_reports_delay_and_bands():
    """Two prompts decided at 2.5, halfway from .8 to 1, beside controls decided at 1."""
    generated, control = ([0.0, 0.2, 0.8, 1.0], [0.0, 0.9, 1.0, 1.0])
    rows = [
        {"conditions": "style only", "prompt": i, "generated": song_rows(generated), "control": song_rows(control)}
        for i in (0, 1)
    ]
    assert delay(rows, "pitch", "acts/x_t") == pytest.approx([1.5] * 3)
    found = summary(rows, steps=4)["style only"]["pitch"]
    assert found["acts/x_t"]["decided"] == [2.5] * 3 and found["acts/x_t control"]["decided"] == [1.0] * 3
    assert found["acts/x_t"]["later than control"] == pytest.approx([1.5] * 3)
    assert found["measured"]["decided"] == pytest.approx([2.7] * 3)  # 90 % of the way from point 0 to point 3
    assert found["acts/x1"]["agreement"] == {
        "mean": generated,
        "low": generated,
        "high": generated,
        "median": generated,
        "n_songs": 2,
    }


def test_agreement_with_another_seed():
    """Song 0 against the end of song 1, 5 and 7 where song 1 counts, and the other way round."""
    read = torch.tensor([[[5, 1, 1], [3, 3, 3]], [[5, 7, 2], [5, 7, 9]]])
    counted = torch.tensor([[True, True, True], [True, True, False]])
    expected = torch.tensor([[0.5, 0.0], [1.0, 2 / 3]], dtype=torch.float64)
    # The next song of song 0 is song 1 (ends 5, 7) at frames 0 and 1; of song 1 it is song 0 (ends 5, 7, 2).
    torch.testing.assert_close(other_seed(read, counted), expected)
