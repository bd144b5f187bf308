"""Memory of long sounds: what grows is sound, latents and curves, never frames times features."""

import os
import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent
D_SAE, SHORT, LONG = 8192, 5, 15
"""Features; seconds. At 150 frames a second, the dense activations of the difference take 47 MiB, once."""


def peak() -> float:
    """Return the most memory that this process has held, in MiB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def look_and_steer(folder: str) -> None:
    """Print the peak after a short sound and after a long one; in a process of its own."""
    from tiny_bundle import tiny_bundle
    from tiny_models import noise, tiny_space

    from sae_audio.audio import Sound
    from sae_audio.pipeline import analyse, steer

    space = tiny_space(Path(folder), "encodec-48khz")
    bundle = tiny_bundle(spec=space.spec, d_sae=D_SAE)
    for seconds in (SHORT, LONG):
        tone = 0.3 * torch.sin(2 * torch.pi * 440 * torch.arange(48_000 * seconds) / 48_000)
        sound = Sound(tone + noise(2, 48_000 * seconds, level=0.01), 48_000)
        view = analyse(bundle, sound, space=space)
        assert view.acts.shape == (150 * seconds, D_SAE) and len(view.acts.values()) <= 3 * 150 * seconds
        done = steer(bundle, sound, {"pitch": 2, "loudness": -1.0, "brightness": 0.5}, features={0: 1.0}, space=space)
        assert done.sound.samples.shape == sound.samples.shape
        print(peak())


def test_twenty_minutes_would_fit(tmp_path):
    code = f"import test_long_sounds; test_long_sounds.look_and_steer({str(tmp_path)!r})"
    paths = f"import sys; sys.path[:0] = [{str(ROOT / 'tests')!r}, {str(ROOT)!r}]; "
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**22)}  # what is freed goes back: the peak was held
    done = subprocess.run([sys.executable, "-c", paths + code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    short, long = map(float, done.stdout.split()[-2:])
    assert long - short < 130  # MiB; with dense activations about 270, with the sound alone 4 a copy
