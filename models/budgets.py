"""Budgets: think once, answer at every budget. The rules; ``models.ladder`` runs them.

A thought is generated once, as long as allowed. Each smaller budget is its prefix of that many tokens, followed by a
forced answer (budget forcing after s1, arXiv 2501.19393). With greedy decoding this equals independent budget-forced
runs token for token; with sampling it equals them in distribution. A ladder b1 < ... < bn costs max(b) + n answers
instead of sum(b) + n answers. Text is never tokenised again: a prefix is a prefix of ids.

A budget of b allows b tokens, the token that ends the thinking included: a thought of n tokens ended by itself within b
if n < b, just as a generation limited to b tokens would have seen its end.

With an :class:`Extension`, a thought that ends before its budget is used up goes on after "Wait,". Whether an end is put
off depends on the budget (a margin before it is left alone), but what a smaller budget puts off a larger one does too.
So the thought is extended for the largest budget, the places where it tried to end are kept, and each smaller budget
stops at the first of them that it would not have put off. Without a budget nothing is put off.
"""

from __future__ import annotations

import hashlib
import re
from itertools import pairwise
from typing import Literal, NamedTuple

from pydantic import Field, field_validator, model_validator

from models.engines.base import Finish
from store.types import Frozen, Message, Sampling

Ended = Literal["marker", "eos", "length"]

_FILLED_BOX = re.compile(r"\\boxed\s*\{\s*[^}\s]")


class Extension(Frozen):
    """How an early end of thinking is put off (s1): ``words`` are put in its place, and thinking goes on.

    An end within ``margin`` tokens of the budget stands. ``most`` bounds how many ends of a thought are put off (None:
    all, while budget remains). The words count as thinking tokens, since they use up the budget.
    """

    words: str = Field(default="Wait,", min_length=1, description="What stands in place of an early end of thinking")
    margin: int = Field(default=32, ge=0, description="An end within so many tokens of the budget stands")
    most: int | None = Field(default=None, ge=1, description="Ends of a thought that are put off; empty: all")


class LadderPlan(Frozen):
    """What holds for every row: the sampling, the rungs and the limits, all in tokens.

    ``budgets`` rise strictly; None (last) is unlimited, that is ``max_thinking_tokens``.
    """

    sampling: Sampling = Sampling()
    budgets: tuple[int | None, ...] = Field(default=(None,), min_length=1)
    max_thinking_tokens: int = Field(default=8000, ge=1)
    max_answer_tokens: int = Field(default=256, ge=1)
    extension: Extension | None = None

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
        if self.extension is not None and self.extended_to == 0:
            raise ValueError(
                "extension: without a budget there is nothing to extend to; name one, or leave extension out"
            )
        return self

    @property
    def extended_to(self) -> int:
        """The budget that thoughts are extended to: the largest one; 0 without an extension or a budget."""
        finite = [b for b in self.budgets if b is not None]
        return finite[-1] if self.extension is not None and finite else 0

    @property
    def first_limit(self) -> int:
        """Tokens before the first natural end at most."""
        largest = self.budgets[-1]
        return self.max_thinking_tokens if largest is None else largest

    def puts_off(self, budget: int | None, ends: int, position: int) -> bool:
        """Whether a run at ``budget`` puts off an end after ``position`` tokens, having put off ``ends`` before."""
        extension = self.extension
        if extension is None or budget is None or budget - position <= extension.margin:
            return False
        return extension.most is None or ends < extension.most


class Stop(NamedTuple):
    """A place where a thought tried to end: after ``position`` tokens, and how (``marker`` or ``eos``)."""

    position: int
    ended: Ended


class Thought(NamedTuple):
    """A generated thought (for a ``plain`` model: its response). ``token_ids`` are without the token that ended it.

    ``ended``: "marker" closed its thinking itself, "eos" ended its turn, "length" was cut at the limit. ``stops``: where it
    tried to end, in order; the last is its end, unless it was cut. ``generated`` tokens were produced by the model (the
    tokens that ended it or were put off are in it, the ``injected`` words are not). ``prompt_tokens`` were sent in all
    requests that made it; ``cached_tokens`` of them were not computed. ``told``: its length where only a server knows it
    (a hosted model gives no token ids).
    """

    token_ids: tuple[int, ...]
    text: str
    ended: Ended
    prompt_tokens: int
    cached_tokens: int = 0
    stops: tuple[Stop, ...] = ()
    generated: int = 0
    injected: int = 0
    told: int | None = None

    @property
    def length(self) -> int:
        """Thinking tokens."""
        return len(self.token_ids) if self.told is None else self.told


class Prefix(NamedTuple):
    """What a budget uses of a thought: its first ``length`` tokens, in which ``extensions`` ends were put off.

    ``ended`` is "length" where the budget (or the limit) cut it, else how it ended there.
    """

    length: int
    ended: Ended
    extensions: int

    @property
    def cut(self) -> bool:
        """Whether the thinking did not end by itself."""
        return self.ended == "length"


def prefix(thought: Thought, budget: int | None, plan: LadderPlan) -> Prefix:
    """The part of ``thought`` that a run at ``budget`` alone would have thought."""
    put_off = 0
    for stop in thought.stops:
        if budget is not None and stop.position >= budget:
            break
        if not plan.puts_off(budget, put_off, stop.position):
            return Prefix(stop.position, stop.ended, put_off)
        put_off += 1
    return Prefix(thought.length if budget is None else min(budget, thought.length), "length", put_off)


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
    a character), and ``extensions`` how many ends were put off in it. ``cut``: this budget (or the limit) cut the thinking.
    ``forced``: the answer was forced; ``answer_text`` then begins with the forced words, which ``answer_token_ids`` leave
    out. ``answer_tokens`` were generated, the stop token included. ``finish`` is "length" where the answer itself was cut.
    ``shared``: the same prefix was answered for a smaller budget of this job, so that these tokens are counted there.
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
    extensions: int = 0


class LadderOutcome(NamedTuple):
    """What one job gave. ``thought`` is None where the job brought its own."""

    thought_id: str
    thought: Thought | None
    answers: tuple[BudgetAnswer, ...]


def boxed(text: str) -> bool:
    """Whether the text holds a box with something in it."""
    return _FILLED_BOX.search(text) is not None


def answer_seed(seed: int, prefix: int) -> int:
    """The seed of the answer after ``prefix`` thinking tokens of the thought drawn with ``seed``; below 2**63."""
    return _derived(f"answer:{seed}:{prefix}")


def extension_seed(seed: int, position: int) -> int:
    """The seed of the thought drawn with ``seed`` from the end on that was put off at ``position``; below 2**63."""
    return _derived(f"extension:{seed}:{position}")


def _derived(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1
