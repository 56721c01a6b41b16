from __future__ import annotations

import gzip
import json
import random
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest

from bench import kg, kg_measure, kg_naive, tune_ranking
from bench.kg_exact import Distance, ExactGraph, read_facts, walk_of
from bench.kg_gold import Case, backwards, chains, read_relations, sparql_chains, walks_of
from bench.kg_questions import FACTS, Linked, distinct_pairs, linked, sample, wrong_answers
from bench.kg_ranking import Candidates, candidates
from kg.loading import load
from kg.ranking import WEIGHTS, Weights
from kg.similarity import Lexical
from store.types import InputError, Triple

ITEM, DIRECT = "http://www.wikidata.org/entity/", "http://www.wikidata.org/prop/direct/"


def made_statements(nodes: int = 24, statements: int = 40, seed: int = 3) -> list[Triple]:
    """A small multigraph with parallel statements, mutual ones and ones of an item about itself."""
    draw = random.Random(seed)
    some = [
        Triple(f"Q{draw.randint(1, nodes)}", f"P{draw.randint(1, 4)}", f"Q{draw.randint(1, nodes)}")
        for _ in range(statements)
    ]
    return sorted(
        {*some, Triple("Q1", "P1", "Q1"), Triple("Q1", "P1", "Q2"), Triple("Q1", "P2", "Q2"), Triple("Q2", "P1", "Q1")}
    )


def as_ntriples(statements: list[Triple]) -> str:
    lines = [f"<{ITEM}{s}> <{DIRECT}{p}> <{ITEM}{o}> ." for s, p, o, _ in statements]
    names = sorted({name for one in statements for name in one[:3]})
    lines += [f'<{ITEM}{one}> <http://www.w3.org/2000/01/rdf-schema#label> "name of {one}"@en .' for one in names]
    date = '"1990-01-01T00:00:00Z"^^<http://www.w3.org/2001/XMLSchema#dateTime>'
    # Two items that share a date are not joined by it.
    lines += [f"<{ITEM}Q1> <{DIRECT}P569> {date} .", f"<{ITEM}Q99> <{DIRECT}P569> {date} ."]
    return "\n".join(lines) + "\n"


def walks(statements: list[Triple], source: str, target: str, hops: int) -> set[tuple[Triple, ...]]:
    """All simple paths of a length, by trying every sequence of statements."""
    found: set[tuple[Triple, ...]] = set()

    def follow(node: str, seen: tuple[str, ...], path: tuple[Triple, ...]) -> None:
        if len(path) == hops:
            if node == target:
                found.add(path)
            return
        for one in statements:
            for here, there in {(one.subject, one.object), (one.object, one.subject)}:
                if here == node and there not in seen:
                    follow(there, (*seen, there), (*path, one))

    follow(source, (source,), ())
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("facts")
    file = folder / "made.nt"
    file.write_text(as_ntriples(made_statements()))
    return load([file], folder)


@pytest.fixture(scope="module")
def truth() -> ExactGraph:
    return ExactGraph(made_statements())


class TestExactGraph:
    def test_finds_what_trying_everything_finds(self, truth: ExactGraph) -> None:
        statements, hops_seen = made_statements(), set()
        for source, target in product(truth.names, truth.names):
            if source == target:
                continue
            by_hops = {hops: walks(statements, source, target, hops) for hops in (1, 2, 3)}
            hops = next((hops for hops, found in by_hops.items() if found), 0)
            assert truth.distance(source, target) == Distance(hops, len(by_hops.get(hops, ())))
            assert truth.connected(source, target) == bool(hops)
            hops_seen.add(hops)
            for length, found in by_hops.items():
                listed = list(truth.paths(source, target, length))
                assert len(listed) == len(set(listed))
                assert set(listed) == found
        assert hops_seen == {0, 1, 2, 3}

    def test_a_hub_is_passed_only_where_its_degree_is_allowed(self) -> None:
        star = [Triple(f"Q{leaf}", "P1", "Q100") for leaf in range(1, 6)]
        graph = ExactGraph([*star, Triple("Q1", "P2", "Q6")])
        assert graph.connected("Q1", "Q2", 5)
        assert not graph.connected("Q1", "Q2", 4)
        assert graph.connected("Q1", "Q100", 1)  # an end is no middle node
        assert graph.connected("Q6", "Q2", 5)
        assert not graph.connected("Q6", "Q2", 4)

    def test_knows_nothing_of_others(self, truth: ExactGraph) -> None:
        assert truth.distance("Q1", "Q12345") == Distance(0, 0)
        assert truth.distance("Q1", "Q1") == Distance(0, 0)
        assert list(truth.paths("Q1", "Q12345", 1)) == []
        assert truth.degree("Q12345") == truth.incoming("Q12345") == 0

    def test_reads_statements_and_labels(self, tmp_path: Path) -> None:
        file = tmp_path / "made.nt.gz"
        file.write_bytes(gzip.compress(as_ntriples(made_statements()).encode()))
        known = read_facts([file])
        assert list(known.statements) == made_statements()
        assert known.labels["Q1"] == "name of Q1"

    def test_walks_name_their_direction(self) -> None:
        path = (Triple("Q1", "P1", "Q2"), Triple("Q3", "P2", "Q2"))
        assert walk_of(path, "Q1") == ("P1", "^P2")
        assert walk_of(tuple(reversed(path)), "Q3") == backwards(("P1", "^P2")) == ("P2", "^P1")


@pytest.mark.real
class TestOnAServer:
    def pairs(self, truth: ExactGraph) -> list[tuple[str, str]]:
        return list(pairwise(truth.names))

    def test_the_naive_design_finds_the_exact_distances(self, place: Path, truth: ExactGraph) -> None:
        pairs = self.pairs(truth)
        found = kg_measure.naive(place, [*pairs, ("Q1", "Q99")])
        exact = [truth.distance(*pair) for pair in pairs]
        assert found.hops == [*(one.hops for one in exact), 0]
        assert found.cost.requests == sum(one.hops or 3 for one in exact) + 3
        assert found.cost.server_cpu > 0
        assert len({one.hops for one in exact}) == 4

    def test_the_naive_design_counts_all_paths(self, place: Path, truth: ExactGraph) -> None:
        with kg_measure.served(place) as (url, _pid):
            for pair in self.pairs(truth)[::4]:
                assert kg_naive.ask(url, *pair)[:2] == tuple(truth.distance(*pair))

    def test_our_pipeline_finds_everything_and_asks_only_once(self, place: Path, truth: ExactGraph) -> None:
        pairs = self.pairs(truth)
        questions = [Linked(f"{i}", "made", f"question {i}", (a,), (b,)) for i, (a, b) in enumerate(pairs)]
        found = kg_measure.ours(place, questions, pairs, truth, Lexical())
        assert found.hops == [truth.distance(*pair).hops for pair in pairs]
        assert found.recall == found.pair_recall == {1: 1.0, 2: 1.0, 3: 1.0}
        assert found.warm_requests == 0 < found.cost.requests == sum(found.stages.values())
        assert not found.unlabelled


class TestGold:
    QUERY = """PREFIX ns: <http://rdf.freebase.com/ns/>
SELECT DISTINCT ?x
WHERE {
FILTER (?x != ns:m.01)
ns:m.01 ns:people.person.spouse_s ?y .
?y ns:people.marriage.spouse ?x .
?x ns:common.topic.notable_types ns:m.02 .
?x ns:people.person.place_of_birth ns:m.03 .
}"""

    def test_chains_lead_from_each_constant_to_the_answer(self) -> None:
        assert sparql_chains(self.QUERY) == {
            "m.01": ("people.person.spouse_s", "people.marriage.spouse"),
            "m.03": ("^people.person.place_of_birth",),
        }

    def test_a_constant_that_leads_nowhere_has_no_chain(self) -> None:
        assert chains([("m.01", "a.b.c", "?y")], "?x") == {}

    def test_rows_are_read_both_ways_and_put_in_a_row(self, tmp_path: Path) -> None:
        file = tmp_path / "rows.tsv"
        file.write_text("# rows\nfreebase\twikidata\na.b.c/d.e.f\tP26|^P26\ng.h.i\tP19|P131/P17\n")
        relations = read_relations(file)
        assert walks_of(("a.b.c", "d.e.f"), relations) == {("P26",), ("^P26",)}
        assert walks_of(("^g.h.i",), relations) == {("^P19",), ("^P17", "^P131")}
        assert walks_of(("a.b.c", "d.e.f", "g.h.i"), relations) == {("P26", "P19"), ("^P26", "P19")}
        assert walks_of(("a.b.c", "g.h.i"), relations) == frozenset()

    @pytest.mark.parametrize("row", ["a.b.c", "a.b.c\tX19", "a.b.c\tP19\tP20", "a.b.c\tP1\na.b.c\tP2"])
    def test_a_bad_row_is_named(self, tmp_path: Path, row: str) -> None:
        file = tmp_path / "rows.tsv"
        file.write_text(f"{row}\n")
        with pytest.raises(InputError, match=r"rows.tsv line \d"):
            read_relations(file)

    def test_the_mapping_is_well_formed(self) -> None:
        relations = read_relations()
        assert walks_of(("people.person.place_of_birth",), relations) == {("P19",)}
        assert all(len(walk) <= 2 for walks in relations.values() for walk in walks)
        assert all(step.lstrip("^").count(".") >= 2 for chain in relations for step in chain)

    def test_variants_of_a_question_are_on_one_side(self) -> None:
        sides = {case("WebQTrn-7_a").held_out, case("WebQTrn-7_b").held_out, case("WebQTrn-7").held_out}
        assert len(sides) == 1
        assert {case(f"WebQTrn-{i}").held_out for i in range(20)} == {True, False}


def case(identity: str, gold: frozenset[tuple[str, ...]] = frozenset({("P1",)}), text: str = "who?") -> Case:
    return Case(identity, identity.split("_")[0], text, (), "Q1", "Q2", gold)


LABELS = {"P1": "place of birth", "P2": "spouse", "P3": "country"}


class TestRanking:
    def made(self, *cases: Case) -> Candidates:
        statements = [
            Triple("Q1", "P1", "Q2"),
            Triple("Q1", "P2", "Q2"),
            Triple("Q1", "P3", "Q3"),
            Triple("Q2", "P3", "Q3"),
        ]
        return candidates(cases, ExactGraph(statements), LABELS, [Lexical()])

    def test_all_paths_are_candidates(self) -> None:
        some = self.made(case("a"), case("b", frozenset({("P3", "^P3")})), case("c", frozenset({("P99",)})))
        assert [one.question for one in some.cases] == ["a", "b"]  # nothing joins the third as its gold says
        assert some.starts.tolist() == [0, 3]
        assert some.gold.tolist() == [True, False, False, False, False, True]
        degree = -np.log1p(2)
        np.testing.assert_allclose(some.penalties[:3], [[0, -1, 0], [0, -1, 0], [degree, -2, -1]], atol=1e-6)

    def test_ties_count_in_part(self) -> None:
        some = self.made(case("a"), case("b", frozenset({("P3", "^P3")})))
        assert some.hits(np.zeros(6)).tolist() == pytest.approx([1 / 3, 1 / 3])
        assert some.hits(some.penalties[:, 1]).tolist() == [0.5, 0.0]
        assert some.part([1]).hits(-some.part([1]).penalties[:, 1]).tolist() == [1.0]

    def test_the_question_decides(self) -> None:
        some = self.made(case("a", text="what is the birth place of"), case("b", text="who is the spouse of"))
        assert some.hits(some.scores([1.0], WEIGHTS)).tolist() == [1.0, 0.0]

    def test_tuning_prefers_what_hits_and_then_what_is_near(self) -> None:
        some = self.made(*(case(f"q{i}", frozenset({("P3", "^P3")}), "which country") for i in range(10)))
        settings = [tune_ranking.Setting(0.0, Weights(0.0, length, 0.0)) for length in (2.0, 0.15, 0.1)]
        table = tune_ranking.hits_by_setting(some, settings)
        assert table.mean(axis=1).tolist() == [0.0, 1.0, 1.0]
        assert tune_ranking.choose(table, settings) == settings[1]
        assert tune_ranking.cross_validated(table, settings, some, 3) == 1.0

    def test_the_grid_holds_the_current_setting_once(self) -> None:
        settings = tune_ranking.grid(embedded=True)
        assert settings[0] == tune_ranking.CURRENT
        assert len(settings) == len(set(settings))
        assert {one.share for one in tune_ranking.grid(embedded=False)} == {0.0}


class TestQuestions:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        records = [
            {"id": str(i), "dataset": "made", "question": "who?", "linked_question_qids": [f"Q{i}", "Q777"],
             "linked_answer_qids": [f"Q{i + 1}", f"Q{i}"]}
            for i in range(1, 12)
        ]  # fmt: skip
        (tmp_path / "linked").mkdir()
        text = "\n".join(map(json.dumps, records))
        (tmp_path / "linked" / "made.jsonl.gz").write_bytes(gzip.compress(text.encode()))
        return tmp_path

    def test_only_pairs_in_the_graph_are_taken(self, folder: Path, truth: ExactGraph) -> None:
        found = linked("made", truth, folder)
        assert {pair for one in found for pair in one.pairs} == {
            (f"Q{i}", f"Q{i + 1}") for i in range(1, 12) if f"Q{i}" in truth and f"Q{i + 1}" in truth
        }

    def test_a_sample_takes_the_sets_in_turn(self, folder: Path, truth: ExactGraph) -> None:
        one = linked("made", truth, folder)
        other = [
            question._replace(dataset="other", targets=question.sources[:1], sources=question.targets)
            for question in one
        ]
        drawn = sample([one, other], 6)
        assert drawn == sample([list(reversed(one)), other], 6)
        assert len(distinct_pairs(drawn)) == 6
        assert abs(sum(question.dataset == "made" for question in drawn) - 3) <= 1
        assert len(sample([one], 10_000)) == len(one)

    def test_a_wrong_answer_is_none_of_the_question(self, truth: ExactGraph) -> None:
        questions = [Linked("1", "made", "who?", ("Q1",), ("Q2", "Q3"))]
        wrong = wrong_answers(questions, truth, set(truth.names))
        assert 1 <= len(wrong) <= 2
        assert all(source == "Q1" and target not in {"Q1", "Q2", "Q3"} for source, target in wrong)


class TestCommand:
    def test_says_where_it_looked_for_the_data(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert kg.main(["--data", str(tmp_path), "--check"]) == 2
        assert str(tmp_path / FACTS[0]) in capsys.readouterr().err
        assert tune_ranking.main(["--data", str(tmp_path)]) == 2

    @pytest.fixture
    def figures(self) -> dict[str, float]:
        return {bar.figure: bar.bound for bar in kg.BARS}

    def test_bars_that_are_just_met_are_met(
        self, figures: dict[str, float], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert kg.report(figures, {}, quick=False) == []
        last = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert last["missed"] == []
        assert last["figures"]["requests naive/ours"] == 15

    @pytest.mark.parametrize("bar", kg.BARS, ids=lambda bar: bar.figure)
    def test_each_bar_can_be_missed(
        self, bar: kg.Bar, figures: dict[str, float], capsys: pytest.CaptureFixture[str]
    ) -> None:
        figures[bar.figure] += 0.001 if bar.most else -0.001
        assert kg.report(figures, {}, quick=False) == [bar.figure]
        assert f"missed: {bar.figure} is" in capsys.readouterr().out
        assert kg.report(figures, {}, quick=True) == ([bar.figure] if bar.quick else [])

    def test_check_decides_the_exit_status(self, figures: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
        figures["requests of a second run"] = float("nan")
        monkeypatch.setattr(kg, "run", lambda folder, quick: (figures, {}))
        assert kg.main([]) == 0
        assert kg.main(["--check"]) == 1
