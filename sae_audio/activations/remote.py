"""Recordings that stay on the Hub until their turn comes: rows of parquet files, and sound files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sae_audio.activations.sources import Recording, StoredSource
from sae_audio.audio import decode
from sae_audio.errors import AudioError, HubError, one_line

BUFFER = 16 * 2**20
"""Bytes fetched at a time: a row group may be larger than memory."""
ROWS_AT_ONCE = 16
"""Rows decoded from parquet at a time."""

T = TypeVar("T")


@dataclass(frozen=True)
class RowSource(StoredSource):
    """One row of a parquet file on the Hub.

    It is named by its split and its number there, counted from 0 as the Hub's viewer does. Its version is the hash of the file
    and its number in it.
    """

    url: str
    """The file, ``hf://datasets/user/name@commit/path``."""
    group: int
    """Row group of the file."""
    row: int
    """Row of that row group."""
    cells: Cells
    """The reader that all rows share."""

    def load(self) -> Recording:
        """Fetch the cell and decode it; ``AudioError`` skips it, ``HubError`` ends the run."""
        cell = self.cells.get(self)
        content = cell.get("bytes") if isinstance(cell, dict) else cell
        if not content:
            raise AudioError(f"'{self.name}' holds no sound, only a path to it or nothing; the bytes must be in the row")
        return Recording(decode(content, self.name, max_minutes=self.max_minutes))


@dataclass(frozen=True)
class FileSource(StoredSource):
    """One sound file on the Hub, named by its path in the repository; its version is its hash."""

    url: str
    """The file, ``hf://datasets/user/name@commit/path``."""

    def load(self) -> Recording:
        """Fetch the file and decode it; ``AudioError`` skips it, ``HubError`` ends the run."""
        from huggingface_hub import HfFileSystem

        content = fetched(self.url, lambda: HfFileSystem().cat_file(self.url))
        return Recording(decode(content, self.name, max_minutes=self.max_minutes))


@dataclass
class Cells:
    """Cells of one column, read forwards: neighbouring rows come out of one pass over their row group."""

    column: str
    """Name of the column: bytes, or a structure with ``bytes``."""
    _url: str = ""
    _file: Any = None
    _group: int = -1
    _batches: Iterator = field(default_factory=lambda: iter(()))
    _batch: Sequence = ()
    _start: int = 0  # row that the batch begins with
    _damaged: tuple[str, int] | None = None

    def get(self, source: RowSource) -> Any:
        """Return the cell of a row."""
        place = (source.url, source.group)
        if place == self._damaged:
            raise AudioError(f"'{source.name}' cannot be read: its row group is damaged; see the row before")
        try:
            return fetched(source.url, lambda: self._seek(source))
        except AudioError:
            self._damaged = place  # else every later row would fetch the row group again, to fail again
            raise

    def _seek(self, source: RowSource) -> Any:
        group, self._group = self._group, -1  # until the row is found: after a fault the row group is begun again
        if self._url != source.url:
            self._file, self._url, group = parquet(source.url, pre_buffer=False, buffer_size=BUFFER), source.url, -1
        if group != source.group or source.row < self._start:
            column = self.column if is_bytes(self._file.schema_arrow.field(self.column).type) else f"{self.column}.bytes"
            self._batches = self._file.iter_batches(ROWS_AT_ONCE, [source.group], [column])
            self._batch, self._start = (), 0
        while source.row >= self._start + len(self._batch):
            self._start += len(self._batch)
            self._batch = next(self._batches).column(0)
        self._group = source.group
        return self._batch[source.row - self._start].as_py()


def parquet(url: str, **options: Any) -> Any:
    """Open a parquet file on the Hub; its footer is fetched, its columns when they are read."""
    from huggingface_hub import HfFileSystem
    from pyarrow.parquet import ParquetFile

    # No cache: it would read five megabytes ahead of every footer and column.
    return ParquetFile(HfFileSystem().open(url, cache_type="none"), **options)


def is_bytes(kind: Any) -> bool:
    """Say whether an Arrow type is plain bytes."""
    import pyarrow

    return pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)


def short(url: str) -> str:
    """Return the path in the repository, without repository and commit."""
    return url.split("@", 1)[1].split("/", 1)[1] if url.startswith("hf://") else url


def fetched(url: str, read: Callable[[], T]) -> T:
    """Return what ``read`` gets from a file on the Hub, asking again after a fault that may pass.

    Raises
    ------
    AudioError
        The file is damaged: the recording is skipped.
    HubError
        It cannot be had: the run ends.
    """
    from sae_audio.hub_client import retried, talking

    try:
        with talking(url.removeprefix("hf://datasets/").split("@")[0], repo_type="dataset"):
            return retried(lambda: _whole(url, read))
    except HubError as error:
        raise HubError(f"{error}; run the same command again: what is finished is kept") from error.__cause__


def _whole(url: str, read: Callable[[], T]) -> T:
    from pyarrow import ArrowInvalid

    try:
        return read()
    except (ArrowInvalid, OSError) as error:
        if not isinstance(error, ArrowInvalid) and type(error) is not OSError:  # Arrow raises either; the network only subclasses
            raise
        said = "".join(letter for letter in one_line(error) if letter.isprintable())
        raise AudioError(f"'{short(url)}' cannot be read ({said}); the file is damaged") from None
