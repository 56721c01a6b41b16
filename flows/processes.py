"""Which process a flow run lives in, and runs whose process or worker has died without a word: they are marked or given back.

A worker marks the runs that it started, and an automation those of a worker that died too; a run that `factscale study run`
started on a server of its own has neither, and would stay Running in the home's Prefect database for ever.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from flows.paging import every

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

_PREFIX = "factscale."
BOUND_VARIABLE = "FACTSCALE_BOUND_TO_WORKER"
"""Set where a unit's process must not outlive its worker, which would leave a GPU taken."""


class Process(NamedTuple):
    """A process that can be told from a later one with the same number: ``space`` is its process namespace, ``started`` its
    start in ticks since the machine did; both 0 where the system does not tell."""

    host: str
    pid: int
    space: int
    started: int

    @property
    def labels(self) -> dict[str, Any]:
        """As labels of a flow run."""
        return {f"{_PREFIX}{name}": value for name, value in self._asdict().items()}

    @classmethod
    def of(cls, labels: Mapping[str, Any]) -> Process | None:
        """What :attr:`labels` were made of; None where there are none."""
        try:
            host, *numbers = (labels[f"{_PREFIX}{name}"] for name in cls._fields)
            return cls(str(host), *map(int, numbers))
        except (KeyError, ValueError, TypeError):
            return None

    @property
    def is_dead(self) -> bool:
        """Whether it ran here and is gone. False where that cannot be told: on another host, in another namespace."""
        here = this_process()
        if (self.host, self.space) != (here.host, here.space):
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        return _started(self.pid) != self.started or _is_zombie(self.pid)


@cache
def this_process() -> Process:
    """The process that this runs in."""
    try:
        space = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        space = 0
    return Process(socket.gethostname(), os.getpid(), space, _started(os.getpid()))


def mark_abandoned(flow_names: Sequence[str]) -> list[str]:
    """Mark runs of these flows as crashed whose process died on this machine; returns their names."""
    from prefect.client.orchestration import get_client
    from prefect.states import Crashed

    marked = []
    with get_client(sync_client=True) as client:
        for run in unfinished(client, flow_names, "RUNNING", "CANCELLING"):
            process = Process.of(run.labels or {})
            if process is not None and process.is_dead:
                said = f"its process {process.pid} on {process.host} ended without a word"
                client.set_flow_run_state(run.id, Crashed(message=said), force=True)
                marked.append(run.name)
    return marked


def give_back(flow_names: Sequence[str]) -> list[str]:
    """Put runs of these flows' deployments that stand as Pending back to Scheduled; returns their names.

    A run is Pending from its hand-out to its first line, and for ever where its worker ended in between: it then takes up its
    queue's limit. Only for a server whose workers have all ended: a run that is about to begin would be handed out twice.
    """
    from prefect.client.orchestration import get_client
    from prefect.states import Scheduled

    given_back = []
    with get_client(sync_client=True) as client:
        for run in unfinished(client, flow_names, "PENDING"):
            if run.deployment_id is not None:  # others have no worker who would take them
                said = "the worker that it was handed to ended before it began"
                client.set_flow_run_state(run.id, Scheduled(message=said), force=True)
                given_back.append(run.name)
    return given_back


def unfinished(client: SyncPrefectClient, flow_names: Sequence[str], *states: str) -> list[FlowRun]:
    """The runs of these flows that stand in one of these types of states."""
    from prefect.client.schemas.filters import (
        FlowFilter,
        FlowFilterName,
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.objects import StateType

    wanted = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType(state) for state in states]))
    return every(
        client.read_flow_runs,
        flow_filter=FlowFilter(name=FlowFilterName(any_=list(flow_names))),
        flow_run_filter=FlowRunFilter(state=wanted),
    )


def _stat(pid: int) -> list[str]:
    """The fields of the kernel's line on a process from its state on; empty where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return []


def _started(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[19]) if fields else 0


def _is_zombie(pid: int) -> bool:
    return _stat(pid)[:1] == ["Z"]
