"""Each metric against numbers worked out by hand, its fixed points, and scikit-learn."""

import math

import pytest
import torch

from sae_audio import intervals, metrics
from sae_audio.errors import ParameterError
from sae_audio.sae import SAEConfig, build_sae

X = torch.tensor([[0.0, 0.0], [2.0, 4.0]])


def test_fvu_by_hand():
    # Mean (1, 2); Σ‖x − x̄‖² = 5 + 5. Errors: (0, 1) and (1, −1), so 1 + 2.
    assert metrics.fvu(X, torch.tensor([[0.0, 1.0], [1.0, 5.0]])) == pytest.approx(0.3)


def test_fvu_of_the_mean_is_one_and_of_the_truth_zero():
    x = torch.randn(100, 7, generator=torch.Generator().manual_seed(0)) + 50
    assert metrics.fvu(x, x.mean(0).expand_as(x)) == pytest.approx(1, abs=1e-6)
    assert metrics.fvu(x, x) == 0


def test_fvu_counts_frames_of_all_clips_together_and_survives_a_large_mean():
    x = torch.randn(4, 25, 7, generator=torch.Generator().manual_seed(0))
    noisy = x + 0.1 * torch.randn(4, 25, 7, generator=torch.Generator().manual_seed(1))
    assert metrics.fvu(x, noisy) == pytest.approx(metrics.fvu(x.reshape(100, 7), noisy.reshape(100, 7)), rel=1e-12)
    assert metrics.fvu(x.double() + 1e6, noisy.double() + 1e6) == pytest.approx(metrics.fvu(x, noisy), rel=1e-3)


def test_fvu_of_constant_data_is_undefined():
    assert math.isnan(metrics.fvu(torch.ones(3, 2), torch.ones(3, 2)))


@pytest.mark.parametrize("other", [torch.zeros(3, 2), torch.zeros(2, 2, 1)])
def test_shapes_must_match(other):
    with pytest.raises(ParameterError, match="fvu compares tensors of one shape"):
        metrics.fvu(X, other)


def test_sparsity_counts_by_hand():
    acts = torch.tensor([[0.0, 1.0, 2.0, 0.0], [0.0, 0.0, 0.5, 0.0]])
    assert metrics.l0(acts) == 1.5
    assert metrics.l0(acts.view(1, 2, 4)) == 1.5


def test_reconstruction_by_blocks_is_that_of_the_whole(monkeypatch):
    sae = build_sae(SAEConfig("topk", 4, 32, k=2), seed=1)
    x = torch.randn(333, 4, generator=torch.Generator().manual_seed(0)) + torch.tensor([0.0, 1, -2, 3])
    sae.fit_scaling(x.mean(0), x.std(0))
    with torch.no_grad():
        sae.b_enc[:10] = -100  # ten features never fire
        acts = sae.encode(x)
        rebuilt = sae.decode(acts)
    monkeypatch.setattr("sae_audio.sae.base.DENSE", 50 * 32)
    found = metrics.reconstruction(sae, x)
    assert len(sae.blocks(x)) == 7
    assert found.fvu == pytest.approx(metrics.fvu(x, rebuilt), rel=1e-4)
    assert found.mse == pytest.approx(float((x - rebuilt).square().mean()), rel=1e-4)
    assert found.l0 == pytest.approx(metrics.l0(acts), rel=1e-3)
    silent = [j for j in range(32) if not acts[:, j].any()]
    assert set(range(10)) <= set(silent) and found.fires.logical_not().nonzero().flatten().tolist() == silent
    assert found.dead_share == pytest.approx(len(silent) / 32)
    assert metrics.reconstruction(sae, x.half()).fvu == pytest.approx(found.fvu, rel=0.05)


def test_class_scores_by_hand():
    target = torch.tensor([0, 0, 0, 1, 2])
    predicted = torch.tensor([0, 0, 1, 1, 0])
    assert metrics.accuracy(predicted, target) == pytest.approx(3 / 5)
    assert metrics.balanced_accuracy(predicted, target) == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert metrics.within_one_bin(predicted, target) == pytest.approx(4 / 5)


def test_always_answering_the_majority_scores_its_rate_and_one_over_classes():
    target = torch.tensor([3] * 90 + [1] * 9 + [0])
    answer = torch.full_like(target, 3)
    assert metrics.accuracy(answer, target) == 0.9
    assert metrics.balanced_accuracy(answer, target) == pytest.approx(1 / 3)


def test_r2_by_hand():
    y = torch.tensor([1.0, 2.0, 3.0])
    assert metrics.r2(y, y) == 1
    assert metrics.r2(torch.full((3,), 2.0), y) == 0
    assert metrics.r2(torch.tensor([1.0, 2.0, 5.0]), y) == pytest.approx(1 - 4 / 2)


def test_scores_agree_with_scikit_learn():
    reference = pytest.importorskip("sklearn.metrics")
    generator = torch.Generator().manual_seed(0)
    target, predicted = (torch.randint(0, 6, (500,), generator=generator) for _ in range(2))
    y, guess = (torch.randn(500, generator=generator) for _ in range(2))
    assert metrics.balanced_accuracy(predicted, target) == pytest.approx(reference.balanced_accuracy_score(target, predicted))
    assert metrics.r2(guess, y) == pytest.approx(reference.r2_score(y, guess))


@pytest.mark.parametrize("name", ["accuracy", "balanced_accuracy", "within_one_bin", "r2"])
def test_nothing_to_score_is_an_error(name):
    with pytest.raises(ParameterError, match="at least one element"):
        getattr(metrics, name)(torch.zeros(0), torch.zeros(0))


def test_interval_of_an_accuracy():
    low, high = intervals.proportion_interval(320, 400)
    # Wilson: (p + z²/2n ± z √(p(1 − p)/n + z²/4n²)) / (1 + z²/n) with p = 0.8, z = 1.96
    assert (low, high) == pytest.approx((0.7580, 0.8363), abs=1e-4)
    assert high - low == pytest.approx(0.08, abs=0.003)  # the ±4 points of 400 clips
    assert intervals.proportion_interval(0, 10)[0] == 0
    for right, n in ((1, 0), (5, 4), (-1, 4)):
        with pytest.raises(ParameterError, match="successes"):
            intervals.proportion_interval(right, n)


def test_matched_cosines_find_permuted_features_whatever_their_length():
    rows = torch.randn(40, 16, generator=torch.Generator().manual_seed(0))
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    assert metrics.matched_cosines(rows, 3 * rows[order]).tolist() == pytest.approx([1] * 40, abs=1e-5)
    assert metrics.matched_cosines(rows[:5], rows[order]).tolist() == pytest.approx([1] * 5, abs=1e-5)
    assert len(metrics.matched_cosines(rows, rows[:7])) == 7


def test_matching_is_one_to_one():
    # Both rows of a are nearest to b[0]; only one may have it. Best sum: 1 + 0 (a[0] with b[0]) against 0 + 0.8.
    a = torch.tensor([[1.0, 0.0, 0.0], [0.8, 0.6, 0.0]])
    b = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    assert metrics.matched_cosines(a, b).tolist() == pytest.approx([1, 0])
    with pytest.raises(ParameterError, match="matched_cosines"):
        metrics.matched_cosines(a, torch.zeros(0, 3))


def test_random_dictionaries_match_far_less():
    a, b = (torch.randn(200, 64, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assert float((metrics.matched_cosines(a, b) > 0.7).float().mean()) == 0
