"""From a study's parameters to its training sets: names, parts, keys, and what is told before anything runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mini_study import mini

from flows.evaluate import study_key, training_units
from flows.orders import Orders, Waiting
from flows.parameters import Study
from flows.plan import check, check_keys, plan
from flows.report import report_order
from store.home import Home
from store.types import InputError, Recipe
from tasks.questions import question_key
from tasks.training_sets import TrainingSetOrder

JUDGE = {"model": "smollm2-135m", "examples": True}
MIX = {"name": "both", "parts": [{"recipe": "rt", "traces": 3}, {"recipe": "fs1"}]}


def study(name: str = "mini", **distill: Any) -> Study:
    return Study.model_validate({**mini(distill={"recipes": ["rt", "fs1"], "mixes": [MIX], **distill}), "name": name})


def retrieved(home: Home, chosen: Study) -> Orders:
    """Orders of a study whose paths have landed."""
    orders = Orders(chosen, home)
    known = {
        "retrieval_key": orders.retrieval.key,
        "snapshot": "s",
        "pairs": 1,
        "connected": 1,
        "paths": 1,
        "truncated": 0,
    }
    rows = [
        {**known, "question_key": question_key(question), "min_hops": 1, "graph": "a, b, c"}
        for question in orders.train_questions
    ]
    home.store.land({"retrievals": rows})
    return orders


def land(home: Home, *keys: str) -> None:
    """Units of these keys, as if they had run."""
    made = {"kind": "predictions", "name": "", "spec": "{}", "row_count": 1, "seconds": 1.0, "host": "h"}
    versions = json.dumps({"training_set": "0" * 32})
    spent = {"prompt_tokens": 0, "cached_tokens": 0, "generated_tokens": 0}
    home.store.land({"units": [{**made, **spent, "unit_key": key, "versions": versions} for key in keys]})


def ready(home: Home, chosen: Study) -> Orders:
    """Orders of a study whose teachers have answered and were judged."""
    orders = retrieved(home, chosen)
    judge = orders.teachers_judge()
    land(home, *(reading.key for reading in orders.readings()), *([judge.key] if judge else []))
    return orders


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


class TestOrders:
    def test_every_set_has_its_parts(self, home: Home) -> None:
        orders = ready(home, study(judge=JUDGE, accept="both", max_traces_per_question=2))
        rt, fs1, both = (orders.training_set(name) for name in ("rt", "fs1", "both"))
        assert [one.name for one in (rt, fs1, both)] == ["training set rt", "training set fs1", "training set both"]
        assert [one.recipe for one in (rt, fs1, both)] == [Recipe.RT, Recipe.FS1, None]
        assert [one.set_name for one in (rt, both)] == ["rt", "both"]
        assert both.spec.parts == (rt.spec.parts[0].model_copy(update={"traces": 3}), *fs1.spec.parts)
        assert both.parts == (*rt.parts, *fs1.parts)
        assert orders.recipes_of("both") == (Recipe.RT, Recipe.FS1)
        judge = orders.teachers_judge()
        assert judge is not None
        assert {one.spec.judge for one in (rt, fs1, both)} == {judge.spec.judge}
        assert set(judge.spec.predictions) == {reading.key for part in both.parts for reading in part}
        assert {one.spec.accept for one in (rt, fs1, both)} == {"both"}
        assert {(one.spec.max_per_question, one.spec.max_per_question_over_all) for one in (rt, both)} == {(2, None)}
        assert rt.retrieval is None
        assert both.retrieval == orders.retrieval.key

    def test_a_cap_over_all_takes_the_place_of_that_of_each_part(self, home: Home) -> None:
        orders = ready(home, study(mixes=[{**MIX, "max_traces_per_question": 4}], max_traces_per_question=2))
        spec = orders.training_set("both").spec
        assert (spec.max_per_question, spec.max_per_question_over_all) == (None, 4)
        assert orders.training_set("rt").spec.max_per_question == 2

    def test_an_unknown_name_is_told(self, home: Home) -> None:
        with pytest.raises(InputError, match=r"'neither': the study makes rt, fs1, both \(recipes and mixes\)"):
            Orders(study(), home).recipes_of("neither")

    def test_it_waits_for_answers_and_verdicts(self, home: Home) -> None:
        orders = retrieved(home, study(judge=JUDGE))
        with pytest.raises(Waiting, match="run `distill` first"):
            orders.training_set("both")
        land(home, *(reading.key for reading in orders.readings()))
        with pytest.raises(Waiting, match="run `distill` first"):
            orders.training_set("both")
        judge = orders.teachers_judge()
        assert judge is not None
        land(home, judge.key)
        assert orders.training_set("both").key


class TestKeys:
    def key(self, home: Home, name: str = "both", **distill: Any) -> str:
        return self.order(home, name, **distill).key

    def order(self, home: Home, name: str = "both", **distill: Any) -> TrainingSetOrder:
        return ready(home, study(**distill)).training_set(name)

    @pytest.mark.parametrize(
        "change",
        [
            {"judge": JUDGE},
            {"judge": JUDGE, "accept": "judge"},
            {"judge": JUDGE, "accept": "both"},
            {"max_tokens": 512},
            {"max_tokens": None},
            {"max_traces_per_question": 3},
            {"held_out": 0.3},
            {"mixes": [{**MIX, "parts": [{"recipe": "rt", "traces": 4}, {"recipe": "fs1"}]}]},
            {"mixes": [{**MIX, "parts": [{"recipe": "fs1"}, {"recipe": "rt", "traces": 3}]}]},
            {"mixes": [{**MIX, "max_traces_per_question": 1}]},
            {"samples": 2, "sampling": {"temperature": 0.6}},
        ],
        ids=json.dumps,
    )
    def test_what_can_change_a_set_or_its_numbers_changes_its_key(self, home: Home, change: dict[str, Any]) -> None:
        assert self.key(home, **change) != self.key(home)

    def test_names_and_what_else_the_study_makes_do_not(self, home: Home) -> None:
        named = {**MIX, "name": "other"}
        assert ready(home, study("another", mixes=[named])).training_set("other").key == self.key(home)
        assert self.key(home, "rt", mixes=[]) == self.key(home, "rt")
        assert self.key(home, "fs1", recipes=["fs1"], mixes=[]) == self.key(home, "fs1")


class TestOfAStudy:
    """What was trained on the way to a study belongs to it: rows of it are never stale under an unchanged key."""

    def landed(self, home: Home, unit: str) -> None:
        made = {"training_set": "0" * 32, "name": "rt", "statistics": "{}"}
        home.store.land({"training_set_units": [{**made, "unit_key": unit}]})

    def checked(self, home: Home, key: str) -> None:
        known = {"traces_key": "t", "base": "b", "base_key": "w", "dataset": "d", "questions": "q", "asked": "so"}
        counts = dict.fromkeys(("n", "correct", "boxed", "cut", "unparsed", "refused", "thinking_tokens"), 1)
        home.store.land({"student_checks": [{**known, **counts, "check_key": key}]})

    def test_its_training_sets_and_checks_are_in_its_key_and_its_report(self, home: Home) -> None:
        dev = {"questions": {"split": "test", "limit": 2}, "max_thinking_tokens": 4}
        changed = {"finetune": {"dev": dev, "training_sets": ["rt"]}, "evaluate": {"settings": ["instruct", "rt"]}}
        chosen = Study.model_validate(mini(distill={"recipes": ["rt", "fs1"]}, **changed))
        orders = ready(home, chosen)
        sets = [orders.training_set(name).key for name in ("rt", "fs1")]
        land(home, *sets)
        student = orders.student(*orders.student_names()[0])
        land(home, student.key)
        runs = [orders.run(*names) for names in orders.run_names()]
        assert training_units(orders, chosen) == []
        keys = [study_key(chosen, runs, [], orders.overlaps(), training_units(orders, chosen))]
        for key in sets:
            self.landed(home, key)
            keys.append(study_key(chosen, runs, [], orders.overlaps(), training_units(orders, chosen)))
        checks = [check.predictions.key for check in orders.checks()]
        assert len(checks) == 2  # the student's, and that of its base
        for key in checks:
            self.checked(home, key)
            keys.append(study_key(chosen, runs, [], orders.overlaps(), training_units(orders, chosen)))
        assert len(set(keys)) == 5
        assert training_units(orders, chosen) == sorted(sets + checks)
        home.store.land({"studies": [{"study_key": keys[-1], "name": "mini", "spec": "{}"}]})
        assert set(sets + checks) < set(report_order(chosen, home).spec.units)

    def test_one_that_evaluates_no_student_has_none(self, home: Home) -> None:
        chosen = Study.model_validate(mini(evaluate={"settings": ["instruct"]}))
        assert training_units(Orders(chosen, home), chosen) == []


class TestBeforeItRuns:
    def test_the_plan_names_the_judge_and_every_set(self, home: Home) -> None:
        rows = {row["unit"]: row["state"] for row in plan(study(judge=JUDGE), home)}
        wanted = [
            "verdicts smollm2-135m contains on teachers",
            *(f"training set {name}" for name in ("rt", "fs1", "both")),
        ]
        assert [name for name in rows if name in wanted] == wanted
        assert {rows[name] for name in wanted} == {"waits"}
        orders = ready(home, study(judge=JUDGE))
        rows = {row["unit"]: row["state"] for row in plan(study(judge=JUDGE), home)}
        assert [rows[name] for name in wanted] == ["done", "missing", "missing", "missing"]
        land(home, orders.training_set("both").key)
        assert next(r for r in plan(study(judge=JUDGE), home) if r["unit"] == "training set both")["state"] == "done"

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            ({"judge": "nobody"}, "model 'nobody' is not in"),
            ({"tokenizer": "nobody"}, "distill.tokenizer: model 'nobody' is not in"),
            ({"tokenizer": "o3-mini"}, "distill.tokenizer: model 'o3-mini' is only behind an API"),
        ],
    )
    def test_models_that_are_not_there_are_told(self, home: Home, change: dict[str, Any], told: str) -> None:
        with pytest.raises(InputError, match=told):
            check(study(**change), home)

    def test_a_hosted_judge_of_teachers_needs_its_key_for_distill(
        self, home: Home, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        asked = study(judge="o3-mini")
        with pytest.raises(InputError, match="OPENAI_API_KEY"):
            check_keys(asked, home, "distill")
        check_keys(asked, home, "evaluate")
