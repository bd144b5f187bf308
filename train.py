"""Train an SAE with probes, control vectors and a feature atlas on an audio latent space, and save it as a bundle.

    python train.py                                        # the embedded default: synthesised music, étude codec, about 2 minutes
    python train.py --audio ~/music --out runs/mine        # your own recordings
    python train.py --space encodec-24khz --audio ~/music --d-sae 4096 --k 32
    python train.py --dataset openslr/librispeech_asr --dataset-config clean --split train.100 --group-column speaker_id
    python train.py --config runs/mine.work/config.json    # the same again
    python train.py --push-to-hub user/name --private      # and publish it (first `hf auth login`)
    accelerate launch train.py --audio ~/music             # several GPUs or machines

A run that was stopped goes on with --resume. The bundle is a folder; everything else (latents, checkpoints, the training
history) is in OUT.work beside it and can be deleted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Collection
from importlib.metadata import version
from itertools import count
from pathlib import Path

import torch

from sae_audio.cli_dataset import add_dataset_options, dataset_of
from sae_audio.cli_hub import published_lines
from sae_audio.console import Parser, guarded
from sae_audio.errors import ParameterError
from sae_audio.sae import VARIANTS
from sae_audio.trackers import TRACKERS, check_tracker

RECORDED = (
    *("space", "tap", "layer", "source_revision", "dtype", "sae", "d_sae", "k", "l1", "l1_on"),
    *("steps", "batch_size", "lr", "mode", "control_clips", "stability_seeds", "seed"),
)
"""Options that decide the result; they go into the bundle's provenance."""
IDLE = ("k", "l1", "l1_on", "minutes", "corpus")
"""Options that mean nothing beside some others, see ``check_used``."""
NOT_KEPT = ("config", "typed", "resume", "debug", "device", "trust_remote_code", "push_to_hub", "private", "revision")
"""Options that belong to one run on one machine; --config repeats a run and does not publish it again."""
LICENCES = {
    "Apache-2.0": "apache-2.0",
    "BSD-3-Clause": "bsd-3-clause",
    "CC BY 4.0": "cc-by-4.0",
    "CC BY-NC 4.0": "cc-by-nc-4.0",
    "MIT": "mit",
}
"""The Hub's names for the licences of the models' weights; a bundle passes on what it was made from."""
PACKAGES = ("torch", "torchaudio", "numpy", "safetensors")


def absolute(path: str) -> Path:
    """Return a path without a trailing slash, so that OUT.work stands beside OUT."""
    return Path(path).absolute()


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the options: defaults, then --config, then the command line."""
    argv = sys.argv[1:] if argv is None else argv
    parser = Parser(prog="train.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = parser.add_argument_group("data")
    data.add_argument("--space", default="etude-codec", help="latent space; `sae-audio spaces` lists them (default: etude-codec)")
    data.add_argument("--tap", help="which tensor of the model counts as its latents (default: the space's first)")
    data.add_argument("--layer", type=int, help="short for --tap 'layer N' of an encoder (default: its middle layer)")
    data.add_argument("--source", help="folder, file or Hub id of the model's checkpoint (default: the space's own)")
    data.add_argument("--source-revision", metavar="R", help="branch, tag or commit of the model on the Hub")
    data.add_argument("--trust-remote-code", action="store_true", help="run the Python code that comes with a model (MERT)")
    data.add_argument(
        "--audio",
        nargs="+",
        metavar="DIR",
        help="folders or files of sound; subfolders train, validation and test are its splits (default: synthesised music)",
    )
    add_dataset_options(data)
    data.add_argument("--minutes", type=float, default=40.0, help="size of the synthesised corpus (default: 40)")
    data.add_argument("--corpus", default="additive", choices=("additive", "fluidr3", "both"), help="its synthesiser")
    data.add_argument("--tracker", default="yin", choices=tuple(TRACKERS), help="pitch tracker for recordings (default: yin)")
    data.add_argument("--max-minutes", type=float, default=20.0, help="longer sound files are skipped (default: 20)")

    sae = parser.add_argument_group("sparse autoencoder")
    sae.add_argument("--sae", default="topk", help=f"{', '.join(VARIANTS)} (default: topk)")
    sae.add_argument("--d-sae", type=int, help="features (default: 16 per latent channel)")
    sae.add_argument("--k", type=int, default=16, help="active features per frame (default: 16)")
    sae.add_argument("--l1", type=float, help="L1 coefficient of relu and relu_rmsnorm")
    sae.add_argument("--l1-on", choices=("pre", "post"), help="relu_rmsnorm: L1 before or after the norm")

    fit = parser.add_argument_group("fitting")
    fit.add_argument("--steps", type=int, default=1500, help="training steps (default: 1500)")
    fit.add_argument("--batch-size", type=int, default=4096, help="frames per step (default: 4096)")
    fit.add_argument("--lr", type=float, default=2e-3, help="learning rate (default: 0.002)")
    fit.add_argument("--mode", default="honest", choices=("honest", "paper"), help="classes: physical bins, or the paper's")
    fit.add_argument("--control-clips", type=int, default=8, help="held-out clips that controls are calibrated on (default: 8)")
    fit.add_argument(
        "--stability-seeds", type=int, default=1, metavar="N", help="SAEs trained again to count steady features (default: 1)"
    )
    fit.add_argument("--seed", type=int, default=0, help="of corpus, split, SAE and probes (default: 0)")
    fit.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="where models run")
    fit.add_argument("--dtype", default="float32", help="of the model: float32; on an accelerator also bfloat16, float16")

    run = parser.add_argument_group("run")
    run.add_argument(
        "--out", type=absolute, default=absolute("runs/etude"), metavar="DIR", help="where the bundle goes (default: runs/etude)"
    )
    run.add_argument("--resume", action=argparse.BooleanOptionalAction, default=False, help="continue a stopped run")
    run.add_argument("--config", metavar="FILE", help="read options from JSON; the command line wins")
    run.add_argument("--push-to-hub", metavar="USER/NAME", help="publish the bundle on the Hugging Face Hub; checked at once")
    run.add_argument("--private", action=argparse.BooleanOptionalAction, default=False, help="publish privately")
    run.add_argument("--revision", metavar="BRANCH", help="branch to publish to (default: main)")
    run.add_argument("--debug", action="store_true", help="show tracebacks")
    options = parser.parse_args(argv)
    if options.config:
        options = parser.parse_args([*config_arguments(Path(options.config), vars(options).keys()), *argv])
    unset = argparse.Namespace(**dict.fromkeys(IDLE))
    options.typed = [name for name in IDLE if getattr(parser.parse_args(argv, unset), name) is not None]
    return options


def config_arguments(path: Path, known: Collection[str]) -> list[str]:
    """Return the options of a JSON file as command-line arguments, so that both are checked alike."""
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ParameterError(f"--config {path} cannot be read as JSON ({error}); OUT.work/config.json of a run is one") from None
    if not isinstance(values, dict):
        raise ParameterError(f"--config {path} holds {type(values).__name__}; it must hold options by name")
    if unknown := [name for name in values if name not in known]:
        raise ParameterError(
            f"--config {path} holds '{unknown[0]}', which is no option of train.py; give the config.json in OUT.work, where a "
            "run keeps its options (a bundle's own config.json says what it is)"
        )
    arguments = []
    for name, value in values.items():
        option = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            arguments.append(option if value else "--no-" + option[2:])
        elif value is not None:
            arguments += [option, *map(str, value)] if isinstance(value, list) else [f"{option}={value}"]
    return arguments


def check(options: argparse.Namespace) -> None:
    """Refuse what would fail late."""
    from sae_audio.etude import soundfont
    from sae_audio.latent_spaces import check_precision
    from sae_audio.sealed import check_replaceable

    if (options.private or options.revision) and not options.push_to_hub:
        raise ParameterError("--private and --revision say how to publish; give --push-to-hub USER/NAME too")
    if options.sae not in VARIANTS:
        raise ParameterError(f"--sae is '{options.sae}'; known are {', '.join(VARIANTS)}")
    check_used(options)
    if not 1 <= options.minutes <= 6000:
        raise ParameterError(f"--minutes is {options.minutes:g}; the synthesised corpus is 1 to 6000 minutes")
    if not 0 <= options.seed < 2**32:
        raise ParameterError(f"--seed is {options.seed}; it must be from 0 to {2**32 - 1}")
    if options.control_clips < 1:
        raise ParameterError(f"--control-clips is {options.control_clips}; it must be at least 1")
    if options.stability_seeds < 0:
        raise ParameterError(f"--stability-seeds is {options.stability_seeds}; it must be 0 or more")
    check_precision(options.dtype, options.device)
    check_tracker(options.tracker)
    check_replaceable(options.out)
    if options.corpus != "additive" and not (options.audio or options.dataset):
        soundfont.check()


def check_used(options: argparse.Namespace) -> None:
    """Refuse options of ``IDLE`` that were typed and would change nothing."""
    idle = {"l1_on": "--sae relu_rmsnorm"} if options.sae != "relu_rmsnorm" else {}
    if options.sae in ("relu", "relu_rmsnorm"):
        idle["k"] = "--sae " + ", ".join(name for name in VARIANTS if not name.startswith("relu"))
    else:
        idle["l1"] = "--sae relu, relu_rmsnorm"
    if options.audio or options.dataset:
        idle |= dict.fromkeys(("minutes", "corpus"), "the synthesised corpus, without --audio and --dataset")
    for name in options.typed:
        if name in idle:
            option = "--" + name.replace("_", "-")
            raise ParameterError(f"{option} {getattr(options, name)} would change nothing: it is for {idle[name]}; leave it out")


def kept(options: argparse.Namespace) -> dict:
    """Return the options that repeat the run from any folder."""
    keep = {name: value for name, value in vars(options).items() if name not in NOT_KEPT}
    if options.audio:
        keep["audio"] = [str(absolute(path)) for path in options.audio]
    if options.source and Path(options.source).exists():  # else it is a repository on the Hub
        keep["source"] = str(absolute(options.source))
    return keep


def recordings(options: argparse.Namespace) -> tuple[list, dict, dict]:
    """Return what is learned from, what the bundle says about it, and what must be equal where a run goes on."""
    from sae_audio.activations import audio_sources, clip_sources
    from sae_audio.etude.corpus import corpus

    if found := dataset_of(options, seed=options.seed, max_minutes=options.max_minutes):
        options.dataset_revision = found.revision  # --config takes the same commit again
        return found.sources, {**found.provenance, "tracker": options.tracker}, found.settings
    if options.audio:
        sources = audio_sources(options.audio, max_minutes=options.max_minutes)  # refuses a link to itself
        # Names of folders only: a published card should not tell where somebody keeps their music.
        name = ", ".join(Path(path).resolve().name for path in options.audio)
        return sources, {"name": name, "tracker": options.tracker}, {}
    name, clips = f"étude corpus ({options.corpus}), {options.minutes:g} min", {"minutes": options.minutes, "seed": options.seed}
    sources = clip_sources(corpus(**clips, source=options.corpus))
    return sources, {"name": name, "seed": options.seed}, {"corpus": options.corpus, **clips}


def provenance(options: argparse.Namespace, data: dict) -> dict:
    """Return what a reader needs to make the bundle again; ``data`` says what it learned from."""
    from sae_audio.latent_spaces import SPACES

    licence = SPACES[options.space].licence.split(" (")[0] if options.space in SPACES else "other"
    return {
        "options": {name: value for name, value in vars(options).items() if name in RECORDED},
        "data": data,
        "license": LICENCES.get(licence, "other"),
        "git": git_commit(),
        "versions": {name: version(name) for name in PACKAGES} | {"python": platform.python_version()},
    }


def git_commit() -> str | None:
    """Return the commit of the code, None outside a clone or without git."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent, check=False
        )
    except OSError:
        return None
    return done.stdout.strip() or None


def main(options: argparse.Namespace) -> None:
    """Run the main job."""
    from sae_audio.activations import extract
    from sae_audio.files import write_bytes
    from sae_audio.hub import check_publish, push, push_command
    from sae_audio.latent_spaces import load_latent_space
    from sae_audio.recipe import Recipe, fit_bundle, n_stages
    from sae_audio.report import metric_lines
    from sae_audio.sae import SAEConfig
    from sae_audio.training import TrainConfig
    from sae_audio.training.ranks import pick_device

    options.device = str(pick_device(options.device))  # before anything is put on a GPU: each process has its own
    check(options)
    leader = int(os.environ.get("RANK", 0)) == 0
    say = (lambda line: print(line, flush=True)) if leader else (lambda line: None)
    if options.push_to_hub and leader:
        check_publish(options.push_to_hub, private=options.private, revision=options.revision)
        say(f"token and repository are fine: the bundle can go to {options.push_to_hub}")
    if options.dataset:
        say(f"looking up data set '{options.dataset}' on the Hub")
    sources, data, settings = recordings(options)
    if options.dataset:
        say(f"{len(sources)} recordings in its split '{data['split']}', commit {data['revision']}")
    work = options.out.with_name(options.out.name + ".work")
    space = load_latent_space(
        options.space,
        tap=options.tap,
        layer=options.layer,
        source=options.source,
        revision=options.source_revision,
        device=options.device,
        dtype=options.dtype,
        trust_remote_code=options.trust_remote_code,
    )
    l1 = {} if options.l1 is None else {"l1_coefficient": options.l1}
    l1 |= {} if options.l1_on is None else {"l1_on": options.l1_on}
    d_sae = options.d_sae or 16 * space.spec.d_in
    recipe = Recipe(
        sae=SAEConfig(options.sae, space.spec.d_in, d_sae, k=options.k, **l1),
        train=TrainConfig(steps=options.steps, batch_size=options.batch_size, lr=options.lr, seed=options.seed),
        mode=options.mode,
        control_clips=options.control_clips,
        stability_seeds=options.stability_seeds,
    )
    numbers, last = count(1), 1 + n_stages(space, recipe)

    def stage(line: str) -> None:
        say(f"{next(numbers)}/{last} {line}")

    stage(f"latents of '{options.space}', {space.spec.tap}, into {work / 'latents'}")
    if options.dtype != "float32":  # a store that says nothing holds float32
        settings["dtype"] = options.dtype
    store = extract(
        space, sources, work / "latents", seed=options.seed, tracker=options.tracker, settings=settings, progress=leader
    )
    for skipped in store.skipped:
        say(f"skipped {skipped.name}: {skipped.reason}")
    if leader:
        write_bytes(work / "config.json", json.dumps(kept(options), indent=2, sort_keys=True, default=str).encode())
    bundle = fit_bundle(
        space,
        store,
        recipe,
        work_dir=work / "training",
        provenance=provenance(options, data),
        resume=options.resume,
        progress=leader,
        device=options.device,
        report=stage,
    )
    if bundle is None:  # another process does the rest
        return
    bundle.save(options.out)
    say("\n" + "\n".join(metric_lines(bundle.metrics)))
    if store.skipped:
        say(f"\n{len(store.skipped)} recordings were skipped")
    say(f"\nsaved {options.out}; look into a sound next:\n  python -m sae_audio analyse FILE.wav --bundle {options.out}")
    if options.push_to_hub:
        how = {"private": options.private, "revision": options.revision}
        say(f"\npublishing; if this is interrupted: {push_command(options.out, options.push_to_hub, **how)}")
        done = push(options.out, options.push_to_hub, **how)
        say("\n".join(published_lines(options.push_to_hub, done, options.revision)))


if __name__ == "__main__":
    raise SystemExit(guarded(lambda: main(parse()), "--debug" in sys.argv))
