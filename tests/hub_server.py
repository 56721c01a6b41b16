"""A hub behind a socket: the few endpoints that ``huggingface_hub`` asks when a folder is published, files kept in memory."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "c" * 40


class Hub:
    """Repositories by ``dataset/owner/name`` or ``model/owner/name``; only ``token`` may use it."""

    def __init__(self, token: str) -> None:
        self.token = token
        self.files: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.url = ""

    def create(self, name: str, *, private: bool = True, files: dict[str, bytes] | None = None) -> None:
        """A repository as the hub makes it."""
        self.private[name] = private
        self.files[name] = {".gitattributes": b"", **(files or {})}


@contextmanager
def hub(token: str) -> Iterator[Hub]:
    """A running hub on a free port of 127.0.0.1."""
    state = Hub(token)

    class Handler(_Handler):
        hub = state

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the library's
        pass

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        if self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            self._send(401, {"error": "no"}, {"X-Error-Message": "Invalid credentials in Authorization header"})
        elif path == ["api", "validate-yaml"]:
            self._send(200, {"errors": [], "warnings": []})
        elif path == ["api", "repos", "create"]:
            self._create(json.loads(body))
        elif "resolve" in path:
            self._resolve(path)
        else:
            self._repository(path, body)

    def _create(self, asked: dict[str, Any]) -> None:
        kind = asked.get("type", "model")
        name = f"{asked['organization']}/{asked['name']}"
        if f"{kind}/{name}" not in self.hub.files:
            private = asked.get("private", asked.get("visibility") == "private")
            self.hub.create(f"{kind}/{name}", private=private)
        self._send(200, {"url": self._url(kind, name)})

    def _url(self, kind: str, name: str) -> str:
        return f"{self.hub.url}/{'datasets/' if kind == 'dataset' else ''}{name}"

    def _repository(self, path: list[str], body: bytes) -> None:
        kind, name, what = path[1].removesuffix("s"), "/".join(path[2:4]), path[4:]
        files = self.hub.files.get(f"{kind}/{name}")
        if files is None:
            self._send(404, {"error": "no such repository"}, {"X-Error-Code": "RepoNotFound"})
        elif not what or what[0] == "revision":
            siblings = [{"rfilename": file} for file in sorted(files)]
            private = self.hub.private[f"{kind}/{name}"]
            self._send(200, {"id": name, "private": private, "siblings": siblings, "sha": COMMIT, "tags": []})
        elif what[0] == "tree":
            self._send(
                200, [{"type": "file", "path": file, "size": len(text), "oid": "0"} for file, text in files.items()]
            )
        elif what[0] == "preupload":
            asked = [file["path"] for file in json.loads(body)["files"]]
            self._send(200, {"files": [{"path": one, "uploadMode": "regular", "shouldIgnore": False} for one in asked]})
        elif what[0] == "commit":
            for line in body.decode().splitlines():
                change = json.loads(line)
                if change["key"] == "file":
                    files[change["value"]["path"]] = base64.b64decode(change["value"]["content"])
                elif change["key"] == "deletedFile":
                    del files[change["value"]["path"]]
            url = f"{self._url(kind, name)}/commit/{COMMIT}"
            self._send(200, {"commitUrl": url, "commitOid": COMMIT, "hookOutput": ""})
        else:
            self._send(404, {"error": "unknown"})

    def _resolve(self, path: list[str]) -> None:
        place = path.index("resolve")
        kind, name = ("dataset" if path[0] == "datasets" else "model"), "/".join(path[place - 2 : place])
        content = self.hub.files[f"{kind}/{name}"]["/".join(path[place + 2 :])]
        self._send(200, content, {"ETag": hashlib.sha256(content).hexdigest(), "X-Repo-Commit": COMMIT})

    def _send(self, status: int, answer: Any, headers: dict[str, str] | None = None) -> None:
        body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
