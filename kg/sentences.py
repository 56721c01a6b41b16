"""Statements as plain English sentences: "The capital of France is Paris.", "Mozart was born on 27 January 1756."

The commonest properties have their own words; of all others, the form of their label tells what sentence it fits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from store.types import Detail, Triple

_START, _END, _POINT = "P580", "P582", "P585"
_DATE = re.compile(r"(-?)(\d+)(?:-(0[1-9]|1[0-2])(?:-(0[1-9]|[12]\d|3[01]))?)?( B?CE)?")
_MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July"),
    *("August", "September", "October", "November", "December"),
)

# Between subject and object.
_BETWEEN = {
    "P17": "is in the country",
    "P19": "was born in",
    "P20": "died in",
    "P27": "is a citizen of",
    "P30": "is on the continent",
    "P39": "held the position of",
    "P47": "shares a border with",
    "P50": "was written by",
    "P54": "played for",
    "P57": "was directed by",
    "P61": "was discovered or invented by",
    "P69": "was educated at",
    "P101": "worked in the field of",
    "P102": "is a member of the political party",
    "P108": "worked for",
    "P112": "was founded by",
    "P123": "was published by",
    "P131": "is located in",
    "P138": "is named after",
    "P144": "is based on",
    "P150": "contains",
    "P155": "follows",
    "P156": "is followed by",
    "P159": "has its headquarters in",
    "P161": "has the cast member",
    "P166": "received the award",
    "P170": "was created by",
    "P175": "was performed by",
    "P176": "was manufactured by",
    "P178": "was developed by",
    "P190": "is twinned with",
    "P206": "lies in or next to",
    "P361": "is part of",
    "P403": "flows into",
    "P413": "plays in the position of",
    "P421": "is in the time zone",
    "P463": "is a member of",
    "P495": "comes from the country",
    "P527": "has the part",
    "P530": "has diplomatic relations with",
    "P551": "lived in",
    "P607": "fought in",
    "P674": "has the character",
    "P710": "had the participant",
    "P737": "was influenced by",
    "P740": "was formed in",
    "P840": "is set in",
    "P915": "was filmed in",
    "P805": "is the subject of",
    "P921": "is about",
    "P937": "worked in",
    "P1303": "plays the instrument",
    "P1344": "took part in",
    "P1365": "replaces",
    "P1366": "was replaced by",
    "P1376": "is the capital of",
    "P1411": "was nominated for",
    "P1412": "speaks, writes or signs",
    "P2416": "competes in the discipline",
    "P3450": "is a season of",
    "P4552": "is in the mountain range",
}
# Between subject and a date ("on 14 March 1879", "in 1879").
DATED = {
    "P569": "was born",
    "P570": "died",
    "P571": "came into being",
    "P575": "was discovered or invented",
    "P576": "ceased to exist",
    "P577": "was published",
    "P580": "began",
    "P582": "ended",
    "P585": "took place",
    "P606": "flew for the first time",
    "P1191": "was first performed",
    "P1619": "opened",
}


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SEVERAL = _words("P37 P40 P136 P800 P3373")  # "A child of ...": "the" would say that there is only one

# What the label of any other property can begin or end with.
_PREPOSITIONS = _words("about after against as at by for from in into of on over to under via with within")
_VERBS = _words("""
    afflicts appears applies are cites commemorates competes connects contains depicts follows grants had has is manages
    owns practices produces qualifies regulates replaces represents shares supports takes uses was wears
""")
_ATTRIBUTES = _words("""
    available broadcast built coextensive different drawn endemic found given held identical indigenous known made native
    opposite partially present relative said set similar spoken taught together valid written
""")
_NO_PLURALS = _words("basis campus census corpus genus series species status")
_NO_PLURAL_UNITS = _words("baht celsius fahrenheit hertz percent renminbi siemens won yen yuan")


class Value(NamedTuple):
    """An object as it is printed. Statements of one triple that differ in it (unit, precision) have a line each."""

    text: str
    unit: str | None = None
    date: bool = False


def sentence(triple: Triple, value: Value, details: Sequence[Detail], names: Callable[[str], str]) -> str:
    """An English sentence: the statement, and the qualifiers of each statement as clauses.

    ``details``: of the statements of the triple that have this value. ``names`` gives the label of an id.
    """
    clauses = dict.fromkeys(clause for detail in details if (clause := _clause(detail, names)))
    text = " ".join([_claim(triple, value, names), " and ".join(clauses)]).strip()
    return text if text.endswith(".") else f"{text}."


def qualifiers_in_order(detail: Detail) -> list[tuple[str, str, bool]]:
    """Qualifiers, times first: start, end, point in time."""
    times = (_START, _END, _POINT)
    return sorted(detail.qualifiers, key=lambda one: times.index(one[0]) if one[0] in times else len(times))


def _claim(triple: Triple, value: Value, names: Callable[[str], str]) -> str:
    subject, name = names(triple.subject), triple.predicate
    if value.date and name in DATED:
        return f"{subject} {DATED[name]} {_when(value.text)}"
    shown = _object(triple, value, names)
    if name == "P31":
        return f"{subject} is {_with_article(shown)}"
    if name == "P106":
        return f"{subject} is {_with_article(shown)} by occupation"
    if name == "P279":
        return f"{subject} is a kind of {shown}"
    if name in _BETWEEN:
        return f"{subject} {_BETWEEN[name]} {shown}"
    relation = names(name)
    if name in _SEVERAL:
        article = _with_article(relation)
        return f"{article[:1].upper()}{article[1:]} of {subject} is {shown}"
    return _by_label(subject, relation, shown)


def _by_label(subject: str, relation: str, shown: str) -> str:
    """A sentence for any relation: most labels are nouns, some go between subject and object as they are, or nearly."""
    relation = relation.replace("(s)", "s")
    first, *rest = re.split(r"[ /]", relation.lower())
    last = rest[-1] if rest else first
    attribute = first in _ATTRIBUTES or (first.endswith("ed") and len(first) > 3)
    if first in _VERBS:
        return f"{subject} {relation} {shown}"
    if first in _PREPOSITIONS or (attribute and not _PREPOSITIONS.isdisjoint((*rest[:1], last))):
        return f"{subject} is {relation} {shown}"
    if not {"is", "are", "has", "have"}.isdisjoint(rest):  # a sentence of its own
        return f"{subject}: {relation} {shown}"
    head = re.split(r",| (?:at|by|for|from|in|of|on|to)\b", relation.lower(), maxsplit=1)[0]
    head = head.split()[-1] if head.strip() else ""
    plural = head.endswith("s") and not head.endswith(("ss", "us", "is")) and head not in _NO_PLURALS
    if last in _PREPOSITIONS or (first in ("member", "part") and rest[:1] == ["of"]):
        return f"{subject} {f'has {relation}' if plural else f'is {_with_article(relation)}'} {shown}"
    return f"The {relation} of {subject} {'include' if plural else 'is'} {shown}"


def _clause(detail: Detail, names: Callable[[str], str]) -> str:
    """Qualifiers in words: "from 1990 to 1995", "in 2001", and any others in parentheses."""
    times: dict[str, str] = {}
    others: list[str] = []
    for name, text, literal in qualifiers_in_order(detail):
        if literal and name in (_START, _END, _POINT) and name not in times:
            times[name] = text
        else:
            shown = (_date(text) if "-" in text[1:] else text) if literal else names(text)
            others.append(f"{names(name)}: {shown}")
    start, end, point = (times.get(name) for name in (_START, _END, _POINT))
    parts = [f"{'from' if end else 'since'} {_date(start)}"] if start else []
    parts += [f"{'to' if start else 'until'} {_date(end)}"] if end else []
    parts += [_when(point)] if point else []
    return " ".join(parts + ([f"({'; '.join(others)})"] if others else []))


def _object(triple: Triple, value: Value, names: Callable[[str], str]) -> str:
    if not triple.literal:
        return names(value.text)
    if value.date:
        return _date(value.text)
    return f"{value.text} {_units(names(value.unit), value.text)}" if value.unit else value.text


def _date(text: str) -> str:
    """A date in words: "14 March 1879", "March 1879", "7 May 427 BCE"; a decade, a century, any other text as it is."""
    match = _DATE.fullmatch(text)
    if match is None:
        return text
    sign, digits, month, day, era = match.groups()
    year = f"{int(digits)}{' BCE' if sign else era or (' CE' if int(digits) < 1000 else '')}"
    return " ".join([*([str(int(day))] if day else []), *([_MONTHS[int(month) - 1]] if month else []), year])


def _when(text: str) -> str:
    """A date with its preposition: "on 14 March 1879", "in 1879", "in the 19th century"."""
    match = _DATE.fullmatch(text)
    if match is None:
        return text if text.startswith("about ") else f"in the {text}"
    return f"{'on' if match[4] else 'in'} {_date(text)}"


def _units(label: str, number: str) -> str:
    """The unit for a number in the plural: "kilometres per hour", "degrees Celsius", "feet"."""
    if number in ("1", "-1"):
        return label
    counted, per, rest = label.partition(" per ")
    head, space, last = counted.rpartition(" ")
    if head == "degree":
        head = "degrees"
    elif last.isalpha() and last.lower() not in _NO_PLURAL_UNITS:
        last = {"foot": "feet", "inch": "inches"}.get(last, last if last.endswith("s") else f"{last}s")
    return f"{head}{space}{last}{per}{rest}"


def _with_article(noun: str) -> str:
    """ "a noun" or "an answer", by the first letters; nothing is put before a noun that has an article."""
    if re.match(r"(?:an?|the)\b", noun, re.IGNORECASE):
        return noun
    vowel = re.match(r"(?!uni|eu|use|usu|one\b|ur[aeiou])[aeiouáéíóúäöåø]|hour|hono", noun, re.IGNORECASE)
    return f"{'an' if vowel else 'a'} {noun}"
