"""What all commands of the command line write alike."""

from __future__ import annotations

from sae_audio.bundle_format import plain
from sae_audio.files import write_bytes
from sae_audio.sealed import to_json


def write_json(target: str | None, values: dict) -> None:
    """Write figures as JSON to a file, or to standard output for ``-``; not at all for None."""
    if target is None:
        return
    text = to_json(plain(values)).decode()
    if target == "-":
        print(text, end="")
        return
    write_bytes(target, text.encode())
