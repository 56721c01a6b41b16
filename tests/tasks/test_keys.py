"""Keys: what changes them, and what must not."""

from __future__ import annotations

import pytest

from store.types import Message, Prompt, Sampling, digest
from tasks.keys import (
    AnswerSpec,
    ThoughtSpec,
    TracesSpec,
    asked_key,
    cache_key,
    seed_of,
    set_key,
    thought_id,
    trace_id,
)

THOUGHT = ThoughtSpec(model_key="m", format="plain", sampling=Sampling(temperature=0.7), max_thinking_tokens=64, seed=1)
ANSWER = AnswerSpec(forced_answer="Final answer:", max_answer_tokens=16)
UNIT = TracesSpec(thought=THOUGHT, answer=ANSWER, prompt_set="p", samples=4, budgets=(16, 64))


class TestRowKeys:
    def test_more_samples_questions_or_budgets_leave_row_keys_alone(self) -> None:
        wider = UNIT.model_copy(update={"samples": 16, "budgets": (16, 32, 64), "prompt_set": "q"})
        assert wider.key != UNIT.key
        assert wider.thought.key == UNIT.thought.key
        assert thought_id(wider.thought, "d", "q1", "p1", 0) == thought_id(UNIT.thought, "d", "q1", "p1", 0)

    @pytest.mark.parametrize(
        "change",
        [
            {"model_key": "n"},
            {"format": "blocks"},
            {"sampling": Sampling(temperature=0.8)},
            {"max_thinking_tokens": 128},
            {"seed": 2},
        ],
    )
    def test_what_changes_a_thought_changes_its_key(self, change: dict[str, object]) -> None:
        other = THOUGHT.model_copy(update=change)
        assert thought_id(other, "d", "q1", "p1", 0) != thought_id(THOUGHT, "d", "q1", "p1", 0)

    def test_rows_differ_by_question_prompt_sample_and_budget(self) -> None:
        rows = {
            thought_id(THOUGHT, dataset, question, prompt, sample)
            for dataset in "ab"
            for question in "cd"
            for prompt in "ef"
            for sample in range(3)
        }
        assert len(rows) == 24
        assert len({trace_id("t", ANSWER, budget) for budget in (None, 1, 2)}) == 3

    def test_rows_that_land_together_have_keys_that_stand_together(self) -> None:
        keys = [thought_id(THOUGHT, "d", question, "p", sample) for question in "abc" for sample in range(3)]
        keys += [trace_id(key, ANSWER, budget) for key in keys for budget in (8, None)]
        assert len(set(keys)) == 27
        assert {key[:8] for key in keys} == {THOUGHT.key[:8]}
        assert {len(key) for key in keys} == {32}

    def test_seeds_come_from_the_row_and_fit_31_bits(self) -> None:
        seeds = {seed_of(thought_id(THOUGHT, "d", "q", "p", sample)) for sample in range(100)}
        assert len(seeds) == 100
        assert all(0 <= seed < 2**31 for seed in seeds)


class TestAsked:
    def test_who_answers_does_not_matter(self) -> None:
        student = {"model_key": "student:s", "format": "blocks"}
        forced = ANSWER.model_copy(update={"forced_answer": "So:"})
        other = UNIT.model_copy(update={"thought": THOUGHT.model_copy(update=student), "answer": forced})
        assert other.key != UNIT.key
        assert asked_key(other) == asked_key(UNIT)

    @pytest.mark.parametrize(
        "change",
        [
            {"thought": THOUGHT.model_copy(update={"max_thinking_tokens": 128})},
            {"thought": THOUGHT.model_copy(update={"sampling": Sampling(temperature=0.8)})},
            {"thought": THOUGHT.model_copy(update={"seed": 2})},
            {"answer": ANSWER.model_copy(update={"max_answer_tokens": 32})},
            {"prompt_set": "q"},
            {"samples": 1},
            {"budgets": (16,)},
        ],
    )
    def test_what_is_asked_and_how_does(self, change: dict[str, object]) -> None:
        assert asked_key(UNIT.model_copy(update=change)) != asked_key(UNIT)


class TestDigests:
    def test_known_value(self) -> None:
        # Guards stores in the field: a change of the canonical form would orphan every landed row.
        assert digest({"b": 1, "a": ["x", None]}) == "51ea4a015bf57b32336168fc743a8366"

    def test_set_keys_ignore_order(self) -> None:
        assert set_key([["a", 1], ["b", 2]]) == set_key([["b", 2], ["a", 1]]) != set_key([["a", 1]])

    def test_a_prompt_is_known_by_its_words_alone(self) -> None:
        words = (Message(role="user", content="Who wrote Hamlet?"),)
        assert Prompt(question_id="1", messages=words).key == Prompt(question_id="2", messages=words).key

    def test_prefect_and_the_store_use_one_key(self) -> None:
        class Order:
            key = "k"

        assert cache_key(None, {"order": Order()}) == "k"
