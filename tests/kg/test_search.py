"""Path search against brute force on random multigraphs."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import numpy as np
import pytest
from made_graph import Walk, brute, expansion, least, whole, world

from kg import search as module
from kg.graph import Graph
from kg.search import Pair, Policy, distances, neighbours, search, triples_of
from store.types import InputError, Triple

NAMES = [f"Q{i}" for i in range(1, 10)]
PAIRS = [Pair(a, b) for a, b in product(NAMES, NAMES)]


def found(graph: Graph, pairs: list[Pair], max_hops: int = 3, policy: Policy = "minimal") -> dict[Pair, list[Walk]]:
    paths: dict[Pair, list[Walk]] = {}
    for walks in search(graph, pairs, max_hops, policy):
        for row, pair in enumerate(walks.pair.tolist()):
            paths.setdefault(pairs[pair], []).append(triples_of(walks, row, pairs[pair]))
    return paths


class TestExact:
    @pytest.mark.parametrize("seed", range(6))
    @pytest.mark.parametrize("max_hops", [1, 2, 3, 4])
    def test_all_shortest_paths_of_every_pair(self, seed: int, max_hops: int) -> None:
        triples = world(seed, edges=12 if max_hops == 4 else 16)
        paths = found(whole(triples), PAIRS, max_hops)
        for pair in PAIRS:
            got = paths.get(pair, [])
            assert len(set(got)) == len(got)
            assert set(got) == (least(triples, *pair, max_hops) if pair.source != pair.target else set())

    @pytest.mark.parametrize("seed", range(5))
    @pytest.mark.parametrize("max_hops", [3, 4])
    def test_every_length(self, seed: int, max_hops: int) -> None:
        triples = world(seed, nodes=7, edges=14)
        got = found(whole(triples), [Pair("Q1", "Q2")], max_hops, "all").get(Pair("Q1", "Q2"), [])
        assert set(got) == set().union(*(brute(triples, "Q1", "Q2", hops) for hops in range(1, max_hops + 1)))
        assert len(set(got)) == len(got)

    def test_pairs_in_several_goes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        graph = whole(world(1))
        at_once = found(graph, PAIRS)
        monkeypatch.setattr(module, "PAIRS_AT_ONCE", {1: 7, 2: 5, 3: 2, 4: 1})
        assert found(graph, PAIRS) == at_once

    def test_the_order_does_not_depend_on_the_order_of_arrival(self) -> None:
        triples = world(3, nodes=6, edges=20)
        parts = [expansion(triples, f"Q{i}", d) for i in range(1, 7) for d in ("in", "out")]  # type: ignore[arg-type]
        random.Random(1).shuffle(parts)
        pairs = [Pair(a, b) for a, b in product(NAMES[:3], NAMES[:3])]
        assert list(found(Graph(parts), pairs).items()) == list(found(whole(triples), pairs).items())

    def test_two_threads_do_not_meet(self) -> None:
        graph = whole(world(2))
        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(lambda _: found(graph, PAIRS), range(12)))
        assert all(one == results[0] for one in results)


class TestLimits:
    def test_the_limit_is_of_a_pair_and_all_are_counted(self) -> None:
        triples = [Triple("Q1", f"P{i}", "Q2") for i in range(1, 6)] + [Triple("Q3", "P1", "Q4")]
        [walks] = search(whole(triples), [Pair("Q1", "Q2"), Pair("Q3", "Q4")], 1, limit=2)
        assert walks.pair.tolist() == [0, 0, 1]
        assert walks.counts.tolist() == [5, 1]

    def test_paths_through_items_of_low_numbers_are_cut_first(self) -> None:
        """And so the same ones, whatever else is known of these items."""
        ways = [Triple(end, "P1", middle) for end in ("Q1", "Q2") for middle in ("Q10", "Q99")]
        more = [Triple(f"Q{i}", "P1", "Q99") for i in range(200, 230)]
        for triples in (ways, ways + more):
            [_, walks] = search(whole(triples), [Pair("Q1", "Q2")], 2, limit=1)
            assert walks.nodes.tolist() == [[99]]

    @pytest.mark.parametrize("hops", [0, 5])
    def test_hops_out_of_range(self, hops: int) -> None:
        with pytest.raises(InputError, match="max_hops"):
            search(Graph(), [Pair("Q1", "Q2")], hops)

    def test_no_pairs(self) -> None:
        assert [len(walks.pair) for walks in search(Graph(), [], 3)] == [0, 0, 0]


def test_distances() -> None:
    line = [Triple("Q1", "P1", "Q2"), Triple("Q3", "P1", "Q2"), Triple("Q3", "P1", "Q4")]
    pairs = [Pair("Q1", "Q2"), Pair("Q1", "Q3"), Pair("Q4", "Q1"), Pair("Q1", "Q9"), Pair("Q1", "Q1")]
    assert np.array_equal(distances(search(whole(line), pairs)), [1, 2, 3, 0, 0])


def test_literals_join_nothing_and_loops_are_no_step() -> None:
    graph = whole([Triple("Q1", "P1", "7", True), Triple("Q2", "P1", "7", True), Triple("Q1", "P1", "Q1")])
    assert found(graph, [Pair("Q1", "Q2"), Pair("Q1", "Q1")]) == {}


def test_a_walk_against_the_statement_keeps_its_direction() -> None:
    triples = (Triple("Q2", "P1", "Q1"), Triple("Q2", "P2", "Q3"))
    assert found(whole(triples), [Pair("Q1", "Q3")]) == {Pair("Q1", "Q3"): [triples]}


def test_neighbours_of_both_directions() -> None:
    graph = whole([Triple("Q1", "P1", "Q2"), Triple("Q3", "P2", "Q1"), Triple("Q1", "P3", "Q1")])
    assert neighbours(graph, ["Q1", "Q7"]) == {"Q1": {"Q2", "Q3"}, "Q7": set()}
    assert neighbours(graph, ["Q1", "Q3"], outgoing=True) == {"Q1": {"Q2"}, "Q3": {"Q1"}}
