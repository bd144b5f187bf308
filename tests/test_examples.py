"""Every example of a docstring runs and prints what it says; every public name has one."""

import doctest
import importlib
import math
from pathlib import Path

import pytest
import torch

import sae_audio
from sae_audio.audio import write
from sae_audio.latent_spaces import CHECKPOINTS

PACKAGE = Path(sae_audio.__file__).parent
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
WITH_EXAMPLES = sorted(path.relative_to(PACKAGE.parent) for path in PACKAGE.rglob("*.py") if ">>>" in path.read_text())
NEEDS_THE_HUB = {"sae_audio.hub_index.search_bundles"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder as the examples take it for granted: the shipped checkpoints, and two seconds of a melody."""
    folder = tmp_path_factory.mktemp("examples")
    (folder / "checkpoints").symlink_to(CHECKPOINTS)
    times = torch.arange(8000) / 16000
    notes = [sum(torch.sin(2 * math.pi * k * hz * times) / k for k in (1, 2, 3)) * 0.2 for hz in (261.63, 329.63, 392.0, 523.25)]
    write(folder / "song.wav", torch.cat(notes)[None], 16000)
    return folder


def examples_of(module) -> list[doctest.DocTest]:
    return [found for found in doctest.DocTestFinder(exclude_empty=True).find(module, module.__name__) if found.examples]


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=str)
def test_examples_run(path, folder, monkeypatch):
    monkeypatch.chdir(folder)
    module = importlib.import_module(".".join(path.with_suffix("").parts).removesuffix(".__init__"))
    examples = [example for example in examples_of(module) if example.name not in NEEDS_THE_HUB]
    said: list[str] = []
    for example in examples:
        doctest.DocTestRunner(optionflags=FLAGS, verbose=False).run(example, out=said.append)
    assert not said, "".join(said)


def test_no_example_is_left_out():
    left_out = {
        example.name
        for path in WITH_EXAMPLES
        for example in examples_of(importlib.import_module(".".join(path.with_suffix("").parts).removesuffix(".__init__")))
        if any(doctest.SKIP in step.options for step in example.examples)
    }
    assert left_out == NEEDS_THE_HUB


@pytest.mark.parametrize("name", sae_audio.__all__)
def test_public_names_show_how_they_are_used(name):
    assert ">>> " in getattr(sae_audio, name).__doc__


@pytest.mark.parametrize("name", [name for name in sae_audio.__all__ if name not in ("Bundle", "Request")])
def test_public_functions_say_what_they_take_give_and_refuse(name):
    function = getattr(sae_audio, name)
    for section in ("Parameters", "Returns", "Raises", "Examples"):
        assert f"\n    {section}\n    {'-' * len(section)}\n" in function.__doc__, section
    for parameter in [key for key in function.__annotations__ if key != "return"]:
        assert parameter in function.__doc__, parameter
