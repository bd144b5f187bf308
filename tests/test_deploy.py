"""The app as a Space: what is sent, in one commit, through the loopback Hub; its settings, its requirements and the workflows."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from hub_server import SPACE_COLORS, Token
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version
from tiny_bundle import tiny_bundle

from sae_audio import cli
from sae_audio.deploy import checked_card, deploy_space, space_files
from sae_audio.errors import HubError, ParameterError

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
ZEROGPU_TORCH = {"2.8.0", "2.9.1", "2.10.0", "2.11.0"}  # the Hub's documentation, August 2026
ZEROGPU_PYTHON = {"3.10", "3.12"}

SENT = {
    "README.md": (ROOT / "README.md").read_bytes(),
    "LICENSE": b"Apache",
    "app.py": b"print('app')\n",
    "requirements.txt": (ROOT / "requirements.txt").read_bytes(),
    "checkpoints/etude/sae.safetensors": bytes(range(256)) * 8,
    "checkpoints/etude/README.md": b"card",
    "sae_audio/__init__.py": b"",
    "sae_audio/py.typed": b"",
    "ui/page.py": b"import gradio\n",
    "ui/assets/clip.flac": b"fLaC\0\0",
}
KEPT_BACK = (
    *("train.py", "tests/test_x.py", "runs/a/config.json", "experiments/e.py", "benchmarks/b.py", "pyproject.toml", ".env"),
    *(
        ".git/config",
        "ui/.DS_Store",
        "ui/__pycache__/page.pyc",
        "sae_audio/x.pyc",
        "checkpoints/own/sae.safetensors",
        "checkpoints/etude.work/latents/shard.safetensors",
    ),
)


def write(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def clone(tmp_path):
    """A clone, with everything in it that people have in theirs."""
    return write(tmp_path / "clone", {**SENT, **dict.fromkeys(KEPT_BACK, b"private")})


def shown(hub, repo_id):
    names = set(hub.files(repo_id, repo_type="space")) - {".gitattributes"}
    return {name: hub.read(repo_id, name, repo_type="space") for name in names}


# What is sent ------------------------------------------------------------------------------------------------------------------


def test_exactly_the_app_goes_up_in_one_commit(clone, hub, repo_id, transfer):
    done = deploy_space(repo_id, folder=clone)
    assert shown(hub, repo_id) == SENT
    assert hub.history(repo_id, repo_type="space")[0]["oid"] == done.commit
    assert len(hub.history(repo_id, repo_type="space")) == 2  # the Hub's own first one, and this
    assert (done.files, done.removed, done.bundle) == (len(SENT), 0, None) and done.url.endswith(f"/spaces/{repo_id}")
    made = hub.repo(repo_id, "space")
    assert (made["sdk"], made["private"], made["hardware"]) == ("gradio", False, "cpu-basic")


def test_again_sends_what_changed_and_removes_what_is_gone(clone, hub, repo_id):
    first = deploy_space(repo_id, folder=clone)
    assert deploy_space(repo_id, folder=clone).commit == first.commit
    hub.seed(repo_id, {"notes.txt": b"somebody's own", "ui/stale.py": b""}, "space")
    (clone / "ui" / "page.py").write_bytes(b"changed\n")
    (clone / "ui" / "assets" / "clip.flac").unlink()
    done = deploy_space(repo_id, folder=clone)
    wanted = {**SENT, "ui/page.py": b"changed\n", "notes.txt": b"somebody's own"}
    del wanted["ui/assets/clip.flac"]
    assert shown(hub, repo_id) == wanted and done.removed == 2
    assert len(hub.history(repo_id, repo_type="space")) == 4


def test_this_clone_sends_all_that_is_tracked_and_no_more():
    sent = set(space_files(ROOT))
    tops = {name.split("/")[0] for name in sent}
    assert tops == {"README.md", "LICENSE", "app.py", "requirements.txt", "checkpoints", "sae_audio", "ui"}
    shipped = {name.split("/")[1] for name in sent if name.startswith("checkpoints/")}
    assert shipped == {"etude", "etude-codec", "etude-flow"}
    assert not [name for name in sent if "__pycache__" in name or name.endswith(".pyc") or "/." in name]
    listed = subprocess.run(["git", "ls-files", *sorted(tops)], cwd=ROOT, capture_output=True, text=True, check=False)
    tracked = {name for name in listed.stdout.splitlines() if (ROOT / name).is_file()}
    assert tracked <= sent
    assert sum(path.stat().st_size for path in space_files(ROOT).values()) < 100e6


def test_a_bundle_is_named_in_variables_and_metadata(clone, hub, repo_id, tmp_path, capsys):
    bundle = f"{repo_id}-sae"
    commit = hub.seed(bundle, tiny_bundle().save(tmp_path / "bundle"), private=True)
    assert cli.main(["deploy-space", repo_id, "--folder", str(clone), "--bundle", bundle, "--private"]) == 0
    out = capsys.readouterr().out
    assert f"it shows {bundle}@{commit}" in out and "give the Space a secret HF_TOKEN" in out
    space = hub.repo(repo_id, "space")
    assert space["variables"] == {"BUNDLE": bundle, "BUNDLE_REVISION": commit} and space["private"]
    front, body = re.fullmatch(r"---\n(.*?)\n---\n(.*)", shown(hub, repo_id)["README.md"].decode(), re.DOTALL).groups()
    own_front, own_body = re.fullmatch(r"---\n(.*?)\n---\n(.*)", SENT["README.md"].decode(), re.DOTALL).groups()
    assert yaml.safe_load(front) == {**yaml.safe_load(own_front), "models": [bundle]}
    assert body.strip() == own_body.strip()
    hub.reset()
    assert deploy_space(repo_id, folder=clone, bundle=bundle).closed
    assert not hub.calls("POST", "/variables") and len(hub.history(repo_id, repo_type="space")) == 2


@pytest.mark.filterwarnings("ignore:.*trying again in")
@pytest.mark.parametrize("fault", [{"status": 503}, {"drop": True}, {"lose": True}], ids=str)
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_without_a_bundle_the_space_goes_back_to_the_shipped_one(clone, hub, repo_id, tmp_path, no_wait, capsys, method, fault):
    bundle = f"{repo_id}-sae"
    hub.seed(bundle, tiny_bundle().save(tmp_path / "bundle"))
    deploy = ["deploy-space", repo_id, "--folder", str(clone)]
    assert cli.main([*deploy, "--bundle", bundle]) == 0
    hub.configure(repo_id, "space", variables={**hub.repo(repo_id, "space")["variables"], "DIFFRHYTHM": "somebody's own"})
    capsys.readouterr()
    hub.fail(method, "/variables", **fault)
    assert cli.main(deploy) == 0
    said = "it shows the shipped bundle again: the Space's variables BUNDLE and BUNDLE_REVISION are removed\n"
    assert said in capsys.readouterr().out
    assert hub.repo(repo_id, "space")["variables"] == {"DIFFRHYTHM": "somebody's own"}
    assert shown(hub, repo_id) == SENT  # no `models` in the card
    hub.reset()
    assert cli.main(deploy) == 0
    assert "it shows the shipped bundle\n" in capsys.readouterr().out
    assert not hub.calls("POST", "/variables") + hub.calls("DELETE")


def test_a_token_that_sends_files_only_is_enough_for_the_shipped_bundle(clone, hub, repo_id, tmp_path, capsys):
    hub.fail("GET", "/variables", status=403, times=99)
    assert cli.main(["deploy-space", repo_id, "--folder", str(clone)]) == 0
    assert f"unless {hub.endpoint}/spaces/{repo_id}/settings has a variable BUNDLE" in capsys.readouterr().out
    hub.seed(f"{repo_id}-sae", tiny_bundle().save(tmp_path / "bundle"))
    with pytest.raises(HubError, match=f"answered 403 for Space '{repo_id}': the token may not do this"):
        deploy_space(repo_id, folder=clone, bundle=f"{repo_id}-sae")


def test_dry_run_sends_nothing(clone, hub, capsys):
    assert cli.main(["deploy-space", "alice/app", "--folder", str(clone), "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert set(lines[:-2]) == set(SENT) and lines[-2] == "alice/app would show the shipped bundle"
    assert lines[-1].endswith("nothing was sent") and not hub.calls()


@pytest.mark.filterwarnings("ignore:.*trying again in")
def test_dry_run_says_which_bundle_would_be_shown(clone, hub, repo_id, tmp_path, capsys, monkeypatch, no_wait):
    commit = hub.seed(repo_id, tiny_bundle().save(tmp_path / "bundle"))
    hub.seed(f"{repo_id}-model", {"README.md": "a model"})
    command = ["deploy-space", "alice/app", "--folder", str(clone), "--dry-run", "--bundle"]
    assert cli.main([*command, repo_id]) == 0
    assert capsys.readouterr().out.splitlines()[-2] == f"alice/app would show {repo_id}@{commit}"
    refused = {f"{repo_id}-model": "is no sae_audio bundle", "alice/nothing": "the Hub has no", "x y": "user/name"}
    for name, reason in refused.items():
        assert cli.main([*command, name]) == 2
        out, err = capsys.readouterr()
        assert out == "" and reason in err and err.count("\n") == 1
    hub.fail("GET", "/api/models/", drop=True, times=99)
    assert cli.main([*command, repo_id]) == 0
    told = capsys.readouterr().out.splitlines()[-2]
    assert told.startswith(f"alice/app would show {repo_id}, if it is there: the Hub could not be reached")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert cli.main([*command, repo_id]) == 0 and "HF_HUB_OFFLINE is set" in capsys.readouterr().out
    assert not hub.calls("POST") and hub.repo("alice/app", "space") is None


# What is refused, and what breaks ----------------------------------------------------------------------------------------------


def test_a_free_account_is_told_what_it_can_do(clone, hub, repo_id, monkeypatch, capsys):
    monkeypatch.setitem(hub.tokens, "hf_free", Token("alice", pro=False))
    monkeypatch.setenv("HF_TOKEN", "hf_free")
    assert cli.main(["deploy-space", repo_id, "--folder", str(clone)]) == 2
    said = capsys.readouterr().err
    assert "402" in said and "add --hardware zero-a10g" in said and said.count("\n") == 1
    assert hub.repo(repo_id, "space") is None
    deploy_space(repo_id, folder=clone, hardware="zero-a10g")
    assert hub.repo(repo_id, "space")["hardware"] == "zero-a10g"
    assert deploy_space(repo_id, folder=clone).removed == 0  # a Space that exists is not paid for again


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("short_description: ", f"short_description: {'x' * 60}", '"short_description" length must be less than or equal to 60'),
        ("colorFrom: indigo", "colorFrom: orange", '"colorFrom" must be one of'),
    ],
)
def test_settings_that_the_hub_refuses_make_no_space(clone, hub, repo_id, old, new, message):
    (clone / "README.md").write_text(SENT["README.md"].decode().replace(old, new, 1))
    with pytest.raises(HubError, match=f"refuses the front matter of README.md: {message}"):
        deploy_space(repo_id, folder=clone)
    assert hub.repo(repo_id, "space") is None


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("README.md", "sdk_version: ", "sdk_version: 1", r"sdk_version: 16\..*, requirements.txt gradio==6\..*make them agree"),
        ("README.md", "app_file: app.py", "app_file: main.py", "app_file: main.py; it must be gradio and a file that is sent"),
        ("README.md", "sdk: gradio", "sdk: docker", "sdk: docker"),
        ("README.md", "---\n", "", "has no front matter"),
    ],
)
def test_settings_that_do_not_fit_the_files_are_refused_here(clone, hub, name, old, new, message):
    (clone / name).write_text((clone / name).read_text().replace(old, new, 1))
    with pytest.raises(ParameterError, match=message):
        deploy_space("alice/app", folder=clone)
    assert not hub.calls()


@pytest.mark.parametrize("name", ["app", "a/b/c"])
@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_a_name_without_its_user_makes_no_space(clone, hub, capsys, name, dry):
    assert cli.main(["deploy-space", name, "--folder", str(clone), *dry]) == 2
    assert capsys.readouterr().err == f"error: '{name}' is not the name of a Space; give user/space\n" and not hub.calls()


def test_a_folder_that_is_no_clone_is_refused(tmp_path):
    with pytest.raises(ParameterError, match=r"has no README.md, app.py, requirements.txt, sae_audio, ui; run from a clone"):
        space_files(tmp_path)


def test_whoever_may_not_is_told_so(clone, hub, repo_id, monkeypatch):
    with pytest.raises(HubError, match="may not do this"):
        deploy_space(f"bob/{repo_id.split('/')[1]}", folder=clone)
    with pytest.raises(HubError, match=r"has no .*manifest.json"):
        hub.seed(repo_id, {"README.md": "a model"})
        deploy_space(repo_id, folder=clone, bundle=repo_id)
    deploy_space(repo_id, folder=clone)
    with pytest.raises(HubError, match="exists and is public"):
        deploy_space(repo_id, folder=clone, private=True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set"):
        deploy_space(repo_id, folder=clone)


@pytest.mark.parametrize("fault", [{"status": 503}, {"status": 500}, {"drop": True}, {"lose": True}], ids=str)
@pytest.mark.parametrize("path", ["/commit/", "/repos/create", "/preupload/"])
def test_after_a_fault_there_is_one_whole_version(clone, hub, repo_id, no_wait, path, fault, recwarn):
    hub.fail("POST", path, **fault)
    done = deploy_space(repo_id, folder=clone)
    history = hub.history(repo_id, repo_type="space")
    assert shown(hub, repo_id) == SENT and len(history) == 2 and history[0]["oid"] == done.commit


def test_a_gitignore_in_the_space_is_noticed(clone, hub, repo_id):
    deploy_space(repo_id, folder=clone)
    hub.seed(repo_id, {".gitignore": "*.safetensors\n"}, "space")
    write(clone, {"checkpoints/etude/atlas.safetensors": bytes(range(256))})
    with pytest.raises(HubError, match=r"lacks checkpoints/etude/atlas.safetensors after the commit: it has a .gitignore"):
        deploy_space(repo_id, folder=clone)


# The README's settings and the requirements -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def settings():
    return yaml.safe_load((ROOT / "README.md").read_text().split("---\n")[1])


@pytest.fixture(scope="module")
def pins():
    """Versions that requirements.txt pins, by package."""
    lines = [line.split("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines()]
    requirements = [Requirement(line) for line in lines if line]
    assert len({r.name for r in requirements}) == len(requirements), "a package is listed twice"
    return {r.name: str(r.specifier).removeprefix("==") for r in requirements}


def test_the_hub_accepts_the_settings_of_this_space(hub):
    card = checked_card(space_files(ROOT))
    card.validate(repo_type="space")
    assert hub.calls("POST", "/api/validate-yaml")[0]["status"] == 200


def test_the_settings_are_within_the_hubs_limits(settings, pins):
    assert settings["sdk"] == "gradio" and settings["sdk_version"] == pins["gradio"]
    assert len(settings["short_description"]) <= 60
    assert {settings["colorFrom"], settings["colorTo"]} <= set(SPACE_COLORS)
    assert settings["python_version"] in ZEROGPU_PYTHON and pins["torch"] in ZEROGPU_TORCH
    assert (ROOT / settings["app_file"]).is_file()


def test_requirements_agree_with_the_package(settings, pins):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert Version(settings["python_version"]) in SpecifierSet(project["requires-python"])
    extras = project["optional-dependencies"]
    needed = [Requirement(text) for text in (*project["dependencies"], *extras["models"], *extras["plots"], *extras["app"])]
    for requirement in needed:
        if requirement.name != project["name"]:
            assert requirement.specifier.contains(pins[requirement.name]), requirement
    assert pins["torchaudio"] == pins["torch"]


def test_the_change_log_names_the_version():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()


# Workflows --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_parse_and_name_what_exists(path):
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {"contents": "read"} and workflow["jobs"]
    named = re.findall(r"(?:\./)?(\.github/workflows/[\w.-]+|\.ci/\w+|requirements[\w-]*\.txt|\w+\.py)\b", path.read_text())
    assert named and all((ROOT / name).is_file() for name in named)
    for job in workflow["jobs"].values():
        for step in job.get("steps", []):
            assert ("uses" in step) != ("run" in step)
            assert re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step.get("uses", "actions/checkout@v5"))
    assert "secrets." not in path.read_text()


def test_the_space_is_synced_after_the_tests_without_a_stored_token():
    files = {path.name: yaml.safe_load(path.read_text()) for path in WORKFLOWS}
    matrix = files["tests.yml"]["jobs"]["test"]["strategy"]["matrix"]["python"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    classified = {c.split(" :: ")[-1] for c in project["classifiers"] if re.search(r":: 3\.\d+$", c)}
    assert set(matrix) == classified
    assert ".ci/run" in [step.get("run") for step in files["tests.yml"]["jobs"]["test"]["steps"]]
    jobs = files["hub-sync.yml"]["jobs"]
    assert jobs["test"]["uses"] == "./.github/workflows/tests.yml" and jobs["space"]["needs"] == "test"
    assert jobs["space"]["permissions"]["id-token"] == "write"
    assert jobs["space"]["env"]["HF_OIDC_RESOURCE"] == "spaces/${{ vars.HF_SPACE }}"
    commands = [step["run"] for step in jobs["space"]["steps"] if "run" in step]
    assert commands[1].startswith("python -m sae_audio deploy-space") and commands[2].startswith("hf spaces wait")
    cli._parser().parse_args(["deploy-space", "user/space"])


def test_a_hub_that_answers_nonsense_about_the_settings_is_told_in_one_line(hub, repo_id, clone):
    hub.fail("POST", "/api/validate-yaml", status=400, message="<html>")
    with pytest.raises(HubError) as caught:
        deploy_space(repo_id, folder=clone)
    assert "\n" not in str(caught.value) and hub.repo(repo_id, "space") is None
