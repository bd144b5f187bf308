"""The sparse training step against autograd on the dense activations, in float64, and its exact selections."""

import pytest
import torch

from sae_audio.sae import SAEConfig, build_sae
from sae_audio.sae.auxk import auxk_loss
from sae_audio.sae.entries import Entries
from sae_audio.sae.sparse import encode_batch_top_k, encode_top_k, pre_act_chunks, top_k

D_IN, D_SAE, K, N = 12, 96, 5, 700  # N: more than one chunk, the last one not full
CONFIGS = [
    SAEConfig("topk", D_IN, D_SAE, k=K),
    SAEConfig("topk", D_IN, D_SAE, k=K, decoder_bias=False),
    SAEConfig("batch_topk", D_IN, D_SAE, k=K),
    SAEConfig("matryoshka", D_IN, D_SAE, k=K, prefixes=(7, 40, 96)),
]
DEAD = [torch.tensor([], dtype=torch.int64), torch.tensor([3]), torch.arange(10, 40)]


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def trained_like(config):
    """An SAE whose every parameter is away from its start, so that no gradient is zero by symmetry."""
    sae = build_sae(config).double()
    sae.fit_scaling(random(D_IN, seed=1), random(D_IN, seed=2).abs() + 0.5)
    with torch.no_grad():
        for number, parameter in enumerate(sae.parameters()):
            if parameter.requires_grad:
                parameter.add_(0.3 * random(*parameter.shape, seed=10 + number))
    return sae


def dense_loss(sae, x, dead):
    """The loss as its formula, by plain dense autograd."""
    config = sae.config
    x = sae.standardise(x)
    z = sae.pre_acts(x)
    if config.variant == "topk":
        acts = sae.activate(z)
    else:
        flat = z.relu().flatten()
        chosen = flat.topk(K * len(x)).indices
        acts = torch.zeros_like(flat).scatter(0, chosen, flat[chosen]).view_as(z)
    widths = config.prefixes or (config.d_sae,)
    errors = [x - (acts[:, :m] @ sae.W_dec[:m] + sae.b_dec) for m in widths]
    loss = sum(error.pow(2).sum(1).mean() for error in errors)
    return loss + auxk_loss(sae, x, errors[-1].detach(), dead) if len(dead) else loss


@pytest.mark.parametrize("dead", DEAD, ids=["none dead", "one dead", "30 dead"])
@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.variant}-{c.decoder_bias}")
def test_every_gradient_equals_autograds(config, dead):
    x = random(N, D_IN, seed=5) * 2 + 1
    sae, reference = trained_like(config), trained_like(config)
    result = sae.backward(x, dead)
    loss = dense_loss(reference, x, dead)
    loss.backward()
    assert float(sum(result.losses.values())) == pytest.approx(loss.item(), rel=1e-12)
    for (name, ours), theirs in zip(sae.named_parameters(), reference.parameters(), strict=True):
        if ours.requires_grad:
            assert torch.allclose(ours.grad, theirs.grad, rtol=1e-8, atol=1e-10), name
            assert ours.grad.shape == ours.shape and ours.grad.is_contiguous()
        else:
            assert ours.grad is None


def test_gradients_in_float32_are_near():
    x = random(N, D_IN, seed=5).float()
    sae, reference = trained_like(CONFIGS[0]).float(), trained_like(CONFIGS[0])
    sae.backward(x, DEAD[2])
    dense_loss(reference, x.double(), DEAD[2]).backward()
    for ours, theirs in zip(sae.parameters(), reference.parameters(), strict=True):
        assert (ours.grad - theirs.grad).norm() < 1e-5 * theirs.grad.norm()


def test_a_batch_where_nothing_is_active():
    for config in CONFIGS:
        sae = trained_like(config)
        with torch.no_grad():
            sae.b_enc.fill_(-1e3)
        result = sae.backward(random(20, D_IN), DEAD[0])
        assert result.l0 == 0 and not result.fired.any() and not sae.W_enc.grad.any() and not sae.W_dec.grad.any()


@pytest.mark.parametrize("d", [64, 96, 97, 256, 2048])
@pytest.mark.parametrize("k", [1, 5, 32])
def test_two_stage_top_k_is_exact(d, k):
    z = random(33, d)
    values, indices = top_k(z, k)
    assert torch.equal(values.sort(-1).values, z.topk(k).values.sort(-1).values)
    assert torch.equal(z.gather(1, indices), values)
    assert all(len(set(row)) == k for row in indices.tolist())


def test_two_stage_top_k_with_ties_returns_distinct_columns():
    z = torch.zeros(4, 2048)
    z[:, ::7] = 1.0
    values, indices = top_k(z, 32)
    assert (values == 1).all() and (indices % 7 == 0).all() and all(len(set(row)) == 32 for row in indices.tolist())


def test_top_k_of_all_columns():
    assert top_k(random(3, 8), 8)[1].sort(-1).values.tolist() == [list(range(8))] * 3


def test_chunks_cover_all_rows():
    x, W, b = random(1100, 3), random(3, 10, seed=1), random(10, seed=2)
    parts = [(start, z.clone()) for start, z in pre_act_chunks(x, W, b)]
    assert [start for start, _ in parts] == [0, 512, 1024]
    assert torch.allclose(torch.cat([z for _, z in parts]), x @ W + b)


def test_encode_top_k_is_the_relu_of_the_largest():
    x, W, b = random(600, 3), random(3, 50, seed=1), random(50, seed=2) - 3
    values, indices = encode_top_k(x, W, b, 8)
    assert (values == 0).any() and (values > 0).any()
    assert torch.allclose(values, (x @ W + b).gather(1, indices).relu())


@pytest.mark.parametrize("guess", [0.0, 0.5, 1.0, 3.0, 100.0])
def test_batch_selection_is_exact_whatever_the_guess(guess):
    x, W, b = random(600, 3), random(3, 50, seed=1), random(50, seed=2)
    entries = encode_batch_top_k(x, W, b, 8, guess)
    z = (x @ W + b).relu()
    kept = z * (z >= z.flatten().topk(8 * 600).values[-1])
    assert torch.allclose(entries_dense(entries, 600, 50), kept)


def test_batch_selection_keeps_only_positive_values():
    x, W = random(10, 3), random(3, 50, seed=1)
    z = x @ W - 4
    entries = encode_batch_top_k(x, W, torch.full((50,), -4.0, dtype=torch.float64), 40, 0.0)
    assert len(entries.values) == (z > 0).sum() and (entries.values > 0).all()


def test_blocks_split_the_columns():
    entries = Entries(torch.tensor([0, 0, 2]).int(), torch.tensor([1, 4, 3]).int(), torch.tensor([1.0, 2.0, 3.0]))
    assert entries_dense(entries.block(3, 5), 3, 2).tolist() == [[0, 2], [0, 0], [3, 0]]
    assert entries_dense(entries.block(0, 3), 3, 3).tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 0]]


def entries_dense(entries, rows, columns):
    assert torch.equal(entries.rows, entries.rows.sort().values)
    return entries.matrix((rows, columns)).to_dense()
