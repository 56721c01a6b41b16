"""The ladder: one nested generation stands for independent runs at every budget."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from models.budgets import LadderJob, LadderOutcome, LadderPlan, Thought, answer_seed, run_ladder
from models.engines.base import Completion, Engine, GenerationLog, Request
from models.formats import FORMATS, bind, decode, render_prompt
from store.types import InputError, Message, Sampling

PLAIN, BLOCKS, TAGS = FORMATS["plain"], FORMATS["blocks"], FORMATS["tags"]
GREEDY = Sampling()
WARM = Sampling(temperature=0.7, top_p=0.8, top_k=20, repetition_penalty=1.05)
QUESTIONS = ("What is the capital of France?", "Name the author of Hamlet and tell me about him.")


def job(i: int, budgets: tuple[int | None, ...], thought: Thought | None = None) -> LadderJob:
    return LadderJob(f"t{i}", (Message(role="user", content=QUESTIONS[i % 2]),), 7 + i, thought, budgets)


class Scripted:
    """An engine that continues every prompt by a given script: what a model does is set, how it is asked is real."""

    name, version, dtype, device, context_length = "scripted", "0", "none", "cpu", 8192

    def __init__(self, tokenizer: Any, script: Sequence[int], stop: int | None, answer: Sequence[int] = (5, 6)) -> None:
        self.tokenizer = tokenizer
        self.eos_token_ids = frozenset({tokenizer.eos_token_id})
        self.script, self.stop, self.answer = tuple(script), stop, tuple(answer)
        self.calls: list[list[Request]] = []

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, stop_ids: frozenset[int]
    ) -> Iterator[Completion]:
        self.calls.append(list(requests))
        for r in requests:
            script, stop = (self.answer, self.tokenizer.eos_token_id) if "/" in r.id else (self.script, self.stop)
            ended = stop is not None and len(script) < r.max_tokens
            yield Completion(
                r.id, script[: r.max_tokens], stop if ended else None, "stop" if ended else "length",
                len(r.token_ids), 0,
            )  # fmt: skip

    def close(self) -> None: ...


def ladder(engine: Any, jobs: Sequence[LadderJob], plan: LadderPlan, fmt: Any = PLAIN) -> list[LadderOutcome]:
    return list(run_ladder(engine, jobs, plan, fmt, 8))


class TestPlan:
    @pytest.mark.parametrize(
        ("budgets", "named"), [((0, 4), "0"), ((-3,), "-3"), ((8, 8), "8 after 8"), ((None, 4), "last"), ((99,), "99")]
    )
    def test_a_wrong_budget_is_named(self, budgets: tuple[int | None, ...], named: str) -> None:
        with pytest.raises(ValidationError, match=named):
            LadderPlan(budgets=budgets, max_thinking_tokens=64)

    def test_a_job_may_only_ask_for_budgets_of_the_plan(self, tokenizer: Any) -> None:
        plan = LadderPlan(budgets=(4, 8), max_thinking_tokens=8)
        with pytest.raises(InputError, match="budget 6"):
            ladder(Scripted(tokenizer, [9], None), [job(0, (6,))], plan)


@pytest.mark.real
class TestRealModel:
    def test_greedy_ladder_equals_independent_budget_forced_runs(self, engine: Engine) -> None:
        budgets = (8, 16, 32)
        plan = LadderPlan(budgets=budgets, max_thinking_tokens=32, max_answer_tokens=8)
        for fmt in (PLAIN, BLOCKS):
            jobs = [job(i, budgets) for i in range(2)]
            ids = bind(fmt, engine.tokenizer)
            stops = ids.stops | engine.eos_token_ids
            for outcome, each in zip(ladder(engine, jobs, plan, fmt), jobs, strict=True):
                prompt = render_prompt(engine.tokenizer, each.messages, fmt)
                assert outcome.thought is not None
                for answer in outcome.answers:
                    assert answer.budget is not None
                    alone = Request("think", tuple(prompt), answer.budget, 1)
                    thought = next(iter(engine.generate([alone], GREEDY, stops)))
                    assert thought.token_ids == outcome.thought.token_ids[: answer.thinking_tokens]
                    assert (thought.finish == "length") == answer.cut
                    if answer.forced:
                        text = (*prompt, *thought.token_ids, *ids.close, *ids.forced)
                        forced = next(iter(engine.generate([Request("answer", text, 8, 1)], GREEDY, stops)))
                        assert forced.token_ids == answer.answer_token_ids

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
        outcome = next(iter(run_ladder(engine, jobs, plan, PLAIN, 8, GenerationLog(path, "u"))))
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert [line.get("phase") for line in lines] == ["think", None, "answer", None]
        spent = sum(line.get("tokens", 0) for line in lines)
        assert outcome.thought is not None
        assert spent == 16 + sum(a.answer_tokens for a in outcome.answers)
        assert all(a.answer_tokens <= 5 for a in outcome.answers)


class TestSemantics:
    def test_a_plain_response_that_ended_with_its_answer_needs_no_other(self, tokenizer: Any) -> None:
        text = "It is \\boxed{Paris}."
        script = tokenizer(text, add_special_tokens=False)["input_ids"]
        engine, n = Scripted(tokenizer, script, tokenizer.eos_token_id), len(script)
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
        engine = Scripted(tokenizer, [504] * 6, ids.marker)
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
        engine = Scripted(tokenizer, [504] * 3, tokenizer.eos_token_id)
        plan = LadderPlan(budgets=(None,), max_thinking_tokens=16)
        outcome = ladder(engine, [job(0, (None,))], plan, BLOCKS)[0]
        assert outcome.thought is not None
        assert (outcome.thought.ended, outcome.answers[0].cut, outcome.answers[0].forced) == ("eos", False, True)

    def test_at_the_limit_an_unlimited_thought_counts_as_cut(self, tokenizer: Any) -> None:
        plan = LadderPlan(budgets=(None,), max_thinking_tokens=4)
        outcome = ladder(Scripted(tokenizer, [504] * 9, None), [job(0, (None,))], plan)[0]
        assert outcome.thought is not None
        assert outcome.thought.ended == "length"
        assert outcome.answers[0].cut

    def test_only_missing_budgets_are_answered_and_a_given_thought_is_not_generated(self, tokenizer: Any) -> None:
        engine = Scripted(tokenizer, [1], None)
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
            a.thinking_chars for a in ladder(Scripted(tokenizer, [], None), [job(0, budgets, given)], plan)[0].answers
        ]
        assert chars == sorted(chars)
        assert chars[-1] == len(text)
        for budget, n in zip(budgets, chars, strict=True):
            assert decode(tokenizer, ids[:budget]).rstrip("�") == text[:n]

    def test_a_prompt_without_room_is_counted_as_cut_and_stops_nothing(self, tokenizer: Any) -> None:
        engine = Scripted(tokenizer, [504], tokenizer.eos_token_id)
        engine.context_length = 60
        plan = LadderPlan(budgets=(4, None), max_thinking_tokens=8, max_answer_tokens=8)
        long = job(0, (4, None))._replace(messages=(Message(role="user", content="word " * 80),))
        outcome = ladder(engine, [long], plan)[0]
        assert all(a.cut and not a.answer_text for a in outcome.answers)
        assert engine.calls == []

    def test_chunks_stream(self, tokenizer: Any) -> None:
        engine = Scripted(tokenizer, [504], bind(BLOCKS, tokenizer).marker)
        stream = run_ladder(engine, (job(i, (None,)) for i in range(5)), LadderPlan(max_thinking_tokens=8), BLOCKS, 2)
        next(stream)
        assert [len(call) for call in engine.calls] == [2, 2]


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
