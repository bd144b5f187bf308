"""What all commands of the command line write alike; it needs no torch, so that it is there at once."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sae_audio.errors import OutputError, ParameterError
from sae_audio.files import write_bytes
from sae_audio.sealed import to_json

if TYPE_CHECKING:
    pass


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


def write_json(target: str | None, values: dict | list) -> None:
    """Write figures as JSON to a file, or to standard output for ``-``; not at all for None."""
    if target is None:
        return
    from sae_audio.bundle_format import plain  # late, since it brings torch, which half of the commands do without

    text = to_json(plain(values)).decode()
    if target == "-":
        print(text, end="")
        return
    write_bytes(target, text.encode())


def free_folder(out: str | None) -> Path:
    """Return the folder to write, which is not there yet or empty."""
    if out is None:
        raise ParameterError("trace needs --out, a new or empty folder for what it writes")
    folder = Path(out)
    with _writable(folder):
        taken = folder.exists() and any(folder.iterdir())
    if taken:
        raise OutputError(f"'{out}' holds files already; choose a new or empty folder")
    return folder


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """Lend a folder beside ``out`` that becomes it at the end, so that an interrupted trace leaves nothing behind."""
    partial = out.absolute().with_name(f".{out.absolute().name}.partial-{uuid.uuid4().hex[:8]}")
    try:
        with _writable(out):
            partial.mkdir(parents=True)
        yield partial
        with _writable(out):
            if out.exists():  # empty; not every system renames over a folder
                out.rmdir()
            partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _writable(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"'{out}' cannot be made ({error.strerror}); choose another folder") from None
