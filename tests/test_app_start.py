"""How the page starts and what it keeps: no needless imports, a missing bundle said in one line, nothing of who has left."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from gradio_client import Client

from sae_audio.errors import AudioError
from ui import page, session

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


@pytest.mark.parametrize("port", ["abc", "-1", "70000"])
def test_a_port_that_is_none_is_said_in_one_line(port):
    done = python("app.py", GRADIO_SERVER_PORT=port)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"app.py: GRADIO_SERVER_PORT is '{port}'; give a whole number from 0 to 65535, such as 7860\n"


def test_of_a_visitor_who_left_only_the_states_are_kept():
    demo = page.build()
    _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True)
    try:
        client = Client(url, verbose=False, analytics_enabled=False)
        client.predict(loudness=-6, hold=False, stop=0.5, api_name="/steer")
        held = demo.state_holder.session_data[client.session_hash]
        assert "A melody" in str(held.config_values)  # the steered view among them
        client.close()
        until = time.monotonic() + 60
        while held.config_values and time.monotonic() < until:
            time.sleep(0.1)
        assert held.config_values == {} and held.blocks_config.blocks == demo.default_config.blocks
        assert not session._folder(client.session_hash).exists() and held.state_data
    finally:
        demo.close()


def test_a_sound_that_is_gone_is_said_by_its_name(tmp_path):
    with pytest.raises(AudioError, match=r"'My song' is no longer here, .* bring it again"):
        session.CurrentSound("My song", str(tmp_path / "sound-1.wav")).sound()
