"""The app in a real browser, for every test that needs a page: write ``pytest_plugins = ["browser"]`` and take its fixtures.

``app_url`` is one running app for the whole test run, ``open_page`` opens it as one visitor, ``run_app`` starts another app and
``axe`` finds what is inaccessible. A page that logged an error to the console, or asked any other machine for anything, fails its
test when it is closed.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).parent.parent
STARTS_WITHIN = 120  # seconds; a machine that runs several jobs at once is slow to import
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--disable-dev-shm-usage",
]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def running_app(**env: str) -> Iterator[str]:
    """Start ``python app.py`` on a free port with these environment variables, and give its address once it answers."""
    home, port = tempfile.mkdtemp(prefix="app-"), free_port()
    own = {"GRADIO_SERVER_PORT": str(port), "GRADIO_TEMP_DIR": f"{home}/files", "HF_HUB_OFFLINE": "1", "GRADIO_SSR_MODE": "False"}
    with open(f"{home}/log", "w+") as log:
        command = [sys.executable, "app.py"]
        app = subprocess.Popen(command, cwd=ROOT, env=os.environ | own | env, stdout=log, stderr=subprocess.STDOUT)
        try:
            yield _answering(app, f"http://127.0.0.1:{port}/", Path(home, "log"))
        finally:
            app.terminate()
            app.wait(20)
            shutil.rmtree(home, ignore_errors=True)


def _answering(app: subprocess.Popen, url: str, log: Path) -> str:
    for _ in range(4 * STARTS_WITHIN):
        if app.poll() is not None:
            break
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return url
        time.sleep(0.25)
    raise RuntimeError(f"the app did not start; it said:\n{log.read_text()}")


@pytest.fixture(scope="session")
def run_app() -> Callable[..., contextlib.AbstractContextManager[str]]:
    """``with run_app(NAME="value") as url``: another app, with its own environment."""
    return running_app


@pytest.fixture(scope="session")
def app_url() -> Iterator[str]:
    """Address of one running app."""
    with running_app() as url:
        yield url


@pytest.fixture(scope="session")
def chromium():
    """A headless Chromium."""
    if CHROMIUM is None:
        pytest.skip("no Chromium here; `apt install chromium` runs the browser tests")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(app_url, chromium) -> Iterator[Callable]:
    """Open the app as one visitor: ``page = open_page()``; ``path="?feature=42"``, ``width=390``, ``dark=True``, ``url=…``.

    ``logs="Waveform"`` allows console errors that start so.
    """
    opened = []

    def open_one(
        path: str = "", *, width: int = 1280, height: int = 900, dark: bool = False, url: str = app_url, logs: str = "\0"
    ):
        scheme = "dark" if dark else "light"
        context = chromium.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, accept_downloads=True)
        context.set_default_timeout(60_000)  # a machine that runs several jobs at once is slow
        page, errors, asked = context.new_page(), [], []
        wrong = lambda message: message.type == "error" and not message.text.startswith(logs)  # noqa: E731
        page.on("console", lambda message: errors.append(message.text) if wrong(message) else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        opened.append((context, errors, asked))
        page.goto(url + path)
        page.wait_for_selector("#tabs", timeout=60_000)
        return page

    yield open_one
    hosts = set()
    for context, _, asked in opened:
        hosts |= {urlsplit(address).hostname for address in asked if address.startswith(("http", "ws"))}
        context.close()
    assert [error for _, errors, _ in opened for error in errors] == []
    assert hosts <= {"127.0.0.1"}


@pytest.fixture(scope="session")
def axe() -> Callable[..., list[str]]:
    """``axe(page)``: serious and critical violations that axe-core finds on a page, as ``rule: element`` lines."""
    return _violations


def _violations(page) -> list[str]:
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [
        f"{violation['id']}: {node['html'][:200]}"
        for violation in found
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    ]
