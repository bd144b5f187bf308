"""Work on single-core threads: every item once, in order, with the caller's settings, and without a trace afterwards."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from sae_audio.cores import on_all_cores

ROOT = Path(__file__).parent.parent


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_results_come_in_order(threads):
    assert on_all_cores(lambda item: item**2, range(50)) == [item**2 for item in range(50)]


def test_each_thread_has_one_core_and_the_caller_keeps_all(threads):
    here = threading.get_ident()
    found = on_all_cores(lambda _: (torch.get_num_threads(), threading.get_ident()), range(50))
    assert {cores for cores, _ in found} == {1}
    assert ({thread for _, thread in found} == {here}) == (threads == 1)
    assert torch.get_num_threads() == threads
    later = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert later == [threads]


def test_an_error_reaches_the_caller(threads):
    with pytest.raises(ZeroDivisionError):
        on_all_cores(lambda item: 1 // item, [1, 0])


def test_gradients_are_recorded_as_in_the_caller(threads):
    weight = torch.ones(3, requires_grad=True)

    def recorded(_):
        return (2 * weight).requires_grad, torch.is_inference_mode_enabled()

    assert set(on_all_cores(recorded, range(4))) == {(True, False)}
    with torch.no_grad():
        assert set(on_all_cores(recorded, range(4))) == {(False, False)}
    with torch.inference_mode():
        assert set(on_all_cores(recorded, range(4))) == {(False, True)}


def test_callers_in_several_threads_do_not_mix(threads):
    results = {}

    def call(name):
        results[name] = on_all_cores(lambda item: (name, item), range(30))

    callers = [threading.Thread(target=call, args=(name,)) for name in "abcd"]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert results == {name: [(name, item) for item in range(30)] for name in "abcd"}


def test_a_forked_process_starts_threads_of_its_own():
    code = (
        "import os, torch; from sae_audio.cores import on_all_cores\n"
        "torch.set_num_threads(2); on_all_cores(abs, [-1, -2])\n"
        "child = os.fork()\n"
        "if child == 0: os._exit(sum(on_all_cores(abs, [-3, -4])))\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.stdout.strip() == "7", done.stderr
