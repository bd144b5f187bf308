"""The loopback Hub that all tests talk to: no test reaches the network.

``huggingface_hub`` freezes HF_ENDPOINT, HF_HOME and friends into module constants when it is imported, and so do the
libraries built on it.  So the server starts, and the environment is set, in ``pytest_configure``: before pytest
collects, hence imports, any test module.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
import time
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import HubServer

_HUB = pytest.StashKey[HubServer]()
_HOME = pytest.StashKey[Path]()


def pytest_configure(config: pytest.Config) -> None:
    if "huggingface_hub" in sys.modules:
        raise pytest.UsageError("huggingface_hub was imported before HF_ENDPOINT could be set")
    share_cores(config)
    home = Path(tempfile.mkdtemp(prefix="hf-home-"))
    hub = HubServer().start()
    os.environ.update(hub.env(home=home))
    os.environ["GRADIO_HEARTBEAT_INTERVAL"] = "0.5"  # seconds, not 15, until the app sees that a visitor has left
    config.stash[_HUB], config.stash[_HOME] = hub, home


def share_cores(config: pytest.Config) -> None:
    """Give each worker its part of the cores: threads waiting for each other on a busy core make some tests ten times as slow."""
    if config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        return  # it only hands out tests, and its workers inherit its environment
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // workers)))


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[_HUB].stop()
    shutil.rmtree(config.stash[_HOME], ignore_errors=True)


@pytest.fixture
def hub(request: pytest.FixtureRequest) -> Iterator[HubServer]:
    """The server, with no faults pending and an empty request log."""
    server = request.config.stash[_HUB]
    server.reset()
    yield server
    server.reset()


@pytest.fixture
def repo_id(request: pytest.FixtureRequest) -> str:
    """A repository name no other test uses (it is not created)."""
    slug = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[:50].strip("-")
    return f"alice/{slug}-{os.urandom(3).hex()}"


@pytest.fixture
def no_wait(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Make the retries of huggingface_hub, and ours, immediate; returns the list of the waits they asked for."""
    from huggingface_hub import file_download
    from huggingface_hub.utils import _http

    from sae_audio import hub_client

    waits: list[float] = []
    clock = types.SimpleNamespace(**{k: v for k, v in vars(time).items() if not k.startswith("_")})
    clock.sleep = waits.append
    for module in (_http, file_download, hub_client):
        monkeypatch.setattr(module, "time", clock)
    return waits


@pytest.fixture
def quick(hub: HubServer, no_wait: list[float], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No waiting, no bars; and at the end of the test, no token where it must not be."""
    from hub_bundles import assert_no_leak
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

    monkeypatch.setenv("HF_XET_CLIENT_RETRY_BASE_DELAY", "1ms")
    disable_progress_bars()
    yield
    enable_progress_bars()
    assert_no_leak(hub)


@pytest.fixture(scope="session")
def saved_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small bundle, to be read only."""
    from tiny_bundle import tiny_bundle

    return tiny_bundle().save(tmp_path_factory.mktemp("bundle") / "mine")


@pytest.fixture(scope="session")
def later_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Files of a later version of that bundle, without a figure that it has."""
    from hub_bundles import another
    from tiny_bundle import tiny_bundle

    from sae_audio.sealed import read_sealed

    return read_sealed(another(tiny_bundle()).save(tmp_path_factory.mktemp("bundle") / "later"))


@pytest.fixture(params=["xet", "lfs"])
def transfer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test over both storage protocols."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", request.param == "lfs")
    monkeypatch.setenv("HF_HUB_DISABLE_XET", str(int(request.param == "lfs")))  # for subprocesses
    return request.param


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """An empty download cache: pass as ``cache_dir``."""
    return tmp_path / "cache"
