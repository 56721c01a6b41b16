"""Verdicts of nights in a real store: what lands, what is accepted, what is read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_nights import land

from eval.regression import Cell
from store.connection import Store
from store.types import InputError
from tasks.nightlies import (
    NightlyOrder,
    accept_by_hand,
    accepts,
    anchor,
    cell_scores,
    land_verdict,
    last_accepted,
    runs_of,
    verdict_of,
    verdict_told_by,
    verdicts_of,
)

QUESTIONS = 40


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "factscale.duckdb")


def order(key: str, store: Store, **changes: Any) -> NightlyOrder:
    """A night of the study ``key`` against what is accepted."""
    accepted, first = last_accepted(store, "made"), anchor(store, "made")
    fields = {
        "name": "made",
        "study_key": key,
        "against": accepted.study_key if accepted else None,
        "anchor": first.study_key if first else None,
        "margin": 0.02,
        "confidence": 0.95,
        "scored_by": "matcher",
        "accept": "not worse",
    }
    return NightlyOrder.model_validate(fields | changes)


def night(store: Store, key: str, **changes: Any) -> dict[str, Any]:
    """The landed verdict of a night."""
    found = verdict_of(store, land_verdict(order(key, store, **changes), store))
    assert found is not None
    return found


class TestScores:
    def test_shares_of_right_samples_by_run_and_budget(self, store: Store) -> None:
        land(store, "a", [2, 1, 0])
        cells = cell_scores(store, "a")
        assert list(cells) == [Cell("student", "small", "fs1", "starter", budget) for budget in (8, None)]
        for scored in cells.values():
            assert scored.questions.tolist() == ["q0", "q1", "q2"]
            assert scored.shares.tolist() == [1.0, 0.5, 0.0]
            assert scored.prompts.tolist() == ["p-q0", "p-q1", "p-q2"]

    def test_by_the_judge_no_answer_is_wrong_and_no_verdict_is_left_out(self, store: Store) -> None:
        land(store, "a", [2, 1, 0])
        scored = cell_scores(store, "a", "judge")[Cell("student", "small", "fs1", "starter", 8)]
        assert dict(zip(scored.questions.tolist(), scored.shares.tolist(), strict=True)) == {"q0": 0.0, "q2": 1.0}

    def test_what_a_run_was_made_of_is_named(self, store: Store) -> None:
        land(store, "a", [2])
        land(store, "b", [2], detailed=False)
        (made,) = {tuple(scored.made) for scored in cell_scores(store, "a").values()}
        assert made == ("model", "sampling", "length", "answer length", "samples", "parser", "matcher")
        (known,) = {tuple(scored.made) for scored in cell_scores(store, "b", "judge").values()}
        assert known == ("model or sampling", "answers", "parser", "judge")


class TestVerdicts:
    def test_first_then_same_improved_and_worse(self, store: Store) -> None:
        land(store, "a", [1] * QUESTIONS)
        land(store, "b", [1] * QUESTIONS, model="m2")
        land(store, "c", [2] * QUESTIONS, model="m3")
        land(store, "d", [0] * QUESTIONS, model="m4")
        first = night(store, "a")
        assert (first["verdict"], first["effect"], first["new_questions"], first["against"]) == (
            "first",
            None,
            40,
            None,
        )
        same = night(store, "b")
        assert (same["verdict"], same["effect"], same["against"], same["questions"]) == ("same", 0.0, "a", 40)
        better = night(store, "c")
        assert (better["verdict"], better["effect"], better["against"]) == ("improved", 0.5, "b")
        worse = night(store, "d")
        assert (worse["verdict"], worse["regression"], worse["effect"], worse["against"]) == ("worse", True, -1.0, "c")
        assert worse["low"] <= -1.0 + 1e-9 < worse["high"]
        assert last_accepted(store, "made") == (better["nightly_key"], "c", False)
        assert [(row["verdict"], row["accepted"]) for row in verdicts_of(store, "made")] == [
            ("worse", "no"),
            ("improved", "by rule"),
            ("same", "by rule"),
            ("first", "by rule"),
        ]
        assert verdicts_of(store, "other") == []

    def test_runs_land_with_what_changed(self, store: Store) -> None:
        land(store, "a", [2, 1] * 20)
        land(store, "b", [0, 1] * 20, model="m2")
        night(store, "a")
        runs = runs_of(store, night(store, "b")["nightly_key"])
        assert [(run["budget"], run["n"], run["before"], run["after"]) for run in runs] == [
            (0, 40, 0.75, 0.25),
            (8, 40, 0.75, 0.25),
        ]
        assert {(run["effect"], run["verdict"], run["changed"]) for run in runs} == {(-0.5, "worse", "model")}

    def test_new_questions_are_counted_and_not_compared(self, store: Store) -> None:
        land(store, "a", [2] * 10)
        land(store, "b", [2] * 8 + [0] * 30, start=2)  # the same model on 30 harder ones more
        night(store, "a")
        found = night(store, "b")
        assert (found["verdict"], found["effect"], found["p_holm"]) == ("same", None, None)
        assert (found["questions"], found["new_questions"], found["gone_questions"]) == (8, 30, 2)
        assert {run["changed"] for run in runs_of(store, found["nightly_key"])} == {""}

    def test_it_is_told_again_as_it_landed(self, store: Store) -> None:
        land(store, "a", [2] * QUESTIONS)
        land(store, "b", [0] * QUESTIONS, model="m2")
        night(store, "a")
        asked = order("b", store, flow_run_id="run-1")
        key = land_verdict(asked, store)
        before = verdict_of(store, key), runs_of(store, key)
        with store.connection() as db:
            db.execute("UPDATE question_scores SET correct = 2")
        assert land_verdict(order("b", store, flow_run_id="run-2"), store) == key
        assert (verdict_of(store, key), runs_of(store, key)) == before
        told = verdict_told_by(store, "run-1", "b")
        assert told is not None
        assert told["nightly_key"] == key
        assert verdict_told_by(store, "run-1", "a") is None
        assert verdict_told_by(store, None, "b") is None
        assert night(store, "b", margin=0.5)["nightly_key"] != key


class TestAcceptance:
    @pytest.mark.parametrize(
        ("rule", "accepted"),
        [("not worse", ["first", "improved", "same"]), ("improved", ["first", "improved"]), ("by hand", [])],
    )
    def test_rules(self, rule: Any, accepted: list[str]) -> None:
        assert [name for name in ("first", "improved", "same", "worse") if accepts(rule, name)] == accepted

    def test_by_hand_nothing_counts_until_a_person_says_so(self, store: Store) -> None:
        land(store, "a", [2] * QUESTIONS)
        land(store, "b", [0] * QUESTIONS, model="m2")
        first = night(store, "a", accept="by hand")
        assert last_accepted(store, "made") is None
        assert night(store, "b", accept="by hand")["verdict"] == "first"
        assert accept_by_hand(store, "made", first["nightly_key"][:6])["study_key"] == "a"
        assert last_accepted(store, "made") == (first["nightly_key"], "a", True)
        assert night(store, "b", accept="by hand")["verdict"] == "worse"
        accept_by_hand(store, "made")  # the newest
        assert last_accepted(store, "made")[1] == "b"  # type: ignore[index]
        accept_by_hand(store, "made", first["nightly_key"])  # and back
        assert last_accepted(store, "made")[1] == "a"  # type: ignore[index]

    def test_a_rule_that_is_newer_than_the_verdict_accepts_it(self, store: Store) -> None:
        land(store, "a", [2] * QUESTIONS)
        night(store, "a", accept="by hand")
        night(store, "a", accept="not worse")
        assert last_accepted(store, "made")[1:] == ("a", False)  # type: ignore[index]

    def test_what_cannot_be_accepted_is_told(self, store: Store) -> None:
        with pytest.raises(InputError, match="study 'made' has no nightly verdict yet"):
            accept_by_hand(store, "made")
        land(store, "a", [2])
        night(store, "a")
        night(store, "a", margin=0.3)
        with pytest.raises(InputError, match="no verdict 'zz'"):
            accept_by_hand(store, "made", "zz")
        keys = [row["nightly_key"] for row in verdicts_of(store)]
        assert len(set(keys)) == 2

    def test_small_losses_that_were_accepted_add_up_to_drift(self, store: Store) -> None:
        rows = [[1] * (4 * step) + [2] * (QUESTIONS - 4 * step) for step in range(4)]
        for place, right in enumerate(rows):
            land(store, f"s{place}", right, model=f"m{place}")
        told = [night(store, f"s{place}", confidence=0.99) for place in range(4)]
        assert [one["verdict"] for one in told] == ["first", "same", "same", "same"]
        assert [one["drift"] for one in told[:2]] == [None, None]  # the anchor is what it is compared with
        assert told[3]["effect"] == pytest.approx(-0.05)
        assert told[3]["drift"] == pytest.approx(-0.15)
        assert told[3]["drift_low"] < told[3]["drift"] < told[3]["drift_high"] < 0
        accept_by_hand(store, "made")
        assert anchor(store, "made")[1] == "s3"  # type: ignore[index]
