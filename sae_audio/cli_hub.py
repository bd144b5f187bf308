"""The commands that talk to the Hugging Face Hub: ``sae-audio push``, ``pull``, ``verify``, ``search``, ``deploy-space``."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from sae_audio.cli_output import table, write_json

if TYPE_CHECKING:
    from sae_audio.bundle import Bundle
    from sae_audio.hub import Published
    from sae_audio.hub_index import Listed


def add_hub_commands(commands: argparse._SubParsersAction, common: argparse.ArgumentParser) -> None:
    """Add the commands to the command line.

    Parameters
    ----------
    commands : subparsers
        Of ``sae-audio``.
    common : ArgumentParser
        Options of every command.
    """
    private = argparse.ArgumentParser(add_help=False)
    private.add_argument("--private", action="store_true", help="only you and whom you let in see it")

    push = commands.add_parser("push", parents=[common, private], help="publish a bundle on the Hugging Face Hub")
    push.add_argument("folder", metavar="FOLDER", help="a saved bundle")
    push.add_argument("repo", metavar="USER/NAME", help="repository on the Hub; made if it does not exist")
    push.add_argument("--revision", metavar="BRANCH", help="branch to publish to, made if it does not exist (default: main)")
    push.set_defaults(run=_push)

    pull = commands.add_parser("pull", parents=[common], help="fetch a bundle from the Hub and check it")
    pull.add_argument("repo", metavar="USER/NAME", help="repository on the Hub")
    pull.add_argument("--revision", metavar="R", help="its branch, tag or commit (default: main)")
    pull.add_argument(
        "-o",
        "--output",
        dest="copy",
        metavar="FOLDER",
        help="copy it there; a bundle there is replaced, all else refused (default: the Hub's cache)",
    )
    pull.set_defaults(run=_pull)

    verify = commands.add_parser("verify", parents=[common], help="check every file of a bundle, and that it loads")
    verify.add_argument("bundle", metavar="FOLDER|USER/NAME", help="a folder, or a repository on the Hub")
    verify.add_argument("--revision", metavar="R", help="branch, tag or commit of the repository (default: main)")
    verify.set_defaults(run=_verify)

    search = commands.add_parser("search", parents=[common], help="list the bundles that the Hub has")
    search.add_argument("text", metavar="TEXT", nargs="?", help="part of a repository's name (default: all)")
    search.add_argument("--space", metavar="NAME", help="only bundles of this latent space; `sae-audio spaces` lists them")
    search.add_argument("--limit", metavar="N", type=int, default=50, help="most bundles to list (default: 50)")
    search.add_argument("--json", metavar="OUT", help="write the list as JSON; - for standard output")
    search.set_defaults(run=_search)

    deploy = commands.add_parser("deploy-space", parents=[common, private], help="send the app to a Hugging Face Space")
    deploy.add_argument("space", metavar="USER/SPACE", help="Space on the Hub; made if it does not exist")
    deploy.add_argument("--bundle", metavar="USER/NAME", help="bundle on the Hub that it shows (default: the shipped étude)")
    deploy.add_argument("--hardware", metavar="NAME", help="where it runs, for example zero-a10g (default: cpu-basic)")
    deploy.add_argument("--folder", metavar="DIR", help="clone to send (default: the one that this runs from)")
    deploy.add_argument("--dry-run", action="store_true", help="list what would be sent, and send nothing")
    deploy.set_defaults(run=_deploy)


def _push(arguments: argparse.Namespace) -> None:
    from sae_audio.hub import check_address, push
    from sae_audio.sealed import read_sealed

    check_address(arguments.repo, arguments.revision)
    with warnings.catch_warnings(action="ignore"):  # what is to be told of the folder, the push tells
        read_sealed(arguments.folder)  # says at once what is no bundle, which takes no torch

        from sae_audio.bundle import Bundle

        Bundle.from_pretrained(Path(arguments.folder).absolute())  # what cannot be loaded is not published
    done = push(arguments.folder, arguments.repo, private=arguments.private, revision=arguments.revision)
    print("\n".join(published_lines(arguments.repo, done, arguments.revision)))


def published_lines(repo_id: str, done: Published, revision: str | None = None) -> list[str]:
    """Return the lines that tell what a push did and how others get at it."""
    sent = f"{done.changed} files sent" if done.changed else "all of it was there already"
    removed = f", {done.removed} of the last bundle removed" if done.removed else ""
    tagged = f", tagged {done.tag}" if done.tag else f", on branch {revision}"
    at = f', revision="{revision}"' if revision else ""
    return [
        f"published {done.url} ({'private' if done.private else 'public'}){tagged}",
        f"commit {done.commit}: {sent}{removed}; every file there has the sha256 that the manifest lists",
        f'anyone{" with access" if done.private else ""} loads it with Bundle.from_pretrained("{repo_id}"{at})',
    ]


def _pull(arguments: argparse.Namespace) -> None:
    from sae_audio.hub import pull
    from sae_audio.sealed import check_replaceable, read_sealed, write_sealed

    if arguments.copy:
        check_replaceable(Path(arguments.copy).absolute())
    folder = pull(arguments.repo, arguments.revision)
    files = read_sealed(folder)
    placed = write_sealed(arguments.copy, files) if arguments.copy else folder
    print(f"{arguments.repo} at commit {folder.name}: {_checked(folder, files)}")
    print(placed)


def _verify(arguments: argparse.Namespace) -> None:
    from sae_audio.bundle import Bundle, is_hub_id
    from sae_audio.hub import pull
    from sae_audio.sealed import FORMAT_VERSION, read_sealed

    at, folder = "", Path(arguments.bundle)
    if is_hub_id(arguments.bundle):
        folder = pull(arguments.bundle, arguments.revision)
        at = f" at commit {folder.name}"
    bundle = Bundle.from_pretrained(folder, revision=None if at else arguments.revision)
    with warnings.catch_warnings(action="ignore"):  # they have been told
        files = read_sealed(folder)
    print(f"{arguments.bundle}{at}: {_checked(folder, files)} (format {FORMAT_VERSION})")
    print(f"loads: {_contents(bundle)}")


def _checked(folder: Path, files: dict[str, bytes]) -> str:
    from sae_audio.sealed import CARD, MANIFEST, manifest_of

    edited = (folder / MANIFEST).read_bytes() != manifest_of(files)
    size = f"{len(files) + 1} files, {sum(map(len, files.values())) / 1e6:.1f} MB"  # and the manifest
    return f"{size}, each {f'but {CARD} ' if edited else ''}as its manifest says"


def _contents(bundle: Bundle) -> str:
    config, spec = bundle.sae.config, bundle.spec
    parts = f"{len(bundle.probes)} probes, {len(bundle.controls)} controls"
    return f"{config.variant} SAE of {config.d_sae} features on '{spec.name}' ({spec.tap}), {parts}"


def _search(arguments: argparse.Namespace) -> None:
    from sae_audio.hub_index import search_bundles

    found = search_bundles(arguments.text, space=arguments.space, limit=arguments.limit)
    if arguments.json != "-":
        header = ["bundle", "space", "tap", "SAE", "FVU", "l0", "balanced accuracy of probes", "updated", "commit"]
        print("\n".join(table(header, map(_row, found))) if found else _none(arguments.text, arguments.space))
        if found:
            print(f"\nuse one: python -m sae_audio analyse FILE.wav --bundle {found[0].repo} --revision {found[0].revision}")
    write_json(arguments.json, [bundle._asdict() for bundle in found])


def _none(text: str | None, space: str | None) -> str:
    named = f" with '{text}' in its name" if text else ""
    of = f" of the latent space '{space}'" if space else ""
    return f"the Hub has no bundle{of}{named}" + ("; `sae-audio spaces` lists the names of spaces" if space else "")


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


def _deploy(arguments: argparse.Namespace) -> None:
    from sae_audio.deploy import ROOT, deploy_space

    folder = arguments.folder or ROOT
    if arguments.dry_run:
        print("\n".join(_would_send(arguments.space, folder, arguments.bundle)))
        return
    options = {"bundle": arguments.bundle, "private": arguments.private, "hardware": arguments.hardware}
    done = deploy_space(arguments.space, folder=folder, **options)
    removed = f", {done.removed} of an earlier version removed" if done.removed else ""
    print(f"sent {done.url}, commit {done.commit}: {done.files} files{removed}")
    if done.bundle:
        print(f"it shows {done.bundle}")
    elif done.unset is None:
        print(f"it shows the shipped bundle, unless {done.url}/settings has a variable BUNDLE: this token may not look there")
    else:
        unset = f" again: the Space's variables {' and '.join(done.unset)} are removed" if done.unset else ""
        print(f"it shows the shipped bundle{unset}")
    if done.closed:
        print(f"that bundle is not public: give the Space a secret HF_TOKEN that may read it, at {done.url}/settings")
    print(f"the Hub builds it now: hf spaces wait {arguments.space} && hf spaces logs {arguments.space}")


def _would_send(space: str, folder: str | Path, bundle: str | None) -> list[str]:
    from sae_audio.deploy import check_name, checked_card, space_files

    check_name(space)
    files = space_files(folder)
    checked_card(files)
    size = sum(path.stat().st_size for path in files.values())
    shown = _would_show(bundle) if bundle else "the shipped bundle"
    return [*files, f"{space} would show {shown}", f"{len(files)} files, {size / 1e6:.1f} MB; nothing was sent"]


def _would_show(bundle: str) -> str:
    from sae_audio.deploy import find_bundle
    from sae_audio.errors import HubError
    from sae_audio.hub_client import unreachable

    try:
        shown = find_bundle(bundle)
    except HubError as error:
        if error.__cause__ is None or not unreachable(error.__cause__):
            raise
        return f"{bundle}, if it is there: {error}"
    return f"{shown.repo_id}@{shown.commit}"
