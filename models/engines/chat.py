"""Models that are only behind a chat API (``/chat/completions``): messages in, reasoning and answer out, both as text.

Reasoning comes as ``reasoning_content`` (DeepSeek), as ``reasoning`` (vLLM, OpenRouter), between ``<think>`` tags in the
content, or not at all (o3-mini: its tokens are counted only). A vLLM server that is asked so should be started with
``--generation-config vllm``: what a request leaves out it would take from the model's own configuration.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel

from models.engines.base import EngineOptions, Finish, ModelRef
from models.engines.http_client import Client, Rows, server_of
from models.engines.http_limits import Limits
from models.engines.http_messages import FailedAttempt
from store.types import InputError, Message, Sampling

log = logging.getLogger(__name__)

FINISHES: dict[str, Finish] = {"stop": "stop", "length": "length", "content_filter": "filter"}
"""How an answer ends. Any other reason is a failure that may pass, such as DeepSeek's insufficient_system_resource."""

WITHHELD = re.compile(r"content_filter|content_policy_violation|invalid_prompt|Content Exists Risk")
"""How Azure, OpenAI and DeepSeek say that they do not take a prompt, in place of an answer."""

OPEN, CLOSE = "<think>", "</think>"


class ChatRequest(NamedTuple):
    """One chat to answer. ``max_tokens`` bounds reasoning and answer together."""

    id: str
    messages: tuple[Message, ...]
    max_tokens: int
    seed: int


class ChatReply(NamedTuple):
    """What came back. ``completion_tokens`` are all that were generated, the ``reasoning_tokens`` included.

    Where the server shows its reasoning and does not count it, the completion tokens are split by characters.
    """

    id: str
    reasoning: str
    content: str
    finish: Finish
    prompt_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    completion_tokens: int


class ChatEngine:
    """A hosted model. ``options.batch_size`` is the most open requests (default: the server's ``in_flight``).

    ``context_length`` is 0 where the server's list of models does not tell it.

    Raises:
        InputError: no server, or a key that is missing or refused.
        RunError: the server cannot be reached.
    """

    name = "openai"
    dtype = ""

    def __init__(self, model: ModelRef, options: EngineOptions, limits: Limits | None = None) -> None:
        server = server_of(model)
        self.alias, self.server, self.device = model.alias, server, server.host
        self.rows = options.batch_size or server.in_flight
        self._thinks = model.format_name == "tags"
        self._client = Client(server, self.rows, limits)
        try:
            listed = self._listed()
            self.version = self._client.version()
        except BaseException:
            self._client.close()
            raise
        told = listed.get("max_model_len") or listed.get("context_length")
        self.context_length = told if isinstance(told, int) else 0

    def stream(self, sampling: Sampling) -> ChatStream:
        """A stream of chats whose replies are drawn by ``sampling``, as far as the model takes it."""
        return ChatStream(self._client, sampling, self._thinks)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _listed(self) -> dict[str, Any]:
        """What the server's list of models says of ours, if anything: many take names that they do not list."""
        models = self._client.get("/models", optional=True).get("data")
        return next((m for m in models or [] if isinstance(m, dict) and m.get("id") == self.server.model), {})


class ChatStream:
    """Chats on their way: like ``Stream``, with messages and text in place of token ids."""

    def __init__(self, client: Client, sampling: Sampling, thinks: bool) -> None:
        self._client, self._sampling, self._thinks = client, sampling, thinks
        self._rows: Rows[ChatReply] = Rows(client)

    @property
    def hungry(self) -> bool:
        """Whether fewer chats are on their way than the server is asked for at a time."""
        return self._rows.hungry

    def add(self, requests: Sequence[ChatRequest]) -> None:
        """Send more chats. Raises InputError for one without messages."""
        for request in requests:
            if not request.messages or request.max_tokens < 1:
                raise InputError(f"request {request.id}: no messages, or max_tokens {request.max_tokens} below 1")
        self._rows.add([_Chat(self._client, request, self._sampling, self._thinks).run for request in requests])

    def wait(self) -> list[ChatReply]:
        """Wait until at least one reply is there. Raises the error of a chat that failed, which ends the stream."""
        return self._rows.wait()

    def close(self) -> None:
        """Drop what is on its way."""
        self._rows.close()


class _Delta(BaseModel):
    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class _Choice(BaseModel):
    delta: _Delta = _Delta()
    finish_reason: str | None = None


class _Details(BaseModel):
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class _Usage(BaseModel):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None
    prompt_cache_hit_tokens: int | None = None  # DeepSeek

    @property
    def cached(self) -> int:
        details = self.prompt_tokens_details
        told = details.cached_tokens if details is not None else None
        return min(self.prompt_tokens, told or self.prompt_cache_hit_tokens or 0)

    @property
    def generated(self) -> int:
        """Some servers (xAI, Gemini) leave the reasoning out of the completion tokens, and none out of the total."""
        return max(self.completion_tokens, self.total_tokens - self.prompt_tokens)

    @property
    def reasoning(self) -> int:
        details = self.completion_tokens_details
        told = details.reasoning_tokens if details is not None else None
        return min(self.generated, told or self.generated - self.completion_tokens)


class _Message(BaseModel):
    choices: list[_Choice] = []
    usage: _Usage | None = None


class _Chat:
    """One request, in as many attempts as it takes. Text cannot be gone on from: each attempt begins anew."""

    def __init__(self, client: Client, request: ChatRequest, sampling: Sampling, thinks: bool) -> None:
        self._client, self._request, self._sampling, self._thinks = client, request, sampling, thinks

    def run(self) -> Awaitable[ChatReply]:
        return self._client.persist(f"request {self._request.id}", self._attempt)

    async def _attempt(self) -> ChatReply:
        self._reasoning: list[str] = []
        self._content: list[str] = []
        self._finish: str | None = None
        self._usage: _Usage | None = None
        try:
            await self._client.stream("/chat/completions", self._body(), _Message, self._take)
        except FailedAttempt:
            if self._finish is None or self._usage is None:
                raise
        except InputError as error:
            if not WITHHELD.search(str(error)):
                raise
            # One question that a provider does not answer is a row without an answer, not the end of a study.
            log.warning("request %s is not answered: %s", self._request.id, error)
            return ChatReply(self._request.id, "", "", "filter", 0, 0, 0, 0)
        if self._finish not in FINISHES:
            raise FailedAttempt(f"ended a reply by {self._finish!r}")
        if self._usage is None:
            raise InputError(
                f"model server {self._client.server.host} does not tell its token usage, so that nothing could be counted; "
                "it has to understand stream_options.include_usage"
            )
        return self._reply(FINISHES[self._finish], self._usage)

    def _body(self) -> dict[str, Any]:
        server, request, sampling = self._client.server, self._request, self._sampling
        body: dict[str, Any] = {
            "model": server.model,
            "messages": [{"role": message.role, "content": message.content} for message in request.messages],
            server.limit_field: request.max_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if server.takes_sampling:
            body |= {"temperature": sampling.temperature, "top_p": sampling.top_p}
            body |= {"seed": request.seed} if sampling.temperature else {}
            body |= {"top_k": sampling.top_k} if sampling.top_k else {}
            if sampling.repetition_penalty != 1.0:
                body["repetition_penalty"] = sampling.repetition_penalty
        if server.reasoning_effort is not None:
            body["reasoning_effort"] = server.reasoning_effort
        return body

    def _take(self, message: _Message) -> bool:
        self._usage = message.usage or self._usage
        for choice in message.choices[:1]:
            delta = choice.delta
            self._reasoning.append(delta.reasoning_content or delta.reasoning or "")  # servers that send both repeat it
            self._content.append(delta.content or delta.refusal or "")
            self._finish = choice.finish_reason or self._finish
        return any(self._reasoning) or any(self._content)

    def _reply(self, finish: Finish, usage: _Usage) -> ChatReply:
        reasoning, content = split_thinking("".join(self._reasoning), "".join(self._content))
        if self._thinks and not reasoning and not usage.reasoning and finish == "length":
            # The prompt had opened the thinking, and the limit came before its end.
            reasoning, content = content, ""
        counted = usage.reasoning
        if reasoning and not counted:
            counted = round(usage.generated * len(reasoning) / len(reasoning + content))
        return ChatReply(
            id=self._request.id,
            reasoning=reasoning,
            content=content,
            finish=finish,
            prompt_tokens=usage.prompt_tokens,
            cached_tokens=usage.cached,
            reasoning_tokens=counted,
            completion_tokens=usage.generated,
        )


def split_thinking(reasoning: str, content: str) -> tuple[str, str]:
    """Reasoning and answer, out of what a server gave as such.

    Tags in the content are taken apart where the server did not: ``<think>`` at its start (one that never closes leaves
    no answer), or a ``</think>`` alone, where the prompt had opened the thinking.
    """
    if reasoning:
        return reasoning.strip("\n"), content.lstrip("\n")
    opened = content.lstrip().startswith(OPEN)
    thought, closed, answer = content.partition(CLOSE)
    if not opened and not closed:
        return "", content
    thought = thought.lstrip().removeprefix(OPEN)
    return thought.strip("\n"), answer.lstrip("\n")
