"""Bundles on the loopback Hub: what a repository shows, and that a token never went where it must not."""

import os
import re
import threading
from dataclasses import replace

import torch
from safetensors.torch import load, save

from sae_audio.hub.publish import as_published
from sae_audio.sealed import MANIFEST, manifest_of, read_sealed

BESIDE = {"LICENSE": b"terms", "samples/demo.wav": b"RIFF" + bytes(40)}
"""What a user put into the repository beside the bundle."""
STATUS = {
    400: "it finds the request malformed",
    401: "run `hf auth login`, or set HF_TOKEN",
    402: "it asks for payment; see http",
    403: "take one with access to 'alice' from http",
    404: "check",
    409: "wait a minute and try again",
    412: "look at what they did",
    429: "it has had too many requests; wait 7 s and try again",
    500: "it has trouble; see https://status.huggingface.co",
    502: "it has trouble",
    503: "it has trouble",
}
"""What the message of each HTTP status says, last of all the next step."""
PASSING = {
    "500": {"status": 500},
    "502": {"status": 502},
    "503": {"status": 503},
    "429": {"status": 429, "headers": {"Retry-After": "7"}},
    "dropped": {"drop": True},
}
"""Faults that a later request does not meet."""


class Gate:
    """A fault of the server that holds the first request that matches until it is opened."""

    status, headers, message, drop, lose, truncate, corrupt = None, {}, "", False, False, None, False

    def __init__(self, method, path):
        self.method, self.path, self.reached, self.opened = method, path, threading.Event(), threading.Event()

    def matches(self, method, path):
        if method != self.method or not re.search(self.path, path) or self.reached.is_set():
            return False
        self.reached.set()
        return True

    @property
    def delay(self):
        self.opened.wait(60)
        return 0


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def another(made, seed=7):
    """The same bundle with another provenance and no figures: a push of it sends files and removes one."""
    return replace(made, provenance={"seed": seed}, figures={})


def unlike_any(files, folder):
    """Write a bundle with weights that no server has seen, so that a push of it has to send them; returns the folder."""
    probes = load(files["probes.safetensors"])
    files = {**files, "probes.safetensors": save({name: torch.randn_like(value) for name, value in probes.items()})}
    for name, content in {**files, MANIFEST: manifest_of(files)}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def seed(hub, repo_id, folder):
    """Put a bundle into a repository without a client, tagged as a push leaves it; returns what the repository then shows."""
    commit = hub.seed(repo_id, expected(folder, repo_id))
    hub.configure(repo_id, refs={"heads/main": commit, "tags/format-1": commit})
    return shown(hub, repo_id)


def shown(hub, repo_id, revision="main"):
    """Every file of a version but .gitattributes."""
    return {name: hub.read(repo_id, name, revision) for name in hub.files(repo_id, revision) if name != ".gitattributes"}


def expected(folder, repo_id, revision=None, beside=BESIDE):
    """What a repository shows after a push of the folder."""
    return {**as_published(read_sealed(folder), repo_id, revision), **beside}


def assert_no_leak(hub, *texts):
    """No token in what was printed or raised, and none sent to where signed addresses point."""
    for call in hub.calls("*", "^/(cdn|xet|lfs/upload)/"):
        assert "hf_" not in call["headers"].get("authorization", ""), call["path"]
    for text in texts:
        assert not any(token in text for token in hub.tokens) and "sig=" not in text, text


def command_environment(**more):
    """For commands run as processes of their own."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", **more}
