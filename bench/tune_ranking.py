"""Tune the weights of ranking on one half of the questions with gold relations, and report on the other half.

A grid of weights is tried. Which one is best is judged by cross-validation within the tuning half, so that what it promises
can be compared with what it gives on the held-out half, which takes no part in the choice. Prints the weights for
``kg/ranking.py`` and ``kg/similarity.py``, and one JSON object as its last line.

    python -m bench.tune_ranking [--data FOLDER] [--folds 5]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bench.kg_exact import ExactGraph, read_facts
from bench.kg_gold import gold_cases
from bench.kg_questions import DATA, facts
from bench.kg_ranking import Candidates, Floats, candidates
from kg.ranking import WEIGHTS, Weights
from kg.similarity import EMBEDDING_SHARE, Embedding, Lexical, Similarity, best_similarity
from store.types import InputError, digest

SHARES = (0.0, 0.25, 0.5, 0.65, 0.8, 1.0)
DEGREES = (0.0, 0.005, 0.01, 0.02, 0.03, 0.045, 0.06)
LENGTHS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
SIBLINGS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.6)


class Setting(NamedTuple):
    """The embedding's share of the similarity and the weights of the penalties."""

    share: float
    weights: Weights

    def distance(self, other: Setting) -> float:
        """How far apart two settings are, each number in units of its grid's largest value."""
        pairs = zip((self.share, *self.weights), (other.share, *other.weights), strict=True)
        sizes = (SHARES[-1], DEGREES[-1], LENGTHS[-1], SIBLINGS[-1])
        return sum(abs(a - b) / size for (a, b), size in zip(pairs, sizes, strict=True))


CURRENT = Setting(EMBEDDING_SHARE, WEIGHTS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the search; 0, or 2 where the data is not here."""
    parser = argparse.ArgumentParser(prog="python -m bench.tune_ranking", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, default=DATA, help="the folder of the real data (%(default)s)")
    parser.add_argument("--folds", type=int, default=5, help="folds of the cross-validation (%(default)s)")
    given = parser.parse_args(arguments)
    try:
        known = facts(given.data)
        read = read_facts(known)
        graph = ExactGraph(read.statements)
        measures, embedded = _similarities()
        all_cases = candidates(gold_cases(graph, given.data), graph, read.labels, measures)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    tuning, held_out = halves(all_cases)
    settings = grid(embedded)
    table = hits_by_setting(tuning, settings)
    best = choose(table, settings)
    hits = {
        "tuning": _hit(tuning, best),
        "cross_validated": cross_validated(table, settings, tuning, given.folds),
        "held_out": _hit(held_out, best),
        "held_out_current": _hit(held_out, CURRENT if embedded else CURRENT._replace(share=0.0)),
    }
    report = {
        "pairs": {"tuning": len(tuning.cases), "held_out": len(held_out.cases)},
        "settings": len(settings),
        "best": {"share": best.share, **best.weights._asdict()},
        "hit@1": hits,
    }
    print(f"{len(settings)} settings on {len(tuning.cases)} pairs, tested on {len(held_out.cases)}")
    print(
        f"kg/ranking.py     Weights(degree={best.weights.degree}, length={best.weights.length}, sibling={best.weights.sibling})"
    )
    print(
        f"kg/similarity.py  EMBEDDING_SHARE = {best.share}"
        if embedded
        else "the encoder is not installed: lexical only"
    )
    for name, value in hits.items():
        print(f"hit@1 {name:<17} {value:.3f}")
    print(json.dumps(report))
    return 0


def halves(some: Candidates) -> tuple[Candidates, Candidates]:
    """The tuning half and the held-out half."""
    held_out = [case.held_out for case in some.cases]
    tuning, testing = ([i for i, out in enumerate(held_out) if out == half] for half in (False, True))
    return some.part(tuning), some.part(testing)


def grid(embedded: bool) -> list[Setting]:
    """All settings that are tried, the current ones among them; without the encoder the share is 0."""
    shares = SHARES if embedded else (0.0,)
    penalties = [Weights(*some) for some in product(DEGREES, LENGTHS, SIBLINGS)]
    made = [Setting(share, weights) for share in shares for weights in penalties]
    return list(dict.fromkeys([CURRENT if embedded else CURRENT._replace(share=0.0), *made]))


def hits_by_setting(some: Candidates, settings: Sequence[Setting]) -> Floats:
    """Hit@1 of each case under each setting, shape (settings, cases)."""
    return np.stack([some.hits(some.scores(_shares(one, some), one.weights)) for one in settings])


def choose(table: Floats, settings: Sequence[Setting]) -> Setting:
    """The setting with the most hits; of equal ones the nearest to the current one."""
    means = table.mean(axis=1)
    equal = np.flatnonzero(means >= means.max() - 1e-9)
    found: Setting = min((settings[place] for place in equal), key=lambda one: (one.distance(CURRENT), one))
    return found


def cross_validated(table: Floats, settings: Sequence[Setting], some: Candidates, folds: int) -> float:
    """Mean hit@1 of the cases when each fold is ranked as the others choose; a question is in one fold only."""
    fold = np.asarray([int(digest(["fold", case.family], 8), 16) % folds for case in some.cases])
    place = {setting: row for row, setting in enumerate(settings)}
    hits = np.zeros(len(some.cases))
    for one in range(folds):
        chosen = choose(table[:, fold != one], settings)
        hits[fold == one] = table[place[chosen], fold == one]
    return float(hits.mean())


def _hit(some: Candidates, setting: Setting) -> float:
    return float(some.hits(some.scores(_shares(setting, some), setting.weights)).mean())


def _shares(setting: Setting, some: Candidates) -> tuple[float, ...]:
    return (1 - setting.share, setting.share) if some.fits.shape[1] == 2 else (1.0,)


def _similarities() -> tuple[list[Similarity], bool]:
    """The ways to measure similarity that are here, and whether the encoder is among them."""
    embedded = best_similarity("auto").name != Lexical.name
    return ([Lexical(), Embedding()] if embedded else [Lexical()]), embedded


if __name__ == "__main__":
    sys.exit(main())
