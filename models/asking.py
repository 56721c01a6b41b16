"""Short answers without thinking: what a judge is asked. One reply a question, streamed as they come."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

from models.engines.base import Engine, Finish, GenerationLog, Request
from models.formats import Format, bind, decode, render_prompt
from store.types import Message, Sampling

log = logging.getLogger(__name__)


class Ask(NamedTuple):
    """One question to a model: the chat so far, and the seed of its reply (0 <= seed < 2**63)."""

    id: str
    messages: tuple[Message, ...]
    seed: int


class Reply(NamedTuple):
    """What it replied. ``finish`` is "length" where the reply was cut; the token counts are of this one request."""

    id: str
    text: str
    finish: Finish
    prompt_tokens: int
    cached_tokens: int
    generated: int


class Asker:
    """Replies of at most ``max_tokens`` tokens. A model that thinks first is given an empty thought, already closed."""

    def __init__(
        self, engine: Engine, fmt: Format, sampling: Sampling, max_tokens: int, generation_log: GenerationLog
    ) -> None:
        self._engine, self._format, self._max_tokens, self._log = engine, fmt, max_tokens, generation_log
        self._close = bind(fmt, engine.tokenizer).close
        self._stream = engine.stream(sampling, engine.eos_token_ids)
        self._unasked: list[Reply] = []

    @property
    def hungry(self) -> bool:
        """Whether more questions now would make better use of the engine."""
        return self._stream.hungry

    def add(self, asks: Sequence[Ask]) -> None:
        """Take more questions. One that does not fit the context gets an empty reply, which counts as cut, and a warning."""
        requests = []
        for ask in asks:
            prompt = self._prompt(ask)
            if len(prompt) + self._max_tokens > self._engine.context_length:
                log.warning("%s: %d prompt tokens leave no room in the context", ask.id, len(prompt))
                self._unasked.append(Reply(ask.id, "", "length", 0, 0, 0))
            else:
                requests.append(Request(ask.id, prompt, self._max_tokens, ask.seed))
        if requests:
            self._log.started("text", [request.id for request in requests], self._max_tokens)
            self._stream.add(requests)

    def wait(self) -> list[Reply]:
        """Work until at least one reply is there; empty if none is on its way."""
        if self._unasked:
            unasked, self._unasked = self._unasked, []
            return unasked
        done = self._stream.wait()
        if done:
            self._log.ended([one.id for one in done], sum(one.generated for one in done))
        tokenizer = self._engine.tokenizer
        return [
            Reply(c.id, decode(tokenizer, c.token_ids), c.finish, c.prompt_tokens, c.cached_tokens, c.generated)
            for c in done
        ]

    def close(self) -> None:
        """Drop what is on its way."""
        self._stream.close()

    def _prompt(self, ask: Ask) -> tuple[int, ...]:
        return (*render_prompt(self._engine.tokenizer, ask.messages, self._format), *self._close)
