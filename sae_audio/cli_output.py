"""What all commands of the command line write alike; it needs no torch, so that it is there at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sae_audio.files import write_bytes
from sae_audio.sealed import to_json


def table(header: Sequence[object], rows: Iterable[Sequence[object]]) -> list[str]:
    """Return lines of aligned columns; numbers are right-aligned."""
    cells = [[str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    right = [all(_is_number(row[i]) for row in cells[1:]) for i in range(len(header))]
    return [
        "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)).rstrip() for row in cells
    ]


def _is_number(text: str) -> bool:
    return text[:1].isdigit() or text[:1] in "+-."


def write_json(target: str | None, values: dict) -> None:
    """Write figures as JSON to a file, or to standard output for ``-``; not at all for None."""
    if target is None:
        return
    from sae_audio.bundle_format import plain  # late, since it brings torch, which half of the commands do without

    text = to_json(plain(values)).decode()
    if target == "-":
        print(text, end="")
        return
    write_bytes(target, text.encode())
