"""An evaluation whose model is a toy server in the test's own process, and a Prefect server with a worker that makes it.

Two question sets are two units; the server can be told to refuse whoever asks, and knows what it was asked.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

from model_server import SERVED, Answer, Asked, ModelServer, error, toy
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.states import AwaitingRetry, Scheduled

QUESTIONS = 4
BUDGET, ANSWER = 8, 4


class Served:
    """The toy server. It answers ``lives_for`` more requests and refuses those after them; None: it answers all."""

    def __init__(self) -> None:
        self.lives_for: int | None = None
        self._refused: set[int] = set()
        self.server = ModelServer(self._answer)

    @property
    def prompts(self) -> Counter[str]:
        """How often each prompt was answered."""
        answered = [one for one in self.server.posts if id(one) not in self._refused]
        return Counter(json.dumps(one.body["prompt"]) for one in answered)

    def _answer(self, asked: Asked) -> Answer:
        if asked.body and self.lives_for is not None:
            if self.lives_for <= 0:
                self._refused.add(id(asked))
                return error(401, "no such key")
            self.lives_for -= 1
        return toy(asked)


def study(folder: Path, served: Served, name: str) -> dict[str, Any]:
    """Parameters of `evaluate`: two units of four questions each, asked one after another."""
    own = folder / "own.jsonl"
    rows = [
        {"id": f"{name}-{n}", "split": "test", "text": f"What is {name} {n}?", "answers": [{"text": str(n)}]}
        for n in range(QUESTIONS)
    ]
    own.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    sets = [{"dataset": "starter", "split": "test", "limit": QUESTIONS}, {"dataset": "jsonl", "path": str(own)}]
    serving = {"model": "smollm2-135m", "url": served.server.url, "served_as": SERVED, "in_flight": 1}
    return {
        "name": name,
        "seed": sum(name.encode()),
        "generation": {"chunk": 1, "servers": [serving]},
        "evaluate": {
            "settings": ["instruct"],
            "datasets": sets,
            "budgets": [BUDGET],
            "max_answer_tokens": ANSWER,
            "sampling": {"temperature": 0},
            "overlap": {"encoder": "off"},
        },
    }


@contextmanager
def client() -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as found:
        yield found


def start(deployment: str, parameters: dict[str, Any]) -> UUID:
    """Make a run as the button in the UI does."""
    with client() as api:
        chosen = api.read_deployment_by_name(deployment)
        given = {"parameters": parameters}
        return api.create_flow_run_from_deployment(chosen.id, parameters=given, state=Scheduled()).id


def retry(run: UUID) -> None:
    """Do what the Retry button does."""
    with client() as api:
        api.set_flow_run_state(run, AwaitingRetry(message="Retry from the UI"), force=True)


def wait_for(run: UUID, state: str, seconds: float = 600) -> FlowRun:
    """The run, once its state has that name."""
    with client() as api:

        def found() -> FlowRun | None:
            one = api.read_flow_run(run)
            return one if one.state_name == state else None

        return until(found, seconds, lambda: f"{api.read_flow_run(run).state!r} is not {state}")


def until(
    look: Callable[[], Any], seconds: float = 600, told: Callable[[], str] = lambda: "it did not come about"
) -> Any:
    """What ``look`` gives once it gives something."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, told()
        time.sleep(0.1)
    return found


def ended_states(run: UUID, count: int) -> Counter[tuple[str, str]]:
    """Names and last states of a run's task runs, once the server has written down that so many have come to an end: it does
    so some time after the run has."""
    return Counter(until(lambda: len(found := _task_states(run)) >= count and _have_ended(found) and found, 60))


def _have_ended(states: Counter[tuple[str, str]]) -> bool:
    return not {state for _, state in states} & {"Scheduled", "Pending", "Running"}


def _task_states(run: UUID) -> Counter[tuple[str, str]]:
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    with client() as api:
        found = api.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run])))
        return Counter((one.name, str(one.state_name)) for one in found)


def process_of(run: UUID) -> int:
    """The process that a run lives in, by its labels."""

    def found() -> int:
        with client() as api:
            return int(str((api.read_flow_run(run).labels or {}).get("factscale.pid", 0)))

    return int(until(found, 300))


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def family(pid: int) -> set[int]:
    """A process and all below it."""
    found = {pid}
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text(encoding="utf-8").split():
            found |= family(int(child))
    return found


def alive(pids: set[int]) -> set[int]:
    """Those that are there and no zombies."""
    there = set()
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state not in "ZX":
            there.add(pid)
    return there
