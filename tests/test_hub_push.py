"""Publishing through the loopback Hub and the unmodified client: one commit or none, whatever breaks on the way."""

import json
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hub_bundles import PASSING, STATUS, Gate, assert_no_leak, command_environment, contents, expected, seed, shown, unlike_any
from huggingface_hub import HfApi, ModelCard, constants

from sae_audio import hub_client
from sae_audio.bundle import Bundle
from sae_audio.errors import BundleError, HubError
from sae_audio.hub import check_publish, publish, push
from sae_audio.sealed import MANIFEST

ROOT = Path(__file__).parent.parent
BEFORE = {
    "create": ("POST", "/api/repos/create"),
    "info": ("GET", "/api/models/[^/]+/[^/]+(/revision/main)?$"),
    "tree": ("GET", "/tree/"),
    "last manifest": ("GET", "/resolve/.*manifest.json"),
    "card": ("POST", "/api/validate-yaml"),
    "preupload": ("POST", "/preupload/"),
    "xet token": ("GET", "/xet-write-token/"),
    "xet data": ("POST", "/xet/v1/xorbs/"),
    "xet shard": ("POST", "/xet/v./shards"),
    "lfs batch": ("POST", "/objects/batch"),
    "lfs data": ("PUT", "/lfs/upload/"),
    "commit": ("POST", "/commit/"),
}
"""Phases of a push, until the new version is there."""
AFTER = {
    "compare": ("POST", "/paths-info/"),
    "read tag": ("GET", "/revision/format-1"),
    "delete tag": ("DELETE", "/tag/"),
    "tag": ("POST", "/tag/"),
}
PHASES = BEFORE | AFTER
PASSING = PASSING | {"answer lost": {"lose": True}}
pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def folder(later_files, tmp_path):
    """The bundle that is pushed."""
    return unlike_any(later_files, tmp_path / "my bundle")


def over(monkeypatch, phase):
    """Use the transfer protocol that a phase is part of."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", phase.startswith("lfs"))


def refused(hub, folder, repo_id, caplog, **options):
    """Push, which must fail in one line with the command that goes on, and leave the folder as it was; returns the line."""
    before = contents(folder)
    with pytest.raises(HubError) as caught:
        push(folder, repo_id, **options)
    said = str(caught.value)
    assert "\n" not in said and f"The bundle is safe in {folder}; to go on: " in said
    assert f"sae_audio push '{folder}' {repo_id}" in said or f"sae-audio push '{folder}' {repo_id}" in said
    assert_no_leak(hub, said, caplog.text)
    assert contents(folder) == before
    return said


# What a push does.


def test_a_push_is_one_commit_and_comes_back(hub, repo_id, folder, transfer):
    done = push(folder, repo_id)
    assert [commit["oid"] for commit in hub.history(repo_id)[:-1]] == [done.commit]
    assert shown(hub, repo_id) == expected(folder, repo_id, beside={})
    assert (done.changed, done.removed, done.private, done.tag) == (12, 0, False, "format-1")
    assert done.url == f"{hub.endpoint}/{repo_id}" and hub.repo(repo_id)["refs"]["tags/format-1"] == done.commit
    assert bool(hub.calls("POST", "/xet/v1/shards")) == (transfer == "xet")
    assert bool(hub.calls("PUT", "/lfs/upload/")) == (transfer == "lfs")


def test_only_card_and_manifest_differ_from_the_folder(hub, repo_id, folder):
    push(folder, repo_id)
    there, here = shown(hub, repo_id), contents(folder)
    assert there.keys() == here.keys()
    assert {name for name in here if here[name] != there[name]} == {"README.md", MANIFEST}
    assert f'Bundle.from_pretrained("{repo_id}")' in there["README.md"].decode()


def test_pushing_again_sends_nothing(hub, repo_id, folder):
    first = push(folder, repo_id)
    hub.reset()
    assert push(folder, repo_id) == first._replace(changed=0)
    assert len(hub.history(repo_id)) == 2 and not hub.calls("POST", "/commit/") + hub.calls("*", "/tag/")


def test_a_new_version_replaces_the_bundle_and_nothing_else(hub, repo_id, saved_bundle, folder):
    seed(hub, repo_id, saved_bundle)
    done = push(folder, repo_id)
    assert shown(hub, repo_id) == expected(folder, repo_id)  # LICENSE and samples are still there
    assert "figures/training.png" not in hub.files(repo_id) and done.removed == 1
    assert hub.repo(repo_id)["refs"]["tags/format-1"] == done.commit  # the tag has moved


def test_a_branch_is_made_and_is_not_tagged(hub, repo_id, saved_bundle, folder):
    before = seed(hub, repo_id, saved_bundle)
    tagged = hub.repo(repo_id)["refs"]["tags/format-1"]
    done = push(folder, repo_id, revision="dev/next")
    assert shown(hub, repo_id, "dev/next") == expected(folder, repo_id, "dev/next") and shown(hub, repo_id) == before
    assert done.tag is None and hub.repo(repo_id)["refs"]["tags/format-1"] == tagged
    assert f'from_pretrained("{repo_id}", revision="dev/next")' in hub.read(repo_id, "README.md", "dev/next").decode()
    assert push(folder, repo_id, revision="dev/next").changed == 0


def test_a_card_is_valid_for_the_hub_and_its_tags_find_it(hub, repo_id, folder):
    push(folder, repo_id)
    assert [call["status"] for call in hub.calls("POST", "/api/validate-yaml")] == [200]
    ModelCard.load(repo_id).validate()
    info = HfApi().model_info(repo_id)
    assert (info.library_name, info.pipeline_tag) == ("sae-audio", "feature-extraction")
    assert {"sae-audio", "sparse-autoencoder", "license:apache-2.0"} <= set(info.tags)


def test_an_edited_card_is_published_as_it_is(hub, repo_id, folder):
    from sae_audio.sealed import reseal

    (folder / "README.md").write_text("---\nlicense: mit\n---\nmy own words, FOLDER\n")
    reseal(folder)
    push(folder, repo_id)
    assert hub.read(repo_id, "README.md") == (folder / "README.md").read_bytes()


def test_a_bundle_pushes_itself(hub, repo_id, saved_bundle, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    done = Bundle.from_pretrained(saved_bundle).push_to_hub(repo_id, private=True, revision="dev")
    assert shown(hub, repo_id, "dev") == expected(saved_bundle, repo_id, "dev", beside={})
    assert done.private and hub.repo(repo_id)["private"] and not list(tmp_path.iterdir())


def test_a_bundle_that_cannot_be_saved_leaves_no_folder(hub, repo_id, saved_bundle, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    unfit = replace(Bundle.from_pretrained(saved_bundle), figures={"a.txt": b"no picture"})
    with pytest.raises(BundleError, match="is not a PNG file"):
        unfit.push_to_hub(repo_id)
    assert not list(tmp_path.iterdir()) and len(hub.history(repo_id)) == 1


@pytest.mark.filterwarnings("ignore:.*trying again in")
def test_what_a_bundle_could_not_push_is_kept(hub, repo_id, saved_bundle, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    hub.fail("POST", "/commit/", status=503, times=99)
    with pytest.raises(HubError, match=r"The bundle is safe in (.*); to go on: .* push ") as caught:
        Bundle.from_pretrained(saved_bundle).push_to_hub(repo_id)
    kept = str(caught.value).split("safe in ")[1].split("; to go on")[0]
    assert contents(Path(kept)) == contents(saved_bundle)


# What is refused before anything is sent.


def test_a_damaged_bundle_goes_nowhere(hub, repo_id, folder):
    (folder / "sae.safetensors").write_bytes(b"x")
    with pytest.raises(BundleError, match="damaged"):
        push(folder, repo_id)
    assert not hub.calls()


UNFIT = {
    "another model": ({"config.json": b"{}", "model.safetensors": b"x"}, "holds config.json of something that is no bundle"),
    "pickle": ({"pytorch_model.bin": b"x"}, "holds pytorch_model.bin of something that is no bundle"),
    "foreign manifest": ({MANIFEST: b'{"format": "x"}'}, "is not the manifest of a bundle.*or publish to another repository"),
    "gitignore": ({".gitignore": b"*.png"}, "has a .gitignore, by which the Hub leaves files out; delete it there"),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_a_repository_of_something_else_is_left_alone(kind, hub, repo_id, folder, caplog):
    held, message = UNFIT[kind]
    hub.seed(repo_id, {"README.md": "# mine", **held})
    before = shown(hub, repo_id)
    for attempt in (check_publish, lambda repo: push(folder, repo)):
        with pytest.raises(HubError, match=message):
            attempt(repo_id)
    assert shown(hub, repo_id) == before and not hub.calls("POST", "/commit/")


def test_a_repository_with_only_a_card_and_a_licence_is_taken(hub, repo_id, folder):
    hub.seed(repo_id, {"README.md": "---\nlicense: mit\n---\n", "LICENSE": b"terms"})
    push(folder, repo_id)
    assert shown(hub, repo_id) == expected(folder, repo_id, beside={"LICENSE": b"terms"})


def test_private_is_never_published_publicly(hub, repo_id, saved_bundle, folder, caplog):
    before = seed(hub, repo_id, saved_bundle)
    assert "exists and is public; make it private" in refused(hub, folder, repo_id, caplog, private=True)
    assert shown(hub, repo_id) == before
    hub.configure(repo_id, private=True)
    assert push(folder, repo_id, private=True).private and push(folder, repo_id).private


WHO = {
    "no token": (False, "HF_TOKEN"),
    "a wrong token": ("hf_nonsense", "HF_TOKEN"),
    "a token that reads": ("hf_read", "take one with access to 'alice'"),
    "somebody else's token": ("hf_other", "take one with access to 'alice'"),
}


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("who", WHO)
def test_a_token_that_may_not_write_fails_at_once(who, exists, hub, repo_id, saved_bundle, folder, caplog):
    token, step = WHO[who]
    before = seed(hub, repo_id, saved_bundle) if exists else None
    with pytest.raises(HubError, match=step):
        check_publish(repo_id, token=token)
    assert step in refused(hub, folder, repo_id, caplog, token=token)
    assert shown(hub, repo_id) == before if exists else hub.repo(repo_id) is None


@pytest.mark.parametrize("repo", ["name", "a/b/c", "alice/with space", "alice/double--dash", "alice/.hidden."])
def test_a_name_that_cannot_be_is_told(repo, hub, folder):
    for attempt in (check_publish, lambda repo: push(folder, repo)):
        with pytest.raises(HubError, match=r"user/name") as caught:
            attempt(repo)
        assert "to go on" not in str(caught.value)  # the same command would fail again
    with pytest.raises(HubError, match="published to a branch of 'alice/x', not to the commit '0000"):
        push(folder, "alice/x", revision="0" * 40)
    assert not hub.calls()


def test_the_check_makes_the_repository_and_commits_nothing(hub, repo_id):
    check_publish(repo_id, private=True)
    check_publish(repo_id, private=True, revision="dev")
    assert hub.repo(repo_id)["private"] and len(hub.history(repo_id, "dev")) == 1
    assert not hub.calls("POST", "/commit/|/objects/batch|/xet/")


def test_the_hub_finding_a_card_invalid_is_told(hub, repo_id, folder, caplog):
    from sae_audio.sealed import reseal

    (folder / "README.md").write_text("---\na: [1\n---\n")
    reseal(folder)
    assert "Invalid metadata in README.md" in refused(hub, folder, repo_id, caplog)
    assert len(hub.history(repo_id)) == 1


# Faults. The repository holds the first bundle; whatever happens it then shows that one or the other, whole.


@pytest.mark.filterwarnings("ignore:.*trying again in")
@pytest.mark.parametrize("fault", PASSING)
@pytest.mark.parametrize("phase", PHASES)
def test_a_fault_that_passes_costs_nothing(phase, fault, hub, repo_id, saved_bundle, folder, monkeypatch):
    over(monkeypatch, phase)
    seed(hub, repo_id, saved_bundle)
    here = contents(folder)
    injected = hub.fail(*PHASES[phase], **PASSING[fault], times=2)
    done = push(folder, repo_id)
    assert injected.seen >= (1 if fault == "answer lost" else 2), "the fault was not met"
    assert shown(hub, repo_id) == expected(folder, repo_id) and contents(folder) == here
    assert [commit["oid"] for commit in hub.history(repo_id)[:-2]] == [done.commit]  # one commit, not two
    assert hub.repo(repo_id)["refs"]["tags/format-1"] == done.commit


@pytest.mark.filterwarnings("ignore:.*trying again in")
@pytest.mark.parametrize("fault", ["503", "dropped"])
@pytest.mark.parametrize("phase", PHASES)
def test_a_fault_that_stays_leaves_the_version_before_or_the_new_one(
    phase, fault, hub, repo_id, saved_bundle, folder, monkeypatch, caplog
):
    over(monkeypatch, phase)
    before = seed(hub, repo_id, saved_bundle)
    hub.fail(*PHASES[phase], **PASSING[fault], times=999)
    said = refused(hub, folder, repo_id, caplog)
    assert STATUS[503] in said if fault == "503" else "could not be reached" in said
    assert shown(hub, repo_id) == (before if phase in BEFORE else expected(folder, repo_id))
    assert_the_command_goes_on(hub, repo_id, folder)


def wait_until(true):
    """Wait for a state of the server; returns whether it came about."""
    end = time.monotonic() + 60
    while not true() and time.monotonic() < end:
        time.sleep(0.01)
    return true()


def assert_the_command_goes_on(hub, repo_id, folder):
    """After the fault a push completes, in one commit in all."""
    hub.reset()
    done = push(folder, repo_id)
    assert shown(hub, repo_id) == expected(folder, repo_id)
    assert len(hub.history(repo_id)) == 3 and hub.repo(repo_id)["refs"]["tags/format-1"] == done.commit


REFUSABLE = [
    phase for phase in PHASES if phase not in ("xet data", "xet shard", "lfs data")
]  # storage, not the Hub, answers those


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 409, 412])
@pytest.mark.parametrize("phase", REFUSABLE)
def test_a_refusal_is_not_repeated_and_says_what_to_do(
    phase, status, hub, repo_id, saved_bundle, folder, monkeypatch, caplog, no_wait
):
    over(monkeypatch, phase)
    before = seed(hub, repo_id, saved_bundle)
    hub.fail(*PHASES[phase], status=status, times=999)
    if (phase, status) in {("create", 401), ("create", 402), ("create", 403)}:  # the repository is there: it need not be made
        assert push(folder, repo_id).changed and shown(hub, repo_id) == expected(folder, repo_id)
        return
    said = refused(hub, folder, repo_id, caplog)
    assert STATUS[status] in said or (phase, status) in {("create", 409), ("card", 400)}, said
    assert no_wait == [], "a refusal was repeated"
    assert shown(hub, repo_id) == (before if phase in BEFORE else expected(folder, repo_id))


@pytest.mark.filterwarnings("ignore:.*trying again in")
def test_the_hub_is_waited_for_as_long_as_it_asks_and_no_longer(hub, repo_id, folder, caplog, no_wait):
    hub.fail("POST", "/commit/", status=429, headers={"Retry-After": "31"})
    hub.fail("POST", "/commit/", status=503, headers={"ratelimit": '"api";r=0;t=55'}, nth=2)
    with pytest.warns(UserWarning, match=r"the Hub answered 429; trying again in 31 s \(1 of 4\)"):
        push(folder, repo_id)
    assert no_wait == [31, 55]
    hub.fail("POST", "/repos/create", status=429, headers={"Retry-After": str(hub_client.LONGEST_WAIT + 1)})
    said = refused(hub, folder, repo_id, caplog)
    assert no_wait == [31, 55] and f"wait {hub_client.LONGEST_WAIT + 1} s and try again" in said


def test_a_token_that_the_hub_repeats_is_blotted_out(hub, repo_id, folder, caplog):
    repeated = {"X-Error-Message": "hf_jwt_eyJh.bGci-OiJI may not, hf_abc neither"}
    hub.fail("POST", "/commit/", status=403, headers=repeated)
    assert "(it says: hf_… may not, hf_… neither" in refused(hub, folder, repo_id, caplog)


def test_waits_grow_and_end(hub, repo_id, folder, caplog, no_wait):
    hub.fail("POST", "/commit/", drop=True, times=999)
    with pytest.warns(UserWarning, match="the connection to the Hub failed"):
        refused(hub, folder, repo_id, caplog)
    assert no_wait == [1, 2, 4, 8] and len(hub.calls("POST", "/commit/")) == hub_client.TRIES


@pytest.mark.filterwarnings("ignore:.*trying again in")
def test_every_answer_to_a_commit_lost_is_one_commit(hub, repo_id, folder):
    hub.fail("POST", "/commit/", lose=True, times=999)
    done = push(folder, repo_id)
    assert [commit["oid"] for commit in hub.history(repo_id)[:-1]] == [done.commit]


@pytest.mark.filterwarnings("ignore:.*trying again in")
def test_a_hub_that_does_not_answer_is_given_up(hub, repo_id, folder, monkeypatch):
    """The commit is made after the client gave up on it, and after it tried again: still one commit."""
    check_publish(repo_id)
    monkeypatch.setattr(hub_client, "PATIENCE", 1.0)
    gate = Gate("POST", "/commit/")
    hub.faults.append(gate)
    done = push(folder, repo_id)
    gate.opened.set()
    assert wait_until(lambda: 412 in [call["status"] for call in hub.calls("POST", "/commit/")])
    assert shown(hub, repo_id) == expected(folder, repo_id, beside={})
    assert [commit["oid"] for commit in hub.history(repo_id)[:-1]] == [done.commit]


@pytest.mark.filterwarnings("ignore:.*trying again in")
def test_a_hub_that_answers_late_is_waited_for(hub, repo_id, folder):
    hub.fail("*", "^/(api|alice)", delay=0.05, times=999)
    assert push(folder, repo_id).changed == 12


def test_a_token_revoked_at_any_moment(hub, repo_id, saved_bundle, later_files, tmp_path, caplog):
    """From the n-th request on every answer is 401, for every n."""
    folder = unlike_any(later_files, tmp_path / "my bundle")
    before, seen = seed(hub, repo_id, saved_bundle), set()
    for n in range(1, 99):
        hub.reset()
        hub.fail("*", "^/(api|alice)", nth=n, times=999, status=401)
        try:
            push(folder, repo_id)
            break
        except HubError as error:
            assert STATUS[401] in str(error) and "to go on:" in str(error)
            assert_no_leak(hub, str(error), caplog.text)
        seen.add("before" if shown(hub, repo_id) == before else "after")
        assert shown(hub, repo_id) in (before, expected(folder, repo_id))
    assert n > 10 and seen == {"before", "after"} and len(hub.history(repo_id)) == 3


def test_a_real_revocation(hub, repo_id, saved_bundle, folder, caplog, monkeypatch):
    before = seed(hub, repo_id, saved_bundle)
    check_publish(repo_id)
    monkeypatch.delitem(hub.tokens, "hf_test")
    assert STATUS[401] in refused(hub, folder, repo_id, caplog)
    monkeypatch.undo()
    assert shown(hub, repo_id) == before


def test_offline_says_so(hub, repo_id, folder, caplog, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set; unset it" in refused(hub, folder, repo_id, caplog)
    assert not hub.calls()


# Two at once.


def test_somebody_else_was_quicker(hub, repo_id, saved_bundle, later_files, tmp_path, caplog):
    """Their commit arrives while ours is on its way: theirs stays, ours is refused and not lost."""
    mine, theirs = (unlike_any(later_files, tmp_path / name) for name in ("mine", "my bundle"))
    seed(hub, repo_id, saved_bundle)
    gate, said = Gate("POST", "/commit/"), []
    hub.faults.append(gate)

    def push_mine():
        with pytest.raises(HubError) as caught:
            push(mine, repo_id)
        said.append(str(caught.value))

    thread = threading.Thread(target=push_mine)
    thread.start()
    assert gate.reached.wait(60)
    done = push(theirs, repo_id)
    gate.opened.set()
    thread.join()
    assert f"somebody else published to '{repo_id}' meanwhile, commit {done.commit[:12]}" in said[0] and "to go on:" in said[0]
    assert shown(hub, repo_id) == expected(theirs, repo_id) and len(hub.history(repo_id)) == 3
    push(mine, repo_id)
    assert shown(hub, repo_id) == expected(mine, repo_id)


@pytest.mark.filterwarnings("ignore:.*trying again in")
def test_four_at_once_leave_whole_versions_only(hub, repo_id, later_files, tmp_path):
    folders = [unlike_any(later_files, tmp_path / str(i)) for i in range(4)]
    check_publish(repo_id)
    won = []

    def attempt(folder):
        try:
            won.append(push(folder, repo_id).commit)
        except HubError as error:
            assert "somebody else published" in str(error) or "409" in str(error), error

    threads = [threading.Thread(target=attempt, args=(folder,)) for folder in folders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    whole = [expected(folder, repo_id, beside={}) for folder in folders]
    versions = [commit["oid"] for commit in hub.history(repo_id)[:-1]]
    assert versions and all(shown(hub, repo_id, version) in whole for version in versions)
    assert len(versions) == len(set(versions)) <= 4 and set(won) <= set(versions)


# Killed.


@pytest.mark.parametrize("phase", ["xet data", "commit"])
def test_killed_on_the_way_and_run_again(phase, hub, repo_id, saved_bundle, folder):
    before = seed(hub, repo_id, saved_bundle)
    here = contents(folder)
    gate = Gate(*PHASES[phase])
    hub.faults.append(gate)
    arguments = [sys.executable, "-m", "sae_audio", "push", str(folder), repo_id]
    with subprocess.Popen(arguments, cwd=ROOT, env=command_environment(), stderr=subprocess.DEVNULL) as process:
        assert gate.reached.wait(60)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    gate.opened.set()  # the server does, or drops, what it had received
    assert wait_until(lambda: hub.calls(*PHASES[phase]))
    assert shown(hub, repo_id) in (before, expected(folder, repo_id)) and contents(folder) == here
    assert_the_command_goes_on(hub, repo_id, folder)


@pytest.mark.filterwarnings("ignore:.*trying again in")
def test_a_manifest_damaged_on_the_way_is_fetched_again(hub, repo_id, saved_bundle, folder, no_wait):
    seed(hub, repo_id, saved_bundle)
    injected = hub.fail("GET", r"/resolve/.*manifest\.json", corrupt=True)
    push(folder, repo_id)
    assert injected.seen > 1 and sum(no_wait) > 0 and shown(hub, repo_id) == expected(folder, repo_id)


# What was sent is compared.


def test_the_comparison_finds_what_differs(hub, repo_id, saved_bundle, folder):
    done = push(folder, repo_id)
    target = publish.Destination(repo_id, None, HfApi(), False)
    here = expected(folder, repo_id, beside={})
    publish._compare(target, here, done.commit)
    for name in ("metrics.json", "sae.safetensors"):  # git's sha1 of a small file, sha256 of a large one
        changed = {**here, name: here[name][:-1] + bytes([here[name][-1] ^ 1])}
        with pytest.raises(HubError, match=rf"holds another {name} than was sent"):
            publish._compare(target, changed, done.commit)
    with pytest.raises(HubError, match=r"holds another figures/a\.png than was sent"):
        publish._compare(target, {**here, "figures/a.png": b"png"}, done.commit)
    assert json.loads(here[MANIFEST])["files"].keys() == here.keys() - {MANIFEST}
