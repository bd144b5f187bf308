"""What a repository on the Hub is, before anything of it is fetched."""

from __future__ import annotations

from typing import Any, NamedTuple
from urllib.parse import quote

from huggingface_hub import constants
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status, validate_repo_id

from sae_audio.hub_client import retried, talking


class Looked(NamedTuple):
    """A repository at one commit."""

    repo: str
    """``user/name``."""
    revision: str
    """Commit, in full: what is fetched at it cannot change."""
    tags: frozenset[str]
    """Tags that the Hub shows, those that it makes of the card among them."""
    files: int
    """Number of files."""
    size: int
    """Bytes of all files together."""


def look(repo_id: str, revision: str | None = None, *, token: str | bool | None = None) -> Looked:
    """Ask the Hub what a model repository is: one request, no download.

    Parameters
    ----------
    repo_id : str
        ``user/name``.
    revision : str, optional
        Branch, tag or commit; by default the newest of ``main``.
    token : str or bool, optional
        Access token; by default the one that is stored or in HF_TOKEN. False sends none: for names that strangers typed.

    Returns
    -------
    Looked

    Raises
    ------
    HubError
        No such repository or revision, not allowed, or out of reach.
    """
    with talking(repo_id, revision):
        validate_repo_id(repo_id)
        path = f"{constants.ENDPOINT}/api/models/{repo_id}/revision/{quote(revision or constants.DEFAULT_REVISION, safe='')}"
        info = retried(lambda: _asked(path, token))
        return _looked(repo_id, info)


def _asked(path: str, token: str | bool | None) -> dict:
    answer = get_session().get(
        path, params={"blobs": True}, headers=build_hf_headers(token=token), timeout=constants.HF_HUB_ETAG_TIMEOUT
    )
    hf_raise_for_status(answer)
    return answer.json()


def _looked(repo_id: str, info: dict[str, Any]) -> Looked:
    # Not HfApi.model_info: it passes a stranger's card on as arguments, and a key such as `self` would end it.
    files = info["siblings"]
    tags = frozenset(tag for tag in info.get("tags") or () if isinstance(tag, str))
    return Looked(repo_id, info["sha"], tags, len(files), sum(int(file.get("size") or 0) for file in files))
