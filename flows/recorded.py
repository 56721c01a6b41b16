"""The decorator of every flow: it says whose process a run is, and holds Prefect to every task run that the flow made.

Prefect's client sends task runs as events, and its server may drop some of them without a word when they come too fast. So a
flow counts what it makes, lands the number in ``flow_runs`` and waits, for a while, until the API shows as many;
``factscale status`` compares them at any later time.
"""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar, get_args, get_type_hints
from uuid import UUID

import prefect
from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.logging.loggers import flow_run_logger
from pydantic.fields import FieldInfo

from flows.processes import this_process
from store.connection import Store
from store.home import Home
from tasks.landing import taken_task_runs

P = ParamSpec("P")
R = TypeVar("R")

_LEAST_SECONDS, _SECONDS_A_RUN = 15.0, 0.02  # a server writes down 50 task runs a second and more
_POLL_SECONDS = 0.1
_lock = threading.Lock()
_open: set[UUID] = set()
_to_check: dict[UUID, FlowRun] = {}


def flow(*, name: str, **options: Any) -> Callable[[Callable[P, R]], Flow[P, R]]:
    """Prefect's decorator, for a flow of this application."""
    hooks: dict[str, Any] = {"on_running": [own], "on_completion": [record], "on_failure": [record]}

    def decorate(body: Callable[P, R]) -> Flow[P, R]:
        made: Flow[P, R] = prefect.flow(name=name, **hooks, **options)(with_help(body))
        return made

    return decorate


def with_help(body: Callable[P, R]) -> Callable[P, R]:
    """The function with the help of its parameters in its docstring: the one place where Prefect's run form looks for it."""
    lines = []
    for parameter, kind in get_type_hints(body, include_extras=True).items():
        notes = [note.description for note in get_args(kind) if isinstance(note, FieldInfo) and note.description]
        told = notes[0] if notes else (inspect.getdoc(kind) or "").partition("\n")[0]
        if parameter != "return":
            lines.append(f"    {parameter}: {told}")
    body.__doc__ = "\n".join([inspect.getdoc(body) or "", "", "Args:", *lines])
    return body


def own(flow: Flow[Any, Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Write down which process a run lives in, so that another one can tell whether it still does."""
    with _lock:
        _open.add(flow_run.id)
    with get_client(sync_client=True) as client:
        client.update_flow_run_labels(flow_run.id, this_process().labels)


def record(flow: Flow[Any, Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Land how many task runs the run made, and wait until the API has them: once for a run and those that it called."""
    made = taken_task_runs(flow_run.id)
    with _lock:
        _open.discard(flow_run.id)
        if made:
            _to_check[flow_run.id] = flow_run
        check = [] if _open else list(_to_check.values())
        for checked in check:
            del _to_check[checked.id]
    store = Home.current().store
    with get_client(sync_client=True) as client:
        if made:
            attempt = client.read_flow_run(flow_run.id).run_count
            row = {"flow_run_id": str(flow_run.id), "attempt": attempt, "flow": flow.name, "task_runs": made}
            store.land({"flow_runs": [{**row, "study": _study(flow_run.parameters)}]})
        for run in check:
            promised = promised_task_runs(store, run.id)
            shown = _wait(client, run.id, promised)
            if shown < promised:
                flow_run_logger(run).warning(
                    "%d task runs were made, and Prefect's API shows %d: the server dropped the others (what they made is in "
                    "the store); `factscale status` tells which",
                    promised,
                    shown,
                )


def promised_task_runs(store: Store, flow_run: UUID) -> int:
    """The task runs that all attempts of a flow run made, each of which has its own."""
    sql = "SELECT coalesce(sum(task_runs), 0)::INTEGER AS n FROM flow_runs WHERE flow_run_id = ?"
    return int(store.query(sql, [str(flow_run)])[0]["n"])


def count_task_runs(client: SyncPrefectClient, run: UUID) -> int:
    """The task runs of a flow run that came to an end, as the API has them; calls of other flows are none."""
    asked = {
        "flow_runs": {"id": {"any_": [str(run)]}},
        "task_runs": {
            "state": {"type": {"any_": ["COMPLETED", "FAILED", "CRASHED", "CANCELLED"]}},
            "subflow_runs": {"exists_": False},
        },
    }
    return int(client.request("POST", "/task_runs/count", json=asked).json())


def _wait(client: SyncPrefectClient, run: UUID, promised: int) -> int:
    deadline = time.monotonic() + _LEAST_SECONDS + _SECONDS_A_RUN * promised
    while (shown := count_task_runs(client, run)) < promised and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    return shown


def _study(parameters: Mapping[str, Any]) -> str:
    given = parameters.get("parameters")
    name = given.get("name") if isinstance(given, dict) else getattr(given, "name", None)
    return str(name or "study")
