"""The ladder at work: think once, answer at every budget, with rows at every stage on their way through one engine.

A row thinks (and goes on after each end that is put off), then its answers are asked for, then its outcome is there.
Rows do not wait for one another: while some think, others answer, so that an engine which batches by itself stays full.
The rules are in ``models.budgets``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple, Protocol, TypeVar

from models.budgets import (
    BudgetAnswer,
    Ended,
    LadderJob,
    LadderOutcome,
    LadderPlan,
    Prefix,
    Stop,
    Thought,
    answer_seed,
    boxed,
    extension_seed,
    prefix,
)
from models.engines.base import Completion, Engine, Finish, GenerationLog, Request
from models.formats import Format, bind, decode, encode, render_prompt
from store.types import InputError, Message

log = logging.getLogger(__name__)

J = TypeVar("J", contravariant=True)
R = TypeVar("R")


class Work(Protocol[J, R]):
    """Jobs on their way: a ladder, or short questions, on whatever engine."""

    @property
    def hungry(self) -> bool:
        """Whether more jobs now would make better use of the engine."""
        ...

    def add(self, jobs: Sequence[J], /) -> None:
        """Take more jobs."""
        ...

    def wait(self) -> list[R]:
        """Work a while; what has ended (perhaps nothing yet)."""
        ...

    def close(self) -> None:
        """Drop what is on its way."""
        ...


def run_ladder(
    engine: Engine,
    jobs: Iterable[LadderJob],
    plan: LadderPlan,
    fmt: Format,
    window: int = 64,
    generation_log: GenerationLog | None = None,
) -> Iterator[LadderOutcome]:
    """Think and answer for every job, ``window`` of them on their way at a time; outcomes come as they are done.

    A prompt with no room left in the context gets an empty thought that counts as cut and empty answers, and a warning:
    one overlong question does not stop a study.

    Raises:
        InputError: a job asks for a budget that the plan does not have, or the format does not fit the tokenizer.
    """
    ladder = Ladder(engine, plan, fmt, generation_log or GenerationLog(None))
    waiting, working = iter(jobs), 0
    try:
        while True:
            more = list(islice(waiting, window - working))
            ladder.add(more)
            working += len(more)
            if not working:
                return
            done = ladder.wait()
            working -= len(done)
            yield from done
    finally:
        ladder.close()


class _Part(NamedTuple):
    """A prefix of a thought, the budgets that share it, and the request for its answer.

    None: it needs none, since it holds its answer (``complete``), or the context has no room for one.
    """

    prefix: Prefix
    budgets: tuple[int | None, ...]
    forced: bool
    request: Request | None
    complete: bool = False


class _Row:
    """A job on its way."""

    def __init__(self, job: LadderJob, prompt: tuple[int, ...]) -> None:
        self.job, self.prompt = job, prompt
        self.thinking: list[int] = []
        self.stops: list[Stop] = []
        self.generated = self.injected = self.prompt_tokens = self.cached_tokens = 0
        self.thought: Thought | None = job.thought
        self.parts: list[_Part] = []
        self.answers: dict[str, Completion] = {}

    @property
    def answered(self) -> bool:
        """Whether every answer that was asked for is there."""
        return all(part.request is None or part.request.id in self.answers for part in self.parts)


class Ladder:
    """Rows of one plan on one engine. Use through :func:`run_ladder`, or feed it: ``add``, and ``wait`` until all is done."""

    def __init__(self, engine: Engine, plan: LadderPlan, fmt: Format, generation_log: GenerationLog) -> None:
        self._engine, self._plan, self._log = engine, plan, generation_log
        self._ids = bind(fmt, engine.tokenizer)
        words = "" if plan.extension is None else fmt.before_extension + plan.extension.words
        self._words = encode(engine.tokenizer, words)
        self._stream = engine.stream(plan.sampling, self._ids.stops | engine.eos_token_ids)
        self._thinking: dict[str, _Row] = {}
        self._answering: dict[str, _Row] = {}
        self._done: list[_Row] = []
        self._last_prompt: tuple[tuple[Message, ...], tuple[int, ...]] = ((), ())

    @property
    def hungry(self) -> bool:
        """Whether more jobs now would make better use of the engine."""
        return self._stream.hungry

    def add(self, jobs: Sequence[LadderJob]) -> None:
        """Take more jobs.

        Raises:
            InputError: a job asks for a budget that the plan does not have.
        """
        thoughts: list[Request] = []
        rows = []
        for job in jobs:
            if foreign := [b for b in job.budgets if b not in self._plan.budgets]:
                raise InputError(f"{job.thought_id}: budget {foreign[0]} is not one of the plan's {self._plan.budgets}")
            row = _Row(job, self._prompt(job.messages))
            if job.thought is not None:
                rows.append(row)
            elif (room := self._room(row.prompt)) < 1:
                log.warning("%s: %d prompt tokens leave no room in the context", job.thought_id, len(row.prompt))
                row.thought = Thought((), "", "length", 0)
                rows.append(row)
            else:
                self._thinking[job.thought_id] = row
                limit = min(self._plan.first_limit, room)
                thoughts.append(Request(job.thought_id, row.prompt, limit, job.seed))
        self._send("think", thoughts)
        self._send("answer", [request for row in rows for request in self._ask(row)])

    def wait(self) -> list[LadderOutcome]:
        """Work until some rows have ended a stage; the outcomes of those that are done (perhaps none)."""
        completions = [] if self._done else self._stream.wait()
        if completions:
            self._log.ended([c.id for c in completions], sum(c.generated for c in completions))
        further: list[Request] = []
        answers: list[Request] = []
        for completion in completions:
            if completion.id in self._answering:
                row = self._answering.pop(completion.id)
                row.answers[completion.id] = completion
                if row.answered:
                    self._done.append(row)
                continue
            row = self._thinking.pop(completion.id)
            if (onward := self._take(row, completion)) is not None:
                self._thinking[onward.id] = row
                further.append(onward)
            else:
                answers += self._ask(row)
        self._send("think", further)
        self._send("answer", answers)
        done, self._done = self._done, []
        return [self._outcome(row) for row in done]

    def close(self) -> None:
        """Drop what is on its way."""
        self._stream.close()

    def _send(self, phase: str, requests: Sequence[Request]) -> None:
        if requests:
            self._log.started(phase, [r.id for r in requests], max(r.max_tokens for r in requests))
            self._stream.add(requests)

    def _prompt(self, messages: tuple[Message, ...]) -> tuple[int, ...]:
        # A question's samples come one after the other: its prompt is rendered once.
        if self._last_prompt[0] != messages:
            ids = render_prompt(self._engine.tokenizer, messages, self._ids.format)
            self._last_prompt = (messages, tuple(ids))
        return self._last_prompt[1]

    def _room(self, prompt: Sequence[int]) -> int:
        """Thinking tokens that leave room in the context for closing, forcing and answering."""
        after = len(self._ids.close) + len(self._ids.forced) + self._plan.max_answer_tokens
        return self._engine.context_length - len(prompt) - after

    def _take(self, row: _Row, done: Completion) -> Request | None:
        """Add what a row thought now; the request that lets it think on, if its end is put off, else its thought is whole."""
        row.thinking += done.token_ids
        row.generated += done.generated
        row.prompt_tokens += done.prompt_tokens
        row.cached_tokens += done.cached_tokens
        plan, position = self._plan, len(row.thinking)
        ended: Ended = "eos"
        if done.stop_token is None:
            ended = "length"
        elif done.stop_token == self._ids.marker:
            ended = "marker"
        if ended != "length":
            row.stops.append(Stop(position, ended))
            if plan.puts_off(plan.extended_to, len(row.stops) - 1, position):
                reach = min(plan.extended_to, self._room(row.prompt))
                words = self._words[: max(0, reach - position)]
                row.thinking += words
                row.injected += len(words)
                left = reach - len(row.thinking)
                if left >= 1:
                    seed = extension_seed(row.job.seed, position)
                    identity = f"{row.job.thought_id}+{len(row.stops)}"
                    return Request(identity, (*row.prompt, *row.thinking), left, seed, len(row.prompt))
                ended = "length"
        ids = tuple(row.thinking)
        row.thought = Thought(
            token_ids=ids,
            text=decode(self._engine.tokenizer, ids),
            ended=ended,
            prompt_tokens=row.prompt_tokens,
            cached_tokens=row.cached_tokens,
            stops=tuple(row.stops),
            generated=row.generated,
            injected=row.injected,
        )
        return None

    def _ask(self, row: _Row) -> list[Request]:
        """The answers that the row's budgets need: one request a distinct prefix, none where the thought has its answer."""
        thought = row.thought
        assert thought is not None  # noqa: S101 - it is whole now, or came with the job
        shared: dict[Prefix, list[int | None]] = {}
        for budget in row.job.budgets:
            shared.setdefault(prefix(thought, budget, self._plan), []).append(budget)
        row.parts = [self._part(row, thought, used, tuple(budgets)) for used, budgets in shared.items()]
        requests = [part.request for part in row.parts if part.request is not None]
        for request in requests:
            self._answering[request.id] = row
        if not requests:
            self._done.append(row)
        return requests

    def _part(self, row: _Row, thought: Thought, used: Prefix, budgets: tuple[int | None, ...]) -> _Part:
        ids = self._ids
        closed = used.ended == "marker"
        # A plain response that ended without a box is asked for its final answer in a second stage (Kojima et al. 2022).
        if ids.format.self_contained and used.ended == "eos" and boxed(decode_prefix(self._engine, thought, used)):
            return _Part(used, budgets, False, None, complete=True)
        tail = ids.close_after_marker if closed else ids.close + ids.forced
        text = (*row.prompt, *thought.token_ids[: used.length], *tail)
        # A thought that landed under another limit may leave less room than the plan asks for.
        left = self._engine.context_length - len(text)
        if left < 1:
            log.warning("%s: the context has no room for an answer", row.job.thought_id)
            return _Part(used, budgets, False, None)
        request = Request(
            id=f"{row.job.thought_id}/{used.length}{'cut' if used.cut else ''}",
            token_ids=text,
            max_tokens=min(self._plan.max_answer_tokens, left),
            seed=answer_seed(row.job.seed, used.length),
            stem=len(row.prompt),
        )
        return _Part(used, budgets, not closed, request)

    def _outcome(self, row: _Row) -> LadderOutcome:
        thought = row.thought
        assert thought is not None  # noqa: S101 - the row is done
        order = {budget: i for i, budget in enumerate(self._plan.budgets)}
        answers = [answer for part in row.parts for answer in self._answers(part, thought, row.answers)]
        answers.sort(key=lambda answer: order[answer.budget])
        return LadderOutcome(row.job.thought_id, None if row.job.thought is not None else thought, tuple(answers))

    def _answers(self, part: _Part, thought: Thought, done: dict[str, Completion]) -> Iterator[BudgetAnswer]:
        tokenizer, used = self._engine.tokenizer, part.prefix
        whole = used.length == len(thought.token_ids)
        chars = len(thought.text) if whole else _chars(tokenizer, thought, used.length)
        completion = None if part.request is None else done[part.request.id]
        for i, budget in enumerate(part.budgets):
            if completion is None:
                text = thought.text[:chars] if part.complete else ""
                finish: Finish = "stop" if part.complete else "length"
                yield BudgetAnswer(
                    budget, used.length, chars, used.cut, False, (), text, 0, i > 0, finish, 0, 0, used.extensions
                )
                continue
            yield BudgetAnswer(
                budget=budget,
                thinking_tokens=used.length,
                thinking_chars=chars,
                cut=used.cut,
                forced=part.forced,
                answer_token_ids=completion.token_ids,
                answer_text=decode(tokenizer, (*(self._ids.forced if part.forced else ()), *completion.token_ids)),
                answer_tokens=completion.generated,
                shared=i > 0,
                finish=completion.finish,
                prompt_tokens=completion.prompt_tokens,
                cached_tokens=completion.cached_tokens,
                extensions=used.extensions,
            )


def decode_prefix(engine: Engine, thought: Thought, used: Prefix) -> str:
    """The text of the part of a thought that a budget uses."""
    whole = used.length == len(thought.token_ids)
    return thought.text if whole else decode(engine.tokenizer, thought.token_ids[: used.length])


def _chars(tokenizer: Any, thought: Thought, length: int) -> int:
    """Characters of the thought's text that its first ``length`` tokens cover wholly.

    Half a character decodes to a replacement character, which the whole text does not have there.
    """
    text = decode(tokenizer, thought.token_ids[:length])
    return next((i for i, (a, b) in enumerate(zip(text, thought.text, strict=False)) if a != b), len(text))
