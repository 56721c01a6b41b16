"""Mentions of entities in a text, found by their names: Aho-Corasick over all names, then a score for each candidate.

The score is the probability that a link is right as a logistic regression sees it. Its weights were fitted on 3,800
questions with gold entities (Mintaka dev, well cased; WebQSP train, all in lower case) over a graph of 76,000 entities.
What it knows: a label is likelier meant than an alias, an entity that many statements point at than one of few, a name
with capitals ("France") than a common noun ("author", "mascot"), whose label has none.

On the test sets of Mintaka, WebQSP and ComplexWebQuestions the likeliest mention is a gold entity for .75, .82 and .72 of
the questions that have one in the graph; for .86, .88 and .83 a gold entity has a name in the question at all.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import ahocorasick

from kg.names import STOP_WORDS, Name, Word, casing_tells, is_name, words

# Weights of the features, all of them 0 or 1 but the two logarithms. "Telling" is a text whose casing tells names apart.
BIAS = -6.47
LABEL = 1.33  # the name is the label, not an alias
LOG_DEGREE = 0.34  # ln(1 + degree)
HIGHEST_DEGREE = 2.53  # no other entity of this name has a higher one
LOG_AMBIGUITY = -0.87  # ln(number of entities of this name)
PROPER = 3.46  # all words of the name but stop words have capitals or are numbers
SINGLE_WORD = -1.3
SAME_NUMBER = 0.72  # not singular for plural
SAME_CASING = 0.38  # telling text: capitals where the name has them
LOWER = -2.25  # telling text: no word of the mention has a capital
NEIGHBOUR = -2.31  # telling text: the word before or after has a capital, so that the name goes on


class Candidate(NamedTuple):
    """An entity that a mention may mean, by which of its names, and the probability that it does (0 to 1)."""

    entity: str
    name: str
    score: float


class Mention(NamedTuple):
    """Characters ``start`` to ``end`` of a text, and the entities that they may mean: at least one, the best first."""

    text: str
    start: int
    end: int
    candidates: tuple[Candidate, ...]


class _Entry(NamedTuple):
    """A name as it lies in the index. ``number`` is that of the QID; ``casing`` has a C for each capitalised word."""

    base: float
    number: int
    name: Name
    key: str
    casing: str
    proper: bool


class _Found(NamedTuple):
    """A mention before overlaps are resolved: words ``first`` to ``last``; ``fits`` if its casing is that of a proper name."""

    fits: bool
    words: int
    letters: int
    first: int
    scored: list[tuple[float, _Entry]]


class LabelIndex:
    """An index over names, in memory: about 1.4 GB for a million. Reading it is safe from several threads."""

    def __init__(self, names: Iterable[Name]) -> None:
        grouped: dict[str, list[tuple[Name, list[Word]]]] = {}
        for name in names:
            tokens = words(name.text)
            if tokens:
                grouped.setdefault(_stem(tokens), []).append((name, tokens))
        self._entries = {key: _entries(key, group) for key, group in grouped.items()}
        # A space at both ends, so that matches begin and end with words.
        self._automaton = ahocorasick.Automaton()
        for key, entries in self._entries.items():
            findable = tuple(entry for entry in entries if is_name(entry.key) or _only_as_written(entry))
            if findable:
                self._automaton.add_word(f" {key} ", (key, findable))
        self._automaton.make_automaton()

    def __len__(self) -> int:
        """Number of distinct names, as they are compared."""
        return len(self._entries)

    def mentions(self, text: str, k: int = 1) -> list[Mention]:
        """The mentions in a text that do not overlap, the likeliest first, each with its ``k`` best candidates.

        Of overlapping ones that which is cased as a proper name wins, then the longest, then the first: in "the
        president of the United States" that is the country, whose name is proper, and not the office. Equal scores are
        ordered by QID. Low scores are given as well: what to keep is the caller's choice.
        """
        tokens = words(text)
        found = self._found(text, tokens)
        free = [True] * len(tokens)
        kept: list[Mention] = []
        for one in sorted(found, key=lambda one: (not one.fits, -one.words, -one.letters, one.first)):
            last = one.first + one.words
            if all(free[one.first : last]):
                free[one.first : last] = [False] * one.words
                start, end = tokens[one.first].start, tokens[last - 1].end
                kept.append(Mention(text[start:end], start, end, _best(one.scored, k)))
        return sorted(kept, key=lambda mention: (-mention.candidates[0].score, mention.start))

    def whole(self, text: str) -> Candidate | None:
        """The likeliest entity that has the whole text as a name, word for word; None if there is none.

        The score is its share among the entities of that name: that one of them is meant is taken for granted.
        """
        tokens = words(text)
        key, casing = _key(tokens), _casing(text, tokens)
        scored = [
            (entry.base + SAME_CASING * (entry.casing == casing), entry)
            for entry in self._entries.get(_stem(tokens), ())
            if entry.key == key
        ]
        if not scored:
            return None
        every = _best(scored, len(scored))
        odds = [one.score / (1 - one.score) for one in every]
        return every[0]._replace(score=odds[0] / sum(odds))

    def _found(self, text: str, tokens: Sequence[Word]) -> list[_Found]:
        if not self._automaton or not tokens:
            return []
        telling, casing = casing_tells(text, tokens), _casing(text, tokens)
        line = f" {_stem(tokens)} "
        found: list[_Found] = []
        for end, (key, entries) in self._automaton.iter(line):
            first, count = line.count(" ", 0, end - len(key) - 1), key.count(" ") + 1
            part = tokens[first : first + count]
            plain, shape = _key(part), casing[first : first + count]
            if not is_name(plain):
                written = text[part[0].start : part[-1].end]
                entries = [one for one in entries if telling and first > 0 and one.name.text == written]
            context = _context(text, tokens, first, count, casing) if telling else 0.0
            scored, fits = [], False
            for entry in entries:
                # The first word of a text has its capital from there.
                agrees = not telling or (entry.casing[1:] == shape[1:] if first == 0 else entry.casing == shape)
                fits |= agrees and entry.proper
                value = entry.base + context + SAME_NUMBER * (entry.key == plain) + SAME_CASING * (telling and agrees)
                scored.append((value, entry))
            if scored:
                found.append(_Found(fits, count, len(key), first, scored))
        return found


def _only_as_written(entry: _Entry) -> bool:
    """Whether the name is one of stop words with capitals: US and The Who, which no "us" or "the who" means."""
    return len(entry.key) > 1 and entry.key.replace(" ", "").isalpha() and "c" not in entry.casing


def _entries(stem: str, group: Sequence[tuple[Name, list[Word]]]) -> tuple[_Entry, ...]:
    """The entries of one stem, each with what its score owes to the names alone."""
    highest = max(name.degree for name, _tokens in group)
    ambiguity = LOG_AMBIGUITY * math.log(len({name.entity for name, _tokens in group}))
    found = []
    for name, tokens in group:
        telling = [word for word in tokens if word.key not in STOP_WORDS]
        proper = all(_stands_out(name.text, word) for word in telling or tokens)
        base = BIAS + ambiguity + LOG_DEGREE * math.log1p(name.degree) + LABEL * (not name.alias) + PROPER * proper
        base += HIGHEST_DEGREE * (name.degree == highest) + SINGLE_WORD * (len(telling) < 2)
        key, casing = _key(tokens), sys.intern(_casing(name.text, tokens))
        found.append(_Entry(base, int(name.entity[1:]), name, stem if key == stem else key, casing, proper))
    return tuple(found)


def _context(text: str, tokens: Sequence[Word], first: int, count: int, casing: str) -> float:
    """What a mention's score owes to the casing of a telling text."""
    after = first + count
    part = tokens[first:after]
    lower = not any(_stands_out(text, word) for word in part if word.key not in STOP_WORDS)
    # The first word of a text is no neighbour to go by, and punctuation ends a name.
    neighbour = (first > 1 and casing[first - 1] == "C" and _joined(text, tokens[first - 1], part[0])) or (
        after < len(tokens) and casing[after] == "C" and _joined(text, part[-1], tokens[after])
    )
    return LOWER * lower + NEIGHBOUR * neighbour


def _best(scored: Iterable[tuple[float, _Entry]], k: int) -> tuple[Candidate, ...]:
    """The ``k`` best entities, each by its best name."""
    found: dict[str, Candidate] = {}
    for value, entry in sorted(scored, key=lambda pair: (-pair[0], pair[1].number, pair[1].name)):
        if len(found) == k:
            break
        found.setdefault(entry.name.entity, Candidate(entry.name.entity, entry.name.text, 1 / (1 + math.exp(-value))))
    return tuple(found.values())


def _stands_out(text: str, word: Word) -> bool:
    return text[word.start].isupper() or text[word.start].isdecimal()


def _joined(text: str, one: Word, other: Word) -> bool:
    return not text[one.end : other.start].strip(" -.'\u2019")


def _casing(text: str, tokens: Iterable[Word]) -> str:
    return "".join(["C" if text[word.start].isupper() else "c" for word in tokens])


def _key(tokens: Iterable[Word]) -> str:
    return " ".join([word.key for word in tokens])


def _stem(tokens: Iterable[Word]) -> str:
    """The key under which singular and plural meet. It is for look-up alone, so that it need not be right English."""
    return " ".join(
        [key[:-1] if len(key := word.key) > 3 and key[-1] == "s" and key[-2] not in "sui" else key for word in tokens]
    )
