"""A data set on the Hub as a source of sound: real parquet files, through the loopback Hub and unmodified clients."""

import io
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import soundfile
import torch
from hub_bundles import PASSING
from huggingface_hub import ModelCard
from tiny_bundle import tiny_bundle
from tiny_models import BUILDERS, tiny_etude

from sae_audio import Bundle, cli
from sae_audio.activations import audio_sources, dataset, dataset_sources, extract
from sae_audio.card import model_card
from sae_audio.errors import DataError, HubError, ParameterError
from sae_audio.etude.corpus import corpus
from sae_audio.latent_spaces import load_latent_space

sys.path.insert(0, str(Path(__file__).parents[1]))
import train

RATE, SAMPLES = 16_000, 8_000
GROUP = 4  # rows of a row group


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    return load_latent_space("etude-codec", source=tiny_etude(tmp_path_factory.mktemp("etude")))


def sound(seed):
    """Half a second of noise as a FLAC file: 14 kB, so that a footer brings no rows along. Neighbours differ in length."""
    file = io.BytesIO()
    noise = 0.1 * np.random.default_rng(seed).standard_normal(SAMPLES + 320 * (seed % 2))
    soundfile.write(file, noise, RATE, format="FLAC")
    return file.getvalue()


def parquet(cells, **columns):
    """A parquet file whose column of sound is as `datasets` writes it."""
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    table = pyarrow.table({"audio": pyarrow.array(cells, kind), **columns})
    file = io.BytesIO()
    pyarrow.parquet.write_table(table, file, row_group_size=GROUP)
    return file.getvalue()


def cells(*seeds):
    return [{"bytes": sound(seed), "path": f"{seed}.flac"} for seed in seeds]


@pytest.fixture(scope="module")
def files():
    """Two files of a training split, of ten rows each, by five speakers, and one of a test split."""
    speakers = [[f"speaker {i % 5}" for i in range(first, first + 10)] for first in (0, 10)]
    return {
        "README.md": "---\nlicense: cc-by-4.0\n---\n",
        "data/train-00000-of-00002.parquet": parquet(cells(*range(10)), speaker=speakers[0]),
        "data/train-00001-of-00002.parquet": parquet(cells(*range(10, 20)), speaker=speakers[1]),
        "data/test-00000-of-00001.parquet": parquet(cells(20, 21, 22), speaker=["a", "b", "c"]),
    }


@pytest.fixture
def published(hub, repo_id, files):
    """A repository with these files; returns its commit."""
    commit = hub.seed(repo_id, files, "dataset")
    hub.reset()
    return commit


def fetched(hub, name="train-0000"):
    """Bytes of parquet files that were sent, as (file, first, last)."""
    sent = [(call, re.search(rf"path=data%2F({name}[^&]*)", call["path"])) for call in hub.calls("GET", "/cdn/")]
    ranges = [(found[1], *map(int, call["headers"]["range"].removeprefix("bytes=").split("-"))) for call, found in sent if found]
    return ranges


# What is read ------------------------------------------------------------------------------------------------------------------


def test_rows_are_decoded_to_the_samples_that_were_written(published, repo_id, hub):
    found = dataset_sources(repo_id)
    assert [source.name for source in found.sources] == [f"train/{i:07d}" for i in range(20)]
    for i in (0, 3, 4, 19, 7):  # forwards, across row groups and files, and back
        loaded = found.sources[i].load().sound
        expected, rate = soundfile.read(io.BytesIO(sound(i)), dtype="float32")
        assert (loaded.sample_rate, loaded.samples.tolist()) == (rate, [expected.tolist()])
    assert found.provenance == {
        "name": f"{repo_id}, split train",
        "dataset": repo_id,
        "config": None,
        "split": "train",
        "column": "audio",
        "revision": published,
        "rows": 20,
        "license": "cc-by-4.0",
    }
    assert not any("authorization" in call["headers"] for call in hub.calls("GET", "/cdn/"))


def test_listing_fetches_no_sound(published, repo_id, hub, files):
    dataset_sources(repo_id, group_column="speaker")
    size = len(files["data/train-00000-of-00002.parquet"])
    assert sum(last + 1 - first for _, first, last in fetched(hub)) < 2 * (65536 + 4000) < 2 * size


def test_a_row_group_is_fetched_once(published, repo_id, hub, files):
    found = dataset_sources(repo_id)
    hub.reset()
    for source in found.sources:
        source.load()
    sent = sum(last + 1 - first for _, first, last in fetched(hub))
    both = sum(len(content) for name, content in files.items() if "train" in name)
    assert both - 4000 < sent < both + 2 * 66000  # the footers come again


def test_what_datasets_itself_publishes_is_read(repo_id, hub):
    import datasets

    rows = datasets.Dataset.from_dict({"sound": cells(*range(5)), "text": list("abcde")})
    rows.cast_column("sound", datasets.Audio(decode=False)).push_to_hub(repo_id, "spoken", split="dev")
    found = dataset_sources(repo_id, split="dev", column="sound", config="spoken")
    expected, _ = soundfile.read(io.BytesIO(sound(4)), dtype="float32")
    assert torch.equal(found.sources[4].load().sound.samples[0], torch.from_numpy(expected))
    assert found.provenance["name"] == f"{repo_id}, spoken, split dev"
    assert "torchcodec" not in sys.modules


def test_plain_bytes_are_sound_too(repo_id, hub):
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"flac": pyarrow.array([sound(0)], pyarrow.large_binary())}), file)
    hub.seed(repo_id, {"train.parquet": file.getvalue()}, "dataset")
    assert dataset_sources(repo_id, column="flac").sources[0].load().sound.samples.shape == (1, SAMPLES)


def test_a_folder_of_sound_files_is_read(repo_id, hub):
    hub.seed(repo_id, {f"train/{i}.flac": sound(i) for i in range(3)}, "dataset")
    found = dataset_sources(repo_id, limit=2)
    assert [source.name for source in found.sources] == ["train/0.flac", "train/1.flac"]
    expected, _ = soundfile.read(io.BytesIO(sound(1)), dtype="float32")
    assert torch.equal(found.sources[1].load().sound.samples[0], torch.from_numpy(expected))
    with pytest.raises(DataError, match="has no column 'speaker'"):
        dataset_sources(repo_id, group_column="speaker")


def test_a_limit_opens_no_file_beyond_it(published, repo_id, hub):
    assert len(dataset_sources(repo_id, limit=7).sources) == 7
    assert {name for name, *_ in fetched(hub)} == {"train-00000-of-00002.parquet"}
    assert [source.name for source in dataset_sources(repo_id, split="test", limit=99).sources] == [
        f"test/000000{i}" for i in range(3)
    ]


# Into a store ------------------------------------------------------------------------------------------------------------------


def test_latents_are_those_of_the_same_sound_files(published, repo_id, space, tmp_path):
    (tmp_path / "train").mkdir()
    for i in range(20):
        (tmp_path / "train" / f"{i:07d}.flac").write_bytes(sound(i))
    found = dataset_sources(repo_id)
    streamed = extract(space, found.sources, tmp_path / "streamed", settings=found.settings, progress=False)
    local = extract(space, audio_sources(tmp_path / "train"), tmp_path / "local", progress=False)
    assert torch.equal(streamed.latents(), local.latents()) and len(local.entries) == 20
    assert streamed.settings["settings"] == {"dataset": repo_id, "config": None, "split": "train", "column": "audio"}


def test_a_group_is_in_one_split_only(published, repo_id, space, tmp_path, files):
    found = dataset_sources(repo_id, group_column="speaker", seed=3)
    store = extract(space, found.sources, tmp_path, seed=3, progress=False)
    splits = {i: {e.split for e in store.entries if int(e.name[-7:]) % 5 == i} for i in range(5)}
    assert all(len(own) == 1 for own in splits.values())
    assert set.union(*splits.values()) == {"train", "validation", "test"}


def test_rows_without_a_group_are_groups_of_their_own(repo_id, hub):
    hub.seed(repo_id, {"train.parquet": parquet(cells(*range(6)), who=["x", "x", None, None, None, "y"])}, "dataset")
    splits = [source.split for source in dataset_sources(repo_id, group_column="who").sources]
    assert splits[0] == splits[1] and None not in splits


def test_bad_rows_are_skipped_with_a_line_each(repo_id, hub, space, tmp_path):
    bad = [{"bytes": None, "path": "elsewhere.wav"}, None, {"bytes": b"not a sound" * 50, "path": ""}]
    bad.append({"bytes": sound(5)[:3000], "path": "cut.flac"})
    hub.seed(repo_id, {"train.parquet": parquet([*cells(0, 1), *bad, *cells(2, 3)])}, "dataset")
    store = extract(space, dataset_sources(repo_id).sources, tmp_path, progress=False)
    assert [entry.name for entry in store.entries] == [f"train/000000{i}" for i in (0, 1, 6, 7)]
    reasons = {skipped.name[-1]: skipped.reason for skipped in store.skipped}
    assert "holds no sound" in reasons["2"] and "holds no sound" in reasons["3"]
    assert "cannot be read as audio" in reasons["4"] and "cannot be read as audio" in reasons["5"]


def test_a_damaged_row_group_costs_its_rows_and_no_more(repo_id, hub, space, tmp_path):
    content = bytearray(parquet(cells(*range(3 * GROUP))))
    chunk = pyarrow.parquet.ParquetFile(io.BytesIO(bytes(content))).metadata.row_group(1).column(0)
    content[chunk.data_page_offset : chunk.data_page_offset + 9] = b"\xff" * 9  # the header of the page
    hub.seed(repo_id, {"train.parquet": bytes(content)}, "dataset")
    store = extract(space, dataset_sources(repo_id).sources, tmp_path, progress=False)
    assert [int(skipped.name[-7:]) for skipped in store.skipped] == [4, 5, 6, 7]
    assert "'train.parquet' cannot be read (" in store.skipped[0].reason and store.skipped[0].reason.isprintable()


@pytest.mark.filterwarnings("ignore:.*trying again in")
def test_an_interrupted_extraction_fetches_only_what_it_needs(published, repo_id, hub, space, tmp_path, no_wait):
    found = dataset_sources(repo_id)
    whole = extract(space, found.sources, tmp_path / "whole", progress=False, settings=found.settings)
    hub.fail("GET", "train-00001-of-00002", status=503, times=10**6)
    parts = {"shard_seconds": 1.0, "progress": False}  # a shard for every two recordings
    with pytest.raises(HubError, match=r"answered 503 for data set '.*run the same command again: what is finished is kept"):
        extract(space, dataset_sources(repo_id, limit=10).sources + found.sources[10:], tmp_path / "parts", **parts)
    hub.reset()
    assert found.sources[10].load().sound.samples.shape == (1, SAMPLES)  # the same reader goes on
    again = dataset_sources(repo_id)
    hub.reset()
    store = extract(space, again.sources, tmp_path / "parts", **parts)
    assert torch.equal(store.latents(), whole.latents())
    assert [entry.split for entry in store.entries] == [entry.split for entry in whole.entries]
    first = [name for name, *_ in fetched(hub, "train-00000-of-00002")]
    second = [name for name, *_ in fetched(hub, "train-00001-of-00002")]
    assert second and len(first) == 2  # of the first file only its footer and the row group in which it stopped


def test_another_commit_of_the_same_files_fetches_nothing_again(published, repo_id, hub, space, tmp_path):
    extract(space, dataset_sources(repo_id).sources, tmp_path, progress=False)
    hub.seed(repo_id, {"README.md": "---\nlicense: mit\n---\nEdited.\n"}, "dataset")
    found = dataset_sources(repo_id)
    assert (found.revision, found.licence) != (published, "cc-by-4.0")
    hub.reset()
    extract(space, found.sources, tmp_path, progress=False)
    assert not hub.calls("GET", "/cdn/")
    assert dataset_sources(repo_id, revision=published).licence == "cc-by-4.0"


# What is refused ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "dev"}, r"has no split 'dev'; it has train, test"),
        ({"column": "sound"}, r"data/train-00000-of-00002.parquet has no column 'sound'; it has audio, speaker"),
        ({"column": "speaker"}, r"column 'speaker' of .* holds string, not sound"),
        ({"group_column": "song"}, r"has no column 'song'; it has audio, speaker"),
        ({"group_column": "speaker", "limit": 2}, r"column 'speaker' has 2 values; a split by group takes at least 3"),
        ({"config": "clean"}, r"has no configuration 'clean'; choose one of default"),
    ],
)
def test_what_is_not_there_is_named(published, repo_id, options, message):
    with pytest.raises(DataError, match=message):
        dataset_sources(repo_id, **options)


def test_one_of_several_configurations_has_to_be_chosen(repo_id, hub, files):
    content = files["data/test-00000-of-00001.parquet"]
    card = "---\nconfigs:\n- config_name: en\n  data_files: en/*.parquet\n- config_name: de\n  data_files: de/*.parquet\n---\n"
    hub.seed(repo_id, {"README.md": card, "en/train.parquet": content, "de/train.parquet": content}, "dataset")
    with pytest.raises(DataError, match=r"has several configurations; choose one of en, de with --dataset-config"):
        dataset_sources(repo_id)
    assert len(dataset_sources(repo_id, config="de").sources) == 3


def test_other_formats_are_named_with_a_way_out(repo_id, hub):
    hub.seed(repo_id, {"train.csv": "path\na.wav\n"}, "dataset")
    with pytest.raises(DataError, match=r"is kept as Csv, .*refs/convert/parquet"):
        dataset_sources(repo_id)
    hub.seed(f"{repo_id}-none", {"README.md": "nothing"}, "dataset")
    with pytest.raises(DataError, match="no data files"):
        dataset_sources(f"{repo_id}-none")
    hub.seed(f"{repo_id}-code", {f"{repo_id.split('/')[1]}-code.py": "raise SystemExit"}, "dataset")
    with pytest.raises(DataError, match="is a Python script, which is not run"):
        dataset_sources(f"{repo_id}-code")


def test_a_folder_does_not_stand_in_for_the_repository(published, repo_id, tmp_path, monkeypatch):
    (tmp_path / repo_id).mkdir(parents=True)
    (tmp_path / repo_id / "train.csv").write_text("path\na.wav\n")
    monkeypatch.chdir(tmp_path)
    assert len(dataset_sources(repo_id).sources) == 20


def test_a_split_without_rows_is_told(repo_id, hub):
    hub.seed(repo_id, {"train.parquet": parquet([])}, "dataset")
    with pytest.raises(DataError, match=r"split 'train' of data set '.*' has no recordings; choose another split"):
        dataset_sources(repo_id)


@pytest.mark.filterwarnings("ignore:.*trying again in")
def test_access_is_explained(published, repo_id, hub, monkeypatch, no_wait):
    with pytest.raises(HubError, match="has no branch, tag or commit 'v2'"):
        dataset_sources(repo_id, revision="v2")
    with pytest.raises(HubError, match="the Hub has no data set 'alice/nothing' that this token may see"):
        dataset_sources("alice/nothing")
    monkeypatch.setenv("HF_TOKEN", "hf_nonsense")
    with pytest.raises(HubError, match=r"answered 401 for data set '.*': it does not accept the token"):
        dataset_sources(repo_id)
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    hub.configure(repo_id, "dataset", gated="manual")
    with pytest.raises(HubError, match=rf"is gated: accept its terms at {hub.endpoint}/datasets/{repo_id}, then run"):
        dataset_sources(repo_id)
    for status, said in ((403, "the token may not do this"), (429, "answered 429"), (503, "answered 503")):
        hub.reset()
        hub.fail("GET", "/api/datasets/", status=status, times=10**6)
        with pytest.raises(HubError, match=said):
            dataset_sources(repo_id)
    hub.reset()
    hub.fail("GET", "/api/datasets/", drop=True, times=10**6)
    with pytest.raises(HubError, match=r"could not be reached for data set '.*' \(\w+\); check the network"):
        dataset_sources(repo_id)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match=r"not asked about data set '.*', since HF_HUB_OFFLINE is set; unset it"):
        dataset_sources(repo_id)


PHASES = {  # a request of every kind, and how often it fails: more often than the client itself asks again
    "commit": ("GET", r"^/api/datasets/[^/]+/[^/?]+$", 4),
    "card": ("HEAD", "/resolve/.*/README.md", 4),
    "files": ("GET", "/tree/", 7),
    "footer": ("GET", "/resolve/.*parquet", 7),
    "row address": ("GET", "/resolve/.*parquet", 7),
    "row": ("GET", "^/cdn/", 7),
    "sound file": ("GET", "^/cdn/", 7),
}
PASSING = PASSING | {"truncated": {"truncate": 20}}
EMPTY = ("card", "footer", "row address")  # answers without a body, which cannot be cut
FAULTS = [(phase, fault) for phase in PHASES for fault in PASSING if not (phase in EMPTY and fault == "truncated")]


@pytest.mark.filterwarnings("ignore:.*trying again in")
@pytest.mark.parametrize(("phase", "fault"), FAULTS)
def test_a_fault_that_passes_costs_nothing(phase, fault, published, repo_id, hub, no_wait, recwarn):
    method, path, times = PHASES[phase]
    if phase == "sound file":
        repo_id = f"{repo_id}-folder"
        hub.seed(repo_id, {f"train/{i}.flac": sound(i) for i in range(2)}, "dataset")
    late = phase in ("row address", "row", "sound file")
    found = dataset_sources(repo_id) if late else None
    injected = hub.fail(method, path, **PASSING[fault], times=times)
    found = found or dataset_sources(repo_id, group_column="speaker")
    for i in (0, 1):
        expected, _ = soundfile.read(io.BytesIO(sound(i)), dtype="float32")
        assert found.sources[i].load().sound.samples.tolist() == [expected.tolist()]
    assert injected.seen > times and sum(no_wait) > 0
    assert any("trying again in" in str(warning.message) for warning in recwarn)


def test_the_hub_is_waited_for_as_long_as_it_asks(published, repo_id, hub, no_wait):
    hub.fail("GET", "^/api/datasets/", status=429, headers={"Retry-After": "31"}, times=2)
    with pytest.warns(UserWarning, match="the Hub answered 429; trying again in 31 s"):
        assert len(dataset_sources(repo_id).sources) == 20
    assert no_wait == [31, 31]


def test_arguments_are_checked_first(monkeypatch):
    with pytest.raises(ParameterError, match="is not a Hub id"):
        dataset_sources("librispeech")
    with pytest.raises(ParameterError, match="limit is 0"):
        dataset_sources("a/b", limit=0)
    monkeypatch.setattr(dataset, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="pip install datasets"):
        dataset_sources("a/b")


# The commands ------------------------------------------------------------------------------------------------------------------


def test_the_main_job_says_where_its_sound_is_from(published, repo_id):
    options = train.parse(["--dataset", repo_id, "--group-column", "speaker", "--limit", "15", "--tracker", "pyin"])
    train.check(options)
    sources, data, settings = train.recordings(options)
    assert len(sources) == data["rows"] == 15 and {source.split for source in sources} == {"train", "validation", "test"}
    assert options.dataset_revision == data["revision"] == published  # in OUT.work/config.json, so that --config repeats it
    assert (data["dataset"], data["split"], data["tracker"]) == (repo_id, "train", "pyin")
    assert settings == {"dataset": repo_id, "config": None, "split": "train", "column": "audio"}
    card = model_card(replace(tiny_bundle(), provenance=train.provenance(options, data)))
    assert f"datasets: {repo_id}" in card and f"| data.revision | `{published}` |" in card
    result = ModelCard(card).data.eval_results[0]
    assert (result.dataset_type, result.dataset_split, result.dataset_revision) == (repo_id, "train", published)


def test_train_and_eval(repo_id, hub, tmp_path, capsys):
    clips, content = list(corpus(1, 0, "additive")), []
    for clip in clips:
        file = io.BytesIO()
        soundfile.write(file, clip.render(), RATE, format="WAV")
        content.append({"bytes": file.getvalue(), "path": f"{clip.name}.wav"})
    names = [f"song {i // 2}" for i in range(len(clips))]
    commit = hub.seed(repo_id, {"train.parquet": parquet(content, song=names)}, "dataset")
    model = BUILDERS["wavlm-base-plus"](tmp_path / "model", "wavlm-base-plus")
    source = ["--dataset", repo_id, "--group-column", "song"]
    options = ["--space", "wavlm-base-plus", "--source", str(model), *source, "--out", str(tmp_path / "bundle"), "--steps", "5"]
    options += ["--d-sae", "32", "--k", "4", "--device", "cpu", "--batch-size", "256"]
    code = cli.guarded(lambda: train.main(train.parse(options)), debug=True)
    out, err = capsys.readouterr()
    assert code == 0, err
    said = [f"looking up data set '{repo_id}' on the Hub", f"{len(clips)} recordings in its split 'train', commit {commit}"]
    assert out.splitlines()[:2] == said
    data = Bundle.from_pretrained(tmp_path / "bundle").provenance["data"]
    assert (data["dataset"], data["revision"], data["rows"], data["tracker"]) == (repo_id, commit, len(clips), "yin")
    assert f"datasets: {repo_id}" in (tmp_path / "bundle" / "README.md").read_text()
    kept = json.loads((tmp_path / "bundle.work" / "config.json").read_text())
    assert (kept["dataset"], kept["dataset_revision"], kept["group_column"]) == (repo_id, commit, "song")
    scores = tmp_path / "scores.json"
    command = ["eval", str(tmp_path / "bundle"), "--dataset", repo_id, "--split", "train", "--limit", "4", "--json", str(scores)]
    assert cli.main(command) == 0, capsys.readouterr().err
    assert json.loads(scores.read_text())["sae"]["n_recordings"] == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dataset", "a/b", "--audio", "."], "--audio and --dataset are two sources of sound"),
        (["--split", "test"], "--split belongs to a data set"),
        (["--dataset-revision", "main"], "--dataset-revision belongs to a data set"),
        (["--dataset", "a/b"], "--dataset needs --split NAME here"),
        (["--dataset", "nothing", "--split", "test"], "is not a Hub id"),
    ],
)
def test_contradictions_are_one_line(options, message, capsys):
    assert cli.main(["eval", *options]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
