"""Model servers for the tests: a real vLLM server, a toy one on a socket, and faults in front of either.

The real server is started once a test session, on a free port of 127.0.0.1, and ends with the session, however that ends.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Self

import urllib3
from fault_server import reset

from flows.server import free_port
from models.embedded import default_cache, embedded_model

SERVED = "smollm"
CONTEXT = 2048

# Kills the server's whole process group when its standard input ends, that is when the tests end: vLLM's own children
# outlive a killed server.
_GUARD = """
import os, subprocess, sys, threading
child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=True)
threading.Thread(target=lambda: os._exit(child.wait() and 1), daemon=True).start()
sys.stdin.buffer.read()
os.killpg(child.pid, 9)
"""


@functools.cache
def vllm_url() -> str:
    """The address of a real vLLM server with the embedded model in float32, started by the first who asks."""
    port = free_port()
    command = [sys.executable, "-W", "ignore", "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", str(embedded_model(default_cache())), "--served-model-name", SERVED]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--max-model-len", str(CONTEXT)]
    command += [
        "--enforce-eager",
        "--block-size",
        "32",
        "--enable-prompt-tokens-details",
        "--max-num-seqs",
        "32",
        "--disable-uvicorn-access-log",
    ]
    cores = sorted(os.sched_getaffinity(0))
    environment = os.environ | {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores)),
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # one process fewer
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
        "OMP_NUM_THREADS": str(len(cores)),
        "OMP_WAIT_POLICY": "PASSIVE",
        "HF_HUB_OFFLINE": "1",
    }
    log = Path(tempfile.mkdtemp(prefix="factscale-vllm-")) / "server.log"
    with log.open("wb") as output:
        guard = subprocess.Popen(
            [sys.executable, "-c", _GUARD, *command], stdin=subprocess.PIPE, stdout=output, stderr=output,
            env=environment, start_new_session=True,
        )  # fmt: skip
    atexit.register(_end, guard, log)
    end = time.monotonic() + 300
    while guard.poll() is None and time.monotonic() < end:
        with suppress(urllib3.exceptions.HTTPError):
            if urllib3.request("GET", f"http://127.0.0.1:{port}/health", retries=False, timeout=2).status == 200:
                return f"http://127.0.0.1:{port}/v1"
        time.sleep(0.2)
    raise RuntimeError(f"the vLLM server did not start: {log.read_text(errors='replace')[-2000:]}")


def _end(guard: subprocess.Popen[bytes], log: Path) -> None:
    assert guard.stdin is not None
    guard.stdin.close()
    guard.wait()
    shutil.rmtree(log.parent, ignore_errors=True)


class Asked(NamedTuple):
    """A request as a server saw it."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    time: float


class Answer(NamedTuple):
    """What is answered: the data of an event stream, or a JSON object with a status."""

    events: Sequence[str] = ()
    status: int = 200
    json: dict[str, Any] | None = None
    headers: tuple[tuple[str, str], ...] = ()


def error(status: int, message: str, **headers: str) -> Answer:
    """An error as OpenAI's API words it."""
    return Answer((), status, {"error": {"message": message, "code": None, "type": "x"}}, tuple(headers.items()))


def events(*messages: dict[str, Any]) -> Answer:
    """A whole stream of these messages."""
    return Answer([*map(json.dumps, messages), "[DONE]"])


class ModelServer:
    """Answers on a real socket as ``truth`` says, and spoils answers as ``faults`` says. Keeps what it was asked.

    ``faults`` gives the name of a fault for each request ("" for none); see ``FAULTS``. An answer begins ``delay`` seconds
    after its request; ``most_open`` requests waited for theirs at a time.
    """

    def __init__(self, truth: Callable[[Asked], Answer], faults: Callable[[Asked], str] = lambda asked: "") -> None:
        self.truth, self.faults = truth, faults
        self.asked: list[Asked] = []
        self.seen: Counter[str] = Counter()
        self.holds: list[tuple[float, float]] = []
        self.open = self.most_open = 0
        self.delay = 0.0
        self._lock = threading.Lock()
        self._random = random.Random(7)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}/v1"
        self._connections: list[socket.socket] = []
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    @property
    def posts(self) -> list[Asked]:
        """The requests that asked for tokens."""
        return [one for one in self.asked if one.body]

    def _listen(self) -> None:
        while True:
            try:
                connection, _address = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError), connection, connection.makefile("rb") as stream:
            while line := stream.readline().decode():
                headers = {}
                while header := stream.readline().decode().strip():
                    name, _, value = header.partition(": ")
                    headers[name.lower()] = value
                content = stream.read(int(headers.get("content-length", "0")))
                asked = Asked(line.split()[1], headers, json.loads(content or b"{}"), time.monotonic())
                with self._lock:
                    self.asked.append(asked)
                    self.open += bool(asked.body)
                    self.most_open = max(self.most_open, self.open)
                    fault = self.faults(asked) if asked.body else ""
                    self.seen[fault] += bool(asked.body)
                time.sleep(self.delay)
                with self._lock:  # before the answer goes: a client may send its next request at once
                    self.open -= bool(asked.body)
                whole = self._spoilt(connection, fault, asked)
                if not whole:
                    return

    def _spoilt(self, connection: socket.socket, fault: str, asked: Asked) -> bool:
        """Send an answer; whether the connection can be used again."""
        if fault == "reset":
            reset(connection)
            return False
        if fault in ("429", "429 long"):
            wait = 0.1 if fault == "429" else 0.8
            self.holds.append((time.monotonic(), time.monotonic() + wait))
            return self._send(connection, error(429, "slow down", **{"Retry-After": str(wait)}))
        if fault in ("500", "503", "408"):
            return self._send(connection, error(int(fault), "busy"))
        if fault == "html":
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>")
            return True
        answer = self.truth(asked)
        if not fault or answer.status != 200:
            return self._send(connection, answer)
        return self._send_spoilt(connection, fault, list(answer.events))

    def _send_spoilt(self, connection: socket.socket, fault: str, found: list[str]) -> bool:
        middle = self._random.randrange(1, max(2, len(found) - 1))
        if fault == "malformed":
            found[middle] = found[middle][: len(found[middle]) // 2]
        elif fault == "no finish":
            found = [one for one in found if one == "[DONE]" or not _finishes(json.loads(one))]
        elif fault == "error":
            found = [*found[:middle], json.dumps({"error": {"message": "engine died", "code": 500}}), "[DONE]"]
        elif fault == "ends early":
            found = found[:middle]
        body = b"".join(b"data: %s\n\n" % one.encode() for one in found)
        connection.sendall(_HEAD)
        if fault == "drip":
            for start in range(0, len(body), 40):
                connection.sendall(_chunk(body[start : start + 40]))
                time.sleep(0.004)
        elif fault in ("cut", "cut by reset", "silent"):
            connection.sendall(_chunk(body[: self._random.randrange(1, len(body) - 20)]))
            if fault == "silent":
                connection.recv(1)  # until the client has had enough
            elif fault == "cut by reset":
                time.sleep(0.02)
                reset(connection)
            return False
        elif fault == "half event":
            connection.sendall(_chunk(body[: len(body) * 2 // 3].rstrip(b"\n")))
        else:
            connection.sendall(_chunk(body))
        connection.sendall(b"0\r\n\r\n")
        return True

    def _send(self, connection: socket.socket, answer: Answer) -> bool:
        if answer.json is not None:
            content = json.dumps(answer.json).encode()
            lines = {"Content-Type": "application/json", "Content-Length": str(len(content)), **dict(answer.headers)}
            head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
            connection.sendall(f"HTTP/1.1 {answer.status} X\r\n{head}\r\n".encode() + content)
        else:
            body = b"".join(b"data: %s\n\n" % one.encode() for one in answer.events)
            connection.sendall(_HEAD + _chunk(body) + b"0\r\n\r\n")
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Stop listening and drop all connections."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)


FAULTS = (
    *(
        "429",
        "500",
        "503",
        "408",
        "reset",
        "html",
        "malformed",
        "no finish",
        "error",
        "ends early",
        "cut",
        "cut by reset",
    ),
    *("half event", "drip", "silent"),
)
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"


def _finishes(message: dict[str, Any]) -> bool:
    return any(choice["finish_reason"] for choice in message["choices"])


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


class Plan:
    """Up to ``most`` faults for each row, drawn by the seed; a row is known by the first tokens of its prompt."""

    def __init__(self, seed: int, stem: int, most: int = 3) -> None:
        self._seed, self._stem, self._most = seed, stem, most
        self._plans: dict[str, list[str]] = {}

    def __call__(self, asked: Asked) -> str:
        row = str(asked.body["prompt"][: self._stem])
        if row not in self._plans:
            rng = random.Random(f"{self._seed} {row}")
            self._plans[row] = rng.choices(FAULTS, k=rng.randint(0, self._most))
        return self._plans[row].pop() if self._plans[row] else ""


LISTED = {"object": "list", "data": [{"id": SERVED, "owned_by": "toy", "max_model_len": CONTEXT}, {"id": "other"}]}


def toy(asked: Asked) -> Answer:
    """A server whose model continues token ids by arithmetic, so that what a prompt gives is known everywhere."""
    if asked.path.endswith("/models"):
        return Answer(json=LISTED)
    if asked.path == "/version":
        return Answer(json={"version": "1.2"})
    body = asked.body
    ids, stop = toy_tokens(body["prompt"], body["max_tokens"], body["stop_token_ids"])
    messages: list[dict[str, Any]] = []
    for start in range(0, len(ids), 2):
        last = start + 2 >= len(ids)
        finish = None if not last else "length" if stop is None else "stop"
        choice = {"index": 0, "text": "x", "token_ids": ids[start : start + 2], "finish_reason": finish}
        messages.append({"choices": [choice | {"stop_reason": stop if last else None}]})
    usage = {"prompt_tokens": len(body["prompt"]), "prompt_tokens_details": {"cached_tokens": 2}}
    return events(*messages, {"choices": [], "usage": usage})


def toy_tokens(prompt: Sequence[int], most: int, stops: Sequence[int]) -> tuple[list[int], int | None]:
    """What the toy model generates, its stop token included, and that token."""
    ids, made = list(prompt), []
    while len(made) < most:
        ids.append((7 * ids[-1] + 3 * sum(ids) + len(ids)) % 97 + 3)
        made.append(ids[-1])
        if ids[-1] in stops:
            return made, ids[-1]
    return made, None


def passing_on(target: str) -> Callable[[Asked], Answer]:
    """The truth of the server at ``target`` (an address that ends in /v1)."""

    def truth(asked: Asked) -> Answer:
        address = target.removesuffix("/v1") + asked.path
        if not asked.body:
            found = urllib3.request("GET", address, retries=False)
            return Answer((), found.status, found.json())
        found = urllib3.request("POST", address, json=asked.body, retries=False)
        if found.status != 200:
            return Answer((), found.status, found.json())
        return Answer([part.removeprefix("data: ") for part in found.data.decode().split("\n\n") if part.strip()])

    return truth
