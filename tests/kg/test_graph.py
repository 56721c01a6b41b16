"""The graph in memory: what it knows, and what it does not double."""

from __future__ import annotations

from kg.graph import Graph
from kg.neighbourhoods import Expansion
from store.types import Detail, Triple

BORN = Triple("Q1", "P569", "1879-03-14", True)
WORKS = [Triple("Q1", "P1", "Q2"), Triple("Q1", "P2", "Q2"), Triple("Q2", "P1", "Q1")]


def test_parallel_and_mutual_statements_stay_apart_and_none_is_doubled() -> None:
    out = Expansion("Q1", "out", (WORKS[0], WORKS[1], BORN))
    into = Expansion("Q2", "in", (WORKS[0], WORKS[1]))
    graph = Graph([out, into, out])
    graph.add([Expansion("Q2", "out", (WORKS[2],))], cap=500)
    assert graph.size() == (3, 1)
    assert graph.properties() == ["P1", "P2", "P569"]


def test_what_was_added_is_known_also_if_empty_or_cut() -> None:
    graph = Graph([Expansion("Q1", "out", ()), Expansion("Q2", "in", (WORKS[0],), truncated=True)], cap=1)
    assert graph.known("out", ["Q1", "Q2"], 1) == {"Q1"}
    assert graph.known("in", ["Q1", "Q2"], 1) == {"Q2"}
    assert graph.known("in", ["Q2"], 2) == set()
    assert graph.cut(["Q1", "Q2"], 1) == {"Q2"}
    assert graph.cut(["Q2"], 2) == set(), "with a larger cap it may be whole"


def test_a_larger_cap_completes_a_cut_neighbourhood() -> None:
    graph = Graph([Expansion("Q2", "in", (WORKS[0],), truncated=True)], cap=1)
    graph.add([Expansion("Q2", "in", (WORKS[0], WORKS[1]))], cap=10)
    assert graph.known("in", ["Q2"], 10_000) == {"Q2"}
    assert graph.cut(["Q2"], 1) == {"Q2"}


def test_what_is_learnt() -> None:
    graph = Graph()
    graph.learn(labels={"Q1": "Albert Einstein"}, named=["Q1", "Q9"], degrees={"Q1": 7})
    graph.learn(details={BORN: [Detail(precision=11)]}, detailed=[WORKS[0]])
    assert graph.name("Q1") == "Albert Einstein"
    assert graph.name("Q9") == "Q9"
    assert graph.named == {"Q1", "Q9"}
    assert graph.detailed == {BORN, WORKS[0]}
    assert graph.details == {BORN: (Detail(precision=11),)}
