"""What all commands of the command line write alike; it needs no torch, so that it is there at once."""

from __future__ import annotations

import argparse
import math
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

from sae_audio.errors import OutputError, ParameterError
from sae_audio.files import check_target, refusals_told, write_bytes
from sae_audio.sealed import to_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURES = (".png", ".pdf", ".svg")
ENDINGS = {"output": (".wav",), "json": (".json",), "plot": FIGURES, "probes": FIGURES}
"""Options that name a file to write, and the endings that say what is written."""
READ = ("file", "audio", "style", "null_style", "lyrics")
"""Options that may name files which a command reads."""


def check_outputs(arguments: argparse.Namespace) -> None:
    """Refuse what cannot be written before the work, not after it.

    Raises
    ------
    OutputError
        A target's folder is missing or read-only, it is no file, or its ending says something else than what is written.
    ParameterError
        A target is what the command reads, or another of its targets.
    """
    taken = [(f"'{path}', which is read", path) for path in _read_by(arguments)]
    for name, endings in ENDINGS.items():
        target = getattr(arguments, name, None)
        if target is None or (name == "json" and target == "-"):
            continue
        option = "-o" if name == "output" else f"--{name}"
        check_target(target)
        if Path(target).suffix.lower() not in endings:
            raise OutputError(f"{option} '{target}' must end in {' or '.join(endings)}; nothing else is written there")
        for what, other in taken:
            if _same(other, target):
                raise ParameterError(f"{option} '{target}' is also {what}; give it a name of its own")
        with refusals_told(target), TemporaryFile(dir=Path(target).absolute().parent):
            taken.append((f"the target of {option}", target))


def _read_by(arguments: argparse.Namespace) -> list[str]:
    named = [getattr(arguments, name, None) or [] for name in READ]
    return [path for value in named for path in ([value] if isinstance(value, str) else value)]


def _same(one: str | os.PathLike, other: str | os.PathLike) -> bool:
    with suppress(OSError, ValueError):  # one of them is not there yet, or is no path at all
        return os.path.samefile(one, other)
    return os.path.abspath(one) == os.path.abspath(other)


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


def write_figure(target: str | os.PathLike, figure: Figure) -> None:
    """Write a figure in the format that the target's ending names, one of ``FIGURES``."""
    from sae_audio.plots import drawn

    write_bytes(target, drawn(figure, Path(target).suffix.lower()[1:]))


def lowered_lines(gain: float) -> list[str]:
    """Return the line that says by how much a sound was lowered to stay within full scale; none where it was not."""
    over = -20 * math.log10(gain)
    return [f"it went {over:.1f} dB over full scale, so all of it was lowered by that much"] if gain < 1 else []


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
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"'{out}' cannot be made ({reason}); choose another folder") from None
