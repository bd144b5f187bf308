"""Styles, lyrics and notes. Expected tokens are worked out by hand, or come from DiffRhythm's own code."""

import json
import re
import sys

import numpy as np
import pytest
import torch

from sae_audio import audio
from sae_audio.diffrhythm import mandarin as zh
from sae_audio.diffrhythm.dit import DiT, DiTConfig
from sae_audio.diffrhythm.generator import Generator
from sae_audio.diffrhythm.lyrics import lyrics_row, parse_lrc, token_row
from sae_audio.diffrhythm.phonemes import _espeak, load_vocabulary, phonemes, tokens, unsingable
from sae_audio.diffrhythm.sampler import sample
from sae_audio.diffrhythm.style import middle_clip, read_style, resolve_style
from sae_audio.errors import AudioError, LatentSpaceError, ParameterError
from sae_audio.etude.notes import notes_row, parse_notes

SMALL = {"dim": 64, "depth": 2, "heads": 2, "ff_mult": 1, "text_dim": 16, "conv_layers": 1, "mel_dim": 8, "time_dim": 16}


def singer() -> Generator:
    """A DiffRhythm in all but size."""
    return Generator(DiT(DiTConfig(**SMALL))).eval()


def player(names: tuple[str, ...] = ("grand piano", "electric piano 1", "violin")) -> Generator:
    """An étude-flow in all but size."""
    return Generator(DiT(DiTConfig(**SMALL, text_num_embeds=256, style_dim=16)), names).eval()


def unit(size: int = 512) -> np.ndarray:
    vector = np.random.default_rng(0).normal(size=size)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


@pytest.fixture
def english():
    """Skip, and say so, where phonemizer or espeak-ng is missing."""
    pytest.importorskip("phonemizer")
    try:
        _espeak()
    except ParameterError as error:
        pytest.skip(str(error))


@pytest.fixture
def chinese():
    pytest.importorskip("jieba")
    return pytest.importorskip("pypinyin")


# Vocabulary


def test_vocabulary_has_the_numbers_of_the_public_checkpoints():
    vocabulary = load_vocabulary()
    # The original's 363 numbers, one of them (ç at 68) unused, plus 1.
    assert sorted(vocabulary.values()) == [i + 1 for i in range(363) if i != 68]
    known = {",": 1, ".": 2, "?": 3, "!": 4, "_": 5, "iː": 6, "ts": 54, "p⁼": 76, "p⁼wo": 91, "in": 121, "a": 211, "ə→": 221}
    later = {
        "i→": 271,
        "ɥ": 279,
        "sɹ↓": 318,
        "ɯ": 319,
        "ç": 324,
        "g": 328,
        "ɡ": 33,
        "tsɯ": 346,
        "y": 354,
        "\u0303": 358,
        "…": 363,
    }
    assert {phoneme: vocabulary[phoneme] for phoneme in known | later} == known | later


def test_vocabulary_beside_the_checkpoint_counts(tmp_path):
    (tmp_path / "vocab.json").write_text(json.dumps({"vocab": {",": 0, ".": 1, "a": 2}}))
    assert load_vocabulary(tmp_path) == load_vocabulary(tmp_path / "cfm_model.pt") == {",": 1, ".": 2, "a": 3}
    assert len(load_vocabulary("ASLP-lab/DiffRhythm-1_2")) == 362


@pytest.mark.parametrize(
    "text",
    [
        "[",
        "[]",
        '{"model": {}}',
        '{"vocab": {",": 0, ".": 1, "a": 1}}',
        '{"vocab": {",": 0, ".": 2}}',
        '{"vocab": {",": true, ".": 1}}',
    ],
)
def test_other_tables_are_refused(tmp_path, text):
    (tmp_path / "vocab.json").write_text(text)
    with pytest.raises(LatentSpaceError, match=r"vocab\.json is not a table"):
        load_vocabulary(tmp_path)


# Words to phonemes


@pytest.mark.parametrize(
    ("text", "expected"),  # what DiffRhythm's own code gives (on espeak-ng 1.51)
    [
        ("Don't look back now...", [31, 13, 46, 362, 30, 6, 5, 51, 15, 32, 5, 29, 19, 32, 5, 46, 23, 363]),
        ("Trains, beds, cats; dreams!", [52, 20, 46, 39, 1, 29, 18, 55, 1, 32, 19, 54, 361, 53, 6, 45, 39, 4]),
        ("A kitten on Main St.", [9, 5, 32, 7, 30, 46, 5, 57, 46, 5, 45, 20, 46, 5, 38, 20, 46, 30, 2]),
        ("It’s “over” — oh-oh (yes)", [7, 30, 362, 18, 38, 5, 24, 35, 9, 50, 5, 24, 42, 24, 5, 48, 18, 38]),
        ("Here: the little bottle", [42, 25, 360, 37, 58, 5, 51, 7, 59, 51, 5, 29, 13, 59, 51]),
        ("Dr Jones’ café?", [31, 13, 32, 30, 9, 5, 44, 24, 46, 39, 362, 32, 19, 34, 20, 3]),
    ],
)
def test_english_is_diffrhythms(english, text, expected):
    assert tokens(text, load_vocabulary()) == expected


@pytest.mark.parametrize(
    ("letters", "tone", "expected"),  # what DiffRhythm's own code gives
    [
        ("ㄋㄧ", zh.RISING, [46, 272]),
        ("ㄏㄠ", zh.DIPPING, [82, 240]),
        ("ㄔㄥ", zh.RISING, [86, 263]),
        ("ㄉㄨ", zh.LEVEL, [78, 275]),
        ("ㄓㄜ", zh.NEUTRAL, [85, 58]),
        ("ㄕ", zh.FALLING, [298]),
        ("ㄕ", zh.NEUTRAL, [87]),
        ("ㄙ", zh.LEVEL, [315]),
        ("ㄦ", zh.RISING, [268]),
        ("ㄅㄛ", zh.LEVEL, [92]),
        ("ㄨㄛ", zh.DIPPING, [179]),
        ("ㄩㄥ", zh.DIPPING, [144]),
        ("ㄩㄢ", zh.DIPPING, [119]),
        ("ㄧㄛ", zh.LEVEL, [56, 217]),
    ],
)
def test_mandarin_syllables_are_diffrhythms(letters, tone, expected):
    vocabulary = load_vocabulary()
    assert [vocabulary[phoneme] for phoneme in zh.syllable_phonemes(letters, tone)] == expected


def test_nearly_every_character_has_phonemes_in_the_vocabulary(chinese):
    vocabulary, unread = load_vocabulary(), []
    for character in map(chr, range(0x4E00, 0x9FA6)):
        (syllable,) = chinese.lazy_pinyin(character, style=chinese.Style.BOPOMOFO, errors=list)
        try:
            assert all(phoneme in vocabulary for phoneme in zh.syllable_phonemes(*zh._split(syllable)))
        except ParameterError:
            unread.append(character)
    assert len(unread) < 20  # of 20902; units of measure and the like that have no reading of one syllable


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("你好", "n i↑ x ɑʊ↓↑"),  # two third tones
        ("银行 行走", "in↑ x ɑŋ↑ ʃ iŋ↑ ts⁼ oʊ↓↑"),  # two readings of one character
        ("不怕，看一看。", "p⁼ u↑ pʰ a↓ , kʰ an↓ i kʰ an↓ ."),
        ("一天，第一", "i↓ tʰ jɛn→ , t⁼ i↓ i→"),
        ("哪儿？女儿！", "n a↓↑ əɹ ? n ɥ↓↑ əɹ↑ !"),
    ],
)
def test_mandarin_reads_words_and_changes_tones(chinese, text, expected):
    assert " ".join(phonemes(text)) == expected


def test_both_languages_in_one_line(english, chinese):
    assert " ".join(phonemes("Hello世界")) == "h ə l oʊ _ s`ɹ↓ tʃ⁼ iɛ↓"
    assert " ".join(phonemes("世界, bed")) == "s`ɹ↓ tʃ⁼ iɛ↓ , b ɛ d"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("99 balloons", "'9' is a digit"),
        ("你有２个", "'２' is a digit"),
        ("love & hate", "'&' has no sound"),
        ("la\u200bla", r"'\\u200b' has no sound"),
        ("こんにちは", "'こ' is neither Latin nor Chinese"),
        ("Привет", "'П' is neither"),
        ("[Chorus] la", r"'\[' marks something that is not sung"),
        ("...!", "nothing to sing"),
    ],
)
def test_what_cannot_be_sung_is_said(text, why):
    assert re.search(why, unsingable(text))
    with pytest.raises(ParameterError, match=why):
        phonemes(text)


def test_a_phoneme_outside_the_vocabulary_is_named(english):
    with pytest.raises(ParameterError, match="'hello' has the phoneme 'ə', which the vocabulary lacks"):
        tokens("hello", {"h": 1, "l": 2})


def test_missing_packages_are_named_with_the_remedy(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "phonemizer.backend", None)
        with pytest.raises(ParameterError, match="pip install phonemizer"):
            _espeak.__wrapped__()
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "jieba", None)
        with pytest.raises(ParameterError, match="pip install pypinyin jieba"):
            zh._packages.__wrapped__()
    monkeypatch.setitem(sys.modules, "muq", None)
    with pytest.raises(ParameterError, match=r"needs the package muq.*pip install muq.*\.npy"):
        resolve_style("calm piano", singer())


def test_missing_espeak_is_named(monkeypatch):
    pytest.importorskip("phonemizer")
    monkeypatch.setenv("PHONEMIZER_ESPEAK_LIBRARY", "/nowhere/libespeak-ng.so")
    with pytest.raises(ParameterError, match="apt install espeak-ng"):
        _espeak.__wrapped__()


# LRC


def test_stamps_of_all_forms_are_sorted_and_tags_skipped():
    text = "\ufeff[ti:A song]\r\n[offset:+0]\r\n\r\n[01:02][00:03.5] Chorus \r\n[00:00.250]Verse\r\n[100:00.00]\r\n"
    lines = parse_lrc(text)
    assert [tuple(line) for line in lines] == [(5, 0.25, "Verse"), (4, 3.5, "Chorus"), (4, 62.0, "Chorus"), (6, 6000.0, "")]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("no stamp at all", "neither"),
        ("[00:75.00]la", "below 60"),
        ("[0:1.5]la", "neither"),
        ("[00:01,50]la", "neither"),
        ("[00:01.5000]la", "neither"),
        ("00:01.50 la", "neither"),
        ("[verse:1]", "nor a known tag"),
        ("[offset:-500]", "shift the stamps"),
        ("[00:01.00]<00:01.20>la", "'<' has no sound|'0' is a digit"),
        ("[00:01.00][Chorus]", "not sung"),
        ("[00:01.00]...", "nothing to sing"),
    ],
)
def test_a_malformed_line_is_named(content, why):
    with pytest.raises(ParameterError, match=f"song.lrc has line 3: .*({why})"):
        parse_lrc(f"[00:00.00]la\n\n{content}\n[00:09.00]la", "song.lrc")


def test_many_malformed_lines_are_all_named():
    with pytest.raises(ParameterError, match=r"line 2: .*; line 3: .*; line 8: .*; also look at lines 9, 10$"):
        parse_lrc("[00:00.00]la\n" + "\n".join(["bad", "bad", "", "", "bad", "bad", "bad", "bad", "bad"]))


def test_lyrics_without_a_line_are_refused():
    for text in ("", "[ar:Someone]\n", "[00:10.00]\n"):
        with pytest.raises(ParameterError, match="no line to sing"):
            parse_lrc(text)


# Token rows


def test_tokens_stand_where_their_line_begins():
    # 1 s is frame 21 (21.53), 2.5 s frame 53 (53.83); the full stop inside becomes a comma.
    row = token_row([(1.0, [40, 2, 41]), (2.5, [42])], 60)
    assert row.dtype == torch.int64
    assert row.nonzero().flatten().tolist() == [21, 22, 23, 24, 53, 54]
    assert row[row > 0].tolist() == [40, 1, 41, 2, 42, 2]


def test_a_line_waits_for_the_one_before_and_is_cut_at_the_end():
    with pytest.warns(UserWarning, match=r"2 of 4 phonemes of the line at 00:00.10 lie beyond the song's end at 00:00.37"):
        row = token_row([(0.0, [7, 7, 7]), (0.05, [8]), (0.1, [9, 10, 11])], 8)
    assert row.tolist() == [7, 7, 7, 2, 8, 2, 9, 10]
    with pytest.warns(UserWarning, match="2 of 2 phonemes"):
        assert token_row([(0.0, [7, 7, 7]), (0.1, [9])], 4).tolist() == [7, 7, 7, 2]


def test_lyrics_become_the_text_of_a_song(tmp_path, english, chinese):
    path = tmp_path / "song.lrc"
    path.write_text("[ti:x]\n[00:02.00]你好。\n[00:01.00]Hello, dream\n[00:03.00]\n", encoding="utf-8")
    row = lyrics_row(path, 64, singer())
    expected = torch.zeros(64, dtype=torch.long)
    expected[21:30] = torch.tensor([42, 58, 51, 24, 1, 53, 6, 45, 2])  # h ə l oʊ , dɹ iː m .
    expected[43:49] = torch.tensor([46, 272, 82, 240, 1, 2])  # n i↑ x ɑʊ↓↑ , .
    assert torch.equal(row, expected[None])
    assert lyrics_row(path, 64, singer(), drop_last=True)[0, 30:].eq(0).all()
    style = torch.from_numpy(unit())[None]
    assert sample(singer(), style, frames=64, text=row, steps=2, guidance=0).isfinite().all()


def test_lyrics_with_a_sound_that_the_model_lacks_are_refused(tmp_path, english):
    (tmp_path / "vocab.json").write_text(json.dumps({"vocab": {",": 0, ".": 1, "l": 2}}))
    (tmp_path / "song.lrc").write_text("[00:01.00]la\n")
    model = Generator(DiT(DiTConfig(**SMALL | {"text_num_embeds": 3})))
    with pytest.raises(ParameterError, match=r"song.lrc, line 1: 'la' has the phoneme .*, which the vocabulary lacks"):
        lyrics_row(tmp_path / "song.lrc", 64, model, checkpoint=tmp_path)


def test_lyrics_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "song.lrc"
    path.write_text("[00:01.00]la\n[01:35.11]la\n[02:00.00]la\n[09:00.00]\n")
    with pytest.raises(ParameterError, match=r"line 2: 01:35.11 is not before the song's end at 01:35.11; line 3: 02:00.00"):
        lyrics_row(path, 2048, singer())
    with pytest.raises(ParameterError, match="this model has 256 tokens, not the 363 of lyrics"):
        lyrics_row(path, 2048, player())
    path.write_bytes(b"[00:01.00]\xff\xfe")
    with pytest.raises(ParameterError, match="not UTF-8"):
        lyrics_row(path, 2048, singer())
    with pytest.raises(ParameterError, match=r"'.*none.lrc' cannot be read"):
        lyrics_row(tmp_path / "none.lrc", 2048, singer())


# Notes


def test_notes_become_tokens():
    # 50 frames a second, read at their centres: C4 61, rest 0, chord of C4 and E4 its top 64 + 129, Bb2 46 + 1.
    row = notes_row("C4:0.06 rest:0.04 60+E4:0.04 Bb2:0.02", 10, player())
    assert row.tolist() == [[61, 61, 61, 0, 0, 193, 193, 47, 0, 0]]
    assert row.dtype == torch.int64


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("C4", "note 1 'C4': its seconds are missing"),
        ("C4:0.5 H4:1 E4:x", "note 2 'H4:1': 'H4' is not a note.*; note 3 'E4:x': 'x' is not a number"),
        ("C4:0", "at least 0.02 s"),
        ("C4:-1", "at least 0.02 s"),
        ("C4:nan", "at least 0.02 s"),
        ("C1:1", "C1 is not within C2 to C7"),
        ("C4+:1", "'' is not a note"),
        ("", "hold none to play"),
        ("rest:1", "hold none to play"),
    ],
)
def test_malformed_notes_are_named(text, why):
    with pytest.raises(ParameterError, match=why):
        parse_notes(text)


def test_notes_that_do_not_fit_are_refused():
    with pytest.raises(ParameterError, match=r"the notes last 1.5 s and the song 1 s"):
        notes_row("C4:1.5", 50, player())
    with pytest.raises(ParameterError, match="this model has 363 tokens, not the 256 of notes"):
        notes_row("C4:1.5", 500, singer())


# Styles


@pytest.mark.parametrize("shape", [(512,), (1, 512)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_style_from_a_file(tmp_path, shape, dtype):
    np.save(tmp_path / "style.npy", unit().reshape(shape).astype(dtype))
    style = resolve_style(str(tmp_path / "style.npy"), singer())
    assert (style.shape, style.dtype) == ((1, 512), torch.float32)
    torch.testing.assert_close(style[0], torch.from_numpy(unit()), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("array", "why"),
    [
        (unit() * 2, r"norm 2; a style is a unit vector \(norm 1 ± 0.01\): divide it by its norm"),
        (unit() * 1.011, "norm 1.011"),
        (unit() * 0, "norm 0;.*not all zero"),
        (np.where(np.arange(512) == 7, np.nan, unit()), "norm nan;.*finite"),
        (np.where(np.arange(512) == 7, np.inf, unit()), "norm inf;.*finite"),
        (unit(768), r"shape \[768\]; this model's styles are \[512\] or \[1, 512\]"),
        (np.stack([unit(), unit()]), r"shape \[2, 512\]"),
        (np.arange(512), "holds int64"),
    ],
)
def test_other_arrays_are_no_styles(tmp_path, array, why):
    np.save(tmp_path / "style.npy", array)
    with pytest.raises(ParameterError, match=why):
        read_style(tmp_path / "style.npy")


def test_norms_within_a_hundredth_are_taken(tmp_path):
    np.save(tmp_path / "style.npy", unit() * 1.009)
    assert read_style(tmp_path / "style.npy").norm().item() == pytest.approx(1.009, abs=1e-4)


def test_damaged_files_are_no_styles(tmp_path):
    path = tmp_path / "style.npy"
    np.save(path, unit())
    whole = path.read_bytes()
    huge = whole.replace(b"(512,), }" + b" " * 10, b"(9000000000000,), }")
    header = bytes(byte if i != whole.index(b"'descr'") else ord("(") for i, byte in enumerate(whole))
    assert huge != whole
    for damaged in (b"", b"\x93NUMPY", whole[:100], whole[:-1], huge, header, b"PK\x03\x04", b"1.0 2.0"):
        path.write_bytes(damaged)
        with pytest.raises(ParameterError, match=r"style '.*style.npy'"):
            read_style(path)
    np.save(path, np.array([object()]), allow_pickle=True)
    with pytest.raises(ParameterError, match=r"not a \.npy file of numbers"):
        read_style(path)
    with pytest.raises(ParameterError, match="does not exist"):
        read_style(tmp_path / "none.npy")


def test_named_styles_and_near_ones(tmp_path):
    model = player()
    assert torch.equal(resolve_style("violin", model), model.style("violin"))
    np.save(tmp_path / "style.npy", unit(16))
    assert resolve_style(str(tmp_path / "style.npy"), model).shape == (1, 16)
    for value, near in {"Piano": "grand piano, electric piano 1", "voilin": "violin", "a.wav": "it knows 3 by name"}.items():
        with pytest.raises(ParameterError, match=f"style '{value}' is unknown to this model; .*{near}"):
            resolve_style(value, model)


def test_a_clip_is_ten_seconds_from_the_middle(tmp_path):
    ramp = torch.linspace(-1, 1, 24_000 * 13)
    audio.write(tmp_path / "clip.wav", torch.stack([ramp, ramp * 0.5]), 24_000, bits=24)
    clip = middle_clip(tmp_path / "clip.wav")
    assert clip.shape == (1, 240_000)
    torch.testing.assert_close(clip[0], 0.75 * ramp[24_000 : 24_000 * 11], atol=1e-6, rtol=0)  # 13 s: from 6 − 5 = 1 s


def test_a_clip_is_resampled(tmp_path):
    tone = torch.sin(2 * torch.pi * 441 * torch.arange(44_100 * 11) / 44_100)
    audio.write(tmp_path / "clip.wav", tone[None], 44_100)
    clip = middle_clip(tmp_path / "clip.wav")
    assert clip.shape == (1, 240_000)
    spectrum = torch.fft.rfft(clip[0]).abs()
    assert spectrum.argmax().item() == 4410  # bins of 0.1 Hz


def test_unfit_clips_are_refused_before_anything_is_loaded(tmp_path):
    audio.write(tmp_path / "short.wav", torch.zeros(1, 16_000 * 9), 16_000)
    with pytest.raises(ParameterError, match=r"lasts 9.00 s; it must be at least 10 s"):
        resolve_style(str(tmp_path / "short.wav"), singer())
    with pytest.raises(AudioError):
        resolve_style(str(tmp_path / "none.mp3"), singer())
    with pytest.raises(ParameterError, match="the style is empty"):
        resolve_style(" ", singer())


@pytest.mark.parametrize(
    ("word", "tones", "spoken"),
    [  # the rules of any textbook: X不X is neutral in the middle; 一 counts in 一百一 and bends before 千
        ("看不见", (zh.FALLING, zh.FALLING, zh.FALLING), [zh.FALLING, zh.NEUTRAL, zh.FALLING]),
        ("不不", (zh.FALLING, zh.FALLING), [zh.FALLING, zh.FALLING]),
        ("一千", (zh.LEVEL, zh.LEVEL), [zh.FALLING, zh.LEVEL]),
        ("一二", (zh.LEVEL, zh.FALLING), [zh.LEVEL, zh.FALLING]),
    ],
)
def test_tones_bend(word, tones, spoken):
    assert zh.sandhi(word, tones) == spoken
