"""How students do on dev questions, counted from their landed predictions, and which variant of a sweep is the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from models.embedded import default_cache
from models.registry import model_key
from store.connection import Store
from tasks.keys import asked_key
from tasks.traces import TracesOrder
from tasks.verdicts import PredictionsOrder

Row = Mapping[str, Any]


def held_out_keys(store: Store, training_set: str) -> set[str]:
    """Keys of the questions held out of a training set, by the hash of its content."""
    rows = store.query(
        "SELECT DISTINCT question_key FROM training_rows WHERE training_set = ? AND held_out", [training_set]
    )
    return {row["question_key"] for row in rows}


def land_check(
    store: Store, base: str, student: str | None, dataset: str, asked: TracesOrder, order: PredictionsOrder
) -> bool:
    """Count the predictions ``order`` of ``asked`` as a check of a student (None: ``base`` as it is); both have landed.

    Returns whether it is new.
    """
    spec = order.spec
    counts = store.query(
        _COUNTED,
        {
            "parser": spec.parser,
            "matcher": spec.matcher,
            "prompts": order.prompt_set,
            "thought": order.thought_key,
            "answer": order.answer_key,
            "budgets": list(order.budgets),
        },
    )
    row = {
        "check_key": order.key,
        "traces_key": spec.traces,
        "base": base,
        "student_key": student,
        "base_key": model_key(asked.model.entry, default_cache()),
        "dataset": dataset,
        "questions": spec.questions,
        "asked": asked_key(asked.spec),
    }
    return store.land({"student_checks": [row | counts[0]]}) > 0


def checked(store: Store, check_keys: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Rows of the view ``student_quality`` by the key of their check; checks that have not landed are left out."""
    rows = store.query_for(check_keys, "SELECT * FROM student_quality SEMI JOIN wanted_ids ON wanted = check_key")
    return {row["check_key"]: row for row in rows}


def best_of(rows: Sequence[Row]) -> int:
    """The place of the row with the highest dev accuracy; of equal ones that with the lowest held-out loss, then the first."""

    def rank(place: int) -> tuple[float, float, int]:
        loss = rows[place]["held_out_after"]
        return -rows[place]["accuracy"], float("inf") if loss is None else loss, place

    return min(range(len(rows)), key=rank)


_COUNTED = """
SELECT count(*)::INTEGER AS n, count_if(coalesce(v.correct, false))::INTEGER AS correct,
       count_if(p.how = 'boxed' AND NOT t.forced)::INTEGER AS boxed, count_if(t.cut)::INTEGER AS cut,
       count_if(p.how = 'none')::INTEGER AS unparsed, count_if(p.how = 'refused')::INTEGER AS refused,
       avg(t.thinking_tokens) AS thinking_tokens
FROM prompt_sets s JOIN questions q USING (question_key)
JOIN traces t ON t.dataset = s.dataset AND t.question_id = s.question_id AND t.prompt_key = s.prompt_key
JOIN predictions p ON p.trace_id = t.trace_id AND p.parser = $parser
LEFT JOIN verdicts v ON v.judge = $matcher AND v.gold_key = q.gold_key AND v.prediction_key = p.prediction_key
WHERE s.set_key = $prompts AND t.thought_key = $thought AND t.answer_key = $answer AND t.sample = 0
    AND list_contains($budgets::INTEGER[], coalesce(t.budget, 0))
"""
