"""Servers on a real socket that misbehave in the ways that public SPARQL endpoints do.

:class:`FaultServer` gives prepared replies; :class:`FaultProxy` stands before a real endpoint and spoils its answers.
"""

from __future__ import annotations

import gzip
import json
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import parse_qs

import urllib3

BODY = json.dumps({"head": {"vars": ["s"]}, "results": {"bindings": [{"s": {"type": "uri", "value": "http://x/1"}}]}})


class Reply(NamedTuple):
    """An HTTP answer as it goes over the wire; one that is not ``whole`` ends with the connection."""

    data: bytes
    whole: bool = True


Misbehaviour = Callable[[socket.socket], None]


def reply(status: int = 200, body: bytes | str = BODY, *, cut: int = 0, chunked: bool = False, **headers: str) -> Reply:
    """A SPARQL JSON answer; the last ``cut`` bytes of what it promises are missing."""
    content = body.encode() if isinstance(body, str) else body
    lines = {"Content-Type": "application/sparql-results+json"}
    lines |= {"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": str(len(content))}
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    if chunked:
        parts = [content[start : start + 100] for start in range(0, len(content), 100)]
        content = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in [*parts, b""])
    return Reply(f"HTTP/1.1 {status} X\r\n{head}\r\n".encode() + content[: len(content) - cut], whole=cut == 0)


def drip(connection: socket.socket) -> None:
    """A body that comes a byte at a time for ten seconds."""
    connection.sendall(reply(body=" " * 1000, cut=1000).data)
    _drip(connection)


def drip_head(connection: socket.socket) -> None:
    """A header that never ends."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    _drip(connection)


def _drip(connection: socket.socket) -> None:
    for _ in range(200):
        connection.sendall(b" ")
        time.sleep(0.05)


def reset(connection: socket.socket) -> None:
    """The connection is reset in place of an answer."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


class FaultServer:
    """Answers each request with the next of its replies (the last one for ever), and keeps what it was asked."""

    def __init__(self) -> None:
        self.replies: list[Reply | Misbehaviour] = []
        self.requests: list[tuple[dict[str, str], str]] = []
        self.times: list[float] = []
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/sparql"
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def answer(self, query: str) -> Reply | Misbehaviour:
        """What is answered to a query."""
        return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]

    def _listen(self) -> None:
        while True:
            try:
                connection, _address = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection, connection.makefile("rb") as stream:
                while stream.readline():
                    headers = {}
                    while (line := stream.readline().decode().strip()) != "":  # or the end, if the client was killed
                        name, _, value = line.partition(": ")
                        headers[name.lower()] = value
                    body = stream.read(int(headers.get("content-length", "0")))
                    if not body or len(body) < int(headers.get("content-length", "0")):
                        return  # the client was killed while it asked
                    query = parse_qs(body.decode())["query"][0]
                    self.requests.append((headers, query))
                    self.times.append(time.monotonic())
                    answer = self.answer(query)
                    if not isinstance(answer, Reply):
                        answer(connection)
                        return
                    connection.sendall(answer.data)
                    if not answer.whole:
                        connection.shutdown(socket.SHUT_RDWR)
                        return
        except OSError:
            pass

    def close(self) -> None:
        """Stop listening and drop all connections."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            with suppress(OSError):  # ended already
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)


class FaultProxy(FaultServer):
    """A real endpoint at ``target`` whose answers to each query are spoiled up to three times, drawn by the seed.

    One of these is slow in ``slow`` queries at most; the very first query is slow twice, unless ``slow`` is 0. ``holds``
    has the times from and until which it asked not to be asked; from request number ``refuse_from`` on (counted from 1)
    it refuses everybody.
    """

    QUICK = (
        *("429", "429", "429", "503", "503 wait", "500", "cut", "cut gzip", "cut chunked", "half", "half gzip"),
        *("wrong type", "wrong type, empty", "empty", "reset"),
    )
    SLOW = ("drip", "drip head")

    def __init__(self, target: str, seed: int, slow: int = 1, refuse_from: int | None = None) -> None:
        self._target, self._seed, self._slow, self._refuse_from = target, seed, slow, refuse_from
        self._plans: dict[str, list[str]] = {}
        self._lock = threading.Lock()
        self.holds: list[tuple[float, float]] = []
        self.faults: Counter[str] = Counter()
        super().__init__()

    def answer(self, query: str) -> Reply | Misbehaviour:
        if self._refuse_from is not None and len(self.requests) >= self._refuse_from:
            return reply(403, "banned")
        with self._lock:
            plan = self._plan(query)
            fault = plan.pop() if plan else ""
            self.faults[fault] += 1
        return self._spoilt(fault, query)

    def _plan(self, query: str) -> list[str]:
        if query not in self._plans:
            rng = random.Random(f"{self._seed} {query}")
            plan = rng.choices(self.QUICK, k=rng.choice([0, 1, 1, 2, 3]))
            if not self._plans and self._slow > 0:
                plan = [*self.SLOW]
            elif plan and self._slow > 0 and rng.random() < 0.2:
                plan[0] = rng.choice(self.SLOW)
                self._slow -= 1
            self._plans[query] = plan
        return self._plans[query]

    def _spoilt(self, fault: str, query: str) -> Reply | Misbehaviour:
        misbehaviours: dict[str, Misbehaviour] = {"drip": drip, "drip head": drip_head, "reset": reset}
        if fault in misbehaviours:
            return misbehaviours[fault]
        if fault in ("429", "503 wait"):
            seconds = random.Random(query).choice([0.05, 0.08, 0.1])
            now = time.monotonic()
            self.holds.append((now, now + seconds))
            return reply(int(fault[:3]), "slow down", Retry_After=str(seconds))
        if fault in ("503", "500"):
            return reply(int(fault), "busy")
        headers = {"Content-Type": "application/sparql-query", "Accept": "application/sparql-results+json"}
        body = urllib3.request("POST", self._target, body=query.encode(), headers=headers).data
        packed = gzip.compress(body)
        middle = len(body) // 2
        answers = {
            "": lambda: reply(200, packed, Content_Encoding="gzip"),
            "cut": lambda: reply(200, body, cut=middle),
            "cut gzip": lambda: reply(200, packed, cut=len(packed) // 2, Content_Encoding="gzip"),
            "cut chunked": lambda: reply(200, body, cut=middle, chunked=True),
            "half": lambda: reply(200, body[:middle]),
            "half gzip": lambda: reply(200, packed[: len(packed) // 2], Content_Encoding="gzip"),
            "wrong type": lambda: reply(200, body, Content_Type="text/html"),
            "wrong type, empty": lambda: reply(200, "", Content_Type="text/html"),
            "empty": lambda: reply(200, ""),
        }
        return answers[fault]()
