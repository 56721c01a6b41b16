"""Read the reply of a judge model and name what it judged, so that no verdict is asked for twice.

A judge is asked one of two questions. ``contains``: is a gold answer contained in the prediction, 1 or 0 (fs1 study,
arXiv 2505.11140). ``grade``: is the prediction correct (A), incorrect (B) or no attempt to answer (C), the three grades
of SimpleQA (arXiv 2411.04368). A verdict depends on the gold answers and the prediction alone; the prediction is named
by content here, so that a verdict is shared by every run, setting and sample that gave the same text.

A reply that could be read in two ways is no verdict: it is asked for again, and then counted as invalid, never guessed.
"""

from __future__ import annotations

import inspect
import re
import sys

from store.types import Grade, JudgeQuestion, Verdict, digest


def parse_verdict(text: str, question: JudgeQuestion = "contains", *, cut: bool = False) -> Verdict:
    """The verdict of a reply, or an invalid one (``correct`` and ``grade`` None, rule "invalid").

    ``cut``: the reply ended at its length limit, so that its last word may go on (the 1 of "12"). Thinking aloud in
    ``<think>`` tags is skipped; where it never ends there is no verdict.

    * ``contains``: its first 0 or 1 that stands alone, if no other digit stands before it and the other one nowhere.
    * ``grade``: a letter A, B or C or the word for it (CORRECT, INCORRECT, NOT ATTEMPTED) at the start of the reply, on a
      line of its own, or behind a label ("Grade: B"), if nothing else in the reply says another grade.
    """
    said = _after_thinking(text)
    grade = None if said is None else (_digit_grade if question == "contains" else _letter_grade)(said, cut)
    if grade is None:
        return Verdict(correct=None, rule="invalid")
    return Verdict(correct=grade == "correct", rule="judge", grade=grade)


def prediction_key(prediction: str) -> str:
    """Key of a prediction: 32 hex digits, white space normalised and nothing else. A missing one is never judged."""
    return digest({"prediction": " ".join(prediction.split())})


_THOUGHT = re.compile(r"<(/?)(?:think|thinking|thought|reasoning)>", re.I)


def _after_thinking(text: str) -> str | None:
    """What follows the last thought; None where a thought is still open at the end."""
    tags = list(_THOUGHT.finditer(text))
    if not tags:
        return text
    return text[tags[-1].end() :] if tags[-1][1] else None


# Digits -------------------------------------------------------------------------------------------------------------

# Standing alone: not part of a longer number (10, 0.5, 1/2, -1, 1,000) or word (Q1), nor a share (1 of 2).
_BIT = re.compile(r"(?<![\w.,/+\-])[01](?![\w%/]|[.,\-]\d|\s+(?:out\s+)?of\b)")
_DIGIT = re.compile(r"\d")
_ENUMERATED = re.compile(r"[.)][*_]*\s+\S")  # "1. The gold answer is": the first of several steps


def _digit_grade(said: str, cut: bool) -> Grade | None:
    bits = list(_BIT.finditer(said))
    if not bits or len({bit.group() for bit in bits}) > 1 or _DIGIT.search(said, 0, bits[0].start()):
        return None
    one, end = bits[0].group() == "1", bits[0].end()
    if (cut and end == len(said)) or (one and _ENUMERATED.match(said, end)):
        return None
    return "correct" if one else "incorrect"


# Letters ------------------------------------------------------------------------------------------------------------

_LETTERS: dict[str, Grade] = {"A": "correct", "B": "incorrect", "C": "not_attempted"}
# Not part of a word, a name with signs (C++, B-52, U.S.A.) or a list of choices (A/B/C).
_ALONE = r"(?<![\w./&+#'’\-])%s(?![\w/&+#'’\-]|\.\w)"
# "A prediction", "C major": a letter before a word is part of a sentence, unless that word cannot go with it.
_HEAD = re.compile(_ALONE % "[ABC]" + r"(?![ \t]+(?!(?:is|because|since|as|but)\b)[^\W_])")
_MENTION = re.compile(_ALONE % r"(?:[BC]|A(?!\s+(?!(?:or|and|is)\b)[^\W_]))")
_WORD = re.compile(r"(?<![\w/\-])(?:(IN)?CORRECT|NOT[ _-]ATTEMPTED)(?![\w/\-])")
# As a whole reply, line or sentence the words are clear in small letters too; "Correct answers are" is not.
_SENTENCE = re.compile(r"(?i:(in)?correct|not[ _-]attempted)(?=[\s*_\"'`]*(?:$|[\n.,:;!()\]}]))")
_LABEL = re.compile(
    r"\b(?:grade|verdict|letter|classification|rating)\b(?:\s+(?:is|of|would\s+be))?"
    r"|(?:^|\n)\W{0,9}(?:(?:the|my|final|so|thus|therefore)[\s,]{1,3}){0,3}(?:answer|option|choice|category|judge?ment|reply)\b(?:\s+is)?",
    re.I,
)
_DECORATION = re.compile(r"[\s*_\"'`:=(\[{#>$-]{0,20}(?:\\(?:boxed|text)\{)*")


def _letter_grade(said: str, cut: bool) -> Grade | None:
    mentioned = {_grade(mark) for mark in (*_MENTION.finditer(said), *_WORD.finditer(said))}
    places = [0, *(label.end() for label in _LABEL.finditer(said)), *_only_words(said)]
    heads = [head for place in places if (head := _head(said, place)) is not None]
    if not heads or len({_grade(head) for head in heads} | mentioned) > 1:
        return None
    first = min(heads, key=lambda head: head.start())
    # A cut reply may end inside a word: "A" of "Although", "B" of "Both".
    return None if cut and first.end() == len(said) else _grade(first)


def _head(said: str, place: int) -> re.Match[str] | None:
    """The grade that stands at ``place``, behind quotes, brackets and the like."""
    decoration = _DECORATION.match(said, place)
    start = decoration.end() if decoration else place
    return _HEAD.match(said, start) or _WORD.match(said, start) or _SENTENCE.match(said, start)


def _only_words(said: str) -> list[int]:
    """Where the lines begin that hold a grade and nothing else."""
    lines = re.finditer(r"(?m)^.*$", said)
    alone = re.compile(r"[\W_]*(?:[ABC]|(?i:(?:in)?correct|not[ _-]attempted))[\W_]*")
    return [line.start() for line in lines if alone.fullmatch(line.group())]


def _grade(mark: re.Match[str]) -> Grade:
    word = mark.group().upper()
    if word in _LETTERS:
        return _LETTERS[word]
    return "correct" if word == "CORRECT" else "incorrect" if word == "INCORRECT" else "not_attempted"


# A changed reader gives other verdicts: the version is part of the name that verdicts are kept under.
VERDICT_VERSION = digest(inspect.getsource(sys.modules[__name__]))
