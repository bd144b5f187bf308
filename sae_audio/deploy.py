"""Send the app to a Hugging Face Space: what it runs on and nothing else, as one commit.

    app.py ui/ sae_audio/ checkpoints/etude* requirements.txt README.md LICENSE ──check──► Space (made if missing) ──► one commit

README.md carries the Space's settings in its front matter. They are checked here and by the Hub before anything is made.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sae_audio.errors import HubError, ParameterError

if TYPE_CHECKING:
    from huggingface_hub import HfApi, RepoCard

ROOT = Path(__file__).resolve().parents[1]
"""The clone that this package is in."""
SHIPPED = ("checkpoints/etude", "checkpoints/etude-codec", "checkpoints/etude-flow")
"""The models that come with the repository; a bundle of one's own beside them may be private, and goes by ``--bundle``."""
SENT = ("README.md", "LICENSE", "app.py", "packages.txt", "requirements.txt", *SHIPPED, "sae_audio", "ui")
"""Files and folders that a Space needs; what else a clone holds (tests, runs, experiments) stays where it is."""
NEEDED = ("README.md", "app.py", "requirements.txt", "sae_audio", "ui")
"""Of these, what there must be."""
LEFT = re.compile(r"(^|/)(\.|__pycache__/)|\.work/|\.(pyc|partial)$")
"""Paths that are left out: hidden files, caches, what a training run keeps beside its bundle."""
VARIABLES = ("BUNDLE", "BUNDLE_REVISION")
"""Of a Space: which bundle the app shows, and at which commit."""
FREE = (
    "a free account cannot host an ordinary Gradio Space (PRO can); where its e-mail is verified and it is older than 30 days it "
    "may host two on ZeroGPU: add --hardware zero-a10g"
)


class Deployed(NamedTuple):
    """What a deployment did."""

    url: str
    """Page of the Space."""
    commit: str
    """The version that is now built, in full."""
    files: int
    """Files that the app consists of."""
    removed: int
    """Files of an earlier version that were removed."""
    bundle: str | None
    """The bundle that it shows, ``user/name@commit``; None for the one that comes with it."""
    closed: bool
    """Whether that bundle is private or gated, so that the Space needs a token to read it."""
    unset: tuple[str, ...] | None
    """Variables of an earlier bundle that were removed; None where the token may not look at the Space's variables."""


class Shown(NamedTuple):
    """A bundle for a Space to show."""

    repo_id: str
    """``user/name``."""
    commit: str
    """Its newest version, in full."""
    closed: bool
    """Whether it is private or gated."""


def space_files(folder: str | os.PathLike = ROOT) -> dict[str, Path]:
    """Return the files of a clone that its Space needs, by their path in the Space.

    Parameters
    ----------
    folder : path
        A clone of this repository.

    Raises
    ------
    ParameterError
        Something that a Space cannot do without is missing.
    """
    folder = Path(folder)
    if missing := [name for name in NEEDED if not (folder / name).exists()]:
        raise ParameterError(f"{folder} has no {', '.join(missing)}; run from a clone of the repository, or give --folder")
    roots = [folder / name for name in SENT]
    paths = [path for root in roots for path in ([root] if root.is_file() else sorted(root.rglob("*"))) if path.is_file()]
    named = {path.relative_to(folder).as_posix(): path for path in paths}
    return {name: path for name, path in named.items() if not LEFT.search(name)}


def check_name(repo_id: str) -> None:
    """Raise ``ParameterError`` unless a name says whose Space it is: without, the Hub would make it and then not know it.

    Parameters
    ----------
    repo_id : str
        ``user/space``.
    """
    if repo_id.count("/") != 1:
        raise ParameterError(f"'{repo_id}' is not the name of a Space; give user/space")


def checked_card(files: Mapping[str, Path]) -> RepoCard:
    """Return README.md as a card if its front matter makes a Space of these files.

    Parameters
    ----------
    files : mapping
        From ``space_files``.

    Raises
    ------
    ParameterError
        It is no Gradio Space, or starts a file that is not sent, or its Gradio is not the one of requirements.txt.
    """
    from huggingface_hub import RepoCard

    text = files["README.md"].read_text(encoding="utf-8")
    if not text.startswith("---\n"):
        raise ParameterError("README.md has no front matter; a Space is told by it what to run")
    card = RepoCard(text)
    sdk, start, version = card.data.get("sdk"), card.data.get("app_file"), card.data.get("sdk_version")
    if sdk != "gradio" or start not in files:
        raise ParameterError(f"README.md says sdk: {sdk}, app_file: {start}; it must be gradio and a file that is sent")
    pinned = re.search(r"^gradio\s*==\s*(\S+)", files["requirements.txt"].read_text(encoding="utf-8"), re.MULTILINE)
    if pinned and pinned[1] != str(version):
        raise ParameterError(f"README.md says sdk_version: {version}, requirements.txt gradio=={pinned[1]}; make them agree")
    return card


def deploy_space(
    repo_id: str,
    *,
    folder: str | os.PathLike = ROOT,
    bundle: str | None = None,
    private: bool = False,
    hardware: str | None = None,
    token: str | bool | None = None,
) -> Deployed:
    """Send the app of a clone to a Space as one commit; doing it again sends what has changed.

    Parameters
    ----------
    repo_id : str
        ``user/space``; made if it does not exist. What it holds beside the app stays.
    folder : path
        The clone.
    bundle : str, optional
        Hub id of the bundle to show, pinned to its newest commit in the Space's variables BUNDLE and BUNDLE_REVISION; by default
        the one in ``checkpoints/``, and variables that name another are removed.
    private : bool
        Make it private. A Space that exists and is public is refused, not changed.
    hardware : str, optional
        Hardware to make it on, such as ``zero-a10g`` (ZeroGPU); by default the Hub's free ``cpu-basic``.
    token : str or bool, optional
        Access token; by default the one that is stored or in HF_TOKEN.

    Returns
    -------
    Deployed
        Page and commit. The Hub builds it from there, which takes minutes.

    Raises
    ------
    ParameterError
        The name is not ``user/space``, the folder is no clone, or its README.md describes no such Space. Nothing was sent.
    HubError
        The Hub refuses the settings, or the account (402: see ``FREE``), or could not be reached. The Space shows the version
        before or this one.
    """
    from huggingface_hub import HfApi, constants

    from sae_audio.hub_client import retried, talking

    check_name(repo_id)
    files, api = space_files(folder), HfApi(token=token)
    card = checked_card(files)
    with talking(repo_id, repo_type="space"):
        _validate(card)
        shown = find_bundle(bundle, token=token) if bundle else None
        retried(lambda: _make(api, repo_id, private, hardware))
        contents: dict[str, Path | bytes] = dict(files)
        if shown:
            card.data["models"] = sorted({*(card.data.get("models") or []), shown.repo_id})
            contents["README.md"] = str(card).encode()
        commit, removed = retried(lambda: _send(api, repo_id, contents))
        unset = _tell(api, repo_id, shown)
    at = f"{shown.repo_id}@{shown.commit}" if shown else None
    page = f"{constants.ENDPOINT}/spaces/{repo_id}"
    return Deployed(page, commit, len(contents), removed, at, shown is not None and shown.closed, unset)


def find_bundle(repo_id: str, *, token: str | bool | None = None) -> Shown:
    """Return the newest version of a bundle on the Hub.

    Parameters
    ----------
    repo_id : str
        ``user/name``.
    token : str or bool, optional
        Access token; by default the one that is stored or in HF_TOKEN.

    Raises
    ------
    HubError
        It does not exist, is no bundle, or may not be read; or the Hub is out of reach.
    """
    from huggingface_hub import HfApi

    from sae_audio.hub_client import retried, talking
    from sae_audio.sealed import MANIFEST

    with talking(repo_id):
        info = retried(lambda: HfApi(token=token).model_info(repo_id))
    if MANIFEST not in {sibling.rfilename for sibling in info.siblings or []}:
        raise HubError(f"'{repo_id}' is no sae_audio bundle: it has no {MANIFEST}; `sae-audio search` lists those that are")
    return Shown(repo_id, str(info.sha), bool(info.private or info.gated))


def _validate(card: RepoCard) -> None:
    """Let the Hub look at the settings, which it would refuse only after the Space was made."""
    try:
        card.validate(repo_type="space")
    except ValueError as error:
        try:
            said = "; ".join(problem["message"] for problem in json.loads(str(error))["errors"])
        except (ValueError, LookupError, TypeError):  # a page of some proxy
            raise error from None
        raise HubError(f"the Hub refuses the front matter of README.md: {said}; mend it there") from None


def _make(api: HfApi, repo_id: str, private: bool, hardware: str | None) -> None:
    """Make the Space if it does not exist."""
    from huggingface_hub.errors import HfHubHTTPError

    from sae_audio.hub_client import status_of

    try:
        hosted: Any = hardware  # the client's type lists what the Hub offered when it was released
        api.create_repo(
            repo_id,
            repo_type="space",
            private=private or None,
            space_sdk="gradio",
            space_hardware=hosted,
            exist_ok=True,
        )
    except HfHubHTTPError as error:
        if status_of(error) != 402:
            raise
        raise HubError(f"the Hub asks for payment (402) to make the Space '{repo_id}': {FREE}") from error
    if private and not api.repo_info(repo_id, repo_type="space").private:
        raise HubError(f"Space '{repo_id}' exists and is public; make it private in its settings, or deploy without --private")


def _tell(api: HfApi, repo_id: str, shown: Shown | None) -> tuple[str, ...] | None:
    """Set or remove the variables by which the app knows its bundle; returns those removed, None if they may not be looked at."""
    from huggingface_hub.errors import HfHubHTTPError

    from sae_audio.hub_client import retried, status_of

    wanted = dict(zip(VARIABLES, (shown.repo_id, shown.commit), strict=True)) if shown else {}

    def told() -> dict[str, str | None]:
        return {key: variable.value for key, variable in api.get_space_variables(repo_id).items() if key in VARIABLES}

    def tell() -> None:
        known = told()
        for key in known.keys() - wanted.keys():
            api.delete_space_variable(repo_id, key)
        for key, value in wanted.items():
            if known.get(key) != value:  # each change restarts the Space
                api.add_space_variable(repo_id, key, value)

    try:
        before = retried(told)
    except HfHubHTTPError as error:
        if shown or status_of(error) not in (401, 403):  # a token that may send files need not be one that sees the settings
            raise
        return None
    retried(tell)
    return tuple(sorted(before.keys() - wanted.keys()))


def _send(api: HfApi, repo_id: str, contents: Mapping[str, Path | bytes]) -> tuple[str, int]:
    """Commit what differs on top of the newest version; the client leaves out files that are there already."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    head = str(api.repo_info(repo_id, repo_type="space").sha)
    gone = [name for name in _listed(api, repo_id, head) if name.split("/")[0] in SENT and name not in contents]
    operations: list[Any] = [CommitOperationAdd(name, content) for name, content in contents.items()]
    operations += [CommitOperationDelete(name, is_folder=False) for name in gone]
    message = "sae_audio: the app"
    done = api.create_commit(repo_id, operations, commit_message=message, repo_type="space", parent_commit=head)
    if missing := sorted(contents.keys() - _listed(api, repo_id, done.oid)):
        raise HubError(
            f"Space '{repo_id}' lacks {missing[0]} after the commit: it has a .gitignore; delete it there, deploy again"
        )
    return done.oid, len(gone)


def _listed(api: HfApi, repo_id: str, commit: str) -> set[str]:
    from huggingface_hub.hf_api import RepoFile

    tree = api.list_repo_tree(repo_id, repo_type="space", revision=commit, recursive=True)
    return {entry.path for entry in tree if isinstance(entry, RepoFile)}
