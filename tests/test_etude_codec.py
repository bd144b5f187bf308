from __future__ import annotations

import importlib
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_etude_corpus import needs_fluidsynth

import sae_audio.latent_spaces.etude as adapter
from sae_audio.descriptors import describe
from sae_audio.diffrhythm.checkpoint import load_generator
from sae_audio.errors import LatentSpaceError, ParameterError
from sae_audio.etude import train_codec, train_flow
from sae_audio.etude.checkpoint import load_codec, save_codec
from sae_audio.etude.codec import CodecConfig, Posterior, SpectralVAE, compress, expand
from sae_audio.etude.codec_data import make_batch
from sae_audio.etude.codec_loss import CodecLoss, kl_divergence
from sae_audio.etude.finish_codec import finish
from sae_audio.etude.phase import turns_per_hop
from sae_audio.etude.train_codec import CodecRecipe, fit, learning_rate
from sae_audio.latent_spaces.etude import EtudeCodec
from sae_audio.units import to_db

RATE, HOP = 16_000, 320
SHIPPED = Path(__file__).parent.parent / "checkpoints" / "etude-codec"


@pytest.fixture(scope="module")
def space() -> EtudeCodec:
    return EtudeCodec.load(SHIPPED)


BAD_OPTIONS = {
    "train_codec": {"--minutes": "-1", "--steps": "-1", "--seed": "1.5"},
    "train_flow": {"--minutes": "0", "--steps": "x", "--lr": "-1"},
}


@pytest.mark.parametrize(("module", "option"), [(m, option) for m, options in BAD_OPTIONS.items() for option in options])
def test_the_trainers_refuse_numbers_in_one_line(module, option, capsys):
    value = BAD_OPTIONS[module][option]
    with pytest.raises(SystemExit) as stop:
        importlib.import_module(f"sae_audio.etude.{module}").main([option, value])
    err = capsys.readouterr().err
    assert stop.value.code == 2 and err.count("\n") == 1 and f"argument {option}: '{value}' is no " in err


@pytest.mark.parametrize("option", ["--codec", "--export"])
def test_the_flow_trainer_says_in_one_line_which_folder_is_missing(option, tmp_path, capsys):
    nope = str(tmp_path / "nope")
    assert train_flow.main([option, nope, "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: '{nope}' has no config.json") and err.count("\n") == 1


def tone(hz: float = 440.0, seconds: float = 1.0, amplitude: float = 0.3) -> torch.Tensor:
    return amplitude * torch.sin(2 * math.pi * hz * torch.arange(int(seconds * RATE)) / RATE)[None, None]


def tiny_codec() -> SpectralVAE:
    torch.manual_seed(0)
    model = SpectralVAE(CodecConfig(width=16, encoder_blocks=1, decoder_blocks=1))
    for parameter in model.parameters():  # the last layers start at zero: give them something to say
        torch.nn.init.normal_(parameter, std=0.05)
    return model


@pytest.mark.parametrize("samples", [1, 319, 320, 321, 16_000])
def test_lengths(space, samples):
    audio = torch.randn(2, 1, samples, generator=torch.Generator().manual_seed(0)) * 0.1
    latents = space.encode(audio)
    frames = -(-samples // HOP)
    assert latents.shape == (2, frames, 64) and latents.dtype == torch.float32
    assert space.decode(latents, like=audio).shape == (2, 1, samples)
    assert space.decode(latents).shape == (2, 1, frames * HOP)


def test_wrong_shapes_are_refused(space):
    with pytest.raises(ParameterError, match="takes audio"):
        space.encode(torch.zeros(1, 2, 1000))
    with pytest.raises(ParameterError, match="decodes latents"):
        space.decode(torch.zeros(1, 10, 63))
    with pytest.raises(ParameterError, match="like has 1 items of 4 frames, the latents 1 of 10"):
        space.decode(torch.zeros(1, 10, 64), like=torch.zeros(1, 1, 1000))


def test_chunks_leave_no_trace(space, monkeypatch):
    audio = tone(seconds=6.0) + 0.05 * torch.randn(1, 1, 6 * RATE, generator=torch.Generator().manual_seed(0))
    latents = space.encode(audio)
    whole = space.decode(latents)
    monkeypatch.setattr(adapter, "CHUNK", 90)
    torch.testing.assert_close(space.encode(audio), latents, atol=1e-4, rtol=0)
    difference = space.decode(latents) - whole
    assert difference.square().mean().sqrt() < 1e-3 * whole.square().mean().sqrt()


def test_same_input_same_output(space):
    latents = space.encode(tone())
    assert torch.equal(space.encode(tone()), latents)
    assert torch.equal(space.decode(latents), space.decode(latents))


def test_batch_items_do_not_touch_each_other(space):
    audio = torch.cat([tone(440.0), tone(200.0)])
    torch.testing.assert_close(space.encode(audio)[1:], space.encode(audio[1:]), atol=1e-4, rtol=0)


def test_a_tone_keeps_its_pitch_and_level(space):
    for hz in (110.0, 440.0, 1318.5):
        audio = tone(hz, 2.0)
        before, after = (describe(x, RATE, HOP) for x in (audio, space.decode(space.encode(audio))))
        inner = slice(10, 90)
        cents = 1200 * (after.f0 / before.f0).log2().abs()[0, inner]
        assert (cents < 50).float().mean() > 0.95
        assert (to_db(after.rms) - to_db(before.rms)).abs()[0, inner].median() < 1.5


def test_a_click_is_heard_in_its_own_frame(space):
    for frame in (3, 20, 41):
        audio = torch.zeros(1, 1, 50 * HOP)
        audio[0, 0, frame * HOP + HOP // 2] = 0.9
        quiet = space.encode(torch.zeros_like(audio))
        change = (space.encode(audio) - quiet).square().sum(-1)[0]
        assert abs(int(change.argmax()) - frame) <= 1
        heard = space.decode(space.encode(audio))[0, 0].reshape(-1, HOP).square().sum(-1)
        assert abs(int(heard.argmax()) - frame) <= 1


def test_silence_stays_silent(space):
    assert space.decode(space.encode(torch.zeros(1, 1, RATE))).abs().max() < 1e-3


def test_absurd_latents_stay_finite(space):
    latents = 50 * torch.randn(1, 20, 64, generator=torch.Generator().manual_seed(0))
    assert space.decode(latents).isfinite().all()


def test_spectra_pair_is_symmetric_about_the_frame():
    model = SpectralVAE(CodecConfig())
    audio = torch.zeros(1, 10 * HOP)
    audio[0, 5 * HOP + HOP // 2] = 1.0  # the centre of frame 5
    early, late = model.spectra(audio)[0, 5].norm(dim=-1)
    assert float(early) == pytest.approx(float(late), rel=1e-3)


def test_full_scale_sine_has_magnitude_one():
    magnitudes = SpectralVAE(CodecConfig()).spectra(tone(1000.0, amplitude=1.0)[0])
    assert float(magnitudes[0, 25].max()) == pytest.approx(1.0, abs=1e-3)  # 1 kHz is the centre of a bin


def test_level_and_shape_by_hand_and_back():
    config = CodecConfig()
    magnitudes = torch.rand(1, 4, 2, 513, generator=torch.Generator().manual_seed(0)) + 1e-3
    features = compress(magnitudes, config)
    torch.testing.assert_close(expand(features, config), magnitudes, rtol=1e-3, atol=1e-6)
    louder = compress(magnitudes * 10, config)
    moved = (louder - features).unflatten(-1, (2, 514))
    torch.testing.assert_close(moved[..., -1], torch.full((1, 4, 2), 0.5 * math.log(10)), rtol=1e-3, atol=0)
    assert moved[..., :-1].abs().max() < 1e-3


def test_turns_of_a_tone_are_its_frequency():
    magnitudes = SpectralVAE(CodecConfig()).spectra(tone(445.0, 1.0)[0])[:, 25]  # [1, 2, n_bins]
    turns = turns_per_hop(magnitudes, 1024, 160)
    assert float(turns[0, 0, 28]) == pytest.approx(445.0 * 160 / RATE, abs=0.01)


def test_kl_by_hand():
    posterior = Posterior(torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, -1.0]]]))
    expected = (0.5 + 0.5 * (math.exp(-2) - 1) + 1) / 2
    assert float(kl_divergence(posterior)) == pytest.approx(expected, rel=1e-6)


def test_loss_is_zero_for_the_truth_and_level_is_in_nats():
    config = CodecConfig()
    loss, one = CodecLoss(config), torch.ones(())
    features = compress(SpectralVAE(config).spectra(tone()[0]), config)
    posterior = Posterior(torch.zeros(1, 50, 64), torch.zeros(1, 50, 64))
    assert float(loss.total(loss(features, features, one, posterior))) == 0.0
    louder = compress(SpectralVAE(config).spectra(tone(amplitude=0.6)[0]), config)
    assert float(loss(louder, features, one, posterior)["level"]) == pytest.approx(math.log(2), abs=1e-3)


def test_batches_depend_on_the_generator_alone():
    clips, model = torch.randn(3, 32_000, generator=torch.Generator().manual_seed(1)), SpectralVAE(CodecConfig())
    batch = [make_batch(clips, model, 20, 4, torch.Generator().manual_seed(seed)) for seed in (5, 5, 6)]
    assert batch[0].shape == (4, 20, 2, 513) and batch[0].isfinite().all()
    assert torch.equal(batch[0], batch[1]) and not torch.equal(batch[0], batch[2])


def test_learning_rate_warms_up_and_ends_at_zero():
    recipe = CodecRecipe(steps=1000, lr=1e-3)
    rates = [learning_rate(step, recipe) for step in (0, 99, 700, 875, 1000)]
    assert rates == pytest.approx([1e-5, 1e-3, 1e-3, 5e-4, 0.0])


def test_checkpoint_round_trip_is_exact_in_float32_and_close_in_float16(tmp_path):
    model, audio = tiny_codec(), tone()[0]
    save_codec(model, tmp_path / "exact", dtype=torch.float32)
    assert torch.equal(load_codec(tmp_path / "exact").encode(audio), model.eval().encode(audio))
    save_codec(model, tmp_path / "half")
    torch.testing.assert_close(load_codec(tmp_path / "half").encode(audio), model.encode(audio), atol=0.02, rtol=0.02)


def damage(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("analysis.bias"), "misses tensors: analysis.bias"),
        (lambda t: t.update(extra=torch.zeros(1)), "unexpected tensors: extra"),
        (lambda t: t.update({"latent_std": torch.ones(3)}), r"latent_std has shape \[3\]; its config asks for \[64\]"),
    ],
)
def test_foreign_tensors_are_named(tmp_path, change, message):
    save_codec(tiny_codec(), tmp_path)
    damage(tmp_path, change)
    with pytest.raises(LatentSpaceError, match=message):
        EtudeCodec.load(tmp_path)


def test_damaged_files_are_named(tmp_path):
    with pytest.raises(LatentSpaceError, match=r"has no config\.json; give the folder of an étude codec"):
        load_codec(tmp_path)
    save_codec(tiny_codec(), tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(LatentSpaceError, match=r"model\.safetensors cannot be read"):
        load_codec(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["codec"]["colour"] = "red"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(LatentSpaceError, match="colour"):
        load_codec(tmp_path)


class Interrupting:
    """Held-out clips during whose second evaluation the run is interrupted."""

    def __init__(self, clips):
        self.clips, self.uses = clips, 0

    def __iter__(self):
        self.uses += 1
        if self.uses == 2:
            raise KeyboardInterrupt
        return iter(self.clips)


def test_training_resumes_where_it_stopped(tmp_path):
    clips = 0.1 * torch.randn(2, 32_000, generator=torch.Generator().manual_seed(0))
    config = CodecConfig(width=16, encoder_blocks=1, decoder_blocks=1)
    small = {"batch_size": 2, "crop_frames": 16, "eval_every": 2}
    whole = fit(CodecRecipe(steps=4, out=tmp_path / "whole", **small), config, clips, clips[:1])
    killed = tmp_path / "killed"
    with pytest.raises(KeyboardInterrupt):
        fit(CodecRecipe(steps=4, out=killed, **small), config, clips, Interrupting(clips[:1]))
    resumed = fit(CodecRecipe(steps=4, out=killed, resume=True, **small), config, clips, clips[:1])
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, atol=1e-6, rtol=1e-5)
    assert [json.loads(line)["step"] for line in (killed / "log.jsonl").read_text().splitlines()] == [2, 4]


class InterruptedAt:
    """Clips that interrupt the run when they are used so many times; a batch uses them twice."""

    def __init__(self, clips, uses):
        self.clips, self.uses, self.shape = clips, uses, clips.shape

    def __len__(self):
        return len(self.clips)

    def __getitem__(self, where):
        self.uses -= 1
        if not self.uses:
            raise KeyboardInterrupt
        return self.clips[where]


def test_finishing_trains_the_decoder_alone_and_resumes_where_it_stopped(tmp_path):
    clips = 0.1 * torch.randn(2, 32_000, generator=torch.Generator().manual_seed(0))
    start = SpectralVAE(CodecConfig(width=16, encoder_blocks=1, decoder_blocks=1)).state_dict()

    def finished(clips, name, resume=False):
        codec = SpectralVAE(CodecConfig(width=16, encoder_blocks=1, decoder_blocks=1))
        codec.load_state_dict(start)
        return finish(codec, clips, 5, 0, state=tmp_path / name, resume=resume, save_every=2).state_dict()

    whole = finished(clips, "whole")
    assert {name.split(".")[0] for name, value in whole.items() if not torch.equal(value, start[name])} == {"decoder"}
    with pytest.raises(KeyboardInterrupt):
        finished(InterruptedAt(clips, 7), "killed")  # in the fourth step, when two are saved
    resumed = finished(clips, "killed", resume=True)
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())


def test_one_command_trains_and_finishes(tmp_path, monkeypatch):
    clips = 0.1 * torch.randn(2, 32_000, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(train_codec, "render_split", lambda minutes, seed, split: clips)  # rendering needs fluidsynth
    recipe = CodecRecipe(steps=2, finish_steps=3, out=tmp_path, batch_size=2, crop_frames=16, eval_every=2)
    train_codec.train(recipe, CodecConfig(width=16, encoder_blocks=1, decoder_blocks=1))
    assert {path.name for path in tmp_path.iterdir()} >= {"config.json", "model.safetensors", train_codec.FINISHING}
    before = load_codec(tmp_path).state_dict()
    train_codec.train(replace(recipe, resume=True), CodecConfig(width=16, encoder_blocks=1, decoder_blocks=1))
    assert all(torch.equal(value, before[name]) for name, value in load_codec(tmp_path).state_dict().items())


@needs_fluidsynth
def test_the_trainers_own_command_makes_a_codec_that_loads(tmp_path, capsys):
    assert train_codec.main(["--minutes", "1", "--steps", "1", "--finish-steps", "1", "--out", str(tmp_path / "codec")]) == 0
    assert train_codec.main(["--minutes", "1", "--steps", "0", "--out", str(tmp_path / "pca")]) == 0
    files = {"config.json", "model.safetensors", "log.jsonl", "finishing.safetensors"}
    assert {path.name for path in (tmp_path / "codec").iterdir()} == files
    assert {path.name for path in (tmp_path / "pca").iterdir()} == {"config.json", "model.safetensors"}
    for name in ("codec", "pca"):
        space = EtudeCodec.load(tmp_path / name)
        heard = describe(space.decode(space.encode(tone(seconds=0.5))), RATE, HOP)
        assert heard.f0[0, 5:-5].median() == pytest.approx(440, rel=0.01)


@needs_fluidsynth
def test_the_flow_trainers_own_command_makes_a_flow_that_loads(tmp_path, capsys):
    assert train_flow.main(["--minutes", "1", "--steps", "1", "--out", str(tmp_path)]) == 0
    assert "piano" in " ".join(load_generator(tmp_path).style_names)
