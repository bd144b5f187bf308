"""Memory for ten minutes of stereo through Stable Audio's VAE at its public size: ``python -m benchmarks.long_clip``.

Random weights, which change neither memory nor speed; about 50 minutes of one processor. The bar is 4 GB.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from sae_audio.latent_spaces.oobleck import Oobleck


def peak() -> str:
    """Return the most memory that this process has held, weights and imports included, as Linux says it."""
    return next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))


def main() -> None:
    """Encode and decode one clip and print the peak after each."""
    from diffusers import AutoencoderOobleck

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=600)
    seconds = parser.parse_args().seconds
    space = Oobleck(AutoencoderOobleck().eval())
    audio = torch.randn(1, 2, 44_100 * seconds, generator=torch.Generator().manual_seed(0)).mul_(0.1)
    print("loaded", peak(), flush=True)
    latents = space.encode(audio)
    print("encoded", list(latents.shape), peak(), flush=True)
    print("decoded", list(space.decode(latents, like=audio).shape), peak())


if __name__ == "__main__":
    main()
