"""A stranger's first hour: every command and every code block of the README runs as it stands, each in a home of its own.

Public models are tiny ones under their public names on the loopback Hub. What only takes long is made small by options that are
added behind the README's own; nothing is left out but the installation itself, which `.ci/run` does.
"""

import io
import os
import re
import runpy
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import numpy as np
import paper_folders
import pytest
import soundfile
import torch
from hub_bundles import seed
from hub_server import Token
from test_datasets import parquet
from tiny_models import BUILDERS

from experiments._demo import SINGERS
from experiments._voice import write_corpus
from sae_audio.diffrhythm.dit import DiT, DiTConfig
from sae_audio.etude.corpus import corpus
from sae_audio.latent_spaces import SPACES

ROOT = Path(__file__).parent.parent
SHIPPED = ROOT / "checkpoints" / "etude"
README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^    ((?:[A-Z_]+=\S+ )*(?:python|accelerate|hf) .+?)(?:  +#.*)?$", README, re.MULTILINE)
PYTHON = re.findall(r"```python\n(.+?)```", README, re.DOTALL)
PROGRAMS = sorted(set(re.findall(r"`python -m ((?:benchmarks|experiments|sae_audio)\.[\w.]+)((?: [^`]*)?)`", README)))

SMALL_STUDY = "--partial --seconds 0.3 --seeds 1 --sparsity 0.9 --d-sae 32 --sae-epochs 2 --sae-steps 5 --out results"
SMALL = {
    "train.py": "--steps 5 --d-sae 32 --k 4 --control-clips 1 --batch-size 256 --stability-seeds 0 --device cpu",
    "sae_audio generate": "--steps 3",
    "sae_audio trace": "--steps 3 --seconds 1",
    "sae_audio eval": "--minutes 1",
    "--tracker crepe": "--tracker yin",
    "--space diffrhythm-vae": "--source-revision main",
    "experiments.decodability --mode": "--widths 2 --l1 0.05 --seeds 1 --steps 3 --batch-size 256 --device cpu",
    "experiments.control --bundle": "--clips 1 --device cpu",
    "experiments.emergence --model": "--model DiffRhythm-1_2 --prompts 1 --steps 3 --seconds 0.4 --device cpu",
    "experiments.singing --audio": SMALL_STUDY,
    "experiments.disentanglement --audio": SMALL_STUDY,
}
"""Options that make a program's work small, and do without pinned commits and models of their size; the last of two wins."""
PUBLIC = {
    "encodec-24khz": {},
    "diffrhythm-vae": {},
    "ast": {},
    "hubert-base": {},
    "wavlm-base-plus": {"num_hidden_layers": 12},
    "wav2vec2-base": {"num_hidden_layers": 12},
}
"""Models that the commands fetch, and how many layers of them."""
REPOSITORY = {"wav2vec2-base": "facebook/wav2vec2-large"}
"""Where the commands look for them, if not where the table of spaces says."""


def music(folder):
    """Two clips of synthesised music as sound files."""
    folder.mkdir(parents=True)
    for clip in list(corpus(1, 0, "additive"))[:6]:
        soundfile.write(folder / f"speaker{len(list(folder.iterdir())) % 3}-{clip.name}.wav", clip.render()[: 3 * 16_000], 16_000)


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    """What a user has beside the clone: a song, music, models, styles, lyrics, a bundle."""
    home = tmp_path_factory.mktemp("template")
    for name in ("music", "speech"):
        music(home / name)
    clip = next(iter(corpus(1, 1, "additive")))
    soundfile.write(home / "song.wav", clip.render()[: 5 * 16_000], 16_000)
    BUILDERS["stable-audio-vae"](home / "models" / "vae", "stable-audio-vae")
    BUILDERS["stable-audio-vae"](home / "vae", encoder_hidden_size=128, decoder_input_channels=64)  # DiffRhythm's 64 numbers
    np.save(home / "style.npy", np.eye(512, dtype=np.float32)[0])
    np.save(home / "vocal.npy", np.eye(512, dtype=np.float32)[1])
    (home / "song.lrc").write_text("[00:00.10]la la\n", encoding="utf-8")
    return home


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    """Leave out a bundle's figures, which tests/test_cli.py has drawn: they take longer than all the rest."""
    monkeypatch.setattr("sae_audio.recipe.bundle_figures", lambda bundle: {})


def clone(home):
    for entry in ROOT.iterdir():
        if entry.name not in ("runs", "data", "results", ".git"):
            (home / entry.name).symlink_to(entry)


@pytest.fixture
def home(template, tmp_path, monkeypatch):
    """A user's home, which is also where the clone is and where the commands are typed."""
    home = tmp_path / "home"
    shutil.copytree(template, home)
    clone(home)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home)
    return home


@pytest.fixture
def internet(home, hub, template, monkeypatch):
    """The Hub as the commands know it: public models, a data set, a bundle, and somebody who is called user."""
    monkeypatch.setitem(hub.tokens, "hf_user", Token("user"))
    monkeypatch.setenv("HF_TOKEN", "hf_user")
    for name, sizes in PUBLIC.items():
        repo_id, folder = REPOSITORY.get(name, SPACES[name].source), template / "public" / name
        if not folder.exists():
            BUILDERS[name](folder, name, **sizes)
        if hub.repo(repo_id) is None:
            hub.seed(repo_id, folder)
    if hub.repo("ASLP-lab/DiffRhythm-1_2") is None:
        hub.seed("ASLP-lab/DiffRhythm-1_2", {"cfm_model.pt": tiny_diffrhythm(64)})
    for repo_type, name in (("model", "name"), ("model", "bundle"), ("dataset", "name"), ("space", "space")):
        hub.store.repo_path(repo_type, f"user/{name}").unlink(missing_ok=True)
    seed(hub, "user/bundle", SHIPPED)
    return hub


def tiny_diffrhythm(latents):
    """Return a checkpoint in the layout of DiffRhythm 1.2, few layers of few channels, as the bytes of its file."""
    config = DiTConfig(dim=64, depth=2, heads=32, text_dim=16, conv_layers=1, time_dim=16, mel_dim=latents)
    torch.manual_seed(0)
    state = {f"transformer.{key}": value.half() for key, value in DiT(config).state_dict().items()}
    file = io.BytesIO()
    torch.save({"model_state_dict": state}, file)
    return file.getvalue()


def run(words, monkeypatch):
    """Run ``python …`` in this process, as the interpreter would; it has to end well."""
    program = words[1:3] if words[1] == "-m" else words[1:2]
    arguments = words[1 + len(program) :]
    monkeypatch.setattr(sys, "argv", [program[-1], *arguments])
    try:
        if program[0] == "-m":
            runpy.run_module(program[1], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(program[0], run_name="__main__")
    except SystemExit as stop:
        assert not stop.code, words


def made_small(words):
    """The same command with less to do."""
    said = " ".join(words)
    synthesised = "train.py" in words and not {"--audio", "--dataset"} & {*words}
    words = [*words, "--minutes", "1"] if synthesised else words
    return words + [option for name, options in SMALL.items() if f"{name} " in f"{said} " for option in options.split()]


# What the commands of a kind need to find on the Hub or at home.


def needs(command, home, hub):
    if "dataset user/name" in command:
        sounds = [path.read_bytes() for path in sorted((home / "speech").iterdir())]
        speakers = [f"speaker {i % 3}" for i in range(len(sounds))]
        cells = [{"bytes": sound, "path": f"{i}.wav"} for i, sound in enumerate(sounds)]
        hub.seed("user/name", {"data/train-00000-of-00001.parquet": parquet(cells, speaker_id=speakers)}, "dataset")
    if re.search(r"(pull|verify|download) user/name", command):
        seed(hub, "user/name", SHIPPED)
    if "runs/mine" in command and "--out" not in command:
        shutil.copytree(SHIPPED, home / "runs" / "mine")
    if "VOCALSET" in command:
        write_corpus(home / "VOCALSET", SINGERS, vowels="a", seconds=0.4)
    if "FOLDER" in command:
        for label in ("breathy", "straight"):
            shutil.copytree(home / "speech", home / "FOLDER" / label)


@pytest.fixture(scope="session")
def paper(template):
    """Return a function that gives a home where the commands with these outputs were typed, on stand-ins for the corpora."""

    def after(*outputs):
        home = template / "-".join(("paper", *outputs)).replace("/", "-")
        if home.exists():
            return home
        home.mkdir()
        clone(home)
        for name in ("cocochorales", "singing", "groove", "guitarset", "maestro"):
            paper_folders.WRITERS[name](home / "corpora" / ("vocalset" if name == "singing" else name), seconds=0.6)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HOME", str(home))
            patch.chdir(home)
            for command in (command for command in COMMANDS if command.endswith(tuple(f"--out {out}" for out in outputs))):
                run(made_small([os.path.expanduser(word) for word in shlex.split(command)]), patch)
        return home

    return after


def first_paper(command, home, paper):
    """Leave in ``home`` what the commands before this one leave there."""
    before = paper(*(out for out in ("data/paper", "runs/vae") if out in command and not command.endswith(f"--out {out}")))
    for name in ("corpora", "data", "runs"):
        if (before / name).exists():
            shutil.copytree(before / name, home / name, symlinks=True)
    if "emergence" in command:
        (home / "DiffRhythm-1_2").mkdir()
        (home / "DiffRhythm-1_2" / "cfm_model.pt").write_bytes(tiny_diffrhythm(4))  # the tiny autoencoder's four numbers
        (home / "musiccaps-public.csv").write_text("ytid,caption\na,style.npy\n")
        for path in (home / "data" / "paper" / "test").rglob("*.wav"):
            shutil.copy(home / "style.npy", path.with_suffix(".npy"))


# The tests ---------------------------------------------------------------------------------------------------------------------


def test_the_commands_are_found():
    assert len(COMMANDS) >= 30 and len(PYTHON) >= 2 and len(PROGRAMS) >= 8


ALONE = [c for c in COMMANDS if "pip install" not in c and "app.py" not in c and "--demo" not in c]


SLOW = ("accelerate launch", "train.py --space", "--push-to-hub", "experiments.disentanglement")
"""Parts of commands that take longest; test_activations, test_main_job, test_cli_hub, test_disentanglement do that work too."""


@pytest.mark.parametrize("command", [pytest.param(c, marks=[pytest.mark.slow] * any(part in c for part in SLOW)) for c in ALONE])
def test_commands(command, home, internet, paper, monkeypatch):
    needs(command, home, internet)
    if "data/paper" in command:
        first_paper(command, home, paper)
    words = made_small([os.path.expanduser(word) for word in shlex.split(command)])
    if words[0] == "python":
        run(words, monkeypatch)
        return
    if words[0] == "accelerate":
        words = [sys.executable, "-m", "accelerate.commands.launch", *words[2:]]
    words += ["--token", "hf_user"] if "login" in words else []
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | {"HF_HOME": str(home / "hf"), "PATH": PATH})
    assert done.returncode == 0, done.stderr


PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


@pytest.mark.parametrize("command", [c for c in COMMANDS if "pip install" in c])
def test_installations_name_files_that_are_there(command):
    (file,) = re.findall(r"-r (\S+)", command)
    assert (ROOT / file).is_file()
    assert command.split(" && ")[1] in ("python train.py", 'python -m pytest -m "not slow and not gpu"')


@pytest.fixture
def page(home, internet):
    """Start a command that serves the page; yields its address."""
    started = []

    def start(command):
        *settings, _, program = shlex.split(command)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        own = dict(setting.split("=", 1) for setting in settings) | {"GRADIO_SERVER_PORT": str(port), "GRADIO_SSR_MODE": "False"}
        own["GRADIO_TEMP_DIR"] = str(home / "gradio")
        started.append(subprocess.Popen([sys.executable, program], env=os.environ | own))
        url = f"http://127.0.0.1:{port}"
        for _ in range(600):
            assert started[0].poll() is None
            with suppress(OSError), urllib.request.urlopen(url, timeout=60) as answer:
                assert answer.status == 200
                return url
            time.sleep(0.1)
        raise AssertionError(f"{command} did not answer")

    yield start
    for process in started:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


@pytest.mark.parametrize("command", [c for c in COMMANDS if "app.py" in c])
def test_the_page_and_what_calls_it(command, page, home, internet, monkeypatch):
    needs(command, home, internet)
    url = page(command)
    (code,) = (code for code in PYTHON if "gradio_client" in code)
    exec(code.replace("http://127.0.0.1:7860", url), {})


@pytest.mark.parametrize("code", [code for code in PYTHON if "gradio_client" not in code])
def test_python(code, home, internet):
    exec(code, {})


@pytest.mark.parametrize(("program", "arguments"), PROGRAMS)
def test_programs_in_the_text_exist_and_have_these_options(program, arguments, monkeypatch, capsys):
    run(["python", "-m", program, "--help"], monkeypatch)
    said = capsys.readouterr().out
    for option in re.findall(r"--[\w-]+", arguments):
        assert option in said


def test_the_table_of_spaces_is_that_of_the_code():
    rows = dict(re.findall(r"^\| `([\w.-]+)` \| (\d+ \| \d \| [\d.]+ \| \d+ \| [^|]+ \| [^|]+) \|", README, re.MULTILINE))
    for name, row in SPACES.items():
        taps = ", ".join(row.taps) or f"layer 0-{row.layers}"
        rate = f"{row.sample_rate / row.hop_length:.4g}"
        assert rows.pop(name) == f"{row.sample_rate} | {row.channels} | {rate} | {row.d_in} | {taps} | {row.licence}"
    assert not rows
