"""Which workers a machine starts, what each of them sees, and that one which ends is started again."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flows import worker_commands, workers
from flows.ui import POOLS, _workers
from flows.workers import Slot, Worker, cpu_slots, end_all, gpu_slots, slots_here, started
from store.home import Home
from store.types import RunError


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[str]]:
    """Processes that write down what they were told, instead of Prefect's, and wait; gives so many lines, once they are there."""
    lines, script = tmp_path / "told", tmp_path / "python"
    script.write_text(f'#!/bin/sh\necho "gpus=[$CUDA_VISIBLE_DEVICES] $*" >> {lines}\nexec sleep 600\n')
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))

    def read(count: int) -> list[str]:
        until(lambda: lines.exists() and lines.read_text().count("\n") >= count)
        return sorted(lines.read_text().splitlines())

    return read


@pytest.fixture
def worker(home: Home, told: Callable[[int], list[str]]) -> Iterator[Worker]:
    made = Worker("gpu", "one", "worker-one", home, {})
    yield made
    end_all([made])


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def kill(worker: Worker) -> None:
    os.kill(worker.process.pid, signal.SIGKILL)
    worker.process.wait()


def test_a_machine_has_a_worker_for_each_gpu_else_one_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,3")
    assert slots_here("here") == [Slot("here-gpu0", "0", "default"), Slot("here-gpu3", "3", "default")]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert slots_here("here") == [Slot("here-cpu0", "", "default")]


def test_each_sees_its_gpus_alone_and_polls_one_queue(home: Home, told: Callable[[int], list[str]]) -> None:
    with started(gpu_slots(["0", "1", "2", "3"], 2), "gpu", home):
        first, second = told(2)
    assert first.startswith("gpus=[0,1] -m prefect worker start --pool gpu --name worker-gpu0-1 ")
    assert second.startswith("gpus=[2,3] ")
    assert "--work-queue gpus-2 --limit 1" in first


def test_the_ui_starts_one_of_the_pool_gpu_for_each_gpu(
    home: Home, told: Callable[[int], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with _workers(home, POOLS, {}) as running:
        lines = told(4)
        assert len(running) == 4
        assert all(worker.process.poll() is None for worker in running.values())
    assert all(worker.process.poll() is not None for worker in running.values())
    gpu = [line for line in lines if "--pool gpu" in line]
    assert [line.partition(" ")[0] for line in gpu] == ["gpus=[0]", "gpus=[1]"]
    assert all("--work-queue default --limit 1" in line for line in gpu)


class TestAttending:
    def test_one_that_ends_is_started_again(self, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
        assert worker.attend() is None
        monkeypatch.setattr(workers, "_AT_ONCE_SECONDS", 0.0)
        first = worker.process.pid
        kill(worker)
        assert "ended with code -9 and was started again" in str(worker.attend())
        assert worker.process.pid != first
        assert worker.process.poll() is None

    def test_one_that_never_stood_is_not(self, worker: Worker) -> None:
        kill(worker)
        with pytest.raises(RunError, match=r"ended with code -9 as soon as it started.*worker-one\.log"):
            worker.attend()

    def test_one_that_stood_before_gets_another_try_later(
        self, worker: Worker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(workers, "_AT_ONCE_SECONDS", 0.0)
        assert worker.attend() is None
        monkeypatch.setattr(workers, "_AT_ONCE_SECONDS", 15.0)
        monkeypatch.setattr(workers, "_PAUSE_SECONDS", 0.3)
        kill(worker)
        assert "is started again in" in str(worker.attend())
        assert worker.attend() is None
        assert worker.process.poll() is not None
        time.sleep(0.3)
        assert worker.attend() is None
        assert worker.process.poll() is None

    def test_the_command_attends_to_all_of_its_own(
        self,
        home: Home,
        told: Callable[[int], list[str]],
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setattr(worker_commands, "_LOOK_SECONDS", 0.01)
        with started(cpu_slots(2), "gpu", home) as running:
            for worker in running.values():
                kill(worker)
            worker_commands._watch(running)
        assert capsys.readouterr().out.count("it is not started again") == 2
