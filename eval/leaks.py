"""Leaks: what of a test question stood in a prompt that a training trace was made from.

``question``
    all words of the test question stand in the prompt, in their order and together. A question of fewer than
    :data:`QUESTION_WORDS` words says too little for that.
``fact``
    a statement of the prompt's graph joins a name in the test question to one of its gold answers. The statement's two
    ends are compared whole: its one end is a name that stands in the test question word for word, its other end, or the
    value of a qualifier, *is* a gold answer: by its words, or as a date or a number (a day tells its month and year). So
    "Paris" in a graph is no leak, nor is "France, capital, Paris" for "Where was Monet born?"; it is one for "What is the
    capital of France?".

    Which relation the question asks for is not looked at, since its words are seldom the relation's: "France, largest
    city, Paris" counts as well. Nor are names followed through aliases, nor facts over several statements. The count is
    thus one of statements to look at, neither an upper nor a lower bound. With the graphs of ComplexWebQuestions, WebQSP
    and Mintaka as training, 71 of 88 statements looked at said what the test question asks for, or a part of it.

    A name has a capital letter, for a class is none ("actor", "country"), and :data:`NAME_LENGTH` letters or more. Yes and
    no, numbers below :data:`SMALL`, answers of one or two letters, and answers that the test question names itself are
    no facts. A graph in sentences has no marked ends: there a name is a run of words with capitals, and an answer any words
    that begin with one or with a digit.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Hashable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

import ahocorasick

from eval.matching import MATCHER_VERSION, Date, parse_date, parse_number
from eval.overlap import OVERLAP_VERSION, words
from store.types import Question, digest

LeakKind = Literal["question", "fact"]

QUESTION_WORDS = 3
NAME_LENGTH, ANSWER_LENGTH = 3, 3  # letters and digits
SMALL = 100

_LONGEST = 8  # words of an answer in a sentence
_JOINING = frozenset(("of", "the", "de", "da", "di", "du", "del", "la", "le", "van", "von", "der", "al"))
_SAID = frozenset(("yes", "no", "true", "false"))
# Films and bands have such names, but in a question they are words.
_NO_NAMES = frozenset(
    ("the", "who", "what", "when", "where", "which", "how", "her", "his", "him", "she", "they", "them")
)
_NO_NAMES |= {
    "that",
    "this",
    "and",
    "for",
    "not",
    "one",
    "was",
    "were",
    "are",
    "has",
    "had",
    "have",
    "did",
    "does",
    "all",
}
_POSSESSIVE = re.compile(r"['’ʼ]s\b")
_QUALIFIERS = re.compile(r"\s*\(([^()]*)\)$")


class Shown(NamedTuple):
    """A prompt that a training trace was made from, and the lines of its graph (none, if it has no graph)."""

    question_key: str
    text: str
    lines: tuple[str, ...] = ()


class Leak(NamedTuple):
    """What leaked, and the key of the training question whose prompt is the first to have it."""

    kind: LeakKind
    shown_in: str


def leaks(test: Sequence[Question], shown: Iterable[Shown]) -> list[Leak | None]:
    """What of each test question stood in a prompt, in the order of ``test``; a leaked question counts before a fact.

    Prompts and questions meet in indexes: 22,600 questions against 55,000 prompts take seconds.
    """
    asked = [_asked(question.text) for question in test]
    known, gold = _questions(test), _gold(test, asked)
    found: list[Leak | None] = [None] * len(test)
    texts: set[str] = set()
    lines: dict[str, str] = {}
    for prompt in shown:
        for line in prompt.lines:
            lines.setdefault(line, prompt.question_key)
        if prompt.text not in texts:
            texts.add(prompt.text)
            for number in _questions_in(known, prompt.text):
                found[number] = found[number] or Leak("question", prompt.question_key)
    pairs: set[tuple[str, Hashable]] = set()
    for line, key in lines.items():
        for name, value in statement_ends(line):
            spelt = _name(name)
            if spelt is None:
                continue
            for answer in _readings(value):
                if answer not in gold or (spelt, answer) in pairs:
                    continue
                pairs.add((spelt, answer))
                for number in gold[answer]:
                    if found[number] is None and spelt in asked[number]:
                        found[number] = Leak("fact", key)
    return found


def statement_ends(line: str) -> Iterator[tuple[str, str]]:
    """The pairs of a name and a value that a line of a graph may join, as they are written.

    Of ``subject, relation, object (qualifier value; qualifier value)``: subject and object, either way, and each with the
    values of qualifiers. Since labels hold commas, every way to part the line is tried; so is every end of a qualifier's
    words, which do not say where its name ends. A line that ends with a full stop is read as a sentence too.
    """
    if line.endswith("."):
        yield from _of_sentence(line)
    parts, terms = line.split(", "), list[str]()
    yield from _of_parts(parts)
    while match := _QUALIFIERS.search(line):  # which a label may have as well: "Alien (film)" is tried with and without
        terms += match[1].split("; ")
        line = line[: match.start()]
        parts = line.split(", ")
        yield from _of_parts(parts)
    for tokens in map(str.split, terms):
        for value in (" ".join(tokens[start:]) for start in range(1, len(tokens))):
            for place in range(1, len(parts) - 1):
                yield ", ".join(parts[:place]), value
                yield ", ".join(parts[place + 1 :]), value


def _of_parts(parts: Sequence[str]) -> Iterator[tuple[str, str]]:
    for first in range(1, len(parts) - 1):
        for last in range(first + 1, len(parts)):
            subject, target = ", ".join(parts[:first]), ", ".join(parts[last:])
            yield subject, target
            yield target, subject


def _of_sentence(line: str) -> Iterator[tuple[str, str]]:
    tokens = line.rstrip(".").split()
    telling = [_stands_out(token) for token in tokens]
    starts = [place for place, stands_out in enumerate(telling) if stands_out]
    for start, end in _names(tokens, telling):
        for first in starts:
            for last in range(first + 1, min(first + _LONGEST, len(tokens)) + 1):
                if last <= start or first >= end:
                    yield " ".join(tokens[start:end]), " ".join(tokens[first:last])


def _stands_out(token: str) -> bool:
    bare = token.lstrip("(\"'“‘")
    return bool(bare) and (bare[0].isupper() or bare[0].isdecimal())


def _names(tokens: Sequence[str], telling: Sequence[bool]) -> Iterator[tuple[int, int]]:
    """Start and end of each run of words that stand out, over "of" and the like between them."""
    start = 0
    while start < len(tokens):
        end = start
        ahead = start
        while ahead < len(tokens) and (telling[ahead] or (end > start and tokens[ahead] in _JOINING)):
            ahead += 1
            end = ahead if telling[ahead - 1] else end
        if end > start:
            yield start, end
            if (
                start == 0 and end > 1
            ):  # the first word's capital may be the sentence's: "The Nile ..." and "The Hague ..."
                yield 1, end
        start = max(end, start + 1)


def _asked(text: str) -> str:
    """A question's words between spaces, also with its possessives cut off, for names to be found in."""
    return f" {' '.join(words(text))} | {' '.join(words(_POSSESSIVE.sub('', text)))} "


def _questions(test: Sequence[Question]) -> ahocorasick.Automaton:
    """An automaton of the words of all test questions that are long enough, each with the places of its questions."""
    places: dict[str, list[int]] = {}
    for number, question in enumerate(test):
        tokens = words(question.text)
        if len(tokens) >= QUESTION_WORDS:
            places.setdefault(f" {' '.join(tokens)} ", []).append(number)
    automaton = ahocorasick.Automaton()
    for text, numbers in places.items():
        automaton.add_word(text, numbers)
    automaton.make_automaton()
    return automaton


def _questions_in(known: ahocorasick.Automaton, text: str) -> Iterator[int]:
    if known:
        for _end, numbers in known.iter(f" {' '.join(words(text))} "):
            yield from numbers


def _gold(test: Sequence[Question], asked: Sequence[str]) -> dict[Hashable, list[int]]:
    """The test questions of each gold answer that would be a fact, by all readings of the answer."""
    found: dict[Hashable, dict[int, None]] = {}
    for number, question in enumerate(test):
        for form in question.gold:
            spelt = " ".join(words(form))
            if len(spelt.replace(" ", "")) < ANSWER_LENGTH or spelt in _SAID or f" {spelt} " in asked[number]:
                continue
            readings: list[Hashable] = [spelt]
            if question.answer_type != "entity":
                value, date = parse_number(form), parse_date(form)
                if value is not None and date is None and abs(value.value) < SMALL:
                    continue
                readings += [value.value] if value is not None and question.answer_type != "date" else []
                readings += [date] if date is not None and question.answer_type != "number" else []
            for reading in readings:
                found.setdefault(reading, {})[number] = None
    return {reading: list(numbers) for reading, numbers in found.items()}


@lru_cache(maxsize=1 << 17)
def _name(text: str) -> str | None:
    """A name as it is looked for in a question, between spaces; None for what is no name."""
    if text == text.lower() and text != text.upper():  # a script without case has no capitals to go by
        return None
    spelt = " ".join(words(text))
    bare = spelt.replace(" ", "")
    if len(bare) < NAME_LENGTH or bare.isdecimal() or spelt in _NO_NAMES:
        return None
    return f" {spelt} "


@lru_cache(maxsize=1 << 17)
def _readings(text: str) -> tuple[Hashable, ...]:
    """What a value may be a gold answer by: its words, and as a date (with the month and year of it) or a number."""
    found: list[Hashable] = [" ".join(words(text))]
    if any(char.isdecimal() for char in text):
        number, date = parse_number(text), parse_date(text)
        found += [number.value] if number is not None else []
        if date is not None:
            found += dict.fromkeys((date, Date(date.year, date.month), Date(date.year)))
    return tuple(found)


# A changed check finds other leaks: the version is part of the keys of what it found.
LEAKS_VERSION = digest([inspect.getsource(sys.modules[__name__]), OVERLAP_VERSION, MATCHER_VERSION])
