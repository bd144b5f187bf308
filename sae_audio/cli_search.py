"""The command ``sae-audio search``: the bundles that the Hub has."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from sae_audio.cli_output import write_json

if TYPE_CHECKING:
    from sae_audio.hub_index import Listed


def add_search_command(commands: argparse._SubParsersAction, common: argparse.ArgumentParser) -> None:
    """Add the command to the command line.

    Parameters
    ----------
    commands : subparsers
        Of ``sae-audio``.
    common : ArgumentParser
        Options of every command.
    """
    search = commands.add_parser("search", parents=[common], help="list the bundles that the Hub has")
    search.add_argument("text", metavar="TEXT", nargs="?", help="part of a repository's name (default: all)")
    search.add_argument("--space", metavar="NAME", help="only bundles of this latent space")
    search.add_argument("--limit", metavar="N", type=int, default=50, help="most bundles to list (default: 50)")
    search.add_argument("--json", metavar="OUT", help="write the list as JSON; - for standard output")
    search.set_defaults(run=_search)


def _search(arguments: argparse.Namespace) -> None:
    from sae_audio.hub_index import search_bundles
    from sae_audio.report import table

    found = search_bundles(arguments.text, space=arguments.space, limit=arguments.limit)
    if arguments.json != "-":
        header = ["bundle", "space", "tap", "SAE", "FVU", "l0", "probes", "updated", "commit"]
        print("\n".join(table(header, map(_row, found))) if found else "the Hub has no such bundle")
        if found:
            print(f"\nuse one: python -m sae_audio analyse FILE.wav --bundle {found[0].repo} --revision {found[0].revision[:12]}")
    write_json(arguments.json, [bundle._asdict() for bundle in found])


def _row(bundle: Listed) -> list[str]:
    metrics = dict(bundle.metrics)
    fvu, l0 = (metrics.pop(name, None) for name in ("fvu", "l0"))
    probes = ", ".join(f"{name} {value:.2f}" for name, value in metrics.items())
    marks = ["private"] * bundle.private + ["gated"] * bundle.gated
    return [
        bundle.repo + (f" ({', '.join(marks)})" if marks else ""),
        bundle.space or bundle.base_model or "?",
        bundle.tap or "?",
        f"{bundle.variant or '?'} {bundle.d_sae or '?'}",
        "" if fvu is None else f"{fvu:.3f}",
        "" if l0 is None else f"{l0:.1f}",
        probes,
        bundle.updated[:10],
        bundle.revision[:12],
    ]
