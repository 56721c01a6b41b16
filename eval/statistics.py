"""Estimates, intervals and tests of the study; all count questions as the units that vary, not samples.

The samples of one question are alike, so that 16 samples of 100 questions are no 1,600 observations: intervals and
tests resample (or pair) whole questions. A bootstrap over n question values needs only how often each distinct value
is drawn, and these counts are multinomial; with 0/1 values or 16 samples there are few distinct values, so that
10,000 resamples of 24,000 questions take milliseconds and no memory. This is exact, not an approximation of the usual
resampling.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import bdtr, ndtr, ndtri  # scipy.stats has the same and takes a second to import, in every worker

Floats = npt.NDArray[np.float64]

RESAMPLES = 10_000
LEVEL = 0.95
_DRAWN_AT_ONCE = 10_000_000  # counts of distinct values, eight bytes each


class Interval(NamedTuple):
    """A confidence interval and its level (.95: 95 %)."""

    low: float
    high: float
    level: float


class Estimate(NamedTuple):
    """An estimate with its interval; ``n`` is the number of questions."""

    value: float
    low: float
    high: float
    n: int


class PairedDifference(NamedTuple):
    """Mean of a minus mean of b on the same ``n`` questions, its interval, and a two-sided p-value."""

    diff: float
    low: float
    high: float
    p: float
    n: int


# Several samples a question -----------------------------------------------------------------------------------------


def pass_at_k(n: int, c: int, k: int) -> float:
    """Probability that at least one of ``k`` samples, drawn without replacement from ``n`` of which ``c`` are right,
    is right.

    1 - C(n-c, k) / C(n, k), as the product of (1 - k/i) over i = n-c+1..n, which neither overflows nor cancels: Chen
    et al. 2021 (arXiv 2107.03374), equation 1 and figure 3. Unbiased for every k <= n. Raises ValueError for k > n, k
    < 1 and c outside 0..n.
    """
    if k > n:
        raise ValueError(f"pass@k needs k <= n: k is {k}, n (samples of the question) is {n}")
    if k < 1:
        raise ValueError(f"pass@k needs k >= 1: k is {k}")
    if not 0 <= c <= n:
        raise ValueError(f"pass@k needs 0 <= c <= n: c (right samples) is {c}, n is {n}")
    if n - c < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(n - c + 1, n + 1)))


def pass_curve(
    samples: Sequence[int], correct: Sequence[int], *, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[Estimate, ...]:
    """Mean over questions of :func:`pass_at_k` for k = 1, 2, ... up to the most samples, each with a bootstrap over questions.

    ``samples`` and ``correct`` count each question's samples and the right ones; shapes (questions,). A k is estimated from
    the questions that have as many samples. Whole questions are drawn, the same ones for every k, and the interval is the
    BCa one (Wilson's where all have one value), as in :func:`accuracy`. Raises ValueError without a question, and for counts
    that cannot be.
    """
    _check_level(level)
    if len(samples) == 0 or len(samples) != len(correct) or min(samples) < 1:
        raise ValueError(
            f"pass@k needs questions with samples: {len(samples)} sample counts, {len(correct)} right ones"
        )
    kinds, counts = np.unique(np.stack([samples, correct]), axis=1, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(samples), counts / len(samples), size=resamples)
    curve = []
    for k in range(1, int(kinds[0].max()) + 1):
        enough = kinds[0] >= k
        values = np.array([pass_at_k(int(n), int(c), k) for n, c in kinds[:, enough].T])
        weights, n = drawn[:, enough], int(counts[enough].sum())
        value = float(values @ counts[enough] / n)
        if np.all(values == values[0]):
            low, high, _ = wilson(min(value * n, n), n, level=level)
        else:
            there = weights.sum(axis=1)
            means = (weights @ values)[there > 0] / there[there > 0]
            low, high = _bca(np.repeat(values, counts[enough]), means, level)
        curve.append(Estimate(value, low, high, n))
    return tuple(curve)


def majority(classes: Sequence[str | None]) -> str | None:
    """The class with the most votes; ``classes`` holds one equivalence class a sample, in sample order.

    Tie rule: the class that reached its final count first, in sample order, so that the winner depends on nothing but
    the samples. None stands for a cut, refused or unparsed answer: it takes no part and never wins, however often it
    comes. None is returned where nothing else was voted for.
    """
    votes: dict[str, int] = {}
    reached: dict[str, int] = {}
    for position, name in enumerate(classes):
        if name is not None:
            votes[name] = votes.get(name, 0) + 1
            reached[name] = position
    return min(votes, key=lambda name: (-votes[name], reached[name]), default=None)


def maj_at_k(classes: Sequence[str | None], correct: Sequence[bool | None], k: int) -> bool:
    """Whether the majority of the first ``k`` samples of a question is right.

    The verdict of the winning class is that of its first sample; without a winner the answer is wrong. Raises
    ValueError for k < 1, k > n and sequences of different lengths.
    """
    if len(classes) != len(correct):
        raise ValueError(f"maj@k: {len(classes)} classes but {len(correct)} verdicts")
    if not 1 <= k <= len(classes):
        raise ValueError(f"maj@k needs 1 <= k <= n: k is {k}, n (samples of the question) is {len(classes)}")
    winner = majority(classes[:k])
    return winner is not None and bool(correct[list(classes).index(winner)])


# Intervals ----------------------------------------------------------------------------------------------------------


def wilson(successes: float, n: int, *, level: float = LEVEL) -> Interval:
    """Wilson's score interval of a proportion (Wilson 1927, doi 10.2307/2276774), without continuity correction.

    ``successes`` may be a fraction (a sum of shares). Raises ValueError unless n >= 1 and 0 <= successes <= n.
    """
    _check_level(level)
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"Wilson interval needs n >= 1 and 0 <= successes <= n: successes is {successes}, n is {n}")
    share, z = successes / n, float(ndtri((1 + level) / 2))
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * float(np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)))
    # At 0 and n successes the bound is 0 or 1 by algebra; say so without the rounding error.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return Interval(low, high, level)


def accuracy(
    correct: Sequence[Sequence[bool]], *, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """Mean over questions of the share of right samples, with a cluster bootstrap over questions.

    The interval is the BCa one (Efron 1987, doi 10.2307/2289144; acceleration by the jackknife). Where all questions
    have the same share (one question; all right; all wrong) resampling has nothing to vary and would give an interval
    of no width: there it is Wilson's, on the number of questions. ``seed`` makes the interval repeatable. Raises
    ValueError where there is no question, or one with no sample.
    """
    return accuracy_of_means(_question_means(correct, "accuracy"), level=level, resamples=resamples, seed=seed)


def accuracy_of_means(
    means: Sequence[float] | Floats, *, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """:func:`accuracy` of questions whose share of right samples is known; shape (questions,), each from 0 to 1."""
    _check_level(level)
    values = _checked_means(means, "accuracy")
    value, n = float(values.mean()), len(values)
    if np.all(values == values[0]):
        low, high, _ = wilson(min(value * n, n), n, level=level)
    else:
        low, high = _bca(values, _bootstrap_means(values, resamples, seed), level)
    return Estimate(value, low, high, n)


def _question_means(correct: Sequence[Sequence[bool]], what: str) -> Floats:
    if len(correct) == 0:
        raise ValueError(f"{what}: no question given")
    empty = [index for index, samples in enumerate(correct) if len(samples) == 0]
    if empty:
        raise ValueError(f"{what}: question {empty[0]} (counted from 0) has no sample")
    return np.array([sum(map(bool, samples)) / len(samples) for samples in correct])


def _checked_means(means: Sequence[float] | Floats, what: str) -> Floats:
    values = np.asarray(means, dtype=np.float64)
    if len(values) == 0:
        raise ValueError(f"{what}: no question given")
    if not np.all((values >= 0) & (values <= 1)):
        raise ValueError(f"{what}: the share of right samples of a question must lie between 0 and 1")
    return values


def _check_pairs(a: int, b: int) -> None:
    if a != b:
        raise ValueError(f"paired bootstrap: {a} questions in a, {b} in b; give the same questions, in the same order")


def _bootstrap_means(values: Floats, resamples: int, seed: int) -> Floats:
    """Means of ``resamples`` draws with replacement of all of ``values``; shape (resamples,)."""
    distinct, counts = np.unique(values, return_counts=True)
    random, at_once = np.random.default_rng(seed), max(_DRAWN_AT_ONCE // len(distinct), 1)
    means = []
    for start in range(
        0, resamples, at_once
    ):  # in parts, which draws the same: many distinct values would fill the memory
        size = min(at_once, resamples - start)
        means.append(random.multinomial(len(values), counts / len(values), size=size) @ distinct / len(values))
    return np.concatenate(means).astype(np.float64)


def _bca(values: Floats, means: Floats, level: float) -> tuple[float, float]:
    """BCa limits of the mean of ``values`` from its bootstrap ``means``: Efron and Tibshirani 1993, eq. 14.10-14.15."""
    mean = values.mean()
    # Means of few distinct values tie with the observed one; ties count half, as in scipy.stats.bootstrap.
    below = (np.mean(means < mean - 1e-12) + np.mean(means <= mean + 1e-12)) / 2
    bias = ndtri(np.clip(below, 1 / (2 * len(means)), 1 - 1 / (2 * len(means))))
    # The jackknife means of a mean differ from it by (mean - x) / (n - 1); that factor cancels.
    off = values - mean
    acceleration = np.sum(off**3) / (6 * np.sum(off**2) ** 1.5)
    z = ndtri([(1 - level) / 2, (1 + level) / 2]) + bias
    low, high = np.quantile(means, ndtr(bias + z / (1 - acceleration * z)))
    return float(low), float(high)


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level {level}: must lie between 0 and 1 (.95 for 95 %)")


# Comparisons on the same questions ----------------------------------------------------------------------------------


def mcnemar_exact(b: int, c: int) -> float:
    """Two-sided exact p-value of McNemar's test (McNemar 1947, doi 10.1007/BF02295996).

    ``b`` questions are right in the first run only and ``c`` in the second only; under no difference b is binomial
    with b + c trials and p = 1/2. 1.0 where the runs agree everywhere. Raises ValueError for a negative count.
    """
    if b < 0 or c < 0:
        raise ValueError(f"McNemar's test needs counts of 0 or more: b is {b}, c is {c}")
    return 1.0 if b + c == 0 else min(1.0, 2.0 * float(bdtr(min(b, c), b + c, 0.5)))


def paired_bootstrap(
    a: Sequence[Sequence[bool]],
    b: Sequence[Sequence[bool]],
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> PairedDifference:
    """Accuracy of ``a`` minus that of ``b`` on the same questions in the same order, by a bootstrap over questions.

    The interval is BCa. The p-value is that of the bootstrap centred on no difference, (1 + #{|d* - d| >= |d|}) / (1
    + resamples): Davison and Hinkley 1997, section 4.4; its least value is 1 / (1 + resamples). Where every question
    differs by the same amount d there is nothing to resample: p is then that of the sign test, and the interval
    reaches as far as questions not seen, a share of u = Wilson's upper bound of 0 in n, could move the mean: d (1 -
    u) -+ u. Raises ValueError where the numbers of questions differ or a question has no sample.
    """
    _check_pairs(len(a), len(b))
    first, second = _question_means(a, "paired bootstrap, a"), _question_means(b, "paired bootstrap, b")
    return paired_bootstrap_of_means(first, second, level=level, resamples=resamples, seed=seed)


def paired_bootstrap_of_means(
    a: Sequence[float] | Floats,
    b: Sequence[float] | Floats,
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> PairedDifference:
    """:func:`paired_bootstrap` of questions whose shares of right samples are known; shapes (questions,)."""
    _check_level(level)
    _check_pairs(len(a), len(b))
    differences = _checked_means(a, "paired bootstrap, a") - _checked_means(b, "paired bootstrap, b")
    diff, n = float(differences.mean()), len(differences)
    if np.all(differences == differences[0]):
        unseen = wilson(0, n, level=level).high
        middle = diff * (1 - unseen)
        p = mcnemar_exact(n, 0) if diff else 1.0
        return PairedDifference(diff, max(-1.0, middle - unseen), min(1.0, middle + unseen), p, n)
    means = _bootstrap_means(differences, resamples, seed)
    low, high = _bca(differences, means, level)
    as_far = int(np.sum(np.abs(means - diff) >= abs(diff) - 1e-12))
    return PairedDifference(diff, low, high, (1 + as_far) / (1 + resamples), n)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given (Holm 1979, Scandinavian Journal of Statistics 6:65-70).

    Those at most alpha are significant with the chance of any false one at most alpha over the whole family, whatever
    their dependence. Raises ValueError for a value outside 0..1.
    """
    values = np.asarray(p_values, dtype=np.float64)
    outside = [float(p) for p in values if not 0 <= p <= 1]
    if outside:
        raise ValueError(f"Holm's correction needs p-values from 0 to 1: one is {outside[0]}")
    order = np.argsort(values, kind="stable")
    steps = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(steps, 1.0)
    return [float(p) for p in adjusted]


def cohen_kappa(a: Sequence[Hashable], b: Sequence[Hashable]) -> float | None:
    """Agreement of two raters beyond chance, (po - pe) / (1 - pe): Cohen 1960, doi 10.1177/001316446002000104.

    ``a`` and ``b`` hold the labels of the same items, of any number of categories; leave out the items that one did
    not rate. None where it is undefined: with no item, or where both gave one and the same label throughout (chance
    alone would agree everywhere). Raises ValueError for different lengths.
    """
    if len(a) != len(b):
        raise ValueError(f"kappa: {len(a)} labels and {len(b)}; both raters must have rated the same items")
    return cohen_kappa_of_counts(Counter(zip(a, b, strict=True)))


def cohen_kappa_of_counts(counts: Mapping[tuple[Hashable, Hashable], int]) -> float | None:
    """:func:`cohen_kappa` of items that are counted by their two labels."""
    n = sum(counts.values())
    if n == 0 or len({label for pair, count in counts.items() if count for label in pair}) == 1:
        return None
    first, second = Counter[Hashable](), Counter[Hashable]()
    for (a, b), count in counts.items():
        first[a] += count
        second[b] += count
    observed = sum(count for (a, b), count in counts.items() if a == b) / n
    expected = sum(first[label] * second[label] for label in first) / n**2
    return (observed - expected) / (1 - expected)
