"""A unit by its name: the same order comes of it as the flow that handed it out had, and nothing else is built."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import mini_study
import pytest
from pydantic import ValidationError

from flows.orders import Orders, Waiting
from flows.parameters import STUDIES, Distill, Finetune, Study, load_study
from flows.unit_names import UnitName, judge_work, plain_parameters, questions_of, run_work, work_of
from store.home import Home
from store.types import InputError

PREFECTS_LIMIT = 512 * 1024


def untrained(**evaluate: Any) -> Study:
    """A study of models as they are: its units need nothing that has landed."""
    fields = {"settings": ["instruct", "cot"], "judges": ["smollm2-135m"], **evaluate}
    return Study.model_validate(mini_study.mini(evaluate=fields))


@pytest.fixture
def orders(tmp_path: Path) -> Orders:
    return Orders(untrained(), Home(tmp_path))


class TestNames:
    def test_each_run_and_judge_is_found_again_from_json(self, orders: Orders) -> None:
        names = orders.run_names()
        runs = [orders.run(*name) for name in names]
        works = [run_work(name, run.traces) for name, run in zip(names, runs, strict=True)]
        works += [judge_work(judge, position) for position, judge in enumerate(orders.judges(runs))]
        assert len(works) == 3
        for work in works:
            named = work.name.model_copy(update={"key": work.order.key})
            parameters = json.loads(json.dumps(plain_parameters(orders.parameters)))
            again = UnitName.model_validate(
                json.loads(json.dumps(named.model_dump(mode="json", exclude_defaults=True)))
            )
            found = work_of(Orders(Study.model_validate(parameters), orders.home), again)
            assert found.task is work.task
            assert found.order == work.order

    def test_one_run_is_built_and_no_other(self, orders: Orders, monkeypatch: pytest.MonkeyPatch) -> None:
        built: list[Any] = []
        build = Orders.run
        monkeypatch.setattr(Orders, "run", lambda self, *name: built.append(name) or build(self, *name))
        work_of(orders, UnitName(kind="run", model="smollm2-135m", setting="cot", dataset="starter"))
        assert len(built) == 1

    def test_another_key_says_that_the_machines_differ(self, orders: Orders) -> None:
        unit = UnitName(kind="run", model="smollm2-135m", setting="cot", dataset="starter", key="0" * 32)
        with pytest.raises(InputError, match=r"other code, another registry.*same FACTSCALE_HOME and FACTSCALE_STORE"):
            work_of(orders, unit)

    @pytest.mark.parametrize(
        ("unit", "said"),
        [
            ({"kind": "run", "model": "smol", "setting": "cot", "dataset": "starter"}, "model 'smol' is not in"),
            (
                {"kind": "run", "model": "smollm2-135m", "setting": "cot", "dataset": "no"},
                "unit.dataset 'no': .*starter",
            ),
            ({"kind": "judge", "position": 1}, "unit.position 1: the study has 1 judges"),
            ({"kind": "teachers_judge"}, "distill.judge"),
            (
                {"kind": "student", "model": "smollm2-135m", "training_set": "fs1", "variant": "fast"},
                "unit.variant 'fast': the study has one without a name",
            ),
        ],
    )
    def test_what_the_study_does_not_have_is_named(self, orders: Orders, unit: dict[str, Any], said: str) -> None:
        with pytest.raises(InputError, match=said):
            work_of(orders, UnitName.model_validate(unit))

    def test_what_has_not_landed_is_waited_for(self, orders: Orders) -> None:
        with pytest.raises(Waiting, match="run `retrieve` first"):
            work_of(orders, UnitName(kind="student", model="smollm2-135m", training_set="fs1"))

    def test_a_kind_says_what_it_needs(self) -> None:
        with pytest.raises(ValidationError, match="dataset: a unit of kind 'run' needs one"):
            UnitName(kind="run", model="smollm2-135m", setting="cot")

    def test_only_traces_bring_questions(self, orders: Orders) -> None:
        (first, *_) = orders.run_names()
        run = orders.run(*first)
        assert questions_of(run.traces) == run.predictions.questions
        assert questions_of(orders.judges([run])[0]) == ()


class TestItsRun:
    def test_a_failing_unit_is_tried_again_by_who_waits_for_it_alone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from flows import unit as module

        class Submitted(Exception):
            pass

        def submit(task: Any, *_: Any, **__: Any) -> Any:
            assert task.retries == 0
            raise Submitted

        monkeypatch.setenv("FACTSCALE_HOME", str(tmp_path))
        monkeypatch.setattr(module, "submit", submit)
        name = UnitName(kind="run", model="smollm2-135m", setting="cot", dataset="starter")
        with pytest.raises(Submitted):
            module.unit.fn(untrained(), name)

    def test_it_leaves_where_its_worker_died_before_it_could_be_bound(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from flows import unit as module

        class Left(Exception):
            pass

        def leave(_code: int) -> None:
            raise Left

        bound_to: list[int] = []
        monkeypatch.setenv(module.BOUND_VARIABLE, "1")
        monkeypatch.setattr(os, "_exit", leave)
        monkeypatch.setattr(module, "die_with_parent", bound_to.append)
        with pytest.raises(Left):  # pytest's own parent is no worker, as what takes over a dead one's children is none
            module.bind_to_worker()
        assert bound_to == []
        with subprocess.Popen(["sleep", "60"]) as worker:  # started with the variable, as a worker is
            try:
                environment = Path(f"/proc/{worker.pid}/environ")
                while not environment.read_bytes():  # the kernel fills it in a moment after the start
                    time.sleep(0.01)
                monkeypatch.setattr(os, "getppid", lambda: worker.pid)
                module.bind_to_worker()
            finally:
                worker.kill()
        assert bound_to == [worker.pid]

    def test_one_that_nobody_bound_is_left_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from flows import unit as module

        monkeypatch.delenv(module.BOUND_VARIABLE, raising=False)
        monkeypatch.setattr(module, "die_with_parent", lambda _pid: pytest.fail("bound"))
        module.bind_to_worker()


class TestParameters:
    @pytest.mark.parametrize("file", sorted(STUDIES.glob("*.yaml")), ids=lambda path: path.stem)
    def test_every_shipped_study_goes_through_whole_and_small(self, file: Path) -> None:
        study = load_study(file)
        said = json.dumps(plain_parameters(study))
        assert len(said) < PREFECTS_LIMIT / 10
        again = Study.model_validate(json.loads(said))
        assert again.evaluate == study.evaluate
        assert again.finetune == study.finetune
        assert again.fan_out == study.fan_out

    def test_files_are_named_by_their_whole_paths(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        study = Study.model_validate({"registry": "models.yaml", "train": {"dataset": "jsonl", "path": "facts.jsonl"}})
        said = plain_parameters(study)
        assert said["registry"] == str(tmp_path / "models.yaml")
        assert said["train"]["path"] == str(tmp_path / "facts.jsonl")

    @pytest.mark.parametrize("kind", [Distill, Finetune])
    def test_parameters_of_an_earlier_flow_become_a_study(self, kind: type[Distill]) -> None:
        given = kind.model_validate({"name": "early", "distill": {"recipes": ["rt"]}})
        again = Study.model_validate(plain_parameters(given))
        assert again.distill == given.distill
        assert again.name == "early"

    def test_a_default_that_depends_on_another_field_is_kept(self) -> None:
        given = Study.model_validate(mini_study.mini(finetune={"hyperparameters": {"method": "full"}}))
        assert Study.model_validate(plain_parameters(given)).finetune == given.finetune
