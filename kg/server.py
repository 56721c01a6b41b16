"""A SPARQL server for local facts: the ``oxigraph`` program of the PyPI package, on a loopback port, while needed.

Facts are loaded once into a directory named by their content and then served read-only, so that several studies on one
machine can each have a server over the same directory. No server outlives the process that started it.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import urllib3

from store.types import InputError, RunError, digest

START_SECONDS = 30.0
PORTS_TRIED = 5
QUERY_SECONDS = 300  # a query whose client has gone is ended by the server after this long

_PR_SET_PDEATHSIG = 1
# Looked up before any fork: a child of a process with threads must not import or load anything.
_PRCTL = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


def snapshot_of(files: Sequence[Path]) -> str:
    """Hex sha256 over the files' content, whatever their names and order. Raises InputError for a missing file."""
    hashes: list[str] = []
    for file in files:
        try:
            with file.open("rb") as stream:
                hashes.append(hashlib.file_digest(stream, "sha256").hexdigest())
        except OSError as error:
            raise InputError(f"facts file {file} cannot be read ({error.strerror}): check its path") from error
    if not hashes:
        raise InputError("no facts file was given: name at least one N-Triples file")
    return digest(sorted(hashes), length=64)


@contextmanager
def local_endpoint(files: Sequence[Path], directory: Path) -> Iterator[str]:
    """Serve N-Triples ``files`` and yield the query URL; the server ends with the block.

    The facts are kept, loaded, in ``directory/<content hash>-<oxigraph version>/``. Raises InputError for a file that
    is missing or malformed, RunError if the program is missing or the server does not start.
    """
    binary = oxigraph_binary()
    place = directory / f"{snapshot_of(files)[:16]}-{_version(binary)}"
    place.mkdir(parents=True, exist_ok=True)
    _load_once(binary, files, place)
    server, port, log = _start(binary, place)
    try:
        yield f"http://127.0.0.1:{port}/query"
    finally:
        server.stop()
        log.unlink(missing_ok=True)


def oxigraph_binary() -> Path:
    """The server program: beside this Python (where pip puts it), or on PATH. Raises RunError if there is none."""
    beside = Path(sys.executable).parent / "oxigraph"
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("oxigraph")
    if found is None:
        raise RunError(f"no oxigraph program beside {sys.executable} or on PATH: pip install oxigraph")
    return Path(found)


def _version(binary: Path) -> str:
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False).stdout
    match = re.search(r"\d+(?:\.\d+)+", said)
    if match is None:
        raise RunError(f"{binary} --version says {said!r}: not an oxigraph program that works here")
    return match.group()


def _load_once(binary: Path, files: Sequence[Path], place: Path) -> None:
    """Load the files unless the marker, which is written last, says that this was done. One process loads at a time."""
    marker, data, log = place / "loaded.json", place / "data", place / "load.log"
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # released by the kernel, also if this process is killed
        if marker.exists():
            return
        shutil.rmtree(data, ignore_errors=True)  # what a killed load has left
        with log.open("wb") as output:
            command = [binary, "load", "--location", data, "--format", "nt", "--file", *files]
            loading = _Child([str(part) for part in command], output.fileno())
            code = loading.wait()
        if code != 0:
            names = ", ".join(map(str, files))
            raise InputError(f"oxigraph cannot load {names}: {_first_error(log)}. Check that they are N-Triples.")
        partial = marker.with_suffix(".part")
        partial.write_text(json.dumps({"files": [str(file) for file in files]}))
        partial.replace(marker)


def _start(binary: Path, place: Path) -> tuple[_Child, int, Path]:
    """A server that answers, its port and its log. A port that another process was quicker to take is given up."""
    said = ""
    for _attempt in range(PORTS_TRIED):
        port = _free_port()
        log = place / f"serve-{port}.log"
        with log.open("wb") as output:
            command = [binary, "serve-read-only", "--location", place / "data", "--bind", f"127.0.0.1:{port}"]
            command += ["--timeout-s", str(QUERY_SECONDS)]
            server = _Child([str(part) for part in command], output.fileno())
        if _answers(server, port, log):
            return server, port, log
        server.stop()
        said = _first_error(log)
        if "in use" not in said:
            break
        log.unlink(missing_ok=True)
    raise RunError(f"the oxigraph server over {place} did not start: {said}. Its log is {log}.")


def _answers(server: _Child, port: int, log: Path) -> bool:
    """Whether the server answers a query before :data:`START_SECONDS` are over."""
    deadline = time.monotonic() + START_SECONDS
    with urllib3.PoolManager() as http:
        while time.monotonic() < deadline and not server.ended:
            # The log is asked first: on a port lost to another process somebody else would answer.
            if b"Listening for" in log.read_bytes():
                try:
                    address = f"http://127.0.0.1:{port}/query?query=ASK%20%7B%7D"
                    answer = http.request("GET", address, retries=False, timeout=5.0)
                    return answer.status == 200 and not server.ended
                except urllib3.exceptions.HTTPError:
                    pass
            time.sleep(0.02)
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _first_error(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    errors = [line for line in lines if line.startswith("Error")]
    return (errors or lines[-1:] or ["it said nothing"])[0].strip().rstrip(".")


class _Child:
    """A process that cannot outlive this one, however this one ends.

    The kernel kills the child when the *thread* that forked it ends, so each child has a thread of its own, which does
    nothing but wait for it.
    """

    def __init__(self, command: list[str], output: int) -> None:
        self._started = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._failure: OSError | None = None
        self._thread = threading.Thread(target=self._run, args=(command, output), name="oxigraph", daemon=True)
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            raise RunError(f"{command[0]} cannot be started: {self._failure}") from self._failure

    def _run(self, command: list[str], output: int) -> None:
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C in the terminal ends the study, which then ends its server in order
                preexec_fn=_die_with_parent(os.getpid()),
            )
        except OSError as error:
            self._failure = error
            return
        finally:
            self._started.set()
        self._process.wait()

    @property
    def ended(self) -> bool:
        """Whether the process is gone."""
        return not self._thread.is_alive()

    def wait(self) -> int:
        """The exit status, once the process has ended."""
        try:
            self._thread.join()
        except BaseException:
            self.stop()
            raise
        return self._process.returncode if self._process else -1

    def stop(self, grace: float = 5.0) -> None:
        """End the process: asked first, killed after ``grace`` seconds."""
        if self._process is None:
            return
        if not self.ended:
            self._process.terminate()
            self._thread.join(grace)
        if not self.ended:
            self._process.kill()
            self._thread.join()


def _die_with_parent(parent: int) -> Callable[[], None] | None:
    """What the child runs before its program: ask for SIGKILL at its parent's death. Linux only."""
    if _PRCTL is None:
        return None

    def arrange() -> None:
        _PRCTL(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the request was made
            os._exit(1)

    return arrange
