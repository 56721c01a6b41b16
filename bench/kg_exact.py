"""The exact answer to hold retrieval against: shortest paths over a whole graph in memory, on CSR arrays.

Every statement between two items stands twice in the arrays, once at each of its ends, so that a walk may take it either
way. Nothing is cut and nothing is sampled: distances and numbers of paths are those of the N-Triples files themselves.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from store.types import Triple

MOST_HOPS = 3

Nodes = npt.NDArray[np.int64]

_STATEMENT = re.compile(
    r"<http://www\.wikidata\.org/entity/(Q\d+)> <http://www\.wikidata\.org/prop/direct/(P\d+)> "
    r"<http://www\.wikidata\.org/entity/(Q\d+)> \."
)
_LABEL = re.compile(
    r'<http://www\.wikidata\.org/entity/([QP]\d+)> <http://www\.w3\.org/2000/01/rdf-schema#label> "((?:[^"\\]|\\.)*)"@en \.'
)


class Distance(NamedTuple):
    """Hops of the shortest path of a pair (0: none within 3), and the number of paths of that length.

    A path is a sequence of distinct statements: parallel statements make a path each, so do both directions of a mutual
    relation.
    """

    hops: int
    paths: int


class Facts(NamedTuple):
    """What N-Triples files say: distinct statements between items in order, and the English labels of items and properties."""

    statements: tuple[Triple, ...]
    labels: dict[str, str]


def walk_of(path: Iterable[Triple], source: str) -> tuple[str, ...]:
    """The properties of a path as its walk takes them, those that are walked backwards with a ``^`` before them."""
    node, walk = source, []
    for one in path:
        forward = one.subject == node
        walk.append(one.predicate if forward else f"^{one.predicate}")
        node = one.object if forward else one.subject
    return tuple(walk)


def read_facts(files: Iterable[Path]) -> Facts:
    """The statements and labels of N-Triples files, plain or gzip; lines of any other kind are left out."""
    statements: dict[Triple, None] = {}
    labels: dict[str, str] = {}
    for file in files:
        for line in _lines(file):
            if statement := _STATEMENT.match(line):
                statements[Triple(statement[1], statement[2], statement[3])] = None
            elif label := _LABEL.match(line):
                labels[label[1]] = re.sub(r"\\(.)", r"\1", label[2])
    return Facts(tuple(sorted(statements)), labels)


def _lines(file: Path) -> Iterator[str]:
    with gzip.open(file, "rt", encoding="utf-8") if file.suffix == ".gz" else file.open(encoding="utf-8") as stream:
        yield from stream


class ExactGraph:
    """A whole graph in memory. Statements of an item about itself are left out: no simple path takes one."""

    def __init__(self, statements: Sequence[Triple]) -> None:
        self.statements = [one for one in statements if one.subject != one.object]
        names = sorted({one.subject for one in self.statements} | {one.object for one in self.statements})
        self.names = names
        self._place = {name: place for place, name in enumerate(names)}
        subjects = np.array([self._place[one.subject] for one in self.statements], dtype=np.int64)
        objects = np.array([self._place[one.object] for one in self.statements], dtype=np.int64)
        here, there = np.concatenate([subjects, objects]), np.concatenate([objects, subjects])
        order = np.lexsort((there, here))
        self._next = there[order]
        self._statement = np.tile(np.arange(len(self.statements)), 2)[order]
        self._start = np.searchsorted(here[order], np.arange(len(names) + 1))
        self._degree = np.diff(self._start)
        self._incoming = np.bincount(objects, minlength=len(names))
        self._mark = np.zeros(len(names), dtype=bool)

    def __contains__(self, entity: str) -> bool:
        return entity in self._place

    def degree(self, entity: str) -> int:
        """Number of statements between the entity and others, in both directions; 0 for an unknown one."""
        place = self._place.get(entity)
        return 0 if place is None else int(self._degree[place])

    def incoming(self, entity: str) -> int:
        """Number of statements that point at the entity; 0 for an unknown one."""
        place = self._place.get(entity)
        return 0 if place is None else int(self._incoming[place])

    def distance(self, source: str, target: str) -> Distance:
        """Hops and number of the shortest paths of at most 3 hops; (0, 0) for an unknown entity or a pair of one."""
        s, t = self._place.get(source), self._place.get(target)
        if s is None or t is None or s == t:
            return Distance(0, 0)
        near, far = self._around(s), self._around(t)
        first, last = np.searchsorted(near, [t, t + 1])
        if last > first:
            return Distance(1, int(last - first))
        near, near_count = np.unique(near, return_counts=True)
        far, far_count = np.unique(far, return_counts=True)
        _, in_near, in_far = np.intersect1d(near, far, assume_unique=True, return_indices=True)
        if len(in_near):
            return Distance(2, int((near_count[in_near] * far_count[in_far]).sum()))
        if self._degree[far].sum() < self._degree[near].sum():
            near, near_count, far, far_count = far, far_count, near, near_count
        rows, reached, _ = self._expanded(near)
        hits = self._marked(far, reached)
        paths = (near_count[rows[hits]] * far_count[np.searchsorted(far, reached[hits])]).sum()
        return Distance(3 if hits.any() else 0, int(paths))

    def paths(self, source: str, target: str, hops: int) -> Iterator[tuple[Triple, ...]]:
        """All simple paths of exactly 1, 2 or 3 hops, each statement in its true direction, from source to target."""
        s, t = self._place.get(source), self._place.get(target)
        if s is None or t is None or s == t:
            return
        near = self._by_neighbour(s)
        if hops == 1:
            yield from ((one,) for one in near.get(t, ()))
            return
        far = self._by_neighbour(t)
        if hops == 2:
            for middle in sorted(near.keys() & far.keys()):
                yield from ((one, two) for one in near[middle] for two in far[middle])
        elif hops == MOST_HOPS:
            yield from self._three_hops(s, t, near, far)

    def _three_hops(
        self, s: int, t: int, near: dict[int, list[Triple]], far: dict[int, list[Triple]]
    ) -> Iterator[tuple[Triple, ...]]:
        starts, ends = (np.array(sorted(one.keys() - {s, t}), dtype=np.int64) for one in (near, far))
        # The other end may be a hub, whose neighbours have far more statements around them.
        turned = self._degree[ends].sum() < self._degree[starts].sum()
        if turned:
            starts, ends = ends, starts
        rows, reached, statements = self._expanded(starts)
        for hit in np.flatnonzero(self._marked(ends, reached)):
            a, b, middle = int(starts[rows[hit]]), int(reached[hit]), self.statements[statements[hit]]
            if turned:
                a, b = b, a
            yield from ((one, middle, three) for one in near[a] for three in far[b])

    def connected(self, source: str, target: str, most_degree: int | None = None) -> bool:
        """Whether a path of at most 3 hops joins the two, all of whose middle nodes have at most ``most_degree`` statements."""
        s, t = self._place.get(source), self._place.get(target)
        if s is None or t is None or s == t:
            return False
        near, far = np.unique(self._around(s)), np.unique(self._around(t))
        if self._marked(near, np.array([t]))[0]:
            return True
        if most_degree is not None:
            near, far = (one[self._degree[one] <= most_degree] for one in (near, far))
        if len(np.intersect1d(near, far, assume_unique=True)):
            return True
        if self._degree[far].sum() < self._degree[near].sum():
            near, far = far, near
        return bool(self._marked(far, self._expanded(near)[1]).any())

    def _around(self, node: int) -> Nodes:
        """The neighbours of a node, sorted, one for each statement."""
        found: Nodes = self._next[self._start[node] : self._start[node + 1]]
        return found

    def _expanded(self, nodes: Nodes) -> tuple[Nodes, Nodes, Nodes]:
        """All neighbours of all nodes: the row of the node, the neighbour, and the statement between the two."""
        counts = self._degree[nodes]
        rows = np.repeat(np.arange(len(nodes)), counts)
        places = np.arange(counts.sum()) + np.repeat(self._start[nodes] - np.cumsum(counts) + counts, counts)
        return rows, self._next[places], self._statement[places]

    def _marked(self, nodes: Nodes, asked: Nodes) -> npt.NDArray[np.bool_]:
        """Which of ``asked`` are among ``nodes``."""
        self._mark[nodes] = True
        found = self._mark[asked]
        self._mark[nodes] = False
        return found

    def _by_neighbour(self, node: int) -> dict[int, list[Triple]]:
        """The statements around a node by the node at their other end."""
        found: dict[int, list[Triple]] = {}
        for place in range(int(self._start[node]), int(self._start[node + 1])):
            found.setdefault(int(self._next[place]), []).append(self.statements[self._statement[place]])
        return found
