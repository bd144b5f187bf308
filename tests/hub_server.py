"""A loopback Hugging Face Hub for tests: real clients, real HTTP, no network.

``HubServer`` speaks enough of the Hub's HTTP API for an unmodified ``huggingface_hub`` (2.x), the ``hf``
command, ``transformers``/``diffusers`` and ``hf_xet`` to create repositories, upload, list and download,
when their ``HF_ENDPOINT`` points at it.  Everything lives under one directory, and the server needs only the
standard library (``yaml`` and ``hf_xet`` are used where they happen to be installed).

What is modelled
    * ``whoami``; create / delete / move / settings; branches, tags, refs, commit history; pull requests;
    * ``preupload`` -> LFS batch -> basic or multipart PUT -> verify -> ndjson ``commit``   (HF_HUB_DISABLE_XET=1);
    * ``xet-write-token`` -> xorb / shard upload -> ``commit``, and xet reconstruction       (the 2.x default);
    * repo info, tree (paginated), paths-info, ``resolve`` by HEAD and GET with ETag, ``X-Repo-Commit``,
      ``X-Linked-*``, ranges, and a redirect of large files to a second origin ("the CDN") that, like a
      signed URL, must never be sent an Authorization header;
    * 401 / 403 / 404 / 409 / 412 answers with the ``X-Error-Code`` headers clients map to exception classes;
    * faults: an error status, a delay, a dropped or truncated connection, a corrupted body, on the n-th match.

What is not
    Git, the web pages, inference, jobs, buckets, rate limits (inject 429s), and any authorisation finer than
    "who may read / write this namespace".  It is a test double: it trusts its callers and binds to loopback.

Use in a test::

    with HubServer() as hub:
        env = {**os.environ, **hub.env(home=tmp_path)}
        subprocess.run(["hf", "upload", "alice/demo", "."], env=env, check=True)
        assert hub.read("alice/demo", "README.md").startswith(b"---")
        hub.fail("POST", "/commit/", status=503)           # the next commit is answered 503, once

``huggingface_hub`` reads ``HF_ENDPOINT``/``HF_HOME``/``HF_TOKEN`` when it is imported, so for in-process use
apply ``hub.env()`` to ``os.environ`` *before* the first import (see ``conftest.py`` beside this file).

Command line::

    python hub_server.py --port 0 --root ./hub-data        # prints the variables to export, then serves
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import fnmatch
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

__all__ = ["Fault", "HubServer", "Token"]

# Files matching these are large files whatever their size: the patterns of the .gitattributes that the Hub puts in
# every new repository (an excerpt).  Any other file is large when it is binary or above REGULAR_MAX_BYTES.
LARGE_SUFFIXES = (
    "arrow bin ckpt flac gz h5 joblib mp3 msgpack npy npz onnx ot parquet pb pickle pkl pt pth safetensors tar tflite "
    "tgz wav xz zip zst"
)
LARGE_PATTERNS = [f"*.{suffix}" for suffix in LARGE_SUFFIXES.split()]
REGULAR_MAX_BYTES = 10 * 1024 * 1024
GITATTRIBUTES = "".join(f"{p} filter=lfs diff=lfs merge=lfs -text\n" for p in LARGE_PATTERNS)

REPO_TYPES = ("model", "dataset", "space", "kernel")
SPACE_SDKS = ("gradio", "docker", "static", "streamlit")
SPACE_COLORS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")
CHUNK = 1 << 20


# ---------------------------------------------------------------------------------------------- small pieces


@dataclass(frozen=True)
class Token:
    """Who a bearer token belongs to, and what it may do."""

    user: str
    role: str = "write"  # or "read"
    orgs: tuple[str, ...] = ()
    pro: bool = True  # a user without PRO is refused (402) a Gradio or Docker Space on free hardware

    @property
    def namespaces(self) -> tuple[str, ...]:
        return (self.user, *self.orgs)


@dataclass
class Fault:
    """What to do to requests whose method and path match; see :meth:`HubServer.fail`."""

    method: str
    path: str
    nth: int = 1
    times: int = 1
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    message: str = "injected fault"
    delay: float = 0.0
    drop: bool = False
    lose: bool = False
    truncate: int | None = None
    corrupt: bool = False
    seen: int = 0

    def matches(self, method: str, path: str) -> bool:
        """Count a request this fault is about, and say whether it is one of those to be hit."""
        if self.method not in ("*", method) or not re.search(self.path, path):
            return False
        self.seen += 1
        return self.nth <= self.seen < self.nth + self.times


class HubError(Exception):
    """An error answer, with the headers that the client turns into an exception class."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.message, self.code = status, message, code
        self.body = {"error": message, **(body or {})}
        self.headers = dict(headers or {})


class Disconnect(Exception):
    """Raised to close the connection without a (complete) answer."""


@dataclass
class Response:
    status: int = 200
    body: bytes | Path = b""
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def json(cls, value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
        return cls(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})


def git_oid(data: bytes, kind: str = "blob") -> str:
    return hashlib.sha1(f"{kind} {len(data)}\0".encode() + data).hexdigest()


def pointer(oid: str, size: int) -> bytes:
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n".encode()


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def front_matter(text: str) -> tuple[dict[str, Any], str | None]:
    """The metadata of a README.md, and what is wrong with it (``None`` when nothing is)."""
    match = re.match(r"\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(\r?\n|$)", text, re.DOTALL)
    if match is None:
        return {}, None
    try:
        import yaml
    except ImportError:
        return {}, None
    try:
        data = yaml.safe_load(match.group(1))
    except yaml.YAMLError as error:
        return {}, f"YAML parse error: {error}"
    if data is None:
        return {}, None
    return (data, None) if isinstance(data, dict) else ({}, "metadata must be a mapping")


# ------------------------------------------------------------------------------------------------------- xet


def _xet_hex(raw: bytes) -> str:
    """A 32-byte hash as the xet protocol prints it: four little-endian 64-bit words."""
    return "".join(f"{word:016x}" for word in struct.unpack("<4Q", raw))


def parse_shard_files(shard: bytes) -> Iterator[tuple[str, str | None, list[tuple[str, int, int, int]]]]:
    """Yield ``(file hash, sha256, [(xorb hash, unpacked bytes, first chunk, end chunk)])`` from a shard."""
    at = 48  # the header
    while shard[at : at + 32] != b"\xff" * 32:
        file_hash = _xet_hex(shard[at : at + 32])
        flags, count = struct.unpack_from("<II", shard, at + 32)
        at += 48
        terms = []
        for _ in range(count):
            _, unpacked, first, end = struct.unpack_from("<4I", shard, at + 32)
            terms.append((_xet_hex(shard[at : at + 32]), unpacked, first, end))
            at += 48
        if flags & (1 << 31):  # one verification entry a term
            at += 48 * count
        sha256 = None
        if flags & (1 << 30):  # the metadata extension
            sha256 = _xet_hex(shard[at : at + 32])
            at += 48
        yield file_hash, sha256, terms


def xorb_chunks(xorb: bytes) -> list[tuple[int, int, int]]:
    """``(start, end, unpacked bytes)`` of every chunk in a serialized xorb."""
    chunks, at = [], 0
    while at + 8 <= len(xorb) and xorb[at] == 0:  # a footer, where there is one, starts with "X"
        packed = int.from_bytes(xorb[at + 1 : at + 4], "little")
        unpacked = int.from_bytes(xorb[at + 5 : at + 8], "little")
        chunks.append((at, at + 8 + packed, unpacked))
        at += 8 + packed
    return chunks


# ----------------------------------------------------------------------------------------------------- store


class Store:
    """Repositories and contents on disk.  Every method is called with ``lock`` held, or touches immutable files."""

    def __init__(self, root: Path):
        self.root = root
        self.lock = threading.RLock()
        for name in ("git", "lfs", "parts", "repos", "xorbs", "xetfiles"):
            (root / name).mkdir(parents=True, exist_ok=True)
        self._chunks: dict[str, list[tuple[int, int, int]]] = {}

    # -- contents

    def write(self, path: Path, data: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        scratch.write_bytes(data)
        os.replace(scratch, path)

    def put_blob(self, data: bytes) -> str:
        oid = git_oid(data)
        self.write(self.root / "git" / oid, data)
        return oid

    def lfs_path(self, oid: str) -> Path:
        return self.root / "lfs" / oid

    def xet_of(self, sha256: str) -> dict[str, Any] | None:
        path = self.root / "xetfiles" / f"sha-{sha256}.json"
        return json.loads(path.read_text()) if path.exists() else None

    def xet_file(self, file_hash: str) -> list[list[Any]] | None:
        path = self.root / "xetfiles" / f"{file_hash}.json"
        return json.loads(path.read_text()) if path.exists() else None

    def add_shard(self, shard: bytes) -> None:
        for file_hash, sha256, terms in parse_shard_files(shard):
            if missing := [t[0] for t in terms if not (self.root / "xorbs" / t[0]).exists()]:
                raise HubError(400, f"shard refers to xorbs that were not uploaded: {missing}")
            self.write(self.root / "xetfiles" / f"{file_hash}.json", json.dumps(terms).encode())
            if sha256 is not None:
                size = sum(t[1] for t in terms)
                self.write(
                    self.root / "xetfiles" / f"sha-{sha256}.json",
                    json.dumps({"hash": file_hash, "size": size}).encode(),
                )

    def chunks(self, xorb_hash: str) -> list[tuple[int, int, int]]:
        if xorb_hash not in self._chunks:
            self._chunks[xorb_hash] = xorb_chunks((self.root / "xorbs" / xorb_hash).read_bytes())
        return self._chunks[xorb_hash]

    # -- repositories

    def repo_path(self, repo_type: str, repo_id: str) -> Path:
        return self.root / "repos" / repo_type / f"{repo_id}.json"

    def load(self, repo_type: str, repo_id: str) -> dict[str, Any] | None:
        path = self.repo_path(repo_type, repo_id)
        return json.loads(path.read_text()) if path.is_file() else None

    def save(self, repo: dict[str, Any]) -> None:
        self.write(self.repo_path(repo["type"], repo["id"]), json.dumps(repo).encode())

    def all(self, repo_type: str) -> Iterator[dict[str, Any]]:
        for path in sorted((self.root / "repos" / repo_type).glob("*/*.json")):
            yield json.loads(path.read_text())

    def create(self, repo_type: str, repo_id: str, **fields: Any) -> dict[str, Any]:
        repo = {
            "id": repo_id,
            "type": repo_type,
            "created": now(),
            "private": False,
            "gated": False,
            "disabled": False,
            "refs": {},
            "commits": {},
            "pulls": 0,
            "secrets": {},
            "variables": {},
            **fields,
        }
        tree = {".gitattributes": {"oid": self.put_blob(GITATTRIBUTES.encode()), "size": len(GITATTRIBUTES)}}
        self.commit(repo, "heads/main", tree, "initial commit", "", repo_id.split("/")[0])
        return repo

    def commit(
        self, repo: dict[str, Any], ref: str, tree: dict[str, Any], title: str, message: str, author: str
    ) -> str:
        parent = repo["refs"].get(ref)
        value = {"parent": parent, "title": title, "message": message, "author": author, "date": now(), "tree": tree}
        # The nonce keeps two equal commits in one second apart, as their dates do in git.
        oid = git_oid(json.dumps([value, secrets.token_hex(8)]).encode(), "commit")
        repo["commits"][oid] = value
        repo["refs"][ref] = oid
        self.save(repo)
        return oid

    def resolve(self, repo: dict[str, Any], revision: str) -> str:
        refs = repo["refs"]
        for ref in (f"heads/{revision}", f"tags/{revision}", revision.removeprefix("refs/")):
            if ref in refs:
                return refs[ref]
        if revision in repo["commits"]:  # in full, as the Hub wants it
            return revision
        raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")


# ---------------------------------------------------------------------------------------------------- server

Route = tuple[str, re.Pattern[str], Callable[..., Response]]
_ROUTES: list[Route] = []


def route(methods: str, pattern: str) -> Callable[[Callable[..., Response]], Callable[..., Response]]:
    """Register a handler.  ``{repo}`` stands for ``<type>s/<namespace>/<name>``, ``{name}`` for one segment."""
    pattern = pattern.replace("{repo}", r"(?P<type>models|datasets|spaces|kernels)/(?P<repo>[^/]+/[^/]+)")
    pattern = pattern.replace("{web}", r"(?:(?P<type>datasets|spaces|kernels)/)?(?P<repo>[^/]+/[^/]+)")
    compiled = re.compile("^" + re.sub(r"\{([a-z]\w*)\}", r"(?P<\1>[^/]+)", pattern) + "$")

    def register(function: Callable[..., Response]) -> Callable[..., Response]:
        _ROUTES.extend((method, compiled, function) for method in methods.split("|"))
        return function

    return register


class HubServer:
    """The server.  Use as a context manager, or call :meth:`start` and :meth:`stop`.

    Args:
        root: where everything is kept; a temporary directory, removed by :meth:`stop`, when not given.
        port: the port on 127.0.0.1; 0 takes a free one.
        tokens: bearer tokens.  The default has ``hf_test`` (user *alice*, write), ``hf_read`` (*alice*, read only)
            and ``hf_other`` (user *bob*, write).
        xet: offer xet storage.  When false, clients need ``HF_HUB_DISABLE_XET=1`` to upload large files.
        multipart: LFS objects above this many bytes are uploaded in parts of this size.
        page: entries a page of a tree listing.
    """

    DEFAULT_TOKENS: Mapping[str, Token] = {
        "hf_test": Token("alice", "write", ("acme",)),
        "hf_read": Token("alice", "read", ("acme",)),
        "hf_other": Token("bob", "write"),
    }

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        *,
        port: int = 0,
        tokens: Mapping[str, Token] | None = None,
        xet: bool = True,
        multipart: int = 5 * 1024 * 1024,
        page: int = 1000,
    ):
        self._temporary = root is None
        self.root = Path(tempfile.mkdtemp(prefix="hub-server-") if root is None else root).resolve()
        self.store = Store(self.root)
        self.tokens = dict(self.DEFAULT_TOKENS if tokens is None else tokens)
        self.xet = xet
        self.multipart = multipart
        self.page = page
        self.requests: list[dict[str, Any]] = []  # every request answered, oldest first
        self.faults: list[Fault] = []
        self._log_lock = threading.Lock()
        self._signatures: set[str] = set()
        self._xet_tokens: dict[str, str] = {}  # token -> "read" | "write"
        self._httpd = _HTTPServer(("127.0.0.1", port), self)
        self._thread: threading.Thread | None = None
        self.port: int = self._httpd.server_port
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.cdn = f"http://localhost:{self.port}/cdn"  # another origin, as far as a client can tell

    # -- life

    def start(self) -> HubServer:
        if self._thread is None:
            self._thread = threading.Thread(target=self._httpd.serve_forever, args=(0.05,), daemon=True, name="hub")
            self._thread.start()
        return self

    def stop(self) -> None:
        if self._thread is not None:
            self._httpd.shutdown()
            self._thread.join()
            self._thread = None
        self._httpd.server_close()
        if self._temporary:
            shutil.rmtree(self.root, ignore_errors=True)

    def __enter__(self) -> HubServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    # -- for tests

    def env(self, home: str | os.PathLike[str] | None = None, token: str | None = "hf_test") -> dict[str, str]:
        """The environment that sends a client here and nowhere else, with its cache under ``home``."""
        env = {
            "HF_ENDPOINT": self.endpoint,
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "HF_HUB_DISABLE_XET": "0" if self.xet else "1",
            "HF_HUB_OFFLINE": "0",
            "HF_XET_CLIENT_RETRY_BASE_DELAY": "50ms",
            "NO_PROXY": "127.0.0.1,localhost",
        }
        if home is not None:
            env |= {"HF_HOME": str(home), "HF_HUB_CACHE": str(Path(home) / "hub")}
            env |= {"HF_XET_CACHE": str(Path(home) / "xet"), "HF_TOKEN_PATH": str(Path(home) / "token")}
        if token is not None:
            env["HF_TOKEN"] = token
        return env

    def fail(
        self,
        method: str = "*",
        path: str = "",
        *,
        nth: int = 1,
        times: int = 1,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
        message: str = "injected fault",
        delay: float = 0.0,
        drop: bool = False,
        lose: bool = False,
        truncate: int | None = None,
        corrupt: bool = False,
    ) -> Fault:
        """Hit matching requests, from the ``nth`` on, ``times`` times.

        ``path`` is a regular expression searched in ``path?query``.  ``delay`` waits (before anything else),
        ``status`` answers that instead of doing what was asked, ``drop`` closes the connection without doing it,
        ``lose`` does it and closes the connection without saying so, ``truncate`` announces the whole body and sends that many
        bytes of it, ``corrupt`` flips one byte of it.
        With none of these the request is served as usual and only counted, in ``Fault.seen``.
        """
        fault = Fault(
            method, path, nth, times, status, dict(headers or {}), message, delay, drop, lose, truncate, corrupt
        )
        with self._log_lock:
            self.faults.append(fault)
        return fault

    def reset(self) -> None:
        """Forget faults and the request log.  Repositories stay."""
        with self._log_lock:
            self.faults.clear()
            self.requests.clear()

    def calls(self, method: str = "*", path: str = "") -> list[dict[str, Any]]:
        """Logged requests whose method is ``method`` and whose path matches the regular expression ``path``."""
        with self._log_lock:
            return [r for r in self.requests if method in ("*", r["method"]) and re.search(path, r["path"])]

    def seed(
        self,
        repo_id: str,
        files: Mapping[str, bytes | str] | str | os.PathLike[str],
        repo_type: str = "model",
        message: str = "seed",
        **fields: Any,
    ) -> str:
        """Put files (a mapping, or a directory) into a repository without HTTP; returns the commit."""
        if not isinstance(files, Mapping):
            base = Path(files)
            files = {p.relative_to(base).as_posix(): p.read_bytes() for p in base.rglob("*") if p.is_file()}
        with self.store.lock:
            repo = self.store.load(repo_type, repo_id) or self.store.create(repo_type, repo_id)
            repo.update(fields)
            tree = dict(repo["commits"][repo["refs"]["heads/main"]]["tree"])
            for path, content in files.items():
                data = content.encode() if isinstance(content, str) else content
                if self.is_large(path, len(data), data[:512]):
                    oid = hashlib.sha256(data).hexdigest()
                    self.store.write(self.store.lfs_path(oid), data)
                    tree[path] = self._large_entry(oid, len(data))
                else:
                    tree[path] = {"oid": self.store.put_blob(data), "size": len(data)}
            return self.store.commit(repo, "heads/main", tree, message, "", repo_id.split("/")[0])

    def configure(self, repo_id: str, repo_type: str = "model", **fields: Any) -> None:
        """Set fields of a repository: ``private``, ``gated`` (False, "auto", "manual"), ``disabled``."""
        with self.store.lock:
            repo = self.store.load(repo_type, repo_id)
            if repo is None:
                raise KeyError(repo_id)
            self.store.save({**repo, **fields})

    def repo(self, repo_id: str, repo_type: str = "model") -> dict[str, Any] | None:
        with self.store.lock:
            return self.store.load(repo_type, repo_id)

    def files(self, repo_id: str, revision: str = "main", repo_type: str = "model") -> list[str]:
        return sorted(self._tree(repo_id, revision, repo_type))

    def read(self, repo_id: str, path: str, revision: str = "main", repo_type: str = "model") -> bytes:
        return self.content(self._tree(repo_id, revision, repo_type)[path]).read_bytes()

    def history(self, repo_id: str, revision: str = "main", repo_type: str = "model") -> list[dict[str, Any]]:
        """Commits, newest first, each with ``oid``, ``title``, ``author`` and ``tree``."""
        with self.store.lock:
            repo = self.store.load(repo_type, repo_id)
            if repo is None:
                raise KeyError(repo_id)
            return list(self.ancestry(repo, self.store.resolve(repo, revision)))

    def _tree(self, repo_id: str, revision: str, repo_type: str) -> dict[str, Any]:
        return self.history(repo_id, revision, repo_type)[0]["tree"]

    # -- shared by handlers

    @staticmethod
    def ancestry(repo: dict[str, Any], oid: str | None) -> Iterator[dict[str, Any]]:
        while oid is not None:
            commit = repo["commits"][oid]
            yield {"oid": oid, **commit}
            oid = commit["parent"]

    @staticmethod
    def is_large(path: str, size: int, sample: bytes) -> bool:
        if size == 0:
            return False
        if size > REGULAR_MAX_BYTES or any(fnmatch.fnmatch(path.rsplit("/", 1)[-1], p) for p in LARGE_PATTERNS):
            return True
        return b"\0" in sample

    @staticmethod
    def _large_entry(oid: str, size: int, xet: str | None = None) -> dict[str, Any]:
        entry = {"oid": git_oid(pointer(oid, size)), "size": size, "lfs": oid}
        return {**entry, "xet": xet} if xet else entry

    def sign(self) -> str:
        signature = secrets.token_hex(8)
        self._signatures.add(signature)
        return signature

    def xet_token(self, scope: str) -> dict[str, Any]:
        token = f"xet_{secrets.token_hex(8)}"
        self._xet_tokens[token] = scope
        return {"accessToken": token, "exp": int(time.time()) + 3600, "casUrl": f"{self.endpoint}/xet"}

    def content(self, entry: Mapping[str, Any]) -> Path:
        """The file holding an entry's bytes; one that came by xet is put together the first time."""
        if "lfs" not in entry:
            return self.root / "git" / entry["oid"]
        path = self.store.lfs_path(entry["lfs"])
        if not path.exists():
            import hf_xet  # installed here, or nobody here could have uploaded by xet

            info = self.xet_token("read")
            scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
            with hf_xet.XetSession().new_file_download_group(
                endpoint=info["casUrl"], token=info["accessToken"], token_expiry_unix_secs=info["exp"]
            ) as group:
                group.start_download_file(hf_xet.XetFileInfo(entry["xet"], entry["size"]), str(scratch))
            digest = hashlib.sha256(scratch.read_bytes()).hexdigest()
            if digest != entry["lfs"]:
                scratch.unlink()
                raise HubError(500, f"xet content has sha256 {digest}, expected {entry['lfs']}")
            os.replace(scratch, path)
        return path

    def intercept(self, method: str, path: str) -> list[Fault]:
        with self._log_lock:
            return [fault for fault in self.faults if fault.matches(method, path)]

    def log(self, record: dict[str, Any]) -> None:
        with self._log_lock:
            self.requests.append(record)


class _HTTPServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], hub: HubServer):
        self.hub = hub
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _HTTPServer

    # ------------------------------------------------------------------------------------------- plumbing

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.hub = self.server.hub
        self.store = self.hub.store

    def handle_any(self) -> None:
        url = urlsplit(self.path)
        self.query = parse_qs(url.query, keep_blank_values=True)
        self.body: bytes | None = None
        self.body_read = False
        self.who: Token | None = None
        record: dict[str, Any] = {
            "method": self.command,
            "path": self.path,
            "status": None,
            "user": None,
            "fault": False,
        }
        record["headers"] = {k.lower(): v for k, v in self.headers.items()}
        started = time.monotonic()
        faults = [] if url.path.startswith("/__hub__/") else self.hub.intercept(self.command, self.path)
        record["fault"] = bool(faults)
        try:
            try:
                response = self.respond(url.path, faults)
                record["status"] = response.status
                record["user"] = self.who.user if self.who else None
            finally:
                self.hub.log(record)  # before the answer goes out: whoever has it finds the request in the log
            if any(fault.lose for fault in faults):
                raise Disconnect
            self.send(response, faults)
        except (Disconnect, ConnectionError):
            self.close_connection = True
        finally:
            record["seconds"] = round(time.monotonic() - started, 4)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = handle_any

    def respond(self, path: str, faults: list[Fault]) -> Response:
        for fault in faults:
            time.sleep(fault.delay)
            if fault.drop:
                raise Disconnect
            if fault.status is not None:
                self.drain()
                return Response.json({"error": fault.message}, fault.status, fault.headers)
        method = "GET" if self.command == "HEAD" else self.command
        try:
            for wanted, pattern, function in _ROUTES:
                if wanted == method and (match := pattern.match(path)):
                    self.authenticate(path)
                    groups = {k: v for k, v in match.groupdict().items() if v is not None}
                    if "repo" in groups:
                        groups["type"] = groups.get("type", "models").removesuffix("s")
                    response = function(self, **{k: unquote(v) for k, v in groups.items()})
                    self.drain()
                    return response
            raise HubError(404, f"hub_server has no {method} {path}")
        except HubError as error:
            self.drain()
            headers = {"X-Error-Message": error.message.replace("\n", " "), **error.headers}
            if error.code:
                headers["X-Error-Code"] = error.code
            return Response.json(error.body, error.status, headers)

    def authenticate(self, path: str) -> None:
        header = self.headers.get("Authorization")
        if header is None or path.startswith(("/xet/", "/__hub__/")):
            return
        if path.startswith(("/cdn/", "/lfs/upload/")):  # a signed URL: object stores refuse a second authorisation
            raise HubError(400, "Only one auth mechanism allowed")
        token = header.removeprefix("Bearer ")
        if token not in self.hub.tokens:
            raise HubError(401, "Invalid credentials in Authorization header")
        self.who = self.hub.tokens[token]

    def read_chunks(self) -> Iterator[bytes]:
        """The request's body, whichever way it is framed."""
        if self.body_read:
            return
        self.body_read = True
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            while size := int(self.rfile.readline().split(b";")[0].strip() or b"0", 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            while self.rfile.readline().strip():  # trailers
                pass
            return
        left = int(self.headers.get("Content-Length") or 0)
        while left > 0:
            data = self.rfile.read(min(left, CHUNK))
            if not data:
                raise Disconnect
            left -= len(data)
            yield data

    def data(self) -> bytes:
        if self.body is None:
            self.body = b"".join(self.read_chunks())
        return self.body

    def drain(self) -> None:
        for _ in self.read_chunks():
            pass

    def json(self) -> Any:
        try:
            return json.loads(self.data() or b"{}")
        except ValueError as error:
            raise HubError(400, f"malformed JSON: {error}") from error

    def send(self, response: Response, faults: list[Fault]) -> None:
        body = response.body
        size = body.stat().st_size if isinstance(body, Path) else len(body)
        start, stop, status = 0, size, response.status
        if status == 200 and isinstance(body, Path) and (wanted := self.headers.get("Range")):
            span = self.byte_range(wanted, size)
            if span is None:
                status, body, start, stop = 416, b"", 0, 0
                response.headers["Content-Range"] = f"bytes */{size}"
            else:
                status, (start, stop) = 206, span
                response.headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        self.send_response(status)
        self.send_header("X-Request-Id", f"hub-{secrets.token_hex(6)}")
        for name, value in response.headers.items():
            self.send_header(name, value)
        if "Content-Length" not in response.headers:
            self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        if self.command == "HEAD":
            return
        limit = min((f.truncate for f in faults if f.truncate is not None), default=None)
        if limit is not None and limit < stop - start:
            stop, cut = start + limit, True
        else:
            cut = False
        flip = start + (stop - start) // 2 if any(f.corrupt for f in faults) else None
        for at, data in self.slices(body, start, stop):
            if flip is not None and at <= flip < at + len(data):
                data = data[: flip - at] + bytes([data[flip - at] ^ 0xFF]) + data[flip - at + 1 :]
            self.wfile.write(data)
        self.wfile.flush()
        if cut:
            raise Disconnect

    @staticmethod
    def slices(body: bytes | Path, start: int, stop: int) -> Iterator[tuple[int, bytes]]:
        if isinstance(body, bytes):
            yield start, body[start:stop]
            return
        with body.open("rb") as file:
            file.seek(start)
            while start < stop and (data := file.read(min(CHUNK, stop - start))):
                yield start, data
                start += len(data)

    @staticmethod
    def byte_range(header: str, size: int) -> tuple[int, int] | None:
        match = re.fullmatch(r"bytes=(\d*)-(\d*)", header.strip())
        if match is None or match.groups() == ("", ""):
            return 0, size
        first, last = match.groups()
        if first == "":
            return max(0, size - int(last)), size
        start, stop = int(first), min(size, int(last) + 1) if last else size
        return (start, stop) if start < stop else None

    # ------------------------------------------------------------------------------------- authorisation

    def writer(self, namespace: str) -> Token:
        if self.who is None:
            raise HubError(401, "Invalid username or password.")
        if self.who.role != "write":
            raise HubError(403, "you must use a write token to upload to a repository.")
        if namespace not in self.who.namespaces:
            raise HubError(403, f'You don\'t have the rights to use the namespace "{namespace}"')
        return self.who

    def readable(self, type: str, repo: str, content: bool = False) -> dict[str, Any]:
        """The repository, if this caller may see it; ``content`` asks also for what a gate keeps back."""
        found = self.store.load(type, repo)
        mine = self.who is not None and repo.split("/")[0] in self.who.namespaces
        if found is None or (found["private"] and not mine):
            if self.who is None:
                raise HubError(401, "Invalid username or password.", "RepoNotFound")
            raise HubError(404, "Repository not found", "RepoNotFound")
        if found["disabled"]:
            raise HubError(403, "Access to this resource is disabled.")
        if (
            content
            and found["gated"]
            and not mine
            and (self.who is None or self.who.user not in found.get("allowed", ()))
        ):
            message = f"Access to {type} {repo} is restricted and you are not in the authorized list."
            raise HubError(401 if self.who is None else 403, message, "GatedRepo")
        return found

    def writable(self, type: str, repo: str) -> dict[str, Any]:
        found = self.readable(type, repo)
        self.writer(repo.split("/")[0])
        return found

    def web_url(self, repo: Mapping[str, Any]) -> str:
        prefix = "" if repo["type"] == "model" else f"{repo['type']}s/"
        return f"{self.hub.endpoint}/{prefix}{repo['id']}"

    # ------------------------------------------------------------------------------- account and repositories

    @route("GET", "/api/whoami-v2")
    def whoami(self) -> Response:
        if self.who is None:
            raise HubError(401, "Invalid username or password.")
        orgs = [{"type": "org", "name": org, "fullname": org, "roleInOrg": "write"} for org in self.who.orgs]
        access = {"displayName": "tests", "role": self.who.role, "createdAt": now()}
        return Response.json(
            {
                "type": "user",
                "id": git_oid(self.who.user.encode())[:24],
                "name": self.who.user,
                "fullname": self.who.user.title(),
                "email": f"{self.who.user}@example.invalid",
                "emailVerified": True,
                "isPro": self.who.pro,
                "orgs": orgs,
                "auth": {"type": "access_token", "accessToken": access},
            }
        )

    @route("POST", "/api/repos/create")
    def create_repo(self) -> Response:
        wanted = self.json()
        type, name = wanted.get("type") or "model", wanted.get("name") or ""
        if type not in REPO_TYPES:
            raise HubError(400, f"invalid repo type {type!r}")
        if not re.fullmatch(r"(?!.*(--|\.\.))[\w][\w.-]{0,94}[\w]|\w", name) or name.endswith(".git"):
            raise HubError(400, f"Invalid repo name: {name}")
        if self.who is None:
            raise HubError(401, "Invalid username or password.")
        namespace = wanted.get("organization") or self.who.user
        if self.who.role != "write" or namespace not in self.who.namespaces:
            raise HubError(403, f'You don\'t have the rights to create a {type} under the namespace "{namespace}"')
        repo_id = f"{namespace}/{name}"
        with self.store.lock:
            if (found := self.store.load(type, repo_id)) is not None:
                raise HubError(409, f"You already created this {type} repo", body={"url": self.web_url(found)})
            fields: dict[str, Any] = {"private": wanted.get("visibility") == "private" or bool(wanted.get("private"))}
            if type == "space":
                if wanted.get("sdk") not in SPACE_SDKS:
                    raise HubError(400, f"Invalid Space SDK {wanted.get('sdk')!r}")
                if wanted["sdk"] != "static" and not self.who.pro and wanted.get("hardware") in (None, "cpu-basic"):
                    raise HubError(402, "A PRO subscription is required to create this Space on cpu-basic hardware.")
                fields["sdk"] = wanted["sdk"]
                fields["secrets"] = {s["key"]: s["value"] for s in wanted.get("secrets", [])}
                fields["variables"] = {v["key"]: v["value"] for v in wanted.get("variables", [])}
                fields["hardware"] = wanted.get("hardware") or "cpu-basic"
            found = self.store.create(type, repo_id, **fields)
        return Response.json({"url": self.web_url(found), "name": repo_id, "id": repo_id, "private": found["private"]})

    @route("DELETE", "/api/repos/delete")
    def delete_repo(self) -> Response:
        wanted = self.json()
        type = wanted.get("type") or "model"
        namespace = wanted.get("organization") or (self.who.user if self.who else "")
        with self.store.lock:
            found = self.writable(type, f"{namespace}/{wanted['name']}")
            self.store.repo_path(type, found["id"]).unlink()
        return Response(200)

    @route("POST", "/api/repos/move")
    def move_repo(self) -> Response:
        wanted = self.json()
        type = wanted.get("type") or "model"
        with self.store.lock:
            found = self.writable(type, wanted["fromRepo"])
            self.writer(wanted["toRepo"].split("/")[0])
            if self.store.load(type, wanted["toRepo"]):
                raise HubError(409, "destination exists")
            self.store.repo_path(type, found["id"]).unlink()
            self.store.save({**found, "id": wanted["toRepo"]})
        return Response(200)

    @route("PUT", "/api/{repo}/settings")
    def settings(self, type: str, repo: str) -> Response:
        wanted = self.json()
        with self.store.lock:
            found = self.writable(type, repo)
            if "visibility" in wanted:
                wanted["private"] = wanted.pop("visibility") == "private"
            found.update({k: v for k, v in wanted.items() if k in ("private", "gated", "disabled")})
            self.store.save(found)
        return Response.json({k: found[k] for k in ("private", "gated", "disabled")})

    @route("GET", "/api/{repo}/auth-check")
    def auth_check(self, type: str, repo: str) -> Response:
        self.readable(type, repo, content=True)
        return Response(200)

    @route("GET", "/api/(?P<type>models|datasets|spaces|kernels)")
    def list_repos(self, type: str) -> Response:
        author = self.query.get("author", [None])[0]
        search = self.query.get("search", [""])[0].lower()
        found = []
        for repo in self.store.all(type.removesuffix("s")):
            if (author in (None, repo["id"].split("/")[0])) and search in repo["id"].lower():
                try:
                    found.append(self.info_of(self.readable(repo["type"], repo["id"]), repo["refs"]["heads/main"]))
                except HubError:
                    continue
        wanted = set(self.query.get("filter", []))
        found = [r for r in found if wanted <= set(r["tags"])]
        if key := self.query.get("sort", [None])[0]:
            found.sort(key=lambda r: r.get(key) or 0, reverse=True)
        if expand := self.query.get("expand"):  # these and no others
            found = [{k: r[k] for k in ("_id", "id", *expand) if k in r} for r in found]
        at, limit = int(self.query.get("cursor", ["0"])[0]), int(self.query.get("limit", ["1000"])[0])
        page, headers = found[at : at + min(limit, self.hub.page)], {}
        if at + len(page) < len(found):
            rest = "&".join(f"{k}={quote(v)}" for k, values in self.query.items() if k != "cursor" for v in values)
            headers["Link"] = f'<{self.hub.endpoint}/api/{type}?{rest}&cursor={at + len(page)}>; rel="next"'
        return Response.json(page, headers=headers)

    # --------------------------------------------------------------------------------------------- reading

    def info_of(self, repo: dict[str, Any], oid: str, blobs: bool = False) -> dict[str, Any]:
        tree = repo["commits"][oid]["tree"]
        card, _ = (
            front_matter(self.hub.content(tree["README.md"]).read_text("utf-8", "replace"))
            if ("README.md" in tree)
            else ({}, None)
        )
        tags = [str(t) for t in card.get("tags") or []]
        for key, prefix in (
            ("library_name", ""), ("pipeline_tag", ""), ("license", "license:"), ("language", ""),
            ("datasets", "dataset:"), ("base_model", "base_model:"), ("sdk", ""),
        ):  # fmt: skip
            values = card.get(key) or []
            tags += [f"{prefix}{v}" for v in (values if isinstance(values, list) else [values])]
        if any(path.endswith(".safetensors") for path in tree):
            tags.append("safetensors")
        siblings = []
        for path, entry in sorted(tree.items()):
            sibling: dict[str, Any] = {"rfilename": path}
            if blobs:
                sibling |= {"size": entry["size"], "blobId": entry["oid"]}
                if "lfs" in entry:
                    pointer_size = len(pointer(entry["lfs"], entry["size"]))
                    sibling["lfs"] = {"sha256": entry["lfs"], "size": entry["size"], "pointerSize": pointer_size}
            siblings.append(sibling)
        info: dict[str, Any] = {
            "_id": git_oid(repo["id"].encode())[:24],
            "id": repo["id"],
            "author": repo["id"].split("/")[0],
            "sha": oid,
            "createdAt": repo["created"],
            "lastModified": repo["commits"][oid]["date"],
            "private": repo["private"],
            "gated": repo["gated"],
            "disabled": repo["disabled"],
            "downloads": repo.get("downloads", 0),
            "likes": 0,
            "tags": list(dict.fromkeys(tags)),
            "cardData": card,
            "siblings": siblings,
        }
        if repo["type"] == "model":
            info["modelId"] = repo["id"]
            info |= {k: card[k] for k in ("library_name", "pipeline_tag", "model-index") if card.get(k)}
            if "config.json" in tree:
                with contextlib.suppress(ValueError):
                    info["config"] = json.loads(self.hub.content(tree["config.json"]).read_bytes())
            if "model.safetensors" in tree:
                info["safetensors"] = self.safetensors_of(tree["model.safetensors"])
        elif repo["type"] == "space":
            info |= {"sdk": card.get("sdk", repo.get("sdk")), "runtime": self.runtime_of(repo)}
        return info

    def safetensors_of(self, entry: Mapping[str, Any]) -> dict[str, Any] | None:
        """Parameter counts, as the Hub shows them beside a model."""
        with self.hub.content(entry).open("rb") as file:
            try:
                header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
            except (struct.error, ValueError, MemoryError, OverflowError):
                return None
        counts: dict[str, int] = {}
        for name, tensor in header.items():
            if name != "__metadata__":
                count = 1
                for side in tensor["shape"]:
                    count *= side
                counts[tensor["dtype"]] = counts.get(tensor["dtype"], 0) + count
        return {"parameters": counts, "total": sum(counts.values())}

    @route("GET", "/api/{repo}")
    @route("GET", "/api/{repo}/revision/{revision}")
    def info(self, type: str, repo: str, revision: str = "main") -> Response:
        found = self.readable(type, repo)
        return Response.json(self.info_of(found, self.store.resolve(found, revision), "blobs" in self.query))

    @staticmethod
    def describe(path: str, entry: Mapping[str, Any], commit: Mapping[str, Any] | None) -> dict[str, Any]:
        value: dict[str, Any] = {"type": "file", "oid": entry["oid"], "size": entry["size"], "path": path}
        if "lfs" in entry:
            pointer_size = len(pointer(entry["lfs"], entry["size"]))
            value["lfs"] = {"oid": entry["lfs"], "size": entry["size"], "pointerSize": pointer_size}
        if "xet" in entry:
            value["xetHash"] = entry["xet"]
        if commit is not None:
            value["lastCommit"] = {"id": commit["oid"], "title": commit["title"], "date": commit["date"]}
        return value

    def listing(self, repo: dict[str, Any], oid: str, expand: bool) -> dict[str, dict[str, Any]]:
        """Every file and directory of a commit, by path."""
        commit = next(self.hub.ancestry(repo, oid)) if expand else None
        found: dict[str, dict[str, Any]] = {}
        for path, entry in sorted(repo["commits"][oid]["tree"].items()):
            found[path] = self.describe(path, entry, commit)
            parts = path.split("/")[:-1]
            for depth in range(1, len(parts) + 1):
                folder = "/".join(parts[:depth])
                value = {
                    "type": "directory",
                    "oid": git_oid(f"{oid}{folder}".encode(), "tree"),
                    "size": 0,
                    "path": folder,
                }
                if commit is not None:
                    value["lastCommit"] = {"id": oid, "title": commit["title"], "date": commit["date"]}
                found.setdefault(folder, value)
        return found

    @route("GET", "/api/{repo}/tree/{revision}(?:/(?P<path>.*))?")
    def tree(self, type: str, repo: str, revision: str, path: str = "") -> Response:
        found = self.readable(type, repo)
        oid = self.store.resolve(found, revision)
        expand = self.query.get("expand", [""])[0].lower() in ("true", "1")
        recursive = self.query.get("recursive", [""])[0].lower() in ("true", "1")
        listing = self.listing(found, oid, expand)
        path = path.strip("/")
        if path:
            if listing.get(path, {}).get("type") != "directory":
                raise HubError(404, f"{path} does not exist on {revision!r}", "EntryNotFound")
            listing = {k: v for k, v in listing.items() if k.startswith(f"{path}/")}
        if not recursive:
            depth = path.count("/") + 1 if path else 0
            listing = {k: v for k, v in listing.items() if k.count("/") == depth}
        entries = [listing[k] for k in sorted(listing)]
        at = int(self.query.get("cursor", ["0"])[0])
        page = entries[at : at + self.hub.page]
        headers = {}
        if at + len(page) < len(entries):
            rest = "&".join(f"{k}={quote(v[0])}" for k, v in self.query.items() if k != "cursor")
            here = f"{self.hub.endpoint}{urlsplit(self.path).path}"
            headers["Link"] = f'<{here}?{rest}&cursor={at + len(page)}>; rel="next"'
        return Response.json(page, headers=headers)

    @route("POST", "/api/{repo}/paths-info/{revision}")
    def paths_info(self, type: str, repo: str, revision: str) -> Response:
        found = self.readable(type, repo)
        oid = self.store.resolve(found, revision)
        if "json" in self.headers.get("Content-Type", ""):
            wanted = self.json()
            paths, expand = wanted["paths"], bool(wanted.get("expand"))
        else:
            form = parse_qs(self.data().decode())
            paths, expand = form.get("paths", []), form.get("expand", [""])[0].lower() in ("true", "1")
        listing = self.listing(found, oid, expand)
        return Response.json([listing[p] for p in paths if p in listing])

    @route("GET", "/api/{repo}/refs")
    def refs(self, type: str, repo: str) -> Response:
        found = self.readable(type, repo)
        value: dict[str, list[Any]] = {"branches": [], "tags": [], "converts": [], "pullRequests": []}
        kinds = {"heads": "branches", "tags": "tags", "pr": "pullRequests"}
        for ref, oid in found["refs"].items():
            kind, _, name = ref.partition("/")
            value[kinds[kind]].append({"name": name, "ref": f"refs/{ref}", "targetCommit": oid})
        return Response.json(value)

    @route("GET", "/api/{repo}/commits/{revision}")
    def commits(self, type: str, repo: str, revision: str) -> Response:
        found = self.readable(type, repo)
        return Response.json(
            [
                {
                    "id": commit["oid"],
                    "title": commit["title"],
                    "message": commit["message"],
                    "date": commit["date"],
                    "authors": [{"user": commit["author"]}],
                }
                for commit in self.hub.ancestry(found, self.store.resolve(found, revision))
            ]
        )

    @route("GET", "/{web}/(?:resolve|raw)/{revision}/(?P<path>.+)")
    def resolve(self, type: str, repo: str, revision: str, path: str) -> Response:
        found = self.readable(type, repo, content=True)
        oid = self.store.resolve(found, revision)
        headers = {"X-Repo-Commit": oid, "Accept-Ranges": "bytes"}
        entry = found["commits"][oid]["tree"].get(path)
        if entry is None:
            raise HubError(404, "Entry not found", "EntryNotFound", headers=headers)
        disposition = f"inline; filename*=UTF-8''{quote(path.rsplit('/', 1)[-1])}"
        if "lfs" not in entry:
            headers |= {"ETag": f'"{entry["oid"]}"', "Content-Disposition": disposition}
            headers["Content-Type"] = "text/plain; charset=utf-8"
            return Response(200, self.hub.content(entry), headers)
        headers |= {"X-Linked-Size": str(entry["size"]), "X-Linked-Etag": f'"{entry["lfs"]}"'}
        headers["ETag"] = f'"{entry["lfs"]}"'
        if "xet" in entry and self.hub.xet:
            route_ = f"{self.hub.endpoint}/api/{type}s/{repo}/xet-read-token/{oid}"
            rebuilt = f"{self.hub.endpoint}/xet/v1/reconstructions/{entry['xet']}"
            headers["X-Xet-Hash"] = entry["xet"]
            headers["X-Xet-Refresh-Route"] = route_
            headers["Link"] = f'<{route_}>; rel="xet-auth", <{rebuilt}>; rel="xet-reconstruction-info"'
        query = f"sig={self.hub.sign()}&type={type}&rev={oid}&path={quote(path, safe='')}"
        headers["Location"] = f"{self.hub.cdn}/{repo}?{query}"
        return Response(302, b"Found. Redirecting", headers)

    @route("GET", "/cdn/(?P<repo>[^/]+/[^/]+)")
    def cdn(self, type: str, repo: str) -> Response:
        query = {k: v[0] for k, v in self.query.items()}
        if query.get("sig") not in self.hub._signatures:
            raise HubError(403, "SignatureDoesNotMatch")
        found = self.store.load(query["type"], repo)
        assert found is not None
        entry = found["commits"][query["rev"]]["tree"][query["path"]]
        headers = {"ETag": f'"{entry["lfs"]}"', "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        return Response(200, self.hub.content(entry), headers)

    # --------------------------------------------------------------------------------------------- writing

    @route("POST", "/api/validate-yaml")
    def validate_yaml(self) -> Response:
        wanted = self.json()
        card, problem = front_matter(wanted.get("content", ""))
        errors = [problem] if problem else []
        warnings = [] if card or errors else ["empty or missing yaml metadata in repo card"]
        if wanted.get("repoType") == "space" and not errors:
            if card.get("sdk") not in SPACE_SDKS:
                errors.append(f'"sdk" must be one of [{", ".join(SPACE_SDKS)}]')
            for key in ("colorFrom", "colorTo"):
                if card.get(key, "red") not in SPACE_COLORS:
                    errors.append(f'"{key}" must be one of [{", ".join(SPACE_COLORS)}]')
            if len(str(card.get("short_description", ""))) > 60:
                errors.append('"short_description" length must be less than or equal to 60 characters long')
        value = {"errors": [{"message": e} for e in errors], "warnings": [{"message": w} for w in warnings]}
        return Response.json({**value, **({"error": "; ".join(errors)} if errors else {})}, 400 if errors else 200)

    @route("POST", "/api/{repo}/preupload/{revision}")
    def preupload(self, type: str, repo: str, revision: str) -> Response:
        found = self.readable(type, repo) if "create_pr" in self.query else self.writable(type, repo)
        tree = found["commits"][self.store.resolve(found, revision)]["tree"]
        wanted = self.json()
        ignore = wanted.get("gitIgnore")
        if ignore is None and ".gitignore" in tree:
            ignore = self.hub.content(tree[".gitignore"]).read_text("utf-8", "replace")
        answers = []
        for file in wanted["files"]:
            path, entry = file["path"], tree.get(file["path"], {})
            large = self.hub.is_large(path, file["size"], base64.b64decode(file.get("sample") or ""))
            answer = {"path": path, "uploadMode": "lfs" if large else "regular"}
            answer["shouldIgnore"] = self.ignored(path, ignore or "")
            answer["oid"] = entry.get("lfs") or entry.get("oid")
            answers.append(answer)
        return Response.json({"files": answers})

    @staticmethod
    def ignored(path: str, rules: str) -> bool:
        """A plain reading of .gitignore: comments, globs on a name or on the whole path, directories, negation."""
        verdict = False
        for rule in (line.strip() for line in rules.splitlines()):
            if not rule or rule.startswith("#"):
                continue
            keep, rule = rule.startswith("!"), rule.removeprefix("!")
            parts = path.split("/")
            prefixes = ["/".join(parts[: i + 1]) for i in range(len(parts))]
            rule = rule.rstrip("/")
            names = prefixes if "/" in rule else parts
            if any(fnmatch.fnmatch(name, rule.lstrip("/")) for name in names):
                verdict = not keep
        return verdict

    @route("POST", r"/(?:(?P<type>datasets|spaces|kernels)/)?(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch")
    def lfs_batch(self, type: str, repo: str) -> Response:
        self.writable(type, repo)
        objects = []
        for wanted in self.json()["objects"]:
            oid, size = wanted["oid"], wanted["size"]
            answer: dict[str, Any] = {"oid": oid, "size": size, "authenticated": True}
            if not (self.store.lfs_path(oid).exists() or self.store.xet_of(oid)):
                base = f"{self.hub.endpoint}/lfs"
                verify = {"href": f"{base}/verify", "header": {}}
                if size > self.hub.multipart:
                    count = -(-size // self.hub.multipart)
                    header = {"chunk_size": str(self.hub.multipart)}
                    for part in range(1, count + 1):
                        header[str(part)] = f"{base}/upload/{oid}?part={part}&sig={self.hub.sign()}"
                    upload = {"href": f"{base}/complete/{oid}?size={size}", "header": header}
                else:
                    upload = {"href": f"{base}/upload/{oid}?sig={self.hub.sign()}", "header": {}}
                answer["actions"] = {"upload": upload, "verify": verify}
            objects.append(answer)
        return Response.json({"transfer": "basic", "objects": objects, "hash_algo": "sha256"})

    @route("PUT", "/lfs/upload/{oid}")
    def lfs_upload(self, oid: str) -> Response:
        if self.query.get("sig", [None])[0] not in self.hub._signatures:
            raise HubError(403, "SignatureDoesNotMatch")
        scratch = self.store.root / "parts" / secrets.token_hex(8)
        digest = hashlib.sha256()
        with scratch.open("wb") as file:
            for data in self.read_chunks():
                digest.update(data)
                file.write(data)
        part = self.query.get("part", [None])[0]
        if part is None and digest.hexdigest() != oid:
            scratch.unlink()
            raise HubError(400, f"content has sha256 {digest.hexdigest()}, expected {oid}")
        os.replace(scratch, self.store.lfs_path(oid) if part is None else scratch.with_name(f"{oid}.{part}"))
        return Response(200, headers={"ETag": f'"{digest.hexdigest()[:32]}"'})

    @route("POST", "/lfs/complete/{oid}")
    def lfs_complete(self, oid: str) -> Response:
        scratch = self.store.root / "parts" / secrets.token_hex(8)
        digest = hashlib.sha256()
        with scratch.open("wb") as file:
            for part in sorted(self.json()["parts"], key=lambda p: p["partNumber"]):
                piece = self.store.root / "parts" / f"{oid}.{part['partNumber']}"
                if not piece.exists():
                    raise HubError(400, f"part {part['partNumber']} was not uploaded")
                data = piece.read_bytes()
                digest.update(data)
                file.write(data)
        if digest.hexdigest() != oid:
            raise HubError(400, "the parts do not make up the object")
        os.replace(scratch, self.store.lfs_path(oid))
        return Response.json({"success": True})

    @route("POST", "/lfs/verify")
    def lfs_verify(self) -> Response:
        wanted = self.json()
        path = self.store.lfs_path(wanted["oid"])
        if not path.exists() or path.stat().st_size != wanted["size"]:
            raise HubError(404, "object not found")
        return Response.json({"success": True})

    @route("POST", "/api/{repo}/commit/{revision}")
    def commit(self, type: str, repo: str, revision: str) -> Response:
        pull = self.query.get("create_pr", ["0"])[0] == "1"
        try:
            items = [json.loads(line) for line in self.data().splitlines() if line.strip()]
        except ValueError as error:
            raise HubError(400, f"malformed ndjson: {error}") from error
        with self.store.lock:
            found = self.readable(type, repo) if pull else self.writable(type, repo)
            if self.who is None:
                raise HubError(401, "Invalid username or password.")
            header: dict[str, Any] = next((i["value"] for i in items if i["key"] == "header"), {})
            parent = self.store.resolve(found, revision)
            if (expected := header.get("parentCommit")) and not parent.startswith(expected):
                raise HubError(412, "A commit has happened since. Please refresh and try again.")
            ref = f"heads/{revision}"
            if pull:
                ref = self.new_pull(found, parent)
            elif revision.startswith("refs/pr/"):
                ref = revision.removeprefix("refs/")
            elif ref not in found["refs"]:
                raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
            tree = self.apply(dict(found["commits"][parent]["tree"]), items)
            oid = self.store.commit(
                found, ref, tree, header.get("summary", ""), header.get("description", ""), self.who.user
            )
        value = {"success": True, "commitOid": oid, "commitUrl": f"{self.web_url(found)}/commit/{oid}"}
        if pull:
            value["pullRequestUrl"] = f"{self.web_url(found)}/discussions/{found['pulls']}"
        return Response.json(value)

    def apply(self, tree: dict[str, Any], items: Iterable[dict[str, Any]]) -> dict[str, Any]:
        """Carry out a commit's operations, or refuse the whole commit."""
        for item in items:
            key, value = item["key"], item["value"]
            path = value.get("path", "")
            if key == "header":
                continue
            if path.startswith("/") or ".." in path.split("/") or ".git" in path.split("/"):
                raise HubError(400, f"invalid path: {path}")
            if key == "file":
                data = (
                    base64.b64decode(value["content"])
                    if value.get("encoding") == "base64"
                    else value["content"].encode()
                )
                tree[path] = {"oid": self.store.put_blob(data), "size": len(data)}
            elif key == "lfsFile":
                oid = value["oid"]
                stored, by_xet = self.store.lfs_path(oid), self.store.xet_of(oid)
                if not stored.exists() and by_xet is None:
                    raise HubError(400, f"LFS pointer pointed to a file that does not exist: {path} (sha256 {oid})")
                size = by_xet["size"] if by_xet else stored.stat().st_size
                tree[path] = self.hub._large_entry(oid, size, by_xet["hash"] if by_xet else None)
            elif key == "deletedFile":
                if tree.pop(path, None) is None:
                    raise HubError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
            elif key == "deletedFolder":
                folder = path.rstrip("/") + "/"
                for name in [name for name in tree if name.startswith(folder)]:
                    del tree[name]
            else:
                raise HubError(400, f"unknown operation {key!r}")
        return tree

    @route("POST|DELETE", "/api/{repo}/branch/{branch}")
    def branch(self, type: str, repo: str, branch: str) -> Response:
        with self.store.lock:
            found = self.writable(type, repo)
            ref = f"heads/{branch}"
            if self.command == "DELETE":
                if branch == "main" or ref not in found["refs"]:
                    raise HubError(403 if branch == "main" else 404, f"cannot delete branch {branch}")
                del found["refs"][ref]
            elif ref in found["refs"] and not self.json().get("overwrite"):
                raise HubError(409, f"Reference already exists: refs/{ref}")
            else:
                found["refs"][ref] = self.store.resolve(found, self.json().get("startingPoint") or "main")
            self.store.save(found)
        return Response(200)

    @route("POST|DELETE", "/api/{repo}/tag/{revision}")
    def tag(self, type: str, repo: str, revision: str) -> Response:
        with self.store.lock:
            found = self.writable(type, repo)
            if self.command == "DELETE":
                if found["refs"].pop(f"tags/{revision}", None) is None:
                    raise HubError(404, f"tag {revision} does not exist", "RevisionNotFound")
            else:
                ref = f"tags/{self.json()['tag']}"
                if ref in found["refs"]:
                    raise HubError(409, f"Reference already exists: refs/{ref}")
                found["refs"][ref] = self.store.resolve(found, revision)
            self.store.save(found)
        return Response(200)

    def new_pull(self, repo: dict[str, Any], parent: str) -> str:
        repo["pulls"] += 1
        repo["refs"][f"pr/{repo['pulls']}"] = parent
        self.store.save(repo)
        return f"pr/{repo['pulls']}"

    @route("POST", "/api/{repo}/discussions")
    def open_discussion(self, type: str, repo: str) -> Response:
        with self.store.lock:
            found = self.readable(type, repo)
            if self.who is None:
                raise HubError(401, "Invalid username or password.")
            wanted = self.json()
            self.new_pull(found, found["refs"]["heads/main"])
            found.setdefault("discussions", {})[str(found["pulls"])] = {**wanted, "author": self.who.user, "at": now()}
            self.store.save(found)
        return Response.json({"num": found["pulls"]})

    @route("GET", r"/api/{repo}/discussions/(?P<number>\d+)")
    def discussion(self, type: str, repo: str, number: str) -> Response:
        found = self.readable(type, repo)
        value = found.get("discussions", {}).get(number)
        if value is None:
            raise HubError(404, "discussion not found")
        return Response.json(
            {
                "title": value["title"],
                "num": int(number),
                "author": {"name": value["author"]},
                "createdAt": value["at"],
                "status": "open",
                "repo": {"name": repo, "type": type},
                "isPullRequest": bool(value.get("pullRequest")),
                "changes": {"base": "refs/heads/main"},
                "filesWithConflicts": [],
                "events": [],
                "diff": "",
            }
        )

    # ---------------------------------------------------------------------------------------- Space settings

    @staticmethod
    def runtime_of(repo: Mapping[str, Any]) -> dict[str, Any]:
        hardware = repo.get("hardware", "cpu-basic")
        return {"stage": "RUNNING", "hardware": {"current": hardware, "requested": hardware}, "gcTimeout": 172800}

    @route("GET", "/api/(?P<type>spaces)/(?P<repo>[^/]+/[^/]+)/runtime")
    def space_runtime(self, type: str, repo: str) -> Response:
        return Response.json(self.runtime_of(self.readable(type, repo)))

    @route("GET|POST|DELETE", "/api/(?P<type>spaces)/(?P<repo>[^/]+/[^/]+)/(?P<kind>secrets|variables)")
    def space_values(self, type: str, repo: str, kind: str) -> Response:
        with self.store.lock:
            found = self.writable(type, repo)
            if self.command == "POST":
                found[kind][self.json()["key"]] = self.json().get("value")
            elif self.command == "DELETE":
                found[kind].pop(self.json()["key"], None)
            self.store.save(found)
        shown = {
            k: {"key": k, "updatedAt": now(), **({"value": v} if kind == "variables" else {})}
            for k, v in found[kind].items()
        }
        return Response.json(shown)

    @route("POST", "/api/(?P<type>spaces)/(?P<repo>[^/]+/[^/]+)/(?P<what>restart|pause|hardware|sleeptime)")
    def space_action(self, type: str, repo: str, what: str) -> Response:
        with self.store.lock:
            found = self.writable(type, repo)
            if what == "hardware":
                found["hardware"] = self.json()["flavor"]
                self.store.save(found)
        return Response.json(self.runtime_of(found))

    # ------------------------------------------------------------------------------------------------- xet

    @route("GET", "/api/{repo}/xet-(?P<scope>read|write)-token/{revision}")
    def xet_access(self, type: str, repo: str, scope: str, revision: str) -> Response:
        if not self.hub.xet:
            raise HubError(404, "xet is off")
        if scope == "write" and "create_pr" not in self.query:
            self.writable(type, repo)
        else:
            self.readable(type, repo, content=scope == "read")
        info = self.hub.xet_token(scope)
        headers = {"X-Xet-Cas-Url": info["casUrl"], "X-Xet-Access-Token": info["accessToken"]}
        return Response.json(info, headers={**headers, "X-Xet-Token-Expiration": str(info["exp"])})

    def cas(self, scope: str) -> None:
        held = self.hub._xet_tokens.get(self.headers.get("Authorization", "").removeprefix("Bearer "))
        if held is None:
            raise HubError(401, "unknown xet token")
        if scope == "write" and held != "write":
            raise HubError(403, "the xet token does not allow writing")

    @route("POST", "/xet/v1/xorbs/default/(?P<hash>[0-9a-f]{64})")
    def xorb_put(self, hash: str) -> Response:
        self.cas("write")
        path, data = self.store.root / "xorbs" / hash, self.data()
        if not xorb_chunks(data):
            raise HubError(400, "malformed xorb")
        fresh = not path.exists()
        self.store.write(path, data)
        return Response.json({"was_inserted": fresh})

    @route("POST", "/xet/v1/shards")
    def shard_put(self) -> Response:
        self.cas("write")
        try:
            with self.store.lock:
                self.store.add_shard(self.data())
        except struct.error as error:
            raise HubError(400, f"malformed shard: {error}") from error
        return Response.json({"result": 1})

    @route("GET", "/xet/v1/reconstructions/(?P<hash>[0-9a-f]{64})")
    def reconstruction(self, hash: str) -> Response:
        self.cas("read")
        terms = self.store.xet_file(hash)
        if terms is None:
            raise HubError(404, "no such xet file")
        size = sum(t[1] for t in terms)
        span = self.byte_range(self.headers.get("Range", "bytes=0-"), size) if size else (0, 0)
        if span is None:
            raise HubError(416, "range not satisfiable")
        start, stop = span
        at, offset = 0, None
        kept: list[dict[str, Any]] = []
        fetch: dict[str, list[dict[str, Any]]] = {}
        for xorb, _, first, end in terms:
            chunks = self.store.chunks(xorb)
            wanted = []
            for index in range(first, end):  # the chunks of this term that overlap the range
                length = chunks[index][2]
                if at < stop and at + length > start:
                    wanted.append(index)
                    offset = start - at if offset is None else offset
                at += length
            if not wanted:
                continue
            low, high = wanted[0], wanted[-1] + 1
            unpacked = sum(chunks[i][2] for i in wanted)
            kept.append({"hash": xorb, "unpacked_length": unpacked, "range": {"start": low, "end": high}})
            piece = {
                "range": {"start": low, "end": high},
                "url": f"{self.hub.endpoint}/xet/data/{xorb}?sig={self.hub.sign()}",
                "url_range": {"start": chunks[low][0], "end": chunks[high - 1][1] - 1},
            }
            fetch.setdefault(xorb, []).append(piece)
        return Response.json({"offset_into_first_range": max(0, offset or 0), "terms": kept, "fetch_info": fetch})

    @route("GET", "/xet/data/(?P<hash>[0-9a-f]{64})")
    def xorb_get(self, hash: str) -> Response:
        if self.query.get("sig", [None])[0] not in self.hub._signatures:
            raise HubError(403, "SignatureDoesNotMatch")
        path = self.store.root / "xorbs" / hash
        if not path.exists():
            raise HubError(404, "no such xorb")
        return Response(200, path, {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"})

    # ------------------------------------------------------------------------------- odds and ends, control

    @route("GET|POST", "/api/telemetry(?:/.*)?|/xet/v1/telemetry")
    def telemetry(self) -> Response:
        return Response.json({})

    @route("GET", "/__hub__/requests")
    def control_requests(self) -> Response:
        return Response.json(self.hub.calls())

    @route("POST|DELETE", "/__hub__/faults")
    def control_faults(self) -> Response:
        if self.command == "DELETE":
            self.hub.reset()
            return Response.json({})
        wanted = self.json()
        try:
            self.hub.fail(**wanted)
        except TypeError as error:
            raise HubError(400, str(error)) from error
        return Response.json(wanted)


# ------------------------------------------------------------------------------------------------------- CLI


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Serve a loopback Hugging Face Hub for tests.")
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1 (0, the default: a free one)")
    parser.add_argument("--root", help="where to keep everything (default: a temporary directory)")
    parser.add_argument("--token", action="append", default=[], metavar="TOKEN=USER[:ROLE[:ORG,ORG]]")
    parser.add_argument("--seed", action="append", default=[], metavar="[TYPE/]NAMESPACE/NAME=DIRECTORY")
    parser.add_argument("--no-xet", action="store_true", help="no xet storage: clients need HF_HUB_DISABLE_XET=1")
    parser.add_argument("--ready-file", help="write the environment there, as JSON, once serving")
    args = parser.parse_args(argv)
    tokens: dict[str, Token] | None = None
    for text in args.token:
        token, _, rest = text.partition("=")
        parts = [*rest.split(":"), "", ""]
        held = Token(parts[0], parts[1] or "write", tuple(org for org in parts[2].split(",") if org))
        tokens = {**(tokens or {}), token: held}
    hub = HubServer(args.root, port=args.port, tokens=tokens, xet=not args.no_xet)
    for text in args.seed:
        where, _, directory = text.partition("=")
        *kind, namespace, name = where.split("/")
        hub.seed(f"{namespace}/{name}", directory, kind[0].removesuffix("s") if kind else "model")
    env = hub.env(token=next(iter(hub.tokens)))
    hub.start()
    for name, value in env.items():
        print(f"export {name}={value}")
    sys.stdout.flush()
    if args.ready_file:
        hub.store.write(Path(args.ready_file).resolve(), json.dumps(env).encode())
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        pass
    finally:
        hub.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
