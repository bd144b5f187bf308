"""The compiled loops of the training step: selection is exact, of every shape; sums are the same as PyTorch's."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sae_audio.sae import SAEConfig, build_sae, compiled, sparse
from sae_audio.sae.compiled import top_k_into
from sae_audio.sae.entries import Entries
from sae_audio.sae.sparse import encode_top_k, pre_acts
from sae_audio.sae.sparse_step import block_gradients, decode_block
from sae_audio.training.config import TrainConfig
from sae_audio.training.loop import Run, frame_order
from sae_audio.training.ranks import Ranks

ROOT = Path(__file__).parent.parent
NAN, INF = float("nan"), float("inf")


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def selected(z, k):
    values, indices = torch.empty(len(z), k), torch.empty(len(z), k, dtype=torch.int64)
    top_k_into(z, k, values, indices)
    return values, indices


ROWS = {
    "normal": lambda d: random(33, d),
    "ties": lambda d: random(33, d).round(),
    "all equal": lambda d: torch.full((5, d), 2.0),
    "mostly zero": lambda d: torch.where(torch.arange(d) % 7 == 0, 1.0, 0.0).repeat(3, 1),
    "large tied": lambda d: torch.where(torch.arange(d) % 2 == 0, 1.0, 1.0 - 2**-24).repeat(3, 1),
    "huge": lambda d: 1e30 * random(9, d),
    "subnormal": lambda d: 1e-42 * random(9, d),
    "negative": lambda d: -random(9, d).abs() - 3,
    "rising": lambda d: torch.arange(float(d)).repeat(2, 1),
    "falling": lambda d: -torch.arange(float(d)).repeat(2, 1),
}


@pytest.mark.parametrize("d", [1, 8, 96, 97, 1024, 5000])
@pytest.mark.parametrize("kind", ROWS)
def test_it_is_exact(kind, d):
    z = ROWS[kind](d)
    for k in {min(k, d) for k in (1, 5, 32, d)}:
        values, indices = selected(z, k)
        assert torch.equal(values.sort(-1).values, z.topk(k).values.sort(-1).values)
        assert torch.equal(z.gather(1, indices), values)
        assert all(len(set(row)) == k for row in indices.tolist())


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("column", [0, 17, 299])
def test_a_row_that_is_not_finite_shows(bad, column):
    z = random(3, 300)
    z[1, column] = bad
    values, indices = selected(z, 4)
    assert values.isnan().tolist() == [[False] * 4, [True] * 4, [False] * 4]
    assert indices.min() >= 0 and indices.max() < 300


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_both_paths_keep_the_same(threads, monkeypatch):
    """2,100 rows: several chunks, the last one not full."""
    monkeypatch.setattr(sparse, "LARGE", 0)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        x, W, b = random(2100, 16), random(16, 1024, seed=1), random(1024, seed=2)
        ours, plain = (encode_top_k(x, W, b, 12, loops=loops) for loops in (sparse.step_loops(x, 1024), None))
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert sparse.compiled() is not None
    (ours, ours_at), (plain, plain_at) = ((values.sort(-1).values, indices.sort(-1).values) for values, indices in (ours, plain))
    assert torch.allclose(ours, plain, rtol=1e-3, atol=1e-4)
    assert (ours_at == plain_at).float().mean() > 0.999  # a tie within rounding may fall either way


@pytest.mark.parametrize("shape", [(0, 3, 10), (1, 1, 1), (5, 64, 2048), (700, 12, 96)])
def test_the_encoder_product(shape):
    rows, d_in, d_sae = shape
    x, W, b = random(rows, d_in), random(d_in, d_sae, seed=1), random(d_sae, seed=2)
    assert torch.allclose(pre_acts(x, W, b), (x.double() @ W.double() + b).float(), rtol=1e-3, atol=1e-4)


SHAPES = [(1, 1, 1, 1), (700, 12, 96, 5), (513, 3, 20_000, 2), (40, 64, 2048, 32)]
"""Frames, d_in, d_sae and entries per frame: one piece, several pieces of the dictionary, several of frames."""


def some_entries(n, d_sae, k):
    """In every seventh frame the first entry is 0, and the last two frames have none."""
    values, columns = random(n, d_sae).topk(k)
    values[::7, 0] = 0
    frames = max(1, n - 2)
    rows = torch.arange(n, dtype=torch.int32).repeat_interleave(k)
    return Entries(*(x.flatten()[: frames * k].contiguous() for x in (rows, columns.int(), values.abs())))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shape", SHAPES)
def test_sums_over_entries_are_those_of_pytorch(shape, threads):
    n, d_in, d_sae, k = shape
    entries, W, g, x = some_entries(n, d_sae, k), random(d_sae, d_in, seed=1), random(n, d_in, seed=2), random(n, d_in, seed=3)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = compiled.decode(entries, W, n), *compiled.block_gradients(entries, g, W, x)
    finally:
        torch.set_num_threads(before)
    for ours, theirs in zip(found, (decode_block(entries, W, n), *block_gradients(entries, g, W, x)), strict=True):
        assert ours.shape == theirs.shape
        assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("variant", ["topk", "batch_topk", "matryoshka"])
def test_a_large_step_has_the_gradients_of_a_small_one(variant, monkeypatch):
    """Those of small steps are checked against autograd in test_sae_sparse."""
    x, config = random(2048, 12) * 2 + 1, SAEConfig(variant, 12, 600, k=6)
    small, large = build_sae(config), build_sae(config)
    small.backward(x, torch.tensor([7, 90]))
    monkeypatch.setattr(sparse, "LARGE", 0)
    large.backward(x, torch.tensor([7, 90]))
    for ours, theirs in zip(large.parameters(), small.parameters(), strict=True):
        if theirs.grad is not None:
            assert (ours.grad - theirs.grad).norm() < 1e-3 * theirs.grad.norm()


def test_a_large_step_has_the_gradients_of_autograd(monkeypatch):
    monkeypatch.setattr(sparse, "LARGE", 0)
    x = random(2048, 12) * 2 + 1
    config = SAEConfig("topk", 12, 600, k=6)
    sae, reference = build_sae(config), build_sae(config).double()
    sae.backward(x, torch.tensor([], dtype=torch.int64))
    wide = reference.standardise(x.double())
    (wide - reference.reconstruct(reference.activate(reference.pre_acts(wide)))).pow(2).sum(1).mean().backward()
    for ours, theirs in zip(sae.parameters(), reference.parameters(), strict=True):
        assert (ours.grad - theirs.grad).norm() < 1e-3 * theirs.grad.norm()


def test_resuming_large_steps_changes_no_bit(tmp_path, monkeypatch):
    monkeypatch.setattr(sparse, "LARGE", 0)
    latents, config = random(3000, 8), SAEConfig("topk", 8, 600, k=4)
    train = TrainConfig(steps=6, batch_size=2000)
    alone = Ranks(0, 1, torch.device("cpu"))
    whole, part, resumed = (Run(latents, config, train, alone) for _ in range(3))
    for number in range(6):
        whole.step(number, frame_order(3000, 0, number)[:2000])
    for number in range(3):
        part.step(number, frame_order(3000, 0, number)[:2000])
    part.save(tmp_path, 2)
    for number in range(resumed.load(tmp_path), 6):
        resumed.step(number, frame_order(3000, 0, number)[:2000])
    assert all(map(torch.equal, whole.sae.parameters(), resumed.sae.parameters()))


def test_without_numba_training_goes_on_in_pytorch():
    """A process in which importing Numba fails, as it does where it is not installed."""
    code = (
        "import sys; sys.modules['numba'] = None\n"
        "import torch; from sae_audio.sae.sparse import encode_top_k, step_loops\n"
        "x, W, b = torch.eye(2), torch.arange(2.0 * 2**21).view(2, -1), torch.zeros(2**21)\n"
        "loops = step_loops(x, 2**21)\n"
        "print(loops, *encode_top_k(x, W, b, 2, loops=loops)[0].sort().values.tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "None [2097150.0, 2097151.0] [4194302.0, 4194303.0]"
