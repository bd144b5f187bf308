"""What is shared by all visitors (loaded bundles, read only) and what belongs to one (a sound in a folder of their own)."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import shutil
import threading
import uuid
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import gradio as gr
from gradio.utils import get_upload_folder

from sae_audio.audio import Sound, read
from sae_audio.bundle import Bundle, is_hub_id
from sae_audio.bundle_space import space_of
from sae_audio.errors import AudioError
from sae_audio.latent_spaces import CHECKPOINTS, LatentSpace
from ui import trust
from ui.limits import BUNDLES_LOADED, MAX_SECONDS


class BundleSource(NamedTuple):
    """Where a bundle comes from; what the page's ``bundle`` state holds."""

    where: str
    """Folder, or Hub id ``user/name``."""
    revision: str | None = None
    """Commit or tag of a Hub repository."""

    @property
    def on_hub(self) -> bool:
        """Whether it is a repository of the Hub."""
        return is_hub_id(self.where)

    @property
    def name(self) -> str:
        """Short name for a heading or a link."""
        return self.where if self.on_hub else Path(self.where).name


class Loaded(NamedTuple):
    """A bundle and the latent space that it is for. Shared by all visitors: nobody changes it."""

    bundle: Bundle
    space: LatentSpace


class CurrentSound(NamedTuple):
    """A visitor's current sound; what the page's ``heard`` state holds."""

    name: str
    """As the visitor knows it: a file name, "Recording", or the title of an example."""
    path: str
    """A file in the visitor's folder, or a shipped example."""

    def sound(self) -> Sound:
        """Read the sound; it was checked when it was brought. ``AudioError`` if it was deleted since."""
        if not Path(self.path).is_file():
            raise AudioError(f"'{self.name}' is no longer here, since the page was closed or asleep; bring it again")
        return read(self.path, max_minutes=MAX_SECONDS / 60)


SHIPPED = BundleSource(os.environ.get("BUNDLE") or str(CHECKPOINTS / "etude"), os.environ.get("BUNDLE_REVISION") or None)
"""Bundle that the page opens with; a variable of a Space that is empty says nothing."""


def ships() -> dict[str, BundleSource]:
    """Return the bundles that come with the page, by name; the one that it opens with first."""
    others = [BundleSource(str(path.parent)) for path in sorted(CHECKPOINTS.glob("*/cfg.json"))]
    return {SHIPPED.name: SHIPPED} | {source.name: source for source in others if source.name != SHIPPED.name}


_SECRET = secrets.token_bytes(32)
_bundles: OrderedDict[BundleSource, Loaded] = OrderedDict()
_being_loaded: dict[BundleSource, threading.Lock] = {}
_table = threading.Lock()


def loaded(source: BundleSource) -> Loaded:
    """Return a bundle with its latent space, loaded once for all visitors; the least recently used makes room.

    While one is being fetched, visitors of others do not wait. A bundle that is not the page's own is fetched without the
    page's token.

    Raises
    ------
    SaeAudioError
        It cannot be loaded.
    """
    if (found := _at_hand(source)) is not None:
        return found
    with _table:
        mine = _being_loaded.setdefault(source, threading.Lock())
    try:
        with mine:
            return _at_hand(source) or _keep(source, _fetched(source))
    finally:
        with _table:
            _being_loaded.pop(source, None)


def _fetched(source: BundleSource) -> Loaded:
    own = source == SHIPPED
    bundle = Bundle.from_pretrained(source.where, source.revision, token=None if own else False)
    if not own and source.on_hub:
        trust.check_model(bundle.spec)
    return Loaded(bundle, space_of(bundle))


def _keep(source: BundleSource, found: Loaded) -> Loaded:
    with _table:
        _bundles[source] = found
        while len(_bundles) > BUNDLES_LOADED:
            del _bundles[next(old for old in _bundles if old not in (SHIPPED, source))]
    return found


def _at_hand(source: BundleSource) -> Loaded | None:
    with _table:
        if source in _bundles:
            _bundles.move_to_end(source)
        return _bundles.get(source)


def folder(request: gr.Request) -> Path:
    """Return the visitor's own folder, which is deleted when they leave. Files in it may be given to a ``gr.DownloadButton``.

    It lies inside Gradio's own cache, so that a file that is offered for download is not copied a second time.
    """
    own = _folder(request.session_hash)
    own.mkdir(parents=True, exist_ok=True)
    return own


def bring(upload: str, name: str, request: gr.Request) -> CurrentSound:
    """Copy a sound file to the visitor's folder, checked. The one before stays until ``settle``.

    Raises
    ------
    AudioError
        It cannot be read, or is outside the limits.
    """
    read(upload, max_minutes=MAX_SECONDS / 60)
    path = folder(request) / f"sound-{uuid.uuid4().hex[:8]}{Path(upload).suffix.lower()}"
    shutil.copyfile(upload, path)
    return CurrentSound(name, str(path))


def settle(heard: CurrentSound, before: CurrentSound | None, request: gr.Request) -> None:
    """Make a sound the visitor's: of the others only the one before is kept, for what may still be at work on it."""
    stay = {heard.path, before.path if before else None}
    for path in folder(request).glob("sound-*"):
        if str(path) not in stay:
            path.unlink(missing_ok=True)


def leave(request: gr.Request) -> None:
    """Delete the visitor's folder; runs when they close the page."""
    shutil.rmtree(_folder(request.session_hash), ignore_errors=True)


def _folder(session_hash: str | None) -> Path:
    """The browser chooses its session's name, and Gradio gives a file to anyone who knows its path: so it is a keyed digest."""
    digest = hmac.new(_SECRET, str(session_hash).encode(), hashlib.sha256).hexdigest()
    return Path(get_upload_folder()) / "visitors" / digest[:32]
