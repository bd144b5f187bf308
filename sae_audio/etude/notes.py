"""A melody written in one line, as note tokens for étude-flow: ``C4:0.5 E4:0.5 rest:0.25 C4+E4+G4:1``."""

from __future__ import annotations

import torch
from torch import Tensor

from sae_audio.diffrhythm.generator import Generator
from sae_audio.errors import ParameterError
from sae_audio.etude.corpus import FRAME_RATE
from sae_audio.etude.flow_data import N_TOKENS, note_tokens
from sae_audio.etude.scores import Note, Score
from sae_audio.units import note_name, parse_note

LOWEST, HIGHEST = 36, 96
"""MIDI range of the corpus that étude-flow learnt from: C2 to C7."""
REST = "rest"
_FORM = "write NOTE:SECONDS, such as C4:0.5, 60:0.5, C4+E4+G4:1 or rest:0.5, with spaces between"


def parse_notes(text: str) -> Score:
    """Read notes that follow one another.

    Parameters
    ----------
    text : str
        ``NOTE:SECONDS`` with spaces between. A note is a name (``C4``, ``F#3``, ``Bb2``; C4 is middle C) or a MIDI number, a
        chord is notes with ``+`` between, and ``rest`` is nothing. A note is held for all of its time; two of the same pitch in a
        row are one long note unless a short rest parts them.

    Returns
    -------
    Score
        Its ``duration`` is the sum of all seconds.

    Raises
    ------
    ParameterError
        A word is not of this form, lasts less than a latent frame (20 ms), or has a note that is not within C2 to C7; all such
        words are named.

    Examples
    --------
    >>> score = parse_notes("C4:0.5 rest:0.25 62+65:1")
    >>> [(note.onset, note.duration, note.pitch) for note in score.notes], score.duration
    ([(0.0, 0.5, 60.0), (0.75, 1.0, 62.0), (0.75, 1.0, 65.0)], 1.75)
    """
    notes, time, problems, voices = [], 0.0, [], 1
    for place, word in enumerate(text.split(), start=1):
        try:
            pitches, seconds = _word(word)
        except ParameterError as error:
            problems.append(f"note {place} '{word}': {error}")
            continue
        notes += [Note(time, seconds, pitch, 1.0) for pitch in pitches]
        time, voices = time + seconds, max(voices, len(pitches))
    if problems:
        raise ParameterError(f"{'; '.join(problems)}; {_FORM}")
    if not notes:
        raise ParameterError(f"the notes '{text}' hold none to play; {_FORM}")
    return Score(tuple(notes), time, (), 0.0, voices)


def notes_row(text: str, frames: int, model: Generator) -> Tensor:
    """Read notes as the ``text`` of ``sample``.

    Parameters
    ----------
    text : str
        As in ``parse_notes``.
    frames : int
        Length of the song at 50 Hz; notes that end earlier leave the rest of it to silence.
    model : Generator
        What will play; has to be étude-flow.

    Returns
    -------
    Tensor [1, frames]
        int64.

    Raises
    ------
    ParameterError
        The notes are malformed or last longer than the song, or the model plays no notes.
    """
    if model.dit.config.text_num_embeds != N_TOKENS:
        found = model.dit.config.text_num_embeds
        raise ParameterError(f"this model has {found} tokens, not the {N_TOKENS} of notes; DiffRhythm sings lyrics instead")
    score = parse_notes(text)
    if round(score.duration * FRAME_RATE) > frames:
        raise ParameterError(
            f"the notes last {score.duration:g} s and the song {frames / FRAME_RATE:g} s; make it longer, or the notes shorter"
        )
    return torch.from_numpy(note_tokens(score, frames)).long()[None]


def _word(word: str) -> tuple[list[float], float]:
    """Read one ``NOTE:SECONDS``."""
    names, colon, length = word.rpartition(":")
    try:
        seconds = float(length)
    except ValueError:
        raise ParameterError(f"'{length}' is not a number of seconds" if colon else "its seconds are missing") from None
    if not 1 / FRAME_RATE <= seconds < float("inf"):
        raise ParameterError(f"{length} s is not a length of at least {1 / FRAME_RATE:g} s")
    if names.lower() == REST:
        return [], seconds
    return [_pitch(name) for name in names.split("+")], seconds


def _pitch(name: str) -> float:
    pitch = float(name) if name.isdecimal() else parse_note(name)
    if not LOWEST <= pitch <= HIGHEST:
        raise ParameterError(f"{name} is not within {note_name(LOWEST)} to {note_name(HIGHEST)}, all that étude-flow has learnt")
    return pitch
