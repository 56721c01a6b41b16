"""Neighbourhoods, labels and degrees from a real SPARQL server."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

import pytest

from kg.endpoint import Endpoint, QueryTooHeavy, Term
from kg.neighbourhoods import (
    SUCCESSES,
    BatchSize,
    Expansion,
    date_text,
    degrees,
    expand,
    labels,
    number_text,
    union,
)
from kg.server import local_endpoint
from kg.starter import entities, facts, properties, write_ntriples
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
        # 7 and 3 are refused, 1 is not; after 4 single ones, 2 is tried once and refused.
        assert narrow.requests == 7 + 3

    def test_later_batches_start_from_the_size_that_passed(self, url: str) -> None:
        narrow = Narrow(url, snapshot="t")
        narrow.most = 2
        ids = [f"Q{i}" for i in range(1, 10)]
        assert list(flat(expand(narrow, ids, "out", batch=4))) == ids
        assert narrow.requests == 1 + 5, "4 refused; 2, 2, 2, 2; then 1 is left"

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
        with pytest.raises(InputError, match="batch"):
            list(expand(endpoint, ["Q1"], "in", batch=0))
        with pytest.raises(InputError, match="cap"):
            degrees(endpoint, ["Q1"], cap=0)
        with pytest.raises(InputError, match="Q42"):
            degrees(endpoint, ["Q1 }"])
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


class Odd(Endpoint):
    """An endpoint that repeats rows, and adds ones about entities that nobody asked about."""

    def select(self, query: str) -> list[dict[str, Term]]:
        rows = super().select(query)
        stray = {"e": "Q77", "p": "P31", "s": "Q3", "id": "Q77", "n": "7"}
        other = {name: Term(value, "literal") for name, value in stray.items()}
        other |= {"o": Term("http://www.wikidata.org/entity/Q5", "uri"), "label": Term("stray", "literal", lang="en")}
        return [*rows, *rows, other]


@pytest.mark.real
class TestOddAnswers:
    def test_repeated_and_stray_rows_change_nothing(self, url: str) -> None:
        ids = [f"Q{i}" for i in range(1, 8)]
        odd, plain = Odd(url, snapshot="t"), Endpoint(url, snapshot="t")
        assert flat(expand(odd, ids, "out")) == flat(expand(plain, ids, "out"))
        assert flat(expand(odd, ids, "in")) == flat(expand(plain, ids, "in"))
        assert labels(odd, ids) == labels(plain, ids)
        assert degrees(odd, ids) == degrees(plain, ids)

    def test_repeats_that_use_up_the_limit_are_a_truncation(self, url: str) -> None:
        """4 statements twice against a cap of 7: nobody knows whether the 8 rows were all."""
        [[one]] = expand(Odd(url, snapshot="t"), ["Q5"], "in", cap=7)
        assert len(one.triples) == 4
        assert one.truncated


@pytest.mark.real
class TestDegrees:
    def test_statements_about_each_counted_up_to_the_cap(self, endpoint: Endpoint) -> None:
        assert degrees(endpoint, ["Q5", "Q1", "Q2", "Q404", "Q5"]) == {"Q5": 4, "Q1": 2, "Q2": 2, "Q404": 0}
        assert endpoint.requests == 1
        assert degrees(endpoint, ["Q5", "Q1"], cap=2) == {"Q5": 3, "Q1": 2}
        assert degrees(endpoint, ["Q5", "Q1", "Q2"], cap=3, batch=2) == {"Q5": 4, "Q1": 2, "Q2": 2}
        assert endpoint.requests == 4

    def test_a_refused_batch_is_halved(self, url: str) -> None:
        narrow = Narrow(url, snapshot="t")
        assert degrees(narrow, ["Q5", "Q1", "Q2"]) == {"Q5": 4, "Q1": 2, "Q2": 2}

    def test_nothing_asked_is_no_request(self, endpoint: Endpoint) -> None:
        assert degrees(endpoint, []) == {}
        assert endpoint.requests == 0


class TestBatchSize:
    def test_halved_by_a_refusal_and_doubled_by_full_answers(self) -> None:
        size = BatchSize(100)
        size.refused(100)
        size.refused(100)  # another of the same size, under way at the same time
        assert size.now == 50
        for _ in range(SUCCESSES - 1):
            size.passed(50)
        size.passed(3)  # says nothing about 50
        assert size.now == 50
        size.passed(50)
        assert size.now == 100

    def test_a_step_up_that_is_refused_is_tried_more_rarely(self) -> None:
        size = BatchSize(100)
        size.refused(100)
        for wait in (SUCCESSES, 2 * SUCCESSES, 4 * SUCCESSES):
            for _ in range(wait):
                assert size.now == 50
                size.passed(50)
            assert size.now == 100
            size.refused(100)

    def test_never_below_one(self) -> None:
        size = BatchSize(1)
        size.refused(1)
        assert size.now == 1
        with pytest.raises(InputError, match="batch"):
            BatchSize(0)


@pytest.mark.parametrize("count", range(1, 9))
def test_a_union_holds_each_branch_once_in_order_and_is_shallow(count: int) -> None:
    text = union([f"{{ {i} }}" for i in range(count)])
    assert re.findall(r"\d", text) == [str(i) for i in range(count)]
    assert text.count("UNION") == count - 1
    depths = accumulate({"{": 1, "}": -1}.get(letter, 0) for letter in text)
    assert max(depths) <= 2 + math.ceil(math.log2(count))


@pytest.mark.real
def test_the_starter_slice_whole_in_two_requests(tmp_path: Path) -> None:
    write_ntriples(tmp_path / "starter.nt")
    known = {(fact.subject, fact.property, fact.object) for fact in facts() if fact.datatype == "item"}
    with local_endpoint([tmp_path / "starter.nt"], tmp_path) as address:
        endpoint = Endpoint(address, snapshot="starter")
        out, into = flat(expand(endpoint, entities(), "out")), flat(expand(endpoint, entities(), "in", cap=1000))
        assert endpoint.requests == math.ceil(len(entities()) / 1000) + math.ceil(len(entities()) / 500)
        assert {triple[:3] for one in out.values() for triple in one.triples if not triple.literal} == known
        assert {triple[:3] for one in into.values() for triple in one.triples} == known
        assert degrees(endpoint, entities(), cap=1000) == {one: len(into[one].triples) for one in into}
        assert degrees(endpoint, entities(), cap=3) == {one: min(4, len(into[one].triples)) for one in into}
        assert labels(endpoint, [*entities(), *properties()]) == {
            **{key: one.label for key, one in entities().items()},
            **{key: one.label for key, one in properties().items()},
        }
