"""Publish a bundle's folder as one commit, without ever leaving a second or a partial version, whatever breaks on the way.

    check  token, repository (made if missing), branch, and that nothing of somebody else's would be overwritten
    commit everything that changed, and the removal of what the last bundle had and this one has not, in one commit on top of
           the version that was looked at first. Before every further try the newest version is looked at: is it this bundle
           already (an answer was lost), or somebody else's (then they win)?
    compare the sha256 of what the Hub now holds with the manifest
    tag    ``format-1``: always the newest bundle of ``main`` in a format version, for programs that read no newer one

Files are compared by content, so pushing again is how an interrupted push is resumed; pushing what is there already does nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id

from sae_audio.errors import HubError, SaeAudioError
from sae_audio.hub.fetch import COMMIT
from sae_audio.hub_client import retried, status_of, talking
from sae_audio.sealed import CARD, FORMAT_VERSION, MANIFEST, PICKLES, manifest_of, read_manifest, read_sealed, tag_of, to_json


class Published(NamedTuple):
    """What a push did."""

    url: str
    """Page of the repository."""
    commit: str
    """The version that holds the bundle, in full."""
    changed: int
    """Files sent or replaced; 0 if the Hub had all of it already."""
    removed: int
    """Files of an earlier bundle that this one does not have."""
    private: bool
    """Whether only those with access see it."""
    tag: str | None
    """The tag that now points at it; None on a branch."""


class Remote(NamedTuple):
    """A version of a repository."""

    commit: str
    files: dict[str, RepoFile]
    """What it holds, by name."""
    bundle: frozenset[str]
    """What of it belongs to the bundle that it holds, the manifest included; empty if it holds none."""


class Destination(NamedTuple):
    """Where to publish."""

    repo_id: str
    revision: str | None
    api: HfApi
    private: bool

    @property
    def address(self) -> dict:
        """Repository and branch as the client's methods take them."""
        return {"repo_id": self.repo_id, "revision": self.revision}


def check_publish(repo_id: str, *, private: bool = False, revision: str | None = None, token: str | bool | None = None) -> None:
    """Raise ``HubError`` unless a bundle could be published there now; takes a second and makes the repository if it is missing.

    Parameters
    ----------
    repo_id, private, revision, token
        As in ``push``.
    """
    check_address(repo_id, revision)
    with talking(repo_id, revision):
        _prepare(Destination(repo_id, revision, HfApi(token=token), private))


def check_address(repo_id: str, revision: str | None = None) -> None:
    """Raise ``HubError`` unless a bundle could have this name and go to this branch; asks nobody.

    Parameters
    ----------
    repo_id, revision
        As in ``push``.
    """
    if repo_id.count("/") != 1:
        raise HubError(f"'{repo_id}' is not the name of a repository to publish to; give user/name")
    if revision and COMMIT.fullmatch(revision):
        raise HubError(f"a bundle is published to a branch of '{repo_id}', not to the commit '{revision}'; give a branch")
    with talking(repo_id):
        validate_repo_id(repo_id)


def push(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    token: str | bool | None = None,
) -> Published:
    """Publish a bundle's folder on the Hub as one commit, and compare what the Hub then holds with it.

    What the repository holds beside the bundle (its ``.gitattributes``, a licence, samples) stays. The card's commands name the
    repository in place of the folder; nothing in the folder is touched.

    Parameters
    ----------
    folder : path
        A saved bundle.
    repo_id : str
        ``user/name``; made if it does not exist.
    private : bool
        Make it private. A repository that exists and is public is refused, not changed.
    revision : str, optional
        Branch to publish to, made if it does not exist; by default ``main``, which alone is tagged.
    token : str or bool, optional
        Access token; by default the one that is stored or in HF_TOKEN.

    Returns
    -------
    Published
        Page, commit and what changed.

    Raises
    ------
    BundleError
        The folder holds no whole bundle; nothing was sent.
    HubError
        What went wrong and the command that goes on from there. The folder is as it was, and the repository shows either the
        version before or this one.
    """
    check_address(repo_id, revision)
    folder = Path(folder)
    files = as_published(read_sealed(folder), repo_id, revision)
    target = Destination(repo_id, revision, HfApi(token=token), private)
    try:
        with talking(repo_id, revision):
            return _publish(target, files)
    except HubError as error:
        again = push_command(folder, repo_id, private=private, revision=revision)
        raise HubError(f"{error}. The bundle is safe in {folder}; to go on: {again}") from error.__cause__


def push_command(folder: str | os.PathLike, repo_id: str, *, private: bool = False, revision: str | None = None) -> str:
    """Return the command line that publishes a folder, as it can be typed on this machine."""
    program = "sae-audio" if shutil.which("sae-audio") else "python -m sae_audio"
    options = ["--private"] * private + (["--revision", revision] if revision else [])
    return f"{program} {shlex.join(['push', str(folder), repo_id, *options])}"


def as_published(files: Mapping[str, bytes], repo_id: str, revision: str | None) -> dict[str, bytes]:
    """Return the files of a bundle with a card that names the repository, no folder of this disk, and their manifest."""
    from sae_audio.card import addressed  # late, since it brings torch: fetching needs none

    card = addressed(files[CARD].decode(), repo_id, revision).encode()
    whole = {**files, **_without_folders(files), CARD: card}
    return {**whole, MANIFEST: manifest_of(whole)}


def _without_folders(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the files that say where on this disk the model's checkpoint lies, with its name alone."""
    config, cfg = (json.loads(files[name]) for name in ("config.json", "cfg.json"))
    specs = [config["latent_spec"], cfg.get("metadata", {}).get("latent_spec", {})]
    if not PurePath(config["latent_spec"]["repo"]).is_absolute():
        return {}
    for spec in filter(None, specs):
        spec["repo"] = PurePath(spec["repo"]).name
    return {"config.json": to_json(config), "cfg.json": to_json(cfg)}


def _publish(target: Destination, files: Mapping[str, bytes]) -> Published:
    before, private = _prepare(target)
    changed, removed = _changes(before, files)
    commit = _commit(target, files, before) if changed or removed else before.commit
    _compare(target, files, commit)
    tag = _tag(target, commit) if target.revision in (None, constants.DEFAULT_REVISION) else None
    page = f"{constants.ENDPOINT}/{target.repo_id}"
    return Published(page, commit, len(changed), len(removed), private, tag)


def _prepare(target: Destination) -> tuple[Remote, bool]:
    """Make repository and branch, check that they may be written to; returns the newest version and whether it is private."""
    repo_id, revision, api, private = target
    retried(lambda: api.create_repo(repo_id, private=private or None, exist_ok=True))
    info = retried(lambda: api.repo_info(repo_id))
    if private and not info.private:
        raise HubError(
            f"'{repo_id}' exists and is public; make it private in its settings on the Hub, or publish without --private"
        )
    if revision not in (None, constants.DEFAULT_REVISION):
        retried(lambda: api.create_branch(repo_id, branch=revision, exist_ok=True))
    # Sends nothing: it asks how the Hub would store a file, which it tells only those who may write.
    retried(lambda: api.preupload_lfs_files(**target.address, additions=[CommitOperationAdd(CARD, b"?")]))
    before = retried(lambda: _newest(target))
    _check_room(repo_id, before)
    return before, bool(info.private)


def _newest(target: Destination) -> Remote:
    commit = str(target.api.repo_info(**target.address).sha)
    listed = target.api.list_repo_tree(target.repo_id, recursive=True, revision=commit)
    files = {entry.path: entry for entry in listed if isinstance(entry, RepoFile)}
    return Remote(commit, files, _bundle_in(target, commit, files) if MANIFEST in files else frozenset())


def _bundle_in(target: Destination, commit: str, files: Mapping[str, RepoFile]) -> frozenset[str]:
    """Return the names that the repository's own manifest lists and that are there."""
    where = f"'{target.repo_id}' at commit {commit[:12]}"
    with tempfile.TemporaryDirectory() as folder:  # not the cache, which could hold a damaged copy
        path = hf_hub_download(target.repo_id, MANIFEST, revision=commit, local_dir=folder, token=target.api.token)
        content = Path(path).read_bytes()
    if not _same(files[MANIFEST], content):
        raise ConnectionError(f"{MANIFEST} was damaged on the way")
    try:
        return frozenset(files.keys() & {MANIFEST, *read_manifest(content, where)})
    except SaeAudioError as error:
        raise HubError(f"{error}; or publish to another repository") from error


def _check_room(repo_id: str, remote: Remote) -> None:
    """Refuse a repository of something else: a bundle's config.json and card would replace those of another model."""
    other = [name for name in remote.files if name.endswith((".json", ".safetensors", *PICKLES))]
    if other and not remote.bundle:
        raise HubError(f"'{repo_id}' holds {other[0]} of something that is no bundle; publish to a new repository")
    if ".gitignore" in remote.files:
        raise HubError(f"'{repo_id}' has a .gitignore, by which the Hub leaves files out; delete it there, then publish")


def _same(entry: RepoFile | None, content: bytes) -> bool:
    """Whether the Hub holds this content: it keeps the sha256 of large files, and of small ones git's sha1."""
    if entry is None or entry.size != len(content):
        return False
    if entry.lfs is not None:
        return entry.lfs.sha256 == hashlib.sha256(content).hexdigest()
    return entry.blob_id == hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _changes(remote: Remote, files: Mapping[str, bytes]) -> tuple[list[str], list[str]]:
    """Return the names of files to send, and of those of the last bundle to remove."""
    return [name for name in files if not _same(remote.files.get(name), files[name])], sorted(remote.bundle - files.keys())


def _commit(target: Destination, files: Mapping[str, bytes], before: Remote) -> str:
    """Commit on top of ``before`` and nothing else; returns the commit."""

    def attempt() -> str:
        now = _newest(target)
        changed, removed = _changes(now, files)
        if not changed and not removed:  # an earlier attempt arrived, its answer did not
            return now.commit
        if now.commit != before.commit:
            raise HubError(
                f"somebody else published to '{target.repo_id}' meanwhile, commit {now.commit[:12]}, and nothing of yours was "
                "added; look at theirs, and push again if yours is to follow it"
            )
        operations: list[Any] = [CommitOperationAdd(name, files[name]) for name in changed]
        operations += [CommitOperationDelete(name, is_folder=False) for name in removed]
        done = target.api.create_commit(
            **target.address,
            operations=operations,
            commit_message=f"sae_audio bundle, format {FORMAT_VERSION}",
            parent_commit=before.commit,
        )
        return done.oid

    try:
        return retried(attempt)
    except HfHubHTTPError as error:
        if status_of(error) != 412:
            raise
        return retried(attempt)  # the branch moved after it was looked at: by our own late commit, or by somebody else's


def _compare(target: Destination, files: Mapping[str, bytes], commit: str) -> None:
    """Raise unless the Hub holds every file of the manifest at the commit, with the same content."""
    entries = retried(lambda: target.api.get_paths_info(target.repo_id, list(files), revision=commit))
    found = {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}
    if wrong := [name for name in files if not _same(found.get(name), files[name])]:
        raise HubError(f"'{target.repo_id}' at commit {commit[:12]} holds another {_some(wrong)} than was sent")


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _tag(target: Destination, commit: str) -> str:
    """Let the tag of the format version point at the commit; a tag cannot be moved, so the old one is deleted first."""
    tag, api, repo_id = tag_of(FORMAT_VERSION), target.api, target.repo_id

    def tagged() -> str | None:
        try:
            return api.repo_info(repo_id, revision=tag).sha
        except RevisionNotFoundError:
            return None

    def point() -> None:
        old = tagged()
        if old == commit or api.repo_info(repo_id).sha != commit:  # a push that came later tags its own
            return
        if old is not None:
            with suppress(RevisionNotFoundError):
                api.delete_tag(repo_id, tag=tag)
        try:
            api.create_tag(repo_id, tag=tag, revision=commit)
        except HfHubHTTPError as error:
            if status_of(error) != 409 or tagged() is None:  # a push of the same moment has made it
                raise

    retried(point)
    return tag
