"""Calibration against a plain computation, question by question, and against simulated truth."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from eval.calibration import agreement, calibrate
from eval.statistics import wilson


def plain_ece(confidence: list[float], correct: list[bool], bins: int) -> float:
    """n_b / n * |accuracy - confidence| over the bins (low, high], in whole sixtieths so that no edge is rounded."""
    total = 0.0
    for number in range(bins):
        low, high = number * 60, (number + 1) * 60
        inside = [
            i
            for i, stated in enumerate(confidence)
            if low < round(stated * 60) * bins <= high or (number == 0 and stated == 0)
        ]
        if inside:
            accuracy = sum(correct[i] for i in inside) / len(inside)
            total += len(inside) / len(correct) * abs(accuracy - sum(confidence[i] for i in inside) / len(inside))
    return total


@pytest.mark.parametrize("bins", [1, 2, 3, 10, 12, 15, 20, 60])
def test_the_error_is_that_of_bins_closed_on_the_right(bins: int) -> None:
    dice = np.random.default_rng(bins)
    for _ in range(20):
        n = int(dice.integers(2, 80))
        confidence = [int(sixtieths) / 60 for sixtieths in dice.integers(0, 61, size=n)]
        correct = [bool(right) for right in dice.random(n) < 0.5]
        found = calibrate(confidence, correct, bins, resamples=50)
        assert found.ece.value == pytest.approx(plain_ece(confidence, correct, bins), abs=1e-12)
        assert found.brier.value == pytest.approx(
            math.fsum((stated - right) ** 2 for stated, right in zip(confidence, correct, strict=True)) / n
        )
        assert found.n == found.ece.n == found.brier.n == sum(one.n for one in found.bins) == n
        parts = [one.n / n * abs(one.accuracy.value - one.confidence) for one in found.bins]
        assert found.ece.value == pytest.approx(sum(parts))
        for one in found.bins:
            assert one.high - one.low == pytest.approx(1 / bins)
            assert one.low - 1e-9 <= one.confidence <= one.high + 1e-9
            assert one.accuracy.n == one.n > 0
            assert one.accuracy[1:3] == wilson(one.accuracy.value * one.n, one.n)[:2]
            interval = stats.binomtest(round(one.accuracy.value * one.n), one.n).proportion_ci(method="wilson")
            assert one.accuracy[1:3] == pytest.approx((interval.low, interval.high), abs=1e-9)


def test_a_worked_example() -> None:
    """Six questions of 4 samples: .5 twice, one right; .75 twice, both right; 1 twice, one right."""
    found = calibrate([0.5, 0.5, 0.75, 0.75, 1, 1], [True, False, True, True, True, False])
    assert [(one.confidence, one.accuracy.value, one.n) for one in found.bins] == [
        (0.5, 0.5, 2),
        (0.75, 1, 2),
        (1, 0.5, 2),
    ]
    assert [one.high for one in found.bins] == pytest.approx([0.5, 0.8, 1.0])
    assert found.ece.value == pytest.approx((0 + 0.25 + 0.5) / 3)
    assert found.brier.value == pytest.approx((0.25 + 0.25 + 0.0625 + 0.0625 + 0 + 1) / 6)


def test_few_samples_make_few_confidences_and_more_bins_change_nothing() -> None:
    dice = np.random.default_rng(2)
    for samples in range(1, 11):
        confidence = dice.integers(1, samples + 1, size=300) / samples
        correct = [bool(right) for right in dice.random(300) < confidence**2]
        found = calibrate(confidence, correct, bins=10, resamples=50)
        values = sorted(set(confidence))
        assert [one.confidence for one in found.bins] == pytest.approx(values)
        assert found.ece.value == pytest.approx(calibrate(confidence, correct, bins=840, resamples=50).ece.value)
    # 16 samples share 10 bins: errors of opposite sign cancel in one.
    opposite = [14 / 16, 13 / 16] * 50
    right = [index % 2 == 0 for index in range(100)]
    assert calibrate(opposite, right, bins=10, resamples=50).ece.value > 0.3  # .8125 and .875: two samples in one bin
    assert calibrate(opposite, right, bins=16, resamples=50).ece.value == pytest.approx((2 / 16 + 13 / 16) / 2)


def test_agreement_is_the_share_of_the_winning_class_among_all_samples() -> None:
    assert agreement(["a", "a", "b", None]) == 0.5
    assert agreement(["a"]) == 1.0
    assert agreement([None, None]) == 0.0
    assert agreement(["a", None, None, None]) == 0.25
    for votes in itertools.product(("a", "b", None), repeat=4):
        assert agreement(votes) == max(votes.count("a"), votes.count("b")) / 4
    with pytest.raises(ValueError, match="no sample"):
        agreement([])


def test_the_error_interval_is_that_of_questions_drawn_one_by_one() -> None:
    dice = np.random.default_rng(4)
    confidence = dice.integers(1, 9, size=150) / 8
    correct = dice.random(150) < 0.6 * confidence
    found = calibrate(confidence, list(correct), resamples=20_000).ece
    draws = []
    for _ in range(4_000):
        drawn = dice.integers(0, 150, size=150)
        sums = np.bincount((8 * confidence[drawn]).astype(int), weights=confidence[drawn] - correct[drawn], minlength=9)
        draws.append(np.abs(sums).sum() / 150)
    low, high = np.quantile(draws, [0.025, 0.975])
    expected = (2 * found.value - high, found.value + np.mean(draws) - low)
    assert (found.low, found.high) == pytest.approx(expected, abs=0.006)


@pytest.mark.parametrize(
    ("samples", "slope", "questions"), [(16, 1.0, 300), (16, 0.8, 1000), (4, 0.7, 300), (8, 0.5, 200)]
)
def test_the_intervals_hold_the_truth(samples: int, slope: float, questions: int) -> None:
    """Accuracy ``slope`` times the confidence: about 95 % of the intervals hold the true error and score."""
    dice = np.random.default_rng(9)
    steps = np.arange(1, samples + 1) / samples
    true_error, true_brier = float(np.mean(steps * (1 - slope))), 0.0
    for step in steps:
        true_brier += float(slope * step * (1 - step) ** 2 + (1 - slope * step) * step**2) / samples
    held = brier = 0
    errors = []
    for run in range(150):
        confidence = dice.choice(steps, size=questions)
        found = calibrate(confidence, list(dice.random(questions) < slope * confidence), 16, resamples=400, seed=run)
        held += found.ece.low - 1e-12 <= true_error <= found.ece.high
        brier += found.brier.low <= true_brier <= found.brier.high
        errors.append(found.ece.value)
        assert 0 <= found.ece.low <= found.ece.value <= found.ece.high <= 1
    assert np.mean(errors) >= true_error - 0.005
    assert held / 150 >= 0.91
    assert brier / 150 >= 0.9


def test_perfect_calibration_errs_as_chance_says_and_a_bad_one_more() -> None:
    dice = np.random.default_rng(10)
    confidence = dice.integers(1, 17, size=200) / 16
    perfect = [calibrate(confidence, list(dice.random(200) < confidence), resamples=400) for _ in range(100)]
    assert np.mean([found.ece.value for found in perfect]) == pytest.approx(perfect[0].chance, rel=0.15)
    assert np.mean([found.ece.low == 0 for found in perfect]) > 0.9
    bad = calibrate(confidence, list(dice.random(200) < confidence / 2))
    assert bad.ece.low > 0.1 > bad.chance


def test_questions_that_are_all_alike_have_an_interval_all_the_same() -> None:
    low = wilson(30, 30).low
    sure = calibrate([1.0] * 30, [True] * 30)
    assert sure.ece == pytest.approx((0.0, 0.0, 1 - low, 30))
    assert sure.brier == pytest.approx((0.0, 0.0, 1 - low, 30))
    wrong = calibrate([1.0] * 30, [False] * 30)
    assert wrong.ece == pytest.approx((1.0, low, 1.0, 30))
    assert wrong.chance == 0.0
    half = calibrate([0.5] * 30, [True] * 30)
    assert half.ece == pytest.approx((0.5, low - 0.5, 0.5, 30))
    assert half.brier == pytest.approx((0.25, 0.25, 0.25, 30))  # a coin's score is .25 whatever comes
    mixed = calibrate([1.0, 0.0] * 15, [True, False] * 15)  # every confidence is its verdict
    assert mixed.ece == pytest.approx((0.0, 0.0, 1 - low, 30))
    one = calibrate([0.75], [True])
    assert one.ece.low == 0.0
    assert one.ece.high > 0.5


def test_calibration_is_repeatable_and_level_and_seed_matter() -> None:
    dice = np.random.default_rng(1)
    confidence = dice.integers(1, 9, size=100) / 8
    correct = [bool(right) for right in dice.random(100) < confidence / 3]
    assert calibrate(confidence, correct) == calibrate(confidence, correct)
    assert calibrate(confidence, correct, seed=1) != calibrate(confidence, correct)
    wide, narrow = calibrate(confidence, correct, level=0.99), calibrate(confidence, correct, level=0.5)
    assert wide.ece.low < narrow.ece.low <= narrow.ece.value <= narrow.ece.high < wide.ece.high


def test_many_different_confidences_are_drawn_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    dice = np.random.default_rng(5)
    confidence = dice.random(400)
    correct = [bool(right) for right in dice.random(400) < confidence / 2]
    at_once = calibrate(confidence, correct, resamples=2_000)
    monkeypatch.setattr("eval.calibration._AT_ONCE", 50_000)
    in_steps = calibrate(confidence, correct, resamples=2_000)
    assert in_steps.ece == pytest.approx(at_once.ece, rel=1e-12)
    assert in_steps.chance == pytest.approx(at_once.chance, rel=1e-12)


@pytest.mark.parametrize(
    ("confidence", "correct", "bins", "message"),
    [
        ([], [], 10, "no question"),
        ([0.5], [True, False], 10, "1 confidences but 2 verdicts"),
        ([0.5, 1.5], [True, False], 10, "one is 1.5"),
        ([-0.1], [True], 10, "one is -0.1"),
        ([math.nan], [True], 10, "one is nan"),
        ([0.5], [True], 0, "bins is 0"),
    ],
)
def test_calibration_refuses(confidence: list[float], correct: list[bool], bins: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        calibrate(confidence, correct, bins)


def test_calibration_refuses_a_level_in_percent() -> None:
    with pytest.raises(ValueError, match="level 95"):
        calibrate([0.5, 1.0], [True, False], level=95)
