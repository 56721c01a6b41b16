"""Runs of deployments that fail, are killed or cancelled, and go on: on a real server, with real workers.

What is generated comes from a toy model server in this process, which counts; cancellation is tried on a real model.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import mini_study
import pytest
from served_study import (
    QUESTIONS,
    Served,
    alive,
    ended_states,
    family,
    kill,
    process_of,
    retry,
    start,
    study,
    until,
    wait_for,
)

from flows.reconciling import compared
from flows.server import free_port, prepare_environment
from flows.ui import Running, everything
from store.home import Home

pytestmark = [pytest.mark.real, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def running(home: Home) -> Iterator[Running]:
    """The server and the worker of `factscale ui`, one pool."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FACTSCALE_HOME", str(home.folder))
        patch.setenv("PREFECT_HOME", str(home.folder / "prefect"))
        patch.setenv("FACTSCALE_ROOT", "/of/whoever/deploys")
        patch.setenv("PREFECT_WORKER_QUERY_SECONDS", "1")
        patch.setenv("PREFECT_WORKER_PREFETCH_SECONDS", "1")
        prepare_environment(home)
        with everything(home, free_port(), pools=["cpu"]) as running:
            patch.setenv("PREFECT_API_URL", running.url)
            with temporary_settings({PREFECT_API_URL: running.url}):
                yield running


@pytest.fixture
def served() -> Iterator[Served]:
    served = Served()
    with served.server:
        yield served


def let_go(running: Running) -> None:
    """Wait as long as a person does: until the worker has seen that the process of the last run has ended."""
    worker = running.workers["cpu"].process.pid
    until(lambda: family(worker) == {worker}, 120)


def test_each_worker_goes_to_its_own_copy_of_the_code(running: Running) -> None:
    """The runs of this module are made by a worker whose copy lies elsewhere than that of whoever deployed."""
    from served_study import client

    with client() as api:
        steps = [one.pull_steps for one in api.read_deployments()]
    step = {"prefect.deployments.steps.set_working_directory": {"directory": "{{ $FACTSCALE_ROOT }}"}}
    assert steps
    assert steps == [[step]] * len(steps)


def test_a_failed_run_that_is_retried_makes_what_was_missing(
    running: Running, home: Home, served: Served, tmp_path: Path
) -> None:
    served.lives_for = 2 * QUESTIONS + 3  # thought and answer of the first unit, and one row and a half of the second
    run = start("evaluate/evaluate", study(tmp_path, served, "failing"))
    wait_for(run, "Failed")
    states = ended_states(run, 2)
    assert sorted(state for _, state in states) == ["Completed", "Failed"]
    served.lives_for = None
    let_go(running)
    retry(run)
    wait_for(run, "Completed")
    (done,) = [name for name, state in states if state == "Completed"]
    (cut,) = [name for name, state in states if state == "Failed"]
    states = ended_states(run, 6)
    assert states[done, "Completed"] == states[done, "Cached"] == 1
    assert states[cut, "Failed"] == states[cut, "Completed"] == 1
    # The thought whose answer was refused had not landed; everything else was asked for once.
    assert sorted(served.prompts.values())[:-1] == [1] * (len(served.prompts) - 1)
    assert max(served.prompts.values()) <= 2
    found = compared(home, 0, own_server=False)
    assert found.differences == []
    assert "agree on 1 flow run" in found.summary
    attempts = home.store.query("SELECT attempt, task_runs FROM flow_runs ORDER BY 1")
    assert [(row["attempt"], row["task_runs"]) for row in attempts] == [(1, 2), (2, 4)]


@pytest.mark.slow
def test_a_killed_process_is_marked_at_once_and_a_retry_goes_on_row_by_row(
    running: Running, home: Home, served: Served, tmp_path: Path
) -> None:
    served.server.delay = 0.4
    run = start("evaluate/evaluate", study(tmp_path, served, "killed"))
    until(lambda: len(served.server.posts) >= 3, 300)
    kill(process_of(run))
    wait_for(run, "Crashed", seconds=60)  # the automation would take 90
    let_go(running)
    before = served.prompts
    served.server.delay = 0
    retry(run)
    wait_for(run, "Completed")
    again = [prompt for prompt, count in served.prompts.items() if count > 1]
    assert len(again) <= 2, "more was generated twice than the thought and the answer that were under way at the kill"
    assert len(served.prompts) > len(before)


@pytest.mark.slow
def test_a_cancelled_run_takes_its_processes_along(running: Running, home: Home) -> None:
    from prefect.states import Cancelling
    from served_study import client

    slow = mini_study.mini(
        evaluate={"settings": ["instruct"], "budgets": [4000]}, generation={"chunk": 1, "batch_size": 1}
    )
    log = home.generation_log
    before = log.stat().st_size if log.exists() else 0
    run = start("evaluate/evaluate", slow)
    pid = process_of(run)
    until(lambda: log.exists() and log.stat().st_size > before, 400)  # a model is loaded, and generates
    pids = family(pid)
    assert len(pids) >= 2
    with client() as api:
        api.set_flow_run_state(run, Cancelling(), force=True)
    until(lambda: not alive(pids), 60, lambda: f"{alive(pids)} of {pids} are still there")
    wait_for(run, "Cancelled", seconds=60)


@pytest.mark.slow
def test_a_run_whose_worker_died_too_is_marked_by_the_automation(
    running: Running, home: Home, served: Served, tmp_path: Path
) -> None:
    served.server.delay = 0.5
    run = start("evaluate/evaluate", study(tmp_path, served, "zombie"))
    until(lambda: len(served.server.posts) >= 3, 300)
    pid = process_of(run)
    running.workers["cpu"].process.kill()
    kill(pid)
    killed = time.monotonic()
    wait_for(run, "Crashed", seconds=200)
    assert 60 < time.monotonic() - killed < 180
    served.server.delay = 0
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "cpu", "--name", "another"]
    environment = {**os.environ, "FACTSCALE_ROOT": str(Path(__file__).resolve().parents[2])}
    with (tmp_path / "worker.log").open("wb") as log:
        worker = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        retry(run)
        wait_for(run, "Completed")
    finally:
        worker.terminate()
        worker.wait(30)
    assert sum(count > 1 for count in served.prompts.values()) <= 2
