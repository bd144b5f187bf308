"""Tiny real models of every latent space: the public classes, small, with seeded random weights, in the public file layout.

Each family's module has ``BUILDERS`` (name of a space to ``build(folder, name, **overrides) -> folder``) and ``TAPS`` (name of a
space to the taps that the tests use). A new space is tested by joining them.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import tiny_dac_mimi
import tiny_encodec
import tiny_encoders
import tiny_oobleck
import tiny_wavtokenizer
import torch
from safetensors.torch import load_file, save_file

from sae_audio.latent_spaces import LatentSpace, load_latent_space


def tiny_etude(folder: Path, name: str = "etude-codec") -> Path:
    """Save a tiny étude codec in ``folder`` and return the folder."""
    from sae_audio.etude.checkpoint import save_codec
    from sae_audio.etude.codec import CodecConfig, SpectralVAE

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = SpectralVAE(CodecConfig(d_latent=8, width=8, encoder_blocks=1, decoder_blocks=1, phase_iterations=2))
    save_codec(model, folder)
    return folder


FAMILIES = (tiny_encodec, tiny_dac_mimi, tiny_encoders, tiny_oobleck, tiny_wavtokenizer)
BUILDERS = {"etude-codec": tiny_etude} | {name: build for family in FAMILIES for name, build in family.BUILDERS.items()}
"""How to build a tiny model of each latent space."""
TAPS = {"etude-codec": ("mean",)} | {name: taps for family in FAMILIES for name, taps in family.TAPS.items()}
"""Taps that the tests run with: all of a codec, some layers of an encoder."""


def tiny_space(folder: Path, name: str, tap: str | None = None, **overrides) -> LatentSpace:
    """Build a tiny model in ``folder`` and load it through ``load_latent_space``."""
    return load_latent_space(name, tap=tap, source=BUILDERS[name](folder, name, **overrides))


def weights_of(folder: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """Return the weight file of a folder in the layout of transformers, and its tensors."""
    file = next(file for file in (folder / "model.safetensors", folder / "pytorch_model.bin") if file.exists())
    return file, load_file(file) if file.suffix == ".safetensors" else torch.load(file, weights_only=True)


def split_weights(folder: Path, copy: Path) -> Path:
    """Copy a folder with its weights split into two files and an index, as transformers saves what is large."""
    shutil.copytree(folder, copy)
    file, tensors = weights_of(copy)
    file.unlink()
    names, where = sorted(tensors), {}
    for part, own in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), start=1):
        shard = copy / f"{file.stem}-{part:05d}-of-00002{file.suffix}"
        held = {name: tensors[name] for name in own}
        save_file(held, shard, {"format": "pt"}) if file.suffix == ".safetensors" else torch.save(held, shard)
        where |= dict.fromkeys(own, shard.name)
    (copy / f"{file.name}.index.json").write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}))
    return copy


def noise(*shape: int, seed: int = 0, level: float = 0.1) -> torch.Tensor:
    """Seeded white noise of the given RMS."""
    return level * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
