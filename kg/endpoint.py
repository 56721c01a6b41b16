"""A SPARQL endpoint over HTTP: questions in, whole answers out, or an error that says what to do.

What is not a complete SPARQL result is never taken for an empty one: a cut, empty or foreign body is a failure, tried
again and in the end reported. How a request travels is in :mod:`kg.transport`, how fast a host is asked in
:mod:`kg.pacing`. Text becomes SPARQL only through :func:`entity_values` and :func:`text_literal`.
"""

from __future__ import annotations

import hashlib
import ipaddress
import random
import re
import threading
import time
from collections.abc import Callable, Iterable, Sized
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar
from urllib.parse import urlsplit

from kg.pacing import LONGEST_WAIT, HostRefuses, Limits, gate_of
from kg.transport import FailedAttempt, Failure, Form, Traffic, Transport
from store.types import InputError, RunError

PREFIXES = """PREFIX wd: <http://www.wikidata.org/entity/>
PREFIX wdt: <http://www.wikidata.org/prop/direct/>
PREFIX rdfs: <http://www.w3.org/2000/01/rdf-schema#>
PREFIX xsd: <http://www.w3.org/2001/XMLSchema#>
"""

T = TypeVar("T")
Outcome = Literal["ok"] | Failure

_ID = re.compile(
    r"Q[1-9][0-9]{0,8}|P[1-9][0-9]{0,7}"
)  # Wikidata has some 10^8 items; ids are searched as 32-bit integers
_LANG = re.compile(r"[a-zA-Z]+(-[a-zA-Z0-9]+)*")
_CONTACT = re.compile(r"[^\s@]+@[^\s@]+\.[^\s@]+|https?://[^\s]+")
_UNFIT = re.compile(r"[\x00\ud800-\udfff]")
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}
_SPECIAL = re.compile(r'\\[uU]?|["\x01-\x1f\x7f-\x9f]')


class Term(NamedTuple):
    """One value of a result row. ``datatype`` and ``lang`` are set for literals that carry them."""

    value: str
    kind: Literal["uri", "literal", "bnode"]
    datatype: str | None = None
    lang: str | None = None


class RequestRecord(NamedTuple):
    """What one call of an endpoint has cost, failed ones too.

    ``query_hash``: 16 hex digits of the query's sha256. ``outcome``: "ok", or how the last attempt failed (see
    :class:`kg.transport.FailedAttempt`); ``status``: its HTTP status, None without any answer. ``bytes`` are counted on
    the wire over all attempts. ``seconds``: wall time of the call; ``waited``: those of them in which nothing was under
    way (at the gate, for a Retry-After, between attempts). ``rows`` of the answer; an ASK has 1.
    """

    query_hash: str
    started_at: datetime
    outcome: Outcome
    status: int | None
    attempts: int
    bytes: int
    seconds: float
    waited: float
    rows: int


class QueryTooHeavy(RunError):
    """The query takes too long or is too large, as far as one can tell from outside: a smaller one may pass."""


def entity_values(ids: Iterable[str], variable: str = "s") -> str:
    """``VALUES ?s { wd:Q1 wd:P31 }`` for the distinct ids, in order; needs the ``wd:`` prefix of :data:`PREFIXES`.

    Raises InputError for anything that is not a Q or P id, so that no text from a dataset ever becomes SPARQL.
    """
    return f"VALUES ?{variable} {{ {' '.join(f'wd:{valid_id(one)}' for one in dict.fromkeys(ids))} }}"


def valid_id(one: str) -> str:
    """The id itself. Raises InputError if it is no Wikidata item (Q42) or property (P31)."""
    if not _ID.fullmatch(one):
        raise InputError(f"entity id {one!r} is not a Wikidata id: give an item like Q42 or a property like P31")
    return one


def text_literal(text: str, lang: str | None = None) -> str:
    """A SPARQL string literal that reads as exactly this text, whatever it holds: ``"Wien"@de``.

    Raises InputError for text that no RDF literal holds (NUL, or half of a surrogate pair) and for a malformed ``lang``.
    """
    if _UNFIT.search(text):
        shown = f"{text[:60]}..." if len(text) > 60 else text
        raise InputError(f"text {shown!r} holds NUL or half a surrogate pair: mend the file or encoding it comes from")
    if lang is not None and not _LANG.fullmatch(lang):
        raise InputError(f"lang {lang!r} is no language tag: give one like en or zh-hant")
    return f'"{_SPECIAL.sub(_escaped, text)}"' + (f"@{lang}" if lang is not None else "")


def _escaped(match: re.Match[str]) -> str:
    found = match[0]
    if found in ("\\", '"'):
        return f"\\{found}"
    # SPARQL reads \u0041 before it parses, some engines even behind an escaped backslash: such a u is escaped itself.
    return ("\\\\" if found[0] == "\\" else "") + _SHORT.get(found, f"\\u{ord(found[-1]):04X}")


class Endpoint:
    """A SPARQL 1.1 query endpoint. One instance may be used by several threads.

    ``snapshot`` names the content behind the URL (a hash, or the date of a dump); it is kept for cache keys, never
    sent. ``timeout`` is the deadline of one attempt in seconds, from connecting to the last byte; ``attempts`` counts
    all tries. ``user_agent`` must hold a contact for any host but this machine: public endpoints ask for it, and may
    answer a client without one with an empty 200. ``limits`` are for the host, and ``shared`` is the folder through
    which processes keep to them together (see :func:`kg.pacing.gate_of` for both, and their defaults).
    ``on_request`` is given a record of each call, in the thread that made it; what it raises, the call raises.
    ``requests`` and ``bytes`` (on the wire) count what was sent and read so far. Raises InputError for a URL, user
    agent or number that cannot work.
    """

    def __init__(
        self,
        url: str,
        *,
        snapshot: str,
        user_agent: str | None = None,
        timeout: float = 60,
        attempts: int = 4,
        limits: Limits | None = None,
        shared: Path | None = None,
        on_request: Callable[[RequestRecord], None] | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        host = _host(url)
        public = not _is_loopback(host)
        if attempts < 1 or not 0 < timeout <= 86_400:
            raise InputError(
                f"attempts ({attempts}) must be above 0, timeout ({timeout}) too, and at most 86400 seconds"
            )
        self.url, self.snapshot, self.timeout, self.attempts = url, snapshot, float(timeout), attempts
        self.user_agent = _agent(user_agent, host if public else None)
        self.requests = 0
        self.bytes = 0
        self._sleep, self._on_request = sleep, on_request
        self._counting = threading.Lock()
        self._gate = gate_of(urlsplit(url).netloc.lower(), public, limits, shared)
        self._transport = Transport(url, self.user_agent, self.timeout, self._gate.limits.in_flight)

    def select(self, query: str) -> list[dict[str, Term]]:
        """Rows of a SELECT query, each with the variables that are bound in it.

        Raises QueryTooHeavy if the query ran past the deadline or its answer stayed cut, RunError if the endpoint
        cannot be reached, refuses this client (403) or the query (400), or still fails after the last attempt;
        InputError for a query that is no valid Unicode.
        """
        return self._asked(query, "SELECT", _rows)

    def ask(self, query: str) -> bool:
        """The answer to an ASK query. Raises as :meth:`select` does."""
        return self._asked(query, "ASK", _truth)

    def _asked(self, query: str, form: Form, read: Callable[[Any], T]) -> T:
        call = _Call(query, form)
        try:
            result = self._tried(call, read)
        except RunError:
            self._report(call, 0)
            raise
        call.outcome = "ok"
        self._report(call, len(result) if isinstance(result, Sized) else 1)
        return result

    def _tried(self, call: _Call, read: Callable[[Any], T]) -> T:
        late = 0
        for attempt in range(1, self.attempts + 1):
            try:
                return self._attempt(call, read)
            except HostRefuses:
                call.outcome = "refused"
                raise
            except FailedAttempt as failure:
                call.outcome = failure.kind
                late += failure.kind == "late"
                # What ran into a time limit twice will do so again: a smaller query helps, a third attempt does not.
                if failure.final or attempt == self.attempts or late == 2:
                    raise self._given_up(failure, attempt) from failure
                self._back_off(failure, attempt, call)
        raise AssertionError("the last attempt returns or raises")

    def _attempt(self, call: _Call, read: Callable[[Any], T]) -> T:
        with self._gate.entered(self._sleep, self.user_agent) as waited:
            call.waited += waited
            before = call.traffic.bytes
            try:
                answer = self._transport.wrapper(call.query, call.form, call.traffic).query()
            except FailedAttempt as failure:
                # Before the place at the gate is given up, so that no other thread slips through.
                if failure.wait:
                    self._gate.hold(failure.wait)
                if failure.kind == "refused":
                    self._gate.refuse(self.user_agent, self._refusal(failure))
                raise
            finally:
                with self._counting:
                    self.requests += 1
                    self.bytes += call.traffic.bytes - before
        try:
            return read(answer.convert())
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            body = answer.response.body
            reason = f"the answer of {len(body)} bytes is no whole SPARQL result ({error!r})"
            # A server that runs out of time while it sends can only write so into the answer.
            raise FailedAttempt("late" if b"TimeoutException" in body[-20_000:] else "cut", reason) from error

    def _refusal(self, failure: FailedAttempt) -> str:
        return (
            f"{self.url} refuses this client: {failure}. It is not asked again. Check that user_agent names you; "
            "after too many throttled requests the Wikidata Query Service bans for a day: run again tomorrow."
        )

    def _given_up(self, failure: FailedAttempt, attempts: int) -> RunError:
        tries = f"after {attempts} attempt{'s' if attempts > 1 else ''}"
        if failure.kind == "refused":
            return HostRefuses(self._refusal(failure))
        if failure.kind == "rejected":
            return RunError(f"{self.url}: {failure}")
        if failure.kind == "unreached":
            return RunError(
                f"cannot reach {self.url} {tries}: {failure}. Check the URL, the network, and that it runs."
            )
        if failure.kind == "passing":
            return RunError(f"{self.url}: {failure}, {tries}. Check the endpoint's status page or log, then run again.")
        return QueryTooHeavy(f"{self.url}: {failure}, {tries}. Ask for less at once, or allow a longer timeout.")

    def _back_off(self, failure: FailedAttempt, attempt: int, call: _Call) -> None:
        if not failure.wait:
            start, pause = time.monotonic(), min(0.5 * 2 ** (attempt - 1), 30.0)
            self._sleep(pause * random.SystemRandom().uniform(0.75, 1.5))
            call.waited += time.monotonic() - start
        elif failure.wait > LONGEST_WAIT:
            raise RunError(f"{self.url} asks to wait {failure.wait:.0f} s ({failure}). Run again after that time.")

    def _report(self, call: _Call, rows: int) -> None:
        if self._on_request is not None:
            self._on_request(call.record(rows))


class _Call:
    """What is noted while one call is under way."""

    def __init__(self, query: str, form: Form) -> None:
        self.query, self.form = query, form
        try:
            self._hash = hashlib.sha256(query.encode()).hexdigest()[:16]
        except UnicodeEncodeError as error:
            raise InputError(f"the query {query[:80]!r} holds half a surrogate pair: use text_literal") from error
        self._started_at, self._start = datetime.now(UTC), time.monotonic()
        self.traffic, self.waited = Traffic(), 0.0
        self.outcome: Outcome = "passing"

    def record(self, rows: int) -> RequestRecord:
        traffic, seconds = self.traffic, time.monotonic() - self._start
        counts = traffic.status, traffic.attempts, traffic.bytes
        return RequestRecord(self._hash, self._started_at, self.outcome, *counts, seconds, self.waited, rows)


def _rows(result: Any) -> list[dict[str, Term]]:
    """Rows of a SPARQL JSON result. Raises KeyError, TypeError or AttributeError if it is not one."""
    if not isinstance(result["head"], dict) or not isinstance(result["results"]["bindings"], list):
        raise TypeError("head or bindings have another shape")
    return [{name: _term(cell) for name, cell in row.items()} for row in result["results"]["bindings"]]


def _truth(result: Any) -> bool:
    """The answer of a SPARQL JSON result to an ASK. Raises KeyError or TypeError if it is not one."""
    answer = result["boolean"]
    if not isinstance(answer, bool):
        raise TypeError("boolean has another shape")
    return answer


def _term(cell: dict[str, str]) -> Term:
    if cell["type"] == "uri":
        return Term(cell["value"], "uri")
    if cell["type"] == "bnode":
        return Term(cell["value"], "bnode")
    return Term(cell["value"], "literal", cell.get("datatype"), cell.get("xml:lang"))


def is_local(url: str) -> bool:
    """Whether the URL is of this machine, to which a public host's limits do not apply. Raises InputError for no URL."""
    return _is_loopback(_host(url))


def _host(url: str) -> str:
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname, parts.port
    except ValueError as error:
        raise InputError(
            f"url {url!r} is not a URL ({error}): give one like https://query.wikidata.org/sparql"
        ) from error
    if parts.scheme not in ("http", "https") or not host or re.search(r"\s", url):
        raise InputError(f"url {url!r} is no http or https URL: give one like https://query.wikidata.org/sparql")
    if parts.username is not None:
        raise InputError("url holds a user name or password, which would land in logs: remove it")
    return host


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _agent(user_agent: str | None, public_host: str | None) -> str:
    agent = user_agent or "factscale"
    if not agent.isascii() or not agent.isprintable():
        raise InputError(f"user_agent {agent!r} holds line breaks or characters beyond ASCII: HTTP cannot send them")
    if public_host is not None and not _CONTACT.search(agent):
        lack = "is missing" if user_agent is None else f"{user_agent!r} names no contact"
        raise InputError(
            f"user_agent {lack}, which {public_host} requires: "
            "set user_agent to something like 'my-study/1.0 (me@example.org)'"
        )
    return agent
