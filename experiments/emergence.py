r"""When along denoising pitch, loudness and brightness are decided: Figure 4 of arXiv 2510.23802 with the controls that it lacks.

    python -m experiments.emergence [--prompts 64] [--seeds 2] [--seconds 5] [--out experiments/results]
    python -m experiments.emergence --model ASLP-lab/DiffRhythm-1_2 --bundle user/name --null-style vocal.npy \
        --seconds 30 --prompts-file captions.csv --real clips/

Étude-flow is asked for the timbres, and in a second set of runs also the notes, of validation clips that it never saw. Another
generator takes its prompts from a file: a CSV with a column ``caption`` (MusicCaps), or one style per line. Writes
emergence.json, emergence.md and one figure per set of conditions and reader. Songs that were done stay in runs/experiments, so
that an interrupted run goes on where it was; a model with other weights starts anew.

What is compared, at each of the points in time:

- x_t, as published: the probes on the noisy latents themselves, which neither SAE nor probes were made for;
- x̂₁: the probes on what the network believes it will end at;
- the control: real sound, noised to the same t (x_t), and what the network makes of it (x̂₁). Its properties are decided from the
  first, so what its x_t curve rises is what probes gain from fading noise alone;
- another seed: the agreement of x̂₁ with the final classes of *another* song of the same prompt. Where the two curves are one, the
  prompt decided, not the denoising;
- the properties measured on the decoded x̂₁, which need no probe.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from experiments._data import seconds_of
from experiments._emergence import LISTEN_EVERY, READERS, lines_of, panels, summary
from experiments._log import finished
from sae_audio.activations import audio_sources
from sae_audio.audio import read
from sae_audio.bundle import Bundle
from sae_audio.bundle_space import space_of
from sae_audio.cli import guarded
from sae_audio.denoising import agreement, emergence
from sae_audio.diffrhythm.style import resolve_style
from sae_audio.errors import DataError
from sae_audio.etude.corpus import corpus
from sae_audio.etude.flow_data import note_tokens
from sae_audio.files import write_bytes
from sae_audio.fitting import mixdown
from sae_audio.generation import Request, trace
from sae_audio.generators import Model, frames_of, load_model
from sae_audio.latent_spaces import Codec
from sae_audio.plots import png
from sae_audio.plots.denoising import emergence_curves
from sae_audio.traces import Trace, compact_json

CACHE = Path("runs/experiments")
CLIPS_SEED = 101
"""Of the validation clips whose timbres and notes are asked for; training had seed 0."""


class Prompt(NamedTuple):
    """What is asked for, and real sound for the control."""

    name: str
    style: str | Tensor
    text: Tensor | None
    real: Tensor | None
    real_style: str | Tensor | None


def etude_prompts(count: int, frames: int, space: Codec) -> list[Prompt]:
    """Return validation clips: their timbre as style, their notes as text, their latents as the control."""
    prompts = []
    for clip in list(corpus(count / 6 / 0.15 + 0.1, CLIPS_SEED, "both", split="validation"))[:count]:
        audio = torch.from_numpy(clip.render()[: frames * space.spec.hop_length])[None, None]
        text = torch.from_numpy(note_tokens(clip.score, frames)).long()
        prompts.append(Prompt(clip.name, clip.timbre, text, space.encode(audio).cpu(), clip.timbre))
    return prompts


def file_prompts(path: Path, real: Path | None, count: int, frames: int, space: Codec) -> list[Prompt]:
    """Return the prompts of a file, each with a real sound that is long enough, in order of name, as far as there is any."""
    lines = path.read_text(encoding="utf-8").splitlines()
    if path.suffix == ".csv":
        lines = [row["caption"] for row in csv.DictReader(lines)]
    styles = [line.strip() for line in lines if line.strip()][:count]
    if not styles:
        raise DataError(f"{path} holds no prompt; give a CSV with a column 'caption', or one style per line")
    heard = real_latents(real, frames, space) if real else iter(())
    prompts = []
    for style in styles:
        latents, sound = next(heard, (None, None))
        prompts.append(Prompt(style, style, None, latents, sound))
    return prompts


def real_latents(folder: Path, frames: int, space: Codec) -> Iterator[tuple[Tensor, str]]:
    """Yield the first ``frames`` of the latents of every sound of a folder that has as many, and what its style is read from.

    That is the ``.npy`` of the same name beside it, where there is one, else the sound itself.
    """
    samples = frames * space.spec.hop_length
    for source in audio_sources(folder):
        if seconds_of(source.path) * space.spec.sample_rate >= samples:
            audio = mixdown(read(source.path), space.spec)[..., :samples]
            style = source.path.with_suffix(".npy")
            yield space.encode(audio).cpu(), str(style if style.is_file() else source.path)


def rows_of(found: Trace, bundle: Bundle, others: bool) -> dict:
    """Return the curves of every song of a trace, as lists: by property, by ``reader/signal`` and by curve, ``[songs][points]``.

    ``others`` adds the agreement with the final classes of the next song, which has another seed.
    """
    rows: dict = {}
    for name, prop in bundle.properties.items():
        classes = prop.classes(found.measured)
        counted, mine = classes[-1] >= 0, {}
        for key in (key for key in found.posteriors if key.startswith(f"{name}/")):
            p = found.posteriors[key]
            curves = {curve: values.T.tolist() for curve, values in emergence(p, counted)._asdict().items()}
            if others and key.endswith("/x1"):
                curves["other seed"] = other_seed(p.argmax(-1), counted).T.tolist()
            right = (p[-1].argmax(-1) - classes[-1]).abs()
            curves["right"] = [_share(right[i][counted[i]] <= 1) for i in range(len(right))]
            mine[key.removeprefix(f"{name}/")] = curves
        rows[name] = mine | {"measured": {"agreement": agreement(classes).T.tolist()}}
    return rows


def other_seed(read: Tensor, counted: Tensor) -> Tensor:
    """Return the share of frames whose class ``[S, songs, T]`` is that which the next song ends with there, ``[S, songs]``."""
    ends, keep = read[-1].roll(1, dims=0), counted.roll(1, dims=0)
    return ((read == ends) & keep).double().sum(-1) / keep.double().sum(-1)


def _share(values: Tensor) -> float:
    return float(values.float().mean()) if values.numel() else float("nan")


def songs(
    model: Model,
    bundle: Bundle,
    space: Codec,
    prompts: Sequence[Prompt],
    base: Request,
    seeds: int,
    sets: Sequence[str],
    log: Path,
) -> Iterator[dict]:
    """Yield the rows of every prompt and set of conditions, from the log where they are there."""
    done = finished(log)
    yield from done
    known = {(row["conditions"], row["prompt"]) for row in done}
    jobs = [(conditions, i) for i in range(len(prompts)) for conditions in sets]
    for conditions, i in tqdm([job for job in jobs if job not in known], desc="prompts", unit="prompt"):
        prompt, listen = prompts[i], range(0, base.steps, LISTEN_EVERY)
        text = prompt.text if conditions == "style and notes" else None
        seeded = [i * seeds + k for k in range(seeds)]
        asked = replace(base, style=_vector(prompt.style, model), text=text, seed=seeded)
        common = {"model": model, "space": space, "record": ()}
        row = {"conditions": conditions, "prompt": i, "name": prompt.name, "songs": seeds}
        row["generated"] = rows_of(trace(bundle, asked, listen=listen, **common), bundle, others=seeds > 1)
        if prompt.real is not None:
            one = replace(asked, style=_vector(prompt.real_style, model), seed=seeded[:1])
            row["control"] = rows_of(trace(bundle, one, along=prompt.real, **common), bundle, others=False)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            file.write(compact_json(row))
        yield row


def _vector(style: str | Tensor, model: Model) -> Tensor:
    return resolve_style(style, model.generator) if isinstance(style, str) else style


def fingerprint(model: Model, bundle: Bundle, settings: dict) -> str:
    """Return what a log of songs depends on, as a short hash."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for tensor in (model.generator.dit.proj_out.weight, bundle.sae.W_enc, *(probe.weight for probe in bundle.probes.values())):
        digest.update(tensor.detach().cpu().numpy().tobytes())
    return digest.hexdigest()[:12]


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="etude-flow", help="generator: étude-flow, a folder or a Hub id")
    parser.add_argument("--bundle", default="checkpoints/etude", help="folder or Hub id (default: the shipped one)")
    parser.add_argument("--prompts", type=int, default=64, help="prompts (default 64)")
    parser.add_argument("--prompts-file", type=Path, help="styles for a generator that is not étude-flow")
    parser.add_argument("--real", type=Path, help="folder of real sound for the control; too short ones are left out")
    parser.add_argument("--null-style", help="for models without their own")
    parser.add_argument("--seeds", type=int, default=2, help="songs per prompt (default 2)")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of a song (default 5)")
    parser.add_argument("--steps", type=int, default=32, help="points in time (default 32)")
    parser.add_argument("--cfg", type=float, help="strength of guidance (default: the model's own)")
    parser.add_argument("--device", default="cpu", help="where the models run (default cpu)")
    parser.add_argument("--out", type=Path, default=Path("experiments/results"), help="folder of results")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser.parse_args(argv)


def main(options: argparse.Namespace) -> None:
    """Run the experiment."""
    model, bundle = load_model(options.model, device=options.device), Bundle.from_pretrained(options.bundle)
    space = space_of(bundle, device=options.device)
    frames = frames_of(model, options.seconds)
    if options.prompts_file:
        prompts, sets = file_prompts(options.prompts_file, options.real, options.prompts, frames, space), ["style only"]
    else:
        prompts, sets = etude_prompts(options.prompts, frames, space), ["style only", "style and notes"]
    null = None if options.null_style is None else resolve_style(options.null_style, model.generator)
    base = Request("", seconds=options.seconds, null_style=null, steps=options.steps, guidance=options.cfg)
    settings = {"prompts": [prompt.name for prompt in prompts], "seeds": options.seeds, "seconds": options.seconds}
    settings |= {"steps": options.steps, "cfg": options.cfg, "guidance": model.generator.guidance}
    log = CACHE / f"emergence-{fingerprint(model, bundle, settings)}.jsonl"
    found = summary(list(songs(model, bundle, space, prompts, base, options.seeds, sets, log)), options.steps)
    times = torch.linspace(0, 1, options.steps).tolist()
    listened = [*range(0, options.steps - 1, LISTEN_EVERY), options.steps - 1]
    options.out.mkdir(parents=True, exist_ok=True)
    facts = {"model": model.name, "bundle": options.bundle, **settings, "times": times, "listened": listened}
    write_bytes(options.out / "emergence.json", compact_json({**facts, "found": found}))
    write_bytes(options.out / "emergence.md", ("\n".join(lines_of(found, options.steps)) + "\n").encode())
    for conditions, by_name in found.items():
        for reader in READERS:
            figure = emergence_curves(panels(by_name, reader, times, listened))
            write_bytes(options.out / f"emergence-{conditions.replace(' ', '-')}-{reader}.png", png(figure))


if __name__ == "__main__":
    raise SystemExit(guarded(lambda: main(parse()), "--debug" in sys.argv))
