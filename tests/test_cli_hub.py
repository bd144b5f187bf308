"""Publishing and pulling as people do it: commands, the shipped bundle, train.py, and what a card tells to copy and paste."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hub_bundles import command_environment, contents, expected, seed, shown
from huggingface_hub import snapshot_download
from huggingface_hub.utils import disable_progress_bars
from tiny_models import tiny_etude

from sae_audio import cli
from sae_audio.bundle import Bundle
from sae_audio.sealed import reseal

ROOT = Path(__file__).parent.parent
SHIPPED = ROOT / "checkpoints" / "etude"
sys.path.insert(0, str(ROOT))
import train  # noqa: E402

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def folder(saved_bundle):
    """A saved bundle."""
    return saved_bundle


@pytest.fixture(scope="module")
def tone(tmp_path_factory):
    """Half a second of a harmonic A3."""
    t = np.arange(8_000) / 16_000
    path = tmp_path_factory.mktemp("sound") / "sound.wav"
    soundfile.write(path, sum(np.sin(2 * np.pi * 220 * k * t) / k for k in range(1, 9)) * 0.1, 16_000)
    return path


def call(capsys, *arguments):
    """Run the command line in this process; returns exit code, stdout and stderr."""
    code = cli.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert_no_leak_in(out + err)
    return code, out, err


def assert_no_leak_in(text):
    assert "hf_test" not in text and "sig=" not in text


def fails(capsys, *arguments):
    """A command that fails as a user's mistake: one line, which is returned."""
    code, out, err = call(capsys, *arguments)
    assert (code, out) == (2, "") and err.startswith("error: ") and err.count("\n") == 1, err
    return err


def test_push_pull_verify(hub, repo_id, folder, tmp_path, capsys):
    code, out, err = call(capsys, "push", folder, repo_id, "--private")
    commit = hub.history(repo_id)[0]["oid"]
    assert (code, err) == (0, "") and shown(hub, repo_id) == expected(folder, repo_id, beside={})
    assert out.splitlines() == [
        f"published {hub.endpoint}/{repo_id} (private), tagged format-1",
        f"commit {commit}: 13 files sent; every file there has the sha256 that the manifest lists",
        f'anyone with access loads it with Bundle.from_pretrained("{repo_id}")',
    ]
    assert "all of it was there already" in call(capsys, "push", folder, repo_id)[1]

    copy = tmp_path / "bundles" / "copy"  # as in the README: there need be no folder bundles
    code, out, err = call(capsys, "pull", repo_id, "-o", copy)
    assert (code, err) == (0, "") and contents(copy) == shown(hub, repo_id)
    assert out.splitlines() == [
        f"{repo_id} at commit {commit}: 13 files, 0.1 MB, each as its manifest says",
        f"{copy}",
    ]
    code, out, _ = call(capsys, "pull", repo_id, "--revision", "format-1")
    assert code == 0 and contents(Path(out.splitlines()[1])) == shown(hub, repo_id)

    for source in (repo_id, copy):
        code, out, err = call(capsys, "verify", source)
        assert (code, err) == (0, "") and out.startswith(str(source)) and "each as its manifest says (format 1)" in out
        assert out.splitlines()[1] == "loads: topk SAE of 16 features on 'etude-codec' (mean), 6 probes, 5 controls"


def test_pull_replaces_a_download_and_nothing_else(hub, repo_id, folder, tmp_path, capsys):
    seed(hub, repo_id, folder)
    hub.seed(repo_id, {"README.md": "newer"})
    copy = tmp_path / "copy"
    snapshot_download(repo_id, revision=hub.history(repo_id)[1]["oid"], local_dir=copy)  # with LICENSE and samples
    assert (copy / ".cache" / "huggingface").is_dir() and (copy / ".gitattributes").is_file()
    assert "LICENSE, which is no part of a bundle and would be lost" in fails(capsys, "pull", repo_id, "-o", copy)
    for name in ("LICENSE", "samples/demo.wav"):
        (copy / name).unlink()
    (copy / ".cache" / "mine").write_text("precious")
    assert ".cache/mine, which is no part" in fails(capsys, "pull", repo_id, "-o", copy)
    (copy / ".cache" / "mine").unlink()
    assert call(capsys, "pull", repo_id, "-o", copy)[0] == 0
    assert (copy / "README.md").read_text() == "newer" and Bundle.from_pretrained(copy)
    assert contents(copy).keys() == contents(folder).keys()


def test_an_edited_card_is_told_once(hub, repo_id, folder, tmp_path, capsys):
    mine = tmp_path / "mine"
    Bundle.from_pretrained(folder).save(mine)
    (mine / "README.md").write_text("---\nlicense: mit\n---\nmy words\n")
    said = f"warning: {mine}/README.md was edited after the bundle was made; the rest is as its manifest says\n"
    code, out, err = call(capsys, "verify", mine)
    assert (code, err) == (0, said) and "each but README.md as its manifest says" in out
    code, _, err = call(capsys, "push", mine, repo_id)
    assert (code, err) == (0, said)
    hub.seed(repo_id, {"README.md": "changed on the page"})
    for command in ("verify", "pull"):
        code, out, err = call(capsys, command, repo_id)
        assert code == 0 and err.count("warning") == err.count("\n") == 1 and "each but README.md as its manifest" in out


LIGHT = """
import sys
from sae_audio import cli
code = cli.main(sys.argv[1:])
print("torch" in sys.modules)
sys.exit(code)
"""


@pytest.mark.parametrize("command", ["search", "pull ID", "push NOTHING ID", "deploy-space alice/app --dry-run --bundle ID"])
def test_commands_that_compute_nothing_start_at_once(hub, repo_id, folder, command):
    """Without torch, which takes seconds to import."""
    seed(hub, repo_id, folder)
    arguments = command.replace("ID", repo_id).split()
    environment = command_environment()
    done = subprocess.run([sys.executable, "-c", LIGHT, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == (2 if "NOTHING" in command else 0), done.stderr
    assert done.stdout.splitlines()[-1] == "False"


def test_a_branch(hub, repo_id, folder, capsys):
    code, out, _ = call(capsys, "push", folder, repo_id, "--revision", "dev")
    assert code == 0 and "(public), on branch dev" in out and f'from_pretrained("{repo_id}", revision="dev")' in out
    assert len(hub.history(repo_id)) == 1
    assert call(capsys, "verify", repo_id, "--revision", "dev")[0] == 0
    assert "is not a sae_audio bundle" in fails(capsys, "verify", repo_id)


def test_what_fails_fails_in_one_line(hub, repo_id, folder, tmp_path, capsys, monkeypatch):
    assert "there is no folder" in fails(capsys, "push", tmp_path / "nothing", repo_id)
    monkeypatch.chdir(tmp_path)
    assert "there is no folder" in fails(capsys, "push", "alice/nothing", repo_id)  # not taken for a Hub id
    assert hub.repo(repo_id) is None
    assert "user/name" in fails(capsys, "push", folder, "name")
    assert "take one with access to 'bob'" in fails(capsys, "push", folder, "bob/x")
    for command in ("pull", "verify"):
        assert "the Hub has no 'alice/nothing'" in fails(capsys, command, "alice/nothing")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.png").write_bytes(b"png")
    hub.reset()
    assert "would be lost" in fails(capsys, "pull", repo_id, "-o", tmp_path / "photos") and not hub.calls()
    assert "is a local path, which has no revision" in fails(capsys, "verify", folder, "--revision", "dev")
    with pytest.raises(SystemExit):
        cli.main(["push", str(folder)])


def test_a_bundle_that_does_not_load_is_not_published(hub, repo_id, folder, tmp_path, capsys):
    """Its hashes fit, its content does not."""
    broken = tmp_path / "broken"
    Bundle.from_pretrained(folder).save(broken)
    values = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(values | {"surprise": 1}))
    reseal(broken)
    assert "surprise" in fails(capsys, "push", broken, repo_id) and "surprise" in fails(capsys, "verify", broken)
    assert hub.repo(repo_id) is None


def test_verify_names_what_is_damaged(hub, repo_id, folder, tmp_path, capsys):
    seed(hub, repo_id, folder)
    hub.seed(repo_id, {"probes.safetensors": b"x", "atlas.json": b"{}"})
    said = fails(capsys, "verify", repo_id)
    assert "atlas.json, probes.safetensors" in said and "ask its author" in said


@pytest.mark.filterwarnings("ignore")
def test_the_printed_command_goes_on(hub, repo_id, folder, tmp_path, capsys):
    mine = tmp_path / "my bundle"
    Bundle.from_pretrained(folder).save(mine)
    hub.fail("POST", "/commit/", status=403)
    said = fails(capsys, "push", mine, repo_id, "--private", "--revision", "dev")
    command = said.strip().split("to go on: ")[1]
    assert command.endswith(f" push '{mine}' {repo_id} --private --revision dev")
    done = subprocess.run(
        command.replace("python", sys.executable, 1),
        shell=True,
        cwd=ROOT,
        env=command_environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr  # no bars where nobody watches
    assert shown(hub, repo_id, "dev") == expected(mine, repo_id, "dev", beside={})


# Everything with a bundle takes a Hub id. These use the shipped bundle, whose codec is there.


@pytest.fixture(scope="module")
def published(request, tmp_path_factory):
    """The shipped bundle on the Hub."""
    from sae_audio.hub import push

    disable_progress_bars()
    return push(SHIPPED, "alice/etude").url.split("/", 3)[3]


COMMANDS = {
    "analyse": ["analyse", "SOUND", "--bundle", "ID"],
    "steer": ["steer", "SOUND", "--loudness", "-3", "--bundle", "ID", "-o", "OUT.wav"],
    "eval": ["eval", "ID", "--audio", "SOUND"],
    "generate": [
        "generate",
        "--seconds",
        "0.5",
        "--steps",
        "3",
        "--cfg",
        "0",
        "--steer",
        "loudness=-6",
        "--bundle",
        "ID",
        "-o",
        "OUT.wav",
    ],
    "trace": ["trace", "--seconds", "0.5", "--steps", "3", "--cfg", "0", "--listen", "1", "--bundle", "ID", "--out", "OUT"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_a_hub_id(command, hub, published, tone, tmp_path, capsys):
    words = {"SOUND": str(tone), "ID": published, "OUT.wav": str(tmp_path / "out.wav"), "OUT": str(tmp_path / "out")}
    arguments = [words.get(word, word) for word in COMMANDS[command]]
    code, out, err = call(capsys, *arguments, "--revision", "format-1")
    assert code == 0, err
    assert all(f"--bundle {published} --revision format-1" in line for line in out.splitlines() if line.startswith("next:"))
    assert hub.calls("GET", "/revision/format-1")


def test_the_commands_of_a_card_run(hub, published, tone, capsys, monkeypatch):
    card = hub.read(published, "README.md").decode()
    assert "FOLDER" not in card
    python, shell = re.findall(r"```(?:python)?\n(.*?)```", card.split("## Use")[1], re.S)[:2]
    monkeypatch.chdir(tone.parent)
    exec(python, {})
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 5 and re.fullmatch(r"\d+ \S.*", printed[0])
    lines = shell.strip().splitlines()
    assert len(lines) == 2 and all(line.startswith("python -m sae_audio ") for line in lines)
    for line in lines:
        assert call(capsys, *line.split()[3:])[0] == 0
    assert (tone.parent / "steered.wav").exists()


# The main job.


@pytest.fixture
def job(tmp_path):
    """Arguments of a main job that takes seconds."""
    model = tiny_etude(tmp_path / "model")
    small = ["--minutes", "1", "--steps", "5", "--d-sae", "32", "--k", "4", "--control-clips", "1", "--batch-size", "256"]
    return ["--source", str(model), *small, "--device", "cpu", "--out", str(tmp_path / "out")]


def trained(capsys, *arguments):
    """Run train.py in this process; returns exit code, stdout and stderr."""
    code = cli.guarded(lambda: train.main(train.parse([*arguments])), debug=True)
    out, err = capsys.readouterr()
    assert_no_leak_in(out + err)
    return code, out, err


@pytest.mark.filterwarnings("ignore")
def test_what_train_could_not_publish_is_kept_and_goes_on(hub, repo_id, job, tmp_path, capsys):
    hub.fail("POST", "/commit/", status=403)
    code, out, err = trained(capsys, *job, "--push-to-hub", repo_id, "--private", "--revision", "dev")
    assert code == 2 and "the token may not do this" in err
    assert out.splitlines()[0] == f"token and repository are fine: the bundle can go to {repo_id}"
    assert f"saved {tmp_path / 'out'}" in out and Bundle.from_pretrained(tmp_path / "out")
    assert len(hub.history(repo_id, "dev")) == 1 and hub.repo(repo_id)["private"]
    command = err.strip().split("sae_audio ")[-1].split()
    assert command == ["push", str(tmp_path / "out"), repo_id, "--private", "--revision", "dev"]
    assert call(capsys, *command)[0] == 0
    assert shown(hub, repo_id, "dev") == expected(tmp_path / "out", repo_id, "dev", beside={})
    kept = json.loads((tmp_path / "out.work" / "config.json").read_text())
    assert not {"push_to_hub", "private", "revision"} & kept.keys()  # --config does not publish again


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_train_publishes(hub, repo_id, job, tmp_path, capsys):
    hub.fail("POST", "/commit/", lose=True)
    code, out, err = trained(capsys, *job, "--push-to-hub", repo_id)
    assert code == 0 and out.rstrip().endswith(f'anyone loads it with Bundle.from_pretrained("{repo_id}")'), err
    assert shown(hub, repo_id) == expected(tmp_path / "out", repo_id, beside={}) and len(hub.history(repo_id)) == 2


REFUSED = {
    "the token may not do this": (["--push-to-hub", "bob/x"], {}),
    "it does not accept the token": (["--push-to-hub", "alice/x"], {"HF_TOKEN": "hf_nonsense"}),
    "cannot be the name": (["--push-to-hub", "alice/with space"], {}),
    "is not the name of a repository to publish to; give user/name": (["--push-to-hub", "x"], {}),
    "give --push-to-hub USER/NAME too": (["--revision", "dev"], {}),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_be_published_is_told_before_any_work(reason, hub, job, tmp_path, capsys, monkeypatch):
    arguments, environment = REFUSED[reason]
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    code, out, err = trained(capsys, *job, *arguments)
    assert (code, out) == (2, "") and reason in err and err.count("\n") == 1, err
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.work").exists()
