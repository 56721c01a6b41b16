"""Whether ranking puts the relations that a question asks for first: hit@1 on gold relations, for several ways to rank.

The candidates of a pair are all of its simple paths of 1 and 2 hops in the whole graph, so that no way to search or to cut
helps or harms. A pair counts where a path with gold relations is among them. Where several paths come first together the
share of them that is gold counts, so that the order of ties gives nothing away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bench.kg_exact import ExactGraph, walk_of
from bench.kg_gold import MOST_HOPS, Case
from kg.ranking import Weights, blanked, score_parts
from kg.similarity import Similarity
from store.types import Triple

DEGREE_CAP = 501  # degrees are counted up to one more than the cap of a neighbourhood
Floats = npt.NDArray[np.float64]
UNIT = Weights(degree=1.0, length=1.0, sibling=1.0)


class Candidates(NamedTuple):
    """Paths of many cases, a row each. ``cases`` are those with gold among their paths; the rows of one stand together.

    ``starts``: first row of each case; ``fits``: similarity of the path, a column for each way to measure it, in their
    order; ``penalties``: (n, 3) degree, length and sibling as :func:`kg.ranking.score_parts` gives them for weights of 1.
    """

    cases: tuple[Case, ...]
    starts: npt.NDArray[np.int64]
    gold: npt.NDArray[np.bool_]
    fits: Floats
    penalties: Floats

    def scores(self, shares: Sequence[float], weights: Weights) -> Floats:
        """The score of each row; ``shares`` weigh the columns of ``fits``."""
        return np.asarray(self.fits @ np.asarray(shares) + self.penalties @ np.asarray(weights))

    def hits(self, scores: Floats) -> Floats:
        """For each case whether its best path is gold, 0 to 1."""
        best = np.repeat(np.maximum.reduceat(scores, self.starts), np.diff([*self.starts, len(scores)]))
        first = scores >= best - 1e-9
        return np.asarray(
            np.add.reduceat(first & self.gold, self.starts, dtype=float)
            / np.add.reduceat(first, self.starts, dtype=float)
        )

    def part(self, chosen: Sequence[int]) -> Candidates:
        """Only the cases at these positions."""
        ends = [*self.starts[1:], len(self.gold)]
        rows = [np.arange(self.starts[one], ends[one]) for one in chosen]
        starts = np.cumsum([0, *map(len, rows)])[:-1]
        kept = np.concatenate(rows)
        cases = tuple(self.cases[one] for one in chosen)
        return Candidates(cases, starts, self.gold[kept], self.fits[kept], self.penalties[kept])


class _Rows(NamedTuple):
    """The candidates of one case and one length: properties (n, hops), steps as in kg.search, degrees, whether gold."""

    steps: npt.NDArray[np.int32]
    degrees: npt.NDArray[np.int32]
    gold: npt.NDArray[np.bool_]


def candidates(
    cases: Sequence[Case], graph: ExactGraph, labels: Mapping[str, str], similarities: Sequence[Similarity]
) -> Candidates:
    """All paths of the cases with their features. A case without a gold path in the graph is left out."""
    kept: list[Case] = []
    starts: list[int] = []
    rows: list[_Rows] = []
    owners: list[int] = []
    size = 0
    for case in cases:
        some = [_rows(case, graph, hops) for hops in range(1, MOST_HOPS + 1)]
        if any(one.gold.any() for one in some):
            owners += [len(kept)] * len(some)
            kept.append(case)
            starts.append(size)
            rows += some
            size += sum(len(one.gold) for one in some)
    fits = _fits(kept, owners, rows, labels, similarities)
    return Candidates(
        tuple(kept),
        np.asarray(starts, dtype=np.int64),
        np.concatenate([one.gold for one in rows]),
        np.concatenate([np.stack([each.mean(axis=1) for each in some], axis=1) for some in fits]),
        np.concatenate(
            [score_parts(some[0], one.degrees, one.steps, UNIT)[:, 1:] for some, one in zip(fits, rows, strict=True)]
        ),
    )


def _rows(case: Case, graph: ExactGraph, hops: int) -> _Rows:
    paths = list(graph.paths(case.source, case.target, hops))
    walks = [walk_of(path, case.source) for path in paths]
    steps = [[_step(step) for step in walk] for walk in walks]
    degrees = [[_capped(graph, case.source, path)] for path in paths] if hops > 1 else [[] for _ in paths]
    return _Rows(
        np.asarray(steps, dtype=np.int32).reshape(len(paths), hops),
        np.asarray(degrees, dtype=np.int32).reshape(len(paths), hops - 1),
        np.asarray([walk in case.gold for walk in walks], dtype=bool),
    )


def _step(step: str) -> int:
    """A step of a walk as kg.search writes it: twice the property's number, plus 1 if it is walked forward."""
    return 2 * int(step.lstrip("^P")) + (not step.startswith("^"))


def _capped(graph: ExactGraph, source: str, path: tuple[Triple, ...]) -> int:
    first = path[0]
    return min(graph.incoming(first.object if first.subject == source else first.subject), DEGREE_CAP)


def _fits(
    cases: Sequence[Case],
    owners: Sequence[int],
    rows: Sequence[_Rows],
    labels: Mapping[str, str],
    similarities: Sequence[Similarity],
) -> list[list[Floats]]:
    """For each block of rows and each similarity the fit of each step, shape (n, hops); each distinct pair is scored once."""
    texts = [blanked(case.text, (labels.get(one, "") for one in case.names)) for case in cases]
    keys = [(owner << 32) | (one.steps.astype(np.int64) >> 1) for owner, one in zip(owners, rows, strict=True)]
    distinct, where = np.unique(np.concatenate([one.ravel() for one in keys]), return_inverse=True)
    relations = [labels.get(f"P{key & 0xFFFFFFFF}", "") for key in distinct.tolist()]
    asked = [texts[key >> 32] for key in distinct.tolist()]
    cuts = np.cumsum([one.size for one in keys])[:-1]
    scored = [np.split(np.asarray(measure(relations, asked))[where], cuts) for measure in similarities]
    return [[some[i].reshape(one.shape) for some in scored] for i, one in enumerate(keys)]
