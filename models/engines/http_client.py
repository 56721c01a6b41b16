"""Asking an OpenAI-compatible server for many answers at once: streamed, bounded, retried within limits, clear when it fails.

One event loop in a background thread holds the connections; callers are ordinary threads. What passes by itself is tried
again (an unreachable or overloaded server, a cut or silent stream, a broken message), at most ``Limits.attempts`` times
a request; what a person has to mend is not. A server's Retry-After holds every request to it, and a 429 halves the number
of open requests, which then grows again. The key goes into the Authorization header and nowhere else.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import random
import re
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from typing import Any, Generic, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from models.engines.base import ModelRef, Server
from models.engines.http_limits import Gate, Limits
from models.engines.http_messages import EventSplitter, FailedAttempt, error_of, json_object, seconds_of, words_of
from store.types import InputError, RunError

log = logging.getLogger(__name__)

T = TypeVar("T")
E = TypeVar("E", bound=BaseModel)

PASSING = frozenset({408, 409, 425, 429})
"""Statuses that are tried again, beside those from 500 on."""

LONGEST_MESSAGE = 300
"""Characters of a server's own words that an error repeats."""


class Client:
    """A connection to one server. ``in_flight`` requests are open at most.

    Raises:
        InputError: the environment variable that should hold the key is not set, or holds no key; or the address is none.
    """

    def __init__(self, server: Server, in_flight: int, limits: Limits | None = None) -> None:
        for name in ("httpx", "httpcore"):  # they log every address
            logging.getLogger(name).setLevel(logging.WARNING)
        self.server, self.in_flight, self.limits = server, in_flight, limits or Limits()
        self._key = _key_of(server)
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        try:
            loopback = httpx.URL(server.url).host in ("127.0.0.1", "::1", "localhost")
        except httpx.InvalidURL as error:
            raise InputError(f"url {server.url!r} is not an address: {error}") from None
        self._http = httpx.AsyncClient(
            headers=headers,
            timeout=httpx.Timeout(None, connect=self.limits.connect),
            limits=httpx.Limits(max_connections=in_flight + 1, max_keepalive_connections=in_flight),
            trust_env=not loopback,  # a proxy of the environment cannot reach what runs here
        )
        self._gate = Gate(in_flight)
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name=f"server-{server.host}", daemon=True)
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run ``work`` in the client's loop and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def get(self, path: str, optional: bool = False) -> dict[str, Any]:
        """The JSON object at ``path`` below the server's address; see :meth:`persist` for what it raises.

        ``optional``: empty where the server has nothing at this path.
        """
        return self.call(self.persist(f"GET {path}", lambda: self._get(self.server.url + path, optional)))

    def version(self) -> str:
        """What vLLM tells of its version, beside its base address; "unknown" for other servers."""
        try:
            found = self.call(self._get(self.server.url.removesuffix("/v1") + "/version")).get("version")
        except (FailedAttempt, InputError, RunError):
            return "unknown"
        return found if isinstance(found, str) else "unknown"

    async def persist(self, what: str, attempt: Callable[[], Awaitable[T]]) -> T:
        """Make ``attempt`` until it gives something, at most ``Limits.attempts`` times; ``what`` names it in messages.

        Raises:
            InputError: the server refuses the request, the key or the model.
            RunError: the attempts are used up, or the server asks for a very long pause.
        """
        limits = self.limits
        for number in range(1, limits.attempts + 1):
            since = await self._gate.enter()
            try:
                result = await attempt()
            except FailedAttempt as failure:
                last = failure
                if failure.status == 429:
                    self._gate.slow_down(since)
                if failure.wait > limits.longest_hold:
                    raise RunError(
                        f"{self._name} asks to wait {failure.wait:.0f} s: {failure}. Run again then."
                    ) from None
                self._gate.hold(failure.wait)
            else:
                self._gate.answered()
                return result
            finally:
                self._gate.leave()
            log.info("%s: %s: attempt %d of %d: %s", self._name, what, number, limits.attempts, last)
            if number < limits.attempts:
                pause = min(limits.pause * 2 ** (number - 1), limits.longest_pause)
                await asyncio.sleep(pause * random.SystemRandom().uniform(0.5, 1.0))
        raise RunError(
            f"{self._name}: {what} failed {limits.attempts} times; the last time: {last}. "
            "Check that the server runs and is not overloaded, then run again."
        )

    async def stream(self, path: str, body: dict[str, Any], kind: type[E], take: Callable[[E], bool]) -> None:
        """Post ``body`` and give every message of the answer's event stream to ``take``, which says whether tokens have
        begun to come. Ends when the server says ``[DONE]``.

        Raises:
            FailedAttempt: the answer did not come whole; what came was given to ``take``.
            InputError, RunError: see :meth:`persist`.
        """
        done, patience = False, self.limits.first
        try:
            async with asyncio.timeout(patience) as timer:
                async with self._http.stream("POST", self.server.url + path, json=body) as answer:
                    await self._check(answer)
                    if not answer.headers.get("content-type", "").startswith("text/event-stream"):
                        raise FailedAttempt(f"sent {answer.headers.get('content-type')!r} instead of an event stream")
                    events = EventSplitter()
                    async for piece in answer.aiter_bytes():
                        for data in (found := events.feed(piece)):
                            if data == "[DONE]":
                                # The rest is the end of the body, which lets the connection be used again.
                                done, patience = True, 1.0
                            elif not done and take(self._message(data, kind)):
                                patience = self.limits.silence
                        if found:  # comments, which some servers send to keep a line open, do not count
                            timer.reschedule(asyncio.get_running_loop().time() + patience)
        except TimeoutError:
            if not done:
                raise FailedAttempt(f"was silent for {patience:g} s") from None
        except httpx.RequestError as error:
            if not done:
                raise FailedAttempt(words_of(error)) from None
        if not done:
            raise FailedAttempt("the stream ended before the answer did")

    async def _get(self, url: str, optional: bool = False) -> dict[str, Any]:
        try:
            async with asyncio.timeout(self.limits.connect):
                answer = await self._http.get(url)
        except TimeoutError:
            raise FailedAttempt(f"did not answer within {self.limits.connect:g} s") from None
        except httpx.RequestError as error:
            raise FailedAttempt(words_of(error)) from None
        if optional and answer.status_code in (401, 403, 404, 405):  # a key may be good for chats alone
            return {}
        await self._check(answer)
        return json_object(answer.text)

    async def _check(self, answer: httpx.Response) -> None:
        if answer.status_code != 200:
            body = (await answer.aread()).decode(errors="replace")
            raise self._refusal(answer.status_code, *error_of(body), seconds_of(answer.headers.get("retry-after")))

    def _message(self, data: str, kind: type[E]) -> E:
        """One message of a stream. A server that fails on the way says so in place of it."""
        value = json_object(data)
        if value.get("error") or value.get("object") == "error":
            message, code = error_of(data)
            raise self._refusal(int(code) if code.isdigit() and 400 <= int(code) < 600 else 500, message, code, 0.0)
        try:
            return kind.model_validate(value)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise FailedAttempt(f"sent a message whose {where} is wrong: {first['msg']}") from None

    def _refusal(self, status: int, message: str, code: str, wait: float) -> Exception:
        """The exception that stands for an answer other than 200."""
        if status in (401, 403):  # its words may hold a part of the key
            variable = self.server.key_variable
            key = f"the key in {variable}" if variable else "a request without a key: name its variable in key_variable"
            return InputError(f"{self._name} refuses {key} (status {status})")
        named = f" ({code})" if re.fullmatch(r"[a-z_]+", code) else ""
        said = f"{status}{named}: {self._shown(message)}"
        if status == 402 or code == "insufficient_quota":
            return RunError(f"{self._name} gives no more answers for this account: {said}")
        if status in PASSING or status >= 500:
            return FailedAttempt(said, status, wait)
        return InputError(f"{self._name} refuses the request: {said}")

    def _shown(self, text: str) -> str:
        text = " ".join(text.split())
        if self._key:
            text = text.replace(self._key, "***")
        return text if len(text) <= LONGEST_MESSAGE else text[:LONGEST_MESSAGE] + "..."

    @property
    def _name(self) -> str:
        return f"model server {self.server.host}"

    def close(self) -> None:
        """Close the connections and end the thread."""
        if not self.loop.is_closed():
            self.call(self._http.aclose())
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join()
            self.loop.close()


class Rows(Generic[T]):
    """Requests on their way and what became of them, each once. One that fails ends all: what had come is given out before
    its error is raised, the others are dropped."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended: queue.SimpleQueue[T | Exception] = queue.SimpleQueue()
        self._working = 0
        self._failure: Exception | None = None

    @property
    def hungry(self) -> bool:
        """Whether fewer requests are on their way than may be open."""
        return self._working < self._client.in_flight

    def add(self, works: Iterable[Callable[[], Awaitable[T]]]) -> None:
        """Begin more requests."""
        for work in works:
            self._working += 1
            self._client.loop.call_soon_threadsafe(self._start, work)

    def wait(self) -> list[T]:
        """Wait until at least one has ended, and return those that have; empty if none is on its way."""
        done: list[T] = []
        while self._failure is None and self._working and (not done or not self._ended.empty()):
            ended = self._ended.get()
            self._working -= 1
            if isinstance(ended, Exception):
                self._failure = ended
                self._client.call(self._cancel())
                done += [one for one in self._drained() if not isinstance(one, Exception)]
            else:
                done.append(ended)
        if self._failure is not None and not done:
            raise self._failure
        return done

    def close(self) -> None:
        """Drop what is on its way."""
        self._working = 0
        if not self._client.loop.is_closed():
            self._client.call(self._cancel())

    def _drained(self) -> Iterator[T | Exception]:
        while not self._ended.empty():
            yield self._ended.get()

    def _start(self, work: Callable[[], Awaitable[T]]) -> None:
        task = self._client.loop.create_task(self._run(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, work: Callable[[], Awaitable[T]]) -> None:
        try:
            self._ended.put(await work())
        except Exception as error:
            self._ended.put(error)

    async def _cancel(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def server_of(model: ModelRef) -> Server:
    """The server of ``model``. Raises InputError where it has none, or an adapter that the server does not have."""
    if model.server is None:
        raise InputError(f"model {model.alias!r} has no server in its registry entry")
    if model.adapter is not None:
        raise InputError(
            f"model {model.alias!r}: its adapter {model.adapter} is here, and the server {model.server.host} runs another "
            "model; serve the adapter there and name it in an entry of its own, or leave `server` out"
        )
    return model.server


def _key_of(server: Server) -> str:
    if server.key_variable is None:
        return ""
    key = os.environ.get(server.key_variable, "").strip()
    if not key or not key.isascii() or not key.isprintable():
        state = "holds characters that no key has" if key else "is not set"
        raise InputError(
            f"the environment variable {server.key_variable} {state}: it is to hold the key of {server.host}"
        )
    return key
