"""Which traces enter a training set, and which questions are kept out of training."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.training_sets import choose, held_out_questions


def row(question: str, sample: int, **changes: Any) -> dict[str, Any]:
    return {
        "question_key": question,
        "question_id": question,
        "sample": sample,
        "trace_id": f"{question}-{sample}",
        "prediction": "Paris",
        "correct": True,
        "cut": False,
        "thinking": f"thought {sample}",
        **changes,
    }


class TestChoose:
    def test_every_reason_is_counted(self) -> None:
        rows = [
            row("a", 0, prediction=None),
            row("a", 1, correct=False),
            row("a", 2, cut=True),
            row("a", 3, thinking="  "),
            row("a", 4, thinking="same"),
            row("a", 5, thinking="same"),
            row("a", 6),
            row("a", 7),
        ]
        chosen, dropped = choose(rows, 2)
        assert [one["sample"] for one in chosen] == [4, 6]
        assert dropped == {
            "no answer": 1,
            "wrong": 1,
            "cut": 1,
            "no thinking": 1,
            "repeated": 1,
            "enough of this question": 1,
        }

    def test_the_order_of_rows_does_not_matter(self) -> None:
        rows = [row(question, sample) for question in "cab" for sample in (2, 0, 1)]
        assert choose(rows, 1)[0] == choose(rows[::-1], 1)[0]
        assert [(r["question_id"], r["sample"]) for r in choose(rows, 1)[0]] == [("a", 0), ("b", 0), ("c", 0)]


class TestHeldOut:
    @pytest.mark.parametrize(
        ("questions", "share", "expected"), [(20, 0.1, 2), (4, 0.01, 1), (3, 0.1, 0), (9, 0.0, 0), (1, 0.9, 0)]
    )
    def test_the_share_is_kept_and_never_all(self, questions: int, share: float, expected: int) -> None:
        keys = [f"q{number}" for number in range(questions)]
        assert len(held_out_questions([*keys, *keys], share, 0)) == expected

    def test_it_depends_on_the_seed_and_not_on_the_order(self) -> None:
        keys = [f"q{number}" for number in range(40)]
        assert held_out_questions(keys, 0.2, 0) == held_out_questions(keys[::-1], 0.2, 0)
        assert held_out_questions(keys, 0.2, 0) != held_out_questions(keys, 0.2, 1)
