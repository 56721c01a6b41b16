"""Candidates: for each question of a batch, the paths that are worth ranking, of every kind.

``pair``: between a question's entity and a target. ``joint``: through another entity of the question, also where that is
not the shortest way. ``literal``: to a date or number that answers the question. ``between``: among the entities of a
yes/no question, with their own dates and numbers. All are arrays (:class:`kg.search.Walks`), a group for each length.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import combinations, product
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from kg.graph import Graph
from kg.ranking import Floats, blanked, score_parts
from kg.search import Integers, Pair, Policy, Walks, number, rows_by_pair, search
from kg.similarity import Similarity
from store.types import Frozen

CANDIDATES = 20  # paths of a pair and length that are ranked with their nodes' degrees, chosen by all else
OWN_VALUES = 20  # dates and numbers of each entity of a yes/no question
LITERAL_HOPS = 2
SEGMENTS = 500  # walks of one length between two entities that joint paths are put together of
NAMES_BLANKED = 20  # answers whose names are looked for in a question that has more


class Options(Frozen):
    """How paths are searched. ``cap`` bounds the in-edges fetched for an entity, ``deep_cap`` those of an end that was cut
    and would otherwise have no path; paths through nodes with a degree above ``max_degree`` are dropped where a pair has
    others. ``joint`` adds paths through several entities of the question.
    """

    max_hops: int = 3
    policy: Policy = "minimal"
    cap: int = 500
    deep_cap: int = 20_000
    max_degree: int = 500
    top_paths: int = 5
    joint: bool = True


class Want(NamedTuple):
    """One question to search for. With ``matches`` the answer is a literal, recognised by it from its text and found at
    the ``sources`` or their neighbours; a ``boolean`` question has no answer in the graph: what joins its entities is
    found, and their own dates and numbers. Else paths lead from each source to each target.
    """

    key: str
    text: str
    sources: tuple[str, ...]
    targets: tuple[str, ...] = ()
    boolean: bool = False
    matches: Callable[[str], bool] | None = None


class Group(NamedTuple):
    """Paths of one length and the pairs they are of: (position of the want, source, target, literal target)."""

    owners: Sequence[tuple[int, str, str, bool]]
    walks: Walks


class Candidates:
    """Finds candidates in one graph; asks nothing of anybody. ``similarity`` fits relations to questions."""

    def __init__(self, graph: Graph, options: Options, similarity: Similarity) -> None:
        self.graph, self.options, self.similarity = graph, options, similarity

    def texts(self, wants: Sequence[Want]) -> list[str]:
        """What each question asks for: its text without the names of its entities."""
        return [
            blanked(want.text, map(self.graph.name, (*want.sources, *want.targets[:NAMES_BLANKED]))) for want in wants
        ]

    def of(self, wants: Sequence[Want], texts: Sequence[str]) -> Iterator[Group]:
        """The paths that are worth ranking, at most :data:`CANDIDATES` of a pair and length, by length."""
        owners = [(i, *pair, False) for i, want in enumerate(wants) for pair in pairs_of(want)]
        searched = search(self.graph, [Pair(o[1], o[2]) for o in owners], self.options.max_hops, self.options.policy)
        groups = [Group(owners, walks) for walks in searched]
        groups += self._literal_groups(wants)
        if self.options.joint:
            groups += self._joint_groups(wants)
        for group in groups:
            if len(group.walks.pair):
                yield Group(group.owners, self._best(group, texts))

    def _best(self, group: Group, texts: Sequence[str]) -> Walks:
        walks = group.walks
        parts = score_parts(self.fits(group, texts), np.zeros_like(walks.nodes), walks.steps)
        order = np.lexsort((np.arange(len(parts)), -parts.sum(axis=1).round(6), walks.pair))
        pair = walks.pair[order]
        starts = np.flatnonzero(np.diff(pair, prepend=-1))
        place = np.arange(len(pair)) - np.repeat(starts, np.diff([*starts, len(pair)]))
        kept = order[place < CANDIDATES]
        return Walks(walks.pair[kept], walks.nodes[kept], walks.steps[kept], walks.counts)

    def fits(self, group: Group, texts: Sequence[str]) -> Floats:
        """The similarity of each step's relation to its path's question, each distinct pair of the two scored once."""
        wants = np.asarray([owner[0] for owner in group.owners], dtype=np.int64)
        keys = wants[group.walks.pair][:, None] << 32 | (group.walks.steps.astype(np.int64) >> 1)
        distinct, where = np.unique(keys, return_inverse=True)
        labels = [self.graph.labels.get(f"P{key & 0xFFFFFFFF}", "") for key in distinct.tolist()]
        scores = self.similarity(labels, [texts[key >> 32] for key in distinct.tolist()])
        fits: Floats = np.asarray(scores)[where.reshape(keys.shape)]
        return fits

    def _joint_groups(self, wants: Sequence[Want]) -> list[Group]:
        """Paths to an answer through another entity of the question that are not the shortest, so not found before.

        Each is put together of one walk of 1 or 2 hops to the other entity and one from there to the answer.
        """
        if self.options.policy == "all" or self.options.max_hops < 2:
            return []
        joint = [(i, w) for i, w in enumerate(wants) if len(w.sources) > 1 and w.targets and not w.boolean]
        segments = _distinct(
            pair
            for _, want in joint
            for a, b in product(want.sources, (*want.sources, *want.targets))
            for pair in [Pair(a, b)]
            if a != b
        )
        place = {pair: i for i, pair in enumerate(segments)}
        found: dict[int, list[Walks]] = {}
        rows: dict[tuple[int, int], slice] = {}
        walks = search(self.graph, segments, min(2, self.options.max_hops - 1), "all", limit=SEGMENTS)
        for some in walks:
            found[some.hops] = [some]
            rows |= {(some.hops, pair): part for pair, part in rows_by_pair(some)}
        owners: list[tuple[int, str, str, bool]] = []
        made: dict[int, list[tuple[int, list[int], list[int]]]] = {}
        for position, want in joint:
            for source, target, via in product(want.sources, want.targets, want.sources):
                if len({source, target, via}) < 3:
                    continue
                owner = len(owners)
                owners.append((position, source, target, False))
                for first, second in ((1, 1), (1, 2), (2, 1)):
                    a, b = (first, place[Pair(source, via)]), (second, place[Pair(via, target)])
                    if first + second > self.options.max_hops or a not in rows or b not in rows:
                        continue
                    for nodes, steps in _composed(found[first][0], rows[a], found[second][0], rows[b], via):
                        if not {number(source), number(target)}.intersection(nodes):
                            made.setdefault(first + second, []).append((owner, nodes, steps))
        return [Group(owners, _as_walks(some, hops, len(owners), counted=False)) for hops, some in sorted(made.items())]

    def _literal_groups(self, wants: Sequence[Want]) -> list[Group]:
        """Paths to the literals that answer a question, of the least hops from each source; and own values (boolean)."""
        owners: list[tuple[int, str, str, bool]] = []
        made: dict[int, list[tuple[int, list[int], list[int]]]] = {1: [], 2: []}
        place: dict[tuple[int, str, str], int] = {}
        resolved: set[tuple[int, str]] = set()

        def add(position: int, source: str, nodes: list[int], steps: list[int], value: str) -> None:
            key = (position, source, value)
            if key not in place:
                place[key] = len(owners)
                owners.append((*key, True))
            made[len(steps)].append((place[key], nodes, steps))
            resolved.add((position, source))

        asked = [(i, source) for i, want in enumerate(wants) if want.matches for source in want.sources]
        own = [(i, source) for i, want in enumerate(wants) if want.boolean for source in want.sources]
        for position, source, predicate, value in self.literals([*asked, *own], wants):
            add(position, source, [], [2 * predicate + 1], value)
        if self.options.max_hops >= LITERAL_HOPS:
            left = [one for one in asked if one not in resolved]
            for position, source, node, step, predicate, value in self._literals_of_neighbours(left, wants):
                add(position, source, [node], [step, 2 * predicate + 1], value)
        return [Group(owners, _as_walks(some, hops, len(owners), counted=True)) for hops, some in made.items() if some]

    def literals(self, asked: Sequence[tuple[int, str]], wants: Sequence[Want]) -> Iterator[tuple[int, str, int, str]]:
        """(want, source, property, value) of the entities' own literals that match, or of the first ones (boolean)."""
        with closing(self.graph.cursor()) as db:
            db.register("asked", _asked(asked))
            rows = db.execute(
                "SELECT DISTINCT want, s, p, o FROM asked JOIN literals ON s = node ORDER BY want, s, p, o"
            ).fetchall()
        taken: Counter[tuple[int, int]] = Counter()
        judged: dict[tuple[int, str], bool] = {}
        for position, node, predicate, value in rows:
            matches = wants[position].matches
            if matches is None:
                taken[position, node] += 1
                if taken[position, node] <= OWN_VALUES:
                    yield position, f"Q{node}", predicate, value
                continue
            if (position, value) not in judged:
                judged[position, value] = matches(value)
            if judged[position, value]:
                yield position, f"Q{node}", predicate, value

    def _literals_of_neighbours(
        self, asked: Sequence[tuple[int, str]], wants: Sequence[Want]
    ) -> Iterator[tuple[int, str, int, int, int, str]]:
        """(want, source, neighbour, step to it, property, value) of the neighbours' literals that match."""
        with closing(self.graph.cursor()) as db:
            db.register("asked", _asked(asked))
            values = db.execute(
                "SELECT DISTINCT want, o FROM asked JOIN adjacent USING (node) JOIN literals ON s = next ORDER BY ALL"
            ).fetchall()
            hits = [(want, o) for want, o in values if (judge := wants[want].matches) is not None and judge(o)]
            db.register(
                "hits",
                pa.table(
                    {
                        "want": np.asarray([h[0] for h in hits], np.int32),
                        "o": pa.array([h[1] for h in hits], pa.string()),
                    }
                ),
            )
            rows = db.execute(
                "SELECT DISTINCT want, node, next, step, p, o FROM asked JOIN adjacent USING (node) "
                "JOIN literals ON s = next SEMI JOIN hits USING (want, o) ORDER BY ALL"
            ).fetchall()
        for position, node, following, step, predicate, value in rows:
            yield position, f"Q{node}", following, step, predicate, value


def pairs_of(want: Want) -> list[Pair]:
    """What is searched between: a question's entities and its targets, or its entities among themselves."""
    if want.boolean:
        return [Pair(a, b) for a, b in combinations(dict.fromkeys(want.sources), 2)]
    return [Pair(a, b) for a, b in product(dict.fromkeys(want.sources), dict.fromkeys(want.targets)) if a != b]


def _composed(
    first: Walks, first_rows: slice, second: Walks, second_rows: slice, via: str
) -> Iterator[tuple[list[int], list[int]]]:
    """Nodes and steps of each walk to ``via`` followed by each walk from it, where no node comes twice."""
    left = zip(first.nodes[first_rows].tolist(), first.steps[first_rows].tolist(), strict=True)
    right = list(zip(second.nodes[second_rows].tolist(), second.steps[second_rows].tolist(), strict=True))
    for (nodes, steps), (more, following) in product(left, right):
        if not set(nodes).intersection(more):
            yield [*nodes, number(via), *more], [*steps, *following]


def _as_walks(rows: list[tuple[int, list[int], list[int]]], hops: int, pairs: int, *, counted: bool) -> Walks:
    """Rows (pair, nodes, steps) as arrays; what was counted already as part of other walks is not counted again."""
    rows = sorted(rows)
    pair = np.asarray([row[0] for row in rows], dtype=np.int32)
    nodes: Integers = np.asarray([row[1] for row in rows], dtype=np.int32).reshape(len(rows), hops - 1)
    steps: Integers = np.asarray([row[2] for row in rows], dtype=np.int32).reshape(len(rows), hops)
    counts = np.bincount(pair, minlength=pairs) if counted else np.zeros(pairs)
    return Walks(pair, nodes, steps, counts.astype(np.int32))


def _asked(asked: Sequence[tuple[int, str]]) -> pa.Table:
    return pa.table(
        {
            "want": np.asarray([position for position, _ in asked], dtype=np.int32),
            "node": np.asarray([number(entity) for _, entity in asked], dtype=np.int32),
        }
    )


def _distinct(pairs: Iterable[Pair]) -> list[Pair]:
    return list(dict.fromkeys(pairs))
