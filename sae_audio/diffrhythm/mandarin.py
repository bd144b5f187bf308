"""Mandarin phonemes as DiffRhythm writes them: an initial, then a final with its tone (→ ↑ ↓↑ ↓, none if neutral).

Words are jieba's, readings pypinyin's. DiffRhythm's own front end has a lexicon and a network for characters of several readings,
so that such a character may be read differently there; how a syllable, once read, becomes phonemes is the same. So are the tones
that change within a word: third tones in a pair, 不, 一 and a final 儿.
"""

from __future__ import annotations

import re
import tempfile
from functools import cache
from typing import Any

from sae_audio.errors import ParameterError

HAN = "\u4e00-\u9fff"
LEVEL, RISING, DIPPING, FALLING, NEUTRAL = "→", "↑", "↓↑", "↓", ""
_TONES = {"ˊ": RISING, "ˇ": DIPPING, "ˋ": FALLING, "˙": NEUTRAL}
_INITIALS = {
    **{"ㄅ": "p⁼", "ㄆ": "pʰ", "ㄇ": "m", "ㄈ": "f", "ㄉ": "t⁼", "ㄊ": "tʰ", "ㄋ": "n", "ㄌ": "l", "ㄍ": "k⁼", "ㄎ": "kʰ"},
    **{"ㄏ": "x", "ㄐ": "tʃ⁼", "ㄑ": "tʃʰ", "ㄒ": "ʃ", "ㄓ": "ts`⁼", "ㄔ": "ts`ʰ", "ㄕ": "s`", "ㄖ": "ɹ`"},
    **{"ㄗ": "ts⁼", "ㄘ": "tsʰ", "ㄙ": "s"},
}
_LIPS = "ㄅㄆㄇㄈ"
"""Initials that make one phoneme with ㄛ."""
_FINALS = {
    **{"ㄚ": "a", "ㄛ": "o", "ㄜ": "ə", "ㄝ": "ɛ", "ㄞ": "aɪ", "ㄟ": "eɪ", "ㄠ": "ɑʊ", "ㄡ": "oʊ", "ㄢ": "an", "ㄣ": "ən"},
    **{"ㄤ": "ɑŋ", "ㄥ": "əŋ", "ㄦ": "əɹ", "ㄧ": "i", "ㄨ": "u", "ㄩ": "ɥ"},
    **{"ㄧㄚ": "ia", "ㄧㄝ": "iɛ", "ㄧㄠ": "iɑʊ", "ㄧㄡ": "ioʊ", "ㄧㄢ": "jɛn", "ㄧㄣ": "in", "ㄧㄤ": "iɑŋ", "ㄧㄥ": "iŋ"},
    **{"ㄨㄚ": "ua", "ㄨㄛ": "uo", "ㄨㄞ": "uaɪ", "ㄨㄟ": "ueɪ", "ㄨㄢ": "uan", "ㄨㄣ": "uən", "ㄨㄤ": "uɑŋ", "ㄨㄥ": "ʊŋ"},
    **{"ㄩㄝ": "ɥɛ", "ㄩㄢ": "ɥæn", "ㄩㄣ": "ɥn", "ㄩㄥ": "jʊŋ"},
}
_FULL_ER = ("女儿", "老儿", "男儿", "少儿", "小儿")
"""Words whose 儿 keeps its tone."""


def mandarin(text: str) -> list[str]:
    """Return the phonemes of Chinese characters and ASCII punctuation.

    Parameters
    ----------
    text : str
        Characters and marks, nothing else; a mark is its own phoneme.

    Raises
    ------
    ParameterError
        pypinyin or jieba is missing, or a character has no reading.

    Examples
    --------
    >>> mandarin("你好,世界")
    ['n', 'i↑', 'x', 'ɑʊ↓↑', ',', 's`ɹ↓', 'tʃ⁼', 'iɛ↓']
    """
    cut, read = _packages()
    spoken = []
    for run in re.findall(f"[{HAN}]+|.", text):
        if not re.match(f"[{HAN}]", run):
            spoken.append(run)
            continue
        for word in joined(cut(run)):
            letters, tones = zip(*(_split(syllable) for syllable in read(word)), strict=True)
            for syllable, tone in zip(letters, sandhi(word, tones), strict=True):
                spoken += syllable_phonemes(syllable, tone)
    return spoken


def syllable_phonemes(letters: str, tone: str) -> list[str]:
    """Return the phonemes of a syllable.

    Parameters
    ----------
    letters : str
        Bopomofo without a tone.
    tone : str
        ``LEVEL``, ``RISING``, ``DIPPING``, ``FALLING`` or ``NEUTRAL``.

    Examples
    --------
    >>> syllable_phonemes("ㄓㄨㄤ", LEVEL), syllable_phonemes("ㄕ", FALLING), syllable_phonemes("ㄅㄛ", RISING)
    (['ts`⁼', 'uɑŋ→'], ['s`ɹ↓'], ['p⁼wo↑'])
    """
    initial, final = (_INITIALS[letters[0]], letters[1:]) if letters[0] in _INITIALS else ("", letters)
    if not final:
        return [f"{initial}ɹ{tone}" if tone else initial]
    if final == "ㄛ" and letters[0] in _LIPS:
        return [f"{initial}wo{tone}"]
    parts = [final] if final in _FINALS else list(final)  # ㄧㄛ, ㄧㄞ: two vowels
    if not all(part in _FINALS for part in parts):
        raise ParameterError(f"'{letters}' is no syllable of Mandarin; write that character another way")
    return [*filter(None, [initial]), *(_FINALS[part] for part in parts[:-1]), _FINALS[parts[-1]] + tone]


def joined(words: list[str]) -> list[str]:
    """Join single 不 and 一 to what follows, 一 between twins to both, and a single 儿 to what precedes, for ``sandhi``."""
    text = "\0".join(words)
    text = re.sub(r"(?:^|(?<=\0))([^\0]+)\0一\0\1(?=\0|$)", r"\1一\1", text)
    text = re.sub(r"(^|\0)([一不])\0", r"\1\2", text)
    return re.sub(r"\0儿(?=\0|$)", "儿", text).split("\0")


def sandhi(word: str, tones: tuple[str, ...]) -> list[str]:
    """Return the tones of a word as they are spoken.

    Examples
    --------
    >>> sandhi("你好", (DIPPING, DIPPING)), sandhi("不怕", (FALLING, FALLING)), sandhi("一天", (LEVEL, LEVEL))
    (['↑', '↓↑'], ['↑', '↓'], ['↓', '→'])
    """
    spoken = list(tones)
    if len(word) == 2 and spoken == [DIPPING, DIPPING]:
        spoken[0] = RISING
    if len(word) == 3 and word[1] == "不" and set(word) != {"不"}:
        spoken[1] = NEUTRAL
    elif set(word) != {"不"}:
        for i, after in enumerate(spoken[1:]):
            if word[i] == "不" and after == FALLING:
                spoken[i] = RISING
    _yi_sandhi(word, spoken)
    if len(word) > 1 and word[-1] == "儿" and word not in _FULL_ER:
        spoken[-1] = NEUTRAL
    return spoken


def _yi_sandhi(word: str, spoken: list[str]) -> None:
    """Change the tones of 一 in place: level when it counts, neutral between twins, else against the tone that follows."""
    places = [i for i, character in enumerate(word) if character == "一"]
    counts = any(character.isnumeric() for character in word.replace("一", ""))
    changing = [i for i in places if i + 1 < len(word)]
    if counts:
        changing = [i for i in changing if i == 0 and word[1] not in "零一二三四五六七八九十"]
    elif word.startswith(("第一", "一月", "一日", "一号")):
        changing = []
    elif len(word) == 3 and places == [1] and word[0] == word[2]:
        spoken[1] = NEUTRAL
        return
    for i in places:
        against = (FALLING, NEUTRAL) if counts else (FALLING,)
        spoken[i] = LEVEL if i not in changing else RISING if spoken[i + 1] in against else FALLING


def _split(syllable: str) -> tuple[str, str]:
    """Split bopomofo into letters and tone."""
    return (syllable[:-1], _TONES[syllable[-1]]) if syllable[-1] in _TONES else (syllable, LEVEL)


@cache
def _packages() -> tuple[Any, Any]:
    """Return what cuts a sentence into words, and what reads a word as bopomofo."""
    try:
        import jieba
        from pypinyin import Style, lazy_pinyin
    except ImportError as error:
        remedy = "install them with 'pip install pypinyin jieba', or leave lyrics out"
        raise ParameterError(f"Mandarin lyrics need pypinyin and jieba ({error}); {remedy}") from error
    jieba.setLogLevel("WARNING")
    cutter = jieba.Tokenizer()
    with tempfile.TemporaryDirectory() as folder:  # jieba would share a cache in /tmp with whoever writes there
        cutter.tmp_dir = folder
        cutter.initialize()
    return cutter.lcut, lambda word: lazy_pinyin(word, style=Style.BOPOMOFO, errors=list)  # type: ignore[arg-type]  # a list is taken, too
