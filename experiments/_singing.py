"""Sparse autoencoders and probes on clip vectors, as arXiv 2509.24793 fits them and with the controls that it lacks.

``paper``: clips filled up with zeros to 5 s, the mean of all tokens; the SAE starts as ``nn.Linear`` does, has no decoder bias
and no AuxK, and takes latents as they are; Adam 1e-3, batches of 32, 100 epochs, the state with the least validation error;
linear probes by Adam 1e-3, 120 epochs, the state with the least validation loss; validation files may be of training singers.

``honest``: the mean over the frames of the sound; latents standardised inside the SAE, unit decoder rows, AuxK; probes by L-BFGS,
the L2 penalty chosen on validation singers whom training does not have; random, untrained and PCA codes of the same size beside.

In both, test singers are in neither training nor validation, encoders are in evaluation mode, of their own class and at their own
sample rate, and validation and test clips are their first 5 s. The published code cuts 5 s out of every training clip anew in
each epoch, at random; here a training clip has a few such cuts, its first 5 s among them, and each epoch draws one, so that
encoders run a few times over the corpus and not a hundred times. Honest mode takes the first 5 s of training clips too.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from experiments._clips import states
from sae_audio import metrics
from sae_audio.latent_spaces import Encoder
from sae_audio.metrics import balanced_accuracy
from sae_audio.probes import fit_probe
from sae_audio.readers import readers
from sae_audio.sae import SAE, SAEConfig, build_sae
from sae_audio.training import TrainConfig, train_sae
from sae_audio.vocalset import LabelledClip, held_out

MODES = ("honest", "paper")
POOLING = {"honest": "sound", "paper": "published", "frames": "frames"}
CONTROLS = ("random", "untrained", "pca")
MOST_FRAMES = 100_000
"""Frames that a per-frame SAE is trained on, drawn at random."""

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
"""Where the paper's SAEs and probes are fitted."""


@dataclass(frozen=True)
class Sizes:
    """How large and how long; the paper's values by default."""

    d_sae: int = 2048
    """Features."""
    sae_epochs: int = 100
    """Of the paper's SAE, over the training clips in batches of 32."""
    probe_epochs: int = 120
    """Of the paper's probe, likewise."""
    sae_steps: int = 300
    """Of the honest SAE, with batches of 256."""
    cuts: int = 4
    """Stretches of a training clip that the paper's fits draw from in each epoch."""


class Job(NamedTuple):
    """One row of the results, before it is measured."""

    space: str
    """Name of the latent space."""
    mode: str
    """``honest`` or ``paper``."""
    layer: int
    """Hidden state."""
    code: str
    """``dense``, ``sae``, ``frames`` (an SAE per frame, its activations averaged), or a control."""
    sparsity: float | None
    """Share of the features that are 0; None for ``dense``."""
    seed: int
    """Of the split into training and validation, the SAE and the probe."""


@dataclass
class Corpus:
    """Labelled clips through one encoder; vectors are computed, or read from the cache, when they are first asked for."""

    name: str
    space: Encoder
    clips: list[LabelledClip]
    seconds: float
    cache: Path
    sae_layers: Sequence[int]
    cuts: int = 1
    progress: bool = True
    _vectors: dict[str, Tensor] = field(default_factory=dict)
    _frames: dict[int, list[Tensor]] = field(default_factory=dict)

    @cached_property
    def classes(self) -> list[str]:
        """Names of the classes, sorted."""
        return sorted({clip.label for clip in self.clips})

    @cached_property
    def labels(self) -> Tensor:
        """Class of each clip, int64 [n]."""
        return torch.tensor([self.classes.index(clip.label) for clip in self.clips])

    @cached_property
    def test(self) -> Tensor:
        """Numbers of the test clips, int64."""
        return torch.tensor([i for i, clip in enumerate(self.clips) if clip.split == "test"])

    def split(self, mode: str, seed: int) -> tuple[Tensor, Tensor]:
        """Return the numbers of the training and of the validation clips, a fifth of what is not test."""
        rows = [i for i, clip in enumerate(self.clips) if clip.split == "train"]
        if mode == "paper":
            order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).tolist()
            held = set(order[: len(rows) // 5])
        else:
            held = held_out([self.clips[i].label for i in rows], [self.clips[i].group for i in rows], seed)
        sides = [[row for i, row in enumerate(rows) if (i in held) == chosen] for chosen in (False, True)]
        return torch.tensor(sides[0]), torch.tensor(sides[1])

    def vectors(self, mode: str, layer: int) -> Tensor:
        """Return the clip vectors of one hidden state, [n, d_in]: of the first stretch of each."""
        return self._pooled(mode)[:, layer, 0]

    def training(self, mode: str, layer: int) -> Tensor:
        """Return what is trained on: ``vectors``, in paper mode of all cuts, [n, cuts, d_in]."""
        return self._pooled(mode)[:, layer] if mode == "paper" else self.vectors(mode, layer)

    def frames(self, layer: int) -> list[Tensor]:
        """Return the frames of one hidden state, a tensor [T, d_in] per clip; those of one layer at a time are in memory."""
        if layer not in self._frames:
            layers = list(self.sae_layers)
            self._frames = {}
            found = self._states(self.clips, pooling="frames", layers=layers, read=layers.index(layer))
            self._frames[layer] = [one[0].float() for one in found]
        return self._frames[layer]

    def _pooled(self, mode: str) -> Tensor:
        """Means of all hidden states, [n, n_layers + 1, cuts, d_in]; a clip that has fewer cuts has them several times."""
        if mode not in self._vectors:
            cuts = {"train": self.cuts if mode == "paper" else 1, "test": 1}
            sides = {
                split: iter(self._states([clip for clip in self.clips if clip.split == split], pooling=POOLING[mode], cuts=n))
                for split, n in cuts.items()
            }
            place = torch.arange(cuts["train"])
            found = [next(sides[clip.split]) for clip in self.clips]
            self._vectors[mode] = torch.stack([one[:, place % one.shape[1]] for one in found])
        return self._vectors[mode]

    def _states(self, clips: list[LabelledClip], **how) -> list[Tensor]:
        return states(self.space, clips, seconds=self.seconds, cache=self.cache, progress=self.progress, **how)


def measure(corpus: Corpus, job: Job, sizes: Sizes) -> list[dict]:
    """Fit what a job asks for and return its row; an honest SAE brings its controls along."""
    train, validation = corpus.split(job.mode, job.seed)
    if job.code == "frames":
        codes, about = frame_codes(corpus, job, sizes, train)
        return [_row(corpus, job, codes, codes, sizes) | about]
    vectors, training = corpus.vectors(job.mode, job.layer), corpus.training(job.mode, job.layer)
    if job.code == "dense":
        return [_row(corpus, job, vectors, training, sizes)]
    sae = fitted_sae(training[train], vectors[validation], job, sizes)
    codes = encode(sae, vectors)
    rows = [_row(corpus, job, codes, encode(sae, training), sizes) | reconstruction(sae, vectors[corpus.test])]
    if job.mode == "honest":
        read = readers(sae, vectors[train], job.seed)
        for name in CONTROLS:
            control = dense(read[name](vectors))
            rows.append(_row(corpus, job._replace(code=name), control, control, sizes))
    return rows


def dense(codes: Tensor) -> Tensor:
    """Return a matrix without its sparse layout."""
    return codes.to_dense() if codes.layout != torch.strided else codes


def active(sparsity: float, d_sae: int) -> int:
    """Return k of a sparsity, as the published code rounds it, at least 1."""
    return max(1, int((1 - sparsity) * d_sae))


def fitted_sae(train: Tensor, validation: Tensor, job: Job, sizes: Sizes) -> SAE:
    """Train the SAE of a job on clip vectors ``[n, d_in]``, in paper mode ``[n, cuts, d_in]``."""
    k = active(job.sparsity, sizes.d_sae)
    if job.mode == "paper":
        return published_sae(train, validation, k, sizes, job.seed)
    config = SAEConfig("topk", train.shape[-1], sizes.d_sae, k=k)
    settings = TrainConfig(steps=sizes.sae_steps, batch_size=256, lr=1e-3, seed=job.seed)
    return train_sae(train, config, settings, progress=False).sae


def published_sae(train: Tensor, validation: Tensor, k: int, sizes: Sizes, seed: int) -> SAE:
    """Train on ``[n, cuts, d_in]`` as arXiv 2509.24793's code does; that its error is a mean over channels, Adam does not see."""
    generator = torch.Generator().manual_seed(seed)
    config = SAEConfig("topk", train.shape[-1], sizes.d_sae, k=k, decoder_bias=False, aux_coefficient=0.0)
    sae = build_sae(config)
    with torch.no_grad():  # as nn.Linear starts: uniform within 1 / √inputs
        for weights, inputs in ((sae.W_enc, config.d_in), (sae.b_enc, config.d_in), (sae.W_dec, config.d_sae)):
            weights.uniform_(-1 / math.sqrt(inputs), 1 / math.sqrt(inputs), generator=generator)
    sae, train, validation = sae.to(DEVICE), train.to(DEVICE), validation.to(DEVICE)
    none_dead = torch.empty(0, dtype=torch.int64, device=DEVICE)
    optimiser = torch.optim.Adam([sae.W_enc, sae.b_enc, sae.W_dec], lr=1e-3, fused=True)
    best, least = copy.deepcopy(sae.state_dict()), math.inf
    for _ in range(sizes.sae_epochs):
        for part in epoch(train, generator):
            SAE.backward(sae, train[part], none_dead)  # by autograd: for batches this small faster than the sparse step
            optimiser.step()
        with torch.no_grad():
            error = float((sae(validation) - validation).square().mean())
        if error < least:
            best, least = copy.deepcopy(sae.state_dict()), error
    sae.load_state_dict(best)
    return sae.cpu()


def epoch(train: Tensor, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the batches of one epoch over ``[n, cuts, d_in]``: numbers of 32 clips in random order, and a random cut of each."""
    cut = torch.randint(train.shape[1], (len(train),), generator=generator)
    for rows in torch.randperm(len(train), generator=generator).split(32):
        yield rows, cut[rows]


@torch.no_grad()
def encode(sae: SAE, latents: Tensor) -> Tensor:
    """Return the activations of latents ``[N, ..., d_in]``, dense [N, ..., d_sae]."""
    return torch.cat([sae.encode(part) for part in latents.split(4096)])


def reconstruction(sae: SAE, latents: Tensor) -> dict:
    """Return what is lost on held-out latents: fvu, squared error per channel, active features and features that never fire."""
    found = metrics.reconstruction(sae, latents.flatten(0, -2))
    return {"fvu": found.fvu, "mse": found.mse, "l0": found.l0, "dead": found.dead_share}


def frame_codes(corpus: Corpus, job: Job, sizes: Sizes, train: Tensor) -> tuple[Tensor, dict]:
    """Train an SAE on single frames and return the mean of its activations over each clip, [n, d_sae], and what it loses."""
    frames = corpus.frames(job.layer)
    pool = torch.cat([frames[i] for i in train.tolist()])
    chosen = torch.randperm(len(pool), generator=torch.Generator().manual_seed(job.seed))[:MOST_FRAMES]
    sae = fitted_sae(pool[chosen], pool[:0], job._replace(mode="honest"), sizes)
    held = torch.cat([frames[i] for i in corpus.test.tolist()])
    return torch.stack([encode(sae, one).mean(0) for one in frames]), reconstruction(sae, held)


def _row(corpus: Corpus, job: Job, codes: Tensor, training: Tensor, sizes: Sizes) -> dict:
    """Fit a probe on ``training`` and score it on the test rows of ``codes`` [n, n_dims]."""
    train, validation = corpus.split(job.mode, job.seed)
    n_classes = len(corpus.classes)
    sides = [(x[rows], corpus.labels[rows]) for x, rows in ((training, train), (codes, validation))]
    if job.mode == "paper":
        predict = published_probe(*sides[0], sides[1], n_classes, job.seed, sizes.probe_epochs)
    else:
        predict = fit_probe(*sides[0], n_classes, validation=sides[1], property="class", on=job.code).predict
    answers, truth = predict(codes[corpus.test]), corpus.labels[corpus.test]
    by_group: dict[str, list[int]] = {}
    for i, right in zip(corpus.test.tolist(), (answers == truth).tolist(), strict=True):
        counts = by_group.setdefault(corpus.clips[i].group, [0, 0])
        counts[0], counts[1] = counts[0] + right, counts[1] + 1
    scores = {"accuracy": float((answers == truth).double().mean()), "balanced": balanced_accuracy(answers, truth)}
    return job._asdict() | scores | {"n": len(truth), "n_classes": n_classes, "by_group": by_group, "n_dims": codes.shape[1]}


def published_probe(train: Tensor, classes: Tensor, validation: tuple[Tensor, Tensor], n_classes: int, seed: int, epochs: int):
    """Fit a linear layer on ``[n, cuts, d]`` as arXiv 2509.24793's code does and return what predicts classes."""
    generator = torch.Generator().manual_seed(seed)
    limit = 1 / math.sqrt(train.shape[-1])
    layer = torch.nn.Linear(train.shape[-1], n_classes)
    with torch.no_grad():
        for weights in (layer.weight, layer.bias):
            weights.uniform_(-limit, limit, generator=generator)
    layer, train, classes = layer.to(DEVICE), train.to(DEVICE), classes.to(DEVICE)
    held, truth = (side.to(DEVICE) for side in validation)
    optimiser = torch.optim.Adam(layer.parameters(), lr=1e-3, fused=True)
    loss = torch.nn.functional.cross_entropy
    best, least = copy.deepcopy(layer), math.inf
    for _ in range(epochs):
        for rows, cut in epoch(train, generator):
            optimiser.zero_grad()
            loss(layer(train[rows, cut]), classes[rows]).backward()
            optimiser.step()
        with torch.no_grad():
            error = float(loss(layer(held), truth))
        if error < least:
            best, least = copy.deepcopy(layer), error
    best = best.cpu()
    return lambda codes: best(codes).argmax(-1)
