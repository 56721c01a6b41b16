"""Units as runs on Prefect workers, on a real server: each has a page, is made once, and outlives the worker that began it."""

from __future__ import annotations

import contextvars
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gpu_workers
import mini_study
import pytest
from gpu_workers import begun, children
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName
from prefect.client.schemas.objects import FlowRun
from served_study import until

from flows.parameters import Study
from store.home import Home
from store.types import InputError, RunError

pytestmark = [pytest.mark.real, pytest.mark.timeout(1800)]
SAMPLES = 8
WORKERS = {"fan_out": {"kind": "workers"}}


def study(**sections: Any) -> Study:
    return Study.model_validate({**mini_study.mini(**sections), **WORKERS})


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A home with a server that knows `unit`, and no worker yet."""
    home = Home(tmp_path_factory.mktemp("home"))
    with gpu_workers.units_server(home):
        yield home


def test_without_any_worker_nothing_is_handed_out(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows import worker_queues
    from flows.evaluate import evaluate

    monkeypatch.setattr(worker_queues.check_queues, "__defaults__", (0.0, "gpu"))
    parameters = study(evaluate={"settings": ["instruct"]})
    with pytest.raises(InputError, match=r"no worker polls queue 'default' of work pool 'gpu'.*`factscale workers`"):
        evaluate(parameters)
    large = study(evaluate={"settings": ["instruct"]}, generation={"tensor_parallel": 4})
    with pytest.raises(InputError, match=r"queue 'gpus-4'.*--each 4"):
        evaluate(large)
    assert children() == []


def child_of(key: str) -> Any:
    """A unit as a flow hands it out; nobody is there to make it."""
    from flows.fan_out_workers import Child

    return Child(name=key, key=key, queue="default", job_variables={}, parameters={}, tags=("made-up",))


def handed_out(client: SyncPrefectClient, key: str, parent: Any = None) -> FlowRun:
    """A run of a unit that another flow, or the one of the task run ``parent``, has started."""
    deployment = client.read_deployment_by_name("unit/unit")
    tags = [*child_of(key).tags, child_of(key).tag]
    return client.create_flow_run_from_deployment(deployment.id, name=key, tags=tags, parent_task_run_id=parent)


def test_a_run_that_another_flow_started_and_lost_is_started_again(home: Home) -> None:
    from prefect import flow
    from prefect.states import Cancelled

    from flows.fan_out_workers import Stopped, run_child

    child, failed = child_of("adopted"), list[BaseException]()

    @flow(name="waits")
    def waits() -> None:
        run_child(child, child)

    def wait() -> None:
        try:
            waits()
        except Stopped as error:
            failed.append(error)

    with get_client(sync_client=True) as client:
        first = handed_out(client, child.key)
        context = contextvars.copy_context()
        waiting = threading.Thread(target=context.run, args=(wait,))
        waiting.start()
        time.sleep(2)
        assert [run.id for run in children(child.key)] == [first.id], "one that is under way is waited for"
        client.set_flow_run_state(first.id, Cancelled())
        (own,) = until(lambda: [run for run in children(child.key) if run.id != first.id], 60)
        client.set_flow_run_state(own.id, Cancelled())
        waiting.join(60)
    assert len(failed) == 1
    assert f"({own.id}) was cancelled" in str(failed[0])
    assert len(children(child.key)) == 2


def test_a_pending_run_whose_worker_has_died_is_not_waited_for(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.states import Pending, Running

    from flows import fan_out_workers, worker_queues

    with get_client(sync_client=True) as client:
        run = handed_out(client, "pending")
        client.set_flow_run_state(run.id, Pending(), force=True)
        run = client.read_flow_run(run.id)
        assert fan_out_workers._end_if_lost(client, run).state == run.state, "it has not been pending for long"
        monkeypatch.setattr(fan_out_workers, "_LOST", 0.0)
        monkeypatch.setattr(fan_out_workers, "is_polled", lambda *_: True)
        assert fan_out_workers._end_if_lost(client, run).state == run.state, "a worker is there"
        monkeypatch.setattr(fan_out_workers, "is_polled", worker_queues.is_polled)
        ended = fan_out_workers._end_if_lost(client, run)
        assert ended.state is not None
        assert ended.state.is_crashed()
        assert "no worker polls queue 'default'" in str(ended.state.message)
        running = handed_out(client, "running")
        client.set_flow_run_state(running.id, Running(), force=True)
        running = client.read_flow_run(running.id)
        assert fan_out_workers._end_if_lost(client, running).state == running.state


def test_what_a_cancelled_run_started_is_cancelled_and_starts_no_more(home: Home) -> None:
    from prefect import flow, task
    from prefect.context import FlowRunContext
    from prefect.states import Completed, Pending, Running

    from flows.cancelling import cancel_children

    started = {"scheduled": None, "pending": Pending(), "running": Running(), "completed": Completed()}

    @flow(name="parent")
    def parent() -> dict[str, FlowRun]:
        runs = {}
        context = FlowRunContext.get()
        assert context is not None
        assert context.flow_run is not None
        with get_client(sync_client=True) as client:
            for name, state in started.items():
                above = client.create_task_run(task(lambda: None), context.flow_run.id, name, state=Pending())
                runs[name] = handed_out(client, name, above.id)
                if state is not None:
                    client.set_flow_run_state(runs[name].id, state, force=True)
        return runs

    state = parent(return_state=True)
    runs = state.result()
    with get_client(sync_client=True) as client:
        above = client.read_flow_run(state.state_details.flow_run_id)
        cancel_children(parent, above, state)
        found = {name: client.read_flow_run(run.id).state for name, run in runs.items()}
        assert {name: state.name for name, state in found.items() if state} == {
            "scheduled": "Cancelled",
            "pending": "Cancelling",
            "running": "Cancelling",
            "completed": "Completed",
        }
        client.set_flow_run_state(runs["pending"].id, Running())  # as its process asks before it begins
        after = client.read_flow_run(runs["pending"].id).state
        assert after is not None
        assert not after.is_running()


@pytest.mark.slow
def test_runs_are_made_by_workers_and_then_cached(home: Home) -> None:
    from flows.evaluate import evaluate

    parameters = study(evaluate={"settings": ["instruct", "cot"]})
    with gpu_workers.two_workers(home):
        evaluate(parameters)
    assert_made_by_workers(
        home, ["answers smollm2-135m cot starter-test", "answers smollm2-135m instruct starter-test"]
    )
    runs = children()
    evaluate(parameters)  # no worker is left: what is there needs none
    assert len(children()) == len(runs)
    states = until(lambda: cached(4))
    assert set(states.values()) == {"Cached"}


@pytest.mark.slow
def test_a_whole_study_is_made_by_workers(tmp_path: Path) -> None:
    from flows.study import study as whole_study

    home = Home(tmp_path)
    parameters = study(distill={"judge": "smollm2-135m"}, evaluate={"judges": ["smollm2-135m"]})
    with gpu_workers.units_server(home), gpu_workers.two_workers(home):
        whole_study(parameters)
        assert_made_by_workers(
            home,
            [
                "answers smollm2-135m fs1 starter-test",
                "answers smollm2-135m instruct starter-test",
                "student smollm2-135m fs1",
                "traces smollm2-135m fs1 starter-train",
                "verdicts smollm2-135m contains",
                "verdicts smollm2-135m contains on teachers",
            ],
        )


@pytest.mark.slow
def test_the_command_says_which_worker_ended_and_takes_the_others_along(tmp_path: Path) -> None:
    home = Home(tmp_path)
    output = tmp_path / "output.txt"
    with gpu_workers.units_server(home), output.open("wb") as said:
        command = [str(Path(sys.executable).with_name("factscale")), "workers", "--gpus", "4,5", "--name", "here"]
        process = subprocess.Popen(command, stdout=said, stderr=said, start_new_session=True)
        try:
            first, second = until(lambda: two_children(process.pid))
            devices = device_of(first), device_of(second)
            assert sorted(devices) == ["4", "5"]
            gpu_workers.kill([first])
            until(lambda: f"'here-gpu{devices[0]}' ended with code -9" in output.read_text(encoding="utf-8"))
            assert process.poll() is None
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does
            assert process.wait(60) == 130
            assert not Path(f"/proc/{second}").exists()
        finally:
            process.kill()
            process.wait()


def two_children(pid: int) -> list[int]:
    """The workers of a command, once it has started both."""
    found = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    workers = [child for child in found if b"worker" in Path(f"/proc/{child}/cmdline").read_bytes()]
    return sorted(workers) if len(workers) == 2 else []


def device_of(pid: int) -> str:
    """What a process sees in CUDA_VISIBLE_DEVICES."""
    variables = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return next(one.partition("=")[2] for one in variables if one.startswith("CUDA_VISIBLE_DEVICES="))


def assert_made_by_workers(home: Home, names: list[str]) -> None:
    """These units were made on the two GPUs, each by one run and once, and all others in the flow's own process."""
    runs = children()
    units = home.store.query("SELECT name, flow_run_id, versions ->> 'devices' AS devices FROM units")
    made = {unit["name"]: unit for unit in units if unit["devices"] is not None}
    assert sorted(made) == names
    assert {unit["devices"] for unit in made.values()} == {"0", "1"}
    assert {str(run.id): run.name for run in runs} == {unit["flow_run_id"]: name for name, unit in made.items()}
    assert {run.state.name for run in runs if run.state} == {"Completed"}
    assert set(begun(home).values()) == {1}
    assert_linked(runs)


def assert_linked(runs: list[FlowRun]) -> None:
    """Each run of a unit has a task run of the flow that asked for it, by which the UI shows it there."""
    with get_client(sync_client=True) as client:
        for run in runs:
            assert run.parent_task_run_id is not None
            above = client.read_task_run(run.parent_task_run_id)
            assert above.flow_run_id is not None
            assert client.read_flow(client.read_flow_run(above.flow_run_id).flow_id).name in {
                "distill",
                "finetune",
                "evaluate",
            }


def cached(count: int) -> dict[str, str]:
    """The task states of the newest run of `evaluate`, once the server has so many."""
    from prefect.client.schemas.filters import FlowFilter, FlowFilterName
    from prefect.client.schemas.sorting import FlowRunSort

    with get_client(sync_client=True) as client:
        (newest,) = client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=["evaluate"])),
            sort=FlowRunSort.START_TIME_DESC,
            limit=1,
        )
        states = gpu_workers.task_states(client, newest)
    ended = not {"Scheduled", "Pending", "Running"} & set(states.values())
    return states if len(states) == count and ended else {}


def long_evaluation(samples: int = SAMPLES) -> Study:
    """One unit of many rows, two at a time."""
    fields = {"settings": ["instruct"], "samples": samples, "sampling": {"temperature": 1.0, "top_p": 0.95}}
    return study(evaluate=fields, generation={"chunk": 2, "batch_size": 2})


class Flow(threading.Thread):
    """A flow that runs beside the test; what it raises is kept."""

    def __init__(self, parameters: Study) -> None:
        super().__init__()
        self.parameters, self.error = parameters, None
        self.context = contextvars.copy_context()  # it holds the address of the server

    error: BaseException | None

    def run(self) -> None:
        from flows.evaluate import evaluate

        try:
            self.context.run(evaluate, self.parameters)
        except BaseException as error:
            self.error = error


def generating(home: Home, flow: Flow | None = None) -> FlowRun:
    """The unit's run, once its model has begun to generate."""
    until(lambda: len(begun(home)) > 2 or (flow is not None and flow.error))
    assert flow is None or flow.error is None, flow.error
    return next(run for run in children() if run.state and run.state.is_running())


@pytest.mark.slow
@pytest.mark.parametrize("with_its_worker", [False, True], ids=["the run", "the worker"])
def test_what_is_killed_goes_on_elsewhere(tmp_path: Path, *, with_its_worker: bool) -> None:
    home, parameters = Home(tmp_path), long_evaluation()
    with gpu_workers.units_server(home, whole=True), gpu_workers.two_workers(home) as workers:
        flow = Flow(parameters)
        flow.start()
        run = generating(home, flow)
        pids = gpu_workers.processes_of(run)
        assert pids
        device = device_of(pids[0])
        landed = len(home.store.query("SELECT 1 FROM thoughts"))
        # A worker takes the processes of its run along.
        gpu_workers.kill([workers[int(device)].pid] if with_its_worker else pids)
        until(lambda: not gpu_workers.processes_of(run), 30)
        flow.join(600)
        assert flow.error is None
        runs = children()
    wanted = SAMPLES * mini_study.TEST
    assert len(home.store.query("SELECT 1 FROM thoughts")) == wanted
    assert landed < wanted
    assert sorted(str(one.state.name) for one in runs if one.state) == ["Completed", "Crashed"]
    (unit,) = home.store.query("SELECT versions ->> 'devices' AS devices FROM units WHERE kind = 'traces'")
    if with_its_worker:
        assert unit["devices"] != device
    assert sum(n - 1 for n in begun(home).values()) <= 2, "more was generated twice than a chunk"


@pytest.mark.slow
def test_a_cancelled_unit_is_not_started_again(tmp_path: Path) -> None:
    from prefect.states import Cancelling

    home = Home(tmp_path)
    with gpu_workers.units_server(home), gpu_workers.two_workers(home):
        flow = Flow(long_evaluation())
        flow.start()
        run = generating(home, flow)
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(run.id, Cancelling(), force=True)
        flow.join(120)
        assert isinstance(flow.error, RunError)
        assert f"({run.id}) was cancelled" in str(flow.error)
        until(lambda: not gpu_workers.processes_of(run), 30)
        assert len(children()) == 1


@pytest.mark.slow
def test_cancelling_a_study_cancels_what_it_handed_out(tmp_path: Path) -> None:
    from prefect.deployments import run_deployment
    from prefect.states import Cancelling

    from flows.unit_names import plain_parameters
    from flows.workers import cpu_slots, started

    home, parameters = Home(tmp_path), long_evaluation(samples=60)
    with (
        gpu_workers.units_server(home, whole=True),
        gpu_workers.two_workers(home),
        started([slot._replace(queue="models") for slot in cpu_slots(1)], "cpu", home),
    ):
        parent: Any = run_deployment(
            "evaluate/evaluate", parameters={"parameters": without_report(plain_parameters(parameters))}, timeout=0
        )
        run = generating(home)
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(parent.id, Cancelling(), force=True)
        until(lambda: state_of(run) == state_of(parent) == "Cancelled", 120)
        until(lambda: not gpu_workers.processes_of(run) and not gpu_workers.processes_of(parent), 30)
        time.sleep(5)
        assert len(children()) == 1


def without_report(parameters: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if name != "report"}


def state_of(run: FlowRun) -> str:
    with get_client(sync_client=True) as client:
        (found,) = client.read_flow_runs(flow_run_filter=FlowRunFilter(name=FlowRunFilterName(any_=[run.name])))
    return str(found.state.name) if found.state else ""
