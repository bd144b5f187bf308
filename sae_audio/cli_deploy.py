"""The command ``sae-audio deploy-space``: the app as a Hugging Face Space."""

from __future__ import annotations

import argparse


def add_deploy_command(commands: argparse._SubParsersAction, common: argparse.ArgumentParser) -> None:
    """Add the command to the command line.

    Parameters
    ----------
    commands : subparsers
        Of ``sae-audio``.
    common : ArgumentParser
        Options of every command.
    """
    deploy = commands.add_parser("deploy-space", parents=[common], help="send the app to a Hugging Face Space")
    deploy.add_argument("space", metavar="USER/SPACE", help="made if it does not exist")
    deploy.add_argument("--bundle", metavar="REPO", help="Hub id of the bundle to show (default: the shipped étude)")
    deploy.add_argument("--private", action="store_true", help="only you and whom you let in see it")
    deploy.add_argument("--hardware", metavar="NAME", help="where it runs, for example zero-a10g (default: cpu-basic)")
    deploy.add_argument("--folder", metavar="DIR", help="clone to send (default: the one that this runs from)")
    deploy.add_argument("--dry-run", action="store_true", help="list what would be sent, and send nothing")
    deploy.set_defaults(run=_deploy)


def _deploy(arguments: argparse.Namespace) -> None:
    from sae_audio.deploy import ROOT, check_name, check_settings, deploy_space, space_files

    folder = arguments.folder or ROOT
    if arguments.dry_run:
        check_name(arguments.space)
        files = space_files(folder)
        check_settings(files)
        size = sum(path.stat().st_size for path in files.values())
        print("\n".join([*files, f"{len(files)} files, {size / 1e6:.1f} MB; nothing was sent"]))
        return
    options = {"bundle": arguments.bundle, "private": arguments.private, "hardware": arguments.hardware}
    done = deploy_space(arguments.space, folder=folder, **options)
    removed = f", {done.removed} of an earlier version removed" if done.removed else ""
    print(f"sent {done.url}, commit {done.commit}: {done.files} files{removed}")
    if done.bundle:
        print(f"it shows {done.bundle}")
    if done.closed:
        print(f"that bundle is not public: give the Space a secret HF_TOKEN that may read it, at {done.url}/settings")
    print(f"the Hub builds it now: hf spaces wait {arguments.space} && hf spaces logs {arguments.space}")
