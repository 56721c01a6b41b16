"""An exact paired test: where nothing has changed, each pair of before and after could as well stand the other way round.

Under that hypothesis (the two of a pair are exchangeable) the sign of each difference is a fair coin, whatever the differences
are, so that the p-value holds for any number of pairs: Fisher 1935, The Design of Experiments, section 21. It is the share of all
2^n ways to flip signs that give a sum as far from 0 as the observed one.

Those ways are not drawn but counted. Differences of shares are whole multiples of a step, so flipped sums lie on a lattice, and
their distribution is a product over pairs in Fourier space: 20,000 pairs take about 0.1 s and 100 MB, and p-values are exact down
to 1e-12.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

LEAST_P = 1e-12
"""Smaller p-values are told as this: it is what the rounding of a transform leaves."""
_FINEST = 720
_POINTS = 1 << 18


def sign_flip_p(differences: Floats) -> float:
    """The two-sided p-value of no difference; ``differences`` of shape (pairs,), each from -1 to 1. 1.0 where all are 0.

    Its least value is 2^(1 - m) where m pairs differ: with five that differ nothing can be told at a level of .05.
    Differences that are no multiples of 1/720 or of anything coarser (means over many runs) are first rounded to steps
    of which the sum of their sizes has 262,144: hardly another statistic, and a test as exact.
    """
    differing = differences[differences != 0]
    if not len(differing):
        return 1.0
    steps = np.rint(differing * _fineness(np.abs(differing))).astype(np.int64)
    observed = int(abs(steps.sum()))
    sizes, counts = np.unique(np.abs(steps), return_counts=True)
    whole = int(sizes @ counts)
    if not observed:
        return 1.0
    # A sum is whole - 2 t, with t the total size of those that were flipped down; both ends are equally likely.
    chances = _chances(sizes, counts, whole)
    p = 2 * float(chances[: (whole - observed) // 2 + 1].sum())
    return float(np.clip(p, max(LEAST_P, 2.0 ** (1 - len(differing))), 1.0))


def _fineness(sizes: Floats) -> float:
    """Steps in 1: the fewest of which all sizes are whole numbers, else as many as the lattice has room for."""
    distinct = np.unique(np.round(sizes, 9))
    for fineness in range(1, _FINEST + 1):
        scaled = distinct * fineness
        if np.abs(scaled - np.rint(scaled)).max() < 1e-6 and fineness * sizes.sum() <= 4 * _POINTS:
            return float(fineness)
    return _POINTS / float(sizes.sum())


def _chances(sizes: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], whole: int) -> Floats:
    """How likely each total t = 0, 1, ..., ``whole`` is, where each pair adds its size or 0 with the same chance.

    Its characteristic function at 2 pi j / N is the product over pairs of exp(i pi j size / N) cos(pi j size / N).
    """
    points = 1 << whole.bit_length()  # an even number above the largest total: nothing wraps around
    places = np.arange(points // 2 + 1)
    angles = np.pi * np.arange(2 * points) / points
    logs, negative = np.log(np.abs(np.cos(angles))), np.cos(angles) < 0
    size_log, flipped = np.zeros(len(places)), np.zeros(len(places), bool)
    for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
        at = places * size % (2 * points)
        size_log += count * logs[at]
        if count % 2:
            flipped ^= negative[at]
    magnitude = np.where(flipped, -1.0, 1.0) * np.exp(size_log)
    phases = np.exp(-1j * angles[places * whole % (2 * points)])
    return np.fft.irfft(magnitude * phases, points)[: whole + 1]
