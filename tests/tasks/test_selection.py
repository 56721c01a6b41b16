"""Which traces enter a training set, and which questions are kept out of training."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from tasks.selection import Candidate, Fate, Rules, choose, held_out_questions


def trace(question: str, sample: int, **changes: Any) -> Candidate:
    known: dict[str, Any] = {
        "part": 0,
        "recipe": "rt",
        "teacher": "t",
        "source": "s",
        "question_key": question,
        "question_id": question,
        "sample": sample,
        "prediction": "Paris",
        "correct": True,
        "judged": None,
        "cut": False,
        "thinking": f"thought {sample}",
        "thinking_tokens": 10,
        **changes,
    }
    known.setdefault("trace_id", f"{known['recipe']}-{known['teacher']}-{question}-{sample}")
    if known["teacher"] != "t":
        known["source"] = known["teacher"]
        known["thinking"] = changes.get("thinking", f"{known['teacher']} thought {sample}")
    return Candidate(**known)


def lengths(candidates: Sequence[Candidate]) -> list[int | None]:
    """A token a word; a text with a bar has a special token."""
    return [None if "|" in one.thinking else len(one.thinking.split()) for one in candidates]


def chosen(candidates: Sequence[Candidate], **rules: Any) -> tuple[list[tuple[str, int]], Counter[str]]:
    """Question and sample of what is kept, and what is dropped by reason."""
    fates = choose(candidates, Rules(**rules), lengths)
    assert len(fates) == len(candidates)
    kept = [(fate.candidate.question_id, fate.candidate.sample) for fate in fates if fate.reason is None]
    return kept, Counter(fate.reason for fate in fates if fate.reason is not None)


class TestChoose:
    def test_every_reason_is_counted(self) -> None:
        rows = [
            trace("a", 0, prediction=None),
            trace("a", 1, correct=False),
            trace("a", 2, cut=True),
            trace("a", 3, thinking="  "),
            trace("a", 4, thinking="the same"),
            trace("a", 5, thinking="\nthe \t same"),
            trace("a", 6, thinking="a <|im_end|>"),
            trace("a", 7, thinking="one two three four"),
            trace("a", 8),
            trace("a", 9),
        ]
        kept, dropped = chosen(rows, max_per_question=2, max_tokens=3)
        assert kept == [("a", 4), ("a", 8)]
        assert dropped == {
            "no answer": 1,
            "wrong": 1,
            "cut": 1,
            "no thinking": 1,
            "repeated": 1,
            "special tokens": 1,
            "too long": 1,
            "enough of this question": 1,
        }

    @pytest.mark.parametrize(
        ("accept", "expected", "reasons"),
        [
            ("exact", {0, 1, 2}, {"wrong": 3, "no answer": 1}),
            ("judge", {0, 3}, {"wrong by judge": 2, "no verdict": 2, "no answer": 1}),
            ("both", {0}, {"wrong": 3, "wrong by judge": 1, "no verdict": 1, "no answer": 1}),
        ],
    )
    def test_whose_word_counts(self, accept: Any, expected: set[int], reasons: dict[str, int]) -> None:
        verdicts = [(m, j) for m in (True, False) for j in (True, False, None)]
        rows = [trace("a", place, correct=m, judged=j) for place, (m, j) in enumerate(verdicts)]
        kept, dropped = chosen([*rows, trace("a", 6, prediction=None, judged=True)], accept=accept)
        assert {sample for _, sample in kept} == expected
        assert dropped == reasons

    def test_the_order_of_rows_does_not_matter(self) -> None:
        rows = [trace(q, s, teacher=t) for q in "cab" for s in (2, 0, 1) for t in ("u", "v")]
        rules = {"max_per_question": 2, "limits": (5,)}
        expected = chosen(rows, **rules)
        for seed in range(5):
            assert chosen(random.Random(seed).sample(rows, len(rows)), **rules) == expected
        assert [q for q, _ in expected[0]] == sorted(q for q, _ in expected[0])
        assert len(expected[0]) == 5
        assert expected[1] == {"beyond the part's limit": 5, "enough of this question": 8}

    def test_teachers_and_parts_take_turns(self) -> None:
        rows = [trace(f"q{n}", s, teacher=t) for n in range(60) for s in range(2) for t in ("u", "v")]
        kept = [f.candidate for f in choose(rows, Rules(max_per_question=2), lengths) if f.reason is None]
        assert Counter(one.teacher for one in kept) == {"u": 60, "v": 60}
        single = [f.candidate for f in choose(rows, Rules(max_per_question=1), lengths) if f.reason is None]
        assert all(20 <= count <= 40 for count in Counter(one.teacher for one in single).values())
        assert {one.sample for one in single} == {0}

    def test_a_cap_over_all_parts_is_shared_between_them(self) -> None:
        rows = [
            trace(f"q{n}", 0, part=part, recipe=recipe, thinking=recipe)
            for n in range(60)
            for part, recipe in enumerate(("rt", "fs1"))
        ]
        rules = {"limits": (None, None)}
        assert len(chosen(rows, max_per_question=1, **rules)[0]) == 120
        over_all = choose(rows, Rules(max_per_question_over_all=1, **rules), lengths)
        counts = Counter(fate.candidate.recipe for fate in over_all if fate.reason is None)
        assert sum(counts.values()) == 60
        assert all(20 <= count <= 40 for count in counts.values())

    def test_the_same_thought_counts_once_over_teachers_and_parts(self) -> None:
        rows = [
            trace("a", 0, thinking="x y"),
            trace("a", 1, teacher="u", thinking="x  y\n"),
            trace("a", 0, part=1, recipe="fs1", thinking="x y "),
            trace("b", 0, thinking="x y"),  # of another question
        ]
        kept, dropped = chosen(rows, limits=(None, None))
        assert [q for q, _ in kept] == ["a", "b"]
        assert dropped == {"repeated": 2}

    def test_a_limit_draws_questions_alike_for_every_part(self) -> None:
        rows = [
            trace(f"q{n}", 0, part=part, recipe=recipe, thinking=recipe)
            for n in range(40)
            for part, recipe in enumerate(("rt", "fs1"))
        ]

        def questions(fates: Sequence[Fate], part: int) -> set[str]:
            return {f.candidate.question_id for f in fates if f.reason is None and f.candidate.part == part}

        first = choose(rows, Rules(limits=(10, 10)), lengths)
        assert questions(first, 0) == questions(first, 1)
        assert len(questions(first, 0)) == 10
        more = choose(rows, Rules(limits=(20, None)), lengths)
        assert questions(first, 0) < questions(more, 0)  # a larger limit only adds
        assert len(questions(more, 1)) == 40
        assert questions(choose(rows, Rules(limits=(10, 10), seed=1), lengths), 0) != questions(first, 0)

    def test_questions_that_are_held_out_are_not_drawn_first(self) -> None:
        keys = [f"q{n}" for n in range(200)]
        fates = choose([trace(key, 0) for key in keys], Rules(limits=(40,)), lengths)
        kept = {fate.candidate.question_key for fate in fates if fate.reason is None}
        assert len(kept & held_out_questions(keys, keys, 0.2, 0)) < 20


class TestHeldOut:
    @pytest.mark.parametrize(
        ("questions", "share", "expected"),
        [(20, 0.1, 2), (4, 0.01, 1), (3, 0.1, 0), (9, 0.0, 0), (1, 0.9, 0), (2, 0.9, 1)],
    )
    def test_the_share_is_kept_and_never_all(self, questions: int, share: float, expected: int) -> None:
        keys = [f"q{number}" for number in range(questions)]
        assert len(held_out_questions([*keys, *keys], keys, share, 0)) == expected

    def test_it_depends_on_the_seed_and_not_on_the_order(self) -> None:
        keys = [f"q{number}" for number in range(40)]
        assert held_out_questions(keys, keys, 0.2, 0) == held_out_questions(keys[::-1], keys[::-1], 0.2, 0)
        assert held_out_questions(keys, keys, 0.2, 0) != held_out_questions(keys, keys, 0.2, 1)

    def test_no_set_of_a_study_trains_on_what_another_holds_out(self) -> None:
        study = [f"q{number}" for number in range(400)]
        draw = random.Random(3)
        sets = [draw.sample(study, size) for size in (60, 200, 390)]
        held = [held_out_questions(mine, study, 0.1, 7) for mine in sets]
        for mine, out in zip(sets, held, strict=True):
            assert 0.04 * len(mine) < len(out) < 0.16 * len(mine)
            assert not (set(mine) - out) & set().union(*held)

    def test_a_small_set_without_any_of_them_holds_out_one(self) -> None:
        study = [f"q{number}" for number in range(400)]
        drawn = held_out_questions(study, study, 0.1, 0)
        others = [key for key in study if key not in drawn][:6]
        assert len(held_out_questions(others, study, 0.1, 0)) == 1
        assert held_out_questions(others[:3], study, 0.1, 0) == set()
        within = sorted(drawn)[:5]
        assert len(held_out_questions(within, study, 0.1, 0)) == 4
