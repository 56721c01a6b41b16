"""Which process a flow run lives in, and runs whose process has died without a word: they are marked as crashed.

A worker marks the runs that it started, and an automation those of a worker that died too; a run that `factscale study run`
started on a server of its own has neither, and would stay Running in the home's Prefect database for ever.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

_PREFIX = "factscale."


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
        for run in unfinished(client, flow_names):
            process = Process.of(run.labels or {})
            if process is not None and process.is_dead:
                said = f"its process {process.pid} on {process.host} ended without a word"
                client.set_flow_run_state(run.id, Crashed(message=said), force=True)
                marked.append(run.name)
    return marked


def unfinished(client: Any, flow_names: Sequence[str]) -> Iterator[Any]:
    from prefect.client.schemas.filters import (
        FlowFilter,
        FlowFilterName,
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.objects import StateType

    wanted = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.CANCELLING]))
    size, offset = 200, 0
    found: list[Any] = []
    while True:  # read before any is marked, since that changes the pages
        page = client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=list(flow_names))),
            flow_run_filter=FlowRunFilter(state=wanted),
            limit=size,
            offset=offset,
        )
        found += page
        offset += size
        if len(page) < size:
            return iter(found)


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
