"""Stand-ins for the five corpora of arXiv 2510.23802: a few seconds of synthesised sound each, in the layout of the archives."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import soundfile


def tone(path: Path, note: int, seconds: float = 1.0, rate: int = 44_100, channels: int = 1, level: float = 0.3) -> None:
    """Write a harmonic tone that swells, so that pitch, loudness and brightness all vary between files and in them."""
    t = np.arange(round(seconds * rate)) / rate
    f0 = 440 * 2 ** ((note - 69) / 12)
    sound = sum(np.sin(2 * np.pi * k * f0 * t) / k ** (1 + note % 3) for k in range(1, 6))
    swell = level * (0.2 + 0.8 * np.sin(np.pi * t / t[-1]) ** 2)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.repeat((sound * swell / 2)[:, None], channels, axis=1), rate)


def table(path: Path, rows: list[dict]) -> None:
    """Write a CSV with a header."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def cocochorales(folder: Path, tracks: int = 8, seconds: float = 1.0) -> Path:
    """Mixes with their stems; two ensembles play each score."""
    for i in range(tracks):
        track = folder / "main_dataset" / "train" / f"{('string', 'brass')[i % 2]}_track{i:06d}"
        tone(track / "mix.wav", 48 + 3 * i, seconds, rate=16_000)
        tone(track / "stems_audio" / "0_violin.wav", 60 + i, 0.1, rate=16_000)
        (track / "metadata.yaml").write_text(f"midi_file: {i // 2}.mid\ntempo: 88\n", encoding="utf-8")
    return folder


def damp(folder: Path, performances: int = 8, seconds: float = 1.0) -> Path:
    """Vocal tracks with their backgrounds; two performances of each arrangement."""
    for i in range(performances):
        home = folder / str(i) / "GB" / "en" / f"{100 + i // 2}_{2000 + i}"
        tone(home / "vocal.ogg", 55 + 2 * i, seconds)
        (home / "background.m4a").write_bytes(b"not ours to read")
    return folder


def vocalset(folder: Path, singers: int = 4, seconds: float = 1.0) -> Path:
    """VocalSet with the second copies that come with it."""
    for i in range(singers):
        for letter in "ae":
            file = Path("scales") / "straight" / f"f{i}_scales_{letter}.wav"
            tone(folder / "FULL" / f"female{i + 1}" / file, 57 + 2 * i, seconds)
            tone(folder / "data_by_singer" / "train" / f"female{i + 1}" / file, 57 + 2 * i, seconds)
    return folder


def groove(folder: Path, drummers: int = 4, seconds: float = 1.0) -> Path:
    """Drummers with two performances each and one of MIDI alone, in the folder that the archive unpacks to."""
    rows = []
    for i in range(drummers * 3):
        name = f"drummer{i // 3 + 1}/session1/{i}_funk_80_beat_4-4"
        if i % 3 < 2:
            tone(folder / "groove" / f"{name}.wav", 40 + 3 * i, seconds)
        audio = f"{name}.wav" if i % 3 < 2 else ""
        rows.append(
            {"drummer": f"drummer{i // 3 + 1}", "midi_filename": f"{name}.mid", "audio_filename": audio, "split": "train"}
        )
    table(folder / "groove" / "info.csv", rows)
    return folder


def guitarset(folder: Path, players: int = 4, seconds: float = 1.0) -> Path:
    """Two excerpts by each player, through the microphone and through the pickup."""
    for i in range(players * 2):
        name = f"{i // 2:02d}_BN{i % 2 + 1}-129-Eb_comp"
        tone(folder / "audio_mono-mic" / f"{name}_mic.wav", 45 + 3 * i, seconds)
        tone(folder / "audio_mono-pickup_mix" / f"{name}_mix.wav", 45 + 3 * i, 0.1)
    return folder


def maestro(folder: Path, pieces: int = 4, seconds: float = 2.0) -> Path:
    """Two performances of each piece, in stereo, in the folder that the archive unpacks to."""
    rows = []
    for i in range(pieces * 2):
        name = f"{2004 + i % 2}/piece{i}.wav"
        tone(folder / "maestro-v3.0.0" / name, 50 + 2 * i, seconds, channels=2)
        rows.append({"canonical_composer": "Clara Schumann", "canonical_title": f"Op. {i // 2}", "audio_filename": name})
    table(folder / "maestro-v3.0.0" / "maestro-v3.0.0.csv", rows)
    return folder


WRITERS = {
    "cocochorales": cocochorales,
    "damp": damp,
    "singing": vocalset,
    "groove": groove,
    "guitarset": guitarset,
    "maestro": maestro,
}
"""By the option of ``experiments.corpora`` that takes the folder."""


def write_all(folder: Path) -> list[str]:
    """Write the five and return the options that name them; the singing corpus stands in for DAMP-VSEP."""
    options = []
    for name in ("cocochorales", "singing", "groove", "guitarset", "maestro"):
        options += [f"--{name}", str(WRITERS[name](folder / name))]
    return options
