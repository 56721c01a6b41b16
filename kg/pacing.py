"""How fast a host may be asked: what keeps this process polite towards a public endpoint.

The limits are of this process and host. Processes that share a host each keep to them, so that a study with several
retrieval workers at a public endpoint should run one of them.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


class Gate:
    """What every request to one host passes, shared by all endpoints of this process at that host.

    ``in_flight`` bounds the requests under way; a token bucket (``burst`` at once, then ``rate`` a second) spaces them;
    and :meth:`hold` makes everybody wait.
    """

    def __init__(self, in_flight: int, rate: float, burst: int) -> None:
        self._slots = threading.BoundedSemaphore(in_flight)
        self._lock = threading.Lock()
        self._rate, self._burst, self._tokens = rate, float(burst), float(burst)
        self._filled = time.monotonic()
        self._closed_until = 0.0

    @contextmanager
    def entered(self, sleep: Callable[[float], None]) -> Iterator[None]:
        """Take a slot for the block, after waiting for a token and for the end of any hold."""
        with self._slots:
            opens, waited = self._reserve(), 0.0
            while True:
                with self._lock:
                    opens = max(opens, self._closed_until)
                if opens <= waited or (pause := opens - time.monotonic()) <= 0:
                    break
                sleep(pause)
                waited = opens  # asked again only if a hold was made longer meanwhile
            yield

    def _reserve(self) -> float:
        """Take a token, also one that is yet to come. Returns the time from which it may be used."""
        with self._lock:
            now = time.monotonic()
            self._tokens = min(self._burst, self._tokens + (now - self._filled) * self._rate) - 1
            self._filled = now
            return now + max(0.0, -self._tokens / self._rate)

    def hold(self, seconds: float) -> None:
        """Let nobody pass for this long: what a server's Retry-After asks for."""
        with self._lock:
            self._closed_until = max(self._closed_until, time.monotonic() + seconds)


_GATES: dict[str, Gate] = {}
_GATES_LOCK = threading.Lock()


def gate_of(host: str, public: bool) -> Gate:
    """The gate of a host and port. A public one lets 2 in flight, 4 at once and then 2 a second; a local one any."""
    with _GATES_LOCK:
        if host not in _GATES:
            _GATES[host] = Gate(2, 2.0, 4) if public else Gate(64, 1e6, 1000)
        return _GATES[host]


def retry_after(value: str | None) -> float | None:
    """Seconds that a Retry-After header asks for: a number or an HTTP date (RFC 9110, 10.2.3). None if unreadable."""
    if value is None:
        return None
    if re.fullmatch(r"\s*\d+(\.\d+)?\s*", value):
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
