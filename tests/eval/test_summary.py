"""The summary of a made-up study against numbers computed here from its facts, by other means."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import Any

import made_study
import pytest

from eval.agreement import Agreement, JudgeScore, JudgeSummary
from eval.findings import markdown_summary, points, verdict
from eval.statistics import PairedDifference
from eval.summary import COUNTS, Baseline, Cell, Comparison, RunId, Summary, summarise
from eval.tables import judge_table, table_rows
from store import queries
from store.connection import Store
from store.scores import score_study
from tasks.reports import summary_of

Scored = tuple[str, int | None, dict[str, Any]]


@pytest.fixture(scope="module")
def landed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Store]:
    store = Store(tmp_path_factory.mktemp("store") / "made.duckdb")
    made = made_study.make(store)
    assert score_study(store, made_study.STUDY) == len(made.facts)
    return made, store


@pytest.fixture(scope="module")
def study(landed: tuple[Any, Store]) -> tuple[Any, Summary]:
    made, store = landed
    return made, summary_of(store, made_study.STUDY, Baseline())


def by_question(made: Any, run: str, budget: int | None) -> dict[int, list[Any]]:
    facts = sorted((f for f in made.facts if f.run == run and f.budget == budget), key=lambda f: (f.question, f.sample))
    return {question: list(group) for question, group in itertools.groupby(facts, key=lambda f: f.question)}


def share(made: Any, run: str, budget: int | None) -> float:
    groups = by_question(made, run, budget).values()
    return sum(sum(f.correct for f in group) / len(group) for group in groups) / len(groups)


def majority_right(group: list[Any]) -> bool:
    votes = [f for f in group if f.vote is not None]
    if not votes:
        return False
    most = max(Counter(f.vote for f in votes).values())
    count: Counter[str] = Counter()
    for fact in votes:
        count[fact.vote] += 1
        if count[fact.vote] == most:
            return bool(fact.correct)
    raise AssertionError


def cells(study: tuple[Any, Summary]) -> list[tuple[Any, Cell]]:
    made, summary = study
    return [(made, cell) for cell in summary.cells]


def test_there_is_a_cell_for_each_run_and_budget_in_the_order_of_the_table(study: tuple[Any, Summary]) -> None:
    made, summary = study
    assert [(c.run.run_key, c.budget) for c in summary.cells] == [(r, b) for r in made.runs for b in made.budgets]
    assert [c.run.setting for c in summary.largest] == [*made_study.SETTINGS, "instruct"]


def test_accuracy_weighs_questions_equally_and_lies_in_its_interval(study: tuple[Any, Summary]) -> None:
    for made, cell in cells(study):
        assert cell.accuracy
        assert cell.accuracy.value == pytest.approx(share(made, cell.run.run_key, cell.budget))
        assert cell.accuracy.n == len(by_question(made, cell.run.run_key, cell.budget))
        assert 0 <= cell.accuracy.low <= cell.accuracy.value <= cell.accuracy.high <= 1


def test_pass_at_k_is_the_share_of_all_subsets_that_hold_a_right_sample(study: tuple[Any, Summary]) -> None:
    for made, cell in cells(study):
        for point in cell.pass_at_k:
            groups = [g for g in by_question(made, cell.run.run_key, cell.budget).values() if len(g) >= point.k]
            hits = [[any(f.correct for f in some) for some in itertools.combinations(g, point.k)] for g in groups]
            assert point.value == pytest.approx(sum(sum(h) / len(h) for h in hits) / len(hits))
            assert point.n == len(groups)
        assert [point.k for point in cell.pass_at_k] == list(range(1, made.samples + 1))
        assert all(point.low <= point.value <= point.high for point in (*cell.pass_at_k, *cell.majority_at_k))


def test_majority_counts_no_unparsed_vote_and_breaks_ties_by_who_was_there_first(study: tuple[Any, Summary]) -> None:
    for made, cell in cells(study):
        right = [majority_right(g) for g in by_question(made, cell.run.run_key, cell.budget).values()]
        assert cell.majority
        assert cell.majority.value == pytest.approx(sum(right) / len(right))


def test_the_majority_of_the_first_samples_is_known_for_every_k(study: tuple[Any, Summary]) -> None:
    for made, cell in cells(study):
        for point in cell.majority_at_k:
            groups = [g for g in by_question(made, cell.run.run_key, cell.budget).values() if len(g) >= point.k]
            right = [majority_right(g[: point.k]) for g in groups]
            assert (point.value, point.n) == (pytest.approx(sum(right) / len(right)), len(groups))
        assert cell.majority_at_k[-1].k == made.samples


def test_accuracy_stands_with_and_without_the_flagged_questions(study: tuple[Any, Summary]) -> None:
    for made, cell in cells(study):
        groups = by_question(made, cell.run.run_key, cell.budget)
        clean = [sum(f.correct for f in g) / len(g) for q, g in groups.items() if q not in made_study.FLAGGED]
        assert cell.flagged == len(groups) - len(clean) > 0
        assert cell.clean
        assert (cell.clean.value, cell.clean.n) == (pytest.approx(sum(clean) / len(clean)), len(clean))


def test_groups_and_comparisons_stand_without_the_flagged_questions_too(study: tuple[Any, Summary]) -> None:
    made, summary = study
    for one in summary.comparisons:
        ours, theirs = by_question(made, one.run.run_key, None), by_question(made, "run-0", None)
        shared = [q for q in ours if q in theirs and q not in made_study.FLAGGED]
        assert one.clean
        assert one.clean.n == len(shared) < one.difference.n
    for group in summary.groups:
        assert (group.clean is None) == (group.flagged in (0, group.accuracy.n))
    assert sum(g.flagged for g in summary.groups if g.run.run_key == "run-0" and g.by == "hops") == 2
    (near,) = summary.overlaps
    assert (near.dataset, near.flagged) == ("starter", 2)


def test_confidence_is_the_share_of_samples_that_agree(study: tuple[Any, Summary]) -> None:
    assert all(cell.calibration is None for cell in study[1].cells if cell.budget is not None)
    for made, cell in [(study[0], cell) for cell in study[1].largest]:
        groups = [g for g in by_question(made, cell.run.run_key, cell.budget).values() if len(g) > 1]
        votes = [Counter(f.vote for f in g if f.vote is not None) for g in groups]
        shares = [max(v.values(), default=0) / len(g) for v, g in zip(votes, groups, strict=True)]
        assert cell.calibration
        assert cell.calibration.n == len(groups)
        told = sum(b.confidence * b.n for b in cell.calibration.bins if b.n)
        assert told == pytest.approx(sum(shares))


def test_every_trace_is_in_one_bin_of_length(study: tuple[Any, Summary]) -> None:
    made, summary = study
    assert sum(one.traces for one in summary.lengths) == len(made.facts)
    assert sum(one.correct for one in summary.lengths) == sum(f.correct for f in made.facts)
    for one in summary.lengths:
        facts = [
            f
            for f in made.facts
            if (f.run, f.budget, f.cut) == (one.run.run_key, one.budget, one.cut) and one.low <= f.thinking < one.high
        ]
        assert (one.traces, one.correct) == (len(facts), sum(f.correct for f in facts))
        assert one.mean_tokens == pytest.approx(sum(f.thinking for f in facts) / len(facts))


@pytest.mark.parametrize(
    ("baseline", "runs", "versus"),
    [
        (Baseline(setting="rt"), [("tiny-135m", "instruct"), ("tiny-135m", "cot"), ("tiny-135m", "fs1")], "rt"),
        (
            Baseline(model=made_study.BIG),
            [("tiny-135m", setting) for setting in made_study.SETTINGS],
            f"{made_study.BIG}, instruct",
        ),
        (
            Baseline(setting="fs1", model="tiny-135m"),
            [("tiny-135m", "instruct"), ("tiny-135m", "cot"), ("tiny-135m", "rt"), (made_study.BIG, "instruct")],
            "tiny-135m, fs1",
        ),
    ],
)
def test_the_baseline_can_be_chosen(
    landed: tuple[Any, Store], baseline: Baseline, runs: list[tuple[str, str]], versus: str
) -> None:
    made, store = landed
    summary = summary_of(store, made_study.STUDY, baseline)
    assert [(one.run.model, one.run.setting) for one in summary.comparisons] == runs
    assert {one.versus for one in summary.comparisons} == {versus}
    base = next(
        run.run.run_key
        for run in summary.largest
        if run.run.setting == baseline.setting and run.run.model == (baseline.model or "tiny-135m")
    )
    for one in summary.comparisons:
        ours, theirs = by_question(made, one.run.run_key, None), by_question(made, base, None)
        gains = [
            sum(f.correct for f in ours[q]) / len(ours[q]) - sum(f.correct for f in theirs[q]) / len(theirs[q])
            for q in ours
            if q in theirs
        ]
        assert one.difference.diff == pytest.approx(sum(gains) / len(gains))


@pytest.mark.parametrize(
    ("baseline", "pairs"),
    [
        # Students of one base are compared with the base as it is, and with that of their own variant.
        (Baseline(), {"tiny-135m": "run-0", "tiny-135m/a": "run-0", "tiny-135m/b": "run-0"}),
        (Baseline(setting="rt"), {"tiny-135m": "run-2", "tiny-135m/a": "run-2", "tiny-135m/b": "run-2b"}),
        (Baseline(setting="rt", model="tiny-135m/b"), {"tiny-135m": "run-2b", "tiny-135m/a": "run-2b"}),
    ],
)
def test_students_of_one_base_are_compared_by_their_base(
    landed: tuple[Any, Store], baseline: Baseline, pairs: dict[str, str]
) -> None:
    _, store = landed
    found = {
        (run, budget): columns
        for run, budget, columns in queries.score_columns(store, made_study.STUDY)
        if run != "run-4"  # the other model's
    }
    runs = [row for row in queries.run_rows(store, made_study.STUDY) if row["run_key"] != "run-4"]
    for row in list(runs):
        row["base"] = row["model"]
        if row["setting"] in ("rt", "fs1"):
            runs.append({**row, "run_key": f"{row['run_key']}b", "model": "tiny-135m/b", "variant": "b"})
            row |= {"model": "tiny-135m/a", "variant": "a"}
    for budget in (16, 48, None):  # what the second students answered: something else than the first
        found["run-2b", budget], found["run-3b", budget] = found["run-1", budget], found["run-2", budget]
    summary = summarise([(*key, columns) for key, columns in found.items()], runs, baseline=baseline)

    def shares(run: str) -> dict[str, float]:
        columns = found[run, None]
        return {q: c / n for q, c, n in zip(*(columns[x] for x in ("question_key", "correct", "samples")), strict=True)}

    assert {one.run.model for one in summary.comparisons} >= set(pairs)
    for one in summary.comparisons:
        if one.run.model in pairs:
            ours, theirs = shares(one.run.run_key), shares(pairs[one.run.model])
            gains = [ours[question] - theirs[question] for question in ours if question in theirs]
            assert one.difference.diff == pytest.approx(sum(gains) / len(gains))


def test_what_went_wrong_is_counted(study: tuple[Any, Summary]) -> None:
    for made, cell in cells(study):
        facts = [f for f in made.facts if (f.run, f.budget) == (cell.run.run_key, cell.budget)]
        assert cell.traces == len(facts)
        assert cell.missing == made.questions * made.samples - len(facts)
        assert (cell.cut, cell.forced) == (sum(f.cut for f in facts), sum(f.forced for f in facts))
        assert cell.unparsed == sum(f.how == "none" for f in facts)
        assert cell.refused == sum(f.how == "refused" for f in facts)
        assert cell.thinking_tokens == pytest.approx(sum(f.thinking for f in facts) / len(facts))
        assert cell.generated_tokens == pytest.approx(sum(f.thinking + f.answer for f in facts) / len(facts))
    assert sum(cell.missing for cell in study[1].cells) > 0


def test_the_judge_is_compared_with_the_matcher_where_both_judged(study: tuple[Any, Summary]) -> None:
    for made, cell in cells(study):
        facts = [f for f in made.facts if (f.run, f.budget) == (cell.run.run_key, cell.budget)]
        both = [(f.judged, f.correct) for f in facts if f.judged is not None]
        agreement = sum(j == m for j, m in both) / len(both)
        yes_judge, yes_match = sum(j for j, _ in both) / len(both), sum(m for _, m in both) / len(both)
        chance = yes_judge * yes_match + (1 - yes_judge) * (1 - yes_match)
        assert cell.judge
        assert cell.judge.agreement == pytest.approx(agreement)
        assert cell.judge.kappa == pytest.approx((agreement - chance) / (1 - chance))
        assert cell.judge.invalid == sum(f.vote is not None and f.judged is None for f in facts)
        wrong = sum(f.vote is None for f in facts)
        assert cell.judge.accuracy == pytest.approx(sum(j for j, _ in both) / (len(both) + wrong))


def opinions(facts: list[Any]) -> dict[str, list[bool | None]]:
    """By matcher and judges, on the predictions: right, not right, or (None) no valid verdict."""
    return {
        "matcher": [f.correct for f in facts if f.vote],
        "first": [f.judged for f in facts if f.vote],
        "second": [None if f.graded is None else f.graded == "correct" for f in facts if f.vote],
    }


def agree(one: list[bool | None], other: list[bool | None]) -> tuple[float, float, int]:
    pairs = [(a, b) for a, b in zip(one, other, strict=True) if a is not None and b is not None]
    n = len(pairs)
    share, yes_a, yes_b = sum(a == b for a, b in pairs) / n, sum(a for a, _ in pairs) / n, sum(b for _, b in pairs) / n
    chance = yes_a * yes_b + (1 - yes_a) * (1 - yes_b)
    return share, (share - chance) / (1 - chance), n


def test_every_judge_is_held_against_the_matcher_and_the_other_one(study: tuple[Any, Summary]) -> None:
    made, summary = study
    said = opinions(list(made.facts))
    assert [one.label for one in summary.judges] == ["judge-model-1 (contains)", "judge-model-2 (grade)"]
    for one, name in zip(summary.judges, ("first", "second"), strict=True):
        assert one.total.matcher == pytest.approx(agree(said[name], said["matcher"]))
        assert one.total.invalid == said[name].count(None) > 0
        wrong = sum(f.vote is None for f in made.facts)
        valid = [opinion for opinion in said[name] if opinion is not None]
        assert one.total.accuracy == pytest.approx(sum(valid) / (len(valid) + wrong))
        assert one.calls_a_trace == pytest.approx(one.calls / len(made.facts))
    first, second = summary.judges
    assert first.others[0] is second.others[1] is None
    assert first.others[1] == second.others[0] == pytest.approx(agree(said["first"], said["second"]))
    refused = sum(f.how == "refused" for f in made.facts)
    assert first.total.not_attempted == refused
    assert second.total.not_attempted == refused + sum(f.graded == "not_attempted" for f in made.facts)
    assert second.not_attempted < second.total.not_attempted - refused


def test_a_run_is_judged_at_its_largest_budget(study: tuple[Any, Summary]) -> None:
    made, summary = study
    for one, name in zip(summary.judges, ("first", "second"), strict=True):
        assert set(one.runs) == set(made.runs)
        for run, score in one.runs.items():
            facts = [f for f in made.facts if (f.run, f.budget) == (run, None)]
            said = opinions(facts)
            assert score.traces == len(facts)
            assert score.invalid == said[name].count(None)
            assert score.matcher == pytest.approx(agree(said[name], said["matcher"]))


def test_the_first_judge_is_the_one_of_the_result_table(study: tuple[Any, Summary]) -> None:
    first = study[1].judges[0]
    for cell in study[1].largest:
        assert cell.judge
        score = first.runs[cell.run.run_key]
        assert (cell.judge.agreement, cell.judge.n, cell.judge.invalid) == pytest.approx(
            (score.matcher.share, score.matcher.n, score.invalid)
        )
        assert cell.judge.accuracy == pytest.approx(score.accuracy)
        assert cell.judge.kappa == pytest.approx(score.matcher.kappa)


def judge(kappa: float | None, invalid: int = 0, verdicts: int = 50) -> JudgeSummary:
    score = JudgeScore(80, 0.5, Agreement(0.6, kappa, 60), invalid, 0)
    return JudgeSummary("j@1", "j", "contains", verdicts, 0, invalid, 0, verdicts, None, score, {}, (None,))


@pytest.mark.parametrize(
    ("judges", "words"),
    [
        (
            (judge(0.1),),
            "A judge agrees with the matcher little beyond chance (j (contains), kappa 0.10 at n = 60); accuracies here "
            "are the matcher's.",
        ),
        ((judge(0.1), judge(-0.2)), "Judges agree with the matcher little beyond chance (j (contains), kappa 0.10"),
        ((judge(0.9, invalid=10),), "j (contains) gave no valid verdict on 20% of what it judged."),
    ],
)
def test_a_poor_judge_is_named(judges: tuple[JudgeSummary, ...], words: str) -> None:
    assert any(sentence.startswith(words) for sentence in verdict(summarise([scored()], [run_row()], judges)))


@pytest.mark.parametrize("fair", [judge(0.9, invalid=4), judge(None), judge(0.5, verdicts=0)])
def test_a_fair_judge_is_not_spoken_of(fair: JudgeSummary) -> None:
    assert verdict(summarise([scored()], [run_row()], (fair,))) == verdict(summarise([scored()], [run_row()]))


def test_judges_are_a_flat_table(study: tuple[Any, Summary]) -> None:
    rows = judge_table(study[1])
    assert [row["judge"] for row in rows] == [one.label for one in study[1].judges]
    assert rows[0]["kappa with judge-model-2 (grade)"] == rows[1]["kappa with judge-model-1 (contains)"]
    assert rows[0]["not_attempted"] is None
    assert rows[1]["not_attempted"] > 0
    assert all(isinstance(value, str | int | float | None) for row in rows for value in row.values())


def test_settings_are_compared_with_instruct_of_the_same_model(study: tuple[Any, Summary]) -> None:
    made, summary = study
    assert [(c.run.setting, c.budget) for c in summary.comparisons] == [("cot", None), ("rt", None), ("fs1", None)]
    tests = []
    for one in summary.comparisons:
        ours, theirs = by_question(made, one.run.run_key, None), by_question(made, "run-0", None)
        shared = [q for q in ours if q in theirs]
        gains = [
            sum(f.correct for f in ours[q]) / len(ours[q]) - sum(f.correct for f in theirs[q]) / len(theirs[q])
            for q in shared
        ]
        assert one.difference.diff == pytest.approx(sum(gains) / len(gains))
        assert one.difference.n == len(shared)
        assert one.gained == sum(majority_right(ours[q]) and not majority_right(theirs[q]) for q in shared)
        assert one.lost == sum(majority_right(theirs[q]) and not majority_right(ours[q]) for q in shared)
        n, least = one.gained + one.lost, min(one.gained, one.lost)
        assert one.mcnemar_p == pytest.approx(min(1.0, 2 * sum(math.comb(n, i) for i in range(least + 1)) / 2**n))
        tests.append((one.mcnemar_p, one.holm_mcnemar))
    running = 0.0
    for place, (raw, corrected) in enumerate(sorted(tests)):
        running = max(running, min(1.0, raw * (len(tests) - place)))
        assert corrected == pytest.approx(running)


def test_every_run_is_compared_over_budgets(study: tuple[Any, Summary]) -> None:
    made, summary = study
    assert [(g.run.run_key, g.versus, g.budget) for g in summary.budget_gains] == [(r, "16", None) for r in made.runs]


@pytest.mark.parametrize("by", ["hops", "answer_type"])
def test_a_breakdown_covers_each_question_once(study: tuple[Any, Summary], by: str) -> None:
    made, summary = study
    for run in made.runs:
        groups = [g for g in summary.groups if g.run.run_key == run and g.by == by]
        total = sum(g.accuracy.n for g in groups)
        assert total == len(by_question(made, run, None))
        assert sum(g.accuracy.value * g.accuracy.n for g in groups) / total == pytest.approx(share(made, run, None))
        cell = next(cell for cell in summary.largest if cell.run.run_key == run)
        for name in ("traces", "cut", "unparsed", "refused", "missing"):
            assert sum(getattr(g, name) for g in groups) == getattr(cell, name), name
    values = {g.value for g in summary.groups if g.by == by}
    assert values == ({"1", "2", "3", "unknown"} if by == "hops" else {"entity", "number", "date"})


def run_row(**changes: Any) -> dict[str, Any]:
    row = {"run_key": "r", "role": "student", "model": "m", "setting": "instruct", "dataset": "d", "budgets": [8]}
    return row | {"questions": 2, "samples": 1, "judge": None, "parameters": None, "asked": []} | changes


def scored(run: str = "r", **changes: Any) -> Scored:
    """One question with one sample, right; as columns."""
    row: dict[str, Any] = {"question_key": "q", "hops": 1, "answer_type": "entity", "flagged": False, "samples": 1}
    row |= {"correct": 1, "majority": [True], "votes": 1, **dict.fromkeys(COUNTS, 0), **changes}
    return run, 8, {name: [value] for name, value in row.items()}


def test_a_run_of_which_nothing_landed_is_all_missing() -> None:
    summary = summarise([], [run_row()])
    (cell,) = summary.cells
    assert (cell.accuracy, cell.majority, cell.pass_at_k, cell.missing, cell.judge) == (None, None, (), 2, None)
    assert verdict(summary) == ("No scored trace has landed yet, so that nothing can be said.",)
    assert table_rows(summary)[0]["accuracy"] is None
    assert "–" in markdown_summary(summary)


def test_a_question_without_a_scored_trace_is_missing_and_not_wrong() -> None:
    (cell,) = summarise([scored()], [run_row()]).cells
    assert cell.accuracy
    assert (cell.accuracy.value, cell.accuracy.n, cell.missing) == (1.0, 1, 1)


def test_scores_of_a_run_that_is_not_asked_for_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="run x, which is not one of the study"):
        summarise([scored("x")], [run_row()])


def test_one_sample_has_no_agreement_to_be_calibrated() -> None:
    assert summarise([scored()], [run_row()]).cells[0].calibration is None


def test_where_all_questions_are_flagged_nothing_is_left() -> None:
    (cell,) = summarise([scored(flagged=True)], [run_row()]).cells
    assert (cell.flagged, cell.clean) == (1, None)


def test_a_teacher_is_no_result() -> None:
    summary = summarise([scored("t"), scored()], [run_row(), run_row(run_key="t", role="teacher")])
    assert [cell.run.run_key for cell in summary.cells] == ["r"]


def compared(p: float, q: float, diff: float) -> Comparison:
    run = RunId("r", "student", "m", "fs1", "d")
    return Comparison(run, "instruct", 8, PairedDifference(diff, diff - 0.1, diff + 0.1, p, 24), None, 3, 1, q, p, q)


@pytest.mark.parametrize(
    ("p", "q", "diff", "outcome"),
    [(0.01, 0.05, 0.2, "gain"), (0.01, 0.01, -0.2, "loss"), (0.01, 0.06, 0.2, "unclear"), (0.5, 0.5, 0.2, "none")],
)
def test_a_difference_is_told_only_where_both_tests_tell_it(p: float, q: float, diff: float, outcome: str) -> None:
    assert compared(p, q, diff).outcome == outcome


@pytest.mark.parametrize(
    ("comparisons", "words"),
    [
        ((compared(0.5, 0.5, 0.02),), "No difference between the settings can be told at n = 24."),
        ((compared(0.01, 0.5, 0.2),), "No difference between the settings holds in both tests at n = 24."),
        (
            (compared(0.01, 0.01, 0.2),),
            "Of 1 comparison with instruct, 1 gain and 0 losses hold after correction: fs1 of m",
        ),
        ((), "No setting can be compared"),
    ],
)
def test_the_verdict_says_no_more_than_the_tests(comparisons: tuple[Comparison, ...], words: str) -> None:
    base = summarise([scored()], [run_row()])
    sentences = verdict(base.model_copy(update={"comparisons": comparisons}))
    assert sentences[0].startswith(words)
    assert any("With 1 question the intervals" in sentence for sentence in sentences)
    assert any("1 of 2 traces at the largest budget" in sentence for sentence in sentences)


@pytest.mark.parametrize(("difference", "words"), [(0.125, "+12.5"), (-0.02, "−2.0"), (-0.0004, "0.0"), (0.0, "0.0")])
def test_points_are_signed_unless_they_round_to_nothing(difference: float, words: str) -> None:
    assert points(difference) == words


def test_the_table_is_flat_and_holds_what_the_cells_hold(study: tuple[Any, Summary]) -> None:
    rows = table_rows(study[1])
    assert len(rows) == len(study[1].cells)
    assert rows[2]["budget"] == "no limit"
    assert all(isinstance(value, str | int | float | None) for row in rows for value in row.values())
    assert rows[0]["accuracy"] == pytest.approx(share(study[0], "run-0", 16), abs=1e-4)


def test_names_from_outside_are_inert_in_markdown(study: tuple[Any, Summary]) -> None:
    text = markdown_summary(study[1])
    assert "<i>" not in text
    assert "big&lt;i&gt;7b &amp; co" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(study[1].cells)
