"""Prefect workers in processes of their own that end with this one, and which of them a machine's GPUs make.

``factscale ui`` and ``factscale workers`` start them, and start one again that has ended.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

from flows.processes import BOUND_VARIABLE
from flows.server import bound, end
from store.home import HOME_VARIABLE, Home
from store.types import InputError, RunError

_DEVICES = "CUDA_VISIBLE_DEVICES"
_AT_ONCE_SECONDS = 15.0
_PAUSE_SECONDS = 30.0
_POLLING = {
    # Ten seconds between looks are long for who waits, and longer than many a unit waits for anything else.
    "PREFECT_WORKER_QUERY_SECONDS": "2",
    "PREFECT_WORKER_PREFETCH_SECONDS": "2",
}


class Slot(NamedTuple):
    """One worker of GPU units to be: its name, the GPUs it sees ("" for none), and the queue it polls."""

    name: str
    devices: str
    queue: str


class Worker:
    """A worker of one pool, in a process that ends with this one.

    ``name`` is what the server calls it, ``log`` the name of its log file in the home, ``options`` what `prefect worker start`
    is told beside pool and name.
    """

    def __init__(
        self, pool: str, name: str, log: str, home: Home, environment: Mapping[str, str], options: Sequence[str] = ()
    ) -> None:
        from flows.parameters import REPOSITORY

        self.name, self.log = name, home.log_file(log)
        self._command = ["worker", "start", "--pool", pool, "--name", name, "--no-create-pool-if-not-found", *options]
        self._environment = {
            **_POLLING,
            **os.environ,
            HOME_VARIABLE: str(home.folder),
            "FACTSCALE_ROOT": str(REPOSITORY),
            **environment,
        }
        self._folder = REPOSITORY
        self._has_stood = False
        self._again: float | None = None
        self._start()

    def attend(self) -> str | None:
        """Start it again if it has ended, and say so; after a pause where it ended at once, as it does without a server.

        Raises RunError if it has ended as soon as it started and never stood before; its log is named.
        """
        code, now = self.process.poll(), time.monotonic()
        at_once = now - self._started < _AT_ONCE_SECONDS
        if code is None:
            self._has_stood = self._has_stood or not at_once
            return None
        if self._again is not None:
            if now >= self._again:
                self._start()
            return None
        if BOUND_VARIABLE in self._environment:
            self._end_runs()  # another takes the unit over; a study without its worker goes on
        told = f"the worker {self.name!r} ended with code {code}"
        if at_once and not self._has_stood:
            raise RunError(f"{told} as soon as it started; see {self.log}")
        if at_once:
            self._again = now + _PAUSE_SECONDS
            return f"{told}, and is started again in {_PAUSE_SECONDS:.0f} s; see {self.log}"
        self._start()
        return f"{told} and was started again; see {self.log}"

    def end(self) -> None:
        """End it and what it has started; :func:`end_all` is quicker for several."""
        end(self.process, patience=30)
        self._end_runs()

    def _start(self) -> None:
        self._again, self._started = None, time.monotonic()
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "prefect", *self._command],
                env=self._environment,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C in the terminal is for the command, which ends its workers
                preexec_fn=bound(),
            )

    def _end_runs(self) -> None:
        """End the runs that a worker which was killed has left in its process group: they would keep a GPU."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


def end_all(workers: Iterable[Worker]) -> None:
    """Ask all first, since each ends the runs that it has, which takes a while."""
    for worker in (known := list(workers)):
        if worker.process.poll() is None:
            worker.process.terminate()
    for worker in known:
        worker.end()


@contextmanager
def started(
    slots: Sequence[Slot], pool: str, home: Home, environment: Mapping[str, str] | None = None
) -> Iterator[dict[Slot, Worker]]:
    """The workers of these slots, running; they are ended with the block, and by the kernel where this process is killed."""
    running: dict[Slot, Worker] = {}
    try:
        for slot in slots:
            running[slot] = Worker(
                pool,
                slot.name,
                log_name(slot),
                home,
                {**(environment or {}), _DEVICES: slot.devices, BOUND_VARIABLE: "1"},
                ["--work-queue", slot.queue, "--limit", "1"],
            )
        yield running
    finally:
        end_all(running.values())


def log_name(slot: Slot) -> str:
    """What the log of a slot's worker is called in the home."""
    return f"worker-{slot.name}"


def slots_here(called: str | None = None) -> list[Slot]:
    """A worker for each GPU that this process may see; without any, one that sees none."""
    called = called or socket.gethostname()
    return gpu_slots(_visible(), called=called) or cpu_slots(1, called)


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
    gpus = _visible() if chosen is None else _listed(chosen)
    if not gpus:
        raise InputError(
            "no GPU is found here (nvidia-smi): name them with --gpus, or use --cpu 1 for a worker without one"
        )
    if repeated := sorted({gpu for gpu in gpus if gpus.count(gpu) > 1}):
        raise InputError(f"--gpus names {', '.join(repeated)} more than once")
    return gpus


def _visible() -> list[str]:
    chosen = os.environ.get(_DEVICES)
    return _asked() if chosen is None else _listed(chosen)


def _listed(gpus: str) -> list[str]:
    return [gpu.strip() for gpu in gpus.split(",") if gpu.strip()]


def _asked() -> list[str]:
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.split() if done.returncode == 0 else []
