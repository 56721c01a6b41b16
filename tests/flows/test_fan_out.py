"""Where units are placed, what each place says when it cannot be used, and which workers a machine starts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import mini_study
import pytest

from flows.distill import distill
from flows.evaluate import evaluate
from flows.fan_out import check_place, check_trainings, gpus_needed, placed
from flows.finetune import finetune
from flows.generation_parameters import FanOut
from flows.orders import Orders
from flows.parameters import DEFAULT_REGISTRY, Study
from flows.study import study
from flows.worker_queues import queue_for
from flows.workers import found_gpus, gpu_slots
from models.finetune import Hyperparameters, ProcessOptions
from models.registry import load_registry
from store.home import Home
from store.types import InputError
from tasks.keys import StudentSpec
from tasks.students import StudentOrder
from tasks.traces import TracesOrder

WORKERS = FanOut(kind="workers")


def order_of(folder: Path, alias: str, **generation: Any) -> TracesOrder:
    study = mini_study.mini(evaluate={"settings": ["instruct"], "baselines": [alias]}, generation=generation)
    orders = Orders(Study.model_validate(study), Home(folder))
    return orders.run(*orders.run_names()[-1]).traces


def student_order(gpus: int, nodes: int = 1) -> StudentOrder:
    entry = load_registry(DEFAULT_REGISTRY).entry("qwen2.5-0.5b")
    spec = StudentSpec(base_key="b", training_set="t", hyperparameters=Hyperparameters().filled(), format="blocks")
    options = ProcessOptions(gpus=gpus, nodes=nodes, main_address="first:29500" if nodes > 1 else None)
    return StudentOrder(name="student", spec=spec, trained_on="rt", variant="", entry=entry, options=options)


class TestPlacement:
    @pytest.mark.parametrize(
        ("alias", "gib", "gpus"),
        [
            ("qwen2.5-0.5b", 80, 1),
            ("qwen2.5-7b", 80, 1),
            ("qwen2.5-7b", 16, 2),
            ("qwen2.5-32b", 80, 2),
            ("qwen2.5-72b", 80, 4),
            ("qwen2.5-72b", 141, 2),
            ("deepseek-r1", 80, 32),
        ],
    )
    def test_models_of_the_registry_get_the_gpus_that_hold_them(
        self, tmp_path: Path, alias: str, gib: float, gpus: float
    ) -> None:
        if alias not in {entry.alias for entry in load_registry(DEFAULT_REGISTRY).models}:
            pytest.skip(f"the registry has no {alias}")
        assert gpus_needed(order_of(tmp_path, alias), FanOut(kind="workers", gpu_gib=gib)) == gpus

    def test_small_ones_share_a_gpu_where_they_may(self, tmp_path: Path) -> None:
        shared = FanOut(kind="ray", share_gpus=True)
        small, large = order_of(tmp_path, "qwen2.5-0.5b"), order_of(tmp_path, "qwen2.5-32b")
        part = gpus_needed(small, shared)
        assert part in (0.125, 0.25, 0.5)
        assert gpus_needed(large, shared) == 2
        made = placed(small, part)
        assert isinstance(made, TracesOrder)
        assert made.run.gpu_memory == pytest.approx(0.9 * part)
        assert made.key == small.key

    def test_what_a_server_runs_needs_none(self, tmp_path: Path) -> None:
        server = {"model": "qwen2.5-32b", "url": "http://127.0.0.1:8000/v1"}
        order = order_of(tmp_path, "qwen2.5-32b", servers=[server])
        assert gpus_needed(order, WORKERS) == 0
        assert placed(order, 0) == order

    def test_a_large_model_is_spread_and_its_key_stays(self, tmp_path: Path) -> None:
        order = order_of(tmp_path, "qwen2.5-32b")
        made = placed(order, 2)
        assert isinstance(made, TracesOrder)
        assert (made.run.tensor_parallel, made.run.gpu_memory) == (2, 0.9)
        assert made.key == order.key

    def test_what_a_person_chose_counts(self, tmp_path: Path) -> None:
        order = order_of(tmp_path, "qwen2.5-7b", tensor_parallel=4)
        assert gpus_needed(order, WORKERS) == 4
        assert gpus_needed(student_order(gpus=8), FanOut(kind="ray", share_gpus=True)) == 8

    def test_a_gpu_that_is_far_too_small_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"fan_out.gpu_gib: model 'deepseek-r1'"):
            gpus_needed(order_of(tmp_path, "deepseek-r1"), FanOut(kind="workers", gpu_gib=1))

    def test_queues_tell_numbers_apart(self) -> None:
        assert [queue_for(gpus) for gpus in (0.25, 1, 2, 8)] == ["default", "default", "gpus-2", "gpus-8"]


class TestRefusals:
    def test_no_server(self) -> None:
        from prefect.settings import PREFECT_API_URL, temporary_settings

        with (
            temporary_settings(restore_defaults={PREFECT_API_URL}),
            pytest.raises(InputError, match="no Prefect server is configured"),
        ):
            check_place(Study(fan_out=WORKERS))

    def test_ray_is_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "ray", None)
        with pytest.raises(InputError, match=r"pip install 'factscale\[ray\]'"):
            check_place(Study(fan_out=FanOut(kind="ray")))

    @pytest.mark.parametrize("mode", ["disabled", ""])
    def test_a_ray_of_this_machine_without_a_token(self, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
        pytest.importorskip("prefect_ray")
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
        with pytest.raises(InputError, match=f"RAY_AUTH_MODE '{mode}'.*unset it"):
            check_place(Study(fan_out=FanOut(kind="ray")))
        check_place(Study(fan_out=FanOut(kind="ray", address="auto")))  # that one's keepers say who may use it

    @pytest.mark.parametrize("flow", [study, distill, finetune, evaluate], ids=lambda flow: flow.name)
    def test_every_flow_says_so_before_it_does_anything(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flow: Any
    ) -> None:
        from prefect.settings import PREFECT_API_URL, temporary_settings

        monkeypatch.setenv("FACTSCALE_HOME", str(tmp_path / "home"))
        parameters = Study.model_validate({**mini_study.mini(), "fan_out": {"kind": "workers"}})
        with (
            temporary_settings(restore_defaults={PREFECT_API_URL}),
            pytest.raises(InputError, match="no Prefect server is configured"),
        ):
            flow.fn(parameters)
        assert not (tmp_path / "home").exists()


class TestTrainingsOverSeveralMachines:
    def study(self, kind: str) -> Study:
        run = {"nodes": 2, "main_address": "first:29500"}
        return Study.model_validate({**mini_study.mini(finetune={"run": run}), "fan_out": {"kind": kind}})

    @pytest.mark.parametrize("kind", ["workers", "ray"])
    def test_are_not_handed_out(self, tmp_path: Path, kind: Any) -> None:
        said = rf"finetune.run.nodes 2 with fan_out.kind '{kind}'.*fan_out: {{kind: local}}"
        with pytest.raises(InputError, match=said):
            check_trainings(Orders(self.study(kind), Home(tmp_path)))
        with pytest.raises(InputError, match=said):
            gpus_needed(student_order(gpus=1, nodes=2), FanOut(kind=kind))

    def test_are_made_here(self, tmp_path: Path) -> None:
        check_trainings(Orders(self.study("local"), Home(tmp_path)))


class TestWorkersOfAMachine:
    def test_one_a_gpu_each_with_its_own(self) -> None:
        slots = gpu_slots(["0", "1", "3"])
        assert [(slot.devices, slot.queue) for slot in slots] == [("0", "default"), ("1", "default"), ("3", "default")]
        assert len({slot.name for slot in slots}) == 3

    def test_several_together(self) -> None:
        assert [(slot.devices, slot.queue) for slot in gpu_slots(list("0123"), each=2)] == [
            ("0,1", "gpus-2"),
            ("2,3", "gpus-2"),
        ]

    def test_gpus_that_do_not_come_out_even_are_refused(self) -> None:
        with pytest.raises(InputError, match="--each 2: 3 GPUs"):
            gpu_slots(list("012"), each=2)

    def test_those_of_the_environment_are_taken(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-8932f937")
        assert found_gpus(None) == ["2", "GPU-8932f937"]
        assert found_gpus("0") == ["0"]
        with pytest.raises(InputError, match="more than once"):
            found_gpus("1,1")

    def test_none_is_said(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        with pytest.raises(InputError, match="--cpu 1"):
            found_gpus(None)
