"""Entity neighbourhoods: fetched in batches, each once, and joined in memory.

What is asked of the endpoint, and what a cache may hold, is (entity, direction, cap) and never a question or a pair, so
that questions and datasets share it. Queries are plain SPARQL 1.1 over Wikidata's direct ("truthy") properties.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from itertools import chain
from typing import Literal, NamedTuple, TypeVar

from kg.endpoint import PREFIXES, Endpoint, QueryTooHeavy, Term, entity_values, valid_id
from store.types import InputError, Triple

Direction = Literal["out", "in"]
T = TypeVar("T")

_ENTITY = "http://www.wikidata.org/entity/"
_DIRECT = "http://www.wikidata.org/prop/direct/"
_XSD = "http://www.w3.org/2001/XMLSchema#"
_DATE = _XSD + "dateTime"
_NUMBERS = frozenset({_XSD + "decimal", _XSD + "integer"})
_DATE_FORM = re.compile(r"([+-]?)(\d{4,})-(\d\d)-(\d\d)(?:T.*)?")
_ITEM = re.compile(r"Q[1-9][0-9]*")
_PROPERTY = re.compile(r"P[1-9][0-9]*")


class Expansion(NamedTuple):
    """All direct statements of an entity in one direction, sorted; ``truncated`` if the endpoint holds more."""

    entity: str
    direction: Direction
    triples: tuple[Triple, ...]
    truncated: bool = False


def expand(
    endpoint: Endpoint, entities: Iterable[str], direction: Direction, cap: int = 500, batch: int = 100
) -> Iterator[list[Expansion]]:
    """Neighbourhoods of the distinct entities, a list for each answered request; every entity is in exactly one list.

    "out": statements whose object is an entity, a date or a number, all of them (an item page bounds their number).
    "in": statements whose object is the entity, at most ``cap`` of them; one more is asked for, so that a truncation is
    known. A batch that takes too long or is refused for its size is halved and asked again, down to single entities.
    Raises InputError for an id that is no Wikidata id or a cap or batch below 1, RunError as ``Endpoint.select`` does.
    """
    if cap < 1 or batch < 1:
        raise InputError(f"cap ({cap}) and batch ({batch}) of a neighbourhood must be at least 1")
    ids = [valid_id(one) for one in dict.fromkeys(entities)]

    def fetch(part: Sequence[str]) -> list[Expansion]:
        return _out(endpoint, part) if direction == "out" else _in(endpoint, part, cap)

    for start in range(0, len(ids), batch):
        yield from _halving(fetch, ids[start : start + batch])


def labels(endpoint: Endpoint, ids: Iterable[str], batch: int = 500) -> dict[str, str]:
    """English labels of entities and properties; an id that has none is not in the result.

    Wikidata keeps names that are the same in all languages under the code ``mul``: it stands in where "en" is missing.
    Raises as :func:`expand` does.
    """
    distinct = [valid_id(one) for one in dict.fromkeys(ids)]

    def fetch(part: Sequence[str]) -> dict[str, str]:
        rows = endpoint.select(
            f'{PREFIXES}SELECT (STRAFTER(STR(?s), "entity/") AS ?id) ?label WHERE {{ {entity_values(part)} '
            '?s rdfs:label ?label . FILTER(LANG(?label) IN ("en", "mul")) }'
        )
        # Sorted so that "en" comes after, and overwrites, "mul".
        order = sorted(rows, key=lambda row: (row["label"].lang == "en", row["label"].value))
        return {row["id"].value: row["label"].value for row in order}

    found: dict[str, str] = {}
    for start in range(0, len(distinct), batch):
        for part in _halving(fetch, distinct[start : start + batch]):
            found |= part
    return found


def _halving(fetch: Callable[[Sequence[str]], T], ids: Sequence[str]) -> Iterator[T]:
    """Results of ``fetch`` over all ids, in one call if that passes, else in halves."""
    result: list[T] = []
    try:
        result.append(fetch(ids))
    except QueryTooHeavy:
        if len(ids) == 1:
            raise
    if result:
        yield result[0]
        return
    middle = len(ids) // 2
    yield from _halving(fetch, ids[:middle])
    yield from _halving(fetch, ids[middle:])


def _out(endpoint: Endpoint, ids: Sequence[str]) -> list[Expansion]:
    rows = endpoint.select(
        f"""{PREFIXES}SELECT (STRAFTER(STR(?s), "entity/") AS ?e) (STRAFTER(STR(?r), "direct/") AS ?p) ?o WHERE {{
  {entity_values(ids)}
  ?s ?r ?o .
  FILTER(STRSTARTS(STR(?r), "{_DIRECT}P"))
  FILTER((isIRI(?o) && STRSTARTS(STR(?o), "{_ENTITY}Q"))
    || (isLiteral(?o) && DATATYPE(?o) IN (xsd:dateTime, xsd:decimal, xsd:integer)))
}}"""
    )
    found: dict[str, set[Triple]] = {one: set() for one in ids}
    for row in rows:
        triple = _triple(row["e"].value, row["p"].value, row["o"])
        if triple is not None:
            found[triple.subject].add(triple)
    return [Expansion(one, "out", tuple(sorted(triples))) for one, triples in found.items()]


def _in(endpoint: Endpoint, ids: Sequence[str], cap: int) -> list[Expansion]:
    # One LIMIT for each entity: a common one would let a hub starve the rest of its batch.
    branches = " UNION ".join(
        f"""{{ SELECT ("{valid_id(one)}" AS ?e) (STRAFTER(STR(?r), "direct/") AS ?p) (STRAFTER(STR(?o), "entity/") AS ?s)
  WHERE {{ ?o ?r wd:{one} . FILTER(STRSTARTS(STR(?r), "{_DIRECT}P") && STRSTARTS(STR(?o), "{_ENTITY}Q")) }}
  LIMIT {cap + 1} }}"""
        for one in ids
    )
    found: dict[str, set[Triple]] = {one: set() for one in ids}
    for row in endpoint.select(f"{PREFIXES}SELECT ?e ?p ?s WHERE {{ {branches} }}"):
        triple = _triple(row["s"].value, row["p"].value, Term(_ENTITY + row["e"].value, "uri"))
        if triple is not None:
            found[triple.object].add(triple)
    return [Expansion(one, "in", tuple(sorted(some)[:cap]), len(some) > cap) for one, some in found.items()]


def _triple(subject: str, predicate: str, value: Term) -> Triple | None:
    """The statement, or None if it is not one between items, or of an item and a date or number."""
    if not _ITEM.fullmatch(subject) or not _PROPERTY.fullmatch(predicate):
        return None
    if value.kind == "uri":
        name = value.value.removeprefix(_ENTITY)
        return Triple(subject, predicate, name) if _ITEM.fullmatch(name) else None
    if value.datatype == _DATE:
        return Triple(subject, predicate, date_text(value.value), literal=True)
    if value.datatype in _NUMBERS:
        return Triple(subject, predicate, number_text(value.value), literal=True)
    return None


def date_text(value: str) -> str:
    """An xsd:dateTime as an ISO day: ``1879-03-14``, or ``-0427-05-07`` for 427 BCE. Anything else is left as it is.

    RDF counts years as XSD 1.1 does, where 1 BCE is year 0; people and Wikidata's pages do not have a year 0. The
    direct properties have no precision: a date known to the year reads as its 1 January.
    """
    match = _DATE_FORM.fullmatch(value)
    if match is None:
        return value
    sign, year, month, day = match.groups()
    number = -int(year) if sign == "-" else int(year)
    if number <= 0:
        number -= 1
    return f"{'-' if number < 0 else ''}{abs(number):04d}-{month}-{day}"


def number_text(value: str) -> str:
    """A decimal in its plain shortest form: no plus sign, no exponent, no trailing zeros. Else left as it is."""
    try:
        number = Decimal(value)
    except InvalidOperation:
        return value
    if not number.is_finite():
        return value
    text = f"{number:f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text in ("-0", "") else text


class Graph:
    """The fetched neighbourhoods as one multigraph. Parallel statements stay apart; literals are never nodes."""

    def __init__(self, expansions: Iterable[Expansion] = ()) -> None:
        self._known: dict[tuple[str, Direction], bool] = {}
        self._triples: dict[Triple, None] = {}
        self._adjacent: dict[str, dict[str, list[Triple]]] = {}
        self._literals: dict[str, list[Triple]] = {}
        self.add(expansions)

    def add(self, expansions: Iterable[Expansion]) -> None:
        """Add neighbourhoods; statements that are there already are not doubled."""
        for one in expansions:
            self._known[one.entity, one.direction] = one.truncated
            for triple in one.triples:
                if triple not in self._triples:
                    self._triples[triple] = None
                    self._connect(triple)

    def _connect(self, triple: Triple) -> None:
        subject, _predicate, value, literal = triple
        if literal:
            self._literals.setdefault(subject, []).append(triple)
            return
        self._adjacent.setdefault(subject, {}).setdefault(value, []).append(triple)
        if subject != value:
            self._adjacent.setdefault(value, {}).setdefault(subject, []).append(triple)

    def has(self, entity: str, direction: Direction) -> bool:
        """Whether this neighbourhood was added, also if it is empty."""
        return (entity, direction) in self._known

    def truncated(self, entity: str) -> bool:
        """Whether a neighbourhood of the entity was cut at the cap."""
        return any(self._known.get((entity, direction), False) for direction in ("out", "in"))

    @property
    def triples(self) -> Collection[Triple]:
        """All distinct statements, in the order they came."""
        return self._triples.keys()

    def neighbours(self, node: str) -> Mapping[str, Sequence[Triple]]:
        """Entities next to a node, each with the statements between the two, whichever way these point."""
        return self._adjacent.get(node, {})

    def literals(self, node: str) -> Sequence[Triple]:
        """Dates and numbers of a node."""
        return self._literals.get(node, ())

    def incident(self, node: str) -> tuple[Triple, ...]:
        """All known statements of a node in both directions, literals too, sorted, without duplicates."""
        return tuple(sorted({*chain.from_iterable(self.neighbours(node).values()), *self.literals(node)}))

    def degree(self, node: str) -> int:
        """Number of known statements between the node and entities: a lower bound of the degree at the endpoint."""
        return sum(map(len, self.neighbours(node).values()))
