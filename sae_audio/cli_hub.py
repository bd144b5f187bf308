"""The commands ``sae-audio push``, ``pull`` and ``verify``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sae_audio.bundle import Bundle
    from sae_audio.hub import Published


def add_hub_commands(commands: argparse._SubParsersAction, common: argparse.ArgumentParser) -> None:
    """Add the commands to the command line.

    Parameters
    ----------
    commands : subparsers
        Of ``sae-audio``.
    common : ArgumentParser
        Options of every command.
    """
    push = commands.add_parser("push", parents=[common], help="publish a bundle on the Hugging Face Hub")
    push.add_argument("folder", metavar="FOLDER", help="a saved bundle")
    push.add_argument("repo", metavar="REPO", help="user/name; made if it does not exist")
    push.add_argument("--private", action="store_true", help="only you and whom you let in see it")
    push.add_argument("--revision", metavar="BRANCH", help="branch to publish to, made if it does not exist (default: main)")
    push.set_defaults(run=_push)

    pull = commands.add_parser("pull", parents=[common], help="fetch a bundle from the Hub and check it")
    pull.add_argument("repo", metavar="REPO", help="user/name")
    pull.add_argument("--revision", help="branch, tag or commit (default: main)")
    pull.add_argument(
        "-o", "--output", dest="copy", metavar="FOLDER", help="copy it there: new, empty or a bundle (default: the Hub's cache)"
    )
    pull.set_defaults(run=_pull)

    verify = commands.add_parser("verify", parents=[common], help="check every file of a bundle, and that it loads")
    verify.add_argument("bundle", metavar="FOLDER|REPO", help="folder or Hub id of a bundle")
    verify.add_argument("--revision", help="branch, tag or commit of a bundle on the Hub")
    verify.set_defaults(run=_verify)


def _push(arguments: argparse.Namespace) -> None:
    from sae_audio.bundle import Bundle
    from sae_audio.hub import push

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
        f"commit {done.commit}: {sent}{removed}; what the Hub holds has the sha256 of the manifest",
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
    print(f"{arguments.repo} at commit {folder.name}: {_size(files)}, each as its manifest says")
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
    print(f"{arguments.bundle}{at}: {_size(read_sealed(folder))}, each as its manifest says (format {FORMAT_VERSION})")
    print(f"loads: {_contents(bundle)}")


def _size(files: dict[str, bytes]) -> str:
    return f"{len(files) + 1} files, {sum(map(len, files.values())) / 1e6:.1f} MB"  # and the manifest


def _contents(bundle: Bundle) -> str:
    config, spec = bundle.sae.config, bundle.spec
    parts = f"{len(bundle.probes)} probes, {len(bundle.controls)} controls"
    return f"{config.variant} SAE of {config.d_sae} features on '{spec.name}' ({spec.tap}), {parts}"
