"""Which of a question's paths to keep: how well their relations fit the question, less soft penalties.

score = similarity - .02 * sum of log(1 + degree) over the middle nodes - .4 * hops - .2 if siblings. ``similarity`` (0 to
1) is the mean over the steps of kg.similarity's score of the relation's label against the question without the names of its
entities; ``degree`` counts the statements about a node, up to a cap; siblings (q -p-> x <-p- a) merely share a value.
Penalties are soft because hard filters on relations lose coverage. The weights are those that `python -m bench.tune_ranking`
chooses on one half of the questions whose gold relations are known; `python -m bench.kg` says what they give on the other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kg.search import Integers
from store.types import Path, ScoreParts

RANKING_VERSION = "2"

Floats = npt.NDArray[np.float64]


class Weights(NamedTuple):
    """What a unit of each penalty costs, beside a similarity of 0 to 1."""

    degree: float = 0.02
    length: float = 0.4
    sibling: float = 0.2


WEIGHTS = Weights()


def score_parts(fits: Floats, degrees: Integers, steps: Integers, weights: Weights = WEIGHTS) -> Floats:
    """The four parts of the scores of paths of one length, shape (n, 4) in the order of :class:`ScoreParts`.

    ``fits`` (n, hops) is the similarity of each step's relation, ``degrees`` (n, hops - 1) the middle nodes' degrees,
    ``steps`` (n, hops) as in :class:`kg.search.Walks`. The score is the sum of a row.
    """
    paths, hops = steps.shape
    parts = np.zeros((paths, 4))
    parts[:, 0] = fits.mean(axis=1)
    parts[:, 1] = -weights.degree * np.log1p(degrees).sum(axis=1)
    parts[:, 2] = -weights.length * hops
    parts[:, 3] = -weights.sibling * siblings(steps)
    return np.round(parts, 6)


def siblings(steps: Integers) -> npt.NDArray[np.bool_]:
    """Whether a path goes up a relation and down the same one, so that both nodes merely share a value. Shape (n,)."""
    # A forward step is odd; the same property walked back is the even number below it.
    found = (steps[:, :-1] & 1 == 1) & (steps[:, 1:] == steps[:, :-1] - 1)
    return np.asarray(found.any(axis=1), dtype=np.bool_)


def parts_of(row: Floats) -> ScoreParts:
    """One row of :func:`score_parts`."""
    similarity, degree, length, sibling = (float(value) + 0.0 for value in row)
    return ScoreParts(similarity, degree, length, sibling)


def ranked(paths: Iterable[Path]) -> list[Path]:
    """Best first; equal scores by length and then by the statements, so that the order depends on the paths alone."""
    return sorted(paths, key=lambda path: (-path.score, path.hops, path.source, path.target, path.triples))


def top(paths: Sequence[Path], k: int) -> list[Path]:
    """The first ``k`` of ranked paths, but never less than the best one of each (source, target) pair, in their order."""
    best: dict[tuple[str, str], int] = {}
    for position, path in enumerate(paths):
        best.setdefault((path.source, path.target), position)
    kept = set(best.values())
    for position in range(len(paths)):
        if len(kept) >= k:
            break
        kept.add(position)
    return [paths[position] for position in sorted(kept)]


def preferred(paths: Sequence[Path], wanted: Callable[[Path], bool]) -> list[Path]:
    """The paths but those that are not wanted where their pair has one that is; a pair never loses its last path."""
    clear = [path for path in paths if wanted(path)]
    pairs = {(path.source, path.target) for path in clear}
    kept = set(map(id, clear))
    return [path for path in paths if id(path) in kept or (path.source, path.target) not in pairs]


def middle_nodes(path: Path) -> list[str]:
    """The nodes between the ends of a path, in the order of the walk."""
    node, passed = path.source, []
    for triple in path.triples[:-1]:
        node = triple.object if triple.subject == node else triple.subject
        passed.append(node)
    return passed


def blanked(text: str, names: Iterable[str]) -> str:
    """The question without the names of its entities, longest first: a name says nothing of the relation asked for."""
    for name in sorted({name for name in names if name}, key=lambda name: (-len(name), name)):
        text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", " ", text, flags=re.IGNORECASE)
    return text
