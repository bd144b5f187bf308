"""Recordings of a data set on the Hub: found by ``datasets``, read row by row, never downloaded whole.

    user/name ──datasets──► files of a split ──footers──► one source per row ──load──► one cell ──soundfile──► Recording

``datasets`` knows configurations, splits and file patterns; the rows are read by pyarrow and decoded by soundfile, because
``datasets`` itself decodes sound by torchcodec only, and because a row group can be fetched by itself: an extraction that was
interrupted fetches only the row groups that it still needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import Any, NamedTuple

from tqdm import tqdm

from sae_audio.activations.remote import Cells, FileSource, RowSource, fetched, is_bytes, parquet, short
from sae_audio.activations.sources import SUFFIXES
from sae_audio.activations.splits import hashed_splits
from sae_audio.activations.store import SPLITS
from sae_audio.audio import MAX_MINUTES
from sae_audio.errors import DataError, ParameterError
from sae_audio.spec import HUB_ID

PARQUET = "use a copy in parquet, such as --dataset-revision refs/convert/parquet, which the Hub makes of most data sets"
FOOTERS_AT_ONCE = 16
"""Files whose footers are fetched together."""


class HubDataset(NamedTuple):
    """A split of a data set, at one commit."""

    repo: str
    """``user/name``."""
    config: str | None
    """Its configuration, None where it has only one."""
    split: str
    """Its split; all three splits of a store come out of this one."""
    column: str
    """Column of the sound."""
    revision: str
    """Commit of the Hub repository, in full."""
    licence: str | None
    """What its card says, None where it says nothing."""
    sources: Sequence[RowSource | FileSource]
    """One per recording, in the order of the split."""

    @property
    def settings(self) -> dict:
        """What must be equal when an extraction is continued; other commits are told apart file by file."""
        return {"dataset": self.repo, "config": self.config, "split": self.split, "column": self.column}

    @property
    def provenance(self) -> dict:
        """What a reader needs to find the recordings again."""
        config = f", {self.config}" if self.config else ""
        facts = {"revision": self.revision, "rows": len(self.sources), "license": self.licence}
        return {"name": f"{self.repo}{config}, split {self.split}", **self.settings, **facts}


def dataset_sources(
    repo: str,
    *,
    split: str = "train",
    column: str = "audio",
    config: str | None = None,
    revision: str | None = None,
    group_column: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    max_minutes: float = MAX_MINUTES,
) -> HubDataset:
    """List the recordings of a data set on the Hub; their sound is fetched later, row group by row group.

    Parquet files with the sound in them (what ``push_to_hub`` of ``datasets`` writes) and folders of sound files are read. Of
    the former only footers are fetched here, and the cells of ``group_column``.

    Parameters
    ----------
    repo : str
        ``user/name``.
    split : str
        Split of the data set that recordings are taken from.
    column : str
        Column of the sound: bytes, or a structure with ``bytes``.
    config : str, optional
        Configuration; needed where there are several.
    revision : str, optional
        Branch, tag or commit; the newest by default. What is listed is pinned to the commit found.
    group_column : str, optional
        Column of a speaker, song or session: recordings of equal value go to the same split of the store, so that what is
        tested was not heard in training. By default each recording is a group of its own.
    limit : int, optional
        Only the first so many recordings, at least 1.
    seed : int
        Of the split by group; give ``extract`` the same.
    max_minutes : float
        Longer recordings are skipped during extraction, in minutes.

    Returns
    -------
    HubDataset
        ``extract(space, found.sources, folder, settings=found.settings)`` takes it from there.

    Raises
    ------
    ParameterError
        The name is not ``user/name``, or ``limit`` is below 1.
    DataError
        The package ``datasets`` is missing; the configuration, split or column does not exist; or the data set is empty or of
        another format.
    HubError
        The data set does not exist, is gated or private, or the Hub cannot be reached.
    """
    if find_spec("datasets") is None:
        raise DataError("a data set from the Hub needs the package datasets; install it with: pip install datasets")
    if not HUB_ID.fullmatch(repo):
        raise ParameterError(f"data set '{repo}' is not a Hub id; give user/name, for example openslr/librispeech_asr")
    if limit is not None and limit < 1:
        raise ParameterError(f"limit is {limit}; it must be at least 1 recording")
    commit, licence = _commit(repo, revision)
    urls, is_parquet = _files(repo, commit, config, split)
    sources: Sequence[RowSource | FileSource]
    if is_parquet:
        sources = _rows(urls, split, column, group_column, limit, seed, max_minutes)
    elif group_column is not None:
        raise DataError(f"data set '{repo}' is a folder of sound files and has no column '{group_column}'; leave it out")
    else:
        sources = _sound_files(urls, limit, max_minutes)
    if not sources:
        raise DataError(f"split '{split}' of data set '{repo}' has no recordings; choose another split")
    return HubDataset(repo, config, split, column, commit, licence, sources)


# Finding the files ------------------------------------------------------------------------------------------------------------


def _commit(repo: str, revision: str | None) -> tuple[str, str | None]:
    """Return the commit that a revision stands for, and the licence on the card."""
    from huggingface_hub import HfApi

    from sae_audio.hub_client import retried, talking

    with talking(repo, revision, "dataset"):
        info = retried(lambda: HfApi().dataset_info(repo, revision=revision))
    licence = info.card_data.get("license") if info.card_data else None
    return str(info.sha), ", ".join(map(str, licence)) if isinstance(licence, list) else licence


def _files(repo: str, commit: str, config: str | None, split: str) -> tuple[list[str], bool]:
    """Return the files of a split, and whether they are parquet; else they are sound files."""
    from datasets.packaged_modules.audiofolder.audiofolder import AudioFolder
    from datasets.packaged_modules.parquet.parquet import Parquet

    from sae_audio.hub_client import retried, talking

    with talking(repo, commit, "dataset"):
        builder = retried(lambda: _builder(repo, commit, config))
    files = builder.config.data_files or {}
    if split not in files:
        raise DataError(f"data set '{repo}' has no split '{split}'; it has {', '.join(files) or 'none'}")
    if not isinstance(builder, Parquet | AudioFolder):
        kind = type(builder).__mro__[1].__name__
        raise DataError(f"data set '{repo}' is kept as {kind}, which cannot be read from the middle; {PARQUET}")
    return list(files[split]), isinstance(builder, Parquet)


def _builder(repo: str, commit: str, config: str | None) -> Any:
    """Return what ``datasets`` finds out about a data set."""
    import datasets
    from huggingface_hub import HfApi

    where = f"hf://datasets/{repo}"  # a folder of that name does not stand in for the repository
    try:
        return datasets.load_dataset_builder(where, config, revision=commit)
    except (datasets.exceptions.DataFilesNotFoundError, datasets.data_files.EmptyDatasetError):
        raise DataError(f"data set '{repo}' holds no data files that can be read; parquet files and sound files can be") from None
    except datasets.exceptions.DatasetNotFoundError:
        HfApi().auth_check(repo, repo_type="dataset")  # the Hub says why, which `datasets` does not
        raise
    except FileNotFoundError as error:  # what `datasets` makes of a Hub that does not answer; the commit was there
        raise ConnectionError("the data set could not be looked up") from error
    except (RuntimeError, ValueError) as error:
        if "onfig" in str(error) and isinstance(error, ValueError):  # the client has no class of its own for it
            raise _wrong_config(repo, commit, config) from error
        if "scripts" in str(error):
            raise DataError(f"data set '{repo}' is a Python script, which is not run; {PARQUET}") from None
        raise


def _wrong_config(repo: str, commit: str, config: str | None) -> DataError:
    from datasets import get_dataset_config_names

    known = get_dataset_config_names(f"hf://datasets/{repo}", revision=commit)
    asked = f"has no configuration '{config}'" if config else "has several configurations"
    return DataError(f"data set '{repo}' {asked}; choose one of {', '.join(known)} with --dataset-config")


# Listing the recordings -------------------------------------------------------------------------------------------------------


class _Listed(NamedTuple):
    """What a footer says."""

    url: str
    version: str
    sizes: list[int]  # rows of each row group
    groups: list[str | None] | None  # value of the group column by row


def _rows(
    urls: list[str], split: str, column: str, group_column: str | None, limit: int | None, seed: int, max_minutes: float
) -> list[RowSource]:
    cells, groups = Cells(column), []
    sources: list[tuple] = []
    listing = _listing(urls, column, group_column, 1 if limit else FOOTERS_AT_ONCE)
    for listed in tqdm(listing, "listing", len(urls), unit="file", disable=None, leave=False):
        places = [(group, row) for group, size in enumerate(listed.sizes) for row in range(size)]
        for number, (group, row) in enumerate(places):
            name, version = f"{split}/{len(sources):07d}", f"{listed.version}-{number}"
            sources.append((name, version, listed.url, group, row, cells))
            group_of = listed.groups[number] if listed.groups else None
            groups.append(f"row {name}" if group_of is None else group_of)
        if limit is not None and len(sources) >= limit:
            break
    splits = _group_splits(group_column, groups[:limit], seed)
    both = zip(sources[:limit], groups, strict=False)
    return [RowSource(*source, split=splits.get(group), max_minutes=max_minutes) for source, group in both]


def _listing(urls: list[str], column: str, group_column: str | None, at_once: int) -> Iterator[_Listed]:
    """Read footers, several at once: each is one or two requests that mostly wait."""
    with ThreadPoolExecutor(at_once) as pool:
        for start in range(0, len(urls), at_once):
            yield from pool.map(lambda url: _footer(url, column, group_column), urls[start : start + at_once])


def _footer(url: str, column: str, group_column: str | None) -> _Listed:
    def read() -> tuple[list[int], list | None]:
        file = parquet(url, pre_buffer=True)
        _check_columns(url, file.schema_arrow, column, group_column)
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        return sizes, file.read(columns=[group_column])[group_column].to_pylist() if group_column else None

    sizes, groups = fetched(url, read)
    return _Listed(url, _version(url), sizes, [None if value is None else str(value) for value in groups] if groups else None)


def _version(url: str) -> str:
    """Return the beginning of a file's hash."""
    from huggingface_hub import HfFileSystem

    info = fetched(url, lambda: HfFileSystem().info(url))
    return (info["lfs"]["sha256"] if info["lfs"] else info["blob_id"])[:16]


def _check_columns(url: str, schema: Any, column: str, group_column: str | None) -> None:
    import pyarrow

    for name in filter(None, (column, group_column)):
        if name not in schema.names:
            raise DataError(f"{short(url)} has no column '{name}'; it has {', '.join(schema.names)}")
    kind = schema.field(column).type
    if not is_bytes(kind) and not (pyarrow.types.is_struct(kind) and kind.get_field_index("bytes") >= 0):
        raise DataError(f"column '{column}' of {short(url)} holds {kind}, not sound; choose another with --audio-column")


def _group_splits(column: str | None, groups: list[str], seed: int) -> dict[str, str]:
    """Split whole groups by the hash of their name; without a group column leave it to the names of the recordings."""
    if column is None:
        return {}
    names = sorted(set(groups))
    if len(names) < len(SPLITS):
        raise DataError(f"column '{column}' has {len(names)} values; a split by group takes at least {len(SPLITS)}")
    return hashed_splits(names, seed)


def _sound_files(urls: list[str], limit: int | None, max_minutes: float) -> list[FileSource]:
    sound = [url for url in urls if url.lower().endswith(SUFFIXES)][:limit]
    return [FileSource(short(url), _version(url), url, max_minutes=max_minutes) for url in sound]
