"""Budgets: think once, answer at every budget, on token ids.

A thought is generated once, as long as allowed. Each smaller budget is its prefix of that many tokens, followed by a
forced answer (budget forcing after s1, arXiv 2501.19393). With greedy decoding this equals independent budget-forced
runs token for token; with sampling it equals them in distribution. A ladder b1 < ... < bn costs max(b) + n answers
instead of sum(b) + n answers. Text is never tokenised again: a prefix is a prefix of ids.

A budget of b allows b tokens, the token that ends the thinking included: a thought of n tokens ended by itself within b
if n < b, just as a generation limited to b tokens would have seen its end.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, pairwise
from typing import Any, Literal, NamedTuple

from pydantic import Field, field_validator, model_validator

from models.engines.base import Completion, Engine, Finish, GenerationLog, Request
from models.formats import Format, FormatIds, bind, decode, render_prompt
from store.types import Frozen, InputError, Message, Sampling

log = logging.getLogger(__name__)

Ended = Literal["marker", "eos", "length"]

_FILLED_BOX = re.compile(r"\\boxed\s*\{\s*[^}\s]")


class LadderPlan(Frozen):
    """What holds for every row: the sampling, the rungs and the limits, all in tokens.

    ``budgets`` rise strictly; None (last) is unlimited, that is ``max_thinking_tokens``.
    """

    sampling: Sampling = Sampling()
    budgets: tuple[int | None, ...] = Field(default=(None,), min_length=1)
    max_thinking_tokens: int = Field(default=8000, ge=1)
    max_answer_tokens: int = Field(default=256, ge=1)

    @field_validator("budgets")
    @classmethod
    def _rising(cls, budgets: tuple[int | None, ...]) -> tuple[int | None, ...]:
        if None in budgets[:-1]:
            raise ValueError("budgets: null (unlimited) comes last, and once")
        finite = [b for b in budgets if b is not None]
        for budget in finite:
            if budget < 1:
                raise ValueError(f"budgets: {budget} is not a number of thinking tokens: give 1 or more, or null")
        for smaller, larger in pairwise(finite):
            if larger <= smaller:
                raise ValueError(f"budgets: {larger} after {smaller}; they rise strictly")
        return budgets

    @model_validator(mode="after")
    def _within_the_limit(self) -> LadderPlan:
        for budget in self.budgets:
            if budget is not None and budget > self.max_thinking_tokens:
                raise ValueError(f"budgets: {budget} is over max_thinking_tokens ({self.max_thinking_tokens})")
        return self


class Thought(NamedTuple):
    """A generated thought (for a ``plain`` model: its response). ``token_ids`` are without the token that ended it.

    ``ended``: "marker" closed its thinking itself, "eos" ended its turn, "length" was cut at the limit.
    """

    token_ids: tuple[int, ...]
    text: str
    ended: Ended
    prompt_tokens: int
    cached_tokens: int = 0


class LadderJob(NamedTuple):
    """One row: a prompt, its seed (0 <= seed < 2**63), the thought where it exists already, the budgets to answer."""

    thought_id: str
    messages: tuple[Message, ...]
    seed: int
    thought: Thought | None
    budgets: tuple[int | None, ...]


class BudgetAnswer(NamedTuple):
    """The answer at one budget.

    ``thinking_tokens`` and ``thinking_chars`` say which prefix of the thought was used (chars of its text, never within
    a character). ``cut``: this budget (or the limit) cut the thinking. ``forced``: the answer was forced;
    ``answer_text`` then begins with the forced words, which ``answer_token_ids`` leave out. ``answer_tokens`` were
    generated, the stop token included. ``shared``: the same prefix was answered for a smaller budget of this job, so
    that these tokens are counted there already.
    """

    budget: int | None
    thinking_tokens: int
    thinking_chars: int
    cut: bool
    forced: bool
    answer_token_ids: tuple[int, ...]
    answer_text: str
    answer_tokens: int
    shared: bool
    finish: Finish
    prompt_tokens: int
    cached_tokens: int


class LadderOutcome(NamedTuple):
    """What one job gave. ``thought`` is None where the job brought its own."""

    thought_id: str
    thought: Thought | None
    answers: tuple[BudgetAnswer, ...]


class _Slice(NamedTuple):
    """A prefix of a thought that needs one answer, or none (``request`` None), and the budgets that share it."""

    budgets: tuple[int | None, ...]
    length: int
    cut: bool
    forced: bool
    request: Request | None


def boxed(text: str) -> bool:
    """Whether the text holds a box with something in it."""
    return _FILLED_BOX.search(text) is not None


def answer_seed(seed: int, prefix: int) -> int:
    """The seed of the answer after ``prefix`` thinking tokens of the thought drawn with ``seed``; below 2**63."""
    return int.from_bytes(hashlib.sha256(f"answer:{seed}:{prefix}".encode()).digest()[:8], "big") >> 1


def run_ladder(
    engine: Engine,
    jobs: Iterable[LadderJob],
    plan: LadderPlan,
    fmt: Format,
    chunk: int = 64,
    generation_log: GenerationLog | None = None,
) -> Iterator[LadderOutcome]:
    """Think and answer for every job, ``chunk`` jobs at a time, so that a kill loses one chunk at most.

    Outcomes of a chunk come together, in the order of its jobs. A prompt with no room left in the context gets an empty
    thought that counts as cut and empty answers, and a warning: one overlong question does not stop a study.

    Raises:
        InputError: a job asks for a budget that the plan does not have, or the format does not fit the tokenizer.
    """
    ladder = _Ladder(engine, plan, bind(fmt, engine.tokenizer), generation_log or GenerationLog(None))
    stream = iter(jobs)
    while batch := list(islice(stream, chunk)):
        yield from ladder.run(batch)


class _Ladder:
    def __init__(self, engine: Engine, plan: LadderPlan, ids: FormatIds, generation_log: GenerationLog) -> None:
        self._engine, self._plan, self._ids, self._log = engine, plan, ids, generation_log
        self._stops = ids.stops | engine.eos_token_ids

    def run(self, jobs: Sequence[LadderJob]) -> Iterator[LadderOutcome]:
        for job in jobs:
            if foreign := [b for b in job.budgets if b not in self._plan.budgets]:
                raise InputError(f"{job.thought_id}: budget {foreign[0]} is not one of the plan's {self._plan.budgets}")
        prompts = [render_prompt(self._engine.tokenizer, job.messages, self._ids.format) for job in jobs]
        thoughts = self._think(jobs, prompts)
        slices = [
            self._slices(job, prompt, thought) for job, prompt, thought in zip(jobs, prompts, thoughts, strict=True)
        ]
        requests = [s.request for row in slices for s in row if s.request is not None]
        completions = self._generate("answer", requests)
        for job, thought, row in zip(jobs, thoughts, slices, strict=True):
            answers = [answer for s in row for answer in self._answers(s, thought, completions)]
            order = {budget: i for i, budget in enumerate(self._plan.budgets)}
            answers.sort(key=lambda answer: order[answer.budget])
            yield LadderOutcome(job.thought_id, None if job.thought is not None else thought, tuple(answers))

    def _generate(self, phase: str, requests: Sequence[Request]) -> dict[str, Completion]:
        if not requests:
            return {}
        self._log.started(phase, [r.id for r in requests], max(r.max_tokens for r in requests))
        done = {c.id: c for c in self._engine.generate(requests, self._plan.sampling, self._stops)}
        self._log.ended(sum(c.generated for c in done.values()))
        return done

    def _room(self, prompt: Sequence[int]) -> int:
        """Thinking tokens that leave room in the context for closing, forcing and answering."""
        after = len(self._ids.close) + len(self._ids.forced) + self._plan.max_answer_tokens
        return min(self._plan.max_thinking_tokens, self._engine.context_length - len(prompt) - after)

    def _think(self, jobs: Sequence[LadderJob], prompts: Sequence[Sequence[int]]) -> list[Thought]:
        requests = []
        for job, prompt in zip(jobs, prompts, strict=True):
            room = self._room(prompt)
            if job.thought is None and room < 1:
                log.warning("%s: %d prompt tokens leave no room in the context", job.thought_id, len(prompt))
            elif job.thought is None:
                requests.append(Request(job.thought_id, tuple(prompt), room, job.seed))
        done = self._generate("think", requests)
        return [
            job.thought if job.thought is not None else self._thought(done.get(job.thought_id), prompt)
            for job, prompt in zip(jobs, prompts, strict=True)
        ]

    def _thought(self, done: Completion | None, prompt: Sequence[int]) -> Thought:
        if done is None:
            return Thought((), "", "length", len(prompt))
        ended: Ended = "eos"
        if done.stop_token is None:
            ended = "length"
        elif done.stop_token == self._ids.marker:
            ended = "marker"
        text = decode(self._engine.tokenizer, done.token_ids)
        return Thought(done.token_ids, text, ended, done.prompt_tokens, done.cached_tokens)

    def _slices(self, job: LadderJob, prompt: Sequence[int], thought: Thought) -> list[_Slice]:
        """The distinct prefixes that the job's budgets ask for, each with its answer request where it needs one."""
        shared: dict[tuple[int, bool], list[int | None]] = {}
        total = len(thought.token_ids)
        for budget in job.budgets:
            natural = thought.ended != "length" and (budget is None or total < budget)
            length = total if budget is None else min(budget, total)
            shared.setdefault((length, not natural), []).append(budget)
        return [self._slice(job, prompt, thought, length, cut, tuple(b)) for (length, cut), b in shared.items()]

    def _slice(
        self, job: LadderJob, prompt: Sequence[int], thought: Thought, length: int, cut: bool,
        budgets: tuple[int | None, ...],
    ) -> _Slice:  # fmt: skip
        ids = self._ids
        closed = thought.ended == "marker" and not cut
        # A plain response that ended without a box is asked for its final answer in a second stage (Kojima et al. 2022).
        complete = ids.format.self_contained and thought.ended == "eos" and not cut and boxed(thought.text)
        if complete or self._room(prompt) < 1:
            return _Slice(budgets, length, cut, False, None)
        tail = ids.close_after_marker if closed else ids.close + ids.forced
        request = Request(
            id=f"{job.thought_id}/{length}{'cut' if cut else ''}",
            token_ids=(*prompt, *thought.token_ids[:length], *tail),
            max_tokens=self._plan.max_answer_tokens,
            seed=answer_seed(job.seed, length),
            stem=len(prompt),
        )
        return _Slice(budgets, length, cut, not closed, request)

    def _answers(self, part: _Slice, thought: Thought, done: dict[str, Completion]) -> Iterator[BudgetAnswer]:
        tokenizer = self._engine.tokenizer
        chars = len(thought.text) if part.length == len(thought.token_ids) else _chars(tokenizer, thought, part.length)
        completion = None if part.request is None else done[part.request.id]
        for i, budget in enumerate(part.budgets):
            if completion is None:
                text = "" if part.cut else thought.text
                finish: Finish = "length" if part.cut else "stop"
                yield BudgetAnswer(budget, part.length, chars, part.cut, False, (), text, 0, i > 0, finish, 0, 0)
                continue
            yield BudgetAnswer(
                budget=budget,
                thinking_tokens=part.length,
                thinking_chars=chars,
                cut=part.cut,
                forced=part.forced,
                answer_token_ids=completion.token_ids,
                answer_text=decode(tokenizer, (*(self._ids.forced if part.forced else ()), *completion.token_ids)),
                answer_tokens=completion.generated,
                shared=i > 0,
                finish=completion.finish,
                prompt_tokens=completion.prompt_tokens,
                cached_tokens=completion.cached_tokens,
            )


def _chars(tokenizer: Any, thought: Thought, length: int) -> int:
    """Characters of the thought's text that its first ``length`` tokens cover wholly.

    Half a character decodes to a replacement character, which the whole text does not have there.
    """
    prefix = decode(tokenizer, thought.token_ids[:length])
    return next((i for i, (a, b) in enumerate(zip(prefix, thought.text, strict=False)) if a != b), len(prefix))
