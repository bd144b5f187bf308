"""Put together the 31 hours that arXiv 2510.23802 trains on, out of the five corpora as they are published.

    python -m experiments.corpora --cocochorales DIR --damp DIR --groove DIR --guitarset DIR --maestro DIR --out data/paper
    python -m experiments.corpora --guitarset DIR --singing DIR --share 0.01 --out data/rehearsal

Any of the five can be left out; --singing takes what stands in for DAMP-VSEP, which is not public. Of each, the published hours
of recordings are drawn by the hash of their names (which ones the authors drew is not known), 80 / 10 / 10 % of them into the
folders train, validation and test, and nobody (drummer, player, singer, piece) is in two of them. OUT gets links, which
`train.py --audio OUT` and the experiments read, and corpora.md, a table of what was taken. Of a recording longer than
--max-minutes a stretch of that length is cut out and written: 33 minutes of MAESTRO are then eleven pieces and not three.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import soundfile
from tqdm import tqdm

from experiments._layouts import CORPORA, Corpus
from sae_audio.activations.splits import hashed_place
from sae_audio.activations.store import SPLITS
from sae_audio.cli import guarded
from sae_audio.errors import DataError, ParameterError
from sae_audio.files import make_folder, refusals_told, write_bytes
from sae_audio.report import table

POOL = 4
"""Recordings are drawn from so many times the hours that are wanted, which spares reading 240,000 headers."""


class Recording(NamedTuple):
    """A recording that can be drawn."""

    path: Path
    """The file."""
    group: str
    """Performer or piece."""
    seconds: float
    """What is taken of it."""
    start: float | None
    """Where that begins, in seconds; None: all of it."""


class Picked(NamedTuple):
    """What was drawn of a corpus."""

    recordings: dict[str, list[Recording]]
    """By split."""
    unreadable: list[str]
    """Files whose header makes no sense, left out."""

    def hours(self, split: str | None = None) -> float:
        """Hours of a split, or of all."""
        return sum(one.seconds for name in (SPLITS if split is None else [split]) for one in self.recordings[name]) / 3600


def pick(corpus: Corpus, folder: Path, hours: float, max_minutes: float, seed: int) -> Picked:
    """Draw recordings of a corpus, so many hours in all, with no group in two splits.

    Parameters
    ----------
    corpus : Corpus
        Says which files of the folder count and who plays in them.
    folder : Path
        The unpacked corpus.
    hours : float
        How much to draw; all there is where there is less.
    max_minutes : float
        Of a longer recording a stretch of so many minutes, at a place drawn by hash.
    seed : int
        Of all draws.

    Raises
    ------
    DataError
        The folder is something else, or its recordings are of fewer than three groups.
    """
    files = sorted(corpus.find(folder), key=lambda path: hashed_place(path.relative_to(folder).as_posix(), seed))
    lengths, unreadable, wanted = {}, [], POOL * hours * 3600
    for path in tqdm(files, desc=f"{corpus.title}: headers", unit="file"):
        try:
            lengths[path] = soundfile.info(path).duration
        except soundfile.SoundFileError:
            unreadable.append(path.relative_to(folder).as_posix())
            continue
        wanted -= min(lengths[path], max_minutes * 60)
        if wanted <= 0:
            break
    groups = corpus.groups(folder, list(lengths))
    recordings = [stretch(path, groups[path], length, max_minutes * 60, seed) for path, length in lengths.items()]
    return Picked(filled(recordings, splits_of(recordings, corpus, seed), hours * 3600), unreadable)


def stretch(path: Path, group: str, length: float, longest: float, seed: int) -> Recording:
    """Return a recording, or the stretch of it that is taken where it is longer than ``longest`` seconds."""
    if length <= longest:
        return Recording(path, group, length, None)
    return Recording(path, group, longest, hashed_place(f"start of {path.name}", seed) * (length - longest))


def splits_of(recordings: Sequence[Recording], corpus: Corpus, seed: int) -> dict[str, str]:
    """Give every group a split: in the order of their hashes, to the split that lacks most seconds of its share.

    Groups that are larger than a held-out share, such as the drummer who played half of all, come first and so to training.
    """
    seconds: dict[str, float] = {}
    for one in recordings:
        seconds[one.group] = seconds.get(one.group, 0.0) + one.seconds
    if len(seconds) < len(SPLITS):
        told = f"{len(recordings)} recordings of {len(seconds)} {corpus.group}{'s' if len(seconds) > 1 else ''}"
        raise DataError(f"{corpus.title} has {told}; a split by {corpus.group} takes at least {len(SPLITS)}")
    total, chosen = sum(seconds.values()), {}
    lacking = {split: share * total for split, share in SPLITS.items()}
    order = sorted(seconds, key=lambda group: (seconds[group] <= SPLITS["test"] * total, hashed_place(group, seed)))
    for left, group in zip(range(len(order), 0, -1), order, strict=True):
        empty = [split for split in SPLITS if split not in chosen.values()]
        chosen[group] = max(empty if left <= len(empty) else SPLITS, key=lacking.get)
        lacking[chosen[group]] -= seconds[group]
    return chosen


def filled(recordings: Sequence[Recording], splits: dict[str, str], seconds: float) -> dict[str, list[Recording]]:
    """Fill validation and test with their shares and training with the rest, each up to the recording that comes nearest."""
    out: dict[str, list[Recording]] = {split: [] for split in SPLITS}
    left = seconds
    for split in ("validation", "test", "train"):
        wanted, have = (left if split == "train" else SPLITS[split] * seconds), 0.0
        for one in (one for one in recordings if splits[one.group] == split):
            if out[split] and have + one.seconds / 2 > wanted:
                break
            out[split].append(one)
            have += one.seconds
        left -= have
    return out


# Into the folder ------------------------------------------------------------------------------------------------------------


def targets(name: str, folder: Path, picked: Picked, out: Path) -> Iterator[tuple[Recording, Path]]:
    """Yield every recording and where it goes: OUT/<split>/<corpus>/<path in the corpus>, cut ones as FLAC."""
    for split, recordings in picked.recordings.items():
        for one in recordings:
            target = out / split / name / one.path.relative_to(folder)
            yield one, target if one.start is None else target.with_suffix(".flac")


def place(one: Recording, target: Path) -> None:
    """Link a recording, or write the stretch that is taken of it."""
    if target.exists():
        return
    make_folder(target.parent)
    if one.start is None:
        with refusals_told(target):
            target.unlink(missing_ok=True)  # a link to where the corpus was before
            target.symlink_to(one.path.resolve())
        return
    with soundfile.SoundFile(one.path) as file:
        file.seek(int(one.start * file.samplerate))
        samples = file.read(int(one.seconds * file.samplerate), dtype="int32" if file.subtype.startswith("PCM") else "float64")
        subtype = "PCM_16" if file.subtype == "PCM_16" else "PCM_24"
    content = io.BytesIO()
    soundfile.write(content, samples, file.samplerate, subtype=subtype, format="FLAC")
    write_bytes(target, content.getvalue())


def claim(out: Path, said: dict) -> None:
    """Begin the folder, or check that it holds this very choice, so that no recording of another choice stays in it."""
    about = out / "corpora.json"
    content = json.dumps(said, indent=1, ensure_ascii=False).encode()
    if about.is_file() and about.read_bytes() != content:
        raise DataError(f"{out} holds another choice of recordings; give another --out, or delete that folder")
    make_folder(out)
    write_bytes(about, content)


def lines_of(picked: dict[str, Picked], share: float) -> list[list[str]]:
    """Return the rows of the table, with its header."""
    rows = [["corpus", "hours", "of", "recordings", "groups", "train / validation / test, h", "licence"]]
    for name, found in picked.items():
        corpus, chosen = CORPORA[name], [one for split in found.recordings.values() for one in split]
        groups = len({one.group for one in chosen})
        hours = " / ".join(f"{found.hours(split):.3g}" for split in SPLITS)
        row = [name, f"{found.hours():.3g}", f"{share * corpus.hours:.3g}", f"{len(chosen):,}"]
        rows.append([*row, f"{groups:,} {corpus.group}{'s' if groups > 1 else ''}", hours, corpus.licence])
    return rows


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, corpus in CORPORA.items():
        parser.add_argument(f"--{name}", type=Path, metavar="DIR", help=f"{corpus.title}: {corpus.layout}; {corpus.address}")
    parser.add_argument("--share", type=float, default=1.0, help="of the published hours (default 1; 0.01 rehearses it all)")
    parser.add_argument("--max-minutes", type=float, default=3.0, help="longest stretch of one recording (default: 3)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw and the splits (default: 0)")
    parser.add_argument("--out", type=Path, default=Path("data/paper"), metavar="DIR", help="default: data/paper")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser.parse_args(argv)


def main(options: argparse.Namespace) -> None:
    """Draw, link and say what was taken."""
    folders = {name: folder for name in CORPORA if (folder := getattr(options, name)) is not None}
    if not folders:
        raise ParameterError(f"no corpus is given; name the folder of at least one: {', '.join(f'--{name}' for name in CORPORA)}")
    if {"damp", "singing"} <= set(folders):
        raise ParameterError("--singing stands in for --damp; give one of them")
    if not (options.share > 0 and options.max_minutes > 0):
        raise ParameterError(f"--share is {options.share} and --max-minutes {options.max_minutes}; both must be above 0")
    picked = {
        name: pick(CORPORA[name], folder, options.share * CORPORA[name].hours, options.max_minutes, options.seed)
        for name, folder in folders.items()
    }
    placed = [pair for name, found in picked.items() for pair in targets(name, folders[name], found, options.out)]
    claim(options.out, {target.relative_to(options.out).as_posix(): one.start for one, target in placed})
    for one, target in tqdm(placed, desc="links and cuts", unit="file"):
        place(one, target)
    header, *rows = lines_of(picked, options.share)
    markdown = ["| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows)]
    write_bytes(options.out / "corpora.md", ("\n".join(markdown) + "\n").encode())
    print("\n".join(table(header, rows)))
    for name in picked:
        for file in picked[name].unreadable:
            print(f"{name}: left out, not a sound file: {file}")
    missing = [name for name in CORPORA if name not in (*picked, "singing") and not (name == "damp" and "singing" in picked)]
    without = f", without {', '.join(missing)}" if missing else ""
    print(f"\n{sum(found.hours() for found in picked.values()):.4g} h in {options.out}{without}")


if __name__ == "__main__":
    raise SystemExit(guarded(lambda: main(parse()), "--debug" in sys.argv))
