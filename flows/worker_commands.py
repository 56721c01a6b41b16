"""``factscale workers``: one Prefect worker a GPU, for studies whose fan-out is ``workers``.

factscale workers                      one for each GPU that is found
factscale workers --gpus 0,1,2,3 --each 2     two workers with two GPUs each, on the queue gpus-2
factscale workers --cpu 1              one without a GPU
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from flows.printing import console
from flows.server import bound, end, prepare_environment
from store.home import HOME_VARIABLE, Home
from store.types import InputError, RunError

_LOOK_SECONDS = 0.5
_DEVICES = "CUDA_VISIBLE_DEVICES"
BOUND_VARIABLE = "FACTSCALE_BOUND_TO_WORKER"
"""Set where a unit's process must not outlive its worker, which would leave a GPU taken."""

_DEFAULTS = {
    # Ten seconds between looks are longer than many a unit waits for anything else.
    "PREFECT_WORKER_QUERY_SECONDS": "2",
    "PREFECT_WORKER_PREFETCH_SECONDS": "2",
}


class Slot(NamedTuple):
    """One worker to be: its name, the GPUs it sees ("" for none), and the queue it polls."""

    name: str
    devices: str
    queue: str


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
        for slot in slots:
            seen = f"GPU {slot.devices}" if slot.devices else "no GPU"
            console.print(f"  {slot.name}: {seen}, queue {slot.queue}, log {_log(home, slot)}", soft_wrap=True)
        _watch(running, lambda slot, code: _say_ended(home, slot, code))
    raise RunError("no worker is left")


def gpu_slots(gpus: Sequence[str], each: int = 1, called: str = "worker") -> list[Slot]:
    """A worker for each group of ``each`` GPUs. Raises InputError where they do not come out even."""
    from flows.worker_queues import queue_for

    if len(gpus) % each:
        raise InputError(f"--each {each}: {len(gpus)} GPUs ({','.join(gpus)}) make no whole number of workers")
    groups = [gpus[start : start + each] for start in range(0, len(gpus), each)]
    return [Slot(f"{called}-gpu{'-'.join(group)}", ",".join(group), queue_for(each)) for group in groups]


def cpu_slots(count: int, called: str = "worker") -> list[Slot]:
    """So many workers that see no GPU."""
    from flows.worker_queues import queue_for

    return [Slot(f"{called}-cpu{number}", "", queue_for(1)) for number in range(count)]


def found_gpus(chosen: str | None) -> list[str]:
    """The GPUs to use: those that were chosen, else those that this process may see, else all.

    Raises:
        InputError: there are none, or one is named twice.
    """
    if chosen is None:
        chosen = os.environ.get(_DEVICES)
    gpus = _asked() if chosen is None else [gpu.strip() for gpu in chosen.split(",") if gpu.strip()]
    if not gpus:
        raise InputError(
            "no GPU is found here (nvidia-smi): name them with --gpus, or use --cpu 1 for a worker without one"
        )
    if repeated := sorted({gpu for gpu in gpus if gpus.count(gpu) > 1}):
        raise InputError(f"--gpus names {', '.join(repeated)} more than once")
    return gpus


def _asked() -> list[str]:
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.split() if done.returncode == 0 else []


def check_server(pool: str, queues: set[str]) -> None:
    """Whether there is a server with the pool; makes the queues. Raises InputError that says what is missing."""
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    from flows.worker_queues import ONE_GPU, ensure_queue

    url = PREFECT_API_URL.value()
    if not url:
        raise InputError(
            "PREFECT_API_URL is not set: workers need the address of a server, for example http://127.0.0.1:4200/api of "
            "`factscale ui`"
        )
    try:
        with get_client(sync_client=True) as client:
            for queue in sorted({ONE_GPU, *queues}):
                ensure_queue(client, pool, queue)
    except httpx.HTTPStatusError as error:
        raise InputError(f"PREFECT_API_URL: the server at {url} refuses: {error}") from None
    except httpx.HTTPError as error:
        raise InputError(
            f"PREFECT_API_URL: no Prefect server answers at {url} ({error}): start it, or name another"
        ) from None


@contextmanager
def started(slots: Sequence[Slot], pool: str, home: Home) -> Iterator[dict[Slot, subprocess.Popen[bytes]]]:
    """The workers, running; they are ended with the block, and by the kernel where this process is killed."""
    running: dict[Slot, subprocess.Popen[bytes]] = {}
    try:
        for slot in slots:
            running[slot] = _start(slot, pool, home)
        yield running
    finally:
        for process in running.values():  # all at once, then each in turn: a worker takes its runs along
            if process.poll() is None:
                process.terminate()
        for process in running.values():
            end(process, patience=30)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # the run that a worker which had to be killed has left


def _start(slot: Slot, pool: str, home: Home) -> subprocess.Popen[bytes]:
    from flows.parameters import REPOSITORY

    environment = {
        **_DEFAULTS,
        **os.environ,
        _DEVICES: slot.devices,
        HOME_VARIABLE: str(home.folder),
        "FACTSCALE_ROOT": str(REPOSITORY),
        BOUND_VARIABLE: "1",
    }
    options = ["--pool", pool, "--work-queue", slot.queue, "--name", slot.name, "--limit", "1"]
    with _log(home, slot).open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "prefect", "worker", "start", *options, "--no-create-pool-if-not-found"],
            env=environment,
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C in the terminal is for this command, which ends them
            preexec_fn=bound(),
        )


def _watch(running: Mapping[Slot, subprocess.Popen[bytes]], ended: Callable[[Slot, int], None]) -> None:
    """Until the last has ended; each is told of when it does, and none is started again."""
    alive = dict(running)
    while alive:
        time.sleep(_LOOK_SECONDS)
        for slot, process in list(alive.items()):
            if (code := process.poll()) is not None:
                del alive[slot]
                ended(slot, code)


def _say_ended(home: Home, slot: Slot, code: int) -> None:
    console.print(
        f"[bold red]ended:[/bold red] {slot.name} with code {code}; its unit is started elsewhere, and it is not started again "
        f"(log: {_log(home, slot)})",
        soft_wrap=True,
    )


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _log(home: Home, slot: Slot) -> Path:
    return home.log_file(f"worker-{slot.name}")
