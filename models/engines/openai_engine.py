"""The engine for a model that a server runs: ``vllm serve`` or another that takes and gives token ids on ``/completions``.

Prompts go as token ids and answers come as token ids, so that budgets work as on a local model; text is never tokenised
again. A stream that was cut goes on from the tokens that arrived. Cached tokens are known only where the server tells them
(vLLM: ``--enable-prompt-tokens-details``); else they count as 0.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, Field

from models.engines.base import Completion, EngineOptions, Finish, ModelRef, Request, check_request
from models.engines.http_client import Client, Rows, server_of
from models.engines.http_limits import Limits
from models.engines.http_messages import FailedAttempt
from models.engines.loading import end_of_turn_ids, load_config, load_tokenizer
from store.types import InputError, Sampling

TOKENS_A_MESSAGE = 8
"""Tokens that vLLM sends together (older servers ignore it: one each): a message a token costs more than the token. What a
cut stream loses is fewer tokens than this."""


class OpenAIEngine:
    """A model on a server. ``options.batch_size`` is the most open requests (default: the server's ``in_flight``).

    Raises:
        InputError: the model has an adapter of its own, no server or no tokenizer; the server does not know it, or its
            context is told nowhere.
        RunError: the server cannot be reached.
    """

    name = "openai"
    dtype = ""

    def __init__(self, model: ModelRef, options: EngineOptions, limits: Limits | None = None) -> None:
        server = server_of(model)
        self.device = server.host
        self.tokenizer = load_tokenizer(model)
        self.eos_token_ids = end_of_turn_ids(model, self.tokenizer)
        self.rows = options.batch_size or server.in_flight
        self._client = Client(server, self.rows, limits)
        try:
            listed = _listed(self._client)
            self.version = f"{listed.get('owned_by') or 'server'} {self._client.version()}"
            told = listed.get("max_model_len")
            self.context_length = told if isinstance(told, int) else _own_context(model, self.tokenizer)
        except BaseException:
            self._client.close()
            raise

    def stream(self, sampling: Sampling, stop_ids: frozenset[int]) -> CompletionStream:
        """A stream of rows; see ``Engine``."""
        return CompletionStream(self._client, self.context_length, sampling, stop_ids)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


class CompletionStream:
    """Rows on their way through a server; see ``Stream``."""

    def __init__(self, client: Client, context_length: int, sampling: Sampling, stop_ids: frozenset[int]) -> None:
        self._client, self._context_length = client, context_length
        self._sampling, self._stop_ids = sampling, stop_ids
        self._rows: Rows[Completion] = Rows(client)

    @property
    def hungry(self) -> bool:
        """Whether fewer rows are on their way than the server is asked for at a time."""
        return self._rows.hungry

    def add(self, requests: Sequence[Request]) -> None:
        """Send more rows. Raises InputError for one that is empty or does not fit the context."""
        for request in requests:
            check_request(request, self._context_length)
        self._rows.add([_Row(self._client, request, self._sampling, self._stop_ids).run for request in requests])

    def wait(self) -> list[Completion]:
        """Wait until at least one row has ended. Raises the error of one that failed, which ends the stream."""
        return self._rows.wait()

    def close(self) -> None:
        """Drop what is on its way; the server stops generating it."""
        self._rows.close()


TokenIds = list[Annotated[int, Field(ge=0)]]


class _Choice(BaseModel):
    text: str | None = None
    token_ids: TokenIds | None = None
    prompt_token_ids: TokenIds | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


class _Details(BaseModel):
    cached_tokens: int | None = None


class _Usage(BaseModel):
    prompt_tokens_details: _Details | None = None


class _Message(BaseModel):
    choices: list[_Choice] = []
    usage: _Usage | None = None


class _Row:
    """One request, in as many attempts as it takes; ``arrived`` is kept from one to the next."""

    def __init__(self, client: Client, request: Request, sampling: Sampling, stop_ids: frozenset[int]) -> None:
        self._client, self._request, self._sampling, self._stop_ids = client, request, sampling, stop_ids
        self._arrived: list[int] = []
        self._cached = 0
        self._prompt = request.token_ids  # of this attempt, which may go on from what arrived before
        self._finish: Finish | None = None
        self._stop: int | None = None

    def run(self) -> Awaitable[Completion]:
        return self._client.persist(f"request {self._request.id}", self._attempt)

    async def _attempt(self) -> Completion:
        self._prompt = (*self._request.token_ids, *self._arrived)
        self._see_whether_whole()
        if self._finish is None:
            try:
                await self._client.stream("/completions", self._body(), _Message, self._take)
            except FailedAttempt:
                if self._finish is None:  # else only the accounts of the end are missing
                    raise
        if self._finish is None:
            raise FailedAttempt("the stream ended without a finish reason")
        ids = self._arrived[:-1] if self._stop is not None and self._arrived[-1:] == [self._stop] else self._arrived
        if not self._stop_ids.isdisjoint(ids):
            raise InputError(f"{self._server} goes on after stop_token_ids: budgets need a server that obeys them")
        return Completion(
            self._request.id, tuple(ids), self._stop, self._finish, len(self._request.token_ids), self._cached
        )

    def _see_whether_whole(self) -> None:
        """A stream can be cut between its last token and the word that it was the last."""
        if self._arrived and self._arrived[-1] in self._stop_ids:
            self._finish, self._stop = "stop", self._arrived[-1]
        elif len(self._arrived) == self._request.max_tokens:
            self._finish = "length"

    def _body(self) -> dict[str, Any]:
        request, sampling = self._request, self._sampling
        drawn = {} if sampling.temperature == 0.0 else {"seed": seed_after(request.seed, len(self._arrived))}
        return {
            "model": self._client.server.model,
            "prompt": self._prompt,
            "max_tokens": request.max_tokens - len(self._arrived),
            # All of them: what is left out a server takes from the model's generation_config.json.
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "min_p": 0.0,
            "repetition_penalty": sampling.repetition_penalty,
            **drawn,
            "stop_token_ids": sorted(self._stop_ids),
            "ignore_eos": True,  # the stop ids hold the end-of-turn tokens; so each end says which token it was
            "return_token_ids": True,
            "stream": True,
            "stream_interval": TOKENS_A_MESSAGE,
            "stream_options": {"include_usage": True},
        }

    def _take(self, message: _Message) -> bool:
        details = message.usage.prompt_tokens_details if message.usage is not None else None
        if details is not None and self._prompt == self._request.token_ids:  # a cut row's own tokens were not shared
            self._cached = details.cached_tokens or 0
        for choice in message.choices:
            self._check(choice)
            self._arrived += choice.token_ids or []
            if len(self._arrived) > self._request.max_tokens:
                raise InputError(f"{self._server} gives more tokens than max_tokens asks for")
            if choice.finish_reason is not None:
                self._end(choice)
        return bool(self._arrived)

    def _check(self, choice: _Choice) -> None:
        if choice.token_ids is None and (choice.text or choice.finish_reason):
            raise InputError(
                f"{self._server} gives text without token ids, and text is not tokenised again: it has to understand "
                "return_token_ids (vLLM 0.10.2 or newer does)"
            )
        if choice.prompt_token_ids is not None and tuple(choice.prompt_token_ids) != self._prompt:
            raise InputError(f"{self._server} changes the prompt's tokens (it adds to them, or cuts them)")

    def _end(self, choice: _Choice) -> None:
        """Note how the row ended; anything but a stop token or its full length is a failure, such as vLLM's abort."""
        reason, stop = choice.finish_reason, choice.stop_reason
        if reason == "stop":
            last = self._arrived[-1] if self._arrived else None
            self._stop = stop if isinstance(stop, int) else last if last in self._stop_ids else None
            if self._stop is not None:
                self._finish = "stop"
                return
        elif reason == "length" and len(self._arrived) == self._request.max_tokens:
            self._finish = "length"
            return
        raise FailedAttempt(
            f"ended a row by {reason!r} ({stop!r}) after {len(self._arrived)} of {self._request.max_tokens} tokens"
        )

    @property
    def _server(self) -> str:
        return f"model server {self._client.server.host}"


def seed_after(seed: int, arrived: int) -> int:
    """The seed with which a cut row goes on: its own would draw again the numbers that its first tokens were drawn by."""
    if not arrived:
        return seed
    return int.from_bytes(hashlib.sha256(f"cut:{seed}:{arrived}".encode()).digest()[:8], "big") >> 1


def _listed(client: Client) -> dict[str, Any]:
    """What the server's list of models says of ours. Raises InputError if it is not in it."""
    found = client.get("/models").get("data")
    models = [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
    for one in models:
        if one.get("id") == client.server.model:
            return one
    names = ", ".join(sorted(str(one.get("id")) for one in models)[:20]) or "none"
    raise InputError(
        f"server.model: {client.server.model!r} is not a model of the server {client.server.host}; it has: {names}"
    )


def _own_context(model: ModelRef, tokenizer: Any) -> int:
    """Positions the model was made for, by its folder, where the server does not tell."""
    if (model.folder / "config.json").is_file():
        return int(load_config(model).get_text_config().max_position_embeddings)
    if tokenizer.model_max_length < 1 << 30:  # transformers stands in a huge number where the folder says nothing
        return int(tokenizer.model_max_length)
    raise InputError(
        f"model {model.alias!r}: neither its server nor {model.folder} tells its context length; add its config.json"
    )
