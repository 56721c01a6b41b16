"""What a training set was made of, in numbers: counts by reason, how often the teachers were right, lengths.

Shares are of all candidates; a trace without an answer counts as wrong. ``accuracy`` is the matcher's; ``judge_accuracy`` the
judge's, over the candidates that it gave a valid verdict on or that have no answer, and ``judge_agreement`` how often both
say the same where both said something; ``semantic_match`` the share whose answer is near a gold answer in meaning
(:data:`SEMANTIC_COSINE`). Thinking tokens are counted by the teacher, example tokens by the tokenizer of the set's length
limit. Medians and percentiles are values that occur (nearest rank). What was not measured is None.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from kg.encoder import encoder_folder
from kg.similarity import best_similarity
from store.types import Question
from tasks.selection import REASONS, Candidate, Fate

SEMANTIC_COSINE = 0.7
"""A name or text matches in meaning from this cosine of its MiniLM embedding to that of any gold form on. The fs1 study counts a
semantic match as well; where it draws the line is not known here. On the starter set .7 finds 79% of the aliases of an answer
(.5: 94%, .8: 52%) and 0.7% of the gold answers of other questions of the same type (.5: 9.5%, .8: 0.1%). Numbers, dates, yes
and no have no such line (1990 and 1991 have .84): for them the matcher's verdict counts."""

_WORDS = ("entity", "text")  # types of answers whose embedding says what they mean


def statistics_of(fates: Sequence[Fate], held_out: set[str], near: Mapping[str, bool] | None = None) -> dict[str, Any]:
    """The statistics of a whole set, and under ``sources`` the same for each recipe and teacher.

    ``near`` says by trace whether its prediction is near a gold answer; None: that was not measured. A trace that stands in
    two parts is a candidate of both.
    """
    kept = {fate.candidate.question_key for fate in fates if fate.reason is None}
    groups: dict[tuple[str, str], list[Fate]] = {}
    for fate in fates:
        groups.setdefault((fate.candidate.recipe, fate.candidate.teacher), []).append(fate)
    return {
        **_numbers(fates, near),
        "questions": len(kept),
        "held_out_questions": len(held_out),
        "sources": [
            {"recipe": recipe, "teacher": teacher, **_numbers(mine, near)}
            for (recipe, teacher), mine in sorted(groups.items(), key=lambda item: (item[0][0] != "rt", item[0]))
        ],
    }


def semantic_encoder() -> str | None:
    """What names the encoder of the semantic match and where it draws the line; None where it is not installed."""
    return None if encoder_folder() is None else f"{best_similarity('embedding').name}>={SEMANTIC_COSINE}"


def near_gold(candidates: Sequence[Candidate], questions: Mapping[str, Question]) -> dict[str, bool]:
    """By trace, whether its prediction is near a gold answer of its question (by key); see :data:`SEMANTIC_COSINE`.

    Loads the encoder in this process.
    """
    forms = {key: question.gold for key, question in questions.items() if question.answer_type in _WORDS}
    pairs: dict[tuple[str, str], None] = {}
    for one in candidates:
        if one.prediction is not None:
            pairs |= dict.fromkeys((one.prediction, form) for form in forms.get(one.question_key, ()))
    cosines: dict[tuple[str, str], float] = {}
    if pairs:
        scores = best_similarity("embedding")([pair[0] for pair in pairs], [pair[1] for pair in pairs])
        cosines = dict(zip(pairs, map(float, scores), strict=True))

    def near(one: Candidate) -> bool:
        if one.prediction is None:
            return False
        if one.question_key not in forms:
            return one.correct
        return any(cosines[one.prediction, form] >= SEMANTIC_COSINE for form in forms[one.question_key])

    return {one.trace_id: near(one) for one in candidates}


def _numbers(fates: Sequence[Fate], near: Mapping[str, bool] | None) -> dict[str, Any]:
    every = [fate.candidate for fate in fates]
    kept = [fate for fate in fates if fate.reason is None]
    dropped = Counter(fate.reason for fate in fates if fate.reason is not None)
    judged = [one for one in every if one.judged is not None and one.prediction is not None]
    heard = len(judged) + sum(one.prediction is None for one in every)
    return {
        "candidates": len(every),
        "kept": len(kept),
        "dropped": {reason: dropped[reason] for reason in REASONS if dropped[reason]},
        "accuracy": _share(sum(_right(one) for one in every), len(every)),
        "semantic_match": None if near is None else _share(sum(near[one.trace_id] for one in every), len(every)),
        "judged": len(judged),
        "judge_accuracy": _share(sum(bool(one.judged) for one in judged), heard) if judged else None,
        "judge_agreement": _share(sum(one.judged == one.correct for one in judged), len(judged)),
        **_lengths([one.thinking_tokens for one in every], "thinking_tokens"),
        **_lengths([fate.candidate.thinking_tokens for fate in kept], "kept_thinking_tokens"),
        **_lengths([fate.tokens for fate in kept if fate.tokens is not None], "example_tokens"),
    }


def _right(one: Candidate) -> bool:
    return one.prediction is not None and one.correct


def _share(count: int, total: int) -> float | None:
    return count / total if total else None


def _lengths(values: Sequence[int], name: str) -> dict[str, float | int | None]:
    ordered = sorted(values)
    return {
        f"mean_{name}": sum(ordered) / len(ordered) if ordered else None,
        f"median_{name}": _percentile(ordered, 0.5),
        f"p95_{name}": _percentile(ordered, 0.95),
        f"max_{name}": ordered[-1] if ordered else None,
    }


def _percentile(ordered: Sequence[int], share: float) -> int | None:
    return ordered[math.ceil(share * len(ordered)) - 1] if ordered else None
