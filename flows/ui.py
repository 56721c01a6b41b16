"""A Prefect server with its UI, the deployments and a worker a pool, on this machine: ``factscale ui`` or ``make ui``."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from rich.console import Console

from flows.parameters import REPOSITORY
from flows.processes import mark_abandoned
from flows.server import FLOWS, bound, end, password, running_server
from store.home import Home
from store.types import InputError, RunError

LIMITS: Mapping[str, int | None] = {"kg": None, "cpu": None, "gpu": 1}
"""Runs that the worker of a pool does at a time. Where deployments and queues limit them anyway the worker does not: if it
counts its runs, one of Prefect 3.8 ends when a run is retried whose process has not quite ended yet."""

_LOOK_SECONDS = 1.0
_AT_ONCE_SECONDS = 15.0
_POLLING = {
    "PREFECT_WORKER_QUERY_SECONDS": "2",
    "PREFECT_WORKER_PREFETCH_SECONDS": "2",
}  # ten seconds is long for who waits


class Worker:
    """A worker of one pool, in a process of its own that ends with this one."""

    def __init__(self, pool: str, environment: Mapping[str, str], home: Home) -> None:
        self._pool, self._environment = pool, environment
        self.log = home.log_file(f"prefect-worker-{pool}")
        self._start()

    def attend(self) -> str | None:
        """Start it again if it has ended, and say so. Raises RunError if it ends as soon as it starts; its log is named."""
        code = self.process.poll()
        if code is None:
            return None
        if time.monotonic() - self._started < _AT_ONCE_SECONDS:
            raise RunError(f"the worker of pool {self._pool} ended at once with code {code}; see {self.log}")
        self._start()
        return f"the worker of pool {self._pool} ended with code {code} and was started again; see {self.log}"

    def _start(self) -> None:
        command = ["prefect", "worker", "start", "--pool", self._pool, "--name", f"{self._pool} of factscale ui"]
        limit = LIMITS[self._pool]
        options = ["--type", "process", *(["--limit", str(limit)] if limit else [])]
        self._started = time.monotonic()
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command, *options],
                env=dict(self._environment),
                cwd=REPOSITORY,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=bound(),
            )


class Running(NamedTuple):
    """What was started: the API's URL, and the workers by pool."""

    url: str
    workers: Mapping[str, Worker]


def serve(home: Home, port: int, console: Console) -> None:
    """Run until Ctrl-C or SIGTERM; everything started here ends with it, the workers before the server.

    Raises RunError if a worker ends as soon as it starts; its log is named.
    """
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with everything(home, port) as running:
        console.print(f"Prefect UI: [bold]{running.url.removesuffix('/api')}[/bold]   (Ctrl-C ends it)")
        console.print(f"Runs started there are made here, in {home.folder}; logs are in {home.logs}.", soft_wrap=True)
        try:
            while not stop.wait(_LOOK_SECONDS):
                for worker in running.workers.values():
                    if said := worker.attend():
                        console.print(said, soft_wrap=True)
        except KeyboardInterrupt:
            console.print("ending")


@contextmanager
def everything(home: Home, port: int, pools: Sequence[str] = tuple(LIMITS)) -> Iterator[Running]:
    """Server, deployments and one worker for each of the pools.

    Raises InputError for a port in use, or a home whose UI runs already.
    """
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    from flows.deploying import deploy

    with _alone(home, port), running_server(home, port, with_ui=True) as url:
        known = {PREFECT_API_URL: url, PREFECT_API_AUTH_STRING: password()}
        with temporary_settings(known):
            mark_abandoned(FLOWS)
            deploy()
        secret = password()
        environment = {
            **_POLLING,
            **os.environ,
            "PREFECT_API_URL": url,
            **({"PREFECT_API_AUTH_STRING": secret} if secret else {}),
            "FACTSCALE_ROOT": str(REPOSITORY),
            "FACTSCALE_HOME": str(home.folder),
        }
        workers = {pool: Worker(pool, environment, home) for pool in pools}
        try:
            yield Running(url, workers)
        finally:
            _end([worker.process for worker in workers.values()])


def _end(workers: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask all first, since each ends the runs that it has, which takes a while."""
    for worker in workers:
        worker.terminate()
    for worker in workers:
        end(worker)


@contextmanager
def _alone(home: Home, port: int) -> Iterator[None]:
    """One UI a home, since two servers on one Prefect database would both hand out its runs; and one a port."""
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise InputError(f"port {port} is in use: end what holds it, or choose another with --port")
    home.logs.mkdir(parents=True, exist_ok=True)
    with (home.logs / "prefect-ui.lock").open("a+", encoding="utf-8") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            held.seek(0)
            who = held.read().strip() or "another process"
            raise InputError(
                f"FACTSCALE_HOME: the UI of {home.folder} runs already ({who}): use that one, or set another home"
            ) from None
        held.truncate(0)
        held.write(f"process {os.getpid()} on port {port}")
        held.flush()
        yield
