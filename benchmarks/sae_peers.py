"""One SAE implementation in a process of its own: the worker of benchmarks/sae_training.py.

    python benchmarks/sae_peers.py NAME '{"d_in": 64, "d_sae": 2048, ...}'

It reads a number of steps per line from stdin, trains that many and answers with one JSON line {"seconds", "processor"}: the
wall's time and that of all cores. On "fvu" it answers with the fvu of held-out frames and the share of features that never fire
on them. Every implementation gets the same frames, k, batch and learning rate, trains with Adam without schedule, and is driven
by the training step that it publishes.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Peer(NamedTuple):
    """What the benchmark needs of an implementation."""

    step: Callable[[Tensor], object]
    """Train on one batch [B, d_in]."""
    codes: Callable[[Tensor], Tensor]
    """Dense activations [N, d_sae] of frames."""
    decode: Callable[[Tensor], Tensor]
    """Frames of dense activations."""


def data(case: dict) -> Tensor:
    """Return frames made of sparse ground-truth directions with power-law frequencies, noise, and a mean of ``offset``."""
    generator = torch.Generator().manual_seed(0)
    d_in, n = case["d_in"], case["batch"] * case["batches"]
    true, l0 = case["true"], 8
    directions = torch.nn.functional.normalize(torch.randn(true, d_in, generator=generator))
    rate = torch.arange(1, true + 1).pow(-0.6)
    rate = (rate * l0 / rate.sum()).clamp(max=0.5)
    frames = torch.empty(n, d_in)
    for part in frames.split(case["batch"]):
        active = torch.rand(len(part), true, generator=generator) < rate
        size = 1 + 0.25 * torch.randn(len(part), true, generator=generator)
        part.copy_((active * size) @ directions + 0.05 * torch.randn(len(part), d_in, generator=generator))
    frames /= frames.pow(2).mean().sqrt()
    return frames + case["offset"] * torch.randn(d_in, generator=generator)


def sae_audio(case: dict, frames: Tensor) -> Peer:
    """Ours: one step of the training loop, gathering its batch from the shuffled frames included."""
    from sae_audio.sae import SAEConfig
    from sae_audio.training.config import TrainConfig
    from sae_audio.training.loop import Run
    from sae_audio.training.ranks import Ranks

    config = SAEConfig("topk", case["d_in"], case["d_sae"], k=case["k"], dead_after=case["dead_after"])
    train = TrainConfig(steps=10**9, batch_size=case["batch"], lr=case["lr"], warmup=0, decay=0, log_every=10**9)
    run = Run(frames, config, train, Ranks(0, 1, torch.device("cpu")))
    order = torch.randperm(len(frames), generator=torch.Generator().manual_seed(0)).split(case["batch"])
    numbers = iter(range(10**9))

    def step(_: Tensor) -> None:
        number = next(numbers)
        run.step(number, order[number % len(order)])

    return Peer(step, run.sae.encode, run.sae.decode)


def sae_lens(case: dict, frames: Tensor) -> Peer:
    """SAELens' SAETrainer.step on its TopKTrainingSAE; its defaults but for the learning rate and the dead window."""
    from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    torch.manual_seed(0)
    sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=case["d_in"], d_sae=case["d_sae"], k=case["k"]))
    window = case["dead_after"] // case["batch"]
    settings = SAETrainerConfig(10**9, case["batch"], lr=case["lr"], lr_end=case["lr"], dead_feature_window=window)
    trainer = SAETrainer(settings, sae, iter([]))

    def step(x: Tensor) -> None:
        trainer.step(x)
        trainer.n_training_steps += 1

    return Peer(step, sae.encode, sae.decode)


def dictionary_learning(case: dict, frames: Tensor) -> Peer:
    """dictionary_learning's TopKTrainer.update; the dead threshold, 10 million frames in its source, is set to the case's."""
    from dictionary_learning.trainers.top_k import TopKTrainer

    size = dict(activation_dim=case["d_in"], dict_size=case["d_sae"], k=case["k"], steps=10**9)
    trainer = TopKTrainer(**size, lr=case["lr"], warmup_steps=0, layer=0, lm_name="none", seed=0, device="cpu")
    trainer.dead_feature_threshold = case["dead_after"]
    numbers = iter(range(10**9))
    return Peer(lambda x: trainer.update(next(numbers), x), trainer.ae.encode, trainer.ae.decode)


def sparsify(case: dict, frames: Tensor) -> Peer:
    """EleutherAI's SparseCoder in the order of its Trainer.fit (which takes language models only), with Adam and AuxK on."""
    from sparsify import SparseCoder, SparseCoderConfig

    torch.manual_seed(0)
    sae = SparseCoder(case["d_in"], SparseCoderConfig(num_latents=case["d_sae"], k=case["k"]))
    sae.b_dec.data = frames[: case["batch"]].mean(0)
    optimiser = torch.optim.Adam(sae.parameters(), lr=case["lr"])
    since = torch.zeros(case["d_sae"], dtype=torch.long)

    def step(x: Tensor) -> None:
        sae.set_decoder_norm_to_unit_norm()
        out = sae(x, dead_mask=since > case["dead_after"])
        (out.fvu + out.auxk_loss / 32).backward()
        since.add_(len(x))
        since[out.latent_indices.flatten()] = 0
        sae.remove_gradient_parallel_to_decoder_directions()
        optimiser.step()
        optimiser.zero_grad()

    def codes(x: Tensor) -> Tensor:
        values, indices, _ = sae.encode(x)
        return values.new_zeros(len(x), case["d_sae"]).scatter(1, indices, values)

    return Peer(step, codes, lambda acts: acts @ sae.W_dec + sae.b_dec)


def overcomplete(case: dict, frames: Tensor) -> Peer:
    """Overcomplete's train_sae, a batch per call, silent; its AuxK loss (on live codes) where the case has dead features."""
    from functools import partial

    from overcomplete.sae import TopKSAE, train_sae
    from overcomplete.sae.losses import top_k_auxiliary_loss

    def mse(x: Tensor, x_hat: Tensor, *_: Tensor) -> Tensor:
        return (x - x_hat).square().mean()

    torch.manual_seed(0)
    sae = TopKSAE(case["d_in"], case["d_sae"], top_k=case["k"])
    optimiser = torch.optim.Adam(sae.parameters(), lr=case["lr"])
    criterion = partial(top_k_auxiliary_loss, penalty=1 / 32) if case["offset"] else mse

    def step(x: Tensor) -> None:
        train_sae(sae, [x], criterion, optimiser, nb_epochs=1, monitoring=0)

    return Peer(step, lambda x: sae.encode(x)[1], sae.decode)


PEERS = {
    "sae_audio": sae_audio,
    "sae-lens": sae_lens,
    "dictionary-learning": dictionary_learning,
    "eai-sparsify": sparsify,
    "overcomplete": overcomplete,
}


def quality(peer: Peer, frames: Tensor) -> dict[str, float]:
    """Return fvu = Σ‖x − x̂‖² / Σ‖x − x̄‖² on frames, l0, and the share of features that never fire on them."""
    with torch.no_grad():
        codes = peer.codes(frames)
        error = (frames - peer.decode(codes)).pow(2).sum() / (frames - frames.mean(0)).pow(2).sum()
    return {
        "fvu": float(error),
        "l0": float((codes > 0).sum() / len(frames)),
        "idle": float((codes > 0).any(0).logical_not().float().mean()),
    }


def main() -> None:
    """Answer on stdout, one JSON line per line on stdin."""
    name, case = sys.argv[1], json.loads(sys.argv[2])
    torch.set_num_threads(case["threads"])
    frames = data(case)
    held_out, frames = frames[: case["batch"]], frames[case["batch"] :]
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries print; only answers belong on stdout
    peer = PEERS[name](case, frames)
    batches, done = frames.split(case["batch"]), 0
    print(json.dumps({"torch": torch.__version__}), file=answers, flush=True)
    for line in sys.stdin:
        if line.strip() == "fvu":
            reply = quality(peer, held_out)
        else:
            began, busy = time.perf_counter(), time.process_time()
            for _ in range(int(line)):
                peer.step(batches[done % len(batches)])
                done += 1
            reply = {"seconds": time.perf_counter() - began, "processor": time.process_time() - busy}
        print(json.dumps(reply), file=answers, flush=True)


if __name__ == "__main__":
    main()
