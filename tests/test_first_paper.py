"""The first paper's corpora and experiments, on stand-ins: folders in the public layouts, tiny models in every kind of space."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import paper_folders
import pytest
import soundfile
import torch
from tiny_bundle import tiny_bundle
from tiny_models import BUILDERS

from experiments import _log, control, corpora, decodability, emergence
from experiments._data import announcement
from experiments._layouts import CORPORA
from sae_audio import Bundle
from sae_audio.activations import audio_sources
from sae_audio.cli import guarded
from sae_audio.diffrhythm.dit import DiT, DiTConfig
from sae_audio.latent_spaces import SPACES as SPACES_TABLE
from sae_audio.latent_spaces import load_latent_space
from sae_audio.sae import SAEConfig, build_sae

sys.path.insert(0, str(Path(__file__).parents[1]))
import train

ROOT = Path(__file__).parents[1]

SECONDS = {"cocochorales": 8.0, "damp": 8.0, "singing": 8.0, "groove": 8.0, "guitarset": 8.0, "maestro": 16.0}
"""How much sound each stand-in has."""


def put_together(*options, code=0):
    assert guarded(lambda: corpora.main(corpora.parse([str(option) for option in options])), debug=True) == code


def links(out):
    """By split and corpus: the files."""
    files = [path.relative_to(out) for path in out.rglob("*") if path.suffix in (".wav", ".flac", ".ogg")]
    assert {path.parts[0] for path in files} == {"train", "validation", "test"}
    return {split: sorted(path for path in files if path.parts[0] == split) for split in ("train", "validation", "test")}


@pytest.mark.parametrize("name", CORPORA)
def test_a_corpus_is_found_and_nobody_is_in_two_splits(name, tmp_path):
    folder = paper_folders.WRITERS[name](tmp_path / "published")
    put_together(f"--{name}", folder, "--share", "1", "--out", tmp_path / "out")
    found = links(tmp_path / "out")
    assert sum(map(len, found.values())) == 8  # stems, backgrounds, pickups and second copies are left out
    group = {
        "cocochorales": lambda path: int(re.findall(r"track(\d+)", str(path))[0]) // 2,
        "damp": lambda path: path.parent.name.split("_")[0],
        "singing": lambda path: re.findall(r"female\d", str(path))[0],
        "groove": lambda path: re.findall(r"drummer\d", str(path))[0],
        "guitarset": lambda path: path.name[:2],
        "maestro": lambda path: int(re.findall(r"piece(\d)", str(path))[0]) // 2,
    }[name]
    groups = [{group(path) for path in paths} for paths in found.values()]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 4
    assert all((tmp_path / "out" / path).resolve().is_relative_to(folder) for path in found["train"])


@pytest.mark.parametrize("name", CORPORA)
def test_another_folder_is_told_apart(name, tmp_path, capsys):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("no sound")
    put_together(f"--{name}", tmp_path / "other", "--out", tmp_path / "out", code=2)
    said = capsys.readouterr().err
    assert f"is not {CORPORA[name].title}" in said and CORPORA[name].layout in said and CORPORA[name].address in said
    put_together(f"--{name}", tmp_path / "none", "--out", tmp_path / "out", code=2)
    assert "is no folder" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_an_archive_of_midi_alone_is_told_apart(tmp_path, capsys):
    folder = paper_folders.groove(tmp_path / "groove")
    for path in folder.rglob("*.wav"):
        path.unlink()
    put_together("--groove", folder, "--out", tmp_path / "out", code=2)
    assert "none of the 8 sound files that it names: a MIDI-only archive?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "no corpus is given"),
        (("--damp", "a", "--singing", "b"), "--singing stands in for --damp"),
        (("--damp", "a", "--share", "0"), "must be above 0"),
        (("--damp", "a", "--max-minutes", "nan"), "must be above 0"),
    ],
)
def test_options_that_contradict_each_other(options, said, tmp_path, capsys):
    put_together(*options, "--out", tmp_path / "out", code=2)
    assert said in capsys.readouterr().err


def test_too_few_performers_to_split_by(tmp_path, capsys):
    put_together("--groove", paper_folders.groove(tmp_path / "groove", drummers=2), "--out", tmp_path / "out", code=2)
    assert "Groove MIDI has 4 recordings of 2 drummers; a split by drummer takes at least 3" in capsys.readouterr().err


def test_the_hours_are_the_published_ones_where_there_are_as_many(tmp_path):
    folder = paper_folders.cocochorales(tmp_path / "coco", tracks=60, seconds=0.5)
    share = 10.0 / 3600 / CORPORA["cocochorales"].hours  # ten of the thirty seconds
    put_together("--cocochorales", folder, "--share", share, "--out", tmp_path / "out")
    counts = {split: len(paths) for split, paths in links(tmp_path / "out").items()}
    assert counts == {"train": 16, "validation": 2, "test": 2}  # of half a second each: 8, 1 and 1 of ten seconds


def test_another_seed_draws_others_and_the_same_seed_the_same(tmp_path):
    folder, share = paper_folders.cocochorales(tmp_path / "coco", tracks=60, seconds=0.1), 2.0 / 3600 / 11.2
    drawn = []
    for number, seed in enumerate((0, 0, 1)):
        put_together("--cocochorales", folder, "--share", share, "--seed", seed, "--out", tmp_path / f"{number}")
        drawn.append(links(tmp_path / f"{number}"))
    assert drawn[0] == drawn[1] != drawn[2]


def test_performers_of_unequal_length_still_give_most_to_training(tmp_path):
    """One drummer has 20 s, nine have 1 s each: whoever is where, training has more than half and no split is empty."""
    folder, rows = tmp_path / "groove", []
    for i in range(10):
        name = f"drummer{i}/session1/1.wav"
        paper_folders.tone(folder / name, 50 + i, 20.0 if i == 0 else 1.0, rate=8_000)
        rows.append({"drummer": f"drummer{i}", "audio_filename": name})
    paper_folders.table(folder / "info.csv", rows)
    for seed in range(8):
        put_together("--groove", folder, "--seed", seed, "--out", tmp_path / f"{seed}")
        counts = [sum(20 if "drummer0" in str(path) else 1 for path in paths) for paths in links(tmp_path / f"{seed}").values()]
        assert min(counts) >= 1 and sum(counts) == 29
        assert counts[0] > 14.5


def test_long_recordings_are_cut_at_the_same_place_every_time(tmp_path):
    rate, rows = 44_100, []
    ramp = np.arange(4 * rate, dtype=np.int16)[:, None] % 30_000  # every sample tells its place
    for i in range(3):
        path = tmp_path / "maestro" / "2004" / f"{i}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.repeat(ramp, 2, axis=1).astype(np.int16), rate)
        rows.append({"canonical_composer": "x", "canonical_title": str(i), "audio_filename": f"2004/{i}.wav"})
    paper_folders.table(tmp_path / "maestro" / "maestro-v3.0.0.csv", rows)
    for out in ("a", "b"):
        put_together("--maestro", tmp_path / "maestro", "--max-minutes", 1 / 60, "--out", tmp_path / out)
    found = links(tmp_path / "a")
    assert found == links(tmp_path / "b")
    starts = json.loads((tmp_path / "a" / "corpora.json").read_text())
    for path in (path for paths in found.values() for path in paths):
        cut, _ = soundfile.read(tmp_path / "a" / path, dtype="int16")
        first = int(starts[path.as_posix()] * rate)
        assert cut.shape == (rate, 2) and 0 <= first <= 3 * rate
        assert np.array_equal(cut[:, 1], ramp[first : first + rate, 0])
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes()
    assert len(set(starts.values())) == 3


def test_the_table_says_what_was_taken(tmp_path, capsys):
    options = paper_folders.write_all(tmp_path / "published")
    broken = tmp_path / "published" / "guitarset" / "audio_mono-mic" / "09_broken_mic.wav"
    broken.write_bytes(b"no sound")
    put_together(*options, "--out", tmp_path / "out")
    said = capsys.readouterr().out
    assert "guitarset: left out, not a sound file: audio_mono-mic/09_broken_mic.wav" in said and "without" not in said
    header, _, *rows = [line.strip("| ").split(" | ") for line in (tmp_path / "out" / "corpora.md").read_text().splitlines()]
    table = {row[0]: dict(zip(header, row, strict=True)) for row in rows}
    for name, row in table.items():
        assert float(row["hours"]) == pytest.approx(SECONDS[name] / 3600, rel=1e-2)
        assert float(row["of"]) == CORPORA[name].hours and row["recordings"] == "8" and row["licence"] == CORPORA[name].licence
        assert sum(map(float, row["train / validation / test, h"].split(" / "))) == pytest.approx(float(row["hours"]), rel=2e-2)
    put_together(*options[:2], "--out", tmp_path / "one")
    assert "without damp, groove, guitarset, maestro" in capsys.readouterr().out


def test_a_folder_keeps_to_one_choice_and_a_stopped_run_goes_on(tmp_path, capsys):
    options = paper_folders.write_all(tmp_path / "published")
    put_together(*options, "--max-minutes", 1 / 60, "--out", tmp_path / "out")
    first = links(tmp_path / "out")
    cut = next(path for path in first["train"] if path.suffix == ".flac")
    times = {path: (tmp_path / "out" / path).stat().st_mtime_ns for paths in first.values() for path in paths}
    (tmp_path / "out" / cut).unlink()
    (tmp_path / "out" / first["test"][0]).unlink()
    put_together(*options, "--max-minutes", 1 / 60, "--out", tmp_path / "out")
    assert links(tmp_path / "out") == first
    again = {path: (tmp_path / "out" / path).stat().st_mtime_ns for path in times}
    assert [path for path in times if times[path] != again[path]] == [cut]  # all else is as an extraction saw it
    put_together(*options, "--max-minutes", 1 / 60, "--seed", "1", "--out", tmp_path / "out", code=2)
    assert "holds another choice of recordings" in capsys.readouterr().err
    assert links(tmp_path / "out") == first


def test_corpora_that_moved_are_linked_again(tmp_path):
    put_together("--guitarset", paper_folders.guitarset(tmp_path / "before"), "--out", tmp_path / "out")
    (tmp_path / "before").rename(tmp_path / "after")
    put_together("--guitarset", tmp_path / "after", "--out", tmp_path / "out")
    assert all((tmp_path / "out" / path).is_file() for paths in links(tmp_path / "out").values() for path in paths)


def test_musdb_gives_vocals_and_any_folder_its_first_folders(tmp_path):
    for i in range(6):
        for stem in ("vocals", "drums"):
            paper_folders.tone(tmp_path / "musdb" / "train" / f"Artist{i % 3} - Song {i}" / f"{stem}.wav", 50 + i, 0.5)
        paper_folders.tone(tmp_path / "own" / f"singer {i % 3}" / f"{i}.wav", 50 + i, 0.5)
    for name, group in (("musdb", r"Artist\d"), ("own", r"singer \d")):
        put_together("--singing", tmp_path / name, "--out", tmp_path / f"of {name}")
        found = links(tmp_path / f"of {name}")
        assert not any("drums" in path.name for paths in found.values() for path in paths)
        assert sorted(len({re.findall(group, str(path))[0] for path in paths}) for paths in found.values()) == [1, 1, 1]
        assert [len(paths) for paths in found.values()] == [2, 2, 2]


def test_the_readme_says_what_the_program_does():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[[^\]]+\]\((https\S+)\) \| ([\d.]+) \| [^|]+ \| ([^|]+) \| [^|]+ \| (\w+) \|$", readme, re.MULTILINE)
    published = [corpus for name, corpus in CORPORA.items() if name != "singing"]
    assert [(address, float(hours), licence, group) for address, hours, licence, group in rows] == [
        (corpus.address, corpus.hours, corpus.licence, corpus.group) for corpus in published
    ]
    assert sum(corpus.hours for corpus in published) == pytest.approx(31.65) and "31.65 hours" in readme
    assert all(address in readme for address in CORPORA["singing"].address.split(", "))
    seconds = 31.65 * 3600
    sizes = re.findall(r"`--space ([\w-]+)[^|]*\| ([\d.]+) M \| ([\d.]+) GB \|", readme)
    assert [name for name, *_ in sizes] == list(SPACES)
    for name, frames, size in sizes:
        row = SPACES_TABLE[name]
        expected = seconds * row.sample_rate / row.hop_length
        assert float(frames) == pytest.approx(expected / 1e6, rel=5e-3)
        assert float(size) == pytest.approx(expected * (row.d_in + 3) * 4 / 1e9, rel=1e-2)


# Splits by folder -----------------------------------------------------------------------------------------------------------


def test_folders_named_after_the_splits_are_the_splits(tmp_path):
    for name in ("train/a.wav", "train/sub/b.wav", "validation/c.wav", "test/d.wav"):
        paper_folders.tone(tmp_path / "music" / name, 60, 0.1)
    found = {source.name: source.split for source in audio_sources(tmp_path / "music")}
    assert found == {"train/a.wav": "train", "train/sub/b.wav": "train", "validation/c.wav": "validation", "test/d.wav": "test"}
    paper_folders.tone(tmp_path / "other" / "e.wav", 60, 0.1)
    both = {source.name: source.split for source in audio_sources([tmp_path / "music", tmp_path / "other"])}
    assert both["music/test/d.wav"] == "test" and both["other/e.wav"] is None
    paper_folders.tone(tmp_path / "music" / "loose.wav", 60, 0.1)  # then they are folders like any other
    assert {source.split for source in audio_sources(tmp_path / "music")} == {None}


# The figures ----------------------------------------------------------------------------------------------------------------

SPACES = {"diffrhythm-vae": "mean", "encodec-24khz": "quantized", "wavtokenizer-75-medium-music": "quantized"}
"""The paper's three, one row of the table of spaces each, and the tap that stands for its latents."""


@pytest.fixture(scope="module")
def paper(tmp_path_factory):
    """Return a folder of data/paper, put together from short stand-ins, and of a tiny model of each space."""
    home = tmp_path_factory.mktemp("paper")
    options = []
    for name in ("groove", "maestro"):
        options += [f"--{name}", paper_folders.WRITERS[name](home / "published" / name, seconds=1.0)]
    put_together(*options, "--out", home / "data" / "paper")
    (home / "models").mkdir()
    return home


@pytest.fixture
def model(paper):
    """Return a function that gives the folder of a tiny model, built when it is first asked for."""
    return lambda name: paper / "models" / name if (paper / "models" / name).exists() else built(paper / "models" / name, name)


def built(folder, name):
    return BUILDERS[name](folder, name)


@pytest.fixture
def work(paper, tmp_path, monkeypatch):
    """Work in a folder of one's own, with the shared data/paper."""
    (tmp_path / "data").symlink_to(paper / "data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(experiment, *options, code=0):
    assert guarded(lambda: experiment.main(experiment.parse([str(option) for option in options])), debug=True) == code


def figure_3(name, source, *options):
    """Draw the figure of one space, small, and return its rows."""
    where = ("--space", name, "--tap", SPACES[name], "--source", source, "--audio", "data/paper")
    sizes = ("--widths", "2", "4", "--l1", "0.05", "--seeds", "1", "--steps", "3", "--device", "cpu")
    run(decodability, "--mode", "paper", *where, *sizes, "--out", "out", *options)
    return json.loads(Path("out/decodability.json").read_text())


@pytest.mark.parametrize("name", SPACES)
def test_figure_3_in_every_space(name, work, model, capsys):
    rows = figure_3(name, model(name), "--widths", 2)
    said = capsys.readouterr().out
    d_in = int(re.findall(r"^(\d+) features", said, re.MULTILINE)[0]) // 2
    assert d_in == load_latent_space(name, source=model(name)).spec.d_in
    acts = [row for row in rows if row["reader"] == "acts"]
    properties = {row["property"] for row in rows}
    assert {"loudness", "brightness"} <= properties <= {"pitch", "loudness", "brightness"}
    settings = [(row["config"]["d_sae"], row["config"]["l1_coefficient"]) for row in acts if row["property"] == "loudness"]
    assert settings == [(2 * d_in, 0.05)]
    for row in acts:
        assert row["config"]["variant"] == "relu_rmsnorm" and row["config"]["l1_on"] == "pre"
        assert row["sparsity"] == pytest.approx(1 - row["l0"] / row["config"]["d_sae"]) and 0 < row["sparsity"] < 1
        assert 0 <= row["accuracy"] <= row["within_one"] <= 1
    baselines = [(row["property"], row["reader"]) for row in rows if row["reader"] != "acts"]
    assert sorted(baselines) == sorted((prop, reader) for prop in properties for reader in ("latents", "random", "untrained"))
    assert "GB in runs/experiments/latents-" in said and " x real time" in said
    assert "sparsity" in Path("out/decodability.md").read_text() and Path("out/decodability.png").stat().st_size > 10_000


@pytest.fixture(scope="module")
def trained(paper):
    """Return the bundle of a tiny EnCodec, trained as the README does but smaller; its latents are in BUNDLE.work/latents."""
    out, small = paper / "runs" / "encodec", "--steps 5 --d-sae 32 --k 4 --control-clips 1 --batch-size 256 --stability-seeds 0"
    where = ["--space", "encodec-24khz", "--tap", "quantized", "--audio", str(paper / "data" / "paper"), "--device", "cpu"]
    source = ["--source", str(built(paper / "models" / "encodec-24khz", "encodec-24khz"))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sae_audio.recipe.bundle_figures", lambda bundle: {})  # drawn in tests/test_cli.py
        argv = [*where, *source, "--out", str(out), *small.split()]
        assert guarded(lambda: train.main(train.parse(argv)), debug=True) == 0
    return out


def test_the_latents_that_train_extracted_serve_figure_3_which_goes_on_where_it_was_stopped(work, trained, model, capsys):
    latents = Path(f"{trained}.work/latents")
    recordings = json.loads((latents / "index.json").read_text())["recordings"]
    assert {entry["split"] for entry in recordings} == {"train", "validation", "test"}
    assert all(entry["name"].startswith(f"{entry['split']}/") for entry in recordings)
    before = {path.name: path.stat().st_mtime_ns for path in latents.glob("*.safetensors")}
    whole = figure_3("encodec-24khz", model("encodec-24khz"), "--latents", latents)
    (log,) = Path("runs/experiments").glob("decodability-*.jsonl")
    first, second = log.read_text().splitlines()
    marked = json.loads(first)
    marked["rows"][0]["accuracy"] = 0.4321  # only what is read back from the log has it
    log.write_text(json.dumps(marked) + "\n" + second[: len(second) // 2])
    again = figure_3("encodec-24khz", model("encodec-24khz"), "--latents", latents)
    assert again[0]["accuracy"] == 0.4321 and again[1:] == whole[1:]
    assert json.loads(log.read_text().splitlines()[1]) == json.loads(second)
    assert {path.name: path.stat().st_mtime_ns for path in latents.glob("*.safetensors")} == before
    assert capsys.readouterr().out.count(f"the latents of {len(recordings)} recordings are in {latents}") == 2


def test_figure_2_in_another_space_has_the_rows_that_it_has_in_the_codec_of_the_readme(work, trained):
    where = ("--bundle", trained, "--audio", "data/paper", "--latents", f"{trained}.work/latents", "--device", "cpu")
    run(control, *where, "--clips", 1, "--out", "out")
    found = json.loads(Path("out/control.json").read_text())
    stored = json.loads((ROOT / "experiments" / "results" / "control.json").read_text())
    moved = [name for name in ("pitch", "loudness", "brightness") if name in Bundle.from_pretrained(trained).controls]
    assert {row["control"] for row in found["trials"]} == {row["control"] for row in stored["trials"] if row["property"] in moved}
    assert [(row["property"], row["alpha"]) for row in found["paper"]] == [(n, a) for n in moved for a in (0, 1, 10, 20, 30)]
    assert all(len(row["change"]) == 3 and row["distance"] >= 0 for row in found["paper"])
    assert Path("out/control.png").stat().st_size > 10_000


def test_figure_4_with_a_diffrhythm_checkpoint(work, model):
    """The checkpoint, the autoencoder, its bundle and MusicCaps are tiny; the files are laid out as the public ones are."""
    spec = load_latent_space("diffrhythm-vae", source=model("diffrhythm-vae")).spec
    tiny, sizes = tiny_bundle(), {"acts": 16, "latents": spec.d_in}
    torch.manual_seed(0)
    probes = {key: replace(probe, weight=torch.randn(sizes[probe.on], len(probe.bias))) for key, probe in tiny.probes.items()}
    sae = build_sae(SAEConfig("topk", spec.d_in, 16, k=3))
    replace(tiny, spec=spec, sae=sae, probes=probes, controls={}).save("bundle")
    config = DiTConfig(dim=64, depth=2, heads=32, text_dim=16, conv_layers=1, time_dim=16, mel_dim=spec.d_in)
    tensors = {f"transformer.{key}": value.half() for key, value in DiT(config).state_dict().items()}
    Path("DiffRhythm-1_2").mkdir()
    torch.save({"model_state_dict": tensors}, "DiffRhythm-1_2/cfm_model.pt")
    for i in range(3):
        np.save(f"style{i}.npy", np.eye(512, dtype=np.float32)[i])
    Path("musiccaps.csv").write_text("ytid,caption\na,style0.npy\nb,style1.npy\n")
    for name, seconds in (("a/short", 0.2), ("b/long", 0.6)):
        paper_folders.tone(Path("real") / f"{name}.wav", 60, seconds)
        np.save(f"real/{name}.npy", np.eye(512, dtype=np.float32)[2])
    where = ("--model", "DiffRhythm-1_2", "--bundle", "bundle", "--null-style", "style2.npy", "--real", "real", "--out", "out")
    run(emergence, *where, "--prompts-file", "musiccaps.csv", "--seconds", 0.4, "--seeds", 1, "--steps", 5)
    entry = json.loads(Path("out/emergence.json").read_text())["found"]["style only"]["loudness"]
    assert len(entry["acts/x_t"]["agreement"]["mean"]) == 5
    assert entry["acts/x_t"]["agreement"]["n_songs"] == 2
    assert entry["acts/x_t control"]["agreement"]["n_songs"] == 1  # the other sound is too short


@pytest.mark.parametrize(
    ("experiment", "options", "said"),
    [
        (decodability, ("--space", "encodec-24khz"), "--audio is missing: 'encodec-24khz' needs recordings"),
        (decodability, ("--device", "cuda:99"), "device 'cuda:99' is not available here"),
        (decodability, ("--audio", "nowhere"), "does not exist"),
        (control, ("--bundle", "nowhere"), "nowhere"),
        (emergence, ("--bundle", "nowhere"), "nowhere"),
    ],
)
def test_what_cannot_run_is_one_line(experiment, options, said, work, capsys):
    run(experiment, *options, code=2)
    err = capsys.readouterr().err
    assert said in err and err.startswith("error: ") and err.count("\n") == 1


def test_what_there_is_to_do_is_said_first(tmp_path):
    for i in range(3):
        paper_folders.tone(tmp_path / "music" / f"{i}.wav", 60, 2.4)
    (tmp_path / "music" / "broken.wav").write_bytes(b"no sound")
    space = load_latent_space("encodec-24khz", source=BUILDERS["encodec-24khz"](tmp_path / "model", "encodec-24khz"))
    said = announcement(space, audio_sources(tmp_path / "music"), tmp_path / "latents", "yin")
    rate, d_in = space.spec.frame_rate, space.spec.d_in
    assert said.startswith(f"0.002 h in 4 recordings: {7.2 * rate:,.0f} frames of 'encodec-24khz', encoder, ")
    assert f", {7.2 * rate * (d_in + 3) * 4 / 1e9:.3g} GB in " in said and "; about 1 min at " in said


def test_finished_jobs_are_not_done_again(tmp_path):
    log, done = tmp_path / "a" / "log.jsonl", []

    def measure(job):
        done.append(job["name"])
        return [job | {"length": len(job["name"])}]

    jobs = [{"name": "one"}, {"name": "three"}]
    rows = [{"name": "one", "length": 3}, {"name": "three", "length": 5}]
    assert list(_log.rows_of(jobs[:1], measure, log)) == rows[:1] and list(_log.rows_of(jobs, measure, log)) == rows
    log.write_text(log.read_text()[:-5])
    assert list(_log.rows_of(jobs, measure, log)) == rows
    assert done == ["one", "three", "three"] and [entry["rows"] for entry in _log.finished(log)] == [rows[:1], rows[1:]]
