"""An engine whose words are set, for what a real model cannot be made to say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from models.engines.base import Completion, Finish, Request
from store.types import Sampling


class Scripted:
    """An engine that continues every prompt by a given script: what a model does is set, how it is asked is real.

    Each thought takes the next of its ``scripts`` (the last one for ever); it ends with ``stop``, or at the limit for None.
    """

    name, version, dtype, device, context_length, rows = "scripted", "0", "none", "cpu", 8192, 8

    def __init__(
        self, tokenizer: Any, *scripts: Sequence[int], stop: int | None, answer: Sequence[int] = (5, 6)
    ) -> None:
        self.tokenizer = tokenizer
        self.eos_token_ids = frozenset({tokenizer.eos_token_id})
        self.scripts, self.stop, self.answer = list(scripts), stop, tuple(answer)
        self.calls: list[list[Request]] = []
        self.waiting: list[Request] = []
        self.hungry = False

    def stream(self, sampling: Sampling, stop_ids: frozenset[int]) -> Scripted:
        return self

    def add(self, requests: Sequence[Request]) -> None:
        self.calls.append(list(requests))
        self.waiting += requests

    def wait(self) -> list[Completion]:
        done, self.waiting = [self.complete(request) for request in self.waiting], []
        return done

    def complete(self, r: Request) -> Completion:
        if "/" in r.id:
            script, stop = self.answer, self.tokenizer.eos_token_id
        else:
            script, stop = tuple(self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]), self.stop
        ended = stop is not None and len(script) < r.max_tokens
        finish: Finish = "stop" if ended else "length"
        return Completion(r.id, script[: r.max_tokens], stop if ended else None, finish, len(r.token_ids), 0)

    def close(self) -> None: ...
