"""The starter slice: a small, hand-written part of Wikidata and questions over it.

Four files lie beside this module: ``properties.tsv``, ``entities.tsv``, ``facts.tsv`` and ``questions.jsonl``.
They are committed as text so that they can be read and reviewed, and they let the whole pipeline run where no
dump has been downloaded.  This module reads them, solves a question's gold chain on the facts, and writes the
facts in the form of Wikidata's truthy N-Triples.  A malformed row is an error that names file, line and field.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent

WD = "http://www.wikidata.org/entity/"
WDT = "http://www.wikidata.org/prop/direct/"
PROP = "http://www.wikidata.org/prop/"
VALUE = "http://www.wikidata.org/value/"
RDF_TYPE = "http://www.w3.org/1999/02/22-rdf-syntax-ns#type"
RDFS_LABEL = "http://www.w3.org/2000/01/rdf-schema#label"
SKOS_ALT_LABEL = "http://www.w3.org/2004/02/skos/core#altLabel"
WIKIBASE = "http://wikiba.se/ontology#"
XSD = "http://www.w3.org/2001/XMLSchema#"

PROPERTY_TYPES = {"item": "WikibaseItem", "time": "Time", "quantity": "Quantity"}

_ITEM = re.compile(r"Q[1-9]\d*")
_PROPERTY = re.compile(r"P[1-9]\d*")
_TIME = re.compile(r"(-?)(\d{4})(?:-(0[1-9]|1[0-2])(?:-(0[1-9]|[12]\d|3[01]))?)?")
_QUANTITY = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?")
_VALUE_FORMS = {"item": _ITEM, "time": _TIME, "quantity": _QUANTITY}


class Fact(NamedTuple):
    """One triple; ``object`` is a QID, a date at its true precision, or a plain number."""

    subject: str
    property: str
    object: str
    datatype: str


class Entity(NamedTuple):
    """An entity's English label and its other English names."""

    label: str
    aliases: tuple[str, ...]


class Property(NamedTuple):
    """A property's English label and the datatype of its values."""

    label: str
    datatype: str


class _Row(NamedTuple):
    """A TSV row with its place, so that an error can name it."""

    file: str
    line: int
    fields: dict[str, str]

    def error(self, field: str, problem: str) -> ValueError:
        return ValueError(f"{self.file}, line {self.line}, field {field!r}: {problem}")

    def matching(self, field: str, form: re.Pattern[str]) -> str:
        value = self.fields[field]
        if not form.fullmatch(value):
            raise self.error(field, f"malformed value {value!r}")
        return value

    def filled(self, field: str) -> str:
        value = self.fields[field]
        if not value or value != value.strip():
            raise self.error(field, f"empty or padded value {value!r}")
        return value


def _rows(path: Path, header: tuple[str, ...]) -> Iterator[_Row]:
    """Rows of a TSV file, checked against its header."""
    lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    if tuple(lines[0].split("\t")) != header:
        raise ValueError(f"{path.name}, line 1, field {header[0]!r}: the header is not {' '.join(header)}")
    for number, line in enumerate(lines[1:], start=2):
        cells = line.split("\t")
        if len(cells) != len(header):
            field = header[min(len(cells), len(header)) - 1]
            raise ValueError(
                f"{path.name}, line {number}, field {field!r}: {len(cells)} fields where {len(header)} belong"
            )
        yield _Row(path.name, number, dict(zip(header, cells, strict=True)))


def read_properties(path: Path) -> dict[str, Property]:
    """Properties by id, from one file."""
    found: dict[str, Property] = {}
    for row in _rows(path, ("id", "label", "datatype")):
        pid = row.matching("id", _PROPERTY)
        if pid in found:
            raise row.error("id", f"{pid} is defined twice")
        if row.fields["datatype"] not in PROPERTY_TYPES:
            raise row.error("datatype", f"unknown datatype {row.fields['datatype']!r}")
        found[pid] = Property(row.filled("label"), row.fields["datatype"])
    return found


def read_entities(path: Path) -> dict[str, Entity]:
    """Entities by id, from one file."""
    found: dict[str, Entity] = {}
    for row in _rows(path, ("id", "label", "aliases")):
        qid = row.matching("id", _ITEM)
        if qid in found:
            raise row.error("id", f"{qid} is defined twice")
        aliases = tuple(row.fields["aliases"].split(" | ")) if row.fields["aliases"] else ()
        if any(not alias or alias != alias.strip() for alias in aliases):
            raise row.error("aliases", "an empty or padded alias")
        found[qid] = Entity(row.filled("label"), aliases)
    return found


def read_facts(path: Path, known: Mapping[str, Entity], defined: Mapping[str, Property]) -> list[Fact]:
    """Facts of one file, each checked against the entities and properties given."""
    found: list[Fact] = []
    seen: set[tuple[str, str, str]] = set()
    for row in _rows(path, ("subject", "property", "object", "gloss")):
        subject, pid = row.matching("subject", _ITEM), row.matching("property", _PROPERTY)
        if subject not in known:
            raise row.error("subject", f"{subject} is not a known entity")
        if pid not in defined:
            raise row.error("property", f"{pid} is not a known property")
        value = row.matching("object", _VALUE_FORMS[defined[pid].datatype])
        if defined[pid].datatype == "item" and value not in known:
            raise row.error("object", f"{value} is not a known entity")
        if (subject, pid, value) in seen:
            raise row.error("subject", "the fact occurs twice")
        seen.add((subject, pid, value))
        if row.fields["gloss"] != _gloss(subject, pid, value, known, defined):
            raise row.error("gloss", f"{row.fields['gloss']!r} does not follow from the labels")
        found.append(Fact(subject, pid, value, defined[pid].datatype))
    return found


def gloss(fact: Fact) -> str:
    """A fact in words: subject, property and object by their labels."""
    return _gloss(fact.subject, fact.property, fact.object, entities(), properties())


def _gloss(subject: str, pid: str, value: str, known: Mapping[str, Entity], defined: Mapping[str, Property]) -> str:
    shown = known[value].label if value in known else value
    return f"{known[subject].label}, {defined[pid].label}, {shown}"


@cache
def properties() -> dict[str, Property]:
    """The slice's properties by id."""
    return read_properties(HERE / "properties.tsv")


@cache
def entities() -> dict[str, Entity]:
    """The slice's entities by id."""
    return read_entities(HERE / "entities.tsv")


@cache
def _facts() -> tuple[Fact, ...]:
    return tuple(read_facts(HERE / "facts.tsv", entities(), properties()))


def facts() -> list[Fact]:
    """The slice's facts, by subject, then property."""
    return list(_facts())


def question_records() -> list[dict[str, Any]]:
    """The questions of both splits, in file order."""
    path = HERE / "questions.jsonl"
    records: list[dict[str, Any]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path.name}, line {number}: not JSON: {error}") from error
        if not isinstance(record, dict):
            raise ValueError(f"{path.name}, line {number}: not a JSON object")
        records.append(record)
    return records


@cache
def _index() -> dict[tuple[str, str], frozenset[str]]:
    """Values by (node, step); a step is a property id, or ``^`` and a property id to go backwards."""
    gathered: dict[tuple[str, str], set[str]] = {}
    for fact in _facts():
        gathered.setdefault((fact.subject, fact.property), set()).add(fact.object)
        gathered.setdefault((fact.object, f"^{fact.property}"), set()).add(fact.subject)
    return {key: frozenset(values) for key, values in gathered.items()}


def follow(start: str, steps: list[str]) -> set[str]:
    """All nodes reached from ``start`` by the steps, in order."""
    reached = {start}
    for step in steps:
        reached = {value for node in reached for value in _index().get((node, step), frozenset())}
    return reached


def solve(gold: Mapping[str, Any]) -> set[str]:
    """The answers of a gold chain: QIDs or literals as the facts hold them, or ``yes`` / ``no``."""
    if "ask" in gold:
        return {_yes_no(gold["equals"] in follow(gold["ask"]["start"], gold["ask"]["steps"]))}
    if "compare" in gold:
        left, right = (_single(side) for side in gold["compare"])
        return {_yes_no(_less(left, right) if gold["op"] == "<" else _less(right, left))}
    return follow(gold["start"], gold["steps"])


def _yes_no(truth: bool) -> str:
    return "yes" if truth else "no"


def _single(side: Mapping[str, Any]) -> tuple[str, str]:
    """A comparison side's only value and its datatype, which its last step gives."""
    values = follow(side["start"], side["steps"])
    if len(values) != 1:
        raise ValueError(f"a comparison needs one value on each side, {side} gives {len(values)}")
    return values.pop(), properties()[side["steps"][-1].removeprefix("^")].datatype


def _less(left: tuple[str, str], right: tuple[str, str]) -> bool:
    """Whether left is below right; dates are compared at the coarser of the two precisions."""
    if left[1] != right[1] or left[1] == "item":
        raise ValueError(f"{left} and {right} cannot be compared")
    if left[1] == "quantity":
        return float(left[0]) < float(right[0])
    first, second = date_parts(left[0]), date_parts(right[0])
    shared = min(len(first), len(second))
    if left[0] != right[0] and len(first) != len(second) and first[:shared] == second[:shared]:
        raise ValueError(f"{left[0]} and {right[0]} cannot be told apart at their precision")
    return first[:shared] < second[:shared]


def date_parts(value: str) -> tuple[int, ...]:
    """Year, and month and day where known; a year BCE is negative (``-0427`` is 427 BCE)."""
    match = _TIME.fullmatch(value)
    if match is None:
        raise ValueError(f"not a date: {value!r}")
    sign, *parts = match.groups()
    numbers = [int(part) for part in parts if part is not None]
    return (-numbers[0] if sign else numbers[0], *numbers[1:])


def write_ntriples(path: Path) -> str:
    """Write the slice as Wikidata's N-Triples; returns the sha256 of the content.

    Truthy triples, and for dates the full statements too, which hold the precision.

    The order is fixed, so the same slice always gives the same bytes.  The file appears under its name only
    when it is complete.
    """
    content = _content()
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return hashlib.sha256(content).hexdigest()


def snapshot() -> str:
    """The sha256 of what :func:`write_ntriples` writes: names the content of the slice without writing it."""
    return hashlib.sha256(_content()).hexdigest()


def _content() -> bytes:
    return "".join(f"{line}\n" for line in _ntriples()).encode("utf-8")


def _ntriples() -> Iterator[str]:
    for pid, prop in properties().items():
        yield f'<{WD}{pid}> <{RDFS_LABEL}> "{_escaped(prop.label)}"@en .'
        yield f"<{WD}{pid}> <{WIKIBASE}propertyType> <{WIKIBASE}{PROPERTY_TYPES[prop.datatype]}> ."
        yield f"<{WD}{pid}> <{WIKIBASE}directClaim> <{WDT}{pid}> ."
    for qid, entity in entities().items():
        yield f'<{WD}{qid}> <{RDFS_LABEL}> "{_escaped(entity.label)}"@en .'
        for alias in entity.aliases:
            yield f'<{WD}{qid}> <{SKOS_ALT_LABEL}> "{_escaped(alias)}"@en .'
    for fact in _facts():
        yield f"<{WD}{fact.subject}> <{WDT}{fact.property}> {_term(fact)} ."
        if fact.datatype == "time":
            yield from _statement(fact)


def _statement(fact: Fact) -> Iterator[str]:
    """The full statement of a date, which says how far it is known; the direct triple cannot."""
    name = hashlib.sha256("\t".join(fact).encode()).hexdigest()[:32]
    node, value = f"<{WD}statement/{fact.subject}-{name}>", f"<{VALUE}{name}>"
    yield f"<{WD}{fact.subject}> <{PROP}{fact.property}> {node} ."
    yield f"{node} <{RDF_TYPE}> <{WIKIBASE}BestRank> ."
    yield f"{node} <{PROP}statement/{fact.property}> {_term(fact)} ."
    yield f"{node} <{PROP}statement/value/{fact.property}> {value} ."
    yield f"{value} <{WIKIBASE}timeValue> {_term(fact)} ."
    yield f'{value} <{WIKIBASE}timePrecision> "{8 + len(date_parts(fact.object))}"^^<{XSD}integer> .'


def _term(fact: Fact) -> str:
    if fact.datatype == "item":
        return f"<{WD}{fact.object}>"
    if fact.datatype == "time":
        return f'"{_timestamp(fact.object)}"^^<{XSD}dateTime>'
    sign = "" if fact.object.startswith("-") else "+"
    return f'"{sign}{fact.object}"^^<{XSD}decimal>'


def _timestamp(value: str) -> str:
    """A date as Wikidata's RDF has it: missing parts are 01, and the year before 1 CE is year 0 (XSD 1.1)."""
    year, month, day = (*date_parts(value), 1, 1)[:3]
    astronomical = year + 1 if year < 0 else year
    sign = "-" if astronomical < 0 else ""
    return f"{sign}{abs(astronomical):04d}-{month:02d}-{day:02d}T00:00:00Z"


def _escaped(text: str) -> str:
    """A string as N-Triples writes it between quotes; other characters stand as UTF-8."""
    plain = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return "".join(plain.get(character, character) for character in text)
