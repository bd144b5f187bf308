"""How the Hub is talked to: what is tried again after a fault, and what went wrong in one line with the next step."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

from huggingface_hub import constants, repo_info, snapshot_download
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import get_session
from huggingface_hub.utils.logging import get_logger

from sae_audio.errors import HubError, one_line

CAUGHT = (HTTPError, OSError, RuntimeError, ValueError, KeyError)
"""What the client lets out: HTTP and transport errors, files and offline mode, xet's transfers, malformed names and answers."""
TRIES = 5
"""How often a request is made before it is given up."""
PATIENCE = 120.0
"""Longest silence of a connection, in seconds; the client itself would wait for ever."""
LONGEST_WAIT = 300
"""Longest wait that the Hub may ask for, in seconds; above it the user is told to come back."""
DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOTDIR}
"""Numbers of file errors that mean the disk; others mean the network, whose errors are OSErrors too."""
NEXT = {
    400: "it finds the request malformed",
    401: "it does not accept the token, or was given none; run `hf auth login`, or set HF_TOKEN",
    402: "it asks for payment; see {hub}/settings/billing, or use another account",
    403: "the token may not do this; take one with access to '{namespace}' from {hub}/settings/tokens",
    404: "it does not know the address; check HF_ENDPOINT",
    409: "it is busy with something that excludes this; wait a minute and try again",
    412: "somebody else published at the same moment; look at what they did, then try again",
    429: "it has had too many requests; wait {wait} and try again",
}
"""What an HTTP status means here, and what to do next."""

CALLED = {"model": "'{}'", "dataset": "data set '{}'", "space": "Space '{}'"}
"""What a repository is called in a message, by the Hub's name for its type."""

T = TypeVar("T")


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status behind an error, which xet's transfers tell in their text only; None if there was no answer."""
    for cause in causes(error):
        if (response := getattr(cause, "response", None)) is not None:
            return response.status_code
        if spelt := re.search(r"HTTP status \w+ error \((\d{3})", str(cause)):
            return int(spelt[1])
    return None


def disk_error(error: BaseException) -> str | None:
    """Return what the disk said, such as "No space left on device", which xet spells as a number; None for other errors."""
    for cause in causes(error):
        spelt = re.search(r"\(os error (\d+)\)", str(cause))
        number = int(spelt[1]) if spelt else getattr(cause, "errno", None)
        if number in DISK:
            return os.strerror(number)
    return None


def offline(error: BaseException) -> bool:
    """Whether the client was told not to use the network."""
    return _among(error, OfflineModeIsEnabled)


def _among(error: BaseException, kind: type[BaseException]) -> bool:
    return any(isinstance(cause, kind) for cause in causes(error))


def transient(error: BaseException) -> bool:
    """Whether the same request could succeed a little later."""
    if (status := status_of(error)) is not None:
        return status in (408, 429) or status >= 500
    if disk_error(error) or offline(error):
        return False
    broken = (HTTPError, ConnectionError, TimeoutError, RuntimeError, json.JSONDecodeError)
    # An OSError of no number is the client's own "Consistency check failed": fewer bytes came than were announced.
    return any(isinstance(cause, broken) or type(cause) is OSError for cause in causes(error))


def unreachable(error: BaseException) -> bool:
    """Whether the Hub could not be asked, so that what is in the cache has to do."""
    return transient(error) or offline(error)


def retried(call: Callable[[], T]) -> T:
    """Return what ``call`` returns; after a fault that may pass, wait as long as the Hub asks, or 1, 2, 4, 8 s, and try again."""
    for tries in range(1, TRIES):
        try:
            return call()
        except CAUGHT as error:
            wait = asked_wait(error) or 2.0 ** (tries - 1)
            if not transient(error) or wait > LONGEST_WAIT:
                raise
            warnings.warn(f"{fault(error)}; trying again in {wait:g} s ({tries} of {TRIES - 1})", stacklevel=2)
            time.sleep(wait)
    return call()


def asked_wait(error: BaseException) -> float | None:
    """Return the seconds of an answer's ``Retry-After`` or ``ratelimit`` header, None if it has neither."""
    for cause in causes(error):
        headers = getattr(getattr(cause, "response", None), "headers", {})
        if (after := headers.get("retry-after", "")).strip().isdigit():
            return float(after)
        if left := re.search(r"\bt\s*=\s*(\d+)", headers.get("ratelimit", "")):
            return float(left[1])
    return None


def fault(error: BaseException) -> str:
    """Return what failed in a few words, with nothing of the client's text, which can hold signed addresses."""
    if offline(error):
        return "HF_HUB_OFFLINE is set"
    status = status_of(error)
    return f"the Hub answered {status}" if status else f"the connection to the Hub failed ({type(error).__name__})"


def explain(error: Exception, repo_id: str, revision: str | None = None, repo_type: str = "model") -> str:
    """Return one line that says what went wrong with a repository and what to do next."""
    page = f"{constants.ENDPOINT}/{constants.REPO_TYPES_URL_PREFIXES.get(repo_type, '')}{repo_id}"
    what = CALLED[repo_type].format(repo_id)
    if _among(error, HFValidationError):
        return f"'{repo_id}' cannot be the name of a Hub repository; give one of the form user/name"
    if _among(error, GatedRepoError):
        return f"{what} is gated: accept its terms at {page}, then run `hf auth login`"
    if _among(error, DisabledRepoError):
        return f"the Hub has disabled {what}; {page} says why"
    if _among(error, RepositoryNotFoundError):
        return f"the Hub has no {what} that this token may see; check the name, and for a private one run `hf auth login`"
    if _among(error, RevisionNotFoundError):
        short = re.fullmatch(r"[0-9a-f]{7,39}", revision or "")
        hint = "give a commit in full, 40 letters" if short else f"{page}/tree/main lists them"
        return f"{what} has no branch, tag or commit '{revision}'; {hint}"
    if offline(error):
        return f"the Hub was not asked about {what}, since HF_HUB_OFFLINE is set; unset it"
    if said := disk_error(error):
        return f"the Hub's cache on this machine cannot be used ({said}); free space, or set HF_HOME to a folder on another disk"
    return _answered(error, what, repo_id.split("/")[0])


def _answered(error: Exception, what: str, namespace: str) -> str:
    status, said = status_of(error), one_line(getattr(error, "server_message", None) or "")
    if isinstance(error, KeyError):
        return f"the Hub answered something unexpected about {what} (without {error}); try again, or upgrade huggingface-hub"
    invalid = isinstance(error, ValueError) and not isinstance(error, HTTPError | json.JSONDecodeError)  # a card's front matter
    if invalid or (status is None and not transient(error)):
        return f"{what}: {_safe(one_line(error))}"
    if status is None:
        return f"the Hub could not be reached for {what} ({type(error).__name__}); check the network and try again"
    wait = f"{asked_wait(error):g} s" if asked_wait(error) else "a few minutes"
    step = NEXT.get(status, f"it has trouble; see https://status.huggingface.co, wait {wait} and try again")
    step = step.format(namespace=namespace, wait=wait, hub=constants.ENDPOINT)
    return f"the Hub answered {status} for {what}: {step}" + (f" (it says: {_safe(said)})" if said else "")


def _safe(text: str) -> str:
    """Return text that somebody else wrote, at most a line of it, with whatever looks like a token blotted out."""
    return re.sub(r"\bhf_[\w.-]+", "hf_…", text)[:200]


@contextmanager
def talking(repo_id: str, revision: str | None = None, repo_type: str = "model") -> Iterator[None]:
    """Make the client impatient and its log short (it repeats signed addresses), and turn its errors into ``HubError``."""
    with _manners:
        try:
            yield
        except CAUGHT as error:
            raise HubError(explain(error, repo_id, revision, repo_type)) from error


def fetch(repo_id: str, files: Iterable[str], weights: Sequence[str], revision: str | None = None) -> Path:
    """Return the folder, in the Hub's cache, of some files of a model's repository.

    Parameters
    ----------
    repo_id : str
        ``user/name``.
    files : iterable of str
        Names, or patterns with ``*``, of what is wanted as far as it is there.
    weights : sequence of str
        Names of which the first that is there is wanted, at least one. Where none is, none is in the folder.
    revision : str, optional
        Branch, tag or commit; by default the newest of ``main``.

    Returns
    -------
    Path
        ``…/snapshots/<commit>``.

    Raises
    ------
    HubError
        No such repository or revision, not allowed, or out of reach while the cache does not hold all of it.
    """

    def held(name: str, local: bool = False) -> Path:
        wanted = [*files, name]
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=wanted, local_files_only=local))

    with talking(repo_id, revision):
        try:
            for name in weights:
                if ((folder := retried(partial(held, name))) / name).is_file():
                    return folder
            retried(partial(repo_info, repo_id, revision=revision))  # or it is the cache's share of a repository out of reach
            return folder
        except CAUGHT as error:
            if not unreachable(error):
                raise
            for name in weights:  # the client takes what it has by itself, but not after a connection that broke off
                with suppress(LocalEntryNotFoundError):
                    if ((folder := held(name, local=True)) / name).is_file():
                        return folder
            command = f"hf download {repo_id}" + (f" --revision {revision}" if revision else "")
            said = explain(error, repo_id, revision)
            raise HubError(f"{said}, or run `{command}` where there is a network: the cache does not hold all of it") from error


class _Waits(logging.Handler):
    """Of the client's log tells only that it waits before it asks again, as it does by itself for most requests that fetch."""

    def emit(self, record: logging.LogRecord) -> None:
        if waits := re.search(r"(?:Retrying in|Waiting) ([\d.]+)s", record.getMessage()):
            warnings.warn(f"the Hub is busy or out of reach; trying again in {float(waits[1]):g} s", stacklevel=2)


class _Manners:
    """Settings of the client that are the whole process's: set while any thread talks, put back when the last one is done."""

    def __init__(self) -> None:
        self.lock, self.threads, self.log = Lock(), 0, get_logger()
        self.before: dict[str, Any] = {}

    def __enter__(self) -> None:
        with self.lock:
            self.threads += 1
            if self.threads == 1:
                self.before = {name: getattr(self.log, name) for name in ("level", "handlers", "propagate")}
                self.timeout = get_session().timeout
                vars(self.log).update(handlers=[_Waits()], propagate=False)
                self.log.setLevel(logging.WARNING)
            get_session().timeout = PATIENCE

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.threads -= 1
            if not self.threads:
                vars(self.log).update(self.before)
                self.log.setLevel(self.before["level"])  # which also forgets the levels that its children remember
                get_session().timeout = self.timeout


_manners = _Manners()
