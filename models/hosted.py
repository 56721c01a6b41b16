"""The ladder and the judge on a model behind a chat API: the same work as on token ids, as far as such an API allows.

A hosted model thinks and answers in one request, and its thinking can neither be cut nor gone on from. So there is one
budget, null; the limit is that of thinking and answer together; and a stored thought cannot be answered again.
"""

from __future__ import annotations

from collections.abc import Sequence

from models.asking import Ask, Reply
from models.budgets import BudgetAnswer, Ended, LadderJob, LadderOutcome, LadderPlan, Stop, Thought
from models.engines.base import GenerationLog
from models.engines.chat import ChatEngine, ChatReply, ChatRequest
from models.formats import Format
from store.types import InputError, Sampling

ROOM_TO_THINK = 2048
"""Tokens that a model which cannot be kept from thinking gets on top of a short reply's."""


class HostedLadder:
    """Rows of one plan on a hosted model; the interface of ``models.ladder.Ladder``.

    Raises:
        InputError: the plan has a budget.
    """

    def __init__(self, engine: ChatEngine, plan: LadderPlan, fmt: Format, generation_log: GenerationLog) -> None:
        if plan.budgets != (None,):
            raise InputError(
                f"budgets: model {engine.alias!r} is only behind the chat API of {engine.server.host}, where thinking "
                "cannot be cut; give it `budgets: [null]`"
            )
        self._engine, self._format, self._log = engine, fmt, generation_log
        self._limit = plan.max_thinking_tokens + plan.max_answer_tokens
        self._stream = engine.stream(plan.sampling)

    @property
    def hungry(self) -> bool:
        """Whether more jobs now would make better use of the server."""
        return self._stream.hungry

    def add(self, jobs: Sequence[LadderJob]) -> None:
        """Take more jobs. Raises InputError for one that asks for a budget, or brings its thought."""
        for job in jobs:
            if job.budgets != (None,):
                raise InputError(f"{job.thought_id}: budgets {job.budgets}, and the plan has null alone")
            if job.thought is not None:
                raise InputError(
                    f"{job.thought_id}: model {self._engine.alias!r} cannot answer again from a stored thought, since its "
                    "API takes none back; leave max_answer_tokens as it was, or change max_thinking_tokens too"
                )
        requests = [ChatRequest(job.thought_id, job.messages, self._limit, job.seed) for job in jobs]
        if requests:
            self._log.started("think", [request.id for request in requests], self._limit)
            self._stream.add(requests)

    def wait(self) -> list[LadderOutcome]:
        """Wait until at least one row is done; empty if none is on its way."""
        done = self._stream.wait()
        if done:
            self._log.ended([reply.id for reply in done], sum(reply.completion_tokens for reply in done))
        return [self._outcome(reply) for reply in done]

    def close(self) -> None:
        """Drop what is on its way."""
        self._stream.close()

    def _outcome(self, reply: ChatReply) -> LadderOutcome:
        """A reply as a thought and its answer.

        In a self-contained format the whole response is the thought, as on a local model, and it holds the answer. Else
        the thought is the reasoning (without text where it is hidden) and the answer the content. What was cut while
        thinking, or withheld, gives no answer.
        """
        whole = self._format.self_contained
        text = "\n\n".join(filter(None, (reply.reasoning, reply.content))) if whole else reply.reasoning
        tokens = reply.completion_tokens if whole else reply.reasoning_tokens
        cut = reply.finish == "length" and (whole or not reply.content)
        ended: Ended = "length" if cut else "eos" if whole or not reply.content else "marker"
        if cut:
            tokens = reply.completion_tokens
        thought = Thought(
            token_ids=(),
            text=text,
            ended=ended,
            prompt_tokens=reply.prompt_tokens,
            cached_tokens=reply.cached_tokens,
            stops=() if cut else (Stop(tokens, ended),),
            generated=tokens,
            told=tokens,
        )
        answer = BudgetAnswer(
            budget=None,
            thinking_tokens=tokens,
            thinking_chars=len(text),
            cut=cut,
            forced=False,
            answer_token_ids=(),
            answer_text="" if cut or reply.finish == "filter" else reply.content,
            answer_tokens=reply.completion_tokens - tokens,
            shared=False,
            finish=reply.finish,
            prompt_tokens=0,  # one request made both, and the thought has its accounts
            cached_tokens=0,
        )
        return LadderOutcome(reply.id, thought, (answer,))


class HostedAsker:
    """Short replies of a hosted model; the interface of ``models.asking.Asker``.

    A model that thinks gets room for it beside the ``max_tokens`` of its reply. The reply's tokens include the thinking.
    """

    def __init__(
        self, engine: ChatEngine, fmt: Format, sampling: Sampling, max_tokens: int, generation_log: GenerationLog
    ) -> None:
        # Models that take no temperature think, whether they show it or not.
        server = engine.server
        thinks = fmt.name == "tags" or server.reasoning_effort is not None or not server.takes_sampling
        self._limit = max_tokens + ROOM_TO_THINK if thinks else max_tokens
        self._log = generation_log
        self._stream = engine.stream(sampling)

    @property
    def hungry(self) -> bool:
        """Whether more questions now would make better use of the server."""
        return self._stream.hungry

    def add(self, asks: Sequence[Ask]) -> None:
        """Take more questions."""
        requests = [ChatRequest(ask.id, ask.messages, self._limit, ask.seed) for ask in asks]
        if requests:
            self._log.started("text", [request.id for request in requests], self._limit)
            self._stream.add(requests)

    def wait(self) -> list[Reply]:
        """Wait until at least one reply is there; empty if none is on its way."""
        done = self._stream.wait()
        if done:
            self._log.ended([reply.id for reply in done], sum(reply.completion_tokens for reply in done))
        return [Reply(r.id, r.content, r.finish, r.prompt_tokens, r.cached_tokens, r.completion_tokens) for r in done]

    def close(self) -> None:
        """Drop what is on its way."""
        self._stream.close()
