"""Training sets: the correct traces of the teachers, a few a question, on which students are trained.

A trace enters if its answer is right, its thought was not cut, and it fits the length; every trace left out is counted with
its reason. Held-out questions are drawn by question, so that no question stands on both sides.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from prefect import task

from models.prompts import question_prompt
from models.training_text import Example, training_set_hash
from store.connection import Store
from store.home import Home
from store.types import Answer, Frozen, InputError, Question, Setting, digest
from tasks.keys import TrainingSetSpec
from tasks.landing import UNIT_OPTIONS, Clock
from tasks.questions import stored_questions
from tasks.verdicts import PredictionsOrder


class TrainingSetOrder(Frozen):
    """A work order: the training set of one recipe, from the predictions of its teachers' traces."""

    name: str
    spec: TrainingSetSpec
    predictions: tuple[PredictionsOrder, ...]

    @property
    def key(self) -> str:
        """The unit's key."""
        return self.spec.key


@task(name="training set", **UNIT_OPTIONS)
def training_set(order: TrainingSetOrder) -> str:
    """The key of the training set, which is the hash of its content."""
    return land_training_set(order, Home.current().store)


def land_training_set(order: TrainingSetOrder, store: Store) -> str:
    """The body of :func:`training_set`. Raises InputError if no trace is right, with the counts of what was left out."""
    clock, spec = Clock(), order.spec
    found = store.query("SELECT versions ->> 'training_set' AS hash FROM units WHERE unit_key = ?", [order.key])
    if found:
        return str(found[0]["hash"])
    candidates = [row for one in order.predictions for row in _candidates(store, one, spec)]
    chosen, dropped = choose(candidates, spec.max_per_question)
    statistics = {**_quality(candidates), "candidates": len(candidates), "kept": len(chosen), "dropped": dict(dropped)}
    if not chosen:
        raise InputError(
            f"the {spec.recipe} training set is empty: of {len(candidates)} traces {dict(dropped)}; ask a better teacher, or "
            "raise distill.samples, distill.max_thinking_tokens or train.limit"
        )
    held_out = held_out_questions([row["question_key"] for row in chosen], spec.held_out, spec.seed)
    questions = stored_questions(store, [row["question_key"] for row in chosen])
    key = training_set_hash([example(row, questions[row["question_key"]]) for row in chosen])
    statistics["held_out_questions"] = len(held_out)
    rows = [
        {
            "training_set": key,
            "position": position,
            "trace_id": row["trace_id"],
            "question_key": row["question_key"],
            "prediction": row["prediction"],
            "held_out": row["question_key"] in held_out,
        }
        for position, row in enumerate(chosen)
    ]
    header = {
        "training_set": key,
        "recipe": spec.recipe.value,
        "row_count": len(chosen),
        "statistics": json.dumps(statistics, sort_keys=True),
    }
    unit = clock.unit("training_set", order, spec, rows=len(chosen), details={"training_set": key})
    store.land({"training_rows": rows, "training_sets": [header]}, unit)
    return key


def choose(candidates: Sequence[dict[str, Any]], per_question: int) -> tuple[list[dict[str, Any]], Counter[str]]:
    """The rows that enter, in order of question and sample, and how many were left out for which reason."""
    dropped: Counter[str] = Counter()
    taken: Counter[str] = Counter()
    seen: set[tuple[str, str]] = set()
    chosen = []
    for row in sorted(candidates, key=lambda r: (r["question_id"], r["sample"], r["trace_id"])):
        reason = _reason(row, seen, taken[row["question_key"]] >= per_question)
        if reason:
            dropped[reason] += 1
            continue
        seen.add((row["question_key"], row["thinking"]))
        taken[row["question_key"]] += 1
        chosen.append(row)
    return chosen, dropped


def held_out_questions(keys: Sequence[str], share: float, seed: int) -> set[str]:
    """The questions kept out of training: the share with the smallest digest, at least 1 of 4 or more, never all."""
    distinct = sorted(set(keys), key=lambda key: digest([seed, key]))
    count = round(share * len(distinct))
    if share > 0 and len(distinct) >= 4:
        count = max(count, 1)
    return set(distinct[: min(count, len(distinct) - 1)])


def examples_of(store: Store, training_set: str) -> tuple[list[Example], list[Example]]:
    """The training and the held-out examples of a training set, in its order."""
    rows = store.query(
        f"{_TRACES} JOIN training_rows r ON r.trace_id = t.trace_id WHERE r.training_set = ? ORDER BY r.position",
        [training_set],
    )
    questions = stored_questions(store, [row["question_key"] for row in rows])
    made = [(example(row, questions[row["question_key"]]), row["held_out"]) for row in rows]
    return [one for one, held in made if not held], [one for one, held in made if held]


def example(row: dict[str, Any], question: Question) -> Example:
    """One training example. The student is asked as in evaluation: by the question alone, also where the teacher saw paths."""
    return Example(
        question_id=question.id,
        trace_id=row["trace_id"],
        messages=question_prompt(question, Setting.INSTRUCT).messages,
        thinking=row["thinking"],
        answer=row["prediction"],
    )


def wording() -> str:
    """Version of the prompt that students are trained on, so that a new wording makes a new training set."""
    probe = Question(id="probe", dataset="probe", split="train", text="?", answers=(Answer(text="!"),))
    return question_prompt(probe, Setting.INSTRUCT).key


_TRACES = """
SELECT r.*, left(h.text, t.thinking_chars) AS thinking
FROM traces t JOIN thought_texts h ON h.thought_id = t.thought_id
"""


def _candidates(store: Store, order: PredictionsOrder, spec: TrainingSetSpec) -> list[dict[str, Any]]:
    return store.query(
        "SELECT t.trace_id, t.question_id, t.sample, t.cut, t.thinking_tokens, left(h.text, t.thinking_chars) AS thinking, "
        "p.prediction, s.question_key, coalesce(v.correct, false) AS correct FROM prompt_sets s "
        "JOIN questions q USING (question_key) "
        "JOIN traces t ON t.dataset = s.dataset AND t.question_id = s.question_id AND t.prompt_key = s.prompt_key "
        "JOIN thought_texts h ON h.thought_id = t.thought_id "
        "JOIN predictions p ON p.trace_id = t.trace_id AND p.parser = $parser "
        "LEFT JOIN verdicts v ON v.judge = $matcher AND v.gold_key = q.gold_key AND v.prediction_key = p.prediction_key "
        "WHERE s.set_key = $prompts AND t.thought_key = $thought AND t.answer_key = $answer AND t.sample < $samples",
        {
            "parser": spec.parser,
            "matcher": spec.matcher,
            "prompts": order.prompt_set,
            "thought": order.thought_key,
            "answer": order.answer_key,
            "samples": order.samples,
        },
    )


def _reason(row: dict[str, Any], seen: set[tuple[str, str]], full: bool) -> str | None:
    if row["prediction"] is None:
        return "no answer"
    if not row["correct"]:
        return "wrong"
    if row["cut"]:
        return "cut"
    if not row["thinking"].strip():
        return "no thinking"
    if (row["question_key"], row["thinking"]) in seen:
        return "repeated"
    return "enough of this question" if full else None


def _quality(candidates: Sequence[dict[str, Any]]) -> dict[str, float]:
    if not candidates:
        return {}
    right = sum(bool(row["correct"]) for row in candidates)
    tokens = sum(row["thinking_tokens"] for row in candidates)
    return {"accuracy": right / len(candidates), "mean_thinking_tokens": tokens / len(candidates)}
