"""What the explorer asks of the store, against the facts of a made-up study."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from made_study import FLAGGED, STUDY, Fact, Made, make

from store import exploring, single_question
from store.connection import Store
from store.exploring import PAGE, Outcome, RunAt, Search, find_questions, kinds_of_questions, neighbours
from store.scores import score_study

A, B = (RunAt("run-3", None),), (RunAt("run-0", 48),)


class Known(NamedTuple):
    """A study in a store, and its traces by run, budget and question."""

    store: Store
    made: Made
    facts: dict[tuple[str, int | None, int], list[Fact]]


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Known:
    store = Store(tmp_path_factory.mktemp("store") / "factscale.duckdb")
    made = make(store, questions=PAGE + 12, samples=3)
    score_study(store, STUDY)
    facts: dict[tuple[str, int | None, int], list[Fact]] = {}
    for fact in made.facts:
        facts.setdefault((fact.run, fact.budget, fact.question), []).append(fact)
    return Known(store, made, facts)


def keys(rows: list[dict[str, Any]]) -> list[str]:
    return [row["question_key"] for row in rows]


def everything(known: Known, search: Search) -> list[dict[str, Any]]:
    pages = [find_questions(known.store, STUDY, search, page) for page in (1, 2)]
    return pages[0] + (pages[1] if pages[1] and pages[1][0]["place"] > PAGE else [])


def majorities(known: Known, at: RunAt) -> dict[str, bool]:
    rows = known.store.query(
        "SELECT question_key, majority[-1] AS won FROM scores WHERE run_key = ? AND budget IS NOT DISTINCT FROM ?",
        list(at),
    )
    return {row["question_key"]: row["won"] for row in rows}


class TestFind:
    def test_all_questions_come_in_the_order_of_their_ids_a_page_at_a_time(self, known: Known) -> None:
        first, second = (find_questions(known.store, STUDY, Search(A, B), page) for page in (1, 2))
        assert keys(first) == [f"q{place}" for place in range(PAGE)]
        assert keys(second) == [f"q{place}" for place in range(PAGE, PAGE + 12)]
        assert [row["place"] for row in first + second] == list(range(1, PAGE + 13))
        assert {row["total"] for row in first + second} == {PAGE + 12}

    def test_a_page_after_the_last_is_the_last(self, known: Known) -> None:
        assert find_questions(known.store, STUDY, Search(), 99) == find_questions(known.store, STUDY, Search(), 2)
        assert find_questions(known.store, STUDY, Search(words=("nothing like it",)), 3) == []

    def test_shares_are_those_of_the_traces(self, known: Known) -> None:
        for row in everything(known, Search(A, B)):
            for side, (at,) in (("a", A), ("b", B)):
                facts = [f for f in known.facts.get((at.run_key, at.budget, int(row["question_key"][1:])), ()) if f.how]
                if not facts:
                    assert row[f"{side}_samples"] is None
                    continue
                assert row[f"{side}_samples"] == len(facts)
                assert row[f"{side}_correct"] == sum(fact.correct for fact in facts)
                assert row[f"{side}_tokens"] == pytest.approx(sum(f.thinking + f.answer for f in facts) / len(facts))

    @pytest.mark.parametrize("outcome", ["a_only", "b_only", "both", "neither", "disagree"])
    def test_outcomes_compare_majorities(self, known: Known, outcome: Outcome) -> None:
        a, b = majorities(known, A[0]), majorities(known, B[0])
        fits = {
            "a_only": lambda x, y: x and not y,
            "b_only": lambda x, y: y and not x,
            "both": lambda x, y: x and y,
            "neither": lambda x, y: not x and not y,
            "disagree": lambda x, y: x != y,
        }[outcome]
        expected = {key for key in a.keys() & b.keys() if fits(a[key], b[key])}
        assert expected
        assert set(keys(everything(known, Search(A, B, outcome=outcome)))) == expected

    def test_filters_hold_together(self, known: Known) -> None:
        found = keys(everything(known, Search(dataset="starter", hops=2, answer_type="number")))
        assert found == [f"q{place}" for place in range(PAGE + 12) if place % 3 == 1 and place != 9]
        assert keys(everything(known, Search(hops=0))) == ["q9"]
        assert everything(known, Search(dataset="another")) == []
        assert everything(known, Search(hops=2, answer_type="date")) == []

    def test_words_are_sought_in_text_and_id_in_any_case_and_order(self, known: Known) -> None:
        assert keys(everything(known, Search(words=("NUMBER", "which", "q17")))) == ["q17"]
        assert keys(everything(known, Search(words=("is number 23?",)))) == ["q23"]

    @pytest.mark.parametrize("word", ["%", "_", "'; DROP TABLE questions; --", "\\", "[a-z]*"])
    def test_a_word_is_only_a_word(self, known: Known, word: str) -> None:
        assert everything(known, Search(words=(word,))) == []

    def test_flagged_questions_can_be_had_and_left_out(self, known: Known) -> None:
        flagged = [f"q{place}" for place in FLAGGED]
        assert keys(everything(known, Search(flagged=True))) == flagged
        assert len(everything(known, Search(flagged=False))) == PAGE + 12 - len(flagged)

    def test_the_largest_difference_comes_first(self, known: Known) -> None:
        rows = everything(known, Search(A, B, order="difference"))
        told = [r for r in rows if r["a_samples"] and r["b_samples"]]
        shares = [abs(r["a_correct"] / r["a_samples"] - r["b_correct"] / r["b_samples"]) for r in told]
        assert shares == sorted(shares, reverse=True)
        assert rows[: len(told)] == told

    def test_the_longest_comes_first(self, known: Known) -> None:
        rows = everything(known, Search(A, B, order="tokens"))
        tokens = [max(r["a_tokens"] or 0, r["b_tokens"] or 0) for r in rows]
        assert tokens == sorted(tokens, reverse=True)

    def test_kinds_count_every_question_once(self, known: Known) -> None:
        kinds = kinds_of_questions(known.store, STUDY)
        assert sum(row["questions"] for row in kinds) == PAGE + 12
        assert sum(row["questions"] for row in kinds if row["flagged"]) == len(FLAGGED)

    def test_another_study_has_no_questions(self, known: Known) -> None:
        assert find_questions(known.store, "older", Search(A, B)) == []
        assert exploring.study_runs(known.store, "older") == []


class TestNeighbours:
    @pytest.mark.parametrize(
        "search", [Search(A, B), Search(A, B, outcome="disagree", order="difference"), Search(hops=1)]
    )
    def test_places_are_those_of_the_list(self, known: Known, search: Search) -> None:
        listed = keys(everything(known, search))
        for at in {0, len(listed) - 1, random.Random(3).randrange(1, len(listed) - 1)}:
            found = neighbours(known.store, STUDY, search, listed[at])
            assert found is not None
            assert (found.place, found.total) == (at + 1, len(listed))
            assert found.previous == (listed[at - 1] if at else None)
            assert found.next == (listed[at + 1] if at + 1 < len(listed) else None)

    def test_a_question_outside_of_the_list_has_no_place(self, known: Known) -> None:
        assert neighbours(known.store, STUDY, Search(hops=1), "q1") is None


class TestSingleQuestion:
    def test_traces_are_those_of_the_view_results(self, known: Known) -> None:
        runs = [run for run in exploring.study_runs(known.store, STUDY) if run["run_key"] in ("run-3", "run-4")]
        asked = single_question.question(known.store, STUDY, "q7")
        assert asked is not None
        names = (
            "run_key",
            "sample",
            "budget",
            "trace_id",
            "prediction",
            "how",
            "correct",
            "rule",
            "thinking_tokens",
            "cut",
        )
        rows = single_question.traces_of(known.store, runs, asked)
        expected = known.store.query(
            f"SELECT {', '.join(names)} FROM results WHERE study_key = ? AND question_key = 'q7' "  # noqa: S608
            "AND run_key IN ('run-3', 'run-4') ORDER BY run_key, sample, budget NULLS LAST",
            [STUDY],
        )
        found = [{name: row[name] for name in names} for row in rows]
        assert sorted(found, key=lambda row: (row["run_key"], row["sample"], row["budget"] or 10**9)) == expected
        assert {row["ended"] for row in rows} == {"stop"}

    def test_samples_and_budgets_beyond_the_study_are_left_out(self, known: Known) -> None:
        (run,) = (run for run in exploring.study_runs(known.store, STUDY) if run["run_key"] == "run-3")
        asked = single_question.question(known.store, STUDY, "q7")
        assert asked is not None
        rows = single_question.traces_of(known.store, [{**run, "samples": 1, "budgets": [48]}], asked)
        assert {(row["sample"], row["budget"]) for row in rows} <= {(0, 48)}

    def test_grades_are_those_of_the_view_judgements(self, known: Known) -> None:
        rows = known.store.query(
            """
            SELECT j.position, r.prediction_key, j.grade, r.gold_key
            FROM judgements j JOIN results r USING (study_key, run_key, trace_id)
            WHERE study_key = ? AND r.question_key = 'q8' AND r.prediction_key IS NOT NULL
            """,
            [STUDY],
        )
        expected = {(row["position"], row["prediction_key"]): row["grade"] for row in rows}
        found = single_question.grades_of(
            known.store, STUDY, rows[0]["gold_key"], [row["prediction_key"] for row in rows]
        )
        assert found == expected

    def test_a_question_is_known_by_its_study(self, known: Known) -> None:
        test, train = (single_question.question(known.store, STUDY, key) for key in ("q2", "t1"))
        assert test is not None
        assert train is not None
        assert (test["asked"], test["trained"], train["asked"], train["trained"]) == (True, False, False, True)
        assert test["flagged"]
        assert train["flagged"] is None
        assert single_question.question(known.store, STUDY, "none") is None
        assert single_question.question(known.store, "older", "q2") is None

    def test_paths_come_with_their_labels(self, known: Known) -> None:
        found = single_question.searched_paths(known.store, STUDY, "t2")
        assert found is not None
        assert [path["kept"] for path in found["paths"]] == [True, False]
        assert found["labels"] == {"Q142": "France"}
        assert single_question.searched_paths(known.store, STUDY, "q1") is None

    def test_a_student_is_told_with_its_teachers(self, known: Known) -> None:
        found = single_question.student(known.store, STUDY, "student-fs1")
        assert found is not None
        assert found["teachers"] == [{"model": "teacher-1", "traces": 3, "questions": 3, "held_out": 1}]
        assert keys(found["examples"]) == ["t0", "t1", "t2"]
        assert single_question.student(known.store, "older", "student-fs1") is None

    def test_what_is_not_there_is_left_out(self, known: Known) -> None:
        assert single_question.thought_texts(known.store, ["none"]) == {}
        assert single_question.answer_texts(known.store, []) == {}
        assert single_question.grades_of(known.store, STUDY, "gold-q1", []) == {}


def test_an_unknown_store_has_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "empty.duckdb")
    assert find_questions(store, STUDY, Search(A, B)) == []
    assert single_question.question(store, STUDY, "q1") is None
