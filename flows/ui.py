"""A Prefect server with its UI, the deployments and a worker, on this machine: ``factscale ui`` or ``make ui``."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from flows.parameters import REPOSITORY
from flows.server import bound, end, running_server
from store.home import Home
from store.types import InputError, RunError

WORK_POOL = "factscale"


def serve(home: Home, port: int, console: Console) -> None:
    """Run until Ctrl-C or SIGTERM; everything started here ends with it."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with everything(home, port) as url:
        console.print(f"Prefect UI: [bold]{url.removesuffix('/api')}[/bold]   (Ctrl-C ends it)")
        console.print("Deployments: retrieve, distill, finetune, evaluate, report, study; their runs are made here.")
        try:
            stop.wait()
        except KeyboardInterrupt:
            console.print("ending")


@contextmanager
def everything(home: Home, port: int) -> Iterator[str]:
    """Server, work pool, deployments and one worker; yields the API's URL. Raises InputError for a port in use."""
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise InputError(f"port {port} is in use: end what holds it, or choose another with --port")
    with running_server(home, port, with_ui=True) as url:
        environment = {
            **os.environ,
            "PREFECT_API_URL": url,
            "FACTSCALE_ROOT": str(REPOSITORY),
            "FACTSCALE_HOME": str(home.folder),
        }
        _prefect(environment, "work-pool", "create", WORK_POOL, "--type", "process", "--overwrite")
        file = str(Path("deployments") / "prefect.yaml")
        _prefect(environment, "--no-prompt", "deploy", "--all", "--prefect-file", file)
        log = home.logs / "prefect-worker.log"
        with log.open("ab") as output:
            worker = subprocess.Popen(
                [sys.executable, "-m", "prefect", "worker", "start", "--pool", WORK_POOL, "--limit", "1"],
                env=environment,
                cwd=REPOSITORY,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=bound(),
            )
        try:
            yield url
        finally:
            end(worker)


def _prefect(environment: dict[str, str], *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "prefect", *arguments],
        env=environment,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        said = " ".join((done.stderr or done.stdout).split())[-600:]
        raise RunError(f"`prefect {' '.join(arguments)}` failed: {said}")
