"""From rows of traces to training examples: what a student is asked, and what it learns to write."""

from __future__ import annotations

from typing import Any

from models.prompts import question_prompt
from models.training_text import Example
from store.connection import Store
from store.types import Answer, Question, Setting
from tasks.questions import stored_questions


def examples_of(store: Store, training_set: str) -> tuple[list[Example], list[Example]]:
    """The training and the held-out examples of a training set, in its order."""
    rows = store.query(_ROWS, [training_set])
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


_ROWS = """
SELECT r.*, left(h.text, t.thinking_chars) AS thinking
FROM traces t JOIN thought_texts h ON h.thought_id = t.thought_id
JOIN training_rows r ON r.trace_id = t.trace_id WHERE r.training_set = ? ORDER BY r.position
"""
