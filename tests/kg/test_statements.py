"""Full statements from a real SPARQL server over hand-written nodes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kg.endpoint import Endpoint, QueryTooHeavy, Term
from kg.neighbourhoods import expand
from kg.server import local_endpoint
from kg.statements import QUALIFIERS, details, moment_text
from store.types import Detail, InputError, Triple

# Q1 a president (two terms, another office at a lower rank), born on a day, died in a year; Q2 a city; Q3 a prize winner.
FACTS = """
wd:Q1 wdt:P39 wd:Q10
wd:Q1 p:P39 wds:second
wds:second ps:P39 wd:Q10
wds:second rdf:type wikibase:BestRank
wds:second wikibase:rank wikibase:PreferredRank
wds:second pq:P580 date:1893-03-04
wds:second pqv:P580 wdv:d1893
wdv:d1893 wikibase:timeValue date:1893-03-04
wdv:d1893 wikibase:timePrecision int:11
wds:second pq:P582 date:1897-01-01
wds:second pqv:P582 wdv:d1897
wdv:d1897 wikibase:timeValue date:1897-01-01
wdv:d1897 wikibase:timePrecision int:9
wds:second pq:P1545 "24"
wds:second pq:P1365 wd:Q11
wds:second pq:P1366 <http://www.wikidata.org/.well-known/genid/0a>
wds:second pq:P642 _:somebody
wds:second pq:P1534 wd:Q12
wds:second pq:P2868 "not an item"
wds:second prov:wasDerivedFrom wdref:r1
wd:Q1 p:P39 wds:first
wds:first ps:P39 wd:Q10
wds:first rdf:type wikibase:BestRank
wds:first wikibase:rank wikibase:PreferredRank
wds:first pq:P580 date:1885-03-01
wds:first pqv:P580 wdv:m1885
wdv:m1885 wikibase:timeValue date:1885-03-01
wdv:m1885 wikibase:timePrecision int:10
wds:first pq:P582 <http://www.wikidata.org/.well-known/genid/0b>
wds:first pq:P1545 "22"
wd:Q1 p:P39 wds:lower
wds:lower ps:P39 wd:Q10
wds:lower wikibase:rank wikibase:NormalRank
wds:lower pq:P580 date:1700-01-01
wd:Q1 p:P39 wds:unknown
wds:unknown ps:P39 _:office
wds:unknown rdf:type wikibase:BestRank
wds:unknown pq:P580 date:1600-01-01
wd:Q1 wdt:P569 date:1837-03-18
wd:Q1 p:P569 wds:born
wds:born ps:P569 date:1837-03-18
wds:born psv:P569 wdv:born
wds:born rdf:type wikibase:BestRank
wds:born wikibase:rank wikibase:NormalRank
wdv:born wikibase:timeValue date:1837-03-18
wdv:born wikibase:timePrecision int:11
wd:Q1 p:P569 wds:wrong
wds:wrong ps:P569 date:1838-01-01
wds:wrong psv:P569 wdv:wrong
wds:wrong wikibase:rank wikibase:DeprecatedRank
wdv:wrong wikibase:timeValue date:1838-01-01
wdv:wrong wikibase:timePrecision int:9
wd:Q1 wdt:P570 date:-0426-01-01
wd:Q1 p:P570 wds:died
wds:died ps:P570 date:-0426-01-01
wds:died psv:P570 wdv:died
wds:died rdf:type wikibase:BestRank
wdv:died wikibase:timeValue date:-0426-01-01
wdv:died wikibase:timePrecision int:9
wd:Q1 wdt:P2048 dec:+1.800
wd:Q1 p:P2048 wds:height
wds:height ps:P2048 dec:+1.800
wds:height psv:P2048 wdv:height
wds:height rdf:type wikibase:BestRank
wdv:height wikibase:quantityAmount dec:+1.800
wdv:height wikibase:quantityUnit wd:Q11573
wd:Q2 wdt:P1082 dec:+500
wd:Q2 p:P1082 wds:people2000
wds:people2000 ps:P1082 dec:+500
wds:people2000 psv:P1082 wdv:people
wds:people2000 wikibase:rank wikibase:NormalRank
wds:people2000 pq:P585 date:2000-01-01
wdv:people wikibase:quantityAmount dec:+500
wdv:people wikibase:quantityUnit wd:Q199
wd:Q2 p:P1082 wds:people1990
wds:people1990 ps:P1082 dec:+500
wds:people1990 wikibase:rank wikibase:NormalRank
wds:people1990 pq:P585 date:-0099-01-01
wd:Q2 p:P1082 wds:people1980
wds:people1980 ps:P1082 dec:+400
wds:people1980 wikibase:rank wikibase:NormalRank
wds:people1980 pq:P585 date:1980-01-01
wd:Q2 p:P1082 wds:lie
wds:lie ps:P1082 dec:+500
wds:lie wikibase:rank wikibase:DeprecatedRank
wds:lie pq:P585 date:1970-01-01
wd:Q2 p:P6 wds:mayorNow
wds:mayorNow ps:P6 wd:Q1
wds:mayorNow wikibase:rank wikibase:PreferredRank
wds:mayorNow pq:P580 date:2020-01-01
wd:Q2 p:P6 wds:mayorBefore
wds:mayorBefore ps:P6 wd:Q1
wds:mayorBefore wikibase:rank wikibase:NormalRank
wds:mayorBefore pq:P580 date:2010-01-01
wd:Q2 p:P31 wds:bare
wds:bare ps:P31 wd:Q515
wd:Q2 p:P17 wds:deprecated
wds:deprecated ps:P17 wd:Q30
wds:deprecated wikibase:rank wikibase:DeprecatedRank
wd:Q2 wdt:P131 wd:Q99
wd:Q3 wdt:P166 wd:Q20
wd:Q3 p:P166 wds:prize2
wds:prize2 ps:P166 wd:Q20
wds:prize2 pq:P1686 wd:Q22
wds:prize2 pq:P585 date:1950-06-01
wd:Q3 p:P166 wds:prize1
wds:prize1 ps:P166 wd:Q20
wds:prize1 pq:P1686 wd:Q21
wds:prize1 pq:P585 date:1950-02-01
wd:Q3 p:P166 wds:prize3
wds:prize3 ps:P166 wd:Q20
wds:prize3 pq:P1686 wd:Q23
wd:Q3 p:P166 wds:prize4
wds:prize4 ps:P166 wd:Q20
wds:prize4 pq:P1686 wd:Q23
"""
_WD, _XSD = "http://www.wikidata.org/", "http://www.w3.org/2001/XMLSchema#"
NAMES = {
    "wd": f"{_WD}entity/",
    "wds": f"{_WD}entity/statement/",
    "wdv": f"{_WD}value/",
    "wdref": f"{_WD}reference/",
    "wdt": f"{_WD}prop/direct/",
    "p": f"{_WD}prop/",
    "ps": f"{_WD}prop/statement/",
    "psv": f"{_WD}prop/statement/value/",
    "pq": f"{_WD}prop/qualifier/",
    "pqv": f"{_WD}prop/qualifier/value/",
    "prov": "http://www.w3.org/ns/prov#",
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "wikibase": "http://wikiba.se/ontology#",
}


def _cell(text: str) -> str:
    if text[0] in '<"_':
        return text
    prefix, _, name = text.partition(":")
    if prefix == "date":
        return f'"{name}T00:00:00Z"^^<{_XSD}dateTime>'
    if prefix in ("int", "dec"):
        return f'"{name}"^^<{_XSD}{"integer" if prefix == "int" else "decimal"}>'
    return f"<{NAMES[prefix]}{name}>"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    place = tmp_path_factory.mktemp("statements")
    lines = [" ".join(map(_cell, line.split(" ", 2))) + " .\n" for line in FACTS.strip().splitlines()]
    (place / "facts.nt").write_text("".join(lines))
    with local_endpoint([place / "facts.nt"], place) as address:
        yield address


@pytest.fixture
def endpoint(url: str) -> Endpoint:
    return Endpoint(url, snapshot="test")


OFFICE = Triple("Q1", "P39", "Q10")
BORN, DIED = Triple("Q1", "P569", "1837-03-18", True), Triple("Q1", "P570", "-0427-01-01", True)
HEIGHT = Triple("Q1", "P2048", "1.8", True)
PEOPLE = Triple("Q2", "P1082", "500", True)
MAYOR = Triple("Q2", "P6", "Q1")
BARE = Triple("Q2", "P31", "Q515")
PRIZE = Triple("Q3", "P166", "Q20")
ALL = (OFFICE, BORN, DIED, HEIGHT, PEOPLE, MAYOR, BARE, PRIZE)


@pytest.mark.real
class TestDetails:
    def test_two_terms_of_an_office_by_their_dates_each_cut_to_its_precision(self, endpoint: Endpoint) -> None:
        """Left out: the term of a lower rank, an unknown office, unknown qualifiers, other properties and types."""
        first = Detail((("P580", "1885-03", True), ("P1545", "22", True)))
        second = Detail(
            (
                ("P580", "1893-03-04", True),
                ("P582", "1897", True),
                ("P1545", "24", True),
                ("P1365", "Q11", False),
            )
        )
        assert details(endpoint, [OFFICE]) == {OFFICE: (first, second)}
        assert endpoint.requests == 1

    def test_precision_of_dates_also_before_our_era(self, endpoint: Endpoint) -> None:
        assert details(endpoint, [BORN, DIED]) == {BORN: (Detail((), 11),), DIED: (Detail((), 9),)}

    def test_units_but_not_the_number_1(self, endpoint: Endpoint) -> None:
        found = details(endpoint, [HEIGHT, PEOPLE])
        assert found[HEIGHT] == (Detail((), None, "Q11573"),)
        assert [one.unit for one in found[PEOPLE]] == [None, None]

    def test_without_marks_of_the_best_rank_the_highest_counts(self, endpoint: Endpoint) -> None:
        found = details(endpoint, [MAYOR, PEOPLE, BARE])
        assert found[MAYOR] == (Detail((("P580", "2020-01-01", True),)),)
        assert found[PEOPLE] == (
            Detail((("P585", "-0100-01-01", True),)),
            Detail((("P585", "2000-01-01", True),)),
        ), "the same number at two times, 100 BCE first; neither another number nor the deprecated one"
        assert found[BARE] == (Detail(),), "a statement without any rank"

    def test_what_has_no_statement_is_not_there(self, endpoint: Endpoint) -> None:
        unknown = Triple("Q2", "P131", "Q99")
        other_value = Triple("Q1", "P569", "1838-01-02", True)
        deprecated = Triple("Q2", "P17", "Q30"), Triple("Q1", "P569", "1838-01-01", True)
        assert set(details(endpoint, [unknown, other_value, *deprecated, BORN])) == {BORN}

    def test_statements_that_say_the_same_are_one_and_undated_ones_come_last(self, endpoint: Endpoint) -> None:
        assert details(endpoint, [PRIZE])[PRIZE] == (
            Detail((("P585", "1950-02-01", True), ("P1686", "Q21", False))),
            Detail((("P585", "1950-06-01", True), ("P1686", "Q22", False))),
            Detail((("P1686", "Q23", False),)),
        )

    def test_batches_and_order_do_not_matter(self, endpoint: Endpoint) -> None:
        whole = details(endpoint, ALL)
        assert set(whole) == set(ALL)
        assert endpoint.requests == 1
        assert details(endpoint, [*reversed(ALL), *ALL], batch=1) == whole
        assert endpoint.requests == 1 + len(ALL)

    def test_nothing_asked_is_no_request(self, endpoint: Endpoint) -> None:
        assert details(endpoint, []) == {}
        assert endpoint.requests == 0

    def test_the_triples_are_those_of_the_neighbourhoods(self, endpoint: Endpoint) -> None:
        [[one]] = expand(endpoint, ["Q1"], "out")
        assert set(details(endpoint, one.triples)) == set(one.triples) == {OFFICE, BORN, DIED, HEIGHT}


class Narrow(Endpoint):
    """An endpoint that refuses queries over more than two triples."""

    refused = 0

    def select(self, query: str) -> list[dict[str, Term]]:
        if len({triple for triple in ALL if f"(wd:{triple.subject} p:{triple.predicate} " in query}) > 2:
            self.refused += 1
            raise QueryTooHeavy("too large")
        return super().select(query)


@pytest.mark.real
def test_a_refused_batch_is_halved(url: str, endpoint: Endpoint) -> None:
    narrow = Narrow(url, snapshot="t")
    assert details(narrow, ALL) == details(endpoint, ALL)
    assert narrow.refused == 2, "8 and 4"


@pytest.mark.parametrize(
    ("triple", "named"),
    [
        (Triple("Q1", "P39", "Q10 } #"), "Q10 } #"),
        (Triple("Q1", "P39", "1879-01-01"), "1879-01-01"),
        (Triple("x", "P39", "Q10"), "'x'"),
        (Triple("Q1", "Q39", "Q10"), "Q39"),
        (Triple("Q1", "P39 } #", "1879-01-01", True), "P39 } #"),
    ],
)
def test_what_is_no_triple_of_wikidata_is_refused(triple: Triple, named: str) -> None:
    with pytest.raises(InputError, match=named):
        details(Endpoint("http://127.0.0.1:9/", snapshot="s"), [triple])


def test_a_batch_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="batch"):
        details(Endpoint("http://127.0.0.1:9/", snapshot="s"), [BORN], batch=0)


def test_each_qualifier_stands_once() -> None:
    assert len(set(QUALIFIERS)) == len(QUALIFIERS)


@pytest.mark.parametrize(
    ("value", "precision", "text"),
    [
        ("1879-03-14", None, "1879-03-14"),
        ("1879-03-14", 11, "1879-03-14"),
        ("1879-03-14", 14, "1879-03-14"),
        ("-0427-05-07", 11, "-0427-05-07"),
        ("1879-03-01", 10, "1879-03"),
        ("0476-09-01", 10, "0476-09"),
        ("-0044-03-01", 10, "44-03 BCE"),
        ("1879-01-01", 9, "1879"),
        ("0476-01-01", 9, "476 CE"),
        ("-0427-01-01", 9, "427 BCE"),
        ("1879-01-01", 8, "1870s"),
        ("-0427-01-01", 8, "420s BCE"),
        ("1801-01-01", 7, "19th century"),
        ("1900-01-01", 7, "19th century"),
        ("2001-01-01", 7, "21st century"),
        ("1101-01-01", 7, "12th century"),
        ("-0427-01-01", 7, "5th century BCE"),
        ("1500-01-01", 6, "2nd millennium"),
        ("-2500-01-01", 6, "3rd millennium BCE"),
        ("-12000-01-01", 5, "about 10,000 BCE"),
        ("-66000000-01-01", 3, "about 66,000,000 BCE"),
        ("-13798000001-01-01", 3, "about 13,798,000,000 BCE"),
        ("not a date", 9, "not a date"),
        ("1879", 9, "1879"),
    ],
)
def test_moments(value: str, precision: int | None, text: str) -> None:
    assert moment_text(value, precision) == text
