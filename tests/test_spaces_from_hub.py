"""Every latent space from a Hub repository in the public layout, through the loopback Hub and an unmodified client."""

import shutil
from pathlib import Path

import pytest
import torch
from tiny_models import BUILDERS, TAPS, noise, split_weights

from sae_audio.cli import main
from sae_audio.errors import LatentSpaceError, ParameterError
from sae_audio.generators import load_model
from sae_audio.latent_spaces import SPACES, load_latent_space
from sae_audio.latent_spaces.table import CODEC_TYPES, ENCODER_TYPES

SUPPORTED = {module for module, _ in (CODEC_TYPES | ENCODER_TYPES).values()}
PUBLISHED = [name for name in BUILDERS if not SPACES[name].shipped]
GENERIC = {SPACES[name].module: name for name in PUBLISHED if SPACES[name].module in SUPPORTED}


@pytest.fixture
def published(request, hub, tmp_path):
    """Seed a tiny model under its public name; returns (name, folder, commit)."""
    folder = BUILDERS[request.param](tmp_path / "model", request.param)
    return request.param, folder, hub.seed(SPACES[request.param].source, folder)


@pytest.mark.parametrize("published", PUBLISHED, indirect=True)
def test_the_public_layout_loads_by_name(published):
    name, folder, commit = published
    tap = TAPS[name][-1]
    space = load_latent_space(name, tap=tap, revision=commit)
    assert (space.spec.repo, space.spec.revision, space.spec.tap) == (SPACES[name].source, commit, tap)
    audio = noise(1, space.spec.channels, 7 * space.spec.hop_length)
    assert torch.equal(space.encode(audio), load_latent_space(name, tap=tap, source=folder).encode(audio))


@pytest.mark.parametrize("published", ["encodec-24khz"], indirect=True)
def test_only_what_is_needed_is_fetched(published, hub):
    name, *_ = published
    hub.seed(SPACES[name].source, {"pytorch_model.bin": b"x" * 100, "notes.txt": b"long"})
    hub.reset()
    load_latent_space(name, revision="main")
    fetched = {call["path"].rsplit("/", 1)[1] for call in hub.calls("*", "/resolve/")}
    assert fetched == {"config.json", "model.safetensors"}


@pytest.mark.parametrize("published", ["encodec-24khz"], indirect=True)
def test_a_cached_model_needs_no_network(published, monkeypatch):
    name, _, commit = published
    audio = noise(1, 1, 4000)
    latents = load_latent_space(name, revision=commit).encode(audio)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert torch.equal(load_latent_space(name, revision=commit).encode(audio), latents)


@pytest.mark.parametrize("name", ["encodec-24khz", "hubert-base"])
def test_a_checkpoint_in_several_files_is_fetched_whole(name, hub, repo_id, tmp_path):
    folder = BUILDERS[name](tmp_path / "one", name)
    commit = hub.seed(repo_id, split_weights(folder, tmp_path / "two"))
    hub.seed(repo_id, {"other-00001-of-00002.safetensors": b"x" * 100})
    space = load_latent_space(name, source=repo_id, revision=commit)
    fetched = {call["path"].rsplit("/", 1)[1] for call in hub.calls("*", "/resolve/")}
    assert fetched == {path.name for path in (tmp_path / "two").iterdir()} and space.spec.revision == commit
    audio = noise(1, 1, 4_000)
    assert torch.equal(space.encode(audio), load_latent_space(name, source=folder).encode(audio))


@pytest.mark.parametrize("how", ["in one go", "file by file"])
def test_a_part_of_a_repository_in_the_cache_is_not_taken_for_all_of_it(how, hub, repo_id, tmp_path, monkeypatch):
    from huggingface_hub import hf_hub_download, snapshot_download

    commit = hub.seed(repo_id, BUILDERS["encodec-24khz"](tmp_path, "encodec-24khz"))
    if how == "in one go":
        snapshot_download(repo_id, allow_patterns=["config.json"])
    else:
        hf_hub_download(repo_id, "config.json")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for revision in (None, commit):
        command = f"hf download {repo_id}" + (f" --revision {revision}" if revision else "")
        said = f"HF_HUB_OFFLINE is set; unset it, or run `{command}` where .*cache does not hold all of it; or pass source=FOLDER"
        with pytest.raises(LatentSpaceError, match=said) as caught:
            load_latent_space("encodec-24khz", source=repo_id, revision=revision)
        assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:.*trying again in")
@pytest.mark.parametrize("fault", [{"status": 503}, {"drop": True}], ids=str)
def test_a_fault_of_the_hub_that_passes_costs_nothing_and_one_that_stays_is_told(fault, hub, repo_id, quick, tmp_path):
    folder = BUILDERS["encodec-24khz"](tmp_path, "encodec-24khz")
    commit = hub.seed(repo_id, folder)
    hub.fail("GET", "/api/models/", **fault, times=2)
    assert load_latent_space("encodec-24khz", source=repo_id).spec.revision == commit
    hub.reset()
    hub.fail("*", "", **fault, times=999)
    with pytest.raises(LatentSpaceError, match=r"fetched: the Hub .*run `hf download alice/other --revision v1`") as caught:
        load_latent_space("encodec-24khz", source="alice/other", revision="v1")
    assert "\n" not in str(caught.value) and "source=FOLDER with config.json and" in str(caught.value)
    assert load_latent_space("encodec-24khz", source=repo_id).spec.revision == commit  # from the cache


def test_a_gated_repository_is_told_with_the_way_in(hub, repo_id, quick, tmp_path, monkeypatch):
    hub.seed(repo_id, BUILDERS["encodec-24khz"](tmp_path, "encodec-24khz"))
    hub.configure(repo_id, gated="manual")
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    hint = f"is gated: accept its terms at {hub.endpoint}/{repo_id}, then run `hf auth login`; or"
    with pytest.raises(LatentSpaceError, match=f"could not be fetched: '{repo_id}' {hint} pass source=FOLDER"):
        load_latent_space("encodec-24khz", source=repo_id)
    with pytest.raises(LatentSpaceError, match=f"no generator could be fetched: '{repo_id}' {hint} give a folder"):
        load_model(repo_id)


@pytest.mark.parametrize("name", GENERIC.values())
def test_a_checkpoint_without_a_row_loads_by_its_class(name, hub, repo_id, tmp_path):
    folder = BUILDERS[name](tmp_path / "model", name)
    commit = hub.seed(repo_id, folder)
    space = load_latent_space(f"hf:{repo_id}", tap=TAPS[name][-1])
    assert (space.spec.name, space.spec.repo, space.spec.revision) == (f"hf:{repo_id}", repo_id, commit)
    audio = noise(1, space.spec.channels, 7 * space.spec.hop_length)
    assert torch.equal(space.encode(audio), load_latent_space(name, tap=TAPS[name][-1], source=folder).encode(audio))


def test_a_class_that_is_not_supported_is_named(hub, repo_id):
    hub.seed(repo_id, {"config.json": b'{"model_type": "bert"}'})
    with pytest.raises(LatentSpaceError, match=r"holds a model of type 'bert'.*wavlm"):
        load_latent_space(f"hf:{repo_id}")


def test_a_repository_without_weights_is_named(hub, repo_id):
    hub.seed(repo_id, {"config.json": b'{"model_type": "encodec"}'})
    with pytest.raises(LatentSpaceError, match=r"has no model.safetensors or .* or pytorch_model.bin"):
        load_latent_space(f"hf:{repo_id}")


def test_a_repository_that_does_not_exist_is_named(hub):
    with pytest.raises(LatentSpaceError, match=r"could not be fetched: the Hub has no 'alice/nothing' that"):
        load_latent_space("encodec-24khz", source="alice/nothing")


def test_code_from_a_repository_runs_only_at_a_commit_that_was_read(hub, repo_id, tmp_path):
    commit = hub.seed(repo_id, shutil.copytree(BUILDERS["mert-v1-95m"](tmp_path / "m", "mert-v1-95m"), tmp_path / "copy"))
    with pytest.raises(ParameterError, match=f"revision='{commit}'"):
        load_latent_space("mert-v1-95m", source=repo_id, trust_remote_code=True)
    with pytest.raises(ParameterError, match="never runs code"):
        load_latent_space("encodec-24khz", source=str(Path(tmp_path / "m")), trust_remote_code=True)


@pytest.mark.parametrize("name", ["hf:", "hf:user", "hf:a/b/c", "HF:user/model"])
def test_a_malformed_repository_name_is_unknown(name):
    with pytest.raises(LatentSpaceError, match="is unknown"):
        load_latent_space(name)


@pytest.mark.parametrize("published", ["encodec-24khz"], indirect=True)
def test_a_folder_named_like_the_repository_does_not_stand_in_for_it(published, tmp_path, monkeypatch):
    name, _, commit = published
    (tmp_path / SPACES[name].source).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert load_latent_space(name, revision="main").spec.revision == commit
    assert load_latent_space(name, source=SPACES[name].source, revision=commit).spec.revision == commit
    with pytest.raises(LatentSpaceError, match=r"has no config.json"):
        load_latent_space(name, source=SPACES[name].source)


@pytest.mark.parametrize("name", ["stable-audio-vae", "diffrhythm-vae"])
def test_a_converted_vae_loads_from_the_hub(name, hub, repo_id, tmp_path):
    folder = BUILDERS[name](tmp_path / "model", name)
    assert main(["convert", str(folder), str(tmp_path / "converted"), "--space", name]) == 0
    commit = hub.seed(repo_id, tmp_path / "converted")
    space = load_latent_space(name, source=repo_id)
    assert space.spec.revision == commit
    audio = noise(1, 2, 7 * space.spec.hop_length)
    torch.testing.assert_close(space.encode(audio), load_latent_space(name, source=folder).encode(audio))
