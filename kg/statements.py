"""The full statements behind direct triples: qualifiers, the precision of dates, the units of quantities.

A direct ("truthy") triple says that somebody held an office, not when. Wikidata's full statement does, in nodes of its own
(https://www.mediawiki.org/wiki/Wikibase/Indexing/RDF_Dump_Format#Full_statements). Only triples that are kept on paths
are asked for, many a request, in plain SPARQL 1.1. An extract of direct triples alone has no statement nodes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

from kg.endpoint import Endpoint, Term, valid_id
from kg.neighbourhoods import batched, statement, union
from store.types import Detail, InputError, Triple

TIMES = ("P580", "P585", "P1319", "P582", "P1326")  # start, point in time, earliest date, end, latest date
# Series ordinal ("44th"), replaces and replaced by (who was before, after); of, subject's, object's and character role,
# for work and winner: what tells two statements of one award, role or contest apart.
QUALIFIERS = (*TIMES, "P1545", "P1365", "P1366", "P642", "P2868", "P3831", "P453", "P1686", "P1346")
_STRINGS = frozenset({"P1545"})  # ordinals are strings, as "23bis" is one

_PREFIXES = """PREFIX wd: <http://www.wikidata.org/entity/>
PREFIX p: <http://www.wikidata.org/prop/>
PREFIX ps: <http://www.wikidata.org/prop/statement/>
PREFIX psv: <http://www.wikidata.org/prop/statement/value/>
PREFIX pq: <http://www.wikidata.org/prop/qualifier/>
PREFIX pqv: <http://www.wikidata.org/prop/qualifier/value/>
PREFIX rdf: <http://www.w3.org/1999/02/22-rdf-syntax-ns#>
PREFIX wikibase: <http://wikiba.se/ontology#>
"""
_ONTOLOGY = "http://wikiba.se/ontology#"
_BEST, _DEPRECATED, _NORMAL, _PREFERRED = (
    _ONTOLOGY + name for name in ("BestRank", "DeprecatedRank", "NormalRank", "PreferredRank")
)
_RANKS = {_DEPRECATED: 0, _NORMAL: 1, _PREFERRED: 2}
_ENTITY = "http://www.wikidata.org/entity/"
_NO_UNIT = "Q199"  # the number 1
_PROPERTY = re.compile(r"P[1-9][0-9]*")
_DAY = re.compile(r"(-?)(\d{4,})-(\d\d)-(\d\d)")


_Day = tuple[float, int, int]  # year, month, day; 427 BCE is -427
_NEVER: _Day = (inf, 0, 0)
_PLACE = {name: place for place, name in enumerate(QUALIFIERS)}


class _Qualifier(NamedTuple):
    """A qualifier as it is told; ``place`` among :data:`QUALIFIERS`, ``day`` of a date before it is cut."""

    place: int
    name: str
    day: _Day | None
    text: str
    literal: bool


@dataclass
class _Statement:
    """What the rows say of one statement node."""

    triple: Triple | None = None
    best: bool = False
    rank: int | None = None
    unit: str | None = None
    qualifiers: list[tuple[str, Term]] = field(default_factory=list)
    precisions: dict[tuple[str, str], int] = field(
        default_factory=dict
    )  # by (kind/property, date as the endpoint has it)
    date: str = ""  # the main value as the endpoint has it


def details(endpoint: Endpoint, triples: Iterable[Triple], batch: int = 500) -> dict[Triple, tuple[Detail, ...]]:
    """What the full statements behind direct triples say; a triple without any statement node is not in the result.

    Several statements can stand behind one triple (two terms of one office): a Detail each, those that say the same once,
    by their first known date. Only statements of the best rank make direct triples: those marked ``wikibase:BestRank``
    count, or in a graph without these marks those of the highest rank among the triple's statements. A deprecated one
    never does. Qualifiers are those of :data:`QUALIFIERS`, in that order, a date cut to its own precision by
    :func:`moment_text` and ordinals as text; values that are unknown ("somevalue"), or of any other type, are left out.

    ``batch`` is the most triples a request. Raises InputError for a triple that is not of Wikidata ids or a batch below
    1, RunError as ``Endpoint.select`` does; a batch that is too heavy is halved (:func:`kg.neighbourhoods.batched`).
    """
    # Sorted, so that values of one subject and property, whose statements come together, are asked for together.
    wanted = sorted({_valid(triple) for triple in triples})
    found: dict[Triple, tuple[Detail, ...]] = {}
    for part in batched(lambda some: _answered(endpoint, some), wanted, batch):
        found |= part
    return found


def moment_text(value: str, precision: int | None) -> str:
    """An ISO day (``date_text`` in kg/neighbourhoods.py) as far as it is known; ``precision`` as Wikibase counts it.

    ==========  =====================================================================================================
    11, None    the day itself: ``1879-03-14``, ``-0427-05-07``
    10 month    ``1879-03``; ``427-05 BCE``
    9 year      ``1879``; ``476 CE`` before 1000, for a bare ``76`` reads as a number; ``427 BCE``
    8 decade    ``1870s``; ``420s BCE``
    7 century   ``19th century``; ``5th century BCE``
    6           ``2nd millennium``; ``3rd millennium BCE``
    5 to 0      the year rounded to ten thousands (5) ... billions (0) of years: ``about 13,798,000,000 BCE``
    ==========  =====================================================================================================

    A value that is no ISO day, and a precision beyond days, leaves the value as it is.
    """
    match = _DAY.fullmatch(value)
    if match is None or precision is None or not 0 <= precision <= 10:
        return value
    sign, digits, month, _day = match.groups()
    year, era = int(digits), " BCE" if sign else ""
    if precision == 10:
        return f"{year}-{month}{era}" if sign else f"{digits}-{month}"
    if precision == 9:
        return f"{year}{era}" if sign or year >= 1000 else f"{year} CE"
    if precision == 8:
        return f"{year // 10 * 10}s{era}"
    if precision in (6, 7):
        name, years = ("century", 100) if precision == 7 else ("millennium", 1000)
        return f"{_ordinal((year - 1) // years + 1)} {name}{era}"
    years = 10 ** (9 - precision)
    return f"about {(year + years // 2) // years * years:,}{era or ' CE'}"


def _ordinal(number: int) -> str:
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def _valid(triple: Triple) -> Triple:
    """The triple itself. Raises InputError unless its ids are Wikidata's."""
    valid_id(triple.subject)
    if not _PROPERTY.fullmatch(triple.predicate):
        raise InputError(f"predicate {triple.predicate!r} of {triple} is no Wikidata property: give one like P31")
    if not triple.literal:
        valid_id(triple.object)
    return triple


def _answered(endpoint: Endpoint, triples: Sequence[Triple]) -> dict[Triple, tuple[Detail, ...]]:
    """The details of one batch, in one request."""
    behind: dict[Triple, list[_Statement]] = {triple: [] for triple in triples}
    for one in _statements(endpoint.select(_query(triples))).values():
        if one.triple in behind:
            behind[one.triple].append(one)
    return {triple: _told(of_best_rank) for triple, some in behind.items() if (of_best_rank := _best(some))}


def _query(triples: Sequence[Triple]) -> str:
    """Rows of the statements' own triples, and of the nodes of their dates and quantities.

    Literals are stored in forms that are not known here, so that all statements of their subject and property are asked
    for. The pattern that finds the statements stands in each branch anew, and the parts are chosen by FILTER: servers
    join from the ids on then. With nested groups, or VALUES for the parts, one went through all statements of the graph.
    """
    items = [triple for triple in triples if not triple.literal]
    literals = dict.fromkeys(triple[:2] for triple in triples if triple.literal)
    parts = f"?main, rdf:type, wikibase:rank, {', '.join(f'pq:{one}' for one in QUALIFIERS)}"
    times = ", ".join(f"pqv:{one}" for one in TIMES)
    moment = "?node wikibase:timeValue ?value ; wikibase:timePrecision ?precision ."
    branches: list[str] = []
    if items:
        rows = " ".join(f"(wd:{s} p:{p} ps:{p} wd:{o})" for s, p, o, _literal in items)
        found = f"VALUES (?s ?claim ?main ?o) {{ {rows} }} ?s ?claim ?st . ?st ?main ?o ."
        branches.append(f"{{ {found} ?st ?part ?value . FILTER(?part IN ({parts})) }}")
        branches.append(f"{{ {found} ?st ?part ?node . FILTER(?part IN ({times})) {moment} }}")
    if literals:
        rows = " ".join(f"(wd:{s} p:{p} ps:{p} psv:{p})" for s, p in literals)
        found = f"VALUES (?s ?claim ?main ?deep) {{ {rows} }} ?s ?claim ?st ."
        branches.append(f"{{ {found} ?st ?part ?value . FILTER(?part IN ({parts})) }}")
        branches.append(f"{{ {found} ?st ?part ?node . FILTER(?part IN (?deep, {times})) {moment} }}")
        branches.append(f"{{ {found} ?st ?deep ?node . ?node wikibase:quantityUnit ?unit . }}")
    return (
        f'{_PREFIXES}SELECT (STRAFTER(STR(?s), "entity/") AS ?e) ?st (STRAFTER(STR(?part), "prop/") AS ?what) '
        f"?value ?precision ?unit WHERE {{ {union(branches)} }}"
    )


def _statements(rows: Iterable[Mapping[str, Term]]) -> dict[str, _Statement]:
    """Statements by their node."""
    found: dict[str, _Statement] = {}
    for row in rows:
        one = found.setdefault(row["st"].value, _Statement())
        if "unit" in row:
            unit = row["unit"].value.removeprefix(_ENTITY)
            one.unit = unit if unit != _NO_UNIT and row["unit"].value.startswith(f"{_ENTITY}Q") else None
            continue
        value = row["value"]
        kind, _, name = row["what"].value.rpartition("/")
        if "precision" in row:
            if row["precision"].value.isdecimal():
                one.precisions[f"{kind}/{name}", value.value] = int(row["precision"].value)
        elif kind == "statement":
            one.triple, one.date = statement(row["e"].value, name, value), value.value
        elif kind == "qualifier":
            one.qualifiers.append((name, value))
        elif value.value in _RANKS:
            one.rank = _RANKS[value.value]
        else:
            one.best = one.best or value.value == _BEST
    return found


def _best(statements: Sequence[_Statement]) -> list[_Statement]:
    """Those of one triple's statements that make it a direct one."""
    if any(one.best for one in statements):
        return [one for one in statements if one.best]
    highest = max((_rank(one) for one in statements), default=0)
    return [one for one in statements if _rank(one) == highest > 0]


def _rank(one: _Statement) -> int:
    return _RANKS[_NORMAL] if one.rank is None else one.rank


def _told(statements: Iterable[_Statement]) -> tuple[Detail, ...]:
    """The distinct details of statements, by the dates of their qualifiers; undated ones last."""
    told = sorted(((_dates(some), _detail(one, some)) for one in statements for some in [_qualifiers(one)]), key=_order)
    return tuple(dict.fromkeys(detail for _dates, detail in told))


def _order(told: tuple[list[_Day], Detail]) -> tuple[object, ...]:
    dates, detail = told
    return dates, detail.qualifiers, detail.precision or 0, detail.unit or ""


def _qualifiers(one: _Statement) -> list[_Qualifier]:
    """A statement's known qualifiers in the order of :data:`QUALIFIERS`, each once."""
    found: set[_Qualifier] = set()
    for name, value in one.qualifiers:
        read = statement("Q1", name, value)  # any subject: only its value is looked at
        if read is not None and read.literal:
            precision = one.precisions.get((f"qualifier/value/{name}", value.value))
            found.add(_Qualifier(_PLACE[name], name, _day(read.object), moment_text(read.object, precision), True))
        elif read is not None:
            found.add(_Qualifier(_PLACE[name], name, None, read.object, False))
        elif name in _STRINGS and value.kind == "literal":
            found.add(_Qualifier(_PLACE[name], name, None, " ".join(value.value.split()), True))
    return sorted(found, key=lambda some: (some.place, some.day or _NEVER, some.text))


def _detail(one: _Statement, qualifiers: Sequence[_Qualifier]) -> Detail:
    predicate = one.triple.predicate if one.triple else ""
    texts = dict.fromkeys((some.name, some.text, some.literal) for some in qualifiers)
    return Detail(tuple(texts), one.precisions.get((f"statement/value/{predicate}", one.date)), one.unit)


def _dates(qualifiers: Sequence[_Qualifier]) -> list[_Day]:
    """The first date that a statement gives, in the order of :data:`TIMES`, then the others."""
    return [*(some.day for some in qualifiers if some.day), _NEVER]


def _day(text: str) -> _Day | None:
    match = _DAY.fullmatch(text)
    return (int(match[1] + match[2]), int(match[3]), int(match[4])) if match else None
