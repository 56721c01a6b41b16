"""Path search against brute force on random multigraphs, and the stages of what it has to fetch."""

from __future__ import annotations

import random
from itertools import pairwise, permutations, product

import pytest

from kg.neighbourhoods import Direction, Expansion, Graph
from kg.search import frontier, joint_paths, literal_paths, same_value, search
from store.types import InputError, Path, Triple


def world(seed: int, nodes: int = 9, edges: int = 16) -> list[Triple]:
    """A random multigraph with parallel and mutual relations, loops and literals."""
    draw = random.Random(seed)
    names = [f"Q{i}" for i in range(1, nodes + 1)]
    triples = {Triple(draw.choice(names), f"P{draw.randint(1, 3)}", draw.choice(names)) for _ in range(edges)}
    triples |= {Triple(draw.choice(names), "P9", str(draw.randint(1, 4)), True) for _ in range(4)}
    return sorted(triples)


def expansion(triples: list[Triple], entity: str, direction: Direction, cap: int = 10**6) -> Expansion:
    own = [t for t in triples if (t.subject == entity if direction == "out" else not t.literal and t.object == entity)]
    cut = direction == "in" and len(own) > cap
    return Expansion(entity, direction, tuple(own[:cap] if cut else own), cut)


def whole(triples: list[Triple]) -> Graph:
    names = {t.subject for t in triples} | {t.object for t in triples if not t.literal}
    return Graph(expansion(triples, one, d) for one in sorted(names) for d in ("out", "in"))  # type: ignore[arg-type]


def staged(triples: list[Triple], sources: list[str], targets: list[str], max_hops: int = 3) -> tuple[Graph, int]:
    """A graph that holds only what ``frontier`` asked for, and the number of stages that took."""
    graph = Graph()
    for stage in range(6):
        wanted = frontier(graph, sources, targets, max_hops)
        if not any(wanted.values()):
            return graph, stage
        assert not any(graph.has(one, d) for d, entities in wanted.items() for one in entities)
        graph.add(expansion(triples, one, d) for d, entities in wanted.items() for one in sorted(entities))
    raise AssertionError("the frontier never empties")


def brute(triples: list[Triple], source: str, target: str, hops: int) -> set[tuple[Triple, ...]]:
    """All simple paths of this many hops: every sequence of nodes, every choice of statements between neighbours."""
    names = sorted(({t.subject for t in triples} | {t.object for t in triples if not t.literal}) - {source, target})
    found = set()
    for middle in permutations(names, hops - 1):
        walk = (source, *middle, target)
        between = [[t for t in triples if not t.literal and {t.subject, t.object} == {a, b}] for a, b in pairwise(walk)]
        found |= set(product(*between))
    return found


def least(triples: list[Triple], source: str, target: str, max_hops: int) -> set[tuple[Triple, ...]]:
    for hops in range(1, max_hops + 1):
        if found := brute(triples, source, target, hops):
            return found
    return set()


class TestExact:
    @pytest.mark.parametrize("seed", range(25))
    @pytest.mark.parametrize("max_hops", [1, 2, 3])
    def test_all_shortest_paths_of_every_pair_in_the_whole_graph(self, seed: int, max_hops: int) -> None:
        triples = world(seed)
        graph = whole(triples)
        names = [f"Q{i}" for i in range(1, 10)]
        found = search(graph, names, names, max_hops)
        assert len(set(found)) == len(found)
        for source, target in product(names, names):
            got = {path.triples for path in found if (path.source, path.target) == (source, target)}
            assert got == (least(triples, source, target, max_hops) if source != target else set())

    @pytest.mark.parametrize("seed", range(60))
    def test_what_the_frontier_asks_for_is_enough(self, seed: int) -> None:
        draw = random.Random(seed)
        triples = world(seed, nodes=12, edges=14)
        sources, targets = [f"Q{draw.randint(1, 12)}" for _ in range(2)], [f"Q{draw.randint(1, 12)}" for _ in range(2)]
        graph, stages = staged(triples, sources, targets)
        assert stages <= 2
        assert search(graph, sources, targets) == search(whole(triples), sources, targets)

    @pytest.mark.parametrize("seed", range(10))
    def test_every_length(self, seed: int) -> None:
        triples = world(seed)
        found = {path.triples for path in search(whole(triples), ["Q1"], ["Q2"], policy="all")}
        assert found == set().union(*(brute(triples, "Q1", "Q2", hops) for hops in (1, 2, 3)))

    def test_the_order_does_not_depend_on_the_order_of_arrival(self) -> None:
        triples = world(3, nodes=6, edges=20)
        names = ["Q1", "Q2", "Q3"]
        first = search(whole(triples), names, names)
        parts = [expansion(triples, f"Q{i}", d) for i in range(1, 7) for d in ("in", "out")]  # type: ignore[arg-type]
        random.Random(1).shuffle(parts)
        assert search(Graph(parts), names, names) == first

    def test_limit_is_per_pair_and_keeps_the_first(self) -> None:
        triples = [Triple("Q1", f"P{i}", "Q2") for i in range(1, 6)]
        every = search(whole(triples), ["Q1"], ["Q2"])
        assert len(every) == 5
        assert search(whole(triples), ["Q1"], ["Q2"], limit=2) == every[:2]

    def test_literals_join_nothing(self) -> None:
        graph = whole([Triple("Q1", "P1", "7", True), Triple("Q2", "P1", "7", True)])
        assert search(graph, ["Q1"], ["Q2"]) == []

    def test_a_walk_against_the_statement_keeps_its_direction(self) -> None:
        triples = [Triple("Q2", "P1", "Q1"), Triple("Q2", "P2", "Q3")]
        [path] = search(whole(triples), ["Q1"], ["Q3"])
        assert path == Path(source="Q1", target="Q3", triples=tuple(triples))

    @pytest.mark.parametrize("hops", [0, 4])
    def test_hops_out_of_range(self, hops: int) -> None:
        with pytest.raises(InputError, match="max_hops"):
            search(Graph(), ["Q1"], ["Q2"], hops)
        with pytest.raises(InputError, match="max_hops"):
            frontier(Graph(), ["Q1"], ["Q2"], hops)


class TestFrontier:
    LINE = [Triple("Q1", "P1", "Q2"), Triple("Q3", "P1", "Q2"), Triple("Q3", "P1", "Q4")]  # noqa: RUF012

    def test_first_the_ends_in_both_directions(self) -> None:
        assert frontier(Graph(), ["Q1"], ["Q4"]) == {"out": {"Q1", "Q4"}, "in": {"Q1", "Q4"}}
        assert frontier(Graph(), ["Q1"], ["Q4"], max_hops=1) == {"out": {"Q1", "Q4"}, "in": set()}

    def test_then_the_frontiers_of_unresolved_pairs_only(self) -> None:
        ends = Graph(expansion(self.LINE, one, d) for one in ("Q1", "Q3", "Q4") for d in ("out", "in"))  # type: ignore[arg-type]
        assert frontier(ends, ["Q1"], ["Q4"]) == {"out": {"Q2"}, "in": set()}
        assert frontier(ends, ["Q1"], ["Q4"], max_hops=2) == {"out": set(), "in": set()}
        assert frontier(ends, ["Q1"], ["Q3"]) == {"out": set(), "in": set()}

    def test_hubs_are_not_expanded_through(self) -> None:
        hub = [Triple("Q1", "P1", "Q2"), Triple("Q1", "P2", "Q2"), Triple("Q1", "P1", "Q5"), Triple("Q4", "P1", "Q6")]
        ends = Graph(expansion(hub, one, d) for one in ("Q1", "Q4") for d in ("out", "in"))  # type: ignore[arg-type]
        assert frontier(ends, ["Q1"], ["Q4"])["out"] == {"Q2", "Q5", "Q6"}
        assert frontier(ends, ["Q1"], ["Q4"], max_degree=1)["out"] == {"Q5", "Q6"}

    @pytest.mark.parametrize("targets", [[], ["Q1"]])
    def test_a_literal_answer_wants_the_neighbours(self, targets: list[str]) -> None:
        ends = Graph(expansion(self.LINE, "Q1", d) for d in ("out", "in"))  # type: ignore[arg-type]
        assert frontier(ends, ["Q1"], targets) == {"out": {"Q2"}, "in": set()}


class TestLiterals:
    TRIPLES = [  # noqa: RUF012
        Triple("Q1", "P50", "Q2"),
        Triple("Q1", "P577", "1949-06-08", True),
        Triple("Q2", "P569", "1903-06-25", True),
        Triple("Q2", "P571", "1903-06-25", True),
        Triple("Q3", "P61", "Q1"),
        Triple("Q3", "P1086", "84", True),
    ]

    def test_fewest_hops_to_an_equal_value(self) -> None:
        graph, stages = staged(self.TRIPLES, ["Q1"], [])
        assert stages == 2
        assert literal_paths(graph, ["Q1"], ["8 June 1949", "1949"]) == [
            Path(source="Q1", target="1949-06-08", triples=(self.TRIPLES[1],))
        ]
        assert [path.triples for path in literal_paths(graph, ["Q1"], ["1903-06-25"])] == [
            (self.TRIPLES[0], self.TRIPLES[2]),
            (self.TRIPLES[0], self.TRIPLES[3]),
        ]
        assert [path.triples for path in literal_paths(graph, ["Q1"], ["84.0"])] == [(self.TRIPLES[4], self.TRIPLES[5])]
        assert literal_paths(graph, ["Q1"], ["1903-06-25"], max_hops=1) == []
        assert literal_paths(graph, ["Q1"], ["2000"]) == []

    def test_the_callers_matcher(self) -> None:
        asked: list[tuple[str, str]] = []

        def matches(literal: str, value: str) -> bool:
            asked.append((literal, value))
            return literal == "84"

        [path] = literal_paths(whole(self.TRIPLES), ["Q1"], ["eighty-four"], matches=matches)
        assert path.target == "84"
        assert len(asked) == len(set(asked))

    @pytest.mark.parametrize("seed", range(20))
    def test_brute_force(self, seed: int) -> None:
        triples = world(seed)
        found = literal_paths(whole(triples), ["Q1"], ["2"], max_hops=3)
        ends = [t for t in triples if t.literal and t.object == "2"]
        expected = [{(end,) for end in ends if end.subject == "Q1"}]
        far = [end for end in ends if end.subject != "Q1"]
        expected += [
            {(*walk, end) for end in far for walk in brute(triples, "Q1", end.subject, hops)} for hops in (1, 2)
        ]
        assert {path.triples for path in found} == next(filter(None, expected), set())

    @pytest.mark.parametrize(
        ("literal", "value", "same"),
        [
            ("1879-03-14", "1879", True),
            ("1879-03-14", "1879-03", True),
            ("1879-03-14", "1879-03-14", True),
            ("1879-03-14", "1879-03-15", False),
            ("1879-03-14", "187", False),
            ("1879-03-14", "14 March 1879", False),
            ("-0427-01-01", "-0427", True),
            ("-0427-01-01", "0427", False),
            ("12.5", "12.50", True),
            ("1234567", "1,234,567", True),
            ("84", "85", False),
            ("84", "many", False),
        ],
    )
    def test_same_value(self, literal: str, value: str, same: bool) -> None:
        assert same_value(literal, value) is same


class TestJoint:
    def test_between_the_entities_and_their_own_values(self) -> None:
        triples = [
            Triple("Q1", "P36", "Q2"),
            Triple("Q2", "P1376", "Q1"),
            Triple("Q1", "P571", "1871-01-18", True),
            Triple("Q2", "P571", "1237-01-01", True),
        ]
        graph, _stages = staged(triples, ["Q1", "Q2"], ["Q1", "Q2"])
        found = joint_paths(graph, ["Q1", "Q2"])
        assert [(path.source, path.target) for path in found] == [
            ("Q1", "Q2"),
            ("Q1", "Q2"),
            ("Q1", "1871-01-18"),
            ("Q2", "1237-01-01"),
        ]

    def test_values_are_limited_for_each(self) -> None:
        triples = [Triple(q, "P1082", str(n), True) for q in ("Q1", "Q2") for n in range(30)]
        assert len(joint_paths(whole(triples), ["Q1", "Q2"], literal_limit=5)) == 10
