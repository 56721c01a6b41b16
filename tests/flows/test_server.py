"""Servers that are started here: their password, what `factscale deploy` makes on them, and runs whose process has died."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from model_server import Answer, Asked, ModelServer
from served_study import alive, family, until

from flows.deploying import CRASHES, LOST, POOLS, QUEUES, REGRESSIONS, SCHEDULED, deploy, deployment_names
from flows.nightly_events import emit_verdict
from flows.processes import Process, give_back, mark_abandoned, this_process
from flows.reconciling import compared
from flows.server import FLOWS, SERVER_SETTINGS, free_port, prepare_environment, running_server
from flows.ui import everything
from store.connection import Unit
from store.home import Home
from store.types import InputError

real = [pytest.mark.real, pytest.mark.timeout(900)]
PASSWORD = "someone:s3cret"
ROOT = Path(__file__).resolve().parents[2]


class TestProcess:
    def test_its_labels_say_who_it_is(self) -> None:
        assert Process.of(this_process().labels) == this_process()
        assert Process.of({}) is None
        assert Process.of({**this_process().labels, "factscale.pid": "many"}) is None

    def test_this_one_lives(self) -> None:
        assert not this_process().is_dead

    def test_one_that_has_ended_is_dead(self) -> None:
        child = subprocess.Popen([sys.executable, "-c", "pass"])
        process = this_process()._replace(pid=child.pid)
        child.wait()
        assert process.is_dead

    def test_a_zombie_is_dead(self) -> None:
        child = subprocess.Popen([sys.executable, "-c", "pass"])
        started = Path(f"/proc/{child.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
        process = this_process()._replace(pid=child.pid, started=int(started))
        deadline = time.monotonic() + 20
        while not process.is_dead and time.monotonic() < deadline:
            time.sleep(0.05)
        assert process.is_dead
        child.wait()

    def test_a_later_one_with_its_number_is_another(self) -> None:
        assert this_process()._replace(started=this_process().started - 1).is_dead

    def test_of_one_elsewhere_nothing_is_known(self) -> None:
        gone = this_process()._replace(pid=2**22 - 1)
        assert gone.is_dead
        assert not gone._replace(host="elsewhere").is_dead
        assert not gone._replace(space=1).is_dead


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that asks for a password, known here."""
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    home = Home(tmp_path_factory.mktemp("home"))
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.setenv("PREFECT_HOME", str(home.folder / "prefect"))
        patch.setenv("PREFECT_SERVER_API_AUTH_STRING", PASSWORD)
        prepare_environment(home)
        url = stack.enter_context(running_server(home, free_port(), with_ui=False))
        stack.enter_context(temporary_settings({PREFECT_API_URL: url, PREFECT_API_AUTH_STRING: PASSWORD}))
        yield url
        assert PASSWORD.partition(":")[2] not in (home.logs / "prefect-server.log").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("status", "told"),
    [(403, "PREFECT_API_URL: the server at .* refuses: .*403"), (401, "PREFECT_API_AUTH_STRING: .* another")],
)
def test_a_server_that_refuses_is_told(status: int, told: str) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    def answer(asked: Asked) -> Answer:
        return Answer(json={}) if asked.path.endswith("/health") else Answer(status=status, json={"detail": "no"})

    with temporary_settings({PREFECT_API_URL: ModelServer(answer).url}), pytest.raises(InputError, match=told):
        deploy()


class TestServer:
    pytestmark = real

    def test_it_asks_for_the_password(self, url: str) -> None:
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{url}/admin/version", timeout=5)  # noqa: S310

    def test_it_answers_no_page_of_others(self, url: str) -> None:
        def allowed(origin: str) -> str | None:
            asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
            return httpx.options(f"{url}/flow_runs/", headers=asked, trust_env=False).headers.get(
                "access-control-allow-origin"
            )

        assert allowed("https://elsewhere.example") is None
        own = url.removesuffix("/api")
        assert allowed(own) == own

    def test_another_password_is_told(self, url: str) -> None:
        from prefect.settings import PREFECT_API_AUTH_STRING, temporary_settings

        with (
            temporary_settings({PREFECT_API_AUTH_STRING: "someone:else"}),
            pytest.raises(InputError, match="AUTH_STRING"),
        ):
            deploy()

    def test_a_block_that_is_not_there_is_told_before_anything_is_made(self, url: str) -> None:
        with pytest.raises(InputError, match="there is no such block"):
            deploy(notify="slack-webhook/nobody")

    def test_a_block_that_tells_nobody_is_told(self, url: str) -> None:
        from prefect.blocks.system import Secret

        Secret(value="s3cret-too").save("no-webhook")
        with pytest.raises(InputError, match="a block of type secret tells nobody; name one that notifies"):
            deploy(notify="secret/no-webhook")

    @pytest.mark.slow
    def test_registered_twice_everything_is_there_once(self, url: str) -> None:
        from prefect.blocks.notifications import CustomWebhookNotificationBlock
        from prefect.client.orchestration import get_client

        CustomWebhookNotificationBlock(name="team", url="http://127.0.0.1:9/", json_data={"text": "{{body}}"}).save(
            "team"
        )
        first = deploy(nightly=True)
        again = deploy(notify="custom-webhook/team")
        assert {made.state for made in first if made.kind != "deployment"} == {"made"}
        assert {made.state for made in again if made.kind.startswith("work")} == {"kept"}
        with get_client(sync_client=True) as client:
            pools = sorted(pool.name for pool in client.read_work_pools())
            assert pools == sorted(POOLS)
            for pool, queues in QUEUES.items():
                found = [queue.name for queue in client.read_work_queues(work_pool_name=pool)]
                assert sorted(found) == sorted([*queues, "default"])
            deployments = client.read_deployments()
            assert sorted(one.name for one in deployments) == sorted(deployment_names())
            assert {one.work_pool_name for one in deployments} == set(POOLS)
            (schedule,) = client.read_deployment_by_name(SCHEDULED).schedules
            assert schedule.active, "registering anew has switched off what a person had switched on"
            automations = client.read_automations()
            assert sorted(one.name for one in automations) == sorted([CRASHES, LOST, REGRESSIONS])

    @pytest.mark.slow
    def test_a_regression_is_told_to_the_block_and_a_loss_within_the_margin_is_not(self, url: str) -> None:
        from prefect.blocks.notifications import CustomWebhookNotificationBlock
        from prefect.events.worker import EventsWorker

        told = ModelServer(lambda _asked: Answer(json={}))
        said = {"subject": "{{subject}}", "body": "{{body}}"}
        CustomWebhookNotificationBlock(name="hears", url=told.url, json_data=said).save("hears", overwrite=True)
        deploy(notify="custom-webhook/hears")
        numbers = {"effect": -0.05, "low": -0.08, "high": -0.02, "questions": 400, "margin": 0.02}
        for name, regression in (("lucky", False), ("mine", True)):
            emit_verdict(name, "worse", {**numbers, "regression": regression}, "http://127.0.0.1:1/index.html")
        EventsWorker.drain_all(timeout=20)
        until(lambda: told.posts, 60)
        (post,) = told.posts
        assert post.body["subject"] == "factscale: study mine came out worse"
        assert "changed by -0.05 (interval -0.08 to -0.02) on 400 questions; a loss beyond 0.02" in post.body["body"]
        assert post.body["body"].endswith("Report: http://127.0.0.1:1/index.html")

    def test_a_run_of_a_dead_process_is_marked_and_others_are_left(self, url: str) -> None:
        from prefect import flow
        from prefect.client.orchestration import get_client
        from prefect.states import Completed, Running

        @flow(name="study")
        def known() -> None: ...

        @flow(name="somebody else's")
        def foreign() -> None: ...

        gone = this_process()._replace(pid=2**22 - 1)
        with get_client(sync_client=True) as client:
            runs = {}
            for name, made, process in (
                ("dead", known, gone),
                ("alive", known, this_process()),
                ("elsewhere", known, gone._replace(host="elsewhere")),
                ("foreign", foreign, gone),
            ):
                runs[name] = client.create_flow_run(made, name=f"{name}-{uuid4().hex[:6]}", state=Running()).id
                client.update_flow_run_labels(runs[name], process.labels)
            runs["unlabelled"] = client.create_flow_run(known, state=Running()).id
            marked = mark_abandoned(FLOWS)
            states = {name: client.read_flow_run(run).state_name for name, run in runs.items()}
            for run in runs.values():
                client.set_flow_run_state(run, Completed(), force=True)
        assert [name.partition("-")[0] for name in marked] == ["dead"]
        assert states.pop("dead") == "Crashed"
        assert set(states.values()) == {"Running"}

    def test_a_run_that_was_handed_out_and_never_began_is_given_back(self, url: str) -> None:
        from prefect import flow
        from prefect.client.orchestration import get_client
        from prefect.states import Completed, Pending

        @flow(name="study")
        def known() -> None: ...

        with get_client(sync_client=True) as client:
            deployment = client.create_deployment(client.create_flow(known), name=f"d-{uuid4().hex[:6]}")
            lost = client.create_flow_run_from_deployment(deployment, state=Pending()).id
            here = client.create_flow_run(known, state=Pending()).id
            try:
                given_back = give_back(FLOWS)
                assert given_back == [client.read_flow_run(lost).name]
                assert [client.read_flow_run(run).state_name for run in (lost, here)] == ["Scheduled", "Pending"]
                assert give_back(FLOWS) == []
            finally:
                client.set_flow_run_state(here, Completed(), force=True)
                client.delete_deployment(deployment)

    @pytest.mark.slow
    def test_one_whose_worker_does_not_come_back_is_marked(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """The automation that `factscale deploy` makes, with less patience."""
        from prefect import flow
        from prefect.client.orchestration import get_client
        from prefect.client.schemas.actions import WorkPoolCreate
        from prefect.states import Pending, Running, Submitting

        from flows import deploying

        @flow(name="study")
        def known() -> None: ...

        monkeypatch.setattr(deploying, "PENDING_SECONDS", 10)
        name = f"lost-{uuid4().hex[:6]}"
        with get_client(sync_client=True) as client:
            for kind in ("process", "kubernetes"):
                client.create_work_pool(WorkPoolCreate(name=f"{name}-{kind}", type=kind))
            automation = client.create_automation(deploying._lost())
            deployments, runs = [], {}
            for kind in ("process", "kubernetes"):
                made = client.create_flow(known)
                deployments.append(
                    client.create_deployment(made, name=f"{name}-{kind}", work_pool_name=f"{name}-{kind}")
                )
                runs[kind] = client.create_flow_run_from_deployment(deployments[-1]).id
            runs["begun"] = client.create_flow_run_from_deployment(deployments[0]).id
            try:
                time.sleep(3)  # until the server's triggers know of the automation
                for run in runs.values():
                    for state in (Pending(), Submitting()):
                        client.set_flow_run_state(run, state)
                client.set_flow_run_state(runs["begun"], Running())
                deadline = time.monotonic() + 60
                while (lost := client.read_flow_run(runs["process"])).state_name != "Crashed":
                    assert time.monotonic() < deadline, lost.state
                    time.sleep(0.5)
                assert client.read_flow_run(runs["kubernetes"]).state_name == "Submitting"
                assert client.read_flow_run(runs["begun"]).state_name == "Running"
            finally:
                client.delete_automation(automation)
                for run in runs.values():
                    client.delete_flow_run(run)
                for deployment in deployments:
                    client.delete_deployment(deployment)
                for kind in ("process", "kubernetes"):
                    client.delete_work_pool(f"{name}-{kind}")


class TestStatus:
    pytestmark = real

    @pytest.fixture
    def home(self, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
        monkeypatch.setenv("PREFECT_API_URL", url)
        return Home(tmp_path)

    def unit(self, run: UUID, name: str) -> Unit:
        return Unit(
            unit_key=name, kind="traces", name=name, spec="{}", row_count=1, seconds=1.0, versions="{}", host="h",
            flow_run_id=str(run),
        )  # fmt: skip

    def run_with(self, *completed: str) -> UUID:
        """A completed flow run with these task runs of the task `traces`."""
        from prefect import flow, task
        from prefect.client.orchestration import get_client
        from prefect.states import Completed

        @flow(name="evaluate")
        def evaluate() -> None: ...

        @task
        def traces() -> None: ...

        with get_client(sync_client=True) as client:
            run = client.create_flow_run(evaluate, state=Completed()).id
            for place, name in enumerate(completed):
                client.create_task_run(traces, run, dynamic_key=str(place), name=name, state=Completed())
        return run

    def test_what_is_the_same_agrees(self, home: Home) -> None:
        run = self.run_with("traces a", "traces b")
        home.store.land({"flow_runs": [promise(run, 2)]})
        for name in ("traces a", "traces b"):
            home.store.land({}, self.unit(run, name))
        found = compared(home, 0, own_server=False)
        assert found.differences == []
        assert found.summary.startswith("UI and store agree on 1 flow run ")

    def test_what_differs_is_told(self, home: Home) -> None:
        run = self.run_with("traces shown")
        home.store.land({"flow_runs": [promise(run, 3)]})
        home.store.land({}, self.unit(run, "traces landed"))
        found = [difference.what for difference in compared(home, 0, own_server=False).differences]
        assert found == [
            "made 3 task runs, the UI shows 1",
            "unit 'traces landed' is in the store, the UI does not show it as completed",
            "the UI shows 'traces shown' as completed, the store has no such unit",
        ]

    def test_each_attempt_has_task_runs_of_its_own(self, home: Home) -> None:
        run = self.run_with("traces a", "traces b")
        home.store.land({"flow_runs": [promise(run, 1, 1), promise(run, 1, 2)]})
        for name in ("traces a", "traces b"):
            home.store.land({}, self.unit(run, name))
        assert compared(home, 0, own_server=False).differences == []
        home.store.land({"flow_runs": [promise(run, 1, 3)]})
        (lost,) = compared(home, 0, own_server=False).differences
        assert lost.what == "made 3 task runs, the UI shows 2"

    def test_runs_of_another_server_are_counted(self, home: Home) -> None:
        home.store.land({"flow_runs": [promise(uuid4(), 2)]})
        found = compared(home, 0, own_server=False)
        assert found.differences == []
        assert "1 flow runs of the store are not on this server" in found.summary

    def test_a_run_without_a_sign_of_life(self, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
        from prefect import flow
        from prefect.client.orchestration import get_client
        from prefect.states import Completed, Running

        @flow(name="study")
        def study() -> None: ...

        home.store.land({})
        monkeypatch.setattr("flows.deploying.SILENT_SECONDS", 1)
        with get_client(sync_client=True) as client:
            run = client.create_flow_run(study, name="silent", state=Running())
            time.sleep(1.5)
            try:
                found = compared(home, 0, own_server=False).differences
            finally:
                client.set_flow_run_state(run.id, Completed(), force=True)
        assert [(one.flow_run.split()[0], one.what.partition(",")[0]) for one in found] == [
            ("silent", "stands as Running")
        ]

    def test_a_run_that_was_handed_out_and_never_began(self, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
        from prefect import flow
        from prefect.client.orchestration import get_client
        from prefect.states import Completed, Pending

        @flow(name="study")
        def study() -> None: ...

        home.store.land({})
        with get_client(sync_client=True) as client:
            run = client.create_flow_run(study, name="waiting", state=Pending())
            try:
                assert compared(home, 0, own_server=False).differences == []
                monkeypatch.setattr("flows.reconciling._PENDING_SECONDS", 0)
                (found,) = compared(home, 0, own_server=False).differences
            finally:
                client.set_flow_run_state(run.id, Completed(), force=True)
        assert found.flow_run.startswith("waiting")
        assert found.what.startswith("stands as Pending since ")

    def test_without_a_server_nothing_is_compared(self, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("PREFECT_API_URL")
        found = compared(home, 0, own_server=False)
        assert found.differences == []
        assert "--ui" in found.summary


def promise(run: UUID, task_runs: int, attempt: int = 1) -> dict[str, Any]:
    return {"flow_run_id": str(run), "attempt": attempt, "flow": "evaluate", "study": "s", "task_runs": task_runs}


class TestUi:
    def test_a_port_in_use_is_told(self, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = int(taken.getsockname()[1])
            with pytest.raises(InputError, match=f"port {port} is in use"), everything(Home(tmp_path), port):
                pass

    def test_a_second_one_of_the_same_home_is_told(self, tmp_path: Path) -> None:
        import fcntl

        logs = Home(tmp_path).logs
        logs.mkdir()
        with (logs / "prefect-ui.lock").open("w", encoding="utf-8") as held:
            held.write("process 7 on port 4200")
            held.flush()
            fcntl.flock(held, fcntl.LOCK_EX)
            with pytest.raises(InputError, match="process 7 on port 4200"), everything(Home(tmp_path), 1):
                pass


def test_deploy_without_a_server_is_told(tmp_path: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    command = [str(Path(sys.executable).with_name("factscale")), "deploy"]
    environment = {**kept, "FACTSCALE_HOME": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2
    assert "PREFECT_API_URL is not set" in " ".join(done.stderr.split())


@pytest.mark.slow
@pytest.mark.real
def test_the_command_ends_with_all_that_it_started(tmp_path: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    command = [str(Path(sys.executable).with_name("factscale")), "ui", "--port", str(free_port())]
    environment = {**kept, "FACTSCALE_HOME": str(tmp_path), "PREFECT_SERVER_API_AUTH_STRING": PASSWORD}
    output = tmp_path / "output.txt"
    with output.open("wb") as stream:
        process = subprocess.Popen(command, env=environment, stdout=stream, stderr=stream)
    try:
        deadline = time.monotonic() + 240
        while "Prefect UI" not in output.read_text(encoding="utf-8"):
            assert process.poll() is None, output.read_text(encoding="utf-8")
            assert time.monotonic() < deadline
            time.sleep(0.5)
        pids = family(process.pid)
        assert len(pids) >= 5  # itself, the server, three workers
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(90) == 0
    assert alive(pids) == set()


KILLED = """
import sys, time
from pathlib import Path
from flows.server import prefect_api, prepare_environment
from store.home import Home
home = Home(Path(sys.argv[1]))
prepare_environment(home)
with prefect_api(home):
    from flows.recorded import flow

    @flow(name="study")
    def study(seconds: float = 600) -> None:
        print("running", flush=True)
        time.sleep(seconds)

    study()
"""


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.timeout(900)
def test_a_killed_command_is_marked_by_the_next_one_and_a_living_one_is_left(tmp_path: Path) -> None:
    """Two commands of one home, each with a server of its own on one database: one is killed, then a third one starts."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    from flows.server import prefect_api

    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment = {**kept, "FACTSCALE_HOME": str(tmp_path)}
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    killed, living = (
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(2)
    )
    try:
        for one in (killed, living):
            assert one.stdout is not None
            while "running" not in one.stdout.readline():
                assert one.poll() is None
        killed.kill()
        killed.wait()
        # The server of the tests before this one may still be configured here.
        nowhere = temporary_settings(restore_defaults={PREFECT_API_URL, PREFECT_API_AUTH_STRING})
        with pytest.MonkeyPatch.context() as patch, nowhere:
            patch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
            patch.delenv("PREFECT_SERVER_API_AUTH_STRING", raising=False)
            with prefect_api(Home(tmp_path)), get_client(sync_client=True) as client:
                states = {Process.of(run.labels or {}): run.state_name for run in client.read_flow_runs()}
    finally:
        for one in (killed, living):
            one.kill()
            one.wait()
            assert one.stdout is not None
            one.stdout.close()
    found = {process.pid: state for process, state in states.items() if process is not None}
    assert found == {killed.pid: "Crashed", living.pid: "Running"}


def test_a_server_flushes_in_whole_seconds() -> None:
    """Prefect's recorder cuts off what is behind the point; at 0 s it never pauses and takes a core."""
    intervals = {name: value for name, value in SERVER_SETTINGS.items() if name.endswith("_FLUSH_INTERVAL")}
    assert intervals
    assert all(int(value) == float(value) >= 1 for value in intervals.values())
