"""Lyrics with times (LRC) as DiffRhythm hears them: one phoneme per latent frame from where a line begins, else silence.

A line of LRC is ``[mm:ss.xx]text``; ``[mm:ss]``, ``[mm:ss.xxx]`` and several stamps before one text are understood too, and a
stamp without text says that nothing is sung. Tags such as ``[ar:...]`` are skipped. Whatever else a file holds is an error that
names the line; DiffRhythm's own reader looks at fixed columns and leaves out what it cannot read.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from sae_audio.diffrhythm.generator import Generator
from sae_audio.diffrhythm.phonemes import load_vocabulary, tokens, unsingable
from sae_audio.errors import ParameterError

SAMPLE_RATE, HOP_LENGTH = 44_100, 2048
"""Of DiffRhythm's latents, in Hz and samples."""
SILENCE, COMMA, STOP = 0, 1, 2
"""Tokens of nothing, "," and "."."""
TAGS = ("ar", "ti", "al", "au", "lr", "by", "re", "tool", "ve", "length", "offset", "#")
"""Tags that are skipped; a non-zero ``offset`` is refused, because players disagree on its sign."""
SHOWN = 5
"""Problems told in one message."""
_STAMP = re.compile(r"\[(\d{1,3}):(\d{2}(?:\.\d{1,3})?)\]\s*")
_TAG = re.compile(r"\[([a-z#]+):(.*)\]", re.IGNORECASE)


class Line(NamedTuple):
    """One line to sing."""

    number: int
    """Line of the file, from 1."""
    time: float
    """Where it begins, in seconds."""
    text: str
    """What is sung; empty where the file only says that nothing is."""


def parse_lrc(text: str, source: str = "lyrics") -> list[Line]:
    r"""Return the lines of an LRC text, sorted by time; lines of the same time stay in order.

    Parameters
    ----------
    text : str
        The whole file.
    source : str
        What to call it in errors.

    Raises
    ------
    ParameterError
        A line is not LRC or cannot be sung, or there is none; the message names lines and reasons.

    Examples
    --------
    >>> parse_lrc("[ti:Song]\n[00:12.50][01:00]La la\n[00:20.00]")
    [Line(number=2, time=12.5, text='La la'), Line(number=3, time=20.0, text=''), Line(number=2, time=60.0, text='La la')]
    """
    lines, problems = [], []
    for number, content in enumerate(re.split(r"\r\n|\r|\n", text.removeprefix("\ufeff")), start=1):
        times, words = _stamps(content.strip())
        problem = _problem(content.strip(), times, words)
        if problem:
            problems.append((number, problem))
        lines += [Line(number, minutes * 60 + seconds, words) for minutes, seconds in times]
    _raise(source, problems)
    if not any(line.text for line in lines):
        raise ParameterError(f"{source} has no line to sing, such as '[00:12.50]La la'; for an instrumental leave lyrics out")
    return sorted(lines, key=lambda line: line.time)


def token_row(lines: Sequence[tuple[float, Sequence[int]]], frames: int) -> Tensor:
    """Write the tokens of timed lines into latent frames.

    A line starts at frame int(time · 44100 / 2048), or where the line before ends if that is later, and is cut at the end of the
    song (a warning says so). Full stops within become commas, and a full stop is appended (arXiv 2503.01183's released code).

    Parameters
    ----------
    lines : sequence of (float, sequence of int)
        Time in seconds and tokens of each line, in order of time.
    frames : int
        Length of the song.

    Returns
    -------
    Tensor [frames]
        int64, 0 where nothing begins.

    Examples
    --------
    >>> token_row([(0.1, [7, 2, 8]), (0.15, [9])], 10)
    tensor([0, 0, 7, 1, 8, 2, 9, 2, 0, 0])
    """
    row, end = torch.full((frames,), SILENCE, dtype=torch.long), 0
    for time, line in lines:
        sung = [COMMA if token == STOP else token for token in line] + [STOP]
        start = max(_frame(time), end)
        kept = sung[: max(frames - start, 0)]
        if len(kept) < len(sung):
            lost = f"{len(sung) - len(kept)} of {len(sung)} phonemes of the line at {_clock(time)}"
            warnings.warn(f"{lost} lie beyond the song's end at {_clock(_seconds(frames))} and are not sung", stacklevel=2)
        row[start : start + len(kept)] = torch.tensor(kept, dtype=torch.long)
        end = start + len(kept)
    return row


def lyrics_row(
    path: str | Path,
    frames: int,
    model: Generator,
    *,
    checkpoint: str | Path | None = None,
    drop_last: bool = False,
) -> Tensor:
    """Read an LRC file as the ``text`` of ``sample``.

    Parameters
    ----------
    path : path
        The file, UTF-8.
    frames : int
        Length of the song.
    model : Generator
        What will sing; has to be a public DiffRhythm.
    checkpoint : path, optional
        Where the model came from: a ``vocab.json`` beside it counts (``load_vocabulary``).
    drop_last : bool
        Leave out the last line, as DiffRhythm's own command does for songs of 95 s.

    Returns
    -------
    Tensor [1, frames]
        int64.

    Raises
    ------
    ParameterError
        The file cannot be read, is not LRC, has a line beyond the song or one that cannot be sung; or the model sings no lyrics,
        or a package is missing.
    LatentSpaceError
        ``vocab.json`` is not such a table.
    """
    vocabulary = load_vocabulary(checkpoint)
    if model.dit.config.text_num_embeds != max(vocabulary.values()):
        raise ParameterError(
            f"this model has {model.dit.config.text_num_embeds} tokens, not the {max(vocabulary.values())} of lyrics; "
            "étude-flow plays notes instead of lyrics"
        )
    source = Path(path).name
    lines = [line for line in parse_lrc(_read(path), source) if line.text]
    end = f"is not before the song's end at {_clock(_seconds(frames))}"
    _raise(source, [(line.number, f"{_clock(line.time)} {end}") for line in lines if _frame(line.time) >= frames])
    timed = [(line.time, _sung(line, vocabulary, source)) for line in lines]
    return token_row(timed[:-1] if drop_last else timed, frames)[None]


def _stamps(content: str) -> tuple[list[tuple[int, float]], str]:
    """Split a line into its stamps as minutes and seconds, and the text after them."""
    times, place = [], 0
    while match := _STAMP.match(content, place):
        times.append((int(match[1]), float(match[2])))
        place = match.end()
    return times, content[place:]


def _problem(content: str, times: list[tuple[int, float]], words: str) -> str | None:
    """Return what is wrong with a line, if anything."""
    if any(seconds >= 60 for _, seconds in times):
        return "seconds have to be below 60"
    if times or not content:
        return unsingable(words) if words else None
    tag = _TAG.fullmatch(content)
    if not tag or tag[1].lower() not in TAGS:
        return f"'{content[:20]}' is neither '[mm:ss.xx]text' nor a known tag"
    shifted = tag[1].lower() == "offset" and not re.fullmatch(r"\s*[+-]?0*\s*", tag[2])
    return "an offset other than 0 is not applied; shift the stamps" if shifted else None


def _raise(source: str, problems: list[tuple[int, str]]) -> None:
    if problems:
        told = "; ".join(f"line {number}: {problem}" for number, problem in problems[:SHOWN])
        more = ", ".join(str(number) for number, _ in problems[SHOWN:])
        raise ParameterError(f"{source} has {told}" + (f"; also look at lines {more}" if more else ""))


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise ParameterError(f"lyrics '{path}' cannot be read ({reason}); give an LRC file in UTF-8") from None


def _sung(line: Line, vocabulary: dict[str, int], source: str) -> list[int]:
    try:
        return tokens(line.text, vocabulary)
    except ParameterError as error:
        raise ParameterError(f"{source}, line {line.number}: {error}") from error


def _frame(time: float) -> int:
    return int(time * SAMPLE_RATE / HOP_LENGTH)


def _seconds(frames: int) -> float:
    return frames * HOP_LENGTH / SAMPLE_RATE


def _clock(time: float) -> str:
    """Return seconds as mm:ss.xx."""
    return f"{int(time // 60):02d}:{time % 60:05.2f}"
