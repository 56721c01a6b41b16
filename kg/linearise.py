"""Paths as text for a prompt: one statement a line, as the fs1 study prints them, or as plain English sentences.

``fs1`` prints ``subject, relation, object``. Labels stand as they are, so that a comma in a label cannot be told from the
separator: the lines are for reading, not for parsing. ``verbalised`` prints ``The capital of France is Paris.``: the
commonest properties have their own words, all others a sentence by the form of their label.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from types import MappingProxyType
from typing import Literal, NamedTuple

from kg.sentences import DATED, Value, qualifiers_in_order, sentence
from kg.statements import moment_text
from store.types import Detail, InputError, Path, Triple

LINEARISE_VERSION = "1"

Form = Literal["fs1", "verbalised"]
Details = Mapping[Triple, tuple[Detail, ...]]

_NO_DETAILS: Details = MappingProxyType({})
_NO_UNIT = "Q199"  # the number 1: what Wikidata has as the unit of a number without one
_ISO_DAY = re.compile(r"-?\d{4,}-\d\d-\d\d")


class Linearised(NamedTuple):
    """A text of paths. ``lines`` make the text; ``triples`` has the first triple that printed each line.

    ``tokens``: what ``count`` says of the text, None without ``count``; above the limit only where a single line is.
    ``dropped``: distinct triples that a limit left out. ``unlabelled``: the ids in the text, printed for want of a label.
    """

    text: str
    lines: tuple[str, ...]
    triples: tuple[Triple, ...]
    tokens: int | None
    dropped: int
    unlabelled: tuple[str, ...]


class _Printed(NamedTuple):
    """The lines of a triple, and the ids in them that have no label."""

    lines: tuple[str, ...]
    missing: tuple[str, ...]


class _Names:
    """Labels by id; an id without one is its own name, and is kept in ``missing``."""

    def __init__(self, labels: Mapping[str, str]) -> None:
        self._labels = labels
        self.missing: dict[str, None] = {}

    def __call__(self, one: str) -> str:
        label = self._labels.get(one, "").strip()
        if not label:
            self.missing[one] = None
        return label or one


def linearise(
    paths: Sequence[Path],
    labels: Mapping[str, str],
    *,
    details: Details = _NO_DETAILS,
    form: Form = "fs1",
    max_triples: int | None = None,
    max_tokens: int | None = None,
    count: Callable[[str], int] | None = None,
) -> Linearised:
    """One line for each distinct statement of the paths, which come best first.

    Statements stand in their true direction, whichever way a path walks them. Dates are cut to their precision,
    quantities have their unit. Qualifiers follow in parentheses; where a triple stands for several statements, each has
    its own: ``A, position held, B (start time 1885; end time 1889) (start time 1893; end time 1897)``. Equal lines are
    printed once, and a line break in a label makes no new line.

    Limits leave out whole paths, for half a path misleads: ``max_triples`` (lines) those that would exceed it,
    ``max_tokens`` the last ones, until ``count(text)`` is within it. Only the first path is cut to its first lines where
    it is too long, and at least one line stays, even if it alone has more tokens. ``count`` is called at most
    log2(paths) + 4 times, since longer texts are taken to have more tokens.

    Raises InputError for a limit below 1, an unknown form, and ``max_tokens`` without ``count``.
    """
    _check(form, max_triples, max_tokens, count)
    printed: dict[Triple, _Printed] = {}
    for triple in (triple for path in paths for triple in path.triples):
        if triple not in printed:
            printed[triple] = _print(triple, details.get(triple, ()), labels, form)
    groups = _groups(paths, printed, max_triples)
    lines, tokens = _within([list(group) for group in groups], max_tokens, count)
    kept = set(lines)
    chosen = {line: triple for group in groups for line, triple in group.items() if line in kept}
    return Linearised(
        text="\n".join(lines),
        lines=tuple(lines),
        triples=tuple(chosen.values()),
        tokens=tokens,
        dropped=sum(not any(line in chosen for line in one.lines) for one in printed.values()),
        unlabelled=tuple(dict.fromkeys(one for triple in chosen.values() for one in printed[triple].missing)),
    )


def object_text(triple: Triple, labels: Mapping[str, str], details: Sequence[Detail] = ()) -> str:
    """The object of a triple as ``fs1`` prints it: its label, or a literal at its precision and with its unit."""
    names = _Names(labels)
    shown = dict.fromkeys(_shown(triple, _value(triple, one), names) for one in details or (Detail(),))
    return " ".join(" / ".join(shown).split())


def _check(form: str, max_triples: int | None, max_tokens: int | None, count: object) -> None:
    if form not in ("fs1", "verbalised"):
        raise InputError(f"form {form!r}: paths are printed as fs1 or verbalised")
    for name, limit in (("max_triples", max_triples), ("max_tokens", max_tokens)):
        if limit is not None and limit < 1:
            raise InputError(f"{name} {limit}: a limit is 1 or more, or None for no limit")
    if max_tokens is not None and count is None:
        raise InputError(
            f"max_tokens {max_tokens}: tokens cannot be limited without `count`, which counts those of a text"
        )


def _groups(
    paths: Sequence[Path], printed: Mapping[Triple, _Printed], max_triples: int | None
) -> list[dict[str, Triple]]:
    """For each path that the limit allows, the lines that no path before it has."""
    groups: list[dict[str, Triple]] = []
    seen: set[str] = set()
    for path in paths:
        new: dict[str, Triple] = {}
        for triple in path.triples:
            new |= {line: triple for line in printed[triple].lines if line not in seen and line not in new}
        if max_triples is not None and len(seen) + len(new) > max_triples:
            if seen:
                continue
            new = dict(list(new.items())[:max_triples])
        seen |= new.keys()
        groups.append(new)
    return groups


def _within(
    groups: Sequence[Sequence[str]], limit: int | None, count: Callable[[str], int] | None
) -> tuple[list[str], int | None]:
    """The lines of the first groups whose text has ``limit`` tokens at most, and its tokens."""
    lines = [line for group in groups for line in group]
    if count is None or not lines:
        return lines, None if count is None else 0
    counted: dict[int, int] = {}

    def tokens(size: int) -> int:
        if size not in counted:
            counted[size] = count("\n".join(lines[:size]))
        return counted[size]

    def most(sizes: Sequence[int]) -> int:
        fitting = bisect_left(sizes, True, key=lambda size: limit is not None and tokens(size) > limit)
        return sizes[fitting - 1] if fitting else 0

    size = len(lines)
    if limit is not None and tokens(size) > limit:
        ends = list(accumulate(map(len, groups)))
        size = most([end for end in dict.fromkeys(ends) if end < size]) or most(range(1, ends[0])) or 1
    return lines[:size], tokens(size)


def _print(triple: Triple, details: Sequence[Detail], labels: Mapping[str, str], form: Form) -> _Printed:
    names, by_value = _Names(labels), dict[Value, list[Detail]]()
    for detail in details or (Detail(),):
        by_value.setdefault(_value(triple, detail), []).append(detail)
    written = _row if form == "fs1" else sentence
    # Whatever a label or literal holds, a statement is one line.
    lines = [" ".join(written(triple, value, same, names).split()) for value, same in by_value.items()]
    return _Printed(tuple(dict.fromkeys(lines)), tuple(names.missing))


def _value(triple: Triple, detail: Detail) -> Value:
    if not triple.literal:
        return Value(triple.object)
    text = triple.object if detail.precision is None else moment_text(triple.object, detail.precision)
    date = detail.precision is not None or triple.predicate in DATED or bool(_ISO_DAY.fullmatch(text))
    return Value(text, None if date or detail.unit == _NO_UNIT else detail.unit, date)


def _row(triple: Triple, value: Value, details: Sequence[Detail], names: _Names) -> str:
    """``subject, relation, object`` and the qualifiers of each statement."""
    line = f"{names(triple.subject)}, {names(triple.predicate)}, {_shown(triple, value, names)}"
    terms = [
        "; ".join(
            f"{names(name)} {text if literal else names(text)}" for name, text, literal in qualifiers_in_order(detail)
        )
        for detail in details
    ]
    return line + "".join(f" ({term})" for term in dict.fromkeys(terms) if term)


def _shown(triple: Triple, value: Value, names: _Names) -> str:
    text = value.text if triple.literal else names(value.text)
    return f"{text} {names(value.unit)}" if value.unit else text
