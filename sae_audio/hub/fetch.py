"""Fetch a bundle into the Hub's cache: one commit for all files, only the files of the bundle, each checked against its manifest.

    name of a version ─► commit ─► manifest.json ─► what it lists ─► sha256 of all ─► the cache's name for the version moves

The client checks sizes only (a byte flipped on the way goes through, over HTTP and xet alike), so what is damaged is fetched a
second time and then refused. The name moves last: whoever is offline finds the newest version that arrived whole.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, snapshot_download

from sae_audio.errors import BundleError, HubError, OutputError
from sae_audio.files import write_bytes
from sae_audio.hub_client import CAUGHT, fault, retried, talking, unreachable
from sae_audio.sealed import CARD, MANIFEST, damaged, read_manifest

COMMIT = re.compile(r"[0-9a-f]{40}")


def pull(
    repo_id: str,
    revision: str | None = None,
    *,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike | None = None,
    local_files_only: bool = False,
) -> Path:
    """Return the folder of a bundle on the Hub, checked against its manifest.

    Parameters
    ----------
    repo_id : str
        ``user/name``.
    revision : str, optional
        Branch, tag or commit; by default the newest of ``main``. A full commit that is in the cache needs no network.
    token : str or bool, optional
        Access token; by default the one that is stored or in HF_TOKEN. False sends none: for names that strangers typed.
    cache_dir : path, optional
        Cache other than the Hub's own.
    local_files_only : bool
        Take what is in the cache and ask nobody.

    Returns
    -------
    Path
        ``…/snapshots/<commit>`` in the cache. Where the Hub could not be reached it is the version in the cache, with a warning.

    Raises
    ------
    HubError
        No such repository or revision, not allowed, out of reach with nothing in the cache, or no space for it.
    BundleError
        The repository is no bundle, of a newer format, or still damaged when fetched again.
    """
    fetch = partial(_fetch, repo_id, revision, token=token, cache_dir=cache_dir)
    with talking(repo_id, revision):
        if local_files_only:
            return _in_cache(repo_id, fetch)
        try:
            return fetch()
        except CAUGHT as error:
            if not unreachable(error):
                raise
            with suppress(*CAUGHT, BundleError):
                folder = fetch(local=True)
                warnings.warn(f"{fault(error)}; '{repo_id}' is the copy in the cache, commit {folder.name[:12]}", stacklevel=3)
                return folder
        return retried(fetch)


def _in_cache(repo_id: str, fetch: Callable[..., Path]) -> Path:
    try:
        return fetch(local=True)
    except FileNotFoundError as error:
        raise HubError(f"'{repo_id}' is not in the cache, or not all of it; load it once with a network") from error


def _fetch(
    repo_id: str,
    revision: str | None,
    *,
    token: str | bool | None,
    cache_dir: str | os.PathLike | None,
    local: bool = False,
) -> Path:
    revision, named = revision or constants.DEFAULT_REVISION, None
    if not local and not COMMIT.fullmatch(revision):
        answer = HfApi(token=token).repo_info(repo_id, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        revision, named = str(answer.sha), revision
    get = partial(_get, repo_id, revision, token=token, cache_dir=cache_dir, local_files_only=local)
    folder = get([MANIFEST])
    if damage := _arrive(folder, get):
        if local:
            raise BundleError(
                f"the copy of '{repo_id}' in the cache is damaged ({', '.join(damage)}); load it with a network, "
                f"or run `hf cache rm model/{repo_id}` and load it again"
            )
        get([MANIFEST, *damage], force_download=True)
        if damage := _arrive(folder, get):
            raise BundleError(
                f"'{repo_id}' at commit {folder.name[:12]} is not what its manifest says ({', '.join(damage)}), fetched twice; "
                "ask its author to push it again, or give another revision"
            )
    if named is not None:
        _name(folder, named)
    return folder


def _get(repo_id: str, revision: str, names: Iterable[str], **options: Any) -> Path:
    return Path(snapshot_download(repo_id, revision=revision, allow_patterns=list(names), **options))


def _arrive(folder: Path, get: Callable[..., Path]) -> list[str]:
    """Get what the manifest lists; returns the files that are not as it says."""
    where = f"'{folder.parents[1].name.removeprefix('models--').replace('--', '/')}' at commit {folder.name[:12]}"
    if not (folder / MANIFEST).is_file():
        raise BundleError(f"{where} is not a sae_audio bundle: it has no {MANIFEST}; give the id of one")
    try:
        sums = read_manifest((folder / MANIFEST).read_bytes(), where)
    except BundleError:
        get([MANIFEST], force_download=True)
        sums = read_manifest((folder / MANIFEST).read_bytes(), where)
    get(sums)
    if missing := [name for name in sums if not (folder / name).is_file()]:
        return missing
    return [name for name in damaged({name: (folder / name).read_bytes() for name in sums}, sums) if name != CARD]


def _name(folder: Path, revision: str) -> None:
    """Let the cache's name for a version point to this commit, as the client itself would have done at the start."""
    ref = folder.parents[1] / "refs" / revision
    with suppress(OutputError, OSError):  # a cache that cannot be written to serves all the same
        if not ref.is_file() or ref.read_text() != folder.name:
            ref.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(ref, folder.name.encode())
