"""A SPARQL server for local facts: the ``oxigraph`` program of the PyPI package, on a loopback port, while needed.

Facts are loaded once into a directory named by their content and then served read-only, so that several studies on one
machine can each have a server over the same directory. No server outlives the process that started it.
"""

from __future__ import annotations

import fcntl
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import urllib3

from kg.loading import is_loaded, load, locked, snapshot_of
from kg.oxigraph import Child, first_error, oxigraph_binary
from store.types import InputError, RunError

__all__ = ["local_endpoint", "serve", "snapshot_of"]

START_SECONDS = 30.0
PORTS_TRIED = 5
QUERY_SECONDS = 300  # a query whose client has gone is ended by the server after this long


@contextmanager
def local_endpoint(files: Sequence[Path], directory: Path, *, lenient: bool = False) -> Iterator[str]:
    """Serve the facts of N-Triples or Turtle ``files``, also gzip ones; yield the query URL. It ends with the block.

    The facts are kept, loaded, in ``directory/<content hash>-<oxigraph version>/``. Raises as :func:`kg.loading.load`
    and :func:`serve` do.
    """
    with serve(load(files, directory, lenient=lenient)) as url:
        yield url


@contextmanager
def serve(place: Path, *, port: int | None = None, query_seconds: int = QUERY_SECONDS) -> Iterator[str]:
    """Serve a loaded place on 127.0.0.1 and yield the query URL; the server ends with the block.

    ``port`` None takes a free one; ``query_seconds`` is how long one query may run. Raises InputError if nothing is
    loaded there or the port is in use, RunError if the program is missing or the server does not start.
    """
    if not is_loaded(place):
        raise InputError(f"{place} holds no loaded facts: load the files again")
    with locked(place, fcntl.LOCK_SH):
        server, url, log = _start(oxigraph_binary(), place, port, query_seconds)
        try:
            yield url
        finally:
            server.stop()
            log.unlink(missing_ok=True)


def _start(binary: Path, place: Path, port: int | None, query_seconds: int) -> tuple[Child, str, Path]:
    """A server that answers, its query URL and its log. A port that another process was quicker to take is given up."""
    said = ""
    for _attempt in range(PORTS_TRIED):
        chosen = _free_port() if port is None else port
        log = place / f"serve-{chosen}.log"
        with log.open("wb") as output:
            command = [binary, "serve-read-only", "--location", place / "data", "--bind", f"127.0.0.1:{chosen}"]
            command += ["--timeout-s", str(query_seconds)]
            server = Child([str(part) for part in command], output.fileno())
        if _answers(server, chosen, log):
            return server, f"http://127.0.0.1:{chosen}/query", log
        server.stop()
        said = first_error(log)
        if "in use" not in said:
            break
        log.unlink(missing_ok=True)
        if port is not None:
            raise InputError(f"port {port} is in use: end what holds it, or choose another port")
    raise RunError(f"the oxigraph server over {place} did not start: {said}. Its log is {log}.")


def _answers(server: Child, port: int, log: Path) -> bool:
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
