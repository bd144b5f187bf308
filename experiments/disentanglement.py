"""How many dimensions hold a factor of the voice, in hidden states, SAE codes and their controls (arXiv 2509.24793, section 4).

    python -m experiments.disentanglement --audio VOCALSET --space ast
    python -m experiments.disentanglement --audio VOCALSET --space ast --factors own      # without the package opensmile
    python -m experiments.disentanglement --demo

Options and caches are those of ``experiments.singing``. Writes disentanglement.json, disentanglement.md and three figures per
encoder: completeness, R² and effective dimensions by sparsity, completeness by the factors' entropy, families of the best ones.

``paper``: full clips of the test singers, a Lasso scored on the clips that it was fitted on, the ten best factors of each
representation, completeness on each one's own number of dimensions. ``honest``: fitted on the training singers and scored on the
test singers, for all the ten factors that the dense state fits best, completeness on one number of dimensions, effective
dimensions, MIG and SAP; and beside the SAE a random TopK of its size, an untrained SAE, PCA and ICA, and shuffled factors.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from experiments._clips import factor_table, states
from experiments._disentanglement_report import lines_of
from experiments._figures import entropy_figure, family_figure, sparsity_figure, stamped
from experiments._singing import CONTROLS, POOLING, Corpus, Job, Sizes, active, dense, encode, fitted_sae
from experiments._singing_report import groups_of
from experiments.singing import NOTE, as_file, clips_of, corpora, log_of, parser, prepared, rows_of
from sae_audio import disentanglement as measures
from sae_audio.cli import guarded
from sae_audio.factors import OWN, egemaps, egemaps_names, own_factors
from sae_audio.files import write_bytes
from sae_audio.plots import png
from sae_audio.readers import readers
from sae_audio.traces import compact_json

MOST_COMPONENTS = 64
"""Of the independent component analysis, which takes minutes for hundreds."""


class Known(NamedTuple):
    """Factors of the clips, in one mode."""

    names: list[str]
    """Of the columns."""
    fit: Tensor
    """[N, n_factors] of the clips that regressions are fitted on."""
    held: Tensor | None
    """[M, n_factors] of the test clips; None in paper mode, which scores in sample."""
    singers: list[str]
    """Of the test clips, [M]; other groups than singers too."""


def known_factors(corpus: Corpus, mode: str, which: str) -> Known:
    """Measure the factors of the clips, or read them from the cache."""
    names, measure = (egemaps_names(), egemaps) if which == "egemaps" else (list(OWN), own_factors)
    clips = [corpus.clips[i] for i in (corpus.test.tolist() if mode == "paper" else range(len(corpus.clips)))]
    seconds = None if mode == "paper" else corpus.seconds
    table = factor_table(clips, which, measure, columns=names, seconds=seconds, cache=corpus.cache)
    if mode == "paper":
        return Known(names, table, None, [])
    return Known(names, table[not_test(corpus)], table[corpus.test], [corpus.clips[i].group for i in corpus.test.tolist()])


def not_test(corpus: Corpus) -> Tensor:
    """Return the numbers of the clips of the training singers."""
    return torch.tensor([i for i, clip in enumerate(corpus.clips) if clip.split == "train"])


def full_vectors(corpus: Corpus, layer: int) -> Tensor:
    """Return the vectors of the whole test clips as published, [n_test, d_in]."""
    clips = [corpus.clips[i] for i in corpus.test.tolist()]
    found = states(corpus.space, clips, pooling=POOLING["paper"], seconds=None, cache=corpus.cache)
    return torch.stack([one[layer, 0] for one in found])


def jobs_of(options: argparse.Namespace, corpus: Corpus) -> list[Job]:
    """Return everything that is to be measured on one encoder."""
    jobs = [Job(corpus.name, mode, layer, "dense", None, 0) for mode in options.mode for layer in corpus.sae_layers]
    return jobs + [
        Job(corpus.name, mode, layer, "sae", sparsity, seed)
        for seed in range(options.seeds)
        for mode in options.mode
        for layer in corpus.sae_layers
        for sparsity in options.sparsity
    ]


def measure(job: Job, corpus: Corpus, sizes: Sizes, which: str, method: str) -> list[dict]:
    """Return the row of a job; an honest SAE brings its controls along."""
    known, clip_vectors = known_factors(corpus, job.mode, which), corpus.vectors(job.mode, job.layer)
    if job.mode == "paper":
        vectors = {"fit": full_vectors(corpus, job.layer)}
    else:
        vectors = {"fit": clip_vectors[not_test(corpus)], "held": clip_vectors[corpus.test]}
    if job.code == "dense":
        return [row_of(job, vectors, known, sizes, method)]
    train, validation = corpus.split(job.mode, job.seed)
    sae = fitted_sae(corpus.training(job.mode, job.layer)[train], clip_vectors[validation], job, sizes)
    codes = {side: encode(sae, rows) for side, rows in vectors.items()}
    rows = [row_of(job, codes, known, sizes, method)]
    if job.mode == "honest":
        order = torch.randperm(len(known.fit), generator=torch.Generator().manual_seed(job.seed + 1))
        rows.append(row_of(job._replace(code="shuffled"), codes, known._replace(fit=known.fit[order]), sizes, method))
        found = readers(sae, clip_vectors[train], job.seed)
        found["ica"] = independent_components(clip_vectors[train], active(job.sparsity, sizes.d_sae), job.seed)
        for name in (*CONTROLS, "ica"):
            read = found[name]
            of_control = {side: dense(read(vectors[side])) for side in vectors}
            if of_control["fit"].shape[1] < 2:  # one component, as tiny dictionaries have at 99 %, is neither complete nor not
                continue
            rows.append(row_of(job._replace(code=name), of_control, known, sizes, method))
    return rows


def independent_components(train: Tensor, k: int, seed: int):
    """Return FastICA's projection on as many components as an SAE has active features, at most ``MOST_COMPONENTS``."""
    from sklearn.decomposition import FastICA

    n = min(k, MOST_COMPONENTS, *train.shape)
    fitted = FastICA(n, whiten="unit-variance", max_iter=500, tol=1e-3, random_state=seed).fit(train.double().numpy())
    return lambda rows: torch.from_numpy(fitted.transform(rows.double().numpy()))


def row_of(job: Job, codes: dict[str, Tensor], known: Known, sizes: Sizes, method: str) -> dict:
    """Measure one representation: lists over the factors, and means over them."""
    held = None if known.held is None else (codes["held"], known.held)
    found = measures.dci(codes["fit"], known.fit, held_out=held, method=method, seed=job.seed)
    common = max(sizes.d_sae, codes["fit"].shape[1])
    lists = {
        "r2_in": found.r2_in,
        "r2_out": found.r2_out,
        "completeness": found.completeness,
        "completeness_common": measures.completeness(found.importance, common),
        "effective_dims": found.effective_dims,
        "mig": measures.mutual_information_gap(codes["fit"], known.fit),
        "sap": measures.attribute_predictability(codes["fit"], known.fit),
        "entropy": measures.binned_entropy(known.fit),
    }
    return job._asdict() | {name: _finite(values) for name, values in lists.items()} | {
        "factors": known.names,
        "r2_without": {} if held is None else without_each(found.predicted, known),
        "disentanglement": _finite(torch.tensor([measures.overall_disentanglement(found.importance)]))[0],
        "n_dims": codes["fit"].shape[1],
        "common": common,
        "n": len(known.fit),
    }  # fmt: skip


def without_each(predicted: Tensor, known: Known) -> dict[str, list[float | None]]:
    """Return the held-out R² of every factor without each of the test singers, for intervals over singers."""
    rest = {name: torch.tensor([singer != name for singer in known.singers]) for name in sorted(set(known.singers))}
    return {name: _finite(measures.factor_r2(predicted[rows], known.held[rows])) for name, rows in rest.items()}


def _finite(values: Tensor) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values.tolist()]


def main(options: argparse.Namespace) -> None:
    """Run the experiment."""
    options = prepared(options)
    sizes = Sizes(**{name: getattr(options, name) for name in asdict(Sizes())})
    if options.factors == "egemaps":
        egemaps_names()  # says at once where the package is missing
    clips, rows = clips_of(options), []
    for corpus in corpora(options, clips):
        log = log_of("disentanglement", corpus, asdict(sizes), options.factors, options.method)
        rows += rows_of(
            jobs_of(options, corpus),
            partial(measure, corpus=corpus, sizes=sizes, which=options.factors, method=options.method),
            log,
        )
    lines = lines_of(rows, NOTE if options.demo else "")
    options.out.mkdir(parents=True, exist_ok=True)
    write_bytes(options.out / "disentanglement.json", compact_json({"rows": rows}))
    write_bytes(options.out / "disentanglement.md", ("\n".join(lines) + "\n").encode())
    for (space,), mine in groups_of(rows, "space").items():
        for name, draw in {"sparsity": sparsity_figure, "entropy": entropy_figure, "families": family_figure}.items():
            file = options.out / f"disentanglement-{name}-{as_file(space)}.png"
            write_bytes(file, png(stamped(draw(mine), options.demo)))
    print("\n".join(lines) + f"\nwritten to {options.out}")


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    made = parser(__doc__)
    made.add_argument("--factors", default="egemaps", choices=("egemaps", "own"), help="what to look for (default: egemaps)")
    made.add_argument("--method", default="lasso", choices=measures.METHODS, help="importances (default: lasso, as published)")
    return made.parse_args(argv)


if __name__ == "__main__":
    raise SystemExit(guarded(lambda: main(parse()), "--debug" in sys.argv))
