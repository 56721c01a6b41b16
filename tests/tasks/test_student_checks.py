"""Checks on dev questions: what a view says of them, and which student is the best."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eval.statistics import wilson
from store import queries
from store.connection import Store
from tasks.student_checks import best_of, checked


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
    counts = {"questions": "q", "n": n, "correct": correct, "boxed": 3, "cut": 1, "unparsed": 1, "refused": 0}
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
