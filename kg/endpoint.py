"""A SPARQL endpoint over HTTP: SPARQLWrapper's request building and result conversion on another transport.

SPARQLWrapper 2.0.0 has no retries, no Retry-After, no connection reuse, no gzip and a time-out that counts each socket
read anew. Only its transport is replaced here (:class:`_Wrapper`). What is not a complete SPARQL result is never taken
for an empty one: a cut, empty or foreign body is a failure, tried again and in the end reported.
"""

from __future__ import annotations

import ipaddress
import random
import re
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit
from urllib.request import Request

import urllib3
from SPARQLWrapper import JSON, POST
from SPARQLWrapper.Wrapper import SPARQLWrapper

from kg.pacing import gate_of, retry_after
from store.types import InputError, RunError

PREFIXES = """PREFIX wd: <http://www.wikidata.org/entity/>
PREFIX wdt: <http://www.wikidata.org/prop/direct/>
PREFIX rdfs: <http://www.w3.org/2000/01/rdf-schema#>
PREFIX xsd: <http://www.w3.org/2001/XMLSchema#>
"""

RETRIED = frozenset({429, 500, 502, 503, 504})
LONGEST_WAIT = 900.0  # seconds of Retry-After that are waited for; asked to wait longer, the run stops and says so

_ID = re.compile(r"[QP][1-9][0-9]*")
_CONTACT = re.compile(r"[^\s@]+@[^\s@]+\.[^\s@]+|https?://[^\s]+")
_TIMED_OUT = re.compile(rb"time[d -]*out|TimeoutException|QueryTimeout|cancell?ed", re.IGNORECASE)


class Term(NamedTuple):
    """One value of a result row. ``datatype`` and ``lang`` are set for literals that carry them."""

    value: str
    kind: Literal["uri", "literal", "bnode"]
    datatype: str | None = None
    lang: str | None = None


class QueryTooHeavy(RunError):
    """The query takes too long or is too large, as far as one can tell from outside: a smaller one may pass."""


class _FailedAttempt(Exception):
    """One attempt failed in a way that may pass. ``wait`` is what the server asked for, in seconds.

    ``late`` is an attempt that ran into a time limit, ``cut`` a 200 whose body is not whole, ``unreached`` one without
    any connection; all else (an overloaded server, a throttled client, a broken connection) is ``passing``.
    """

    def __init__(self, kind: Literal["late", "cut", "unreached", "passing"], reason: str, wait: float | None = None):
        super().__init__(reason)
        self.kind, self.wait = kind, wait


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


class Endpoint:
    """A SPARQL 1.1 query endpoint. One instance may be used by several threads.

    ``snapshot`` names the content behind the URL (a hash, or the date of a dump); it is kept for cache keys, never
    sent. ``timeout`` is the deadline of one attempt in seconds, from connecting to the last byte; ``attempts`` counts
    all tries. ``user_agent`` must hold a contact for any host but this machine: public endpoints ask for it, and may
    answer a client without one with an empty 200. ``requests`` and ``bytes`` (on the wire) count what was sent and
    read so far. Raises InputError for a URL, user agent or limit that cannot work.
    """

    def __init__(
        self,
        url: str,
        *,
        snapshot: str,
        user_agent: str | None = None,
        timeout: float = 60,
        attempts: int = 4,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        host = _host(url)
        public = not _is_loopback(host)
        if attempts < 1 or timeout <= 0:
            raise InputError(f"attempts ({attempts}) and timeout ({timeout}) of an endpoint must be above 0")
        self.url, self.snapshot, self.timeout, self.attempts = url, snapshot, float(timeout), attempts
        self.user_agent = _agent(user_agent, host if public else None)
        self.requests = 0
        self.bytes = 0
        self._sleep = sleep
        self._counting = threading.Lock()
        self._gate = gate_of(urlsplit(url).netloc.lower(), public)
        self._pool = urllib3.PoolManager(maxsize=8)

    def select(self, query: str) -> list[dict[str, Term]]:
        """Rows of a SELECT query, each with the variables that are bound in it.

        Raises QueryTooHeavy if the query ran past the deadline or its answer stayed cut, RunError if the endpoint
        cannot be reached, refuses this client (403) or the query (400), or still fails after the last attempt.
        """
        late = 0
        for attempt in range(1, self.attempts + 1):
            try:
                return self._attempt(query)
            except _FailedAttempt as failure:
                late += failure.kind == "late"
                # What ran into a time limit twice will do so again: a smaller query helps, a third attempt does not.
                if attempt == self.attempts or late == 2:
                    raise self._given_up(failure, attempt) from failure
                self._back_off(failure, attempt)
        raise AssertionError("the last attempt returns or raises")

    def _attempt(self, query: str) -> list[dict[str, Term]]:
        with self._gate.entered(self._sleep):
            answer = self._wrapper(query).query()
        try:
            return _rows(answer.convert())
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            size = len(answer.response.body)
            raise _FailedAttempt("cut", f"the answer of {size} bytes is no whole SPARQL result ({error!r})") from error

    def _wrapper(self, query: str) -> _Wrapper:
        # A SPARQLWrapper is mutable, so that each request has its own.
        wrapper = _Wrapper(self)
        wrapper.setMethod(POST)
        wrapper.setReturnFormat(JSON)
        wrapper.setOnlyConneg(True)
        wrapper.setQuery(query)
        return wrapper

    def _given_up(self, failure: _FailedAttempt, attempts: int) -> RunError:
        tries = f"after {attempts} attempt{'s' if attempts > 1 else ''}"
        if failure.kind == "unreached":
            return RunError(
                f"cannot reach {self.url} {tries}: {failure}. Check the URL, the network, and that it runs."
            )
        if failure.kind == "passing":
            return RunError(f"{self.url}: {failure}, {tries}. Check the endpoint's status page or log, then run again.")
        return QueryTooHeavy(f"{self.url}: {failure}, {tries}. Ask for less at once, or allow a longer timeout.")

    def _back_off(self, failure: _FailedAttempt, attempt: int) -> None:
        if failure.wait is None:
            pause = min(0.5 * 2 ** (attempt - 1), 30.0)
            self._sleep(pause * random.SystemRandom().uniform(0.75, 1.5))
        elif failure.wait > LONGEST_WAIT:
            raise RunError(f"{self.url} asks to wait {failure.wait:.0f} s ({failure}). Run again after that time.")
        else:
            # Held at the gate, so that the other threads wait as well; the next attempt passes the same gate.
            self._gate.hold(failure.wait)

    def send(self, request: Request) -> _Response:
        """One attempt: post the request, read the whole answer before the deadline, and judge its status."""
        deadline = time.monotonic() + self.timeout
        with self._counting:
            self.requests += 1
        try:
            response = self._pool.urlopen(
                "POST",
                self.url,
                body=request.data,
                headers={**dict(request.header_items()), "Accept-Encoding": "gzip"},
                timeout=urllib3.Timeout(total=self.timeout),
                preload_content=False,
                retries=False,
                redirect=False,
            )
            body = self._read(response, deadline)
        except (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError) as error:
            raise _FailedAttempt("unreached", _short(error)) from error
        except (urllib3.exceptions.ReadTimeoutError, TimeoutError) as error:
            raise _FailedAttempt("late", f"no complete answer within {self.timeout:g} s") from error
        except urllib3.exceptions.HTTPError as error:
            raise _FailedAttempt("passing", f"the connection broke ({_short(error)})") from error
        self._judge(response, body)
        return _Response(self.url, {name.lower(): value for name, value in response.headers.items()}, body)

    def _read(self, response: urllib3.BaseHTTPResponse, deadline: float) -> bytes:
        """The decoded body. A server that drips would stay below a time-out for each read for ever, so time is kept."""
        chunks: list[bytes] = []
        try:
            while True:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise TimeoutError("past the deadline")
                if (sock := getattr(response.connection, "sock", None)) is not None:
                    sock.settimeout(remaining)
                chunk = response.read1(1 << 16)
                if not chunk:
                    response.release_conn()
                    return b"".join(chunks)
                chunks.append(chunk)
        except BaseException:
            response.close()  # what is left unread would be taken for the next answer on this connection
            raise
        finally:
            with self._counting:
                self.bytes += response.tell()

    def _judge(self, response: urllib3.BaseHTTPResponse, body: bytes) -> None:
        status = response.status
        if status == 200:
            return
        said = f"HTTP {status} ({body[:200].decode(errors='replace').strip() or response.reason or 'no reason given'})"
        if status == 403:
            raise RunError(
                f"{self.url} refuses this client: {said}. It is not asked again. Check that user_agent names you; "
                "after too many throttled requests the Wikidata Query Service bans for a day: run again tomorrow."
            )
        if status in (413, 414) or (status == 400 and _TIMED_OUT.search(body)):
            raise QueryTooHeavy(f"{self.url} refuses the query for its size or time: {said}. Ask for less at once.")
        if status in RETRIED:
            late = status == 504 or (status == 500 and _TIMED_OUT.search(body))
            raise _FailedAttempt("late" if late else "passing", said, retry_after(response.headers.get("Retry-After")))
        if status == 400:
            raise RunError(
                f"{self.url} does not understand the query: {said}. This is a bug of ours, or no SPARQL 1.1."
            )
        if 300 <= status < 400:
            raise RunError(
                f"{self.url} has moved to {response.headers.get('Location')}: use that as the endpoint's url."
            )
        raise RunError(f"{self.url}: {said}. Check that the url is the query address of a SPARQL endpoint.")


class _Wrapper(SPARQLWrapper):  # type: ignore[misc]  # the package's own types are not followed
    """SPARQLWrapper with its transport replaced."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint.url, agent=endpoint.user_agent)
        self._transport = endpoint

    def _query(self) -> tuple[_Response, str]:
        response = self._transport.send(self._createRequest())
        kind = response.headers.get("content-type", "")
        # SPARQLWrapper warns about any other content and hands it on raw.
        if "json" not in kind.lower():
            size = len(response.body)
            raise _FailedAttempt("cut", f"the answer of {size} bytes is no SPARQL JSON but {kind or 'of unknown type'}")
        return response, self.returnFormat


class _Response(NamedTuple):
    """A complete answer in the shape that SPARQLWrapper's conversion reads. Header names are in lower case."""

    url: str
    headers: dict[str, str]
    body: bytes

    def info(self) -> dict[str, str]:
        """Headers; conversion goes by the content type."""
        return self.headers

    def read(self) -> bytes:
        """The decoded body."""
        return self.body


def _rows(result: Any) -> list[dict[str, Term]]:
    """Rows of a SPARQL JSON result. Raises KeyError, TypeError or AttributeError if it is not one."""
    if not isinstance(result["head"], dict) or not isinstance(result["results"]["bindings"], list):
        raise TypeError("head or bindings have another shape")
    return [{name: _term(cell) for name, cell in row.items()} for row in result["results"]["bindings"]]


def _term(cell: dict[str, str]) -> Term:
    if cell["type"] == "uri":
        return Term(cell["value"], "uri")
    if cell["type"] == "bnode":
        return Term(cell["value"], "bnode")
    return Term(cell["value"], "literal", cell.get("datatype"), cell.get("xml:lang"))


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
        raise InputError(
            f"user_agent {user_agent!r} names no contact, which {public_host} requires: "
            "set user_agent to something like 'my-study/1.0 (me@example.org)'"
        )
    return agent


def _short(error: Exception) -> str:
    return re.sub(r"^.*?>?: ", "", str(error), count=1)[:200]
