"""Writing a file whole or not at all, and the rows of a run's log; what the system refuses becomes one ``OutputError``."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sae_audio.errors import OutputError


def write_bytes(path: str | os.PathLike, content: bytes | memoryview, *, alone: bool = False) -> None:
    """Write a file by way of a temporary one beside it, so that a crash or a full disk never leaves half of it.

    Parameters
    ----------
    path : path
        File to create or replace.
    content : bytes
        All of it.
    alone : bool
        Nobody else writes this file: the temporary one has a fixed name, so that what a killed run left is written over.

    Raises
    ------
    OutputError
        ``check_target`` refuses it, or the folder cannot be written to or is full; nothing is left beside the file then.
    """
    check_target(path)
    path = Path(path)
    # Without the name of the file where that is somebody else's choice: together they could be longer than names may be.
    temporary = path.with_name(f".{path.name if alone else uuid.uuid4().hex[:8]}.partial")
    try:
        with refusals_told(path):
            temporary.write_bytes(content)
            os.replace(temporary, path)
    finally:
        _discard(temporary)


def check_target(path: str | os.PathLike) -> None:
    """Raise ``OutputError`` unless a file can take this place: its folder is there, and nothing but a file would be replaced."""
    with refusals_told(path):
        target = Path(path)
        if not target.name:
            raise OutputError(f"'{path}' is not the name of a file; give one, such as out.json")
        if not target.absolute().parent.is_dir():
            raise OutputError(f"'{path}' cannot be written: its folder does not exist; make it, or choose another")
        with suppress(FileNotFoundError):  # a name that cannot be says so here
            os.lstat(target)
        if target.exists() and not target.is_file():
            raise OutputError(f"'{path}' cannot be written: it is a folder, a device or a pipe; choose another name")


def make_folder(folder: str | os.PathLike) -> None:
    """Make a folder and those above it where they are missing; ``OutputError`` where the system refuses."""
    with refusals_told(folder):
        Path(folder).mkdir(parents=True, exist_ok=True)


def append_row(path: str | os.PathLike, row: dict) -> None:
    """Add a row to a log of JSON lines; ``OutputError`` where the system refuses."""
    with refusals_told(path), open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(row, sort_keys=True) + "\n")


def write_rows(path: str | os.PathLike, rows: list[dict]) -> None:
    """Write a log anew with these rows, whole or not at all."""
    write_bytes(path, "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows).encode(), alone=True)


def read_rows(path: Path, step: int) -> list[dict]:
    """Return a log's rows of at most ``step``: a killed run may have logged more than it saved, and half a last row."""
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
    return [row for row in map(json.loads, lines) if row["step"] <= step]


@contextmanager
def refusals_told(path: str | os.PathLike) -> Iterator[None]:
    """Turn what the system refuses while ``path`` is written into an ``OutputError``."""
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"'{path}' cannot be written ({reason}); choose a writable folder with enough space") from None


def _discard(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:  # its folder is missing, or is a file: there is nothing to remove
        return
