"""Full disks, read-only folders, long and odd names, links in a circle, clocks that jump: one line, and nothing by half.

A full disk is a tmpfs of some kilobytes where the tests may mount one (as root), and everywhere a limit on the size of files,
which refuses at the same places.
"""

import contextlib
import io
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hub_bundles import contents, seed
from safetensors.torch import load_file
from test_activations import tones
from test_etude_flow import TINY, toy_data
from tiny_bundle import tiny_bundle
from tiny_models import noise, tiny_etude, tiny_space

from sae_audio import Bundle, cli
from sae_audio.activations import ActivationStore, audio_sources, extract
from sae_audio.audio import write
from sae_audio.errors import BundleError, OutputError, SaeAudioError
from sae_audio.etude import train_codec, train_flow
from sae_audio.etude.codec import CodecConfig
from sae_audio.sae import SAEConfig
from sae_audio.training import TrainConfig, train_sae

sys.path.insert(0, str(Path(__file__).parents[1]))
import train

RATE = 16_000


def mounted(folder, options):
    folder.mkdir(exist_ok=True)
    return subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True).returncode == 0


@contextlib.contextmanager
def tmpfs(folder, kilobytes):
    if not mounted(folder, f"size={kilobytes}k"):
        pytest.skip("a tmpfs can be mounted by root only")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextlib.contextmanager
def limit(folder, kilobytes):
    """Let no file grow past a size; Python ignores the signal, so that writing fails as on a full disk."""
    folder.mkdir(exist_ok=True)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024 * kilobytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


SHORTAGES = {"tmpfs": tmpfs, "limit": limit}


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    return tiny_space(tmp_path_factory.mktemp("model"), "etude-codec")


@pytest.fixture(scope="module")
def song(tmp_path_factory):
    """A third of a second of a harmonic A3."""
    t = np.arange(5_000) / RATE
    path = tmp_path_factory.mktemp("song") / "song.wav"
    soundfile.write(path, sum(np.sin(2 * np.pi * 220 * k * t) / k for k in range(1, 9)) * 0.1, RATE)
    return path


def call(*arguments):
    """Run the command line; return the code and what it said on stderr, without progress and warnings."""
    return guarded(lambda: cli.main([str(argument) for argument in arguments]))


def call_train(*arguments):
    """Run train.py."""
    argv = [str(argument) for argument in arguments]
    return guarded(lambda: cli.guarded(lambda: train.main(train.parse(argv)), debug=False))


def guarded(run):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = run()
        except SystemExit as stop:
            code = stop.code
    lines = err.getvalue().split("\n")
    return code, [line for line in lines if line.startswith(("error: ", "internal", "Traceback", "train.py", "sae-audio"))]


def check_whole(folder):
    """Nothing is half-written, and nothing hidden was left beside it."""
    for path in folder.rglob("*"):
        assert not path.name.startswith("."), path
        if path.suffix == ".safetensors":
            assert load_file(path)
        if path.suffix == ".json":
            assert json.loads(path.read_text())
        if path.suffix == ".wav":
            assert soundfile.info(path).frames
        if path.suffix == ".png" and path.parent.name != "figures":  # those of the small bundle are none
            assert path.read_bytes()[-8:-4] == b"IEND"


# Full disks -------------------------------------------------------------------------------------------------------------------


def extraction(space, folder):
    extract(space, tones(12), folder / "store", shard_seconds=1.0, progress=False)


def sae_training(space, folder):
    settings = TrainConfig(steps=12, batch_size=64, log_every=1, eval_every=4, checkpoint_every=4)
    latents, options = noise(300, 16, level=1.0), {"resume": True, "progress": False, "device": "cpu"}
    train_sae(latents, SAEConfig("topk", 16, 64, k=4), settings, validation=latents, out_dir=folder / "run", **options)


def codec_training(space, folder):
    out, clips = folder / "codec", noise(2, 16_000)
    again = (out / "training.safetensors").exists()
    recipe = train_codec.CodecRecipe(steps=4, out=out, batch_size=2, crop_frames=8, eval_every=2, resume=again)
    train_codec.fit(recipe, CodecConfig(width=8, encoder_blocks=1, decoder_blocks=1), clips, clips[:1])


def flow_training(space, folder):
    out = folder / "flow"
    out.mkdir(exist_ok=True)
    recipe = train_flow.FlowRecipe(steps=2, out=out, eval_every=1, resume=(out / "training.safetensors").exists())
    train_flow.fit(recipe, TINY, toy_data(), toy_data(seed=1))


def bundle_writing(space, folder):
    tiny_bundle().save(folder / "bundle")


JOBS = {
    "extraction": (extraction, (1, 4, 12)),
    "sae training": (sae_training, (1, 4, 20, 40)),
    "codec training": (codec_training, (4, 200, 700)),
    "flow training": (flow_training, (8, 300, 700)),
    "bundle writing": (bundle_writing, (4, 20, 60)),
}
"""Jobs, and kilobytes that are too few for them."""


@pytest.mark.parametrize("shortage", SHORTAGES)
@pytest.mark.parametrize("job", JOBS)
def test_a_full_disk_is_told_and_the_job_goes_on_where_there_is_space(job, shortage, space, tmp_path):
    work, sizes = JOBS[job]
    (tmp_path / "roomy").mkdir()
    work(space, tmp_path / "roomy")
    refused = 0
    for kilobytes in sizes:
        folder, kept = tmp_path / f"disk{kilobytes}", tmp_path / f"kept{kilobytes}"
        with SHORTAGES[shortage](folder, kilobytes):
            try:
                work(space, folder)
            except (OutputError, BundleError) as error:
                refused += 1
                assert "\n" not in str(error) and str(folder) in str(error)
                assert "No space left" in str(error) or "File too large" in str(error)
            check_whole(folder)
            shutil.copytree(folder, kept)
        work(space, kept)
        assert without_clocks(kept) == without_clocks(tmp_path / "roomy")
    assert refused >= 1


def without_clocks(folder):
    """Contents of a folder; of logs the steps, since the rest is times."""
    files = contents(folder)
    return {
        name: [json.loads(line)["step"] for line in content.decode().splitlines()] if name.endswith(".jsonl") else content
        for name, content in files.items()
    }


COMMANDS = {
    "analyse": ["analyse", "SONG", "--json", "a.json", "--plot", "a.png", "--probes", "p.png"],
    "steer": ["steer", "SONG", "--loudness", "-3", "--no-hold", "-o", "o.wav", "--json", "s.json", "--plot", "s.png"],
    "generate": ["generate", "--seconds", "1", "--steps", "3", "-o", "g.wav", "--json", "g.json"],
    "trace": ["trace", "--seconds", "1", "--steps", "3", "--listen", "1", "--out", "trace"],
    "spaces": ["spaces", "--json", "s.json"],
}


@pytest.mark.parametrize("shortage", SHORTAGES)
@pytest.mark.parametrize("command", COMMANDS)
def test_commands_on_a_full_disk(command, shortage, song, tmp_path, monkeypatch):
    arguments = [str(song) if argument == "SONG" else argument for argument in COMMANDS[command]]
    with SHORTAGES[shortage](tmp_path / "disk", 4):
        monkeypatch.chdir(tmp_path / "disk")
        code, said = call(*arguments)
        assert code == 2 and len(said) == 1, said
        assert "No space left" in said[0] or "File too large" in said[0], said
        check_whole(tmp_path / "disk")
        monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("shortage", SHORTAGES)
def test_pull_to_a_full_disk(shortage, hub, repo_id, saved_bundle, tmp_path):
    seed(hub, repo_id, saved_bundle)
    assert call("verify", repo_id)[0] == 0  # it is in the cache
    with SHORTAGES[shortage](tmp_path / "disk", 20):
        code, said = call("pull", repo_id, "-o", tmp_path / "disk" / "copy")
        assert code == 2 and len(said) == 1 and "cannot write the bundle" in said[0]
        assert os.listdir(tmp_path / "disk") == []


@pytest.mark.parametrize("shortage", SHORTAGES)
def test_the_old_bundle_survives_a_full_disk(shortage, tmp_path):
    old = tiny_bundle("relu")
    with SHORTAGES[shortage](tmp_path / "disk", 4096):
        before = contents(old.save(tmp_path / "disk" / "bundle"))
    if shortage == "limit":
        with limit(tmp_path / "disk", 4), pytest.raises(BundleError, match="File too large"):
            tiny_bundle().save(tmp_path / "disk" / "bundle")
        assert contents(tmp_path / "disk" / "bundle") == before
        return
    with tmpfs(tmp_path / "disk", 100):  # room for one of them, not for two
        before = contents(old.save(tmp_path / "disk" / "bundle"))
        with pytest.raises(BundleError, match="No space left"):
            tiny_bundle().save(tmp_path / "disk" / "bundle")
        assert contents(tmp_path / "disk" / "bundle") == before and os.listdir(tmp_path / "disk") == ["bundle"]


# Folders that may not be written ----------------------------------------------------------------------------------------------


@pytest.fixture
def read_only(tmp_path):
    """A folder that nobody can write to: root is let through by permissions, not by a mount."""
    folder = tmp_path / "fixed"
    folder.mkdir()
    if os.geteuid() != 0:
        folder.chmod(0o555)
        yield folder
        folder.chmod(0o755)
    elif mounted(folder, "ro"):
        yield folder
        subprocess.run(["umount", str(folder)], check=True)
    else:
        pytest.skip("root writes everywhere, and may mount nothing here")


@pytest.mark.parametrize("job", JOBS)
def test_jobs_in_a_read_only_folder(job, space, read_only):
    with pytest.raises((SaeAudioError, OSError)) as caught:
        JOBS[job][0](space, read_only)
    assert isinstance(caught.value, SaeAudioError) or job == "flow training"  # whose folder the test makes, not the library
    assert os.listdir(read_only) == []


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_in_a_read_only_folder(command, song, read_only, monkeypatch):
    monkeypatch.chdir(read_only)
    code, said = call(*(str(song) if argument == "SONG" else argument for argument in COMMANDS[command]))
    assert code == 2 and len(said) == 1 and said[0].startswith("error: ") and os.listdir(read_only) == [], said
    monkeypatch.chdir("/")


def test_steer_beside_a_song_in_a_read_only_folder_and_training_into_one(song, read_only, tmp_path):
    code, said = call("steer", song, "--loudness", "-3", "--no-hold", "-o", read_only / "o.wav")
    assert code == 2 and len(said) == 1
    code, said = call_train("--audio", song, "--out", read_only / "bundle", "--source", tiny_etude(tmp_path / "m"))
    assert code == 2 and len(said) == 1 and os.listdir(read_only) == []


# Names ------------------------------------------------------------------------------------------------------------------------

LONGEST = ["n" * 251, "é" * 125, "音" * 83, "a b\nc'd\"e$(f)", "\udcff\udcfe", "-dash", "𝄞" * 62]
"""Stems that are a name of up to 255 bytes with an ending of four."""


@pytest.mark.parametrize("stem", LONGEST)
def test_any_name_that_the_system_takes_is_read_and_written(stem, song, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(song, tmp_path / f"{stem}.wav")
    code, said = call("analyse", f"./{stem}.wav", f"--json=./{stem[:-1]}.json", f"--plot=./{stem}.png")
    assert (code, said) == (0, [])
    output = f"{stem[:-2]}-s.wav" if stem.isascii() else f"{stem[:-1]}.wav"
    code, said = call("steer", f"./{stem}.wav", "--loudness=-3", "--no-hold", f"-o./{output}")
    assert (code, said) == (0, []) and soundfile.info(os.fsencode(tmp_path / output)).frames == 5_000
    check_whole_names(tmp_path, 4)


def check_whole_names(folder, count):
    assert len(os.listdir(folder)) == count and not [name for name in os.listdir(folder) if "partial" in name]


def test_a_name_that_leaves_no_room_for_an_ending(song, tmp_path):
    long = tmp_path / ("n" * 251 + ".wav")
    shutil.copy(song, long)
    code, said = call("steer", long, "--loudness", "-3", "--no-hold")  # n….steered.wav
    assert code == 2 and len(said) == 1 and "name too long" in said[0].lower()
    assert os.listdir(tmp_path) == [long.name]


@pytest.mark.parametrize("name", ["n" * 230, "é" * 115, "音" * 76, "a b\nc"])
def test_bundles_of_long_names(name, tmp_path):
    for seed_of in ("relu", "topk"):
        tiny_bundle(seed_of).save(tmp_path / name)
    assert Bundle.from_pretrained(tmp_path / name).sae.config.variant == "topk" and os.listdir(tmp_path) == [name]


def test_a_bundle_whose_name_leaves_no_room_is_refused_at_once(tmp_path, song):
    with pytest.raises(BundleError, match="name of 231 bytes; a bundle's has at most 230"):
        tiny_bundle().save(tmp_path / ("n" * 231))
    code, said = call_train("--audio", song, "--out", tmp_path / ("é" * 127))
    assert code == 2 and len(said) == 1 and "name of 254 bytes" in said[0] and os.listdir(tmp_path) == []


def test_recordings_of_any_name(space, tmp_path):
    (tmp_path / "in" / "Übung 音").mkdir(parents=True)
    for stem in LONGEST[:6]:
        write(tmp_path / "in" / "Übung 音" / f"{stem}.wav", noise(1, 3200), RATE)
    sources = audio_sources(tmp_path / "in")
    store = extract(space, sources, tmp_path / "store", progress=False)
    assert sorted(store.recording_names) == sorted(source.name for source in sources) and len(store.entries) == 6
    again = ActivationStore.open(tmp_path / "store")
    assert again.recording_names == store.recording_names and not again.skipped


# Links in a circle ------------------------------------------------------------------------------------------------------------


def test_links_in_a_circle(space, song, tmp_path):
    music = tmp_path / "music"
    music.mkdir()
    shutil.copy(song, music / "song.wav")
    (music / "again").symlink_to(music)
    (music / "loop.wav").symlink_to("loop.wav")
    (music / "a.wav").symlink_to("b.wav")
    (music / "b.wav").symlink_to("a.wav")
    (music / "gone.wav").symlink_to("nowhere.wav")
    assert [source.name for source in audio_sources(music)] == ["song.wav"]
    loop = music / "loop.wav"
    outputs = [["analyse", song, "--json", loop / "x.json"], ["steer", song, "--loudness", "-3", "-o", loop / "x.wav"]]
    outputs += [["trace", "--seconds", "1", "--steps", "3", "--out", loop], ["pull", "nobody/nothing", "-o", loop]]
    inputs = [["analyse", loop], ["analyse", loop / "x.wav"], ["analyse", song, "--bundle", loop], ["verify", loop]]
    inputs += [["push", loop, "nobody/nothing"], ["eval", "--audio", loop], ["convert", loop, "x", "--space", "diffrhythm-vae"]]
    inputs += [["generate", option, loop, "-o", tmp_path / "g.wav"] for option in ("--model", "--lyrics")]
    for argv in outputs + inputs:
        code, said = call(*argv)
        assert code == 2 and len(said) == 1 and said[0].startswith("error: "), (argv, said)
    for argv in (["--audio", loop], ["--audio", song, "--out", loop], ["--audio", song, "--source", loop], ["--config", loop]):
        code, said = call_train("--out", tmp_path / "new", *argv)
        assert code == 2 and len(said) == 1, (argv, said)
    assert sorted(os.listdir(tmp_path)) == ["music"]


# Clocks -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", [0, 1, -86_400, 2**31 + 5, 4_102_444_800])
def test_files_from_the_past_and_the_future(moment, space, tmp_path):
    music = tmp_path / "in"
    music.mkdir()
    for i in range(4):
        soundfile.write(music / f"{i}.wav", noise(3200, seed=i).numpy(), RATE)
        os.utime(music / f"{i}.wav", (moment, moment))
    first = extract(space, audio_sources(music), tmp_path / "store", progress=False)
    shards = sorted(path.name for path in (tmp_path / "store").glob("shard-*"))
    again = extract(space, audio_sources(music), tmp_path / "store", progress=False)
    assert sorted(path.name for path in (tmp_path / "store").glob("shard-*")) == shards  # nothing was encoded again
    os.utime(music / "2.wav", (moment - 3600, moment - 3600))  # the clock went back, and the file was written anew
    changed = extract(space, audio_sources(music), tmp_path / "store", progress=False)
    assert len(list((tmp_path / "store").glob("shard-*"))) == len(shards) + 1
    for store in (again, changed):
        assert store.recording_names == first.recording_names
        torch.testing.assert_close(store.latents(), first.latents(), rtol=1e-4, atol=1e-5)


def test_a_bundle_and_a_checkpoint_of_any_age(tmp_path):
    folder = tiny_bundle().save(tmp_path / "bundle")
    for i, path in enumerate(sorted(folder.rglob("*"))):
        os.utime(path, (1e9 * (i % 5), 1e9 * (i % 5)))
    assert Bundle.from_pretrained(folder).sae.config.variant == "topk"
    latents, config = noise(300, 8, level=1.0), SAEConfig("topk", 8, 16, k=2)
    settings = TrainConfig(steps=8, batch_size=64, log_every=1, checkpoint_every=4)
    options = {"out_dir": tmp_path / "run", "progress": False, "device": "cpu"}
    whole = train_sae(latents, config, settings, **options).sae
    os.utime(tmp_path / "run" / "training.safetensors", (9e9, 9e9))
    os.utime(tmp_path / "run" / "history.jsonl", (0, 0))
    assert torch.equal(train_sae(latents, config, settings, resume=True, **options).sae.W_dec, whole.W_dec)


def test_time_that_runs_backwards(monkeypatch, space, tmp_path):
    """Every look at the wall clock says a day less; nothing that is kept but the times themselves depends on it."""
    (tmp_path / "ahead").mkdir()
    (tmp_path / "back").mkdir()
    for job in (extraction, sae_training, codec_training, flow_training):
        job(space, tmp_path / "ahead")
    days = iter(range(10**6, 0, -1))
    monkeypatch.setattr("time.time", lambda: 86_400.0 * next(days))
    for job in (extraction, sae_training, codec_training, flow_training):
        job(space, tmp_path / "back")
    assert without_clocks(tmp_path / "back") == without_clocks(tmp_path / "ahead")
    for log in (tmp_path / "back").rglob("*.jsonl"):
        rows = [json.loads(line) for line in log.read_text().splitlines()]
        assert all(row.get(clock, 1) >= 0 for row in rows for clock in ("frames_per_second", "cpu_s", "wall_s"))
