"""The table under the player: what was asked, what was measured, and what moved that nobody asked for, in words with units."""

from __future__ import annotations

import math

from sae_audio.audio import Sound
from sae_audio.outcome import Outcome
from sae_audio.pipeline import Steered
from sae_audio.units import note_name
from ui.steer_settings import AS_PLAYED, Ask

DIGITS = {"pitch": 2, "loudness": 2, "brightness": 2}
UNIT = {"pitch": ("semitone", "semitones"), "loudness": ("dB", "dB"), "brightness": ("octave", "octaves")}


def lines_of(rows: list[Outcome], steered: Steered, played: tuple[Sound, Sound, Sound], ask: Ask) -> dict:
    """Return what the player shows below the pictures, JSON-ready.

    Returns
    -------
    dict
        ``measured``: per property the numbers of ``Outcome`` and ``said``, the cells of the table (original, reconstruction,
        steered, asked, got, off by); ``notes``: sentences that go with it.
    """
    measured = [{**row._asdict(), "said": said(row, ask)} for row in rows]
    return {"measured": measured, "notes": notes(rows, steered, played, ask)}


def said(row: Outcome, ask: Ask) -> list[str]:
    """Return the cells of one row."""
    levels = [level(row.property, value) for value in (row.source, row.before, row.after)]
    return [*levels, asked(row, ask), change(row.property, row.got), off(row)]


def level(name: str, value: float | None) -> str:
    """Return a pitch, loudness or brightness for people: ``A4 · 440 Hz``, ``−20.1 dBFS``, ``1.25 kHz``."""
    if value is None:
        return "no pitch" if name == "pitch" else "–"
    if name == "loudness":
        return f"{value:.1f} dBFS".replace("-", "−")
    if name == "pitch":
        return f"{note_name(69 + 12 * math.log2(value / 440))} · {value:.0f} Hz"
    return f"{value / 1000:.2f} kHz" if value >= 1000 else f"{value:.0f} Hz"


def change(name: str, value: float | None, digits: int | None = None) -> str:
    """Return a change with its sign and unit: ``+2.98 semitones``."""
    if value is None:
        return "–"
    amount = f"{value:+.{DIGITS[name] if digits is None else digits}f}"
    amount = amount[1:] if float(amount) == 0 else amount
    return f"{amount.replace('-', '−')} {UNIT[name][abs(float(value)) != 1]}"


def asked(row: Outcome, ask: Ask) -> str:
    """Return what was asked of a property."""
    if row.asked is None:
        return "no amount"
    if row.property == "pitch" and ask.note != AS_PLAYED and not row.kept:
        return f"{ask.note}"
    if row.kept:
        return "keep"
    exact = {"pitch": ask.semitones, "loudness": ask.loudness, "brightness": ask.brightness}[row.property]
    return change(row.property, exact, {"pitch": 0, "loudness": 1, "brightness": 2}[row.property])


def off(row: Outcome) -> str:
    """Return how far the result is from what was asked; for a kept property, what moved all the same."""
    if row.miss is None:
        return "–"
    return change(row.property, row.miss)


def notes(rows: list[Outcome], steered: Steered, played: tuple[Sound, Sound, Sound], ask: Ask) -> list[str]:
    """Return what a reader of the table should know."""
    found = []
    pitch = next(row for row in rows if row.property == "pitch")
    if pitch.hits is not None:
        found.append(f"{100 * pitch.hits:.0f} % of the pitched frames are within 50 cents of the pitch asked for.")
    together, steered_by = (lowered(*pair) for pair in ((steered.reconstruction, played[1]), (steered.sound, played[2])))
    if together > 0:
        found.append(f"All three play {together:.1f} dB lower than measured, since they go over full scale.")
    if steered_by > together:
        found.append(f"The steered sound plays and is saved {steered_by:.1f} dB lower than measured: it goes over full scale.")
    if not (ask.moves or ask.features or ask.pushes):
        found.append("Nothing was asked for: the steered sound is the reconstruction, sample for sample.")
    return found


def lowered(measured: Sound, played: Sound) -> float:
    """Return by how many dB a sound is played lower than it was measured, to a tenth."""
    peaks = [float(sound.samples.abs().max()) for sound in (measured, played)]
    return round(20 * math.log10(peaks[0] / peaks[1]), 1) if min(peaks) > 0 else 0.0
