"""The work pool of GPU units and its queues: one for each number of GPUs that a unit may need."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import WorkQueue
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

from store.types import InputError

POOL = "gpu"
ONE_GPU = "default"
_SEEN_SECONDS = 60.0
"""A worker polls every ten seconds or more often; one that has not for so long is taken to be gone."""
_WAIT_SECONDS = 30.0


def queue_for(gpus: float) -> str:
    """The queue of units that need so many GPUs. One that needs a part, or none, goes where one GPU is."""
    return ONE_GPU if gpus <= 1 else f"gpus-{int(gpus)}"


def ensure_queue(client: SyncPrefectClient, pool: str, queue: str, limit: int | None = None) -> bool:
    """Make a queue of a pool, which gives out at most ``limit`` runs at a time, unless it is there; returns whether it was
    made. Raises InputError where the server has no such pool."""
    try:
        client.create_work_queue(name=queue, work_pool_name=pool, concurrency_limit=limit)
    except ObjectAlreadyExists:
        return False
    except ObjectNotFound:
        raise InputError(
            f"the server at {client.api_url} has no work pool {pool!r}: `factscale deploy` makes it, or name another with --pool"
        ) from None
    return True


def check_queues(
    client: SyncPrefectClient,
    needed: Mapping[str, float],
    warn: Callable[[str], None],
    wait: float = _WAIT_SECONDS,
    pool: str = POOL,
) -> None:
    """Whether a worker polls each queue, of units that need so many GPUs; waits a little for workers that are starting.

    Where one did once and has gone, ``warn`` is told: it may come back, and units wait for it. Raises InputError where none
    ever did.
    """
    deadline = time.monotonic() + wait
    while True:
        found = _queues(client, pool)
        silent = {name: gpus for name, gpus in needed.items() if not _is_polled(found.get(name))}
        never = {name: gpus for name, gpus in silent.items() if (q := found.get(name)) is None or q.last_polled is None}
        if not silent or (not never and time.monotonic() > deadline):
            break
        if time.monotonic() > deadline:
            raise InputError("; ".join(_nobody(pool, name, gpus) for name, gpus in never.items()))
        time.sleep(1)
    for name in silent:
        seen = found[name].last_polled
        warn(
            f"no worker polls queue {name!r} of work pool {pool!r} now (the last one did at {seen:%Y-%m-%d %H:%M} UTC): its "
            "units wait until one comes back"
        )
    for name in needed:
        if found[name].is_paused:
            warn(f"queue {name!r} of work pool {pool!r} is paused: its units wait until a person resumes it")


def any_polled(client: SyncPrefectClient, pool: str = POOL) -> bool:
    """Whether a worker polls a queue of the pool now. Raises InputError where there is no such pool."""
    return any(_is_polled(queue) for queue in _queues(client, pool).values())


def is_polled(client: SyncPrefectClient, pool: str, queue: str) -> bool:
    """Whether a worker polls this queue now."""
    return _is_polled(_queues(client, pool).get(queue))


def _nobody(pool: str, queue: str, gpus: float) -> str:
    count = max(1, int(gpus))
    each = f" --each {count}" if count > 1 else ""
    return (
        f"fan_out.kind 'workers': no worker polls queue {queue!r} of work pool {pool!r}, where units that need {count} "
        f"GPU{'s' if count > 1 else ''} wait; start one on a machine that has as many: `factscale workers{each}`"
    )


def _queues(client: SyncPrefectClient, pool: str) -> dict[str, WorkQueue]:
    try:
        return {queue.name: queue for queue in client.read_work_queues(work_pool_name=pool)}
    except ObjectNotFound:
        raise InputError(
            f"fan_out.kind 'workers': the server at {client.api_url} has no work pool {pool!r}; make it with `factscale deploy`"
        ) from None


def _is_polled(queue: WorkQueue | None) -> bool:
    if queue is None or queue.last_polled is None:
        return False
    return (datetime.now(UTC) - queue.last_polled).total_seconds() < _SEEN_SECONDS
