"""A Prefect server with its UI, the deployments and workers of each pool, on this machine: ``factscale ui`` or ``make ui``."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from rich.console import Console

from flows.processes import give_back, mark_abandoned
from flows.server import FLOWS, password, running_server
from flows.workers import Worker, end_all, slots_here, started
from store.home import Home
from store.types import InputError

POOLS = ("kg", "cpu", "gpu")
"""Pools whose workers are started. Those of `kg` and `cpu` count no runs, since deployments and queues limit them and a worker of
Prefect 3.8 that does ends when a run is retried whose process has not quite ended yet. Those of `gpu` count, one run each."""

_LOOK_SECONDS = 1.0


class Running(NamedTuple):
    """What was started: the API's URL, and the workers by pool; those of `gpu`, one for each GPU, by their names."""

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
def everything(home: Home, port: int, pools: Sequence[str] = POOLS) -> Iterator[Running]:
    """Server, deployments and a worker for each of the pools; of `gpu` one for each GPU of this machine, else one without.

    Raises InputError for a port in use, or a home whose UI runs already.
    """
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    from flows.deploying import deploy

    with _alone(home, port), running_server(home, port, with_ui=True) as url:
        known = {PREFECT_API_URL: url, PREFECT_API_AUTH_STRING: password()}
        with temporary_settings(known):
            mark_abandoned(FLOWS)
            give_back(FLOWS)  # no worker of this server lives yet
            deploy()
        secret = password()
        environment = {"PREFECT_API_URL": url, **({"PREFECT_API_AUTH_STRING": secret} if secret else {})}
        with _workers(home, pools, environment) as workers:
            yield Running(url, workers)


@contextmanager
def _workers(home: Home, pools: Sequence[str], environment: Mapping[str, str]) -> Iterator[dict[str, Worker]]:
    slots = slots_here(f"{socket.gethostname()}-ui") if "gpu" in pools else []
    with started(slots, "gpu", home, environment) as on_gpus:
        running: dict[str, Worker] = {}
        try:
            for pool in pools:
                if pool != "gpu":
                    name, log = f"{pool} of factscale ui", f"prefect-worker-{pool}"
                    running[pool] = Worker(pool, name, log, home, environment, ["--type", "process"])
            yield running | {slot.name: worker for slot, worker in on_gpus.items()}
        finally:
            end_all([*running.values(), *on_gpus.values()])


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
