"""DCI, MIG and SAP on representations for which they can be worked out by hand, and against scikit-learn."""

import math
import sys
from collections import Counter

import pytest
import torch

from sae_audio import disentanglement as measures
from sae_audio import factors, intervals
from sae_audio.errors import ParameterError

N, N_FACTORS = 200, 4


def noise(rows: int, columns: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def orthogonal(columns: int, rows: int = N) -> torch.Tensor:
    """Columns of mean 0 and variance 1 whose sample correlations are exactly 0, so that a Lasso treats each on its own."""
    with_mean = torch.cat([torch.ones(rows, 1, dtype=torch.float64), noise(rows, columns, 0)], 1)
    return torch.linalg.qr(with_mean).Q[:, 1:] * math.sqrt(rows)


FACTORS = orthogonal(N_FACTORS)


def all_close(values, expected, abs=1e-6):
    assert values.tolist() == pytest.approx([expected] * len(values), abs=abs)


# A column of variance 1 that equals its factor gets the coefficient 1 − α = 0.9, all others 0; what is left over is 0.1 · factor.
IDENTICAL = {
    "identity": FACTORS,
    "permutation": FACTORS[:, [2, 0, 3, 1]],
    "other signs, scales and offsets": FACTORS * torch.tensor([-3.0, 0.01, 100.0, 1.0], dtype=torch.float64) + 7,
    "constant columns beside": torch.cat([FACTORS, torch.full((N, 3), 5.0, dtype=torch.float64)], 1),
}


@pytest.mark.parametrize("name", IDENTICAL)
def test_one_dimension_per_factor(name):
    result = measures.dci(IDENTICAL[name], FACTORS, held_out=(IDENTICAL[name], FACTORS))
    all_close(result.completeness, 1)
    all_close(result.effective_dims, 1)
    all_close(result.r2_in, 0.99)
    all_close(result.r2_out, 0.99)
    used = result.importance.sum(1) > 0
    all_close(result.disentanglement[used], 1)
    assert int(used.sum()) == N_FACTORS and result.disentanglement[~used].isnan().all()
    assert measures.overall_disentanglement(result.importance) == pytest.approx(1)


def test_turned_by_45_degrees_each_factor_lies_on_two_dimensions():
    a, b, c, d = FACTORS.T
    codes = torch.stack([a + b, a - b, c + d, c - d], 1) / math.sqrt(2)
    result = measures.dci(codes, FACTORS)
    # Each correlation is 1/√2, each coefficient 1/√2 − 0.1, each residual 2 · 0.1².
    all_close(result.r2_in, 0.98)
    all_close(result.effective_dims, 2)
    all_close(result.completeness, 1 - math.log(2) / math.log(4))
    all_close(result.disentanglement, 1 - math.log(2) / math.log(4))
    all_close(measures.completeness(result.importance, n=2), 0)
    all_close(measures.attribute_predictability(codes, FACTORS), 0)


def test_a_factor_spread_over_all_dimensions_is_not_complete():
    importance = torch.full((8, 2), 3.0)
    all_close(measures.completeness(importance), 0)
    all_close(measures.effective_dims(importance), 8)
    all_close(measures.disentanglement(importance), 0)
    assert measures.overall_disentanglement(importance) == pytest.approx(0)


def test_duplicates_count_as_often_as_they_share_the_weight():
    importance = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 4.0], [0.0, 0.0]])
    assert measures.completeness(importance).tolist() == pytest.approx([1 - math.log(2) / math.log(4), 1])
    assert measures.effective_dims(importance).tolist() == pytest.approx([2, 1])
    assert measures.disentanglement(importance)[:3].tolist() == pytest.approx([1, 1, 1])


def test_the_same_importances_look_more_complete_in_a_larger_dictionary():
    """Why the paper's comparison of 2048 dimensions with 768 needs a common n."""
    few, many = torch.zeros(768, 2), torch.zeros(2048, 2)
    few[:16], many[:16] = 1, 1
    assert measures.completeness(many)[0] > measures.completeness(few)[0] + 0.03
    assert measures.completeness(few, n=2048).tolist() == pytest.approx(measures.completeness(many).tolist())
    assert measures.effective_dims(few)[0] == pytest.approx(16) == measures.effective_dims(many)[0]


def test_overall_disentanglement_weighs_dimensions_by_their_importance():
    importance = torch.tensor([[3.0, 0.0], [0.5, 0.5]])  # scores 1 and 0, shares 3/4 and 1/4
    assert measures.overall_disentanglement(importance) == pytest.approx(0.75)


def test_what_nothing_predicts_is_undefined_and_not_complete():
    known = torch.cat([FACTORS[:, :2], torch.ones(N, 1, dtype=torch.float64), FACTORS[:, 3:]], 1)
    result = measures.dci(FACTORS[:, :2], known)
    assert result.completeness.isnan().tolist() == [False, False, True, True]  # constant; and out of reach of these dimensions
    assert result.r2_in.isnan().tolist() == [False, False, True, False]
    assert float(result.r2_in[3]) == pytest.approx(0, abs=1e-9)
    assert measures.top_factors(result.r2_in, 2).tolist() in ([0, 1], [1, 0])
    assert len(measures.top_factors(result.r2_in)) == 3
    assert math.isnan(measures.overall_disentanglement(torch.zeros(3, 2)))


def test_noise_of_more_dimensions_than_rows_fits_in_sample_only():
    known = noise(100, 3, 1)
    result = measures.dci(noise(100, 400, 2), known, held_out=(noise(300, 400, 3), noise(300, 3, 4)))
    assert result.r2_in.min() > 0.4
    assert result.r2_out.max() < 0.05


def test_missing_values_of_a_factor_are_left_out_of_it():
    known = FACTORS.clone()
    known[::7, 1] = torch.nan
    result = measures.dci(FACTORS, known, held_out=(FACTORS, known))
    assert result.completeness[[0, 2, 3]].tolist() == pytest.approx([1, 1, 1])
    assert float(result.r2_in[1]) > 0.95 and float(result.r2_out[1]) > 0.95


def test_boosted_trees_find_what_a_lasso_cannot():
    x = noise(N, 6, 5)
    known = torch.stack([x[:, 0].abs(), x[:, 3]], 1)
    boosted = measures.dci(x, known, method="boosted")
    assert boosted.importance.sum(0).tolist() == pytest.approx([1, 1])
    assert boosted.importance.argmax(0).tolist() == [0, 3] and boosted.r2_in.min() > 0.9
    assert measures.dci(x, known).r2_in[0] < 0.1


def test_mutual_information_agrees_with_scikit_learn():
    reference = pytest.importorskip("sklearn.metrics")
    codes, known = noise(300, 200, 6), noise(300, 2, 7)
    codes[:, 150] += known[:, 0]
    found = measures.binned_information(codes, known, bins=8)
    place = lambda column: ((column - column.min()) / (column.max() - column.min()) * 8).long().clamp_max(7).numpy()  # noqa: E731
    for i, j in ((0, 0), (150, 0), (150, 1), (199, 1)):
        assert float(found[i, j]) == pytest.approx(reference.mutual_info_score(place(codes[:, i]), place(known[:, j])), abs=1e-6)
    assert int(found[:, 0].argmax()) == 150
    half = known.clone()
    half[150:, 1] = torch.nan
    codes[:150, 3], codes[150:, 3] = known[:150, 1], known[:150, 1].min()  # in the range of the other half
    assert float(measures.binned_information(codes, half, bins=8)[3, 1]) == pytest.approx(
        math.log(2) * float(measures.binned_entropy(known[:150, 1:], bins=8)), abs=1e-6
    )


def test_gaps_by_hand():
    # All 16 pairs of two independent factors of four values: I(a; a) = H(a) = ln 4, I(a; b) = 0.
    a, b = torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij")
    known = torch.stack([a.flatten(), b.flatten()], 1)
    all_close(measures.mutual_information_gap(known, known), 1)
    all_close(measures.attribute_predictability(known, known), 1)
    doubled = torch.cat([known, 2 * known], 1)
    all_close(measures.mutual_information_gap(doubled, known), 0)
    all_close(measures.attribute_predictability(doubled, known), 0)
    all_close(measures.binned_entropy(known), 2)
    with_constant = torch.cat([known, torch.ones(16, 1)], 1)
    for measure in (measures.mutual_information_gap, measures.attribute_predictability):
        assert measure(known, with_constant).isnan().tolist() == [False, False, True]


def test_interval_of_a_mean():
    mean, low, high = intervals.mean_interval(torch.tensor([1.0, 2.0, 3.0, torch.nan]))
    assert mean == 2 and low == pytest.approx(1, abs=0.4) and high == pytest.approx(3, abs=0.4)
    assert intervals.mean_interval(torch.tensor([4.0]))[0] == 4 and math.isnan(intervals.mean_interval(torch.tensor([4.0]))[1])
    assert math.isnan(intervals.mean_interval(torch.tensor([]))[0])


def test_held_out_predictions_are_those_of_scikit_learn():
    linear, scores = pytest.importorskip("sklearn.linear_model"), pytest.importorskip("sklearn.metrics")
    x, unseen, mixing = noise(N, 12, 8), 2 * noise(60, 12, 9), noise(12, 3, 10)
    known, held = (rows @ mixing + noise(len(rows), 3, 11) + 7 for rows in (x, unseen))
    result = measures.dci(x, known, held_out=(unseen, held))
    mean, std = x.mean(0), x.std(0, correction=0)
    for j in range(3):
        centre, spread = known[:, j].mean(), known[:, j].std(correction=0)
        model = linear.Lasso(alpha=0.1, max_iter=10_000).fit((x - mean) / std, (known[:, j] - centre) / spread)
        theirs = model.predict((unseen - mean) / std) * float(spread) + float(centre)
        assert result.predicted[:, j].tolist() == pytest.approx(theirs.tolist())
        assert float(result.r2_out[j]) == pytest.approx(scores.r2_score(held[:, j], theirs))
        assert result.importance[:, j].tolist() == pytest.approx(abs(model.coef_).tolist())
    assert measures.factor_r2(result.predicted[:30], held[:30])[0] == pytest.approx(
        scores.r2_score(held[:30, 0], result.predicted[:30, 0])
    )


def test_interval_over_groups_is_that_of_their_mean():
    # The mean of independent values has the standard error s / √n: 70, 75, 80, 85, 90 have s = 7.906, t is 2.776.
    values = [70.0, 75.0, 80.0, 85.0, 90.0]
    without = [(sum(values) - value) / 4 for value in values]
    reach = 2.776445 * 7.905694 / math.sqrt(5)
    assert intervals.group_interval(80.0, without) == pytest.approx((80 - reach, 80 + reach), rel=1e-5)
    assert intervals.group_interval(1.0, [1.0, 1.0]) == (1.0, 1.0)
    assert all(math.isnan(end) for end in intervals.group_interval(1.0, [1.0]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(codes=FACTORS[:10]), "codes .* and factors"),
        (dict(codes=FACTORS[:, :1]), "at least 2 dimensions"),
        (dict(factors=FACTORS[:, :1]), "at least 2 dimensions and 2 factors"),
        (dict(held_out=(FACTORS[:, :2], FACTORS)), "columns of the others"),
        (dict(method="ridge"), "lasso, boosted"),
        (dict(alpha=0.0), "above 0"),
    ],
)
def test_wrong_input_is_named(change, message):
    values = dict(codes=FACTORS, factors=FACTORS) | change
    with pytest.raises(ParameterError, match=message):
        measures.dci(values.pop("codes"), values.pop("factors"), **values)


def test_gaps_need_two_dimensions_and_bins():
    with pytest.raises(ParameterError, match="n_dims >= 2"):
        measures.mutual_information_gap(FACTORS[:, :1], FACTORS)
    with pytest.raises(ParameterError, match="at least 2"):
        measures.binned_information(FACTORS, FACTORS[:, 0], bins=1)
    with pytest.raises(ParameterError, match="at least 2"):
        measures.completeness(torch.ones(1, 2))


# Factors ----------------------------------------------------------------------------------------------------------------------

RATE = 16_000


def tone(hz: float, seconds: float = 2.0, level: float = 0.3) -> torch.Tensor:
    """Ten partials, as a voice has them, [1, N]."""
    cycles = hz * torch.arange(round(seconds * RATE)) / RATE
    return level / 2 * sum(torch.sin(2 * math.pi * k * cycles) / k for k in range(1, 11))[None]


def test_every_egemaps_column_has_a_family():
    names = factors.egemaps_names()
    assert len(names) == len(set(names)) == 88
    counts = Counter(factors.family(name) for name in names)
    assert counts == dict(pitch=10, formants=18, quality=10, MFCC=16, spectral=17, loudness=11, rhythm=6)
    assert {name.split("_")[0] for name in names} == set(factors.EGEMAPS)
    published = Counter(factors.family(name, published=True) for name in names)
    assert published == dict(pitch=14, formants=18, quality=6, MFCC=16, spectral=17, loudness=12, rhythm=5)
    assert set(counts) | set(factors.OWN.values()) == set(factors.FAMILIES)
    with pytest.raises(ParameterError, match="neither"):
        factors.family("F9frequency_sma3nz_amean")


def test_egemaps_measures_the_pitch_and_the_level():
    names = factors.egemaps_names()
    quiet, high = factors.egemaps(tone(220.0, level=0.03), RATE), factors.egemaps(tone(440.0), RATE)
    both = dict(zip(names, torch.stack([factors.egemaps(tone(220.0), RATE), quiet, high]).T, strict=True))
    pitch = both["F0semitoneFrom27.5Hz_sma3nz_percentile50.0"]
    assert pitch.tolist() == pytest.approx([36, 36, 48], abs=0.3)  # 27.5 Hz is three octaves below 220 Hz
    level = both["equivalentSoundLevel_dBp"]
    assert float(level[0] - level[1]) == pytest.approx(20, abs=0.1)


def test_egemaps_of_too_short_a_clip_is_undefined():
    assert factors.egemaps(tone(220.0, 0.05), RATE).isnan().all()


def test_own_factors_by_hand():
    low, high = (dict(zip(factors.OWN, factors.own_factors(tone(hz), RATE).tolist(), strict=True)) for hz in (220.0, 440.0))
    assert low["pitch mean"] == pytest.approx(57, abs=0.05) and low["pitch spread"] < 0.1 and low["voiced share"] == 1
    assert high["pitch mean"] - low["pitch mean"] == pytest.approx(12, abs=0.05)
    assert high["centroid mean"] - low["centroid mean"] == pytest.approx(1, abs=0.1)
    # Half of 0.3 · √(Σ 1/k² / 2) over ten partials: 20 log10(0.15 · √(1.5498 / 2)) = −17.6
    assert low["level 80 %"] == pytest.approx(-17.6, abs=0.2)
    silent = dict(zip(factors.OWN, factors.own_factors(torch.zeros(1, RATE), RATE).tolist(), strict=True))
    assert math.isnan(silent["pitch mean"]) and silent["level mean"] == -100 and silent["voiced share"] == 0


def test_movement_is_per_second():
    hz = 220 * 2 ** (torch.arange(2 * RATE) / RATE * 6 / 12)  # 6 semitones per second
    glide = 0.3 * torch.sin(2 * math.pi * torch.cumsum(hz.double(), 0) / RATE).float()[None]
    assert factors.own_factors(glide, RATE)[list(factors.OWN).index("pitch movement")] == pytest.approx(6, rel=0.1)


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "opensmile", None)
    factors._smile.cache_clear()
    with pytest.raises(ParameterError, match="pip install opensmile"):
        factors.egemaps(tone(220.0), RATE)
