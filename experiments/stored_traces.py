"""Precomputed traces for a page without the time to generate: ``python -m experiments.stored_traces``.

    python -m experiments.stored_traces [--out checkpoints/etude-flow/traces]        half a minute

Three songs of 3 s, float16: x_t and x̂₁ at some points and the result, with the curves over all points; 2 MB together. What
probes read is left out, since ``ProbeReader(bundle)`` reads it from the latents in milliseconds. ``load_traces(folder)`` reads
them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from sae_audio.bundle import Bundle
from sae_audio.bundle_space import space_of
from sae_audio.etude.notes import notes_row
from sae_audio.generation import Request, trace
from sae_audio.generators import frames_of, load_model

SECONDS = 3.0
SONGS = {
    "piano-arpeggio": ("grand piano", 1, "C4:0.5 E4:0.5 G4:0.5 C5:0.5 G4:0.5 E4:0.5"),
    "violin-melody": ("violin", 2, "A4:0.9 rest:0.1 B4:0.5 C#5:0.5 E5:0.9"),
    "sax-free": ("alto sax", 3, None),
}
"""Style, seed and notes; without notes the model makes up its own."""
POINTS = (0, *range(1, 31, 2))
"""Points that are kept besides the result: every second one, so that scrubbing and replay move evenly."""
MOST = 2_500_000
"""Bytes of all files together, at most."""


def main() -> None:
    """Generate the songs and write their traces."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="etude-flow", help="generator: étude-flow or a folder")
    parser.add_argument("--bundle", default="checkpoints/etude", help="folder or Hub id (default: the shipped one)")
    parser.add_argument("--out", type=Path, default=Path("checkpoints/etude-flow/traces"), help="folder of the traces")
    options = parser.parse_args()
    model, bundle = load_model(options.model), Bundle.from_pretrained(options.bundle)
    space = space_of(bundle)
    options.out.mkdir(parents=True, exist_ok=True)
    size = 0
    for name, (style, seed, notes) in SONGS.items():
        text = None if notes is None else notes_row(notes, frames_of(model, SECONDS), model.generator)
        request = Request(style, seconds=SECONDS, seed=seed, text=text)
        found = trace(bundle, request, model=model, space=space, listen=POINTS)
        found = found.thin(POINTS).half().without_posteriors()
        found.facts["notes"] = notes
        size += sum(path.stat().st_size for path in found.save(options.out / name))
        print(f"{options.out / name}: {style}, decided at {decided(found.facts['curves'])}")
    print(f"{size / 1e6:.2f} MB" + (f", more than {MOST / 1e6:g}; keep fewer points" if size > MOST else ""))


def decided(curves: dict) -> str:
    """Return in words from which point x̂₁ has the class that it ends with."""
    return ", ".join(f"{name} {found['read']['latents/x1']['decided']}" for name, found in curves.items())


if __name__ == "__main__":
    main()
