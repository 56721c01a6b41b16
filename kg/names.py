"""Names of entities: how they are compared, and where they come from.

A graph that is served locally gives all of its names (:func:`graph_names`); a public endpoint is asked only for the spans
of a question that may be names (:func:`candidate_spans`, :func:`lookup`). Both give what :class:`kg.mentions.LabelIndex` is
built from.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from math import ceil, log10
from typing import NamedTuple

from kg.endpoint import PREFIXES, Endpoint, QueryTooHeavy, Term, text_literal
from kg.neighbourhoods import batched
from store.types import InputError

NAME_LIMIT = 2_000_000  # an index over them takes about 3 GB
PART_ROWS = 200_000  # names a request; their JSON takes about 30 MB
SPAN_LIMIT = 40
LONGEST_CAPITALISED, LONGEST_LOWER = 6, 4  # words of a candidate span

# English function words, question words and auxiliaries: a name made of nothing else is no mention.
_STOP_WORDS = """
    a about after all also am an and any are as at be been before being but by can could did do does doing down
    during each ever every few for from get gets give go got had has have having he her here him his how i if in
    into is it its just many me might more most much must my name named no not of off on once one only or other our
    out over own s same she should so some such t tell than that the their them then there these they this those
    through to too two under until up upon us use used was we were what when where which while who whom whose why
    will with within without would you your
    """
STOP_WORDS = frozenset(_STOP_WORDS.split())

_PREFIXES = (
    PREFIXES + "PREFIX skos: <http://www.w3.org/2004/02/skos/core#>\nPREFIX wikibase: <http://wikiba.se/ontology#>\n"
)
_ITEM = re.compile(r"Q[1-9][0-9]*")
_ACCENTS = re.compile("[\u0300-\u036f]")
_WORD = re.compile("[^\\W_](?:[^\\W_]|[\u0300-\u036f])*")
_QUOTED = re.compile('["\u201c\u201e\u00ab]([^"\u201c\u201d\u201e\u00ab\u00bb]+)["\u201d\u201c\u00bb]')


class Name(NamedTuple):
    """One name of an entity. ``degree``: statements that point at the entity (or its site links), the prior of linking."""

    text: str
    entity: str
    alias: bool = False
    degree: int = 0


class Word(NamedTuple):
    """A word as it is compared, and the characters of the original text that it stands for."""

    key: str
    start: int
    end: int


def words(text: str) -> list[Word]:
    """The words of a text: letters and digits, in compatibility form, without case and accents; the rest separates.

    Each word is normalised alone, so that its span is one of the original text whatever the length of the result:
    "Straße" is "strasse", "ﬁsh" is "fish", "Beyoncé" is "beyonce" whether the accent is a character of its own or not.
    """
    if text.isascii():
        return [Word(match.group().lower(), match.start(), match.end()) for match in _WORD.finditer(text)]
    return [Word(_folded(match.group()), match.start(), match.end()) for match in _WORD.finditer(text)]


def name_key(text: str) -> str:
    """The words of a name with a space between each two: equal for names that are compared as equal."""
    return " ".join(word.key for word in words(text))


@lru_cache(maxsize=1 << 16)
def _folded(word: str) -> str:
    # NFKD, not NFKC: the accents have to come off. Casefolding can bring new ones (İ), hence twice.
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", word).casefold())
    return "".join(unicodedata.normalize("NFC", _ACCENTS.sub("", plain)).split())


def is_name(key: str) -> bool:
    """Whether a key can be a mention at all: a letter in it, more than one character, and not stop words alone."""
    return len(key) > 1 and not key.replace(" ", "").isdecimal() and any(one not in STOP_WORDS for one in key.split())


def graph_names(endpoint: Endpoint, limit: int = NAME_LIMIT) -> list[Name]:
    """All English labels and aliases of the items of a graph, with the number of statements that point at each item.

    For graphs that are served locally: it reads every name in few requests, which no public endpoint allows. "mul", the
    code of names that are the same in all languages, counts as English. Raises InputError if the graph holds more than
    ``limit`` names, RunError as ``Endpoint.select`` does.
    """
    rows = endpoint.select(
        f"{_PREFIXES}SELECT (COUNT(*) AS ?n) WHERE {{ "
        f"{{ SELECT ?e WHERE {{ ?e rdfs:label|skos:altLabel ?name }} LIMIT {limit + 1} }} }}"
    )
    count = int(rows[0]["n"].value)
    if count > limit:
        raise InputError(
            f"the graph at {endpoint.url} holds more than {limit} names, too many for an index in memory: "
            "look up the spans of the questions instead"
        )
    degrees: dict[str, int] = {}
    for part in _in_parts(endpoint, _DEGREES, "?o", count):
        degrees |= {row["id"].value: int(row["n"].value) for row in part}
    found: dict[Name, None] = {}
    for part in _in_parts(endpoint, _NAMES, "?e", count):
        for row in part:
            entity = row["id"].value
            if _ITEM.fullmatch(entity):
                found[Name(row["name"].value, entity, row["kind"].value == "alias", degrees.get(entity, 0))] = None
    return sorted(found)


_NAMES = """SELECT (STRAFTER(STR(?e), "entity/") AS ?id) ?name ?kind WHERE {{
  {{ ?e rdfs:label ?name . BIND("label" AS ?kind) }} UNION {{ ?e skos:altLabel ?name . BIND("alias" AS ?kind) }}
  FILTER(LANG(?name) IN ("en", "mul") && {wanted}) }}"""
_DEGREES = """SELECT (STRAFTER(STR(?o), "entity/") AS ?id) (COUNT(*) AS ?n) WHERE {{
  ?s ?p ?o . FILTER(isIRI(?o) && STRSTARTS(STR(?p), "http://www.wikidata.org/prop/direct/P") && {wanted}) }} GROUP BY ?o"""


def _in_parts(endpoint: Endpoint, query: str, variable: str, rows: int) -> Iterator[list[dict[str, Term]]]:
    """The query over all items in parts: items whose ids end alike, so that no order and no OFFSET is needed."""
    depth = max(0, ceil(log10(max(rows, 1) / PART_ROWS)))
    waiting = [("", depth)]
    while waiting:
        ending, deeper = waiting.pop()
        if deeper == 0:
            wanted = f'STRSTARTS(STR({variable}), "http://www.wikidata.org/entity/Q") && STRENDS(STR({variable}), "{ending}")'
            try:
                yield endpoint.select(_PREFIXES + query.format(wanted=wanted))
                continue
            except QueryTooHeavy:
                if len(ending) > 5 or ending.startswith("Q"):
                    raise
        # An id that is no longer than the ending has no further digit: Q7 is beside 07, 17, 27, ...
        waiting += [(f"{digit}{ending}", max(deeper - 1, 0)) for digit in "0123456789"]
        waiting += [(f"Q{ending}", 0)] if ending else []


def candidate_spans(text: str, most: int = SPAN_LIMIT) -> list[str]:
    """Parts of a question that may be names, the likelier first, at most ``most``: what to ask a public endpoint for.

    Quoted text; runs of up to 6 words that begin and end with a capitalised word or a number; and, where the casing says
    nothing (no or only capitals), all runs of up to 4 words that neither begin nor end with a stop word.
    """
    found = [match.group(1).strip() for match in _QUOTED.finditer(text)]
    tokens = words(text)
    telling = casing_tells(text, tokens)
    longest = LONGEST_CAPITALISED if telling else LONGEST_LOWER
    ends = [
        word.key not in STOP_WORDS and (not telling or text[word.start].isupper() or text[word.start].isdecimal())
        for word in tokens
    ]
    for length in sorted(range(1, longest + 1), key=lambda n: (n == 1, abs(n - 2))):  # 2, 3, 4, ..., 1
        for first in range(len(tokens) - length + 1):
            last = first + length - 1
            if ends[first] and ends[last]:
                found.append(text[tokens[first].start : tokens[last].end])
    return [span for span in dict.fromkeys(found) if is_name(name_key(span))][:most]


def casing_tells(text: str, tokens: Sequence[Word]) -> bool:
    """Whether the casing of a text can tell names from other words: beyond its first word it has both cases."""
    initials = "".join([text[word.start] for word in tokens[1:]])
    return initials != initials.lower() and initials != initials.upper()


def lookup(endpoint: Endpoint, spans: Iterable[str], batch: int = 50) -> list[Name]:
    """English labels and aliases that equal one of the spans, with the entity's number of site links where it is given.

    Endpoints compare names exactly, so that each span is asked for as it is, with a capital at its start, and with one
    at each word (stop words inside stay lower). ``batch`` counts spans a request; a request that takes too long is
    halved. Raises InputError for a span that is no valid text, RunError as ``Endpoint.select`` does.
    """
    parts = batched(lambda some: _looked_up(endpoint, some), list(dict.fromkeys(spans)), batch)
    return sorted({name for part in parts for name in part})


def _looked_up(endpoint: Endpoint, spans: Sequence[str]) -> list[Name]:
    forms = dict.fromkeys(form for span in spans for form in _cased(span))
    literals = " ".join(text_literal(form, lang) for form in forms for lang in ("en", "mul"))
    rows = endpoint.select(
        f"""{_PREFIXES}SELECT (STRAFTER(STR(?e), "entity/") AS ?id) ?name ?kind ?n WHERE {{
  VALUES ?name {{ {literals} }}
  {{ ?e rdfs:label ?name . BIND("label" AS ?kind) }} UNION {{ ?e skos:altLabel ?name . BIND("alias" AS ?kind) }}
  OPTIONAL {{ ?e wikibase:sitelinks ?n }} }}"""
    )
    return [
        Name(row["name"].value, row["id"].value, row["kind"].value == "alias", int(row["n"].value) if "n" in row else 0)
        for row in rows
        if _ITEM.fullmatch(row["id"].value)
    ]


def _cased(span: str) -> list[str]:
    """The spellings that a span is asked for in."""
    plain = " ".join(unicodedata.normalize("NFC", span).split())  # as Wikidata keeps names
    titled = _WORD.sub(lambda word: word.group() if word.group() in STOP_WORDS else _capitalised(word.group()), plain)
    return list(dict.fromkeys((plain, _capitalised(plain), _capitalised(titled))))


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]
