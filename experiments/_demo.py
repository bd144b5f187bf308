"""What ``--demo`` runs on: synthesised voices in VocalSet's layout, and an AST with random weights in its public file layout."""

from __future__ import annotations

from pathlib import Path

import torch

from experiments._voice import write_corpus

SINGERS = ("female1", "female2", "female3", "female4", "male1", "male2", "male3", "male4")
"""Two of them, female2 and male3, are the publisher's test singers."""
DEMO = dict(
    seconds=1.5,
    seeds=2,
    sae_layers=["2", "4"],
    sparsity=[0.75, 0.9, 0.99],
    frames=True,
    factors="own",
    d_sae=128,
    sae_epochs=40,
    sae_steps=200,
)
"""Sizes that keep a demonstration within three minutes on two cores."""


def demo_voices(cache: Path) -> Path:
    """Return the folder of the synthesised voices, made where it is missing."""
    return write_corpus(cache / "demo-voices", SINGERS, vowels="aiu", seconds=1.5)


def demo_encoder(cache: Path) -> Path:
    """Return the folder of a tiny Audio Spectrogram Transformer with seeded random weights, made where it is missing."""
    from transformers import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification

    folder = cache / "demo-ast"
    if (folder / "model.safetensors").is_file():
        return folder
    sizes = dict(hidden_size=48, num_hidden_layers=4, num_attention_heads=4, intermediate_size=96)
    bands = dict(num_mel_bins=64, max_length=192)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ASTForAudioClassification(ASTConfig(**sizes, **bands, initializer_range=0.1))
        embeddings = model.audio_spectrogram_transformer.embeddings
        for tokens in (embeddings.cls_token, embeddings.distillation_token, embeddings.position_embeddings):  # zero at first
            tokens.data.normal_(std=0.1)
    ASTFeatureExtractor(**bands).save_pretrained(folder)
    model.save_pretrained(folder)
    return folder
