"""Writing a file whole or not at all."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from sae_audio.errors import OutputError


def write_bytes(path: str | os.PathLike, content: bytes | memoryview) -> None:
    """Write a file by way of a temporary one beside it, so that a crash or a full disk never leaves half of it.

    Parameters
    ----------
    path : path
        File to create or replace.
    content : bytes
        All of it.

    Raises
    ------
    OutputError
        The folder does not exist, cannot be written to, or is full; nothing is left behind.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        raise OutputError(
            f"'{path}' cannot be written ({error.strerror}); choose a writable folder with enough space"
        ) from None
    finally:
        _discard(temporary)


def _discard(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:  # its folder is missing, or is a file: there is nothing to remove
        return
