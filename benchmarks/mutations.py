"""Do the tests notice a flipped sign or axis? ``python -m benchmarks.mutations``: one change at a time in the numerical core.

    OMP_NUM_THREADS=1 python -m benchmarks.mutations                    every change, results/mutations.md
    python -m benchmarks.mutations --only sae_audio/metrics.py          one file
    python -m benchmarks.mutations --only sae_audio/metrics.py:60       one line of it, with what the tests print

A change swaps + and -, or * and /, drops a minus, turns an axis, or swaps a minimum for a maximum (arguments too). The file's own
tests then run on the changed source, in a child process, up to the first failure. A change that all tests pass is a survivor: a
test is missing, or the change makes no difference (those that were looked at stand in ``SAME``, with the reason).
"""

from __future__ import annotations

import argparse
import ast
import importlib.abc
import importlib.util
import io
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "mutations.md"
CORE = {
    "sae_audio/metrics.py": ["test_metrics", "test_evaluation"],
    "sae_audio/probes.py": ["test_probes"],
    "sae_audio/control.py": ["test_control"],
    "sae_audio/denoising.py": ["test_denoising"],
    "sae_audio/diffrhythm/sampler.py": ["test_denoising", "test_diffrhythm"],
}
"""Files and the tests that are about them."""
SAME: dict[tuple[str, str], str] = {}
"""Changes that make no difference, by file and the changed line's text: why."""
SWAPS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult}
NAMES = {"min": "max", "max": "min", "argmin": "argmax", "argmax": "argmin", "amin": "amax", "amax": "amin"}
AXES = ("dim", "axis")
OTHERS = ("sum", "mean", "std", "var", "norm", "softmax", "log_softmax", "cumsum", "stack", "cat", "median", "any", "all")
PATIENCE = 120
"""Seconds after which a change counts as noticed: it made the tests hang."""


class Change(NamedTuple):
    """One change of one file."""

    file: str
    line: int
    what: str
    source: str


def changes(file: str) -> Iterator[Change]:
    """Yield every change of a file."""
    text = (ROOT / file).read_text()
    sites = [site for site in _sites(ast.parse(text))]
    for number in range(len(sites)):
        tree = ast.parse(text)
        node, what = list(_sites(tree))[number]
        line = node.lineno
        _apply(node, what)
        yield Change(file, line, what, ast.unparse(tree))


def _sites(tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """Yield the places where something can be changed; nothing in messages, annotations or defaults."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Raise | ast.JoinedStr | ast.AnnAssign | ast.arguments):
            continue
        if isinstance(tree, ast.Subscript) and isinstance(node, ast.UnaryOp):  # shape[-1]
            continue
        if isinstance(tree, ast.FunctionDef) and node is tree.returns:
            continue
        if isinstance(node, ast.BinOp) and type(node.op) in SWAPS:
            yield node, f"{type(node.op).__name__} becomes {SWAPS[type(node.op)].__name__}"
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and not _is_axis(tree, node):
            yield node, "a minus goes"
        if isinstance(node, ast.Call) and (name := _name(node)) in NAMES:
            yield node, f"{name} becomes {NAMES[name]}"
        if isinstance(node, ast.Call) and (axis := _axis(node)) is not None:
            yield node, f"axis {ast.unparse(axis)} becomes {_turned(axis)}"
        yield from _sites(node)


def _name(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _is_axis(parent: ast.AST, node: ast.AST) -> bool:
    return (isinstance(parent, ast.Call) and _axis(parent) is node) or (isinstance(parent, ast.keyword) and parent.arg in AXES)


def _axis(call: ast.Call) -> ast.expr | None:
    """Return the axis that a call works along, if it is a plain number."""
    found = [keyword.value for keyword in call.keywords if keyword.arg in AXES]
    if not found and _name(call) in (*NAMES, *OTHERS) and isinstance(call.func, ast.Attribute):
        found = call.args[-1:]
    try:
        return found[0] if found and type(ast.literal_eval(found[0])) is int else None
    except ValueError:
        return None


def _turned(axis: ast.expr) -> int:
    return {-1: 0, 0: -1}.get(ast.literal_eval(axis), 0)


def _apply(node: ast.AST, what: str) -> None:
    if isinstance(node, ast.BinOp):
        node.op = SWAPS[type(node.op)]()
    elif isinstance(node, ast.UnaryOp):
        node.op = ast.UAdd()
    elif what.startswith("axis"):
        axis = _axis(node)
        turned = ast.copy_location(ast.Constant(_turned(axis)), axis)
        node.args = [turned if arg is axis else arg for arg in node.args]
        for keyword in node.keywords:
            keyword.value = turned if keyword.value is axis else keyword.value
    elif isinstance(node.func, ast.Attribute):
        node.func.attr = NAMES[node.func.attr]
    else:
        node.func.id = NAMES[node.func.id]


class Changed(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Gives one module's source as it was changed."""

    def __init__(self, change: Change) -> None:
        self.change, self.name = change, change.file.removesuffix(".py").replace("/", ".")

    def find_spec(self, name: str, path: object, target: object = None) -> object:
        """Find the changed module, and no other."""
        return importlib.util.spec_from_loader(name, self, origin=str(ROOT / self.change.file)) if name == self.name else None

    def get_source(self, name: str) -> str:
        """Return the changed source."""
        return self.change.source


def noticed(change: Change, aloud: bool = False) -> bool:
    """Whether the tests of a file fail with a change in it; in a child, which starts from what is imported already."""
    child = os.fork()
    if child == 0:
        import pytest

        signal.alarm(PATIENCE)
        os.setpgid(0, 0)
        sys.meta_path.insert(0, Changed(change))
        tests = [f"tests/{name}.py" for name in CORE[change.file]]
        with redirect_stdout(sys.stderr if aloud else io.StringIO()):
            code = pytest.main([*tests, "-x", "-q", "-n0", "-p", "no:cacheprovider", "-m", "not slow and not gpu"])
        os._exit(0 if code == 0 else 1)
    return os.waitpid(child, 0)[1] != 0


def main() -> None:
    """Try every change and print the survivors."""
    import numpy  # noqa: F401
    import pytest  # noqa: F401
    import torch
    from tqdm import tqdm

    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="FILE[:LINE]", help="change nothing but this file, or this line of it")
    parser.add_argument("--out", default=str(RESULTS), help="where the result goes; '' prints it only")
    options = parser.parse_args()
    file, _, line = options.only.partition(":")
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    os.chdir(ROOT)
    tried = [change for name in CORE if file in ("", name) for change in changes(name) if line in ("", str(change.line))]
    lines, survivors = ["# Changes that the tests do not notice", ""], 0
    for change in tqdm(tried):
        text = (ROOT / change.file).read_text().splitlines()[change.line - 1].strip()
        if (change.file, text) not in SAME and not noticed(change, aloud=bool(line)):
            survivors += 1
            lines.append(f"- {change.file}:{change.line} `{text}`: {change.what}")
            tqdm.write(lines[-1])
    lines += ["", f"{len(tried)} changes, {survivors} unnoticed; {len(SAME)} lines in which a change makes no difference."]
    if options.out and not options.only:
        Path(options.out).write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
