"""The Prefect UI held against the store: what one of them has and the other does not show.

A task run can be missing from the UI (its server dropped the event), a unit from the store (another store, or a removed one),
and a flow run can stand there as Running though nothing runs. None of it loses a result: the store is the truth, and a run that
is started again makes what is missing in it.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from flows.paging import every
from store.connection import Store
from store.home import Home

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

_PAGE = 200
_ALL = 2**31
_PENDING_SECONDS = 180  # a process imports for some seconds, a cold disk for a minute
_CONFIGURED = ("PREFECT_API_URL", "PREFECT_PROFILE")
# The functions of the tasks whose units stand in `units` under the task run's name; paths and links are known by their rows.
_UNITS = ("traces", "training_set", "student", "predictions", "verdicts", "overlap", "draw", "control")


class Difference(NamedTuple):
    """One thing that UI and store do not agree on, and what to do about it."""

    flow_run: str
    what: str
    mend: str


class Compared(NamedTuple):
    """What was found, and a sentence that says it."""

    differences: list[Difference]
    summary: str


def compared(home: Home, latest: int, *, own_server: bool) -> Compared:
    """Hold the ``latest`` flow runs of the store (0: all) against the configured API, or with ``own_server`` against a server
    started on the home's own Prefect database. Without either nothing is compared, and the summary says so."""
    if not own_server and not any(os.environ.get(name) for name in _CONFIGURED):
        hint = "set PREFECT_API_URL, or add --ui to ask the home's own Prefect database"
        return Compared([], f"Not held against a Prefect UI: {hint}.")
    with _api(home) as (client, url):
        runs = _known_runs(home.store, latest)
        there = {str(run.id): run for run in _flow_runs(client, [run["flow_run_id"] for run in runs])}
        shown = [run for run in runs if run["flow_run_id"] in there]
        landed = _landed(home.store, [run["flow_run_id"] for run in shown])
        differences = [
            d
            for run in shown
            for d in _of_run(client, home.store, run, there[run["flow_run_id"]].name, landed[run["flow_run_id"]])
        ]
        differences += _stuck(client)
    foreign = len(runs) - len(shown)
    others = f" {foreign} flow runs of the store are not on this server." if foreign else ""
    if differences:
        things = f"{len(differences)} thing{'s' * (len(differences) != 1)}"
        return Compared(differences, f"UI and store differ in {things} ({url}).{others}")
    agreed = len(runs) - foreign
    return Compared([], f"UI and store agree on {agreed} flow run{'s' * (agreed != 1)} ({url}).{others}")


@contextmanager
def _api(home: Home) -> Iterator[tuple[SyncPrefectClient, str]]:
    from prefect.client.orchestration import get_client

    from flows.server import prefect_api

    with prefect_api(home) as url, get_client(sync_client=True) as client:
        yield client, url


def _known_runs(store: Store, latest: int) -> list[dict[str, Any]]:
    """The latest flow runs that the store knows of: those that ended with what they promised, and those that landed units."""
    return store.query(
        # Each attempt of a run has task runs of its own.
        "SELECT flow_run_id, sum(task_runs)::INTEGER AS promised, max(landed_at) AS last FROM "
        "(SELECT flow_run_id, task_runs, landed_at FROM flow_runs UNION ALL "
        "SELECT flow_run_id, 0, landed_at FROM units WHERE flow_run_id IS NOT NULL) GROUP BY 1 ORDER BY last DESC LIMIT ?",
        [latest or _ALL],
    )


def _of_run(
    client: SyncPrefectClient, store: Store, run: dict[str, Any], called: str, landed: Sequence[str]
) -> Iterator[Difference]:
    """What differs of one flow run, which is ``called`` so and has ``landed`` units of these names."""
    from flows.recorded import count_task_runs
    from tasks.landing import shown_name

    identity = run["flow_run_id"]
    name = f"{called} ({identity[:8]})"
    recorded = count_task_runs(client, UUID(identity))
    if recorded < run["promised"]:
        yield Difference(
            name,
            f"made {run['promised']:,} task runs, the UI shows {recorded:,}",
            "the server dropped events: docs/deployments.md, Large studies",
        )
    completed = _completed(client, UUID(identity))
    for unit in landed:
        if not completed[shown_name(unit)]:
            yield Difference(
                name,
                f"unit {unit!r} is in the store, the UI does not show it as completed",
                "run it again: Cached",
            )
    others = completed.keys() - {shown_name(unit) for unit in landed}
    for title in sorted(others - _unit_names(store, others)):
        yield Difference(
            name,
            f"the UI shows {title!r} as completed, the store has no such unit",
            "run the study again: it is made anew",
        )


def _completed(client: SyncPrefectClient, run: UUID) -> Counter[str]:
    """Completed task runs of unit tasks by name; cached ones count, but were made by another flow run."""
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
    from prefect.client.schemas.objects import StateType

    chosen = FlowRunFilter(id=FlowRunFilterId(any_=[run]))
    return Counter(
        task_run.name
        for task_run in every(client.read_task_runs, flow_run_filter=chosen)
        if task_run.state_type is StateType.COMPLETED and task_run.task_key.rpartition("-")[0] in _UNITS
    )


def _landed(store: Store, runs: list[str]) -> defaultdict[str, list[str]]:
    """The names of the units that each flow run has landed."""
    rows = store.query_for(
        runs, "SELECT DISTINCT flow_run_id, name FROM units SEMI JOIN wanted_ids ON wanted = flow_run_id ORDER BY ALL"
    )
    found: defaultdict[str, list[str]] = defaultdict(list)
    for row in rows:
        found[row["flow_run_id"]].append(row["name"])
    return found


def _unit_names(store: Store, titles: Iterable[str]) -> set[str]:
    rows = store.query_for(
        list(titles), "SELECT DISTINCT wanted FROM wanted_ids SEMI JOIN units ON replace(name, '{', '(') = wanted"
    )
    return {row["wanted"] for row in rows}


def _flow_runs(client: SyncPrefectClient, ids: list[str]) -> list[Any]:
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    found: list[Any] = []
    for start in range(0, len(ids), _PAGE):
        chosen = FlowRunFilter(id=FlowRunFilterId(any_=[UUID(one) for one in ids[start : start + _PAGE]]))
        found += client.read_flow_runs(flow_run_filter=chosen, limit=_PAGE)
    return found


def _stuck(client: SyncPrefectClient) -> Iterator[Difference]:
    """Runs that stand as Running, though they have sent no sign of life for a while, or as Pending, though none begins."""
    from flows.deploying import SILENT_SECONDS
    from flows.processes import unfinished
    from flows.server import FLOWS

    now = datetime.now(UTC)
    since = now - timedelta(seconds=SILENT_SECONDS)
    runs = [
        run for run in unfinished(client, FLOWS, "RUNNING", "CANCELLING") if run.state and run.state.timestamp < since
    ]
    heard = _heard(client, [run.id for run in runs], since)
    mend = "`factscale deploy` makes the automation that marks such runs; cancel it, or retry it"
    for run in runs:
        if run.id not in heard:
            said = f"stands as {run.state_name}, but has sent no sign of life for {SILENT_SECONDS} s"
            yield Difference(f"{run.name} ({str(run.id)[:8]})", said, mend)
    for run in unfinished(client, FLOWS, "PENDING"):
        if run.state and run.state.timestamp < now - timedelta(seconds=_PENDING_SECONDS):
            said = f"stands as {run.state_name} since {run.state.timestamp:%Y-%m-%d %H:%M} UTC: its worker has gone, or is slow"
            yield Difference(f"{run.name} ({str(run.id)[:8]})", said, mend)


def _heard(client: SyncPrefectClient, runs: list[UUID], since: datetime) -> set[UUID]:
    """Those of the runs that any event has told of since."""

    def is_heard(run: UUID) -> bool:
        asked = {
            "filter": {
                "occurred": {"since": since.isoformat()},
                "event": {"prefix": ["prefect.flow-run."]},
                "resource": {"id": [f"prefect.flow-run.{run}"]},
            },
            "limit": 1,
        }
        return bool(client.request("POST", "/events/filter", json=asked).json()["events"])

    return set(filter(is_heard, runs))
