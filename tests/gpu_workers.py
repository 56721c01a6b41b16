"""A Prefect server that knows the deployment `unit`, and workers of two declared GPUs: what fan-out needs of a cluster."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun

from store.home import Home


@contextmanager
def units_server(home: Home, *, whole: bool = False) -> Iterator[str]:
    """A server in the home, configured for this process and its children; ``whole``: with all that `factscale deploy` makes."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.server import free_port, prepare_environment, running_server

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FACTSCALE_HOME", str(home.folder))
        patch.setenv("PREFECT_HOME", str(home.folder / "prefect"))
        patch.delenv("PREFECT_API_URL", raising=False)
        prepare_environment(home)
        with (
            running_server(home, free_port(), with_ui=False) as url,
            temporary_settings({PREFECT_API_URL: url}),
        ):
            patch.setenv("PREFECT_API_URL", url)
            if whole:
                from flows.deploying import deploy

                deploy()
            else:
                register()
            yield url


def register() -> None:
    """The work pool and the one deployment that units need: quicker than all of them."""
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.workers.process import ProcessWorker

    from flows.parameters import REPOSITORY
    from flows.unit import unit

    step = {"prefect.deployments.steps.set_working_directory": {"directory": str(REPOSITORY)}}
    with get_client(sync_client=True) as client:
        template = ProcessWorker.get_default_base_job_template()
        client.create_work_pool(WorkPoolCreate(name="gpu", type="process", base_job_template=template))
        client.create_deployment(
            client.create_flow(unit),
            name="unit",
            entrypoint="flows/unit.py:unit",
            work_pool_name="gpu",
            pull_steps=[step],
        )


@contextmanager
def two_workers(home: Home) -> Iterator[list[subprocess.Popen[bytes]]]:
    """One worker for each of two GPUs, which this machine need not have."""
    from flows.worker_commands import check_server
    from flows.workers import gpu_slots, started

    slots = gpu_slots(["0", "1"])
    check_server("gpu", {slot.queue for slot in slots})
    with started(slots, "gpu", home) as running:
        yield [worker.process for worker in running.values()]


def children(key: str | None = None) -> list[FlowRun]:
    """The runs of units on the server; of one unit where its key is given."""
    tag = "unit" if key is None else f"unit:{key}"
    with get_client(sync_client=True) as client:
        return client.read_flow_runs(flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=[tag])))


def begun(home: Home) -> Counter[str]:
    """How often each thought of the home was begun, by its identity."""
    if not home.generation_log.exists():
        return Counter()
    lines = [json.loads(line) for line in home.generation_log.read_text(encoding="utf-8").splitlines()]
    return Counter(identity for line in lines if line.get("phase") == "think" for identity in line["ids"])


def processes_of(run: FlowRun) -> list[int]:
    """The processes that make a flow run: its own, and those that it started."""
    wanted = f"PREFECT__FLOW_RUN_ID={run.id}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            if wanted in (entry / "environ").read_bytes().split(b"\0") and state not in "ZX":
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def kill(pids: list[int]) -> None:
    """`kill -9`."""
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def task_states(client: SyncPrefectClient, run: FlowRun) -> dict[str, str]:
    """The states of a run's task runs by name, as the server has written them down."""
    from prefect.client.schemas.filters import FlowRunFilterId

    wanted = FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
    return {one.name: one.state.name for one in client.read_task_runs(flow_run_filter=wanted) if one.state}
