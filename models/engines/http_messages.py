"""What servers send, taken apart: event streams, errors in their several forms, Retry-After."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx


class FailedAttempt(Exception):
    """One attempt that failed in a way that may pass. ``wait``: seconds for which the server asked not to be asked."""

    def __init__(self, message: str, status: int = 0, wait: float = 0.0) -> None:
        super().__init__(message)
        self.status, self.wait = status, wait


class EventSplitter:
    """Server-sent events out of pieces of bytes: the data of each. An event that never ended is not one.

    Lines end at line feeds alone: JSON may hold other characters that Python's ``splitlines`` takes for line ends.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._lines: list[str] = []

    def feed(self, piece: bytes) -> list[str]:
        """The data of the events that ``piece`` brings to their end."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        found = []
        for line in lines:
            text = line.decode(errors="replace").removesuffix("\r")
            if text.startswith("data:"):
                self._lines.append(text.removeprefix("data:").removeprefix(" "))
            elif not text and self._lines:
                found.append("\n".join(self._lines))
                self._lines = []
        return found


def json_object(text: str) -> dict[str, Any]:
    """The JSON object that ``text`` is. Raises FailedAttempt for anything else."""
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise FailedAttempt("sent malformed JSON")
    return value


def error_of(body: str) -> tuple[str, str]:
    """The words and the code of an error, in whichever of the usual forms it comes."""
    with contextlib.suppress(ValueError):
        value = json.loads(body)
        if isinstance(value, dict):
            error = value.get("error") or value
            if isinstance(error, dict):
                message = error.get("message") or error.get("detail") or body
                codes = [str(error.get(name)) for name in ("code", "type")]
                return str(message), "insufficient_quota" if "insufficient_quota" in codes else codes[0]
            return str(error), ""
    return body or "no reason given", ""


def seconds_of(retry_after: str | None) -> float:
    """What a Retry-After header asks for: a number of seconds, or a date."""
    if not retry_after:
        return 0.0
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        until = parsedate_to_datetime(retry_after)
    except ValueError:
        return 0.0
    return max(0.0, (until.replace(tzinfo=until.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def words_of(error: httpx.RequestError) -> str:
    """What went wrong with a connection."""
    said = str(error) or type(error).__name__
    if isinstance(error, httpx.TimeoutException):
        return f"did not answer in time ({said})"
    return f"cannot be reached ({said})" if isinstance(error, httpx.ConnectError) else f"the connection broke ({said})"
