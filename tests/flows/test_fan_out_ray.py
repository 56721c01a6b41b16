"""Units as tasks of a Ray that declares two GPUs: each sees its own, and one whose worker is killed goes on from its rows."""

from __future__ import annotations

import importlib.util
import ipaddress
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import gpu_workers
import mini_study
import pytest
from gpu_workers import begun
from served_study import until

from flows.generation_parameters import FanOut
from flows.parameters import Study
from store.home import Home
from store.types import InputError

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(importlib.util.find_spec("prefect_ray") is None, reason="the extra `ray` is not installed"),
    # Ray leaves sockets and files to the end of the process.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

SAMPLES = 4


def study(fan_out: dict[str, Any], **sections: Any) -> Study:
    return Study.model_validate({**mini_study.mini(**sections), "fan_out": {"kind": "ray", **fan_out}})


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FACTSCALE_HOME", str(home.folder))
        patch.setenv("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
        yield home


def test_a_cluster_is_told_of_the_store_without_a_password(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.fan_out_ray import _variables

    monkeypatch.setenv("FACTSCALE_STORE", "ducklake:postgres://ada:secret@h/d?data=/shared/lake")
    told = _variables(FanOut(kind="ray", address="auto"))
    assert told["FACTSCALE_STORE"] == "ducklake:postgres://ada@h/d?data=/shared/lake"
    assert "secret" not in str(_variables(FanOut(kind="ray")))


class TestPlacement:
    """Without a Ray: what a unit asks of a cluster of which this much is known."""

    def place(self, most: float, cpus: float) -> Any:
        from flows.fan_out_ray import RayPlace

        place = RayPlace(study({"address": "auto"}).fan_out)
        place._most, place._cpus, place._cpus_a_gpu = most, cpus, cpus / most if most else 0.0
        return place

    def test_a_unit_takes_its_gpus_and_their_share_of_the_cores(self) -> None:
        assert self.place(4, 32)._resources(1) == {"num_gpus": 1, "num_cpus": 8}
        assert self.place(4, 32)._resources(0.125) == {"num_gpus": 0.125, "num_cpus": 1}
        assert self.place(8, 2)._resources(1) == {"num_gpus": 1, "num_cpus": 0.25}

    def test_without_gpus_a_unit_takes_a_machine(self) -> None:
        assert self.place(0, 16)._resources(1) == {"num_cpus": 16}

    def test_more_gpus_than_a_machine_has_are_refused(self) -> None:
        self.place(4, 32).check([1, 4])
        with pytest.raises(InputError, match=r"needs 8 GPUs of one machine.*have 4 at most"):
            self.place(4, 32).check([1, 8])

    def test_a_ray_of_this_machine_takes_the_loopback_address(self) -> None:
        from ray._private import ray_constants, services

        from flows.fan_out_ray import _on_loopback

        before = ray_constants.ENABLE_RAY_CLUSTER, os.environ.get(ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR)
        with _on_loopback():
            assert services.get_node_ip_address() == "127.0.0.1"
        after = ray_constants.ENABLE_RAY_CLUSTER, os.environ.get(ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR)
        assert after == before


@pytest.mark.slow
def test_a_ray_that_is_started_here_is_reached_from_here_alone(home: Home) -> None:
    import ray

    from flows.fan_out_ray import _start, packages

    packages()
    _start(ray, study({"local_gpus": 1}).fan_out)
    try:
        heard = listening(descendants(os.getpid()))
        assert heard
        assert heard <= {"127.0.0.1", "::1"}
        assert os.environ["RAY_AUTH_MODE"] == "token"
    finally:
        ray.shutdown()


def descendants(pid: int) -> set[int]:
    """A process and all below it."""
    found = {pid}
    for thread in Path(f"/proc/{pid}/task").glob("*"):
        with suppress(OSError):
            for child in (thread / "children").read_text().split():
                found |= descendants(int(child))
    return found


def listening(pids: set[int]) -> set[str]:
    """The addresses on which processes accept connections."""
    sockets = set()
    for pid in pids:
        for entry in Path(f"/proc/{pid}/fd").glob("*"):
            with suppress(OSError):
                sockets.add(os.readlink(entry))
    heard = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                words = bytes.fromhex(fields[1].partition(":")[0])
                raw = b"".join(
                    words[at : at + 4][::-1] for at in range(0, len(words), 4)
                )  # each word the wrong way round
                address = ipaddress.ip_address(raw)
                heard.add(str(getattr(address, "ipv4_mapped", None) or address))
    return heard


@pytest.mark.slow
def test_each_task_sees_its_own_gpu(home: Home) -> None:
    from flows.evaluate import evaluate
    from flows.server import prefect_api

    parameters = study({"local_gpus": 2}, evaluate={"settings": ["instruct", "cot"]})
    with prefect_api(home):
        evaluate(parameters)
        units = home.store.query("SELECT name, versions ->> 'devices' AS devices FROM units WHERE kind = 'traces'")
        assert {unit["devices"] for unit in units} == {"0", "1"}
        assert len(units) == 2
        assert set(begun(home).values()) == {1}
        evaluate(parameters)  # starts no Ray: nothing is missing
    import ray

    assert not ray.is_initialized()


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_its_rows_are_kept(home: Home) -> None:
    from flows.evaluate import evaluate
    from flows.server import prefect_api

    fields = {"settings": ["instruct"], "samples": SAMPLES, "sampling": {"temperature": 1.0, "top_p": 0.95}}
    parameters = study({"local_gpus": 1}, evaluate=fields, generation={"chunk": 2, "batch_size": 2})
    killed: list[int] = []

    def killer() -> None:
        until(lambda: len(begun(home)) > 4)
        killed.extend(ray_tasks())
        gpu_workers.kill(killed)
        time.sleep(1)
        killed.append(len(models_of(killed[0])))

    watching = threading.Thread(target=killer)
    with prefect_api(home):
        watching.start()
        evaluate(parameters)
        watching.join()
    assert len(killed) == 2
    assert killed[1] == 0, "the model outlived the Ray worker that had started it"
    assert len(home.store.query("SELECT 1 FROM thoughts")) == SAMPLES * mini_study.TEST
    assert sum(n - 1 for n in begun(home).values()) <= 2


def ray_tasks() -> list[int]:
    """Ray's processes that work on a task."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "cmdline").read_bytes().startswith(b"ray::traces"):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def models_of(pid: int) -> list[int]:
    """Model processes that were told to live as long as the process ``pid``."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"models.session" in words and str(pid).encode() in words:
            found.append(int(entry.name))
    return found


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "ray://[::1]:1", "auto"])
def test_an_address_where_nobody_listens_is_told_at_once(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.fan_out_ray import check_answers

    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(InputError, match=re.escape(f"fan_out.address '{address}': no Ray cluster answers there")):
        check_answers(FanOut(kind="ray", address=address))


def test_one_where_somebody_listens_is_left_to_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.fan_out_ray import check_answers

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as there:
        check_answers(FanOut(kind="ray", address=f"ray://127.0.0.1:{there.getsockname()[1]}"))
    check_answers(FanOut(kind="ray", address="auto"))
    check_answers(FanOut(kind="ray"))


@pytest.mark.slow
def test_places_that_cannot_be_used_are_named(home: Home) -> None:
    from flows.evaluate import evaluate
    from flows.server import prefect_api

    with prefect_api(home):
        with pytest.raises(InputError, match=r"a unit needs 4 GPUs of one machine.*have 2 at most"):
            evaluate(study({"local_gpus": 2}, evaluate={"settings": ["instruct"]}, generation={"tensor_parallel": 4}))
        with pytest.raises(InputError, match=r"fan_out.address '127.0.0.1:1': no Ray cluster answers there"):
            evaluate(study({"address": "127.0.0.1:1"}, evaluate={"settings": ["instruct"]}))
