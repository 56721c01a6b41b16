"""Answers that are no entities: which type a value has by its form, and dates as people and the matcher write them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from store.types import AnswerType

_TIMESTAMP = re.compile(r"([+-]?)(\d{3,})-(\d\d)-(\d\d)\s*T\d\d:\d\d:\d\dZ?")
# Not calendar.month_name, which is in the language of the locale.
_MONTHS = [
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
]
_DATE = re.compile(r"[+-]?\d{4,}-\d\d(-\d\d)?(\s*T.*)?")
_YEAR = re.compile(r"1\d{3}|20\d{2}")
_NUMBER = re.compile(r"[+-]?(\d+|\d{1,3}(,\d{3})+)(\.\d+)?([eE][+-]?\d+)?")


def value_type(value: str, *, years: bool = True) -> AnswerType:
    """The type of one value by its form. ``years``: four digits from 1000 to 2099 are a year, else a number."""
    if _DATE.fullmatch(value) or (years and _YEAR.fullmatch(value)):
        return "date"
    if _NUMBER.fullmatch(value):
        return "number"
    return "boolean" if value.lower() in ("yes", "no", "true", "false") else "text"


def answer_type(values: Iterable[str], *, entities: bool, years: bool = True) -> AnswerType:
    """The type of a question from the forms of its values, and whether it has ``entities`` as answers too.

    Names beside entities are entities without an id. Whatever else is mixed ("when and where") is text, for which the
    matcher tries numbers and dates too.
    """
    kinds = {value_type(value, years=years) for value in values}
    if entities:
        return "entity" if kinds <= {"text"} else "text"
    return kinds.pop() if len(kinds) == 1 else "text"


def with_aliases(texts: Iterable[str], aliases: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    """Answers of ``texts``, without repeats, with the aliases at the same place; a single list goes with the first answer.

    Where there are aliases alone, the first of them is the answer.
    """
    answers: dict[str, dict[str, Any]] = {}
    for place, text in enumerate(texts):
        answer = answers.setdefault(text, {"aliases": [], **(timestamp(text) or {"text": text})})
        answer["aliases"] = list(dict.fromkeys([*answer["aliases"], *(aliases[place] if place < len(aliases) else ())]))
    if not answers and (alone := [alias for given in aliases for alias in dict.fromkeys(given)]):
        return [{"text": alone[0], "aliases": alone[1:]}]
    return list(answers.values())


def timestamp(value: str) -> dict[str, Any] | None:
    """Text and aliases of a day written as ``1994-03-01T00:00:00Z``, the form of Wikidata's RDF; None for all else.

    The form has no precision. 1 January stands for a year (six in ten of TimeQuestions' dates, where chance would give
    one in 365): its text is the year. The first of another month is mostly a month, which is given as an alias. Years
    are counted as XSD 1.1 does, where 1 BCE is year 0; round hundreds are not, since Wikidata shifts no centuries.
    """
    found = _TIMESTAMP.fullmatch(value)
    if found is None or int(found[3]) > 12 or int(found[4]) > 31:
        return None
    year, month, day = int(found[2]), int(found[3]), int(found[4])
    before = found[1] == "-" or year == 0
    if before and (year % 100 or year == 0):
        year += 1
    number = f"{'-' if before else ''}{year:04d}"
    spoken = f"{year} BCE" if before else f"{year} CE" if year < 100 else str(year)
    if month <= 1 and day <= 1:
        return {"text": spoken, "aliases": [f"{number}-01-01"]}
    name = f"{_MONTHS[month - 1]} {spoken}"
    if day == 0:
        return {"text": f"{number}-{month:02d}", "aliases": [name]}
    aliases = [f"{day} {name}", name] if day == 1 else [f"{day} {name}"]
    return {"text": f"{number}-{month:02d}-{day:02d}", "aliases": aliases}
