"""The sign-flip test against all flips counted one by one, against known distributions, and at the size of a study."""

from __future__ import annotations

import time
from itertools import product

import numpy as np
import pytest
from scipy import stats

from eval.sign_flips import LEAST_P, Floats, sign_flip_p


def counted(differences: Floats) -> float:
    """The p-value by its definition."""
    sums = np.array(list(product((1, -1), repeat=len(differences)))) @ differences
    return float(np.mean(np.abs(sums) >= abs(differences.sum()) - 1e-9))


@pytest.mark.parametrize("samples", [1, 4, 12, 16])
@pytest.mark.parametrize("pairs", [1, 2, 5, 11])
def test_it_is_the_share_of_all_flips(samples: int, pairs: int) -> None:
    random = np.random.default_rng(100 * samples + pairs)
    for _ in range(20):
        before, after = (random.integers(0, samples + 1, pairs) / samples for _ in range(2))
        assert sign_flip_p(after - before) == pytest.approx(counted(after - before), abs=1e-12)


def test_shares_of_unlike_numbers_of_samples() -> None:
    random = np.random.default_rng(4)
    differences = random.integers(0, 5, 10) / 4 - random.integers(0, 7, 10) / 6  # multiples of 1/12
    assert sign_flip_p(differences) == pytest.approx(counted(differences), abs=1e-12)


def test_differences_on_no_lattice() -> None:
    differences = np.random.default_rng(5).normal(0.05, 0.1, 12)
    assert sign_flip_p(differences) == pytest.approx(counted(differences), abs=2e-3)


def test_pairs_that_are_right_or_wrong_give_the_exact_test_of_mcnemar() -> None:
    differences = np.array([1.0] * 40 + [-1.0] * 22 + [0.0] * 500)
    assert sign_flip_p(differences) == pytest.approx(stats.binomtest(40, 62).pvalue, abs=1e-13)


def test_nothing_is_told_of_no_difference_and_little_of_few() -> None:
    assert sign_flip_p(np.zeros(9)) == 1.0
    assert sign_flip_p(np.array([0.25, -0.25])) == 1.0
    assert sign_flip_p(np.array([1.0, 0.5, 0.25, 1.0, 0.75])) == 2**-4
    assert sign_flip_p(np.ones(300)) == LEAST_P


def test_many_pairs_come_near_the_normal_distribution_in_little_time() -> None:
    random = np.random.default_rng(6)
    shares = random.binomial(16, 0.5, 22_600) / 16 - random.binomial(16, 0.49, 22_600) / 16
    pooled = random.normal(0.0015, 0.1, 22_600)
    for differences in (shares, pooled):
        began = time.process_time()
        z = differences.sum() / np.sqrt((differences**2).sum())
        assert sign_flip_p(differences) == pytest.approx(2 * stats.norm.sf(abs(z)), rel=0.1, abs=1e-9)
        assert time.process_time() - began < 10
