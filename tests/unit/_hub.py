"""The parts of the Hugging Face hub that its library uses to fetch a model, on loopback."""

from __future__ import annotations

import hashlib
import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
from safetensors.numpy import save

REPO = "org/small"
OLD, NEW = "a" * 40, "0123456789" * 4
TENSORS = {"wte": np.arange(30_000, dtype=np.float32).reshape(100, 300)}
WEIGHTS = "model.safetensors"
FILES = {"config.json": b'{"model_type": "gpt2"}', "merges.txt": b"#version: 0.2\n", WEIGHTS: save(TENSORS)}
SURPLUS = dict.fromkeys(
    "README.md modeling.py flax_model.msgpack pytorch_model.bin spiece.model onnx/config.json "
    "model-fp16.safetensors tf_model.h5 model.py/model.safetensors".split(),
    b"not wanted",
)
TOKEN = "hf_canary0123456789"


def digest(name: str, data: bytes) -> str:
    if name.endswith((".safetensors", ".bin")):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Hub(ThreadingHTTPServer):
    """The parts of the hub's API that its library uses to fetch a model, on loopback."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.commits: dict[str, dict[str, bytes]] = {NEW: FILES | SURPLUS}
        self.branches = {"main": NEW}
        self.asked: list[tuple[str, str]] = []  # method and path of each request
        self.headers: list[Any] = []
        self.ranges: list[str] = []
        self.drop: set[str] = set()  # files whose first transfer breaks off half-way
        self.swapped: dict[str, bytes] = {}  # files given in place of those listed
        self.refusal: tuple[int, str] | None = None  # status and error code of every answer
        self.gated = False
        self.slow = 0.0  # seconds before each answer

    @property
    def fetched(self) -> list[str]:
        return sorted(
            path.split("/")[-1] for method, path in self.asked if method == "GET" if "/resolve/" in path
        )


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def answer(self) -> None:
        hub, path = self.server, unquote(urlsplit(self.path).path)
        hub.asked.append((self.command, path))
        hub.headers.append(self.headers)
        time.sleep(hub.slow)
        if hub.refusal:
            status, code = hub.refusal
            self.reply(status, f"no, {TOKEN}".encode(), **({"X_Error_Code": code} if code else {}))
        elif path.startswith(f"/api/models/{REPO}"):
            self.list(path.removeprefix(f"/api/models/{REPO}").strip("/"))
        elif path.startswith(f"/{REPO}/resolve/"):
            commit, _, name = path.removeprefix(f"/{REPO}/resolve/").partition("/")
            self.give(commit, name)
        else:
            self.reply(404, X_Error_Code="RepoNotFound")

    def list(self, wanted: str) -> None:
        kind, _, revision = (wanted or "revision/main").partition("/")
        commit = self.server.branches.get(revision, revision)
        if commit not in self.server.commits:
            return self.reply(404, X_Error_Code="RevisionNotFound")
        files = []
        for name, data in self.server.commits[commit].items():
            oid, about = digest(name, data), {"type": "file", "path": name, "rfilename": name}
            if len(oid) == 64:
                about["lfs"] = {"oid": oid, "sha256": oid, "size": len(data), "pointerSize": 134}
            files.append({**about, "size": len(data), "oid": oid[:40], "blobId": oid[:40]})
        found = files if kind == "tree" else {"id": REPO, "sha": commit, "siblings": files}
        self.reply(200, json.dumps(found).encode())

    def give(self, commit: str, name: str) -> None:
        hub = self.server
        if hub.gated:
            return self.reply(403, X_Error_Code="GatedRepo")
        listed = hub.commits[commit][name]
        data = hub.swapped.get(name, listed)
        etag = f'"{digest(name, listed)}"'
        about = {"ETag": etag, "X_Linked_Etag": etag, "X_Repo_Commit": commit, "Accept_Ranges": "bytes"}
        if self.command == "GET" and name in hub.drop:
            hub.drop.remove(name)
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
        elif asked := self.headers.get("Range"):
            hub.ranges.append(asked)
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            span = f"bytes {start}-{len(data) - 1}/{len(data)}"
            self.reply(206, data[start:], Content_Range=span, **about)
        else:
            self.reply(200, data, **about)

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()
