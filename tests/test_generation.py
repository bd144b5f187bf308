"""Generating, tracing and steering: on a toy network, on a flow known in closed form, and on the command line."""

import json
import resource
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import tiny_models
import torch
from tiny_bundle import tiny_bundle
from toy_flow import NAMES, GaussianFlow, random_generator, toy_model

from experiments._window_trial import cycle_error, window_trial
from sae_audio import Bundle, Request, cli, generate, trace
from sae_audio.bundle_space import space_of
from sae_audio.cli_moves import parse_features, parse_moves, parse_window
from sae_audio.denoising import forward_noised
from sae_audio.descriptors import describe
from sae_audio.diffrhythm.checkpoint import save_generator
from sae_audio.diffrhythm.dit import DiT, DiTConfig
from sae_audio.diffrhythm.sampler import sample, time_grid
from sae_audio.errors import DataError, LatentSpaceError, ParameterError
from sae_audio.flow_steering import goal, steps_inside
from sae_audio.generators import check_fits, frames_of, load_model
from sae_audio.heard import changes
from sae_audio.latent_spaces import CHECKPOINTS, load_latent_space
from sae_audio.listener import listener
from sae_audio.plots import png
from sae_audio.plots.denoising import Line, emergence_curves, panels_of, window_response
from sae_audio.recording import ProbeReader
from sae_audio.sae import SAEConfig, build_sae
from sae_audio.traces import load_trace, load_traces, scrubber

ASKED = Request("viola", seconds=0.6, steps=5, seed=3)  # 30 frames, t = 0, .25, .5, .75, 1


@pytest.fixture(scope="module")
def bundle():
    return Bundle.from_pretrained(CHECKPOINTS / "etude")


@pytest.fixture(scope="module")
def space(bundle):
    return space_of(bundle)


@pytest.fixture(scope="module")
def model(bundle):
    return toy_model(bundle.sae.mean, bundle.sae.std)


@pytest.fixture(scope="module")
def gaussian(bundle):
    return toy_model(bundle.sae.mean, bundle.sae.std, GaussianFlow)


@pytest.fixture(scope="module")
def found(bundle, model, space):
    return trace(bundle, ASKED, model=model, space=space, record=("x_t", "x1", "v", "v_null"), listen=[0, 2])


# --- models ------------------------------------------------------------------------------------------------------------------


def test_a_folder_loads(tmp_path, model):
    save_generator(model.generator, tmp_path)
    loaded = load_model(tmp_path)
    assert (loaded.space, loaded.frame_rate, loaded.longest, loaded.path) == ("etude-codec", 50.0, 64 / 50, tmp_path)
    assert torch.equal(loaded.generator.style("viola"), model.generator.style("viola"))


def test_a_diffrhythm_checkpoint_loads_and_wants_its_own_bundle(tmp_path, model, bundle):
    tensors = {f"transformer.{name}": value.half() for name, value in random_diffrhythm().state_dict().items()}
    torch.save({"model_state_dict": tensors}, tmp_path / "cfm_model.pt")
    with pytest.warns(UserWarning, match="does not say its release and is taken as DiffRhythm-1_2; for another, name it"):
        loaded = load_model(tmp_path)
    assert (loaded.space, loaded.generator.style_names) == ("diffrhythm-vae", ())
    assert load_model(tmp_path, release="ASLP-lab/DiffRhythm-base").generator.dit.config.causal
    assert not loaded.generator.dit.config.causal
    with pytest.raises(ParameterError, match=r"makes latents of 'diffrhythm-vae', but 'etude-codec' has sample_rate 16000"):
        trace(bundle, ASKED, model=loaded)
    assert frames_of(loaded, 1.0) == 21  # 44100/2048 = 21.5 frames per second
    assert frames_of(loaded, None) == frames_of(loaded, loaded.longest) == 2048


def random_diffrhythm(mel_dim=64):
    return DiT(DiTConfig(dim=64, depth=2, heads=32, text_dim=16, conv_layers=1, style_dim=512, time_dim=16, mel_dim=mel_dim))


def test_a_diffrhythm_checkpoint_is_traced_on_the_same_path(tmp_path):
    """A tiny public checkpoint, a tiny Oobleck in the public layout (4 channels) and a bundle of its latents."""
    tensors = {f"transformer.{name}": value.half() for name, value in random_diffrhythm(mel_dim=4).state_dict().items()}
    torch.save({"model_state_dict": tensors}, tmp_path / "cfm_model.pt")
    loaded = load_model(tmp_path, release="DiffRhythm-1_2")
    vae = load_latent_space("diffrhythm-vae", source=tiny_models.BUILDERS["diffrhythm-vae"](tmp_path / "vae", "diffrhythm-vae"))
    tiny, sizes = tiny_bundle(), {"acts": 16, "latents": 4}
    probes = {key: replace(probe, weight=torch.randn(sizes[probe.on], len(probe.bias))) for key, probe in tiny.probes.items()}
    bundle = replace(tiny, spec=vae.spec, sae=build_sae(SAEConfig("topk", 4, 16, k=3)), probes=probes, controls={})
    style = torch.nn.functional.normalize(torch.randn(1, 512, generator=torch.Generator().manual_seed(0)))
    asked = Request(style, seconds=0.3, steps=3, null_style=-style)
    found = trace(bundle, asked, model=loaded, space=vae, listen=[1])
    assert found.final.shape == (1, 6, 4) and found.listened == (1, 2) and found.facts["guidance"] == 4.0
    assert found.posteriors["pitch/acts/x1"].shape == (3, 1, 6, 66)
    with pytest.raises(ParameterError, match=r"guidance 4\.0 needs null_style"):
        trace(bundle, replace(asked, null_style=None), model=loaded, space=vae)
    with pytest.raises(ParameterError, match="this bundle has no control for loudness; it has: none"):
        trace(bundle, replace(asked, moves={"loudness": -6}), model=loaded, space=vae)


def test_a_hub_repository_loads(hub, repo_id, tmp_path, model):
    save_generator(model.generator, tmp_path)
    commit = hub.seed(repo_id, tmp_path)
    loaded = load_model(repo_id, revision=commit)
    assert loaded.name == repo_id and torch.equal(loaded.generator.style_table, model.generator.style_table)
    with pytest.raises(LatentSpaceError, match=r"no generator could be fetched: the Hub has no 'nobody/nothing' that"):
        load_model("nobody/nothing")


def test_models_that_are_not_there(tmp_path):
    with pytest.raises(LatentSpaceError, match=r"holds neither cfm_model.pt nor model.safetensors"):
        load_model(tmp_path)
    with pytest.raises(LatentSpaceError, match="only Hub repositories have revisions"):
        load_model(tmp_path, revision="main")


@pytest.mark.parametrize("wrong", [{"d_in": 128}, {"sample_rate": 24_000}, {"hop_length": 640}])
def test_a_bundle_of_another_space_is_refused_before_the_work(wrong, model, bundle):
    (name, value), *_ = wrong.items()
    with pytest.raises(ParameterError, match=f"'etude-codec' has {name} {value} instead of"):
        check_fits(model, replace(bundle.spec, **wrong))
    with pytest.raises(ParameterError, match="use a bundle of 'etude-codec'"):
        trace(replace(bundle, spec=replace(bundle.spec, **wrong)), ASKED, model=model)


@pytest.mark.parametrize("seconds", [0, -1, 1.3, float("nan"), float("inf")])
def test_lengths_that_cannot_be(seconds, model):
    with pytest.raises(ParameterError, match=r"'toy' makes 1 to 64, at most 1.28 s"):
        frames_of(model, seconds)


# --- generate ----------------------------------------------------------------------------------------------------------------


def test_generate_is_sample_and_decode(model, space):
    text = torch.arange(30) % 5
    song = generate(replace(ASKED, text=text, guidance=2.0), model=model, space=space)
    style = model.generator.style("viola")
    latents = sample(model.generator, style, frames=30, text=text[None], steps=5, guidance=2.0, seed=3)
    assert torch.equal(song.latents, latents) and song.unsteered is None
    assert torch.equal(song.audio, space.decode(latents)) and song.sample_rate == 16_000


def test_a_song_depends_on_its_own_seed_and_style_only(model, space):
    many = generate(replace(ASKED, style=["viola", "violin"], seed=[8, 3]), model=model, space=space)
    one = generate(replace(ASKED, style="violin", seed=3), model=model, space=space)
    torch.testing.assert_close(many.latents[1:], one.latents, rtol=0, atol=1e-4)
    seeds = generate(replace(ASKED, seed=[8, 3]), model=model, space=space)
    torch.testing.assert_close(seeds.latents[:1], many.latents[:1], rtol=0, atol=1e-4)
    assert len(generate(replace(ASKED, seed=None), model=model, space=space).latents) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"style": "violn"}, "style 'violn' is unknown to this model; did you mean violin"),
        ({"steps": 1}, "steps is 1; sampling needs at least 2"),
        ({"seconds": 9.0}, "9 s is 450 latent frames; 'toy' makes 1 to 64"),
        ({"guidance": -1.0}, "guidance is -1.0"),
        ({"text": torch.full((30,), 257)}, "the vocabulary is 0 to 256"),
        ({"text": torch.zeros(29, dtype=torch.long)}, "it must be one token per frame"),
        ({"style": torch.ones(1, 8)}, "style of song 0 has norm 2.828"),
        ({"style": ["viola", "violin"], "seed": [1, 2, 3]}, "3 seeds were given for 2 styles"),
        ({"moves": {"loudness": -6}}, "steering loudness needs a bundle"),
    ],
)
def test_bad_requests(change, message, model, space):
    with pytest.raises(ParameterError, match=message):
        generate(replace(ASKED, **change), model=model, space=space)


# --- trace -------------------------------------------------------------------------------------------------------------------


def test_the_trace_ends_at_the_generated_song(found, model, space):
    song = generate(ASKED, model=model, space=space)
    assert torch.equal(found.final, song.latents) and torch.equal(found.times, time_grid(5))
    for name in ("x_t", "x1"):
        assert found.latents[name].shape == (4, 1, 30, 64) and torch.equal(found.at(name, 4), song.latents)


def test_recorded_latents_obey_the_flow(found):
    """x_t + dt·v is the next x_t, and x_t + (1 − t)·v is x̂₁."""
    x, v, x1 = (found.latents[name] for name in ("x_t", "v", "x1"))
    following = torch.cat([x[1:], found.final[None]])
    t = found.times[:-1, None, None, None]
    torch.testing.assert_close(following, x + 0.25 * v, rtol=0, atol=1e-4)
    torch.testing.assert_close(x1, x + (1 - t) * v, rtol=0, atol=1e-4)
    assert not torch.equal(found.latents["v_null"], v)


def test_posteriors_are_what_the_probes_read_in_the_recorded_latents(found, bundle):
    for name, prop in bundle.properties.items():
        for reader in ("acts", "latents"):
            p = found.posteriors[f"{name}/{reader}/x1"]
            assert p.shape == (5, 1, 30, prop.n_classes)
            x1 = found.at("x1", 2)
            inputs = bundle.sae.encode(x1) if reader == "acts" else x1
            expected = bundle.probes[f"{name}/{reader}"].probabilities(inputs)
            torch.testing.assert_close(p[2], expected, rtol=1e-3, atol=1e-5)
    assert torch.equal(found.posteriors["pitch/acts/x_t"][4], found.posteriors["pitch/acts/x1"][4])


def test_probe_reader_of_another_variant():
    tiny = tiny_bundle("relu")
    latents = torch.randn(2, 3, 5, tiny.spec.d_in)
    for key, p in ProbeReader(tiny)(latents).items():
        inputs = tiny.sae.encode(latents) if key.endswith("acts") else latents
        torch.testing.assert_close(p, tiny.probes[key].probabilities(inputs))


def test_what_was_measured_is_the_decoded_x1(found, space):
    assert found.listened == (0, 2, 4)
    for row, point in enumerate(found.listened):
        expected = describe(space.decode(found.at("x1", point)), 16_000, 320)
        for column, wanted in zip(found.measured, expected, strict=True):
            torch.testing.assert_close(column[row], wanted, equal_nan=True)


def test_points_stream_and_can_stop_the_work(bundle, model, space):
    seen = []

    def watch(point):
        seen.append(point)
        if point.index == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trace(bundle, ASKED, model=model, space=space, record=(), listen=[1], on_point=watch)
    assert [(point.index, point.t, point.audio is not None) for point in seen] == [
        (0, 0, False),
        (1, 0.25, True),
        (2, 0.5, False),
    ]
    assert seen[1].audio.shape == (1, 1, 9600) and seen[1].measured.rms.shape == (1, 30)
    assert seen[2].posteriors["pitch/acts/x_t"].shape == (1, 30, 66) and seen[2].v_null.shape == (1, 30, 64)


def test_only_what_is_asked_is_kept(bundle, model, space):
    bare = trace(bundle, ASKED, model=model, record=["x_t"], probe=[], listen=None, half=True)
    assert (set(bare.latents), bare.posteriors, bare.measured, bare.listened) == ({"x_t"}, {}, None, ())
    assert bare.latents["x_t"].dtype == bare.final.dtype == torch.float16
    heard = trace(bundle, ASKED, model=model, space=space, record=[], probe=["x1"])
    assert heard.listened == (4,) and {key.rpartition("/")[2] for key in heard.posteriors} == {"x1"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"record": ["x_T"]}, "record names 'x_T', which is no signal; known are x_t, x1, v, v_null"),
        ({"probe": ["v"]}, "probe names 'v', which is no signal; known are x_t, x1"),
        ({"listen": [5]}, "point 5 cannot be listened to; with 5 steps points are 0 to 4"),
        ({"along": torch.zeros(1, 29, 64)}, r"\[1, 29, 64\]; they must be \[1, 30, 64\]"),
    ],
)
def test_bad_recording(options, message, bundle, model, space):
    with pytest.raises(ParameterError, match=message):
        trace(bundle, ASKED, model=model, space=space, **options)


def test_no_null_branch_without_guidance(bundle, model, space):
    with pytest.raises(ParameterError, match="v_null cannot be recorded: without guidance"):
        trace(bundle, replace(ASKED, guidance=0.0), model=model, space=space, record=["v_null"])


def test_the_control_walks_in_a_straight_line_to_real_sound(bundle, gaussian, space):
    """x_t is the real latents noised with the song's own noise; x̂₁ is what the network makes of that, not the real latents."""
    tone = 0.1 * torch.sin(2 * torch.pi * 440 * torch.arange(9600) / 16_000)
    real = space.encode(tone[None, None])
    found = trace(bundle, ASKED, model=gaussian, space=space, along=real)
    noise = gaussian.generator.noise(30, torch.Generator().manual_seed(3))[None]
    for i, t in enumerate(found.times[:-1].tolist()):
        x_t = forward_noised(real, noise, t)
        torch.testing.assert_close(found.latents["x_t"][i], x_t, rtol=0, atol=1e-4)
        torch.testing.assert_close(found.latents["x1"][i], gaussian.generator.believed(x_t, t), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.final, real, rtol=0, atol=1e-4)
    assert float(describe(space.decode(found.final), 16_000, 320).f0.nanmedian()) == pytest.approx(440, rel=0.01)


def test_curves_of_a_trace(found, bundle):
    table = found.facts["curves"]
    assert set(table) == set(bundle.properties)
    counted = bundle.properties["loudness"].classes(found.measured)[-1] >= 0
    p = found.posteriors["loudness/acts/x_t"]
    same = (p.argmax(-1) == p[-1].argmax(-1))[:, counted]
    read = table["loudness"]["read"]["acts/x_t"]
    assert read["agreement"] == pytest.approx(same.float().mean(-1).tolist(), abs=1e-5)
    assert read["agreement"][-1] == read["bounded"][-1] == 1 and 0 <= read["decided"] <= 4
    assert table["loudness"]["measured"]["points"] == [0, 2, 4]


# --- files -------------------------------------------------------------------------------------------------------------------


def test_a_saved_trace_is_the_trace(found, tmp_path):
    paths = found.save(tmp_path / "a.trace")
    assert [path.name for path in paths] == ["a.trace.safetensors", "a.trace.json"]
    for path in (tmp_path / "a.trace", paths[0], paths[1]):
        loaded = load_trace(path)
        assert loaded.facts == found.facts and loaded.listened == found.listened
        assert torch.equal(loaded.final, found.final) and torch.equal(loaded.times, found.times)
        for mine, other in ((loaded.latents, found.latents), (loaded.posteriors, found.posteriors)):
            assert set(mine) == set(other) and all(torch.equal(mine[name], other[name]) for name in mine)
        assert all(torch.equal(a.nan_to_num(-1), b.nan_to_num(-1)) for a, b in zip(loaded.measured, found.measured, strict=True))


def test_a_thin_trace_in_half_precision(found, tmp_path):
    thin = found.thin([0, 2]).half().without_posteriors()
    assert thin.times.tolist() == [0, 0.5, 1] and thin.listened == (0, 1, 2) and thin.facts == found.facts
    thin.save(tmp_path / "thin")
    loaded = load_traces(tmp_path)["thin"]
    torch.testing.assert_close(loaded.at("x1", 1), found.at("x1", 2), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(loaded.at("x_t", 2), found.final, rtol=1e-3, atol=1e-3)
    assert (tmp_path / "thin.safetensors").stat().st_size < 2 * 5 * 30 * 64 * 2 + 4000
    with pytest.raises(ParameterError, match="at least one before the last"):
        found.thin([4])
    with pytest.raises(ParameterError, match="its points are 0 to 4"):
        found.at("x1", 5)


def test_files_that_are_no_trace(found, tmp_path):
    with pytest.raises(DataError, match="holds no trace"):
        load_traces(tmp_path)
    found.save(tmp_path / "a")
    (tmp_path / "b.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:500])
    (tmp_path / "b.json").write_bytes((tmp_path / "a.json").read_bytes())
    with pytest.raises(DataError, match="b is not a trace"):
        load_trace(tmp_path / "b")
    with pytest.raises(DataError, match="c is not a trace"):
        load_trace(tmp_path / "c")
    replace(found, posteriors={"pitch/acts/x1": torch.zeros(4, 1, 30, 2)}).save(tmp_path / "d")
    with pytest.raises(DataError, match=r"posteriors.pitch/acts/x1 has shape \[4, 1, 30, 2\], expected \[5, 1, 30\]"):
        load_trace(tmp_path / "d")


def test_scrubber(found, bundle):
    data = json.loads(json.dumps(scrubber(found, bundle.properties)))
    read = data["read"]["pitch/acts/x1"]
    p = found.posteriors["pitch/acts/x1"][1, 0, 7]
    assert data["columns"] == list(range(30)) and data["times"] == [0, 0.25, 0.5, 0.75, 1]
    assert read["class"][1][7] == int(p.argmax()) and read["percent"][1][7] == round(100 * float(p.max()))
    assert data["properties"]["pitch"][int(p.argmax())] == bundle.properties["pitch"].names[int(p.argmax())]


# --- steering ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [(0.0, 1 / 3), (1 / 3, 2 / 3), (2 / 3, 1.0), (0.45, 0.55), (0.0, 1.0)])
def test_a_network_that_accepts_a_change_is_moved_by_what_was_asked(window, bundle, gaussian, space, monkeypatch):
    """Where the data are far wider than the noise the flow keeps a change: it ends at the calibrated direction, in any window.

    Adding it at every step, without asking what is there already, would end at 1.6 to 4 times of it.
    """
    monkeypatch.setattr(GaussianFlow, "wide", 30.0)
    asked = replace(ASKED, steps=32, guidance=0.0, moves={"loudness": -6}, window=window)
    song = generate(asked, model=gaussian, space=space, bundle=bundle, hold=False)
    control = bundle.controls["loudness"]
    full = control.strength_for(-6.0) * control.directions[0] / bundle.sae.std
    moved = (song.latents - song.unsteered) / bundle.sae.std
    share = (moved * full).sum(-1) / full.square().sum()
    assert share.mean().item() == pytest.approx(1, abs=0.05)
    torch.testing.assert_close(moved, share[..., None] * full, rtol=0, atol=0.02)


def test_the_level_heard_moves_by_the_decibels_asked_and_brightness_stays(bundle, gaussian, space):
    song = generate(replace(ASKED, moves={"loudness": "-6"}, window=(0.5, 1.0)), model=gaussian, space=space, bundle=bundle)
    before, after = (listener(space)(latents) for latents in (song.unsteered, song.latents))
    trial = window_trial("loudness", "late", -6.0, before, after, cycle=1.0)
    assert trial.reached == pytest.approx(-6, abs=0.7) and trial.change[2] == pytest.approx(0, abs=0.05)
    assert (trial.property, trial.window, trial.n_songs) == ("loudness", "late", 1)


def test_what_is_not_asked_for_is_held(bundle, gaussian, space):
    """The direction of brightness alone would take 0.5 dB away; the level that the probe hears is the twin's at the end."""
    asked = replace(ASKED, moves={"brightness": 0.5}, window=(0.5, 1.0))
    song = generate(asked, model=gaussian, space=space, bundle=bundle, hold=False)
    moved = ((song.latents - song.unsteered) / bundle.sae.std).mean((0, 1))
    directions = [bundle.controls[name].directions[0] / bundle.sae.std for name in ("brightness", "loudness")]
    found = torch.linalg.lstsq(torch.stack(directions, 1), moved[:, None]).solution[:, 0]
    assert found[0].item() == pytest.approx(bundle.controls["brightness"].strength_for(0.5), rel=0.02)
    before, after = (listener(space)(latents) for latents in (song.unsteered, song.latents))
    assert window_trial("brightness", "late", 0.5, before, after, cycle=1.0).change[1] == pytest.approx(0, abs=0.2)


def test_finished_songs_are_corrected_to_what_was_asked(bundle, gaussian, space):
    """Of an early change a flow forgets much where data are no wider than noise; ``hold`` closes the gap."""
    asked = replace(ASKED, moves={"loudness": -6, "brightness": "-0.3"}, window=(0.0, 0.4))
    measure = listener(space, mel_bands=0)
    reached = []
    for hold in (False, True):
        song = generate(asked, model=gaussian, space=space, bundle=bundle, hold=hold)
        torch.testing.assert_close(song.audio, space.decode(song.latents))
        reached.append(changes(measure(song.unsteered).descriptors, measure(song.latents).descriptors)[0])
    assert abs(float(reached[0][1]) + 6) > 1
    assert reached[1][1:].tolist() == pytest.approx([-6, -0.3], abs=0.1)


def test_a_feature_is_added_in_a_part_of_the_song(bundle, gaussian, space, monkeypatch):
    """Where the network keeps every change, frames inside get strength times the typical activation, others nothing."""
    monkeypatch.setattr(GaussianFlow, "wide", 30.0)
    feature = int(bundle.atlas.mean.argmax())
    asked = replace(ASKED, guidance=0.0, features={feature: 1.5}, start=0.2, stop=0.4)
    song = generate(asked, model=gaussian, space=space, bundle=bundle)
    full = 1.5 * bundle.atlas.mean[feature] * bundle.sae.directions()[feature].detach()
    moved = (song.latents - song.unsteered)[0]
    torch.testing.assert_close(moved[10:20], full.expand(10, -1), rtol=0, atol=1e-2)  # 50 frames a second
    torch.testing.assert_close(moved[:10], torch.zeros(10, 64), rtol=0, atol=1e-3)
    torch.testing.assert_close(moved[20:], torch.zeros(10, 64), rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": {4096: 1.0}}, "there is no feature 4096; this atlas has features 0 to"),
        ({"features": {0: float("nan")}}, "the strength of feature 0 is nan"),
        ({"moves": {"loudness": -3}, "start": 0.5, "stop": 0.4}, "from 0.5 to 0.4 s; it must start at 0 or later"),
        ({"moves": {"loudness": -3}, "start": 0.7}, "starts at 0.7 s, but the sound lasts 0.60 s"),
        ({"moves": {"loudness": -3}, "start": 0.301, "stop": 0.305}, "holds no frame; a frame lasts 20 ms"),
    ],
)
def test_features_and_spans_that_cannot_be(change, message, bundle, model, space):
    with pytest.raises(ParameterError, match=message):
        generate(replace(ASKED, **change), model=model, space=space, bundle=bundle)


@pytest.mark.parametrize("target", ["C5", "+3"])
def test_notes_move_from_what_the_probe_reads_in_the_twin(target, bundle, gaussian, space):
    asked = replace(ASKED, steps=2, moves={"pitch": target})  # one step, which goes all the way
    song = generate(asked, model=gaussian, space=space, bundle=bundle, hold=False)
    pitch, control = bundle.properties["pitch"], bundle.controls["pitch"]
    source = bundle.probes["pitch/latents"].predict(song.unsteered)
    wanted = torch.full_like(source, pitch.class_index("C5")) if target == "C5" else source + 3
    known = control.directions.abs().sum(1) > 0
    possible = (wanted < 66) & known[source] & known[wanted.clamp(max=65)]
    offset = control.best_strength() * (control.directions[wanted.clamp(max=65)] - control.directions[source])
    expected = torch.where(possible[0, :, None], offset[0], 0)
    assert bool(expected.any())
    # Over that, only loudness moved, by as much in every frame, until the probe hears the level of before.
    level, loudness = (song.latents - song.unsteered)[0] - expected, bundle.controls["loudness"].directions[0]
    strength = (level @ loudness).mean() / loudness.square().sum()
    torch.testing.assert_close(level, (strength * loudness).expand_as(level), rtol=0, atol=1e-3)
    centres = torch.tensor(bundle.properties["loudness"].centres)
    heard = [bundle.probes["loudness/latents"].probabilities(z) @ centres for z in (song.unsteered, song.latents)]
    assert float((heard[1] - heard[0])[heard[0] > -50].mean()) == pytest.approx(0, abs=0.3)


def test_no_move_changes_nothing(bundle, gaussian, space):
    song = generate(replace(ASKED, moves={"loudness": 0, "brightness": "0"}), model=gaussian, space=space, bundle=bundle)
    torch.testing.assert_close(song.latents, song.unsteered, rtol=0, atol=1e-4)
    plain = generate(ASKED, model=gaussian, space=space)
    torch.testing.assert_close(song.unsteered, plain.latents, rtol=0, atol=1e-4)


def test_a_steered_trace_is_of_the_steered_song(bundle, gaussian, space):
    asked = replace(ASKED, moves={"loudness": -6}, window=(0.25, 0.6))
    found = trace(bundle, asked, model=gaussian, space=space, record=("x_t", "x1", "v"))
    assert torch.equal(found.final, generate(asked, model=gaussian, space=space, bundle=bundle, hold=False).latents)
    x, v, t = found.latents["x_t"], found.latents["v"], found.times[:-1, None, None, None]
    torch.testing.assert_close(torch.cat([x[1:], found.final[None]]), x + 0.25 * v, rtol=0, atol=1e-4)
    torch.testing.assert_close(found.latents["x1"], x + (1 - t) * v, rtol=0, atol=1e-4)
    told = {"moves": {"loudness": -6}, "features": {}, "window": [0.25, 0.6], "start": 0.0, "stop": None}
    assert found.facts["steering"] == told


def test_windows_by_hand():
    times = time_grid(5).tolist()
    assert steps_inside((0.0, 1.0), times) == [0, 1, 2, 3] and steps_inside((0.25, 0.75), times) == [1, 2]
    assert steps_inside((1 / 3, 2 / 3), time_grid(4).tolist()) == [1]  # float32 times of 1/3 and 2/3
    assert goal([1], times) == pytest.approx(0.5 * 0.75 / 0.25)


@pytest.mark.parametrize("text", ["0.7:0.3", "0.3", "a:b", "-0.1:0.5", "0.5:1.5", "0.5:0.5", "nan:1", ""])
def test_malformed_windows(text):
    with pytest.raises(ParameterError, match=f"window '?{text[:3]}"):
        parse_window(text)


@pytest.mark.parametrize(
    ("moves", "message"),
    [
        ({"loudness": 90}, "out of reach; this bundle can move it by"),
        ({"loudness": "loud"}, "the amount for loudness is 'loud'; give a finite number of dB"),
        ({"brightness": float("inf")}, "give a finite number of octaves"),
        ({"pitch": "H9"}, "pitch has no class 'H9'"),
        ({"pitch": 1.5}, "neither a note"),
        ({"timbre": 1}, "cannot steer timbre; known are pitch, loudness, brightness"),
    ],
)
def test_moves_that_cannot_be(moves, message, bundle, model, space):
    with pytest.raises(ParameterError, match=message):
        generate(replace(ASKED, moves=moves), model=model, space=space, bundle=bundle)


def test_features_of_texts():
    assert parse_features(["42=1.5", "7=-1"]) == {42: 1.5, 7: -1.0}
    for texts, message in ((["seven"], "NUMBER=STRENGTH"), (["1=x"], "NUMBER=STRENGTH"), (["1=1", "1=2"], "names 1 twice")):
        with pytest.raises(ParameterError, match=message):
            parse_features(texts)


def test_moves_of_texts():
    assert parse_moves(["loudness=-6", "pitch=C5"]) == {"loudness": "-6", "pitch": "C5"}
    for texts, message in ((["loud=3"], "PROPERTY=AMOUNT"), (["pitch="], "PROPERTY=AMOUNT"), (["pitch=1", "pitch=2"], "twice")):
        with pytest.raises(ParameterError, match=message):
            parse_moves(texts)


def test_latents_of_no_sound_cost_quality(space, bundle):
    tone = 0.1 * torch.sin(2 * torch.pi * 440 * torch.arange(9600) / 16_000)
    real = space.encode(tone[None, None])
    far = real + 3 * bundle.sae.std * torch.randn(real.shape, generator=torch.Generator().manual_seed(0))
    assert cycle_error(space, far, bundle.sae.std) > 2 * cycle_error(space, real, bundle.sae.std)


# --- figures -----------------------------------------------------------------------------------------------------------------


def test_emergence_figure_shows_the_curves_and_names_the_panels(found):
    times = found.times.tolist()
    figure = emergence_curves(panels_of(times, found.facts["curves"]))
    axes = figure.axes
    assert [ax.get_title(loc="left") for ax in axes[:3]] == ["pitch", "loudness", "brightness"]
    assert axes[0].get_ylabel() == "frames with the final class" and "flow time t" in axes[-1].get_xlabel()
    drawn = next(line for line in axes[1].lines if line.get_label().startswith("x_t"))
    assert list(drawn.get_ydata()) == found.facts["curves"]["loudness"]["read"]["acts/x_t"]["agreement"]
    assert png(figure) == png(emergence_curves(panels_of(times, found.facts["curves"])))


def test_bands_and_gaps_are_drawn():
    line = Line([0, 0.5, 1], [0.1, None, 1.0], [0.0, 0.4, 1.0], [0.2, 0.6, 1.0], decided=0.8)
    figure = emergence_curves({"agreement": {"pitch": {"x1": line, "x1 control": line}}, "paper": {"pitch": {"x_t": line}}})
    assert len(figure.axes[0].collections) == 2 and figure.axes[1].get_ylim()[1] == 3


def test_window_figure():
    trials = [
        {"property": name, "window": window, "asked": asked, "reached": 0.9 * asked, "cycle": 1.2}
        for name, asked in (("loudness", -6.0), ("loudness", 6.0), ("brightness", 0.5))
        for window in ("early", "late", "after")
    ]
    figure = window_response(trials)
    assert [ax.get_title(loc="left") for ax in figure.axes[:2]] == ["moving loudness", "moving brightness"]
    assert list(figure.axes[0].lines[0].get_ydata()) == pytest.approx([0.9] * 3)
    assert [tick.get_text() for tick in figure.axes[2].get_xticklabels()] == ["early", "late", "after"]


# --- command line ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory, bundle):
    """A generator of quiet noise: at the data's own spread random latents would decode to clipped sound."""
    path, control = tmp_path_factory.mktemp("model"), bundle.controls["loudness"]
    quiet = bundle.sae.mean + control.strength_for(-15.0) * control.directions[0]
    save_generator(random_generator(quiet, 0.3 * bundle.sae.std), path)
    return path


def call(capsys, folder, command, *arguments):
    code = cli.main([command, "--model", str(folder), "--seconds", "0.6", "--steps", "5", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def test_generate_on_the_command_line(folder, tmp_path, capsys):
    output, options = tmp_path / "a.wav", ["--style", "viola", "--seed", "3", "--notes", "C4:0.3 rest:0.1 E4:0.2"]
    code, out, err = call(capsys, folder, "generate", *options, "-o", output, "--json", tmp_path / "a.json")
    assert (code, err) == (0, "") and f"wrote {output}" in out
    info = soundfile.info(output)
    assert (info.samplerate, info.channels, info.frames) == (16_000, 1, 9600)
    facts = json.loads((tmp_path / "a.json").read_text())
    assert facts["has_text"] and facts["style"] == "viola" and facts["seed"] == 3 and facts["steering"] is None


def test_steering_on_the_command_line(folder, tmp_path, capsys):
    steer = ["--steer", "loudness=-3", "--steer", "brightness=+0.2", "--window", "0.5:1", "--from", "0.1", "--to", "0.5"]
    code, out, err = call(capsys, folder, "generate", *steer, "-o", tmp_path / "a.wav", "--json", "-")
    assert (code, err) == (0, "")
    facts = json.loads(out)
    moves = {"loudness": "-3", "brightness": "+0.2"}
    assert facts["steering"] == {"moves": moves, "features": {}, "window": [0.5, 1.0], "start": 0.1, "stop": 0.5}
    assert facts["change"]["loudness"] == pytest.approx(-3, abs=0.3)
    code, out, err = call(capsys, folder, "generate", "--feature", "7=2", "-o", tmp_path / "a.wav")
    assert (code, err) == (0, "") and "median change" in out


def test_trace_on_the_command_line(folder, tmp_path, capsys, bundle):
    out_dir = tmp_path / "out"
    out_dir.mkdir()
    code, out, err = call(capsys, folder, "trace", "--style", "viola", "--out", out_dir, "--listen", "2", "--half")
    assert (code, err) == (0, "") and "decided at point" in out
    files = {path.name for path in out_dir.iterdir()}
    assert files == {"final.wav", "x1-00.wav", "x1-02.wav", "trace.safetensors", "trace.json", "scrubber.json", "emergence.png"}
    found = load_trace(out_dir / "trace")
    assert found.listened == (0, 2, 4) and found.final.dtype == torch.float16
    assert json.loads((out_dir / "scrubber.json").read_text())["curves"] == found.facts["curves"]
    code, _, err = call(capsys, folder, "trace", "--out", out_dir)
    assert code == 2 and "holds files already" in err


@pytest.mark.parametrize("command", ["generate", "trace"])
def test_styles_are_listed(command, folder, capsys):
    code, out, _ = call(capsys, folder, command, "--styles")
    assert code == 0 and out.split("\n")[:3] == list(NAMES)


def test_what_a_trace_plays_is_lowered_together_and_never_clips(tmp_path, capsys, bundle):
    control = bundle.controls["loudness"]
    loud = bundle.sae.mean + control.strength_for(6.0) * control.directions[0]
    save_generator(random_generator(loud, bundle.sae.std), tmp_path / "model")
    code, out, err = call(capsys, tmp_path / "model", "trace", "--style", "viola", "--out", tmp_path / "out", "--listen", "2")
    assert (code, err) == (0, "") and "over full scale, so all of it was lowered by that much" in out
    peaks = [np.abs(soundfile.read(path)[0]).max() for path in (tmp_path / "out").glob("*.wav")]
    assert len(peaks) == 3 and max(peaks) == pytest.approx(1, abs=1e-3)


def test_a_full_disk_leaves_nothing_of_a_trace(folder, tmp_path, capsys):
    """A limit on the size of a file stands in for the disk: sounds of 19 kB fit, the trace's tensors do not."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, old[1]))
    try:
        code, _, err = call(capsys, folder, "trace", "--style", "viola", "--out", tmp_path / "out", "--listen", "1")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert code == 2 and "cannot be written" in err and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


BAD = {
    "steps is 1": ["--steps", "1"],
    "did you mean viola": ["--style", "vioal"],
    "makes 1 to 64": ["--seconds", "5"],
    "must run forwards": ["--window", "0.7:0.3"],
    "is not FROM:TO": ["--window", "half"],
    "holds no step": ["--window", "0.3:0.4", "--steer", "loudness=-3"],
    "PROPERTY=AMOUNT": ["--steer", "loudness"],
    "out of reach": ["--steer", "loudness=500"],
    "NUMBER=STRENGTH": ["--feature", "seven"],
    "there is no feature": ["--feature", "100000=1"],
    "but the sound lasts": ["--steer", "loudness=-3", "--from", "1"],
    "but nothing is steered": ["--from", "0.1"],
    "which is no DiffRhythm checkpoint": ["--release", "DiffRhythm-base"],
    "for accelerators": ["--dtype", "bfloat16"],
    "is not available here": ["--device", "cuda:99"],
    "note 1 'X'": ["--notes", "X"],
    "étude-flow plays notes instead": ["--lyrics", "/nowhere.lrc"],
    "both given": ["--notes", "C4:0.1", "--lyrics", "x.lrc"],
    "guidance is -1": ["--cfg", "-1"],
    "its folder does not exist": ["-o", "/nowhere/a.wav"],
    "invalid int value": ["--seed", "x"],
    "there is no generator at": ["--model", "/nowhere"],
}


@pytest.mark.parametrize("reason", BAD)
def test_bad_input_is_one_line(reason, folder, tmp_path, capsys):
    try:
        code, _, err = call(capsys, folder, "generate", "-o", tmp_path / "a.wav", *BAD[reason])
    except SystemExit as stop:
        code, err = stop.code, capsys.readouterr().err
    assert code == 2 and reason in err and err.count("\n") == 1, err
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def diffrhythm(tmp_path_factory):
    """Checkpoints of two releases, styles that fit and that do not, lyrics that end in time and that do not."""
    path = tmp_path_factory.mktemp("public")
    for name, duration in (("DiffRhythm-1_2", False), ("other/DiffRhythm-1_2", True)):
        config = DiTConfig(dim=64, depth=2, heads=32, text_dim=16, conv_layers=1, time_dim=16, duration=duration)
        tensors = {f"transformer.{key}": value.half() for key, value in DiT(config).state_dict().items()}
        (path / name).mkdir(parents=True)
        torch.save({"model_state_dict": tensors}, path / name / "cfm_model.pt")
    for name, style in (("unit", torch.eye(512)[0]), ("long", 2 * torch.eye(512)[0]), ("small", torch.eye(64)[0])):
        np.save(path / f"{name}.npy", style.numpy())
    for name, line in (("late", "[02:00.00]la"), ("bad", "no stamp")):
        (path / f"{name}.lrc").write_text(f"[00:01.00]la\n{line}\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--style", "{}/long.npy", "--cfg", "0"], "norm 2; a style is a unit vector"),
        (["--style", "{}/small.npy", "--cfg", "0"], "shape [64]; this model's styles are [512]"),
        (["--style", "{}/unit.npy"], "has no null style of its own; give --null-style"),
        (["--style", "{}/unit.npy", "--null-style", "{}/long.npy"], "norm 2"),
        (["--cfg", "0"], "has no styles of its own; give --style"),
        (["--style", "{}/unit.npy", "--cfg", "0", "--steps", "1"], "steps is 1"),
        (["--style", "{}/unit.npy", "--cfg", "0", "--lyrics", "{}/late.lrc"], "line 2: 02:00.00 is not before the song's end"),
        (["--style", "{}/unit.npy", "--cfg", "0", "--lyrics", "{}/bad.lrc"], "bad.lrc has line 2: 'no stamp' is neither"),
        (["--style", "{}/unit.npy", "--cfg", "0", "--notes", "C4:1"], "DiffRhythm sings lyrics instead"),
        (["--style", "{}/unit.npy", "--cfg", "0", "--seconds", "96"], "makes 1 to 2048, at most 95.11 s"),
        (
            ["--style", "{}/unit.npy", "--cfg", "0", "--steer", "loudness=-3"],
            "makes latents of 'diffrhythm-vae', but 'etude-codec'",
        ),
        (["--model", "{}/other/DiffRhythm-1_2"], "has a duration embedding, so it is not DiffRhythm-1_2"),
        (["--release", "DiffRhythm-1_2-full"], "has no duration embedding, so it is not DiffRhythm-1_2-full"),
        (["--release", "DiffRhythm-3"], "release 'DiffRhythm-3' is unknown"),
    ],
)
def test_bad_input_for_diffrhythm_is_one_line(options, reason, diffrhythm, tmp_path, capsys):
    """All of it is told before the codec is looked for, which would be a download."""
    arguments = [option.format(diffrhythm) for option in options]
    code = cli.main(["generate", "--model", str(diffrhythm / "DiffRhythm-1_2"), "-o", str(tmp_path / "a.wav"), *arguments])
    err = capsys.readouterr().err
    assert code == 2 and reason in err and err.count("\n") == 1, err
    assert not list(tmp_path.iterdir())


def test_a_song_shorter_than_the_model_has_made_is_warned_of(diffrhythm, tmp_path, capsys):
    model, style, lyrics = (diffrhythm / name for name in ("DiffRhythm-1_2", "unit.npy", "bad.lrc"))
    options = ["--style", style, "--cfg", "0", "--seconds", "2", "--lyrics", lyrics, "-o", tmp_path / "a.wav"]
    assert cli.main(["generate", "--model", *map(str, (model, *options))]) == 2
    warned, refused = capsys.readouterr().err.splitlines()
    assert "DiffRhythm-1_2' knows songs of 95.11 s only; 2 s may sound worse: leave --seconds out" in warned
    assert refused.startswith("error: bad.lrc has line 2")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ([], "trace needs --out"),
        (["--out", "{}", "--record", "x_t,y"], "record names 'y'"),
        (["--out", "{}", "--listen", "-1"], "--listen is -1"),
        (["--out", "/proc/nowhere/x"], "cannot be made"),
    ],
)
def test_bad_tracing_is_one_line(options, reason, folder, tmp_path, capsys):
    code, _, err = call(capsys, folder, "trace", *(option.format(tmp_path / "new") for option in options))
    assert code == 2 and reason in err and err.count("\n") == 1, err
    assert not list(tmp_path.iterdir())
