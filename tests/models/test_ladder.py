"""The ladder at work: one nested generation stands for independent runs at every budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from scripted_engine import Scripted

from models.budgets import Extension, LadderJob, LadderOutcome, LadderPlan, Thought, answer_seed
from models.engines.base import Engine, GenerationLog, Request, generate
from models.formats import FORMATS, bind, decode, render_prompt
from models.ladder import run_ladder
from store.types import InputError, Message, Sampling

PLAIN, BLOCKS, TAGS = FORMATS["plain"], FORMATS["blocks"], FORMATS["tags"]
GREEDY = Sampling()
WARM = Sampling(temperature=0.7, top_p=0.8, top_k=20, repetition_penalty=1.05)
QUESTIONS = ("What is the capital of France?", "Name the author of Hamlet and tell me about him.")


def job(i: int, budgets: tuple[int | None, ...], thought: Thought | None = None) -> LadderJob:
    return LadderJob(f"t{i}", (Message(role="user", content=QUESTIONS[i % 2]),), 7 + i, thought, budgets)


def ladder(engine: Any, jobs: Sequence[LadderJob], plan: LadderPlan, fmt: Any = PLAIN) -> list[LadderOutcome]:
    """Outcomes in the order of the jobs."""
    done = {outcome.thought_id: outcome for outcome in run_ladder(engine, jobs, plan, fmt, 8)}
    return [done[job.thought_id] for job in jobs]


@pytest.mark.real
class TestRealModel:
    @pytest.mark.parametrize("fmt", [PLAIN, BLOCKS], ids=["plain", "blocks"])
    def test_greedy_ladder_equals_independent_budget_forced_runs(self, engine: Engine, fmt: Any) -> None:
        budgets = (6, 12, 24)
        plan = LadderPlan(budgets=budgets, max_thinking_tokens=24, max_answer_tokens=6)
        jobs = [job(i, budgets) for i in range(2)]
        ids = bind(fmt, engine.tokenizer)
        stops = ids.stops | engine.eos_token_ids
        for outcome, each in zip(ladder(engine, jobs, plan, fmt), jobs, strict=True):
            prompt = render_prompt(engine.tokenizer, each.messages, fmt)
            assert outcome.thought is not None
            for answer in outcome.answers:
                assert answer.budget is not None
                thought = next(generate(engine, [Request("think", tuple(prompt), answer.budget, 1)], GREEDY, stops))
                assert thought.token_ids == outcome.thought.token_ids[: answer.thinking_tokens]
                assert (thought.finish == "length") == answer.cut
                if answer.forced:
                    text = (*prompt, *thought.token_ids, *ids.close, *ids.forced)
                    forced = next(generate(engine, [Request("answer", text, 6, 1)], GREEDY, stops))
                    assert forced.token_ids == answer.answer_token_ids

    def test_an_extended_ladder_equals_independent_extended_runs(self, engine: Engine) -> None:
        budgets = (12, 40)
        extension = Extension(margin=4)
        plan = LadderPlan(budgets=budgets, max_thinking_tokens=40, max_answer_tokens=4, extension=extension)
        jobs = [job(i, budgets) for i in range(2)]
        nested = ladder(engine, jobs, plan)
        assert any(outcome.thought and outcome.thought.injected for outcome in nested), "no end was put off"
        for budget in budgets:
            single = plan.model_copy(update={"budgets": (budget,)})
            runs = ladder(engine, [each._replace(budgets=(budget,)) for each in jobs], single)
            for whole, one in zip(nested, runs, strict=True):
                assert whole.thought is not None
                assert one.thought is not None
                slice_ = next(answer for answer in whole.answers if answer.budget == budget)
                assert one.thought.token_ids == whole.thought.token_ids[: slice_.thinking_tokens]
                (answer,) = one.answers
                kept = (
                    "thinking_tokens",
                    "thinking_chars",
                    "cut",
                    "forced",
                    "extensions",
                    "answer_token_ids",
                    "finish",
                )
                assert [getattr(answer, name) for name in kept] == [getattr(slice_, name) for name in kept]

    def test_sampled_prefixes_are_nested_and_do_not_depend_on_neighbours(self, engine: Engine) -> None:
        plan = LadderPlan(sampling=WARM, budgets=(6, 12), max_thinking_tokens=12, max_answer_tokens=4)
        together = ladder(engine, [job(i, (6, 12)) for i in range(4)], plan)
        alone = ladder(engine, [job(2, (6, 12))], plan)
        first, third, lonely = together[0].thought, together[2].thought, alone[0].thought
        assert first is not None
        assert third is not None
        assert lonely is not None
        assert third.token_ids == lonely.token_ids != first.token_ids
        assert [a.answer_text for a in together[2].answers] == [a.answer_text for a in alone[0].answers]
        texts = {a.thinking_chars: o.thought.text[: a.thinking_chars] for o in together for a in o.answers if o.thought}
        assert all(texts.values())

    def test_cost_is_the_longest_budget_and_the_answers(self, engine: Engine, tmp_path: Any) -> None:
        import json

        plan = LadderPlan(budgets=(4, 8, 16), max_thinking_tokens=16, max_answer_tokens=5)
        path = tmp_path / "log.jsonl"
        jobs = [job(1, (4, 8, 16))]
        (outcome,) = run_ladder(engine, jobs, plan, PLAIN, 8, GenerationLog(path, "u"))
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert [line["phase"] for line in lines if "phase" in line] == ["think", "answer"]
        started = [identity for line in lines for identity in line.get("ids", [])]
        assert sorted(started) == sorted(identity for line in lines for identity in line.get("ended", []))
        spent = sum(line.get("tokens", 0) for line in lines)
        assert outcome.thought is not None
        assert spent == outcome.thought.generated + sum(a.answer_tokens for a in outcome.answers)
        assert outcome.thought.generated == 16
        assert all(a.answer_tokens <= 5 for a in outcome.answers)


class TestSemantics:
    def test_a_plain_response_that_ended_with_its_answer_needs_no_other(self, tokenizer: Any) -> None:
        text = "It is \\boxed{Paris}."
        script = tokenizer(text, add_special_tokens=False)["input_ids"]
        engine, n = Scripted(tokenizer, script, stop=tokenizer.eos_token_id), len(script)
        plan = LadderPlan(budgets=(n, n + 1, None), max_thinking_tokens=64)
        just, over, unlimited = ladder(engine, [job(0, (n, n + 1, None))], plan)[0].answers
        # The end itself is a token: a budget of exactly the text's tokens does not see it.
        assert (just.cut, just.forced) == (True, True)
        assert just.answer_text.startswith("\n\nFinal answer: \\boxed{")
        assert (over.cut, over.forced, over.answer_tokens) == (False, False, 0)
        assert over.answer_text == unlimited.answer_text == text
        assert [len(call) for call in engine.calls] == [1, 1]

    def test_a_thought_that_closes_itself_is_answered_unforced(self, tokenizer: Any) -> None:
        ids = bind(BLOCKS, tokenizer)
        engine = Scripted(tokenizer, [504] * 6, stop=ids.marker)
        plan = LadderPlan(budgets=(4, 8, None), max_thinking_tokens=16)
        outcome = ladder(engine, [job(0, (4, 8, None))], plan, BLOCKS)[0]
        assert outcome.thought is not None
        assert outcome.thought.ended == "marker"
        four, eight, unlimited = outcome.answers
        assert (four.cut, four.forced, four.thinking_tokens) == (True, True, 4)
        assert (eight.cut, eight.forced, eight.thinking_tokens, eight.shared) == (False, False, 6, False)
        assert unlimited == eight._replace(budget=None, shared=True)
        cut, natural = engine.calls[1]
        assert decode(tokenizer, cut.token_ids).endswith("<|im_start|>answer\nAnswer: \\boxed{")
        assert decode(tokenizer, natural.token_ids).endswith("<|im_start|>answer\n")

    def test_a_thought_that_forgot_its_answer_is_forced_but_not_cut(self, tokenizer: Any) -> None:
        engine = Scripted(tokenizer, [504] * 3, stop=tokenizer.eos_token_id)
        plan = LadderPlan(budgets=(None,), max_thinking_tokens=16)
        outcome = ladder(engine, [job(0, (None,))], plan, BLOCKS)[0]
        assert outcome.thought is not None
        assert (outcome.thought.ended, outcome.answers[0].cut, outcome.answers[0].forced) == ("eos", False, True)

    def test_at_the_limit_an_unlimited_thought_counts_as_cut(self, tokenizer: Any) -> None:
        plan = LadderPlan(budgets=(None,), max_thinking_tokens=4)
        outcome = ladder(Scripted(tokenizer, [504] * 9, stop=None), [job(0, (None,))], plan)[0]
        assert outcome.thought is not None
        assert outcome.thought.ended == "length"
        assert outcome.answers[0].cut

    def test_only_missing_budgets_are_answered_and_a_given_thought_is_not_generated(self, tokenizer: Any) -> None:
        engine = Scripted(tokenizer, [1], stop=None)
        given = Thought((504,) * 12, decode(tokenizer, [504] * 12), "length", 30)
        plan = LadderPlan(budgets=(4, 8, 12), max_thinking_tokens=12)
        outcome = ladder(engine, [job(0, (8,), given)], plan)[0]
        assert outcome.thought is None
        assert [a.budget for a in outcome.answers] == [8]
        assert len(engine.calls) == 1
        assert engine.calls[0][0].seed == answer_seed(7, 8)

    def test_a_prefix_never_splits_a_character(self, tokenizer: Any) -> None:
        text = "naïve 東京 🦉 end"
        ids = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
        given = Thought(ids, text, "length", 30)
        budgets = tuple(range(1, len(ids) + 1))
        plan = LadderPlan(budgets=budgets, max_thinking_tokens=len(ids))
        chars = [
            a.thinking_chars
            for a in ladder(Scripted(tokenizer, [], stop=None), [job(0, budgets, given)], plan)[0].answers
        ]
        assert chars == sorted(chars)
        assert chars[-1] == len(text)
        for budget, n in zip(budgets, chars, strict=True):
            assert decode(tokenizer, ids[:budget]).rstrip("�") == text[:n]

    def test_a_prompt_without_room_is_counted_as_cut_and_stops_nothing(self, tokenizer: Any) -> None:
        engine = Scripted(tokenizer, [504], stop=tokenizer.eos_token_id)
        engine.context_length = 60
        plan = LadderPlan(budgets=(4, None), max_thinking_tokens=8, max_answer_tokens=8)
        long = job(0, (4, None))._replace(messages=(Message(role="user", content="word " * 80),))
        outcome = ladder(engine, [long], plan)[0]
        assert all(a.cut and not a.answer_text for a in outcome.answers)
        assert engine.calls == []

    def test_rows_do_not_wait_for_one_another(self, tokenizer: Any) -> None:
        engine = Scripted(tokenizer, [504], stop=bind(BLOCKS, tokenizer).marker)
        stream = run_ladder(engine, (job(i, (None,)) for i in range(5)), LadderPlan(max_thinking_tokens=8), BLOCKS, 2)
        next(stream)
        assert [len(call) for call in engine.calls] == [2, 2]
        next(stream)
        next(stream)
        assert [len(call) for call in engine.calls[:4]] == [2, 2, 2, 2]

    def test_a_job_may_only_ask_for_budgets_of_the_plan(self, tokenizer: Any) -> None:
        plan = LadderPlan(budgets=(4, 8), max_thinking_tokens=8)
        with pytest.raises(InputError, match="budget 6"):
            ladder(Scripted(tokenizer, [9], stop=None), [job(0, (6,))], plan)


class TestContext:
    """A context that is shorter than what was asked for: nothing is sent that does not fit, and the study goes on."""

    @pytest.mark.parametrize("context", range(58, 90))
    def test_words_and_answers_stay_within_the_context(self, tokenizer: Any, context: int) -> None:
        engine = Scripted(tokenizer, [504] * 9, [504] * 7, [504] * 50, stop=bind(BLOCKS, tokenizer).marker)
        engine.context_length = context
        plan = LadderPlan(
            budgets=(4, 40, None), max_thinking_tokens=64, max_answer_tokens=6, extension=Extension(margin=0)
        )
        (outcome,) = ladder(engine, [job(0, (4, 40, None))], plan, BLOCKS)
        assert all(len(r.token_ids) + r.max_tokens <= context for call in engine.calls for r in call)
        assert len(outcome.answers) == 3

    def test_a_landed_thought_that_leaves_no_room_has_no_answer(self, tokenizer: Any) -> None:
        given = Thought((504,) * 40, "x", "length", 30)
        plan = LadderPlan(budgets=(8, 40), max_thinking_tokens=40, max_answer_tokens=6)
        engine = Scripted(tokenizer, [1], stop=None)
        prompt = len(render_prompt(tokenizer, job(0, (8,)).messages, PLAIN))
        engine.context_length = prompt + 40
        (outcome,) = ladder(engine, [job(0, (8, 40), given)], plan)
        short, long = outcome.answers
        assert short.answer_tokens > 0
        assert (long.answer_text, long.answer_tokens, long.finish, long.cut) == ("", 0, "length", True)


class TestExtension:
    """An end that is put off, step by step: the model closes its thinking after each script."""

    def run(self, tokenizer: Any, budgets: tuple[int | None, ...], *scripts: int, margin: int = 2) -> Any:
        engine = Scripted(tokenizer, *([504] * n for n in scripts), stop=bind(BLOCKS, tokenizer).marker)
        plan = LadderPlan(
            budgets=budgets, max_thinking_tokens=64, max_answer_tokens=4, extension=Extension(margin=margin)
        )
        (outcome,) = ladder(engine, [job(0, budgets)], plan, BLOCKS)
        return engine, outcome

    def test_the_words_take_the_place_of_the_end_and_thinking_goes_on(self, tokenizer: Any) -> None:
        engine, outcome = self.run(tokenizer, (12, 30), 6, 9, 40)
        words = tuple(tokenizer("\nWait,", add_special_tokens=False)["input_ids"])
        thought, n = outcome.thought, len(words)
        assert thought.token_ids == (*[504] * 6, *words, *[504] * 9, *words, *[504] * (15 - 2 * n))
        assert (thought.ended, thought.injected, thought.generated) == ("length", 2 * n, 30 - 2 * n + 2)
        assert [stop.position for stop in thought.stops] == [6, 15 + n]
        assert "Wait," in thought.text
        first, second, third, _answers = engine.calls
        assert [call[0].max_tokens for call in (first, second, third)] == [30, 30 - 6 - n, 30 - 15 - 2 * n]
        assert second[0].token_ids[-n:] == words
        assert len({call[0].seed for call in (first, second, third)}) == 3

    def test_every_budget_stops_where_it_would_have_stopped_alone(self, tokenizer: Any) -> None:
        _, outcome = self.run(tokenizer, (5, 7, 12, 30, None), 6, 9, 40)
        five, seven, twelve, thirty, unlimited = outcome.answers
        assert (five.thinking_tokens, five.cut, five.extensions) == (5, True, 0)
        assert (seven.thinking_tokens, seven.cut, seven.forced) == (
            6,
            False,
            False,
        )  # within the margin: the end stands
        assert (twelve.thinking_tokens, twelve.cut, twelve.forced, twelve.extensions) == (12, True, True, 1)
        assert (thirty.thinking_tokens, thirty.cut, thirty.extensions) == (30, True, 2)
        assert (unlimited.thinking_tokens, unlimited.cut, unlimited.shared) == (6, False, True)

    def test_words_that_do_not_fit_the_budget_are_cut_with_it(self, tokenizer: Any) -> None:
        engine, outcome = self.run(tokenizer, (7,), 6, 9, margin=0)
        assert outcome.thought.ended == "length"
        assert len(outcome.thought.token_ids) == 7
        assert outcome.answers[0].cut
        assert len(engine.calls) == 2

    def test_a_landed_thought_is_answered_at_a_new_budget_by_the_same_rule(self, tokenizer: Any) -> None:
        _, outcome = self.run(tokenizer, (12, 30), 6, 9, 40)
        engine = Scripted(tokenizer, [1], stop=None)
        plan = LadderPlan(budgets=(7, 30), max_thinking_tokens=64, extension=Extension(margin=2))
        (again,) = ladder(engine, [job(0, (7,), outcome.thought)], plan, BLOCKS)
        assert (again.answers[0].thinking_tokens, again.answers[0].cut) == (6, False)
        assert len(engine.calls) == 1


class TestFormats:
    def test_a_marker_that_the_vocabulary_lacks_is_refused(self, tokenizer: Any) -> None:
        with pytest.raises(InputError, match="</think>"):
            bind(TAGS, tokenizer)

    def test_a_template_that_opens_the_thinking_gets_no_second_opening(self, tokenizer: Any) -> None:
        import copy

        opening = copy.copy(tokenizer)
        opening.chat_template = tokenizer.chat_template + "<think>\n"
        messages = [Message(role="user", content="hi")]
        ids = render_prompt(opening, messages, replace(TAGS, name="x"))
        assert decode(tokenizer, ids).count("<think>") == 1
        assert decode(tokenizer, render_prompt(tokenizer, messages, TAGS)).count("<think>") == 1
        assert decode(tokenizer, render_prompt(tokenizer, messages, BLOCKS)).endswith(
            "<|im_start|>assistant\n<|im_start|>think\n"
        )
