"""The rows that a report reads, against a made-up study whose traces are known."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import made_study
import pytest

from store import queries
from store.connection import Store

STUDY = made_study.STUDY


@pytest.fixture(scope="module")
def landed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Any]:
    store = Store(tmp_path_factory.mktemp("store") / "made.duckdb")
    return store, made_study.make(store)


@pytest.fixture(scope="module")
def store(landed: tuple[Store, Any]) -> Store:
    return landed[0]


def test_a_study_is_found_by_its_key(store: Store) -> None:
    study = queries.study(store, STUDY)
    assert study
    assert (study["name"], study["spec"]) == ("made", {"seed": 7})
    assert queries.study(store, "absent") is None


def test_runs_count_the_traces_that_never_landed(landed: tuple[Store, Any]) -> None:
    store, made = landed
    rows = {row["run_key"]: row for row in queries.run_rows(store, STUDY)}
    assert set(rows) == set(made.runs)
    for key, row in rows.items():
        there = sum(fact.run == key for fact in made.facts)
        assert (row["questions"], row["budgets"], row["landed"]) == (10, [16, 48, None], there)
        assert (row["expected"], row["missing"]) == (120, 120 - there)
    assert sum(row["missing"] for row in rows.values()) > 0


def test_a_run_without_a_single_trace_is_still_a_run(tmp_path: Path) -> None:
    store = Store(tmp_path / "made.duckdb")
    run = {"study_key": "s", "run_key": "r", "unit_key": "u", "role": "student", "model": "m", "setting": "cot"}
    run |= {"dataset": "d", "prompt_set": "p", "thought_key": "t", "answer_key": "a", "samples": 2, "budgets": [0]}
    store.land({"study_runs": [run | {"parser": "x", "matcher": "y"}]})
    (row,) = queries.run_rows(store, "s")
    assert (row["questions"], row["landed"], row["missing"], row["budgets"]) == (0, 0, 0, [None])
    assert list(queries.score_columns(store, "s")) == []
    assert queries.units_of_study(store, "s") == []


def test_a_studys_units_are_found_along_the_keys_they_name(landed: tuple[Store, Any]) -> None:
    store, made = landed
    units = {unit["unit_key"]: unit for unit in queries.units_of_study(store, STUDY)}
    expected = {f"{kind}-{run}" for kind in ("traces", "predictions") for run in made.runs}
    expected |= {"verdicts-judge-1", "verdicts-judge-2", "overlap-1"}
    expected |= {f"{kind}-{recipe}" for kind in ("traces", "unit", "student") for recipe in ("rt", "fs1")}
    assert set(units) == expected
    assert units["traces-run-0"]["versions"]["torch"] == "2.13.0"


def test_a_unit_is_reused_where_an_earlier_study_has_it(tmp_path: Path) -> None:
    store = Store(tmp_path / "made.duckdb")
    made_study.make(store, questions=2, samples=1)
    runs = store.query("SELECT * FROM study_runs WHERE run_key = 'run-0'")
    judge = {"study_key": "older", "position": 0, "judge": "judge-2", "model": "m", "question": "grade"}
    store.land({"study_runs": [{**runs[0], "study_key": "older"}], "study_judges": [judge]})
    reused = {unit["unit_key"] for unit in queries.units_of_study(store, STUDY) if unit["reused"]}
    assert reused == {"traces-run-0", "predictions-run-0", "verdicts-judge-2"}


def test_ballots_count_every_trace_with_what_each_judge_said_of_it(landed: tuple[Store, Any]) -> None:
    store, made = landed
    expected: Counter[tuple[Any, ...]] = Counter()
    for fact in made.facts:
        there = fact.vote is not None
        said = (None if fact.judged is None else ("incorrect", "correct")[fact.judged], fact.graded) if there else None
        expected[fact.run, fact.budget, there, fact.how == "refused", fact.correct, said] += 1
    rows = queries.ballot_rows(store, STUDY)
    found: Counter[tuple[Any, ...]] = Counter()
    for row in rows:
        said = (row["said"][0], row["said"][1]) if row["said"] else None
        found[row["run_key"], row["budget"], row["answered"], row["refused"], row["matched"], said] += row["n"]
    assert found == expected
    assert len(rows) == len(found), "a combination is counted in two rows"


def test_the_view_for_people_says_the_same_of_each_trace(landed: tuple[Store, Any]) -> None:
    store, made = landed
    rows = store.query("SELECT * FROM judgements WHERE study_key = ? AND position = 1", [STUDY])
    grades = Counter("not_attempted" if f.how == "refused" else f.graded if f.vote else "incorrect" for f in made.facts)
    assert Counter(row["grade"] for row in rows) == grades
    assert sum(row["invalid"] for row in rows) == sum(f.vote is not None and f.graded is None for f in made.facts)


def test_a_judge_is_told_by_its_distinct_verdicts(landed: tuple[Store, Any]) -> None:
    store, made = landed
    pairs = {(f.question, f.vote): f for f in made.facts if f.vote is not None}.values()
    tries = [made_study.attempts("judge-2", f.question, f.graded) for f in pairs]
    first, second = queries.judge_rows(store, STUDY)
    assert (first["judge"], first["question"], first["cost"]) == ("judge-1", "contains", None)
    assert second == {
        "position": 1,
        "judge": "judge-2",
        "model": "judge-model-2",
        "question": "grade",
        "pairs": len(pairs),
        "verdicts": len(pairs),
        "calls": sum(tries),
        "retried": sum(n > 1 for n in tries),
        "invalid": sum(f.graded is None for f in pairs),
        "not_attempted": sum(f.graded == "not_attempted" for f in pairs),
        "cost": 0.25 * len(pairs),
    }


def test_a_judge_that_was_asked_nothing_has_counts_of_zero(tmp_path: Path) -> None:
    store = Store(tmp_path / "made.duckdb")
    made_study.make(store, questions=2, samples=1)
    with store.connection() as db:
        db.execute("UPDATE predictions SET prediction_key = NULL, prediction = NULL, how = 'none'")
    counts = ("pairs", "verdicts", "calls", "retried", "invalid", "not_attempted")
    assert [[row[name] for name in counts] for row in queries.judge_rows(store, STUDY)] == [[0] * 6] * 2


def test_a_study_without_judges_has_neither(tmp_path: Path) -> None:
    store = Store(tmp_path / "made.duckdb")
    made = made_study.make(store, questions=2, samples=1)
    with store.connection() as db:
        db.execute("DELETE FROM study_judges")
    assert queries.judge_rows(store, STUDY) == []
    rows = queries.ballot_rows(store, STUDY)
    assert sum(row["n"] for row in rows) == len(made.facts)
    assert all(row["said"] == {} for row in rows)


def test_training_is_told_by_student(store: Store) -> None:
    rows = queries.training_rows(store, STUDY)
    assert [row["recipe"] for row in rows["students"]] == ["fs1", "rt"]
    assert rows["students"][0]["manifest"]["result"]["steps"] == 8
    assert [row["statistics"]["dropped"] for row in rows["training_sets"]] == [{"wrong": 7, "too_long": 2}] * 2
    assert len(rows["training_logs"]) == 16


def test_graphs_are_those_of_one_retrieval(store: Store) -> None:
    graphs = queries.graphs_of(store, "retrieval-1", ["t1", "t2", "nobody"])
    assert set(graphs) == {"t1", "t2"}
    assert all(graphs.values())
    assert queries.graphs_of(store, "retrieval-2", ["t1"]) == {}


def test_paths_come_best_first_with_their_triples(store: Store) -> None:
    rows = queries.paths_of(store, "retrieval-1", "t2")
    assert [row["rank"] for row in rows] == [0, 1]
    assert rows[0]["triples"][0] == ["Q142", "P36", "Q90", False]


def test_training_examples_prefer_questions_with_a_trace_of_each_recipe(store: Store) -> None:
    rows = queries.training_examples(store, STUDY, questions=3)
    assert [(row["question_key"], row["recipe"]) for row in rows] == [
        ("t0", "rt"),
        ("t0", "fs1"),
        ("t1", "rt"),
        ("t1", "fs1"),
        ("t2", "fs1"),
    ]
    assert rows[1]["messages"] == [{"role": "user", "content": "fs1 prompt"}]
    assert len(queries.training_examples(store, STUDY, questions=1)) == 2
