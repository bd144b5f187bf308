"""The command line: ``sae-audio analyse | steer | generate | eval | push | …`` (also ``python -m sae_audio``)."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from os.path import expanduser
from pathlib import Path
from typing import TYPE_CHECKING

from sae_audio.cli_dataset import add_dataset_options, dataset_of
from sae_audio.cli_generate import add_commands
from sae_audio.cli_hub import add_hub_commands
from sae_audio.cli_output import check_outputs, lowered_lines, write_figure, write_json
from sae_audio.cli_request import bundle_of
from sae_audio.console import Command, Parser, guarded
from sae_audio.errors import ParameterError
from sae_audio.files import check_target

if TYPE_CHECKING:
    from sae_audio.activations import Source
    from sae_audio.bundle import Bundle
    from sae_audio.latent_spaces import LatentSpace

DEFAULT_BUNDLE = Path(__file__).resolve().parent.parent / "checkpoints" / "etude"
FEATURES_SHOWN = 12


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, run the command and return its exit code; without any words, show the help."""
    arguments = _parser().parse_args((sys.argv[1:] if argv is None else argv) or ["--help"])

    def run() -> None:
        if arguments.run is _steer and arguments.output is None and Path(arguments.file).is_file():
            arguments.output = Path(arguments.file).with_suffix(".steered.wav")
        check_outputs(arguments)
        arguments.run(arguments)

    return guarded(run, arguments.debug)


def _parser() -> Parser:
    parser = Parser(prog="sae-audio", description="Look into the latent space of an audio model, and steer it.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Command)
    common = Command(add_help=False)
    common.add_argument("--debug", action="store_true", help="show tracebacks")
    model = Command(add_help=False, parents=[common])
    model.add_argument("--source", help="folder, file or Hub id of the model's checkpoint (default: where the bundle says)")
    model.add_argument(
        "--source-revision", metavar="R", help="branch, tag or commit of the model on the Hub (default: the bundle's)"
    )
    model.add_argument("--device", default="cpu", help="where the model runs (default: cpu)")
    model.add_argument("--dtype", default="float32", help="float32; on an accelerator also bfloat16, float16")
    model.add_argument(
        "--trust-remote-code", action="store_true", help="run the Python code that comes with a checkpoint such as MERT's"
    )
    bundled = Command(add_help=False, parents=[model])
    bundled.add_argument(
        "--bundle", default=str(DEFAULT_BUNDLE), help="folder or Hub id of a bundle (default: the shipped étude)"
    )
    bundled.add_argument("--revision", help="branch, tag or commit of a bundle on the Hub")
    bundled.add_argument("--json", metavar="OUT", help="write the figures as JSON; - for standard output")
    bundled.add_argument("--plot", metavar="OUT.png", help="draw a figure")
    bundled.add_argument("--max-minutes", type=float, default=20.0, help="longest sound accepted (default: 20)")

    analyse = commands.add_parser("analyse", parents=[bundled], help="what a bundle sees in a sound")
    analyse.add_argument("file", metavar="FILE", help="a sound file: wav, flac, ogg, mp3, aiff")
    analyse.add_argument("--probes", metavar="OUT.png", help="draw what the probes read off each frame")
    analyse.set_defaults(run=_analyse)

    steer = commands.add_parser("steer", parents=[bundled], help="move pitch, loudness, brightness or features of a sound")
    steer.add_argument("file", metavar="FILE", help="a sound file: wav, flac, ogg, mp3, aiff")
    steer.add_argument("--pitch", metavar="C5|+3", default="0", help="note to move to, or signed semitones")
    steer.add_argument("--loudness", metavar="DB", default="0", help="dB to add, for example -6")
    steer.add_argument("--brightness", metavar="OCT", default="0", help="octaves of spectral centroid, for example +0.5")
    steer.add_argument(
        "--feature", metavar="I=X", action="append", default=[], help="add X times the typical activation of feature I"
    )
    steer.add_argument("--from", dest="start", metavar="S", type=float, default=0.0, help="first second to edit")
    steer.add_argument("--to", dest="stop", metavar="S", type=float, help="where to stop editing")
    steer.add_argument(
        "--no-hold", dest="hold", action="store_false", help="apply strengths as calibrated; do not correct the result"
    )
    steer.add_argument("--bits", type=int, choices=(16, 24), default=16, help="sample size of the WAV written (default: 16)")
    steer.add_argument("-o", "--output", metavar="OUT.wav", help="default: FILE with .steered.wav in place of its suffix")
    steer.set_defaults(run=_steer)

    add_commands(commands, model, str(DEFAULT_BUNDLE))

    evaluate = commands.add_parser("eval", parents=[model], help="score a bundle on étude clips or on sound of your choice")
    evaluate.add_argument("folder", metavar="BUNDLE", nargs="?", help="folder or Hub id (default: the shipped étude)")
    evaluate.add_argument("--bundle", help="the same as an option")
    evaluate.add_argument("--revision", help="branch, tag or commit of a bundle on the Hub")
    evaluate.add_argument(
        "--audio", metavar="PATH", nargs="+", help="sound of your choice, files or folders (default: held-out étude clips)"
    )
    add_dataset_options(evaluate, "needed: one that training did not see")
    evaluate.add_argument("--minutes", type=float, default=20.0, help="étude corpus size; its test split is scored (default: 20)")
    evaluate.add_argument("--json", metavar="OUT", help="write the figures as JSON; - for standard output")
    evaluate.add_argument("--plot", metavar="OUT.png", help="draw the isolation matrix")
    evaluate.set_defaults(run=_eval)

    spaces = commands.add_parser("spaces", parents=[common], help="list the latent spaces and what they need")
    spaces.add_argument("--json", metavar="OUT", help="write the list as JSON; - for standard output")
    spaces.set_defaults(run=_spaces)

    convert = commands.add_parser("convert", parents=[common], help="write an Oobleck VAE of any layout as a diffusers folder")
    convert.add_argument(
        "source", type=expanduser, metavar="SOURCE", help="vae_model.pt, model.safetensors, model.ckpt, or its folder"
    )
    convert.add_argument("folder", type=expanduser, metavar="OUT", help="folder for config.json and the weights as safetensors")
    convert.add_argument("--space", choices=("stable-audio-vae", "diffrhythm-vae"), required=True, help="what the VAE is")
    convert.set_defaults(run=_convert)

    add_hub_commands(commands, common)
    return parser


def _analyse(arguments: argparse.Namespace) -> None:
    from sae_audio.audio import read
    from sae_audio.pipeline import analyse
    from sae_audio.report import describe_view, view_lines

    sound = read(arguments.file, max_minutes=arguments.max_minutes)
    bundle = bundle_of(arguments)
    view = analyse(bundle, sound, space=_space_of(bundle, arguments))
    summary = describe_view(bundle, view, FEATURES_SHOWN)
    if arguments.json != "-":
        print("\n".join(view_lines(arguments.file, bundle, view, summary)))
        other = "" if arguments.bundle == str(DEFAULT_BUNDLE) else f" --bundle {arguments.bundle}"
        other += f" --revision {arguments.revision}" if arguments.revision else ""
        print(f"\nnext: python -m sae_audio steer {arguments.file} --pitch +5 --loudness -6 --brightness +0.5{other}")
    write_json(arguments.json, summary)
    if arguments.probes:
        from sae_audio.plots import posteriors

        rate = bundle.spec.frame_rate
        write_figure(arguments.probes, posteriors(view.posteriors, bundle.properties, view.descriptors, rate))
    if arguments.plot:
        import torch

        from sae_audio.plots import activation_heatmap

        shown = view.top_features[:FEATURES_SHOWN]
        labels = [f"{i} {bundle.atlas.feature(i).name.text}" for i in shown]
        rate = bundle.spec.frame_rate
        acts = view.acts.index_select(1, torch.tensor(shown, dtype=torch.int64)).to_dense()
        figure = activation_heatmap(view.audio, bundle.spec.sample_rate, acts, labels, rate)
        write_figure(arguments.plot, figure)


def _steer(arguments: argparse.Namespace) -> None:
    from sae_audio.audio import full_scale_gain, lowered, read, write
    from sae_audio.cli_moves import parse_features, without_unit
    from sae_audio.moves import amount, is_move
    from sae_audio.pipeline import steer
    from sae_audio.report import change_lines, describe_change

    features = parse_features(arguments.feature)
    moves = {name: without_unit(name, getattr(arguments, name)) for name in ("pitch", "loudness", "brightness")}
    for name in ("loudness", "brightness"):
        amount(moves, name)  # refuses what is no number before anything is loaded
    if not features and not any(is_move(target) for target in moves.values()):
        raise ParameterError("nothing to steer; give at least one of --pitch, --loudness, --brightness, --feature")
    sound = read(arguments.file, max_minutes=arguments.max_minutes)
    bundle = bundle_of(arguments)
    space = _space_of(bundle, arguments)
    span = {"start": arguments.start, "stop": arguments.stop}
    steered = steer(bundle, sound, moves, features=features, hold=arguments.hold, space=space, **span)
    gain = full_scale_gain(steered.sound)
    written, after = lowered(steered.sound, gain), steered.after._replace(rms=steered.after.rms * gain)
    write(arguments.output, written.samples, written.sample_rate, bits=arguments.bits)
    summary = describe_change(written, steered.before, after, steered.mask)
    if arguments.json != "-":
        print("\n".join([*change_lines(summary), *lowered_lines(gain), f"wrote {arguments.output}"]))
    write_json(arguments.json, {**summary, "gain": gain, "output": str(arguments.output)})
    if arguments.plot:
        from sae_audio.descriptors import Descriptors
        from sae_audio.plots import before_after

        before, after = (Descriptors(*(column[0] for column in side)) for side in (steered.before, after))
        write_figure(arguments.plot, before_after(before, after, bundle.spec.frame_rate))


def _eval(arguments: argparse.Namespace) -> None:
    from sae_audio.activations import audio_sources, clip_sources, extract
    from sae_audio.audio import MAX_MINUTES
    from sae_audio.bundle import Bundle
    from sae_audio.etude.corpus import corpus
    from sae_audio.evaluation import evaluate
    from sae_audio.latent_spaces import Codec
    from sae_audio.report import metric_lines

    given = [name for name in (arguments.folder, arguments.bundle) if name is not None]
    if len(given) > 1:
        raise ParameterError(f"two bundles were named, '{arguments.folder}' and '{arguments.bundle}'; eval scores one")
    dataset = dataset_of(arguments, max_minutes=MAX_MINUTES, split=None)
    bundle = Bundle.from_pretrained(given[0] if given else DEFAULT_BUNDLE, revision=arguments.revision)
    space = _space_of(bundle, arguments)
    if arguments.plot and not (isinstance(space, Codec) and bundle.controls):
        raise ParameterError("there is no control to draw: the latent space cannot be decoded, or the bundle has no controls")
    sources: Iterable[Source]
    if dataset is not None:
        sources = dataset.sources
    elif arguments.audio:
        sources = audio_sources(arguments.audio)
    else:
        sources = clip_sources(corpus(arguments.minutes, seed=1000, source="additive", split="test"))
    with tempfile.TemporaryDirectory() as folder:
        store = extract(space, sources, folder, tracker=_tracker_of(bundle))
        for skipped in store.skipped:
            print(f"skipped {skipped.name}: {skipped.reason}", file=sys.stderr)
        metrics = evaluate(bundle, space, store)
    if arguments.json != "-":
        print("\n".join(metric_lines(metrics)))
    write_json(arguments.json, metrics)
    if arguments.plot:
        from sae_audio.plots import isolation_matrix, shown_trials

        write_figure(arguments.plot, isolation_matrix(shown_trials(metrics), metrics["control"]["spread"]))


def _tracker_of(bundle: Bundle) -> str:
    """Return the pitch tracker that the bundle was trained with: scores by another would measure the trackers' differences."""
    data = bundle.provenance.get("data")
    return str(data.get("tracker", "yin")) if isinstance(data, dict) else "yin"


def _space_of(bundle: Bundle, arguments: argparse.Namespace) -> LatentSpace:
    from sae_audio.bundle_space import space_of

    return space_of(
        bundle,
        source=arguments.source,
        revision=arguments.source_revision,
        device=arguments.device,
        dtype=arguments.dtype,
        trust_remote_code=arguments.trust_remote_code,
    )


def _spaces(arguments: argparse.Namespace) -> None:
    from sae_audio.latent_spaces import SPACES
    from sae_audio.report import table

    rows, listed = [], {}
    for name, row in SPACES.items():
        missing = [package for package in row.packages if find_spec(package) is None]
        needs = f"pip install {' '.join(missing)}" if missing else "ready" if row.shipped else f"downloads {row.source}"
        needs += f"; {row.needs}" if row.needs else ""
        rate = row.sample_rate / row.hop_length
        taps = list(row.taps) or [f"layer {layer}" for layer in range(row.layers + 1)]
        shown = ", ".join(row.taps) or f"layer 0-{row.layers}"
        steers = "yes" if row.decodes else "no"
        rows.append([name, row.sample_rate, row.channels, f"{rate:.4g}", row.d_in, shown, steers, row.licence, needs])
        listed[name] = {
            "sample_rate": row.sample_rate,
            "channels": row.channels,
            "frame_rate": rate,
            "d_in": row.d_in,
            "taps": taps,
            "default_tap": row.default_tap,
            "decodes": row.decodes,
            "licence": row.licence,
            "source": row.source,
            "missing_packages": missing,
            "needs": row.needs,
        }
    if arguments.json != "-":
        header = ["space", "Hz", "channels", "frames/s", "numbers (d_in)", "taps", "steers", "licence of weights", "needs"]
        print("\n".join(table(header, rows)))
        print("\nany other checkpoint of these classes: hf:user/model, for example --space hf:facebook/wav2vec2-large --layer 12")
    write_json(arguments.json, listed)


def _convert(arguments: argparse.Namespace) -> None:
    from sae_audio.latent_spaces import convert

    check_target(arguments.folder)
    for written in convert(arguments.space, arguments.source, arguments.folder):
        print(f"wrote {written}")
