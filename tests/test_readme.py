"""The README's commands and code run as they stand, on the shipped bundle."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sae_audio import cli

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^    python -m sae_audio (.+?)(?:  +#.*)?$", README, re.MULTILINE)


@pytest.fixture
def song(tmp_path):
    """Four seconds of a slow harmonic scale."""
    t = np.arange(4 * 22_050) / 22_050
    f0 = 220 * 2 ** (np.floor(t * 2) / 12)
    phase = 2 * np.pi * np.cumsum(f0) / 22_050
    soundfile.write(tmp_path / "song.wav", sum(np.sin(k * phase) / k for k in range(1, 7)) * 0.1, 22_050)
    return tmp_path / "song.wav"


def test_there_are_commands():
    assert len(COMMANDS) >= 6


NETWORK = ("ASLP-lab/", "user/")
"""Repositories on the real Hub, which tests never reach: such a command is only parsed."""


@pytest.mark.parametrize("command", [c for c in COMMANDS if not c.startswith("eval") and not any(n in c for n in NETWORK)])
def test_commands(command, song, monkeypatch):
    monkeypatch.chdir(song.parent)
    assert cli.main(shlex.split(command)) == 0


@pytest.mark.parametrize("command", [c for c in COMMANDS if any(n in c for n in NETWORK)])
def test_commands_of_the_hub_parse(command):
    cli._parser().parse_args(shlex.split(command))


def test_python(song):
    (code,) = (code for code in re.findall(r"```python\n(.+?)```", README, re.DOTALL) if "gradio_client" not in code)
    code = code.replace('"song.wav"', repr(str(song)))
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_training_options_exist():
    sys.path.insert(0, str(ROOT))
    import train

    for line in re.findall(r"^    (?:python|accelerate launch) train\.py (.+?)(?:  +#.*)?$", README, re.MULTILINE):
        train.parse(shlex.split(line))


def test_the_table_of_spaces_is_that_of_the_code():
    from sae_audio.latent_spaces import SPACES

    rows = dict(re.findall(r"^\| `([\w.-]+)` \| (\d+ \| \d \| [\d.]+ \| \d+ \| [^|]+ \| [^|]+) \|", README, re.MULTILINE))
    for name, row in SPACES.items():
        taps = ", ".join(row.taps) or f"layer 0-{row.layers}"
        rate = f"{row.sample_rate / row.hop_length:.4g}"
        assert rows.pop(name) == f"{row.sample_rate} | {row.channels} | {rate} | {row.d_in} | {taps} | {row.licence}"
    assert not rows
