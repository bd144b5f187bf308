"""The activation store: real sound files, a real SIGKILL, two real processes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from tiny_models import noise, tiny_etude, tiny_space

from sae_audio.activations import ActivationStore, Recording, audio_sources, clip_sources, extract
from sae_audio.activations.splits import hashed_splits
from sae_audio.audio import Sound, write
from sae_audio.descriptors import describe
from sae_audio.errors import AudioError, DataError, ParameterError
from sae_audio.latent_spaces import load_latent_space

ROOT = Path(__file__).resolve().parents[1]
RATE = 16_000


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_etude(tmp_path_factory.mktemp("etude"))


@pytest.fixture(scope="module")
def space(model):
    return load_latent_space("etude-codec", source=model)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve sound files of 0.2 to 0.5 s in two folders, of several rates and channel counts."""
    root = tmp_path_factory.mktemp("audio")
    for i in range(12):
        rate, channels = (RATE, 44_100)[i % 2], 1 + i % 3 // 2
        path = root / ("a", "b")[i % 2] / f"{i:02d}.wav"
        path.parent.mkdir(exist_ok=True)
        write(path, noise(channels, rate // 5 + 1000 * (i // 4), seed=i), rate)
    return root


@dataclass(frozen=True)
class Tone:
    """A source that counts how often it is loaded."""

    name: str
    split: str | None = None
    version: str = ""
    loads: Counter | None = None
    bad: bool = False

    def load(self):
        if self.loads is not None:
            self.loads[self.name] += 1
        if self.bad:
            raise AudioError(f"'{self.name}' is not\naudio")
        return Recording(Sound(noise(1, 6400 if self.name < "t4" else 4000, seed=int(self.name[1:])), RATE))


def tones(count, **values):
    return [Tone(f"t{i}", **values) for i in range(count)]


def run(space, sources, out, **values):
    return extract(space, sources, out, progress=False, **values)


# Content ----------------------------------------------------------------------------------------------------------------------


def test_store_holds_what_encode_and_describe_return(space, tmp_path):
    store = run(space, tones(6), tmp_path, shard_seconds=0.7)
    assert store.recording_names == ["t0", "t1", "t2", "t3", "t4", "t5"] and store.skipped == []
    assert len({entry.shard for entry in store.entries}) > 1
    for i, source in enumerate(tones(6)):
        audio = source.load().sound.samples[None]
        stored = store.load(i)
        torch.testing.assert_close(stored.latents, space.encode(audio)[0], rtol=1e-5, atol=1e-5)
        for name, expected in describe(audio, RATE, 320)._asdict().items():
            torch.testing.assert_close(getattr(stored.descriptors, name), expected[0], equal_nan=True)


def test_splits_are_the_concatenation_of_their_recordings(space, tmp_path):
    splits = ["train", "test", "train", "validation", "test"]
    store = run(space, [Tone(f"t{i}", split) for i, split in enumerate(splits)], tmp_path)
    for split, members in {"train": [0, 2], "validation": [3], "test": [1, 4], None: range(5)}.items():
        loaded = [store.load(i) for i in members]
        assert torch.equal(store.latents(split), torch.cat([one.latents for one in loaded]))
        assert torch.equal(store.descriptors(split).rms, torch.cat([one.descriptors.rms for one in loaded]))
        counts = [len(one.latents) for one in loaded]
        assert store.recordings(split).tolist() == [i for i, n in zip(members, counts, strict=True) for _ in range(n)]
    with pytest.raises(ParameterError, match="split is 'valid'; splits are train, validation, test"):
        store.latents("valid")


def test_an_empty_split_has_no_frames(space, tmp_path):
    store = run(space, tones(2, split="train"), tmp_path)
    assert store.latents("test").shape == (0, space.spec.d_in)
    assert store.recordings("test").shape == store.descriptors("test").f0.shape == (0,)


def test_only_recordings_without_exact_pitch_are_tracked(space, tmp_path):
    @dataclass(frozen=True)
    class A4:
        name: str
        f0: torch.Tensor | None
        split: str = "train"
        version: str = ""

        def load(self):
            tone = Sound(0.3 * torch.sin(2 * torch.pi * 440 * torch.arange(RATE // 2) / RATE)[None], RATE)
            return Recording(tone, self.f0, 50.0)

    exact = torch.full((25,), 450.0)  # not what a tracker would say
    for i, labels in enumerate([(exact, None), (exact, exact), (None, None)]):  # of one length, so measured together
        store = run(space, [A4(str(j), f0) for j, f0 in enumerate(labels)], tmp_path / str(i))
        for j, f0 in enumerate(labels):
            found = store.load(j).descriptors
            assert found.f0[5:-5].numpy() == pytest.approx(440 if f0 is None else 450, abs=3)
            assert found.rms[5:-5].numpy() == pytest.approx(0.3 / 2**0.5, rel=0.02)
            assert found.centroid[5:-5].numpy() == pytest.approx(440, rel=0.05)


def test_exact_pitch_of_clips_replaces_the_tracker(tmp_path):
    @dataclass(frozen=True)
    class Clip:
        name: str = "c"
        split: str = "train"
        f0 = np.array([100.0, 200.0, np.nan, 400.0], dtype=np.float32)  # 50 Hz

        def render(self):
            return np.sin(np.arange(1280) * 0.2).astype(np.float32)  # 0.08 s

    space = tiny_space(tmp_path / "model", "encodec-24khz")  # 75 Hz: centres at 1/3, 1, 5/3, 7/3, 3, 11/3 label frames
    f0 = run(space, clip_sources([Clip()]), tmp_path / "store").descriptors("train").f0
    torch.testing.assert_close(f0, torch.tensor([100.0, 200.0, 200.0, torch.nan, 400.0, 400.0]), equal_nan=True)


def test_stereo_space(tmp_path, folder):
    space = tiny_space(tmp_path / "model", "encodec-48khz")
    store = run(space, audio_sources(folder)[:3], tmp_path / "store")
    assert store.spec == space.spec and len(store.latents()) == sum(entry.frames for entry in store.entries)


def test_reading_maps_the_shards(space, tmp_path):
    store = run(space, tones(4), tmp_path)
    first, again = store.load(0).latents, store.load(0).latents
    assert first.untyped_storage().data_ptr() == again.untyped_storage().data_ptr()
    with open("/proc/self/maps") as maps:
        assert str(tmp_path / store.entries[0].shard) in maps.read()


# Sources ----------------------------------------------------------------------------------------------------------------------


def test_audio_is_found_recursively_by_relative_name(folder, tmp_path):
    assert [source.name for source in audio_sources(folder)] == sorted(f"{'ab'[i % 2]}/{i:02d}.wav" for i in range(12))
    two = audio_sources([folder / "a", folder / "b", folder / "a" / "00.wav"])
    assert [source.name for source in two][:2] == ["00.wav", "a/00.wav"] and len(two) == 13
    for file in ("x.FLAC", "notes.txt", ".hidden.wav", ".cache/y.wav", "z.mp3"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    assert [source.name for source in audio_sources(tmp_path)] == ["x.FLAC", "z.mp3"]


def test_nothing_to_extract_is_an_error(space, tmp_path):
    with pytest.raises(DataError, match=r"no sound file in .*looked for \.wav, \.flac"):
        audio_sources(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        audio_sources(tmp_path / "none")
    with pytest.raises(DataError, match="list of sources is empty"):
        run(space, [], tmp_path)
    with pytest.raises(DataError, match="two recordings are named 't0'"):
        run(space, tones(1) + tones(1), tmp_path)
    with pytest.raises(DataError, match="'t0' is in split 'dev'; splits are train, validation, test"):
        run(space, tones(1, split="dev"), tmp_path)


def test_bad_files_are_skipped_and_say_why(space, folder, tmp_path):
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / "bad.wav").write_bytes(b"not audio at all")
    (tmp_path / "audio" / "empty.flac").touch()
    write(tmp_path / "audio" / "good.wav", noise(1, RATE), RATE)
    write(tmp_path / "audio" / "short.wav", noise(1, 100), RATE)
    store = run(space, audio_sources(tmp_path / "audio"), tmp_path / "store")
    assert store.recording_names == ["good.wav"]
    assert [entry.name for entry in store.skipped] == ["bad.wav", "empty.flac", "short.wav"]
    assert all(entry.reason and "\n" not in entry.reason for entry in store.skipped)
    (tmp_path / "audio" / "good.wav").unlink()
    with pytest.raises(DataError, match=r"none of 3 recordings could be used; the first, 'bad.wav': .*bad.wav"):
        run(space, audio_sources(tmp_path / "audio"), tmp_path / "other")


# Splits -----------------------------------------------------------------------------------------------------------------------


def test_hashed_splits_are_stable_and_about_80_10_10():
    names = [f"recording {i}" for i in range(3000)]
    split = hashed_splits(names, seed=0)
    shares = {name: count / 3000 for name, count in Counter(split.values()).items()}
    assert abs(shares["train"] - 0.8) < 0.03 and abs(shares["validation"] - 0.1) < 0.02 and abs(shares["test"] - 0.1) < 0.02
    assert hashed_splits(names[::-2], seed=0) == {name: split[name] for name in names[::-2]}
    assert hashed_splits(names, seed=1) != split
    assert split["recording 0"] == "train" and split["recording 9"] == "validation"  # for good: stores must not reshuffle


@pytest.mark.parametrize("count", range(3, 12))
def test_no_split_of_a_small_folder_is_empty(count):
    for seed in range(30):
        assert len(set(hashed_splits([f"{i}.wav" for i in range(count)], seed).values())) == 3


# Resuming ---------------------------------------------------------------------------------------------------------------------


def test_continuing_loads_only_what_is_new_changed_or_was_skipped(space, tmp_path):
    loads = Counter()
    first = [*tones(3, loads=loads), Tone("t7", loads=loads, bad=True)]
    run(space, first, tmp_path)
    run(space, first, tmp_path)
    assert loads == {"t0": 1, "t1": 1, "t2": 1, "t7": 2}
    assert len(list(tmp_path.glob("shard-*"))) == 1
    changed = [Tone("t0", loads=loads), Tone("t1", loads=loads, version="2"), Tone("t7", loads=loads), Tone("t5", loads=loads)]
    store = run(space, changed, tmp_path)
    assert loads == {"t0": 1, "t1": 2, "t2": 1, "t7": 3, "t5": 1}
    assert store.recording_names == ["t0", "t1", "t7", "t5"] and store.skipped == []


def test_a_lost_shard_costs_only_its_recordings(space, tmp_path):
    loads = Counter()
    before = run(space, tones(6, loads=loads), tmp_path, shard_seconds=0.5)
    latents = before.latents()
    (tmp_path / "shard-000-00001.safetensors").unlink()
    lost = [entry.name for entry in before.entries if entry.shard == "shard-000-00001.safetensors"]
    with pytest.raises(DataError, match=r"lacks shard-000-00001\.safetensors; extract again"):
        ActivationStore.open(tmp_path)
    after = run(space, tones(6, loads=loads), tmp_path, shard_seconds=0.5)
    torch.testing.assert_close(latents, after.latents(), rtol=1e-5, atol=1e-5)
    assert {name for name, count in loads.items() if count == 2} == set(lost)


def test_a_store_of_something_else_is_refused(space, tmp_path):
    run(space, tones(2), tmp_path / "store", settings={"corpus": "a", "minutes": 3})
    for values, message in (
        (dict(seed=1), "extracted with seed 0, not 1; use another folder"),
        (dict(tracker="pyin"), "extracted with tracker yin, not pyin"),
        (dict(settings={"corpus": "b", "minutes": 3}), "extracted with settings {'corpus': 'a'}, not {'corpus': 'b'}"),
    ):
        with pytest.raises(DataError, match=message):
            run(space, tones(2), tmp_path / "store", **{"settings": {"corpus": "a", "minutes": 3}, **values})
    other = tiny_space(tmp_path / "model", "encodec-24khz")
    with pytest.raises(DataError, match=r"extracted with spec .*'name': 'etude-codec'.* not .*'name': 'encodec-24khz'"):
        run(other, tones(2), tmp_path / "store")


def test_other_weights_under_the_same_name_are_refused(tmp_path):
    space = tiny_space(tmp_path / "model", "encodec-24khz")
    run(space, tones(2), tmp_path / "store")
    next(space.model.encoder.parameters()).data.mul_(1.5)
    with pytest.raises(DataError, match="extracted with other weights of 'encodec-24khz'"):
        run(space, tones(2), tmp_path / "store")


def test_an_unfinished_foreign_or_damaged_folder_is_refused(space, tmp_path):
    with pytest.raises(DataError, match=r"holds no activation store: it has no index.json"):
        ActivationStore.open(tmp_path)
    index = tmp_path / "index.json"
    run(space, tones(2), tmp_path)
    content = json.loads(index.read_text())
    for text, message in (
        (json.dumps({**content, "complete": False}), "is not finished; run the same command again"),
        (json.dumps({**content, "format": 2}), "is not an activation store of format 1"),
        ("[]", "is not an activation store"),
        ("{", "is damaged"),
    ):
        index.write_text(text)
        with pytest.raises(DataError, match=message):
            ActivationStore.open(tmp_path)
    index.write_text(json.dumps(content))
    (tmp_path / "shard-000-00000.safetensors").write_bytes(b"xxxxxxxxxxxxxxxx")
    with pytest.raises(DataError, match=r"shard-000-00000\.safetensors is missing or damaged; delete it and extract again"):
        ActivationStore.open(tmp_path).latents()


# Processes --------------------------------------------------------------------------------------------------------------------

WORKER = """
import sys, time
from sae_audio.activations import audio_sources, extract
from sae_audio.latent_spaces import load_latent_space
model, audio, out, pause = sys.argv[1:]
class Slow:
    def __init__(self, source): self.source, self.name, self.split, self.version = source, source.name, None, source.version
    def load(self):
        time.sleep(float(pause))
        print(self.name, flush=True)
        return self.source.load()
extract(load_latent_space("etude-codec", source=model), map(Slow, audio_sources(audio)), out, shard_seconds=0.5, progress=False)
"""


def worker(model, audio, out, pause=0.0, **environment):
    command = [sys.executable, "-c", WORKER, str(model), str(audio), str(out), str(pause)]
    return subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1", **environment}, stdout=subprocess.PIPE, text=True
    )


def same_content(a, b):
    assert a.recording_names == b.recording_names
    assert [entry.split for entry in a.entries] == [entry.split for entry in b.entries]
    torch.testing.assert_close(a.latents(), b.latents(), rtol=1e-5, atol=1e-5)
    for one, other in zip(a.descriptors(), b.descriptors(), strict=True):
        torch.testing.assert_close(one, other, equal_nan=True)


def test_kill_9_loses_no_finished_shard_and_redoes_none(model, space, folder, tmp_path):
    process = worker(model, folder, tmp_path / "store", pause=0.15)
    while len(list((tmp_path / "store").glob("shard-*"))) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = {path: path.read_bytes() for path in (tmp_path / "store").glob("shard-*")}
    kept = set()
    for path in finished:
        with safe_open(path, "pt") as shard:
            kept |= {entry[0] for entry in json.loads(shard.metadata()["recordings"])}
    again = worker(model, folder, tmp_path / "store")
    loaded = again.communicate()[0].split()
    assert again.returncode == 0
    assert set(loaded) == {source.name for source in audio_sources(folder)} - kept and 0 < len(loaded) < 12
    assert all(path.read_bytes() == content for path, content in finished.items())
    same_content(ActivationStore.open(tmp_path / "store"), run(space, audio_sources(folder), tmp_path / "whole"))


def test_two_processes_make_the_store_of_one(model, space, folder, tmp_path):
    both = [worker(model, folder, tmp_path / "two", RANK=str(rank), WORLD_SIZE="2") for rank in range(2)]
    loaded = [process.communicate()[0].split() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert len(loaded[0]) == len(loaded[1]) == 6 and not set(loaded[0]) & set(loaded[1])
    assert {path.name[:9] for path in (tmp_path / "two").glob("shard-*")} == {"shard-000", "shard-001"}
    same_content(ActivationStore.open(tmp_path / "two"), run(space, audio_sources(folder), tmp_path / "one"))


@pytest.mark.slow
def test_accelerate_launch_shares_the_work(model, space, folder, tmp_path):
    (tmp_path / "worker.py").write_text(WORKER)
    # --multi_gpu is what makes accelerate start several processes; none of them touches a GPU here.
    options = "--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no"
    arguments = [tmp_path / "worker.py", model, folder, tmp_path / "two", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", *options.split(), *map(str, arguments)],
        check=True,
        env=environment,
        timeout=300,
    )
    assert {path.name[:9] for path in (tmp_path / "two").glob("shard-*")} == {"shard-000", "shard-001"}
    same_content(ActivationStore.open(tmp_path / "two"), run(space, audio_sources(folder), tmp_path / "one"))
