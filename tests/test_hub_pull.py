"""Loading from the loopback Hub with the unmodified client: one commit, checked, from the cache where the network fails."""

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hub_bundles import PASSING, STATUS, assert_no_leak, command_environment, contents, expected, seed, shown, unlike_any
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from test_bundle import LOAD_IN_SAE_LENS
from test_sae_saelens import saelens_codes
from tiny_bundle import SPEC, tiny_latents

from sae_audio import hub_client
from sae_audio.bundle import Bundle
from sae_audio.errors import BundleError, HubError
from sae_audio.hub import pull, push
from sae_audio.sealed import MANIFEST, manifest_of

ROOT = Path(__file__).parent.parent
HF = shutil.which("hf", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
PHASES = {
    "version": ("GET", "/api/models/[^/]+/[^/]+/revision/"),
    "listing": ("GET", "/tree/"),
    "head": ("HEAD", "/resolve/"),
    "manifest": ("GET", "/resolve/.*/manifest.json"),
    "small file": ("GET", "/resolve/.*/config.json"),
    "large file": ("GET", "^/cdn/"),
    "xet plan": ("GET", "/xet/v1/reconstructions/"),
    "xet data": ("GET", "/xet/data/"),
}
BODIES = [phase for phase in PHASES if phase not in ("version", "listing", "head", "xet plan")]
"""Phases in which contents of files come."""
PASSING = PASSING | {"truncated": {"truncate": 20}}
pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def published(hub, repo_id, saved_bundle):
    """A repository with the bundle, its large files stored as LFS; returns its name."""
    seed(hub, repo_id, saved_bundle)
    return repo_id


def at(phase, repo_id, hub, later_files, folder, monkeypatch):
    """Publish a bundle over the protocol that a phase is part of; returns what the repository shows."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", not phase.startswith("xet"))
    push(unlike_any(later_files, folder), repo_id)
    hub.reset()
    return shown(hub, repo_id)


def whole(folder, there):
    """The folder of the cache holds the repository's bundle and nothing else."""
    names = json.loads(there[MANIFEST])["files"].keys() | {MANIFEST}
    assert contents(folder) == {name: there[name] for name in names}
    return True


def refused(source, cache, error=HubError, **options):
    """Load, which must fail in one line; returns it."""
    with pytest.raises(error) as caught:
        Bundle.from_pretrained(source, cache_dir=cache, **options)
    said = str(caught.value)
    assert "\n" not in said
    return said


def is_not_cached(source, cache):
    """Nothing that could be taken for the bundle is in the cache."""
    with pytest.raises((HubError, BundleError)):
        Bundle.from_pretrained(source, cache_dir=cache, local_files_only=True)


# What loading does.


def test_a_bundle_loads_as_it_was_pushed(hub, repo_id, later_files, cache, tmp_path, transfer):
    push(unlike_any(later_files, tmp_path / "b"), repo_id)
    hub.reset()
    here, there = Bundle.from_pretrained(tmp_path / "b"), Bundle.from_pretrained(repo_id, cache_dir=cache)
    assert there.spec == SPEC and there.metrics == here.metrics and there.atlas.names == here.atlas.names
    for name, value in here.sae.state_dict().items():
        assert value.equal(there.sae.state_dict()[name])
    for key, probe in here.probes.items():
        assert probe.weight.equal(there.probes[key].weight)
    assert hub.calls("GET", "/xet/data/" if transfer == "xet" else "^/cdn/")


def test_only_the_bundle_is_fetched_and_all_of_one_commit(hub, published, saved_bundle, cache):
    hub.seed(published, {"pytorch_model.bin": b"\x80" * 100, "audio/long.wav": b"RIFF"})
    hub.reset()
    folder = pull(published, cache_dir=cache)
    asked = [call["path"].split("/resolve/")[1].partition("/") for call in hub.calls("*", "/resolve/")]
    assert {commit for commit, _, _ in asked} == {folder.name} == {hub.history(published)[0]["oid"]}
    assert {name.partition("?")[0] for _, _, name in asked} == json.loads((saved_bundle / MANIFEST).read_text())[
        "files"
    ].keys() | {MANIFEST}
    assert whole(folder, shown(hub, published))


def test_a_push_in_between_is_not_mixed_in(hub, published, saved_bundle, later_files, cache, tmp_path):
    """The branch moves while its manifest is on the way: what arrives is the version that was asked for, whole."""
    other = unlike_any(later_files, tmp_path / "other")
    before = shown(hub, published)

    class Moving:
        method, path, seen = "HEAD", "/resolve/.*/manifest.json", 0

        def matches(self, method, path):
            if method == "HEAD" and "manifest.json" in path and not self.seen:
                self.seen = 1
                hub.seed(published, expected(other, published))
            return False

    hub.faults.append(Moving())
    folder = pull(published, cache_dir=cache)
    assert whole(folder, before) and shown(hub, published) != before
    assert whole(pull(published, cache_dir=cache), shown(hub, published))


def test_a_cached_version_costs_one_request_and_a_cached_commit_none(hub, published, cache):
    folder = pull(published, cache_dir=cache)
    hub.reset()
    assert pull(published, cache_dir=cache) == folder and len(hub.calls()) == 1
    hub.reset()
    assert pull(published, folder.name, cache_dir=cache) == folder and not hub.calls()
    assert pull(published, cache_dir=cache, local_files_only=True) == folder and not hub.calls()


def test_branch_tag_and_commit(hub, published, later_files, cache, tmp_path):
    old = shown(hub, published)
    commit = hub.history(published)[0]["oid"]
    other = unlike_any(later_files, tmp_path / "other")
    hub.seed(published, expected(other, published))
    assert whole(pull(published, cache_dir=cache), shown(hub, published))
    for revision in (commit, "format-1"):
        assert whole(pull(published, revision, cache_dir=cache), old)
        assert whole(pull(published, revision, cache_dir=cache, local_files_only=True), old)


def test_no_token_is_sent_where_none_is_wanted(hub, published, cache):
    Bundle.from_pretrained(published, token=False, cache_dir=cache)
    assert hub.calls() and not [call for call in hub.calls() if "authorization" in call["headers"]]


def test_a_newer_format_leads_to_the_tag_of_this_one(hub, published, cache):
    manifest = json.loads(hub.read(published, MANIFEST)) | {"format_version": 2}
    hub.seed(published, {MANIFEST: json.dumps(manifest)})
    assert "has format version 2, this program reads 1; upgrade" in (said := refused(published, cache, BundleError))
    assert said.endswith("for a bundle on the Hub give the revision 'format-1'")
    assert Bundle.from_pretrained(published, "format-1", cache_dir=cache).spec == SPEC


def test_a_card_edited_on_the_hub_is_told_and_used(hub, published, cache):
    hub.seed(published, {"README.md": "---\nlicense: mit\n---\nmy words\n"})
    with pytest.warns(UserWarning, match=r"README\.md was edited after the bundle was made"):
        assert Bundle.from_pretrained(published, cache_dir=cache).spec == SPEC


NO_BUNDLE = {
    "empty": ({}, "is not a sae_audio bundle: it has no manifest.json"),
    "a model": ({"config.json": b"{}", "model.safetensors": b"x"}, "is not a sae_audio bundle"),
    "manifest of something": ({MANIFEST: b"[1]"}, "is not the manifest of a bundle"),
    "pickle": (
        {MANIFEST: manifest_of({"sae.pt": b"\x80"}), "sae.pt": b"\x80"},
        "lists 'sae.pt', which cannot be a file of a bundle",
    ),
    "path": ({MANIFEST: manifest_of({"../x.json": b"1"})}, r"lists '../x.json', which cannot be"),
    "pattern": ({MANIFEST: manifest_of({"*.bin": b"1"})}, r"lists '*.bin', which cannot be"),
    "file missing": (
        {MANIFEST: manifest_of({"config.json": b"{}"})},
        "is not what its manifest says (config.json), fetched twice",
    ),
}


@pytest.mark.parametrize("kind", NO_BUNDLE)
def test_what_is_no_bundle_is_named_and_nothing_else_of_it_fetched(kind, hub, repo_id, cache):
    held, message = NO_BUNDLE[kind]
    hub.seed(repo_id, held)
    said = refused(repo_id, cache, BundleError)
    assert message in said and repo_id in said
    assert not [call for call in hub.calls("GET", "/resolve/|^/cdn/") if MANIFEST not in call["path"]]


# Content that is not what the manifest says.


@pytest.mark.parametrize("phase", BODIES)
def test_a_byte_flipped_on_the_way_is_caught_and_fetched_again(phase, hub, repo_id, later_files, cache, tmp_path, monkeypatch):
    there = at(phase, repo_id, hub, later_files, tmp_path / "b", monkeypatch)
    hub.fail(*PHASES[phase], corrupt=True)
    assert whole(pull(repo_id, cache_dir=cache), there)
    hub.reset()
    hub.fail(*PHASES[phase], corrupt=True, times=999)
    said = refused(repo_id, cache / "other", BundleError)
    named = {"manifest": "manifest", "small file": "config.json", "large file": ".safetensors", "xet data": ".safetensors"}
    assert named[phase] in said and repo_id in said
    is_not_cached(repo_id, cache / "other")


@pytest.mark.parametrize("name", ["sae.safetensors", "metrics.json", MANIFEST])
def test_a_damaged_cache_is_mended_or_told(name, hub, published, cache):
    folder = pull(published, cache_dir=cache)
    path = (folder / name).resolve()
    path.write_bytes(path.read_bytes()[:-2] + b"??")
    said = refused(published, cache, BundleError, local_files_only=True)
    assert name in said and (f"`hf cache rm model/{published}`" in said or name == MANIFEST)
    assert whole(pull(published, cache_dir=cache), shown(hub, published))
    assert Bundle.from_pretrained(published, cache_dir=cache, local_files_only=True).spec == SPEC


def test_the_repository_itself_damaged_is_told(hub, published, cache):
    hub.seed(published, {"atlas.json": hub.read(published, "atlas.json") + b" "})
    said = refused(published, cache, BundleError)
    assert "(atlas.json), fetched twice; ask its author to push it again, or give another revision" in said


# The network.


@pytest.mark.filterwarnings("ignore:.*trying again in")
@pytest.mark.parametrize("fault", PASSING)
@pytest.mark.parametrize("phase", PHASES)
def test_a_fault_that_passes_costs_nothing(phase, fault, hub, repo_id, later_files, cache, tmp_path, monkeypatch):
    there = at(phase, repo_id, hub, later_files, tmp_path / "b", monkeypatch)
    injected = hub.fail(*PHASES[phase], **PASSING[fault], times=2)
    assert whole(pull(repo_id, cache_dir=cache), there) and injected.seen >= 2


@pytest.mark.filterwarnings("ignore:.*trying again in")
@pytest.mark.parametrize("fault", ["503", "429", "dropped", "truncated"])
@pytest.mark.parametrize("phase", [phase for phase in PHASES if phase != "head"])
def test_a_fault_that_stays_is_told_and_leaves_nothing(
    phase, fault, hub, repo_id, later_files, cache, tmp_path, monkeypatch, caplog
):
    there = at(phase, repo_id, hub, later_files, tmp_path / "b", monkeypatch)
    hub.fail(*PHASES[phase], **PASSING[fault], times=999)
    said = refused(repo_id, cache)
    assert {"503": "answered 503", "429": "answered 429"}.get(fault, "could not be reached") in said and "try again" in said
    assert_no_leak(hub, said, caplog.text)
    is_not_cached(repo_id, cache)
    hub.reset()
    assert whole(pull(repo_id, cache_dir=cache), there)


@pytest.mark.parametrize("fault", ["503", "429", "dropped", "truncated", "slow", "offline"])
def test_the_cache_serves_with_one_warning(fault, hub, published, cache, monkeypatch, recwarn):
    folder = pull(published, cache_dir=cache)
    if fault == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    elif fault == "slow":
        monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.2)
        hub.fail("*", "", delay=1.0, times=999)
    else:
        hub.fail("*", "", **PASSING[fault], times=999)
    assert Bundle.from_pretrained(published, cache_dir=cache).spec == SPEC
    ours = [str(warning.message) for warning in recwarn if issubclass(warning.category, UserWarning)]
    assert len(ours) == 1 and ours[0].endswith(f"'{published}' is the copy in the cache, commit {folder.name[:12]}")


@pytest.mark.filterwarnings("ignore:.*the copy in the cache", "ignore:.*trying again in")
@pytest.mark.parametrize("phase", [phase for phase in PHASES if phase != "version"])
def test_the_version_before_serves_when_the_new_one_does_not_arrive(
    phase, hub, repo_id, saved_bundle, later_files, cache, tmp_path, monkeypatch
):
    """Also later, offline: the cache's name for the branch moves only once all of a version is there."""
    seed(hub, repo_id, saved_bundle)
    old = pull(repo_id, cache_dir=cache)
    there = at(phase, repo_id, hub, later_files, tmp_path / "b", monkeypatch)
    hub.fail(*PHASES[phase], drop=True, times=999)
    assert pull(repo_id, cache_dir=cache) == old
    assert pull(repo_id, cache_dir=cache, local_files_only=True) == old
    hub.reset()
    assert whole(pull(repo_id, cache_dir=cache), there)


def test_offline_without_a_copy_says_so(hub, published, cache, monkeypatch):
    assert "is not in the cache, or not all of it; load it once with a network" in refused(
        published, cache, local_files_only=True
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set; unset it" in refused(published, cache)
    assert not hub.calls()


def test_part_of_a_copy_is_none(hub, published, cache):
    folder = pull(published, cache_dir=cache)
    (folder / "atlas.json").unlink()
    assert "is not in the cache, or not all of it" in refused(published, cache, local_files_only=True)
    assert whole(pull(published, cache_dir=cache), shown(hub, published))


@pytest.mark.filterwarnings("ignore:.*trying again in")
def test_a_slow_hub_is_waited_for(hub, published, cache):
    hub.fail("*", "", delay=0.05, times=999)
    assert pull(published, cache_dir=cache)


def test_the_hub_is_waited_for_as_long_as_it_asks_and_no_longer(hub, published, cache, no_wait):
    hub.fail(*PHASES["version"], status=429, headers={"Retry-After": "31"}, times=2)
    with pytest.warns(UserWarning, match="the Hub answered 429; trying again in 31 s"):
        assert pull(published, cache_dir=cache)
    assert no_wait == [31]
    hub.reset()
    hub.fail(*PHASES["version"], status=429, headers={"Retry-After": str(hub_client.LONGEST_WAIT + 1)}, times=9)
    assert f"wait {hub_client.LONGEST_WAIT + 1} s and try again" in refused(published, cache / "other")


# Refusals.


@pytest.mark.parametrize("status", [status for status in STATUS if status < 429])
@pytest.mark.parametrize("phase", ["version", "listing", "manifest", "small file", "large file"])
def test_a_refusal_is_not_repeated_and_says_what_to_do(phase, status, hub, published, cache, monkeypatch, no_wait, caplog):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    hub.fail(*PHASES[phase], status=status, times=999)
    said = refused(published, cache)
    assert STATUS[status] in said and no_wait == [], said
    assert_no_leak(hub, said, caplog.text)
    is_not_cached(published, cache)


def test_missing_private_gated_and_disabled(hub, published, cache):
    assert "the Hub has no 'alice/nothing' that this token may see" in refused("alice/nothing", cache)
    assert f"'{published}' has no branch, tag or commit 'v9'" in refused(published, cache, revision="v9")
    hub.configure(published, private=True)
    for stranger in ("hf_other", False):
        assert f"the Hub has no '{published}' that this token may see" in refused(published, cache, token=stranger)
    assert Bundle.from_pretrained(published, cache_dir=cache).spec == SPEC
    hub.configure(published, private=False, gated="manual")
    for stranger in ("hf_other", False):
        said = refused(published, cache / "other", token=stranger)
        assert f"is gated: accept its terms at {hub.endpoint}/{published}, then run `hf auth login`" in said
    hub.configure(published, gated=False, disabled=True)
    assert f"the Hub has disabled '{published}'" in refused(published, cache / "other")


def test_a_revoked_token_is_told_even_with_a_copy(hub, published, cache, monkeypatch):
    pull(published, cache_dir=cache)
    monkeypatch.delitem(hub.tokens, "hf_test")
    assert "it does not accept the token" in refused(published, cache)
    assert Bundle.from_pretrained(published, cache_dir=cache, token=False).spec == SPEC  # it is public


def test_a_mistyped_folder_is_told_from_a_repository(hub, tmp_path, monkeypatch, cache):
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    assert "there is no folder runs/mine; taken for the id of a Hub repository, the Hub has no" in refused("runs/mine", cache)


# A disk that is full, in a process of its own: the limit is the process's.

FULL = """
import resource, signal, sys
from sae_audio.errors import HubError
from sae_audio.hub import pull
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    pull(sys.argv[1], cache_dir=sys.argv[3])
except HubError as error:
    print(error)
"""


@pytest.mark.parametrize("protocol", ["xet data", "large file"])
def test_a_full_disk_is_told_and_leaves_nothing(protocol, hub, repo_id, later_files, cache, tmp_path, monkeypatch):
    there = at(protocol, repo_id, hub, later_files, tmp_path / "b", monkeypatch)
    environment = command_environment(HF_HUB_DISABLE_XET=str(int(protocol == "large file")))
    arguments = [sys.executable, "-c", FULL, repo_id, "9000", str(cache)]
    done = subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout.startswith("the Hub's cache on this machine cannot be used (File too large); free space"), done.stderr
    assert done.stdout.count("\n") == 1
    is_not_cached(repo_id, cache)
    assert whole(pull(repo_id, cache_dir=cache), there)


# The tools of the Hub.


def hf(*arguments):
    done = subprocess.run([HF, *map(str, arguments)], env=command_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_hf_download_gets_loads(hub, published, tmp_path):
    """With all that the repository holds, into the cache and into a folder."""
    cached = hf("download", published, "--quiet", "--cache-dir", tmp_path / "cache").strip()
    hf("download", published, "--local-dir", tmp_path / "copy")
    for folder in (Path(cached), tmp_path / "copy"):
        loaded, x = Bundle.from_pretrained(folder), tiny_latents()
        assert (folder / "LICENSE").exists() and loaded.spec == SPEC
        # What sae_lens opens of a folder, by its formulas; the package itself does it in the slow test below.
        cfg, tensors = json.loads((folder / "cfg.json").read_text()), load_file(folder / "sae_weights.safetensors")
        codes = saelens_codes(cfg, tensors, x)
        assert torch.allclose(codes, loaded.sae.encode(x), atol=1e-5) and cfg["d_sae"] == loaded.sae.config.d_sae
        assert torch.allclose(codes @ tensors["W_dec"] + tensors["b_dec"], loaded.sae(x), atol=1e-5)
    (tmp_path / "copy" / "sae.safetensors").write_bytes(b"x")
    with pytest.raises(BundleError, match="damaged"):
        Bundle.from_pretrained(tmp_path / "copy")


@pytest.mark.slow
def test_sae_lens_loads_what_hf_download_gets(hub, published, saved_bundle, tmp_path):
    """The real package, in the environment of its own that benchmarks/sae_training.py builds."""
    python = runpy.run_path(str(ROOT / "benchmarks" / "sae_training.py"))["environment"]("sae-lens")
    save_file({"x": tiny_latents()}, tmp_path / "x.safetensors")
    cached = hf("download", published, "--quiet", "--cache-dir", tmp_path / "cache").strip()
    hf("download", published, "--local-dir", tmp_path / "copy")
    for folder in (cached, tmp_path / "copy"):
        arguments = [str(folder), str(tmp_path / "x.safetensors"), str(tmp_path / "out.safetensors")]
        subprocess.run([python, "-c", LOAD_IN_SAE_LENS, *arguments], check=True, cwd=tmp_path)
        ours = Bundle.from_pretrained(folder).sae.encode(tiny_latents())
        assert torch.allclose(load_file(tmp_path / "out.safetensors")["acts"], ours, atol=1e-5)


def test_a_cache_that_is_no_folder_is_told(hub, repo_id, saved_bundle, tmp_path):
    seed(hub, repo_id, saved_bundle)
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(HubError, match=r"the Hub's cache on this machine cannot be used \(.*\); free space, or set HF_HOME"):
        pull(repo_id, cache_dir=tmp_path / "cache" / "below")
