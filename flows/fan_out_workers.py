"""Units as runs of the deployment ``unit``, which Prefect workers take, one a GPU: ``fan_out: {kind: workers}``.

Each has a page, a log, a Retry button and a process of its own. A unit is known on the server by a tag with its key: whoever
needs one that another run is making waits for that, so no unit is made twice at a time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import httpx
from prefect import Task, task
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import FlowRun, State, StateType, TaskRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.context import TaskRunContext
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.futures import PrefectFuture
from prefect.logging import get_run_logger
from prefect.settings import PREFECT_API_URL
from prefect.states import Crashed
from prefect.tasks import exponential_backoff
from pydantic import JsonValue

from flows.artifacts import threads
from flows.fan_out import Place
from flows.parameters import Distill
from flows.unit import BAD_INPUT, FAULT
from flows.unit_names import Work, plain_parameters
from flows.worker_queues import POOL, any_polled, check_queues, is_polled, queue_for
from store.home import Home
from store.types import Frozen, InputError, RunError
from tasks.landing import UNIT_OPTIONS, retryable, submit

DEPLOYMENT = "unit/unit"
_POLL, _SLOWEST_POLL = 0.5, 5.0
_LOST, _TELL = 900.0, 600.0
"""Seconds that a run may be pending without anyone who polls its queue; and those between two lines on what is waited for."""
_PATIENCE = 600.0
"""Seconds that the server may be away while a unit is waited for: workers go on without it."""

# Prefect numbers the children of a run without a lock, and two with one number would be one in its eyes.
_starting = threading.Lock()
_UNDER_WAY = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.PAUSED]


class Child(Frozen):
    """How a unit's run is started: its name for people, the unit's key, the queue, what the pool's infrastructure is told, and
    its parameters as JSON."""

    name: str
    key: str
    queue: str
    job_variables: dict[str, JsonValue]
    parameters: dict[str, JsonValue]
    tags: tuple[str, ...]

    @property
    def tag(self) -> str:
        """By which the run is found, whoever started it."""
        return f"unit:{self.key}"


class Stopped(RunError):
    """A run that must not be started again: a person cancelled it, or it ended by a fault in the code."""


class WorkersPlace(Place):
    """The workers of the pool ``gpu`` on the configured server."""

    def __init__(self, parameters: Distill) -> None:
        check_configured()
        self._chosen = parameters.fan_out
        self._study = parameters.name
        self._parameters = plain_parameters(parameters)
        self._runner = threads(self._chosen.at_once)
        self._sizes_pods = False

    def __enter__(self) -> WorkersPlace:
        self._runner.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._runner.__exit__(*error)

    def check(self, needs: Sequence[float]) -> None:
        with get_client(sync_client=True) as client:
            check_deployment(client)
            check_queues(client, {queue_for(gpus): gpus for gpus in needs}, get_run_logger().warning)
            # A pool that starts a pod for each run asks for its GPUs; see deployments/cluster/kubernetes/work-pool.json.
            template = client.read_work_pool(POOL).base_job_template
            self._sizes_pods = "gpus" in template.get("variables", {}).get("properties", {})

    def submit(self, work: Work, gpus: float) -> PrefectFuture[Any]:
        unit = work.name.model_copy(update={"key": work.order.key})
        child = Child(
            name=work.order.name,
            key=work.order.key,
            queue=queue_for(gpus),
            job_variables={"gpus": int(gpus)} if self._sizes_pods else {},
            parameters={"parameters": self._parameters, "unit": unit.model_dump(mode="json", exclude_defaults=True)},
            tags=("factscale", "unit", self._study),
        )
        # Under the name of its own task and with the same key: what ran elsewhere is Cached here the next time.
        chosen = run_child.with_options(name=work.task.name, retries=self._chosen.retries)
        return submit(chosen, work.order, Home.current().store, child, missing=True, runner=self._runner)


def check_configured() -> None:
    """Whether a server is configured that workers can poll. Raises InputError."""
    if not PREFECT_API_URL.value():
        raise InputError(
            "fan_out.kind 'workers': no Prefect server is configured. Start one (`factscale ui`), set PREFECT_API_URL to its "
            "address, for example http://127.0.0.1:4200/api, and start workers with `factscale workers`"
        )


def check_deployment(client: SyncPrefectClient) -> None:
    """Whether the deployment of units is known to the server. Raises InputError."""
    try:
        client.read_deployment_by_name(DEPLOYMENT)
    except ObjectNotFound:
        raise InputError(
            f"fan_out.kind 'workers': the server at {client.api_url} does not know the deployment {DEPLOYMENT}; register it with "
            "`factscale deploy`, and set PREFECT_API_URL to the server that workers poll"
        ) from None
    except httpx.HTTPError as error:
        raise RunError(f"the Prefect server at {client.api_url} does not answer: {error}") from None


def warn_of_workers() -> None:
    """Say in the run's log where the server lacks what units need, or no worker is there. It does not end the run: units that
    have landed need none, and a worker may come."""
    try:
        with get_client(sync_client=True) as client:
            check_deployment(client)
            if not any_polled(client):
                get_run_logger().warning("no worker polls work pool %r now: start some with `factscale workers`", POOL)
    except (InputError, RunError, httpx.HTTPError) as error:
        get_run_logger().warning("units that are missing cannot be handed out as it is: %s", error)


def may_start_again(task: Task[Any, Any], run: TaskRun, state: State[Any]) -> bool:
    """As :func:`tasks.landing.retryable`, but for what a person or a fault has stopped."""
    try:
        state.result()
    except Stopped:
        return False
    except Exception:
        return retryable(task, run, state)
    return False


@task(
    name="unit",
    **{**UNIT_OPTIONS, "retry_condition_fn": may_start_again, "retry_delay_seconds": exponential_backoff(2)},
)
def run_child(order: Any, child: Child) -> dict[str, str]:
    """Have a unit made by a worker, and wait for it. Returns its key and the run that made it."""
    while True:
        try:
            run = _wait(_adopt_or_start(child))
            state = run.state
            # Who cancelled another flow stopped that one's runs, and not this flow, which waited for one of them.
            if state is None or not state.is_cancelled() or _is_own(run):
                break
        except httpx.HTTPError as error:
            raise RunError(f"{child.name}: the Prefect server cannot be asked for a run of it: {error}") from None
        get_run_logger().info("run %s (%s), started by another flow, was cancelled", run.name, run.id)
    said = f"{child.name}: its run {run.name} ({run.id})"
    if state is None or state.is_crashed():
        raise RunError(f"{said} crashed: {state.message if state else 'it has no state'}")
    if state.is_cancelled():
        raise Stopped(f"{said} was cancelled; run the study again to go on from what has landed")
    if state.name == BAD_INPUT:
        raise InputError(f"{state.message} (said by run {run.name}, {run.id})")
    if not state.is_completed():
        raise (Stopped if state.name == FAULT else RunError)(f"{said} failed: {state.message}")
    if not Home.current().store.has_unit(child.key):
        raise InputError(
            f"{said} is Completed, but the unit is not in the store here: the worker has another store. Give its machine the "
            "same FACTSCALE_HOME, or the same FACTSCALE_STORE"
        )
    return {"unit": child.key, "flow_run": str(run.id)}


def _adopt_or_start(child: Child) -> FlowRun:
    """The run that is making the unit, or a new one.

    A new one's idempotency key holds the last run of the unit before it, so that two that look at the same time start the
    same run, and one that is asked twice by a repeated request starts once.
    """
    with _starting, get_client(sync_client=True) as client:
        running = _newest(client, child, FlowRunFilterState(type=FlowRunFilterStateType(any_=_UNDER_WAY)))
        if running is not None:
            get_run_logger().info("waiting for run %s (%s), which is to make this unit: %s", *_said(running))
            return running
        last = _newest(client, child)
        started: Any = run_deployment(
            DEPLOYMENT,
            parameters=child.parameters,
            flow_run_name=child.name,
            tags=[*child.tags, child.tag],
            work_queue_name=child.queue,
            job_variables=dict(child.job_variables) or None,
            idempotency_key=f"{child.key}:{last.id if last else 'first'}",
            timeout=0,
        )
        get_run_logger().info("started run %s (%s) on queue %s", started.name, started.id, child.queue)
        return started  # type: ignore[no-any-return]


def _said(run: FlowRun) -> tuple[str, str, str]:
    """A run's name and identity, and what it waits for or does, since when."""
    if run.state is None:
        return run.name, str(run.id), "it has no state yet"
    where = f" on queue {run.work_queue_name} of work pool {run.work_pool_name}" if not run.state.is_running() else ""
    return run.name, str(run.id), f"{run.state.name} since {run.state.timestamp:%Y-%m-%d %H:%M:%S} UTC{where}"


def _is_own(run: FlowRun) -> bool:
    """Whether the flow run that this task belongs to has started it, and no other one."""
    context = TaskRunContext.get()
    if context is None or run.parent_task_run_id is None:
        return False
    with get_client(sync_client=True) as client:
        return client.read_task_run(run.parent_task_run_id).flow_run_id == context.task_run.flow_run_id


def _end_if_lost(client: SyncPrefectClient, run: FlowRun) -> FlowRun:
    """The run, marked as crashed where it has been pending for long and nobody polls its queue: its worker has died, and a
    pending run is handed to no other."""
    state = run.state
    if state is None or not state.is_pending() or not (run.work_pool_name and run.work_queue_name):
        return run
    seconds = (datetime.now(UTC) - state.timestamp).total_seconds()
    if seconds < _LOST or is_polled(client, run.work_pool_name, run.work_queue_name):
        return run
    message = f"pending for {seconds / 60:.0f} minutes, and no worker polls queue {run.work_queue_name!r}"
    client.set_flow_run_state(run.id, Crashed(message=message), force=True)
    return client.read_flow_run(run.id)


def _newest(client: SyncPrefectClient, child: Child, state: FlowRunFilterState | None = None) -> FlowRun | None:
    wanted = FlowRunFilter(tags=FlowRunFilterTags(all_=[child.tag]))
    if state is not None:
        wanted = FlowRunFilter(tags=FlowRunFilterTags(all_=[child.tag]), state=state)
    found = client.read_flow_runs(flow_run_filter=wanted, sort=FlowRunSort.EXPECTED_START_TIME_DESC, limit=1)
    return found[0] if found else None


def _wait(run: FlowRun) -> FlowRun:
    """The run in its last state."""
    pause, away_since, told = _POLL, None, time.monotonic()
    while run.state is None or not run.state.is_final():
        time.sleep(pause)
        pause = min(pause * 1.2, _SLOWEST_POLL)
        try:
            with get_client(sync_client=True) as client:
                run = _end_if_lost(client, client.read_flow_run(run.id))
            away_since = None
            if time.monotonic() - told > _TELL:
                told = time.monotonic()
                get_run_logger().info("still waiting for run %s (%s): %s", *_said(run))
        except ObjectNotFound:
            raise RunError(f"run {run.name} ({run.id}) was deleted on the server") from None
        except httpx.HTTPError as error:
            away_since = away_since or time.monotonic()
            if time.monotonic() - away_since > _PATIENCE:
                raise RunError(f"the Prefect server has not answered for {_PATIENCE:.0f} s: {error}") from None
    return run
