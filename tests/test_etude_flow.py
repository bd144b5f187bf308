"""Recipe of étude-flow on a toy flow: what is drawn, that it learns, that it resumes bit for bit; note tokens and the cache."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sae_audio.diffrhythm.checkpoint import load_generator
from sae_audio.diffrhythm.dit import DiTConfig
from sae_audio.diffrhythm.sampler import sample
from sae_audio.errors import DataError
from sae_audio.etude.corpus import corpus
from sae_audio.etude.flow_batch import draw, flow_loss
from sae_audio.etude.flow_data import N_PITCHES, N_TOKENS, FlowData, corpus_data, encode_clips, note_tokens, style_names
from sae_audio.etude.programs import PROGRAMS
from sae_audio.etude.scores import Note, Score
from sae_audio.etude.train_flow import ETUDE_FLOW, GUIDANCE, FlowRecipe, Trainer, export, fit, learning_rate
from sae_audio.latent_spaces.etude import EtudeCodec

CODEC = Path(__file__).parent.parent / "checkpoints" / "etude-codec"
TINY = DiTConfig(
    dim=32, depth=2, heads=2, ff_mult=2, text_dim=16, conv_layers=1, text_num_embeds=N_TOKENS, style_dim=8, time_dim=32
)  # fmt: skip


def toy_data(clips: int = 24, seed: int = 0) -> FlowData:
    """Latents that are nothing but the note (first half of the channels) and the style (second half)."""
    rng = torch.Generator().manual_seed(seed)
    notes = torch.randint(60, 63, (clips, 4), generator=rng).repeat_interleave(5, dim=1)
    styles = torch.randint(0, 2, (clips,), generator=rng)
    directions = torch.randn(128, 32, generator=torch.Generator().manual_seed(7))
    latents = torch.cat([directions[notes], directions[styles + 100][:, None].expand(-1, 20, -1)], dim=-1)
    return FlowData(latents.half(), notes.short(), styles)


# --- notes -----------------------------------------------------------------------------------------------------------------


def test_note_tokens_by_hand():
    """At 10 Hz frame centres are .05, .15, ...: [.1, .3) holds frames 1 and 2; the top of two notes moves up by 128."""
    notes = (Note(0.1, 0.2, 60.1, 1.0), Note(0.5, 0.3, 64.0, 1.0), Note(0.6, 0.1, 67.9, 1.0), Note(0.7, 0.25, 50.0, 1.0))
    score = Score(notes, 1.0, ((0.0, 0.0), (1.0, 0.0)), -10.0, 2)
    assert note_tokens(score, 10, 10.0).tolist() == [0, 61, 61, 0, 0, 65, 69 + 128, 65 + 128, 51, 0]


def test_tokens_of_melodies_are_their_f0():
    for clip in (clip for clip in corpus(2.0, 3, "additive", split="train") if not clip.polyphonic):
        tokens, midi = note_tokens(clip.score, 500), 69 + 12 * np.log2(clip.f0 / 440)
        assert ((tokens == 0) == np.isnan(midi)).all()
        assert np.abs(tokens - 1 - midi)[tokens > 0].max() < 0.5  # 15 cents of tuning, 30 of vibrato
        assert tokens.max() <= N_PITCHES


def test_styles_are_the_timbres_of_training_clips():
    names = style_names()
    assert len(set(names)) == len(names) == 178
    assert not {program.name for program in PROGRAMS if program.held_out} & set(names)
    for seed in (0, 1):
        assert {clip.timbre for clip in corpus(20.0, seed, split="validation")} <= set(names)


def test_encoded_corpus_is_kept(tmp_path):
    codec, path = EtudeCodec.load(CODEC), tmp_path / "data.safetensors"
    data = corpus_data(path, 0.2, 5, "train", codec, "additive")
    clip = next(corpus(0.2, 5, "additive", split="train"))
    latents = codec.encode(torch.from_numpy(clip.render())[None, None])
    assert torch.equal(data.latents, latents.half()) and data.notes.shape == (1, 500)
    assert style_names()[data.styles[0]] == clip.timbre
    again = corpus_data(path, 0.2, 5, "train", None, "additive")  # no codec: nothing is encoded
    assert all(torch.equal(a, b) for a, b in zip(data, again, strict=True))
    with pytest.raises(DataError, match="another seed; remove it"):
        corpus_data(path, 0.2, 6, "train", codec, "additive")


def test_held_out_timbres_have_no_style():
    clip = next(clip for clip in corpus(30.0, 0, "additive", split="test") if clip.held_out_timbre)
    with pytest.raises(DataError, match=f"'{clip.timbre}', a held-out timbre"):
        encode_clips([clip], EtudeCodec.load(CODEC))


# --- training --------------------------------------------------------------------------------------------------------------


def test_what_is_drawn():
    trainer, data = Trainer(FlowRecipe(), TINY), toy_data()
    trainer.standardise(data)
    batches = [draw(trainer.model, data, step, seed=0) for step in range(300)]
    again = draw(trainer.model, data, 7, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(again, batches[7], strict=True))
    assert not torch.equal(draw(trainer.model, data, 7, seed=1).noise, again.noise)
    t, styles = torch.cat([b.t for b in batches]), torch.cat([b.styles for b in batches])
    silent = torch.cat([(b.notes == 0).all(dim=1) for b in batches])
    given = torch.cat([b.given.any(dim=1) for b in batches])
    nothing = styles == len(style_names())
    logit = torch.logit(t)
    assert abs(logit.mean()) < 0.05 and abs(logit.std() - 1) < 0.05  # sigmoid of a standard normal
    assert abs(nothing.float().mean() - 0.12) < 0.03 and abs(silent.float().mean() - 0.20) < 0.03
    assert bool(silent[nothing].all()) and not bool(given[nothing].any())
    assert 0.05 < given.float().mean() < 0.2
    assert not any(bool(b.given.all(dim=1).any()) for b in batches)  # something is always left to generate
    assert {len(b.latents) for b in batches} == {2, 3, 6}


def test_flow_loss_by_hand():
    """A network that says 0 errs by (latents − noise)², on the frames that are not given."""
    trainer, data = Trainer(FlowRecipe(), TINY), toy_data()
    batch = draw(trainer.model, data, 0, seed=0)
    batch = batch._replace(given=(torch.arange(20) < 8).expand(len(batch.t), -1))
    expected = (batch.latents - batch.noise)[:, 8:].square().mean(dim=(1, 2))
    torch.testing.assert_close(flow_loss(trainer.model, batch), expected)  # the last layer starts at zero


def test_learning_rate():
    recipe = FlowRecipe(steps=10_000, lr=1.0)
    rates = [learning_rate(step, recipe) for step in (0, 499, 500, 6000, 8000, 9999)]
    assert rates == pytest.approx([1 / 500, 1, 1, 1, 0.5, 1 / 4000])


def test_shipped_size():
    model = Trainer(FlowRecipe(), ETUDE_FLOW).model
    assert 4 * sum(value.numel() for value in model.state_dict().values()) < 15e6


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    recipe = FlowRecipe(steps=300, out=tmp_path_factory.mktemp("flow"), eval_every=150, lr=1e-2, ema=0.9)
    model = fit(recipe, TINY, toy_data(), toy_data(seed=1))
    return recipe.out, model


def test_it_learns(trained):
    out, _ = trained
    rows = [json.loads(row) for row in (out / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [150, 300]
    assert rows[1]["train"] < 0.8 * rows[0]["train"]
    assert sum(rows[1]["validation"].values()) < sum(rows[0]["validation"].values())
    assert not [path for path in out.iterdir() if "partial" in path.name]


def test_conditions_matter(trained):
    """On held-out clips the right notes and the right style are worth having."""
    _, model = trained
    data = toy_data(clips=64, seed=2)
    z = model.standardise(data.latents.float())
    t = torch.full((64,), 0.3)
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(0))
    batch = draw(model, data, 0, 0)._replace(
        latents=z, noise=noise, t=t, given=torch.zeros(64, 20, dtype=torch.bool), notes=data.notes.long(), styles=data.styles
    )
    with torch.no_grad():
        right, other_notes, other_style = (
            flow_loss(model, b).mean()
            for b in (batch, batch._replace(notes=batch.notes.flip(1)), batch._replace(styles=1 - batch.styles))
        )
    assert right < 0.8 * other_notes and right < 0.8 * other_style


def test_samples_play_the_notes(trained):
    _, model = trained
    data = toy_data(clips=16, seed=3)
    latents = sample(
        model, model.styles(data.styles), frames=20, null_style=model.null_style, text=data.notes.long(), guidance=1.0, seed=0
    )
    choices = torch.randn(128, 32, generator=torch.Generator().manual_seed(7))[60:63]
    heard = torch.cdist(latents[..., :32], choices).argmin(dim=-1) + 60
    assert (heard == data.notes).float().mean() > 0.8


def test_resumed_training_is_the_same_bit_for_bit(tmp_path):
    data, held = toy_data(), toy_data(seed=1)
    recipe = FlowRecipe(steps=12, out=tmp_path / "whole", eval_every=6)
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole = fit(recipe, TINY, data, held)
    parts = replace(recipe, out=tmp_path / "parts")
    first = Trainer(parts, TINY)
    first.standardise(data)
    for step in range(6):
        first.step(data, step)
    first.save()
    resumed = fit(replace(parts, resume=True), TINY, data, held)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    for name in ("training.safetensors", "model.safetensors", "config.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()


def test_nothing_to_resume(tmp_path):
    with pytest.raises(DataError, match="nothing to resume"):
        fit(FlowRecipe(out=tmp_path, resume=True), TINY, toy_data(), toy_data())


def test_another_run_is_not_resumed(trained):
    out, _ = trained
    with pytest.raises(DataError, match=r"run with lr 0\.01; resume it with the same"):
        Trainer(FlowRecipe(out=out), TINY).load()


def test_export(trained, tmp_path):
    out, model = trained
    export(out, tmp_path / "ship")
    shipped = load_generator(tmp_path / "ship")
    assert shipped.guidance == GUIDANCE
    assert all(torch.equal(value, shipped.state_dict()[name]) for name, value in model.state_dict().items())
    assert sorted(path.name for path in (tmp_path / "ship").iterdir()) == ["config.json", "log.jsonl", "model.safetensors"]
