"""The prompts: what differs between settings and recipes, and what must not."""

from __future__ import annotations

import pytest

from models.prompts import EXAMPLES, judge_prompt, question_prompt, teacher_prompt
from store.types import Answer, InputError, Question, Recipe, Setting

QUESTION = Question(
    id="q1", dataset="demo", split="dev", text="What is the capital of France?", answers=(Answer(text="Paris"),)
)
GRAPH = "France, capital, Paris"


class TestQuestion:
    def test_trained_students_see_the_instruct_prompt(self) -> None:
        keys = {setting: question_prompt(QUESTION, setting).key for setting in Setting}
        assert keys[Setting.INSTRUCT] == keys[Setting.RT] == keys[Setting.FS1]
        assert keys[Setting.COT] != keys[Setting.INSTRUCT]

    def test_it_asks_for_the_box_and_does_not_tell_the_answer(self) -> None:
        for setting in Setting:
            (message,) = question_prompt(QUESTION, setting).messages
            assert "\\boxed{" in message.content
            assert QUESTION.text in message.content
            assert "Paris" not in message.content


class TestTeacher:
    def test_rt_never_sees_the_graph(self) -> None:
        assert teacher_prompt(QUESTION, Recipe.RT, GRAPH) == teacher_prompt(QUESTION, Recipe.RT, None)
        assert GRAPH not in teacher_prompt(QUESTION, Recipe.RT, GRAPH).messages[-1].content

    def test_rt_without_examples_is_the_question_prompt(self) -> None:
        alone = teacher_prompt(QUESTION, Recipe.RT, None, examples=False)
        assert alone == question_prompt(QUESTION, Setting.INSTRUCT)
        assert teacher_prompt(QUESTION, Recipe.RT, None).messages[-1:] == alone.messages

    def test_the_examples_come_first_and_have_facts_only_with_fs1(self) -> None:
        for recipe in Recipe:
            *turns, asked = teacher_prompt(QUESTION, recipe, GRAPH).messages
            assert [turn.role for turn in turns] == ["user", "assistant"] * len(EXAMPLES)
            assert QUESTION.text in asked.content
            for example, user in zip(EXAMPLES, turns[::2], strict=True):
                assert (example.graph in user.content) == (recipe is Recipe.FS1)

    def test_fs1_shows_the_graph_and_the_question(self) -> None:
        content = teacher_prompt(QUESTION, Recipe.FS1, GRAPH).messages[-1].content
        assert GRAPH in content
        assert QUESTION.text in content

    @pytest.mark.parametrize("graph", [None, "", "  \n"])
    def test_fs1_without_a_graph_is_refused(self, graph: str | None) -> None:
        with pytest.raises(InputError, match="q1"):
            teacher_prompt(QUESTION, Recipe.FS1, graph)


class TestJudge:
    def test_it_shows_gold_and_prediction(self) -> None:
        (message,) = judge_prompt(["Paris", "City of Light"], "it is Paris")
        for part in ("Paris", "City of Light", "it is Paris"):
            assert part in message.content

    def test_made_up_cases_come_first_and_show_both_digits(self) -> None:
        *turns, asked = judge_prompt(["Paris"], "it is Paris", examples=True)
        assert [turn.role for turn in turns] == ["user", "assistant"] * (len(turns) // 2)
        assert {turn.content for turn in turns[1::2]} == {"0", "1"}
        assert "it is Paris" in asked.content

    def test_no_gold_is_refused(self) -> None:
        with pytest.raises(InputError, match="gold"):
            judge_prompt([], "x")
