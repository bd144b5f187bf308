"""The second paper's experiments on synthesised voices: what is pooled, kept, fitted, reported; encoders in the main job."""

import json
import math
import os
import sys
from copy import deepcopy
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_encoders import tiny_waveform_encoder

from experiments import _demo, disentanglement, singing
from experiments import _published as published
from experiments._clips import check_encoder, first_seconds, pooled, starts, states
from experiments._singing import (
    Corpus,
    Job,
    Sizes,
    active,
    encode,
    epoch,
    fitted_sae,
    published_probe,
    published_sae,
    reconstruction,
)
from experiments._singing_report import clip_interval, difference, lines_of, percent, singer_interval
from experiments._voice import write_corpus
from sae_audio import Bundle, cli
from sae_audio.errors import DataError, ParameterError
from sae_audio.latent_spaces import load_latent_space
from sae_audio.sae.saelens import from_saelens
from sae_audio.vocalset import vocalset_clips

sys.path.insert(0, str(Path(__file__).parents[1]))
import train

SINGERS = ("female1", "female2", "male1", "male2", "male3")
SIZES = Sizes(d_sae=64, sae_epochs=20, probe_epochs=30, sae_steps=30)
SMALL = dict(seeds=1, sparsity=[0.75, 0.95], sae_layers=["4"], seconds=0.5, frames=True, factors="own", d_sae=64)
SMALL |= dict(sae_epochs=2, probe_epochs=4, sae_steps=20)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def clips(cache):
    return vocalset_clips(write_corpus(cache / "demo-voices", SINGERS, vowels="ai", seconds=0.5), partial=True)


@pytest.fixture(scope="module")
def ast(cache):
    return load_latent_space("ast", source=_demo.demo_encoder(cache))


@pytest.fixture(scope="module")
def hubert(tmp_path_factory):
    return load_latent_space("hubert-base", source=tiny_waveform_encoder(tmp_path_factory.mktemp("hubert"), "hubert-base"))


@pytest.fixture(scope="module")
def corpus(ast, clips, cache):
    return Corpus("demo", ast, clips, 0.5, cache, [2, 4], progress=False)


def noise(n, seed=0):
    return 0.1 * torch.randn(1, 1, n, generator=torch.Generator().manual_seed(seed))


# Pooling and the cache --------------------------------------------------------------------------------------------------------


def test_published_pooling_of_ast_is_the_mean_of_all_tokens_as_transformers_gives_them(ast):
    audio = noise(8_000)
    inputs = ast.extractor([audio[0, 0].numpy()], sampling_rate=16_000, return_tensors="pt").input_values
    with torch.no_grad():
        theirs = ast.model(inputs, output_hidden_states=True).hidden_states
    found = pooled(ast, audio, "published")
    assert found.shape == (5, 1, 48)
    assert torch.allclose(found[:, 0], torch.stack([state[0].mean(0) for state in theirs]), rtol=1e-3, atol=1e-4)
    assert theirs[0].shape[1] > 2 + ast.patches[0] * ast.spec.n_frames(8_000)  # padding is among them


def test_honest_pooling_is_the_mean_over_the_frames_of_the_sound(ast, hubert):
    for space in (ast, hubert):
        audio = noise(8_000)
        every = space.encode_layers(audio)[:, 0]
        assert every.shape[1] == space.spec.n_frames(8_000)
        assert torch.allclose(pooled(space, audio, "sound")[:, 0], every.mean(1), rtol=1e-3, atol=1e-4)
        frames = pooled(space, audio, "frames")
        assert frames.dtype == torch.float16 and torch.allclose(frames.float(), every, rtol=1e-2, atol=1e-2)


def test_short_clips_are_filled_up_only_as_published():
    audio = torch.ones(1, 1, 100)
    assert first_seconds(audio, 100, 2.0).shape == (1, 1, 100)
    filled = first_seconds(audio, 100, 2.0, fill=True)
    assert filled.shape == (1, 1, 200) and filled.sum() == 100
    assert first_seconds(audio, 100, 0.5).shape == (1, 1, 50) and first_seconds(audio, 100, None) is audio


def test_states_are_kept_and_only_missing_clips_are_encoded(hubert, clips, tmp_path, monkeypatch):
    calls, encode_layers = [], hubert.encode_layers
    monkeypatch.setattr(hubert, "encode_layers", lambda audio: calls.append(audio.shape[-1]) or encode_layers(audio))
    ask = dict(pooling="frames", seconds=0.2, layers=[1, 3], cache=tmp_path, progress=False)
    first = states(hubert, clips[:4], **ask)
    assert [one.shape for one in first] == [(2, 10, 24)] * 4 and calls == [3_200] * 4
    again = states(hubert, clips[:5], **ask)
    assert len(calls) == 5 and all(torch.equal(a, b) for a, b in zip(first, again, strict=False))
    assert torch.equal(first[0], encode_layers(_sound(clips[0]))[[1, 3], 0].half())
    states(hubert, clips[:1], **ask | {"seconds": 0.1})
    assert len(calls) == 6


def _sound(clip, part=slice(3_200)):
    from sae_audio.audio import read

    return read(clip.path).samples[None, :, part]


def test_cuts_are_the_start_and_places_at_random_the_same_in_every_run():
    assert starts(16_000, 1_000, 5.0, 4, "a") == starts(16_000, 1_000, 5.0, 4, "a") != starts(16_000, 1_000, 5.0, 4, "b")
    many = starts(16_000, 1_000, 5.0, 500, "a")
    assert many[0] == 0 and len(many) == 500 and min(many) >= 0
    assert max(many) == pytest.approx(11_000, abs=150) and sum(many) / 499 == pytest.approx(5_500, abs=450)
    assert starts(5_000, 1_000, 5.0, 4, "a") == starts(900, 1_000, 5.0, 4, "a") == starts(16_000, 1_000, None, 4, "a") == [0]


def test_training_clips_have_cuts_and_the_others_do_not(hubert, clips, tmp_path):
    corpus = Corpus("tiny", hubert, clips, 0.2, tmp_path, [2], cuts=3, progress=False)
    training, vectors = corpus.training("paper", 2), corpus.vectors("paper", 2)
    assert training.shape == (len(clips), 3, 24) and torch.equal(training[:, 0], vectors)
    alike = (training == training[:, :1]).all(-1).all(-1)
    assert [not same for same in alike.tolist()] == [clip.split == "train" for clip in clips]
    second = starts(8_000, 16_000, 0.2, 3, clips[0].name)[1]
    part = _sound(clips[0], slice(second, second + 3_200))
    assert torch.allclose(training[0, 1], hubert.encode_layers(part)[2, 0].mean(0), rtol=1e-3, atol=1e-4)
    assert corpus.training("honest", 2).shape == (len(clips), 24)
    long = Corpus("tiny", hubert, clips[:1], 0.5, tmp_path, [2], cuts=3, progress=False).training("paper", 2)
    assert torch.equal(long, long[:, :1].expand(1, 3, 24))  # nothing to cut


def test_an_epoch_takes_every_clip_once_and_one_of_its_cuts():
    train = torch.arange(300).view(100, 3, 1)
    generator = torch.Generator().manual_seed(0)
    epochs = [torch.cat([train[part] for part in epoch(train, generator)]).flatten() for _ in range(2)]
    assert all(sorted((values // 3).tolist()) == list(range(100)) for values in epochs)
    assert all(20 < int((values % 3 == cut).sum()) < 50 for values in epochs for cut in range(3))
    drawn = [dict(zip((values // 3).tolist(), (values % 3).tolist(), strict=True)) for values in epochs]
    assert drawn[0] != drawn[1]


def test_one_layer_of_the_frames_is_read_back(hubert, clips, tmp_path):
    corpus = Corpus("tiny", hubert, clips[:3], 0.2, tmp_path, [1, 3], progress=False)
    every = hubert.encode_layers(_sound(clips[1]))[:, 0]
    for layer in (1, 3, 1):
        frames = corpus.frames(layer)
        assert torch.equal(frames[1], every[layer].half().float()) and len(frames) == 3 and len(corpus._frames) == 1
    stored = next(tmp_path.glob("*/*.safetensors"))
    assert load_file(stored)["1/states"].shape == (2, 10, 24)


def test_other_weights_do_not_share_a_cache(hubert, clips, tmp_path):
    ask = dict(pooling="sound", seconds=0.1, cache=tmp_path, progress=False)
    states(hubert, clips[:1], **ask)
    about = next(tmp_path.glob("*/settings.json"))
    settings = json.loads(about.read_text())
    about.write_text(json.dumps(settings | {"weights": [value + 1 for value in settings["weights"]]}))
    with pytest.raises(DataError, match="made with other weights"):
        states(hubert, clips[:1], **ask)


def test_a_codec_has_no_layers():
    with pytest.raises(DataError, match="'etude-codec' has no layers"):
        check_encoder(load_latent_space("etude-codec"))


# Splits, SAEs and probes ------------------------------------------------------------------------------------------------------


def test_honest_validation_is_of_other_singers_and_the_papers_is_not(corpus):
    groups = [clip.group for clip in corpus.clips]
    test = set(corpus.test.tolist())
    assert {groups[i] for i in test} == {"female2", "male3"}
    for mode, shared in (("honest", False), ("paper", True)):
        train, validation = (set(rows.tolist()) for rows in corpus.split(mode, 0))
        assert not train & validation and not (train | validation) & test
        assert len(train | validation | test) == len(groups)
        assert bool({groups[i] for i in train} & {groups[i] for i in validation}) == shared
    assert len(corpus.split("paper", 0)[1]) == (len(groups) - len(test)) // 5
    assert corpus.split("paper", 0)[1].tolist() != corpus.split("paper", 1)[1].tolist()


def test_active_features_are_those_of_the_published_code():
    assert [active(sparsity, 2048) for sparsity in published.SPARSITIES] == [512, 409, 307, 204, 102, 20]
    assert active(0.99, 20) == 1


def test_the_papers_sae(corpus):
    vectors = corpus.vectors("paper", 4)
    train, validation = (vectors[rows] for rows in corpus.split("paper", 0))
    train = train[:, None]  # one cut of each
    sae = published_sae(train, validation, 6, SIZES, seed=0)
    config = sae.config
    assert (config.variant, config.decoder_bias, config.aux_coefficient, config.k) == ("topk", False, 0.0, 6)
    assert not sae.b_dec.any() and not sae.mean.any() and (sae.std == 1).all()
    assert int((encode(sae, vectors) > 0).sum(1).max()) <= 6
    untrained = published_sae(train, validation, 6, Sizes(**vars(SIZES) | {"sae_epochs": 0}), seed=0)
    limits = ((untrained.W_enc, 48), (untrained.b_enc, 48), (untrained.W_dec, 64))
    assert all(0.9 / math.sqrt(n) < float(w.detach().abs().max()) <= 1 / math.sqrt(n) for w, n in limits)
    lost, at_first = (reconstruction(one, validation)["mse"] for one in (sae, untrained))
    assert lost < 0.8 * at_first
    again, other = (published_sae(train, validation, 6, SIZES, seed=seed) for seed in (0, 1))
    assert torch.allclose(again.W_dec, sae.W_dec, rtol=1e-3, atol=1e-4) and not torch.allclose(other.W_dec, sae.W_dec, atol=1e-2)


def test_the_honest_sae_scales_its_input_and_reconstructs_held_out_clips(corpus):
    vectors = corpus.vectors("honest", 4)
    train, validation = (vectors[rows] for rows in corpus.split("honest", 0))
    job = Job("demo", "honest", 4, "sae", 0.75, 0)
    sae = fitted_sae(train, validation, job, SIZES)
    assert sae.config.k == 16 and torch.allclose(sae.mean, train.mean(0), rtol=1e-3, atol=1e-4)
    assert sae.W_dec.norm(dim=1).tolist() == pytest.approx([1] * 64, abs=1e-4)
    lost = reconstruction(sae, vectors[corpus.test])
    assert lost["fvu"] < 0.4 and lost["l0"] <= 16 and 0 <= lost["dead"] < 1


def test_the_papers_probe_learns_what_is_there():
    x = torch.randn(300, 8, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0).long() + 2 * (x[:, 1] > 0).long()
    predict = published_probe(x[:200, None], y[:200], (x[200:], y[200:]), 4, seed=0, epochs=120)
    assert float((predict(x[200:]) == y[200:]).float().mean()) > 0.7
    again = published_probe(x[:200, None], y[:200], (x[200:], y[200:]), 4, seed=0, epochs=120)
    assert float((predict(x) == again(x)).float().mean()) > 0.99


# Reports ----------------------------------------------------------------------------------------------------------------------


def row(accuracy, **changes):
    half = round(accuracy * 200)
    base = Job("ast", "paper", 6, "dense", None, 0)._asdict() | {
        "accuracy": accuracy,
        "balanced": accuracy,
        "n": 400,
        "n_classes": 10,
    }
    return base | {"by_group": {"female2": [half, 200], "male3": [half, 200]}, "n_dims": 768} | changes


def test_the_table_compares_with_what_was_published():
    rows = [row(0.80), row(0.79, seed=1), row(0.70, layer=1), row(0.75, code="sae", sparsity=0.99, fvu=0.5, mse=0.03, dead=0.25)]
    rows.append(row(0.77, mode="honest", code="sae", sparsity=0.99, fvu=0.5, mse=0.03, dead=0.25))
    text = "\n".join(lines_of(rows))
    assert "ast: 400 test clips, 10 classes, 2 seeds" in text and "Defects of the published run: none known" in text
    assert "| 6 | 81.8 | 79.5 ± 0.7 | 75 to 83 | -2.3 |" in text  # ±4 points at 400 clips
    assert "| 1 | 67.8 | 70.0 | 65 to 74 | +2.2 |" in text
    assert "| 99% | 78 | 75.0 | -3.0 | 77.0 | 0.500 | 25% |" in text
    assert "| 75% | 80.25 | 80.0 | -0.2 |" in "\n".join(lines_of([row(0.80, code="sae", sparsity=0.75)]))  # all its digits
    assert "| dense | 81.8 | 79.5 ± 0.7 | -2.3 |" in text
    assert (
        difference([row(0.70)], 75.0) == "**-5.0**" and difference([row(0.7)], None) == difference([], 75.0) == percent([]) == ""
    )


def test_intervals_over_clips_and_over_singers():
    low, high = (int(end) for end in clip_interval([row(0.8)]).split(" to "))
    assert (low, high) == (76, 84)
    uneven = row(0.5, by_group={"female2": [200, 200], "male3": [0, 200]})
    assert singer_interval([uneven]) == "0 to 100"  # two singers say nothing about a third
    # Five singers of 80 clips: 70, 75, 80, 85, 90 % have a standard error of 3.54, and t is 2.78 at 4 degrees of freedom.
    five = row(0.8, by_group={f"male{i}": [56 + 4 * i, 80] for i in range(5)})
    assert singer_interval([five]) == singer_interval([five, five]) == "70 to 90"
    assert singer_interval([row(0.5, by_group={"male3": [100, 200]})]) == ""


def test_the_published_numbers_are_whole():
    for name, layers in published.SAE_LAYERS.items():
        assert len(published.LAYERS[name]) == 13
        for layer in layers:
            assert len(published.CODES[name, layer]) == len(published.ERRORS[name, layer]) == 6
            assert len(published.COMPLETENESS[name, layer]) == len(published.INFORMATIVENESS[name, layer]) == 7
            assert sum(published.FAMILIES[name, layer].values()) == pytest.approx(10, abs=0.9)
    assert published.code_accuracy("ast", 12, 0.85) == 83.5 and published.code_accuracy("ast", 12, None) == 82.0
    assert published.code_accuracy("hubert-base", 3, 0.99) is None is published.code_accuracy("whisper-tiny", 3, 0.9)


# The whole experiment ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo(cache, clips):
    """Both demonstrations, made small."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_demo, "demo_voices", lambda folder: folder / "demo-voices")
        patch.setattr(singing, "demo_voices", _demo.demo_voices)
        patch.setattr(singing, "DEMO", SMALL)
        for experiment in (singing, disentanglement):
            experiment.main(experiment.parse(["--demo", "--cache", str(cache)]))
    return cache / "demo"


def test_the_demonstration_says_that_nothing_follows(demo):
    for name in ("singing", "disentanglement"):
        text = (demo / f"{name}.md").read_text()
        assert "No claim about singing, about any model or about sparse autoencoders follows" in text.splitlines()[0]
        assert "published run" not in text and "81.8" not in text
    made = {path.name for path in demo.iterdir()}
    assert made == {
        *("singing.json", "singing.md", "singing-layers.png", "singing-sparsity.png", "singing-reconstruction.png"),
        *("disentanglement.json", "disentanglement.md"),
        *(f"disentanglement-{name}-demo.png" for name in ("sparsity", "entropy", "families")),
    }
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in demo.glob("*.png"))


def test_rows_of_both_modes_all_layers_and_controls(demo):
    rows = json.loads((demo / "singing.json").read_text())
    dense = [row for row in rows if row["code"] == "dense"]
    assert {(row["mode"], row["layer"]) for row in dense} == {(mode, layer) for mode in ("honest", "paper") for layer in range(5)}
    codes = {(row["mode"], row["code"], row["sparsity"]) for row in rows if row["code"] != "dense"}
    honest = {("honest", code, s) for code in ("sae", "frames", "random", "untrained", "pca") for s in (0.75, 0.95)}
    assert codes == honest | {("paper", "sae", 0.75), ("paper", "sae", 0.95)}
    for row in rows:
        hits, n = (sum(counts[i] for counts in row["by_group"].values()) for i in (0, 1))
        assert n == row["n"] == 2 * (9 * 4 + 3) and row["accuracy"] == pytest.approx(hits / n)
        assert set(row["by_group"]) == {"female2", "male3"}
    # Random weights or not: the spectrum is in the hidden states, and the techniques differ in it.
    assert max(row["accuracy"] for row in dense if row["mode"] == "honest") > 0.4


def test_a_finished_run_is_not_fitted_again_and_half_a_row_is_dropped(demo, cache, corpus, monkeypatch):
    before = (demo / "singing.json").read_bytes()
    log = next(cache.glob("singing-*/rows.jsonl"))
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[:-1]) + lines[-1][:40])
    fitted = []
    measure = singing.measure
    monkeypatch.setattr(singing, "measure", lambda *given, **named: fitted.append(given) or measure(*given, **named))
    monkeypatch.setattr(singing, "demo_voices", lambda folder: folder / "demo-voices")
    monkeypatch.setattr(singing, "DEMO", SMALL)
    singing.main(singing.parse(["--demo", "--cache", str(cache)]))
    assert len(fitted) == 1
    after = json.loads((demo / "singing.json").read_text())
    for old, new in zip(json.loads(before), after, strict=True):
        assert old["code"] == new["code"] and old["accuracy"] == pytest.approx(new["accuracy"], abs=0.03)


def test_rows_are_of_these_clips_and_weights(corpus, clips, tmp_path):
    copy = tmp_path / "one.wav"
    copy.write_bytes(clips[0].path.read_bytes())
    mine = [clips[0]._replace(path=copy), *clips[1:]]
    log = partial(singing.log_of, "singing")
    space = corpus.space
    first = log(Corpus("demo", space, mine, 0.5, tmp_path, [2]), {"k": 1})
    assert first == log(Corpus("demo", space, mine, 0.5, tmp_path, [4]), {"k": 1})  # rows are told apart by their layer
    os.utime(copy, (1, 1))
    others = [
        log(Corpus("demo", space, mine, 0.5, tmp_path, [2]), {"k": 1}),
        log(Corpus("demo", space, mine, 0.4, tmp_path, [2]), {"k": 1}),
        log(Corpus("demo", space, mine, 0.5, tmp_path, [2]), {"k": 2}),
        log(Corpus("demo", space, mine[:-1], 0.5, tmp_path, [2]), {"k": 1}),
    ]
    assert len({first, *others}) == 5
    model = deepcopy(space.model)
    model.embeddings.patch_embeddings.projection.weight.data *= -2
    spec, space = space.spec, type(space)(model, space.extractor, space.spec.tap)
    space.spec = spec
    with pytest.raises(DataError, match="made with other weights"):
        log(Corpus("demo", space, mine, 0.4, tmp_path, [2]), {"k": 1})


def test_disentanglement_stands_beside_its_controls(demo):
    rows = json.loads((demo / "disentanglement.json").read_text())["rows"]
    found = {(row["mode"], row["code"], row["sparsity"]): row for row in rows}
    controls = ("sae", "random", "untrained", "pca", "ica", "shuffled")
    assert set(found) == {("honest", "dense", None), ("paper", "dense", None)} | {
        *(("honest", code, sparsity) for code in controls for sparsity in (0.75, 0.95)),
        *(("paper", "sae", sparsity) for sparsity in (0.75, 0.95)),
    }
    dense, shuffled = found["honest", "dense", None], found["honest", "shuffled", 0.75]
    best = max(value for value in dense["r2_out"] if value is not None)
    assert best > 0.5 and max(value for value in shuffled["r2_out"] if value is not None) < 0.2
    assert (dense["n_dims"], dense["common"], found["honest", "sae", 0.75]["n_dims"]) == (48, 64, 64)
    for own, common in zip(dense["completeness"], dense["completeness_common"], strict=True):
        assert (own is None and common is None) or 1 - common == pytest.approx((1 - own) * math.log(48) / math.log(64))
    assert set(dense["r2_without"]) == {"female2", "male3"} and found["paper", "dense", None]["r2_without"] == {}
    for whole, *parts in zip(dense["r2_out"], *dense["r2_without"].values(), strict=True):
        assert all(isinstance(value, float) and value < 1 for value in (whole, *parts))
    assert all(value is None for value in found["paper", "dense", None]["r2_out"]) and found["paper", "dense", None]["n"] == 78
    text = (demo / "disentanglement.md").read_text()
    assert "| dense state |  | 48 |" in text and "| SAE, shuffled factors | 75% | 64 |" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--audio is missing"),
        (["--audio", str(Path(__file__).parent / "data")], "not the unpacked VocalSet"),
        (["--audio", ".", "--sparsity", "1.5"], "between 0 and 1"),
        (["--audio", ".", "--seeds", "0"], "seeds at least 1"),
        (["--audio", ".", "--cuts", "0"], "--cuts is 0"),
        (["--audio", ".", "--space", "ast", "hubert-bass"], "did you mean 'hubert-base'"),
        (["--audio", ".", "--space", "ast", "etude-codec"], "'etude-codec' has no layers"),
        (["--audio", ".", "--space", "ast", "hubert-base", "--source", "x"], "run them one by one"),
    ],
)
def test_wrong_options_are_named(arguments, message, capsys):
    for experiment in (singing, disentanglement):
        assert cli.guarded(lambda made=experiment: made.main(made.parse(arguments)), False) == 2
        assert message in capsys.readouterr().err


def test_other_sounds_are_not_compared_with_what_was_published_on_vocalset(clips, hubert, tmp_path, capsys):
    for clip in (clip for clip in clips if clip.label in ("belt", "breathy", "trill")):
        copy = tmp_path / "own" / clip.label / f"{clip.group}-{clip.path.name}"
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(clip.path.read_bytes())
    what = ["--audio", str(tmp_path / "own"), "--labels", "from-folders", "--group", "(?:fe)?male[0-9]"]
    model = ["--space", "hubert-base", "--source", hubert.spec.repo, "--sae-layers", "3", "--seconds", "0.2", "--seeds", "1"]
    small = ["--sparsity", "0.9", "--d-sae", "16", "--sae-epochs", "1", "--probe-epochs", "1", "--sae-steps", "2"]
    where = ["--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out")]
    for experiment, more in ((singing, []), (disentanglement, ["--factors", "own"])):
        options = experiment.parse([*what, *model, *small, *where, *more])
        assert cli.guarded(lambda made=experiment, options=options: made.main(options), debug=True) == 0
    told = capsys.readouterr().out
    assert "## hubert-base on own: " in told and "## hubert-base on own, layer 3" in told and "published" not in told
    assert (tmp_path / "out" / "disentanglement-families-hubert-base-on-own.png").is_file()


def test_layers_are_checked(ast):
    assert singing.chosen_layers(["all"], ast) == [0, 1, 2, 3, 4]
    assert singing.chosen_layers(["4", "1"], ast) == [1, 4] and singing.chosen_layers(None, ast) == []
    assert singing.default_layers(ast) == [2, 4]  # the paper's two are past the end of this one
    with pytest.raises(ParameterError, match="'7' is no layer of ast"):
        singing.chosen_layers(["7"], ast)


# Per frame: an encoder in the main job ------------------------------------------------------------------------------------------


def test_frames_of_an_encoder_give_a_bundle_like_any_other(clips, cache, hubert, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sae_audio.recipe.bundle_figures", lambda bundle: {})  # drawn in tests/test_plots.py
    out = str(tmp_path / "bundle")
    audio = ["--audio", str(cache / "demo-voices" / "FULL"), "--out", out]
    options = ["--space", "hubert-base", "--layer", "2", "--source", hubert.spec.repo, *audio]
    sizes = ["--steps", "20", "--d-sae", "64", "--k", "4", "--batch-size", "256", "--device", "cpu"]
    assert cli.guarded(lambda: train.main(train.parse([*options, *sizes])), debug=True) == 0
    told = capsys.readouterr().out
    assert "found again from another seed" in told
    bundle = Bundle.from_pretrained(out)
    assert (bundle.spec.name, bundle.spec.tap, bundle.spec.frame_rate) == ("hubert-base", "layer 2", 50.0)
    assert not bundle.controls and "control" not in bundle.metrics
    steady = bundle.metrics["stability"]
    assert steady["seeds"] == 1 and all(0 < steady[which]["mean_cosine"] <= 1 for which in ("steady", "random"))
    assert "## Stability" in (tmp_path / "bundle" / "README.md").read_text()
    # An atlas over time: the strongest moments of a feature name a recording and a second in it.
    names = {clip.name.removeprefix("FULL/") for clip in clips} | {"female1/long_tones/straight/f1_long_tones_straight.wav"}
    fired = int(torch.tensor([bundle.atlas.feature(i).mean for i in range(bundle.atlas.d_sae)]).argmax())
    moments = bundle.atlas.feature(fired).moments
    assert moments and all(moment.recording in names and 0 <= moment.time <= 0.5 for moment in moments)
    # SAELens' files hold the same function.
    cfg, tensors = (
        json.loads((tmp_path / "bundle" / "cfg.json").read_text()),
        load_file(tmp_path / "bundle" / "sae_weights.safetensors"),
    )
    frames = hubert.encode_layers(_sound(clips[0]))[2, 0]
    assert torch.allclose(from_saelens(cfg, tensors).encode(frames), bundle.sae.encode(frames), rtol=1e-3, atol=1e-3)
    song = str(clips[0].path)
    assert cli.main(["analyse", song, "--bundle", out]) == 0
    steer = ["steer", song, "--bundle", out, "--feature", f"{fired}=1", "-o", str(tmp_path / "o.wav")]
    assert cli.main(steer) == 2 and "cannot be decoded" in capsys.readouterr().err
