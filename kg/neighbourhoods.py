"""Entity neighbourhoods, labels and degrees from an endpoint, many entities a request.

What is asked, and what a cache may hold, is (entity, direction, cap) and never a question or a pair, so that questions
and datasets share it. Queries are plain SPARQL 1.1 over Wikidata's direct ("truthy") properties.

The batch sizes were measured on an extract of 0.7 million statements behind oxigraph (4,000 entities, seconds of the
server's CPU). "out" costs 1.5 s at any size from 100 to 2,000. "in" as a flat chain of UNIONs cost 2.7 s at 100 and
12.8 s at 500, since a server's time for such a chain grows with the square of its length; halved recursively
(:func:`union`) it costs 1.3 s up to 1,000, and degrees .8 to 1.1 s. So what bounds a batch is the size of one answer, a
few MB here.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal, InvalidOperation
from typing import Literal, NamedTuple, TypeVar

from kg.endpoint import PREFIXES, Endpoint, QueryTooHeavy, Term, entity_values, valid_id
from store.types import InputError, Triple

Direction = Literal["out", "in"]
BATCHES: dict[Direction, int] = {"out": 1000, "in": 500}  # entities a request
SUCCESSES = 4  # answered requests in a row after which a halved batch is doubled again
MOST_SUCCESSES = 64

Item = TypeVar("Item")
T = TypeVar("T")

_ENTITY = "http://www.wikidata.org/entity/"
_DIRECT = "http://www.wikidata.org/prop/direct/"
_XSD = "http://www.w3.org/2001/XMLSchema#"
_DATE = _XSD + "dateTime"
_NUMBERS = frozenset({_XSD + "decimal", _XSD + "integer"})
_DATE_FORM = re.compile(r"([+-]?)(\d{4,})-(\d\d)-(\d\d)(?:T.*)?")
_ITEM = re.compile(r"Q[1-9][0-9]{0,8}")
_PROPERTY = re.compile(r"P[1-9][0-9]{0,7}")
_POINTS_AT = f'?o ?r wd:%s . FILTER(STRSTARTS(STR(?r), "{_DIRECT}P") && STRSTARTS(STR(?o), "{_ENTITY}Q"))'


class Expansion(NamedTuple):
    """All direct statements of an entity in one direction, sorted; ``truncated`` if the endpoint holds (or may) more."""

    entity: str
    direction: Direction
    triples: tuple[Triple, ...]
    truncated: bool = False


class BatchSize:
    """How much to ask for at once of an endpoint whose limits are not known: ``most``, or less after a refusal.

    A refusal halves it. After :data:`SUCCESSES` answers it is doubled, up to ``most``; if that step is refused, after
    twice as many, since a refusal costs a time-out. Not for use by several threads without a lock.
    """

    def __init__(self, most: int) -> None:
        if most < 1:
            raise InputError(f"batch ({most}) of a request must be at least 1")
        self.most = self.now = most
        self._passed, self._needed, self._stepped_up = 0, SUCCESSES, False

    def refused(self, size: int) -> None:
        """A request for ``size`` was too heavy."""
        if self._stepped_up and self._passed == 0:
            self._needed = min(2 * self._needed, MOST_SUCCESSES)
        self.now = max(1, min(self.now, size // 2))
        self._passed, self._stepped_up = 0, False

    def passed(self, size: int) -> None:
        """A request for ``size`` was answered; one for less than is allowed says nothing about more."""
        if size < self.now or self.now == self.most:
            return
        self._passed += 1
        if self._passed == self._needed:
            self.now = min(2 * self.now, self.most)
            self._passed, self._stepped_up = 0, True


def batched(fetch: Callable[[Sequence[Item]], T], items: Sequence[Item], batch: int) -> Iterator[T]:
    """Results of ``fetch`` over all items, in order, each item in one result. Sizes go as :class:`BatchSize` says.

    Raises QueryTooHeavy if a single item is too heavy, InputError for a batch below 1, and what ``fetch`` raises.
    """
    size, waiting = BatchSize(batch), deque(items)
    while waiting:
        part = [waiting.popleft() for _ in range(min(size.now, len(waiting)))]
        try:
            result = fetch(part)
        except QueryTooHeavy:
            if len(part) == 1:
                raise
            size.refused(len(part))
            waiting.extendleft(reversed(part))
            continue
        size.passed(len(part))
        yield result


def expand(
    endpoint: Endpoint, entities: Iterable[str], direction: Direction, cap: int = 500, batch: int | None = None
) -> Iterator[list[Expansion]]:
    """Neighbourhoods of the distinct entities, a list for each answered request; every entity is in exactly one list.

    "out": statements whose object is an entity, a date or a number, all of them (an item page bounds their number).
    "in": statements whose object is the entity, at most ``cap`` of them; one more is asked for, so that a truncation is
    known. ``batch`` is the most entities a request (:data:`BATCHES`); one that takes too long or is refused for its size
    is halved and asked again, down to single entities, and later requests start from the smaller size.
    Raises InputError for an id that is no Wikidata id or a cap or batch below 1, RunError as ``Endpoint.select`` does.
    """
    ids = [valid_id(one) for one in dict.fromkeys(entities)]
    _check_cap(cap)
    most = BATCHES[direction] if batch is None else batch
    return batched(lambda part: expand_once(endpoint, part, direction, cap), ids, most)


def expand_once(endpoint: Endpoint, ids: Sequence[str], direction: Direction, cap: int) -> list[Expansion]:
    """Neighbourhoods of distinct entities in one request; see :func:`expand`. Raises QueryTooHeavy if that is too much."""
    return _out(endpoint, ids) if direction == "out" else _in(endpoint, ids, cap)


def labels(endpoint: Endpoint, ids: Iterable[str], batch: int = 1000) -> dict[str, str]:
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
        asked = set(part)
        return {row["id"].value: row["label"].value for row in order if row["id"].value in asked}

    return {one: label for part in batched(fetch, distinct, batch) for one, label in part.items()}


def degrees(endpoint: Endpoint, entities: Iterable[str], cap: int = 500, batch: int = 500) -> dict[str, int]:
    """Number of direct statements of items whose object is the entity, or ``cap`` + 1 if there are more than ``cap``.

    The count stops there, so that a hub costs the server no more than ``cap`` + 1 reads; the result does not depend on
    which statements come first. Every distinct entity is in the result. Raises as :func:`expand` does.
    """
    ids = [valid_id(one) for one in dict.fromkeys(entities)]
    _check_cap(cap)

    def fetch(part: Sequence[str]) -> dict[str, int]:
        branches = [
            f'{{ SELECT ("{one}" AS ?e) (COUNT(*) AS ?n) WHERE {{ {{ SELECT ?r WHERE {{ {_POINTS_AT % one} }} '
            f"LIMIT {cap + 1} }} }} }}"
            for one in part
        ]
        rows = endpoint.select(f"{PREFIXES}SELECT ?e ?n WHERE {{ {union(branches)} }}")
        counted = {row["e"].value: int(row["n"].value) for row in rows}
        return {one: counted[one] for one in part}

    return {one: count for part in batched(fetch, ids, batch) for one, count in part.items()}


def union(branches: Sequence[str]) -> str:
    """``{ a } UNION { b } ...`` of braced group patterns, halved recursively: servers nest a flat chain as deep as long."""
    if len(branches) == 1:
        return branches[0]
    middle = len(branches) // 2
    return f"{{ {union(branches[:middle])} UNION {union(branches[middle:])} }}"


def _check_cap(cap: int) -> None:
    if cap < 1:
        raise InputError(f"cap ({cap}) of a neighbourhood must be at least 1")


def _out(endpoint: Endpoint, ids: Sequence[str]) -> list[Expansion]:
    # IF, so that the server judges each object by one test only: that saves a third of its time.
    rows = endpoint.select(
        f"""{PREFIXES}SELECT (STRAFTER(STR(?s), "entity/") AS ?e) (STRAFTER(STR(?r), "direct/") AS ?p) ?o WHERE {{
  {entity_values(ids)}
  ?s ?r ?o .
  FILTER(STRSTARTS(STR(?r), "{_DIRECT}P"))
  FILTER(IF(isIRI(?o), STRSTARTS(STR(?o), "{_ENTITY}Q"), DATATYPE(?o) IN (xsd:dateTime, xsd:decimal, xsd:integer)))
}}"""
    )
    found: dict[str, set[Triple]] = {one: set() for one in ids}
    for row in rows:
        triple = statement(row["e"].value, row["p"].value, row["o"])
        if triple is not None and triple.subject in found:
            found[triple.subject].add(triple)
    return [Expansion(one, "out", tuple(sorted(triples))) for one, triples in found.items()]


def _in(endpoint: Endpoint, ids: Sequence[str], cap: int) -> list[Expansion]:
    # One LIMIT for each entity: a common one would let a hub starve the rest of its batch.
    branches = [f'{{ SELECT ("{one}" AS ?e) ?r ?o WHERE {{ {_POINTS_AT % one} }} LIMIT {cap + 1} }}' for one in ids]
    rows = endpoint.select(
        f'{PREFIXES}SELECT ?e (STRAFTER(STR(?r), "direct/") AS ?p) (STRAFTER(STR(?o), "entity/") AS ?s) '
        f"WHERE {{ {union(branches)} }}"
    )
    found: dict[str, set[Triple]] = {one: set() for one in ids}
    answered = dict.fromkeys(ids, 0)
    for row in rows:
        triple = statement(row["s"].value, row["p"].value, Term(_ENTITY + row["e"].value, "uri"))
        if row["e"].value in found:
            answered[row["e"].value] += 1
            if triple is not None:
                found[triple.object].add(triple)
    # Rows are counted, not statements: repeated rows use up the LIMIT as well and can hide that there is more.
    return [Expansion(one, "in", tuple(sorted(some)[:cap]), answered[one] > cap) for one, some in found.items()]


def statement(subject: str, predicate: str, value: Term) -> Triple | None:
    """The statement of two ids and a value, or None if it is not one between items, or of an item and a date or number."""
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
