"""Retrieval in stages: what it asks for is enough, and is asked for once."""

from __future__ import annotations

import random

import pytest
from made_graph import MadeSource, Walk, brute, in_degree, least, whole, world

from kg.candidates import Options
from kg.graph import Graph
from kg.ranking import middle_nodes
from kg.retrieval import Found, Retriever, Want
from kg.similarity import Lexical
from store.types import Detail, InputError, Triple

EVERYTHING = Options(top_paths=10_000, joint=False)


def gathered(triples: list[Triple], wants: list[Want], options: Options) -> tuple[list[Found], MadeSource]:
    """What is found after fetching only what was asked for."""
    graph = Graph()
    source = MadeSource(triples, graph)
    retriever = Retriever(graph, options, Lexical())
    retriever.gather(wants, source)
    return retriever.find(wants), source


def walks(found: Found) -> dict[tuple[str, str], set[Walk]]:
    pairs: dict[tuple[str, str], set[Walk]] = {}
    for path in (*found.kept, *found.dropped):
        pairs.setdefault((path.source, path.target), set()).add(path.triples)
    return pairs


@pytest.fixture(autouse=True)
def _many_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kg.candidates.CANDIDATES", 10_000)


class TestExact:
    @pytest.mark.parametrize("seed", range(8))
    @pytest.mark.parametrize("max_hops", [1, 2, 3, 4])
    def test_what_is_asked_for_is_enough(self, seed: int, max_hops: int) -> None:
        draw = random.Random(seed)
        triples = world(seed, nodes=12, edges=14)
        names = [f"Q{draw.randint(1, 12)}" for _ in range(4)]
        want = Want("k", "what?", tuple(names[:2]), tuple(names[2:]))
        [found], _ = gathered(triples, [want], EVERYTHING.model_copy(update={"max_hops": max_hops}))
        for source in want.sources:
            for target in want.targets:
                expected = least(triples, source, target, max_hops) if source != target else set()
                assert walks(found).get((source, target), set()) == expected

    @pytest.mark.parametrize("seed", range(8))
    @pytest.mark.parametrize("max_hops", [2, 3])
    def test_a_hub_that_is_cut_loses_no_distance(self, seed: int, max_hops: int) -> None:
        """Most in-edges of the source are beyond the cap, so that its frontier is hidden."""
        draw = random.Random(seed)
        crowd = [Triple(f"Q{i}", "P1", "Q1") for i in range(100, 130)]
        linked = [Triple(f"Q{draw.randint(100, 129)}", "P2", f"Q{draw.randint(2, 6)}") for _ in range(3)]
        linked += [Triple(f"Q{draw.randint(2, 6)}", "P3", f"Q{draw.randint(100, 129)}") for _ in range(2)]
        tail = [Triple("Q2", "P4", "Q9"), Triple("Q9", "P4", "Q3")]
        triples = sorted({*crowd, *linked, *tail})
        draw.shuffle(triples)
        options = Options(max_hops=max_hops, cap=3, max_degree=3, deep_cap=1000, joint=False, top_paths=10_000)
        want = Want("k", "what?", ("Q1",), ("Q9", "Q3", "Q4"))
        [found], source = gathered(triples, [want], options)
        for pair in found.pairs:
            hops = [h for h in range(1, max_hops + 1) if brute(triples, pair.source, pair.target, h)]
            assert pair.hops == (hops[0] if hops else None)
        if any(not brute(triples, "Q1", target, h) for target in want.targets for h in (1, 2)):
            assert ("Q1", "in", 1000) in source.asked

    def test_nor_does_a_second_hub_on_the_other_side(self) -> None:
        crowds = [Triple(f"Q{i}", "P1", hub) for hub, n in (("Q1", 100), ("Q20", 200)) for i in range(n, n + 30)]
        way = [Triple("Q999", "P1", "Q1"), Triple("Q999", "P2", "Q20"), Triple("Q2", "P3", "Q20")]
        options = Options(cap=3, max_degree=3, deep_cap=1000)
        [found], source = gathered([*crowds, *way], [Want("k", "what?", ("Q1",), ("Q2",))], options)
        assert [(pair.hops, pair.paths) for pair in found.pairs] == [(3, 1)]
        assert ("Q20", "in", 1000) in source.asked

    def test_a_cut_at_a_smaller_cap_is_none_at_this_one(self) -> None:
        triples = [Triple(f"Q{i}", "P1", "Q1") for i in range(10, 16)] + [Triple("Q2", "P1", "Q3")]
        graph = Graph()
        source = MadeSource(triples, graph)
        source.expansions({"in": ["Q1"]}, 3)
        want = [Want("k", "what?", ("Q1",), ("Q2",))]
        Retriever(graph, Options(cap=10, max_degree=10), Lexical()).gather(want, source)
        alone = gathered(triples, want, Options(cap=10, max_degree=10))[1]
        assert source.asked[1:] == alone.asked

    def test_nothing_is_asked_for_twice_and_a_second_run_asks_nothing(self) -> None:
        triples = world(5, nodes=12, edges=20)
        wants = [Want(f"k{i}", "what is it?", (f"Q{i}",), (f"Q{i % 5 + 6}",)) for i in range(1, 7)]
        graph = Graph()
        source = MadeSource(triples, graph)
        retriever = Retriever(graph, EVERYTHING, Lexical())
        retriever.gather(wants, source)
        assert len(source.asked) == len(set(source.asked))
        before, first = len(source.asked), retriever.find(wants)
        retriever.gather(wants, source)
        assert len(source.asked) == before
        assert retriever.find(wants) == first

    def test_a_question_alone_finds_what_it_finds_in_a_crowd(self) -> None:
        triples = world(8, nodes=12, edges=20)
        wants = [Want(f"k{i}", "who is it?", (f"Q{i}",), (f"Q{i + 6}",)) for i in range(1, 7)]
        together, _ = gathered(triples, wants, EVERYTHING)
        assert [gathered(triples, [want], EVERYTHING)[0][0] for want in wants] == together


class TestKinds:
    BOOK = [  # noqa: RUF012
        Triple("Q1", "P50", "Q2"),
        Triple("Q1", "P577", "1949-06-08", True),
        Triple("Q2", "P569", "1903-06-25", True),
        Triple("Q2", "P571", "1903-06-25", True),
        Triple("Q3", "P61", "Q1"),
        Triple("Q3", "P1086", "84", True),
    ]

    def test_a_literal_at_the_entity_is_enough(self) -> None:
        want = Want("k", "when?", ("Q1",), matches=lambda value: value.startswith("19"))
        [found], source = gathered(self.BOOK, [want], EVERYTHING)
        assert walks(found) == {("Q1", "1949-06-08"): {(self.BOOK[1],)}}
        assert ("Q2", "out", 500) not in source.asked
        assert {path.kind for path in found.kept} == {"literal"}

    def test_else_those_of_the_neighbours(self) -> None:
        want = Want("k", "when?", ("Q1",), matches=lambda value: value == "1903-06-25")
        [found], _ = gathered(self.BOOK, [want], EVERYTHING)
        expected = {(self.BOOK[0], self.BOOK[2]), (self.BOOK[0], self.BOOK[3])}
        assert walks(found) == {("Q1", "1903-06-25"): expected}
        assert [(pair.hops, pair.paths) for pair in found.pairs] == [(2, 2)]

    def test_a_literal_that_is_not_there(self) -> None:
        [found], _ = gathered(self.BOOK, [Want("k", "when?", ("Q1",), matches=lambda _: False)], EVERYTHING)
        assert found.kept == ()
        assert [(pair.source, pair.target, pair.hops) for pair in found.pairs] == [("Q1", "", None)]

    def test_a_yes_or_no_question_has_what_joins_its_entities_and_their_values(self) -> None:
        [found], _ = gathered(self.BOOK, [Want("k", "is it older?", ("Q1", "Q3"), boolean=True)], EVERYTHING)
        ends = {(path.source, path.target, path.kind) for path in found.kept}
        assert ends == {("Q1", "Q3", "between"), ("Q1", "1949-06-08", "literal"), ("Q3", "84", "literal")}

    def test_a_yes_or_no_question_keeps_what_joins_its_entities_first(self) -> None:
        own = [Triple(q, "P9", f"19{n}-01-01", True) for q in ("Q1", "Q2") for n in range(10, 40)]
        joining = [Triple("Q1", "P1", "Q3"), Triple("Q2", "P1", "Q3")]
        want = Want("k", "is it older?", ("Q1", "Q2"), boolean=True)
        [found], _ = gathered([*own, *joining], [want], Options(top_paths=5))
        assert [path.kind for path in found.kept] == ["between", *["literal"] * 4]
        assert [(pair.source, pair.target, pair.hops) for pair in found.pairs] == [("Q1", "Q2", 2)]
        [apart], _ = gathered(own, [want], Options(top_paths=5))
        assert [pair.hops for pair in apart.pairs] == [None]
        assert apart.hops is None

    def test_joint_paths_use_several_entities_beyond_the_shortest(self) -> None:
        triples = [Triple("Q1", "P1", "Q9"), Triple("Q1", "P2", "Q2"), Triple("Q2", "P3", "Q9")]
        want = Want("k", "what?", ("Q1", "Q2"), ("Q9",))
        options = EVERYTHING.model_copy(update={"joint": True})
        [found], _ = gathered(triples, [want], options)
        kinds = {path.triples: path.kind for path in found.kept}
        assert kinds == {
            (triples[0],): "pair",
            (triples[2],): "pair",
            (triples[1], triples[2]): "joint",
            (triples[1], triples[0]): "joint",
        }
        assert [(pair.hops, pair.paths) for pair in found.pairs] == [(1, 1), (1, 1)]

    @pytest.mark.parametrize("seed", range(8))
    def test_joint_paths_are_simple_and_pass_another_entity(self, seed: int) -> None:
        triples = world(seed, nodes=8, edges=18)
        want = Want("k", "what?", ("Q1", "Q2", "Q3"), ("Q4", "Q5"))
        [found], _ = gathered(triples, [want], EVERYTHING.model_copy(update={"joint": True}))
        short = {a: least(triples, *a, 3) for a in ((s, t) for s in want.sources for t in want.targets)}
        expected = {
            walk
            for (source, target), fewest in short.items()
            for hops in (2, 3)
            for walk in brute(triples, source, target, hops) - fewest
            if {n for t in walk for n in (t.subject, t.object)} & (set(want.sources) - {source})
        }
        extra = {path.triples for path in found.kept} - set().union(*short.values())
        assert extra == expected
        assert all(p.kind == "joint" for p in found.kept if set(middle_nodes(p)) & set(want.sources))


def test_what_full_statements_name_has_labels_too() -> None:
    held = Triple("Q1", "P39", "Q2")
    said = {held: (Detail((("P580", "1885-03-04", True), ("P1365", "Q3", False)), unit="Q11573"),)}
    graph = Graph()
    source = MadeSource([held], graph, said)
    Retriever(graph, EVERYTHING, Lexical()).gather([Want("k", "what?", ("Q1",), ("Q2",))], source)
    assert {"P580", "P1365", "Q3", "Q11573"} <= graph.labels.keys()


class TestRanking:
    def test_parts_add_up_and_the_fitting_relation_is_first(self) -> None:
        triples = [Triple("Q1", f"P{i}", "Q2") for i in range(1, 4)]
        graph = whole(triples)
        graph.learn(labels={"P1": "place of death", "P2": "place of birth", "P3": "employer", "Q1": "Ann"})
        [found] = Retriever(graph, Options(top_paths=1), Lexical()).find(
            [Want("k", "Where was Ann born?", ("Q1",), ("Q2",))]
        )
        assert [path.triples[0].predicate for path in found.kept] == ["P2"]
        assert len(found.dropped) == 2
        for path in (*found.kept, *found.dropped):
            assert path.parts is not None
            assert path.score == pytest.approx(sum(path.parts))
        assert found.paths == 3

    def test_hubs_lose_against_other_ways_and_stay_as_the_last(self) -> None:
        ways = [Triple("Q1", "P1", "Q7"), Triple("Q2", "P1", "Q7"), Triple("Q1", "P1", "Q8"), Triple("Q2", "P1", "Q8")]
        crowd = [Triple(f"Q{i}", "P1", "Q7") for i in range(20, 30)] + [Triple("Q3", "P1", "Q7")]
        triples = sorted(ways + crowd)
        assert in_degree(triples, "Q7") > 5
        options = Options(cap=5, max_degree=5, top_paths=10)
        [found], _ = gathered(triples, [Want("k", "what?", ("Q1",), ("Q2", "Q3"))], options)
        assert {(p.target, *middle_nodes(p)) for p in found.kept} == {("Q2", "Q8"), ("Q3", "Q7")}
        assert [(p.target, p.hops, p.specific_hops) for p in found.pairs] == [("Q2", 2, 2), ("Q3", 2, None)]

    def test_degrees_above_the_cap_cannot_be_told(self) -> None:
        with pytest.raises(InputError, match="max_degree 600 is above cap 500"):
            Retriever(Graph(), Options(max_degree=600), Lexical())
