"""The house of design.md: data flows one way, and `import sae_audio` is light."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "sae_audio"

# The modules of each layer, lowest first; a module imports only from its own layer or below.
LAYERS = (
    "spec errors files console",
    """activity atlas calibration catalogue closed_loop control cores denoising descriptors directions disentanglement
    factors feature_map framing heard inputs intervals markdown metrics naming probes properties property_sets sae spectrum survey
    tally trackers units yin""",
    "activations audio diffrhythm etude fitting hub_client latent_spaces listener training vocalset",
    "bundle bundle_format card card_metadata card_results control_file hub plots sealed traces",
    """__init__ __main__ audition bundle_space cli cli_dataset cli_generate cli_hub cli_moves cli_output cli_request deploy
    evaluation fit_controls flow_steering frames generation generators hub_index moves outcome pipeline pushes readers
    recipe recording report""",
)
LAYER = {name: layer for layer, names in enumerate(LAYERS) for name in names.split()}
# Of latent_spaces: everything else there is an adapter.
SHARED = (
    "base",
    "blocks",
    "loading",
    "oobleck_archive",
    "oobleck_names",
    "oobleck_weights",
    "mert",
    "seanet",
    "signature",
    "table",
    "windows",
    "wavtokenizer_decoder",
    "__init__",
)
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text()
HEAVY = ["gradio", "transformers", "diffusers", "matplotlib", "librosa", "encodec", "huggingface_hub", "sklearn", "datasets"]
HEAVY += ["pyarrow", "numba"]


def module_files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def own_imports(path: Path) -> set[str]:
    """Names of the package's modules that a file imports anywhere, for example {'sae', 'errors'}."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "sae_audio":
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("sae_audio.")}
    return found


def layer_of(path: Path) -> int:
    return LAYER[path.relative_to(PACKAGE).parts[0].removesuffix(".py")]


@pytest.mark.parametrize("path", module_files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    if path == PACKAGE / "__init__.py":
        return
    upward = {name for name in own_imports(path) if LAYER.get(name, 0) > layer_of(path)}
    assert not upward, f"{path.name} (layer {layer_of(path)}) imports from above: {upward}"


def test_every_layer_lists_what_is_there():
    assert LAYER.keys() == {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in module_files()}


def test_adapters_do_not_import_each_other():
    for path in (PACKAGE / "latent_spaces").glob("*.py"):
        if path.stem in SHARED:
            continue
        text = path.read_text()
        others = {p.stem for p in path.parent.glob("*.py")} - {*SHARED, path.stem}
        assert not [other for other in others if f"latent_spaces.{other}" in text]


def test_pure_modules_touch_no_files_and_show_no_progress():
    for path in module_files():
        if layer_of(path) != 1:
            continue
        imported = {
            alias.name.split(".")[0]
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in ([ast.alias(node.module or "")] if isinstance(node, ast.ImportFrom) else node.names)
        }
        assert not imported & {"pathlib", "os", "soundfile", "tqdm", "huggingface_hub", "requests"}, path


def test_few_modules_talk_to_the_hub():
    """hub/ moves bundles; the others fetch public checkpoints and data sets, list bundles, or borrow the client's metadata."""
    others = {"activations/dataset.py", "activations/remote.py", "card_metadata.py", "hub_client.py", "hub_index.py", "deploy.py"}
    talking = {str(path.relative_to(PACKAGE)) for path in module_files() if "import huggingface_hub" in imports_of(path)}
    assert {name for name in talking if not name.startswith("hub/")} <= others


def imports_of(path: Path) -> set[str]:
    """Packages that a file imports anywhere, for example {'import torch'}."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found |= {f"import {name.split('.')[0]}" for name in names}
    return found


def test_the_architecture_names_the_modules_of_every_layer():
    rows = re.findall(r"^\| (\d) [^|]+\| ([^|]+) \|", ARCHITECTURE.replace("\\", ""), re.MULTILINE)
    assert [int(number) for number, _ in rows] == [*range(len(LAYERS) + 1)]
    assert [set(names.split()) for _, names in rows[:-1]] == [set(names.split()) for names in LAYERS]


def test_the_architecture_speaks_of_files_and_names_that_are_there():
    """Paths in backticks, from the root or in the package, and names "of" or "in" one. OUT and NAME are the user's to choose."""
    prose = " ".join(re.sub(r"```.*?```", "", ARCHITECTURE, flags=re.DOTALL).split())
    paths = [path for path in re.findall(r"`([\w./*-]+(?:/|\.\w+))`", prose) if not re.search(r"OUT|NAME", path)]
    assert len(paths) > 60
    assert [path for path in paths if not [*ROOT.glob(path), *PACKAGE.rglob(path)]] == []
    named = re.findall(r"`(\w+)`(?: and `(\w+)`)? (?:of|in) `([\w./]+\.py)`", prose)
    missing = [(name, path) for *names, path in named for name in filter(None, names) if name not in (ROOT / path).read_text()]
    assert len(named) > 15 and missing == []


def test_the_architecture_lists_the_files_of_a_bundle():
    block = ARCHITECTURE.split("## A bundle")[1].split("```")[1]
    patterns = re.findall(r"[\w*/]+\.(?:json|safetensors|md|png)", block)
    bundle = ROOT / "checkpoints" / "etude"
    found = {path for pattern in patterns for path in bundle.glob(pattern)}
    assert found == {path for path in bundle.rglob("*") if path.is_file()} and all([*bundle.glob(p)] for p in patterns)


def test_import_is_light():
    code = f"import sys, sae_audio; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_ci_runs_the_readme_test_command():
    command = 'python -m pytest -m "not slow and not gpu"'
    assert command in (ROOT / ".ci" / "run").read_text()
    assert command in (ROOT / "README.md").read_text()


def test_gradio_is_pinned_to_the_space_sdk():
    front = (ROOT / "README.md").read_text().split("---")[1]
    version = next(line.split(":")[1].strip() for line in front.splitlines() if line.startswith("sdk_version"))
    assert f"gradio=={version}" in (ROOT / "requirements.txt").read_text().splitlines()


def test_types_are_clean(tmp_path):
    """The library type-checks; settings and the packages that are taken as untyped are in pyproject.toml."""
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout


def test_ruff_is_clean():
    done = subprocess.run([sys.executable, "-m", "ruff", "check", "."], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout


def test_workers_of_the_suite_share_the_cores():
    """With two threads each on two cores, some tests took ten times as long."""
    if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
        assert torch.get_num_threads() <= max(1, len(os.sched_getaffinity(0)) // int(workers))
