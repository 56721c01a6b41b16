"""``factscale workers``: one Prefect worker a GPU, for studies whose fan-out is ``workers``.

factscale workers                      one for each GPU that is found
factscale workers --gpus 0,1,2,3 --each 2     two workers with two GPUs each, on the queue gpus-2
factscale workers --cpu 1              one without a GPU
"""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Mapping
from typing import Annotated

import typer
from rich.markup import escape

from flows.printing import console
from flows.server import configured_client, prepare_environment
from flows.workers import Slot, Worker, cpu_slots, found_gpus, gpu_slots, started
from store.home import Home
from store.types import InputError, RunError

_LOOK_SECONDS = 0.5


def workers(
    gpus: Annotated[
        str | None,
        typer.Option(
            help="The GPUs to use, e.g. 0,1,2,3; else those of CUDA_VISIBLE_DEVICES, else all of this machine."
        ),
    ] = None,
    each: Annotated[int, typer.Option(min=1, help="GPUs a worker: units of large models need several.")] = 1,
    cpu: Annotated[
        int | None, typer.Option(min=1, help="So many workers without a GPU, for machines that have none.")
    ] = None,
    pool: Annotated[str, typer.Option(help="The work pool that they poll.")] = "gpu",
    name: Annotated[
        str | None, typer.Option(help="What their names begin with, to tell machines apart; else this machine's name.")
    ] = None,
) -> None:
    """Start one Prefect worker a GPU, which make the units of studies with `fan_out: {kind: workers}`; Ctrl-C ends them."""
    home = Home.current()
    prepare_environment(home)
    if cpu is not None and (gpus is not None or each > 1):
        raise InputError("--cpu: workers without GPUs see none; leave --gpus and --each out")
    called = name or socket.gethostname()
    slots = cpu_slots(cpu, called) if cpu is not None else gpu_slots(found_gpus(gpus), each, called)
    check_server(pool, {slot.queue for slot in slots})
    signal.signal(signal.SIGTERM, _interrupt)
    with started(slots, pool, home) as running:
        console.print(f"{len(slots)} workers of pool {pool!r} for {home.folder}; Ctrl-C ends them", soft_wrap=True)
        for slot, worker in running.items():
            seen = f"GPU {slot.devices}" if slot.devices else "no GPU"
            console.print(f"  {slot.name}: {seen}, queue {slot.queue}, log {worker.log}", soft_wrap=True)
        _watch(running)
    raise RunError("no worker is left")


def check_server(pool: str, queues: set[str]) -> None:
    """Whether there is a server with the pool; makes the queues. Raises InputError that says what is missing."""
    from flows.worker_queues import ONE_GPU, ensure_queue

    mend = "workers need the address of a server, for example http://127.0.0.1:4200/api of `factscale ui`"
    with configured_client(mend) as client:
        for queue in sorted({ONE_GPU, *queues}):
            ensure_queue(client, pool, queue)


def _watch(running: Mapping[Slot, Worker]) -> None:
    """Start again who has ended, and say so; returns when none is left, since each ended as soon as it started."""
    alive = dict(running)
    while alive:
        time.sleep(_LOOK_SECONDS)
        for slot, worker in list(alive.items()):
            try:
                said = worker.attend()
            except RunError as error:
                del alive[slot]
                said = f"{error}; it is not started again"
            if said:
                console.print(f"[bold red]ended:[/bold red] {escape(said)}", soft_wrap=True)


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt
