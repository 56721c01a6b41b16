"""What a Prefect server needs to know of factscale: work pools, queues, deployments, automations (``factscale deploy``).

It can be called again at any time: what is there is brought up to date, or left where it is the user's own to change (pools,
queues and their limits, whether a schedule or an automation is switched on).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from prefect.automations import AutomationCore, EventTrigger
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState, SendNotification
from prefect.events.schemas.automations import Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectNotFound
from prefect.workers.process import ProcessWorker

from flows.nightly_events import regression_trigger
from flows.parameters import REPOSITORY
from flows.server import FLOWS, HEARTBEAT_SECONDS, configured_client
from flows.worker_queues import ensure_queue
from store.types import InputError, RunError

DEPLOYMENTS = Path("deployments") / "prefect.yaml"
SCHEDULED = "nightly/nightly"
SILENT_SECONDS = 3 * int(HEARTBEAT_SECONDS)
PENDING_SECONDS = 600
"""What a run may take from its hand-out to its first line: a process imports for seconds, on a cold disk for a minute or two."""
CRASHES, REGRESSIONS = "factscale: mark silent runs as crashed", "factscale: tell of a regression"
LOST = "factscale: mark runs that were handed out and never began as crashed"
_PENDING = {f"prefect.flow-run.{name}" for name in ("Pending", "Submitting", "InfrastructurePending")}
_NO_SERVER = "set it to the address of your Prefect server, or use `factscale ui`, which starts one"
_TOLD = (
    "Accuracy changed by {{ event.payload.effect }} (interval {{ event.payload.low }} to {{ event.payload.high }}) on "
    "{{ event.payload.questions }} questions; a loss beyond {{ event.payload.margin }} counts. Report: {{ event.payload.report }}"
)

POOLS = {
    "kg": "Runs that ask a knowledge graph: `retrieve`",
    "cpu": "Runs that direct others, or load models where the study's fan-out is `local`",
    "gpu": "Units of studies whose fan-out is `workers`: one worker a GPU",
}
QUEUES: dict[str, dict[str, int | None]] = {
    # pool: its queues, with how many runs each gives out at a time
    "cpu": {"models": 1, "light": None},
    "gpu": {"gpus-2": None, "gpus-4": None, "gpus-8": None},
}


class Made(NamedTuple):
    """One thing on the server: ``made`` now, ``updated``, or ``kept`` as it was."""

    kind: str
    name: str
    state: str


def deploy(notify: str | None = None, nightly: bool | None = None) -> list[Made]:
    """Register everything on the configured server.

    ``notify`` names the block (type/name) that is told of a regression; ``nightly`` switches the schedule on or off, None
    leaves it. Raises InputError for a server that is not there and for a block that is not, or that tells nobody; RunError
    where Prefect refuses something.
    """
    with configured_client(_NO_SERVER) as client:
        told = None if notify is None else _block(client, notify)
        done = [*_pools(client), *_queues(client)]
        with _kept_switches(client, nightly):
            done += _deployments()
        automations = [_crashes(), _lost(), *([] if told is None else [_regressions(told)])]
        return done + [_automation(client, wanted) for wanted in automations]


def _crashes() -> AutomationCore:
    """Runs that sent a sign of life and then none for a while. Another flow of these names would be judged by it as well, so
    its runs have to send theirs as often."""
    return _silence(
        CRASHES,
        f"A run whose process and worker died sends no heartbeat: after {SILENT_SECONDS} s it is marked as Crashed.",
        {"prefect.flow-run.heartbeat"},
        SILENT_SECONDS,
    )


def _lost() -> AutomationCore:
    """Runs that were handed to a worker that ended before they began; Prefect counts them in the limits of their queue.

    Only of process workers: a pod may wait longer for its machine, and its own worker watches it."""
    return _silence(
        LOST,
        f"A run whose worker ended between hand-out and start stays Pending: after {PENDING_SECONDS} s it is marked as Crashed.",
        _PENDING,
        PENDING_SECONDS,
        [{"prefect.resource.role": "work-pool", "prefect.work-pool.type": "process"}],
    )


def _silence(
    name: str, description: str, after: set[str], seconds: int, related: Sequence[dict[str, str]] = ()
) -> AutomationCore:
    """Marks runs of our flows as crashed of which nothing is heard for so long after one of these events."""
    ours = {"prefect.resource.role": "flow", "prefect.resource.name": list(FLOWS)}
    return AutomationCore(
        name=name,
        description=description,
        trigger=EventTrigger(
            posture=Posture.Proactive,
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related=[ResourceSpecification.model_validate(one) for one in (ours, *related)],
            for_each={"prefect.resource.id"},
            after=after,
            expect={"prefect.flow-run.*"},
            threshold=1,
            within=timedelta(seconds=seconds),
        ),
        actions=[
            ChangeFlowRunState(
                name=None, state=StateType.CRASHED, force=False, message=f"no sign of life for {seconds} s"
            )
        ],
    )


def _regressions(block: UUID) -> AutomationCore:
    return AutomationCore(
        name=REGRESSIONS,
        description="A nightly re-evaluation came out worse than the last accepted one by more than its margin.",
        trigger=regression_trigger(),
        actions=[
            SendNotification(
                block_document_id=block,
                subject="factscale: study {{ event.resource.name }} came out worse",
                body=_TOLD,
            )
        ],
    )


def _pools(client: SyncPrefectClient) -> Iterator[Made]:
    there = {pool.name for pool in client.read_work_pools()}
    for name, description in POOLS.items():
        if name not in there:
            template = ProcessWorker.get_default_base_job_template()
            wanted = WorkPoolCreate(name=name, description=description, type="process", base_job_template=template)
            client.create_work_pool(wanted)
        yield Made("work pool", name, "kept" if name in there else "made")


def _queues(client: SyncPrefectClient) -> Iterator[Made]:
    for pool, queues in QUEUES.items():
        for name, limit in queues.items():
            made = ensure_queue(client, pool, name, limit)
            yield Made("work queue", f"{pool}/{name}", "made" if made else "kept")


def _deployments() -> list[Made]:
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL

    password = PREFECT_API_AUTH_STRING.value()
    environment = {
        # Prefect would write this machine's folder into the pull step; each worker is to fill in its own.
        **{name: value for name, value in os.environ.items() if name != "FACTSCALE_ROOT"},
        "PREFECT_API_URL": str(PREFECT_API_URL.value()),
        **({"PREFECT_API_AUTH_STRING": str(password)} if password else {}),
    }
    command = ["prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(DEPLOYMENTS)]
    done = subprocess.run(
        [sys.executable, "-m", *command], env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        said = " ".join((done.stderr or done.stdout).split())[-600:]
        raise RunError(f"`{' '.join(command)}` failed: {said}")
    return [Made("deployment", name, "updated") for name in deployment_names()]


def deployment_names() -> list[str]:
    """The names of the shipped deployments."""
    import yaml

    content = yaml.safe_load((REPOSITORY / DEPLOYMENTS).read_text(encoding="utf-8"))
    return [str(deployment["name"]) for deployment in content["deployments"]]


@contextmanager
def _kept_switches(client: SyncPrefectClient, nightly: bool | None) -> Iterator[None]:
    """Registering anew would switch a schedule back to what the file says."""
    before = _switch(client)
    yield
    wanted = before if nightly is None else nightly
    if wanted is not None and "nightly" in deployment_names():
        deployment = client.read_deployment_by_name(SCHEDULED)
        for schedule in deployment.schedules:
            if schedule.active != wanted:
                client.update_deployment_schedule(deployment.id, schedule.id, active=wanted)


def _switch(client: SyncPrefectClient) -> bool | None:
    """Whether the nightly's schedule is on; None where there is none yet."""
    try:
        schedules = client.read_deployment_by_name(SCHEDULED).schedules
    except ObjectNotFound:
        return None
    return any(schedule.active for schedule in schedules) if schedules else None


def _automation(client: SyncPrefectClient, wanted: AutomationCore) -> Made:
    there = client.read_automations_by_name(wanted.name)
    if not there:
        client.create_automation(wanted)
        return Made("automation", wanted.name, "made")
    client.update_automation(there[0].id, wanted.model_copy(update={"enabled": there[0].enabled}))
    return Made("automation", wanted.name, "updated")


def _block(client: SyncPrefectClient, named: str) -> UUID:
    kind, _, name = named.partition("/")
    try:
        block = client.read_block_document_by_name(name, block_type_slug=kind, include_secrets=False)
    except ObjectNotFound:
        raise InputError(
            f"--notify {named!r}: there is no such block; make it in the UI (Blocks, +), or name another as type/name, for "
            "example slack-webhook/nightly"
        ) from None
    if block.block_schema is None or "notify" not in block.block_schema.capabilities:
        raise InputError(
            f"--notify {named!r}: a block of type {kind} tells nobody; name one that notifies, for example slack-webhook/{name}, "
            f"custom-webhook/{name} or sendgrid-email/{name}"
        )
    return block.id
