"""The nightly comparison: planted effects, exact small cases, and how often it is wrong where nothing changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product

import numpy as np
import pytest

from eval.regression import Cell, Comparison, Scored, compare, drift
from eval.sign_flips import sign_flip_p
from eval.statistics import paired_bootstrap_of_means

FS1 = Cell("student", "small", "fs1", "cwq", 512)
RT = FS1._replace(setting="rt")
COT = FS1._replace(setting="cot")


def scored(shares: Sequence[float], model: str = "a", start: int = 0, prompt: str = "p") -> Scored:
    """Scores of the questions ``start``, ``start`` + 1, ..."""
    keys = np.array([f"q{place:05d}" for place in range(start, start + len(shares))])
    return Scored(keys, np.array(shares, float), np.array([prompt] * len(shares)), {"model": model, "parser": "1"})


def compared(before: Mapping[Cell, Scored], after: Mapping[Cell, Scored], margin: float = 0.02) -> Comparison:
    return compare(before, after, margin=margin)


class TestPairs:
    def test_only_questions_of_both_count_and_the_others_are_counted(self) -> None:
        before = {FS1: scored([1, 1, 0, 0, 1, 1], start=0)}
        after = {FS1: scored([0, 1, 1, 0, 0, 0], model="b", start=2)}  # shares q2 to q5
        found = compared(before, after)
        (change,) = found.changes
        assert (found.questions, found.new, found.gone) == (4, 2, 2)
        assert (change.n, change.before, change.after, change.effect) == (4, 0.5, 0.5, 0.0)

    def test_the_interval_is_that_of_the_paired_bootstrap_and_p_that_of_sign_flips(self) -> None:
        old, new = [1, 0.5, 0, 0.25, 1, 0], [0.5, 0.5, 0, 0, 1, 0.25]
        (change,) = compared({FS1: scored(old)}, {FS1: scored(new, "b")}).changes
        effect, low, high, _, n = paired_bootstrap_of_means(new, old)
        assert (change.effect, change.low, change.high, change.n) == (effect, low, high, n)
        assert change.p == sign_flip_p(np.array(new) - np.array(old)) == 0.75  # 6 of the 8 ways to flip three

    def test_runs_that_are_in_one_only_are_told(self) -> None:
        found = compared(
            {FS1: scored([1, 0]), COT: scored([1, 0])},
            {FS1: scored([1, 0]), RT: scored([0, 0], "b"), COT: scored([0, 0], "b", start=9)},
        )
        assert (found.new_cells, found.gone_cells, found.unmatched) == ((RT,), (), (COT,))
        assert compared({FS1: scored([1])}, {}).gone_cells == (FS1,)
        assert [change.cell for change in found.changes] == [FS1]
        assert found.verdict == "same"

    def test_each_budget_is_a_run_of_its_own(self) -> None:
        unlimited = FS1._replace(budget=None)
        found = compared({FS1: scored([1, 0])}, {unlimited: scored([0, 0], "b")})
        assert (found.new_cells, found.changes) == ((unlimited,), ())


class TestFamily:
    def test_what_did_not_change_is_shown_and_not_tested(self) -> None:
        rng = np.random.default_rng(1)
        lost = (rng.random(200) < 0.6).astype(float)
        kept = {FS1._replace(model=f"m{place}"): scored(lost) for place in range(200)}
        worse = np.where(rng.random(200) < 0.08, 0, lost)
        alone = compared({FS1: scored(lost)}, {FS1: scored(worse, "b")})
        among = compared({FS1: scored(lost), **kept}, {FS1: scored(worse, "b"), **kept})
        assert len(among.changes) == 201
        assert among.changes[0] == alone.changes[0]
        assert among.pooled == alone.pooled
        assert all(one.verdict == "same" and one.effect == 0 and one.changed == () for one in among.changes[1:])

    def test_nothing_changed_at_all(self) -> None:
        same = {FS1: scored([1, 0, 1])}
        found = compared(same, same)
        assert (found.verdict, found.regression, found.pooled) == ("same", False, None)
        assert drift(same, same) is None

    def test_other_prompts_are_a_change_even_where_no_answer_is(self) -> None:
        (change,) = compared({FS1: scored([1, 0])}, {FS1: scored([1, 0], prompt="q")}).changes
        assert (change.changed, change.verdict, change.effect) == (("prompts",), "same", 0.0)

    def test_what_changed_is_named(self) -> None:
        after = scored([1, 0], "b")._replace(made={"model": "b", "judge": "x"})
        (change,) = compared({FS1: scored([1, 0])}, {FS1: after}).changes
        assert change.changed == ("model", "judge", "parser")


class TestVerdicts:
    right, wrong = [1.0] * 30 + [0.0] * 10, [0.0] * 40

    def test_a_planted_loss_is_a_regression_and_a_gain_none(self) -> None:
        found = compared({FS1: scored(self.right)}, {FS1: scored(self.wrong, "b")})
        assert (found.verdict, found.regression) == ("worse", True)
        assert found.pooled is not None
        assert found.pooled.effect == -0.75
        assert found.pooled.low < -0.75 < found.pooled.high < 0
        back = compared({FS1: scored(self.wrong)}, {FS1: scored(self.right, "b")})
        assert (back.verdict, back.regression) == ("improved", False)

    def test_a_sure_loss_within_the_margin_is_worse_and_no_regression(self) -> None:
        old = [1.0] * 4000
        new = [0.0] * 40 + [1.0] * 3960  # one point, without a doubt
        assert compared({FS1: scored(old)}, {FS1: scored(new, "b")}, margin=0.02)[:2] == ("worse", False)
        assert compared({FS1: scored(old)}, {FS1: scored(new, "b")}, margin=0.0099)[:2] == ("worse", True)
        assert compared({FS1: scored(old)}, {FS1: scored(new, "b")}, margin=0.01)[:2] == ("worse", False)

    def test_a_large_loss_on_few_questions_is_not_sure(self) -> None:
        found = compared({FS1: scored([1, 1, 0, 0, 1, 0])}, {FS1: scored([0, 1, 0, 0, 1, 1], "b")})
        assert found.verdict == "same"

    def test_one_run_that_lost_is_not_hidden_by_one_that_gained(self) -> None:
        found = compared(
            {FS1: scored(self.right), RT: scored(self.wrong)},
            {FS1: scored(self.wrong, "b"), RT: scored(self.right, "b")},
        )
        assert found.pooled is not None
        assert (found.pooled.effect, found.pooled.verdict) == (0.0, "same")
        assert {change.cell: change.verdict for change in found.changes} == {FS1: "worse", RT: "improved"}
        assert (found.verdict, found.regression) == ("worse", True)

    def test_a_small_loss_of_every_run_is_seen_together(self) -> None:
        rng = np.random.default_rng(3)
        cells = [FS1._replace(model=f"m{place}") for place in range(30)]
        old = {cell: (rng.random(300) < 0.5).astype(float) for cell in cells}
        new = {cell: np.where(rng.random(300) < 0.95, old[cell], rng.random(300) < 0.2) for cell in cells}
        found = compared(
            {cell: scored(list(old[cell])) for cell in cells},
            {cell: scored(list(new[cell]), "b") for cell in cells},
            0.005,
        )
        assert {change.verdict for change in found.changes} == {"same"}
        assert found.pooled is not None
        assert found.pooled.n == 300
        assert found.pooled.effect == pytest.approx(np.mean([new[cell] - old[cell] for cell in cells]))
        assert (found.pooled.verdict, found.verdict, found.regression) == ("worse", "worse", True)

    def test_a_question_counts_once_however_many_runs_it_is_in(self) -> None:
        before = {FS1: scored([1, 1]), RT: scored([1])}
        after = {FS1: scored([0, 1], "b"), RT: scored([0], "b")}
        found = compared(before, after)
        assert found.pooled is not None
        assert (found.pooled.effect, found.pooled.n) == (-0.5, 2)  # the mean over cells would be -0.75
        assert drift(before, after) == (*found.pooled[:4], 2)

    def test_a_family_of_hundreds_can_still_find_a_loss(self) -> None:
        rng = np.random.default_rng(5)
        noise = {FS1._replace(model=f"m{place}"): (rng.random(40) < 0.5).astype(float) for place in range(600)}
        old = {cell: scored(list(values)) for cell, values in noise.items()} | {FS1: scored(self.right * 5)}
        new = {cell: scored(list(values), "b") for cell, values in noise.items()} | {FS1: scored(self.wrong * 5, "b")}
        found = compared(old, new)
        assert [change.cell for change in found.changes if change.verdict == "worse"] == [FS1]

    @pytest.mark.parametrize(("margin", "confidence"), [(-0.1, 0.95), (0.1, 1.0), (0.1, 0.0)])
    def test_what_makes_no_sense_is_refused(self, margin: float, confidence: float) -> None:
        with pytest.raises(ValueError, match="margin"):
            compare({}, {}, margin=margin, confidence=confidence)


class TestLevel:
    """How often a night is wrong where nothing but chance changed. Intervals of few resamples: verdicts do not stand on them."""

    @pytest.fixture(autouse=True)
    def _few_resamples(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            "eval.regression.paired_bootstrap_of_means", partial(paired_bootstrap_of_means, resamples=400)
        )

    @pytest.mark.parametrize("sizes", [[0.25] * 8, [0.25, 0.25, 0.5, 0.5, 0.75, 1, 1, 1]])
    def test_of_all_ways_in_which_eight_questions_can_change_places_one_in_20_at_most_is_a_verdict(
        self, sizes: list[float]
    ) -> None:
        verdicts = []
        for signs in product((0, 1), repeat=len(sizes)):
            before = np.where(signs, sizes, 0.0)
            found = compared({FS1: scored(list(before))}, {FS1: scored(list(sizes - before), "b")})
            verdicts.append(found.verdict)
        assert verdicts.count("worse") == verdicts.count("improved") <= 0.025 * len(verdicts)
        assert verdicts.count("worse") > 0

    @pytest.mark.parametrize(("questions", "runs", "nights"), [(24, 12, 100), (60, 3, 100)])
    def test_a_model_that_is_only_sampled_again_is_seldom_called_changed(
        self, questions: int, runs: int, nights: int
    ) -> None:
        rng = np.random.default_rng(11)
        cells = [FS1._replace(model=f"m{place}") for place in range(runs)]
        wrong, covered = 0, 0
        for _ in range(nights):
            skill = {cell: rng.beta(0.7, 1.2, questions) for cell in cells}
            old, new = (
                {cell: scored(list(rng.binomial(4, skill[cell]) / 4), model) for cell in cells} for model in ("a", "b")
            )
            found = compared(old, new)
            wrong += found.verdict != "same"
            assert found.pooled is not None
            covered += found.pooled.low <= 0 <= found.pooled.high
        assert wrong <= 0.05 * nights + 2 * np.sqrt(nights * 0.05 * 0.95)
        assert covered >= 0.93 * nights - 2 * np.sqrt(nights * 0.07 * 0.93)

    def test_few_questions_that_lost_much_are_still_found(self) -> None:
        rng = np.random.default_rng(12)
        cells = [FS1._replace(model=f"m{place}") for place in range(12)]
        skill = {cell: rng.beta(0.7, 1.2, 24) for cell in cells}
        old = {cell: scored(list(rng.binomial(4, skill[cell]) / 4)) for cell in cells}
        new = {cell: scored(list(rng.binomial(4, skill[cell] / 2) / 4), "b") for cell in cells}
        found = compared(old, new)
        assert (found.verdict, found.regression) == ("worse", True)
