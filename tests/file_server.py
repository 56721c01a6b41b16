"""A web server on a real socket that gives prepared files, and a small model hub with one dataset at one commit."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, NamedTuple, Self
from urllib.parse import urlsplit


class Answer(NamedTuple):
    """What the server says to one request. ``cut``: so many bytes of what it promises are missing."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = {}
    cut: int = 0


class FileServer:
    """Gives ``answers`` by path; a list is given one after the other, the last one again and again. ``asked``: the paths."""

    def __init__(self, answers: Mapping[str, Answer | Sequence[Answer]] | None = None) -> None:
        self.answers = {path: [one] if isinstance(one, Answer) else list(one) for path, one in (answers or {}).items()}
        self.asked: list[str] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version: ClassVar[str] = "HTTP/1.1"

            def do_GET(self) -> None:
                owner.asked.append(self.path)
                answer = owner.answer(self.path)
                self.send_response(answer.status)
                for name, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(answer.body[: len(answer.body) - answer.cut])
                if answer.cut:
                    self.close_connection = True

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, *_args: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def answer(self, path: str) -> Answer:
        """What is said to a request for ``path``."""
        known = self.answers.get(urlsplit(path).path)
        if known is None:
            return Answer(b"not here", 404)
        return known.pop(0) if len(known) > 1 else known[0]

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class Hub(FileServer):
    """The hub's API as far as loading a dataset asks it: one public dataset with its files at one commit."""

    def __init__(self, name: str, commit: str, files: Mapping[str, bytes]) -> None:
        super().__init__()
        self.name, self.commit, self.files = name, commit, files

    def answer(self, path: str) -> Answer:
        plain = urlsplit(path).path
        resolve, api = f"/datasets/{self.name}/resolve/", f"/api/datasets/{self.name}"
        if not plain.startswith((resolve, api)):
            return Answer(status=404, headers={"X-Error-Code": "RepoNotFound"})
        if self.commit not in plain:
            return Answer(status=404, headers={"X-Error-Code": "RevisionNotFound"})
        if plain.startswith(resolve):
            return self._file(plain.removeprefix(f"{resolve}{self.commit}/"))
        if plain == f"{api}/revision/{self.commit}":
            siblings = [{"rfilename": file} for file in self.files]
            return self._json({"id": self.name, "sha": self.commit, "private": False, "tags": [], "siblings": siblings})
        folder = plain.removeprefix(f"{api}/tree/{self.commit}").strip("/")
        inside = [file.removeprefix(f"{folder}/") for file in self.files if not folder or file.startswith(f"{folder}/")]
        children = dict.fromkeys(file.split("/")[0] for file in inside)
        return self._json([self._described(f"{folder}/{child}".lstrip("/")) for child in children])

    def _file(self, file: str) -> Answer:
        headers = {"X-Repo-Commit": self.commit}
        if file not in self.files:
            return Answer(status=404, headers={**headers, "X-Error-Code": "EntryNotFound"})
        return Answer(
            self.files[file], headers={**headers, "ETag": f'"{hashlib.sha256(self.files[file]).hexdigest()}"'}
        )

    def _described(self, file: str) -> dict[str, Any]:
        if file not in self.files:
            return {"type": "directory", "path": file, "oid": hashlib.sha256(file.encode()).hexdigest()[:40]}
        oid = hashlib.sha256(self.files[file]).hexdigest()[:40]
        return {"type": "file", "path": file, "size": len(self.files[file]), "oid": oid}

    def _json(self, value: Any) -> Answer:
        return Answer(json.dumps(value).encode(), headers={"Content-Type": "application/json"})
