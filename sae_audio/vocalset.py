"""Labelled clips: the unpacked VocalSet archive, or any folder of class folders, split so that no singer is on both sides.

VocalSet (Wilkins, Seetharaman, Wahl and Pardo, ISMIR 2018; CC BY 4.0): 20 professional singers, 17 techniques, 44.1 kHz.
``VocalSet11.zip`` unpacks to ``FULL/<singer>/<context>/<technique>/*.wav``; ``VocalSet1-2.zip`` has the same tree under
``data_by_singer``, and the recordings twice more under ``data_by_technique`` and ``data_by_vowel``. Either is taken, once; a
``__MACOSX`` folder is left out. As arXiv 2509.24793 does, ten techniques are taken, and of them the files whose name ends in a
vowel, a key (c, f) or ``spoken``: the others are uncut recordings. Unlike its code, which loses them, the files under the
misspelt technique ``vibrado`` count as vibrato. Singers are told by folder, since some file names lack theirs.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from sae_audio.activations import audio_sources
from sae_audio.errors import DataError, ParameterError

TECHNIQUES = ("belt", "breathy", "inhaled", "lip_trill", "spoken", "straight", "trill", "trillo", "vibrato", "vocal_fry")
"""The classes, in the order of their numbers."""
ENDINGS = ("a", "e", "i", "o", "u", "c", "f", "spoken")
"""What the names of the cut recordings end in, after the last underscore."""
TEST_SINGERS = ("female2", "female8", "male3", "male5", "male10")
"""The publisher's test singers (test_singers_technique.txt)."""
SINGERS = (*(f"female{i}" for i in range(1, 10)), *(f"male{i}" for i in range(1, 12)))
MISSPELT = {"vibrado": "vibrato"}
ARCHIVE = "https://zenodo.org/records/1442513"
FOLDS = 5
"""One fold in so many is held out."""


class LabelledClip(NamedTuple):
    """A sound file, its class, and whom it is of."""

    path: Path
    """The file."""
    name: str
    """Path relative to the folder that was searched."""
    label: str
    """Class, for example ``vibrato``."""
    group: str
    """Singer, speaker or recording; never in two splits."""
    split: str
    """``train`` or ``test``."""


def vocalset_clips(folder: str | Path, *, partial: bool = False) -> list[LabelledClip]:
    """Find the clips of an unpacked VocalSet archive, with the publisher's split by singer.

    Parameters
    ----------
    folder : path
        The folder that was unpacked to, or ``FULL`` or ``data_by_singer`` in it.
    partial : bool
        Take what there is instead of refusing a folder without all 20 singers and 10 techniques. Both splits need a singer.

    Returns
    -------
    list of LabelledClip
        Sorted by name.

    Raises
    ------
    DataError
        The folder is something else or incomplete; the message says what is missing.
    """
    folder = Path(folder)
    singers = _singers(folder)
    clips = [
        LabelledClip(path, path.relative_to(folder).as_posix(), technique, singer, "test" if singer in TEST_SINGERS else "train")
        for singer, home in singers.items()
        for path in home.glob("*/*/*.wav")
        if (technique := _technique(path)) is not None
    ]
    if not partial:
        _check_complete(folder, clips)
    return _checked(folder, sorted(clips, key=lambda clip: clip.name))


def folder_clips(folder: str | Path, *, group: str | None = None, seed: int = 0) -> list[LabelledClip]:
    """Find the clips of a folder of class folders, and hold out a fifth, whole groups at a time.

    Parameters
    ----------
    folder : path
        ``<class>/…/*.wav`` (or flac, ogg, mp3, aiff): the first folder of a path is its class.
    group : str, optional
        Regular expression that finds the speaker or recording in a clip's relative path: its first group, or the whole match.
        Without it every file is a group of its own, and one speaker can be on both sides.
    seed : int
        Of the split.

    Returns
    -------
    list of LabelledClip
        Sorted by name.

    Raises
    ------
    DataError
        No class folders, too few clips or groups, or a class that is in one split only.
    ParameterError
        ``group`` is no regular expression, or finds nothing in some path.

    Examples
    --------
    ``folder_clips("emotions", group="speaker[0-9]+")`` keeps ``emotions/angry/speaker07_3.wav`` with all of speaker07.
    """
    folder = Path(folder)
    sources = audio_sources(folder)
    if loose := [source.name for source in sources if "/" not in source.name]:
        raise DataError(
            f"'{loose[0]}' lies in no class folder; {folder} must hold one folder per class, with the sound files in it"
        )
    labels = [source.name.split("/")[0] for source in sources]
    groups = [source.name if group is None else _group(group, source.name) for source in sources]
    held = held_out(labels, groups, seed)
    clips = [
        LabelledClip(source.path, source.name, label, of, "test" if i in held else "train")
        for i, (source, label, of) in enumerate(zip(sources, labels, groups, strict=True))
    ]
    return _checked(folder, clips)


def held_out(labels: Sequence[str], groups: Sequence[str], seed: int) -> set[int]:
    """Choose about a fifth of the rows, whole groups at a time, classes alike and on both sides where groups allow it.

    Parameters
    ----------
    labels, groups : sequence of str
        Class and group of each row.
    seed : int
        Of the choice.

    Returns
    -------
    set of int
        Numbers of the rows held out.

    Raises
    ------
    DataError
        There is only one group.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    folds = min(FOLDS, len(set(groups)))
    if folds < 2:
        raise DataError(f"all {len(groups)} clips are of '{groups[0]}'; holding some out takes at least two groups")
    if folds > (most := max(labels.count(label) for label in set(labels))):
        raise DataError(f"the largest class has {most} clips; holding some out takes {folds} or more")
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")  # it may be on one side only; the caller checks
        choices = [set(rows.tolist()) for _, rows in splitter.split(labels, labels, groups)]
    # A class of few clips is all on one side of some folds: of those that split most classes, the first.
    return max(choices, key=lambda held: len({labels[i] for i in held} & {labels[i] for i in {*range(len(labels))} - held}))


def _singers(folder: Path) -> dict[str, Path]:
    """Return the folder of every singer, leaving out the archive's second copies."""
    if not folder.is_dir():
        raise DataError(f"'{folder}' is not a folder; unpack {ARCHIVE} and give the folder that it unpacks to")
    homes = [path for path in sorted(folder.rglob("*")) if path.name in SINGERS and path.is_dir()]
    places = {path: path.relative_to(folder).parts for path in homes}
    kept = [path for path in homes if "__MACOSX" not in places[path]]
    whole = [path for path in kept if not any(part.startswith("data_by_") for part in places[path])]
    found: dict[str, Path] = {}
    for path in whole or [path for path in kept if "data_by_singer" in places[path]]:
        if path.name in found:
            raise DataError(f"{folder} has {path.name} twice: {found[path.name]} and {path}; give the folder of one archive")
        found[path.name] = path
    if not found:
        there = sorted(path.name for path in folder.iterdir())
        raise DataError(
            f"{folder} is not the unpacked VocalSet: there is no singer's folder (female1 to female9, male1 to male11) in it, "
            f"but {_few(there)}; unpack {ARCHIVE} and give the folder that it unpacks to, or pass --labels from-folders"
        )
    return found


def _check_complete(folder: Path, clips: list[LabelledClip]) -> None:
    missing = [singer for singer in SINGERS if singer not in {clip.group for clip in clips}]
    missing += [technique for technique in TECHNIQUES if technique not in {clip.label for clip in clips}]
    if missing:
        raise DataError(f"{folder} has no clip of {', '.join(missing)}; unpack {ARCHIVE} again, or go on without: --partial")


def _technique(path: Path) -> str | None:
    """Return the technique of a cut recording in ``<context>/<technique>/``; None for anything else."""
    technique = MISSPELT.get(path.parent.name, path.parent.name)
    wanted = technique in TECHNIQUES and path.stem.split("_")[-1] in ENDINGS and not path.name.startswith(".")
    return technique if wanted else None


def _group(pattern: str, name: str) -> str:
    try:
        found = re.search(pattern, name)
    except re.error as error:
        raise ParameterError(f"--group '{pattern}' is not a regular expression ({error})") from None
    if found is None:
        raise ParameterError(
            f"--group '{pattern}' finds nothing in '{name}'; it must name the speaker or recording of every file"
        )
    return found[1] if found.re.groups else found[0]


def _checked(folder: Path, clips: list[LabelledClip]) -> list[LabelledClip]:
    """Raise unless there are two classes and each is in both splits."""
    classes = {clip.label for clip in clips}
    if len(classes) < 2:
        raise DataError(f"{folder} has clips of {_few(sorted(classes))} only; telling classes apart takes at least two")
    for split in ("train", "test"):
        if absent := classes - {clip.label for clip in clips if clip.split == split}:
            raise DataError(
                f"{folder} has no {split} clip of {_few(sorted(absent))}; every class needs clips of two groups (singers, "
                "speakers) or more, on both sides of the split"
            )
    return clips


def _few(words: Iterable[str]) -> str:
    words = list(words)
    return ", ".join(words[:5]) + (f" and {len(words) - 5} more" if len(words) > 5 else "") if words else "nothing"
