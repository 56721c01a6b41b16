"""Units as tasks of a Ray that declares two GPUs: each sees its own, and one whose worker is killed goes on from its rows."""

from __future__ import annotations

import importlib.util
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gpu_workers
import mini_study
import pytest
from gpu_workers import begun, until

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


@pytest.mark.slow
def test_places_that_cannot_be_used_are_named(home: Home) -> None:
    from flows.evaluate import evaluate
    from flows.server import prefect_api

    with prefect_api(home):
        with pytest.raises(InputError, match=r"a unit needs 4 GPUs of one machine.*have 2 at most"):
            evaluate(study({"local_gpus": 2}, evaluate={"settings": ["instruct"]}, generation={"tensor_parallel": 4}))
        with pytest.raises(InputError, match=r"fan_out.address '127.0.0.1:1': no Ray cluster answers there"):
            evaluate(study({"address": "127.0.0.1:1"}, evaluate={"settings": ["instruct"]}))
