"""Check the starter slice against an independent extract of Wikidata.

    python tests/kg/check_starter_against_extract.py [--extract DIR]

DIR holds ``wikidata_extract.nt.gz`` (entity triples, labels, aliases) and ``wikidata_literals.nt.gz`` (dates and
quantities).  The extract is a part of Wikidata and lacks many values even of the entities that it has, so a fact
of ours that it does not know is only a *probable* error.  Every such fact is listed; the run fails (exit 1) when
one of them, or a differing label or literal, is not in the allow-lists below.
"""

from __future__ import annotations

import argparse
import gzip
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:  # run as a script, the path starts with this folder
    sys.path.insert(0, str(ROOT))

from kg import starter  # noqa: E402

DEFAULT_EXTRACT = ROOT.parent / "shared" / "data" / "kg"
ITEMS, LITERALS = "wikidata_extract.nt.gz", "wikidata_literals.nt.gz"

# Labels that differ on purpose: id -> (label in the extract, why ours stays).
ALLOWED_LABELS = {
    "Q629": ("Oxygen", "Wikidata writes element names in lower case"),
    "Q744": ("Nickel", "Wikidata writes element names in lower case"),
    "Q2841": ("Bogota", "Wikidata's label has the accent"),
    "Q7251": ("Alan Mathison Turing", "Wikidata's label is the short name; the long one is an alias"),
}

# Properties with many true values a subject, of which the extract has only some of the less known ones.
ALLOWED_PROPERTIES = {
    "P47": "lacks most borders of today's states (France with Germany, Norway with Sweden) and has former states'",
    "P166": "lacks most Nobel prizes and many orders of people whose minor awards it has",
}

_CAPITAL = "the extract has former capitals only"
_CURRENCY = "the extract has former currencies only"
_FORMER = "the extract has former states only"
_PARTIAL = "one of several true values; the extract has others"
ALLOWED_FACTS = {
    "Makalu, country, Nepal": _PARTIAL,
    "Andes, country, Chile": _PARTIAL,
    "Andes, country, Peru": _PARTIAL,
    "Pyrenees, country, Spain": _PARTIAL,
    "Lake Superior, country, Canada": _PARTIAL,
    "Bonn, country, Germany": _FORMER,
    "Geneva, country, Switzerland": _FORMER,
    "Lyon, country, France": _FORMER,
    "Boston, country, United States of America": _FORMER,
    "Honolulu, country, United States of America": _FORMER,
    "Dublin, country, Ireland": _FORMER,
    "Zagreb, country, Croatia": _FORMER,
    "Cairo, country, Egypt": _FORMER,
    "Accra, country, Ghana": _FORMER,
    "Tunis, country, Tunisia": _FORMER,
    "Lionel Messi, country of citizenship, Argentina": _PARTIAL,
    "Roger Federer, country of citizenship, Switzerland": _PARTIAL,
    "Terence Tao, country of citizenship, Australia": _PARTIAL,
    "France, capital, Paris": _CAPITAL,
    "Italy, capital, Rome": _CAPITAL,
    "Russia, capital, Moscow": _CAPITAL,
    "United States of America, capital, Washington, D.C.": _CAPITAL,
    "Tanzania, capital, Dodoma": _CAPITAL,
    "Nigeria, capital, Abuja": _CAPITAL,
    "Saudi Arabia, capital, Riyadh": _CAPITAL,
    "Australia, capital, Canberra": _CAPITAL,
    "New Zealand, capital, Wellington": _CAPITAL,
    "Ireland, official language, Irish": _PARTIAL,
    "Luxembourg, official language, Luxembourgish": _PARTIAL,
    "France, currency, euro": _CURRENCY,
    "Germany, currency, euro": _CURRENCY,
    "Spain, currency, euro": _CURRENCY,
    "Portugal, currency, euro": _CURRENCY,
    "Ireland, currency, euro": _CURRENCY,
    "Netherlands, currency, euro": _CURRENCY,
    "Belgium, currency, euro": _CURRENCY,
    "Luxembourg, currency, euro": _CURRENCY,
    "Austria, currency, euro": _CURRENCY,
    "Slovakia, currency, euro": _CURRENCY,
    "Slovenia, currency, euro": _CURRENCY,
    "Russia, currency, Russian ruble": _CURRENCY,
    "Ukraine, currency, hryvnia": _CURRENCY,
    "Australia, currency, Australian dollar": _CURRENCY,
    "New Zealand, currency, New Zealand dollar": _CURRENCY,
    "Linus Pauling, educated at, California Institute of Technology": _PARTIAL,
    "Seamus Heaney, educated at, Queen's University Belfast": _PARTIAL,
    "Enrico Fermi, employer, Columbia University": _PARTIAL,
    "Enrico Fermi, employer, University of Chicago": _PARTIAL,
    "Ernest Rutherford, employer, Victoria University of Manchester": _PARTIAL,
    "Ernest Rutherford, employer, University of Cambridge": _PARTIAL,
    "Apple Inc., founded by, Steve Wozniak": _PARTIAL,
    "Google, founded by, Sergey Brin": _PARTIAL,
    "Apocalypse Now, cast member, Marlon Brando": _PARTIAL,
    "William Shakespeare, notable work, Macbeth": _PARTIAL,
    "George Orwell, notable work, Nineteen Eighty-Four": _PARTIAL,
    "Moscow, capital of, Russia": _FORMER,
}

_LINE = re.compile(r"<([^>]+)> <([^>]+)> (?:<([^>]+)>|\"((?:[^\"\\]|\\.)*)\"(?:@[\w-]+|\^\^<[^>]+>)?) \.")
_ESCAPE = re.compile(r"\\(u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|.)")
_CONTROL = {"n": "\n", "r": "\r", "t": "\t"}


@dataclass
class Extract:
    """What the extract says of our entities: labels, and values by (subject, property)."""

    labels: dict[str, str] = field(default_factory=dict)
    values: dict[tuple[str, str], set[str]] = field(default_factory=lambda: defaultdict(set))


@dataclass
class Report:
    """Counts and findings of one comparison."""

    counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    errors: list[str] = field(default_factory=list)
    allowed: list[str] = field(default_factory=list)


def unescaped(text: str) -> str:
    """A string of N-Triples with its escapes resolved."""

    def plain(match: re.Match[str]) -> str:
        code = match[1]
        return chr(int(code[1:], 16)) if len(code) > 1 else _CONTROL.get(code, code)

    return _ESCAPE.sub(plain, text)


def triples(path: Path) -> Iterator[tuple[str, str, str, bool]]:
    """Subject, predicate, object and whether the object is an entity, of each line."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            match = _LINE.match(line)
            if match is None:
                raise ValueError(f"{path.name}: not a triple: {line!r}")
            subject, predicate, entity, literal = match.groups()
            yield subject, predicate, entity if entity is not None else unescaped(literal), entity is not None


def read_extract(folder: Path) -> Extract:
    """The part of the extract that is about our entities and properties."""
    wanted = starter.entities().keys() | starter.properties().keys()
    extract = Extract()
    for name in (ITEMS, LITERALS):
        for subject, predicate, value, is_entity in triples(folder / name):
            qid = subject.removeprefix(starter.WD)
            if qid not in wanted:
                continue
            if predicate == starter.RDFS_LABEL:
                extract.labels[qid] = value
            elif predicate.startswith(starter.WDT):
                shown = value.removeprefix(starter.WD) if is_entity else value
                extract.values[qid, predicate.removeprefix(starter.WDT)].add(shown)
    return extract


def check_labels(extract: Extract, report: Report) -> None:
    """Labels of entities and properties that the extract knows must be equal."""
    ours = {qid: entity.label for qid, entity in starter.entities().items()}
    ours |= {pid: prop.label for pid, prop in starter.properties().items()}
    for identifier, label in ours.items():
        theirs = extract.labels.get(identifier)
        kind = "entity" if identifier.startswith("Q") else "property"
        if theirs is None:
            report.counts[f"{kind} ids unknown to the extract"] += 1
        elif theirs == label:
            report.counts[f"{kind} labels equal"] += 1
        elif ALLOWED_LABELS.get(identifier, ("", ""))[0] == theirs:
            report.allowed.append(
                f"{identifier}: {label!r}, in the extract {theirs!r}: {ALLOWED_LABELS[identifier][1]}"
            )
        else:
            report.errors.append(f"label of {identifier}: ours {label!r}, the extract's {theirs!r}")


def agrees(fact: starter.Fact, theirs: set[str]) -> bool:
    """Whether one of the extract's values is ours, a date at our precision."""
    if fact.datatype == "quantity":
        return any(abs(float(value) - float(fact.object)) < 1e-9 for value in theirs)
    if fact.datatype == "time":
        return any(value.startswith(fact.object) for value in theirs)
    return fact.object in theirs


def allowed_reason(fact: starter.Fact, gloss: str) -> str | None:
    """Why a fact that the extract does not have stays, if it may."""
    if fact.datatype != "item":
        return None
    return ALLOWED_PROPERTIES.get(fact.property) or ALLOWED_FACTS.get(gloss)


def check_facts(extract: Extract, report: Report) -> None:
    """Facts on a (subject, property) that the extract has must be among its values."""
    unused = set(ALLOWED_FACTS)
    for fact in starter.facts():
        theirs = extract.values.get((fact.subject, fact.property), set())
        kind = "item facts" if fact.datatype == "item" else "dates and quantities"
        gloss = starter.gloss(fact)
        if not theirs or (fact.datatype == "item" and fact.object not in extract.labels):
            report.counts[f"{kind} not covered"] += 1
        elif agrees(fact, theirs):
            report.counts[f"{kind} found"] += 1
        elif reason := allowed_reason(fact, gloss):
            unused.discard(gloss)
            report.counts[f"{kind} allowed though the extract has other values only"] += 1
            report.allowed.append(f"{gloss}: {reason}")
        else:
            shown = ", ".join(sorted(theirs)[:6])
            report.errors.append(f"{gloss} ({fact.subject} {fact.property} {fact.object}): the extract has {shown}")
    report.errors += [f"allow-list entry without use: {gloss}" for gloss in sorted(unused)]


def compare(folder: Path) -> Report:
    """The whole comparison with the extract in a folder."""
    extract, report = read_extract(folder), Report()
    check_labels(extract, report)
    check_facts(extract, report)
    return report


def main() -> int:
    """Print the comparison; 1 when something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--extract", type=Path, default=DEFAULT_EXTRACT, help="folder of the two files")
    parser.add_argument("--show-allowed", action="store_true", help="list what the allow-lists let pass")
    arguments = parser.parse_args()
    missing = [name for name in (ITEMS, LITERALS) if not (arguments.extract / name).is_file()]
    if missing:
        print(f"no {' and '.join(missing)} in {arguments.extract}", file=sys.stderr)
        return 2
    report = compare(arguments.extract)
    for name, count in sorted(report.counts.items()):
        print(f"{count:6d}  {name}")
    print(f"{len(report.allowed):6d}  allowed differences, labels among them")
    for line in report.allowed if arguments.show_allowed else ():
        print(f"        {line}")
    print(f"{len(report.errors):6d}  label mismatches, probable errors, disagreeing dates and quantities")
    for line in report.errors:
        print(f"        {line}")
    return 1 if report.errors else 0


if __name__ == "__main__":
    raise SystemExit(main())
