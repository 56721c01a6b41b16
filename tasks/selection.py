"""Which of the teachers' traces enter a training set, and which questions are kept out of training: pure functions.

A trace enters if its answer is right, its thought was not cut, a student can read it and it is not too long; of those, no
two with the same thought on the same question, and no more than the caps allow. Every trace that stays out has one reason,
the first of :data:`REASONS` that holds.
"""

from __future__ import annotations

import inspect
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from store.types import Frozen, digest
from tasks.keys import Accept

Reason = Literal[
    "no answer",
    "wrong",
    "wrong by judge",
    "no verdict",
    "cut",
    "no thinking",
    "special tokens",
    "too long",
    "repeated",
    "beyond the part's limit",
    "enough of this question",
]
REASONS: tuple[Reason, ...] = Reason.__args__  # type: ignore[attr-defined]


class Candidate(NamedTuple):
    """A teacher's trace that may enter. ``part`` is its place among the parts of the set, ``source`` the key of the kind of
    thought (model, sampling, budget), ``prediction`` what was read from it (None: no answer), ``correct`` the matcher's
    verdict, ``judged`` the judge's (None: no valid one, or no judge); ``thinking_tokens`` are the teacher's own."""

    part: int
    recipe: str
    teacher: str
    source: str
    question_key: str
    question_id: str
    sample: int
    trace_id: str
    prediction: str | None
    correct: bool
    judged: bool | None
    cut: bool
    thinking: str
    thinking_tokens: int


class Fate(NamedTuple):
    """What became of a candidate: the reason why it stays out (None: it is kept), and the tokens of the whole example as a
    student reads it (None: never counted)."""

    candidate: Candidate
    reason: Reason | None
    tokens: int | None = None


class Rules(Frozen):
    """What decides. ``limits`` has the most traces of each part (None: all); caps count traces of a question."""

    accept: Accept = "exact"
    limits: tuple[int | None, ...] = (None,)
    max_per_question: int | None = None
    max_per_question_over_all: int | None = None
    max_tokens: int | None = None
    seed: int = 0


Measure = Callable[[Sequence[Candidate]], Sequence[int | None]]
"""Tokens of each candidate's whole example; None where its text holds special tokens of the student's model."""


def choose(candidates: Sequence[Candidate], rules: Rules, measure: Measure) -> list[Fate]:
    """The fate of every candidate: those that are kept by question, part, sample and trace; then the others.

    Where caps or limits bind, questions come in an order drawn from the seed, the same for every part; the traces of a
    question are taken in turns from its sources (part and teacher), and which one begins is drawn too, so that none of
    them is favoured. The order of ``candidates`` does not matter.
    """
    fates: list[Fate] = []
    right: list[Candidate] = []
    for one in candidates:
        reason = _of_itself(one, rules.accept)
        if reason is None:
            right.append(one)
        else:
            fates.append(Fate(one, reason))
    fitting: list[tuple[Candidate, int]] = []
    for one, tokens in zip(right, measure(right), strict=True):
        if tokens is None:
            fates.append(Fate(one, "special tokens"))
        elif rules.max_tokens is not None and tokens > rules.max_tokens:
            fates.append(Fate(one, "too long", tokens))
        else:
            fitting.append((one, tokens))
    for one, reason, tokens in _drawn(fitting, rules):
        fates.append(Fate(one, reason, tokens))
    return sorted(fates, key=lambda fate: (fate.reason is not None, *_place(fate.candidate)))


def held_out_questions(mine: Sequence[str], of_study: Sequence[str], share: float, seed: int) -> set[str]:
    """Those of a training set's questions (``mine``, by key) that are kept out of training.

    They are the ``share`` of all training questions of the study (``of_study``) that the seed draws, so that a
    question stands on the same side in every training set of the study: what one holds out, no other trains on. Only
    where that would leave a set of 4 questions or more with none, its first in the order of the draw is held out; and the
    last one is trained on where all would be out. Both happen in sets of a few questions alone.
    """
    ranked = sorted({*mine, *of_study}, key=lambda key: digest([seed, key]))
    drawn = ranked[: round(share * len(ranked))]
    own = set(mine)
    order = [key for key in ranked if key in own]
    found = own.intersection(drawn)
    if share > 0 and len(own) >= 4 and not found:
        found = {order[0]}
    return found - {order[-1]} if found and len(found) == len(own) else found


def _of_itself(one: Candidate, accept: Accept) -> Reason | None:
    """Why a trace cannot enter whatever else there is."""
    if one.prediction is None:
        return "no answer"
    if accept != "judge" and not one.correct:
        return "wrong"
    if accept != "exact" and not one.judged:
        return "no verdict" if one.judged is None else "wrong by judge"
    if one.cut:
        return "cut"
    return None if one.thinking.strip() else "no thinking"


def _drawn(fitting: Sequence[tuple[Candidate, int]], rules: Rules) -> list[tuple[Candidate, Reason | None, int]]:
    found: list[tuple[Candidate, Reason | None, int]] = []
    of_question, of_part = Counter[str](), Counter[int]()
    of_both = Counter[tuple[str, int]]()
    thoughts: set[tuple[str, str]] = set()
    for one, tokens in _in_turns(fitting, rules.seed):
        key, part = one.question_key, one.part
        thought = (key, " ".join(one.thinking.split()))
        reason: Reason | None = None
        if thought in thoughts:
            reason = "repeated"
        elif _full(of_part[part], rules.limits[part]):
            reason = "beyond the part's limit"
        elif _full(of_question[key], rules.max_per_question_over_all) or _full(
            of_both[key, part], rules.max_per_question
        ):
            reason = "enough of this question"
        else:
            thoughts.add(thought)
            of_question[key] += 1
            of_part[part] += 1
            of_both[key, part] += 1
        found.append((one, reason, tokens))
    return found


def _in_turns(fitting: Sequence[tuple[Candidate, int]], seed: int) -> list[tuple[Candidate, int]]:
    taken: Counter[tuple[str, int, str]] = Counter()
    turns = {}
    for one, _ in sorted(fitting, key=lambda pair: _place(pair[0])):
        source = (one.question_key, one.part, one.source)
        turns[one.part, one.trace_id] = taken[source]
        taken[source] += 1
    # Not the digest by which questions are held out: those would be drawn first.
    draws = {key: digest(["draw", seed, key]) for key in {one.question_key for one, _ in fitting}}
    first = {source: digest(["turn", seed, *source]) for source in taken}

    def order(pair: tuple[Candidate, int]) -> tuple[str, int, str, tuple[str, str, int, int, str]]:
        one = pair[0]
        source = (one.question_key, one.part, one.source)
        return draws[one.question_key], turns[one.part, one.trace_id], first[source], _place(one)

    return sorted(fitting, key=order)


def _full(count: int, limit: int | None) -> bool:
    return limit is not None and count >= limit


def _place(one: Candidate) -> tuple[str, str, int, int, str]:
    return one.question_id, one.question_key, one.part, one.sample, one.trace_id


SELECTION_VERSION = digest(inspect.getsource(sys.modules[__name__]), 12)
"""Another way to choose is another training set: the version is part of its unit's key."""
