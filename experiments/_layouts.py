"""The five corpora of arXiv 2510.23802 as they are published: which files count, who plays in them, hours, licence, address.

What is stated here was read off the publishers' pages and the loaders that others wrote for these archives (mirdata, asteroid,
the data format of CocoChorales); none of the archives was at hand. Where a fact could not be read, the entry says so.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from sae_audio.activations.sources import SUFFIXES
from sae_audio.errors import DataError

MIDI_FILE = re.compile(r"^midi_file: *(\S+)", re.MULTILINE)
SINGER = re.compile(r"(?:fe)?male\d+")
AGAIN = ("data_by_singer", "data_by_technique", "data_by_vowel")
"""Folders of VocalSet that hold the recordings of ``FULL`` again, or in version 1.2, which has no ``FULL``, three times over."""


class Corpus(NamedTuple):
    """One of the five, or what stands in for it."""

    title: str
    """As its publisher calls it."""
    hours: float
    """Hours that the paper took of it."""
    whole: str
    """How much there is of it."""
    licence: str
    """Of the recordings."""
    address: str
    """Its page."""
    layout: str
    """Which files count, relative to the folder that is given."""
    group: str
    """What a group is."""
    files: Callable[[Path], list[Path]]
    """All the files that count."""
    groups: Callable[[Path, list[Path]], dict[Path, str]]
    """The group of each of some files."""

    def find(self, folder: Path) -> list[Path]:
        """Return the files that count, sorted; ``DataError`` says what a folder lacks."""
        if not folder.is_dir():
            raise DataError(f"'{folder}' is no folder; unpack {self.title} ({self.address}) and give its folder")
        found = sorted(self.files(folder))
        if not found:
            raise DataError(f"'{folder}' is not {self.title}: there is no {self.layout} in it; get it from {self.address}")
        return found


# Which files count ----------------------------------------------------------------------------------------------------------


def beside(folder: Path, name: str) -> Path:
    """Return the folder, or the one folder down, that holds ``name``; the folder itself where none does."""
    return next((home for home in (folder, *sorted(folder.glob("*/"))) if (home / name).exists()), folder)


def globbed(*patterns: str) -> Callable[[Path], list[Path]]:
    """Return what finds the files of some patterns, anywhere below a folder."""
    return lambda folder: [path for pattern in patterns for path in folder.rglob(pattern) if path.is_file()]


def listed(table: str) -> Callable[[Path], list[Path]]:
    """Return what finds the files that a CSV names in its column ``audio_filename``, as far as they are there."""

    def files(folder: Path) -> list[Path]:
        rows = _rows(folder, table)
        found = [path for path in rows if path.is_file()]
        if rows and not found:
            raise DataError(f"'{folder}' has {table} but none of the {len(rows)} sound files that it names: a MIDI-only archive?")
        return found

    return files


def _rows(folder: Path, table: str) -> dict[Path, dict[str, str]]:
    home = beside(folder, table)
    if not (home / table).is_file():
        return {}
    with open(home / table, newline="", encoding="utf-8") as file:
        return {home / row["audio_filename"]: row for row in csv.DictReader(file) if row["audio_filename"]}


def singing_files(folder: Path) -> list[Path]:
    """Return vocal stems (MUSDB18-HQ), else every sound file, of VocalSet's copies one."""
    sounds = [path for path in _sounds(folder) if "__MACOSX" not in path.parts]
    if stems := [path for path in sounds if path.stem == "vocals"]:
        return stems
    once = [path for path in sounds if not set(AGAIN) & {*path.relative_to(folder).parts}]
    return once or [path for path in sounds if AGAIN[0] in path.relative_to(folder).parts]


def _sounds(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())


# Who plays ------------------------------------------------------------------------------------------------------------------


def of_column(table: str, *columns: str) -> Callable[[Path, list[Path]], dict[Path, str]]:
    """Return what reads groups off columns of a CSV."""

    def groups(folder: Path, files: list[Path]) -> dict[Path, str]:
        rows = _rows(folder, table)
        return {path: ", ".join(rows[path][column] for column in columns) for path in files}

    return groups


def of_path(group: Callable[[Path], str]) -> Callable[[Path, list[Path]], dict[Path, str]]:
    """Return what reads groups off paths relative to the folder."""
    return lambda folder, files: {path: group(path.relative_to(folder)) for path in files}


def scores(folder: Path, files: list[Path]) -> dict[Path, str]:
    """Return the generated score that each CocoChorales mix plays: one score can be played by several ensembles."""
    groups = {}
    for path in files:
        about = path.with_name("metadata.yaml")
        said = MIDI_FILE.search(about.read_text(encoding="utf-8")) if about.is_file() else None
        groups[path] = said[1] if said else path.parent.name
    return groups


def singer(path: Path) -> str:
    """Return VocalSet's singer, MUSDB18's artist (its folders are called ``Artist - Title``), else the first folder."""
    if path.stem == "vocals":
        return path.parent.name.split(" - ")[0]
    return next((part for part in path.parts[:-1] if SINGER.fullmatch(part)), path.parts[0])


# The corpora ----------------------------------------------------------------------------------------------------------------

CORPORA: dict[str, Corpus] = {
    "cocochorales": Corpus(
        "CocoChorales",
        11.2,
        "1,400 h (240,000 mixes); 569 GB, in 120 parts of 2,000 mixes",
        "CC BY 4.0",
        "https://magenta.tensorflow.org/datasets/cocochorales",
        "**/mix.wav",
        "score",
        globbed("mix.wav"),
        scores,
    ),
    "damp": Corpus(
        "DAMP-VSEP",
        11.7,
        "41,000 segments of 30 s",
        "Smule's; on request, research only",
        "https://zenodo.org/records/3553059",
        "**/vocal*.ogg",
        "arrangement",
        globbed("vocal*.ogg"),
        of_path(lambda path: path.parent.name.split("_")[0]),
    ),
    "singing": Corpus(
        "a singing corpus",
        11.7,
        "VocalSet 10.1 h; MUSDB18-HQ about 10 h",
        "VocalSet CC BY 4.0; MUSDB18-HQ for academic use, on request",
        "https://zenodo.org/records/1442513, https://zenodo.org/records/3338373",
        "sound file",
        "singer",
        singing_files,
        of_path(singer),
    ),
    "groove": Corpus(
        "Groove MIDI",
        7.8,
        "13.6 h (1,150 performances); groove-v1.0.0.zip, not the one called midionly",
        "CC BY 4.0",
        "https://magenta.tensorflow.org/datasets/groove",
        "info.csv that names drummer*/*/*.wav",
        "drummer",
        listed("info.csv"),
        of_column("info.csv", "drummer"),
    ),
    "guitarset": Corpus(
        "GuitarSet",
        0.4,
        "3 h (360 excerpts of 30 s); audio_mono-mic.zip",
        "CC BY 4.0",
        "https://zenodo.org/records/3371780",
        "audio_mono-mic/*_mic.wav",
        "player",
        globbed("*_mic.wav"),
        of_path(lambda path: path.name[:2]),
    ),
    "maestro": Corpus(
        "MAESTRO v3",
        0.55,
        "198.7 h (1,276 performances); 101 GB, 120 GB unpacked",
        "CC BY-NC-SA 4.0",
        "https://magenta.tensorflow.org/datasets/maestro",
        "maestro-v3.0.0.csv that names <year>/*.wav",
        "piece",
        listed("maestro-v3.0.0.csv"),
        of_column("maestro-v3.0.0.csv", "canonical_composer", "canonical_title"),
    ),
}
"""By the option that takes its folder."""
