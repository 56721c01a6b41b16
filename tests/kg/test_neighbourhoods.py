"""Neighbourhoods from a real SPARQL server, and the graph that they make."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from kg.endpoint import Endpoint, QueryTooHeavy, Term
from kg.neighbourhoods import Expansion, Graph, date_text, expand, labels, number_text
from kg.search import frontier, search
from kg.server import local_endpoint
from kg.starter import entities, facts, properties, question_records, write_ntriples
from store.types import InputError, Triple

FACTS = """
wd:Q1 wdt:P1 wd:Q2
wd:Q1 wdt:P2 wd:Q2
wd:Q2 wdt:P1 wd:Q1
wd:Q1 wdt:P1 wd:Q1
wd:Q1 wdt:P569 "1879-03-14T00:00:00Z"^^xsd:dateTime
wd:Q1 wdt:P570 "-0426-01-01T00:00:00Z"^^xsd:dateTime
wd:Q1 wdt:P571 "1953-01-01T00:00:00Z"^^xsd:dateTime
wd:Q1 wdt:P1082 "+0012.500"^^xsd:decimal
wd:Q1 wdt:P1083 "+7"^^xsd:integer
wd:Q1 wdt:P214 "12345"
wd:Q1 wdt:P1559 "Name"@en
wd:Q1 wdt:P18 <http://commons.wikimedia.org/x.jpg>
wd:Q1 wdt:P5000 wd:L5
wd:Q1 wdt:P576 <http://www.wikidata.org/.well-known/genid/abc>
wd:Q1 <http://www.wikidata.org/prop/direct-normalized/P214> wd:Q9
wd:Q1 <http://www.wikidata.org/prop/P1> wd:Q8
wd:Q3 wdt:P31 wd:Q5
wd:Q4 wdt:P31 wd:Q5
wd:Q6 wdt:P31 wd:Q5
wd:Q6 wdt:P279 wd:Q5
wd:Q7 wdt:P31 wd:Q6
wd:Q1 rdfs:label "One"@en
wd:Q1 rdfs:label "Eins"@de
wd:Q1 rdfs:label "Mul"@mul
wd:Q2 rdfs:label "Two for all"@mul
wd:Q3 rdfs:label "Drei"@de
wd:P1 rdfs:label "relation"@en
"""
NAMES = {
    "wd:": "http://www.wikidata.org/entity/",
    "wdt:": "http://www.wikidata.org/prop/direct/",
    "rdfs:": "http://www.w3.org/2000/01/rdf-schema#",
}


def _ntriples() -> str:
    lines = []
    for line in FACTS.strip().splitlines():
        cells = line.split(" ", 2)
        for prefix, name in NAMES.items():
            cells = [f"<{name}{cell.removeprefix(prefix)}>" if cell.startswith(prefix) else cell for cell in cells]
        value = cells[2]
        if "^^xsd:" in value:
            value = value.replace("^^xsd:", "^^<http://www.w3.org/2001/XMLSchema#") + ">"
        lines.append(f"{cells[0]} {cells[1]} {value} .")
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    place = tmp_path_factory.mktemp("facts")
    (place / "facts.nt").write_text(_ntriples())
    with local_endpoint([place / "facts.nt"], place) as address:
        yield address


@pytest.fixture
def endpoint(url: str) -> Endpoint:
    return Endpoint(url, snapshot="test")


def flat(batches: Iterator[list[Expansion]]) -> dict[str, Expansion]:
    found = [one for batch in batches for one in batch]
    assert len(found) == len({one.entity for one in found})
    return {one.entity: one for one in found}


@pytest.mark.real
class TestOut:
    def test_entities_dates_and_numbers_and_nothing_else(self, endpoint: Endpoint) -> None:
        [[one]] = expand(endpoint, ["Q1"], "out")
        assert one == Expansion(
            "Q1",
            "out",
            (
                Triple("Q1", "P1", "Q1"),
                Triple("Q1", "P1", "Q2"),
                Triple("Q1", "P1082", "12.5", True),
                Triple("Q1", "P1083", "7", True),
                Triple("Q1", "P2", "Q2"),
                Triple("Q1", "P569", "1879-03-14", True),
                Triple("Q1", "P570", "-0427-01-01", True),
                Triple("Q1", "P571", "1953-01-01", True),
            ),
            False,
        )

    def test_each_asked_entity_once_also_an_empty_or_unknown_one(self, endpoint: Endpoint) -> None:
        found = flat(expand(endpoint, ["Q5", "Q2", "Q5", "Q404"], "out"))
        assert list(found) == ["Q5", "Q2", "Q404"]
        assert found["Q5"].triples == found["Q404"].triples == ()
        assert endpoint.requests == 1

    def test_batches(self, endpoint: Endpoint) -> None:
        assert [len(batch) for batch in expand(endpoint, [f"Q{i}" for i in range(1, 8)], "out", batch=3)] == [3, 3, 1]
        assert endpoint.requests == 3

    def test_nothing_asked_is_no_request(self, endpoint: Endpoint) -> None:
        assert list(expand(endpoint, [], "out")) == []
        assert endpoint.requests == 0


@pytest.mark.real
class TestIn:
    def test_all_statements_about_each(self, endpoint: Endpoint) -> None:
        found = flat(expand(endpoint, ["Q5", "Q1", "Q6", "Q404"], "in"))
        assert found["Q5"].triples == (
            Triple("Q3", "P31", "Q5"),
            Triple("Q4", "P31", "Q5"),
            Triple("Q6", "P279", "Q5"),
            Triple("Q6", "P31", "Q5"),
        )
        assert found["Q1"].triples == (Triple("Q1", "P1", "Q1"), Triple("Q2", "P1", "Q1"))
        assert found["Q6"].triples == (Triple("Q7", "P31", "Q6"),)
        assert found["Q404"].triples == ()
        assert not any(one.truncated for one in found.values())
        assert endpoint.requests == 1

    @pytest.mark.parametrize(("cap", "kept", "truncated"), [(3, 3, True), (4, 4, False), (1, 1, True)])
    def test_cap_is_per_entity_and_truncation_is_known(
        self, endpoint: Endpoint, cap: int, kept: int, truncated: bool
    ) -> None:
        found = flat(expand(endpoint, ["Q5", "Q6"], "in", cap=cap))
        assert (len(found["Q5"].triples), found["Q5"].truncated) == (kept, truncated)
        assert (len(found["Q6"].triples), found["Q6"].truncated) == (1, False)


@pytest.mark.real
class TestLabels:
    def test_english_then_mul_and_only_what_is_there(self, endpoint: Endpoint) -> None:
        assert labels(endpoint, ["Q1", "Q2", "Q3", "P1", "P2", "Q1"]) == {
            "Q1": "One",
            "Q2": "Two for all",
            "P1": "relation",
        }
        assert endpoint.requests == 1

    def test_batches(self, endpoint: Endpoint) -> None:
        assert len(labels(endpoint, ["Q1", "Q2", "P1"], batch=1)) == 3
        assert endpoint.requests == 3


class Narrow(Endpoint):
    """An endpoint that refuses queries over more than so many entities."""

    most = 1

    def select(self, query: str) -> list[dict[str, Term]]:
        if len(set(re.findall(r"wd:Q\d", query))) > self.most:
            self.requests += 1
            raise QueryTooHeavy("too large")
        return super().select(query)


@pytest.mark.real
class TestHalving:
    @pytest.mark.parametrize("direction", ["out", "in"])
    def test_a_refused_batch_is_halved_down_to_one(self, url: str, direction: str) -> None:
        ids = [f"Q{i}" for i in range(1, 8)]
        whole = flat(expand(Endpoint(url, snapshot="t"), ids, direction))  # type: ignore[arg-type]
        narrow = Narrow(url, snapshot="t")
        assert flat(expand(narrow, ids, direction)) == whole  # type: ignore[arg-type]
        assert narrow.requests == 7 + 6

    def test_a_single_entity_that_is_refused_is_an_error(self, url: str) -> None:
        narrow = Narrow(url, snapshot="t")
        narrow.most = 0
        with pytest.raises(QueryTooHeavy):
            list(expand(narrow, ["Q1", "Q2"], "out"))


class TestInput:
    def test_ids_and_limits(self) -> None:
        endpoint = Endpoint("http://127.0.0.1:9/", snapshot="s")
        with pytest.raises(InputError, match="Q42"):
            list(expand(endpoint, ["Q1 . } #"], "in"))
        with pytest.raises(InputError, match="cap"):
            list(expand(endpoint, ["Q1"], "in", cap=0))
        with pytest.raises(InputError, match="Q42"):
            labels(endpoint, ['x"'])


class TestText:
    @pytest.mark.parametrize(
        ("value", "text"),
        [
            ("1879-03-14T00:00:00Z", "1879-03-14"),
            ("+1879-03-14T00:00:00Z", "1879-03-14"),
            ("0001-01-01T00:00:00Z", "0001-01-01"),
            ("0000-01-01T00:00:00Z", "-0001-01-01"),
            ("-0043-03-15T00:00:00Z", "-0044-03-15"),
            ("-13798000000-01-01T00:00:00Z", "-13798000001-01-01"),
            ("not a date", "not a date"),
        ],
    )
    def test_dates(self, value: str, text: str) -> None:
        assert date_text(value) == text

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            ("+12.500", "12.5"),
            ("-0.0", "0"),
            ("100", "100"),
            ("+1E+3", "1000"),
            ("1e-7", "0.0000001"),
            ("12345678901234567890.123456789", "12345678901234567890.123456789"),
            ("NaN", "NaN"),
            ("x", "x"),
        ],
    )
    def test_numbers(self, value: str, text: str) -> None:
        assert number_text(value) == text


class TestGraph:
    A, B, C = Triple("Q1", "P1", "Q2"), Triple("Q1", "P2", "Q2"), Triple("Q2", "P1", "Q1")
    DATE = Triple("Q1", "P569", "1879-03-14", True)

    def test_parallel_and_mutual_statements_stay_apart_and_none_is_doubled(self) -> None:
        graph = Graph([Expansion("Q1", "out", (self.A, self.B, self.DATE))])
        graph.add(one for one in [Expansion("Q1", "in", (self.C,)), Expansion("Q2", "in", (self.A, self.B))])
        assert len(graph.triples) == 4
        assert graph.incident("Q1") == (self.A, self.B, self.DATE, self.C)
        assert graph.incident("Q2") == (self.A, self.B, self.C)
        assert graph.incident("1879-03-14") == ()
        assert graph.degree("Q1") == graph.degree("Q2") == 3
        assert graph.degree("Q9") == 0

    def test_what_was_added_is_known_also_if_empty_or_cut(self) -> None:
        graph = Graph([Expansion("Q1", "out", ()), Expansion("Q2", "in", (self.A,), True)])
        assert graph.has("Q1", "out")
        assert not graph.has("Q1", "in")
        assert graph.truncated("Q2")
        assert not graph.truncated("Q1")

    def test_a_statement_about_itself_is_one(self) -> None:
        own = Triple("Q1", "P1", "Q1")
        graph = Graph([Expansion("Q1", "out", (own,)), Expansion("Q1", "in", (own,))])
        assert graph.incident("Q1") == (own,)
        assert graph.degree("Q1") == 1


@pytest.mark.real
def test_the_starter_slice_in_few_requests(tmp_path: Path) -> None:
    """All questions together: a handful of requests, and every entity answer is reached."""
    write_ntriples(tmp_path / "starter.nt")
    asked = [
        (record["question_entities"], [answer["entity"] for answer in record["answers"]])
        for record in question_records()
        if record["answer_type"] == "entity"
    ]
    graph = Graph()
    with local_endpoint([tmp_path / "starter.nt"], tmp_path) as address:
        endpoint = Endpoint(address, snapshot="starter")
        for _stage in range(3):
            wanted = [frontier(graph, sources, targets) for sources, targets in asked]
            for direction in ("out", "in"):
                missing = sorted(set().union(*(one[direction] for one in wanted)))
                for batch in expand(endpoint, missing, direction):
                    graph.add(batch)
        assert not any(frontier(graph, sources, targets)["out"] for sources, targets in asked)
        assert endpoint.requests <= 0.15 * len(asked)
        assert labels(endpoint, [*entities(), *properties()]) == {
            **{key: one.label for key, one in entities().items()},
            **{key: one.label for key, one in properties().items()},
        }
    for sources, targets in asked:
        assert search(graph, sources, targets), (sources, targets)
    known = {(fact.subject, fact.property, fact.object) for fact in facts() if fact.datatype == "item"}
    assert {triple[:3] for triple in graph.triples if not triple.literal} <= known
