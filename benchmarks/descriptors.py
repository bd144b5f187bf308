"""Accuracy and speed of the f0 trackers, and speed of all three descriptors together.

    python -m benchmarks.descriptors                                  # 16 clips per synthesiser, yin / librosa.yin / pyin
    python -m benchmarks.descriptors --clips 4 --trackers yin crepe-tiny
    python -m benchmarks.descriptors --sources additive               # without fluidsynth

Clips are single-voiced test clips of the étude corpus with exact labels; accuracy is mir_eval.melody at 50 cents over frames
louder than -60 dBFS. Release tails and room count as unvoiced in the labels although they still sound, which puts a floor
under the false-alarm rate of every tracker. Trackers take turns clip by clip in one process, so load hits them alike.
"""

from __future__ import annotations

import argparse
import time
import warnings
from itertools import islice

import numpy as np
import torch

from sae_audio.descriptors import describe
from sae_audio.etude.corpus import FRAME_RATE, SAMPLE_RATE, Clip, corpus
from sae_audio.trackers import TRACKERS
from sae_audio.units import SILENCE_DB, to_db

HOP = round(SAMPLE_RATE / FRAME_RATE)
GRIDS = {"étude": (16_000, 320), "EnCodec 24 kHz": (24_000, 320), "EnCodec 32 kHz": (32_000, 640)}
GRIDS |= {"EnCodec 48 kHz": (48_000, 320), "Stable Audio / DiffRhythm": (44_100, 2048)}
METRICS = ("Raw Pitch Accuracy", "Raw Chroma Accuracy", "Overall Accuracy", "Voicing Recall", "Voicing False Alarm")


def main() -> None:
    """Print both tables."""
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    for source in arguments.sources:
        print_accuracy(source, arguments.clips, arguments.trackers)
    print_speed(arguments.seconds)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=16, help="10-second clips per synthesiser")
    parser.add_argument(
        "--sources", nargs="+", default=["additive", "fluidr3"], choices=["additive", "fluidr3"], help="synthesisers"
    )
    parser.add_argument(
        "--trackers", nargs="+", default=["yin", "librosa-yin", "pyin"], choices=list(TRACKERS), help="pitch trackers to compare"
    )
    parser.add_argument("--seconds", type=int, default=120, help="audio of the speed table")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    return parser.parse_args()


def labelled_clips(source: str, count: int) -> list[Clip]:
    """Return the first single-voiced test clips; minutes are plenty, since clips are rendered only when asked for."""
    return list(islice((clip for clip in corpus(10.0 * count, source=source, split="test") if not clip.polyphonic), count))


def print_accuracy(source: str, count: int, trackers: list[str]) -> None:
    """Print one row per tracker."""
    import mir_eval

    clips = labelled_clips(source, count)
    audio = [torch.from_numpy(clip.render())[None, None] for clip in clips]
    seconds, estimates = time_trackers(audio, trackers)
    reference = np.concatenate([clip.f0 for clip in clips])
    audible = np.concatenate([(to_db(describe(x, SAMPLE_RATE, HOP).rms[0]) >= SILENCE_DB).numpy() for x in audio])
    reference = np.where(audible & np.isfinite(reference), reference, 0.0)
    times = np.arange(len(reference)) / FRAME_RATE
    print(f"\n{source}: {count} clips, {len(reference) / FRAME_RATE:.0f} s, {torch.get_num_threads()} threads\n")
    print("| tracker | × real time | " + " | ".join(METRICS) + " |\n|---|---|" + "---|" * len(METRICS))
    for tracker in trackers:
        f0 = np.nan_to_num(np.concatenate(estimates[tracker]))
        scores = mir_eval.melody.evaluate(times, reference, times, f0)
        speed = len(reference) / FRAME_RATE / seconds[tracker]
        print(f"| {tracker} | {speed:.1f} | " + " | ".join(f"{scores[name]:.3f}" for name in METRICS) + " |")


def time_trackers(audio: list[torch.Tensor], trackers: list[str]) -> tuple[dict, dict]:
    """Return the seconds that each tracker took over all clips, and its f0 per clip."""
    seconds, estimates = dict.fromkeys(trackers, 0.0), {tracker: [] for tracker in trackers}
    for tracker in trackers:  # first calls compile and import
        describe(audio[0][..., :SAMPLE_RATE], SAMPLE_RATE, HOP, tracker=tracker)
    for clip in audio:
        for tracker in trackers:
            start = time.perf_counter()
            f0 = describe(clip, SAMPLE_RATE, HOP, tracker=tracker).f0[0].numpy()
            seconds[tracker] += time.perf_counter() - start
            estimates[tracker].append(f0)
    return seconds, estimates


def print_speed(seconds: int) -> None:
    """Print how fast f0, RMS and centroid are together, on the frame grid of each family, one long clip."""
    print(f"\nf0 + RMS + centroid, one clip of {seconds} s, best of 3\n\n| grid | rate, hop | × real time |\n|---|---|---|")
    for name, (rate, hop) in GRIDS.items():
        audio = 0.1 * torch.randn(1, 1, rate * seconds, generator=torch.Generator().manual_seed(0))
        describe(audio[..., :rate], rate, hop)
        print(f"| {name} | {rate} Hz, {hop} | {seconds / min(timed(audio, rate, hop) for _ in range(3)):.0f} |")


def timed(audio: torch.Tensor, rate: int, hop: int) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    describe(audio, rate, hop)
    return time.perf_counter() - start


if __name__ == "__main__":
    warnings.filterwarnings("ignore", category=UserWarning)  # librosa's remark on short windows
    main()
