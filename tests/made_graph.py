"""Random multigraphs, what is in them by brute force, and a source that serves them and counts."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import pairwise, permutations, product

from kg.graph import Graph
from kg.neighbourhoods import Direction, Expansion
from store.types import Detail, Triple

Walk = tuple[Triple, ...]


def world(seed: int, nodes: int = 9, edges: int = 16) -> list[Triple]:
    """A random multigraph with parallel and mutual relations, loops and literals."""
    draw = random.Random(seed)
    names = [f"Q{i}" for i in range(1, nodes + 1)]
    triples = {Triple(draw.choice(names), f"P{draw.randint(1, 3)}", draw.choice(names)) for _ in range(edges)}
    triples |= {Triple(draw.choice(names), "P9", str(draw.randint(1, 4)), True) for _ in range(4)}
    return sorted(triples)


def expansion(triples: Sequence[Triple], entity: str, direction: Direction, cap: int = 10**6) -> Expansion:
    own = [t for t in triples if (t.subject == entity if direction == "out" else not t.literal and t.object == entity)]
    cut = direction == "in" and len(own) > cap
    return Expansion(entity, direction, tuple(own[:cap] if cut else own), cut)


def whole(triples: Sequence[Triple]) -> Graph:
    """A graph that knows everything."""
    names = {t.subject for t in triples} | {t.object for t in triples if not t.literal}
    directions: tuple[Direction, ...] = ("out", "in")
    return Graph(expansion(triples, one, d) for one in sorted(names) for d in directions)


def brute(triples: Sequence[Triple], source: str, target: str, hops: int) -> set[Walk]:
    """All simple paths of this many hops: every sequence of nodes, every choice of statements between neighbours."""
    names = sorted(({t.subject for t in triples} | {t.object for t in triples if not t.literal}) - {source, target})
    found: set[Walk] = set()
    for middle in permutations(names, hops - 1):
        walk = (source, *middle, target)
        between = [[t for t in triples if not t.literal and {t.subject, t.object} == {a, b}] for a, b in pairwise(walk)]
        found |= set(product(*between))
    return found


def least(triples: Sequence[Triple], source: str, target: str, max_hops: int) -> set[Walk]:
    """The paths of the least number of hops."""
    for hops in range(1, max_hops + 1):
        if found := brute(triples, source, target, hops):
            return found
    return set()


class MadeSource:
    """A :class:`kg.retrieval.Source` over given triples; ``asked`` holds what was asked for, each thing once."""

    def __init__(
        self, triples: Sequence[Triple], graph: Graph, statements: Mapping[Triple, tuple[Detail, ...]] | None = None
    ) -> None:
        self.triples, self.graph, self.statements = triples, graph, statements or {}
        self.asked: list[object] = []

    def expansions(self, wanted: Mapping[Direction, Collection[str]], cap: int) -> None:
        for direction, entities in wanted.items():
            missing = sorted(set(entities) - self.graph.known(direction, entities, cap))
            self.asked += [(one, direction, cap) for one in missing]
            self.graph.add([expansion(self.triples, one, direction, cap) for one in missing], cap)

    def labels(self, ids: Collection[str]) -> None:
        missing = set(ids) - self.graph.named
        self.asked += [(one, "label") for one in sorted(missing)]
        self.graph.learn(labels={one: f"the {one}" for one in missing}, named=missing)

    def degrees(self, entities: Collection[str], cap: int) -> None:
        missing = set(entities) - self.graph.degrees.keys()
        self.asked += [(one, "degree") for one in sorted(missing)]
        self.graph.learn(degrees={one: min(in_degree(self.triples, one), cap + 1) for one in missing})

    def details(self, triples: Collection[Triple]) -> None:
        self.asked += sorted(set(triples) - self.graph.detailed)
        self.graph.learn(details={t: self.statements[t] for t in triples if t in self.statements}, detailed=triples)


def in_degree(triples: Iterable[Triple], node: str) -> int:
    return sum(not t.literal and t.object == node for t in triples)
