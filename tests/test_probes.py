"""Probes against scikit-learn, hand-computed scores and their own sparse path."""

import pytest
import torch

from sae_audio.errors import DataError, ParameterError
from sae_audio.inputs import acts_matrix, select_rows
from sae_audio.probes import Probe, chroma_accuracy, fit_probe, fit_ridge, majority_class, score_probe
from sae_audio.sae import SAEConfig, base, build_sae


def problem(n=400, d=6, k=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator)
    y = (x[:, :k] + 0.5 * torch.randn(n, k, generator=generator)).argmax(1)
    return x, y


def test_weights_are_those_of_sklearn():
    from sklearn.linear_model import LogisticRegression

    x, y = problem()
    l2, rms = 1e-2, x.square().mean(0).sqrt()
    probe = fit_probe(x, y, 3, validation=(x, y), property="pitch", on="latents", l2_grid=(l2,), max_iter=300)
    reference = LogisticRegression(C=1 / (l2 * len(x)), tol=1e-10, max_iter=5000).fit((x / rms).numpy(), y.numpy())
    expected = torch.tensor(reference.predict_proba((x / rms).numpy())).float()
    assert torch.allclose(probe.probabilities(x), expected, atol=2e-3)


def test_sparse_and_dense_inputs_give_one_probe():
    x, y = problem()
    x = x.relu()
    options = {"property": "pitch", "on": "acts", "l2_grid": (1e-3,)}
    dense = fit_probe(x, y, 3, validation=(x, y), **options)
    sparse = fit_probe(x.to_sparse_csr(), y, 3, validation=(x.to_sparse_csr(), y), **options)
    assert torch.allclose(dense.weight, sparse.weight, atol=1e-3)


def test_undefined_frames_are_left_out():
    x, y = problem()
    junk = torch.cat([x, torch.full((50, 6), 1e3)])
    undefined = torch.cat([y, torch.full((50,), -1)])
    options = {"property": "pitch", "on": "latents", "l2_grid": (1e-3,)}
    clean = fit_probe(x, y, 3, validation=(x, y), **options)
    assert torch.equal(fit_probe(junk, undefined, 3, validation=(junk, undefined), **options).weight, clean.weight)


def test_penalty_is_chosen_on_the_validation_split():
    x, y = problem()
    held = problem(seed=1)
    options = {"validation": held, "property": "pitch", "on": "latents"}
    best = fit_probe(x, y, 3, l2_grid=(1e-2,), **options)
    crushed = fit_probe(x, y, 3, l2_grid=(1e3,), **options)
    chosen = fit_probe(x, y, 3, l2_grid=(1e3, 1e-2), **options)
    accuracy = [(p.predict(held[0]) == held[1]).float().mean().item() for p in (crushed, best, chosen)]
    assert accuracy[2] == pytest.approx(accuracy[1], abs=0.01) and accuracy[2] >= accuracy[0]
    assert torch.allclose(chosen.weight, best.weight, atol=0.02) and crushed.weight.abs().max() < 0.01


def test_score_by_hand():
    # logits = 10 * inputs, so the predictions are 0, 0, 1, 2, 3 for classes 0, 1, 1, 0, 3.
    probe = Probe("pitch", "acts", 10 * torch.eye(4), torch.zeros(4))
    inputs = torch.eye(4)[[0, 0, 1, 2, 3, 3]]
    score = score_probe(probe, inputs, torch.tensor([0, 1, 1, 0, 3, -1]), majority_class=1)
    assert score.accuracy == pytest.approx(3 / 5)
    assert score.balanced_accuracy == pytest.approx((1 / 2 + 1 / 2 + 1) / 3)
    assert score.within_one == pytest.approx(4 / 5)
    assert score.majority == pytest.approx(2 / 5)
    assert (score.n_frames, score.n_classes) == (5, 3)


def test_majority_and_chroma_by_hand():
    assert majority_class(torch.tensor([-1, -1, -1, 2, 2, 0])) == 2
    assert chroma_accuracy(torch.tensor([0, 13, 5, 7]), torch.tensor([12, 1, 6, -1])) == pytest.approx(2 / 3)


def test_contributions_sum_to_the_logit():
    x, y = problem()
    probe = fit_probe(x, y, 3, validation=(x, y), property="pitch", on="acts")
    assert torch.allclose(probe.contributions(x, 1).sum(-1) + probe.bias[1], probe.logits(x)[:, 1], atol=1e-5)


@pytest.mark.parametrize("l2", [0.05, 0.5])
def test_ridge_shrinks_as_scikit_learn_does(l2):
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler

    generator = torch.Generator().manual_seed(0)
    x = 5 + torch.randn(200, 4, generator=generator) * torch.tensor([0.1, 1.0, 2.0, 30.0])
    y = 40 + x @ torch.tensor([3.0, -1.0, 0.5, 0.02]) + torch.randn(200, generator=generator)
    weight, bias = fit_ridge(x, y, l2=l2)
    scaler = StandardScaler().fit(x.numpy())
    theirs = Ridge(alpha=l2 * len(x)).fit(scaler.transform(x.numpy()), y.numpy())
    expected = torch.from_numpy(theirs.predict(scaler.transform(x.numpy()))).float()
    torch.testing.assert_close(x @ weight + bias, expected, rtol=1e-4, atol=1e-3)


def test_ridge_finds_a_linear_law():
    x, _ = problem()
    target = x @ torch.tensor([1.0, -2, 0, 0, 3, 0]) + 7
    weight, bias = fit_ridge(x, torch.cat([target[:-1], torch.tensor([torch.nan])]), l2=1e-9)
    assert torch.allclose(weight, torch.tensor([1.0, -2, 0, 0, 3, 0]), atol=1e-4)
    assert bias.item() == pytest.approx(7, abs=1e-4)


def test_one_class_is_refused_with_the_remedy():
    x, y = problem()
    with pytest.raises(DataError, match="at least two classes: add recordings"):
        fit_probe(x, torch.zeros_like(y), 3, validation=(x, y), property="pitch", on="acts")
    with pytest.raises(ParameterError, match="at least 2 classes"):
        fit_probe(x, y, 1, validation=(x, y), property="pitch", on="acts")


def test_acts_matrix_and_its_rows_are_the_dense_activations(monkeypatch):
    monkeypatch.setattr(base, "DENSE", 16 * 32)  # blocks of 16 frames, the last of 2
    sae = build_sae(SAEConfig("topk", 6, 32, k=4))
    x, _ = problem(n=50)
    acts = sae.encode(x)
    matrix = acts_matrix(sae, x)
    assert torch.allclose(matrix.to_dense(), acts, atol=1e-6)
    rows = torch.tensor([3, 49, 0])
    assert torch.equal(select_rows(matrix, rows).to_dense(), matrix.to_dense()[rows])
