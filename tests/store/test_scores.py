"""Scores of questions against the traces they are made of, counted one by one; and what the views over them say."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import made_study
import pytest

from eval.statistics import maj_at_k, pass_at_k
from store.connection import Store
from store.scores import score_study

STUDY = made_study.STUDY


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("store") / "made.duckdb")
    made_study.make(store)
    score_study(store, STUDY)
    return store


def traces(store: Store) -> dict[tuple[str, int | None, str], list[dict[str, Any]]]:
    """The scored traces of each run, budget and question, in the order of their samples."""
    rows = store.query(
        "SELECT * FROM results WHERE study_key = ? AND how IS NOT NULL ORDER BY run_key, budget, question_key, sample",
        [STUDY],
    )
    found: dict[tuple[str, int | None, str], list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["run_key"], row["budget"], row["question_key"]), []).append(row)
    return found


def test_every_question_is_counted_as_its_traces_say(store: Store) -> None:
    expected = traces(store)
    rows = store.query("SELECT * FROM scores WHERE study_key = ?", [STUDY])
    assert {(r["run_key"], r["budget"], r["question_key"]) for r in rows} == expected.keys()
    assert len(rows) == len(expected)
    for row in rows:
        members = expected[row["run_key"], row["budget"], row["question_key"]]
        classes, right = [t["class"] for t in members], [t["correct"] for t in members]
        assert (row["samples"], row["correct"]) == (len(members), sum(right))
        assert row["majority"] == [maj_at_k(classes, right, k) for k in range(1, len(members) + 1)]
        assert row["votes"] == max((classes.count(name) for name in classes if name is not None), default=0)
        assert row["classes"] == len({name for name in classes if name is not None})
        assert (row["cut"], row["forced"]) == (sum(t["cut"] for t in members), sum(t["forced"] for t in members))
        assert row["unparsed"] == sum(t["how"] == "none" for t in members)
        assert row["refused"] == sum(t["how"] == "refused" for t in members)
        judged = [t for t in members if t["prediction"] is not None and t["judged"] is not None]
        assert row["judged"] == len(judged)
        assert row["judged_correct"] == sum(t["judged"] for t in judged)
        assert row["judged_both"] == sum(t["judged"] and t["correct"] for t in judged)
        assert row["thinking_tokens"] == sum(t["thinking_tokens"] for t in members)


def test_a_study_is_scored_once_and_again_when_its_scores_are_gone(store: Store) -> None:
    before = store.query("SELECT * FROM question_scores ORDER BY ALL")
    assert score_study(store, STUDY) == 0
    with store.transaction() as db:
        db.execute("DELETE FROM scored WHERE score_key = (SELECT min(score_key) FROM scored)")
    assert score_study(store, STUDY) > 0
    assert store.query("SELECT * FROM question_scores ORDER BY ALL") == before


def test_a_kill_while_scoring_leaves_nothing_half_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "made.duckdb")
    made_study.make(store)
    with monkeypatch.context() as patch:
        patch.setattr("store.scores._LENGTHS", "SELECT error('killed')")
        with pytest.raises(Exception, match="killed"):
            score_study(store, STUDY)
    assert store.query("SELECT count(*) AS n FROM question_scores") == [{"n": 0}]
    assert score_study(store, STUDY) > 0


def test_the_leaderboard_says_what_its_traces_say(store: Store) -> None:
    expected = traces(store)
    flagged = {f"q{place}" for place in made_study.FLAGGED}
    for row in store.query("SELECT * FROM leaderboard WHERE study_key = ?", [STUDY]):
        mine = {key[2]: t for key, t in expected.items() if key[:2] == (row["run_key"], row["budget"])}
        shares = {key: fmean(t["correct"] for t in members) for key, members in mine.items()}
        assert row["n"] == len(mine)
        assert row["accuracy"] == pytest.approx(fmean(shares.values()))
        assert row["standard_error"] == pytest.approx(stdev(shares.values()) / len(shares) ** 0.5)
        assert row["accuracy_clean"] == pytest.approx(fmean(v for key, v in shares.items() if key not in flagged))
        assert row["n_clean"] == len(mine.keys() - flagged)
        for k in (2, 4):
            enough = [t for t in mine.values() if len(t) >= k]
            each = [pass_at_k(len(t), sum(one["correct"] for one in t), k) for t in enough]
            assert row[f"pass_{k}"] == pytest.approx(fmean(each))
        assert row["pass_8"] is None
        majority = [maj_at_k([t["class"] for t in m], [t["correct"] for t in m], len(m)) for m in mine.values()]
        assert row["majority"] == pytest.approx(fmean(majority))
        assert row["traces"] + row["missing"] == row["questions"] * 4


def test_pass_curves_hold_every_k(store: Store) -> None:
    board = {(r["run_key"], r["budget"]): r for r in store.query("SELECT * FROM leaderboard")}
    curves = store.query("SELECT * FROM pass_curves")
    assert {row["k"] for row in curves} == {1, 2, 3, 4}
    for row in curves:
        of = board[row["run_key"], row["budget"]]
        if row["k"] in (1, 2, 4):
            assert row["pass_at_k"] == pytest.approx(of[f"pass_{row['k']}"])


@pytest.mark.parametrize("view", ["accuracy_by_hops", "accuracy_by_answer_type"])
def test_a_breakdown_holds_each_question_once(store: Store, view: str) -> None:
    columns = "run_key, budget, sum(n) AS n, sum(n * accuracy) / sum(n) AS accuracy"
    parts = store.query(f"SELECT {columns} FROM {view} GROUP BY ALL")  # noqa: S608 - a name of ours
    board = {(r["run_key"], r["budget"]): r for r in store.query("SELECT * FROM leaderboard")}
    assert len(parts) == len(board)
    for part in parts:
        of = board[part["run_key"], part["budget"]]
        assert (part["n"], part["accuracy"]) == (of["n"], pytest.approx(of["accuracy"]))


def test_sizes_lengths_judges_and_training_are_views_too(store: Store) -> None:
    sizes = store.query("SELECT DISTINCT parameters FROM accuracy_by_model_size ORDER BY 1")
    assert [row["parameters"] for row in sizes] == [135_000_000, 7_600_000_000]
    lengths = store.query("SELECT sum(traces) AS traces, sum(correct) AS correct FROM trace_lengths")
    counted = store.query("SELECT sum(samples) AS traces, sum(correct) AS correct FROM scores")
    assert lengths == counted
    for row in store.query("SELECT * FROM judge_against_matcher"):
        assert row["both_right"] + row["judge_only"] + row["matcher_only"] + row["both_wrong"] == row["n"]
    assert {row["recipe"] for row in store.query("SELECT recipe FROM training_quality")} == {"rt", "fs1"}


def test_a_verdict_leads_back_to_the_path_it_was_learnt_from(store: Store) -> None:
    answer = store.query(
        "SELECT trace_id FROM results WHERE setting = 'fs1' AND correct AND question_key = 'q1' ORDER BY trace_id LIMIT 1"
    )
    rows = store.query("SELECT * FROM lineage WHERE answer_trace = ?", [answer[0]["trace_id"]])
    assert {row["training_question"] for row in rows} == {"t0", "t1", "t2"}
    assert {(row["recipe"], row["student"], row["teacher"]) for row in rows} == {("fs1", "tiny-135m-fs1", "teacher-1")}
    assert all(row["correct"] for row in rows)
    paths = [row["path"] for row in rows if row["path"] is not None]
    assert paths
    assert all("P36" in path for path in paths)
