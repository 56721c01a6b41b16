"""Checks on dev questions: what a view says of them, and which student is the best."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eval.statistics import wilson
from models.embedded import default_cache
from models.prompts import question_prompt
from models.registry import ModelEntry, model_key
from store import queries
from store.connection import Store
from store.types import Answer, Question, Sampling, Setting
from tasks.keys import AnswerSpec, PredictionsSpec, ThoughtSpec, TracesSpec, asked_key
from tasks.questions import Asked, prompt_rows, prompt_set_key, register_questions
from tasks.student_checks import best_of, checked, land_check
from tasks.traces import Run, TracesOrder
from tasks.verdicts import MATCHER, PARSER, PredictionsOrder
from tasks.weights import ModelChoice


@pytest.mark.parametrize(
    ("rows", "best"),
    [
        ([(0.2, 1.0), (0.4, 3.0)], 1),
        ([(0.4, 2.0), (0.4, 1.0), (0.4, 1.0)], 1),  # equal accuracy: the lowest loss, then the first
        ([(0.4, None), (0.4, 9.0)], 1),  # a loss that was not measured is no low one
        ([(0.4, None), (0.4, None)], 0),
    ],
)
def test_the_best_is_the_most_accurate_then_that_with_the_lowest_loss(
    rows: list[tuple[float, float | None]], best: int
) -> None:
    assert best_of([{"accuracy": accuracy, "held_out_after": loss} for accuracy, loss in rows]) == best


def student(key: str, **more: Any) -> dict[str, Any]:
    row = {"student_key": key, "name": f"student {key}", "base": "tiny", "recipe": "rt", "training_set": "set"}
    rest = {"hyperparameters": json.dumps({"method": "full"}), "folder": key, "weights_hash": "w", "seconds": 10.0}
    return row | rest | {"manifest": "{}", "held_out_before": 2.0, "held_out_after": 1.0, "trained_on": "rt"} | more


def check(key: str, student_key: str | None, n: int, correct: int) -> dict[str, Any]:
    row = {"check_key": key, "traces_key": "t", "base": "tiny", "student_key": student_key, "dataset": "held out"}
    row |= {"base_key": "weights", "questions": "q", "asked": "so"}
    counts = {"n": n, "correct": correct, "boxed": 3, "cut": 1, "unparsed": 1, "refused": 0}
    return row | counts | {"thinking_tokens": 5.0}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "made.duckdb")
    logs = [
        {"student_key": "a", "step": step, "loss": loss, "tokens_per_second": speed, "memory_bytes": memory}
        for step, loss, speed, memory in (
            (0, None, 0.0, 50),
            (1, 3.0, 10.0, 60),
            (2, 2.0, 30.0, 90),
            (3, 1.0, 20.0, 90),
        )
    ]
    mine = {"study_key": "s", "base": "tiny", "base_check_key": "base", "chosen": False}
    store.land(
        {
            "students": [student("a"), student("b"), student("unasked")],
            "training_logs": logs,
            "student_checks": [check("base", None, 10, 0), check("check-a", "a", 10, 4), check("check-b", "b", 10, 10)],
            "study_students": [
                mine | {"student_key": "a", "trained_on": "mine", "variant": "x", "check_key": "check-a"},
                mine
                | {"student_key": "b", "trained_on": "mine", "variant": "y", "check_key": "check-b", "chosen": True},
            ],
        }
    )
    return store


def test_shares_have_the_intervals_of_wilson(store: Store) -> None:
    rows = checked(store, ["base", "check-a", "check-b", "none"])
    assert rows.keys() == {"base", "check-a", "check-b"}
    for key, right in (("base", 0), ("check-a", 4), ("check-b", 10)):
        low, high, _ = wilson(right, 10)
        assert rows[key]["accuracy"] == right / 10
        assert rows[key]["low"] == pytest.approx(low, abs=1e-6)
        assert rows[key]["high"] == pytest.approx(high, abs=1e-6)
    assert (rows["base"]["low"], rows["check-b"]["high"]) == (0.0, 1.0)


def test_speed_is_that_of_a_usual_step_and_memory_the_peak(store: Store) -> None:
    row = checked(store, ["check-a"])["check-a"]
    assert (row["steps"], row["tokens_per_second"], row["peak_memory_bytes"]) == (3, 20.0, 90)
    assert (row["method"], row["boxed"], row["cut"], row["unanswered"]) == ("full", 0.3, 0.1, 0.1)


def test_students_that_were_not_asked_are_in_the_view_too(store: Store) -> None:
    (row,) = store.query("SELECT * FROM student_quality WHERE student_key = 'unasked'")
    assert (row["held_out_after"], row["n"], row["accuracy"]) == (1.0, None, None)


def test_a_study_calls_its_students_by_its_own_names_and_sets_the_base_before_them(store: Store) -> None:
    rows = queries.dev_rows(store, "s")
    assert [(row["trained_on"], row["variant"], row["student_key"], row["chosen"]) for row in rows] == [
        ("mine", "", None, None),
        ("mine", "y", "b", True),
        ("mine", "x", "a", False),
    ]
    students = queries.training_rows(store, "s")["students"]
    assert [(row["student_key"], row["trained_on"], row["variant"]) for row in students] == [
        ("a", "mine", "x"),
        ("b", "mine", "y"),
    ]


ENTRY = ModelEntry(alias="tiny", source="embedded", context_length=8192, parameters=1)
QUESTION = Question(
    id="q1", dataset="made", split="dev", text="What is the capital of Peru?", answers=(Answer(text="Lima"),),
    answer_type="entity", provenance="made",
)  # fmt: skip


def asked_once(budget: int) -> tuple[TracesOrder, PredictionsOrder]:
    """One question, whose thought has room for 48 tokens, with this budget."""
    asked = (Asked(QUESTION, question_prompt(QUESTION, Setting.INSTRUCT)),)
    thought = ThoughtSpec(model_key="w", format="plain", sampling=Sampling(), max_thinking_tokens=48, seed=0)
    answer = AnswerSpec(forced_answer="So:", max_answer_tokens=8)
    spec = TracesSpec(thought=thought, answer=answer, prompt_set=prompt_set_key(asked), samples=1, budgets=(budget,))
    traces = TracesOrder(name="t", spec=spec, model=ModelChoice(entry=ENTRY, format="plain"), asked=asked, run=Run())
    reading = PredictionsSpec(traces=spec.key, questions="q", parser=PARSER, matcher=MATCHER)
    order = PredictionsOrder(
        name="p", spec=reading, prompt_set=spec.prompt_set, thought_key=thought.key, answer_key=answer.key, samples=1,
        budgets=(budget,), questions=(QUESTION,),
    )  # fmt: skip
    return traces, order


def test_only_answers_at_the_budget_of_the_check_are_counted(tmp_path: Path) -> None:
    store = Store(tmp_path / "counted.duckdb")
    register_questions(store, [QUESTION])
    traces, order = asked_once(48)
    row = {
        "thought_id": "h", "thought_key": order.thought_key, "answer_key": order.answer_key, "model": "tiny",
        "dataset": "made", "question_id": "q1", "prompt_key": traces.asked[0].prompt.key, "sample": 0,
        "thinking_chars": 9, "finish": "stop", "answer_tokens": 3, "prompt_tokens": 9, "cached_tokens": 0, "shared": False,
        "self_contained": True,
    }  # fmt: skip
    prediction = {"parser": PARSER, "prediction": None, "prediction_key": None, "class": None}
    store.land(
        {
            **prompt_rows(traces.asked),
            "traces": [
                {**row, "trace_id": "short", "budget": 16, "thinking_tokens": 16, "cut": True, "forced": True},
                {**row, "trace_id": "long", "budget": 48, "thinking_tokens": 30, "cut": False, "forced": False},
            ],
            "predictions": [
                {**prediction, "trace_id": "short", "how": "none"},
                {**prediction, "trace_id": "long", "how": "boxed"},
            ],
        }
    )
    assert land_check(store, "tiny", None, "made", traces, order)
    assert not land_check(store, "tiny", None, "made", traces, order), "it has landed already"
    (found,) = store.query("SELECT * FROM student_checks")
    assert {name: found[name] for name in ("n", "boxed", "cut", "unparsed", "thinking_tokens")} == {
        "n": 1, "boxed": 1, "cut": 0, "unparsed": 0, "thinking_tokens": 30.0
    }  # fmt: skip
    assert (found["base_key"], found["asked"]) == (model_key(ENTRY, default_cache()), asked_key(traces.spec))
