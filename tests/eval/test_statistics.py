"""Statistics against scipy, against enumeration, and, for intervals and tests, against simulated truth."""

import itertools
import math
from collections.abc import Hashable
from fractions import Fraction
from statistics import NormalDist

import numpy as np
import pytest
from scipy import stats

from eval.statistics import (
    _bca,
    _bootstrap_means,
    accuracy,
    cohen_kappa,
    cohen_kappa_of_counts,
    holm,
    maj_at_k,
    majority,
    mcnemar_exact,
    paired_bootstrap,
    pass_at_k,
    pass_curve,
    wilson,
)

Samples = list[list[bool]]


def rows(values: "np.typing.NDArray[np.bool_]") -> Samples:
    return [[bool(sample) for sample in question] for question in np.atleast_2d(values)]


# pass@k and majority --------------------------------------------------------------------------------------------------


def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample() -> None:
    for n in range(1, 9):
        for c in range(n + 1):
            for k in range(1, n + 1):
                subsets = list(itertools.combinations([True] * c + [False] * (n - c), k))
                assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets), abs=1e-14)


def test_pass_at_k_is_stable_for_many_samples() -> None:
    for n, c, k in [(10_000, 3, 5_000), (1_000, 500, 999), (5_000, 1, 1), (2_000, 1_999, 1)]:
        exact = 1 - Fraction(math.comb(n - c, k), math.comb(n, k))
        assert pass_at_k(n, c, k) == pytest.approx(float(exact), rel=1e-11)


def test_pass_at_k_of_the_studys_16_samples_is_the_hypergeometric_one() -> None:
    """Every k and c at n = 16: one minus the chance, by scipy, that k draws hold no right sample; and in exact fractions."""
    for c in range(17):
        for k in range(1, 17):
            assert pass_at_k(16, c, k) == pytest.approx(float(stats.hypergeom(16, c, k).sf(0)), abs=1e-12)
            assert pass_at_k(16, c, k) == pytest.approx(float(1 - Fraction(math.comb(16 - c, k), math.comb(16, k))))


def test_pass_at_k_is_unbiased_where_the_plug_in_is_not() -> None:
    """Over many draws of n = 8 samples with a right share of .2, the mean estimate meets 1 - .8^4; the plug-in does not."""
    right = np.random.default_rng(0).binomial(8, 0.2, size=20_000)
    truth = 1 - 0.8**4
    assert np.mean([pass_at_k(8, int(c), 4) for c in right]) == pytest.approx(truth, abs=0.006)
    assert abs(np.mean(1 - (1 - right / 8) ** 4) - truth) > 0.03


@pytest.mark.parametrize(
    ("n", "c", "k", "message"),
    [(4, 1, 5, r"k is 5, n .* is 4"), (4, 1, 0, "k >= 1"), (4, 5, 2, "c .* is 5, n is 4"), (4, -1, 2, "c .* is -1")],
)
def test_pass_at_k_refuses(n: int, c: int, k: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pass_at_k(n, c, k)


@pytest.mark.parametrize(
    ("classes", "winner"),
    [
        ([], None),
        ([None, None], None),
        (["a"], "a"),
        (["a", "b", "b"], "b"),
        (["a", "b"], "a"),
        (["a", "b", "b", "a"], "b"),  # b had its second vote first
        (["b", "a", "a", "b"], "a"),
        (["a", "b", "c", "c", "b", "a"], "c"),
        ([None, None, None, "a"], "a"),
        ([None, "b", None, "a", None], "b"),
        (["", "", "a"], ""),
    ],
)
def test_majority(classes: list[str | None], winner: str | None) -> None:
    assert majority(classes) == winner


def test_majority_and_its_tie_rule_by_counting_prefixes() -> None:
    """All votes of up to 6 samples: of the classes with the highest count, the one whose count stood first."""
    for n in range(7):
        for votes in itertools.product(("a", "b", "c", None), repeat=n):
            cast = [vote for vote in votes if vote is not None]
            most = max((cast.count(vote) for vote in cast), default=0)
            winners = [vote for end in range(1, n + 1) if (vote := votes[end - 1]) and votes[:end].count(vote) == most]
            assert majority(votes) == (winners[0] if winners else None), votes


def test_maj_at_k_is_the_verdict_of_the_winning_class() -> None:
    dice = np.random.default_rng(14)
    for _ in range(300):
        votes = [None if vote == 3 else "abc"[vote] for vote in dice.integers(0, 4, size=9)]
        right = {None: None, "a": True, "b": False, "c": bool(dice.random() < 0.5)}
        for k in range(1, 10):
            assert maj_at_k(votes, [right[vote] for vote in votes], k) is bool(right[majority(votes[:k])])


def test_maj_at_k_takes_the_first_k_samples() -> None:
    classes, correct = ["a", "b", "b", None, "a", "a"], [False, True, True, None, False, False]
    assert [maj_at_k(classes, correct, k) for k in range(1, 7)] == [False, False, True, True, True, False]
    assert maj_at_k([None, None], [None, None], 2) is False
    for k in (0, 7):
        with pytest.raises(ValueError, match=f"k is {k}, n .* is 6"):
            maj_at_k(classes, correct, k)
    with pytest.raises(ValueError, match="6 classes but 5 verdicts"):
        maj_at_k(classes, correct[:5], 2)


# Intervals ------------------------------------------------------------------------------------------------------------


def test_wilson_is_that_of_scipy() -> None:
    for n in (1, 2, 7, 40, 1000):
        for successes in {0, 1, n // 3, n - 1, n}:
            for level in (0.8, 0.95, 0.99):
                expected = stats.binomtest(successes, n).proportion_ci(level, method="wilson")
                assert wilson(successes, n, level=level) == pytest.approx(
                    (expected.low, expected.high, level), abs=1e-12
                )


def test_wilson_refuses() -> None:
    for successes, n in [(0, 0), (3, 2), (-1, 2)]:
        with pytest.raises(ValueError, match=f"successes is {successes}, n is {n}"):
            wilson(successes, n)
    with pytest.raises(ValueError, match="level 95"):
        wilson(1, 2, level=95)


@pytest.mark.parametrize(("questions", "samples", "share"), [(60, 1, 0.3), (200, 16, 0.1), (25, 4, 0.5)])
def test_accuracy_agrees_with_scipys_bca_bootstrap(questions: int, samples: int, share: float) -> None:
    dice = np.random.default_rng(3)
    correct = dice.random((questions, samples)) < dice.beta(share * 2, (1 - share) * 2, size=(questions, 1))
    found = accuracy(rows(correct), resamples=40_000)
    means = correct.mean(axis=1)
    expected = stats.bootstrap(
        (means,), np.mean, n_resamples=10_000, batch=500, method="BCa", rng=1
    ).confidence_interval
    width = expected.high - expected.low
    assert found.value == pytest.approx(means.mean(), abs=1e-12)
    assert found.n == questions
    assert found[1:3] == pytest.approx((expected.low, expected.high), abs=0.06 * width)


def test_bca_limits_follow_the_textbook_for_skewed_values() -> None:
    """Efron and Tibshirani 1993, 14.10-14.15, in plain Python, with a jackknife that really leaves out each value."""
    values = np.random.default_rng(12).exponential(size=12) ** 2
    means = _bootstrap_means(values, 5_000, seed=0)
    normal = NormalDist()
    ranks = [0.5 if math.isclose(mean, values.mean()) else float(mean < values.mean()) for mean in means]
    bias = normal.inv_cdf(sum(ranks) / len(means))
    left_out = [float(np.delete(values, index).mean()) for index in range(12)]
    gaps = [math.fsum(left_out) / 12 - mean for mean in left_out]
    acceleration = sum(gap**3 for gap in gaps) / (6 * sum(gap**2 for gap in gaps) ** 1.5)
    limits = []
    for share in (0.025, 0.975):
        z = bias + normal.inv_cdf(share)
        limits.append(float(np.quantile(means, normal.cdf(bias + z / (1 - acceleration * z)))))
    assert min(bias, acceleration) > 0.04
    assert _bca(values, means, 0.95) == pytest.approx(tuple(limits), rel=1e-9)


def test_resampling_by_counts_is_the_usual_resampling() -> None:
    """Mean and spread of the bootstrap means are those of theory: the values' mean, their deviation over root n."""
    values = np.array([0.0, 0.0, 0.25, 0.5, 1.0, 1.0, 1.0])
    means = _bootstrap_means(values, 200_000, seed=5)
    assert means.mean() == pytest.approx(values.mean(), abs=0.002)
    assert means.std() == pytest.approx(values.std() / math.sqrt(7), rel=0.01)


def test_interval_covers_the_truth_and_sees_questions_not_samples() -> None:
    """95 % intervals hold the true accuracy about 95 % of the time, though the 8 samples of a question agree.

    An interval that took all samples for independent would hold it far less often.
    """
    dice = np.random.default_rng(11)
    held = naive = 0
    for run in range(400):
        ability = dice.beta(0.4, 0.6, size=(80, 1))  # mean .4
        correct = dice.random((80, 8)) < ability
        found = accuracy(rows(correct), resamples=1000, seed=run)
        held += found.low <= 0.4 <= found.high
        low, high, _ = wilson(int(correct.sum()), correct.size)
        naive += low <= 0.4 <= high
    assert 0.915 <= held / 400 <= 0.98
    assert naive / 400 < 0.75


@pytest.mark.parametrize("samples", [1, 16])
@pytest.mark.parametrize("value", [False, True])
@pytest.mark.parametrize("questions", [1, 30])
def test_accuracy_without_variation_is_wilsons(samples: int, value: bool, questions: int) -> None:
    low, high, _ = wilson(questions * value, questions)
    assert accuracy([[value] * samples] * questions) == (float(value), low, high, questions)
    assert high - low > 0.1


def test_accuracy_of_one_question_and_of_equal_shares() -> None:
    assert accuracy([[True, False]]) == (0.5, *wilson(0.5, 1)[:2], 1)
    assert accuracy([[True, False, False]] * 9) == pytest.approx((1 / 3, *wilson(3, 9)[:2], 9))


def test_accuracy_is_repeatable_and_level_and_seed_matter() -> None:
    correct = rows(np.random.default_rng(1).random((50, 3)) < 0.4)
    assert accuracy(correct) == accuracy(correct)
    assert accuracy(correct, seed=1) != accuracy(correct)
    wide, narrow = accuracy(correct, level=0.99), accuracy(correct, level=0.5)
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high


def test_accuracy_of_a_full_study_has_a_narrow_interval() -> None:
    correct = rows(np.random.default_rng(1).random((24_000, 16)) < 0.4)
    found = accuracy(correct)
    assert 0.002 < found.high - found.low < 0.004


def test_accuracy_refuses() -> None:
    with pytest.raises(ValueError, match="no question"):
        accuracy([])
    with pytest.raises(ValueError, match="question 1 "):
        accuracy([[True], []])


# Comparisons ----------------------------------------------------------------------------------------------------------


def test_mcnemar_is_the_exact_binomial_test() -> None:
    for b in range(12):
        for c in range(12):
            expected = stats.binomtest(b, b + c, 0.5).pvalue if b + c else 1.0
            assert mcnemar_exact(b, c) == pytest.approx(expected, rel=1e-12)
    assert mcnemar_exact(0, 5) == pytest.approx(2 / 2**5)
    with pytest.raises(ValueError, match="b is -1"):
        mcnemar_exact(-1, 3)


def test_paired_bootstrap_finds_a_difference_that_unpaired_intervals_hide() -> None:
    """b is a with 12 of 200 questions mended: paired, the difference is plain, though the two accuracies' intervals overlap."""
    a = rows(np.random.default_rng(2).random((200, 1)) < 0.5)
    wrong = [index for index, (sample,) in enumerate(a) if not sample][:12]
    b = [[True] if index in wrong else samples for index, samples in enumerate(a)]
    found = paired_bootstrap(b, a)
    assert found.diff == pytest.approx(0.06)
    assert 0 < found.low < found.diff < found.high
    assert found.p < 0.002
    assert found.n == 200
    assert accuracy(a).high > accuracy(b).low


def test_paired_bootstrap_turns_its_sign_with_its_arguments() -> None:
    dice = np.random.default_rng(8)
    a, b = rows(dice.random((70, 4)) < 0.3), rows(dice.random((70, 4)) < 0.5)
    there, back = paired_bootstrap(a, b, resamples=50_000), paired_bootstrap(b, a, resamples=50_000)
    assert there.diff == -back.diff < 0
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low), abs=0.01)
    assert there.p == pytest.approx(back.p, abs=0.002)


def test_paired_bootstrap_agrees_with_scipy() -> None:
    dice = np.random.default_rng(9)
    a, b = dice.random((90, 2)) < 0.4, dice.random((90, 2)) < 0.5
    found = paired_bootstrap(rows(a), rows(b), resamples=40_000)
    gap = a.mean(axis=1) - b.mean(axis=1)
    expected = stats.bootstrap((gap,), np.mean, n_resamples=10_000, batch=500, method="BCa", rng=1).confidence_interval
    assert found[1:3] == pytest.approx((expected.low, expected.high), abs=0.06 * (expected.high - expected.low))
    # Under no difference the signs of the gaps are arbitrary: the sign-flip test is an independent road to the p-value.
    flips = dice.choice([-1.0, 1.0], size=(40_000, 90))
    assert found.p == pytest.approx(np.mean(np.abs(flips @ gap / 90) >= abs(gap.mean()) - 1e-12), abs=0.02)


def test_the_paired_p_value_is_that_of_questions_drawn_one_by_one() -> None:
    dice = np.random.default_rng(18)
    a, b = dice.random((60, 3)) < 0.4, dice.random((60, 3)) < 0.45
    gap = a.mean(axis=1) - b.mean(axis=1)
    drawn = gap[dice.integers(0, 60, size=(40_000, 60))].mean(axis=1) - gap.mean()
    expected = (1 + np.sum(np.abs(drawn) >= abs(gap.mean()) - 1e-12)) / 40_001
    found = paired_bootstrap(rows(a), rows(b), resamples=40_000)
    assert 0.02 < found.p < 0.98
    assert found.p == pytest.approx(expected, abs=0.01)


def test_paired_bootstrap_keeps_its_error_rate() -> None:
    """Without a difference p < .05 comes about 5 % of the time, and the interval holds 0 about 95 % of the time."""
    dice = np.random.default_rng(21)
    false = held = 0
    for run in range(400):
        ability = dice.random((60, 1))
        found = paired_bootstrap(
            rows(dice.random((60, 4)) < ability), rows(dice.random((60, 4)) < ability), resamples=1000, seed=run
        )
        false += found.p < 0.05
        held += found.low <= 0 <= found.high
    assert 0.02 <= false / 400 <= 0.085
    assert 0.91 <= held / 400 <= 0.985


def test_paired_bootstrap_without_variation() -> None:
    same = paired_bootstrap([[True], [False]] * 10, [[True], [False]] * 10)
    assert same[0] == 0.0
    assert same.p == 1.0
    assert same.low == -same.high < 0
    all_won = paired_bootstrap([[True]] * 10, [[False]] * 10)
    assert all_won[0] == 1.0
    assert all_won.p == pytest.approx(2 / 2**10)
    assert 0 < all_won.low < all_won.high == 1.0
    one = paired_bootstrap([[True]], [[False]])
    assert one.p == 1.0  # one question tells nothing
    assert one.low < 0


def test_paired_bootstrap_refuses() -> None:
    with pytest.raises(ValueError, match="2 questions in a, 1 in b"):
        paired_bootstrap([[True], [True]], [[True]])
    with pytest.raises(ValueError, match="paired bootstrap, b: question 0"):
        paired_bootstrap([[True]], [[]])


def test_holm_of_a_worked_example_and_its_invariants() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    values = np.random.default_rng(4).random(30) ** 3
    adjusted = holm(list(values))
    shuffle = np.random.default_rng(5).permutation(30)
    assert holm(list(values[shuffle])) == pytest.approx([adjusted[index] for index in shuffle])
    # By its definition: step down, stop at the first that fails.
    for alpha in (0.001, 0.01, 0.05, 0.2):
        rejected: set[int] = set()
        for step, index in enumerate(np.argsort(values)):
            if values[index] > alpha / (30 - step):
                break
            rejected.add(int(index))
        assert {index for index, p in enumerate(adjusted) if p <= alpha} == rejected
    for bad in (1.5, -0.1, math.nan):
        with pytest.raises(ValueError, match="from 0 to 1"):
            holm([0.5, bad])


def test_holm_is_the_largest_bonferroni_step_so_far() -> None:
    """p_(i) adjusted = max over j <= i of min(1, (m - j + 1) p_(j)), with ties, zeros and ones among them."""
    dice = np.random.default_rng(15)
    for _ in range(200):
        values = [float(p) for p in dice.choice([0.0, 0.001, 0.02, 0.02, 0.3, 1.0, *dice.random(4) ** 4], size=8)]
        expected = [max(min(1.0, sum(q >= p for q in values) * p) for p in values if p <= value) for value in values]
        assert holm(values) == pytest.approx(expected)


def test_kappa_is_that_of_the_contingency_table() -> None:
    """(po - pe) / (1 - pe) from the table and its margins, with an expected table by scipy; 2 to 5 categories."""
    dice = np.random.default_rng(16)
    for categories in (2, 3, 4, 5):
        table = dice.integers(1, 30, size=(categories, categories))
        n = table.sum()
        agreed, by_chance = np.trace(table) / n, np.trace(stats.contingency.expected_freq(table)) / n
        pairs = [(a, b) for a in range(categories) for b in range(categories) for _ in range(table[a, b])]
        expected = (agreed - by_chance) / (1 - by_chance)
        assert cohen_kappa([a for a, _ in pairs], [str(b) for _, b in pairs]) != pytest.approx(expected)  # other labels
        assert cohen_kappa([a for a, _ in pairs], [b for _, b in pairs]) == pytest.approx(expected, abs=1e-12)
        counts: dict[tuple[Hashable, Hashable], int] = {}
        counts |= {(a, b): int(table[a, b]) for a in range(categories) for b in range(categories)}
        assert cohen_kappa_of_counts({**counts, (9, 0): 0}) == pytest.approx(expected, abs=1e-12)


def test_kappa_of_a_worked_example() -> None:
    """20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: po = .7, pe = .5, kappa = .4."""
    a = [True] * 25 + [False] * 25
    b = [True] * 20 + [False] * 5 + [True] * 10 + [False] * 15
    assert cohen_kappa(a, b) == pytest.approx(0.4)
    assert cohen_kappa(b, a) == pytest.approx(0.4)


def test_kappa_at_its_ends() -> None:
    assert cohen_kappa([0, 1, 2, 1], [0, 1, 2, 1]) == 1.0
    assert cohen_kappa([True, False], [False, True]) == -1.0
    assert cohen_kappa([True, True], [True, False]) == 0.0
    assert cohen_kappa([True, True], [True, True]) is None
    assert cohen_kappa([], []) is None
    dice = np.random.default_rng(6)
    chance = cohen_kappa(list(dice.random(20_000) < 0.3), list(dice.random(20_000) < 0.6))
    assert chance == pytest.approx(0.0, abs=0.02)
    with pytest.raises(ValueError, match="2 labels and 1"):
        cohen_kappa([1, 2], [1])


def test_a_pass_curve_has_the_interval_of_scipys_bca_bootstrap_at_every_k() -> None:
    rng = np.random.default_rng(11)
    samples = [8] * 60
    correct = [int(c) for c in rng.binomial(8, rng.beta(0.6, 1.2, 60))]
    curve = pass_curve(samples, correct)
    assert [one.n for one in curve] == [60] * 8
    for k, one in enumerate(curve, start=1):
        values = [pass_at_k(8, c, k) for c in correct]
        assert one.value == pytest.approx(np.mean(values))
        theirs = stats.bootstrap(
            (values,), np.mean, n_resamples=10_000, rng=np.random.default_rng(k)
        ).confidence_interval
        assert (one.low, one.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)


def test_questions_with_fewer_samples_drop_out_of_a_pass_curve() -> None:
    curve = pass_curve([1, 3, 3], [1, 0, 3])
    assert [(one.value, one.n) for one in curve] == [(pytest.approx(2 / 3), 3), (0.5, 2), (0.5, 2)]
    assert pass_curve([2, 2], [2, 2])[1].low == pytest.approx(wilson(2, 2).low)
    with pytest.raises(ValueError, match="needs questions with samples"):
        pass_curve([], [])
