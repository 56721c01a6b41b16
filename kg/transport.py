"""How a SPARQL request travels: one HTTP attempt to an endpoint, judged, under SPARQLWrapper's own surface.

SPARQLWrapper 2.0.0 reuses no connection, cannot read gzip, and its time-out counts each socket read anew. Its request
building and result conversion are kept; :class:`Transport` replaces what lies between. An attempt gives a whole answer of
status 200, or a :class:`FailedAttempt` that says what kind of failure it was.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal, NamedTuple, cast
from urllib.parse import urlsplit
from urllib.request import Request

import urllib3
from SPARQLWrapper import JSON, POST
from SPARQLWrapper.Wrapper import SPARQLWrapper
from urllib3.connection import HTTPConnection, HTTPSConnection

from kg.pacing import retry_after

RETRIED = frozenset({408, 429, 500, 502, 503, 504})
TOO_LARGE = frozenset({413, 414})

Form = Literal["SELECT", "ASK"]
Failure = Literal["late", "cut", "unreached", "passing", "refused", "rejected"]

_TIMED_OUT = re.compile(rb"time[d -]*out|TimeoutException|QueryTimeout|cancell?ed", re.IGNORECASE)


class FailedAttempt(Exception):
    """One attempt without a whole answer. The message is for people; ``wait`` is what the server asked for, in seconds.

    ``late``: the query ran into a limit of time or size. ``cut``: a 200 whose body is not whole. ``unreached``: no
    connection. ``passing``: an overloaded server, a throttled client, a broken connection. ``refused``: 403.
    ``rejected``: any other status, which another attempt would get as well. ``final`` if no other attempt makes sense.
    """

    def __init__(self, kind: Failure, reason: str, wait: float | None = None, *, final: bool = False) -> None:
        super().__init__(reason)
        self.kind, self.wait = kind, wait
        self.final = final or kind in ("refused", "rejected")


class Traffic:
    """What one call has sent and read so far: attempts, bytes on the wire, and the last attempt's status, if any."""

    def __init__(self) -> None:
        self.attempts = 0
        self.bytes = 0
        self.status: int | None = None


class Response(NamedTuple):
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


class Transport:
    """A pool of connections to one URL. ``timeout`` is the deadline of an attempt in seconds, to the last byte."""

    def __init__(self, url: str, agent: str, timeout: float, connections: int) -> None:
        self._url, self._agent, self._timeout = url, agent, timeout
        self._target = urllib3.util.parse_url(url).request_uri
        self._pool = urllib3.connection_from_url(url, maxsize=connections)
        self._pool.ConnectionCls = _SecureConnection if urlsplit(url).scheme == "https" else _Connection

    def wrapper(self, query: str, form: Form, traffic: Traffic) -> SPARQLWrapper:
        """A SPARQLWrapper for one attempt at one query (it is mutable, so that none is shared)."""
        wrapper = _Wrapper(self._url, self._agent, lambda request: self._send(request, traffic))
        wrapper.setMethod(POST)
        wrapper.setReturnFormat(JSON)
        wrapper.setOnlyConneg(True)
        # Not by setQuery, which guesses the form from words in the text, and would send an update as one.
        wrapper.queryString, wrapper.queryType = query, form
        return wrapper

    def _send(self, request: Request, traffic: Traffic) -> Response:
        """Post the request, read the whole answer before the deadline, and judge it."""
        deadline = time.monotonic() + self._timeout
        traffic.attempts, traffic.status = traffic.attempts + 1, None
        try:
            response = self._pool.urlopen(
                "POST",
                self._target,
                body=cast(bytes, request.data),
                headers={**dict(request.header_items()), "Accept-Encoding": "gzip"},
                timeout=urllib3.Timeout(total=self._timeout),
                preload_content=False,
                retries=False,
                redirect=False,
            )
            traffic.status = response.status
            body = self._read(response, deadline, traffic)
        except (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError) as error:
            raise FailedAttempt("unreached", _short(error)) from error
        except (urllib3.exceptions.HTTPError, TimeoutError) as error:
            if isinstance(error, urllib3.exceptions.ReadTimeoutError | TimeoutError) or time.monotonic() >= deadline:
                raise FailedAttempt("late", f"no complete answer within {self._timeout:g} s") from error
            # A server that runs into its own time limit while it sends can only break off.
            kind: Failure = "cut" if traffic.status == 200 else "passing"
            raise FailedAttempt(kind, f"the connection broke ({_short(error)})") from error
        _judge(response, body)
        return Response(self._url, {name.lower(): value for name, value in response.headers.items()}, body)

    def _read(self, response: urllib3.BaseHTTPResponse, deadline: float, traffic: Traffic) -> bytes:
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
            traffic.bytes += response.tell()


def _judge(response: urllib3.BaseHTTPResponse, body: bytes) -> None:
    status, headers = response.status, response.headers
    said = f"HTTP {status} ({body[:200].decode(errors='replace').strip() or response.reason or 'no reason given'})"
    if status == 206 or "x-sql-state" in headers:
        raise FailedAttempt("late", f"{said}: only a part of the answer")  # Virtuoso, at its own time limit
    if status == 200:
        return
    wait = retry_after(headers.get("Retry-After"))
    if status == 403:
        raise FailedAttempt("refused", said, wait)
    if status in TOO_LARGE or (status == 400 and _TIMED_OUT.search(body)):
        raise FailedAttempt("late", f"the query is refused for its size or time: {said}", final=True)
    if status in RETRIED:
        late = status == 504 or (status == 500 and _TIMED_OUT.search(body))
        raise FailedAttempt("late" if late else "passing", said, wait)
    if status == 400:
        raise FailedAttempt("rejected", f"{said}. The query is not understood: a bug of ours, or no SPARQL 1.1 there.")
    if 300 <= status < 400:
        raise FailedAttempt("rejected", f"it has moved to {headers.get('Location')}: use that as the endpoint's url.")
    raise FailedAttempt("rejected", f"{said}. Check that the url is the query address of a SPARQL endpoint.")


class _Deadline:
    """A connection whose answer's head has to come before the time-out as a whole, not each byte of it."""

    sock: socket.socket | None
    timeout: float | None

    def getresponse(self) -> Any:
        """See :class:`http.client.HTTPConnection`. The socket is shut at the end of the time, which ends any read."""
        ending = threading.Timer(self.timeout or 0.0, _shut, [self.sock])
        ending.daemon = True
        ending.start()
        try:
            return super().getresponse()  # type: ignore[misc]  # of the connection that this is mixed into
        finally:
            ending.cancel()


class _Connection(_Deadline, HTTPConnection):
    pass


class _SecureConnection(_Deadline, HTTPSConnection):
    pass


def _shut(sock: socket.socket) -> None:
    with suppress(OSError):  # closed meanwhile
        # Of the plain socket: a TLS socket would first drop what the reading thread still uses.
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


class _Wrapper(SPARQLWrapper):  # type: ignore[misc]  # the package's own types are not followed
    """SPARQLWrapper with its transport replaced."""

    def __init__(self, url: str, agent: str, send: Callable[[Request], Response]) -> None:
        super().__init__(url, agent=agent)
        self._send = send

    def _query(self) -> tuple[Response, str]:
        response = self._send(self._createRequest())
        kind = response.headers.get("content-type", "")
        # SPARQLWrapper warns about any other content and hands it on raw.
        if "json" not in kind.lower():
            size = len(response.body)
            raise FailedAttempt("cut", f"the answer of {size} bytes is no SPARQL JSON but {kind or 'of unknown type'}")
        return response, self.returnFormat


def _short(error: Exception) -> str:
    return re.sub(r"^.*?>?: ", "", str(error), count=1)[:200]
