"""What ends with a run that a person cancels: the runs that it started on workers.

The process of a cancelled run is ended by its worker, and the models with it; runs on other workers would go on without anyone
who waits for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterParentFlowRunId
from prefect.client.schemas.objects import FlowRun, State
from prefect.logging.loggers import flow_run_logger
from prefect.states import Cancelled, Cancelling

from flows.paging import every


def cancel_children(flow: Flow[Any, Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Cancel what a run has started and what that has started: workers end the processes of runs of deployments; runs that
    lived in the same process are over already. A worker calls it by the names of its parameters."""
    with get_client(sync_client=True) as client:
        for child in list(unfinished_below(client, flow_run.id)):
            message = f"{flow_run.name}, which had started it, was cancelled"
            # Proposed and not forced: the server makes Cancelled of it where no process has begun, lets a pending run start no
            # more, and leaves alone what has just ended.
            said: State[Any] = (Cancelled if child.deployment_id is None else Cancelling)(message=message)
            client.set_flow_run_state(child.id, said)
            flow_run_logger(flow_run).info("cancelled %s (%s)", child.name, child.id)


def unfinished_below(client: SyncPrefectClient, run: UUID) -> Iterator[FlowRun]:
    """The runs below a run, at any depth, that have not come to an end."""
    wanted = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[run]))
    for child in every(client.read_flow_runs, flow_run_filter=wanted):
        yield from unfinished_below(client, child.id)
        if child.state is None or not child.state.is_final():
            yield child
