"""How well the étude codec keeps what it hears, and how fast: ``python -m benchmarks.etude_codec``.

    python -m benchmarks.etude_codec                      the table of the README, about two minutes
    python -m benchmarks.etude_codec --clips 8 --json -   a quick look, machine readable
    python -m benchmarks.etude_codec --true-magnitudes    what Griffin-Lim alone costs: decodes the exact magnitudes

Original against decoded, on test clips (scores never trained on), grouped by synthesiser and by whether the timbre was held out:

- f0: share of frames voiced in the original whose decoded f0 is within 50 cents; unvoiced there counts as a miss. Both by the
  package's YIN, on melodies (YIN has no meaning on chords).
- rms: correlation of loudness in dBFS over frames where the original is above -60 dBFS; "rms clip" is the median of the same
  within one clip, where the loudness of clips plays no part; "rms dB" is the mean absolute difference.
- centroid: correlation of log2 of the spectral centroid in Hz over the same frames; "cent clip" the median within a clip.
- mel-L1: mean absolute difference of natural-log mel magnitudes: Hann window of 1024, hop 320, 80 HTK bands from 0 to 8 kHz,
  triangles of height 1, full-scale sine = 1, floored at -100 dBFS (1e-5); over all frames and bands. "mel -80" floors at -80.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor
from torchaudio.functional import melscale_fbanks

from sae_audio.audio import read
from sae_audio.descriptors import describe
from sae_audio.errors import DataError
from sae_audio.etude.corpus import Clip, corpus
from sae_audio.fitting import resample
from sae_audio.latent_spaces.etude import EtudeCodec
from sae_audio.units import to_db

ROOT = Path(__file__).resolve().parent.parent
RATE, HOP = 16_000, 320
BARS = {"f0": 0.97, "rms": 0.95, "centroid": 0.97, "mel-L1": 0.16, "encode": 100.0, "decode": 50.0}
SPEECH = "The quick brown fox jumps over the lazy dog, and nobody minds at all."


def mel(audio: Tensor) -> Tensor:
    """Return mel magnitudes ``[B, 80, frames]`` of audio ``[B, N]``, as defined at the top."""
    spectra = torch.stft(audio, 1024, HOP, window=torch.hann_window(1024), return_complex=True).abs() / 256
    bank = melscale_fbanks(513, 0.0, RATE / 2, 80, RATE)
    return (spectra.transpose(1, 2) @ bank).transpose(1, 2)


def mel_l1(a: Tensor, b: Tensor, floor: float) -> Tensor:
    """Return the mean absolute difference of the natural logarithms of mel magnitudes, floored."""
    return (a.clamp(min=floor).log() - b.clamp(min=floor).log()).abs().mean()


def compare(original: Tensor, decoded: Tensor, melody: bool) -> dict[str, Tensor]:
    """Return the frames that the table is made of, for one clip ``[1, 1, N]`` and its decoding."""
    a, b = describe(original, RATE, HOP), describe(decoded, RATE, HOP)
    heard = to_db(a.rms) > -60
    voiced = heard & ~a.f0.isnan() if melody else torch.zeros_like(heard)
    mels = mel(original[0]), mel(decoded[0])
    cents = 1200 * (b.f0 / a.f0).log2().abs()
    return {
        "hits": (cents[voiced] <= 50).float(),
        "rms": torch.stack([to_db(a.rms)[heard], to_db(b.rms)[heard]]),
        "centroid": torch.stack([a.centroid[heard], b.centroid[heard]]).clamp(min=1).log2(),
        "mel-L1": mel_l1(*mels, 1e-5),
        "mel -80": mel_l1(*mels, 1e-4),
    }


def correlation(pairs: Tensor) -> float:
    """Return Pearson's correlation of the two rows of ``[2, n]``."""
    return float(torch.corrcoef(pairs.double())[0, 1])


def within_clips(rows: list[dict], name: str) -> float:
    """Return the median over clips of the correlation within a clip."""
    return float(torch.tensor([correlation(row[name]) for row in rows if row[name].shape[1] > 20]).median())


def summarise(rows: list[dict]) -> dict[str, float]:
    """Return one line of the table from the frames of its clips."""
    loudness, centroid = (torch.cat([row[name] for row in rows], dim=1) for name in ("rms", "centroid"))
    return {
        "clips": len(rows),
        "f0": float(torch.cat([row["hits"] for row in rows]).mean()),
        "rms": correlation(loudness),
        "rms clip": within_clips(rows, "rms"),
        "rms dB": float((loudness[0] - loudness[1]).abs().mean()),
        "centroid": correlation(centroid),
        "cent clip": within_clips(rows, "centroid"),
        **{name: float(torch.stack([row[name] for row in rows]).mean()) for name in ("mel-L1", "mel -80")},
    }


def test_clips(count: int, source: str) -> list[Clip]:
    """Return the first clips of the test split of one synthesiser, seen and held-out timbres about equally."""
    minutes = count / 6 / 0.15 + 0.1
    return list(corpus(minutes, 0, source, split="test"))[:count]


def decode(space: EtudeCodec, audio: Tensor, true_magnitudes: bool) -> Tensor:
    """Return audio ``[1, 1, N]`` after the codec, or after its phase method alone."""
    if not true_magnitudes:
        return space.decode(space.encode(audio), like=audio)
    model = space.model
    magnitudes = model.spectra(audio[:, 0]).flatten(1, 2)
    return model.synthesise(magnitudes, model.turns(magnitudes))[:, None, : audio.shape[-1]]


def speech() -> Tensor | None:
    """Return a sentence ``[1, 1, N]`` spoken by espeak-ng, or None where that is not installed."""
    if shutil.which("espeak-ng") is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        subprocess.run(["espeak-ng", "-w", str(path), SPEECH], check=True)
        sound = read(path)
    return resample(sound.samples[:1], sound.sample_rate, RATE)[None]


def measure(space: EtudeCodec, count: int, true_magnitudes: bool) -> dict[str, dict]:
    """Return the table, line by line."""
    groups: dict[str, list[dict]] = {}
    for source in ("fluidr3", "additive"):
        for clip in test_clips(count, source):
            audio = torch.from_numpy(clip.render())[None, None]
            row = compare(audio, decode(space, audio, true_magnitudes), not clip.polyphonic)
            kind = "held-out" if clip.held_out_timbre else "seen"
            for group in (f"{source}, {kind} timbres", f"all, {kind} timbres"):
                groups.setdefault(group, []).append(row)
    if (spoken := speech()) is not None:
        groups["espeak-ng sentence"] = [compare(spoken, decode(space, spoken, true_magnitudes), True)]
    return {name: summarise(groups[name]) for name in sorted(groups, key=lambda name: ("held" not in name, name))}


def speed(space: EtudeCodec, seconds: int = 60) -> dict[str, float]:
    """Return × real time of encoding and decoding one minute, best of three."""
    audio = 0.1 * torch.randn(1, 1, seconds * RATE, generator=torch.Generator().manual_seed(0))
    latents = space.encode(audio)
    return {
        "encode": seconds / min(_seconds(lambda: space.encode(audio)) for _ in range(3)),
        "decode": seconds / min(_seconds(lambda: space.decode(latents)) for _ in range(3)),
    }


def _seconds(job) -> float:
    began = time.perf_counter()
    job()
    return time.perf_counter() - began


def show(table: dict[str, dict], fast: dict[str, float]) -> None:
    """Print the table, with the bars under it."""
    columns = ["clips", "f0", "rms", "rms clip", "rms dB", "centroid", "cent clip", "mel-L1", "mel -80"]
    print(f"{'':28}" + "".join(f"{name:>11}" for name in columns))
    for name, line in {**table, "bar (held-out timbres)": BARS}.items():
        cells = [f"{line[c]:11.3f}" if c in line and c != "clips" else f"{line.get(c, '')!s:>11}" for c in columns]
        print(f"{name:28}" + "".join(cells))
    print("\n".join(f"{name}: {value:.0f} x real time (bar {BARS[name]:.0f})" for name, value in fast.items()))


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codec", type=Path, default=ROOT / "checkpoints" / "etude-codec", help="folder of the codec")
    parser.add_argument("--clips", type=int, default=80, help="test clips of 10 s per synthesiser")
    parser.add_argument("--true-magnitudes", action="store_true", help="decode exact magnitudes: the phase method alone")
    parser.add_argument("--json", help="also write the numbers to this file; - prints them instead of the table")
    args = parser.parse_args()
    space = EtudeCodec.load(args.codec)
    table, fast = measure(space, args.clips, args.true_magnitudes), speed(space)
    text = json.dumps({"quality": table, "speed": fast, "bars": BARS}, indent=2, sort_keys=True)
    if args.json == "-":
        print(text)
        return
    show(table, fast)
    if args.json:
        Path(args.json).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except DataError as error:
        sys.exit(str(error))
