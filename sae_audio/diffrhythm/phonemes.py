"""From words to DiffRhythm's phonemes and their tokens: English by espeak-ng, Mandarin by ``mandarin.py``.

The vocabulary (``phonemes.json``) is that of the public checkpoints, 363 numbers, and the English is that of DiffRhythm's own
front end: phonemizer's IPA without stress, ``_`` between words, punctuation kept as sound, some pairs of phonemes drawn together
(t ɹ → tɹ). An apostrophe is punctuation too, so that "don't" is d ɑː n ' t iː: odd, but what the checkpoints were given.

Other than there, nothing is left out in silence. What cannot be sung (digits, signs, other scripts) is refused by
``unsingable``; a phoneme that the vocabulary lacks is an error. Dashes, quotes and parentheses have no sound and go, as there.
"""

from __future__ import annotations

import json
import re
import unicodedata
from functools import cache
from os.path import expanduser
from pathlib import Path
from typing import Any

from sae_audio.diffrhythm.mandarin import HAN, mandarin
from sae_audio.errors import LatentSpaceError, ParameterError

TABLE = Path(__file__).with_name("phonemes.json")
MARKS = ",.?!;:'…"
"""Punctuation that has a token."""
_LATIN = "a-zA-Z\u00c0-\u024f\u1e00-\u1eff"
_SEGMENT = re.compile(rf"[^{_LATIN}{HAN}]*(?:[{_LATIN}][^{HAN}]*|[{HAN}][^{_LATIN}]*)")
_ALIKE = dict(zip("，。！？；：、‘’⋯", ",.!?;:,''…", strict=True)) | {"···": "…", "・・・": "…", "...": "…"}
_SOUNDLESS = '"~～♪♫*·・'
_ABBREVIATIONS = {
    **{"mrs": "misess", "mr": "mister", "dr": "doctor", "st": "saint", "co": "company", "jr": "junior", "maj": "major"},
    **{"gen": "general", "drs": "doctors", "rev": "reverend", "lt": "lieutenant", "hon": "honorable", "sgt": "sergeant"},
    **{"capt": "captain", "esq": "esquire", "ltd": "limited", "col": "colonel", "ft": "fort", "etc": "et cetera"},
    "btw": "by the way",
}
_DRAWN_TOGETHER = (
    *(("t|ɹ", "tɹ"), ("d|ɹ", "dɹ"), ("t|s", "ts"), ("d|z", "dz"), ("ɪ|ɹ", "ɪɹ"), ("ɐ", "ɚ"), ("ᵻ", "ɪ"), ("əl", "l")),
    *(("x", "k"), ("ɬ", "l"), ("ʔ", "t"), ("n̩", "n"), ("oː|ɹ", "oːɹ")),
)
_LINKED = "p⁼ʰmftnlkxʃs`ɹaoəɛɪeɑʊŋiuɥwæjː"
"""English that ends in one of these has a ``_`` between it and the Mandarin that follows."""


def load_vocabulary(checkpoint: str | Path | None = None) -> dict[str, int]:
    """Return the token of each phoneme: its number in the vocabulary plus 1, since token 0 is silence.

    Parameters
    ----------
    checkpoint : path, optional
        A checkpoint's file or folder. If there is a ``vocab.json`` beside it (``{"vocab": {phoneme: number}}``), it counts;
        otherwise the table of the public checkpoints, which comes with this package.

    Raises
    ------
    LatentSpaceError
        The file is not such a table.

    Examples
    --------
    >>> vocabulary = load_vocabulary()
    >>> vocabulary[","], vocabulary["."], vocabulary["…"]
    (1, 2, 363)
    """
    path = _table(checkpoint)
    try:
        numbers = json.loads(path.read_text(encoding="utf-8"))["vocab"]
        if len(set(numbers.values())) < len(numbers) or not all(type(i) is int and i >= 0 for i in numbers.values()):
            raise ValueError("numbers have to be whole, at least 0 and each used once")
        if (numbers[","], numbers["."]) != (0, 1):
            raise ValueError("',' has to be number 0 and '.' number 1")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LatentSpaceError(f'{path} is not a table {{"vocab": {{phoneme: number}}}} of phonemes: {error}') from error
    return {phoneme: number + 1 for phoneme, number in numbers.items()}


def unsingable(text: str) -> str | None:
    """Return why a line of lyrics cannot become phonemes, with a remedy; None if it can.

    Examples
    --------
    >>> unsingable("Hello, 世界!")
    >>> unsingable("99 red balloons")
    "'9' is a digit; write numbers as words"
    """
    for character in unicodedata.normalize("NFC", text):
        if character.isdigit():
            return f"{character!r} is a digit; write numbers as words"
        if character in "[]【】{}":
            return f"{character!r} marks something that is not sung; remove it with what it encloses"
        if character.isalpha() and not re.match(rf"[{_LATIN}{HAN}]", character):
            return f"{character!r} is neither Latin nor Chinese; only English and Mandarin are read"
        if not (character.isspace() or character.isalpha() or _is_punctuation(character)):
            return f"{character!r} has no sound; write it as a word, or remove it"
    return None if _SEGMENT.match(text) else "there is nothing to sing; remove the line, or give it words"


def phonemes(text: str) -> list[str]:
    """Return the phonemes of a line of English, Mandarin or both.

    Parameters
    ----------
    text : str
        A line for which ``unsingable`` is None.

    Raises
    ------
    ParameterError
        The line is unsingable, or a package is missing: phonemizer and espeak-ng for English, pypinyin and jieba for Mandarin.

    Examples
    --------
    >>> " ".join(phonemes("Hello, dream"))
    'h ə l oʊ , dɹ iː m'
    """
    problem = unsingable(text)
    if problem:
        raise ParameterError(f"'{text}' cannot be sung: {problem}")
    segments = _SEGMENT.findall(_plain(text))
    spoken = []
    for index, segment in enumerate(segments):
        if re.search(f"[{HAN}]", segment):
            spoken += mandarin(re.sub(rf"[^{HAN}{MARKS}]", "", segment))
            continue
        raw = _english(segment)
        link = raw[-1] in _LINKED and index + 1 < len(segments)
        spoken += _drawn_together(raw) + ["_"] * link
    return spoken


def tokens(text: str, vocabulary: dict[str, int]) -> list[int]:
    """Return the tokens of a line; a phoneme that is not in the vocabulary raises ``ParameterError``."""
    spoken = phonemes(text)
    foreign = [phoneme for phoneme in spoken if phoneme not in vocabulary]
    if foreign:
        raise ParameterError(f"'{text}' has the phoneme '{foreign[0]}', which the vocabulary lacks; write that word another way")
    return [vocabulary[phoneme] for phoneme in spoken]


def _table(checkpoint: str | Path | None) -> Path:
    if checkpoint is None:
        return TABLE
    path = Path(expanduser(checkpoint))
    beside = (path if path.is_dir() else path.parent) / "vocab.json"
    return beside if beside.is_file() else TABLE


def _is_punctuation(character: str) -> bool:
    """Whether a character has a token of its own, or is one of those that are left out because they have no sound."""
    soundless = unicodedata.category(character) in ("Pd", "Ps", "Pe", "Pi", "Pf") or character in _SOUNDLESS
    return soundless or character in MARKS or character in _ALIKE


def _plain(text: str) -> str:
    """Return a line with its punctuation as ASCII, and … for three dots."""
    text = unicodedata.normalize("NFC", text).strip()
    for foreign, plain in _ALIKE.items():
        text = text.replace(foreign, plain)
    return text


def _english(text: str) -> str:
    """Return espeak-ng's phonemes of English, ``|`` between them and ``_`` between words."""
    for short, full in _ABBREVIATIONS.items():
        text = re.sub(rf"\b{short}\b", full, text, flags=re.IGNORECASE)
    text = re.sub(rf"[^\w\s{MARKS}]", "", text)
    text = re.sub(rf"\s*([{MARKS}])\s*", r"\1", text)
    backend, separator = _espeak()
    spoken = backend.phonemize([re.sub(r"\s+", " ", text)], separator=separator, strip=True)[0]
    spoken = re.sub(rf"([{MARKS}])", r"|\1|", spoken)
    return re.sub(r"\|+", "|", spoken).strip("|")


def _drawn_together(spoken: str) -> list[str]:
    spoken = f"|{spoken}|"
    for old, new in _DRAWN_TOGETHER:
        while f"|{old}|" in spoken:
            spoken = spoken.replace(f"|{old}|", f"|{new}|")
    return spoken.strip("|").split("|")


@cache
def _espeak() -> tuple[Any, Any]:
    try:
        from phonemizer.backend import EspeakBackend
        from phonemizer.separator import Separator

        backend = EspeakBackend(
            "en-us", punctuation_marks=MARKS, preserve_punctuation=True, language_switch="remove-flags", words_mismatch="ignore"
        )
    except (ImportError, RuntimeError, OSError) as error:  # RuntimeError: there is no espeak-ng to load
        remedy = "install it with 'pip install phonemizer' and 'apt install espeak-ng'"
        raise ParameterError(f"English lyrics need phonemizer and espeak-ng ({error}); {remedy}, or leave lyrics out") from error
    return backend, Separator(word="|_|", syllable="-", phone="|")
