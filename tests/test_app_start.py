"""How the page starts: nothing imported that the first page does not need, and a bundle that cannot be had said in one line."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
LATER = ("matplotlib", "transformers", "diffusers", "scipy", "sklearn", "librosa", "numba", "sympy", "torch._dynamo")


def python(*arguments: str, **env: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=os.environ | env, capture_output=True, text=True, timeout=300
    )


def test_the_first_page_imports_nothing_that_only_later_events_need():
    code = f"import sys; from ui.page import build; build(); print([name for name in {LATER} if name in sys.modules])"
    done = python("-c", code)
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stderr


def test_gradio_writes_no_stubs_and_python_finds_its_files_again():
    code = """
import inspect, sys
opened, find = [], inspect.getfile
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
import ui, gradio
print(len([path for path in opened if path.endswith(".pyi")]), inspect.getfile is find, inspect.getfile(gradio.Audio))
"""
    stubs, restored, file = python("-c", code).stdout.split()
    assert (stubs, restored) == ("0", "True") and file.endswith("audio.py")


def test_a_bundle_that_cannot_be_had_is_said_in_one_line():
    done = python("app.py", BUNDLE="runs/there-is-none", HF_HUB_OFFLINE="1")
    assert done.returncode == 2 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and "'runs/there-is-none'" in done.stderr
