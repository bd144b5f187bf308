"""Singing technique from the hidden states of audio models and from TopK SAE codes (arXiv 2509.24793), layer by layer.

    python -m experiments.singing --audio VOCALSET --space ast --layers all
    python -m experiments.singing --audio VOCALSET --space ast hubert-base wavlm-base-plus mert-v1-95m --sae-layers all --frames
    python -m experiments.singing --audio FOLDER --labels from-folders --group 'speaker[0-9]+' --space hubert-base
    python -m experiments.singing --demo                    # synthesised voices, an encoder with random weights: no download

VOCALSET is the unpacked archive, 1.1 or 1.2 (https://zenodo.org/records/1442513, CC BY 4.0). All hidden states of a clip come
from one pass (of a training clip in paper mode from one per cut, see --cuts) and are kept in runs/experiments; finished rows are
kept too, so a run that was stopped goes on where it was. Writes singing.json, singing.md and three figures: accuracy by layer,
accuracy by sparsity, what the SAEs lose. Only VocalSet's rows are compared with the published numbers.

On one CPU core an SAE takes about 60 s in paper mode and 10 to 25 s in honest mode (2048 features, 1300 clips); both use a GPU
where there is one. The modes are described in experiments/_singing.py, the published numbers and their defects in _published.py
there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from tqdm import tqdm

from experiments import _published as published
from experiments._clips import CACHE, check_encoder, claimed, key_of
from experiments._demo import DEMO, demo_encoder, demo_voices
from experiments._figures import code_figure, error_figure, layer_figure, stamped
from experiments._singing import MODES, Corpus, Job, Sizes, measure
from experiments._singing_report import lines_of
from sae_audio.cli import guarded
from sae_audio.errors import ParameterError
from sae_audio.files import write_bytes
from sae_audio.latent_spaces import SPACES, Encoder, load_latent_space
from sae_audio.latent_spaces.signature import signature
from sae_audio.plots import png
from sae_audio.vocalset import LabelledClip, folder_clips, vocalset_clips

NOTE = (
    "**A demonstration that the pipeline runs, nothing more: synthesised voices through an encoder with random weights. "
    "No claim about singing, about any model or about sparse autoencoders follows from these figures.**"
)


def parser(description: str) -> argparse.ArgumentParser:
    """Return the options that this experiment and ``experiments.disentanglement`` share."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = made.add_argument_group("data")
    data.add_argument("--audio", type=Path, metavar="DIR", help="the unpacked VocalSet archive, or a folder of class folders")
    data.add_argument("--labels", default="vocalset", choices=("vocalset", "from-folders"), help="what the folders mean")
    data.add_argument("--group", metavar="REGEX", help="from-folders: finds the speaker in a path, whom no two splits share")
    data.add_argument("--partial", action="store_true", help="take a VocalSet that lacks singers or techniques")
    data.add_argument("--seconds", type=float, default=5.0, help="of each clip, from its start (default: 5, as published)")
    data.add_argument("--demo", action="store_true", help="synthesised voices and a tiny encoder with random weights")
    model = made.add_argument_group("models")
    model.add_argument("--space", nargs="+", default=["ast"], help="encoders (default: ast)")
    model.add_argument("--source", help="folder of the encoder's checkpoint (default: the space's own)")
    model.add_argument("--sae-layers", nargs="+", metavar="N", help="default: the paper's two, else the middle and the last")
    model.add_argument("--device", default="cpu", help="where encoders run")
    fit = made.add_argument_group("fitting")
    fit.add_argument("--mode", nargs="+", default=list(MODES), choices=MODES, help="default: both")
    fit.add_argument(
        "--sparsity", nargs="+", type=float, default=list(published.SPARSITIES), help="shares of features that are 0"
    )
    fit.add_argument("--seeds", type=int, default=3, help="SAEs per setting (default: 3)")
    for name, value in asdict(Sizes()).items():
        fit.add_argument(f"--{name.replace('_', '-')}", type=int, default=value, help=f"default: {value}")
    made.add_argument("--out", type=Path, default=Path("experiments/results"), help="folder of results")
    made.add_argument("--cache", type=Path, default=CACHE, help=f"default: {CACHE}")
    made.add_argument("--debug", action="store_true", help="show tracebacks")
    return made


def prepared(options: argparse.Namespace) -> argparse.Namespace:
    """Check the options; ``--demo`` makes its voices and its encoder and brings its own sizes."""
    if options.demo:
        audio, encoder = demo_voices(options.cache), demo_encoder(options.cache)
        own = dict(
            audio=audio, source=encoder, space=["ast"], labels="vocalset", partial=True, group=None, out=options.cache / "demo"
        )
        for name, value in (own | DEMO).items():
            setattr(options, name, value)
    if options.audio is None:
        raise ParameterError("--audio is missing: give the unpacked VocalSet archive, or --demo")
    if options.source and len(options.space) > 1:
        raise ParameterError(
            f"--source is the checkpoint of one encoder, --space names {len(options.space)}; run them one by one"
        )
    for name in options.space:
        if name in SPACES and not SPACES[name].layers:
            raise ParameterError(f"'{name}' has no layers; take an encoder: ast, hubert-base, wavlm-base-plus, mert-v1-95m, …")
        if name not in SPACES and not name.startswith("hf:"):
            load_latent_space(name)  # says which there are, before hours of the others
    if not all(0 < sparsity < 1 for sparsity in options.sparsity):
        raise ParameterError(f"--sparsity is {options.sparsity}; it is the share of features that are 0, between 0 and 1")
    if options.cuts < 1:
        raise ParameterError(f"--cuts is {options.cuts}; a training clip has at least 1")
    if not options.seconds > 0 or options.seeds < 1:
        raise ParameterError(
            f"--seconds is {options.seconds} and --seeds {options.seeds}; seconds must be above 0, seeds at least 1"
        )
    return options


def clips_of(options: argparse.Namespace) -> list[LabelledClip]:
    """Return the labelled clips that the options name."""
    if options.labels == "from-folders":
        if options.group is None:
            print("no --group: clips of one speaker or recording can be on both sides, and accuracies can be too high")
        return folder_clips(options.audio, group=options.group)
    return vocalset_clips(options.audio, partial=options.partial)


def corpora(options: argparse.Namespace, clips: list[LabelledClip]) -> Iterator[Corpus]:
    """Yield the clips through one encoder after the other."""
    for name in options.space:
        space = check_encoder(load_latent_space(name, source=options.source, device=options.device))
        layers = chosen_layers(options.sae_layers, space) or default_layers(space)
        yield Corpus(title_of(options, name), space, clips, options.seconds, options.cache, layers, options.cuts)


def title_of(options: argparse.Namespace, name: str) -> str:
    """Return what to call an encoder's rows; only on VocalSet its name alone, by which the published numbers are found."""
    if options.demo:
        return "demo"
    return name if options.labels == "vocalset" else f"{name} on {options.audio.resolve().name}"


def chosen_layers(words: Sequence[str] | None, space: Encoder) -> list[int]:
    """Return the layers that the words name: numbers, or ``all``."""
    if not words:
        return []
    if list(words) == ["all"]:
        return list(range(space.n_layers + 1))
    wrong = [word for word in words if not (word.isdecimal() and int(word) <= space.n_layers)]
    if wrong:
        raise ParameterError(f"'{wrong[0]}' is no layer of {space.spec.name}; it has 0 to {space.n_layers}, or say all")
    return sorted({int(word) for word in words})


def default_layers(space: Encoder) -> list[int]:
    """Return the layers of the published SAEs, else the middle and the last one."""
    middle_and_last = (space.n_layers // 2, space.n_layers)
    layers = published.SAE_LAYERS.get(space.spec.name, middle_and_last)
    return sorted(layers if max(layers) <= space.n_layers else middle_and_last)


def jobs_of(options: argparse.Namespace, corpus: Corpus) -> list[Job]:
    """Return everything that is to be fitted on one encoder, cheapest first."""
    name, seeds = corpus.name, range(options.seeds)
    layers = chosen_layers(options.layers, corpus.space)
    jobs = [Job(name, mode, layer, "dense", None, seed) for mode in options.mode for layer in layers for seed in seeds]
    for code, modes in (("sae", options.mode), ("frames", ["honest"] if options.frames else [])):
        jobs += [
            Job(name, mode, layer, code, sparsity, seed)
            for seed in seeds
            for mode in modes
            for layer in corpus.sae_layers
            for sparsity in options.sparsity
        ]
    return jobs


def rows_of(jobs: Sequence[Job], measure: Callable[[Job], list[dict]], log: Path) -> list[dict]:
    """Return the rows of all jobs, from the log where they are there; fresh ones join it as they are measured."""
    done: dict[Job, list[dict]] = {}
    if log.exists():
        *lines, rest = log.read_text().split("\n")
        if rest:  # cut off while it was being written
            write_bytes(log, "".join(f"{line}\n" for line in lines).encode())
        for entry in map(json.loads, lines):
            done[Job(*entry["job"])] = entry["rows"]
    for job in tqdm([job for job in jobs if job not in done], desc=log.parent.name.split("-")[0], unit="fit"):
        done[job] = measure(job)
        with log.open("a") as file:
            file.write(json.dumps({"job": list(job), "rows": done[job]}) + "\n")
    return [row for job in jobs for row in done[job]]


def as_file(name: str) -> str:
    """Return a name as part of a file's."""
    return re.sub(r"[^\w.-]", "-", name)


def log_of(name: str, corpus: Corpus, *depends: object) -> Path:
    """Return the log of an experiment's finished rows, in a folder named after all that they depend on.

    ``DataError`` where it holds rows of other weights under the same name.
    """
    clips = json.dumps([(key_of(clip), clip.label, clip.group, clip.split) for clip in corpus.clips])
    settings = {
        "spec": corpus.space.spec.to_dict() | {"tap": ""},
        "clips": hashlib.sha256(clips.encode()).hexdigest(),
        "seconds": corpus.seconds,
        "depends": depends,
    }
    return claimed(corpus.cache, as_file(f"{name}-{corpus.name}"), settings, signature(corpus.space)) / "rows.jsonl"


def main(options: argparse.Namespace) -> None:
    """Run the experiment."""
    options = prepared(options)
    sizes = Sizes(**{name: getattr(options, name) for name in asdict(Sizes())})
    clips = clips_of(options)
    n_test = sum(clip.split == "test" for clip in clips)
    groups = {split: len({clip.group for clip in clips if clip.split == split}) for split in ("train", "test")}
    said = f" (published: {published.N_TEST})" if options.labels == "vocalset" and not options.demo else ""
    print(f"{len(clips)} clips, {n_test} of them test{said}; groups: {groups}")
    rows: list[dict] = []
    for corpus in corpora(options, clips):
        log = log_of("singing", corpus, asdict(sizes))
        rows += rows_of(jobs_of(options, corpus), partial(measure, corpus, sizes=sizes), log)
    lines = lines_of(rows, NOTE if options.demo else "")
    options.out.mkdir(parents=True, exist_ok=True)
    write_bytes(options.out / "singing.json", (json.dumps(rows, indent=1, sort_keys=True) + "\n").encode())
    write_bytes(options.out / "singing.md", ("\n".join(lines) + "\n").encode())
    figures = {"layers": (layer_figure, "dense"), "sparsity": (code_figure, "sae"), "reconstruction": (error_figure, "sae")}
    for name, (draw, code) in figures.items():
        if any(row["code"] == code for row in rows):
            write_bytes(options.out / f"singing-{name}.png", png(stamped(draw(rows), options.demo)))
    print("\n".join(lines) + f"\nwritten to {options.out}")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    made = parser(__doc__)
    made.add_argument("--layers", nargs="+", default=["all"], metavar="N", help="probed as they are: numbers, or all (default)")
    made.add_argument("--frames", action="store_true", help="also SAEs per frame, their activations averaged over the clip")
    return made.parse_args(argv)


if __name__ == "__main__":
    raise SystemExit(guarded(lambda: main(parse()), "--debug" in sys.argv))
