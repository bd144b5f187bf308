"""The commands ``sae-audio generate`` and ``sae-audio trace``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from tqdm import tqdm

from sae_audio.cli_output import free_folder, lowered_lines, whole_folder, write_json
from sae_audio.cli_request import bundle_of, codec_for, model_of, request_of
from sae_audio.errors import ParameterError
from sae_audio.files import write_bytes

if TYPE_CHECKING:
    from sae_audio.audio import Sound
    from sae_audio.generation import Point, Request, Song
    from sae_audio.generators import Model
    from sae_audio.latent_spaces import Codec

LISTENED = 8
"""Points that ``trace`` decodes unless told, besides the result."""


def add_commands(commands: argparse._SubParsersAction, common: argparse.ArgumentParser, bundle: str) -> None:
    """Add both commands to the command line.

    Parameters
    ----------
    commands : subparsers
        Of ``sae-audio``.
    common : ArgumentParser
        Options of every command that runs a model: --debug, --source, --source-revision, --device, --dtype, --trust-remote-code.
    bundle : str
        Default of --bundle.
    """
    asked = argparse.ArgumentParser(add_help=False, parents=[common])
    asked.add_argument("--model", default="etude-flow", metavar="M", help="shipped étude-flow (default), a folder, or a Hub id")
    asked.add_argument("--model-revision", metavar="R", help="branch, tag or commit of a model on the Hub")
    asked.add_argument(
        "--release", metavar="NAME", help="what a DiffRhythm checkpoint is if its path does not say, such as DiffRhythm-base"
    )
    asked.add_argument(
        "--style", metavar="S", help="learnt name (--styles lists them; default: the first), .npy, words or a clip"
    )
    asked.add_argument("--styles", action="store_true", help="list the model's styles and stop")
    asked.add_argument("--null-style", metavar="S", help="style that guidance leads away from, for models without their own")
    asked.add_argument("--notes", metavar="NOTES", help="what étude-flow plays, for example 'C4:0.5 E4:0.5 rest:0.25 C4+E4+G4:1'")
    asked.add_argument("--lyrics", metavar="FILE.lrc", help="what DiffRhythm sings")
    asked.add_argument("--seconds", type=float, help="length (default: 5; for DiffRhythm the longest that the model makes)")
    asked.add_argument("--steps", type=int, default=32, help="points in time, one more than updates (default: 32)")
    asked.add_argument(
        "--cfg", type=float, metavar="G", help="strength of guidance; 0 halves the work (default: the model's own)"
    )
    asked.add_argument("--seed", type=int, default=0, help="of the noise (default: 0)")
    asked.add_argument("--steer", action="append", default=[], metavar="P=X", help="loudness=-6, brightness=+0.5, pitch=C5|+3")
    asked.add_argument(
        "--feature", metavar="I=X", action="append", default=[], help="add X times the typical activation of feature I"
    )
    asked.add_argument(
        "--window", default="0:1", metavar="A:B", help="flow times that are steered, 0 noise, 1 result (default: 0:1)"
    )
    asked.add_argument("--from", dest="start", metavar="S", type=float, default=0.0, help="first second to steer")
    asked.add_argument("--to", dest="stop", metavar="S", type=float, help="where to stop steering")
    asked.add_argument("--bundle", default=bundle, help="folder or Hub id of a bundle (default: the shipped étude)")
    asked.add_argument("--revision", help="branch, tag or commit of a bundle on the Hub")
    asked.add_argument("--bits", type=int, choices=(16, 24), default=16, help="sample size of WAV files (default: 16)")
    asked.add_argument("--json", metavar="OUT", help="write the figures as JSON; - for standard output")

    generate = commands.add_parser("generate", parents=[asked], help="generate music, steered on the way if asked")
    generate.add_argument(
        "--no-hold", dest="hold", action="store_false", help="leave a steered song as the flow ends; do not correct the result"
    )
    generate.add_argument(
        "-o", "--output", metavar="OUT.wav", default="generated.wav", help="replaced if it is there (default: generated.wav)"
    )
    generate.set_defaults(run=_generate)

    trace = commands.add_parser("trace", parents=[asked], help="generate music and read the probes at every step")
    trace.add_argument("--out", metavar="DIR", help="new or empty folder for sounds, trace, curves and figure")
    trace.add_argument(
        "--listen", type=int, default=LISTENED, metavar="N", help="points to decode (default: 8), besides the result"
    )
    trace.add_argument("--record", default="x_t,x1", help="latents to keep, of x_t,x1,v,v_null (default: x_t,x1)")
    trace.add_argument("--half", action="store_true", help="keep float16, half as large")
    trace.set_defaults(run=_trace)


def _generate(arguments: argparse.Namespace) -> None:
    from sae_audio.audio import Sound, full_scale_gain, lowered, write
    from sae_audio.generation import generate

    model = model_of(arguments)
    if _listed(model, arguments):
        return
    request = request_of(model, arguments)
    bundle = bundle_of(arguments) if request.steered else None
    space = codec_for(model, bundle, arguments)
    with _progress(request) as bar:
        options = {"model": model, "bundle": bundle, "space": space, "hold": arguments.hold}
        song = generate(request, on_step=lambda step: bar.update(), **options)
    sound = Sound(song.audio[0], song.sample_rate)
    gain = full_scale_gain(sound)
    sound = lowered(sound, gain)
    write(arguments.output, sound.samples, sound.sample_rate, bits=arguments.bits)
    summary = {"model": model.name, **request.facts(), "output": arguments.output, "gain": gain}
    summary |= _changed(song, sound, space, request)
    if arguments.json != "-":
        print(f"{model.name}, {summary['style']}, {summary['samples'] / summary['sample_rate']:g} s, seed {arguments.seed}")
        if song.unsteered is not None:
            from sae_audio.report import change_lines

            print("\n".join(["", *change_lines(summary), ""]))
        print("\n".join([*lowered_lines(gain), f"wrote {arguments.output}"]))
    write_json(arguments.json, summary)


def _trace(arguments: argparse.Namespace) -> None:
    from sae_audio.audio import Sound, full_scale_gain, lowered, write
    from sae_audio.generation import trace
    from sae_audio.plots import png
    from sae_audio.plots.denoising import emergence_curves, panels_of
    from sae_audio.traces import compact_json, scrubber

    model = model_of(arguments)
    if _listed(model, arguments):
        return
    request, bundle = request_of(model, arguments), bundle_of(arguments)
    space, out = codec_for(model, bundle, arguments), free_folder(arguments.out)
    record = [name for name in arguments.record.split(",") if name]
    listen, heard = _spread(arguments.listen, request.steps), dict[str, Sound]()

    def keep(point: Point) -> None:
        bar.update()
        if point.audio is not None:
            name = "final.wav" if point.index == request.steps - 1 else f"x1-{point.index:02d}.wav"
            heard[name] = Sound(point.audio[0], space.spec.sample_rate)

    with whole_folder(out) as folder:
        options = {"model": model, "space": space, "record": record, "listen": listen, "half": arguments.half}
        with _progress(request, last=1) as bar:
            found = trace(bundle, request, on_point=keep, **options)
        gain = full_scale_gain(*heard.values())  # one for all, or their levels could not be compared
        for name, sound in heard.items():
            write(folder / name, lowered(sound, gain).samples, sound.sample_rate, bits=arguments.bits)
        found.save(folder / "trace")
        write_bytes(folder / "scrubber.json", compact_json(scrubber(found, bundle.properties)))
        write_bytes(folder / "emergence.png", png(emergence_curves(panels_of(found.times.tolist(), found.facts["curves"]))))
    summary = {**found.facts, "times": found.times.tolist(), "output": str(out), "gain": gain}
    if arguments.json != "-":
        print("\n".join(_trace_lines(found.facts["curves"], request.steps)))
        files = ", ".join(sorted(path.name for path in out.iterdir()))
        print("\n".join(["", *lowered_lines(gain), f"wrote {files} to {out}"]))
    write_json(arguments.json, summary)


def _listed(model: Model, arguments: argparse.Namespace) -> bool:
    """Print the model's styles if that is what was asked."""
    if arguments.styles:
        print("\n".join(model.generator.style_names or ["none by name: give a .npy vector, words or a clip"]))
    return arguments.styles


def _changed(song: Song, sound: Sound, space: Codec, request: Request) -> dict:
    """What steering changed, measured on the sound that is written against the unsteered song."""
    from sae_audio.descriptors import describe
    from sae_audio.moves import span_mask
    from sae_audio.report import describe_change

    channels, samples = sound.samples.shape
    if song.unsteered is None:
        return {"samples": samples, "sample_rate": song.sample_rate, "channels": channels}
    sounds = (space.decode(song.unsteered).cpu(), sound.samples[None])
    before, after = (describe(audio, song.sample_rate, space.spec.hop_length) for audio in sounds)
    mask = span_mask(before.rms.shape[1], space.spec.frame_rate, request.start, request.stop)
    return describe_change(sound, before, after, mask)


def _spread(n: int, steps: int) -> list[int]:
    """Spread points over all but the last, the first among them."""
    if n < 0:
        raise ParameterError(f"--listen is {n}; it is a number of points, 0 or more")
    return sorted({round(i * (steps - 1) / n) for i in range(min(n, steps - 1))}) if n else []


def _progress(request: Request, last: int = 0) -> tqdm:
    return tqdm(total=max(request.steps - 1, 0) + last, desc="denoise", unit="step", disable=None, leave=False)


def _trace_lines(curves: dict, steps: int) -> list[str]:
    """Say from which point on nine in ten frames have their final class."""
    from sae_audio.report import table

    rows = []
    for name, found in curves.items():
        read = found["read"]
        cells = [read[key]["decided"] for key in ("acts/x_t", "acts/x1", "latents/x_t", "latents/x1")]
        rows.append([name, *("-" if cell is None else f"{cell:.1f}" for cell in cells)])
    header = ["decided at point", "SAE, x_t", "SAE, x̂₁", "latents, x_t", "latents, x̂₁"]
    return [
        f"point, of 0 to {steps - 1}, from which nine in ten frames have the class that they end with",
        "",
        *table(header, rows),
    ]
